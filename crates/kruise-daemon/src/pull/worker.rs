//! One pull, from waiting for its turn to its end.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kruise_api::keys;
use kruise_api::nodeimage::{ImagePullPhase, ImageTagStatus};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use rand::Rng as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::plan::Task;
use super::progress::Progress;
use super::secrets::Secrets;
use crate::Clock;
use crate::credentials::node::NodeCredentials;
use crate::cri::messages::{
    AuthConfig, Image, ImageSpec, PodSandboxConfig, PodSandboxMetadata, PullImageRequest,
};
use crate::cri::{Cri, CriError};
use crate::disk::{Disk, Floor};

/// The first pause after a failed attempt; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after a failed attempt, and the shortest when the registry says it is asked too often.
const LONG_PAUSE: Duration = Duration::from_secs(30);
/// How often a runtime that is gone is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Messages in the status are cut to this many bytes.
const MAX_MESSAGE: usize = 2048;

/// What all pulls share.
pub(crate) struct Env {
    pub(crate) cri: Cri,
    pub(crate) secrets: Arc<Secrets>,
    /// What the node has for every pull, tried after the Secrets.
    pub(crate) node: Arc<NodeCredentials>,
    pub(crate) turns: Turns,
    pub(crate) disk: Disk,
    /// What must stay free of it.
    pub(crate) floor: Floor,
    pub(crate) clock: Clock,
    pub(crate) anonymous_fallback: bool,
    pub(crate) metrics: PullMetrics,
}

/// Who pulls now, and who waits for a turn; first come, first served.
pub(crate) struct Turns {
    /// Of the node; none is no limit.
    node: Option<Arc<Semaphore>>,
    /// Most pulls from one registry; none is no limit.
    per_registry: Option<usize>,
    registries: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

impl Turns {
    /// So many pulls at once on the node and from each registry; 0 and less is no limit.
    pub(crate) fn new(of_node: i64, per_registry: i64) -> Self {
        let limit = |most: i64| usize::try_from(most).ok().filter(|most| *most > 0);
        let limit = |most| limit(most).map(|most| most.min(Semaphore::MAX_PERMITS));
        Self {
            node: limit(of_node).map(|most| Arc::new(Semaphore::new(most))),
            per_registry: limit(per_registry),
            registries: Mutex::default(),
        }
    }

    /// Waits for a turn, which lasts until the answer is dropped. Who waits for a busy registry keeps nobody from
    /// pulling from another one.
    async fn take(&self, registry: &str) -> [Option<OwnedSemaphorePermit>; 2] {
        let of_registry = self.per_registry.map(|most| {
            let mut registries = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
            let known = registries.entry(registry.to_owned());
            Arc::clone(known.or_insert_with(|| Arc::new(Semaphore::new(most))))
        });
        [turn(of_registry).await, turn(self.node.clone()).await]
    }
}

async fn turn(of: Option<Arc<Semaphore>>) -> Option<OwnedSemaphorePermit> {
    // Nobody closes them, so that waiting for one cannot fail.
    of?.acquire_owned().await.ok()
}

/// What is counted of pulls.
#[derive(Clone, Debug)]
pub(crate) struct PullMetrics {
    total: IntCounterVec,
    seconds: Histogram,
    inflight: IntGauge,
    bytes: IntCounter,
}

impl PullMetrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let total = IntCounterVec::new(
            Opts::new("kruise_image_pull_total", "Pulls that ended, by result"),
            &["result"],
        )?;
        for result in ["succeeded", "failed", "present"] {
            total.with_label_values(&[result]);
        }
        let seconds = Histogram::with_opts(
            HistogramOpts::new(
                "kruise_image_pull_duration_seconds",
                "Duration of pulls with all their attempts",
            )
            .buckets(vec![0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0]),
        )?;
        let inflight = IntGauge::new("kruise_image_pull_inflight", "Pulls that are running")?;
        let bytes = IntCounter::new("kruise_image_pull_bytes_total", "Size of the images that were pulled")?;
        registry.register(Box::new(total.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(inflight.clone()))?;
        registry.register(Box::new(bytes.clone()))?;
        Ok(Self { total, seconds, inflight, bytes })
    }
}

/// Counts a pull as running for as long as it lives, however it ends.
struct Running(IntGauge);

