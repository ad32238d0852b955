//! What is counted of runs.

use jiff::Timestamp;
use kruise_runtime::states::States;
use kruise_runtime::store::Store;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};

use crate::child::{Kind, State};
use crate::plan::Note;
use crate::schedule::{Schedule, find_zone};
use crate::stores::JobView;

/// Seconds by which runs start late.
const BUCKETS: [f64; 9] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];

const JOBS: (&str, &str) = ("kruise_advancedcronjobs", "AdvancedCronJobs by what becomes of their schedule.");

/// Runs, and what became of them.
#[derive(Clone, Debug)]
pub struct RunMetrics {
    runs: IntCounterVec,
    children: IntCounterVec,
    delay: Histogram,
}

impl RunMetrics {
    /// Counters in `registry`, and what becomes of the schedules in a store.
    ///
    /// # Errors
    /// A name is taken.
    pub fn register(registry: &Registry, jobs: &Store<JobView>) -> prometheus::Result<Self> {
        let runs = "Runs of AdvancedCronJobs that were due, by what became of them.";
        let children = "Jobs of AdvancedCronJobs that ended, by kind and result.";
        let delay = HistogramOpts::new(
            "kruise_advancedcronjob_delay_seconds",
            "Time from when a run of an AdvancedCronJob was due until its job was created.",
        );
        let metrics = Self {
            runs: IntCounterVec::new(Opts::new("kruise_advancedcronjob_runs_total", runs), &["result"])?,
            children: IntCounterVec::new(
                Opts::new("kruise_advancedcronjob_children_total", children),
                &["kind", "result"],
            )?,
            delay: Histogram::with_opts(delay.buckets(BUCKETS.to_vec()))?,
        };
        for result in ["started", "missed", "refused"] {
            metrics.runs.with_label_values(&[result]);
        }
        for (kind, result) in Kind::ALL.into_iter().flat_map(|kind| RESULTS.map(|result| (kind, result))) {
            metrics.children.with_label_values(&[kind.name(), result]);
        }
        registry.register(Box::new(metrics.runs.clone()))?;
        registry.register(Box::new(metrics.children.clone()))?;
        registry.register(Box::new(metrics.delay.clone()))?;
        let store = jobs.clone();
        States::register(registry, JOBS, move || schedules(&store))?;
        Ok(metrics)
    }

    /// Counts a run whose child was created.
    pub(crate) fn started(&self, due: Timestamp, now: Timestamp) {
        self.runs.with_label_values(&["started"]).inc();
        // Clocks of two replicas may differ.
        self.delay.observe(now.duration_since(due).as_secs_f64().max(0.0));
    }

    /// Counts what users are told of runs of this kind.
    pub(crate) fn told(&self, kind: Kind, note: &Note) {
        match note {
            Note::TooLate(_) => self.runs.with_label_values(&["missed"]).inc(),
            Note::NotServed(_) | Note::FailedCreate(_) => self.runs.with_label_values(&["refused"]).inc(),
            Note::Completed { state: State::Succeeded, .. } => self.ended(kind, RESULTS[0]),
            Note::Completed { .. } => self.ended(kind, RESULTS[1]),
            _ => {}
        }
    }

    fn ended(&self, kind: Kind, result: &str) {
        self.children.with_label_values(&[kind.name(), result]).inc();
    }
}

const RESULTS: [&str; 2] = ["succeeded", "failed"];

/// Objects whose schedule is followed, whose schedule is not, and whose schedule cannot be as it was meant.
fn schedules(jobs: &Store<JobView>) -> [(&'static str, usize); 3] {
    let (mut scheduled, mut paused, mut faulty) = (0, 0, 0);
    for job in jobs.all() {
        let spec = &job.object.spec;
        let zone = spec.time_zone.as_deref().map(find_zone);
        let state = if Schedule::parse(&spec.schedule).is_err() || zone.is_some_and(|zone| zone.is_err()) {
            &mut faulty
        } else if spec.paused == Some(true) {
            &mut paused
        } else {
            &mut scheduled
        };
        *state += 1;
    }
    [("scheduled", scheduled), ("paused", paused), ("faulty", faulty)]
}

#[cfg(test)]
mod tests {
    use kruise_api::advancedcronjob::AdvancedCronJob;
    use prometheus::TextEncoder;
    use serde_json::json;

    use super::*;

    fn job(name: &str, schedule: &str, zone: &str, paused: bool) -> JobView {
        let job: AdvancedCronJob = serde_json::from_value(json!({
            "apiVersion": "apps.kruise.io/v1beta1", "kind": "AdvancedCronJob",
            "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"},
            "spec": {"schedule": schedule, "timeZone": zone, "paused": paused, "template": {"jobTemplate": {}}}
        }))
        .unwrap();
        JobView::of(job).unwrap()
    }

    #[test]
    fn runs_are_counted_by_what_became_of_them_and_schedules_by_whether_they_are_followed() {
        let (registry, jobs) = (Registry::new(), Store::<JobView>::new());
        let metrics = RunMetrics::register(&registry, &jobs).unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        metrics.started(at(10), at(13));
        metrics.started(at(10), at(9));
        let done = |state| Note::Completed { name: "a-10".to_owned(), state };
        for note in [
            Note::TooLate(at(10)),
            Note::FailedCreate("quota".to_owned()),
            Note::NotServed("Job"),
            done(State::Succeeded),
            done(State::Failed),
            Note::ManyMissed,
        ] {
            metrics.told(Kind::Job, &note);
        }
        jobs.apply_own(job("a", "* * * * *", "UTC", false));
        jobs.apply_own(job("b", "* * * * *", "UTC", true));
        jobs.apply_own(job("c", "whenever", "UTC", true));
        jobs.apply_own(job("d", "* * * * *", "Mars/Tharsis", false));
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            r#"kruise_advancedcronjob_runs_total{result="started"} 2"#,
            r#"kruise_advancedcronjob_runs_total{result="missed"} 1"#,
            r#"kruise_advancedcronjob_runs_total{result="refused"} 2"#,
            r#"kruise_advancedcronjob_children_total{kind="Job",result="succeeded"} 1"#,
            r#"kruise_advancedcronjob_children_total{kind="Job",result="failed"} 1"#,
            r#"kruise_advancedcronjob_children_total{kind="BroadcastJob",result="failed"} 0"#,
            "kruise_advancedcronjob_delay_seconds_sum 3",
            r#"kruise_advancedcronjobs{state="scheduled"} 1"#,
            r#"kruise_advancedcronjobs{state="paused"} 1"#,
            r#"kruise_advancedcronjobs{state="faulty"} 2"#,
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
        }
    }
}
