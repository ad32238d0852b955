//! A sandbox on a port of this machine: the API over HTTPS, webhooks that are really called, a kubeconfig, a state that
//! outlives the process if that is wanted.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kruise_manager::run::Webhooks;
use kruise_playground::{Options, Playground};
use kruise_sandbox::nodes::Timings;
use kruise_sandbox::server::{Config, Identity, Server, kubeconfig};
use kruise_sandbox::webhook::Https;
use kruise_webhook::options::WebhookOptions;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::access::{Kubeconfig, runtime_dir};

/// How long everything may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const POLL: Duration = Duration::from_millis(10);
/// How often nodes tell that they live.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Where the manager says it lives.
const NAMESPACE: &str = "kruise-system";
/// What the first line of the next steps proposes to apply.
const EXAMPLE: &str = "docs/examples/sandbox.yaml";

/// What to serve.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: u32,
    pub(crate) timings: Timings,
    pub(crate) port: u16,
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A demo leaves the usual kubeconfig to those who look on.
    pub(crate) for_a_demo: bool,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) manager: Vec<String>,
}

/// A sandbox that is served.
pub(crate) struct Served {
    playground: Playground,
    server: Server,
    listening: JoinHandle<std::io::Result<()>>,
    kubeconfig: Kubeconfig,
    /// Removed at the end.
    certificates: Option<PathBuf>,
}

impl Served {
    /// Starts everything; when this returns, everything can be used.
    ///
    /// # Errors
    /// A port or a file cannot be used, or the manager does not come up.
    pub(crate) async fn start(plan: Plan) -> anyhow::Result<Self> {
        let clock = kruise_sandbox::clock::system();
        let mut options = Options::new(plan.nodes, Arc::clone(&clock));
        options.nodes.timings = plan.timings;
        options.nodes.heartbeat = Some(HEARTBEAT);
        options.flags = plan.manager;
        options.server.webhooks =
            Arc::new(Https::new(Arc::new(|_, name, _| Err(format!("service {name:?} not found")))));
        let server = open(options.server.clone(), plan.data_dir.clone()).await?;

        let identity = Identity::generate(&["127.0.0.1", "localhost", "kubernetes.default.svc"])?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, plan.port))
            .await
            .with_context(|| format!("cannot listen on port {} of 127.0.0.1", plan.port))?;
        let url = format!("https://{}", listener.local_addr()?);
        let path = match plan.kubeconfig {
            Some(path) => path,
            None if plan.for_a_demo => runtime_dir()?.join(format!("demo-{}.kubeconfig", std::process::id())),
            None => runtime_dir()?.join("kubeconfig"),
        };
        let kubeconfig = Kubeconfig::write(&path, kubeconfig(&url, Some(&identity.ca_pem)))?;
        let serving = server.clone();
        let listening = tokio::spawn(async move { serving.serve_https(listener, &identity).await });

        let playground = Playground::start_cluster(server.clone(), options).await?;
        let (keep, certificates) = if let Some(dir) = plan.data_dir {
            (dir.join("webhook-certs"), None)
        } else {
            let dir = runtime_dir()?.join(format!("webhook-certs-{}", std::process::id()));
            (dir.clone(), Some(dir))
        };
        let mut served = Self { playground, server, listening, kubeconfig, certificates };
        served.start_manager(keep).await?;
        let client = served.client();
        tokio::select! {
            biased;
            usable = usable(&client, plan.nodes) => usable?,
            error = served.ended() => return Err(error),
        }
        Ok(served)
    }

    async fn start_manager(&mut self, certificates: PathBuf) -> anyhow::Result<()> {
        let metadata = ObjectMeta { name: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        match Api::all(self.client()).create(&PostParams::default(), &namespace).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut options = WebhookOptions::from_env(&|_| None)?;
        NAMESPACE.clone_into(&mut options.namespace);
        options.host = Some(Ipv4Addr::LOCALHOST.to_string());
        options.port = listener.local_addr()?.port();
        options.certs_on_disk = true;
        options.cert_dir = certificates;
        self.playground.start_manager(Webhooks::ServeOn(options, listener))
    }

    /// What to type next.
    pub(crate) fn next_steps(&self) -> [String; 3] {
        [
            format!("export KUBECONFIG={}", self.kubeconfig.path().display()),
            format!("kubectl apply -f {EXAMPLE} && kubectl get clonesets,pods -w"),
            "Ctrl-C here ends it.".to_owned(),
        ]
    }

    /// A client of a user.
    pub(crate) fn client(&self) -> Client {
        self.playground.client()
    }

    /// Resolves when something ends that should not.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        tokio::select! {
            biased;
            error = self.playground.ended() => error,
            why = self.server.failed_to_save() => anyhow!(why),
            ended = &mut self.listening => match ended {
                Ok(Ok(())) => anyhow!("the API server ended"),
                Ok(Err(error)) => anyhow::Error::new(error).context("the API server ended"),
                Err(error) => anyhow::Error::new(error).context("the API server panicked"),
            },
        }
    }

    /// Stops the manager, then the API, and saves the state.
    ///
    /// # Errors
    /// The manager did not end well, or the state cannot be saved.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        let stopped = self.playground.stop_manager().await;
        self.listening.abort();
        let server = self.server.clone();
        let saved = tokio::task::spawn_blocking(move || server.save()).await;
        if let Some(dir) = &self.certificates {
            drop(std::fs::remove_dir_all(dir));
        }
        saved.map_err(anyhow::Error::new).and_then(|saved| saved.context("cannot save the state"))?;
        stopped
    }
}

