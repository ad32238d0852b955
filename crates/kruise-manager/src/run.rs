//! Puts the parts together, and takes them down in the right order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use kruise_common::gates::{FeatureGates, Gate};
use kruise_runtime::events::{ApiEvents, EventRecorder};
use kruise_runtime::metrics::Metrics;
use kruise_runtime::serve;
use kruise_runtime::watches::Watches;
use kruise_webhook::certs::CertStore;
use kruise_webhook::options::WebhookOptions;
use kruise_webhook::route::Router;
use kruise_webhook::server::{Limits, Server};
use kruise_webhook::sync::Syncer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::election::elect;
use crate::flags::Flags;
use crate::parts::Parts;
use crate::selection::Selection;
use crate::table;

/// What this process does at once; each task ends with its name, so that an early end can be told.
pub(crate) type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// How long admission is still answered after the signal, while endpoints learn that this replica goes.
const LINGER: Duration = Duration::from_secs(5);

/// How the API server reaches the webhooks.
pub enum Webhooks {
    /// Over HTTPS, with certificates and configurations kept right.
    Serve(WebhookOptions),
    /// By whoever takes the router; nothing is listened on and nothing is configured.
    HandOver(Box<dyn FnOnce(Router) + Send>),
}

/// Everything a manager is told.
pub struct Setup {
    /// The command line.
    pub flags: Flags,
    /// The feature gates.
    pub gates: FeatureGates,
    /// The controllers that run.
    pub controllers: Selection,
    /// The way to the webhooks.
    pub webhooks: Webhooks,
    /// The time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Metrics of the process.
    pub metrics: Metrics,
}

