//! Failed requests as the API server answers them: `metav1.Status` with code, reason and causes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::resource::Resource;

/// Why a field was refused: the `reason` of a `metav1.StatusCause`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum CauseKind {
    /// The value cannot be accepted.
    FieldValueInvalid,
    /// A required field is absent.
    FieldValueRequired,
    /// The value is not one of those allowed.
    FieldValueNotSupported,
    /// The field may not be set here.
    FieldValueForbidden,
    /// The value has another JSON type than the schema says.
    FieldValueTypeInvalid,
    /// The value occurs twice where it may occur once.
    FieldValueDuplicate,
    /// The list or map has too many entries.
    FieldValueTooMany,
    /// The text is too long.
    FieldValueTooLong,
    /// The referenced value does not exist.
    FieldValueNotFound,
}

impl CauseKind {
    /// The words that open the message of such a refusal.
    pub const fn words(self) -> &'static str {
        match self {
            Self::FieldValueInvalid | Self::FieldValueTypeInvalid => "Invalid value",
            Self::FieldValueRequired => "Required value",
            Self::FieldValueNotSupported => "Unsupported value",
            Self::FieldValueForbidden => "Forbidden",
            Self::FieldValueDuplicate => "Duplicate value",
            Self::FieldValueTooMany => "Too many",
            Self::FieldValueTooLong => "Too long",
            Self::FieldValueNotFound => "Not found",
        }
    }
}

/// One refused field.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FieldError {
    /// Path as the API server writes it: `spec.template.spec.containers[0].name`, `metadata.labels[app]`.
    pub field: String,
    /// The kind of refusal.
    pub kind: CauseKind,
    /// The full text after the path, in the API server's words: `Invalid value: -1: must be greater than or equal to 0`.
    pub message: String,
}

impl FieldError {
    /// `field: Required value: why`.
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        Self::new(field, CauseKind::FieldValueRequired, None, why)
    }

    /// `field: Invalid value: value: why`.
    pub fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        Self::new(field, CauseKind::FieldValueInvalid, Some(value), why)
    }

    /// `field: Forbidden: why`.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self::new(field, CauseKind::FieldValueForbidden, None, why)
    }

    /// `field: Duplicate value: value`.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::new(field, CauseKind::FieldValueDuplicate, Some(value), "")
    }

    /// `field: Not found: value`.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self::new(field, CauseKind::FieldValueNotFound, Some(value), "")
    }

    /// `field: Unsupported value: value: supported values: "a", "b"`.
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let listed: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        let why = if listed.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", listed.join(", "))
        };
        Self::new(field, CauseKind::FieldValueNotSupported, Some(value), &why)
    }

    /// `field: Too long: may not be more than max bytes`.
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        let why = format!("may not be more than {max} bytes");
        Self::new(field, CauseKind::FieldValueTooLong, None, &why)
    }

    fn new(field: impl Into<String>, kind: CauseKind, value: Option<&Value>, why: &str) -> Self {
        let mut message = kind.words().to_owned();
        if let Some(value) = value {
            message.push_str(": ");
            message.push_str(&value.to_string());
        }
        if !why.is_empty() {
            message.push_str(": ");
            message.push_str(why);
        }
        Self { field: field.into(), kind, message }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The machine-readable reason of a failed request: `metav1.StatusReason`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// 400.
    BadRequest,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 405.
    MethodNotAllowed,
    /// 406.
    NotAcceptable,
    /// 409: the name is taken.
    AlreadyExists,
    /// 409: a precondition failed.
    Conflict,
    /// 410: the resourceVersion is older than the history kept (watches).
    Gone,
    /// 410: the resourceVersion or continue token is older than the history kept (lists and watches).
    Expired,
    /// 413.
    RequestEntityTooLarge,
    /// 415.
    UnsupportedMediaType,
    /// 422.
    Invalid,
    /// 429.
    TooManyRequests,
    /// 500.
    InternalError,
    /// 500 without a reason.
    Unknown,
    /// 501.
    NotImplemented,
    /// 503.
    ServiceUnavailable,
    /// 504: the server could not answer in time; the client should try again.
    ServerTimeout,
    /// 504: asked for a resourceVersion of the future, or a time-out.
    Timeout,
    /// What a webhook answered; see [`Reason::other`].
    Other(u16, &'static str),
}

impl Reason {
    /// A code and a reason that need not belong together; the reason may be empty.
    pub fn other(code: u16, name: &str) -> Self {
        static NAMES: LazyLock<Mutex<BTreeSet<&'static str>>> = LazyLock::new(Mutex::default);
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let known = names.get(name).copied();
        // Reasons are words of programs, not data of users: there are few, and each is kept once.
        let name = known.unwrap_or_else(|| Box::leak(name.to_owned().into_boxed_str()));
        names.insert(name);
        Self::Other(code, name)
    }

    /// As it stands in a `metav1.Status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Expired => "Expired",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::Invalid => "Invalid",
            Self::TooManyRequests => "TooManyRequests",
            Self::InternalError => "InternalError",
            Self::Unknown => "",
            Self::NotImplemented => "NotImplemented",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::ServerTimeout => "ServerTimeout",
            Self::Timeout => "Timeout",
            Self::Other(_, name) => name,
        }
    }

    /// The HTTP status code that goes with the reason.
    pub const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Gone | Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError | Self::Unknown => 500,
            Self::NotImplemented => 501,
            Self::ServiceUnavailable => 503,
            Self::Timeout | Self::ServerTimeout => 504,
            Self::Other(code, _) => code,
        }
    }
}

