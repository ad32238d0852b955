//! What must hold at every write of the manager, and the faults it meets on the way.
//!
//! The checker sees the truth; the manager sees it late, by at most a watch's delay, and acts late, by at most a
//! request's. So a promise is held against the most lenient of the specs that stood within [`WINDOW`], and pods that
//! went down within it without the manager's doing are not held against it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kruise_playground::MANAGER;
use kruise_sandbox::error::{ApiError, Reason};
use kruise_sandbox::server::{
    Change, Decision, Delivery, EventKind, Fate, Interceptor, RequestInfo, Server, WatchEvent,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::history::{EventFault, Fault, History, LONGEST_DELAY};
use crate::run::SET;

/// How late the manager may be: the delay of the event it acts on, that of the request it acts with, and time to plan.
const WINDOW: Duration = Duration::from_secs(2 * LONGEST_DELAY.as_secs() + 4);
const REVISION: &str = "controller-revision-hash";
const SPECIFIED_DELETE: &str = "apps.kruise.io/specified-delete";

/// A pod as the checks need it.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact of a pod")]
#[derive(Clone, Debug, Default)]
struct PodState {
    owner: String,
    selected: bool,
    revision: String,
    image: String,
    active: bool,
    /// Serving, as far as the manager lets it.
    serving: bool,
    marked: bool,
}

impl PodState {
    fn of(pod: &Value) -> Self {
        let at = |path: &str| pod.pointer(path);
        let text = |path: &str| at(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let condition = |type_: &str| {
            let conditions = at("/status/conditions").and_then(Value::as_array).into_iter().flatten();
            conditions
                .filter(|one| one.get("type").and_then(Value::as_str) == Some(type_))
                .find_map(|one| one.get("status")?.as_str())
        };
        let owner = at("/metadata/ownerReferences")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
            .and_then(|owner| owner.get("uid")?.as_str())
            .unwrap_or_default()
            .to_owned();
        let terminating = at("/metadata/deletionTimestamp").is_some();
        let ended = matches!(text("/status/phase").as_str(), "Failed" | "Succeeded");
        let closed = condition("InPlaceUpdateReady") == Some("False");
        let active = !terminating && !ended;
        Self {
            owner,
            selected: text("/metadata/labels/app") == SET,
            revision: text(&format!("/metadata/labels/{REVISION}")),
            image: text("/spec/containers/0/image"),
            active,
            serving: active && !closed && condition("Ready") == Some("True"),
            marked: at("/metadata/labels").and_then(|labels| labels.get(SPECIFIED_DELETE)).is_some(),
        }
    }
}

/// What a spec promises, resolved.
#[derive(Clone, Debug)]
struct Promise {
    until: Option<Instant>,
    replicas: i64,
    partition: i64,
    unavailable: i64,
    surge: i64,
    paused: bool,
    current: String,
    template: Value,
    deleted: bool,
    doomed: BTreeSet<String>,
}

impl Promise {
    fn of(set: &Value, gone: bool) -> Self {
        let at = |path: &str| set.pointer(path);
        let replicas = at("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        let rolling = |field: &str| at(&format!("/spec/updateStrategy/rollingUpdate/{field}"));
        let paused = rolling("paused").and_then(Value::as_bool).unwrap_or_default();
        let surge = if paused { 0 } else { resolve(rolling("maxSurge"), 0, replicas, true) };
        let doomed = at("/spec/scaleStrategy/podsToDelete").and_then(Value::as_array).into_iter().flatten();
        Self {
            until: None,
            replicas,
            partition: partition(rolling("partition"), replicas),
            // Rounded up with or without surge: the lenient reading.
            unavailable: resolve(rolling("maxUnavailable"), (replicas + 4) / 5, replicas, true),
            surge,
            paused,
            current: at("/status/currentRevision").and_then(Value::as_str).unwrap_or_default().to_owned(),
            template: at("/spec/template").cloned().unwrap_or_default(),
            deleted: gone || at("/metadata/deletionTimestamp").is_some(),
            doomed: doomed.filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }
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

fn partition(value: Option<&Value>, replicas: i64) -> i64 {
    let resolved = resolve(value, 0, replicas, true);
    let whole = value.and_then(percent).is_some_and(|percent| percent != 100);
    let resolved = if whole && replicas > 1 && resolved == replicas { replicas - 1 } else { resolved };
    resolved.clamp(0, replicas)
}

/// Everything the checker knows.
struct State {
    server: Option<Server>,
    seen: BTreeMap<&'static str, u64>,
    uid: String,
    pods: BTreeMap<String, PodState>,
    /// The spec that stands is the last one.
    promises: VecDeque<Promise>,
    /// When pods went down without the manager's doing.
    losses: VecDeque<Instant>,
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

const TABLES: [&str; 2] = ["clonesets.apps.kruise.io", "pods"];

impl Checker {
    /// The checker of a history; the receiver tells when the manager has to die.
    pub fn new(history: &History) -> (Arc<Self>, mpsc::UnboundedReceiver<()>) {
        let (deaths, receiver) = mpsc::unbounded_channel();
        let state = State {
            server: None,
            seen: BTreeMap::new(),
            uid: String::new(),
            pods: BTreeMap::new(),
            promises: VecDeque::new(),
            losses: VecDeque::new(),
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
        for table in TABLES {
            let after = self.seen.get(table).copied().unwrap_or_default();
            for change in server.changes(table, after) {
                self.seen.insert(table, change.resource_version());
                if table == "pods" {
                    self.pod_changed(&change, request);
                } else {
                    self.set_changed(&change);
                }
            }
        }
    }

    fn set_changed(&mut self, change: &Change) {
        let set = change.object();
        let text = |path: &str| set.pointer(path).and_then(Value::as_str).unwrap_or_default();
        if text("/metadata/name") != SET {
            return;
        }
        text("/metadata/uid").clone_into(&mut self.uid);
        let now = Instant::now();
        if let Some(last) = self.promises.back_mut() {
            last.until = Some(now);
        }
        self.promises.push_back(Promise::of(set, change.kind() == EventKind::Deleted));
        self.promises.retain(|promise| promise.until.is_none_or(|until| now - until <= WINDOW));
    }

    fn pod_changed(&mut self, change: &Change, request: &RequestInfo) {
        let now = Instant::now();
        self.losses.retain(|at| now - *at <= WINDOW);
        self.promises.retain(|promise| promise.until.is_none_or(|until| now - until <= WINDOW));
        let pod = change.object();
        let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let before = self.pods.get(&name).cloned();
        let after = if change.kind() == EventKind::Deleted { PodState::default() } else { PodState::of(pod) };
        if change.kind() == EventKind::Deleted {
            self.pods.remove(&name);
        } else {
            self.pods.insert(name.clone(), after.clone());
        }
        let uid = self.uid.clone();
        let own = |pod: &PodState| !uid.is_empty() && pod.owner == uid;
        let by_manager = &*request.client == MANAGER && request.resource == "pods" && request.name == name
            || (&*request.client == MANAGER && change.kind() == EventKind::Added);
        if !by_manager {
            let was = before.filter(|pod| own(pod) && pod.selected);
            // A pod whose gate the manager has closed does not serve any more: what its node does then is no loss.
            if was.is_some_and(|was| was.serving && !(after.serving && after.selected)) {
                self.losses.push_back(now);
            }
            return;
        }
        if let Some(was) = &before
            && !own(was)
        {
            self.fail(format!("the manager wrote to pod {name}, which does not belong to the set"));
        }
        if change.kind() == EventKind::Added {
            self.check_count(&name);
            self.check_partition(&name, &after.revision);
        } else if let Some(was) = &before {
            if was.serving
                && !after.serving
                && was.selected
                && own(&after) | (change.kind() == EventKind::Deleted)
            {
                self.check_available(&name);
            }
            if !after.revision.is_empty() && was.revision != after.revision && !was.revision.is_empty() {
                self.check_partition(&name, &after.revision);
                self.check_paused(&name);
            } else if !after.image.is_empty() && was.image != after.image {
                self.check_paused(&name);
            }
        }
    }

    fn fail(&mut self, what: String) {
        if self.broken.is_none() {
            self.broken = Some(what);
        }
    }

    fn members(&self) -> impl Iterator<Item = (&String, &PodState)> {
        self.pods.iter().filter(|(_, pod)| pod.owner == self.uid && pod.selected)
    }

    fn most(&self, of: impl Fn(&Promise) -> i64) -> i64 {
        self.promises.iter().map(of).max().unwrap_or_default()
    }

    /// Pods never exceed replicas and surge.
    fn check_count(&mut self, name: &str) {
        let active = self.members().filter(|(_, pod)| pod.active).count() as i64;
        let allowed = self.most(|promise| promise.replicas + promise.surge);
        if active > allowed {
            self.fail(format!("creating pod {name} makes {active} active pods where {allowed} are allowed"));
        }
        if self.promises.iter().all(|promise| promise.deleted) {
            self.fail(format!("pod {name} was created for a set that is gone"));
        }
    }

    /// No more pods are taken down on purpose than may be unavailable.
    fn check_available(&mut self, name: &str) {
        let serving = self.members().filter(|(_, pod)| pod.serving).count() as i64;
        let needed = self.promises.iter().map(|one| one.replicas - one.unavailable).min().unwrap_or_default();
        let doomed = |name: &String, pod: &PodState| {
            pod.marked || self.promises.iter().any(|promise| promise.doomed.contains(name))
        };
        let excused = self.members().filter(|(name, pod)| !pod.serving && doomed(name, pod)).count() as i64;
        let losses = self.losses.len() as i64;
        if serving + excused + losses < needed {
            self.fail(format!(
                "taking pod {name} down leaves {serving} serving where {needed} are needed ({excused} marked, {losses} lost)"
            ));
        }
    }

    /// Updated pods never exceed replicas − partition because of the controller.
    fn check_partition(&mut self, name: &str, revision: &str) {
        let stable = self.promises.iter().all(|promise| {
            self.promises.back().is_some_and(|last| last.template == promise.template)
                && !promise.current.is_empty()
                && promise.current != revision
        });
        if !stable {
            return;
        }
        let updated = self.members().filter(|(_, pod)| pod.active && pod.revision == revision).count() as i64;
        let allowed = self.most(|promise| promise.replicas - promise.partition + promise.surge);
        if updated > allowed {
            self.fail(format!("pod {name} makes {updated} updated pods where {allowed} are allowed"));
        }
    }

    /// A paused rollout updates nothing.
    fn check_paused(&mut self, name: &str) {
        if !self.promises.is_empty() && self.promises.iter().all(|promise| promise.paused) {
            self.fail(format!("pod {name} was updated although the rollout is paused"));
        }
    }
}
