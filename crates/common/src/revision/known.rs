//! What a revision could not hold that was written with the types of an older Kubernetes.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Fields of a container that came with Kubernetes 1.33 and 1.34.
const CONTAINER: [&[&str]; 2] = [&["restartPolicyRules"], &["lifecycle", "stopSignal"]];

/// A pod template without the fields that Kubernetes 1.32 did not know, whose types the reference stores revisions
/// with; `None` if it cannot be read as a pod template at all.
///
/// What the types of this build do not know either is newer still, so they are the first sieve.
pub(super) fn as_of_1_32(template: &Value) -> Option<Value> {
    let typed = PodTemplateSpec::deserialize(template).ok()?;
    let mut template = typed.serialize(serde_json::value::Serializer).ok()?;
    let Some(spec) = template.get_mut("spec") else { return Some(template) };
    drop_field(spec, &["hostnameOverride"]);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in entries(spec, list) {
            for path in CONTAINER {
                drop_field(container, path);
            }
            for env in entries(container, "env") {
                drop_field(env, &["valueFrom", "fileKeyRef"]);
            }
        }
    }
    for volume in entries(spec, "volumes") {
        if let Some(projected) = volume.get_mut("projected") {
            for source in entries(projected, "sources") {
                drop_field(source, &["podCertificate"]);
            }
        }
    }
    Some(template)
}

fn entries<'a>(parent: &'a mut Value, list: &str) -> &'a mut [Value] {
    parent.get_mut(list).and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default()
}

fn drop_field(value: &mut Value, path: &[&str]) {
    let Some((last, parents)) = path.split_last() else { return };
    let holder = parents.iter().try_fold(value, |value, key| value.get_mut(key));
    if let Some(holder) = holder.and_then(Value::as_object_mut) {
        holder.remove(*last);
    }
}
