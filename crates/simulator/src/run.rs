//! Plays a history to its end and judges the end.

mod broadcastjob;
mod cloneset;
mod cronjob;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kruise_playground::{MANAGER, Options, Playground};
use kruise_sandbox::clock::{self, WallClock};
use kruise_sandbox::controllers::{Controller, gc};
use kruise_sandbox::server::Config;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::check::Checker;
use crate::history::{History, Step, Subject};
use crate::mistake::{Mistake, Mistaken};

/// Name of what the history is about, and value of its pods' label `app`.
pub const NAME: &str = "web";
/// How many nodes there are.
pub const NODES: u32 = 3;
/// Label of nodes that have joined those that jobs are for.
pub const POOL: &str = "pool";
const NAMESPACE: &str = "default";
/// Nothing in a history needs longer to settle, once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_mins(15);
/// How long nothing may be written afterwards.
const QUIET: Duration = Duration::from_mins(10);
/// How long a crashed manager stays away.
const ABSENCE: Duration = Duration::from_secs(3);

/// What there is in the world of a history. Each kind costs its definition and some watches.
struct Cast {
    controllers: &'static str,
    definitions: &'static [&'static str],
    helpers: &'static [Controller],
    /// What can be garbage.
    collected: &'static [(&'static str, &'static str)],
}

impl Cast {
    const fn of(subject: &Subject) -> Self {
        match subject {
            Subject::CloneSet(_) => Self {
                controllers: "cloneset",
                definitions: &["clonesets"],
                helpers: &[Controller::Gc, Controller::NodeLifecycle],
                collected: &[(GROUP, "clonesets"), ("apps", "controllerrevisions"), ("", "pods")],
            },
            Subject::BroadcastJob(_) => Self {
                controllers: "broadcastjob",
                definitions: &["broadcastjobs"],
                helpers: &[Controller::Gc, Controller::NodeLifecycle],
                collected: &[(GROUP, "broadcastjobs"), ("", "pods")],
            },
            Subject::CronJob(_) => Self {
                controllers: "advancedcronjob,broadcastjob",
                definitions: &["advancedcronjobs", "broadcastjobs"],
                helpers: &[Controller::Gc, Controller::NodeLifecycle, Controller::Jobs],
                collected: &[
                    (GROUP, "advancedcronjobs"),
                    (GROUP, "broadcastjobs"),
                    ("batch", "jobs"),
                    ("", "pods"),
                ],
            },
        }
    }
}

const GROUP: &str = "apps.kruise.io";

/// Why a history failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// A promise was broken on the way.
    Promise(String),
    /// The end was not reached.
    Stuck(String),
    /// Something was still written after the end was reached.
    Noise(String),
    /// The simulation itself does not work.
    Broken(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Promise(what) => write!(f, "a promise was broken: {what}"),
            Self::Stuck(what) => write!(f, "it did not converge: {what}"),
            Self::Noise(what) => write!(f, "it does not come to rest: {what}"),
            Self::Broken(what) => write!(f, "the simulation broke: {what}"),
        }
    }
}

