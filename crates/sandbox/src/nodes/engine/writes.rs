//! The writes of scheduler and kubelets.

use jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::super::container::Note;
use super::super::status::time;
use super::super::wire::{PodKey, PodView};

/// One write about a pod.
#[derive(Debug)]
pub(super) enum Write {
    Bind { node: String },
    Status { status: Value },
    Delete,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    Done,
    /// The pod is not there any more.
    Gone,
    Failed,
}

#[derive(Debug)]
pub(super) struct Done {
    pub(super) key: PodKey,
    pub(super) uid: String,
    pub(super) outcome: Outcome,
}

impl Write {
    pub(super) async fn perform(self, client: Client, key: PodKey, uid: String) -> Done {
        let result = self.send(client, &key, &uid).await;
        let outcome = match result {
            Ok(()) => Outcome::Done,
            Err(kube::Error::Api(status)) if status.code == 404 => Outcome::Gone,
            Err(error) => {
                tracing::warn!(namespace = key.0, pod = key.1, %error, "write failed and will be retried");
                Outcome::Failed
            }
        };
        Done { key, uid, outcome }
    }

    async fn send(self, client: Client, (namespace, name): &PodKey, uid: &str) -> kube::Result<()> {
        let pods: Api<PodView> = Api::namespaced(client, namespace);
        match self {
            Self::Bind { node } => {
                let binding = json!({
                    "apiVersion": "v1",
                    "kind": "Binding",
                    "metadata": {"name": name, "namespace": namespace, "uid": uid},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": node},
                });
                let _: Value =
                    pods.create_subresource("binding", name, &PostParams::default(), &binding).await?;
            }
            Self::Status { status } => {
                let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
                pods.patch_status(name, &PatchParams::default(), &patch).await?;
            }
            Self::Delete => {
                let now = DeleteParams::default()
                    .grace_period(0)
                    .preconditions(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
                pods.delete(name, &now).await?;
            }
        }
        Ok(())
    }
}

/// The event object for a note; `(name, count)` says under which name and how often it was told.
pub(super) fn event(
    pod: &PodView,
    node: Option<&str>,
    note: &Note,
    (name, count): (&str, u32),
    now: Timestamp,
) -> Value {
    let component = if node.is_some() { "kubelet" } else { "default-scheduler" };
    let meta = &pod.metadata;
    if count > 1 {
        return json!({"metadata": {"name": name}, "count": count, "lastTimestamp": time(now)});
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": meta.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
            "fieldPath": Some(&note.field).filter(|field| !field.is_empty()),
        },
        "reason": note.reason,
        "message": note.message,
        "source": {"component": component, "host": node},
        "reportingComponent": component,
        "reportingInstance": node.unwrap_or_default(),
        "type": if note.warning { "Warning" } else { "Normal" },
        "count": count,
        "firstTimestamp": time(now),
        "lastTimestamp": time(now),
    })
}

/// Creates an event, or counts it up when it was told before.
pub(super) async fn publish(client: Client, namespace: String, event: Value, count: u32) {
    let result = send_event(client, &namespace, &event, count).await;
    if let Err(error) = result {
        tracing::debug!(namespace, %error, "event was not published");
    }
}

async fn send_event(client: Client, namespace: &str, event: &Value, count: u32) -> kube::Result<()> {
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(client, namespace);
    if count > 1 {
        let name = crate::object::name(event);
        events.patch(name, &PatchParams::default(), &Patch::Merge(event)).await?;
        return Ok(());
    }
    let event = serde_json::from_value(event.clone()).map_err(kube::Error::SerdeError)?;
    events.create(&PostParams::default(), &event).await?;
    Ok(())
}
