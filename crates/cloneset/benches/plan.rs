//! How long a plan takes: a set at rest, and one in the middle of an update and a scale-in.

use std::collections::BTreeMap;
use std::sync::Arc;

use divan::{Bencher, black_box};
use kruise_api::cloneset::v1beta1::{CloneSetSpec, CloneSetStatus};
use kruise_cloneset::observed::{Observed, Settings};
use kruise_cloneset::plan::{Options, plan};
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::pod::{ConditionView, Phase, PodView};
use kruise_common::revision::Revision;
use kruise_common::texts::Texts;
use serde_json::json;

const SIZES: [usize; 3] = [100, 1_000, 10_000];

fn main() {
    divan::main();
}

fn revision(name: &str, number: i64) -> Arc<Revision> {
    Arc::new(Revision {
        key: ObjectKey::new("ns", name),
        uid: Uid::from(name),
        resource_version: "1".into(),
        number,
        template: json!({"spec": {"containers": [{"name": "main", "image": name}]}}).into(),
        created: None,
        controller: None,
        labels: Texts::default(),
        annotations: Texts::default(),
    })
}

fn pod(index: usize, updated: bool) -> Arc<PodView> {
    let label = |key: &str, value: &str| (Arc::from(key), Arc::from(value));
    let hash = if updated { "b" } else { "a" };
    Arc::new(PodView {
        key: ObjectKey::new("ns", format!("web-{index:05}")),
        uid: Uid::from(format!("{index}")),
        node: Some(format!("node-{}", index % 100).into()),
        phase: Phase::Running,
        labels: Texts::from([
            label("controller-revision-hash", &format!("web-{hash}")),
            label("pod-template-hash", hash),
            label("lifecycle.apps.kruise.io/state", "Normal"),
        ]),
        conditions: [ConditionView::new("Ready", "True", None)].into(),
        ..PodView::default()
    })
}

fn set(pods: usize, replicas: usize, updated: usize) -> Option<Observed> {
    let spec: CloneSetSpec = serde_json::from_value(json!({
        "replicas": replicas, "selector": {}, "template": {},
        "updateStrategy": {"rollingUpdate": {"podUpdatePolicy": "InPlaceIfPossible"}},
    }))
    .ok()?;
    Some(Observed {
        key: ObjectKey::new("ns", "web"),
        uid: Uid::from("web"),
        generation: 1,
        terminating: false,
        settings: Settings::of(&spec),
        label_selector: String::new(),
        pods: (0..pods).map(|index| pod(index, index < updated)).collect(),
        unselected: Vec::new(),
        others: Vec::new(),
        claims: Vec::new(),
        nodes: BTreeMap::new(),
        revisions: vec![revision("web-a", 1), revision("web-b", 2)],
        update_revision: revision("web-b", 2),
        current_revision: revision("web-a", 1),
        status: CloneSetStatus::default(),
        now: jiff::Timestamp::UNIX_EPOCH,
    })
}

fn run(bencher: Bencher<'_, '_>, seen: Option<Observed>) {
    let Some(seen) = seen else { return };
    bencher.bench_local(|| plan(black_box(&seen), &Options::default(), &mut String::new));
}

#[divan::bench(args = SIZES)]
fn at_rest(bencher: Bencher<'_, '_>, pods: usize) {
    run(bencher, set(pods, pods, pods));
}

#[divan::bench(args = SIZES)]
fn in_place_update(bencher: Bencher<'_, '_>, pods: usize) {
    run(bencher, set(pods, pods, pods / 2));
}

#[divan::bench(args = SIZES)]
fn scale_in(bencher: Bencher<'_, '_>, pods: usize) {
    run(bencher, set(pods, pods / 2, pods));
}
