//! Validation of workloads and of what belongs to them: selectors, strategies, jobs, claims.

use serde_json::{Value, json};

use super::check::{Checks, at, flag, int, list, pairs, text};
use super::pod_spec::{self, one_of};
use super::pod_update::smaller;
use super::quantity::Quantity;
use super::{meta, names};

/// Checks the spec of a Deployment.
pub(super) fn deployment(object: &Value, checks: &mut Checks) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    checks.nonnegative(spec, "replicas", "spec");
    required_selector(spec, "deployment", checks);
    replica_template(spec, "ReplicaSet", checks);
    let strategy = spec.get("strategy").unwrap_or(&Value::Null);
    match (text(strategy, "type"), at(strategy, &["rollingUpdate"])) {
        ("Recreate", Some(_)) => {
            let path = "spec.strategy.rollingUpdate";
            checks.forbidden(path, "may not be specified when strategy `type` is 'Recreate'");
        }
        ("Recreate", None) => {}
        ("RollingUpdate", Some(update)) => rolling_deployment(update, checks),
        ("RollingUpdate", None) => {
            checks.required("spec.strategy.rollingUpdate", "this should be defaulted and never be nil");
        }
        (other, _) => {
            let shown = format!("{{\"Type\":{other:?},\"RollingUpdate\":null}}");
            checks.not_supported_text("spec.strategy", &shown, &["Recreate", "RollingUpdate"]);
        }
    }
    checks.nonnegative(spec, "minReadySeconds", "spec");
    checks.nonnegative(spec, "revisionHistoryLimit", "spec");
    checks.nonnegative(spec, "progressDeadlineSeconds", "spec");
    let ready = int(spec, "minReadySeconds").unwrap_or_default();
    if let Some(deadline) = int(spec, "progressDeadlineSeconds").filter(|deadline| *deadline <= ready) {
        checks.invalid(
            "spec.progressDeadlineSeconds",
            &json!(deadline),
            "must be greater than minReadySeconds",
        );
    }
}

fn rolling_deployment(update: &Value, checks: &mut Checks) {
    let path = "spec.strategy.rollingUpdate";
    int_or_percent(update, "maxUnavailable", path, checks);
    int_or_percent(update, "maxSurge", path, checks);
    let unavailable = update.get("maxUnavailable").cloned().unwrap_or_default();
    if amount(&unavailable) == 0 && amount(update.get("maxSurge").unwrap_or(&Value::Null)) == 0 {
        checks.invalid(format!("{path}.maxUnavailable"), &unavailable, "may not be 0 when `maxSurge` is 0");
    }
    if unavailable.is_string() && amount(&unavailable) > 100 {
        checks.invalid(format!("{path}.maxUnavailable"), &unavailable, "must not be greater than 100%");
    }
}

/// Checks the spec of a ReplicaSet.
pub(super) fn replica_set(object: &Value, checks: &mut Checks) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    checks.nonnegative(spec, "replicas", "spec");
    checks.nonnegative(spec, "minReadySeconds", "spec");
    required_selector(spec, "deployment", checks);
    replica_template(spec, "ReplicaSet", checks);
}

/// Checks the spec of a ReplicationController.
pub(super) fn replication_controller(object: &Value, checks: &mut Checks) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    checks.nonnegative(spec, "minReadySeconds", "spec");
    checks.nonnegative(spec, "replicas", "spec");
    if pairs(spec, "selector").next().is_none() {
        checks.required("spec.selector", "");
    }
    match at(spec, &["template"]) {
        None => checks.required("spec.template", ""),
        Some(template) => {
            let labels = at(template, &["metadata", "labels"]).cloned().unwrap_or_default();
            if pairs(spec, "selector").any(|(key, value)| labels.get(key) != Some(value)) {
                let detail = "`selector` does not match template `labels`";
                checks.invalid("spec.template.metadata.labels", &labels, detail);
            }
            pod_spec::template(template, "spec.template", checks);
        }
    }
}

