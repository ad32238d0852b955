//! The one loop behind all simulated nodes: watches in, due pods stepped, writes out in bounded parallel.

mod writes;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Shared;
use super::container::{Host, Moment, Note};
use super::kubelet::{Place, PodRun};
use super::node_objects::{self, Condition};
use super::scheduler::{self, Cluster};
use super::status::{self, Since};
use super::wire::{NodeView, PodKey, PodView};
use writes::{Done, Outcome, Write};

/// What the handle asks for.
#[derive(Debug)]
pub(crate) enum Command {
    Crash(PodKey, String, i32),
    SetReady(PodKey, String, Option<bool>),
    Lost(String, bool),
}

enum Seen {
    Pod(Box<Event<PodView>>),
    Node(Box<Event<NodeView>>),
}

/// How long a failed write waits before it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long images pulled are gathered before the node says so.
const IMAGES_AFTER: Duration = Duration::from_millis(500);
/// Events and leases written at once.
const BACKGROUND: usize = 16;

/// One pod, on whatever node or none.
struct Entry {
    pod: PodView,
    run: Option<PodRun>,
    since: Since,
    /// Bound by us, which the watch has yet to tell.
    assumed: Option<String>,
    /// The last status written.
    published: Option<Value>,
    busy: bool,
    again: bool,
    deleted: bool,
    timer: Option<Instant>,
    not_before: Option<Instant>,
    schedule_at: Option<Instant>,
    /// Events published: name and count by reason and message.
    told: HashMap<(String, String), (String, u32)>,
}

/// One of our own nodes.
struct Own {
    address: String,
    lost: bool,
    images: BTreeSet<String>,
    images_due: Option<Instant>,
}

pub(crate) struct Engine {
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<Command>,
    pods: BTreeMap<PodKey, Entry>,
    cluster: Cluster,
    own: BTreeMap<String, Own>,
    dirty: VecDeque<PodKey>,
    timers: BTreeSet<(Instant, PodKey)>,
    /// Pods that fit nowhere.
    parked: BTreeSet<PodKey>,
    /// Pods whose resize waits for room.
    deferred: BTreeSet<PodKey>,
    room: bool,
    overrides: BTreeMap<(PodKey, String), bool>,
    writes: JoinSet<Done>,
    backlog: VecDeque<BoxFuture<'static, ()>>,
    background: JoinSet<()>,
    heartbeat: Option<Instant>,
    listed_pods: Option<BTreeSet<PodKey>>,
    listed_nodes: Option<BTreeSet<String>>,
    /// Pods and nodes are known; before that nobody may be scheduled.
    synced: (bool, bool),
    addresses: u32,
    event_number: u64,
}

impl Engine {
    pub(crate) fn new(shared: Arc<Shared>, inbox: mpsc::UnboundedReceiver<Command>) -> Self {
        let own = shared
            .names()
            .enumerate()
            .map(|(number, name)| {
                let address = node_objects::address(number);
                (name, Own { address, lost: false, images: BTreeSet::new(), images_due: None })
            })
            .collect();
        let heartbeat = shared.settings.heartbeat.map(|_| Instant::now());
        Self {
            shared,
            inbox,
            pods: BTreeMap::new(),
            cluster: Cluster::default(),
            own,
            dirty: VecDeque::new(),
            timers: BTreeSet::new(),
            parked: BTreeSet::new(),
            deferred: BTreeSet::new(),
            room: false,
            overrides: BTreeMap::new(),
            writes: JoinSet::new(),
            backlog: VecDeque::new(),
            background: JoinSet::new(),
            heartbeat,
            listed_pods: None,
            listed_nodes: None,
            synced: (false, false),
            addresses: 0,
            event_number: 0,
        }
    }

    fn now(&self) -> Moment {
        Moment { at: Instant::now(), wall: (self.shared.settings.clock)() }
    }

