//! What is to be done about one request, from everything seen.

use std::time::Duration;

use jiff::Timestamp;
use kruise_api::containerrecreaterequest::{
    ContainerRecreateRequest, ContainerRecreateRequestPhase as Phase, ContainerStatusSnapshot,
};
use kruise_api::keys;
use kruise_common::pod::PodView;
use kruise_common::readiness::{self, KRUISE_POD_READY};

/// Seconds after which a request that no agent has looked at, or gone on with when it was its turn, is given up.
const PATIENCE_SECONDS: i64 = 60;

/// Changes of pods wake a request; this is for those that get lost.
const SAFETY_NET: Duration = Duration::from_secs(30);

/// Everything a round sees.
pub struct Seen<'a> {
    /// The request.
    pub request: &'a ContainerRecreateRequest,
    /// The pod of that name, whatever its identity; `None` if there is none.
    pub pod: Option<&'a PodView>,
    /// Since when no other request of the pod comes before this one; `None` while one does.
    pub first_since: Option<Timestamp>,
    /// What the pod's readiness is held by.
    pub key: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// The one step of a round.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Let the pod be ready again, if it is still there, and take off the finalizer.
    Release,
    /// Tell the agents that it is over.
    Deactivate,
    /// Delete the request.
    Delete,
    /// End it, for this reason.
    Complete(&'static str),
    /// Put on the finalizer, before the pod is touched.
    Hold,
    /// Take the pod out of service.
    Unready,
    /// Say since when the pod is out of service.
    BeginGrace,
    /// Tell the agents what the containers are now.
    Snapshot(Vec<ContainerStatusSnapshot>),
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The step.
    pub action: Option<Action>,
    /// When to look again.
    pub wake_in: Option<Duration>,
}

impl From<Action> for Plan {
    fn from(action: Action) -> Self {
        Self { action: Some(action), wake_in: None }
    }
}

fn until(start: Timestamp, seconds: i64, now: Timestamp) -> Duration {
    let at = i128::from(start.as_millisecond()) + i128::from(seconds) * 1000;
    let left = at - i128::from(now.as_millisecond());
    Duration::from_millis(u64::try_from(left.max(0)).unwrap_or(u64::MAX / 2))
}

/// Decides.
pub fn plan(seen: &Seen<'_>) -> Plan {
    let meta = &seen.request.metadata;
    let status = seen.request.status.clone().unwrap_or_default();
    let deleting = meta.deletion_timestamp.is_some();
    let completed = status.completion_time.as_ref().map(|time| time.0);
    if (deleting || completed.is_some()) && is_held(seen.request) {
        return Action::Release.into();
    }
    if deleting {
        return Plan::default();
    }
    if let Some(completed) = completed {
        return finish(seen, completed);
    }
    let wanted = meta.labels.as_ref().and_then(|labels| labels.get(keys::CRR_POD_UID));
    let pod =
        seen.pod.filter(|pod| pod.deleted.is_none() && wanted.is_none_or(|uid| *uid.as_str() == *pod.uid.0));
    let Some(pod) = pod else { return Action::Complete("pod has gone").into() };

    let created = meta.creation_timestamp.as_ref().map_or(seen.now, |time| time.0);
    let mut waits = Vec::new();
    let waits_for_agent = matches!(status.phase, None | Some(Phase::Pending));
    if let Some(since) = seen.first_since.filter(|_| waits_for_agent) {
        waits.push((until(since, PATIENCE_SECONDS, seen.now), "daemon has not responded for a long time"));
    }
    if let Some(deadline) = seen.request.spec.active_deadline_seconds {
        waits.push((until(created, deadline, seen.now), "recreating has exceeded the activeDeadlineSeconds"));
    }
    if let Some((_, message)) = waits.iter().find(|(left, _)| left.is_zero()) {
        return Action::Complete(message).into();
    }
    let mut wake_in = waits.into_iter().map(|(left, _)| left).min();
    if status.phase != Some(Phase::Recreating) {
        return Plan { action: None, wake_in };
    }
    wake_in = wake_in.into_iter().chain([SAFETY_NET]).min();
    Plan { action: recreating(seen, pod), wake_in }
}

fn is_held(request: &ContainerRecreateRequest) -> bool {
    request.metadata.finalizers.iter().flatten().any(|held| held == keys::CRR_UNREADY_ACQUIRED)
}

fn finish(seen: &Seen<'_>, completed: Timestamp) -> Plan {
    let labels = seen.request.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(keys::CRR_ACTIVE)) {
        return Action::Deactivate.into();
    }
    let ttl = seen.request.spec.ttl_seconds_after_finished;
    match ttl.map(|ttl| until(completed, i64::from(ttl), seen.now)) {
        None => Plan::default(),
        Some(left) if left.is_zero() => Action::Delete.into(),
        left => Plan { action: None, wake_in: left },
    }
}

