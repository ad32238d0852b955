//! How many pods each ReplicaSet of a Deployment shall have now, and what the Deployment says of itself. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::nodes::digest;

/// How pods are replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Strategy {
    Recreate,
    Rolling { surge: i64, unavailable: i64 },
}

impl Strategy {
    /// Both zero would never move: then one may be unavailable.
    pub(super) fn rolling(surge: i64, unavailable: i64) -> Self {
        Self::Rolling { surge, unavailable: if surge == 0 && unavailable == 0 { 1 } else { unavailable } }
    }

    pub(super) fn surge(self) -> i64 {
        match self {
            Self::Recreate => 0,
            Self::Rolling { surge, .. } => surge,
        }
    }

    pub(super) fn unavailable(self, wanted: i64) -> i64 {
        match self {
            Self::Recreate => 0,
            Self::Rolling { unavailable, .. } => unavailable.min(wanted),
        }
    }
}

/// A number or a percentage of `total`; a quarter when absent.
pub(super) fn share(value: &Value, total: i64, up: bool) -> i64 {
    let percent = match value {
        Value::Number(number) => return number.as_i64().unwrap_or(0),
        Value::String(text) => text.trim_end_matches('%').parse::<i64>().unwrap_or(0),
        _ => 25,
    };
    (percent * total + if up { 99 } else { 0 }) / 100
}

/// Ten characters that depend on the text, safe in names.
pub(super) fn hash(text: &str) -> String {
    const SAFE: &[u8; 16] = b"456789bcdfghjklm";
    let digit =
        |c: char| c.to_digit(16).and_then(|digit| SAFE.get(digit as usize)).map(|byte| char::from(*byte));
    digest(text).chars().filter_map(digit).take(10).collect()
}

/// A ReplicaSet's size and how much of it is available.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Set {
    pub(super) replicas: i64,
    pub(super) available: i64,
}

/// The sizes the current and the old ReplicaSets shall have now.
pub(super) fn targets(
    wanted: i64,
    strategy: Strategy,
    current: Set,
    old: &[Set],
    old_pods: bool,
    paused: bool,
) -> (i64, Vec<i64>) {
    let unchanged: Vec<i64> = old.iter().map(|set| set.replicas).collect();
    if paused {
        // Only a single ReplicaSet follows the wanted size.
        let alone = old.iter().all(|set| set.replicas == 0);
        return (if alone && current.replicas > 0 { wanted } else { current.replicas }, unchanged);
    }
    match strategy {
        Strategy::Recreate => {
            let new = if old_pods { current.replicas } else { wanted };
            (new, vec![0; old.len()])
        }
        Strategy::Rolling { surge, .. } => {
            let total = current.replicas + unchanged.iter().sum::<i64>();
            let room = (wanted + surge - total).max(0);
            let new = if current.replicas > wanted { wanted } else { wanted.min(current.replicas + room) };
            let min_available = wanted - strategy.unavailable(wanted);
            (new, shrink(min_available, Set { replicas: new, ..current }, old))
        }
    }
}

/// Takes pods from old ReplicaSets: unavailable ones first, then as many as may be missed.
fn shrink(min_available: i64, new: Set, old: &[Set]) -> Vec<i64> {
    let total = new.replicas + old.iter().map(|set| set.replicas).sum::<i64>();
    let new_unavailable = (new.replicas - new.available).max(0);
    let mut spare = (total - min_available - new_unavailable).max(0);
    let mut sizes: Vec<i64> = old.iter().map(|set| set.replicas).collect();
    for (size, set) in sizes.iter_mut().zip(old) {
        let sick = (set.replicas - set.available).max(0).min(spare);
        *size -= sick;
        spare -= sick;
    }
    let available = new.available + old.iter().map(|set| set.available).sum::<i64>();
    let mut spare = spare.min((available - min_available).max(0));
    for size in &mut sizes {
        let healthy = (*size).min(spare);
        *size -= healthy;
        spare -= healthy;
    }
    sizes
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Counts {
    pub(super) wanted: i64,
    pub(super) replicas: i64,
    pub(super) updated: i64,
    pub(super) available: i64,
}

impl Counts {
    fn complete(self) -> bool {
        self.updated == self.wanted && self.replicas == self.wanted && self.available == self.wanted
    }
}

/// What the conditions follow from.
pub(super) struct Seen<'a> {
    pub(super) counts: Counts,
    pub(super) min_available: i64,
    /// Name of the current ReplicaSet.
    pub(super) set: Option<String>,
    pub(super) deadline: Option<i64>,
    pub(super) paused: bool,
    /// The status so far.
    pub(super) known: &'a Value,
    pub(super) now: Timestamp,
}

/// The conditions, and when the progress deadline passes.
pub(super) fn conditions(seen: &Seen<'_>) -> (Vec<Value>, Option<Duration>) {
    let enough = seen.counts.available >= seen.min_available;
    let available = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned())
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.".to_owned())
    };
    let (progressing, wake) = progressing(seen);
    let list = [("Available", Some(available)), ("Progressing", progressing)];
    let list = list.into_iter().filter_map(|(name, verdict)| Some(condition(seen, name, verdict?))).collect();
    (list, wake)
}

