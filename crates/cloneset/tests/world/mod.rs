//! An API server in memory, a kubelet of a kind, and the manager that works between them.
#![allow(dead_code, reason = "each test file uses its part")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response};
use jiff::{SignedDuration, Timestamp};
use kruise_cloneset::apply::Executor;
use kruise_cloneset::controller::{Context, reconcile};
use kruise_cloneset::plan::Options;
use kruise_cloneset::stores::{SetView, Stores};
use kruise_common::budget::Permits;
use kruise_common::inplace::InPlaceOptions;
use kruise_common::key::ObjectKey;
use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use kruise_common::revision::Revision;
use kruise_runtime::controller::{Failed, Requeue};
use kruise_runtime::events::EventRecorder;
use kube::client::Body;
use serde_json::{Value, json};

pub(crate) const REPLICAS: usize = 5;

/// Which write is the last one before the connection breaks, and whether its answer still arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crash {
    pub(crate) after: usize,
    pub(crate) answered: bool,
}

#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) objects: BTreeMap<(String, String), Value>,
    pub(crate) version: u64,
    pub(crate) writes: Vec<String>,
    pub(crate) requests: usize,
    pub(crate) crash: Option<Crash>,
    pub(crate) most_pods: usize,
    /// The namespace is being deleted.
    pub(crate) going: bool,
    /// Writes that begin with this are refused.
    pub(crate) refused: Option<&'static str>,
    /// The next write that begins with this is carried out, and its answer is lost.
    pub(crate) lose: Option<&'static str>,
}

impl Cluster {
    pub(crate) fn of(&self, resource: &str) -> Vec<Value> {
        self.objects
            .iter()
            .filter(|((kind, _), _)| kind == resource)
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub(crate) fn put(&mut self, resource: &str, name: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert((resource.to_owned(), name.to_owned()), object.clone());
        self.most_pods = self.most_pods.max(self.of("pods").len());
        object
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.writes.iter().filter(|write| write.starts_with(what)).count()
    }

    pub(crate) fn broken(&self) -> bool {
        self.crash.is_some_and(|crash| self.writes.len() >= crash.after)
    }

    /// Answers one request; `None` when the connection is broken.
    pub(crate) fn answer(
        &mut self,
        method: &Method,
        path: &str,
        dry_run: bool,
        body: &[u8],
    ) -> Option<(u16, Value)> {
        self.requests += 1;
        if self.broken() {
            return None;
        }
        let parts: Vec<&str> =
            path.trim_matches('/').split('/').skip_while(|part| *part != "namespaces").collect();
        let (resource, name, sub) =
            (parts[2], parts.get(3).copied(), parts.get(4).copied().unwrap_or_default());
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let name = name.map_or_else(|| body["metadata"]["name"].as_str().unwrap().to_owned(), str::to_owned);
        let stored = self.objects.get(&(resource.to_owned(), name.clone())).cloned();
        if *method == Method::GET {
            return Some(stored.map_or_else(|| refusal(404, "NotFound"), |object| (200, object)));
        }
        let write = format!("{method} {resource}/{sub} {name}");
        let refused = self.refused.is_some_and(|what| write.starts_with(what));
        if !dry_run {
            self.writes.push(write);
        }
        let answer = match (method.as_str(), stored) {
            _ if refused => refusal(403, "Forbidden"),
            (_, Some(object)) if dry_run => (200, object),
            ("POST", Some(_)) => refusal(409, "AlreadyExists"),
            ("POST", None) if self.going => {
                let (code, mut status) = refusal(403, "Forbidden");
                status["details"] = json!({"causes": [{"reason": "NamespaceTerminating"}]});
                (code, status)
            }
            ("POST", None) => {
                let mut object = body;
                object["metadata"]["uid"] = format!("uid-{name}").into();
                object["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z".into();
                (201, self.put(resource, &name, object))
            }
            ("PATCH", Some(mut object)) => {
                let expected = &body["metadata"]["resourceVersion"];
                if !expected.is_null() && *expected != object["metadata"]["resourceVersion"] {
                    return Some(refusal(409, "Conflict"));
                }
                let before = object.clone();
                merge(&mut object, &body, resource == "pods");
                // A patch that changes nothing gets no new version, as on a real server.
                if object == before { (200, object) } else { (200, self.put(resource, &name, object)) }
            }
            _ => refusal(404, "NotFound"),
        };
        let forgotten = !dry_run
            && self.lose.is_some_and(|what| self.writes.last().is_some_and(|write| write.starts_with(what)));
        if forgotten {
            self.lose = None;
        }
        let lost = forgotten || self.broken() && self.crash.is_some_and(|crash| !crash.answered);
        (!lost).then_some(answer)
    }
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code});
    (code, status)
}

