//! What the controller reads: AdvancedCronJobs, and their children of each kind that one of them creates.

use std::borrow::Cow;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kruise_api::advancedcronjob::{AdvancedCronJob, KIND};
use kruise_api::keys;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::wire::nullable;
use kruise_runtime::queue::WorkQueue;
use kruise_runtime::store::{Change, Store, View};
use kruise_runtime::views::Whole;
use kruise_runtime::watches::Watches;
use kube::Resource;
use kube::core::DynamicObject;
use serde::Deserialize;

use crate::child::{Child, Kind, State};

/// An `AdvancedCronJob` as it is kept.
pub type JobView = Whole<AdvancedCronJob>;

/// How long a round waits for the first list of a kind that nobody has needed before.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// Tells the kinds apart for the compiler: each has a watch and a store of its own.
pub trait ChildKind: Clone + Debug + Send + Sync + 'static {
    /// The kind.
    const KIND: Kind;
}

macro_rules! kinds {
    ($($(#[$about:meta])* $name:ident,)*) => {
        $(
            $(#[$about])*
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}

            impl ChildKind for $name {
                const KIND: Kind = Kind::$name;
            }
        )*
    };
}

kinds! {
    /// `batch/v1` Jobs.
    Job,
    /// BroadcastJobs.
    BroadcastJob,
    /// ImageListPullJobs.
    ImageListPullJob,
}

/// A child as the API server sends it, without what nothing here reads: its template is most of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "")]
pub struct ChildWire<K> {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default, deserialize_with = "nullable")]
    status: StatusWire,
    #[serde(skip)]
    kind: PhantomData<K>,
}

/// What any of the kinds says of how far it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StatusWire {
    start_time: Option<Time>,
    completion_time: Option<Time>,
    #[serde(deserialize_with = "nullable")]
    conditions: Vec<ConditionWire>,
    desired: Option<i64>,
    succeeded: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ConditionWire {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl StatusWire {
    fn state(&self, kind: Kind) -> State {
        match kind {
            Kind::Job | Kind::BroadcastJob => {
                let mut held = self.conditions.iter().filter(|condition| condition.status == "True");
                let ended = held.find_map(|condition| match condition.kind.as_str() {
                    "Complete" => Some(State::Succeeded),
                    "Failed" => Some(State::Failed),
                    _ => None,
                });
                ended.unwrap_or(State::Active)
            }
            Kind::ImageListPullJob if self.completion_time.is_none() => State::Active,
            Kind::ImageListPullJob if self.succeeded.unwrap_or(0) == self.desired.unwrap_or(0) => {
                State::Succeeded
            }
            Kind::ImageListPullJob => State::Failed,
        }
    }
}

impl<K: ChildKind> Resource for ChildWire<K> {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        K::KIND.name().into()
    }

    fn group((): &()) -> Cow<'_, str> {
        K::KIND.api_version().split_once('/').map_or("", |(group, _)| group).into()
    }

    fn version((): &()) -> Cow<'_, str> {
        K::KIND.api_version().split_once('/').map_or("", |(_, version)| version).into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::KIND.plural().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// An object of a kind of children as it is kept, whoever controls it.
#[derive(Clone, Debug)]
pub struct ChildView<K> {
    /// What there is to know of it.
    pub child: Child,
    /// Its controller.
    controller: Option<Controller>,
    kind: PhantomData<K>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Controller {
    uid: Uid,
    /// Its name, if it is an AdvancedCronJob of any version.
    cron_job: Option<Arc<str>>,
}

impl<K: ChildKind> ChildView<K> {
    /// The view of an object from the API server; `None` if it has no name or identity.
    pub fn of(wire: ChildWire<K>) -> Option<Self> {
        let meta = wire.metadata;
        let scheduled = meta.annotations.as_ref().and_then(|annotations| annotations.get(keys::SCHEDULED_AT));
        let controller = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        Some(Self {
            controller: controller.map(Controller::of),
            child: Child {
                key: ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref()?),
                uid: Uid::from(meta.uid.as_deref()?),
                resource_version: Arc::from(meta.resource_version.as_deref()?),
                scheduled: scheduled.and_then(|text| text.parse::<Timestamp>().ok()),
                started: wire.status.start_time.as_ref().map(|time| time.0),
                state: wire.status.state(K::KIND),
                terminating: meta.deletion_timestamp.is_some(),
            },
            kind: PhantomData,
        })
    }