impl Failure {
    /// Whether another failure is of the same sort.
    pub fn alike(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// What a history came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// Writes of the manager, in order.
    pub trace: Vec<String>,
    /// Requests of the manager.
    pub requests: u64,
    /// See [`Checker::digest`].
    pub digest: u64,
}

/// Plays a history in virtual time on a runtime of its own.
///
/// # Errors
/// What went wrong first.
pub fn run(history: &History, mistake: Option<Mistake>) -> Result<Report, Failure> {
    // The jitter of watches that begin again comes from this thread's generator.
    fastrand::seed(history.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| Failure::Broken(error.to_string()))?;
    runtime.block_on(async {
        match play(history, mistake).await {
            Ok(result) => result,
            Err(error) => Err(Failure::Broken(format!("{error:#}"))),
        }
    })
}

struct World {
    playground: Playground,
    checker: Arc<Checker>,
    deaths: mpsc::UnboundedReceiver<()>,
    client: Client,
    clock: WallClock,
    subject: Subject,
}

impl Drop for World {
    fn drop(&mut self) {
        self.checker.detach();
    }
}

async fn play(history: &History, mistake: Option<Mistake>) -> anyhow::Result<Result<Report, Failure>> {
    let clock = clock::simulated("2026-01-01T00:00:00Z".parse()?);
    let (checker, deaths) = Checker::new(history);
    let mut options = Options::new(NODES, Arc::clone(&clock));
    options.server = Config {
        clock: Arc::clone(&clock),
        managed_fields: false,
        seed: Some(history.seed),
        interceptor: Some(Arc::clone(&checker) as Arc<_>),
        ..Config::default()
    };
    let cast = Cast::of(&history.subject);
    options.flags = vec![format!("--controllers={}", cast.controllers)];
    options.definitions = Some(cast.definitions.to_vec());
    options.controllers = cast.helpers.to_vec();
    let owned = |(group, plural): &(&str, &str)| ((*group).to_owned(), (*plural).to_owned());
    options.collected = gc::Scope::Only(cast.collected.iter().map(owned).collect());
    options.nodes.seed = history.seed;
    options.nodes.events = false;
    options.nodes.heartbeat = history.heartbeats.then(|| Duration::from_secs(10));
    options.nodes.labels.insert(POOL.to_owned(), "yes".to_owned());
    options.nodes.timings.pull = Duration::from_millis(700);
    options.nodes.timings.start = Duration::from_millis(300);
    options.nodes.timings.stop = Duration::from_millis(500);
    options.dial = Arc::new(move |server| {
        Client::new(Mistaken::new(server.service().named(MANAGER), mistake), "default")
    });
    let server = kruise_sandbox::server::Server::new(options.server.clone());
    checker.attach(&server);
    let playground = Playground::start_on(server, options).await?;
    let client = playground.client();
    let mut world = World { playground, checker, deaths, client, clock, subject: history.subject };
    let object = serde_json::from_value(history.subject.object())?;
    world.subjects().create(&PostParams::default(), &object).await?;
    for (wait, step) in &history.steps {
        world.pass(*wait).await?;
        world.take(*step).await?;
        if let Some(broken) = world.checker.broken() {
            return Ok(Err(Failure::Promise(broken)));
        }
    }
    world.pass(Duration::from_secs(5)).await?;
    world.calm().await?;
    let checker = Arc::clone(&world.checker);
    Ok(world.end().await?.map(|()| Report {
        trace: checker.trace(),
        requests: checker.requests(),
        digest: checker.digest(),
    }))
}

impl World {
    fn api(&self, kind: &str, plural: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(GROUP, "v1beta1", kind);
        Api::namespaced_with(
            self.client.clone(),
            NAMESPACE,
            &ApiResource::from_gvk_with_plural(&kind, plural),
        )
    }

    /// Objects of the kind that the history is about.
    fn subjects(&self) -> Api<DynamicObject> {
        match self.subject {
            Subject::CloneSet(_) => self.api("CloneSet", "clonesets"),
            Subject::BroadcastJob(_) => self.api("BroadcastJob", "broadcastjobs"),
            Subject::CronJob(_) => self.api("AdvancedCronJob", "advancedcronjobs"),
        }
    }

    /// Changes what the history is about, if it is still there.
    async fn patch(&self, patch: Value) -> anyhow::Result<()> {
        let patched = self.subjects().patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await;
        unless_gone(patched)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Lets time pass; a manager that has to die meanwhile is replaced.
    async fn pass(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => return Ok(()),
                Some(()) = self.deaths.recv() => {
                    self.playground.crash_manager();
                    sleep(ABSENCE).await;
                    self.playground.restart_manager()?;
                }
                error = self.playground.ended() => return Err(error),
            }
        }
    }

    /// The names of the pods that are not being deleted, in order.
    async fn names(&self) -> anyhow::Result<Vec<String>> {
        let pods = self.pods().list(&ListParams::default().labels(&format!("app={NAME}"))).await?;
        let staying = pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let mut names: Vec<String> = staying.filter_map(|pod| pod.metadata.name).collect();
        names.sort();
        Ok(names)
    }

    async fn chosen(&self, index: usize) -> anyhow::Result<Option<String>> {
        let names = self.names().await?;
        Ok(names.get(index % names.len().max(1)).cloned())
    }

