//! The node agents, on real container runtimes: images are asked for on a node and looked for at its runtime, and
//! containers are restarted where they are.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kruise_e2e::{
    BrokenRegistry, Defect, NodeImages, PodView as _, SOON, Venue, cluster, cluster_output, container, entry,
    hurried_entry, kind, seen,
};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use serde_json::{Value, json};

const ONE: &str = "kruise.test/demo:1";
const MINUTE: Duration = Duration::from_mins(1);

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn an_image_asked_for_on_a_node_is_there_afterwards() -> Result<()> {
    let images = NodeImages::of_first_node().await?;
    let name = format!("pull-{:08x}", rand::random::<u32>());
    cluster(&["demo-image", "1", &name]).await?;
    let image = format!("kruise.test/{name}");
    ensure!(!images.is_there(&format!("{image}:1")).await?, "the image is there before it was asked for");
    images.ask(&image, "1", 0).await?;
    let state = images.ended(&image).await?;
    ensure!(text(&state, "phase") == "Succeeded", "{state}");
    ensure!(text(&state, "imageID").starts_with(&format!("{image}@sha256:")), "{state}");
    ensure!(images.is_there(&format!("{image}:1")).await?, "the runtime does not have the image");
    seen("the success is told", SOON, async || {
        let told = format!("Image {image}:1, ecalpsedTime ");
        let events = images.events("PullImageSucceed").await?;
        Ok(events.iter().any(|message| message.starts_with(&told)).then_some(()))
    })
    .await?;
    images.forget(&image).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn an_image_of_docker_hub_by_its_short_name_and_one_by_its_digest_are_pulled() -> Result<()> {
    let images = NodeImages::of_first_node().await?;
    let name = format!("short-{:08x}", rand::random::<u32>());
    // The node takes every registry for the cluster's own.
    cluster(&["demo-image", "1", &format!("library/{name}")]).await?;
    images.ask(&name, "1", 0).await?;
    let state = images.ended(&name).await?;
    ensure!(text(&state, "phase") == "Succeeded", "{state}");
    ensure!(images.is_there(&format!("docker.io/library/{name}:1")).await?, "the runtime does not have it");
    images.forget(&name).await?;

    let list = cluster_output(&["images", &images.node]).await?;
    let prefix = format!("docker.io/library/{name}@");
    let digest = list.lines().find_map(|line| line.strip_prefix(&prefix)).context("it has no digest")?;
    let image = format!("kruise.test/library/{name}");
    images.ask(&image, digest, 0).await?;
    let state = images.ended(&image).await?;
    ensure!(text(&state, "phase") == "Succeeded", "{state}");
    ensure!(images.is_there(&format!("{image}@{digest}")).await?, "the runtime does not have the digest");
    images.forget(&image).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn an_image_that_does_not_exist_fails_with_its_reason_after_its_retries() -> Result<()> {
    let images = NodeImages::of_first_node().await?;
    let image = format!("kruise.test/missing-{:08x}", rand::random::<u32>());
    images.ask(&image, "1", 1).await?;
    let state = images.ended(&image).await?;
    ensure!(text(&state, "phase") == "Failed", "{state}");
    let message = text(&state, "message");
    let begin = format!("Failed to pull image reference \"{image}:1\": rpc error: code = NotFound");
    ensure!(message.starts_with(&begin), "{message}");
    seen("the failure is told", SOON, async || {
        let events = images.events("PullImageFailed").await?;
        Ok(events.iter().any(|told| *told == format!("Image {image}:1 {message}")).then_some(()))
    })
    .await?;
    images.forget(&image).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_registry_that_is_silent_or_answers_garbage_fails_its_images_only() -> Result<()> {
    let images = NodeImages::of_first_node().await?;
    for (defect, told) in [
        (Defect::Silent, "is canceled: it did not end within 3s"),
        (Defect::Garbage, "Failed to pull image reference"),
    ] {
        let registry = BrokenRegistry::start(defect).await?;
        let image = format!("{}/app", registry.name());
        images.patch(&image, json!({"tags": [hurried_entry("1", 0, 0, 3)]})).await?;
        let state = images.ended(&image).await?;
        ensure!(text(&state, "phase") == "Failed", "{defect:?}: {state}");
        ensure!(text(&state, "message").contains(told), "{defect:?}: {state}");
        images.forget(&image).await?;
    }
    let name = format!("good-{:08x}", rand::random::<u32>());
    cluster(&["demo-image", "1", &name]).await?;
    let image = format!("kruise.test/{name}");
    images.ask(&image, "1", 0).await?;
    let state = images.ended(&image).await?;
    ensure!(text(&state, "phase") == "Succeeded", "the agent lives on: {state}");
    images.forget(&image).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_private_image_needs_its_secret() -> Result<()> {
    let images = NodeImages::of_first_node().await?;
    cluster(&["private-registry"]).await?;
    let name = format!("private-{:08x}", rand::random::<u32>());
    cluster(&["demo-image", "1", &name]).await?;
    let image = format!("10.250.0.1:5001/{name}");
    images.ask(&image, "1", 0).await?;
    let state = images.ended(&image).await?;
    ensure!(text(&state, "phase") == "Failed" && text(&state, "message").contains("401"), "{state}");

    let config =
        json!({"auths": {"10.250.0.1:5001": {"username": "kruise", "password": "secret"}}}).to_string();
    let secret = json!({"metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config}});
    // The only namespace whose secrets agents may read.
    let secrets = Api::<Secret>::namespaced(images.client.clone(), "kruise-daemon-config");
    secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    let reference = json!([{"namespace": "kruise-daemon-config", "name": name}]);
    images.patch(&image, json!({"pullSecrets": reference, "tags": [entry("1", 0, 1)]})).await?;
    seen("the second pull ends", MINUTE, async || {
        let state = images.ended(&image).await?;
        Ok((state.get("version") == Some(&json!(1)) && text(&state, "phase") == "Succeeded").then_some(()))
    })
    .await?;
    ensure!(images.is_there(&format!("{image}:1")).await?, "the runtime does not have the image");
    images.forget(&image).await?;
    secrets.delete(&name, &DeleteParams::default()).await?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_container_is_restarted_where_it_is() -> Result<()> {
    let place = Venue::Cluster.place().await?;
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container(ONE)],
            "readinessGates": [{"conditionType": "KruisePodReady"}]}}))?;
    place.pods().create(&PostParams::default(), &pod).await?;
    // Only when the manager has turned the gate on, which is not that of a CloneSet.
    let ready = async |restarts: i32| {
        seen(&format!("the pod is ready after {restarts} restarts"), MINUTE, async || {
            let pod = place.pods().get("web").await?;
            Ok((pod.available() && pod.restarts() == restarts).then_some(pod))
        })
        .await
    };
    let before = ready(0).await?;
    let request = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "ContainerRecreateRequest",
        "metadata": {"name": "again"},
        "spec": {"podName": "web", "strategy": {"failurePolicy": "Fail", "terminationGracePeriodSeconds": 1,
            "unreadyGracePeriodSeconds": 2}, "containers": [{"name": "main"}]}});
    let requests: Api<DynamicObject> = Api::namespaced_with(
        place.client(),
        place.namespace(),
        &kind("ContainerRecreateRequest", "containerrecreaterequests"),
    );
    requests.create(&PostParams::default(), &serde_json::from_value(request)?).await?;
    let after = ready(1).await?;
    ensure!(after.identity() == before.identity(), "the pod is another one");
    let done = seen("the request ends", MINUTE, async || {
        let request = requests.get("again").await?;
        Ok((request.data.pointer("/status/phase") == Some(&json!("Completed"))).then_some(request))
    })
    .await?;
    let state = done.data.pointer("/status/containerRecreateStates/0").cloned().unwrap_or_default();
    ensure!(text(&state, "phase") == "Succeeded" && state.get("isKilled") == Some(&json!(true)), "{state}");
    let events: Api<Event> = Api::namespaced(place.client(), place.namespace());
    seen("the end is told", SOON, async || {
        let about = ListParams::default().fields("involvedObject.name=again,reason=RecreateCompleted");
        Ok((!events.list(&about).await?.items.is_empty()).then_some(()))
    })
    .await
}
