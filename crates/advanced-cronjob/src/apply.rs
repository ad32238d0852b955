//! Writes to the API server.
//!
//! | What | Which |
//! |---|---|
//! | create, delete Job, BroadcastJob, ImageListPullJob | those the AdvancedCronJob controls, by UID |
//! | patch AdvancedCronJob status | its own, by UID |
//! | patch AdvancedCronJob annotations | `apps.kruise.io/run-now` and `apps.kruise.io/run-due`, at one version |

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kruise_api::advancedcronjob::{AdvancedCronJob, AdvancedCronJobStatus};
use kruise_api::keys;
use kruise_common::key::ObjectKey;
use kruise_runtime::events::EventType;
use kruise_runtime::writes::{Error, Guard, MetadataPatch, StatusPatch, failure, is_code, is_reason, only};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, PropagationPolicy};
use serde::Serialize;

use crate::child::{Child, Kind, Run, build};
use crate::controller::Context;
use crate::plan::Note;
use crate::stores::JobView;

fn children(job: &JobView, kind: Kind, context: &Context) -> Api<DynamicObject> {
    Api::namespaced_with(context.client.clone(), &job.key.namespace, &kind.resource())
}

/// Creates the child of a run. One that is there already and is the job's own was created by a round whose answer was
/// lost.
pub(crate) async fn create(job: &JobView, kind: Kind, run: Run, context: &Context) -> Result<Child, Error> {
    let object = build(&job.object, run, &context.local);
    let name = object.metadata.name.clone().unwrap_or_default();
    let key = ObjectKey::new(job.key.namespace.clone(), name.as_str());
    let api = children(job, kind, context);
    let answer = match api.create(&PostParams::default(), &object).await {
        Err(error) if is_reason(&error, "AlreadyExists") => {
            let found = api.get(&name).await.map_err(|error| failure(&key, error))?;
            let mut owners = found.metadata.owner_references.iter().flatten();
            if !owners.any(|owner| owner.controller == Some(true) && *owner.uid == *job.uid.0) {
                return Err(failure(&key, error));
            }
            found
        }
        Err(error) => return Err(failure(&key, error)),
        Ok(made) => {
            let (Run::Tick(due) | Run::Request(due)) = run;
            context.metrics.started(due, context.now());
            let message = format!("Created job {name}");
            context.event(job, EventType::Normal, "SuccessfulCreate", &message);
            made
        }
    };
    // An answer without an identity is no answer of an API server: the watch will tell.
    context.children.created(kind, &answer).ok_or(Error::Conflict(key))
}

/// Deletes a child; its pods follow.
pub(crate) async fn delete(job: &JobView, kind: Kind, child: &Child, context: &Context) -> Result<(), Error> {
    let params =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..only(&child.uid.0, None) };
    match children(job, kind, context).delete(&child.key.name, &params).await {
        Ok(answer) => {
            // With finalizers it stays for a while: the watch tells when it has gone.
            let stays = answer.left().is_some_and(|left| left.metadata.deletion_timestamp.is_some());
            if !stays {
                context.children.removed(kind, child);
            }
            let message = format!("Deleted job {}", child.key.name);
            context.event(job, EventType::Normal, "SuccessfulDelete", &message);
            Ok(())
        }
        Err(error) if is_code(&error, 404) => {
            context.children.removed(kind, child);
            Ok(())
        }
        Err(error) => Err(failure(&child.key, error)),
    }
}

/// A status in full: what is absent is taken away, but for the time of the last run, which nobody takes away.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WholeStatus<'a> {
    #[serde(rename = "type")]
    kind: Option<&'a str>,
    active: Option<&'a [ObjectReference]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_schedule_time: Option<&'a Time>,
}

/// Publishes a status that differs from the stored one.
pub(crate) async fn publish(
    job: &JobView,
    wanted: &AdvancedCronJobStatus,
    context: &Context,
) -> Result<(), Error> {
    if job.object.status.as_ref() == Some(wanted) {
        return Ok(());
    }
    let status = WholeStatus {
        kind: wanted.type_.as_deref(),
        active: wanted.active.as_deref(),
        last_schedule_time: wanted.last_schedule_time.as_ref(),
    };
    let metadata = Guard { uid: &job.uid.0, resource_version: None };
    let patch = Patch::Merge(StatusPatch { metadata, status });
    let api = Api::<AdvancedCronJob>::namespaced(context.client.clone(), &job.key.namespace);
    let answer = api.patch_status(&job.key.name, &PatchParams::default(), &patch).await;
    take_in(job, answer, context)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    uid: &'a str,
    resource_version: &'a str,
    annotations: BTreeMap<&'a str, Option<String>>,
}

/// Turns the user's wish for a run into a run that is due, so that the same wish can be made again and is not fulfilled
/// twice.
pub(crate) async fn accept_request(job: &JobView, now: Timestamp, context: &Context) -> Result<(), Error> {
    let due = Some(now.as_second().to_string());
    annotate(job, BTreeMap::from([(keys::RUN_NOW, None), (keys::RUN_DUE, due)]), context).await
}

/// Forgets a run by hand that has its child.
pub(crate) async fn close_request(job: &JobView, context: &Context) -> Result<(), Error> {
    annotate(job, BTreeMap::from([(keys::RUN_DUE, None)]), context).await
}

async fn annotate(
    job: &JobView,
    annotations: BTreeMap<&str, Option<String>>,
    context: &Context,
) -> Result<(), Error> {
    let metadata = Metadata { uid: &job.uid.0, resource_version: &job.resource_version, annotations };
    let patch = Patch::Merge(MetadataPatch { metadata });
    let api = Api::<AdvancedCronJob>::namespaced(context.client.clone(), &job.key.namespace);
    let answer = api.patch(&job.key.name, &PatchParams::default(), &patch).await;
    take_in(job, answer, context)
}

fn take_in(job: &JobView, answer: kube::Result<AdvancedCronJob>, context: &Context) -> Result<(), Error> {
    match answer {
        Ok(answer) => {
            if let Some(view) = JobView::of(answer) {
                context.jobs.apply_own(view);
            }
            Ok(())
        }
        Err(error) if is_code(&error, 404) => Ok(()),
        Err(error) => Err(failure(&job.key, error)),
    }
}

/// Tells what was not yet true in the round before.
pub(crate) fn tell(job: &JobView, notes: Vec<Note>, context: &Context) {
    for note in context.news(&job.uid, notes) {
        context.metrics.told(Kind::of(&job.object.spec.template), &note);
        let kind = if note.is_warning() { EventType::Warning } else { EventType::Normal };
        context.event(job, kind, note.reason(), &note.to_string());
    }
}
