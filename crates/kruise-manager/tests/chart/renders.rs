//! What comes out of the chart for each file of values in its `ci` directory, compared with golden files.
//!
//! The golden file of `ci/default-values.yaml` holds every object; those of the others hold what differs from it. Of CRDs
//! they hold what the chart adds: the rest is compared with `crds/`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::Parser as _;
use kruise_manager::flags::Flags;
use serde_json::{Value, json};

use crate::helm::{Helm, Object, arguments, object};
use crate::{chart, differs, updating};

const DEFAULT: &str = "default";

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/chart/golden/{name}.yaml"))
}

/// Names of the files of values, and what they render.
fn cases(helm: &Helm) -> BTreeMap<String, Vec<Object>> {
    let mut cases = BTreeMap::new();
    for entry in fs::read_dir(chart().join("ci")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        let name = file.strip_suffix("-values.yaml").unwrap_or_else(|| panic!("{file} is not *-values.yaml"));
        let values = path.to_str().unwrap();
        assert_eq!(helm.lint(&["--values", values]), None, "{name}");
        let objects = helm.render(&["--values", values]).unwrap_or_else(|error| panic!("{name}: {error}"));
        cases.insert(name.to_owned(), objects);
    }
    cases
}

/// The object as golden files show it.
fn shown(object: &Object) -> String {
    if object.kind() != "CustomResourceDefinition" {
        return object.text.clone();
    }
    let mut value = object.value.clone();
    let conversion = value["spec"]["conversion"].take();
    value["spec"] = json!({"conversion": conversion});
    serde_yaml_ng::to_string(&value).unwrap()
}

#[test]
fn renders_are_as_golden_files_show_them() {
    let Some(helm) = Helm::find() else { return };
    let cases = cases(&helm);
    let default: BTreeMap<_, _> = cases[DEFAULT].iter().map(|object| (object.id(), shown(object))).collect();
    let mut stale = Vec::new();
    for (name, objects) in &cases {
        let own = |object: &&Object| name == DEFAULT || default.get(&object.id()) != Some(&shown(object));
        let mut text = String::from("# As rendered; what is as by default is left out.\n");
        let kept = |id: &String| objects.iter().any(|object| object.id() == *id);
        for id in default.keys().filter(|id| !kept(id)) {
            writeln!(text, "# Gone: {id}").unwrap();
        }
        for object in objects.iter().filter(own) {
            write!(text, "---\n{}", shown(object)).unwrap();
        }
        stale.extend(differs(&golden(name), &text));
    }
    for entry in fs::read_dir(golden(DEFAULT).parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if !cases.contains_key(path.file_stem().unwrap().to_str().unwrap()) {
            if updating() {
                fs::remove_file(&path).unwrap();
            } else {
                stale.push(format!("{} belongs to no values", path.display()));
            }
        }
    }
    assert!(stale.is_empty(), "{}", stale.join("\n"));
}

#[test]
fn crds_are_those_of_the_code_and_convert_where_the_manager_is() {
    let Some(helm) = Helm::find() else { return };
    let objects = helm.render(&["--set=installation.namespace=elsewhere"]).unwrap();
    let mut wanted = kruise_api::crd::all();
    wanted.sort_by_key(|crd| crd.metadata.name.clone());
    let rendered = objects.iter().filter(|object| object.kind() == "CustomResourceDefinition");
    assert_eq!(rendered.count(), wanted.len());
    for crd in wanted {
        let name = crd.metadata.name.clone().unwrap();
        let rendered = object(&objects, "CustomResourceDefinition", &name).unwrap();
        let mut spec = serde_json::to_value(crd.spec).unwrap();
        if let Some(service) = spec.pointer_mut("/conversion/webhook/clientConfig/service") {
            service["namespace"] = json!("elsewhere");
        }
        assert!(same(&rendered["spec"], &spec), "{name} is not as in crds/");
        assert_eq!(rendered["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
    let deleted = helm.render(&["--set=crds.keep=false"]).unwrap();
    let crd = object(&deleted, "CustomResourceDefinition", "clonesets.apps.kruise.io").unwrap();
    assert_eq!(crd["metadata"]["annotations"], Value::Null);
    for (none, job) in [("crds.managed=false", false), ("crds.mode=none", false), ("crds.mode=hook", true)] {
        let objects = helm.render(&["--set", none]).unwrap();
        assert!(objects.iter().all(|object| object.kind() != "CustomResourceDefinition"), "{none}");
        let hook = object(&objects, "Job", "kruise-crds");
        assert_eq!(hook.is_some(), job, "{none}");
        if let Some(hook) = hook {
            let command = &hook["spec"]["template"]["spec"]["containers"][0]["command"];
            assert_eq!(*command, json!(["/manager", "crds", "apply"]));
            assert_eq!(hook["metadata"]["annotations"]["helm.sh/hook"], "pre-install,pre-upgrade");
        }
    }
}

/// Equal, but for 0 and 0.0.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| same(one, other)))
        }
        (one, other) => one == other,
    }
}

