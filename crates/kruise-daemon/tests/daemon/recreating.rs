//! ContainerRecreateRequests: which containers are stopped, how, and what the status says.

use std::time::Duration;

use kruise_api::containerrecreaterequest::{
    ContainerRecreateRequest, ContainerRecreateRequestPhase as Phase,
};
use kruise_daemon::cri::messages as m;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::{NODE, World};

fn requests(world: &World) -> Api<ContainerRecreateRequest> {
    Api::namespaced(world.client.clone(), "default")
}

/// Creates a request as the webhook completes it.
pub(crate) async fn request(world: &World, name: &str, uid: &str, containers: &[&str], strategy: Value) {
    let containers: Vec<Value> = containers
        .iter()
        .map(|name| {
            json!({"name": name,
                "statusContext": {"containerID": format!("{}://{name}0", world.cri.name()), "restartCount": 0}})
        })
        .collect();
    let object = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "ContainerRecreateRequest",
        "metadata": {"name": name, "labels": {"crr.apps.kruise.io/pod-uid": uid,
            "crr.apps.kruise.io/node-name": NODE, "crr.apps.kruise.io/active": "true"}},
        "spec": {"podName": "web", "containers": containers, "strategy": strategy}});
    let object = serde_json::from_value(object).unwrap();
    requests(world).create(&PostParams::default(), &object).await.unwrap();
}

/// Phase of the request and of its containers.
pub(crate) async fn phases(world: &World, name: &str) -> (Option<Phase>, Vec<Phase>) {
    let status = requests(world).get(name).await.unwrap().status.unwrap_or_default();
    let states = status.container_recreate_states.unwrap_or_default();
    (status.phase, states.into_iter().map(|state| state.phase).collect())
}

fn stops(world: &World) -> Vec<(String, i64)> {
    world.cri.state(|state| state.stops.clone())
}

fn stopped(id: &str, seconds: i64) -> (String, i64) {
    (id.to_owned(), seconds)
}

