//! The work queue: which keys want a round, each at most once at a time.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kruise_common::key::ObjectKey;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How fast failing keys are retried; the larger of both delays holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Delay after a key's first failure; each further one doubles it.
    pub base: Duration,
    /// Longest delay of one key.
    pub max: Duration,
    /// Retries a second over all keys.
    pub qps: f64,
    /// Retries that may come at once.
    pub burst: u32,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { base: Duration::from_millis(5), max: Duration::from_secs(1000), qps: 10.0, burst: 100 }
    }
}

impl RateLimit {
    /// The delay after `failures` earlier failures of the same key in a row.
    fn backoff(&self, failures: u32) -> Duration {
        2_u32
            .checked_pow(failures)
            .and_then(|times| self.base.checked_mul(times))
            .unwrap_or(self.max)
            .min(self.max)
    }
}

/// Reservations of one overall rate.
#[derive(Debug)]
struct TokenBucket {
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    /// Takes a token and says when it will be there.
    fn reserve(&mut self, limit: &RateLimit, now: Instant) -> Duration {
        if limit.qps <= 0.0 {
            return Duration::ZERO;
        }
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * limit.qps;
        self.tokens = (self.tokens + gained).min(f64::from(limit.burst)) - 1.0;
        self.filled = now;
        Duration::try_from_secs_f64((-self.tokens / limit.qps).max(0.0)).unwrap_or(limit.max)
    }
}

/// Keys waiting for a round; clones share it.
#[derive(Clone, Debug)]
pub struct WorkQueue {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
    limit: RateLimit,
    metrics: QueueMetrics,
}

#[derive(Debug)]
struct State {
    /// Keys to hand out, in order.
    ready: VecDeque<ObjectKey>,
    /// Keys that want a round, with the time they were added: those in `ready` and those in `running` that changed.
    wanted: HashMap<ObjectKey, Instant>,
    running: HashSet<ObjectKey>,
    /// Keys to add later; `due` says when for each.
    delayed: BTreeSet<(Instant, ObjectKey)>,
    due: HashMap<ObjectKey, Instant>,
    failures: HashMap<ObjectKey, u32>,
    bucket: TokenBucket,
    closed: bool,
}

impl WorkQueue {
    /// An empty queue.
    pub fn new(limit: RateLimit, metrics: QueueMetrics) -> Self {
        let bucket = TokenBucket { tokens: f64::from(limit.burst), filled: Instant::now() };
        let state = State {
            ready: VecDeque::new(),
            wanted: HashMap::new(),
            running: HashSet::new(),
            delayed: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            bucket,
            closed: false,
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), changed: Notify::new(), limit, metrics }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a round of `key`; one already waiting serves both, one running is followed by another.
    pub fn add(&self, key: ObjectKey) {
        self.add_now(&mut self.state(), key);
        self.inner.changed.notify_waiters();
    }

    fn add_now(&self, state: &mut State, key: ObjectKey) {
        if state.closed || state.wanted.contains_key(&key) {
            return;
        }
        self.inner.metrics.adds.inc();
        state.wanted.insert(key.clone(), Instant::now());
        if !state.running.contains(&key) {
            self.push_ready(state, key);
        }
    }

    fn push_ready(&self, state: &mut State, key: ObjectKey) {
        state.ready.push_back(key);
        self.inner.metrics.depth.set(i64::try_from(state.ready.len()).unwrap_or(i64::MAX));
    }

