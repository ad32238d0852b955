//! The harness of the end-to-end specs: one namespace and one CloneSet per spec, polled as snapshots, in the cluster
//! `KUBECONFIG` names or in a sandbox inside the process.
//!
//! A spec states what it waits for in words; when that does not happen in time, the error carries those words and the
//! world as it was: the set's status, its pods and the events.

mod agent;
mod images;
mod manager;
mod registries;
mod venue;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kruise_playground::Playground;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::Instant;

pub use agent::{AgentsBack, agents_have_reported, agents_with_argument};
pub use images::{FullDisk, NodeImages, entry, hurried_entry, kind};
pub use manager::{Manager, PutBack, cluster, cluster_output, seen};
pub use registries::{BrokenRegistry, Defect, SlowRegistry};
pub use venue::Venue;

/// The name of the CloneSet of every spec; each has a namespace of its own.
pub const SET: &str = "demo";
/// How long a spec waits for one thing by default.
pub const SOON: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(200);

/// A v1beta1 CloneSet named [`SET`] of `replicas` pods with one container, `main`, of `image`.
pub fn clone_set(replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps.kruise.io/v1beta1",
        "kind": "CloneSet",
        "metadata": {"name": SET},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": SET}},
            "template": {
                "metadata": {"labels": {"app": SET}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [container(image)],
                },
            },
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"podUpdatePolicy": "InPlaceIfPossible"}},
        },
    })
}

/// The one container of the specs' pods.
pub fn container(image: &str) -> Value {
    json!({"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"})
}

/// The merge patch that sets the image.
pub fn with_image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [container(image)]}}}})
}

/// Lays `patch` over `base`, as a JSON merge patch does.
pub fn merged(mut base: Value, patch: &Value) -> Value {
    merge(&mut base, patch);
    base
}

fn merge(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    base.remove(key);
                } else {
                    merge(base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (base, patch) => *base = patch.clone(),
    }
}

/// What specs ask of a pod.
pub trait PodView {
    /// Its name.
    fn name(&self) -> &str;
    /// Its UID.
    fn uid(&self) -> &str;
    /// The value of a label, "" if absent.
    fn label(&self, key: &str) -> &str;
    /// Neither ended nor terminating.
    fn active(&self) -> bool;
    /// Whether the condition is True; `None` if it is absent.
    fn condition(&self, type_: &str) -> Option<bool>;
    /// Active, Ready and in lifecycle state Normal.
    fn available(&self) -> bool;
    /// The image its first container should run.
    fn image(&self) -> &str;
    /// Restarts of its first container.
    fn restarts(&self) -> i32;
    /// The lifecycle state label.
    fn state(&self) -> &str {
        self.label("lifecycle.apps.kruise.io/state")
    }
    /// The revision label.
    fn revision(&self) -> &str {
        self.label("controller-revision-hash")
    }
    /// What an in-place update must not change: UID, IP and node.
    fn identity(&self) -> (String, String, String);
}

impl PodView for Pod {
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    fn label(&self, key: &str) -> &str {
        self.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map_or("", String::as_str)
    }

    fn active(&self) -> bool {
        let phase = self.status.as_ref().and_then(|status| status.phase.as_deref());
        self.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
    }

    fn condition(&self, type_: &str) -> Option<bool> {
        let conditions = self.status.as_ref()?.conditions.as_ref()?;
        conditions
            .iter()
            .find(|condition| condition.type_ == type_)
            .map(|condition| condition.status == "True")
    }

    fn available(&self) -> bool {
        self.active() && self.condition("Ready") == Some(true) && matches!(self.state(), "" | "Normal")
    }

    fn image(&self) -> &str {
        let container = self.spec.as_ref().and_then(|spec| spec.containers.first());
        container.and_then(|container| container.image.as_deref()).unwrap_or_default()
    }

    fn restarts(&self) -> i32 {
        let statuses = self.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        statuses.and_then(|statuses| statuses.first()).map_or(0, |status| status.restart_count)
    }

    fn identity(&self) -> (String, String, String) {
        let ip = self.status.as_ref().and_then(|status| status.pod_ip.clone());
        let node = self.spec.as_ref().and_then(|spec| spec.node_name.clone());
        (self.uid().to_owned(), ip.unwrap_or_default(), node.unwrap_or_default())
    }
}

