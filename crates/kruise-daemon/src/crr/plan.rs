//! Decides how a ContainerRecreateRequest goes on. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kruise_api::containerrecreaterequest::{
    ContainerRecreateRequestContainerRecreateState as State, ContainerRecreateRequestPhase as Phase,
    ContainerRecreateRequestSpec, ContainerRecreateRequestStatus,
};
use kruise_api::keys;

/// A container of the pod as the runtime sees it; of several of one name the newest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) name: String,
    /// With the runtime's name: `containerd://…`.
    pub(crate) id: String,
    pub(crate) exited: bool,
    /// The code it ended with, once it has.
    pub(crate) exit_code: i32,
    /// It has ended and will not be started again.
    pub(crate) stays_down: bool,
    pub(crate) restart_count: i32,
    pub(crate) started: Option<Timestamp>,
}

/// What is known when a request is looked at.
pub(crate) struct Observed<'a> {
    pub(crate) spec: &'a ContainerRecreateRequestSpec,
    pub(crate) status: &'a ContainerRecreateRequestStatus,
    pub(crate) seen: &'a [Seen],
    /// IDs of containers that the pod's own status calls ready.
    pub(crate) ready: &'a [String],
    pub(crate) now: Timestamp,
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Nothing before something changes, or before this time.
    Wait(Option<Duration>),
    /// Stop this container, whose state is at this place of the list.
    Kill {
        /// Place in the list of states.
        at: usize,
        /// With the runtime's name.
        id: String,
    },
    /// It is over.
    Complete,
}

/// The present states, in the order of the spec, and what to do next.
pub(crate) fn plan(observed: &Observed<'_>) -> (Vec<State>, Step) {
    let strategy = observed.spec.strategy.clone().unwrap_or_default();
    let ordered = strategy.ordered_recreate == Some(true);
    let ignore = strategy.failure_policy.as_deref() == Some("Ignore");
    let states: Vec<State> =
        (0..observed.spec.containers.len()).filter_map(|at| state(observed, at)).collect();
    let mut over = 0;
    for (at, state) in states.iter().enumerate() {
        match state.phase {
            Phase::Succeeded => over += 1,
            Phase::Failed if ignore => over += 1,
            Phase::Failed => return (states, Step::Complete),
            Phase::Recreating if ordered => break,
            Phase::Recreating | Phase::Completed => {}
            Phase::Pending => {
                let seen = observed.seen.iter().find(|seen| seen.name == state.name);
                let Some(seen) = seen else { break };
                let id = seen.id.clone();
                return (states, Step::Kill { at, id });
            }
        }
    }
    if over == states.len() {
        return (states, Step::Complete);
    }
    let wait = strategy.min_started_seconds.filter(|seconds| *seconds > 0);
    let wait = wait.map(|seconds| Duration::from_secs(u64::from(seconds.unsigned_abs()) + 1));
    (states, Step::Wait(wait))
}

/// The state of one container.
fn state(observed: &Observed<'_>, at: usize) -> Option<State> {
    let container = observed.spec.containers.get(at)?;
    let strategy = observed.spec.strategy.as_ref();
    let previous = observed.status.container_recreate_states.iter().flatten();
    let previous = previous.into_iter().find(|state| state.name == container.name);
    if let Some(done) = previous.filter(|state| matches!(state.phase, Phase::Failed | Phase::Succeeded)) {
        return Some(done.clone());
    }
    let is_killed = previous.and_then(|state| state.is_killed).filter(|killed| *killed);
    let new = |phase, message: Option<&str>| State {
        name: container.name.clone(),
        phase,
        message: message.map(str::to_owned),
        is_killed,
    };
    let Some(seen) = observed.seen.iter().find(|seen| seen.name == container.name) else {
        return Some(new(Phase::Pending, Some("not found container on Node")));
    };
    if seen.exited {
        let phase = if seen.stays_down { Phase::Succeeded } else { Phase::Recreating };
        return Some(State { is_killed: Some(true), ..new(phase, None) });
    }
    let force = strategy.and_then(|strategy| strategy.force_recreate) == Some(true);
    if force && is_killed.is_none() {
        return Some(new(Phase::Pending, None));
    }
    let before = container.status_context.as_ref();
    let replaced = before
        .is_some_and(|before| seen.id != before.container_id || seen.restart_count > before.restart_count);
    if !replaced {
        return Some(new(Phase::Pending, None));
    }
    let snapshot = observed.status.container_status_snapshot.iter().flatten();
    let ready = snapshot.into_iter().any(|snapshot| snapshot.container_id == seen.id && snapshot.ready)
        || observed.ready.contains(&seen.id);
    let least = strategy.and_then(|strategy| strategy.min_started_seconds).unwrap_or_default();
    let least = SignedDuration::from_secs(i64::from(least));
    let long_enough = seen.started.is_some_and(|started| observed.now.duration_since(started) > least);
    let phase = if ready && long_enough { Phase::Succeeded } else { Phase::Recreating };
    Some(State { is_killed: Some(true), ..new(phase, None) })
}

/// Whether the pod is taken out of service first.
pub(crate) fn drains(spec: &ContainerRecreateRequestSpec) -> bool {
    spec.strategy.as_ref().is_some_and(|strategy| strategy.unready_grace_period_seconds.is_some())
}

/// How long the drain before the first kill still takes; none if it is over or not asked for, and `Err` while nobody
/// has begun it.
pub(crate) fn drain(
    spec: &ContainerRecreateRequestSpec,
    status: &ContainerRecreateRequestStatus,
    now: Timestamp,
) -> Result<Option<Duration>, ()> {
    let seconds = spec.strategy.as_ref().and_then(|strategy| strategy.unready_grace_period_seconds);
    let Some(seconds) = seconds else { return Ok(None) };
    let mut conditions = status.conditions.iter().flatten();
    let begun = conditions
        .find(|condition| condition.type_ == keys::CONDITION_PRE_RECREATE_GRACE && condition.status == "True")
        .ok_or(())?;
    let end = begun
        .last_transition_time
        .0
        .checked_add(SignedDuration::from_secs(seconds.max(0)))
        .map_err(|_| ())?;
    let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
    Ok((!left.is_zero()).then(|| left + Duration::from_millis(100)))
}

/// The order in which requests for one pod are served: one that is under way first, then the oldest.
pub(crate) fn rank(phase: Option<Phase>) -> u8 {
    match phase {
        Some(Phase::Recreating) => 0,
        Some(Phase::Pending) => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests;
