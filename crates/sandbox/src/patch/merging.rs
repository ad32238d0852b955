//! Merging an applied configuration into an object, and taking fields out of one.

use serde_json::{Map, Value};

use super::{
    fields::{FieldSet, Step},
    shape::{Form, ListKind, View},
    walk::{element_step, field},
};

/// The object with the configuration merged in.
pub(super) fn merge_config(live: &Value, config: &Value, view: View<'_>) -> Value {
    match (view.form(), live, config) {
        (Form::Object { atomic: false } | Form::Any, Value::Object(old), Value::Object(new)) => {
            let mut result = old.clone();
            for (name, value) in new {
                let inner = view.field(name).unwrap_or(view.any());
                let merged =
                    old.get(name).map_or_else(|| value.clone(), |old| merge_config(old, value, inner));
                result.insert(name.clone(), merged);
            }
            Value::Object(result)
        }
        (Form::Object { atomic: false }, Value::Object(fields), Value::Null) if !fields.is_empty() => {
            live.clone()
        }
        (Form::List(kind @ (ListKind::Set | ListKind::Keyed(_))), Value::Array(old), Value::Array(new))
            if !old.is_empty() && !new.is_empty() =>
        {
            Value::Array(merge_lists(old, new, kind, view.element()))
        }
        (
            Form::List(ListKind::Set | ListKind::Keyed(_)),
            Value::Array(old),
            Value::Array(_) | Value::Null,
        ) if !old.is_empty() => live.clone(),
        _ => config.clone(),
    }
}

/// Elements of both lists: those of the configuration in its order, the others where they were among them.
fn merge_lists(old: &[Value], new: &[Value], kind: &ListKind, element: View<'_>) -> Vec<Value> {
    let steps = |items: &[Value]| -> Vec<Option<Step>> {
        items.iter().map(|item| element_step(item, kind).ok()).collect()
    };
    let (old_steps, new_steps) = (steps(old), steps(new));
    let shared: Vec<&Option<Step>> = new_steps.iter().filter(|step| old_steps.contains(step)).collect();
    let mut shared = shared.into_iter().peekable();
    let mut done: Vec<&Option<Step>> = Vec::new();
    let mut result = Vec::with_capacity(old.len().max(new.len()));
    let merged = |at: usize| -> Option<Value> {
        let (step, value) = (new_steps.get(at)?, new.get(at)?);
        let mut same = old_steps.iter().zip(old).filter(|(other, _)| *other == step);
        match (same.next(), same.next()) {
            (Some((_, old)), None) => Some(merge_config(old, value, element)),
            // Duplicates in the object are replaced as a whole.
            _ => Some(value.clone()),
        }
    };
    let (mut left, mut right) = (0, 0);
    while left < old.len() || right < new.len() {
        let (ours, theirs) = (old_steps.get(left), new_steps.get(right));
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            if ours == theirs {
                result.extend(merged(right));
                done.push(theirs);
                left += 1;
                right += 1;
                shared.next();
                continue;
            }
            if new_steps.contains(ours) && shared.peek().is_some_and(|next| *next != ours) {
                left += 1;
                continue;
            }
        }
        if let Some(ours) = ours {
            if !new_steps.contains(ours) {
                result.extend(old.get(left).cloned());
                left += 1;
                continue;
            }
            if done.contains(&ours) {
                left += 1;
            }
        }
        if let Some(theirs) = theirs {
            result.extend(merged(right));
            done.push(theirs);
            right += 1;
            if shared.peek() == Some(&theirs) {
                shared.next();
            }
        }
    }
    result
}

/// The value without the fields of the set; `None` if nothing is left of it.
pub(super) fn remove_fields(value: &Value, set: &FieldSet, view: View<'_>) -> Option<Value> {
    match (view.form(), value) {
        (Form::Object { atomic: false } | Form::Any, Value::Object(fields)) => {
            if fields.is_empty() {
                return Some(value.clone());
            }
            let kept = fields.iter().filter_map(|(name, value)| {
                let inner = view.field(name).unwrap_or(view.any());
                Some((name.clone(), remove_field(value, set, &field(name), inner)?))
            });
            let kept: Map<String, Value> = kept.collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        (Form::List(kind @ (ListKind::Set | ListKind::Keyed(_))), Value::Array(items)) => {
            if items.is_empty() {
                return Some(value.clone());
            }
            let kept = items.iter().filter_map(|item| match element_step(item, kind) {
                Ok(step) => remove_field(item, set, &step, view.element()),
                Err(_) => Some(item.clone()),
            });
            let kept: Vec<Value> = kept.collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        (Form::Scalar(_) | Form::Any, scalar) if !scalar.is_array() => Some(scalar.clone()),
        _ => None,
    }
}

fn remove_field(value: &Value, set: &FieldSet, step: &Step, view: View<'_>) -> Option<Value> {
    if set.has_member(step) {
        return None;
    }
    match set.below(step) {
        Some(below) => remove_fields(value, below, view),
        None => Some(value.clone()),
    }
}

/// The set with the named fields that lead to its members: whoever owns `spec.replicas` also holds on to `spec`.
pub(super) fn with_parents(set: &FieldSet, view: View<'_>) -> FieldSet {
    let mut result = set.clone();
    for (step, below) in set.steps().filter(|(_, below)| !below.is_empty()) {
        let name = step.strip_prefix("f:");
        if name.is_some_and(|name| view.declares(name)) {
            result.add_member(step);
        }
        let inner = name.map_or_else(|| view.element(), |name| view.field(name).unwrap_or(view.any()));
        result.put_below(step, with_parents(below, inner));
    }
    result
}
