//! Which differences of two templates can be brought to a running pod.

use std::collections::{BTreeMap, BTreeSet};

use kruise_api::keys;
use serde_json::{Map, Value};

use super::state::{MetadataChange, UpdateSpec};
use crate::revision::{Revision, canonical_template, quantity, same};

/// What may be changed in place, from gates and the update strategy.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct InPlaceOptions {
    /// Gate InPlaceUpdateEnvFromMetadata: restart containers whose env reads a changed label or annotation.
    pub env_from_metadata: bool,
    /// Gate InPlaceWorkloadVerticalScaling: change cpu and memory.
    pub vertical_scaling: bool,
    /// InPlaceOnly: changed volume claim templates do not matter.
    pub ignore_vct: bool,
    /// Gate RecreatePodWhenChangeVCTInCloneSetGate: changed volume claim templates ask for new pods.
    pub compare_vct: bool,
    /// The API server has no `pods/resize` (before Kubernetes 1.32): cpu and memory are written with the pod.
    pub resize_in_pod: bool,
}

/// Why a pod must be recreated, naming the place in the template.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct NotInPlace {
    /// The place, such as `spec.containers[0].env`.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

fn refuse<T>(path: impl Into<String>, reason: &'static str) -> Result<T, NotInPlace> {
    Err(NotInPlace { path: path.into(), reason })
}

/// The plan that brings a pod of one revision to another.
///
/// # Errors
/// [`NotInPlace`] if some difference asks for a new pod.
pub fn diff(old: &Revision, new: &Revision, options: InPlaceOptions) -> Result<UpdateSpec, NotInPlace> {
    if options.compare_vct && !options.ignore_vct {
        let hash = |revision: &Revision| revision.annotations.get(keys::VOLUME_CLAIM_TEMPLATE_HASH).cloned();
        if let (Some(a), Some(b)) = (hash(old), hash(new))
            && a != b
        {
            return refuse("volumeClaimTemplates", "changed");
        }
    }
    let spec = between(&old.template(), &new.template(), options)?;
    Ok(UpdateSpec { revision: new.name().to_owned(), ..spec })
}

/// The plan that brings a pod of one template to another, without the revision's name.
///
/// # Errors
/// [`NotInPlace`] if some difference asks for a new pod.
pub fn between(old: &Value, new: &Value, options: InPlaceOptions) -> Result<UpdateSpec, NotInPlace> {
    let mut spec = UpdateSpec::default();
    let (old, new) = (canonical_template(old), canonical_template(new));
    equal_except(&old, &new, "", &["metadata", "spec"])?;
    let blank = Value::Object(Map::new());
    let part = |of| Value::get(of, "spec").unwrap_or(&blank);
    equal_except(part(&old), part(&new), "spec", &["containers"])?;
    containers(&old, &new, options, &mut spec)?;
    if !spec.container_resources.is_empty() && qos(&old) != qos(&new) {
        return refuse("spec.containers[*].resources", "the QoS class would change");
    }
    metadata(&old, &new, options, &mut spec);
    Ok(spec)
}

fn equal_except(old: &Value, new: &Value, path: &str, free: &[&str]) -> Result<(), NotInPlace> {
    let names =
        |value: &Value| value.as_object().into_iter().flat_map(Map::keys).cloned().collect::<BTreeSet<_>>();
    for name in &names(old) | &names(new) {
        if !free.contains(&name.as_str()) && !same(old.get(&name), new.get(&name), &name) {
            let separator = if path.is_empty() { "" } else { "." };
            return refuse(format!("{path}{separator}{name}"), "cannot be changed in place");
        }
    }
    Ok(())
}

/// The containers of a template.
pub(super) fn template_containers(template: &Value) -> &[Value] {
    template
        .get("spec")
        .and_then(|spec| spec.get("containers"))
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The container of a name.
pub(super) fn template_container<'a>(template: &'a Value, name: &str) -> Option<&'a Value> {
    template_containers(template).iter().find(|container| text(container, "name") == name)
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn containers(
    old: &Value,
    new: &Value,
    options: InPlaceOptions,
    spec: &mut UpdateSpec,
) -> Result<(), NotInPlace> {
    let (old, new) = (template_containers(old), template_containers(new));
    if old.len() != new.len() {
        return refuse("spec.containers", "a container was added or removed");
    }
    for (index, (old, new)) in old.iter().zip(new).enumerate() {
        let path = format!("spec.containers[{index}]");
        equal_except(old, new, &path, &["image", "resources"])?;
        let name = text(old, "name").to_owned();
        let (before, after) = (text(old, "image"), text(new, "image"));
        if before != after {
            if before.is_empty() || after.is_empty() {
                return refuse(format!("{path}.image"), "was added or removed");
            }
            spec.container_images.insert(name.clone(), after.to_owned());
        }
        if same(old.get("resources"), new.get("resources"), "resources") {
            continue;
        }
        if !options.vertical_scaling {
            return refuse(format!("{path}.resources"), "cannot be changed in place");
        }
        let blank = Value::Null;
        let part = |of| Value::get(of, "resources").unwrap_or(&blank);
        let changed = resources(part(old), part(new), &path)?;
        spec.container_resources.insert(name, changed);
    }
    Ok(())
}

