//! What there is: how far the pods are, and which nodes are to run one.

use std::collections::HashMap;
use std::sync::Arc;

use kruise_common::placement::SILENT_TAINTS;
use kruise_common::pod::{Phase, PodView, RestartPolicy};
use kruise_runtime::nodes::NodeView;

use crate::observe::Observed;

/// How far a pod is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Was restarted more often than it may be: it has failed, although it still runs.
    Restarting,
    /// Runs, or is about to.
    Active,
    /// Is being deleted, and has not ended well. That its containers were stopped for it says nothing about the job: a
    /// pod that leaves with its node, or by somebody's hand, is `Failed` for a moment before it is gone.
    Going,
}

impl Fate {
    /// How far this pod is, if a pod may restart so often.
    pub fn of(pod: &PodView, restart_limit: i32) -> Self {
        match pod.phase {
            Phase::Succeeded => Self::Succeeded,
            _ if pod.deleted.is_some() => Self::Going,
            Phase::Failed => Self::Failed,
            _ if pod.restart_policy == RestartPolicy::OnFailure && pod.restarts() > restart_limit => {
                Self::Restarting
            }
            _ => Self::Active,
        }
    }
}

/// The pods and nodes of a job, counted.
#[derive(Clone, Debug, Default)]
pub struct Census<'a> {
    /// Pods that ended well.
    pub succeeded: usize,
    /// Pods that failed, those that restart too often included.
    pub failed: usize,
    /// Pods that run or are about to.
    pub active: usize,
    /// Nodes that are to have run a pod in the end.
    pub desired: usize,
    /// Those of them whose pod has ended, has failed or is being deleted.
    pub done: usize,
    /// Those of them without a pod, by name.
    pub free: Vec<&'a Arc<str>>,
    /// Active pods on nodes that are not for them any more.
    pub misfits: Vec<&'a Arc<PodView>>,
    /// Pods that still run, those that restart too often included, and that nobody deletes yet.
    pub running: Vec<&'a Arc<PodView>>,
    /// Pods that share their node with another one of the job.
    pub doubles: Vec<&'a Arc<PodView>>,
    /// Pods for which the scheduler finds no room on their node.
    pub waiting: Vec<&'a Arc<PodView>>,
}

impl<'a> Census<'a> {
    /// Counts. Pods that have ended are never judged by their node again.
    pub fn of(seen: &'a Observed) -> Self {
        let mut census = Self::default();
        let mut by_node: HashMap<&str, (&Arc<PodView>, Fate)> = HashMap::with_capacity(seen.pods.len());
        for pod in &seen.pods {
            let fate = Fate::of(pod, seen.settings.restart_limit);
            match fate {
                Fate::Succeeded => census.succeeded += 1,
                Fate::Failed | Fate::Restarting => census.failed += 1,
                Fate::Active => census.active += 1,
                Fate::Going => {}
            }
            if matches!(fate, Fate::Restarting | Fate::Active) {
                census.running.push(pod);
            }
            if fate == Fate::Active && is_unplaced(pod) {
                census.waiting.push(pod);
            }
            if let Some(node) = pod.node_or_pin()
                && by_node.insert(node, (pod, fate)).is_some()
            {
                census.doubles.push(pod);
            }
        }
        for node in &seen.nodes {
            census.count_node(seen, node, by_node.get(&**node.name()).copied());
        }
        census
    }

    fn count_node(
        &mut self,
        seen: &'a Observed,
        node: &'a Arc<NodeView>,
        pod: Option<(&'a Arc<PodView>, Fate)>,
    ) {
        let fits = || seen.placement.fits(node.name(), &node.facts);
        let (desired, done) = match pod {
            None => {
                let fits = fits();
                if fits {
                    self.free.push(node.name());
                }
                (fits, false)
            }
            Some((_, Fate::Succeeded | Fate::Failed | Fate::Restarting)) => (true, true),
            // The node counts only if it would get another pod.
            Some((_, Fate::Going)) => {
                let fits = fits();
                (fits, fits)
            }
            Some((pod, Fate::Active)) => {
                let stays = may_stay(pod, node);
                if !stays {
                    self.misfits.push(pod);
                }
                (stays, false)
            }
        };
        self.desired += usize::from(desired);
        self.done += usize::from(done);
    }
}

/// True if an active pod may go on: its own node selector and tolerations say so, and its affinity while it has no node.
/// A pod on a node that fell silent is left to the taint manager, which waits for the node before it evicts.
fn may_stay(pod: &PodView, node: &NodeView) -> bool {
    let forgiven = if pod.node.is_some() { &SILENT_TAINTS[..] } else { &[] };
    pod.placement.selects(&node.facts)
        && pod.placement.repelled_by(&node.facts, forgiven).is_none()
        && pod.placement.is_drawn_to(node.name(), &node.facts)
}

/// True if the scheduler has said that there is no room for the pod.
fn is_unplaced(pod: &PodView) -> bool {
    pod.node.is_none()
        && pod
            .condition("PodScheduled")
            .is_some_and(|found| &*found.status == "False" && &*found.reason == "Unschedulable")
}
