//! What an AdvancedCronJob promises.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use kruise_sandbox::server::{Change, EventKind};
use serde_json::Value;

use super::{Judge, Lately, WINDOW, condition, owner, terminating, text};
use crate::run::NAME;

/// How a child is doing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Active,
    Succeeded,
    Failed,
}

/// A child as the checks need it.
#[derive(Clone, Debug, Default)]
struct Child {
    owner: String,
    state: State,
    terminating: bool,
    scheduled: Option<Timestamp>,
    /// It is deleted once its time has come, by its own controller.
    mortal: bool,
}

impl Child {
    fn of(object: &Value) -> Self {
        let is = |type_: &str| condition(object, type_) == Some("True");
        Self {
            owner: owner(object).to_owned(),
            state: match () {
                () if is("Complete") => State::Succeeded,
                () if is("Failed") => State::Failed,
                () => State::Active,
            },
            terminating: terminating(object),
            scheduled: text(object, "/metadata/annotations/apps.kruise.io~1scheduled-at").parse().ok(),
            mortal: ["/spec/ttlSecondsAfterFinished", "/spec/completionPolicy/ttlSecondsAfterFinished"]
                .iter()
                .any(|path| object.pointer(path).is_some_and(Value::is_number)),
        }
    }
}

/// What a spec and a status promise.
#[derive(Clone, Debug)]
struct Promise {
    policy: String,
    paused: bool,
    keep_succeeded: Option<i64>,
    keep_failed: Option<i64>,
    deadline: Option<i64>,
    /// A run by hand is due.
    due: bool,
    last: Option<Timestamp>,
    deleted: bool,
}

impl Promise {
    fn of(job: &Value, gone: bool) -> Self {
        let number = |field: &str| job.pointer(&format!("/spec/{field}")).and_then(Value::as_i64);
        Self {
            policy: text(job, "/spec/concurrencyPolicy").to_owned(),
            paused: job.pointer("/spec/paused").and_then(Value::as_bool).unwrap_or_default(),
            keep_succeeded: number("successfulJobsHistoryLimit"),
            keep_failed: number("failedJobsHistoryLimit"),
            deadline: number("startingDeadlineSeconds"),
            due: job.pointer("/metadata/annotations/apps.kruise.io~1run-due").is_some(),
            last: text(job, "/status/lastScheduleTime").parse().ok(),
            deleted: gone || terminating(job),
        }
    }
}

/// The AdvancedCronJob and its children of both kinds.
pub(super) struct CronJobs {
    uid: String,
    children: BTreeMap<(String, String), Child>,
    promises: Lately<Promise>,
    /// Every tick that was run.
    ran: BTreeSet<Timestamp>,
    /// When those were created.
    created: Vec<Timestamp>,
}

const CRON_JOBS: &str = "advancedcronjobs.apps.kruise.io";

impl Judge for CronJobs {
    fn tables(&self) -> &'static [&'static str] {
        &[CRON_JOBS, "jobs.batch", "broadcastjobs.apps.kruise.io"]
    }

    fn changed(&mut self, table: &str, change: &Change, by_manager: bool) -> Result<(), String> {
        self.promises.forget();
        if table == CRON_JOBS {
            self.job_changed(change)
        } else {
            self.child_changed(table, change, by_manager)
        }
    }

    fn runs(&self) -> Vec<Timestamp> {
        self.created.clone()
    }
}

impl CronJobs {
    pub(super) const fn new() -> Self {
        Self {
            uid: String::new(),
            children: BTreeMap::new(),
            promises: Lately::new(),
            ran: BTreeSet::new(),
            created: Vec::new(),
        }
    }

    fn job_changed(&mut self, change: &Change) -> Result<(), String> {
        let job = change.object();
        if text(job, "/metadata/name") != NAME {
            return Ok(());
        }
        text(job, "/metadata/uid").clone_into(&mut self.uid);
        let now = Promise::of(job, change.kind() == EventKind::Deleted);
        let before = self.promises.last().and_then(|promise| promise.last);
        let (forgotten, last) = (before > now.last, now.last);
        self.promises.push(now);
        if forgotten {
            return Err(format!("lastScheduleTime went from {before:?} to {last:?}"));
        }
        Ok(())
    }

