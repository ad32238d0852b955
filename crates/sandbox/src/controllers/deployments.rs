//! Deployments: one ReplicaSet per template, rolled over by the strategy. Enough for `kubectl rollout
//! status|undo|restart|pause`; proportional scaling of several ReplicaSets is not there.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kruise_common::key::ObjectKey;
use kruise_runtime::store::View;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};

use super::hub::{Hub, Loose, Seen, queue_itself, queue_owner, resource};
use super::replicasets::{self, write_status};
use super::rounds::{new_queue, unless, work};
use plan::{Counts, Set, Strategy};

const REVISION: &str = "deployment.kubernetes.io/revision";
const HASH: &str = "pod-template-hash";

fn kind() -> ApiResource {
    resource("apps", "v1", "Deployment", "deployments")
}

/// Keeps Deployments, for ever.
pub(super) async fn control(hub: &Hub) {
    let Some(queue) = new_queue("deployment") else { return };
    queue_itself(&hub.deployments, &queue);
    queue_owner(&hub.replica_sets, &queue, "Deployment");
    // Recreate waits for pods, which are two owners away.
    let (sets, by_pod) = (hub.replica_sets.clone(), queue.clone());
    hub.pods.subscribe(Box::new(move |change| {
        let (Some(old), None) = (&change.old, &change.new) else { return };
        let set = old
            .controller()
            .filter(|(kind, ..)| *kind == "ReplicaSet")
            .and_then(|(_, name, _)| sets.get(&ObjectKey::new(Arc::clone(&old.key().namespace), name)));
        if let Some(set) = set
            && let Some(("Deployment", name, _)) = set.controller()
        {
            by_pod.add(ObjectKey::new(Arc::clone(&set.key().namespace), name));
        }
    }));
    tokio::join!(hub.deployments.ready(), hub.replica_sets.ready(), hub.pods.ready());
    work("deployment", &queue, 4, |key| async move {
        match hub.deployments.get(&key) {
            Some(deployment) if !deployment.deleting() => reconcile(hub, &deployment).await,
            _ => Ok(None),
        }
    })
    .await;
}

async fn reconcile(hub: &Hub, deployment: &Loose) -> kube::Result<Option<Duration>> {
    let sets = owned(hub, deployment);
    let paused = deployment.field("/spec/paused") == &Value::Bool(true);
    let template = deployment.field("/spec/template");
    let current = sets.iter().find(|set| same_template(set.field("/spec/template"), template)).cloned();
    let current = match current {
        Some(current) => Some(refresh(hub, &sets, current).await?),
        None if paused => None,
        None => Some(create(hub, deployment, &sets).await?),
    };
    let old: Vec<Arc<Loose>> = owned(hub, deployment)
        .into_iter()
        .filter(|set| current.as_ref().is_none_or(|current| current.uid() != set.uid()))
        .collect();
    if let Some(current) = &current {
        scale_all(hub, deployment, current, &old, paused).await?;
        annotate(hub, deployment, current.annotation(REVISION).unwrap_or("1")).await?;
    }
    let sets = owned(hub, deployment);
    let current = current.and_then(|current| sets.iter().find(|set| set.uid() == current.uid()).cloned());
    let (status, wake) = status(hub, deployment, current.as_deref(), &sets);
    write_status(hub, &hub.deployments, deployment, &kind(), status).await?;
    clean_up(hub, deployment, current.as_deref(), &sets).await?;
    Ok(wake)
}

fn owned(hub: &Hub, deployment: &Loose) -> Vec<Arc<Loose>> {
    let mut sets = hub.replica_sets.owned_by(deployment.uid());
    sets.retain(|set| {
        !set.deleting() && set.controller().is_some_and(|(_, _, uid)| uid == &*deployment.uid().0)
    });
    sets.sort_by_key(|set| (set.created(), set.name().to_owned()));
    sets
}

/// True if both templates are the same but for the hash label of the ReplicaSet's.
fn same_template(of_set: &Value, wanted: &Value) -> bool {
    let strip = |template: &Value| {
        let mut template = template.clone();
        if let Some(meta) = template.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("creationTimestamp");
            if let Some(labels) = meta.get_mut("labels").and_then(Value::as_object_mut) {
                labels.remove(HASH);
            }
        }
        template
    };
    strip(of_set) == strip(wanted)
}