    /// Runs for ever; drop the future to stop.
    pub(crate) async fn run(&mut self) {
        node_objects::register(&self.shared, self.now().wall).await;
        let (sender, mut seen) = mpsc::unbounded_channel();
        let client = &self.shared.client;
        let mut watches = JoinSet::new();
        watches.spawn(follow(Api::<NodeView>::all(client.clone()), sender.clone(), |event| {
            Seen::Node(Box::new(event))
        }));
        watches
            .spawn(follow(Api::<PodView>::all(client.clone()), sender, |event| Seen::Pod(Box::new(event))));
        let mut batch = Vec::new();
        loop {
            self.work();
            let wake = self.next_wake();
            tokio::select! {
                biased;
                Some(done) = self.writes.join_next(), if !self.writes.is_empty() => {
                    if let Ok(done) = done {
                        self.finished(done);
                    }
                }
                count = seen.recv_many(&mut batch, 256) => {
                    if count == 0 {
                        return;
                    }
                    for event in batch.drain(..) {
                        self.see(event);
                    }
                }
                Some(command) = self.inbox.recv() => self.obey(command),
                Some(_) = self.background.join_next(), if !self.background.is_empty() => {}
                () = sleep_until(wake), if wake.is_some() => self.fire(),
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let pods = self.timers.first().map(|(at, _)| *at);
        let images = self.own.values().filter_map(|own| own.images_due).min();
        pods.into_iter().chain(self.heartbeat).chain(images).min()
    }

    /// Does what is due now.
    fn fire(&mut self) {
        let now = self.now();
        while self.timers.first().is_some_and(|(at, _)| *at <= now.at) {
            if let Some((_, key)) = self.timers.pop_first() {
                if let Some(entry) = self.pods.get_mut(&key) {
                    entry.timer = None;
                }
                self.dirty.push_back(key);
            }
        }
        if self.heartbeat.is_some_and(|at| at <= now.at) {
            self.beat(now);
        }
        let mut lists = Vec::new();
        for (name, own) in &mut self.own {
            if own.images_due.is_some_and(|at| at <= now.at) && !own.lost {
                own.images_due = None;
                lists.push((name.clone(), node_objects::image_list(&own.images)));
            } else if own.lost {
                own.images_due = None;
            }
        }
        for (name, images) in lists {
            let client = self.shared.client.clone();
            self.backlog.push_back(node_objects::patch_status(client, name, images).boxed());
        }
    }

    fn beat(&mut self, now: Moment) {
        let every = self.shared.settings.heartbeat.unwrap_or(RETRY);
        self.heartbeat = now.at.checked_add(every);
        let alive = self.own.iter().filter(|(_, own)| !own.lost);
        for (name, _) in alive {
            let lease = node_objects::renew_lease(self.shared.client.clone(), name.clone(), now.wall);
            self.backlog.push_back(lease.boxed());
        }
    }

    /// Starts as much as may be under way at once.
    fn work(&mut self) {
        if std::mem::take(&mut self.room) {
            self.dirty.extend(std::mem::take(&mut self.parked));
            self.dirty.extend(std::mem::take(&mut self.deferred));
        }
        let limit = self.shared.settings.parallel.max(1);
        while self.writes.len() < limit
            && let Some(key) = self.dirty.pop_front()
        {
            self.process(&key);
        }
        while self.background.len() < BACKGROUND
            && let Some(task) = self.backlog.pop_front()
        {
            self.background.spawn(task);
        }
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Pod(event) => self.see_pod(*event),
            Seen::Node(event) => self.see_node(*event),
        }
    }

    fn see_pod(&mut self, event: Event<PodView>) {
        match event {
            Event::Init => self.listed_pods = Some(BTreeSet::new()),
            Event::InitApply(pod) => {
                if let Some(listed) = &mut self.listed_pods {
                    listed.insert(pod.key());
                }
                self.saw_pod(pod);
            }
            Event::Apply(pod) => self.saw_pod(pod),
            Event::Delete(pod) => self.forget(&pod.key()),
            Event::InitDone => {
                let listed = self.listed_pods.take().unwrap_or_default();
                let gone: Vec<PodKey> =
                    self.pods.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                for key in gone {
                    self.forget(&key);
                }
                self.synced.0 = true;
                self.room = true;
            }
        }
    }

    fn see_node(&mut self, event: Event<NodeView>) {
        match event {
            Event::Init => self.listed_nodes = Some(BTreeSet::new()),
            Event::InitApply(node) => {
                if let Some(listed) = &mut self.listed_nodes {
                    listed.insert(node.name().to_owned());
                }
                self.room |= self.cluster.set_node(node);
            }
            Event::Apply(node) => self.room |= self.cluster.set_node(node),
            Event::Delete(node) => self.cluster.remove_node(node.name()),
            Event::InitDone => {
                let listed = self.listed_nodes.take().unwrap_or_default();
                for name in self.cluster.node_names() {
                    if !listed.contains(&name) {
                        self.cluster.remove_node(&name);
                    }
                }
                self.synced.1 = true;
                self.room = true;
            }
        }
    }

    fn saw_pod(&mut self, mut pod: PodView) {
        pod.metadata.managed_fields = None;
        let key = pod.key();
        if self.pods.get(&key).is_some_and(|entry| entry.pod.uid() != pod.uid()) {
            self.forget(&key);
        }
        let placed = pod.node().map(str::to_owned);
        let assumed = self.pods.get(&key).and_then(|entry| entry.assumed.clone());
        match placed.as_ref().or(assumed.as_ref()) {
            _ if pod.ended() => self.room |= self.cluster.remove(&key),
            Some(node) => self.cluster.place(&pod, node),
            None => {}
        }
        match self.pods.get_mut(&key) {
            Some(entry) => {
                entry.pod = pod;
                if placed.is_some() {
                    entry.assumed = None;
                }
            }
            None => {
                self.pods.insert(key.clone(), Entry::new(pod));
            }
        }
        self.dirty.push_back(key);
    }

    fn forget(&mut self, key: &PodKey) {
        self.room |= self.cluster.remove(key);
        self.parked.remove(key);
        self.deferred.remove(key);
        if let Some(Entry { timer: Some(at), .. }) = self.pods.remove(key) {
            self.timers.remove(&(at, key.clone()));
        }
        let of_pod: Vec<_> = self.overrides.keys().filter(|(pod, _)| pod == key).cloned().collect();
        for name in of_pod {
            self.overrides.remove(&name);
        }
    }

    fn obey(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Crash(key, container, code) => {
                if let Some(run) = self.pods.get_mut(&key).and_then(|entry| entry.run.as_mut()) {
                    run.crash(&container, code, now);
                }
                self.dirty.push_back(key);
            }
            Command::SetReady(key, container, ready) => {
                match ready {
                    Some(ready) => self.overrides.insert((key.clone(), container), ready),
                    None => self.overrides.remove(&(key.clone(), container)),
                };
                self.dirty.push_back(key);
            }
            Command::Lost(name, lost) => self.set_lost(&name, lost, now),
        }
    }

