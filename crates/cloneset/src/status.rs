//! The status of a CloneSet: a function from what was seen, and what came of it, to what is published.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kruise_api::cloneset::v1beta1::{CloneSetCondition, CloneSetStatus};
use kruise_api::keys::{
    CONDITION_FAILED_SCALE, CONDITION_FAILED_UPDATE, CONDITION_PROGRESSING, REASON_AVAILABLE,
    REASON_DEADLINE_EXCEEDED, REASON_PARTITION_AVAILABLE, REASON_PAUSED, REASON_UPDATED,
};
use kruise_common::lifecycle;
use kruise_common::readiness;

use crate::observed::Observed;
use crate::plan::{Hold, HoldReason, at_revision, is_trouble};

/// Condition type: the set waits for something only its user can change.
pub const CONDITION_ROLLOUT_BLOCKED: &str = "RolloutBlocked";

/// What went wrong in a round.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Failures {
    /// Why creations or deletions failed.
    pub scale: Option<String>,
    /// Why updates failed.
    pub update: Option<String>,
}

/// The status to publish.
pub fn status_of(seen: &Observed, failures: &Failures, held: &[Hold]) -> CloneSetStatus {
    let settings = &seen.settings;
    let (mut ready, mut available) = (0, 0);
    let (mut updated, mut updated_ready, mut updated_available) = (0, 0, 0);
    for pod in &seen.pods {
        let is_updated = i32::from(at_revision(pod, &seen.update_revision));
        let is_ready = i32::from(readiness::is_ready(pod));
        let is_available = i32::from(lifecycle::is_available(pod, settings.min_ready_seconds, seen.now));
        ready += is_ready;
        available += is_available;
        updated += is_updated;
        updated_ready += is_updated * is_ready;
        updated_available += is_updated * is_available;
    }
    let replicas = i32::try_from(seen.pods.len()).unwrap_or(i32::MAX);
    let settled = updated == replicas && replicas == settings.replicas;
    let current = if settled { &seen.update_revision } else { &seen.current_revision };
    let partition = if settings.has_rolling_update { settings.limits().partition as i32 } else { 0 };
    let mut status = CloneSetStatus {
        observed_generation: Some(seen.generation),
        replicas,
        ready_replicas: ready,
        available_replicas: available,
        updated_replicas: updated,
        updated_ready_replicas: updated_ready,
        updated_available_replicas: Some(updated_available),
        expected_updated_replicas: Some(settings.replicas - partition),
        update_revision: Some(seen.update_revision.name().to_owned()),
        current_revision: Some(current.name().to_owned()),
        collision_count: seen.status.collision_count,
        label_selector: Some(seen.label_selector.clone()),
        conditions: None,
    };
    let mut conditions =
        Conditions { list: seen.status.conditions.clone().unwrap_or_default(), now: seen.now };
    failed(&mut conditions, CONDITION_FAILED_SCALE, failures.scale.as_deref());
    failed(&mut conditions, CONDITION_FAILED_UPDATE, failures.update.as_deref());
    blocked(seen, &mut conditions, held);
    progressing(seen, &status, &mut conditions);
    status.conditions = Some(conditions.list).filter(|list| !list.is_empty());
    status
}

/// True if the API server does not hold this status yet.
pub fn needs_write(old: Option<&CloneSetStatus>, new: &CloneSetStatus) -> bool {
    let plain = |status: &CloneSetStatus| CloneSetStatus {
        conditions: status.conditions.clone().filter(|list| !list.is_empty()),
        ..status.clone()
    };
    old.is_none_or(|old| plain(old) != plain(new))
}

/// When the progress deadline passes, if it runs.
pub fn wake_in(seen: &Observed, status: &CloneSetStatus) -> Option<Duration> {
    let seconds = i64::from(seen.settings.progress_deadline?);
    let progress = status.conditions.iter().flatten().find(|found| found.type_ == CONDITION_PROGRESSING)?;
    if progress.reason.as_deref() != Some(REASON_UPDATED) {
        return None;
    }
    let passed = seen.now.duration_since(progress.last_update_time.as_ref()?.0).as_millis();
    let left = i128::from(seconds) * 1000 - passed + 1;
    Some(Duration::from_millis(u64::try_from(left).unwrap_or(1).max(1)))
}

