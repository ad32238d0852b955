//! What must hold at every write of the manager, and the faults it meets on the way.
//!
//! The checker sees the truth; the manager sees it late, by at most a watch's delay, and acts late, by at most a
//! request's. So a promise is held against the most lenient of the specs that stood within [`WINDOW`]. Each kind has a
//! judge of its own, who knows what it promises.

mod broadcastjob;
mod cloneset;
mod cronjob;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kruise_playground::MANAGER;
use kruise_sandbox::error::{ApiError, Reason};
use kruise_sandbox::server::{
    Change, Decision, Delivery, EventKind, Fate, Interceptor, RequestInfo, Server, WatchEvent,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::history::{EventFault, Fault, History, LONGEST_DELAY, Subject};

/// How late the manager may be: the delay of the event it acts on, that of the request it acts with, and time to plan.
const WINDOW: Duration = Duration::from_secs(2 * LONGEST_DELAY.as_secs() + 4);

/// Knows what a kind promises.
trait Judge: Send {
    /// The resources it looks at.
    fn tables(&self) -> &'static [&'static str];

    /// Takes in a change; what it breaks.
    fn changed(&mut self, table: &str, change: &Change, by_manager: bool) -> Result<(), String>;

    /// When what was to be run by schedule was created, in order.
    fn runs(&self) -> Vec<Timestamp> {
        Vec::new()
    }

    /// Looks at where everything has come to rest; what is wrong with it.
    fn rested(&self) -> Result<(), String> {
        Ok(())
    }
}

/// What stood lately; the last one stands.
struct Lately<T> {
    kept: VecDeque<(Option<Instant>, T)>,
}

impl<T> Lately<T> {
    const fn new() -> Self {
        Self { kept: VecDeque::new() }
    }

    /// From now on this stands.
    fn push(&mut self, promise: T) {
        if let Some((until, _)) = self.kept.back_mut() {
            *until = Some(Instant::now());
        }
        self.kept.push_back((None, promise));
        self.forget();
    }

    /// Forgets what the manager cannot act on any more.
    fn forget(&mut self) {
        let now = Instant::now();
        self.kept.retain(|(until, _)| until.is_none_or(|until| now - until <= WINDOW));
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        self.kept.iter().map(|(_, promise)| promise)
    }

    fn last(&self) -> Option<&T> {
        self.kept.back().map(|(_, promise)| promise)
    }

    /// It has been so for as long as the manager can remember.
    fn always(&self, what: impl Fn(&T) -> bool) -> bool {
        !self.kept.is_empty() && self.all().all(what)
    }

