//! Puts the parts together, and takes them down again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::TryFutureExt;
use futures::future::BoxFuture;
use kruise_api::keys;
use kruise_common::gates::{FeatureGates, Gate};
use kruise_common::key::ObjectKey;
use kruise_common::pod_wire::PodWire;
use kruise_runtime::client::for_controller;
use kruise_runtime::controller::{ControllerMetrics, Failed, Requeue, run_controller};
use kruise_runtime::events::{ApiEvents, EventRecorder};
use kruise_runtime::metrics::Metrics;
use kruise_runtime::queue::{QueueMetrics, RateLimit, WorkQueue};
use kruise_runtime::serve;
use kruise_runtime::store::{Selection, Store, run_watch};
use kube::Api;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::credentials::node::{NodeCredentials, Places};
use crate::credentials::plugins::Plugins;
use crate::cri::discover::Runtimes;
use crate::disk::Disk;
use crate::flags::Flags;
use crate::kill::Killer;
use crate::pods::{NodePod, PodStore};
use crate::pull::Puller;
use crate::pull::secrets::Secrets;
use crate::pull::view::NodeImageView;
use crate::pull::worker::{Env, PullMetrics, Turns};
use crate::{Clock, crr, meta};

/// Everything an agent is told.
pub struct Setup {
    /// The command line.
    pub flags: Flags,
    /// The feature gates.
    pub gates: FeatureGates,
    /// The node's container runtimes.
    pub runtimes: Runtimes,
    /// The room that is left for images.
    pub disk: Disk,
    /// The time.
    pub clock: Clock,
    /// Metrics of the process.
    pub metrics: Metrics,
}

type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// Runs until `stop` resolves, or until something that must not end has ended.
///
/// # Errors
/// What made it impossible to start or to go on.
pub async fn run(setup: Setup, client: kube::Client, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let Setup { flags, gates, runtimes, disk, clock, metrics } = setup;
    let node = flags.node_name.clone();
    if node.is_empty() {
        bail!("NODE_NAME is not set");
    }
    let (stop_all, stopped) = watch::channel(false);
    let mut tasks = Tasks::new();
    let (events, writer) = EventRecorder::new("kruise-daemon", 256, Arc::clone(&clock));
    let events = events.on_host(&node);
    let (api_events, events_stop) = (ApiEvents(client.clone()), stopped.clone());
    tasks.spawn(async move {
        writer.run(api_events, events_stop).await;
        ("event writer", Ok(()))
    });
    let mut parts = Parts {
        flags,
        gates,
        runtimes,
        disk,
        client,
        events,
        clock,
        metrics,
        stopped,
        tasks,
        synced: Vec::new(),
    };
    if gates.enabled(Gate::KruiseDaemon) {
        parts.pull_images()?;
        let pods = parts.watch_pods();
        parts.restart_containers(&pods)?;
        if gates.enabled(Gate::DaemonWatchingPod) && gates.enabled(Gate::InPlaceUpdateEnvFromMetadata) {
            parts.report_containers(&pods)?;
        }
    }
    parts.serve_health().await?;
    let mut tasks = parts.tasks;
    tracing::info!(node, "running");
    let ended = tokio::select! {
        biased;
        () = stop => Ok(()),
        Some(ended) = tasks.join_next() => Err(early(ended)),
    };
    tracing::info!("shutting down");
    stop_all.send_replace(true);
    while let Some(task) = tasks.join_next().await {
        let (name, result) = task.context("a task panicked")?;
        result.with_context(|| name)?;
    }
    ended
}

/// Handles and settings, made once, and what was started with them.
struct Parts {
    flags: Flags,
    gates: FeatureGates,
    runtimes: Runtimes,
    disk: Disk,
    client: kube::Client,
    events: EventRecorder,
    clock: Clock,
    metrics: Metrics,
    stopped: watch::Receiver<bool>,
    tasks: Tasks,
    synced: Vec<Synced>,
}

/// Names of the agent's parts: sources of its events, and behind its own name in what it calls itself at the API server.
const IMAGE_PULLER: &str = "kruise-daemon-imagepuller";
const CONTAINER_RECREATION: &str = "kruise-daemon-crr";
const CONTAINER_META: &str = "kruise-daemon-containermeta";

