//! Strategic merge patch: a merge patch whose lists merge by key, with directives in the patch.

use kube::core::GroupVersionKind;
use serde_json::{Map, Value};

use super::{
    failure,
    merge::prune_nulls,
    shape::{Shape, View},
};
use crate::error::{ApiError, Reason};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";

/// `current` with the patch applied.
///
/// # Errors
/// `BadRequest` for kinds that are not built in and for malformed directives, 500 without a reason (as the API server answers)
/// for patches that do not fit the type.
pub fn strategic(kind: &GroupVersionKind, current: &Value, patch: &Value) -> Result<Value, ApiError> {
    let Some(shape) = Shape::builtin(&kind.group, &kind.version, &kind.kind) else {
        return Err(bad("strategic merge patch format is not supported"));
    };
    let Value::Object(patch) = patch else {
        let kind = super::go_kind(patch);
        return Err(bad(&format!(
            "json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
        )));
    };
    let current = current.as_object().cloned().unwrap_or_default();
    merge_object(current, patch.clone(), shape.view()).map(Value::Object)
}

type Object = Map<String, Value>;

fn bad(text: &str) -> ApiError {
    failure(Reason::BadRequest, text)
}

fn misfit(text: String) -> ApiError {
    failure(Reason::Unknown, text)
}

fn merge_object(mut current: Object, mut patch: Object, view: View<'_>) -> Result<Object, ApiError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => Err(unknown_directive(directive, &patch)),
        };
    }
    retain_keys(&mut current, &mut patch)?;
    ordered_lists(&mut current, &mut patch, view)?;
    for (name, value) in patch {
        let (name, delete) = match name.strip_prefix("$deleteFromPrimitiveList") {
            Some(rest) => match rest.strip_prefix('/') {
                Some(name) => (name.to_owned(), true),
                None => return Err(bad("invalid patch format of primitive list")),
            },
            None => (name, false),
        };
        merge_field(&mut current, name, value, delete, view)?;
    }
    Ok(current)
}

fn merge_field(
    current: &mut Object,
    name: String,
    mut value: Value,
    delete: bool,
    view: View<'_>,
) -> Result<(), ApiError> {
    if value.is_null() {
        current.remove(&name);
        return Ok(());
    }
    let strategy = view.strategy(&name);
    let inner = view.field(&name);
    match (current.get_mut(&name), &mut value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            let (old, new) = (std::mem::take(old), std::mem::take(new));
            let merged = match inner.filter(|_| !strategy.replace) {
                Some(inner) => merge_object(old, new, inner)?,
                // A field the type does not have is dropped when the object is decoded.
                None => new,
            };
            current.insert(name, Value::Object(merged));
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            let (old, new) = (std::mem::take(old), std::mem::take(new));
            let merged = if delete {
                old.into_iter().filter(|item| !new.contains(item)).collect()
            } else if strategy.merge {
                let element = inner.map(View::element);
                merge_list(old, new, strategy.key.as_deref(), element)?
            } else {
                new
            };
            current.insert(name, Value::Array(merged));
        }
        _ if delete => {}
        _ => {
            prune_nulls(&mut value);
            match without_directives(value) {
                Some(value) => current.insert(name, value),
                None => current.remove(&name),
            };
        }
    }
    Ok(())
}

/// `$retainKeys`: fields not named in it go.
fn retain_keys(current: &mut Object, patch: &mut Object) -> Result<(), ApiError> {
    let Some(keep) = patch.remove(RETAIN) else { return Ok(()) };
    let malformed = || bad("invalid patch format of retainKeys");
    let keep = keep.as_array().ok_or_else(malformed)?;
    let kept = |name: &str| keep.iter().any(|item| item == name);
    let complete = patch.iter().all(|(name, value)| {
        let exempt = value.is_null()
            || name.starts_with("$deleteFromPrimitiveList")
            || name.starts_with("$setElementOrder");
        exempt || kept(name)
    });
    if !complete {
        return Err(malformed());
    }
    current.retain(|name, _| kept(name));
    Ok(())
}

/// `$setElementOrder/name`: merges the list of that name and puts the elements named there in that order.
fn ordered_lists(current: &mut Object, patch: &mut Object, view: View<'_>) -> Result<(), ApiError> {
    let directives: Vec<String> =
        patch.keys().filter(|name| name.starts_with("$setElementOrder")).cloned().collect();
    for directive in directives {
        let order = list_of(patch.remove(&directive).unwrap_or_default())?;
        let Some(name) = directive.strip_prefix(ORDER) else {
            return Err(bad("invalid patch format of setElementOrder list"));
        };
        let strategy = view.strategy(name);
        let key = strategy.key.as_deref();
        let old = current.get(name).cloned().map(list_of).transpose()?;
        let new = patch.get(name).cloned().map(list_of).transpose()?;
        check_order(new.as_deref().unwrap_or_default(), &order, key)?;
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
            (Some(old), Some(new)) if strategy.merge => {
                merge_list(old, new, key, view.field(name).map(View::element))?
            }
            (Some(_), Some(new)) => new,
        };
        current.insert(name.to_owned(), Value::Array(in_order(merged, &order, &server_order, key)?));
        patch.remove(name);
    }
    Ok(())
}

