//! Carries a plan out, in bounded parallel; what the API server answers goes into the stores at once, so that the next
//! round sees it.
//!
//! What is written: pods are created, and deleted if the job controls them; the job's status is patched; the job itself
//! is deleted when it is over and its time has come.

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kruise_api::broadcastjob::{BroadcastJob, BroadcastJobStatus, JobCondition, KIND};
use kruise_api::{V1BETA1, keys};
use kruise_common::counts::slow_start;
use kruise_common::key::ObjectKey;
use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use kruise_runtime::events::{EventRecorder, EventType, about};
use kruise_runtime::writes::{Error, Guard, StatusPatch, failure, is_code, is_reason, only};
use kube::api::{Api, GetParams, Patch, PatchParams, PostParams};
use serde::Serialize;
use serde_json::Value;

use crate::objects;
use crate::plan::Action;
use crate::stores::{JobView, Stores};

/// Writes under way at once for one job.
const PARALLEL: usize = 32;

/// How many names of a node's pod may be found taken.
const NAMES: u32 = 4;

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Failures, conflicts apart.
    pub failures: Vec<Error>,
    /// Something changed under our hands, or was not answered: the round has to be repeated.
    pub conflicts: bool,
    /// The namespace is being deleted, and the job with it: there is no use in trying again.
    pub namespace_gone: bool,
    /// Actions that were carried out.
    pub done: usize,
}

impl Outcome {
    fn troubles(&self) -> usize {
        self.failures.len() + usize::from(self.conflicts) + usize::from(self.namespace_gone)
    }
}

/// Carries actions out.
pub struct Executor {
    client: kube::Client,
    stores: Stores,
    events: EventRecorder,
    by_scheduler: bool,
}

impl Executor {
    /// `by_scheduler`: pods are bound by the scheduler (`--assign-bcj-pods-by-scheduler`).
    pub fn new(client: kube::Client, stores: Stores, events: EventRecorder, by_scheduler: bool) -> Self {
        Self { client, stores, events, by_scheduler }
    }

