//! What is counted of jobs.

use std::sync::Arc;

use kruise_api::imagepulljob::ImagePullJobStatus;
use kruise_runtime::outcomes::{Names, Outcomes};
use kruise_runtime::states::States;
use prometheus::Registry;

use crate::index::Index;

/// Seconds that jobs take.
const BUCKETS: [f64; 9] = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0];

const NAMES: Names = Names {
    total: "kruise_imagepulljob_total",
    about_total: "ImagePullJobs that completed, by result.",
    seconds: "kruise_imagepulljob_duration_seconds",
    about_seconds: "Time from the first round of an ImagePullJob to its completion, by result.",
    buckets: &BUCKETS,
};

const NODES: (&str, &str) =
    ("kruise_imagepulljob_nodes", "Nodes of ImagePullJobs that have not completed, by how far they are.");

/// Jobs that have ended.
#[derive(Clone, Debug)]
pub struct JobMetrics(Outcomes);

impl JobMetrics {
    /// Counters in `registry`, and the states of nodes that `index` knows of.
    ///
    /// # Errors
    /// A name is taken.
    pub fn register(registry: &Registry, index: Arc<Index>) -> prometheus::Result<Self> {
        let outcomes = Outcomes::register(registry, NAMES)?;
        States::register(registry, NODES, move || {
            let counts = index.totals();
            [
                ("waiting", counts.unsynced()),
                ("active", counts.active),
                ("succeeded", counts.succeeded),
                ("failed", counts.failed),
            ]
        })?;
        Ok(Self(outcomes))
    }

    /// Counts a job whose completion was published: it has failed if one of its nodes has.
    pub fn completed(&self, status: &ImagePullJobStatus) {
        let Some(end) = &status.completion_time else { return };
        let start = status.start_time.as_ref().map_or(end.0, |start| start.0);
        self.0.ended(status.failed == 0, start, end.0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_is_counted_with_how_long_it_took_and_how_it_ended() {
        let registry = Registry::new();
        let metrics = JobMetrics::register(&registry, Arc::new(Index::new(0))).unwrap();
        let status = |failed: i32| {
            serde_json::from_value(json!({"startTime": "2026-01-01T00:00:00Z",
                "completionTime": "2026-01-01T00:01:30Z", "desired": 3, "active": 0, "succeeded": 3 - failed,
                "failed": failed}))
            .unwrap()
        };
        metrics.completed(&status(0));
        metrics.completed(&status(2));
        metrics.completed(&ImagePullJobStatus::default());
        assert_eq!([true, false].map(|succeeded| metrics.0.so_far(succeeded)), [(1, 90.0); 2]);
        let names: Vec<_> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        assert!(names.contains(&"kruise_imagepulljob_nodes".to_owned()), "{names:?}");
    }
}
