//! Whole lives of pods on a node, with time as an argument.
#![expect(clippy::needless_pass_by_value, reason = "json! literals read best as arguments")]

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Timings;
use super::container::{Host, Moment, Note};
use super::images::Registry;
use super::kubelet::{Place, PodRun};
use super::scheduler::Cluster;
use super::status::{self, Since};
use super::wire::{NodeView, PodView};

const SECOND: Duration = Duration::from_secs(1);

/// One pod on one node, and the time.
struct Scene {
    pod: PodView,
    run: PodRun,
    since: Since,
    place: Place,
    registry: Registry,
    timings: Timings,
    images: BTreeSet<String>,
    notes: Vec<Note>,
    now: Moment,
    wake: Option<Instant>,
}

impl Scene {
    fn new(pod: Value, timings: Timings) -> Self {
        let pod: PodView = serde_json::from_value(pod).unwrap();
        let now = Moment { at: Instant::now(), wall: "2026-01-01T00:00:00Z".parse().unwrap() };
        let place = Place { ip: "10.0.0.1".into(), host_ip: "192.168.0.1".into(), too_big: None };
        let run = PodRun::new(&pod, &place, now);
        let registry = Registry { pull: timings.pull, ..Default::default() };
        let (images, notes) = (BTreeSet::new(), Vec::new());
        let mut scene =
            Self { pod, run, since: Since::new(), place, registry, timings, images, notes, now, wake: None };
        scene.step();
        scene
    }

    fn step(&mut self) -> Value {
        let mut host = Host {
            registry: &self.registry,
            timings: &self.timings,
            images: &mut self.images,
            notes: &mut self.notes,
            seed: 0,
        };
        self.wake = self.run.step(&self.pod, &self.place, &mut host, self.now);
        let status = status::status(&self.pod, &self.run, &mut self.since, self.now);
        // As after the round trip through the server.
        self.pod.status.phase = status["phase"].as_str().map(str::to_owned);
        status
    }

    /// Lets time pass, stopping wherever something is due.
    fn after(&mut self, time: Duration) -> Value {
        let until = self.now.at + time;
        while let Some(wake) = self.wake.filter(|wake| *wake <= until) {
            self.go_to(wake);
            self.step();
        }
        self.go_to(until);
        self.step()
    }

    fn go_to(&mut self, at: Instant) {
        let passed = SignedDuration::try_from(at - self.now.at).unwrap();
        self.now = Moment { at, wall: self.now.wall.checked_add(passed).unwrap() };
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.notes.iter().map(|note| note.reason).collect()
    }
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "default", "uid": "u1", "generation": 1}, "spec": spec})
}

fn condition<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == name).unwrap()
}

fn slow() -> Timings {
    Timings { pull: 5 * SECOND, start: SECOND, ready: 2 * SECOND, stop: 3 * SECOND, ..Timings::default() }
}

#[test]
fn without_delays_the_first_status_is_the_last_one() {
    let mut scene =
        Scene::new(pod(json!({"containers": [{"name": "a", "image": "nginx:1"}]})), Timings::default());
    let status = scene.step();
    assert_eq!(status["phase"], "Running");
    assert_eq!(condition(&status, "Ready")["status"], "True");
    assert_eq!(status["containerStatuses"][0]["image"], "docker.io/library/nginx:1");
    assert_eq!(scene.reasons(), ["Pulling", "Pulled", "Created", "Started"]);
    assert_eq!(scene.wake, None, "nothing is left to do");
}

#[test]
fn pull_start_and_readiness_take_their_time() {
    let mut scene = Scene::new(pod(json!({"containers": [{"name": "a", "image": "nginx:1"}]})), slow());
    let status = scene.after(5 * SECOND);
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
    assert_eq!(status["phase"], "Pending");
    let status = scene.after(SECOND);
    assert_eq!(status["phase"], "Running");
    assert_eq!(condition(&status, "Ready")["message"], "containers with unready status: [a]");
    let status = scene.after(2 * SECOND);
    assert_eq!(condition(&status, "Ready")["status"], "True");
    assert_eq!(condition(&status, "Ready")["lastTransitionTime"], "2026-01-01T00:00:08Z");
    assert_eq!(condition(&status, "PodReadyToStartContainers")["lastTransitionTime"], "2026-01-01T00:00:00Z");
}