    async fn take(&mut self, step: Step) -> anyhow::Result<()> {
        match step {
            Step::CloneSet(step) => self.change_set(step).await,
            Step::BroadcastJob(step) => self.change_job(step).await,
            Step::CronJob(step) => self.change_cron_job(step).await,
            Step::DeletePod(index, force) => {
                let Some(name) = self.chosen(index).await? else { return Ok(()) };
                let params =
                    if force { DeleteParams::default().grace_period(0) } else { DeleteParams::default() };
                self.pods().delete(&name, &params).await?;
                Ok(())
            }
            Step::Crash(index) => {
                if let Some(name) = self.chosen(index).await? {
                    self.playground.nodes().crash(NAMESPACE, &name, "main", 1);
                }
                Ok(())
            }
            Step::Cordon(index, cordoned) => {
                self.playground.nodes().cordon(&self.node(index), cordoned).await?;
                Ok(())
            }
            Step::Join(index, joins) => self.join(&self.node(index), joins).await,
            Step::LoseNode(index) => {
                self.playground.nodes().lose_node(&self.node(index));
                Ok(())
            }
            Step::RecoverNodes => {
                self.recover();
                Ok(())
            }
            Step::CrashManager => {
                self.playground.crash_manager();
                sleep(ABSENCE).await;
                self.playground.restart_manager()
            }
            Step::Compact => {
                self.playground.server().compact();
                Ok(())
            }
        }
    }

    fn node(&self, index: usize) -> String {
        let names = self.playground.nodes().names();
        names.get(index % names.len().max(1)).cloned().unwrap_or_default()
    }

    async fn join(&self, node: &str, joins: bool) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"labels": {POOL: joins.then_some("yes")}}});
        let nodes = Api::<Node>::all(self.client.clone());
        nodes.patch_metadata(node, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    fn recover(&self) {
        for name in self.playground.nodes().names() {
            self.playground.nodes().recover_node(&name);
        }
    }

    /// From now on nothing goes wrong, and what was begun goes on.
    async fn calm(&mut self) -> anyhow::Result<()> {
        self.checker.calm();
        self.recover();
        match self.subject {
            Subject::CloneSet(_) => self.calm_set().await,
            Subject::BroadcastJob(_) => self.calm_job().await,
            Subject::CronJob(_) => self.calm_cron_job().await,
        }
    }

    /// What is not yet as the spec wants it.
    async fn missing(&self) -> anyhow::Result<Option<String>> {
        match self.subject {
            Subject::CloneSet(_) => self.missing_of_set().await,
            Subject::BroadcastJob(_) => self.missing_of_job().await,
            Subject::CronJob(_) => self.missing_of_cron_job().await,
        }
    }

    /// Waits for the end, and then for nothing to happen.
    async fn end(&mut self) -> anyhow::Result<Result<(), Failure>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.pass(Duration::from_secs(5)).await?;
            if let Some(broken) = self.checker.broken() {
                return Ok(Err(Failure::Promise(broken)));
            }
            match self.missing().await? {
                None => break,
                Some(missing) if Instant::now() > deadline => return Ok(Err(Failure::Stuck(missing))),
                Some(_) => {}
            }
        }
        // The last status may follow a moment later.
        self.pass(Duration::from_secs(30)).await?;
        let before = self.checker.trace().len();
        self.pass(QUIET).await?;
        let trace = self.checker.trace();
        self.checker.rested();
        if let Some(broken) = self.checker.broken() {
            return Ok(Err(Failure::Promise(broken)));
        }
        let noise = trace.get(before..).unwrap_or_default();
        Ok(if noise.is_empty() { Ok(()) } else { Err(Failure::Noise(noise.join(", "))) })
    }
}

/// Objects go by themselves in some histories.
fn unless_gone<T>(answer: kube::Result<T>) -> anyhow::Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(|_| ())?),
    }
}

/// What is wrong, if something is.
fn complaints<const N: usize>(checks: [(bool, String); N]) -> Option<String> {
    let wrong: Vec<String> = checks.into_iter().filter(|(right, _)| !right).map(|(_, what)| what).collect();
    (!wrong.is_empty()).then(|| wrong.join("; "))
}
