//! How many requests a set costs, and what a crash between any two of them does: rounds against an API server in memory.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "all of this is a test")]

mod world;

use world::{Crash, REPLICAS, World};

#[tokio::test(start_paused = true)]
async fn creation_costs_at_most_two_writes_per_pod() {
    let mut world = World::new();
    world.rest().await;
    let cluster = world.cluster.lock().unwrap();
    assert_eq!(cluster.count("POST pods/"), REPLICAS);
    let writes = cluster.count("POST pods/") + cluster.count("PATCH pods/");
    assert!(writes <= 2 * REPLICAS, "{:#?}", cluster.writes);
    assert_eq!(cluster.count("POST controllerrevisions/"), 1);
}

#[tokio::test(start_paused = true)]
async fn creation_costs_no_more_when_kubelet_is_faster() {
    let mut world = World::new();
    world.round().await;
    world.schedule();
    // Kubelet reports, and the watch has not brought it yet.
    {
        let mut cluster = world.cluster.lock().unwrap();
        for mut pod in cluster.of("pods") {
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            pod["status"]["podIP"] = "10.0.0.1".into();
            cluster.put("pods", &name, pod);
        }
    }
    world.rest().await;
    let cluster = world.cluster.lock().unwrap();
    let writes = cluster.count("POST pods/") + cluster.count("PATCH pods/");
    assert!(writes <= 2 * REPLICAS, "{:#?}", cluster.writes);
    assert!(
        cluster
            .of("pods")
            .iter()
            .all(|pod| pod["status"]["conditions"].to_string().contains("InPlaceUpdateReady"))
    );
}

#[tokio::test(start_paused = true)]
async fn an_update_in_place_costs_at_most_three_writes_per_pod() {
    let mut world = World::new();
    world.rest().await;
    world.cluster.lock().unwrap().writes.clear();
    world.change_image("web:2");
    world.rest().await;
    let cluster = world.cluster.lock().unwrap();
    assert!(cluster.of("pods").iter().all(|pod| pod["spec"]["containers"][0]["image"] == "web:2"));
    assert_eq!(cluster.count("POST pods/") + cluster.count("DELETE"), 0, "{:#?}", cluster.writes);
    assert!(cluster.count("PATCH pods/") <= 3 * REPLICAS, "{:#?}", cluster.writes);
}

#[tokio::test(start_paused = true)]
async fn a_converged_set_asks_for_nothing() {
    let mut world = World::new();
    world.rest().await;
    world.change_image("web:2");
    world.rest().await;
    let before = world.cluster.lock().unwrap().requests;
    for _ in 0..10 {
        world.round().await;
    }
    assert_eq!(world.cluster.lock().unwrap().requests, before);
    // Nor does a manager that knows only what the API server holds.
    world.restart();
    for _ in 0..10 {
        world.round().await;
    }
    assert_eq!(world.cluster.lock().unwrap().requests, before);
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_any_write_leads_to_the_same_end() {
    for answered in [true, false] {
        for after in 1.. {
            let mut world = World::new();
            let crash = Crash { after, answered };
            world.cluster.lock().unwrap().crash = Some(crash);
            world.rest().await;
            world.change_image("web:2");
            world.rest().await;
            let cluster = world.cluster.lock().unwrap();
            assert_eq!(cluster.most_pods, REPLICAS, "{crash:?}: {:#?}", cluster.writes);
            let set = cluster.of("clonesets").remove(0);
            let pods = cluster.of("pods");
            assert_eq!(pods.len(), REPLICAS, "{crash:?}");
            for pod in &pods {
                let label = &pod["metadata"]["labels"]["controller-revision-hash"];
                assert_eq!(label, &set["status"]["updateRevision"], "{crash:?}");
                assert_eq!(pod["spec"]["containers"][0]["image"], "web:2", "{crash:?}");
            }
            assert_eq!(cluster.count("DELETE"), 0, "{crash:?}: {:#?}", cluster.writes);
            assert_eq!(set["status"]["updatedReadyReplicas"], REPLICAS, "{crash:?}");
            assert_eq!(cluster.of("controllerrevisions").len(), 2, "{crash:?}");
            if cluster.crash.is_some() {
                assert!(after > 2 * REPLICAS, "it never crashed");
                break;
            }
        }
    }
}
