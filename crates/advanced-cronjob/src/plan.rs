//! What is to be done in one round.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kruise_common::patch::rfc3339_seconds;

use crate::child::{Child, Run, State};
use crate::observe::{Observed, Policy, Request};

/// A tick further ahead than this is not slept for in one go: the clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_mins(5);
/// More missed ticks than this are worth a word.
const MANY: usize = 100;

/// What to do, what to tell, and when to look again.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Children that make room for the new one, to be deleted before it is created.
    pub replaced: Vec<Child>,
    /// The child to create.
    pub run: Option<Run>,
    /// Finished children that are over the limits, to be deleted once the status remembers their runs.
    pub trimmed: Vec<Child>,
    /// What users are told, each time it becomes true.
    pub notes: Vec<Note>,
    /// When to look again if nothing changes before.
    pub wake_in: Option<Duration>,
}

/// Something users are told by an event.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Note {
    /// A child has finished.
    Completed {
        /// Its name.
        name: String,
        /// How.
        state: State,
    },
    /// A run waits for an earlier one.
    AlreadyActive(Run),
    /// A run is left out: it could not start in time.
    TooLate(Timestamp),
    /// Many ticks have passed without a run, and only the latest is made up for.
    ManyMissed,
    /// The schedule cannot be read.
    Unparseable(String),
    /// `spec.timeZone` names no zone.
    UnknownZone(String),
    /// The schedule has no tick for years.
    Never,
    /// The kind of the children is not served.
    NotServed(&'static str),
    /// A child could not be created.
    FailedCreate(String),
    /// A child could not be deleted.
    FailedDelete(String),
}

impl Note {
    /// True if somebody should do something about it.
    pub const fn is_warning(&self) -> bool {
        !matches!(self, Self::Completed { .. } | Self::AlreadyActive(_))
    }

    /// The event's reason: that of a CronJob where it has one.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Completed { .. } => "SawCompletedJob",
            Self::AlreadyActive(_) => "JobAlreadyActive",
            Self::TooLate(_) => "MissSchedule",
            Self::ManyMissed => "TooManyMissedTimes",
            Self::Unparseable(_) => "UnparseableSchedule",
            Self::UnknownZone(_) => "UnknownTimeZone",
            Self::Never => "ScheduleNeverMatches",
            Self::NotServed(_) | Self::FailedCreate(_) => "FailedCreate",
            Self::FailedDelete(_) => "FailedDelete",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed { name, state } => {
                let state = if *state == State::Succeeded { "Complete" } else { "Failed" };
                write!(f, "Saw completed job: {name}, condition: {state}")
            }
            Self::AlreadyActive(Run::Tick(at)) => write!(
                f,
                "The run of {} waits: an earlier one is active and concurrencyPolicy is Forbid",
                rfc3339_seconds(*at)
            ),
            Self::AlreadyActive(Run::Request(_)) => {
                write!(f, "The run asked for waits: an earlier one is active and concurrencyPolicy is Forbid")
            }
            Self::TooLate(at) => write!(
                f,
                "Missed scheduled time to start a job: {}, startingDeadlineSeconds have passed",
                rfc3339_seconds(*at)
            ),
            Self::ManyMissed => {
                write!(f, "More than {MANY} scheduled times were missed; only the latest is run")
            }
            Self::Unparseable(error) => write!(f, "Nothing is run: {error}"),
            Self::UnknownZone(error) => write!(f, "{error}: the manager's time zone is used"),
            Self::Never => write!(f, "The schedule matches no time within the next five years"),
            Self::NotServed(kind) => write!(f, "Nothing is run: the cluster does not serve {kind}"),
            Self::FailedCreate(error) => write!(f, "Error creating job: {error}"),
            Self::FailedDelete(error) => write!(f, "Error deleting job: {error}"),
        }
    }
}

