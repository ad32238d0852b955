//! The kruise-manager binary: flags, gates and wiring, nothing else.

mod flags;
mod logging;
mod run;

use std::process::ExitCode;

use clap::Parser;
use kruise_common::gates::FeatureGates;

use flags::Flags;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bad command lines end with this code, like those of every Kubernetes component.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let legacy = std::env::var("CUSTOM_RESOURCE_ENABLE").unwrap_or_default();
    let gates = match FeatureGates::parse_with(&flags.feature_gates, &legacy) {
        Ok(gates) => gates,
        Err(error) => {
            return usage(&format!(
                "invalid argument {:?} for \"--feature-gates\" flag: {error}",
                error.value
            ));
        }
    };
    let cloneset = match flags::controller_is_on(&flags.controllers, "cloneset") {
        Ok(on) => on,
        Err(error) => {
            return usage(&format!(
                "invalid argument {:?} for \"--controllers\" flag: {error}",
                flags.controllers
            ));
        }
    };
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
    match runtime.block_on(run::run(flags, gates.gates, cloneset)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn usage(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::from(USAGE)
}

fn fail(error: &anyhow::Error) -> ExitCode {
    tracing::error!(error = %format_args!("{error:#}"), "kruise-manager ends");
    ExitCode::FAILURE
}
