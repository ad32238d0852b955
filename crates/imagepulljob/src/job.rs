//! The ImagePullJob controller: one round of one job, and what wakes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kruise_api::imagepulljob::{ImagePullJob, ImagePullJobStatus};
use kruise_api::keys;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::pod::PodView;
use kruise_runtime::controller::{Failed, Requeue};
use kruise_runtime::queue::WorkQueue;
use kruise_runtime::store::Change;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use tokio::time::Instant;

use crate::apply::{Error, Finalizers, Guard, MetadataPatch, StatusPatch, failure, is_code, only, settled};
use crate::index::{Index, Look, OrderOf};
use crate::metrics::JobMetrics;
use crate::plan;
use crate::push::{Order, Push};
use crate::secrets::Secrets;
use crate::stores::{JobView, NodeImageView, SecretView, Stores};

/// Name of the controller: label of its metrics, source of its events.
pub const NAME: &str = "imagepulljob-controller";

/// Nodes that one round tells something new.
const MOST_STALE: usize = 256;

/// Changes of nodes within this time are one round's.
const DEBOUNCE: Duration = Duration::from_millis(500);

/// Status writes of one job are at least this far apart, but for its first and last.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// When to look again for a turn at a registry that others pull from.
const FOR_REGISTRY: Duration = Duration::from_secs(2);

/// What rounds need.
pub struct Context {
    client: kube::Client,
    stores: Stores,
    index: Arc<Index>,
    secrets: Secrets,
    push: Push,
    order: Arc<OrderOf>,
    metrics: JobMetrics,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    published: Mutex<HashMap<Uid, Instant>>,
}

/// What the controller is told by those who put it together.
pub struct Setup {
    /// Where copies of pull Secrets live.
    pub namespace: String,
    /// In which order workloads update their pods.
    pub order: Arc<OrderOf>,
    /// Counters.
    pub metrics: JobMetrics,
    /// Tells the time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Context {
    /// All that rounds need.
    pub fn new(client: kube::Client, stores: Stores, index: Arc<Index>, setup: Setup) -> Self {
        let Setup { namespace, order, metrics, clock } = setup;
        let secrets = Secrets::new(client.clone(), stores.clone(), Arc::clone(&index), &namespace);
        let push = Push::new(client.clone(), stores.images.clone());
        Self { client, stores, index, secrets, push, order, metrics, clock, published: Mutex::default() }
    }

    fn jobs(&self, job: &JobView) -> Api<ImagePullJob> {
        Api::namespaced(self.client.clone(), &job.key.namespace)
    }

    /// How long to wait before a job's status may be written again.
    fn quiet_for(&self, job: &Uid) -> Option<Duration> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = STATUS_INTERVAL.checked_sub(published.get(job)?.elapsed())?;
        (!wait.is_zero()).then_some(wait)
    }
}

/// Lets the index follow the stores. Once per process, whoever uses it.
pub fn follow(stores: &Stores, index: &Arc<Index>, wake: &Arc<dyn Fn(ObjectKey) + Send + Sync>) {
    let (follower, read, waker) = (Arc::clone(index), stores.clone(), Arc::clone(wake));
    stores.pods.subscribe(Box::new(move |change: &Change<PodView>| {
        follower.pod_changed(change, &read).into_iter().for_each(&*waker);
    }));
    let (follower, waker) = (Arc::clone(index), Arc::clone(wake));
    stores.images.subscribe(Box::new(move |change: &Change<NodeImageView>| {
        follower.node_changed(change).into_iter().for_each(&*waker);
    }));
    let (follower, read) = (Arc::clone(index), stores.clone());
    stores.jobs.subscribe(Box::new(move |change: &Change<JobView>| follower.job_changed(change, &read)));
}

