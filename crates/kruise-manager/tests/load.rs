//! The load driver measures a manager: a small run of everything, against the sandbox.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "all of this is a test")]

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum as _;
use kruise_load::{Backend, Options, Phase, run};

const PODS: u32 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn every_phase_is_played_and_measured() {
    let options = Options {
        backend: Backend::Sandbox,
        manager: PathBuf::from(env!("CARGO_BIN_EXE_kruise-manager")),
        // The next leader has not to wait for long.
        flags: ["lease-duration=3s", "renew-deadline=2s", "retry-period=500ms"]
            .map(|flag| format!("--leader-election-{flag}"))
            .to_vec(),
        pods: PODS,
        sets: 2,
        nodes: 2,
        phases: Phase::value_variants().to_vec(),
        idle: Duration::from_secs(1),
        quiet: Duration::from_secs(3),
        admissions: 20,
        patience: Duration::from_mins(1),
    };
    let report = run(&options).await.unwrap_or_else(|error| panic!("{error:#}"));
    let played: Vec<Phase> = report.phases.iter().map(|measured| measured.phase).collect();
    assert_eq!(played, Phase::value_variants(), "{report}");
    let measured = |phase: Phase| report.phases.iter().find(|measured| measured.phase == phase).unwrap();

    let created = |phase: Phase| {
        let asked = ("create".to_owned(), "pods".to_owned());
        measured(phase).requests.get(&asked).copied().unwrap_or_default()
    };
    assert_eq!(created(Phase::ScaleOut), u64::from(PODS), "{report}");
    assert_eq!((created(Phase::InPlace), created(Phase::Recreate)), (0, 10), "{report}");
    assert_eq!(measured(Phase::ScaleIn).pods, 18, "{report}");
    // A round of rest writes nothing, and a new manager has nothing to correct.
    assert_eq!(measured(Phase::Quiet).writes(), 0, "{report}");
    assert_eq!(
        measured(Phase::Restart).pod_writes() + measured(Phase::Restart).status_writes(),
        0,
        "{report}"
    );
    assert!(report.phases.iter().all(|measured| measured.resident > 1 << 20), "{report}");
    assert!(
        measured(Phase::ScaleOut).rounds.is_some() && measured(Phase::Admission).admission.is_some(),
        "{report}"
    );
    assert_eq!(report.admission.len(), 8, "{report}");
}
