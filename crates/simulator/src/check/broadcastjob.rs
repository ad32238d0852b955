//! What a BroadcastJob promises.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use kruise_sandbox::server::{Change, EventKind};
use serde_json::Value;
use tokio::time::Instant;

use super::{Judge, Lately, WINDOW, condition, owner, resolve, terminating, text};
use crate::run::{NAME, NODES, POOL};

/// A pod as the checks need it.
#[derive(Clone, Debug, Default)]
struct PodState {
    owner: String,
    node: String,
    terminating: bool,
    succeeded: bool,
    /// Since when it has ended.
    ended: Option<Instant>,
    /// Restarts, where they are counted.
    restarts: i64,
}

impl PodState {
    fn of(pod: &Value, before: Option<&Self>) -> Self {
        let pin = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
        let bound = text(pod, "/spec/nodeName");
        let ended = matches!(text(pod, "/status/phase"), "Failed" | "Succeeded");
        let containers = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
        let restarts = containers.into_iter().flatten().filter_map(|one| one.get("restartCount")?.as_i64());
        Self {
            owner: owner(pod).to_owned(),
            node: if bound.is_empty() { text(pod, pin) } else { bound }.to_owned(),
            terminating: terminating(pod),
            succeeded: text(pod, "/status/phase") == "Succeeded",
            ended: ended.then(|| before.and_then(|before| before.ended).unwrap_or_else(Instant::now)),
            restarts: if text(pod, "/spec/restartPolicy") == "OnFailure" { restarts.sum() } else { 0 },
        }
    }

    /// It is at its end, or was restarted too often to be let go on.
    fn is_done(&self, restart_limit: i64) -> bool {
        self.ended.is_some() || self.restarts > restart_limit
    }
}

/// What a spec and a status promise, resolved.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact of a job")]
#[derive(Clone, Debug)]
struct Promise {
    parallelism: i64,
    restart_limit: i64,
    paused: bool,
    /// A failed pod fails the job.
    fails_fast: bool,
    /// It was under way for as long as it may be.
    overdue: bool,
    /// It has ended and stays so.
    over: bool,
    complete: bool,
    completion_time: String,
    succeeded: usize,
    failed: usize,
    deleted: bool,
}

impl Promise {
    fn of(job: &Value, gone: bool) -> Self {
        let never = text(job, "/spec/completionPolicy/type") == "Never";
        let ended = ["Complete", "Failed"].iter().any(|type_| condition(job, type_) == Some("True"));
        let time = |path: &str| text(job, path).parse::<Timestamp>().ok();
        let worked = time("/status/startTime").zip(time("/status/completionTime"));
        let worked = worked.map(|(start, end)| end.duration_since(start).as_secs());
        let deadline = job.pointer("/spec/completionPolicy/activeDeadlineSeconds").and_then(Value::as_i64);
        let count = |path: &str| job.pointer(path).and_then(Value::as_u64).unwrap_or_default() as usize;
        Self {
            // Of all nodes, where it is a share: the lenient reading.
            parallelism: resolve(job.pointer("/spec/parallelism"), i64::MAX, NODES.into(), true),
            restart_limit: job
                .pointer("/spec/failurePolicy/restartLimit")
                .and_then(Value::as_i64)
                .unwrap_or(0),
            paused: job.pointer("/spec/paused").and_then(Value::as_bool).unwrap_or_default(),
            fails_fast: text(job, "/spec/failurePolicy/type") == "FailFast",
            overdue: worked.zip(deadline).is_some_and(|(worked, deadline)| worked >= deadline),
            over: (ended && !never) || text(job, "/status/phase") == "failed",
            complete: condition(job, "Complete") == Some("True"),
            completion_time: text(job, "/status/completionTime").to_owned(),
            succeeded: count("/status/succeeded"),
            failed: count("/status/failed"),
            deleted: gone || terminating(job),
        }
    }
}

/// Whether a node is one of those the job is for: in its pool, and nothing keeps new pods away.
fn fits(node: &Value) -> bool {
    let taints = node.pointer("/spec/taints").and_then(Value::as_array).into_iter().flatten();
    let repels = |taint: &Value| taint.get("effect").and_then(Value::as_str) != Some("PreferNoSchedule");
    text(node, &format!("/metadata/labels/{POOL}")) == "yes"
        && node.pointer("/spec/unschedulable").and_then(Value::as_bool) != Some(true)
        && !taints.into_iter().any(repels)
}

