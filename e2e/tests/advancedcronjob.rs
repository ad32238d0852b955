//! AdvancedCronJobs: jobs by the clock, in the cluster and in the sandbox. Schedules count seconds, so that no spec waits
//! for a full minute.
#![allow(clippy::indexing_slicing, reason = "these are tests, if not by their attribute")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Event;
use kruise_e2e::{Place, SOON, Venue, merged, seen, specs};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

const CRON: &str = "tick";
/// Another one, whose runs show that time has passed.
const WITNESS: &str = "witness";
/// Pods that end on their own take a moment on real nodes.
const MINUTE: Duration = Duration::from_mins(1);

/// A pod that runs `script`.
fn pod(script: &str) -> Value {
    json!({"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [
        {"name": "main", "image": "kruise.test/demo:1", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", script]}]}})
}

/// A Job each few seconds, whose pod runs `script`.
fn cron(schedule: &str, script: &str, spec: &Value) -> Value {
    let job =
        json!({"metadata": {"labels": {"app": "x"}}, "spec": {"backoffLimit": 0, "template": pod(script)}});
    let base = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "AdvancedCronJob",
        "metadata": {"name": CRON}, "spec": {"schedule": schedule, "template": {"jobTemplate": job}}});
    merged(base, &json!({"spec": spec}))
}

struct Crons {
    place: Place,
    api: Api<DynamicObject>,
    jobs: Api<Job>,
}

impl Crons {
    async fn at(at: Venue) -> Result<Self> {
        let place = at.place().await?;
        let api = Self::api(&place, "v1beta1", "AdvancedCronJob", "advancedcronjobs");
        let jobs = Api::namespaced(place.client(), place.namespace());
        Ok(Self { place, api, jobs })
    }

    async fn with(at: Venue, cron: Value) -> Result<Self> {
        let crons = Self::at(at).await?;
        crons.create(&cron).await?;
        Ok(crons)
    }

    fn api(place: &Place, version: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("apps.kruise.io", version, kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        Api::namespaced_with(place.client(), place.namespace(), &resource)
    }

    async fn create(&self, cron: &Value) -> Result<DynamicObject, kube::Error> {
        let cron = serde_json::from_value(cron.clone()).map_err(kube::Error::SerdeError)?;
        self.api.create(&PostParams::default(), &cron).await
    }

    async fn patch(&self, patch: Value) -> Result<()> {
        self.api.patch(CRON, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// A field of the status.
    async fn status(&self, field: &str) -> Result<Value> {
        Ok(self.api.get(CRON).await?.data["status"][field].clone())
    }

    async fn active(&self) -> Result<usize> {
        Ok(self.status("active").await?.as_array().map_or(0, Vec::len))
    }

    /// The Jobs, oldest first.
    async fn jobs(&self) -> Result<Vec<Job>> {
        self.jobs_of(CRON).await
    }

    async fn jobs_of(&self, cron: &str) -> Result<Vec<Job>> {
        let mut jobs = self.jobs.list(&ListParams::default()).await?.items;
        jobs.retain(|job| job.metadata.owner_references.iter().flatten().any(|owner| owner.name == cron));
        jobs.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(jobs)
    }

    async fn several(&self, what: &str, count: usize) -> Result<Vec<Job>> {
        seen(what, MINUTE, async || {
            let jobs = self.jobs().await?;
            Ok((jobs.len() >= count).then_some(jobs))
        })
        .await
    }

    /// Waits until a schedule of every three seconds, begun now, has run this often: whatever else was due by then had its
    /// turn.
    async fn while_the_clock_strikes(&self, runs: usize) -> Result<()> {
        let witness =
            merged(cron("@every 3s", "sleep 600", &json!({})), &json!({"metadata": {"name": WITNESS}}));
        self.create(&witness).await?;
        seen("the witness runs", MINUTE, async || {
            Ok((self.jobs_of(WITNESS).await?.len() >= runs).then_some(()))
        })
        .await
    }

    async fn told(&self, reason: &str) -> Result<()> {
        let events = Api::<Event>::namespaced(self.place.client(), self.place.namespace());
        seen(&format!("event {reason}"), MINUTE, async || {
            let events = events.list(&ListParams::default()).await?.items;
            let told = events.iter().any(|event| event.reason.as_deref() == Some(reason));
            Ok(told.then_some(()))
        })
        .await
    }
}

fn finished(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    })
}

async fn jobs_come_by_the_clock_and_the_newest_finished_ones_stay(at: Venue) -> Result<()> {
    let crons =
        Crons::with(at, cron("@every 4s", "sleep 0", &json!({"successfulJobsHistoryLimit": 2}))).await?;
    seen(
        "there is a status at once",
        SOON,
        async || Ok((crons.status("type").await? == "Job").then_some(())),
    )
    .await?;
    let first = crons.several("a first job", 1).await?.remove(0);
    let (name, meta) = (first.metadata.name.clone().unwrap_or_default(), first.metadata.clone());
    ensure!(meta.labels.context("no labels")?["app"] == "x");
    let due = &meta.annotations.context("no annotations")?["apps.kruise.io/scheduled-at"];
    ensure!(name == format!("{CRON}-{}", due.parse::<Timestamp>()?.as_second()), "{name} of {due}");
    let owner = meta.owner_references.unwrap_or_default();
    ensure!(owner[0].kind == "AdvancedCronJob" && owner[0].api_version == "apps.kruise.io/v1beta1");
    seen("the first job is over the limit in the end", MINUTE, async || {
        Ok(crons.jobs.get_opt(&name).await?.is_none().then_some(()))
    })
    .await?;
    ensure!(crons.jobs().await?.iter().filter(|job| finished(job)).count() <= 3);
    crons.told("SuccessfulCreate").await?;
    crons.told("SawCompletedJob").await?;
    crons.told("SuccessfulDelete").await
}

async fn a_run_waits_for_the_one_before_and_then_starts_at_once(at: Venue) -> Result<()> {
    let crons =
        Crons::with(at, cron("@every 3s", "sleep 8", &json!({"concurrencyPolicy": "Forbid"}))).await?;
    crons.several("a first job", 1).await?;
    crons.told("JobAlreadyActive").await?;
    let jobs = seen("a second job", MINUTE, async || {
        let jobs = crons.jobs().await?;
        ensure!(jobs.iter().filter(|job| !finished(job)).count() <= 1, "two at once");
        Ok((jobs.len() > 1).then_some(jobs))
    })
    .await?;
    ensure!(finished(&jobs[0]));
    Ok(())
}

async fn a_run_replaces_the_one_before(at: Venue) -> Result<()> {
    let policy = json!({"concurrencyPolicy": "Replace"});
    let crons = Crons::with(at, cron("@every 4s", "sleep 600", &policy)).await?;
    let first = crons.several("a first job", 1).await?.remove(0).metadata.uid;
    seen("another job in its place", MINUTE, async || {
        let jobs = crons.jobs().await?;
        Ok((jobs.len() == 1 && jobs[0].metadata.uid != first).then_some(()))
    })
    .await
}

async fn runs_go_side_by_side_until_a_pause(at: Venue) -> Result<()> {
    let crons = Crons::with(at, cron("@every 3s", "sleep 600", &json!({}))).await?;
    seen("two at once", MINUTE, async || Ok((crons.active().await? >= 2).then_some(()))).await?;
    crons.patch(json!({"spec": {"paused": true}})).await?;
    let before = seen("the pause is seen", SOON, async || {
        let (jobs, active) = (crons.jobs().await?.len(), crons.active().await?);
        Ok((jobs == active).then_some(jobs))
    })
    .await?;
    crons.while_the_clock_strikes(3).await?;
    let after = crons.jobs().await?.len();
    ensure!(after <= before + 1, "{before} jobs became {after} during a pause");
    crons.patch(json!({"spec": {"paused": false}})).await?;
    crons.several("a job after the pause", after + 1).await?;
    Ok(())
}

async fn a_run_that_was_cleaned_up_is_not_repeated(at: Venue) -> Result<()> {
    let mut crons = Crons::with(at, cron("@every 10s", "sleep 0", &json!({}))).await?;
    let job = crons.several("a job", 1).await?.remove(0);
    let name = job.metadata.name.context("it has no name")?;
    seen("it is remembered", SOON, async || {
        Ok((!crons.status("lastScheduleTime").await?.is_null()).then_some(()))
    })
    .await?;
    crons.patch(json!({"spec": {"schedule": "0 0 1 1 *"}})).await?;
    let _answer = crons.jobs.delete(&name, &DeleteParams::background()).await?;
    if let Some(sandbox) = crons.place.sandbox() {
        sandbox.restart_manager()?;
    }
    crons.patch(json!({"spec": {"failedJobsHistoryLimit": 2}})).await?;
    let last = crons.status("lastScheduleTime").await?;
    crons.while_the_clock_strikes(1).await?;
    ensure!(crons.jobs.get_opt(&name).await?.is_none(), "it was run again");
    ensure!(crons.status("lastScheduleTime").await? == last);
    Ok(())
}

async fn a_run_asked_for_by_hand_comes_at_once(at: Venue) -> Result<()> {
    let crons = Crons::with(at, cron("0 0 1 1 *", "sleep 0", &json!({"paused": true}))).await?;
    crons.patch(json!({"metadata": {"annotations": {"apps.kruise.io/run-now": "yes"}}})).await?;
    crons.several("a job", 1).await?;
    seen("the wish is taken off", SOON, async || {
        let left = crons.api.get(CRON).await?.metadata.annotations.unwrap_or_default();
        Ok((!left.keys().any(|key| key.contains("run-"))).then_some(()))
    })
    .await
}

async fn a_broadcast_job_by_the_clock_reaches_the_nodes(at: Venue) -> Result<()> {
    let mut object = cron("@every 5s", "", &json!({}));
    object["spec"]["template"] = json!({"broadcastJobTemplate": {"metadata": {"labels": {"app": "x"}}, "spec": {"template": pod("sleep 0")}}});
    let crons = Crons::with(at, object).await?;
    let jobs = Crons::api(&crons.place, "v1beta1", "BroadcastJob", "broadcastjobs");
    let job = seen("a BroadcastJob completes", MINUTE, async || {
        let jobs = jobs.list(&ListParams::default()).await?.items;
        Ok(jobs.into_iter().find(|job| job.data["status"]["phase"] == "completed"))
    })
    .await?;
    ensure!(job.metadata.labels.context("the template's labels are lost")?["app"] == "x");
    ensure!(crons.status("type").await? == "BroadcastJob");
    Ok(())
}

async fn both_versions_show_the_same_object(at: Venue) -> Result<()> {
    let crons = Crons::at(at).await?;
    let old = Crons::api(&crons.place, "v1alpha1", "AdvancedCronJob", "advancedcronjobs");
    let mut object = cron("0 0 1 1 *", "sleep 0", &json!({}));
    object["apiVersion"] = json!("apps.kruise.io/v1alpha1");
    old.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    let (old, new) = (old.get(CRON).await?, crons.api.get(CRON).await?);
    ensure!(old.data["spec"] == new.data["spec"]);
    ensure!(new.data["spec"]["concurrencyPolicy"] == "Allow", "{}", new.data["spec"]);
    ensure!(new.data["spec"]["successfulJobsHistoryLimit"] == 3, "{}", new.data["spec"]);
    Ok(())
}

async fn what_cannot_work_is_refused_with_its_field(at: Venue) -> Result<()> {
    let crons = Crons::at(at).await?;
    for (spec, told) in [
        (json!({"schedule": "61 * * * *"}), "spec.schedule"),
        (json!({"schedule": "TZ=UTC * * * * *", "timeZone": "UTC"}), "cannot use both timeZone field and TZ"),
        (json!({"timeZone": "Mars/Base"}), "spec.timeZone"),
        (json!({"failedJobsHistoryLimit": -1}), "spec.failedJobsHistoryLimit"),
        (json!({"template": {"jobTemplate": null}}), "spec must have one template"),
        (
            json!({"template": {"broadcastJobTemplate": {"spec": {"template": pod("true")}}}}),
            "spec can have only one template",
        ),
        (
            json!({"template": {"jobTemplate": {"spec": {"template": {"spec": {"containers": []}}}}}}),
            "spec.template.jobTemplate.spec.template.spec.containers",
        ),
    ] {
        let refused = crons.create(&cron("0 0 1 1 *", "true", &spec)).await.err();
        let refused = refused.with_context(|| format!("{spec} was accepted"))?;
        ensure!(refused.to_string().contains(told), "{spec}: {refused}");
    }
    crons.create(&cron("0 0 1 1 *", "true", &json!({}))).await?;
    let change = json!({"spec": {"template": {"jobTemplate": {"spec": {"backoffLimit": 9}}}}});
    let refused = crons.patch(change).await.err().context("the template was changed")?;
    ensure!(format!("{refused:#}").contains("are forbidden"), "{refused:#}");
    Ok(())
}

specs! {
    jobs_come_by_the_clock_and_the_newest_finished_ones_stay,
    a_run_waits_for_the_one_before_and_then_starts_at_once,
    a_run_replaces_the_one_before,
    runs_go_side_by_side_until_a_pause,
    a_run_that_was_cleaned_up_is_not_repeated,
    a_run_asked_for_by_hand_comes_at_once,
    a_broadcast_job_by_the_clock_reaches_the_nodes,
    both_versions_show_the_same_object,
    what_cannot_work_is_refused_with_its_field,
}
