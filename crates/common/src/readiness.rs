//! Readiness gates that Kruise writes: `InPlaceUpdateReady` and `KruisePodReady`.

use std::fmt::Write as _;

use jiff::Timestamp;
use kruise_api::keys;
use serde::{Deserialize, Serialize};

use crate::patch::{ConditionPatch, PodPatch};
use crate::pod::{Phase, PodView};

/// Gate of the workload: False while the pod is updated in place.
pub const IN_PLACE_UPDATE_READY: &str = "InPlaceUpdateReady";
/// Gate of all of Kruise: False while anyone holds a key on it.
pub const KRUISE_POD_READY: &str = "KruisePodReady";
/// User agent of lifecycle hooks in KruisePodReady.
pub const LIFECYCLE_AGENT: &str = "Lifecycle";
/// Key of a pod held by its preDelete hook.
pub const PRE_DELETE_KEY: &str = "preDeleteHook";
/// Key of a pod held by its inPlaceUpdate hook.
pub const PRE_UPDATE_KEY: &str = "preUpdateHook";

/// One reason for which a pod is out of service: who says so, and for what.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct NotReadyKey {
    /// The part of Kruise that put it.
    #[serde(rename = "userAgent")]
    pub user_agent: String,
    /// What for, unique per user agent.
    pub key: String,
}

