use super::*;

#[test]
fn durations_are_written_as_go_writes_them() {
    for (millis, text) in [
        (0, "0s"),
        (23, "0.023s"),
        (1500, "1.5s"),
        (60_000, "1m0s"),
        (125_250, "2m5.25s"),
        (3_600_000, "1h0m0s"),
        (7_384_100, "2h3m4.1s"),
    ] {
        assert_eq!(go_duration(Duration::from_millis(millis)), text);
    }
}

#[tokio::test(start_paused = true)]
async fn statuses_are_written_every_two_seconds_with_five_at_once() {
    let mut budget = Budget::new();
    let start = Instant::now();
    for _ in 0..5 {
        assert_eq!(budget.take(start), Ok(()));
    }
    assert_eq!(budget.take(start), Err(REFILL));
    assert_eq!(budget.take(start + Duration::from_millis(500)), Err(Duration::from_millis(1500)));
    assert_eq!(budget.take(start + REFILL), Ok(()));
    assert!(budget.take(start + REFILL).is_err());
    let later = start + Duration::from_hours(1);
    let taken = (0..10).filter(|_| budget.take(later).is_ok()).count();
    assert_eq!(taken, 5);
}
