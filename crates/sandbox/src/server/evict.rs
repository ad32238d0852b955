//! Evictions: a pod is deleted if its disruption budget allows.

use std::sync::Arc;

use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::answer::Answer;
use super::decode;
use super::delete::{Options, delete_admitted};
use super::handler::Call;
use super::pipeline::{self, Rules};
use super::storage::{Stored, lock};
use super::sub::{set_condition, typed};
use super::write::change;
use crate::error::{ApiError, Reason};
use crate::object;

const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const BUDGETS: &str = "poddisruptionbudgets.policy";

/// POST to `pods/{name}/eviction`.
pub(crate) async fn evict(call: &Arc<Call>) -> Result<Answer, ApiError> {
    let eviction = decode::parse(call, "Eviction")?;
    decode::check_posted(call, &eviction, "policy", "Eviction")?;
    if object::name(&eviction) != call.info.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    // Only the eviction is admitted, as what webhooks make of it; they are not asked about the deletion.
    let eviction = pipeline::posted(call, typed(eviction, "policy/v1", "Eviction")).await?;
    let mut options = eviction.get("deleteOptions").map(Options::from_value).unwrap_or_default();
    options.dry_run |= call.info.dry_run;
    let pod = lock(&call.server.0.store).get(&call.table, &call.key()).ok_or_else(|| call.not_found())?;
    if !may_ignore_budget(&pod.value)
        && let Some(budget) = budget_of(call, &pod.value)?
    {
        if healthy_enough(&pod.value, &budget.value) {
            // The pod counts for nothing; it must still not count when it is deleted.
            options.resource_version.get_or_insert_with(|| pod.rv.to_string());
        } else {
            take_disruption(call, &budget, options.dry_run)?;
        }
    }
    if !options.dry_run {
        let marked = mark(call, &options).await?;
        if let Some(version) = &mut options.resource_version {
            *version = marked.rv.to_string();
        }
    }
    delete_admitted(call, &options).await?;
    let done =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(Answer::with(StatusCode::CREATED, &done))
}

/// The pod tells why it goes.
async fn mark(call: &Call, options: &Options) -> Result<Arc<Stored>, ApiError> {
    let time = call.server.time();
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    });
    change(call, Rules::Raw, |old| {
        let mut new = old.clone();
        set_condition(&mut new, &condition, &time);
        if let Some(version) = &options.resource_version {
            object::set_meta(&mut new, "resourceVersion", Value::from(version.as_str()));
        }
        if let Some(uid) = &options.uid {
            object::set_meta(&mut new, "uid", Value::from(uid.as_str()));
        }
        Ok(new)
    })
    .await
}

/// Pods that run nothing are nobody's budget.
fn may_ignore_budget(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    object::is_deleting(pod) || matches!(phase, "Succeeded" | "Failed" | "Pending")
}

/// The one budget of a pod.
fn budget_of(call: &Call, pod: &Value) -> Result<Option<Arc<Stored>>, ApiError> {
    let prefix = format!("{}/", call.info.namespace);
    let mut found: Vec<Arc<Stored>> = lock(&call.server.0.store)
        .scan(BUDGETS, &prefix, None)
        .map(|(_, stored)| stored)
        .filter(|stored| selects(&stored.value, pod))
        .cloned()
        .collect();
    if found.len() > 1 {
        let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(ApiError::unexplained(text));
    }
    Ok(found.pop())
}

fn selects(budget: &Value, pod: &Value) -> bool {
    let Some(selector) = budget.pointer("/spec/selector") else { return false };
    let Ok(selector) = serde_json::from_value::<LabelSelector>(selector.clone()) else { return false };
    let labels = pod.pointer("/metadata/labels").and_then(Value::as_object);
    let labels: std::collections::BTreeMap<Arc<str>, Arc<str>> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str().unwrap_or_default())))
        .collect();
    kruise_common::selector::Selector::parse(&selector).is_ok_and(|selector| selector.matches(&labels))
}

/// An unready pod may go when that makes nothing worse.
fn healthy_enough(pod: &Value, budget: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().any(|one| {
        one.get("type").and_then(Value::as_str) == Some("Ready")
            && one.get("status").and_then(Value::as_str) == Some("True")
    });
    let number =
        |field: &str| budget.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or(0);
    let always =
        budget.pointer("/spec/unhealthyPodEvictionPolicy").and_then(Value::as_str) == Some("AlwaysAllow");
    let (current, desired) = (number("currentHealthy"), number("desiredHealthy"));
    !ready && (always || (current >= desired && desired > 0))
}

/// Takes one of the disruptions that the budget allows.
fn take_disruption(call: &Call, budget: &Arc<Stored>, dry_run: bool) -> Result<(), ApiError> {
    let mut budget = Arc::clone(budget);
    loop {
        let spent = spend(&budget.value, &call.info.name, &call.server.time())?;
        if dry_run {
            return Ok(());
        }
        let name = object::name(&budget.value).to_owned();
        let key = format!("{}/{name}", call.info.namespace);
        let mut store = lock(&call.server.0.store);
        if store.replace(BUDGETS, &key, budget.rv, spent).is_ok() {
            return Ok(());
        }
        // Somebody else has changed it: look again.
        let Some(current) = store.get(BUDGETS, &key) else { return Ok(()) };
        budget = current;
    }
}

fn spend(budget: &Value, pod: &str, time: &str) -> Result<Value, ApiError> {
    let name = object::name(budget);
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let refuse = |why: String, retry_after: Option<u32>| {
        let mut error = ApiError::new(Reason::TooManyRequests, REFUSED);
        error.details = json!({"causes": [{"reason": "DisruptionBudget", "message": why}]});
        error.retry_after = retry_after;
        error
    };
    if number("/status/observedGeneration") < number("/metadata/generation") {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refuse(why, Some(10)));
    }
    let allowed = number("/status/disruptionsAllowed");
    if allowed < 0 {
        let text =
            format!("poddisruptionbudget.policy {name:?} is forbidden: pdb disruptions allowed is negative");
        return Err(ApiError::new(Reason::Forbidden, text).details("policy", "poddisruptionbudget", name));
    }
    if allowed == 0 {
        let why = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number("/status/desiredHealthy"),
            number("/status/currentHealthy")
        );
        return Err(refuse(why, None));
    }
    let mut spent = budget.clone();
    if let Some(root) = spent.as_object_mut() {
        let status = object::child_mut(root, "status");
        status.insert("disruptionsAllowed".to_owned(), Value::from(allowed - 1));
        object::child_mut(status, "disruptedPods").insert(pod.to_owned(), Value::from(time));
    }
    Ok(spent)
}
