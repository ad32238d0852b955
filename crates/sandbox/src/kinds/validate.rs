//! Validation of built-in kinds: which checks belong to which resource.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::check::{Checks, at, flag, int, list, pairs, text};
use super::pod_spec::one_of;
use super::{names, pod_spec, pod_update, workloads};
use crate::object;
use crate::resource::Resource;

/// Bytes that the data of a config map or secret may have.
const DATA_MAX: usize = 1024 * 1024;

/// Checks an object to be created.
pub(super) fn create(resource: &Resource, object: &Value, checks: &mut Checks) {
    body(resource, object, true, checks);
    let spec = object.get("spec").unwrap_or(&Value::Null);
    if (resource.group.as_str(), resource.plural.as_str()) == ("", "pods") {
        if !list(spec, "ephemeralContainers").is_empty() {
            checks.forbidden("spec.ephemeralContainers", "cannot be set on create");
        }
        if !list(spec, "schedulingGates").is_empty() && !text(spec, "nodeName").is_empty() {
            checks.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
        }
    }
    if (resource.group.as_str(), resource.plural.as_str()) == ("apps", "controllerrevisions") {
        match at(object, &["data"]) {
            None => checks.required("data", "data is mandatory"),
            Some(Value::Object(_)) => {}
            Some(_) => checks.required("data", "data must be a valid JSON object"),
        }
    }
}

/// Checks an update.
pub(super) fn update(
    resource: &Resource,
    subresource: Option<&str>,
    old: &Value,
    new: &Value,
    checks: &mut Checks,
) {
    let key = (resource.group.as_str(), resource.plural.as_str());
    match (key, subresource) {
        (("", "pods"), Some("status")) => pod_update::status(old, new, checks),
        (("", "pods"), Some("resize")) => {
            body(resource, new, false, checks);
            pod_update::resize(old, new, checks);
        }
        (_, Some("status" | "approval" | "finalize")) => status(key, new, checks),
        (("", "pods"), Some("ephemeralcontainers")) => {
            body(resource, new, false, checks);
            pod_update::ephemeral(old, new, checks);
        }
        _ => {
            body(resource, new, false, checks);
            changes(key, old, new, checks);
        }
    }
}

/// Checks that look at one state of the object.
fn body(resource: &Resource, object: &Value, created: bool, checks: &mut Checks) {
    let none = Value::Null;
    let spec = object.get("spec").unwrap_or(&none);
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => {
            pod_spec::pod_spec(spec, "spec", checks);
            pod_spec::only_for_pods(spec, "spec", checks);
        }
        ("", "namespaces") => {
            for name in list(spec, "finalizers").iter().filter_map(Value::as_str) {
                checks.invalid_each("spec.finalizers", name, names::qualified_name(name));
                super::meta::kubernetes_finalizer(name, "spec.finalizers", checks);
            }
        }
        ("", "podtemplates") => {
            pod_spec::template(object.get("template").unwrap_or(&none), "template", checks);
        }
        ("", "replicationcontrollers") => workloads::replication_controller(object, checks),
        ("apps", "deployments") => workloads::deployment(object, checks),
        ("apps", "replicasets") => workloads::replica_set(object, checks),
        ("apps", "daemonsets") => workloads::daemon_set(object, checks),
        ("apps", "statefulsets") => workloads::stateful_set(object, created, checks),
        ("apps", "controllerrevisions") => {
            if let Some(revision) = int(object, "revision").filter(|revision| *revision < 0) {
                checks.invalid("revision", &json!(revision), "must be greater than or equal to 0");
            }
        }
        ("batch", "jobs") => {
            if created {
                workloads::generated_selector(object, checks);
            }
            workloads::job_spec(spec, "spec", true, checks);
        }
        ("batch", "cronjobs") => workloads::cron_job(object, checks),
        ("", "persistentvolumeclaims") => workloads::claim_spec(spec, "spec", checks),
        ("", "persistentvolumes") => persistent_volume(spec, checks),
        ("", "services") => service(spec, checks),
        ("", "configmaps") => {
            data_keys(object, "data", checks);
            data_keys(object, "binaryData", checks);
            let bytes =
                |key| pairs(object, key).map(|(_, value)| value.as_str().map_or(0, str::len)).sum::<usize>();
            if bytes("data") + bytes("binaryData") / 4 * 3 > DATA_MAX {
                checks.too_long("[]", DATA_MAX);
            }
        }
        ("", "secrets") => secret(object, checks),
        ("", "events") => event(object, checks),
        ("events.k8s.io", "events") if created => new_event(object, checks),
        ("coordination.k8s.io", "leases") => lease(spec, checks),
        ("policy", "poddisruptionbudgets") => budget(spec, checks),
        ("scheduling.k8s.io", "priorityclasses") => priority_class(object, checks),
        ("autoscaling", _) => autoscaler(spec, checks),
        ("storage.k8s.io", "storageclasses") if text(object, "provisioner").is_empty() => {
            checks.required("provisioner", "");
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => role_binding(object, checks),
        ("networking.k8s.io", "networkpolicies") => {
            let selector = spec.get("podSelector").unwrap_or(&none);
            workloads::selector(selector, "spec.podSelector", checks);
        }
        _ => {}
    }
}

