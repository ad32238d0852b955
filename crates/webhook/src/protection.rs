//! What is told of refused deletions: a counter, and a line in `protection.log` for those who audit.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use prometheus::{IntCounterVec, Opts, Registry};
use serde::Serialize;

/// Name of the file in the directory that `--protection-log-path` names.
const FILE: &str = "protection.log";

/// Why a deletion was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum Event {
    /// The label `policy.kruise.io/delete-protection`.
    DeletionProtection,
    /// A PodUnavailableBudget.
    PodUnavailableBudget,
}

/// One refused deletion, in the words of `protection.log`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Refusal<'a> {
    /// Why.
    pub event: Event,
    /// Kind of the object.
    pub kind: &'a str,
    /// Its namespace; empty for what has none.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Who wanted to delete it.
    #[serde(rename = "UserAgent")]
    pub user: &'a str,
}

/// Where refusals are written to.
#[derive(Debug, Default)]
pub struct ProtectionLog {
    /// The file, or none when refusals go to the log of the process.
    file: Option<Mutex<File>>,
}

impl ProtectionLog {
    /// Appends to `protection.log` in this directory; to the log of the process when that cannot be written, or when
    /// the path is empty.
    pub fn open(directory: &str) -> Self {
        if directory.is_empty() {
            return Self::default();
        }
        let directory = Path::new(directory);
        let opened = std::fs::create_dir_all(directory)
            .and_then(|()| OpenOptions::new().create(true).append(true).open(directory.join(FILE)));
        match opened {
            Ok(file) => Self { file: Some(Mutex::new(file)) },
            Err(error) => {
                tracing::info!(%error, directory = %directory.display(), "refused deletions are told in this log");
                Self::default()
            }
        }
    }

    /// Writes one line. A refusal is rare and the line short, so the caller waits for the write.
    pub fn write(&self, refusal: &Refusal<'_>) {
        let mut line = match serde_json::to_string(refusal) {
            Ok(line) => line,
            Err(error) => return tracing::error!(%error, "a refusal has no JSON"),
        };
        let Some(file) = &self.file else { return tracing::info!(refusal = line, "a deletion was refused") };
        line.push('\n');
        let written = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
        if let Err(error) = written {
            tracing::warn!(%error, refusal = line.trim_end(), "a deletion was refused, and {FILE} cannot be written");
        }
    }
}

/// What the webhooks of all workloads tell of refused deletions.
#[derive(Debug)]
pub struct Protection {
    /// `workload_deletion_protection`.
    workloads: IntCounterVec,
    log: ProtectionLog,
}

impl Protection {
    /// Registers the counter.
    ///
    /// # Errors
    /// It is registered already.
    pub fn register(registry: &Registry, log: ProtectionLog) -> prometheus::Result<Self> {
        let about = "Deletions of workloads that were refused";
        let labels = ["kind_namespace_name", "username"];
        let workloads = IntCounterVec::new(Opts::new("workload_deletion_protection", about), &labels)?;
        registry.register(Box::new(workloads.clone()))?;
        Ok(Self { workloads, log })
    }

    /// Tells that a workload was not deleted because of its label. Not for dry runs: nothing was attempted.
    pub fn refused_workload(&self, kind: &str, namespace: &str, name: &str, user: &str) {
        self.counter(kind, namespace, name, user).inc();
        self.log.write(&Refusal { event: Event::DeletionProtection, kind, namespace, name, user });
    }

    /// How often that was told of this workload and user.
    pub fn refusals(&self, kind: &str, namespace: &str, name: &str, user: &str) -> u64 {
        self.counter(kind, namespace, name, user).get()
    }

    fn counter(&self, kind: &str, namespace: &str, name: &str, user: &str) -> prometheus::IntCounter {
        let key = format!("{kind}_{namespace}_{name}");
        self.workloads.with_label_values(&[key.as_str(), user])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSAL: Refusal<'_> = Refusal {
        event: Event::DeletionProtection,
        kind: "CloneSet",
        namespace: "shop",
        name: "web",
        user: "jane",
    };

    fn directory(name: &str) -> std::path::PathBuf {
        let directory = std::env::temp_dir().join(format!("kruise-protection-{}-{name}", std::process::id()));
        // Of an earlier run with the same process id, if anything.
        let _ = std::fs::remove_dir_all(&directory);
        directory
    }

    #[test]
    fn each_refusal_is_one_line_after_those_of_earlier_processes() {
        let directory = directory("lines");
        let path = directory.join("logs");
        let registry = Registry::new();
        let log = ProtectionLog::open(path.to_str().unwrap());
        let protection = Protection::register(&registry, log).unwrap();
        protection.refused_workload("CloneSet", "shop", "web", "jane");
        assert_eq!(protection.refusals("CloneSet", "shop", "web", "jane"), 1);
        drop(protection);
        ProtectionLog::open(path.to_str().unwrap()).write(&Refusal { name: "db", ..REFUSAL });
        let line = |name: &str| {
            format!(
                r#"{{"Event":"DeletionProtection","Kind":"CloneSet","Namespace":"shop","Name":"{name}","UserAgent":"jane"}}"#
            )
        };
        let text = std::fs::read_to_string(path.join(FILE)).unwrap();
        assert_eq!(text, format!("{}\n{}\n", line("web"), line("db")));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_sends_refusals_to_the_log_of_the_process() {
        let directory = directory("file");
        std::fs::write(&directory, "in the way").unwrap();
        let log = ProtectionLog::open(directory.join("below").to_str().unwrap());
        assert!(log.file.is_none());
        log.write(&REFUSAL);
        std::fs::remove_file(directory).unwrap();
    }
}
