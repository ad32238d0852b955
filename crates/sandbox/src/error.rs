//! Failed requests as the API server answers them: `metav1.Status` with code, reason and causes.

use serde::Serialize;
use serde_json::Value;

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
    /// 503.
    ServiceUnavailable,
    /// 504: asked for a resourceVersion of the future, or a time-out.
    Timeout,
}

impl Reason {
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
            Self::InternalError => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
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
}