/// Checks of what has changed.
fn changes(key: (&str, &str), old: &Value, new: &Value, checks: &mut Checks) {
    let field = |object: &'_ Value, keys: &[&str]| at(object, keys).cloned();
    let same = |keys: &[&str], checks: &mut Checks| {
        checks.immutable(field(new, keys).as_ref(), field(old, keys).as_ref(), &keys.join("."));
    };
    match key {
        ("", "pods") => pod_update::check(old, new, checks),
        ("apps", "deployments" | "replicasets" | "daemonsets") => same(&["spec", "selector"], checks),
        ("apps", "statefulsets") => workloads::stateful_set_update(old, new, checks),
        ("apps", "controllerrevisions") => same(&["data"], checks),
        ("batch", "jobs") => workloads::job_update(old, new, checks),
        ("", "persistentvolumeclaims") => workloads::claim_update(old, new, checks),
        ("", "configmaps") => sealed(old, new, &["data", "binaryData"], checks),
        ("", "secrets") => {
            same(&["type"], checks);
            sealed(old, new, &["data"], checks);
        }
        ("", "services") => service_update(old, new, checks),
        ("scheduling.k8s.io", "priorityclasses") => {
            if field(old, &["value"]) != field(new, &["value"]) {
                checks.forbidden("value", "may not be changed in an update.");
            }
            same(&["preemptionPolicy"], checks);
        }
        ("storage.k8s.io", "storageclasses") => {
            for name in ["parameters", "provisioner", "reclaimPolicy"] {
                if field(old, &[name]) != field(new, &[name]) {
                    checks.forbidden(name, &format!("updates to {name} are forbidden."));
                }
            }
            same(&["volumeBindingMode"], checks);
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings")
            if field(old, &["roleRef"]) != field(new, &["roleRef"]) =>
        {
            let role = field(new, &["roleRef"]).unwrap_or_default();
            checks.invalid("roleRef", &role, "cannot change roleRef");
        }
        _ => {}
    }
}

/// Checks of a status: counters are not negative and no set has more ready pods than pods.
fn status(key: (&str, &str), new: &Value, checks: &mut Checks) {
    if key.0 != "apps" && key != ("", "replicationcontrollers") {
        return;
    }
    let status = new.get("status").unwrap_or(&Value::Null);
    let counters = [
        "replicas",
        "fullyLabeledReplicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "currentReplicas",
    ];
    for counter in counters {
        checks.nonnegative(status, counter, "status");
    }
    let replicas = int(status, "replicas").unwrap_or_default();
    let replica_sets = matches!(key.1, "replicasets" | "replicationcontrollers");
    for counter in ["fullyLabeledReplicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        // A counter that is left out is zero where the kind has it.
        let count =
            int(status, counter).or_else(|| (replica_sets && counter != "updatedReplicas").then_some(0));
        if let Some(count) = count.filter(|count| *count > replicas && key.1 != "daemonsets") {
            let detail = "cannot be greater than status.replicas";
            checks.invalid(format!("status.{counter}"), &json!(count), detail);
        }
    }
    let ready = int(status, "readyReplicas").unwrap_or_default();
    if let Some(available) = int(status, "availableReplicas").filter(|available| *available > ready)
        && key.1 != "daemonsets"
    {
        let detail = "cannot be greater than readyReplicas";
        checks.invalid("status.availableReplicas", &json!(available), detail);
    }
}

/// Data under `immutable: true` stays.
fn sealed(old: &Value, new: &Value, fields: &[&str], checks: &mut Checks) {
    if !flag(old, "immutable") {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if !flag(new, "immutable") {
        checks.forbidden("immutable", detail);
    }
    for field in fields {
        if old.get(*field) != new.get(*field) {
            checks.forbidden(*field, detail);
        }
    }
}

fn data_keys(object: &Value, field: &str, checks: &mut Checks) {
    for (key, _) in pairs(object, field) {
        checks.invalid_each(&format!("{field}[{key}]"), key, names::config_key(key));
        if field == "data" && at(object, &["binaryData", key]).is_some() {
            checks.invalid(format!("data[{key}]"), &json!(key), "duplicate of key present in binaryData");
        }
    }
}

fn secret(object: &Value, checks: &mut Checks) {
    data_keys(object, "data", checks);
    let required: &[&str] = match text(object, "type") {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            if at(object, &["metadata", "annotations", name]).is_none() {
                checks.required(format!("metadata.annotations[{name}]"), "");
            }
            &[]
        }
        _ => &[],
    };
    for key in required {
        if object.get("data").and_then(|data| data.get(*key)).is_none() {
            checks.required(format!("data[{key}]"), "");
        }
    }
}

/// Fields of a volume's spec that are not its source.
const NO_SOURCES: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn persistent_volume(spec: &Value, checks: &mut Checks) {
    if list(spec, "accessModes").is_empty() {
        checks.required("spec.accessModes", "");
    }
    if pairs(spec, "capacity").next().is_none() {
        checks.required("spec.capacity", "");
        checks.not_supported_text("spec.capacity", "null", &["storage"]);
    }
    let sources =
        spec.as_object().into_iter().flatten().filter(|(key, _)| !NO_SOURCES.contains(&key.as_str()));
    if sources.count() == 0 {
        checks.required("spec", "must specify a volume type");
    }
    let policies = ["Delete", "Recycle", "Retain"];
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    if !policies.contains(&policy) {
        checks.not_supported("spec.persistentVolumeReclaimPolicy", policy, &policies);
    }
}

fn service(spec: &Value, checks: &mut Checks) {
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    let ports = list(spec, "ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        checks.required("spec.ports", "");
    }
    if kind == "ExternalName" && text(spec, "externalName").is_empty() {
        checks.required("spec.externalName", "");
    }
    if headless && (kind == "LoadBalancer" || kind == "NodePort") {
        let detail = format!("may not be set to 'None' for {kind} services");
        checks.invalid("spec.clusterIPs[0]", &json!("None"), &detail);
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(port, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                checks.required(format!("{path}.name"), "");
            }
        } else {
            checks.invalid_each(&format!("{path}.name"), name, names::dns_label(name));
            if !seen.insert(name) {
                checks.duplicate(format!("{path}.name"), name);
            }
        }
        let number = int(port, "port").unwrap_or_default();
        for detail in names::port_number(number) {
            checks.invalid(format!("{path}.port"), &json!(number), &detail);
        }
        one_of(port, "protocol", &path, &["SCTP", "TCP", "UDP"], checks);
        let target = port.get("targetPort").cloned().unwrap_or_else(|| json!(0));
        let errors = match &target {
            Value::String(name) => names::port_name(name),
            number => names::port_number(number.as_i64().unwrap_or_default()),
        };
        for detail in errors {
            checks.invalid(format!("{path}.targetPort"), &target, &detail);
        }
    }
    super::meta::labels(spec, "selector", "spec.selector", checks);
    let affinity = text(spec, "sessionAffinity");
    if !["ClientIP", "None"].contains(&affinity) {
        checks.not_supported("spec.sessionAffinity", affinity, &["ClientIP", "None"]);
    }
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !kinds.contains(&kind) {
        checks.not_supported("spec.type", kind, &kinds);
    }
}

