use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::pod::{ConditionView, ContainerStatusView, ContainerView, EnvFromMetadata, Phase, ResourcesView};
use crate::revision::data_of;
use crate::texts::Texts;

const ALL: InPlaceOptions = InPlaceOptions {
    env_from_metadata: true,
    vertical_scaling: true,
    ignore_vct: false,
    compare_vct: true,
    resize_in_pod: false,
};

fn now() -> Timestamp {
    at(0)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn revision(name: &str, template: &Value) -> Revision {
    Revision::of(
        serde_json::from_value(json!({"metadata": {"name": name}, "revision": 1, "data": data_of(template)}))
            .unwrap(),
    )
    .unwrap()
}

fn two(a: &str, b: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "a", "image": a}, {"name": "b", "image": b}]}})
}

fn with_env(annotation: &str) -> Value {
    let env =
        json!([{"name": "CFG", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['cfg']"}}}]);
    json!({"metadata": {"annotations": {"cfg": annotation}},
        "spec": {"containers": [{"name": "a", "image": "x:1", "env": env}, {"name": "b", "image": "x:1", "env": env}]}})
}

fn sized(limits: &Value, requests: &Value, policy: &str) -> Value {
    json!({"spec": {"containers": [{"name": "a", "image": "x:1",
        "resources": {"limits": limits, "requests": requests},
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": policy}]}]}})
}

/// A running pod of containers a and b at these images and launch priorities.
fn pod(a: (&str, Option<i32>), b: (&str, Option<i32>)) -> PodView {
    let container = |name: &str, (image, launch_priority): (&str, Option<i32>)| ContainerView {
        name: name.into(),
        image: image.into(),
        launch_priority,
        ..ContainerView::default()
    };
    let status = |name: &str, image: &str| ContainerStatusView {
        name: name.into(),
        image: image.into(),
        image_id: format!("id-{image}").into(),
        container_id: format!("c-{name}").into(),
        ready: true,
        ..ContainerStatusView::default()
    };
    let condition = |kind: &str| ConditionView::new(kind, "True", None);
    PodView {
        uid: "u1".into(),
        resource_version: "7".into(),
        phase: Phase::Running,
        labels: [(keys::CONTROLLER_REVISION_HASH.into(), "web-1".into())].into(),
        readiness_gates: [keys::INPLACE_UPDATE_READY.into()].into(),
        conditions: ["Ready", "ContainersReady", keys::INPLACE_UPDATE_READY].map(condition).into(),
        containers: [container("a", a), container("b", b)].into(),
        statuses: [status("a", a.0), status("b", b.0)].into(),
        ..PodView::default()
    }
}

fn labels(revision: &str) -> Vec<(String, String)> {
    vec![
        (keys::CONTROLLER_REVISION_HASH.into(), revision.into()),
        (keys::LIFECYCLE_STATE.into(), "Updating".into()),
    ]
}

/// What the API server makes of a patch.
fn patched(pod: &PodView, patch: &PodPatch) -> PodView {
    assert_eq!(patch.metadata.uid.as_deref(), Some(&*pod.uid.0));
    let mut pod = pod.clone();
    let put = |map: &mut Texts, changes: &BTreeMap<String, Option<String>>| {
        for (key, value) in changes {
            match value {
                Some(value) => map.insert(key.as_str().into(), value.as_str().into()),
                None => map.remove(key.as_str()),
            };
        }
    };
    put(&mut pod.labels, &patch.metadata.labels);
    put(&mut pod.annotations, &patch.metadata.annotations);
    for change in patch.spec.iter().flat_map(|spec| &spec.containers) {
        let containers = Arc::make_mut(&mut pod.containers);
        let container = containers.iter_mut().find(|container| *container.name == *change.name).unwrap();
        if let Some(image) = &change.image {
            container.image = image.as_str().into();
        }
    }
    for condition in patch.status.iter().flat_map(|status| &status.conditions) {
        let old = pod.conditions.iter_mut().find(|old| *old.kind == *condition.kind).unwrap();
        let text = Arc::make_mut(&mut old.text);
        text.status = condition.status.as_str().into();
        text.reason = condition.reason.as_str().into();
    }
    pod
}

/// What kubelet makes of it: every container runs its image.
fn settled(pod: &PodView) -> PodView {
    let mut pod = pod.clone();
    for (status, container) in pod.statuses.iter_mut().zip(&*pod.containers) {
        status.image = Arc::clone(&container.image);
        status.image_id = format!("id-{}", container.image).into();
    }
    pod
}

fn begin(pod: &PodView, old: &Value, new: &Value, grace: i64) -> (PodView, Started) {
    let target = revision("web-2", new);
    let mut spec = diff(&revision("web-1", old), &target, ALL).unwrap();
    spec.grace_seconds = grace;
    let started = start(pod, &spec, &target, &labels("web-2"), now());
    let mut pod = pod.clone();
    if let Some(unready) = &started.unready {
        pod = patched(&pod, unready);
    }
    (patched(&pod, &started.pod), started)
}

fn look(pod: &PodView, seconds: i64) -> Refresh {
    refresh(pod, keys::CONTROLLER_REVISION_HASH, at(seconds))
}

fn state(pod: &PodView) -> State {
    State::of(pod).unwrap().unwrap()
}

fn image<'a>(pod: &'a PodView, name: &str) -> &'a str {
    &pod.containers.iter().find(|container| &*container.name == name).unwrap().image
}

#[test]
fn images_of_two_containers_change_in_one_write_and_one_batch() {
    let before = pod(("x:1", None), ("y:1", None));
    let (after, started) = begin(&before, &two("x:1", "y:1"), &two("x:2", "y:2"), 0);
    assert_eq!((image(&after, "a"), image(&after, "b")), ("x:2", "y:2"));
    let state = state(&after);
    assert_eq!(state.container_batches_record.len(), 1);
    assert_eq!(state.container_batches_record[0].containers, ["a", "b"]);
    assert_eq!(state.last_container_statuses.unwrap()["a"].image_id, "id-x:1");
    assert_eq!(after.label(keys::CONTROLLER_REVISION_HASH), Some("web-2"));
    assert_eq!(after.condition(keys::INPLACE_UPDATE_READY).unwrap().reason.as_ref(), "StartInPlaceUpdate");
    assert!(!after.is_ready());
    assert_eq!(started.requeue_after, None);
    assert!(!is_complete(&after));
    assert_eq!(look(&after, 1), Refresh::Nothing);
    assert_eq!(look(&settled(&after), 1), Refresh::BecomeReady);
}

#[test]
fn the_container_of_highest_launch_priority_changes_first() {
    let before = pod(("x:1", Some(0)), ("y:1", Some(10)));
    let (after, _) = begin(&before, &two("x:1", "y:1"), &two("x:2", "y:2"), 0);
    assert_eq!((image(&after, "a"), image(&after, "b")), ("x:1", "y:2"));
    assert_eq!(state(&after).next_container_images["a"], "x:2");
    assert_eq!(state(&after).pre_check_before_next.unwrap().containers_required_ready, ["b"]);
    let mut unready = settled(&after);
    unready.statuses[1].ready = false;
    assert_eq!(look(&unready, 1), Refresh::Nothing);
    let Refresh::Patch(patch) = look(&settled(&after), 1) else { unreachable!() };
    let last = patched(&settled(&after), &patch);
    assert_eq!(image(&last, "a"), "x:2");
    assert!(!state(&last).has_next());
    assert_eq!(state(&last).container_batches_record.len(), 2);
    assert_eq!(look(&settled(&last), 2), Refresh::BecomeReady);
    assert!(is_complete(&settled(&last)));
}

#[test]
fn containers_that_share_an_annotation_change_together() {
    let before = pod(("x:1", Some(0)), ("x:1", Some(10)));
    let (after, _) = begin(&before, &with_env("v1"), &with_env("v2"), 0);
    assert_eq!(after.annotation("cfg"), Some("v2"));
    assert_eq!(state(&after).container_batches_record[0].containers, ["a", "b"]);
    assert!(!state(&after).has_next());
}

#[test]
fn an_annotation_that_env_reads_is_complete_when_the_agent_says_so() {
    let mut before = pod(("x:1", None), ("x:1", None));
    let env = EnvFromMetadata { name: "CFG".into(), label: false, key: "cfg".into() };
    Arc::make_mut(&mut before.containers)[0].env_from_metadata = [env].into();
    let (mut after, started) = begin(&before, &with_env("v0"), &with_env("v1"), 0);
    assert!(started.unready.is_some());
    assert!(!is_complete(&after));
    let report = |hash: u64| {
        json!({"containers": [
            {"name": "a", "containerID": "c-a", "restartCount": 1,
                "hashes": {"plainHash": 1, "extractedEnvFromMetadataHash": hash}},
            {"name": "b", "containerID": "c-b", "restartCount": 0,
                "hashes": {"plainHash": 1, "extractedEnvFromMetadataHash": 86_995_377}}]})
        .to_string()
    };
    after.annotations.insert(keys::RUNTIME_CONTAINERS_META.into(), report(1).into());
    assert!(!is_complete(&after));
    after.annotations.insert(keys::RUNTIME_CONTAINERS_META.into(), report(429_381_897).into());
    assert!(is_complete(&after));
    after.statuses[0].container_id = "c-other".into();
    assert!(!is_complete(&after));
}

#[test]
fn metadata_nobody_reads_changes_without_leaving_service() {
    let with = |labels: Value| json!({"metadata": {"labels": labels}, "spec": two("x", "y")["spec"]});
    let mut before = pod(("x", None), ("y", None));
    before.labels.insert("mine".into(), "kept".into());
    before.labels.insert("old".into(), "1".into());
    let (after, started) = begin(&before, &with(json!({"old": "1"})), &with(json!({"new": "2"})), 0);
    assert_eq!(started.unready, None);
    assert_eq!(after.label("old"), None);
    assert_eq!(after.label("new"), Some("2"));
    assert_eq!(after.label("mine"), Some("kept"));
    assert!(is_complete(&after));
    assert_eq!(look(&after, 1), Refresh::Nothing);
}

#[test]
fn a_removed_annotation_that_env_reads_restarts_too() {
    let mut new = with_env("v1");
    new["metadata"] = json!({});
    let target = revision("web-2", &new);
    let spec = diff(&revision("web-1", &with_env("v1")), &target, ALL).unwrap();
    assert!(spec.update_env_from_metadata);
    assert_eq!(spec.metadata.annotations["cfg"], None);
}

#[test]
fn a_template_gaining_its_first_annotation_is_seen_by_env() {
    let mut old = with_env("v1");
    old["metadata"] = json!({});
    let spec = diff(&revision("web-1", &old), &revision("web-2", &with_env("v1")), ALL).unwrap();
    assert!(spec.update_env_from_metadata);
    assert_eq!(spec.container_ref_metadata["a"].annotations["cfg"], "v1");
    assert!(spec.metadata.is_empty());
}

#[test]
fn cpu_resizes_in_service_and_memory_with_a_restart_does_not() {
    let before = pod(("x:1", None), ("y:1", None));
    let old = sized(&json!({"cpu": "1", "memory": "1Gi"}), &json!({"cpu": "500m"}), "RestartContainer");
    let cpu = sized(&json!({"cpu": "2", "memory": "1Gi"}), &json!({"cpu": "500m"}), "RestartContainer");
    let (after, started) = begin(&before, &old, &cpu, 0);
    assert_eq!(started.unready, None);
    let resize = serde_json::to_value(started.resize.unwrap().spec).unwrap();
    assert_eq!(resize, json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "2"}}}]}));
    assert!(started.pod.spec.is_none());
    assert!(state(&after).update_resources);
    let memory = sized(&json!({"cpu": "1", "memory": "2Gi"}), &json!({"cpu": "500m"}), "RestartContainer");
    assert!(begin(&before, &old, &memory, 0).1.unready.is_some());
}