    fn set_lost(&mut self, name: &str, lost: bool, now: Moment) {
        let Some(own) = self.own.get_mut(name) else { return };
        own.lost = lost;
        if lost && self.heartbeat.is_some() {
            return;
        }
        let which = if lost { Condition::Silent } else { Condition::Ready };
        let mut status = serde_json::json!({"conditions": node_objects::conditions(which, now.wall)});
        if !lost {
            let images = node_objects::image_list(&own.images);
            if let (Value::Object(status), Some(images)) = (&mut status, images.get("images")) {
                status.insert("images".into(), images.clone());
            }
            if self.heartbeat.is_some() {
                self.heartbeat = Some(now.at);
            }
            for (key, entry) in self.pods.iter_mut().filter(|(_, entry)| entry.pod.node() == Some(name)) {
                // Others have called its pods unready meanwhile.
                entry.published = None;
                self.dirty.push_back(key.clone());
            }
        }
        let client = self.shared.client.clone();
        self.backlog.push_back(node_objects::patch_status(client, name.to_owned(), status).boxed());
    }

    fn finished(&mut self, done: Done) {
        let now = self.now();
        let Some(entry) = self.pods.get_mut(&done.key).filter(|entry| entry.pod.uid() == done.uid) else {
            return;
        };
        entry.busy = false;
        let again = std::mem::take(&mut entry.again);
        match done.outcome {
            Outcome::Done => {
                if again {
                    self.dirty.push_back(done.key);
                }
            }
            // The watch will tell.
            Outcome::Gone => {}
            Outcome::Failed => {
                entry.published = None;
                entry.deleted = false;
                entry.not_before = now.at.checked_add(RETRY);
                if entry.assumed.take().is_some() {
                    self.cluster.remove(&done.key);
                }
                self.dirty.push_back(done.key);
            }
        }
    }

    fn set_timer(&mut self, key: &PodKey, at: Option<Instant>) {
        let Some(entry) = self.pods.get_mut(key) else { return };
        if entry.timer == at {
            return;
        }
        if let Some(old) = entry.timer.take() {
            self.timers.remove(&(old, key.clone()));
        }
        if let Some(at) = at {
            entry.timer = Some(at);
            self.timers.insert((at, key.clone()));
        }
    }