fn list_of(value: Value) -> Result<Vec<Value>, ApiError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(misfit(format!("expected a []interface {{}}, but received a {}", go_type(&other)))),
    }
}

/// The elements of the patch must be in the order of the directive.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), ApiError> {
    if order.is_empty() || patch.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let wanted = identity(item, key)?;
        let mut found = false;
        for candidate in rest.by_ref() {
            if identity(candidate, key)? == wanted {
                found = true;
                break;
            }
        }
        if !found {
            let (patch, order) = (go_list(patch), go_list(order));
            let text = format!(
                "The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n"
            );
            return Err(misfit(text));
        }
    }
    Ok(())
}

/// What tells an element of a merged list apart: its key field, or the element itself.
fn identity<'v>(item: &'v Value, key: Option<&str>) -> Result<&'v Value, ApiError> {
    let Some(key) = key else { return Ok(item) };
    let Value::Object(fields) = item else {
        return Err(misfit(format!(
            "expected a map[string]interface {{}}, but received a {}",
            go_type(item)
        )));
    };
    fields
        .get(key)
        .ok_or_else(|| misfit(format!("map: {} does not contain declared merge key: {key}", go_text(item))))
}

fn merge_list(
    mut old: Vec<Value>,
    new: Vec<Value>,
    key: Option<&str>,
    element: Option<View<'_>>,
) -> Result<Vec<Value>, ApiError> {
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    check_types(&old, &new)?;
    if !old.iter().chain(&new).any(Value::is_object) {
        let server_order = old.clone();
        let mut merged: Vec<Value> = Vec::with_capacity(old.len() + new.len());
        for item in old.into_iter().chain(new.iter().cloned()) {
            if !merged.contains(&item) {
                merged.push(item);
            }
        }
        return in_order(merged, &new, &server_order, None);
    }
    let (Some(key), Some(element)) = (key, element) else {
        return Err(misfit("cannot merge lists without merge key for slice".to_owned()));
    };
    let new = directives_of_list(&mut old, new, key)?;
    let server_order = old.clone();
    for item in &new {
        let wanted = identity(item, Some(key))?;
        let found = old.iter().position(|old| old.get(key) == Some(wanted));
        match (found.and_then(|at| old.get_mut(at)), item) {
            (Some(Value::Object(fields)), Value::Object(patch)) => {
                *fields = merge_object(std::mem::take(fields), patch.clone(), element)?;
            }
            _ => old.push(item.clone()),
        }
    }
    in_order(old, &new, &server_order, Some(key))
}

fn check_types(old: &[Value], new: &[Value]) -> Result<(), ApiError> {
    let mut items = old.iter().chain(new);
    let first = items.next();
    if first.is_some_and(Value::is_array) {
        let text = "the server rejected our request due to an error in our request";
        return Err(ApiError { details: Value::Object(Object::new()), ..failure(Reason::Invalid, text) });
    }
    if items.any(|item| first.map(std::mem::discriminant) != Some(std::mem::discriminant(item))) {
        let lists = format!("[{} {}]", go_list(old), go_list(new));
        return Err(misfit(format!("list element types are not identical: {lists}")));
    }
    Ok(())
}

/// Obeys `$patch` in elements of the patch and returns those without.
fn directives_of_list(old: &mut Vec<Value>, new: Vec<Value>, key: &str) -> Result<Vec<Value>, ApiError> {
    let mut plain = Vec::with_capacity(new.len());
    let mut replace = false;
    for item in new {
        let Some(directive) = item.get(DIRECTIVE) else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let gone = identity(&item, Some(key))?;
                old.retain(|old| old.get(key) != Some(gone));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(misfit("merging lists cannot yet be specified in the patch".to_owned()));
            }
            _ => {
                let fields = item.as_object().cloned().unwrap_or_default();
                return Err(unknown_directive(directive, &fields));
            }
        }
    }
    if replace {
        old.clear();
        old.append(&mut plain);
    }
    Ok(plain)
}

