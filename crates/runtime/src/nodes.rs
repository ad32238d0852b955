//! Nodes as they are kept: what decides which pods may run there. Heartbeats change nothing of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::placement::{NodeFacts, NodeSpecWire};
use kube::Resource;
use serde::{Deserialize, Deserializer};
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
    /// What is asked of it.
    pub facts: NodeFacts,
}

impl NodeView {
    /// The view of an object from the API server; `None` if it has no name or identity.
    pub fn of(node: NodeWire) -> Option<Self> {
        let (key, uid, resource_version) = identity(&node.metadata)?;
        let labels = node.metadata.labels.unwrap_or_default();
        let facts = NodeFacts::of(labels, node.spec, node.status.allocatable);
        Some(Self { key, uid, resource_version, facts })
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.key.name
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
}

fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

impl Resource for NodeWire {
    type DynamicType = ();
    type Scope = <Node as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        <Node as Resource>::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        <Node as Resource>::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        <Node as Resource>::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        <Node as Resource>::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

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
    fn a_node_without_an_identity_is_not_kept() {
        for missing in
            [json!({"name": "n", "uid": "u"}), json!({"name": "n", "resourceVersion": "7"}), json!({})]
        {
            assert!(NodeView::of(serde_json::from_value(json!({"metadata": missing})).unwrap()).is_none());
        }
    }
}
