//! A cluster with a whole manager, and what users see of their jobs.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use kruise_api::broadcastjob::{BroadcastJob, BroadcastJobStatus};
use kruise_playground::{MANAGER, Options, Playground};
use kruise_sandbox::clock;
use kruise_sandbox::server::{Decision, Interceptor, RequestInfo};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// The namespace of the users.
pub(crate) const OPS: &str = "ops";
/// The name of every job.
pub(crate) const JOB: &str = "warm";

/// Decides what becomes of the requests of the manager.
pub(crate) struct Faults<F>(pub(crate) F);

impl<F: Fn(&RequestInfo) -> Decision + Send + Sync> Interceptor for Faults<F> {
    fn before(&self, request: &RequestInfo) -> Decision {
        if &*request.client == MANAGER { (self.0)(request) } else { Decision::default() }
    }
}

pub(crate) struct World {
    pub(crate) playground: Playground,
    pub(crate) client: Client,
    begin: tokio::time::Instant,
}

impl World {
    /// A cluster of so many nodes on which everything happens at once.
    pub(crate) async fn new(nodes: u32) -> Self {
        Self::with(nodes, |_| {}).await
    }

    /// One whose requests of the manager meet faults.
    pub(crate) async fn faulty(
        nodes: u32,
        faults: impl Fn(&RequestInfo) -> Decision + Send + Sync + 'static,
    ) -> Self {
        Self::with(nodes, |options| options.server.interceptor = Some(Arc::new(Faults(faults)))).await
    }

    pub(crate) async fn with(nodes: u32, change: impl FnOnce(&mut Options)) -> Self {
        let clock = clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let mut options = Options::new(nodes, Arc::clone(&clock)).with_admission();
        change(&mut options);
        let playground = Playground::start(options).await.unwrap();
        let client = playground.client();
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": OPS}})).unwrap();
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        let world = Self { playground, client, begin: tokio::time::Instant::now() };
        world.until("the nodes are there", async || world.nodes().await.len() == nodes as usize).await;
        world
    }

    /// Seconds since the beginning, in the cluster's time.
    pub(crate) fn seconds(&self) -> u64 {
        self.begin.elapsed().as_secs()
    }

    pub(crate) fn jobs(&self) -> Api<BroadcastJob> {
        Api::namespaced(self.client.clone(), OPS)
    }