/// Checks the spec of a DaemonSet.
pub(super) fn daemon_set(object: &Value, checks: &mut Checks) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    selector(spec.get("selector").unwrap_or(&Value::Null), "spec.selector", checks);
    template_matches(spec, None, checks);
    if at(spec, &["selector"]).is_some_and(is_empty_selector) {
        let selector = spec.get("selector").cloned().unwrap_or_default();
        checks.invalid("spec.selector", &selector, "empty selector is invalid for daemonset");
    }
    always_running(spec, "DaemonSet", checks);
    checks.nonnegative(spec, "minReadySeconds", "spec");
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let path = "spec.updateStrategy.rollingUpdate";
            let update = strategy.get("rollingUpdate").unwrap_or(&Value::Null);
            int_or_percent(update, "maxUnavailable", path, checks);
            int_or_percent(update, "maxSurge", path, checks);
            let surge = amount(update.get("maxSurge").unwrap_or(&Value::Null));
            let unavailable = update.get("maxUnavailable").unwrap_or(&Value::Null);
            if amount(unavailable) == 0 && surge == 0 {
                checks.required(format!("{path}.maxUnavailable"), "cannot be 0 when maxSurge is 0");
            } else if amount(unavailable) != 0 && surge != 0 {
                let surge = update.get("maxSurge").unwrap_or(&Value::Null);
                let detail = "may not be set when maxUnavailable is non-zero";
                checks.invalid(format!("{path}.maxSurge"), surge, detail);
            }
        }
        other => {
            let shown = format!("{{\"Type\":{other:?},\"RollingUpdate\":null}}");
            checks.not_supported_text("spec.updateStrategy", &shown, &["RollingUpdate", "OnDelete"]);
        }
    }
    checks.nonnegative(spec, "revisionHistoryLimit", "spec");
}

/// Checks the spec of a StatefulSet.
pub(super) fn stateful_set(object: &Value, created: bool, checks: &mut Checks) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let policy = text(spec, "podManagementPolicy");
    if !["OrderedReady", "Parallel"].contains(&policy) {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        checks.invalid("spec.podManagementPolicy", &json!(policy), detail);
    }
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    match (text(strategy, "type"), at(strategy, &["rollingUpdate"])) {
        ("OnDelete", Some(update)) => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            let partition = update.get("partition").unwrap_or(&Value::Null);
            let shown = format!("{{\"Partition\":{partition},\"MaxUnavailable\":null}}");
            checks.invalid_text("spec.updateStrategy.rollingUpdate", &shown, detail);
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        ("RollingUpdate", Some(update)) => {
            checks.nonnegative(update, "partition", "spec.updateStrategy.rollingUpdate");
        }
        _ => checks.invalid("spec.updateStrategy", strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
    checks.nonnegative(spec, "replicas", "spec");
    checks.nonnegative(spec, "minReadySeconds", "spec");
    let service = text(spec, "serviceName");
    if created && !service.is_empty() {
        checks.invalid_each("spec.serviceName", service, names::dns_label(service));
    }
    required_selector(spec, "statefulset", checks);
    template_matches(spec, Some(""), checks);
    always_running(&with_claim_volumes(spec), "StatefulSet", checks);
}

/// The spec as the controller will use it: claims of the set are volumes of its pods.
fn with_claim_volumes(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let names: Vec<String> = list(&spec, "volumeClaimTemplates")
        .iter()
        .filter_map(|claim| Some(at(claim, &["metadata", "name"])?.as_str()?.to_owned()))
        .collect();
    if let Some(pod) =
        spec.pointer_mut("/template/spec").and_then(Value::as_object_mut).filter(|_| !names.is_empty())
    {
        let volumes = pod.entry("volumes").or_insert_with(|| json!([]));
        if let Some(volumes) = volumes.as_array_mut() {
            volumes.retain(|volume| !names.iter().any(|name| text(volume, "name") == name));
            volumes.extend(
                names.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})),
            );
        }
    }
    spec
}

