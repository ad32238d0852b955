//! What the schemas do not say themselves: merge keys, kinds of lists and maps, and allowed values of fields.
//!
//! A line of `extensions.txt` names a structure, one of its fields (`-` for the structure itself) and what holds there.

use serde_json::{Map, Value, json};

const TABLE: &str = include_str!("extensions.txt");

/// Adds the extensions to schemas by name.
pub(super) fn add(schemas: &mut Map<String, Value>) {
    for line in TABLE.lines() {
        let mut words = line.split(' ');
        let (Some(name), Some(field)) = (words.next(), words.next()) else { continue };
        let Some(schema) = schemas.get_mut(name) else { continue };
        let target = if field == "-" {
            Some(schema)
        } else {
            schema.get_mut("properties").and_then(|properties| properties.get_mut(field))
        };
        let Some(target) = target.and_then(Value::as_object_mut) else { continue };
        for word in words {
            let Some((what, value)) = word.split_once('=') else { continue };
            let list = || value.split(',').collect::<Vec<_>>();
            let (key, value) = match what {
                "list" => ("x-kubernetes-list-type", json!(value)),
                "map" => ("x-kubernetes-map-type", json!(value)),
                "keys" => ("x-kubernetes-list-map-keys", json!(list())),
                "merge" => ("x-kubernetes-patch-merge-key", json!(value)),
                "strategy" => ("x-kubernetes-patch-strategy", json!(value)),
                "enum" => ("enum", json!(list())),
                _ => continue,
            };
            target.insert(key.to_owned(), value);
        }
    }
}
