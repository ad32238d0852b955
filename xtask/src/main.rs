//! `cargo xtask gen` writes the generated files, `cargo xtask tidy` checks the repository's own rules, `cargo xtask bench`
//! measures a release build of the manager under load.

mod bench;
mod generate;
mod tidy;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Generated files and repository rules")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write the files that are made from code.
    Gen {
        /// Write nothing; fail when a file is not what would be written.
        #[arg(long)]
        check: bool,
    },
    /// Check rules that neither the compiler nor clippy knows.
    Tidy,
    /// Build the manager for release and play load against it; `bench -- --help` tells how.
    Bench {
        /// Flags of kruise-load.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    let root = root()?;
    let complaints = match Arguments::parse().task {
        Task::Gen { check: false } => {
            generate::write(&root)?;
            Vec::new()
        }
        Task::Gen { check: true } => generate::stale(&root)?,
        Task::Tidy => tidy::check(&root)?,
        Task::Bench { flags } => {
            bench::run(&root, &flags)?;
            Vec::new()
        }
    };
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n"));
    }
    Ok(())
}

/// The workspace's directory.
fn root() -> anyhow::Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(own.parent().context("xtask has no parent directory")?.to_owned())
}
