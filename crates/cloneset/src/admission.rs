//! Defaults, validation and delete protection of CloneSets, on the raw JSON of the request's own version.

mod defaults;
mod labels;
mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use kruise_api::keys::DELETE_PROTECTION;
use kruise_webhook::protection::Protection;
use kruise_webhook::review::{AdmissionRequest, Operation, Verdict, aggregate};
use kruise_webhook::template::{TemplateCheck, Templates};
use serde_json::{Map, Value};

pub use defaults::default;
use validate::newly_named;
pub use validate::{PodFacts, validate};

/// The versions of CloneSet that are served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// `v1alpha1`: one flat update strategy.
    V1alpha1,
    /// `v1beta1`: the hub and the stored version.
    V1beta1,
}

impl Version {
    /// Reads the name of a version; `None` if it is not served.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "v1alpha1" => Some(Self::V1alpha1),
            "v1beta1" => Some(Self::V1beta1),
            _ => None,
        }
    }
}

/// What the feature gates say about admission.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// False with gate `TemplateNoDefaults`.
    pub default_templates: bool,
    /// Gate `DefaultHostNetworkHostPortsInPodTemplates`.
    pub host_network_ports: bool,
    /// Gate `ResourcesDeletionProtection`.
    pub delete_protection: bool,
    /// Gate `InPlaceWorkloadVerticalScaling`.
    pub vertical_scaling: bool,
}

/// Finds a pod by namespace and name, or tells why nobody knows.
pub type PodLookup =
    Arc<dyn Fn(&str, &str) -> BoxFuture<'static, Result<Option<PodFacts>, String>> + Send + Sync>;

/// What the webhook needs besides the request.
pub struct Context {
    options: Options,
    pods: PodLookup,
    templates: Templates,
    protection: Arc<Protection>,
}

impl Context {
    /// Everything is injected: the gates, the pods, Kubernetes' opinion on templates, who is told of refused deletions.
    pub fn new(
        options: Options,
        pods: PodLookup,
        templates: Arc<dyn TemplateCheck>,
        protection: Arc<Protection>,
    ) -> Self {
        Self { options, pods, templates: Templates::new(templates), protection }
    }
}

/// Answers one admission request for `clonesets`: with defaults if `mutating`, else with a judgement.
pub async fn handle(request: &AdmissionRequest, mutating: bool, ctx: &Context) -> Verdict {
    let Some(version) = Version::parse(&request.resource.version) else {
        return Verdict::unsupported_version(&request.resource.version);
    };
    if request.sub_resource.as_deref().is_some_and(|name| !name.is_empty()) {
        return Verdict::allow();
    }
    match (request.operation, mutating) {
        (Operation::Create | Operation::Update, true) => with_defaults(request, version, ctx.options),
        (Operation::Create | Operation::Update, false) => judge(request, version, ctx).await,
        (Operation::Delete, false) => judge_delete(request, ctx),
        (Operation::Delete | Operation::Connect, _) => Verdict::allow(),
    }
}

fn with_defaults(request: &AdmissionRequest, version: Version, options: Options) -> Verdict {
    let Some(object) = &request.object else { return Verdict::error(400, "the request has no object") };
    let old = request.old_object.as_ref().filter(|_| request.operation == Operation::Update);
    let mut patched = object.clone();
    default(&mut patched, old, version, options);
    if patched == *object { Verdict::allow() } else { Verdict::patched(patched) }
}

