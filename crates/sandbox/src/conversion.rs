//! Objects of one version of a custom resource as another.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::object;
use crate::resource::{Conversion, Resource};
use crate::webhook::{WebhookCaller, go_kind, json_object};

/// How long a conversion webhook may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The objects in the wanted version, in one call of the webhook for all that have another one.
///
/// `api_version` is `group/version`; objects that have it already are returned as they are.
pub async fn convert(
    resource: &Resource,
    objects: Vec<Value>,
    api_version: &str,
    caller: &dyn WebhookCaller,
) -> Result<Vec<Value>, ApiError> {
    let client = match &resource.conversion {
        Conversion::None => {
            return Ok(objects.into_iter().map(|object| renamed(object, api_version)).collect());
        }
        Conversion::Webhook(client) => client,
    };
    let asked: Vec<&Value> = objects.iter().filter(|object| version_of(object) != api_version).collect();
    let Some(first) = asked.first() else { return Ok(objects) };
    let from = go_kind(first);
    let fail = |why: String| ApiError::internal(format!("conversion webhook for {from} {why}"));
    let uid = uuid::Uuid::new_v4().to_string();
    let review = json!({
        "kind": "ConversionReview",
        "apiVersion": "apiextensions.k8s.io/v1",
        "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": asked},
    });
    let answer = caller.call(client, Bytes::from(review.to_string()), PATIENCE).await;
    let answer = answer.map_err(|why| fail(format!("failed: {why}")))?;
    let converted = read(&answer, &uid).map_err(|why| fail(format!("failed: {why}")))?;
    if converted.len() != asked.len() {
        return Err(fail(format!("returned {} objects, expected {}", converted.len(), asked.len())));
    }
    let mut converted = converted.into_iter().enumerate();
    let mut all = Vec::with_capacity(objects.len());
    for object in objects {
        if version_of(&object) == api_version {
            all.push(object);
        } else if let Some((at, made)) = converted.next() {
            all.push(checked(&object, made, at, api_version).map_err(fail)?);
        }
    }
    Ok(all)
}

fn version_of(object: &Value) -> &str {
    text(object, "apiVersion")
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn renamed(mut object: Value, api_version: &str) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), api_version.into());
    }
    object
}

/// The converted objects of an answer, or why there are none.
fn read(answer: &[u8], uid: &str) -> Result<Vec<Value>, String> {
    let review = json_object(answer)?;
    let (wanted, got) = ("apiextensions.k8s.io/v1, Kind=ConversionReview", go_kind(&review));
    if got != wanted {
        return Err(format!("expected webhook response of {wanted}, got {got}"));
    }
    let Some(response) = review.get("response").filter(|response| response.is_object()) else {
        return Err("no response provided".to_owned());
    };
    if text(response, "uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(response, "uid")));
    }
    let result = response.get("result").unwrap_or(&Value::Null);
    match (text(result, "status"), text(result, "message")) {
        ("Success", _) => {
            Ok(response.get("convertedObjects").and_then(Value::as_array).cloned().unwrap_or_default())
        }
        (status, "") => Err(format!("response.result.status was '{status}', not 'Success'")),
        (_, message) => Err(message.to_owned()),
    }
}

/// The converted object with the metadata of the original, of which only labels and annotations may change.
fn checked(original: &Value, mut made: Value, at: usize, api_version: &str) -> Result<Value, String> {
    let invalid = |why: String| format!("returned invalid converted object at index {at}: {why}");
    if version_of(&made) != api_version {
        let got = version_of(&made);
        return Err(invalid(format!("invalid groupVersion (expected {api_version}, received {got})")));
    }
    let (wanted, got) = (text(original, "kind"), text(&made, "kind"));
    if wanted != got {
        return Err(invalid(format!("invalid kind (expected {wanted}, received {got})")));
    }
    for (what, read) in
        [("name", object::name as fn(&Value) -> &str), ("namespace", object::namespace), ("UID", object::uid)]
    {
        let (wanted, got) = (read(original), read(&made));
        if wanted != got {
            return Err(invalid(format!("must have the same {what}: {wanted} != {got}")));
        }
    }
    let Some(answered) = made.get("metadata").and_then(Value::as_object).cloned() else {
        return Err(format!(
            "returned invalid metadata in object at index {at}: missing metadata in converted object"
        ));
    };
    let mut metadata = original.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    keep_texts(&answered, &mut metadata);
    if let Some(map) = made.as_object_mut() {
        map.insert("metadata".to_owned(), Value::Object(metadata));
    }
    Ok(made)
}

fn keep_texts(answered: &Map<String, Value>, metadata: &mut Map<String, Value>) {
    for field in ["labels", "annotations"] {
        match answered.get(field).filter(|value| value.is_object()) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
}

#[cfg(test)]
mod tests;
