//! Objects as a Table.

use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::Answer;
use super::handler::Call;
use super::storage::Stored;
use crate::error::ApiError;
use crate::object;
use crate::table::{self, Include};

/// The Table of a Scale.
pub(crate) fn scale(call: &Call, scale: &Value) -> Result<Answer, ApiError> {
    let mut rendered = table::scale(scale, include(call)?, call.server.now());
    let version = json!({"resourceVersion": scale.pointer("/metadata/resourceVersion")});
    object::set(&mut rendered, "metadata", version);
    Ok(Answer::ok(&rendered))
}

fn include(call: &Call) -> Result<Include, ApiError> {
    let asked = call.query.get("includeObject");
    Include::parse(asked)
        .ok_or_else(|| {
            ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {asked:?}: must be 'Metadata', \
                 'Object', 'None', or empty"
            ))
        })
}

/// A Table of objects in the request's version; `list_meta` is the metadata of the list they come from.
pub(crate) fn table(
    call: &Call,
    objects: &[Arc<Stored>],
    list_meta: Option<&Value>,
) -> Result<Value, ApiError> {
    let include = include(call)?;
    let values: Vec<&Value> = objects.iter().map(|stored| &stored.value).collect();
    let mut rendered = table::render(&call.resource, &call.info.version, &values, include, call.server.now());
    let single =
        || objects.first().map_or_else(|| json!({}), |one| json!({"resourceVersion": one.rv.to_string()}));
    object::set(&mut rendered, "metadata", list_meta.cloned().unwrap_or_else(single));
    Ok(rendered)
}
