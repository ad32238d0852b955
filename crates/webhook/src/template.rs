//! Asks the API server about a pod template: a dry-run create of a core/v1 `PodTemplate` stores nothing and runs
//! Kubernetes' own validation of the cluster's version.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Request;
use http::header::{ACCEPT, HeaderValue};
use k8s_openapi::api::core::v1::PodTemplate;
use kube::Resource as _;
use kube::api::PostParams;
use kube::core::Status;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::time::Instant;

use crate::review::{FieldError, FieldErrorKind};

/// Well below the ten seconds the API server waits for a webhook, so that the user sees the reason.
const PATIENCE: Duration = Duration::from_secs(7);
/// An answer without the template, which would be its largest part.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Number of accepted templates that are remembered.
const REMEMBERED: usize = 1024;
/// For so long: what Kubernetes accepts changes with its version, its gates and the policies of the cluster.
const LIFETIME: Duration = Duration::from_mins(10);

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

/// Asks about each template once in a while.
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
        let content = self.accepted.digest(template);
        if self.accepted.contains(content) {
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

/// What stands for the content of a template.
type Digest = [u64; 2];

/// Templates Kubernetes accepted lately, by their content.
///
/// Refusals are not kept: an upgraded API server may accept tomorrow what it refuses today.
#[derive(Default)]
struct Accepted {
    /// Keyed at random, so that nobody can make another template of the same digest.
    keys: [RandomState; 2],
    /// With the time of acceptance, newest last.
    known: Mutex<VecDeque<(Digest, Instant)>>,
}

impl Accepted {
    fn digest(&self, template: &Value) -> Digest {
        let content = template.to_string();
        self.keys.each_ref().map(|key| key.hash_one(&content))
    }

    fn known(&self) -> MutexGuard<'_, VecDeque<(Digest, Instant)>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        while known.front().is_some_and(|(_, accepted)| accepted.elapsed() >= LIFETIME) {
            known.pop_front();
        }
        known
    }

    fn contains(&self, content: Digest) -> bool {
        self.known().iter().any(|(known, _)| *known == content)
    }

    fn remember(&self, content: Digest) {
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.pop_front();
        }
        known.push_back((content, Instant::now()));
    }
}

/// Kubernetes' own opinion on templates.
pub struct DryRun {
    client: kube::Client,
    privileged: bool,
}

impl DryRun {
    /// Needs the right to create `podtemplates` in every namespace with workloads. Without `privileged` no container may
    /// be that, whatever the API server says.
    pub fn new(client: kube::Client, privileged: bool) -> Self {
        Self { client, privileged }
    }