fn service_update(old: &Value, new: &Value, checks: &mut Checks) {
    let external =
        |service: &Value| at(service, &["spec", "type"]).is_some_and(|kind| kind == "ExternalName");
    if external(old) || external(new) {
        return;
    }
    let address = |service: &Value| at(service, &["spec", "clusterIPs"]).and_then(Value::as_array).cloned();
    if let (Some(former), Some(now)) = (address(old), address(new))
        && former.first() != now.first()
    {
        checks.invalid("spec.clusterIPs[0]", &json!(now), "may not change once set");
    }
}

fn event(object: &Value, checks: &mut Checks) {
    let involved = at(object, &["involvedObject", "namespace"]).and_then(Value::as_str).unwrap_or_default();
    let namespace = object::namespace(object);
    let unplaced = involved.is_empty() && (namespace == "default" || namespace == "kube-system");
    if involved != namespace && !unplaced {
        checks.invalid("involvedObject.namespace", &json!(involved), "does not match event.namespace");
    }
}

fn new_event(object: &Value, checks: &mut Checks) {
    for (field, detail) in
        [("eventTime", ""), ("reportingController", ""), ("reportingInstance", ""), ("action", "")]
    {
        if at(object, &[field]).is_none() {
            checks.required(field, detail);
            if field == "eventTime" {
                break;
            }
        }
    }
    let kind = text(object, "type");
    if !["Normal", "Warning"].contains(&kind) {
        checks.invalid("type", &json!(""), &format!("has invalid value: {kind}"));
    }
}