#[tokio::test(start_paused = true)]
async fn both_containers_are_stopped_and_the_request_ends_when_their_successors_are_ready() {
    let mut world = World::new().await;
    let uid = world.create_pod("web", &["a", "b"], json!({})).await;
    world.start(&[]);
    request(&world, "r", &uid, &["a", "b"], json!({"terminationGracePeriodSeconds": 7})).await;
    world.until("both are stopped", async || stops(&world).len() == 2).await;
    assert_eq!(stops(&world), [stopped("a0", 7), stopped("b0", 7)]);
    assert_eq!(phases(&world, "r").await.0, Some(Phase::Recreating));
    world.add_container(&uid, "web", "a", 1);
    world.add_container(&uid, "web", "b", 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.publish("web", &[("a", 1, true), ("b", 1, true)]).await;
    world.until("it ends", async || phases(&world, "r").await.0 == Some(Phase::Completed)).await;
    assert_eq!(phases(&world, "r").await.1, [Phase::Succeeded, Phase::Succeeded]);
    let status = requests(&world).get("r").await.unwrap().status.unwrap();
    assert!(status.completion_time.is_some());
    assert!(status.container_recreate_states.unwrap().iter().all(|state| state.is_killed == Some(true)));
    assert_eq!(stops(&world).len(), 2);
    let messages: Vec<String> = world.events().await.into_iter().map(|event| event.3).collect();
    assert_eq!(
        messages,
        [
            "Stopping container a by ContainerRecreateRequest r",
            "Stopping container b by ContainerRecreateRequest r"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_restart_of_one_container_costs_three_writes_and_an_event() {
    let mut world = World::new().await;
    let uid = world.create_pod("web", &["a"], json!({})).await;
    world.start(&[]);
    request(&world, "r", &uid, &["a"], json!({})).await;
    world.until("it is stopped", async || stops(&world).len() == 1).await;
    world.add_container(&uid, "web", "a", 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.publish("web", &[("a", 1, true)]).await;
    world.until("it ends", async || phases(&world, "r").await.0 == Some(Phase::Completed)).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    // What will be stopped, that it has been, and the end.
    assert_eq!(world.server.writes(Some("daemon")), 4);
}

#[tokio::test(start_paused = true)]
async fn in_order_the_second_waits_for_the_first() {
    let mut world = World::new().await;
    let uid = world.create_pod("web", &["a", "b"], json!({})).await;
    world.start(&[]);
    request(&world, "r", &uid, &["a", "b"], json!({"orderedRecreate": true})).await;
    world.until("one is stopped", async || stops(&world).len() == 1).await;
    world.add_container(&uid, "web", "a", 1);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(stops(&world), [stopped("a0", 30)]);
    world.publish("web", &[("a", 1, true), ("b", 0, true)]).await;
    world.until("the other is stopped", async || stops(&world).len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn the_drain_is_waited_for() {
    let mut world = World::new().await;
    let uid = world.create_pod("web", &["a"], json!({})).await;
    world.start(&[]);
    request(&world, "r", &uid, &["a"], json!({"unreadyGracePeriodSeconds": 5})).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(stops(&world), []);
    assert_eq!(phases(&world, "r").await.0, Some(Phase::Recreating));
    let begun = world.now();
    let condition = json!({"type": "PreRecreateGrace", "status": "True", "reason": "PreRecreateGrace",
        "message": "x", "lastTransitionTime": begun.to_string()});
    let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
    requests(&world).patch_status("r", &PatchParams::default(), &patch).await.unwrap();
    world.until("it is stopped", async || stops(&world).len() == 1).await;
    let waited = world.now().duration_since(begun).as_secs();
    assert!((5..=6).contains(&waited), "{waited}");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_stopped_fails_the_request_or_is_passed_over() {
    for (policy, count) in [("Fail", 1), ("Ignore", 2)] {
        let mut world = World::new().await;
        let uid = world.create_pod("web", &["a", "b"], json!({})).await;
        world.cri.state(|state| state.unstoppable.push("a0".to_owned()));
        world.start(&[]);
        request(&world, "r", &uid, &["a", "b"], json!({"failurePolicy": policy})).await;
        world.until("stops are tried", async || stops(&world).len() == count).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(stops(&world).len(), count);
        let status = requests(&world).get("r").await.unwrap().status.unwrap();
        let first = status.container_recreate_states.unwrap().remove(0);
        assert_eq!(first.phase, Phase::Failed);
        let message = first.message.unwrap();
        assert!(
            message.starts_with("kill container error: ") && message.contains("does not end"),
            "{message}"
        );
        assert_eq!(status.phase == Some(Phase::Completed), policy == "Fail");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_for_one_pod_are_served_one_after_the_other() {
    let mut world = World::new().await;
    let uid = world.create_pod("web", &["a"], json!({})).await;
    request(&world, "first", &uid, &["a"], json!({})).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    request(&world, "second", &uid, &["a"], json!({"forceRecreate": true})).await;
    world.start(&[]);
    world.until("one is stopped", async || stops(&world).len() == 1).await;
    world.until("the other waits", async || phases(&world, "second").await.0 == Some(Phase::Pending)).await;
    requests(&world).delete("first", &DeleteParams::default()).await.unwrap();
    world.add_container(&uid, "web", "a", 1);
    world.until("the other has its turn", async || stops(&world).len() == 2).await;
    assert_eq!(stops(&world), [stopped("a0", 30), stopped("a1", 30)]);
}

#[tokio::test(start_paused = true)]
async fn hooks_run_before_the_stop_and_use_up_its_time() {
    let hook = |command: Value| {
        json!({"spec": {"containers": [
        {"name": "a", "image": "demo:1", "lifecycle": {"preStop": command}}]}})
    };
    for (grace, pre_stop, expected, ran) in [
        (10, json!({"exec": {"command": ["drain"]}}), 10, true),
        (10, json!({"sleep": {"seconds": 4}}), 6, false),
        (0, json!({"exec": {"command": ["drain"]}}), 2, false),
        (3, json!({"sleep": {"seconds": 19}}), 2, false),
    ] {
        let mut world = World::new().await;
        let uid = world.create_pod("web", &["a"], hook(pre_stop.clone())).await;
        world.start(&[]);
        request(&world, "r", &uid, &["a"], json!({"terminationGracePeriodSeconds": grace})).await;
        world.until("it is stopped", async || stops(&world).len() == 1).await;
        assert_eq!(stops(&world), [stopped("a0", expected)], "{pre_stop}");
        let execs = world.cri.state(|state| state.execs.clone());
        assert_eq!(execs.iter().any(|(id, command)| id == "a0" && command == &["drain"]), ran, "{pre_stop}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_fails_is_told_and_stops_nothing() {
    let mut world = World::new().await;
    let pod = json!({"spec": {"containers": [{"name": "a", "image": "demo:1",
        "lifecycle": {"preStop": {"exec": {"command": ["drain"]}}}}]}});
    let uid = world.create_pod("web", &["a"], pod).await;
    let output = m::ExecSyncResponse { stderr: b"no such file".to_vec(), exit_code: 1, ..Default::default() };
    world.cri.state(|state| state.outputs.insert("a0".to_owned(), output));
    world.start(&[]);
    request(&world, "r", &uid, &["a"], json!({})).await;
    world.until("there are events", async || world.events().await.len() == 2).await;
    let events = world.events().await;
    assert_eq!((&*events[1].0, &*events[1].1), ("Warning", "FailedPreStopHook"));
    assert!(events[1].3.contains("no such file"));
    world.until("it is stopped", async || stops(&world).len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_for_containers_of_an_unknown_runtime_ends_at_once() {
    let mut world = World::new().await;
    let uid = world.create_pod("web", &["a"], json!({})).await;
    world.start(&[]);
    let object = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "ContainerRecreateRequest",
        "metadata": {"name": "r", "labels": {"crr.apps.kruise.io/pod-uid": uid,
            "crr.apps.kruise.io/node-name": NODE, "crr.apps.kruise.io/active": "true"}},
        "spec": {"podName": "web", "containers": [
            {"name": "a", "statusContext": {"containerID": "docker://x", "restartCount": 0}}]}});
    requests(&world).create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    world.until("it ends", async || phases(&world, "r").await.0 == Some(Phase::Completed)).await;
    let message = requests(&world).get("r").await.unwrap().status.unwrap().message.unwrap();
    assert!(message.starts_with("failed to find runtime service: "), "{message}");
    assert_eq!(stops(&world), []);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_not_started_again_is_done_and_everything_is_quiet() {
    for (policy, code, done) in
        [("Never", 1, true), ("OnFailure", 0, true), ("OnFailure", 143, false), ("Always", 0, false)]
    {
        let mut world = World::new().await;
        let uid = world.create_pod("web", &["a"], json!({"spec": {"restartPolicy": policy}})).await;
        world.cri.state(|state| state.exit_codes.insert("a0".to_owned(), code));
        world.start(&[]);
        request(&world, "r", &uid, &["a"], json!({"forceRecreate": true})).await;
        world.until("it is stopped", async || stops(&world).len() == 1).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        let expected = if done {
            (Some(Phase::Completed), vec![Phase::Succeeded])
        } else {
            (Some(Phase::Recreating), vec![Phase::Recreating])
        };
        assert_eq!(phases(&world, "r").await, expected, "{policy} {code}");
        let writes = world.server.writes(Some("daemon"));
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert_eq!(world.server.writes(Some("daemon")), writes);
    }
}

#[tokio::test(start_paused = true)]
async fn containers_of_a_pod_that_has_ended_are_done() {
    let mut world = World::new().await;
    let uid = world.create_pod("web", &["a", "b"], json!({})).await;
    world.start(&[]);
    request(&world, "r", &uid, &["a", "b"], json!({})).await;
    world.until("both are stopped", async || stops(&world).len() == 2).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(phases(&world, "r").await.0, Some(Phase::Recreating));
    let status = json!({"status": {"phase": "Failed"}});
    world.pods().patch_status("web", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    world.until("it ends", async || phases(&world, "r").await.0 == Some(Phase::Completed)).await;
}
