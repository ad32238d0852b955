//! What the server itself writes into an object on its way to storage.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::check::{at, child, default_text, default_to, list};
use super::quantity::Quantity;
use super::{defaults, wire};
use crate::resource::Resource;

/// Metadata that writes to most status subresources leave as it was.
const STATUS_RESET: [&str; 6] =
    ["labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp", "selfLink"];

/// Prepares an object to be created.
pub(super) fn create(resource: &Resource, object: &mut Value, now: Timestamp) {
    let key = (resource.group.as_str(), resource.plural.as_str());
    if let Some(meta) = child(object, "metadata") {
        meta.remove("deletionTimestamp");
        meta.remove("deletionGracePeriodSeconds");
        if resource.custom || counts_generations(key) {
            meta.insert("generation".to_owned(), json!(1));
        }
    }
    if resource.custom {
        if has_status(resource, object) {
            remove(object, "status");
        }
        return;
    }
    defaults::apply(key.0, key.1, object);
    if starts_without_status(key) {
        remove(object, "status");
    }
    match key {
        ("", "pods") => pod(object, now),
        ("", "namespaces") => namespace(object),
        ("", "services") => service(object),
        ("", "persistentvolumeclaims") => {
            protect(object, "kubernetes.io/pvc-protection");
            set(object, "status", json!({"phase": "Pending"}));
        }
        ("", "persistentvolumes") => {
            protect(object, "kubernetes.io/pv-protection");
            set(object, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": rfc3339(now)}));
        }
        ("batch", "jobs") => job(object),
        ("apps", "daemonsets") => annotate_template_generation(object, 1),
        _ => {}
    }
    wire::normalize(resource, object);
}

/// Prepares an object to be updated.
pub(super) fn update(resource: &Resource, subresource: Option<&str>, old: &Value, new: &mut Value) {
    let key = (resource.group.as_str(), resource.plural.as_str());
    keep_metadata(old, new);
    if resource.custom {
        update_custom(resource, subresource, old, new);
        return;
    }
    match subresource {
        None => {
            defaults::apply(key.0, key.1, new);
            if resource
                .versions
                .iter()
                .any(|version| version.subresources.iter().any(|name| name == "status"))
            {
                copy(old, new, "status");
            }
            if key == ("", "namespaces") {
                copy_in(old, new, "spec", "finalizers");
            }
            match key {
                ("", "services") => keep_cluster_ip(old, new),
                ("batch", "jobs") => job_labels(new),
                ("", "pods") => {
                    if let Some(spec) = child(new, "spec") {
                        tolerate_lost_nodes(spec);
                    }
                }
                _ => {}
            }
            raise_generation(key, old, new);
        }
        Some("status" | "approval") => update_status(key, old, new),
        Some("resize") => {
            resize(old, new);
            raise_generation(key, old, new);
        }
        Some("ephemeralcontainers") => {
            let added = new.pointer("/spec/ephemeralContainers").cloned();
            keep_all_but(&["metadata"], old, new);
            reset_metadata(old, new);
            if let (Some(added), Some(spec)) = (added, child(new, "spec")) {
                spec.insert("ephemeralContainers".to_owned(), added);
            }
            defaults::apply(key.0, key.1, new);
            raise_generation(key, old, new);
        }
        Some("finalize") => {
            copy(old, new, "status");
        }
        Some(_) => raise_generation(key, old, new),
    }
    wire::normalize(resource, new);
}

/// Kinds whose objects start at generation 1.
fn counts_generations(key: (&str, &str)) -> bool {
    matches!(
        key,
        ("", "pods" | "podtemplates" | "replicationcontrollers")
            | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
            | ("batch", "jobs" | "cronjobs")
            | ("policy", "poddisruptionbudgets")
            | ("networking.k8s.io", "ingresses" | "ingressclasses" | "networkpolicies")
            | ("discovery.k8s.io", "endpointslices")
            | ("scheduling.k8s.io", "priorityclasses")
            | ("resource.k8s.io", "resourceslices" | "deviceclasses")
            | ("flowcontrol.apiserver.k8s.io" | "admissionregistration.k8s.io" | "apiextensions.k8s.io", _)
    )
}

/// Kinds whose status is emptied at creation whatever the client sends.
fn starts_without_status(key: (&str, &str)) -> bool {
    matches!(
        key,
        (
            "apps"
                | "batch"
                | "policy"
                | "autoscaling"
                | "apiextensions.k8s.io"
                | "certificates.k8s.io"
                | "storage.k8s.io"
                | "resource.k8s.io"
                | "admissionregistration.k8s.io"
                | "flowcontrol.apiserver.k8s.io",
            _
        ) | ("networking.k8s.io", "ingresses" | "servicecidrs")
            | ("", "replicationcontrollers" | "services" | "resourcequotas")
    )
}

fn has_status(resource: &Resource, object: &Value) -> bool {
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let version = version.rsplit('/').next().unwrap_or_default();
    let served = resource.version(version).or_else(|| resource.version(&resource.storage));
    served
        .or(resource.versions.first())
        .is_some_and(|version| version.subresources.iter().any(|name| name == "status"))
}

/// Metadata that no update changes; what a client leaves out is taken from the stored object.
fn keep_metadata(old: &Value, new: &mut Value) {
    let empty = Value::Null;
    let old = old.get("metadata").unwrap_or(&empty);
    let Some(meta) = child(new, "metadata") else { return };
    let mut keep = |field: &str, always: bool| match old.get(field).filter(|value| !value.is_null()) {
        Some(value) if always || meta.get(field).is_none_or(|new| new.is_null() || new == "") => {
            meta.insert(field.to_owned(), value.clone());
        }
        None if field == "generation" => {
            meta.remove(field);
        }
        _ => {}
    };
    keep("uid", false);
    keep("generateName", false);
    keep("creationTimestamp", true);
    keep("generation", true);
    keep("deletionTimestamp", true);
    keep("deletionGracePeriodSeconds", false);
    keep("selfLink", true);
}

fn update_custom(resource: &Resource, subresource: Option<&str>, old: &Value, new: &mut Value) {
    if let Some("status") = subresource {
        let managed = new.pointer("/metadata/managedFields").cloned();
        let version = new.pointer("/metadata/resourceVersion").cloned();
        let status = new.get("status").cloned();
        let api_version = new.get("apiVersion").cloned();
        *new = old.clone();
        put(new, "status", status);
        put(new, "apiVersion", api_version);
        if let Some(meta) = child(new, "metadata") {
            // A writer's resourceVersion is still its precondition.
            for (field, value) in [("managedFields", managed), ("resourceVersion", version)] {
                match value {
                    Some(value) => meta.insert(field.to_owned(), value),
                    None => meta.remove(field),
                };
            }
        }
    } else {
        let with_status = has_status(resource, new);
        if with_status {
            copy(old, new, "status");
        }
        let apart: &[&str] = if with_status {
            &["metadata", "apiVersion", "kind", "status"]
        } else {
            &["metadata", "apiVersion", "kind"]
        };
        let same = match (old.as_object(), new.as_object()) {
            (Some(old), Some(new)) => crate::patch::managers::same_but(old, new, apart),
            _ => old == new,
        };
        if !same {
            raise(new);
        }
    }
}

fn update_status(key: (&str, &str), old: &Value, new: &mut Value) {
    let meta_only_managed = matches!(
        key,
        (
            "apiextensions.k8s.io"
                | "apiregistration.k8s.io"
                | "flowcontrol.apiserver.k8s.io"
                | "storage.k8s.io"
                | "resource.k8s.io"
                | "admissionregistration.k8s.io",
            _
        )
    );
    let kind_of_pod = key == ("", "pods");
    keep_all_but(&["metadata", "status"], old, new);
    if meta_only_managed {
        reset_metadata(old, new);
    }
    if key == ("apps", "deployments") {
        copy_in(old, new, "metadata", "labels");
    }
    if kind_of_pod {
        copy_in(old, new, "metadata", "ownerReferences");
        let quality = old.pointer("/status/qosClass").cloned();
        let generation = old.pointer("/status/observedGeneration").cloned();
        if let Some(status) = child(new, "status") {
            if let Some(quality) = quality.as_ref().and_then(Value::as_str) {
                default_text(status, "qosClass", quality);
            }
            if let Some(generation) = generation {
                default_to(status, "observedGeneration", generation);
            }
        }
    }
}

/// What a resize may write: the resources of containers, nothing else.
fn resize(old: &Value, new: &mut Value) {
    let mut result = old.clone();
    for field in ["containers", "initContainers"] {
        let wanted =
            new.pointer(&format!("/spec/{field}")).and_then(Value::as_array).cloned().unwrap_or_default();
        let Some(containers) = result.pointer_mut(&format!("/spec/{field}")).and_then(Value::as_array_mut)
        else {
            continue;
        };
        for container in containers {
            let name = container.get("name").cloned();
            let Some(asked) = wanted.iter().find(|asked| asked.get("name") == name.as_ref()) else {
                continue;
            };
            for part in ["resources", "resizePolicy"] {
                put(container, part, asked.get(part).cloned());
            }
        }
    }
    let meta = new.get("metadata").cloned();
    put(&mut result, "metadata", meta);
    reset_metadata(old, &mut result);
    *new = result;
}

fn raise_generation(key: (&str, &str), old: &Value, new: &mut Value) {
    if !counts_generations(key) {
        return;
    }
    let changed = |pointer: &str| old.pointer(pointer) != new.pointer(pointer);
    let raised = match key {
        ("apps", "deployments") => changed("/spec") || changed("/metadata/annotations"),
        ("", "podtemplates") => changed("/template"),
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => changed("/webhooks"),
        ("discovery.k8s.io", _) => {
            changed("/endpoints")
                || changed("/ports")
                || changed("/addressType")
                || changed("/metadata/labels")
        }
        ("scheduling.k8s.io", _) => false,
        _ => changed("/spec"),
    };
    if key == ("apps", "daemonsets") {
        let generation = at(old, &["metadata", "annotations", "deprecated.daemonset.template.generation"])
            .and_then(Value::as_str)
            .and_then(|text| text.parse::<i64>().ok())
            .unwrap_or(1);
        let template_changed = changed("/spec/template");
        annotate_template_generation(new, generation + i64::from(template_changed));
    }
    if raised {
        raise(new);
    }
}

fn raise(object: &mut Value) {
    if let Some(meta) = child(object, "metadata") {
        let generation = meta.get("generation").and_then(Value::as_i64).unwrap_or_default();
        meta.insert("generation".to_owned(), json!(generation + 1));
    }
}

fn annotate_template_generation(object: &mut Value, generation: i64) {
    if let Some(meta) = child(object, "metadata") {
        let annotations = meta.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations
                .insert("deprecated.daemonset.template.generation".to_owned(), json!(generation.to_string()));
        }
    }
}