/// Wakes jobs when something of theirs changes.
pub fn wire(queue: &WorkQueue, context: &Arc<Context>) {
    let stores = &context.stores;
    let waker = queue.clone();
    let wake: Arc<dyn Fn(ObjectKey) + Send + Sync> = Arc::new(move |job| waker.add_after(job, DEBOUNCE));
    follow(stores, &context.index, &wake);
    let (waker, forgetter) = (queue.clone(), Arc::clone(context));
    stores.jobs.subscribe(Box::new(move |change: &Change<JobView>| {
        if let (Some(old), None) = (&change.old, &change.new) {
            forgetter.published.lock().unwrap_or_else(PoisonError::into_inner).remove(&old.uid);
        }
        if let Some(job) = &change.new {
            waker.add(job.key.clone());
        }
    }));
    let (waker, index) = (queue.clone(), Arc::clone(&context.index));
    stores.secrets.subscribe(move |change: &Change<SecretView>| {
        let Some(secret) = change.new.as_ref().or(change.old.as_ref()) else { return };
        // A copy concerns those that use its source.
        let of = secret.source().and_then(|source| source.split_once('/'));
        let source =
            of.map_or_else(|| secret.key.clone(), |(namespace, name)| ObjectKey::new(namespace, name));
        index.users_of(&source).into_iter().for_each(|job| waker.add_after(job, DEBOUNCE));
    });
}

/// One round.
///
/// # Errors
/// The first failure of the round; what succeeded is published all the same.
pub async fn reconcile(key: ObjectKey, context: Arc<Context>) -> Result<Requeue, Failed<Error>> {
    settled(round(&key, &context).await, None)
}

async fn round(key: &ObjectKey, context: &Context) -> Result<Requeue, Error> {
    let Some(job) = context.stores.jobs.get(key) else { return Ok(Requeue::None) };
    tracing::Span::current().record("generation", job.object.metadata.generation);
    if !job.is_active() {
        return finish(&job, context).await;
    }
    let job = if job.is_held() { job } else { hold(&job, context).await? };
    let secrets = context.secrets.sync(&job).await?;
    context.index.set_secrets(key, &secrets, &context.stores);

    let template = &job.object.spec.template;
    let Some(look) = context.index.look(key, &job.uid, plan::parallelism(template).max(MOST_STALE)) else {
        tracing::warn!(image = job.object.spec.image, "the spec cannot be carried out");
        return Ok(Requeue::None);
    };
    let overdue = plan::time_left(&job.object, (context.clock)()).is_some_and(|left| left.is_zero());
    let (mut outcome, mut held) = (Ok(()), false);
    if !overdue {
        let budget = plan::budget(template, look.counts);
        let leave = context.index.ask_leave(key, budget);
        held = leave.nodes < budget;
        let mut nodes = first_to_ask(key, &look, leave.nodes, context);
        nodes.extend(look.stale.iter().take(MOST_STALE).cloned());
        let order = Order { task: &look.task, secrets: &secrets, now: (context.clock)() };
        outcome = context.push.all(nodes, &order).await;
    }

    let Some(look) = context.index.look(key, &job.uid, 0) else { return Ok(Requeue::None) };
    let now = (context.clock)();
    let left = overdue.then(|| context.index.not_succeeded(key));
    let wanted = plan::status(&job.object, look.counts, &look.failed, left.as_deref(), now);
    let throttled = publish(&job, &wanted, context).await?;
    outcome?;
    let more = plan::budget(template, look.counts) > 0;
    let deadline = plan::time_left(&job.object, now).map(|left| left.max(Duration::from_secs(1)));
    let more = more.then_some(if held { FOR_REGISTRY } else { DEBOUNCE });
    let next = [throttled, deadline.filter(|_| wanted.completion_time.is_none()), more];
    Ok(next.into_iter().flatten().min().map_or(Requeue::None, Requeue::After))
}

/// The nodes to ask now.
fn first_to_ask(key: &ObjectKey, look: &Look, most: usize, context: &Context) -> Vec<Arc<str>> {
    if most == 0 {
        return Vec::new();
    }
    let ordered = context.index.in_update_order(key, &context.stores.pods, &*context.order);
    let mut nodes = ordered.unwrap_or_else(|| look.unsynced.clone());
    nodes.truncate(most);
    nodes
}

