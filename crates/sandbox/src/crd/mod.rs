//! CustomResourceDefinitions: from the object to the [`Resource`] it serves, its defaults, its status.

mod names;
mod schema_rules;
mod validation;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde_json::{Map, Value};

use crate::error::FieldError;
use crate::resource::{Conversion, Resource, Version};
use crate::schema::Structural;
use crate::schema::field::Path;

pub use names::establish;
pub use validation::{validate_create, validate_update};

/// Fills in what a definition may leave out: the singular, the list kind, the conversion strategy, the webhook's port.
pub fn default(crd: &mut Value) {
    let Some(spec) = crd.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        fill(names, "singular", &kind.to_lowercase());
        if !kind.is_empty() {
            fill(names, "listKind", &format!("{kind}List"));
        }
    }
    let conversion = spec.entry("conversion").or_insert(Value::Null);
    if conversion.is_null() {
        *conversion = Value::Object(Map::from_iter([("strategy".to_owned(), "None".into())]));
    }
    if let Some(service) =
        conversion.pointer_mut("/webhook/clientConfig/service").and_then(Value::as_object_mut)
    {
        service.entry("port").or_insert_with(|| 443.into());
    }
    if spec.get("preserveUnknownFields").is_some_and(|value| value == &Value::Bool(false)) {
        spec.remove("preserveUnknownFields");
    }
}

fn fill(map: &mut Map<String, Value>, name: &str, value: &str) {
    if map.get(name).and_then(Value::as_str).unwrap_or_default().is_empty() {
        map.insert(name.to_owned(), value.into());
    }
}

/// Makes a new definition ready to be stored: defaults, generation 1, and a status that names the stored version only.
pub fn prepare_create(crd: &mut Value) {
    default(crd);
    let storage = storage_version(crd);
    if let Some(root) = crd.as_object_mut() {
        // As the API server writes an empty status.
        let nothing: Map<String, Value> =
            ["plural", "kind"].into_iter().map(|name| (name.to_owned(), "".into())).collect();
        let status = [("conditions", Value::Null), ("acceptedNames", Value::Object(nothing))];
        let status = status.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        root.insert("status".to_owned(), Value::Object(status));
    }
    if let Some(meta) = crd.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert("generation".to_owned(), 1.into());
    }
    store(crd, &storage);
}

/// Makes the update of a definition ready to be stored: its status is the old one, a new storage version is remembered.
pub fn prepare_update(old: &Value, new: &mut Value) {
    default(new);
    let storage = storage_version(new);
    if let Some(root) = new.as_object_mut() {
        root.insert(
            "status".to_owned(),
            old.get("status").cloned().unwrap_or_else(|| Value::Object(Map::new())),
        );
    }
    let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
    let changed = old.get("spec") != new.get("spec");
    if let Some(meta) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert("generation".to_owned(), (generation + i64::from(changed)).into());
    }
    store(new, &storage);
}

/// The name of the version that objects are stored in.
fn storage_version(crd: &Value) -> String {
    let storage = versions(crd).iter().find(|version| version.get("storage") == Some(&Value::Bool(true)));
    storage.map(|version| text(version, "name").to_owned()).unwrap_or_default()
}

/// Adds the version to `status.storedVersions`.
fn store(crd: &mut Value, storage: &str) {
    let Some(status) = crd.get_mut("status").and_then(Value::as_object_mut) else { return };
    let stored = status.entry("storedVersions").or_insert_with(|| Value::Array(Vec::new()));
    let Some(stored) = stored.as_array_mut() else { return };
    if !storage.is_empty() && !stored.iter().any(|one| one == storage) {
        stored.push(storage.into());
    }
}

