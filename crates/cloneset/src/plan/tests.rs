//! Plans on small sets, and on random ones played to their end on a model of a cluster.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kruise_api::cloneset::v1beta1::{CloneSetSpec, CloneSetStatus};
use kruise_api::keys::{POD_TEMPLATE_HASH, SPECIFIED_DELETE};
use kruise_common::counts::IntOrPercent;
use kruise_common::key::Uid;
use kruise_common::lifecycle::{Lifecycle, LifecycleHook, STATE_LABEL};
use kruise_common::pod::{ConditionView, ContainerStatusView, ContainerView, Phase};
use kruise_common::texts::Texts;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::observed::{PodUpdatePolicy, Settings};
use crate::status::{Failures, needs_write, status_of};

fn start_time() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

#[derive(Clone, Debug)]
struct Fixture(PodView);

/// A running pod at `web-b` that is not ready.
fn pod(name: &str) -> Fixture {
    let mut pod = PodView {
        key: ObjectKey::new("ns", name),
        uid: Uid::from(name),
        node: Some("node".into()),
        phase: Phase::Running,
        readiness_gates: ["InPlaceUpdateReady".into()].into(),
        containers: [ContainerView { name: "main".into(), image: "b".into(), ..ContainerView::default() }]
            .into(),
        ..PodView::default()
    };
    condition(&mut pod, "InPlaceUpdateReady", "True", "", start_time());
    Fixture(pod).at("web-b").label(STATE_LABEL, "Normal")
}

fn condition(pod: &mut PodView, kind: &str, status: &str, reason: &str, now: Timestamp) {
    let mut conditions: Vec<ConditionView> = pod.conditions.to_vec();
    conditions.retain(|condition| &*condition.kind != kind);
    let mut changed = ConditionView::new(kind, status, Some(now));
    Arc::make_mut(&mut changed.text).reason = reason.into();
    conditions.push(changed);
    pod.conditions = conditions.into();
}

impl Fixture {
    fn label(mut self, key: &str, value: &str) -> Self {
        self.0.labels.insert(key.into(), value.into());
        self
    }

    fn at(mut self, revision: &str) -> Self {
        let hash = revision.rsplit('-').next().unwrap();
        let containers = self.0.containers.iter().cloned();
        self.0.containers =
            containers.map(|container| ContainerView { image: hash.into(), ..container }).collect();
        self.label(CONTROLLER_REVISION_HASH, revision).label(POD_TEMPLATE_HASH, hash)
    }

    fn ready(mut self) -> Self {
        condition(&mut self.0, "Ready", "True", "", start_time() - SignedDuration::from_secs(3600));
        condition(&mut self.0, "ContainersReady", "True", "", start_time());
        self
    }

    fn waiting(mut self, reason: &str) -> Self {
        self.0.statuses = [ContainerStatusView {
            name: "main".into(),
            waiting: reason.into(),
            ..ContainerStatusView::default()
        }]
        .into();
        self
    }

    fn state(self, state: &str) -> Self {
        self.label(STATE_LABEL, state)
    }
}

fn revision(name: &str, number: i64) -> Arc<Revision> {
    let image = name.rsplit('-').next().unwrap();
    Arc::new(Revision {
        key: ObjectKey::new("ns", name),
        uid: Uid::from(name),
        resource_version: "1".into(),
        number,
        template: json!({"spec": {"containers": [{"name": "main", "image": image}]}}).into(),
        created: None,
        controller: None,
        labels: Texts::default(),
        annotations: Texts::default(),
    })
}

fn settings(replicas: i32) -> Settings {
    let spec: CloneSetSpec = serde_json::from_value(json!({
        "replicas": replicas, "selector": {}, "template": {},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
    }))
    .unwrap();
    Settings::of(&spec)
}