/// The set and the pods of its namespace at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The CloneSet as v1beta1.
    pub set: Value,
    /// Every pod of the namespace, whoever owns it, in order of names.
    pub all: Vec<Pod>,
}

impl Snapshot {
    /// A number of the set's status; -1 if absent.
    pub fn status(&self, field: &str) -> i64 {
        self.set.get("status").and_then(|status| status.get(field)).and_then(Value::as_i64).unwrap_or(-1)
    }

    /// A text of the set's status; "" if absent.
    pub fn text(&self, field: &str) -> &str {
        self.set
            .get("status")
            .and_then(|status| status.get(field))
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// A condition of the set.
    pub fn condition(&self, type_: &str) -> Option<&Value> {
        let conditions = self.set.pointer("/status/conditions")?.as_array()?;
        conditions.iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some(type_))
    }

    /// The active pods the set controls.
    pub fn pods(&self) -> Vec<&Pod> {
        let uid = self.set.pointer("/metadata/uid").and_then(Value::as_str);
        let owned = |pod: &&Pod| {
            let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
            owners.iter().any(|owner| owner.controller == Some(true) && Some(owner.uid.as_str()) == uid)
        };
        self.all.iter().filter(|pod| pod.active()).filter(owned).collect()
    }

    /// The UIDs of the set's active pods, sorted.
    pub fn uids(&self) -> Vec<String> {
        let mut uids: Vec<_> = self.pods().iter().map(|pod| pod.uid().to_owned()).collect();
        uids.sort();
        uids
    }

    /// How many of the set's pods are available.
    pub fn available(&self) -> usize {
        self.pods().iter().filter(|pod| pod.available()).count()
    }

    /// How many of the set's active pods are to run `image`.
    pub fn running(&self, image: &str) -> usize {
        self.pods().iter().filter(|pod| pod.image() == image).count()
    }

    /// Whether the controller has seen the latest spec and all `replicas` pods are at it and available.
    pub fn settled(&self, replicas: usize) -> bool {
        let observed = self.set.pointer("/metadata/generation").and_then(Value::as_i64);
        let wanted = replicas as i64;
        observed == Some(self.status("observedGeneration"))
            && ["replicas", "readyReplicas", "updatedReplicas", "updatedAvailableReplicas"]
                .iter()
                .all(|field| self.status(field) == wanted)
            && self.pods().len() == replicas
            && self.available() == replicas
            && self.pods().iter().all(|pod| pod.revision() == self.text("updateRevision"))
    }
}

/// The place of one spec: a namespace that goes when the spec ends.
pub struct Place {
    client: Client,
    name: String,
    sandbox: Option<Box<Playground>>,
    /// What was written to volumes of the sandbox, which have no insides, by the volume.
    written: Mutex<BTreeMap<String, String>>,
}

impl Place {
    pub(crate) fn new(client: Client, name: String, sandbox: Option<Box<Playground>>) -> Self {
        Self { client, name, sandbox, written: Mutex::default() }
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self.name
    }

    /// The CloneSets of the namespace in one API version.
    pub fn sets(&self, version: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("apps.kruise.io", version, "CloneSet");
        Api::namespaced_with(
            self.client.clone(),
            &self.name,
            &ApiResource::from_gvk_with_plural(&kind, "clonesets"),
        )
    }

    /// The client of the spec.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The sandbox, if the place is in one, to make things go wrong in it.
    pub fn sandbox(&mut self) -> Option<&mut Playground> {
        self.sandbox.as_deref_mut()
    }

    /// The claims of the namespace, in order of names, and whether they are being deleted.
    pub async fn claims(&self) -> Result<Vec<PersistentVolumeClaim>> {
        Ok(Api::namespaced(self.client(), &self.name).list(&ListParams::default()).await?.items)
    }

    /// The pods of the namespace.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// The ControllerRevisions of the namespace.
    pub async fn revisions(&self) -> Result<Vec<k8s_openapi::api::apps::v1::ControllerRevision>> {
        Ok(Api::namespaced(self.client.clone(), &self.name).list(&ListParams::default()).await?.items)
    }

