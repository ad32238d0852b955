//! Claim templates of a CloneSet; in a real cluster with volumes that are really made, mounted and removed.
#![allow(clippy::indexing_slicing, reason = "these are tests, if not by their attribute")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kruise_e2e::{
    Place, PodView as _, SET, Snapshot, Venue, clone_set, container, merged, seen, specs, with_image,
};
use serde_json::{Value, json};

const ONE: &str = "kruise.test/demo:1";
const TWO: &str = "kruise.test/demo:2";
const ID: &str = "apps.kruise.io/cloneset-instance-id";
/// A volume is made by a pod of its own.
const VOLUME: Duration = Duration::from_mins(1);

fn with_claims(replicas: i32, reuse: bool) -> Value {
    let main = merged(container(ONE), &json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}));
    merged(
        clone_set(replicas, ONE),
        &json!({"spec": {
            "scaleStrategy": {"enablePVCReuse": reuse},
            "template": {"spec": {"containers": [main]}},
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
            }],
        }}),
    )
}

/// Creates the set, and waits until its pods are available with their volumes.
async fn start(at: Venue, set: &Value) -> Result<(Place, Snapshot)> {
    let replicas = set.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1) as usize;
    let place = at.place().await?;
    place.create(set).await?;
    let now = place.eventually("the pods have their volumes", VOLUME, |now| now.settled(replicas)).await?;
    Ok((place, now))
}

/// Name and UID of every claim that is not being deleted.
async fn claims(place: &Place) -> Result<BTreeMap<String, String>> {
    let kept = |claim: PersistentVolumeClaim| {
        let meta = claim.metadata;
        meta.deletion_timestamp.is_none().then_some((meta.name?, meta.uid?))
    };
    Ok(place.claims().await?.into_iter().filter_map(kept).collect())
}

fn claim_of(pod: &str) -> String {
    format!("data-{pod}")
}

/// Waits until the claims are those of the set's pods and no others, the deleted ones gone altogether.
async fn one_claim_a_pod(place: &Place, now: &Snapshot) -> Result<BTreeMap<String, String>> {
    let wanted: Vec<_> = now.pods().iter().map(|pod| claim_of(pod.name())).collect();
    seen(&format!("the claims are {wanted:?}"), VOLUME, async || {
        let there = claims(place).await?;
        let all = place.claims().await?.len();
        Ok((all == wanted.len() && there.keys().eq(&wanted)).then_some(there))
    })
    .await
}

specs! {
    each_pod_has_a_bound_claim_of_its_own_that_outlives_an_in_place_update,
    scaling_in_and_a_specified_deletion_take_the_claim_with_the_pod,
    a_recreating_update_gives_every_pod_a_new_claim,
    with_reuse_a_pod_deleted_by_hand_comes_back_with_its_name_and_its_data,
    with_reuse_a_pod_that_is_let_go_keeps_its_claim_and_stops_no_scale_out,
    without_reuse_the_claim_of_a_pod_deleted_by_hand_goes_with_it,
    a_pod_of_an_older_revision_gets_the_claims_of_that_revision,
}

async fn each_pod_has_a_bound_claim_of_its_own_that_outlives_an_in_place_update(at: Venue) -> Result<()> {
    let (place, before) = start(at, &with_claims(2, false)).await?;
    let had = one_claim_a_pod(&place, &before).await?;
    let set = before.set["metadata"]["uid"].as_str();
    for claim in place.claims().await? {
        let name = claim.metadata.name.clone().unwrap_or_default();
        let id = name.rsplit('-').next().unwrap_or_default();
        let labels = claim.metadata.labels.clone().unwrap_or_default();
        ensure!(labels.get(ID).map(String::as_str) == Some(id), "{name}: {labels:?}");
        ensure!(labels.get("app").map(String::as_str) == Some(SET), "{name}: {labels:?}");
        let owners = claim.metadata.owner_references.clone().unwrap_or_default();
        ensure!(owners.len() == 1 && Some(&*owners[0].uid) == set, "{name}: {owners:?}");
        let phase = claim.status.and_then(|status| status.phase).unwrap_or_default();
        ensure!(phase == "Bound", "{name} is {phase}");
    }
    for pod in before.pods() {
        place.write(pod.name(), pod.name()).await?;
    }
    let main = merged(container(TWO), &json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}));
    place.patch(&json!({"spec": {"template": {"spec": {"containers": [main]}}}})).await?;
    let after = place
        .eventually("all pods run the new image", VOLUME, |now| now.running(TWO) == 2 && now.settled(2))
        .await?;
    place.check(&after, "in the same pods", after.uids() == before.uids()).await?;
    for pod in after.pods() {
        ensure!(place.version_inside(pod.name()).await? == "2", "{} runs the old image", pod.name());
        ensure!(place.read(pod.name()).await? == pod.name(), "{} has another volume", pod.name());
    }
    ensure!(one_claim_a_pod(&place, &after).await? == had, "the claims were replaced");
    Ok(())
}

