//! The kruise-load binary: `cargo xtask bench` builds the manager and runs it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum as _};
use kruise_common::go_duration::go_duration;
use kruise_load::{Backend, Options, Phase, Running};
use tokio::signal::unix::{SignalKind, signal};

/// Plays load against a manager and prints what it costs: time, CPU, memory, requests.
#[derive(Debug, Parser)]
#[command(name = "kruise-load", version)]
struct Flags {
    /// The manager's binary.
    #[arg(long, default_value = "kruise-manager", value_name = "PATH")]
    manager: PathBuf,
    /// Use the sandbox in place of a real API server.
    #[arg(long, conflicts_with = "kubeconfig")]
    sandbox: bool,
    /// Where the binaries of Kubernetes are; where e2e/cluster/cluster puts them if not named.
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
    /// Measure a manager that runs already, in this cluster.
    #[arg(long, requires = "pid", value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// Process of the manager that runs already.
    #[arg(long, requires = "kubeconfig")]
    pid: Option<u32>,
    /// Where its metrics are, such as http://127.0.0.1:8080/metrics.
    #[arg(long, requires = "kubeconfig", value_name = "URL")]
    metrics: Option<String>,
    /// Pods, all together.
    #[arg(long, default_value_t = 1000)]
    pods: u32,
    /// CloneSets that they belong to.
    #[arg(long, default_value_t = 1)]
    sets: u32,
    /// Simulated nodes.
    #[arg(long, default_value_t = 20)]
    nodes: u32,
    /// What to play; everything if not named.
    #[arg(long, value_delimiter = ',', value_enum)]
    phases: Vec<Phase>,
    /// How long to look on before there is anything.
    #[arg(long, default_value = "10s", value_parser = go_duration, value_name = "TIME")]
    idle: Duration,
    /// How long to look on while everything is there.
    #[arg(long, default_value = "10s", value_parser = go_duration, value_name = "TIME")]
    quiet: Duration,
    /// CloneSets with large templates that are created each way.
    #[arg(long, default_value_t = 400)]
    admissions: u32,
    /// How long any phase may take.
    #[arg(long, default_value = "5m", value_parser = go_duration, value_name = "TIME")]
    patience: Duration,
    /// More flags of the manager.
    #[arg(last = true, value_name = "FLAGS")]
    of_manager: Vec<String>,
}

impl Flags {
    fn options(self) -> Options {
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
        let cache =
            || std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
        let backend = match (self.kubeconfig, self.pid) {
            (Some(kubeconfig), Some(pid)) => {
                Backend::Running(Running { kubeconfig, pid, metrics: self.metrics })
            }
            _ if self.sandbox => Backend::Sandbox,
            _ => Backend::Kubernetes(self.bin.unwrap_or_else(|| cache().join("kruise/cluster/bin"))),
        };
        let everything = self.phases.is_empty();
        Options {
            backend,
            manager: self.manager,
            flags: self.of_manager,
            pods: self.pods,
            sets: self.sets,
            nodes: self.nodes,
            phases: if everything { Phase::value_variants().to_vec() } else { self.phases },
            idle: self.idle,
            quiet: self.quiet,
            admissions: self.admissions,
            patience: self.patience,
        }
    }
}

fn main() -> ExitCode {
    let options = Flags::parse().options();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error,kube_client=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run(&options)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kruise-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let report = tokio::select! {
        biased;
        // What was started ends with what is dropped here.
        _ = terminate.recv() => anyhow::bail!("told to stop"),
        _ = interrupt.recv() => anyhow::bail!("told to stop"),
        report = kruise_load::run(options) => report?,
    };
    write!(std::io::stdout().lock(), "{report}")?;
    Ok(())
}
