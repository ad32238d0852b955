//! Patches: merge, JSON, strategic merge, and server-side apply.
//!
//! [`shape`] knows which lists are sets or maps; [`strategic`](fn@strategic) and the field ownership are built on it.

mod apply;
mod fields;
mod json;
pub mod managers;
mod merge;
mod merging;
pub mod shape;
mod strategic;
mod walk;

pub use apply::apply;
pub use fields::FieldSet;
pub use json::json;
pub use merge::merge;
pub(crate) use strategic::go_text;
pub use strategic::strategic;

use serde_json::Value;

use crate::error::{ApiError, Reason};

fn failure(reason: Reason, message: impl Into<String>) -> ApiError {
    ApiError::new(reason, message)
}

/// What Go calls the type of a JSON value, as its decoder's messages do.
fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    /// Small JSON values with colliding field names.
    pub(super) fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3i64).prop_map(Value::from),
            "[a-c]".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    pub(super) fn any_object() -> impl Strategy<Value = Value> {
        prop::collection::btree_map("[a-c]", any_json(), 0..4)
            .prop_map(|fields| Value::Object(fields.into_iter().collect()))
    }
}
