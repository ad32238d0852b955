//! BroadcastJobs: one pod to its end on every node, in the cluster and in the sandbox.
#![allow(clippy::indexing_slicing, reason = "these are tests, if not by their attribute")]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kruise_e2e::{Place, PodView as _, SOON, Venue, merged, seen, specs};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

const JOB: &str = "warm";
/// Pods that end on their own take a moment on real nodes.
const MINUTE: Duration = Duration::from_mins(1);

/// A job whose pods run `script`.
fn job(script: &str, spec: &Value) -> Value {
    let template = json!({"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [
        {"name": "main", "image": "kruise.test/demo:1", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", script]}]}});
    let base = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "BroadcastJob", "metadata": {"name": JOB},
        "spec": {"template": template}});
    merged(base, &json!({"spec": spec}))
}

/// The jobs of a place, and what becomes of them.
struct Jobs {
    place: Place,
    api: Api<DynamicObject>,
}

impl Jobs {
    async fn at(at: Venue) -> Result<Self> {
        let place = at.place().await?;
        let api = Self::api(&place, "v1beta1");
        Ok(Self { place, api })
    }

    /// The place with a job in it.
    async fn with(at: Venue, script: &str, spec: Value) -> Result<Self> {
        let jobs = Self::at(at).await?;
        jobs.create(&job(script, &spec)).await?;
        Ok(jobs)
    }

    fn api(place: &Place, version: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("apps.kruise.io", version, "BroadcastJob");
        let resource = ApiResource::from_gvk_with_plural(&kind, "broadcastjobs");
        Api::namespaced_with(place.client(), place.namespace(), &resource)
    }

    async fn create(&self, job: &Value) -> Result<DynamicObject, kube::Error> {
        let job = serde_json::from_value(job.clone()).map_err(kube::Error::SerdeError)?;
        self.api.create(&PostParams::default(), &job).await
    }

    async fn change(&self, spec: Value) -> Result<()> {
        self.api.patch(JOB, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await?;
        Ok(())
    }

    async fn status(&self) -> Result<Value> {
        Ok(self.api.get(JOB).await?.data.get("status").cloned().unwrap_or_default())
    }

    /// Waits until the status has these fields.
    async fn reaches(&self, what: &str, fields: Value) -> Result<Value> {
        let reached = async || {
            let status = self.status().await?;
            let same =
                fields.as_object().into_iter().flatten().all(|(key, value)| status.get(key) == Some(value));
            ensure!(same, "the status is {status}");
            Ok(Some(status))
        };
        seen(what, MINUTE, reached).await
    }

    async fn pods(&self) -> Result<Vec<Pod>> {
        Ok(self.place.pods().list(&ListParams::default()).await?.items)
    }

    async fn gone(&self, what: &str) -> Result<()> {
        seen(what, MINUTE, async || {
            let pods = self.pods().await?;
            ensure!(pods.is_empty(), "{} pods are left", pods.len());
            Ok(Some(()))
        })
        .await
    }

    async fn told(&self, reason: &str, message: &str) -> Result<()> {
        seen(&format!("{reason} is told"), SOON, async || {
            let events = self.place.events(reason).await?;
            ensure!(events == [message], "told was {events:?}");
            Ok(Some(()))
        })
        .await
    }

    /// The names of the nodes that any pod may run on.
    async fn nodes(&self) -> Result<BTreeSet<String>> {
        let nodes = Api::<Node>::all(self.place.client()).list(&ListParams::default()).await?.items;
        Ok(nodes.into_iter().filter_map(|node| node.metadata.name).collect())
    }

    async fn label(&self, node: &str, key: &str, value: Value) -> Result<()> {
        let labels = serde_json::Map::from_iter([(key.to_owned(), value)]);
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        Api::<Node>::all(self.place.client()).patch(node, &PatchParams::default(), &patch).await?;
        Ok(())
    }
}

fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

fn condition<'a>(status: &'a Value, type_: &str) -> Option<&'a Value> {
    status.get("conditions")?.as_array()?.iter().find(|found| found.get("type") == Some(&json!(type_)))
}

