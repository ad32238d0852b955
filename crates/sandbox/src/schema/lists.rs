//! Entries that may occur once in a list, and the type of resources inside resources.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::field::{self, Path};
use super::node::{ListType, Node};
use crate::error::FieldError;

/// Reports entries of sets and keyed lists that occur more than once.
pub(super) fn unique(value: &Value, node: &Node, path: &Path, errors: &mut Vec<FieldError>) {
    if !node.below.lists {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let (child, path) = match (node.properties.get(name), node.property(name)) {
                    (Some(child), _) => (child, path.child(name)),
                    (None, Some(child)) => (child, path.key(name)),
                    (None, None) => continue,
                };
                unique(value, child, &path, errors);
            }
        }
        Value::Array(entries) => {
            match node.list {
                ListType::Set => repeated(entries).into_iter().for_each(|(at, value)| {
                    errors.push(field::duplicate(&path.index(at), value));
                }),
                ListType::Map => keyed(entries, &node.keys, path, errors),
                ListType::Atomic => {}
            }
            if let Some(items) = &node.items {
                for (at, entry) in entries.iter().enumerate() {
                    unique(entry, items, &path.index(at), errors);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The second occurrence of every value that occurs more than once.
fn repeated(entries: &[Value]) -> Vec<(usize, &Value)> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut twice = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let count = seen.entry(entry.to_string()).or_default();
        *count += 1;
        if *count == 2 {
            twice.push((at, entry));
        }
    }
    twice
}

fn keyed(entries: &[Value], keys: &[String], path: &Path, errors: &mut Vec<FieldError>) {
    if let Some((at, entry)) =
        entries.iter().enumerate().find(|(_, entry)| !entry.is_object() && !entry.is_null())
    {
        errors.push(field::invalid(
            &path.index(at),
            entry,
            "must be an object for an array of list-type map",
        ));
        return;
    }
    let key = |entry: &Value| -> Value {
        let pick = |name: &String| entry.get(name).map(|value| (name.clone(), value.clone()));
        Value::Object(keys.iter().filter_map(pick).collect::<Map<_, _>>())
    };
    let all: Vec<Value> = entries.iter().map(key).collect();
    for (at, value) in repeated(&all) {
        errors.push(field::duplicate(&path.index(at), value));
    }
}

/// Checks `apiVersion` and `kind` of resources inside the object (`x-kubernetes-embedded-resource`).
pub(super) fn embedded(value: &Value, node: &Node, path: &Path, errors: &mut Vec<FieldError>) {
    if !node.below.embedded {
        return;
    }
    match value {
        Value::Object(map) => {
            if node.embedded {
                type_meta(map, path, errors);
            }
            for (name, value) in map {
                match (node.properties.get(name), node.property(name)) {
                    (Some(child), _) => embedded(value, child, &path.child(name), errors),
                    (None, Some(child)) => embedded(value, child, &path.key(name), errors),
                    (None, None) => {}
                }
            }
        }
        Value::Array(entries) => {
            for (at, entry) in entries.iter().enumerate() {
                if let Some(items) = &node.items {
                    embedded(entry, items, &path.index(at), errors);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn type_meta(map: &Map<String, Value>, path: &Path, errors: &mut Vec<FieldError>) {
    for name in ["apiVersion", "kind"] {
        let path = path.child(name);
        match map.get(name) {
            None => errors.push(field::required(&path, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(field::invalid(&path, &"".into(), "must not be empty"));
            }
            Some(Value::String(text)) if name == "apiVersion" && text.matches('/').count() > 1 => {
                let detail = format!("unexpected GroupVersion string: {text}");
                errors.push(field::invalid(&path, &text.as_str().into(), &detail));
            }
            Some(Value::String(_)) => {}
            Some(other) => errors.push(field::invalid(&path, other, "must be a string")),
        }
    }
    if let Some(metadata) = map.get("metadata").filter(|metadata| !metadata.is_object()) {
        errors.push(field::invalid(&path.child("metadata"), metadata, "must be an object"));
    }
}