/// A pod that is not any more what it was.
struct Past {
    at: Instant,
    /// It is gone altogether.
    gone: bool,
    pod: PodState,
}

/// The job, its pods and its nodes.
pub(super) struct Jobs {
    uid: String,
    pods: BTreeMap<String, PodState>,
    /// What its pods were before.
    past: VecDeque<Past>,
    /// Since when which nodes are for the job.
    nodes: BTreeMap<String, Instant>,
    promises: Lately<Promise>,
}

impl Judge for Jobs {
    fn tables(&self) -> &'static [&'static str] {
        &["nodes", "broadcastjobs.apps.kruise.io", "pods"]
    }

    fn changed(&mut self, table: &str, change: &Change, by_manager: bool) -> Result<(), String> {
        self.promises.forget();
        self.past.retain(|past| past.gone || past.at.elapsed() <= WINDOW);
        match table {
            "pods" => self.pod_changed(change, by_manager),
            "nodes" => {
                self.node_changed(change);
                Ok(())
            }
            _ => self.job_changed(change),
        }
    }

    fn rested(&self) -> Result<(), String> {
        match self.promises.last() {
            Some(promise) if promise.over && !promise.deleted => self.check_counts(promise),
            _ => Ok(()),
        }
    }
}

impl Jobs {
    pub(super) const fn new() -> Self {
        Self {
            uid: String::new(),
            pods: BTreeMap::new(),
            past: VecDeque::new(),
            nodes: BTreeMap::new(),
            promises: Lately::new(),
        }
    }

    fn own(&self) -> impl Iterator<Item = (&String, &PodState)> {
        self.pods.iter().filter(|(_, pod)| pod.owner == self.uid)
    }

    /// Pods that count against `parallelism`.
    fn active(&self) -> impl Iterator<Item = &String> {
        let limit = self.promises.all().map(|promise| promise.restart_limit).min().unwrap_or_default();
        let active = move |pod: &PodState| !pod.terminating && pod.ended.is_none() && pod.restarts <= limit;
        self.own().filter(move |(_, pod)| active(pod)).map(|(name, _)| name)
    }

    fn job_changed(&mut self, change: &Change) -> Result<(), String> {
        let job = change.object();
        if text(job, "/metadata/name") != NAME {
            return Ok(());
        }
        text(job, "/metadata/uid").clone_into(&mut self.uid);
        let now = Promise::of(job, change.kind() == EventKind::Deleted);
        let before = self.promises.last().cloned();
        self.promises.push(now.clone());
        let Some(before) = before.filter(|_| !now.deleted) else { return Ok(()) };
        if before.over && (!now.over || now.completion_time != before.completion_time) {
            return Err("a job that had ended ended again".to_owned());
        }
        if before.over || !now.over {
            return Ok(());
        }
        if now.complete { self.check_complete() } else { self.check_failed(&now) }
    }

    fn node_changed(&mut self, change: &Change) {
        let node = change.object();
        let name = text(node, "/metadata/name");
        if change.kind() == EventKind::Deleted || !fits(node) {
            self.nodes.remove(name);
        } else if !self.nodes.contains_key(name) {
            self.nodes.insert(name.to_owned(), Instant::now());
        }
    }

    /// The pods of the job as the manager may have seen them lately.
    fn seen(&self) -> impl Iterator<Item = &PodState> {
        let lately = self.past.iter().filter(|past| past.at.elapsed() <= WINDOW).map(|past| &past.pod);
        self.own().map(|(_, pod)| pod).chain(lately.filter(|pod| pod.owner == self.uid))
    }

    /// A job is complete once every node it is for has a pod that has ended.
    fn check_complete(&self) -> Result<(), String> {
        if let Some(pod) = self.active().next() {
            return Err(format!("the job is complete while pod {pod} is active"));
        }
        let limit = self.promises.all().map(|promise| promise.restart_limit).min().unwrap_or_default();
        // A pod that is being deleted counts as ended, as OpenKruise has it: a job does not wait for its successor.
        let ended = |pod: &PodState| pod.is_done(limit) || pod.terminating;
        let done = |node: &str| self.seen().any(|pod| pod.node == node && ended(pod));
        let mut needed = self.nodes.iter().filter(|(_, since)| since.elapsed() > WINDOW);
        if let Some((node, _)) = needed.find(|(node, _)| !done(node)) {
            return Err(format!("the job is complete, and no pod has ended on node {node}"));
        }
        if !self.seen().any(ended) {
            return Err("the job is complete, and no pod has ended".to_owned());
        }
        Ok(())
    }

