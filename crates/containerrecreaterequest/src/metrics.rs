//! What is counted of requests.

use kruise_api::containerrecreaterequest::{
    ContainerRecreateRequest, ContainerRecreateRequestPhase as Phase,
};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// Seconds that requests take.
const BUCKETS: [f64; 8] = [1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0];

/// Requests that have ended.
#[derive(Clone, Debug)]
pub struct RequestMetrics {
    total: IntCounterVec,
    seconds: HistogramVec,
}

impl RequestMetrics {
    /// Counters in `registry`.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let total = Opts::new("kruise_crr_total", "ContainerRecreateRequests that completed, by result.");
        let seconds = HistogramOpts::new(
            "kruise_crr_duration_seconds",
            "Time from the creation of a ContainerRecreateRequest to its completion, by result.",
        )
        .buckets(BUCKETS.to_vec());
        let metrics = Self {
            total: IntCounterVec::new(total, &["result"])?,
            seconds: HistogramVec::new(seconds, &["result"])?,
        };
        for result in ["succeeded", "failed"] {
            metrics.total.with_label_values(&[result]);
        }
        registry.register(Box::new(metrics.total.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        Ok(metrics)
    }

    /// Counts a request that was seen to complete. It has succeeded if all its containers were recreated.
    pub(crate) fn changed(&self, old: &ContainerRecreateRequest, new: &ContainerRecreateRequest) {
        let ended = |request: &ContainerRecreateRequest| {
            request.status.as_ref().and_then(|status| status.completion_time.as_ref()).map(|time| time.0)
        };
        let (None, Some(end)) = (ended(old), ended(new)) else { return };
        let states = new.status.as_ref().and_then(|status| status.container_recreate_states.as_ref());
        let recreated = states.into_iter().flatten().filter(|state| state.phase == Phase::Succeeded).count();
        let result = if recreated == new.spec.containers.len() { "succeeded" } else { "failed" };
        self.total.with_label_values(&[result]).inc();
        let created = new.metadata.creation_timestamp.as_ref().map_or(end, |time| time.0);
        self.seconds.with_label_values(&[result]).observe(end.duration_since(created).as_secs_f64().max(0.0));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(status: Value) -> ContainerRecreateRequest {
        serde_json::from_value(
            json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "ContainerRecreateRequest",
            "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"podName": "web", "containers": [{"name": "main"}]}, "status": status}),
        )
        .unwrap()
    }

    #[test]
    fn a_request_is_counted_once_with_how_it_ended_and_how_long_it_took() {
        let metrics = RequestMetrics::register(&Registry::new()).unwrap();
        let open = request(json!({"phase": "Recreating"}));
        let ended = |phase: &str| {
            request(json!({"phase": "Completed", "completionTime": "2026-01-01T00:00:12Z",
                "containerRecreateStates": [{"name": "main", "phase": phase}]}))
        };
        metrics.changed(&open, &open);
        metrics.changed(&open, &ended("Succeeded"));
        metrics.changed(&ended("Succeeded"), &ended("Succeeded"));
        metrics.changed(&open, &ended("Failed"));
        for result in ["succeeded", "failed"] {
            assert_eq!(metrics.total.with_label_values(&[result]).get(), 1, "{result}");
            let taken = metrics.seconds.with_label_values(&[result]).get_sample_sum();
            assert!((taken - 12.0).abs() < 1e-9, "{result}: {taken}");
        }
    }
}