fn deployment(helm: &Helm, more: &[&str]) -> Value {
    object(&helm.render(more).unwrap(), "Deployment", "kruise-controller-manager").unwrap().clone()
}

#[test]
fn by_default_the_arguments_are_those_of_openkruises_chart() {
    let Some(helm) = Helm::find() else { return };
    let objects = helm.render(&[]).unwrap();
    let manager = arguments(object(&objects, "Deployment", "kruise-controller-manager").unwrap());
    assert_eq!(
        manager,
        [
            "--enable-leader-election",
            "--metrics-addr=:8080",
            "--health-probe-addr=:8000",
            "--logtostderr=true",
            "--leader-election-namespace=kruise-system",
            "--v=4",
            "--feature-gates=ImagePullJobGate=true",
            "--sync-period=0",
        ]
    );
    let agents = arguments(object(&objects, "DaemonSet", "kruise-daemon").unwrap());
    assert_eq!(
        agents,
        [
            "--logtostderr=true",
            "--v=4",
            "--addr=:10221",
            "--feature-gates=ImagePullJobGate=true",
            "--socket-file=",
            "--enable-pprof=true",
            "--pprof-addr=localhost:10222",
        ]
    );
}

#[test]
fn openkruises_own_defaults_mean_what_they_mean_here() {
    let Some(helm) = Helm::find() else { return };
    let file = chart().join("ci/reference-values.yaml");
    let values: Value = serde_yaml_ng::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(values["daemon"]["credentialProvider"]["hostPath"], "credential-provider-plugin");
    // Only the image and the right to list everything are others by default.
    let set = "manager.image.repository=kruise.test/kruise-manager,manager.image.tag=,\
               installation.roleListGroups=null";
    let rendered = helm.render(&["--values", file.to_str().unwrap(), "--set", set]).unwrap();
    let default = helm.render(&[]).unwrap();
    assert_eq!(rendered.len(), default.len());
    for (rendered, default) in rendered.iter().zip(&default) {
        assert_eq!(rendered.text, default.text);
    }
}

#[test]
fn the_manager_reads_the_arguments_of_every_case() {
    let Some(helm) = Helm::find() else { return };
    for (name, objects) in cases(&helm) {
        let manager = object(&objects, "Deployment", "kruise-controller-manager").unwrap();
        let flags = Flags::try_parse_from(std::iter::once("manager".to_owned()).chain(arguments(manager)));
        let flags = flags.unwrap_or_else(|error| panic!("{name}: {error}"));
        let selection = kruise_manager::selection::Selection::parse(&flags.controllers).unwrap();
        let gates = kruise_common::gates::FeatureGates::parse(&flags.feature_gates).unwrap().gates;
        assert_eq!(selection.check(gates), Ok(()), "{name}");
    }
}

#[test]
fn controllers_that_are_off_become_an_argument_and_take_their_webhooks_with_them() {
    let Some(helm) = Helm::find() else { return };
    let objects = helm
        .render(&[
            "--set=controllers.cloneset.enabled=false,controllers.containerrecreaterequest.enabled=false",
        ])
        .unwrap();
    let manager = arguments(object(&objects, "Deployment", "kruise-controller-manager").unwrap());
    assert_eq!(manager.last().unwrap(), "--controllers=*,-cloneset,-crr");
    for kind in ["Mutating", "Validating"] {
        let name = format!("kruise-{}-webhook-configuration", kind.to_lowercase());
        let configuration = object(&objects, &format!("{kind}WebhookConfiguration"), &name).unwrap();
        let text = configuration.to_string();
        assert!(!text.contains("cloneset") && !text.contains("recreate"), "{text}");
        assert!(text.contains("imagepulljob"), "{text}");
    }
    assert!(object(&objects, "CustomResourceDefinition", "clonesets.apps.kruise.io").is_some());
}

#[test]
fn workers_of_one_controller_win_over_those_of_all() {
    let Some(helm) = Helm::find() else { return };
    let manager =
        arguments(&deployment(&helm, &["--set=controllers.workers=5,controllers.cloneset.workers=10"]));
    assert!(manager.contains(&"--cloneset-workers=10".to_owned()), "{manager:?}");
    assert!(manager.contains(&"--crr-workers=5".to_owned()), "{manager:?}");
}

