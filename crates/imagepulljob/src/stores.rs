//! The stores of the three controllers, and the shapes in which they keep objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kruise_api::imagelistpulljob::ImageListPullJob;
use kruise_api::imagepulljob::ImagePullJob;
use kruise_api::keys;
use kruise_api::nodeimage::NodeImage;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::pod::PodView;
use kruise_runtime::store::{Change, Store};
use kruise_runtime::view;
use kruise_runtime::views::{Whole, identity};
use kube::core::PartialObjectMeta;

/// Private annotation of a copied Secret: identity and version of the source it was copied from.
pub const SOURCE_VERSION: &str = "imagepulljobs.kruise.io/source-version";

/// A `NodeImage` as it is kept.
pub type NodeImageView = Whole<NodeImage>;
/// An `ImageListPullJob` as it is kept.
pub type ListView = Whole<ImageListPullJob>;

view!(=> JobView, |job| {
    let owners = job.object.metadata.owner_references.iter().flatten();
    owners.map(|owner| Uid::from(owner.uid.as_str())).collect()
});
// A copy is found by its source.
view!(=> SecretView, |secret| secret.source().map(copies_of).into_iter().collect());

/// What the copies of a Secret are filed under in the store.
pub fn copies_of(source: &str) -> Uid {
    Uid::from(format!("copies of {source}"))
}

/// An `ImagePullJob` as it is kept; found by its owner.
#[derive(Clone, Debug)]
pub struct JobView {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// The job.
    pub object: ImagePullJob,
}

impl JobView {
    /// The view of an object from the API server; `None` if it has no name or identity.
    pub fn of(mut object: ImagePullJob) -> Option<Self> {
        object.metadata.managed_fields = None;
        let (key, uid, resource_version) = identity(&object.metadata)?;
        Some(Self { key, uid, resource_version, object })
    }

    /// Is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// When it was finished; `None` while it is not.
    pub fn completed(&self) -> Option<Timestamp> {
        self.object.status.as_ref()?.completion_time.as_ref().map(|time| time.0)
    }

    /// Neither finished nor being deleted.
    pub fn is_active(&self) -> bool {
        !self.is_deleting() && self.completed().is_none()
    }

    /// Carries the finalizer of this controller.
    pub fn is_held(&self) -> bool {
        let mut finalizers = self.object.metadata.finalizers.iter().flatten();
        finalizers.any(|held| held == keys::DELETION_PROTECTION_FINALIZER)
    }

    /// The workload that made it.
    pub fn controller(&self) -> Option<&OwnerReference> {
        let mut owners = self.object.metadata.owner_references.iter().flatten();
        owners.find(|owner| owner.controller == Some(true))
    }

    /// The Secrets it names.
    pub fn pull_secrets(&self) -> impl Iterator<Item = ObjectKey> {
        let names = self.object.spec.template.pull_secrets.iter().flatten();
        names.map(|name| ObjectKey::new(self.key.namespace.clone(), name.as_str()))
    }
}

/// A Secret as it is kept: that it exists, and of what it is a copy. Its data is never kept.
#[derive(Clone, Debug)]
pub struct SecretView {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// Is being deleted.
    pub terminating: bool,
    /// The annotations of copies.
    pub annotations: BTreeMap<String, String>,
}

impl SecretView {
    /// The view of an object from the API server; `None` if it has no name or identity.
    pub fn of(secret: PartialObjectMeta<Secret>) -> Option<Self> {
        let meta = secret.metadata;
        let (key, uid, resource_version) = identity(&meta)?;
        let ours = [keys::SECRET_SOURCE, keys::SECRET_REFERENCES, keys::SECRET_MODE, SOURCE_VERSION];
        let mut annotations = meta.annotations.unwrap_or_default();
        annotations.retain(|key, _| ours.contains(&key.as_str()));
        let terminating = meta.deletion_timestamp.is_some();
        Some(Self { key, uid, resource_version, terminating, annotations })
    }

