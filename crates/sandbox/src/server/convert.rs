//! Objects between the version they are stored in and the version a request speaks.
//!
//! A stored object is in the version that its own `apiVersion` names: whoever wrote it may have done so under another
//! definition. Reading a custom object drops what its version does not know (any more) and fills in what has a default
//! (by now); converting it drops what the other version does not know. Writing it changes nothing unless it is converted:
//! what a webhook has put into it is stored, and dropped when it is read.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use super::handler::Call;
use super::storage::Stored;
use crate::error::ApiError;
use crate::resource::Resource;
use crate::{conversion, kinds};

/// Objects are written out as they are stored.
fn as_stored(call: &Call) -> bool {
    !call.resource.custom
        && Arc::ptr_eq(&call.resource, &call.stored_as)
        && call.info.version == call.stored_as.storage
}

/// Stored objects as the request's version shows them. `apiVersion` is left to whoever writes them out.
pub(crate) async fn shown(call: &Call, objects: Vec<Arc<Stored>>) -> Result<Vec<Arc<Stored>>, ApiError> {
    if as_stored(call) {
        return Ok(objects);
    }
    let (resource, version) = (&call.resource, &call.info.version);
    let mut views: Vec<Option<Arc<Stored>>> =
        objects.iter().map(|object| object.view(resource, version)).collect();
    let missing: Vec<Arc<Stored>> = objects
        .iter()
        .zip(&views)
        .filter(|(_, view)| view.is_none())
        .map(|(object, _)| Arc::clone(object))
        .collect();
    let mut made = made(call, &missing).await?.into_iter();
    for (object, view) in objects.iter().zip(&mut views).filter(|(_, view)| view.is_none()) {
        *view = made.next();
        if let Some(shown) = view {
            object.keep_view(resource, version, shown);
        }
    }
    Ok(views.into_iter().flatten().collect())
}

/// Stored objects as the request's version shows them, made anew.
async fn made(call: &Call, objects: &[Arc<Stored>]) -> Result<Vec<Arc<Stored>>, ApiError> {
    let mut values = Vec::with_capacity(objects.len());
    for object in objects {
        let mut value = object.value.clone();
        fit(&call.resource, &mut value, true)?;
        values.push(value);
    }
    let values = convert(call, values, &call.resource, &call.info.version).await?;
    let made = objects.iter().zip(values).map(|(object, value)| {
        if is_same(&object.value, &value) { Arc::clone(object) } else { Stored::as_is(value, object.rv) }
    });
    Ok(made.collect())
}

/// Nothing but the version differs, if at all.
fn is_same(one: &Value, other: &Value) -> bool {
    let fields = |value: &Value| value.as_object().map_or(0, serde_json::Map::len);
    let all = one.as_object().into_iter().flatten();
    fields(one) == fields(other)
        && all.filter(|(name, _)| *name != "apiVersion").all(|(name, value)| other.get(name) == Some(value))
}

/// Drops what the object's own version does not know; fills in defaults if it is read.
fn fit(resource: &Resource, value: &mut Value, read: bool) -> Result<(), ApiError> {
    if !resource.custom {
        return Ok(());
    }
    let schema = resource.schema_of(value).map_err(|version| {
        ApiError::unexplained(format!("request to convert CR from an invalid group/version: {version}"))
    })?;
    if read {
        // What is wrong with metadata was refused when they came in, or a webhook has done it.
        let _ = kinds::decode_metadata(value);
    }
    if let Some(schema) = schema {
        schema.prune(value);
        if read {
            schema.default(value);
        }
    }
    Ok(())
}

/// One stored object as the request's version shows it.
pub(crate) async fn shown_one(call: &Call, object: Arc<Stored>) -> Result<Arc<Stored>, ApiError> {
    if as_stored(call) {
        return Ok(object);
    }
    let mut shown = shown(call, vec![object]).await?;
    shown.pop().ok_or_else(lost)
}

/// The same for who asks for the object itself, and not for what the cache of lists and watches has of it: a webhook is
/// asked each time.
pub(crate) async fn fresh(call: &Call, object: Arc<Stored>) -> Result<Arc<Stored>, ApiError> {
    let own = object.value.get("apiVersion").and_then(Value::as_str);
    if !call.resource.custom || own == Some(call.resource.api_version(&call.info.version).as_str()) {
        return shown_one(call, object).await;
    }
    let made = made(call, std::slice::from_ref(&object)).await?.pop().ok_or_else(lost)?;
    if object.view(&call.resource, &call.info.version).is_none() {
        object.keep_view(&call.resource, &call.info.version, &made);
    }
    Ok(made)
}

fn lost() -> ApiError {
    ApiError::internal("a conversion lost the object")
}

/// A stored object in the request's version, `apiVersion` included, copied only where it is not stored like that.
pub(crate) async fn seen<'a>(call: &Call, object: &'a Arc<Stored>) -> Result<Cow<'a, Value>, ApiError> {
    let shown = shown_one(call, Arc::clone(object)).await?;
    let wanted = call.resource.api_version(&call.info.version);
    let typed = shown.value.get("apiVersion").and_then(Value::as_str) == Some(wanted.as_str());
    if typed && Arc::ptr_eq(&shown, object) {
        return Ok(Cow::Borrowed(&object.value));
    }
    let mut value = shown.value.clone();
    retype(&mut value, &wanted);
    Ok(Cow::Owned(value))
}

/// An object of the request's version as it is stored.
pub(crate) async fn stored(call: &Call, mut value: Value) -> Result<Value, ApiError> {
    if as_stored(call) {
        retype(&mut value, &call.stored_as.api_version(&call.stored_as.storage));
        return Ok(value);
    }
    let mut converted = convert(call, vec![value], &call.stored_as, &call.stored_as.storage).await?;
    converted.pop().ok_or_else(lost)
}

fn retype(value: &mut Value, api_version: &str) {
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), Value::from(api_version));
    }
}

/// The objects in the version; those that are in another one lose what this one does not know.
async fn convert(
    call: &Call,
    mut values: Vec<Value>,
    to: &Resource,
    version: &str,
) -> Result<Vec<Value>, ApiError> {
    let api_version = to.api_version(version);
    if !to.custom {
        for value in &mut values {
            kinds::convert(value, &api_version);
        }
        return Ok(values);
    }
    let own = |value: &Value| value.get("apiVersion").and_then(Value::as_str) == Some(api_version.as_str());
    let kept: Vec<bool> = values.iter().map(own).collect();
    let caller = &*call.server.0.config.webhooks;
    let mut values = conversion::convert(to, values, &api_version, caller).await?;
    for (value, _) in values.iter_mut().zip(kept).filter(|(_, kept)| !kept) {
        fit(to, value, false)?;
    }
    Ok(values)
}
