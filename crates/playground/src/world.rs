//! What the demo looks at: one CloneSet, its pods and what was told about them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;

/// Name of the demo's CloneSet.
pub(crate) const SET: &str = "web";

/// A pod as the table shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PodRow {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) ip: String,
    pub(crate) revision: String,
    /// The image that runs, as the node reports it; the one that shall run while none does.
    pub(crate) image: String,
    pub(crate) state: String,
    pub(crate) ready: bool,
    pub(crate) restarts: i32,
    pub(crate) node: String,
    pub(crate) created: Option<Timestamp>,
    pub(crate) terminating: bool,
}

impl PodRow {
    fn of(pod: Pod) -> Self {
        let meta = pod.metadata;
        let status = pod.status.unwrap_or_default();
        let spec = pod.spec.unwrap_or_default();
        let container = status.container_statuses.iter().flatten().next();
        let wanted =
            spec.containers.first().and_then(|container| container.image.clone()).unwrap_or_default();
        let running = container.map(|container| container.image.clone()).filter(|image| !image.is_empty());
        let ready = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let terminating = meta.deletion_timestamp.is_some();
        let waiting =
            container.and_then(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
        let phase = status.phase.unwrap_or_else(|| "Pending".to_owned());
        let label = |key: &str| meta.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
        let revision = label("controller-revision-hash").unwrap_or_default();
        Self {
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            ip: status.pod_ip.unwrap_or_default(),
            revision: revision.rsplit('-').next().unwrap_or_default().to_owned(),
            image: running.unwrap_or(wanted),
            state: if terminating { "Terminating".to_owned() } else { waiting.unwrap_or(phase) },
            ready: ready && !terminating,
            restarts: container.map_or(0, |container| container.restart_count),
            node: spec.node_name.unwrap_or_default(),
            created: meta.creation_timestamp.map(|time| time.0),
            terminating,
        }
    }
}

/// An event of the set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) reason: String,
    pub(crate) message: String,
    /// How often it was told.
    pub(crate) count: i32,
}

impl Told {
    fn of(event: Event) -> Self {
        Self {
            name: event.metadata.name.unwrap_or_default(),
            reason: event.reason.unwrap_or_default(),
            message: event.message.unwrap_or_default(),
            count: event.count.unwrap_or(1),
        }
    }
}

/// One look at everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    /// The CloneSet.
    pub(crate) set: Value,
    /// Its pods by name.
    pub(crate) pods: Vec<PodRow>,
    /// Events of the set, the one told last at the end.
    pub(crate) events: Vec<Told>,
}

impl World {
    /// A number in the set's status; 0 if it is not there yet.
    pub(crate) fn status(&self, field: &str) -> i64 {
        self.set.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or_default()
    }

    /// True once the controller has seen the last change of the spec.
    pub(crate) fn observed(&self) -> bool {
        let generation = self.set.pointer("/metadata/generation").and_then(Value::as_i64);
        generation.is_some() && Some(self.status("observedGeneration")) == generation
    }

    /// Pods that are not being deleted.
    pub(crate) fn staying(&self) -> impl Iterator<Item = &PodRow> {
        self.pods.iter().filter(|pod| !pod.terminating)
    }

    /// True if exactly this many pods are there, all of them ready and counted as available.
    pub(crate) fn settled(&self, count: usize) -> bool {
        self.observed()
            && self.pods.len() == count
            && self.pods.iter().all(|pod| pod.ready)
            && self.status("availableReplicas") == i64::try_from(count).unwrap_or(i64::MAX)
    }

    /// What an update in place must keep: uid, address and node of each pod.
    pub(crate) fn identities(&self) -> BTreeMap<String, (String, String, String)> {
        let identity = |pod: &PodRow| (pod.name.clone(), (pod.uid.clone(), pod.ip.clone(), pod.node.clone()));
        self.pods.iter().map(identity).collect()
    }

    /// Pods that run this image.
    pub(crate) fn running(&self, image: &str) -> usize {
        self.staying().filter(|pod| pod.image.ends_with(image)).count()
    }
}

/// The kind, without types: the demo reads it as a user's script would.
pub(crate) fn clone_sets(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", "CloneSet");
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk_with_plural(&kind, "clonesets"))
}

/// Looks at everything once.
///
/// # Errors
/// The API server does not answer.
pub(crate) async fn look(client: &Client, namespace: &str) -> anyhow::Result<World> {
    let set = clone_sets(client, namespace).get_opt(SET).await?;
    let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?;
    let events = Api::<Event>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?;
    let mut pods: Vec<PodRow> = pods.items.into_iter().map(PodRow::of).collect();
    pods.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.name.cmp(&b.name)));
    let mut events: Vec<Event> = events
        .items
        .into_iter()
        .filter(|event| event.involved_object.kind.as_deref() == Some("CloneSet"))
        .collect();
    events.sort_by_key(|event| {
        event.metadata.resource_version.as_deref().and_then(|at| at.parse::<u64>().ok())
    });
    Ok(World { set: serde_json::to_value(set)?, pods, events: events.into_iter().map(Told::of).collect() })
}
