//! One round of one list, and what wakes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kruise_api::imagelistpulljob::{FailedImageStatus, ImageListPullJob, ImageListPullJobStatus, KIND};
use kruise_api::imagepulljob::ImagePullJob;
use kruise_api::keys;
use kruise_common::key::ObjectKey;
use kruise_runtime::controller::{Failed, Requeue};
use kruise_runtime::events::{EventRecorder, EventType, about};
use kruise_runtime::queue::WorkQueue;
use kruise_runtime::store::{Change, Store};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde::Serialize;

use super::plan;
use crate::apply::{Error, Guard, MetadataPatch, StatusPatch, failure, is_code, is_reason, only, settled};
use crate::plan::delete_in;
use crate::stores::{JobView, ListView};

/// Name of the controller: label of its metrics, source of its events.
pub const NAME: &str = "imagelistpulljob-controller";

/// Changes of jobs within this time are one round's.
const DEBOUNCE: Duration = Duration::from_millis(500);

/// What rounds need.
pub struct Context {
    /// The API server.
    pub client: kube::Client,
    /// The lists.
    pub lists: Store<ListView>,
    /// The jobs.
    pub jobs: Store<JobView>,
    /// Tells of creations and deletions.
    pub events: EventRecorder,
    /// The time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Context {
    fn lists(&self, list: &ListView) -> Api<ImageListPullJob> {
        Api::namespaced(self.client.clone(), &list.key.namespace)
    }

    fn jobs(&self, list: &ListView) -> Api<ImagePullJob> {
        Api::namespaced(self.client.clone(), &list.key.namespace)
    }

    fn children(&self, list: &ListView) -> Vec<Arc<JobView>> {
        let mut children = self.jobs.owned_by(&list.uid);
        children.retain(|child| !child.is_deleting());
        children
    }

    fn event(&self, list: &ListView, kind: EventType, reason: &str, message: &str) {
        self.events.event(about(list, kruise_api::V1BETA1, KIND), kind, reason, message);
    }
}

/// Wakes lists when something of theirs changes.
pub fn wire(queue: &WorkQueue, context: &Arc<Context>) {
    let waker = queue.clone();
    context.lists.subscribe(Box::new(move |change: &Change<ListView>| {
        if let Some(list) = &change.new {
            waker.add(list.key.clone());
        }
    }));
    let waker = queue.clone();
    context.jobs.subscribe(Box::new(move |change: &Change<JobView>| {
        let Some(job) = change.new.as_ref().or(change.old.as_ref()) else { return };
        let owners = job.object.metadata.owner_references.iter().flatten();
        for owner in owners.filter(|owner| owner.kind == KIND && owner.controller == Some(true)) {
            waker.add_after(ObjectKey::new(Arc::clone(&job.key.namespace), owner.name.as_str()), DEBOUNCE);
        }
    }));
}

/// One round.
///
/// # Errors
/// The first failure of the round; what succeeded is published all the same.
pub async fn reconcile(key: ObjectKey, context: Arc<Context>) -> Result<Requeue, Failed<Error>> {
    settled(round(&key, &context).await, None)
}

async fn round(key: &ObjectKey, context: &Context) -> Result<Requeue, Error> {
    let Some(list) = context.lists.get(key) else { return Ok(Requeue::None) };
    tracing::Span::current().record("generation", list.object.metadata.generation);
    if list.object.metadata.deletion_timestamp.is_some() {
        return Ok(Requeue::None);
    }
    if let Some(completed) = list.object.status.as_ref().and_then(|status| status.completion_time.as_ref()) {
        return finish(&list, completed.0, context).await;
    }
    label(&list, context).await?;
    let plan::Plan { create, delete } = plan::plan(&list.object, &context.children(&list));
    let created = self::create(&list, create, context).await;
    let deleted = self::delete(&list, delete, context).await;
    publish(&list, &plan::status(&list.object, &context.children(&list), (context.clock)()), context).await?;
    created.and(deleted)?;
    Ok(Requeue::None)
}

/// Deletes a finished list when its time has come.
async fn finish(list: &ListView, completed: Timestamp, context: &Context) -> Result<Requeue, Error> {
    let ttl = list.object.spec.template.completion_policy.ttl_seconds_after_finished;
    match delete_in(completed, ttl, (context.clock)()) {
        None => Ok(Requeue::None),
        Some(wait) if !wait.is_zero() => Ok(Requeue::After(wait)),
        Some(_) => match context.lists(list).delete(&list.key.name, &only(&list.uid.0, None)).await {
            Ok(_) => Ok(Requeue::None),
            Err(error) if is_code(&error, 404) => Ok(Requeue::None),
            Err(error) => Err(failure(&list.key, error)),
        },
    }
}

#[derive(Debug, Serialize)]
struct Labels<'a> {
    uid: &'a str,
    labels: BTreeMap<&'a str, &'a str>,
}

