//! Carries a plan out: each action is one to three requests, in bounded parallel; what the API server answers goes into
//! the stores at once, so that the next round sees it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kruise_api::V1BETA1;
use kruise_api::cloneset::KIND;
use kruise_api::cloneset::v1beta1::{CloneSet, CloneSetStatus};
use kruise_api::keys;
use kruise_api::raw::RawJson;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::patch::{PodEndpoint, PodPatch};
use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use kruise_common::revision::{Decision, Revision, RevisionWire};
use kruise_runtime::client::said;
use kruise_runtime::events::{EventRecorder, EventType, about};
use kruise_runtime::writes::{Error, failure, is_code, is_outdated, is_reason, malformed, only};
use kube::Resource as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde::Serialize;
use serde_json::Value;

use crate::objects;
use crate::observed::ClaimView;
use crate::plan::{Action, Options};
use crate::stores::{SetView, StoredClaim, Stores};

/// Writes under way at once for one set.
const PARALLEL: usize = 32;

/// Which half of the work an action belongs to, for the conditions that report failures.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// Creating and deleting.
    Scale,
    /// Updating.
    Update,
    /// Anything else.
    Upkeep,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Failures, conflicts apart, each with its stage.
    pub failures: Vec<(Stage, Error)>,
    /// True if an object changed under our hands: the round has to be repeated.
    pub conflicts: bool,
    /// True if something could not be created because its namespace is being deleted. There is no use in trying again.
    pub namespace_gone: bool,
    /// Actions that were carried out.
    pub done: usize,
}

impl Outcome {
    fn add(&mut self, more: Self) {
        self.failures.extend(more.failures);
        self.conflicts |= more.conflicts;
        self.namespace_gone |= more.namespace_gone;
        self.done += more.done;
    }
}

/// Carries actions out.
pub struct Executor {
    pub(crate) client: kube::Client,
    pub(crate) stores: Stores,
    events: EventRecorder,
    options: Options,
    /// Instance ids of creations whose answer was lost: taken first next time, so that a pod that was created after
    /// all is found by its name instead of being created twice.
    unanswered: Mutex<HashMap<Uid, Vec<String>>>,
    /// By set, pods that were deleted or patched without an answer.
    doubtful: Mutex<HashMap<Uid, HashMap<ObjectKey, Uid>>>,
}

impl Executor {
    /// An executor that writes through `client` and keeps `stores` up to date.
    pub fn new(client: kube::Client, stores: Stores, events: EventRecorder, options: Options) -> Self {
        Self { client, stores, events, options, unanswered: Mutex::default(), doubtful: Mutex::default() }
    }

