//! How the API server words a refused field.

use std::fmt::Write as _;

use serde_json::Value;

use crate::error::{CauseKind, FieldError};

/// A path to a field as error messages show it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Path(String);

impl Path {
    /// The path that starts at the named field; empty for the whole object.
    pub fn new(root: &str) -> Self {
        Self(root.to_owned())
    }

    /// `path.name`.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// `path[3]`.
    #[must_use]
    pub fn index(&self, at: usize) -> Self {
        Self(format!("{}[{at}]", self.0))
    }

    /// `path[key]`.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The text of this path followed by that of an error found inside it.
    pub(crate) fn join(&self, inner: &str) -> String {
        match inner {
            "<nil>" => self.0.clone(),
            entry if entry.starts_with('[') => format!("{}{entry}", self.0),
            name => format!("{}.{name}", self.0),
        }
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As printed for a whole object: Go shows a path of no elements as `<nil>`.
    fn shown(&self) -> String {
        if self.0.is_empty() { "<nil>".to_owned() } else { self.0.clone() }
    }
}

fn body(kind: &str, value: Option<&Value>, detail: &str) -> String {
    let mut text = kind.to_owned();
    if let Some(value) = value {
        let _ = write!(text, ": {}", shown(value));
    }
    if !detail.is_empty() {
        let _ = write!(text, ": {detail}");
    }
    text
}

/// A value inside an error message: text is quoted as Go does, everything else is JSON.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Number(number) => go_number(number),
        other => go_json(other),
    }
}

/// JSON as Go writes it, which hides what could be HTML.
fn go_json(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// A number as Go prints it: integers plainly, floats without a needless fraction.
pub(crate) fn go_number(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => go_float(float),
        _ => number.to_string(),
    }
}

/// A float as Go's `%v` prints it: plain between 1e-4 and 1e21, in scientific notation outside.
pub(crate) fn go_float(float: f64) -> String {
    let size = float.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        let text = format!("{float:e}");
        let Some((mantissa, exponent)) = text.split_once('e') else { return text };
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{float}")
}

/// Text in Go's double quotes.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other if (other as u32) < 0x20 || other as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", other as u32);
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

fn error(path: &Path, kind: CauseKind, message: String) -> FieldError {
    FieldError { field: path.shown(), kind, message }
}

/// `Required value`.
pub fn required(path: &Path, detail: &str) -> FieldError {
    error(path, CauseKind::FieldValueRequired, body("Required value", None, detail))
}

/// `Invalid value: 5: …`.
pub fn invalid(path: &Path, value: &Value, detail: &str) -> FieldError {
    error(path, CauseKind::FieldValueInvalid, body("Invalid value", Some(value), detail))
}

/// `Invalid value: {"Name":"v1"}: …`, for values whose fields must keep their order.
pub(crate) fn invalid_struct(path: &Path, shown: &str, detail: &str) -> FieldError {
    error(path, CauseKind::FieldValueInvalid, format!("Invalid value: {shown}: {detail}"))
}

/// Fields in the order given as JSON, the way Go prints a struct.
pub(crate) fn go_struct(fields: &[(&str, Value)]) -> String {
    let shown: Vec<String> =
        fields.iter().map(|(name, value)| format!("\"{name}\":{}", go_json(value))).collect();
    format!("{{{}}}", shown.join(","))
}

/// `Invalid value: "string": …`, with the reason that names a wrong type.
pub fn type_invalid(path: &Path, value: &Value, detail: &str) -> FieldError {
    error(path, CauseKind::FieldValueTypeInvalid, body("Invalid value", Some(value), detail))
}

/// `Forbidden: …`.
pub fn forbidden(path: &Path, detail: &str) -> FieldError {
    error(path, CauseKind::FieldValueForbidden, body("Forbidden", None, detail))
}

/// `Duplicate value: …`.
pub fn duplicate(path: &Path, value: &Value) -> FieldError {
    error(path, CauseKind::FieldValueDuplicate, body("Duplicate value", Some(value), ""))
}

/// `Unsupported value: "x": supported values: "a", "b"`.
pub fn not_supported(path: &Path, value: &Value, allowed: &[String]) -> FieldError {
    let list: Vec<String> = allowed.iter().map(|one| quoted(one)).collect();
    let detail =
        if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
    error(path, CauseKind::FieldValueNotSupported, body("Unsupported value", Some(value), &detail))
}

/// `Too long: may not be more than 3 bytes`.
pub fn too_long(path: &Path, limit: u64) -> FieldError {
    let unit = if limit == 1 { "byte" } else { "bytes" };
    let detail = format!("may not be more than {limit} {unit}");
    error(path, CauseKind::FieldValueTooLong, body("Too long", None, &detail))
}

/// `Too many: 5: must have at most 3 items`.
pub fn too_many(path: &Path, actual: usize, limit: u64) -> FieldError {
    let unit = if limit == 1 { "item" } else { "items" };
    let detail = format!("must have at most {limit} {unit}");
    error(path, CauseKind::FieldValueTooMany, body("Too many", Some(&actual.into()), &detail))
}
