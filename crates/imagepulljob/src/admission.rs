//! Defaults and validation of ImagePullJobs, ImageListPullJobs and NodeImages, on the raw JSON of either version.

mod defaults;
mod validate;

use std::sync::Arc;

use jiff::Timestamp;
use kruise_webhook::review::{AdmissionRequest, Operation, Verdict};
use serde_json::Value;

pub use defaults::default;
pub use validate::{immutable_fault, validate};

/// The kinds with these webhooks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `imagepulljobs`.
    Job,
    /// `imagelistpulljobs`.
    List,
    /// `nodeimages`.
    NodeImage,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Job, Self::List, Self::NodeImage];

    /// What the paths of its webhooks end in.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Job => "apps-kruise-io-imagepulljob",
            Self::List => "apps-kruise-io-imagelistpulljob",
            Self::NodeImage => "apps-kruise-io-nodeimage",
        }
    }
}

/// What the webhooks need besides the request.
pub struct Context {
    /// Gate `KruiseDaemon`.
    pub daemon: bool,
    /// Gate `ImagePullJobGate`.
    pub jobs: bool,
    /// The time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Context {
    /// The gate that keeps a kind from being written.
    fn closed_gate(&self, kind: Kind) -> Option<&'static str> {
        match kind {
            _ if !self.daemon => Some("KruiseDaemon"),
            Kind::Job | Kind::List if !self.jobs => Some("ImagePullJobGate"),
            _ => None,
        }
    }
}

/// Answers one admission request: with defaults if `mutating`, else with a judgement.
pub fn handle(request: &AdmissionRequest, kind: Kind, mutating: bool, context: &Context) -> Verdict {
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
        let adds_finalizer = old.is_none() && request.resource.version == "v1alpha1";
        default(&mut patched, kind, adds_finalizer, (context.clock)());
        return if patched == *object { Verdict::allow() } else { Verdict::patched(patched) };
    }
    judge(object, old, kind, context)
}

fn judge(object: &Value, old: Option<&Value>, kind: Kind, context: &Context) -> Verdict {
    // Whatever goes must be able to go: its last finalizer is taken off by an update.
    let going = object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    let same_spec = old.is_some_and(|old| old.get("spec") == object.get("spec"));
    if going && same_spec {
        return Verdict::allow();
    }
    if let Some(gate) = context.closed_gate(kind) {
        return Verdict::error(403, format!("feature-gate {gate} is not enabled"));
    }
    if same_spec {
        return Verdict::allow();
    }
    let faults = validate(object, kind);
    if !faults.is_empty() {
        return Verdict::error(400, joined(&faults));
    }
    if let Some(fault) = old.and_then(|old| immutable_fault(object, old, kind)) {
        return Verdict::error(403, fault);
    }
    let mut warnings = Vec::new();
    let completed =
        old.and_then(|old| old.pointer("/status/completionTime")).is_some_and(|time| !time.is_null());
    if completed && kind != Kind::NodeImage {
        warnings.push("the job has completed: changes of its spec have no effect".to_owned());
    }
    Verdict::Allow { patched: None, warnings }
}

fn joined(faults: &[String]) -> String {
    if let [only] = faults { only.clone() } else { format!("[{}]", faults.join(", ")) }
}

#[cfg(test)]
mod tests;
