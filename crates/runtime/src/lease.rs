//! Leader election on a `coordination.k8s.io/v1` Lease, as client-go does it: either side of an upgrade respects the
//! other's lease.
//!
//! Only the local clock counts. A candidate notes when it last saw the record change and takes over when that is
//! longer ago than the record's duration; times written by others are never compared. A leader counts its renew
//! deadline from before the request that renewed, so it has stopped before anyone can take over.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::events::{EventRecorder, EventType};

/// A source of wall-clock times, so that tests own them.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How much longer than the retry period a candidate waits at most, as a part of it.
const JITTER: f64 = 0.2;
/// How often a release is tried when an earlier write of ours is still on its way.
const RELEASE_ATTEMPTS: u32 = 3;

/// Who stands for election, for which Lease and at what pace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeaseConfig {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// This candidate, unique among all that ever stand; see [`identity`].
    pub identity: String,
    /// How long others wait without seeing a renewal.
    pub lease_duration: Duration,
    /// How long the leader leads without renewing.
    pub renew_deadline: Duration,
    /// Pause between attempts.
    pub retry_period: Duration,
}

impl LeaseConfig {
    /// Refuses durations under which two could lead at once or none could keep leading.
    pub fn validate(&self) -> Result<(), String> {
        if self.retry_period.is_zero() {
            return Err("retryPeriod must be greater than zero".to_owned());
        }
        if self.lease_duration < Duration::from_secs(1) {
            return Err("leaseDuration must be at least one second".to_owned());
        }
        if self.lease_duration <= self.renew_deadline {
            return Err("leaseDuration must be greater than renewDeadline".to_owned());
        }
        if self.renew_deadline <= self.retry_period.mul_f64(1.0 + JITTER) {
            return Err("renewDeadline must be greater than retryPeriod*JitterFactor".to_owned());
        }
        Ok(())
    }
}

/// `<hostname>_<uuid>`: a name no other process, nor a restart of this one, has.
pub fn identity(hostname: &str) -> String {
    format!("{hostname}_{}", uuid::Uuid::new_v4())
}

/// A moment on both clocks: the monotonic one decides, the wall clock is only written down.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Monotonic time.
    pub instant: Instant,
    /// Wall-clock time.
    pub wall: Timestamp,
}

/// The Lease as last seen, and since when it has looked like this.
#[derive(Clone, Debug)]
pub struct Observed {
    lease: Option<Lease>,
    since: Instant,
}

impl Observed {
    /// Nothing seen yet.
    pub fn nothing(now: Instant) -> Self {
        Self { lease: None, since: now }
    }

    /// Takes in what the server shows; only a changed record restarts the wait.
    pub fn see(&mut self, lease: Option<Lease>, now: Instant) {
        let spec = |lease: &Option<Lease>| lease.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        if spec(&lease) != spec(&self.lease) {
            self.since = now;
        }
        self.lease = lease;
    }

    /// Who holds the Lease; empty when nobody does.
    pub fn holder(&self) -> &str {
        self.spec().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
    }

    fn spec(&self) -> Option<&LeaseSpec> {
        self.lease.as_ref()?.spec.as_ref()
    }
}

/// What a candidate does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// There is no Lease: make it, held by us.
    Create(Lease),
    /// The Lease is free, expired or ours: write this over the version seen.
    Replace(Lease),
    /// Another holds it at least until then.
    Wait {
        /// The holder.
        holder: String,
        /// When it may be taken unless it is renewed.
        until: Instant,
    },
}