/// A set between revision `web-a` and revision `web-b`.
fn set(settings: Settings, pods: impl IntoIterator<Item = Fixture>) -> Observed {
    Observed {
        key: ObjectKey::new("ns", "web"),
        uid: Uid::from("web"),
        generation: 1,
        terminating: false,
        settings,
        label_selector: "app=web".into(),
        pods: pods.into_iter().map(|pod| Arc::new(pod.0)).collect(),
        unselected: Vec::new(),
        others: Vec::new(),
        claims: Vec::new(),
        nodes: BTreeMap::new(),
        revisions: vec![revision("web-a", 1), revision("web-b", 2)],
        update_revision: revision("web-b", 2),
        current_revision: revision("web-a", 1),
        status: CloneSetStatus::default(),
        now: start_time(),
    }
}

fn names() -> impl FnMut() -> String {
    let mut next = 0;
    move || {
        next += 1;
        format!("{next:05}")
    }
}

fn planned(seen: &Observed) -> Plan {
    plan(seen, &Options::default(), &mut names())
}

fn told(plan: &Plan) -> Vec<String> {
    let tell = |action: &Action| match action {
        Action::Create { name, revision, .. } => format!("create {name} at {}", revision.name()),
        Action::Delete { pod, claims, .. } => format!("delete {} and {} claims", pod.name(), claims.len()),
        Action::Patch { pod, because, .. } => format!("patch {} for {because:?}", pod.name()),
        Action::UpdateInPlace { pod, revision, .. } => {
            format!("update {} to {}", pod.name(), revision.name())
        }
        Action::MarkForRecreate { pod, .. } => format!("mark {}", pod.name()),
        Action::ReleasePod { pod } => format!("release {}", pod.name()),
        Action::HandClaimToPod { claim, pod } => format!("hand {} to {}", claim.key.name, pod.name()),
        Action::DeleteClaim { claim } => format!("delete claim {}", claim.key.name),
        Action::PrunePodsToDelete { names } => format!("prune {}", names.join(",")),
        Action::DeleteRevision { revision } => format!("delete revision {}", revision.name()),
    };
    plan.actions.iter().map(tell).collect()
}

#[test]
fn a_new_set_creates_its_pods() {
    let plan = planned(&set(settings(2), []));
    assert_eq!(told(&plan), ["create web-00001 at web-b", "create web-00002 at web-b"]);
}

#[test]
fn ids_of_existing_pods_are_never_taken_again() {
    let mut seen = set(settings(2), [pod("web-00001").ready()]);
    seen.others = vec![Arc::new(pod("web-00002").0)];
    assert_eq!(told(&planned(&seen)), ["create web-00003 at web-b"]);
}

#[test]
fn claims_without_a_pod_are_reused() {
    let mut seen = set(settings(2), [pod("web-00001").ready()]);
    seen.settings.reuse_claims = true;
    let claim = |id: &str, terminating| {
        Arc::new(ClaimView {
            key: ObjectKey::new("ns", format!("data-web-{id}")),
            uid: Uid::from(id),
            instance_id: id.into(),
            owned_by_set: true,
            terminating,
        })
    };
    seen.claims = vec![claim("00001", false), claim("kept0", false), claim("gone0", true)];
    assert_eq!(told(&planned(&seen)), ["create web-kept0 at web-b"]);
    seen.settings.reuse_claims = false;
    assert_eq!(told(&planned(&seen)), ["delete claim data-web-kept0", "create web-00002 at web-b"]);
}

#[test]
fn a_pod_that_is_let_go_keeps_its_claim_when_handing_it_over_has_failed() {
    let mut seen = set(settings(0), []);
    let claim = ClaimView {
        key: ObjectKey::new("ns", "data-web-00001"),
        uid: Uid::from("data"),
        instance_id: "00001".into(),
        owned_by_set: true,
        terminating: false,
    };
    seen.claims = vec![Arc::new(claim.clone())];
    seen.unselected = vec![Arc::new(pod("web-00001").ready().0)];
    // However often that fails, the set still knows whose claim it is.
    assert_eq!(told(&planned(&seen)), ["hand data-web-00001 to web-00001"]);
    seen.claims = vec![Arc::new(ClaimView { owned_by_set: false, ..claim })];
    assert_eq!(told(&planned(&seen)), ["release web-00001"]);
}

