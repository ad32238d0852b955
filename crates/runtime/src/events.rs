//! Events for users, as core/v1 Events with `source.component` set: what `kubectl describe` shows.
//!
//! Recording never waits: an event goes into a bounded queue that one task empties. The task merges repeats as
//! client-go does, so that a failing loop costs one object and a few writes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::client::is_namespace_terminating;
use crate::lease::WallClock;
use crate::store::View;

/// Messages are cut to this many bytes.
const MAX_MESSAGE: usize = 1024;
/// Room left in an Event's name for the object's name; the rest is a dot and 16 hex digits.
const MAX_NAME: usize = 236;
/// Repeats further apart than this start a new Event.
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// More different messages than this, alike in all else, become one Event.
const MAX_SIMILAR: usize = 10;
/// Events that a source may write about one object at once.
const BURST: f64 = 25.0;
/// Seconds after which it may write one more.
const REFILL_SECONDS: f64 = 300.0;
/// How many entries each memory of the correlator keeps.
const MEMORY: usize = 4096;
/// What precedes the newest message of many similar ones.
const COMBINED: &str = "(combined from similar events): ";
/// How often a write is tried when the API server cannot be reached, and the pause between.
const WRITE_ATTEMPTS: u32 = 3;
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// Whether an event is news or trouble.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Something a user may have to look at.
    Warning,
}

impl EventType {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Something that happened to an object, before it is merged with what happened earlier.
#[derive(Clone, Debug, PartialEq)]
pub struct Occurrence {
    /// Who says so.
    pub component: Arc<str>,
    /// The node it says so from, if that matters.
    pub host: Option<Arc<str>>,
    /// What it is about.
    pub object: ObjectReference,
    /// News or trouble.
    pub kind: EventType,
    /// One word for machines.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
}

/// What to write for an occurrence.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// A new Event.
    Create(Box<Event>),
    /// The Event has been written before: update its count, last time and message. Should it be gone, create it.
    Patch(Box<Event>),
    /// Too many from this source about this object.
    Drop,
}

/// Merges repeats and holds back floods. Keeps a bounded memory; never reads a clock.
#[derive(Debug, Default)]
pub struct Correlator {
    buckets: Lru<Bucket>,
    similar: Lru<Similar>,
    written: Lru<Written>,
    last_stamp: i128,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Timestamp,
}

#[derive(Debug)]
struct Similar {
    messages: BTreeSet<u64>,
    last: Timestamp,
}

#[derive(Debug)]
struct Written {
    event: Event,
    last: Timestamp,
}

impl Correlator {
    /// Decides what to write for `event`.
    pub fn decide(&mut self, event: &Occurrence, now: Timestamp) -> Decision {
        let source_key = source_key(event);
        let similar_key =
            format!("{source_key}\u{0}{}\u{0}{}", event.kind.as_str(), event.reason.escape_default());
        let combine = self.is_flood_of_similar(&similar_key, &event.message, now);
        let (key, message) = if combine {
            (similar_key, cut(&format!("{COMBINED}{}", event.message), MAX_MESSAGE).to_owned())
        } else {
            let message = cut(&event.message, MAX_MESSAGE).to_owned();
            (format!("{similar_key}\u{0}{}", event.message), message)
        };
        let may_write = self.take_token(source_key, now);
        if let Some(written) = self.written.get(&key).filter(|written| within_window(written.last, now)) {
            // Counted even when it may not be written: the next write then tells the true count.
            written.last = now;
            written.event.count = Some(written.event.count.unwrap_or(1).saturating_add(1));
            written.event.last_timestamp = Some(Time(now));
            written.event.message = Some(message);
            return if may_write { Decision::Patch(Box::new(written.event.clone())) } else { Decision::Drop };
        }
        if !may_write {
            return Decision::Drop;
        }
        let fresh = self.fresh(event, message, now);
        self.written.put(key, Written { event: fresh.clone(), last: now });
        Decision::Create(Box::new(fresh))
    }

