//! Nodes that fall silent: their conditions, their taints, the eviction of their pods, and the pods of nodes that are
//! gone.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kruise_common::key::ObjectKey;
use kruise_runtime::store::View;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use super::hub::{Hub, Seen, queue_itself};
use super::rounds::{new_queue, unless, work};
use crate::nodes::{NodeView, PodView, covers, silent_conditions};

/// How long a node may be silent before it counts as lost.
const SILENCE: SignedDuration = SignedDuration::from_secs(40);
/// How long a pod may name a node that does not exist.
const QUARANTINE: Duration = Duration::from_secs(40);

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const CORDONED: &str = "node.kubernetes.io/unschedulable";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

type Node = Seen<NodeView>;
type Pod = Seen<PodView>;

/// Looks after nodes and their pods, for ever.
pub(super) async fn control(hub: &Hub) {
    let (Some(nodes), Some(pods)) = (new_queue("node-lifecycle"), new_queue("taint-eviction")) else {
        return;
    };
    queue_itself(&hub.nodes, &nodes);
    let by_lease = nodes.clone();
    hub.leases.subscribe(Box::new(move |change| {
        if let Some(lease) = &change.new
            && &*lease.key().namespace == "kube-node-lease"
        {
            by_lease.add(ObjectKey::new("", lease.key().name));
        }
    }));
    queue_itself(&hub.pods, &pods);
    let (all, by_node) = (hub.pods.clone(), pods.clone());
    hub.nodes.subscribe(Box::new(move |change| {
        let taints = |node: &Option<Arc<Node>>| node.as_ref().map(|node| node.object.spec.taints.clone());
        let Some(node) = change.new.as_ref().or(change.old.as_ref()) else { return };
        if taints(&change.old) == taints(&change.new) {
            return;
        }
        for pod in all.all() {
            if pod.object.node() == Some(node.name()) {
                by_node.add(pod.key());
            }
        }
    }));
    tokio::join!(hub.nodes.ready(), hub.leases.ready(), hub.pods.ready());
    let begun = hub.now();
    let nodes = work("node-lifecycle", &nodes, 4, |key| async move {
        match hub.nodes.get(&key) {
            Some(node) => look_after(hub, &node, begun).await,
            None => Ok(None),
        }
    });
    let pods = work("taint-eviction", &pods, 8, |key| async move {
        match hub.pods.get(&key) {
            Some(pod) => evict(hub, &pod).await,
            None => Ok(None),
        }
    });
    tokio::join!(nodes, pods);
}

fn nodes(hub: &Hub) -> Api<NodeView> {
    Api::all(hub.client.clone())
}

/// The status of the node's `Ready` condition.
fn ready(node: &Node) -> Option<&str> {
    let condition = node.object.status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some(condition.status.as_str())
}

/// Puts a node right; it is missed from when it was last heard of, but not from before this controller listened.
async fn look_after(hub: &Hub, node: &Node, begun: Timestamp) -> kube::Result<Option<Duration>> {
    let now = hub.now();
    let lease = hub.leases.get(&ObjectKey::new("kube-node-lease", node.name()));
    // Who never renewed a lease cannot be missed.
    let renewed = lease.and_then(|lease| lease.text("/spec/renewTime")?.parse::<Timestamp>().ok());
    let silent = renewed.map(|renewed| now.duration_since(renewed.max(begun)));
    let lost = silent.is_some_and(|silent| silent >= SILENCE);
    if lost && ready(node) != Some("Unknown") {
        let status = json!({"status": {"conditions": silent_conditions(now)}});
        let patch = Patch::Strategic(status);
        unless(nodes(hub).patch_status(node.name(), &PatchParams::default(), &patch).await, &[404])?;
    }
    write_taints(hub, node, now).await?;
    if matches!(ready(node), Some("False" | "Unknown")) {
        mark_pods(hub, node, now).await?;
    }
    let left = silent.filter(|_| !lost).map(|silent| SILENCE - silent);
    Ok(left.and_then(|left| Duration::try_from(left).ok()))
}

/// The taints that a node shall have.
fn taints(node: &Node, now: Timestamp) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = match ready(node) {
        Some("Unknown") => vec![(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
        Some("False") => vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")],
        _ => Vec::new(),
    };
    if node.object.spec.unschedulable {
        wanted.push((CORDONED, "NoSchedule"));
    }
    let ours = |key: &str| [UNREACHABLE, NOT_READY, CORDONED].contains(&key);
    let mut taints: Vec<Taint> = node.object.spec.taints.clone();
    taints.retain(|taint| !ours(&taint.key) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())));
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                value: None,
                time_added: Some(Time(whole)),
            });
        }
    }
    taints
}

async fn write_taints(hub: &Hub, node: &Node, now: Timestamp) -> kube::Result<()> {
    let wanted = taints(node, now);
    if wanted == node.object.spec.taints {
        return Ok(());
    }
    let version = node.resource_version();
    let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "spec": {"taints": wanted}}));
    unless(nodes(hub).patch(node.name(), &PatchParams::default(), &patch).await, &[404]).map(|_| ())
}

