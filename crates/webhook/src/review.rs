//! The admission envelope: a view on an `AdmissionReview`, the verdict of a handler, and the way back.
//!
//! Objects stay raw JSON. A mutation is whatever differs between the object that came and the one a handler
//! returned, so a handler cannot drop a field it does not know unless it means to.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Map, Value};

/// What is being done to the object under review.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// The object is new.
    Create,
    /// The object exists and is being changed.
    Update,
    /// The object is being deleted; only the old object is present.
    Delete,
    /// A connection to a subresource such as `pods/exec`.
    Connect,
}

/// Group, version and plural name of the resource under review.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct Resource {
    /// API group, empty for core.
    #[serde(default)]
    pub group: String,
    /// Version the object is encoded in.
    #[serde(default)]
    pub version: String,
    /// Plural resource name.
    #[serde(default)]
    pub resource: String,
}

/// Group, version and kind of the object under review.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct Kind {
    /// API group, empty for core.
    #[serde(default)]
    pub group: String,
    /// Version the object is encoded in.
    #[serde(default)]
    pub version: String,
    /// Kind.
    #[serde(default)]
    pub kind: String,
}

/// The user who makes the request.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct UserInfo {
    /// Name of the user or service account.
    #[serde(default)]
    pub username: String,
}

/// One admission request, with the objects kept as they came.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionRequest {
    /// Identifies the request; echoed in the response.
    #[serde(default)]
    pub uid: String,
    /// What is being done.
    pub operation: Operation,
    /// The resource the webhook was registered for; requests are dispatched on its version.
    #[serde(default)]
    pub resource: Resource,
    /// The kind of the object.
    #[serde(default)]
    pub kind: Kind,
    /// Subresource, such as `eviction`.
    #[serde(default)]
    pub sub_resource: Option<String>,
    /// Namespace of the object, absent for cluster-scoped ones.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Name of the object; absent when the API server is to generate it.
    #[serde(default)]
    pub name: Option<String>,
    /// True when nothing will be persisted, so nothing may have side effects.
    #[serde(default, deserialize_with = "null_is_default")]
    pub dry_run: bool,
    /// Who asks.
    #[serde(default, deserialize_with = "null_is_default")]
    pub user_info: UserInfo,
    /// The object as it would be stored; absent on DELETE.
    #[serde(default)]
    pub object: Option<Value>,
    /// The object as it is stored; absent on CREATE.
    #[serde(default)]
    pub old_object: Option<Value>,
    /// The operation's options, such as `DeleteOptions`.
    #[serde(default)]
    pub options: Option<Value>,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// What a handler decides about a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Let it pass, changed to `patched` when that is given.
    Allow {
        /// The object as it shall be stored instead.
        patched: Option<Value>,
        /// Shown to the user by kubectl.
        warnings: Vec<String>,
    },
    /// Refuse it.
    Deny {
        /// HTTP-like status code.
        code: u16,
        /// Machine-readable reason; only plain refusals have one.
        reason: Option<String>,
        /// Shown to the user.
        message: String,
    },
}

impl Verdict {
    /// Lets the request pass unchanged.
    pub fn allow() -> Self {
        Self::Allow { patched: None, warnings: Vec::new() }
    }

    /// Lets the request pass with the object changed to `patched`.
    pub fn patched(patched: Value) -> Self {
        Self::Allow { patched: Some(patched), warnings: Vec::new() }
    }

