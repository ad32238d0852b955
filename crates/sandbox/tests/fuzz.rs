//! Whatever is sent to the API server, it answers: an HTTP code, and a `metav1.Status` where it refuses.
//!
//! The requests are made from a seed, which a failure prints. 20,000 of them by default; `FUZZ_SECONDS` lets it run for that
//! long instead, and `FUZZ_SEED` begins with another seed.

#![allow(clippy::format_push_string, reason = "a path is put together piece by piece")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is a test"
)]

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use kruise_sandbox::server::{Config, Server};
use kube::Client;
use kube::client::Body;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

/// Requests sent to one server before it is replaced, so that a finding needs few of them to be seen again.
const ROUND: u64 = 500;

const METHODS: [&str; 10] = ["GET", "GET", "POST", "POST", "PUT", "PATCH", "PATCH", "DELETE", "HEAD", "FROB"];
const GROUPS: [&str; 12] = [
    "/api/v1",
    "/api/v1",
    "/apis/apps/v1",
    "/apis/batch/v1",
    "/apis/policy/v1",
    "/apis/coordination.k8s.io/v1",
    "/apis/apiextensions.k8s.io/v1",
    "/apis/admissionregistration.k8s.io/v1",
    "/apis/fuzz.example.com/v1",
    "/apis/nope.example.com/v1",
    "/openapi/v3",
    "",
];
const RESOURCES: [&str; 18] = [
    "pods",
    "pods",
    "configmaps",
    "secrets",
    "namespaces",
    "nodes",
    "services",
    "events",
    "deployments",
    "replicasets",
    "statefulsets",
    "jobs",
    "poddisruptionbudgets",
    "leases",
    "customresourcedefinitions",
    "validatingwebhookconfigurations",
    "things",
    "nopes",
];
const SUBRESOURCES: [&str; 9] =
    ["status", "scale", "eviction", "binding", "finalize", "resize", "ephemeralcontainers", "log", "nope"];
const NAMES: [&str; 7] = ["a", "b", "default", "kube-system", "A_B", "..", "%2e%2e"];
const MEDIA: [&str; 10] = [
    "application/json",
    "application/json",
    "application/yaml",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/vnd.kubernetes.protobuf",
    "text/plain; charset=",
    "",
];
const ACCEPT: [&str; 8] = [
    "*/*",
    "application/json",
    "application/json;as=Table;g=meta.k8s.io;v=v1",
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    "application/yaml",
    "image/png;q=x",
    ";;,=",
];
const QUERIES: [&str; 26] = [
    "watch=true",
    "watch=maybe",
    "resourceVersion=0",
    "resourceVersion=1",
    "resourceVersion=-1",
    "resourceVersion=99999999999999999999999",
    "resourceVersionMatch=Exact",
    "resourceVersionMatch=NotOlderThan",
    "sendInitialEvents=true",
    "allowWatchBookmarks=true",
    "labelSelector=a%3Db",
    "labelSelector=a+in+(b,",
    "labelSelector=%21%21",
    "fieldSelector=metadata.name%3Da",
    "fieldSelector=%3D%3D",
    "limit=1",
    "limit=-1",
    "continue=bad",
    "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhIn0",
    "fieldManager=fuzz",
    "force=true",
    "dryRun=All",
    "dryRun=x",
    "fieldValidation=Strict",
    "propagationPolicy=Foreground",
    "gracePeriodSeconds=-9",
];
/// Keys of objects and of patches; the `$` ones mean something to strategic merge patches.
const KEYS: [&str; 40] = [
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "uid",
    "resourceVersion",
    "generateName",
    "deletionTimestamp",
    "managedFields",
    "spec",
    "status",
    "data",
    "containers",
    "image",
    "template",
    "selector",
    "matchLabels",
    "replicas",
    "conditions",
    "type",
    "ports",
    "containerPort",
    "resources",
    "versions",
    "schema",
    "openAPIV3Schema",
    "properties",
    "x-kubernetes-validations",
    "webhooks",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "op",
    "path",
];
const TEXTS: [&str; 20] = [
    "",
    "a",
    "b",
    "v1",
    "apps/v1",
    "fuzz.example.com/v1",
    "Pod",
    "ConfigMap",
    "Thing",
    "Deployment",
    "/metadata/labels/a",
    "/spec/containers/0/image",
    "/",
    "~",
    "test",
    "remove",
    "replace",
    "delete",
    "self.x > 1",
    "\u{0}\u{1F980}",
];

