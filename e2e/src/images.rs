//! What nodes are asked to pull.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Event, Node};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::manager::{cluster, cluster_output, script, seen};

const MINUTE: Duration = Duration::from_mins(1);

/// A kind of Kruise.
pub fn kind(kind: &str, plural: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", kind);
    ApiResource::from_gvk_with_plural(&kind, plural)
}

/// One node's wishes and what became of them.
pub struct NodeImages {
    /// All objects of the kind.
    pub api: Api<DynamicObject>,
    /// The node.
    pub node: String,
    /// The cluster.
    pub client: kube::Client,
}

impl NodeImages {
    /// The first node of the cluster.
    pub async fn of_first_node() -> Result<Self> {
        let client = kube::Client::try_default().await.context("no cluster: set KUBECONFIG")?;
        let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
        let node = nodes.items.into_iter().filter_map(|node| node.metadata.name).min();
        let api = Api::all_with(client.clone(), &kind("NodeImage", "nodeimages"));
        Ok(Self { api, node: node.context("there is no node")?, client })
    }

    /// Asks for a tag of an image, as the manager does for a job.
    pub async fn ask(&self, image: &str, tag: &str, backoff: i32) -> Result<()> {
        if self.api.get_opt(&self.node).await?.is_none() {
            let empty = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "NodeImage",
                "metadata": {"name": self.node}, "spec": {}});
            match self.api.create(&PostParams::default(), &serde_json::from_value(empty)?).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                made => drop(made?),
            }
        }
        self.patch(image, json!({"tags": [entry(tag, backoff, 0)]})).await
    }

    /// Takes an image out of the wishes.
    pub async fn forget(&self, image: &str) -> Result<()> {
        self.patch(image, Value::Null).await
    }

    /// Sets what is wished of an image.
    pub async fn patch(&self, image: &str, value: Value) -> Result<()> {
        let mut images = serde_json::Map::new();
        images.insert(image.to_owned(), value);
        let patch = Patch::Merge(json!({"spec": {"images": images}}));
        self.api.patch(&self.node, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// The state of an image's first tag, once it has ended.
    pub async fn ended(&self, image: &str) -> Result<Value> {
        seen(&format!("the pull of {image} ends"), MINUTE, async || {
            let object = self.api.get(&self.node).await?;
            let images = object.data.pointer("/status/imageStatuses").cloned().unwrap_or_default();
            let tag = images.get(image).and_then(|image| image.pointer("/tags/0")).cloned();
            Ok(tag.filter(|tag| tag.get("completionTime").is_some()))
        })
        .await
    }

    /// Whether the node's runtime has the image.
    pub async fn is_there(&self, reference: &str) -> Result<bool> {
        Ok(cluster_output(&["images", &self.node]).await?.lines().any(|line| line == reference))
    }

    /// Messages of the node's events of a reason.
    pub async fn events(&self, reason: &str) -> Result<Vec<String>> {
        let events = Api::<Event>::namespaced(self.client.clone(), "default");
        let about =
            format!("involvedObject.kind=NodeImage,involvedObject.name={},reason={reason}", self.node);
        let events = events.list(&ListParams::default().fields(&about)).await?;
        Ok(events.items.into_iter().filter_map(|event| event.message).collect())
    }
}

/// A node whose runtime has next to no disk for what it pulls. Has its own disk again once this is dropped.
pub struct FullDisk {
    node: String,
}

impl FullDisk {
    /// Takes a node's disk away.
    pub async fn of(node: &str) -> Result<Self> {
        cluster(&["fill-disk", node]).await?;
        Ok(Self { node: node.to_owned() })
    }
}

impl Drop for FullDisk {
    /// A child process, because the runtime of a failed spec no longer runs tasks.
    fn drop(&mut self) {
        let _ = std::process::Command::new(script()).args(["empty-disk", &self.node]).status();
    }
}

/// A tag to pull if it is not there, with a minute for each attempt.
pub fn entry(tag: &str, backoff: i32, version: i64) -> Value {
    hurried_entry(tag, backoff, version, 60)
}

/// A tag to pull if it is not there, with so many seconds for each attempt.
pub fn hurried_entry(tag: &str, backoff: i32, version: i64, seconds: i32) -> Value {
    let policy = json!({"timeoutSeconds": seconds, "backoffLimit": backoff, "ttlSecondsAfterFinished": 300});
    json!({"tag": tag, "pullPolicy": policy, "version": version,
        "imagePullPolicy": "IfNotPresent"})
}