/// Pods of a node that is not ready are not ready either.
async fn mark_pods(hub: &Hub, node: &Node, now: Timestamp) -> kube::Result<()> {
    let mut pods = hub.pods.all();
    pods.retain(|pod| pod.object.node() == Some(node.name()));
    pods.sort_by_key(|pod| pod.key());
    for pod in pods {
        let conditions = &pod.object.status.conditions;
        if !conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
            continue;
        }
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": now});
        let patch = Patch::Strategic(
            json!({"metadata": {"uid": pod.uid().0}, "status": {"conditions": [condition]}}),
        );
        let api: Api<PodView> = Api::namespaced(hub.client.clone(), &pod.key().namespace);
        unless(api.patch_status(pod.name(), &PatchParams::default(), &patch).await, &[404, 409])?;
    }
    Ok(())
}

/// Deletes a pod that its node's taints drive away, or whose node is gone.
async fn evict(hub: &Hub, pod: &Pod) -> kube::Result<Option<Duration>> {
    let Some(name) = pod.object.node() else { return Ok(None) };
    let Some(node) = hub.nodes.get(&ObjectKey::new("", name)) else {
        return collect_orphan(hub, pod, name).await;
    };
    let out_of_service = node.object.spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE);
    if out_of_service && pod.deleting() && ready(&node) != Some("True") {
        return delete(hub, pod, Some(0)).await;
    }
    if pod.deleting() || pod.object.ended() {
        return Ok(None);
    }
    let now = hub.now();
    match stay(&node.object.spec.taints, &pod.object.spec.tolerations, now) {
        Stay::Forever => Ok(None),
        Stay::For(left) => Ok(Duration::try_from(left).ok()),
        Stay::No => delete(hub, pod, None).await,
    }
}

/// How long a pod may stay on a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stay {
    Forever,
    For(SignedDuration),
    No,
}

fn stay(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Stay {
    let mut shortest: Option<SignedDuration> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let covering = tolerations.iter().filter(|toleration| covers(toleration, taint));
        let seconds: Vec<Option<i64>> = covering.map(|toleration| toleration.toleration_seconds).collect();
        if seconds.is_empty() {
            return Stay::No;
        }
        // The shortest of those that name a time holds.
        if let Some(seconds) = seconds.into_iter().flatten().min() {
            let since = taint.time_added.as_ref().map_or(now, |time| time.0);
            let left = SignedDuration::from_secs(seconds) - now.duration_since(since);
            shortest = Some(shortest.map_or(left, |shortest| shortest.min(left)));
        }
    }
    match shortest {
        None => Stay::Forever,
        Some(left) if left.is_positive() => Stay::For(left),
        Some(_) => Stay::No,
    }
}

/// A pod whose node does not exist is deleted at once, after a while to be sure.
async fn collect_orphan(hub: &Hub, pod: &Pod, node: &str) -> kube::Result<Option<Duration>> {
    let api: Api<PodView> = Api::namespaced(hub.client.clone(), &pod.key().namespace);
    let waited = pod.created().duration_since(Timestamp::UNIX_EPOCH);
    let age = hub.now().duration_since(Timestamp::UNIX_EPOCH) - waited;
    if let Some(left) = QUARANTINE.checked_sub(Duration::try_from(age).unwrap_or_default())
        && !left.is_zero()
    {
        return Ok(Some(left));
    }
    if unless(nodes(hub).get_metadata(node).await, &[404])?.is_some() {
        return Ok(Some(QUARANTINE));
    }
    if !pod.object.ended() {
        let now = hub.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
            "lastTransitionTime": now,
        });
        let status = json!({"phase": "Failed", "conditions": [condition]});
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid().0}, "status": status}));
        unless(api.patch_status(pod.name(), &PatchParams::default(), &patch).await, &[404, 409])?;
    }
    delete(hub, pod, Some(0)).await
}

async fn delete(hub: &Hub, pod: &Pod, grace: Option<u32>) -> kube::Result<Option<Duration>> {
    let api: Api<PodView> = Api::namespaced(hub.client.clone(), &pod.key().namespace);
    let params = DeleteParams {
        grace_period_seconds: grace,
        preconditions: Some(Preconditions { uid: Some(pod.uid().0.to_string()), resource_version: None }),
        ..DeleteParams::default()
    };
    unless(api.delete(pod.name(), &params).await, &[404, 409])?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_stay_as_long_as_they_tolerate_the_taint() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let taint = |effect: &str| Taint {
            key: UNREACHABLE.into(),
            effect: effect.into(),
            value: None,
            time_added: Some(Time(start)),
        };
        let tolerates = |seconds: Option<i64>| Toleration {
            key: Some(UNREACHABLE.into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            toleration_seconds: seconds,
            ..Default::default()
        };
        let after = |seconds: i64| start.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        let rows = [
            (taint("NoExecute"), vec![], 0, Stay::No),
            (taint("NoSchedule"), vec![], 0, Stay::Forever),
            (taint("NoExecute"), vec![tolerates(None)], 9999, Stay::Forever),
            (taint("NoExecute"), vec![tolerates(Some(300))], 100, Stay::For(SignedDuration::from_secs(200))),
            (taint("NoExecute"), vec![tolerates(Some(300))], 300, Stay::No),
        ];
        for (taint, tolerations, seconds, expected) in rows {
            assert_eq!(stay(&[taint], &tolerations, after(seconds)), expected);
        }
    }
}
