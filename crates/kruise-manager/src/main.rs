//! The kruise-manager binary: the command line, the client and the signals.

mod logging;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use jiff::Timestamp;
use kruise_common::gates::FeatureGates;
use kruise_manager::commands::{Command, CommandLine};
use kruise_manager::flags::Flags;
use kruise_manager::run::{self, Setup, Webhooks};
use kruise_manager::selection::Selection;
use kruise_runtime::client::ClientMetrics;
use kruise_runtime::metrics::Metrics;
use kruise_webhook::options::WebhookOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Without huge pages, which it asks for where the kernel leaves that to programs: they cost 10 MB of resident memory
/// and bring nothing to a process that sleeps most of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bad command lines end with this code, like those of every Kubernetes component.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let CommandLine { command, flags } = CommandLine::parse();
    if let Some(command) = command {
        return by_hand(&command, &flags);
    }
    let legacy = std::env::var("CUSTOM_RESOURCE_ENABLE").unwrap_or_default();
    let gates = match FeatureGates::parse_with(&flags.feature_gates, &legacy) {
        Ok(gates) => gates,
        Err(error) => return usage(&error.value, "--feature-gates", &error),
    };
    let controllers = match Selection::parse(&flags.controllers) {
        Ok(controllers) => controllers,
        Err(error) => return usage(&flags.controllers, "--controllers", &error),
    };
    if let Err(error) = controllers.check(gates.gates) {
        return usage(&flags.controllers, "--controllers", &error);
    }
    logging::start(&flags);
    for warning in &gates.warnings {
        if warning.is_error() {
            tracing::error!("{warning}");
        } else {
            tracing::warn!("{warning}");
        }
    }
    for change in &gates.overrides {
        tracing::info!("{change}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start the async runtime")),
    };
    match runtime.block_on(start(flags, gates.gates, controllers)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// The one place that reads the wall clock.
#[expect(clippy::disallowed_methods, reason = "this is the clock that is handed to everything else")]
fn now() -> Timestamp {
    Timestamp::now()
}

async fn start(flags: Flags, gates: FeatureGates, controllers: Selection) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let revision = option_env!("KRUISE_REVISION").unwrap_or("dev");
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), revision, gates)?;
    let client = client(&flags.kubeconfig, &metrics).await?;
    let webhooks = Webhooks::Serve(WebhookOptions::from_env(&|name| std::env::var(name).ok())?);
    let setup = Setup { flags, gates, controllers, webhooks, clock: Arc::new(now), metrics, seed: None };
    run::run(setup, client, stop).await
}

/// Runs a subcommand to its end; what it has to say goes to standard output.
fn by_hand(command: &Command, flags: &Flags) -> ExitCode {
    logging::start(flags);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start the async runtime")),
    };
    let done = runtime.block_on(async {
        let client = match command.kubeconfig() {
            Some(kubeconfig) => {
                let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), "", FeatureGates::defaults())?;
                Some(client(kubeconfig, &metrics).await?)
            }
            None => None,
        };
        command.run(client, Arc::new(now)).await
    });
    let report = match done {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    match std::io::stdout().lock().write_all(report.text.as_bytes()) {
        Ok(()) => ExitCode::from(report.exit_code),
        Err(error) => fail(&anyhow::Error::new(error).context("cannot write to standard output")),
    }
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

async fn client(kubeconfig: &str, metrics: &Metrics) -> anyhow::Result<kube::Client> {
    let config = if kubeconfig.is_empty() {
        kube::Config::infer().await.context("no way to reach a cluster was found")?
    } else {
        let file = kube::config::Kubeconfig::read_from(kubeconfig)
            .with_context(|| format!("cannot read --kubeconfig {kubeconfig}"))?;
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await?
    };
    let counters = ClientMetrics::register(metrics.registry())?;
    kruise_runtime::client::client(config, concat!("kruise-manager/", env!("CARGO_PKG_VERSION")), counters)
        .context("cannot make a client")
}

fn usage(value: &str, flag: &str, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("invalid argument {value:?} for \"{flag}\" flag: {error}");
    ExitCode::from(USAGE)
}

fn fail(error: &anyhow::Error) -> ExitCode {
    tracing::error!(error = %format_args!("{error:#}"), "kruise-manager ends");
    ExitCode::FAILURE
}
