//! Defaults of pods, pod templates and volume claims.

use serde_json::{Map, Value, json};

use super::check::{child, default_text, default_to};
use super::quantity::Quantity;

/// Fills in what a pod spec leaves out, in a pod as in a template.
pub(crate) fn default_spec(spec: &mut Map<String, Value>) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_to(spec, "securityContext", json!({}));
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_text(spec, "schedulerName", "default-scheduler");
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in objects(spec.get_mut(field)) {
            default_container(container);
            // Rules of restarting single containers are behind a gate that is off; sidecars are not.
            container.remove("restartPolicyRules");
            let sidecar = container.get("restartPolicy").is_some_and(|policy| policy == "Always");
            if field != "initContainers" || !sidecar {
                container.remove("restartPolicy");
            }
        }
    }
    round_up(spec.get_mut("overhead"));
    for volume in objects(spec.get_mut("volumes")) {
        default_volume(volume);
    }
    // The old name of the field is kept in step with the new one.
    let account = ["serviceAccountName", "serviceAccount"]
        .iter()
        .find_map(|name| spec.get(*name).filter(|value| value.as_str().is_some_and(|text| !text.is_empty())))
        .cloned();
    if let Some(account) = account {
        spec.insert("serviceAccountName".to_owned(), account.clone());
        spec.insert("serviceAccount".to_owned(), account);
    }
}

/// Fills in what only pods get, not templates.
pub(crate) fn default_pod(spec: &mut Map<String, Value>) {
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for field in ["containers", "initContainers"] {
        for container in objects(spec.get_mut(field)) {
            requests_from_limits(container);
            if host_network {
                for port in objects(container.get_mut("ports")) {
                    let number = port.get("containerPort").cloned().unwrap_or_default();
                    if port.get("hostPort").is_none_or(|port| port.is_null() || port == 0) {
                        port.insert("hostPort".to_owned(), number);
                    }
                }
            }
        }
    }
    default_to(spec, "enableServiceLinks", true);
}

/// Fills in a `PodTemplateSpec`.
pub(crate) fn default_template(template: &mut Value) {
    if !template.is_object() {
        return;
    }
    child(template, "metadata");
    if let Some(spec) = child(template, "spec") {
        default_spec(spec);
    }
}

/// Fills in a claim, or a template of one.
pub(crate) fn default_claim(claim: &mut Value) {
    if let Some(spec) = child(claim, "spec") {
        default_to(spec, "volumeMode", "Filesystem");
        default_resources(spec);
    }
    if let Some(status) = child(claim, "status") {
        default_text(status, "phase", "Pending");
    }
}

fn default_container(container: &mut Map<String, Value>) {
    let policy = pull_policy(container.get("image").and_then(Value::as_str).unwrap_or_default());
    default_text(container, "imagePullPolicy", policy);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default_to(container, "resources", json!({}));
    default_resources(container);
    for port in objects(container.get_mut("ports")) {
        default_text(port, "protocol", "TCP");
    }
    for variable in objects(container.get_mut("env")) {
        if let Some(source) = variable.get_mut("valueFrom").and_then(Value::as_object_mut) {
            default_field_ref(source);
            if let Some(key) = source.get_mut("resourceFieldRef").and_then(Value::as_object_mut) {
                default_to(key, "divisor", "0");
            }
        }
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(kind).and_then(Value::as_object_mut) {
            default_number(probe, "timeoutSeconds", 1);
            default_number(probe, "periodSeconds", 10);
            default_number(probe, "successThreshold", 1);
            default_number(probe, "failureThreshold", 3);
            default_http_get(probe);
            if let Some(grpc) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
                default_to(grpc, "service", "");
            }
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container
            .get_mut("lifecycle")
            .and_then(|lifecycle| lifecycle.get_mut(hook))
            .and_then(Value::as_object_mut)
        {
            default_http_get(handler);
        }
    }
}

fn default_http_get(handler: &mut Map<String, Value>) {
    if let Some(http) = handler.get_mut("httpGet").and_then(Value::as_object_mut) {
        default_text(http, "path", "/");
        default_text(http, "scheme", "HTTP");
    }
}

fn default_volume(volume: &mut Map<String, Value>) {
    if !volume.iter().any(|(key, value)| key != "name" && !value.is_null()) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    if let Some(path) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        default_to(path, "type", "");
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(kind).and_then(Value::as_object_mut) {
            default_to(source, "defaultMode", 0o644);
        }
    }
    if let Some(source) = volume.get_mut("downwardAPI").and_then(Value::as_object_mut) {
        default_items(source);
    }
    let projected = volume.get_mut("projected").and_then(Value::as_object_mut);
    for source in objects(projected.and_then(|projected| projected.get_mut("sources"))) {
        if let Some(downward) = source.get_mut("downwardAPI").and_then(Value::as_object_mut) {
            default_items(downward);
        }
        if let Some(token) = source.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
            default_to(token, "expirationSeconds", 3600);
        }
    }
    if let Some(image) = volume.get_mut("image").and_then(Value::as_object_mut) {
        let policy = pull_policy(image.get("reference").and_then(Value::as_str).unwrap_or_default());
        default_text(image, "pullPolicy", policy);
    }
    if let Some(template) = volume
        .get_mut("ephemeral")
        .and_then(|source| source.get_mut("volumeClaimTemplate"))
        .filter(|template| template.is_object())
        && let Some(spec) = child(template, "spec")
    {
        default_to(spec, "volumeMode", "Filesystem");
        default_resources(spec);
    }
}

fn default_items(source: &mut Map<String, Value>) {
    for item in objects(source.get_mut("items")) {
        default_field_ref(item);
    }
}

fn default_field_ref(holder: &mut Map<String, Value>) {
    if let Some(field) = holder.get_mut("fieldRef").and_then(Value::as_object_mut) {
        default_text(field, "apiVersion", "v1");
    }
}

fn default_number(holder: &mut Map<String, Value>, key: &str, value: i64) {
    if holder.get(key).is_none_or(|present| present.is_null() || present == 0) {
        holder.insert(key.to_owned(), Value::from(value));
    }
}

fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Some(requests) = requests.as_object_mut() {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

fn default_resources(holder: &mut Map<String, Value>) {
    if let Some(resources) = holder.get_mut("resources").and_then(Value::as_object_mut) {
        round_up(resources.get_mut("limits"));
        round_up(resources.get_mut("requests"));
    }
}

/// Quantities finer than thousandths are rounded up.
fn round_up(list: Option<&mut Value>) {
    for quantity in list.and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        let Some(rounded) = quantity.as_str().and_then(Quantity::parse).and_then(Quantity::rounded_to_milli)
        else {
            continue;
        };
        *quantity = Value::String(rounded);
    }
}

/// A floating tag is always pulled; a digest without a tag counts as a fixed one.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    match (last.split_once(':'), digest) {
        (Some((_, "latest")), _) => "Always",
        (None, None) if !image.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

/// The objects of a list.
pub(crate) fn objects(value: Option<&mut Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    value.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}