impl Running {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Why an attempt failed.
#[derive(Debug)]
enum Failure {
    /// The runtime went away: nothing is known about the image.
    RuntimeGone(String),
    /// The runtime or the registry says no. `anonymous`: there are no credentials that could have been replaced.
    Refused { message: String, auth: bool, busy: bool, anonymous: bool },
    /// It took too long.
    TimedOut,
}

/// Pulls until the end, telling each step and at the end how long it took; the future may be dropped at any time, which stops the pull.
pub(crate) async fn run(task: Task, env: Arc<Env>, tell: impl Fn(ImageTagStatus, Duration)) {
    let mut status = ImageTagStatus {
        tag: task.key.tag.clone(),
        version: task.version,
        phase: ImagePullPhase::Waiting,
        start_time: task.started.map(Time),
        ..ImageTagStatus::default()
    };
    tell(status.clone(), Duration::ZERO);
    let _turn = env.turns.take(task.reference.registry()).await;
    let _running = Running::new(&env.metrics.inflight);
    let started = task.started.unwrap_or_else(|| whole_seconds((env.clock)()));
    status.phase = ImagePullPhase::Pulling;
    status.start_time = Some(Time(started));
    status.progress = Some(0);
    tell(status.clone(), Duration::ZERO);
    let timer = Instant::now();
    let result = {
        let mut progress = Progress::new(&env.cri, &task.reference);
        let pulling = attempts(&task, &env, started);
        tokio::pin!(pulling);
        loop {
            tokio::select! {
                biased;
                result = &mut pulling => break result,
                percent = progress.step() => {
                    status.progress = Some(percent);
                    tell(status.clone(), Duration::ZERO);
                }
            }
        }
    };
    env.metrics.seconds.observe(timer.elapsed().as_secs_f64());
    let word = match result {
        Ok(Done { image_id, present }) => {
            status.phase = ImagePullPhase::Succeeded;
            status.progress = Some(100);
            status.image_id = Some(format!("{}@{image_id}", task.key.image));
            if present { "present" } else { "succeeded" }
        }
        Err(message) => {
            status.phase = ImagePullPhase::Failed;
            status.message = Some(cut(message));
            "failed"
        }
    };
    env.metrics.total.with_label_values(&[word]).inc();
    status.completion_time = Some(Time(whole_seconds((env.clock)())));
    tell(status, timer.elapsed());
}

/// A time as the API server keeps it: what was written must be equal to what is read back.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// An image that is there now.
struct Done {
    image_id: String,
    present: bool,
}

async fn attempts(task: &Task, env: &Env, started: Timestamp) -> Result<Done, String> {
    let mut pause = FIRST_PAUSE;
    let mut left = task.attempts;
    loop {
        let remaining = remaining(task, started, (env.clock)());
        if remaining.is_some_and(|remaining| remaining.is_zero()) {
            return Err("pulling exceeds the activeDeadlineSeconds".to_owned());
        }
        let timeout = remaining.map_or(task.timeout, |remaining| remaining.min(task.timeout));
        let attempt = tokio::time::timeout(timeout, patiently(task, env, timeout)).await;
        let (message, busy) = match attempt.unwrap_or(Err(Failure::TimedOut)) {
            Ok(done) => return Ok(done),
            Err(Failure::RuntimeGone(message)) => (failed(task, &message), false),
            Err(Failure::Refused { message, busy, .. }) => (failed(task, &message), busy),
            Err(Failure::TimedOut) => {
                let seconds = timeout.as_secs();
                (format!("pulling image {} is canceled: it did not end within {seconds}s", task.key), false)
            }
        };
        tracing::warn!(image = %task.key, attempts_left = left.saturating_sub(1), message, "a pull failed");
        left = left.saturating_sub(1);
        if left == 0 {
            return Err(message);
        }
        let mut wait = pause;
        if busy {
            wait = LONG_PAUSE.mul_f64(1.0 + rand::rng().random_range(0.0..0.5));
        }
        pause = (pause * 2).min(LONG_PAUSE);
        tokio::time::sleep(self::remaining(task, started, (env.clock)()).map_or(wait, |left| left.min(wait)))
            .await;
    }
}

fn failed(task: &Task, message: &str) -> String {
    format!("Failed to pull image reference \"{}\": {message}", task.key)
}

/// How long the pull may still take.
fn remaining(task: &Task, started: Timestamp, now: Timestamp) -> Option<Duration> {
    let deadline = SignedDuration::try_from(task.deadline?).ok()?;
    let end = started.checked_add(deadline).ok()?;
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

/// One attempt, which a runtime that goes away meanwhile does not use up.
async fn patiently(task: &Task, env: &Env, timeout: Duration) -> Result<Done, Failure> {
    let end = Instant::now() + timeout;
    loop {
        let failure = match attempt(task, env, timeout).await {
            Err(Failure::RuntimeGone(message)) => message,
            done => return done,
        };
        tracing::warn!(image = %task.key, failure, "the container runtime is gone; waiting for it to come back");
        loop {
            if end.saturating_duration_since(Instant::now()) <= LOOK_AGAIN {
                return Err(Failure::RuntimeGone(failure));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            if env.cri.version().await.is_ok() {
                break;
            }
        }
    }
}

async fn attempt(task: &Task, env: &Env, timeout: Duration) -> Result<Done, Failure> {
    let reference = task.reference.to_string();
    if task.if_not_present
        && let Some(image) = env.cri.image(&reference).await.map_err(|error| classify(&error))?
        && verify(task, &image).is_ok()
    {
        return Ok(Done { image_id: image.id, present: true });
    }
    room(env).map_err(refused)?;
    match pull(task, env, &reference, timeout, false).await {
        // Credentials may have been replaced since they were read.
        Err(Failure::Refused { auth: true, anonymous: false, .. }) => {
            pull(task, env, &reference, timeout, true).await?;
        }
        done => done?,
    }
    let image = env.cri.image(&reference).await.map_err(|error| classify(&error))?;
    let image =
        image.ok_or_else(|| refused("the runtime does not list the image after it was pulled".to_owned()))?;
    verify(task, &image).map_err(refused)?;
    env.metrics.bytes.inc_by(image.size);
    Ok(Done { image_id: image.id, present: false })
}

/// Whether there is room for a pull. Where that cannot be told, the runtime will.
fn room(env: &Env) -> Result<(), String> {
    match (env.disk)() {
        Ok(room) => env.floor.lack(room).map_or(Ok(()), Err),
        Err(error) => {
            tracing::warn!(%error, "the room for images cannot be told; pulling all the same");
            Ok(())
        }
    }
}

/// Pulls with each of the matching credentials until one serves; without any, anonymously.
async fn pull(
    task: &Task,
    env: &Env,
    reference: &str,
    timeout: Duration,
    fresh: bool,
) -> Result<(), Failure> {
    let keyring = env.secrets.keyring(&task.secrets, fresh).await.map_err(refused)?;
    let mut tries: Vec<Option<AuthConfig>> = Vec::new();
    let of_node = env.node.candidates(&task.reference, fresh).await;
    for auth in keyring.candidates(&task.reference).into_iter().chain(of_node).map(Some) {
        if !tries.contains(&auth) {
            tries.push(auth);
        }
    }
    if tries.is_empty() || env.anonymous_fallback {
        tries.push(None);
    }
    let anonymous = task.secrets.is_empty() && tries.iter().all(Option::is_none);
    let mut messages = Vec::new();
    let (mut all_auth, mut any_busy) = (true, false);
    for auth in tries {
        match env.cri.pull(request(task, reference, auth), timeout).await.map_err(|error| classify(&error)) {
            Ok(_) => return Ok(()),
            Err(Failure::Refused { message, auth, busy, .. }) => {
                all_auth &= auth;
                any_busy |= busy;
                messages.push(message);
            }
            Err(other) => return Err(other),
        }
    }
    messages.dedup();
    let message = if messages.len() == 1 { messages.remove(0) } else { format!("[{}]", messages.join(", ")) };
    Err(Failure::Refused { message, auth: all_auth, busy: any_busy, anonymous })
}

fn request(task: &Task, reference: &str, auth: Option<AuthConfig>) -> PullImageRequest {
    let collect = |map: &Option<BTreeMap<String, String>>| -> HashMap<String, String> {
        map.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let mut annotations = collect(&task.sandbox.annotations);
    annotations.insert(keys::PULLING_IMAGE_BY.to_owned(), keys::PULLING_IMAGE_BY_DAEMON.to_owned());
    PullImageRequest {
        image: Some(ImageSpec { image: reference.to_owned(), annotations: HashMap::new() }),
        auth,
        sandbox_config: Some(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata::default()),
            labels: collect(&task.sandbox.labels),
            annotations,
        }),
    }
}

/// An image asked for by its digest must have that digest.
fn verify(task: &Task, image: &Image) -> Result<(), String> {
    let Some(digest) = task.reference.digest() else { return Ok(()) };
    let suffix = format!("@{digest}");
    if image.repo_digests.iter().any(|held| held.ends_with(&suffix)) {
        return Ok(());
    }
    Err(format!("digest mismatch: the runtime has {}", image.repo_digests.join(", ")))
}

fn refused(message: String) -> Failure {
    Failure::Refused { message, auth: false, busy: false, anonymous: false }
}

fn classify(error: &CriError) -> Failure {
    if let CriError::TimedOut(_) = error {
        return Failure::TimedOut;
    }
    let message = error.to_string();
    if error.is_unreachable() {
        return Failure::RuntimeGone(message);
    }
    let has = |words: &[&str]| {
        let lower = message.to_lowercase();
        words.iter().any(|word| lower.contains(word))
    };
    let auth = has(&[
        "401 unauthorized",
        "403 forbidden",
        "unauthenticated",
        "unauthorized",
        "authorization failed",
        "authentication required",
        "no basic auth credentials",
        "access denied",
        "insufficient_scope",
    ]);
    let busy = has(&["429 too many requests", "toomanyrequests", "too many requests"]);
    Failure::Refused { message, auth, busy, anonymous: false }
}

fn cut(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    message
}
