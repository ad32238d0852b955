use serde_json::{Value, json};

use super::*;
use crate::resource::Conversion;

const NOW: &str = "2026-01-02T03:04:05Z";

fn clonesets() -> Value {
    serde_yaml_ng::from_str(include_str!("../../../../crds/apps.kruise.io_clonesets.yaml")).unwrap()
}

fn thing() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object"}}}},
            }],
        },
    })
}

fn lines(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
}

#[test]
fn definitions_are_refused_with_the_servers_words() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../../testdata/refused_definitions.json")).unwrap();
    for case in cases {
        let mut crd = case["crd"].clone();
        prepare_create(&mut crd);
        let mut found = lines(&validate_create(&crd));
        found.sort();
        let mut expected = texts(&case, "errors");
        expected.sort();
        assert_eq!(found.len(), expected.len(), "{}: {found:#?} {expected:#?}", case["name"]);
        for (found, expected) in found.iter().zip(&expected) {
            // What a CEL or regular expression parser says is its own affair; the texts kept stop before it.
            let open = expected.ends_with("compilation failed: ") || expected.ends_with("but isn't: ");
            assert!(
                found == expected || (open && found.starts_with(expected)),
                "{}: {found}\n{expected}",
                case["name"]
            );
        }
    }
}

#[test]
fn the_clone_set_definition_is_valid_and_served_in_both_versions() {
    let mut crd = clonesets();
    prepare_create(&mut crd);
    assert_eq!(lines(&validate_create(&crd)), Vec::<String>::new());
    let resource = resources(&crd).unwrap();
    assert_eq!(resource.qualified(), "clonesets.apps.kruise.io");
    assert_eq!((resource.singular.as_str(), resource.list_kind.as_str()), ("cloneset", "CloneSetList"));
    let names: Vec<&str> = resource.versions.iter().map(|version| version.name.as_str()).collect();
    assert_eq!(names, ["v1beta1", "v1alpha1"]);
    assert!(names.contains(&resource.storage.as_str()));
    assert!(resource.namespaced && resource.custom);
    assert!(matches!(resource.conversion, Conversion::Webhook(client) if client["service"]["port"] == 443));
    for version in &resource.versions {
        assert_eq!(version.subresources, ["status", "scale"]);
        assert!(version.structural.is_some() && version.schema.is_some());
    }
}

#[test]
fn the_same_schema_is_compiled_once() {
    let (one, other) = (resources(&clonesets()).unwrap(), resources(&clonesets()).unwrap());
    let schema = |resource: &Resource| resource.versions[0].schema.clone().unwrap();
    assert!(Arc::ptr_eq(&schema(&one), &schema(&other)));
}

#[test]
fn what_is_left_out_gets_the_servers_defaults() {
    let mut crd = thing();
    prepare_create(&mut crd);
    assert_eq!(
        crd["spec"]["names"],
        json!({"plural": "things", "kind": "Thing", "singular": "thing", "listKind": "ThingList"})
    );
    assert_eq!(crd["spec"]["conversion"], json!({"strategy": "None"}));
    let nothing =
        json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": null, "storedVersions": ["v1"]});
    assert_eq!(crd["status"], nothing);
    assert_eq!(crd["metadata"]["generation"], 1);
}

#[test]
fn a_new_definition_with_free_names_is_established_at_once() {
    let mut crd = thing();
    prepare_create(&mut crd);
    assert!(establish(&mut crd, &[], NOW.parse().unwrap()));
    assert_eq!(
        crd["status"],
        json!({
            "acceptedNames": {"plural": "things", "kind": "Thing", "singular": "thing", "listKind": "ThingList"},
            "conditions": [
                {"lastTransitionTime": NOW, "message": "no conflicts found", "reason": "NoConflicts", "status": "True",
                 "type": "NamesAccepted"},
                {"lastTransitionTime": NOW, "message": "the initial names have been accepted",
                 "reason": "InitialNamesAccepted", "status": "True", "type": "Established"},
            ],
            "storedVersions": ["v1"],
        })
    );
    assert!(!establish(&mut crd, &[], "2027-01-01T00:00:00Z".parse().unwrap()), "nothing changes any more");
}

#[test]
fn a_taken_name_keeps_a_definition_from_being_established() {
    let now = NOW.parse().unwrap();
    let mut first = thing();
    prepare_create(&mut first);
    establish(&mut first, &[], now);
    let mut second = thing();
    second["metadata"]["name"] = json!("objects.example.com");
    second["spec"]["names"] = json!({"plural": "objects", "kind": "Thing"});
    prepare_create(&mut second);
    establish(&mut second, &[&first], now);
    let conditions = second["status"]["conditions"].as_array().unwrap();
    assert_eq!(conditions[0]["reason"], "ListKindConflict");
    assert_eq!(conditions[0]["message"], "\"ThingList\" is already in use");
    assert_eq!(conditions[1]["status"], "False");
    assert_eq!(conditions[1]["reason"], "NotAccepted");
}

#[test]
fn a_new_storage_version_is_remembered_beside_the_old_one() {
    let mut old = thing();
    prepare_create(&mut old);
    let mut new = thing();
    let mut second = new["spec"]["versions"][0].clone();
    second["name"] = json!("v2");
    new["spec"]["versions"][0]["storage"] = json!(false);
    new["spec"]["versions"].as_array_mut().unwrap().push(second);
    prepare_update(&old, &mut new);
    assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
    assert_eq!(new["metadata"]["generation"], 2);
    assert_eq!(lines(&validate_update(&old, &new)), Vec::<String>::new());
    new["spec"]["versions"].as_array_mut().unwrap().remove(0);
    let errors = lines(&validate_update(&old, &new));
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0]
            .starts_with("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; ")
    );
}

#[test]
fn versions_are_ordered_as_kubectl_prefers_them() {
    let mut names = vec!["v1alpha1", "foo1", "v2", "v1beta2", "v10", "v1beta1", "foo10", "v1"];
    names.sort_by_key(|name| Reverse(priority(name)));
    assert_eq!(names, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo1", "foo10"]);
}
