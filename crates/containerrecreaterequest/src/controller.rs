//! One round of one request, and what wakes it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kruise_api::containerrecreaterequest::{
    ContainerRecreateRequest, ContainerRecreateRequestPhase as Phase, ContainerStatusSnapshot, KIND,
};
use kruise_api::keys;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::pod::PodView;
use kruise_common::readiness;
use kruise_runtime::controller::{Failed, Requeue};
use kruise_runtime::events::{EventRecorder, about};
use kruise_runtime::queue::WorkQueue;
use kruise_runtime::store::{Change, Store, View as _};
use kruise_runtime::view;
use kruise_runtime::views::identity;
use kruise_runtime::writes::{Error, failure, is_code, only, patch_pod_status, settled};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::Serialize;

use crate::metrics::RequestMetrics;
use crate::news::{News, news};
use crate::plan::{Action, Plan, Seen, plan};

/// Name of the controller: label of its metrics.
pub const NAME: &str = "containerrecreaterequest-controller";

/// A request as it is kept: found by its pod's uid.
#[derive(Clone, Debug)]
pub struct RequestView {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// The request.
    pub object: ContainerRecreateRequest,
}

impl RequestView {
    fn phase(&self) -> Option<Phase> {
        self.object.status.as_ref().and_then(|status| status.phase)
    }

    fn is_open(&self) -> bool {
        let ended = self.object.status.as_ref().is_some_and(|status| status.completion_time.is_some());
        self.object.metadata.deletion_timestamp.is_none() && !ended
    }

    /// Whether agents serve this request of a pod before the other: one that is under way, then the oldest that they know.
    fn comes_before(&self, other: &Self) -> bool {
        let rank = |request: &Self| {
            let created = request.object.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let phase = match request.phase() {
                Some(Phase::Recreating) => 0,
                Some(Phase::Pending) => 1,
                _ => 2,
            };
            (phase, created, request.key.clone())
        };
        self.is_open() && rank(self) < rank(other)
    }

    /// The view of an object from the API server; `None` if it has no name or identity.
    pub fn of(mut object: ContainerRecreateRequest) -> Option<Self> {
        object.metadata.managed_fields = None;
        let (key, uid, resource_version) = identity(&object.metadata)?;
        Some(Self { key, uid, resource_version, object })
    }
}

view!(=> RequestView, |request| {
    let labels = request.object.metadata.labels.as_ref();
    let pod = labels.and_then(|labels| labels.get(keys::CRR_POD_UID));
    pod.map(|uid| Uid::from(uid.as_str())).into_iter().collect()
});

