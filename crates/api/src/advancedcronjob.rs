//! `AdvancedCronJob`: a job of one of three kinds, at the times of a schedule. Types are those of v1beta1; v1alpha1 only
//! lacks the third kind. What is created is kept as raw JSON.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::broadcastjob::BroadcastJobSpec;
use crate::conversion::ConversionError;
use crate::imagelistpulljob::ImageListPullJobSpec;

/// The kind's name.
pub const KIND: &str = "AdvancedCronJob";

/// When something is run, and what.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "apps.kruise.io",
    version = "v1beta1",
    kind = "AdvancedCronJob",
    plural = "advancedcronjobs",
    singular = "advancedcronjob",
    shortname = "acj",
    namespaced,
    status = "AdvancedCronJobStatus",
    derive = "PartialEq",
    doc = "AdvancedCronJob creates a Job, a BroadcastJob or an ImageListPullJob at the times of a cron schedule."
)]
#[serde(rename_all = "camelCase")]
pub struct AdvancedCronJobSpec {
    /// When to run: five cron fields, or a descriptor such as @daily or "@every 90s". See docs/advanced-cronjob.md.
    pub schedule: String,
    /// Name of the time zone of the schedule, such as Asia/Shanghai. Default: the zone of the manager, usually UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Seconds after its time within which a run may still start; later it is left out. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starting_deadline_seconds: Option<i64>,
    /// What happens when a run is due while an earlier one is not finished: Allow starts it as well, Forbid waits until
    /// the earlier one has finished, Replace deletes the earlier one. Default Allow; Replace with an ImageListPullJob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Allow", "Forbid", "Replace"]))]
    pub concurrency_policy: Option<String>,
    /// Start nothing by schedule until this is false again. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// How many jobs that succeeded are kept. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successful_jobs_history_limit: Option<i32>,
    /// How many jobs that failed are kept. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_jobs_history_limit: Option<i32>,
    /// What is run: exactly one of its fields.
    pub template: CronJobTemplate,
}

/// What is run: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronJobTemplate {
    /// A batch/v1 Job: its metadata (labels and annotations) and its spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::raw_object")]
    pub job_template: Option<Value>,
    /// A BroadcastJob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast_job_template: Option<BroadcastJobTemplate>,
    /// An ImageListPullJob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_list_pull_job_template: Option<ImageListPullJobTemplate>,
}

/// A BroadcastJob to create.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BroadcastJobTemplate {
    /// Labels and annotations of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::raw_object")]
    pub metadata: Option<Value>,
    /// Spec of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BroadcastJobSpec>")]
    pub spec: Option<Value>,
}

/// An ImageListPullJob to create.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ImageListPullJobTemplate {
    /// Labels and annotations of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::raw_object")]
    pub metadata: Option<Value>,
    /// Spec of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ImageListPullJobSpec>")]
    pub spec: Option<Value>,
}

/// What is running, and what ran last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdvancedCronJobStatus {
    /// The kind of the jobs: Job, BroadcastJob or ImageListPullJob.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// The jobs that have not finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Vec<ObjectReference>>,
    /// The time for which the latest run was scheduled, which is kept when that run's job is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
}

/// A v1alpha1 object as v1beta1.
///
/// # Errors
/// None; the signature is that of all conversions.
pub fn to_v1beta1(object: Value) -> Result<Value, ConversionError> {
    Ok(crate::conversion::renamed(object, crate::V1BETA1))
}

/// A v1beta1 object as v1alpha1.
///
/// # Errors
/// The template is of the kind that v1alpha1 does not know.
pub fn to_v1alpha1(object: Value) -> Result<Value, ConversionError> {
    let third = object.pointer("/spec/template/imageListPullJobTemplate");
    if third.is_some_and(|template| !template.is_null()) {
        return Err(ConversionError::NotSupported("imageListPullJobTemplate", "v1alpha1"));
    }
    Ok(crate::conversion::renamed(object, crate::V1ALPHA1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn beta(template: &Value) -> Value {
        json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "AdvancedCronJob", "metadata": {"name": "a"},
            "spec": {"schedule": "* * * * *", "template": template}, "status": {"type": "Job"}})
    }

    #[test]
    fn both_versions_are_the_same_but_for_their_name() {
        for template in
            [json!({"jobTemplate": {"spec": {"new": [1]}}}), json!({"broadcastJobTemplate": {"spec": {}}})]
        {
            let alpha = to_v1alpha1(beta(&template)).unwrap();
            assert_eq!(alpha["apiVersion"], "apps.kruise.io/v1alpha1");
            assert_eq!(alpha["spec"], beta(&template)["spec"]);
            assert_eq!(to_v1beta1(alpha).unwrap(), beta(&template));
        }
    }

    #[test]
    fn a_list_of_images_has_no_form_in_v1alpha1() {
        let error = to_v1alpha1(beta(&json!({"imageListPullJobTemplate": {"spec": {}}}))).unwrap_err();
        assert_eq!(error.to_string(), "imageListPullJobTemplate is not supported in v1alpha1");
    }

    #[test]
    fn what_the_schema_does_not_know_survives_in_templates() {
        let object = beta(
            &json!({"broadcastJobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"x": {"y": 1}}}}),
        );
        let typed: AdvancedCronJob = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(serde_json::to_value(typed).unwrap()["spec"], object["spec"]);
    }
}
