//! One round of one node, and what wakes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, RemoveOperation, ReplaceOperation};
use k8s_openapi::api::core::v1::ObjectReference;
use kruise_api::imagepulljob::{ImagePullJob, KIND as JOB_KIND};
use kruise_api::nodeimage::{ImageSpec, ImageStatus, KIND, NodeImage, NodeImageSpec, NodeImageStatus};
use kruise_common::key::{ObjectKey, Uid};
use kruise_runtime::controller::{Failed, Requeue};
use kruise_runtime::events::{EventRecorder, EventType};
use kruise_runtime::nodes::NodeView;
use kruise_runtime::queue::WorkQueue;
use kruise_runtime::store::{Change, Store};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde::Serialize;
use serde_json::Value;

use super::owners::Owners;
use super::plan::{Action, GivenUp, Plan, Seen, plan};
use crate::apply::{Error, Guard, StatusPatch, failure, is_code, is_reason, only, settled};
use crate::stores::{JobView, NodeImageView, SecretStore};

/// Name of the controller: label of its metrics, source of its events.
pub const NAME: &str = "nodeimage-controller";

/// How long copies of Secrets get to go after their last job is over.
const AFTER_JOB: Duration = Duration::from_secs(2);

/// All that the controller reads.
#[derive(Clone, Default)]
pub struct Stores {
    /// Nodes.
    pub nodes: Store<NodeView>,
    /// `NodeImage`s.
    pub images: Store<NodeImageView>,
    /// `ImagePullJob`s.
    pub jobs: Store<JobView>,
    /// Secrets, without their data.
    pub secrets: SecretStore,
}

impl Stores {
    /// Resolves when every store has its first complete list.
    pub async fn ready(&self) {
        self.nodes.ready().await;
        self.images.ready().await;
        self.jobs.ready().await;
        self.secrets.ready().await;
    }
}

