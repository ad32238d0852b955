//! Defaults and validation of BroadcastJobs, on the raw JSON of either version, which have one shape.

mod defaults;
mod validate;

use std::sync::Arc;

use kruise_webhook::review::{AdmissionRequest, Operation, Verdict, aggregate};
use kruise_webhook::template::{TemplateCheck, Templates};
use serde_json::Value;

pub use defaults::default;
pub use validate::{validate, warnings};

/// What the feature gates say about admission.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// False with gate `TemplateNoDefaults`.
    pub default_templates: bool,
    /// Gate `DefaultHostNetworkHostPortsInPodTemplates`.
    pub host_network_ports: bool,
}

/// What the webhook needs besides the request.
pub struct Context {
    options: Options,
    templates: Templates,
}

impl Context {
    /// Everything is injected: the gates, and Kubernetes' opinion on templates.
    pub fn new(options: Options, templates: Arc<dyn TemplateCheck>) -> Self {
        Self { options, templates: Templates::new(templates) }
    }
}

/// Answers one admission request for `broadcastjobs`: with defaults if `mutating`, else with a judgement.
pub async fn handle(request: &AdmissionRequest, mutating: bool, ctx: &Context) -> Verdict {
    if !matches!(request.resource.version.as_str(), "v1alpha1" | "v1beta1") {
        return Verdict::unsupported_version(&request.resource.version);
    }
    let subresource = request.sub_resource.as_deref().is_some_and(|name| !name.is_empty());
    if subresource || !matches!(request.operation, Operation::Create | Operation::Update) {
        return Verdict::allow();
    }
    let Some(object) = &request.object else { return Verdict::error(400, "the request has no object") };
    let old = request.old_object.as_ref().filter(|_| request.operation == Operation::Update);
    if mutating {
        let mut patched = object.clone();
        default(&mut patched, old, ctx.options);
        return if patched == *object { Verdict::allow() } else { Verdict::patched(patched) };
    }
    // Whatever is stored must be able to go: finalizers are taken off by updates that change no spec.
    if old.is_some_and(|old| old.get("spec") == object.get("spec")) {
        return Verdict::allow();
    }
    judge(request, object, old, ctx).await
}

async fn judge(request: &AdmissionRequest, object: &Value, old: Option<&Value>, ctx: &Context) -> Verdict {
    let mut faults = validate(object);
    let template = |object: &Value| object.pointer("/spec/template").cloned();
    if let Some(new) = template(object).filter(Value::is_object)
        && old.and_then(template).as_ref() != Some(&new)
    {
        let own = || object.pointer("/metadata/namespace").and_then(Value::as_str);
        let namespace = request.namespace.as_deref().or_else(own).unwrap_or_default();
        match ctx.templates.faults(namespace, &new, "spec.template").await {
            Ok(found) => faults.extend(found),
            Err(unanswered) => return Verdict::error(500, aggregate(unanswered)),
        }
    }
    match Verdict::validated(faults) {
        Verdict::Allow { patched, .. } => Verdict::Allow { patched, warnings: warnings(object) },
        denied @ Verdict::Deny { .. } => denied,
    }
}

#[cfg(test)]
mod tests;
