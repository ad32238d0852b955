//! PodDisruptionBudgets: how many pods may be disrupted now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kruise_common::key::ObjectKey;
use kruise_runtime::store::View;
use kube::core::ApiResource;
use serde_json::{Value, json};

use super::discovered;
use super::hub::{Hub, Loose, queue_itself, resource};
use super::replicasets::{Pod, ready_since, write_status};
use super::rounds::{new_queue, unless, work};
use crate::nodes::labels_match;

fn kind() -> ApiResource {
    resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
}

/// Keeps the budgets' status, for ever.
pub(super) async fn control(hub: &Hub) {
    let Some(queue) = new_queue("disruption") else { return };
    queue_itself(&hub.budgets, &queue);
    let (budgets, by_pod) = (hub.budgets.clone(), queue.clone());
    hub.pods.subscribe(Box::new(move |change| {
        let Some(pod) = change.new.as_ref().or(change.old.as_ref()) else { return };
        for budget in budgets.all() {
            let before = change.old.as_ref().is_some_and(|old| selects(&budget, old));
            if budget.key().namespace == pod.key().namespace && (before || selects(&budget, pod)) {
                by_pod.add(budget.key());
            }
        }
    }));
    tokio::join!(hub.budgets.ready(), hub.pods.ready(), hub.replica_sets.ready(), hub.deployments.ready());
    work("disruption", &queue, 4, |key| async move {
        match hub.budgets.get(&key) {
            Some(budget) if !budget.deleting() => reconcile(hub, &budget, &key).await,
            _ => Ok(None),
        }
    })
    .await;
}

fn selects(budget: &Loose, pod: &Pod) -> bool {
    let selector = budget.field("/spec/selector");
    let selector: Option<LabelSelector> = serde_json::from_value(selector.clone()).ok();
    labels_match(selector.as_ref(), pod.object.labels())
}

async fn reconcile(hub: &Hub, budget: &Loose, key: &ObjectKey) -> kube::Result<Option<Duration>> {
    let mut pods = hub.pods.all();
    pods.retain(|pod| pod.key().namespace == key.namespace && !pod.object.ended() && selects(budget, pod));
    let expected = if budget.field("/spec/minAvailable").is_number() {
        pods.len() as i64
    } else {
        expected(hub, &pods).await?
    };
    let (disrupted, wake) = disrupted(budget, &pods, hub.now());
    let healthy = |pod: &&Arc<Pod>| {
        !pod.deleting() && ready_since(pod).is_some() && !disrupted.contains_key(pod.name())
    };
    let healthy = pods.iter().filter(healthy).count() as i64;
    let desired = desired(budget, expected);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let status = json!({
        "observedGeneration": budget.generation(),
        "expectedPods": expected,
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": allowed,
        "conditions": [condition(budget, allowed, hub.now())],
    });
    let stale =
        disrupted.len() != budget.field("/status/disruptedPods").as_object().map_or(0, serde_json::Map::len);
    let mut status = status;
    if let (true, Value::Object(status)) = (stale, &mut status) {
        let gone = budget.field("/status/disruptedPods").as_object().cloned().unwrap_or_default();
        // A merge takes entries away by naming them.
        let kept = gone.into_iter().map(|(name, at)| {
            let at = if disrupted.contains_key(&name) { at } else { Value::Null };
            (name, at)
        });
        status.insert("disruptedPods".into(), Value::Object(kept.collect()));
    }
    write_status(hub, &hub.budgets, budget, &kind(), status).await?;
    Ok(wake)
}

/// Pods evicted lately that are still there and not yet on their way; for two minutes they count as unhealthy.
fn disrupted(
    budget: &Loose,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Timestamp>, Option<Duration>) {
    const PATIENCE: Duration = Duration::from_mins(2);
    let mut wake: Option<Duration> = None;
    let listed = budget.field("/status/disruptedPods").as_object().cloned().unwrap_or_default();
    let mut kept = BTreeMap::new();
    for (name, at) in listed {
        let Some(at) = at.as_str().and_then(|at| at.parse::<Timestamp>().ok()) else { continue };
        let age = Duration::try_from(now.duration_since(at)).unwrap_or_default();
        let there = pods.iter().any(|pod| pod.name() == name && !pod.deleting());
        if there && age < PATIENCE {
            let left = PATIENCE.saturating_sub(age);
            wake = Some(wake.map_or(left, |wake| wake.min(left)));
            kept.insert(name, at);
        }
    }
    (kept, wake)
}

/// A number or a percentage of `total`, rounded up.
fn share(value: &Value, total: i64) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => Some((text.trim_end_matches('%').parse::<i64>().ok()? * total + 99) / 100),
        _ => None,
    }
}

fn desired(budget: &Loose, expected: i64) -> i64 {
    if let Some(most) = share(budget.field("/spec/maxUnavailable"), expected) {
        return (expected - most).max(0);
    }
    share(budget.field("/spec/minAvailable"), expected).unwrap_or(0)
}

/// How many pods the pods' controllers want in all.
async fn expected(hub: &Hub, pods: &[Arc<Pod>]) -> kube::Result<i64> {
    let mut owners: BTreeMap<&str, (&Pod, &str, &str)> = BTreeMap::new();
    for pod in pods {
        if let Some((kind, name, uid)) = pod.controller() {
            owners.insert(uid, (pod, kind, name));
        }
    }
    let mut sum = 0;
    let mut served = None;
    for (pod, kind, name) in owners.into_values() {
        let namespace = pod.key().namespace;
        if kind == "ReplicaSet"
            && let Some(set) = hub.replica_sets.get(&ObjectKey::new(Arc::clone(&namespace), name))
        {
            let deployment = set.controller().filter(|(kind, ..)| *kind == "Deployment");
            let deployment = deployment
                .and_then(|(_, name, _)| hub.deployments.get(&ObjectKey::new(Arc::clone(&namespace), name)));
            sum += deployment.as_deref().unwrap_or(&set).int("/spec/replicas").unwrap_or(1);
            continue;
        }
        if served.is_none() {
            served = Some(discovered::resources(&hub.client).await?);
        }
        let scalable = served.iter().flatten().find(|served| served.scalable && served.resource.kind == kind);
        if let Some(scalable) = scalable {
            let scale = scalable.api(hub.client.clone(), &namespace).get_scale(name).await;
            let scale = unless(scale, &[404])?;
            sum += scale.and_then(|scale| scale.spec?.replicas).map_or(0, i64::from);
        }
    }
    Ok(sum)
}

fn condition(budget: &Loose, allowed: i64, now: Timestamp) -> Value {
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let known = budget.field("/status/conditions").as_array().into_iter().flatten();
    let mut known = known.filter(|known| known.get("type").is_some_and(|name| name == "DisruptionAllowed"));
    let since = known
        .next()
        .filter(|known| known.get("status").is_some_and(|known| known == status))
        .and_then(|known| known.get("lastTransitionTime").cloned())
        .unwrap_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
    json!({
        "type": "DisruptionAllowed",
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": since,
        "observedGeneration": budget.generation(),
    })
}