    fn process(&mut self, key: &PodKey) {
        let now = self.now();
        let Some(entry) = self.pods.get_mut(key) else { return };
        if entry.busy {
            entry.again = true;
            return;
        }
        if let Some(at) = entry.not_before.filter(|at| *at > now.at) {
            self.set_timer(key, Some(at));
            return;
        }
        entry.not_before = None;
        match entry.pod.node().map(str::to_owned) {
            None => self.schedule(key, now),
            Some(node) => self.kubelet(key, &node, now),
        }
    }

    fn schedule(&mut self, key: &PodKey, now: Moment) {
        let settings = &self.shared.settings;
        let Some(entry) = self.pods.get_mut(key) else { return };
        let pod = &entry.pod;
        let scheduler = pod.spec.scheduler_name.as_deref().unwrap_or("default-scheduler");
        let ours = settings.scheduler.as_deref() == Some(scheduler);
        let skip = !pod.spec.scheduling_gates.is_empty() || pod.deleting() || pod.ended();
        if !ours || skip || entry.assumed.is_some() {
            return;
        }
        let due = *entry.schedule_at.get_or_insert(now.at + settings.timings.schedule);
        if due > now.at {
            self.set_timer(key, Some(due));
            return;
        }
        if self.synced != (true, true) {
            self.parked.insert(key.clone());
            return;
        }
        let Some(entry) = self.pods.get(key) else { return };
        let found = self.cluster.choose(&entry.pod, &|key| self.pods.get(key).map(|entry| &entry.pod));
        match found {
            Ok(node) => self.bind(key, node),
            Err(message) => self.unschedulable(key, message, now),
        }
    }

    fn bind(&mut self, key: &PodKey, node: String) {
        let Some(entry) = self.pods.get_mut(key) else { return };
        self.cluster.place(&entry.pod, &node);
        entry.assumed = Some(node.clone());
        let message = format!("Successfully assigned {}/{} to {node}", key.0, key.1);
        let note = Note { warning: false, reason: "Scheduled", message, field: String::new() };
        self.write(key, Write::Bind { node });
        self.tell(key, None, vec![note]);
    }

    fn unschedulable(&mut self, key: &PodKey, message: String, now: Moment) {
        self.parked.insert(key.clone());
        let Some(entry) = self.pods.get_mut(key) else { return };
        let known = entry.pod.status.conditions.iter().find(|condition| condition.type_ == "PodScheduled");
        if known.is_some_and(|known| known.message.as_deref() == Some(message.as_str())) {
            return;
        }
        let condition = serde_json::json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": status::time(now.wall),
            "observedGeneration": entry.pod.metadata.generation,
        });
        let status = serde_json::json!({"conditions": [condition]});
        if entry.published.as_ref() == Some(&status) {
            return;
        }
        entry.published = Some(status.clone());
        let note = Note { warning: true, reason: "FailedScheduling", message, field: String::new() };
        self.write(key, Write::Status { status });
        self.tell(key, None, vec![note]);
    }

    fn kubelet(&mut self, key: &PodKey, node: &str, now: Moment) {
        let place = self.placement(key, node);
        let Some(own) = self.own.get_mut(node) else { return };
        let Some(entry) = self.pods.get_mut(key) else { return };
        if own.lost {
            return;
        }
        if entry.run.is_none() {
            if entry.pod.ended() && !entry.pod.deleting() {
                return;
            }
            let address = if entry.pod.spec.host_network {
                own.address.clone()
            } else {
                self.addresses = self.addresses.wrapping_add(1);
                let [_, b, c, d] = self.addresses.to_be_bytes();
                format!("10.{b}.{c}.{d}")
            };
            let place = Place { ip: address, ..place.clone() };
            entry.since = status::since(&entry.pod);
            entry.published = None;
            entry.run = Some(PodRun::new(&entry.pod, &place, now));
        }
        let Some(run) = entry.run.as_mut() else { return };
        for container in &mut run.containers {
            container.ready_override = self.overrides.get(&(key.clone(), container.name.clone())).copied();
        }
        let images = own.images.len();
        let mut notes = Vec::new();
        let registry = self.shared.registry().clone();
        let mut host = Host {
            registry: &registry,
            timings: &self.shared.settings.timings,
            images: &mut own.images,
            notes: &mut notes,
            seed: self.shared.settings.seed,
        };
        let wake = run.step(&entry.pod, &place, &mut host, now);
        if own.images.len() != images && own.images_due.is_none() {
            own.images_due = now.at.checked_add(IMAGES_AFTER);
        }
        if place.too_big.is_some() {
            self.deferred.insert(key.clone());
        }
        let write = next_write(entry, &self.shared.settings.timings, now);
        self.set_timer(key, wake);
        if let Some(write) = write {
            self.write(key, write);
        }
        self.tell(key, Some(node), notes);
    }

    /// Where a pod on one of our nodes is, and whether it is too big for it.
    fn placement(&self, key: &PodKey, node: &str) -> Place {
        let host_ip = self.own.get(node).map(|own| own.address.clone()).unwrap_or_default();
        let pod = self.pods.get(key).map(|entry| &entry.pod);
        let too_big = self.cluster.node(node).zip(pod).and_then(|(node, pod)| too_big(node, pod));
        Place { ip: String::new(), host_ip, too_big }
    }

    fn write(&mut self, key: &PodKey, write: Write) {
        let Some(entry) = self.pods.get_mut(key) else { return };
        entry.busy = true;
        let uid = entry.pod.uid().to_owned();
        self.writes.spawn(write.perform(self.shared.client.clone(), key.clone(), uid));
    }

    /// Publishes events about a pod, from the node's kubelet or the scheduler.
    fn tell(&mut self, key: &PodKey, node: Option<&str>, notes: Vec<Note>) {
        if !self.shared.settings.events || notes.is_empty() {
            return;
        }
        let now = (self.shared.settings.clock)();
        let Some(entry) = self.pods.get_mut(key) else { return };
        for note in notes {
            self.event_number += 1;
            let identity = (note.reason.to_owned(), note.message.clone());
            let fresh = format!("{}.{:016x}", key.1, now.as_nanosecond() as u64 ^ self.event_number);
            let (name, count) = entry.told.entry(identity).or_insert((fresh, 0));
            *count += 1;
            let event = writes::event(&entry.pod, node, &note, (name.as_str(), *count), now);
            let client = self.shared.client.clone();
            self.backlog.push_back(writes::publish(client, key.0.clone(), event, *count).boxed());
        }
    }
}