    /// Ids of creations that got no answer, handed out once.
    pub fn take_unanswered(&self, set: &Uid) -> Vec<String> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).remove(set).unwrap_or_default()
    }

    /// Carries out all actions. Creations go out in batches that double while they succeed; a failed batch stops
    /// further creations and nothing else.
    pub async fn run(&self, set: &SetView, actions: Vec<Action>, now: Timestamp) -> Outcome {
        let (creations, others): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|action| matches!(action, Action::Create { .. }));
        let mut outcome = Outcome::default();
        self.run_parallel(set, others, now, &mut outcome).await;
        let mut creations = creations.into_iter();
        let mut batch = 1;
        loop {
            let next: Vec<_> = creations.by_ref().take(batch).collect();
            if next.is_empty() {
                break;
            }
            let mut created = Outcome::default();
            self.run_parallel(set, next, now, &mut created).await;
            let go_on = created.failures.is_empty() && !created.conflicts && !created.namespace_gone;
            outcome.add(created);
            if !go_on {
                break;
            }
            batch *= 2;
        }
        outcome
    }

    async fn run_parallel(&self, set: &SetView, actions: Vec<Action>, now: Timestamp, outcome: &mut Outcome) {
        let mut results = futures::stream::iter(actions)
            .map(|action| async move {
                let stage = stage(&action);
                (stage, self.perform(set, action, now).await)
            })
            .buffer_unordered(PARALLEL);
        while let Some((stage, result)) = results.next().await {
            match result {
                Ok(()) => outcome.done += 1,
                Err(Error::Conflict(_)) => outcome.conflicts = true,
                Err(error @ Error::NamespaceGone(_)) => {
                    tracing::debug!(%error, "not created");
                    outcome.namespace_gone = true;
                }
                Err(error) => outcome.failures.push((stage, error)),
            }
        }
    }

    async fn perform(&self, set: &SetView, action: Action, now: Timestamp) -> Result<(), Error> {
        match action {
            Action::Create { name, id, revision, update } => {
                let kept = (!update).then_some(&*revision);
                let claims = objects::claim_templates(set, kept);
                self.create(set, &revision, &claims, (&name, &id), now).await
            }
            Action::Delete { pod, claims, .. } => self.delete(set, &pod, &claims).await,
            Action::Patch { pod, endpoint, patch, .. } => self.patch_pod(&pod, endpoint, patch).await,
            Action::UpdateInPlace { pod, started, revision } => {
                let result = async {
                    // A pod that could not be resized is not taken out of service for it, time and again.
                    if let (Some(_), Some(resize)) = (&started.unready, &started.resize) {
                        self.try_resize(&pod, resize).await?;
                    }
                    if let Some(unready) = started.unready {
                        self.patch_pod(&pod, PodEndpoint::Status, unready).await?;
                    }
                    // Before the pod says that it is at the new revision: a resize that is refused is then asked for again,
                    // and one that is asked for twice changes nothing.
                    if let Some(resize) = started.resize {
                        self.patch_pod(&pod, PodEndpoint::Resize, resize).await?;
                    }
                    self.patch_pod(&pod, PodEndpoint::Pod, started.pod).await
                }
                .await;
                let (name, revision) = (pod.name(), revision.name());
                match &result {
                    Ok(()) => self.normal(
                        set,
                        "SuccessfulUpdatePodInPlace",
                        format!("successfully update pod {name} in-place(revision {revision})"),
                    ),
                    Err(Error::Conflict(_)) => {}
                    Err(error) => self.warning(
                        set,
                        "FailedUpdatePodInPlace",
                        format!("failed to update pod {name} in-place(revision {revision}): {error}"),
                    ),
                }
                result
            }
            Action::MarkForRecreate { pod, revision } => {
                let mut patch = PodPatch::default();
                patch.set_label(keys::SPECIFIED_DELETE, "true");
                let result = self.patch_pod(&pod, PodEndpoint::Pod, patch).await;
                let (name, revision) = (pod.name(), revision.name());
                match &result {
                    Ok(()) => self.normal(
                        set,
                        "SuccessfulUpdatePodReCreate",
                        format!("successfully patch pod {name} specified-delete for update(revision {revision})"),
                    ),
                    Err(Error::Conflict(_)) => {}
                    Err(error) => self.warning(
                        set,
                        "FailedUpdatePodReCreate",
                        format!(
                            "failed to patch pod specified-delete {name} for update(revision {revision}): {error}"
                        ),
                    ),
                }
                result
            }
            Action::ReleasePod { pod } => {
                let body = owner_change(&pod.uid, vec![drop_owner(&set.uid)]);
                self.send_pod_patch(&pod, None, &body).await
            }
            Action::HandClaimToPod { claim, pod } => {
                let owner = objects::object([
                    ("apiVersion", "v1".into()),
                    ("kind", "Pod".into()),
                    ("name", pod.name().into()),
                    ("uid", pod.uid.to_string().into()),
                    ("controller", true.into()),
                    ("blockOwnerDeletion", true.into()),
                ]);
                let body = owner_change(&claim.uid, vec![drop_owner(&set.uid), Value::Object(owner)]);
                let claims: Api<PersistentVolumeClaim> =
                    Api::namespaced(self.client.clone(), &claim.key.namespace);
                match claims.patch(&claim.key.name, &PatchParams::default(), &Patch::Strategic(&body)).await {
                    Ok(answer) => {
                        if let Some(view) = StoredClaim::of(answer) {
                            self.stores.claims.apply_own(view);
                        }
                        Ok(())
                    }
                    Err(error) => {
                        let ended = self.claim_gone(&claim.key, &claim.uid, error);
                        self.tell_claim(set, "FailedUpdate", "update", &claim, &ended);
                        ended
                    }
                }
            }
            Action::DeleteClaim { claim } => {
                let ended = self.delete_claim(&claim.key, &claim.uid).await;
                self.tell_claim(set, "FailedDelete", "clean up", &claim, &ended);
                ended
            }
            Action::PrunePodsToDelete { names } => self.prune(set, &names).await,
            Action::DeleteRevision { revision } => {
                let revisions: Api<ControllerRevision> =
                    Api::namespaced(self.client.clone(), &revision.key.namespace);
                match revisions.delete(revision.name(), &only(&revision.uid.0, None)).await {
                    Ok(_) => {}
                    Err(error) if is_code(&error, 404) => {}
                    Err(error) => return Err(failure(&revision.key, error)),
                }
                self.stores.revisions.remove_own(&revision.key, &revision.uid);
                Ok(())
            }
        }
    }

    async fn create(
        &self,
        set: &SetView,
        revision: &Revision,
        claims: &[Value],
        (name, id): (&str, &str),
        now: Timestamp,
    ) -> Result<(), Error> {
        let key = ObjectKey::new(set.key.namespace.clone(), name);
        for claim in objects::claims(set, claims, id) {
            self.create_claim(set, claim).await?;
        }
        let pod = objects::pod(set, revision, claims, (name, id), self.options.short_hash, now);
        let body = serde_json::to_vec(&pod).map_err(malformed(&key))?;
        let request = kube::core::Request::new(pods_url(&key.namespace))
            .create(&PostParams::default(), body)
            .map_err(malformed(&key))?;
        match self.client.request::<PodWire>(request).await {
            Ok(answer) => {
                self.stores.pods.apply_own(PodView::from(answer));
                self.normal(set, "SuccessfulCreate", format!("succeed to create pod {name}"));
                Ok(())
            }
            Err(error) if is_code(&error, 409) && is_reason(&error, "AlreadyExists") => {
                self.adopt_answer(set, &key).await
            }
            Err(error) => {
                if !matches!(error, kube::Error::Api(_)) {
                    let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
                    unanswered.entry(set.uid.clone()).or_default().push(id.to_owned());
                }
                let error = failure(&key, error);
                if !matches!(error, Error::NamespaceGone(_)) {
                    self.warning(set, "FailedCreate", format!("failed to create pod: {error}"));
                }
                Err(error)
            }
        }
    }

    /// The name is taken: by an earlier creation of ours whose answer was lost, or by a stranger.
    async fn adopt_answer(&self, set: &SetView, key: &ObjectKey) -> Result<(), Error> {
        let request = kube::core::Request::new(pods_url(&key.namespace))
            .get(&key.name, &kube::api::GetParams::default())
            .map_err(malformed(key))?;
        let pod: PodWire = self.client.request(request).await.map_err(|error| failure(key, error))?;
        let pod = PodView::from(pod);
        let ours = pod.controller().is_some_and(|owner| owner.uid == set.uid);
        self.stores.pods.apply_own(pod);
        if ours { Ok(()) } else { Err(Error::Conflict(key.clone())) }
    }

    async fn create_claim(&self, set: &SetView, claim: Value) -> Result<(), Error> {
        let name = claim.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let key = ObjectKey::new(set.key.namespace.clone(), name);
        if self.stores.claims.get(&key).is_some() {
            return Ok(());
        }
        let body = serde_json::to_vec(&claim).map_err(malformed(&key))?;
        let url = format!("/api/v1/namespaces/{}/persistentvolumeclaims", key.namespace);
        let request =
            kube::core::Request::new(url).create(&PostParams::default(), body).map_err(malformed(&key))?;
        match self.client.request::<PersistentVolumeClaim>(request).await {
            Ok(answer) => {
                if let Some(view) = StoredClaim::of(answer) {
                    self.stores.claims.apply_own(view);
                }
                Ok(())
            }
            Err(error) if is_code(&error, 409) => Ok(()),
            Err(error) => {
                let error = failure(&key, error);
                if !matches!(error, Error::NamespaceGone(_)) {
                    self.warning(set, "FailedCreate", format!("failed to create pvc: {error}"));
                }
                Err(error)
            }
        }
    }

    async fn delete(&self, set: &SetView, pod: &PodView, claims: &[ObjectKey]) -> Result<(), Error> {
        let request = kube::core::Request::new(pods_url(&pod.key.namespace))
            .delete(pod.name(), &only(&pod.uid.0, None))
            .map_err(malformed(&pod.key))?;
        match self.client.request::<Value>(request).await {
            // A pod that goes gracefully is answered as it is now; one that is gone at once as a Status.
            Ok(answer) => match serde_json::from_value::<PodWire>(answer).map(PodView::from) {
                Ok(view) if view.deleted.is_some() => self.stores.pods.apply_own(view),
                _ => self.stores.pods.remove_own(&pod.key, &pod.uid),
            },
            Err(error) if is_code(&error, 404) => self.stores.pods.remove_own(&pod.key, &pod.uid),
            Err(error) => {
                self.doubt(pod, &error);
                let error = failure(&pod.key, error);
                if !matches!(error, Error::Conflict(_)) {
                    self.warning(
                        set,
                        "FailedDelete",
                        format!("failed to delete pod {}: {error}", pod.name()),
                    );
                }
                return Err(error);
            }
        }
        self.normal(set, "SuccessfulDelete", format!("succeed to delete pod {}", pod.name()));
        for key in claims {
            let Some(claim) = self.stores.claims.get(key) else { continue };
            if let Err(error) = self.delete_claim(key, &claim.uid).await {
                self.warning(set, "FailedDelete", format!("failed to delete pvc {}: {error}", key.name));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn delete_claim(&self, key: &ObjectKey, uid: &Uid) -> Result<(), Error> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        match claims.delete(&key.name, &only(&uid.0, None)).await {
            Ok(answer) => {
                match answer.left().and_then(StoredClaim::of).filter(|view| view.terminating) {
                    Some(view) => self.stores.claims.apply_own(view),
                    None => self.stores.claims.remove_own(key, uid),
                }
                Ok(())
            }
            Err(error) => self.claim_gone(key, uid, error),
        }
    }

    fn claim_gone(&self, key: &ObjectKey, uid: &Uid, error: kube::Error) -> Result<(), Error> {
        if is_code(&error, 404) {
            self.stores.claims.remove_own(key, uid);
            return Ok(());
        }
        Err(failure(key, error))
    }

    /// A write to this pod may or may not have been carried out.
    fn doubt(&self, pod: &PodView, error: &kube::Error) {
        let answered = matches!(error, kube::Error::Api(status) if status.code < 500);
        if let Some(owner) = pod.controller().filter(|_| !answered) {
            let mut doubtful = self.doubtful.lock().unwrap_or_else(PoisonError::into_inner);
            doubtful.entry(owner.uid.clone()).or_default().insert(pod.key.clone(), pod.uid.clone());
        }
    }

    /// Asks what became of writes that were not answered. Until that is known nothing can be decided about the set: a pod that
    /// is going looks available, and the watch may tell much later.
    ///
    /// # Errors
    /// There is no answer now either.
    pub async fn settle_doubts(&self, set: &SetView) -> Result<(), Error> {
        let doubtful = self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).remove(&set.uid);
        let mut doubtful = doubtful.unwrap_or_default().into_iter();
        let pods = Api::<PodWire>::namespaced(self.client.clone(), &set.key.namespace);
        while let Some((key, uid)) = doubtful.next() {
            match pods.get(&key.name).await {
                Ok(live) => {
                    let live = PodView::from(live);
                    if live.uid != uid {
                        self.stores.pods.remove_own(&key, &uid);
                    }
                    self.stores.pods.apply_own(live);
                }
                Err(error) if is_code(&error, 404) => self.stores.pods.remove_own(&key, &uid),
                Err(error) => {
                    let failed = failure(&key, error);
                    let mut all = self.doubtful.lock().unwrap_or_else(PoisonError::into_inner);
                    all.entry(set.uid.clone()).or_default().extend(doubtful.chain([(key, uid)]));
                    return Err(failed);
                }
            }
        }
        Ok(())
    }

    /// Forgets a set that is gone.
    pub fn forget(&self, set: &Uid) {
        self.take_unanswered(set);
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).remove(set);
    }

    /// Sends a patch of a pod, always for this pod and never for another of its name.
    async fn patch_pod(
        &self,
        pod: &PodView,
        endpoint: PodEndpoint,
        mut patch: PodPatch,
    ) -> Result<(), Error> {
        patch.metadata.uid = Some(pod.uid.to_string());
        let subresource = match endpoint {
            PodEndpoint::Pod => None,
            PodEndpoint::Status => Some("status"),
            PodEndpoint::Resize => Some("resize"),
        };
        self.send_pod_patch(pod, subresource, &patch).await
    }

    /// Asks whether the pod would be resized.
    async fn try_resize(&self, pod: &PodView, resize: &PodPatch) -> Result<(), Error> {
        let pods = Api::<PodWire>::namespaced(self.client.clone(), &pod.key.namespace);
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        let answer = pods.patch_subresource("resize", pod.name(), &params, &Patch::Strategic(resize)).await;
        answer.map(|_| ()).map_err(|error| failure(&pod.key, error))
    }

    async fn send_pod_patch(
        &self,
        pod: &PodView,
        subresource: Option<&str>,
        body: &impl Serialize,
    ) -> Result<(), Error> {
        let requests = kube::core::Request::new(pods_url(&pod.key.namespace));
        let (params, patch) = (PatchParams::default(), Patch::Strategic(body));
        let request: Request<Vec<u8>> = match subresource {
            Some(subresource) => requests.patch_subresource(subresource, pod.name(), &params, &patch),
            None => requests.patch(pod.name(), &params, &patch),
        }
        .map_err(malformed(&pod.key))?;
        match self.client.request::<PodWire>(request).await {
            Ok(answer) => {
                self.stores.pods.apply_own(PodView::from(answer));
                Ok(())
            }
            Err(error) => {
                if is_code(&error, 404) {
                    self.stores.pods.remove_own(&pod.key, &pod.uid);
                    return Err(Error::Conflict(pod.key.clone()));
                }
                self.doubt(pod, &error);
                Err(failure(&pod.key, error))
            }
        }
    }

    /// A claim that could not be written, as an event of the set.
    fn tell_claim(
        &self,
        set: &SetView,
        reason: &'static str,
        verb: &str,
        claim: &ClaimView,
        ended: &Result<(), Error>,
    ) {
        if let Err(Error::Api { cause, .. }) = ended {
            self.warning(set, reason, format!("failed to {verb} PVC {}: {}", claim.key.name, said(cause)));
        }
    }

    /// Takes names off `podsToDelete`, only if the list is still the one that was read.
    async fn prune(&self, set: &SetView, names: &[String]) -> Result<(), Error> {
        let listed = set
            .object
            .spec
            .scale_strategy
            .as_ref()
            .and_then(|scale| scale.pods_to_delete.clone())
            .unwrap_or_default();
        let kept: Vec<_> = listed.iter().filter(|name| !names.contains(name)).cloned().collect();
        let path = "/spec/scaleStrategy/podsToDelete";
        let operation = |op: &str, value: &Vec<String>| {
            Value::Object(objects::object([
                ("op", op.into()),
                ("path", path.into()),
                ("value", objects::json_of(value)),
            ]))
        };
        let body = Value::Array(vec![operation("test", &listed), operation("replace", &kept)]);
        let url = format!(
            "/apis/apps.kruise.io/v1beta1/namespaces/{}/clonesets/{}",
            set.key.namespace, set.key.name
        );
        let request = Request::patch(url)
            .header("Content-Type", "application/json-patch+json")
            .body(serde_json::to_vec(&body).map_err(malformed(&set.key))?)
            .map_err(malformed(&set.key))?;
        match self.client.request::<CloneSet>(request).await {
            Ok(answer) => {
                if let Some(view) = SetView::of(answer) {
                    self.stores.sets.apply_own(view);
                }
                Ok(())
            }
            // The list changed meanwhile: the next round reads it anew.
            Err(error) if is_outdated(&error) => Err(Error::Conflict(set.key.clone())),
            Err(error) => Err(failure(&set.key, error)),
        }
    }

    /// Makes the decided revision the newest one; `None` if its name is taken by other content.
    pub async fn ensure_revision(
        &self,
        set: &SetView,
        decision: Decision,
        annotations: &(dyn Fn() -> std::collections::BTreeMap<String, String> + Sync),
    ) -> Result<Option<Arc<Revision>>, Error> {
        let revisions: Api<RevisionWire> = Api::namespaced(self.client.clone(), &set.key.namespace);
        let (key, answer) = match decision {
            Decision::Use(revision) => return Ok(Some(revision)),
            Decision::Raise { revision, to } => {
                // The claims of its new pods are those of today.
                let annotations = annotations();
                let of_claims = [keys::VOLUME_CLAIM_TEMPLATE_HASH, keys::REVISION_VOLUME_CLAIM_TEMPLATES];
                let patch = RaiseNumber {
                    metadata: RaiseMetadata {
                        uid: revision.uid.to_string(),
                        resource_version: revision.resource_version.to_string(),
                        annotations: of_claims
                            .map(|key| (key, annotations.get(key).map(String::as_str)))
                            .into_iter()
                            .collect(),
                    },
                    revision: to,
                };
                let answer =
                    revisions.patch(revision.name(), &PatchParams::default(), &Patch::Merge(&patch)).await;
                (revision.key.clone(), answer)
            }
            Decision::Create { name, hash, number, data } => {
                let mut labels: std::collections::BTreeMap<String, String> = data
                    .pointer("/spec/template/metadata/labels")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                    .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                    .collect();
                labels.insert(keys::REVISION_HASH.to_owned(), hash);
                let key = ObjectKey::new(set.key.namespace.clone(), name.as_str());
                let wanted = ControllerRevision {
                    metadata: kube::api::ObjectMeta {
                        name: Some(name.clone()),
                        namespace: Some(set.key.namespace.to_string()),
                        labels: Some(labels),
                        annotations: Some(annotations()),
                        owner_references: Some(vec![objects::owner(set)]),
                        ..Default::default()
                    },
                    data: Some(RawExtension(data.clone())),
                    revision: number,
                };
                let body = serde_json::to_vec(&wanted).map_err(malformed(&key))?;
                let request = kube::core::Request::new(revisions.resource_url())
                    .create(&PostParams::default(), body)
                    .map_err(malformed(&key))?;
                match self.client.request::<RevisionWire>(request).await {
                    Err(error) if is_reason(&error, "AlreadyExists") => {
                        let found = revisions.get(&name).await.map_err(|error| failure(&key, error))?;
                        // That of another owner goes with it, such as a set of this name that was deleted a moment ago:
                        // without its revision, no pod could be updated in place.
                        let mut owners = found.meta().owner_references.iter().flatten();
                        let of_another =
                            owners.any(|owner| owner.controller == Some(true) && *owner.uid != *set.uid.0);
                        if of_another || found.data != RawJson::from(&data) {
                            return Ok(None);
                        }
                        (key, Ok(found))
                    }
                    answer => (key, answer),
                }
            }
        };
        let answer = answer.map_err(|error| failure(&key, error))?;
        let view = Revision::of(answer).ok_or_else(|| malformed(&key)("it holds no pod template"))?;
        self.stores.revisions.apply_own(view.clone());
        Ok(Some(Arc::new(view)))
    }

    /// Publishes a status.
    pub async fn write_status(&self, set: &SetView, status: &CloneSetStatus) -> Result<(), Error> {
        let sets: Api<CloneSet> = Api::namespaced(self.client.clone(), &set.key.namespace);
        // A merge patch keeps what it does not name: the last condition goes only if the empty list is sent.
        let mut status = status.clone();
        status.conditions.get_or_insert_default();
        let patch = StatusPatch { metadata: UidOnly { uid: set.uid.to_string() }, status: &status };
        let answer = sets
            .patch_status(&set.key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(|error| failure(&set.key, error))?;
        if let Some(view) = SetView::of(answer) {
            self.stores.sets.apply_own(view);
        }
        Ok(())
    }

    pub(crate) fn normal(&self, set: &SetView, reason: &str, message: impl AsRef<str>) {
        self.events.event(about(set, V1BETA1, KIND), EventType::Normal, reason, message.as_ref());
    }

    pub(crate) fn warning(&self, set: &SetView, reason: &str, message: impl AsRef<str>) {
        self.events.event(about(set, V1BETA1, KIND), EventType::Warning, reason, message.as_ref());
    }
}

