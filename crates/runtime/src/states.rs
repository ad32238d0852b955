//! How many there are of something, by how far it is. Asked for when it is scraped, and free of charge in between.

use std::fmt;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts, Registry};

type Counts<const N: usize> = Box<dyn Fn() -> [(&'static str, usize); N] + Send + Sync>;

/// A gauge with the label `state`.
pub struct States<const N: usize> {
    gauge: IntGaugeVec,
    counts: Counts<N>,
}

impl<const N: usize> fmt::Debug for States<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("States").field("gauge", &self.gauge).finish_non_exhaustive()
    }
}

impl<const N: usize> States<N> {
    /// A gauge in `registry` that shows what `counts` says: every state, also those that nothing is in.
    ///
    /// # Errors
    /// The name is taken.
    pub fn register(
        registry: &Registry,
        (name, about): (&str, &str),
        counts: impl Fn() -> [(&'static str, usize); N] + Send + Sync + 'static,
    ) -> prometheus::Result<()> {
        let gauge = IntGaugeVec::new(Opts::new(name, about), &["state"])?;
        registry.register(Box::new(Self { gauge, counts: Box::new(counts) }))
    }
}

impl<const N: usize> Collector for States<N> {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (state, count) in (self.counts)() {
            self.gauge.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn every_scrape_tells_what_there_is_then() {
        let (registry, there) = (Registry::new(), Arc::new(AtomicUsize::new(2)));
        let count = Arc::clone(&there);
        let counts = move || [("running", count.load(Ordering::Relaxed)), ("ended", 0)];
        States::register(&registry, ("x", "x"), counts).unwrap();
        let scrape = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(scrape().contains("x{state=\"ended\"} 0\nx{state=\"running\"} 2\n"), "{}", scrape());
        there.store(1, Ordering::Relaxed);
        assert!(scrape().contains("x{state=\"running\"} 1\n"), "{}", scrape());
        assert!(States::register(&registry, ("x", "x"), || [("running", 0)]).is_err(), "the name is taken");
    }
}