async fn scaling_in_and_a_specified_deletion_take_the_claim_with_the_pod(at: Venue) -> Result<()> {
    let (place, before) = start(at, &with_claims(3, true)).await?;
    let had = one_claim_a_pod(&place, &before).await?;
    place.scale(2).await?;
    let two = place.eventually("two pods are left", VOLUME, |now| now.settled(2)).await?;
    let left = one_claim_a_pod(&place, &two).await?;
    ensure!(left.iter().all(|(name, uid)| had.get(name) == Some(uid)), "{had:?} became {left:?}");
    let victim = two.pods()[0].name().to_owned();
    let mark = json!({"metadata": {"labels": {"apps.kruise.io/specified-delete": "true"}}});
    place.patch_pod(&victim, &mark).await?;
    let after = place
        .eventually("the marked pod is replaced", VOLUME, |now| {
            now.settled(2) && !now.pods().iter().any(|pod| pod.name() == victim)
        })
        .await?;
    let replaced = one_claim_a_pod(&place, &after).await?;
    let kept = replaced.iter().filter(|(name, uid)| left.get(*name) == Some(uid)).count();
    ensure!(kept == 1, "{left:?} became {replaced:?}");
    Ok(())
}

async fn a_recreating_update_gives_every_pod_a_new_claim(at: Venue) -> Result<()> {
    let set = merged(
        with_claims(2, true),
        &json!({"spec": {"updateStrategy": {"rollingUpdate": {"podUpdatePolicy": "ReCreate", "maxUnavailable": 1}}}}),
    );
    let (place, before) = start(at, &set).await?;
    let had = one_claim_a_pod(&place, &before).await?;
    place.patch(&with_image(TWO)).await?;
    let after = place
        .eventually("all pods run the new image", VOLUME, |now| now.running(TWO) == 2 && now.settled(2))
        .await?;
    let has = one_claim_a_pod(&place, &after).await?;
    ensure!(has.values().all(|uid| had.values().all(|old| old != uid)), "{had:?} became {has:?}");
    Ok(())
}

async fn with_reuse_a_pod_deleted_by_hand_comes_back_with_its_name_and_its_data(at: Venue) -> Result<()> {
    let (place, before) = start(at, &with_claims(2, true)).await?;
    let had = one_claim_a_pod(&place, &before).await?;
    let victim = before.pods()[0].clone();
    place.write(victim.name(), "kept").await?;
    place.delete_pod(victim.name()).await?;
    let after = place
        .eventually("there are two pods again", VOLUME, |now| {
            now.settled(2) && !now.uids().iter().any(|uid| uid == victim.uid())
        })
        .await?;
    let back = after.pods().into_iter().find(|pod| pod.name() == victim.name());
    place.check(&after, "one has the name of the deleted one", back.is_some()).await?;
    ensure!(place.read(victim.name()).await? == "kept", "the data are gone");
    ensure!(one_claim_a_pod(&place, &after).await? == had, "the claims were replaced");
    Ok(())
}