fn revision(set: &Loose) -> i64 {
    set.annotation(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// Makes the current ReplicaSet the newest revision.
async fn refresh(hub: &Hub, sets: &[Arc<Loose>], current: Arc<Loose>) -> kube::Result<Arc<Loose>> {
    let others = sets.iter().filter(|set| set.uid() != current.uid());
    let newest = others.map(|set| revision(set)).max().unwrap_or(0) + 1;
    if revision(&current) >= newest {
        return Ok(current);
    }
    let patch = json!({"metadata": {"annotations": {REVISION: newest.to_string()}}});
    patch_set(hub, &current, patch).await
}

async fn patch_set(hub: &Hub, set: &Loose, patch: Value) -> kube::Result<Arc<Loose>> {
    let key = set.key();
    let api = hub.api(&replicasets::kind(), &key.namespace);
    let patched = Seen::new(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?);
    hub.replica_sets.apply_own(patched.clone());
    Ok(Arc::new(patched))
}

async fn create(hub: &Hub, deployment: &Loose, sets: &[Arc<Loose>]) -> kube::Result<Arc<Loose>> {
    let key = deployment.key();
    let mut template = deployment.field("/spec/template").clone();
    let collisions = deployment.int("/status/collisionCount").unwrap_or(0);
    let hash = plan::hash(&format!("{template}{collisions}"));
    let add = |object: Option<&mut Value>, label: &str| {
        if let Some(Value::Object(map)) = object {
            map.insert(HASH.into(), label.into());
        }
    };
    add(template.pointer_mut("/metadata/labels"), &hash);
    let mut selector = deployment.field("/spec/selector").clone();
    if let Value::Object(selector) = &mut selector {
        selector.entry("matchLabels").or_insert_with(|| json!({}));
    }
    add(selector.get_mut("matchLabels"), &hash);
    let newest = sets.iter().map(|set| revision(set)).max().unwrap_or(0) + 1;
    let mut annotations: BTreeMap<String, String> =
        deployment.object.metadata.annotations.clone().unwrap_or_default();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    annotations.insert(REVISION.into(), newest.to_string());
    annotations.insert("deployment.kubernetes.io/desired-replicas".into(), wanted(deployment).to_string());
    let max = wanted(deployment) + strategy(deployment).surge();
    annotations.insert("deployment.kubernetes.io/max-replicas".into(), max.to_string());
    let body = json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", key.name),
            "namespace": &*key.namespace,
            "labels": template.pointer("/metadata/labels"),
            "annotations": annotations,
            "ownerReferences": [{
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": &*key.name,
                "uid": deployment.uid().0,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "replicas": 0,
            "minReadySeconds": deployment.int("/spec/minReadySeconds").unwrap_or(0),
            "selector": selector,
            "template": template,
        },
    });
    let body = serde_json::from_value(body).map_err(kube::Error::SerdeError)?;
    let api = hub.api(&replicasets::kind(), &key.namespace);
    let made = api.create(&PostParams::default(), &body).await;
    if made.as_ref().is_err_and(|error| super::rounds::is(error, 409)) {
        // Another template has this name: the next round hashes with a higher count.
        let status = json!({"collisionCount": collisions + 1});
        write_status(hub, &hub.deployments, deployment, &kind(), status).await?;
    }
    let made = Seen::new(made?);
    hub.replica_sets.apply_own(made.clone());
    Ok(Arc::new(made))
}

fn wanted(deployment: &Loose) -> i64 {
    deployment.int("/spec/replicas").unwrap_or(1)
}

fn strategy(deployment: &Loose) -> Strategy {
    if deployment.text("/spec/strategy/type") == Some("Recreate") {
        return Strategy::Recreate;
    }
    let share = |path: &str, up| plan::share(deployment.field(path), wanted(deployment), up);
    Strategy::rolling(
        share("/spec/strategy/rollingUpdate/maxSurge", true),
        share("/spec/strategy/rollingUpdate/maxUnavailable", false),
    )
}

fn replicas(set: &Loose) -> i64 {
    set.int("/spec/replicas").unwrap_or(1)
}

async fn scale_all(
    hub: &Hub,
    deployment: &Loose,
    current: &Loose,
    old: &[Arc<Loose>],
    paused: bool,
) -> kube::Result<()> {
    let of = |set: &Loose| Set {
        replicas: replicas(set),
        available: set.int("/status/availableReplicas").unwrap_or(0),
    };
    let olds: Vec<Set> = old.iter().map(|set| of(set)).collect();
    let old_pods = old.iter().any(|set| hub.pods.owned_by(set.uid()).iter().any(|pod| !pod.object.ended()));
    let (new, targets) =
        plan::targets(wanted(deployment), strategy(deployment), of(current), &olds, old_pods, paused);
    for (set, target) in old.iter().zip(targets) {
        scale(hub, set, target).await?;
    }
    scale(hub, current, new).await
}

async fn scale(hub: &Hub, set: &Loose, target: i64) -> kube::Result<()> {
    if replicas(set) != target {
        patch_set(hub, set, json!({"metadata": {"uid": set.uid().0}, "spec": {"replicas": target}})).await?;
    }
    Ok(())
}

/// Says the current revision on the Deployment itself.
async fn annotate(hub: &Hub, deployment: &Loose, revision: &str) -> kube::Result<()> {
    if deployment.annotation(REVISION) == Some(revision) {
        return Ok(());
    }
    let api = hub.api(&kind(), &deployment.key().namespace);
    let patch = Patch::Merge(json!({"metadata": {"annotations": {REVISION: revision}}}));
    // By way of the status: an annotation written otherwise counts as a new generation.
    unless(api.patch_status(deployment.name(), &PatchParams::default(), &patch).await, &[404]).map(|_| ())
}

fn status(
    hub: &Hub,
    deployment: &Loose,
    current: Option<&Loose>,
    sets: &[Arc<Loose>],
) -> (Value, Option<Duration>) {
    let sum = |path: &str| sets.iter().map(|set| set.int(path).unwrap_or(0)).sum::<i64>();
    let updated = current.and_then(|set| set.int("/status/replicas")).unwrap_or(0);
    let (replicas, available) = (sum("/status/replicas"), sum("/status/availableReplicas"));
    let unavailable = (replicas.max(sets.iter().map(|set| self::replicas(set)).sum()) - available).max(0);
    let wanted = wanted(deployment);
    let counts = Counts { wanted, replicas, updated, available };
    let seen = plan::Seen {
        counts,
        min_available: wanted - strategy(deployment).unavailable(wanted),
        set: current.map(|set| set.name().to_owned()),
        deadline: deployment.int("/spec/progressDeadlineSeconds"),
        paused: deployment.field("/spec/paused") == &Value::Bool(true),
        known: deployment.field("/status"),
        now: hub.now(),
    };
    let (conditions, wake) = plan::conditions(&seen);
    let status = json!({
        "observedGeneration": deployment.generation(),
        "replicas": replicas,
        "updatedReplicas": updated,
        "readyReplicas": sum("/status/readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": unavailable,
        "conditions": conditions,
    });
    (status, wake)
}

/// Deletes the oldest ReplicaSets that are beyond the history limit and empty.
async fn clean_up(
    hub: &Hub,
    deployment: &Loose,
    current: Option<&Loose>,
    sets: &[Arc<Loose>],
) -> kube::Result<()> {
    let limit = usize::try_from(deployment.int("/spec/revisionHistoryLimit").unwrap_or(10)).unwrap_or(0);
    let mut old: Vec<&Arc<Loose>> =
        sets.iter().filter(|set| current.is_none_or(|current| current.uid() != set.uid())).collect();
    old.sort_by_key(|set| (revision(set), set.name().to_owned()));
    let many = old.len().saturating_sub(limit);
    for set in old.into_iter().take(many) {
        if replicas(set) != 0 || set.int("/status/replicas").unwrap_or(0) != 0 {
            continue;
        }
        let api = hub.api(&replicasets::kind(), &set.key().namespace);
        unless(api.delete(set.name(), &DeleteParams::background()).await, &[404])?;
    }
    Ok(())
}
