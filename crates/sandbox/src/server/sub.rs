//! Subresources other than status: scale, binding, tokens and the like. Evictions are in [`super::evict`].

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::answer::{Answer, Form};
use super::handler::Call;
use super::patches::{self, Patch};
use super::pipeline::{self, Rules};
use super::route::Verb;
use super::storage::lock;
use super::write::change;
use super::{convert, decode, evict, read, render, write};
use crate::error::{ApiError, FieldError, Reason};
use crate::object;

/// Answers a request to a subresource.
pub(crate) async fn run(call: &Arc<Call>) -> Result<Answer, ApiError> {
    match (call.info.subresource.as_str(), call.info.verb) {
        ("scale", Verb::Get) => scale_get(call).await,
        ("scale", _) => scale_change(call).await,
        ("eviction", Verb::Create) => evict::evict(call).await,
        ("binding", Verb::Create) => bind(call).await,
        ("token", Verb::Create) => token(call),
        ("ephemeralcontainers" | "resize" | "approval", Verb::Get) => read::get(call).await,
        ("ephemeralcontainers" | "resize" | "approval" | "finalize", Verb::Update) => {
            write::update(call).await
        }
        ("ephemeralcontainers" | "resize" | "approval", Verb::Patch) => patches::patch(call).await,
        ("log" | "exec" | "attach" | "portforward" | "proxy", _) => not_here(call),
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// What needs a real node: the object must exist, then the answer is that this cannot be done.
fn not_here(call: &Call) -> Result<Answer, ApiError> {
    if lock(&call.server.0.store).get(&call.table, &call.key()).is_none() {
        return Err(call.not_found());
    }
    let text = format!("the sandbox runs no containers: {} is not implemented", call.info.subresource);
    Err(ApiError::new(Reason::NotImplemented, text))
}

/// Where the parts of a Scale are in an object, as dotted paths.
struct ScalePaths {
    replicas: String,
    status: String,
    selector: Option<String>,
}

impl ScalePaths {
    fn of(call: &Call) -> Self {
        let scale = call.version().and_then(|version| version.scale.as_ref());
        let text =
            |field: &str| scale.and_then(|scale| scale.get(field)).and_then(Value::as_str).map(str::to_owned);
        Self {
            replicas: text("specReplicasPath").unwrap_or_else(|| ".spec.replicas".to_owned()),
            status: text("statusReplicasPath").unwrap_or_else(|| ".status.replicas".to_owned()),
            selector: text("labelSelectorPath"),
        }
    }
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|part| !part.is_empty()).try_fold(value, |at, part| at.get(part))
}

fn put(value: &mut Value, path: &str, content: Value) {
    let mut parts: Vec<&str> = path.split('.').filter(|part| !part.is_empty()).collect();
    let Some(last) = parts.pop() else { return };
    let mut at = value;
    for part in parts {
        if !at.get(part).is_some_and(Value::is_object) {
            object::set(at, part, json!({}));
        }
        match at.get_mut(part) {
            Some(next) => at = next,
            None => return,
        }
    }
    object::set(at, last, content);
}

/// The Scale of an object.
pub(crate) fn scale_of(call: &Call, value: &Value) -> Result<Value, ApiError> {
    let paths = ScalePaths::of(call);
    let replicas = at(value, &paths.replicas).and_then(Value::as_i64);
    if call.resource.custom && replicas.is_none() {
        return Err(ApiError::internal(format!(
            "the spec replicas field {:?} does not exist",
            paths.replicas
        )));
    }
    let selector = match &paths.selector {
        Some(path) => at(value, path).and_then(Value::as_str).unwrap_or_default().to_owned(),
        None if call.resource.custom => String::new(),
        None => selector_text(value),
    };
    let meta = |field: &str| value.pointer(&format!("/metadata/{field}")).cloned().unwrap_or_default();
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta("name"),
            "namespace": meta("namespace"),
            "uid": meta("uid"),
            "resourceVersion": meta("resourceVersion"),
            "creationTimestamp": meta("creationTimestamp"),
        },
        "spec": {},
        "status": {"replicas": at(value, &paths.status).and_then(Value::as_i64).unwrap_or(0)},
    });
    if let Some(replicas) = replicas.filter(|replicas| *replicas != 0) {
        put(&mut scale, "spec.replicas", Value::from(replicas));
    }
    if !selector.is_empty() {
        put(&mut scale, "status.selector", Value::from(selector));
    }
    Ok(scale)
}

/// `spec.selector` of a built-in workload as `kubectl -l` takes it.
fn selector_text(value: &Value) -> String {
    let Some(selector) = value.pointer("/spec/selector") else { return String::new() };
    let labels = |map: &Value| -> String {
        let pairs = map.as_object().into_iter().flatten();
        let texts: Vec<String> =
            pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
        texts.join(",")
    };
    if selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none() {
        // A ReplicationController selects by plain labels.
        return labels(selector);
    }
    let parsed: Option<LabelSelector> = serde_json::from_value(selector.clone()).ok();
    parsed
        .and_then(|selector| kruise_common::selector::Selector::parse(&selector).ok())
        .map_or_else(String::new, |selector| selector.to_string())
}

