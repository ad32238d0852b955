//! What an update may change of a pod, through the pod itself and through its subresources.

use serde_json::{Map, Value, json};

use super::check::{Checks, at, int, list, text};
use super::pod_spec::{self, compare};
use super::{names, prepare};

/// Ephemeral containers come and stay as they are.
pub(super) fn ephemeral(old: &Value, new: &Value, checks: &mut Checks) {
    let of = |pod: &Value| pod.pointer("/spec/ephemeralContainers").and_then(Value::as_array).cloned();
    let new = of(new).unwrap_or_default();
    for container in of(old).unwrap_or_default() {
        let name = container.get("name").cloned().unwrap_or_default();
        let what = match new.iter().find(|one| one.get("name") == Some(&name)) {
            None => "removed",
            Some(one) if *one != container => "changed",
            Some(_) => continue,
        };
        let detail = format!("existing ephemeral containers {name} may not be {what}");
        checks.forbidden("spec.ephemeralContainers", &detail);
    }
}

/// The end of the sentence about fields that may change.
const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                       `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions \
                       to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                       previously negative)\n";

/// Checks an update of the pod itself.
pub(super) fn check(old: &Value, new: &Value, checks: &mut Checks) {
    let none = Value::Null;
    let (old, new) = (old.get("spec").unwrap_or(&none), new.get("spec").unwrap_or(&none));
    for field in ["containers", "initContainers"] {
        if list(old, field).len() != list(new, field).len() {
            checks.forbidden(format!("spec.{field}"), "pod updates may not add or remove containers");
            return;
        }
        for (index, container) in list(new, field).iter().enumerate() {
            let (image, path) = (text(container, "image"), format!("spec.{field}[{index}].image"));
            if image.is_empty() {
                checks.required(path, "");
            } else if image.trim() != image {
                checks.invalid(path, &json!(image), "must not have leading or trailing whitespace");
            }
        }
    }
    if !deadline(old, new, checks) {
        return;
    }
    added_tolerations(old, new, checks);
    removed_gates(old, new, checks);
    if munged(old, new) != *old {
        checks.forbidden("spec", MUTABLE);
    }
}

/// Whether the check of the rest goes on.
fn deadline(old: &Value, new: &Value, checks: &mut Checks) -> bool {
    let path = "spec.activeDeadlineSeconds";
    match (int(old, "activeDeadlineSeconds"), int(new, "activeDeadlineSeconds")) {
        (_, Some(seconds)) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            checks.invalid(path, &json!(seconds), &names::range(0, i32::MAX.into()));
            false
        }
        (Some(former), Some(seconds)) if former < seconds => {
            checks.invalid(path, &json!(seconds), "must be less than or equal to previous value");
            false
        }
        (Some(_), None) => {
            checks.invalid(path, &Value::Null, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn added_tolerations(old: &Value, new: &Value, checks: &mut Checks) {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        if let Some(fields) = toleration.as_object_mut() {
            fields.remove("tolerationSeconds");
        }
        toleration
    };
    let kept: Vec<Value> = list(new, "tolerations").iter().map(without_seconds).collect();
    if list(old, "tolerations").iter().any(|toleration| !kept.contains(&without_seconds(toleration))) {
        checks.forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        );
    } else {
        pod_spec::tolerations(list(new, "tolerations"), "spec.tolerations", checks);
    }
}

fn removed_gates(old: &Value, new: &Value, checks: &mut Checks) {
    let former: Vec<&str> = list(old, "schedulingGates").iter().map(|gate| text(gate, "name")).collect();
    for (index, gate) in list(new, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        if !former.contains(&name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            checks.forbidden(format!("spec.schedulingGates[{index}].name"), &detail);
        }
    }
}

/// The new spec with everything that may change put back, so that any difference left is forbidden.
fn munged(old: &Value, new: &Value) -> Value {
    let mut munged = new.clone();
    let Some(fields) = munged.as_object_mut() else { return munged };
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put_back(fields, field, old.get(field));
    }
    for field in ["containers", "initContainers"] {
        let former = list(old, field);
        let containers = fields.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, former) in containers.zip(former) {
            if let Some(container) = container.as_object_mut() {
                put_back(container, "image", former.get("image"));
            }
        }
    }
    let grace = |spec: &Value| int(spec, "terminationGracePeriodSeconds");
    if grace(old).is_some_and(|seconds| seconds < 0) && grace(new) == Some(1) {
        put_back(fields, "terminationGracePeriodSeconds", old.get("terminationGracePeriodSeconds"));
    }
    if !list(old, "schedulingGates").is_empty() {
        // Until it may be scheduled a pod's node may still be narrowed down.
        let additions_only = old.get("nodeSelector").and_then(Value::as_object).is_none_or(|former| {
            former.iter().all(|(key, value)| at(new, &["nodeSelector", key]) == Some(value))
        });
        if additions_only {
            put_back(fields, "nodeSelector", old.get("nodeSelector"));
        }
        if old.get("affinity").is_none() || at(old, &["affinity", "nodeAffinity"]).is_none() {
            put_back(fields, "affinity", old.get("affinity"));
        }
    }
    munged
}

fn put_back(fields: &mut Map<String, Value>, field: &str, value: Option<&Value>) {
    match value {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}

/// Checks an update through `pods/resize`.
pub(super) fn resize(old: &Value, new: &Value, checks: &mut Checks) {
    if prepare::quality_of_service(old) != prepare::quality_of_service(new) {
        let quality = at(new, &["status", "qosClass"]).cloned().unwrap_or_default();
        checks.invalid("spec", &quality, "Pod QOS Class may not change as a result of resizing");
    }
    let none = Value::Null;
    let (old, new) = (old.get("spec").unwrap_or(&none), new.get("spec").unwrap_or(&none));
    for (index, (former, container)) in
        list(old, "containers").iter().zip(list(new, "containers")).enumerate()
    {
        let path = format!("spec.containers[{index}].resources");
        for kind in ["limits", "requests"] {
            let (before, after) = (amounts(former, kind), amounts(container, kind));
            if before.keys().any(|name| !after.contains_key(name)) {
                checks.forbidden(format!("{path}.{kind}"), &format!("resource {kind} cannot be removed"));
            }
            let other = |amounts: Map<String, Value>| {
                amounts
                    .into_iter()
                    .filter(|(name, _)| name != "cpu" && name != "memory")
                    .collect::<Map<_, _>>()
            };
            if other(before) != other(after) {
                checks.forbidden("spec", "only cpu and memory resources are mutable");
            }
        }
    }
}

/// The amounts in a container's limits or requests.
fn amounts(container: &Value, kind: &str) -> Map<String, Value> {
    at(container, &["resources", kind]).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Checks an update through `pods/status`.
pub(super) fn status(old: &Value, new: &Value, checks: &mut Checks) {
    for (index, condition) in list(new.get("status").unwrap_or(&Value::Null), "conditions").iter().enumerate()
    {
        checks.nonnegative(condition, "observedGeneration", &format!("status.conditions[{index}]"));
    }
    let statuses =
        |pod: &Value| list(pod.get("status").unwrap_or(&Value::Null), "containerStatuses").to_vec();
    let never = at(old, &["spec", "restartPolicy"]).and_then(Value::as_str).unwrap_or("Always");
    if never == "Always" {
        return;
    }
    for (index, former) in statuses(old).iter().enumerate() {
        let Some(code) = at(former, &["state", "terminated", "exitCode"]).and_then(Value::as_i64) else {
            continue;
        };
        if never == "OnFailure" && code != 0 {
            continue;
        }
        let name = text(former, "name");
        let now = statuses(new);
        let again = now.iter().find(|status| text(status, "name") == name);
        if again.is_some_and(|status| at(status, &["state", "terminated"]).is_none()) {
            let path = format!("status.containerStatuses[{index}].state");
            checks.forbidden(path, "may not be transitioned to non-terminated state");
        }
    }
}

/// Whether two quantities are the same amount.
pub(super) fn smaller(one: &str, other: &str) -> bool {
    compare(one, other) == Some(std::cmp::Ordering::Less)
}
