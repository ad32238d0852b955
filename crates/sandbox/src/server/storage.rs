//! All objects in memory under one resourceVersion, with the history that watches and consistent lists read.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::signal::{Receiver, Signal};
use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use super::journal::Journal;
use crate::object;
use crate::resource::Resource;

/// Locks a mutex; a panic elsewhere while it was held does not matter here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One state of an object, in one version, with its JSON encoded at most once.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The object, `apiVersion` and `kind` included.
    pub(crate) value: Value,
    /// Its resourceVersion.
    pub(crate) rv: u64,
    body: OnceLock<Bytes>,
    views: Mutex<Vec<View>>,
}

/// A state as a version of a resource shows it.
#[derive(Debug)]
struct View {
    by: Served,
    version: String,
    /// None if it is shown as it is.
    shown: Option<Arc<Stored>>,
}

/// A resource as it is served, until its definition changes.
#[derive(Clone, Debug)]
pub(crate) struct Served(pub(crate) Arc<Resource>);

impl PartialEq for Served {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Served {}

/// An object without `apiVersion` and `kind`, which are put in front when it is written out.
struct Untyped<'a>(&'a Value);

impl Serialize for Untyped<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(fields) = self.0.as_object() else { return self.0.serialize(serializer) };
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in fields {
            if key != "apiVersion" && key != "kind" {
                map.serialize_entry(key, value)?;
            }
        }
        map.end()
    }
}

impl Stored {
    /// An object at a resourceVersion, which is written into its metadata.
    pub(crate) fn new(mut value: Value, rv: u64) -> Arc<Self> {
        object::set_meta(&mut value, "resourceVersion", Value::from(rv.to_string()));
        Self::as_is(value, rv)
    }

    /// An object whose metadata carry the resourceVersion already.
    pub(crate) fn as_is(value: Value, rv: u64) -> Arc<Self> {
        Arc::new(Self { value, rv, body: OnceLock::new(), views: Mutex::new(Vec::new()) })
    }

    /// The JSON without `apiVersion` and `kind`: `{"metadata":…}`.
    pub(crate) fn body(&self) -> &Bytes {
        self.body.get_or_init(|| serde_json::to_vec(&Untyped(&self.value)).unwrap_or_default().into())
    }

    /// The state as the version of a resource shows it, if that is known already.
    pub(crate) fn view(self: &Arc<Self>, by: &Arc<Resource>, version: &str) -> Option<Arc<Self>> {
        let views = lock(&self.views);
        let view = views.iter().find(|view| view.version == version && Arc::ptr_eq(&view.by.0, by))?;
        Some(Arc::clone(view.shown.as_ref().unwrap_or(self)))
    }

    /// Keeps the state as the version of a resource shows it, in place of what former definitions of it showed.
    pub(crate) fn keep_view(self: &Arc<Self>, by: &Arc<Resource>, version: &str, shown: &Arc<Self>) {
        let mut views = lock(&self.views);
        views.retain(|view| Arc::ptr_eq(&view.by.0, by) && view.version != version);
        let shown = (!Arc::ptr_eq(self, shown)).then(|| Arc::clone(shown));
        views.push(View { by: Served(Arc::clone(by)), version: version.to_owned(), shown });
    }
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EventKind {
    /// It was created, or it came to match the watch's selector.
    Added,
    /// It was changed.
    Modified,
    /// It was deleted, or it stopped to match the watch's selector.
    Deleted,
}

impl EventKind {
    /// As it stands in a watch event.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// In which shape an event was encoded: kind, resource and version, metadata only.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Shape {
    pub(crate) kind: EventKind,
    pub(crate) by: Served,
    pub(crate) version: String,
    pub(crate) metadata_only: bool,
}

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Event {
    /// The resourceVersion the change made.
    pub(crate) rv: u64,
    /// What the change was.
    pub(crate) kind: EventKind,
    /// Key of the object.
    pub(crate) key: Arc<str>,
    /// The state after the change; for a deletion the last state, under the resourceVersion of the deletion.
    pub(crate) object: Arc<Stored>,
    /// The state before the change.
    pub(crate) previous: Option<Arc<Stored>>,
    encoded: Mutex<Vec<(Shape, Bytes)>>,
}

impl Event {
    /// The encoded event, if a watcher of the same shape came before.
    pub(crate) fn encoded(&self, shape: &Shape) -> Option<Bytes> {
        lock(&self.encoded).iter().find(|(known, _)| known == shape).map(|(_, bytes)| bytes.clone())
    }

