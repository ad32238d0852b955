//! Requests on the sandbox: a whole manager, a pod that runs, and a test that plays the node's agent.

#![expect(clippy::unwrap_used, reason = "helpers of tests end a test where they cannot go on")]

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruise_api::containerrecreaterequest::{
    ContainerRecreateRequest, ContainerRecreateRequestPhase as Phase,
};
use kruise_playground::{Options, Playground};
use kruise_sandbox::clock;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

struct World {
    _playground: Playground,
    pods: Api<Pod>,
    requests: Api<ContainerRecreateRequest>,
}

impl World {
    /// A ready pod `web` with the gate of Kruise.
    async fn new() -> Self {
        let clock = clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let playground =
            Playground::start(Options::new(1, Arc::clone(&clock)).with_admission()).await.unwrap();
        let pods = Api::<Pod>::namespaced(playground.client(), "default");
        let requests = Api::namespaced(playground.client(), "default");
        let pod = json!({"metadata": {"name": "web"}, "spec": {"terminationGracePeriodSeconds": 17,
            "readinessGates": [{"conditionType": "KruisePodReady"}],
            "containers": [{"name": "main", "image": "nginx:1"}]}});
        let world = Self { _playground: playground, pods, requests };
        world.pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        let running = async || {
            world
                .pod()
                .await
                .status
                .unwrap()
                .container_statuses
                .is_some_and(|all| all.iter().all(|one| one.ready))
        };
        until("the pod runs", running).await;
        until("it is ready", async || world.is_ready().await).await;
        world
    }

    async fn pod(&self) -> Pod {
        self.pods.get("web").await.unwrap()
    }

    async fn is_ready(&self) -> bool {
        let conditions = self.pod().await.status.unwrap().conditions.unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }

