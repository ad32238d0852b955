//! JSON patch (RFC 6902) with the leniencies of the API server's library.

use serde_json::Value;

use super::{failure, go_kind};
use crate::error::{ApiError, Reason};

const MAX_OPERATIONS: usize = 10_000;

/// Applies the operations to `target`; on an error `target` is unchanged.
///
/// # Errors
/// `BadRequest` if the patch is not a list of operations, `RequestEntityTooLarge` for more than 10,000 of them, `Invalid`
/// (422) if one does not apply. The API server hides which one behind a fixed text.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let operations = decode(patch)?;
    let mut result = target.clone();
    for operation in operations {
        run(&mut result, operation).ok_or_else(|| ApiError {
            details: Value::Object(serde_json::Map::new()),
            ..failure(Reason::Invalid, "the server rejected our request due to an error in our request")
        })?;
    }
    *target = result;
    Ok(())
}

fn decode(patch: &Value) -> Result<&[Value], ApiError> {
    let refuse = |value: &Value, into: &str| {
        let text = format!("error decoding patch: json: cannot unmarshal {} into Go {into}", go_kind(value));
        failure(Reason::BadRequest, text)
    };
    let operations = match patch {
        Value::Array(operations) => operations.as_slice(),
        Value::Null => &[],
        other => return Err(refuse(other, "value of type []handlers.jsonPatchOp")),
    };
    if operations.len() > MAX_OPERATIONS {
        let text = format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        );
        return Err(failure(Reason::RequestEntityTooLarge, text));
    }
    for operation in operations {
        let Value::Object(fields) = operation else {
            return Err(refuse(operation, "value of type handlers.jsonPatchOp"));
        };
        for name in ["op", "path", "from"] {
            if let Some(value) = fields.get(name).filter(|value| !value.is_string() && !value.is_null()) {
                return Err(refuse(value, &format!("struct field jsonPatchOp.{name} of type string")));
            }
        }
    }
    Ok(operations)
}

/// One operation; `None` if it does not apply.
fn run(document: &mut Value, operation: &Value) -> Option<()> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match text("op")? {
        "add" => add(document, text("path")?, value()),
        "remove" => remove(document, text("path")?).map(drop),
        "replace" => replace(document, text("path")?, value()),
        "move" => {
            let moved = remove(document, text("from")?)?;
            add(document, text("path")?, moved)
        }
        "copy" => {
            let copied = get(document, text("from")?)?;
            add(document, text("path")?, copied)
        }
        "test" => test(document, text("path")?, operation.get("value")),
        _ => None,
    }
}

/// The object or list that holds the last step of the path, and that step.
fn parent<'a>(document: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (steps, last) = path.rsplit_once('/')?;
    let mut at = document;
    for step in steps.split('/').skip(1) {
        let step = unescape(step);
        at = match at {
            Value::Object(fields) => fields.get_mut(&step)?,
            Value::Array(items) => {
                let index = index(&step, items.len())?;
                items.get_mut(index)?
            }
            _ => return None,
        };
    }
    (at.is_object() || at.is_array()).then(|| (at, unescape(last)))
}

fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

/// A place in a list; negative ones count from the end, as the API server allows.
fn index(step: &str, len: usize) -> Option<usize> {
    let number: i64 = step.parse().ok()?;
    let index = if number < 0 { number.checked_add(i64::try_from(len).ok()?)? } else { number };
    usize::try_from(index).ok()
}

