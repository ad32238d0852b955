//! Conversion of `ContainerRecreateRequest` between v1alpha1 and v1beta1, on raw JSON: what v1alpha1 keeps in two
//! annotations, v1beta1 has in its status. The annotations move, so that neither form can contradict the other.

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use serde::Serialize;
use serde_json::Value;

use super::ContainerStatusSnapshot;
use crate::conversion::ConversionError;
use crate::{keys, leaves};

const SNAPSHOT: [&str; 2] = ["status", "containerStatusSnapshot"];
const CONDITIONS: [&str; 2] = ["status", "conditions"];
const ACQUIRED: [&str; 3] = ["metadata", "annotations", keys::CRR_UNREADY_ACQUIRED];
const SYNCED: [&str; 3] = ["metadata", "annotations", keys::CRR_SYNC_CONTAINER_STATUSES];

/// The condition that stands for the annotation of v1alpha1.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GraceCondition {
    #[serde(rename = "type")]
    type_: &'static str,
    status: &'static str,
    reason: &'static str,
    message: &'static str,
    last_transition_time: String,
}

/// A v1alpha1 request as v1beta1.
pub fn to_v1beta1(mut object: Value) -> Result<Value, ConversionError> {
    check(&object)?;
    let annotation = |path: &[&str]| leaves::get(&object, path).and_then(Value::as_str).unwrap_or_default();
    let snapshot: Option<Vec<ContainerStatusSnapshot>> = serde_json::from_str(annotation(&SYNCED)).ok();
    let since = annotation(&ACQUIRED).parse::<Timestamp>().ok();
    if let Some(snapshot) = snapshot.and_then(|snapshot| serde_json::to_value(snapshot).ok()) {
        set(&mut object, &SNAPSHOT, snapshot);
    }
    if let Some(condition) = since.and_then(|since| serde_json::to_value(grace(since)).ok()) {
        set(&mut object, &CONDITIONS, Value::Array(vec![condition]));
    }
    remove(&mut object, &SYNCED);
    remove(&mut object, &ACQUIRED);
    if leaves::get(&object, &["status", "phase"]).and_then(Value::as_str) == Some("") {
        remove(&mut object, &["status", "phase"]);
    }
    set(&mut object, &["apiVersion"], crate::V1BETA1.into());
    Ok(object)
}

/// A v1beta1 request as v1alpha1.
pub fn to_v1alpha1(mut object: Value) -> Result<Value, ConversionError> {
    check(&object)?;
    if let Some(text) = leaves::get(&object, &SNAPSHOT).map(ToString::to_string) {
        set(&mut object, &SYNCED, text.into());
    }
    let conditions = leaves::get(&object, &CONDITIONS).and_then(Value::as_array);
    let mut grace = conditions.into_iter().flatten().filter(|condition| {
        let is = |field: &str, value: &str| condition.get(field).and_then(Value::as_str) == Some(value);
        is("type", keys::CONDITION_PRE_RECREATE_GRACE) && is("status", "True")
    });
    let since = grace.next().and_then(|condition| condition.get("lastTransitionTime")?.as_str());
    if let Some(since) = since.and_then(|text| text.parse::<Timestamp>().ok()) {
        set(&mut object, &ACQUIRED, seconds(since).into());
    }
    remove(&mut object, &SNAPSHOT);
    remove(&mut object, &CONDITIONS);
    set(&mut object, &["apiVersion"], crate::V1ALPHA1.into());
    Ok(object)
}

fn check(object: &Value) -> Result<(), ConversionError> {
    for (field, name) in [("spec", "spec"), ("status", "status")] {
        if object.get(field).is_some_and(|value| !value.is_object() && !value.is_null()) {
            return Err(ConversionError::NotAnObject(name));
        }
    }
    Ok(())
}

fn grace(since: Timestamp) -> GraceCondition {
    GraceCondition {
        type_: keys::CONDITION_PRE_RECREATE_GRACE,
        status: "True",
        reason: keys::CONDITION_PRE_RECREATE_GRACE,
        message: "Pod has been forced to not-ready for unreadyGracePeriodSeconds drain",
        last_transition_time: seconds(since),
    }
}

/// RFC 3339 in UTC without fractions.
fn seconds(time: Timestamp) -> String {
    let whole = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Trunc);
    time.round(whole).unwrap_or(time).to_string()
}

