//! Puts the parts together, and takes them down in the right order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Parser as _;
use jiff::Timestamp;
use kruise_common::gates::{FeatureGates, Gate};
use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use kruise_runtime::events::{ApiEvents, EventRecorder};
use kruise_runtime::metrics::Metrics;
use kruise_runtime::rollouts::Rollouts;
use kruise_runtime::store::Store;
use kruise_runtime::watches::Watches;
use kruise_runtime::{in_place_metric, profile, serve};
use kruise_webhook::certs::CertStore;
use kruise_webhook::options::WebhookOptions;
use kruise_webhook::probe::OwnServer;
use kruise_webhook::route::Router;
use kruise_webhook::server::{Limits, Server};
use kruise_webhook::sync::Syncer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::degraded::{self, Degraded};
use crate::election::elect;
use crate::flags::Flags;
use crate::parts::Parts;
use crate::selection::Selection;
use crate::table;

/// What this process does at once; each task ends with its name, so that an early end can be told.
pub(crate) type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// How long admission is still answered after the signal, while endpoints learn that this replica goes.
const LINGER: Duration = Duration::from_secs(5);

/// How long rounds under way may take to end: the process is killed thirty seconds after the signal by default, and the
/// Lease is to be released before.
const ROUNDS: Duration = Duration::from_secs(15);
/// How long everything else may take. The webhook server has a limit of its own, below this.
const REST: Duration = Duration::from_secs(70);
/// The same where another may lead already.
const REST_IN_A_HURRY: Duration = Duration::from_secs(10);
/// Within this the own webhook server answers: soon enough for whoever asks whether this replica is ready.
const OWN_ANSWER: Duration = Duration::from_secs(4);

/// How the API server reaches the webhooks.
pub enum Webhooks {
    /// Over HTTPS, with certificates and configurations kept right.
    Serve(WebhookOptions),
    /// The same on a listener that is bound already, whose port the options name; without lingering at the end.
    ServeOn(WebhookOptions, TcpListener),
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
    /// Makes random choices repeatable, for simulations; otherwise `None`.
    pub seed: Option<u64>,
}

impl Setup {
    /// A manager inside a process of somebody else's: `flags` are its command line, and by default it leads without a Lease
    /// and listens nowhere.
    ///
    /// # Errors
    /// The flags contradict each other or cannot be read.
    pub fn embedded(
        flags: &[String],
        webhooks: Webhooks,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
        seed: Option<u64>,
    ) -> anyhow::Result<Self> {
        let defaults = [
            "kruise-manager",
            "--enable-leader-election=false",
            "--metrics-addr=0",
            "--health-probe-addr=0",
            "--enable-pprof=false",
            "--protection-log-path=",
        ];
        let line = defaults.into_iter().map(str::to_owned).chain(flags.iter().cloned());
        let flags = Flags::try_parse_from(line)?;
        let gates = FeatureGates::parse_with(&flags.feature_gates, "")?.gates;
        let controllers = Selection::parse(&flags.controllers)?;
        controllers.check(gates)?;
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), "embedded", gates)?;
        Ok(Self { flags, gates, controllers, webhooks, clock, metrics, seed })
    }
}

