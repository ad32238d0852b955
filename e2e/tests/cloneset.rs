//! What a user of CloneSet sees, in a real cluster and in the sandbox.
#![allow(clippy::indexing_slicing, reason = "these are tests, if not by their attribute")]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kruise_e2e::{
    Place, PodView, SET, SOON, Snapshot, Venue, clone_set, container, merged, seen, specs, with_image,
};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

const ONE: &str = "kruise.test/demo:1";
const TWO: &str = "kruise.test/demo:2";

const HOOK: &str = "e2e.kruise.io/hook";
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

specs! {
    a_new_set_has_labelled_owned_pods_with_the_gate_and_a_full_status,
    an_image_change_is_made_in_place_in_the_same_pods,
    an_environment_change_recreates_pods_within_max_unavailable,
    the_recreate_policy_recreates_pods_within_max_unavailable,
    a_partition_number_stops_the_rollout_until_it_is_lowered,
    a_partition_percentage_is_rounded_up_and_stops_the_rollout,
    a_paused_set_updates_no_pod_but_scales,
    scaling_in_deletes_exactly_the_listed_pod_and_empties_the_list,
    a_pod_labelled_for_deletion_is_replaced,
    surging_never_has_fewer_pods_available_than_replicas,
    an_in_place_update_waits_for_the_hook_label_to_be_removed_and_ends_when_it_is_back,
    a_deletion_waits_for_the_hook_label_to_be_removed,
    a_pod_that_its_hook_marks_is_out_of_service_until_it_goes,
    the_scale_subresource_reads_and_writes_the_replicas_and_gives_the_selector,
    an_in_place_update_leaves_the_pod_time_to_drain,
    a_rollback_in_mid_rollout_takes_the_old_revision_with_a_higher_number,
    reading_and_writing_a_set_as_v1alpha1_loses_nothing,
    bad_sets_are_refused_with_the_path_of_the_field,
    a_missing_image_is_reported_as_what_blocks_the_rollout,
    a_pod_without_the_selected_label_is_released_and_replaced,
    scaling_out_with_a_limit_of_one_waits_min_ready_seconds_between_pods,
    finalizers_the_template_loses_leave_the_pods_and_new_ones_come_in_place,
}

async fn a_new_set_has_labelled_owned_pods_with_the_gate_and_a_full_status(at: Venue) -> Result<()> {
    let (place, now) = at.with(&clone_set(3, ONE)).await?;
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
        for kind in ["InPlaceUpdateReady", "KruisePodReady"] {
            ensure!(pod.condition(kind) == Some(true), "{kind} of {}", pod.name());
        }
        let owners = pod.metadata.owner_references.clone().unwrap_or_default();
        ensure!(owners.len() == 1, "owners of {}: {owners:?}", pod.name());
        let owner = &owners[0];
        ensure!(owner.uid == uid && owner.kind == "CloneSet" && owner.name == SET, "{owner:?}");
        ensure!(owner.api_version == "apps.kruise.io/v1beta1", "{owner:?}");
        ensure!(owner.controller == Some(true) && owner.block_owner_deletion == Some(true), "{owner:?}");
        let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.clone()).unwrap_or_default();
        let gates: Vec<_> = gates.iter().map(|gate| gate.condition_type.as_str()).collect();
        ensure!(gates == ["InPlaceUpdateReady", "KruisePodReady"], "gates {gates:?}");
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

