//! Which jobs a list needs, and what they tell of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kruise_api::imagelistpulljob::{FailedImageStatus, ImageListPullJob, ImageListPullJobStatus, KIND};
use kruise_api::imagepulljob::{ImagePullJob, ImagePullJobSpec, ImagePullJobTemplate};
use kruise_api::keys;
use kruise_common::revision::fnv1;

use crate::plan::goes_on;
use crate::stores::JobView;
use crate::task::{DEFAULT_BACKOFF_LIMIT, DEFAULT_TIMEOUT_SECONDS, whole_seconds};

/// Characters of a list's name that its jobs' names begin with.
const KEPT_OF_NAME: usize = 54;

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Jobs to create.
    pub create: Vec<ImagePullJob>,
    /// Jobs that are of no use any more.
    pub delete: Vec<Arc<JobView>>,
}

/// A template with its defaults, and without the time after which a finished job goes: the jobs of a list stay as long
/// as the list, which would have to pull again what is forgotten.
fn essence(template: &ImagePullJobTemplate) -> ImagePullJobTemplate {
    let mut template = template.clone();
    template.completion_policy.ttl_seconds_after_finished = None;
    if template.completion_policy.type_.as_ref().is_none_or(String::is_empty) {
        template.completion_policy.type_ = Some("Always".to_owned());
    }
    let policy = template.pull_policy.get_or_insert_default();
    policy.timeout_seconds.get_or_insert(DEFAULT_TIMEOUT_SECONDS);
    policy.backoff_limit.get_or_insert(DEFAULT_BACKOFF_LIMIT);
    if template.image_pull_policy.as_ref().is_none_or(String::is_empty) {
        template.image_pull_policy = Some("IfNotPresent".to_owned());
    }
    template.pull_secrets = template.pull_secrets.filter(|secrets| !secrets.is_empty());
    template
}

/// The hash of a list's template, told as a label; nothing is decided by it.
pub fn hash(template: &ImagePullJobTemplate) -> String {
    format!("{:08x}", fnv1(&[&serde_json::to_vec(&essence(template)).unwrap_or_default()]))
}

/// Which jobs to create and to delete. `children` are those that the list controls and that are not being deleted.
pub fn plan(list: &ImageListPullJob, children: &[Arc<JobView>]) -> Plan {
    let wanted = essence(&list.spec.template);
    let hash = hash(&list.spec.template);
    let mut plan = Plan::default();
    let mut kept = BTreeSet::new();
    for image in distinct(&list.spec.images) {
        let fits = |child: &&Arc<JobView>| {
            child.object.spec.image == *image && essence(&child.object.spec.template) == wanted
        };
        match children.iter().filter(fits).min_by(|a, b| a.key.name.cmp(&b.key.name)) {
            Some(child) => {
                kept.insert(child.uid.clone());
            }
            None => plan.create.push(job(list, image, &hash)),
        }
    }
    plan.delete = children.iter().filter(|child| !kept.contains(&child.uid)).cloned().collect();
    plan.delete.sort_by(|a, b| a.key.name.cmp(&b.key.name));
    plan
}

fn distinct(images: &[String]) -> impl Iterator<Item = &String> {
    let mut seen = BTreeSet::new();
    images.iter().filter(move |image| seen.insert(*image))
}

