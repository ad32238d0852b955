//! Figures of what ends: how often it ended how, and how long it took.

use jiff::Timestamp;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// Things of one kind that have ended, by result.
#[derive(Clone, Debug)]
pub struct Outcomes {
    total: IntCounterVec,
    seconds: HistogramVec,
}

/// How the figures are called, and what they say.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Of the counter.
    pub total: &'static str,
    /// What it counts.
    pub about_total: &'static str,
    /// Of the histogram.
    pub seconds: &'static str,
    /// What it measures.
    pub about_seconds: &'static str,
    /// Bounds of the histogram, in seconds.
    pub buckets: &'static [f64],
}

impl Outcomes {
    /// Counters in `registry`, at zero for both results.
    ///
    /// # Errors
    /// A name is taken.
    pub fn register(registry: &Registry, names: Names) -> prometheus::Result<Self> {
        let seconds = HistogramOpts::new(names.seconds, names.about_seconds).buckets(names.buckets.to_vec());
        let outcomes = Self {
            total: IntCounterVec::new(Opts::new(names.total, names.about_total), &["result"])?,
            seconds: HistogramVec::new(seconds, &["result"])?,
        };
        for succeeded in [true, false] {
            outcomes.total.with_label_values(&[result(succeeded)]);
        }
        registry.register(Box::new(outcomes.total.clone()))?;
        registry.register(Box::new(outcomes.seconds.clone()))?;
        Ok(outcomes)
    }

    /// Counts one. Clocks that disagree make no negative times.
    pub fn ended(&self, succeeded: bool, start: Timestamp, end: Timestamp) {
        let result = [result(succeeded)];
        self.total.with_label_values(&result).inc();
        self.seconds.with_label_values(&result).observe(end.duration_since(start).as_secs_f64().max(0.0));
    }

    /// How many ended so, and how many seconds these took in all.
    pub fn so_far(&self, succeeded: bool) -> (u64, f64) {
        let result = [result(succeeded)];
        (
            self.total.with_label_values(&result).get(),
            self.seconds.with_label_values(&result).get_sample_sum(),
        )
    }
}

fn result(succeeded: bool) -> &'static str {
    if succeeded { "succeeded" } else { "failed" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_results_are_there_from_the_start_and_no_time_is_negative() {
        let (registry, names) = (
            Registry::new(),
            Names {
                total: "x_total",
                about_total: "x",
                seconds: "x_seconds",
                about_seconds: "x",
                buckets: &[1.0],
            },
        );
        let outcomes = Outcomes::register(&registry, names).unwrap();
        let totals = registry.gather().into_iter().find(|family| family.name() == "x_total").unwrap();
        assert_eq!(totals.get_metric().len(), 2);
        let at = |second| Timestamp::from_second(second).unwrap();
        outcomes.ended(true, at(10), at(12));
        outcomes.ended(true, at(10), at(9));
        assert_eq!(outcomes.so_far(true), (2, 2.0));
        assert_eq!(outcomes.so_far(false), (0, 0.0));
        assert!(Outcomes::register(&registry, names).is_err());
    }
}
