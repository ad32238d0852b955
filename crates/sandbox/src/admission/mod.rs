//! Admission webhooks: who is asked about a request, and what becomes of it.
//!
//! [`mutate`] and [`validate`] are what the server calls. Which webhooks a request concerns ([`select`]) and what their
//! answers mean ([`review`]) is decided without I/O; the calls go through a [`WebhookCaller`].

pub(crate) mod configuration;
mod patch;
mod review;
pub mod select;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use serde_json::Value;

use crate::error::ApiError;
use crate::webhook::WebhookCaller;
pub use configuration::{default_configuration, validate_configuration};
use select::Hook;

/// What is done to the object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed object, also by a patch.
    Update,
    /// An object to be deleted; there is only the old one.
    Delete,
    /// A connection, e.g. `exec`.
    Connect,
}

/// A request as webhooks see it.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is done.
    pub operation: Operation,
    /// Group of the resource.
    pub group: String,
    /// Version of the request.
    pub version: String,
    /// All served versions of the resource, for webhooks whose rules name another one.
    pub other_versions: Vec<String>,
    /// Plural name of the resource.
    pub resource: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// Group of the object's kind; differs from `group` for `pods/eviction` and the like.
    pub kind_group: String,
    /// Version of the object's kind.
    pub kind_version: String,
    /// The object's kind.
    pub kind: String,
    /// The object's name; of a namespace, `namespace` is the same.
    pub name: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// The namespace itself, if there is one; `namespaceSelector` looks at its labels.
    pub namespace_object: Option<Value>,
    /// The new object; none when deleting.
    pub object: Option<Value>,
    /// The old object; none when creating.
    pub old_object: Option<Value>,
    /// `CreateOptions` and the like, with kind and apiVersion.
    pub options: Value,
    /// True if nothing will be stored.
    pub dry_run: bool,
    /// Who asks.
    pub user: String,
    /// The groups of who asks.
    pub groups: Vec<String>,
}

impl Request {
    fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    /// Configurations of webhooks are not themselves subject to webhooks.
    fn exempt(&self) -> bool {
        const KINDS: [&str; 6] = [
            "ValidatingWebhookConfiguration",
            "MutatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
        ];
        self.kind_group == "admissionregistration.k8s.io" && KINDS.contains(&self.kind.as_str())
    }
}

/// What admission needs from the server.
pub trait Host: Send + Sync {
    /// How webhooks are reached.
    fn caller(&self) -> &dyn WebhookCaller;

    /// An object of the request's resource in another of its versions.
    fn convert<'a>(&'a self, object: Value, api_version: &'a str) -> BoxFuture<'a, Result<Value, ApiError>>;

    /// Fills in defaults after a webhook has changed the object.
    fn default(&self, object: &mut Value);
}

/// What became of a request.
#[derive(Debug)]
pub struct Outcome {
    /// Warnings of all webhooks asked, to be sent in either case.
    pub warnings: Vec<String>,
    /// The object as changed, or why the request is refused.
    pub result: Result<Option<Value>, ApiError>,
}

/// Asks the mutating webhooks one after another, each about the object as the ones before left it.
///
/// If one changes the object, those before it with `reinvocationPolicy: IfNeeded` are asked once more at the end.
pub async fn mutate(configurations: &[Value], request: Request, host: &dyn Host) -> Outcome {
    let mut run = Mutation { request, warnings: Vec::new(), again: BTreeSet::new(), asked: BTreeSet::new() };
    let result = run.all(configurations, host).await;
    Outcome { warnings: run.warnings, result: result.map(|()| run.request.object) }
}

/// Asks all validating webhooks at once; the first that refuses, in their order, decides.
pub async fn validate(configurations: &[Value], request: &Request, host: &dyn Host) -> Outcome {
    let mut warnings = Vec::new();
    let result = validate_all(configurations, request, host, &mut warnings).await;
    Outcome { warnings, result: result.map(|()| request.object.clone()) }
}

async fn validate_all(
    configurations: &[Value],
    request: &Request,
    host: &dyn Host,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    if configurations.is_empty() || request.exempt() {
        return Ok(());
    }
    let mut relevant = Vec::new();
    for hook in select::hooks(configurations) {
        if let Some(seen) = relevant_for(&hook, request, host).await? {
            relevant.push((hook, seen));
        }
    }
    let calls = relevant.iter().map(|(hook, (version, seen))| async move {
        let mut warnings = Vec::new();
        let answer = ask(hook, seen, version, false, host, &mut warnings).await;
        (warnings, tolerate(hook, answer))
    });
    let mut result = Ok(());
    for (mut found, one) in join_all(calls).await {
        warnings.append(&mut found);
        result = result.and(one);
    }
    result
}

struct Mutation {
    request: Request,
    warnings: Vec<String>,
    /// Hooks to be asked once more, and hooks that would be if a later one changes the object.
    again: BTreeSet<(String, usize)>,
    asked: BTreeSet<(String, usize)>,
}

