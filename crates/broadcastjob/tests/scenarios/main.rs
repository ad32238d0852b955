//! BroadcastJobs on the sandbox: a whole manager, its webhooks and simulated nodes, in virtual time.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests take literals, and end a test where they cannot go on"
)]

mod load;
mod support;
mod trouble;

use std::time::Duration;

use std::collections::BTreeSet;

use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use support::{JOB, OPS, World, job, names, node_of, phase_of, time};

#[tokio::test(start_paused = true)]
async fn every_node_runs_the_pod_once_and_the_job_completes() {
    let world = World::new(3).await;
    let made = world.create(json!({})).await;
    let status = world.phase("completed").await;
    assert_eq!((status.active, status.succeeded, status.failed, status.desired), (0, 3, 0, 3));
    assert!(status.is("Complete") && status.completion_time.is_some() && status.start_time.is_some());
    let told = "Job ops/warm is completed, 3 pods succeeded, 0 pods failed";
    world.until("it is told", async || world.events("JobComplete").await == [told]).await;
    assert_eq!(world.events("SuccessfulCreate").await.len(), 3);
    let pods = world.pods().await;
    assert_eq!(pods.iter().map(node_of).collect::<Vec<_>>(), ["node-0", "node-1", "node-2"]);
    for pod in &pods {
        assert_eq!(pod.labels()["broadcastjob-name"], JOB);
        assert_eq!(pod.labels()["broadcastjob-controller-uid"], made.uid().unwrap());
        let owner = &pod.owner_references()[0];
        assert_eq!((owner.api_version.as_str(), owner.controller), ("apps.kruise.io/v1beta1", Some(true)));
        let affinity = serde_json::to_value(pod.spec.as_ref().unwrap().affinity.as_ref().unwrap()).unwrap();
        let field = affinity.pointer(
            "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0",
        );
        assert_eq!(field, Some(&json!({"key": "metadata.name", "operator": "In", "values": [node_of(pod)]})));
    }
}

#[tokio::test(start_paused = true)]
async fn pods_are_bound_at_once_where_the_scheduler_is_not_to_be_asked() {
    let world = World::with(2, |options| {
        options.flags = vec!["--assign-bcj-pods-by-scheduler=false".to_owned()];
        options.nodes.scheduler = None;
    })
    .await;
    world.create(json!({})).await;
    assert_eq!(world.phase("completed").await.succeeded, 2);
}

