//! What happens in a history, and how one is made from a seed.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// A number of pods, or a share of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Amount {
    /// So many.
    Count(i64),
    /// So many of a hundred.
    Percent(i64),
}

impl Amount {
    /// As it stands in a spec.
    pub fn value(self) -> Value {
        match self {
            Self::Count(count) => json!(count),
            Self::Percent(percent) => json!(format!("{percent}%")),
        }
    }
}

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

/// One thing a user, a node or fate does.
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
    /// Deletes one of the set's pods; `true` without grace.
    DeletePod(usize, bool),
    /// Marks one of the set's pods for deletion.
    SpecifiedDelete(usize),
    /// Scales in by one and names the pod.
    PodsToDelete(usize),
    /// Takes one of the set's pods out of its selector.
    Relabel(usize),
    /// The container of a pod exits and is restarted.
    Crash(usize),
    /// A container is not ready until further notice.
    Unready(usize),
    /// All containers may be ready again.
    Heal,
    /// A node stops answering.
    LoseNode(usize),
    /// Nodes answer again.
    RecoverNodes,
    /// The manager dies and another starts after a while.
    CrashManager,
    /// The API server forgets its history: watches must list again.
    Compact,
}

/// What goes wrong with a request of the manager.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// 409.
    Conflict,
    /// 429 with `Retry-After`.
    TooManyRequests,
    /// 500.
    Internal,
    /// The connection breaks before the server has seen the request.
    LoseRequest,
    /// The connection breaks after the request was carried out.
    LoseResponse,
    /// It takes long.
    Delay,
    /// The manager dies before it.
    DieBefore,
    /// The manager dies after it was carried out.
    DieAfter,
}

/// What goes wrong with an event of a watch of the manager.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EventFault {
    /// It is late, and so is all behind it.
    Delay,
    /// It comes twice.
    Twice,
    /// The connection breaks instead.
    End,
    /// The watch has to list again instead.
    Expire,
}

/// The longest that a [`Fault::Delay`] or [`EventFault::Delay`] lasts.
pub const LONGEST_DELAY: Duration = Duration::from_secs(4);

/// A whole history.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// What it was made from; also seeds the world.
    pub seed: u64,
    /// Pods at the start.
    pub replicas: i64,
    /// `podUpdatePolicy`.
    pub policy: &'static str,
    /// `maxUnavailable`.
    pub max_unavailable: Amount,
    /// `maxSurge`.
    pub max_surge: Amount,
    /// Steps, each with the time that passes before it.
    pub steps: Vec<(Duration, Step)>,
    /// Requests of the manager that meet a fault, by their number from 0.
    pub faults: Vec<(u64, Fault)>,
    /// Watch events of the manager that meet a fault, by their number from 0.
    pub event_faults: Vec<(u64, EventFault)>,
    /// Nodes show signs of life, so that they can be missed; costs time, so it is not always so.
    pub heartbeats: bool,
}

impl History {
    /// The history of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let policy = if random.random_bool(0.3) { "ReCreate" } else { "InPlaceIfPossible" };
        let surge = random.random_bool(0.3);
        let heartbeats = random.random_bool(0.1);
        let mut steps: Vec<_> =
            (0..random.random_range(2..12)).map(|_| (pause(&mut random), step(&mut random))).collect();
        if heartbeats {
            // Long enough to be missed, not always long enough for the pods to be given up.
            let away = Duration::from_secs(random.random_range(20..500));
            let at = random.random_range(0..steps.len());
            steps.insert(at, (pause(&mut random), Step::LoseNode(random.random_range(0..3))));
            steps.insert(at + 1, (away, Step::RecoverNodes));
        }
        let faulty = random.random_bool(0.8);
        let count = if faulty { random.random_range(1..8) } else { 0 };
        let faults = (0..count).map(|_| (random.random_range(5..400), fault(&mut random))).collect();
        let count = if faulty { random.random_range(0..6) } else { 0 };
        let event_faults =
            (0..count).map(|_| (random.random_range(0..400), event_fault(&mut random))).collect();
        Self {
            seed,
            replicas: random.random_range(0..7),
            policy,
            max_unavailable: amount(&mut random, 1, 3),
            max_surge: if surge { amount(&mut random, 1, 3) } else { Amount::Count(0) },
            steps,
            faults,
            event_faults,
            heartbeats,
        }
    }

    /// The CloneSet at the start.
    pub fn clone_set(&self) -> Value {
        json!({
            "apiVersion": "apps.kruise.io/v1beta1",
            "kind": "CloneSet",
            "metadata": {"name": crate::run::SET},
            "spec": {
                "replicas": self.replicas,
                "revisionHistoryLimit": 2,
                "selector": {"matchLabels": {"app": crate::run::SET}},
                "template": {
                    "metadata": {"labels": {"app": crate::run::SET}},
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

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} pods, {}, maxUnavailable {:?}, maxSurge {:?}",
            self.seed, self.replicas, self.policy, self.max_unavailable, self.max_surge
        )?;
        if self.heartbeats {
            writeln!(f, "  nodes can be lost")?;
        }
        for (wait, step) in &self.steps {
            writeln!(f, "  after {wait:?}: {step:?}")?;
        }
        for (number, fault) in &self.faults {
            writeln!(f, "  request {number}: {fault:?}")?;
        }
        for (number, fault) in &self.event_faults {
            writeln!(f, "  event {number}: {fault:?}")?;
        }
        Ok(())
    }
}

fn pause(random: &mut StdRng) -> Duration {
    let millis = match random.random_range(0..4) {
        0 => random.random_range(0..50),
        1 => random.random_range(50..2_000),
        2 => random.random_range(2_000..10_000),
        _ => random.random_range(10_000..60_000),
    };
    Duration::from_millis(millis)
}

fn amount(random: &mut StdRng, least: i64, most: i64) -> Amount {
    if random.random_bool(0.6) {
        Amount::Count(random.random_range(least..=most))
    } else {
        Amount::Percent([10, 20, 34, 50, 100].choose(random).copied().unwrap_or(50))
    }
}

fn step(random: &mut StdRng) -> Step {
    let pod = random.random_range(0..8);
    match random.random_range(0..100) {
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
        55..58 => Step::MinReady([0, 0, 3, 10].choose(random).copied().unwrap_or(0)),
        58..66 => Step::DeletePod(pod, random.random_bool(0.3)),
        66..72 => Step::SpecifiedDelete(pod),
        72..76 => Step::PodsToDelete(pod),
        76..80 => Step::Relabel(pod),
        80..85 => Step::Crash(pod),
        85..88 => Step::Unready(pod),
        88..90 => Step::Heal,
        90..97 => Step::CrashManager,
        _ => Step::Compact,
    }
}

fn fault(random: &mut StdRng) -> Fault {
    match random.random_range(0..8) {
        0 => Fault::Conflict,
        1 => Fault::TooManyRequests,
        2 => Fault::Internal,
        3 => Fault::LoseRequest,
        4 => Fault::LoseResponse,
        5 => Fault::Delay,
        6 => Fault::DieBefore,
        _ => Fault::DieAfter,
    }
}

fn event_fault(random: &mut StdRng) -> EventFault {
    match random.random_range(0..4) {
        0 => EventFault::Delay,
        1 => EventFault::Twice,
        2 => EventFault::End,
        _ => EventFault::Expire,
    }
}
