//! One round of one job, and what wakes it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kruise_api::broadcastjob::BroadcastJobStatus;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::pod::PodView;
use kruise_runtime::controller::{Failed, Requeue};
use kruise_runtime::events::EventType;
use kruise_runtime::nodes::NodeView;
use kruise_runtime::queue::WorkQueue;
use kruise_runtime::store::Change;
use kruise_runtime::writes::{Error, settled};
use tokio::time::Instant;

use crate::apply::{Executor, Outcome};
use crate::census::Census;
use crate::index::Index;
use crate::metrics::JobMetrics;
use crate::observe::{Observed, observe};
use crate::plan::{Ending, Notice, Plan, plan};
use crate::status::{Turn, end_event, status, turn};
use crate::stores::{JobView, Stores};

/// Name of the controller: label of its metrics, source of its events.
pub const NAME: &str = "broadcastjob-controller";

/// Changes of pods and nodes within this time are one round's.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Status writes of one job are at least this far apart, unless its phase changes.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// What rounds need.
pub struct Context {
    stores: Stores,
    executor: Executor,
    index: Index,
    metrics: JobMetrics,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    memory: Mutex<HashMap<Uid, Memory>>,
}

/// What is remembered of a job between rounds. Nothing is decided by it: losing it costs a status write or an event.
#[derive(Debug, Default)]
struct Memory {
    published: Option<Instant>,
    told: HashSet<(&'static str, Uid)>,
}

impl Context {
    /// The context of a controller.
    pub fn new(
        stores: Stores,
        executor: Executor,
        metrics: JobMetrics,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Self {
        Self { stores, executor, index: Index::default(), metrics, clock, memory: Mutex::default() }
    }

    fn memory(&self) -> MutexGuard<'_, HashMap<Uid, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to wait before a job's status may be written again.
    fn quiet_for(&self, job: &Uid) -> Option<Duration> {
        let wait = STATUS_INTERVAL.checked_sub(self.memory().get(job)?.published?.elapsed())?;
        (!wait.is_zero()).then_some(wait)
    }

    /// True the first time.
    fn is_news(&self, job: &Uid, what: &'static str, of: &Uid) -> bool {
        self.memory().entry(job.clone()).or_default().told.insert((what, of.clone()))
    }
}

/// Wakes jobs when something of theirs changes.
pub fn wire(queue: &WorkQueue, context: &Arc<Context>) {
    let stores = &context.stores;
    let (waker, follower) = (queue.clone(), Arc::clone(context));
    stores.jobs.subscribe(Box::new(move |change: &Change<JobView>| {
        follower.index.job_changed(change);
        if let (Some(old), None) = (&change.old, &change.new) {
            follower.memory().remove(&old.uid);
        }
        if let Some(job) = &change.new {
            waker.add(job.key.clone());
        }
    }));
    let (waker, follower) = (queue.clone(), Arc::clone(context));
    stores.pods.subscribe(Box::new(move |change: &Change<PodView>| {
        if let Some(job) = follower.index.pod_changed(change) {
            waker.add_after(job, DEBOUNCE);
        }
    }));
    let (waker, follower) = (queue.clone(), Arc::clone(context));
    stores.nodes.subscribe(Box::new(move |change: &Change<NodeView>| {
        for job in follower.index.node_changed(change) {
            waker.add_after(job, DEBOUNCE);
        }
    }));
}

/// One round.
///
/// # Errors
/// The first failure of the round; what succeeded is published all the same.
pub async fn reconcile(key: ObjectKey, context: Arc<Context>) -> Result<Requeue, Failed<Error>> {
    let mut due = None;
    let ended = round(&key, &context, &mut due).await;
    settled(ended, due)
}

/// `due` is told after what time something of the job is due.
async fn round(key: &ObjectKey, context: &Context, due: &mut Option<Duration>) -> Result<Requeue, Error> {
    let Some(job) = context.stores.jobs.get(key) else { return Ok(Requeue::None) };
    tracing::Span::current().record("generation", job.object.metadata.generation);
    let seen = match observe(&job, &context.stores, (context.clock)()) {
        Ok(seen) => seen,
        Err(error) => {
            // Only the user can mend this; the change will wake the job.
            if context.is_news(&job.uid, "InvalidSpec", &Uid::from(error.as_str())) {
                tracing::warn!(error, "the spec cannot be carried out");
                context.executor.tell(&job, EventType::Warning, "InvalidSpec", &error);
            }
            return Ok(Requeue::None);
        }
    };
    let census = Census::of(&seen);
    let plan = plan(&seen, &census);
    tracing::debug!(phase = plan.phase.as_str(), steps = plan.actions.len(), held = plan.held, "planned");
    *due = plan.wake_in;
    if let Some(ending) = plan.ending {
        return finish(&job, &seen, &census, plan, ending, context).await;
    }
    let actions = plan.actions.clone();
    let outcome = context.executor.run(&job, actions).await;

    // The stores hold our own writes by now, so the status tells of this round and not of the last one.
    let throttled = if outcome.done > 0 && !seen.is_over() {
        let after = observe(&job, &context.stores, (context.clock)()).unwrap_or_else(|_| seen.clone());
        let wanted = status(&after, &Census::of(&after), &plan);
        publish(&job, &wanted, context).await?
    } else {
        publish(&job, &status(&seen, &census, &plan), context).await?
    };
    tell(&job, &seen, &plan, context);
    *due = [plan.wake_in, throttled].into_iter().flatten().min();
    outcome.finish(&job.key, *due)
}

/// Ends a job: first this is published, then what is left is deleted, now or by whoever comes after a crash.
async fn finish(
    job: &JobView,
    seen: &Observed,
    census: &Census<'_>,
    plan: Plan,
    ending: Ending,
    context: &Context,
) -> Result<Requeue, Error> {
    let ended = status(seen, census, &plan);
    context.executor.write_status(job, &ended).await?;
    context.metrics.ended(&ended, ending == Ending::Completed);
    let (reason, message) = end_event(seen, &ended, ending);
    let kind = if ending == Ending::Completed { EventType::Normal } else { EventType::Warning };
    context.executor.tell(job, kind, reason, &message);
    if let Some(memory) = context.memory().get_mut(&job.uid) {
        memory.told = HashSet::new();
    }
    let outcome = context.executor.run(job, plan.actions).await;
    outcome.finish(&job.key, plan.wake_in)
}

impl Outcome {
    fn finish(self, key: &ObjectKey, wake_in: Option<Duration>) -> Result<Requeue, Error> {
        if let Some(error) = self.failures.into_iter().next() {
            return Err(error);
        }
        if self.namespace_gone {
            return Err(Error::NamespaceGone(key.clone()));
        }
        if self.conflicts {
            return Err(Error::Conflict(key.clone()));
        }
        Ok(wake_in.map_or(Requeue::None, Requeue::After))
    }
}

/// Writes the status if it differs; returns how long to wait if it was written a moment ago.
async fn publish(
    job: &JobView,
    wanted: &BroadcastJobStatus,
    context: &Context,
) -> Result<Option<Duration>, Error> {
    let old = job.object.status.clone().unwrap_or_default();
    if old == *wanted {
        return Ok(None);
    }
    // A phase is told at once, and so is what nothing else remembers: that failed pods have been put up with.
    let counts_only = old.phase == wanted.phase && old.acknowledged_failed == wanted.acknowledged_failed;
    if let Some(wait) = context.quiet_for(&job.uid).filter(|_| counts_only) {
        return Ok(Some(wait));
    }
    context.executor.write_status(job, wanted).await?;
    context.memory().entry(job.uid.clone()).or_default().published = Some(Instant::now());
    Ok(None)
}

/// Tells of what was published, and of what stands in the way, each once.
fn tell(job: &JobView, seen: &Observed, plan: &Plan, context: &Context) {
    let executor = &context.executor;
    match turn(seen, plan.phase) {
        Some(Turn::Continued) => {
            executor.tell(job, EventType::Normal, "Continue", "continue to process job");
        }
        Some(Turn::Paused) => {
            executor.tell(job, EventType::Warning, "Paused", "job is paused, due to failed pod");
        }
        None => {}
    }
    let crowd = Notice::TooManyActive;
    if !plan.notices.contains(&crowd)
        && let Some(memory) = context.memory().get_mut(&job.uid)
    {
        memory.told.remove(&(crowd.reason(), Uid::default()));
    }
    for notice in &plan.notices {
        let of = notice.pod().map_or_else(Uid::default, |pod| pod.uid.clone());
        if context.is_news(&job.uid, notice.reason(), &of) {
            executor.tell(job, EventType::Warning, notice.reason(), &notice.message());
        }
    }
}

impl Notice {
    /// Reason of the event.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooManyActive => "TooManyActivePods",
            Self::Double(_) => "DuplicatePodCreatedOnSameNode",
            Self::NoRoom(_) => "PodHasNoRoom",
        }
    }

    fn pod(&self) -> Option<&PodView> {
        match self {
            Self::TooManyActive => None,
            Self::Double(pod) | Self::NoRoom(pod) => Some(pod),
        }
    }

    /// Message of the event.
    pub fn message(&self) -> String {
        let node = |pod: &PodView| pod.node_or_pin().map_or_else(String::new, ToString::to_string);
        match self {
            Self::TooManyActive => "Number of active pods exceed parallelism limit".to_owned(),
            Self::Double(pod) => {
                format!("Duplicated pod {} found on same node {}", pod.name(), node(pod))
            }
            Self::NoRoom(pod) => {
                let said = pod.condition("PodScheduled").map_or("", |found| &found.message);
                format!("Pod {} waits for room on node {}: {said}", pod.name(), node(pod))
            }
        }
    }
}
