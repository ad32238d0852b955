//! The pods of a job, as JSON: what the template says plus what Kruise adds, nothing dropped.

use kruise_api::{V1BETA1, broadcastjob, keys};
use serde_json::{Map, Value};

use crate::stores::JobView;

/// Letters of names, none of which makes words.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Letters after the name of the job.
const SUFFIX: usize = 10;
/// Longest name of a pod that is a host name as well.
const MAX_NAME: usize = 63;

/// Name of the pod of a node: the same each time, so that a creation whose answer was lost cannot be repeated. `again`
/// counts the names that were found taken.
pub fn pod_name(job: &JobView, node: &str, again: u32) -> String {
    let base: String = job.key.name.chars().take(MAX_NAME - SUFFIX - 1).collect();
    let mut hash = fnv1a(&[&job.uid.0, node, &again.to_string()]);
    let mut suffix = String::with_capacity(SUFFIX);
    for _ in 0..SUFFIX {
        let letter = LETTERS.get((hash % 27) as usize).copied().unwrap_or(b'b');
        suffix.push(char::from(letter));
        hash /= 27;
    }
    format!("{base}-{suffix}")
}

/// 64-bit FNV-1a over the parts, each followed by a byte that none contains.
fn fnv1a(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The pod of a node. `by_scheduler`: it is bound by the scheduler, as its affinity asks; else it is bound from the start.
pub fn pod(job: &JobView, node: &str, name: &str, by_scheduler: bool) -> Value {
    let template = job.object.spec.template.read();
    let meta = map_at(&template, "metadata");
    let mut labels = meta.get("labels").and_then(Value::as_object).cloned().unwrap_or_default();
    labels.insert(keys::BROADCASTJOB_NAME.into(), (&*job.key.name).into());
    labels.insert(keys::BROADCASTJOB_UID.into(), (&*job.uid.0).into());
    let owner = object([
        ("apiVersion", V1BETA1.into()),
        ("kind", broadcastjob::KIND.into()),
        ("name", (&*job.key.name).into()),
        ("uid", (&*job.uid.0).into()),
        ("controller", true.into()),
        ("blockOwnerDeletion", true.into()),
    ]);
    let mut metadata = object([
        ("name", name.into()),
        ("generateName", format!("{}-", job.key.name).into()),
        ("namespace", (&*job.key.namespace).into()),
        ("labels", Value::Object(labels)),
        ("ownerReferences", Value::Array(vec![Value::Object(owner)])),
    ]);
    for key in ["annotations", "finalizers"] {
        if let Some(value) = meta.get(key).filter(|value| !value.is_null()) {
            metadata.insert(key.to_owned(), value.clone());
        }
    }
    let mut spec = map_at(&template, "spec");
    if by_scheduler {
        pin(&mut spec, node);
    } else {
        spec.insert("nodeName".into(), node.into());
    }
    Value::Object(object([
        ("apiVersion", "v1".into()),
        ("kind", "Pod".into()),
        ("metadata", Value::Object(metadata)),
        ("spec", Value::Object(spec)),
    ]))
}

/// Adds the name of the node to every term of the required affinity, so that what the user asked for can still be read.
fn pin(spec: &mut Map<String, Value>, node: &str) {
    let affinity = child(spec, "affinity").and_then(|affinity| child(affinity, "nodeAffinity"));
    let Some(affinity) = affinity else { return };
    let Some(required) = child(affinity, "requiredDuringSchedulingIgnoredDuringExecution") else { return };
    let terms = list(required, "nodeSelectorTerms");
    let Some(terms) = terms else { return };
    if terms.is_empty() {
        terms.push(Value::Object(Map::new()));
    }
    let name = Value::Object(object([
        ("key", "metadata.name".into()),
        ("operator", "In".into()),
        ("values", Value::Array(vec![node.into()])),
    ]));
    for term in terms.iter_mut().filter_map(Value::as_object_mut) {
        if let Some(fields) = list(term, "matchFields") {
            // First, so that readers who look for one find this one.
            fields.insert(0, name.clone());
        }
    }
}

/// The object at `key`, made if there is none.
fn child<'a>(holder: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    let value = holder.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut()
}

