//! Two managers: one leads, both answer the API server. In a file of its own, one spec at a time: the other specs count on
//! the one manager.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use kruise_e2e::{Manager, Place, PodView as _, SET, Venue, clone_set, cluster, merged, seen};
use kube::api::{DeleteParams, DynamicObject, PostParams};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

const ONE: &str = "kruise.test/demo:1";
const CLIENTS: usize = 4;
/// Between two requests of a client.
const BREATH: Duration = Duration::from_millis(20);
/// The Lease, and what goes by until a replica that waits for it looks again and has set up its watches.
const HAND_OVER: Duration = Duration::from_secs(15 + 5);
/// What a leader that is told to go needs to say so, and the other to hear of it.
const FAREWELL: Duration = Duration::from_secs(5);

/// Whose turn it is: there is one installation.
static TURN: Mutex<()> = Mutex::const_new(());

/// Scales the set of a place, and answers how long it took until all replicas ran. A request that hits the replica that was
/// just killed is made again.
async fn scales(place: &Place, replicas: i32, within: Duration) -> Result<Duration> {
    let begun = Instant::now();
    seen(&format!("there are {replicas} pods"), within, async || {
        place.patch(&json!({"spec": {"replicas": replicas}})).await?;
        let now = place.now().await?;
        Ok((i32::try_from(now.pods().len())? == replicas).then_some(()))
    })
    .await?;
    Ok(begun.elapsed())
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn when_the_leader_is_killed_writes_resume_within_the_lease_time() -> Result<()> {
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let _back = manager.replicas(2).await?;
    let (place, before) = Venue::Cluster.with(&clone_set(2, ONE)).await?;
    let leader = manager.leader().await?;
    cluster(&["kill", "kruise-system", leader.name()]).await?;
    let took = scales(&place, 4, HAND_OVER).await?;
    println!("writes resumed {} s after the leader was killed", took.as_secs());
    let uids = place.now().await?.uids();
    ensure!(before.uids().iter().all(|uid| uids.contains(uid)), "a pod was replaced");
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_leader_that_is_told_to_go_hands_over_at_once() -> Result<()> {
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let _back = manager.replicas(2).await?;
    let (place, _before) = Venue::Cluster.with(&clone_set(2, ONE)).await?;
    let leader = manager.leader().await?;
    manager.pod_api().delete(leader.name(), &DeleteParams::default()).await?;
    let took = scales(&place, 4, FAREWELL).await?;
    println!("writes resumed {} ms after the leader was told to go", took.as_millis());
    // It may have scaled the set before it heard.
    seen("another leads", HAND_OVER, async || {
        Ok((manager.leader().await?.uid() != leader.uid()).then_some(()))
    })
    .await
}

/// Asks for what takes a webhook until told to stop: defaulting and validation of a set that is not stored, and its
/// conversion. Answers how often, and what went wrong.
async fn asks(place: Arc<Place>, stop: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let (mut count, mut refused) = (0, Vec::new());
    let try_only = PostParams { dry_run: true, ..PostParams::default() };
    let set = merged(clone_set(1, ONE), &json!({"metadata": {"name": "on-trial"}}));
    while !stop.load(Ordering::Relaxed) {
        let created = match serde_json::from_value::<DynamicObject>(set.clone()) {
            Ok(set) => place.sets("v1beta1").create(&try_only, &set).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let read = place.sets("v1alpha1").get(SET).await.map_err(|error| error.to_string());
        count += 2;
        refused.extend([created, read].into_iter().filter_map(Result::err));
        tokio::time::sleep(BREATH).await;
    }
    (count, refused)
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn no_request_fails_while_managers_are_replaced_one_by_one() -> Result<()> {
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let _back = manager.replicas(2).await?;
    let (place, before) = Venue::Cluster.with(&clone_set(2, ONE)).await?;
    let (place, stop) = (Arc::new(place), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(asks(Arc::clone(&place), Arc::clone(&stop)));
    }
    let old: Vec<_> = manager.pods().await?.iter().map(|pod| pod.uid().to_owned()).collect();
    let rolled = manager.restarts(place.namespace(), 2).await;
    stop.store(true, Ordering::Relaxed);
    let (mut count, mut refused) = (0, Vec::new());
    for (asked, failures) in clients.join_all().await {
        count += asked;
        refused.extend(failures);
    }
    rolled?;
    ensure!(
        manager.pods().await?.iter().all(|pod| !old.iter().any(|uid| uid == pod.uid())),
        "none was replaced"
    );
    println!("{count} requests while both managers were replaced");
    ensure!(count > 100, "only {count} requests were made");
    ensure!(refused.is_empty(), "{} of {count} requests failed, first: {:?}", refused.len(), refused.first());
    let after = place.now().await?;
    place.check(&after, "the pods are the same", after.uids() == before.uids()).await
}
