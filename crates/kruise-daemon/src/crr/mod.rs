//! The agent's side of ContainerRecreateRequest: one request at a time for each pod, oldest first.

pub(crate) mod plan;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kruise_api::containerrecreaterequest::{
    ContainerRecreateRequest, ContainerRecreateRequestContainerRecreateState as State,
    ContainerRecreateRequestPhase as Phase,
};
use kruise_api::keys;
use kruise_common::key::{ObjectKey, Uid};
use kruise_runtime::controller::Requeue;
use kruise_runtime::queue::WorkQueue;
use kruise_runtime::store::{Store, View};
use kruise_runtime::writes::Guard;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::Serialize;

use crate::Clock;
use crate::cri::Cri;
use crate::cri::messages::{Container, ContainerState};
use crate::kill::{DEFAULT_GRACE, Kill, Killer, kill, read_pod};
use crate::pods::{PodStore, find};
use crate::wire::StoppablePod;
use plan::{Observed, Seen, Step};

/// A request that waits is looked at again after this long, whatever happens.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    key: ObjectKey,
    uid: Uid,
    resource_version: Arc<str>,
    object: ContainerRecreateRequest,
}

impl Request {
    /// Reads a request; none if it is not of the right shape.
    pub(crate) fn of(mut object: ContainerRecreateRequest) -> Option<Self> {
        object.metadata.managed_fields = None;
        Self::new(object)
    }

    fn new(object: ContainerRecreateRequest) -> Option<Self> {
        let meta = &object.metadata;
        Some(Self {
            key: ObjectKey::new(meta.namespace.as_deref()?, meta.name.as_deref()?),
            uid: Uid::from(meta.uid.as_deref()?),
            resource_version: Arc::from(meta.resource_version.as_deref()?),
            object,
        })
    }

    fn pod(&self) -> ObjectKey {
        ObjectKey::new(Arc::clone(&self.key.namespace), self.object.spec.pod_name.as_str())
    }

    fn phase(&self) -> Option<Phase> {
        self.object.status.as_ref()?.phase
    }

    fn is_open(&self) -> bool {
        let ended = self.object.status.as_ref().is_some_and(|status| status.completion_time.is_some());
        self.object.metadata.deletion_timestamp.is_none() && !ended && self.phase() != Some(Phase::Completed)
    }

    fn label(&self, key: &str) -> &str {
        self.object.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map_or("", String::as_str)
    }
}

impl View for Request {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn resource_version(&self) -> &str {
        &self.resource_version
    }

    fn owners(&self) -> Vec<Uid> {
        Vec::new()
    }
}

#[derive(Debug, Serialize)]
struct StatusPatch<'a> {
    metadata: Guard<'a>,
    status: StatusChange,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<Phase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_recreate_states: Option<Vec<State>>,
}

/// Serves the requests for the node's pods.
pub(crate) struct Controller {
    pub(crate) requests: Store<Request>,
    pub(crate) pods: PodStore,
    pub(crate) killer: Killer,
    pub(crate) clock: Clock,
}

impl Controller {
    /// Wakes a pod's requests by every change of one of them and by changes of the pod's status.
    pub(crate) fn wire(&self, queue: &WorkQueue) {
        let wake = queue.clone();
        self.requests.subscribe(Box::new(move |change| {
            for request in [&change.old, &change.new].into_iter().flatten() {
                wake.add(request.pod());
            }
        }));
        let (wake, requests) = (queue.clone(), self.requests.clone());
        self.pods.subscribe(Box::new(move |change| {
            let Some(new) = &change.new else { return };
            if change.old.as_ref().is_some_and(|old| old.pod.statuses == new.pod.statuses) {
                return;
            }
            if requests.all().iter().any(|request| request.pod() == new.pod.key) {
                wake.add(new.pod.key.clone());
            }
        }));
    }

    /// One round of one pod.
    pub(crate) async fn reconcile(&self, pod: &ObjectKey) -> anyhow::Result<Requeue> {
        let mut open = self.requests.all();
        open.retain(|request| request.is_open() && request.pod() == *pod);
        open.sort_by_key(|request| {
            let created = request.object.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (plan::rank(request.phase()), created, request.key.clone())
        });
        let mut open = open.into_iter();
        let Some(first) = open.next() else { return Ok(Requeue::None) };
        for waiting in open.filter(|request| request.phase().is_none()) {
            self.write(&waiting, StatusChange { phase: Some(Phase::Pending), ..StatusChange::default() })
                .await?;
        }
        self.serve(&first).await
    }