async fn scale_get(call: &Call) -> Result<Answer, ApiError> {
    let found = lock(&call.server.0.store).get(&call.table, &call.key());
    let shown = convert::fresh(call, found.ok_or_else(|| call.not_found())?).await?;
    scale_answer(call, &scale_of(call, &shown.value)?)
}

async fn scale_change(call: &Call) -> Result<Answer, ApiError> {
    let asked = match call.info.verb {
        Verb::Update => Err(decode::parse(call, "Scale")?),
        _ => Ok(Patch::of(call)?),
    };
    let paths = ScalePaths::of(call);
    let stored = change(call, Rules::Of(Some("scale")), |old| {
        let asked = match &asked {
            Err(scale) => scale.clone(),
            Ok(patch) => patch.apply_plain(&scale_of(call, old)?)?,
        };
        let new = rescaled(call, &paths, old, &asked)?;
        Ok(new)
    })
    .await?;
    let shown = convert::fresh(call, stored).await?;
    scale_answer(call, &scale_of(call, &shown.value)?)
}

fn scale_answer(call: &Call, scale: &Value) -> Result<Answer, ApiError> {
    if call.accept.form == Form::Table { render::scale(call, scale) } else { Ok(Answer::ok(scale)) }
}

/// What is wrong with the replicas of a custom object that can be scaled.
pub(crate) fn scale_errors(call: &Call, value: &Value) -> Vec<FieldError> {
    if call.version().is_none_or(|version| version.scale.is_none()) {
        return Vec::new();
    }
    let path = ScalePaths::of(call).replicas;
    let Some(replicas) = at(value, &path).and_then(Value::as_i64) else { return Vec::new() };
    let why = match replicas {
        ..0 => "should be a non-negative integer".to_owned(),
        number if number > i64::from(i32::MAX) => {
            format!("should be less than or equal to {}", i32::MAX)
        }
        _ => return Vec::new(),
    };
    vec![FieldError::invalid(path, &Value::from(replicas), &why)]
}

/// The object with the replicas of the Scale.
fn rescaled(call: &Call, paths: &ScalePaths, old: &Value, asked: &Value) -> Result<Value, ApiError> {
    let name = &call.info.name;
    let given = object::name(asked);
    if given != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let replicas = asked.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        let bad = FieldError::invalid(
            "spec.replicas",
            &Value::from(replicas),
            "must be greater than or equal to 0",
        );
        return Err(ApiError::invalid("autoscaling", "Scale", name, &[bad]));
    }
    let mut new = old.clone();
    put(&mut new, &paths.replicas, Value::from(replicas));
    for field in ["uid", "resourceVersion"] {
        // Who names no version changes whatever is there.
        let given = asked.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
        if let Some(given) = given.filter(|given| !given.is_empty()) {
            object::set_meta(&mut new, field, Value::from(given));
        }
    }
    Ok(new)
}

