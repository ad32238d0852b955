//! Admission: what webhooks are asked about a request, and with what.

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::handler::Call;
use super::storage::lock;
use super::{pipeline, sub};
use crate::admission::{self, Host, Operation, Outcome, Request};
use crate::error::ApiError;
use crate::webhook::WebhookCaller;
use crate::{conversion, object};

/// Tables of webhook configurations, mutating and validating.
pub(crate) const CONFIGURATIONS: [&str; 2] = [
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
];

/// The configurations in force.
#[derive(Debug, Default)]
pub(crate) struct Configurations {
    pub(crate) mutating: Vec<Value>,
    pub(crate) validating: Vec<Value>,
}

/// The server as webhooks' answers need it.
struct Hosted<'a>(&'a Call);

impl Host for Hosted<'_> {
    fn caller(&self) -> &dyn WebhookCaller {
        &*self.0.server.0.config.webhooks
    }

    fn convert<'a>(&'a self, object: Value, api_version: &'a str) -> BoxFuture<'a, Result<Value, ApiError>> {
        async move {
            let resource = &self.0.resource;
            if !resource.custom {
                let mut object = object;
                crate::kinds::convert(&mut object, api_version);
                return Ok(object);
            }
            let mut made = conversion::convert(resource, vec![object], api_version, self.caller()).await?;
            made.pop().ok_or_else(|| ApiError::internal("a conversion lost the object"))
        }
        .boxed()
    }

    fn default(&self, object: &mut Value) {
        pipeline::default(self.0, object);
    }
}

/// What is asked about: operation, the object before and after.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) operation: Operation,
    pub(crate) subresource: Option<&'a str>,
    pub(crate) old: Option<&'a Value>,
    pub(crate) new: Option<&'a Value>,
    pub(crate) deletion: Option<&'a Deletion<'a>>,
}

impl Question<'_> {
    /// Whether this may be done, to no object yet.
    pub(crate) const fn of(operation: Operation) -> Self {
        Self { operation, subresource: None, old: None, new: None, deletion: None }
    }
}

/// How an object is to be deleted; unlike other options these may stand in the body.
pub(crate) struct Deletion<'a> {
    pub(crate) options: &'a Value,
    pub(crate) dry_run: bool,
}

/// Asks the mutating webhooks; the new object as they leave it.
pub(crate) async fn mutate(call: &Call, question: &Question<'_>) -> Result<Option<Value>, ApiError> {
    let configurations = call.server.configurations();
    if configurations.mutating.is_empty() {
        return Ok(None);
    }
    let request = request(call, question)?;
    finish(call, admission::mutate(&configurations.mutating, request, &Hosted(call)).await)
}

/// Asks the validating webhooks.
pub(crate) async fn validate(call: &Call, question: &Question<'_>) -> Result<(), ApiError> {
    let configurations = call.server.configurations();
    if configurations.validating.is_empty() {
        return Ok(());
    }
    let request = request(call, question)?;
    finish(call, admission::validate(&configurations.validating, &request, &Hosted(call)).await).map(|_| ())
}

fn finish(call: &Call, outcome: Outcome) -> Result<Option<Value>, ApiError> {
    for text in outcome.warnings {
        call.warn(text);
    }
    outcome.result
}

fn request(call: &Call, question: &Question<'_>) -> Result<Request, ApiError> {
    let (resource, info) = (&call.resource, &call.info);
    let subresource = question.subresource.unwrap_or_default();
    let scaled = |value: Option<&Value>| value.map(|value| sub::scale_of(call, value)).transpose();
    let (old, new) = match subresource {
        "scale" => (scaled(question.old)?, scaled(question.new)?),
        _ => (question.old.cloned(), question.new.cloned()),
    };
    // Subresources such as scale and eviction take a kind of their own.
    let shown = new.as_ref().or(old.as_ref()).unwrap_or(&Value::Null);
    let api_version = shown.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let (kind_group, kind_version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let kind = shown.get("kind").and_then(Value::as_str).unwrap_or(&resource.kind);
    // The deletion of a collection names none of its objects.
    let unnamed = info.name.is_empty() && question.deletion.is_none();
    let name = if unnamed { object::name(shown) } else { &info.name };
    let is_namespace = resource.group.is_empty() && resource.plural == "namespaces";
    let namespace = if is_namespace { name } else { &info.namespace };
    let namespace_object = if namespace.is_empty() {
        None
    } else {
        let stored = lock(&call.server.0.store).get("namespaces", namespace);
        stored.map(|stored| stored.value.clone()).or_else(|| new.clone().filter(|_| is_namespace))
    };
    Ok(Request {
        operation: question.operation,
        group: resource.group.clone(),
        version: info.version.clone(),
        other_versions: resource.versions.iter().map(|version| version.name.clone()).collect(),
        resource: resource.plural.clone(),
        subresource: subresource.to_owned(),
        kind_group: kind_group.to_owned(),
        kind_version: kind_version.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        namespace_object,
        options: question
            .deletion
            .map_or_else(|| options(call, question.operation), |deletion| deletion.options.clone()),
        dry_run: question.deletion.map_or(info.dry_run, |deletion| deletion.dry_run),
        user: "system:admin".to_owned(),
        groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
        object: new,
        old_object: old,
    })
}

fn options(call: &Call, operation: Operation) -> Value {
    let kind = match (operation, call.info.verb) {
        (Operation::Create, _) => "CreateOptions",
        (_, super::route::Verb::Patch) => "PatchOptions",
        _ => "UpdateOptions",
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    for field in ["fieldManager", "fieldValidation"] {
        let given = call.query.get(field);
        if !given.is_empty() {
            object::set(&mut options, field, Value::from(given));
        }
    }
    if call.info.dry_run {
        object::set(&mut options, "dryRun", json!(["All"]));
    }
    options
}
