//! Garbage collection: objects go when the last of their owners is gone.
//!
//! A graph of owner references is kept from metadata watches of every served resource, those of CustomResourceDefinitions
//! that appear later included. An owner the graph does not know is asked for before its dependents are touched.

mod graph;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kruise_common::key::ObjectKey;
use kruise_runtime::queue::WorkQueue;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::discovered::{self, Served};
use super::hub::resource;
use super::rounds::{new_queue, unless, work};
use graph::{FOREGROUND, Graph, Item, ORPHAN};

/// What is collected.
#[derive(Clone, Debug)]
pub enum Scope {
    /// All that is served, now and later.
    Everything,
    /// These `(group, plural)` only: less to watch where it is known what can occur.
    Only(Vec<(String, String)>),
}

/// Objects worked on at once.
const WORKERS: usize = 16;

/// Collects garbage until `stop` resolves.
pub async fn run(client: Client, scope: Scope, stop: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = collect(client, scope) => {}
        () = stop => {}
    }
}

/// Collects garbage for ever.
pub(super) async fn collect(client: Client, scope: Scope) {
    let Some(queue) = new_queue("garbage-collector") else { return };
    let collector = Collector {
        client,
        scope,
        queue,
        graph: Arc::default(),
        kinds: Arc::default(),
        pending: watch::Sender::new(1),
        definitions: Notify::new(),
    };
    tokio::join!(collector.watch_all(), collector.work());
}

type Kinds = Arc<Mutex<Vec<Served>>>;

struct Collector {
    client: Client,
    scope: Scope,
    queue: WorkQueue,
    graph: Arc<Mutex<Graph>>,
    /// Everything served, watched or not.
    kinds: Kinds,
    /// Lists that are not complete yet; nothing is collected meanwhile.
    pending: watch::Sender<usize>,
    /// CustomResourceDefinitions have changed.
    definitions: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(uid: &str) -> ObjectKey {
    ObjectKey::new("", uid)
}

impl Collector {
    /// Watches what is served, and looks anew when definitions change.
    async fn watch_all(&self) {
        let mut watches: BTreeMap<(String, String), tokio::task::AbortHandle> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let mut first = true;
        loop {
            match discovered::resources(&self.client).await {
                Ok(kinds) => {
                    self.follow(&kinds, &mut watches, &mut tasks);
                    *lock(&self.kinds) = kinds;
                    if std::mem::take(&mut first) {
                        self.pending.send_modify(|pending| *pending = pending.saturating_sub(1));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot discover what is served");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            }
            self.definitions_changed(&mut tasks).await;
        }
    }

    async fn definitions_changed(&self, tasks: &mut JoinSet<()>) {
        loop {
            tokio::select! {
                biased;
                () = self.definitions.notified() => return,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
    }

    fn follow(
        &self,
        kinds: &[Served],
        watches: &mut BTreeMap<(String, String), tokio::task::AbortHandle>,
        tasks: &mut JoinSet<()>,
    ) {
        let wanted = |served: &&Served| self.wants(served);
        let name = |served: &Served| (served.resource.group.clone(), served.resource.plural.clone());
        watches.retain(|watched, task| {
            let stays = kinds.iter().filter(wanted).any(|served| name(served) == *watched);
            if !stays {
                task.abort();
                self.forget_kind(watched);
            }
            stays
        });
        for served in kinds.iter().filter(wanted) {
            if watches.contains_key(&name(served)) {
                continue;
            }
            self.pending.send_modify(|pending| *pending += 1);
            let feed = Feed {
                served: Arc::new(served.clone()),
                graph: Arc::clone(&self.graph),
                queue: self.queue.clone(),
                listed: None,
            };
            let api: Api<PartialObjectMeta<DynamicObject>> =
                Api::all_with(self.client.clone(), &served.resource);
            watches.insert(name(served), tasks.spawn(feed.run(api, self.pending.clone())));
        }
    }

    fn wants(&self, served: &Served) -> bool {
        let event = served.resource.kind == "Event";
        let usable = ["list", "watch", "delete"].into_iter().all(|verb| served.allows(verb));
        let chosen = match &self.scope {
            Scope::Everything => true,
            Scope::Only(chosen) => chosen
                .iter()
                .any(|(group, plural)| *group == served.resource.group && *plural == served.resource.plural),
        };
        usable && !event && chosen
    }

    fn forget_kind(&self, (group, plural): &(String, String)) {
        for uid in lock(&self.graph).forget_kind(group, plural) {
            self.queue.add(key(&uid));
        }
    }

    async fn work(&self) {
        let definitions = self.follow_definitions();
        let collect = async {
            let _ = self.pending.subscribe().wait_for(|pending| *pending == 0).await;
            work("garbage-collector", &self.queue, WORKERS, |key| async move {
                self.process(&key.name).await?;
                Ok(None)
            })
            .await;
        };
        tokio::join!(definitions, collect);
    }

    /// New definitions are worth a look only where everything is collected.
    async fn follow_definitions(&self) {
        if matches!(self.scope, Scope::Only(_)) {
            return;
        }
        let definitions =
            resource("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions");
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), &definitions);
        let mut events = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
        let mut listing = true;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::InitDone) => listing = false,
                Ok(Event::Apply(_) | Event::Delete(_)) if !listing => self.definitions.notify_one(),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "watch of definitions failed and will be retried"),
            }
        }
    }