    pub(crate) fn pod_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), OPS)
    }

    pub(crate) fn node_api(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Creates the job; the error is the API server's own.
    pub(crate) async fn try_create(&self, spec: Value) -> Result<BroadcastJob, kube::Error> {
        let job = serde_json::from_value(job(spec)).unwrap();
        self.jobs().create(&PostParams::default(), &job).await
    }

    pub(crate) async fn create(&self, spec: Value) -> BroadcastJob {
        self.try_create(spec).await.unwrap()
    }

    pub(crate) async fn change(&self, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.jobs().patch(JOB, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(crate) async fn change_node(&self, name: &str, patch: Value) {
        self.node_api().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Adds a node that simulated kubelets know nothing of: its pods stay Pending.
    pub(crate) async fn add_node(&self, name: &str) {
        let node = json!({"metadata": {"name": name}, "status": {"allocatable": {"pods": "10", "cpu": "4"}}});
        let made: Node = serde_json::from_value(node.clone()).unwrap();
        self.node_api().create(&PostParams::default(), &made).await.unwrap();
        let status = Patch::Merge(json!({"status": node["status"]}));
        self.node_api().patch_status(name, &PatchParams::default(), &status).await.unwrap();
    }

    pub(crate) async fn delete_pod(&self, name: &str) {
        let _answer = self.pod_api().delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub(crate) async fn job(&self) -> Option<BroadcastJob> {
        self.jobs().get_opt(JOB).await.unwrap()
    }

    pub(crate) async fn status(&self) -> BroadcastJobStatus {
        self.job().await.and_then(|job| job.status).unwrap_or_default()
    }

    /// active, succeeded, failed, desired.
    pub(crate) async fn counts(&self) -> (i32, i32, i32, i32) {
        let status = self.status().await;
        (status.active, status.succeeded, status.failed, status.desired)
    }

    pub(crate) async fn nodes(&self) -> Vec<Node> {
        self.node_api().list(&ListParams::default()).await.unwrap().items
    }

    pub(crate) async fn pods(&self) -> Vec<Pod> {
        let mut pods = self.pod_api().list(&ListParams::default()).await.unwrap().items;
        pods.sort_by_key(|pod| node_of(pod).to_owned());
        pods
    }

    /// The pod of a node.
    pub(crate) async fn pod_on(&self, node: &str) -> Option<Pod> {
        self.pods().await.into_iter().find(|pod| node_of(pod) == node)
    }

    pub(crate) async fn events(&self, reason: &str) -> Vec<String> {
        let events = Api::<Event>::namespaced(self.client.clone(), OPS);
        let events = events.list(&ListParams::default()).await.unwrap().items;
        let ours = events.into_iter().filter(|event| {
            event.reason.as_deref() == Some(reason)
                && event.involved_object.kind.as_deref() == Some("BroadcastJob")
        });
        // What is repeated is counted up in one event.
        ours.flat_map(|event| {
            let times = usize::try_from(event.count.unwrap_or(1)).unwrap();
            vec![event.message.unwrap_or_default(); times]
        })
        .collect()
    }

    pub(crate) async fn phase(&self, phase: &str) -> BroadcastJobStatus {
        self.some(&format!("the job is {phase}"), async || {
            Some(self.status().await).filter(|status| status.phase.as_deref() == Some(phase))
        })
        .await
    }

    /// Waits until something holds, in the cluster's time.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        self.some(what, async || holds().await.then_some(())).await;
    }

    pub(crate) async fn some<T>(&self, what: &str, look: impl AsyncFn() -> Option<T>) -> T {
        let end = tokio::time::Instant::now() + Duration::from_mins(10);
        loop {
            if let Some(found) = look().await {
                return found;
            }
            if tokio::time::Instant::now() >= end {
                let pods: Vec<_> =
                    self.pods().await.iter().map(|pod| json!({"n": node_of(pod), "s": pod.status})).collect();
                panic!("never: {what}\n{:#?}\n{}", self.job().await, json!(pods));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lets time pass.
    pub(crate) async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// Writes of the manager, by verb and resource, to what is not an event.
    pub(crate) fn writes(&self, resource: &str) -> u64 {
        let requests = self.playground.server().requests();
        let ours = requests
            .iter()
            .filter(|((client, verb, of), _)| client == MANAGER && verb.is_write() && of == resource);
        ours.map(|(_, count)| count).sum()
    }

    /// Most pods that were neither ended nor gone at the same time, as far as the history reaches back.
    pub(crate) fn most_active(&self) -> usize {
        let mut now = std::collections::BTreeSet::new();
        let mut most = 0;
        for change in self.playground.server().changes("pods", 0) {
            let pod = change.object();
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            let deleted = pod["metadata"].get("deletionTimestamp").is_some();
            if over || deleted {
                now.remove(&name)
            } else {
                now.insert(name)
            };
            most = most.max(now.len());
        }
        most
    }
}

pub(crate) fn node_of(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref().unwrap();
    let pinned = || {
        let required = spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let required = required.required_during_scheduling_ignored_during_execution.as_ref()?;
        let field = required.node_selector_terms.first()?.match_fields.as_ref()?.first()?;
        field.values.as_ref()?.first().map(String::as_str)
    };
    spec.node_name.as_deref().or_else(pinned).unwrap_or_default()
}

/// When pods were told to go, and what their phase is.
pub(crate) fn phase_of(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// A job whose pods run the command `run`, by default for a second, under the restart policy `restart`.
pub(crate) fn job(spec: Value) -> Value {
    let mut spec = spec;
    let map = spec.as_object_mut().unwrap();
    let run = map.remove("run").unwrap_or_else(|| json!("sleep 1"));
    let restart = map.remove("restart").unwrap_or_else(|| json!("Never"));
    let mut pod = json!({"restartPolicy": restart, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "x:1", "command": ["sh", "-c", run]}]});
    for (key, value) in map.remove("pod").unwrap_or_default().as_object().into_iter().flatten() {
        pod[key] = value.clone();
    }
    map.insert("template".to_owned(), json!({"spec": pod}));
    json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "BroadcastJob", "metadata": {"name": JOB}, "spec": spec})
}

/// The time a status names.
pub(crate) fn time(time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>) -> Timestamp {
    time.unwrap().0
}

/// The names of pods.
pub(crate) fn names(pods: &[Pod]) -> Vec<String> {
    pods.iter().map(ResourceExt::name_any).collect()
}