    /// A job fails for a failed pod, if it is to fail fast, or when its time is over.
    fn check_failed(&self, now: &Promise) -> Result<(), String> {
        let limit = now.restart_limit;
        let failed = |pod: &PodState| !pod.succeeded && !pod.terminating && pod.is_done(limit);
        let fails_fast = self.promises.all().any(|promise| promise.fails_fast) && self.seen().any(failed);
        if fails_fast || now.overdue { Ok(()) } else { Err("the job has failed for no reason".to_owned()) }
    }

    /// What an ended job tells of its pods is still so, but for those that somebody has deleted.
    fn check_counts(&self, told: &Promise) -> Result<(), String> {
        let succeeded = self.own().filter(|(_, pod)| pod.succeeded).count();
        let failed = self.own().count() - succeeded;
        let gone = || self.past.iter().filter(|past| past.gone && past.pod.owner == self.uid);
        let most_succeeded = succeeded + gone().filter(|past| past.pod.succeeded).count();
        // Pods that ran when a job failed count as failed, and may have ended well before they could be stopped.
        let least_succeeded = if told.complete { succeeded } else { 0 };
        let all = told.succeeded + told.failed;
        let counted = (least_succeeded..=most_succeeded).contains(&told.succeeded)
            && (succeeded + failed..=succeeded + failed + gone().count()).contains(&all);
        if counted {
            return Ok(());
        }
        Err(format!(
            "of an ended job's pods {succeeded} have succeeded and {failed} failed ({} are gone), and it tells of {} and {}",
            gone().count(),
            told.succeeded,
            told.failed
        ))
    }

    fn pod_changed(&mut self, change: &Change, by_manager: bool) -> Result<(), String> {
        let pod = change.object();
        let name = text(pod, "/metadata/name").to_owned();
        let before = self.pods.get(&name).cloned();
        let gone = change.kind() == EventKind::Deleted;
        let after = PodState::of(pod, before.as_ref());
        if let Some(before) = &before {
            let pod = if gone && after.succeeded { after.clone() } else { before.clone() };
            self.past.push_back(Past { at: Instant::now(), gone, pod });
        }
        if gone {
            self.pods.remove(&name);
        } else {
            self.pods.insert(name.clone(), after.clone());
        }
        match before {
            _ if !by_manager => Ok(()),
            None => self.check_created(&name, &after),
            Some(before) if gone || (after.terminating && !before.terminating) => {
                self.check_deleted(&name, &before)
            }
            Some(_) => Ok(()),
        }
    }

    fn check_created(&self, name: &str, pod: &PodState) -> Result<(), String> {
        if pod.owner != self.uid {
            return Err(format!("pod {name} was created for somebody else"));
        }
        if let Some((other, _)) = self.own().find(|(other, one)| *other != name && one.node == pod.node) {
            return Err(format!("pods {other} and {name} of one job are both on node {}", pod.node));
        }
        if self.promises.last().is_some_and(|promise| promise.over) {
            return Err(format!("pod {name} was created for a job that has ended"));
        }
        if self.promises.always(|promise| promise.deleted) {
            return Err(format!("pod {name} was created for a job that is gone"));
        }
        if self.promises.always(|promise| promise.paused) {
            return Err(format!("pod {name} was created for a job that is paused"));
        }
        let (active, allowed) = (self.active().count() as i64, self.promises.most(|one| one.parallelism));
        if active > allowed {
            return Err(format!(
                "creating pod {name} makes {active} active pods where {allowed} are allowed"
            ));
        }
        Ok(())
    }

    fn check_deleted(&self, name: &str, pod: &PodState) -> Result<(), String> {
        if pod.owner != self.uid {
            return Err(format!("pod {name}, which does not belong to the job, was deleted"));
        }
        // Its node counts as done by it: without it the work would be done again.
        if pod.ended.is_some_and(|ended| ended.elapsed() > WINDOW) {
            return Err(format!("pod {name} was deleted although it has ended"));
        }
        if self.promises.always(|promise| promise.paused && !promise.over) {
            return Err(format!("pod {name} was deleted although the job is paused"));
        }
        Ok(())
    }
}
