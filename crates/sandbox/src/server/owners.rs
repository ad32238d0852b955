//! Field ownership: which manager writes, and the shape of what it writes.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use serde_json::Value;

use super::handler::Call;
use super::storage::lock;
use crate::object;
use crate::patch::managers::{self, Write};
use crate::patch::shape::Shape;

/// Shapes of custom kinds by the address of their schema, which the entry keeps alive.
static SHAPES: LazyLock<Mutex<Shapes>> = LazyLock::new(Mutex::default);

type Shapes = HashMap<usize, (Arc<Value>, Shape)>;

const MOST_KEPT: usize = 256;

/// The shape of the call's kind.
pub(crate) fn shape(call: &Call) -> Shape {
    if !call.resource.custom {
        let builtin = Shape::builtin(&call.resource.group, &call.info.version, &call.resource.kind);
        return builtin.unwrap_or_else(Shape::unknown);
    }
    let Some(schema) = call.version().and_then(|version| version.schema.as_ref()) else {
        return Shape::unknown();
    };
    let address = Arc::as_ptr(schema).addr();
    let mut shapes = lock(&SHAPES);
    if shapes.len() >= MOST_KEPT {
        shapes.clear();
    }
    shapes.entry(address).or_insert_with(|| (Arc::clone(schema), Shape::custom(schema))).1.clone()
}

/// Calls `with` with the write as field ownership sees it.
pub(crate) fn with_write<T>(call: &Call, with: impl FnOnce(&Write<'_>) -> T) -> T {
    let shape = shape(call);
    let api_version = call.resource.api_version(&call.info.version);
    let has_status =
        call.version().is_some_and(|version| version.subresources.iter().any(|one| one == "status"));
    let subresource = call.subresource().unwrap_or_default();
    with(&Write {
        shape: &shape,
        api_version: &api_version,
        kind: &call.resource.kind,
        manager: manager(call),
        subresource,
        has_status,
        time: call.server.now(),
    })
}

/// The request's `fieldManager`; else its `User-Agent` (the in-process client's name without one) up to the first slash.
fn manager(call: &Call) -> &str {
    let given = call.query.get("fieldManager");
    if !given.is_empty() {
        return given;
    }
    let header = call.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
    let agent = header.unwrap_or(&call.info.client).split('/').next().unwrap_or_default();
    if agent.is_empty() { "unknown" } else { agent }
}

/// Writes down who owns which field after a write other than apply; or forgets it when the server keeps no owners.
pub(crate) fn track(call: &Call, old: Option<&Value>, new: &mut Value) {
    if call.server.0.config.managed_fields {
        with_write(call, |write| managers::track(write, old, new));
    } else {
        object::set_meta(new, "managedFields", Value::Null);
    }
}
