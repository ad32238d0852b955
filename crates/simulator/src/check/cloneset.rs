//! What a CloneSet promises. Pods that went down lately without the manager's doing are not held against it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use std::time::Duration;

use kruise_sandbox::server::{Change, EventKind};
use serde_json::Value;
use tokio::time::Instant;

use super::{Judge, Lately, WINDOW, condition, owner, percent, resolve, terminating, text};
use crate::run::NAME;

const REVISION: &str = "controller-revision-hash";
const SPECIFIED_DELETE: &str = "apps.kruise.io/specified-delete";

/// What histories change of a template, as a pod or a template has it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Shape {
    image: String,
    variable: String,
    note: String,
}

impl Shape {
    fn of(object: &Value) -> Self {
        let container = object.pointer("/spec/containers/0");
        let variables = container.and_then(|one| one.get("env")?.as_array()).into_iter().flatten();
        let mut variables = variables.filter(|one| one.get("name").and_then(Value::as_str) == Some("V"));
        let variable = variables.next().map(|one| text(one, "/value")).unwrap_or_default();
        Self {
            image: text(object, "/spec/containers/0/image").to_owned(),
            variable: variable.to_owned(),
            note: text(object, "/metadata/annotations/note").to_owned(),
        }
    }
}

/// A pod as the checks need it.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact of a pod")]
#[derive(Clone, Debug, Default)]
struct PodState {
    owner: String,
    selected: bool,
    revision: String,
    shape: Shape,
    active: bool,
    /// Serving, as far as the manager lets it.
    serving: bool,
    /// Since when its node calls it ready.
    ready: Option<Instant>,
    marked: bool,
}

impl PodState {
    fn of(pod: &Value, before: Option<&Self>) -> Self {
        let at = |path: &str| pod.pointer(path);
        let text = |path: &str| at(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let condition = |type_: &str| condition(pod, type_);
        let ended = matches!(text("/status/phase").as_str(), "Failed" | "Succeeded");
        let closed = condition("InPlaceUpdateReady") == Some("False");
        let active = !terminating(pod) && !ended;
        let ready = condition("Ready") == Some("True");
        Self {
            owner: owner(pod).to_owned(),
            selected: text("/metadata/labels/app") == NAME,
            revision: text(&format!("/metadata/labels/{REVISION}")),
            shape: Shape::of(pod),
            active,
            serving: active && !closed && ready,
            ready: ready.then(|| before.and_then(|before| before.ready).unwrap_or_else(Instant::now)),
            marked: at("/metadata/labels").and_then(|labels| labels.get(SPECIFIED_DELETE)).is_some(),
        }
    }

    /// Serving for so many seconds. Conditions tell of whole seconds: it may seem to have been one more.
    fn available(&self, seconds: i64) -> bool {
        let least = Duration::from_secs(u64::try_from(seconds - 1).unwrap_or(0));
        self.serving && (seconds <= 0 || self.ready.is_some_and(|since| since.elapsed() >= least))
    }

    /// Available already when the manager decided what it does now.
    fn was_available(&self, seconds: i64) -> bool {
        let least = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)) + WINDOW;
        self.serving && (seconds <= 0 || self.ready.is_some_and(|since| since.elapsed() >= least))
    }
}

/// What a spec promises, resolved.
#[derive(Clone, Debug)]
struct Promise {
    replicas: i64,
    min_ready: i64,
    partition: i64,
    unavailable: i64,
    surge: i64,
    paused: bool,
    current: String,
    update: String,
    template: Value,
    shape: Shape,
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
            replicas,
            min_ready: at("/spec/minReadySeconds").and_then(Value::as_i64).unwrap_or_default(),
            partition: partition(rolling("partition"), replicas),
            // Rounded up with or without surge: the lenient reading.
            unavailable: resolve(rolling("maxUnavailable"), (replicas + 4) / 5, replicas, true),
            surge,
            paused,
            current: at("/status/currentRevision").and_then(Value::as_str).unwrap_or_default().to_owned(),
            update: at("/status/updateRevision").and_then(Value::as_str).unwrap_or_default().to_owned(),
            shape: at("/spec/template").map(Shape::of).unwrap_or_default(),
            template: at("/spec/template").cloned().unwrap_or_default(),
            deleted: gone || terminating(set),
            doomed: doomed.filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }
}

impl Promise {
    /// The most pods that may be updated.
    fn most_updated(&self) -> i64 {
        self.replicas - self.partition + self.surge
    }
}

fn partition(value: Option<&Value>, replicas: i64) -> i64 {
    let resolved = resolve(value, 0, replicas, true);
    let whole = value.and_then(percent).is_some_and(|percent| percent != 100);
    let resolved = if whole && replicas > 1 && resolved == replicas { replicas - 1 } else { resolved };
    resolved.clamp(0, replicas)
}