/// Merge, also strategic as far as it is used: lists of containers by name, of conditions by type.
fn merge(target: &mut Value, patch: &Value, strategic: bool) {
    let Some(entries) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in entries {
        let by = match key.as_str() {
            "containers" if strategic => "name",
            "conditions" if strategic => "type",
            _ => "",
        };
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else if let (false, Some(items)) = (by.is_empty(), value.as_array()) {
            if !target[key].is_array() {
                target[key] = json!([]);
            }
            let list = target[key].as_array_mut().unwrap();
            for item in items {
                match list.iter_mut().find(|known| known[by] == item[by]) {
                    Some(known) => merge(known, item, strategic),
                    None => list.push(item.clone()),
                }
            }
        } else {
            merge(&mut target[key], value, strategic);
        }
    }
}

/// A cluster and the manager that works in it.
pub(crate) struct World {
    pub(crate) cluster: Arc<Mutex<Cluster>>,
    pub(crate) context: Arc<Context>,
    pub(crate) clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub(crate) permits: Option<Arc<dyn Permits>>,
    /// After what time the round that failed last wants another all the same.
    pub(crate) due: Cell<Option<Duration>>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(None, |_| ())
    }

    /// A world whose set differs from the usual one, and whose updates ask for permits.
    pub(crate) fn with(permits: Option<Arc<dyn Permits>>, differ: impl FnOnce(&mut Value)) -> Self {
        let cluster = Arc::new(Mutex::new(Cluster::default()));
        let labels = json!({"app": "web"});
        let mut set = json!({
            "apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet",
            "metadata": {"name": "web", "namespace": "default", "uid": "uid-web", "generation": 1},
            "spec": {
                "replicas": REPLICAS,
                "selector": {"matchLabels": labels},
                "updateStrategy": {"rollingUpdate": {"podUpdatePolicy": "InPlaceIfPossible", "maxUnavailable": 2}},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "web:1"}]}},
            },
        });
        differ(&mut set);
        cluster.lock().unwrap().put("clonesets", "web", set);
        let (start, began) = (Timestamp::from_second(1_735_689_600).unwrap(), tokio::time::Instant::now());
        let clock: Arc<dyn Fn() -> Timestamp + Send + Sync> =
            Arc::new(move || start + SignedDuration::try_from(began.elapsed()).unwrap());
        let context = manager(&cluster, &clock, permits.clone());
        Self { cluster, context, clock, permits, due: Cell::new(None) }
    }

    /// A new manager that has only seen what the API server holds.
    pub(crate) fn restart(&mut self) {
        self.cluster.lock().unwrap().crash = None;
        self.context = manager(&self.cluster, &self.clock, self.permits.clone());
    }

    pub(crate) fn change_image(&self, image: &str) {
        self.change(|set| set["spec"]["template"]["spec"]["containers"][0]["image"] = image.into());
    }

    /// A user changes the set.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut cluster = self.cluster.lock().unwrap();
        let mut set = cluster.of("clonesets").remove(0);
        let generation = set["metadata"]["generation"].as_i64().unwrap();
        set["metadata"]["generation"] = (generation + 1).into();
        change(&mut set);
        let set = cluster.put("clonesets", "web", set);
        self.context.stores.sets.apply_own(SetView::of(serde_json::from_value(set).unwrap()).unwrap());
    }

    /// Gives every pod a node, which the manager sees.
    pub(crate) fn schedule(&self) {
        let mut cluster = self.cluster.lock().unwrap();
        for mut pod in cluster.of("pods") {
            pod["spec"]["nodeName"] = "node".into();
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            let pod = cluster.put("pods", &name, pod);
            self.context.stores.pods.apply_own(pod_view(pod));
        }
    }

    /// Runs what each pod asks for; true if a pod changed.
    pub(crate) fn kubelet(&self) -> bool {
        let now = (self.clock)().to_string();
        let mut cluster = self.cluster.lock().unwrap();
        let mut changed = false;
        for before in cluster.of("pods") {
            let mut pod = before.clone();
            let image = pod["spec"]["containers"][0]["image"].clone();
            pod["spec"]["nodeName"] = "node".into();
            let gate_open =
                pod["status"]["conditions"].as_array().into_iter().flatten().any(|condition| {
                    condition["type"] == "InPlaceUpdateReady" && condition["status"] == "True"
                });
            let mut set_condition = |kind: &str, holds: bool| {
                let status = if holds { "True" } else { "False" };
                let same = pod["status"]["conditions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|known| known["type"] == kind && known["status"] == status);
                if !same {
                    merge(
                        &mut pod,
                        &json!({"status": {"conditions": [{"type": kind, "status": status, "lastTransitionTime": now}]}}),
                        true,
                    );
                }
            };
            set_condition("ContainersReady", true);
            set_condition("Ready", gate_open);
            pod["status"]["phase"] = "Running".into();
            pod["status"]["containerStatuses"] = json!([{
                "name": "main", "image": image, "imageID": format!("sha256:{image}"), "ready": true, "started": true,
                "restartCount": 0, "state": {"running": {"startedAt": "2025-01-01T00:00:00Z"}},
            }]);
            if pod != before {
                let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
                let pod = cluster.put("pods", &name, pod);
                self.context.stores.pods.apply_own(pod_view(pod));
                changed = true;
            }
        }
        changed
    }

    pub(crate) async fn round(&self) -> bool {
        let key = ObjectKey::new("default", "web");
        let result = reconcile(key, Arc::clone(&self.context)).await;
        if let Err(Failed { due: Some(due), .. }) = &result {
            self.due.set(Some(*due));
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        matches!(result, Ok(Requeue::None))
    }

    /// Rounds until nothing happens any more; a manager that lost its connection is replaced.
    pub(crate) async fn rest(&mut self) {
        let mut quiet = 0;
        for _ in 0..200 {
            let requests = self.cluster.lock().unwrap().requests;
            let content = self.round().await;
            if self.cluster.lock().unwrap().broken() {
                self.restart();
                quiet = 0;
                continue;
            }
            let acted = self.cluster.lock().unwrap().requests > requests;
            let ran = self.kubelet();
            quiet = if acted || ran || !content { 0 } else { quiet + 1 };
            if quiet == 3 {
                return;
            }
        }
        panic!("it does not come to rest: {:#?}", self.cluster.lock().unwrap().writes);
    }
}

fn pod_view(pod: Value) -> PodView {
    PodView::from(serde_json::from_value::<PodWire>(pod).unwrap())
}

fn manager(
    cluster: &Arc<Mutex<Cluster>>,
    clock: &Arc<dyn Fn() -> Timestamp + Send + Sync>,
    permits: Option<Arc<dyn Permits>>,
) -> Arc<Context> {
    let stores = Stores::default();
    {
        let cluster = cluster.lock().unwrap();
        for set in cluster.of("clonesets") {
            stores.sets.apply_own(SetView::of(serde_json::from_value(set).unwrap()).unwrap());
        }
        for pod in cluster.of("pods") {
            stores.pods.apply_own(pod_view(pod));
        }
        for revision in cluster.of("controllerrevisions") {
            let revision = serde_json::from_value(revision).unwrap();
            stores.revisions.apply_own(Revision::of(revision).unwrap());
        }
    }
    let server = Arc::clone(cluster);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let dry_run = head.uri.query().is_some_and(|query| query.contains("dryRun=All"));
            let answer = server.lock().unwrap().answer(&head.method, head.uri.path(), dry_run, &body);
            let (code, object) =
                answer.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionReset))?;
            let body = Body::from(serde_json::to_vec(&object).unwrap());
            Ok::<_, std::io::Error>(Response::builder().status(code).body(body).unwrap())
        }
    });
    let client = kube::Client::new(service, "default");
    let (events, _) = EventRecorder::new("cloneset-controller", 1, Arc::clone(clock));
    let in_place = InPlaceOptions { vertical_scaling: true, ..InPlaceOptions::default() };
    let options = Options { in_place, ..Options::default() };
    let executor = Executor::new(client, stores.clone(), events, options.clone());
    let context = Context::new(stores, executor, options, Arc::clone(clock));
    Arc::new(match permits {
        Some(permits) => context.permits(permits),
        None => context,
    })
}
