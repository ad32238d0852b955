//! The stores a CloneSet is observed from.

use kruise_api::cloneset::v1beta1::CloneSet;
use kruise_common::pod::PodView;
use kruise_common::revision::Revision;
use kruise_runtime::store::Store;
use kruise_runtime::views::Whole;

pub use kruise_runtime::views::{NodeView, StoredClaim};

/// A CloneSet as it is kept.
pub type SetView = Whole<CloneSet>;

/// All that one round reads.
#[derive(Clone, Default)]
pub struct Stores {
    /// CloneSets.
    pub sets: Store<SetView>,
    /// Pods.
    pub pods: Store<PodView>,
    /// Claims.
    pub claims: Store<StoredClaim>,
    /// Revisions.
    pub revisions: Store<Revision>,
    /// Nodes.
    pub nodes: Store<NodeView>,
}

impl Stores {
    /// Resolves when every store has its first complete list.
    pub async fn ready(&self) {
        self.sets.ready().await;
        self.pods.ready().await;
        self.claims.ready().await;
        self.revisions.ready().await;
        self.nodes.ready().await;
    }
}
