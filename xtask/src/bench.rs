//! Builds what is measured as it is shipped, and measures it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Flags of kruise-load with which it starts no manager of its own.
const RUNNING: &str = "--kubeconfig";

/// Runs kruise-load with these flags.
pub(crate) fn run(root: &Path, flags: &[String]) -> anyhow::Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let mut load = Command::new(cargo());
    // All default members, so that nothing is built with other features than tests are.
    load.current_dir(root).args(["run", "--quiet", "--locked", "--bin", "kruise-load", "--"]);
    let needs_none = flags.iter().any(|flag| flag.starts_with(RUNNING) || flag == "--help");
    if !needs_none && !flags.iter().any(|flag| flag.starts_with("--manager")) {
        load.arg("--manager").arg(manager(root, &target)?);
    }
    ensure!(load.args(flags).status()?.success(), "kruise-load has failed");
    Ok(())
}

/// A static binary, as the image holds it.
fn manager(root: &Path, target: &Path) -> anyhow::Result<PathBuf> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let built = Command::new(cargo())
        .current_dir(root)
        .args(["build", "--release", "--locked", "--package", "kruise-manager", "--target", &platform])
        // Naming the target keeps the flag away from build scripts and procedural macros.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .status()
        .context("cannot run cargo")?;
    ensure!(built.success(), "the manager cannot be built");
    Ok(target.join(platform).join("release/kruise-manager"))
}

fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
