//! Applying a webhook's JSON patch, with the reason of the first operation that does not apply.

use serde_json::Value;

/// Applies all operations or, on an error, none that matters: the request is refused.
pub(super) fn apply(object: &mut Value, patch: &Value) -> Result<(), String> {
    for operation in patch.as_array().map(Vec::as_slice).unwrap_or_default() {
        let alone = Value::Array(vec![operation.clone()]);
        crate::patch::json(object, &alone).map_err(|_| why(object, operation))?;
    }
    Ok(())
}

/// Why an operation does not apply, in the words of the API server's patch library.
fn why(object: &Value, operation: &Value) -> String {
    let text = |field: &str| operation.get(field).and_then(Value::as_str).unwrap_or_default();
    let (path, from) = (text("path"), text("from"));
    let (parent, key) = path.rsplit_once('/').unwrap_or_default();
    let holder = object.pointer(parent);
    match (text("op"), holder) {
        ("test", None) => format!("test operation does not apply: is missing path: {path}: missing value"),
        ("test", Some(_)) => format!("testing value {path} failed: test failed"),
        ("replace", None) => {
            format!("replace operation does not apply: doc is missing path: {path}: missing value")
        }
        ("replace", Some(_)) => {
            format!("replace operation does not apply: doc is missing key: {path}: missing value")
        }
        ("remove", Some(Value::Object(_))) => {
            format!(
                "error in remove for path: '{path}': Unable to remove nonexistent key: {key}: missing value"
            )
        }
        (kind @ ("add" | "remove"), Some(Value::Array(_))) => {
            format!("error in {kind} for path: '{path}': {}", bad_index(key))
        }
        (kind @ ("add" | "remove"), _) => {
            format!("{kind} operation does not apply: doc is missing path: \"{path}\": missing value")
        }
        (kind @ ("move" | "copy"), _) if object.pointer(from).is_none() => {
            format!("{kind} operation does not apply: doc is missing from path: {from}: missing value")
        }
        (kind @ ("move" | "copy"), _) => {
            format!("{kind} operation does not apply: doc is missing destination path: {path}: missing value")
        }
        (kind, _) => format!("Unexpected kind: {kind}"),
    }
}

fn bad_index(key: &str) -> String {
    match key.parse::<i64>() {
        Ok(index) => format!("Unable to access invalid index: {index}: invalid index referenced"),
        Err(_) => format!(
            "value was not a proper array index: '{key}': strconv.Atoi: parsing \"{key}\": invalid syntax"
        ),
    }
}
