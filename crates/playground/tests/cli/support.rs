//! The kruise-sandbox binary, started and ended as a user would.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A directory of its own, removed at the end.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("kruise-sandbox-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&dir));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A running sandbox; killed when dropped.
pub(crate) struct Sandbox {
    pub(crate) kubeconfig: PathBuf,
    /// What it has printed about what to do next.
    pub(crate) told: Vec<String>,
    /// From the start of the process until it had told.
    pub(crate) usable_after: Duration,
    process: Child,
}

impl Sandbox {
    /// Starts one whose files are in `dir`, and waits until it has told what to do next.
    pub(crate) fn start(dir: &Path, flags: &[&str]) -> Self {
        let kubeconfig = dir.join("kubeconfig");
        let begun = Instant::now();
        let mut process = Command::new(env!("CARGO_BIN_EXE_kruise-sandbox"))
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(flags)
            .env("XDG_RUNTIME_DIR", dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let told: Vec<String> = lines.take(3).map(Result::unwrap).collect();
        let usable_after = begun.elapsed();
        assert_eq!(told.len(), 3, "it ended before it was usable: {told:?}");
        Self { kubeconfig, told, usable_after, process }
    }

    /// Asks it to end, and returns whether it did so well.
    pub(crate) fn interrupt(mut self) -> bool {
        self.signal("-INT");
        self.process.wait().unwrap().success()
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.process.id().to_string()).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