/// Decides one attempt to acquire or renew.
pub fn decide(observed: &Observed, me: &LeaseConfig, now: Moment) -> Step {
    let mine = LeaseSpec {
        holder_identity: Some(me.identity.clone()),
        lease_duration_seconds: Some(i32::try_from(me.lease_duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: Some(MicroTime(now.wall)),
        renew_time: Some(MicroTime(now.wall)),
        lease_transitions: Some(0),
        ..LeaseSpec::default()
    };
    let Some(lease) = &observed.lease else {
        let metadata = ObjectMeta {
            namespace: Some(me.namespace.clone()),
            name: Some(me.name.clone()),
            ..ObjectMeta::default()
        };
        return Step::Create(Lease { metadata, spec: Some(mine) });
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = observed.holder();
    let renewing = holder == me.identity;
    if !renewing && !holder.is_empty() {
        let until = observed.since + lease_duration(&spec, me);
        if now.instant < until {
            return Step::Wait { holder: holder.to_owned(), until };
        }
    }
    let transitions = spec.lease_transitions.unwrap_or(0);
    let spec = LeaseSpec {
        acquire_time: if renewing { spec.acquire_time } else { mine.acquire_time },
        lease_transitions: Some(if renewing { transitions } else { transitions.saturating_add(1) }),
        holder_identity: mine.holder_identity,
        lease_duration_seconds: mine.lease_duration_seconds,
        renew_time: mine.renew_time,
        preferred_holder: spec.preferred_holder,
        strategy: spec.strategy,
    };
    Step::Replace(Lease { metadata: lease.metadata.clone(), spec: Some(spec) })
}

/// The Lease given up, if `me` holds it: no holder, and a duration so short that nobody waits.
pub fn released(observed: &Observed, me: &LeaseConfig, now: Moment) -> Option<Lease> {
    let lease = observed.lease.as_ref().filter(|_| observed.holder() == me.identity)?;
    let spec = LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: Some(MicroTime(now.wall)),
        renew_time: Some(MicroTime(now.wall)),
        ..lease.spec.clone().unwrap_or_default()
    };
    Some(Lease { metadata: lease.metadata.clone(), spec: Some(spec) })
}

/// How long the record asks others to wait; ours when it does not say.
fn lease_duration(spec: &LeaseSpec, me: &LeaseConfig) -> Duration {
    spec.lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .map_or(me.lease_duration, Duration::from_secs)
}

/// A failed read or write of the Lease. Every failure is met the same way: try again in time.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Where the Lease is kept.
pub trait LeaseStore: Send + Sync {
    /// Reads the Lease; none when it does not exist.
    fn get(&self) -> impl Future<Output = Result<Option<Lease>, StoreError>> + Send;
    /// Creates the Lease; fails when it exists.
    fn create(&self, lease: &Lease) -> impl Future<Output = Result<Lease, StoreError>> + Send;
    /// Replaces the version named by the Lease's `resourceVersion`; fails when that is no longer the latest.
    fn replace(&self, lease: &Lease) -> impl Future<Output = Result<Lease, StoreError>> + Send;
}

/// The Lease in an API server.
#[derive(Clone, Debug)]
pub struct ApiLease {
    api: Api<Lease>,
    name: String,
}

impl ApiLease {
    /// The Lease that `config` names.
    pub fn new(client: kube::Client, config: &LeaseConfig) -> Self {
        Self { api: Api::namespaced(client, &config.namespace), name: config.name.clone() }
    }
}

impl LeaseStore for ApiLease {
    async fn get(&self) -> Result<Option<Lease>, StoreError> {
        self.api.get_opt(&self.name).await.map_err(|error| StoreError(error.to_string()))
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, StoreError> {
        self.api.create(&PostParams::default(), lease).await.map_err(|error| StoreError(error.to_string()))
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, StoreError> {
        let params = PostParams::default();
        self.api.replace(&self.name, &params, lease).await.map_err(|error| StoreError(error.to_string()))
    }
}

/// Why an election ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// Leadership was lost; the process must stop what only a leader may do, and end.
    Lost,
    /// Asked to stop; a Lease that was held has been released.
    Shutdown,
}

/// One candidate: `run` it, and watch whether it leads.
pub struct Elector<S> {
    config: LeaseConfig,
    store: S,
    clock: WallClock,
    leading: watch::Sender<bool>,
    events: Option<EventRecorder>,
}

/// The outcome of one attempt.
enum Attempt {
    /// The Lease is ours, counted from this moment.
    Held(Instant),
    /// Another holds it.
    Other(String),
}

impl<S: LeaseStore> Elector<S> {
    /// A candidate, and where it shows whether it leads.
    pub fn new(config: LeaseConfig, store: S, clock: WallClock) -> (Self, watch::Receiver<bool>) {
        let (leading, receiver) = watch::channel(false);
        (Self { config, store, clock, leading, events: None }, receiver)
    }

    /// Also writes Events about the Lease, from a component named like the identity.
    #[must_use]
    pub fn with_events(mut self, recorder: &EventRecorder) -> Self {
        self.events = Some(recorder.for_component(&self.config.identity));
        self
    }

    /// Stands for election, leads, and returns when leadership is lost or `shutdown` becomes true.
    ///
    /// Shutdown releases the Lease, after which another may lead at once: ask for it when all work of a leader has
    /// ended.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) -> Ended {
        let mut observed = Observed::nothing(Instant::now());
        let held = tokio::select! {
            biased;
            held = self.acquire(&mut observed) => Some(held),
            () = stopped(&mut shutdown) => None,
        };
        let Some(held) = held else {
            // A write cut off by the shutdown may have landed.
            self.release(&mut observed).await;
            return Ended::Shutdown;
        };
        tracing::info!(lease = %self.config.name, identity = %self.config.identity, "became leader");
        self.leading.send_replace(true);
        self.record("became leader");
        let ended = tokio::select! {
            biased;
            () = self.renew(&mut observed, held) => Ended::Lost,
            () = stopped(&mut shutdown) => Ended::Shutdown,
        };
        self.leading.send_replace(false);
        self.record("stopped leading");
        if ended == Ended::Shutdown {
            self.release(&mut observed).await;
        } else {
            tracing::error!(lease = %self.config.name, identity = %self.config.identity, "lost leadership");
        }
        ended
    }

    /// Returns once the Lease is ours, with the moment from which the renew deadline counts.
    async fn acquire(&self, observed: &mut Observed) -> Instant {
        let mut last_holder = String::new();
        loop {
            let attempt = tokio::time::timeout(self.config.renew_deadline, self.attempt(observed)).await;
            match attempt {
                Ok(Ok(Attempt::Held(since))) => return since,
                Ok(Ok(Attempt::Other(holder))) if holder != last_holder => {
                    tracing::info!(lease = %self.config.name, %holder, "another leads");
                    last_holder = holder;
                }
                Ok(Ok(Attempt::Other(_))) => {}
                Ok(Err(error)) => {
                    tracing::warn!(lease = %self.config.name, %error, "cannot acquire the lease");
                }
                Err(_) => tracing::warn!(lease = %self.config.name, "the lease did not answer in time"),
            }
            let pause = self.config.retry_period.mul_f64(1.0 + JITTER * rand::random::<f64>());
            tokio::time::sleep(pause).await;
        }
    }

    /// Keeps the Lease; returns when it is another's or could not be renewed in time.
    async fn renew(&self, observed: &mut Observed, mut held: Instant) {
        loop {
            let deadline = held + self.config.renew_deadline;
            let next = Instant::now() + self.config.retry_period;
            tokio::time::sleep_until(next.min(deadline)).await;
            // A write that fails at once would win against an expired timeout for ever.
            if Instant::now() >= deadline {
                return;
            }
            match tokio::time::timeout_at(deadline, self.prolong(observed)).await {
                Ok(Ok(Attempt::Held(since))) => held = since,
                Ok(Ok(Attempt::Other(holder))) => {
                    tracing::error!(lease = %self.config.name, %holder, "another took the lease");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(lease = %self.config.name, %error, "cannot renew the lease"),
                Err(_) => return,
            }
        }
    }

    /// Writes what is known to be ours without reading it first, and reads only if that fails.
    ///
    /// The write names the version it replaces, so it cannot overwrite what another has written meanwhile.
    async fn prolong(&self, observed: &mut Observed) -> Result<Attempt, StoreError> {
        if observed.holder() == self.config.identity {
            match self.write(observed).await {
                Ok(attempt) => return Ok(attempt),
                Err(error) => tracing::debug!(lease = %self.config.name, %error, "reading the lease again"),
            }
        }
        self.attempt(observed).await
    }

    /// Reads, decides and writes once.
    async fn attempt(&self, observed: &mut Observed) -> Result<Attempt, StoreError> {
        let lease = self.store.get().await?;
        observed.see(lease, Instant::now());
        self.write(observed).await
    }

    /// Decides by what was seen last, and writes.
    async fn write(&self, observed: &mut Observed) -> Result<Attempt, StoreError> {
        let before = self.now();
        let written = match decide(observed, &self.config, before) {
            Step::Create(lease) => self.store.create(&lease).await?,
            Step::Replace(lease) => self.store.replace(&lease).await?,
            Step::Wait { holder, .. } => return Ok(Attempt::Other(holder)),
        };
        observed.see(Some(written), Instant::now());
        Ok(Attempt::Held(before.instant))
    }

    /// Gives the Lease up if it is ours, within the renew deadline.
    async fn release(&self, observed: &mut Observed) {
        let release = async {
            for _ in 0..RELEASE_ATTEMPTS {
                match self.try_release(observed).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(lease = %self.config.name, %error, "cannot release the lease");
                    }
                }
            }
        };
        if tokio::time::timeout(self.config.renew_deadline, release).await.is_err() {
            tracing::warn!(lease = %self.config.name, "the lease was not released in time");
        }
    }

    async fn try_release(&self, observed: &mut Observed) -> Result<(), StoreError> {
        observed.see(self.store.get().await?, Instant::now());
        if let Some(lease) = released(observed, &self.config, self.now()) {
            self.store.replace(&lease).await?;
            tracing::info!(lease = %self.config.name, "released the lease");
        }
        Ok(())
    }

    fn now(&self) -> Moment {
        Moment { instant: Instant::now(), wall: (self.clock)() }
    }

    fn record(&self, what: &str) {
        if let Some(events) = &self.events {
            let lease = ObjectReference {
                api_version: Some("coordination.k8s.io/v1".to_owned()),
                kind: Some("Lease".to_owned()),
                namespace: Some(self.config.namespace.clone()),
                name: Some(self.config.name.clone()),
                ..ObjectReference::default()
            };
            let message = format!("{} {what}", self.config.identity);
            events.event(lease, EventType::Normal, "LeaderElection", &message);
        }
    }
}

/// Returns when the flag is true or its owner is gone.
async fn stopped(flag: &mut watch::Receiver<bool>) {
    // An error means that nobody is left to ask for a stop: that is one, too.
    let _ = flag.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn config(identity: &str) -> LeaseConfig {
        LeaseConfig {
            namespace: "kruise-system".into(),
            name: "kruise-manager".into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    fn clock() -> WallClock {
        let start = Instant::now();
        Arc::new(move || {
            "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap()
                + jiff::SignedDuration::try_from(start.elapsed()).unwrap()
        })
    }

    /// A Lease in memory with optimistic locking, switchable outages and random delays.
    #[derive(Default)]
    struct Memory {
        lease: Mutex<Option<Lease>>,
        version: Mutex<u64>,
        chaos: Option<Mutex<StdRng>>,
    }

    impl Memory {
        fn write(&self, lease: &Lease, create: bool) -> Result<Lease, StoreError> {
            let mut stored = self.lease.lock().unwrap();
            let version = |lease: &Lease| lease.metadata.resource_version.clone();
            match stored.as_ref() {
                Some(_) if create => return Err(StoreError("already exists".into())),
                Some(old) if version(old) != version(lease) => return Err(StoreError("conflict".into())),
                None if !create => return Err(StoreError("not found".into())),
                _ => {}
            }
            let mut number = self.version.lock().unwrap();
            *number += 1;
            let mut lease = lease.clone();
            lease.metadata.resource_version = Some(number.to_string());
            *stored = Some(lease.clone());
            Ok(lease)
        }

        fn spec(&self) -> LeaseSpec {
            self.lease.lock().unwrap().clone().unwrap().spec.unwrap()
        }

        async fn trouble(&self) -> Result<(), StoreError> {
            let Some(chaos) = &self.chaos else { return Ok(()) };
            let (delay, fails) = {
                let mut chaos = chaos.lock().unwrap();
                let slow = chaos.random_bool(0.1);
                let delay = chaos.random_range(0..if slow { 14_000 } else { 300 });
                (delay, chaos.random_bool(0.3))
            };
            tokio::time::sleep(Duration::from_millis(delay)).await;
            if fails { Err(StoreError("chaos".into())) } else { Ok(()) }
        }
    }

    /// One candidate's view of the shared Lease; it can be cut off.
    #[derive(Clone, Default)]
    struct Link {
        memory: Arc<Memory>,
        down: Arc<AtomicBool>,
        reads: Arc<AtomicUsize>,
    }

    impl Link {
        async fn pass(&self) -> Result<(), StoreError> {
            self.memory.trouble().await?;
            if self.down.load(Ordering::SeqCst) { Err(StoreError("down".into())) } else { Ok(()) }
        }
    }

    impl LeaseStore for Link {
        async fn get(&self) -> Result<Option<Lease>, StoreError> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            self.pass().await?;
            let lease = self.memory.lease.lock().unwrap().clone();
            self.pass().await?;
            Ok(lease)
        }

        async fn create(&self, lease: &Lease) -> Result<Lease, StoreError> {
            self.pass().await?;
            let lease = self.memory.write(lease, true)?;
            self.pass().await?;
            Ok(lease)
        }

        async fn replace(&self, lease: &Lease) -> Result<Lease, StoreError> {
            self.pass().await?;
            let lease = self.memory.write(lease, false)?;
            self.pass().await?;
            Ok(lease)
        }
    }

    struct Candidate {
        link: Link,
        leading: watch::Receiver<bool>,
        stop: watch::Sender<bool>,
        task: tokio::task::JoinHandle<Ended>,
    }

    fn start(identity: &str, memory: &Arc<Memory>) -> Candidate {
        let link = Link { memory: Arc::clone(memory), ..Link::default() };
        let (elector, leading) = Elector::new(config(identity), link.clone(), clock());
        let (stop, shutdown) = watch::channel(false);
        Candidate { link, leading, stop, task: tokio::spawn(elector.run(shutdown)) }
    }

    async fn seconds(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_lease_is_created_and_renewed_as_client_go_writes_it() {
        let memory = Arc::new(Memory::default());
        let mut a = start("a", &memory);
        a.leading.wait_for(|l| *l).await.unwrap();
        let first = memory.spec();
        assert_eq!(first.holder_identity.as_deref(), Some("a"));
        assert_eq!((first.lease_duration_seconds, first.lease_transitions), (Some(15), Some(0)));
        seconds(3).await;
        let renewed = memory.spec();
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert!(renewed.renew_time > first.renew_time);
        assert_eq!(renewed.lease_transitions, Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_held_is_renewed_without_reading_it_until_somebody_else_writes() {
        let memory = Arc::new(Memory::default());
        let mut a = start("a", &memory);
        a.leading.wait_for(|l| *l).await.unwrap();
        seconds(60).await;
        assert_eq!(a.link.reads.load(Ordering::SeqCst), 1, "the read that found no Lease");
        assert!(*memory.version.lock().unwrap() >= 30);

        let mut touched = memory.lease.lock().unwrap().clone().unwrap();
        touched.metadata.labels = Some([("kept".into(), "yes".into())].into());
        memory.write(&touched, false).unwrap();
        seconds(60).await;
        assert!(*a.leading.borrow());
        assert_eq!(a.link.reads.load(Ordering::SeqCst), 2, "the read after the conflict");
        assert_eq!(memory.lease.lock().unwrap().clone().unwrap().metadata.labels, touched.metadata.labels);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_leader_is_replaced_after_the_lease_duration_by_the_local_clock() {
        let memory = Arc::new(Memory::default());
        // The record's own times are far in the future: they must not count.
        let Step::Create(mut lease) = decide(
            &Observed::nothing(Instant::now()),
            &config("gone"),
            Moment { instant: Instant::now(), wall: "2099-01-01T00:00:00Z".parse().unwrap() },
        ) else {
            panic!("no lease")
        };
        lease.spec.as_mut().unwrap().lease_transitions = Some(4);
        memory.write(&lease, true).unwrap();
        let started = Instant::now();
        let mut b = start("b", &memory);
        b.leading.wait_for(|l| *l).await.unwrap();
        let waited = started.elapsed();
        assert!(waited >= Duration::from_secs(15) && waited < Duration::from_secs(18), "{waited:?}");
        let spec = memory.spec();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("b"), Some(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn release_hands_over_within_three_seconds() {
        let memory = Arc::new(Memory::default());
        let mut a = start("a", &memory);
        a.leading.wait_for(|l| *l).await.unwrap();
        let mut b = start("b", &memory);
        seconds(5).await;
        a.stop.send(true).unwrap();
        let asked = Instant::now();
        assert_eq!(a.task.await.unwrap(), Ended::Shutdown);
        let spec = memory.spec();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_duration_seconds), (Some(""), Some(1)));
        b.leading.wait_for(|l| *l).await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(3));
        assert_eq!(memory.spec().lease_transitions, Some(1));
        assert_eq!(memory.spec().lease_duration_seconds, Some(15));
    }

    #[tokio::test(start_paused = true)]
    async fn a_candidate_that_never_led_does_not_release_another_s_lease() {
        let memory = Arc::new(Memory::default());
        let mut a = start("a", &memory);
        a.leading.wait_for(|l| *l).await.unwrap();
        let b = start("b", &memory);
        seconds(5).await;
        b.stop.send(true).unwrap();
        assert_eq!(b.task.await.unwrap(), Ended::Shutdown);
        assert_eq!(memory.spec().holder_identity.as_deref(), Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_shorter_than_the_deadline_is_survived() {
        let memory = Arc::new(Memory::default());
        let mut a = start("a", &memory);
        a.leading.wait_for(|l| *l).await.unwrap();
        a.link.down.store(true, Ordering::SeqCst);
        seconds(7).await;
        a.link.down.store(false, Ordering::SeqCst);
        seconds(60).await;
        assert!(*a.leading.borrow() && !a.task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_longer_than_the_deadline_ends_leadership_before_another_can_lead() {
        let memory = Arc::new(Memory::default());
        let mut a = start("a", &memory);
        a.leading.wait_for(|l| *l).await.unwrap();
        let cut = Instant::now();
        a.link.down.store(true, Ordering::SeqCst);
        assert_eq!(a.task.await.unwrap(), Ended::Lost);
        assert!(cut.elapsed() <= Duration::from_secs(10));
        assert!(!*a.leading.borrow());
        assert_eq!(memory.spec().holder_identity.as_deref(), Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_taken_by_another_is_lost_at_once() {
        let memory = Arc::new(Memory::default());
        let mut a = start("a", &memory);
        a.leading.wait_for(|l| *l).await.unwrap();
        let mut lease = memory.lease.lock().unwrap().clone().unwrap();
        lease.spec.as_mut().unwrap().holder_identity = Some("thief".into());
        memory.write(&lease, false).unwrap();
        let taken = Instant::now();
        assert_eq!(a.task.await.unwrap(), Ended::Lost);
        assert!(taken.elapsed() <= Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn two_candidates_never_lead_at_once_whatever_the_network_does() {
        let mut led = 0;
        for seed in 0..20 {
            let chaos = Some(Mutex::new(StdRng::seed_from_u64(seed)));
            let memory = Arc::new(Memory { chaos, ..Memory::default() });
            let mut candidates: Vec<_> = (0..3).map(|i| start(&format!("{i}-0"), &memory)).collect();
            for round in 0..6_000_u64 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let leaders = candidates.iter().filter(|c| *c.leading.borrow()).count();
                assert!(leaders <= 1, "seed {seed}, round {round}");
                led += leaders;
                for (i, candidate) in candidates.iter_mut().enumerate() {
                    if candidate.task.is_finished() {
                        *candidate = start(&format!("{i}-{round}"), &memory);
                    } else if round % 997 == 332 * i as u64 {
                        let _ = candidate.stop.send(true);
                    }
                }
            }
        }
        assert!(led > 20 * 1_000, "somebody leads most of the time: {led}");
    }

    #[test]
    fn durations_that_let_two_lead_are_refused() {
        assert_eq!(config("a").validate(), Ok(()));
        let bad = LeaseConfig { renew_deadline: Duration::from_secs(15), ..config("a") };
        assert_eq!(bad.validate().unwrap_err(), "leaseDuration must be greater than renewDeadline");
        let bad = LeaseConfig { retry_period: Duration::from_secs(9), ..config("a") };
        assert_eq!(
            bad.validate().unwrap_err(),
            "renewDeadline must be greater than retryPeriod*JitterFactor"
        );
    }

    #[test]
    fn identities_name_the_host_and_differ() {
        assert!(identity("host").starts_with("host_"));
        assert_ne!(identity("host"), identity("host"));
    }
}
