//! What is published: numbers, phase and how the job ended.

use kruise_api::broadcastjob::{BroadcastJobStatus, COMPLETE, FAILED, JobCondition};
use kruise_common::deadline::whole_seconds;

use crate::census::Census;
use crate::observe::{Observed, Phase};
use crate::plan::{Ending, Plan};

/// What a condition and an event say when a pod has failed.
const FAILED_POD: &str = "failure policy is FailurePolicyTypeFailFast and failed pod is found";

/// The status of a job. `census` is that of `seen`; the plan's steps are in it, or are about to be taken.
pub fn status(seen: &Observed, census: &Census<'_>, plan: &Plan) -> BroadcastJobStatus {
    if seen.terminating || (plan.ending.is_none() && seen.is_over()) {
        return seen.status.clone();
    }
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let now = whole_seconds(seen.now);
    let mut status = BroadcastJobStatus {
        start_time: Some(seen.status.start_time.clone().unwrap_or_else(|| now.clone())),
        active: number(census.active),
        succeeded: number(census.succeeded),
        failed: number(census.failed),
        desired: number(census.desired),
        phase: Some(plan.phase.as_str().to_owned()),
        acknowledged_failed: Some(number(plan.acknowledged)).filter(|count| *count > 0),
        ..seen.status.clone()
    };
    if let Some(ending) = plan.ending {
        // What is stopped before its end has failed, if the job has.
        if ending != Ending::Completed {
            status.failed = number(census.failed + census.active);
        }
        status.active = 0;
        status.completion_time = Some(now.clone());
        let type_ = if ending == Ending::Completed { COMPLETE } else { FAILED };
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|found| found.type_ != type_);
        conditions.push(JobCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            last_probe_time: Some(now.clone()),
            last_transition_time: Some(now),
            reason: Some(type_.to_owned()),
            message: None,
        });
        let message = condition_message(seen, &status, ending);
        if let Some(condition) = status.conditions.iter_mut().flatten().last() {
            condition.message = Some(message);
        }
    }
    status
}

fn counts(status: &BroadcastJobStatus) -> String {
    format!("{} pods succeeded, {} pods failed", status.succeeded, status.failed)
}

fn condition_message(seen: &Observed, status: &BroadcastJobStatus, ending: Ending) -> String {
    match ending {
        Ending::Completed => format!("Job completed, {}", counts(status)),
        Ending::FailedPod => FAILED_POD.to_owned(),
        Ending::Overdue => overdue(seen),
    }
}

fn overdue(seen: &Observed) -> String {
    format!("Job {} was active longer than specified deadline", seen.key)
}

/// Reason and message of the event that tells of the end.
pub fn end_event(seen: &Observed, status: &BroadcastJobStatus, ending: Ending) -> (&'static str, String) {
    match ending {
        Ending::Completed => ("JobComplete", format!("Job {} is completed, {}", seen.key, counts(status))),
        Ending::FailedPod => ("failed pod is found", format!("{FAILED_POD}: {}", counts(status))),
        Ending::Overdue => ("DeadlineExceeded", format!("{}: {}", overdue(seen), counts(status))),
    }
}

/// What a change of phase tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    /// Paused because of a failed pod.
    Paused,
    /// Goes on after a pause.
    Continued,
}

/// What to tell of going from one phase to another; a pause that a user asked for is no news to them.
pub fn turn(seen: &Observed, to: Phase) -> Option<Turn> {
    match (seen.phase, to) {
        (Phase::Paused, Phase::Running) => Some(Turn::Continued),
        (Phase::New | Phase::Running, Phase::Paused) if !seen.settings.paused => Some(Turn::Paused),
        _ => None,
    }
}
