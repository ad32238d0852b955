//! Bodies of requests: JSON or YAML, and the kind they claim to be.

use http::header;
use serde_json::Value;

use super::handler::Call;
use super::storage::lock;
use super::{json, protobuf};
use crate::error::{ApiError, Reason};

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
    check_kind(call, &mut value)?;
    Ok(value)
}

/// The object is of the request's kind and version.
pub(crate) fn check_kind(call: &Call, value: &mut Value) -> Result<(), ApiError> {
    let resource = &call.resource;
    let api_version = resource.api_version(&call.info.version);
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (given_version, given_kind) = (text("apiVersion"), text("kind"));
    for (field, given) in [("Kind", &given_kind), ("apiVersion", &given_version)] {
        if given.is_empty() && resource.custom {
            let shown: String = value.to_string().chars().take(1024).collect();
            return Err(ApiError::bad_request(format!("Object '{field}' is missing in '{shown}'")));
        }
    }
    let same_kind = given_kind.is_empty() || given_kind == resource.kind;
    let same_version = given_version.is_empty() || given_version == api_version;
    if !same_kind || !same_version {
        return Err(ApiError::bad_request(mismatch(call, &given_version, &given_kind)));
    }
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), Value::from(api_version));
        map.insert("kind".to_owned(), Value::from(resource.kind.as_str()));
    }
    if !value.get("metadata").is_none_or(|meta| meta.is_object() || meta.is_null()) {
        let (kind, version) = (&resource.kind, &call.info.version);
        return Err(ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: json: cannot unmarshal into Go struct field \
             {kind}.metadata of type v1.ObjectMeta"
        )));
    }
    Ok(())
}

fn mismatch(call: &Call, given_version: &str, given_kind: &str) -> String {
    let resource = &call.resource;
    let api_version = resource.api_version(&call.info.version);
    if resource.custom {
        let found = if given_kind == resource.kind { given_version } else { given_kind };
        let wanted = if given_kind == resource.kind { api_version } else { resource.kind.clone() };
        return format!(
            "the {} in the data ({found}) does not match the expected {} ({wanted})",
            if given_kind == resource.kind { "API version" } else { "kind" },
            if given_kind == resource.kind { "API version" } else { "kind" },
        );
    }
    let kind = if given_kind.is_empty() { &resource.kind } else { given_kind };
    let given_version = if given_version.is_empty() { &api_version } else { given_version };
    let short = resource.group.split('.').next().filter(|short| !short.is_empty()).unwrap_or("core");
    not_handled(call, (given_version, kind), (short, &resource.kind))
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
fn not_handled(call: &Call, (given_version, kind): (&str, &str), (short, wanted): (&str, &str)) -> String {
    let version = given_version.rsplit('/').next().unwrap_or_default();
    let (group, _) = given_version.rsplit_once('/').unwrap_or(("", version));
    let served = |one: &crate::resource::Resource| {
        !one.custom && one.group == group && one.kind == kind && one.version(version).is_some()
    };
    let known = call.server.registry().all().iter().any(|one| served(one));
    let why = if known {
        format!("converting ({version}.{kind}) to ({short}.{wanted}): unknown conversion")
    } else {
        format!("no kind {kind:?} is registered for version {given_version:?} in scheme {SCHEME:?}")
    };
    format!("{kind} in version {version:?} cannot be handled as a {wanted}: {why}")
}

/// Where the API server's errors say that the built-in kinds are registered.
const SCHEME: &str = "pkg/runtime/scheme.go:110";

/// A patch in JSON or YAML.
pub(crate) fn patch_value(call: &Call, yaml: bool) -> Result<Value, ApiError> {
    let bytes = &call.body;
    let parsed = if yaml { yaml_value(bytes) } else { json_value(call, bytes) };
    parsed.map_err(|why| {
        if yaml {
            ApiError::bad_request(format!("error decoding YAML: {why}"))
        } else {
            ApiError::new(Reason::BadRequest, format!("error decoding patch: {why}"))
        }
    })
}
