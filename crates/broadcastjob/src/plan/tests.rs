use jiff::Timestamp;
use kruise_api::broadcastjob::{BroadcastJobStatus, COMPLETE, FAILED, JobCondition};
use kruise_common::deadline::whole_seconds;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::placement::Placement;
use kruise_common::pod_wire::PodWire;
use kruise_runtime::nodes::{NodeView, NodeWire};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::observe::Settings;
use crate::status::{Turn, end_event, status, turn};

/// A world that a test describes in a few words.
#[derive(Clone, Debug)]
struct World(Observed);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn node(name: &str, spec: Value) -> Arc<NodeView> {
    let wire = json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1", "labels": spec["labels"]},
        "spec": spec, "status": {"allocatable": {"pods": "110", "cpu": "4"}}});
    Arc::new(NodeView::of(serde_json::from_value::<NodeWire>(wire).unwrap()).unwrap())
}

fn pod(name: &str, node: &str, extra: Value) -> Arc<PodView> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ops", "uid": name, "resourceVersion": "1"},
        "spec": {"nodeName": node, "restartPolicy": "OnFailure"},
        "status": {"phase": "Running"},
    });
    merge(&mut pod, extra);
    Arc::new(PodView::from(serde_json::from_value::<PodWire>(pod).unwrap()))
}

fn merge(base: &mut Value, more: Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more,
    }
}

fn phase(phase: &str) -> Value {
    json!({"status": {"phase": phase}})
}

fn restarts(count: i32) -> Value {
    json!({"status": {"containerStatuses": [{"name": "c", "restartCount": count}]}})
}

fn going() -> Value {
    json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
}

/// As a pod is before the scheduler has bound it.
fn pinned(node: &str) -> Value {
    let name = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    json!({"spec": {"nodeName": null, "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": [name]}]}}}}, "status": {"phase": "Pending"}})
}

impl World {
    /// A job of these settings over `nodes` nodes `n0`, `n1`, …, started at 0; it is 100 now.
    fn new(spec: Value, nodes: usize) -> Self {
        let mut spec = spec;
        let template = spec.as_object_mut().unwrap().remove("templateSpec").unwrap_or_default();
        spec["template"] = json!({"spec": template});
        let placement = Placement::of_template(&spec["template"]).unwrap();
        let settings = Settings::of(&serde_json::from_value(spec).unwrap()).unwrap();
        let status = BroadcastJobStatus {
            start_time: Some(whole_seconds(at(0))),
            phase: Some("running".into()),
            ..Default::default()
        };
        Self(Observed {
            key: ObjectKey::new("ops", "warm"),
            uid: Uid::from("u"),
            terminating: false,
            settings,
            placement,
            nodes: (0..nodes).map(|number| node(&format!("n{number}"), json!({}))).collect(),
            pods: Vec::new(),
            phase: Phase::Running,
            status,
            now: at(100),
        })
    }

    fn pod(mut self, on: &str, extra: Value) -> Self {
        let name = format!("pod-{:04}", self.0.pods.len());
        self.0.pods.push(pod(&name, on, extra));
        self
    }

    fn replace(mut self, name: &str, spec: Value) -> Self {
        for known in &mut self.0.nodes {
            if &**known.name() == name {
                *known = node(name, spec.clone());
            }
        }
        self
    }

    fn phase(mut self, phase: Phase) -> Self {
        self.0.phase = phase;
        self.0.status.phase = Some(phase.as_str().to_owned());
        self
    }

    fn over(mut self, type_: &str, at_second: i64) -> Self {
        self.0.status.completion_time = Some(whole_seconds(at(at_second)));
        self.0.status.conditions =
            Some(vec![JobCondition { type_: type_.into(), status: "True".into(), ..Default::default() }]);
        self.phase(if type_ == COMPLETE { Phase::Completed } else { Phase::Failed })
    }

    fn plan(&self) -> Plan {
        plan(&self.0, &Census::of(&self.0))
    }

    fn status(&self) -> BroadcastJobStatus {
        status(&self.0, &Census::of(&self.0), &self.plan())
    }

    fn event(&self) -> Option<(&'static str, String)> {
        self.plan().ending.map(|ending| end_event(&self.0, &self.status(), ending))
    }

