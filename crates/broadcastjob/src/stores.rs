//! The stores a BroadcastJob is observed from.

use kruise_api::broadcastjob::BroadcastJob;
use kruise_common::pod::PodView;
use kruise_runtime::nodes::NodeView;
use kruise_runtime::store::Store;
use kruise_runtime::views::Whole;

/// A BroadcastJob as it is kept.
pub type JobView = Whole<BroadcastJob>;

/// All that one round reads.
#[derive(Clone, Default)]
pub struct Stores {
    /// BroadcastJobs.
    pub jobs: Store<JobView>,
    /// Pods.
    pub pods: Store<PodView>,
    /// Nodes.
    pub nodes: Store<NodeView>,
}

impl Stores {
    /// Resolves when every store has its first complete list.
    pub async fn ready(&self) {
        self.jobs.ready().await;
        self.pods.ready().await;
        self.nodes.ready().await;
    }
}