async fn every_node_runs_the_pod_once_and_the_job_completes(at: Venue) -> Result<()> {
    let jobs = Jobs::with(at, "sleep 1", json!({})).await?;
    let nodes = jobs.nodes().await?;
    let count = nodes.len();
    let status = jobs
        .reaches(
            "the job completes",
            json!({"phase": "completed", "desired": count, "succeeded": count, "active": 0, "failed": 0}),
        )
        .await?;
    ensure!(condition(&status, "Complete").is_some_and(|found| found["status"] == "True"), "{status}");
    let pods = jobs.pods().await?;
    ensure!(pods.len() == count, "{} pods", pods.len());
    ensure!(pods.iter().map(node_of).collect::<BTreeSet<_>>() == nodes, "not one on every node");
    let uid = jobs.api.get(JOB).await?.metadata.uid.context("no uid")?;
    for pod in &pods {
        ensure!(pod.label("broadcastjob-name") == JOB && pod.label("broadcastjob-controller-uid") == uid);
    }
    let told =
        format!("Job {}/{JOB} is completed, {count} pods succeeded, 0 pods failed", jobs.place.namespace());
    jobs.told("JobComplete", &told).await
}

async fn no_more_pods_run_at_once_than_may(at: Venue) -> Result<()> {
    let jobs = Jobs::with(at, "sleep 2", json!({"parallelism": 1})).await?;
    seen("the job completes with one pod at a time", MINUTE, async || {
        let pods = jobs.pods().await?;
        let active = pods.iter().filter(|pod| pod.active()).count();
        let done = jobs.status().await?.get("phase") == Some(&json!("completed"));
        // Not an error to try again: it cannot become right.
        Ok((done || active > 1).then_some(active))
    })
    .await
    .and_then(|active| {
        ensure!(active <= 1, "{active} at once");
        Ok(())
    })
}

async fn a_crash_loop_fails_the_job_and_is_deleted(at: Venue) -> Result<()> {
    let jobs = Jobs::at(at).await?;
    let mut looping = job("exit 1", &json!({"failurePolicy": {"type": "FailFast", "restartLimit": 1}}));
    looping["spec"]["template"]["spec"]["restartPolicy"] = json!("OnFailure");
    jobs.create(&looping).await?;
    let status = jobs.reaches("the job fails", json!({"phase": "failed", "active": 0})).await?;
    let said = "failure policy is FailurePolicyTypeFailFast and failed pod is found";
    ensure!(condition(&status, "Failed").is_some_and(|found| found["message"] == said), "{status}");
    jobs.gone("nothing is left running").await
}

async fn a_job_that_goes_on_completes_with_its_failures_counted(at: Venue) -> Result<()> {
    let jobs = Jobs::with(at, "exit 1", json!({"failurePolicy": {"type": "Continue"}})).await?;
    let count = jobs.nodes().await?.len();
    jobs.reaches("the job completes", json!({"phase": "completed", "succeeded": 0, "failed": count})).await?;
    Ok(())
}

async fn a_job_that_takes_too_long_fails(at: Venue) -> Result<()> {
    let jobs =
        Jobs::with(at, "sleep 3600", json!({"completionPolicy": {"activeDeadlineSeconds": 5}})).await?;
    let count = jobs.nodes().await?.len();
    jobs.reaches("the pods run", json!({"phase": "running", "active": count})).await?;
    let status =
        jobs.reaches("the job fails", json!({"phase": "failed", "active": 0, "failed": count})).await?;
    let said = format!("Job {}/{JOB} was active longer than specified deadline", jobs.place.namespace());
    ensure!(condition(&status, "Failed").is_some_and(|found| found["message"] == said), "{status}");
    jobs.gone("its pods are deleted").await?;
    jobs.told("DeadlineExceeded", &format!("{said}: 0 pods succeeded, {count} pods failed")).await
}

async fn a_finished_job_goes_with_its_pods(at: Venue) -> Result<()> {
    let jobs = Jobs::with(at, "sleep 1", json!({"completionPolicy": {"ttlSecondsAfterFinished": 3}})).await?;
    jobs.reaches("the job completes", json!({"phase": "completed"})).await?;
    seen("the job is gone", MINUTE, async || Ok(jobs.api.get_opt(JOB).await?.is_none().then_some(())))
        .await?;
    jobs.gone("its pods are gone").await
}

