//! What is counted of jobs.

use std::sync::Arc;

use jiff::Timestamp;
use kruise_api::imagepulljob::ImagePullJobStatus;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::index::Index;

/// Seconds that jobs take.
const BUCKETS: [f64; 9] = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0];

/// Jobs that have ended.
#[derive(Clone, Debug)]
pub struct JobMetrics {
    total: IntCounterVec,
    seconds: HistogramVec,
}

impl JobMetrics {
    /// Counters in `registry`, and the states of nodes that `index` knows of.
    pub fn register(registry: &Registry, index: Arc<Index>) -> prometheus::Result<Self> {
        let total = Opts::new("kruise_imagepulljob_total", "ImagePullJobs that completed, by result.");
        let seconds = HistogramOpts::new(
            "kruise_imagepulljob_duration_seconds",
            "Time from the first round of an ImagePullJob to its completion, by result.",
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
        registry.register(Box::new(Nodes::new(index)?))?;
        Ok(metrics)
    }

    /// Counts a job whose completion was published: it has failed if one of its nodes has.
    pub fn completed(&self, status: &ImagePullJobStatus) {
        let Some(end) = &status.completion_time else { return };
        let result = if status.failed > 0 { "failed" } else { "succeeded" };
        self.total.with_label_values(&[result]).inc();
        let start = status.start_time.as_ref().map_or(end.0, |start| start.0);
        self.seconds.with_label_values(&[result]).observe(seconds(start, end.0));
    }
}

fn seconds(start: Timestamp, end: Timestamp) -> f64 {
    end.duration_since(start).as_secs_f64().max(0.0)
}

/// Asks the index when it is scraped.
struct Nodes {
    index: Arc<Index>,
    nodes: IntGaugeVec,
}

impl Nodes {
    fn new(index: Arc<Index>) -> prometheus::Result<Self> {
        let about = "Nodes of ImagePullJobs that have not completed, by how far they are.";
        Ok(Self {
            index,
            nodes: IntGaugeVec::new(Opts::new("kruise_imagepulljob_nodes", about), &["state"])?,
        })
    }
}

impl Collector for Nodes {
    fn desc(&self) -> Vec<&Desc> {
        self.nodes.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let counts = self.index.totals();
        for (state, count) in [
            ("waiting", counts.unsynced()),
            ("active", counts.active),
            ("succeeded", counts.succeeded),
            ("failed", counts.failed),
        ] {
            self.nodes.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.nodes.collect()
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
        let (total, taken) = (&metrics.total, &metrics.seconds);
        for result in ["succeeded", "failed"] {
            assert_eq!(total.with_label_values(&[result]).get(), 1, "{result}");
            assert!((taken.with_label_values(&[result]).get_sample_sum() - 90.0).abs() < 1e-9, "{result}");
        }
        let names: Vec<_> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        assert!(names.contains(&"kruise_imagepulljob_nodes".to_owned()), "{names:?}");
    }
}
