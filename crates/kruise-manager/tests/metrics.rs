//! Documentation, dashboard, alerts and what a running manager registers name the same metrics.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "all of this is a test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kruise_manager::run::{self, Setup, Webhooks};
use kruise_runtime::client::ClientMetrics;
use kruise_sandbox::server::{Config, Server};
use kruise_webhook::options::WebhookOptions;
use prometheus::{IntCounterVec, Opts, Registry};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// How names of our metrics begin. `up` is Prometheus's own.
const PREFIXES: [&str; 11] = [
    "kruise_",
    "controller_runtime_",
    "workqueue_",
    "rest_client_",
    "leader_election_",
    "certwatcher_",
    "process_",
    "cloneset_",
    "workload_deletion_",
    "namespace_deletion_",
    "crd_deletion_",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Metrics in the tables of a chapter of the page: name, type and labels.
fn documented(chapter: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = read("docs/metrics.md");
    let (_, text) = page.split_once(&format!("\n## {chapter}\n")).expect("no such chapter");
    let text = text.split_once("\n## ").map_or(text, |(text, _)| text);
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let labels = cells[3].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let name = cells[1].trim_matches('`').to_owned();
        assert!(found.insert(name, (cells[2].to_owned(), labels)).is_none(), "told twice: {line}");
    }
    found
}

fn all_documented() -> BTreeSet<String> {
    documented("Manager").into_keys().chain(documented("Node agent").into_keys()).collect()
}

/// Names of metrics in a PromQL expression; what stands before `{` or `[` is one whatever it is called.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut quoted = false;
    let mut word = String::new();
    for character in expression.chars().chain([' ']) {
        quoted ^= character == '"';
        if !quoted && (character.is_ascii_alphanumeric() || character == '_') {
            word.push(character);
            continue;
        }
        let ours = PREFIXES.iter().any(|prefix| word.starts_with(prefix));
        if ours || (matches!(character, '{' | '[') && !word.is_empty()) {
            found.insert(std::mem::take(&mut word));
        }
        word.clear();
    }
    found.remove("up");
    found
}

/// Without what a histogram appends.
fn base(name: &str, known: &BTreeSet<String>) -> String {
    let suffixes = ["_bucket", "_sum", "_count"];
    let stripped = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
    stripped.filter(|base| known.contains(*base)).unwrap_or(name).to_owned()
}

/// Whether the registry holds a metric of this name, whatever its labels: another with the same name is refused.
fn is_registered(registry: &Registry, name: &str) -> bool {
    let probe = IntCounterVec::new(Opts::new(name, "A probe."), &["probe"]).unwrap();
    let taken = registry.register(Box::new(probe.clone())).is_err();
    if !taken {
        registry.unregister(Box::new(probe)).unwrap();
    }
    taken
}

