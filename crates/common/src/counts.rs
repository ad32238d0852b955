//! Int-or-percent values and the counting rules of workloads.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a percentage that is no whole number of pods goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Round {
    /// To the next larger whole number.
    Up,
    /// To the next smaller whole number.
    Down,
}

/// A number of pods, or a share of all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum IntOrPercent {
    /// So many.
    Int(i32),
    /// So many of a hundred; fractions are allowed.
    Percent(f64),
}

impl IntOrPercent {
    /// Reads a field value: an integer, or a text that ends in `%`. A bare number as text is refused.
    pub fn parse(value: &IntOrString) -> Result<Self, String> {
        match value {
            IntOrString::Int(number) => Ok(Self::Int(*number)),
            IntOrString::String(text) => percent(text)
                .map(Self::Percent)
                .ok_or_else(|| format!("{text:?} is neither an integer nor a percentage such as \"20%\"")),
        }
    }

    /// The number of pods, out of `total`.
    pub fn resolve(self, total: i32, round: Round) -> i32 {
        match self {
            Self::Int(number) => number,
            Self::Percent(share) => {
                let exact = share * f64::from(total) / 100.0;
                let nearest = exact.round();
                // 64-bit floats hold no 0.1: what is a whole number but for that is one.
                if (exact - nearest).abs() < 1e-9 {
                    return nearest as i32;
                }
                match round {
                    Round::Up => exact.ceil() as i32,
                    Round::Down => exact.floor() as i32,
                }
            }
        }
    }
}

fn percent(text: &str) -> Option<f64> {
    let digits = text.strip_suffix('%')?;
    let unsigned = digits.strip_prefix(['-', '+']).unwrap_or(digits);
    let plain = unsigned.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let share: f64 = if plain { digits.parse().ok()? } else { return None };
    share.is_finite().then_some(share)
}

/// How many pods stay at the old revision, always within `0..=replicas`; `None` keeps none.
///
/// A percentage rounds up, but any other than 100% leaves at least one of several pods to be updated.
pub fn partition(value: Option<&IntOrPercent>, replicas: i32) -> i32 {
    let replicas = replicas.max(0);
    let kept = match value {
        None => 0,
        Some(IntOrPercent::Int(number)) => *number,
        Some(share @ IntOrPercent::Percent(percent)) => {
            let kept = share.resolve(replicas, Round::Up);
            let whole = (percent - 100.0).abs() < f64::EPSILON;
            if replicas > 1 && kept == replicas && !whole { replicas - 1 } else { kept }
        }
    };
    kept.clamp(0, replicas)
}

/// Sizes of the batches in which `total` calls are made: 1, 2, 4, …
pub fn slow_start(total: usize) -> impl Iterator<Item = usize> {
    let mut left = total;
    let mut next = 1_usize;
    std::iter::from_fn(move || {
        let size = next.min(left);
        left -= size;
        next = next.saturating_mul(2);
        (size > 0).then_some(size)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(value: &str) -> Result<IntOrPercent, String> {
        IntOrPercent::parse(&IntOrString::String(value.to_owned()))
    }

    #[test]
    fn only_integers_and_percentages_are_read() {
        assert_eq!(IntOrPercent::parse(&IntOrString::Int(3)), Ok(IntOrPercent::Int(3)));
        assert_eq!(text("20%"), Ok(IntOrPercent::Percent(20.0)));
        assert_eq!(text("12.5%"), Ok(IntOrPercent::Percent(12.5)));
        for refused in ["5", "", "%", "x%", "inf%", "nan%", "1e3%", "5 %", "1.2.3%", "%5"] {
            assert!(text(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn percentages_round_as_asked() {
        for (value, total, up, down) in [
            ("20%", 10, 2, 2),
            ("20%", 4, 1, 0),
            ("33%", 10, 4, 3),
            ("12.5%", 8, 1, 1),
            ("12.5%", 10, 2, 1),
            ("0.1%", 1000, 1, 1),
            ("7%", 100, 7, 7),
            ("0%", 10, 0, 0),
        ] {
            let value = text(value).unwrap();
            assert_eq!((value.resolve(total, Round::Up), value.resolve(total, Round::Down)), (up, down));
        }
        assert_eq!(IntOrPercent::Int(7).resolve(5, Round::Up), 7);
    }

    #[test]
    fn a_partition_below_100_percent_leaves_one_pod_to_update() {
        for (value, replicas, kept) in [
            ("99%", 5, 4),
            ("100%", 5, 5),
            ("1%", 5, 1),
            ("40%", 10, 4),
            ("0%", 5, 0),
            ("99%", 1, 1),
            ("150%", 4, 4),
            ("99%", 0, 0),
        ] {
            assert_eq!(partition(Some(&text(value).unwrap()), replicas), kept, "{value} of {replicas}");
        }
        assert_eq!(partition(None, 5), 0);
        assert_eq!(partition(Some(&IntOrPercent::Int(9)), 5), 5);
        assert_eq!(partition(Some(&IntOrPercent::Int(-1)), 5), 0);
    }

    #[test]
    fn batches_double() {
        assert_eq!(slow_start(10).collect::<Vec<_>>(), [1, 2, 4, 3]);
        assert_eq!(slow_start(0).count(), 0);
    }

    proptest! {
        #[test]
        fn a_partition_is_within_bounds(share in -10.0..200.0_f64, number in any::<i32>(), replicas in 0..5000) {
            prop_assert!((0..=replicas).contains(&partition(Some(&IntOrPercent::Percent(share)), replicas)));
            prop_assert!((0..=replicas).contains(&partition(Some(&IntOrPercent::Int(number)), replicas)));
        }

        #[test]
        fn rounding_differs_by_one_at_most(share in 0.0..100.0_f64, total in 0..5000) {
            let value = IntOrPercent::Percent(share);
            let (up, down) = (value.resolve(total, Round::Up), value.resolve(total, Round::Down));
            prop_assert!(up - down == 0 || up - down == 1);
            prop_assert!((0..=total).contains(&down) && (0..=total).contains(&up));
        }
    }
}
