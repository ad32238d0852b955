//! How far every active job is on every one of its nodes, kept up to date by what changes: a round of a job reads
//! counts, it never looks at all nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kruise_api::imagepulljob::ImagePullJobTemplate;
use kruise_api::nodeimage::{NodeImage, PullSecret};
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::pod::PodView;
use kruise_common::selector::Selector;
use kruise_common::update_sort::UpdateOrder;
use kruise_runtime::store::{Change, Store};

use crate::stores::{JobView, NodeImageView, Stores};
use crate::task::{Class, Task};

/// Names listed at once, of nodes that failed.
const MAX_NAMES: usize = 1000;

type Name = Arc<str>;

/// Where a job pulls.
#[derive(Clone, Debug)]
enum Target {
    Names(BTreeSet<String>),
    Labels(Selector),
    Pods(Selector),
}

impl Target {
    fn of(template: &ImagePullJobTemplate) -> Result<Self, String> {
        if let Some(pods) = &template.pod_selector {
            return Selector::parse(pods).map(Self::Pods);
        }
        let Some(selector) = &template.selector else { return Ok(Self::Labels(Selector::default())) };
        if let Some(names) = &selector.names {
            return Ok(Self::Names(names.iter().cloned().collect()));
        }
        let labels = LabelSelector {
            match_labels: selector.match_labels.clone(),
            match_expressions: selector.match_expressions.clone(),
        };
        Selector::parse(&labels).map(Self::Labels)
    }
}

/// Numbers of nodes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// All nodes of the job.
    pub desired: usize,
    /// Were asked, and have not answered for good.
    pub active: usize,
    /// Have the image.
    pub succeeded: usize,
    /// Gave up.
    pub failed: usize,
}

impl Counts {
    /// Not asked yet.
    pub fn unsynced(&self) -> usize {
        self.desired.saturating_sub(self.active + self.succeeded + self.failed)
    }

    fn slot(&mut self, class: Class) -> Option<&mut usize> {
        match class {
            Class::Unsynced => None,
            Class::Active { .. } => Some(&mut self.active),
            Class::Succeeded => Some(&mut self.succeeded),
            Class::Failed => Some(&mut self.failed),
        }
    }
}

/// One active job.
#[derive(Debug)]
struct Tracked {
    uid: Uid,
    task: Arc<Task>,
    target: Target,
    secrets: Arc<[PullSecret]>,
    nodes: BTreeMap<Name, Class>,
    counts: Counts,
    unsynced: BTreeSet<Name>,
    stale: BTreeSet<Name>,
    failed: BTreeSet<Name>,
    /// The workload the job was made by.
    owner: Option<OwnerReference>,
    /// Where the job's pods run, for jobs that follow pods.
    pods: HashMap<ObjectKey, Name>,
    pods_on: HashMap<Name, usize>,
}

impl Tracked {
    fn new(job: &JobView, task: Task, target: Target) -> Self {
        Self {
            uid: job.uid.clone(),
            task: Arc::new(task),
            target,
            secrets: Arc::default(),
            nodes: BTreeMap::new(),
            counts: Counts::default(),
            unsynced: BTreeSet::new(),
            stale: BTreeSet::new(),
            failed: BTreeSet::new(),
            owner: job.controller().cloned(),
            pods: HashMap::new(),
            pods_on: HashMap::new(),
        }
    }

    fn wants(&self, node: &NodeImage) -> bool {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let deleting = node.metadata.deletion_timestamp.is_some();
        !deleting
            && match &self.target {
                Target::Names(names) => names.contains(name),
                Target::Labels(selector) => {
                    selector.matches(node.metadata.labels.as_ref().unwrap_or(&BTreeMap::new()))
                }
                Target::Pods(_) => self.pods_on.contains_key(name),
            }
    }

    /// Looks at one node again; true if something changed.
    fn refresh(&mut self, name: &Name, node: Option<&NodeImage>) -> bool {
        let now = node.filter(|node| self.wants(node)).map(|node| self.task.class(node, &self.secrets));
        let before = match now {
            Some(class) => self.nodes.insert(Arc::clone(name), class),
            None => self.nodes.remove(name),
        };
        if before == now {
            return false;
        }
        if let Some(slot) = before.and_then(|class| self.counts.slot(class)) {
            *slot -= 1;
        }
        if let Some(slot) = now.and_then(|class| self.counts.slot(class)) {
            *slot += 1;
        }
        self.counts.desired = self.nodes.len();
        list(&mut self.unsynced, name, now == Some(Class::Unsynced));
        list(&mut self.stale, name, now == Some(Class::Active { stale: true }));
        list(&mut self.failed, name, now == Some(Class::Failed));
        true
    }

