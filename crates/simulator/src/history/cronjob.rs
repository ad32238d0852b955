//! What happens to an AdvancedCronJob.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::broadcastjob::template;
use crate::run::NAME;

/// What it creates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Child {
    /// A Job.
    Job,
    /// A BroadcastJob.
    BroadcastJob,
}

/// One thing a user does to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Sets `schedule`.
    Schedule(&'static str),
    /// Sets `concurrencyPolicy`.
    Policy(&'static str),
    /// Sets `paused`.
    Pause(bool),
    /// Sets both history limits.
    Limits(i64, i64),
    /// Sets `startingDeadlineSeconds`.
    Deadline(Option<i64>),
    /// Asks for a run by hand.
    RunNow,
    /// Deletes one of the children.
    DeleteChild(usize),
}

/// The object at the start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Start {
    /// What it creates.
    pub child: Child,
    /// `schedule`.
    pub schedule: &'static str,
    /// `concurrencyPolicy`.
    pub policy: &'static str,
    /// `startingDeadlineSeconds`.
    pub deadline: Option<i64>,
    /// Both history limits.
    pub limits: (i64, i64),
    /// How long a pod works.
    pub seconds: i64,
    /// `ttlSecondsAfterFinished` of the children.
    pub ttl: Option<i64>,
}

impl Start {
    pub(super) fn of(random: &mut StdRng) -> Self {
        Self {
            child: if random.random_bool(0.5) { Child::Job } else { Child::BroadcastJob },
            schedule: schedule(random),
            policy: policy(random),
            deadline: deadline(random),
            limits: (random.random_range(0..4), random.random_range(0..3)),
            seconds: random.random_range(1..150),
            ttl: random.random_bool(0.3).then(|| random.random_range(0..30)),
        }
    }

    /// The object to create.
    pub fn object(&self) -> Value {
        let template = template("Never", self.seconds);
        let template = match self.child {
            Child::Job => json!({"jobTemplate": {"spec": {
                "backoffLimit": 0, "ttlSecondsAfterFinished": self.ttl, "template": template,
            }}}),
            Child::BroadcastJob => json!({"broadcastJobTemplate": {"spec": {
                "completionPolicy": {"type": "Always", "ttlSecondsAfterFinished": self.ttl},
                "template": template,
            }}}),
        };
        json!({
            "apiVersion": "apps.kruise.io/v1beta1",
            "kind": "AdvancedCronJob",
            "metadata": {"name": NAME},
            "spec": {
                "schedule": self.schedule,
                "timeZone": "Etc/UTC",
                "concurrencyPolicy": self.policy,
                "startingDeadlineSeconds": self.deadline,
                "successfulJobsHistoryLimit": self.limits.0,
                "failedJobsHistoryLimit": self.limits.1,
                "template": template,
            },
        })
    }
}

fn schedule(random: &mut StdRng) -> &'static str {
    ["* * * * *", "*/2 * * * *", "*/5 * * * *", "@every 90s"].choose(random).copied().unwrap_or("* * * * *")
}

fn policy(random: &mut StdRng) -> &'static str {
    ["Allow", "Forbid", "Replace"].choose(random).copied().unwrap_or("Allow")
}

fn deadline(random: &mut StdRng) -> Option<i64> {
    random.random_bool(0.3).then(|| random.random_range(5..120))
}

pub(super) fn step(random: &mut StdRng) -> super::Step {
    let one = random.random_range(0..8);
    let step = match random.random_range(0..100) {
        0..8 => Step::Schedule(schedule(random)),
        8..18 => Step::Policy(policy(random)),
        18..30 => Step::Pause(random.random_bool(0.4)),
        30..38 => Step::Limits(random.random_range(0..4), random.random_range(0..3)),
        38..43 => Step::Deadline(deadline(random)),
        43..56 => Step::RunNow,
        56..70 => Step::DeleteChild(one),
        70..80 => return super::Step::Crash(one),
        80..84 => return super::Step::DeletePod(one, random.random_bool(0.3)),
        84..97 => return super::Step::CrashManager,
        _ => return super::Step::Compact,
    };
    super::Step::CronJob(step)
}