    /// active, succeeded, failed, desired.
    fn counts(&self) -> (i32, i32, i32, i32) {
        let status = self.status();
        (status.active, status.succeeded, status.failed, status.desired)
    }
}

/// The nodes that get a pod, and the pods that are deleted.
fn steps(plan: &Plan) -> (Vec<String>, Vec<String>) {
    let created = |action: &Action| match action {
        Action::Create { node } => Some(node.to_string()),
        _ => None,
    };
    let deleted = |action: &Action| match action {
        Action::Delete { pod, .. } => Some(pod.name().to_owned()),
        _ => None,
    };
    (plan.actions.iter().filter_map(created).collect(), plan.actions.iter().filter_map(deleted).collect())
}

fn lists<const A: usize, const B: usize>(
    created: [&str; A],
    deleted: [&str; B],
) -> (Vec<String>, Vec<String>) {
    (created.map(str::to_owned).into(), deleted.map(str::to_owned).into())
}

#[test]
fn every_node_gets_one_pod_and_the_job_completes_when_all_have_ended() {
    let start = World::new(json!({}), 3);
    assert_eq!(steps(&start.plan()), lists(["n0", "n1", "n2"], []));
    let running = ["n0", "n1", "n2"].iter().fold(start.clone(), |world, node| world.pod(node, json!({})));
    assert_eq!(running.plan(), Plan::rest(Phase::Running, 0));
    assert_eq!(running.counts(), (3, 0, 0, 3));
    let done = ["n0", "n1", "n2"].iter().fold(start, |world, node| world.pod(node, phase("Succeeded")));
    assert_eq!(done.plan().ending, Some(Ending::Completed));
    assert_eq!(done.counts(), (0, 3, 0, 3));
    assert_eq!(done.status().completion_time, Some(whole_seconds(at(100))));
    let condition = done.status().conditions.unwrap().remove(0);
    assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("Complete", Some("Complete")));
    assert_eq!(condition.message.as_deref(), Some("Job completed, 3 pods succeeded, 0 pods failed"));
    let told = "Job ops/warm is completed, 3 pods succeeded, 0 pods failed".to_owned();
    assert_eq!(done.event(), Some(("JobComplete", told)));
}

#[test]
fn parallelism_limits_what_runs_at_once() {
    for (parallelism, running, created) in [
        (json!(1), 0, vec!["n0"]),
        (json!(1), 1, vec![]),
        (json!("50%"), 0, vec!["n0", "n1"]),
        (json!(0), 0, vec![]),
        (json!(-1), 0, vec![]),
        (json!(7), 0, vec!["n0", "n1", "n2"]),
        (json!(2), 3, vec![]),
    ] {
        let mut world = World::new(json!({"parallelism": parallelism}), 3);
        for number in 0..running {
            world = world.pod(&format!("n{number}"), json!({}));
        }
        let plan = world.plan();
        assert_eq!(steps(&plan).0, created, "{parallelism}");
        assert_eq!(plan.held, 3 - running - created.len());
        let crowded = running == 3;
        assert_eq!(plan.notices.contains(&Notice::TooManyActive), crowded, "{parallelism}");
        assert!(steps(&plan).1.is_empty(), "nothing is deleted for the limit");
    }
}

#[test]
fn nodes_that_are_not_for_the_pod_are_not_desired() {
    let spec = json!({"templateSpec": {"nodeSelector": {"zone": "a"}, "containers": [
        {"resources": {"requests": {"cpu": "3"}}}], "tolerations": [{"key": "mine", "operator": "Exists"}]}});
    let zone = |more: Value| {
        let mut spec = json!({"labels": {"zone": "a"}});
        merge(&mut spec, more);
        spec
    };
    let world = World::new(spec, 7)
        .replace("n1", zone(json!({})))
        .replace("n2", zone(json!({"unschedulable": true})))
        .replace("n3", zone(json!({"taints": [{"key": "other", "effect": "NoSchedule"}]})))
        .replace("n4", zone(json!({"taints": [{"key": "other", "effect": "PreferNoSchedule"}]})))
        .replace("n5", zone(json!({"taints": [{"key": "mine", "effect": "NoExecute"}]})));
    assert_eq!(steps(&world.plan()).0, ["n1", "n4", "n5"]);
    assert_eq!(world.counts().3, 3);
    let huge =
        World::new(json!({"templateSpec": {"containers": [{"resources": {"requests": {"cpu": "5"}}}]}}), 2);
    assert_eq!((steps(&huge.plan()).0.len(), huge.counts().3, huge.plan().ending), (0, 0, None));
}

