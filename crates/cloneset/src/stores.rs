//! The stores a CloneSet is observed from, and the parts of a claim and of a set that they keep.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use kruise_api::cloneset::v1beta1::CloneSet;
use kruise_api::keys;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::pod::PodView;
use kruise_common::revision::Revision;
use kruise_runtime::store::{Store, View};
use kube::core::PartialObjectMeta;

/// A CloneSet as it is kept: everything but `managedFields`.
#[derive(Clone, Debug)]
pub struct SetView {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// The object.
    pub set: CloneSet,
}

impl SetView {
    /// The view of an object from the API server; `None` if it has no name or identity.
    pub fn of(mut set: CloneSet) -> Option<Self> {
        set.metadata.managed_fields = None;
        Some(Self {
            key: ObjectKey::new(set.metadata.namespace.as_deref()?, set.metadata.name.as_deref()?),
            uid: Uid::from(set.metadata.uid.as_deref()?),
            resource_version: Arc::from(set.metadata.resource_version.as_deref()?),
            set,
        })
    }
}

impl View for SetView {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn resource_version(&self) -> &str {
        &self.resource_version
    }

    fn owners(&self) -> Vec<Uid> {
        Vec::new()
    }
}

/// A PersistentVolumeClaim as it is kept: a few names.
#[derive(Clone, Debug)]
pub struct StoredClaim {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// Value of the instance-id label; empty if absent.
    pub instance_id: Arc<str>,
    /// Is being deleted.
    pub terminating: bool,
    /// The managing owner.
    pub controller: Option<Uid>,
    /// Names of the CloneSets among the owners: whom a change of the claim concerns.
    pub sets: Vec<Arc<str>>,
    /// All owners.
    pub owners: Vec<Uid>,
}

impl StoredClaim {
    /// The view of an object from the API server; `None` if it has no name or identity.
    pub fn of(claim: PersistentVolumeClaim) -> Option<Self> {
        let meta = claim.metadata;
        let owners = meta.owner_references.unwrap_or_default();
        Some(Self {
            key: ObjectKey::new(meta.namespace.as_deref()?, meta.name.as_deref()?),
            uid: Uid::from(meta.uid.as_deref()?),
            resource_version: Arc::from(meta.resource_version.as_deref()?),
            instance_id: meta
                .labels
                .as_ref()
                .and_then(|labels| labels.get(keys::INSTANCE_ID))
                .map_or_else(|| Arc::from(""), |id| Arc::from(id.as_str())),
            terminating: meta.deletion_timestamp.is_some(),
            sets: owners
                .iter()
                .filter(|owner| owner.kind == "CloneSet" && owner.api_version.starts_with("apps.kruise.io/"))
                .map(|owner| Arc::from(owner.name.as_str()))
                .collect(),
            controller: owners
                .iter()
                .find(|owner| owner.controller == Some(true))
                .map(|owner| Uid::from(owner.uid.as_str())),
            owners: owners.iter().map(|owner| Uid::from(owner.uid.as_str())).collect(),
        })
    }
}

impl View for StoredClaim {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn resource_version(&self) -> &str {
        &self.resource_version
    }

    fn owners(&self) -> Vec<Uid> {
        self.owners.clone()
    }
}

/// A Node as it is kept: its labels.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Name; the namespace is empty.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// All labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
}

impl NodeView {
    /// The view of an object from the API server; `None` if it has no name or identity.
    pub fn of(node: PartialObjectMeta<Node>) -> Option<Self> {
        let meta = node.metadata;
        Some(Self {
            key: ObjectKey::new("", meta.name.as_deref()?),
            uid: Uid::from(meta.uid.as_deref()?),
            resource_version: Arc::from(meta.resource_version.as_deref()?),
            labels: meta
                .labels
                .iter()
                .flatten()
                .map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str())))
                .collect(),
        })
    }
}

impl View for NodeView {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn resource_version(&self) -> &str {
        &self.resource_version
    }

    fn owners(&self) -> Vec<Uid> {
        Vec::new()
    }
}

/// All that one round reads.
#[derive(Clone, Default)]
pub struct Stores {
    /// CloneSets.
    pub sets: Store<SetView>,
    /// Pods.
    pub pods: Store<PodView>,
    /// Claims.
    pub claims: Store<StoredClaim>,
    /// Revisions.
    pub revisions: Store<Revision>,
    /// Nodes.
    pub nodes: Store<NodeView>,
}

impl Stores {
    /// Resolves when every store has its first complete list.
    pub async fn ready(&self) {
        self.sets.ready().await;
        self.pods.ready().await;
        self.claims.ready().await;
        self.revisions.ready().await;
        self.nodes.ready().await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_tells_which_sets_it_concerns_whatever_their_version() {
        let owner = |version: &str, kind: &str, name: &str, controller: bool| json!({"apiVersion": version, "kind": kind, "name": name, "uid": name, "controller": controller});
        let claim = StoredClaim::of(
            serde_json::from_value(json!({"metadata": {
                "name": "data-web-b2b2b", "namespace": "shop", "uid": "c", "resourceVersion": "1",
                "ownerReferences": [
                    owner("apps.kruise.io/v1alpha1", "CloneSet", "web", true),
                    owner("example.com/v1", "CloneSet", "stranger", false),
                    owner("v1", "Pod", "web-b2b2b", false),
                ],
            }}))
            .unwrap(),
        )
        .unwrap();
        assert_eq!(claim.sets, [Arc::from("web")]);
        assert_eq!(claim.controller, Some(Uid::from("web")));
    }
}