/// Runs until `stop` resolves, or until something that must not end has ended. Dropping the future stops everything
/// at once, as a crash would.
///
/// # Errors
/// What made it impossible to start or to go on.
pub async fn run(setup: Setup, client: kube::Client, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let Setup { flags, gates, controllers, webhooks, clock, metrics, seed } = setup;
    let (shutting_down, going) = watch::channel(false);
    let (stop_servers, servers_stop) = watch::channel(false);
    let mut tasks = Tasks::new();

    metrics.show_leadership()?;
    let watches = Watches::new(client.clone(), &flags.namespace);
    metrics.registry().register(Box::new(watches.collector()?))?;
    let (events, writer) = EventRecorder::new("kruise-manager", 1024, Arc::clone(&clock));
    metrics.registry().register(Box::new(events.collector()?))?;
    let (api_events, stop_events) = (ApiEvents(client.clone()), servers_stop.clone());
    tasks.spawn(async move {
        writer.run(api_events, stop_events).await;
        ("event writer", Ok(()))
    });
    let serves_resize = serves_resize(&client).await;
    let rollouts = Rollouts::default();
    metrics.registry().register(Box::new(rollouts.collector(flags.workload_metrics)?))?;
    let parts = Parts {
        client,
        watches,
        events,
        gates,
        controllers,
        flags,
        serves_resize,
        clock,
        metrics,
        seed,
        rollouts,
    };

    // Admission and conversion, in every replica.
    let admission = table::admission(&parts)?;
    let served = matches!(webhooks, Webhooks::Serve(_));
    let ready = match webhooks {
        Webhooks::Serve(options) => {
            let port = options.port;
            let listener = serve::Listen::Everywhere(port).bind().await;
            let listener = listener.with_context(|| format!("cannot listen on webhook port {port}"))?;
            let listener = listener.context("the webhook port is disabled")?;
            serve_webhooks(&mut tasks, admission, (options, listener), &parts, (&servers_stop, &going))?
        }
        Webhooks::ServeOn(options, listener) => {
            serve_webhooks(&mut tasks, admission, (options, listener), &parts, (&servers_stop, &going))?
        }
        Webhooks::HandOver(take) => {
            take(admission);
            WebhooksReady { published: watch::channel(true).1, server: None }
        }
    };
    let degraded = Degraded::default();
    let (look, look_stop) = (degraded::Look::new(&parts, &degraded)?, servers_stop.clone());
    tasks.spawn(async move {
        look.run(look_stop).await;
        ("definitions", Ok(()))
    });
    serve_health(&mut tasks, &parts, ready.clone(), degraded, going, &servers_stop).await?;
    let patience = parts.flags.webhook_initialize_timeout;
    tokio::pin!(stop);
    tokio::select! {
        biased;
        waited = wait_for_webhooks(ready.published, patience, &mut tasks) => waited?,
        () = &mut stop => return Ok(()),
    }

    // Leadership, and what only the leader does.
    let (stop_election, election_stop) = watch::channel(false);
    let (stop_controllers, controllers_stop) = watch::channel(false);
    let leading = elect(&mut tasks, &parts, election_stop)?;
    measure_in_place(&parts)?;
    let mut running = JoinSet::new();
    for controller in table::controllers(&parts, &leading, &controllers_stop)? {
        running.spawn(controller);
    }

    let ended = tokio::select! {
        biased;
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
    if ended.is_err() {
        // Another may lead by now: what is under way here must not go on.
        running.abort_all();
    }
    let rounds = async {
        while let Some(round) = running.join_next().await {
            if let Err(error) = round
                && !error.is_cancelled()
            {
                return Err(error).context("a controller panicked");
            }
        }
        Ok(())
    };
    if let Ok(over) = tokio::time::timeout(ROUNDS, rounds).await {
        over?;
    } else {
        tracing::warn!("rounds under way are cut off");
    }
    drop(running);
    stop_election.send_replace(true);
    if ended.is_ok() && served {
        tokio::time::sleep_until(asked + LINGER).await;
    }
    stop_servers.send_replace(true);
    let rest = async {
        while let Some(task) = tasks.join_next().await {
            let (name, result) = task.context("a task panicked")?;
            result.with_context(|| name)?;
        }
        anyhow::Ok(())
    };
    let patience = if ended.is_ok() { REST } else { REST_IN_A_HURRY };
    if let Ok(over) = tokio::time::timeout(patience, rest).await {
        ended.and(over)
    } else {
        tracing::warn!("what is left is cut off");
        ended
    }
}

/// Of those controllers that are built, only CloneSet's updates pods in place; without it, pods are not watched for this.
fn measure_in_place(parts: &Parts) -> anyhow::Result<()> {
    let pods = if parts.controllers.is_on("cloneset") {
        parts.watches.namespaced(|pod: PodWire| Some(PodView::from(pod)))
    } else {
        Store::new()
    };
    let metrics = &parts.metrics;
    in_place_metric::measure(metrics.registry(), &pods, metrics.leads(), Arc::clone(&parts.clock))?;
    Ok(())
}

/// Tells whether requests of API servers are answered.
#[derive(Clone)]
struct WebhooksReady {
    /// True while everything that leads them here is in order.
    published: watch::Receiver<bool>,
    /// Who answers, where that is this process.
    server: Option<OwnServer>,
}

impl WebhooksReady {
    async fn check(self) -> Result<(), String> {
        if !*self.published.borrow() {
            return Err("webhooks are not set up".to_owned());
        }
        let Some(server) = self.server else { return Ok(()) };
        server.probe(OWN_ANSWER).await.map_err(|error| format!("the webhook server: {error}"))
    }
}

/// The HTTPS server and the loop that makes it known.
fn serve_webhooks(
    tasks: &mut Tasks,
    admission: Router,
    (mut options, listener): (WebhookOptions, TcpListener),
    parts: &Parts,
    (stop, going): (&watch::Receiver<bool>, &watch::Receiver<bool>),
) -> anyhow::Result<WebhooksReady> {
    options.external_certs = parts.gates.enabled(Gate::EnableExternalCerts);
    let certificate = Arc::new(CertStore::new());
    let paths = table::published(&admission, &parts.controllers);
    let own =
        OwnServer { port: options.port, host: options.serving_host(), certificate: Arc::clone(&certificate) };
    let (sync, published) = Syncer::new(
        parts.client.clone(),
        options,
        &paths,
        Arc::clone(&certificate),
        Arc::clone(&parts.clock),
    );
    let sync = sync.with_metrics(parts.metrics.registry())?;
    let server = Server::new(admission, certificate, parts.metrics.registry(), Limits::default())?
        .until_going(going.clone());
    // Whoever goes repairs nothing any more: what is missing may be going as well, and for good.
    let (server_stop, sync_stop) = (stop.clone(), going.clone());
    tasks.spawn(
        async move { ("webhook server", server.serve(listener, server_stop).await.map_err(Into::into)) },
    );
    tasks.spawn(async move {
        sync.run(sync_stop).await;
        ("webhook configuration", Ok(()))
    });
    Ok(WebhooksReady { published, server: Some(own) })
}

async fn serve_health(
    tasks: &mut Tasks,
    parts: &Parts,
    webhooks: WebhooksReady,
    degraded: Degraded,
    shutting_down: watch::Receiver<bool>,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let readyz = serve::Checks::new().with("webhook-ready", move || webhooks.clone().check());
    let readyz = readyz.noting(move || degraded::notes(&degraded));
    let health = serve::Health { healthz: serve::Checks::new(), readyz, shutting_down };
    let flags = &parts.flags;
    listen(tasks, "health server", &flags.health_probe_addr, serve::health_router(health), stop).await?;
    if flags.enable_pprof
        && let Err(error) = listen(tasks, "profile server", &flags.pprof_addr, profile::router(), stop).await
    {
        // A comfort is no reason not to start.
        tracing::warn!(error = %format_args!("{error:#}"), "profiles are not served");
    }
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
        biased;
        waited = tokio::time::timeout(patience, ready.wait_for(|ready| *ready)) => {
            waited.map_err(|_| anyhow!("webhooks were not set up within {} seconds", patience.as_secs_f64()))??;
            Ok(())
        }
        Some(ended) = tasks.join_next() => Err(early(ended)),
    }
}

