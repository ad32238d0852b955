//! What pages tell of values is what the chart does with them.

use std::fs;

use crate::chart;
use crate::helm::{Helm, Object, object};

fn page(name: &str) -> String {
    fs::read_to_string(chart().join(format!("../../docs/{name}.md"))).unwrap()
}

fn namespaces(objects: &[Object]) -> Vec<&str> {
    objects.iter().filter(|object| object.kind() == "Namespace").map(Object::name).collect()
}

#[test]
fn the_page_on_installing_tells_which_namespaces_go_with_the_release() {
    let Some(helm) = Helm::find() else { return };
    let page = page("install");
    let owned = "Namespaces that the chart creates belong to the release: `helm uninstall` deletes both";
    let before = page.split_once(owned).expect("whose namespaces are").0;
    let objects = helm.render(&[]).unwrap();
    assert_eq!(namespaces(&objects), ["kruise-system", "kruise-daemon-config"]);
    for namespace in namespaces(&objects) {
        assert!(before.contains(&format!("`{namespace}`")), "{namespace} is not named");
        let annotations = &object(&objects, "Namespace", namespace).unwrap()["metadata"]["annotations"];
        assert!(annotations["helm.sh/resource-policy"].is_null(), "{namespace} stays");
    }
    let fewer = helm.render(&["--set=installation.createNamespace=false"]).unwrap();
    assert_eq!(namespaces(&fewer), ["kruise-daemon-config"]);
    assert!(page.contains("turns `installation.createNamespace` off later"), "what that deletes");
}

#[test]
fn nobody_is_told_to_take_a_namespace_into_a_release() {
    let page = page("install");
    let rows: Vec<_> =
        page.lines().filter(|line| line.starts_with("| `invalid ownership metadata`")).collect();
    let [namespace, other] = rows.as_slice() else { panic!("{rows:?}") };
    assert!(namespace.contains("about a `Namespace`") && !other.contains("`Namespace`"), "{rows:?}");
    for way in ["installation.createNamespace=false", "`daemonConfigNamespace`", "Not `--take-ownership`"] {
        assert!(namespace.contains(way), "{way} is not in {namespace}");
    }
}

#[test]
fn who_pinned_a_digest_is_told_to_set_the_new_one() {
    let Some(helm) = Helm::find() else { return };
    let page = page("upgrade");
    let (_, told) = page.split_once("helm rollback kruise --wait\n```\n").expect("the commands");
    let told = told.split_once("\nWhat happens").expect("what follows").0;
    assert!(told.contains("--set manager.image.digest=sha256:"), "{told}");
    let digest = format!("manager.image.digest=sha256:{}", "0".repeat(64));
    let objects = helm.render(&["--set", &digest, "--set=manager.image.tag=v0.2.0"]).unwrap();
    let manager = object(&objects, "Deployment", "kruise-controller-manager").unwrap().to_string();
    assert!(manager.contains(":v0.2.0@sha256:000"), "a new tag alone changes nothing");
}
