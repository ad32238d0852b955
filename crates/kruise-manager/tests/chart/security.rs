//! Pods of the manager pass the restricted Pod Security profile, and rights are as few as the values allow.

use std::collections::BTreeSet;
use std::fs;

use clap::Parser as _;
use kruise_manager::commands::CommandLine;
use serde_json::{Value, json};

use crate::chart;
use crate::helm::{Helm, Object, object};

#[test]
fn pods_of_managers_and_hooks_pass_the_restricted_profile() {
    let Some(helm) = Helm::find() else { return };
    let objects = helm.render(&["--set=crds.mode=hook"]).unwrap();
    for (kind, name) in
        [("Deployment", "kruise-controller-manager"), ("Job", "kruise-finalizer"), ("Job", "kruise-crds")]
    {
        restricted(&object(&objects, kind, name).unwrap()["spec"]["template"]["spec"]);
    }
}

fn restricted(pod: &Value) {
    let context = &pod["securityContext"];
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(context["runAsNonRoot"], true);
    assert_ne!(context["runAsUser"], 0);
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        assert_eq!(pod[field], Value::Null, "{field}");
    }
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        assert!(volume["emptyDir"].is_object(), "{volume}");
    }
    let of = |list: &str| pod[list].as_array().cloned().unwrap_or_default();
    assert!(!of("containers").is_empty());
    for container in of("containers").into_iter().chain(of("initContainers")) {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        assert!(container["ports"].as_array().into_iter().flatten().all(|port| port["hostPort"].is_null()));
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
            for rule in object.value["rules"].as_array().into_iter().flatten() {
                // Before an install and an uninstall a hook looks at all kinds of Kruise, also those that only OpenKruise has.
                let groups = rule["apiGroups"].as_array().unwrap();
                let own = groups.iter().all(|group| group.as_str().unwrap().ends_with(".kruise.io"));
                let mut rule = rule.clone();
                if own && ["kruise-helm-hook", "kruise-helm-preflight"].contains(&object.name()) {
                    rule["resources"] = Value::Null;
                }
                let text = rule.to_string();
                assert!(!text.contains("\"*\""), "{}: {text}", object.id());
            }
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

/// `group/resource verb` of every rule of the manager's role, and whether it has rights to the copies of pull secrets.
fn rights(helm: &Helm, set: &str) -> (BTreeSet<String>, bool) {
    let objects = helm.render(&["--set=rbac.perController=true", "--set", set]).unwrap();
    let mut rights = BTreeSet::new();
    let role = object(&objects, "ClusterRole", "kruise-manager-role").unwrap();
    for rule in role["rules"].as_array().unwrap() {
        let words = |field: &str| serde_json::from_value::<Vec<String>>(rule[field].clone()).unwrap();
        for (group, verb) in
            words("apiGroups").iter().flat_map(|it| words("verbs").into_iter().map(move |verb| (it, verb)))
        {
            rights.extend(words("resources").iter().map(|resource| format!("{group}/{resource} {verb}")));
        }
    }
    (rights, object(&objects, "Role", "kruise-manager-secret-role").is_some())
}

#[test]
fn rights_of_controllers_that_a_gate_keeps_from_running_go_when_asked() {
    let Some(helm) = Helm::find() else { return };
    let of_jobs = [
        "/secrets get",
        "apps.kruise.io/imagepulljobs/status patch",
        "apps.kruise.io/imagelistpulljobs patch",
    ];
    // A node's NodeImage names copies of pull secrets for as long as these are there.
    let of_nodes = ["/secrets list", "/secrets watch", "apps.kruise.io/nodeimages patch"];
    let of_requests = ["apps.kruise.io/containerrecreaterequests patch"];
    for (set, jobs, agents) in [
        ("featureGates=ImagePullJobGate=true", true, true),
        ("featureGates=PreDownloadImageForInPlaceUpdate=true", true, true),
        ("featureGates=", false, true),
        ("featureGateOverrides.ImagePullJobGate=false", false, true),
        ("featureGates=ImagePullJobGate=true\\,KruiseDaemon=0", false, false),
        ("featureGates=ImagePullJobGate=true\\,AllBeta=false", false, false),
    ] {
        let (rights, copies) = rights(&helm, set);
        let has = |all: &[&str], wanted: bool| all.iter().all(|right| rights.contains(*right) == wanted);
        assert!(has(&of_jobs, jobs) && copies == jobs, "{set}: {rights:?}");
        assert!(has(&of_nodes, agents) && has(&of_requests, agents), "{set}: {rights:?}");
        assert!(has(&["apps.kruise.io/clonesets/status patch"], true), "{set}: {rights:?}");
    }
}

#[test]
fn webhooks_of_controllers_that_a_gate_keeps_from_running_stay() {
    let Some(helm) = Helm::find() else { return };
    let webhooks = |set: &str| {
        let objects = helm.render(&["--set", set]).unwrap();
        ["Mutating", "Validating"].map(|kind| {
            let name = format!("kruise-{}-webhook-configuration", kind.to_lowercase());
            object(&objects, &format!("{kind}WebhookConfiguration"), &name).unwrap()["webhooks"].clone()
        })
    };
    assert_eq!(webhooks("featureGates="), webhooks("featureGates=ImagePullJobGate=true"));
}

#[test]
fn notes_say_what_an_uninstall_deletes() {
    let Some(helm) = Helm::find() else { return };
    let (stay, warning) = ("CRDs and objects stay", "WARNING: uninstalling this release deletes");
    for (set, stays, warns) in [
        ("hooks.preDelete.mode=orphan", true, None),
        ("hooks.preDelete.mode=off", true, None),
        ("crds.mode=hook", true, None),
        ("crds.keep=false", false, Some("the CRDs, and with them every CloneSet and its pods")),
        ("hooks.preDelete.mode=purge", false, Some("the CRDs, whatever crds.keep says")),
        (
            "hooks.preDelete.mode=purge,hooks.preDelete.deleteCustomResources=true",
            false,
            Some("every object of Kruise and its pods"),
        ),
        (
            "hooks.preDelete.mode=purge,hooks.preDelete.deleteCustomResources=true,crds.keep=false",
            false,
            Some("every object of Kruise and its pods"),
        ),
        ("hooks.preDelete.mode=purge,crds.mode=hook", false, Some("the CRDs, whatever crds.keep says")),
        // No Job, so nothing is purged.
        ("hooks.preDelete.mode=purge,hooks.preDelete.enabled=false", true, None),
        ("hooks.preDelete.deleteCustomResources=true", true, None),
    ] {
        let notes = helm.notes(&["--set", set]);
        assert_eq!(notes.contains(stay), stays, "{set}: {notes}");
        assert_eq!(notes.matches(warning).count(), usize::from(warns.is_some()), "{set}: {notes}");
        assert!(warns.is_none_or(|what| notes.contains(&format!("{warning} {what}"))), "{set}: {notes}");
        assert!(!notes.contains("stay after it") || stays, "{set}: {notes}");
    }
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

/// What the Job of a hook tells the manager's binary, in order.
fn commands(objects: &[Object], job: &str) -> Vec<String> {
    let pod = &object(objects, "Job", job).unwrap()["spec"]["template"]["spec"];
    let of = |list: &str| pod[list].as_array().cloned().unwrap_or_default();
    let commands = of("initContainers").into_iter().chain(of("containers")).map(|container| {
        let command: Vec<String> = serde_json::from_value(container["command"].clone()).unwrap();
        assert!(CommandLine::try_parse_from(&command).unwrap().command.is_some(), "{command:?}");
        command[1..].join(" ")
    });
    commands.collect()
}

/// Verbs of all rules of a hook's roles.
fn verbs(objects: &[Object], hook: &str, group: &str) -> Vec<String> {
    let roles = objects.iter().filter(|it| it.kind().ends_with("Role") && it.name() == hook);
    let mut verbs = Vec::new();
    for rule in roles.flat_map(|role| role.value["rules"].as_array().unwrap().clone()) {
        if rule["apiGroups"].to_string().contains(group) {
            verbs.extend(serde_json::from_value::<Vec<String>>(rule["verbs"].clone()).unwrap());
        }
    }
    verbs.sort();
    verbs.dedup();
    verbs
}

#[test]
fn an_uninstall_deletes_no_object_and_no_definition_unless_told() {
    let Some(helm) = Helm::find() else { return };
    let of = |set: &str| {
        let objects = helm.render(&["--set", set]).unwrap();
        let verbs = |group| verbs(&objects, "kruise-helm-hook", group);
        (commands(&objects, "kruise-finalizer"), verbs("kruise.io"), verbs("apiextensions"))
    };
    let (commands, objects, definitions) = of("hooks.preDelete.enabled=true");
    assert_eq!(commands, ["cleanup --check --crds-kept=true", "cleanup --mode=orphan"]);
    assert_eq!((objects, definitions), of_words(&["list", "patch", "update"], &["get", "list", "patch"]));
    let (commands, objects, definitions) = of("hooks.preDelete.mode=keep");
    assert_eq!(commands, ["cleanup --check --crds-kept=true", "cleanup --mode=keep"]);
    assert_eq!((objects, definitions), of_words(&["list", "update"], &["get", "list", "patch"]));
    let (commands, objects, definitions) = of("hooks.preDelete.mode=check");
    assert_eq!(commands, ["cleanup --check --crds-kept=true"]);
    assert_eq!((objects, definitions), of_words(&["list"], &["get", "list"]));
    // What Helm goes by is the manifest: of definitions that it does not own, it takes none.
    for (set, kept) in [
        ("crds.keep=false", false),
        ("crds.keep=false,crds.mode=none", true),
        ("crds.keep=false,crds.managed=false", true),
    ] {
        assert_eq!(of(set).0[0], format!("cleanup --check --crds-kept={kept}"), "{set}");
    }
    assert_eq!(of("hooks.preDelete.mode=purge").0, ["cleanup --mode=purge"]);
    assert_eq!(
        of("hooks.preDelete.mode=purge,hooks.preDelete.deleteCustomResources=true").0,
        ["cleanup --mode=purge --yes-delete-custom-resources"]
    );
    for off in ["hooks.preDelete.enabled=false", "hooks.preDelete.mode=off", "hooks.preDelete.mode=false"] {
        let objects = helm.render(&["--set", off]).unwrap();
        assert!(!objects.iter().any(|object| object.text.contains("kruise-helm-hook")), "{off}");
    }
}

#[test]
fn preflight_before_an_install_only_reads_and_runs_before_crds_are_applied() {
    let Some(helm) = Helm::find() else { return };
    let objects = helm.render(&["--set", "hooks.preflight.enabled=true,crds.mode=hook"]).unwrap();
    assert_eq!(commands(&objects, "kruise-preflight"), ["preflight --before-install"]);
    assert_eq!(verbs(&objects, "kruise-helm-preflight", ""), ["get", "list"]);
    let weight = |kind, name: &str| -> i32 {
        let annotations = &object(&objects, kind, name).unwrap()["metadata"]["annotations"];
        assert_eq!(annotations["helm.sh/hook"], "pre-install,pre-upgrade");
        annotations["helm.sh/hook-weight"].as_str().unwrap().parse().unwrap()
    };
    assert!(weight("Job", "kruise-preflight") < weight("ClusterRole", "kruise-helm-crds"));
    let default = helm.render(&[]).unwrap();
    assert!(!default.iter().any(|object| object.name().contains("preflight")), "only where it is asked for");
}

#[test]
fn the_page_on_uninstalling_tells_every_mode_and_the_default() {
    let read = |path: &str| fs::read_to_string(chart().join(path)).unwrap();
    let (page, values) = (read("../../docs/uninstall.md"), read("values.yaml"));
    let values: Value = serde_yaml_ng::from_str(&values).unwrap();
    let default = values["hooks"]["preDelete"]["mode"].as_str().unwrap();
    assert!(page.contains(&format!("| `{default}`, the default |")), "{default}");
    assert_eq!(page.matches(", the default |").count(), 1);
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let modes = &schema["properties"]["hooks"]["properties"]["preDelete"]["properties"]["mode"]["enum"];
    let modes: Vec<_> = modes.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(modes.contains(&default) && modes.len() == 5, "{modes:?}");
    for mode in modes {
        assert!(page.contains(&format!("\n| `{mode}`")), "{mode} is not told");
    }
}

fn of_words(one: &[&str], other: &[&str]) -> (Vec<String>, Vec<String>) {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    (words(one), words(other))
}

#[test]
fn an_image_that_has_openkruises_hook_in_it_is_not_run() {
    let Some(helm) = Helm::find() else { return };
    let image = |set: &str| {
        let objects = helm.render(&["--set", set]).unwrap();
        let pod = &object(&objects, "Job", "kruise-finalizer").unwrap()["spec"]["template"]["spec"];
        pod["containers"][0]["image"].as_str().unwrap().to_owned()
    };
    let own = image("helmHooks.image.tag=");
    assert_eq!(
        image("helmHooks.image.repository=openkruise/kruise-helm-hook,helmHooks.image.tag=v0.1.0"),
        own
    );
    assert_eq!(image("helmHooks.image.tag=v0.1.0"), own, "a tag of an image that is not named");
    assert_eq!(
        image("helmHooks.image.repository=r.example/manager,helmHooks.image.tag=x"),
        "r.example/manager:x"
    );
}
