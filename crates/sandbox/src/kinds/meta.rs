//! Validation of `metadata`, the same for every kind.

use serde_json::Value;

use super::check::{Checks, at, flag, int, list, pairs, text};
use super::names;
use crate::object;
use crate::resource::Resource;

/// Bytes that keys and values of all annotations may have together.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Checks `metadata` of an object to be created.
pub(crate) fn create(resource: &Resource, object: &Value, checks: &mut Checks) {
    let meta = object.get("metadata").unwrap_or(&Value::Null);
    let generate = text(meta, "generateName");
    if !generate.is_empty() {
        checks.invalid_each("metadata.generateName", generate, name_errors(resource, generate, true));
    }
    let name = object::name(object);
    if name.is_empty() {
        checks.required("metadata.name", "name or generateName is required");
    } else {
        checks.invalid_each("metadata.name", name, name_errors(resource, name, false));
    }
    if resource.namespaced {
        let namespace = object::namespace(object);
        if namespace.is_empty() {
            checks.required("metadata.namespace", "");
        } else {
            checks.invalid_each("metadata.namespace", namespace, names::dns_label(namespace));
        }
    } else if !object::namespace(object).is_empty() {
        checks.forbidden("metadata.namespace", "not allowed on this type");
    }
    checks.nonnegative(meta, "generation", "metadata");
    common(meta, checks);
    finalizers(meta, checks);
    if !resource.custom {
        standard_finalizers(meta, checks);
    }
}

/// Checks `metadata` of an object to be updated. The API server does some of it several times, before and in what it does
/// for the kind, and tells each finding as often.
pub(crate) fn update(
    resource: &Resource,
    subresource: Option<&str>,
    object: &Value,
    old: &Value,
    checks: &mut Checks,
) {
    let meta = object.get("metadata").unwrap_or(&Value::Null);
    common(meta, checks);
    finalizers(meta, checks);
    changes(object, old, checks);
    let [state, change] = again(resource, subresource);
    if change {
        changes(object, old, checks);
        if !resource.custom {
            standard_finalizers(meta, checks);
        }
    }
    if state {
        common(meta, checks);
        finalizers(meta, checks);
        standard_finalizers(meta, checks);
    }
}

/// Whether the checks of a kind look again at the state of the metadata, and at their change.
fn again(resource: &Resource, subresource: Option<&str>) -> [bool; 2] {
    let itself = subresource.is_none();
    match (resource.group.as_str(), resource.plural.as_str()) {
        _ if resource.custom => [false, true],
        ("admissionregistration.k8s.io" | "flowcontrol.apiserver.k8s.io" | "discovery.k8s.io", _)
        | ("", "persistentvolumes")
        | ("storage.k8s.io", "volumeattachments" | "csinodes") => [itself, false],
        ("policy", _) => [false, false],
        ("", "pods") => [!matches!(subresource, Some("status")), true],
        ("", "persistentvolumeclaims" | "serviceaccounts" | "secrets" | "configmaps" | "endpoints")
        | ("apps", "statefulsets" | "controllerrevisions")
        | ("certificates.k8s.io" | "rbac.authorization.k8s.io", _)
        | ("networking.k8s.io", "ingresses" | "ingressclasses") => [itself, true],
        _ => [false, true],
    }
}

/// What may not change in `metadata`, and labels, annotations and owners.
fn changes(object: &Value, old: &Value, checks: &mut Checks) {
    let empty = Value::Null;
    let (meta, old) = (object.get("metadata").unwrap_or(&empty), old.get("metadata").unwrap_or(&empty));
    if at(old, &["deletionTimestamp"]).is_some() {
        let former = list(old, "finalizers");
        let mut added: Vec<&str> = list(meta, "finalizers")
            .iter()
            .filter(|name| !former.contains(name))
            .filter_map(Value::as_str)
            .collect();
        added.sort_unstable();
        if !added.is_empty() {
            let quoted: Vec<String> = added.iter().map(|name| format!("{name:?}")).collect();
            let found = format!("[]string{{{}}}", quoted.join(", "));
            checks.forbidden(
                "metadata.finalizers",
                &format!("no new finalizers can be added if the object is being deleted, found new finalizers {found}"),
            );
        }
    }
    if int(meta, "generation").unwrap_or_default() < int(old, "generation").unwrap_or_default() {
        let generation = Value::from(int(meta, "generation").unwrap_or_default());
        checks.invalid("metadata.generation", &generation, "must not be decremented");
    }
    for field in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        checks.immutable(at(meta, &[field]), at(old, &[field]), &format!("metadata.{field}"));
    }
    common(meta, checks);
}

