//! What metrics tell of a set: read from its status, as everybody else reads it.

use kruise_api::cloneset::v1beta1::CloneSet;
use kruise_runtime::rollouts::{Figures, Progress};

use crate::status::CONDITION_ROLLOUT_BLOCKED;
use crate::stores::SetView;

/// The figures of a set.
pub fn of(set: &SetView) -> Figures {
    let status = set.object.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.iter().flatten();
    let blocked = conditions.find(|it| it.type_ == CONDITION_ROLLOUT_BLOCKED && it.status == "True");
    let blocked = blocked.map(|condition| condition.reason.clone().unwrap_or_default());
    let wanted = i64::from(set.object.spec.replicas.unwrap_or(1));
    Figures {
        key: set.key.clone(),
        progress: progress(&set.object, wanted, blocked.is_some()),
        blocked,
        spec_replicas: wanted,
        replicas: status.replicas.into(),
        ready: status.ready_replicas.into(),
        available: status.available_replicas.into(),
        updated: status.updated_replicas.into(),
        updated_ready: status.updated_ready_replicas.into(),
        updated_available: status.updated_available_replicas.unwrap_or_default().into(),
    }
}

fn progress(set: &CloneSet, wanted: i64, blocked: bool) -> Progress {
    let status = set.status.clone().unwrap_or_default();
    let current =
        status.observed_generation.is_some() && status.observed_generation == set.metadata.generation;
    let expected = status.expected_updated_replicas.unwrap_or_default();
    let updated = status.updated_available_replicas.unwrap_or_default() >= expected;
    if current
        && updated
        && i64::from(status.replicas) == wanted
        && i64::from(status.available_replicas) >= wanted
    {
        return Progress::Complete;
    }
    let rolling = set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    if blocked {
        Progress::Blocked
    } else if !updated && rolling.is_some_and(|rolling| rolling.paused == Some(true)) {
        Progress::Paused
    } else {
        Progress::Progressing
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn figures(spec: &Value, status: &Value) -> Figures {
        let set: CloneSet = serde_json::from_value(json!({
            "apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet",
            "metadata": {"name": "web", "namespace": "default", "uid": "u", "resourceVersion": "1", "generation": 2},
            "spec": spec, "status": status
        }))
        .unwrap();
        of(&SetView::of(set).unwrap())
    }

    #[test]
    fn a_set_is_complete_blocked_paused_or_on_its_way() {
        let template = json!({"spec": {"containers": []}});
        let spec = |paused: bool| {
            json!({"replicas": 3, "selector": {}, "template": template,
                "updateStrategy": {"rollingUpdate": {"paused": paused}}})
        };
        let status = |generation: i64, updated: i32, conditions: Value| {
            json!({"observedGeneration": generation, "replicas": 3, "readyReplicas": 3, "availableReplicas": 3,
                "updatedReplicas": updated, "updatedReadyReplicas": updated, "updatedAvailableReplicas": updated,
                "expectedUpdatedReplicas": 3, "conditions": conditions})
        };
        let blocked = json!([{"type": "RolloutBlocked", "status": "True", "reason": "MaxUnavailable"}]);
        for (paused, generation, updated, conditions, expected) in [
            (false, 2, 3, json!([]), Progress::Complete),
            (true, 2, 3, json!([]), Progress::Complete),
            (false, 1, 3, json!([]), Progress::Progressing),
            (false, 2, 1, json!([]), Progress::Progressing),
            (true, 2, 1, json!([]), Progress::Paused),
            (false, 2, 1, blocked, Progress::Blocked),
        ] {
            let told = figures(&spec(paused), &status(generation, updated, conditions.clone()));
            assert_eq!(told.progress, expected, "{paused} {generation} {updated} {conditions}");
            assert_eq!(told.blocked.is_some(), expected == Progress::Blocked);
            assert_eq!((told.spec_replicas, told.updated), (3, i64::from(updated)));
        }
    }
}