/// The registry of a manager that runs, with everything on.
async fn running() -> (Registry, oneshot::Sender<()>, tokio::task::JoinHandle<anyhow::Result<()>>) {
    let server = Server::new(Config::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = WebhookOptions::from_env(&|_| None).unwrap();
    options.host = Some("127.0.0.1".to_owned());
    options.port = listener.local_addr().unwrap().port();
    options.certs_on_disk = true;
    options.cert_dir = std::env::temp_dir().join(format!("kruise-metrics-{}", std::process::id()));
    let flags = ["--workload-metrics", "--feature-gates=ImagePullJobGate=true"].map(str::to_owned);
    let clock = Arc::new(|| "2026-01-01T00:00:00Z".parse().unwrap());
    let setup = Setup::embedded(&flags, Webhooks::ServeOn(options, listener), clock, None).unwrap();
    let registry = setup.metrics.registry().clone();
    ClientMetrics::register(&registry).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move { drop(stopped.await) };
    let manager = tokio::spawn(run::run(setup, server.client_as("kruise-manager"), stopped));
    (registry, stop, manager)
}

#[tokio::test]
async fn every_metric_that_is_named_is_registered_and_every_registered_one_is_documented() {
    let (registry, stop, mut manager) = running().await;
    let begun = std::time::Instant::now();
    // A probe would be in the way of what is registered later.
    while !registry.gather().iter().any(|family| family.name() == "kruise_controller_running") {
        let ended = if manager.is_finished() { Some((&mut manager).await) } else { None };
        assert!(ended.is_none(), "the manager ended: {ended:?}");
        assert!(begun.elapsed() < Duration::from_mins(1), "the manager does not run");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let documented = documented("Manager");
    let missing: Vec<_> = documented.keys().filter(|name| !is_registered(&registry, name)).collect();
    assert!(missing.is_empty(), "documented and not registered: {missing:?}");
    for family in registry.gather() {
        let name = family.name();
        let Some((kind, labels)) = documented.get(name) else {
            panic!("registered and not documented: {name}")
        };
        let told = format!("{:?}", family.get_field_type()).to_lowercase();
        assert_eq!(*kind, told, "{name}");
        for metric in family.get_metric() {
            let has: BTreeSet<String> =
                metric.get_label().iter().map(|label| label.name().to_owned()).collect();
            assert_eq!(has, *labels, "labels of {name}");
        }
    }
    drop(stop);
    tokio::time::timeout(Duration::from_mins(1), manager).await.unwrap().unwrap().unwrap();
}

#[test]
fn dashboard_and_alerts_name_documented_metrics_only() {
    let known = all_documented();
    let mut expressions: Vec<(String, String)> = Vec::new();
    let dashboard: Value = serde_json::from_str(&read("charts/kruise/dashboards/kruise.json")).unwrap();
    assert_eq!(dashboard["uid"], "kruise-manager");
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push((panel["title"].to_string(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            expressions.push((variable["name"].to_string(), query.to_owned()));
        }
    }
    let alerts: Value = serde_yaml_ng::from_str(&read("charts/kruise/alerts/kruise.yaml")).unwrap();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        for text in ["summary", "description"] {
            let ends = rule["annotations"][text].as_str().is_some_and(|text| text.ends_with('.'));
            assert!(ends, "{name} has no sentence {text}");
        }
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["info", "warning", "critical"].contains(&severity), "{name}");
        expressions.push((name.to_owned(), rule["expr"].as_str().unwrap().to_owned()));
    }
    assert!(rules.len() > 10 && expressions.len() > 60);
    for (place, expression) in expressions {
        let named = metrics_in(&expression);
        assert!(!named.is_empty() || expression.contains("up{"), "{place}: {expression}");
        for metric in named {
            let metric = base(&metric, &known);
            assert!(known.contains(&metric), "{place} names {metric}, which is not documented");
        }
    }
}

#[test]
fn panels_of_managers_leave_agents_out_that_export_the_same_metrics() {
    let dashboard: Value = serde_json::from_str(&read("charts/kruise/dashboards/kruise.json")).unwrap();
    let managers = r#"job=~"(.+/)?kruise-controller-manager""#;
    let same = |name: &str| {
        name.starts_with("process_") || ["kruise_build_info", "kruise_feature_enabled"].contains(&name)
    };
    let (mut row, mut seen) = ("", BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        if panel["type"] == "row" {
            row = panel["title"].as_str().unwrap();
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            if row != "Node agents" && metrics_in(expression).iter().any(|name| same(name)) {
                assert!(expression.contains(managers), "{row}: {}: {expression}", panel["title"]);
                seen.insert(panel["title"].as_str().unwrap());
            }
        }
        if panel["title"] == "Replicas" {
            let expression = panel["targets"][0]["expr"].as_str().unwrap();
            assert!(expression.starts_with("count(kruise_manager_is_leader{"), "{expression}");
        }
    }
    assert_eq!(seen, BTreeSet::from(["CPU", "Gates on", "Memory", "Restarts, 1 h", "Version"]));
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["query"]["query"].as_str().unwrap_or_default();
        assert!(!metrics_in(query).iter().any(|name| same(name)), "{}: {query}", variable["name"]);
    }
}

#[test]
fn failures_of_webhooks_are_looked_for_in_verdicts_because_their_http_status_is_200() {
    let dashboard: Value = serde_json::from_str(&read("charts/kruise/dashboards/kruise.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let panel = panels.iter().find(|panel| panel["title"] == "Not answered with 200").unwrap();
    let alerts: Value = serde_yaml_ng::from_str(&read("charts/kruise/alerts/kruise.yaml")).unwrap();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    let alert = rules.iter().find(|rule| rule["alert"] == "KruiseWebhookFailing").unwrap();
    for (expression, codes) in
        [(&panel["targets"][0]["expr"], r#"code!="200""#), (&alert["expr"], r#"code=~"5..""#)]
    {
        let expression = expression.as_str().unwrap();
        assert!(expression.contains(&format!("kruise_webhook_verdicts_total{{{codes}")), "{expression}");
    }
}

/// Literals in product code that look like names of metrics.
fn in_sources(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            in_sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("tests.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]").next().unwrap_or_default();
            if !product.contains("prometheus") {
                continue;
            }
            let plain = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_';
            for literal in product.split('"').skip(1).step_by(2) {
                let named = PREFIXES.iter().any(|it| literal.starts_with(it) && literal.len() > it.len());
                if named && literal.chars().all(plain) {
                    found.insert(literal.to_owned());
                }
            }
        }
    }
}

#[test]
fn every_metric_in_the_sources_is_documented() {
    let known = all_documented();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let sources = entry.unwrap().path().join("src");
        if sources.is_dir() {
            in_sources(&sources, &mut found);
        }
    }
    assert!(found.len() > 30, "{found:?}");
    let missing: Vec<_> = found.difference(&known).collect();
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
    for name in documented("Node agent").keys() {
        assert!(found.contains(name), "documented and in no source: {name}");
    }
}

#[test]
fn names_are_found_in_expressions() {
    let found = |text: &str| metrics_in(text).into_iter().collect::<Vec<_>>();
    let division = r#"sum by (pod) (rate(a_total{code=~"kruise_x"}[5m])) / b_total[1m]"#;
    assert_eq!(found(division), ["a_total", "b_total"]);
    assert_eq!(found("min by (kind) (kruise_x_seconds) - time()"), ["kruise_x_seconds"]);
    assert!(found(r#"up{job="x"}"#).is_empty());
}
