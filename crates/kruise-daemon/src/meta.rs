//! What the node's containers were started with, reported on their pods; and the restart of those whose environment
//! is older than the labels and annotations it comes from.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use kruise_api::keys;
use kruise_common::inplace::{RuntimeContainer, RuntimeHashes, RuntimeMeta, env_hash, expected_env_hash};
use kruise_common::key::ObjectKey;
use kruise_common::pod::{ContainerStatusView, ContainerView, PodView};
use kruise_common::pod_wire::PodWire;
use kruise_runtime::controller::Requeue;
use kruise_runtime::queue::WorkQueue;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::Serialize;

use crate::cri::Cri;
use crate::cri::messages::ContainerState;
use crate::kill::{DEFAULT_GRACE, Kill, Killer, kill, read_pod};
use crate::pods::{NodePod, PodStore};

/// Changes of a pod are gathered for this long.
const GATHER: Duration = Duration::from_secs(1);
/// How long reading the environment of a container may take, and the pause before it is tried again.
const READ_ENVIRONMENT: Duration = Duration::from_secs(3);
const HASH: &str = "io.kubernetes.container.hash";
const OWN_GROUP: &str = "apps.kruise.io";
const SIDECARSET_HASH: &str = "kruise.io/sidecarset-hash";

#[derive(Debug, Serialize)]
struct ReportPatch<'a> {
    metadata: ReportMetadata<'a>,
}

#[derive(Debug, Serialize)]
struct ReportMetadata<'a> {
    /// The API server refuses the patch when the pod is another one by now.
    uid: &'a str,
    annotations: BTreeMap<&'static str, String>,
}

/// Reports and restarts.
pub(crate) struct Reporter {
    pub(crate) pods: PodStore,
    pub(crate) killer: Killer,
    /// Containers to restart: name of the runtime and its ID of the container.
    pub(crate) restarts: WorkQueue,
}

impl Reporter {
    /// Wakes pods by their changes. A pod never reported waits for its next change, so that an agent that starts does
    /// not write to all pods of the node at once.
    pub(crate) fn wire(&self, queue: &WorkQueue) {
        let queue = queue.clone();
        self.pods.subscribe(Box::new(move |change| {
            let Some(new) = &change.new else { return };
            let first = change.old.is_none() && new.reported.is_none();
            if !first && is_ours(&new.pod) {
                queue.add_after(new.pod.key.clone(), GATHER);
            }
        }));
    }

    /// One round of one pod.
    pub(crate) async fn reconcile(&self, key: &ObjectKey) -> anyhow::Result<Requeue> {
        let Some(pod) = self.pods.get(key) else { return Ok(Requeue::None) };
        if pod.pod.deleted.is_some() || !is_ours(&pod.pod) {
            return Ok(Requeue::None);
        }
        let (report, complete) = self.observe(&pod).await?;
        if !report.containers.is_empty() && pod.reported.as_ref() != Some(&report) {
            self.write(&pod.pod, &report).await?;
        }
        if pod
            .pod
            .condition(keys::INPLACE_UPDATE_READY)
            .is_some_and(|condition| &*condition.status == "False")
        {
            for id in outdated(&pod.pod, &report) {
                if let Some((scheme, id)) = id.split_once("://") {
                    self.restarts.add(ObjectKey::new(scheme, id));
                }
            }
        }
        Ok(if complete { Requeue::None } else { Requeue::After(READ_ENVIRONMENT) })
    }

    /// What is known of a pod's containers; false if something has to be asked again.
    async fn observe(&self, pod: &NodePod) -> anyhow::Result<(RuntimeMeta, bool)> {
        let (mut report, mut complete) = (RuntimeMeta::default(), true);
        for status in pod.pod.statuses.iter().filter(|status| !status.container_id.is_empty()) {
            let known = pod.reported.as_ref().and_then(|reported| reported.container(&status.name));
            let known = known.filter(|known| *known.container_id == *status.container_id);
            if let Some(known) = known.filter(|known| known.hashes.extracted_env_from_metadata_hash != 0) {
                report.containers.push(known.clone());
                continue;
            }
            let Some((cri, id)) = self.killer.runtimes.of_container(&status.container_id) else { continue };
            let spec = pod.pod.containers.iter().find(|container| container.name == status.name);
            if let Some(entry) = self.ask(cri, id, status, spec).await? {
                complete &= entry.hashes.extracted_env_from_metadata_hash != 0;
                report.containers.push(entry);
            }
        }
        Ok((report, complete))
    }

