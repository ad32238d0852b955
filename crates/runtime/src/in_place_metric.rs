//! How long in-place updates take, seen from the pods alone: whichever controller updates them.

use std::sync::Arc;

use jiff::Timestamp;
use kruise_api::keys;
use kruise_common::inplace::State;
use kruise_common::pod::PodView;
use prometheus::{HistogramOpts, HistogramVec, IntGauge, Registry};

use crate::store::{Change, Store};

/// In seconds: from a container that restarts at once to an image that has to be pulled.
const BUCKETS: [f64; 12] = [1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 60.0, 120.0, 300.0, 900.0];

/// Measures every in-place update of `pods` that ends while this replica leads, so that each counts once.
///
/// # Errors
/// The metric is registered already.
pub fn measure(
    registry: &Registry,
    pods: &Store<PodView>,
    leads: IntGauge,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
) -> prometheus::Result<()> {
    let opts = HistogramOpts::new(
        "kruise_inplace_update_duration_seconds",
        "Time from the first change of a pod's in-place update until the pod may be ready again.",
    );
    let seconds = HistogramVec::new(opts.buckets(BUCKETS.to_vec()), &["kind"])?;
    registry.register(Box::new(seconds.clone()))?;
    pods.subscribe(Box::new(move |change| {
        if leads.get() != 1 {
            return;
        }
        if let Some((kind, took)) = ended(change, clock()) {
            seconds.with_label_values(&[kind]).observe(took);
        }
    }));
    Ok(())
}

/// The kind of the workload and the seconds it took, if an in-place update ends with this change.
fn ended(change: &Change<PodView>, now: Timestamp) -> Option<(&str, f64)> {
    let (old, new) = (change.old.as_ref()?, change.new.as_ref()?);
    let ready = keys::INPLACE_UPDATE_READY;
    let was_out = old.condition(ready).is_some_and(|condition| &*condition.text.status == "False");
    if !was_out || !new.condition_is_true(ready) {
        return None;
    }
    let begun = State::of(new).ok()??.update_timestamp?;
    let kind = new.controller().map_or("none", |owner| &*owner.kind);
    // The annotation holds whole seconds, and clocks of two replicas may differ.
    Some((kind, now.duration_since(begun).as_secs_f64().max(0.0)))
}

#[cfg(test)]
mod tests {
    use kruise_common::pod_wire::PodWire;
    use prometheus::TextEncoder;
    use serde_json::json;

    use super::*;

    fn pod(ready: &str, version: &str) -> PodView {
        let state = json!({"revision": "web-2", "updateTimestamp": "2026-01-01T00:00:00Z"}).to_string();
        let pod: PodWire = serde_json::from_value(json!({
            "metadata": {
                "name": "web-a", "namespace": "default", "uid": "u", "resourceVersion": version,
                "annotations": {"apps.kruise.io/inplace-update-state": state},
                "ownerReferences": [{"apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "name": "web",
                    "uid": "s", "controller": true}]
            },
            "spec": {"containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "InPlaceUpdateReady", "status": ready}]}
        }))
        .unwrap();
        PodView::from(pod)
    }

    fn counted(leads: i64, changes: &[&str]) -> String {
        let (registry, pods) = (Registry::new(), Store::<PodView>::new());
        let leader = IntGauge::new("leads", "x").unwrap();
        leader.set(leads);
        let clock = Arc::new(|| "2026-01-01T00:00:07Z".parse().unwrap());
        measure(&registry, &pods, leader, clock).unwrap();
        for (version, ready) in (1..).zip(changes) {
            pods.apply_own(pod(ready, &version.to_string()));
        }
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    #[test]
    fn an_update_is_measured_once_when_its_pod_may_be_ready_again() {
        let text = counted(1, &["True", "False", "False", "True", "True"]);
        assert!(text.contains(r#"duration_seconds_sum{kind="CloneSet"} 7"#), "{text}");
        assert!(text.contains(r#"duration_seconds_count{kind="CloneSet"} 1"#), "{text}");
    }

    #[test]
    fn a_replica_that_does_not_lead_measures_nothing() {
        assert!(!counted(0, &["False", "True"]).contains("CloneSet"));
    }
}
