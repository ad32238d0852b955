//! What follows from how far a job's nodes are: how many more to ask, what to publish, when to look again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kruise_api::imagepulljob::{ImagePullJob, ImagePullJobStatus, ImagePullJobTemplate};
use kruise_common::deadline::until;

use crate::index::Counts;
use crate::task::{NEVER, whole_seconds};

const COMPLETED: &str = "job has completed";
const OVERDUE: &str = "job exceeds activeDeadlineSeconds";

/// True for jobs that are never finished.
pub fn goes_on(template: &ImagePullJobTemplate) -> bool {
    template.completion_policy.type_.as_deref() == Some(NEVER)
}

/// Nodes that may pull at once.
pub fn parallelism(template: &ImagePullJobTemplate) -> usize {
    let number = match &template.parallelism {
        None => 1,
        Some(IntOrString::Int(number)) => *number,
        // Admission lets numbers pass only.
        Some(IntOrString::String(text)) => text.parse().unwrap_or(1),
    };
    usize::try_from(number).unwrap_or(0)
}

/// How many more nodes may be asked.
pub fn budget(template: &ImagePullJobTemplate, counts: Counts) -> usize {
    parallelism(template).saturating_sub(counts.active).min(counts.unsynced())
}

fn started(job: &ImagePullJob, now: Timestamp) -> Timestamp {
    let start = job.status.as_ref().and_then(|status| status.start_time.as_ref());
    start.map_or(whole_seconds(now).0, |time| time.0)
}

/// How long the job may still take; `None` if it has no deadline.
pub fn time_left(job: &ImagePullJob, now: Timestamp) -> Option<Duration> {
    let completion = &job.spec.template.completion_policy;
    let deadline = completion.active_deadline_seconds.filter(|_| !goes_on(&job.spec.template))?;
    Some(until(started(job, now), deadline, now))
}

/// What to publish. `failed` names the nodes that gave up, as far as they are listed; `overdue` those that count as
/// failed because time is over.
pub fn status(
    job: &ImagePullJob,
    counts: Counts,
    failed: &[Arc<str>],
    overdue: Option<&[Arc<str>]>,
    now: Timestamp,
) -> ImagePullJobStatus {
    let int = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let names =
        |names: &[Arc<str>]| (!names.is_empty()).then(|| names.iter().map(ToString::to_string).collect());
    let mut status = ImagePullJobStatus {
        start_time: Some(whole_seconds(started(job, now))),
        completion_time: None,
        desired: int(counts.desired),
        active: int(counts.active),
        succeeded: int(counts.succeeded),
        failed: int(counts.failed),
        message: None,
        failed_nodes: names(failed),
    };
    let done = counts.succeeded + counts.failed;
    let goes_on = goes_on(&job.spec.template);
    let message = if !goes_on && done >= counts.desired {
        status.completion_time = Some(whole_seconds(now));
        COMPLETED.to_owned()
    } else if let Some(left) = overdue.filter(|_| !goes_on) {
        status.completion_time = Some(whole_seconds(now));
        status.active = 0;
        status.failed = int(counts.desired - counts.succeeded);
        status.failed_nodes = names(left);
        OVERDUE.to_owned()
    } else if counts.desired == 0 {
        "job is running, no progress".to_owned()
    } else {
        format!("job is running, progress {:.1}%", 100.0 * done as f64 / counts.desired as f64)
    };
    status.message = Some(message);
    status
}

