//! The node agents, on real container runtimes: images are asked for on a node and looked for at its runtime, and
//! containers are restarted where they are.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Node, Pod, Secret};
use kruise_e2e::{PodView as _, SOON, Venue, cluster, cluster_output, container, seen};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

const ONE: &str = "kruise.test/demo:1";
const MINUTE: Duration = Duration::from_mins(1);

fn kind(kind: &str, plural: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", kind);
    ApiResource::from_gvk_with_plural(&kind, plural)
}

/// One node's wishes and what became of them.
struct Images {
    api: Api<DynamicObject>,
    node: String,
    client: kube::Client,
}

impl Images {
    /// The first node of the cluster.
    async fn of_first_node() -> Result<Self> {
        let client = kube::Client::try_default().await.context("no cluster: set KUBECONFIG")?;
        let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
        let node = nodes.items.into_iter().filter_map(|node| node.metadata.name).min();
        let api = Api::all_with(client.clone(), &kind("NodeImage", "nodeimages"));
        Ok(Self { api, node: node.context("there is no node")?, client })
    }

    /// Asks for a tag of an image, as the manager does for a job.
    async fn ask(&self, image: &str, tag: &str, backoff: i32) -> Result<()> {
        if self.api.get_opt(&self.node).await?.is_none() {
            let empty = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "NodeImage",
                "metadata": {"name": self.node}, "spec": {}});
            match self.api.create(&PostParams::default(), &serde_json::from_value(empty)?).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                made => drop(made?),
            }
        }
        self.patch(image, json!({"tags": [entry(tag, backoff, 0)]})).await
    }

    async fn forget(&self, image: &str) -> Result<()> {
        self.patch(image, Value::Null).await
    }

    async fn patch(&self, image: &str, value: Value) -> Result<()> {
        let mut images = serde_json::Map::new();
        images.insert(image.to_owned(), value);
        let patch = Patch::Merge(json!({"spec": {"images": images}}));
        self.api.patch(&self.node, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// The state of an image's first tag, once it has ended.
    async fn ended(&self, image: &str) -> Result<Value> {
        seen(&format!("the pull of {image} ends"), MINUTE, async || {
            let object = self.api.get(&self.node).await?;
            let images = object.data.pointer("/status/imageStatuses").cloned().unwrap_or_default();
            let tag = images.get(image).and_then(|image| image.pointer("/tags/0")).cloned();
            Ok(tag.filter(|tag| tag.get("completionTime").is_some()))
        })
        .await
    }

    /// Whether the node's runtime has the image.
    async fn is_there(&self, reference: &str) -> Result<bool> {
        Ok(cluster_output(&["images", &self.node]).await?.lines().any(|line| line == reference))
    }

    async fn events(&self, reason: &str) -> Result<Vec<String>> {
        let events = Api::<Event>::namespaced(self.client.clone(), "default");
        let about =
            format!("involvedObject.kind=NodeImage,involvedObject.name={},reason={reason}", self.node);
        let events = events.list(&ListParams::default().fields(&about)).await?;
        Ok(events.items.into_iter().filter_map(|event| event.message).collect())
    }
}

fn entry(tag: &str, backoff: i32, version: i64) -> Value {
    let policy = json!({"timeoutSeconds": 60, "backoffLimit": backoff, "ttlSecondsAfterFinished": 300});
    json!({"tag": tag, "pullPolicy": policy, "version": version,
        "imagePullPolicy": "IfNotPresent"})
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn an_image_asked_for_on_a_node_is_there_afterwards() -> Result<()> {
    let images = Images::of_first_node().await?;
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
    let images = Images::of_first_node().await?;
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
    let images = Images::of_first_node().await?;
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
async fn a_private_image_needs_its_secret() -> Result<()> {
    let images = Images::of_first_node().await?;
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
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container(ONE)]}}))?;
    place.pods().create(&PostParams::default(), &pod).await?;
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
        "spec": {"podName": "web", "strategy": {"failurePolicy": "Fail", "terminationGracePeriodSeconds": 1},
            "containers": [{"name": "main"}]}});
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
    Ok(())
}
