//! Jobs that are not indexed: pods until enough of them have succeeded.
//!
//! What has ended is counted from the pods that are there; a finished pod that somebody deletes is forgotten unless the
//! Job has ended.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kruise_runtime::store::View;
use kube::api::DeleteParams;
use kube::core::ApiResource;
use serde_json::{Value, json};

use super::hub::{Hub, Loose, queue_itself, queue_owner, resource};
use super::replicasets::{Pod, create_pods, delete, pod_of, ready_since, write_status};
use super::rounds::{new_queue, unless, work};

/// Delay before the first replacement of a failed pod; each further one doubles it.
const BACKOFF: SignedDuration = SignedDuration::from_secs(10);
const MAX_BACKOFF: SignedDuration = SignedDuration::from_secs(600);

fn kind() -> ApiResource {
    resource("batch", "v1", "Job", "jobs")
}

/// Keeps Jobs, for ever.
pub(super) async fn control(hub: &Hub) {
    let Some(queue) = new_queue("job") else { return };
    queue_itself(&hub.jobs, &queue);
    queue_owner(&hub.pods, &queue, "Job");
    tokio::join!(hub.jobs.ready(), hub.pods.ready());
    work("job", &queue, 4, |key| async move {
        match hub.jobs.get(&key) {
            Some(job) if !job.deleting() => reconcile(hub, &job).await,
            _ => Ok(None),
        }
    })
    .await;
}

/// What there is of a Job's pods.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Seen {
    active: i64,
    ready: i64,
    terminating: i64,
    succeeded: i64,
    failed: i64,
    last_failure: Option<Timestamp>,
}

/// What a Job asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Wanted {
    /// `None`: any success ends it.
    completions: Option<i64>,
    parallelism: i64,
    backoff_limit: i64,
    deadline: Option<SignedDuration>,
    suspended: bool,
    started: Option<Timestamp>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Plan {
    Complete,
    Fail(&'static str, &'static str),
    Suspend,
    /// So many pods shall run now; look again then.
    Run(i64, Option<SignedDuration>),
}