    /// Keeps the encoded event for the next watcher of the same shape.
    pub(crate) fn keep_encoded(&self, shape: Shape, bytes: &Bytes) {
        lock(&self.encoded).push((shape, bytes.clone()));
    }
}

/// A reader of a table's history: its place is kept until it is dropped.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// The resourceVersion up to which the reader has seen everything.
    pub(crate) at: Arc<AtomicU64>,
    /// Wakes when the table changes; ends when the table is gone.
    pub(crate) changed: Receiver,
}

impl Cursor {
    /// The resourceVersion up to which the reader has seen everything.
    pub(crate) fn rv(&self) -> u64 {
        self.at.load(Ordering::Relaxed)
    }

    /// Moves forward.
    pub(crate) fn advance(&self, rv: u64) {
        self.at.store(rv, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Table {
    objects: BTreeMap<Arc<str>, Arc<Stored>>,
    history: VecDeque<Arc<Event>>,
    compacted: u64,
    readers: Vec<Weak<AtomicU64>>,
    changed: Signal,
}

impl Table {
    fn new(compacted: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            compacted,
            readers: Vec::new(),
            changed: Signal::default(),
        }
    }

    /// Drops the oldest history, except what a reader has not seen (up to a multiple of the limit).
    fn trim(&mut self, limit: usize) {
        if self.history.len() <= limit + limit / 4 {
            return;
        }
        self.readers.retain(|reader| reader.strong_count() > 0);
        let slowest =
            self.readers.iter().filter_map(Weak::upgrade).map(|at| at.load(Ordering::Relaxed)).min();
        let hard = limit.saturating_mul(16);
        while self.history.len() > limit {
            let Some(front) = self.history.front() else { break };
            if self.history.len() <= hard && slowest.is_some_and(|seen| seen < front.rv) {
                break;
            }
            self.compacted = front.rv;
            self.history.pop_front();
        }
    }

    fn record(&mut self, event: Event, limit: usize) {
        self.history.push_back(Arc::new(event));
        self.trim(limit);
        self.changed.send();
    }
}

/// The object is not in the state that the writer has seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refused {
    /// It exists already.
    Exists,
    /// It has changed or gone since it was read.
    Changed,
}

/// The resourceVersion of an empty server: some that clients make up, like 1, are older than its history.
const FIRST: u64 = 100;

/// All objects of a server.
#[derive(Debug)]
pub(crate) struct Store {
    rv: u64,
    tables: HashMap<Arc<str>, Table>,
    limit: usize,
    /// Tables that did not exist when the history was last dropped start here.
    floor: u64,
    /// Where changes are written down, if anywhere.
    pub(crate) journal: Option<Journal>,
}

impl Store {
    /// An empty store that keeps `limit` changes of history per table.
    pub(crate) fn new(limit: usize) -> Self {
        Self { rv: FIRST, tables: HashMap::new(), limit: limit.max(1), floor: FIRST, journal: None }
    }

    /// The resourceVersion of the last change.
    pub(crate) fn rv(&self) -> u64 {
        self.rv
    }

    fn table(&mut self, name: &str) -> &mut Table {
        let floor = self.floor;
        if !self.tables.contains_key(name) {
            self.tables.insert(Arc::from(name), Table::new(floor));
        }
        // The entry API would allocate the name on every call.
        match self.tables.get_mut(name) {
            Some(table) => table,
            None => unreachable!("the table was put in just above"),
        }
    }

    /// One object.
    pub(crate) fn get(&self, table: &str, key: &str) -> Option<Arc<Stored>> {
        self.tables.get(table)?.objects.get(key).cloned()
    }

    /// Objects whose key starts with `prefix` and comes after `after`, in order of their keys.
    pub(crate) fn scan<'a>(
        &'a self,
        table: &str,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Stored>)> {
        self.tables.get(table).map(|table| range(&table.objects, prefix, after)).into_iter().flatten()
    }

    /// The table as it was at `rv`, or `None` when the history does not reach back that far.
    pub(crate) fn at(&self, table: &str, rv: u64) -> Option<BTreeMap<Arc<str>, Arc<Stored>>> {
        let Some(table) = self.tables.get(table) else {
            return (rv >= self.floor).then(BTreeMap::new);
        };
        if rv < table.compacted {
            return None;
        }
        let mut objects = table.objects.clone();
        for event in table.history.iter().rev().take_while(|event| event.rv > rv) {
            match &event.previous {
                Some(previous) => objects.insert(Arc::clone(&event.key), Arc::clone(previous)),
                None => objects.remove(&event.key),
            };
        }
        Some(objects)
    }

