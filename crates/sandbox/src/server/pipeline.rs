//! What happens to an object between the request and the store: decoding, defaults, admission, validation.
//!
//! All of it speaks the version of the request; [`super::convert`] turns the result into what is stored.

use serde_json::Value;

use super::admit::{self, CONFIGURATIONS, Deletion, Question};
use super::handler::Call;
use super::patches::Form;
use super::storage::lock;
use super::{decode, owners, sub};
use crate::admission::{self, Operation};
use crate::error::{ApiError, FieldError};
use crate::schema::Structural;
use crate::{crd, kinds, object};

/// Which rules an update follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rules<'a> {
    /// Those of the object itself (`None`) or of a subresource that writes the object.
    Of(Option<&'a str>),
    /// The same, after an apply has settled who owns which field.
    Applied(Option<&'a str>),
    /// None: the server itself changes the object.
    Raw,
}

/// How unknown and duplicate fields are met: the `fieldValidation` parameter.
fn strictness(call: &Call) -> &str {
    match call.query.get("fieldValidation") {
        "" => "Warn",
        given => given,
    }
}

fn structural(call: &Call) -> Option<&Structural> {
    call.version().and_then(|version| version.structural.as_ref())
}

/// Reads the fields of an object that a client sent: their types, unknown ones, defaults.
pub(crate) fn decode(call: &Call, value: &mut Value) -> Result<(), ApiError> {
    let (kind, version) = (&call.resource.kind, &call.info.version);
    let wrap = |why: &str| format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}");
    let unknown = remove_unknown(call, value)?;
    match strict_error(call, &unknown) {
        Some(text) => Err(ApiError::bad_request(wrap(&text))),
        None => Ok(()),
    }
}

/// The same for the result of a patch, whose refusals quote the patch or its result.
pub(crate) fn decode_patched(
    call: &Call,
    value: &mut Value,
    form: Form,
    quoted: impl Fn() -> String,
) -> Result<(), ApiError> {
    let refused = |why: &str| {
        ApiError::invalid("", "", "", &[FieldError::invalid("patch", &Value::from(quoted()), why)])
    };
    decode::check_kind(call, value).map_err(|wrong| match wrong.patched(call, value) {
        Ok(error) => error,
        Err(why) => refused(&why),
    })?;
    let unknown = remove_unknown(call, value).map_err(|error| {
        let prefix = format!("cannot be handled as a {}: ", call.resource.kind);
        let why = error.message.split_once(&prefix).map_or(error.message.as_str(), |(_, why)| why);
        let converted = (form == Form::Strategic).then(|| not_converted(why)).flatten();
        refused(converted.as_deref().unwrap_or(why))
    })?;
    match strict_error(call, &unknown) {
        Some(text) => Err(refused(&text)),
        None => Ok(()),
    }
}

/// What the decoder says of a wrong type, in the words of the conversion that a strategic patch goes through.
fn not_converted(why: &str) -> Option<String> {
    let (found, rest) = why.strip_prefix("json: cannot unmarshal ")?.split_once(" into Go ")?;
    let (_, wanted) = rest.rsplit_once(" of type ")?;
    let found = found.split(' ').next()?;
    let (kind, name) = match found {
        "object" => ("map", "map[string]interface {}"),
        "array" => ("slice", "[]interface {}"),
        "number" => ("int64", "int64"),
        other => (other, other),
    };
    Some(if wanted.starts_with("map[") {
        format!("cannot restore map from {kind}")
    } else if wanted.starts_with("[]") {
        format!("cannot restore slice from {kind}")
    } else if wanted.contains('.') {
        format!("cannot restore struct from: {kind}")
    } else {
        format!("cannot convert {name} to {wanted}")
    })
}

fn remove_unknown(call: &Call, value: &mut Value) -> Result<Vec<String>, ApiError> {
    if !call.resource.custom {
        return kinds::decode(&call.resource, &call.info.version, value);
    }
    let Some(schema) = structural(call) else { return Ok(Vec::new()) };
    let mut unknown = kinds::decode_metadata(value).map_err(|why| {
        let (kind, version) = (&call.resource.kind, &call.info.version);
        ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
    })?;
    unknown.extend(schema.prune(value));
    unknown.sort();
    schema.default(value);
    Ok(unknown)
}

/// The error for unknown and repeated fields, if they are one; otherwise they are warned of.
fn strict_error(call: &Call, unknown: &[String]) -> Option<String> {
    let twice = lock(&call.twice);
    if unknown.is_empty() && twice.is_empty() {
        return None;
    }
    let twice = twice.iter().map(|path| format!("duplicate field {path:?}"));
    let texts: Vec<String> =
        twice.chain(unknown.iter().map(|path| format!("unknown field {path:?}"))).collect();
    match strictness(call) {
        "Strict" => Some(format!("strict decoding error: {}", texts.join(", "))),
        "Warn" => {
            for text in texts {
                call.warn(text);
            }
            None
        }
        _ => None,
    }
}

/// Fills in the fields that have a default in the object's own version: webhooks may be asked in another than the request's.
pub(crate) fn default(call: &Call, value: &mut Value) {
    if let Ok(Some(schema)) = call.resource.schema_of(value) {
        schema.default(value);
    }
    kinds::default(&call.resource, value);
    if call.resource.group == "admissionregistration.k8s.io" {
        admission::default_configuration(value);
    } else if is_crd(call) {
        crd::default(value);
    }
}