#[test]
fn a_failed_pod_means_what_the_policy_says() {
    let world = |policy: &str| {
        World::new(json!({"failurePolicy": {"type": policy}, "parallelism": 2}), 4)
            .pod("n0", phase("Failed"))
            .pod("n1", json!({}))
    };
    let plan = world("Continue").plan();
    assert_eq!((plan.phase, steps(&plan)), (Phase::Running, lists(["n2"], [])));
    let plan = world("Pause").plan();
    assert_eq!((plan.phase, steps(&plan)), (Phase::Paused, lists([], [])));
    let plan = world("FailFast").plan();
    assert_eq!((plan.phase, plan.ending), (Phase::Failed, Some(Ending::FailedPod)));
    assert_eq!(steps(&plan), lists([], ["pod-0001"]));
    assert_eq!(world("FailFast").counts(), (0, 0, 2, 4), "what was stopped has failed");
    let condition = world("FailFast").status().conditions.unwrap().remove(0);
    assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("Failed", Some("Failed")));
    let said = "failure policy is FailurePolicyTypeFailFast and failed pod is found";
    assert_eq!(condition.message.as_deref(), Some(said));
    let told = format!("{said}: 0 pods succeeded, 2 pods failed");
    assert_eq!(world("FailFast").event(), Some(("failed pod is found", told)));
}

#[test]
fn a_job_does_not_fail_because_a_pod_was_stopped_to_leave_its_node() {
    let mut stopped = going();
    merge(&mut stopped, phase("Failed"));
    let world =
        World::new(json!({"failurePolicy": {"type": "FailFast"}}), 2).pod("n0", stopped).pod("n1", json!({}));
    assert_eq!(world.plan().ending, None);
    assert_eq!(world.counts(), (1, 0, 0, 2));
    assert_eq!(steps(&world.plan()), lists([], []), "its node waits until it is gone");
}

#[test]
fn the_pod_that_crash_loops_is_deleted_too_when_the_job_fails() {
    let world = World::new(json!({"failurePolicy": {"type": "FailFast", "restartLimit": 3}}), 3)
        .pod("n0", restarts(3))
        .pod("n1", json!({}));
    assert_eq!(world.counts(), (2, 0, 0, 3), "three restarts are allowed");
    let world = world.pod("n2", restarts(4));
    assert_eq!(world.plan().ending, Some(Ending::FailedPod));
    assert_eq!(steps(&world.plan()).1, ["pod-0000", "pod-0001", "pod-0002"]);
    assert_eq!(world.counts(), (0, 0, 3, 3));
}

#[test]
fn restarts_of_all_containers_count_together_and_only_with_on_failure() {
    let many = json!({"status": {"initContainerStatuses": [{"name": "i", "restartCount": 1}],
        "containerStatuses": [{"name": "a", "restartCount": 1}, {"name": "b", "restartCount": 1}]}});
    let world = |limit: i32, extra: Value| {
        World::new(json!({"failurePolicy": {"type": "Continue", "restartLimit": limit}}), 2).pod("n0", extra)
    };
    assert_eq!(world(2, many.clone()).counts(), (0, 0, 1, 2));
    assert_eq!(world(3, many.clone()).counts(), (1, 0, 0, 2));
    let mut never = many;
    never["spec"]["restartPolicy"] = "Never".into();
    assert_eq!(world(0, never).counts(), (1, 0, 0, 2));
}