    fn api(&self, item: &Item) -> Api<DynamicObject> {
        item.served.api(self.client.clone(), &item.namespace)
    }

    async fn process(&self, uid: &str) -> kube::Result<()> {
        let Some(item) = lock(&self.graph).get(uid) else { return Ok(()) };
        if item.deleting && item.has_finalizer(ORPHAN) {
            return self.orphan(&item).await;
        }
        if item.deleting_dependents() {
            return self.delete_dependents(&item).await;
        }
        if item.deleting || item.owners.is_empty() {
            return Ok(());
        }
        self.judge(&item).await
    }

    /// Takes the reference out of all dependents, then lets the owner go.
    async fn orphan(&self, owner: &Item) -> kube::Result<()> {
        let dependents = lock(&self.graph).dependents(&owner.uid);
        for dependent in dependents {
            self.drop_owners(&dependent, std::slice::from_ref(&owner.uid)).await?;
        }
        self.remove_finalizer(owner, ORPHAN).await
    }

    /// Deletes the dependents and lets the owner go once those that hold it up are gone.
    async fn delete_dependents(&self, owner: &Item) -> kube::Result<()> {
        let dependents = lock(&self.graph).dependents(&owner.uid);
        let blocking = dependents.iter().any(|dependent| {
            let blocks = |reference: &OwnerReference| {
                reference.uid == owner.uid && reference.block_owner_deletion == Some(true)
            };
            dependent.owners.iter().any(blocks)
        });
        if !blocking {
            return self.remove_finalizer(owner, FOREGROUND).await;
        }
        for dependent in dependents.iter().filter(|dependent| !dependent.deleting) {
            self.queue.add(key(&dependent.uid));
        }
        Ok(())
    }