fn early(ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow!("{name} ended early"),
        Ok((name, Err(error))) => error.context(name),
        Err(error) => error.into(),
    }
}

/// Asked once: a server that does not answer is taken for a current one.
async fn serves_resize(client: &kube::Client) -> bool {
    match client.list_core_api_resources("v1").await {
        Ok(core) => kruise_common::inplace::serves_resize(&core),
        Err(error) => {
            tracing::warn!(error = %error, "cannot list the core resources; pods/resize is taken for served");
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kruise_webhook::certs;

    #[tokio::test]
    async fn a_replica_whose_webhook_server_does_not_answer_is_not_ready() {
        let (publish, published) = watch::channel(false);
        let mut ready = WebhooksReady { published, server: None };
        assert_eq!(ready.clone().check().await, Err("webhooks are not set up".to_owned()));
        publish.send_replace(true);
        assert_eq!(ready.clone().check().await, Ok(()));

        // A listener that nobody serves takes connections and answers none; its port is nobody else's meanwhile.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let certificate = Arc::new(CertStore::new());
        let data =
            certs::generate(None, "localhost", "2020-01-01T00:00:00Z".parse().unwrap(), false).unwrap();
        let server = OwnServer {
            port: listener.local_addr().unwrap().port(),
            host: "localhost".to_owned(),
            certificate: Arc::clone(&certificate),
        };
        ready.server = Some(server);
        let told = ready.clone().check().await.unwrap_err();
        assert!(told.contains("there is no authority"), "{told}");
        certificate.set(&data[certs::SERVER_CERT], &data[certs::SERVER_KEY], &data[certs::CA_CERT]).unwrap();
        assert_eq!(ready.clone().check().await, Err("the webhook server: no answer in time".to_owned()));
        drop(listener);
        let told = ready.check().await.unwrap_err();
        assert!(told.starts_with("the webhook server: connect: "), "{told}");
    }
}
