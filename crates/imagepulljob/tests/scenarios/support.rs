//! A cluster with a whole manager, and agents that answer for the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Event, Namespace};
use kruise_api::imagelistpulljob::ImageListPullJob;
use kruise_api::imagepulljob::ImagePullJob;
use kruise_api::nodeimage::{ImagePullPhase, NodeImage};
use kruise_playground::{MANAGER, Options, Playground};
use kruise_sandbox::clock::{self, WallClock};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The namespace of the users.
pub(crate) const SHOP: &str = "shop";
/// The namespace of copied Secrets.
pub(crate) const CONFIG: &str = "kruise-daemon-config";

/// What an agent does with a pull.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    Succeed,
    Fail,
    /// Says that it pulls, and nothing more.
    Hang,
    /// Says nothing.
    Ignore,
}

type Decide = Arc<dyn Fn(&str, &str) -> Answer + Send + Sync>;

/// What the agents have seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Node, image, tag and version of every pull begun.
    pub(crate) pulls: Vec<(String, String, String, i64)>,
    /// Nodes that pull now.
    now: usize,
    /// Most nodes that pulled at once.
    pub(crate) most: usize,
}

pub(crate) struct World {
    pub(crate) playground: Playground,
    pub(crate) client: Client,
    pub(crate) clock: WallClock,
    pub(crate) seen: Arc<Mutex<Seen>>,
    decide: Arc<Mutex<Decide>>,
    _agents: JoinSet<()>,
}

impl World {
    /// A cluster of so many nodes, whose agents take a second for each pull, and each node of which has its object.
    pub(crate) async fn new(nodes: u32, flags: &[&str]) -> Self {
        let clock = clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let mut options = Options::new(nodes, Arc::clone(&clock)).with_admission();
        options.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        options.nodes.labels = BTreeMap::from([("pool".to_owned(), "a".to_owned())]);
        let playground = Playground::start(options).await.unwrap();
        let client = playground.client();
        let seen = Arc::<Mutex<Seen>>::default();
        let always: Decide = Arc::new(|_, _| Answer::Succeed);
        let decide = Arc::new(Mutex::new(always));
        let mut agents = JoinSet::new();
        agents.spawn(agents_of(
            playground.server().client_as("daemon"),
            Arc::clone(&clock),
            Arc::clone(&decide),
            Arc::clone(&seen),
        ));
        for name in [SHOP, CONFIG] {
            let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        }
        let world = Self { playground, client, clock, seen, decide, _agents: agents };
        if nodes > 0 {
            world
                .until("every node has its object", 120, async || world.nodes().await.len() == nodes as usize)
                .await;
        }
        world
    }

    /// One whose nodes get their objects at once, with image pulling on.
    pub(crate) async fn quick(nodes: u32) -> Self {
        Self::new(nodes, &["--feature-gates=ImagePullJobGate=true", "--nodeimage-creation-delay=0s"]).await
    }

    /// What agents do from now on, by node and image.
    pub(crate) fn agents(&self, decide: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) {
        *self.decide.lock().unwrap() = Arc::new(decide);
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), SHOP)
    }

    pub(crate) async fn create<K>(&self, namespace: &str, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    pub(crate) async fn job(&self, name: &str, spec: Value) -> ImagePullJob {
        self.create(SHOP, job(name, spec)).await
    }

    pub(crate) async fn job_now(&self, name: &str) -> Option<ImagePullJob> {
        self.api::<ImagePullJob>().get_opt(name).await.unwrap()
    }

    pub(crate) async fn list(&self, name: &str, spec: Value) -> ImageListPullJob {
        let object = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "ImageListPullJob",
            "metadata": {"name": name}, "spec": spec});
        self.create(SHOP, object).await
    }

    pub(crate) async fn change<K>(&self, name: &str, patch: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub(crate) async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let _answer = self.api::<K>().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// The job once it has completed.
    pub(crate) async fn completed(&self, name: &str) -> ImagePullJob {
        let done = async || {
            let job = self.job_now(name).await?;
            job.status.as_ref()?.completion_time.as_ref()?;
            Some(job)
        };
        self.some("the job has completed", 900, done).await
    }

    pub(crate) async fn nodes(&self) -> Vec<NodeImage> {
        Api::<NodeImage>::all(self.client.clone()).list(&ListParams::default()).await.unwrap().items
    }

    /// The nodes with an entry for an image.
    pub(crate) async fn nodes_with(&self, image: &str) -> BTreeSet<String> {
        let has =
            |node: &NodeImage| node.spec.images.as_ref().is_some_and(|images| images.contains_key(image));
        self.nodes().await.into_iter().filter(has).map(|node| node.name_any()).collect()
    }

    pub(crate) async fn events(&self, namespace: &str, reason: &str) -> Vec<Event> {
        let events = Api::<Event>::namespaced(self.client.clone(), namespace);
        let mut found = events.list(&ListParams::default()).await.unwrap().items;
        found.retain(|event| event.reason.as_deref() == Some(reason));
        found
    }

    /// Waits until something holds, in the cluster's time.
    pub(crate) async fn until<F: Future<Output = bool>>(
        &self,
        what: &str,
        seconds: u64,
        holds: impl Fn() -> F,
    ) {
        self.some(what, seconds, async || holds().await.then_some(())).await;
    }

    pub(crate) async fn some<T>(&self, what: &str, seconds: u64, look: impl AsyncFn() -> Option<T>) -> T {
        let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(tokio::time::Instant::now() < end, "not within {seconds} s: {what}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Lets everything come to rest.
    pub(crate) async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    pub(crate) fn manager_writes(&self) -> u64 {
        self.playground.server().writes(Some(MANAGER))
    }
}

pub(crate) fn job(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec.as_object_mut().unwrap().entry("completionPolicy").or_insert(json!({}));
    json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "ImagePullJob", "metadata": {"name": name}, "spec": spec})
}