#[test]
fn without_a_resize_subresource_image_and_resources_of_a_container_go_in_one_write() {
    let before = pod(("x:1", None), ("y:1", None));
    let old = sized(&json!({"cpu": "1"}), &json!({}), "NotRequired");
    let mut new = sized(&json!({"cpu": "2"}), &json!({}), "NotRequired");
    new["spec"]["containers"][0]["image"] = "x:2".into();
    let started = begin(&before, &old, &new, 0).1.resized_in_pod();
    assert_eq!(started.resize, None);
    let spec = serde_json::to_value(started.pod.spec).unwrap();
    let expected =
        json!({"containers": [{"name": "a", "image": "x:2", "resources": {"limits": {"cpu": "2"}}}]});
    assert_eq!(spec, expected);
    let resources = |names: &[&str]| {
        let list: Vec<_> = names
            .iter()
            .map(|name| {
                json!({"name": name, "kind": "Pod", "namespaced": true,
            "singularName": "", "verbs": []})
            })
            .collect();
        serde_json::from_value(json!({"groupVersion": "v1", "resources": list})).unwrap()
    };
    assert!(serves_resize(&resources(&["pods", "pods/resize"])));
    assert!(!serves_resize(&resources(&["pods", "pods/status"])));
}

#[test]
fn finalizers_the_template_loses_leave_the_pod_also_after_a_grace_period() {
    let before = pod(("x:1", None), ("y:1", None));
    let with = |finalizers: &Value| {
        let mut template = two("x:1", "y:1");
        template["metadata"]["finalizers"] = finalizers.clone();
        template
    };
    let (old, new) = (with(&json!(["f.io/old", "f.io/kept"])), with(&json!(["f.io/kept", "f.io/new"])));
    let (_, started) = begin(&before, &old, &new, 0);
    assert_eq!(started.pod.metadata.finalizers, ["f.io/new"]);
    assert_eq!(started.pod.metadata.removed_finalizers, ["f.io/old"]);

    let (waiting, started) = begin(&before, &old, &new, 5);
    assert!(started.pod.metadata.removed_finalizers.is_empty(), "not before the grace period is over");
    let Refresh::Patch(patch) = look(&waiting, 6) else { unreachable!() };
    assert_eq!(patch.metadata.removed_finalizers, ["f.io/old"]);

    // A newer update takes the waiting one's place, and its unfinished work over.
    let newer = revision("web-3", &with(&json!(["f.io/kept"])));
    let spec = diff(&revision("web-2", &new), &newer, ALL).unwrap();
    let started = start(&waiting, &spec, &newer, &[], now());
    assert_eq!(started.pod.metadata.removed_finalizers, ["f.io/new", "f.io/old"]);
}

