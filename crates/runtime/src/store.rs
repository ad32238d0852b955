//! Shared stores: what the API server holds, as one typed and indexed copy per kind.
//!
//! A [`Store`] is fed by one watch ([`run_watch`]) and by the answers to our own writes ([`Store::apply_own`],
//! [`Store::remove_own`]), so that a controller which has just written reads its own write although the watch has not
//! delivered it yet. Three rules keep the two sources from contradicting each other:
//!
//! - an object is only ever replaced by a newer resourceVersion, whichever source it comes from;
//! - an answer the watch has already passed is dropped: the watch has told that story, including what came after;
//! - an answer the watch has passed *without* telling (its object was gone from the list the watch started from) is
//!   taken back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::wire::metadata;
use kube::{Api, Resource};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch as channel;

use crate::follow::{Source, Step, follow};

pub use crate::follow::Selection;

/// Most removed objects remembered at once; a late event of one forgotten lives until its DELETED event.
const MAX_TOMBSTONES: usize = 10_000;

/// What a store must know of an object; the rest is the projection's own.
pub trait View: Send + Sync + 'static {
    /// Namespace and name.
    fn key(&self) -> ObjectKey;
    /// Identity of this incarnation.
    fn uid(&self) -> &Uid;
    /// `metadata.resourceVersion`.
    fn resource_version(&self) -> &str;
    /// Every owner, whether it is the controller or not.
    fn owners(&self) -> Vec<Uid>;
}

/// One transition of a store. When both sides are there they are the same object (uid); a recreated object is told as
/// a removal followed by an addition.
#[derive(Debug)]
pub struct Change<V> {
    /// The object before; `None` when it is new.
    pub old: Option<Arc<V>>,
    /// The object after; `None` when it is gone.
    pub new: Option<Arc<V>>,
}

/// Called with every transition, in order. It may read the store but must not write to it.
pub type Subscriber<V> = Box<dyn Fn(&Change<V>) + Send + Sync>;

/// A shared copy of one kind's objects; clones share it.
#[derive(Debug)]
pub struct Store<V> {
    inner: Arc<Inner<V>>,
}

impl<V> Clone for Store<V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<V: View> Default for Store<V> {
    fn default() -> Self {
        Self::new()
    }
}

struct Inner<V> {
    objects: RwLock<Objects<V>>,
    /// Held by whoever changes the store until the subscribers know: they see transitions in their order.
    feed: Mutex<Feed<V>>,
    malformed: AtomicU64,
    failures: AtomicU64,
    ready: channel::Sender<bool>,
}

impl<V> Debug for Inner<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("ready", &*self.ready.borrow()).finish_non_exhaustive()
    }
}

/// What readers see.
struct Objects<V> {
    /// In order, so that whoever goes through all of them does so the same way each time.
    by_key: BTreeMap<ObjectKey, Arc<V>>,
    by_owner: HashMap<Uid, BTreeSet<ObjectKey>>,
}

impl<V: View> Objects<V> {
    fn insert(&mut self, key: ObjectKey, view: &Arc<V>) {
        self.remove(&key);
        for owner in view.owners() {
            self.by_owner.entry(owner).or_default().insert(key.clone());
        }
        self.by_key.insert(key, Arc::clone(view));
    }

    fn remove(&mut self, key: &ObjectKey) {
        let Some(old) = self.by_key.remove(key) else { return };
        for owner in old.owners() {
            if let Some(keys) = self.by_owner.get_mut(&owner) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_owner.remove(&owner);
                }
            }
        }
    }
}

/// What only writers need.
struct Feed<V> {
    subscribers: Vec<Subscriber<V>>,
    /// Highest version the watch has reached.
    progress: u64,
    /// Counts lists: whatever we wrote before a list began is in the list's answer.
    epoch: u64,
    /// Own writes the watch has not reached, by version, with the epoch they were made in.
    unconfirmed: BTreeMap<u64, (ObjectKey, u64)>,
    /// Objects we removed whose events may still come, with the epoch they were removed in.
    tombstones: HashMap<Uid, u64>,
    /// Bounds `tombstones`; may still name some that are gone.
    tombstone_order: VecDeque<Uid>,
    listing: Option<Listing>,
}

