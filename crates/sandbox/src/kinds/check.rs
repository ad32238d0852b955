//! Collecting refused fields in the API server's words, and reading fields of JSON objects.

use serde_json::{Map, Value};

use crate::error::{CauseKind, FieldError};

/// Refused fields found so far, in order.
#[derive(Debug, Default)]
pub(crate) struct Checks(pub(crate) Vec<FieldError>);

impl Checks {
    /// The value cannot be accepted for the reason in `detail`.
    pub(crate) fn invalid(&mut self, field: impl Into<String>, value: &Value, detail: &str) {
        self.add(field, CauseKind::FieldValueInvalid, &format!("Invalid value: {}", shown(value)), detail);
    }

    /// As [`Checks::invalid`] for a value that the API server writes in an order or with names of its own.
    pub(crate) fn invalid_text(&mut self, field: impl Into<String>, value: &str, detail: &str) {
        self.add(field, CauseKind::FieldValueInvalid, &format!("Invalid value: {value}"), detail);
    }

    /// As [`Checks::invalid`] for each reason.
    pub(crate) fn invalid_each(&mut self, field: &str, value: &str, details: Vec<String>) {
        for detail in details {
            self.invalid(field, &Value::from(value), &detail);
        }
    }

    /// A required field is absent.
    pub(crate) fn required(&mut self, field: impl Into<String>, detail: &str) {
        self.add(field, CauseKind::FieldValueRequired, "Required value", detail);
    }

    /// The field may not be set.
    pub(crate) fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.add(field, CauseKind::FieldValueForbidden, "Forbidden", detail);
    }

    /// The value is none of `allowed`, which are listed in the given order.
    pub(crate) fn not_supported(&mut self, field: impl Into<String>, value: &str, allowed: &[&str]) {
        let allowed: Vec<String> = allowed.iter().map(|name| format!("{name:?}")).collect();
        let detail = format!("supported values: {}", allowed.join(", "));
        self.add(field, CauseKind::FieldValueNotSupported, &format!("Unsupported value: {value:?}"), &detail);
    }

    /// As [`Checks::not_supported`] for a value that is no text.
    pub(crate) fn not_supported_text(&mut self, field: impl Into<String>, value: &str, allowed: &[&str]) {
        let allowed: Vec<String> = allowed.iter().map(|name| format!("{name:?}")).collect();
        let detail = format!("supported values: {}", allowed.join(", "));
        self.add(field, CauseKind::FieldValueNotSupported, &format!("Unsupported value: {value}"), &detail);
    }

    /// The value names something that does not exist.
    pub(crate) fn not_found(&mut self, field: impl Into<String>, value: &str) {
        self.add(field, CauseKind::FieldValueNotFound, &format!("Not found: {value:?}"), "");
    }

    /// The value occurs a second time.
    pub(crate) fn duplicate(&mut self, field: impl Into<String>, value: &str) {
        self.add(field, CauseKind::FieldValueDuplicate, &format!("Duplicate value: {value:?}"), "");
    }

    /// The text or map is longer than `limit` bytes.
    pub(crate) fn too_long(&mut self, field: impl Into<String>, limit: usize) {
        let detail = format!("may not be more than {limit} bytes");
        self.add(field, CauseKind::FieldValueTooLong, "Too long", &detail);
    }

    /// A number that must not be negative.
    pub(crate) fn nonnegative(&mut self, object: &Value, key: &str, path: &str) {
        if let Some(number) = int(object, key).filter(|number| *number < 0) {
            self.invalid(format!("{path}.{key}"), &Value::from(number), "must be greater than or equal to 0");
        }
    }

    /// The field must equal its former value.
    pub(crate) fn immutable(&mut self, new: Option<&Value>, old: Option<&Value>, path: &str) {
        if new != old {
            self.invalid(path, new.unwrap_or(&Value::Null), "field is immutable");
        }
    }

    fn add(&mut self, field: impl Into<String>, kind: CauseKind, what: &str, detail: &str) {
        let message = if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") };
        self.0.push(FieldError { field: field.into(), kind, message });
    }
}

/// A value as messages show it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// A text field; the empty text when absent.
pub(crate) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// An integer field.
pub(crate) fn int(object: &Value, key: &str) -> Option<i64> {
    object.get(key).and_then(Value::as_i64)
}

/// Whether a field is `true`.
pub(crate) fn flag(object: &Value, key: &str) -> bool {
    object.get(key).and_then(Value::as_bool).unwrap_or_default()
}

/// The entries of a list field; none when absent.
pub(crate) fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The entries of a map field whose values are texts.
pub(crate) fn pairs<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(key).and_then(Value::as_object).into_iter().flatten()
}

/// A nested value by keys.
pub(crate) fn at<'a>(object: &'a Value, keys: &[&str]) -> Option<&'a Value> {
    keys.iter().try_fold(object, |value, key| value.get(key)).filter(|value| !value.is_null())
}

/// The object under a key, created when absent or null.
pub(crate) fn child<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    let entry = object.as_object_mut()?.entry(key.to_owned()).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Object(Map::new());
    }
    entry.as_object_mut()
}

/// Sets a field that is absent or null.
pub(crate) fn default_to(object: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let entry = object.entry(key.to_owned()).or_insert(Value::Null);
    if entry.is_null() {
        *entry = value.into();
    }
}

/// Sets a text field that is absent, null or empty.
pub(crate) fn default_text(object: &mut Map<String, Value>, key: &str, value: &str) {
    let entry = object.entry(key.to_owned()).or_insert(Value::Null);
    if entry.is_null() || entry == "" {
        *entry = Value::from(value);
    }
}