/// The elements named in `order` in that order; the others keep their places among them as far as `server_order` tells.
fn in_order(
    items: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, ApiError> {
    let order: Vec<&Value> = order.iter().map(|item| identity(item, key)).collect::<Result<_, _>>()?;
    let server: Vec<&Value> =
        server_order.iter().map(|item| identity(item, key)).collect::<Result<_, _>>()?;
    let place = |list: &[&Value], item: &Value| -> Option<usize> {
        let wanted = identity(item, key).ok()?;
        list.iter().position(|known| *known == wanted)
    };
    for item in &items {
        identity(item, key)?;
    }
    let (mut named, others): (Vec<_>, Vec<_>) =
        items.into_iter().partition(|item| place(&order, item).is_some());
    named.sort_by_key(|item| place(&order, item));
    let mut named = named.into_iter().peekable();
    let mut others = others.into_iter().peekable();
    let mut result = Vec::new();
    loop {
        let next = match (others.peek(), named.peek()) {
            (Some(other), Some(name)) => match (place(&server, other), place(&server, name)) {
                (Some(left), Some(right)) if left < right => others.next(),
                _ => named.next(),
            },
            (Some(_), None) => others.next(),
            (None, _) => named.next(),
        };
        match next {
            Some(item) => result.push(item),
            None => return Ok(result),
        }
    }
}

/// The value without objects that carry `$patch`; `None` if it is one itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(DIRECTIVE) => None,
        Value::Object(fields) => {
            let kept =
                fields.into_iter().filter_map(|(name, value)| Some((name, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        scalar => Some(scalar),
    }
}

fn unknown_directive(directive: &Value, patch: &Object) -> ApiError {
    let map = go_text(&Value::Object(patch.clone()));
    // Go is told to print a text here, and says so when it is none.
    let shown = match directive {
        Value::Bool(_) | Value::Number(_) => format!("%!s({}={directive})", go_type(directive)),
        Value::Null => go_type(directive).to_owned(),
        other => go_text(other),
    };
    misfit(format!("unknown patch type: {shown} in map: {map}"))
}

/// What Go's reflection calls a decoded JSON value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as Go's `%v` prints it.
pub(crate) fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => go_list(items),
        Value::Object(fields) => {
            let mut names: Vec<_> = fields.iter().collect();
            names.sort_by_key(|(name, _)| name.as_str());
            let fields: Vec<_> =
                names.iter().map(|(name, value)| format!("{name}:{}", go_text(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        scalar => scalar.to_string(),
    }
}

fn go_list(items: &[Value]) -> String {
    format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind(resource: &str) -> GroupVersionKind {
        match resource {
            "deployments" => GroupVersionKind::gvk("apps", "v1", "Deployment"),
            _ => GroupVersionKind::gvk("", "v1", "Service"),
        }
    }

    /// The smallest subtrees that differ, by their pointer.
    fn changed(old: &Value, new: &Value, at: &str, into: &mut Object) {
        // A typed object has no empty maps, which only its decoding shows.
        let new = if new == &json!({}) && old != new { &Value::Null } else { new };
        if let (Value::Object(a), Value::Object(b)) = (old, new) {
            for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
                let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                let (a, b) = (a.get(name).unwrap_or(&Value::Null), b.get(name).unwrap_or(&Value::Null));
                changed(a, b, &at, into);
            }
        } else if old != new {
            into.insert(at.to_owned(), new.clone());
        }
    }

    #[test]
    fn patches_do_what_a_kubernetes_1_34_api_server_did_with_them() {
        let recorded: Value = serde_json::from_str(include_str!("testdata/strategic.json")).unwrap();
        for case in recorded["cases"].as_array().unwrap() {
            let resource = case["of"].as_str().unwrap();
            let current = &recorded["objects"][resource];
            let answer = strategic(&kind(resource), current, &case["patch"]);
            match answer {
                Ok(result) => {
                    let mut found = Object::new();
                    changed(current, &result, "", &mut found);
                    assert_eq!(Value::Object(found), case["changed"], "{}", case["name"]);
                }
                Err(error) => {
                    assert_eq!(error.message, case["error"], "{}", case["name"]);
                    assert_eq!(error.reason.code(), case["code"], "{}", case["name"]);
                }
            }
        }
    }

    #[test]
    fn custom_kinds_have_no_strategic_merge() {
        let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", "CloneSet");
        let error = strategic(&kind, &json!({}), &json!({})).unwrap_err();
        assert_eq!(error.reason, Reason::BadRequest);
    }

    #[test]
    fn an_object_as_the_patch_of_nothing_and_of_itself_is_the_object() {
        let recorded: Value = serde_json::from_str(include_str!("testdata/strategic.json")).unwrap();
        for resource in ["deployments", "services"] {
            let object = &recorded["objects"][resource];
            assert_eq!(&strategic(&kind(resource), &json!({}), object).unwrap(), object);
            assert_eq!(&strategic(&kind(resource), object, object).unwrap(), object);
            assert_eq!(&strategic(&kind(resource), object, &json!({})).unwrap(), object);
        }
    }
}