    fn child_changed(&mut self, table: &str, change: &Change, by_manager: bool) -> Result<(), String> {
        let object = change.object();
        let name = text(object, "/metadata/name").to_owned();
        let key = (table.to_owned(), name.clone());
        let (before, after) = (self.children.get(&key).cloned(), Child::of(object));
        let gone = change.kind() == EventKind::Deleted;
        if gone {
            self.children.remove(&key);
        } else {
            self.children.insert(key.clone(), after.clone());
        }
        match before {
            _ if !by_manager => Ok(()),
            None => {
                let created = text(object, "/metadata/creationTimestamp").parse().ok();
                self.check_created(&key, &after, created)
            }
            Some(before) if (gone || after.terminating) && !before.terminating => {
                self.check_deleted(&name, &before)
            }
            Some(_) => Ok(()),
        }
    }

    fn others(&self, key: &(String, String)) -> usize {
        let own = self.children.iter().filter(|(other, child)| *other != key && child.owner == self.uid);
        own.filter(|(_, child)| child.state == State::Active && !child.terminating).count()
    }

    fn check_created(
        &mut self,
        key: &(String, String),
        child: &Child,
        created: Option<Timestamp>,
    ) -> Result<(), String> {
        let name = &key.1;
        if child.owner != self.uid {
            return Err(format!("{name} was created for somebody else"));
        }
        if self.promises.always(|promise| promise.deleted) {
            return Err(format!("{name} was created for an AdvancedCronJob that is gone"));
        }
        let active = self.others(key);
        for policy in ["Forbid", "Replace"] {
            if active > 0 && self.promises.always(|promise| promise.policy == policy) {
                return Err(format!(
                    "{name} was created beside {active} active ones, and the policy is {policy}"
                ));
            }
        }
        if child.scheduled.is_some() {
            self.created.extend(created);
        }
        let Some(tick) = child.scheduled else {
            let due = self.promises.last().is_some_and(|promise| promise.due);
            return if due { Ok(()) } else { Err(format!("nobody has asked for {name}")) };
        };
        if self.promises.always(|promise| promise.paused) {
            return Err(format!("{name} was created although the AdvancedCronJob is paused"));
        }
        // Until it is published that a tick has run, its child is all that tells of it (docs/advanced-cronjob.md).
        let published = self.promises.last().and_then(|promise| promise.last);
        if !self.ran.insert(tick) && published >= Some(tick) {
            return Err(format!("{name}: the run of {tick} was repeated"));
        }
        let late = created.map(|created| created.duration_since(tick)).unwrap_or_default();
        if late.is_negative() {
            return Err(format!("{name} was created {late} before its time"));
        }
        let window = SignedDuration::try_from(WINDOW).unwrap_or_default();
        let allowed = |promise: &Promise| promise.deadline.map(SignedDuration::from_secs);
        if self.promises.always(|promise| allowed(promise).is_some_and(|allowed| late > allowed + window)) {
            return Err(format!("{name} was created {late} after its time"));
        }
        Ok(())
    }

    fn check_deleted(&self, name: &str, child: &Child) -> Result<(), String> {
        if child.owner != self.uid {
            return Err(format!("{name}, which does not belong to the AdvancedCronJob, was deleted"));
        }
        let keep = |promise: &Promise| match child.state {
            State::Active => None,
            State::Succeeded => promise.keep_succeeded,
            State::Failed => promise.keep_failed,
        };
        if child.state == State::Active {
            let replaces = self.promises.all().any(|promise| promise.policy == "Replace");
            return if replaces { Ok(()) } else { Err(format!("{name} was deleted while it was active")) };
        }
        if child.mortal {
            return Ok(());
        }
        let like =
            |other: &&Child| other.owner == self.uid && other.state == child.state && !other.terminating;
        let left = self.children.values().filter(like).count() as i64;
        let least = self.promises.all().map(|promise| keep(promise).unwrap_or(i64::MAX)).min();
        if least.is_some_and(|least| left < least) {
            return Err(format!("{name} was deleted: {left} of its kind are left of {least:?} to keep"));
        }
        Ok(())
    }
}
