//! Simulated nodes: a scheduler and kubelets as one ordinary client of an API server, this crate's or a real one.
//!
//! [`Nodes::new`] says what there is, [`Nodes::run`] plays it, and the same handle makes things go wrong meanwhile.
//! Containers do nothing; how long they take and how they end is said by [`Timings`] and by annotations of their pod:
//!
//! - `sandbox.kruise.io/<container>.exit-after: 5s`: it exits that long after its start; `0s` at once.
//! - `sandbox.kruise.io/<container>.exit-code: "1"`: with this code; 0 when absent. Without `exit-after` it exits at once.
//! - `sandbox.kruise.io/<container>.ready-after: 2s`: it becomes ready that long after its start.
//!
//! Commands made of `sleep`, `exit`, `true`, `false` and `echo`, also in `sh -c`, are understood as well. Not simulated:
//! probes, hooks, volumes, networking, preferred affinity, topology spread and preemption.

mod container;
mod engine;
mod fit;
mod images;
mod kubelet;
mod node_objects;
mod quantity;
mod scheduler;
mod script;
mod status;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;

use crate::clock::WallClock;
use engine::{Command, Engine};
pub(crate) use fit::{covers, labels_match};
use images::Registry;
pub(crate) use images::digest;
pub(crate) use wire::{NodeView, PodView};

/// How long things take.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Timings {
    /// From the pod's appearance to its binding.
    pub schedule: Duration,
    /// To pull an image that is not on the node.
    pub pull: Duration,
    /// Exceptions to `pull`: image pattern (`*` stands for any text) and duration; the last that fits holds.
    pub pull_rules: Vec<(String, Duration)>,
    /// From the image's presence to the running container.
    pub start: Duration,
    /// From the running container to a ready one.
    pub ready: Duration,
    /// From the signal to the end of a container; cut at the grace period.
    pub stop: Duration,
}

/// What to simulate.
#[derive(Clone)]
pub struct Settings {
    /// How many nodes there are.
    pub count: u32,
    /// Nodes are called this and their number from 0.
    pub name_prefix: String,
    /// Labels of every node, beside the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints of every node.
    pub taints: Vec<Taint>,
    /// What every node has to give: `cpu`, `memory`, `pods`.
    pub allocatable: BTreeMap<String, String>,
    /// How long things take.
    pub timings: Timings,
    /// Where timestamps come from.
    pub clock: WallClock,
    /// What made-up container IDs depend on.
    pub seed: u64,
    /// How often nodes renew their leases; `None`: never.
    pub heartbeat: Option<Duration>,
    /// The `schedulerName` whose pods are scheduled here; `None`: no scheduler.
    pub scheduler: Option<String>,
    /// Whether events are published.
    pub events: bool,
    /// How many writes may be under way at once.
    pub parallel: usize,
}

impl Settings {
    /// `count` nodes of 32 CPUs, 128 GiB and 10,000 pods where everything happens at once.
    pub fn new(count: u32, clock: WallClock) -> Self {
        let allocatable =
            [("cpu", "32"), ("memory", "128Gi"), ("pods", "10000"), ("ephemeral-storage", "1Ti")];
        Self {
            count,
            name_prefix: "node-".into(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            allocatable: allocatable.into_iter().map(|(name, amount)| (name.into(), amount.into())).collect(),
            timings: Timings::default(),
            clock,
            seed: 0,
            heartbeat: None,
            scheduler: Some("default-scheduler".into()),
            events: true,
            parallel: 32,
        }
    }
}

/// The conditions of a node that has fallen silent.
pub(crate) fn silent_conditions(now: jiff::Timestamp) -> Vec<serde_json::Value> {
    node_objects::conditions(node_objects::Condition::Silent, now)
}

struct Shared {
    client: Client,
    settings: Settings,
    registry: Mutex<Registry>,
    commands: mpsc::UnboundedSender<Command>,
    inbox: Mutex<Option<mpsc::UnboundedReceiver<Command>>>,
}

/// The simulated nodes; clones are the same ones.
#[derive(Clone)]
pub struct Nodes {
    shared: Arc<Shared>,
}

impl Nodes {
    /// Nodes that do not run yet.
    pub fn new(client: Client, settings: Settings) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let timings = &settings.timings;
        let registry =
            Registry { pull: timings.pull, times: timings.pull_rules.clone(), failures: Vec::new() };
        let (registry, inbox) = (Mutex::new(registry), Mutex::new(Some(inbox)));
        Self { shared: Arc::new(Shared { client, settings, registry, commands, inbox }) }
    }

    /// Registers the nodes and plays scheduler and kubelets until `stop` resolves. The Node objects stay.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let inbox = self.shared.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(inbox) = inbox else {
            tracing::error!("simulated nodes run already");
            return;
        };
        let mut engine = Engine::new(Arc::clone(&self.shared), inbox);
        tokio::select! {
            biased;
            () = engine.run() => {}
            () = stop => {}
        }
    }

    /// Deletes the Node objects and their leases.
    pub async fn remove(&self) {
        node_objects::remove(&self.shared).await;
    }

    /// Makes pulls of images that fit `pattern` (`*` stands for any text) fail with this error text.
    pub fn fail_image(&self, pattern: &str, reason: &str) {
        self.shared.registry().failures.push((pattern.to_owned(), reason.to_owned()));
    }

    /// Takes back every [`fail_image`](Self::fail_image) of this very pattern.
    pub fn heal_image(&self, pattern: &str) {
        self.shared.registry().failures.retain(|(failing, _)| failing != pattern);
    }

    /// How long pulls of images that fit `pattern` take from now on.
    pub fn set_pull_time(&self, pattern: &str, time: Duration) {
        self.shared.registry().times.push((pattern.to_owned(), time));
    }

    /// Ends a running container with this exit code; its restart policy says what follows.
    pub fn crash(&self, namespace: &str, pod: &str, container: &str, exit_code: i32) {
        self.send(Command::Crash((namespace.into(), pod.into()), container.into(), exit_code));
    }

    /// Decides whether a running container is ready; `None` leaves it to the timings again.
    pub fn set_ready(&self, namespace: &str, pod: &str, container: &str, ready: Option<bool>) {
        self.send(Command::SetReady((namespace.into(), pod.into()), container.into(), ready));
    }

    /// Cuts a node off: no heartbeats, no statuses, no deletions. Without heartbeats nobody could notice, so then its
    /// `Ready` condition becomes `Unknown` at once, as the node lifecycle controller would have it.
    pub fn lose_node(&self, name: &str) {
        self.send(Command::Lost(name.into(), true));
    }

    /// Brings a lost node back with its containers as they were.
    pub fn recover_node(&self, name: &str) {
        self.send(Command::Lost(name.into(), false));
    }

    /// Makes a node unschedulable or schedulable again.
    pub async fn cordon(&self, name: &str, unschedulable: bool) -> kube::Result<()> {
        let nodes: Api<wire::NodeView> = Api::all(self.shared.client.clone());
        let patch = json!({"spec": {"unschedulable": unschedulable.then_some(true)}});
        nodes.patch(name, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(patch)).await?;
        Ok(())
    }

    /// The names of the nodes.
    pub fn names(&self) -> Vec<String> {
        self.shared.names().collect()
    }

    fn send(&self, command: Command) {
        // Nobody listens once the simulation has ended, and then nothing is to be done either.
        let _ = self.shared.commands.send(command);
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> impl Iterator<Item = String> {
        (0..self.settings.count).map(|number| format!("{}{number}", self.settings.name_prefix))
    }
}
