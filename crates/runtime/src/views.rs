//! How objects are kept in stores: the values of `kruise-common`, and shapes that more than one controller reads.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruise_api::keys;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::pod::{OwnerView, PodView};
use kruise_common::revision::{Revision, orphans_of};
use kube::Resource;

pub use crate::nodes::NodeView;

/// A `View` of a type with fields `key`, `uid` and `resource_version`; the last argument tells the owners.
#[macro_export]
macro_rules! view {
    ($($kind:ident)? => $type:ty, $owners:expr) => {
        impl$(<$kind: kube::Resource + Send + Sync + 'static>)? $crate::store::View for $type {
            fn key(&self) -> kruise_common::key::ObjectKey {
                self.key.clone()
            }

            fn uid(&self) -> &kruise_common::key::Uid {
                &self.uid
            }

            fn resource_version(&self) -> &str {
                &self.resource_version
            }

            fn owners(&self) -> Vec<kruise_common::key::Uid> {
                let owners: fn(&Self) -> Vec<kruise_common::key::Uid> = $owners;
                owners(self)
            }
        }
    };
}

view!(=> PodView, |pod| pod.owners.iter().map(|owner| owner.uid.clone()).collect());
// Those that nobody controls are found by namespace.
view!(=> Revision, |revision| {
    vec![revision.controller.clone().unwrap_or_else(|| orphans_of(&revision.key.namespace))]
});
view!(K => Whole<K>, |whole| {
    let owners = whole.object.meta().owner_references.iter().flatten();
    owners.map(|owner| Uid::from(owner.uid.as_str())).collect()
});
view!(=> StoredClaim, |claim| claim.owners.iter().map(|owner| owner.uid.clone()).collect());
view!(=> NodeView, |_| Vec::new());

/// Namespace and name, identity and version of an object; `None` if the API server did not give it all of them.
pub fn identity(meta: &ObjectMeta) -> Option<(ObjectKey, Uid, Arc<str>)> {
    let key = ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref()?);
    Some((key, Uid::from(meta.uid.as_deref()?), Arc::from(meta.resource_version.as_deref()?)))
}

/// An object as a whole, such as a workload: everything but `managedFields`.
#[derive(Clone, Debug)]
pub struct Whole<K> {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// The object.
    pub object: K,
}

impl<K: Resource> Whole<K> {
    /// The view of an object from the API server; `None` if it has no name or identity.
    pub fn of(mut object: K) -> Option<Self> {
        object.meta_mut().managed_fields = None;
        let (key, uid, resource_version) = identity(object.meta())?;
        Some(Self { key, uid, resource_version, object })
    }
}

/// A PersistentVolumeClaim as it is kept: whose it is, and of which instance.
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
    /// All owners.
    pub owners: Box<[OwnerView]>,
}

impl StoredClaim {
    /// The view of an object from the API server; `None` if it has no name or identity.
    pub fn of(claim: PersistentVolumeClaim) -> Option<Self> {
        let meta = claim.metadata;
        let (key, uid, resource_version) = identity(&meta)?;
        let id = meta.labels.as_ref().and_then(|labels| labels.get(keys::INSTANCE_ID));
        Some(Self {
            key,
            uid,
            resource_version,
            instance_id: id.map_or_else(Arc::default, |id| Arc::from(id.as_str())),
            terminating: meta.deletion_timestamp.is_some(),
            owners: meta
                .owner_references
                .iter()
                .flatten()
                .map(|owner| OwnerView {
                    group: owner.api_version.split_once('/').map_or("", |(group, _)| group).into(),
                    kind: owner.kind.as_str().into(),
                    name: owner.name.as_str().into(),
                    uid: Uid::from(owner.uid.as_str()),
                    controller: owner.controller == Some(true),
                })
                .collect(),
        })
    }

    /// The managing owner.
    pub fn controller(&self) -> Option<&Uid> {
        self.owners.iter().find(|owner| owner.controller).map(|owner| &owner.uid)
    }

    /// Names of the owners of a kind, whatever their version: whom a change of the claim concerns.
    pub fn owners_of_kind<'a>(&'a self, group: &'a str, kind: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        let alike = move |owner: &&OwnerView| *owner.group == *group && *owner.kind == *kind;
        self.owners.iter().filter(alike).map(|owner| &owner.name)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
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
        assert!(claim.owners_of_kind("apps.kruise.io", "CloneSet").eq([&Arc::from("web")]));
        assert!(claim.owners_of_kind("", "Pod").eq([&Arc::from("web-b2b2b")]));
        assert_eq!(claim.controller(), Some(&Uid::from("web")));
    }

    #[test]
    fn an_object_without_an_identity_is_not_kept_and_managed_fields_never_are() {
        let node =
            |meta: serde_json::Value| serde_json::from_value::<Node>(json!({"metadata": meta})).unwrap();
        let whole = Whole::of(node(json!({"name": "n", "uid": "u", "resourceVersion": "7",
            "managedFields": [{"manager": "x"}]})))
        .unwrap();
        assert_eq!((whole.key.to_string().as_str(), &*whole.resource_version), ("n", "7"));
        assert_eq!(whole.object.metadata.managed_fields, None);
        for missing in
            [json!({"name": "n", "uid": "u"}), json!({"name": "n", "resourceVersion": "7"}), json!({})]
        {
            assert!(Whole::of(node(missing)).is_none());
        }
    }
}
