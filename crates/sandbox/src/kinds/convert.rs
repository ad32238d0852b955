//! Built-in kinds that are served in several forms: events of two groups, autoscalers of two versions.

use serde_json::{Map, Value, json};

/// Turns an object of a built-in kind into another form of it, in place; anything else only gets the new `apiVersion`.
///
/// Known are `Event` between `v1` and `events.k8s.io/v1`, and `HorizontalPodAutoscaler` between `autoscaling/v1` and
/// `autoscaling/v2` (of the metrics that `v1` cannot say only the CPU utilisation passes).
pub fn convert(object: &mut Value, api_version: &str) {
    let from = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(fields) = object.as_object_mut() else { return };
    if from == api_version {
        return;
    }
    fields.insert("apiVersion".to_owned(), json!(api_version));
    match (kind.as_str(), from.as_str(), api_version) {
        ("Event", "v1", "events.k8s.io/v1") => rename(fields, &EVENT_FIELDS),
        ("Event", "events.k8s.io/v1", "v1") => rename(fields, &EVENT_FIELDS.map(|(core, new)| (new, core))),
        ("HorizontalPodAutoscaler", "autoscaling/v1", "autoscaling/v2") => autoscaler_to_two(fields),
        ("HorizontalPodAutoscaler", "autoscaling/v2", "autoscaling/v1") => autoscaler_to_one(fields),
        _ => {}
    }
}

/// Names of fields of an event in the core group and in `events.k8s.io`.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(fields: &mut Map<String, Value>, names: &[(&str, &str)]) {
    for (from, to) in names {
        if let Some(value) = fields.remove(*from) {
            fields.insert((*to).to_owned(), value);
        }
    }
}

fn autoscaler_to_two(fields: &mut Map<String, Value>) {
    if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut)
        && let Some(percent) = spec.remove("targetCPUUtilizationPercentage")
    {
        let cpu = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}});
        spec.insert("metrics".to_owned(), json!([{"type": "Resource", "resource": cpu}]));
    }
    if let Some(status) = fields.get_mut("status").and_then(Value::as_object_mut) {
        let percent = status.remove("currentCPUUtilizationPercentage");
        let current = percent.map(|percent| {
            let cpu = json!({"name": "cpu", "current": {"averageUtilization": percent}});
            json!([{"type": "Resource", "resource": cpu}])
        });
        status.insert("currentMetrics".to_owned(), current.unwrap_or_default());
    }
}

fn autoscaler_to_one(fields: &mut Map<String, Value>) {
    let utilisation = |metrics: &Value, pointer: &str| {
        metrics.as_array().into_iter().flatten().find_map(|metric| {
            let cpu = metric.pointer("/resource/name").is_some_and(|name| name == "cpu");
            metric.pointer(pointer).cloned().filter(|value| cpu && !value.is_null())
        })
    };
    if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics = spec.remove("metrics").unwrap_or_default();
        spec.remove("behavior");
        if let Some(percent) = utilisation(&metrics, "/resource/target/averageUtilization") {
            spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
        }
    }
    if let Some(status) = fields.get_mut("status").and_then(Value::as_object_mut) {
        let metrics = status.remove("currentMetrics").unwrap_or_default();
        status.remove("conditions");
        if let Some(percent) = utilisation(&metrics, "/resource/current/averageUtilization") {
            status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
        }
        status.entry("currentReplicas").or_insert_with(|| json!(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_the_same_after_there_and_back() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "x"}, "involvedObject": {"kind": "Pod"},
            "message": "m", "reason": "r", "source": {}, "reportingComponent": "c", "count": 2});
        let mut event = core.clone();
        convert(&mut event, "events.k8s.io/v1");
        assert_eq!(event["regarding"], json!({"kind": "Pod"}));
        assert_eq!(event["note"], "m");
        assert_eq!(event["deprecatedCount"], 2);
        convert(&mut event, "v1");
        assert_eq!(event, core);
    }

    #[test]
    fn the_cpu_target_of_an_autoscaler_passes_between_versions() {
        let one = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}});
        let mut scaler = one.clone();
        convert(&mut scaler, "autoscaling/v2");
        assert_eq!(scaler.pointer("/spec/metrics/0/resource/target/averageUtilization"), Some(&json!(50)));
        convert(&mut scaler, "autoscaling/v1");
        assert_eq!(scaler, one);
    }
}