async fn an_image_change_is_made_in_place_in_the_same_pods(at: Venue) -> Result<()> {
    let (place, before) = at.with(&clone_set(3, ONE)).await?;
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

async fn recreates(at: Venue, policy: &str, change: &Value) -> Result<()> {
    let strategy = rolling(&json!({"podUpdatePolicy": policy, "maxUnavailable": 1}));
    let (place, before) = at.with(&merged(clone_set(3, ONE), &strategy)).await?;
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

async fn an_environment_change_recreates_pods_within_max_unavailable(at: Venue) -> Result<()> {
    recreates(at, "InPlaceIfPossible", &with_env("changed")).await
}

async fn the_recreate_policy_recreates_pods_within_max_unavailable(at: Venue) -> Result<()> {
    recreates(at, "ReCreate", &with_image(TWO)).await
}

async fn stops_at(at: Venue, replicas: i32, partition: Value, updated: usize) -> Result<()> {
    let strategy = rolling(&json!({"partition": partition, "maxUnavailable": 2}));
    let (place, before) = at.with(&merged(clone_set(replicas, ONE), &strategy)).await?;
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

async fn a_partition_number_stops_the_rollout_until_it_is_lowered(at: Venue) -> Result<()> {
    stops_at(at, 4, json!(3), 1).await
}

async fn a_partition_percentage_is_rounded_up_and_stops_the_rollout(at: Venue) -> Result<()> {
    stops_at(at, 4, json!("60%"), 1).await
}

async fn a_paused_set_updates_no_pod_but_scales(at: Venue) -> Result<()> {
    let (place, before) = at.with(&clone_set(2, ONE)).await?;
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

async fn scaling_in_deletes_exactly_the_listed_pod_and_empties_the_list(at: Venue) -> Result<()> {
    let (place, before) = at.with(&clone_set(4, ONE)).await?;
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

async fn a_pod_labelled_for_deletion_is_replaced(at: Venue) -> Result<()> {
    let (place, before) = at.with(&clone_set(3, ONE)).await?;
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

async fn surging_never_has_fewer_pods_available_than_replicas(at: Venue) -> Result<()> {
    let strategy = rolling(&json!({"podUpdatePolicy": "ReCreate", "maxSurge": 1, "maxUnavailable": 0}));
    let (place, before) = at.with(&merged(clone_set(4, ONE), &strategy)).await?;
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

async fn an_in_place_update_waits_for_the_hook_label_to_be_removed_and_ends_when_it_is_back(
    at: Venue,
) -> Result<()> {
    let set = merged(
        clone_set(1, ONE),
        &json!({"spec": {
            "lifecycle": {"inPlaceUpdate": {"labelsHandler": {HOOK: "on"}}},
            "template": {"metadata": {"labels": {"app": SET, HOOK: "on"}}},
        }}),
    );
    let (place, before) = at.with(&set).await?;
    let name = before.pods()[0].name().to_owned();
    let state = |now: &Snapshot, wanted: &str| now.pods().iter().all(|pod| pod.state() == wanted);
    place.patch(&with_image(TWO)).await?;
    place.eventually("the pod prepares", SOON, |now| state(now, "PreparingUpdate")).await?;
    place
        .always("it waits", seconds(2), |now| state(now, "PreparingUpdate") && now.running(ONE) == 1)
        .await?;
    place.patch_pod(&name, &json!({"metadata": {"labels": {HOOK: null}}})).await?;
    let updated = place
        .until(
            "the pod is updated",
            SOON,
            |now| {
                now.pods().iter().all(|pod| matches!(pod.state(), "PreparingUpdate" | "Updating" | "Updated"))
            },
            |now| state(now, "Updated") && now.running(TWO) == 1,
        )
        .await?;
    place.check(&updated, "not available before the hook is back", updated.available() == 0).await?;
    place.always("it waits again", seconds(2), |now| state(now, "Updated")).await?;
    place.patch_pod(&name, &json!({"metadata": {"labels": {HOOK: "on"}}})).await?;
    let after =
        place.eventually("the pod is Normal", SOON, |now| state(now, "Normal") && now.settled(1)).await?;
    place.check(&after, "the same pod", before.uids() == after.uids()).await
}

async fn a_deletion_waits_for_the_hook_label_to_be_removed(at: Venue) -> Result<()> {
    let set = merged(
        clone_set(2, ONE),
        &json!({"spec": {
            "lifecycle": {"preDelete": {"labelsHandler": {HOOK: "on"}}},
            "template": {"metadata": {"labels": {"app": SET, HOOK: "on"}}},
        }}),
    );
    let (place, _) = at.with(&set).await?;
    let preparing = |now: &Snapshot| {
        let pods = now.pods().into_iter().filter(|pod| pod.state() == "PreparingDelete");
        pods.map(|pod| pod.name().to_owned()).collect::<Vec<_>>()
    };
    place.scale(1).await?;
    let now = place.eventually("one pod prepares", SOON, |now| preparing(now).len() == 1).await?;
    place.always("both stay", seconds(2), |now| now.pods().len() == 2 && preparing(now).len() == 1).await?;
    place.scale(2).await?;
    place.eventually("the pod returns when it is needed again", SOON, |now| now.settled(2)).await?;
    place.scale(1).await?;
    place.eventually("one pod prepares again", SOON, |now| preparing(now).len() == 1).await?;
    let now = place.eventually("it is the only one", SOON, |next| next.uids() == now.uids()).await?;
    let leaving = preparing(&now);
    place.patch_pod(&leaving[0], &json!({"metadata": {"labels": {HOOK: null}}})).await?;
    let after = place.eventually("it goes", SOON, |now| now.settled(1)).await?;
    place.check(&after, "that one went", after.pods()[0].name() != leaving[0]).await
}

async fn a_pod_that_its_hook_marks_is_out_of_service_until_it_goes(at: Venue) -> Result<()> {
    let set = merged(
        clone_set(2, ONE),
        &json!({"spec": {
            "lifecycle": {"preDelete": {"labelsHandler": {HOOK: "on"}, "markPodNotReady": true}},
            "template": {"metadata": {"labels": {"app": SET, HOOK: "on"}}},
        }}),
    );
    let (place, _) = at.with(&set).await?;
    place.scale(1).await?;
    let marked = |now: &Snapshot| {
        let pods = now.pods().into_iter().filter(|pod| {
            let out = pod.condition("KruisePodReady") == Some(false) && pod.condition("Ready") == Some(false);
            pod.state() == "PreparingDelete" && out
        });
        pods.map(|pod| pod.name().to_owned()).collect::<Vec<_>>()
    };
    let now = place
        .eventually("the pod that prepares is out of service", SOON, |now| marked(now).len() == 1)
        .await?;
    let leaving = marked(&now);
    let pod = now.pods().into_iter().find(|pod| pod.name() == leaving[0]).context("it is there")?;
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let message = conditions.filter(|it| it.type_ == "KruisePodReady").find_map(|it| it.message.clone());
    let wanted = r#"[{"userAgent":"Lifecycle","key":"preDeleteHook"}]"#;
    ensure!(message.as_deref() == Some(wanted), "{message:?}");
    place.scale(2).await?;
    place.always("it does not come back", seconds(2), |now| marked(now) == leaving).await?;
    place.patch_pod(&leaving[0], &json!({"metadata": {"labels": {HOOK: null}}})).await?;
    let gone = |now: &Snapshot| now.pods().iter().all(|pod| pod.name() != leaving[0]);
    place.eventually("another takes its place", SOON, |now| now.settled(2) && gone(now)).await?;
    Ok(())
}

async fn the_scale_subresource_reads_and_writes_the_replicas_and_gives_the_selector(at: Venue) -> Result<()> {
    let (place, _) = at.with(&clone_set(1, ONE)).await?;
    let numbers = |scale: &Scale| {
        let status = scale.status.clone().unwrap_or_default();
        (scale.spec.as_ref().and_then(|spec| spec.replicas), status.replicas, status.selector)
    };
    let selector = Some("app=demo".to_owned());
    place.scale_like_an_autoscaler(3).await?;
    place.eventually("it has three pods", SOON, |now| now.settled(3)).await?;
    let scale = place.scale_of_set().await?;
    ensure!(numbers(&scale) == (Some(3), 3, selector.clone()), "{scale:?}");
    place.scale(0).await?;
    place
        .eventually("it has no pods", SOON, |now| now.pods().is_empty() && now.status("replicas") == 0)
        .await?;
    let scale = place.scale_of_set().await?;
    ensure!(numbers(&scale).2 == selector, "no pods: {scale:?}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn kubectl_scales_a_set_by_its_short_name() -> Result<()> {
    let (place, _) = Venue::Cluster.with(&clone_set(1, ONE)).await?;
    place.kubectl(&["scale", "clone/demo", "--replicas=2"]).await?;
    place.eventually("it has two pods", SOON, |now| now.settled(2)).await?;
    Ok(())
}

/// What the autoscaler says of one of its conditions.
async fn told(place: &Place, condition: &str) -> Result<String> {
    let path = format!("jsonpath={{.status.conditions[?(@.type==\"{condition}\")].reason}}");
    place.kubectl(&["get", "hpa", SET, "--output", &path]).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn an_autoscaler_finds_the_selector_and_scales_the_set() -> Result<()> {
    let (place, _) = Venue::Cluster.with(&clone_set(1, ONE)).await?;
    let scaler = json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": SET},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "name": SET},
            "minReplicas": 2,
            "maxReplicas": 4,
            "metrics": [{
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "1"}},
            }],
        },
    });
    let scalers = Api::<HorizontalPodAutoscaler>::namespaced(place.client(), place.namespace());
    scalers.create(&PostParams::default(), &serde_json::from_value(scaler)?).await?;
    // The autoscaler looks every 15 s, and learns new kinds every 30 s.
    place.eventually("the set has the least number of pods", seconds(60), |now| now.settled(2)).await?;
    // There are no metrics here: that it asks for them means that it has read the selector.
    seen("the autoscaler has read the scale", seconds(40), async || {
        let scaler = scalers.get_status(SET).await?;
        let replicas = scaler.status.and_then(|status| status.current_replicas);
        let asked = told(&place, "ScalingActive").await? == "FailedGetResourceMetric";
        Ok((replicas == Some(2) && asked).then_some(()))
    })
    .await?;
    let able = told(&place, "AbleToScale").await?;
    ensure!(able == "SucceededGetScale" || able == "SucceededRescale", "AbleToScale: {able}");
    place.scale(5).await?;
    place.eventually("it has no more than the greatest number", seconds(60), |now| now.settled(4)).await?;
    Ok(())
}

async fn an_in_place_update_leaves_the_pod_time_to_drain(at: Venue) -> Result<()> {
    let grace = rolling(&json!({"inPlaceUpdateStrategy": {"gracePeriodSeconds": 4}}));
    let (place, before) = at.with(&merged(clone_set(1, ONE), &grace)).await?;
    place.patch(&with_image(TWO)).await?;
    let drained = |now: &Snapshot| {
        now.pods().iter().all(|pod| {
            let annotations = pod.metadata.annotations.clone().unwrap_or_default();
            pod.condition("InPlaceUpdateReady") == Some(false)
                && pod.condition("Ready") == Some(false)
                && pod.image() == ONE
                && pod.state() == "Updating"
                && annotations.contains_key("apps.kruise.io/inplace-update-grace")
        })
    };
    let draining = place.eventually("the pod is out of service with its old image", SOON, drained).await?;
    let since = |now: &Snapshot| {
        let conditions =
            now.pods()[0].status.clone().and_then(|status| status.conditions).unwrap_or_default();
        let out = conditions.into_iter().find(|condition| condition.type_ == "InPlaceUpdateReady");
        out.and_then(|condition| condition.last_transition_time).map(|time| time.0)
    };
    let after = place
        .eventually("the pod runs the new image", SOON, |now| now.running(TWO) == 1 && now.settled(1))
        .await?;
    place.check(&after, "in the same pod", after.uids() == before.uids()).await?;
    let started = after.pods()[0].status.clone().and_then(|status| status.container_statuses);
    let started = started.and_then(|statuses| statuses.first()?.state.clone()?.running?.started_at);
    let (Some(drained), Some(started)) = (since(&draining), started.map(|time| time.0)) else {
        anyhow::bail!("no times: {:?}", after.pods()[0].status)
    };
    // Both times are whole seconds: one may be lost.
    let waited = started.as_second() - drained.as_second();
    place.check(&after, &format!("the container ran {waited} s of 4 s"), waited >= 3).await?;
    let annotations = after.pods()[0].metadata.annotations.clone().unwrap_or_default();
    ensure!(!annotations.contains_key("apps.kruise.io/inplace-update-grace"), "{annotations:?}");
    Ok(())
}

async fn a_rollback_in_mid_rollout_takes_the_old_revision_with_a_higher_number(at: Venue) -> Result<()> {
    let strategy = rolling(&json!({"partition": 2}));
    let (place, before) = at.with(&merged(clone_set(3, ONE), &strategy)).await?;
    let first = before.text("updateRevision").to_owned();
    place.patch(&with_image(TWO)).await?;
    let mid = place
        .eventually("one pod is updated", SOON, |now| {
            now.running(TWO) == 1 && now.status("updatedAvailableReplicas") == 1
        })
        .await?;
    let second = mid.text("updateRevision").to_owned();
    place.check(&mid, "another revision", second != first).await?;
    place.patch(&merged(with_image(ONE), &rolling(&json!({"partition": 0})))).await?;
    let after = place
        .eventually("all are back", SOON, |now| {
            now.text("updateRevision") == first && now.running(ONE) == 3 && now.settled(3)
        })
        .await?;
    place.check(&after, "in the same pods", after.uids() == before.uids()).await?;
    let restarted = after.pods().iter().filter(|pod| pod.restarts() > 0).count();
    place.check(&after, "the two others were left alone", restarted == 1).await?;
    let revisions = place.revisions().await?;
    let number = |name: &str| {
        revisions
            .iter()
            .find(|revision| revision.metadata.name.as_deref() == Some(name))
            .map(|revision| revision.revision)
    };
    ensure!(revisions.len() == 2, "{} revisions", revisions.len());
    ensure!(
        number(&first) == Some(3) && number(&second) == Some(2),
        "{:?} {:?}",
        number(&first),
        number(&second)
    );
    Ok(())
}

async fn reading_and_writing_a_set_as_v1alpha1_loses_nothing(at: Venue) -> Result<()> {
    let set = merged(
        clone_set(1, ONE),
        &json!({"spec": {
            "scaleStrategy": {"excludePreparingDelete": true, "enablePVCReuse": true},
            "updateStrategy": {"rollingUpdate": {"partition": "30%", "maxUnavailable": 1}},
        }}),
    );
    let (place, before) = at.with(&set).await?;
    let alpha = place.sets("v1alpha1");
    let mut old = alpha.get(SET).await?;
    ensure!(old.data["spec"]["updateStrategy"]["type"] == "InPlaceIfPossible", "{}", old.data["spec"]);
    ensure!(old.data["spec"]["updateStrategy"]["partition"] == "30%", "{}", old.data["spec"]);
    for _ in 0..5 {
        old = alpha.get(SET).await?;
        old.data["spec"]["replicas"] = json!(2);
        match alpha.replace(SET, &PostParams::default(), &old).await {
            Ok(_) => break,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
    }
    let after = place.eventually("it scales", SOON, |now| now.status("availableReplicas") == 2).await?;
    let mut wanted = before.set["spec"].clone();
    wanted["replicas"] = json!(2);
    ensure!(after.set["spec"] == wanted, "read back {}\nwanted {wanted}", after.set["spec"]);
    let revisions = (before.text("updateRevision"), after.text("updateRevision"));
    ensure!(revisions.0 == revisions.1, "a revision came of it: {revisions:?}");
    Ok(())
}

async fn bad_sets_are_refused_with_the_path_of_the_field(at: Venue) -> Result<()> {
    let place = at.place().await?;
    let rows = [
        (
            json!({"spec": {"template": {"metadata": {"labels": {"app": "other"}}}}}),
            "spec.template.metadata.labels",
        ),
        (rolling(&json!({"maxUnavailable": "5"})), "spec.updateStrategy.rollingUpdate.maxUnavailable"),
        (
            json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}),
            "spec.template.spec.restartPolicy",
        ),
    ];
    for (change, path) in rows {
        match place.create(&merged(clone_set(1, ONE), &change)).await {
            Err(kube::Error::Api(status)) => {
                ensure!(status.code == 422, "{path}: code {}, {}", status.code, status.message);
                ensure!(status.message.contains(path), "{path} is not in {}", status.message);
            }
            Err(error) => return Err(error.into()),
            Ok(_) => anyhow::bail!("accepted in spite of {path}"),
        }
    }
    Ok(())
}

async fn a_missing_image_is_reported_as_what_blocks_the_rollout(at: Venue) -> Result<()> {
    let (place, _) = at.with(&clone_set(3, ONE)).await?;
    place.patch(&with_image("kruise.test/missing:1")).await?;
    place
        .until(
            "the RolloutBlocked condition names the image pull",
            seconds(45),
            |now| now.available() >= 2,
            |now| {
                now.condition("RolloutBlocked").is_some_and(|condition| {
                    let message = condition["message"].as_str().unwrap_or_default();
                    condition["status"] == "True"
                        && (message.contains("ImagePullBackOff") || message.contains("ErrImagePull"))
                })
            },
        )
        .await?;
    Ok(())
}

async fn a_pod_without_the_selected_label_is_released_and_replaced(at: Venue) -> Result<()> {
    let (place, before) = at.with(&clone_set(2, ONE)).await?;
    let released = before.pods()[0].clone();
    place.patch_pod(released.name(), &json!({"metadata": {"labels": {"app": "mine"}}})).await?;
    let after = place
        .eventually("there are two other pods", SOON, |now| {
            now.settled(2) && !now.uids().iter().any(|uid| uid == released.uid())
        })
        .await?;
    let left = after.all.iter().find(|pod| pod.uid() == released.uid());
    place.check(&after, "the released pod runs on", left.is_some_and(PodView::active)).await?;
    let owners = left.and_then(|pod| pod.metadata.owner_references.clone()).unwrap_or_default();
    place.check(&after, "without an owner", owners.is_empty()).await
}

async fn scaling_out_with_a_limit_of_one_waits_min_ready_seconds_between_pods(at: Venue) -> Result<()> {
    let set = merged(
        clone_set(1, ONE),
        &json!({"spec": {"minReadySeconds": 3, "scaleStrategy": {"maxUnavailable": 1}}}),
    );
    let (place, _) = at.with(&set).await?;
    place.scale(4).await?;
    let after = place
        .eventually("four pods are available", seconds(45), |now| now.status("availableReplicas") == 4)
        .await?;
    let told = place.events("ScaleUpLimited").await?;
    let words = "scaleUp is limited because of scaleStrategy.maxUnavailable, limit: 1";
    place
        .check(&after, &format!("the limit is told: {told:?}"), told.iter().any(|told| told == words))
        .await?;
    let mut times = Vec::new();
    for pod in after.pods() {
        let created =
            pod.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()).unwrap_or_default();
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
        let ready = ready.and_then(|condition| condition.last_transition_time).map(|time| time.0.as_second());
        times.push((created, ready.unwrap_or_default()));
    }
    times.sort_unstable();
    let apart = times.windows(2).all(|pair| pair[1].0 >= pair[0].1 + 3);
    place.check(&after, &format!("each is created 3 s after the last was ready: {times:?}"), apart).await
}

async fn finalizers_the_template_loses_leave_the_pods_and_new_ones_come_in_place(at: Venue) -> Result<()> {
    let with = |names: &[&str]| json!({"spec": {"template": {"metadata": {"finalizers": names}}}});
    let has = |now: &Snapshot, names: &[&str]| {
        now.pods().iter().all(|pod| pod.metadata.finalizers.clone().unwrap_or_default() == names)
    };
    let (place, before) = at.with(&merged(clone_set(2, ONE), &with(&["e2e.kruise.io/old"]))).await?;
    place.check(&before, "pods start with the finalizer", has(&before, &["e2e.kruise.io/old"])).await?;
    place.patch(&merged(with_image(TWO), &with(&["e2e.kruise.io/new"]))).await?;
    let after =
        place.eventually("the pods are updated", SOON, |now| now.running(TWO) == 2 && now.settled(2)).await?;
    place.check(&after, "one went, one came", has(&after, &["e2e.kruise.io/new"])).await?;
    place.check(&after, "in the same pods", after.uids() == before.uids()).await?;
    place.patch(&with(&[])).await?;
    let last = place.eventually("no finalizer is left", SOON, |now| has(now, &[]) && now.settled(2)).await?;
    place.check(&last, "in the same pods again", last.uids() == before.uids()).await
}
