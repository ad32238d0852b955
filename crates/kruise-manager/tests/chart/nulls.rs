//! `null` among values. Helm removes such a key, so templates have to do without it.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::chart;
use crate::helm::{Helm, object};

/// `path=null` of every list and map among the values, by how deep it is.
fn nulls(values: &Value, parent: &str, depth: usize, found: &mut BTreeMap<usize, Vec<String>>) {
    for (key, value) in values.as_object().into_iter().flatten() {
        if value.is_object() || value.is_array() {
            found.entry(depth).or_default().push(format!("{parent}{key}=null"));
        }
        nulls(value, &format!("{parent}{key}."), depth + 1, found);
    }
}

#[test]
fn no_list_and_no_map_has_to_be_there() {
    let Some(helm) = Helm::find() else { return };
    let text = fs::read_to_string(chart().join("values.yaml")).unwrap();
    let mut found = BTreeMap::new();
    nulls(&serde_yaml_ng::from_str(&text).unwrap(), "", 0, &mut found);
    assert!(found.values().map(Vec::len).sum::<usize>() > 100, "{found:?}");
    // All that are equally deep at once: none of them is inside another.
    for base in ["default", "everything", "external-certs"] {
        let file = chart().join(format!("ci/{base}-values.yaml"));
        for sets in found.values() {
            let rendered = helm.render(&["--values", file.to_str().unwrap(), "--set", &sets.join(",")]);
            if let Err(error) = rendered {
                panic!("{base}: {sets:?}: {error}");
            }
        }
    }
}

#[test]
fn every_template_begins_by_putting_defaults_back() {
    for entry in fs::read_dir(chart().join("templates")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "tpl") {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("{{- include \"kruise.fill\" . }}\n"), "{}", path.display());
        }
    }
}

#[test]
fn null_is_the_default_of_all_but_lists_and_maps_of_kubernetes() {
    let Some(helm) = Helm::find() else { return };
    let default = helm.render(&[]).unwrap();
    for path in [
        "controllers",
        "controllers.cloneset",
        "daemon",
        "daemon.nodeSelector",
        "daemonConfigNamespace",
        "externalCerts.annotations",
        "featureGates",
        "helmHooks.image",
        "hooks",
        "installation",
        "manager",
        "manager.extraArgs",
        "manager.image",
        "manager.podLabels",
        "manager.replicas",
        "metrics.service.labels",
        "webhookConfiguration",
        "webhookConfiguration.excludeNamespaces",
    ] {
        let rendered = helm.render(&["--set", &format!("{path}=null")]);
        assert!(rendered.as_ref() == Ok(&default), "{path}: {:?}", rendered.err());
    }
    // What is false or empty is not null.
    let set = "--set=rbac.aggregate=false,manager.enablePprof=false,featureGates=,manager.replicas=0";
    let objects = helm.render(&[set]).unwrap();
    assert!(object(&objects, "ClusterRole", "aggregate-kruise-view").is_none());
    let manager = object(&objects, "Deployment", "kruise-controller-manager").unwrap();
    assert_eq!(manager["spec"]["replicas"], 0);
    let arguments = manager["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(arguments.contains("\"--feature-gates=\""), "{arguments}");
    assert!(arguments.contains("--enable-pprof=false"), "{arguments}");
}

#[test]
fn null_takes_away_what_kubernetes_can_do_without() {
    let Some(helm) = Helm::find() else { return };
    let set = "--set=manager.resources=null,manager.livenessProbe=null,daemon.tolerations=null,\
               daemon.affinity=null,daemon.updateStrategy=null";
    let objects = helm.render(&[set]).unwrap();
    let of = |kind, name| object(&objects, kind, name).unwrap()["spec"].clone();
    let manager = &of("Deployment", "kruise-controller-manager")["template"]["spec"]["containers"][0];
    assert_eq!(manager["resources"], Value::Null);
    assert_eq!(manager["livenessProbe"], Value::Null);
    let hook = &of("Job", "kruise-finalizer")["template"]["spec"]["containers"][0];
    assert_eq!(hook["resources"], json!({"requests": {"cpu": "10m", "memory": "32Mi"}}));
    let agents = of("DaemonSet", "kruise-daemon");
    assert_eq!(agents["updateStrategy"], json!({}));
    for field in ["tolerations", "affinity"] {
        assert_eq!(agents["template"]["spec"][field], Value::Null, "{field}");
    }
}