/// Checks what an update may change of a StatefulSet.
pub(super) fn stateful_set_update(old: &Value, new: &Value, checks: &mut Checks) {
    const MUTABLE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |object: &Value| {
        let mut spec = object.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
        for field in MUTABLE {
            spec.remove(field);
        }
        spec
    };
    if fixed(old) != fixed(new) {
        checks.forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

/// Checks the spec of a Job at `path`, that of a CronJob's jobs included (which have no selector yet).
pub(super) fn job_spec(spec: &Value, path: &str, with_selector: bool, checks: &mut Checks) {
    for field in
        ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"]
    {
        checks.nonnegative(spec, field, path);
    }
    let mode = text(spec, "completionMode");
    if !["", "NonIndexed", "Indexed"].contains(&mode) {
        checks.not_supported(format!("{path}.completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode == "Indexed" && int(spec, "completions").is_none() {
        checks.required(format!("{path}.completions"), "when completion mode is Indexed");
    }
    if mode != "Indexed" {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = at(spec, &[field]) {
                checks.invalid(format!("{path}.{field}"), value, "requires indexed completion mode");
            }
        }
    }
    let template = spec.get("template").unwrap_or(&Value::Null);
    pod_spec::template(template, &format!("{path}.template"), checks);
    let restart = at(template, &["spec", "restartPolicy"]).and_then(Value::as_str).unwrap_or_default();
    let restart_path = format!("{path}.template.spec.restartPolicy");
    match restart {
        "" | "Always" => checks.required(restart_path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" | "Never" => {}
        other => checks.not_supported(restart_path, other, &["OnFailure", "Never"]),
    }
    if with_selector {
        if at(spec, &["selector"]).is_none() {
            checks.required(format!("{path}.selector"), "");
        }
        template_matches(spec, None, checks);
    }
}

/// Checks the selector that the server has made for a new Job.
pub(super) fn generated_selector(object: &Value, checks: &mut Checks) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    if flag(spec, "manualSelector") {
        return;
    }
    let key = "batch.kubernetes.io/controller-uid";
    let uid = crate::object::uid(object);
    let labels = at(spec, &["template", "metadata", "labels"]).cloned().unwrap_or_default();
    for (label, expected) in [(key, uid), ("batch.kubernetes.io/job-name", crate::object::name(object))] {
        let found = text(&labels, label);
        if found != expected {
            checks.invalid(
                format!("spec.template.metadata.labels[{label}]"),
                &json!(found),
                &format!("expected {expected:?}"),
            );
        }
    }
    if at(spec, &["selector"]) != Some(&json!({"matchLabels": {key: uid}})) {
        let shown = shown_selector(spec.get("selector").unwrap_or(&Value::Null));
        checks.invalid_text("spec.selector", &shown, "`selector` not auto-generated");
    }
}

/// Checks what an update may change of a Job.
pub(super) fn job_update(old: &Value, new: &Value, checks: &mut Checks) {
    let none = Value::Null;
    let (old_spec, new_spec) = (old.get("spec").unwrap_or(&none), new.get("spec").unwrap_or(&none));
    let elastic = text(new_spec, "completionMode") == "Indexed"
        && int(new_spec, "completions") == int(new_spec, "parallelism");
    if !elastic {
        checks.immutable(new_spec.get("completions"), old_spec.get("completions"), "spec.completions");
    }
    checks.immutable(new_spec.get("selector"), old_spec.get("selector"), "spec.selector");
    let suspended = flag(old_spec, "suspend") && at(old, &["status", "startTime"]).is_none();
    let comparable = |spec: &Value| {
        let mut template = spec.get("template").cloned().unwrap_or_default();
        if suspended {
            for field in ["nodeSelector", "tolerations", "schedulingGates", "affinity"] {
                if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
                    spec.remove(field);
                }
            }
            if let Some(template) = template.as_object_mut() {
                template.remove("metadata");
            }
        }
        template
    };
    if comparable(old_spec) != comparable(new_spec) {
        let template = new_spec.get("template").cloned().unwrap_or_default();
        checks.invalid("spec.template", &template, "field is immutable");
    }
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        checks.immutable(new_spec.get(field), old_spec.get(field), &format!("spec.{field}"));
    }
}

/// Checks a CronJob.
pub(super) fn cron_job(object: &Value, checks: &mut Checks) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let schedule = text(spec, "schedule");
    if schedule.is_empty() {
        checks.required("spec.schedule", "");
    } else if !schedule.starts_with('@') && schedule.split_whitespace().count() != 5 {
        let found = schedule.split_whitespace().count();
        let fields: Vec<&str> = schedule.split_whitespace().collect();
        let detail = format!("expected exactly 5 fields, found {found}: [{}]", fields.join(" "));
        checks.invalid("spec.schedule", &json!(schedule), &detail);
    }
    checks.nonnegative(spec, "startingDeadlineSeconds", "spec");
    one_of(spec, "concurrencyPolicy", "spec", &["Allow", "Forbid", "Replace"], checks);
    let job = at(spec, &["jobTemplate", "spec"]).unwrap_or(&Value::Null);
    job_spec(job, "spec.jobTemplate.spec", false, checks);
    checks.nonnegative(spec, "successfulJobsHistoryLimit", "spec");
    checks.nonnegative(spec, "failedJobsHistoryLimit", "spec");
    if crate::object::name(object).len() > 52 {
        let name = json!(crate::object::name(object));
        checks.invalid("metadata.name", &name, "must be no more than 52 characters");
    }
}

