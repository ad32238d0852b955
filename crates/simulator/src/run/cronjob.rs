//! An AdvancedCronJob: what its user does, and where it has to end.

use std::time::Duration;

use jiff::SignedDuration;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use super::{NAMESPACE, Subject, World, complaints, unless_gone};
use crate::history::cronjob::{Child, Step};
use crate::run::NAME;

/// How late a run may be.
const LATE: SignedDuration = SignedDuration::from_secs(10);
/// How long a run may take longer than its pods work.
const OVERHEAD: SignedDuration = SignedDuration::from_secs(30);
/// When a manager that has died shortly before is back.
const BACK: Duration = Duration::from_secs(30);

impl World {
    pub(super) async fn change_cron_job(&mut self, step: Step) -> anyhow::Result<()> {
        let spec = match step {
            Step::Schedule(schedule) => json!({"schedule": schedule}),
            Step::Policy(policy) => json!({"concurrencyPolicy": policy}),
            Step::Pause(paused) => json!({"paused": paused}),
            Step::Limits(succeeded, failed) => {
                json!({"successfulJobsHistoryLimit": succeeded, "failedJobsHistoryLimit": failed})
            }
            Step::Deadline(deadline) => json!({"startingDeadlineSeconds": deadline}),
            Step::RunNow => {
                let annotations = json!({"apps.kruise.io/run-now": "please"});
                return self.patch(json!({"metadata": {"annotations": annotations}})).await;
            }
            Step::DeleteChild(index) => {
                let mut names: Vec<String> = self
                    .children()
                    .list(&ListParams::default())
                    .await?
                    .items
                    .into_iter()
                    .filter_map(|child| child.metadata.name)
                    .collect();
                names.sort();
                let Some(name) = names.get(index % names.len().max(1)) else { return Ok(()) };
                return unless_gone(self.children().delete(name, &DeleteParams::background()).await);
            }
        };
        self.patch(json!({"spec": spec})).await
    }

    fn children(&self) -> Api<DynamicObject> {
        match self.subject {
            Subject::CronJob(start) if start.child == Child::Job => {
                let kind = GroupVersionKind::gvk("batch", "v1", "Job");
                let resource = ApiResource::from_gvk_with_plural(&kind, "jobs");
                Api::namespaced_with(self.client.clone(), NAMESPACE, &resource)
            }
            _ => self.api("BroadcastJob", "broadcastjobs"),
        }
    }

    /// It runs by its schedule and its policy for a while, then no more.
    pub(super) async fn calm_cron_job(&mut self) -> anyhow::Result<()> {
        self.patch(json!({"spec": {"paused": false, "startingDeadlineSeconds": null}})).await?;
        self.pass(BACK).await?;
        let (job, from) = (self.subjects().get(NAME).await?, (self.clock)());
        let rest = self.longest_rest(&job);
        // Twice, so that it is seen to go on.
        self.pass(Duration::try_from(rest * 2)?).await?;
        let until = (self.clock)();
        let runs = self.checker.runs().into_iter().filter(|run| *run >= from).chain([until]);
        let mut last = from;
        for run in runs {
            if run.duration_since(last) > rest {
                self.checker.accuse(format!("no tick was run between {last} and {run}, in {rest:#}"));
            }
            last = run;
        }
        self.patch(json!({"spec": {"paused": true}})).await
    }

    /// The longest time without a run: from one tick to the next, or, where a run waits for the one before, as long as
    /// that may take as well. One that was asked for by hand and has not started yet is before it in turn.
    fn longest_rest(&self, job: &DynamicObject) -> SignedDuration {
        let text = |path: &str| job.data.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let period = SignedDuration::from_secs(match text("/spec/schedule") {
            "* * * * *" => 60,
            "@every 90s" => 90,
            "*/2 * * * *" => 120,
            _ => 300,
        });
        let seconds = if let Subject::CronJob(start) = self.subject { start.seconds } else { 0 };
        let run = SignedDuration::from_secs(seconds) + OVERHEAD;
        let waits = match text("/spec/concurrencyPolicy") {
            "Forbid" if asked(job) => 2,
            "Forbid" => 1,
            _ => 0,
        };
        period + run * waits + LATE
    }

    pub(super) async fn missing_of_cron_job(&self) -> anyhow::Result<Option<String>> {
        let job = self.subjects().get(NAME).await?;
        let children = self.children().list(&ListParams::default()).await?.items;
        let is = |child: &DynamicObject, type_: &str| {
            let conditions = child.data.pointer("/status/conditions").and_then(Value::as_array);
            conditions.into_iter().flatten().any(|one| {
                one.get("type").and_then(Value::as_str) == Some(type_)
                    && one.get("status").and_then(Value::as_str) == Some("True")
            })
        };
        let count = |type_: &str| children.iter().filter(|child| is(child, type_)).count() as u64;
        let (succeeded, failed) = (count("Complete"), count("Failed"));
        let limit = |path: &str| job.data.pointer(path).and_then(Value::as_u64).unwrap_or(u64::MAX);
        let active = job.data.pointer("/status/active").and_then(Value::as_array).map_or(0, Vec::len);
        let last = job.data.pointer("/status/lastScheduleTime").and_then(Value::as_str).unwrap_or_default();
        let mortal = matches!(self.subject, Subject::CronJob(start) if start.ttl.is_some());
        let newest = children.iter().filter_map(|child| {
            child.metadata.annotations.as_ref()?.get("apps.kruise.io/scheduled-at").cloned()
        });
        let newest = newest.max().unwrap_or_default();
        Ok(complaints([
            (children.len() as u64 == succeeded + failed, "children are active".to_owned()),
            (active == 0, format!("status.active names {active}")),
            (succeeded <= limit("/spec/successfulJobsHistoryLimit"), format!("{succeeded} have succeeded")),
            (failed <= limit("/spec/failedJobsHistoryLimit"), format!("{failed} have failed")),
            (!mortal || children.is_empty(), "children have outlived their time".to_owned()),
            (
                !last.is_empty() && newest.as_str() <= last,
                format!("lastScheduleTime is {last}, not {newest}"),
            ),
            (!asked(&job), "a run by hand was not made".to_owned()),
        ]))
    }
}

/// A run by hand is still to be made.
fn asked(job: &DynamicObject) -> bool {
    let annotations = job.metadata.annotations.iter().flatten();
    annotations.into_iter().any(|(key, _)| key.ends_with("/run-now") || key.ends_with("/run-due"))
}