    /// Whether more than [`MAX_SIMILAR`] different messages came up within the window.
    fn is_flood_of_similar(&mut self, key: &str, message: &str, now: Timestamp) -> bool {
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        let message = hasher.finish();
        let Some(similar) = self.similar.get(key).filter(|similar| within_window(similar.last, now)) else {
            let messages = BTreeSet::from([message]);
            self.similar.put(key.to_owned(), Similar { messages, last: now });
            return false;
        };
        similar.last = now;
        similar.messages.insert(message);
        let flood = similar.messages.len() > MAX_SIMILAR;
        if flood {
            // The set does not grow: the first ten keep Events of their own.
            similar.messages.remove(&message);
        }
        flood
    }

    /// Takes a token of the source's bucket for the object, if there is one.
    fn take_token(&mut self, key: String, now: Timestamp) -> bool {
        let Some(bucket) = self.buckets.get(&key) else {
            self.buckets.put(key, Bucket { tokens: BURST - 1.0, filled: now });
            return true;
        };
        let passed = now.duration_since(bucket.filled).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed / REFILL_SECONDS).min(BURST);
        bucket.filled = now.max(bucket.filled);
        // Refills add up in floating point: a token that is there but for the last digit is there.
        let may = bucket.tokens >= 1.0 - 1e-6;
        if may {
            bucket.tokens = (bucket.tokens - 1.0).max(0.0);
        }
        may
    }

    fn fresh(&mut self, event: &Occurrence, message: String, now: Timestamp) -> Event {
        self.last_stamp = now.as_nanosecond().max(self.last_stamp + 1);
        let object = event.object.name.as_deref().unwrap_or_default();
        let namespace = event.object.namespace.clone().filter(|namespace| !namespace.is_empty());
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:016x}", cut(object, MAX_NAME), self.last_stamp)),
                namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            involved_object: event.object.clone(),
            reason: Some(event.reason.clone()),
            message: Some(message),
            type_: Some(event.kind.as_str().to_owned()),
            source: Some(EventSource {
                component: Some(event.component.to_string()),
                host: event.host.as_deref().map(str::to_owned),
            }),
            reporting_component: Some(event.component.to_string()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        }
    }
}

fn within_window(last: Timestamp, now: Timestamp) -> bool {
    now.duration_since(last) <= WINDOW
}

/// Source and object, as one key: no part can hold the separator.
fn source_key(event: &Occurrence) -> String {
    let object = &event.object;
    let parts = [&object.api_version, &object.kind, &object.namespace, &object.name, &object.uid];
    let mut key = event.component.to_string();
    for part in parts.into_iter().chain([&object.field_path]) {
        key.push('\u{0}');
        key.push_str(part.as_deref().unwrap_or_default());
    }
    key
}

/// The longest start of `text` that has at most `max` bytes.
fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or_default()
}

/// A map that forgets what was not used for longest once it holds [`MEMORY`] entries.
#[derive(Debug)]
struct Lru<V> {
    entries: HashMap<Arc<str>, (u64, V)>,
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
}

impl<V> Default for Lru<V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), by_use: BTreeMap::new(), uses: 0 }
    }
}

impl<V> Lru<V> {
    fn get(&mut self, key: &str) -> Option<&mut V> {
        let (used, value) = self.entries.get_mut(key)?;
        self.uses += 1;
        if let Some(key) = self.by_use.remove(used) {
            self.by_use.insert(self.uses, key);
        }
        *used = self.uses;
        Some(value)
    }

    fn put(&mut self, key: String, value: V) {
        let key: Arc<str> = key.into();
        self.uses += 1;
        if let Some((used, _)) = self.entries.insert(Arc::clone(&key), (self.uses, value)) {
            self.by_use.remove(&used);
        }
        self.by_use.insert(self.uses, key);
        while self.entries.len() > MEMORY {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.entries.remove(&oldest);
        }
    }
}

/// A kept object, as events name what they are about.
pub fn about(view: &impl View, api_version: &str, kind: &str) -> ObjectReference {
    let key = view.key();
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: (!key.namespace.is_empty()).then(|| key.namespace.to_string()),
        name: Some(key.name.to_string()),
        uid: Some(view.uid().to_string()),
        resource_version: Some(view.resource_version().to_owned()),
        ..ObjectReference::default()
    }
}

