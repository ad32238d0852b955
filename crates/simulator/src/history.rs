//! What happens in a history, and how one is made from a seed.

pub mod broadcastjob;
pub mod cloneset;
pub mod cronjob;

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

/// What a history is about, as it is at the start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subject {
    /// A CloneSet.
    CloneSet(cloneset::Start),
    /// A BroadcastJob.
    BroadcastJob(broadcastjob::Start),
    /// An AdvancedCronJob.
    CronJob(cronjob::Start),
}

impl Subject {
    /// The object to create.
    pub fn object(&self) -> Value {
        match self {
            Self::CloneSet(start) => start.object(),
            Self::BroadcastJob(start) => start.object(),
            Self::CronJob(start) => start.object(),
        }
    }
}

/// One thing a user, a node or fate does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// To a CloneSet.
    CloneSet(cloneset::Step),
    /// To a BroadcastJob.
    BroadcastJob(broadcastjob::Step),
    /// To an AdvancedCronJob.
    CronJob(cronjob::Step),
    /// Deletes one of the pods; `true` without grace.
    DeletePod(usize, bool),
    /// The container of a pod exits with a failure.
    Crash(usize),
    /// A node is cordoned, or not any more.
    Cordon(usize, bool),
    /// A node joins those that jobs are for, or leaves them.
    Join(usize, bool),
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
    /// What it is about.
    pub subject: Subject,
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
    /// The history of a seed: of five, three are about a CloneSet, one about each other kind.
    pub fn of(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let (subject, slow, step): (_, u32, fn(&mut StdRng) -> Step) = match seed % 5 {
            0..3 => (Subject::CloneSet(cloneset::Start::of(&mut random)), 1, cloneset::step),
            3 => (Subject::BroadcastJob(broadcastjob::Start::of(&mut random)), 1, broadcastjob::step),
            _ => (Subject::CronJob(cronjob::Start::of(&mut random)), 3, cronjob::step),
        };
        let heartbeats = random.random_bool(0.1);
        let mut steps: Vec<_> =
            (0..random.random_range(2..12)).map(|_| (pause(&mut random) * slow, step(&mut random))).collect();
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
        Self { seed, subject, steps, faults, event_faults, heartbeats }
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {:?}", self.seed, self.subject)?;
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
