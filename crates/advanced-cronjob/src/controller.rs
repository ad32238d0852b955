//! One round of one AdvancedCronJob, and what wakes it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use kruise_api::advancedcronjob::{AdvancedCronJobStatus, KIND};
use kruise_common::key::{ObjectKey, Uid};
use kruise_runtime::controller::{Failed, Requeue};
use kruise_runtime::events::{EventRecorder, EventType, about};
use kruise_runtime::queue::WorkQueue;
use kruise_runtime::store::{Change, Store};
use kruise_runtime::watches::Watches;
use kruise_runtime::writes::{Error, settled};
use prometheus::Registry;

use crate::apply;
use crate::child::{Child, Kind};
use crate::metrics::RunMetrics;
use crate::observe::{Observed, Request};
use crate::plan::{Note, Plan, plan};
use crate::status;
use crate::stores::{Children, JobView};

/// Name of the controller: label of its metrics, source of its events.
pub const NAME: &str = "advancedcronjob-controller";

/// What rounds need.
pub struct Context {
    pub(crate) client: kube::Client,
    pub(crate) jobs: Store<JobView>,
    pub(crate) children: Children,
    pub(crate) local: TimeZone,
    events: EventRecorder,
    queue: WorkQueue,
    watches: Watches,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub(crate) metrics: RunMetrics,
    /// What was true of each object when it was last looked at, so that it is told once. Nothing is decided by it.
    told: Mutex<HashMap<Uid, HashSet<Note>>>,
}

/// What a context is made of.
pub struct Setup {
    /// The API server.
    pub client: kube::Client,
    /// The shared stores.
    pub watches: Watches,
    /// The keys of AdvancedCronJobs.
    pub queue: WorkQueue,
    /// Where events go.
    pub events: EventRecorder,
    /// The zone of this process.
    pub local: TimeZone,
    /// The time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Context {
    /// Watches AdvancedCronJobs from now on, their children when there is need, and counts their runs in `registry`.
    ///
    /// # Errors
    /// A metric's name is taken.
    pub fn new(setup: Setup, registry: &Registry) -> prometheus::Result<Self> {
        let Setup { client, watches, queue, events, local, clock } = setup;
        let jobs = watches.namespaced(JobView::of);
        Ok(Self {
            client,
            metrics: RunMetrics::register(registry, &jobs)?,
            jobs,
            children: Children::new(watches.clone(), queue.clone()),
            local,
            events,
            queue,
            watches,
            clock,
            told: Mutex::default(),
        })
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Resolves when the AdvancedCronJobs are known.
    pub async fn ready(&self) {
        self.jobs.ready().await;
    }

    pub(crate) fn event(&self, job: &JobView, kind: EventType, reason: &str, message: &str) {
        self.events.event(about(job, kruise_api::V1BETA1, KIND), kind, reason, message);
    }

    /// Those notes that were not true of the object in its last round.
    pub(crate) fn news(&self, uid: &Uid, notes: Vec<Note>) -> Vec<Note> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let before = told.remove(uid).unwrap_or_default();
        if !notes.is_empty() {
            told.insert(uid.clone(), notes.iter().cloned().collect());
        }
        notes.into_iter().filter(|note| !before.contains(note)).collect()
    }
}

/// Wakes AdvancedCronJobs that change; their children wake them as soon as they are watched.
pub fn wire(context: &Arc<Context>) {
    let (waker, forgetful) = (context.queue.clone(), Arc::downgrade(context));
    context.jobs.subscribe(Box::new(move |change: &Change<JobView>| match (&change.old, &change.new) {
        (_, Some(job)) => waker.add(job.key.clone()),
        (Some(gone), None) => {
            if let Some(context) = forgetful.upgrade() {
                context.news(&gone.uid, Vec::new());
            }
        }
        (None, None) => {}
    }));
}

