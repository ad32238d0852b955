//! The process's own metrics and the registry that everything else registers with.

use std::fs;
use std::sync::Mutex;

use kruise_common::gates::FeatureGates;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;
/// Clock ticks per second in `/proc`, fixed by the kernel's interface on every architecture Kubernetes runs on.
pub(crate) const TICKS_PER_SECOND: f64 = 100.0;

/// Every metric of the process. Clones share one registry.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    is_leader: IntGauge,
    master_status: IntGaugeVec,
}

impl Metrics {
    /// A registry with the metrics of the process, its build and its gates.
    pub fn new(version: &str, revision: &str, gates: FeatureGates) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let is_leader = IntGauge::new("kruise_manager_is_leader", "1 if this replica is the leader, else 0")?;
        let master_status = IntGaugeVec::new(
            Opts::new("leader_election_master_status", "1 if this replica holds the named lease, else 0"),
            &["name"],
        )?;
        let build = IntGaugeVec::new(
            Opts::new("kruise_build_info", "Always 1; the labels tell what is running"),
            &["version", "revision"],
        )?;
        let features = IntGaugeVec::new(
            Opts::new("kruise_feature_enabled", "1 if the feature gate is on after all rules, else 0"),
            &["name", "stage"],
        )?;
        build.with_label_values(&[version, revision]).set(1);
        for (gate, enabled) in gates.iter() {
            features.with_label_values(&[gate.name(), gate.stage().as_str()]).set(i64::from(enabled));
        }
        registry.register(Box::new(build))?;
        registry.register(Box::new(features))?;
        registry.register(Box::new(ProcessCollector::new()?))?;
        Ok(Self { registry, is_leader, master_status })
    }

    /// Also shows who leads. For processes that take part in an election: who counts these series counts replicas.
    ///
    /// # Errors
    /// It is shown already.
    pub fn show_leadership(&self) -> prometheus::Result<()> {
        self.registry.register(Box::new(self.is_leader.clone()))?;
        self.registry.register(Box::new(self.master_status.clone()))
    }

    /// Where other parts of the process register their metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Shows whether this replica leads by the Lease of that name.
    pub fn set_leader(&self, lease: &str, leads: bool) {
        self.is_leader.set(i64::from(leads));
        self.master_status.with_label_values(&[lease]).set(i64::from(leads));
    }

    /// 1 while this replica leads.
    pub fn leads(&self) -> IntGauge {
        self.is_leader.clone()
    }

    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "cannot encode metrics");
        }
        text
    }
}

/// `process_*`, read from `/proc/self` when asked for.
struct ProcessCollector {
    resident: Gauge,
    virtual_size: Gauge,
    open_fds: Gauge,
    start_time: Gauge,
    /// Locked while it is brought up to date, so that scrapes at the same time do not add up.
    cpu: Mutex<Counter>,
    descs: Vec<Desc>,
}

impl ProcessCollector {
    fn new() -> prometheus::Result<Self> {
        let resident = Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes.")?;
        let virtual_size = Gauge::new("process_virtual_memory_bytes", "Virtual memory size in bytes.")?;
        let open_fds = Gauge::new("process_open_fds", "Number of open file descriptors.")?;
        let start_time = Gauge::new(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
        )?;
        let cpu =
            Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")?;
        let descs = [resident.desc(), virtual_size.desc(), open_fds.desc(), start_time.desc(), cpu.desc()];
        let descs = descs.into_iter().flatten().cloned().collect();
        Ok(Self { resident, virtual_size, open_fds, start_time, cpu: Mutex::new(cpu), descs })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            for (field, gauge) in [("VmRSS:", &self.resident), ("VmSize:", &self.virtual_size)] {
                if let Some(kibibytes) = field_of(&status, field) {
                    gauge.set(kibibytes * 1024.0);
                    families.extend(gauge.collect());
                }
            }
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            self.open_fds.set(entries.count() as f64);
            families.extend(self.open_fds.collect());
        }
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(ProcessStat::parse)
        {
            if let Ok(cpu) = self.cpu.lock() {
                cpu.reset();
                cpu.inc_by(stat.cpu_ticks / TICKS_PER_SECOND);
                families.extend(cpu.collect());
            }
            let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| field_of(&text, "btime"));
            if let Some(boot) = boot {
                self.start_time.set(boot + stat.start_ticks / TICKS_PER_SECOND);
                families.extend(self.start_time.collect());
            }
        }
        families
    }
}

/// The number after `name` at the start of a line.
fn field_of(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// What is used of `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct ProcessStat {
    cpu_ticks: f64,
    start_ticks: f64,
}

impl ProcessStat {
    /// Fields are counted after the command, which may itself hold spaces and parentheses.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some(Self { cpu_ticks: number(11)? + number(12)?, start_ticks: number(19)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new("1.9.0", "abc", FeatureGates::default()).unwrap()
    }

    #[test]
    fn leadership_is_shown_under_both_names_where_there_is_an_election() {
        let metrics = metrics();
        assert!(!metrics.render().contains("leader"), "{}", metrics.render());
        metrics.show_leadership().unwrap();
        metrics.set_leader("kruise-manager", false);
        assert!(metrics.render().contains("\nkruise_manager_is_leader 0\n"));
        metrics.set_leader("kruise-manager", true);
        let text = metrics.render();
        assert!(text.contains("\nkruise_manager_is_leader 1\n"));
        assert!(text.contains("\nleader_election_master_status{name=\"kruise-manager\"} 1\n"));
    }

    #[test]
    fn build_and_gates_are_shown() {
        let text = metrics().render();
        assert!(text.contains("kruise_build_info{revision=\"abc\",version=\"1.9.0\"} 1\n"));
        assert!(text.contains("kruise_feature_enabled{name=\"PodWebhook\",stage=\"BETA\"} 1\n"));
        assert!(text.contains("kruise_feature_enabled{name=\"SidecarTerminator\",stage=\"ALPHA\"} 0\n"));
        assert_eq!(text.lines().filter(|line| line.starts_with("kruise_feature_enabled{")).count(), 36);
    }

    #[test]
    fn the_process_is_measured_and_cpu_time_does_not_add_up_over_scrapes() {
        let metrics = metrics();
        let value = |name: &str| field_of(&metrics.render(), name).unwrap();
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_start_time_seconds") > 1.0e9);
        let first = value("process_cpu_seconds_total");
        assert!(value("process_cpu_seconds_total") < first + 60.0);
        assert!(metrics.render().contains("# TYPE process_cpu_seconds_total counter"));
    }

    #[test]
    fn a_command_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 110 40 13 14 15 16 17 18 9000 20 21";
        assert_eq!(ProcessStat::parse(text), Some(ProcessStat { cpu_ticks: 150.0, start_ticks: 9000.0 }));
        assert_eq!(ProcessStat::parse("7 (a) S"), None);
    }
}
