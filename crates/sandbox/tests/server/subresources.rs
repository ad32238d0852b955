//! Bindings, evictions and what else hangs on an object.

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{config_map, config_maps, object, server, status};

fn pod(name: &str) -> Pod {
    object(json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }))
}

async fn running(client: &Client, name: &str) -> Api<Pod> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    api.create(&PostParams::default(), &pod(name)).await.unwrap();
    bind(client, name).await.unwrap();
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(ready)).await.unwrap();
    api
}

async fn bind(client: &Client, name: &str) -> kube::Result<Value> {
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": "n"}});
    let path = format!("/api/v1/namespaces/default/pods/{name}/binding");
    let request = http::Request::post(path).header("content-type", "application/json");
    client.request(request.body(binding.to_string().into_bytes()).unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_once() {
    let client = server().client();
    let api = running(&client, "a").await;
    let bound = api.get("a").await.unwrap();
    assert_eq!(bound.spec.unwrap().node_name.as_deref(), Some("n"));
    assert!(
        bound
            .status
            .unwrap()
            .conditions
            .unwrap()
            .iter()
            .any(|one| one.type_ == "PodScheduled" && one.status == "True")
    );
    let again = status(bind(&client, "a").await);
    assert_eq!(again.code, 409);
    assert_eq!(
        again.message,
        "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n\""
    );
}

#[tokio::test(start_paused = true)]
async fn an_eviction_asks_the_budget() {
    let client = server().client();
    let api = running(&client, "a").await;
    let budgets: Api<PodDisruptionBudget> = Api::default_namespaced(client.clone());
    let budget: PodDisruptionBudget = object(json!({
        "metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    }));
    budgets.create(&PostParams::default(), &budget).await.unwrap();
    let refused = status(api.evict("a", &EvictParams::default()).await);
    assert_eq!((refused.code, refused.reason.as_str()), (429, "TooManyRequests"));
    let allow = |allowed: i32| {
        let counts = json!({"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1});
        Patch::Merge(json!({"status": counts}))
    };
    budgets.patch_status("web", &PatchParams::default(), &allow(0)).await.unwrap();
    let refused = status(api.evict("a", &EvictParams::default()).await);
    assert_eq!(refused.message, "Cannot evict pod as it would violate the pod's disruption budget.");
    let cause = refused.details.as_ref().unwrap().causes.first().unwrap();
    assert_eq!(cause.message, "The disruption budget web needs 1 healthy pods and has 1 currently");
    budgets.patch_status("web", &PatchParams::default(), &allow(1)).await.unwrap();
    api.evict("a", &EvictParams::default()).await.unwrap();
    let going = api.get("a").await.unwrap();
    assert!(going.metadata.deletion_timestamp.is_some());
    let conditions = going.status.unwrap().conditions.unwrap();
    assert!(
        conditions
            .iter()
            .any(|one| one.type_ == "DisruptionTarget"
                && one.reason.as_deref() == Some("EvictionByEvictionAPI"))
    );
    let spent = budgets.get("web").await.unwrap().status.unwrap();
    assert_eq!((spent.disruptions_allowed, spent.disrupted_pods.unwrap().contains_key("a")), (0, true));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_goes_takes_nothing_new_and_goes_when_finalized() {
    let client = server().client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &object(json!({"metadata": {"name": "x"}}))).await.unwrap();
    let marked = namespaces.delete("x", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(marked.status.unwrap().phase.as_deref(), Some("Terminating"));
    let refused =
        status(Api::namespaced(client.clone(), "x").create(&PostParams::default(), &config_map("a")).await);
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message,
        "configmaps \"a\" is forbidden: unable to create new content in namespace x because it is being terminated"
    );
    assert_eq!(refused.details.as_ref().unwrap().causes.first().unwrap().reason, "NamespaceTerminating");
    let mut free = namespaces.get("x").await.unwrap();
    free.spec.as_mut().unwrap().finalizers = Some(Vec::new());
    let request =
        http::Request::put("/api/v1/namespaces/x/finalize").header("content-type", "application/json");
    let request = request.body(serde_json::to_vec(&free).unwrap()).unwrap();
    client.request::<Value>(request).await.unwrap();
    assert_eq!(status(namespaces.get("x").await).code, 404);
    let kept = status(namespaces.delete("default", &DeleteParams::default()).await);
    assert_eq!(kept.message, "namespaces \"default\" is forbidden: this namespace may not be deleted");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_brings_everything_back() {
    let server = server();
    config_maps(&server.client()).create(&PostParams::default(), &config_map("a")).await.unwrap();
    let before = config_maps(&server.client()).get("a").await.unwrap();
    let restored = kruise_sandbox::server::Server::restore(
        kruise_sandbox::server::Config::default(),
        &server.snapshot(),
    );
    assert_eq!(config_maps(&restored.client()).get("a").await.unwrap(), before);
    assert_eq!(restored.snapshot(), server.snapshot());
}

#[tokio::test(start_paused = true)]
async fn every_discovery_and_openapi_path_has_its_document() {
    let client = server().client();
    let read = async |path: &str| {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        client.request::<Value>(request).await.unwrap()
    };
    assert_eq!(read("/version").await["minor"], json!("34"));
    assert_eq!(read("/apis/apps").await["kind"], json!("APIGroup"));
    assert_eq!(read("/api/v1").await["groupVersion"], json!("v1"));
    assert_eq!(read("/apis/apps/v1").await["groupVersion"], json!("apps/v1"));
    assert!(read("/openapi/v3").await["paths"]["apis/apps/v1"].is_object());
    assert!(read("/openapi/v3/apis/apps/v1").await["paths"].is_object());
}

#[tokio::test(start_paused = true)]
async fn a_resize_changes_resources_of_containers_and_nothing_else() {
    let client = server().client();
    let api = running(&client, "a").await;
    let before = api.get("a").await.unwrap();
    let resize = async |body: Value| {
        let request = http::Request::patch("/api/v1/namespaces/default/pods/a/resize")
            .header("content-type", "application/strategic-merge-patch+json");
        client.request::<Pod>(request.body(body.to_string().into_bytes()).unwrap()).await
    };
    let requests = |cpu: &str| json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
    // A pod without requests is best effort, and a resize may not change that.
    let refused = status(resize(json!({"spec": {"containers": requests("1")}})).await);
    assert_eq!(refused.code, 422);
    assert!(refused.message.contains("Pod QOS Class may not change"), "{}", refused.message);
    let mut burstable = pod("b");
    burstable.spec.as_mut().unwrap().containers = object(requests("1"));
    burstable.spec.as_mut().unwrap().containers[0].image = Some("i".to_owned());
    api.create(&PostParams::default(), &burstable).await.unwrap();
    bind(&client, "b").await.unwrap();
    let request = http::Request::patch("/api/v1/namespaces/default/pods/b/resize")
        .header("content-type", "application/strategic-merge-patch+json");
    let both = json!({"metadata": {"labels": {"new": "yes"}}, "spec": {"containers": requests("2")}});
    let resized: Pod = client.request(request.body(both.to_string().into_bytes()).unwrap()).await.unwrap();
    let container = &resized.spec.as_ref().unwrap().containers[0];
    assert_eq!(container.resources.as_ref().unwrap().requests.as_ref().unwrap()["cpu"].0, "2");
    assert_eq!(container.image.as_deref(), Some("i"));
    assert!(!resized.metadata.labels.unwrap().contains_key("new"), "labels are not the resize's to write");
    assert_eq!(resized.metadata.generation, Some(2));
    assert_eq!(api.get("a").await.unwrap().spec, before.spec, "a refused resize changes nothing");
}
