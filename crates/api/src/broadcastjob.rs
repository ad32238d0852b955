//! `BroadcastJob`: one pod to its end on every node that can run it. Both served versions have the same shape, so that
//! one set of types serves them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::raw::RawJson;

/// The kind's name.
pub const KIND: &str = "BroadcastJob";

/// A pod, and how it is brought to every node.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "apps.kruise.io",
    version = "v1beta1",
    kind = "BroadcastJob",
    plural = "broadcastjobs",
    singular = "broadcastjob",
    shortname = "bcj",
    namespaced,
    status = "BroadcastJobStatus",
    derive = "PartialEq",
    doc = "BroadcastJob runs a pod to its end on every node that can run it, like a DaemonSet that ends. It can also go on and serve the nodes that join later."
)]
#[serde(rename_all = "camelCase")]
pub struct BroadcastJobSpec {
    /// How many pods run at once: a number, or a percentage of the nodes, rounded up. 0 starts none. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<IntOrString>,
    /// The pod to run, a PodTemplateSpec. restartPolicy must be Never or OnFailure. Changes apply to pods that are
    /// created afterwards.
    #[schemars(schema_with = "crate::schema::raw_object")]
    pub template: RawJson,
    /// When the job is finished and what becomes of it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_policy: Option<CompletionPolicy>,
    /// Create and delete no pods; those that run go on. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// What a failed pod means for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<FailurePolicy>,
}

/// When a job is finished and what becomes of it then.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompletionPolicy {
    /// Always: finished once the pods of all nodes have ended. Never: goes on, also for nodes that join later.
    /// Default Always.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// Seconds from its start after which an unfinished job is failed. Only with Always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<i64>,
    /// Seconds after which a finished job is deleted. Only with Always. Default: it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds_after_finished: Option<i32>,
}

/// What a failed pod means for the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailurePolicy {
    /// Continue: nothing. FailFast: the job fails and what still runs is deleted. Pause: no more pods are created
    /// until no failed pod is left, or until someone pauses and resumes the job. Default FailFast.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// How often the containers of one pod with restartPolicy OnFailure may restart, all together. A pod with more
    /// restarts counts as failed. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_limit: Option<i32>,
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BroadcastJobStatus {
    /// Complete or Failed, once the job has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<JobCondition>>,
    /// When the job was first looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Number of pods that run or are about to.
    #[serde(default)]
    #[schemars(transform = crate::schema::without_default)]
    pub active: i32,
    /// Number of pods that ended well.
    #[serde(default)]
    #[schemars(transform = crate::schema::without_default)]
    pub succeeded: i32,
    /// Number of pods that failed, or restarted more often than the restart limit allows.
    #[serde(default)]
    #[schemars(transform = crate::schema::without_default)]
    pub failed: i32,
    /// Number of nodes that should have run the pod in the end.
    #[serde(default)]
    #[schemars(transform = crate::schema::without_default)]
    pub desired: i32,
    /// running, paused, completed or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// With failure policy Pause: the number of failed pods there were when someone paused the job, which do not pause
    /// it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_failed: Option<i32>,
}

/// How a job ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobCondition {
    /// Complete or Failed.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// When the condition was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_time: Option<Time>,
    /// When the status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// One word for machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl BroadcastJobStatus {
    /// True if a condition of that type is True.
    pub fn is(&self, type_: &str) -> bool {
        self.conditions.iter().flatten().any(|found| found.type_ == type_ && found.status == "True")
    }
}

/// Condition: all nodes are done.
pub const COMPLETE: &str = "Complete";
/// Condition: the job was given up.
pub const FAILED: &str = "Failed";