/// What to do about an AdvancedCronJob now.
pub fn plan(seen: &Observed) -> Plan {
    let mut plan = Plan { trimmed: over_the_limits(seen), notes: finished(seen), ..Plan::default() };
    if let Some(fault) = &seen.zone_fault {
        plan.notes.push(Note::UnknownZone(fault.to_string()));
    }
    if let Some(Request::Due(at)) = seen.request {
        start(seen, Run::Request(at), &mut plan);
    }
    if seen.paused {
        return plan;
    }
    match &seen.schedule {
        Ok(schedule) => {
            let memory = seen.memory().unwrap_or(seen.created);
            let ticks = schedule.ticks(&seen.zone, &seen.local, memory);
            let next = ticks.after(seen.now);
            let missed = ticks.latest(memory, seen.now);
            plan.wake_in = Some(next.map_or(LONGEST_SLEEP, |next| until(seen.now, next)));
            if next.is_none() && missed.is_none() {
                plan.notes.push(Note::Never);
            }
            let earliest = seen.deadline.and_then(|deadline| seen.now.checked_sub(deadline).ok());
            match missed {
                None => {}
                Some(tick) if earliest.is_some_and(|earliest| tick <= earliest) => {
                    plan.notes.push(Note::TooLate(tick));
                }
                // One at a time: the run asked for, or the end of its request, wakes the round that sees to the tick.
                Some(_) if plan.run.is_some() => {}
                Some(tick) => {
                    let from = earliest.map_or(memory, |earliest| memory.max(earliest));
                    let many = ticks.more_than(MANY, from, seen.now);
                    if start(seen, Run::Tick(tick), &mut plan) && many {
                        plan.notes.push(Note::ManyMissed);
                    }
                }
            }
        }
        Err(error) => plan.notes.push(Note::Unparseable(error.to_string())),
    }
    plan
}

/// Starts a run unless an earlier one is in its way; false if it has to wait. A run that has its child already, because
/// nobody came to write that down, is in nobody's way and least of all in its own.
fn start(seen: &Observed, run: Run, plan: &mut Plan) -> bool {
    let own = run.name(&seen.key.name, seen.kind.longest_name());
    if seen.children.iter().any(|child| *child.key.name == *own) {
        plan.run = Some(run);
        return true;
    }
    let active = || seen.children.iter().filter(|child| child.state == State::Active);
    match seen.policy {
        Policy::Forbid if active().next().is_some() => {
            plan.notes.push(Note::AlreadyActive(run));
            return false;
        }
        Policy::Replace => plan.replaced = active().filter(|child| !child.terminating).cloned().collect(),
        Policy::Allow | Policy::Forbid => {}
    }
    plan.run = Some(run);
    true
}

/// How long to sleep for an instant; never nothing, so that a timer that fires early does not spin.
fn until(now: Timestamp, next: Timestamp) -> Duration {
    let left = next.duration_since(now).max(SignedDuration::from_millis(1));
    Duration::try_from(left).unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
}

/// The children that were active when the status was written and are not any more.
fn finished(seen: &Observed) -> Vec<Note> {
    let listed = |child: &&Child| seen.listed.iter().any(|uid| **uid == *child.uid.0);
    let done = seen.children.iter().filter(|child| child.state != State::Active).filter(listed);
    done.map(|child| Note::Completed { name: child.key.name.to_string(), state: child.state }).collect()
}

/// The oldest finished children beyond each limit. Those that are going already are not counted.
fn over_the_limits(seen: &Observed) -> Vec<Child> {
    let mut trimmed = Vec::new();
    for (state, keep) in [(State::Succeeded, seen.keep_succeeded), (State::Failed, seen.keep_failed)] {
        let Some(keep) = keep else { continue };
        let of_state = |child: &&Child| child.state == state && !child.terminating;
        let mut done: Vec<&Child> = seen.children.iter().filter(of_state).collect();
        done.sort_by_key(|child| (child.started, child.scheduled, child.key.name.clone()));
        let over = done.len().saturating_sub(keep);
        trimmed.extend(done.into_iter().take(over).cloned());
    }
    trimmed
}

#[cfg(test)]
mod tests;
