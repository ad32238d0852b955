//! What one round knows: read from the stores, defaults filled in.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kruise_api::advancedcronjob::AdvancedCronJob;
use kruise_api::keys;
use kruise_common::key::{ObjectKey, Uid};

use crate::child::{Child, Kind};
use crate::schedule::{Schedule, ScheduleError, ZoneError, find_zone};

/// What happens when a run is due while an earlier one is not finished.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Policy {
    /// It starts as well.
    Allow,
    /// It waits.
    Forbid,
    /// The earlier one is deleted.
    Replace,
}

/// A run that somebody asked for by an annotation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// The user's annotation is there: it is to be turned into the next form.
    Asked,
    /// Due since then.
    Due(Timestamp),
}

/// An AdvancedCronJob and its children at one moment.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// What it creates.
    pub kind: Kind,
    /// The schedule, or what is wrong with it.
    pub schedule: Result<Schedule, ScheduleError>,
    /// The zone it is in unless it names one itself.
    pub zone: TimeZone,
    /// What is wrong with `spec.timeZone`; the manager's zone is used then.
    pub zone_fault: Option<ZoneError>,
    /// The manager's own zone.
    pub local: TimeZone,
    /// How late a run may start.
    pub deadline: Option<SignedDuration>,
    /// What becomes of an earlier run.
    pub policy: Policy,
    /// No run by schedule.
    pub paused: bool,
    /// How many successful children are kept; `None` for all.
    pub keep_succeeded: Option<usize>,
    /// How many failed children are kept; `None` for all.
    pub keep_failed: Option<usize>,
    /// A run by hand.
    pub request: Option<Request>,
    /// When the object was created.
    pub created: Timestamp,
    /// `status.lastScheduleTime`.
    pub last: Option<Timestamp>,
    /// The UIDs in `status.active`.
    pub listed: Vec<String>,
    /// Its children, ordered by name.
    pub children: Vec<Child>,
    /// Now.
    pub now: Timestamp,
}

impl Observed {
    /// Puts together what is known. `children` are those it controls, by UID.
    pub fn of(job: &AdvancedCronJob, mut children: Vec<Child>, local: &TimeZone, now: Timestamp) -> Self {
        let (meta, spec, status) = (&job.metadata, &job.spec, job.status.as_ref());
        let kind = Kind::of(&spec.template);
        let found = spec.time_zone.as_deref().map(find_zone);
        let (zone, zone_fault) = match found {
            None => (local.clone(), None),
            Some(Ok(zone)) => (zone, None),
            Some(Err(fault)) => (local.clone(), Some(fault)),
        };
        let limit = |limit: Option<i32>| limit.map(|limit| usize::try_from(limit).unwrap_or(0));
        children.sort_by(|a, b| a.key.cmp(&b.key));
        Self {
            key: ObjectKey::new(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            ),
            uid: Uid::from(meta.uid.as_deref().unwrap_or_default()),
            kind,
            schedule: Schedule::parse(&spec.schedule),
            zone,
            zone_fault,
            local: local.clone(),
            deadline: spec.starting_deadline_seconds.map(SignedDuration::from_secs),
            policy: match spec.concurrency_policy.as_deref() {
                Some("Forbid") => Policy::Forbid,
                Some("Replace") => Policy::Replace,
                None | Some("") if kind == Kind::ImageListPullJob => Policy::Replace,
                _ => Policy::Allow,
            },
            paused: spec.paused == Some(true),
            keep_succeeded: limit(spec.successful_jobs_history_limit),
            keep_failed: limit(spec.failed_jobs_history_limit),
            request: request(job),
            created: meta.creation_timestamp.as_ref().map_or(now, |time| time.0),
            last: status.and_then(|status| status.last_schedule_time.as_ref()).map(|time| time.0),
            listed: status
                .and_then(|status| status.active.as_ref())
                .into_iter()
                .flatten()
                .filter_map(|listed| listed.uid.clone())
                .collect(),
            children,
            now,
        }
    }

    /// The time of the latest run by schedule: what the status remembers and what the children tell.
    pub fn memory(&self) -> Option<Timestamp> {
        self.children.iter().filter_map(|child| child.scheduled).chain(self.last).max()
    }
}

fn request(job: &AdvancedCronJob) -> Option<Request> {
    let annotations = job.metadata.annotations.as_ref()?;
    let due = annotations.get(keys::RUN_DUE).and_then(|text| text.parse().ok());
    if let Some(due) = due.and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        return Some(Request::Due(due));
    }
    annotations.get(keys::RUN_NOW).filter(|value| !value.is_empty()).map(|_| Request::Asked)
}
