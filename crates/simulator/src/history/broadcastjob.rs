//! What happens to a BroadcastJob.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::{Amount, amount};
use crate::run::{NAME, POOL};

/// One thing a user does to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Sets `parallelism`.
    Parallelism(Option<Amount>),
    /// Sets `paused`.
    Pause(bool),
    /// Changes the image in the template.
    Image(u8),
    /// Changes in the template how many seconds a pod works.
    Lasts(i64),
}

/// The job at the start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Start {
    /// `parallelism`.
    pub parallelism: Option<Amount>,
    /// `completionPolicy.type` is `Never`.
    pub never: bool,
    /// `completionPolicy.ttlSecondsAfterFinished`.
    pub ttl: Option<i64>,
    /// `completionPolicy.activeDeadlineSeconds`.
    pub deadline: Option<i64>,
    /// `failurePolicy.type`.
    pub failure: &'static str,
    /// `failurePolicy.restartLimit`.
    pub restart_limit: i64,
    /// `restartPolicy` of its pods.
    pub restart: &'static str,
    /// How long a pod works.
    pub seconds: i64,
    /// It starts paused.
    pub paused: bool,
}

impl Start {
    pub(super) fn of(random: &mut StdRng) -> Self {
        let never = random.random_bool(0.3);
        Self {
            parallelism: random.random_bool(0.6).then(|| amount(random, 0, 3)),
            never,
            ttl: (!never && random.random_bool(0.3)).then(|| random.random_range(0..40)),
            deadline: (!never && random.random_bool(0.2)).then(|| random.random_range(20..200)),
            failure: ["Continue", "Continue", "FailFast", "Pause"]
                .choose(random)
                .copied()
                .unwrap_or("Continue"),
            restart_limit: random.random_range(0..3),
            restart: if random.random_bool(0.5) { "OnFailure" } else { "Never" },
            seconds: random.random_range(1..40),
            paused: random.random_bool(0.1),
        }
    }

    /// The object to create.
    pub fn object(&self) -> Value {
        let mut completion = json!({"type": if self.never { "Never" } else { "Always" }});
        if let Some(fields) = completion.as_object_mut() {
            fields.extend(self.ttl.map(|ttl| ("ttlSecondsAfterFinished".to_owned(), ttl.into())));
            fields
                .extend(self.deadline.map(|deadline| ("activeDeadlineSeconds".to_owned(), deadline.into())));
        }
        json!({
            "apiVersion": "apps.kruise.io/v1beta1",
            "kind": "BroadcastJob",
            "metadata": {"name": NAME},
            "spec": {
                "parallelism": self.parallelism.map(Amount::value),
                "paused": self.paused,
                "completionPolicy": completion,
                "failurePolicy": {"type": self.failure, "restartLimit": self.restart_limit},
                "template": template(self.restart, self.seconds),
            },
        })
    }
}

/// A pod that works for a while, on nodes that have joined.
pub(super) fn template(restart: &str, seconds: i64) -> Value {
    json!({
        "metadata": {
            "labels": {"app": NAME},
            "annotations": {"sandbox.kruise.io/main.exit-after": format!("{seconds}s")},
        },
        "spec": {
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 2,
            "nodeSelector": {POOL: "yes"},
            "containers": [{"name": "main", "image": "sim/app:0"}],
        },
    })
}

pub(super) fn step(random: &mut StdRng) -> super::Step {
    let (pod, node) = (random.random_range(0..8), random.random_range(0..3));
    let step = match random.random_range(0..100) {
        0..16 => Step::Parallelism(random.random_bool(0.8).then(|| amount(random, 0, 3))),
        16..28 => Step::Pause(random.random_bool(0.5)),
        28..34 => Step::Image(random.random_range(0..3)),
        34..38 => Step::Lasts(random.random_range(1..40)),
        38..48 => return super::Step::DeletePod(pod, random.random_bool(0.3)),
        48..60 => return super::Step::Crash(pod),
        60..74 => return super::Step::Cordon(node, random.random_bool(0.6)),
        74..88 => return super::Step::Join(node, random.random_bool(0.5)),
        88..97 => return super::Step::CrashManager,
        _ => return super::Step::Compact,
    };
    super::Step::BroadcastJob(step)
}