#[test]
fn init_containers_run_one_after_another_and_sidecars_stay() {
    let spec = json!({
        "initContainers": [
            {"name": "first", "image": "i", "command": ["sleep", "2"]},
            {"name": "sidecar", "image": "i", "restartPolicy": "Always"},
            {"name": "second", "image": "i", "command": ["sleep", "3"]},
        ],
        "containers": [{"name": "a", "image": "nginx:1"}],
    });
    let mut scene = Scene::new(pod(spec), Timings::default());
    let status = scene.after(SECOND);
    assert_eq!(status["initContainerStatuses"][1]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(
        condition(&status, "Initialized")["message"],
        "containers with incomplete status: [first sidecar second]"
    );
    let status = scene.after(2 * SECOND);
    assert!(status["initContainerStatuses"][1]["state"]["running"].is_object());
    assert_eq!(status["phase"], "Pending");
    let status = scene.after(2 * SECOND);
    assert_eq!(status["phase"], "Running");
    assert_eq!(condition(&status, "Initialized")["status"], "True");
    assert_eq!(condition(&status, "Ready")["status"], "True");
}

#[test]
fn a_failing_init_container_fails_a_pod_that_never_restarts() {
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "init", "image": "i", "command": ["false"]}],
        "containers": [{"name": "a", "image": "nginx:1"}],
    });
    let status = Scene::new(pod(spec), Timings::default()).step();
    assert_eq!(status["phase"], "Failed");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
}

#[test]
fn a_crashing_container_restarts_at_once_and_then_ever_later() {
    let spec =
        json!({"containers": [{"name": "a", "image": "i", "command": ["sh", "-c", "sleep 1; exit 3"]}]});
    let mut scene = Scene::new(pod(spec), Timings::default());
    let status = scene.after(Duration::from_millis(1500));
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1, "the first restart does not wait");
    let status = scene.after(SECOND);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(
        container["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=a pod=web_default(u1)"
    );
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(condition(&status, "Ready")["status"], "False");
    let status = scene.after(10 * SECOND);
    assert_eq!(status["containerStatuses"][0]["restartCount"], 2);
    let status = scene.after(2 * SECOND);
    let message = &status["containerStatuses"][0]["state"]["waiting"]["message"];
    assert_eq!(message, "back-off 20s restarting failed container=a pod=web_default(u1)");
    let status = scene.after(20 * SECOND);
    assert_eq!(status["containerStatuses"][0]["restartCount"], 3);
}

#[test]
fn pods_that_run_to_completion_end_as_their_policy_says() {
    for (policy, script, phase, restarts) in [
        ("Never", "sleep 1; exit 0", "Succeeded", 0),
        ("Never", "sleep 1; exit 1", "Failed", 0),
        ("OnFailure", "sleep 1; exit 0", "Succeeded", 0),
        ("OnFailure", "sleep 1; exit 1", "Running", 1),
        ("Always", "sleep 1; exit 0", "Running", 1),
    ] {
        let spec = json!({
            "restartPolicy": policy,
            "containers": [{"name": "a", "image": "i", "command": ["sh", "-c", script]}],
        });
        let status = Scene::new(pod(spec), Timings::default()).after(Duration::from_millis(1500));
        assert_eq!(status["phase"], phase, "{policy} {script}");
        assert_eq!(status["containerStatuses"][0]["restartCount"], restarts, "{policy} {script}");
    }
}

#[test]
fn a_failed_pull_backs_off_and_is_tried_again() {
    let spec = json!({"containers": [{"name": "a", "image": "bad:1"}]});
    let mut scene = Scene::new(pod(spec), Timings { pull: SECOND, ..Timings::default() });
    scene.registry.failures.push(("bad:*".into(), "not found".into()));
    let status = scene.after(SECOND);
    let waiting = |status: &Value| status["containerStatuses"][0]["state"]["waiting"].clone();
    assert_eq!(waiting(&status), json!({"reason": "ErrImagePull", "message": "not found"}));
    let status = scene.after(3 * SECOND);
    let message = "Back-off pulling image \"bad:1\": ErrImagePull: not found";
    assert_eq!(waiting(&status), json!({"reason": "ImagePullBackOff", "message": message}));
    scene.registry.failures.clear();
    let status = scene.after(10 * SECOND);
    assert_eq!(status["phase"], "Running");
    let expected =
        ["Pulling", "Failed", "Failed", "BackOff", "Failed", "Pulling", "Pulled", "Created", "Started"];
    assert_eq!(scene.reasons(), expected);
}