async fn a_node_is_served_once_it_matches_and_left_once_it_does_not(at: Venue) -> Result<()> {
    let jobs = Jobs::at(at).await?;
    let key = format!("e2e.kruise.io/{}", jobs.place.namespace());
    let mut never = job("sleep 3600", &json!({"completionPolicy": {"type": "Never"}}));
    never["spec"]["template"]["spec"]["nodeSelector"] = json!({&key: "yes"});
    jobs.create(&never).await?;
    jobs.reaches("no node matches", json!({"phase": "running", "desired": 0})).await?;
    let node = jobs.nodes().await?.pop_first().context("there is no node")?;
    jobs.label(&node, &key, json!("yes")).await?;
    jobs.reaches("the node is served", json!({"desired": 1, "active": 1})).await?;
    seen("its pod runs", MINUTE, async || {
        Ok(jobs.pods().await?.iter().any(|pod| pod.condition("Ready") == Some(true)).then_some(()))
    })
    .await?;
    jobs.label(&node, &key, Value::Null).await?;
    jobs.gone("the pod is deleted").await?;
    jobs.reaches("the node is left", json!({"phase": "running", "desired": 0, "active": 0})).await?;
    Ok(())
}

async fn a_paused_job_starts_nothing_until_it_is_let_go(at: Venue) -> Result<()> {
    let jobs = Jobs::with(at, "sleep 1", json!({"paused": true})).await?;
    let count = jobs.nodes().await?.len();
    jobs.reaches("the job is paused", json!({"phase": "paused", "desired": count})).await?;
    ensure!(jobs.pods().await?.is_empty(), "pods were created");
    jobs.change(json!({"paused": false})).await?;
    jobs.reaches("the job completes", json!({"phase": "completed", "succeeded": count})).await?;
    jobs.told("Continue", "continue to process job").await
}

async fn both_versions_show_the_same_job(at: Venue) -> Result<()> {
    let jobs = Jobs::at(at).await?;
    let old = Jobs::api(&jobs.place, "v1alpha1");
    let mut object = job("sleep 1", &json!({}));
    object["apiVersion"] = json!("apps.kruise.io/v1alpha1");
    old.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    jobs.reaches("the job completes", json!({"phase": "completed"})).await?;
    let (old, new) = (old.get(JOB).await?, jobs.api.get(JOB).await?);
    ensure!(old.data["spec"] == new.data["spec"] && old.data["status"] == new.data["status"]);
    ensure!(new.data["spec"]["parallelism"] == 2_147_483_647, "{}", new.data["spec"]);
    ensure!(new.data["spec"]["completionPolicy"]["type"] == "Always", "{}", new.data["spec"]);
    ensure!(new.data["spec"]["failurePolicy"]["type"] == "FailFast", "{}", new.data["spec"]);
    Ok(())
}

async fn what_cannot_be_carried_out_is_refused(at: Venue) -> Result<()> {
    let jobs = Jobs::at(at).await?;
    let mut always = job("sleep 1", &json!({}));
    always["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
    let mut dotted = job("sleep 1", &json!({}));
    dotted["metadata"]["name"] = json!("warm.up");
    let never = json!({"completionPolicy": {"type": "Never", "ttlSecondsAfterFinished": 1}});
    for (object, told) in [
        (always, "pod restartPolicy can only be Never or OnFailure"),
        (dotted, "metadata.name"),
        (job("sleep 1", &never), "ttlSecondsAfterFinished can just work with Always CompletionPolicyType"),
        (job("sleep 1", &json!({"parallelism": "abc"})), "spec.parallelism"),
        (job("sleep 1", &json!({"template": {"spec": {"containers": []}}})), "spec.template.spec.containers"),
    ] {
        let refused = jobs.create(&object).await.err().context("it was accepted")?;
        ensure!(refused.to_string().contains(told), "{refused}");
    }
    Ok(())
}

specs! {
    every_node_runs_the_pod_once_and_the_job_completes,
    no_more_pods_run_at_once_than_may,
    a_crash_loop_fails_the_job_and_is_deleted,
    a_job_that_goes_on_completes_with_its_failures_counted,
    a_job_that_takes_too_long_fails,
    a_finished_job_goes_with_its_pods,
    a_node_is_served_once_it_matches_and_left_once_it_does_not,
    a_paused_job_starts_nothing_until_it_is_let_go,
    both_versions_show_the_same_job,
    what_cannot_be_carried_out_is_refused,
}