fn pod(object: &mut Value, now: Timestamp) {
    let quality = quality_of_service(object);
    let gated = !list(object.get("spec").unwrap_or(&Value::Null), "schedulingGates").is_empty();
    if let Some(spec) = child(object, "spec") {
        default_text(spec, "serviceAccountName", "default");
        let account = spec.get("serviceAccountName").cloned().unwrap_or_default();
        spec.insert("serviceAccount".to_owned(), account);
        let priority = match spec.get("priorityClassName").and_then(Value::as_str).unwrap_or_default() {
            "system-node-critical" => 2_000_001_000,
            "system-cluster-critical" => 2_000_000_000,
            _ => 0,
        };
        default_to(spec, "priority", priority);
        default_to(spec, "preemptionPolicy", "PreemptLowerPriority");
        tolerate_lost_nodes(spec);
    }
    let scheduled = json!({
        "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "lastProbeTime": null,
        "lastTransitionTime": rfc3339(now),
        "message": "Scheduling is blocked due to non-empty scheduling gates",
    });
    let conditions = if gated { json!([scheduled]) } else { Value::Null };
    set(object, "status", json!({"phase": "Pending", "qosClass": quality, "conditions": conditions}));
}

fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A pod stays five minutes on a node that is lost, unless it says something else.
fn tolerate_lost_nodes(spec: &mut Map<String, Value>) {
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(tolerations) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let matches = |toleration: &Value| {
            let named = toleration.get("key").and_then(Value::as_str).unwrap_or_default();
            let effect = toleration.get("effect").and_then(Value::as_str).unwrap_or_default();
            (named == key || named.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        };
        if !tolerations.iter().any(matches) {
            tolerations.push(
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(super) fn quality_of_service(pod: &Value) -> &'static str {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut any = false;
    let mut guaranteed = true;
    for container in list(spec, "containers").iter().chain(list(spec, "initContainers")) {
        for resource in ["cpu", "memory"] {
            let amount = |kind: &str| {
                at(container, &["resources", kind, resource])
                    .and_then(Value::as_str)
                    .and_then(Quantity::parse)
                    .map(Quantity::nano)
                    .filter(|amount| *amount > 0)
            };
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn namespace(object: &mut Value) {
    set(object, "status", json!({"phase": "Active"}));
    let Some(spec) = child(object, "spec") else { return };
    let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|name| name == "kubernetes")
    {
        finalizers.push(json!("kubernetes"));
    }
}

fn protect(object: &mut Value, finalizer: &str) {
    let Some(meta) = child(object, "metadata") else { return };
    let finalizers = meta.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|name| name == finalizer)
    {
        finalizers.push(json!(finalizer));
    }
}

fn job(object: &mut Value) {
    let (name, uid) = (crate::object::name(object).to_owned(), crate::object::uid(object).to_owned());
    let Some(spec) = child(object, "spec") else { return };
    if spec.get("manualSelector") != Some(&Value::Bool(true)) {
        let Some(template) = spec.get_mut("template").and_then(|template| child(template, "metadata")) else {
            return;
        };
        let labels = template.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            for (key, value) in [
                ("job-name", &name),
                ("batch.kubernetes.io/job-name", &name),
                ("controller-uid", &uid),
                ("batch.kubernetes.io/controller-uid", &uid),
            ] {
                labels.entry(key).or_insert_with(|| json!(value));
            }
        }
        let selector = spec.entry("selector").or_insert_with(|| json!({}));
        if let Some(matched) = child(selector, "matchLabels") {
            matched.entry("batch.kubernetes.io/controller-uid").or_insert_with(|| json!(uid));
        }
    }
    job_labels(object);
}

/// A job without labels takes those of its template.
fn job_labels(object: &mut Value) {
    let labels = at(object, &["spec", "template", "metadata", "labels"]).cloned();
    let unlabelled = at(object, &["metadata", "labels"]).and_then(Value::as_object).is_none_or(Map::is_empty);
    if let (true, Some(labels), Some(meta)) = (unlabelled, labels, child(object, "metadata")) {
        meta.insert("labels".to_owned(), labels);
    }
}

/// Gives a service an address of its own: derived from its uid, so that it needs no allocator to be the same again.
fn service(object: &mut Value) {
    let uid = crate::object::uid(object).to_owned();
    set(object, "status", json!({"loadBalancer": {}}));
    let Some(spec) = child(object, "spec") else { return };
    if spec.get("type").is_some_and(|kind| kind == "ExternalName") {
        return;
    }
    let (high, low) = uid.bytes().fold((7_u8, 11_u8), |(high, low), byte| {
        (high.wrapping_mul(31).wrapping_add(byte), low.wrapping_mul(17).wrapping_add(byte).rotate_left(3))
    });
    default_text(spec, "clusterIP", &format!("10.96.{high}.{}", low.clamp(1, 254)));
    let address = spec.get("clusterIP").cloned().unwrap_or_default();
    let headless = address == "None";
    default_to(spec, "clusterIPs", json!([address]));
    let selectorless = spec.get("selector").and_then(Value::as_object).is_none_or(Map::is_empty);
    if headless && selectorless {
        default_to(spec, "ipFamilies", json!(["IPv4", "IPv6"]));
        default_to(spec, "ipFamilyPolicy", "RequireDualStack");
    }
    default_to(spec, "ipFamilies", json!(["IPv4"]));
    default_to(spec, "ipFamilyPolicy", "SingleStack");
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind == "NodePort" || kind == "LoadBalancer" {
        let base = 30000 + u32::from(high) * 10 + u32::from(low) % 10;
        for (port, number) in super::template::objects(spec.get_mut("ports")).zip(base..) {
            if port.get("nodePort").is_none_or(|port| port.is_null() || port == 0) {
                port.insert("nodePort".to_owned(), json!(number));
            }
        }
    }
}

/// An update that leaves the allocated address out keeps it.
fn keep_cluster_ip(old: &Value, new: &mut Value) {
    if at(new, &["spec", "type"]).is_some_and(|kind| kind == "ExternalName") {
        return;
    }
    let former = old.get("spec").cloned().unwrap_or_default();
    let Some(spec) = child(new, "spec") else { return };
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let missing = spec.get(field).is_none_or(|value| value.is_null() || value == "");
        if let Some(value) = former.get(field).filter(|_| missing) {
            spec.insert(field.to_owned(), value.clone());
        }
    }
}

fn reset_metadata(old: &Value, new: &mut Value) {
    for field in STATUS_RESET {
        copy_in(old, new, "metadata", field);
    }
}

/// Every top-level field but those named comes from `old`.
fn keep_all_but(written: &[&str], old: &Value, new: &mut Value) {
    let mut result = old.as_object().cloned().unwrap_or_default();
    for field in written.iter().copied().chain(["apiVersion", "kind"]) {
        match new.get(field) {
            Some(value) => result.insert(field.to_owned(), value.clone()),
            None => result.remove(field),
        };
    }
    *new = Value::Object(result);
}

fn copy(old: &Value, new: &mut Value, field: &str) {
    put(new, field, old.get(field).cloned());
}

fn copy_in(old: &Value, new: &mut Value, holder: &str, field: &str) {
    let value = old.get(holder).and_then(|holder| holder.get(field)).cloned();
    if value.is_none() && new.get(holder).is_none() {
        return;
    }
    child(new, holder);
    if let Some(holder) = new.get_mut(holder) {
        put(holder, field, value);
    }
}

fn put(object: &mut Value, field: &str, value: Option<Value>) {
    if let Some(object) = object.as_object_mut() {
        match value {
            Some(value) => object.insert(field.to_owned(), value),
            None => object.remove(field),
        };
    }
}

fn set(object: &mut Value, field: &str, value: Value) {
    put(object, field, Some(value));
}

fn remove(object: &mut Value, field: &str) {
    put(object, field, None);
}
