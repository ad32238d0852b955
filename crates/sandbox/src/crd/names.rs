//! Whether a definition's names are free, and with them whether it is established.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{text, texts};
use crate::schema::field::quoted;

/// Sets `status.acceptedNames` and the conditions `NamesAccepted` and `Established`, as the API server's controllers do.
///
/// `others` are all other definitions; only those of the same group matter. True if the status changed.
pub fn establish(crd: &mut Value, others: &[&Value], now: Timestamp) -> bool {
    let before = crd.get("status").cloned();
    let spec = crd.get("spec").cloned().unwrap_or(Value::Null);
    let names = spec.get("names").cloned().unwrap_or(Value::Null);
    let taken = Taken::of(text(&spec, "group"), others);
    let accepted = crd.pointer("/status/acceptedNames").cloned().unwrap_or(Value::Null);
    let (accepted, conflict) = accept(&names, &accepted, &taken);
    let Some(root) = crd.as_object_mut() else { return false };
    let status = root.entry("status").or_insert_with(|| Value::Object(Map::new()));
    let Some(status) = status.as_object_mut() else { return false };
    status.insert("acceptedNames".to_owned(), accepted);
    let conditions = status.entry("conditions").or_insert(Value::Null);
    if conditions.is_null() {
        *conditions = Value::Array(Vec::new());
    }
    let Some(conditions) = conditions.as_array_mut() else { return false };
    let established =
        conditions.iter().any(|one| text(one, "type") == "Established" && text(one, "status") == "True");
    match &conflict {
        None => set(conditions, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now),
        Some((reason, message)) => set(conditions, "NamesAccepted", "False", reason, message, now),
    }
    match conflict {
        _ if established => {}
        None => {
            set(
                conditions,
                "Established",
                "True",
                "InitialNamesAccepted",
                "the initial names have been accepted",
                now,
            );
        }
        Some(_) => set(conditions, "Established", "False", "NotAccepted", "not all names are accepted", now),
    }
    root.get("status") != before.as_ref()
}

/// Names that other definitions of the group hold.
struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    fn of(group: &str, others: &[&Value]) -> Self {
        let mut taken = Self { resources: BTreeSet::new(), kinds: BTreeSet::new() };
        for other in
            others.iter().filter(|other| other.pointer("/spec/group").and_then(Value::as_str) == Some(group))
        {
            let Some(names) = other.pointer("/status/acceptedNames") else { continue };
            let single = ["plural", "singular"].map(|name| text(names, name).to_owned());
            taken.resources.extend(single.into_iter().chain(texts(names, "shortNames")));
            taken.kinds.extend(["kind", "listKind"].map(|name| text(names, name).to_owned()));
        }
        taken
    }
}

type Conflict = (&'static str, String);

fn accept(wanted: &Value, accepted: &Value, taken: &Taken) -> (Value, Option<Conflict>) {
    let mut names = accepted.as_object().cloned().unwrap_or_default();
    let mut conflict: Option<Conflict> = None;
    let single = |field: &str, reason, taken: &BTreeSet<String>, names: &mut Map<String, Value>| {
        let name = text(wanted, field);
        if name != text(accepted, field) && taken.contains(name) {
            return Some((reason, format!("{} is already in use", quoted(name))));
        }
        names.insert(field.to_owned(), name.into());
        None
    };
    // The last conflict found is the one that is told.
    conflict = single("plural", "PluralConflict", &taken.resources, &mut names).or(conflict);
    conflict = single("singular", "SingularConflict", &taken.resources, &mut names).or(conflict);
    let own = texts(accepted, "shortNames");
    let used: Vec<String> = texts(wanted, "shortNames")
        .iter()
        .filter(|name| !own.contains(name) && taken.resources.contains(*name))
        .map(|name| format!("{} is already in use", quoted(name)))
        .collect();
    match used.as_slice() {
        [] => copy(wanted, &mut names, "shortNames"),
        [one] => conflict = Some(("ShortNamesConflict", one.clone())),
        many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    }
    conflict = single("kind", "KindConflict", &taken.kinds, &mut names).or(conflict);
    conflict = single("listKind", "ListKindConflict", &taken.kinds, &mut names).or(conflict);
    copy(wanted, &mut names, "categories");
    (Value::Object(names), conflict)
}

fn copy(from: &Value, to: &mut Map<String, Value>, field: &str) {
    match from.get(field).filter(|list| list.as_array().is_some_and(|list| !list.is_empty())) {
        Some(list) => to.insert(field.to_owned(), list.clone()),
        None => to.remove(field),
    };
}

fn set(conditions: &mut Vec<Value>, kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) {
    let found = conditions.iter().position(|one| text(one, "type") == kind);
    let old = found.and_then(|at| conditions.get(at));
    let since = old
        .filter(|old| text(old, "status") == status)
        .map(|old| text(old, "lastTransitionTime").to_owned())
        .filter(|since| !since.is_empty())
        .unwrap_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let fields = [
        ("lastTransitionTime", since.as_str()),
        ("message", message),
        ("reason", reason),
        ("status", status),
        ("type", kind),
    ];
    let condition =
        Value::Object(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect());
    match found.and_then(|at| conditions.get_mut(at)) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}
