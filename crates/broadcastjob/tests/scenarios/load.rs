//! How many writes a job costs.

use std::time::Instant;

use serde_json::{Value, json};

use super::support::World;

const STATUS: &str = "broadcastjobs.apps.kruise.io/status";

/// Runs a job over so many nodes and tells writes of pods, of the status, of events, and the seconds of the cluster.
async fn run(nodes: u32, spec: Value) -> (u64, u64, u64, u64) {
    let world = World::new(nodes).await;
    world.playground.server().reset_requests();
    let begun = world.seconds();
    world.create(spec).await;
    let status = world.phase("completed").await;
    assert_eq!(status.succeeded, i32::try_from(nodes).unwrap());
    let took = world.seconds() - begun;
    world.pass(5).await;
    (world.writes("pods"), world.writes(STATUS), world.writes("events"), took)
}

#[tokio::test(start_paused = true)]
async fn a_node_costs_one_write_and_the_status_at_most_one_a_second() {
    for spec in [json!({"run": "sleep 5"}), json!({"run": "sleep 1", "parallelism": 50})] {
        let (pods, status, events, seconds) = run(200, spec.clone()).await;
        assert_eq!(pods, 200, "{spec}");
        // The first one and the last one do not wait.
        assert!(status <= seconds + 2, "{status} status writes in {seconds} s: {spec}");
        assert!(events <= 30, "{events}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_at_rest_asks_for_nothing() {
    let mut world = World::new(20).await;
    let policy = json!({"completionPolicy": {"type": "Never"}, "failurePolicy": {"type": "Continue"}});
    world.create(policy).await;
    world.until("all are done", async || world.counts().await == (0, 20, 0, 20)).await;
    world.pass(30).await;
    world.playground.server().reset_requests();
    world.pass(600).await;
    assert_eq!(world.playground.server().writes(Some(kruise_playground::MANAGER)), 0);
    // Nor does a manager that knows only what the API server holds.
    world.playground.restart_manager().unwrap();
    world.pass(60).await;
    let writes = ["pods", STATUS, "broadcastjobs.apps.kruise.io", "events"].map(|of| world.writes(of));
    assert_eq!(writes, [0; 4]);
}

/// Run with `--ignored --nocapture` to see the figures.
#[tokio::test(start_paused = true)]
#[ignore = "takes a while, and shows figures"]
async fn five_thousand_nodes() {
    let begun = Instant::now();
    let (pods, status, events, seconds) = run(5_000, json!({"run": "sleep 10"})).await;
    let took = begun.elapsed();
    println!(
        "5000 nodes: {pods} pod writes, {status} status writes, {events} event writes, {seconds} s of the cluster, {took:?}"
    );
    assert!(pods + status + events <= 3 * 5_000);
    assert!(status <= seconds + 2);
}
