//! What the API server does with the fields of built-in kinds: defaults, generations, which part of an object a
//! subresource may write, validation and immutability, in the API server's words.
//!
//! The order in which a write passes: [`decode`] (types, unknown fields), `prepare_*` (defaults, what the server sets
//! itself), admission, `validate_*`. Custom resources pass through the same functions for their metadata.

mod check;
mod convert;
mod defaults;
mod meta;
mod names;
mod pod_spec;
mod pod_update;
mod prepare;
mod quantity;
mod template;
#[cfg(test)]
mod tests;
mod validate;
mod volumes;
mod wire;
mod wire_types;
mod workloads;

use jiff::Timestamp;
use serde_json::Value;

use crate::error::{ApiError, FieldError};
use crate::resource::Resource;
use check::Checks;

pub use convert::convert;
pub(crate) use names::{label_value, qualified_name};

/// Reads an object of a built-in kind as the API server does: wrong JSON types are refused, unknown fields are removed
/// and their paths (`spec.foo`) answered, nulls and empty values go as they do in the API server's own structures.
///
/// The fields of custom resources are not looked at: their schema decides ([`crate::schema`]).
///
/// # Errors
/// 400 with the text of the API server's decoder when a value has another type than its field.
pub fn decode(resource: &Resource, version: &str, object: &mut Value) -> Result<Vec<String>, ApiError> {
    wire::decode(resource, version, object)
}

/// As [`decode`] for a kind by name, in any group and version; a kind that is not known is not looked at.
///
/// # Errors
/// The text of the API server's decoder when a value has another type than its field.
pub fn decode_kind(
    group: &str,
    version: &str,
    kind: &str,
    object: &mut Value,
) -> Result<Vec<String>, String> {
    wire::decode_as(group, version, kind, object)
}

/// An object of a built-in kind without any content: what the API server writes even then.
pub(crate) fn empty(group: &str, version: &str, kind: &str) -> Value {
    let mut object = Value::Object(serde_json::Map::new());
    // An object without fields has none of a wrong type.
    let _ = wire::decode_as(group, version, kind, &mut object);
    object
}

/// Reads the metadata of a custom object as [`decode`] reads whole objects of built-in kinds.
///
/// # Errors
/// The text of the API server's decoder when a value has another type than its field.
pub fn decode_metadata(object: &mut Value) -> Result<Vec<String>, String> {
    wire::decode_metadata(object)
}

/// Fills in the fields of a built-in kind that have a default.
pub fn default(resource: &Resource, object: &mut Value) {
    if !resource.custom {
        defaults::apply(&resource.group, &resource.plural, object);
    }
}

/// Makes a new object what the server would store: defaults, first generation, empty status, fields the server sets.
///
/// `metadata.name`, `namespace` and `uid` must be set already: a Job's labels are made of them.
pub fn prepare_create(resource: &Resource, object: &mut Value, now: Timestamp) {
    prepare::create(resource, object, now);
}

/// Makes an updated object what the server would store: the parts that this (sub)resource may not write come from
/// `old`, and the generation rises if what is desired has changed.
pub fn prepare_update(resource: &Resource, subresource: Option<&str>, old: &Value, new: &mut Value) {
    prepare::update(resource, subresource, old, new);
}

/// What is wrong with an object to be created.
pub fn validate_create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut checks = Checks::default();
    meta::create(resource, object, &mut checks);
    if !resource.custom {
        validate::create(resource, object, &mut checks);
    }
    checks.0
}

/// What is wrong with an update of `old` to `new` through the object itself or one of its subresources.
pub fn validate_update(
    resource: &Resource,
    subresource: Option<&str>,
    old: &Value,
    new: &Value,
) -> Vec<FieldError> {
    let mut checks = Checks::default();
    meta::update(resource, subresource, new, old, &mut checks);
    if !resource.custom {
        validate::update(resource, subresource, old, new, &mut checks);
    }
    checks.0
}

/// The name of the structure of a built-in kind, as OpenAPI documents use it: `io.k8s.api.core.v1.Pod`.
pub fn structure_name(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    if (group, version, kind) == ("apiregistration.k8s.io", "v1", "APIService") {
        return Some("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService");
    }
    wire_types::Types::get().kind_name(group, version, kind)
}

/// What is wrong with a pod template at `path`, as in a `PodTemplate` or a workload.
pub fn validate_template(template: &Value, path: &str) -> Vec<FieldError> {
    let mut checks = Checks::default();
    pod_spec::template(template, path, &mut checks);
    checks.0
}
