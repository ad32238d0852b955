//! The API server: requests in, objects and watches out.
//!
//! One request runs through [`handler`] (what is asked, faults), then `read`, `watch`, `write` or `delete`, which end in
//! [`storage`]. The store's lock is held for single steps only, never across an await; writes are optimistic.

mod admit;
mod answer;
mod convert;
mod decode;
mod delete;
mod effects;
mod evict;
mod fault;
mod handler;
mod journal;
mod json;
mod listen;
mod other;
mod owners;
mod patches;
mod pipeline;
mod protobuf;
mod read;
mod registry;
mod render;
mod route;
mod selector;
mod service;
mod signal;
pub(crate) mod storage;
mod sub;
mod watch;
mod write;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

pub use answer::{Body, BodyError};
pub use fault::{Decision, Delivery, Fate, Interceptor, Requests, WatchEvent};
pub use listen::{Identity, IdentityError, kubeconfig};
pub use route::{RequestInfo, Verb};
pub use selector::{Fields, Labels};
pub use service::Service;
pub use storage::EventKind;

use crate::clock::{self, WallClock};
use crate::resource::Resource;
use crate::webhook::{InProcess, WebhookCaller};
use admit::Configurations;
use registry::Registry;
use storage::{Store, lock};

/// How a server is set up. Start from [`Config::default`].
#[derive(Clone)]
pub struct Config {
    /// Where timestamps come from.
    pub clock: WallClock,
    /// Whether `metadata.managedFields` are kept; server-side apply needs them.
    pub managed_fields: bool,
    /// Makes uids and generated names repeatable; random when `None`.
    pub seed: Option<u64>,
    /// How many changes per resource watches and consistent lists can go back.
    pub history: usize,
    /// How often idle watches that allow bookmarks get one.
    pub bookmark_every: Duration,
    /// How webhooks are reached.
    pub webhooks: Arc<dyn WebhookCaller>,
    /// Faults on purpose.
    pub interceptor: Option<Arc<dyn Interceptor>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            clock: clock::system(),
            managed_fields: true,
            seed: None,
            history: 4096,
            bookmark_every: Duration::from_mins(1),
            webhooks: Arc::new(InProcess::new()),
            interceptor: None,
        }
    }
}

/// One change of one object, as the history keeps it.
#[derive(Clone, Debug)]
pub struct Change(Arc<storage::Event>);

impl Change {
    /// The resourceVersion the change made.
    pub fn resource_version(&self) -> u64 {
        self.0.rv
    }

    /// Whether the object was created, changed or deleted.
    pub fn kind(&self) -> EventKind {
        self.0.kind
    }

    /// The object after the change; of a deleted one the last state.
    pub fn object(&self) -> &Value {
        &self.0.object.value
    }

    /// The object before the change.
    pub fn previous(&self) -> Option<&Value> {
        self.0.previous.as_ref().map(|previous| &previous.value)
    }
}

/// An API server in memory. Clones are the same server.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    config: Config,
    store: Mutex<Store>,
    random: Mutex<StdRng>,
    registry: RwLock<Registry>,
    requests: Mutex<Requests>,
    configurations: Mutex<Arc<Configurations>>,
    number: AtomicU64,
}

/// The namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