/// Runs until `stop` resolves, or until something that must not end has ended. Dropping the future stops everything
/// at once, as a crash would.
///
/// # Errors
/// What made it impossible to start or to go on.
pub async fn run(setup: Setup, client: kube::Client, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let Setup { flags, gates, controllers, webhooks, clock, metrics } = setup;
    let (shutting_down, going) = watch::channel(false);
    let (stop_servers, servers_stop) = watch::channel(false);
    let mut tasks = Tasks::new();

    let watches = Watches::new(client.clone(), &flags.namespace);
    metrics.registry().register(Box::new(watches.collector()?))?;
    let (events, writer) = EventRecorder::new("kruise-manager", 1024, Arc::clone(&clock));
    let (api_events, stop_events) = (ApiEvents(client.clone()), servers_stop.clone());
    tasks.spawn(async move {
        writer.run(api_events, stop_events).await;
        ("event writer", Ok(()))
    });
    let parts = Parts { client, watches, events, gates, flags, clock, metrics };

    // Admission and conversion, in every replica.
    let admission = table::admission(&parts)?;
    let served = matches!(webhooks, Webhooks::Serve(_));
    let ready = match webhooks {
        Webhooks::Serve(options) => {
            serve_webhooks(&mut tasks, admission, options, &parts, &servers_stop).await?
        }
        Webhooks::HandOver(take) => {
            take(admission);
            watch::channel(true).1
        }
    };
    serve_health(&mut tasks, &parts, ready.clone(), going, &servers_stop).await?;
    let patience = parts.flags.webhook_initialize_timeout;
    tokio::pin!(stop);
    tokio::select! {
        waited = wait_for_webhooks(ready, patience, &mut tasks) => waited?,
        () = &mut stop => return Ok(()),
    }

    // Leadership, and what only the leader does.
    let (stop_election, election_stop) = watch::channel(false);
    let (stop_controllers, controllers_stop) = watch::channel(false);
<<<<<<< Updated upstream
    let leading = elect(&mut tasks, &parts, election_stop)?;
    let mut running = JoinSet::new();
    for controller in table::controllers(&parts, &controllers, &leading, &controllers_stop)? {
        running.spawn(controller);
=======
    let leading = elect(&mut tasks, &client, &flags, &events, &metrics, election_stop)?;
    let mut controllers = JoinSet::new();
    if cloneset {
        let core = client.list_core_api_resources("v1").await.context("cannot list the core resources")?;
        let resize = kruise_common::inplace::serves_resize(&core);
        let context = context(&client, &flags, gates, &stores, events, resize);
        controllers.spawn(lead(leading, &flags, context, &metrics, controllers_stop)?);
>>>>>>> Stashed changes
    }

    let ended = tokio::select! {
        () = stop => Ok(()),
        Some(ended) = tasks.join_next() => Err(early(ended)),
        error = parts.watches.ended() => Err(error),
        Some(ended) = running.join_next() => match ended {
            Ok(()) => Err(anyhow!("a controller ended early")),
            Err(error) => Err(error.into()),
        },
    };
    tracing::info!("shutting down");
    let asked = tokio::time::Instant::now();
    shutting_down.send_replace(true);
    stop_controllers.send_replace(true);
    while let Some(round) = running.join_next().await {
        round.context("a controller panicked")?;
    }
    stop_election.send_replace(true);
    if ended.is_ok() && served {
        tokio::time::sleep_until(asked + LINGER).await;
    }
    stop_servers.send_replace(true);
    while let Some(task) = tasks.join_next().await {
        let (name, result) = task.context("a task panicked")?;
        result.with_context(|| name)?;
    }
    ended
}

/// The HTTPS server and the loop that makes it known; the receiver is true while all is right.
async fn serve_webhooks(
    tasks: &mut Tasks,
    admission: Router,
    mut options: WebhookOptions,
    parts: &Parts,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<watch::Receiver<bool>> {
    options.external_certs = parts.gates.enabled(Gate::EnableExternalCerts);
    let certificate = Arc::new(CertStore::new());
    let paths: Vec<String> = admission.routes.iter().map(|route| route.path.clone()).collect();
    let port = options.port;
    let (sync, ready) = Syncer::new(
        parts.client.clone(),
        options,
        &paths,
        Arc::clone(&certificate),
        Arc::clone(&parts.clock),
    );
    let sync = sync.with_metrics(parts.metrics.registry())?;
    let server = Server::new(admission, certificate, parts.metrics.registry(), Limits::default())?;
    let listener = TcpListener::bind(("::", port))
        .await
        .with_context(|| format!("cannot listen on webhook port {port}"))?;
    let (server_stop, sync_stop) = (stop.clone(), stop.clone());
    tasks.spawn(
        async move { ("webhook server", server.serve(listener, server_stop).await.map_err(Into::into)) },
    );
    tasks.spawn(async move {
        sync.run(sync_stop).await;
        ("webhook configuration", Ok(()))
    });
    Ok(ready)
}

async fn serve_health(
    tasks: &mut Tasks,
    parts: &Parts,
    webhooks_ready: watch::Receiver<bool>,
    shutting_down: watch::Receiver<bool>,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let readyz = serve::Checks::new().with("webhook-ready", move || {
        let ready = *webhooks_ready.borrow();
        async move { if ready { Ok(()) } else { Err("webhooks are not set up".to_owned()) } }
    });
    let health = serve::Health { healthz: serve::Checks::new(), readyz, shutting_down };
    let flags = &parts.flags;
    listen(tasks, "health server", &flags.health_probe_addr, serve::health_router(health), stop).await?;
    let router = serve::metrics_router(parts.metrics.clone());
    listen(tasks, "metrics server", &flags.metrics_addr, router, stop).await
}

async fn listen(
    tasks: &mut Tasks,
    name: &'static str,
    address: &str,
    router: axum::Router,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let listen = serve::Listen::parse(address).map_err(|error| anyhow!(error))?;
    if let Some(listener) =
        listen.bind().await.with_context(|| format!("{name} cannot listen on {address}"))?
    {
        let stop = stop.clone();
        tasks.spawn(async move { (name, serve::serve(listener, router, stop).await.map_err(Into::into)) });
    }
    Ok(())
}

async fn wait_for_webhooks(
    mut ready: watch::Receiver<bool>,
    patience: Duration,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    tokio::select! {
        waited = tokio::time::timeout(patience, ready.wait_for(|ready| *ready)) => {
            waited.map_err(|_| anyhow!("webhooks were not set up within {} seconds", patience.as_secs_f64()))??;
            Ok(())
        }
        Some(ended) = tasks.join_next() => Err(early(ended)),
    }
}

<<<<<<< Updated upstream
=======
fn elect(
    tasks: &mut Tasks,
    client: &kube::Client,
    flags: &Flags,
    events: &EventRecorder,
    metrics: &Metrics,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<watch::Receiver<bool>> {
    if !flags.enable_leader_election {
        metrics.set_leader(&flags.leader_election_id, true);
        let (leading, receiver) = watch::channel(true);
        tasks.spawn(async move {
            let mut stop = stop;
            let _sender = leading;
            // The sender lives in `run` until the end: an error means that the end has come as well.
            let _ = stop.wait_for(|stop| *stop).await;
            ("leadership without election", Ok(()))
        });
        return Ok(receiver);
    }
    let hostname = std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/etc/hostname").ok())
        .map_or_else(|| "kruise-manager".to_owned(), |name| name.trim().to_owned());
    let config = LeaseConfig {
        namespace: flags.leader_election_namespace.clone(),
        name: flags.leader_election_id.clone(),
        identity: lease::identity(&hostname),
        lease_duration: flags.leader_election_lease_duration,
        renew_deadline: flags.leader_election_renew_deadline,
        retry_period: flags.leader_election_retry_period,
    };
    config.validate().map_err(|error| anyhow!(error))?;
    let store = ApiLease::new(client.clone(), &config);
    let (elector, leading) = Elector::new(config, store, Arc::new(now));
    let elector = elector.with_events(events);
    tasks.spawn(async move {
        let result = match elector.run(stop).await {
            Ended::Lost => Err(anyhow!("leader election lost")),
            Ended::Shutdown => Ok(()),
        };
        ("leader election", result)
    });
    let (metrics, name, mut changes) = (metrics.clone(), flags.leader_election_id.clone(), leading.clone());
    metrics.set_leader(&name, false);
    tasks.spawn(async move {
        while changes.changed().await.is_ok() {
            metrics.set_leader(&name, *changes.borrow());
        }
        ("leadership metric", Ok(()))
    });
    Ok(leading)
}

fn context(
    client: &kube::Client,
    flags: &Flags,
    gates: FeatureGates,
    stores: &Stores,
    events: EventRecorder,
    resize: bool,
) -> Arc<Context> {
    let options = Options {
        short_hash: gates.enabled(Gate::CloneSetShortHash),
        partition_rollback: gates.enabled(Gate::CloneSetPartitionRollback),
        preparing_update_as_update: gates.enabled(Gate::PreparingUpdateAsUpdate),
        exclude_preparing_delete: flags.cloneset_scaling_exclude_preparing_delete,
        in_place: InPlaceOptions {
            env_from_metadata: gates.enabled(Gate::InPlaceUpdateEnvFromMetadata),
            vertical_scaling: gates.enabled(Gate::InPlaceWorkloadVerticalScaling),
            compare_vct: gates.enabled(Gate::RecreatePodWhenChangeVCTInCloneSetGate),
            ignore_vct: false,
            resize_in_pod: !resize,
        },
    };
    let executor = Executor::new(client.clone(), stores.clone(), events, options.clone());
    let pre_download =
        gates.enabled(Gate::KruiseDaemon) && gates.enabled(Gate::PreDownloadImageForInPlaceUpdate);
    Arc::new(Context::new(stores.clone(), executor, options, Arc::new(now)).pre_download(pre_download))
}

/// The CloneSet controller, from the moment this replica leads.
fn lead(
    mut leading: watch::Receiver<bool>,
    flags: &Flags,
    context: Arc<Context>,
    metrics: &Metrics,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let workers = flags.cloneset_workers;
    let limit = RateLimit {
        base: flags.rate_limiter_base_delay,
        max: flags.rate_limiter_max_delay,
        qps: flags.rate_limiter_qps,
        burst: flags.rate_limiter_bucket_size,
    };
    let queue = WorkQueue::new(limit, QueueMetrics::register(metrics.registry(), controller::NAME)?);
    let counters = ControllerMetrics::register(metrics.registry(), controller::NAME)?;
    Ok(async move {
        tokio::select! {
            led = leading.wait_for(|leads| *leads) => if led.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
        tokio::select! {
            () = context.stores.ready() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        controller::wire(&context.stores, &queue, &context);
        for set in context.stores.sets.all() {
            queue.add(set.key.clone());
        }
        tracing::info!(controller = controller::NAME, workers, "starting");
        let reconcile = move |key| controller::reconcile(key, Arc::clone(&context));
        run_controller(controller::NAME, queue, workers, reconcile, counters, stop).await;
    })
}

async fn until_stopped(
    tasks: &mut Tasks,
    watches: &mut Tasks,
    controllers: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = tasks.join_next() => Err(early(ended)),
        Some(ended) = watches.join_next() => Err(early(ended)),
        Some(ended) = controllers.join_next() => match ended {
            Ok(()) => Err(anyhow!("a controller ended early")),
            Err(error) => Err(error.into()),
        },
    }
}

>>>>>>> Stashed changes
fn early(ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow!("{name} ended early"),
        Ok((name, Err(error))) => error.context(name),
        Err(error) => error.into(),
    }
}