/// The set and its pods.
pub(super) struct Sets {
    uid: String,
    pods: BTreeMap<String, PodState>,
    /// What every revision there was says, and who owns those that are still there.
    revisions: BTreeMap<String, (Shape, Option<String>)>,
    promises: Lately<Promise>,
    /// Revisions that pods had when the template was edited last.
    held: BTreeSet<String>,
    /// The most pods that were to be updated at once since then.
    wanted: i64,
    /// When pods went down without the manager's doing.
    losses: VecDeque<Instant>,
    /// When pods went without the manager's doing.
    departures: VecDeque<Instant>,
    broken: Option<String>,
}

impl Judge for Sets {
    fn tables(&self) -> &'static [&'static str] {
        // What pods are compared with comes before them.
        &["clonesets.apps.kruise.io", "controllerrevisions.apps", "pods"]
    }

    fn changed(&mut self, table: &str, change: &Change, by_manager: bool) -> Result<(), String> {
        match table {
            "pods" => self.pod_changed(change, by_manager),
            "controllerrevisions.apps" => self.revision_changed(change),
            _ => self.set_changed(change),
        }
        self.broken.take().map_or(Ok(()), Err)
    }

    fn rested(&self) -> Result<(), String> {
        self.members().try_for_each(|(name, pod)| self.check_label(name, pod, true))?;
        self.check_end_of_rollout()
    }
}

impl Sets {
    pub(super) const fn new() -> Self {
        Self {
            uid: String::new(),
            pods: BTreeMap::new(),
            revisions: BTreeMap::new(),
            promises: Lately::new(),
            held: BTreeSet::new(),
            wanted: 0,
            losses: VecDeque::new(),
            departures: VecDeque::new(),
            broken: None,
        }
    }

    fn set_changed(&mut self, change: &Change) {
        let set = change.object();
        if text(set, "/metadata/name") != NAME {
            return;
        }
        text(set, "/metadata/uid").clone_into(&mut self.uid);
        let promise = Promise::of(set, change.kind() == EventKind::Deleted);
        if self.promises.last().is_none_or(|before| before.template != promise.template) {
            self.held = self.pods.values().map(|pod| pod.revision.clone()).collect();
            self.wanted = 0;
        }
        self.wanted = self.wanted.max(promise.replicas - promise.partition);
        self.promises.push(promise);
    }

    fn revision_changed(&mut self, change: &Change) {
        let revision = change.object();
        let shape = revision.pointer("/data/spec/template").map(Shape::of).unwrap_or_default();
        let owner = (change.kind() != EventKind::Deleted).then(|| owner(revision).to_owned());
        self.revisions.insert(text(revision, "/metadata/name").to_owned(), (shape, owner));
    }

