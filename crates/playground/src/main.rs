//! The kruise-sandbox binary: a cluster to try Kruise on, for kubectl or as a demo.

mod access;
mod demo;
mod screen;
mod served;
mod world;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use demo::{Demo, Pace};
use kruise_common::go_duration::go_duration;
use kruise_sandbox::nodes::Timings;
use screen::Screen;
use served::{Plan, Served};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tracing_subscriber::EnvFilter;

/// Runs a Kubernetes API with simulated nodes and a whole kruise-manager in one process, for kubectl on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "kruise-sandbox",
    version,
    after_help = "What follows -- is the manager's own command line, e.g.: kruise-sandbox -- --feature-gates=PreDownloadImageForInPlaceUpdate=true"
)]
struct Flags {
    /// Play the six classic experiments with a CloneSet and end.
    #[arg(long)]
    demo: bool,
    /// Play them as fast as it goes, for scripts.
    #[arg(long, requires = "demo")]
    fast: bool,
    /// Number of simulated nodes.
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// Port of the API on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where the kubeconfig is written; a file of its own in $XDG_RUNTIME_DIR or the temporary directory if not named.
    #[arg(long, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// Keep the state in this directory, and go on from what is there; in memory only if not named.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How long a node pulls an image that it does not have.
    #[arg(long, default_value = "1s", value_parser = go_duration, value_name = "TIME")]
    pull: Duration,
    /// How long a container takes to start.
    #[arg(long, default_value = "300ms", value_parser = go_duration, value_name = "TIME")]
    start: Duration,
    /// How long a started container takes to become ready.
    #[arg(long, default_value = "500ms", value_parser = go_duration, value_name = "TIME")]
    ready: Duration,
    /// How long a container takes to end when it is told to.
    #[arg(long, default_value = "500ms", value_parser = go_duration, value_name = "TIME")]
    stop: Duration,
    /// The manager's flags.
    #[arg(last = true)]
    manager: Vec<String>,
}

impl Flags {
    fn timings(&self) -> Timings {
        if self.fast {
            return Timings::default();
        }
        let (pull, start, ready, stop) = (self.pull, self.start, self.ready, self.stop);
        Timings { pull, start, ready, stop, ..Timings::default() }
    }

    fn plan(&self) -> Plan {
        Plan {
            nodes: self.nodes,
            timings: self.timings(),
            port: self.port,
            kubeconfig: self.kubeconfig.clone(),
            for_a_demo: self.demo,
            data_dir: self.data_dir.clone(),
            manager: self.manager.clone(),
        }
    }
}

fn main() -> ExitCode {
    let started = Instant::now();
    let flags = Flags::parse();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(served::levels(&flags.manager)));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run(&flags, started)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kruise-sandbox: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, without a cause that its error has told already.
fn chain(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !told.contains(&cause) {
            let colon = if told.is_empty() { "" } else { ": " };
            told = format!("{told}{colon}{cause}");
        }
    }
    told
}

async fn run(flags: &Flags, started: Instant) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    tokio::pin!(stop);
    let mut served = tokio::select! {
        biased;
        served = Served::start(flags.plan()) => served?,
        () = &mut stop => return Ok(()),
    };
    tracing::debug!(milliseconds = started.elapsed().as_millis(), "usable");
    let ended = if flags.demo { play(flags, &mut served, stop).await } else { stay(&mut served, stop).await };
    // The first reason to end is the one to tell.
    let closed = served.end().await;
    ended.and(closed)
}

async fn stay(served: &mut Served, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    for line in served.next_steps() {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    tokio::select! {
        biased;
        () = stop => Ok(()),
        error = served.ended() => Err(error),
    }
}

async fn play(flags: &Flags, served: &mut Served, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let pace = if flags.fast { Pace::FAST } else { Pace::SLOW };
    let demo = Demo::new(served.client(), "demo", Screen::stdout(), pace, kruise_sandbox::clock::system());
    tokio::select! {
        biased;
        played = demo.play() => played,
        () = stop => Ok(()),
        error = served.ended() => Err(error),
    }
}

/// Resolves with the first signal to stop; a second one ends the process at once.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (first, stop) = tokio::sync::oneshot::channel();
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
    Ok(async move { stop.await.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_two_dashes_is_the_managers() {
        let line = ["kruise-sandbox", "--nodes", "5", "--", "--v=4", "--controllers=cloneset"];
        let flags = Flags::try_parse_from(line).unwrap();
        assert_eq!(flags.manager, ["--v=4", "--controllers=cloneset"]);
        assert_eq!((flags.nodes, flags.pull), (5, Duration::from_secs(1)));
        assert!(
            Flags::try_parse_from(["kruise-sandbox", "--fast"]).is_err(),
            "there is no fast without demo"
        );
    }
}