    /// Adds an object.
    pub(crate) fn insert(&mut self, name: &str, key: &str, value: Value) -> Result<Arc<Stored>, Refused> {
        let (rv, limit) = (self.rv + 1, self.limit);
        let table = self.table(name);
        if table.objects.contains_key(key) {
            return Err(Refused::Exists);
        }
        let (key, object): (Arc<str>, _) = (Arc::from(key), Stored::new(value, rv));
        table.objects.insert(Arc::clone(&key), Arc::clone(&object));
        table.record(event(rv, EventKind::Added, Arc::clone(&key), Arc::clone(&object), None), limit);
        self.rv = rv;
        self.note(name, Some(&key), Some(&object));
        Ok(object)
    }

    /// Changes an object that is still in the state `seen`.
    pub(crate) fn replace(
        &mut self,
        name: &str,
        key: &str,
        seen: u64,
        value: Value,
    ) -> Result<Arc<Stored>, Refused> {
        let (rv, limit) = (self.rv + 1, self.limit);
        let table = self.table(name);
        let Some((known, slot)) = table.objects.get_key_value(key).filter(|(_, old)| old.rv == seen) else {
            return Err(Refused::Changed);
        };
        let (key, previous) = (Arc::clone(known), Arc::clone(slot));
        let object = Stored::new(value, rv);
        table.objects.insert(Arc::clone(&key), Arc::clone(&object));
        table.record(
            event(rv, EventKind::Modified, Arc::clone(&key), Arc::clone(&object), Some(previous)),
            limit,
        );
        self.rv = rv;
        self.note(name, Some(&key), Some(&object));
        Ok(object)
    }

    /// Removes an object that is still in the state `seen`. `last` is what the caller is told of it, if that is not the
    /// state that was stored; watchers are told the stored one.
    pub(crate) fn remove(
        &mut self,
        name: &str,
        key: &str,
        seen: u64,
        last: Option<Value>,
    ) -> Result<Arc<Stored>, Refused> {
        let (rv, limit) = (self.rv + 1, self.limit);
        let table = self.table(name);
        if table.objects.get(key).is_none_or(|old| old.rv != seen) {
            return Err(Refused::Changed);
        }
        let Some((key, previous)) = table.objects.remove_entry(key) else { return Err(Refused::Changed) };
        let shown = Stored::new(previous.value.clone(), rv);
        let object = last.map_or_else(|| Arc::clone(&shown), |last| Stored::new(last, rv));
        table.record(event(rv, EventKind::Deleted, Arc::clone(&key), shown, Some(previous)), limit);
        self.rv = rv;
        self.note(name, Some(&key), None);
        Ok(object)
    }

    /// A reader of everything that happens to a table after `rv`; `None` when that is older than the history.
    pub(crate) fn follow(&mut self, table: &str, rv: u64) -> Result<Cursor, u64> {
        let table = self.table(table);
        if rv < table.compacted {
            return Err(table.history.front().map_or(table.compacted + 1, |event| event.rv));
        }
        let at = Arc::new(AtomicU64::new(rv));
        table.readers.push(Arc::downgrade(&at));
        Ok(Cursor { at, changed: table.changed.subscribe() })
    }

    /// What happened to a table after `rv`, at most `max` changes; the error is the oldest change still known.
    pub(crate) fn after(&self, table: &str, rv: u64, max: usize) -> Result<Vec<Arc<Event>>, u64> {
        let Some(table) = self.tables.get(table) else { return Ok(Vec::new()) };
        if rv < table.compacted {
            return Err(table.history.front().map_or(table.compacted + 1, |event| event.rv));
        }
        let first = table.history.partition_point(|event| event.rv <= rv);
        Ok(table.history.range(first..).take(max).cloned().collect())
    }

    /// Ends the watches of a table.
    pub(crate) fn end_watches(&mut self, table: &str) {
        if let Some(table) = self.tables.get_mut(table) {
            table.changed = Signal::default();
        }
    }

    /// Removes a table and ends its watches.
    pub(crate) fn drop_table(&mut self, table: &str) {
        if self.tables.remove(table).is_some() {
            self.note(table, None, None);
        }
    }

    /// Writes a change down, if that is wanted.
    fn note(&mut self, table: &str, key: Option<&str>, object: Option<&Stored>) {
        let rv = self.rv;
        if let Some(journal) = &mut self.journal {
            journal.note(rv, table, key, object.map(|object| &object.value));
            self.fold_if_long();
        }
    }

