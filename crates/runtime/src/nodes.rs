//! Nodes as they are kept: what decides which pods may run there. Heartbeats change nothing of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kruise_api::keys;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::placement::{NodeFacts, NodeSpecWire};
use kruise_common::wire::nullable;
use serde::Deserialize;
use serde_json::Value;

use crate::views::identity;

/// A Node as it is kept.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// Name; the namespace is empty.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// What is asked of it by those who place pods.
    pub facts: NodeFacts,
    /// Is being deleted.
    pub terminating: bool,
    /// Since when it is ready; `None` if it is not.
    pub ready_since: Option<Timestamp>,
}

impl NodeView {
    /// The view of an object from the API server; `None` if it has no name or identity.
    pub fn of(node: NodeWire) -> Option<Self> {
        let (key, uid, resource_version) = identity(&node.metadata)?;
        let labels = node.metadata.labels.unwrap_or_default();
        let facts = NodeFacts::of(labels, node.spec, node.status.allocatable);
        let ready = node.status.conditions.into_iter().find(|condition| condition.kind == "Ready");
        Some(Self {
            key,
            uid,
            resource_version,
            facts,
            terminating: node.metadata.deletion_timestamp.is_some(),
            ready_since: ready
                .filter(|ready| ready.status == "True")
                .map(|ready| ready.last_transition_time.map_or(Timestamp::UNIX_EPOCH, |time| time.0)),
        })
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.key.name
    }

    /// No container runtime stands behind it.
    pub fn is_virtual(&self) -> bool {
        self.facts.labels.get(keys::NODE_TYPE).is_some_and(|kind| **kind == *keys::VIRTUAL_KUBELET)
    }
}

/// A Node as the API server sends it, without the parts that nothing reads: the images alone are most of it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeWire {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default, deserialize_with = "nullable")]
    spec: NodeSpecWire,
    #[serde(default, deserialize_with = "nullable")]
    status: NodeStatusWire,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct NodeStatusWire {
    #[serde(default, deserialize_with = "nullable")]
    allocatable: BTreeMap<String, Value>,
    #[serde(default, deserialize_with = "nullable")]
    conditions: Vec<ConditionWire>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConditionWire {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    last_transition_time: Option<Time>,
}

kruise_common::resource_as!(NodeWire, Node);

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "helpers of tests take literals")]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(status: Value) -> NodeView {
        let wire = json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": "1", "labels": {"zone": "a"}},
            "spec": {"unschedulable": true, "taints": [{"key": "k", "effect": "NoSchedule"}]}, "status": status});
        NodeView::of(serde_json::from_value(wire).unwrap()).unwrap()
    }

    #[test]
    fn a_heartbeat_changes_nothing_that_is_kept() {
        let before = node(json!({"allocatable": {"cpu": "4"}, "conditions": [{"lastHeartbeatTime": "1"}]}));
        let after = node(
            json!({"allocatable": {"cpu": "4000m"}, "conditions": [{"lastHeartbeatTime": "2"}], "images": [7]}),
        );
        assert_eq!(before.facts, after.facts);
        assert_ne!(before.facts, node(json!({"allocatable": {"cpu": "3"}})).facts);
        assert!(before.facts.unschedulable && &*before.facts.taints[0].key == "k");
        assert_eq!(before.facts.labels["zone"], "a".into());
    }

    #[test]
    fn a_node_is_ready_since_its_condition_says_so() {
        let ready = |status: &str, since: Value| {
            node(json!({"conditions": [{"type": "DiskPressure", "status": "True"},
                {"type": "Ready", "status": status, "lastTransitionTime": since}]}))
            .ready_since
        };
        assert_eq!(ready("True", json!("1970-01-01T00:01:00Z")), Timestamp::from_second(60).ok());
        assert_eq!(ready("True", Value::Null), Some(Timestamp::UNIX_EPOCH));
        assert_eq!(ready("Unknown", json!("1970-01-01T00:01:00Z")), None);
        assert_eq!(node(json!({"conditions": null})).ready_since, None);
        assert!(!node(json!({})).is_virtual());
    }

    #[test]
    fn a_node_without_an_identity_is_not_kept() {
        for missing in
            [json!({"name": "n", "uid": "u"}), json!({"name": "n", "resourceVersion": "7"}), json!({})]
        {
            assert!(NodeView::of(serde_json::from_value(json!({"metadata": missing})).unwrap()).is_none());
        }
    }
}