    /// What the runtime knows of a container; none if it is gone.
    async fn ask(
        &self,
        cri: &Cri,
        id: &str,
        status: &ContainerStatusView,
        spec: Option<&ContainerView>,
    ) -> anyhow::Result<Option<RuntimeContainer>> {
        let Some(found) = cri.container(id).await? else { return Ok(None) };
        let hash = found.annotations.get(HASH).and_then(|hash| u64::from_str_radix(hash, 16).ok());
        let env = match spec {
            Some(spec) if !spec.env_from_metadata.is_empty() => self.environment(cri, id, spec).await,
            _ => env_hash(&BTreeMap::new()),
        };
        Ok(Some(RuntimeContainer {
            name: status.name.to_string(),
            container_id: status.container_id.to_string(),
            restart_count: status.restarts,
            hashes: RuntimeHashes {
                plain_hash: hash.unwrap_or_default(),
                extracted_env_from_metadata_hash: env,
            },
        }))
    }

    /// Hash of the environment a container really has; 0 if it cannot be read.
    async fn environment(&self, cri: &Cri, id: &str, spec: &ContainerView) -> u64 {
        let names = || spec.env_from_metadata.iter().map(|env| &*env.name);
        // Images need not have the program, and values may have several lines; but not every runtime tells.
        if let Ok(Some(present)) = cri.environment(id).await {
            let value = |name| present.get(name).map(String::as_str).unwrap_or_default();
            return env_hash(&names().map(|name| (name, value(name))).collect());
        }
        let output = match cri.exec(id, vec!["env".to_owned()], READ_ENVIRONMENT).await {
            Ok(done) if done.exit_code == 0 => String::from_utf8_lossy(&done.stdout).into_owned(),
            Ok(done) => {
                tracing::warn!(container = id, code = done.exit_code, "the environment cannot be read");
                return 0;
            }
            Err(error) => {
                tracing::warn!(container = id, %error, "the environment cannot be read");
                return 0;
            }
        };
        let present: BTreeMap<&str, &str> = output.lines().filter_map(|line| line.split_once('=')).collect();
        env_hash(&names().map(|name| (name, present.get(name).copied().unwrap_or_default())).collect())
    }

    async fn write(&self, pod: &PodView, report: &RuntimeMeta) -> anyhow::Result<()> {
        let text = serde_json::to_string(report)?;
        let annotations = BTreeMap::from([(keys::RUNTIME_CONTAINERS_META, text)]);
        let patch =
            Patch::Strategic(ReportPatch { metadata: ReportMetadata { uid: &pod.uid.0, annotations } });
        let api: Api<PodWire> = Api::namespaced(self.killer.client.clone(), &pod.key.namespace);
        match api.patch_status(&pod.key.name, &PatchParams::default(), &patch).await {
            Ok(pod) => {
                if let Some(pod) = NodePod::of(pod) {
                    self.pods.apply_own(pod);
                }
                Ok(())
            }
            // Gone, or another one: its own events will tell.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error).context("cannot report what a pod's containers were started with"),
        }
    }

    /// Stops one container, unless it has ended by itself.
    pub(crate) async fn restart(&self, key: &ObjectKey) -> anyhow::Result<Requeue> {
        let (scheme, id) = (&*key.namespace, &*key.name);
        let full = format!("{scheme}://{id}");
        let Some((cri, _)) = self.killer.runtimes.of_container(&full) else { return Ok(Requeue::None) };
        let Some(status) = cri.container(id).await? else { return Ok(Requeue::None) };
        if status.state != ContainerState::Running as i32 {
            return Ok(Requeue::None);
        }
        let label = |name: &str| status.labels.get(name).map(String::as_str).unwrap_or_default();
        let (namespace, pod) = (label("io.kubernetes.pod.namespace"), label("io.kubernetes.pod.name"));
        let pod = read_pod(&self.killer.client, namespace, pod, label("io.kubernetes.pod.uid")).await?;
        let Some(pod) = pod else { return Ok(Requeue::None) };
        let name = label("io.kubernetes.container.name");
        let grace = pod.spec.termination_grace_period_seconds;
        let grace = grace.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(DEFAULT_GRACE);
        let message = format!("Stopping containerID {scheme}://{name} by container meta restarter");
        let grace = Duration::from_secs(grace);
        kill(&Kill { cri, id, name, pod: &pod, grace, message: &message }, &self.killer.events).await?;
        Ok(Requeue::None)
    }
}

/// Whether somebody wants to know about the pod's containers.
fn is_ours(pod: &PodView) -> bool {
    pod.annotation(SIDECARSET_HASH).is_some()
        || pod.controller().is_some_and(|owner| &*owner.group == OWN_GROUP)
}

/// IDs of the containers whose environment is known to be older than the pod's labels and annotations.
fn outdated<'a>(pod: &PodView, report: &'a RuntimeMeta) -> Vec<&'a str> {
    let is_outdated = |entry: &&RuntimeContainer| {
        let current = entry.hashes.extracted_env_from_metadata_hash;
        let spec = pod.containers.iter().find(|container| *container.name == *entry.name);
        current > 0 && spec.is_some_and(|spec| expected_env_hash(pod, spec) != current)
    };
    report.containers.iter().filter(is_outdated).map(|entry| entry.container_id.as_str()).collect()
}
