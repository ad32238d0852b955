//! Walks over objects along their shape: what changed, which fields there are, does it fit the type.

use serde_json::{Map, Value};

use super::{
    fields::{FieldSet, Step, step_text},
    go_kind,
    shape::{Form, ListKind, Scalar, View},
    strategic::go_text,
};

/// Which fields differ between two objects.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    fn each(&mut self) -> [&mut FieldSet; 3] {
        [&mut self.added, &mut self.modified, &mut self.removed]
    }

    pub(super) fn prune(&mut self, path: &[&str]) {
        self.each().into_iter().for_each(|set| set.prune(path));
    }
}

/// The differences between two versions of an object.
pub(super) fn compare(old: &Value, new: &Value, view: View<'_>) -> Changes {
    let mut walk = Compare { changes: Changes::default(), path: Vec::new() };
    walk.value(Some(old), Some(new), view);
    walk.changes
}

struct Compare {
    changes: Changes,
    path: Vec<Step>,
}

/// Fields of objects that the typed form always has.
const EMPTY: &Value = &Value::Null;

impl Compare {
    fn value(&mut self, old: Option<&Value>, new: Option<&Value>, view: View<'_>) {
        if old == new {
            // Equal subtrees are the common case, and comparing them costs no allocation.
            return;
        }
        match view.form() {
            Form::Object { atomic: false } | Form::Any if maps(old, new) => self.object(old, new, view),
            Form::List(kind) if !matches!(kind, ListKind::Atomic) && lists(old, new) => {
                self.list(old, new, kind, view);
            }
            Form::Any if old.is_some_and(Value::is_object) || new.is_some_and(Value::is_object) => {
                // The value changed its JSON type.
                self.object(old.filter(|old| old.is_object()), None, view);
                self.object(None, new.filter(|new| new.is_object()), view);
                self.leaf(old, new);
                return;
            }
            _ => return self.leaf(old, new),
        }
        if old.is_none() {
            self.changes.added.insert(&self.path);
        } else if new.is_none() {
            self.changes.removed.insert(&self.path);
        }
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        let set = match (old, new) {
            (None, _) => &mut self.changes.added,
            (_, None) => &mut self.changes.removed,
            _ => &mut self.changes.modified,
        };
        set.insert(&self.path);
    }

    fn inside(&mut self, step: Step, old: Option<&Value>, new: Option<&Value>, view: View<'_>) {
        self.path.push(step);
        self.value(old, new, view);
        self.path.pop();
    }

    fn object(&mut self, old: Option<&Value>, new: Option<&Value>, view: View<'_>) {
        for (name, value) in fields_of(old) {
            let mut other = new.and_then(|new| new.get(name));
            if other == Some(value) {
                continue;
            }
            if other.is_none() && new.is_some() && view.always(name) {
                if empty(value) {
                    continue;
                }
                other = Some(EMPTY);
            }
            self.inside(field(name), Some(value), other, view.field(name).unwrap_or(view.any()));
        }
        for (name, value) in fields_of(new) {
            if old.is_some_and(|old| old.get(name).is_some()) {
                continue;
            }
            let other = (old.is_some() && view.always(name)).then_some(EMPTY);
            if other.is_some() && empty(value) {
                continue;
            }
            self.inside(field(name), other, Some(value), view.field(name).unwrap_or(view.any()));
        }
    }

    fn list(&mut self, old: Option<&Value>, new: Option<&Value>, kind: &ListKind, view: View<'_>) {
        let old = keyed(old, kind);
        let new = keyed(new, kind);
        let element = view.element();
        for (step, ours) in &old {
            let theirs = new.iter().find(|(other, _)| other == step).map_or(&[][..], |(_, items)| items);
            match (ours.as_slice(), theirs) {
                ([ours], [] | [_]) => self.inside(step.clone(), Some(ours), theirs.first().copied(), element),
                ([ours], _) => {
                    self.inside(step.clone(), Some(ours), None, element);
                    self.changes.added.insert(&self.to(step));
                }
                (_, [theirs]) => {
                    self.inside(step.clone(), None, Some(theirs), element);
                    self.changes.removed.insert(&self.to(step));
                }
                (_, []) => self.changes.removed.insert(&self.to(step)),
                (ours, theirs) if ours != theirs => self.changes.modified.insert(&self.to(step)),
                _ => {}
            }
        }
        for (step, theirs) in new.iter().filter(|(step, _)| !old.iter().any(|(other, _)| other == step)) {
            match theirs.as_slice() {
                [theirs] => self.inside(step.clone(), None, Some(theirs), element),
                _ => self.changes.added.insert(&self.to(step)),
            }
        }
    }