/// A source of requests.
struct Fuzz(StdRng);

impl Fuzz {
    fn pick(&mut self, from: &[&str]) -> String {
        (*from.choose(&mut self.0).unwrap()).to_owned()
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    fn path(&mut self) -> String {
        let mut path = self.pick(&GROUPS);
        if self.chance(60) {
            path += &format!("/namespaces/{}", self.pick(&NAMES));
        }
        if self.chance(90) {
            path += &format!("/{}", self.pick(&RESOURCES));
        }
        if self.chance(60) {
            path += &format!("/{}", self.pick(&NAMES));
        }
        if self.chance(20) {
            path += &format!("/{}", self.pick(&SUBRESOURCES));
        }
        if self.chance(3) {
            path += "//";
        }
        let mut separator = "?";
        while self.chance(35) {
            path += &format!("{separator}{}", self.pick(&QUERIES));
            separator = "&";
        }
        if path.starts_with('/') { path } else { format!("/{path}") }
    }

    /// Any JSON at all.
    fn value(&mut self, depth: u32) -> Value {
        let kinds = if depth == 0 { 6 } else { 10 };
        match self.0.random_range(0..kinds) {
            0 => Value::Null,
            1 => json!(self.chance(50)),
            2 => json!(self.0.random::<i64>()),
            3 => json!(self.0.random_range(-2..3)),
            4 => json!(self.0.random::<f64>() * 1e300),
            5 => json!(self.pick(&TEXTS)),
            6 | 7 => {
                let mut object = serde_json::Map::new();
                for _ in 0..self.0.random_range(0..5) {
                    object.insert(self.pick(&KEYS), self.value(depth - 1));
                }
                object.into()
            }
            _ => (0..self.0.random_range(0..4)).map(|_| self.value(depth - 1)).collect::<Vec<_>>().into(),
        }
    }

    /// Something that nearly is an object, so that some requests get past the first checks.
    fn object(&mut self) -> Value {
        let container = json!({"name": "c", "image": "i:1"});
        let pod = json!({"containers": [container]});
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod});
        let name = self.pick(&NAMES[..2]);
        let spec = if self.chance(50) {
            pod
        } else {
            json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template})
        };
        let mut object = json!({"metadata": {"name": name, "labels": {"a": "b"}}, "spec": spec});
        for _ in 0..self.0.random_range(0..3) {
            let place = self.pick(&[
                "/metadata",
                "/spec",
                "/spec/template",
                "/spec/containers/0",
                "/metadata/labels",
                "",
            ]);
            let (key, value) = (self.pick(&KEYS), self.value(3));
            if let Some(map) = object.pointer_mut(&place).and_then(Value::as_object_mut) {
                map.insert(key, value);
            }
        }
        object
    }

    fn operations(&mut self) -> Value {
        let mut operations = Vec::new();
        for _ in 0..self.0.random_range(0..4) {
            let op = self.pick(&["add", "remove", "replace", "test", "move", "copy", "frob"]);
            let paths = [
                "/metadata/labels/a",
                "/spec/containers/-",
                "/spec/containers/0/image",
                "/metadata",
                "",
                "/~2",
                "/spec/containers/18446744073709551616",
                "no-slash",
            ];
            operations.push(json!({"op": op, "path": self.pick(&paths), "from": self.pick(&paths), "value": self.value(2)}));
        }
        operations.into()
    }

    fn body(&mut self) -> Vec<u8> {
        match self.0.random_range(0..10) {
            0 => Vec::new(),
            1 => (0..self.0.random_range(0..64)).map(|_| self.0.random::<u8>()).collect(),
            2 => self.value(6).to_string().into_bytes(),
            3 | 4 => self.operations().to_string().into_bytes(),
            5 => {
                let mut text = self.object().to_string().into_bytes();
                text.truncate(self.0.random_range(0..text.len()));
                text
            }
            6 => {
                let depth = self.0.random_range(1..3000);
                format!("{}1{}", "[".repeat(depth), "]".repeat(depth)).into_bytes()
            }
            _ => self.object().to_string().into_bytes(),
        }
    }

    fn request(&mut self) -> Option<http::Request<Body>> {
        let mut request = http::Request::builder().method(self.pick(&METHODS).as_str()).uri(self.path());
        if self.chance(90) {
            request = request.header("content-type", self.pick(&MEDIA));
        }
        if self.chance(40) {
            request = request.header("accept", self.pick(&ACCEPT));
        }
        if self.chance(10) {
            request = request.header("user-agent", &*vec![self.0.random_range(128..255_u8); 3]);
        }
        let body = if self.chance(70) { self.body() } else { Vec::new() };
        request.body(Body::from(body)).ok()
    }
}