fn set(object: &mut Value, path: &[&str], value: Value) {
    leaves::set(object, &path.iter().map(|&key| key.to_owned()).collect::<Vec<_>>(), value);
}

fn remove(object: &mut Value, path: &[&str]) {
    leaves::remove(object, &path.iter().map(|&key| key.to_owned()).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SNAPSHOT_TEXT: &str =
        r#"[{"name":"main","ready":true,"restartCount":2,"containerID":"containerd://x"}]"#;

    fn alpha() -> Value {
        json!({"apiVersion": "apps.kruise.io/v1alpha1", "kind": "ContainerRecreateRequest",
            "metadata": {"name": "a", "annotations": {"mine": "kept",
                "crr.apps.kruise.io/sync-container-statuses": SNAPSHOT_TEXT,
                "crr.apps.kruise.io/unready-acquired": "2024-05-01T10:00:00+02:00"}},
            "spec": {"podName": "p", "containers": [{"name": "main"}]}, "status": {"phase": "Recreating"}})
    }

    #[test]
    fn annotations_move_into_the_status() {
        let beta = to_v1beta1(alpha()).unwrap();
        assert_eq!(beta["apiVersion"], "apps.kruise.io/v1beta1");
        assert_eq!(beta["metadata"]["annotations"], json!({"mine": "kept"}));
        assert_eq!(
            beta["status"],
            json!({"phase": "Recreating",
                "containerStatusSnapshot": [
                    {"name": "main", "ready": true, "restartCount": 2, "containerID": "containerd://x"}],
                "conditions": [{"type": "PreRecreateGrace", "status": "True", "reason": "PreRecreateGrace",
                    "message": "Pod has been forced to not-ready for unreadyGracePeriodSeconds drain",
                    "lastTransitionTime": "2024-05-01T08:00:00Z"}]})
        );
        assert_eq!(beta["spec"], alpha()["spec"]);
    }

    #[test]
    fn the_way_back_brings_the_annotations_back() {
        let back = to_v1alpha1(to_v1beta1(alpha()).unwrap()).unwrap();
        let annotations = &back["metadata"]["annotations"];
        assert_eq!(annotations["crr.apps.kruise.io/unready-acquired"], "2024-05-01T08:00:00Z");
        let text = annotations["crr.apps.kruise.io/sync-container-statuses"].as_str().unwrap();
        let snapshot: Value = serde_json::from_str(text).unwrap();
        assert_eq!(snapshot, serde_json::from_str::<Value>(SNAPSHOT_TEXT).unwrap());
        assert_eq!(back["status"], json!({"phase": "Recreating"}));
        assert_eq!(to_v1beta1(back).unwrap(), to_v1beta1(alpha()).unwrap());
    }

    #[test]
    fn annotations_that_cannot_be_read_and_empty_phases_are_left_out() {
        for (key, text) in [
            ("crr.apps.kruise.io/unready-acquired", "yesterday"),
            ("crr.apps.kruise.io/unready-acquired", ""),
            ("crr.apps.kruise.io/sync-container-statuses", "{"),
            ("crr.apps.kruise.io/sync-container-statuses", ""),
        ] {
            let beta = to_v1beta1(json!({"metadata": {"annotations": {key: text}}, "status": {"phase": ""}}));
            assert_eq!(beta.unwrap(), json!({"apiVersion": "apps.kruise.io/v1beta1"}), "{key}: {text}");
        }
    }

    #[test]
    fn conditions_v1alpha1_does_not_know_are_dropped() {
        let alpha = to_v1alpha1(json!({"status": {"phase": "Pending", "conditions": [
            {"type": "Other", "status": "True", "lastTransitionTime": "2024-05-01T08:00:00Z"},
            {"type": "PreRecreateGrace", "status": "False", "lastTransitionTime": "2024-05-01T08:00:00Z"}]}}));
        assert_eq!(
            alpha.unwrap(),
            json!({"apiVersion": "apps.kruise.io/v1alpha1", "status": {"phase": "Pending"}})
        );
    }

    #[test]
    fn a_status_that_is_no_object_is_refused() {
        assert_eq!(to_v1beta1(json!({"status": 1})), Err(ConversionError::NotAnObject("status")));
        assert_eq!(to_v1alpha1(json!({"spec": []})), Err(ConversionError::NotAnObject("spec")));
    }
}
