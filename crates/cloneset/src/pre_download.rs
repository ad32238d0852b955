//! Pulling the images of a revision on the nodes before pods are updated to it in place.
//!
//! What is decided is remembered as a label of the revision, so every revision is looked at once. Nothing here holds up
//! scaling or updating: what fails is logged.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kruise_api::keys;
use kruise_common::counts::{self, IntOrPercent, Round};
use kruise_common::inplace::{self, InPlaceOptions};
use kruise_common::key::Uid;
use kruise_common::pre_download::{self, Job, Pulling};
use kruise_common::revision::{Revision, RevisionWire, short_hash};
use kruise_runtime::writes::{Error, failure, is_code, malformed, only};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ObjectList, PartialObjectMeta};
use serde_json::Value;

use crate::apply::Executor;
use crate::objects;
use crate::observed::{Observed, PodUpdatePolicy, Settings};
use crate::stores::SetView;

/// Sets of at most so many pods pull images when they are updated.
const SMALL: i32 = 3;

/// Something to do about the images of a set.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Create these jobs, and mark the revision once none is left to create.
    Create {
        /// The update revision.
        revision: Arc<Revision>,
        /// The jobs.
        jobs: Vec<Job>,
    },
    /// Mark the revision as one whose images are not pulled ahead.
    Ignore(Arc<Revision>),
    /// The update is over: delete the set's jobs for these revisions.
    Delete(Vec<Arc<Revision>>),
}

/// What is to be done, if anything. `cleaned` names revisions whose jobs were deleted before.
pub fn decide(
    seen: &Observed,
    set: &SetView,
    in_place: InPlaceOptions,
    cleaned: &BTreeSet<String>,
) -> Option<Step> {
    if seen.terminating {
        return None;
    }
    let (current, update) = (&seen.current_revision, &seen.update_revision);
    if current.name() == update.name() {
        let left: Vec<_> = seen
            .revisions
            .iter()
            .filter(|revision| revision.labels.contains_key(keys::PREDOWNLOAD_CREATED))
            .filter(|revision| !cleaned.contains(revision.name()))
            .cloned()
            .collect();
        return (!left.is_empty()).then_some(Step::Delete(left));
    }
    if pre_download::is_decided(update) {
        return None;
    }
    let strategy = set.object.spec.update_strategy.as_ref().and_then(|update| update.rolling_update.as_ref());
    let strategy = strategy.and_then(|rolling| rolling.in_place_update_strategy.clone()).unwrap_or_default();
    let fresh = seen.status.update_revision.as_deref() == Some(update.name());
    let ready = if fresh { seen.status.updated_ready_replicas } else { 0 };
    if strategy.image_pre_download_min_updated_ready_pods.unwrap_or(0) > ready {
        return None;
    }
    let in_place =
        InPlaceOptions { ignore_vct: seen.settings.policy == PodUpdatePolicy::InPlaceOnly, ..in_place };
    if is_pointless(&seen.settings) || inplace::diff(current, update, in_place).is_err() {
        return Some(Step::Ignore(Arc::clone(update)));
    }
    let pulling = Pulling {
        parallelism: strategy.image_pre_download_parallelism,
        timeout_seconds: strategy.image_pre_download_timeout_seconds,
    };
    let jobs = pre_download::jobs(current, update, &set.object.spec.selector, &objects::owner(set), &pulling);
    Some(Step::Create { revision: Arc::clone(update), jobs })
}

/// Pods are recreated, or all updated at once, or few.
fn is_pointless(settings: &Settings) -> bool {
    let replicas = settings.replicas;
    let at_once = || {
        let max_unavailable = settings.max_unavailable.unwrap_or(IntOrPercent::Percent(20.0));
        counts::partition(settings.partition.as_ref(), replicas) == 0
            && max_unavailable.resolve(replicas, Round::Down) >= replicas
    };
    settings.policy == PodUpdatePolicy::ReCreate
        || !settings.has_rolling_update
        || replicas <= SMALL
        || at_once()
}

/// What the controller remembers about images pulled ahead.
#[derive(Debug, Default)]
pub struct PreDownloads {
    /// The API server does not know `ImagePullJob`s.
    unknown_kind: AtomicBool,
    /// Names of the revisions whose jobs were deleted, by set.
    cleaned: Mutex<HashMap<Uid, BTreeSet<String>>>,
}