/// Records events without ever waiting. Clones are cheap and share one queue.
#[derive(Clone, Debug)]
pub struct EventRecorder {
    component: Arc<str>,
    host: Option<Arc<str>>,
    queue: mpsc::Sender<Occurrence>,
    dropped: Arc<AtomicU64>,
    homeless: Arc<AtomicU64>,
}

impl EventRecorder {
    /// A recorder for `component`, and the task that writes what it records; `capacity` events may wait.
    pub fn new(component: &str, capacity: usize, clock: WallClock) -> (Self, EventWriter) {
        let (queue, receiver) = mpsc::channel(capacity.max(1));
        let homeless = Arc::default();
        let recorder = Self {
            component: component.into(),
            host: None,
            queue,
            dropped: Arc::default(),
            homeless: Arc::clone(&homeless),
        };
        (recorder, EventWriter { queue: receiver, correlator: Correlator::default(), clock, homeless })
    }

    /// The same queue under another `source.component`.
    #[must_use]
    pub fn for_component(&self, component: &str) -> Self {
        Self { component: component.into(), ..self.clone() }
    }

    /// The same queue, with a node as `source.host`.
    #[must_use]
    pub fn on_host(&self, host: &str) -> Self {
        Self { host: Some(host.into()), ..self.clone() }
    }

    /// Records an event; when the queue is full it is dropped and counted.
    pub fn event(&self, object: ObjectReference, kind: EventType, reason: &str, message: &str) {
        let occurrence = Occurrence {
            component: Arc::clone(&self.component),
            host: self.host.clone(),
            object,
            kind,
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        if self.queue.try_send(occurrence).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were dropped because the queue was full or its task had ended.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many events found their namespace gone or going.
    pub fn homeless(&self) -> u64 {
        self.homeless.load(Ordering::Relaxed)
    }

    /// `kruise_events_dropped_total` of this queue, to be registered once.
    ///
    /// # Errors
    /// The metric's own description is refused.
    pub fn collector(&self) -> prometheus::Result<impl Collector + 'static> {
        let about = "Events that were not written, by reason.";
        let total = IntCounterVec::new(Opts::new("kruise_events_dropped_total", about), &["reason"])?;
        let (full, homeless) = (Arc::clone(&self.dropped), Arc::clone(&self.homeless));
        Ok(Dropped { full, homeless, total, scrape: Mutex::default() })
    }
}

/// Asks for the numbers when it is scraped. It keeps no recorder, or the writer would never see the last one go.
struct Dropped {
    full: Arc<AtomicU64>,
    homeless: Arc<AtomicU64>,
    total: IntCounterVec,
    /// Scrapes at the same time must not add up.
    scrape: Mutex<()>,
}

impl Collector for Dropped {
    fn desc(&self) -> Vec<&Desc> {
        self.total.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _one_at_a_time = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.total.reset();
        for (reason, count) in [("queue-full", &self.full), ("namespace-gone", &self.homeless)] {
            self.total.with_label_values(&[reason]).inc_by(count.load(Ordering::Relaxed));
        }
        self.total.collect()
    }
}

/// A failed write of an Event.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The Event to update is gone.
    #[error("the event does not exist")]
    NotFound,
    /// The namespace is gone or going: nobody will read what happens in it.
    #[error("the namespace is gone or being deleted")]
    NamespaceGone,
    /// The API server has refused it: trying again is no use.
    #[error("{0}")]
    Refused(String),
    /// The API server could not be asked.
    #[error("{0}")]
    Unreachable(String),
}

/// Where Events are written to.
pub trait EventStore: Send + Sync {
    /// Creates an Event.
    fn create(&self, event: &Event) -> impl Future<Output = Result<(), EventError>> + Send;
    /// Updates count, last time and message of an Event.
    fn update(&self, event: &Event) -> impl Future<Output = Result<(), EventError>> + Send;
}

/// Events in an API server.
#[derive(Clone)]
pub struct ApiEvents(pub kube::Client);

/// What changes in an Event that is counted up.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Repeat<'a> {
    count: Option<i32>,
    last_timestamp: &'a Option<Time>,
    message: &'a Option<String>,
}

impl ApiEvents {
    fn api(&self, event: &Event) -> Api<Event> {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        Api::namespaced(self.0.clone(), namespace)
    }
}

