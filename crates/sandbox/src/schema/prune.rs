//! Dropping what a schema does not know.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::node::{Additional, Node};

const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes unknown fields of a whole object and returns their paths, sorted.
pub(super) fn prune(object: &mut Value, root: &Node) -> Vec<String> {
    let mut walk = Walk { path: String::new(), removed: Vec::new() };
    if let Value::Object(map) = object {
        walk.fields(map, root, true, root.preserve);
    }
    walk.removed.sort();
    drop_nulls(object, Some(root));
    walk.removed
}

/// Removes unknown fields of a value inside an object and returns their paths within it.
pub(super) fn prune_part(value: &mut Value, node: &Node) -> Vec<String> {
    let mut walk = Walk { path: String::new(), removed: Vec::new() };
    walk.value(value, Some(node), false);
    walk.removed
}

struct Walk {
    path: String,
    removed: Vec<String>,
}

impl Walk {
    fn value(&mut self, value: &mut Value, node: Option<&Node>, keep: bool) {
        let preserve = keep || node.is_some_and(|node| node.preserve);
        match value {
            Value::Object(map) => {
                if let Some(node) = node {
                    self.fields(map, node, node.embedded, preserve);
                } else {
                    self.removed.extend(map.keys().map(|name| joined(&self.path, name)));
                    map.clear();
                }
            }
            Value::Array(entries) => self.entries(entries, node, preserve),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn entries(&mut self, entries: &mut [Value], node: Option<&Node>, preserve: bool) {
        let items = node.and_then(|node| node.items.as_deref());
        if preserve && items.is_none() {
            return;
        }
        let length = self.path.len();
        for (at, entry) in entries.iter_mut().enumerate() {
            let _ = write!(self.path, "[{at}]");
            self.value(entry, items, preserve);
            self.path.truncate(length);
        }
    }

    fn fields(&mut self, map: &mut Map<String, Value>, node: &Node, resource: bool, preserve: bool) {
        let length = self.path.len();
        let mut unknown = Vec::new();
        for (name, value) in map.iter_mut() {
            if resource && META.contains(&name.as_str()) {
                continue;
            }
            let child = match (node.properties.get(name), &node.additional) {
                (Some(child), _) | (None, Additional::Schema(child)) => Some(&**child),
                (None, Additional::Any(_)) => None,
                (None, Additional::Absent) => {
                    if !preserve {
                        unknown.push(name.clone());
                    }
                    continue;
                }
            };
            self.path = joined(&self.path, name);
            self.value(value, child, false);
            self.path.truncate(length);
        }
        for name in unknown {
            self.removed.push(joined(&self.path, &name));
            map.remove(&name);
        }
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A null where the schema allows none and has no default counts as absent.
fn drop_nulls(value: &mut Value, node: Option<&Node>) {
    match value {
        Value::Object(map) => {
            let child = |name: &str| node.and_then(|node| node.property(name)).map(|child| &**child);
            map.retain(|name, value| {
                !(value.is_null()
                    && child(name).is_some_and(|child| !child.nullable && child.default.is_none()))
            });
            for (name, value) in map.iter_mut() {
                drop_nulls(value, child(name));
            }
        }
        Value::Array(entries) => {
            let items = node.and_then(|node| node.items.as_deref());
            for entry in entries.iter_mut() {
                drop_nulls(entry, items);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