    /// A plain refusal: 403 with reason Forbidden.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::Deny { code: 403, reason: Some("Forbidden".to_owned()), message: message.into() }
    }

    /// An error with a code and a message and no reason, such as 400, a gate's 403 or 500.
    pub fn error(code: u16, message: impl Into<String>) -> Self {
        Self::Deny { code, reason: None, message: message.into() }
    }

    /// The 400 for a resource version no handler knows.
    pub fn unsupported_version(version: &str) -> Self {
        Self::error(400, format!("unsupported version: {version}"))
    }

    /// 422 with the aggregated errors, or the unchanged object when there are none.
    pub fn validated(errors: Vec<FieldError>) -> Self {
        if errors.is_empty() { Self::allow() } else { Self::error(422, aggregate(errors)) }
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FieldErrorKind {
    /// The value is not acceptable.
    Invalid,
    /// The value is missing.
    Required,
    /// The field may not be set, or not be changed.
    Forbidden,
    /// The value is none of the known ones.
    NotSupported,
    /// The value occurs twice.
    Duplicate,
    /// The value refers to something that does not exist.
    NotFound,
    /// The value is too long; it is not repeated in the message.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// The check itself failed.
    Internal,
}

impl FieldErrorKind {
    const fn label(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid value",
            Self::Required => "Required value",
            Self::Forbidden => "Forbidden",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::NotFound => "Not found",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }

    const fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::Internal)
    }
}

/// One validation error; its `Display` is Kubernetes' wording.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// Path of the field, such as `spec.template.spec.containers[0].image`.
    pub field: String,
    /// The offending value as it is shown: strings quoted, everything else as JSON.
    pub value: Option<String>,
    /// Why; may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(
        kind: FieldErrorKind,
        field: impl Into<String>,
        value: Option<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self { kind, field: field.into(), value: value.map(|value| value.to_string()), detail: detail.into() }
    }

    /// The value is not acceptable.
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, field, Some(value.into()), detail)
    }

    /// The field must be set.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, field, None, detail)
    }

    /// The field may not be set or changed.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, field, None, detail)
    }

    /// The value occurs twice.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, field, Some(value.into()), "")
    }

    /// The value refers to something that does not exist.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, field, Some(value.into()), "")
    }

    /// The value is none of `supported`, which are listed in the order given.
    pub fn not_supported(field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|one| Value::from(*one).to_string()).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(FieldErrorKind::NotSupported, field, Some(value.into()), detail)
    }

    /// The check itself failed.
    pub fn internal(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Internal, field, None, detail)
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.kind.label())?;
        if self.kind.shows_value()
            && let Some(value) = &self.value
        {
            write!(f, ": {value}")?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for FieldError {}

/// Joins errors as Kubernetes does: one bare, several as `[a, b]`, the same message only once.
pub fn aggregate(errors: Vec<FieldError>) -> String {
    let mut seen = BTreeSet::new();
    let mut messages: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let message = error.to_string();
        if seen.insert(message.clone()) {
            messages.push(message);
        }
    }
    if messages.len() > 1 { format!("[{}]", messages.join(", ")) } else { messages.concat() }
}

/// The version a review came in and its answer must have.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ReviewVersion {
    /// `admission.k8s.io/v1`.
    #[default]
    V1,
    /// `admission.k8s.io/v1beta1`.
    V1beta1,
}

impl ReviewVersion {
    const fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "admission.k8s.io/v1",
            Self::V1beta1 => "admission.k8s.io/v1beta1",
        }
    }
}

/// Why a body is no admission review.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The body is empty.
    #[error("request body is empty")]
    Empty,
    /// The content type is not JSON.
    #[error("contentType={0}, expected application/json")]
    ContentType(String),
    /// The body is no JSON, or a field has the wrong type.
    #[error("couldn't decode the admission review: {0}")]
    Json(#[from] serde_json::Error),
    /// It is JSON of another kind or of a version this server does not speak.
    #[error("unexpected {0}, expected an AdmissionReview of admission.k8s.io/v1 or v1beta1")]
    WrongType(String),
    /// There is no request in the review.
    #[error("the admission review has no request")]
    NoRequest,
}

/// Checks a `Content-Type` header: `application/json`, parameters allowed.
pub fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default();
    media.trim().eq_ignore_ascii_case("application/json")
}

