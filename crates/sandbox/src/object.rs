//! Reading and writing `metadata` of an object that is a JSON value.

use serde_json::Value;

/// `metadata.name`, or the empty text.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.namespace`, or the empty text.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`, or the empty text.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`, or the empty text.
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|meta| meta.get(field)).and_then(Value::as_str).unwrap_or_default()
}