#[test]
fn a_crash_loop_does_not_keep_a_job_that_goes_on_from_completing() {
    let world = World::new(json!({"failurePolicy": {"type": "Continue"}}), 2)
        .pod("n0", phase("Succeeded"))
        .pod("n1", restarts(1));
    assert_eq!(world.plan().ending, Some(Ending::Completed));
    assert_eq!(steps(&world.plan()), lists([], ["pod-0001"]));
    assert_eq!(world.counts(), (0, 1, 1, 2));
    let told = "Job ops/warm is completed, 1 pods succeeded, 1 pods failed".to_owned();
    assert_eq!(world.event(), Some(("JobComplete", told)));
}

#[test]
fn cordoning_a_node_takes_its_running_pod_and_leaves_one_that_has_ended() {
    let cordoned = json!({"unschedulable": true});
    let world = |extra: Value| {
        World::new(json!({"failurePolicy": {"type": "Continue"}}), 2)
            .pod("n0", extra)
            .pod("n1", json!({}))
            .replace("n0", cordoned.clone())
    };
    assert_eq!(steps(&world(json!({})).plan()), lists([], ["pod-0000"]));
    assert_eq!(world(json!({})).counts().3, 1);
    assert_eq!(world(going()).counts(), (1, 0, 0, 1), "while it goes the node does not come back");
    for (ended, counts) in [("Succeeded", (1, 1, 0, 2)), ("Failed", (1, 0, 1, 2))] {
        let world = world(phase(ended));
        assert_eq!(steps(&world.plan()), lists([], []), "{ended}");
        assert_eq!(world.counts(), counts, "{ended}");
    }
    // Nor is it run again once the node is back.
    let back = world(phase("Succeeded")).replace("n0", json!({}));
    assert_eq!(steps(&back.plan()), lists([], []));
}

#[test]
fn a_label_that_goes_takes_the_pod_and_a_template_that_changes_does_not() {
    let zoned = json!({"spec": {"nodeSelector": {"zone": "a"}}});
    let world = World::new(json!({}), 1).pod("n0", zoned);
    assert_eq!(steps(&world.plan()).1, ["pod-0000"], "its own selector counts");
    let edited = World::new(json!({"templateSpec": {"nodeSelector": {"zone": "b"}}}), 1).pod("n0", json!({}));
    assert_eq!(steps(&edited.plan()), lists([], []));
    assert_eq!(edited.counts(), (1, 0, 0, 1));
}

#[test]
fn a_running_pod_outlives_a_node_that_blinks() {
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let silent = json!({"taints": [{"key": taint, "effect": "NoSchedule"}, {"key": taint, "effect": "NoExecute"}]});
        let world = World::new(json!({}), 2).replace("n0", silent).pod("n1", json!({}));
        assert_eq!(steps(&world.plan()), lists([], []), "no pod is started there");
        let running = world.clone().pod("n0", json!({}));
        assert_eq!(steps(&running.plan()), lists([], []), "{taint}");
        assert_eq!(running.counts(), (2, 0, 0, 2));
        let unbound = world.pod("n0", pinned("n0"));
        assert_eq!(steps(&unbound.plan()).1, ["pod-0001"], "it runs nowhere yet");
    }
}

#[test]
fn a_pod_waits_for_its_node_by_its_affinity_until_the_scheduler_has_bound_it() {
    let world = World::new(json!({}), 2).pod("", pinned("n1"));
    assert_eq!(steps(&world.plan()).0, ["n0"]);
    assert_eq!(world.counts(), (1, 0, 0, 2));
}

#[test]
fn a_full_node_is_told_of_and_its_pod_stays() {
    let mut full = pinned("n0");
    full["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient cpu."}]);
    let world = World::new(json!({}), 1).pod("", full);
    let plan = world.plan();
    assert!(plan.actions.is_empty());
    let [notice @ Notice::NoRoom(_)] = &*plan.notices else { panic!("{plan:?}") };
    assert_eq!(
        notice.message(),
        "Pod pod-0000 waits for room on node n0: 0/1 nodes are available: 1 Insufficient cpu."
    );
}

#[test]
fn two_pods_on_one_node_are_told_of() {
    let world = World::new(json!({}), 1).pod("n0", json!({})).pod("n0", json!({}));
    let plan = world.plan();
    assert_eq!(steps(&plan), lists([], []));
    let [notice @ Notice::Double(_)] = &*plan.notices else { panic!("{plan:?}") };
    assert_eq!(notice.message(), "Duplicated pod pod-0001 found on same node n0");
}

