//! What to do about a job: which nodes get a pod now, which pods have to go, whether the job has ended.

use std::sync::Arc;
use std::time::Duration;

use kruise_common::deadline::until;
use kruise_common::pod::PodView;

use crate::census::Census;
use crate::observe::{Completion, FailurePolicy, Observed, Phase};

/// Why a pod is deleted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeleteReason {
    /// Its node is not for it any more.
    Misfit,
    /// The job is over.
    JobIsOver,
}

/// One step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Creates the pod of a node.
    Create {
        /// Name of the node.
        node: Arc<str>,
    },
    /// Deletes a pod.
    Delete {
        /// The pod.
        pod: Arc<PodView>,
        /// Why.
        because: DeleteReason,
    },
    /// Deletes the job, whose time has come; its pods follow.
    DeleteJob,
}

/// How a job ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Every node is done.
    Completed,
    /// A pod has failed.
    FailedPod,
    /// Its time is over.
    Overdue,
}

/// What users are told once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// More pods run than may.
    TooManyActive,
    /// A pod shares its node with another one of the job.
    Double(Arc<PodView>),
    /// A pod finds no room on its node.
    NoRoom(Arc<PodView>),
}

/// What to do now, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The phase to publish.
    pub phase: Phase,
    /// The job ends now. This is published before any action: what follows from it must not depend on this process.
    pub ending: Option<Ending>,
    /// Failed pods that do not pause the job.
    pub acknowledged: usize,
    /// The steps.
    pub actions: Vec<Action>,
    /// Nodes without a pod that get one later, because of `parallelism`.
    pub held: usize,
    /// What users are told once.
    pub notices: Vec<Notice>,
    /// When to look again if nothing changes before.
    pub wake_in: Option<Duration>,
}

impl Plan {
    /// Nothing is done.
    fn rest(phase: Phase, acknowledged: usize) -> Self {
        Self {
            phase,
            ending: None,
            acknowledged,
            actions: Vec::new(),
            held: 0,
            notices: Vec::new(),
            wake_in: None,
        }
    }
}

/// Decides. `census` is that of `seen`.
pub fn plan(seen: &Observed, census: &Census<'_>) -> Plan {
    let acknowledged = acknowledged(seen, census);
    if seen.terminating {
        return Plan::rest(seen.phase, acknowledged);
    }
    if seen.is_over() {
        return after_the_end(seen, census);
    }
    let pauses = seen.settings.failure_policy == FailurePolicy::Pause && census.failed > acknowledged;
    if seen.settings.paused || pauses {
        return Plan::rest(Phase::Paused, acknowledged);
    }
    if seen.settings.failure_policy == FailurePolicy::FailFast && census.failed > 0 {
        return end(seen, census, Ending::FailedPod);
    }
    let left = time_left(seen);
    if left.is_some_and(|left| left.is_zero()) {
        return end(seen, census, Ending::Overdue);
    }
    let goes_on = seen.settings.completion == Completion::Never;
    if !goes_on && census.desired > 0 && census.done == census.desired && census.misfits.is_empty() {
        return end(seen, census, Ending::Completed);
    }
    Plan { wake_in: left, ..go_on(seen, census, acknowledged) }
}

/// Deletes what does not belong where it is, and fills free nodes as far as the limit allows.
fn go_on(seen: &Observed, census: &Census<'_>, acknowledged: usize) -> Plan {
    let limit = seen.settings.limit(census.desired);
    let active = census.active.saturating_sub(census.misfits.len());
    let creations = limit.saturating_sub(active).min(census.free.len());
    let deletions = census
        .misfits
        .iter()
        .map(|&pod| Action::Delete { pod: Arc::clone(pod), because: DeleteReason::Misfit });
    let creates = census.free.iter().take(creations).map(|&node| Action::Create { node: Arc::clone(node) });
    let crowd = (active > limit).then_some(Notice::TooManyActive);
    let doubles = census.doubles.iter().map(|&pod| Notice::Double(Arc::clone(pod)));
    let waiting = census.waiting.iter().map(|&pod| Notice::NoRoom(Arc::clone(pod)));
    Plan {
        actions: deletions.chain(creates).collect(),
        held: census.free.len() - creations,
        notices: crowd.into_iter().chain(doubles).chain(waiting).collect(),
        ..Plan::rest(Phase::Running, acknowledged)
    }
}

/// Ends the job: whatever still runs is deleted.
fn end(seen: &Observed, census: &Census<'_>, ending: Ending) -> Plan {
    let phase = if ending == Ending::Completed { Phase::Completed } else { Phase::Failed };
    let wake_in = match seen.settings.completion {
        Completion::Always { ttl, .. } => ttl.map(|ttl| until(seen.now, i64::from(ttl), seen.now)),
        Completion::Never => None,
    };
    Plan { ending: Some(ending), actions: leftovers(census), wake_in, ..Plan::rest(phase, 0) }
}

/// A job that is over: what it left behind goes, and it goes itself when its time has come.
fn after_the_end(seen: &Observed, census: &Census<'_>) -> Plan {
    let ended = seen.status.completion_time.as_ref().map(|time| time.0);
    let left = match (seen.settings.completion, ended) {
        (Completion::Always { ttl: Some(ttl), .. }, Some(ended)) => {
            Some(until(ended, i64::from(ttl), seen.now))
        }
        _ => None,
    };
    let rest = Plan::rest(seen.phase, 0);
    if left.is_some_and(|left| left.is_zero()) {
        return Plan { actions: vec![Action::DeleteJob], ..rest };
    }
    Plan { actions: leftovers(census), wake_in: left, ..rest }
}

fn leftovers(census: &Census<'_>) -> Vec<Action> {
    let running = census.running.iter();
    running.map(|&pod| Action::Delete { pod: Arc::clone(pod), because: DeleteReason::JobIsOver }).collect()
}

/// Until the deadline; `None` without one.
fn time_left(seen: &Observed) -> Option<Duration> {
    match seen.settings.completion {
        Completion::Always { deadline: Some(deadline), .. } => {
            Some(until(seen.started(), deadline, seen.now))
        }
        _ => None,
    }
}

/// Failed pods that do not pause the job: all there are while a user holds it, and no more than those afterwards. So
/// pausing a job by hand and letting it go again is how to go on in spite of them.
fn acknowledged(seen: &Observed, census: &Census<'_>) -> usize {
    if seen.settings.failure_policy != FailurePolicy::Pause {
        return 0;
    }
    if seen.settings.paused {
        return census.failed;
    }
    let known = seen.status.acknowledged_failed.unwrap_or_default();
    usize::try_from(known).unwrap_or_default().min(census.failed)
}

#[cfg(test)]
mod tests;