/// Checks the spec of a volume claim at `path`.
pub(super) fn claim_spec(spec: &Value, path: &str, checks: &mut Checks) {
    let known = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let modes = list(spec, "accessModes");
    if modes.is_empty() {
        checks.required(format!("{path}.accessModes"), "at least 1 access mode is required");
    }
    for mode in modes.iter().filter_map(Value::as_str) {
        if !known.contains(&mode) {
            checks.not_supported(format!("{path}.accessModes"), mode, &known);
        }
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let detail = "may not use ReadWriteOncePod with other access modes";
        checks.forbidden(format!("{path}.accessModes"), detail);
    }
    let storage = format!("{path}.resources[storage]");
    match at(spec, &["resources", "requests", "storage"]).and_then(Value::as_str) {
        None => checks.required(storage, ""),
        Some(amount) if Quantity::parse(amount).is_none_or(|quantity| quantity.nano() <= 0) => {
            checks.invalid(storage, &json!(amount), "must be greater than zero");
        }
        Some(_) => {}
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        checks.invalid_each(&format!("{path}.storageClassName"), class, names::dns_subdomain(class));
    }
    let mode = text(spec, "volumeMode");
    if !mode.is_empty() && !["Block", "Filesystem"].contains(&mode) {
        checks.not_supported(format!("{path}.volumeMode"), mode, &["Block", "Filesystem"]);
    }
}

/// Checks what an update may change of a claim.
pub(super) fn claim_update(old: &Value, new: &Value, checks: &mut Checks) {
    let bound = at(new, &["status", "phase"]).is_some_and(|phase| phase == "Bound");
    let none = Value::Null;
    let (old_spec, new_spec) = (old.get("spec").unwrap_or(&none), new.get("spec").unwrap_or(&none));
    let fixed = |spec: &Value| {
        let mut spec = spec.as_object().cloned().unwrap_or_default();
        if text(old_spec, "volumeName").is_empty() {
            spec.remove("volumeName");
        }
        if old_spec.get("storageClassName").is_none() {
            spec.remove("storageClassName");
        }
        if bound {
            spec.remove("volumeAttributesClassName");
            if let Some(requests) =
                spec.get_mut("resources").and_then(|resources| resources.get_mut("requests"))
                && let Some(requests) = requests.as_object_mut()
            {
                requests.remove("storage");
            }
        }
        spec
    };
    if fixed(old_spec) != fixed(new_spec) {
        checks.forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
             claims\n",
        );
    }
    let size = |spec: &Value| {
        at(spec, &["resources", "requests", "storage"]).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let capacity = at(old, &["status", "capacity", "storage"]).and_then(Value::as_str).unwrap_or("0");
    if smaller(&size(new_spec), &size(old_spec)) && !smaller(capacity, &size(new_spec)) {
        let path = "spec.resources.requests.storage";
        checks.forbidden(path, "field can not be less than status.capacity");
    }
    checks.immutable(new_spec.get("volumeMode"), old_spec.get("volumeMode"), "volumeMode");
}

/// Checks a label selector at `path`.
pub(super) fn selector(selector: &Value, path: &str, checks: &mut Checks) {
    meta::labels(selector, "matchLabels", &format!("{path}.matchLabels"), checks);
    for (index, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let values = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                checks.required(format!("{path}.values"), detail);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                checks.forbidden(format!("{path}.values"), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                checks.invalid(format!("{path}.operator"), &json!(other), "not a valid selector operator");
            }
        }
        let key = text(expression, "key");
        checks.invalid_each(&format!("{path}.key"), key, names::qualified_name(key));
        for (number, value) in values.iter().filter_map(Value::as_str).enumerate() {
            checks.invalid_each(&format!("{path}.values[{number}]"), value, names::label_value(value));
        }
    }
}