/// The job of one image. Its name follows from what it is for, so that one whose creation was not answered is found.
fn job(list: &ImageListPullJob, image: &str, hash: &str) -> ImagePullJob {
    let meta = &list.metadata;
    let (name, uid) = (meta.name.as_deref().unwrap_or_default(), meta.uid.as_deref().unwrap_or_default());
    let kept: String = name.chars().take(KEPT_OF_NAME).collect();
    let suffix = fnv1(&[uid.as_bytes(), b"/", hash.as_bytes(), b"/", image.as_bytes()]);
    let mut template = list.spec.template.clone();
    template.completion_policy.ttl_seconds_after_finished = None;
    let mut job = ImagePullJob::new(
        &format!("{kept}-{suffix:08x}"),
        ImagePullJobSpec { image: image.to_owned(), template },
    );
    job.metadata = ObjectMeta {
        namespace: meta.namespace.clone(),
        labels: Some(BTreeMap::from([(keys::CONTROLLER_REVISION_HASH.to_owned(), hash.to_owned())])),
        owner_references: Some(vec![OwnerReference {
            api_version: kruise_api::V1BETA1.to_owned(),
            kind: KIND.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..job.metadata
    };
    job
}

/// What to publish.
pub fn status(list: &ImageListPullJob, children: &[Arc<JobView>], now: Timestamp) -> ImageListPullJobStatus {
    let old = list.status.clone().unwrap_or_default();
    let int = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let mut status = ImageListPullJobStatus {
        start_time: old.start_time.or_else(|| Some(whole_seconds(now))),
        desired: int(list.spec.images.len()),
        ..ImageListPullJobStatus::default()
    };
    let mut failed = Vec::new();
    for image in distinct(&list.spec.images) {
        let of_image = children.iter().filter(|child| child.object.spec.image == *image);
        let Some(child) = of_image.min_by(|a, b| a.key.name.cmp(&b.key.name)) else { continue };
        let Some(told) = child.object.status.as_ref().filter(|told| told.start_time.is_some()) else {
            continue;
        };
        status.active += i32::from(told.active > 0);
        status.completed += i32::from(told.desired == told.failed.saturating_add(told.succeeded));
        status.succeeded += i32::from(told.desired == told.succeeded);
        if told.failed > 0 {
            let job = &child.key.name;
            failed.push(FailedImageStatus {
                image_pull_job: Some(job.to_string()),
                name: Some(image.clone()),
                message: Some(format!(
                    "Please check for details which nodes failed by 'kubectl get ImagePullJob {job}'."
                )),
            });
        }
    }
    status.failed_image_statuses = (!failed.is_empty()).then_some(failed);
    if !goes_on(&list.spec.template) && status.completed == status.desired {
        status.completion_time = Some(whole_seconds(now));
    }
    status
}

#[cfg(test)]
mod tests {
    use kruise_common::key::{ObjectKey, Uid};
    use serde_json::{Value, json};

    use super::*;

    fn list(images: &[&str], template: Value) -> ImageListPullJob {
        let mut spec = json!({"images": images, "completionPolicy": {"type": "Always"}});
        spec.as_object_mut().unwrap().extend(template.as_object().unwrap().clone());
        serde_json::from_value(json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "ImageListPullJob",
            "metadata": {"name": "l", "namespace": "shop", "uid": "l-uid"}, "spec": spec}))
        .unwrap()
    }

    fn child(job: ImagePullJob, status: Value) -> Arc<JobView> {
        let mut job = job;
        job.status = serde_json::from_value(status).unwrap();
        let name = job.metadata.name.clone().unwrap();
        Arc::new(JobView {
            key: ObjectKey::new("shop", name.as_str()),
            uid: Uid::from(name),
            resource_version: "1".into(),
            object: job,
        })
    }

    fn made(list: &ImageListPullJob) -> Vec<Arc<JobView>> {
        plan(list, &[]).create.into_iter().map(|job| child(job, Value::Null)).collect()
    }

    #[test]
    fn every_image_gets_a_job_whose_name_is_always_the_same() {
        let list = list(&["a:1", "b:1", "c:1"], json!({"parallelism": 2}));
        let jobs = made(&list);
        assert_eq!(
            jobs.iter().map(|job| job.object.spec.image.as_str()).collect::<Vec<_>>(),
            ["a:1", "b:1", "c:1"]
        );
        assert_eq!(jobs.iter().map(|job| &job.key).collect::<BTreeSet<_>>().len(), 3);
        assert!(jobs.iter().all(|job| job.key.name.starts_with("l-") && job.key.name.len() < 64));
        assert_eq!(made(&list)[1].key, jobs[1].key);
        let again = plan(&list, &jobs);
        assert!(again.create.is_empty() && again.delete.is_empty(), "{again:?}");
    }

    #[test]
    fn an_image_that_leaves_takes_its_job_along_and_a_new_template_replaces_all() {
        let old = list(&["a:1", "b:1"], json!({}));
        let jobs = made(&old);
        let fewer = plan(&list(&["a:1"], json!({})), &jobs);
        assert_eq!(
            fewer.delete.iter().map(|job| job.object.spec.image.as_str()).collect::<Vec<_>>(),
            ["b:1"]
        );
        assert!(fewer.create.is_empty());
        let new = plan(&list(&["a:1", "b:1"], json!({"parallelism": 9})), &jobs);
        assert_eq!((new.create.len(), new.delete.len()), (2, 2));
    }

    #[test]
    fn jobs_of_the_reference_are_kept_whatever_their_hash_and_ttl_if_the_template_is_the_same() {
        let list =
            list(&["a:1"], json!({"completionPolicy": {"type": "Always", "ttlSecondsAfterFinished": 20}}));
        let mut job = plan(&list, &[]).create.remove(0);
        assert_eq!(job.spec.template.completion_policy.ttl_seconds_after_finished, None);
        job.metadata.name = Some("l-x7k2p".to_owned());
        job.metadata.labels =
            Some(BTreeMap::from([("controller-revision-hash".to_owned(), "59b9c".to_owned())]));
        job.spec.template.completion_policy.ttl_seconds_after_finished = Some(20);
        job.spec.template.image_pull_policy = Some("IfNotPresent".to_owned());
        job.spec.template.pull_policy =
            Some(kruise_api::imagepulljob::PullPolicy { timeout_seconds: Some(600), backoff_limit: Some(3) });
        let plan = plan(&list, &[child(job, Value::Null)]);
        assert!(plan.create.is_empty() && plan.delete.is_empty(), "{plan:?}");
    }

    #[test]
    fn numbers_and_failures_come_in_the_order_of_the_spec() {
        let list = list(&["z:1", "a:1", "m:1"], json!({}));
        let told = |succeeded: i32, failed: i32, active: i32| json!({"startTime": "1970-01-01T00:00:00Z", "desired": 3, "succeeded": succeeded, "failed": failed, "active": active});
        let jobs = plan(&list, &[]).create;
        let mut jobs: Vec<_> = jobs
            .into_iter()
            .zip([told(1, 2, 0), told(0, 1, 2), told(3, 0, 0)])
            .map(|(job, told)| child(job, told))
            .collect();
        let status = status(&list, &jobs, Timestamp::UNIX_EPOCH);
        assert_eq!((status.desired, status.active, status.completed, status.succeeded), (3, 1, 2, 1));
        assert_eq!(status.completion_time, None);
        let failed: Vec<_> =
            status.failed_image_statuses.clone().unwrap().into_iter().map(|f| f.name.unwrap()).collect();
        assert_eq!(failed, ["z:1", "a:1"]);
        jobs.reverse();
        assert_eq!(
            super::status(&list, &jobs, Timestamp::UNIX_EPOCH),
            status,
            "whatever the order of its input"
        );
    }

    #[test]
    fn a_list_is_finished_when_all_its_jobs_are_unless_it_goes_on() {
        let done = json!({"startTime": "1970-01-01T00:00:00Z", "desired": 1, "succeeded": 1});
        for (kind, finished) in [("Always", true), ("Never", false)] {
            let list = list(&["a:1"], json!({"completionPolicy": {"type": kind}}));
            let job = plan(&list, &[]).create.remove(0);
            let status = status(&list, &[child(job, done.clone())], Timestamp::UNIX_EPOCH);
            assert_eq!(status.completion_time.is_some(), finished, "{kind}");
        }
    }
}