impl EventStore for ApiEvents {
    async fn create(&self, event: &Event) -> Result<(), EventError> {
        match self.api(event).create(&PostParams::default(), event).await.map_err(|e| classify(&e)) {
            // An Event to create is not there anyway: what was not found is the namespace.
            Err(EventError::NotFound) => Err(EventError::NamespaceGone),
            done => done.map(drop),
        }
    }

    async fn update(&self, event: &Event) -> Result<(), EventError> {
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let repeat =
            Repeat { count: event.count, last_timestamp: &event.last_timestamp, message: &event.message };
        let params = PatchParams::default();
        self.api(event).patch(name, &params, &Patch::Merge(&repeat)).await.map(drop).map_err(|e| classify(&e))
    }
}

fn classify(error: &kube::Error) -> EventError {
    match error {
        kube::Error::Api(status) if status.code == 404 => EventError::NotFound,
        error if is_namespace_terminating(error) => EventError::NamespaceGone,
        kube::Error::Api(status) if status.code < 500 && status.code != 429 => {
            EventError::Refused(status.message.clone())
        }
        other => EventError::Unreachable(other.to_string()),
    }
}

/// The task behind recorders: merges, then writes, one event after the other.
pub struct EventWriter {
    queue: mpsc::Receiver<Occurrence>,
    correlator: Correlator,
    clock: WallClock,
    homeless: Arc<AtomicU64>,
}

impl EventWriter {
    /// Writes until all recorders are gone, or until `shutdown` is true and the queue is empty.
    pub async fn run<S: EventStore>(mut self, store: S, mut shutdown: watch::Receiver<bool>) {
        loop {
            let next = tokio::select! {
                biased;
                next = self.queue.recv() => next,
                _ = shutdown.wait_for(|stop| *stop) => None,
            };
            let Some(occurrence) = next else { break };
            let name = &occurrence.object.name;
            match write(&store, self.correlator.decide(&occurrence, (self.clock)())).await {
                Ok(()) => {}
                Err(error @ EventError::NamespaceGone) => {
                    self.homeless.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%error, object = name, reason = occurrence.reason, "an event was dropped");
                }
                Err(error) => {
                    tracing::warn!(%error, object = name, reason = occurrence.reason, "an event was not written");
                }
            }
        }
    }
}

async fn write<S: EventStore>(store: &S, decision: Decision) -> Result<(), EventError> {
    match decision {
        Decision::Create(event) => patiently(|| store.create(&event)).await,
        Decision::Patch(event) => match patiently(|| store.update(&event)).await {
            Err(EventError::NotFound) => patiently(|| store.create(&event)).await,
            done => done,
        },
        Decision::Drop => Ok(()),
    }
}