#[test]
fn a_new_image_restarts_the_container_in_place() {
    let spec = json!({"containers": [{"name": "a", "image": "app:1"}, {"name": "b", "image": "side:1"}]});
    let mut scene = Scene::new(pod(spec), slow());
    let before = scene.after(20 * SECOND);
    scene.pod.spec.containers[0].image = "app:2".into();
    scene.pod.metadata.generation = Some(2);
    let status = scene.after(SECOND);
    assert_eq!(status["containerStatuses"][0]["imageID"], before["containerStatuses"][0]["imageID"]);
    assert!(
        scene.notes.iter().any(|note| note.message == "Container a definition changed, will be restarted")
    );
    let status = scene.after(3 * SECOND);
    assert!(
        status["containerStatuses"][0]["state"]["terminated"].is_object(),
        "the new image is being pulled"
    );
    assert_eq!(condition(&status, "Ready")["status"], "False");
    let status = scene.after(20 * SECOND);
    let container = &status["containerStatuses"][0];
    assert_ne!(container["imageID"], before["containerStatuses"][0]["imageID"]);
    assert_eq!(container["restartCount"], 1);
    assert!(container["lastState"]["terminated"].is_object());
    assert_eq!(status["containerStatuses"][1], before["containerStatuses"][1], "the other container runs on");
    assert_eq!((&status["podIP"], &status["observedGeneration"]), (&before["podIP"], &json!(2)));
    assert_eq!(condition(&status, "Ready")["status"], "True");
}

#[test]
fn a_deleted_pod_stops_within_its_grace_period() {
    let spec = json!({"containers": [{"name": "a", "image": "app:1"}]});
    for (grace, lasts, code) in [(30, 3, 0), (1, 1, 137)] {
        let mut scene = Scene::new(pod(spec.clone()), slow());
        scene.after(20 * SECOND);
        scene.pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        scene.pod.metadata.deletion_grace_period_seconds = Some(grace);
        let status = scene.step();
        assert!(!scene.run.stopped());
        assert!(status["containerStatuses"][0]["state"]["running"].is_object());
        let status = scene.after(lasts * SECOND);
        assert!(scene.run.stopped());
        assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], code);
        assert_eq!(condition(&status, "Ready")["status"], "False");
    }
}

#[test]
fn readiness_gates_hold_ready_back_and_nothing_else() {
    let spec = json!({
        "readinessGates": [{"conditionType": "example.com/gate"}],
        "containers": [{"name": "a", "image": "app:1"}],
    });
    let mut scene = Scene::new(pod(spec), Timings::default());
    let status = scene.step();
    assert_eq!(condition(&status, "ContainersReady")["status"], "True");
    assert_eq!(condition(&status, "Ready")["reason"], "ReadinessGatesNotReady");
    let gate = json!({"type": "example.com/gate", "status": "True"});
    scene.pod.status.conditions.push(serde_json::from_value(gate).unwrap());
    assert_eq!(condition(&scene.step(), "Ready")["status"], "True");
}

#[test]
fn a_resize_is_applied_in_place_unless_the_policy_wants_a_restart() {
    for (policy, restarts) in [("NotRequired", 0), ("RestartContainer", 1)] {
        let resize = json!([{"resourceName": "cpu", "restartPolicy": policy}]);
        let container = json!({"name": "a", "image": "i", "resources": {"requests": {"cpu": "1"}}, "resizePolicy": resize});
        let mut scene = Scene::new(pod(json!({"containers": [container]})), Timings::default());
        let wanted = json!({"requests": {"cpu": "2"}});
        scene.pod.spec.containers[0].resources = serde_json::from_value(wanted.clone()).unwrap();
        scene.place.too_big = Some(("Infeasible", "too big".into()));
        let status = scene.step();
        assert_eq!(condition(&status, "PodResizePending")["reason"], "Infeasible");
        assert_eq!(status["containerStatuses"][0]["resources"]["requests"]["cpu"], "1");
        scene.place.too_big = None;
        let status = scene.step();
        assert_eq!(status["containerStatuses"][0]["resources"], wanted);
        assert_eq!(status["containerStatuses"][0]["allocatedResources"], wanted["requests"]);
        assert_eq!(status["containerStatuses"][0]["restartCount"], restarts);
    }
}

#[test]
fn an_active_deadline_fails_the_pod() {
    let spec = json!({"activeDeadlineSeconds": 5, "containers": [{"name": "a", "image": "i"}]});
    let status = Scene::new(pod(spec), Timings::default()).after(6 * SECOND);
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("DeadlineExceeded")));
}

#[test]
fn a_running_pod_is_taken_over_without_a_restart() {
    let spec = json!({"containers": [{"name": "a", "image": "app:1"}]});
    let mut first = Scene::new(pod(spec.clone()), slow());
    let before = first.after(20 * SECOND);
    let mut known = pod(spec);
    known["status"] = before.clone();
    let mut second = Scene::new(known, slow());
    second.since = status::since(&second.pod);
    assert_eq!(second.step(), before);
}