fn add(document: &mut Value, path: &str, value: Value) -> Option<()> {
    match parent(document, path)? {
        (Value::Object(fields), key) => {
            fields.insert(key, value);
        }
        (Value::Array(items), key) if key == "-" => items.push(value),
        (Value::Array(items), key) => {
            let at = index(&key, items.len() + 1).filter(|at| *at <= items.len())?;
            items.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(document: &mut Value, path: &str) -> Option<Value> {
    match parent(document, path)? {
        (Value::Object(fields), key) => fields.remove(&key),
        (Value::Array(items), key) => {
            let at = index(&key, items.len()).filter(|at| *at < items.len())?;
            Some(items.remove(at))
        }
        _ => None,
    }
}

/// Unlike the RFC, a field that is not there is added.
fn replace(document: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *document = (value.is_object() || value.is_array()).then_some(value)?;
        return Some(());
    }
    match parent(document, path)? {
        (Value::Object(fields), key) => {
            fields.insert(key, value);
        }
        (Value::Array(items), key) => {
            let at = index(&key, items.len())?;
            *items.get_mut(at)? = value;
        }
        _ => return None,
    }
    Some(())
}

/// The value at a path; a field that is not there reads as null, a place outside a list does not exist.
fn get(document: &mut Value, path: &str) -> Option<Value> {
    match parent(document, path)? {
        (Value::Object(fields), key) => Some(fields.get(&key).cloned().unwrap_or(Value::Null)),
        (Value::Array(items), key) => items.get(index(&key, items.len())?).cloned(),
        _ => None,
    }
}

fn test(document: &mut Value, path: &str, expected: Option<&Value>) -> Option<()> {
    let found = if path.is_empty() { document.clone() } else { get(document, path)? };
    (expected? == &found).then_some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json as value;

    use super::*;
    use crate::patch::tests::any_object;

    fn patched(patch: &Value) -> Result<Value, ApiError> {
        let mut target = value!({"data": {"x": "1", "a/b": "c"}, "list": [1, 2, 3]});
        json(&mut target, patch).map(|()| target)
    }

    #[test]
    fn the_six_operations_apply() {
        let patch = value!([
            {"op": "test", "path": "/data/a~1b", "value": "c"},
            {"op": "test", "path": "/data/absent", "value": null},
            {"op": "add", "path": "/list/1", "value": 9},
            {"op": "add", "path": "/list/-", "value": 8},
            {"op": "remove", "path": "/list/-1"},
            {"op": "replace", "path": "/data/new", "value": "n"},
            {"op": "move", "from": "/data/x", "path": "/moved"},
            {"op": "copy", "from": "/list/0", "path": "/list/0"},
        ]);
        let expected = value!({"data": {"a/b": "c", "new": "n"}, "list": [1, 1, 9, 2, 3], "moved": "1"});
        assert_eq!(patched(&patch).unwrap(), expected);
    }

    #[test]
    fn operations_that_do_not_apply_are_refused_with_the_same_text() {
        for operation in [
            value!({"op": "test", "path": "/data/x", "value": "2"}),
            value!({"op": "remove", "path": "/data/absent"}),
            value!({"op": "add", "path": "/absent/x", "value": 1}),
            value!({"op": "add", "path": "/list/7", "value": 1}),
            value!({"op": "replace", "path": "/list/3", "value": 1}),
            value!({"op": "remove", "path": "/list/x"}),
            value!({"op": "move", "from": "/data/absent", "path": "/data/y"}),
            value!({"op": "add", "path": "data", "value": 1}),
            value!({"op": "add", "path": "/data/x/y", "value": 1}),
            value!({"op": "add", "value": 1}),
            value!({"op": "other", "path": "/data/x"}),
        ] {
            let error = patched(&value!([operation])).unwrap_err();
            assert_eq!(error.reason, Reason::Invalid, "{operation}");
            assert_eq!(error.message, "the server rejected our request due to an error in our request");
        }
    }

    #[test]
    fn what_is_no_list_of_operations_is_a_bad_request() {
        let text = |patch: Value| patched(&patch).unwrap_err().message;
        let prefix = "error decoding patch: json: cannot unmarshal";
        assert_eq!(
            text(value!({"a": 1})),
            format!("{prefix} object into Go value of type []handlers.jsonPatchOp")
        );
        assert_eq!(text(value!([1])), format!("{prefix} number into Go value of type handlers.jsonPatchOp"));
        let many = vec![value!({"op": "test", "path": ""}); 10_001];
        assert_eq!(patched(&Value::Array(many)).unwrap_err().reason, Reason::RequestEntityTooLarge);
    }

    proptest! {
        #[test]
        fn no_patch_panics_and_failed_ones_change_nothing(
            target in any_object(),
            op in "add|remove|replace|move|copy|test",
            path in "(/([a-c]|-?[0-3]|-|~[012])){0,4}",
            from in "(/([a-c]|-?[0-3]|-)){0,3}",
        ) {
            let mut result = target.clone();
            if json(&mut result, &value!([{"op": op, "path": path, "from": from, "value": {"a": 1}}])).is_err() {
                prop_assert_eq!(result, target);
            }
        }
    }
}