impl PreDownloads {
    /// What is to be done for a set.
    pub fn decide(&self, seen: &Observed, set: &SetView, in_place: InPlaceOptions) -> Option<Step> {
        if self.unknown_kind.load(Ordering::Relaxed) {
            return None;
        }
        let mut cleaned = self.cleaned.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.current_revision.name() != seen.update_revision.name() {
            // Jobs may come into being from now on.
            if let Some(names) = cleaned.get_mut(&set.uid) {
                names.remove(seen.update_revision.name());
            }
        }
        let none = BTreeSet::new();
        decide(seen, set, in_place, cleaned.get(&set.uid).unwrap_or(&none))
    }

    /// Does it. What fails is logged, and tried again in a later round unless it was refused for good.
    pub async fn run(&self, executor: &Executor, set: &SetView, step: Step) {
        let result = match step {
            Step::Create { revision, jobs } => self.create(executor, set, &revision, jobs).await,
            Step::Ignore(revision) => executor.mark(&revision, keys::PREDOWNLOAD_IGNORED).await,
            Step::Delete(revisions) => self.delete(executor, set, &revisions).await,
        };
        if let Err(error) = result {
            tracing::warn!(error = %error, "cannot pull images ahead of the update");
        }
    }

    /// Forgets a set that is gone.
    pub fn forget(&self, set: &Uid) {
        self.cleaned.lock().unwrap_or_else(PoisonError::into_inner).remove(set);
    }

    async fn create(
        &self,
        executor: &Executor,
        set: &SetView,
        revision: &Revision,
        jobs: Vec<Job>,
    ) -> Result<(), Error> {
        for Job { name, image, object } in jobs {
            match executor.create_job(set, &object).await? {
                Ok(()) => {
                    executor.normal(
                        set,
                        "CreatedImagePullJob",
                        format!("created ImagePullJob {name} for image: {image}"),
                    );
                }
                Err(error) if is_code(&error, 409) => {}
                Err(error) if is_unknown_kind(&error) => {
                    self.disable();
                    return Ok(());
                }
                Err(error) => {
                    executor.normal(
                        set,
                        "FailedCreateImagePullJob",
                        format!("failed to create ImagePullJob {name}: {error}"),
                    );
                    // Asking again would not change a refusal.
                    if !is_refusal(&error) {
                        return Err(failure(&set.key, error));
                    }
                    tracing::warn!(job = %name, error = %error, "an ImagePullJob was refused");
                }
            }
        }
        executor.mark(revision, keys::PREDOWNLOAD_CREATED).await
    }

    async fn delete(
        &self,
        executor: &Executor,
        set: &SetView,
        revisions: &[Arc<Revision>],
    ) -> Result<(), Error> {
        match executor.delete_jobs(set, revisions).await? {
            Ok(()) => {
                let mut cleaned = self.cleaned.lock().unwrap_or_else(PoisonError::into_inner);
                let names = revisions.iter().map(|revision| revision.name().to_owned());
                cleaned.entry(set.uid.clone()).or_default().extend(names);
                Ok(())
            }
            Err(error) if is_unknown_kind(&error) => {
                self.disable();
                Ok(())
            }
            Err(error) => Err(failure(&set.key, error)),
        }
    }

    fn disable(&self) {
        if !self.unknown_kind.swap(true, Ordering::Relaxed) {
            tracing::info!("no images are pulled ahead: the API server has no ImagePullJobs");
        }
    }
}

/// Requests about images. The inner result is the API server's answer.
impl Executor {
    async fn create_job(&self, set: &SetView, job: &Value) -> Result<Result<(), kube::Error>, Error> {
        let body = serde_json::to_vec(job).map_err(malformed(&set.key))?;
        let request = kube::core::Request::new(jobs_url(set))
            .create(&PostParams::default(), body)
            .map_err(malformed(&set.key))?;
        Ok(self.client.request::<Value>(request).await.map(drop))
    }

