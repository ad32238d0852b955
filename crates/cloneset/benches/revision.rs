//! How long it takes to tell the revision of a large template: to hash it, and to find it among stored ones.

use std::sync::Arc;

use divan::{Bencher, black_box};
use kruise_common::revision::{Revision, RevisionWire, canonical_bytes, data_of, decide, hash};
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

/// Ten stored revisions, as many as a set keeps.
fn history() -> Vec<Arc<Revision>> {
    (1..=10)
        .filter_map(|number| {
            let stored: RevisionWire = serde_json::from_value(json!({
                "metadata": {"name": format!("web-{number}"), "namespace": "shop", "uid": format!("{number}"),
                    "annotations": {"apps.kruise.io/revision-writer": "1"}},
                "revision": number, "data": data_of(&template(&format!("web:{number}"))),
            }))
            .ok()?;
            Revision::of(stored).map(Arc::new)
        })
        .collect()
}

#[divan::bench]
fn hash_of_a_template(bencher: Bencher<'_, '_>) {
    let data = data_of(&template("web:1"));
    bencher.bench_local(|| hash(&canonical_bytes(black_box(&data)), 0));
}

#[divan::bench]
fn the_newest_of_ten(bencher: Bencher<'_, '_>) {
    let (history, live) = (history(), template("web:10"));
    bencher.bench_local(|| decide(black_box(&history), black_box(&live), "web", 0));
}

#[divan::bench]
fn none_of_ten(bencher: Bencher<'_, '_>) {
    let (history, live) = (history(), template("web:11"));
    bencher.bench_local(|| decide(black_box(&history), black_box(&live), "web", 0));
}
