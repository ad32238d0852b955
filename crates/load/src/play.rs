//! Plays the phases and notes what each has cost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::manager::{Latencies, Manager};
use crate::process::{Usage, reset_peak};
use crate::report::{Measured, Raw, Report};
use crate::requests::{Requests, since};
use crate::workload::{CLIENTS, Sets};
use crate::{Backend, Options, Phase, admission};

/// What the manager does within this time after a phase has reached its end is part of the phase's cost: events, and the
/// last status.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// What it does within this time after a restart.
const AFTER_START: Duration = Duration::from_secs(5);
/// How often [`Phase::Touch`] updates its pod.
const TOUCHES: u32 = 20;
/// Pods that are created to learn what the API server can do.
const RAW: u32 = 1000;

/// The directory of all that is written, removed with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("kruise-load-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies in the temporary directory, where somebody else will.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Starts everything, plays, ends everything.
///
/// # Errors
/// Something does not start, ends early, or a phase does not reach its end in time.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    ensure!(options.sets > 0 && options.pods >= options.sets, "every CloneSet needs a pod");
    let scratch = Scratch::new()?;
    let mut cluster = Cluster::start(&options.backend, options.nodes, &scratch.0).await?;
    let played = play(options, &mut cluster, &scratch.0).await;
    let stopped = cluster.stop().await;
    let report = played?;
    stopped?;
    Ok(report)
}

async fn play(options: &Options, cluster: &mut Cluster, dir: &Path) -> anyhow::Result<Report> {
    for namespace in ["load", "load-touch", "load-raw", "load-admission"] {
        cluster.namespace(namespace).await?;
        account(cluster, namespace, options.patience).await?;
    }
    let raw = raw(cluster, options.pods.min(RAW)).await?;
    let manager = Manager::start(options, &cluster.kubeconfig, dir, "manager")?;
    let report = Report { raw, pods: options.pods, sets: options.sets, ..Report::default() };
    let mut world = World { options, cluster, dir, manager, report };
    world.manager.ready(options.patience).await?;
    let ended = world.phases().await;
    let World { mut manager, report, cluster, .. } = world;
    if ended.is_ok() && matches!(options.backend, Backend::Running(_)) {
        leave(cluster).await?;
    }
    let ended = ended.with_context(|| format!("the manager's last words:\n{}", manager.last_words()));
    manager.ask_to_stop().await?;
    ended.map(|()| report)
}

/// Pods are refused until their namespace has its account.
async fn account(cluster: &Cluster, namespace: &str, patience: Duration) -> anyhow::Result<()> {
    let accounts = Api::<ServiceAccount>::namespaced(cluster.client.clone(), namespace);
    let begun = Instant::now();
    while accounts.get_opt("default").await?.is_none() {
        ensure!(begun.elapsed() < patience, "namespace {namespace} gets no service account");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// How fast [`CLIENTS`] clients create pods that nobody looks at.
async fn raw(cluster: &Cluster, count: u32) -> anyhow::Result<Raw> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), "load-raw");
    let spec =
        json!({"schedulerName": "nobody", "containers": [{"name": "main", "image": "load.test/app:1"}]});
    let begun = Instant::now();
    let created = (0..count).map(|number| {
        let pod = json!({"metadata": {"name": format!("raw-{number}")}, "spec": spec.clone()});
        let pods = pods.clone();
        Ok::<_, anyhow::Error>(async move {
            pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
            Ok(())
        })
    });
    futures::stream::iter(created).try_buffer_unordered(CLIENTS).try_collect::<Vec<()>>().await?;
    let raw = Raw { pods: count, seconds: begun.elapsed().as_secs_f64() };
    pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default()).await?;
    Ok(raw)
}

/// Takes what was made out of a cluster that stays.
async fn leave(cluster: &Cluster) -> anyhow::Result<()> {
    let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(cluster.client.clone());
    for namespace in ["load", "load-touch", "load-raw", "load-admission"] {
        namespaces.delete(namespace, &DeleteParams::default()).await?;
    }
    Ok(())
}

/// What a phase begins with.
struct Mark {
    begun: Instant,
    usage: Usage,
    cluster_cpu: Option<f64>,
    requests: Requests,
    latencies: Latencies,
}

struct World<'a> {
    options: &'a Options,
    cluster: &'a mut Cluster,
    dir: &'a Path,
    manager: Manager,
    report: Report,
}