    /// Creates a CloneSet; the error is the API server's own.
    pub async fn create(&self, set: &Value) -> Result<DynamicObject, kube::Error> {
        let set = serde_json::from_value(set.clone()).map_err(kube::Error::SerdeError)?;
        self.sets("v1beta1").create(&PostParams::default(), &set).await
    }

    /// Lays a merge patch over the set.
    pub async fn patch(&self, patch: &Value) -> Result<()> {
        self.sets("v1beta1").patch(SET, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Lays a merge patch over a pod.
    pub async fn patch_pod(&self, name: &str, patch: &Value) -> Result<()> {
        self.pods().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Deletes a pod as a user does.
    pub async fn delete_pod(&self, name: &str) -> Result<()> {
        self.pods().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Sets the number of replicas.
    pub async fn scale(&self, replicas: i32) -> Result<()> {
        self.patch(&json!({"spec": {"replicas": replicas}})).await
    }

    /// What is in the cluster now. The pods are read after the set, each list at one moment.
    pub async fn now(&self) -> Result<Snapshot> {
        let set = serde_json::to_value(self.sets("v1beta1").get(SET).await?)?;
        let mut all = self.pods().list(&ListParams::default()).await?.items;
        all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(Snapshot { set, all })
    }

    /// Waits until `done`, and answers the snapshot that was.
    pub async fn eventually(
        &self,
        what: &str,
        deadline: Duration,
        done: impl FnMut(&Snapshot) -> bool,
    ) -> Result<Snapshot> {
        self.until(what, deadline, |_| true, done).await
    }

    /// Waits until `done`, while `invariant` holds in every sample. An API server that does not answer gives none.
    pub async fn until(
        &self,
        what: &str,
        deadline: Duration,
        mut invariant: impl FnMut(&Snapshot) -> bool,
        mut done: impl FnMut(&Snapshot) -> bool,
    ) -> Result<Snapshot> {
        let end = Instant::now() + deadline;
        loop {
            let now = match self.now().await {
                Err(error) if Instant::now() < end && is_outage(&error) => {
                    tokio::time::sleep(POLL).await;
                    continue;
                }
                now => now?,
            };
            if !invariant(&now) {
                bail!("an invariant broke while waiting until {what}\n{}", self.world(&now).await);
            }
            if done(&now) {
                return Ok(now);
            }
            if Instant::now() >= end {
                bail!("not within {deadline:?}: {what}\n{}", self.world(&now).await);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Checks that `holds` is true in every sample for `period`.
    pub async fn always(
        &self,
        what: &str,
        period: Duration,
        mut holds: impl FnMut(&Snapshot) -> bool,
    ) -> Result<Snapshot> {
        let end = Instant::now() + period;
        loop {
            let now = self.now().await?;
            if !holds(&now) {
                bail!("no longer true: {what}\n{}", self.world(&now).await);
            }
            if Instant::now() >= end {
                return Ok(now);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Fails with the world in words unless `holds`.
    pub async fn check(&self, now: &Snapshot, what: &str, holds: bool) -> Result<()> {
        if holds { Ok(()) } else { Err(anyhow!("not so: {what}\n{}", self.world(now).await)) }
    }

    /// Runs kubectl in the namespace and answers what it printed.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output =
            Command::new("kubectl").args(["--namespace", &self.name]).args(arguments).output().await?;
        if !output.status.success() {
            bail!("kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// The scale of the set.
    pub async fn scale_of_set(&self) -> Result<Scale> {
        Ok(self.sets("v1beta1").get_subresource("scale", SET).await.and_then(typed)?)
    }

    /// Sets the number of replicas through the scale subresource, as autoscalers do.
    pub async fn scale_like_an_autoscaler(&self, replicas: i32) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.sets("v1beta1").patch_scale(SET, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// The tag of the image that the first container of a pod really runs: in the cluster a file inside it says so, in
    /// the sandbox only the node can.
    pub async fn version_inside(&self, pod: &str) -> Result<String> {
        if self.sandbox.is_none() {
            return self.kubectl(&["exec", pod, "--", "cat", "/etc/version"]).await;
        }
        let statuses = self.pods().get(pod).await?.status.and_then(|status| status.container_statuses);
        let running = statuses
            .into_iter()
            .flatten()
            .find(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()));
        let image = running.with_context(|| format!("nothing runs in {pod}"))?.image;
        Ok(image.rsplit(':').next().unwrap_or_default().to_owned())
    }

    /// Writes a text to the volume `/data` of a pod.
    pub async fn write(&self, pod: &str, text: &str) -> Result<()> {
        if self.sandbox.is_none() {
            let script = format!("echo {text} >/data/text");
            return self.kubectl(&["exec", pod, "--", "sh", "-c", &script]).await.map(drop);
        }
        let volume = self.volume_of(pod).await?;
        self.written().insert(volume, text.to_owned());
        Ok(())
    }

    /// What was written to the volume `/data` of a pod.
    pub async fn read(&self, pod: &str) -> Result<String> {
        if self.sandbox.is_none() {
            return self.kubectl(&["exec", pod, "--", "cat", "/data/text"]).await;
        }
        let volume = self.volume_of(pod).await?;
        let text = self.written().get(&volume).cloned();
        text.with_context(|| format!("nothing was written to {volume} of {pod}"))
    }

    fn written(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The volume that the claim of a pod's volume `data` is bound to.
    async fn volume_of(&self, pod: &str) -> Result<String> {
        let spec = self.pods().get(pod).await?.spec.context("a pod without spec")?;
        let data = spec.volumes.into_iter().flatten().find(|volume| volume.name == "data");
        let claim = data.and_then(|volume| volume.persistent_volume_claim).context("no claim")?.claim_name;
        let claim = self.claims().await?.into_iter().find(|it| it.metadata.name.as_deref() == Some(&claim));
        claim.and_then(|claim| claim.spec?.volume_name).with_context(|| format!("{pod} has no volume"))
    }

    /// The events of the namespace with that reason, as their messages.
    pub async fn events(&self, reason: &str) -> Result<Vec<String>> {
        let events =
            Api::<Event>::namespaced(self.client.clone(), &self.name).list(&ListParams::default()).await?;
        let wanted = events.items.into_iter().filter(|event| event.reason.as_deref() == Some(reason));
        Ok(wanted.filter_map(|event| event.message).collect())
    }

    /// Everything a failing spec shows. Never fails itself.
    async fn world(&self, now: &Snapshot) -> String {
        let mut text = format!("namespace {}\n", self.name);
        let spec = now.set.get("spec").cloned().unwrap_or_default();
        let status = now.set.get("status").cloned().unwrap_or_default();
        let _ = writeln!(text, "spec.replicas {:?}, {:?}", spec.get("replicas"), spec.get("updateStrategy"));
        let _ = writeln!(text, "status {status:#}");
        for pod in &now.all {
            let _ = writeln!(
                text,
                "pod {} uid {} image {} restarts {} terminating {} labels {:?}",
                pod.name(),
                pod.uid(),
                pod.image(),
                pod.restarts(),
                pod.metadata.deletion_timestamp.is_some(),
                pod.metadata.labels
            );
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
            for condition in conditions.unwrap_or_default() {
                let _ = writeln!(text, "    {}={} {:?}", condition.type_, condition.status, condition.reason);
            }
        }
        let events =
            Api::<Event>::namespaced(self.client.clone(), &self.name).list(&ListParams::default()).await;
        for event in events.map(|list| list.items).unwrap_or_default() {
            let _ = writeln!(
                text,
                "event {} {}: {}",
                event.involved_object.name.as_deref().unwrap_or_default(),
                event.reason.as_deref().unwrap_or_default(),
                event.message.as_deref().unwrap_or_default()
            );
        }
        text
    }
}

fn typed<K: serde::de::DeserializeOwned>(object: DynamicObject) -> Result<K, kube::Error> {
    serde_json::to_value(object).and_then(serde_json::from_value).map_err(kube::Error::SerdeError)
}

/// Whether the API server did not answer, or answered that it cannot yet.
fn is_outage(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => status.code >= 500 || status.code == 429,
        Some(_) => true,
        None => false,
    }
}

impl Drop for Place {
    /// Asks for the namespace's deletion without waiting for it. A child process, because the runtime of a failed spec
    /// no longer runs tasks.
    fn drop(&mut self) {
        if self.sandbox.is_some() {
            return;
        }
        let _ = std::process::Command::new("kubectl")
            .args(["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .and_then(|mut child| child.wait());
    }
}
