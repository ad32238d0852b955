//! AdmissionReview: what a webhook is asked, and what its answer means. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Operation, Request};
use crate::error::{ApiError, Reason};
use crate::webhook::{go_kind, json_object};

/// The `request` part of a review.
pub(super) fn request(request: &Request, version: &str, uid: &str) -> Value {
    let kind = |version: &str| json!({"group": request.kind_group, "version": version, "kind": request.kind});
    let resource =
        |version: &str| json!({"group": request.group, "version": version, "resource": request.resource});
    // A subresource's own kind (Eviction, Scale) has a version of its own, which other versions of the resource share.
    let own = |version: &str| {
        if request.kind_version == request.version { kind(version) } else { kind(&request.kind_version) }
    };
    let mut all = json!({
        "uid": uid,
        "kind": own(version),
        "resource": resource(version),
        "requestKind": own(&request.version),
        "requestResource": resource(&request.version),
        "operation": request.operation.name(),
        "userInfo": {"username": request.user, "groups": request.groups},
        "object": request.object,
        "oldObject": request.old_object,
        "dryRun": request.dry_run,
        "options": request.options,
    });
    for (field, value) in [
        ("subResource", &request.subresource),
        ("requestSubResource", &request.subresource),
        ("name", &request.name),
        ("namespace", &request.namespace),
    ] {
        if let (false, Some(map)) = (value.is_empty(), all.as_object_mut()) {
            map.insert(field.to_owned(), value.as_str().into());
        }
    }
    all
}

/// The version of AdmissionReview to speak, the first of the hook's that is known.
pub(super) fn review_version(webhook: &Value) -> Option<&str> {
    let versions = webhook.get("admissionReviewVersions").and_then(Value::as_array)?;
    versions.iter().filter_map(Value::as_str).find(|version| matches!(*version, "v1" | "v1beta1"))
}

/// The whole review.
pub(super) fn review(request: &Value, version: &str) -> Value {
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request})
}

/// A webhook's answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    pub(super) patch: Option<Value>,
    pub(super) status: Value,
    pub(super) warnings: Vec<String>,
}

/// Reads an answer; the error is why it is not one.
pub(super) fn answer(body: &[u8], version: &str, uid: &str, mutating: bool) -> Result<Answer, String> {
    let review = json_object(body).map_err(|error| format!("failed to call webhook: {error}"))?;
    check(&review, version, uid, mutating)
        .map_err(|error| format!("received invalid webhook response: {error}"))?;
    let response = review.get("response").unwrap_or(&Value::Null);
    let encoded = response.get("patch").and_then(Value::as_str).unwrap_or_default();
    let warnings = response.get("warnings").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let patch = patch(encoded)?;
    let patch_type = response.get("patchType").and_then(Value::as_str).unwrap_or("JSONPatch");
    if patch.is_some() && patch_type != "JSONPatch" {
        return Err(format!("unsupported patch type {patch_type:?}"));
    }
    Ok(Answer {
        allowed: response.get("allowed").and_then(Value::as_bool).unwrap_or_default(),
        patch,
        status: response.get("status").cloned().unwrap_or(Value::Null),
        warnings: warnings.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}

fn patch(encoded: &str) -> Result<Option<Value>, String> {
    if encoded.is_empty() {
        return Ok(None);
    }
    let undecodable =
        |error: &dyn std::fmt::Display| format!("received undecodable patch in webhook response: {error}");
    let bytes = STANDARD.decode(encoded).map_err(|error| undecodable(&error))?;
    let patch: Value = serde_json::from_slice(&bytes).map_err(|error| undecodable(&error))?;
    match patch.as_array() {
        None => Err(undecodable(&"json: cannot unmarshal object into Go value of type jsonpatch.Patch")),
        Some(operations) => Ok((!operations.is_empty()).then_some(patch)),
    }
}

fn check(review: &Value, version: &str, uid: &str, mutating: bool) -> Result<(), String> {
    let Some(response) = review.get("response").filter(|response| response.is_object()) else {
        return Err("webhook response was absent".to_owned());
    };
    if version != "v1" {
        return Ok(());
    }
    let text =
        |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    if text(response, "uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(response, "uid")));
    }
    let (wanted, got) = ("admission.k8s.io/v1, Kind=AdmissionReview", go_kind(review));
    if got != wanted {
        return Err(format!("expected webhook response of {wanted}, got {got}"));
    }
    let patched = !text(response, "patch").is_empty();
    let typed = response.get("patchType").is_some_and(|kind| !kind.is_null());
    match (mutating, patched, typed) {
        (true, true, false) => Err("webhook returned response.patch but not response.patchType".to_owned()),
        (true, false, true) => Err("webhook returned response.patchType but not response.patch".to_owned()),
        (true, true, true) if text(response, "patchType").is_empty() => {
            Err("webhook returned invalid response.patchType of \"\"".to_owned())
        }
        (false, true, _) => Err("validating webhook may not return response.patch".to_owned()),
        (false, false, true) => Err("validating webhook may not return response.patchType".to_owned()),
        _ => Ok(()),
    }
}

/// The error of a request that the webhook refuses with this status.
pub(super) fn denial(name: &str, status: &Value) -> ApiError {
    let text = |field: &str| status.get(field).and_then(Value::as_str).unwrap_or_default();
    let denied = format!("admission webhook {name:?} denied the request");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = status
        .get("code")
        .and_then(Value::as_u64)
        .and_then(|code| u16::try_from(code).ok())
        .unwrap_or_default();
    let mut error = ApiError::new(Reason::other(code.max(400), text("reason")), message);
    error.details = status.get("details").cloned().unwrap_or(Value::Null);
    error
}

/// The error of a request whose webhook could not be asked.
pub(super) fn failure(name: &str, why: &str) -> ApiError {
    ApiError::internal(format!("failed calling webhook {name:?}: {why}"))
}

/// The error of a dry run that the webhook would not know to be one.
pub(super) fn no_dry_run(name: &str) -> ApiError {
    ApiError::bad_request(format!("admission webhook {name:?} does not support dry run"))
}

/// The error of a patch where there is no object.
pub(super) fn nothing_to_patch(name: &str) -> ApiError {
    ApiError::internal(format!(
        "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
    ))
}

impl Operation {
    /// As rules and reviews write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}
