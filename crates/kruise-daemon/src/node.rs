//! What the node says about itself.

use std::time::Duration;

use kube::Api;
use kube::api::GetParams;

use crate::wire::NodeWire;

/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Name of the container runtime that the node's kubelet uses, which is the scheme of its container IDs; none if the node
/// cannot be read, which an agent with the rights of an older release cannot.
pub async fn runtime_name(client: &kube::Client, node: &str) -> Option<String> {
    let nodes: Api<NodeWire> = Api::all(client.clone());
    // Any version will do: the server answers from its cache.
    let any = GetParams { resource_version: Some("0".to_owned()) };
    let found = match tokio::time::timeout(PATIENCE, nodes.get_with(node, &any)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(node, %error, "cannot ask which runtime the node uses");
            return None;
        }
        Err(_) => {
            tracing::warn!(node, "cannot ask which runtime the node uses: no answer");
            return None;
        }
    };
    let reported = found.status.node_info.container_runtime_version;
    reported.split_once("://").map(|(name, _)| name.to_owned()).filter(|name| !name.is_empty())
}