/// Tries a write again while the API server cannot be reached, but not for long: newer events wait behind it.
async fn patiently<F: Future<Output = Result<(), EventError>>>(
    mut write: impl FnMut() -> F,
) -> Result<(), EventError> {
    for _ in 1..WRITE_ATTEMPTS {
        match write().await {
            Err(EventError::Unreachable(_)) => tokio::time::sleep(WRITE_PAUSE).await,
            done => return done,
        }
    }
    write().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn object(name: &str) -> ObjectReference {
        ObjectReference {
            kind: Some("CloneSet".into()),
            namespace: Some("ns".into()),
            name: Some(name.into()),
            ..ObjectReference::default()
        }
    }

    fn event(name: &str, message: &str) -> Occurrence {
        Occurrence {
            component: "cloneset-controller".into(),
            host: None,
            object: object(name),
            kind: EventType::Normal,
            reason: "SuccessfulCreate".into(),
            message: message.into(),
        }
    }

    fn created(decision: Decision) -> Event {
        match decision {
            Decision::Create(event) => *event,
            other => panic!("{other:?}"),
        }
    }

    fn patched(decision: Decision) -> Event {
        match decision {
            Decision::Patch(event) => *event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_first_event_names_its_source_and_object() {
        let event = created(Correlator::default().decide(&event("web", "succeed to create pod"), at(0)));
        assert_eq!(event.metadata.namespace.as_deref(), Some("ns"));
        let name = event.metadata.name.unwrap();
        assert_eq!(name, format!("web.{:016x}", at(0).as_nanosecond()));
        assert_eq!(event.source.unwrap().component.as_deref(), Some("cloneset-controller"));
        assert_eq!((event.count, event.type_.as_deref()), (Some(1), Some("Normal")));
        assert_eq!((event.first_timestamp, event.last_timestamp), (Some(Time(at(0))), Some(Time(at(0)))));
    }

    #[test]
    fn identical_events_count_up_one_object_within_ten_minutes_and_start_anew_after() {
        let mut correlator = Correlator::default();
        let first = created(correlator.decide(&event("web", "same"), at(0)));
        let second = patched(correlator.decide(&event("web", "same"), at(600)));
        assert_eq!(second.metadata.name, first.metadata.name);
        assert_eq!((second.count, &second.last_timestamp), (Some(2), &Some(Time(at(600)))));
        assert_eq!(second.first_timestamp, first.first_timestamp);
        let later = created(correlator.decide(&event("web", "same"), at(1201)));
        assert_ne!(later.metadata.name, first.metadata.name);
    }

    #[test]
    fn more_than_ten_similar_events_become_one() {
        let mut correlator = Correlator::default();
        for n in 0..10 {
            created(correlator.decide(&event("web", &format!("pod {n}")), at(n)));
        }
        let combined = created(correlator.decide(&event("web", "pod 10"), at(10)));
        assert_eq!(combined.message.as_deref(), Some("(combined from similar events): pod 10"));
        let next = patched(correlator.decide(&event("web", "pod 11"), at(11)));
        assert_eq!(next.metadata.name, combined.metadata.name);
        assert_eq!(next.message.as_deref(), Some("(combined from similar events): pod 11"));
        assert_eq!(next.count, Some(2));
        // Another reason, and the same one after a quiet while, stand alone again.
        let other = Occurrence { reason: "FailedCreate".into(), ..event("web", "pod 12") };
        created(correlator.decide(&other, at(12)));
        assert_eq!(
            created(correlator.decide(&event("web", "pod 13"), at(700))).message.as_deref(),
            Some("pod 13")
        );
    }

    #[test]
    fn a_source_may_write_25_events_about_an_object_and_then_one_per_five_minutes() {
        let mut correlator = Correlator::default();
        let mut written = 0;
        for _ in 0..40 {
            if correlator.decide(&event("web", "same"), at(0)) != Decision::Drop {
                written += 1;
            }
        }
        assert_eq!(written, 25);
        created(correlator.decide(&event("other", "same"), at(0)));
        let other_source = Occurrence { component: "other".into(), ..event("web", "same") };
        created(correlator.decide(&other_source, at(0)));
        assert_eq!(correlator.decide(&event("web", "same"), at(299)), Decision::Drop);
        let next = patched(correlator.decide(&event("web", "same"), at(300)));
        assert_eq!(next.count, Some(42), "what was held back is counted");
        assert_eq!(correlator.decide(&event("web", "same"), at(301)), Decision::Drop);
    }

    #[test]
    fn long_messages_are_cut_between_characters_and_cluster_objects_go_to_default() {
        let mut occurrence = event(&"n".repeat(300), &"é".repeat(600));
        occurrence.message.insert(0, 'x');
        occurrence.object.namespace = None;
        let event = created(Correlator::default().decide(&occurrence, at(0)));
        assert_eq!(event.message.unwrap().len(), 1023);
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.metadata.name.unwrap().len(), 253);
    }

    #[test]
    fn memory_is_bounded_and_forgets_what_is_least_used() {
        let mut correlator = Correlator::default();
        for n in 0..MEMORY {
            created(correlator.decide(&event(&format!("o{n}"), "m"), at(0)));
        }
        patched(correlator.decide(&event("o0", "m"), at(1)));
        created(correlator.decide(&event("one-more", "m"), at(2)));
        assert_eq!(correlator.written.entries.len(), MEMORY);
        assert_eq!(correlator.written.by_use.len(), MEMORY);
        patched(correlator.decide(&event("o0", "m"), at(3)));
        created(correlator.decide(&event("o1", "m"), at(4)));
    }

    #[test]
    fn names_differ_even_at_the_same_instant() {
        let mut correlator = Correlator::default();
        let a = created(correlator.decide(&event("web", "a"), at(0)));
        let b = created(correlator.decide(&event("web", "b"), at(0)));
        assert_ne!(a.metadata.name, b.metadata.name);
    }

    /// Notes every write; updates find nothing, and the first write is unreachable.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<String>>>);

    impl Notes {
        fn note(&self, verb: &str, event: &Event) -> usize {
            let mut notes = self.0.lock().unwrap();
            notes.push(format!("{verb} {} x{}", event.message.as_deref().unwrap(), event.count.unwrap()));
            notes.len()
        }
    }

    impl EventStore for Notes {
        async fn create(&self, event: &Event) -> Result<(), EventError> {
            if self.note("create", event) == 1 {
                return Err(EventError::Unreachable("down".into()));
            }
            Ok(())
        }

        async fn update(&self, event: &Event) -> Result<(), EventError> {
            self.note("update", event);
            Err(EventError::NotFound)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_writer_retries_recreates_and_empties_its_queue_before_it_stops() {
        let (recorder, writer) = EventRecorder::new("c", 3, Arc::new(|| at(0)));
        for message in ["a", "a", "b", "too much"] {
            recorder.event(object("web"), EventType::Normal, "R", message);
        }
        assert_eq!(recorder.dropped(), 1);
        let notes = Notes::default();
        let (stop, shutdown) = watch::channel(false);
        stop.send(true).unwrap();
        writer.run(notes.clone(), shutdown).await;
        assert_eq!(
            *notes.0.lock().unwrap(),
            ["create a x1", "create a x1", "update a x2", "create a x2", "create b x1"]
        );
        recorder.event(object("web"), EventType::Normal, "R", "late");
        assert_eq!(recorder.dropped(), 2);
    }

    fn refusal(code: u16, reason: &str, cause: &str) -> kube::Error {
        let status = serde_json::from_value(serde_json::json!({
            "status": "Failure", "message": "no", "reason": reason, "code": code,
            "details": {"causes": [{"reason": cause, "message": "namespace a is being terminated", "field": "metadata.namespace"}]},
        }));
        kube::Error::Api(Box::new(status.unwrap()))
    }

    #[test]
    fn a_refusal_is_of_the_namespace_only_when_the_api_server_says_so() {
        assert!(matches!(
            classify(&refusal(403, "Forbidden", "NamespaceTerminating")),
            EventError::NamespaceGone
        ));
        assert!(matches!(classify(&refusal(403, "Forbidden", "")), EventError::Refused(_)));
        assert!(matches!(classify(&refusal(404, "NotFound", "")), EventError::NotFound));
        assert!(matches!(classify(&refusal(503, "ServiceUnavailable", "")), EventError::Unreachable(_)));
    }

    /// A namespace that is being deleted.
    struct Terminating;

    impl EventStore for Terminating {
        async fn create(&self, _: &Event) -> Result<(), EventError> {
            Err(EventError::NamespaceGone)
        }

        async fn update(&self, _: &Event) -> Result<(), EventError> {
            Err(EventError::NotFound)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_of_a_namespace_that_goes_are_counted_and_not_tried_again() {
        let (recorder, writer) = EventRecorder::new("c", 3, Arc::new(|| at(0)));
        for message in ["a", "a", "b"] {
            recorder.event(object("web"), EventType::Normal, "R", message);
        }
        let (stop, shutdown) = watch::channel(true);
        writer.run(Terminating, shutdown).await;
        drop(stop);
        assert_eq!((recorder.homeless(), recorder.dropped()), (3, 0));
        let collector = recorder.collector().unwrap();
        for _scrape in 0..2 {
            let families = collector.collect();
            let counts = families[0].get_metric().iter().map(|metric| {
                (metric.get_label()[0].value().to_owned(), metric.get_counter().get_value().to_string())
            });
            let mut counts: Vec<_> = counts.collect();
            counts.sort_by(|a, b| a.0.cmp(&b.0));
            assert_eq!(
                counts,
                [("namespace-gone".to_owned(), "3".to_owned()), ("queue-full".to_owned(), "0".to_owned())]
            );
        }
    }
}
