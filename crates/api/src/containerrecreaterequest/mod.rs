//! `ContainerRecreateRequest`: restarts chosen containers of a running pod. Types are those of v1beta1; the webhook
//! converts v1alpha1, whose schema is the same but for fewer checks and two fields it keeps in annotations.

pub mod conversion;

use k8s_openapi::api::core::v1::{ContainerPort, ExecAction, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind's name.
pub const KIND: &str = "ContainerRecreateRequest";

/// The containers to restart. Nothing of it can be changed.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "apps.kruise.io",
    version = "v1beta1",
    kind = "ContainerRecreateRequest",
    plural = "containerrecreaterequests",
    singular = "containerrecreaterequest",
    shortname = "crr",
    namespaced,
    status = "ContainerRecreateRequestStatus",
    derive = "PartialEq",
    doc = "ContainerRecreateRequest restarts chosen containers of a running pod, without touching the pod itself."
)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecreateRequestSpec {
    /// The pod, in the same namespace.
    pub pod_name: String,
    /// The containers to restart, in this order.
    pub containers: Vec<ContainerRecreateRequestContainer>,
    /// How they are restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<ContainerRecreateRequestStrategy>,
    /// Seconds from its creation after which an unfinished request is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub active_deadline_seconds: Option<i64>,
    /// Seconds after which a finished request is deleted. Default: it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i32>,
}

/// A container to restart. All but the name is filled in by the webhook.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecreateRequestContainer {
    /// Name of a regular container of the pod.
    pub name: String,
    /// The hook that runs before the container is stopped. Taken from the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<ProbeHandler>,
    /// Ports of the container, for hooks that name one. Taken from the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<ContainerPort>>,
    /// What the container was when the request was made. Taken from the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_context: Option<ContainerRecreateRequestContainerContext>,
}

/// What a hook does: one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeHandler {
    /// Runs a command in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecAction>,
    /// Sends an HTTP GET request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HTTPGetAction>,
    /// Opens a connection. Not supported for hooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TCPSocketAction>,
}

/// What a container was when the request was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecreateRequestContainerContext {
    /// Its ID, like `containerd://…`.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// How often it had been restarted.
    pub restart_count: i32,
}

/// How containers are restarted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecreateRequestStrategy {
    /// Fail ends the request when one container fails; Ignore goes on with the next. Default Fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Fail", "Ignore"]))]
    pub failure_policy: Option<String>,
    /// Restart a container only after the one before it is back. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered_recreate: Option<bool>,
    /// Restart a container once even if it was already replaced since the request was made. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_recreate: Option<bool>,
    /// Seconds a container is given to end. Default: the pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub termination_grace_period_seconds: Option<i64>,
    /// Mark the pod not ready and wait this many seconds before the first container is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub unready_grace_period_seconds: Option<i64>,
    /// Seconds the new container must have been running, and be ready, to count as restarted. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub min_started_seconds: Option<i32>,
}

/// How far a request is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecreateRequestStatus {
    /// Pending, Recreating or Completed. Completed says nothing about success.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "phase_or_none")]
    #[schemars(with = "Option<String>", extend("enum" = PHASES))]
    pub phase: Option<ContainerRecreateRequestPhase>,
    /// When the request ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How far each container is, in the order of spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_recreate_states: Option<Vec<ContainerRecreateRequestContainerRecreateState>>,
    /// What the manager sees of the containers' status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_status_snapshot: Option<Vec<ContainerStatusSnapshot>>,
    /// PreRecreateGrace: since when the pod has been forced to be not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<Condition>>,
}

/// How far one container is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecreateRequestContainerRecreateState {
    /// Name of the container.
    pub name: String,
    /// Pending, Recreating, Succeeded or Failed.
    #[schemars(with = "String", extend("enum" = PHASES))]
    pub phase: ContainerRecreateRequestPhase,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// True once the container was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_killed: Option<bool>,
}

/// One container's status as the manager sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatusSnapshot {
    /// Name of the container.
    pub name: String,
    /// Whether it is ready.
    pub ready: bool,
    /// How often it has been restarted.
    pub restart_count: i32,
    /// Its ID, like `containerd://…`.
    #[serde(rename = "containerID")]
    pub container_id: String,
}

/// OpenKruise can leave an empty phase behind, which is none.
fn phase_or_none<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<ContainerRecreateRequestPhase>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Phase(ContainerRecreateRequestPhase),
        Text(String),
    }
    match Option::<Stored>::deserialize(from)? {
        None => Ok(None),
        Some(Stored::Phase(phase)) => Ok(Some(phase)),
        Some(Stored::Text(text)) if text.is_empty() => Ok(None),
        Some(Stored::Text(text)) => Err(serde::de::Error::custom(format!("unknown phase {text}"))),
    }
}

/// The values of a phase, in v1beta1.
const PHASES: [&str; 5] = ["Pending", "Recreating", "Succeeded", "Failed", "Completed"];

/// How far a request or one of its containers is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContainerRecreateRequestPhase {
    /// Waits for its turn.
    #[default]
    Pending,
    /// Is under way.
    Recreating,
    /// The container is back. Of containers only.
    Succeeded,
    /// The container could not be restarted. Of containers only.
    Failed,
    /// The request has ended. Of requests only.
    Completed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_phase_that_was_left_behind_is_none_and_an_unknown_one_an_error() {
        let read = |phase: &str| {
            let text = format!(r#"{{"phase": {phase}}}"#);
            serde_json::from_str::<ContainerRecreateRequestStatus>(&text).map(|status| status.phase)
        };
        assert_eq!(read(r#""""#).unwrap(), None);
        assert_eq!(read("null").unwrap(), None);
        assert_eq!(read(r#""Completed""#).unwrap(), Some(ContainerRecreateRequestPhase::Completed));
        assert!(read(r#""Sometime""#).unwrap_err().to_string().contains("unknown phase Sometime"));
    }
}
