//! Plays a history to its end and judges the end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kruise_playground::{MANAGER, Options, Playground};
use kruise_sandbox::clock;
use kruise_sandbox::controllers::{Controller, gc};
use kruise_sandbox::server::Config;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::check::Checker;
use crate::history::{Amount, Edit, History, Step};
use crate::mistake::{Mistake, Mistaken};

/// Name of the CloneSet, and value of its pods' label `app`.
pub const SET: &str = "web";
const NAMESPACE: &str = "default";
/// Nothing in a history needs longer to settle, once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_mins(15);
/// How long nothing may be written afterwards.
const QUIET: Duration = Duration::from_mins(10);
/// How long a crashed manager stays away.
const ABSENCE: Duration = Duration::from_secs(3);

/// What can be garbage in a history: each resource is watched, and a watch costs time.
const COLLECTED: [(&str, &str); 3] =
    [("apps.kruise.io", "clonesets"), ("apps", "controllerrevisions"), ("", "pods")];

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
}

impl Drop for World {
    fn drop(&mut self) {
        self.checker.detach();
    }
}

async fn play(history: &History, mistake: Option<Mistake>) -> anyhow::Result<Result<Report, Failure>> {
    let clock = clock::simulated("2026-01-01T00:00:00Z".parse()?);
    let (checker, deaths) = Checker::new(history);
    let mut options = Options::new(3, Arc::clone(&clock));
    options.server = Config {
        clock,
        managed_fields: false,
        seed: Some(history.seed),
        interceptor: Some(Arc::clone(&checker) as Arc<_>),
        ..Config::default()
    };
    options.flags = vec!["--controllers=cloneset".to_owned()];
    options.definitions = Some(vec!["clonesets"]);
    options.controllers = vec![Controller::Gc, Controller::NodeLifecycle];
    options.collected =
        gc::Scope::Only(COLLECTED.map(|(group, plural)| (group.to_owned(), plural.to_owned())).to_vec());
    options.nodes.seed = history.seed;
    options.nodes.events = false;
    options.nodes.heartbeat = history.heartbeats.then(|| Duration::from_secs(10));
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
    let mut world = World { playground, checker, deaths, client };
    world.sets().create(&PostParams::default(), &serde_json::from_value(history.clone_set())?).await?;
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
    fn sets(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", "CloneSet");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clonesets");
        Api::namespaced_with(self.client.clone(), NAMESPACE, &resource)
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

    /// The names of the set's pods that are not being deleted, in order.
    async fn names(&self) -> anyhow::Result<Vec<String>> {
        let pods = self.pods().list(&ListParams::default().labels(&format!("app={SET}"))).await?;
        let staying = pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let mut names: Vec<String> = staying.filter_map(|pod| pod.metadata.name).collect();
        names.sort();
        Ok(names)
    }

    async fn chosen(&self, index: usize) -> anyhow::Result<Option<String>> {
        let names = self.names().await?;
        Ok(names.get(index % names.len().max(1)).cloned())
    }

    async fn patch_set(&self, patch: Value) -> anyhow::Result<()> {
        self.sets().patch(SET, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn rolling(&self, field: &str, value: Value) -> anyhow::Result<()> {
        self.patch_set(json!({"spec": {"updateStrategy": {"rollingUpdate": {field: value}}}})).await
    }

    async fn take(&mut self, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Scale(replicas) => self.patch_set(json!({"spec": {"replicas": replicas}})).await,
            Step::Template(edit) => self.edit(edit).await,
            Step::Partition(amount) => self.rolling("partition", amount.value()).await,
            Step::MaxUnavailable(amount) => self.rolling("maxUnavailable", amount.value()).await,
            Step::MaxSurge(amount) => self.rolling("maxSurge", amount.value()).await,
            Step::Pause(paused) => self.rolling("paused", json!(paused)).await,
            Step::MinReady(seconds) => self.patch_set(json!({"spec": {"minReadySeconds": seconds}})).await,
            Step::DeletePod(index, force) => {
                let Some(name) = self.chosen(index).await? else { return Ok(()) };
                let params =
                    if force { DeleteParams::default().grace_period(0) } else { DeleteParams::default() };
                self.pods().delete(&name, &params).await?;
                Ok(())
            }
            Step::SpecifiedDelete(index) => {
                self.label(index, json!({"apps.kruise.io/specified-delete": "true"})).await
            }
            Step::Relabel(index) => self.label(index, json!({"app": "released"})).await,
            Step::PodsToDelete(index) => self.scale_in_by(index).await,
            Step::Crash(index) => {
                if let Some(name) = self.chosen(index).await? {
                    self.playground.nodes().crash(NAMESPACE, &name, "main", 1);
                }
                Ok(())
            }
            Step::Unready(index) => {
                if let Some(name) = self.chosen(index).await? {
                    self.playground.nodes().set_ready(NAMESPACE, &name, "main", Some(false));
                }
                Ok(())
            }
            Step::Heal => self.heal().await,
            Step::LoseNode(index) => {
                let names = self.playground.nodes().names();
                if let Some(name) = names.get(index % names.len().max(1)) {
                    self.playground.nodes().lose_node(name);
                }
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

    async fn edit(&self, edit: Edit) -> anyhow::Result<()> {
        let set = self.sets().get(SET).await?;
        let container = set.data.pointer("/spec/template/spec/containers/0").cloned().unwrap_or_default();
        let (field, value) = match edit {
            Edit::Image(number) => ("image", json!(format!("sim/app:{number}"))),
            Edit::Env(number) => ("env", json!([{"name": "V", "value": number.to_string()}])),
            Edit::Annotation(number) => {
                let annotations = json!({"note": number.to_string()});
                return self
                    .patch_set(json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}))
                    .await;
            }
        };
        let mut container: Map<String, Value> = serde_json::from_value(container)?;
        container.insert(field.to_owned(), value);
        self.patch_set(json!({"spec": {"template": {"spec": {"containers": [container]}}}})).await
    }

    async fn label(&self, index: usize, labels: Value) -> anyhow::Result<()> {
        let Some(name) = self.chosen(index).await? else { return Ok(()) };
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        self.pods().patch(&name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn scale_in_by(&self, index: usize) -> anyhow::Result<()> {
        let Some(name) = self.chosen(index).await? else { return Ok(()) };
        let set = self.sets().get(SET).await?;
        let replicas = set.data.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or_default();
        let replicas = (replicas - 1).max(0);
        self.patch_set(json!({"spec": {"replicas": replicas, "scaleStrategy": {"podsToDelete": [name]}}}))
            .await
    }

    async fn heal(&self) -> anyhow::Result<()> {
        for name in self.names().await? {
            self.playground.nodes().set_ready(NAMESPACE, &name, "main", None);
        }
        Ok(())
    }

    fn recover(&self) {
        for name in self.playground.nodes().names() {
            self.playground.nodes().recover_node(&name);
        }
    }

    /// From now on nothing goes wrong, and the rollout goes on.
    async fn calm(&mut self) -> anyhow::Result<()> {
        self.checker.calm();
        self.recover();
        self.heal().await?;
        self.rolling("paused", json!(false)).await?;
        self.rolling("maxUnavailable", Amount::Count(1).value()).await
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
        if let Some(broken) = self.checker.broken() {
            return Ok(Err(Failure::Promise(broken)));
        }
        let noise = trace.get(before..).unwrap_or_default();
        Ok(if noise.is_empty() { Ok(()) } else { Err(Failure::Noise(noise.join(", "))) })
    }

    /// What is not yet as the spec wants it.
    async fn missing(&self) -> anyhow::Result<Option<String>> {
        let set = self.sets().get(SET).await?;
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let number = |path: &str| set.data.pointer(path).and_then(Value::as_i64);
        let text = |path: &str| set.data.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let replicas = number("/spec/replicas").unwrap_or(1);
        let partition = match set.data.pointer("/spec/updateStrategy/rollingUpdate/partition") {
            Some(Value::Number(count)) => count.as_i64().unwrap_or_default().clamp(0, replicas),
            Some(Value::String(text)) => {
                let percent: i64 = text.trim_end_matches('%').parse().unwrap_or_default();
                let resolved = (replicas * percent + 99) / 100;
                if replicas > 1 && resolved == replicas && percent != 100 { replicas - 1 } else { resolved }
            }
            _ => 0,
        };
        let pods = self.pods().list(&ListParams::default()).await?.items;
        let owned: Vec<&Pod> = pods
            .iter()
            .filter(|pod| pod.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid))
            .collect();
        let ready = |pod: &&&Pod| {
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
        };
        let update = text("/status/updateRevision");
        let at_update = |pod: &&&Pod| {
            let label =
                pod.metadata.labels.as_ref().and_then(|labels| labels.get("controller-revision-hash"));
            label.is_some_and(|label| label == update)
        };
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let updated = count(owned.iter().filter(at_update).count());
        let checks = [
            (count(owned.len()) == replicas, format!("{} pods, {replicas} wanted", owned.len())),
            (count(owned.iter().filter(ready).count()) == replicas, "not all pods are ready".to_owned()),
            (updated >= replicas - partition, format!("{updated} updated, {} wanted", replicas - partition)),
            (
                number("/status/observedGeneration") == set.metadata.generation,
                "generation not observed".to_owned(),
            ),
            (
                number("/status/replicas") == Some(replicas),
                format!("status.replicas is {:?}", number("/status/replicas")),
            ),
            (
                number("/status/readyReplicas") == Some(replicas),
                format!("status.readyReplicas is {:?}", number("/status/readyReplicas")),
            ),
            (
                number("/status/availableReplicas") == Some(replicas),
                format!("status.availableReplicas is {:?}", number("/status/availableReplicas")),
            ),
            (
                number("/status/updatedReplicas") == Some(updated),
                format!("status.updatedReplicas is {:?}, {updated} are", number("/status/updatedReplicas")),
            ),
        ];
        let wrong: Vec<String> =
            checks.into_iter().filter(|(right, _)| !right).map(|(_, what)| what).collect();
        Ok(if wrong.is_empty() { None } else { Some(wrong.join("; ")) })
    }
}
