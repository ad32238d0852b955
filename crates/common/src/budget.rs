//! Whether an update has to ask a PodUnavailableBudget first, and how it asks.

use std::pin::Pin;
use std::sync::Arc;

use kruise_api::keys;

use crate::inplace;
use crate::pod::PodView;

/// Any label of this prefix takes a pod out of service as far as budgets are concerned.
const UNAVAILABLE_PREFIX: &str = "unavailable-pod.kruise.io/";

/// What a budget answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Permit {
    /// Go on: one unit of the budget is taken.
    Granted,
    /// Not now, for this reason; ask again in a second.
    Refused(String),
}

/// An answer that is on its way.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Permit> + Send + 'a>>;

/// Takes units from budgets, which only the API server can answer for: between plan and apply.
pub trait Permits: Send + Sync {
    /// May this pod be taken out of service for an update? `budget` is the name of its PodUnavailableBudget.
    fn ask<'a>(&'a self, pod: &'a Arc<PodView>, budget: &'a str) -> Asked<'a>;
}

/// The PodUnavailableBudget that has to permit an update of the pod; `None` if nobody has to be asked: the pod is
/// exempt, out of service already, or under no budget.
pub fn to_ask(pod: &PodView) -> Option<&str> {
    let exempt = pod.annotation(keys::PUB_NO_PROTECT).is_some_and(is_true);
    let marked = pod.labels.keys().any(|key| key.starts_with(UNAVAILABLE_PREFIX));
    if exempt || !pod.is_ready() || marked || !inplace::is_complete(pod) {
        return None;
    }
    [keys::RELATED_PUB, keys::RELATED_PUB_OLD]
        .iter()
        .filter_map(|key| pod.annotation(key))
        .find(|name| !name.is_empty())
}

/// True for the texts that Go reads as true.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{ConditionView, Phase};

    fn ready(annotations: &[(&str, &str)], labels: &[(&str, &str)]) -> PodView {
        let texts =
            |pairs: &[(&str, &str)]| pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        let condition = ConditionView::new("Ready", "True", None);
        PodView {
            phase: Phase::Running,
            conditions: [condition].into(),
            annotations: texts(annotations),
            labels: texts(labels),
            ..PodView::default()
        }
    }

    #[test]
    fn only_a_protected_pod_in_service_is_asked_for() {
        let guarded = (keys::RELATED_PUB, "web");
        for (annotations, labels, asked) in [
            (&[guarded][..], &[][..], Some("web")),
            (&[(keys::RELATED_PUB_OLD, "old")], &[], Some("old")),
            (&[(keys::RELATED_PUB, ""), (keys::RELATED_PUB_OLD, "old")], &[], Some("old")),
            (&[(keys::RELATED_PUB_OLD, "old"), guarded], &[], Some("web")),
            (&[], &[], None),
            (&[guarded, (keys::PUB_NO_PROTECT, "T")], &[], None),
            (&[guarded, (keys::PUB_NO_PROTECT, "yes")], &[], Some("web")),
            (&[guarded], &[("unavailable-pod.kruise.io/drain", "")], None),
            (&[guarded, (keys::INPLACE_GRACE, "{}")], &[], None),
        ] {
            assert_eq!(to_ask(&ready(annotations, labels)), asked, "{annotations:?} {labels:?}");
        }
        let pending = PodView { phase: Phase::Pending, ..ready(&[guarded], &[]) };
        assert_eq!(to_ask(&pending), None, "it is out of service anyway");
    }
}
