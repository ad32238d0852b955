//! `CloneSet` in `v1alpha1`: served for those who still speak it, never stored.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::v1beta1::{CloneSetCondition, CloneSetStatus};
use crate::raw::RawJson;
pub use crate::shared::{
    InPlaceUpdateStrategy, Lifecycle, LifecycleHook, OrderPriorityTerm, PriorityStrategy, ScatterTerm,
    WeightPriorityTerm,
};

/// What a CloneSet should look like: how many pods, made from which template, and how they are replaced.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "apps.kruise.io",
    version = "v1alpha1",
    kind = "CloneSet",
    plural = "clonesets",
    singular = "cloneset",
    shortname = "clone",
    namespaced,
    status = "CloneSetStatus",
    derive = "PartialEq",
    storage = false,
    doc = "CloneSet runs a number of interchangeable pods directly, without ReplicaSets in between. Pods can be updated in place, deleted selectively and keep volume claims of their own. Prefer apps.kruise.io/v1beta1."
)]
#[serde(rename_all = "camelCase")]
pub struct CloneSetSpec {
    /// How many active pods there should be. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i32>,
    /// The pods that belong to this set. Must not be empty, must match the template's labels and cannot be
    /// changed.
    pub selector: LabelSelector,
    /// The pod that new pods are made from, a PodTemplateSpec. Changing it starts an update. restartPolicy must
    /// be Always and activeDeadlineSeconds cannot be set.
    #[schemars(schema_with = "crate::schema::raw_object")]
    pub template: RawJson,
    /// PersistentVolumeClaims to make for every pod, each of which can be mounted as a volume of the same name.
    /// Changes apply to newly created pods only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::raw_anything")]
    pub volume_claim_templates: Option<Vec<RawJson>>,
    /// How many revisions that no pod uses are kept for going back to. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_history_limit: Option<i32>,
    /// Seconds a pod must have been Ready to count as available. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ready_seconds: Option<i32>,
    /// Seconds an update may go on before the condition Progressing turns False. Without it, or with 2147483647,
    /// there is no such condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline_seconds: Option<i32>,
    /// Hooks that let another controller hold pods before deletion, before an in-place update and before they
    /// go into service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
    /// How pods are added and removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_strategy: Option<CloneSetScaleStrategy>,
    /// How pods are brought to a new template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<CloneSetUpdateStrategy>,
}

/// How pods are added and removed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloneSetScaleStrategy {
    /// Names of pods to delete before any other. Names of pods that are gone are taken off the list. A pod
    /// listed here is replaced unless replicas shrinks as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods_to_delete: Option<Vec<String>>,
    /// While pods are being added, never have more than this many unavailable ones: a number, or a percentage
    /// of replicas. Does not limit deletion. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
    /// Delete the volume claims of deleted pods instead of giving them to new ones. Default false.
    #[serde(rename = "disablePVCReuse", default, skip_serializing_if = "Option::is_none")]
    pub disable_pvc_reuse: Option<bool>,
}

/// How pods are brought to a new template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloneSetUpdateStrategy {
    /// ReCreate replaces pods; InPlaceIfPossible changes the running pod when only images and metadata differ
    /// and replaces it otherwise; InPlaceOnly never replaces one; OnDelete waits until a pod is deleted.
    /// Default ReCreate.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "ReCreate", "InPlaceIfPossible", "InPlaceOnly", "OnDelete"]))]
    pub type_: Option<String>,
    /// How many pods stay at the old template: a number, or a percentage of replicas, rounded up. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<IntOrString>,
    /// How many pods may be unavailable during an update: a number, or a percentage of replicas, rounded down
    /// (up when maxSurge is 0). Default 20%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
    /// How many pods there may be above replicas during an update or while a pod is deleted by name: a number,
    /// or a percentage of replicas, rounded up. Not with InPlaceOnly. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<IntOrString>,
    /// Stop updating pods. Scaling goes on. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Which pods are updated first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_strategy: Option<PriorityStrategy>,
    /// Labels whose pods are spread evenly over the course of an update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scatter_strategy: Option<Vec<ScatterTerm>>,
    /// How a running pod is updated without being recreated. In this version the imagePreDownload fields are
    /// ignored: set the annotations apps.kruise.io/image-predownload-parallelism, -timeout-seconds and
    /// -min-updated-ready-pods on the CloneSet instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place_update_strategy: Option<InPlaceUpdateStrategy>,
}