#[test]
fn a_pod_that_leaves_claims_is_waited_for_as_long_as_its_grace_period() {
    let mut seen = set(settings(2), [pod("web-00001").ready()]);
    seen.settings.reuse_claims = true;
    let claim = ClaimView {
        key: ObjectKey::new("ns", "data-web-kept0"),
        uid: Uid::from("kept0"),
        instance_id: "kept0".into(),
        owned_by_set: true,
        terminating: false,
    };
    seen.claims = vec![Arc::new(claim)];
    let mut leaving = pod("web-kept0");
    leaving.0.deleted = Some(start_time() + SignedDuration::from_secs(30));
    seen.others = vec![Arc::new(leaving.0.clone())];
    let waiting = planned(&seen);
    assert_eq!((told(&waiting), waiting.wake_in), (vec![], Some(Duration::from_secs(35))));
    // Another missing pod does not wait with it.
    seen.settings.replicas = 3;
    assert_eq!(told(&planned(&seen)), ["create web-00002 at web-b"]);
    seen.settings.replicas = 2;
    seen.settings.reuse_claims = false;
    assert_eq!(told(&planned(&seen)).last().unwrap(), "create web-00002 at web-b");
    seen.settings.reuse_claims = true;
    seen.now = start_time() + SignedDuration::from_secs(35);
    assert_eq!(told(&planned(&seen)), ["create web-00002 at web-b"], "it does not go");
    seen.others.clear();
    assert_eq!(told(&planned(&seen)), ["create web-kept0 at web-b"]);
}

#[test]
fn a_new_pod_gets_all_its_first_values_in_one_write() {
    let mut fresh = pod("web-1").state("PreparingNormal");
    fresh.0.readiness_gates = ["InPlaceUpdateReady".into(), "KruisePodReady".into()].into();
    fresh.0.conditions = Box::default();
    let plan = planned(&set(settings(1), [fresh.clone()]));
    let [Action::Patch { endpoint, patch, .. }] = &*plan.actions else { panic!("{plan:?}") };
    assert_eq!(*endpoint, PodEndpoint::Status);
    assert_eq!(patch.status.as_ref().unwrap().conditions.len(), 2);
    assert_eq!(patch.metadata.labels[STATE_LABEL].as_deref(), Some("Normal"));
    fresh.0.node = None;
    assert_eq!(told(&planned(&set(settings(1), [fresh]))), [""; 0]);
}

#[test]
fn an_in_place_update_keeps_to_its_budget_and_says_who_uses_it_up() {
    let mut seen = set(settings(3), ["web-1", "web-2", "web-3"].map(|name| pod(name).at("web-a").ready()));
    seen.settings.policy = PodUpdatePolicy::InPlaceIfPossible;
    let plan = planned(&seen);
    assert_eq!(plan.actions.len(), 1);
    assert!(told(&plan)[0].starts_with("update web-"), "{plan:?}");

    seen.pods[0] = Arc::new(pod("web-1").waiting("ImagePullBackOff").0);
    let plan = planned(&seen);
    assert_eq!(told(&plan), [""; 0]);
    assert_eq!(plan.held[0].message(), "2 pods wait: maxUnavailable 1 is used up by web-1, ImagePullBackOff");
    let status = status_of(&seen, &Failures::default(), &plan.held);
    let blocked = &status.conditions.as_ref().unwrap()[0];
    assert_eq!((&*blocked.type_, blocked.reason.as_deref()), ("RolloutBlocked", Some("MaxUnavailable")));
    seen.status = status.clone();
    assert!(!needs_write(Some(&status), &status_of(&seen, &Failures::default(), &plan.held)));
}