/// A failed request. [`ApiError::status`] renders the `metav1.Status` that the client sees.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Machine-readable reason; it fixes the HTTP code.
    pub reason: Reason,
    /// Human-readable text in the API server's words.
    pub message: String,
    /// `details`: group, kind (the plural resource or kind, as the API server fills it), name, uid, causes. Null when absent.
    pub details: Value,
    /// Seconds for `Retry-After` and `details.retryAfterSeconds`.
    pub retry_after: Option<u32>,
    /// `metadata.continue`: how a list whose token has expired may go on.
    pub list_continue: Option<String>,
}

/// The text of a conflict with a concurrent change.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl ApiError {
    /// An error with a reason and a text and no details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: Value::Null, retry_after: None, list_continue: None }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 404: no such object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(Reason::NotFound, format!("{} {name:?} not found", resource.qualified())).details(
            &resource.group,
            &resource.plural,
            name,
        )
    }

    /// 404: nothing is served at the path.
    pub fn unknown_path() -> Self {
        let mut error = Self::new(Reason::NotFound, "the server could not find the requested resource");
        error.details = json!({});
        error
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        let text = "the server does not allow this method on the requested resource";
        let mut error = Self::new(Reason::MethodNotAllowed, text);
        error.details = json!({});
        error
    }

    /// 409: the name is taken.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(Reason::AlreadyExists, format!("{} {name:?} already exists", resource.qualified())).details(
            &resource.group,
            &resource.plural,
            name,
        )
    }

    /// 409: a precondition failed, for `why` (usually [`MODIFIED`]).
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        Self::new(
            Reason::Conflict,
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.qualified()),
        )
        .details(&resource.group, &resource.plural, name)
    }

    /// 403.
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let qualified = resource.qualified();
        let message = if name.is_empty() {
            format!("{qualified} is forbidden: {why}")
        } else {
            format!("{qualified} {name:?} is forbidden: {why}")
        };
        Self::new(Reason::Forbidden, message).details(&resource.group, &resource.plural, name)
    }

    /// 422: fields of an object of `kind` are refused.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut texts: Vec<String> = Vec::new();
        for text in errors.iter().map(ToString::to_string) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let listed = match texts.as_slice() {
            [] => "<nil>".to_owned(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut error = Self::new(Reason::Invalid, format!("{qualified} {name:?} is invalid: {listed}"))
            .details(group, kind, name);
        if let (Some(details), false) = (error.details.as_object_mut(), errors.is_empty()) {
            let causes = errors
                .iter()
                .map(|one| json!({"reason": one.kind, "message": one.message, "field": one.field}))
                .collect();
            details.insert("causes".to_owned(), Value::Array(causes));
        }
        error
    }

    /// 422 for an object of `resource`.
    pub fn invalid_object(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid(&resource.group, &resource.kind, name, errors)
    }

    /// 410.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// 410, on a watch or list from a resourceVersion before the history kept.
    pub fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// 504: a resourceVersion from the future was asked for.
    pub fn too_large_version(asked: u64, current: u64) -> Self {
        let text = format!("Too large resource version: {asked}, current: {current}");
        let mut error = Self::new(Reason::Timeout, format!("Timeout: {text}"));
        error.details = json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]});
        error.retry_after = Some(1);
        error
    }

    /// 415 for a body in a media type that is not understood.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let text = "the body of the request was in an unknown format - accepted media types include: ";
        Self::new(Reason::UnsupportedMediaType, format!("{text}{}", accepted.join(", ")))
    }

    /// 413.
    pub fn too_large() -> Self {
        Self::new(Reason::RequestEntityTooLarge, "Request entity too large: limit is 3145728")
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Self {
        let mut error = Self::new(Reason::TooManyRequests, message);
        error.retry_after = Some(retry_after);
        error
    }

    /// 500.
    pub fn internal(message: impl fmt::Display) -> Self {
        let mut error = Self::new(Reason::InternalError, format!("Internal error occurred: {message}"));
        error.details = json!({"causes": [{"message": message.to_string()}]});
        error
    }

    /// 500 without a machine-readable reason, as the API server answers errors it does not expect.
    pub fn unexplained(message: impl Into<String>) -> Self {
        Self::new(Reason::Unknown, message)
    }

    /// The error with `details` naming group, kind (or plural resource) and object.
    #[must_use]
    pub fn details(mut self, group: &str, kind: &str, name: &str) -> Self {
        let mut details = Map::new();
        for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                details.insert(key.to_owned(), Value::from(value));
            }
        }
        self.details = Value::Object(details);
        self
    }

    /// The HTTP status code.
    pub const fn code(&self) -> u16 {
        self.reason.code()
    }

    /// The `metav1.Status` that the client sees.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.list_continue.as_ref().map_or_else(|| json!({}), |token| json!({"continue": token})),
            "status": "Failure",
            "message": self.message,
            "reason": self.reason.name(),
            "code": self.code(),
        });
        if let (Reason::Unknown | Reason::Other(_, ""), Some(map)) = (self.reason, status.as_object_mut()) {
            map.remove("reason");
        }
        let mut details = self.details.clone();
        if let Some(seconds) = self.retry_after {
            if details.is_null() {
                details = json!({});
            }
            if let Some(map) = details.as_object_mut() {
                map.insert("retryAfterSeconds".to_owned(), Value::from(seconds));
            }
        }
        if let (false, Some(map)) = (details.is_null(), status.as_object_mut()) {
            map.insert("details".to_owned(), details);
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refused_field_reads_as_the_api_server_writes_it() {
        let causes = [FieldError::required("metadata.name", "name or generateName is required")];
        let error = ApiError::invalid("", "ConfigMap", "", &causes);
        assert_eq!(
            error.status(),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Invalid", "code": 422,
                "message": "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
                "details": {"kind": "ConfigMap", "causes": [{
                    "reason": "FieldValueRequired", "field": "metadata.name",
                    "message": "Required value: name or generateName is required",
                }]},
            })
        );
    }

    #[test]
    fn many_refused_fields_are_listed_in_brackets_once_each() {
        let twice = FieldError::invalid("spec.replicas", &json!(-1), "must be greater than or equal to 0");
        let causes = [twice.clone(), FieldError::forbidden("spec.x", "no"), twice];
        let error = ApiError::invalid("apps", "Deployment", "web", &causes);
        assert_eq!(
            error.message,
            "Deployment.apps \"web\" is invalid: [spec.replicas: Invalid value: -1: must be greater than or equal to 0, \
             spec.x: Forbidden: no]"
        );
    }

    #[test]
    fn a_future_resource_version_asks_the_client_to_come_back() {
        let status = ApiError::too_large_version(9, 3).status();
        assert_eq!(status.pointer("/details/retryAfterSeconds"), Some(&json!(1)));
        assert_eq!(status.get("message"), Some(&json!("Timeout: Too large resource version: 9, current: 3")));
        assert_eq!(status.get("code"), Some(&json!(504)));
    }
}
