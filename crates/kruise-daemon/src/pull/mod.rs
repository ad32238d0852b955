//! Pulling images ahead of use: one loop that follows the node's NodeImage, runs a task for each pull and writes what
//! has changed to the status.

pub(crate) mod plan;
mod progress;
pub(crate) mod secrets;
pub(crate) mod view;
pub(crate) mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kruise_api::nodeimage::{ImagePullPhase, ImageTagStatus};
use kruise_common::key::ObjectKey;
use kruise_runtime::events::{EventRecorder, EventType};
use kruise_runtime::store::Store;
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::Clock;
use crate::pull::plan::{Key, Task};
use crate::pull::view::NodeImageView;
use crate::pull::worker::Env;
use crate::wire::NodeImageWire;

/// Changes of the status are gathered for this long.
const GATHER: Duration = Duration::from_millis(100);
/// Time in which one more status may be written.
const REFILL: Duration = Duration::from_secs(2);
/// How many statuses may be written at once.
const BURST: u32 = 5;
/// How long the API server may take for a write.
const PATIENCE: Duration = Duration::from_secs(30);
/// First and longest pause after a failed write.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(50));

/// A pull as the agent sees it.
struct Local {
    status: ImageTagStatus,
    /// Tells reports of this pull from those of a stopped one.
    generation: u64,
    task: Option<AbortHandle>,
    /// How long it took, once it has ended.
    took: Duration,
    owners: Vec<ObjectReference>,
}

/// A step of a pull.
struct Report {
    key: Key,
    generation: u64,
    status: ImageTagStatus,
    took: Duration,
}

/// Follows one NodeImage.
pub(crate) struct Puller {
    node: ObjectKey,
    api: Api<NodeImageWire>,
    store: Store<NodeImageView>,
    env: Arc<Env>,
    events: EventRecorder,
    clock: Clock,
    local: BTreeMap<Key, Local>,
    generations: u64,
    running: JoinSet<()>,
    reports: (mpsc::UnboundedSender<Report>, mpsc::UnboundedReceiver<Report>),
    budget: Budget,
}

impl Puller {
    pub(crate) fn new(
        client: kube::Client,
        node: &str,
        store: Store<NodeImageView>,
        env: Arc<Env>,
        events: EventRecorder,
    ) -> Self {
        let clock = Arc::clone(&env.clock);
        Self {
            node: ObjectKey::new("", node),
            api: Api::all(client),
            store,
            env,
            events,
            clock,
            local: BTreeMap::new(),
            generations: 0,
            running: JoinSet::new(),
            reports: mpsc::unbounded_channel(),
            budget: Budget::new(),
        }
    }

