//! The pods of the node, as far as the agent reads them.

use std::sync::Arc;

use kruise_api::keys;
use kruise_common::inplace::RuntimeMeta;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use kruise_runtime::store::View;
use kube::Resource as _;

/// A pod of the node.
#[derive(Debug)]
pub(crate) struct NodePod {
    pub(crate) pod: PodView,
    /// What was last reported of its containers; none if that was never done, or cannot be read.
    pub(crate) reported: Option<RuntimeMeta>,
}

impl NodePod {
    /// Reads a pod.
    #[expect(clippy::unnecessary_wraps, reason = "watches take projections that may fail")]
    pub(crate) fn of(wire: PodWire) -> Option<Self> {
        let annotations = wire.meta().annotations.as_ref();
        let reported = annotations.and_then(|map| map.get(keys::RUNTIME_CONTAINERS_META));
        let reported = reported.and_then(|text| serde_json::from_str(text).ok());
        Some(Self { pod: PodView::from(wire), reported })
    }
}

impl View for NodePod {
    fn key(&self) -> ObjectKey {
        self.pod.key.clone()
    }

    fn uid(&self) -> &Uid {
        &self.pod.uid
    }

    fn resource_version(&self) -> &str {
        &self.pod.resource_version
    }

    fn owners(&self) -> Vec<Uid> {
        Vec::new()
    }
}

/// The pods of the node, shared.
pub(crate) type PodStore = kruise_runtime::store::Store<NodePod>;

/// A pod by its key, if it still is the one with that UID.
pub(crate) fn find(pods: &PodStore, key: &ObjectKey, uid: &str) -> Option<Arc<NodePod>> {
    pods.get(key).filter(|pod| &*pod.pod.uid.0 == uid)
}
