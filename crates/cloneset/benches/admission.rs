//! How long admission of a large CloneSet takes in the manager: 5 containers with 30 env variables each. What Kubernetes
//! says of the template is taken for granted.

use std::sync::Arc;

use divan::{Bencher, black_box};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kruise_cloneset::admission::{Context, Options, handle};
use kruise_webhook::protection::{Protection, ProtectionLog};
use kruise_webhook::review::{AdmissionRequest, FieldError};
use kruise_webhook::template::TemplateCheck;
use prometheus::Registry;
use serde_json::{Value, json};

fn main() {
    divan::main();
}

/// A template of 5 containers with 30 env variables each.
fn template(image: &str) -> Value {
    let env = |container: usize| -> Vec<Value> {
        (0..30)
            .map(|n| json!({"name": format!("VARIABLE_{n}"), "value": format!("value {n} of {container}")}))
            .collect()
    };
    let containers: Vec<Value> = (0..5)
        .map(|n| {
            json!({
                "name": format!("container-{n}"), "image": image, "env": env(n),
                "ports": [{"containerPort": 8080 + n}],
                "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}, "requests": {"cpu": "0.5"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080 + n}},
            })
        })
        .collect();
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": containers}})
}

fn set(image: &str) -> Value {
    json!({
        "apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
        "spec": {
            "replicas": 100, "selector": {"matchLabels": {"app": "web"}}, "template": template(image),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"podUpdatePolicy": "InPlaceIfPossible",
                "partition": 0, "maxUnavailable": "20%", "maxSurge": 0}},
        },
    })
}

/// Accepts every template at once.
struct Yes;

impl TemplateCheck for Yes {
    fn check<'a>(&'a self, _: &'a str, _: &'a Value) -> BoxFuture<'a, Result<(), Vec<FieldError>>> {
        std::future::ready(Ok(())).boxed()
    }
}

fn context() -> Option<Context> {
    let options = Options {
        default_templates: true,
        host_network_ports: false,
        delete_protection: true,
        vertical_scaling: false,
    };
    let protection = Arc::new(Protection::register(&Registry::new(), ProtectionLog::default()).ok()?);
    Some(Context::new(options, Arc::new(|_, _| Box::pin(async { Ok(None) })), Arc::new(Yes), protection))
}

fn run(bencher: Bencher<'_, '_>, mutating: bool, operation: &str, object: &Value, old: &Value) {
    let request: Option<AdmissionRequest> = serde_json::from_value(json!({
        "uid": "r", "operation": operation, "namespace": "shop", "name": "web",
        "resource": {"group": "apps.kruise.io", "version": "v1beta1", "resource": "clonesets"},
        "userInfo": {"username": "jane"}, "object": object, "oldObject": old,
    }))
    .ok();
    let (Some(request), Some(context)) = (request, context()) else { return };
    bencher.bench_local(|| handle(black_box(&request), mutating, &context).now_or_never());
}

#[divan::bench]
fn defaults_of_a_creation(bencher: Bencher<'_, '_>) {
    run(bencher, true, "CREATE", &set("web:1"), &Value::Null);
}

#[divan::bench]
fn judgement_of_a_creation(bencher: Bencher<'_, '_>) {
    run(bencher, false, "CREATE", &set("web:1"), &Value::Null);
}

#[divan::bench]
fn judgement_of_a_new_image(bencher: Bencher<'_, '_>) {
    run(bencher, false, "UPDATE", &set("web:2"), &set("web:1"));
}