async fn judge(request: &AdmissionRequest, version: Version, ctx: &Context) -> Verdict {
    let Some(object) = &request.object else { return Verdict::error(400, "the request has no object") };
    let old = request.old_object.as_ref().filter(|_| request.operation == Operation::Update);
    // What is stored may be what another version accepted: it can still be labelled, and its last finalizer taken off.
    if old.is_some_and(|old| old.get("spec") == object.get("spec")) {
        return Verdict::allow();
    }
    let namespace = namespace_of(request, object);
    let mut pods = BTreeMap::new();
    for name in newly_named(object, old) {
        match (ctx.pods)(namespace, name).await {
            Ok(pod) => pods.insert(name, pod),
            Err(why) => {
                return Verdict::error(500, format!("cannot look for pod {name} of podsToDelete: {why}"));
            }
        };
    }
    let lookup = |name: &str| pods.get(name).cloned().flatten();
    let mut faults = validate(object, old, version, request.operation, ctx.options, &lookup);
    if let Some(template) = template_to_check(object, old) {
        match ctx.templates.faults(namespace, &template, "spec.template").await {
            Ok(found) => faults.extend(found),
            Err(unanswered) => return Verdict::error(500, aggregate(unanswered)),
        }
    }
    Verdict::validated(faults)
}

fn judge_delete(request: &AdmissionRequest, ctx: &Context) -> Verdict {
    let Some(object) = &request.old_object else { return Verdict::allow() };
    let Some(message) = delete_protection(object, ctx.options) else { return Verdict::allow() };
    if !request.dry_run {
        let name = request
            .name
            .as_deref()
            .or_else(|| object.pointer("/metadata/name")?.as_str())
            .unwrap_or_default();
        let namespace = namespace_of(request, object);
        ctx.protection.refused_workload("CloneSet", namespace, name, &request.user_info.username);
    }
    Verdict::forbidden(message)
}

fn namespace_of<'a>(request: &'a AdmissionRequest, object: &'a Value) -> &'a str {
    let own = || object.pointer("/metadata/namespace").and_then(Value::as_str);
    request.namespace.as_deref().or_else(own).unwrap_or_default()
}

/// Why the set may not be deleted; `None` if it may.
pub fn delete_protection(object: &Value, options: Options) -> Option<String> {
    let metadata = object.get("metadata")?;
    if !options.delete_protection || metadata.get("deletionTimestamp").is_some_and(|time| !time.is_null()) {
        return None;
    }
    let refused = format!("forbidden by ResourcesProtectionDeletion for {DELETE_PROTECTION}=");
    match metadata.get("labels")?.get(DELETE_PROTECTION)?.as_str()? {
        "Always" => Some(format!("{refused}Always")),
        "Cascading" => {
            let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
            (replicas > 0).then(|| format!("{refused}Cascading and replicas {replicas}>0"))
        }
        _ => None,
    }
}

/// The template as Kubernetes is to judge it; `None` if there is none, or neither it nor the claims changed.
fn template_to_check(object: &Value, old: Option<&Value>) -> Option<Value> {
    let part = |object: &Value, key: &str| object.get("spec").and_then(|spec| spec.get(key)).cloned();
    let template = part(object, "template").filter(Value::is_object)?;
    let claims = part(object, "volumeClaimTemplates");
    if let Some(old) = old
        && part(old, "template").as_ref() == Some(&template)
        && part(old, "volumeClaimTemplates") == claims
    {
        return None;
    }
    Some(with_claims(template, claims.as_ref()))
}

/// Adds a volume for every claim, so that a container may mount it and a clash of names shows.
fn with_claims(mut template: Value, claims: Option<&Value>) -> Value {
    let names: Vec<&str> = claims
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|claim| claim.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default())
        .collect();
    if names.is_empty() {
        return template;
    }
    if let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) {
        let volumes = pod.entry("volumes").or_insert(Value::Null);
        if volumes.is_null() {
            *volumes = Value::Array(Vec::new());
        }
        if let Some(volumes) = volumes.as_array_mut() {
            volumes.extend(names.into_iter().map(claim_volume));
        }
    }
    template
}

fn claim_volume(name: &str) -> Value {
    let mut source = Map::new();
    source.insert("claimName".to_owned(), Value::from(name));
    let mut volume = Map::new();
    volume.insert("name".to_owned(), Value::from(name));
    volume.insert("persistentVolumeClaim".to_owned(), Value::Object(source));
    Value::Object(volume)
}

#[cfg(test)]
mod tests;