    /// Namespace and name of what it is a copy of.
    pub fn source(&self) -> Option<&str> {
        self.annotations.get(keys::SECRET_SOURCE).map(String::as_str)
    }

    /// The jobs that need it, as the annotation tells.
    pub fn references(&self) -> &str {
        self.annotations.get(keys::SECRET_REFERENCES).map_or("", String::as_str)
    }

    /// Identity and version, to tell whether a copy is up to date.
    pub fn version(&self) -> String {
        format!("{}/{}", self.uid, self.resource_version)
    }
}

/// All that the controllers read.
#[derive(Clone, Default)]
pub struct Stores {
    /// `ImagePullJob`s.
    pub jobs: Store<JobView>,
    /// `NodeImage`s.
    pub images: Store<NodeImageView>,
    /// Pods.
    pub pods: Store<PodView>,
    /// Secrets, without their data.
    pub secrets: SecretStore,
}

/// Secrets of users and copies of them. Together where all namespaces are watched; a manager of one namespace watches
/// that of the copies besides.
#[derive(Clone, Default)]
pub struct SecretStore {
    /// Those of the watched namespaces.
    pub own: Store<SecretView>,
    /// The namespace of the copies, if it is not among them.
    pub copies: Option<(Arc<str>, Store<SecretView>)>,
}

impl SecretStore {
    fn of(&self, namespace: &str) -> &Store<SecretView> {
        let besides = self.copies.as_ref().filter(|(besides, _)| **besides == *namespace);
        besides.map_or(&self.own, |(_, store)| store)
    }

    /// One Secret.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<SecretView>> {
        self.of(&key.namespace).get(key)
    }

    /// The copies of a Secret in a namespace.
    pub fn copies_of(&self, source: &ObjectKey, namespace: &str) -> Vec<Arc<SecretView>> {
        let mut copies = self.of(namespace).owned_by(&copies_of(&source.to_string()));
        copies.retain(|copy| *copy.key.namespace == *namespace);
        copies
    }

    /// True if what is not there does not exist.
    pub fn sees(&self, namespace: &str, sees_all: bool) -> bool {
        sees_all || self.copies.as_ref().is_some_and(|(besides, _)| **besides == *namespace)
    }

    /// Takes in the answer to an own write.
    pub fn apply_own(&self, view: SecretView) {
        self.of(&view.key.namespace).apply_own(view);
    }

    /// Takes in an own deletion.
    pub fn remove_own(&self, key: &ObjectKey, uid: &Uid) {
        self.of(&key.namespace).remove_own(key, uid);
    }

    /// Tells of every change.
    pub fn subscribe(&self, subscriber: impl Fn(&Change<SecretView>) + Clone + Send + Sync + 'static) {
        if let Some((_, copies)) = &self.copies {
            copies.subscribe(Box::new(subscriber.clone()));
        }
        self.own.subscribe(Box::new(subscriber));
    }

    /// Resolves when the first complete lists are there.
    pub async fn ready(&self) {
        self.own.ready().await;
        if let Some((_, copies)) = &self.copies {
            copies.ready().await;
        }
    }
}

impl Stores {
    /// Resolves when every store has its first complete list.
    pub async fn ready(&self) {
        self.jobs.ready().await;
        self.images.ready().await;
        self.pods.ready().await;
        self.secrets.ready().await;
    }
}

#[cfg(test)]
mod tests {
    use kruise_runtime::store::View;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_copy_is_filed_under_its_source_and_other_annotations_are_not_kept() {
        let secret = SecretView::of(
            serde_json::from_value(json!({"metadata": {
                "name": "s-1", "namespace": "d", "uid": "u", "resourceVersion": "1",
                "annotations": {"imagepulljobs.kruise.io/source-key": "shop/s",
                                "kubectl.kubernetes.io/last-applied-configuration": "secret"},
            }}))
            .unwrap(),
        )
        .unwrap();
        assert_eq!(secret.owners(), [copies_of("shop/s")]);
        assert_eq!(secret.annotations.len(), 1);
    }
}
