//! What happens to a CloneSet.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::{Amount, amount};
use crate::run::NAME;

/// Which part of the template an edit changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Edit {
    /// The image: possible in place.
    Image(u8),
    /// An environment variable: pods must be recreated.
    Env(u8),
    /// An annotation: possible in place without a restart.
    Annotation(u8),
}

/// One thing a user or fate does to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Sets `replicas`.
    Scale(i64),
    /// Changes the template.
    Template(Edit),
    /// Sets `updateStrategy.rollingUpdate.partition`.
    Partition(Amount),
    /// Sets `updateStrategy.rollingUpdate.maxUnavailable`.
    MaxUnavailable(Amount),
    /// Sets `updateStrategy.rollingUpdate.maxSurge`.
    MaxSurge(Amount),
    /// Sets `updateStrategy.rollingUpdate.paused`.
    Pause(bool),
    /// Sets `minReadySeconds`.
    MinReady(i64),
    /// Marks one of the set's pods for deletion.
    SpecifiedDelete(usize),
    /// Scales in by one and names the pod.
    PodsToDelete(usize),
    /// Takes one of the set's pods out of its selector.
    Relabel(usize),
    /// A container is not ready until further notice.
    Unready(usize),
    /// All containers may be ready again.
    Heal,
}

/// The set at the start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Start {
    /// `replicas`.
    pub replicas: i64,
    /// `minReadySeconds`.
    pub min_ready: i64,
    /// `podUpdatePolicy`.
    pub policy: &'static str,
    /// `maxUnavailable`.
    pub max_unavailable: Amount,
    /// `maxSurge`.
    pub max_surge: Amount,
}

impl Start {
    pub(super) fn of(random: &mut StdRng) -> Self {
        let surge = random.random_bool(0.3);
        Self {
            replicas: random.random_range(0..7),
            min_ready: min_ready(random),
            policy: if random.random_bool(0.3) { "ReCreate" } else { "InPlaceIfPossible" },
            max_unavailable: amount(random, 1, 3),
            max_surge: if surge { amount(random, 1, 3) } else { Amount::Count(0) },
        }
    }

    /// The object to create.
    pub fn object(&self) -> Value {
        json!({
            "apiVersion": "apps.kruise.io/v1beta1",
            "kind": "CloneSet",
            "metadata": {"name": NAME},
            "spec": {
                "replicas": self.replicas,
                "minReadySeconds": self.min_ready,
                "revisionHistoryLimit": 2,
                "selector": {"matchLabels": {"app": NAME}},
                "template": {
                    "metadata": {"labels": {"app": NAME}},
                    "spec": {"terminationGracePeriodSeconds": 2, "containers": [
                        {"name": "main", "image": "sim/app:0", "env": [{"name": "V", "value": "0"}]},
                    ]},
                },
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {
                    "podUpdatePolicy": self.policy,
                    "partition": 0,
                    "maxUnavailable": self.max_unavailable.value(),
                    "maxSurge": self.max_surge.value(),
                }},
            },
        })
    }
}

fn min_ready(random: &mut StdRng) -> i64 {
    [0, 0, 0, 3, 10].choose(random).copied().unwrap_or(0)
}

pub(super) fn step(random: &mut StdRng) -> super::Step {
    let pod = random.random_range(0..8);
    let step = match random.random_range(0..100) {
        0..18 => Step::Template(match random.random_range(0..10) {
            0..7 => Edit::Image(random.random_range(0..4)),
            7..9 => Edit::Env(random.random_range(0..3)),
            _ => Edit::Annotation(random.random_range(0..3)),
        }),
        18..32 => Step::Scale(random.random_range(0..8)),
        32..42 => Step::Partition(amount(random, 0, 6)),
        42..46 => Step::MaxUnavailable(amount(random, 1, 4)),
        46..50 => Step::MaxSurge(amount(random, 0, 3)),
        50..55 => Step::Pause(random.random_bool(0.5)),
        55..58 => Step::MinReady(min_ready(random)),
        58..66 => return super::Step::DeletePod(pod, random.random_bool(0.3)),
        66..72 => Step::SpecifiedDelete(pod),
        72..76 => Step::PodsToDelete(pod),
        76..80 => Step::Relabel(pod),
        80..85 => return super::Step::Crash(pod),
        85..88 => Step::Unready(pod),
        88..90 => Step::Heal,
        90..97 => return super::Step::CrashManager,
        _ => return super::Step::Compact,
    };
    super::Step::CloneSet(step)
}