#[test]
fn a_resize_is_complete_when_the_status_says_the_same_by_value() {
    let mut pod = pod(("x:1", None), ("y:1", None));
    let view = |cpu: &str| {
        Some(Arc::new(ResourcesView {
            limits: [("cpu".into(), cpu.into())].into(),
            ..ResourcesView::default()
        }))
    };
    let state = State { update_resources: true, ..State::default() };
    Arc::make_mut(&mut pod.containers)[0].resources = view("1000m");
    pod.statuses[0].resources = view("500m");
    assert!(!containers_complete(&pod, &state));
    pod.statuses[0].resources = view("1");
    assert!(containers_complete(&pod, &state));
}

#[test]
fn differences_a_running_pod_cannot_take_are_refused_with_their_place() {
    let old = sized(&json!({"cpu": "1"}), &json!({"cpu": "500m"}), "NotRequired");
    let refused =
        |new: &Value, options| diff(&revision("a", &old), &revision("b", new), options).unwrap_err().path;
    let more = sized(&json!({"cpu": "2"}), &json!({"cpu": "500m"}), "NotRequired");
    let off = InPlaceOptions::default();
    assert_eq!(refused(&more, off), "spec.containers[0].resources");
    let fewer = sized(&json!({"cpu": "1"}), &json!({}), "NotRequired");
    assert_eq!(refused(&fewer, ALL), "spec.containers[0].resources.requests");
    let renamed = json!({"spec": {"containers": [{"name": "z", "image": "x:1"}]}});
    assert!(refused(&renamed, ALL).starts_with("spec.containers[0]."));
    assert_eq!(refused(&two("x:1", "y:1"), ALL), "spec.containers");
    let mut env = old.clone();
    env["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "b"}]);
    assert_eq!(refused(&env, ALL), "spec.containers[0].env");
    let mut volumes = old.clone();
    volumes["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    assert_eq!(refused(&volumes, ALL), "spec.volumes");
}

#[test]
fn a_change_of_the_qos_class_asks_for_a_new_pod() {
    let of = |request: &str| {
        sized(&json!({"cpu": "1", "memory": "1Gi"}), &json!({"cpu": request, "memory": "1Gi"}), "NotRequired")
    };
    let refused = diff(&revision("a", &of("500m")), &revision("b", &of("1")), ALL).unwrap_err();
    assert_eq!(refused.to_string(), "spec.containers[*].resources: the QoS class would change");
}

#[test]
fn changed_claims_ask_for_a_new_pod_unless_they_are_ignored() {
    let mut old = revision("a", &two("x:1", "y"));
    let mut new = revision("b", &two("x:2", "y"));
    old.annotations.insert(keys::VOLUME_CLAIM_TEMPLATE_HASH.into(), "1".into());
    assert!(diff(&old, &new, ALL).is_ok());
    new.annotations.insert(keys::VOLUME_CLAIM_TEMPLATE_HASH.into(), "2".into());
    assert_eq!(diff(&old, &new, ALL).unwrap_err().path, "volumeClaimTemplates");
    assert!(diff(&old, &new, InPlaceOptions { ignore_vct: true, ..ALL }).is_ok());
    assert!(diff(&old, &new, InPlaceOptions { compare_vct: false, ..ALL }).is_ok());
}

#[test]
fn images_change_only_after_the_grace_period() {
    let before = pod(("x:1", None), ("y:1", None));
    let (after, started) = begin(&before, &two("x:1", "y:1"), &two("x:2", "y:1"), 5);
    assert_eq!(started.requeue_after, Some(Duration::from_secs(5)));
    assert_eq!(after.label(keys::CONTROLLER_REVISION_HASH), Some("web-2"));
    assert_eq!(image(&after, "a"), "x:1");
    assert!(!after.condition_is_true(keys::INPLACE_UPDATE_READY));
    assert!(!is_complete(&after));
    assert_eq!(look(&after, 2), Refresh::Wait(Duration::from_secs(3)));
    let Refresh::Patch(patch) = look(&after, 5) else { unreachable!() };
    let last = patched(&after, &patch);
    assert_eq!(image(&last, "a"), "x:2");
    assert!(!is_in_grace(&last));
    assert_eq!(look(&settled(&last), 6), Refresh::BecomeReady);
}

#[test]
fn a_revision_label_edited_during_grace_drops_the_plan() {
    let before = pod(("x:1", None), ("y:1", None));
    let (mut after, _) = begin(&before, &two("x:1", "y:1"), &two("x:2", "y:1"), 5);
    after.labels.insert(keys::CONTROLLER_REVISION_HASH.into(), "web-9".into());
    let Refresh::Patch(patch) = look(&after, 1) else { unreachable!() };
    let last = patched(&after, &patch);
    assert!(!is_in_grace(&last));
    assert_eq!(image(&last, "a"), "x:1");
}

#[test]
fn annotations_that_cannot_be_read_are_reported() {
    let before = pod(("x:1", None), ("y:1", None));
    let (mut after, _) = begin(&before, &two("x:1", "y:1"), &two("x:2", "y:1"), 5);
    after.annotations.insert(keys::INPLACE_STATE.into(), "{".into());
    assert!(matches!(look(&after, 9), Refresh::Broken(_)));
    after.annotations.remove(keys::INPLACE_STATE);
    assert!(matches!(look(&after, 9), Refresh::Broken(_)));
    assert!(!is_complete(&after));
}

#[test]
fn a_second_change_before_the_first_is_done_ends_at_the_second() {
    let before = pod(("x:1", None), ("y:1", None));
    let (between, _) = begin(&before, &two("x:1", "y:1"), &two("x:2", "y:1"), 0);
    let (after, _) = begin(&between, &two("x:2", "y:1"), &two("x:3", "y:1"), 0);
    assert_eq!(image(&after, "a"), "x:3");
    let mut first = after.clone();
    first.statuses[0].image = "x:2".into();
    first.statuses[0].image_id = "id-x:2".into();
    assert!(!is_complete(&first), "the first change's image is not the second's");
    assert!(is_complete(&settled(&after)));
}

#[test]
fn a_change_beside_an_unfinished_one_waits_for_both() {
    let before = pod(("x:1", None), ("y:1", None));
    let (between, _) = begin(&before, &two("x:1", "y:1"), &two("x:2", "y:1"), 0);
    let mut new = two("x:2", "y:1");
    new["metadata"]["labels"]["more"] = json!("1");
    let (after, _) = begin(&between, &two("x:2", "y:1"), &new, 0);
    assert!(!is_complete(&after));
    assert!(is_complete(&settled(&after)));
}

#[test]
fn a_container_still_waiting_for_its_batch_ends_at_the_newest_image() {
    let before = pod(("x:1", Some(10)), ("y:1", Some(0)));
    let (between, _) = begin(&before, &two("x:1", "y:1"), &two("x:2", "y:2"), 0);
    assert_eq!(image(&between, "b"), "y:1");
    let (after, _) = begin(&settled(&between), &two("x:2", "y:2"), &two("x:3", "y:2"), 0);
    assert_eq!(state(&after).next_container_images["b"], "y:2");
    let Refresh::Patch(patch) = look(&settled(&after), 1) else { unreachable!() };
    assert_eq!(image(&patched(&settled(&after), &patch), "b"), "y:2");
}

#[test]
fn a_plan_replaced_in_its_grace_period_is_not_lost() {
    let before = pod(("x:1", None), ("y:1", None));
    let (between, _) = begin(&before, &two("x:1", "y:1"), &two("x:2", "y:1"), 5);
    let (after, _) = begin(&between, &two("x:2", "y:1"), &two("x:2", "y:2"), 0);
    assert_eq!((image(&after, "a"), image(&after, "b")), ("x:2", "y:2"));
    assert!(!is_in_grace(&after));
}

#[test]
fn the_same_image_under_a_longer_name_completes() {
    let before = pod(("x:1", None), ("y:1", None));
    let (after, _) = begin(&before, &two("x:1", "y:1"), &two("docker.io/library/x:1", "y:1"), 0);
    assert!(is_complete(&after));
}

#[test]
fn a_batch_with_resources_alone_is_applied() {
    let mut pod = pod(("x:1", None), ("y:1", None));
    let waiting = State {
        revision: "web-1".into(),
        next_container_resources: [("a".to_owned(), json!({"limits": {"cpu": "2"}}))].into(),
        ..State::default()
    };
    pod.annotations.insert(keys::INPLACE_STATE.into(), serde_json::to_string(&waiting).unwrap().into());
    assert!(!is_complete(&pod));
    let Refresh::PatchAndResize(patch, resize) = look(&pod, 0) else { unreachable!() };
    assert!(!state(&patched(&pod, &patch)).has_next());
    assert_eq!(resize.spec.unwrap().containers[0].name, "a");
}

#[test]
fn a_new_pod_becomes_ready_without_any_update() {
    let mut pod = pod(("x:1", None), ("y:1", None));
    pod.conditions = [].into();
    assert_eq!(look(&pod, 0), Refresh::BecomeReady);
    pod.readiness_gates = [].into();
    assert_eq!(look(&pod, 0), Refresh::Nothing);
}

#[test]
fn the_old_keys_are_read_and_removed() {
    let mut before = pod(("x:1", None), ("y:1", None));
    before
        .annotations
        .insert(keys::INPLACE_STATE_OLD.into(), r#"{"revision":"r","updateTimestamp":null}"#.into());
    before
        .annotations
        .insert(keys::INPLACE_GRACE_OLD.into(), r#"{"revision":"web-0","graceSeconds":5}"#.into());
    assert!(is_in_grace(&before));
    let (after, _) = begin(&before, &two("x:1", "y:1"), &two("x:2", "y:1"), 0);
    assert_eq!(after.annotation(keys::INPLACE_STATE_OLD), None);
    assert_eq!(after.annotation(keys::INPLACE_GRACE_OLD), None);
}

fn any_priority() -> impl Strategy<Value = Option<i32>> {
    prop::option::of(-3..3_i32)
}

proptest! {
    #[test]
    fn every_container_ends_at_the_target_image(
        first in prop::collection::vec(1..4_u8, 2),
        then in prop::collection::vec(1..4_u8, 2),
        priorities in prop::collection::vec(any_priority(), 2),
        grace in 0..3_i64,
        interrupted in any::<bool>(),
    ) {
        let images = |tags: &[u8]| (format!("x:{}", tags[0]), format!("y:{}", tags[1]));
        let (mut pod, old) = (pod(("x:0", priorities[0]), ("y:0", priorities[1])), two("x:0", "y:0"));
        let (a, b) = images(&first);
        let mut template = two(&a, &b);
        (pod, _) = begin(&pod, &old, &template, grace);
        if interrupted {
            let (a, b) = images(&then);
            let newer = two(&a, &b);
            (pod, _) = begin(&pod, &template, &newer, 0);
            template = newer;
        }
        for round in 0..6 {
            if let Refresh::Patch(patch) = look(&settled(&pod), 10 + round) {
                pod = patched(&settled(&pod), &patch);
            }
        }
        for container in template_containers_of(&template) {
            prop_assert_eq!(image(&pod, &container.0), &container.1);
        }
        prop_assert!(is_complete(&settled(&pod)));
    }
}

fn template_containers_of(template: &Value) -> Vec<(String, String)> {
    let list = template["spec"]["containers"].as_array().unwrap();
    list.iter().map(|c| (text(c, "name").to_owned(), text(c, "image").to_owned())).collect()
}
