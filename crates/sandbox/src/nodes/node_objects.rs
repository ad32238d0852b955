//! The Node objects of the simulated nodes and their leases.

use std::collections::BTreeSet;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::container::image_size;
use super::status::time;
use super::{Settings, Shared, images};

/// Namespace of the leases.
const LEASES: &str = "kube-node-lease";
/// Registrations under way at once.
const PARALLEL: usize = 16;

/// The address of the node with this number.
pub(crate) fn address(number: usize) -> String {
    format!("192.{}.{}.{}", 168 + number / 62_500, number / 250 % 250, number % 250 + 1)
}

/// Creates the Node objects that are not there and makes the others ready.
pub(crate) async fn register(shared: &Shared, now: Timestamp) {
    let api: Api<Node> = Api::all(shared.client.clone());
    let nodes: Vec<(String, Value)> = shared
        .names()
        .enumerate()
        .map(|(number, name)| {
            let node = node(&shared.settings, &name, number, now);
            (name, node)
        })
        .collect();
    let writes = nodes.into_iter().map(|(name, node)| register_one(&api, name, node));
    futures::stream::iter(writes).buffer_unordered(PARALLEL).for_each(|()| async {}).await;
}

async fn register_one(api: &Api<Node>, name: String, body: Value) {
    let status = json!({"status": body.get("status")});
    let node: Node = match serde_json::from_value(body) {
        Ok(node) => node,
        Err(error) => {
            tracing::error!(node = name, %error, "node settings do not make a node");
            return;
        }
    };
    match api.create(&PostParams::default(), &node).await {
        Ok(created) if created.status.as_ref().is_some_and(|status| status.conditions.is_some()) => return,
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => tracing::warn!(node = name, %error, "cannot register node"),
    }
    let patched = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await;
    if let Err(error) = patched {
        tracing::warn!(node = name, %error, "cannot write node status");
    }
}

fn node(settings: &Settings, name: &str, number: usize, now: Timestamp) -> Value {
    let mut labels = settings.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", "amd64"),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", "amd64"),
    ] {
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": settings.taints},
        "status": {
            "capacity": settings.allocatable,
            "allocatable": settings.allocatable,
            "addresses": [
                {"type": "InternalIP", "address": address(number)},
                {"type": "Hostname", "address": name},
            ],
            "conditions": conditions(Condition::Ready, now),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": images::digest(name).get(..32),
                "containerRuntimeVersion": "containerd://2.1.4",
                "kernelVersion": "6.12.0",
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.34.4",
                "machineID": images::digest(name).get(32..),
                "operatingSystem": "linux",
                "osImage": "Simulated",
                "systemUUID": images::digest(name).get(16..48),
            },
        },
    })
}

/// What a node says of itself, or what is said of one that is silent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Condition {
    Ready,
    Silent,
}

pub(crate) fn conditions(which: Condition, now: Timestamp) -> Vec<Value> {
    let rows = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    rows.into_iter()
        .map(|(name, status, reason, message)| {
            let (status, reason, message) = match which {
                Condition::Ready => (status, reason, message),
                Condition::Silent => ("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status."),
            };
            let mut condition = json!({
                "type": name,
                "status": status,
                "reason": reason,
                "message": message,
                "lastTransitionTime": time(now),
            });
            if let (Condition::Ready, Value::Object(condition)) = (which, &mut condition) {
                condition.insert("lastHeartbeatTime".into(), time(now).into());
            }
            condition
        })
        .collect()
}

/// Writes part of a node's status.
pub(crate) async fn patch_status(client: Client, name: String, status: Value) {
    let api: Api<Node> = Api::all(client);
    let patch = Patch::Strategic(json!({"status": status}));
    if let Err(error) = api.patch_status(&name, &PatchParams::default(), &patch).await {
        tracing::warn!(node = name, %error, "cannot write node status");
    }
}

/// `status.images` of a node that has these.
pub(crate) fn image_list(images: &BTreeSet<String>) -> Value {
    let list: Vec<Value> = images
        .iter()
        .map(|name| json!({"names": [images::id(name), name], "sizeBytes": image_size(name)}))
        .collect();
    json!({"images": list})
}

/// Says that a node is alive.
pub(crate) async fn renew_lease(client: Client, name: String, now: Timestamp) {
    let api: Api<Lease> = Api::namespaced(client, LEASES);
    let spec = json!({
        "holderIdentity": name,
        "leaseDurationSeconds": 40,
        "renewTime": format!("{now:.6}"),
    });
    let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await;
    let result = match patched {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let lease = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}));
            match lease {
                Ok(lease) => api.create(&PostParams::default(), &lease).await.map(|_| ()),
                Err(error) => Err(kube::Error::SerdeError(error)),
            }
        }
        other => other.map(|_| ()),
    };
    if let Err(error) = result {
        tracing::warn!(node = name, %error, "cannot renew lease");
    }
}

/// Deletes the Node objects and leases.
pub(crate) async fn remove(shared: &Shared) {
    let nodes: Api<Node> = Api::all(shared.client.clone());
    let leases: Api<Lease> = Api::namespaced(shared.client.clone(), LEASES);
    let now = DeleteParams::default();
    let (nodes, leases, now) = (&nodes, &leases, &now);
    let names: Vec<String> = shared.names().collect();
    let deletions = names.iter().map(|name| async move {
        for error in
            [nodes.delete(name, now).await.err(), leases.delete(name, now).await.err()].into_iter().flatten()
        {
            if !matches!(&error, kube::Error::Api(status) if status.code == 404) {
                tracing::warn!(node = name, %error, "cannot remove node");
            }
        }
    });
    futures::stream::iter(deletions).buffer_unordered(PARALLEL).for_each(|()| async {}).await;
}
