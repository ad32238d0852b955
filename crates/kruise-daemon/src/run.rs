//! Puts the parts together, and takes them down again.

use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::future::BoxFuture;
use kruise_common::gates::{FeatureGates, Gate};
use kruise_runtime::events::{ApiEvents, EventRecorder};
use kruise_runtime::metrics::Metrics;
use kruise_runtime::serve;
use kruise_runtime::store::{Store, run_watch};
use kube::Api;
use kube::runtime::watcher;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::Clock;
use crate::cri::discover::Runtimes;
use crate::flags::Flags;
use crate::pull::Puller;
use crate::pull::secrets::Secrets;
use crate::pull::view::NodeImageView;
use crate::pull::worker::{Env, PullMetrics};

/// Everything an agent is told.
pub struct Setup {
    /// The command line.
    pub flags: Flags,
    /// The feature gates.
    pub gates: FeatureGates,
    /// The node's container runtimes.
    pub runtimes: Runtimes,
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
    let Setup { flags, gates, runtimes, clock, metrics } = setup;
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
    let mut synced: Vec<Synced> = Vec::new();
    if gates.enabled(Gate::KruiseDaemon) {
        let store = pull_images(&mut tasks, &flags, &runtimes, &client, &events, &clock, &metrics, &stopped)?;
        synced.push(("nodeImageInformerSynced", Box::new(move || store.is_ready())));
    }
    serve_health(&mut tasks, &flags.addr, synced, &runtimes, &metrics, &stopped).await?;
    tracing::info!(node, "running");
    let ended = tokio::select! {
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

#[expect(clippy::too_many_arguments, reason = "handles made once, each of another kind")]
fn pull_images(
    tasks: &mut Tasks,
    flags: &Flags,
    runtimes: &Runtimes,
    client: &kube::Client,
    events: &EventRecorder,
    clock: &Clock,
    metrics: &Metrics,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<Store<NodeImageView>> {
    let store: Store<NodeImageView> = Store::new();
    let slots = usize::try_from(flags.max_workers_for_pull_image).ok().filter(|slots| *slots > 0);
    let env = Env {
        cri: runtimes.images().context("there is no container runtime")?.clone(),
        secrets: Arc::new(Secrets::new(client.clone())),
        slots: slots.map(|slots| Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS)))),
        clock: Arc::clone(clock),
        anonymous_fallback: flags.anonymous_pull_fallback,
        metrics: PullMetrics::register(metrics.registry())?,
    };
    let events = events.for_component("kruise-daemon-imagepuller");
    let puller = Puller::new(client.clone(), &flags.node_name, store.clone(), Arc::new(env), events);
    let own = watcher::Config::default().fields(&format!("metadata.name={}", flags.node_name));
    let watched = run_watch(Api::all(client.clone()), NodeImageView::of, store.clone(), own);
    watch_until(tasks, "watch of the node image", watched, stop);
    let stop = stop.clone();
    tasks.spawn(async move {
        puller.run(stop).await;
        ("image puller", Ok(()))
    });
    Ok(store)
}

/// Runs a watch until the process stops.
fn watch_until(
    tasks: &mut Tasks,
    name: &'static str,
    watched: impl Future<Output = ()> + Send + 'static,
    stop: &watch::Receiver<bool>,
) {
    let mut stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = watched => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        (name, Ok(()))
    });
}

/// Name of a check, and whether it is passed.
type Synced = (&'static str, Box<dyn Fn() -> bool + Send + Sync>);

async fn serve_health(
    tasks: &mut Tasks,
    address: &str,
    synced: Vec<Synced>,
    runtimes: &Runtimes,
    metrics: &Metrics,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let listen = serve::Listen::parse(address).map_err(|error| anyhow!(error))?;
    let Some(listener) = listen.bind().await.with_context(|| format!("cannot listen on {address}"))? else {
        return Ok(());
    };
    let router = health(synced, runtimes.clone()).merge(serve::metrics_router(metrics.clone()));
    let stop = stop.clone();
    tasks.spawn(async move { ("server", serve::serve(listener, router, stop).await.map_err(Into::into)) });
    Ok(())
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
