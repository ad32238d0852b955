//! Filling in what a schema says is meant when nothing is given.

use serde_json::Value;

use super::field::{self, Path};
use super::node::Node;
use super::{lists, prune, rules, values};
use crate::error::FieldError;

/// Sets absent fields that have a default, from the outside in.
pub(super) fn default(value: &mut Value, node: &Node) {
    if !node.below.defaults {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, child) in &node.properties {
                let Some(default) = &child.default else { continue };
                let given = map.get(name);
                if given.is_none_or(|given| given.is_null() && !child.nullable) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                if let Some(child) = node.property(name) {
                    entry(value, child);
                }
            }
        }
        Value::Array(entries) => {
            if let Some(items) = &node.items {
                for value in entries.iter_mut() {
                    entry(value, items);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn entry(value: &mut Value, node: &Node) {
    if let (Value::Null, false, Some(default)) = (&*value, node.nullable, &node.default) {
        *value = default.clone();
    }
    default(value, node);
}

/// Reports defaults that hold unknown fields or break their own schema.
pub(super) fn check(node: &Node, path: &Path, errors: &mut Vec<FieldError>) {
    if !node.below.defaults {
        return;
    }
    if let Some(default) = &node.default {
        check_one(default, node, &path.child("default"), errors);
    }
    if let Some(items) = &node.items {
        check(items, &path.child("items"), errors);
    }
    for (name, child) in &node.properties {
        check(child, &path.child("properties").key(name), errors);
    }
}

fn check_one(default: &Value, node: &Node, path: &Path, errors: &mut Vec<FieldError>) {
    let mut pruned = default.clone();
    if !prune::prune_part(&mut pruned, node).is_empty() {
        errors.push(field::invalid(path, default, "must not have unknown fields"));
    }
    let whole = Path::default();
    let at = values::At { value: default, old: None, path: &whole, keep: true };
    let mut found = Vec::new();
    lists::embedded(default, node, &whole, &mut found);
    if found.is_empty() {
        found = values::check(at, node).errors;
    }
    if found.is_empty() {
        let mut rules = rules::Found::default();
        rules::check(rules::Change::root(default, None), node, node.embedded, &whole, &mut rules);
        found = rules.errors;
    }
    errors.extend(found.into_iter().map(|error| FieldError { field: path.join(&error.field), ..error }));
}
