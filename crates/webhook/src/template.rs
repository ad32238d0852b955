//! Asks the API server about a pod template: a dry-run create of a core/v1 `PodTemplate` stores nothing and runs
//! Kubernetes' own validation of the cluster's version.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind, Status};
use serde_json::{Map, Value};

use crate::review::{FieldError, FieldErrorKind};

/// Well below the ten seconds the API server waits for a webhook, so that the user sees the reason.
const PATIENCE: Duration = Duration::from_secs(7);
/// Number of accepted templates that are remembered.
const REMEMBERED: usize = 128;
/// Templates larger than this are asked about every time, so that the memory stays small.
const LARGEST_REMEMBERED: usize = 64 * 1024;

/// Decides whether Kubernetes itself would accept a pod template.
pub trait TemplateCheck: Send + Sync {
    /// The faults of a `PodTemplateSpec`, at paths that begin with `template`.
    ///
    /// # Errors
    /// An error of kind `Internal` says that the question could not be answered; all others are the user's.
    fn check<'a>(
        &'a self,
        namespace: &'a str,
        template: &'a Value,
    ) -> BoxFuture<'a, Result<(), Vec<FieldError>>>;
}

/// Asks about each template once.
pub struct Templates {
    check: Arc<dyn TemplateCheck>,
    accepted: Accepted,
}

impl Templates {
    /// Nothing is known yet.
    pub fn new(check: Arc<dyn TemplateCheck>) -> Self {
        Self { check, accepted: Accepted::default() }
    }

    /// The faults of the template that stands at `path`, such as `spec.template`.
    ///
    /// # Errors
    /// The message of a question that could not be answered, for an answer with code 500.
    pub async fn faults(
        &self,
        namespace: &str,
        template: &Value,
        path: &str,
    ) -> Result<Vec<FieldError>, Vec<FieldError>> {
        let content = template.to_string();
        if self.accepted.contains(&content) {
            return Ok(Vec::new());
        }
        match self.check.check(namespace, template).await {
            Ok(()) => {
                self.accepted.remember(content);
                Ok(Vec::new())
            }
            Err(found) if found.iter().any(|fault| fault.kind == FieldErrorKind::Internal) => Err(found),
            Err(found) => Ok(found.into_iter().map(|fault| moved(fault, path)).collect()),
        }
    }
}

fn moved(fault: FieldError, path: &str) -> FieldError {
    let field = match fault.field.strip_prefix("template") {
        Some(rest) => format!("{path}{rest}"),
        None => path.to_owned(),
    };
    FieldError { field, ..fault }
}

/// Templates Kubernetes accepted lately, newest last.
///
/// Refusals are not kept: an upgraded API server may accept tomorrow what it refuses today.
#[derive(Default)]
struct Accepted(Mutex<VecDeque<String>>);

impl Accepted {
    fn contains(&self, content: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|known| known == content)
    }

    fn remember(&self, content: String) {
        if content.len() > LARGEST_REMEMBERED {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.pop_front();
        }
        known.push_back(content);
    }
}

/// Kubernetes' own opinion on templates.
pub struct DryRun {
    client: kube::Client,
}

impl DryRun {
    /// Needs the right to create `podtemplates` in every namespace with workloads.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    async fn ask(&self, namespace: &str, template: &Value) -> Result<(), Vec<FieldError>> {
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk("", "v1", "PodTemplate"),
            "podtemplates",
        );
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let object = candidate(&resource, template);
        let reply = tokio::time::timeout(PATIENCE, api.create(&params, &object)).await;
        match reply {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) => Err(faults(&status)),
            Ok(Err(error)) => Err(vec![unanswered(&error.to_string())]),
            Err(_) => Err(vec![unanswered("timed out")]),
        }
    }
}

impl TemplateCheck for DryRun {
    fn check<'a>(
        &'a self,
        namespace: &'a str,
        template: &'a Value,
    ) -> BoxFuture<'a, Result<(), Vec<FieldError>>> {
        Box::pin(self.ask(namespace, template))
    }
}

fn candidate(resource: &ApiResource, template: &Value) -> DynamicObject {
    let mut fields = Map::new();
    fields.insert("template".to_owned(), template.clone());
    let mut object = DynamicObject::new("", resource).data(Value::Object(fields));
    object.metadata.name = None;
    object.metadata.generate_name = Some("kruise-".to_owned());
    object
}