/// Name of a check, and whether it is passed.
type Synced = (&'static str, Box<dyn Fn() -> bool + Send + Sync>);

/// Retries of a failing key.
const RETRIES: RateLimit =
    RateLimit { base: Duration::from_millis(500), max: Duration::from_secs(50), qps: 0.0, burst: 1 };
/// Retries of a failing restart.
const RESTARTS: RateLimit =
    RateLimit { base: Duration::from_secs(3), max: Duration::from_mins(10), ..RETRIES };

impl Parts {
    /// Follows the node's NodeImage.
    fn pull_images(&mut self) -> anyhow::Result<()> {
        let store: Store<NodeImageView> = Store::new();
        let (client, events) = self.part(IMAGE_PULLER);
        let (of_node, per_registry) =
            (self.flags.max_workers_for_pull_image, self.flags.max_pulls_per_registry);
        let env = Env {
            cri: self.runtimes.images().context("there is no container runtime")?.clone(),
            secrets: Arc::new(Secrets::new(client.clone())),
            node: Arc::new(NodeCredentials::new(Places::of_process(), self.plugins())),
            turns: Turns::new(of_node, per_registry),
            disk: Arc::clone(&self.disk),
            floor: self.flags.min_free_disk,
            clock: Arc::clone(&self.clock),
            anonymous_fallback: self.flags.anonymous_pull_fallback,
            metrics: PullMetrics::register(self.metrics.registry())?,
        };
        let node = &self.flags.node_name;
        let puller = Puller::new(client.clone(), node, store.clone(), Arc::new(env), events);
        let own = Selection { fields: Some(format!("metadata.name={node}")), ..Selection::default() };
        let watched = run_watch(Api::all(client), NodeImageView::of, store.clone(), own);
        self.until_stop("watch of the node image", watched);
        let stop = self.stopped.clone();
        self.tasks.spawn(async move {
            puller.run(stop).await;
            ("image puller", Ok(()))
        });
        self.synced.push(("nodeImageInformerSynced", Box::new(move || store.is_ready())));
        Ok(())
    }

    /// The node's credential plugins. Pulls go on without them if they cannot be used.
    fn plugins(&self) -> Plugins {
        match Plugins::load(&self.flags.plugin_config_file, &self.flags.plugin_bin_dir) {
            Ok(plugins) => {
                plugins.names().for_each(|plugin| tracing::info!(plugin, "asks a credential plugin"));
                plugins
            }
            Err(error) => {
                tracing::error!(%error, "no credential plugin is used");
                Plugins::default()
            }
        }
    }

    /// The node's pods, if they may be watched; otherwise none are ever known.
    fn watch_pods(&mut self) -> PodStore {
        let pods = PodStore::new();
        if self.gates.enabled(Gate::DaemonWatchingPod) {
            let own = format!("spec.nodeName={}", self.flags.node_name);
            let own = Selection { fields: Some(own), ..Selection::default() };
            let watched = run_watch(Api::<PodWire>::all(self.client.clone()), NodePod::of, pods.clone(), own);
            self.until_stop("watch of the pods", watched);
        }
        pods
    }

    /// Serves ContainerRecreateRequests.
    fn restart_containers(&mut self, pods: &PodStore) -> anyhow::Result<()> {
        let requests: Store<crr::Request> = Store::new();
        let own = format!("{}={},{}=true", keys::CRR_NODE_NAME, self.flags.node_name, keys::CRR_ACTIVE);
        let own = Selection { labels: Some(own), ..Selection::default() };
        let watched =
            run_watch(Api::all(self.part(CONTAINER_RECREATION).0), crr::Request::of, requests.clone(), own);
        self.until_stop("watch of the container recreate requests", watched);
        let controller = Arc::new(crr::Controller {
            requests: requests.clone(),
            pods: pods.clone(),
            killer: self.killer(CONTAINER_RECREATION),
            clock: Arc::clone(&self.clock),
        });
        let (queue, counters) = self.queue("crr", RETRIES)?;
        controller.wire(&queue);
        let reconcile = move |key| {
            let controller = Arc::clone(&controller);
            async move { controller.reconcile(&key).await }
        };
        self.control("crr", queue, 32, reconcile, counters);
        self.synced.push(("crrInformerSynced", Box::new(move || requests.is_ready())));
        Ok(())
    }

    /// Reports what containers were started with.
    fn report_containers(&mut self, pods: &PodStore) -> anyhow::Result<()> {
        let (name, restarter) = ("runtime_container_meta", "runtime_container_meta_restarter");
        let (queue, counters) = self.queue(name, RETRIES)?;
        let (restarts, restart_counters) = self.queue(restarter, RESTARTS)?;
        let killer = self.killer(CONTAINER_META);
        let reporter = Arc::new(meta::Reporter { pods: pods.clone(), killer, restarts: restarts.clone() });
        reporter.wire(&queue);
        let other = Arc::clone(&reporter);
        let reconcile = move |key| {
            let reporter = Arc::clone(&reporter);
            async move { reporter.reconcile(&key).await }
        };
        let restart = move |key| {
            let reporter = Arc::clone(&other);
            async move { reporter.restart(&key).await }
        };
        self.control(name, queue, 5, reconcile, counters);
        self.control(restarter, restarts, 10, restart, restart_counters);
        Ok(())
    }

    fn killer(&self, part: &'static str) -> Killer {
        let (client, events) = self.part(part);
        Killer { client, runtimes: self.runtimes.clone(), events }
    }

    /// The API server and the events, for a part of the agent that goes by its own name.
    fn part(&self, name: &'static str) -> (kube::Client, EventRecorder) {
        (for_controller(&self.client, name), self.events.for_component(name))
    }

    fn queue(&self, name: &str, limit: RateLimit) -> anyhow::Result<(WorkQueue, ControllerMetrics)> {
        let registry = self.metrics.registry();
        let queue = WorkQueue::new(limit, QueueMetrics::register(registry, name)?);
        Ok((queue, ControllerMetrics::register(registry, name)?))
    }

    fn control<R>(
        &mut self,
        name: &'static str,
        queue: WorkQueue,
        workers: usize,
        reconcile: impl Fn(ObjectKey) -> R + Send + Sync + 'static,
        counters: ControllerMetrics,
    ) where
        R: Future<Output = anyhow::Result<Requeue>> + Send + 'static,
    {
        let reconcile = move |key| reconcile(key).map_err(Failed::from);
        let running = run_controller(name, queue, workers, reconcile, counters, self.stopped.clone());
        // A round may hold a container's grace period; nobody waits for it when the process ends.
        self.until_stop(name, running);
    }

    /// Runs something until the process stops.
    fn until_stop(&mut self, name: &'static str, runs: impl Future<Output = ()> + Send + 'static) {
        let mut stop = self.stopped.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = runs => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
            (name, Ok(()))
        });
    }

    async fn serve_health(&mut self) -> anyhow::Result<()> {
        let address = &self.flags.addr;
        let listen = serve::Listen::parse(address).map_err(|error| anyhow!(error))?;
        let Some(listener) = listen.bind().await.with_context(|| format!("cannot listen on {address}"))?
        else {
            return Ok(());
        };
        let health = health(std::mem::take(&mut self.synced), self.runtimes.clone());
        let router = health.merge(serve::metrics_router(self.metrics.clone()));
        let stop = self.stopped.clone();
        self.tasks
            .spawn(async move { ("server", serve::serve(listener, router, stop).await.map_err(Into::into)) });
        Ok(())
    }
}

/// `/healthz`: whether the watches work. `/readyz`: whether the container runtime does, too.
fn health(synced: Vec<Synced>, runtimes: Runtimes) -> Router {
    let synced = Arc::new(synced);
    let live = Arc::clone(&synced);
    let healthz = move || {
        let answer = passed(&live);
        async move { answer }
    };
    let readyz = move || -> BoxFuture<'static, Response> {
        let (synced, runtimes) = (Arc::clone(&synced), runtimes.clone());
        Box::pin(async move {
            for runtime in runtimes.all() {
                if let Err(error) = runtime.cri.version().await {
                    return failed(&runtime.name, &error.to_string());
                }
            }
            passed(&synced)
        })
    };
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz))
}

fn passed(synced: &[Synced]) -> Response {
    match synced.iter().find(|(_, passed)| !passed()) {
        None => "ok".into_response(),
        Some((name, _)) => failed(name, "not synced"),
    }
}

fn failed(name: &str, error: &str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("check {name} failed, err: {error}")).into_response()
}

fn early(ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow!("{name} ended early"),
        Ok((name, Err(error))) => error.context(name),
        Err(error) => error.into(),
    }
}