    /// The view of the API server's answer.
    fn of_answer(answer: &DynamicObject) -> Option<Self> {
        let wire = serde_json::to_value(answer).and_then(serde_json::from_value::<ChildWire<K>>);
        wire.ok().and_then(Self::of)
    }
}

impl Controller {
    fn of(owner: &OwnerReference) -> Self {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let ours = owner.kind == KIND && group == "apps.kruise.io";
        Self { uid: Uid::from(owner.uid.as_str()), cron_job: ours.then(|| Arc::from(owner.name.as_str())) }
    }
}

impl<K: ChildKind> View for ChildView<K> {
    fn key(&self) -> ObjectKey {
        self.child.key.clone()
    }

    fn uid(&self) -> &Uid {
        &self.child.uid
    }

    fn resource_version(&self) -> &str {
        &self.child.resource_version
    }

    fn owners(&self) -> Vec<Uid> {
        self.controller.iter().map(|controller| controller.uid.clone()).collect()
    }
}

/// The children, of which a kind is watched from the moment on that an AdvancedCronJob has a template of it: a cluster
/// without such objects pays nothing for its Jobs, and a kind that is not served keeps nobody else from working.
pub struct Children {
    watches: Watches,
    queue: WorkQueue,
    jobs: OnceLock<Store<ChildView<Job>>>,
    broadcasts: OnceLock<Store<ChildView<BroadcastJob>>>,
    lists: OnceLock<Store<ChildView<ImageListPullJob>>>,
}

impl Children {
    /// Nothing is watched yet. Changes wake the owners in `queue`.
    pub fn new(watches: Watches, queue: WorkQueue) -> Self {
        Self { watches, queue, jobs: OnceLock::new(), broadcasts: OnceLock::new(), lists: OnceLock::new() }
    }

    /// True if the API server knows the kind.
    pub fn is_served(&self, kind: Kind) -> bool {
        kind.definition().is_none_or(|definition| self.watches.served().borrow().contains(definition))
    }

    /// The children of a kind that an AdvancedCronJob controls; `None` if that cannot be said yet.
    pub async fn of(&self, kind: Kind, owner: &Uid) -> Option<Vec<Child>> {
        match kind {
            Kind::Job => of_store(self.open(&self.jobs), owner).await,
            Kind::BroadcastJob => of_store(self.open(&self.broadcasts), owner).await,
            Kind::ImageListPullJob => of_store(self.open(&self.lists), owner).await,
        }
    }

    /// Takes in the answer to a creation; what it says of the child.
    pub fn created(&self, kind: Kind, answer: &DynamicObject) -> Option<Child> {
        match kind {
            Kind::Job => created_in(self.open(&self.jobs), answer),
            Kind::BroadcastJob => created_in(self.open(&self.broadcasts), answer),
            Kind::ImageListPullJob => created_in(self.open(&self.lists), answer),
        }
    }

    /// Takes in that a child is gone.
    pub fn removed(&self, kind: Kind, child: &Child) {
        match kind {
            Kind::Job => self.open(&self.jobs).remove_own(&child.key, &child.uid),
            Kind::BroadcastJob => self.open(&self.broadcasts).remove_own(&child.key, &child.uid),
            Kind::ImageListPullJob => self.open(&self.lists).remove_own(&child.key, &child.uid),
        }
    }

    fn open<'a, K: ChildKind>(&self, store: &'a OnceLock<Store<ChildView<K>>>) -> &'a Store<ChildView<K>> {
        store.get_or_init(|| {
            let store = self.watches.namespaced(ChildView::<K>::of);
            let queue = self.queue.clone();
            store.subscribe(Box::new(move |change| wake(change, &queue)));
            store
        })
    }
}

