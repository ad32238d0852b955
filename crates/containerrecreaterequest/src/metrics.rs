//! What is counted of requests.

use kruise_api::containerrecreaterequest::{
    ContainerRecreateRequest, ContainerRecreateRequestPhase as Phase,
};
use kruise_runtime::outcomes::{Names, Outcomes};
use prometheus::Registry;

/// Seconds that requests take.
const BUCKETS: [f64; 8] = [1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0];

const NAMES: Names = Names {
    total: "kruise_crr_total",
    about_total: "ContainerRecreateRequests that completed, by result.",
    seconds: "kruise_crr_duration_seconds",
    about_seconds: "Time from the creation of a ContainerRecreateRequest to its completion, by result.",
    buckets: &BUCKETS,
};

/// Requests that have ended.
#[derive(Clone, Debug)]
pub struct RequestMetrics(Outcomes);

impl RequestMetrics {
    /// Counters in `registry`.
    ///
    /// # Errors
    /// A name is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        Outcomes::register(registry, NAMES).map(Self)
    }

    /// Counts a request that was seen to complete. It has succeeded if all its containers were recreated.
    pub(crate) fn changed(&self, old: &ContainerRecreateRequest, new: &ContainerRecreateRequest) {
        let ended = |request: &ContainerRecreateRequest| {
            request.status.as_ref().and_then(|status| status.completion_time.as_ref()).map(|time| time.0)
        };
        let (None, Some(end)) = (ended(old), ended(new)) else { return };
        let states = new.status.as_ref().and_then(|status| status.container_recreate_states.as_ref());
        let recreated = states.into_iter().flatten().filter(|state| state.phase == Phase::Succeeded).count();
        let created = new.metadata.creation_timestamp.as_ref().map_or(end, |time| time.0);
        self.0.ended(recreated == new.spec.containers.len(), created, end);
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
        assert_eq!([true, false].map(|succeeded| metrics.0.so_far(succeeded)), [(1, 12.0); 2]);
    }
}
