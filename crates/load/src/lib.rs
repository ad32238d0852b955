//! A load driver: starts a cluster, runs a manager as a process of its own, plays phases of work and measures what each
//! of them costs: time, the manager's CPU and memory, and the requests the API server has got from it.
//!
//! The cluster is a real etcd, kube-apiserver, kube-controller-manager and kube-scheduler with simulated nodes, or the
//! sandbox for a quick run; or it is somebody else's, with whatever manager runs there. Everything listens on loopback,
//! lives in one temporary directory and is gone at the end.

mod admission;
mod cluster;
mod kubernetes;
mod manager;
mod metrics;
mod pki;
mod play;
mod process;
mod report;
mod requests;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

pub use play::run;
pub use report::{Admission, Measured, Raw, Report};
pub use requests::Requests;

/// What stands for the API server.
#[derive(Clone, Debug)]
pub enum Backend {
    /// Kubernetes, from the directory where `e2e/cluster/cluster build` has put its binaries.
    Kubernetes(PathBuf),
    /// The sandbox, inside this process.
    Sandbox,
    /// One that runs already, with the manager that is to be measured.
    Running(Running),
}

/// A cluster and a manager of somebody else's.
#[derive(Clone, Debug)]
pub struct Running {
    /// The cluster; whoever is in it may create namespaces, workloads and nodes.
    pub kubeconfig: PathBuf,
    /// The manager's process, on this machine.
    pub pid: u32,
    /// Where its metrics are, such as `http://127.0.0.1:8080/metrics`; latencies are not told without.
    pub metrics: Option<String>,
}

/// A piece of work that is measured by itself.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub enum Phase {
    /// Nothing there, nothing to do.
    Idle,
    /// From no pods to all of them.
    ScaleOut,
    /// A new image, in place, half of the pods at a time.
    InPlace,
    /// A new template, half of the pods recreated, half of them at a time.
    Recreate,
    /// A set of one pod is updated again and again, beside all others.
    Touch,
    /// Everything there, nothing to do.
    Quiet,
    /// A new manager while everything is there and right.
    Restart,
    /// The leader is killed while another manager waits.
    Failover,
    /// Down to a tenth.
    ScaleIn,
    /// CloneSets with large templates are created and updated, by one client and by sixteen.
    Admission,
}

/// What is played.
#[derive(Clone, Debug)]
pub struct Options {
    /// What stands for the API server.
    pub backend: Backend,
    /// The manager's binary; none is started for a cluster that has one.
    pub manager: PathBuf,
    /// More flags for it.
    pub flags: Vec<String>,
    /// How many pods there are, all together.
    pub pods: u32,
    /// How many CloneSets they belong to, in equal parts.
    pub sets: u32,
    /// How many nodes are simulated.
    pub nodes: u32,
    /// What is measured; always in the order of [`Phase`].
    pub phases: Vec<Phase>,
    /// How long [`Phase::Idle`] looks on.
    pub idle: Duration,
    /// How long [`Phase::Quiet`] looks on.
    pub quiet: Duration,
    /// How many CloneSets [`Phase::Admission`] creates each time.
    pub admissions: u32,
    /// How long any phase may take.
    pub patience: Duration,
}
