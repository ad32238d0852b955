//! JSON objects seen as their leaves, and the record of what a conversion could not carry over.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The way to a value: object keys from the root on.
pub(crate) type Path = Vec<String>;

/// One value that a conversion there and back again would not bring back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Lost {
    path: Path,
    /// What the way back yields from the converted object alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    derived: Option<Value>,
    /// What the object held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<Value>,
}

/// Everything a conversion there and back again would not bring back, as it is kept in an annotation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record(Vec<Lost>);

impl Record {
    /// The difference between the leaves an object has and those that come back.
    pub(crate) fn of(held: &BTreeMap<Path, Value>, derived: &BTreeMap<Path, Value>) -> Self {
        let paths: BTreeSet<&Path> = held.keys().chain(derived.keys()).collect();
        let lost = paths.into_iter().filter(|path| held.get(*path) != derived.get(*path));
        Self(
            lost.map(|path| Lost {
                path: path.clone(),
                derived: derived.get(path).cloned(),
                held: held.get(path).cloned(),
            })
            .collect(),
        )
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts back what was lost, except where `derived`, the leaves of `object`, shows that the value it would
    /// replace was edited since. `allowed` guards against a record made up by a user.
    pub(crate) fn restore(
        self,
        object: &mut Value,
        derived: &BTreeMap<Path, Value>,
        allowed: impl Fn(&[String], Option<&Value>) -> bool,
    ) {
        for lost in self.0 {
            if allowed(&lost.path, lost.held.as_ref()) && derived.get(&lost.path) == lost.derived.as_ref() {
                match lost.held {
                    Some(value) => set(object, &lost.path, value),
                    None => remove(object, &lost.path),
                }
            }
        }
    }
}

/// Collects the leaves below `value`: everything that is neither null nor a non-empty object.
/// Empty objects say nothing, so they are left out.
pub(crate) fn collect(value: &Value, at: &mut Path, leaves: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (key, inner) in map {
                at.push(key.clone());
                collect(inner, at, leaves);
                at.pop();
            }
        }
        other => {
            leaves.insert(at.clone(), other.clone());
        }
    }
}

/// Sets a value, making the objects on its way; a way blocked by something else is left alone.
pub(crate) fn set(object: &mut Value, path: &[String], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut at = object;
    for key in parents {
        let Value::Object(map) = at else { return };
        let next = map.entry(key.clone()).or_insert(Value::Null);
        if next.is_null() {
            *next = Value::Object(Map::new());
        }
        at = next;
    }
    if let Value::Object(map) = at {
        map.insert(last.clone(), value);
    }
}

/// Removes a value and the objects that are empty without it.
pub(crate) fn remove(object: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    let Value::Object(map) = object else { return };
    if rest.is_empty() {
        map.remove(first);
        return;
    }
    if let Some(next) = map.get_mut(first) {
        remove(next, rest);
        if next.as_object().is_some_and(Map::is_empty) {
            map.remove(first);
        }
    }
}

/// The value at a path.
pub(crate) fn get<'v>(object: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(object, |at, key| at.get(*key))
}