    fn to(&self, step: &Step) -> Vec<Step> {
        self.path.iter().chain([step]).cloned().collect()
    }
}

fn fields_of(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// True if both are objects or absent, and not both empty.
fn maps(old: Option<&Value>, new: Option<&Value>) -> bool {
    let fits = |value: Option<&Value>| value.is_none_or(|value| value.is_object() || value.is_null());
    fits(old) && fits(new) && !(old.is_none_or(empty) && new.is_none_or(empty))
}

/// True if both are lists or absent, and not both empty.
fn lists(old: Option<&Value>, new: Option<&Value>) -> bool {
    let fits = |value: Option<&Value>| value.is_none_or(|value| value.is_array() || value.is_null());
    fits(old) && fits(new) && !(old.is_none_or(empty) && new.is_none_or(empty))
}

pub(super) fn field(name: &str) -> Step {
    format!("f:{name}").into()
}

/// The elements of a list by their step, in order; more than one if the list has duplicates.
fn keyed<'v>(list: Option<&'v Value>, kind: &ListKind) -> Vec<(Step, Vec<&'v Value>)> {
    let mut result: Vec<(Step, Vec<&Value>)> = Vec::new();
    for item in list.and_then(Value::as_array).into_iter().flatten() {
        let Ok(step) = element_step(item, kind) else { continue };
        match result.iter_mut().find(|(known, _)| *known == step) {
            Some((_, items)) => items.push(item),
            None => result.push((step, vec![item])),
        }
    }
    result
}

/// The step to an element of a set or of a list with keys.
pub(super) fn element_step(item: &Value, kind: &ListKind) -> Result<Step, String> {
    match kind {
        ListKind::Atomic => Err("invalid indexing of non-associative list".to_owned()),
        ListKind::Set => match item {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => {
                Err("associative list without keys has an element that's an explicit null".to_owned())
            }
            scalar => Ok(format!("v:{scalar}").into()),
        },
        ListKind::Keyed(keys) => {
            let Value::Object(fields) = item else {
                let what = if item.is_null() { "a null element" } else { "non-map elements" };
                return Err(format!("associative list with keys may not have {what}"));
            };
            let mut found: Vec<(&str, &Value)> = keys
                .iter()
                .filter_map(|(name, default)| Some((&**name, fields.get(&**name).or(default.as_ref())?)))
                .collect();
            if found.is_empty() {
                let names: Vec<_> = keys.iter().map(|(name, _)| format!("{name:?}")).collect();
                let names = names.join(" ");
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{names}] (and doesn't have \
                     default values for any key fields)"
                ));
            }
            found.sort_unstable_by_key(|(name, _)| *name);
            let fields: Vec<_> = found.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
            Ok(format!("k:{{{}}}", fields.join(",")).into())
        }
    }
}

/// The fields that a configuration names.
pub(super) fn field_set(value: &Value, view: View<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    add_fields(value, view, &mut Vec::new(), &mut set);
    set
}

