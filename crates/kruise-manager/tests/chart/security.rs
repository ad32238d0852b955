//! Pods of the manager pass the restricted Pod Security profile, and rights are as few as the values allow.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::chart;
use crate::helm::{Helm, object};

#[test]
fn the_managers_pod_passes_the_restricted_profile() {
    let Some(helm) = Helm::find() else { return };
    let objects = helm.render(&[]).unwrap();
    let pod =
        &object(&objects, "Deployment", "kruise-controller-manager").unwrap()["spec"]["template"]["spec"];
    let context = &pod["securityContext"];
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(context["runAsNonRoot"], true);
    assert_ne!(context["runAsUser"], 0);
    for field in ["hostNetwork", "hostPID", "hostIPC", "initContainers"] {
        assert_eq!(pod[field], Value::Null, "{field}");
    }
    for volume in pod["volumes"].as_array().unwrap() {
        assert!(volume["emptyDir"].is_object(), "{volume}");
    }
    for container in pod["containers"].as_array().unwrap() {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        assert!(container["ports"].as_array().unwrap().iter().all(|port| port["hostPort"].is_null()));
    }
}

/// `group/resource` of every rule of a role.
fn resources(role: &Value) -> Vec<String> {
    let mut resources = Vec::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in rule["apiGroups"].as_array().unwrap() {
            for resource in rule["resources"].as_array().unwrap() {
                resources.push(format!("{}/{}", group.as_str().unwrap(), resource.as_str().unwrap()));
            }
        }
    }
    resources
}

#[test]
fn no_role_is_for_everything() {
    let Some(helm) = Helm::find() else { return };
    for object in helm.render(&[]).unwrap() {
        if object.kind().ends_with("Role") {
            let text = object.value["rules"].to_string();
            assert!(!text.contains("\"*\""), "{}: {text}", object.id());
        }
    }
    let wide = helm.render(&["--set=installation.roleListGroups={apps,example.com}"]).unwrap();
    let role = object(&wide, "ClusterRole", "kruise-manager-role").unwrap();
    let wanted = json!({"apiGroups": ["apps", "example.com"], "resources": ["*"], "verbs": ["list"]});
    assert!(role["rules"].as_array().unwrap().contains(&wanted));
}

#[test]
fn rights_of_controllers_that_are_off_go_when_asked() {
    let Some(helm) = Helm::find() else { return };
    let off = "--set=controllers.imagepulljob.enabled=false,controllers.imagelistpulljob.enabled=false,\
               controllers.nodeimage.enabled=false,controllers.containerrecreaterequest.enabled=false";
    let role = |more: &[&str]| {
        resources(object(&helm.render(more).unwrap(), "ClusterRole", "kruise-manager-role").unwrap())
    };
    let (all, few) = (role(&[off]), role(&[off, "--set=rbac.perController=true"]));
    for gone in ["/secrets", "apps.kruise.io/nodeimages", "apps.kruise.io/containerrecreaterequests"] {
        assert!(all.iter().any(|one| one == gone), "{gone} of {all:?}");
        assert!(!few.iter().any(|one| one == gone), "{gone} of {few:?}");
    }
    assert!(few.iter().any(|one| one == "apps.kruise.io/clonesets"), "{few:?}");
}

#[test]
fn a_manager_that_gets_its_certificates_may_not_write_authorities() {
    let Some(helm) = Helm::find() else { return };
    let set = "--set=featureGates=EnableExternalCerts=true,externalCerts.annotations.inject=x";
    let objects = helm.render(&[set]).unwrap();
    assert!(object(&objects, "ClusterRole", "kruise-certs-role").is_none());
    assert!(object(&objects, "Secret", "kruise-webhook-certs").is_none());
    let annotated =
        |kind, name| object(&objects, kind, name).unwrap()["metadata"]["annotations"]["inject"].clone();
    assert_eq!(annotated("MutatingWebhookConfiguration", "kruise-mutating-webhook-configuration"), "x");
    assert_eq!(annotated("CustomResourceDefinition", "clonesets.apps.kruise.io"), "x");
    assert_eq!(annotated("CustomResourceDefinition", "nodeimages.apps.kruise.io"), Value::Null);
}

/// Every single right of the rules: group, resource, name of the object, verb.
fn rights(rules: &Value) -> BTreeSet<String> {
    let list = |rule: &Value, field: &str| -> Vec<String> {
        serde_json::from_value(rule[field].clone()).unwrap_or_else(|_| vec![String::new()])
    };
    let mut rights = BTreeSet::new();
    for rule in rules.as_array().unwrap() {
        for group in list(rule, "apiGroups") {
            for resource in list(rule, "resources") {
                for name in list(rule, "resourceNames") {
                    rights.extend(
                        list(rule, "verbs").iter().map(|verb| format!("{group}/{resource}/{name} {verb}")),
                    );
                }
            }
        }
    }
    rights
}

#[test]
fn the_specs_run_under_the_charts_roles() {
    let Some(helm) = Helm::find() else { return };
    let of = |objects: Vec<Value>| {
        let mut all = BTreeMap::<String, BTreeSet<String>>::new();
        for object in objects {
            let kind = object["kind"].as_str().unwrap();
            let name = object["metadata"]["name"].as_str().unwrap();
            if !kind.ends_with("Role") || name.starts_with("aggregate-") {
                continue;
            }
            let whose = if name.starts_with("kruise-daemon") { "agents" } else { "manager" };
            let place = object["metadata"]["namespace"].as_str().unwrap_or_default();
            all.entry(format!("{whose} {place}")).or_default().extend(rights(&object["rules"]));
        }
        all
    };
    let path = chart().join("../../e2e/install.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let specs = text.split("\n---\n").map(|document| serde_yaml_ng::from_str(document).unwrap()).collect();
    let (specs, chart) =
        (of(specs), of(helm.render(&[]).unwrap().into_iter().map(|object| object.value).collect()));
    // Of CRDs, the chart's manager may change those it converts for.
    for (whose, rights) in &specs {
        for right in rights.iter().filter(|right| !right.starts_with("apiextensions.k8s.io/")) {
            assert!(chart[whose].contains(right), "{whose}: {right} is missing in the chart");
        }
    }
    for (whose, rights) in &chart {
        for right in rights.iter().filter(|right| !right.starts_with("apiextensions.k8s.io/")) {
            assert!(specs[whose].contains(right), "{whose}: {right} is in the chart only");
        }
    }
}
