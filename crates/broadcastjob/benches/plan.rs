//! How long a plan takes, counting included: before the first pod, while all run, and when half are done.

use std::sync::Arc;

use divan::{Bencher, black_box};
use kruise_api::broadcastjob::{BroadcastJobSpec, BroadcastJobStatus};
use kruise_broadcastjob::census::Census;
use kruise_broadcastjob::observe::{Observed, Phase, Settings};
use kruise_broadcastjob::plan::plan;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::placement::Placement;
use kruise_common::pod::{self, PodView};
use kruise_runtime::nodes::{NodeView, NodeWire};
use serde_json::json;

const SIZES: [usize; 3] = [100, 1_000, 5_000];

fn main() {
    divan::main();
}

fn node(index: usize) -> Option<Arc<NodeView>> {
    let name = format!("node-{index:05}");
    let wire: NodeWire = serde_json::from_value(json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": "1", "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": format!("zone-{}", index % 3), "pool": "general"}},
        "spec": {"taints": [{"key": "dedicated", "value": "batch", "effect": "NoSchedule"}]},
        "status": {"allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110", "ephemeral-storage": "1Ti"}},
    }))
    .ok()?;
    NodeView::of(wire).map(Arc::new)
}

fn pod(index: usize, phase: pod::Phase, placement: &Arc<Placement>) -> Arc<PodView> {
    Arc::new(PodView {
        key: ObjectKey::new("ops", format!("warm-{index:05}")),
        uid: Uid::from(format!("{index}")),
        node: Some(format!("node-{index:05}").into()),
        phase,
        placement: Arc::clone(placement),
        ..PodView::default()
    })
}

/// A job over so many nodes; `phase` says how far the pod of a node is.
fn job(nodes: usize, phase: fn(usize) -> Option<pod::Phase>) -> Option<Observed> {
    let spec: BroadcastJobSpec = serde_json::from_value(json!({"parallelism": "50%", "template": {"spec": {
        "nodeSelector": {"pool": "general"},
        "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "batch", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "Exists"}]}]}}},
        "containers": [{"resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}],
    }}}))
    .ok()?;
    let placement = Placement::of_template(&spec.template.read()).ok()?;
    let shared = Arc::new(placement.clone());
    Some(Observed {
        key: ObjectKey::new("ops", "warm"),
        uid: Uid::from("u"),
        terminating: false,
        settings: Settings::of(&spec).ok()?,
        placement,
        nodes: (0..nodes).map(node).collect::<Option<_>>()?,
        pods: (0..nodes).filter_map(|index| Some(pod(index, phase(index)?, &shared))).collect(),
        phase: Phase::Running,
        status: BroadcastJobStatus::default(),
        now: jiff::Timestamp::UNIX_EPOCH,
    })
}

fn run(bencher: Bencher<'_, '_>, seen: Option<Observed>) {
    let Some(seen) = seen else { return };
    bencher.bench_local(|| plan(black_box(&seen), &Census::of(black_box(&seen))));
}

#[divan::bench(args = SIZES)]
fn before_the_first_pod(bencher: Bencher<'_, '_>, nodes: usize) {
    run(bencher, job(nodes, |_| None));
}

#[divan::bench(args = SIZES)]
fn all_run(bencher: Bencher<'_, '_>, nodes: usize) {
    run(bencher, job(nodes, |_| Some(pod::Phase::Running)));
}

#[divan::bench(args = SIZES)]
fn half_are_done(bencher: Bencher<'_, '_>, nodes: usize) {
    let half = |index: usize| index.is_multiple_of(2).then_some(pod::Phase::Succeeded);
    run(bencher, job(nodes, half));
}