/// A server with a custom resource, so that its paths are tried as well.
async fn server() -> Client {
    let client = Server::new(Config::default()).client();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "replicas": {"type": "integer", "minimum": 0, "default": 1},
        "containers": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "image": {"type": "string"}}}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        "data": {"x-kubernetes-preserve-unknown-fields": true}}, "x-kubernetes-validations": [{"rule": "!has(self.replicas) || self.replicas < 100"}]}}});
    let definition = json!({"metadata": {"name": "things.fuzz.example.com"}, "spec": {"group": "fuzz.example.com", "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}}]}});
    let request = http::Request::post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
        .header("content-type", "application/json")
        .body(Body::from(definition.to_string().into_bytes()))
        .unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 201, "the definition is accepted");
    client
}

/// What is wrong with the answer, if anything is.
async fn fault(client: &Client, request: http::Request<Body>) -> Option<String> {
    let watch = request.uri().query().is_some_and(|query| query.contains("watch="))
        || request.uri().path().contains("/watch/");
    let head = request.method() == "HEAD";
    let response = match AssertUnwindSafe(client.send(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Some(format!("no answer: {error}")),
        Err(_) => return Some("a panic".into()),
    };
    let code = response.status().as_u16();
    if !(200..600).contains(&code) {
        return Some(format!("code {code}"));
    }
    if code < 400 && watch {
        return None; // it goes on for as long as it is read
    }
    let body = match tokio::time::timeout(Duration::from_secs(10), response.into_body().collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return Some(format!("no body: {error}")),
        Err(_) => return Some("a body without end".into()),
    };
    if code < 400 || head {
        return None;
    }
    let text = String::from_utf8_lossy(&body);
    if code == 404 && text == "404 page not found\n" {
        return None; // so the API server answers a path that nothing serves
    }
    let status: Value =
        serde_json::from_str(&text).unwrap_or_else(|_| serde_yaml_ng::from_str(&text).unwrap_or(Value::Null));
    let whole = status["kind"] == "Status"
        && status["apiVersion"] == "v1"
        && status["status"] == "Failure"
        && status["code"] == code
        && status["message"].as_str().is_some_and(|message| !message.is_empty());
    (!whole).then(|| format!("{code} without a Status: {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_sent_is_answered() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let end = number("FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let first = number("FUZZ_SEED").unwrap_or(1);
    let mut sent = 0_u64;
    for seed in first.. {
        let client = server().await;
        let mut fuzz = Fuzz(StdRng::seed_from_u64(seed));
        for at in 0..ROUND {
            let Some(request) = fuzz.request() else { continue };
            let what = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
            if let Some(fault) = fault(&client, request).await {
                panic!("seed {seed}, request {at}: {what}: {fault}");
            }
            sent += 1;
        }
        if end.map_or(sent >= 20_000, |end| Instant::now() >= end) {
            break;
        }
    }
    assert!(sent >= ROUND / 2, "most requests could be built: {sent}");
}