    fn pod_changed(&mut self, change: &Change, by_manager: bool) {
        let now = Instant::now();
        self.losses.retain(|at| now - *at <= WINDOW);
        self.departures.retain(|at| now - *at <= WINDOW);
        self.promises.forget();
        let pod = change.object();
        let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let before = self.pods.get(&name).cloned();
        let after = if change.kind() == EventKind::Deleted {
            PodState::default()
        } else {
            PodState::of(pod, before.as_ref())
        };
        if change.kind() == EventKind::Deleted {
            self.pods.remove(&name);
        } else {
            self.pods.insert(name.clone(), after.clone());
        }
        let uid = self.uid.clone();
        let own = |pod: &PodState| !uid.is_empty() && pod.owner == uid;
        if !by_manager {
            let was = before.filter(|pod| own(pod) && pod.selected);
            // A pod whose gate the manager has closed does not serve any more: what its node does then is no loss.
            let least = self.min_ready().0;
            if was.as_ref().is_some_and(|was| was.available(least) && !(after.serving && after.selected)) {
                self.losses.push_back(now);
            }
            if was.is_some_and(|was| was.active && !(after.active && after.selected)) {
                self.departures.push_back(now);
            }
            return;
        }
        if let Some(was) = &before
            && !own(was)
        {
            self.fail(format!("the manager wrote to pod {name}, which does not belong to the set"));
        }
        let same =
            before.as_ref().is_some_and(|was| was.revision == after.revision && was.shape == after.shape);
        if own(&after)
            && !same
            && let Err(what) = self.check_label(&name, &after, false)
        {
            self.fail(what);
        }
        if change.kind() == EventKind::Added {
            self.check_count(&name);
            self.check_partition(&name, &after.revision);
        } else if let Some(was) = &before {
            // To take down what is not available yet costs nothing.
            if was.was_available(self.min_ready().1)
                && !after.serving
                && was.selected
                && own(&after) | (change.kind() == EventKind::Deleted)
            {
                self.check_available(&name);
            }
            if was.active && was.selected && !(after.active && own(&after)) {
                self.check_paused_deletion(&name, was);
            }
            if after.marked && !was.marked {
                self.check_paused(&name, "marked");
            }
            if !after.revision.is_empty() && was.revision != after.revision && !was.revision.is_empty() {
                self.check_partition(&name, &after.revision);
                self.check_paused(&name, "updated");
            } else if own(&after) && was.shape != after.shape {
                self.check_paused(&name, "updated");
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

    /// A pod is what the revision says that its label names, and `there` tells whether that has to be there still.
    fn check_label(&self, name: &str, pod: &PodState, there: bool) -> Result<(), String> {
        let label = &pod.revision;
        let Some((shape, owner)) = self.revisions.get(label) else {
            return Err(format!("pod {name} is labelled with revision {label:?}, which nobody knows"));
        };
        if *shape != pod.shape {
            return Err(format!("pod {name} is {:?}, and revision {label} says {shape:?}", pod.shape));
        }
        if there && owner.as_ref() != Some(&self.uid) {
            return Err(format!("pod {name} is of revision {label}, which the set does not have any more"));
        }
        Ok(())
    }

    /// Pods never exceed replicas and surge.
    fn check_count(&mut self, name: &str) {
        let active = self.members().filter(|(_, pod)| pod.active).count() as i64;
        let allowed = self.promises.most(|promise| promise.replicas + promise.surge);
        if active > allowed {
            self.fail(format!("creating pod {name} makes {active} active pods where {allowed} are allowed"));
        }
        if self.promises.always(|promise| promise.deleted) {
            self.fail(format!("pod {name} was created for a set that is gone"));
        }
    }

    /// The least and the most `minReadySeconds` that the manager may go by.
    fn min_ready(&self) -> (i64, i64) {
        let all = || self.promises.all().map(|promise| promise.min_ready);
        (all().min().unwrap_or_default(), all().max().unwrap_or_default())
    }

    /// No more pods are taken down on purpose than may be unavailable.
    fn check_available(&mut self, name: &str) {
        let least = self.min_ready().0;
        let available = self.members().filter(|(_, pod)| pod.available(least)).count() as i64;
        let needed = self.promises.all().map(|one| one.replicas - one.unavailable).min().unwrap_or_default();
        let doomed = |name: &String, pod: &PodState| {
            pod.marked || self.promises.all().any(|promise| promise.doomed.contains(name))
        };
        let excused =
            self.members().filter(|(name, pod)| !pod.available(least) && doomed(name, pod)).count() as i64;
        let losses = self.losses.len() as i64;
        if available + excused + losses < needed {
            self.fail(format!(
                "taking pod {name} down leaves {available} available where {needed} are needed ({excused} marked, {losses} lost)"
            ));
        }
    }

    /// Updated pods never exceed replicas − partition because of the controller.
    fn check_partition(&mut self, name: &str, revision: &str) {
        // Once all pods are updated there is nothing to hold back: new pods are like them.
        if !self.promises.always(|promise| !promise.current.is_empty() && promise.current != revision) {
            return;
        }
        let edited =
            |promise: &Promise| self.promises.last().is_none_or(|last| last.template != promise.template);
        // Pods that had the revision before the template was edited may be more, and stay so. What no pod had is
        // known to the manager from the edit on, and with it what the spec said then.
        let shape = self.revisions.get(revision).map(|(shape, _)| shape);
        let since = |promise: &&Promise| Some(&promise.shape) == shape;
        let limits: Vec<i64> = if self.held.contains(revision) {
            if self.promises.all().any(edited) {
                return;
            }
            self.promises.all().map(Promise::most_updated).collect()
        } else {
            self.promises.all().filter(since).map(Promise::most_updated).collect()
        };
        let Some(allowed) = limits.into_iter().max() else { return };
        let updated = self.members().filter(|(_, pod)| pod.active && pod.revision == revision).count() as i64;
        if updated > allowed {
            self.fail(format!("pod {name} makes {updated} updated pods where {allowed} are allowed"));
        }
    }

    /// No more pods are updated in the end than were to be at any time since the template was edited: a partition that
    /// is raised afterwards takes none back.
    fn check_end_of_rollout(&self) -> Result<(), String> {
        let Some(last) = self.promises.last() else { return Ok(()) };
        if last.current == last.update || self.held.contains(&last.update) {
            return Ok(());
        }
        let updated = self.members().filter(|(_, pod)| pod.revision == last.update).count() as i64;
        if updated > self.wanted {
            return Err(format!("{updated} pods are updated in the end, and {} were to be", self.wanted));
        }
        Ok(())
    }

    /// A paused rollout takes no pod down to bring it back updated: what goes is marked, or is too many.
    fn check_paused_deletion(&mut self, name: &str, pod: &PodState) {
        let doomed = self.promises.all().any(|promise| promise.doomed.contains(name));
        let before = self.members().filter(|(_, pod)| pod.active).count() + 1;
        // The manager may not know yet of pods that went by themselves.
        let seen = (before + self.departures.len()) as i64;
        let wanted = self.promises.all().map(|promise| promise.replicas).min().unwrap_or_default();
        if !pod.marked && !doomed && seen <= wanted && self.promises.always(|promise| promise.paused) {
            self.fail(format!(
                "pod {name} of {before} was deleted although the rollout is paused and {wanted} are wanted"
            ));
        }
    }

    /// A paused rollout updates nothing.
    fn check_paused(&mut self, name: &str, was: &str) {
        if self.promises.always(|promise| promise.paused) {
            self.fail(format!("pod {name} was {was} although the rollout is paused"));
        }
    }
}
