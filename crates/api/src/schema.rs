//! Schema fragments that cannot be derived.

use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

/// An object whose content the schema leaves alone.
pub(crate) fn raw_object(_: &mut SchemaGenerator) -> Schema {
    let mut schema = raw_anything_schema();
    schema.insert("type".to_owned(), Value::from("object"));
    schema
}

/// A value of any shape.
pub(crate) fn raw_anything(_: &mut SchemaGenerator) -> Schema {
    raw_anything_schema()
}

fn raw_anything_schema() -> Schema {
    let mut schema = Schema::default();
    schema.insert("x-kubernetes-preserve-unknown-fields".to_owned(), Value::Bool(true));
    schema
}

/// Leaves out the default that a field absent in JSON gets in memory: the server must not write it.
pub(crate) fn without_default(schema: &mut Schema) {
    schema.remove("default");
}