    /// Deletes the jobs that the set controls, found by the hashes of their revisions.
    async fn delete_jobs(
        &self,
        set: &SetView,
        revisions: &[Arc<Revision>],
    ) -> Result<Result<(), kube::Error>, Error> {
        let requests = kube::core::Request::new(jobs_url(set));
        let hashes: Vec<_> = revisions.iter().map(|revision| short_hash(revision.name())).collect();
        let selected =
            ListParams::default().labels(&format!("{} in ({})", keys::REVISION_HASH, hashes.join(",")));
        let request = requests.list_metadata(&selected).map_err(malformed(&set.key))?;
        let found = match self.client.request::<ObjectList<PartialObjectMeta>>(request).await {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        for job in found.items {
            let owners = job.metadata.owner_references.unwrap_or_default();
            let ours = owners
                .iter()
                .any(|owner| owner.controller == Some(true) && Uid::from(owner.uid.as_str()) == set.uid);
            let (Some(name), Some(uid)) = (job.metadata.name, job.metadata.uid) else { continue };
            if !ours || job.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let request = requests.delete(&name, &only(&uid, None)).map_err(malformed(&set.key))?;
            match self.client.request::<Value>(request).await {
                // Gone or replaced: not the job that was listed.
                Err(error) if !is_code(&error, 404) && !is_code(&error, 409) => return Ok(Err(error)),
                _ => {}
            }
        }
        Ok(Ok(()))
    }

    async fn mark(&self, revision: &Revision, label: &str) -> Result<(), Error> {
        let labels = objects::object([(label, "true".into())]);
        let metadata =
            objects::object([("uid", revision.uid.to_string().into()), ("labels", Value::Object(labels))]);
        let patch = Value::Object(objects::object([("metadata", Value::Object(metadata))]));
        let revisions: Api<RevisionWire> = Api::namespaced(self.client.clone(), &revision.key.namespace);
        let answer = revisions
            .patch(revision.name(), &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(|error| failure(&revision.key, error))?;
        if let Some(view) = Revision::of(answer) {
            self.stores.revisions.apply_own(view);
        }
        Ok(())
    }
}

fn jobs_url(set: &SetView) -> String {
    format!("/apis/apps.kruise.io/v1beta1/namespaces/{}/imagepulljobs", set.key.namespace)
}

/// No such resource, as opposed to no such object or namespace, which the answer would name.
fn is_unknown_kind(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if status.code == 404 && status.details.as_ref().is_none_or(|details| details.name.is_empty()))
}

fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use kruise_api::cloneset::v1beta1::CloneSetStatus;
    use kruise_common::key::ObjectKey;
    use kruise_common::texts::Texts;
    use serde_json::json;

    use super::*;

    fn revision(name: &str, template: Value, label: Option<&str>) -> Arc<Revision> {
        Arc::new(Revision {
            key: ObjectKey::new("shop", name),
            uid: Uid::from(name),
            resource_version: Arc::from("1"),
            number: 1,
            template: template.into(),
            created: None,
            controller: None,
            labels: label.map(|label| (label.into(), "true".into())).into_iter().collect(),
            annotations: Texts::default(),
        })
    }

    fn image(image: &str) -> Value {
        json!({"spec": {"containers": [{"name": "main", "image": image}]}})
    }