    /// Takes in where a pod runs; tells the nodes that may have come or gone.
    fn place(&mut self, pod: &ObjectKey, now: Option<&PodView>) -> Vec<Name> {
        let Target::Pods(selector) = &self.target else { return Vec::new() };
        let node = now
            .filter(|pod| pod.is_active() && selector.matches(&pod.labels))
            .and_then(|pod| pod.node.clone());
        let before = match &node {
            Some(node) => self.pods.insert(pod.clone(), Arc::clone(node)),
            None => self.pods.remove(pod),
        };
        if before == node {
            return Vec::new();
        }
        if let Some(node) = &node {
            *self.pods_on.entry(Arc::clone(node)).or_default() += 1;
        }
        if let Some(count) = before.as_ref().and_then(|node| self.pods_on.get_mut(node)) {
            *count -= 1;
        }
        if let Some(node) = before.as_ref().filter(|node| self.pods_on.get(*node) == Some(&0)) {
            self.pods_on.remove(node);
        }
        before.into_iter().chain(node).collect()
    }
}

fn list(set: &mut BTreeSet<Name>, name: &Name, is: bool) {
    if is {
        set.insert(Arc::clone(name));
    } else {
        set.remove(name);
    }
}

/// Leave to ask some nodes.
#[derive(Debug)]
pub struct Leave {
    /// How many.
    pub nodes: usize,
    held: Option<(Name, Arc<Index>)>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some((registry, index)) = self.held.take()
            && let Some(asking) = index.inner().asking.get_mut(&registry)
        {
            *asking = asking.saturating_sub(self.nodes);
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    jobs: HashMap<ObjectKey, Tracked>,
    /// Nodes that are being asked to pull from a registry.
    asking: HashMap<Name, usize>,
    by_image: HashMap<String, BTreeSet<ObjectKey>>,
    following_pods: HashMap<Name, BTreeSet<ObjectKey>>,
    /// Active jobs by the Secret they name.
    by_secret: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
}

/// What one round of a job needs to know of its nodes.
#[derive(Clone, Debug)]
pub struct Look {
    /// What is asked of each.
    pub task: Arc<Task>,
    /// Numbers.
    pub counts: Counts,
    /// The first of those that have not been asked, by name.
    pub unsynced: Vec<Name>,
    /// The first of those that were told something else, by name.
    pub stale: Vec<Name>,
    /// Those that gave up, by name; not all if they are many.
    pub failed: Vec<Name>,
}

/// In which order a workload updates its pods.
pub type OrderOf = dyn Fn(&str, &OwnerReference) -> UpdateOrder + Send + Sync;

/// The index. Give every change of the stores to it.
#[derive(Debug)]
pub struct Index {
    inner: Mutex<Inner>,
    always_ttl: u32,
    /// Most nodes that pull from one registry at once, over all jobs; `None` is no limit.
    per_registry: Option<usize>,
}

impl Index {
    /// An empty one; `always_ttl` is `--default-ttlseconds-for-always-nodeimage`.
    pub fn new(always_ttl: u32) -> Self {
        Self { inner: Mutex::default(), always_ttl, per_registry: None }
    }

    /// Lets no more nodes pull from one registry at once, whatever their jobs are; 0 is no limit.
    #[must_use]
    pub fn per_registry(mut self, most: usize) -> Self {
        self.per_registry = (most > 0).then_some(most);
        self
    }

    /// Leave to ask as many of `wanted` nodes as the registry of a job may still have, until the answer is dropped: by
    /// then the nodes count as active themselves.
    pub fn ask_leave(self: &Arc<Self>, job: &ObjectKey, wanted: usize) -> Leave {
        let mut inner = self.inner();
        let Some(most) = self.per_registry else { return Leave { nodes: wanted, held: None } };
        let Some(registry) = inner.jobs.get(job).map(|job| Arc::clone(&job.task.registry)) else {
            return Leave { nodes: 0, held: None };
        };
        let of_registry = inner.jobs.values().filter(|job| job.task.registry == registry);
        let active: usize = of_registry.map(|job| job.counts.active).sum();
        let asking = inner.asking.entry(Arc::clone(&registry)).or_default();
        let nodes = wanted.min(most.saturating_sub(active + *asking));
        *asking += nodes;
        Leave { nodes, held: Some((registry, Arc::clone(self))) }
    }

    /// How many nodes all active jobs together have in each state.
    pub fn totals(&self) -> Counts {
        let inner = self.inner();
        inner.jobs.values().fold(Counts::default(), |sum, job| Counts {
            desired: sum.desired + job.counts.desired,
            active: sum.active + job.counts.active,
            succeeded: sum.succeeded + job.counts.succeeded,
            failed: sum.failed + job.counts.failed,
        })
    }

