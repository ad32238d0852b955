//! Random histories. `SIM_SEED=n` replays one, `SIM_HISTORIES=n` says how many are played (2,000 by default),
//! `SIM_START=n` where they start.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kruise_simulator::history::cloneset::{Edit, Start, Step};
use kruise_simulator::history::{self, Amount, Fault, History, Subject};
use kruise_simulator::mistake::Mistake;
use kruise_simulator::run::{Failure, run};
use kruise_simulator::shrink::shrink;

/// Histories are made of many small objects.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Plays the seeds on all cores; a failure that says so, if there is one.
fn failure(seeds: Range<u64>, mistake: Option<Mistake>, says: &str) -> Option<(History, Failure)> {
    let (next, found) = (AtomicU64::new(seeds.start), Mutex::new(None));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while found.lock().unwrap().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let history = History::of(seed);
                    if let Err(failure) = run(&history, mistake)
                        && failure.to_string().contains(says)
                    {
                        found.lock().unwrap().get_or_insert((history, failure));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

#[test]
fn every_history_keeps_its_promises_and_comes_to_rest() {
    let (start, count) = (number("SIM_START").unwrap_or(0), number("SIM_HISTORIES").unwrap_or(2_000));
    let seeds = number("SIM_SEED").map_or(start..start + count, |seed| seed..seed + 1);
    let begun = std::time::Instant::now();
    if let Some((history, found)) = failure(seeds.clone(), None, "") {
        let (small, reason) = shrink(&history, found, None);
        panic!(
            "{reason}\n{small}replay: SIM_SEED={} cargo test -p kruise-simulator --test histories every_history\n",
            history.seed
        );
    }
    println!("{} histories in {:.1} s", seeds.end - seeds.start, begun.elapsed().as_secs_f64());
}

/// Seeds among which every mistake must show.
const MISTAKE_SEEDS: Range<u64> = 0..400;

fn is_noticed(mistake: Mistake) {
    is_noticed_as(mistake, "");
}

/// A check may be shown to notice what another one notices as well: some history must fail with its words.
fn is_noticed_as(mistake: Mistake, says: &str) {
    let (history, found) = failure(MISTAKE_SEEDS, Some(mistake), says).unwrap_or_else(|| {
        panic!("{mistake:?} was not noticed in {} histories as: {says}", MISTAKE_SEEDS.end);
    });
    println!("{mistake:?}: {found}\n{history}");
    assert!(!matches!(found, Failure::Broken(_)), "{found}");
}

#[test]
fn a_manager_that_counts_surge_twice_is_noticed() {
    is_noticed(Mistake::CountSurgeTwice);
}

#[test]
fn a_manager_that_does_not_look_at_the_partition_is_noticed() {
    is_noticed(Mistake::IgnorePartition);
}

#[test]
fn a_manager_that_takes_all_pods_down_at_once_is_noticed() {
    is_noticed(Mistake::IgnoreMaxUnavailable);
}

#[test]
fn a_manager_that_forgets_its_own_writes_is_noticed() {
    is_noticed(Mistake::ForgetOwnWrites);
}

#[test]
fn a_manager_that_updates_more_pods_for_good_than_the_partition_lets_is_noticed() {
    let after = |seconds: u64, step: Step| (Duration::from_secs(seconds), history::Step::CloneSet(step));
    let history = History {
        subject: Subject::CloneSet(Start {
            replicas: 5,
            min_ready: 0,
            policy: "ReCreate",
            max_unavailable: Amount::Count(1),
            max_surge: Amount::Count(1),
        }),
        steps: vec![after(20, Step::Partition(Amount::Count(3))), after(20, Step::Template(Edit::Image(1)))],
        ..rollout()
    };
    assert_eq!(run(&history, None).err(), None);
    let failure = run(&history, Some(Mistake::SpendSurge)).unwrap_err();
    assert!(failure.to_string().contains("are updated in the end"), "{failure}");
}

#[test]
fn a_manager_that_does_not_wait_until_pods_are_available_is_noticed() {
    is_noticed_as(Mistake::IgnoreMinReady, "available where");
}

#[test]
fn a_manager_that_does_not_pause_a_rollout_is_noticed() {
    is_noticed_as(Mistake::IgnorePausedRollout, "was updated although the rollout is paused");
    let after = |seconds: u64, step: Step| (Duration::from_secs(seconds), history::Step::CloneSet(step));
    let recreating = History {
        subject: Subject::CloneSet(Start {
            replicas: 3,
            min_ready: 0,
            policy: "ReCreate",
            max_unavailable: Amount::Count(1),
            max_surge: Amount::Count(0),
        }),
        steps: vec![
            after(20, Step::Pause(true)),
            after(20, Step::Template(Edit::Image(1))),
            after(40, Step::Heal),
        ],
        ..rollout()
    };
    assert_eq!(run(&recreating, None).err(), None);
    let failure = run(&recreating, Some(Mistake::IgnorePausedRollout)).unwrap_err();
    assert!(failure.to_string().contains("although the rollout is paused"), "{failure}");
}

#[test]
fn a_manager_that_creates_pods_from_another_revision_than_it_says_is_noticed() {
    is_noticed_as(Mistake::CreateFromFirst, "and revision web-");
}

#[test]
fn a_manager_that_moves_the_label_and_not_the_image_is_noticed() {
    is_noticed_as(Mistake::OnlyLabel, "and revision web-");
}

#[test]
fn a_manager_that_starts_all_pods_of_a_broadcast_at_once_is_noticed() {
    is_noticed(Mistake::IgnoreParallelism);
}

#[test]
fn a_manager_that_does_not_pause_a_broadcast_is_noticed() {
    is_noticed(Mistake::IgnorePause);
}

#[test]
fn a_manager_that_completes_a_broadcast_as_soon_as_no_pod_is_active_is_noticed() {
    is_noticed_as(Mistake::CompleteEarly, "no pod has ended");
}

#[test]
fn a_manager_that_fails_a_broadcast_for_any_failed_pod_is_noticed() {
    is_noticed_as(Mistake::AlwaysFailFast, "failed for no reason");
}

#[test]
fn a_manager_that_does_not_count_the_last_pod_of_a_broadcast_is_noticed() {
    is_noticed_as(Mistake::MiscountTheLast, "an ended job's pods");
}

#[test]
fn a_manager_that_runs_beside_a_run_it_should_wait_for_is_noticed() {
    is_noticed(Mistake::AlwaysAllow);
}

#[test]
fn a_manager_that_never_runs_what_must_not_run_twice_is_noticed() {
    is_noticed_as(Mistake::ForbidForEver, "no tick was run");
}

#[test]
fn a_manager_that_leaves_out_every_other_run_is_noticed() {
    is_noticed_as(Mistake::RunEveryOther, "no tick was run");
}

#[test]
fn a_manager_that_remembers_runs_by_their_children_alone_is_noticed() {
    is_noticed(Mistake::ForgetRuns);
}

/// One rollout with everything: in place, recreated, scaled out and in.
fn rollout() -> History {
    let after = |seconds: u64, step: Step| (Duration::from_secs(seconds), history::Step::CloneSet(step));
    History {
        seed: 1,
        subject: Subject::CloneSet(Start {
            replicas: 3,
            min_ready: 0,
            policy: "InPlaceIfPossible",
            max_unavailable: Amount::Count(1),
            max_surge: Amount::Count(1),
        }),
        steps: vec![
            after(20, Step::Template(Edit::Image(1))),
            after(30, Step::Scale(4)),
            after(10, Step::Template(Edit::Env(1))),
            after(40, Step::Scale(2)),
        ],
        faults: Vec::new(),
        event_faults: Vec::new(),
        heartbeats: false,
    }
}

#[test]
fn a_rollout_survives_a_crash_before_and_after_every_request() {
    let plain = run(&rollout(), None).unwrap();
    assert!(plain.trace.len() > 20, "{:#?}", plain.trace);
    for number in 0..plain.requests {
        for fault in [Fault::DieBefore, Fault::DieAfter, Fault::LoseResponse, Fault::Internal] {
            let history = History { faults: vec![(number, fault)], ..rollout() };
            if let Err(failure) = run(&history, None) {
                panic!("{failure}\n{history}");
            }
        }
    }
}

#[test]
fn a_seed_plays_the_same_history_again() {
    for seed in 0..60 {
        let history = History::of(seed);
        let (first, second) = (run(&history, None).unwrap(), run(&history, None).unwrap());
        assert_eq!(first, second, "{history}");
    }
}
