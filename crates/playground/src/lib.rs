//! The sandbox with a whole kruise-manager in it, in one process and without sockets.
//!
//! [`Playground::start`] brings up the API server, its controllers, nodes, the CustomResourceDefinitions and a manager;
//! all of it obeys tokio's clock, so that tests run minutes in milliseconds. A manager can be crashed and started again
//! while everything else goes on.

mod admission;

use std::sync::{Arc, LazyLock};

pub use admission::Admission;
use anyhow::Context as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruise_manager::run::{self, Setup, Webhooks};
use kruise_sandbox::clock::WallClock;
use kruise_sandbox::controllers::{self, Controller, gc};
use kruise_sandbox::nodes::{Nodes, Settings};
use kruise_sandbox::server::{Config, Server};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

/// The client name of the manager, by which interceptors and request counts tell it apart.
pub const MANAGER: &str = "kruise-manager";
/// The client name of everything that simulates the cluster.
pub const CLUSTER: &str = "cluster";

/// What to start.
pub struct Options {
    /// The API server.
    pub server: Config,
    /// The nodes.
    pub nodes: Settings,
    /// The plural names of the kinds that are defined: every kind of Kruise, unless it is known what can occur.
    pub definitions: Option<Vec<&'static str>>,
    /// What of kube-controller-manager runs: all, unless it is known what can occur.
    pub controllers: Vec<Controller>,
    /// What is garbage-collected.
    pub collected: gc::Scope,
    /// The manager's command line, without its name; leader election, health and metrics are off unless named.
    pub flags: Vec<String>,
    /// How managers reach the API server; in-process unless a test comes in between.
    pub dial: Dial,
    /// The way to the manager's webhooks; without one nobody asks them.
    pub admission: Option<Admission>,
}

/// Makes the client of a manager.
pub type Dial = Arc<dyn Fn(&Server) -> Client + Send + Sync>;

impl Options {
    /// `nodes` nodes on which everything happens at once, and a manager with default flags.
    pub fn new(nodes: u32, clock: WallClock) -> Self {
        Self {
            server: Config { clock: Arc::clone(&clock), ..Config::default() },
            nodes: Settings::new(nodes, clock),
            definitions: None,
            controllers: Controller::ALL.to_vec(),
            collected: gc::Scope::Everything,
            flags: Vec::new(),
            dial: Arc::new(|server| server.client_as(MANAGER)),
            admission: None,
        }
    }

    /// Has the API server ask the manager's webhooks, inside the process.
    #[must_use]
    pub fn with_admission(mut self) -> Self {
        let admission = Admission::default();
        self.server.webhooks = Arc::new(admission.caller());
        self.admission = Some(admission);
        self
    }
}

/// A running cluster with Kruise. Dropping it stops everything at once.
pub struct Playground {
    server: Server,
    nodes: Nodes,
    clock: WallClock,
    flags: Vec<String>,
    dial: Dial,
    admission: Option<Admission>,
    seed: Option<u64>,
    manager: Option<Manager>,
    tasks: JoinSet<&'static str>,
}

/// A running manager.
struct Manager {
    task: JoinHandle<anyhow::Result<()>>,
    stop: oneshot::Sender<()>,
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Playground {
    /// Starts everything; what controllers do takes its time after that.
    ///
    /// # Errors
    /// A definition is refused or a flag is wrong.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let server = Server::new(options.server.clone());
        Self::start_on(server, options).await
    }

    /// Starts everything around an API server that may hold objects already.
    ///
    /// # Errors
    /// A definition is refused or a flag is wrong.
    pub async fn start_on(server: Server, options: Options) -> anyhow::Result<Self> {
        let mut playground = Self::start_cluster(server, options).await?;
        playground.restart_manager()?;
        if let Some(admission) = playground.admission.clone() {
            tokio::select! {
                biased;
                () = admission.answers() => {}
                error = playground.ended() => return Err(error),
            }
        }
        Ok(playground)
    }