/// A pod comes to its node.
async fn bind(call: &Call) -> Result<Answer, ApiError> {
    let binding = decode::parse(call, "Binding")?;
    let name = object::name(&binding);
    if !name.is_empty() && name != call.info.name {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    if lock(&call.server.0.store).get(&call.table, &call.key()).is_none() {
        return Err(call.not_found());
    }
    let binding = pipeline::posted(call, typed(binding, "v1", "Binding")).await?;
    bind_pod(call, &binding).await
}

/// A body with the kind that it is taken for.
pub(crate) fn typed(mut body: Value, api_version: &str, kind: &str) -> Value {
    object::set(&mut body, "apiVersion", Value::from(api_version));
    object::set(&mut body, "kind", Value::from(kind));
    body
}

/// What is wrong with the target of a Binding.
fn wrong_target(kind: &str, name: &str) -> Option<FieldError> {
    if !matches!(kind, "" | "Node") {
        return Some(FieldError::not_supported("target.kind", &kind.into(), &["Node", "<empty>"]));
    }
    name.is_empty().then(|| FieldError::required("target.name", ""))
}

/// Carries out a Binding on the addressed pod.
async fn bind_pod(call: &Call, binding: &Value) -> Result<Answer, ApiError> {
    let target = |field: &str| binding.get("target").and_then(|target| target.get(field)?.as_str());
    let node = target("name").unwrap_or_default();
    if let Some(wrong) = wrong_target(target("kind").unwrap_or_default(), node) {
        return Err(ApiError::unexplained(wrong.to_string()));
    }
    let time = call.server.time();
    let name = &call.info.name;
    let conflict = |why: &str| {
        let text = format!("Operation cannot be fulfilled on pods/binding {name:?}: {why}");
        ApiError::new(Reason::Conflict, text).details("", "pods/binding", name)
    };
    let uid = object::uid(binding).to_owned();
    change(call, Rules::Raw, |old| {
        if !uid.is_empty() && uid != object::uid(old) {
            return Err(write::another_uid(call, &uid, object::uid(old)));
        }
        let taken = old.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
        if object::is_deleting(old) {
            return Err(conflict(&format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        if !taken.is_empty() {
            return Err(conflict(&format!("pod {name} is already assigned to node {taken:?}")));
        }
        let gates = old.pointer("/spec/schedulingGates").and_then(Value::as_array);
        if gates.is_some_and(|gates| !gates.is_empty()) {
            return Err(conflict(&format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        let mut new = old.clone();
        put(&mut new, "spec.nodeName", Value::from(node));
        set_condition(&mut new, &json!({"type": "PodScheduled", "status": "True"}), &time);
        for field in ["annotations", "labels"] {
            let given = binding.pointer(&format!("/metadata/{field}")).and_then(Value::as_object);
            for (key, value) in given.into_iter().flatten() {
                object::child_mut(object::meta_mut(&mut new), field).insert(key.clone(), value.clone());
            }
        }
        Ok(new)
    })
    .await?;
    let done =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(Answer::with(StatusCode::CREATED, &done))
}

/// Sets a condition of an object; its transition time changes with its status only.
pub(crate) fn set_condition(value: &mut Value, condition: &Value, time: &str) {
    let kind = condition.get("type").cloned().unwrap_or_default();
    if !value.pointer("/status/conditions").is_some_and(Value::is_array) {
        put(value, "status.conditions", json!([]));
    }
    let Some(list) = value.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
    let mut new = condition.clone();
    let known = list.iter_mut().find(|one| one.get("type") == Some(&kind));
    let kept = known
        .as_ref()
        .filter(|known| known.get("status") == new.get("status"))
        .and_then(|known| known.get("lastTransitionTime").cloned());
    object::set(&mut new, "lastTransitionTime", kept.unwrap_or_else(|| Value::from(time)));
    if new.get("lastProbeTime").is_none() {
        object::set(&mut new, "lastProbeTime", Value::Null);
    }
    match known {
        Some(known) => *known = new,
        None => list.push(new),
    }
}

/// A token for a service account: no one checks it here.
fn token(call: &Call) -> Result<Answer, ApiError> {
    let mut request = decode::parse(call, "TokenRequest")?;
    let Some(account) = lock(&call.server.0.store).get(&call.table, &call.key()) else {
        return Err(call.not_found());
    };
    let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_u64).unwrap_or(3600);
    let expires = call.server.now().checked_add(Duration::from_secs(seconds)).unwrap_or(jiff::Timestamp::MAX);
    for (path, content) in [
        ("kind", json!("TokenRequest")),
        ("apiVersion", json!("authentication.k8s.io/v1")),
        ("metadata.name", json!(call.info.name)),
        ("metadata.namespace", json!(call.info.namespace)),
        ("metadata.creationTimestamp", json!(call.server.time())),
        ("metadata.uid", account.value.pointer("/metadata/uid").cloned().unwrap_or_default()),
        ("spec.expirationSeconds", json!(seconds)),
        ("status.token", json!(format!("sandbox.{}", call.server.new_uid()))),
        ("status.expirationTimestamp", json!(object::time(expires))),
    ] {
        put(&mut request, path, content);
    }
    if request.pointer("/spec/audiences").is_none() {
        put(&mut request, "spec.audiences", json!(["https://kubernetes.default.svc"]));
    }
    Ok(Answer::with(StatusCode::CREATED, &request))
}

/// Kinds that are answered and never stored: reviews, and bindings at their collection.
pub(crate) async fn unstored(call: &Arc<Call>) -> Option<Result<Answer, ApiError>> {
    let resource = &call.resource;
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "bindings") => Some(bind_elsewhere(call).await),
        ("authentication.k8s.io" | "authorization.k8s.io", plural) => Some(review(call, plural)),
        _ => None,
    }
}

/// POST to `bindings`: the pod is named by the Binding.
async fn bind_elsewhere(call: &Arc<Call>) -> Result<Answer, ApiError> {
    let binding = decode::parse(call, "Binding")?;
    let Some(pods) = call.server.registry().get("", "pods") else { return Err(ApiError::unknown_path()) };
    let mut info = call.info.clone();
    info.name = object::name(&binding).to_owned();
    let call = call.on(&pods, info);
    bind_pod(&call, &binding).await
}

fn review(call: &Call, plural: &str) -> Result<Answer, ApiError> {
    let mut value = decode::object(call)?;
    let user = json!({"username": "system:admin", "groups": ["system:masters", "system:authenticated"]});
    let status = match plural {
        "selfsubjectreviews" => json!({"userInfo": user}),
        "tokenreviews" => {
            let token = value.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
            if token.starts_with("sandbox.") {
                json!({"authenticated": true, "user": user, "audiences": ["https://kubernetes.default.svc"]})
            } else {
                json!({"user": {}, "error": "invalid bearer token"})
            }
        }
        "selfsubjectrulesreviews" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
        _ => json!({"allowed": true}),
    };
    object::set(&mut value, "status", status);
    if plural == "selfsubjectreviews" {
        object::set_meta(&mut value, "creationTimestamp", Value::from(call.server.time()));
    } else {
        object::meta_mut(&mut value);
    }
    Ok(Answer::with(StatusCode::CREATED, &value))
}