fn plan(wanted: Wanted, seen: Seen, now: Timestamp) -> Plan {
    let enough = match wanted.completions {
        Some(completions) => seen.succeeded >= completions,
        None => seen.succeeded > 0 && seen.active == 0,
    };
    if enough {
        return Plan::Complete;
    }
    if seen.failed > wanted.backoff_limit {
        return Plan::Fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    let left =
        wanted.deadline.zip(wanted.started).map(|(deadline, started)| deadline - now.duration_since(started));
    if left.is_some_and(|left| !left.is_positive()) && !wanted.suspended {
        return Plan::Fail("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if wanted.suspended {
        return Plan::Suspend;
    }
    let target = match wanted.completions {
        Some(completions) => wanted.parallelism.min(completions - seen.succeeded),
        // After the first success no new pods are made.
        None if seen.succeeded > 0 => seen.active,
        None => wanted.parallelism,
    };
    if target > seen.active
        && let Some(wait) = backoff(seen, now)
    {
        return Plan::Run(seen.active, Some(left.map_or(wait, |left| left.min(wait))));
    }
    Plan::Run(target, left)
}

/// How long to wait before a failed pod is replaced.
fn backoff(seen: Seen, now: Timestamp) -> Option<SignedDuration> {
    let since = now.duration_since(seen.last_failure?);
    let times = 1_i32.checked_shl(u32::try_from(seen.failed - 1).unwrap_or(0)).unwrap_or(i32::MAX);
    let wait = BACKOFF.checked_mul(times).unwrap_or(MAX_BACKOFF).min(MAX_BACKOFF) - since;
    wait.is_positive().then_some(wait)
}

fn wanted(job: &Loose, now: Timestamp) -> Wanted {
    let started = job.text("/status/startTime").and_then(|time| time.parse().ok()).unwrap_or(now);
    Wanted {
        completions: job.int("/spec/completions"),
        parallelism: job.int("/spec/parallelism").unwrap_or(1),
        backoff_limit: job.int("/spec/backoffLimit").unwrap_or(6),
        deadline: job.int("/spec/activeDeadlineSeconds").map(SignedDuration::from_secs),
        suspended: job.field("/spec/suspend") == &Value::Bool(true),
        started: Some(started),
    }
}

fn look(pods: &[Arc<Pod>]) -> Seen {
    let mut seen = Seen::default();
    for pod in pods {
        match pod.object.status.phase.as_deref() {
            Some("Succeeded") => seen.succeeded += 1,
            Some("Failed") => {
                seen.failed += 1;
                seen.last_failure = seen.last_failure.max(ended(pod));
            }
            _ if pod.deleting() => seen.terminating += 1,
            _ => {
                seen.active += 1;
                seen.ready += i64::from(ready_since(pod).is_some());
            }
        }
    }
    seen
}

fn ended(pod: &Pod) -> Option<Timestamp> {
    let ends = pod.object.status.container_statuses.iter().filter_map(|status| {
        status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
    });
    ends.max()
}

/// The type of the condition that says that the Job is over.
fn over(job: &Loose) -> bool {
    let conditions = job.field("/status/conditions").as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| {
        let is = |field: &str, value: &str| condition.get(field).is_some_and(|known| known == value);
        (is("type", "Complete") || is("type", "Failed")) && is("status", "True")
    })
}

async fn reconcile(hub: &Hub, job: &Loose) -> kube::Result<Option<Duration>> {
    let now = hub.now();
    if over(job) {
        return clean_up(hub, job, now).await;
    }
    let mut pods = hub.pods.owned_by(job.uid());
    pods.retain(|pod| pod.controller().is_some_and(|(_, _, uid)| uid == &*job.uid().0));
    let seen = look(&pods);
    let wanted = wanted(job, now);
    let plan = plan(wanted, seen, now);
    let mut active: Vec<Arc<Pod>> =
        pods.into_iter().filter(|pod| !pod.deleting() && !pod.object.ended()).collect();
    let mut after = seen;
    let mut wake = None;
    match &plan {
        Plan::Complete | Plan::Fail(..) | Plan::Suspend => {
            delete(hub, &active).await?;
            (after.active, after.ready, after.terminating) = (0, 0, seen.terminating + seen.active);
        }
        Plan::Run(target, again) => {
            wake = *again;
            if *target > seen.active {
                let many = usize::try_from(target - seen.active).unwrap_or(0);
                create_pods(hub, job, &pod(job), many).await?;
                after.active = *target;
            } else if *target < seen.active {
                active.sort_by_key(|pod| (ready_since(pod).is_some(), std::cmp::Reverse(pod.created())));
                active.truncate(usize::try_from(seen.active - target).unwrap_or(0));
                delete(hub, &active).await?;
                after.active = *target;
            }
        }
    }
    write_status(hub, &hub.jobs, job, &kind(), status(job, &plan, after, now)).await?;
    Ok(wake.and_then(|wake| Duration::try_from(wake).ok()))
}

fn pod(job: &Loose) -> Value {
    pod_of(job, job.field("/spec/template"), "Job", "batch/v1")
}

fn status(job: &Loose, plan: &Plan, seen: Seen, now: Timestamp) -> Value {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut conditions: Vec<Value> = job.field("/status/conditions").as_array().cloned().unwrap_or_default();
    let mut set = |name: &str, status: &str, reason: &str, message: &str| {
        let same = |condition: &Value| {
            condition.get("type").is_some_and(|known| known == name)
                && condition.get("status").is_some_and(|known| known == status)
        };
        if conditions.iter().any(same) {
            return;
        }
        conditions.retain(|condition| condition.get("type").is_none_or(|known| known != name));
        conditions.push(json!({
            "type": name,
            "status": status,
            "reason": reason,
            "message": message,
            "lastProbeTime": now,
            "lastTransitionTime": now,
        }));
    };
    let resumed = job.field("/status/conditions").to_string().contains("JobSuspended");
    let mut status = json!({
        "active": seen.active,
        "succeeded": seen.succeeded,
        "failed": seen.failed,
        "ready": seen.ready,
        "terminating": seen.terminating,
    });
    let mut start = job.text("/status/startTime").unwrap_or(&now).to_owned();
    match plan {
        Plan::Complete => {
            let message = "Reached expected number of succeeded pods";
            set("SuccessCriteriaMet", "True", "CompletionsReached", message);
            set("Complete", "True", "CompletionsReached", message);
        }
        Plan::Fail(reason, message) => {
            set("FailureTarget", "True", reason, message);
            set("Failed", "True", reason, message);
        }
        Plan::Suspend => set("Suspended", "True", "JobSuspended", "Job suspended"),
        Plan::Run(..) if resumed => {
            set("Suspended", "False", "JobResumed", "Job resumed");
            start.clone_from(&now);
        }
        Plan::Run(..) => {}
    }
    if let Value::Object(status) = &mut status {
        if *plan == Plan::Complete {
            status.insert("completionTime".into(), now.clone().into());
        }
        // The deadline of a suspended Job does not run.
        let start = if *plan == Plan::Suspend { Value::Null } else { start.into() };
        status.insert("startTime".into(), start);
        if !conditions.is_empty() {
            status.insert("conditions".into(), conditions.into());
        }
    }
    status
}

/// Deletes a Job whose time to live after its end is over.
async fn clean_up(hub: &Hub, job: &Loose, now: Timestamp) -> kube::Result<Option<Duration>> {
    let Some(ttl) = job.int("/spec/ttlSecondsAfterFinished").map(SignedDuration::from_secs) else {
        return Ok(None);
    };
    let conditions = job.field("/status/conditions").as_array().into_iter().flatten();
    let ends = conditions.filter_map(|condition| condition.get("lastTransitionTime")?.as_str()?.parse().ok());
    let Some(ended) = ends.max() else { return Ok(None) };
    let left = ttl - now.duration_since(ended);
    if left.is_positive() {
        return Ok(Duration::try_from(left).ok());
    }
    let api = hub.api(&kind(), &job.key().namespace);
    unless(api.delete(job.name(), &DeleteParams::background()).await, &[404])?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_runs_as_many_pods_as_are_still_to_succeed() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let wanted = Wanted {
            completions: Some(5),
            parallelism: 3,
            backoff_limit: 1,
            deadline: None,
            suspended: false,
            started: Some(now),
        };
        let seen = |active, succeeded, failed| Seen { active, succeeded, failed, ..Seen::default() };
        let failed = Plan::Fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        let rows = [
            (wanted, seen(0, 0, 0), Plan::Run(3, None)),
            (wanted, seen(2, 3, 0), Plan::Run(2, None)),
            (wanted, seen(0, 5, 0), Plan::Complete),
            (wanted, seen(1, 0, 2), failed),
            (Wanted { suspended: true, ..wanted }, seen(1, 0, 0), Plan::Suspend),
            (Wanted { completions: None, ..wanted }, seen(2, 1, 0), Plan::Run(2, None)),
            (Wanted { completions: None, ..wanted }, seen(0, 1, 0), Plan::Complete),
        ];
        for (wanted, seen, expected) in rows {
            assert_eq!(plan(wanted, seen, now), expected, "{wanted:?} {seen:?}");
        }
        let just_failed = Seen { last_failure: Some(now), ..seen(0, 0, 1) };
        assert_eq!(plan(wanted, just_failed, now), Plan::Run(0, Some(BACKOFF)));
    }
}