    fn set(replicas: i32, rolling: &Value) -> SetView {
        let object = json!({
            "apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "1"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {},
                     "updateStrategy": {"rollingUpdate": rolling}},
        });
        SetView::of(serde_json::from_value(object).unwrap()).unwrap()
    }

    fn seen(set: &SetView, current: &Arc<Revision>, update: &Arc<Revision>) -> Observed {
        Observed {
            key: set.key.clone(),
            uid: set.uid.clone(),
            generation: 1,
            terminating: false,
            settings: Settings::of(&set.object.spec),
            label_selector: "app=web".to_owned(),
            pods: Vec::new(),
            unselected: Vec::new(),
            others: Vec::new(),
            claims: Vec::new(),
            nodes: BTreeMap::new(),
            revisions: vec![Arc::clone(current), Arc::clone(update)],
            update_revision: Arc::clone(update),
            current_revision: Arc::clone(current),
            status: CloneSetStatus::default(),
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn decided(replicas: i32, rolling: &Value, update: &Arc<Revision>) -> Option<Step> {
        let set = set(replicas, rolling);
        let old = revision("web-a", image("nginx:1"), None);
        decide(&seen(&set, &old, update), &set, InPlaceOptions::default(), &BTreeSet::new())
    }

    #[test]
    fn a_partial_update_in_place_gets_one_job_per_image() {
        let new = revision("web-b", image("nginx:2"), None);
        let rolling = json!({"podUpdatePolicy": "InPlaceIfPossible", "partition": 4});
        let Some(Step::Create { revision, jobs }) = decided(5, &rolling, &new) else { panic!("no jobs") };
        assert_eq!(revision, new);
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].name, "web-b-main");
        assert_eq!(jobs[0].object["spec"]["parallelism"], 1);
        assert_eq!(jobs[0].object["spec"]["pullPolicy"]["timeoutSeconds"], 300);
        assert_eq!(jobs[0].object["spec"]["completionPolicy"]["ttlSecondsAfterFinished"], 600);
        assert_eq!(jobs[0].object["metadata"]["ownerReferences"][0]["uid"], "u1");
    }

    #[test]
    fn the_strategy_sets_parallelism_and_timeout() {
        let new = revision("web-b", image("nginx:2"), None);
        let rolling = json!({"podUpdatePolicy": "InPlaceOnly", "inPlaceUpdateStrategy":
            {"imagePreDownloadParallelism": 3, "imagePreDownloadTimeoutSeconds": 90}});
        let Some(Step::Create { jobs, .. }) = decided(5, &rolling, &new) else { panic!("no jobs") };
        assert_eq!(jobs[0].object["spec"]["parallelism"], 3);
        assert_eq!(jobs[0].object["spec"]["pullPolicy"]["timeoutSeconds"], 90);
    }

    #[test]
    fn images_are_not_pulled_ahead_where_it_gains_nothing() {
        let new = revision("web-b", image("nginx:2"), None);
        let ignored = Some(Step::Ignore(Arc::clone(&new)));
        let possible = |extra: Value| {
            let mut rolling = json!({"podUpdatePolicy": "InPlaceIfPossible"});
            rolling.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            rolling
        };
        let cases = [
            (5, json!({"podUpdatePolicy": "ReCreate"}), true),
            (5, Value::Null, true),
            (3, possible(json!({})), true),
            (4, possible(json!({})), false),
            (5, possible(json!({"maxUnavailable": "100%"})), true),
            (5, possible(json!({"maxUnavailable": 5})), true),
            (5, possible(json!({"maxUnavailable": "99%"})), false),
            (5, possible(json!({"maxUnavailable": "100%", "partition": 1})), false),
        ];
        for (replicas, rolling, ignores) in cases {
            let step = decided(replicas, &rolling, &new);
            assert_eq!(step == ignored, ignores, "{replicas} {rolling}: {step:?}");
            assert!(step.is_some());
        }
        let other = json!({"spec": {"containers": [{"name": "main", "image": "nginx:1", "command": ["x"]}]}});
        let recreated = revision("web-c", other, None);
        assert_eq!(decided(5, &possible(json!({})), &recreated), Some(Step::Ignore(Arc::clone(&recreated))));
    }

    #[test]
    fn a_revision_is_decided_once() {
        let rolling = json!({"podUpdatePolicy": "InPlaceIfPossible"});
        for label in [keys::PREDOWNLOAD_CREATED, keys::PREDOWNLOAD_IGNORED] {
            assert_eq!(decided(5, &rolling, &revision("web-b", image("nginx:2"), Some(label))), None);
        }
    }

    #[test]
    fn jobs_wait_for_so_many_updated_ready_pods_of_this_revision() {
        let set = set(
            5,
            &json!({"podUpdatePolicy": "InPlaceIfPossible",
                "inPlaceUpdateStrategy": {"imagePreDownloadMinUpdatedReadyPods": 2}}),
        );
        let (old, new) =
            (revision("web-a", image("nginx:1"), None), revision("web-b", image("nginx:2"), None));
        for (told, ready, starts) in [("web-b", 1, false), ("web-b", 2, true), ("web-a", 5, false)] {
            let mut seen = seen(&set, &old, &new);
            seen.status.update_revision = Some(told.to_owned());
            seen.status.updated_ready_replicas = ready;
            let step = decide(&seen, &set, InPlaceOptions::default(), &BTreeSet::new());
            assert_eq!(step.is_some(), starts, "{told} {ready}");
        }
    }

    #[test]
    fn jobs_are_deleted_once_when_the_update_is_over() {
        let set = set(5, &json!({"podUpdatePolicy": "InPlaceIfPossible"}));
        let old = revision("web-a", image("nginx:1"), None);
        let new = revision("web-b", image("nginx:2"), Some(keys::PREDOWNLOAD_CREATED));
        let mut seen = seen(&set, &old, &new);
        seen.current_revision = Arc::clone(&new);
        let mut cleaned = BTreeSet::new();
        let step = |cleaned: &BTreeSet<String>| decide(&seen, &set, InPlaceOptions::default(), cleaned);
        assert_eq!(step(&cleaned), Some(Step::Delete(vec![Arc::clone(&new)])));
        cleaned.insert("web-b".to_owned());
        assert_eq!(step(&cleaned), None);
    }

    #[test]
    fn nothing_is_done_for_a_stable_set_or_one_that_is_deleted() {
        let set = set(5, &json!({"podUpdatePolicy": "InPlaceIfPossible"}));
        let (old, new) =
            (revision("web-a", image("nginx:1"), None), revision("web-b", image("nginx:2"), None));
        let mut seen = seen(&set, &old, &new);
        seen.terminating = true;
        let none = BTreeSet::new();
        assert_eq!(decide(&seen, &set, InPlaceOptions::default(), &none), None);
        seen.terminating = false;
        seen.update_revision = old;
        assert_eq!(decide(&seen, &set, InPlaceOptions::default(), &none), None);
    }
}