fn add_fields(value: &Value, view: View<'_>, path: &mut Vec<Step>, set: &mut FieldSet) {
    match (view.form(), value) {
        (Form::Object { atomic: false } | Form::Any, Value::Object(fields)) => {
            for (name, value) in fields {
                path.push(field(name));
                add_fields(value, view.field(name).unwrap_or(view.any()), path, set);
                let hollow = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if hollow || !view.declares(name) {
                    set.insert(path);
                }
                path.pop();
            }
        }
        (Form::List(kind @ (ListKind::Set | ListKind::Keyed(_))), Value::Array(_)) => {
            for (step, items) in keyed(Some(value), kind) {
                path.push(step);
                if let [item] = items.as_slice() {
                    add_fields(item, view.element(), path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        (Form::Object { atomic: false } | Form::List(ListKind::Set | ListKind::Keyed(_)), Value::Null) => {}
        _ => set.insert(path),
    }
}

/// What does not fit the type, as the API server says it: `.spec.foo: field not declared in schema`.
pub(super) fn misfits(value: &Value, view: View<'_>) -> Vec<String> {
    let mut found = Vec::new();
    check(value, view, "", &mut found);
    found
}

fn check(value: &Value, view: View<'_>, at: &str, found: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    let mut refuse = |text: String| found.push(format!("{at}: {text}"));
    match (view.form(), value) {
        (Form::Any | Form::Object { .. }, Value::Object(_)) => {
            for (name, value) in value.as_object().into_iter().flatten() {
                let at = format!("{at}.{name}");
                match view.field(name) {
                    Some(inner) => check(value, inner, &at, found),
                    None => found.push(format!("{at}: field not declared in schema")),
                }
            }
        }
        (Form::Any, _) => {}
        (Form::Object { .. }, other) => refuse(format!("expected map, got {}", go_wrapped(other))),
        (Form::List(kind), Value::Array(items)) => check_list(items, kind, view.element(), at, found),
        (Form::List(_), other) => refuse(format!("expected list, got {}", go_wrapped(other))),
        (Form::Scalar(scalar), value) => {
            if let Some(text) = scalar_misfit(scalar, value) {
                refuse(text);
            }
        }
    }
}

fn check_list(items: &[Value], kind: &ListKind, element: View<'_>, at: &str, found: &mut Vec<String>) {
    let mut seen: Vec<Step> = Vec::new();
    for (place, item) in items.iter().enumerate() {
        let step = if matches!(kind, ListKind::Atomic) {
            format!("i:{place}").into()
        } else {
            match element_step(item, kind) {
                Ok(step) => step,
                Err(text) => {
                    found.push(format!("{at}: element {place}: {text}"));
                    return;
                }
            }
        };
        let name = step_text(&step);
        if seen.contains(&step) {
            found.push(format!("{at}: duplicate entries for key {name}"));
        }
        check(item, element, &format!("{at}{name}"), found);
        seen.push(step);
    }
}

fn scalar_misfit(scalar: Scalar, value: &Value) -> Option<String> {
    let go_type = || match value {
        Value::Object(_) => "map[string]interface {}",
        Value::Array(_) => "[]interface {}",
        other => go_kind(other),
    };
    match scalar {
        Scalar::String if !value.is_string() => Some(format!("expected string, got {}", go_debug(value))),
        Scalar::Integer | Scalar::Number if !value.is_number() => {
            Some(format!("expected numeric (int or float), got {}", go_type()))
        }
        Scalar::Boolean if !value.is_boolean() => {
            Some(format!("expected boolean, got {}", go_wrapped(value)))
        }
        Scalar::Untyped if value.is_object() || value.is_array() => {
            Some(format!("expected any scalar, got {}", go_wrapped(value)))
        }
        _ => None,
    }
}

/// A value as Go's `%v` prints the type that holds it.
fn go_wrapped(value: &Value) -> String {
    format!("&{{{}}}", go_text(value))
}

/// The same for `%#v`.
fn go_debug(value: &Value) -> String {
    format!("&value.valueUnstructured{{Value:{}}}", go_syntax(value))
}

fn go_syntax(value: &Value) -> String {
    let join = |items: Vec<String>| items.join(", ");
    match value {
        Value::Object(fields) => {
            let fields =
                fields.iter().map(|(name, value)| format!("{name:?}:{}", go_syntax(value))).collect();
            format!("map[string]interface {{}}{{{}}}", join(fields))
        }
        Value::Array(items) => format!("[]interface {{}}{{{}}}", join(items.iter().map(go_syntax).collect())),
        scalar => scalar.to_string(),
    }
}
