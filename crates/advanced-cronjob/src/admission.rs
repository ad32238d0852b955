//! Defaults and validation of AdvancedCronJobs, on the raw JSON of either version: v1alpha1 only lacks one template.
//!
//! Pod templates are judged by the API server. It is asked about the whole child first: if it would take that, the pod
//! template is good as well; if not, a bad pod template is an error and anything else a warning, because it may be
//! right by the time of a run.

mod defaults;
mod dry_run;
mod validate;

use std::sync::Arc;

use futures::future::BoxFuture;
use kruise_api::advancedcronjob::AdvancedCronJob;
use kruise_webhook::review::{AdmissionRequest, Operation, Verdict, aggregate};
use kruise_webhook::template::Templates;
use kube::core::DynamicObject;
use serde_json::Value;

use crate::child::{Kind, dry};

pub use defaults::default;
pub use dry_run::DryRun;
pub use validate::{validate, warnings};

/// What the feature gates say about admission.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// False with gate `TemplateNoDefaults`.
    pub default_templates: bool,
    /// Gate `DefaultHostNetworkHostPortsInPodTemplates`.
    pub host_network_ports: bool,
}

/// What the API server would say to a child.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Opinion {
    /// It would be created.
    Accepted,
    /// It would be refused, and why.
    Refused(String),
    /// Nobody knows.
    Unknown,
}

/// Asks whether a child could be created.
pub trait ChildCheck: Send + Sync {
    /// What the API server would say.
    fn check<'a>(
        &'a self,
        namespace: &'a str,
        child: &'a DynamicObject,
        kind: Kind,
    ) -> BoxFuture<'a, Opinion>;
}

/// What the webhook needs besides the request.
pub struct Context {
    options: Options,
    templates: Templates,
    children: Arc<dyn ChildCheck>,
}

impl Context {
    /// Everything is injected: the gates, and the API server's opinion on pod templates and on children.
    pub fn new(options: Options, templates: Templates, children: Arc<dyn ChildCheck>) -> Self {
        Self { options, templates, children }
    }
}

/// Answers one admission request: with defaults if `mutating`, else with a judgement.
pub async fn handle(request: &AdmissionRequest, mutating: bool, context: &Context) -> Verdict {
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
        default(&mut patched, old, context.options);
        return if patched == *object { Verdict::allow() } else { Verdict::patched(patched) };
    }
    judge(request, object, old, context).await
}

async fn judge(
    request: &AdmissionRequest,
    object: &Value,
    old: Option<&Value>,
    context: &Context,
) -> Verdict {
    // Whatever goes must be able to go: its last finalizer is taken off by an update.
    let going = object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    if going && old.is_some_and(|old| old.get("spec") == object.get("spec")) {
        return Verdict::allow();
    }
    let typed = match serde_json::from_value::<AdvancedCronJob>(object.clone()) {
        Ok(typed) => typed,
        Err(error) => return Verdict::error(400, error.to_string()),
    };
    let mut faults = validate(object, old);
    let mut warnings = if faults.is_empty() { warnings(object, old) } else { Vec::new() };
    let template = |object: &Value| object.pointer("/spec/template").cloned();
    if faults.is_empty() && old.and_then(template) != template(object) {
        let kind = Kind::of(&typed.spec.template);
        let own = object.pointer("/metadata/namespace").and_then(Value::as_str);
        let namespace = request.namespace.as_deref().or(own).unwrap_or_default();
        let opinion = context.children.check(namespace, &dry(&typed), kind).await;
        if opinion != Opinion::Accepted {
            let path = format!("spec.template.{}.spec.template", kind.field());
            let pointer = format!("/{}", path.replace('.', "/"));
            if let Some(pods) = object.pointer(&pointer).filter(|_| kind != Kind::ImageListPullJob) {
                match context.templates.faults(namespace, pods, &path).await {
                    Ok(found) => faults.extend(found),
                    Err(unanswered) => return Verdict::error(500, aggregate(unanswered)),
                }
            }
        }
        if let (Opinion::Refused(reason), true) = (opinion, faults.is_empty()) {
            warnings.push(format!("the {} of a run would be refused now: {reason}", kind.name()));
        }
    }
    if faults.is_empty() { Verdict::Allow { patched: None, warnings } } else { Verdict::validated(faults) }
}

#[cfg(test)]
mod tests;
