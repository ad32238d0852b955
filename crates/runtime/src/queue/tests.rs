use futures::FutureExt;
use prometheus::TextEncoder;

use super::*;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

fn queue(limit: RateLimit) -> WorkQueue {
    WorkQueue::new(limit, QueueMetrics::register(&Registry::new(), "test-controller").unwrap())
}

fn plain() -> WorkQueue {
    queue(RateLimit::default())
}

/// The next key if there is one right now.
fn at_once(queue: &WorkQueue) -> Option<Claim> {
    queue.next().now_or_never().flatten()
}

/// How long it takes until the next key is there.
async fn wait(queue: &WorkQueue) -> Duration {
    let started = Instant::now();
    queue.next().await.unwrap();
    started.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_key_waits_once_and_keys_come_in_order() {
    let queue = plain();
    for name in ["a", "b", "a"] {
        queue.add(key(name));
    }
    assert_eq!(queue.len(), 2);
    assert_eq!(at_once(&queue).unwrap().key(), &key("a"));
    assert_eq!(at_once(&queue).unwrap().key(), &key("b"));
    assert!(at_once(&queue).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_key_is_worked_on_once_at_a_time_and_again_if_it_changed_meanwhile() {
    let queue = plain();
    queue.add(key("a"));
    let claim = at_once(&queue).unwrap();
    queue.add(key("a"));
    queue.add(key("a"));
    assert!(at_once(&queue).is_none());
    drop(claim);
    assert_eq!(at_once(&queue).unwrap().key(), &key("a"));
    assert!(at_once(&queue).is_none());
}

#[tokio::test(start_paused = true)]
async fn of_several_delays_the_earliest_holds() {
    let queue = plain();
    queue.add_after(key("a"), Duration::from_mins(1));
    queue.add_after(key("a"), Duration::from_secs(20));
    queue.add_after(key("a"), Duration::from_secs(40));
    assert_eq!(wait(&queue).await.as_secs(), 20);
    assert!(tokio::time::timeout(Duration::from_secs(100), queue.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_worker_wakes_for_a_nearer_time_and_for_an_addition() {
    let queue = plain();
    queue.add_after(key("late"), Duration::from_mins(1));
    let waiter = tokio::spawn({
        let queue = queue.clone();
        async move { (wait(&queue).await.as_secs(), wait(&queue).await.as_secs()) }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    queue.add_after(key("soon"), Duration::from_secs(4));
    tokio::time::sleep(Duration::from_secs(10)).await;
    queue.add(key("now"));
    assert_eq!(waiter.await.unwrap(), (5, 6));
}

#[tokio::test(start_paused = true)]
async fn back_off_doubles_up_to_its_limit_and_starts_over_when_forgotten() {
    let queue = queue(RateLimit { max: Duration::from_millis(30), ..RateLimit::default() });
    let mut delays = Vec::new();
    for _ in 0..5 {
        queue.add_rate_limited(key("a"));
        delays.push(wait(&queue).await.as_millis());
    }
    assert_eq!(delays, [5, 10, 20, 30, 30]);
    queue.forget(&key("a"));
    queue.add_rate_limited(key("a"));
    assert_eq!(wait(&queue).await.as_millis(), 5);
}

#[test]
fn back_off_of_the_default_flags_ends_at_a_thousand_seconds() {
    let limit = RateLimit::default();
    let delays = [0, 1, 10, 17, 18, 31, 32, u32::MAX].map(|failures| limit.backoff(failures).as_millis());
    assert_eq!(delays, [5, 10, 5_120, 655_360, 1_000_000, 1_000_000, 1_000_000, 1_000_000]);
}

#[tokio::test(start_paused = true)]
async fn all_keys_share_a_rate_once_the_burst_is_used_up() {
    let limit = RateLimit { burst: 2, ..RateLimit::default() };
    let mut bucket = TokenBucket { tokens: 2.0, filled: Instant::now() };
    let mut reserve = || bucket.reserve(&limit, Instant::now()).as_millis();
    assert_eq!([reserve(), reserve(), reserve(), reserve()], [0, 0, 100, 200]);
    tokio::time::advance(Duration::from_mins(1)).await;
    assert_eq!([reserve(), reserve(), reserve()], [0, 0, 100]);

    let queue = queue(limit);
    for name in ["a", "b", "c"] {
        queue.add_rate_limited(key(name));
    }
    assert_eq!(wait(&queue).await.as_millis(), 5);
    assert_eq!(wait(&queue).await.as_millis(), 0);
    assert_eq!(wait(&queue).await.as_millis(), 95);
}

#[tokio::test(start_paused = true)]
async fn a_shut_queue_hands_out_nothing() {
    let queue = plain();
    let waiter = tokio::spawn({
        let queue = queue.clone();
        async move { queue.next().await.is_none() }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    queue.shut_down();
    assert!(waiter.await.unwrap());
    queue.add(key("a"));
    queue.add_after(key("a"), Duration::ZERO);
    assert!(queue.next().await.is_none());
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn metrics_carry_the_names_dashboards_use() {
    let registry = Registry::new();
    let queue = WorkQueue::new(
        RateLimit::default(),
        QueueMetrics::register(&registry, "cloneset-controller").unwrap(),
    );
    QueueMetrics::register(&registry, "other-controller").unwrap();
    assert!(QueueMetrics::register(&registry, "other-controller").is_err());
    for name in ["a", "b", "b", "c"] {
        queue.add(key(name));
    }
    queue.add_after(key("d"), Duration::from_mins(1));
    let _first = queue.next().await.unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    let _second = queue.next().await.unwrap();
    tokio::time::advance(Duration::from_secs(3)).await;
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    for line in [
        "workqueue_depth{LABELS} 1",
        "workqueue_adds_total{LABELS} 3",
        "workqueue_retries_total{LABELS} 1",
        "workqueue_queue_duration_seconds_sum{LABELS} 2",
        "workqueue_work_duration_seconds_count{LABELS} 0",
        "workqueue_unfinished_work_seconds{LABELS} 8",
        "workqueue_longest_running_processor_seconds{LABELS} 5",
    ] {
        let line = line.replace("LABELS", r#"controller="cloneset-controller",name="cloneset-controller""#);
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}
