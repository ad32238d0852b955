//! The watches of the process: one per kind, started when the first part asks for it, shared by all others.
//!
//! A kind of a CustomResourceDefinition is watched while that definition exists: before, its store is not ready; after
//! the definition is gone, it is empty.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kruise_common::key::{ObjectKey, Uid};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::store::{Store, View, run_watch};

/// Groups whose kinds come from definitions that may be missing.
const OWN_GROUPS: &str = ".kruise.io";

/// Names of CustomResourceDefinitions, such as `clonesets.apps.kruise.io`, that exist.
pub type Served = watch::Receiver<BTreeSet<String>>;

/// A definition as it is kept: that it exists.
#[derive(Debug)]
struct Definition {
    key: ObjectKey,
    uid: Uid,
    resource_version: Arc<str>,
}

impl Definition {
    fn of(definition: PartialObjectMeta<CustomResourceDefinition>) -> Option<Self> {
        let meta = definition.metadata;
        Some(Self {
            key: ObjectKey::new("", meta.name.as_deref()?),
            uid: Uid::from(meta.uid.as_deref()?),
            resource_version: Arc::from(meta.resource_version.as_deref()?),
        })
    }
}

impl View for Definition {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn resource_version(&self) -> &str {
        &self.resource_version
    }

    fn owners(&self) -> Vec<Uid> {
        Vec::new()
    }
}

/// Hands out stores and runs the watches behind them. Clones share everything; when the last one is dropped, the
/// watches stop.
#[derive(Clone)]
pub struct Watches {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    /// Empty for all.
    namespace: String,
    served: Served,
    stores: Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>,
    sizes: Sizes,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watches").field("namespace", &self.inner.namespace).finish_non_exhaustive()
    }
}

impl Watches {
    /// No watch yet but the one of definitions. `namespace` narrows namespaced kinds; empty means all.
    pub fn new(client: kube::Client, namespace: &str) -> Self {
        let definitions: Store<Definition> = Store::new();
        let (known, served) = watch::channel(BTreeSet::new());
        definitions.subscribe(Box::new(move |change| {
            known.send_modify(|known| {
                if let (Some(old), None) = (&change.old, &change.new) {
                    known.remove(&*old.key.name);
                }
                if let Some(new) = &change.new {
                    known.insert(new.key.name.to_string());
                }
            });
        }));
        let mut tasks = JoinSet::new();
        let api = Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client.clone());
        tasks.spawn(run_watch(api, Definition::of, definitions, watcher::Config::default()));
        Self {
            inner: Arc::new(Inner {
                client,
                namespace: namespace.to_owned(),
                served,
                stores: Mutex::default(),
                sizes: Sizes::default(),
                tasks: Mutex::new(tasks),
            }),
        }
    }

    /// Which definitions exist.
    pub fn served(&self) -> Served {
        self.inner.served.clone()
    }

    /// The store of a namespaced kind; its watch starts with the first call for `V`.
    pub fn namespaced<W, V>(&self, project: fn(W) -> Option<V>) -> Store<V>
    where
        W: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + fmt::Debug
            + DeserializeOwned
            + Send
            + 'static,
        V: View,
    {
        let client = self.inner.client.clone();
        let api = if self.inner.namespace.is_empty() {
            Api::all(client)
        } else {
            Api::namespaced(client, &self.inner.namespace)
        };
        self.store(api, project)
    }

    /// The store of a cluster-scoped kind; its watch starts with the first call for `V`.
    pub fn cluster<W, V>(&self, project: fn(W) -> Option<V>) -> Store<V>
    where
        W: Resource<DynamicType = (), Scope = ClusterResourceScope>
            + Clone
            + fmt::Debug
            + DeserializeOwned
            + Send
            + 'static,
        V: View,
    {
        self.store(Api::all(self.inner.client.clone()), project)
    }

    fn store<W, V>(&self, api: Api<W>, project: fn(W) -> Option<V>) -> Store<V>
    where
        W: Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + 'static,
        V: View,
    {
        let mut stores = locked(&self.inner.stores);
        let known = stores.get(&TypeId::of::<V>()).and_then(|store| store.downcast_ref::<Store<V>>());
        if let Some(store) = known {
            return store.clone();
        }
        let store = Store::<V>::new();
        stores.insert(TypeId::of::<V>(), Box::new(store.clone()));
        let (group, plural) = (W::group(&()), W::plural(&()));
        let resource = if group.is_empty() { plural.to_string() } else { format!("{plural}.{group}") };
        let sized = store.clone();
        self.inner.sizes.add(resource.clone(), Box::new(move || sized.len()));
        let served = group.ends_with(OWN_GROUPS).then(|| (resource, self.served()));
        locked(&self.inner.tasks).spawn(watch_while_served(api, project, store.clone(), served));
        store
    }

    /// Resolves when a watch has ended, which only a panic can do to one.
    pub async fn ended(&self) -> anyhow::Error {
        poll_fn(|context| match locked(&self.inner.tasks).poll_join_next(context) {
            Poll::Ready(Some(Err(error))) => Poll::Ready(anyhow::Error::new(error).context("a watch ended")),
            Poll::Ready(Some(Ok(()))) => Poll::Ready(anyhow::anyhow!("a watch ended early")),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// `kruise_cache_objects`, to be registered once.
    ///
    /// # Errors
    /// The metric's own description is refused.
    pub fn collector(&self) -> prometheus::Result<impl Collector + 'static> {
        CacheObjects::new(self.inner.sizes.clone())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn watch_while_served<W, V>(
    api: Api<W>,
    project: fn(W) -> Option<V>,
    store: Store<V>,
    served: Option<(String, Served)>,
) where
    W: Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + 'static,
    V: View,
{
    let Some((definition, mut served)) = served else {
        return run_watch(api, project, store, watcher::Config::default()).await;
    };
    loop {
        if served.wait_for(|known| known.contains(&definition)).await.is_err() {
            return;
        }
        tokio::select! {
            () = run_watch(api.clone(), project, store.clone(), watcher::Config::default()) => return,
            gone = served.wait_for(|known| !known.contains(&definition)) => if gone.is_err() { return },
        }
        tracing::warn!(definition, "the definition is gone, and its objects with it");
        store.apply_event(Event::Init);
        store.apply_event(Event::InitDone);
    }
}

type Size = Box<dyn Fn() -> usize + Send + Sync>;

/// How many objects each store holds, by resource.
#[derive(Clone, Default)]
struct Sizes(Arc<Mutex<BTreeMap<String, Size>>>);

impl Sizes {
    fn add(&self, resource: String, size: Size) {
        locked(&self.0).insert(resource, size);
    }
}

/// Asks the stores when it is scraped.
struct CacheObjects {
    sizes: Sizes,
    gauge: IntGaugeVec,
}

impl CacheObjects {
    fn new(sizes: Sizes) -> prometheus::Result<Self> {
        let about = "Number of objects held in memory, by resource.";
        let gauge = IntGaugeVec::new(Opts::new("kruise_cache_objects", about), &["resource"])?;
        Ok(Self { sizes, gauge })
    }
}

impl Collector for CacheObjects {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (resource, size) in locked(&self.sizes.0).iter() {
            self.gauge.with_label_values(&[resource]).set(i64::try_from(size()).unwrap_or(i64::MAX));
        }
        self.gauge.collect()
    }
}
