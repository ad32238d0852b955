//! Pod lifecycle states, the hooks that hold a pod in them, and the marks that ask for a pod's deletion.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use crate::patch::{PodPatch, rfc3339_seconds};
use crate::pod::PodView;
use crate::readiness::{PRE_DELETE_KEY, PRE_UPDATE_KEY};

/// Pod label: the lifecycle state.
pub const STATE_LABEL: &str = "lifecycle.apps.kruise.io/state";
/// Pod annotation: when the state was entered.
pub const TIMESTAMP_ANNOTATION: &str = "lifecycle.apps.kruise.io/timestamp";
/// Pod label: delete this pod through its workload, whatever the value.
pub const SPECIFIED_DELETE_LABEL: &str = "apps.kruise.io/specified-delete";

/// Pod label `lifecycle.apps.kruise.io/state`; an absent or empty label reads as `Normal`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum LifecycleState {
    /// In service.
    #[default]
    Normal,
    /// Created, not yet handed over to service.
    PreparingNormal,
    /// To be updated in place, held by a hook.
    PreparingUpdate,
    /// Being updated in place.
    Updating,
    /// Updated, held by a hook before it returns to service.
    Updated,
    /// To be deleted, held by a hook.
    PreparingDelete,
    /// A state of someone else's, kept as it is.
    Other(String),
}

impl LifecycleState {
    /// The state a label value names.
    pub fn parse(value: Option<&str>) -> Self {
        match value.unwrap_or_default() {
            "" | "Normal" => Self::Normal,
            "PreparingNormal" => Self::PreparingNormal,
            "PreparingUpdate" => Self::PreparingUpdate,
            "Updating" => Self::Updating,
            "Updated" => Self::Updated,
            "PreparingDelete" => Self::PreparingDelete,
            other => Self::Other(other.to_owned()),
        }
    }

    /// The state of a pod.
    pub fn of(pod: &PodView) -> Self {
        Self::parse(pod.label(STATE_LABEL))
    }

    /// The label value.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Normal => "Normal",
            Self::PreparingNormal => "PreparingNormal",
            Self::PreparingUpdate => "PreparingUpdate",
            Self::Updating => "Updating",
            Self::Updated => "Updated",
            Self::PreparingDelete => "PreparingDelete",
            Self::Other(text) => text,
        }
    }
}

impl fmt::Display for LifecycleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Labels and finalizers by which others hold a pod in a state.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LifecycleHook {
    /// `labelsHandler`: labels with exactly these values.
    pub labels: BTreeMap<String, String>,
    /// `finalizersHandler`: finalizers.
    pub finalizers: Vec<String>,
    /// `markPodNotReady`: take the pod out of service while it is held.
    pub mark_pod_not_ready: bool,
}

impl LifecycleHook {
    /// True if the pod carries at least one of the labels or finalizers; never for an empty hook.
    pub fn matches_any(&self, pod: &PodView) -> bool {
        self.finalizers.iter().any(|name| has_finalizer(pod, name))
            || self.labels.iter().any(|(key, value)| pod.label(key) == Some(value))
    }

    /// True if the pod carries all of the labels and finalizers; always for an empty hook.
    pub fn matches_all(&self, pod: &PodView) -> bool {
        self.finalizers.iter().all(|name| has_finalizer(pod, name))
            && self.labels.iter().all(|(key, value)| pod.label(key) == Some(value))
    }

    /// Puts the labels and finalizers of the hook back on a pod.
    pub fn restore(&self, patch: &mut PodPatch) {
        for (key, value) in &self.labels {
            patch.set_label(key, value);
        }
        patch.metadata.finalizers.extend(self.finalizers.iter().cloned());
    }
}

fn has_finalizer(pod: &PodView, name: &str) -> bool {
    pod.finalizers.iter().any(|finalizer| &**finalizer == name)
}

/// `spec.lifecycle` of a workload. `None` is an absent hook, which matches neither any nor all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lifecycle {
    /// Holds a pod that is to be deleted.
    pub pre_delete: Option<LifecycleHook>,
    /// Holds a pod before and after an in-place update.
    pub in_place_update: Option<LifecycleHook>,
    /// Holds a new pod until all of it is on the pod.
    pub pre_normal: Option<LifecycleHook>,
}

impl Lifecycle {
    /// True if the preDelete hook holds the pod back from deletion.
    pub fn holds_delete(&self, pod: &PodView) -> bool {
        self.pre_delete.as_ref().is_some_and(|hook| hook.matches_any(pod))
    }

    /// True if the inPlaceUpdate hook holds the pod back from an update.
    pub fn holds_update(&self, pod: &PodView) -> bool {
        self.in_place_update.as_ref().is_some_and(|hook| hook.matches_any(pod))
    }