/// The keys in the message of KruisePodReady; a message of another form holds none.
pub fn parse_keys(message: &str) -> Vec<NotReadyKey> {
    let mut keys: Vec<NotReadyKey> = serde_json::from_str(message).unwrap_or_default();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The message that holds the keys, sorted by user agent, then key.
pub fn render_keys(keys: &[NotReadyKey]) -> String {
    let mut sorted: Vec<&NotReadyKey> = keys.iter().collect();
    sorted.sort_unstable();
    serde_json::to_string(&sorted).unwrap_or_else(|_| "[]".to_owned())
}

/// True if the pod is ready to serve: Running, Ready, and not being updated in place.
pub fn is_ready(pod: &PodView) -> bool {
    pod.is_ready() && pod.condition(IN_PLACE_UPDATE_READY).is_none_or(|gate| &*gate.status == "True")
}

/// Adds a key to KruisePodReady, which becomes False. `None` without the gate, or if nothing changes.
///
/// The patch holds for the version it was made from only, so that of two writers none loses a key.
pub fn add_not_ready_key(pod: &PodView, agent: &str, key: &str, now: Timestamp) -> Option<PodPatch> {
    if !pod.has_readiness_gate(KRUISE_POD_READY) {
        return None;
    }
    let gate = pod.condition(KRUISE_POD_READY);
    let mut keys = gate.map(|gate| parse_keys(&gate.message)).unwrap_or_default();
    let added = NotReadyKey { user_agent: agent.to_owned(), key: key.to_owned() };
    if keys.contains(&added) && gate.is_some_and(|gate| &*gate.status == "False") {
        return None;
    }
    if !keys.contains(&added) {
        keys.push(added);
    }
    let mut patch = exact(pod);
    patch.set_condition(condition(pod, KRUISE_POD_READY, "False", "", &render_keys(&keys), now));
    if let Some(ready) = ready_false(pod, &[(KRUISE_POD_READY, "False")], now) {
        patch.set_condition(ready);
    }
    Some(patch)
}

/// Removes a key from KruisePodReady, which becomes True with the last one. `None` if the key is not there.
///
/// The patch holds for the version it was made from only, so that of two writers none loses a key.
pub fn remove_not_ready_key(pod: &PodView, agent: &str, key: &str, now: Timestamp) -> Option<PodPatch> {
    if !pod.has_readiness_gate(KRUISE_POD_READY) {
        return None;
    }
    let mut keys = parse_keys(&pod.condition(KRUISE_POD_READY)?.message);
    let before = keys.len();
    keys.retain(|other| other.user_agent != agent || other.key != key);
    if keys.len() == before {
        return None;
    }
    let status = if keys.is_empty() { "True" } else { "False" };
    let mut patch = exact(pod);
    patch.set_condition(condition(pod, KRUISE_POD_READY, status, "", &render_keys(&keys), now));
    Some(patch)
}

/// Turns InPlaceUpdateReady True. `None` without the gate, or if it is True with empty reason and message.
///
/// The patch holds for the judged version only and must not be retried: a retry could bring a pod back whose
/// next update has just begun. The first True of a pod that never was updated holds whatever kubelet writes meanwhile:
/// nobody else turns this gate, so there is nothing to bring back from.
pub fn in_place_ready(pod: &PodView, now: Timestamp) -> Option<PodPatch> {
    let settled = pod
        .condition(IN_PLACE_UPDATE_READY)
        .is_some_and(|gate| &*gate.status == "True" && gate.reason.is_empty() && gate.message.is_empty());
    if settled || !pod.has_readiness_gate(IN_PLACE_UPDATE_READY) {
        return None;
    }
    let first = pod.condition(IN_PLACE_UPDATE_READY).is_none() && !was_updated(pod);
    let mut patch = if first { PodPatch::default() } else { exact(pod) };
    patch.set_condition(condition(pod, IN_PLACE_UPDATE_READY, "True", "", "", now));
    Some(patch)
}

/// Turns InPlaceUpdateReady False, and Ready with it, before an in-place update. `None` without the gate only:
/// a copy that looks the same may be old.
pub fn in_place_not_ready(pod: &PodView, now: Timestamp) -> Option<PodPatch> {
    if !pod.has_readiness_gate(IN_PLACE_UPDATE_READY) {
        return None;
    }
    let mut patch = PodPatch::default();
    patch.set_condition(condition(pod, IN_PLACE_UPDATE_READY, "False", "StartInPlaceUpdate", "", now));
    if let Some(ready) = ready_false(pod, &[(IN_PLACE_UPDATE_READY, "False")], now) {
        patch.set_condition(ready);
    }
    Some(patch)
}

/// Gives KruisePodReady its first value, True. `None` without the gate, or if the condition exists.
///
/// Whoever else puts keys on it does so for containers that run: until then it holds whatever kubelet writes meanwhile.
pub fn first_true(pod: &PodView, now: Timestamp) -> Option<PodPatch> {
    if !pod.has_readiness_gate(KRUISE_POD_READY) || pod.condition(KRUISE_POD_READY).is_some() {
        return None;
    }
    let mut patch = if pod.phase == Phase::Pending { PodPatch::default() } else { exact(pod) };
    patch.set_condition(condition(pod, KRUISE_POD_READY, "True", "", "", now));
    Some(patch)
}

/// True if an in-place update began at some time.
fn was_updated(pod: &PodView) -> bool {
    [keys::INPLACE_STATE, keys::INPLACE_STATE_OLD, keys::INPLACE_GRACE, keys::INPLACE_GRACE_OLD]
        .iter()
        .any(|key| pod.annotation(key).is_some())
}

/// What kubelet will soon say of Ready, so that traffic stops now. `overrides` are the gates about to change.
///
/// `None` if Ready is False already, or if there is no Ready or the containers are not ready anyway.
pub fn ready_false(pod: &PodView, overrides: &[(&str, &str)], now: Timestamp) -> Option<ConditionPatch> {
    let ready = pod.condition("Ready")?;
    if &*ready.status == "False" || !pod.condition_is_true("ContainersReady") {
        return None;
    }
    let mut message = String::new();
    for gate in pod.readiness_gates.iter() {
        let overridden = overrides.iter().find(|(kind, _)| *kind == &**gate).map(|(_, status)| *status);
        let status = overridden.or_else(|| pod.condition(gate).map(|condition| &*condition.status));
        if status == Some("True") {
            continue;
        }
        if !message.is_empty() {
            message.push_str(", ");
        }
        // Writing to a String cannot fail.
        let _ = match status {
            Some(status) => {
                write!(message, "the status of pod readiness gate \"{gate}\" is not \"True\", but {status}")
            }
            None => {
                write!(message, "corresponding condition of pod readiness gate \"{gate}\" does not exist.")
            }
        };
    }
    (!message.is_empty()).then(|| ConditionPatch {
        kind: "Ready".to_owned(),
        status: "False".to_owned(),
        reason: "ReadinessGatesNotReady".to_owned(),
        message,
        last_transition_time: now,
    })
}

/// A patch that holds for the very version of the pod it was made from.
fn exact(pod: &PodView) -> PodPatch {
    let mut patch = PodPatch::default();
    if !pod.resource_version.is_empty() {
        patch.metadata.resource_version = Some(pod.resource_version.to_string());
    }
    patch
}

/// A condition of the pod to set; its time moves only when its status does.
fn condition(
    pod: &PodView,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> ConditionPatch {
    let since = pod.condition(kind).filter(|old| &*old.status == status).and_then(|old| old.changed);
    ConditionPatch {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.unwrap_or(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{ConditionView, Phase};

    fn pod(conditions: &[(&str, &str, &str)]) -> PodView {
        PodView {
            resource_version: "7".into(),
            phase: Phase::Running,
            readiness_gates: [IN_PLACE_UPDATE_READY.into(), KRUISE_POD_READY.into()].into(),
            conditions: conditions
                .iter()
                .map(|&(kind, status, message)| {
                    let since = Timestamp::from_second(5).unwrap();
                    let mut condition = ConditionView::new(kind, status, Some(since));
                    std::sync::Arc::make_mut(&mut condition.text).message = message.into();
                    condition
                })
                .collect(),
            ..PodView::default()
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(100).unwrap()
    }

    fn sent<'a>(patch: &'a PodPatch, kind: &str) -> &'a ConditionPatch {
        patch.status.as_ref().unwrap().conditions.iter().find(|condition| condition.kind == kind).unwrap()
    }

    const ONE: &str = r#"[{"userAgent":"Lifecycle","key":"preDeleteHook"}]"#;
    const TWO: &str = r#"[{"userAgent":"ContainerRecreateRequest","key":"a/b"},{"userAgent":"Lifecycle","key":"preDeleteHook"}]"#;

    #[test]
    fn keys_are_sorted_and_survive_a_round_trip() {
        let mut keys = parse_keys(TWO);
        keys.reverse();
        assert_eq!(render_keys(&keys), TWO);
        assert!(parse_keys("").is_empty());
        assert!(parse_keys("not json").is_empty());
    }

    #[test]
    fn a_pod_is_back_only_after_both_keys_are_removed() {
        let fresh =
            pod(&[("Ready", "True", ""), ("ContainersReady", "True", ""), (KRUISE_POD_READY, "True", "")]);
        let first = add_not_ready_key(&fresh, LIFECYCLE_AGENT, PRE_DELETE_KEY, now()).unwrap();
        assert_eq!(sent(&first, KRUISE_POD_READY).message, ONE);
        assert_eq!(sent(&first, KRUISE_POD_READY).last_transition_time, now());
        assert_eq!(first.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(sent(&first, "Ready").reason, "ReadinessGatesNotReady");

        let one = pod(&[("Ready", "False", ""), (KRUISE_POD_READY, "False", ONE)]);
        assert_eq!(add_not_ready_key(&one, LIFECYCLE_AGENT, PRE_DELETE_KEY, now()), None);
        let second = add_not_ready_key(&one, "ContainerRecreateRequest", "a/b", now()).unwrap();
        assert_eq!(sent(&second, KRUISE_POD_READY).message, TWO);
        assert_eq!(sent(&second, KRUISE_POD_READY).last_transition_time, Timestamp::from_second(5).unwrap());

        let two = pod(&[(KRUISE_POD_READY, "False", TWO)]);
        let third = remove_not_ready_key(&two, "ContainerRecreateRequest", "a/b", now()).unwrap();
        assert_eq!((sent(&third, KRUISE_POD_READY).status.as_str()), "False");
        let last = remove_not_ready_key(&one, LIFECYCLE_AGENT, PRE_DELETE_KEY, now()).unwrap();
        let last = sent(&last, KRUISE_POD_READY);
        assert_eq!((last.status.as_str(), last.message.as_str()), ("True", "[]"));
        assert_eq!(remove_not_ready_key(&one, LIFECYCLE_AGENT, PRE_UPDATE_KEY, now()), None);
    }

    #[test]
    fn a_key_on_a_pod_without_the_condition_writes_false() {
        let patch = add_not_ready_key(&pod(&[]), LIFECYCLE_AGENT, PRE_UPDATE_KEY, now()).unwrap();
        assert_eq!(sent(&patch, KRUISE_POD_READY).status, "False");
    }

    #[test]
    fn a_pod_without_the_gates_is_left_alone() {
        let bare = PodView {
            readiness_gates: std::sync::Arc::default(),
            ..pod(&[(KRUISE_POD_READY, "False", ONE)])
        };
        assert_eq!(add_not_ready_key(&bare, LIFECYCLE_AGENT, PRE_UPDATE_KEY, now()), None);
        assert_eq!(remove_not_ready_key(&bare, LIFECYCLE_AGENT, PRE_DELETE_KEY, now()), None);
        assert_eq!(in_place_ready(&bare, now()), None);
        assert_eq!(in_place_not_ready(&bare, now()), None);
        assert_eq!(first_true(&bare, now()), None);
    }

    #[test]
    fn a_new_pod_gets_both_gates_true_once() {
        let new = pod(&[]);
        let mut patch = in_place_ready(&new, now()).unwrap();
        patch.merge(first_true(&new, now()).unwrap());
        assert_eq!(sent(&patch, IN_PLACE_UPDATE_READY).status, "True");
        assert_eq!(sent(&patch, KRUISE_POD_READY).status, "True");
        assert_eq!(
            patch.metadata.resource_version.as_deref(),
            Some("7"),
            "a container may run and be restarted"
        );
        let settled = pod(&[(IN_PLACE_UPDATE_READY, "True", ""), (KRUISE_POD_READY, "False", ONE)]);
        assert_eq!(in_place_ready(&settled, now()), None);
        assert_eq!(first_true(&settled, now()), None);
        assert!(in_place_ready(&pod(&[(IN_PLACE_UPDATE_READY, "True", "left over")]), now()).is_some());
    }

    #[test]
    fn the_first_true_of_a_pod_that_starts_holds_whatever_kubelet_writes() {
        let starting = PodView { phase: Phase::Pending, ..pod(&[]) };
        let mut patch = in_place_ready(&starting, now()).unwrap();
        patch.merge(first_true(&starting, now()).unwrap());
        assert_eq!(patch.metadata.resource_version, None);
        // A pod that was taken out of service is judged by its version, whatever became of its condition.
        let updated = PodView {
            annotations: [(keys::INPLACE_STATE.into(), "{}".into())].into_iter().collect(),
            ..starting
        };
        for again in [updated, pod(&[(IN_PLACE_UPDATE_READY, "False", "")])] {
            let patch = in_place_ready(&again, now()).unwrap();
            assert_eq!(patch.metadata.resource_version.as_deref(), Some("7"));
        }
    }

    #[test]
    fn ready_says_which_gates_are_not() {
        let serving = pod(&[("Ready", "True", ""), ("ContainersReady", "True", "")]);
        let patch = in_place_not_ready(&serving, now()).unwrap();
        assert_eq!(sent(&patch, IN_PLACE_UPDATE_READY).reason, "StartInPlaceUpdate");
        assert_eq!(
            sent(&patch, "Ready").message,
            "the status of pod readiness gate \"InPlaceUpdateReady\" is not \"True\", but False, \
             corresponding condition of pod readiness gate \"KruisePodReady\" does not exist."
        );
        for (ready, containers) in [("False", "True"), ("True", "False")] {
            let pod = pod(&[("Ready", ready, ""), ("ContainersReady", containers, "")]);
            assert_eq!(ready_false(&pod, &[(IN_PLACE_UPDATE_READY, "False")], now()), None);
        }
        assert_eq!(ready_false(&pod(&[]), &[], now()), None);
    }

    #[test]
    fn a_pod_in_place_updated_is_not_ready_whatever_kubelet_still_says() {
        assert!(is_ready(&pod(&[("Ready", "True", "")])));
        assert!(!is_ready(&pod(&[("Ready", "True", ""), (IN_PLACE_UPDATE_READY, "False", "")])));
        assert!(is_ready(&pod(&[("Ready", "True", ""), (IN_PLACE_UPDATE_READY, "True", "")])));
    }
}