async fn label(list: &ListView, context: &Context) -> Result<(), Error> {
    let hash = plan::hash(&list.object.spec.template);
    let labels = list.object.metadata.labels.as_ref();
    if labels.and_then(|labels| labels.get(keys::CONTROLLER_REVISION_HASH)) == Some(&hash) {
        return Ok(());
    }
    let labels = BTreeMap::from([(keys::CONTROLLER_REVISION_HASH, hash.as_str())]);
    let patch = Patch::Merge(MetadataPatch { metadata: Labels { uid: &list.uid.0, labels } });
    let answer = context.lists(list).patch(&list.key.name, &PatchParams::default(), &patch).await;
    take_in(answer.map_err(|error| failure(&list.key, error))?, context);
    Ok(())
}

fn take_in(list: ImageListPullJob, context: &Context) {
    if let Some(view) = ListView::of(list) {
        context.lists.apply_own(view);
    }
}

/// Creates jobs in batches that double while they succeed.
async fn create(list: &ListView, jobs: Vec<ImagePullJob>, context: &Context) -> Result<(), Error> {
    let api = context.jobs(list);
    let (mut jobs, mut batch, mut created) = (jobs.into_iter(), 1, 0_usize);
    let mut outcome = Ok(());
    while outcome.is_ok() {
        let next: Vec<_> = jobs.by_ref().take(batch).collect();
        if next.is_empty() {
            break;
        }
        batch *= 2;
        let params = PostParams::default();
        let answers = futures::future::join_all(next.iter().map(|job| api.create(&params, job))).await;
        for (job, answer) in next.iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    created += 1;
                    if let Some(view) = JobView::of(answer) {
                        context.jobs.apply_own(view);
                    }
                }
                // An earlier creation of ours whose answer was lost, or one that is still going: the watch will tell.
                Err(error) if is_reason(&error, "AlreadyExists") => {
                    outcome = outcome.and(Err(Error::Conflict(list.key.clone())));
                }
                Err(error) => {
                    let message =
                        format!("failed to create ImagePullJob for image {}: {error}", job.spec.image);
                    context.event(list, EventType::Warning, "FailedCreateImagePullJob", &message);
                    outcome = outcome.and(Err(failure(&list.key, error)));
                }
            }
        }
    }
    if created > 0 {
        let message = format!("Create {created} ImagePullJob");
        context.event(list, EventType::Normal, "Successful create ImagePullJob", &message);
    }
    outcome
}

async fn delete(list: &ListView, jobs: Vec<Arc<JobView>>, context: &Context) -> Result<(), Error> {
    let api = context.jobs(list);
    let (mut deleted, mut outcome) = (0_usize, Ok(()));
    for job in jobs {
        match api.delete(&job.key.name, &only(&job.uid.0, None)).await {
            Ok(answer) => {
                deleted += 1;
                match answer.left().and_then(JobView::of).filter(JobView::is_deleting) {
                    Some(view) => context.jobs.apply_own(view),
                    None => context.jobs.remove_own(&job.key, &job.uid),
                }
            }
            Err(error) if is_code(&error, 404) => context.jobs.remove_own(&job.key, &job.uid),
            Err(error) => outcome = outcome.and(Err(failure(&job.key, error))),
        }
    }
    if deleted > 0 {
        let message = format!("Delete {deleted} ImagePullJob");
        context.event(list, EventType::Normal, "Successful delete ImagePullJob", &message);
    }
    outcome
}

/// A status in full: what is absent is taken away.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WholeStatus<'a> {
    start_time: Option<&'a Time>,
    completion_time: Option<&'a Time>,
    desired: i32,
    active: i32,
    completed: i32,
    succeeded: i32,
    failed_image_statuses: Option<&'a [FailedImageStatus]>,
}

async fn publish(list: &ListView, wanted: &ImageListPullJobStatus, context: &Context) -> Result<(), Error> {
    if list.object.status.as_ref() == Some(wanted) {
        return Ok(());
    }
    let status = WholeStatus {
        start_time: wanted.start_time.as_ref(),
        completion_time: wanted.completion_time.as_ref(),
        desired: wanted.desired,
        active: wanted.active,
        completed: wanted.completed,
        succeeded: wanted.succeeded,
        failed_image_statuses: wanted.failed_image_statuses.as_deref(),
    };
    let metadata = Guard { uid: &list.uid.0, resource_version: None };
    let patch = Patch::Merge(StatusPatch { metadata, status });
    match context.lists(list).patch_status(&list.key.name, &PatchParams::default(), &patch).await {
        Ok(answer) => {
            take_in(answer, context);
            Ok(())
        }
        Err(error) if is_code(&error, 404) => Ok(()),
        Err(error) => Err(failure(&list.key, error)),
    }
}
