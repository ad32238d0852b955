//! PATCH: merge, JSON and strategic merge patches, and server-side apply.

use std::sync::Arc;

use http::StatusCode;
use kube::core::GroupVersionKind;
use serde_json::{Map, Value};

use super::answer::Answer;
use super::handler::Call;
use super::pipeline::{self, Rules};
use super::storage::{Stored, lock};
use super::write::{TRIES, change, check_name, check_namespace, create_object};
use super::{decode, owners, read};
use crate::error::{ApiError, FieldError, MODIFIED, Reason};
use crate::{object, patch};

/// PATCH of an object.
pub(crate) async fn patch(call: &Arc<Call>) -> Result<Answer, ApiError> {
    check_options(call)?;
    if decode::media_type(call) == APPLY {
        return apply(call).await;
    }
    let stored = patch_object(call).await?;
    read::answer(call, StatusCode::OK, stored).await
}

const APPLY: &str = "application/apply-patch+yaml";

fn check_options(call: &Call) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    if decode::media_type(call) == APPLY {
        if call.query.get("fieldManager").is_empty() {
            errors.push(FieldError::required("fieldManager", "is required for apply patch"));
        }
    } else if call.query.has("force") {
        errors.push(FieldError::forbidden("force", "may not be specified for non-apply patch"));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", &errors))
}

/// Server-side apply; an object that does not exist is created.
async fn apply(call: &Arc<Call>) -> Result<Answer, ApiError> {
    let body = decode::yaml_value(&call.body)
        .map_err(|why| ApiError::bad_request(format!("error decoding YAML: {why}")))?;
    let force = call.query.flag("force");
    let applied = |live: Option<&Value>| -> Result<Value, ApiError> {
        let mut new = owners::with_write(call, |write| patch::apply(write, live, &body, force))?;
        pipeline::decode_patched(call, &mut new, Form::Json, || body.to_string())?;
        check_name(call, &new)?;
        check_namespace(call, &new)?;
        Ok(new)
    };
    for _ in 0..TRIES {
        let exists = lock(&call.server.0.store).get(&call.table, &call.key()).is_some();
        if exists {
            match change(call, Rules::Applied(call.subresource()), |old| applied(Some(old))).await {
                Err(error) if error.reason == Reason::NotFound => {}
                changed => return read::answer(call, StatusCode::OK, changed?).await,
            }
        } else if call.subresource().is_some() {
            return Err(call.not_found());
        } else {
            let mut new = applied(None)?;
            object::set_meta(&mut new, "resourceVersion", Value::Null);
            match create_object(call, new, true).await {
                Err(error) if error.reason == Reason::AlreadyExists => {}
                created => return read::answer(call, StatusCode::CREATED, created?).await,
            }
        }
    }
    Err(ApiError::conflict(&call.resource, &call.info.name, MODIFIED))
}

/// The kinds of patches other than apply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Kubernetes' own.
    Strategic,
}

/// A patch that was read.
pub(crate) struct Patch {
    pub(crate) form: Form,
    body: Value,
}

impl Patch {
    /// Reads the request's patch.
    pub(crate) fn of(call: &Call) -> Result<Self, ApiError> {
        let form = match decode::media_type(call) {
            "application/json-patch+json" => Form::Json,
            "application/merge-patch+json" => Form::Merge,
            "application/strategic-merge-patch+json" if !call.resource.custom => Form::Strategic,
            _ => return Err(unsupported(call)),
        };
        let prefix = if form == Form::Strategic { "" } else { "error decoding patch: " };
        let bad = |why: &str| ApiError::bad_request(format!("{prefix}{why}"));
        let body = decode::json_patch(call).map_err(|why| bad(&why))?;
        let body = match (form, body) {
            (Form::Merge, Value::Null) => return Err(ApiError::bad_request("Invalid JSON Patch")),
            (Form::Strategic, Value::Null) => Value::Object(Map::new()),
            (Form::Merge | Form::Strategic, body) if !body.is_object() => {
                return Err(bad(&decode::no_map(&body)));
            }
            (_, body) => body,
        };
        Ok(Self { form, body })
    }

    /// The object with the patch applied.
    pub(crate) fn apply(&self, call: &Call, old: &Value) -> Result<Value, ApiError> {
        if self.form == Form::Strategic {
            let resource = &call.resource;
            let kind = GroupVersionKind::gvk(&resource.group, &call.info.version, &resource.kind);
            return patch::strategic(&kind, old, &self.body);
        }
        self.apply_plain(old)
    }

    /// The object with the patch applied; nothing is known of its lists.
    pub(crate) fn apply_plain(&self, old: &Value) -> Result<Value, ApiError> {
        let mut new = old.clone();
        match self.form {
            Form::Json => patch::json(&mut new, &self.body)?,
            Form::Merge | Form::Strategic => patch::merge(&mut new, &self.body),
        }
        Ok(new)
    }

    /// What errors quote of a patch that leads to nothing good.
    fn quoted(&self, call: &Call, old: &Value) -> String {
        match self.form {
            Form::Strategic => patch::go_text(&self.body),
            // The result was changed on its way to the error.
            Form::Json | Form::Merge => {
                self.apply(call, old).map(|result| result.to_string()).unwrap_or_default()
            }
        }
    }
}

/// 415 for a kind of patch that the resource does not take.
fn unsupported(call: &Call) -> ApiError {
    if call.resource.custom {
        let known = ["application/json-patch+json", "application/merge-patch+json", APPLY];
        return ApiError::unsupported_media_type(&known);
    }
    let mut error = ApiError::new(Reason::UnsupportedMediaType, "415: Unsupported Media Type");
    error.details = Value::Object(Map::new());
    error
}

async fn patch_object(call: &Call) -> Result<Arc<Stored>, ApiError> {
    let patch = Patch::of(call)?;
    change(call, Rules::Of(call.subresource()), |old| {
        let mut new = patch.apply(call, old)?;
        pipeline::decode_patched(call, &mut new, patch.form, || patch.quoted(call, old))?;
        check_name(call, &new)?;
        check_namespace(call, &new)?;
        Ok(new)
    })
    .await
}