#[test]
fn one_pod_that_cannot_be_updated_in_place_stops_no_other() {
    let mut seen =
        set(settings(2), [pod("web-1").at("web-unknown").ready(), pod("web-2").at("web-a").ready()]);
    seen.settings.policy = PodUpdatePolicy::InPlaceOnly;
    let plan = planned(&seen);
    assert_eq!(told(&plan), ["update web-2 to web-b"]);
    assert_eq!(plan.held[0].reason, HoldReason::InPlaceOnly);
    let why = "1 pod waits: the change is not possible in place (revision web-unknown is not in the history), and the \
               policy is InPlaceOnly";
    assert_eq!(plan.held[0].message(), why);
}

#[test]
fn pods_kept_by_the_partition_are_told_apart_from_those_that_wait_and_alarm_nobody() {
    let mut seen =
        set(settings(4), ["web-1", "web-2", "web-3", "web-4"].map(|name| pod(name).at("web-a").ready()));
    seen.settings.policy = PodUpdatePolicy::InPlaceIfPossible;
    seen.settings.partition = Some(IntOrPercent::Percent(50.0));
    let holds = |seen: &Observed| -> Vec<_> {
        planned(seen).held.iter().map(|hold| (hold.reason, hold.count, hold.message())).collect()
    };
    let kept = "2 pods wait: partition 2 keeps them at the current revision".to_owned();
    let full = "1 pod waits: maxUnavailable 1 allows no more".to_owned();
    assert_eq!(
        holds(&seen),
        [(HoldReason::Partition, 2, kept.clone()), (HoldReason::MaxUnavailable, 1, full)]
    );

    seen.pods = ["web-1", "web-2"].map(|name| Arc::new(pod(name).ready().0)).into();
    seen.pods.extend(["web-3", "web-4"].map(|name| Arc::new(pod(name).at("web-a").ready().0)));
    assert_eq!(holds(&seen), [(HoldReason::Partition, 2, kept)]);
    let status = status_of(&seen, &Failures::default(), &planned(&seen).held);
    assert_eq!(status.conditions, None, "it was asked for");

    seen.settings.partition = None;
    seen.settings.on_delete = true;
    assert_eq!(holds(&seen), []);
}

#[test]
fn a_pod_whose_grace_period_cannot_be_read_is_recreated_when_the_template_changes() {
    let mut damaged = pod("web-1").at("web-a");
    damaged.0.annotations.insert("apps.kruise.io/inplace-update-grace".into(), "{".into());
    let mut seen = set(settings(1), [damaged]);
    for policy in [PodUpdatePolicy::ReCreate, PodUpdatePolicy::InPlaceIfPossible] {
        seen.settings.policy = policy;
        assert_eq!(told(&planned(&seen)), ["mark web-1"]);
    }
    seen.settings.policy = PodUpdatePolicy::InPlaceOnly;
    assert_eq!(told(&planned(&seen)), [""; 0]);
}

#[test]
fn a_broken_pod_is_mended_although_a_pod_that_is_to_go_waits_for_it() {
    let old = |name: &str| pod(name).at("web-a");
    let mut seen = set(
        settings(5),
        [
            old("web-1"),
            old("web-2").ready().label(SPECIFIED_DELETE, "true"),
            old("web-3").ready(),
            old("web-4").ready(),
            old("web-5").ready(),
        ],
    );
    for (policy, step) in [
        (PodUpdatePolicy::ReCreate, "mark web-1"),
        (PodUpdatePolicy::InPlaceIfPossible, "update web-1 to web-b"),
    ] {
        seen.settings.policy = policy;
        assert_eq!(told(&planned(&seen)), [step]);
    }
}

#[test]
fn recreation_marks_a_pod_once() {
    let mut seen = set(settings(3), ["web-1", "web-2", "web-3"].map(|name| pod(name).at("web-a").ready()));
    assert_eq!(told(&planned(&seen)).len(), 1);
    seen.pods[1] = Arc::new(pod("web-2").at("web-a").ready().label(SPECIFIED_DELETE, "true").0);
    assert_eq!(told(&planned(&seen)), ["delete web-2 and 0 claims"]);
    seen.pods[0] = Arc::new(pod("web-1").0);
    assert_eq!(told(&planned(&seen)), [""; 0]);
}