/// Reads an `AdmissionReview` of either version.
pub fn decode(body: &[u8]) -> Result<(ReviewVersion, AdmissionRequest), DecodeError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Review {
        #[serde(default)]
        api_version: String,
        #[serde(default)]
        kind: String,
        request: Option<AdmissionRequest>,
    }
    if body.is_empty() {
        return Err(DecodeError::Empty);
    }
    let review: Review = serde_json::from_slice(body)?;
    let version = match (review.kind.as_str(), review.api_version.as_str()) {
        ("AdmissionReview", "admission.k8s.io/v1") => ReviewVersion::V1,
        ("AdmissionReview", "admission.k8s.io/v1beta1") => ReviewVersion::V1beta1,
        (kind, version) => return Err(DecodeError::WrongType(format!("{kind:?} of {version:?}"))),
    };
    Ok((version, review.request.ok_or(DecodeError::NoRequest)?))
}

/// The status code a verdict carries in its answer.
pub const fn code_of(verdict: &Verdict) -> u16 {
    match verdict {
        Verdict::Allow { .. } => 200,
        Verdict::Deny { code, .. } => *code,
    }
}

/// Writes the answer: the verdict in the version of the request, changes as a JSON Patch from `original`.
pub fn encode(version: ReviewVersion, uid: &str, original: Option<&Value>, verdict: Verdict) -> Value {
    let mut response = Map::new();
    let mut status = Map::new();
    response.insert("uid".to_owned(), Value::from(uid));
    status.insert("code".to_owned(), Value::from(code_of(&verdict)));
    match verdict {
        Verdict::Allow { patched, warnings } => {
            response.insert("allowed".to_owned(), Value::from(true));
            if let Some(patch) = patched.and_then(|patched| patch_between(original?, &patched)) {
                response.insert("patch".to_owned(), Value::from(patch));
                response.insert("patchType".to_owned(), Value::from("JSONPatch"));
            }
            if !warnings.is_empty() {
                response.insert("warnings".to_owned(), Value::from(warnings));
            }
        }
        Verdict::Deny { reason, message, .. } => {
            response.insert("allowed".to_owned(), Value::from(false));
            status.insert("message".to_owned(), Value::from(message));
            if let Some(reason) = reason {
                status.insert("reason".to_owned(), Value::from(reason));
            }
        }
    }
    response.insert("status".to_owned(), Value::Object(status));
    let mut review = Map::new();
    review.insert("apiVersion".to_owned(), Value::from(version.api_version()));
    review.insert("kind".to_owned(), Value::from("AdmissionReview"));
    review.insert("response".to_owned(), Value::Object(response));
    Value::Object(review)
}

