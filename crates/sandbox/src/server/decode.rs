//! Bodies of requests: JSON or YAML, and the kind they claim to be.

use http::header;
use serde_json::Value;

use super::handler::Call;
use super::storage::lock;
use super::{json, protobuf};
use crate::error::{ApiError, FieldError};

const MEDIA: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// The media type of the body, without parameters.
pub(crate) fn media_type(call: &Call) -> &str {
    let header =
        call.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    header.split(';').next().unwrap_or_default().trim()
}

/// Parses a body as JSON or YAML; `kind` is what it is expected to be.
pub(crate) fn parse(call: &Call, kind: &str) -> Result<Value, ApiError> {
    let body = &call.body;
    let parsed = match media_type(call) {
        "" | "application/json" | "*/*" => json_value(call, body),
        "application/yaml" => yaml_value(body),
        "application/vnd.kubernetes.protobuf" => {
            return protobuf::decode(body).map_err(ApiError::bad_request);
        }
        _ => return Err(ApiError::unsupported_media_type(&MEDIA)),
    };
    let value = parsed.map_err(|why| {
        let shown = summary(body);
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {why} ({shown})"
        ))
    })?;
    if !value.is_object() {
        let what = match value {
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            _ => return Ok(Value::Object(serde_json::Map::new())),
        };
        let shown = summary(body);
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: \
             json: cannot unmarshal {what} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; \
             Kind string \"json:\\\"kind,omitempty\\\"\" }} ({shown})"
        )));
    }
    Ok(value)
}

/// The body of a delete: `DeleteOptions` of whatever version, and nothing else.
pub(crate) fn options(call: &Call) -> Result<Value, ApiError> {
    let value =
        parse(call, "DeleteOptions").map_err(|error| match error.message.split_once("couldn't get") {
            Some((_, why)) => {
                let why = why.rsplit_once(" (").map_or(why, |(why, _)| why);
                ApiError::unexplained(format!("couldn't get{why}"))
            }
            None => error,
        })?;
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    match text("kind") {
        "" | "DeleteOptions" => Ok(value),
        kind => Err(ApiError::unexplained(not_registered(text("apiVersion"), kind))),
    }
}

/// The beginning of a body that could not be read: JSON objects as they are, anything else in hexadecimal.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 1024;
    let cut = body.get(..SHOWN);
    let start = cut.unwrap_or(body);
    let text = match start.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(start).into_owned(),
        Some(_) => start.iter().fold(String::new(), |mut text, byte| {
            text.extend(
                [byte >> 4, byte & 15].iter().filter_map(|digit| char::from_digit(u32::from(*digit), 16)),
            );
            text
        }),
    };
    if cut.is_some() && body.len() > SHOWN { format!("{text} ...") } else { text }
}

/// Parses JSON; the error is Go's text. What is given twice is noted in the call.
fn json_value(call: &Call, bytes: &[u8]) -> Result<Value, String> {
    let (value, twice) = json::parse(bytes).map_err(|error| go_error(bytes, &error))?;
    if !twice.is_empty() {
        *lock(&call.twice) = twice;
    }
    Ok(value)
}

/// Parses YAML (of which JSON is a part).
pub(crate) fn yaml_value(bytes: &[u8]) -> Result<Value, String> {
    serde_yaml_ng::from_slice(bytes).map_err(|error| format!("yaml: {error}"))
}

/// Go's words for what serde found.
fn go_error(bytes: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let line = bytes.split(|c| *c == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let found = line.get(error.column().saturating_sub(1)).map_or('\u{fffd}', |c| char::from(*c));
    let place = match error.to_string() {
        text if text.contains("expected value") => "looking for beginning of value",
        text if text.contains("key must be a string") => "looking for beginning of object key string",
        text if text.contains("expected `,` or `}`") => "after object key:value pair",
        text if text.contains("expected `,` or `]`") => "after array element",
        text if text.contains("expected `:`") => "after object key",
        text if text.contains("trailing characters") => "after top-level value",
        _ => "in literal",
    };
    format!("invalid character '{found}' {place}")
}

/// The body of a create or update: an object of the request's kind and version, which it may leave out if built in.
pub(crate) fn object(call: &Call) -> Result<Value, ApiError> {
    let mut value = parse(call, &call.resource.kind)?;
    check_kind(call, &mut value).map_err(|wrong| wrong.posted(call, &value))?;
    Ok(value)
}

/// Why an object is not of the request's kind and version.
pub(crate) enum Wrong {
    /// A custom object does not name this.
    Missing(&'static str),
    /// It names others.
    Other {
        /// Its `apiVersion`.
        version: String,
        /// Its `kind`.
        kind: String,
    },
    /// Its metadata are no object.
    Metadata,
}

impl Wrong {
    /// The refusal of a body.
    fn posted(&self, call: &Call, value: &Value) -> ApiError {
        let resource = &call.resource;
        match self {
            Self::Missing(field) => ApiError::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): Object '{field}' is missing in '{}' ({})",
                resource.kind,
                String::from_utf8_lossy(&call.body),
                summary(&call.body)
            )),
            Self::Other { version, .. } if resource.custom && *version != api_version(call) => {
                ApiError::bad_request(format!(
                    "the API version in the data ({version}) does not match the expected API version ({})",
                    api_version(call)
                ))
            }
            Self::Other { kind, .. } if resource.custom => {
                let errors = [must_be("kind", kind, &resource.kind)];
                ApiError::invalid(&resource.group, kind, name(value), &errors)
            }
            Self::Other { version, kind } => {
                let kind = if kind.is_empty() { &resource.kind } else { kind };
                let wanted = (short_group(call), resource.kind.as_str());
                ApiError::bad_request(not_handled(call, (&or_asked(call, version), kind), wanted))
            }
            Self::Metadata => {
                let (kind, version) = (&resource.kind, &call.info.version);
                ApiError::bad_request(format!(
                    "{kind} in version {version:?} cannot be handled as a {kind}: json: cannot unmarshal into Go struct \
                     field {kind}.metadata of type v1.ObjectMeta"
                ))
            }
        }
    }

    /// The refusal of a patch's result: as it is, or what is wrong with the patch.
    pub(crate) fn patched(&self, call: &Call, value: &Value) -> Result<ApiError, String> {
        let resource = &call.resource;
        match self {
            Self::Missing(field) => {
                let shown: String = value.to_string().chars().take(1024).collect();
                Ok(ApiError::bad_request(format!("Object '{field}' is missing in '{shown}'")))
            }
            Self::Other { version, kind } if resource.custom => {
                let wanted = api_version(call);
                let errors: Vec<FieldError> =
                    [("kind", kind, &resource.kind), ("apiVersion", version, &wanted)]
                        .into_iter()
                        .filter(|(_, given, wanted)| given != wanted)
                        .map(|(field, given, wanted)| must_be(field, given, wanted))
                        .collect();
                Ok(ApiError::invalid(&resource.group, kind, name(value), &errors))
            }
            Self::Other { version, kind } => {
                let version = or_asked(call, version);
                let kind = if kind.is_empty() { &resource.kind } else { kind };
                let (group, number) = version.rsplit_once('/').unwrap_or(("", &version));
                // It is read as what it says it is before it is found to be something else.
                match crate::kinds::decode_kind(group, number, kind, &mut value.clone()) {
                    Err(why) => Err(why),
                    Ok(_) => Err(not_converted(call, (&version, kind), (short_group(call), &resource.kind))),
                }
            }
            Self::Metadata => Ok(self.posted(call, value)),
        }
    }
}