fn hooked(mark_pod_not_ready: bool) -> Lifecycle {
    let hook = LifecycleHook {
        labels: BTreeMap::from([("hook".into(), "1".into())]),
        finalizers: Vec::new(),
        mark_pod_not_ready,
    };
    Lifecycle { pre_delete: Some(hook.clone()), in_place_update: Some(hook), pre_normal: None }
}

#[test]
fn a_hook_holds_a_deletion_and_further_ones_go_on() {
    let held = |name: &str| pod(name).ready().label("hook", "1");
    let mut seen = set(settings(1), [held("web-1").state("PreparingDelete"), held("web-2"), held("web-3")]);
    seen.settings.lifecycle = Some(hooked(false));
    seen.settings.max_unavailable = Some(IntOrPercent::Int(1));
    assert_eq!(told(&planned(&seen)).len(), 1);
    seen.pods[0] = Arc::new(pod("web-1").ready().state("PreparingDelete").0);
    assert!(told(&planned(&seen)).contains(&"delete web-1 and 0 claims".to_owned()));
}

#[test]
fn a_pod_wanted_again_returns_unless_it_was_taken_out_of_service() {
    let leaving = pod("web-1").ready().label("hook", "1").state("PreparingDelete");
    let mut seen = set(settings(2), [leaving, pod("web-2").ready()]);
    seen.settings.lifecycle = Some(hooked(false));
    assert_eq!(told(&planned(&seen)), ["patch web-1 for Regret"]);
    seen.settings.lifecycle = Some(hooked(true));
    assert_eq!(told(&planned(&seen)), [""; 0]);
}

#[test]
fn a_pod_wanted_again_is_ready_again_when_its_lifecycle_does_not_hold_it_any_more() {
    let mut leaving = pod("web-1").ready().state("PreparingDelete");
    leaving.0.readiness_gates = ["InPlaceUpdateReady".into(), "KruisePodReady".into()].into();
    condition(&mut leaving.0, "KruisePodReady", "False", "", start_time());
    let mut conditions = leaving.0.conditions.to_vec();
    let held = conditions.iter_mut().find(|condition| &*condition.kind == "KruisePodReady").unwrap();
    Arc::make_mut(&mut held.text).message = r#"[{"userAgent":"Lifecycle","key":"preDeleteHook"}]"#.into();
    leaving.0.conditions = conditions.into();
    let mut seen = set(settings(1), [leaving]);
    seen.settings.lifecycle = Some(hooked(false));
    let plan = planned(&seen);
    assert_eq!(told(&plan), ["patch web-1 for Regret"]);
    let Action::Patch { endpoint, patch, .. } = &plan.actions[0] else { panic!("{plan:?}") };
    assert_eq!(*endpoint, PodEndpoint::Status);
    let conditions = &patch.status.as_ref().unwrap().conditions;
    assert_eq!((conditions[0].kind.as_str(), conditions[0].status.as_str()), ("KruisePodReady", "True"));
}

#[test]
fn pods_marked_for_recreation_take_up_the_budget_while_they_wait_to_be_deleted() {
    let old = (1..=8).map(|id| pod(&format!("web-{id}")).at("web-a").ready());
    let mut seen = set(settings(10), old.chain([pod("web-9")]));
    seen.settings.max_unavailable = Some(IntOrPercent::Int(4));
    // Nothing is created while a pod is not available, and nothing is deleted while one is missing.
    seen.settings.scale_max_unavailable = Some(IntOrPercent::Int(1));
    let mut marked = BTreeSet::new();
    for _ in 0..9 {
        for action in planned(&seen).actions {
            let Action::MarkForRecreate { pod, .. } = action else { panic!("{action:?}") };
            assert!(marked.insert(pod.key.name.clone()), "{} is marked twice", pod.name());
            let at = seen.pods.iter().position(|known| known.uid == pod.uid).unwrap();
            seen.pods[at] = Arc::new(Fixture(PodView::clone(&pod)).label(SPECIFIED_DELETE, "true").0);
        }
    }
    assert_eq!(marked.len(), 2, "one is missing and one not available: {marked:?}");
}

