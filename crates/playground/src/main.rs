//! The kruise-sandbox binary.

mod demo;
mod screen;
mod world;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use demo::{Demo, Pace};
use kruise_playground::{Options, Playground};
use screen::Screen;
use tracing_subscriber::EnvFilter;

/// Runs a Kubernetes API with simulated nodes and a whole kruise-manager in one process.
#[derive(Debug, Parser)]
#[command(name = "kruise-sandbox", version)]
struct Flags {
    /// Play the six classic experiments with a CloneSet and end.
    #[arg(long, required = true)]
    demo: bool,
    /// Play them as fast as it goes, for scripts.
    #[arg(long)]
    fast: bool,
    /// Number of simulated nodes.
    #[arg(long, default_value_t = 3)]
    nodes: u32,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let played = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(play(&flags)));
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn play(flags: &Flags) -> anyhow::Result<()> {
    let clock = kruise_sandbox::clock::system();
    let mut playground = Playground::start(Options::new(flags.nodes, Arc::clone(&clock))).await?;
    let pace = if flags.fast { Pace::FAST } else { Pace::SLOW };
    let demo = Demo::new(playground.client(), "demo", Screen::stdout(), pace, clock);
    tokio::select! {
        played = demo.play() => played,
        error = playground.ended() => Err(error),
    }
}
