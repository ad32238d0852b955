//! How fast the sandbox is with many pods and many watchers. Prints figures beside what is promised, and judges nothing.
//!
//! `cargo bench --package kruise-sandbox --bench load`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a broken benchmark ends at once, and the figures are what it is for"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use http::Request;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kruise_sandbox::clock;
use kruise_sandbox::nodes::{Nodes, Settings};
use kruise_sandbox::server::{Config, Server};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

const PODS: usize = 10_000;
const WATCHERS: usize = 100;
const ROUNDS: usize = 50;
/// Requests under way at once, as many as a busy controller has.
const PARALLEL: usize = 32;

/// What is read of a pod to see that it is ready.
#[derive(Deserialize)]
struct Seen {
    #[serde(default)]
    status: SeenStatus,
}

#[derive(Default, Deserialize)]
struct SeenStatus {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Seen>,
}

impl Seen {
    fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|one| one.r#type == "Ready" && one.status == "True")
    }
}

fn get(path: &str) -> Request<Vec<u8>> {
    Request::get(path).body(Vec::new()).unwrap()
}

fn told(what: &str, figure: Duration, promise: &str) {
    println!("{what:<50} {:>10.3} ms   promised: < {promise}", figure.as_secs_f64() * 1000.0);
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::new(Config::default());
        let nodes = Nodes::new(server.client_as("nodes"), Settings::new(10, clock::system()));
        let simulated = tokio::spawn(async move { nodes.run(std::future::pending()).await });
        pods(&server).await;
        list(&server.client()).await;
        watch(&server).await;
        simulated.abort();
    });
}

async fn pods(server: &Server) {
    let client = server.client();
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let begun = Instant::now();
    let create = |number: usize| {
        let api = api.clone();
        async move {
            let pod = json!({
                "metadata": {"name": format!("pod-{number:05}"), "labels": {"app": "load"}},
                "spec": {"containers": [{"name": "main", "image": "demo/load:1"}]},
            });
            api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        }
    };
    futures::stream::iter((0..PODS).map(create)).buffer_unordered(PARALLEL).collect::<()>().await;
    told("10,000 pods created", begun.elapsed(), "20 s with the next");
    loop {
        let listed: List = client.request(get("/api/v1/namespaces/default/pods")).await.unwrap();
        if listed.items.iter().filter(|pod| pod.is_ready()).count() == PODS {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    told("10,000 pods created, scheduled and ready", begun.elapsed(), "20 s");
}

async fn list(client: &Client) {
    let mut times = Vec::new();
    let mut size = 0;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let text = client.request_text(get("/api/v1/namespaces/default/pods")).await.unwrap();
        times.push(begun.elapsed());
        size = text.len();
    }
    times.sort();
    println!("a list of them has {} KB", size / 1024);
    told("a list of 10,000 pods, median", times[times.len() / 2], "100 ms");
    told("a list of 10,000 pods, slowest", times[times.len() - 1], "100 ms");
}

async fn watch(server: &Server) {
    let client = server.client();
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    let map = ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some("watched".into()), ..Default::default() },
        ..Default::default()
    };
    let made = api.create(&PostParams::default(), &map).await.unwrap();
    let version = made.metadata.resource_version.unwrap();
    let (seen, mut arrivals) = mpsc::unbounded_channel();
    for _ in 0..WATCHERS {
        let (client, seen, version) = (server.client(), seen.clone(), version.clone());
        tokio::spawn(async move {
            let path = format!("/api/v1/namespaces/default/configmaps?watch=true&resourceVersion={version}");
            let stream = client.request_stream(get(&path)).await.unwrap();
            // Once the answer has begun, events follow.
            seen.send(Bytes::new()).unwrap();
            let mut lines = Box::pin(stream.lines());
            while let Some(line) = lines.try_next().await.unwrap() {
                seen.send(line.into()).unwrap();
            }
        });
    }
    for _ in 0..WATCHERS {
        arrivals.recv().await.unwrap();
    }
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let patch = json!({"data": {"round": round.to_string()}});
        let begun = Instant::now();
        api.patch("watched", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        for _ in 0..WATCHERS {
            let line = arrivals.recv().await.unwrap();
            assert!(!line.is_empty());
        }
        times.push(begun.elapsed());
    }
    times.sort();
    told("a patch until 100 watchers have the event, median", times[times.len() / 2], "10 ms");
    told("a patch until 100 watchers have the event, slowest", times[times.len() - 1], "10 ms");
}