fn node(name: &str, changes: Value) -> NodeView {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}},
    });
    json_patch::merge(&mut node, &changes);
    serde_json::from_value(node).unwrap()
}

fn nothing<'a>(_: &super::wire::PodKey) -> Option<&'a PodView> {
    None
}

fn sized(name: &str, cpu: &str, extra: Value) -> PodView {
    let mut body =
        pod(json!({"containers": [{"name": "a", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}));
    body["metadata"]["name"] = name.into();
    json_patch::merge(&mut body, &extra);
    serde_json::from_value(body).unwrap()
}

#[test]
fn pods_spread_over_the_emptiest_nodes_and_capacity_is_kept() {
    let mut cluster = Cluster::default();
    cluster.set_node(node("n1", json!({})));
    cluster.set_node(node("n2", json!({})));
    let mut chosen = Vec::new();
    for number in 0..4 {
        let pod = sized(&format!("p{number}"), "1", json!({}));
        let name = cluster.choose(&pod, &nothing).unwrap();
        cluster.place(&pod, &name);
        chosen.push(name);
    }
    assert_eq!(chosen, ["n1", "n2", "n1", "n2"]);
    let message = cluster.choose(&sized("p5", "1", json!({})), &nothing).unwrap_err();
    assert!(message.starts_with("0/2 nodes are available: 2 Insufficient cpu. "), "{message}");
    assert!(cluster.remove(&("default".into(), "p1".into())));
    assert_eq!(cluster.choose(&sized("p5", "1", json!({})), &nothing), Ok("n2".into()));
}

#[test]
fn selectors_taints_and_cordons_keep_pods_off() {
    let taint = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    let affinity = |operator: &str, values: Value| {
        let term = json!({"matchExpressions": [{"key": "size", "operator": operator, "values": values}]});
        json!({"spec": {"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}})
    };
    let sized_node = json!({"metadata": {"labels": {"size": "5"}}});
    let rows = [
        (taint.clone(), json!({}), Err("node(s) had untolerated taint(s)")),
        (taint, json!({"spec": {"tolerations": [{"key": "k", "value": "v"}]}}), Ok(())),
        (json!({"spec": {"unschedulable": true}}), json!({}), Err("node(s) were unschedulable")),
        (
            json!({}),
            json!({"spec": {"nodeSelector": {"a": "b"}}}),
            Err("didn't match Pod's node affinity/selector"),
        ),
        (sized_node.clone(), affinity("Gt", json!(["4"])), Ok(())),
        (sized_node.clone(), affinity("Lt", json!(["4"])), Err("affinity/selector")),
        (sized_node.clone(), affinity("In", json!(["4", "5"])), Ok(())),
        (sized_node, affinity("NotIn", json!(["5"])), Err("affinity/selector")),
        (json!({}), affinity("DoesNotExist", json!(null)), Ok(())),
        (json!({}), affinity("Exists", json!(null)), Err("affinity/selector")),
    ];
    for (node_changes, pod_changes, expected) in rows {
        let mut cluster = Cluster::default();
        cluster.set_node(node("n1", node_changes.clone()));
        let found = cluster.choose(&sized("p", "1", pod_changes.clone()), &nothing);
        match expected {
            Ok(()) => assert_eq!(found, Ok("n1".into()), "{node_changes} {pod_changes}"),
            Err(text) => assert!(found.clone().is_err_and(|m| m.contains(text)), "{found:?} {pod_changes}"),
        }
    }
}

#[test]
fn anti_affinity_works_in_both_directions() {
    let term =
        json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}});
    let shy = json!({"spec": {"affinity": {"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [term]}}}});
    let labelled = json!({"metadata": {"labels": {"app": "web"}}});
    for (there, new) in [(&shy, &labelled), (&labelled, &shy)] {
        let mut cluster = Cluster::default();
        cluster.set_node(node("n1", json!({})));
        cluster.set_node(node("n2", json!({})));
        let first = sized("first", "0", there.clone());
        cluster.place(&first, "n1");
        // n2 is fuller, so that only anti-affinity can lead there.
        cluster.place(&sized("x", "0", json!({})), "n2");
        cluster.place(&sized("y", "0", json!({})), "n2");
        let others = [sized("x", "0", json!({})), sized("y", "0", json!({}))];
        let find = |key: &super::wire::PodKey| {
            [&first, &others[0], &others[1]].into_iter().find(|pod| pod.key() == *key)
        };
        assert_eq!(cluster.choose(&sized("new", "0", new.clone()), &find), Ok("n2".into()));
    }
}
