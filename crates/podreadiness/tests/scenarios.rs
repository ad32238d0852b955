//! Pods of other workloads on the sandbox, beside a whole manager.

#![expect(clippy::unwrap_used, reason = "helpers of tests end a test where they cannot go on")]

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kruise_playground::{Options, Playground};
use kruise_sandbox::clock;
use kruise_sandbox::server::Verb;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

const MANAGER: &str = "kruise-manager";

struct World {
    playground: Playground,
    pods: Api<Pod>,
}

impl World {
    async fn new() -> Self {
        let clock = clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let playground = Playground::start(Options::new(1, Arc::clone(&clock))).await.unwrap();
        let pods = Api::<Pod>::namespaced(playground.client(), "default");
        Self { playground, pods }
    }

    async fn create(&self, name: &str, gates: Value) {
        let pod = json!({"metadata": {"name": name}, "spec": {"readinessGates": gates,
            "containers": [{"name": "main", "image": "nginx:1"}]}});
        self.pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }

    async fn condition(&self, name: &str, kind: &str) -> Option<String> {
        let conditions = self.pods.get(name).await.unwrap().status.unwrap().conditions.unwrap_or_default();
        conditions.into_iter().find(|condition| condition.type_ == kind).map(|condition| condition.status)
    }

    async fn until(&self, name: &str, kind: &str, status: &str) {
        for _ in 0..600 {
            if self.condition(name, kind).await.as_deref() == Some(status) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        assert_eq!(self.condition(name, kind).await.as_deref(), Some(status), "{kind} of {name}");
    }

    /// Writes of pods by the manager.
    fn writes(&self) -> u64 {
        let requests = self.playground.server().requests().into_iter();
        let ours = requests.filter(|((client, verb, resource), _)| {
            client.starts_with(MANAGER)
                && resource.starts_with("pods")
                && !matches!(verb, Verb::Get | Verb::List | Verb::Watch)
        });
        ours.map(|(_, times)| times).sum()
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_any_workload_with_the_gate_becomes_ready_for_one_write() {
    let world = World::new().await;
    world.create("gated", json!([{"conditionType": "KruisePodReady"}])).await;
    world.create("plain", json!([])).await;
    world.create("foreign", json!([{"conditionType": "example.com/ready"}])).await;
    world.until("gated", "Ready", "True").await;
    world.until("plain", "Ready", "True").await;
    world.until("foreign", "ContainersReady", "True").await;
    assert_eq!(world.condition("plain", "KruisePodReady").await, None);
    assert_eq!(world.condition("foreign", "Ready").await.as_deref(), Some("False"));
    assert_eq!(world.writes(), 1);

    // Whoever takes it out of service later is not contradicted.
    let held = json!({"status": {"conditions": [{"type": "KruisePodReady", "status": "False",
        "message": r#"[{"userAgent":"Lifecycle","key":"preDeleteHook"}]"#}]}});
    world.pods.patch_status("gated", &PatchParams::default(), &Patch::Strategic(held)).await.unwrap();
    world.until("gated", "Ready", "False").await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(world.condition("gated", "KruisePodReady").await.as_deref(), Some("False"));
    assert_eq!(world.writes(), 1);
}