#[test]
fn a_pod_that_never_goes_holds_up_its_own_node_only() {
    let world = World::new(json!({"completionPolicy": {"type": "Never"}}), 3).pod("n0", going());
    assert_eq!(steps(&world.plan()).0, ["n1", "n2"]);
    let always = World::new(json!({}), 2).pod("n0", going()).pod("n1", phase("Succeeded"));
    assert_eq!(always.plan().ending, Some(Ending::Completed), "nor does it keep the job from completing");
}

#[test]
fn a_node_that_is_gone_is_waited_for_no_longer() {
    let waiting = World::new(json!({}), 2).pod("n0", phase("Succeeded")).pod("n1", json!({}));
    assert_eq!(waiting.plan().ending, None);
    let mut gone = waiting;
    gone.0.nodes.pop();
    assert_eq!(gone.plan().ending, Some(Ending::Completed));
}

#[test]
fn a_job_that_goes_on_serves_new_nodes_and_never_completes() {
    let spec = json!({"completionPolicy": {"type": "Never"}, "failurePolicy": {"type": "Continue"}});
    let world = World::new(spec, 3).pod("n0", phase("Succeeded")).pod("n1", phase("Failed"));
    assert_eq!(steps(&world.plan()), lists(["n2"], []), "a failed pod is not made again");
    let done = world.pod("n2", phase("Succeeded"));
    assert_eq!(done.plan(), Plan::rest(Phase::Running, 0));
    let failed = World::new(json!({"completionPolicy": {"type": "Never"}}), 2).pod("n0", phase("Failed"));
    assert_eq!((failed.plan().ending, failed.plan().wake_in), (Some(Ending::FailedPod), None));
    let frozen = failed.over(FAILED, 90);
    assert_eq!(frozen.plan(), Plan::rest(Phase::Failed, 0), "no more pods");
}

#[test]
fn a_job_without_nodes_waits() {
    let world = World::new(json!({}), 0);
    assert_eq!((world.plan(), world.counts().3), (Plan::rest(Phase::Running, 0), 0));
}

#[test]
fn a_paused_job_changes_no_pod_and_knows_its_nodes() {
    let world = World::new(json!({"paused": true}), 2).phase(Phase::New);
    assert_eq!(world.plan(), Plan::rest(Phase::Paused, 0));
    assert_eq!(world.counts(), (0, 0, 0, 2));
    assert_eq!(turn(&world.0, Phase::Paused), None, "the user knows");
    let done = world.clone().pod("n0", phase("Succeeded")).pod("n1", phase("Succeeded"));
    assert_eq!(done.plan().ending, None, "it completes once it is let go");
    let mut resumed = world.phase(Phase::Paused);
    resumed.0.settings.paused = false;
    assert_eq!(steps(&resumed.plan()).0.len(), 2);
    assert_eq!(turn(&resumed.0, Phase::Running), Some(Turn::Continued));
}

#[test]
fn a_failed_pod_pauses_once_and_quietly() {
    let world = World::new(json!({"failurePolicy": {"type": "Pause"}}), 3).pod("n0", phase("Failed"));
    assert_eq!(turn(&world.0, world.plan().phase), Some(Turn::Paused));
    let paused = world.phase(Phase::Paused);
    assert_eq!(turn(&paused.0, paused.plan().phase), None, "not each time it is looked at");
    let mut fixed = paused.clone();
    fixed.0.pods.clear();
    assert_eq!(fixed.plan().phase, Phase::Running, "no failed pod is left");
    assert_eq!(turn(&fixed.0, Phase::Running), Some(Turn::Continued));
}

#[test]
fn pausing_and_resuming_by_hand_goes_on_in_spite_of_the_pods_that_failed() {
    let world = World::new(json!({"failurePolicy": {"type": "Pause"}}), 4).pod("n0", phase("Failed"));
    let mut held = world.phase(Phase::Paused);
    held.0.settings.paused = true;
    held.0.status = held.status();
    assert_eq!(held.0.status.acknowledged_failed, Some(1));
    held.0.settings.paused = false;
    assert_eq!(steps(&held.plan()).0, ["n1", "n2", "n3"]);
    held.0.status = held.status();
    let again = held.phase(Phase::Running).pod("n1", phase("Failed"));
    assert_eq!(again.plan().phase, Phase::Paused, "another failure pauses it again");
    let mut mended = again;
    mended.0.pods.clear();
    assert_eq!(mended.status().acknowledged_failed, None, "what is gone is not remembered");
}