    /// Starts everything but the manager.
    ///
    /// # Errors
    /// A definition is refused.
    pub async fn start_cluster(server: Server, options: Options) -> anyhow::Result<Self> {
        let Options { nodes: settings, flags, dial, admission, server: config, .. } = options;
        let (which, collected) = (options.controllers, options.collected);
        let clock = Arc::clone(&settings.clock);
        let client = server.client_as(CLUSTER);
        install_definitions(&client, options.definitions.as_deref()).await?;
        if let Some(admission) = &admission {
            admission.publish(&client).await?;
        }
        let nodes = Nodes::new(client.clone(), settings);
        let mut tasks = JoinSet::new();
        let simulated = nodes.clone();
        tasks.spawn(async move {
            simulated.run(std::future::pending()).await;
            "nodes"
        });
        let (cluster, time) = (client.clone(), Arc::clone(&clock));
        tasks.spawn(async move {
            controllers::run_only(cluster, time, &which, collected, std::future::pending()).await;
            "controllers"
        });
        let seed = config.seed;
        Ok(Self { server, nodes, clock, flags, dial, admission, seed, manager: None, tasks })
    }

    /// Starts a manager with the webhooks of [`Options::admission`]; a running one crashes.
    ///
    /// # Errors
    /// A flag is wrong.
    pub fn restart_manager(&mut self) -> anyhow::Result<()> {
        let nobody = || Webhooks::HandOver(Box::new(drop));
        self.start_manager(self.admission.as_ref().map_or_else(nobody, Admission::hand_over))
    }

    /// Starts a manager; a running one crashes.
    ///
    /// # Errors
    /// A flag is wrong.
    pub fn start_manager(&mut self, webhooks: Webhooks) -> anyhow::Result<()> {
        self.crash_manager();
        let setup = Setup::embedded(&self.flags, webhooks, Arc::clone(&self.clock), self.seed)?;
        let (stop, stopped) = oneshot::channel();
        let client = (self.dial)(&self.server);
        let stopped = async {
            // A dropped sender is a crash, and aborts the task as well.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        self.manager = Some(Manager { task: tokio::spawn(run::run(setup, client, stopped)), stop });
        Ok(())
    }

    /// Ends the manager in the middle of whatever it does.
    pub fn crash_manager(&mut self) {
        self.manager = None;
        if let Some(admission) = &self.admission {
            admission.hang_up();
        }
    }

    /// Asks the manager to stop, and waits until it has.
    ///
    /// # Errors
    /// The manager did not end well.
    pub async fn stop_manager(&mut self) -> anyhow::Result<()> {
        let Some(mut manager) = self.manager.take() else { return Ok(()) };
        let (unused, _) = oneshot::channel();
        // Whoever has ended already needs not be told.
        let _ended = std::mem::replace(&mut manager.stop, unused).send(());
        let ended = (&mut manager.task).await;
        if let Some(admission) = &self.admission {
            admission.hang_up();
        }
        ended.context("the manager panicked")?
    }

    /// Resolves when something ends that should not.
    pub async fn ended(&mut self) -> anyhow::Error {
        let manager = async {
            match self.manager.as_mut() {
                Some(manager) => (&mut manager.task).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ended = manager => match ended {
                Ok(Ok(())) => anyhow::anyhow!("the manager ended"),
                Ok(Err(error)) => error.context("the manager ended"),
                Err(error) => anyhow::Error::new(error).context("the manager panicked"),
            },
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(name) => anyhow::anyhow!("{name} ended"),
                Err(error) => anyhow::Error::new(error).context("a part of the cluster panicked"),
            },
        }
    }

    /// The API server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The nodes, to make things go wrong on them.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// The way to the manager's webhooks, if the API server asks them here.
    pub fn admission(&self) -> Option<&Admission> {
        self.admission.as_ref()
    }

    /// A client of a user.
    pub fn client(&self) -> Client {
        self.server.client_as("user")
    }
}

/// Made once: simulations start thousands of playgrounds, and schemas are derived from types at some cost.
static DEFINITIONS: LazyLock<Vec<CustomResourceDefinition>> = LazyLock::new(kruise_api::crd::all);

/// Creates or updates the CustomResourceDefinitions of Kruise, all or those of some plural names.
///
/// # Errors
/// One of them is refused.
pub async fn install_definitions(client: &Client, only: Option<&[&str]>) -> anyhow::Result<()> {
    let api = Api::all(client.clone());
    let chosen = |definition: &&CustomResourceDefinition| {
        only.is_none_or(|plurals| plurals.contains(&definition.spec.names.plural.as_str()))
    };
    for definition in DEFINITIONS.iter().filter(chosen) {
        let name = definition.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), definition).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // Where conversion is found is the manager's to say.
                let mut definition = definition.clone();
                definition.spec.conversion = None;
                api.patch(&name, &PatchParams::default(), &Patch::Merge(&definition)).await?;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot create definition {name}")),
        }
    }
    Ok(())
}