    async fn ask(&self, namespace: &str, template: &Value) -> Result<(), Vec<FieldError>> {
        if !self.privileged {
            let faults = privileged(template);
            if !faults.is_empty() {
                return Err(faults);
            }
        }
        let request = question(namespace, template).map_err(|error| vec![unanswered(&error)])?;
        // Only whether there is an answer matters, and not what it says.
        let reply = tokio::time::timeout(PATIENCE, self.client.request::<IgnoredAny>(request)).await;
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

/// A fault for each container that asks for all rights on its node.
fn privileged(template: &Value) -> Vec<FieldError> {
    let mut faults = Vec::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let containers = template.get("spec").and_then(|spec| spec.get(list)).and_then(Value::as_array);
        for (index, container) in containers.into_iter().flatten().enumerate() {
            if container.pointer("/securityContext/privileged") == Some(&Value::Bool(true)) {
                let path = format!("template.spec.{list}[{index}].securityContext.privileged");
                faults.push(FieldError::forbidden(path, "disallowed by cluster policy"));
            }
        }
    }
    faults
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: CandidateMetadata,
    template: &'a Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CandidateMetadata {
    generate_name: &'static str,
}

/// The request for a dry-run creation, which asks for the metadata of what would be created: its template is known.
fn question(namespace: &str, template: &Value) -> Result<Request<Vec<u8>>, String> {
    let candidate = Candidate {
        api_version: "v1",
        kind: "PodTemplate",
        metadata: CandidateMetadata { generate_name: "kruise-" },
        template,
    };
    let body = serde_json::to_vec(&candidate).map_err(|error| error.to_string())?;
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let mut request = kube::core::Request::new(PodTemplate::url_path(&(), Some(namespace)))
        .create(&params, body)
        .map_err(|error| error.to_string())?;
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA_ONLY));
    Ok(request)
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;

    fn status(value: Value) -> Status {
        serde_json::from_value(value).unwrap()
    }

    fn texts(faults: &[FieldError]) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn privileged_containers_are_refused_where_they_are_not_allowed() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let server = tower::service_fn(move |_: Request<kube::client::Body>| {
            count.fetch_add(1, Ordering::SeqCst);
            async {
                Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(
                    b"{}".to_vec(),
                )))
            }
        });
        let client = kube::Client::new(server, "default");
        let is = |privileged: bool| json!({"name": "a", "securityContext": {"privileged": privileged}});
        let template = json!({"spec": {"initContainers": [is(true)], "containers": [is(false), is(true)]}});
        let refused = DryRun::new(client.clone(), false).check("ns", &template).await.unwrap_err();
        assert_eq!(
            texts(&refused),
            [
                "template.spec.initContainers[0].securityContext.privileged: Forbidden: disallowed by cluster policy",
                "template.spec.containers[1].securityContext.privileged: Forbidden: disallowed by cluster policy",
            ]
        );
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        assert_eq!(DryRun::new(client, true).check("ns", &template).await, Ok(()));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
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
        let template = json!({ "spec": { "notInventedYet": [1] } });
        let request = question("shop", &template).unwrap();
        assert_eq!(request.uri(), "/api/v1/namespaces/shop/podtemplates?&dryRun=All");
        assert_eq!(
            serde_json::from_slice::<Value>(request.body()).unwrap(),
            json!({ "apiVersion": "v1", "kind": "PodTemplate", "metadata": { "generateName": "kruise-" },
                "template": template })
        );
    }

    /// Refuses templates that say so, and counts how often it was asked.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl TemplateCheck for Counting {
        fn check<'a>(
            &'a self,
            _: &'a str,
            template: &'a Value,
        ) -> BoxFuture<'a, Result<(), Vec<FieldError>>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let refused = template.get("bad").is_some();
            let fault = || vec![FieldError::required("template.spec", "")];
            Box::pin(async move { if refused { Err(fault()) } else { Ok(()) } })
        }
    }

    async fn asked(counting: &Counting, templates: &Templates, template: Value) -> usize {
        let before = counting.0.load(Ordering::Relaxed);
        let _ = templates.faults("shop", &template, "spec.template").await;
        counting.0.load(Ordering::Relaxed) - before
    }

    #[tokio::test(start_paused = true)]
    async fn an_accepted_template_is_asked_about_again_after_ten_minutes_only() {
        let counting = Arc::new(Counting::default());
        let templates = Templates::new(Arc::clone(&counting) as Arc<dyn TemplateCheck>);
        let template = || json!({"spec": {"containers": [{"name": "a"}]}});
        assert_eq!(asked(&counting, &templates, template()).await, 1);
        tokio::time::advance(Duration::from_secs(599)).await;
        assert_eq!(asked(&counting, &templates, template()).await, 0);
        assert_eq!(asked(&counting, &templates, json!({"spec": {}})).await, 1, "another content");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(asked(&counting, &templates, template()).await, 1);
        assert_eq!(asked(&counting, &templates, json!({"spec": {}})).await, 0, "accepted later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_template_is_asked_about_every_time() {
        let counting = Arc::new(Counting::default());
        let templates = Templates::new(Arc::clone(&counting) as Arc<dyn TemplateCheck>);
        for _ in 0..2 {
            assert_eq!(asked(&counting, &templates, json!({"bad": 1})).await, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_of_accepted_templates_is_bounded() {
        let counting = Arc::new(Counting::default());
        let templates = Templates::new(Arc::clone(&counting) as Arc<dyn TemplateCheck>);
        for index in 0..=REMEMBERED {
            assert_eq!(asked(&counting, &templates, json!(index)).await, 1);
        }
        assert_eq!(templates.accepted.known().len(), REMEMBERED);
        assert_eq!(asked(&counting, &templates, json!(1)).await, 0);
        assert_eq!(asked(&counting, &templates, json!(0)).await, 1, "the oldest is forgotten");
    }
}