type Verdict = (&'static str, &'static str, String);

fn progressing(seen: &Seen<'_>) -> (Option<Verdict>, Option<Duration>) {
    if seen.paused {
        return (Some(("Unknown", "DeploymentPaused", "Deployment is paused".to_owned())), None);
    }
    let Some(set) = &seen.set else { return (None, None) };
    if seen.counts.complete() {
        let message = format!("ReplicaSet \"{set}\" has successfully progressed.");
        return (Some(("True", "NewReplicaSetAvailable", message)), None);
    }
    let running = format!("ReplicaSet \"{set}\" is progressing.");
    let moved = ["replicas", "updatedReplicas", "availableReplicas"]
        .into_iter()
        .zip([seen.counts.replicas, seen.counts.updated, seen.counts.available])
        .any(|(field, now)| seen.known.get(field).and_then(Value::as_i64).unwrap_or(0) != now);
    let before = find(seen.known, "Progressing");
    let ended = before
        .and_then(|before| before.get("reason"))
        .is_some_and(|reason| reason == "NewReplicaSetAvailable");
    let since = before
        .filter(|_| !moved && !ended)
        .and_then(|before| before.get("lastUpdateTime")?.as_str()?.parse::<Timestamp>().ok())
        .unwrap_or(seen.now);
    let Some(deadline) = seen.deadline.map(SignedDuration::from_secs) else {
        return (Some(("True", "ReplicaSetUpdated", running)), None);
    };
    let left = deadline - seen.now.duration_since(since);
    if left.is_positive() {
        return (Some(("True", "ReplicaSetUpdated", running)), Duration::try_from(left).ok());
    }
    let message = format!("ReplicaSet \"{set}\" has timed out progressing.");
    (Some(("False", "ProgressDeadlineExceeded", message)), None)
}

fn find<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status
        .get("conditions")?
        .as_array()?
        .iter()
        .find(|condition| condition.get("type").is_some_and(|t| t == name))
}

fn condition(seen: &Seen<'_>, name: &str, (status, reason, message): Verdict) -> Value {
    let now = seen.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let before = find(seen.known, name);
    let keep = |field: &str, same: bool| {
        before.filter(|_| same).and_then(|before| before.get(field)?.as_str()).unwrap_or(&now).to_owned()
    };
    let is = |field: &str, value: &str| {
        before.and_then(|before| before.get(field)).is_some_and(|known| known == value)
    };
    let same_status = is("status", status);
    let moved = name == "Progressing"
        && ["replicas", "updatedReplicas", "availableReplicas"]
            .into_iter()
            .zip([seen.counts.replicas, seen.counts.updated, seen.counts.available])
            .any(|(field, now)| seen.known.get(field).and_then(Value::as_i64).unwrap_or(0) != now);
    let same = same_status && is("reason", reason) && is("message", &message) && !moved;
    json!({
        "type": name,
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": keep("lastUpdateTime", same),
        "lastTransitionTime": keep("lastTransitionTime", same_status),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rolling_update_stays_within_its_bounds_and_comes_to_its_end() {
        for (wanted, surge, unavailable) in [(10, 3, 2), (3, 1, 0), (1, 0, 1), (4, 0, 4), (5, 5, 0)] {
            let strategy = Strategy::rolling(surge, unavailable);
            let (mut new, mut old) =
                (Set { replicas: 0, available: 0 }, vec![Set { replicas: wanted, available: wanted }]);
            let mut rounds = 0;
            while new.available != wanted || old.iter().any(|set| set.replicas > 0) {
                let (target, olds) = targets(wanted, strategy, new, &old, true, false);
                new.replicas = target;
                for (set, size) in old.iter_mut().zip(olds) {
                    *set = Set { replicas: size, available: size.min(set.available) };
                }
                let total = new.replicas + old[0].replicas;
                assert!(total <= wanted + surge, "{total} of {wanted}+{surge}");
                assert!(new.available + old[0].available >= wanted - unavailable);
                // One new pod becomes available per round.
                new.available = new.replicas.min(new.available + 1);
                rounds += 1;
                assert!(rounds < 100, "does not end: {new:?} {old:?}");
            }
        }
    }

    #[test]
    fn recreate_waits_until_the_old_pods_are_gone() {
        let (current, old) = (Set { replicas: 0, available: 0 }, [Set { replicas: 3, available: 3 }]);
        assert_eq!(targets(3, Strategy::Recreate, current, &old, true, false), (0, vec![0]));
        assert_eq!(targets(3, Strategy::Recreate, current, &old, false, false), (3, vec![0]));
    }

    #[test]
    fn shares_round_surge_up_and_unavailable_down() {
        assert_eq!(share(&json!("25%"), 3, true), 1);
        assert_eq!(share(&json!("25%"), 3, false), 0);
        assert_eq!(share(&json!(2), 3, true), 2);
        assert_eq!(share(&Value::Null, 8, true), 2);
    }
}
