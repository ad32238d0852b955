//! Parts of a spec that several workloads have in common.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Hooks that let another controller take part in a pod's life: each one holds a step of the workload until
/// the listed labels or finalizers are taken off the pod (or, for preNormal, put on it).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// Holds the deletion of a pod while the pod carries any of these labels or finalizers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_delete: Option<LifecycleHook>,
    /// Holds an in-place update of a pod while the pod carries any of these labels or finalizers, and the
    /// return to Normal afterwards until the pod carries all of them again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place_update: Option<LifecycleHook>,
    /// Holds a new pod in PreparingNormal, where it does not count as available, until the pod carries all of
    /// these labels and finalizers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_normal: Option<LifecycleHook>,
}

/// The labels and finalizers that make up one hook.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LifecycleHook {
    /// Labels, by key and exact value, that take part in the hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels_handler: Option<BTreeMap<String, String>>,
    /// Finalizers that take part in the hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finalizers_handler: Option<Vec<String>>,
    /// Take the pod out of service for as long as the hook holds it: it is not Ready while it is
    /// PreparingDelete or PreparingUpdate. No effect on preNormal. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark_pod_not_ready: Option<bool>,
}

/// Which pods are updated first. Use one of the two kinds, not both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PriorityStrategy {
    /// Every term that matches a pod adds its weight; pods with the larger sum are updated first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_priority: Option<Vec<WeightPriorityTerm>>,
    /// Pods are ordered by the first listed label key they carry, and among those by the number at the end of
    /// the label's value, larger first. Pods with none of the keys come first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_priority: Option<Vec<OrderPriorityTerm>>,
}

/// One weighted term of an update order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WeightPriorityTerm {
    /// Added to a matching pod's sum, 0 to 100.
    pub weight: i32,
    /// The pods the term matches, by label. Must not be empty.
    pub match_selector: LabelSelector,
}

/// One label key of an update order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderPriorityTerm {
    /// Label key whose value ends in a number, such as "10" or "web-10".
    pub ordered_key: String,
}

/// Pods with this label are spread evenly over the course of an update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScatterTerm {
    /// Label key of the pods to spread.
    pub key: String,
    /// Label value of the pods to spread.
    pub value: String,
}

/// How a running pod is updated without being recreated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InPlaceUpdateStrategy {
    /// Seconds a pod is kept out of service before its containers are changed. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i32>,
    /// How many nodes pull a new image at once, when images are pulled ahead of the update. A number, not a
    /// percentage. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pre_download_parallelism: Option<IntOrString>,
    /// Seconds a node may take to pull a new image ahead of the update. Default 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pre_download_timeout_seconds: Option<i32>,
    /// Pull new images ahead only once this many pods are updated and ready. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pre_download_min_updated_ready_pods: Option<i32>,
}
