//! What differs between container runtimes: their names, which are the schemes of container IDs, and what they tell of a
//! container.

use std::time::Duration;

use kruise_api::containerrecreaterequest::ContainerRecreateRequestPhase as Phase;
use kruise_api::nodeimage::ImagePullPhase;
use kruise_daemon::cri::messages as m;
use serde_json::{Value, json};

use crate::World;
use crate::recreating::{phases, request};
use crate::reporting::{owned, report, touch};

const NAMES: [&str; 3] = ["containerd", "cri-o", "docker"];

async fn world(name: &str) -> World {
    let world = World::new().await;
    world.cri.state(|state| name.clone_into(&mut state.name));
    world
}

#[tokio::test(start_paused = true)]
async fn every_runtime_pulls_by_the_full_name_and_without_progress_where_it_tells_none() {
    for name in NAMES {
        let mut world = world(name).await;
        world.start(&[]);
        world.create_node_image(json!({"nginx": {"tags": [{"tag": "1", "pullPolicy": {}}]}})).await;
        assert_eq!(world.ended("nginx", "1").await.phase, ImagePullPhase::Succeeded, "{name}");
        assert_eq!(world.cri.pulled(), ["docker.io/library/nginx:1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn containers_of_every_runtime_are_restarted() {
    for name in NAMES {
        let mut world = world(name).await;
        let uid = world.create_pod("web", &["a"], json!({})).await;
        world.start(&[]);
        request(&world, "r", &uid, &["a"], json!({})).await;
        world.until("it is stopped", async || world.cri.state(|state| state.stops.len()) == 1).await;
        world.add_container(&uid, "web", "a", 1);
        world.publish("web", &[("a", 1, true)]).await;
        world.until("it ends", async || phases(&world, "r").await.0 == Some(Phase::Completed)).await;
        assert_eq!(phases(&world, "r").await.1, [Phase::Succeeded], "{name}");
        assert_eq!(world.cri.state(|state| state.stops.clone()), [("a0".to_owned(), 30)]);
    }
}

/// Hash of the environment that is reported of the first container.
async fn reported(world: &World) -> Value {
    world.until("it is reported", async || report(world).await.is_some()).await;
    report(world).await.unwrap()["containers"][0]["hashes"]["extractedEnvFromMetadataHash"].clone()
}

#[tokio::test(start_paused = true)]
async fn an_image_without_the_program_env_has_its_environment_told_by_the_runtime() {
    let spec = json!({"ociVersion": "1.1.0", "process": {"args": ["/app"], "env": ["PATH=/bin", "V=one=1\n2", "ODD"]}});
    let value = kruise_common::inplace::env_hash(&[("V", "one=1\n2")].into_iter().collect());
    for (name, details) in [
        ("containerd", json!({"sandboxID": "s", "pid": 7, "config": {"envs": []}, "runtimeSpec": spec})),
        ("cri-o", json!({"sandboxID": "s", "pid": 7, "privileged": false, "runtimeSpec": spec})),
    ] {
        let mut world = world(name).await;
        world.create_pod("web", &["a", "b"], owned()).await;
        world.cri.state(|state| state.details.insert("a0".to_owned(), details.to_string()));
        world.start(&[]);
        tokio::time::sleep(Duration::from_secs(5)).await;
        touch(&world, json!({"labels": {"other": "x"}})).await;
        assert_eq!(reported(&world).await, json!(value), "{name}");
        assert_eq!(world.cri.state(|state| state.execs.len()), 0, "nothing is run in the container");
    }
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_tells_nothing_of_the_environment_has_it_asked_for_in_the_container() {
    let value = kruise_common::inplace::env_hash(&[("V", "one")].into_iter().collect());
    for details in [None, Some("{}"), Some("no JSON"), Some("{\"runtimeSpec\": {\"process\": {}}}")] {
        let mut world = world("docker").await;
        world.create_pod("web", &["a", "b"], owned()).await;
        let output = m::ExecSyncResponse { stdout: b"V=one\n".to_vec(), ..Default::default() };
        world.cri.state(|state| {
            state.outputs.insert("a0".to_owned(), output);
            state.details.extend(details.map(|text| ("a0".to_owned(), text.to_owned())));
        });
        world.start(&[]);
        tokio::time::sleep(Duration::from_secs(5)).await;
        touch(&world, json!({"labels": {"other": "x"}})).await;
        assert_eq!(reported(&world).await, json!(value), "{details:?}");
    }
}