/// When a finished object is to be deleted: at once if that is zero; `None` keeps it.
pub fn delete_in(completed: Timestamp, ttl: Option<i32>, now: Timestamp) -> Option<Duration> {
    ttl.map(|ttl| until(completed, i64::from(ttl), now))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn job(spec: Value, status: Value) -> ImagePullJob {
        let mut object = json!({"metadata": {"name": "j"}, "spec": spec, "status": status});
        object["spec"]["image"] = json!("nginx");
        object["apiVersion"] = json!("apps.kruise.io/v1beta1");
        object["kind"] = json!("ImagePullJob");
        serde_json::from_value(object).unwrap()
    }

    fn counts(desired: usize, active: usize, succeeded: usize, failed: usize) -> Counts {
        Counts { desired, active, succeeded, failed }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn always() -> ImagePullJob {
        job(
            json!({"completionPolicy": {"type": "Always", "activeDeadlineSeconds": 600}}),
            json!({"startTime": "1970-01-01T00:00:00Z", "desired": 0}),
        )
    }

    #[test]
    fn a_job_asks_as_many_nodes_as_it_may_and_none_when_paused() {
        let budget = |parallelism: Value, counts| {
            budget(
                &job(json!({"completionPolicy": {}, "parallelism": parallelism}), Value::Null).spec.template,
                counts,
            )
        };
        assert_eq!(budget(Value::Null, counts(5, 0, 0, 0)), 1);
        assert_eq!(budget(json!(3), counts(5, 1, 0, 0)), 2);
        assert_eq!(budget(json!("3"), counts(5, 0, 4, 0)), 1);
        assert_eq!(budget(json!(1), counts(5, 3, 0, 0)), 0, "lowered below what runs");
        assert_eq!(budget(json!(0), counts(5, 0, 0, 0)), 0);
    }

    #[test]
    fn progress_is_told_with_one_decimal_and_the_end_with_a_time() {
        let told = |counts| {
            let status = status(&always(), counts, &[], None, at(7));
            (status.message.unwrap(), status.completion_time.map(|time| time.0))
        };
        assert_eq!(told(counts(3, 1, 1, 0)), ("job is running, progress 33.3%".to_owned(), None));
        assert_eq!(told(counts(3, 0, 2, 1)), (COMPLETED.to_owned(), Some(at(7))));
        assert_eq!(told(counts(0, 0, 0, 0)), (COMPLETED.to_owned(), Some(at(7))), "nothing to do is done");
    }

    #[test]
    fn a_job_that_goes_on_is_never_finished() {
        let never = job(json!({"completionPolicy": {"type": "Never"}}), Value::Null);
        let told = |counts| status(&never, counts, &[], None, at(7));
        assert_eq!(told(counts(0, 0, 0, 0)).message.as_deref(), Some("job is running, no progress"));
        let all = told(counts(2, 0, 2, 0));
        assert_eq!(
            (all.completion_time, all.message.as_deref()),
            (None, Some("job is running, progress 100.0%"))
        );
        assert_eq!(time_left(&never, at(9999)), None);
    }

    #[test]
    fn what_is_not_done_in_time_has_failed() {
        assert_eq!(time_left(&always(), at(599)), Some(Duration::from_secs(1)));
        assert_eq!(time_left(&always(), at(601)), Some(Duration::ZERO));
        let left: Vec<Arc<str>> = vec!["n2".into(), "n3".into()];
        let told = status(&always(), counts(3, 1, 1, 0), &[], Some(&left), at(600));
        assert_eq!((told.active, told.succeeded, told.failed), (0, 1, 2));
        assert_eq!(told.message.as_deref(), Some(OVERDUE));
        assert_eq!(told.failed_nodes, Some(vec!["n2".to_owned(), "n3".to_owned()]));
    }

    #[test]
    fn a_finished_job_goes_after_its_time() {
        assert_eq!(delete_in(at(0), None, at(9)), None);
        assert_eq!(delete_in(at(0), Some(30), at(9)), Some(Duration::from_secs(21)));
        assert_eq!(delete_in(at(0), Some(0), at(9)), Some(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn numbers_add_up_and_the_limit_holds(
            desired in 0_usize..50, active in 0_usize..50, succeeded in 0_usize..50, failed in 0_usize..50,
            limit in 0_i32..60, overdue in proptest::bool::ANY,
        ) {
            let active = active.min(desired);
            let succeeded = succeeded.min(desired - active);
            let failed = failed.min(desired - active - succeeded);
            let counts = counts(desired, active, succeeded, failed);
            let mut job = always();
            job.spec.template.parallelism = Some(IntOrString::Int(limit));
            let more = budget(&job.spec.template, counts);
            prop_assert!(more == 0 || active + more <= limit as usize);
            prop_assert!(active + more + succeeded + failed <= desired);
            let told = status(&job, counts, &[], overdue.then_some(&[][..]), at(1));
            prop_assert!(told.active + told.succeeded + told.failed <= told.desired);
            if told.completion_time.is_some() {
                prop_assert_eq!(told.succeeded + told.failed, told.desired);
            }
        }
    }
}
