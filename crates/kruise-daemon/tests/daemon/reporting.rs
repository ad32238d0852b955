//! What containers were started with, and restarts of those with an old environment.

use std::time::Duration;

use kruise_daemon::cri::messages as m;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::World;

const META: &str = "apps.kruise.io/runtime-containers-meta";

pub(crate) fn owned() -> Value {
    json!({"metadata": {"labels": {"v": "one"}, "ownerReferences": [{"apiVersion": "apps.kruise.io/v1beta1",
        "kind": "CloneSet", "name": "s", "uid": "u", "controller": true}]},
        "spec": {"containers": [
            {"name": "a", "image": "demo:1", "env": [
                {"name": "V", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['v']"}}}]},
            {"name": "b", "image": "demo:1"}]}})
}

pub(crate) async fn report(world: &World) -> Option<Value> {
    let pod = world.pods().get("web").await.unwrap();
    let text = pod.metadata.annotations?.remove(META)?;
    Some(serde_json::from_str(&text).unwrap())
}

fn environment(world: &World, id: &str, text: &str) {
    let output = m::ExecSyncResponse { stdout: text.as_bytes().to_vec(), ..Default::default() };
    world.cri.state(|state| state.outputs.insert(id.to_owned(), output));
}

pub(crate) async fn touch(world: &World, metadata: Value) {
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    world.pods().patch("web", &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_ours_is_reported_once_it_changes_and_never_twice_alike() {
    let mut world = World::new().await;
    world.create_pod("web", &["a", "b"], owned()).await;
    environment(&world, "a0", "PATH=/bin\nV=one\nX=a=b\n");
    world.start(&[]);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(report(&world).await, None);
    touch(&world, json!({"labels": {"other": "x"}})).await;
    world.until("it is reported", async || report(&world).await.is_some()).await;
    let one = kruise_common::inplace::env_hash(&[("V", "one")].into_iter().collect());
    assert_eq!(
        report(&world).await.unwrap(),
        json!({"containers": [
            {"name": "a", "containerID": "containerd://a0", "restartCount": 0,
                "hashes": {"plainHash": 0xab12, "extractedEnvFromMetadataHash": one}},
            {"name": "b", "containerID": "containerd://b0", "restartCount": 0,
                "hashes": {"plainHash": 0xab12, "extractedEnvFromMetadataHash": 86_995_377}}]})
    );
    let writes = world.server.writes(Some("daemon"));
    touch(&world, json!({"labels": {"other": "y"}})).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(world.server.writes(Some("daemon")), writes);
}

#[tokio::test(start_paused = true)]
async fn pods_of_others_are_left_alone() {
    let mut world = World::new().await;
    world.create_pod("web", &["a"], json!({})).await;
    world.start(&[]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    touch(&world, json!({"labels": {"other": "x"}})).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(report(&world).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_environment_is_old_is_restarted_during_an_update_in_place() {
    let mut world = World::new().await;
    let uid = world.create_pod("web", &["a", "b"], owned()).await;
    environment(&world, "a0", "V=one\n");
    world.start(&[]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    touch(&world, json!({"labels": {"v": "two"}})).await;
    world.until("it is reported", async || report(&world).await.is_some()).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(world.cri.state(|state| state.stops.clone()), []);
    let condition = json!({"status": {"conditions": [{"type": "InPlaceUpdateReady", "status": "False"}]}});
    world.pods().patch_status("web", &PatchParams::default(), &Patch::Merge(condition)).await.unwrap();
    world.until("it is stopped", async || world.cri.state(|state| state.stops.len()) == 1).await;
    assert_eq!(world.cri.state(|state| state.stops.clone()), [("a0".to_owned(), 20)]);
    environment(&world, "a1", "V=two\n");
    world.add_container(&uid, "web", "a", 1);
    world.publish("web", &[("a", 1, true), ("b", 0, true)]).await;
    let two = kruise_common::inplace::env_hash(&[("V", "two")].into_iter().collect());
    world
        .until("it is reported", async || {
            let report = report(&world).await.unwrap();
            report["containers"][0]["hashes"]["extractedEnvFromMetadataHash"] == two
        })
        .await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(world.cri.state(|state| state.stops.len()), 1);
    let messages: Vec<String> = world.events().await.into_iter().map(|event| event.3).collect();
    assert_eq!(messages, ["Stopping containerID containerd://a by container meta restarter"]);
}

#[tokio::test(start_paused = true)]
async fn an_environment_that_cannot_be_read_is_read_again() {
    let mut world = World::new().await;
    world.create_pod("web", &["a", "b"], owned()).await;
    let broken = m::ExecSyncResponse { exit_code: 127, ..Default::default() };
    world.cri.state(|state| state.outputs.insert("a0".to_owned(), broken));
    world.start(&[]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    touch(&world, json!({"labels": {"other": "x"}})).await;
    world.until("it is reported", async || report(&world).await.is_some()).await;
    let hashes = report(&world).await.unwrap()["containers"][0]["hashes"].clone();
    assert_eq!(hashes, json!({"plainHash": 0xab12}));
    environment(&world, "a0", "V=one\n");
    world
        .until("the hash is there", async || {
            report(&world).await.unwrap()["containers"][0]["hashes"]
                .get("extractedEnvFromMetadataHash")
                .is_some()
        })
        .await;
}