/// The resource a definition serves, its schemas compiled; only served versions are listed, the preferred first.
///
/// Schemas seen before are not compiled again, whatever definition they came with.
pub fn resources(crd: &Value) -> Result<Resource, Vec<FieldError>> {
    let spec = crd.get("spec").unwrap_or(&Value::Null);
    let names = spec.get("names").unwrap_or(&Value::Null);
    let group = text(spec, "group").to_owned();
    let kind = text(names, "kind").to_owned();
    let (mut served, mut schemas) = (Vec::new(), BTreeMap::new());
    for (at, version) in versions(crd).iter().enumerate() {
        let path = Path::new("spec").child("versions").index(at).child("schema").child("openAPIV3Schema");
        let schema = version.pointer("/schema/openAPIV3Schema");
        let compiled = schema.map(|schema| compiled(schema, &path)).transpose()?;
        let structural = compiled.as_ref().map(|(_, structural)| structural.clone());
        schemas.insert(text(version, "name").to_owned(), structural);
        if version.get("served") == Some(&Value::Bool(true)) {
            served.push(read_version(version, &group, &kind, compiled));
        }
    }
    served.sort_by_key(|version| Reverse(priority(&version.name)));
    Ok(Resource {
        plural: text(names, "plural").to_owned(),
        singular: text(names, "singular").to_owned(),
        list_kind: text(names, "listKind").to_owned(),
        short_names: texts(names, "shortNames"),
        categories: texts(names, "categories"),
        namespaced: text(spec, "scope") != "Cluster",
        versions: served,
        storage: storage_version(crd),
        conversion: conversion(spec),
        custom: true,
        schemas,
        group,
        kind,
    })
}

fn read_version(version: &Value, group: &str, kind: &str, compiled: Option<Compiled>) -> Version {
    let name = text(version, "name");
    let scale = version.pointer("/subresources/scale").filter(|scale| !scale.is_null());
    let status = version.pointer("/subresources/status").filter(|status| !status.is_null());
    let subresources = [("status", status.is_some()), ("scale", scale.is_some())];
    let deprecated = version.get("deprecated") == Some(&Value::Bool(true));
    let warning = version.get("deprecationWarning").and_then(Value::as_str).map(str::to_owned);
    let selectable =
        version.get("selectableFields").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Version {
        name: name.to_owned(),
        schema: compiled.as_ref().map(|(schema, _)| Arc::clone(schema)),
        structural: compiled.map(|(_, structural)| structural),
        columns: version
            .get("additionalPrinterColumns")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default(),
        subresources: subresources.iter().filter(|(_, on)| *on).map(|(name, _)| (*name).to_owned()).collect(),
        scale: scale.cloned(),
        selectable_fields: selectable
            .iter()
            .map(|field| text(field, "jsonPath").trim_start_matches('.').to_owned())
            .collect(),
        deprecation: deprecated
            .then(|| warning.unwrap_or_else(|| format!("{group}/{name} {kind} is deprecated"))),
    }
}

/// A schema as it stands in the definition, and compiled.
type Compiled = (Arc<Value>, Structural);
type Known = HashMap<String, Compiled>;

/// Compiled schemas by their text. Tests and simulations define the same resources over and over.
static COMPILED: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

const MOST_KEPT: usize = 256;

/// The compiled form of a schema.
fn compiled(schema: &Value, path: &Path) -> Result<Compiled, Vec<FieldError>> {
    let key = schema.to_string();
    let known = || COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known().get(&key) {
        return Ok(found.clone());
    }
    let made = (Arc::new(schema.clone()), Structural::compile_at(schema, path)?);
    let mut known = known();
    if known.len() >= MOST_KEPT {
        known.clear();
    }
    known.insert(key, made.clone());
    Ok(made)
}

fn conversion(spec: &Value) -> Conversion {
    let webhook = spec.pointer("/conversion/webhook/clientConfig");
    match (spec.pointer("/conversion/strategy").and_then(Value::as_str), webhook) {
        (Some("Webhook"), Some(client)) => Conversion::Webhook(client.clone()),
        _ => Conversion::None,
    }
}

/// Orders versions as kubectl prefers them: `v2`, `v1`, `v1beta2`, `v1alpha1`, then all others by name, backwards.
fn priority(name: &str) -> (u8, u64, u64, Reverse<String>) {
    let other = || (0, 0, 0, Reverse(name.to_owned()));
    let Some(rest) = name.strip_prefix('v') else { return other() };
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    let (major, rest) = rest.split_at(end);
    let Ok(major) = major.parse::<u64>() else { return other() };
    let (stability, minor) = if rest.is_empty() {
        (3, "0")
    } else if let Some(minor) = rest.strip_prefix("beta") {
        (2, minor)
    } else if let Some(minor) = rest.strip_prefix("alpha") {
        (1, minor)
    } else {
        return other();
    };
    minor.parse::<u64>().map_or_else(|_| other(), |minor| (stability, major, minor, Reverse(String::new())))
}

fn versions(crd: &Value) -> &[Value] {
    crd.pointer("/spec/versions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let entries = value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    entries.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}
