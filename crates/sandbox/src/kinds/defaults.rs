//! What the API server fills in when it reads an object: the defaults of each kind.

use serde_json::{Map, Value, json};

use super::check::{at, child, default_text, default_to};
use super::template::{default_claim, default_pod, default_spec, default_template, objects};
use crate::object;

/// Fills in the defaults of a built-in kind.
pub(crate) fn apply(group: &str, plural: &str, object: &mut Value) {
    match (group, plural) {
        ("", "pods") => pod(object),
        ("", "podtemplates") => {
            child(object, "template");
            template(object.get_mut("template"));
        }
        ("", "replicationcontrollers") => replication_controller(object),
        ("apps", "replicasets") => replica_set(object),
        ("apps", "deployments") => deployment(object),
        ("apps", "daemonsets") => daemon_set(object),
        ("apps", "statefulsets") => stateful_set(object),
        ("batch", "jobs") => job(object),
        ("batch", "cronjobs") => cron_job(object),
        ("", "persistentvolumeclaims") => default_claim(object),
        ("", "persistentvolumes") => persistent_volume(object),
        ("", "services") => service(object),
        ("", "namespaces") => namespace(object),
        ("", "nodes") => node(object),
        ("", "secrets") => {
            secret_data(object);
            set_text(object, "type", "Opaque");
        }
        ("", "endpoints") => endpoints(object),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => webhooks(object, true),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => webhooks(object, false),
        ("storage.k8s.io", "storageclasses") => {
            set(object, "reclaimPolicy", "Delete");
            set(object, "volumeBindingMode", "Immediate");
        }
        ("storage.k8s.io", "csidrivers") => csi_driver(object),
        ("scheduling.k8s.io", "priorityclasses") => set(object, "preemptionPolicy", "PreemptLowerPriority"),
        ("discovery.k8s.io", "endpointslices") => {
            for port in objects(object.get_mut("ports")) {
                default_to(port, "name", "");
                default_to(port, "protocol", "TCP");
            }
        }
        ("networking.k8s.io", "networkpolicies") => network_policy(object),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => binding(object),
        ("autoscaling", "horizontalpodautoscalers") => autoscaler(object),
        _ => {}
    }
}

fn set(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(object) = object.as_object_mut() {
        default_to(object, key, value);
    }
}

fn set_text(object: &mut Value, key: &str, value: &str) {
    if let Some(object) = object.as_object_mut() {
        default_text(object, key, value);
    }
}

fn template(template: Option<&mut Value>) {
    if let Some(template) = template {
        default_template(template);
    }
}

/// `spec.template`, made if missing, with its defaults.
fn spec_template(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        template(Some(spec.entry("template").or_insert_with(|| json!({}))));
    }
}

fn pod(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        default_spec(spec);
        default_pod(spec);
    }
    if let Some(status) = child(object, "status") {
        default_text(status, "phase", "Pending");
    }
}

fn replication_controller(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    default_to(spec, "replicas", 1);
    template(spec.get_mut("template"));
    let labels = spec.get("template").and_then(|template| at(template, &["metadata", "labels"])).cloned();
    let Some(labels) = labels else { return };
    default_to(spec, "selector", labels.clone());
    if let Some(meta) = child(object, "metadata") {
        default_to(meta, "labels", labels);
    }
}

fn replica_set(object: &mut Value) {
    spec_template(object);
    if let Some(spec) = child(object, "spec") {
        default_to(spec, "replicas", 1);
    }
}

fn deployment(object: &mut Value) {
    spec_template(object);
    let Some(spec) = child(object, "spec") else { return };
    default_to(spec, "replicas", 1);
    default_to(spec, "revisionHistoryLimit", 10);
    default_to(spec, "progressDeadlineSeconds", 600);
    rolling(spec, "strategy", &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))]);
}

fn daemon_set(object: &mut Value) {
    spec_template(object);
    let Some(spec) = child(object, "spec") else { return };
    default_to(spec, "revisionHistoryLimit", 10);
    rolling(spec, "updateStrategy", &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))]);
}