    /// Carries all actions out: deletions first, then creations in batches that double while they succeed. A failed batch
    /// stops further creations and nothing else.
    pub async fn run(&self, job: &JobView, actions: Vec<Action>) -> Outcome {
        let (creations, others): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|action| matches!(action, Action::Create { .. }));
        let mut outcome = Outcome::default();
        self.run_parallel(job, others, &mut outcome).await;
        let batches = slow_start(creations.len());
        let mut creations = creations.into_iter();
        for size in batches {
            let before = outcome.troubles();
            self.run_parallel(job, creations.by_ref().take(size).collect(), &mut outcome).await;
            if outcome.troubles() > before {
                break;
            }
        }
        outcome
    }

    async fn run_parallel(&self, job: &JobView, actions: Vec<Action>, outcome: &mut Outcome) {
        let mut results = futures::stream::iter(actions)
            .map(|action| async move {
                match action {
                    Action::Create { node } => self.create(job, &node).await,
                    Action::Delete { pod, .. } => self.delete(job, &pod).await,
                    Action::DeleteJob => self.delete_job(job).await,
                }
            })
            .buffer_unordered(PARALLEL);
        while let Some(result) = results.next().await {
            match result {
                Ok(()) => outcome.done += 1,
                Err(Error::Conflict(_)) => outcome.conflicts = true,
                Err(Error::NamespaceGone(_)) => outcome.namespace_gone = true,
                Err(error) => outcome.failures.push(error),
            }
        }
    }

    async fn create(&self, job: &JobView, node: &str) -> Result<(), Error> {
        let mut last = Err(Error::Conflict(job.key.clone()));
        for again in 0..NAMES {
            let name = objects::pod_name(job, node, again);
            let key = ObjectKey::new(job.key.namespace.clone(), name.as_str());
            let body = objects::pod(job, node, &name, self.by_scheduler).to_string().into_bytes();
            let request = kube::core::Request::new(pods_url(&key.namespace))
                .create(&PostParams::default(), body)
                .map_err(|error| failure(&key, kube::Error::BuildRequest(error)))?;
            match self.client.request::<PodWire>(request).await {
                Ok(answer) => {
                    self.stores.pods.apply_own(PodView::from(answer));
                    self.tell(job, EventType::Normal, "SuccessfulCreate", &format!("Created pod: {name}"));
                    return Ok(());
                }
                Err(error) if is_code(&error, 409) && is_reason(&error, "AlreadyExists") => {
                    if self.is_ours(job, node, &key).await? {
                        return Ok(());
                    }
                    last = Err(failure(&key, error));
                }
                // The pod may be created after all; its name makes sure that it is found then.
                Err(error) if is_code(&error, 504) => return Err(Error::Conflict(key)),
                Err(error) => return self.not_created(job, failure(&key, error)),
            }
        }
        match last {
            Ok(()) => Ok(()),
            Err(error) => self.not_created(job, error),
        }
    }

    fn not_created(&self, job: &JobView, error: Error) -> Result<(), Error> {
        if !matches!(error, Error::NamespaceGone(_) | Error::Conflict(_)) {
            self.tell(job, EventType::Warning, "FailedCreate", &format!("Error creating: {}", error.said()));
        }
        Err(error)
    }

    /// The name is taken: by the very pod, whose creation was not answered or not seen yet, or by another one.
    async fn is_ours(&self, job: &JobView, node: &str, key: &ObjectKey) -> Result<bool, Error> {
        let request = kube::core::Request::new(pods_url(&key.namespace))
            .get(&key.name, &GetParams::default())
            .map_err(|error| failure(key, kube::Error::BuildRequest(error)))?;
        let pod = match self.client.request::<PodWire>(request).await {
            Ok(pod) => PodView::from(pod),
            Err(error) if is_code(&error, 404) => return Err(Error::Conflict(key.clone())),
            Err(error) => return Err(failure(key, error)),
        };
        let ours = pod.controller().is_some_and(|owner| owner.uid == job.uid);
        let same = ours && pod.node_or_pin().is_some_and(|on| **on == *node);
        // A pod of ours that lost its labels holds the name as well, and is not ours to use.
        let labelled = pod.label(keys::BROADCASTJOB_UID) == Some(&*job.uid.0);
        self.stores.pods.apply_own(pod);
        Ok(same && labelled)
    }

    async fn delete(&self, job: &JobView, pod: &PodView) -> Result<(), Error> {
        let request = kube::core::Request::new(pods_url(&pod.key.namespace))
            .delete(pod.name(), &only(&pod.uid.0, None))
            .map_err(|error| failure(&pod.key, kube::Error::BuildRequest(error)))?;
        match self.client.request::<Value>(request).await {
            // A pod that goes gracefully is answered as it is now; one that is gone at once as a Status.
            Ok(answer) => match serde_json::from_value::<PodWire>(answer).map(PodView::from) {
                Ok(view) if view.deleted.is_some() => self.stores.pods.apply_own(view),
                _ => self.stores.pods.remove_own(&pod.key, &pod.uid),
            },
            Err(error) if is_code(&error, 404) => {
                self.stores.pods.remove_own(&pod.key, &pod.uid);
                return Ok(());
            }
            Err(error) => {
                let error = failure(&pod.key, error);
                if !matches!(error, Error::Conflict(_)) {
                    self.tell(
                        job,
                        EventType::Warning,
                        "FailedDelete",
                        &format!("Error deleting: {}", error.said()),
                    );
                }
                return Err(error);
            }
        }
        self.tell(job, EventType::Normal, "SuccessfulDelete", &format!("Delete pod: {}", pod.name()));
        Ok(())
    }

    async fn delete_job(&self, job: &JobView) -> Result<(), Error> {
        match self.jobs(job).delete(&job.key.name, &only(&job.uid.0, None)).await {
            Ok(_) => Ok(()),
            Err(error) if is_code(&error, 404) => Ok(()),
            Err(error) => Err(failure(&job.key, error)),
        }
    }

    fn jobs(&self, job: &JobView) -> Api<BroadcastJob> {
        Api::namespaced(self.client.clone(), &job.key.namespace)
    }

    /// Publishes a status, whatever was published before: nobody else writes it.
    pub async fn write_status(&self, job: &JobView, status: &BroadcastJobStatus) -> Result<(), Error> {
        let whole = WholeStatus {
            conditions: status.conditions.as_deref(),
            start_time: status.start_time.as_ref(),
            completion_time: status.completion_time.as_ref(),
            active: status.active,
            succeeded: status.succeeded,
            failed: status.failed,
            desired: status.desired,
            phase: status.phase.as_deref(),
            acknowledged_failed: status.acknowledged_failed,
        };
        let metadata = Guard { uid: &job.uid.0, resource_version: None };
        let patch = Patch::Merge(StatusPatch { metadata, status: whole });
        match self.jobs(job).patch_status(&job.key.name, &PatchParams::default(), &patch).await {
            Ok(answer) => {
                if let Some(view) = JobView::of(answer) {
                    self.stores.jobs.apply_own(view);
                }
                Ok(())
            }
            Err(error) if is_code(&error, 404) => Ok(()),
            Err(error) => Err(failure(&job.key, error)),
        }
    }

    /// Tells of something that happened to the job.
    pub fn tell(&self, job: &JobView, kind: EventType, reason: &str, message: &str) {
        self.events.event(about(job, V1BETA1, KIND), kind, reason, message);
    }
}

/// A status in full: what is absent is taken away.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WholeStatus<'a> {
    conditions: Option<&'a [JobCondition]>,
    start_time: Option<&'a Time>,
    completion_time: Option<&'a Time>,
    active: i32,
    succeeded: i32,
    failed: i32,
    desired: i32,
    phase: Option<&'a str>,
    acknowledged_failed: Option<i32>,
}

fn pods_url(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}