struct Conditions {
    list: Vec<CloneSetCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, kind: &str) -> Option<&CloneSetCondition> {
        self.list.iter().find(|found| found.type_ == kind)
    }

    fn remove(&mut self, kind: &str) {
        self.list.retain(|found| found.type_ != kind);
    }

    /// Sets a condition. Times stay unless something changes, the transition time unless the status does.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str, restart: bool) {
        let now = Some(Time(self.now));
        let reason = Some(reason.to_owned()).filter(|text| !text.is_empty());
        let message = Some(message.to_owned()).filter(|text| !text.is_empty());
        let Some(found) = self.list.iter_mut().find(|found| found.type_ == kind) else {
            self.list.push(CloneSetCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                last_update_time: now.clone(),
                last_transition_time: now,
                reason,
                message,
            });
            return;
        };
        let same = found.status == status && found.reason == reason && found.message == message;
        if same && !restart {
            return;
        }
        if found.status != status {
            status.clone_into(&mut found.status);
            found.last_transition_time.clone_from(&now);
        }
        found.last_update_time = now;
        found.reason = reason;
        found.message = message;
    }
}

fn failed(conditions: &mut Conditions, kind: &str, error: Option<&str>) {
    match error {
        Some(message) => conditions.set(kind, "True", "", message, false),
        None => conditions.remove(kind),
    }
}

/// Says what a user has to act upon. Waiting that ends by itself, or that was asked for, is not that.
fn blocked(seen: &Observed, conditions: &mut Conditions, held: &[Hold]) {
    let in_trouble = |name: &str| {
        seen.pods.iter().filter(|pod| pod.name() == name).any(|pod| {
            pod.statuses.iter().any(|status| is_trouble(&status.waiting))
                || matches!(
                    lifecycle::LifecycleState::of(pod),
                    lifecycle::LifecycleState::PreparingDelete | lifecycle::LifecycleState::PreparingUpdate
                )
        })
    };
    let matters = |hold: &&Hold| match hold.reason {
        HoldReason::MaxUnavailable | HoldReason::ScaleMaxUnavailable => {
            hold.blockers.iter().any(|(name, _)| in_trouble(name))
        }
        HoldReason::InPlaceOnly
        | HoldReason::NotAllowed
        | HoldReason::BudgetDenied
        | HoldReason::BrokenState => true,
        HoldReason::Paused
        | HoldReason::Partition
        | HoldReason::LifecycleHook
        | HoldReason::GracePeriod
        | HoldReason::NoInstanceId => false,
    };
    match held.iter().find(matters) {
        Some(hold) => {
            conditions.set(CONDITION_ROLLOUT_BLOCKED, "True", hold.reason.as_str(), &hold.message(), false);
        }
        None => conditions.remove(CONDITION_ROLLOUT_BLOCKED),
    }
}