/// An update strategy that is a rolling update unless said otherwise, with its parameters.
fn rolling(spec: &mut Map<String, Value>, key: &str, parameters: &[(&str, Value)]) {
    default_to(spec, key, json!({}));
    let Some(strategy) = spec.get_mut(key).and_then(Value::as_object_mut) else { return };
    default_text(strategy, "type", "RollingUpdate");
    if strategy.get("type").is_some_and(|kind| kind == "RollingUpdate") {
        default_to(strategy, "rollingUpdate", json!({}));
        if let Some(update) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
            for (name, value) in parameters {
                default_to(update, name, value.clone());
            }
        }
    }
}

fn stateful_set(object: &mut Value) {
    spec_template(object);
    let Some(spec) = child(object, "spec") else { return };
    default_text(spec, "podManagementPolicy", "OrderedReady");
    default_to(spec, "replicas", 1);
    default_to(spec, "revisionHistoryLimit", 10);
    default_to(spec, "updateStrategy", json!({}));
    if let Some(strategy) = spec.get_mut("updateStrategy").and_then(Value::as_object_mut) {
        if strategy.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
            strategy.insert("type".to_owned(), json!("RollingUpdate"));
            default_to(strategy, "rollingUpdate", json!({}));
        }
        if strategy.get("type").is_some_and(|kind| kind == "RollingUpdate")
            && let Some(update) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut)
        {
            default_to(update, "partition", 0);
        }
    }
    default_to(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
    if let Some(policy) = spec.get_mut("persistentVolumeClaimRetentionPolicy").and_then(Value::as_object_mut)
    {
        default_text(policy, "whenDeleted", "Retain");
        default_text(policy, "whenScaled", "Retain");
    }
    if let Some(claims) = spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut) {
        for claim in claims {
            // The API server writes a template out as the claim it is the template of.
            if let Some(claim) = claim.as_object_mut() {
                default_text(claim, "kind", "PersistentVolumeClaim");
                default_text(claim, "apiVersion", "v1");
            }
            default_claim(claim);
        }
    }
}

fn job(object: &mut Value) {
    spec_template(object);
    let Some(spec) = child(object, "spec") else { return };
    default_job_spec(spec);
}