#[test]
fn pods_not_yet_available_do_not_block_a_scale_in() {
    let mut seen = set(settings(3), ["1", "2", "3", "4", "5"].map(|id| pod(&format!("web-{id}")).ready()));
    seen.settings.min_ready_seconds = 1_000_000;
    assert_eq!(told(&planned(&seen)).len(), 2);
    assert_eq!(planned(&seen).wake_in, Some(std::time::Duration::from_millis((1_000_000 - 3600) * 1000 + 1)));
}

#[test]
fn names_of_pods_that_are_gone_are_pruned() {
    let mut seen = set(settings(1), [pod("web-1").ready()]);
    seen.settings.pods_to_delete = ["web-9".into()].into();
    assert_eq!(told(&planned(&seen)), ["prune web-9"]);
}

#[test]
fn a_terminating_set_does_nothing() {
    let mut seen = set(settings(5), [pod("web-1")]);
    seen.terminating = true;
    assert_eq!(planned(&seen), Plan::default());
}

/// Applies a plan as the API server would.
fn apply(seen: &mut Observed, plan: &Plan) {
    let now = seen.now;
    let mut pods: BTreeMap<ObjectKey, PodView> =
        seen.pods.iter().map(|pod| (pod.key.clone(), (**pod).clone())).collect();
    let mut patch = |key: &ObjectKey, patch: &PodPatch| {
        let pod = pods.get_mut(key).unwrap();
        for (key, value) in &patch.metadata.labels {
            match value {
                Some(value) => pod.labels.insert(key.as_str().into(), value.as_str().into()),
                None => pod.labels.remove(key.as_str()),
            };
        }
        for (key, value) in &patch.metadata.annotations {
            match value {
                Some(value) => pod.annotations.insert(key.as_str().into(), value.as_str().into()),
                None => pod.annotations.remove(key.as_str()),
            };
        }
        for change in patch.spec.iter().flat_map(|spec| &spec.containers) {
            let image: Arc<str> = change.image.as_deref().unwrap().into();
            for container in Arc::make_mut(&mut pod.containers) {
                container.image = image.clone();
            }
        }
        for change in patch.status.iter().flat_map(|status| &status.conditions) {
            condition(pod, &change.kind, &change.status, &change.reason, now);
        }
    };
    for action in &plan.actions {
        match action {
            Action::Patch { pod, patch: change, .. } => patch(&pod.key, change),
            Action::UpdateInPlace { pod, started, .. } => {
                started.unready.iter().for_each(|change| patch(&pod.key, change));
                patch(&pod.key, &started.pod);
            }
            Action::MarkForRecreate { pod, .. } => {
                let mut change = PodPatch::default();
                change.set_label(SPECIFIED_DELETE, "true");
                patch(&pod.key, &change);
            }
            _ => {}
        }
    }
    for action in &plan.actions {
        match action {
            Action::Create { name, revision, .. } => {
                let mut fresh = pod(name).at(revision.name()).state("PreparingNormal");
                fresh.0.node = None;
                fresh.0.phase = Phase::Pending;
                fresh.0.conditions = Box::default();
                assert!(pods.insert(fresh.0.key.clone(), fresh.0).is_none(), "{name} exists");
            }
            Action::Delete { pod, .. } => {
                pods.remove(&pod.key).unwrap();
            }
            Action::PrunePodsToDelete { names } => {
                seen.settings.pods_to_delete.retain(|name| !names.contains(&name.to_string()));
            }
            _ => {}
        }
    }
    seen.pods = pods.into_values().map(Arc::new).collect();
}