    /// The nodes that have not been asked, in the order in which the workload that the job was made by updates their
    /// pods; `None` for jobs nobody made, whose nodes are asked by name.
    pub fn in_update_order(
        &self,
        job: &ObjectKey,
        pods: &Store<PodView>,
        order: &OrderOf,
    ) -> Option<Vec<Name>> {
        let (owner, unsynced, following) = {
            let inner = self.inner();
            let tracked = inner.jobs.get(job).filter(|job| matches!(job.target, Target::Pods(_)))?;
            (tracked.owner.clone()?, tracked.unsynced.clone(), tracked.pods.clone())
        };
        let pods = pods.owned_by(&Uid::from(owner.uid.as_str()));
        let waiting =
            (0..pods.len()).filter(|at| pods.get(*at).is_some_and(|pod| following.contains_key(&pod.key)));
        let sorted = order(&job.namespace, &owner).sort(&pods, waiting.collect());
        let nodes = sorted.into_iter().filter_map(|at| pods.get(at)?.node.clone());
        // Pods that somebody else owns may match as well.
        let mut left = unsynced;
        let mut found: Vec<Name> = nodes.filter(|node| left.remove(node)).collect();
        found.extend(left);
        Some(found)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a round needs to know; `None` if the job is not active or its spec cannot be carried out.
    pub fn look(&self, job: &ObjectKey, uid: &Uid, most: usize) -> Option<Look> {
        let inner = self.inner();
        let tracked = inner.jobs.get(job).filter(|tracked| tracked.uid == *uid)?;
        let first = |names: &BTreeSet<Name>, most: usize| names.iter().take(most).cloned().collect();
        Some(Look {
            task: Arc::clone(&tracked.task),
            counts: tracked.counts,
            unsynced: first(&tracked.unsynced, most),
            stale: first(&tracked.stale, most),
            failed: first(&tracked.failed, MAX_NAMES),
        })
    }

    /// The nodes that are not done, by name, and those that gave up: who failed when time is over.
    pub fn not_succeeded(&self, job: &ObjectKey) -> Vec<Name> {
        let inner = self.inner();
        let nodes = inner.jobs.get(job).into_iter().flat_map(|tracked| &tracked.nodes);
        let left = nodes.filter(|(_, class)| **class != Class::Succeeded).map(|(name, _)| Arc::clone(name));
        left.take(MAX_NAMES).collect()
    }

    /// Sets which Secrets the nodes of a job need.
    pub fn set_secrets(&self, job: &ObjectKey, secrets: &[PullSecret], stores: &Stores) {
        let mut inner = self.inner();
        let Some(tracked) = inner.jobs.get_mut(job) else { return };
        if *tracked.secrets == *secrets {
            return;
        }
        tracked.secrets = secrets.into();
        let names: Vec<Name> = tracked.nodes.keys().cloned().collect();
        for name in names {
            let node = stores.images.get(&ObjectKey::new("", Arc::clone(&name)));
            tracked.refresh(&name, node.as_deref().map(|node| &node.object));
        }
    }

    /// The active jobs that name a Secret, by name.
    pub fn users_of(&self, secret: &ObjectKey) -> Vec<ObjectKey> {
        self.inner().by_secret.get(secret).into_iter().flatten().cloned().collect()
    }

    /// Takes in a change of a job.
    pub fn job_changed(&self, change: &Change<JobView>, stores: &Stores) {
        let mut inner = self.inner();
        let Some(key) = change.new.as_ref().or(change.old.as_ref()).map(|job| job.key.clone()) else {
            return;
        };
        let active = change.new.as_ref().filter(|job| job.is_active());
        let same_spec = change
            .old
            .as_ref()
            .zip(change.new.as_ref())
            .is_some_and(|(old, new)| old.uid == new.uid && old.object.spec == new.object.spec);
        if active.is_some() && same_spec && inner.jobs.contains_key(&key) {
            return;
        }
        inner.forget(&key, change.old.as_deref());
        if let Some(job) = active {
            inner.track(job, self.always_ttl, stores);
        }
    }

    /// Takes in a change of a node; returns the jobs it concerns.
    pub fn node_changed(&self, change: &Change<NodeImageView>) -> Vec<ObjectKey> {
        let mut inner = self.inner();
        let Some(name) = change.new.as_ref().or(change.old.as_ref()).map(|node| Arc::clone(&node.key.name))
        else {
            return Vec::new();
        };
        let (old, new) =
            (change.old.as_ref().map(|view| &view.object), change.new.as_ref().map(|view| &view.object));
        let concerned: BTreeSet<ObjectKey> = if comes_or_goes(old, new) {
            inner.jobs.keys().cloned().collect()
        } else {
            let images = changed_images(old, new);
            let jobs = images.iter().filter_map(|image| inner.by_image.get(*image));
            jobs.flatten().cloned().collect()
        };
        let mut woken = Vec::new();
        for key in concerned {
            if inner.jobs.get_mut(&key).is_some_and(|job| job.refresh(&name, new)) {
                woken.push(key);
            }
        }
        woken
    }

    /// Takes in a change of a pod; returns the jobs it concerns.
    pub fn pod_changed(&self, change: &Change<PodView>, stores: &Stores) -> Vec<ObjectKey> {
        let Some(pod) = change.new.as_ref().or(change.old.as_ref()) else { return Vec::new() };
        let mut inner = self.inner();
        let following: Vec<ObjectKey> =
            inner.following_pods.get(&pod.key.namespace).into_iter().flatten().cloned().collect();
        let mut woken = Vec::new();
        for key in following {
            let Some(job) = inner.jobs.get_mut(&key) else { continue };
            let mut changed = false;
            for name in job.place(&pod.key, change.new.as_deref()) {
                let node = stores.images.get(&ObjectKey::new("", Arc::clone(&name)));
                changed |= job.refresh(&name, node.as_deref().map(|node| &node.object));
            }
            if changed {
                woken.push(key);
            }
        }
        woken
    }
}

impl Inner {
    fn forget(&mut self, key: &ObjectKey, old: Option<&JobView>) {
        if let Some(tracked) = self.jobs.remove(key) {
            remove_from(&mut self.by_image, &tracked.task.image, key);
        }
        remove_from(&mut self.following_pods, &key.namespace, key);
        for secret in old.into_iter().flat_map(JobView::pull_secrets) {
            remove_from(&mut self.by_secret, &secret, key);
        }
    }