#[tokio::test(start_paused = true)]
async fn no_more_pods_run_at_once_than_may() {
    for (parallelism, most) in [(json!(1), 1), (json!("50%"), 2), (json!(7), 3)] {
        let world = World::new(3).await;
        world.create(json!({"parallelism": parallelism})).await;
        assert_eq!(world.phase("completed").await.succeeded, 3);
        assert_eq!(world.most_active(), most, "{parallelism}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_at_zero_and_what_runs_goes_on_when_the_limit_is_lowered() {
    let world = World::new(3).await;
    world.create(json!({"parallelism": 0, "run": "sleep 60"})).await;
    world.phase("running").await;
    world.pass(5).await;
    assert_eq!((world.pods().await.len(), world.counts().await.3), (0, 3));
    world.change(json!({"parallelism": 3})).await;
    world.until("all run", async || world.counts().await == (3, 0, 0, 3)).await;
    world.change(json!({"parallelism": 1})).await;
    world.until("it is told", async || world.events("TooManyActivePods").await.len() == 1).await;
    world.pass(10).await;
    assert_eq!(world.counts().await, (3, 0, 0, 3));
    assert_eq!(world.events("TooManyActivePods").await, ["Number of active pods exceed parallelism limit"]);
}

#[tokio::test(start_paused = true)]
async fn cordoned_and_tainted_nodes_are_left_out_unless_they_are_tolerated() {
    let world = World::new(4).await;
    world.change_node("node-0", json!({"spec": {"unschedulable": true}})).await;
    world.change_node("node-1", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})).await;
    world
        .change_node("node-2", json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}}))
        .await;
    world.create(json!({})).await;
    assert_eq!(world.phase("completed").await.desired, 2);
    let on: Vec<_> = world.pods().await.iter().map(|pod| node_of(pod).to_owned()).collect();
    assert_eq!(on, ["node-2", "node-3"]);
    let _gone = world.jobs().delete(JOB, &DeleteParams::default()).await.unwrap();
    world.until("it is gone", async || world.job().await.is_none() && world.pods().await.is_empty()).await;
    world.create(json!({"pod": {"tolerations": [{"operator": "Exists"}]}})).await;
    assert_eq!(world.phase("completed").await.desired, 4);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_never_completes_serves_nodes_that_join_or_come_back() {
    let world = World::new(3).await;
    world.change_node("node-0", json!({"spec": {"unschedulable": true}})).await;
    world.create(json!({"completionPolicy": {"type": "Never"}})).await;
    world.until("two are done", async || world.counts().await == (0, 2, 0, 2)).await;
    assert_eq!(world.status().await.phase.as_deref(), Some("running"));
    world.change_node("node-0", json!({"spec": {"unschedulable": null, "taints": null}})).await;
    world.until("the third is done", async || world.counts().await == (0, 3, 0, 3)).await;
    world.add_node("late").await;
    world.until("the new node has a pod", async || world.pod_on("late").await.is_some()).await;
    world.until("it is counted", async || world.counts().await == (1, 3, 0, 4)).await;
    world.pass(60).await;
    let status = world.status().await;
    assert_eq!((status.phase.as_deref(), status.conditions), (Some("running"), None));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_a_running_job_is_served_and_one_that_joins_a_finished_one_is_not() {
    let world = World::new(1).await;
    world.create(json!({"run": "sleep 10"})).await;
    world.until("it runs", async || world.counts().await.0 == 1).await;
    world.add_node("late").await;
    world.until("it is served", async || world.counts().await == (2, 0, 0, 2)).await;
    world.until("the first is done", async || world.counts().await.1 == 1).await;
    // Its pod is waited for, but not once the node is gone.
    world.pass(30).await;
    assert_eq!(world.status().await.phase.as_deref(), Some("running"));
    let _gone = world.node_api().delete("late", &DeleteParams::default()).await.unwrap();
    world.phase("completed").await;
    world.add_node("later").await;
    world.pass(30).await;
    assert!(world.pod_on("later").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_job_waits_until_there_is_a_node_for_it() {
    let world = World::new(1).await;
    world.create(json!({"pod": {"nodeSelector": {"gpu": "yes"}}})).await;
    world.phase("running").await;
    world.pass(60).await;
    assert_eq!((world.counts().await, world.pods().await.len()), ((0, 0, 0, 0), 0));
    world.change_node("node-0", json!({"metadata": {"labels": {"gpu": "yes"}}})).await;
    assert_eq!(world.phase("completed").await.succeeded, 1);
}

#[tokio::test(start_paused = true)]
async fn a_finished_job_and_its_pods_go_when_their_time_has_come() {
    for ttl in [30, 0] {
        let world = World::new(2).await;
        world.create(json!({"completionPolicy": {"ttlSecondsAfterFinished": ttl}})).await;
        if ttl > 0 {
            world.phase("completed").await;
            world.pass(ttl - 2).await;
            assert!(world.job().await.is_some());
            world.pass(4).await;
        }
        world
            .until("it is gone", async || world.job().await.is_none() && world.pods().await.is_empty())
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_takes_too_long_fails_also_after_the_manager_restarted() {
    for restart in [false, true] {
        let mut world = World::new(3).await;
        world.create(json!({"run": "sleep 3600", "completionPolicy": {"activeDeadlineSeconds": 10}})).await;
        world.until("all run", async || world.counts().await == (3, 0, 0, 3)).await;
        if restart {
            world.playground.crash_manager();
            world.pass(5).await;
            world.playground.restart_manager().unwrap();
        }
        let status = world.phase("failed").await;
        assert!(status.is("Failed"));
        let took = time(status.completion_time.as_ref()).duration_since(time(status.start_time.as_ref()));
        assert_eq!(took.as_secs(), 10, "after a restart: {restart}");
        assert_eq!((status.active, status.failed, status.desired), (0, 3, 3));
        world.until("nothing runs", async || world.pods().await.is_empty()).await;
        let told = "Job ops/warm was active longer than specified deadline: 0 pods succeeded, 3 pods failed";
        world.until("it is told", async || world.events("DeadlineExceeded").await == [told]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_failed_pod_fails_a_job_that_fails_fast_and_its_crash_loop_is_deleted_too() {
    let world = World::new(3).await;
    world
        .create(json!({"run": "sleep 3600", "restart": "OnFailure", "failurePolicy": {"restartLimit": 1}}))
        .await;
    world
        .until("all run", async || {
            world.pods().await.iter().filter(|pod| phase_of(pod) == "Running").count() == 3
        })
        .await;
    let culprit = world.pod_on("node-1").await.unwrap().name_any();
    world.playground.nodes().crash(OPS, &culprit, "c", 1);
    world.pass(30).await;
    assert_eq!(world.counts().await, (3, 0, 0, 3), "one restart is allowed");
    world.playground.nodes().crash(OPS, &culprit, "c", 1);
    let status = world.phase("failed").await;
    assert_eq!((status.active, status.failed), (0, 3));
    world.until("nothing runs any more", async || world.pods().await.is_empty()).await;
    world.pass(60).await;
    assert!(world.pods().await.is_empty());
    let told = world.events("failed pod is found").await;
    assert_eq!(
        told,
        [
            "failure policy is FailurePolicyTypeFailFast and failed pod is found: 0 pods succeeded, 3 pods failed"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_job_that_goes_on_completes_with_the_failures_counted() {
    let world = World::new(3).await;
    world.create(json!({"run": "sleep 5", "failurePolicy": {"type": "Continue"}})).await;
    world
        .until("all run", async || {
            world.pods().await.iter().filter(|pod| phase_of(pod) == "Running").count() == 3
        })
        .await;
    let one = world.pod_on("node-1").await.unwrap().name_any();
    world.playground.nodes().crash(OPS, &one, "c", 1);
    let status = world.phase("completed").await;
    assert_eq!((status.succeeded, status.failed), (2, 1));
    let told = "Job ops/warm is completed, 2 pods succeeded, 1 pods failed";
    world.until("it is told", async || world.events("JobComplete").await == [told]).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_does_not_keep_a_job_that_goes_on_from_completing() {
    let world = World::new(2).await;
    world
        .create(json!({"run": "exit 1", "restart": "OnFailure",
        "failurePolicy": {"type": "Continue", "restartLimit": 2}}))
        .await;
    let status = world.phase("completed").await;
    assert_eq!((status.succeeded, status.failed, status.active), (0, 2, 0));
    world.until("nothing runs any more", async || world.pods().await.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_pod_pauses_the_job_once_until_it_is_deleted() {
    let world = World::new(3).await;
    world.create(json!({"run": "sleep 5", "parallelism": 1, "failurePolicy": {"type": "Pause"}})).await;
    world.until("one runs", async || world.pods().await.iter().any(|pod| phase_of(pod) == "Running")).await;
    let first = world.pod_on("node-0").await.unwrap().name_any();
    world.playground.nodes().crash(OPS, &first, "c", 1);
    world.phase("paused").await;
    let writes = world.writes("broadcastjobs.apps.kruise.io/status");
    for round in 0..5 {
        // Something of the job changes, and nothing is told or written for it.
        let label = json!({"metadata": {"labels": {"round": round.to_string()}}});
        world.jobs().patch(JOB, &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
        world.pass(10).await;
    }
    assert_eq!(world.writes("broadcastjobs.apps.kruise.io/status"), writes);
    assert_eq!(world.events("Paused").await, ["job is paused, due to failed pod"]);
    assert_eq!(world.events("Continue").await.len(), 0);
    assert_eq!(world.pods().await.len(), 1);
    world.delete_pod(&first).await;
    assert_eq!(world.phase("completed").await.succeeded, 3);
    assert_eq!(world.events("Continue").await, ["continue to process job"]);
    assert_eq!(world.events("Paused").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_user_goes_on_in_spite_of_a_failed_pod_by_pausing_and_resuming() {
    let world = World::new(3).await;
    world.create(json!({"run": "sleep 5", "parallelism": 1, "failurePolicy": {"type": "Pause"}})).await;
    world.until("one runs", async || world.pods().await.iter().any(|pod| phase_of(pod) == "Running")).await;
    let first = world.pod_on("node-0").await.unwrap().name_any();
    world.playground.nodes().crash(OPS, &first, "c", 1);
    world.phase("paused").await;
    // As fast as a script does it: the job is paused already.
    world.change(json!({"paused": true})).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.change(json!({"paused": false})).await;
    let status = world.phase("completed").await;
    assert_eq!((status.succeeded, status.failed), (2, 1));
    assert_eq!(world.job().await.unwrap().spec.paused, Some(false), "the spec is the user's");
    assert_eq!((world.events("Paused").await.len(), world.events("Continue").await.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_paused_job_starts_nothing_and_completes_only_after_it_is_let_go() {
    let world = World::new(2).await;
    world.create(json!({"paused": true, "parallelism": 1})).await;
    let status = world.phase("paused").await;
    assert_eq!((status.desired, world.pods().await.len()), (2, 0));
    assert!(status.start_time.is_some());
    world.change(json!({"paused": false})).await;
    world.until("one pod is there", async || world.pods().await.len() == 1).await;
    world.change(json!({"paused": true})).await;
    world.until("what runs ends", async || world.counts().await.1 == 1).await;
    world.pass(30).await;
    assert_eq!((world.pods().await.len(), world.counts().await), (1, (0, 1, 0, 2)));
    world.change(json!({"paused": false})).await;
    assert_eq!(world.phase("completed").await.succeeded, 2);
    assert_eq!(world.events("Paused").await.len(), 0, "the user knows");
    assert_eq!(world.events("Continue").await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn cordoning_a_node_takes_its_running_pod_and_leaves_one_that_succeeded() {
    let world = World::new(2).await;
    world.create(json!({"completionPolicy": {"type": "Never"}, "run": "sleep 30"})).await;
    world.until("both run", async || world.counts().await == (2, 0, 0, 2)).await;
    world.change_node("node-0", json!({"spec": {"unschedulable": true}})).await;
    world.until("its pod goes", async || world.pod_on("node-0").await.is_none()).await;
    world.until("one is left", async || world.counts().await == (1, 0, 0, 1)).await;
    assert_eq!(world.events("SuccessfulDelete").await.len(), 1);
    world.change_node("node-0", json!({"spec": {"unschedulable": null, "taints": null}})).await;
    world.until("both are done", async || world.counts().await == (0, 2, 0, 2)).await;
    let before = names(&world.pods().await);
    world.change_node("node-0", json!({"spec": {"unschedulable": true}})).await;
    world.pass(30).await;
    world.change_node("node-0", json!({"spec": {"unschedulable": null, "taints": null}})).await;
    world.pass(30).await;
    assert_eq!(
        (names(&world.pods().await), world.counts().await),
        (before, (0, 2, 0, 2)),
        "nothing runs again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_blinks_keeps_its_running_pod() {
    let world = World::new(2).await;
    world.create(json!({"run": "sleep 100"})).await;
    world.until("both run", async || world.counts().await == (2, 0, 0, 2)).await;
    let before: BTreeSet<_> = world.pods().await.iter().map(ResourceExt::uid).collect();
    world.playground.nodes().lose_node("node-0");
    let tainted = async || {
        let node = world.node_api().get("node-0").await.unwrap();
        node.spec.and_then(|spec| spec.taints).is_some_and(|taints| !taints.is_empty())
    };
    world.until("the node is tainted", tainted).await;
    world.pass(20).await;
    world.playground.nodes().recover_node("node-0");
    world.pass(20).await;
    assert_eq!(world.pods().await.iter().map(ResourceExt::uid).collect::<BTreeSet<_>>(), before);
    assert_eq!(world.phase("completed").await.succeeded, 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_template_is_for_pods_that_are_created_later() {
    let world = World::new(2).await;
    world.create(json!({"parallelism": 1, "run": "sleep 10"})).await;
    world.until("one runs", async || world.pods().await.len() == 1).await;
    let mut newer =
        job(json!({"run": "sleep 10", "pod": {"tolerations": [{"key": "new", "operator": "Exists"}]}}));
    world.change(json!({"template": newer["spec"]["template"].take()})).await;
    assert_eq!(world.phase("completed").await.succeeded, 2);
    let newer: Vec<_> = world
        .pods()
        .await
        .iter()
        .map(|pod| {
            pod.spec
                .as_ref()
                .unwrap()
                .tolerations
                .iter()
                .flatten()
                .any(|one| one.key.as_deref() == Some("new"))
        })
        .collect();
    assert_eq!(newer, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_deleted_takes_its_pods_along_and_starts_no_more() {
    let world = World::new(3).await;
    world.create(json!({"parallelism": 1, "run": "sleep 10"})).await;
    world.until("one runs", async || world.pods().await.len() == 1).await;
    let params =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    let _answer = world.jobs().delete(JOB, &params).await.unwrap();
    world.until("it is gone", async || world.job().await.is_none() && world.pods().await.is_empty()).await;
    world.pass(30).await;
    assert!(world.pods().await.is_empty());
    assert_eq!(world.events("SuccessfulCreate").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_with_the_labels_and_another_owner_is_not_counted() {
    let world = World::new(1).await;
    let made = world.create(json!({"paused": true})).await;
    let stranger = json!({"metadata": {"name": "stranger", "labels": {
            "broadcastjob-name": JOB, "broadcastjob-controller-uid": made.uid()}},
        "spec": {"nodeName": "node-0", "restartPolicy": "Never", "containers": [
            {"name": "c", "image": "x:1", "command": ["false"]}]}});
    world.pod_api().create(&PostParams::default(), &serde_json::from_value(stranger).unwrap()).await.unwrap();
    world.change(json!({"paused": false})).await;
    let status = world.phase("completed").await;
    assert_eq!((status.succeeded, status.failed, world.pods().await.len()), (1, 0, 2));
}

#[tokio::test(start_paused = true)]
async fn both_versions_show_the_same_job() {
    let world = World::new(1).await;
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1alpha1", "BroadcastJob");
    let old = kube::Api::<DynamicObject>::namespaced_with(
        world.client.clone(),
        OPS,
        &ApiResource::from_gvk_with_plural(&kind, "broadcastjobs"),
    );
    let mut object = job(json!({}));
    object["apiVersion"] = "apps.kruise.io/v1alpha1".into();
    old.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    world.phase("completed").await;
    let (old, new) = (old.get(JOB).await.unwrap(), serde_json::to_value(world.job().await.unwrap()).unwrap());
    assert_eq!((&old.data["spec"], &old.data["status"]), (&new["spec"], &new["status"]));
    assert_eq!(old.data["spec"]["parallelism"], 2_147_483_647);
    assert_eq!(old.data["spec"]["completionPolicy"]["type"], "Always");
    assert_eq!(old.data["spec"]["failurePolicy"]["type"], "FailFast");
    assert_eq!(old.types.unwrap().api_version, "apps.kruise.io/v1alpha1");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_carried_out_is_refused_with_the_path_of_the_field() {
    let world = World::new(0).await;
    let labelled = |spec: Value| {
        let mut job = job(spec);
        job["spec"]["template"]["metadata"] = json!({"labels": {"broadcastjob-name": "x"}});
        job
    };
    for (object, told) in [
        (
            job(json!({"restart": "Always"})),
            "spec.template.spec.restartPolicy: Invalid value: \"Always\": pod restartPolicy can only be Never or OnFailure",
        ),
        (job(json!({"restart": null})), "pod restartPolicy can only be Never or OnFailure"),
        (
            job(json!({"completionPolicy": {"type": "Never", "ttlSecondsAfterFinished": 1}})),
            "spec.completionPolicy.ttlSecondsAfterFinished",
        ),
        (job(json!({"parallelism": "abc"})), "spec.parallelism"),
        (job(json!({"pod": {"containers": []}})), "spec.template.spec.containers: Required value"),
        (labelled(json!({})), "are not allowed to preset in pod labels"),
    ] {
        let made =
            world.jobs().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await;
        let kube::Error::Api(status) = made.unwrap_err() else { panic!("no answer") };
        assert!(status.message.contains(told), "{}", status.message);
        assert_eq!(status.code, 422, "{}", status.message);
    }
}
