//! The kruise-daemon binary: the command line, the client and the signals.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use jiff::Timestamp;
use kruise_common::gates::FeatureGates;
use kruise_daemon::cri::{call_metrics, discover};
use kruise_daemon::flags::Flags;
use kruise_daemon::run::{self, Setup};
use kruise_daemon::{disk, node};
use kruise_runtime::client::ClientMetrics;
use kruise_runtime::metrics::Metrics;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// Without huge pages, which would be most of the memory of a process this small.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bad command lines end with this code, like those of every Kubernetes component.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let gates = match FeatureGates::parse_with(&flags.feature_gates, "") {
        Ok(gates) => gates.gates,
        Err(error) => {
            eprintln!("invalid argument {:?} for \"--feature-gates\" flag: {error}", error.value);
            return ExitCode::from(USAGE);
        }
    };
    log(flags.verbosity);
    // One thread: there is little to do, and every other one would cost memory.
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")
        .and_then(|runtime| runtime.block_on(start(flags, gates)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %format_args!("{error:#}"), "kruise-daemon ends");
            ExitCode::FAILURE
        }
    }
}

fn log(verbosity: u8) {
    let levels = match verbosity {
        0..=3 => "info",
        4 => "info,kruise=debug",
        _ => "debug,kruise=trace",
    };
    // Levels by target only: filters that can do more are a good part of the memory of a process this small.
    let levels =
        std::env::var("RUST_LOG").ok().and_then(|own| own.parse::<Targets>().ok()).or(levels.parse().ok());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(levels.map(|levels| lines.with_filter(levels))).init();
}

/// The one place that reads the wall clock.
#[expect(clippy::disallowed_methods, reason = "this is the clock that is handed to everything else")]
fn now() -> Timestamp {
    Timestamp::now()
}

async fn start(flags: Flags, gates: FeatureGates) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let revision = option_env!("KRUISE_REVISION").unwrap_or("dev");
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), revision, gates)?;
    let seconds = call_metrics(metrics.registry())?;
    let client = client(&flags, &metrics).await?;
    let reported = async || node::runtime_name(&client, &flags.node_name).await;
    let found = discover::find(&flags.host_run, &flags.socket_file, reported, &seconds);
    tokio::pin!(stop);
    let runtimes = tokio::select! {
        biased;
        () = &mut stop => return Ok(()),
        found = found => found?,
    };
    for runtime in runtimes.all() {
        tracing::info!(runtime = runtime.name, socket = %runtime.cri.socket().display(), "found a container runtime");
    }
    let disk = disk::of(flags.image_disk.clone());
    run::run(Setup { flags, gates, runtimes, disk, clock: Arc::new(now), metrics }, client, stop).await
}

async fn client(flags: &Flags, metrics: &Metrics) -> anyhow::Result<kube::Client> {
    let config = if flags.kubeconfig.is_empty() {
        kube::Config::infer().await.context("no way to reach a cluster was found")?
    } else {
        let file = kube::config::Kubeconfig::read_from(&flags.kubeconfig)
            .with_context(|| format!("cannot read --kubeconfig {}", flags.kubeconfig))?;
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await?
    };
    let counters = ClientMetrics::register(metrics.registry())?;
    kruise_runtime::client::client(config, concat!("kruise-daemon/", env!("CARGO_PKG_VERSION")), counters)
        .context("cannot make a client")
}

/// Resolves with the first signal to stop; a second one ends the process at once.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (first, stop) = oneshot::channel();
    tokio::spawn(async move {
        let mut first = Some(first);
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            match first.take().map(|first| first.send(())) {
                Some(Ok(())) => {}
                _ => std::process::exit(1),
            }
        }
    });
    // The sender lives as long as the process.
    Ok(async move { stop.await.unwrap_or_default() })
}