async fn with_reuse_a_pod_that_is_let_go_keeps_its_claim_and_stops_no_scale_out(at: Venue) -> Result<()> {
    let (place, before) = start(at, &with_claims(2, true)).await?;
    let free = before.pods()[0].name().to_owned();
    let had = claims(&place).await?;
    place.patch_pod(&free, &json!({"metadata": {"labels": {"app": "debug"}}})).await?;
    let without = |now: &Snapshot| now.pods().iter().all(|pod| pod.name() != free);
    place.eventually("it is replaced", VOLUME, |now| now.settled(2) && without(now)).await?;
    // Its claim is without a pod of the set, and its name is taken.
    place.scale(4).await?;
    place.eventually("two pods more", VOLUME, |now| now.settled(4) && without(now)).await?;
    let has = claims(&place).await?;
    ensure!(
        has.len() == 5 && has.get(&claim_of(&free)) == had.get(&claim_of(&free)),
        "{had:?} became {has:?}"
    );
    Ok(())
}

async fn without_reuse_the_claim_of_a_pod_deleted_by_hand_goes_with_it(at: Venue) -> Result<()> {
    let (place, before) = start(at, &with_claims(2, false)).await?;
    let had = one_claim_a_pod(&place, &before).await?;
    let victim = before.pods().first().context("no pod")?.name().to_owned();
    place.delete_pod(&victim).await?;
    let after = place
        .eventually("another pod is there", VOLUME, |now| {
            now.settled(2) && !now.pods().iter().any(|pod| pod.name() == victim)
        })
        .await?;
    let has = one_claim_a_pod(&place, &after).await?;
    ensure!(!has.contains_key(&claim_of(&victim)), "{has:?}");
    let kept = has.iter().filter(|(name, uid)| had.get(*name) == Some(uid)).count();
    ensure!(kept == 1, "{had:?} became {has:?}");
    Ok(())
}

/// What the claim of each pod of the set asks for, by the pod's revision.
async fn sizes(place: &Place, now: &Snapshot) -> Result<Vec<(String, String)>> {
    let claims = place.claims().await?;
    let size = |pod: &str| {
        let claim = claims.iter().find(|claim| claim.metadata.name.as_deref() == Some(&claim_of(pod)))?;
        let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
        Some(requests.get("storage")?.0.clone())
    };
    let mut sizes: Vec<_> = now
        .pods()
        .iter()
        .map(|pod| (pod.revision().to_owned(), size(pod.name()).unwrap_or_default()))
        .collect();
    sizes.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(sizes)
}

async fn a_pod_of_an_older_revision_gets_the_claims_of_that_revision(at: Venue) -> Result<()> {
    let (place, before) = start(at, &with_claims(2, false)).await?;
    let old = before.text("updateRevision").to_owned();
    let main = merged(container(TWO), &json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}));
    place
        .patch(&json!({"spec": {
            "updateStrategy": {"rollingUpdate": {"partition": 2}},
            "template": {"spec": {"containers": [main]}},
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Mi"}}},
            }],
        }}))
        .await?;
    let seen =
        place.eventually("the new revision is seen", VOLUME, |now| now.text("updateRevision") != old).await?;
    let new = seen.text("updateRevision").to_owned();
    let victim = before.pods()[0].clone();
    place.delete_pod(victim.name()).await?;
    let replaced = place
        .eventually("another pod of the old revision is there", VOLUME, |now| {
            now.available() == 2 && now.pods().iter().all(|pod| pod.uid() != victim.uid())
        })
        .await?;
    let wanted = [(old.clone(), "1Mi".to_owned()), (old.clone(), "1Mi".to_owned())];
    let has = sizes(&place, &replaced).await?;
    place.check(&replaced, &format!("claims {has:?} as in the old revision"), has == wanted).await?;
    place.scale(3).await?;
    let grown = place.eventually("a third pod is there", VOLUME, |now| now.available() == 3).await?;
    let wanted = [wanted[0].clone(), wanted[1].clone(), (new, "2Mi".to_owned())];
    let has = sizes(&place, &grown).await?;
    place.check(&grown, &format!("claims {has:?}, the third as in the new revision"), has == wanted).await
}