#[derive(Clone, Serialize, Debug)]
struct UidOnly {
    uid: String,
}

#[derive(Serialize, Debug)]
struct StatusPatch<'a> {
    metadata: UidOnly,
    status: &'a CloneSetStatus,
}

#[derive(Serialize, Debug)]
struct RaiseNumber<'a> {
    metadata: RaiseMetadata<'a>,
    revision: i64,
}

#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct RaiseMetadata<'a> {
    uid: String,
    resource_version: String,
    annotations: std::collections::BTreeMap<&'a str, Option<&'a str>>,
}

fn stage(action: &Action) -> Stage {
    match action {
        Action::Create { .. } | Action::Delete { .. } => Stage::Scale,
        Action::UpdateInPlace { .. } | Action::MarkForRecreate { .. } | Action::Patch { .. } => Stage::Update,
        _ => Stage::Upkeep,
    }
}

/// A strategic-merge patch of owner references, for the object of this identity only.
fn owner_change(uid: &Uid, owners: Vec<Value>) -> Value {
    let metadata =
        objects::object([("uid", uid.to_string().into()), ("ownerReferences", Value::Array(owners))]);
    Value::Object(objects::object([("metadata", Value::Object(metadata))]))
}

fn drop_owner(uid: &Uid) -> Value {
    Value::Object(objects::object([("$patch", "delete".into()), ("uid", uid.to_string().into())]))
}

fn pods_url(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}
