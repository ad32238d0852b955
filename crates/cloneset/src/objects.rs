//! The objects a CloneSet creates, as JSON: what the template says plus what Kruise adds, nothing dropped.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kruise_api::keys;
use kruise_api::raw::RawJson;
use kruise_common::patch::rfc3339_seconds;
use kruise_common::revision::{Revision, short_hash};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::stores::SetView;

/// The reference by which a CloneSet owns what it creates.
pub fn owner(set: &SetView) -> OwnerReference {
    OwnerReference {
        api_version: "apps.kruise.io/v1beta1".to_owned(),
        kind: "CloneSet".to_owned(),
        name: set.key.name.to_string(),
        uid: set.uid.to_string(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Name of the claim that a template makes for an instance.
pub fn claim_name(template: &str, set: &SetView, id: &str) -> String {
    format!("{template}-{}-{id}", set.key.name)
}

/// The volumeClaimTemplates for a new pod: for one of an older revision (`kept`) those that revision came with, if it
/// says, since its template mounts them; else those the set has now.
pub fn claim_templates(set: &SetView, kept: Option<&Revision>) -> Vec<Value> {
    let now = || {
        let claims = set.object.spec.volume_claim_templates.iter().flatten();
        claims.map(RawJson::read).collect()
    };
    let Some(revision) = kept else { return now() };
    match revision.annotations.get(keys::REVISION_VOLUME_CLAIM_TEMPLATES) {
        Some(json) => serde_json::from_str(json).unwrap_or_else(|_| now()),
        // Our own revisions say nothing only if there was nothing to say.
        None if revision.annotations.contains_key(keys::REVISION_WRITER) => Vec::new(),
        None => now(),
    }
}

/// How volumeClaimTemplates are kept with a revision; `None` if there are none.
pub fn kept_claim_templates(claims: &[Value]) -> Option<String> {
    if claims.is_empty() { None } else { serde_json::to_string(claims).ok() }
}

/// Each template with its name; nameless ones, which admission refuses, are left out.
fn named(claims: &[Value]) -> impl Iterator<Item = (&str, &Value)> {
    claims.iter().filter_map(|claim| Some((claim.pointer("/metadata/name")?.as_str()?, claim)))
}

/// A new pod of the set at a revision, with these volumeClaimTemplates.
pub fn pod(
    set: &SetView,
    revision: &Revision,
    claims: &[Value],
    (name, id): (&str, &str),
    short_hash_label: bool,
    now: Timestamp,
) -> Value {
    let template = revision.template();
    let template_meta = template.get("metadata").cloned().unwrap_or_default();

    let mut labels = map_at(&template_meta, "labels");
    let hash = short_hash(revision.name());
    labels.insert(keys::INSTANCE_ID.into(), id.into());
    labels.insert(
        keys::CONTROLLER_REVISION_HASH.into(),
        if short_hash_label { hash } else { revision.name() }.into(),
    );
    labels.insert(keys::POD_TEMPLATE_HASH.into(), hash.into());
    labels.insert(keys::LIFECYCLE_STATE.into(), "PreparingNormal".into());
    let mut annotations = map_at(&template_meta, "annotations");
    annotations.insert(keys::LIFECYCLE_TIMESTAMP.into(), rfc3339_seconds(now).into());

    let mut metadata = object([
        ("name", name.into()),
        ("generateName", format!("{}-", set.key.name).into()),
        ("namespace", (&*set.key.namespace).into()),
        ("labels", Value::Object(labels)),
        ("annotations", Value::Object(annotations)),
        ("ownerReferences", Value::Array(vec![json_of(&owner(set))])),
    ]);
    if let Some(finalizers) = template_meta.get("finalizers").filter(|value| !value.is_null()) {
        metadata.insert("finalizers".into(), finalizers.clone());
    }

    let mut spec = map_at(&template, "spec");
    let mut gates = list_at(&spec, "readinessGates");
    // The second is what hooks and ContainerRecreateRequests take a pod out of service by.
    for kind in [keys::INPLACE_UPDATE_READY, keys::KRUISE_POD_READY] {
        if !gates.iter().any(|gate| gate.get("conditionType").and_then(Value::as_str) == Some(kind)) {
            gates.push(Value::Object(object([("conditionType", kind.into())])));
        }
    }
    spec.insert("readinessGates".into(), Value::Array(gates));
    let mut volumes = list_at(&spec, "volumes");
    for (template, _) in named(claims) {
        volumes.retain(|volume| volume.get("name").and_then(Value::as_str) != Some(template));
        let source = object([("claimName", claim_name(template, set, id).into())]);
        volumes.push(Value::Object(object([
            ("name", template.into()),
            ("persistentVolumeClaim", Value::Object(source)),
        ])));
    }
    if !volumes.is_empty() {
        spec.insert("volumes".into(), Value::Array(volumes));
    }
    Value::Object(object([
        ("apiVersion", "v1".into()),
        ("kind", "Pod".into()),
        ("metadata", Value::Object(metadata)),
        ("spec", Value::Object(spec)),
    ]))
}

/// The claims of an instance, in the order of their templates.
pub fn claims(set: &SetView, claims: &[Value], id: &str) -> Vec<Value> {
    named(claims)
        .map(|(name, template)| {
            let meta = template.get("metadata").cloned().unwrap_or_default();
            let mut labels = map_at(&meta, "labels");
            for (key, value) in set.object.spec.selector.match_labels.iter().flatten() {
                labels.insert(key.clone(), value.as_str().into());
            }
            labels.insert(keys::INSTANCE_ID.into(), id.into());
            let mut metadata = meta.as_object().cloned().unwrap_or_default();
            metadata.remove("creationTimestamp");
            metadata.insert("name".into(), claim_name(name, set, id).into());
            metadata.insert("namespace".into(), (&*set.key.namespace).into());
            metadata.insert("labels".into(), Value::Object(labels));
            metadata.insert("ownerReferences".into(), Value::Array(vec![json_of(&owner(set))]));
            Value::Object(object([
                ("apiVersion", "v1".into()),
                ("kind", "PersistentVolumeClaim".into()),
                ("metadata", Value::Object(metadata)),
                ("spec", template.get("spec").cloned().unwrap_or_default()),
            ]))
        })
        .collect()
}

/// A JSON object of these entries.
pub(crate) fn object<const N: usize>(entries: [(&str, Value); N]) -> Map<String, Value> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The JSON of a value that always has one.
pub(crate) fn json_of(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn map_at(value: &Value, key: &str) -> Map<String, Value> {
    value.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

fn list_at(map: &Map<String, Value>, key: &str) -> Vec<Value> {
    map.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kruise_common::key::{ObjectKey, Uid};
    use kruise_common::texts::Texts;
    use serde_json::json;

    use super::*;

    fn set() -> SetView {
        SetView::of(
            serde_json::from_value(json!({
                "apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet",
                "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "1"},
                "spec": {
                    "selector": {"matchLabels": {"app": "web"}},
                    "template": {},
                    "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
                },
            }))
            .unwrap(),
        )
        .unwrap()
    }

    fn revision(template: Value) -> Revision {
        Revision {
            key: ObjectKey::new("shop", "web-6c4bf58578"),
            uid: Uid::from("r1"),
            resource_version: Arc::from("1"),
            number: 1,
            template: template.into(),
            created: None,
            controller: None,
            labels: Texts::default(),
            annotations: Texts::default(),
        }
    }

    #[test]
    fn a_pod_is_its_template_plus_labels_owner_gate_and_claims() {
        let template = json!({
            "metadata": {"labels": {"app": "web"}, "finalizers": ["f.example/x"], "creationTimestamp": null},
            "spec": {"containers": [{"name": "main", "image": "nginx:1.0"}], "newField": {"deep": 1},
                     "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]},
        });
        let set = set();
        let claims = claim_templates(&set, None);
        let pod =
            pod(&set, &revision(template), &claims, ("web-b2b2b", "b2b2b"), false, Timestamp::UNIX_EPOCH);
        assert_eq!(
            pod,
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": "web-b2b2b", "generateName": "web-", "namespace": "shop",
                    "labels": {
                        "app": "web", "apps.kruise.io/cloneset-instance-id": "b2b2b",
                        "controller-revision-hash": "web-6c4bf58578", "pod-template-hash": "6c4bf58578",
                        "lifecycle.apps.kruise.io/state": "PreparingNormal",
                    },
                    "annotations": {"lifecycle.apps.kruise.io/timestamp": "1970-01-01T00:00:00Z"},
                    "finalizers": ["f.example/x"],
                    "ownerReferences": [{"apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "name": "web",
                        "uid": "u1", "controller": true, "blockOwnerDeletion": true}],
                },
                "spec": {
                    "containers": [{"name": "main", "image": "nginx:1.0"}], "newField": {"deep": 1},
                    "readinessGates": [
                        {"conditionType": "InPlaceUpdateReady"}, {"conditionType": "KruisePodReady"},
                    ],
                    "volumes": [{"name": "tmp", "emptyDir": {}},
                        {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-b2b2b"}}],
                },
            })
        );
    }

    #[test]
    fn a_declared_gate_is_not_added_twice_and_the_short_hash_is_a_choice() {
        let declared = json!([{"conditionType": "KruisePodReady"}, {"conditionType": "x"}, {"conditionType": "InPlaceUpdateReady"}]);
        let template = json!({"spec": {"readinessGates": declared}});
        let pod = pod(&set(), &revision(template), &[], ("web-x", "x"), true, Timestamp::UNIX_EPOCH);
        assert_eq!(pod["spec"]["readinessGates"], declared);
        assert_eq!(pod["metadata"]["labels"]["controller-revision-hash"], "6c4bf58578");
    }

    #[test]
    fn an_older_revision_keeps_the_claims_it_came_with() {
        let set = set();
        let now = claim_templates(&set, None);
        let mut older = revision(json!({}));
        assert_eq!(claim_templates(&set, Some(&older)), now, "others do not keep them");
        let then = [json!({"metadata": {"name": "logs"}, "spec": {}})];
        let json = kept_claim_templates(&then).unwrap();
        older.annotations.insert(keys::REVISION_VOLUME_CLAIM_TEMPLATES.into(), json.into());
        assert_eq!(claim_templates(&set, Some(&older)), then);
        assert_eq!(claim_templates(&set, None), now, "the newest revision has today's");
        older.annotations = [(keys::REVISION_WRITER.into(), "1".into())].into();
        assert_eq!(claim_templates(&set, Some(&older)), [Value::Null; 0], "it came without");
        assert_eq!(kept_claim_templates(&[]), None);
    }

    #[test]
    fn a_claim_carries_the_selector_the_id_and_the_owner() {
        let set = set();
        let claims = claims(&set, &claim_templates(&set, None), "b2b2b");
        assert_eq!(claims.len(), 1);
        assert_eq!(claims[0]["metadata"]["name"], "data-web-b2b2b");
        assert_eq!(claims[0]["metadata"]["labels"]["app"], "web");
        assert_eq!(claims[0]["metadata"]["labels"]["apps.kruise.io/cloneset-instance-id"], "b2b2b");
        assert_eq!(claims[0]["metadata"]["ownerReferences"][0]["uid"], "u1");
        assert_eq!(claims[0]["spec"]["accessModes"][0], "ReadWriteOnce");
    }
}