    /// Decides about an object by what has become of its owners.
    async fn judge(&self, item: &Item) -> kube::Result<()> {
        let (mut solid, mut going, mut waiting) = (0_usize, Vec::new(), false);
        for owner in &item.owners {
            match self.state_of(item, owner).await? {
                OwnerState::There => solid += 1,
                OwnerState::Gone => going.push(owner.uid.clone()),
                OwnerState::DeletingDependents => {
                    waiting = true;
                    going.push(owner.uid.clone());
                }
            }
        }
        if going.is_empty() {
            return Ok(());
        }
        if solid > 0 {
            return self.drop_owners(item, &going).await;
        }
        let has_dependents = !lock(&self.graph).dependents(&item.uid).is_empty();
        let policy = match () {
            () if waiting && has_dependents => PropagationPolicy::Foreground,
            () if item.has_finalizer(ORPHAN) => PropagationPolicy::Orphan,
            () if item.has_finalizer(FOREGROUND) => PropagationPolicy::Foreground,
            () => PropagationPolicy::Background,
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(item.uid.clone()),
                resource_version: Some(item.resource_version.clone()),
            }),
            ..DeleteParams::default()
        };
        unless(self.api(item).delete(&item.name, &params).await, &[404]).map(|_| ())
    }

    async fn state_of(&self, item: &Item, owner: &OwnerReference) -> kube::Result<OwnerState> {
        let known = lock(&self.graph).get(&owner.uid);
        if let Some(known) = known
            && (known.namespace.is_empty() || known.namespace == item.namespace)
        {
            return Ok(if known.deleting_dependents() {
                OwnerState::DeletingDependents
            } else {
                OwnerState::There
            });
        }
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let served = lock(&self.kinds)
            .iter()
            .find(|served| served.resource.group == group && served.resource.kind == owner.kind)
            .cloned();
        // A kind nobody serves cannot be asked for; a namespaced owner of a cluster-wide object cannot exist.
        let Some(served) = served else { return Ok(OwnerState::There) };
        if served.namespaced && item.namespace.is_empty() {
            return Ok(OwnerState::There);
        }
        let found = served.api(self.client.clone(), &item.namespace).get_metadata_opt(&owner.name).await?;
        let same = found.is_some_and(|found| found.metadata.uid.as_deref() == Some(owner.uid.as_str()));
        Ok(if same { OwnerState::There } else { OwnerState::Gone })
    }

    async fn drop_owners(&self, item: &Item, owners: &[String]) -> kube::Result<()> {
        let stay: Vec<&OwnerReference> =
            item.owners.iter().filter(|owner| !owners.contains(&owner.uid)).collect();
        let mut meta = json!({"uid": item.uid, "resourceVersion": item.resource_version});
        if let Value::Object(meta) = &mut meta {
            meta.insert("ownerReferences".into(), if stay.is_empty() { Value::Null } else { json!(stay) });
        }
        self.patch(item, meta).await
    }

    async fn remove_finalizer(&self, item: &Item, finalizer: &str) -> kube::Result<()> {
        let stay: Vec<&String> = item.finalizers.iter().filter(|name| *name != finalizer).collect();
        let stay = if stay.is_empty() { Value::Null } else { json!(stay) };
        let meta = json!({"uid": item.uid, "resourceVersion": item.resource_version, "finalizers": stay});
        self.patch(item, meta).await
    }

    async fn patch(&self, item: &Item, meta: Value) -> kube::Result<()> {
        let patch = Patch::Merge(json!({"metadata": meta}));
        let patched = self.api(item).patch_metadata(&item.name, &PatchParams::default(), &patch).await;
        unless(patched, &[404]).map(|_| ())
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum OwnerState {
    There,
    Gone,
    /// On its way out, and wants its dependents gone first.
    DeletingDependents,
}

/// Brings the watch of one resource into the graph.
struct Feed {
    served: Arc<Served>,
    graph: Arc<Mutex<Graph>>,
    queue: WorkQueue,
    listed: Option<std::collections::BTreeSet<String>>,
}

impl Feed {
    async fn run(mut self, api: Api<PartialObjectMeta<DynamicObject>>, pending: watch::Sender<usize>) {
        let mut events =
            watcher::watcher(api, watcher::Config::default().page_size(500)).default_backoff().boxed();
        let mut first = true;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let done = matches!(event, Event::InitDone);
                    self.take(event);
                    if done && std::mem::take(&mut first) {
                        pending.send_modify(|pending| *pending = pending.saturating_sub(1));
                    }
                }
                Err(error) => {
                    let plural = &self.served.resource.plural;
                    tracing::debug!(resource = plural, %error, "watch failed and will be retried");
                    // One resource that cannot be listed must not hold up all others.
                    if std::mem::take(&mut first) {
                        pending.send_modify(|pending| *pending = pending.saturating_sub(1));
                    }
                }
            }
        }
    }

    fn take(&mut self, event: Event<PartialObjectMeta<DynamicObject>>) {
        let touched = match event {
            Event::Init => {
                self.listed = Some(std::collections::BTreeSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let item = Item::new(&self.served, object.metadata);
                if let Some(listed) = &mut self.listed {
                    listed.insert(item.uid.clone());
                }
                lock(&self.graph).put(item)
            }
            Event::Apply(object) => lock(&self.graph).put(Item::new(&self.served, object.metadata)),
            Event::Delete(object) => {
                lock(&self.graph).remove(object.metadata.uid.as_deref().unwrap_or_default())
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                lock(&self.graph).keep_only(&self.served, &listed)
            }
        };
        for uid in touched {
            self.queue.add(key(&uid));
        }
    }
}