    fn track(&mut self, job: &JobView, always_ttl: u32, stores: &Stores) {
        for secret in job.pull_secrets() {
            self.by_secret.entry(secret).or_default().insert(job.key.clone());
        }
        let Ok(task) = Task::of(&job.object, always_ttl) else { return };
        let Ok(target) = Target::of(&job.object.spec.template) else { return };
        self.by_image.entry(task.image.clone()).or_default().insert(job.key.clone());
        let mut tracked = Tracked::new(job, task, target);
        if matches!(tracked.target, Target::Pods(_)) {
            self.following_pods.entry(Arc::clone(&job.key.namespace)).or_default().insert(job.key.clone());
            for pod in stores.pods.all() {
                if pod.key.namespace == job.key.namespace {
                    tracked.place(&pod.key, Some(&pod));
                }
            }
        }
        for node in stores.images.all() {
            tracked.refresh(&node.key.name, Some(&node.object));
        }
        self.jobs.insert(job.key.clone(), tracked);
    }
}

pub(crate) fn remove_from<K, V>(sets: &mut HashMap<K, BTreeSet<V>>, key: &K, value: &V)
where
    K: std::hash::Hash + Eq,
    V: Ord,
{
    if let Some(set) = sets.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

/// The node may start or stop to be one of a job's.
fn comes_or_goes(old: Option<&NodeImage>, new: Option<&NodeImage>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return true };
    old.metadata.labels != new.metadata.labels
        || old.metadata.deletion_timestamp.is_some() != new.metadata.deletion_timestamp.is_some()
}

/// Images whose entries differ, in spec or status.
fn changed_images<'a>(old: Option<&'a NodeImage>, new: Option<&'a NodeImage>) -> BTreeSet<&'a str> {
    let (Some(old), Some(new)) = (old, new) else { return BTreeSet::new() };
    let mut changed = BTreeSet::new();
    differing(old.spec.images.as_ref(), new.spec.images.as_ref(), &mut changed);
    let statuses =
        |node: &'a NodeImage| node.status.as_ref().and_then(|status| status.image_statuses.as_ref());
    differing(statuses(old), statuses(new), &mut changed);
    changed
}

fn differing<'a, V: PartialEq>(
    old: Option<&'a BTreeMap<String, V>>,
    new: Option<&'a BTreeMap<String, V>>,
    into: &mut BTreeSet<&'a str>,
) {
    let names = old.into_iter().chain(new).flat_map(BTreeMap::keys);
    let value = |of: Option<&'a BTreeMap<String, V>>, name: &String| of.and_then(|map| map.get(name));
    into.extend(names.filter(|name| value(old, name) != value(new, name)).map(String::as_str));
}