fn patch_between(original: &Value, patched: &Value) -> Option<String> {
    let patch = json_patch::diff(original, patched);
    if patch.0.is_empty() {
        return None;
    }
    // Operations of strings and JSON values always serialise; an empty patch would be a silent loss.
    let bytes = serde_json::to_vec(&patch).ok()?;
    Some(base64::engine::general_purpose::STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn review(version: &str) -> Value {
        json!({
            "apiVersion": format!("admission.k8s.io/{version}"), "kind": "AdmissionReview",
            "request": {
                "uid": "7", "operation": "CREATE", "dryRun": null, "namespace": "ns", "object": {"spec": {}},
                "oldObject": null, "userInfo": {"username": "jane"},
                "resource": {"group": "apps.kruise.io", "version": "v1alpha1", "resource": "clonesets"},
                "kind": {"group": "apps.kruise.io", "version": "v1alpha1", "kind": "CloneSet"},
            }
        })
    }

    #[test]
    fn a_request_of_either_version_is_answered_in_its_version() {
        for version in ["v1", "v1beta1"] {
            let body = serde_json::to_vec(&review(version)).unwrap();
            let (parsed, request) = decode(&body).unwrap();
            assert_eq!(request.resource.version, "v1alpha1");
            assert_eq!((request.dry_run, request.old_object.clone()), (false, None));
            assert_eq!(request.user_info.username, "jane");
            let answer = encode(parsed, &request.uid, request.object.as_ref(), Verdict::allow());
            assert_eq!(
                answer,
                json!({
                    "apiVersion": format!("admission.k8s.io/{version}"), "kind": "AdmissionReview",
                    "response": {"uid": "7", "allowed": true, "status": {"code": 200}}
                })
            );
        }
    }

    #[test]
    fn bodies_that_are_no_admission_review_are_refused() {
        let mut none = review("v1");
        none.as_object_mut().unwrap().remove("request");
        let mut other = review("v1");
        other["apiVersion"] = json!("admission.k8s.io/v2");
        assert!(matches!(decode(b""), Err(DecodeError::Empty)));
        assert!(matches!(decode(b"{"), Err(DecodeError::Json(_))));
        assert!(matches!(decode(none.to_string().as_bytes()), Err(DecodeError::NoRequest)));
        assert!(matches!(decode(other.to_string().as_bytes()), Err(DecodeError::WrongType(_))));
    }

    #[test]
    fn only_json_content_types_are_taken() {
        for (content_type, ok) in [
            ("application/json", true),
            ("application/json; charset=utf-8", true),
            ("text/plain", false),
            ("", false),
        ] {
            assert_eq!(is_json(content_type), ok, "{content_type}");
        }
    }

    #[test]
    fn a_changed_object_becomes_a_json_patch_and_an_equal_one_none() {
        let original = json!({"spec": {"a": 1, "gone": true}});
        let patched = json!({"spec": {"a": 1, "b": [2]}});
        let answer = encode(ReviewVersion::V1, "u", Some(&original), Verdict::patched(patched.clone()));
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(answer["response"]["patch"].as_str().unwrap())
            .unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&bytes).unwrap();
        let mut result = original.clone();
        json_patch::patch(&mut result, &patch).unwrap();
        assert_eq!(result, patched);

        let same = encode(ReviewVersion::V1, "u", Some(&original), Verdict::patched(original.clone()));
        assert_eq!(same["response"].get("patch"), None);
        assert_eq!(same["response"].get("patchType"), None);
    }

    #[test]
    fn refusals_carry_code_message_and_only_plain_ones_a_reason() {
        let plain = encode(ReviewVersion::V1, "u", None, Verdict::forbidden("no"));
        assert_eq!(plain["response"]["status"], json!({"code": 403, "reason": "Forbidden", "message": "no"}));
        assert_eq!(plain["response"]["allowed"], false);
        let error = encode(ReviewVersion::V1, "u", None, Verdict::unsupported_version("v9"));
        assert_eq!(error["response"]["status"], json!({"code": 400, "message": "unsupported version: v9"}));
    }

    #[test]
    fn field_errors_read_as_in_kubernetes() {
        let table = [
            (
                FieldError::invalid("spec.replicas", -1, "must be greater than or equal to 0"),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (FieldError::invalid("a", "x", "bad"), r#"a: Invalid value: "x": bad"#),
            (
                FieldError::not_supported("a", "x", &["a", "b"]),
                r#"a: Unsupported value: "x": supported values: "a", "b""#,
            ),
            (FieldError::required("a", ""), "a: Required value"),
            (FieldError::required("a", "why"), "a: Required value: why"),
            (FieldError::forbidden("a", "may not change"), "a: Forbidden: may not change"),
            (FieldError::duplicate("a[1]", "x"), r#"a[1]: Duplicate value: "x""#),
            (FieldError::not_found("a", "x"), r#"a: Not found: "x""#),
            (FieldError::internal("a", "oops"), "a: Internal error: oops"),
        ];
        for (error, text) in table {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn one_error_stands_bare_and_several_in_brackets_without_repetition() {
        let (a, b) = (FieldError::required("a", ""), FieldError::required("b", ""));
        assert_eq!(aggregate(vec![a.clone()]), "a: Required value");
        assert_eq!(aggregate(vec![a.clone(), a.clone()]), "a: Required value");
        assert_eq!(aggregate(vec![b.clone(), a.clone()]), "[b: Required value, a: Required value]");
        assert_eq!(Verdict::validated(vec![]), Verdict::allow());
        assert_eq!(Verdict::validated(vec![a]), Verdict::error(422, "a: Required value"));
    }
}