/// What rounds need.
pub struct Context {
    /// The API server.
    pub client: kube::Client,
    /// The requests.
    pub requests: Store<RequestView>,
    /// The pods.
    pub pods: Store<PodView>,
    /// Whose turn it is.
    pub turns: Turns,
    /// Counters.
    pub metrics: RequestMetrics,
    /// Tells users.
    pub events: EventRecorder,
    /// The time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

/// Since when requests are the first of their pod. A manager that starts anew is patient anew.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<Uid, Timestamp>>);

impl Turns {
    fn since(&self) -> MutexGuard<'_, HashMap<Uid, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    /// Since when this request is the first of its pod and waits; `None` if it is not, or does not.
    fn first_since(&self, request: &RequestView, now: Timestamp) -> Option<Timestamp> {
        let pods = request.owners();
        let mut others = pods.iter().flat_map(|pod| self.requests.owned_by(pod));
        let waits = request.is_open() && matches!(request.phase(), None | Some(Phase::Pending));
        let mut turns = self.turns.since();
        if waits && !others.any(|other| other.uid != request.uid && other.comes_before(request)) {
            return Some(*turns.entry(request.uid.clone()).or_insert(now));
        }
        turns.remove(&request.uid);
        None
    }
}

/// Wakes requests when something of theirs changes.
pub fn wire(queue: &WorkQueue, context: &Arc<Context>) {
    let (waker, metrics, events) = (queue.clone(), context.metrics.clone(), context.events.clone());
    let (requests, follower) = (context.requests.clone(), Arc::clone(context));
    context.requests.subscribe(Box::new(move |change: &Change<RequestView>| {
        if let (Some(old), Some(new)) = (&change.old, &change.new) {
            metrics.changed(&old.object, &new.object);
            if let Some(News { kind, reason, message }) = news(&old.object, &new.object) {
                events.event(about(new.as_ref(), kruise_api::V1BETA1, KIND), kind, reason, &message);
            }
        }
        if let Some(request) = &change.new {
            waker.add(request.key.clone());
        }
        // Those behind one that is over wait for the agent now.
        if let Some(old) = change.old.as_ref().filter(|old| old.is_open())
            && change.new.as_ref().is_none_or(|new| !new.is_open())
        {
            let pods = old.owners();
            for next in pods.iter().flat_map(|pod| requests.owned_by(pod)) {
                waker.add(next.key.clone());
            }
            follower.turns.since().remove(&old.uid);
        }
    }));
    let (waker, requests) = (queue.clone(), context.requests.clone());
    context.pods.subscribe(Box::new(move |change: &Change<PodView>| {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && old.deleted == new.deleted
            && old.statuses == new.statuses
        {
            return;
        }
        for pod in change.old.iter().chain(&change.new) {
            for request in requests.owned_by(&pod.uid) {
                waker.add(request.key.clone());
            }
        }
    }));
}

/// One round.
///
/// # Errors
/// The write failed.
pub async fn reconcile(key: ObjectKey, context: Arc<Context>) -> Result<Requeue, Failed<Error>> {
    settled(round(&key, &context).await, None)
}

async fn round(key: &ObjectKey, context: &Context) -> Result<Requeue, Error> {
    let Some(request) = context.requests.get(key) else { return Ok(Requeue::None) };
    tracing::Span::current().record("generation", request.object.metadata.generation);
    let pod =
        context.pods.get(&ObjectKey::new(Arc::clone(&key.namespace), request.object.spec.pod_name.as_str()));
    let held_by = key.to_string();
    let now = (context.clock)();
    let Plan { action, wake_in } = plan(&Seen {
        request: &request.object,
        pod: pod.as_deref(),
        first_since: context.first_since(&request, now),
        key: &held_by,
        now,
    });
    if let Some(action) = action {
        carry_out(&request, pod.as_deref(), action, now, context).await?;
    }
    Ok(wake_in.map_or(Requeue::None, Requeue::After))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    uid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finalizers: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<&'a str, Option<&'a str>>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusChange<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<Phase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_status_snapshot: Option<&'a [ContainerStatusSnapshot]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Serialize)]
struct RequestPatch<'a> {
    metadata: Metadata<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusChange<'a>>,
}

impl<'a> RequestPatch<'a> {
    fn of(request: &'a RequestView) -> Self {
        let metadata = Metadata {
            uid: &request.uid.0,
            resource_version: None,
            finalizers: None,
            labels: BTreeMap::new(),
        };
        Self { metadata, status: None }
    }