/// The clock of the deadline starts when the reason becomes `CloneSetUpdated`, and again with a new goal.
fn progressing(seen: &Observed, status: &CloneSetStatus, conditions: &mut Conditions) {
    let settings = &seen.settings;
    let Some(deadline) = settings.progress_deadline else {
        conditions.remove(CONDITION_PROGRESSING);
        return;
    };
    let available = status.updated_available_replicas.unwrap_or_default();
    let expected = status.expected_updated_replicas.unwrap_or_default();
    let one_revision = status.current_revision == status.update_revision;
    if one_revision
        && [status.replicas, status.updated_replicas, available]
            .iter()
            .all(|count| *count == settings.replicas)
    {
        conditions.set(CONDITION_PROGRESSING, "True", REASON_AVAILABLE, "CloneSet is available", false);
        return;
    }
    if settings.paused {
        conditions.set(CONDITION_PROGRESSING, "True", REASON_PAUSED, "CloneSet is paused", false);
        return;
    }
    if expected < settings.replicas && expected <= available {
        let message = "CloneSet has been paused due to partition ready";
        conditions.set(CONDITION_PROGRESSING, "True", REASON_PARTITION_AVAILABLE, message, false);
        return;
    }
    let new_goal = seen.status.update_revision != status.update_revision
        || seen.status.expected_updated_replicas != status.expected_updated_replicas;
    let before = conditions.get(CONDITION_PROGRESSING);
    let exceeded = before.is_some_and(|before| match before.reason.as_deref() {
        Some(REASON_DEADLINE_EXCEEDED) => true,
        Some(REASON_UPDATED) => before
            .last_update_time
            .as_ref()
            .is_some_and(|since| seen.now.duration_since(since.0).as_millis() > i128::from(deadline) * 1000),
        _ => false,
    });
    if exceeded && !new_goal {
        let name = seen.update_revision.name();
        let message = format!("CloneSet revision {name} has timed out progressing");
        conditions.set(CONDITION_PROGRESSING, "False", REASON_DEADLINE_EXCEEDED, &message, false);
    } else {
        conditions.set(CONDITION_PROGRESSING, "True", REASON_UPDATED, "CloneSet is progressing", new_goal);
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use kruise_common::key::{ObjectKey, Uid};
    use kruise_common::revision::Revision;
    use kruise_common::texts::Texts;
    use serde_json::json;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::observed::Settings;

    fn revision(name: &str) -> Arc<Revision> {
        Arc::new(Revision {
            key: ObjectKey::new("ns", name),
            uid: Uid::from(name),
            resource_version: "1".into(),
            number: 1,
            template: json!({}).into(),
            created: None,
            controller: None,
            labels: Texts::default(),
            annotations: Texts::default(),
        })
    }

    fn empty_set(replicas: i32) -> Observed {
        let spec = json!({
            "replicas": replicas, "selector": {}, "template": {}, "progressDeadlineSeconds": 10,
            "updateStrategy": {"rollingUpdate": {}},
        });
        Observed {
            key: ObjectKey::new("ns", "web"),
            uid: Uid::from("web"),
            generation: 3,
            terminating: false,
            settings: Settings::of(&serde_json::from_value(spec).unwrap()),
            label_selector: "app=web".to_owned(),
            pods: Vec::new(),
            unselected: Vec::new(),
            others: Vec::new(),
            claims: Vec::new(),
            nodes: BTreeMap::new(),
            revisions: Vec::new(),
            update_revision: revision("web-b"),
            current_revision: revision("web-a"),
            status: CloneSetStatus::default(),
            now: Timestamp::UNIX_EPOCH,
        }
    }

    /// Publishes, lets seconds pass, and tells the reason of Progressing.
    fn after(seen: &mut Observed, seconds: i64) -> String {
        seen.now += SignedDuration::from_secs(seconds);
        seen.status = status_of(seen, &Failures::default(), &[]);
        let conditions = seen.status.conditions.as_ref().unwrap();
        conditions.iter().find_map(|found| found.reason.clone()).unwrap()
    }

    #[test]
    fn without_replicas_the_current_revision_is_the_update_revision_at_once() {
        let status = status_of(&empty_set(0), &Failures::default(), &[]);
        assert_eq!(status.current_revision.as_deref(), Some("web-b"));
        assert_eq!(status.label_selector.as_deref(), Some("app=web"));
        assert_eq!((status.replicas, status.updated_available_replicas), (0, Some(0)));
        assert_eq!(status.observed_generation, Some(3));
    }

    #[test]
    fn the_deadline_runs_from_the_start_of_each_rollout() {
        let mut seen = empty_set(1);
        assert_eq!(after(&mut seen, 0), REASON_UPDATED);
        assert_eq!(wake_in(&seen, &seen.status), Some(Duration::from_millis(10_001)));
        assert_eq!(after(&mut seen, 10), REASON_UPDATED);
        assert_eq!(after(&mut seen, 1), REASON_DEADLINE_EXCEEDED);
        assert_eq!(after(&mut seen, 60), REASON_DEADLINE_EXCEEDED);
        assert_eq!(wake_in(&seen, &seen.status), None);
        seen.update_revision = revision("web-c");
        assert_eq!(after(&mut seen, 60), REASON_UPDATED);
        seen.settings.paused = true;
        assert_eq!(after(&mut seen, 60), REASON_PAUSED);
        seen.settings.paused = false;
        assert_eq!(after(&mut seen, 60), REASON_UPDATED);
        seen.settings.replicas = 0;
        assert_eq!(after(&mut seen, 60), REASON_AVAILABLE);
    }

    #[test]
    fn failures_are_told_and_cleared() {
        let mut seen = empty_set(1);
        let failures = Failures { scale: Some("quota".to_owned()), update: None };
        seen.status = status_of(&seen, &failures, &[]);
        let told = |status: &CloneSetStatus| {
            status.conditions.iter().flatten().any(|found| found.type_ == CONDITION_FAILED_SCALE)
        };
        assert!(told(&seen.status));
        let cleared = status_of(&seen, &Failures::default(), &[]);
        assert!(!told(&cleared) && needs_write(Some(&seen.status), &cleared));
    }
}
