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
use kube::{Api, Resource};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::store::{Event, Selection, Store, View, run_watch};

/// Where metadata are all that is read.
const METADATA_ONLY: Selection = Selection { labels: None, fields: None, metadata_only: true };

/// Groups whose kinds come from definitions that may be missing.
const OWN_GROUPS: &str = ".kruise.io";

/// Names of CustomResourceDefinitions, such as `clonesets.apps.kruise.io`, that exist.
pub type Served = watch::Receiver<BTreeSet<String>>;

/// CustomResourceDefinitions that exist, by name, with their resourceVersion.
pub type Definitions = watch::Receiver<BTreeMap<String, Arc<str>>>;

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
    definitions: Definitions,
    /// By what they hold and, for those of one namespace, that namespace.
    stores: Mutex<HashMap<(TypeId, String), Box<dyn Any + Send + Sync>>>,
    caches: Caches,
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
        let (versions, seen) = watch::channel(BTreeMap::new());
        definitions.subscribe(Box::new(move |change| {
            versions.send_modify(|versions| {
                if let (Some(old), None) = (&change.old, &change.new) {
                    versions.remove(&*old.key.name);
                }
                if let Some(new) = &change.new {
                    versions.insert(new.key.name.to_string(), Arc::clone(&new.resource_version));
                }
            });
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
        tasks.spawn(run_watch(api, Definition::of, definitions, METADATA_ONLY));
        Self {
            inner: Arc::new(Inner {
                client,
                namespace: namespace.to_owned(),
                served,
                definitions: seen,
                stores: Mutex::default(),
                caches: Caches::default(),
                tasks: Mutex::new(tasks),
            }),
        }
    }

    /// Which definitions exist.
    pub fn served(&self) -> Served {
        self.inner.served.clone()
    }

    /// Which definitions exist, and in which version: it changes whenever one of them does.
    pub fn definitions(&self) -> Definitions {
        self.inner.definitions.clone()
    }

    /// The store of a namespaced kind; its watch starts with the first call for `V`.
    pub fn namespaced<W, V>(&self, project: fn(W) -> Option<V>) -> Store<V>
    where
        W: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + 'static,
        V: View,
    {
        self.store(self.narrowed(), project, Selection::default(), "")
    }

    fn narrowed<W>(&self) -> Api<W>
    where
        W: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let client = self.inner.client.clone();
        if self.inner.namespace.is_empty() {
            Api::all(client)
        } else {
            Api::namespaced(client, &self.inner.namespace)
        }
    }

    /// As [`Self::namespaced`], where metadata are all that is needed: the API server sends nothing else.
    pub fn namespaced_metadata<K, V>(&self, project: fn(PartialObjectMeta<K>) -> Option<V>) -> Store<V>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + 'static,
        V: View,
    {
        self.store(self.narrowed(), project, METADATA_ONLY, "")
    }

    /// The store of a namespaced kind's metadata in a namespace that is watched whatever the process is narrowed to;
    /// `None` if [`Self::namespaced_metadata`] holds those objects anyway.
    pub fn besides<K, V>(
        &self,
        namespace: &str,
        project: fn(PartialObjectMeta<K>) -> Option<V>,
    ) -> Option<Store<V>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + 'static,
        V: View,
    {
        let narrowed = &self.inner.namespace;
        if narrowed.is_empty() || narrowed == namespace {
            return None;
        }
        let api = Api::namespaced(self.inner.client.clone(), namespace);
        Some(self.store(api, project, METADATA_ONLY, namespace))
    }

    /// The store of a cluster-scoped kind; its watch starts with the first call for `V`.
    pub fn cluster<W, V>(&self, project: fn(W) -> Option<V>) -> Store<V>
    where
        W: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + DeserializeOwned + 'static,
        V: View,
    {
        self.store(Api::all(self.inner.client.clone()), project, Selection::default(), "")
    }

    fn store<W, V>(
        &self,
        api: Api<W>,
        project: fn(W) -> Option<V>,
        selection: Selection,
        besides: &str,
    ) -> Store<V>
    where
        W: Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
        V: View,
    {
        let mut stores = locked(&self.inner.stores);
        let id = (TypeId::of::<V>(), besides.to_owned());
        let known = stores.get(&id).and_then(|store| store.downcast_ref::<Store<V>>());
        if let Some(store) = known {
            return store.clone();
        }
        let store = Store::<V>::new();
        stores.insert(id, Box::new(store.clone()));
        let (group, plural) = (W::group(&()), W::plural(&()));
        let resource = if group.is_empty() { plural.to_string() } else { format!("{plural}.{group}") };
        self.inner.caches.add(resource.clone(), store.clone());
        let served = group.ends_with(OWN_GROUPS).then(|| (resource, self.served()));
        locked(&self.inner.tasks).spawn(watch_while_served(api, project, store.clone(), selection, served));
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

    /// `kruise_cache_objects`, `kruise_watch_errors_total` and `kruise_watch_malformed_objects_total`, to be registered
    /// once.
    ///
    /// # Errors
    /// The metric's own description is refused.
    pub fn collector(&self) -> prometheus::Result<impl Collector + 'static> {
        CacheMetrics::new(self.inner.caches.clone())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn watch_while_served<W, V>(
    api: Api<W>,
    project: fn(W) -> Option<V>,
    store: Store<V>,
    selection: Selection,
    served: Option<(String, Served)>,
) where
    W: Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
    V: View,
{
    let Some((definition, mut served)) = served else {
        return run_watch(api, project, store, selection).await;
    };
    loop {
        if served.wait_for(|known| known.contains(&definition)).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            () = run_watch(api.clone(), project, store.clone(), selection.clone()) => return,
            gone = served.wait_for(|known| !known.contains(&definition)) => if gone.is_err() { return },
        }
        tracing::warn!(definition, "the definition is gone, and its objects with it");
        store.apply_event(Event::Init);
        store.apply_event(Event::InitDone);
    }
}

/// What a store tells about itself when it is asked.
struct Figures {
    objects: usize,
    failures: u64,
    malformed: u64,
}

type Cache = Box<dyn Fn() -> Figures + Send + Sync>;

/// The stores by resource.
#[derive(Clone, Default)]
struct Caches(Arc<Mutex<BTreeMap<String, Vec<Cache>>>>);

impl Caches {
    fn add<V: View>(&self, resource: String, store: Store<V>) {
        let figures = move || Figures {
            objects: store.len(),
            failures: store.failures(),
            malformed: store.malformed(),
        };
        locked(&self.0).entry(resource).or_default().push(Box::new(figures));
    }
}

/// Asks the stores when it is scraped.
struct CacheMetrics {
    caches: Caches,
    objects: IntGaugeVec,
    failures: IntCounterVec,
    malformed: IntCounterVec,
}

impl CacheMetrics {
    fn new(caches: Caches) -> prometheus::Result<Self> {
        let objects = Opts::new("kruise_cache_objects", "Number of objects held in memory, by resource.");
        let failures =
            Opts::new("kruise_watch_errors_total", "Watches that failed and were tried again, by resource.");
        let malformed = Opts::new(
            "kruise_watch_malformed_objects_total",
            "Objects that could not be read and were skipped, by resource.",
        );
        Ok(Self {
            caches,
            objects: IntGaugeVec::new(objects, &["resource"])?,
            failures: IntCounterVec::new(failures, &["resource"])?,
            malformed: IntCounterVec::new(malformed, &["resource"])?,
        })
    }
}

impl Collector for CacheMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let counters = self.failures.desc().into_iter().chain(self.malformed.desc());
        self.objects.desc().into_iter().chain(counters).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Held to the end, so that scrapes at the same time do not add up.
        let caches = locked(&self.caches.0);
        self.failures.reset();
        self.malformed.reset();
        for (resource, caches) in caches.iter() {
            let figures: Vec<Figures> = caches.iter().map(|figures| figures()).collect();
            let objects = figures.iter().map(|figures| figures.objects).sum::<usize>();
            self.objects.with_label_values(&[resource]).set(i64::try_from(objects).unwrap_or(i64::MAX));
            for figures in figures {
                self.failures.with_label_values(&[resource]).inc_by(figures.failures);
                self.malformed.with_label_values(&[resource]).inc_by(figures.malformed);
            }
        }
        let counters = self.failures.collect().into_iter().chain(self.malformed.collect());
        self.objects.collect().into_iter().chain(counters).collect()
    }
}
