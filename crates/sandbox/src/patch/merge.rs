//! JSON merge patch (RFC 7396).

use serde_json::Value;

/// Merges `patch` into `target`: null removes a field, objects merge, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    let Value::Object(into) = target else {
        *target = patch.clone();
        prune_nulls(target);
        return;
    };
    for (name, value) in fields {
        if value.is_null() {
            into.remove(name);
        } else if let Some(old) = into.get_mut(name).filter(|old| !old.is_null()) {
            merge_field(old, value);
        } else {
            let mut new = value.clone();
            prune_nulls(&mut new);
            into.insert(name.clone(), new);
        }
    }
}

fn merge_field(old: &mut Value, value: &Value) {
    let was_object = old.is_object();
    merge(old, value);
    if !was_object {
        prune_nulls(old);
    }
}

/// Drops null fields of objects, at any depth. Null elements of lists stay.
pub(super) fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::patch::tests::{any_json, any_object};

    fn merged(target: &Value, patch: &Value) -> Value {
        let mut target = target.clone();
        merge(&mut target, patch);
        target
    }

    #[test]
    fn null_removes_objects_merge_and_lists_replace() {
        let target = json!({"a": {"b": 1, "c": 2}, "l": [1, 2], "k": 1});
        let patch =
            json!({"a": {"b": null, "d": {"e": null}}, "l": [3], "k": {"x": null, "y": 1}, "absent": null});
        assert_eq!(merged(&target, &patch), json!({"a": {"c": 2, "d": {}}, "l": [3], "k": {"y": 1}}));
    }

    proptest! {
        #[test]
        fn merging_nothing_changes_nothing(target in any_object()) {
            prop_assert_eq!(merged(&target, &json!({})), target);
        }

        #[test]
        fn merging_twice_is_merging_once(target in any_object(), patch in any_json()) {
            // Nulls within lists are dropped only where a list is new, as the API server's library does it.
            let patch = without_nulls_in_lists(patch);
            let once = merged(&target, &patch);
            prop_assert_eq!(merged(&once, &patch), once);
        }

        #[test]
        fn object_patches_without_nulls_are_associative(a in any_object(), b in any_object(), c in any_object()) {
            // A scalar of `b` that hides an object of `a` is what breaks associativity; equal shapes do not have that.
            let (mut a, mut b, mut c) = (a, b, c);
            for value in [&mut a, &mut b, &mut c] { prune_nulls(value); }
            let one_by_one = merged(&merged(&a, &b), &c);
            if !hides(&b, &c) {
                prop_assert_eq!(one_by_one, merged(&a, &merged(&b, &c)));
            }
        }
    }

    fn without_nulls_in_lists(mut value: Value) -> Value {
        match &mut value {
            Value::Array(items) => items.iter_mut().for_each(prune_nulls),
            Value::Object(fields) => {
                fields.values_mut().for_each(|value| *value = without_nulls_in_lists(value.take()));
            }
            _ => {}
        }
        value
    }

    /// True if `c` puts an object where `b` has something else.
    fn hides(b: &Value, c: &Value) -> bool {
        match (b, c) {
            (Value::Object(b), Value::Object(c)) => {
                c.iter().any(|(name, value)| b.get(name).is_some_and(|old| hides(old, value)))
            }
            (_, Value::Object(_)) => true,
            _ => false,
        }
    }
}