fn resources(old: &Value, new: &Value, path: &str) -> Result<Value, NotInPlace> {
    equal_except(old, new, &format!("{path}.resources"), &["limits", "requests"])?;
    let mut all = Map::new();
    for part in ["limits", "requests"] {
        let map = |of: &Value| of.get(part).and_then(Value::as_object).cloned().unwrap_or_default();
        let (old, new) = (map(old), map(new));
        if !old.keys().eq(new.keys()) && old.keys().collect::<BTreeSet<_>>() != new.keys().collect() {
            return refuse(format!("{path}.resources.{part}"), "a resource was added or removed");
        }
        let mut changed = Map::new();
        for (name, value) in new {
            if same(old.get(&name), Some(&value), "sizeLimit") {
                continue;
            }
            if !matches!(name.as_str(), "cpu" | "memory") {
                return refuse(
                    format!("{path}.resources.{part}.{name}"),
                    "only cpu and memory can be changed",
                );
            }
            changed.insert(name, value);
        }
        if !changed.is_empty() {
            all.insert(part.to_owned(), Value::Object(changed));
        }
    }
    Ok(Value::Object(all))
}

/// Quality of service, as Kubernetes derives it from cpu and memory of all containers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Qos {
    BestEffort,
    Burstable,
    Guaranteed,
}

fn qos(template: &Value) -> Qos {
    let spec = template.get("spec");
    let list = |name: &str| spec.and_then(|spec| spec.get(name)).and_then(Value::as_array);
    let (mut any, mut guaranteed) = (false, true);
    for container in ["containers", "initContainers"].iter().filter_map(|name| list(name)).flatten() {
        for resource in ["cpu", "memory"] {
            let amount = |part: &str| {
                let value = container.get("resources")?.get(part)?.get(resource)?;
                quantity::nanos(value).filter(|nanos| *nanos > 0)
            };
            let (limit, request) = (amount("limits"), amount("requests"));
            any |= limit.is_some() || request.is_some();
            // A request left out is the limit.
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

fn metadata(old: &Value, new: &Value, options: InPlaceOptions, spec: &mut UpdateSpec) {
    let readers = if options.env_from_metadata { readers(new) } else { BTreeMap::new() };
    let map = |of: &Value, part: &str| -> BTreeMap<String, String> {
        let map = of.get("metadata").and_then(|metadata| metadata.get(part)).and_then(Value::as_object);
        let pairs = map.into_iter().flatten();
        pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    };
    let mut change = MetadataChange::default();
    for part in ["labels", "annotations"] {
        let label = part == "labels";
        let (old, new) = (map(old, part), map(new, part));
        let rest = if label { &mut change.labels } else { &mut change.annotations };
        for key in old.keys().filter(|key| !new.contains_key(*key)) {
            spec.update_env_from_metadata |= readers.contains_key(&(label, key.clone()));
            rest.insert(key.clone(), None);
        }
        for (key, value) in new.into_iter().filter(|(key, value)| old.get(key) != Some(value)) {
            let Some(names) = readers.get(&(label, key.clone())) else {
                rest.insert(key, Some(value));
                continue;
            };
            spec.update_env_from_metadata = true;
            for name in names {
                let own = spec.container_ref_metadata.entry(name.clone()).or_default();
                let own = if label { &mut own.labels } else { &mut own.annotations };
                own.insert(key.clone(), value.clone());
            }
        }
    }
    let (before, after) = (finalizers(old), finalizers(new));
    change.finalizers = after.iter().filter(|name| !before.contains(name)).cloned().collect();
    change.removed_finalizers = before.into_iter().filter(|name| !after.contains(name)).collect();
    spec.metadata = change;
}

/// The finalizers of a template.
pub(super) fn finalizers(template: &Value) -> Vec<String> {
    let list =
        template.get("metadata").and_then(|metadata| metadata.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Names of the containers whose env reads a label (true) or annotation (false).
fn readers(template: &Value) -> BTreeMap<(bool, String), BTreeSet<String>> {
    let mut readers: BTreeMap<(bool, String), BTreeSet<String>> = BTreeMap::new();
    for container in template_containers(template) {
        for env in container.get("env").and_then(Value::as_array).into_iter().flatten() {
            if matches!(text(env, "name"), keys::ENV_SIDECARSET_VERSION | keys::ENV_SIDECARSET_VERSION_ALT) {
                continue;
            }
            let field = env.get("valueFrom").and_then(|from| from.get("fieldRef"));
            if let Some(key) = field.and_then(|field| metadata_key(text(field, "fieldPath"))) {
                readers.entry(key).or_default().insert(text(container, "name").to_owned());
            }
        }
    }
    readers
}

fn metadata_key(path: &str) -> Option<(bool, String)> {
    let (label, rest) = match path.strip_prefix("metadata.labels[") {
        Some(rest) => (true, rest),
        None => (false, path.strip_prefix("metadata.annotations[")?),
    };
    let key = rest.strip_suffix(']')?.trim_matches(['\'', '"']);
    Some((label, key.to_owned()))
}
