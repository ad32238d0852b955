//! Puts the parts together, and takes them down in the right order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use kruise_api::cloneset::v1beta1::CloneSet;
use kruise_cloneset::admission;
use kruise_cloneset::apply::Executor;
use kruise_cloneset::controller::{self, Context};
use kruise_cloneset::plan::Options;
use kruise_cloneset::stores::{NodeView, SetView, StoredClaim, Stores};
use kruise_common::gates::{FeatureGates, Gate};
use kruise_common::inplace::InPlaceOptions;
use kruise_common::key::ObjectKey;
use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use kruise_common::revision::Revision;
use kruise_runtime::client::ClientMetrics;
use kruise_runtime::controller::{ControllerMetrics, run_controller};
use kruise_runtime::events::EventRecorder;
use kruise_runtime::lease::{self, ApiLease, Elector, Ended, LeaseConfig};
use kruise_runtime::metrics::Metrics;
use kruise_runtime::queue::{QueueMetrics, RateLimit, WorkQueue};
use kruise_runtime::serve;
use kruise_runtime::store::run_watch;
use kruise_webhook::certs::CertStore;
use kruise_webhook::options::WebhookOptions;
use kruise_webhook::route::Router;
use kruise_webhook::server::{Limits, Server};
use kruise_webhook::sync::Syncer;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::flags::Flags;

/// What this process does at once; each task ends with its name, so that an early end can be told.
type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// How long admission is still answered after the signal, while endpoints learn that this replica goes.
const LINGER: Duration = Duration::from_secs(5);

/// The one place that reads the wall clock.
#[expect(clippy::disallowed_methods, reason = "this is the clock that is handed to everything else")]
fn now() -> Timestamp {
    Timestamp::now()
}

/// Runs until a signal asks to stop, or until something that must not end has ended.
///
/// # Errors
/// What made it impossible to start or to go on.
pub(crate) async fn run(flags: Flags, gates: FeatureGates, cloneset: bool) -> anyhow::Result<()> {
    let metrics =
        Metrics::new(env!("CARGO_PKG_VERSION"), option_env!("KRUISE_REVISION").unwrap_or("dev"), gates)?;
    let client = client(&flags, &metrics).await?;
    let (shutting_down, going) = watch::channel(false);
    let (stop_servers, servers_stop) = watch::channel(false);
    let mut webhook = webhook_options()?;
    webhook.external_certs = gates.enabled(Gate::EnableExternalCerts);
    let stores = Stores::default();
    let certificate = Arc::new(CertStore::new());
    let mut tasks = Tasks::new();

    // Admission and conversion, in every replica.
    let admission = admission_router(&client, &stores, gates, &metrics)?;
    let paths: Vec<String> = admission.routes.iter().map(|route| route.path.clone()).collect();
    let (sync, webhooks_ready) =
        Syncer::new(client.clone(), webhook.clone(), &paths, certificate.clone(), Arc::new(now));
    let server = Server::new(admission, certificate, metrics.registry(), Limits::default())?;
    let listener = TcpListener::bind(("::", webhook.port))
        .await
        .with_context(|| format!("cannot listen on webhook port {}", webhook.port))?;
    let stop = servers_stop.clone();
    tasks.spawn(async move { ("webhook server", server.serve(listener, stop).await.map_err(Into::into)) });
    let stop = servers_stop.clone();
    tasks.spawn(async move {
        sync.run(stop).await;
        ("webhook configuration", Ok(()))
    });

    // Health and metrics.
    let ready = webhooks_ready.clone();
    let readyz = serve::Checks::new().with("webhook-ready", move || {
        let ready = *ready.borrow();
        async move { if ready { Ok(()) } else { Err("webhooks are not set up".to_owned()) } }
    });
    let health = serve::Health { healthz: serve::Checks::new(), readyz, shutting_down: going };
    listen(
        &mut tasks,
        "health server",
        &flags.health_probe_addr,
        serve::health_router(health),
        &servers_stop,
    )
    .await?;
    let router = serve::metrics_router(metrics.clone());
    listen(&mut tasks, "metrics server", &flags.metrics_addr, router, &servers_stop).await?;

    // Stores: the webhooks look pods up, so every replica keeps them.
    // Dropped, and thereby stopped, at the very end.
    let mut watches = Tasks::new();
    watch_all(&mut watches, &client, &flags.namespace, &stores);

    let (events, writer) = EventRecorder::new(controller::NAME, 1024, Arc::new(now));
    let (api_events, stop) = (kruise_runtime::events::ApiEvents(client.clone()), servers_stop.clone());
    tasks.spawn(async move {
        writer.run(api_events, stop).await;
        ("event writer", Ok(()))
    });

    wait_for_webhooks(webhooks_ready, flags.webhook_initialize_timeout, &mut tasks).await?;

    // Leadership, and what only the leader does.
    let (stop_election, election_stop) = watch::channel(false);
    let (stop_controllers, controllers_stop) = watch::channel(false);
    let leading = elect(&mut tasks, &client, &flags, &events, &metrics, election_stop)?;
    let mut controllers = JoinSet::new();
    if cloneset {
        let context = context(&client, &flags, gates, &stores, events);
        controllers.spawn(lead(leading, &flags, context, &metrics, controllers_stop)?);
    }

    let ended = until_stopped(&mut tasks, &mut watches, &mut controllers).await;
    tracing::info!("shutting down");
    let asked = tokio::time::Instant::now();
    shutting_down.send_replace(true);
    stop_controllers.send_replace(true);
    while let Some(round) = controllers.join_next().await {
        round.context("a controller panicked")?;
    }
    stop_election.send_replace(true);
    if ended.is_ok() {
        tokio::time::sleep_until(asked + LINGER).await;
    }
    stop_servers.send_replace(true);
    while let Some(task) = tasks.join_next().await {
        let (name, result) = task.context("a task panicked")?;
        result.with_context(|| name)?;
    }
    ended
}

