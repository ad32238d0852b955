use std::sync::Mutex;

use prometheus::TextEncoder;

use super::*;
use crate::queue::{QueueMetrics, RateLimit};

/// A controller at work, and the rounds it made: key, start and end in milliseconds.
struct Rig {
    queue: WorkQueue,
    registry: Registry,
    rounds: Arc<Mutex<Vec<(String, u128, u128)>>>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

/// Every round takes `takes`; `result` gives the result of a key's n-th round.
fn rig(
    workers: usize,
    takes: Duration,
    result: fn(&str, usize) -> Result<Requeue, Failed<anyhow::Error>>,
) -> Rig {
    let registry = Registry::new();
    let queue = WorkQueue::new(RateLimit::default(), QueueMetrics::register(&registry, "test").unwrap());
    let metrics = ControllerMetrics::register(&registry, "test").unwrap();
    let rounds = Arc::new(Mutex::new(Vec::<(String, u128, u128)>::new()));
    let (stop, stopped) = watch::channel(false);
    let origin = Instant::now();
    let log = Arc::clone(&rounds);
    let reconcile = move |key: ObjectKey| {
        let log = Arc::clone(&log);
        async move {
            let started = origin.elapsed().as_millis();
            tokio::time::sleep(takes).await;
            let nth = {
                let mut log = log.lock().unwrap();
                log.push((key.name.to_string(), started, origin.elapsed().as_millis()));
                log.iter().filter(|(name, ..)| **name == *key.name).count()
            };
            result(&key.name, nth)
        }
    };
    let task = tokio::spawn(run_controller("test", queue.clone(), workers, reconcile, metrics, stopped));
    Rig { queue, registry, rounds, stop, task }
}

impl Rig {
    async fn run_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Start times of a key's rounds.
    fn starts(&self, name: &str) -> Vec<u128> {
        self.rounds
            .lock()
            .unwrap()
            .iter()
            .filter(|(key, ..)| key == name)
            .map(|(_, start, _)| *start)
            .collect()
    }

    fn metrics(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap()
    }

    #[track_caller]
    fn exports(&self, line: &str) {
        let text = self.metrics();
        let line = format!("controller_runtime_{line}");
        assert!(text.lines().any(|exported| exported == line), "{line} is not in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn workers_share_keys_but_never_one_key() {
    let rig = rig(3, Duration::from_secs(10), |_, _| Ok(Requeue::None));
    for name in ["a", "b", "a"] {
        rig.queue.add(key(name));
    }
    rig.run_for(Duration::from_secs(1)).await;
    rig.exports(r#"active_workers{controller="test"} 2"#);
    rig.exports(r#"max_concurrent_reconciles{controller="test"} 3"#);
    rig.queue.add(key("a"));
    rig.queue.add(key("a"));
    rig.run_for(Duration::from_mins(1)).await;
    assert_eq!((rig.starts("a"), rig.starts("b")), (vec![0, 10_000], vec![0]));
    rig.exports(r#"active_workers{controller="test"} 0"#);
    rig.exports(r#"reconcile_time_seconds_sum{controller="test"} 30"#);
}

#[tokio::test(start_paused = true)]
async fn errors_back_off_by_doubling_until_a_success() {
    let rig = rig(1, Duration::ZERO, |_, nth| match nth {
        5 => Ok(Requeue::After(Duration::from_secs(1))),
        7 => Ok(Requeue::None),
        _ => Err(anyhow::anyhow!("not yet").into()),
    });
    rig.queue.add(key("a"));
    rig.run_for(Duration::from_mins(1)).await;
    let starts = rig.starts("a");
    let gaps: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Timers tick in milliseconds and each round's own sleep may take one.
    let expected = [5, 10, 20, 40, 1000, 5];
    assert_eq!(gaps.len(), expected.len(), "{gaps:?}");
    assert!(gaps.iter().zip(expected).all(|(gap, want)| gap.abs_diff(want) <= 1), "{gaps:?}");
    rig.exports(r#"reconcile_total{controller="test",result="error"} 5"#);
    rig.exports(r#"reconcile_total{controller="test",result="requeue_after"} 1"#);
    rig.exports(r#"reconcile_total{controller="test",result="success"} 1"#);
    rig.exports(r#"reconcile_errors_total{controller="test"} 5"#);
}

#[tokio::test(start_paused = true)]
async fn what_is_due_waits_for_no_back_off_and_brings_no_retry_forward_for_others() {
    let rig = rig(1, Duration::ZERO, |name, nth| {
        let due = (name == "due" && nth > 12).then_some(Duration::from_secs(3));
        Err(Failed { error: anyhow::anyhow!("never"), due })
    });
    for name in ["due", "other"] {
        rig.queue.add(key(name));
    }
    rig.run_for(Duration::from_mins(2)).await;
    let last_gap = |name: &str| {
        let starts = rig.starts(name);
        (starts[starts.len() - 1] - starts[starts.len() - 2]) / 1000
    };
    // The back-off is longer than this by then.
    assert_eq!((last_gap("due"), last_gap("other")), (3, 40));
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_retried_and_stops_nobody_else() {
    let rig = rig(1, Duration::ZERO, |name, nth| {
        assert!(name != "bad" || nth > 2, "bad luck");
        Ok(Requeue::None)
    });
    for name in ["bad", "good"] {
        rig.queue.add(key(name));
    }
    rig.run_for(Duration::from_mins(1)).await;
    assert_eq!((rig.starts("bad").len(), rig.starts("good").len()), (3, 1));
    rig.exports(r#"reconcile_panics_total{controller="test"} 2"#);
    rig.exports(r#"reconcile_errors_total{controller="test"} 2"#);
    rig.exports(r#"reconcile_total{controller="test",result="success"} 2"#);
    rig.exports(r#"active_workers{controller="test"} 0"#);
}

#[tokio::test(start_paused = true)]
async fn a_round_can_ask_for_the_next_one() {
    let rig = rig(2, Duration::ZERO, |_, nth| {
        Ok(if nth < 3 { Requeue::After(Duration::from_secs(30)) } else { Requeue::None })
    });
    rig.queue.add(key("a"));
    rig.run_for(Duration::from_mins(10)).await;
    let seconds: Vec<_> = rig.starts("a").iter().map(|start| start / 1000).collect();
    assert_eq!(seconds, [0, 30, 60]);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_rounds_in_flight_and_starts_no_more() {
    let rig = rig(1, Duration::from_secs(10), |_, _| Ok(Requeue::None));
    for name in ["a", "b"] {
        rig.queue.add(key(name));
    }
    rig.run_for(Duration::from_secs(1)).await;
    rig.stop.send(true).unwrap();
    rig.run_for(Duration::from_secs(1)).await;
    assert!(!rig.task.is_finished());
    rig.run_for(Duration::from_mins(1)).await;
    assert!(rig.task.is_finished());
    let rounds = rig.rounds.lock().unwrap().clone();
    assert_eq!(rounds.len(), 1);
    assert_eq!(rounds[0].0, "a");
}

#[test]
fn all_series_exist_before_the_first_round() {
    let registry = Registry::new();
    for name in ["a-controller", "b-controller"] {
        ControllerMetrics::register(&registry, name).unwrap();
    }
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    for result in RESULTS {
        let line =
            format!(r#"controller_runtime_reconcile_total{{controller="b-controller",result="{result}"}} 0"#);
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    assert!(
        text.contains(r#"controller_runtime_terminal_reconcile_errors_total{controller="a-controller"} 0"#)
    );
    assert!(text.contains(r#"reconcile_time_seconds_bucket{controller="a-controller",le="0.005"} 0"#));
}