    /// Asks for a round of `key` after `delay`; of several such requests the earliest holds.
    pub fn add_after(&self, key: ObjectKey, delay: Duration) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        self.inner.metrics.retries.inc();
        let Some(at) = Instant::now().checked_add(delay) else { return };
        if delay.is_zero() {
            self.add_now(&mut state, key);
        } else if state.due.get(&key).is_none_or(|due| at < *due) {
            if let Some(later) = state.due.insert(key.clone(), at) {
                state.delayed.remove(&(later, key.clone()));
            }
            state.delayed.insert((at, key));
        }
        drop(state);
        self.inner.changed.notify_waiters();
    }

    /// Asks for a round of `key` after its back-off, which grows until [`forget`](Self::forget).
    pub fn add_rate_limited(&self, key: ObjectKey) {
        let limit = &self.inner.limit;
        let delay = {
            let mut state = self.state();
            let failures = state.failures.entry(key.clone()).or_default();
            let backoff = limit.backoff(*failures);
            *failures = failures.saturating_add(1);
            backoff.max(state.bucket.reserve(limit, Instant::now()))
        };
        self.add_after(key, delay);
    }

    /// Ends the back-off of `key`: its next failure is a first one.
    pub fn forget(&self, key: &ObjectKey) {
        self.state().failures.remove(key);
    }

    /// How many keys wait for a worker.
    pub fn len(&self) -> usize {
        self.state().ready.len()
    }

    /// True when no key waits for a worker.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands out no more keys and takes none. Keys still waiting are dropped: the next start lists them anew.
    pub fn shut_down(&self) {
        self.state().closed = true;
        self.inner.changed.notify_waiters();
    }

    /// The next key, as soon as there is one; `None` after [`shut_down`](Self::shut_down).
    pub async fn next(&self) -> Option<Claim> {
        loop {
            // Created before looking, so that whatever changes after the look wakes it.
            let changed = self.inner.changed.notified();
            let wake = match self.look() {
                Look::Closed => return None,
                Look::Key(claim) => return Some(claim),
                Look::Wait(wake) => wake,
            };
            match wake {
                Some(at) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    fn look(&self) -> Look {
        let mut state = self.state();
        if state.closed {
            return Look::Closed;
        }
        let now = Instant::now();
        while state.delayed.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = state.delayed.pop_first() {
                state.due.remove(&key);
                self.add_now(&mut state, key);
            }
        }
        let Some(key) = state.ready.pop_front() else {
            return Look::Wait(state.delayed.first().map(|(at, _)| *at));
        };
        let metrics = &self.inner.metrics;
        metrics.depth.set(i64::try_from(state.ready.len()).unwrap_or(i64::MAX));
        if let Some(added) = state.wanted.remove(&key) {
            metrics.queue_duration.observe(now.saturating_duration_since(added).as_secs_f64());
        }
        state.running.insert(key.clone());
        metrics.running().insert(key.clone(), now);
        Look::Key(Claim { key, queue: self.clone() })
    }

    fn done(&self, key: &ObjectKey) {
        let mut state = self.state();
        state.running.remove(key);
        let metrics = &self.inner.metrics;
        if let Some(started) = metrics.running().remove(key) {
            metrics.work_duration.observe(started.elapsed().as_secs_f64());
        }
        if !state.closed && state.wanted.contains_key(key) {
            self.push_ready(&mut state, key.clone());
        }
        drop(state);
        self.inner.changed.notify_waiters();
    }
}

enum Look {
    Closed,
    Key(Claim),
    /// Nothing to do before this time, if there is one.
    Wait(Option<Instant>),
}

/// A key being worked on; dropping it says the round is over. Until then nobody else gets the key.
#[derive(Debug)]
pub struct Claim {
    key: ObjectKey,
    queue: WorkQueue,
}

impl Claim {
    /// The key to work on.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.queue.done(&self.key);
    }
}

/// The `workqueue_*` metrics of one queue.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    depth: IntGauge,
    adds: IntCounter,
    retries: IntCounter,
    queue_duration: Histogram,
    work_duration: Histogram,
    running: Arc<Mutex<HashMap<ObjectKey, Instant>>>,
}

impl QueueMetrics {
    /// Adds the metrics of one controller's queue to `registry`.
    ///
    /// # Errors
    /// When a controller of this name is registered already.
    pub fn register(registry: &Registry, controller_name: &str) -> prometheus::Result<Self> {
        let opts = |name: &str, help: &str| {
            Opts::new(name, help)
                .const_label("name", controller_name)
                .const_label("controller", controller_name)
        };
        let histogram = |name: &str, help: &str| {
            let buckets = prometheus::exponential_buckets(1e-8, 10.0, 12)?;
            Histogram::with_opts(HistogramOpts { common_opts: opts(name, help), buckets })
        };
        let metrics = Self {
            depth: IntGauge::with_opts(opts("workqueue_depth", "Current depth of workqueue"))?,
            adds: IntCounter::with_opts(opts(
                "workqueue_adds_total",
                "Total number of adds handled by workqueue",
            ))?,
            retries: IntCounter::with_opts(opts(
                "workqueue_retries_total",
                "Total number of retries handled by workqueue",
            ))?,
            queue_duration: histogram(
                "workqueue_queue_duration_seconds",
                "How long in seconds an item stays in workqueue before being requested",
            )?,
            work_duration: histogram(
                "workqueue_work_duration_seconds",
                "How long in seconds processing an item from workqueue takes",
            )?,
            running: Arc::default(),
        };
        registry.register(Box::new(metrics.depth.clone()))?;
        registry.register(Box::new(metrics.adds.clone()))?;
        registry.register(Box::new(metrics.retries.clone()))?;
        registry.register(Box::new(metrics.queue_duration.clone()))?;
        registry.register(Box::new(metrics.work_duration.clone()))?;
        registry.register(Box::new(Unfinished {
            sum: Gauge::with_opts(opts(
                "workqueue_unfinished_work_seconds",
                "How many seconds of work is in progress and has not been observed by work_duration",
            ))?,
            longest: Gauge::with_opts(opts(
                "workqueue_longest_running_processor_seconds",
                "How many seconds the longest running processor has been running",
            ))?,
            running: Arc::clone(&metrics.running),
        }))?;
        Ok(metrics)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<ObjectKey, Instant>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rounds in progress, measured when the metrics are read.
struct Unfinished {
    sum: Gauge,
    longest: Gauge,
    running: Arc<Mutex<HashMap<ObjectKey, Instant>>>,
}

impl Collector for Unfinished {
    fn desc(&self) -> Vec<&Desc> {
        self.sum.desc().into_iter().chain(self.longest.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let ages: Vec<f64> = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .map(|started| started.elapsed().as_secs_f64())
            .collect();
        self.sum.set(ages.iter().sum());
        self.longest.set(ages.into_iter().fold(0.0, f64::max));
        self.sum.collect().into_iter().chain(self.longest.collect()).collect()
    }
}

#[cfg(test)]
mod tests;