async fn client(flags: &Flags, metrics: &Metrics) -> anyhow::Result<kube::Client> {
    let config = if flags.kubeconfig.is_empty() {
        kube::Config::infer().await.context("no way to reach a cluster was found")?
    } else {
        let file = kube::config::Kubeconfig::read_from(&flags.kubeconfig)
            .with_context(|| format!("cannot read --kubeconfig {}", flags.kubeconfig))?;
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await?
    };
    let counters = ClientMetrics::register(metrics.registry())?;
    kruise_runtime::client::client(config, env!("CARGO_PKG_VERSION"), counters)
        .context("cannot make a client")
}

fn webhook_options() -> anyhow::Result<WebhookOptions> {
    Ok(WebhookOptions::from_env(&|name| std::env::var(name).ok())?)
}

fn admission_router(
    client: &kube::Client,
    stores: &Stores,
    gates: FeatureGates,
    metrics: &Metrics,
) -> anyhow::Result<Router> {
    let options = admission::Options {
        default_templates: !gates.enabled(Gate::TemplateNoDefaults),
        host_network_ports: gates.enabled(Gate::DefaultHostNetworkHostPortsInPodTemplates),
        delete_protection: gates.enabled(Gate::ResourcesDeletionProtection),
    };
    let pods = stores.pods.clone();
    let lookup = move |namespace: &str, name: &str| {
        let pod = pods.get(&ObjectKey::new(namespace, name))?;
        Some(admission::PodFacts {
            terminating: pod.deleted.is_some(),
            controller_uid: pod.controller().map(|owner| owner.uid.to_string()),
        })
    };
    let protected = prometheus::IntCounterVec::new(
        prometheus::Opts::new("workload_deletion_protection", "Deletions of workloads that were refused"),
        &["kind_namespace_name", "username"],
    )?;
    metrics.registry().register(Box::new(protected.clone()))?;
    let templates = Arc::new(admission::DryRun::new(client.clone()));
    let context = Arc::new(admission::Context::new(options, Arc::new(lookup), templates, protected));
    let handler = |mutating: bool| {
        let context = Arc::clone(&context);
        move |request: kruise_webhook::review::AdmissionRequest| -> futures::future::BoxFuture<'static, _> {
            let context = Arc::clone(&context);
            Box::pin(async move { admission::handle(&request, mutating, &context).await })
        }
    };
    Ok(Router::new()
        .route("/mutate-apps-kruise-io-cloneset", handler(true))
        .route("/validate-apps-kruise-io-cloneset", handler(false))
        .converter(|object, version| {
            kruise_api::conversion::convert(object, version).map_err(|error| error.to_string())
        }))
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

fn watch_all(tasks: &mut Tasks, client: &kube::Client, namespace: &str, stores: &Stores) {
    fn api<K>(client: &kube::Client, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        if namespace.is_empty() {
            Api::all(client.clone())
        } else {
            Api::namespaced(client.clone(), namespace)
        }
    }
    let config = watcher::Config::default;
    let (sets, pods) = (api::<CloneSet>(client, namespace), api::<PodWire>(client, namespace));
    let claims = api::<PersistentVolumeClaim>(client, namespace);
    let revisions = api::<ControllerRevision>(client, namespace);
    let (to_sets, to_pods) = (stores.sets.clone(), stores.pods.clone());
    let (to_claims, to_revisions) = (stores.claims.clone(), stores.revisions.clone());
    tasks.spawn(async move {
        run_watch(sets, SetView::of, to_sets, config()).await;
        ("watch of CloneSets", Ok(()))
    });
    tasks.spawn(async move {
        run_watch(pods, |pod| Some(PodView::from(pod)), to_pods, config()).await;
        ("watch of Pods", Ok(()))
    });
    tasks.spawn(async move {
        run_watch(claims, StoredClaim::of, to_claims, config()).await;
        ("watch of PersistentVolumeClaims", Ok(()))
    });
    let (nodes, to_nodes) = (Api::<PartialObjectMeta<Node>>::all(client.clone()), stores.nodes.clone());
    tasks.spawn(async move {
        run_watch(nodes, NodeView::of, to_nodes, config()).await;
        ("watch of Nodes", Ok(()))
    });
    tasks.spawn(async move {
        run_watch(revisions, |revision| Revision::parse(&revision), to_revisions, config()).await;
        ("watch of ControllerRevisions", Ok(()))
    });
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

fn early(ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow!("{name} ended early"),
        Ok((name, Err(error))) => error.context(name),
        Err(error) => error.into(),
    }
}