fn recreating(seen: &Seen<'_>, pod: &PodView) -> Option<Action> {
    let status = seen.request.status.as_ref();
    let strategy = seen.request.spec.strategy.as_ref();
    let drains = strategy.is_some_and(|strategy| strategy.unready_grace_period_seconds.is_some());
    let mut conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let begun = conditions
        .any(|condition| condition.type_ == keys::CONDITION_PRE_RECREATE_GRACE && condition.status == "True");
    if drains && !begun {
        if pod.has_readiness_gate(KRUISE_POD_READY) {
            if !is_held(seen.request) {
                return Some(Action::Hold);
            }
            let add = readiness::add_not_ready_key(pod, keys::READINESS_AGENT_CRR, seen.key, seen.now);
            if add.is_some() {
                return Some(Action::Unready);
            }
        }
        return Some(Action::BeginGrace);
    }
    let now = snapshot(seen.request, pod);
    let old = status.and_then(|status| status.container_status_snapshot.as_ref());
    // Nothing never replaces something.
    (!now.is_empty() && old != Some(&now)).then_some(Action::Snapshot(now))
}

/// The containers that are no longer what they were when the request was made. Clocks do not matter: a container is
/// another one by its ID or count.
fn snapshot(request: &ContainerRecreateRequest, pod: &PodView) -> Vec<ContainerStatusSnapshot> {
    let of = |name: &str| pod.statuses.iter().find(|status| *status.name == *name);
    request
        .spec
        .containers
        .iter()
        .filter_map(|container| Some((container, of(&container.name)?)))
        .filter(|(_, status)| !status.container_id.is_empty() && status.waiting.is_empty())
        .filter(|(container, status)| {
            container.status_context.as_ref().is_none_or(|was| {
                was.container_id != *status.container_id || status.restarts > was.restart_count
            })
        })
        .map(|(container, status)| ContainerStatusSnapshot {
            name: container.name.clone(),
            ready: status.ready,
            restart_count: status.restarts,
            container_id: status.container_id.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use kruise_common::pod_wire::PodWire;
    use serde_json::{Value, json};

    use super::*;

    fn request(meta: Value, spec: Value, status: Value) -> ContainerRecreateRequest {
        let mut metadata = json!({"name": "r", "namespace": "shop", "creationTimestamp": "1970-01-01T00:00:00Z",
            "labels": {"crr.apps.kruise.io/pod-uid": "p", "crr.apps.kruise.io/active": "true"}});
        metadata.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        let mut full = json!({"podName": "web-0", "containers": [
            {"name": "main", "statusContext": {"containerID": "x://1", "restartCount": 0}}]});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(
            json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "ContainerRecreateRequest",
            "metadata": metadata, "spec": full, "status": status}),
        )
        .unwrap()
    }

    fn pod(uid: &str, gate: bool, id: &str, ready: bool) -> PodView {
        let gates = if gate { json!([{"conditionType": "KruisePodReady"}]) } else { json!([]) };
        let wire: PodWire = serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "shop", "uid": uid, "resourceVersion": "1"},
            "spec": {"containers": [{"name": "main", "image": "x"}], "readinessGates": gates},
            "status": {"phase": "Running", "containerStatuses": [{"name": "main", "image": "x", "imageID": "x",
                "containerID": id, "ready": ready, "restartCount": i32::from(id != "x://1"), "state": {"running": {}}}]},
        }))
        .unwrap();
        PodView::from(wire)
    }

    fn planned_since(
        request: &ContainerRecreateRequest,
        pod: Option<&PodView>,
        first_since: Option<i64>,
        second: i64,
    ) -> Plan {
        let at = |second| Timestamp::from_second(second).unwrap();
        plan(&Seen { request, pod, first_since: first_since.map(at), key: "shop/r", now: at(second) })
    }

    fn planned(request: &ContainerRecreateRequest, pod: Option<&PodView>, second: i64) -> Plan {
        planned_since(request, pod, None, second)
    }

    fn complete(message: &'static str) -> Plan {
        Action::Complete(message).into()
    }

    #[test]
    fn a_request_for_a_pod_that_is_gone_or_another_one_ends() {
        let open = request(json!({}), json!({}), Value::Null);
        assert_eq!(planned(&open, None, 0), complete("pod has gone"));
        assert_eq!(planned(&open, Some(&pod("q", false, "x://1", true)), 0), complete("pod has gone"));
    }

    #[test]
    fn a_request_that_no_agent_looks_at_ends_after_a_minute_and_any_at_its_deadline() {
        let pod = pod("p", false, "x://1", true);
        let open = request(json!({}), json!({}), Value::Null);
        assert_eq!(
            planned_since(&open, Some(&pod), Some(0), 20),
            Plan { action: None, wake_in: Some(Duration::from_secs(40)) }
        );
        let over = planned_since(&open, Some(&pod), Some(0), 60);
        assert_eq!(over, complete("daemon has not responded for a long time"));
        let behind = planned(&open, Some(&pod), 900);
        assert_eq!(behind, Plan::default(), "the agent is busy with another one of the pod");
        let pending = request(json!({}), json!({"activeDeadlineSeconds": 90}), json!({"phase": "Pending"}));
        assert_eq!(planned(&pending, Some(&pod), 60).wake_in, Some(Duration::from_secs(30)));
        assert_eq!(
            planned(&pending, Some(&pod), 90),
            complete("recreating has exceeded the activeDeadlineSeconds")
        );
    }

    #[test]
    fn a_request_whose_turn_it_is_and_that_no_agent_goes_on_with_ends_after_a_minute() {
        let pod = pod("p", false, "x://1", true);
        let pending = request(json!({}), json!({}), json!({"phase": "Pending"}));
        assert_eq!(planned_since(&pending, Some(&pod), None, 900), Plan::default(), "another one is served");
        let wait = planned_since(&pending, Some(&pod), Some(900), 910);
        assert_eq!(wait, Plan { action: None, wake_in: Some(Duration::from_secs(50)) });
        assert_eq!(
            planned_since(&pending, Some(&pod), Some(900), 960),
            complete("daemon has not responded for a long time")
        );
        let going = request(json!({}), json!({}), json!({"phase": "Recreating"}));
        assert_eq!(planned_since(&going, Some(&pod), Some(900), 990).action, None, "it may take long");
    }

    #[test]
    fn a_finished_request_lets_go_step_by_step() {
        let done = json!({"phase": "Completed", "completionTime": "1970-01-01T00:00:10Z"});
        let held =
            request(json!({"finalizers": ["crr.apps.kruise.io/unready-acquired"]}), json!({}), done.clone());
        assert_eq!(planned(&held, None, 11), Action::Release.into());
        let active = request(json!({}), json!({}), done.clone());
        assert_eq!(planned(&active, None, 11), Action::Deactivate.into());
        let over = request(json!({"labels": {}}), json!({"ttlSecondsAfterFinished": 10}), done.clone());
        assert_eq!(planned(&over, None, 15).wake_in, Some(Duration::from_secs(5)));
        assert_eq!(planned(&over, None, 20), Action::Delete.into());
        assert_eq!(planned(&request(json!({"labels": {}}), json!({}), done), None, 99), Plan::default());
        let going = json!({"deletionTimestamp": "1970-01-01T00:00:10Z"});
        assert_eq!(planned(&request(going, json!({}), Value::Null), None, 11), Plan::default());
    }

    #[test]
    fn a_pod_is_taken_out_of_service_before_its_drain_begins() {
        let spec = json!({"strategy": {"unreadyGracePeriodSeconds": 5}});
        let status = json!({"phase": "Recreating"});
        let action = |finalizers: Value, pod: &PodView| {
            planned(&request(json!({"finalizers": finalizers}), spec.clone(), status.clone()), Some(pod), 1)
                .action
        };
        let gated = pod("p", true, "x://1", true);
        let held = json!(["crr.apps.kruise.io/unready-acquired"]);
        assert_eq!(action(json!([]), &gated), Some(Action::Hold));
        assert_eq!(action(held.clone(), &gated), Some(Action::Unready));
        assert_eq!(action(json!([]), &pod("p", false, "x://1", true)), Some(Action::BeginGrace));
        let begun = json!({"phase": "Recreating", "conditions": [{"type": "PreRecreateGrace", "status": "True",
            "reason": "PreRecreateGrace", "message": "", "lastTransitionTime": "1970-01-01T00:00:00Z"}]});
        let begun = request(json!({"finalizers": held}), spec, begun);
        assert_eq!(planned(&begun, Some(&gated), 9).action, None, "its time never moves on");
    }

    #[test]
    fn agents_are_told_of_containers_that_are_new() {
        let status = json!({"phase": "Recreating"});
        let open = request(json!({}), json!({}), status);
        assert_eq!(
            planned(&open, Some(&pod("p", false, "x://1", true)), 1).action,
            None,
            "still the old one"
        );
        let Some(Action::Snapshot(told)) = planned(&open, Some(&pod("p", false, "x://2", true)), 1).action
        else {
            panic!()
        };
        assert_eq!((told[0].container_id.as_str(), told[0].ready, told[0].restart_count), ("x://2", true, 1));
        let known = json!({"phase": "Recreating", "containerStatusSnapshot": told});
        let known = request(json!({}), json!({}), known);
        let plan = planned(&known, Some(&pod("p", false, "x://2", true)), 1);
        assert_eq!(plan, Plan { action: None, wake_in: Some(SAFETY_NET) });
    }
}