    fn most(&self, of: impl Fn(&T) -> i64) -> i64 {
        self.all().map(of).max().unwrap_or_default()
    }
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The uid of the controller.
fn owner(object: &Value) -> &str {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
    let mut owners = owners.filter(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
    owners.next().and_then(|owner| owner.get("uid")?.as_str()).unwrap_or_default()
}

fn terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// The status of a condition.
fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a str> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    conditions
        .filter(|one| one.get("type").and_then(Value::as_str) == Some(type_))
        .find_map(|one| one.get("status")?.as_str())
}

fn percent(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

fn resolve(value: Option<&Value>, default: i64, total: i64, up: bool) -> i64 {
    let Some(value) = value else { return default };
    match (value.as_i64(), percent(value)) {
        (Some(count), _) => count,
        (None, Some(percent)) => (total * percent + if up { 99 } else { 0 }) / 100,
        (None, None) => default,
    }
}

/// Everything the checker knows.
struct State {
    server: Option<Server>,
    seen: BTreeMap<&'static str, u64>,
    judge: Box<dyn Judge>,
    faults: BTreeMap<u64, Fault>,
    event_faults: BTreeMap<u64, EventFault>,
    requests: u64,
    events: u64,
    calm: bool,
    broken: Option<String>,
    trace: Vec<String>,
    /// Of every request and watch event, whoever made or got it, and when.
    digest: DefaultHasher,
    begun: Instant,
}

/// Looks at every write, and lets faults happen.
pub struct Checker {
    state: Mutex<State>,
    deaths: mpsc::UnboundedSender<()>,
}

impl Checker {
    /// The checker of a history; the receiver tells when the manager has to die.
    pub fn new(history: &History) -> (Arc<Self>, mpsc::UnboundedReceiver<()>) {
        let (deaths, receiver) = mpsc::unbounded_channel();
        let state = State {
            server: None,
            seen: BTreeMap::new(),
            judge: match history.subject {
                Subject::CloneSet(_) => Box::new(cloneset::Sets::new()),
                Subject::BroadcastJob(_) => Box::new(broadcastjob::Jobs::new()),
                Subject::CronJob(_) => Box::new(cronjob::CronJobs::new()),
            },
            faults: history.faults.iter().copied().collect(),
            event_faults: history.event_faults.iter().copied().collect(),
            requests: 0,
            events: 0,
            calm: false,
            broken: None,
            trace: Vec::new(),
            digest: DefaultHasher::new(),
            begun: Instant::now(),
        };
        (Arc::new(Self { state: Mutex::new(state), deaths }), receiver)
    }

    /// The server whose writes are checked.
    pub fn attach(&self, server: &Server) {
        self.state().server = Some(server.clone());
    }

    /// Lets go of the server, which holds the checker in turn.
    pub fn detach(&self) {
        self.state().server = None;
    }

    /// No more faults.
    pub fn calm(&self) {
        self.state().calm = true;
    }

    /// Judges where everything has come to rest.
    pub fn rested(&self) {
        let mut state = self.state();
        if let Err(what) = state.judge.rested() {
            state.broken.get_or_insert(what);
        }
    }

    /// When what was to be run by schedule was created, in order, to the second.
    pub fn runs(&self) -> Vec<Timestamp> {
        self.state().judge.runs()
    }

    /// A promise was broken that no single write shows.
    pub fn accuse(&self, what: String) {
        self.state().broken.get_or_insert(what);
    }

    /// The first promise that was broken.
    pub fn broken(&self) -> Option<String> {
        self.state().broken.clone()
    }

    /// Every write of the manager in order, to compare runs.
    pub fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    /// A number that two runs share only if the same happened at the same times in the same order.
    pub fn digest(&self) -> u64 {
        self.state().digest.finish()
    }

    /// How many requests the manager made.
    pub fn requests(&self) -> u64 {
        self.state().requests
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interceptor for Checker {
    fn before(&self, request: &RequestInfo) -> Decision {
        self.state().note(&(&request.client, request.verb.name(), &request.resource, &request.name));
        if &*request.client != MANAGER || request.dry_run {
            return Decision::default();
        }
        let mut state = self.state();
        let number = state.requests;
        state.requests += 1;
        if state.calm {
            return Decision::default();
        }
        let Some(fault) = state.faults.get(&number).copied() else { return Decision::default() };
        let error = |reason: Reason, message: &str| Fate::Fail(ApiError::new(reason, message));
        let write = request.verb.is_write();
        match fault {
            Fault::Conflict if write => error(Reason::Conflict, "simulated conflict").into(),
            Fault::Conflict => Decision::default(),
            Fault::TooManyRequests => error(Reason::TooManyRequests, "simulated overload").into(),
            Fault::Internal => error(Reason::InternalError, "simulated failure").into(),
            Fault::LoseRequest => Fate::LoseRequest.into(),
            Fault::LoseResponse => Fate::LoseResponse.into(),
            Fault::Delay => Decision { delay: LONGEST_DELAY, then: Fate::Proceed },
            Fault::DieBefore | Fault::DieAfter => {
                // Whoever plays the history may have gone; then nobody needs to die.
                let _gone = self.deaths.send(());
                if fault == Fault::DieBefore { Fate::DieBefore.into() } else { Fate::DieAfter.into() }
            }
        }
    }

    fn event(&self, event: &WatchEvent<'_>) -> Delivery {
        self.state().note(&(&event.watch.client, &event.watch.resource));
        if &*event.watch.client != MANAGER {
            return Delivery::Now;
        }
        let mut state = self.state();
        let number = state.events;
        state.events += 1;
        if state.calm {
            return Delivery::Now;
        }
        match state.event_faults.get(&number) {
            None => Delivery::Now,
            Some(EventFault::Delay) => Delivery::After(LONGEST_DELAY),
            Some(EventFault::Twice) => Delivery::Twice,
            Some(EventFault::End) => Delivery::End,
            Some(EventFault::Expire) => Delivery::Expire,
        }
    }

    fn after(&self, request: &RequestInfo, answer: Result<(), &ApiError>) {
        if !request.verb.is_write() || request.dry_run {
            return;
        }
        let mut state = self.state();
        if &*request.client == MANAGER && request.resource != "leases" && request.resource != "events" {
            let slash = if request.subresource.is_empty() { "" } else { "/" };
            let outcome = answer.err().map_or("ok".to_owned(), |error| error.reason.code().to_string());
            state.trace.push(format!(
                "{} {}{slash}{} {} {outcome}",
                request.verb.name(),
                request.resource,
                request.subresource,
                request.name
            ));
        }
        state.take_in(request);
    }
}

impl State {
    fn note(&mut self, what: &impl Hash) {
        (self.begun.elapsed(), what).hash(&mut self.digest);
    }

    /// Brings the picture up to date and judges what the request's own change has done.
    fn take_in(&mut self, request: &RequestInfo) {
        let Some(server) = self.server.clone() else { return };
        for table in self.judge.tables() {
            let after = self.seen.get(table).copied().unwrap_or_default();
            for change in server.changes(table, after) {
                self.seen.insert(table, change.resource_version());
                let resource = table.split('.').next().unwrap_or_default();
                let meant =
                    request.resource == resource && request.name == text(change.object(), "/metadata/name");
                let by_manager = &*request.client == MANAGER && (meant || change.kind() == EventKind::Added);
                if let Err(what) = self.judge.changed(table, &change, by_manager) {
                    self.broken.get_or_insert(what);
                }
            }
        }
    }
}
