//! What goes wrong around a job: refusals, conflicts, lost answers, crashes, nodes that are full or lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kruise_sandbox::error::{ApiError, Reason};
use kruise_sandbox::server::{Decision, Fate, RequestInfo, Verb};
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::json;

use super::support::{World, node_of, phase_of};

fn refused(reason: Reason, message: &str) -> Decision {
    Fate::Fail(ApiError::new(reason, message)).into()
}

fn is(request: &RequestInfo, verb: Verb, resource: &str, subresource: &str) -> bool {
    request.verb == verb && request.resource == resource && request.subresource == subresource
}

/// True for the first `times` questions.
fn first(times: u64) -> impl Fn() -> bool {
    let asked = AtomicU64::new(0);
    move || asked.fetch_add(1, Ordering::SeqCst) < times
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_refuses_pods_is_told_and_only_real_pods_are_counted() {
    let closed = Arc::new(AtomicBool::new(true));
    let quota = Arc::clone(&closed);
    let world = World::faulty(3, move |request| {
        if is(request, Verb::Create, "pods", "") && quota.load(Ordering::SeqCst) {
            return refused(Reason::Forbidden, "exceeded quota: pods=0");
        }
        Decision::default()
    })
    .await;
    world.create(json!({})).await;
    world.until("it is told", async || !world.events("FailedCreate").await.is_empty()).await;
    let told = world.events("FailedCreate").await.remove(0);
    assert_eq!(told, "Error creating: exceeded quota: pods=0");
    world.pass(10).await;
    assert_eq!(world.counts().await, (0, 0, 0, 3));
    closed.store(false, Ordering::SeqCst);
    assert_eq!(world.phase("completed").await.succeeded, 3);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_kept_although_pods_are_refused_less_and_less_often() {
    let world = World::faulty(3, |request| {
        if is(request, Verb::Create, "pods", "") {
            return refused(Reason::Forbidden, "exceeded quota: pods=0");
        }
        Decision::default()
    })
    .await;
    // By then the refused creation is tried again after more than a minute.
    world.create(json!({"completionPolicy": {"type": "Always", "activeDeadlineSeconds": 100}})).await;
    world.pass(95).await;
    assert_eq!(world.status().await.phase.as_deref(), Some("running"));
    world.pass(10).await;
    assert_eq!(world.status().await.phase.as_deref(), Some("failed"));
}

#[tokio::test(start_paused = true)]
async fn a_status_write_that_conflicts_is_not_lost() {
    for refusals in 1..5 {
        let again = first(refusals);
        let world = World::faulty(2, move |request| {
            if is(request, Verb::Patch, "broadcastjobs", "status") && again() {
                return refused(Reason::Conflict, "the object has been modified");
            }
            Decision::default()
        })
        .await;
        world.create(json!({})).await;
        let status = world.phase("completed").await;
        assert!(status.is("Complete") && status.start_time.is_some());
        world.pass(30).await;
        assert_eq!(world.events("JobComplete").await.len(), 1, "told once");
        assert_eq!(world.events("SuccessfulCreate").await.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_creation_whose_answer_is_lost_makes_no_second_pod() {
    for fate in [Fate::LoseResponse, Fate::LoseRequest] {
        let lost = first(3);
        let world = World::faulty(4, move |request| {
            if is(request, Verb::Create, "pods", "") && lost() {
                fate.clone().into()
            } else {
                Decision::default()
            }
        })
        .await;
        world.create(json!({"run": "sleep 5"})).await;
        let status = world.phase("completed").await;
        assert_eq!((status.succeeded, status.desired), (4, 4));
        let on: Vec<_> = world.pods().await.iter().map(|pod| node_of(pod).to_owned()).collect();
        assert_eq!(on, ["node-0", "node-1", "node-2", "node-3"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_a_stranger_has_taken_is_passed_over() {
    let world = World::new(1).await;
    let made = world.create(json!({"paused": true})).await;
    let job = kruise_broadcastjob::stores::JobView::of(made).unwrap();
    let name = kruise_broadcastjob::objects::pod_name(&job, "node-0", 0);
    let stranger = json!({"metadata": {"name": name}, "spec": {"nodeName": "node-0", "containers": [
        {"name": "c", "image": "x:1"}]}});
    world.pod_api().create(&PostParams::default(), &serde_json::from_value(stranger).unwrap()).await.unwrap();
    world.change(json!({"paused": false})).await;
    assert_eq!(world.phase("completed").await.succeeded, 1);
    assert_eq!(phase_of(&world.pod_api().get(&name).await.unwrap()), "Running", "it is not touched");
}

#[tokio::test(start_paused = true)]
async fn pods_that_openkruise_made_are_taken_over_without_a_write() {
    let world = World::new(2).await;
    let made = world.create(json!({"paused": true, "completionPolicy": {"type": "Never"}})).await;
    for (name, node) in [("warm-x7k2p", "node-0"), ("warm-9qqzv", "node-1")] {
        let only = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
        let pod = json!({
            "metadata": {"name": name, "generateName": "warm-",
                "labels": {"broadcastjob-name": "warm", "broadcastjob-controller-uid": made.uid()},
                "ownerReferences": [{"apiVersion": "apps.kruise.io/v1alpha1", "kind": "BroadcastJob", "name": "warm",
                    "uid": made.uid(), "controller": true, "blockOwnerDeletion": true}]},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x:1", "command": ["sleep", "60"]}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchFields": only}]}}}}});
        world.pod_api().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }
    world.change(json!({"paused": false})).await;
    world.until("both are counted", async || world.counts().await == (2, 0, 0, 2)).await;
    world.until("both are done", async || world.counts().await == (0, 2, 0, 2)).await;
    assert_eq!(world.writes("pods"), 0);
    assert_eq!(world.pods().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_of_a_finished_job_that_fails_is_tried_again() {
    let failing = first(3);
    let world = World::faulty(1, move |request| {
        if is(request, Verb::Delete, "broadcastjobs", "") && failing() {
            return refused(Reason::Forbidden, "not now");
        }
        Decision::default()
    })
    .await;
    world.create(json!({"completionPolicy": {"ttlSecondsAfterFinished": 0}})).await;
    world.until("it is gone", async || world.job().await.is_none()).await;
}

/// Plays a job through with a manager that dies after its `n`th write, or before it. Answers whether it died.
async fn dies_at(n: u64, answered: bool, fails: bool) -> bool {
    let (writes, died) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let dead = Arc::clone(&died);
    let mut world = World::faulty(3, move |request| {
        let ours = matches!(request.resource.as_str(), "pods" | "broadcastjobs") && request.verb.is_write();
        if !ours || writes.fetch_add(1, Ordering::SeqCst) + 1 != n {
            return Decision::default();
        }
        dead.store(true, Ordering::SeqCst);
        (if answered { Fate::DieAfter } else { Fate::DieBefore }).into()
    })
    .await;
    let (run, failure, end) =
        if fails { ("sleep 2; exit 1", "FailFast", "failed") } else { ("sleep 2", "FailFast", "completed") };
    world.create(json!({"run": run, "parallelism": 2, "failurePolicy": {"type": failure}})).await;
    let end_of = async |world: &World| {
        world
            .some("it dies or the job ends", async || {
                let over = world.status().await.phase.as_deref() == Some(end);
                (over || died.load(Ordering::SeqCst)).then_some(())
            })
            .await;
    };
    end_of(&world).await;
    if !died.load(Ordering::SeqCst) {
        world.pass(30).await;
    }
    let has_died = died.load(Ordering::SeqCst);
    if has_died {
        world.playground.restart_manager().unwrap();
    }
    let status = world.phase(end).await;
    world.pass(60).await;
    let pods = world.pods().await;
    let on: std::collections::BTreeSet<_> = pods.iter().map(node_of).collect();
    assert_eq!(on.len(), pods.len(), "two pods on a node, after write {n}");
    assert!(
        pods.iter().all(|pod| phase_of(pod) != "Running" && phase_of(pod) != "Pending"),
        "after write {n}"
    );
    assert!(world.most_active() <= 2, "after write {n}");
    if fails {
        assert!(status.failed > 0 && status.is("Failed"), "after write {n}");
    } else {
        assert_eq!((status.succeeded, status.failed, pods.len()), (3, 0, 3), "after write {n}");
    }
    has_died
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_any_write_leads_to_the_same_end() {
    for fails in [false, true] {
        for answered in [false, true] {
            let mut n = 1;
            while dies_at(n, answered, fails).await {
                n += 1;
            }
            assert!(n > 3, "it never died");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_node_is_told_of_once_and_its_pod_waits() {
    let world = World::new(2).await;
    let hungry = json!({"requests": {"cpu": "20"}});
    let big = json!({"metadata": {"name": "big"}, "spec": {"nodeName": "node-0", "containers": [
        {"name": "c", "image": "x:1", "resources": hungry}]}});
    world.pod_api().create(&PostParams::default(), &serde_json::from_value(big).unwrap()).await.unwrap();
    let container = json!([{"name": "c", "image": "x:1", "command": ["sleep", "1"], "resources": hungry}]);
    world.create(json!({"pod": {"containers": container}})).await;
    world.until("it is told", async || world.events("PodHasNoRoom").await.len() == 1).await;
    let told = world.events("PodHasNoRoom").await.remove(0);
    assert!(told.contains("waits for room on node node-0: 0/2 nodes are available"), "{told}");
    world.pass(60).await;
    assert_eq!(world.counts().await, (1, 1, 0, 2));
    assert_eq!(world.events("PodHasNoRoom").await.len(), 1);
    world.delete_pod("big").await;
    assert_eq!(world.phase("completed").await.succeeded, 2);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_cannot_go_from_its_lost_node_holds_up_nobody_else() {
    let world = World::with(3, |options| options.nodes.heartbeat = None).await;
    world.create(json!({"completionPolicy": {"type": "Never"}, "run": "sleep 600", "parallelism": 2})).await;
    world.until("two run", async || world.counts().await.0 == 2).await;
    world.playground.nodes().lose_node("node-0");
    let stuck = world.pod_on("node-0").await.unwrap().name_any();
    world.delete_pod(&stuck).await;
    world.until("the third gets its pod", async || world.pod_on("node-2").await.is_some()).await;
    world.until("the numbers follow", async || world.counts().await.0 == 2).await;
    assert!(world.pod_api().get(&stuck).await.unwrap().metadata.deletion_timestamp.is_some());
}