impl Mutation {
    async fn all(&mut self, configurations: &[Value], host: &dyn Host) -> Result<(), ApiError> {
        if configurations.is_empty() || self.request.exempt() {
            return Ok(());
        }
        let hooks = select::hooks(configurations);
        let mut changed = false;
        for hook in &hooks {
            changed |= self.one(hook, host).await?;
        }
        if !changed {
            return Ok(());
        }
        for hook in &hooks {
            if self.again.contains(&key(hook)) {
                self.one(hook, host).await?;
            }
        }
        Ok(())
    }

    /// Asks one hook if it is concerned; true if it changed the object.
    async fn one(&mut self, hook: &Hook, host: &dyn Host) -> Result<bool, ApiError> {
        let Some((version, seen)) = relevant_for(hook, &self.request, host).await? else { return Ok(false) };
        let answer = ask(hook, &seen, &version, true, host, &mut self.warnings).await;
        let patched = match answer {
            Ok(Some(patch)) => Some(patched(hook, seen.object.as_ref(), &patch, host)?),
            other => {
                tolerate(hook, other)?;
                None
            }
        };
        let mut changed = false;
        if let Some(object) = patched {
            changed = Some(&object) != seen.object.as_ref();
            let object = if version == self.request.version {
                object
            } else {
                host.convert(object, &api_version(&self.request.group, &self.request.version)).await?
            };
            self.request.object = Some(object);
        }
        if changed {
            self.again.append(&mut self.asked);
        }
        if hook.text("reinvocationPolicy") == "IfNeeded" {
            self.asked.insert(key(hook));
        }
        Ok(changed)
    }
}

fn key(hook: &Hook) -> (String, usize) {
    (hook.configuration.clone(), hook.index)
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// The version a hook is asked in and the request in that version, if the hook is concerned at all.
async fn relevant_for(
    hook: &Hook,
    request: &Request,
    host: &dyn Host,
) -> Result<Option<(String, Request)>, ApiError> {
    let Some(version) = select::version_for(hook, request)? else { return Ok(None) };
    let mut seen = request.clone();
    if version != request.version {
        let to = api_version(&request.group, &version);
        for object in [&mut seen.object, &mut seen.old_object] {
            if let Some(old) = object.take() {
                *object = Some(host.convert(old, &to).await?);
            }
        }
    }
    Ok(select::conditions_hold(hook, &seen, &version)?.then_some((version, seen)))
}

/// Why a hook did not let the request pass.
enum Stop {
    /// The hook could not be asked or did not answer sensibly.
    Failed(String),
    /// The hook, or the server on its behalf, refuses.
    Refused(ApiError),
}

/// Asks one hook; the patch it answers, if any.
async fn ask(
    hook: &Hook,
    request: &Request,
    version: &str,
    mutating: bool,
    host: &dyn Host,
    warnings: &mut Vec<String>,
) -> Result<Option<Value>, Stop> {
    if request.dry_run && !matches!(hook.text("sideEffects"), "None" | "NoneOnDryRun") {
        return Err(Stop::Refused(review::no_dry_run(hook.name())));
    }
    let Some(spoken) = review::review_version(&hook.webhook) else {
        let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, \
                   v1beta1)";
        return Err(Stop::Failed(why.to_owned()));
    };
    let uid = uuid::Uuid::new_v4().to_string();
    let body = review::review(&review::request(request, version, &uid), spoken).to_string();
    let seconds = hook.webhook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(10);
    let client = hook.webhook.get("clientConfig").unwrap_or(&Value::Null);
    let answer = host.caller().call(client, Bytes::from(body), Duration::from_secs(seconds)).await;
    let answer = answer.map_err(|error| Stop::Failed(format!("failed to call webhook: {error}")))?;
    let answer = review::answer(&answer, spoken, &uid, mutating).map_err(Stop::Failed)?;
    warnings.extend(answer.warnings);
    if answer.allowed {
        Ok(answer.patch)
    } else {
        Err(Stop::Refused(review::denial(hook.name(), &answer.status)))
    }
}

/// A failure to ask is an error unless the hook's policy is to ignore it.
fn tolerate(hook: &Hook, answer: Result<Option<Value>, Stop>) -> Result<(), ApiError> {
    match answer {
        Ok(_) => Ok(()),
        Err(Stop::Refused(error)) => Err(error),
        Err(Stop::Failed(why)) if hook.ignores_failure() => {
            tracing::warn!(webhook = hook.name(), why, "webhook failed, the request goes on");
            Ok(())
        }
        Err(Stop::Failed(why)) => Err(review::failure(hook.name(), &why)),
    }
}

fn patched(hook: &Hook, object: Option<&Value>, patch: &Value, host: &dyn Host) -> Result<Value, ApiError> {
    let mut object = object.cloned().ok_or_else(|| review::nothing_to_patch(hook.name()))?;
    patch::apply(&mut object, patch).map_err(ApiError::internal)?;
    host.default(&mut object);
    Ok(object)
}