/// Wakes all when a kind of children comes to be served, or is no more; for ever.
pub async fn follow(context: Arc<Context>) {
    let mut served = context.watches.served();
    let kinds = || Kind::ALL.map(|kind| context.children.is_served(kind));
    let mut known = kinds();
    while served.changed().await.is_ok() {
        let now = kinds();
        if now != known {
            known = now;
            context.jobs.all().into_iter().for_each(|job| context.queue.add(job.key.clone()));
        }
    }
    std::future::pending::<()>().await;
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
    let Some(job) = context.jobs.get(key) else { return Ok(Requeue::None) };
    tracing::Span::current().record("generation", job.object.metadata.generation);
    if job.object.metadata.deletion_timestamp.is_some() {
        return Ok(Requeue::None);
    }
    let kind = Kind::of(&job.object.spec.template);
    if !context.children.is_served(kind) {
        apply::tell(&job, vec![Note::NotServed(kind.name())], context);
        let stored = job.object.status.clone().unwrap_or_default();
        let wanted = AdvancedCronJobStatus { type_: Some(kind.name().to_owned()), ..stored };
        return apply::publish(&job, &wanted, context).await.map(|()| Requeue::None);
    }
    let Some(children) = context.children.of(kind, &job.uid).await else {
        return Ok(Requeue::After(Duration::from_secs(1)));
    };
    // Read again: the children may have kept the round waiting.
    let Some(job) = context.jobs.get(key).filter(|now| now.uid == job.uid) else {
        return Ok(Requeue::After(Duration::ZERO));
    };
    let now = context.now();
    let seen = Observed::of(&job.object, children, &context.local, now);
    // The answer wakes the next round, which sees what is due. Without one the schedule goes on all the same.
    let accepted = match seen.request {
        Some(Request::Asked) => match apply::accept_request(&job, now, context).await {
            Ok(()) => return Ok(Requeue::None),
            Err(error) => Err(error),
        },
        _ => Ok(()),
    };
    let plan = plan(&seen);
    *due = plan.wake_in;
    carry_out(&job, seen, plan, context)
        .await
        .and(accepted)
        .map(|()| due.map_or(Requeue::None, Requeue::After))
}

/// Makes room, runs, publishes, and only then forgets children: their runs are remembered by then.
async fn carry_out(job: &JobView, seen: Observed, plan: Plan, context: &Context) -> Result<(), Error> {
    let Plan { replaced, run, trimmed, mut notes, wake_in: _ } = plan;
    let mut children = seen.children.clone();
    let mut outcome = Ok(());
    for child in &replaced {
        match apply::delete(job, seen.kind, child, context).await {
            Ok(()) => children.retain(|other| other.uid != child.uid),
            Err(error) => {
                note_failure(&mut notes, &error, Note::FailedDelete);
                outcome = outcome.and(Err(error));
            }
        }
    }
    let mut done = false;
    if let Some(run) = run.filter(|_| outcome.is_ok()) {
        match apply::create(job, seen.kind, run, context).await {
            Ok(child) => {
                children.retain(|other| other.uid != child.uid);
                children.push(child);
                done = true;
            }
            Err(error) => {
                note_failure(&mut notes, &error, Note::FailedCreate);
                outcome = Err(error);
            }
        }
    }
    apply::tell(job, notes, context);
    let published = publish(job, &seen, &children, context).await;
    if published.is_ok() && done && matches!(run, Some(crate::child::Run::Request(_))) {
        outcome = outcome.and(close_request(job, context).await);
    }
    if published.is_ok() {
        for child in &trimmed {
            outcome = outcome.and(apply::delete(job, seen.kind, child, context).await);
        }
    }
    outcome.and(published)
}

async fn publish(job: &JobView, seen: &Observed, children: &[Child], context: &Context) -> Result<(), Error> {
    apply::publish(job, &status::of(seen, children, job.object.status.as_ref()), context).await
}

/// The annotation goes at the version that is stored now: publishing has made a new one.
async fn close_request(job: &JobView, context: &Context) -> Result<(), Error> {
    let Some(stored) = context.jobs.get(&job.key).filter(|stored| stored.uid == job.uid) else {
        return Ok(());
    };
    apply::close_request(&stored, context).await
}

/// Conflicts and namespaces that go are no failures anybody could do something about.
fn note_failure(notes: &mut Vec<Note>, error: &Error, note: impl Fn(String) -> Note) {
    if matches!(error, Error::Api { .. }) {
        notes.push(note(error.said()));
    }
}
