//! What was measured, as Markdown.

use std::fmt::{self, Display, Write as _};

use crate::Phase;
use crate::metrics::Histogram;
use crate::requests::{Requests, is_write};

/// What bare clients can do on the same API server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw {
    /// Pods that were created.
    pub pods: u32,
    /// In how many seconds.
    pub seconds: f64,
}

/// What a phase has cost.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Which.
    pub phase: Phase,
    /// Pods that were to be touched.
    pub pods: u64,
    /// Until everything was as it should be.
    pub seconds: f64,
    /// Seconds of CPU that the manager has used.
    pub cpu: f64,
    /// The same of etcd, API server, controller manager and scheduler; `None` of those that were not started here.
    pub cluster_cpu: Option<f64>,
    /// Bytes of the manager's that were resident at the end.
    pub resident: u64,
    /// Of those, the ones that are no file's.
    pub anonymous: u64,
    /// Most bytes that were resident.
    pub peak: u64,
    /// What the manager has asked for.
    pub requests: Requests,
    /// Seconds that half and 99 % of the CloneSet controller's rounds took at most; `None` without any.
    pub rounds: Option<(f64, f64)>,
    /// The same of the answers of CloneSet webhooks.
    pub admission: Option<(f64, f64)>,
}

impl Measured {
    pub(crate) fn median_and_tail(histogram: &Histogram) -> Option<(f64, f64)> {
        Some((histogram.quantile(0.5)?, histogram.quantile(0.99)?))
    }

    /// Requests that change something, other than renewals of the Lease.
    pub fn writes(&self) -> u64 {
        let counts = |(verb, resource): &(String, String)| is_write(verb) && resource != "leases";
        self.requests.iter().filter(|(asked, _)| counts(asked)).map(|(_, times)| times).sum()
    }

    /// Writes of pods themselves.
    pub fn pod_writes(&self) -> u64 {
        let counts = |(verb, resource): &(String, String)| {
            is_write(verb) && (resource == "pods" || resource.starts_with("pods/"))
        };
        self.requests.iter().filter(|(asked, _)| counts(asked)).map(|(_, times)| times).sum()
    }

    /// Writes of the status of CloneSets.
    pub fn status_writes(&self) -> u64 {
        let counts = |(verb, resource): &(String, String)| is_write(verb) && resource == "clonesets/status";
        self.requests.iter().filter(|(asked, _)| counts(asked)).map(|(_, times)| times).sum()
    }
}

/// One way to ask for admission.
#[derive(Clone, Debug)]
pub struct Admission {
    /// What was asked for.
    pub what: &'static str,
    /// By how many clients at once.
    pub clients: usize,
    /// Requests in a second.
    pub rate: f64,
    /// Seconds that half of the requests took at most.
    pub median: f64,
    /// Seconds that 99 % took at most.
    pub tail: f64,
}

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Pods in the cluster.
    pub pods: u32,
    /// Their CloneSets.
    pub sets: u32,
    /// What bare clients can do.
    pub raw: Raw,
    /// In the order they were played.
    pub phases: Vec<Measured>,
    /// What admission costs whoever asks.
    pub admission: Vec<Admission>,
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn milliseconds(pair: Option<(f64, f64)>) -> String {
    pair.map_or_else(|| "–".to_owned(), |(median, tail)| format!("{:.1} / {:.1}", median * 1e3, tail * 1e3))
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Raw { pods, seconds } = self.raw;
        writeln!(
            f,
            "{} pods in {} CloneSets; {pods} pods of 16 bare clients: {seconds:.1} s",
            self.pods, self.sets
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "| Phase | Pods | Wall s | CPU s | CPU % | CPU ms a pod | Cluster CPU s | Resident MB (heap) | Peak MB | Pod writes a pod | \
             Status writes a s | Rounds p50 / p99 ms | Admission p50 / p99 ms |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        for phase in &self.phases {
            let each = |amount: f64| match phase.pods {
                0 => "–".to_owned(),
                pods => format!("{:.2}", amount / pods as f64),
            };
            writeln!(
                f,
                "| {:?} | {} | {:.2} | {:.2} | {:.2} | {} | {} | {:.1} ({:.1}) | {:.1} | {} | {:.2} | {} | {} |",
                phase.phase,
                phase.pods,
                phase.seconds,
                phase.cpu,
                100.0 * phase.cpu / phase.seconds,
                each(phase.cpu * 1e3),
                phase.cluster_cpu.map_or_else(|| "–".to_owned(), |cpu| format!("{cpu:.1}")),
                megabytes(phase.resident),
                megabytes(phase.anonymous),
                megabytes(phase.peak),
                each(phase.pod_writes() as f64),
                phase.status_writes() as f64 / phase.seconds,
                milliseconds(phase.rounds),
                milliseconds(phase.admission),
            )?;
        }
        writeln!(f, "\nRequests of the manager, watches apart:\n")?;
        for phase in &self.phases {
            let mut line = String::new();
            for ((verb, resource), times) in &phase.requests {
                let comma = if line.is_empty() { "" } else { ", " };
                write!(line, "{comma}{verb} {resource} {times}")?;
            }
            writeln!(f, "- {:?}: {}", phase.phase, if line.is_empty() { "none" } else { &line })?;
        }
        if !self.admission.is_empty() {
            writeln!(f, "\n| Admission | Clients | A second | p50 ms | p99 ms |\n|---|---|---|---|---|")?;
        }
        for Admission { what, clients, rate, median, tail } in &self.admission {
            writeln!(f, "| {what} | {clients} | {rate:.0} | {:.1} | {:.1} |", median * 1e3, tail * 1e3)?;
        }
        Ok(())
    }
}
