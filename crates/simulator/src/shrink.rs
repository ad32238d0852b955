//! Makes a failing history smaller while it fails in the same way.

use crate::history::History;
use crate::mistake::Mistake;
use crate::run::{Failure, run};

/// How many runs shrinking may take.
const TRIES: usize = 300;

/// The smallest history found that still fails like `failure`, and how it fails.
pub fn shrink(history: &History, failure: Failure, mistake: Option<Mistake>) -> (History, Failure) {
    let (mut best, mut reason, mut tries) = (history.clone(), failure, 0);
    loop {
        let mut smaller = false;
        for candidate in candidates(&best) {
            if tries == TRIES {
                return (best, reason);
            }
            tries += 1;
            if let Err(found) = run(&candidate, mistake)
                && found.alike(&reason)
            {
                (best, reason, smaller) = (candidate, found, true);
                break;
            }
        }
        if !smaller {
            return (best, reason);
        }
    }
}

/// The history with one thing less, the largest steps first.
fn candidates(history: &History) -> Vec<History> {
    let mut found = Vec::new();
    let halves = |length: usize| [(0, length / 2), (length / 2, length)];
    for (from, to) in halves(history.steps.len()) {
        let mut less = history.clone();
        less.steps.drain(from..to);
        found.push(less);
    }
    found.push(History { faults: Vec::new(), ..history.clone() });
    found.push(History { event_faults: Vec::new(), ..history.clone() });
    for index in 0..history.steps.len() {
        let mut less = history.clone();
        less.steps.remove(index);
        found.push(less);
    }
    for index in 0..history.faults.len() {
        let mut less = history.clone();
        less.faults.remove(index);
        found.push(less);
    }
    for index in 0..history.event_faults.len() {
        let mut less = history.clone();
        less.event_faults.remove(index);
        found.push(less);
    }
    found.retain(|candidate| candidate != history);
    found
}