    /// Forgets the history: every older resourceVersion is expired from now on.
    pub(crate) fn compact(&mut self) {
        self.floor = self.rv;
        for table in self.tables.values_mut() {
            table.history.clear();
            table.compacted = self.rv;
        }
    }

    /// Every object: table, key, value.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Arc<Stored>)> {
        self.tables
            .iter()
            .flat_map(|(name, table)| table.objects.iter().map(move |(key, stored)| (name, key, stored)))
    }

    /// Puts back an object of a snapshot, without an event.
    pub(crate) fn put_back(&mut self, table: &str, key: &str, value: Value) {
        let rv = object::resource_version(&value).parse().unwrap_or(1);
        self.rv = self.rv.max(rv);
        self.table(table).objects.insert(Arc::from(key), Stored::as_is(value, rv));
    }

    /// Sets the resourceVersion of the last change, when it is higher than what the objects say.
    pub(crate) fn raise(&mut self, rv: u64) {
        self.rv = self.rv.max(rv);
    }
}

/// The part of a table that starts with `prefix` and comes after `after`.
pub(crate) fn range<'a>(
    objects: &'a BTreeMap<Arc<str>, Arc<Stored>>,
    prefix: &'a str,
    after: Option<&'a str>,
) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Stored>)> {
    let from: Bound<&str> = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    objects.range::<str, _>((from, Bound::Unbounded)).take_while(move |(key, _)| {
        let key: &str = (*key).borrow();
        key.starts_with(prefix)
    })
}

fn event(
    rv: u64,
    kind: EventKind,
    key: Arc<str>,
    object: Arc<Stored>,
    previous: Option<Arc<Stored>>,
) -> Event {
    Event { rv, kind, key, object, previous, encoded: Mutex::new(Vec::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(objects: &BTreeMap<Arc<str>, Arc<Stored>>) -> Vec<&str> {
        objects.keys().map(|key| &**key).collect()
    }

    #[test]
    fn a_past_state_is_rebuilt_from_the_history() {
        let mut store = Store::new(100);
        let a = store.insert("t", "ns/a", json!({"x": 1})).unwrap();
        let b = store.insert("t", "ns/b", json!({})).unwrap();
        store.replace("t", "ns/a", a.rv, json!({"x": 2})).unwrap();
        store.remove("t", "ns/b", b.rv, None).unwrap();
        let past = store.at("t", b.rv).unwrap();
        assert_eq!(names(&past), ["ns/a", "ns/b"]);
        assert_eq!(past.get("ns/a").unwrap().value["x"], 1);
        assert_eq!(names(&store.at("t", store.rv()).unwrap()), ["ns/a"]);
    }

    #[test]
    fn a_write_on_a_state_that_has_passed_is_refused() {
        let mut store = Store::new(100);
        let first = store.insert("t", "a", json!({})).unwrap();
        store.replace("t", "a", first.rv, json!({})).unwrap();
        assert_eq!(store.replace("t", "a", first.rv, json!({})).unwrap_err(), Refused::Changed);
        assert_eq!(store.remove("t", "a", first.rv, None).unwrap_err(), Refused::Changed);
        assert_eq!(store.insert("t", "a", json!({})).unwrap_err(), Refused::Exists);
    }

    #[test]
    fn history_is_dropped_but_not_before_a_reader_has_seen_it() {
        let mut store = Store::new(4);
        let cursor = store.follow("t", FIRST).unwrap();
        for number in 0..20 {
            store.insert("t", &format!("{number:02}"), json!({})).unwrap();
        }
        assert_eq!(store.after("t", cursor.rv(), 100).unwrap().len(), 20);
        cursor.advance(store.rv());
        for number in 20..40 {
            store.insert("t", &format!("{number:02}"), json!({})).unwrap();
        }
        assert!(store.follow("t", FIRST).is_err(), "what the reader has seen may go");
        drop(cursor);
        store.insert("t", "99", json!({})).unwrap();
        assert!(store.at("t", store.rv() - 20).is_none());
    }

    #[test]
    fn a_scan_stays_within_its_prefix_and_starts_after_the_given_key() {
        let mut store = Store::new(4);
        for key in ["a-b/x", "a/x", "a/y", "b/x"] {
            store.insert("t", key, json!({})).unwrap();
        }
        let keys = |prefix, after| {
            store.scan("t", prefix, after).map(|(key, _)| key.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(keys("a/", None), ["a/x", "a/y"]);
        assert_eq!(keys("a/", Some("a/x")), ["a/y"]);
        assert_eq!(keys("", Some("a/y")), ["b/x"]);
    }
}