    /// Pulls until told to stop; pulls that run then are given up.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let changed = Arc::new(Notify::new());
        let wake = Arc::clone(&changed);
        self.store.subscribe(Box::new(move |_| wake.notify_one()));
        let mut retry = RETRY.0;
        loop {
            // What comes at the same time is written at once, and never before a new pull has had its say.
            self.gather().await;
            while self.sync() {
                self.gather().await;
            }
            let wait = match self.write().await {
                Ok(wait) => {
                    retry = RETRY.0;
                    wait
                }
                Err(error) => {
                    tracing::warn!(error, "the status was not written and will be again");
                    let pause = retry;
                    retry = (retry * 2).min(RETRY.1);
                    Some(pause)
                }
            };
            let pause = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = changed.notified() => {}
                Some(report) = self.reports.1.recv() => self.take_in(report),
                () = pause => {}
            }
        }
    }

    /// Takes in what is reported within a moment.
    async fn gather(&mut self) {
        tokio::time::sleep(GATHER).await;
        while let Ok(report) = self.reports.1.try_recv() {
            self.take_in(report);
        }
        while self.running.try_join_next().is_some() {}
    }

    /// Brings the running pulls in line with what is wanted; true if one was started.
    fn sync(&mut self) -> bool {
        let Some(view) = self.store.get(&self.node) else {
            if self.store.is_ready() {
                self.local.values().filter_map(|local| local.task.as_ref()).for_each(AbortHandle::abort);
                self.local.clear();
            }
            return false;
        };
        let versions = self.local.iter().map(|(key, local)| (key.clone(), local.status.version)).collect();
        let plan = plan::plan(&view, &versions);
        for key in plan.stop {
            if let Some(local) = self.local.remove(&key)
                && let Some(task) = local.task
                && local.status.completion_time.is_none()
            {
                tracing::info!(image = %key, "a pull is not wanted any more");
                task.abort();
            }
        }
        for refusal in plan.refuse {
            let time = Time(worker::whole_seconds((self.clock)()));
            let status = ImageTagStatus {
                tag: refusal.key.tag.clone(),
                version: refusal.version,
                phase: ImagePullPhase::Failed,
                start_time: Some(time.clone()),
                completion_time: Some(time),
                message: Some(refusal.reason),
                ..ImageTagStatus::default()
            };
            let local =
                Local { status, generation: 0, task: None, took: Duration::ZERO, owners: refusal.owners };
            self.tell(&refusal.key, &local);
            self.local.insert(refusal.key, local);
        }
        let started = !plan.start.is_empty();
        for task in plan.start {
            self.start(task);
        }
        self.env.secrets.retain(view.secrets());
        started
    }

    fn start(&mut self, task: Task) {
        self.generations += 1;
        let (key, generation, owners) = (task.key.clone(), self.generations, task.owners.clone());
        tracing::info!(image = %key, version = task.version, "a pull is wanted");
        let status =
            ImageTagStatus { tag: key.tag.clone(), version: task.version, ..ImageTagStatus::default() };
        let (reports, name) = (self.reports.0.clone(), key.clone());
        let tell = move |status, took| {
            // Nobody listens once the agent stops.
            let _ = reports.send(Report { key: name.clone(), generation, status, took });
        };
        let handle = self.running.spawn(worker::run(task, Arc::clone(&self.env), tell));
        self.local
            .insert(key, Local { status, generation, task: Some(handle), took: Duration::ZERO, owners });
    }

    fn take_in(&mut self, report: Report) {
        let Some(local) =
            self.local.get_mut(&report.key).filter(|local| local.generation == report.generation)
        else {
            return;
        };
        local.status = report.status;
        local.took = report.took;
        if local.status.completion_time.is_some()
            && let Some(local) = self.local.get(&report.key)
        {
            self.tell(&report.key, local);
        }
    }

    /// Records how a pull ended.
    fn tell(&self, key: &Key, local: &Local) {
        let node_image = ObjectReference {
            api_version: Some(kruise_api::V1BETA1.to_owned()),
            kind: Some(kruise_api::nodeimage::KIND.to_owned()),
            name: Some(self.node.name.to_string()),
            uid: self.store.get(&self.node).map(|view| view.uid_text()),
            ..ObjectReference::default()
        };
        let status = &local.status;
        if status.phase == ImagePullPhase::Succeeded {
            let message = format!("Image {key}, ecalpsedTime {}", go_duration(local.took));
            self.events.event(node_image, EventType::Normal, "PullImageSucceed", &message);
            return;
        }
        let message = format!("Image {key} {}", status.message.as_deref().unwrap_or_default());
        for object in local.owners.iter().cloned().chain([node_image]) {
            self.events.event(object, EventType::Warning, "PullImageFailed", &message);
        }
    }

    /// Writes the status if it has changed and may be written; otherwise tells how long to wait.
    async fn write(&mut self) -> Result<Option<Duration>, String> {
        let Some(view) = self.store.get(&self.node) else { return Ok(None) };
        let statuses = self.local.iter().map(|(key, local)| (key.clone(), local.status.clone())).collect();
        let new = plan::status(&view, &statuses, worker::whole_seconds((self.clock)()));
        let Some(patch) = plan::patch(&view.status, &new) else { return Ok(None) };
        if let Err(wait) = self.budget.take(Instant::now()) {
            return Ok(Some(wait));
        }
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let answer = self.api.patch_status(&self.node.name, &params, &patch);
        let answer = tokio::time::timeout(PATIENCE, answer).await.map_err(|_| "no answer".to_owned())?;
        match answer {
            Ok(object) => {
                if let Some(view) = NodeImageView::of(object) {
                    self.store.apply_own(view);
                }
                Ok(None)
            }
            // It is gone, which its watch will tell as well.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Some(REFILL)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// How many writes are left.
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    fn new() -> Self {
        Self { left: BURST, since: Instant::now() }
    }

    /// Takes one, or tells when there is one.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        while self.left < BURST && now.duration_since(self.since) >= REFILL {
            self.left += 1;
            self.since += REFILL;
        }
        if self.left == BURST {
            self.since = now;
        }
        if self.left == 0 {
            return Err((self.since + REFILL).duration_since(now));
        }
        self.left -= 1;
        Ok(())
    }
}

/// A duration in Go's notation, to the millisecond: `1m2.5s`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let (seconds, fraction) = (rest / 1000, format!("{:03}", rest % 1000));
    let fraction = match fraction.trim_end_matches('0') {
        "" => String::new(),
        digits => format!(".{digits}"),
    };
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}{fraction}s"),
        (0, minutes) => format!("{minutes}m{seconds}{fraction}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests;