/// What rounds need.
pub struct Context {
    client: kube::Client,
    stores: Stores,
    owners: Owners,
    events: EventRecorder,
    delay: Duration,
    /// All namespaces are watched, so that what is in no store does not exist.
    sees_all: bool,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Context {
    /// `delay` is `--nodeimage-creation-delay`; `sees_all` is false for a manager of one namespace.
    pub fn new(
        client: kube::Client,
        stores: Stores,
        events: EventRecorder,
        delay: Duration,
        sees_all: bool,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Self {
        Self { client, stores, owners: Owners::default(), events, delay, sees_all, clock }
    }

    fn images(&self) -> Api<NodeImage> {
        Api::all(self.client.clone())
    }
}

/// Wakes nodes when something of theirs changes.
pub fn wire(queue: &WorkQueue, context: &Arc<Context>) {
    let stores = &context.stores;
    let (waker, known) = (queue.clone(), stores.images.clone());
    stores.nodes.subscribe(Box::new(move |change: &Change<NodeView>| {
        let Some(node) = change.new.as_ref().or(change.old.as_ref()) else { return };
        if concerns(change) || known.get(&node.key).is_none() {
            waker.add(node.key.clone());
        }
    }));
    let (waker, follower) = (queue.clone(), Arc::clone(context));
    stores.images.subscribe(Box::new(move |change: &Change<NodeImageView>| {
        follower.owners.node_changed(change);
        if let Some(image) = change.new.as_ref().or(change.old.as_ref()) {
            waker.add(image.key.clone());
        }
    }));
    let (waker, follower) = (queue.clone(), Arc::clone(context));
    stores.jobs.subscribe(Box::new(move |change: &Change<JobView>| {
        let wait = if change.new.is_some() { AFTER_JOB } else { Duration::ZERO };
        for node in follower.owners.job_changed(change) {
            waker.add_after(ObjectKey::new("", node), wait);
        }
    }));
}

/// Whether a `NodeImage` that is there already has to follow.
fn concerns(change: &Change<NodeView>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return true };
    old.facts.labels != new.facts.labels || old.terminating != new.terminating
}

/// One round.
///
/// # Errors
/// The write failed.
pub async fn reconcile(key: ObjectKey, context: Arc<Context>) -> Result<Requeue, Failed<Error>> {
    settled(round(&key, &context).await, None)
}

async fn round(key: &ObjectKey, context: &Context) -> Result<Requeue, Error> {
    let gone = gone_owners(context.stores.images.get(key).as_deref(), context).await;
    let image = context.stores.images.get(key);
    let Plan { action, given_up, wake_in } = decide(key, image.as_deref(), &gone, context);
    if let Some(action) = action {
        carry_out(key, image.as_deref(), action, context).await?;
    }
    for pull in given_up {
        tell(key, image.as_deref(), &pull, context);
    }
    Ok(wake_in.map_or(Requeue::None, Requeue::After))
}

fn decide(
    key: &ObjectKey,
    image: Option<&NodeImageView>,
    gone: &BTreeSet<String>,
    context: &Context,
) -> Plan {
    let stores = &context.stores;
    plan(&Seen {
        node: stores.nodes.get(key).as_deref(),
        image: image.map(|view| &view.object),
        gone: &|owner| owner.uid.as_ref().is_some_and(|uid| gone.contains(uid)),
        secret_exists: &|secret| {
            let namespace = secret.namespace.as_deref().unwrap_or_default();
            let key = ObjectKey::new(namespace, secret.name.as_deref().unwrap_or_default());
            !stores.secrets.sees(namespace, context.sees_all) || stores.secrets.get(&key).is_some()
        },
        delay: context.delay,
        now: (context.clock)(),
    })
}

/// The owners that are gone. Who is in no store is asked for, unless it was seen to go: the store may be behind.
async fn gone_owners(image: Option<&NodeImageView>, context: &Context) -> BTreeSet<String> {
    let images =
        image.and_then(|view| view.object.spec.images.as_ref()).into_iter().flat_map(BTreeMap::values);
    let owners = images
        .flat_map(|image| &image.tags)
        .flat_map(|tag| tag.owner_references.iter().flatten())
        .filter(|owner| owner.kind.as_deref() == Some(JOB_KIND));
    let mut gone = BTreeSet::new();
    for owner in owners {
        let Some(uid) = &owner.uid else { continue };
        if !gone.contains(uid) && is_gone(owner, uid, context).await {
            gone.insert(uid.clone());
        }
    }
    gone
}

async fn is_gone(owner: &ObjectReference, uid: &str, context: &Context) -> bool {
    let (namespace, name) = (owner.namespace.as_deref(), owner.name.as_deref());
    let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    let stored = context.stores.jobs.get(&ObjectKey::new(namespace, name));
    if stored.is_some_and(|job| *job.uid.0 == *uid) {
        return false;
    }
    if context.owners.is_gone(uid) || namespace.is_empty() || name.is_empty() {
        return true;
    }
    let jobs: Api<ImagePullJob> = Api::namespaced(context.client.clone(), namespace);
    let gone = match jobs.get_metadata_opt(name).await {
        Ok(found) => found.is_none_or(|job| job.metadata.uid.as_deref() != Some(uid)),
        // Who is not known to be gone stays.
        Err(_) => false,
    };
    if gone {
        context.owners.job_is_gone(uid);
    }
    gone
}

async fn carry_out(
    key: &ObjectKey,
    image: Option<&NodeImageView>,
    action: Action,
    context: &Context,
) -> Result<(), Error> {
    let images = context.images();
    let answer = match (action, image) {
        (Action::Create(labels), _) => {
            let mut wanted = NodeImage::new(&key.name, NodeImageSpec::default());
            wanted.metadata.labels = (!labels.is_empty()).then_some(labels);
            match images.create(&PostParams::default(), &wanted).await {
                Err(error) if is_reason(&error, "AlreadyExists") => return Ok(()),
                answer => answer,
            }
        }
        (Action::Delete, Some(image)) => {
            return match images.delete(&key.name, &only(&image.uid.0, None)).await {
                Ok(_) => Ok(()),
                Err(error) if is_code(&error, 404) => Ok(()),
                Err(error) => Err(failure(key, error)),
            };
        }
        (Action::Update { labels, images: entries }, Some(image)) => {
            let patch: Patch<()> = Patch::Json(spec_patch(image, labels, entries));
            images.patch(&key.name, &PatchParams::default(), &patch).await
        }
        (Action::Status(status), Some(image)) => {
            let old = image.object.status.as_ref().and_then(|status| status.image_statuses.as_ref());
            let status = ChangedStatus::of(&status, old);
            let metadata = Guard { uid: &image.uid.0, resource_version: Some(&image.resource_version) };
            let patch = Patch::Merge(StatusPatch { metadata, status });
            images.patch_status(&key.name, &PatchParams::default(), &patch).await
        }
        (_, None) => return Ok(()),
    };
    match answer {
        Ok(answer) => {
            if let Some(view) = NodeImageView::of(answer) {
                context.stores.images.apply_own(view);
            }
            Ok(())
        }
        Err(error) if is_code(&error, 404) => Ok(()),
        Err(error) => Err(failure(key, error)),
    }
}

/// Labels and entries, on this version of the object only.
fn spec_patch(
    image: &NodeImageView,
    labels: Option<BTreeMap<String, String>>,
    entries: BTreeMap<String, Option<ImageSpec>>,
) -> json_patch::Patch {
    let mut operations = vec![PatchOperation::Replace(ReplaceOperation {
        path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
        value: Value::from(&*image.resource_version),
    })];
    if let Some(labels) = labels {
        let value = serde_json::to_value(labels).unwrap_or_default();
        let path = PointerBuf::from_tokens(["metadata", "labels"]);
        operations.push(PatchOperation::Add(AddOperation { path, value }));
    }
    for (name, entry) in entries {
        let path = PointerBuf::from_tokens(["spec", "images", &name]);
        operations.push(match entry {
            Some(entry) => {
                let value = serde_json::to_value(entry).unwrap_or_default();
                PatchOperation::Replace(ReplaceOperation { path, value })
            }
            None => PatchOperation::Remove(RemoveOperation { path }),
        });
    }
    json_patch::Patch(operations)
}

/// Counts, and the images whose state differs; `None` takes one out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangedStatus<'a> {
    desired: i32,
    succeeded: i32,
    failed: i32,
    pulling: i32,
    waiting: i32,
    image_statuses: BTreeMap<&'a str, Option<&'a ImageStatus>>,
}

