//! A pod with one or two containers, at the API server and at the runtime.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use kruise_daemon::cri::messages as m;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::{NODE, World};

impl World {
    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates a running pod whose containers have the IDs `<name>0`; `more` is merged into it. Its UID.
    pub(crate) async fn create_pod(&self, name: &str, containers: &[&str], more: Value) -> String {
        let list: Vec<Value> =
            containers.iter().map(|container| json!({"name": container, "image": "demo:1"})).collect();
        let pod = json!({"metadata": {"name": name},
            "spec": {"nodeName": NODE, "containers": list, "terminationGracePeriodSeconds": 20}});
        let mut pod = pod;
        json_patch::merge(&mut pod, &more);
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let uid = self.pods().create(&PostParams::default(), &pod).await.unwrap().metadata.uid.unwrap();
        for container in containers {
            self.add_container(&uid, name, container, 0);
        }
        self.publish(name, &containers.iter().map(|name| (*name, 0, true)).collect::<Vec<_>>()).await;
        uid
    }

    /// Adds a running container `<name><count>` to the runtime.
    pub(crate) fn add_container(&self, uid: &str, pod: &str, name: &str, count: i32) {
        let label = |key: &str, value: &str| (format!("io.kubernetes.{key}"), value.to_owned());
        self.cri.state(|state| {
            state.containers.push(m::Container {
                id: format!("{name}{count}"),
                metadata: Some(m::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
                state: m::ContainerState::Running as i32,
                created_at: self.now().as_nanosecond().try_into().unwrap(),
                labels: HashMap::from([
                    label("pod.uid", uid),
                    label("pod.name", pod),
                    label("pod.namespace", "default"),
                    label("container.name", name),
                ]),
                annotations: HashMap::from([
                    label("container.hash", "ab12"),
                    label("container.restartCount", &count.to_string()),
                ]),
            });
        });
    }

    /// Writes the pod's status as kubelet does: name, number and readiness of each container.
    pub(crate) async fn publish(&self, pod: &str, containers: &[(&str, i32, bool)]) {
        let statuses: Vec<Value> = containers
            .iter()
            .map(|(name, count, ready)| {
                json!({"name": name, "image": "demo:1", "imageID": "x", "ready": ready,
                    "restartCount": count, "containerID": format!("{}://{name}{count}", self.cri.name())})
            })
            .collect();
        let status =
            json!({"status": {"phase": "Running", "containerStatuses": statuses, "podIP": "10.0.0.9"}});
        self.pods().patch_status(pod, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }
}