fn default_job_spec(spec: &mut Map<String, Value>) {
    let absent = |spec: &Map<String, Value>, key: &str| spec.get(key).is_none_or(Value::is_null);
    if absent(spec, "completions") && absent(spec, "parallelism") {
        spec.insert("completions".to_owned(), json!(1));
    }
    default_to(spec, "parallelism", 1);
    let per_index = !absent(spec, "backoffLimitPerIndex");
    default_to(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    default_to(spec, "completionMode", "NonIndexed");
    default_to(spec, "suspend", false);
    let replacement = if absent(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    default_to(spec, "podReplacementPolicy", replacement);
    default_to(spec, "manualSelector", false);
}

fn cron_job(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    default_text(spec, "concurrencyPolicy", "Allow");
    default_to(spec, "suspend", false);
    default_to(spec, "successfulJobsHistoryLimit", 3);
    default_to(spec, "failedJobsHistoryLimit", 1);
    let template = spec.entry("jobTemplate").or_insert_with(|| json!({}));
    child(template, "metadata");
    // The job itself gets its defaults when it is created; its pod template is read as one already.
    spec_template(template);
}

fn persistent_volume(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default_to(spec, "volumeMode", "Filesystem");
        if let Some(path) = spec.get_mut("hostPath").and_then(Value::as_object_mut) {
            default_to(path, "type", "");
        }
    }
    if let Some(status) = child(object, "status") {
        default_text(status, "phase", "Pending");
    }
}

fn service(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    default_text(spec, "sessionAffinity", "None");
    if spec.get("sessionAffinity").is_some_and(|affinity| affinity == "ClientIP") {
        default_to(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    } else {
        spec.remove("sessionAffinityConfig");
    }
    default_text(spec, "type", "ClusterIP");
    for port in objects(spec.get_mut("ports")) {
        default_text(port, "protocol", "TCP");
        let unset =
            port.get("targetPort").is_none_or(|target| target.is_null() || target == 0 || target == "");
        if let Some(number) = port.get("port").cloned().filter(|_| unset) {
            port.insert("targetPort".to_owned(), number);
        }
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let external = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    if kind == "NodePort" || kind == "LoadBalancer" || (kind == "ClusterIP" && external) {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        default_to(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_to(spec, "allocateLoadBalancerNodePorts", true);
    }
    if let Some(status) = child(object, "status") {
        default_to(status, "loadBalancer", json!({}));
    }
}

fn namespace(object: &mut Value) {
    let name = object::name(object).to_owned();
    if let Some(meta) = child(object, "metadata").filter(|_| !name.is_empty()) {
        default_to(meta, "labels", json!({}));
        if let Some(labels) = meta.get_mut("labels").and_then(Value::as_object_mut) {
            labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
        }
    }
    child(object, "spec");
    if let Some(status) = child(object, "status") {
        default_text(status, "phase", "Active");
    }
}

fn node(object: &mut Value) {
    child(object, "spec");
    let Some(status) = child(object, "status") else { return };
    if let Some(capacity) = status.get("capacity").cloned() {
        default_to(status, "allocatable", capacity);
    }
}

/// `stringData` is written into `data` and not kept.
fn secret_data(object: &mut Value) {
    use base64::Engine;
    let Some(plain) = object.as_object_mut().and_then(|object| object.remove("stringData")) else { return };
    let Value::Object(plain) = plain else { return };
    if plain.is_empty() {
        return;
    }
    if let Some(data) = child(object, "data") {
        for (key, value) in plain {
            let encoded =
                base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            data.insert(key, Value::String(encoded));
        }
    }
}

fn endpoints(object: &mut Value) {
    for subset in objects(object.get_mut("subsets")) {
        for port in objects(subset.get_mut("ports")) {
            default_text(port, "protocol", "TCP");
        }
    }
}

fn webhooks(object: &mut Value, mutating: bool) {
    for webhook in objects(object.get_mut("webhooks")) {
        default_to(webhook, "failurePolicy", "Fail");
        default_to(webhook, "matchPolicy", "Equivalent");
        default_to(webhook, "namespaceSelector", json!({}));
        default_to(webhook, "objectSelector", json!({}));
        default_to(webhook, "timeoutSeconds", 10);
        if mutating {
            default_to(webhook, "reinvocationPolicy", "Never");
        }
        for rule in objects(webhook.get_mut("rules")) {
            default_to(rule, "scope", "*");
        }
        let service = webhook.get_mut("clientConfig").and_then(|config| config.get_mut("service"));
        if let Some(service) = service.and_then(Value::as_object_mut) {
            default_to(service, "port", 443);
        }
    }
}

fn csi_driver(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    default_to(spec, "attachRequired", true);
    default_to(spec, "podInfoOnMount", false);
    default_to(spec, "storageCapacity", false);
    default_to(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    default_to(spec, "volumeLifecycleModes", json!(["Persistent"]));
    default_to(spec, "requiresRepublish", false);
}

fn network_policy(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    default_to(spec, "podSelector", json!({}));
    let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    default_to(spec, "policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    for rules in ["ingress", "egress"] {
        for rule in objects(spec.get_mut(rules)) {
            for port in objects(rule.get_mut("ports")) {
                default_to(port, "protocol", "TCP");
            }
        }
    }
}

fn binding(object: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    if let Some(role) = child(object, "roleRef") {
        default_text(role, "apiGroup", GROUP);
    }
    for subject in objects(object.get_mut("subjects")) {
        if subject.get("kind").is_some_and(|kind| kind == "User" || kind == "Group") {
            default_text(subject, "apiGroup", GROUP);
        }
    }
}

fn autoscaler(object: &mut Value) {
    let two = object.get("apiVersion").is_some_and(|version| version == "autoscaling/v2");
    let Some(spec) = child(object, "spec") else { return };
    default_to(spec, "minReplicas", 1);
    if two && spec.get("metrics").is_none_or(|metrics| metrics.as_array().is_none_or(Vec::is_empty)) {
        let cpu = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}});
        spec.insert("metrics".to_owned(), json!([{"type": "Resource", "resource": cpu}]));
    }
}