#[test]
fn a_job_that_takes_too_long_fails_whenever_the_manager_looks() {
    let world = |deadline: i64| {
        World::new(json!({"completionPolicy": {"activeDeadlineSeconds": deadline}}), 2)
            .pod("n0", json!({}))
            .pod("n1", phase("Succeeded"))
    };
    assert_eq!(world(130).plan().wake_in, Some(Duration::from_secs(30)), "in every round");
    for deadline in [100, 99, 0, -1] {
        let plan = world(deadline).plan();
        assert_eq!((plan.ending, steps(&plan).1), (Some(Ending::Overdue), vec!["pod-0000".to_owned()]));
    }
    let told = "Job ops/warm was active longer than specified deadline";
    assert_eq!(
        world(10).event(),
        Some(("DeadlineExceeded", format!("{told}: 1 pods succeeded, 1 pods failed")))
    );
    assert_eq!(world(10).status().conditions.unwrap()[0].message.as_deref(), Some(told));
    let mut paused = world(10);
    paused.0.settings.paused = true;
    assert_eq!(paused.plan().ending, None, "not while it is paused");
}

#[test]
fn a_job_that_is_over_is_left_alone_until_its_time_has_come() {
    let with_ttl = |ttl: Value| {
        World::new(json!({"completionPolicy": {"ttlSecondsAfterFinished": ttl}}), 2).over(COMPLETE, 80)
    };
    assert_eq!(with_ttl(Value::Null).plan(), Plan::rest(Phase::Completed, 0));
    let waiting = Plan { wake_in: Some(Duration::from_secs(10)), ..Plan::rest(Phase::Completed, 0) };
    assert_eq!(with_ttl(json!(30)).plan(), waiting);
    assert_eq!(with_ttl(json!(20)).plan().actions, [Action::DeleteJob]);
    assert_eq!(with_ttl(json!(0)).plan().actions, [Action::DeleteJob]);
    let world = with_ttl(json!(30)).pod("n0", json!({}));
    assert_eq!(steps(&world.plan()).1, ["pod-0000"], "after a crash between the end and the deletion");
    assert_eq!(world.status(), world.0.status, "the numbers stay");
}

#[test]
fn a_completed_job_serves_again_once_it_is_never_to_complete() {
    let mut world = World::new(json!({}), 2).pod("n0", phase("Succeeded")).over(COMPLETE, 80);
    assert!(world.plan().actions.is_empty());
    world.0.settings.completion = Completion::Never;
    assert_eq!((world.plan().phase, steps(&world.plan()).0), (Phase::Running, vec!["n1".to_owned()]));
    assert_eq!(turn(&world.0, Phase::Running), None, "it was not paused");
}

#[test]
fn a_job_that_is_being_deleted_is_left_to_the_garbage_collector() {
    let mut world = World::new(json!({}), 2).pod("n0", json!({}));
    world.0.terminating = true;
    assert!(world.plan().actions.is_empty());
    assert_eq!(world.status(), world.0.status);
}

fn any_pod() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(phase("Succeeded")),
        Just(phase("Failed")),
        Just(going()),
        Just(restarts(5)),
        Just(json!({"spec": {"nodeSelector": {"zone": "z"}}})),
    ]
}