    /// True if a pod that waits for its deletion is out of service.
    pub fn delete_marks_not_ready(&self) -> bool {
        self.pre_delete.as_ref().is_some_and(|hook| hook.mark_pod_not_ready)
    }

    /// True if a pod that waits for its update is out of service.
    pub fn update_marks_not_ready(&self) -> bool {
        self.in_place_update.as_ref().is_some_and(|hook| hook.mark_pod_not_ready)
    }
}

/// Sets the state label and the time it was entered.
pub fn set_state(patch: &mut PodPatch, state: &LifecycleState, now: Timestamp) {
    patch.set_label(STATE_LABEL, state.as_str());
    patch.set_annotation(TIMESTAMP_ANNOTATION, rfc3339_seconds(now));
}

/// What a look at a pod asks for. The not-ready keys are written with the state or before it, never after.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Refresh {
    /// The state to enter; `None` to stay.
    pub state: Option<LifecycleState>,
    /// The key of user agent `Lifecycle` to add to KruisePodReady, also when the state is set already.
    pub add_key: Option<&'static str>,
    /// The key of user agent `Lifecycle` to remove from KruisePodReady.
    pub remove_key: Option<&'static str>,
}

/// The transition a pod makes by itself: no update or deletion is decided here.
///
/// `in_place_complete` is whether the last in-place update has come to its end on the node.
pub fn refresh(
    pod: &PodView,
    lifecycle: Option<&Lifecycle>,
    at_update_revision: bool,
    in_place_complete: bool,
) -> Refresh {
    let update_hook = lifecycle.and_then(|lifecycle| lifecycle.in_place_update.as_ref());
    // Back in service after an update: nobody has hooks, or the hook is back on the pod.
    let released = lifecycle.is_none() || update_hook.is_some_and(|hook| hook.matches_all(pod));
    let after_update = || if released { LifecycleState::Normal } else { LifecycleState::Updated };
    let state = match LifecycleState::of(pod) {
        LifecycleState::PreparingNormal => {
            let ready = match lifecycle.and_then(|lifecycle| lifecycle.pre_normal.as_ref()) {
                Some(hook) => hook.matches_all(pod),
                None => pod.node.is_some(),
            };
            ready.then_some(LifecycleState::Normal)
        }
        LifecycleState::PreparingUpdate if at_update_revision => Some(after_update()),
        LifecycleState::PreparingUpdate => {
            let marks = lifecycle.is_some_and(Lifecycle::update_marks_not_ready);
            return Refresh { add_key: marks.then_some(PRE_UPDATE_KEY), ..Refresh::default() };
        }
        LifecycleState::PreparingDelete => {
            let marks = lifecycle.is_some_and(Lifecycle::delete_marks_not_ready);
            return Refresh { add_key: marks.then_some(PRE_DELETE_KEY), ..Refresh::default() };
        }
        LifecycleState::Updating => in_place_complete.then(after_update),
        LifecycleState::Updated => {
            update_hook.is_none_or(|hook| hook.matches_all(pod)).then_some(LifecycleState::Normal)
        }
        LifecycleState::Normal | LifecycleState::Other(_) => None,
    };
    Refresh { remove_key: state.is_some().then_some(PRE_UPDATE_KEY), state, add_key: None }
}

/// True if the pod is marked for deletion through its workload.
pub fn is_specified_delete(pod: &PodView) -> bool {
    pod.labels.contains_key(SPECIFIED_DELETE_LABEL)
}

