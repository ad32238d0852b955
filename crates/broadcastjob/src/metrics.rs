//! What is counted of jobs.

use kruise_api::broadcastjob::BroadcastJobStatus;
use kruise_runtime::outcomes::{Names, Outcomes};
use kruise_runtime::states::States;
use kruise_runtime::store::Store;
use prometheus::Registry;

use crate::observe::Phase;
use crate::stores::JobView;

/// Seconds that jobs take.
const BUCKETS: [f64; 9] = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0];

const NAMES: Names = Names {
    total: "kruise_broadcastjob_total",
    about_total: "BroadcastJobs that ended, by result.",
    seconds: "kruise_broadcastjob_duration_seconds",
    about_seconds: "Time from the first round of a BroadcastJob to its end, by result.",
    buckets: &BUCKETS,
};

const JOBS: (&str, &str) = ("kruise_broadcastjobs", "BroadcastJobs by how far they are.");

const NODES: (&str, &str) =
    ("kruise_broadcastjob_nodes", "Nodes of BroadcastJobs that have not ended, by how far they are.");

/// Jobs that have ended.
#[derive(Clone, Debug)]
pub struct JobMetrics(Outcomes);

impl JobMetrics {
    /// Counters in `registry`, and how far the jobs of a store are.
    ///
    /// # Errors
    /// A name is taken.
    pub fn register(registry: &Registry, jobs: &Store<JobView>) -> prometheus::Result<Self> {
        let outcomes = Outcomes::register(registry, NAMES)?;
        let store = jobs.clone();
        States::register(registry, JOBS, move || {
            let jobs = store.all();
            let count = |state: State| jobs.iter().filter(|job| State::of(job) == state).count();
            [
                ("running", count(State::Running)),
                ("paused", count(State::Paused)),
                ("stopped", count(State::Stopped)),
                ("completed", count(State::Completed)),
                ("failed", count(State::Failed)),
            ]
        })?;
        let store = jobs.clone();
        States::register(registry, NODES, move || nodes(&store))?;
        Ok(Self(outcomes))
    }

    /// Counts a job whose end was published.
    pub(crate) fn ended(&self, status: &BroadcastJobStatus, succeeded: bool) {
        let Some(end) = &status.completion_time else { return };
        let start = status.start_time.as_ref().map_or(end.0, |start| start.0);
        self.0.ended(succeeded, start, end.0);
    }
}

/// How far a job is, for an operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Under way, or about to be.
    Running,
    /// Held by its spec.
    Paused,
    /// Held because a pod has failed.
    Stopped,
    /// Every node is done.
    Completed,
    /// Given up.
    Failed,
}

impl State {
    fn of(job: &JobView) -> Self {
        let status = job.object.status.as_ref();
        match Phase::parse(status.and_then(|status| status.phase.as_deref()).unwrap_or_default()) {
            Phase::Completed => Self::Completed,
            Phase::Failed => Self::Failed,
            _ if job.object.spec.paused == Some(true) => Self::Paused,
            Phase::Paused => Self::Stopped,
            Phase::New | Phase::Running => Self::Running,
        }
    }

    const fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// Nodes of all jobs that are not over.
fn nodes(jobs: &Store<JobView>) -> [(&'static str, usize); 4] {
    let (mut desired, mut active, mut succeeded, mut failed) = (0_usize, 0, 0, 0);
    let number = |number: i32| usize::try_from(number).unwrap_or_default();
    for job in jobs.all().iter().filter(|job| !State::of(job).is_over()) {
        let Some(status) = &job.object.status else { continue };
        desired += number(status.desired);
        active += number(status.active);
        succeeded += number(status.succeeded);
        failed += number(status.failed);
    }
    let waiting = desired.saturating_sub(active + succeeded + failed);
    [("waiting", waiting), ("active", active), ("succeeded", succeeded), ("failed", failed)]
}

#[cfg(test)]
mod tests {
    use kruise_api::broadcastjob::BroadcastJob;
    use prometheus::TextEncoder;
    use serde_json::{Value, json};

    use super::*;

    fn job(name: &str, paused: bool, status: Value) -> JobView {
        let job: BroadcastJob = serde_json::from_value(json!({
            "apiVersion": "apps.kruise.io/v1beta1", "kind": "BroadcastJob",
            "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"},
            "spec": {"template": {}, "paused": paused}, "status": status
        }))
        .unwrap();
        JobView::of(job).unwrap()
    }

    #[test]
    fn jobs_are_told_by_how_far_they_are_and_so_are_the_nodes_of_those_that_go_on() {
        let (registry, jobs) = (Registry::new(), Store::<JobView>::new());
        JobMetrics::register(&registry, &jobs).unwrap();
        let status =
            |phase: &str| json!({"phase": phase, "desired": 5, "active": 1, "succeeded": 1, "failed": 1});
        jobs.apply_own(job("new", false, Value::Null));
        jobs.apply_own(job("running", false, status("running")));
        jobs.apply_own(job("paused", true, status("paused")));
        jobs.apply_own(job("stopped", false, status("paused")));
        jobs.apply_own(job("completed", false, status("completed")));
        jobs.apply_own(job("failed", true, status("failed")));
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for (state, count) in [("running", 2), ("paused", 1), ("stopped", 1), ("completed", 1), ("failed", 1)]
        {
            let line = format!("kruise_broadcastjobs{{state=\"{state}\"}} {count}\n");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        for (state, count) in [("waiting", 6), ("active", 3), ("succeeded", 3), ("failed", 3)] {
            let line = format!("kruise_broadcastjob_nodes{{state=\"{state}\"}} {count}\n");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_job_is_counted_with_how_long_it_took_and_how_it_ended() {
        let registry = Registry::new();
        let metrics = JobMetrics::register(&registry, &Store::new()).unwrap();
        let ended: BroadcastJobStatus = serde_json::from_value(json!({"startTime": "2026-01-01T00:00:00Z",
            "completionTime": "2026-01-01T00:01:30Z", "active": 0, "succeeded": 1, "failed": 0, "desired": 1}))
        .unwrap();
        metrics.ended(&ended, true);
        metrics.ended(&ended, false);
        metrics.ended(&BroadcastJobStatus::default(), false);
        assert_eq!([true, false].map(|succeeded| metrics.0.so_far(succeeded)), [(1, 90.0); 2]);
    }
}
