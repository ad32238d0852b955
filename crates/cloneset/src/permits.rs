//! Between plan and apply: updates that a PodUnavailableBudget refuses are taken out of the plan again.

use std::sync::Arc;
use std::time::Duration;

use kruise_common::budget::{Permit, Permits, to_ask};
use kruise_common::pod::PodView;

use crate::plan::{Action, Because, Hold, HoldReason, Plan};

/// When a refused update asks again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The pod that an action takes out of service to update it.
fn updated(action: &Action) -> Option<&Arc<PodView>> {
    match action {
        Action::UpdateInPlace { pod, .. }
        | Action::MarkForRecreate { pod, .. }
        | Action::Patch { pod, because: Because::PreparingUpdate, .. } => Some(pod),
        _ => None,
    }
}

/// What is left of a plan. The first refusal ends the updates of the round: those that follow wait, and say so.
///
/// Deletions are not asked for: they are checked where every deletion of a pod is, at the API server.
pub async fn permitted(plan: Plan, permits: &dyn Permits) -> Plan {
    let Plan { actions, held, wake_in } = plan;
    let mut left = Plan { actions: Vec::with_capacity(actions.len()), held, wake_in };
    let mut refusal = None;
    let mut waiting = Vec::new();
    for action in actions {
        let asked = updated(&action).and_then(|pod| to_ask(pod).map(|budget| (pod, budget)));
        if let Some((pod, budget)) = asked {
            if refusal.is_none()
                && let Permit::Refused(why) = permits.ask(pod, budget).await
            {
                refusal = Some(format!("PodUnavailableBudget {budget}: {why}"));
            }
            if refusal.is_some() {
                waiting.push(Arc::clone(&pod.key.name));
                continue;
            }
        }
        left.actions.push(action);
    }
    if let Some(setting) = refusal {
        waiting.sort();
        let count = waiting.len();
        let reason = HoldReason::BudgetDenied;
        left.hold(Hold { reason, setting, count, waiting, blockers: Vec::new() });
        left.wake(ASK_AGAIN);
    }
    left
}