    async fn serve(&self, request: &Request) -> anyhow::Result<Requeue> {
        let (spec, status) = (&request.object.spec, request.object.status.clone().unwrap_or_default());
        let begins = request.phase() != Some(Phase::Recreating);
        if begins && plan::drains(spec) {
            // The manager takes the pod out of service once it reads this; the answer is in the store, which has asked for
            // another round.
            self.write(request, StatusChange { phase: Some(Phase::Recreating), ..StatusChange::default() })
                .await?;
            return Ok(Requeue::None);
        }
        match plan::drain(spec, &status, (self.clock)()) {
            Ok(None) => {}
            Ok(Some(left)) => return Ok(Requeue::After(left)),
            Err(()) => return Ok(Requeue::After(LOOK_AGAIN)),
        }
        let (cri, scheme) = match self.runtime(request) {
            Ok(found) => found,
            Err(message) => {
                self.complete(request, None, Some(message)).await?;
                return Ok(Requeue::None);
            }
        };
        let mut seen = seen(cri, scheme, request).await?;
        let uid = request.label(keys::CRR_POD_UID);
        if seen.iter().any(|seen| seen.exited) {
            let name = &request.object.spec.pod_name;
            let pod = read_pod(&self.killer.client, &request.key.namespace, name, uid).await?;
            for seen in seen.iter_mut().filter(|seen| seen.exited) {
                seen.stays_down = pod.as_ref().is_some_and(|pod| stays_down(pod, &seen.name, seen.exit_code));
            }
        }
        let pod = find(&self.pods, &request.pod(), uid);
        let ready: Vec<String> = pod
            .iter()
            .flat_map(|pod| pod.pod.statuses.iter())
            .filter(|status| status.ready)
            .map(|status| status.container_id.to_string())
            .collect();
        let observed = Observed { spec, status: &status, seen: &seen, ready: &ready, now: (self.clock)() };
        let (states, step) = plan::plan(&observed);
        match step {
            Step::Complete => {
                self.complete(request, Some(states), None).await?;
                Ok(Requeue::None)
            }
            Step::Wait(wait) => {
                if begins || status.container_recreate_states.as_ref() != Some(&states) {
                    self.write(request, change_of(states, begins)).await?;
                }
                Ok(Requeue::After(wait.unwrap_or(LOOK_AGAIN)))
            }
            Step::Kill { at, id } => {
                let id = id.strip_prefix(scheme).and_then(|id| id.strip_prefix("://")).unwrap_or(&id);
                self.kill(request, cri, id, states, at).await
            }
        }
    }

    /// Says what is about to happen, does it, and says how it went: an agent that dies in between does not stop the
    /// container's successor.
    async fn kill(
        &self,
        request: &Request,
        cri: &Cri,
        id: &str,
        mut states: Vec<State>,
        at: usize,
    ) -> anyhow::Result<Requeue> {
        let uid = request.label(keys::CRR_POD_UID);
        let key = &request.key;
        let pod = read_pod(&self.killer.client, &key.namespace, &request.object.spec.pod_name, uid).await?;
        // The manager ends requests whose pod is gone.
        let Some(pod) = pod else { return Ok(Requeue::After(LOOK_AGAIN)) };
        let Some(state) = states.get_mut(at) else { return Ok(Requeue::None) };
        let name = state.name.clone();
        let begins = request.phase() != Some(Phase::Recreating);
        if begins || state.is_killed != Some(true) {
            state.is_killed = Some(true);
            self.write(request, change_of(states.clone(), begins)).await?;
        }
        let strategy = request.object.spec.strategy.clone().unwrap_or_default();
        let grace = strategy.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let message = format!("Stopping container {name} by ContainerRecreateRequest {}", key.name);
        let grace = Duration::from_secs(grace.unwrap_or(DEFAULT_GRACE));
        let order = Kill { cri, id, name: &name, pod: &pod, grace, message: &message };
        let result = kill(&order, &self.killer.events).await;
        let failed = result.is_err();
        if let Some(state) = states.get_mut(at) {
            match result {
                Ok(()) => state.phase = Phase::Recreating,
                Err(error) => {
                    state.phase = Phase::Failed;
                    state.message = Some(format!("kill container error: {error}"));
                }
            }
        }
        if failed && strategy.failure_policy.as_deref() != Some("Ignore") {
            self.complete(request, Some(states), None).await?;
        } else {
            self.write(request, change_of(states, false)).await?;
        }
        Ok(Requeue::None)
    }