fn lease(spec: &Value, checks: &mut Checks) {
    if let Some(seconds) = int(spec, "leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        checks.invalid("spec.leaseDurationSeconds", &json!(seconds), "must be greater than 0");
    }
    checks.nonnegative(spec, "leaseTransitions", "spec");
}

fn budget(spec: &Value, checks: &mut Checks) {
    let (least, most) = (at(spec, &["minAvailable"]), at(spec, &["maxUnavailable"]));
    if least.is_some() && most.is_some() {
        let field = |name: &str| spec.get(name).cloned().unwrap_or_default();
        let shown = format!(
            "{{\"MinAvailable\":{},\"Selector\":{},\"MaxUnavailable\":{},\"UnhealthyPodEvictionPolicy\":{}}}",
            field("minAvailable"),
            field("selector"),
            field("maxUnavailable"),
            field("unhealthyPodEvictionPolicy"),
        );
        checks.invalid_text("spec", &shown, "minAvailable and maxUnavailable cannot be both set");
    }
    for field in ["minAvailable", "maxUnavailable"] {
        checks.nonnegative(spec, field, "spec");
    }
    workloads::selector(spec.get("selector").unwrap_or(&Value::Null), "spec.selector", checks);
}

fn priority_class(object: &Value, checks: &mut Checks) {
    const HIGHEST: i64 = 1_000_000_000;
    let value = int(object, "value").unwrap_or_default();
    if value > HIGHEST && !object::name(object).starts_with("system-") {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        checks.forbidden("value", &detail);
    }
}

fn autoscaler(spec: &Value, checks: &mut Checks) {
    let most = int(spec, "maxReplicas").unwrap_or_default();
    if let Some(least) = int(spec, "minReplicas").filter(|least| *least < 1) {
        checks.invalid("spec.minReplicas", &json!(least), "must be greater than or equal to 1");
    }
    if most < 1 {
        checks.invalid("spec.maxReplicas", &json!(most), "must be greater than 0");
    }
    if int(spec, "minReplicas").is_some_and(|least| most < least) {
        checks.invalid("spec.maxReplicas", &json!(most), "must be greater than or equal to `minReplicas`");
    }
    let target = spec.get("scaleTargetRef").unwrap_or(&Value::Null);
    for field in ["kind", "name"] {
        if text(target, field).is_empty() {
            checks.required(format!("spec.scaleTargetRef.{field}"), "");
        }
    }
    if text(target, "apiVersion").is_empty() {
        checks.invalid("spec.scaleTargetRef.apiVersion", &json!(""), "apiVersion must specify API group");
    }
    let outside = |metric: &Value| ["Object", "External"].contains(&text(metric, "type"));
    if int(spec, "minReplicas") == Some(0) && !list(spec, "metrics").iter().any(outside) {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        checks.forbidden("spec.metrics", detail);
    }
}

fn role_binding(object: &Value, checks: &mut Checks) {
    let role = object.get("roleRef").unwrap_or(&Value::Null);
    if !["Role", "ClusterRole"].contains(&text(role, "kind")) {
        checks.not_supported("roleRef.kind", text(role, "kind"), &["Role", "ClusterRole"]);
    }
    if text(role, "name").is_empty() {
        checks.required("roleRef.name", "");
    }
}