/// A job that is over: nothing is held for it, and it goes when its time has come.
async fn finish(job: &JobView, context: &Context) -> Result<Requeue, Error> {
    if job.is_held() {
        context.secrets.release(job).await?;
        set_finalizer(job, false, context).await?;
    }
    let Some(completed) = job.completed().filter(|_| !job.is_deleting()) else { return Ok(Requeue::None) };
    let ttl = job.object.spec.template.completion_policy.ttl_seconds_after_finished;
    match plan::delete_in(completed, ttl, (context.clock)()) {
        None => Ok(Requeue::None),
        Some(wait) if !wait.is_zero() => Ok(Requeue::After(wait)),
        Some(_) => match context.jobs(job).delete(&job.key.name, &only(&job.uid.0, None)).await {
            Ok(_) => Ok(Requeue::None),
            Err(error) if is_code(&error, 404) => Ok(Requeue::None),
            Err(error) => Err(failure(&job.key, error)),
        },
    }
}

async fn hold(job: &JobView, context: &Context) -> Result<Arc<JobView>, Error> {
    set_finalizer(job, true, context).await?.map(Arc::new).ok_or_else(|| Error::Conflict(job.key.clone()))
}

async fn set_finalizer(job: &JobView, held: bool, context: &Context) -> Result<Option<JobView>, Error> {
    let others = job.object.metadata.finalizers.iter().flatten().map(String::as_str);
    let mut finalizers: Vec<_> =
        others.filter(|finalizer| *finalizer != keys::DELETION_PROTECTION_FINALIZER).collect();
    if held {
        finalizers.push(keys::DELETION_PROTECTION_FINALIZER);
    }
    let last = finalizers.is_empty() && job.is_deleting();
    let metadata = Finalizers { uid: &job.uid.0, resource_version: &job.resource_version, finalizers };
    let patch = Patch::Merge(MetadataPatch { metadata });
    match context.jobs(job).patch(&job.key.name, &PatchParams::default(), &patch).await {
        Ok(answer) => {
            let view = JobView::of(answer);
            if last {
                context.stores.jobs.remove_own(&job.key, &job.uid);
            } else if let Some(view) = view.clone() {
                context.stores.jobs.apply_own(view);
            }
            Ok(view)
        }
        Err(error) if is_code(&error, 404) => {
            context.stores.jobs.remove_own(&job.key, &job.uid);
            Ok(None)
        }
        Err(error) => Err(failure(&job.key, error)),
    }
}

/// A status in full: what is absent is taken away.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WholeStatus<'a> {
    start_time: Option<&'a Time>,
    completion_time: Option<&'a Time>,
    desired: i32,
    active: i32,
    succeeded: i32,
    failed: i32,
    message: Option<&'a str>,
    failed_nodes: Option<&'a [String]>,
}

/// Writes the status if it differs; returns how long to wait if it was written a moment ago.
async fn publish(
    job: &JobView,
    wanted: &ImagePullJobStatus,
    context: &Context,
) -> Result<Option<Duration>, Error> {
    if job.object.status.as_ref() == Some(wanted) {
        return Ok(None);
    }
    if wanted.completion_time.is_none()
        && let Some(wait) = context.quiet_for(&job.uid)
    {
        return Ok(Some(wait));
    }
    let status = WholeStatus {
        start_time: wanted.start_time.as_ref(),
        completion_time: wanted.completion_time.as_ref(),
        desired: wanted.desired,
        active: wanted.active,
        succeeded: wanted.succeeded,
        failed: wanted.failed,
        message: wanted.message.as_deref(),
        failed_nodes: wanted.failed_nodes.as_deref(),
    };
    let patch =
        Patch::Merge(StatusPatch { metadata: Guard { uid: &job.uid.0, resource_version: None }, status });
    match context.jobs(job).patch_status(&job.key.name, &PatchParams::default(), &patch).await {
        Ok(answer) => {
            if let Some(view) = JobView::of(answer) {
                context.stores.jobs.apply_own(view);
            }
            context.metrics.completed(wanted);
            let mut published = context.published.lock().unwrap_or_else(PoisonError::into_inner);
            published.insert(job.uid.clone(), Instant::now());
            Ok(None)
        }
        Err(error) if is_code(&error, 404) => Ok(None),
        Err(error) => Err(failure(&job.key, error)),
    }
}