/// A list being received.
#[derive(Default)]
struct Listing {
    seen: HashSet<ObjectKey>,
    progress: u64,
}

/// One step of a watch.
#[derive(Clone, Debug)]
pub enum Event<V> {
    /// A list begins.
    Init,
    /// An object of the list.
    InitApply(V),
    /// The list is complete.
    InitDone,
    /// An object was created or changed.
    Apply(V),
    /// An object is gone; as it was last.
    Delete(V),
}

/// One step of a watch, reduced to what the store uses.
enum Fed<V> {
    Init,
    InitApply(V),
    /// Listed, but cannot be read.
    InitKeep(ObjectKey),
    InitDone,
    Apply(V),
    /// Changed to something that cannot be read.
    Skip(u64),
    Delete(ObjectKey, Uid, u64),
}

/// Versions compare as numbers. One that is not a number is older than all others, so that nothing is held back by it.
fn version(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

impl<V: View> Store<V> {
    /// An empty store that is not ready.
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                objects: RwLock::new(Objects { by_key: BTreeMap::new(), by_owner: HashMap::new() }),
                feed: Mutex::new(Feed {
                    subscribers: Vec::new(),
                    progress: 0,
                    epoch: 0,
                    unconfirmed: BTreeMap::new(),
                    tombstones: HashMap::new(),
                    tombstone_order: VecDeque::new(),
                    listing: None,
                }),
                malformed: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                ready: channel::Sender::new(false),
            }),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Objects<V>> {
        self.inner.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object of this name.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<V>> {
        self.read().by_key.get(key).cloned()
    }

    /// All objects that name this owner, ordered by key.
    pub fn owned_by(&self, owner: &Uid) -> Vec<Arc<V>> {
        let objects = self.read();
        let keys = objects.by_owner.get(owner).into_iter().flatten();
        keys.filter_map(|key| objects.by_key.get(key).cloned()).collect()
    }

    /// All objects, in no particular order.
    pub fn all(&self) -> Vec<Arc<V>> {
        self.read().by_key.values().cloned().collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().by_key.len()
    }

    /// True when there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often the watch delivered an object that could not be read.
    pub fn malformed(&self) -> u64 {
        self.inner.malformed.load(Ordering::Relaxed)
    }

    /// How often the watch failed and was tried again.
    pub fn failures(&self) -> u64 {
        self.inner.failures.load(Ordering::Relaxed)
    }

    /// True once the first list is complete.
    pub fn is_ready(&self) -> bool {
        *self.inner.ready.borrow()
    }

    /// Resolves once the first list is complete.
    pub async fn ready(&self) {
        // The sender lives as long as `self`, so the channel cannot close before the answer.
        let _ = self.inner.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Tells `subscriber` of all objects there are, as additions, and of every transition from now on: by events, by
    /// lists (objects that vanished meanwhile are removals) and by own writes (whose event is then not told again).
    pub fn subscribe(&self, subscriber: Subscriber<V>) {
        let mut feed = self.inner.feed.lock().unwrap_or_else(PoisonError::into_inner);
        for view in self.all() {
            subscriber(&Change { old: None, new: Some(view) });
        }
        feed.subscribers.push(subscriber);
    }

    /// Takes in the API server's answer to a create, update or patch of ours, unless the watch has passed it or the
    /// store holds something newer.
    pub fn apply_own(&self, view: V) {
        self.with_feed(|store, feed| {
            let (key, at) = (view.key(), version(view.resource_version()));
            if at <= feed.progress || feed.tombstones.contains_key(view.uid()) {
                return;
            }
            if store.get(&key).is_some_and(|stored| version(stored.resource_version()) >= at) {
                return;
            }
            feed.unconfirmed.insert(at, (key, feed.epoch));
            store.put(feed, view);
        });
    }

    /// Takes out an object that a DELETE of ours has removed for good (no finalizer, no grace period left). Events of
    /// this uid that are still on their way are ignored.
    pub fn remove_own(&self, key: &ObjectKey, uid: &Uid) {
        self.with_feed(|store, feed| {
            let epoch = feed.epoch;
            if feed.tombstones.insert(uid.clone(), epoch).is_none() {
                feed.tombstone_order.push_back(uid.clone());
            }
            while feed.tombstone_order.len() > MAX_TOMBSTONES {
                if let Some(oldest) = feed.tombstone_order.pop_front() {
                    feed.tombstones.remove(&oldest);
                }
            }
            if store.get(key).is_some_and(|stored| stored.uid() == uid) {
                store.take(feed, key);
            }
        });
    }

    /// Takes in one step of a watch whose list was a consistent one.
    pub fn apply_event(&self, event: Event<V>) {
        self.feed(match event {
            Event::Init => Fed::Init,
            Event::InitApply(view) => Fed::InitApply(view),
            Event::InitDone => Fed::InitDone,
            Event::Apply(view) => Fed::Apply(view),
            Event::Delete(view) => {
                Fed::Delete(view.key(), view.uid().clone(), version(view.resource_version()))
            }
        });
    }

    fn with_feed(&self, change: impl FnOnce(&Self, &mut Feed<V>)) {
        change(self, &mut self.inner.feed.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn feed(&self, event: Fed<V>) {
        self.with_feed(|store, feed| match event {
            Fed::Init => {
                feed.epoch += 1;
                feed.listing = Some(Listing::default());
            }
            Fed::InitApply(view) => {
                let listing = feed.listing.get_or_insert_default();
                listing.seen.insert(view.key());
                listing.progress = listing.progress.max(version(view.resource_version()));
                store.put_newer(feed, view);
            }
            Fed::InitKeep(key) => {
                feed.listing.get_or_insert_default().seen.insert(key);
            }
            Fed::InitDone => store.finish_list(feed),
            Fed::Apply(view) => {
                let at = version(view.resource_version());
                store.put_newer(feed, view);
                store.advance(feed, at, &HashSet::new());
            }
            Fed::Skip(at) => store.advance(feed, at, &HashSet::new()),
            Fed::Delete(key, uid, at) => {
                feed.tombstones.remove(&uid);
                let gone = store.get(&key).is_some_and(|stored| {
                    let known = version(stored.resource_version());
                    known < at || (known == at && *stored.uid() == uid)
                });
                if gone {
                    store.take(feed, &key);
                }
                store.advance(feed, at, &HashSet::new());
            }
        });
    }

    /// Ends a list: what it does not name is gone, unless we wrote it after the list began.
    fn finish_list(&self, feed: &mut Feed<V>) {
        let listing = feed.listing.take().unwrap_or_default();
        let epoch = feed.epoch;
        feed.tombstones.retain(|_, made| *made == epoch);
        let tombstones = &feed.tombstones;
        feed.tombstone_order.retain(|uid| tombstones.contains_key(uid));
        let young: HashSet<(ObjectKey, u64)> = feed
            .unconfirmed
            .iter()
            .filter(|(_, (_, made))| *made == epoch)
            .map(|(at, (key, _))| (key.clone(), *at))
            .collect();
        let vanished: Vec<ObjectKey> = self
            .read()
            .by_key
            .iter()
            .filter(|(key, view)| {
                !listing.seen.contains(*key)
                    && !young.contains(&((*key).clone(), version(view.resource_version())))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in vanished {
            self.take(feed, &key);
        }
        feed.unconfirmed.retain(|_, (_, made)| *made == epoch);
        self.advance(feed, listing.progress, &listing.seen);
        self.inner.ready.send_replace(true);
    }

    /// Notes that the watch has reached `at`, and takes back own writes it should have told of by then but has not.
    fn advance(&self, feed: &mut Feed<V>, at: u64, listed: &HashSet<ObjectKey>) {
        feed.progress = feed.progress.max(at);
        let later = feed.unconfirmed.split_off(&at.saturating_add(1));
        let passed = std::mem::replace(&mut feed.unconfirmed, later);
        for (own, (key, _)) in passed {
            let untold = self.get(&key).is_some_and(|stored| version(stored.resource_version()) == own);
            if untold && own < at && !listed.contains(&key) {
                self.take(feed, &key);
            }
        }
    }

    /// Stores what the watch says unless the store knows better.
    fn put_newer(&self, feed: &Feed<V>, view: V) {
        if feed.tombstones.contains_key(view.uid()) {
            return;
        }
        let at = version(view.resource_version());
        let known = self.get(&view.key()).map(|stored| version(stored.resource_version()));
        if known.is_none_or(|known| at > known || at == 0) {
            self.put(feed, view);
        }
    }

    fn put(&self, feed: &Feed<V>, view: V) {
        let (key, view) = (view.key(), Arc::new(view));
        let mut old = self.get(&key);
        if old.as_ref().is_some_and(|old| old.uid() != view.uid()) {
            self.take(feed, &key);
            old = None;
        }
        self.inner.objects.write().unwrap_or_else(PoisonError::into_inner).insert(key, &view);
        tell(feed, &Change { old, new: Some(view) });
    }

    fn take(&self, feed: &Feed<V>, key: &ObjectKey) {
        let Some(old) = self.get(key) else { return };
        self.inner.objects.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        tell(feed, &Change { old: Some(old), new: None });
    }

    /// Counts an object that cannot be read.
    fn malformed_one(&self, key: ObjectKey) -> ObjectKey {
        self.inner.malformed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(object = %key, "object cannot be read and is skipped");
        key
    }
}

fn tell<V>(feed: &Feed<V>, change: &Change<V>) {
    for subscriber in &feed.subscribers {
        subscriber(change);
    }
}

/// Feeds `store` from a watch on `api`, for ever; drop the future to stop. Errors are logged and retried with growing
/// delays.
///
/// An object that is no `W`, or for which `project` has no view, is counted and skipped: a version known from before is
/// kept until it can be read again or is deleted.
pub async fn run_watch<W, V>(api: Api<W>, project: fn(W) -> Option<V>, store: Store<V>, selection: Selection)
where
    W: Resource + DeserializeOwned + 'static,
    V: View,
{
    let url = api.resource_url().to_owned();
    let source = Source { client: api.into_client(), url, selection };
    let mut take_in = move |step: Step<'_>| store.take_in(step, &|text| decode(text, project));
    match follow(&source, &mut take_in).await {}
}

/// What a text of an object says: who it is and, if it can be read, its view.
struct Decoded<V> {
    key: ObjectKey,
    uid: Uid,
    version: String,
    view: Option<V>,
}

fn decode<W: Resource + DeserializeOwned, V>(text: &str, project: fn(W) -> Option<V>) -> Decoded<V> {
    match serde_json::from_str::<W>(text) {
        Ok(object) => {
            let (key, uid, version) = identity(object.meta());
            Decoded { key, uid, version, view: project(object) }
        }
        Err(error) => {
            tracing::debug!(%error, "an object has another shape");
            let bare: Bare = serde_json::from_str(text).unwrap_or_default();
            let (key, uid, version) = identity(&bare.metadata);
            Decoded { key, uid, version, view: None }
        }
    }
}

/// An object of any shape.
#[derive(Default, Deserialize)]
struct Bare {
    #[serde(default, deserialize_with = "metadata")]
    metadata: ObjectMeta,
}

fn identity(meta: &ObjectMeta) -> (ObjectKey, Uid, String) {
    let key = ObjectKey::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    );
    let uid = Uid::from(meta.uid.as_deref().unwrap_or_default());
    (key, uid, meta.resource_version.clone().unwrap_or_default())
}

impl<V: View> Store<V> {
    /// Takes in one step of a watch and tells the version of its object.
    fn take_in(&self, step: Step<'_>, decode: &dyn Fn(&str) -> Decoded<V>) -> Option<String> {
        let (fed, told) = match step {
            Step::Init => (Fed::Init, None),
            Step::InitDone => (Fed::InitDone, None),
            Step::Listed(text) => {
                let Decoded { key, version, view, .. } = decode(text);
                (view.map_or_else(|| Fed::InitKeep(self.malformed_one(key)), Fed::InitApply), Some(version))
            }
            Step::Changed(text) => {
                let Decoded { key, version, view, .. } = decode(text);
                let skip = || {
                    self.malformed_one(key);
                    Fed::Skip(self::version(&version))
                };
                (view.map_or_else(skip, Fed::Apply), Some(version))
            }
            Step::Deleted(text) => {
                let Decoded { key, uid, version, .. } = decode(text);
                (Fed::Delete(key, uid, self::version(&version)), Some(version))
            }
            Step::Failed(error) => {
                self.inner.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "watch failed and will be retried");
                return None;
            }
        };
        self.feed(fed);
        told
    }
}

#[cfg(test)]
mod tests;
