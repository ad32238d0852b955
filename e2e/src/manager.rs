//! The manager as the specs handle it: its metrics, its Deployment, and the machine below it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, Request};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::Instant;

use crate::{POLL, Place, PodView as _, SET};

const NAMESPACE: &str = "kruise-system";
const DEPLOYMENT: &str = "kruise-controller-manager";
const LABELS: &str = "control-plane=controller-manager";
/// How long a manager may take to start and to lead.
const START: Duration = Duration::from_mins(1);

/// Looks until there is something to see. Errors count as nothing: the last one is told when time is up.
pub async fn seen<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        let last = match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if Instant::now() >= end {
            bail!("not within {deadline:?}: {what}{last}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Where `e2e/cluster/cluster` is.
pub(crate) fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster")
}

/// Runs a verb of `e2e/cluster/cluster`: for what no API can do to a cluster.
pub async fn cluster(arguments: &[&str]) -> Result<()> {
    cluster_output(arguments).await.map(drop)
}

/// Runs a verb of `e2e/cluster/cluster` and answers what it prints.
pub async fn cluster_output(arguments: &[&str]) -> Result<String> {
    let output = Command::new(script()).args(arguments).output().await?;
    ensure!(output.status.success(), "cluster {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The manager that runs in the cluster.
#[derive(Clone)]
pub struct Manager {
    client: kube::Client,
}

/// Puts the Deployment back as it was, and waits until it runs.
#[must_use = "the manager is as it was once this is dropped"]
pub struct PutBack {
    patch: String,
}

impl Drop for PutBack {
    /// A child process, because the runtime of a failed spec no longer runs tasks.
    fn drop(&mut self) {
        let run = |arguments: &[&str]| {
            let _ = std::process::Command::new("kubectl")
                .args(["--namespace", NAMESPACE])
                .args(arguments)
                .stdout(std::process::Stdio::null())
                .status();
        };
        run(&["patch", "deployment", DEPLOYMENT, "--type=json", "--patch", &self.patch]);
        run(&["rollout", "status", &format!("deployment/{DEPLOYMENT}"), "--timeout=60s"]);
    }
}

impl Manager {
    /// The manager, once it leads.
    pub async fn leading() -> Result<Self> {
        let client = kube::Client::try_default().await.context("no cluster: set KUBECONFIG")?;
        let manager = Self { client };
        manager.leads().await?;
        Ok(manager)
    }

    /// Waits until one manager runs and leads; answers its pod.
    pub async fn leads(&self) -> Result<Pod> {
        seen("one manager runs and leads (see e2e/cluster/install)", START, async || {
            let pods = self.pods().await?;
            let [pod] = &*pods else { return Ok(None) };
            let leads = self.metric("leader_election_master_status", "").await? >= 1.0;
            Ok((pod.active() && leads).then(|| pod.clone()))
        })
        .await
    }

    /// Its pods.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let api = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        Ok(api.list(&ListParams::default().labels(LABELS)).await?.items)
    }

    /// Its pods, as objects to delete.
    pub fn pod_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The sum of the samples of a metric whose labels contain `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let pods = self.pods().await?;
        let pod = pods.iter().find(|pod| pod.active()).context("no manager runs")?;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}:8080/proxy", pod.name());
        let request = Request::new(path).get("metrics", &GetParams::default())?;
        let text = self.client.request_text(request).await?;
        let mut sum = 0.0;
        for line in text.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (metric, told) = series.split_once('{').unwrap_or((series, ""));
            if metric == name && told.contains(labels) {
                sum += value.parse::<f64>()?;
            }
        }
        Ok(sum)
    }

    /// How many rounds of its controllers have ended so far.
    pub async fn rounds(&self) -> Result<f64> {
        self.metric("controller_runtime_reconcile_total", "").await
    }

    /// Waits until more than `rounds` rounds have ended and nothing is queued or worked on.
    pub async fn has_worked(&self, rounds: f64) -> Result<()> {
        seen(&format!("more than {rounds} rounds ended and nothing is queued"), START, async || {
            let busy = self.metric("workqueue_depth", "").await?
                + self.metric("controller_runtime_active_workers", "").await?;
            Ok((busy == 0.0 && self.rounds().await? > rounds).then_some(()))
        })
        .await
    }

    /// Makes the manager look at the set of a place once more, and waits until it has.
    pub async fn looks_again(&self, place: &Place, marker: &str) -> Result<()> {
        let rounds = self.rounds().await?;
        place.patch(&json!({"metadata": {"annotations": {"e2e.kruise.io/marker": marker}}})).await?;
        self.has_worked(rounds).await.with_context(|| format!("after {SET} was touched"))
    }

    /// Replaces arguments of the command line until the answer is dropped.
    pub async fn with_arguments(&self, more: &[&str]) -> Result<PutBack> {
        let back = self.put_back().await?;
        let mut arguments = self.arguments().await?;
        let old: Vec<_> = self.pods().await?.iter().map(|pod| pod.uid().to_owned()).collect();
        arguments.extend(more.iter().map(|more| json!(more)));
        self.patch(
            &json!([{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": arguments}]),
        )
        .await?;
        seen("the old manager is gone", START, async || {
            let pods = self.pods().await?;
            Ok(pods.iter().all(|pod| !old.iter().any(|uid| uid == pod.uid())).then_some(()))
        })
        .await?;
        self.leads().await?;
        Ok(back)
    }

    /// Stops the manager and leaves its webhooks, which refuse everything now, until the answer is dropped.
    pub async fn down(&self) -> Result<PutBack> {
        let back = self.put_back().await?;
        self.patch(&json!([{"op": "replace", "path": "/spec/replicas", "value": 0}])).await?;
        seen("no manager runs", START, async || Ok(self.pods().await?.is_empty().then_some(()))).await?;
        Ok(back)
    }

    /// Stops the manager, and takes away the webhooks that would refuse everything now, until the answer is dropped.
    pub async fn stopped(&self) -> Result<PutBack> {
        let back = self.down().await?;
        for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
            let name =
                format!("kruise-{}-webhook-configuration", kind.trim_end_matches("webhookconfiguration"));
            let output =
                Command::new("kubectl").args(["delete", kind, &name, "--ignore-not-found"]).output().await?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        // The API server learns late that its webhooks are gone.
        let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", "CloneSet");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clonesets");
        let sets = Api::<DynamicObject>::namespaced_with(self.client.clone(), NAMESPACE, &resource);
        let set: DynamicObject = serde_json::from_value(crate::clone_set(1, "none"))?;
        let try_only = PostParams { dry_run: true, ..PostParams::default() };
        seen("a set is admitted without webhooks", START, async || {
            Ok(Some(sets.create(&try_only, &set).await?))
        })
        .await?;
        Ok(back)
    }

    /// Runs so many replicas, all ready, until the answer is dropped.
    pub async fn replicas(&self, count: usize) -> Result<PutBack> {
        let back = self.put_back().await?;
        self.patch(&json!([{"op": "replace", "path": "/spec/replicas", "value": count}])).await?;
        self.rolled_out(count).await?;
        Ok(back)
    }

    /// Waits until that many replicas are of the newest template and ready, and all others are gone.
    pub async fn rolled_out(&self, count: usize) -> Result<()> {
        seen(&format!("{count} managers are up to date and ready"), START, async || {
            let deployment = self.deployments().get(DEPLOYMENT).await?;
            let status = deployment.status.unwrap_or_default();
            let reached = |number: Option<i32>| number == i32::try_from(count).ok();
            let done = status.observed_generation == deployment.metadata.generation
                && reached(status.updated_replicas)
                && reached(status.available_replicas);
            Ok((done && self.pods().await?.len() == count).then_some(()))
        })
        .await
    }

    /// Replaces every replica by another, one by one, as `kubectl rollout restart` does.
    pub async fn restarts(&self, marker: &str, count: usize) -> Result<()> {
        let path = "/spec/template/metadata/annotations";
        self.patch(&json!([{"op": "add", "path": path, "value": {"e2e.kruise.io/restart": marker}}])).await?;
        self.rolled_out(count).await
    }

    /// The replica that holds the Lease.
    pub async fn leader(&self) -> Result<Pod> {
        let api = Api::<Lease>::namespaced(self.client.clone(), NAMESPACE);
        seen("a replica leads", START, async || {
            let holder = api.get("kruise-manager").await?.spec.and_then(|spec| spec.holder_identity);
            let holder = holder.unwrap_or_default();
            let pods = self.pods().await?;
            let mut leaders = pods.into_iter().filter(|pod| holder.starts_with(&format!("{}_", pod.name())));
            Ok(leaders.next())
        })
        .await
    }

    async fn put_back(&self) -> Result<PutBack> {
        let arguments = self.arguments().await?;
        let patch = json!([
            {"op": "replace", "path": "/spec/replicas", "value": 1},
            {"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": arguments},
        ]);
        Ok(PutBack { patch: patch.to_string() })
    }

    async fn arguments(&self) -> Result<Vec<Value>> {
        let deployment = serde_json::to_value(self.deployments().get(DEPLOYMENT).await?)?;
        let arguments = deployment.pointer("/spec/template/spec/containers/0/args");
        Ok(arguments.and_then(Value::as_array).cloned().unwrap_or_default())
    }

    async fn patch(&self, patch: &Value) -> Result<()> {
        let patch = Patch::<Value>::Json(serde_json::from_value(patch.clone())?);
        self.deployments().patch(DEPLOYMENT, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }
}
