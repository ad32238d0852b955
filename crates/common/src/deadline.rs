//! When something is due, and times as they are on the wire.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Until `seconds` after `start`; zero if that is past.
pub fn until(start: Timestamp, seconds: i64, now: Timestamp) -> Duration {
    let at = i128::from(start.as_second()).saturating_add(i128::from(seconds)).saturating_mul(1000);
    let left = at.saturating_add(i128::from(start.subsec_millisecond())) - i128::from(now.as_millisecond());
    Duration::from_millis(u64::try_from(left.max(0)).unwrap_or(u64::MAX / 2))
}

/// Times on the wire have no fractions.
pub fn whole_seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_past_is_due_and_what_never_comes_is_far_away() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        assert_eq!(until(at(10), 5, at(12)), Duration::from_secs(3));
        assert_eq!(until(at(10), 5, at(15)), Duration::ZERO);
        assert_eq!(until(at(10), 5, at(99)), Duration::ZERO);
        assert_eq!(until(at(10), -5, at(10)), Duration::ZERO);
        assert!(until(at(10), i64::MAX, at(10)) > Duration::from_hours(1_000_000));
    }
}