fn must_be(field: &str, given: &str, wanted: &str) -> FieldError {
    FieldError::invalid(field, &given.into(), &format!("must be {wanted}"))
}

fn name(value: &Value) -> &str {
    crate::object::name(value)
}

fn api_version(call: &Call) -> String {
    call.resource.api_version(&call.info.version)
}

fn or_asked(call: &Call, version: &str) -> String {
    if version.is_empty() { api_version(call) } else { version.to_owned() }
}

/// The resource's group as Go packages are called.
fn short_group(call: &Call) -> &str {
    call.resource.group.split('.').next().filter(|short| !short.is_empty()).unwrap_or("core")
}

/// The object is of the request's kind and version, which is written into it.
pub(crate) fn check_kind(call: &Call, value: &mut Value) -> Result<(), Wrong> {
    let resource = &call.resource;
    let wanted = api_version(call);
    {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if resource.custom {
            if kind.is_empty() {
                return Err(Wrong::Missing("Kind"));
            }
            if version.is_empty() {
                return Err(Wrong::Missing("apiVersion"));
            }
        }
        let same_kind = kind.is_empty() || kind == resource.kind;
        let same_version = version.is_empty() || version == wanted;
        if !same_kind || !same_version {
            return Err(Wrong::Other { version: version.to_owned(), kind: kind.to_owned() });
        }
    }
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), Value::from(wanted));
        map.insert("kind".to_owned(), Value::from(resource.kind.as_str()));
    }
    if value.get("metadata").is_none_or(|meta| meta.is_object() || meta.is_null()) {
        Ok(())
    } else {
        Err(Wrong::Metadata)
    }
}

/// A body posted to a subresource, whose kind is another than the resource's, is of that kind if it says one.
pub(crate) fn check_posted(call: &Call, value: &Value, group: &str, kind: &str) -> Result<(), ApiError> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, given) = (text("apiVersion"), text("kind"));
    let same_group = version.is_empty() || version.rsplit_once('/').map_or("", |(group, _)| group) == group;
    if given.is_empty() || (given == kind && same_group) {
        return Ok(());
    }
    Err(ApiError::bad_request(not_handled(call, (version, given), (group, kind))))
}

/// Why a body of one kind cannot be taken for another, which is named with the short form of its group.
fn not_handled(call: &Call, given: (&str, &str), wanted: (&str, &str)) -> String {
    let version = given.0.rsplit('/').next().unwrap_or_default();
    let why = not_converted(call, given, wanted);
    format!("{} in version {version:?} cannot be handled as a {}: {why}", given.1, wanted.1)
}

fn not_converted(call: &Call, (given_version, kind): (&str, &str), (short, wanted): (&str, &str)) -> String {
    let version = given_version.rsplit('/').next().unwrap_or_default();
    let (group, _) = given_version.rsplit_once('/').unwrap_or(("", version));
    let served = |one: &crate::resource::Resource| {
        !one.custom && one.group == group && one.kind == kind && one.version(version).is_some()
    };
    if call.server.registry().all().iter().any(|one| served(one)) {
        format!("converting ({version}.{kind}) to ({short}.{wanted}): unknown conversion")
    } else {
        not_registered(given_version, kind)
    }
}

/// The built-in kinds do not have this one.
pub(crate) fn not_registered(api_version: &str, kind: &str) -> String {
    format!("no kind {kind:?} is registered for version {api_version:?} in scheme {SCHEME:?}")
}

/// Where the API server's errors say that the built-in kinds are registered.
const SCHEME: &str = "pkg/runtime/scheme.go:110";

/// A patch in JSON; the error is Go's text.
pub(crate) fn json_patch(call: &Call) -> Result<Value, String> {
    json_value(call, &call.body)
}

/// What Go's decoder says of a patch that is no object.
pub(crate) fn no_map(value: &Value) -> String {
    let what = match value {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null | Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {what} into Go value of type map[string]interface {{}}")
}
