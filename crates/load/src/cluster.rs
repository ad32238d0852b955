//! Where load is played: an API server with nodes, and how its clients reach it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kruise_playground::{Options, Playground, install_definitions};
use kruise_sandbox::clock;
use kruise_sandbox::nodes::{Nodes, Settings};
use kruise_sandbox::server::{Identity, Server, kubeconfig};
use kruise_sandbox::webhook::Https;
use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::Backend;
use crate::kubernetes::Kubernetes;
use crate::requests::{Requests, Source};

/// How often nodes tell that they live.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A cluster that runs; what was started for it ends with this value.
pub(crate) struct Cluster {
    /// Someone who may do everything, over the network.
    pub(crate) client: Client,
    /// What managers are given.
    pub(crate) kubeconfig: PathBuf,
    /// Who tells what the manager asks for.
    pub(crate) requests: Source,
    kubernetes: Option<Kubernetes>,
    playground: Option<Playground>,
    nodes: Option<Nodes>,
    tasks: JoinSet<anyhow::Error>,
}

impl Cluster {
    /// Starts what is missing. Files go to `dir`.
    pub(crate) async fn start(backend: &Backend, nodes: u32, dir: &Path) -> anyhow::Result<Self> {
        let mut cluster = match backend {
            Backend::Kubernetes(bin) => Self::kubernetes(bin, nodes, dir).await?,
            Backend::Sandbox => Self::sandbox(nodes, dir).await?,
            Backend::Running(running) => {
                let client = connect(&running.kubeconfig).await?;
                let requests = Source::All(client.clone());
                let mut cluster = Self::new(client, running.kubeconfig.clone(), requests);
                cluster.simulate(nodes, &running.kubeconfig, Some("load-")).await?;
                cluster
            }
        };
        if !matches!(backend, Backend::Running(_)) {
            cluster.namespace("kruise-system").await?;
        }
        cluster.runs()?;
        Ok(cluster)
    }

    fn new(client: Client, kubeconfig: PathBuf, requests: Source) -> Self {
        let tasks = JoinSet::new();
        Self { client, kubeconfig, requests, kubernetes: None, playground: None, nodes: None, tasks }
    }

    async fn kubernetes(bin: &Path, nodes: u32, dir: &Path) -> anyhow::Result<Self> {
        let kubernetes = Kubernetes::start(bin, dir).await?;
        let (admin, manager) = (kubernetes.admin.clone(), kubernetes.manager.clone());
        let requests = Source::Audit { path: kubernetes.audit.clone(), read: 0, total: Requests::new() };
        let mut cluster = Self::new(connect(&admin).await?, manager, requests);
        cluster.kubernetes = Some(kubernetes);
        install_definitions(&cluster.client, None).await?;
        cluster.simulate(nodes, &admin, None).await?;
        Ok(cluster)
    }

    async fn sandbox(nodes: u32, dir: &Path) -> anyhow::Result<Self> {
        let clock = clock::system();
        let mut options = Options::new(nodes, Arc::clone(&clock));
        options.nodes.heartbeat = Some(HEARTBEAT);
        options.nodes.events = false;
        options.server.webhooks =
            Arc::new(Https::new(Arc::new(|_, name, _| Err(format!("service {name:?} not found")))));
        let server = Server::new(options.server.clone());
        let identity = Identity::generate(&["127.0.0.1", "localhost"])?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let path = dir.join("kubeconfig");
        std::fs::write(
            &path,
            kubeconfig(&format!("https://{}", listener.local_addr()?), Some(&identity.ca_pem)),
        )?;
        let mut cluster = Self::new(connect(&path).await?, path, Source::Sandbox(server.clone()));
        let serving = server.clone();
        cluster.tasks.spawn(async move {
            match serving.serve_https(listener, &identity).await {
                Ok(()) => anyhow::anyhow!("the API server ended"),
                Err(error) => anyhow::Error::new(error).context("the API server ended"),
            }
        });
        cluster.playground = Some(Playground::start_cluster(server, options).await?);
        Ok(cluster)
    }

    /// Nodes without a scheduler, which is the cluster's own.
    async fn simulate(&mut self, count: u32, kubeconfig: &Path, prefix: Option<&str>) -> anyhow::Result<()> {
        let mut settings = Settings::new(count, clock::system());
        settings.heartbeat = Some(HEARTBEAT);
        settings.scheduler = None;
        settings.events = false;
        if let Some(prefix) = prefix {
            prefix.clone_into(&mut settings.name_prefix);
        }
        let nodes = Nodes::new(connect(kubeconfig).await?, settings);
        self.nodes = Some(nodes.clone());
        self.tasks.spawn(async move {
            nodes.run(std::future::pending()).await;
            anyhow::anyhow!("the simulated nodes ended")
        });
        Ok(())
    }

    /// Makes a namespace, if it is not there.
    pub(crate) async fn namespace(&self, name: &str) -> anyhow::Result<()> {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        match Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot create namespace {name}")),
        }
    }

    /// An error once something has ended that should run.
    pub(crate) fn runs(&mut self) -> anyhow::Result<()> {
        if let Some(ended) = self.tasks.try_join_next() {
            return Err(ended?);
        }
        self.kubernetes.as_mut().map_or(Ok(()), Kubernetes::runs)
    }

    /// Seconds of CPU that the Kubernetes that was started here has used, its nodes apart.
    pub(crate) fn cpu(&self) -> anyhow::Result<Option<f64>> {
        self.kubernetes.as_ref().map(Kubernetes::cpu).transpose()
    }

    /// Ends what was started, and removes the simulated nodes from a cluster that stays.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.tasks.shutdown().await;
        drop(self.playground);
        match (self.kubernetes, self.nodes) {
            (Some(kubernetes), _) => kubernetes.stop().await,
            (None, Some(nodes)) => {
                nodes.remove().await;
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }
}

/// A client of the cluster that a kubeconfig names.
pub(crate) async fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    let file =
        Kubeconfig::read_from(kubeconfig).with_context(|| format!("cannot read {}", kubeconfig.display()))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
