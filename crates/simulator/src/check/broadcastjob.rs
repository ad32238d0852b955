//! What a BroadcastJob promises.

use std::collections::BTreeMap;

use kruise_sandbox::server::{Change, EventKind};
use serde_json::Value;
use tokio::time::Instant;

use super::{Judge, Lately, WINDOW, condition, owner, resolve, terminating, text};
use crate::run::{NAME, NODES};

/// A pod as the checks need it.
#[derive(Clone, Debug, Default)]
struct PodState {
    owner: String,
    node: String,
    terminating: bool,
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
            ended: ended.then(|| before.and_then(|before| before.ended).unwrap_or_else(Instant::now)),
            restarts: if text(pod, "/spec/restartPolicy") == "OnFailure" { restarts.sum() } else { 0 },
        }
    }
}

/// What a spec and a status promise, resolved.
#[derive(Clone, Debug)]
struct Promise {
    parallelism: i64,
    restart_limit: i64,
    paused: bool,
    /// It has ended and stays so.
    over: bool,
    completion_time: String,
    deleted: bool,
}

impl Promise {
    fn of(job: &Value, gone: bool) -> Self {
        let never = text(job, "/spec/completionPolicy/type") == "Never";
        let ended = ["Complete", "Failed"].iter().any(|type_| condition(job, type_) == Some("True"));
        Self {
            // Of all nodes, where it is a share: the lenient reading.
            parallelism: resolve(job.pointer("/spec/parallelism"), i64::MAX, NODES.into(), true),
            restart_limit: job
                .pointer("/spec/failurePolicy/restartLimit")
                .and_then(Value::as_i64)
                .unwrap_or(0),
            paused: job.pointer("/spec/paused").and_then(Value::as_bool).unwrap_or_default(),
            over: (ended && !never) || text(job, "/status/phase") == "failed",
            completion_time: text(job, "/status/completionTime").to_owned(),
            deleted: gone || terminating(job),
        }
    }
}

/// The job and its pods.
pub(super) struct Jobs {
    uid: String,
    pods: BTreeMap<String, PodState>,
    promises: Lately<Promise>,
}

impl Judge for Jobs {
    fn tables(&self) -> &'static [&'static str] {
        &["broadcastjobs.apps.kruise.io", "pods"]
    }

    fn changed(&mut self, table: &str, change: &Change, by_manager: bool) -> Result<(), String> {
        self.promises.forget();
        if table == "pods" { self.pod_changed(change, by_manager) } else { self.job_changed(change) }
    }
}

impl Jobs {
    pub(super) const fn new() -> Self {
        Self { uid: String::new(), pods: BTreeMap::new(), promises: Lately::new() }
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
        if !before.over
            && now.over
            && condition(job, "Complete") == Some("True")
            && let Some(pod) = self.active().next()
        {
            return Err(format!("the job is complete while pod {pod} is active"));
        }
        Ok(())
    }

    fn pod_changed(&mut self, change: &Change, by_manager: bool) -> Result<(), String> {
        let pod = change.object();
        let name = text(pod, "/metadata/name").to_owned();
        let before = self.pods.get(&name).cloned();
        let gone = change.kind() == EventKind::Deleted;
        let after = PodState::of(pod, before.as_ref());
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
