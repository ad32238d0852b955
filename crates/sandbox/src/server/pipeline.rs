//! What happens to an object between the request and the store: defaults, preparation, admission, validation.

use serde_json::Value;

use super::handler::Call;
use super::names;
use crate::error::{ApiError, FieldError};
use crate::object;

/// Fills in what the server decides about a new object, and checks it.
pub(crate) async fn create(call: &Call, value: &mut Value) -> Result<(), ApiError> {
    let server = &call.server;
    identify(call, value);
    if call.resource.custom {
        custom_create(call, value);
    }
    std::future::ready(()).await;
    let mut errors = names::validate_create(&call.resource, value);
    errors.extend(field_errors(call, None, value));
    let _ = server;
    refuse(call, value, &errors)
}

/// System fields and the name of a new object.
fn identify(call: &Call, value: &mut Value) {
    let server = &call.server;
    let (uid, time) = (server.new_uid(), server.time());
    let generated = {
        let prefix = value.pointer("/metadata/generateName").and_then(Value::as_str).unwrap_or_default();
        (object::name(value).is_empty() && !prefix.is_empty()).then(|| {
            let kept: String = prefix.chars().take(58).collect();
            format!("{kept}{}", server.new_suffix())
        })
    };
    let meta = object::meta_mut(value);
    for gone in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"] {
        meta.remove(gone);
    }
    if let Some(name) = generated {
        meta.insert("name".to_owned(), Value::from(name));
    }
    meta.insert("uid".to_owned(), Value::from(uid));
    meta.insert("creationTimestamp".to_owned(), Value::from(time));
    if call.resource.namespaced {
        meta.insert("namespace".to_owned(), Value::from(call.info.namespace.as_str()));
    } else {
        meta.remove("namespace");
    }
}

fn has_status(call: &Call) -> bool {
    call.version().is_some_and(|version| version.subresources.iter().any(|name| name == "status"))
}

fn custom_create(call: &Call, value: &mut Value) {
    if has_status(call)
        && let Some(map) = value.as_object_mut()
    {
        map.remove("status");
    }
    object::set_meta(value, "generation", Value::from(1));
}

/// Carries over what an update may not change, and checks the result.
pub(crate) async fn update(call: &Call, old: &Value, new: &mut Value) -> Result<(), ApiError> {
    keep_meta(old, new);
    if call.resource.custom {
        custom_update(call, old, new);
    }
    std::future::ready(()).await;
    let mut errors = names::validate_update(old, new);
    errors.extend(field_errors(call, Some(old), new));
    refuse(call, new, &errors)
}

fn keep_meta(old: &Value, new: &mut Value) {
    let before = old.get("metadata").cloned().unwrap_or_default();
    let meta = object::meta_mut(new);
    for field in ["name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp"] {
        match before.get(field) {
            Some(value) => meta.insert(field.to_owned(), value.clone()),
            None if field == "deletionTimestamp" => None,
            None => meta.remove(field),
        };
    }
    if let (Some(value), false) = (
        before.get("deletionGracePeriodSeconds"),
        meta.get("deletionGracePeriodSeconds").is_some_and(|seconds| !seconds.is_null()),
    ) {
        meta.insert("deletionGracePeriodSeconds".to_owned(), value.clone());
    }
    for field in ["generateName", "selfLink"] {
        if meta.get(field).is_some_and(|value| value.is_null() || value == "") {
            meta.remove(field);
        }
    }
    meta.retain(|_, value| !value.is_null());
}

fn custom_update(call: &Call, old: &Value, new: &mut Value) {
    if call.subresource() == Some("status") {
        let status = new.get("status").cloned();
        let managed = new.pointer("/metadata/managedFields").cloned();
        *new = old.clone();
        put(new, "status", status);
        if let Some(managed) = managed {
            object::set_meta(new, "managedFields", managed);
        }
        return;
    }
    if has_status(call) {
        put(new, "status", old.get("status").cloned());
    }
    if !same_but(old, new, &["metadata", "status"][..if has_status(call) { 2 } else { 1 }]) {
        let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        object::set_meta(new, "generation", Value::from(generation + 1));
    }
}

fn put(value: &mut Value, field: &str, content: Option<Value>) {
    if let Some(map) = value.as_object_mut() {
        match content {
            Some(content) => map.insert(field.to_owned(), content),
            None => map.remove(field),
        };
    }
}

/// The objects are equal but for these fields (and `apiVersion`).
fn same_but(a: &Value, b: &Value, ignored: &[&str]) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let counts = |key: &str| key != "apiVersion" && !ignored.contains(&key);
    let left = a.iter().filter(|(key, _)| counts(key));
    let right = b.iter().filter(|(key, _)| counts(key));
    left.eq(right)
}

fn field_errors(_call: &Call, _old: Option<&Value>, _new: &Value) -> Vec<FieldError> {
    Vec::new()
}

fn refuse(call: &Call, value: &Value, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid_object(&call.resource, object::name(value), errors))
}

/// Asks who may object to a deletion.
pub(crate) async fn delete(_call: &Call, _current: &Value) -> Result<(), ApiError> {
    std::future::ready(()).await;
    Ok(())
}