#[test]
fn flags_that_have_values_of_their_own_are_set_by_them() {
    let Some(helm) = Helm::find() else { return };
    for (set, wanted) in [
        ("manager.pprofAddr=:8090", "--pprof-addr=:8090"),
        ("manager.enablePprof=false", "--enable-pprof=false"),
        ("metrics.workloadMetrics=true", "--workload-metrics"),
    ] {
        let manager = arguments(&deployment(&helm, &["--set", set]));
        assert_eq!(manager.last().unwrap(), wanted, "{set}");
    }
}

#[test]
fn alerts_warn_of_certificates_when_told_and_take_rules_of_users_in() {
    let Some(helm) = Helm::find() else { return };
    let groups = |set: &str| {
        let objects = helm.render(&["--set", "metrics.prometheusRule.enabled=true", "--set", set]).unwrap();
        object(&objects, "PrometheusRule", "kruise").unwrap()["spec"]["groups"].clone()
    };
    let expiring = |groups: &Value| {
        let rules = groups[0]["rules"].as_array().unwrap();
        let found = rules.iter().find(|rule| rule["alert"] == "KruiseCertificateExpiring").unwrap();
        format!("{} {}", found["expr"], found["annotations"]["summary"])
    };
    assert!(expiring(&groups("metrics.enabled=true")).contains("< 30 * 86400"));
    let early = groups("metrics.prometheusRule.certificateWarningDays=90");
    assert!(expiring(&early).contains("< 90 * 86400"), "{early}");
    assert!(expiring(&early).contains("within 90 days"), "{early}");
    let own = groups("metrics.prometheusRule.extraRules[0].alert=Mine");
    assert_eq!(own[1], json!({"name": "kruise-extra", "rules": [{"alert": "Mine"}]}));
}

#[test]
fn jobs_are_looked_for_by_both_names_that_monitors_give_them() {
    let Some(helm) = Helm::find() else { return };
    let set = "metrics.prometheusRule.enabled=true,dashboards.enabled=true";
    let objects = helm.render(&["--set", set]).unwrap();
    let rule = object(&objects, "PrometheusRule", "kruise").unwrap();
    let rules = rule["spec"]["groups"][0]["rules"].as_array().unwrap();
    let down = rules.iter().find(|rule| rule["alert"] == "KruiseManagerDown").unwrap();
    let up = r#"up{job=~"(.+/)?kruise-controller-manager"}"#;
    assert_eq!(down["expr"], format!("sum({up}) < 1 or absent({up})"));
    let dashboard = object(&objects, "ConfigMap", "kruise-grafana-dashboard").unwrap();
    let dashboard: Value = serde_json::from_str(dashboard["data"]["kruise.json"].as_str().unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    for expression in rules.iter().chain(targets).map(|it| it["expr"].as_str().unwrap()) {
        assert!(!expression.contains(r#"job=""#), "a PodMonitor's job is namespace/name: {expression}");
    }
}

#[test]
fn a_digest_pins_the_image_and_a_registry_comes_before_it() {
    let Some(helm) = Helm::find() else { return };
    let digest = format!("sha256:{}", "0".repeat(64));
    let pinned = format!("manager.image.digest={digest},manager.image.repository=kruise/manager");
    let objects = helm.render(&["--set", &pinned, "--set=global.imageRegistry=r.example/x/"]).unwrap();
    for (kind, name) in [("Deployment", "kruise-controller-manager"), ("DaemonSet", "kruise-daemon")] {
        let workload = object(&objects, kind, name).unwrap();
        let image = &workload["spec"]["template"]["spec"]["containers"][0]["image"];
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(*image, format!("r.example/x/kruise/manager:v{version}@{digest}"), "{kind}");
    }
}

#[test]
fn a_kubernetes_that_calls_itself_30_plus_gets_what_its_version_has() {
    let Some(helm) = Helm::find() else { return };
    for (version, has) in [("v1.30.1-gke.5+", true), ("v1.27.0", true), ("v1.26.9", false)] {
        let text = deployment(&helm, &["--kube-version", version.trim_end_matches('+')]).to_string();
        assert_eq!(text.contains("matchLabelKeys"), has, "{version}");
    }
}

#[test]
fn with_host_network_one_replica_goes_before_the_next_comes() {
    let Some(helm) = Helm::find() else { return };
    let deployment = deployment(&helm, &["--set=manager.hostNetwork=true"]);
    assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"], json!({"maxSurge": 0, "maxUnavailable": 1}));
    assert_eq!(deployment["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirstWithHostNet");
}