async fn open(config: Config, dir: Option<PathBuf>) -> anyhow::Result<Server> {
    let Some(dir) = dir else { return Ok(Server::new(config)) };
    let opened = tokio::task::spawn_blocking(move || Server::durable(config, &dir)).await?;
    opened.context("cannot use --data-dir")
}

/// Waits until nodes are ready, and until a CloneSet of the old version would be created: that takes conversion,
/// defaults and validation.
async fn usable(client: &Client, nodes: u32) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let missing = match (nodes_ready(client, nodes).await, admits(client).await) {
            (Ok(true), Ok(())) => return Ok(()),
            (Ok(_), Ok(())) => "not all nodes are ready".to_owned(),
            (Err(error), _) => error.to_string(),
            (_, Err(error)) => error.to_string(),
        };
        if begun.elapsed() > PATIENCE {
            return Err(anyhow!(missing).context("the sandbox did not come up"));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn nodes_ready(client: &Client, count: u32) -> kube::Result<bool> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let ready = |node: &&Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    Ok(nodes.items.iter().filter(ready).count() >= usize::try_from(count).unwrap_or(usize::MAX))
}

async fn admits(client: &Client) -> anyhow::Result<()> {
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1alpha1", "CloneSet");
    let kind = ApiResource::from_gvk_with_plural(&kind, "clonesets");
    let set: DynamicObject = serde_yaml_ng::from_str(include_str!("probe.yaml"))?;
    let sets: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &kind);
    sets.create(&PostParams { dry_run: true, ..PostParams::default() }, &set).await?;
    Ok(())
}

/// What is logged unless `RUST_LOG` says otherwise: the manager's `--v` counts, and no `--v` means errors only.
pub(crate) fn levels(manager: &[String]) -> &'static str {
    let given = manager.iter().rev().find_map(|flag| {
        flag.strip_prefix("--v=").or_else(|| flag.strip_prefix("-v=")).or_else(|| flag.strip_prefix("-v"))
    });
    match given.map(|level| level.parse::<u8>().unwrap_or_default()) {
        None => "error",
        Some(0..=3) => "info",
        Some(4) => "info,kruise=debug",
        Some(_) => "debug,kruise=trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_errors_is_logged_unless_asked_for() {
        assert_eq!(levels(&[]), "error");
        assert_eq!(levels(&["--v=0".to_owned()]), "info");
        assert_eq!(levels(&["--v=4".to_owned()]), "info,kruise=debug");
        assert_eq!(levels(&["-v5".to_owned()]), "debug,kruise=trace");
    }
}