fn required_selector(spec: &Value, kind: &str, checks: &mut Checks) {
    let Some(given) = at(spec, &["selector"]) else {
        checks.required("spec.selector", "");
        return;
    };
    selector(given, "spec.selector", checks);
    if is_empty_selector(given) {
        checks.invalid("spec.selector", given, &format!("empty selector is invalid for {kind}"));
    }
}

fn is_empty_selector(selector: &Value) -> bool {
    pairs(selector, "matchLabels").next().is_none() && list(selector, "matchExpressions").is_empty()
}

fn replica_template(spec: &Value, kind: &str, checks: &mut Checks) {
    template_matches(spec, Some("invalid label selector"), checks);
    always_running(spec, kind, checks);
}

/// The selector must select the template. A missing selector selects nothing, an empty one everything; one that cannot be
/// read is refused with the text `unreadable`, if there is one.
fn template_matches(spec: &Value, unreadable: Option<&str>, checks: &mut Checks) {
    let labels = at(spec, &["template", "metadata", "labels"]).cloned().unwrap_or_default();
    let Some(selector) = at(spec, &["selector"]) else {
        checks.invalid(
            "spec.template.metadata.labels",
            &labels,
            "`selector` does not match template `labels`",
        );
        return;
    };
    let mut problems = Checks::default();
    self::selector(selector, "", &mut problems);
    if !problems.0.is_empty() {
        if let Some(detail) = unreadable {
            checks.invalid_text("spec.selector", &shown_selector(selector), detail);
        }
        return;
    }
    let expression = |expression: &Value| {
        let value = labels.get(text(expression, "key"));
        let listed = value.is_some_and(|value| list(expression, "values").contains(value));
        match text(expression, "operator") {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => true,
        }
    };
    let matches = pairs(selector, "matchLabels").all(|(key, value)| labels.get(key) == Some(value))
        && list(selector, "matchExpressions").iter().all(expression);
    if !matches {
        checks.invalid(
            "spec.template.metadata.labels",
            &labels,
            "`selector` does not match template `labels`",
        );
    }
}

/// A selector with its fields in the API server's order.
fn shown_selector(selector: &Value) -> String {
    let fields = |object: &Value, names: &[&str]| {
        let shown: Vec<String> =
            names.iter().filter_map(|name| Some(format!("\"{name}\":{}", object.get(*name)?))).collect();
        shown.join(",")
    };
    let mut parts = vec![fields(selector, &["matchLabels"])];
    if selector.get("matchExpressions").is_some() {
        let expressions: Vec<String> = list(selector, "matchExpressions")
            .iter()
            .map(|expression| format!("{{{}}}", fields(expression, &["key", "operator", "values"])))
            .collect();
        parts.push(format!("\"matchExpressions\":[{}]", expressions.join(",")));
    }
    parts.retain(|part| !part.is_empty());
    format!("{{{}}}", parts.join(","))
}

/// The template of a workload whose pods never end.
fn always_running(spec: &Value, kind: &str, checks: &mut Checks) {
    let template = spec.get("template").unwrap_or(&Value::Null);
    pod_spec::template(template, "spec.template", checks);
    let pod = template.get("spec").unwrap_or(&Value::Null);
    if text(pod, "restartPolicy") != "Always" {
        checks.not_supported("spec.template.spec.restartPolicy", text(pod, "restartPolicy"), &["Always"]);
    }
    if at(pod, &["activeDeadlineSeconds"]).is_some() {
        let path = "spec.template.spec.activeDeadlineSeconds";
        checks.forbidden(path, &format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

fn int_or_percent(holder: &Value, key: &str, path: &str, checks: &mut Checks) {
    match holder.get(key) {
        Some(Value::String(text)) if !is_percent(text) => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
                          '93%', regex used for validation is '[0-9]+%')";
            checks.invalid(format!("{path}.{key}"), &json!(text), detail);
        }
        Some(Value::Number(_)) => checks.nonnegative(holder, key, path),
        _ => {}
    }
}

fn is_percent(text: &str) -> bool {
    text.strip_suffix('%')
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()))
}

/// A number, or the number in a percentage.
fn amount(value: &Value) -> i64 {
    let percent = || value.as_str()?.strip_suffix('%')?.parse().ok();
    value.as_i64().or_else(percent).unwrap_or_default()
}