impl World<'_> {
    async fn mark(&mut self) -> anyhow::Result<Mark> {
        self.cluster.runs()?;
        self.manager.runs()?;
        reset_peak(self.manager.pid)?;
        Ok(Mark {
            requests: self.cluster.requests.total().await?,
            latencies: self.manager.latencies().await?,
            usage: Usage::of(self.manager.pid)?,
            cluster_cpu: self.cluster.cpu()?,
            begun: Instant::now(),
        })
    }

    async fn note(
        &mut self,
        phase: Phase,
        pods: u64,
        mark: Mark,
        afterwards: Duration,
    ) -> anyhow::Result<()> {
        let seconds = mark.begun.elapsed().as_secs_f64();
        let cluster_cpu = self.cluster.cpu()?;
        tokio::time::sleep(afterwards).await;
        let usage = Usage::of(self.manager.pid)?;
        let latencies = self.manager.latencies().await?;
        self.report.phases.push(Measured {
            phase,
            pods,
            seconds,
            cpu: usage.cpu - mark.usage.cpu,
            cluster_cpu: cluster_cpu.zip(mark.cluster_cpu).map(|(after, before)| after - before),
            resident: usage.resident,
            anonymous: usage.anonymous,
            peak: usage.peak,
            requests: since(&mark.requests, self.cluster.requests.total().await?),
            rounds: Measured::median_and_tail(&latencies.rounds.since(&mark.latencies.rounds)),
            admission: Measured::median_and_tail(&latencies.admission.since(&mark.latencies.admission)),
        });
        Ok(())
    }

    fn plays(&self, phase: Phase) -> bool {
        self.options.phases.contains(&phase)
    }

    async fn phases(&mut self) -> anyhow::Result<()> {
        if self.plays(Phase::Idle) {
            self.look_on(Phase::Idle, self.options.idle).await?;
        }
        let with_pods =
            self.options.phases.iter().any(|phase| !matches!(phase, Phase::Idle | Phase::Admission));
        if with_pods {
            let each = self.options.pods / self.options.sets;
            let mut sets = Sets::create(&self.cluster.client, "load", self.options.sets, 0).await?;
            self.with_pods(&mut sets, each).await?;
            // What ends with its cluster need not be taken out of it first: of 50,000 pods that takes minutes.
            if self.plays(Phase::Admission) {
                sets.delete(self.options.patience).await?;
            }
        }
        if self.plays(Phase::Admission) {
            let mark = self.mark().await?;
            self.report.admission = admission::play(self.cluster, self.options.admissions).await?;
            self.note(Phase::Admission, 0, mark, AFTERWARDS).await?;
        }
        Ok(())
    }

    /// `each` is how many pods every set shall have.
    async fn with_pods(&mut self, sets: &mut Sets, each: u32) -> anyhow::Result<()> {
        let patience = self.options.patience;
        let all = u64::from(each) * u64::from(self.options.sets);
        let wanted = u64::from(each);
        sets.until("the sets are there", patience, |set| set.replicas == 0).await?;

        let mark = self.mark().await?;
        sets.patch(&json!({"replicas": each})).await?;
        sets.until("all pods are available", patience, |set| set.available == wanted).await?;
        if self.plays(Phase::ScaleOut) {
            self.note(Phase::ScaleOut, all, mark, AFTERWARDS).await?;
        }
        if self.plays(Phase::InPlace) {
            let mark = self.mark().await?;
            sets.patch(&json!({"template": template("2", "0")})).await?;
            let done =
                |set: &crate::workload::Seen| set.updated_available == wanted && set.available == wanted;
            sets.until("all pods are updated in place", patience, done).await?;
            self.note(Phase::InPlace, all, mark, AFTERWARDS).await?;
        }
        if self.plays(Phase::Recreate) {
            let mark = self.mark().await?;
            let half = u64::from(each - each / 2);
            let strategy = json!({"rollingUpdate": {"podUpdatePolicy": "ReCreate", "partition": each / 2}});
            sets.patch(&json!({"template": template("3", "1"), "updateStrategy": strategy})).await?;
            let done = |set: &crate::workload::Seen| {
                set.updated == half && set.updated_available == half && set.available == wanted
            };
            sets.until("half of the pods are recreated", patience, done).await?;
            self.note(Phase::Recreate, half * u64::from(self.options.sets), mark, AFTERWARDS).await?;
        }
        if self.plays(Phase::Touch) {
            self.touch().await?;
        }
        if self.plays(Phase::Quiet) {
            // Events and bookmarks of what was before have come by then.
            tokio::time::sleep(AFTER_START).await;
            self.look_on(Phase::Quiet, self.options.quiet).await?;
        }
        if !matches!(self.options.backend, Backend::Running(_)) {
            if self.plays(Phase::Restart) {
                self.restart().await?;
            }
            if self.plays(Phase::Failover) {
                self.failover().await?;
            }
        }
        if self.plays(Phase::ScaleIn) {
            let mark = self.mark().await?;
            let few = u64::from(each / 10);
            sets.patch(&json!({"replicas": few})).await?;
            sets.until("the pods beyond a tenth are gone", patience, |set| set.replicas == few).await?;
            self.note(Phase::ScaleIn, all - few * u64::from(self.options.sets), mark, AFTERWARDS).await?;
        }
        Ok(())
    }

    async fn look_on(&mut self, phase: Phase, time: Duration) -> anyhow::Result<()> {
        let mark = self.mark().await?;
        tokio::time::sleep(time).await;
        self.note(phase, 0, mark, Duration::ZERO).await
    }

    /// One pod in a set of its own, so that what it costs can only depend on the rest of the cluster.
    async fn touch(&mut self) -> anyhow::Result<()> {
        let patience = self.options.patience;
        let mut sets = Sets::create(&self.cluster.client, "load-touch", 1, 1).await?;
        sets.until("the pod is available", patience, |set| set.available == 1).await?;
        tokio::time::sleep(AFTERWARDS).await;
        let mark = self.mark().await?;
        for number in 0..TOUCHES {
            sets.patch(&json!({"template": template(&format!("touched-{number}"), "0")})).await?;
            sets.until("the pod is updated", patience, |set| set.updated_available == 1).await?;
        }
        self.note(Phase::Touch, u64::from(TOUCHES), mark, AFTERWARDS).await?;
        sets.delete(patience).await
    }

    /// Ends the manager well and starts another; the time is that of the start.
    async fn restart(&mut self) -> anyhow::Result<()> {
        self.manager.ask_to_stop().await?;
        let requests = self.cluster.requests.total().await?;
        let begun = Instant::now();
        self.manager = Manager::start(self.options, &self.cluster.kubeconfig, self.dir, "restarted")?;
        self.manager.ready(self.options.patience).await?;
        let (usage, latencies) = (Usage::default(), Latencies::default());
        let cluster_cpu = self.cluster.cpu()?;
        self.note(Phase::Restart, 0, Mark { begun, usage, cluster_cpu, requests, latencies }, AFTER_START)
            .await
    }

    async fn failover(&mut self) -> anyhow::Result<()> {
        let patience = self.options.patience;
        let mut sets = Sets::create(&self.cluster.client, "load-touch", 1, 1).await?;
        sets.until("the pod is available", patience, |set| set.available == 1).await?;
        let mut next = Manager::start(self.options, &self.cluster.kubeconfig, self.dir, "standby")?;
        next.serves(patience).await?;
        let requests = self.cluster.requests.total().await?;
        let (usage, cluster_cpu) = (Usage::of(next.pid)?, self.cluster.cpu()?);
        let (begun, latencies) = (Instant::now(), next.latencies().await?);
        std::mem::replace(&mut self.manager, next).kill().await?;
        // Refused until the webhooks are those of the manager that is left.
        while let Err(error) = sets.patch(&json!({"replicas": 2})).await {
            ensure!(begun.elapsed() < patience, "the set cannot be changed: {error:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        sets.until("the other manager has made a pod", patience, |set| set.available == 2).await?;
        let mark = Mark { begun, usage, cluster_cpu, requests, latencies };
        self.note(Phase::Failover, 1, mark, AFTERWARDS).await?;
        sets.delete(patience).await
    }
}

/// The part of a template that is changed: its revision is a label that no update in place would change by itself.
fn template(image: &str, label: &str) -> serde_json::Value {
    json!({
        "metadata": {"labels": {"revision": label}},
        "spec": {"containers": [{"name": "main", "image": format!("load.test/app:{image}")}]},
    })
}
