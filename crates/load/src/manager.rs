//! The manager that is measured.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use tokio::process::Command;
use tokio::time::Instant;

use crate::metrics::{Histogram, fetch, samples};
use crate::process::{Process, free_port};
use crate::{Backend, Options};

const POLL: Duration = Duration::from_millis(20);

/// A manager: started here, or one that ran before.
pub(crate) struct Manager {
    process: Option<Process>,
    pub(crate) pid: u32,
    metrics: Option<String>,
}

/// How long rounds and admission have taken so far.
#[derive(Clone, Default)]
pub(crate) struct Latencies {
    pub(crate) rounds: Histogram,
    pub(crate) admission: Histogram,
}

impl Manager {
    /// Starts one; `name` names its log and its directory of certificates in `dir`.
    pub(crate) fn start(
        options: &Options,
        kubeconfig: &Path,
        dir: &Path,
        name: &str,
    ) -> anyhow::Result<Self> {
        if let Backend::Running(running) = &options.backend {
            return Ok(Self { process: None, pid: running.pid, metrics: running.metrics.clone() });
        }
        let (metrics, webhooks) = (free_port()?, free_port()?);
        let mut command = Command::new(&options.manager);
        command
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--metrics-addr=127.0.0.1:{metrics}"))
            .args(["--health-probe-addr=0", "--enable-pprof=false", "--protection-log-path="])
            .args(&options.flags)
            .env("WEBHOOK_HOST", "127.0.0.1")
            .env("WEBHOOK_PORT", webhooks.to_string())
            .env("WEBHOOK_CERT_DIR", dir.join(format!("{name}-certificates")))
            .env("POD_NAMESPACE", "kruise-system");
        let process = Process::start(name, command, dir)?;
        let pid = process.pid()?;
        Ok(Self { process: Some(process), pid, metrics: Some(format!("http://127.0.0.1:{metrics}/metrics")) })
    }

    /// Waits until CloneSets are looked after: webhooks published, leading, and everything cached.
    pub(crate) async fn ready(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.gauge("kruise_controller_running", "cloneset-controller", patience).await
    }

    /// Waits until it serves webhooks and metrics, whether it leads or not.
    pub(crate) async fn serves(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.gauge("kruise_controller_disabled", "cloneset-controller", patience).await
    }

    async fn gauge(&mut self, metric: &str, controller: &str, patience: Duration) -> anyhow::Result<()> {
        let Some(url) = self.metrics.clone() else { return Ok(()) };
        let begun = Instant::now();
        loop {
            self.runs()?;
            let text = fetch(&url).await.unwrap_or_default();
            let own =
                |labels: &BTreeMap<&str, String>| labels.get("controller").is_some_and(|is| is == controller);
            // Of a controller that is not disabled every reason is told, with 0.
            let wanted = if metric.ends_with("disabled") { 0.0 } else { 1.0 };
            let mut found =
                samples(&text).filter(|sample| sample.name == metric && own(&sample.labels)).peekable();
            if found.peek().is_some() && found.all(|sample| (sample.value - wanted).abs() < 0.5) {
                return Ok(());
            }
            ensure!(begun.elapsed() < patience, "the manager does not come up within {patience:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// An error once it has ended.
    pub(crate) fn runs(&mut self) -> anyhow::Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::runs)
    }

    /// The end of its log, if it was started here.
    pub(crate) fn last_words(&self) -> String {
        self.process.as_ref().map(Process::last_words).unwrap_or_default()
    }

    pub(crate) async fn latencies(&self) -> anyhow::Result<Latencies> {
        let Some(url) = &self.metrics else { return Ok(Latencies::default()) };
        let text = fetch(url).await?;
        let cloneset = |labels: &BTreeMap<&str, String>| {
            labels.get("controller").is_some_and(|controller| controller.starts_with("cloneset"))
        };
        let admission = |labels: &BTreeMap<&str, String>| {
            labels.get("webhook").is_some_and(|webhook| webhook.ends_with("-cloneset"))
        };
        Ok(Latencies {
            rounds: Histogram::of(&text, "controller_runtime_reconcile_time_seconds", cloneset),
            admission: Histogram::of(&text, "controller_runtime_webhook_latency_seconds", admission),
        })
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill(self) -> anyhow::Result<()> {
        match self.process {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Asks it to end and waits until it has, if it was started here.
    pub(crate) async fn ask_to_stop(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }
}
