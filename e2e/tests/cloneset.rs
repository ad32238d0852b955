//! What a user of CloneSet sees, in a real cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use kruise_e2e::{Place, PodView as _, SET, SOON, Snapshot, clone_set, container, merged, with_image};
use serde_json::{Value, json};

const ONE: &str = "kruise.test/demo:1";
const TWO: &str = "kruise.test/demo:2";

const SPECIFIED_DELETE: &str = "apps.kruise.io/specified-delete";

fn rolling(update: &Value) -> Value {
    json!({"spec": {"updateStrategy": {"rollingUpdate": update}}})
}

fn with_env(value: &str) -> Value {
    let container = merged(container(ONE), &json!({"env": [{"name": "E2E", "value": value}]}));
    json!({"spec": {"template": {"spec": {"containers": [container]}}}})
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn suffix(name: &str) -> &str {
    name.rsplit('-').next().unwrap_or_default()
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_new_set_has_labelled_owned_pods_with_the_gate_and_a_full_status() -> Result<()> {
    let (place, now) = Place::with(&clone_set(3, ONE)).await?;
    let uid = now.set["metadata"]["uid"].as_str().unwrap_or_default();
    let revision = now.text("updateRevision");
    for pod in now.pods() {
        let id = suffix(pod.name());
        place
            .check(
                &now,
                "names are <set>-<5 characters>",
                pod.name() == format!("{SET}-{id}") && id.len() == 5,
            )
            .await?;
        ensure!(pod.label("apps.kruise.io/cloneset-instance-id") == id, "instance id of {}", pod.name());
        ensure!(pod.revision() == revision, "revision label of {}", pod.name());
        ensure!(pod.label("pod-template-hash") == suffix(revision), "pod-template-hash of {}", pod.name());
        ensure!(pod.state() == "Normal", "state of {}", pod.name());
        ensure!(pod.condition("InPlaceUpdateReady") == Some(true), "InPlaceUpdateReady of {}", pod.name());
        let owners = pod.metadata.owner_references.clone().unwrap_or_default();
        ensure!(owners.len() == 1, "owners of {}: {owners:?}", pod.name());
        let owner = &owners[0];
        ensure!(owner.uid == uid && owner.kind == "CloneSet" && owner.name == SET, "{owner:?}");
        ensure!(owner.api_version == "apps.kruise.io/v1beta1", "{owner:?}");
        ensure!(owner.controller == Some(true) && owner.block_owner_deletion == Some(true), "{owner:?}");
        let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.clone()).unwrap_or_default();
        ensure!(gates.iter().any(|gate| gate.condition_type == "InPlaceUpdateReady"), "gates {gates:?}");
    }
    let numbers = [
        "replicas",
        "readyReplicas",
        "availableReplicas",
        "updatedReplicas",
        "updatedReadyReplicas",
        "expectedUpdatedReplicas",
    ];
    for field in numbers {
        place.check(&now, field, now.status(field) == 3).await?;
    }
    place.check(&now, "one revision", now.text("currentRevision") == revision).await?;
    place.check(&now, "the selector as text", now.text("labelSelector") == "app=demo").await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn an_image_change_is_made_in_place_in_the_same_pods() -> Result<()> {
    let (place, before) = Place::with(&clone_set(3, ONE)).await?;
    place.patch(&with_image(TWO)).await?;
    let after = place
        .until(
            "all pods run the new image",
            SOON,
            |now| now.available() >= 2,
            |now| now.running(TWO) == 3 && now.settled(3),
        )
        .await?;
    for (old, new) in before.pods().into_iter().zip(after.pods()) {
        let (was, is) = (old.identity(), new.identity());
        place.check(&after, "UID, IP and node stay", old.name() == new.name() && was == is).await?;
        place.check(&after, "the container restarted", new.restarts() > old.restarts()).await?;
        let annotations = new.metadata.annotations.clone().unwrap_or_default();
        ensure!(annotations.contains_key("apps.kruise.io/inplace-update-state"), "{annotations:?}");
        let version = place.version_inside(new.name()).await?;
        ensure!(version == "2", "{} runs version {version}", new.name());
    }
    let events = place.events("SuccessfulUpdatePodInPlace").await?;
    ensure!(!events.is_empty(), "no SuccessfulUpdatePodInPlace event");
    Ok(())
}

async fn recreates(policy: &str, change: &Value) -> Result<()> {
    let strategy = rolling(&json!({"podUpdatePolicy": policy, "maxUnavailable": 1}));
    let (place, before) = Place::with(&merged(clone_set(3, ONE), &strategy)).await?;
    place.patch(change).await?;
    let after = place
        .until(
            "all pods are replaced, one at a time",
            seconds(45),
            |now| now.available() >= 2 && now.pods().len() <= 3,
            |now| now.text("updateRevision") != before.text("updateRevision") && now.settled(3),
        )
        .await?;
    let old: BTreeSet<_> = before.uids().into_iter().collect();
    place.check(&after, "every pod is another", after.uids().iter().all(|uid| !old.contains(uid))).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn an_environment_change_recreates_pods_within_max_unavailable() -> Result<()> {
    recreates("InPlaceIfPossible", &with_env("changed")).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn the_recreate_policy_recreates_pods_within_max_unavailable() -> Result<()> {
    recreates("ReCreate", &with_image(TWO)).await
}

async fn stops_at(replicas: i32, partition: Value, updated: usize) -> Result<()> {
    let strategy = rolling(&json!({"partition": partition, "maxUnavailable": 2}));
    let (place, before) = Place::with(&merged(clone_set(replicas, ONE), &strategy)).await?;
    let total = before.pods().len();
    place.patch(&with_image(TWO)).await?;
    let stopped =
        |now: &Snapshot| now.status("updatedAvailableReplicas") == updated as i64 && now.available() == total;
    place.eventually("the pods outside the partition are updated", SOON, stopped).await?;
    let now =
        place.always("the partition keeps the rest", seconds(3), |now| now.running(TWO) == updated).await?;
    place
        .check(&now, "expectedUpdatedReplicas", now.status("expectedUpdatedReplicas") == updated as i64)
        .await?;
    place
        .check(&now, "currentRevision stays", now.text("currentRevision") == before.text("currentRevision"))
        .await?;
    place.patch(&rolling(&json!({"partition": 0}))).await?;
    let after = place
        .eventually("the rollout finishes", SOON, |now| now.running(TWO) == total && now.settled(total))
        .await?;
    place.check(&after, "in place", after.uids() == before.uids()).await?;
    place
        .eventually("the current revision is the new one", SOON, |now| {
            now.text("currentRevision") == now.text("updateRevision")
        })
        .await?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_partition_number_stops_the_rollout_until_it_is_lowered() -> Result<()> {
    stops_at(4, json!(3), 1).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_partition_percentage_is_rounded_up_and_stops_the_rollout() -> Result<()> {
    stops_at(4, json!("60%"), 1).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_paused_set_updates_no_pod_but_scales() -> Result<()> {
    let (place, before) = Place::with(&clone_set(2, ONE)).await?;
    place.patch(&merged(with_image(TWO), &rolling(&json!({"paused": true})))).await?;
    place
        .eventually("the new revision is seen", SOON, |now| {
            now.text("updateRevision") != before.text("updateRevision")
        })
        .await?;
    let untouched = |now: &Snapshot| {
        before.uids().iter().all(|uid| now.pods().iter().any(|pod| pod.uid() == uid && pod.image() == ONE))
    };
    place.always("nothing is updated", seconds(3), untouched).await?;
    place.scale(3).await?;
    place
        .until("it scales out", SOON, untouched, |now| now.available() == 3 && now.status("replicas") == 3)
        .await?;
    place.scale(1).await?;
    place
        .eventually("it scales in", SOON, |now| now.pods().len() == 1 && now.status("replicas") == 1)
        .await?;
    place.patch(&rolling(&json!({"paused": false}))).await?;
    place.eventually("it goes on", SOON, |now| now.running(TWO) == 1 && now.settled(1)).await?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn scaling_in_deletes_exactly_the_listed_pod_and_empties_the_list() -> Result<()> {
    let (place, before) = Place::with(&clone_set(4, ONE)).await?;
    let victim = before.pods()[2].name().to_owned();
    place.patch(&json!({"spec": {"replicas": 3, "scaleStrategy": {"podsToDelete": [victim]}}})).await?;
    let kept: Vec<_> =
        before.pods().iter().map(|pod| pod.name().to_owned()).filter(|name| *name != victim).collect();
    let names = |now: &Snapshot| now.pods().iter().map(|pod| pod.name().to_owned()).collect::<Vec<_>>();
    let after = place.eventually("three pods are left", SOON, |now| now.settled(3)).await?;
    place.check(&after, "the listed one went", names(&after) == kept).await?;
    let empty = |now: &Snapshot| {
        now.set
            .pointer("/spec/scaleStrategy/podsToDelete")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
    };
    let after = place.eventually("the list is empty", SOON, empty).await?;
    place.check(&after, "nothing else went", names(&after) == kept).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_pod_labelled_for_deletion_is_replaced() -> Result<()> {
    let (place, before) = Place::with(&clone_set(3, ONE)).await?;
    let victim = before.pods()[0].clone();
    place.patch_pod(victim.name(), &json!({"metadata": {"labels": {SPECIFIED_DELETE: "true"}}})).await?;
    let after = place
        .eventually("the pod is gone and three are there", SOON, |now| {
            !now.uids().iter().any(|uid| uid == victim.uid()) && now.settled(3)
        })
        .await?;
    let old = before.uids();
    let kept = after.uids().iter().filter(|uid| old.contains(uid)).count();
    place.check(&after, "only that pod was replaced", kept == 2).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn surging_never_has_fewer_pods_available_than_replicas() -> Result<()> {
    let strategy = rolling(&json!({"podUpdatePolicy": "ReCreate", "maxSurge": 1, "maxUnavailable": 0}));
    let (place, before) = Place::with(&merged(clone_set(4, ONE), &strategy)).await?;
    place.patch(&with_image(TWO)).await?;
    let after = place
        .until(
            "all pods are replaced by way of one extra",
            seconds(55),
            |now| now.available() >= 4 && now.pods().len() <= 5,
            |now| now.running(TWO) == 4 && now.settled(4),
        )
        .await?;
    let old = before.uids();
    place.check(&after, "every pod is another", after.uids().iter().all(|uid| !old.contains(uid))).await
}
