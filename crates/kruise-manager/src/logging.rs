//! Log lines: text or JSON, with the levels of `--v`.

use tracing_subscriber::EnvFilter;

use kruise_manager::flags::Flags;

/// Sends events to standard error from now on. `RUST_LOG` overrides `--v`.
pub(crate) fn start(flags: &Flags) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(levels(flags.verbosity)));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber can only be installed by a test, which then has its own.
    let _installed = if flags.logging_format == "json" {
        lines.json().flatten_event(true).try_init()
    } else {
        lines.with_ansi(false).try_init()
    };
}

fn levels(verbosity: u8) -> &'static str {
    match verbosity {
        0..=3 => "info",
        4 => "info,kruise=debug",
        _ => "debug,kruise=trace",
    }
}
