//! `ImageListPullJob`: an `ImagePullJob` for each of several images. Both served versions have the same shape.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::imagepulljob::ImagePullJobTemplate;

/// The kind's name.
pub const KIND: &str = "ImageListPullJob";

/// Images and the nodes that should have them.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "apps.kruise.io",
    version = "v1beta1",
    kind = "ImageListPullJob",
    plural = "imagelistpulljobs",
    singular = "imagelistpulljob",
    namespaced,
    status = "ImageListPullJobStatus",
    derive = "PartialEq",
    doc = "ImageListPullJob pulls several images on a set of nodes, by an ImagePullJob of its own for each image."
)]
#[serde(rename_all = "camelCase")]
pub struct ImageListPullJobSpec {
    /// The images to pull, with their tags or digests; at most 255, none twice.
    pub images: Vec<String>,
    /// Where and how they are pulled.
    #[serde(flatten)]
    pub template: ImagePullJobTemplate,
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageListPullJobStatus {
    /// When the job was first looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When every image was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Number of images.
    pub desired: i32,
    /// Number of images that some node is pulling.
    #[serde(default)]
    #[schemars(transform = crate::schema::without_default)]
    pub active: i32,
    /// Number of images that no node has to pull any more.
    #[serde(default)]
    #[schemars(transform = crate::schema::without_default)]
    pub completed: i32,
    /// Number of images that all nodes have.
    #[serde(default)]
    #[schemars(transform = crate::schema::without_default)]
    pub succeeded: i32,
    /// The images that some node could not pull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_image_statuses: Option<Vec<FailedImageStatus>>,
}

/// An image that some node could not pull.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedImageStatus {
    /// Name of the image's ImagePullJob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_job: Option<String>,
    /// The image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where to look for the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
