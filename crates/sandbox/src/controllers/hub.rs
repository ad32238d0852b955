//! The objects the controllers share, each kind watched once.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use jiff::Timestamp;
use kruise_common::key::{ObjectKey, Uid};
use kruise_runtime::queue::WorkQueue;
use kruise_runtime::store::{Selection, Store, View, run_watch};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, Resource};
use serde_json::Value;

use super::Controller;
use crate::clock::WallClock;
use crate::nodes::{NodeView, PodView};

/// An object in a store.
#[derive(Clone, Debug)]
pub(super) struct Seen<K> {
    key: ObjectKey,
    uid: Uid,
    pub(super) object: K,
}

impl<K: Resource> Seen<K> {
    pub(super) fn new(mut object: K) -> Self {
        let meta = object.meta_mut();
        meta.managed_fields = None;
        let name = meta.name.as_deref().unwrap_or_default();
        let key = ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), name);
        let uid = Uid::from(meta.uid.as_deref().unwrap_or_default());
        Self { key, uid, object }
    }

    /// Store's way in: every object can be read.
    #[expect(clippy::unnecessary_wraps, reason = "the signature is the store's")]
    pub(super) fn project(object: K) -> Option<Self> {
        Some(Self::new(object))
    }

    pub(super) fn deleting(&self) -> bool {
        self.object.meta().deletion_timestamp.is_some()
    }

    pub(super) fn name(&self) -> &str {
        &self.key.name
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.object.meta().annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// Kind, name and uid of the owner that controls it.
    pub(super) fn controller(&self) -> Option<(&str, &str, &str)> {
        let owners = self.object.meta().owner_references.as_deref().unwrap_or_default();
        let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
        Some((owner.kind.as_str(), owner.name.as_str(), owner.uid.as_str()))
    }

    pub(super) fn created(&self) -> Timestamp {
        self.object.meta().creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
    }
}

impl<K: Resource + Send + Sync + 'static> View for Seen<K> {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn resource_version(&self) -> &str {
        self.object.meta().resource_version.as_deref().unwrap_or_default()
    }

    fn owners(&self) -> Vec<Uid> {
        let owners = self.object.meta().owner_references.iter().flatten();
        owners.map(|owner| Uid::from(owner.uid.as_str())).collect()
    }
}

/// An object whose fields are read one by one.
pub(super) type Loose = Seen<DynamicObject>;

impl Loose {
    pub(super) fn int(&self, path: &str) -> Option<i64> {
        self.object.data.pointer(path).and_then(Value::as_i64)
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.object.data.pointer(path).and_then(Value::as_str)
    }

    pub(super) fn field(&self, path: &str) -> &Value {
        self.object.data.pointer(path).unwrap_or(&Value::Null)
    }

    pub(super) fn generation(&self) -> i64 {
        self.object.metadata.generation.unwrap_or_default()
    }
}

/// What the controllers share.
pub(super) struct Hub {
    pub(super) client: Client,
    pub(super) clock: WallClock,
    pub(super) pods: Store<Seen<PodView>>,
    pub(super) nodes: Store<Seen<NodeView>>,
    pub(super) leases: Store<Loose>,
    pub(super) namespaces: Store<Loose>,
    pub(super) accounts: Store<Loose>,
    pub(super) replica_sets: Store<Loose>,
    pub(super) deployments: Store<Loose>,
    pub(super) jobs: Store<Loose>,
    pub(super) budgets: Store<Loose>,
    pub(super) claims: Store<Loose>,
    pub(super) volumes: Store<Loose>,
}

/// The resource `plural` of `kind` in `group/version`; the group is empty for core.
pub(super) fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    ApiResource {
        group: group.into(),
        version: version.into(),
        api_version,
        kind: kind.into(),
        plural: plural.into(),
    }
}

impl Hub {
    pub(super) fn new(client: Client, clock: WallClock) -> Self {
        Self {
            client,
            clock,
            pods: Store::new(),
            nodes: Store::new(),
            leases: Store::new(),
            namespaces: Store::new(),
            accounts: Store::new(),
            replica_sets: Store::new(),
            deployments: Store::new(),
            jobs: Store::new(),
            budgets: Store::new(),
            claims: Store::new(),
            volumes: Store::new(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Keeps the stores that these controllers use, for ever.
    pub(super) async fn watch(&self, which: &[Controller]) {
        use Controller::{
            Accounts, Budgets, Deployments, Jobs, Namespaces, NodeLifecycle, ReplicaSets, Volumes,
        };
        let any = |users: &[Controller]| which.iter().any(|controller| users.contains(controller));
        let mut watches: Vec<BoxFuture<'_, ()>> = Vec::new();
        if any(&[ReplicaSets, Deployments, Jobs, Budgets, NodeLifecycle, Volumes]) {
            let api = Api::<PodView>::all(self.client.clone());
            watches.push(run_watch(api, Seen::project, self.pods.clone(), Selection::default()).boxed());
        }
        if any(&[NodeLifecycle]) {
            let api = Api::<NodeView>::all(self.client.clone());
            watches.push(run_watch(api, Seen::project, self.nodes.clone(), Selection::default()).boxed());
        }
        let loose: [(&[Controller], ApiResource, &Store<Loose>); 9] = [
            (&[NodeLifecycle], resource("coordination.k8s.io", "v1", "Lease", "leases"), &self.leases),
            (&[Namespaces, Accounts], resource("", "v1", "Namespace", "namespaces"), &self.namespaces),
            (&[Accounts], resource("", "v1", "ServiceAccount", "serviceaccounts"), &self.accounts),
            (
                &[ReplicaSets, Deployments],
                resource("apps", "v1", "ReplicaSet", "replicasets"),
                &self.replica_sets,
            ),
            (&[Deployments, Budgets], resource("apps", "v1", "Deployment", "deployments"), &self.deployments),
            (&[Jobs], resource("batch", "v1", "Job", "jobs"), &self.jobs),
            (
                &[Budgets],
                resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
                &self.budgets,
            ),
            (&[Volumes], resource("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims"), &self.claims),
            (&[Volumes], resource("", "v1", "PersistentVolume", "persistentvolumes"), &self.volumes),
        ];
        for (users, resource, store) in loose {
            if any(users) {
                let api = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
                watches.push(run_watch(api, Seen::project, store.clone(), Selection::default()).boxed());
            }
        }
        join_all(watches).await;
    }

    /// An untyped client of a namespaced resource.
    pub(super) fn api(&self, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, resource)
    }
}

/// Queues an object of `store` whenever it changes.
pub(super) fn queue_itself<K: Resource + Send + Sync + 'static>(store: &Store<Seen<K>>, queue: &WorkQueue) {
    let queue = queue.clone();
    store.subscribe(Box::new(move |change| {
        if let Some(object) = change.new.as_ref().or(change.old.as_ref()) {
            queue.add(object.key());
        }
    }));
}

/// Queues the controlling owner of this kind of an object of `store` whenever the object changes.
pub(super) fn queue_owner<K: Resource + Send + Sync + 'static>(
    store: &Store<Seen<K>>,
    queue: &WorkQueue,
    kind: &'static str,
) {
    let queue = queue.clone();
    store.subscribe(Box::new(move |change| {
        let mut told: Option<ObjectKey> = None;
        for object in [&change.old, &change.new].into_iter().flatten() {
            if let Some((owner_kind, name, _)) = object.controller()
                && owner_kind == kind
            {
                let key = ObjectKey::new(Arc::clone(&object.key().namespace), name);
                if told.as_ref() != Some(&key) {
                    queue.add(key.clone());
                }
                told = Some(key);
            }
        }
    }));
}