/// Lets time pass: nodes run what pods ask for, and the status is published.
fn pass(seen: &mut Observed) {
    seen.status = status_of(seen, &Failures::default(), &[]);
    if seen.status.current_revision.as_deref() == Some("web-b") {
        seen.current_revision = seen.update_revision.clone();
    }
    seen.now += SignedDuration::from_secs(10);
    let now = seen.now;
    for pod in &mut seen.pods {
        let mut next = (**pod).clone();
        next.node = Some("node".into());
        next.phase = Phase::Running;
        next.statuses = next
            .containers
            .iter()
            .map(|container| ContainerStatusView {
                name: container.name.clone(),
                image: container.image.clone(),
                image_id: format!("sha256:{}", container.image).into(),
                ready: true,
                ..ContainerStatusView::default()
            })
            .collect();
        condition(&mut next, "ContainersReady", "True", "", now);
        if next.condition_is_true("InPlaceUpdateReady") && !next.condition_is_true("Ready") {
            condition(&mut next, "Ready", "True", "", now);
        }
        *pod = Arc::new(next);
    }
}

fn available(seen: &Observed) -> i64 {
    seen.pods
        .iter()
        .filter(|pod| lifecycle::is_available(pod, seen.settings.min_ready_seconds, seen.now))
        .count() as i64
}

/// Pods that count as replicas.
fn counted(seen: &Observed) -> i64 {
    let excluded = |pod: &PodView| {
        seen.settings.exclude_preparing_delete && LifecycleState::of(pod) == LifecycleState::PreparingDelete
    };
    seen.pods.iter().filter(|pod| !excluded(pod)).count() as i64
}

fn updated(seen: &Observed) -> i64 {
    // Those on their way out make room for others.
    let stays = |pod: &PodView| LifecycleState::of(pod) != LifecycleState::PreparingDelete;
    seen.pods.iter().filter(|pod| stays(pod) && at_revision(pod, &seen.update_revision)).count() as i64
}

/// One step of a history, with the promises every plan keeps.
fn step(seen: &mut Observed, options: &Options, ids: &mut dyn FnMut() -> String) -> usize {
    let plan = plan(seen, options, ids);
    let limits = seen.settings.limits();
    let (was_available, was_updated) = (available(seen), updated(seen));
    let creates = plan.actions.iter().any(|action| matches!(action, Action::Create { .. }));
    let in_place =
        plan.actions.iter().filter(|action| matches!(action, Action::UpdateInPlace { .. })).count() as i64;
    let recreated = plan.actions.iter().any(|action| matches!(action, Action::MarkForRecreate { .. }));
    apply(seen, &plan);
    let now_available = available(seen);
    assert!(
        now_available >= was_available || now_available >= limits.replicas - limits.max_unavailable,
        "{was_available} to {now_available} of {limits:?}: {:?}",
        told(&plan)
    );
    assert!(!creates || counted(seen) <= limits.replicas + limits.max_surge, "{:?}", told(&plan));
    assert!(
        in_place == 0 || was_updated + in_place <= limits.replicas - limits.partition,
        "{limits:?} {:?}",
        told(&plan)
    );
    assert!(!seen.settings.paused || (in_place == 0 && !recreated));
    plan.actions.len()
}

prop_compose! {
    fn any_pod()(
        old: bool, ready: bool, specified in proptest::bool::weighted(0.15),
        state in prop_oneof![6 => Just("Normal"), 1 => Just("PreparingDelete"), 1 => Just("PreparingUpdate"),
            1 => Just("PreparingNormal"), 1 => Just("Updated"), 1 => Just("Updating")],
        hook in proptest::bool::weighted(0.2),
    ) -> Fixture {
        let mut fixture = pod("web-x").at(if old { "web-a" } else { "web-b" }).state(state);
        if ready {
            fixture = fixture.ready();
        }
        if specified {
            fixture = fixture.label(SPECIFIED_DELETE, "");
        }
        if hook {
            fixture = fixture.label("hook", "1");
        }
        fixture
    }
}

