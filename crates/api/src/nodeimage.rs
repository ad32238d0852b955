//! `NodeImage`: what one node should pull and how far it is; named like the node. Written by the manager (spec) and
//! by the node's agent (status). Both served versions have the same shape but for [`PullSecret::mode`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::imagepulljob::SandboxConfig;

/// The kind's name.
pub const KIND: &str = "NodeImage";

/// What one node should pull.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "apps.kruise.io",
    version = "v1beta1",
    kind = "NodeImage",
    plural = "nodeimages",
    singular = "nodeimage",
    status = "NodeImageStatus",
    derive = "PartialEq",
    doc = "NodeImage says which images one node should pull, and how far it is. There is one for every node, of the same name."
)]
#[serde(rename_all = "camelCase")]
pub struct NodeImageSpec {
    /// The images, by name without tag; at most 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<BTreeMap<String, ImageSpec>>,
}

/// The wanted tags of one image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// Secrets that hold credentials of the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secrets: Option<Vec<PullSecret>>,
    /// Labels and annotations handed to the container runtime with every pull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_config: Option<SandboxConfig>,
    /// The tags, in order.
    pub tags: Vec<ImageTagSpec>,
}

/// A Secret with credentials of a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullSecret {
    /// The Secret's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The Secret's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// "batch" for a copy that several jobs share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// One wanted tag of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageTagSpec {
    /// The tag, or a digest like `sha256:…`.
    pub tag: String,
    /// When it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Time>,
    /// How long and how often the pull is tried, and how long the entry is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<ImageTagPullPolicy>,
    /// The jobs that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_references: Option<Vec<ObjectReference>>,
    /// Counts the pulls of this tag: a larger number asks for a new one.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(transform = crate::schema::without_default)]
    pub version: i64,
    /// IfNotPresent does nothing when the node has the image; anything else asks the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,
}

/// How long and how often a pull is tried, and how long its entry is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageTagPullPolicy {
    /// Seconds one attempt may take. Default 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i32>,
    /// How often a failed pull is tried again. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_limit: Option<i32>,
    /// Seconds after which the entry of a finished pull is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds_after_finished: Option<i32>,
    /// Seconds from its start after which an unfinished pull is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<i64>,
}

/// How far one node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeImageStatus {
    /// Number of pulls asked for.
    pub desired: i32,
    /// Number of pulls that succeeded.
    pub succeeded: i32,
    /// Number of pulls that failed for good.
    pub failed: i32,
    /// Number of pulls that are running.
    pub pulling: i32,
    /// Number of pulls that wait for their turn.
    #[serde(default)]
    #[schemars(transform = crate::schema::without_default)]
    pub waiting: i32,
    /// The state of each pull, by the image's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_statuses: Option<BTreeMap<String, ImageStatus>>,
    /// The first time that everything asked for was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_sync_status: Option<SyncStatus>,
}

/// The state of the tags of one image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// The tags, in order.
    pub tags: Vec<ImageTagStatus>,
}

/// The state of one pull.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageTagStatus {
    /// The tag, or a digest like `sha256:…`.
    pub tag: String,
    /// Waiting, Pulling, Succeeded or Failed.
    #[schemars(with = "String")]
    pub phase: ImagePullPhase,
    /// Per cent done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<i32>,
    /// When the pull began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the pull ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// The version of the tag in spec that this is about.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(transform = crate::schema::without_default)]
    pub version: i64,
    /// What the runtime calls the image.
    #[serde(rename = "imageID", default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// Why the pull failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far a pull is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ImagePullPhase {
    /// Waits for its turn.
    #[default]
    Waiting,
    /// Is running.
    Pulling,
    /// The image is there.
    Succeeded,
    /// Given up.
    Failed,
}

/// The outcome of the first time that everything asked for was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncStatus {
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_at: Option<Time>,
    /// Succeeded or Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(version: &i64) -> bool {
    *version == 0
}