async fn of_store<K: ChildKind>(store: &Store<ChildView<K>>, owner: &Uid) -> Option<Vec<Child>> {
    if !store.is_ready() {
        tokio::time::timeout(FIRST_LIST, store.ready()).await.ok()?;
    }
    let children = store.owned_by(owner);
    Some(children.iter().map(|view| view.child.clone()).collect())
}

fn created_in<K: ChildKind>(store: &Store<ChildView<K>>, answer: &DynamicObject) -> Option<Child> {
    let view = ChildView::of_answer(answer)?;
    store.apply_own(view.clone());
    Some(view.child)
}

/// Wakes the owner of a child that came, went, finished or is going; what else happens in a child is its own affair.
fn wake<K>(change: &Change<ChildView<K>>, queue: &WorkQueue) {
    let news = |view: &ChildView<K>| {
        let Child { state, started, scheduled, terminating, .. } = view.child;
        (state, started, scheduled, terminating, view.controller.clone())
    };
    if let (Some(old), Some(new)) = (&change.old, &change.new)
        && news(old) == news(new)
    {
        return;
    }
    for view in change.old.iter().chain(&change.new) {
        let owner = view.controller.as_ref().and_then(|controller| controller.cron_job.clone());
        if let Some(owner) = owner {
            queue.add(ObjectKey::new(Arc::clone(&view.child.key.namespace), owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn view<K: ChildKind>(status: Value) -> ChildView<K> {
        let wire = json!({"metadata": {"name": "a-1", "namespace": "shop", "uid": "c", "resourceVersion": "7",
                "annotations": {"apps.kruise.io/scheduled-at": "2026-01-01T08:00:00+08:00"},
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"},
                    {"apiVersion": "apps.kruise.io/v1alpha1", "kind": "AdvancedCronJob", "name": "a", "uid": "u",
                     "controller": true}]},
            "spec": {"template": 7}, "status": status});
        ChildView::of(serde_json::from_value(wire).unwrap()).unwrap()
    }

    #[test]
    fn a_child_has_finished_when_its_own_controller_says_so() {
        let condition = |kind: &str, status: &str| {
            json!({"conditions": [
            {"type": "SuccessCriteriaMet", "status": "True"}, {"type": kind, "status": status}]})
        };
        for (status, state) in [
            (json!(null), State::Active),
            (json!({"active": 1}), State::Active),
            (json!({"conditions": null}), State::Active),
            (condition("Complete", "False"), State::Active),
            (condition("Complete", "True"), State::Succeeded),
            (condition("Failed", "True"), State::Failed),
            (condition("Suspended", "True"), State::Active),
        ] {
            assert_eq!(view::<Job>(status.clone()).child.state, state, "{status}");
            assert_eq!(view::<BroadcastJob>(status.clone()).child.state, state, "{status}");
        }
        let done = "2026-01-01T00:00:09Z";
        for (status, state) in [
            (json!({"desired": 2, "succeeded": 2}), State::Active),
            (json!({"desired": 2, "succeeded": 2, "completionTime": done}), State::Succeeded),
            (json!({"desired": 2, "succeeded": 1, "completionTime": done}), State::Failed),
            (json!({"desired": 0, "completionTime": done}), State::Succeeded),
        ] {
            assert_eq!(view::<ImageListPullJob>(status.clone()).child.state, state, "{status}");
        }
    }

    #[test]
    fn children_of_an_earlier_release_belong_to_their_owner_by_its_identity() {
        let view = view::<Job>(json!({"startTime": "2026-01-01T00:00:01Z"}));
        assert_eq!(view.owners(), [Uid::from("u")]);
        assert_eq!(view.controller.unwrap().cron_job.as_deref(), Some("a"));
        assert_eq!(view.child.scheduled, Some("2026-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(view.child.started, Some("2026-01-01T00:00:01Z".parse().unwrap()));
    }
}