/// Fills in what the server decides about a new object, and checks it; `tracked` if its owners are known already.
pub(crate) async fn create(call: &Call, value: &mut Value, tracked: bool) -> Result<(), ApiError> {
    wipe(call, value);
    default(call, value);
    if !tracked {
        owners::track(call, None, value);
    }
    let question = Question { new: Some(value), ..Question::of(Operation::Create) };
    if let Some(mutated) = admit::mutate(call, &question).await? {
        *value = mutated;
    }
    identify(call, value);
    kinds::prepare_create(&call.resource, value, call.server.now());
    if is_crd(call) {
        crd::prepare_create(value);
    }
    let mut errors = kinds::validate_create(&call.resource, value);
    if let Some(schema) = structural(call) {
        errors.extend(schema.validate(value, None));
        errors.extend(sub::scale_errors(call, value));
    } else if is_crd(call) {
        errors.extend(crd::validate_create(value));
    } else if is_configuration(call) {
        errors.extend(admission::validate_configuration(value));
    }
    refuse(call, value, &errors)?;
    let question = Question { new: Some(value), ..Question::of(Operation::Create) };
    admit::validate(call, &question).await
}

fn is_crd(call: &Call) -> bool {
    call.resource.plural == "customresourcedefinitions" && call.resource.group == "apiextensions.k8s.io"
}

fn is_configuration(call: &Call) -> bool {
    CONFIGURATIONS.contains(&call.table.as_str())
}

/// Takes away what clients cannot set, and sets the namespace.
fn wipe(call: &Call, value: &mut Value) {
    let meta = object::meta_mut(value);
    for gone in [
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
        "uid",
        "creationTimestamp",
    ] {
        meta.remove(gone);
    }
    if call.resource.namespaced {
        meta.insert("namespace".to_owned(), Value::from(call.info.namespace.as_str()));
    } else {
        meta.remove("namespace");
    }
}

/// Name, uid and time of a new object.
fn identify(call: &Call, value: &mut Value) {
    let server = &call.server;
    let prefix = value.pointer("/metadata/generateName").and_then(Value::as_str).unwrap_or_default();
    let generated = (object::name(value).is_empty() && !prefix.is_empty()).then(|| {
        let kept: String = prefix.chars().take(58).collect();
        format!("{kept}{}", server.new_suffix())
    });
    if let Some(name) = generated {
        object::set_meta(value, "name", Value::from(name));
    }
    object::set_meta(value, "uid", Value::from(server.new_uid()));
    object::set_meta(value, "creationTimestamp", Value::from(server.time()));
}

/// Carries over what an update may not change, and checks the result; `tracked` if its owners are known already.
pub(crate) async fn update(
    call: &Call,
    subresource: Option<&str>,
    old: &Value,
    new: &mut Value,
    tracked: bool,
) -> Result<(), ApiError> {
    if call.resource.namespaced {
        object::set_meta(new, "namespace", Value::from(call.info.namespace.as_str()));
    }
    default(call, new);
    if !tracked {
        owners::track(call, Some(old), new);
    }
    let asked = Question { subresource, old: Some(old), ..Question::of(Operation::Update) };
    let question = Question { new: Some(new), ..asked };
    if let Some(mutated) = admit::mutate(call, &question).await?
        && subresource != Some("scale")
    {
        *new = mutated;
    }
    prepare_update(call, subresource, old, new);
    let mut errors = kinds::validate_update(&call.resource, subresource, old, new);
    if let Some(schema) = structural(call) {
        if subresource == Some("status") {
            errors.extend(schema.validate_status(new, old));
        } else {
            errors.extend(schema.validate(new, Some(old)));
            errors.extend(sub::scale_errors(call, new));
        }
        for warning in schema.warnings(new, old) {
            call.warn(warning);
        }
    } else if is_crd(call) && subresource.is_none() {
        errors.extend(crd::validate_update(old, new));
    } else if is_configuration(call) {
        errors.extend(admission::validate_configuration(new));
    }
    refuse(call, new, &errors)?;
    let question = Question { new: Some(new), ..asked };
    admit::validate(call, &question).await
}

fn prepare_update(call: &Call, subresource: Option<&str>, old: &Value, new: &mut Value) {
    kinds::prepare_update(&call.resource, subresource, old, new);
    if is_crd(call) && subresource.is_none() {
        // Its generation is counted there as well: start from the old one.
        let generation = old.pointer("/metadata/generation").cloned().unwrap_or_default();
        object::set_meta(new, "generation", generation);
        crd::prepare_update(old, new);
    }
}

/// Asks who may object to a deletion.
pub(crate) async fn delete(call: &Call, current: &Value, deletion: &Deletion<'_>) -> Result<(), ApiError> {
    let question =
        Question { old: Some(current), deletion: Some(deletion), ..Question::of(Operation::Delete) };
    admit::mutate(call, &question).await?;
    admit::validate(call, &question).await
}

/// Asks about an object that is posted to a subresource and not stored, an eviction or a binding; it as webhooks leave it.
pub(crate) async fn posted(call: &Call, posted: Value) -> Result<Value, ApiError> {
    let asked = Question { subresource: call.subresource(), ..Question::of(Operation::Create) };
    let mutated = admit::mutate(call, &Question { new: Some(&posted), ..asked }).await?;
    let posted = mutated.unwrap_or(posted);
    admit::validate(call, &Question { new: Some(&posted), ..asked }).await?;
    Ok(posted)
}

fn refuse(call: &Call, value: &Value, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid_object(&call.resource, object::name(value), errors))
}