/// Labels and annotations of an object or of a template, whose paths start with `path`.
pub(crate) fn labels_and_annotations(meta: &Value, path: &str, checks: &mut Checks) {
    labels(meta, "labels", &format!("{path}.labels"), checks);
    annotations(meta, &format!("{path}.annotations"), checks);
}

/// A map of labels under `key`.
pub(crate) fn labels(holder: &Value, key: &str, path: &str, checks: &mut Checks) {
    for (key, value) in pairs(holder, key) {
        checks.invalid_each(path, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        checks.invalid_each(path, value, names::label_value(value));
    }
}

fn annotations(meta: &Value, path: &str, checks: &mut Checks) {
    let mut total = 0;
    for (key, value) in pairs(meta, "annotations") {
        checks.invalid_each(path, key, names::qualified_name(&key.to_lowercase()));
        total += key.len() + value.as_str().unwrap_or_default().len();
    }
    if total > ANNOTATIONS_MAX {
        checks.too_long(path, ANNOTATIONS_MAX);
    }
}

fn common(meta: &Value, checks: &mut Checks) {
    labels_and_annotations(meta, "metadata", checks);
    owner_references(meta, checks);
}

fn owner_references(meta: &Value, checks: &mut Checks) {
    let path = "metadata.ownerReferences";
    let references = list(meta, "ownerReferences");
    let mut controller: Option<String> = None;
    for reference in references {
        let version = text(reference, "apiVersion");
        if version.rsplit('/').next().unwrap_or_default().is_empty() {
            checks.invalid(format!("{path}.apiVersion"), &Value::from(version), "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            let value = text(reference, field);
            if value.is_empty() {
                checks.invalid(format!("{path}.{field}"), &Value::from(value), "must not be empty");
            }
        }
        if version == "v1" && text(reference, "kind") == "Event" {
            checks.invalid(path, reference, "/v1, Kind=Event is disallowed from being an owner");
        }
        if flag(reference, "controller") {
            let named = format!("{}/{}", text(reference, "kind"), text(reference, "name"));
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {named}"
                );
                let shown: Vec<String> = references.iter().map(shown_owner).collect();
                checks.invalid_text(path, &format!("[{}]", shown.join(",")), &detail);
            } else {
                controller = Some(named);
            }
        }
    }
}

/// An owner reference with its fields in the API server's order.
fn shown_owner(reference: &Value) -> String {
    let fields = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let shown: Vec<String> =
        fields.iter().filter_map(|field| Some(format!("\"{field}\":{}", reference.get(*field)?))).collect();
    format!("{{{}}}", shown.join(","))
}

fn finalizers(meta: &Value, checks: &mut Checks) {
    let path = "metadata.finalizers";
    let names: Vec<&str> = list(meta, "finalizers").iter().filter_map(Value::as_str).collect();
    for name in &names {
        checks.invalid_each(path, name, names::qualified_name(name));
    }
    if names.contains(&"orphan") && names.contains(&"foregroundDeletion") {
        let all = Value::Array(list(meta, "finalizers").to_vec());
        checks.invalid(path, &all, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// Finalizers of built-in kinds without a domain must be among those Kubernetes itself uses.
fn standard_finalizers(meta: &Value, checks: &mut Checks) {
    for (index, name) in list(meta, "finalizers").iter().filter_map(Value::as_str).enumerate() {
        kubernetes_finalizer(name, &format!("metadata.finalizers[{index}]"), checks);
    }
}

/// A finalizer with a domain, or one of Kubernetes' own.
pub(crate) fn kubernetes_finalizer(name: &str, path: &str, checks: &mut Checks) {
    if !name.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&name) {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        checks.invalid(path, &Value::from(name), detail);
    }
}

/// What is wrong with the name of an object of this kind, or with the beginning of a generated one.
fn name_errors(resource: &Resource, name: &str, prefix: bool) -> Vec<String> {
    // A generated name goes on after its prefix, so that a dash at the end is well. (The API server looks away from the
    // character before the dash, too.)
    let masked = if prefix && name.len() > 1 && name.ends_with('-') {
        format!("{}a", name.get(..name.len() - 2).unwrap_or_default())
    } else {
        name.to_owned()
    };
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "services") => names::dns_1035_label(&masked),
        ("", "namespaces") | ("apps", "statefulsets") => names::dns_label(&masked),
        ("rbac.authorization.k8s.io", _) | ("", "events" | "componentstatuses") => {
            names::path_segment(name, prefix)
        }
        ("certificates.k8s.io" | "events.k8s.io", _) => names::path_segment(name, prefix),
        ("networking.k8s.io", "ipaddresses") => Vec::new(),
        _ => names::dns_subdomain(&masked),
    }
}
