//! `CloneSet` in `v1beta1`: the version that is stored and that everything else in Kruise works with.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::raw::RawJson;
pub use crate::shared::{
    InPlaceUpdateStrategy, Lifecycle, LifecycleHook, OrderPriorityTerm, PriorityStrategy, ScatterTerm,
    WeightPriorityTerm,
};

/// What a CloneSet should look like: how many pods, made from which template, and how they are replaced.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "apps.kruise.io",
    version = "v1beta1",
    kind = "CloneSet",
    plural = "clonesets",
    singular = "cloneset",
    shortname = "clone",
    namespaced,
    status = "CloneSetStatus",
    derive = "PartialEq",
    doc = "CloneSet runs a number of interchangeable pods directly, without ReplicaSets in between. Pods can be updated in place, deleted selectively and keep volume claims of their own."
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
    /// Give new pods the volume claims left behind by deleted ones, instead of deleting those. Default false.
    #[serde(rename = "enablePVCReuse", default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub enable_pvc_reuse: Option<bool>,
    /// Do not count pods held by a preDelete hook as replicas, so that their replacements are created at once.
    /// Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude_preparing_delete: Option<bool>,
}

/// How pods are brought to a new template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloneSetUpdateStrategy {
    /// RollingUpdate changes pods by itself; OnDelete waits until a pod is deleted. Default RollingUpdate.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "RollingUpdate", "OnDelete"]))]
    pub type_: Option<String>,
    /// Order, pace and limits of an update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling_update: Option<RollingUpdateCloneSet>,
}

/// Order, pace and limits of an update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollingUpdateCloneSet {
    /// ReCreate replaces pods; InPlaceIfPossible changes the running pod when only images and metadata differ
    /// and replaces it otherwise; InPlaceOnly never replaces one. Default ReCreate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "ReCreate", "InPlaceIfPossible", "InPlaceOnly"]))]
    pub pod_update_policy: Option<String>,
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
    /// How a running pod is updated without being recreated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place_update_strategy: Option<InPlaceUpdateStrategy>,
}

/// What was last seen of a CloneSet. All counts are of active pods that belong to the set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloneSetStatus {
    /// The metadata.generation this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of pods.
    pub replicas: i32,
    /// Number of pods that are Ready.
    pub ready_replicas: i32,
    /// Number of pods that have been Ready for minReadySeconds and that no hook holds.
    pub available_replicas: i32,
    /// Number of pods at the update revision.
    pub updated_replicas: i32,
    /// Number of pods at the update revision that are Ready.
    pub updated_ready_replicas: i32,
    /// Number of pods at the update revision that are available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_available_replicas: Option<i32>,
    /// Number of pods that will be at the update revision when the partition is filled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_updated_replicas: Option<i32>,
    /// Name of the ControllerRevision of the present template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_revision: Option<String>,
    /// Name of the ControllerRevision all pods were last at; new pods below the partition use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<String>,
    /// Number of times a revision's name was taken by another, which changes later names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
    /// The selector as text, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
    /// Latest observations of the set's state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<CloneSetCondition>>,
}

/// One observation of a CloneSet's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloneSetCondition {
    /// FailedScale, FailedUpdate or Progressing.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// When the reason or status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Time>,
    /// When the status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// One word for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