impl<'a> ChangedStatus<'a> {
    fn of(new: &'a NodeImageStatus, old: Option<&'a BTreeMap<String, ImageStatus>>) -> Self {
        let mut changed: BTreeMap<&str, Option<&ImageStatus>> = BTreeMap::new();
        let now = new.image_statuses.as_ref();
        for name in old.into_iter().chain(now).flat_map(BTreeMap::keys) {
            let (before, after) = (old.and_then(|old| old.get(name)), now.and_then(|now| now.get(name)));
            if before != after {
                changed.insert(name, after);
            }
        }
        Self {
            desired: new.desired,
            succeeded: new.succeeded,
            failed: new.failed,
            pulling: new.pulling,
            waiting: new.waiting,
            image_statuses: changed,
        }
    }
}

fn tell(key: &ObjectKey, image: Option<&NodeImageView>, pull: &GivenUp, context: &Context) {
    let message = format!("Failed to pull image {} on node {} for {}", pull.image, key.name, pull.message);
    let node = ObjectReference {
        api_version: Some(kruise_api::V1BETA1.to_owned()),
        kind: Some(KIND.to_owned()),
        name: Some(key.name.to_string()),
        uid: image.map(|image| image.uid.clone()).map(|Uid(uid)| uid.to_string()),
        ..ObjectReference::default()
    };
    for object in pull.owners.iter().cloned().chain([node]) {
        context.events.event(object, EventType::Warning, "PullImageFailed", &message);
    }
}
