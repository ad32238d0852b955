//! What requests to a server in the process cost: `cargo bench -p kruise-sandbox --bench requests [filter]`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and stops at errors"
)]

use std::hint::black_box;
use std::time::Instant;

use http::Request;
use http_body_util::{BodyExt as _, Full};
use kruise_sandbox::server::{Config, Server};
use serde_json::{Value, json};
use tower::Service as _;

const DEFINITION: &str = include_str!("../../../crds/apps.kruise.io_clonesets.yaml");
const PODS: &str = "/api/v1/namespaces/default/pods";
const SETS: &str = "/apis/apps.kruise.io/v1beta1/namespaces/default/clonesets";

async fn send(server: &Server, method: &str, path: &str, media: &str, body: &[u8]) -> bytes::Bytes {
    let request = Request::builder().method(method).uri(path).header("content-type", media);
    let request = request.body(Full::new(bytes::Bytes::copy_from_slice(body))).unwrap();
    let response = server.service().call(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(status.is_success(), "{method} {path}: {}", String::from_utf8_lossy(&body));
    body
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": name, "labels": {"app": "web", "controller-revision-hash": "web-6c4bf58578"},
            "ownerReferences": [{"apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "name": "web", "uid": "u",
                "controller": true, "blockOwnerDeletion": true}]},
        "spec": {"containers": [{"name": "main", "image": "nginx:1.27", "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "value": "1"}], "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}]}})
}

fn set(name: &str) -> Value {
    json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "metadata": {"name": name},
        "spec": {"replicas": 5, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": pod("x")["spec"]}}})
}

/// The definition of CloneSet, without the conversion that needs a webhook.
fn definition() -> String {
    let mut definition: Value = serde_yaml_ng::from_str(DEFINITION).unwrap();
    definition["spec"].as_object_mut().unwrap().remove("conversion");
    definition.to_string()
}

async fn with_sets(definition: &str, managed_fields: bool) -> Server {
    let server = Server::new(Config { managed_fields, seed: Some(1), ..Config::default() });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    send(&server, "POST", path, "application/json", definition.as_bytes()).await;
    server
}

struct Bench(Option<String>);

impl Bench {
    fn report(name: &str, count: u32, start: Instant) {
        let each = start.elapsed() / count;
        println!("{name:<44} {each:>12.1?}");
    }

    fn wants(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }
}

async fn requests(managed: bool) {
    let kind = if managed { "with owners" } else { "without owners" };
    let count = 1000_u32;
    let server = with_sets(&definition(), managed).await;
    let bodies: Vec<String> = (0..count).map(|number| pod(&format!("p{number:04}")).to_string()).collect();
    let start = Instant::now();
    for body in &bodies {
        send(&server, "POST", PODS, "application/json", body.as_bytes()).await;
    }
    Bench::report(&format!("create a pod, {kind}"), count, start);
    let ready = json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    for (what, path, media, patch) in [
        ("merge-patch a pod's status", "/status", "application/merge-patch+json", ready.clone()),
        (
            "merge-patch a pod's label",
            "",
            "application/merge-patch+json",
            json!({"metadata": {"labels": {"x": "1"}}}),
        ),
        (
            "strategic-patch a pod's image",
            "",
            "application/strategic-merge-patch+json",
            json!({"spec": {"containers": [{"name": "main", "image": "nginx:1.28"}]}}),
        ),
        ("patch nothing", "", "application/merge-patch+json", json!({"metadata": {"labels": {"x": "1"}}})),
    ] {
        let patch = patch.to_string();
        let start = Instant::now();
        for number in 0..count {
            send(&server, "PATCH", &format!("{PODS}/p{number:04}{path}"), media, patch.as_bytes()).await;
        }
        Bench::report(&format!("{what}, {kind}"), count, start);
    }
    let start = Instant::now();
    for number in 0..count {
        black_box(send(&server, "GET", &format!("{PODS}/p{number:04}"), "", b"").await);
    }
    Bench::report(&format!("get a pod, {kind}"), count, start);
    let start = Instant::now();
    for _ in 0..20 {
        black_box(send(&server, "GET", PODS, "", b"").await);
    }
    Bench::report(&format!("list 1000 pods, {kind}"), 20, start);
    let start = Instant::now();
    for number in 0..200 {
        send(&server, "POST", SETS, "application/json", set(&format!("s{number:04}")).to_string().as_bytes())
            .await;
    }
    Bench::report(&format!("create a CloneSet, {kind}"), 200, start);
    let status =
        json!({"status": {"replicas": 5, "readyReplicas": 5, "availableReplicas": 5, "updatedReplicas": 5,
        "updatedReadyReplicas": 5, "observedGeneration": 1}})
        .to_string();
    let start = Instant::now();
    for number in 0..200 {
        let path = format!("{SETS}/s{number:04}/status");
        send(&server, "PATCH", &path, "application/merge-patch+json", status.as_bytes()).await;
    }
    Bench::report(&format!("merge-patch a CloneSet's status, {kind}"), 200, start);
    let start = Instant::now();
    for number in 0..count {
        send(&server, "DELETE", &format!("{PODS}/p{number:04}"), "", b"").await;
    }
    Bench::report(&format!("delete a pod, {kind}"), count, start);
}

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let bench = Bench(filter);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let definition = definition();
        drop(with_sets(&definition, false).await);
        if bench.wants("start") {
            let start = Instant::now();
            for _ in 0..100 {
                black_box(Server::new(Config::default()));
            }
            Bench::report("start a server", 100, start);
            let start = Instant::now();
            for _ in 0..100 {
                black_box(with_sets(&definition, false).await);
            }
            Bench::report("start a server and define CloneSet", 100, start);
        }
        for managed in [false, true] {
            if bench.wants(if managed { "with owners" } else { "without owners" }) {
                requests(managed).await;
            }
        }
    });
}
