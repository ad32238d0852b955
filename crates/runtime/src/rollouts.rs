//! How workloads stand, for Prometheus: how many roll out, what holds them up, and, where it is asked for, the figures
//! of each. Everything is read from the stores when it is scraped, and costs nothing in between.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use kruise_common::key::ObjectKey;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};

/// How far a workload is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Progress {
    /// Everything that shall be at the new revision is, and is available.
    Complete,
    /// On its way.
    Progressing,
    /// Stopped by its spec.
    Paused,
    /// Held up, with the reason of its condition `RolloutBlocked`.
    Blocked,
}

impl Progress {
    /// All of them, in the order of their names in metrics.
    pub const ALL: [Self; 4] = [Self::Complete, Self::Progressing, Self::Paused, Self::Blocked];

    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Progressing => "progressing",
            Self::Paused => "paused",
            Self::Blocked => "blocked",
        }
    }
}

/// The figures of one workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Figures {
    /// Namespace and name.
    pub key: ObjectKey,
    /// How far it is.
    pub progress: Progress,
    /// The reason of its condition `RolloutBlocked`.
    pub blocked: Option<String>,
    /// Pods wanted.
    pub spec_replicas: i64,
    /// Pods there are.
    pub replicas: i64,
    /// Pods that are ready.
    pub ready: i64,
    /// Pods that are available.
    pub available: i64,
    /// Pods at the new revision.
    pub updated: i64,
    /// Pods at the new revision that are ready.
    pub updated_ready: i64,
    /// Pods at the new revision that are available.
    pub updated_available: i64,
}

/// One of the figures.
type Figure = fn(&Figures) -> i64;

/// The metrics of each workload, without their prefix, and where their values are.
const EACH: [(&str, &str, Figure); 7] = [
    ("spec_replicas", "Pods that a workload asks for.", |it| it.spec_replicas),
    ("status_replicas", "Pods that a workload has.", |it| it.replicas),
    ("status_ready_replicas", "Pods of a workload that are ready.", |it| it.ready),
    ("status_available_replicas", "Pods of a workload that are available.", |it| it.available),
    ("status_updated_replicas", "Pods of a workload at its update revision.", |it| it.updated),
    ("status_updated_ready_replicas", "Ready pods of a workload at its update revision.", |it| {
        it.updated_ready
    }),
    ("status_updated_available_replicas", "Available pods of a workload at its update revision.", |it| {
        it.updated_available
    }),
];

type Source = Box<dyn Fn() -> Vec<Figures> + Send + Sync>;

/// Where figures come from, by kind. Clones share them.
#[derive(Clone, Default)]
pub struct Rollouts(Arc<Mutex<BTreeMap<&'static str, Source>>>);

impl fmt::Debug for Rollouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rollouts").finish_non_exhaustive()
    }
}

impl Rollouts {
    /// Has the workloads of a kind be told, by a function that reads a store.
    pub fn add(&self, kind: &'static str, figures: impl Fn() -> Vec<Figures> + Send + Sync + 'static) {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.insert(kind, Box::new(figures));
    }

    /// `kruise_rollouts` and `kruise_rollouts_blocked`, and the figures of each workload if they are wanted: these are
    /// as many series as there are workloads, seven times.
    ///
    /// # Errors
    /// The metric's own description is refused.
    pub fn collector(&self, each: bool) -> prometheus::Result<impl Collector + 'static> {
        let of_workload = |(name, about, value): (&str, &str, Figure)| {
            let opts = Opts::new(format!("kruise_workload_{name}"), about);
            IntGaugeVec::new(opts, &["kind", "namespace", "name"]).map(|gauge| (gauge, value))
        };
        let rollouts = Opts::new("kruise_rollouts", "Workloads by how far their rollout is.");
        let blocked = Opts::new("kruise_rollouts_blocked", "Workloads whose rollout is held up, by reason.");
        Ok(Progressing {
            sources: self.clone(),
            rollouts: IntGaugeVec::new(rollouts, &["kind", "state"])?,
            blocked: IntGaugeVec::new(blocked, &["kind", "reason"])?,
            each: EACH.into_iter().filter(|_| each).map(of_workload).collect::<Result<_, _>>()?,
        })
    }
}

/// Asks the stores when it is scraped.
struct Progressing {
    sources: Rollouts,
    rollouts: IntGaugeVec,
    blocked: IntGaugeVec,
    each: Vec<(IntGaugeVec, Figure)>,
}

impl Collector for Progressing {
    fn desc(&self) -> Vec<&Desc> {
        let each = self.each.iter().flat_map(|(gauge, _)| gauge.desc());
        self.rollouts.desc().into_iter().chain(self.blocked.desc()).chain(each).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Held to the end, so that scrapes at the same time do not mix.
        let sources = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.blocked.reset();
        self.each.iter().for_each(|(gauge, _)| gauge.reset());
        for (kind, figures) in sources.iter() {
            let figures = figures();
            for progress in Progress::ALL {
                let count = figures.iter().filter(|it| it.progress == progress).count();
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                self.rollouts.with_label_values(&[kind, progress.as_str()]).set(count);
            }
            for one in &figures {
                if let Some(reason) = &one.blocked {
                    self.blocked.with_label_values(&[kind, reason.as_str()]).inc();
                }
                for (gauge, value) in &self.each {
                    gauge.with_label_values(&[*kind, &*one.key.namespace, &*one.key.name]).set(value(one));
                }
            }
        }
        let each = self.each.iter().flat_map(|(gauge, _)| gauge.collect());
        self.rollouts.collect().into_iter().chain(self.blocked.collect()).chain(each).collect()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Registry, TextEncoder};

    use super::*;

    fn figures(name: &str, progress: Progress, blocked: Option<&str>) -> Figures {
        Figures {
            key: ObjectKey::new("default", name),
            progress,
            blocked: blocked.map(str::to_owned),
            spec_replicas: 5,
            replicas: 5,
            ready: 4,
            available: 4,
            updated: 3,
            updated_ready: 2,
            updated_available: 1,
        }
    }

    fn scrape(each: bool, workloads: Vec<Figures>) -> String {
        let (registry, rollouts) = (Registry::new(), Rollouts::default());
        rollouts.add("CloneSet", move || workloads.clone());
        registry.register(Box::new(rollouts.collector(each).unwrap())).unwrap();
        let once = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let twice = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert_eq!(once, twice, "a scrape must not add up");
        once
    }

    #[test]
    fn workloads_are_counted_by_state_and_reason() {
        let text = scrape(
            false,
            vec![
                figures("a", Progress::Blocked, Some("MaxUnavailable")),
                figures("b", Progress::Blocked, Some("MaxUnavailable")),
                figures("c", Progress::Complete, None),
            ],
        );
        for line in [
            r#"kruise_rollouts{kind="CloneSet",state="blocked"} 2"#,
            r#"kruise_rollouts{kind="CloneSet",state="complete"} 1"#,
            r#"kruise_rollouts{kind="CloneSet",state="paused"} 0"#,
            r#"kruise_rollouts_blocked{kind="CloneSet",reason="MaxUnavailable"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("kruise_workload_"), "{text}");
    }

    #[test]
    fn each_workload_is_told_where_that_is_wanted() {
        let text = scrape(true, vec![figures("a", Progress::Progressing, None)]);
        for (name, value) in [("spec_replicas", 5), ("status_updated_available_replicas", 1)] {
            let line =
                format!(r#"kruise_workload_{name}{{kind="CloneSet",name="a",namespace="default"}} {value}"#);
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
}