/// True if the pod is available to users: ready, so for long enough, and in service (CloneSet's definition).
pub fn is_available(pod: &PodView, min_ready_seconds: i32, now: Timestamp) -> bool {
    crate::readiness::is_ready(pod)
        && pod.is_available(min_ready_seconds, now)
        && LifecycleState::of(pod) == LifecycleState::Normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(state: &str, labels: &[(&str, &str)], finalizers: &[&str], node: Option<&str>) -> PodView {
        let mut pod = PodView {
            finalizers: finalizers.iter().map(|&name| name.into()).collect(),
            node: node.map(Into::into),
            ..PodView::default()
        };
        pod.labels.insert(STATE_LABEL.into(), state.into());
        pod.labels.extend(labels.iter().map(|&(key, value)| (key.into(), value.into())));
        pod
    }

    fn hook(mark_pod_not_ready: bool) -> LifecycleHook {
        LifecycleHook {
            labels: [("hook".to_owned(), "on".to_owned())].into(),
            finalizers: vec!["example.io/hook".to_owned()],
            mark_pod_not_ready,
        }
    }

    #[test]
    fn states_survive_a_round_trip() {
        for name in
            ["Normal", "PreparingNormal", "PreparingUpdate", "Updating", "Updated", "PreparingDelete", "Mine"]
        {
            assert_eq!(LifecycleState::parse(Some(name)).to_string(), name);
        }
        assert_eq!(LifecycleState::parse(None), LifecycleState::Normal);
        assert_eq!(LifecycleState::parse(Some("")), LifecycleState::Normal);
    }

    #[test]
    fn an_empty_hook_matches_all_and_not_any() {
        let (empty, any) = (LifecycleHook::default(), pod("", &[], &[], None));
        assert!(!empty.matches_any(&any));
        assert!(empty.matches_all(&any));
    }

    #[test]
    fn any_and_all_look_at_labels_and_finalizers() {
        for (labels, finalizers, any, all) in [
            (&[("hook", "on")][..], &["example.io/hook"][..], true, true),
            (&[("hook", "on")], &[], true, false),
            (&[("hook", "off")], &["example.io/hook"], true, false),
            (&[("hook", "off")], &[], false, false),
        ] {
            let pod = pod("", labels, finalizers, None);
            assert_eq!((hook(false).matches_any(&pod), hook(false).matches_all(&pod)), (any, all));
        }
    }

    #[test]
    fn a_pod_moves_on_by_itself_as_the_table_says() {
        let with = |hook| Lifecycle { in_place_update: Some(hook), ..Lifecycle::default() };
        let pre_normal = Lifecycle { pre_normal: Some(hook(false)), ..Lifecycle::default() };
        let (held, marking) = (with(hook(false)), with(hook(true)));
        let none = Lifecycle::default();
        let (off, on) = (&[][..], &[("hook", "on")][..]);
        let f = &["example.io/hook"][..];
        let normal = Some(LifecycleState::Normal);
        let updated = Some(LifecycleState::Updated);
        for (row, (state, labels, node, lifecycle, at_update, complete, next)) in [
            ("PreparingNormal", off, None, None, false, false, None),
            ("PreparingNormal", off, Some("n"), None, false, false, normal.clone()),
            ("PreparingNormal", off, Some("n"), Some(&pre_normal), false, false, None),
            ("PreparingNormal", on, None, Some(&pre_normal), false, false, normal.clone()),
            ("PreparingUpdate", on, None, Some(&held), false, false, None),
            ("PreparingUpdate", off, None, Some(&held), true, false, updated.clone()),
            ("PreparingUpdate", on, None, Some(&held), true, false, normal.clone()),
            ("PreparingUpdate", off, None, None, true, false, normal.clone()),
            ("Updating", off, None, Some(&held), true, false, None),
            ("Updating", off, None, Some(&held), true, true, updated.clone()),
            ("Updating", off, None, Some(&none), true, true, updated.clone()),
            ("Updating", on, None, Some(&marking), true, true, normal.clone()),
            ("Updating", off, None, None, true, true, normal.clone()),
            ("Updated", off, None, Some(&held), true, true, None),
            ("Updated", on, None, Some(&held), true, true, normal.clone()),
            ("Updated", off, None, Some(&none), true, true, normal.clone()),
            ("PreparingDelete", off, Some("n"), None, true, true, None),
            ("Normal", off, Some("n"), None, true, true, None),
            ("Mine", off, Some("n"), None, true, true, None),
        ]
        .into_iter()
        .enumerate()
        {
            let pod = pod(state, labels, f, node);
            assert_eq!(refresh(&pod, lifecycle, at_update, complete).state, next, "row {row}: {state}");
        }
    }

    #[test]
    fn the_update_key_is_added_while_held_and_removed_on_the_way_back_to_service() {
        let lifecycle = Lifecycle { in_place_update: Some(hook(true)), ..Lifecycle::default() };
        let waiting = refresh(&pod("PreparingUpdate", &[], &[], None), Some(&lifecycle), false, false);
        assert_eq!((waiting.state, waiting.add_key), (None, Some(PRE_UPDATE_KEY)));
        for labels in [&[][..], &[("hook", "on")][..]] {
            let pod = pod("Updating", labels, &["example.io/hook"], None);
            let done = refresh(&pod, Some(&lifecycle), true, true);
            assert_eq!(done.remove_key, Some(PRE_UPDATE_KEY), "{:?}", done.state);
        }
    }

    #[test]
    fn entering_a_state_writes_label_and_time() {
        let mut patch = PodPatch::default();
        set_state(&mut patch, &LifecycleState::Updating, "2026-01-02T03:04:05.6Z".parse().unwrap());
        hook(false).restore(&mut patch);
        assert_eq!(patch.metadata.labels[STATE_LABEL].as_deref(), Some("Updating"));
        assert_eq!(patch.metadata.labels["hook"].as_deref(), Some("on"));
        assert_eq!(patch.metadata.finalizers, ["example.io/hook"]);
        assert_eq!(patch.metadata.annotations[TIMESTAMP_ANNOTATION].as_deref(), Some("2026-01-02T03:04:05Z"));
    }
}