    async fn request(&self, extra: Value) -> ContainerRecreateRequest {
        let mut spec = json!({"podName": "web", "containers": [{"name": "main"}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let object = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "ContainerRecreateRequest",
            "metadata": {"name": "r"}, "spec": spec});
        self.requests.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    /// What the agent says.
    async fn report(&self, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        self.requests.patch_status("r", &PatchParams::default(), &patch).await.unwrap();
    }

    /// What users are told of requests.
    async fn events(&self) -> Vec<String> {
        let events = Api::<Event>::namespaced(self.pods.clone().into_client(), "default");
        let events = events.list(&ListParams::default()).await.unwrap().items.into_iter();
        let ours = events.filter(|event| event.involved_object.name.as_deref() == Some("r"));
        ours.map(|event| format!("{}: {}", event.reason.unwrap(), event.message.unwrap())).collect()
    }

    async fn now(&self) -> Option<ContainerRecreateRequest> {
        self.requests.get_opt("r").await.unwrap()
    }

    async fn ended(&self) -> Option<String> {
        self.now().await?.status.filter(|status| status.phase == Some(Phase::Completed))?.message
    }
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(holds().await, "not in time: {what}");
}

#[tokio::test(start_paused = true)]
async fn what_the_container_is_is_written_down_and_a_silent_agent_ends_the_request() {
    let world = World::new().await;
    let made = world.request(json!({"ttlSecondsAfterFinished": 10})).await;
    let pod = world.pod().await;
    assert_eq!(made.labels().get("crr.apps.kruise.io/pod-uid"), pod.metadata.uid.as_ref());
    assert_eq!(made.labels().get("crr.apps.kruise.io/active").map(String::as_str), Some("true"));
    let was = made.spec.containers.first().unwrap().status_context.clone().unwrap();
    let status = pod.status.unwrap().container_statuses.unwrap();
    assert_eq!(Some(was.container_id), status.first().unwrap().container_id);
    let strategy = made.spec.strategy.unwrap();
    assert_eq!(
        (strategy.failure_policy.as_deref(), strategy.termination_grace_period_seconds),
        (Some("Fail"), Some(17))
    );
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(world.ended().await, None);
    until("it ends", async || world.ended().await.is_some()).await;
    assert_eq!(world.ended().await.as_deref(), Some("daemon has not responded for a long time"));
    until("agents need not watch it", async || {
        !world.now().await.unwrap().labels().contains_key("crr.apps.kruise.io/active")
    })
    .await;
    until("it is deleted after its time", async || world.now().await.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn the_pod_is_out_of_service_while_it_drains_and_back_when_the_request_is_over_or_gone() {
    for deleted in [false, true] {
        let world = World::new().await;
        world.request(json!({"strategy": {"unreadyGracePeriodSeconds": 5}})).await;
        world.report(json!({"phase": "Recreating"})).await;
        let begun = async || {
            let conditions = world.now().await?.status?.conditions?;
            conditions.into_iter().find(|condition| condition.type_ == "PreRecreateGrace")
        };
        until("the drain begins", async || begun().await.is_some()).await;
        let since = begun().await;
        assert!(!world.is_ready().await, "not in service");
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(begun().await, since, "its time does not move on");
        if deleted {
            let _answer = world.requests.delete("r", &DeleteParams::default()).await.unwrap();
            until("it is gone", async || world.now().await.is_none()).await;
        } else {
            world.report(json!({"phase": "Completed", "completionTime": "2026-01-01T00:01:00Z"})).await;
            until("nothing is held", async || world.now().await.unwrap().finalizers().is_empty()).await;
        }
        until("the pod is back", async || world.is_ready().await).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_ends_with_its_pod_or_at_its_deadline_and_agents_are_told_of_new_containers() {
    let world = World::new().await;
    world.request(json!({"activeDeadlineSeconds": 30})).await;
    world.report(json!({"phase": "Recreating"})).await;
    let new = json!([{"name": "main", "image": "nginx:1", "imageID": "x", "containerID": "containerd://new", "ready": true,
        "restartCount": 1, "state": {"running": {}}}]);
    let patch = Patch::Merge(json!({"status": {"containerStatuses": new}}));
    world.pods.patch_status("web", &PatchParams::default(), &patch).await.unwrap();
    let told = async || world.now().await?.status?.container_status_snapshot;
    until("agents are told", async || {
        told().await.is_some_and(|all| all.iter().any(|one| one.container_id == "containerd://new"))
    })
    .await;
    until("the deadline ends it", async || world.ended().await.is_some()).await;
    assert_eq!(world.ended().await.as_deref(), Some("recreating has exceeded the activeDeadlineSeconds"));
    for told in [
        "RecreateStarted: Recreating main of pod web",
        "RecreateFailed: Not recreated of pod web: main: recreating has exceeded the activeDeadlineSeconds",
    ] {
        until(told, async || world.events().await.iter().any(|event| event == told)).await;
    }

    let _answer = world.requests.delete("r", &DeleteParams::default()).await.unwrap();
    world.request(json!({})).await;
    let _answer = world.pods.delete("web", &DeleteParams::default()).await.unwrap();
    until("it ends with its pod", async || world.ended().await.is_some()).await;
    assert_eq!(world.ended().await.as_deref(), Some("pod has gone"));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_its_agent_took_in_and_forgot_ends_a_minute_after_it_is_its_turn() {
    let world = World::new().await;
    world.request(json!({})).await;
    let mut behind = world.now().await.unwrap();
    behind.metadata = ObjectMeta { name: Some("behind".to_owned()), ..ObjectMeta::default() };
    behind.status = None;
    behind.spec.strategy = None;
    for container in &mut behind.spec.containers {
        container.status_context = None;
    }
    world.requests.create(&PostParams::default(), &behind).await.unwrap();
    world.report(json!({"phase": "Recreating"})).await;
    let pending = Patch::Merge(json!({"status": {"phase": "Pending"}}));
    world.requests.patch_status("behind", &PatchParams::default(), &pending).await.unwrap();
    tokio::time::sleep(Duration::from_mins(5)).await;
    let phase = async || world.requests.get("behind").await.unwrap().status.unwrap().phase;
    assert_eq!(phase().await, Some(Phase::Pending), "the other one is served");
    let _answer = world.requests.delete("r", &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(phase().await, Some(Phase::Pending), "its agent has a minute");
    until("it ends", async || phase().await == Some(Phase::Completed)).await;
    let message = world.requests.get("behind").await.unwrap().status.unwrap().message;
    assert_eq!(message.as_deref(), Some("daemon has not responded for a long time"));
}

#[tokio::test(start_paused = true)]
async fn the_drain_of_a_request_is_an_annotation_for_those_who_read_the_older_version() {
    let world = World::new().await;
    world.request(json!({"strategy": {"unreadyGracePeriodSeconds": 5}})).await;
    world.report(json!({"phase": "Recreating"})).await;
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1alpha1", "ContainerRecreateRequest");
    let resource = ApiResource::from_gvk_with_plural(&kind, "containerrecreaterequests");
    let older = Api::<DynamicObject>::namespaced_with(world.pods.clone().into_client(), "default", &resource);
    let since = async || {
        let request = older.get("r").await.unwrap();
        request.annotations().get("crr.apps.kruise.io/unready-acquired").cloned()
    };
    until("the annotation is there", async || since().await.is_some()).await;
}
