//! A cluster left by OpenKruise is taken over: recorded objects go into the stores, and a round is planned.
//!
//! The recordings are not part of this repository; `KRUISE_RECORDED` names their folder.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kruise_api::cloneset::v1beta1::CloneSet;
use kruise_cloneset::observe::{self, observe};
use kruise_cloneset::plan::{Action, Options, Plan, plan};
use kruise_cloneset::status::{self, Failures, status_of};
use kruise_cloneset::stores::{SetView, StoredClaim, Stores};
use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use kruise_common::revision::{self, Decision, Revision, RevisionWire};
use serde::de::DeserializeOwned;

fn items<T: DeserializeOwned>(snapshot: &str, file: &str) -> Vec<T> {
    let folder = std::env::var("KRUISE_RECORDED").expect("KRUISE_RECORDED names the folder of recordings");
    let path = PathBuf::from(folder).join(snapshot).join(file);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut list: serde_json::Value = serde_json::from_slice(&text).unwrap();
    serde_json::from_value(list["items"].take()).unwrap()
}

fn stores(snapshot: &str) -> Stores {
    let stores = Stores::default();
    for set in items::<CloneSet>(snapshot, "clonesets.v1beta1.json") {
        stores.sets.apply_own(SetView::of(set).unwrap());
    }
    for pod in items::<PodWire>(snapshot, "pods.json") {
        stores.pods.apply_own(PodView::from(pod));
    }
    for stored in items::<RevisionWire>(snapshot, "controllerrevisions.apps.json") {
        if let Some(view) = Revision::of(stored) {
            stores.revisions.apply_own(view);
        }
    }
    for claim in items::<PersistentVolumeClaim>(snapshot, "persistentvolumeclaims.json") {
        stores.claims.apply_own(StoredClaim::of(claim).unwrap());
    }
    stores
}

/// A minute after anything in the snapshot changed: the time of the first round.
fn first_round_at(stores: &Stores) -> Timestamp {
    let changed = |pod: &PodView| pod.conditions.iter().filter_map(|condition| condition.changed).max();
    stores.pods.all().iter().filter_map(|pod| changed(pod)).max().unwrap() + SignedDuration::from_secs(60)
}

/// What the first round does, and whether it would write the status.
fn first_round(stores: &Stores, set: &SetView) -> (Plan, bool) {
    let parsed = observe::parse(set).unwrap();
    let revisions = observe::revisions(set, &parsed.selector, stores);
    let decision = revision::decide(&revisions, &set.object.spec.template.read(), &set.key.name, 0);
    let Decision::Use(update) = decision else {
        panic!("{}: a revision would be written: {decision:?}", set.key)
    };
    let mut stored = set.object.status.clone().unwrap();
    assert_eq!(Some(update.name()), stored.update_revision.as_deref(), "{}", set.key);
    let seen = observe(set, &parsed, &update, stores, first_round_at(stores));
    let mut next = 0;
    let planned = plan(&seen, &Options::default(), &mut || {
        next += 1;
        format!("{next:05}")
    });
    let mut status = status_of(&seen, &Failures::default(), &planned.held);
    status.collision_count = stored.collision_count;
    // Two deliberate writes, once: zeros the reference leaves out, and failures it never takes back.
    stored.updated_available_replicas.get_or_insert(0);
    stored.expected_updated_replicas.get_or_insert(0);
    for conditions in stored.conditions.iter_mut().chain(&mut status.conditions) {
        conditions.retain(|condition| !condition.type_.starts_with("Failed"));
    }
    (planned, status::needs_write(Some(&stored), &status))
}

#[test]
#[ignore = "needs recordings: set KRUISE_RECORDED"]
fn a_settled_cluster_is_taken_over_without_one_write() {
    let stores = stores("1-settled");
    let sets = stores.sets.all();
    assert!(!sets.is_empty());
    for set in sets {
        let (planned, writes_status) = first_round(&stores, &set);
        assert!(planned.actions.is_empty(), "{}: {:#?}", set.key, planned.actions);
        assert!(!writes_status, "{}: its status would be written", set.key);
    }
}

#[test]
#[ignore = "needs recordings: set KRUISE_RECORDED"]
fn a_rollout_that_reached_its_end_its_partition_or_a_hook_stays_as_it_is() {
    let stores = stores("3-rolled");
    let sets = stores.sets.all();
    assert!(!sets.is_empty());
    for set in sets {
        let (planned, _) = first_round(&stores, &set);
        assert!(planned.actions.is_empty(), "{}: {:#?}", set.key, planned.actions);
    }
}

#[test]
#[ignore = "needs recordings: set KRUISE_RECORDED"]
fn a_rollout_under_way_goes_on_without_a_new_revision_or_a_deletion_out_of_turn() {
    let stores = stores("2-mid-rollout");
    for set in stores.sets.all() {
        let (planned, _) = first_round(&stores, &set);
        for action in &planned.actions {
            if let Action::Delete { pod, .. } = action {
                let marked = pod.labels.contains_key("apps.kruise.io/specified-delete");
                assert!(marked || !pod.is_ready(), "{}: {} would be deleted", set.key, pod.key);
            }
        }
    }
}
