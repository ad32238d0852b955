//! What a pod is given.

use jiff::Timestamp;
use kruise_api::cloneset;
use kruise_common::patch::PodPatch;
use kruise_common::pod::PodView;
use kruise_common::readiness;

/// The first True of the pod's gate; `None` if it has none, or a value already, or is on its way out.
///
/// Pods of CloneSets are theirs: they get it with the rest of their status, in one write.
pub fn plan(pod: &PodView, now: Timestamp) -> Option<PodPatch> {
    let of_cloneset = pod
        .controller()
        .is_some_and(|owner| &*owner.group == cloneset::GROUP && &*owner.kind == cloneset::KIND);
    if of_cloneset || pod.deleted.is_some() {
        return None;
    }
    readiness::first_true(pod, now)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kruise_common::pod::{ConditionView, OwnerView};
    use kruise_common::readiness::KRUISE_POD_READY;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(100).unwrap()
    }

    fn pod() -> PodView {
        PodView { readiness_gates: [KRUISE_POD_READY.into()].into(), ..PodView::default() }
    }

    fn owned_by(group: &str, kind: &str, controller: bool) -> PodView {
        let owner = OwnerView {
            group: group.into(),
            kind: kind.into(),
            name: "web".into(),
            uid: "u".into(),
            controller,
        };
        PodView { owners: [owner].into(), ..pod() }
    }

    #[test]
    fn pods_with_the_gate_get_their_first_true_and_others_are_left_alone() {
        let valued = |status| PodView {
            conditions: [ConditionView::new(KRUISE_POD_READY, status, None)].into(),
            ..pod()
        };
        for (what, pod, is) in [
            ("a pod of its own", pod(), true),
            ("a pod of a Deployment", owned_by("apps", "ReplicaSet", true), true),
            ("a pod of a kind of that name elsewhere", owned_by("example.com", "CloneSet", true), true),
            ("a pod that a CloneSet only owns", owned_by("apps.kruise.io", "CloneSet", false), true),
            ("a pod of a CloneSet", owned_by("apps.kruise.io", "CloneSet", true), false),
            ("a pod without the gate", PodView { readiness_gates: Arc::default(), ..pod() }, false),
            ("a pod on its way out", PodView { deleted: Some(now()), ..pod() }, false),
            ("a pod that is True", valued("True"), false),
            ("a pod that somebody holds", valued("False"), false),
        ] {
            assert_eq!(plan(&pod, now()).is_some(), is, "{what}");
        }
    }
}