impl Server {
    /// A server with the built-in resources and the namespaces every cluster has.
    pub fn new(config: Config) -> Self {
        let server = Self::empty(config);
        for name in NAMESPACES {
            let value = json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {
                    "name": name,
                    "uid": server.new_uid(),
                    "creationTimestamp": server.time(),
                    "labels": {"kubernetes.io/metadata.name": name},
                },
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            });
            let created = lock(&server.0.store).insert("namespaces", name, value);
            debug_assert!(created.is_ok(), "the store was empty");
        }
        server
    }

    fn empty(config: Config) -> Self {
        let random = config.seed.map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64);
        Self(Arc::new(Inner {
            store: Mutex::new(Store::new(config.history)),
            random: Mutex::new(random),
            registry: RwLock::new(Registry::default()),
            requests: Mutex::new(Requests::new()),
            configurations: Mutex::default(),
            number: AtomicU64::new(0),
            config,
        }))
    }

    /// A client that talks to the server in-process, without sockets. Its requests are those of client `in-process`.
    pub fn client(&self) -> kube::Client {
        self.client_as("in-process")
    }

    /// An in-process client under a name of its own, by which interceptors and [`Server::requests`] tell it apart.
    pub fn client_as(&self, name: &str) -> kube::Client {
        kube::Client::new(self.service().named(name), "default")
    }

    /// The server as a `tower` service over HTTP requests.
    pub fn service(&self) -> Service {
        Service::new(self.clone())
    }

    /// How often each client has asked each verb of each resource, refused requests included, since the last [`Server::reset_requests`].
    pub fn requests(&self) -> Requests {
        lock(&self.0.requests).clone()
    }

    /// Number of writes (create, update, patch, delete, deletecollection) of a client, or of all clients.
    pub fn writes(&self, client: Option<&str>) -> u64 {
        let requests = lock(&self.0.requests);
        requests
            .iter()
            .filter(|((who, verb, _), _)| verb.is_write() && client.is_none_or(|client| client == who))
            .map(|(_, count)| count)
            .sum()
    }

    /// Starts the counts of [`Server::requests`] anew.
    pub fn reset_requests(&self) {
        lock(&self.0.requests).clear();
    }

    /// The resourceVersion of the last change.
    pub fn resource_version(&self) -> u64 {
        lock(&self.0.store).rv()
    }

    /// What happened to a kind (`pods`, `clonesets.apps.kruise.io`) after a resourceVersion, as far as the history
    /// reaches back.
    pub fn changes(&self, resource: &str, after: u64) -> Vec<Change> {
        let store = lock(&self.0.store);
        let all = |from: u64| store.after(resource, from, usize::MAX);
        let events = all(after).or_else(|oldest| all(oldest.saturating_sub(1)));
        events.unwrap_or_default().into_iter().map(Change).collect()
    }

    /// Forgets the history: watches and lists from older resourceVersions answer 410 from now on.
    pub fn compact(&self) {
        lock(&self.0.store).compact();
    }

    /// Everything the server stores, as one JSON document for [`Server::restore`].
    pub fn snapshot(&self) -> Value {
        let store = lock(&self.0.store);
        let mut objects: Vec<(&str, &str, &Value)> =
            store.all().map(|(table, key, stored)| (&**table, &**key, &stored.value)).collect();
        objects.sort_by_key(|(table, key, _)| (*table, *key));
        let objects: Vec<Value> = objects
            .into_iter()
            .map(|(table, key, object)| json!({"table": table, "key": key, "object": object}))
            .collect();
        json!({"resourceVersion": store.rv(), "objects": objects})
    }

    /// A server with the objects of a snapshot, under their resourceVersions. There is no history before it.
    pub fn restore(config: Config, snapshot: &Value) -> Self {
        let server = Self::empty(config);
        {
            let mut store = lock(&server.0.store);
            let text = |entry: &Value, field: &str| {
                entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            for entry in snapshot.get("objects").and_then(Value::as_array).into_iter().flatten() {
                if let Some(object) = entry.get("object") {
                    store.put_back(&text(entry, "table"), &text(entry, "key"), object.clone());
                }
            }
            store.raise(snapshot.get("resourceVersion").and_then(Value::as_u64).unwrap_or(1));
            store.compact();
        }
        server.serve_stored();
        server
    }

    /// All resources served: built-in ones, then those of CustomResourceDefinitions.
    pub fn resources(&self) -> Vec<Arc<Resource>> {
        self.registry().all()
    }

    /// The resource is what is served under its name: its definition has not changed.
    fn serves(&self, resource: &Arc<Resource>) -> bool {
        let served = self.registry().get(&resource.group, &resource.plural);
        served.is_some_and(|served| Arc::ptr_eq(&served, resource))
    }

    fn registry(&self) -> std::sync::RwLockReadGuard<'_, Registry> {
        self.0.registry.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.0.config.clock)()
    }

    /// The current time as it stands in metadata.
    pub(crate) fn time(&self) -> String {
        crate::object::time(self.now())
    }

    pub(crate) fn new_uid(&self) -> String {
        let bytes: [u8; 16] = lock(&self.0.random).random();
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// Five characters to follow a `generateName`.
    pub(crate) fn new_suffix(&self) -> String {
        const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut random = lock(&self.0.random);
        (0..5)
            .filter_map(|_| ALPHABET.get(random.random_range(0..ALPHABET.len())))
            .map(|c| char::from(*c))
            .collect()
    }

    fn next_number(&self) -> u64 {
        self.0.number.fetch_add(1, Ordering::Relaxed) + 1
    }
}