fn any_node() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => Just(json!({})),
        1 => Just(json!({"unschedulable": true})),
        1 => Just(json!({"labels": {"zone": "z"}})),
        1 => Just(json!({"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]})),
    ]
}

fn any_world() -> impl Strategy<Value = World> {
    let policy = prop_oneof![Just("Continue"), Just("FailFast"), Just("Pause")];
    let completion = prop_oneof![Just("Always"), Just("Never")];
    let nodes = prop::collection::vec((any_node(), prop::option::of(any_pod())), 0..12);
    (policy, completion, 0..6_i32, any::<bool>(), nodes).prop_map(
        |(policy, completion, limit, paused, nodes)| {
            let spec = json!({"failurePolicy": {"type": policy}, "completionPolicy": {"type": completion},
            "parallelism": limit, "paused": paused});
            let mut world = World::new(spec, nodes.len());
            for (number, (node, pod)) in nodes.into_iter().enumerate() {
                let name = format!("n{number}");
                world = world.replace(&name, node);
                if let Some(pod) = pod {
                    world = world.pod(&name, pod);
                }
            }
            world
        },
    )
}

proptest! {
    #[test]
    fn a_plan_keeps_its_promises(world in any_world()) {
        let (seen, plan) = (&world.0, world.plan());
        let census = Census::of(seen);
        let (created, deleted) = steps(&plan);
        let taken: Vec<_> = seen.pods.iter().filter_map(|pod| pod.node_or_pin()).map(ToString::to_string).collect();
        for node in &created {
            prop_assert!(!taken.contains(node), "{node} has a pod");
            let view = seen.nodes.iter().find(|known| **known.name() == **node).unwrap();
            prop_assert!(seen.placement.fits(node, &view.facts));
        }
        for name in &deleted {
            let pod = seen.pods.iter().find(|pod| pod.name() == name).unwrap();
            prop_assert!(!pod.has_ended() && pod.deleted.is_none(), "{name} has ended or goes already");
        }
        prop_assert!(created.is_empty() || census.active - deleted.len() + created.len() <= seen.settings.limit(census.desired));
        if seen.settings.paused || plan.phase == Phase::Paused {
            prop_assert!(plan.actions.is_empty() && plan.ending.is_none());
        }
        if plan.ending.is_some() {
            prop_assert!(created.is_empty());
            prop_assert_eq!(deleted.len(), census.running.len(), "nothing is left running");
        }
        let mut shuffled = world.clone();
        shuffled.0.pods.reverse();
        let (a, b) = (steps(&shuffled.plan()), steps(&plan));
        let sorted = |mut list: Vec<String>| { list.sort(); list };
        prop_assert_eq!((a.0, sorted(a.1)), (b.0, sorted(b.1)), "depends on the order of pods");
    }

    #[test]
    fn numbers_add_up(world in any_world()) {
        let (active, succeeded, failed, desired) = world.counts();
        let plan = world.plan();
        let pods = i32::try_from(world.0.pods.iter().filter(|pod| pod.deleted.is_none()).count()).unwrap();
        prop_assert!(desired <= i32::try_from(world.0.nodes.len()).unwrap());
        prop_assert!(active + succeeded + failed <= pods, "{active} {succeeded} {failed} of {pods}");
        if plan.ending == Some(Ending::Completed) {
            prop_assert_eq!(active, 0);
            prop_assert!(desired > 0);
        }
    }

    /// Rounds that follow one another come to rest: pods that run end, pods that go are gone.
    #[test]
    fn a_job_comes_to_rest(world in any_world()) {
        let mut world = world;
        let mut rest = false;
        for _ in 0..60 {
            let plan = world.plan();
            let status = world.status();
            let quiet = plan.actions.is_empty() && status == world.0.status;
            world.0.phase = plan.phase;
            world.0.status = status;
            world.0.pods.retain(|pod| pod.deleted.is_none() || pod.has_ended());
            let (created, deleted) = steps(&plan);
            world.0.pods.retain(|pod| !deleted.iter().any(|name| name == pod.name()));
            let ends: Vec<_> = world.0.pods.iter().map(|pod| {
                let mut pod = PodView::clone(pod);
                pod.phase = if pod.has_ended() { pod.phase } else { kruise_common::pod::Phase::Succeeded };
                Arc::new(pod)
            }).collect();
            let ran = world.0.pods.iter().any(|pod| !pod.has_ended());
            world.0.pods = ends;
            for node in created {
                let name = format!("new-{node}");
                world.0.pods.push(pod(&name, &node, json!({})));
            }
            if quiet && !ran {
                rest = true;
                break;
            }
        }
        prop_assert!(rest, "{world:?}");
    }
}