impl Entry {
    fn new(pod: PodView) -> Self {
        Self {
            pod,
            run: None,
            since: Since::new(),
            assumed: None,
            published: None,
            busy: false,
            again: false,
            deleted: false,
            timer: None,
            not_before: None,
            schedule_at: None,
            told: HashMap::new(),
        }
    }
}

/// What the kubelet has to write about a pod now, if anything: its status first, its end then.
fn next_write(entry: &mut Entry, timings: &super::Timings, now: Moment) -> Option<Write> {
    let run = entry.run.as_ref()?;
    let over = entry.pod.deleting() && run.stopped();
    // A pod that ends at once and is gone then: nobody would see its last status.
    let unseen =
        over && timings.stop.is_zero() && entry.pod.metadata.finalizers.as_ref().is_none_or(Vec::is_empty);
    if !unseen {
        let status = status::status(&entry.pod, run, &mut entry.since, now);
        if entry.published.as_ref() != Some(&status) {
            entry.published = Some(status.clone());
            entry.again |= over;
            return Some(Write::Status { status });
        }
    }
    if over && !entry.deleted {
        entry.deleted = true;
        return Some(Write::Delete);
    }
    None
}

/// Why a node cannot give what the pod now asks for.
fn too_big(node: &scheduler::NodeState, pod: &PodView) -> Option<(&'static str, String)> {
    let wants = scheduler::requests(pod);
    let rows = [
        ("cpu", wants.cpu, node.used.cpu, node.allocatable.cpu),
        ("memory", wants.memory / 1000, node.used.memory / 1000, node.allocatable.memory / 1000),
    ];
    for (name, wants, used, has) in rows {
        if wants > has {
            let message =
                format!("Node didn't have enough capacity: {name}, requested: {wants}, capacity: {has}");
            return Some(("Infeasible", message));
        }
        if wants > 0 && used > has {
            let others = used - wants;
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {wants}, used: {others}, capacity: {has}"
            );
            return Some(("Deferred", message));
        }
    }
    None
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Passes on what a watch tells, for ever.
async fn follow<K>(api: Api<K>, to: mpsc::UnboundedSender<Seen>, wrap: fn(Event<K>) -> Seen)
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().page_size(500).list_semantic(watcher::ListSemantic::MostRecent);
    let mut events = watcher::watcher(api, config).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if to.send(wrap(event)).is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "watch failed and will be retried"),
        }
    }
}
