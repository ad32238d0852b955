//! Objects between the version they are stored in and the version a request speaks.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use super::handler::Call;
use super::storage::Stored;
use crate::error::ApiError;
use crate::resource::{Conversion, Resource};
use crate::{conversion, kinds};

/// Objects of one resource can be written out in the version without being changed (but for `apiVersion`).
fn same(call: &Call) -> bool {
    let aliased = !Arc::ptr_eq(&call.resource, &call.stored_as);
    let stored = call.info.version == call.stored_as.storage;
    !aliased && (stored || (call.resource.custom && matches!(call.resource.conversion, Conversion::None)))
}

/// Stored objects as the request's version shows them. `apiVersion` is left to whoever writes them out.
pub(crate) async fn shown(call: &Call, objects: Vec<Arc<Stored>>) -> Result<Vec<Arc<Stored>>, ApiError> {
    if same(call) {
        return Ok(objects);
    }
    let wanted = call.resource.api_version(&call.info.version);
    let missing: Vec<&Arc<Stored>> =
        objects.iter().filter(|object| object.converted(&wanted).is_none()).collect();
    if !missing.is_empty() {
        let values: Vec<Value> = missing.iter().map(|object| object.value.clone()).collect();
        let converted = convert(call, values, &call.resource, &call.info.version).await?;
        for (object, value) in missing.into_iter().zip(converted) {
            object.keep_converted(&wanted, &Stored::as_is(value, object.rv));
        }
    }
    Ok(objects.into_iter().map(|object| object.converted(&wanted).unwrap_or(object)).collect())
}

/// One stored object as the request's version shows it.
pub(crate) async fn shown_one(call: &Call, object: Arc<Stored>) -> Result<Arc<Stored>, ApiError> {
    if same(call) {
        return Ok(object);
    }
    let mut converted = shown(call, vec![object]).await?;
    converted.pop().ok_or_else(|| ApiError::internal("a conversion lost the object"))
}

/// A copy of a stored object in the request's version, `apiVersion` included.
pub(crate) async fn copy(call: &Call, object: &Arc<Stored>) -> Result<Value, ApiError> {
    let mut value = shown_one(call, Arc::clone(object)).await?.value.clone();
    retype(&mut value, &call.resource, &call.info.version);
    Ok(value)
}

/// A stored object in the request's version, `apiVersion` included, copied only where that is another one.
pub(crate) async fn seen<'a>(call: &Call, object: &'a Arc<Stored>) -> Result<Cow<'a, Value>, ApiError> {
    let stored = object.value.get("apiVersion").and_then(Value::as_str);
    if same(call) && stored == Some(call.resource.api_version(&call.info.version).as_str()) {
        return Ok(Cow::Borrowed(&object.value));
    }
    copy(call, object).await.map(Cow::Owned)
}

/// An object of the request's version as it is stored.
pub(crate) async fn stored(call: &Call, mut value: Value) -> Result<Value, ApiError> {
    if same(call) {
        retype(&mut value, &call.stored_as, &call.stored_as.storage);
        return Ok(value);
    }
    let storage = call.stored_as.storage.clone();
    let mut converted = convert(call, vec![value], &call.stored_as, &storage).await?;
    converted.pop().ok_or_else(|| ApiError::internal("a conversion lost the object"))
}

fn retype(value: &mut Value, resource: &Resource, version: &str) {
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), Value::from(resource.api_version(version)));
    }
}

async fn convert(
    call: &Call,
    mut values: Vec<Value>,
    to: &Resource,
    version: &str,
) -> Result<Vec<Value>, ApiError> {
    let api_version = to.api_version(version);
    if to.custom {
        let caller = &*call.server.0.config.webhooks;
        return conversion::convert(to, values, &api_version, caller).await;
    }
    for value in &mut values {
        kinds::convert(value, &api_version);
    }
    Ok(values)
}
