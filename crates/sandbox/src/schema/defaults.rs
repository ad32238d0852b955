//! Filling in what a schema says is meant when nothing is given.

use serde_json::Value;

use super::node::Node;

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