    fn status(request: &'a RequestView, status: StatusChange<'a>) -> Self {
        Self { status: Some(status), ..Self::of(request) }
    }
}

async fn carry_out(
    request: &RequestView,
    pod: Option<&PodView>,
    action: Action,
    now: Timestamp,
    context: &Context,
) -> Result<(), Error> {
    let whole = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let key = request.key.to_string();
    match action {
        Action::Release => {
            let pod = pod.filter(|pod| pod.deleted.is_none());
            let patch = pod.and_then(|pod| {
                Some((pod, readiness::remove_not_ready_key(pod, keys::READINESS_AGENT_CRR, &key, now)?))
            });
            if let Some((pod, patch)) = patch {
                patch_pod_status(&context.client, &context.pods, pod, patch).await?;
            }
            finalizer(request, false, context).await
        }
        Action::Hold => finalizer(request, true, context).await,
        Action::Unready => {
            let Some(pod) = pod else { return Ok(()) };
            match readiness::add_not_ready_key(pod, keys::READINESS_AGENT_CRR, &key, now) {
                Some(patch) => {
                    patch_pod_status(&context.client, &context.pods, pod, patch).await?;
                    begin_grace(request, whole, context).await
                }
                None => Ok(()),
            }
        }
        Action::BeginGrace => begin_grace(request, whole, context).await,
        Action::Deactivate => {
            let mut change = RequestPatch::of(request);
            change.metadata.labels.insert(keys::CRR_ACTIVE, None);
            write(request, &change, context).await
        }
        Action::Delete => delete(request, context).await,
        Action::Complete(message) => {
            let status = StatusChange {
                phase: Some(Phase::Completed),
                completion_time: Some(whole),
                message: Some(message),
                ..StatusChange::default()
            };
            write(request, &RequestPatch::status(request, status), context).await
        }
        Action::Snapshot(told) => {
            let status = StatusChange { container_status_snapshot: Some(&told), ..StatusChange::default() };
            write(request, &RequestPatch::status(request, status), context).await
        }
    }
}

/// Once, and never again: the drain is measured from here.
async fn begin_grace(request: &RequestView, now: Time, context: &Context) -> Result<(), Error> {
    let old = request.object.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut conditions: Vec<_> =
        old.into_iter().filter(|condition| condition.type_ != keys::CONDITION_PRE_RECREATE_GRACE).collect();
    conditions.push(Condition {
        type_: keys::CONDITION_PRE_RECREATE_GRACE.to_owned(),
        status: "True".to_owned(),
        reason: keys::CONDITION_PRE_RECREATE_GRACE.to_owned(),
        message: "Pod has been forced to not-ready for unreadyGracePeriodSeconds drain".to_owned(),
        last_transition_time: now,
        observed_generation: None,
    });
    let status = StatusChange { conditions: Some(conditions), ..StatusChange::default() };
    write(request, &RequestPatch::status(request, status), context).await
}

async fn finalizer(request: &RequestView, held: bool, context: &Context) -> Result<(), Error> {
    let others = request.object.metadata.finalizers.iter().flatten().map(String::as_str);
    let mut finalizers: Vec<_> = others.filter(|other| *other != keys::CRR_UNREADY_ACQUIRED).collect();
    if held {
        finalizers.push(keys::CRR_UNREADY_ACQUIRED);
    }
    let mut change = RequestPatch::of(request);
    change.metadata.resource_version = Some(&request.resource_version);
    change.metadata.finalizers = Some(finalizers);
    write(request, &change, context).await
}

async fn write(request: &RequestView, change: &RequestPatch<'_>, context: &Context) -> Result<(), Error> {
    let requests =
        Api::<ContainerRecreateRequest>::namespaced(context.client.clone(), &request.key.namespace);
    let (params, patch) = (PatchParams::default(), Patch::Merge(change));
    let answer = match change.status {
        Some(_) => requests.patch_status(&request.key.name, &params, &patch).await,
        None => requests.patch(&request.key.name, &params, &patch).await,
    };
    match answer {
        Ok(answer) => {
            let gone = answer.metadata.deletion_timestamp.is_some()
                && answer.metadata.finalizers.as_ref().is_none_or(Vec::is_empty);
            if gone {
                context.requests.remove_own(&request.key, &request.uid);
            } else if let Some(view) = RequestView::of(answer) {
                context.requests.apply_own(view);
            }
            Ok(())
        }
        Err(error) if is_code(&error, 404) => Ok(()),
        Err(error) => Err(failure(&request.key, error)),
    }
}

async fn delete(request: &RequestView, context: &Context) -> Result<(), Error> {
    let requests =
        Api::<ContainerRecreateRequest>::namespaced(context.client.clone(), &request.key.namespace);
    match requests.delete(&request.key.name, &only(&request.uid.0, None)).await {
        Ok(_) => Ok(()),
        Err(error) if is_code(&error, 404) => Ok(()),
        Err(error) => Err(failure(&request.key, error)),
    }
}