fn unanswered(reason: &str) -> FieldError {
    FieldError::internal("spec.template", format!("cannot validate the pod template: {reason}"))
}

/// The faults in a refusal of the API server.
fn faults(status: &Status) -> Vec<FieldError> {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    match status.code {
        422 if !causes.is_empty() => {
            causes.iter().map(|cause| fault(&cause.reason, &cause.field, &cause.message)).collect()
        }
        // 400: a field of the template has the wrong type.
        400 | 422 => vec![fault("", "template", &status.message)],
        _ => vec![unanswered(&status.message)],
    }
}

/// One cause: its message is the error without the field, so the label in front is taken off again.
fn fault(reason: &str, field: &str, message: &str) -> FieldError {
    let (kind, label) = match reason {
        "FieldValueRequired" => (FieldErrorKind::Required, "Required value"),
        "FieldValueForbidden" => (FieldErrorKind::Forbidden, "Forbidden"),
        "FieldValueNotSupported" => (FieldErrorKind::NotSupported, "Unsupported value"),
        "FieldValueDuplicate" => (FieldErrorKind::Duplicate, "Duplicate value"),
        "FieldValueNotFound" => (FieldErrorKind::NotFound, "Not found"),
        "FieldValueTooLong" => (FieldErrorKind::TooLong, "Too long"),
        "FieldValueTooMany" => (FieldErrorKind::TooMany, "Too many"),
        _ => (FieldErrorKind::Invalid, "Invalid value"),
    };
    let detail = message.strip_prefix(label).map_or(message, |rest| rest.trim_start_matches(": "));
    // The value stays in front of the detail, already rendered: taking it apart again could only garble it.
    FieldError { kind, field: field.to_owned(), value: None, detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(value: Value) -> Status {
        serde_json::from_value(value).unwrap()
    }

    fn texts(faults: &[FieldError]) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_cause_reads_as_the_api_server_wrote_it() {
        let refusal = status(json!({
            "status": "Failure", "code": 422, "reason": "Invalid", "message": "PodTemplate is invalid",
            "details": { "kind": "PodTemplate", "causes": [
                { "reason": "FieldValueRequired", "message": "Required value", "field": "template.spec.containers" },
                { "reason": "FieldValueDuplicate", "message": "Duplicate value: \"data\"",
                  "field": "template.spec.volumes[1].name" },
                { "reason": "FieldValueInvalid", "message": "Invalid value: \"A\": must be lower case",
                  "field": "template.spec.containers[0].name" },
                { "reason": "FieldValueNotSupported",
                  "message": "Unsupported value: \"x\": supported values: \"Always\"", "field": "template.spec.restartPolicy" },
            ] }
        }));
        assert_eq!(
            texts(&faults(&refusal)),
            [
                "template.spec.containers: Required value",
                "template.spec.volumes[1].name: Duplicate value: \"data\"",
                "template.spec.containers[0].name: Invalid value: \"A\": must be lower case",
                "template.spec.restartPolicy: Unsupported value: \"x\": supported values: \"Always\"",
            ]
        );
    }

    #[test]
    fn a_type_error_is_the_users_and_anything_else_is_ours() {
        let wrong_type =
            status(json!({ "status": "Failure", "code": 400, "message": "json: cannot unmarshal" }));
        assert_eq!(texts(&faults(&wrong_type)), ["template: Invalid value: json: cannot unmarshal"]);
        for code in [401, 403, 404, 409, 429, 500, 503] {
            let outage = status(json!({ "status": "Failure", "code": code, "message": "no" }));
            assert_eq!(faults(&outage), [unanswered("no")]);
        }
    }

    #[test]
    fn the_template_is_sent_as_it_is() {
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk("", "v1", "PodTemplate"),
            "podtemplates",
        );
        let template = json!({ "spec": { "notInventedYet": [1] } });
        assert_eq!(
            serde_json::to_value(candidate(&resource, &template)).unwrap(),
            json!({ "apiVersion": "v1", "kind": "PodTemplate", "metadata": { "generateName": "kruise-" },
                "template": template })
        );
    }

    #[test]
    fn the_memory_of_accepted_templates_is_bounded() {
        let accepted = Accepted::default();
        for index in 0..=REMEMBERED {
            accepted.remember(index.to_string());
        }
        assert!(!accepted.contains("0") && accepted.contains("1"));
        accepted.remember("x".repeat(LARGEST_REMEMBERED + 1));
        assert_eq!(accepted.0.lock().unwrap().len(), REMEMBERED);
    }
}