    /// The runtime that all containers of a request belong to, and its name.
    fn runtime<'a>(&'a self, request: &'a Request) -> Result<(&'a Cri, &'a str), String> {
        let contexts =
            request.object.spec.containers.iter().map(|container| container.status_context.as_ref());
        let mut found: Option<(&Cri, &str)> = None;
        for context in contexts {
            let id = context.map_or("", |context| context.container_id.as_str());
            let scheme = id.split_once("://").map(|(scheme, _)| scheme);
            let runtime = self.killer.runtimes.of_container(id).map(|(cri, _)| cri);
            match (runtime, scheme, found) {
                (Some(cri), Some(scheme), None) => found = Some((cri, scheme)),
                (Some(_), Some(scheme), Some((_, known))) if scheme == known => {}
                _ => return Err(format!("failed to find runtime service: no runtime for container {id:?}")),
            }
        }
        found.ok_or_else(|| "failed to find runtime service: no containers".to_owned())
    }

    async fn complete(
        &self,
        request: &Request,
        states: Option<Vec<State>>,
        message: Option<String>,
    ) -> anyhow::Result<()> {
        let change = StatusChange {
            phase: Some(Phase::Completed),
            completion_time: Some(Time((self.clock)())),
            message,
            container_recreate_states: states,
        };
        self.write(request, change).await
    }

    async fn write(&self, request: &Request, change: StatusChange) -> anyhow::Result<()> {
        let api: Api<ContainerRecreateRequest> =
            Api::namespaced(self.killer.client.clone(), &request.key.namespace);
        // Another of the same name is not this one.
        let uid = request.object.metadata.uid.as_deref().unwrap_or_default();
        let patch =
            Patch::Merge(StatusPatch { metadata: Guard { uid, resource_version: None }, status: change });
        match api.patch_status(&request.key.name, &PatchParams::default(), &patch).await {
            Ok(mut object) => {
                object.metadata.managed_fields = None;
                if let Some(request) = Request::new(object) {
                    self.requests.apply_own(request);
                }
                Ok(())
            }
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
            Err(error) => Err(error).context("cannot write the status of a request"),
        }
    }
}

/// Whether a container that has ended with this code is not started again. Rules by exit code are not judged: such a
/// container counts as one that may come back.
fn stays_down(pod: &StoppablePod, container: &str, exit_code: i32) -> bool {
    if matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return true;
    }
    let own = pod.spec.containers.iter().find(|other| other.name == container);
    if own.is_some_and(|own| own.restart_policy_rules.as_ref().is_some_and(|rules| !rules.is_empty())) {
        return false;
    }
    let policy = own.and_then(|own| own.restart_policy.as_deref()).or(pod.spec.restart_policy.as_deref());
    match policy {
        Some("Never") => true,
        Some("OnFailure") => exit_code == 0,
        _ => false,
    }
}

/// The states, and with the first of them that the request is under way: later the manager may have ended it meanwhile.
fn change_of(states: Vec<State>, begins: bool) -> StatusChange {
    let phase = begins.then_some(Phase::Recreating);
    StatusChange { phase, container_recreate_states: Some(states), ..StatusChange::default() }
}

/// The newest container of each name that a request is about.
async fn seen(cri: &Cri, scheme: &str, request: &Request) -> anyhow::Result<Vec<Seen>> {
    let containers = cri.containers_of_pod(request.label(keys::CRR_POD_UID)).await?;
    let mut seen = Vec::new();
    for wanted in &request.object.spec.containers {
        let newest = containers.iter().find(|container| name_of(container) == wanted.name);
        let Some(newest) = newest else { continue };
        let status = cri.container(&newest.id).await?;
        let started = status.as_ref().map(|status| status.started_at).filter(|nanos| *nanos > 0);
        let count = newest.annotations.get(RESTART_COUNT).and_then(|count| count.parse().ok());
        seen.push(Seen {
            name: wanted.name.clone(),
            id: format!("{scheme}://{}", newest.id),
            exited: newest.state == ContainerState::Exited as i32,
            exit_code: status.map_or(0, |status| status.exit_code),
            stays_down: false,
            restart_count: count.unwrap_or_default(),
            started: started.and_then(|nanos| Timestamp::from_nanosecond(i128::from(nanos)).ok()),
        });
    }
    Ok(seen)
}

fn name_of(container: &Container) -> &str {
    let labelled = container.labels.get(CONTAINER_NAME).map(String::as_str);
    labelled.or_else(|| container.metadata.as_ref().map(|meta| meta.name.as_str())).unwrap_or_default()
}