prop_compose! {
    fn any_set()(
        pods in proptest::collection::vec(any_pod(), 0..9),
        replicas in 0..8, partition in 0..8, max_unavailable in 0i32..4, max_surge in 0i32..4,
        scale_limit in proptest::option::of(2..6), min_ready_seconds in prop_oneof![Just(0), Just(15)],
        policy in 0usize..3, paused in proptest::bool::weighted(0.2), exclude: bool, lifecycle: bool,
    ) -> Observed {
        let mut settings = settings(replicas);
        settings.policy =
            [PodUpdatePolicy::ReCreate, PodUpdatePolicy::InPlaceIfPossible, PodUpdatePolicy::InPlaceOnly][policy];
        let max_surge = if policy == 2 || paused { 0 } else { max_surge };
        settings.partition = Some(IntOrPercent::Int(partition));
        settings.max_unavailable = Some(IntOrPercent::Int(if max_surge == 0 { max_unavailable.max(1) } else { max_unavailable }));
        settings.max_surge = Some(IntOrPercent::Int(max_surge));
        settings.scale_max_unavailable = scale_limit.map(IntOrPercent::Int);
        settings.min_ready_seconds = min_ready_seconds;
        settings.paused = paused;
        settings.exclude_preparing_delete = exclude;
        settings.lifecycle = lifecycle.then(|| hooked(false));
        let pods = pods.into_iter().enumerate().map(|(index, mut pod)| {
            pod.0.key = ObjectKey::new("ns", format!("web-p{index}"));
            pod.0.uid = Uid::from(format!("p{index}"));
            pod
        });
        set(settings, pods.collect::<Vec<_>>())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_keeps_its_promises(mut seen in any_set()) {
        let mut ids = names();
        for _ in 0..6 {
            step(&mut seen, &Options::default(), &mut ids);
            pass(&mut seen);
        }
    }

    #[test]
    fn the_order_of_what_is_seen_does_not_matter(seen in any_set()) {
        let mut reversed = seen.clone();
        reversed.pods.reverse();
        prop_assert_eq!(planned(&seen), planned(&reversed));
    }

    #[test]
    fn a_set_comes_to_rest_when_its_hooks_let_go(mut seen in any_set()) {
        let mut ids = names();
        let mut quiet = 0;
        for _ in 0..200 {
            // Whoever holds a pod lets go of it after a while, and comes back to it afterwards.
            for pod in &mut seen.pods {
                let mut next = (**pod).clone();
                match LifecycleState::of(&next) {
                    LifecycleState::PreparingUpdate | LifecycleState::PreparingDelete => next.labels.remove("hook"),
                    LifecycleState::Updated => next.labels.insert("hook".into(), "1".into()),
                    _ => None,
                };
                *pod = Arc::new(next);
            }
            quiet = if step(&mut seen, &Options::default(), &mut ids) == 0 { quiet + 1 } else { 0 };
            if quiet > 5 {
                break;
            }
            pass(&mut seen);
        }
        prop_assert!(quiet > 5, "no rest: {:?}", told(&planned(&seen)));
        // A pause keeps pods that wait for their update out of service, and a limit on creations counts them.
        let waits = |pod: &Arc<PodView>| LifecycleState::of(pod) == LifecycleState::PreparingUpdate;
        prop_assume!(!(seen.settings.paused
            && seen.settings.scale_max_unavailable.is_some()
            && seen.pods.iter().any(waits)));
        prop_assert_eq!(
            seen.pods.len() as i64,
            seen.settings.limits().replicas,
            "{:?}",
            seen.pods.iter().map(|pod| (pod.name(), &pod.labels, pod.is_ready())).collect::<Vec<_>>()
        );
        let limits = seen.settings.limits();
        if !seen.settings.paused {
            prop_assert!(updated(&seen) >= limits.replicas - limits.partition);
        }
    }
}