/// The list at `key`, made if there is none.
fn list<'a>(holder: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Vec<Value>> {
    let value = holder.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut()
}

fn object<const N: usize>(entries: [(&str, Value); N]) -> Map<String, Value> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn map_at(value: &Value, key: &str) -> Map<String, Value> {
    value.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kruise_common::pod::PodView;
    use kruise_common::pod_wire::PodWire;
    use serde_json::json;

    use super::*;

    fn job(name: &str, template: Value) -> JobView {
        let object = json!({"apiVersion": V1BETA1, "kind": "BroadcastJob",
            "metadata": {"name": name, "namespace": "ops", "uid": "u-1", "resourceVersion": "1"},
            "spec": {"template": template}});
        JobView::of(serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn a_pod_carries_the_template_the_two_labels_and_its_owner() {
        let template = json!({
            "metadata": {"labels": {"app": "x"}, "annotations": {"a": "b"}, "finalizers": ["f/g"], "name": "ignored"},
            "spec": {"restartPolicy": "Never", "notInventedYet": [1], "containers": [{"name": "c"}]}});
        let pod = pod(&job("warm", template), "n1", "warm-x", true);
        assert_eq!(
            pod["metadata"],
            json!({"name": "warm-x", "generateName": "warm-", "namespace": "ops",
                "labels": {"app": "x", "broadcastjob-name": "warm", "broadcastjob-controller-uid": "u-1"},
                "annotations": {"a": "b"}, "finalizers": ["f/g"],
                "ownerReferences": [{"apiVersion": "apps.kruise.io/v1beta1", "kind": "BroadcastJob", "name": "warm",
                    "uid": "u-1", "controller": true, "blockOwnerDeletion": true}]})
        );
        assert_eq!(pod["spec"]["notInventedYet"], json!([1]));
        assert_eq!(pod["spec"].get("nodeName"), None);
        let terms = pod.pointer(
            "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
        );
        let name = json!({"key": "metadata.name", "operator": "In", "values": ["n1"]});
        assert_eq!(terms, Some(&json!([{"matchFields": [name]}])));
    }

    #[test]
    fn the_users_own_affinity_can_still_be_read_on_the_pod() {
        let zone = json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}]});
        let other = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n9"]}]});
        let preferred = json!([{"weight": 1, "preference": {}}]);
        let affinity = json!({"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": preferred,
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [zone, other]}},
            "podAffinity": {"x": 1}});
        let pod = pod(&job("warm", json!({"spec": {"affinity": affinity}})), "n1", "warm-x", true);
        let name = json!({"key": "metadata.name", "operator": "In", "values": ["n1"]});
        assert_eq!(
            pod["spec"]["affinity"],
            json!({"nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": preferred,
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "Exists"}], "matchFields": [name]},
                    {"matchFields": [name, {"key": "metadata.name", "operator": "In", "values": ["n9"]}]}]}},
                "podAffinity": {"x": 1}})
        );
        let view = PodView::from(serde_json::from_value::<PodWire>(pod).unwrap());
        assert_eq!(view.pinned.as_deref(), Some("n1"), "it is found again");
    }

    #[test]
    fn without_the_scheduler_a_pod_is_bound_from_the_start() {
        let pod = pod(&job("warm", json!({"spec": {"nodeSelector": {"a": "b"}}})), "n1", "warm-x", false);
        assert_eq!(pod["spec"], json!({"nodeSelector": {"a": "b"}, "nodeName": "n1"}));
    }

    #[test]
    fn names_depend_on_job_node_and_attempt_only_and_are_host_names() {
        let long = job(&"n".repeat(63), Value::Null);
        let names: BTreeSet<_> = (0..5000).map(|node| pod_name(&long, &format!("node-{node}"), 0)).collect();
        assert_eq!(names.len(), 5000);
        assert!(names.iter().all(|name| name.len() <= MAX_NAME));
        assert_eq!(pod_name(&long, "node-7", 0), pod_name(&long, "node-7", 0));
        assert_ne!(pod_name(&long, "node-7", 0), pod_name(&long, "node-7", 1));
        let name = pod_name(&job("warm", Value::Null), "n1", 0);
        assert!(name.strip_prefix("warm-").is_some_and(|suffix| suffix.len() == SUFFIX), "{name}");
    }
}