/// The agents of all nodes.
async fn agents_of(client: Client, clock: WallClock, decide: Arc<Mutex<Decide>>, seen: Arc<Mutex<Seen>>) {
    let api = Api::<NodeImage>::all(client);
    let stream = watcher::watcher(api.clone(), watcher::Config::default());
    pin_mut!(stream);
    let mut pulls = JoinSet::new();
    let mut begun = BTreeSet::new();
    while let Some(event) = stream.next().await {
        let (watcher::Event::Apply(node) | watcher::Event::InitApply(node)) = event.unwrap() else {
            continue;
        };
        let name = node.name_any();
        for (image, spec) in node.spec.images.clone().unwrap_or_default() {
            for tag in spec.tags {
                let answer = (decide.lock().unwrap())(&name, &image);
                let pull = (name.clone(), image.clone(), tag.tag.clone(), tag.version);
                if answer == Answer::Ignore || !begun.insert((node.uid(), pull.clone())) {
                    continue;
                }
                let mut now = seen.lock().unwrap();
                now.pulls.push(pull.clone());
                now.now += 1;
                now.most = now.most.max(now.now);
                drop(now);
                pulls.spawn(pull_one(api.clone(), pull, answer, Arc::clone(&clock), Arc::clone(&seen)));
            }
        }
    }
}

async fn pull_one(
    api: Api<NodeImage>,
    (node, image, tag, version): (String, String, String, i64),
    answer: Answer,
    clock: WallClock,
    seen: Arc<Mutex<Seen>>,
) {
    let report = async |phase: ImagePullPhase| {
        let Some(now) = api.get_opt(&node).await.unwrap() else { return };
        let wanted = now.spec.images.iter().flatten().map(|(_, image)| image.tags.len()).sum::<usize>();
        let mut statuses = now.status.and_then(|status| status.image_statuses).unwrap_or_default();
        let tags = &mut statuses.entry(image.clone()).or_default().tags;
        tags.retain(|status| status.tag != tag);
        let mut status = json!({"tag": tag, "phase": phase, "version": version});
        if matches!(phase, ImagePullPhase::Succeeded | ImagePullPhase::Failed) {
            status["completionTime"] =
                json!(jiff::Timestamp::from_second(clock().as_second()).unwrap().to_string());
        }
        tags.push(serde_json::from_value(status).unwrap());
        tags.sort_by(|a, b| a.tag.cmp(&b.tag));
        let count = |phase| {
            statuses.values().flat_map(|image| &image.tags).filter(|status| status.phase == phase).count()
        };
        let patch = json!({"status": {"desired": wanted, "succeeded": count(ImagePullPhase::Succeeded),
            "failed": count(ImagePullPhase::Failed), "pulling": count(ImagePullPhase::Pulling),
            "imageStatuses": {&image: statuses[&image]}}});
        api.patch_status(&node, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    report(ImagePullPhase::Pulling).await;
    if answer == Answer::Hang {
        return;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    seen.lock().unwrap().now -= 1;
    report(if answer == Answer::Fail { ImagePullPhase::Failed } else { ImagePullPhase::Succeeded }).await;
}
