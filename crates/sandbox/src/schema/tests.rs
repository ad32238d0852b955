#![expect(clippy::needless_pass_by_value, reason = "literals read better without an ampersand")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn schema_of(crd: &str, version: &str) -> Structural {
    let crd: Value = serde_yaml_ng::from_str(crd).unwrap();
    let versions = crd["spec"]["versions"].as_array().unwrap();
    let found = versions.iter().find(|one| one["name"] == version).unwrap();
    Structural::compile(&found["schema"]["openAPIV3Schema"]).unwrap()
}

fn widgets() -> Structural {
    schema_of(include_str!("../../testdata/widgets.yaml"), "v1")
}

fn clonesets(version: &str) -> Structural {
    schema_of(include_str!("../../../../crds/apps.kruise.io_clonesets.yaml"), version)
}

fn widget(spec: Value) -> Value {
    json!({"apiVersion": "schema.test.kruise.io/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec})
}

fn lines(errors: &[FieldError]) -> Vec<String> {
    let mut lines: Vec<String> =
        errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
    lines.sort();
    lines
}

const SKIPPED: &str = "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; \
                       correct the existing errors to complete validation";

/// The spec is refused with exactly these errors, which a real API server gave for it.
fn refused(spec: Value, expected: &[&str]) {
    let mut object = widget(spec);
    let schema = widgets();
    schema.prune(&mut object);
    schema.default(&mut object);
    let mut expected: Vec<String> = expected.iter().map(|line| (*line).to_owned()).collect();
    expected.sort();
    assert_eq!(lines(&schema.validate(&object, None)), expected, "{object}");
}

#[test]
fn bounds_are_reported_in_the_servers_words() {
    refused(
        json!({"name": "a", "replicas": -1, "ratio": 0.5, "mode": "c", "level": 3}),
        &[
            "spec.level: Unsupported value: 3: supported values: \"1\", \"2\"",
            "spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\"",
            "spec.name: Invalid value: \"a\": spec.name in body should be at least 2 chars long",
            "spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0",
            "spec.ratio: Invalid value: 0.5: spec.ratio in body should be greater than 0.5",
            SKIPPED,
        ],
    );
    refused(
        json!({"name": "abcdef", "replicas": "x", "ratio": 0.6}),
        &[
            "spec.name: Too long: may not be more than 5 bytes",
            "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\"",
            "spec.ratio: Invalid value: 0.6: spec.ratio in body should be a multiple of 0.25",
            SKIPPED,
        ],
    );
    refused(
        json!({"name": "abc", "tags": ["a", "b", "c", "d"], "labels": {"a": "x", "b": "y", "c": "z"}}),
        &[
            "spec.labels: Too many: 3: must have at most 2 items",
            "spec.tags: Too many: 4: must have at most 3 items",
            SKIPPED,
        ],
    );
    refused(
        json!({"replicas": 1_000_001, "tags": ["a", "a"], "labels": {"a": "toolong", "b": "x"}}),
        &[
            "spec.labels.a: Too long: may not be more than 3 bytes",
            "spec.replicas: Invalid value: 1000001: spec.replicas in body should be less than or equal to 1000000",
            "spec.name: Required value",
            "spec.tags[1]: Duplicate value: \"a\"",
            SKIPPED,
        ],
    );
}

#[test]
fn wrong_types_are_reported_in_the_servers_words() {
    refused(
        json!({"name": "AB", "replicas": 1.5, "port": true, "when": "x", "flag": "yes", "none": 3}),
        &[
            "spec.flag: Invalid value: \"string\": spec.flag in body must be of type boolean: \"string\"",
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
            "<nil>: Invalid value: \"\": \"spec.port\" must validate at least one schema (anyOf)",
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer: \"boolean\"",
            "spec.name: Invalid value: \"AB\": spec.name in body should match '^[a-z]*$'",
            "spec.replicas: Invalid value: \"number\": spec.replicas in body must be of type integer: \"number\"",
            "spec.none: Invalid value: \"integer\": spec.none in body must be of type string: \"integer\"",
            "spec.when: Invalid value: \"x\": spec.when in body must be of type date-time: \"x\"",
            SKIPPED,
        ],
    );
    refused(
        json!({"name": "abc", "tags": 5, "labels": [], "parts": "x", "when": 5, "ratio": "x"}),
        &[
            "spec.when: Invalid value: \"int64\": spec.when in body must be of type date-time: \"int64\"",
            "spec.labels: Invalid value: \"array\": spec.labels in body must be of type object: \"array\"",
            "spec.tags: Invalid value: \"integer\": spec.tags in body must be of type array: \"integer\"",
            "spec.parts: Invalid value: \"string\": spec.parts in body must be of type array: \"string\"",
            "spec.ratio: Invalid value: \"string\": spec.ratio in body must be of type number: \"string\"",
            SKIPPED,
        ],
    );
    refused(
        json!(5),
        &["spec: Invalid value: \"integer\": spec in body must be of type object: \"integer\"", SKIPPED],
    );
    refused(json!({"name": null}), &["spec.name: Required value", SKIPPED]);
}

#[test]
fn branches_and_embedded_resources_are_reported_in_the_servers_words() {
    refused(
        json!({"name": "abc", "any": {}, "one": {}, "all": {}}),
        &[
            "spec.all.x: Required value",
            "spec.all.w: Required value",
            "<nil>: Invalid value: \"\": \"spec.all\" must validate all the schemas (allOf). None validated",
            "<nil>: Invalid value: \"\": \"spec.any\" must validate at least one schema (anyOf)",
            "spec.any.x: Required value",
            "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found none valid",
            "spec.one.x: Required value",
            SKIPPED,
        ],
    );
    refused(
        json!({"name": "abc", "one": {"x": 1, "w": "a"}, "all": {"x": 1}}),
        &[
            "spec.all.w: Required value",
            "<nil>: Invalid value: \"\": \"spec.all\" must validate all the schemas (allOf)",
            "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
            SKIPPED,
        ],
    );
    refused(
        json!({"name": "abc", "tags": [], "labels": {}, "parts": [{"key": "a"}, {"key": "a"}], "res": {}}),
        &[
            "spec.labels: Invalid value: 0: spec.labels in body should have at least 1 properties",
            "spec.tags: Invalid value: 0: spec.tags in body should have at least 1 items",
            "spec.res.apiVersion: Required value",
            "spec.res.kind: Required value",
            "spec.parts[1]: Duplicate value: {\"key\":\"a\"}",
            SKIPPED,
        ],
    );
    refused(
        json!({"name": "abc", "mode": null, "res": {"apiVersion": "", "kind": ""}}),
        &[
            "spec.res.apiVersion: Invalid value: \"\": must not be empty",
            "spec.res.kind: Invalid value: \"\": must not be empty",
        ],
    );
}

#[test]
fn rules_are_reported_in_the_servers_words() {
    refused(
        json!({"name": "abc", "min": 5, "max": 3}),
        &["spec.min: Invalid value: \"object\": min above max"],
    );
    refused(json!({"name": "abc", "min": 13}), &["spec: Forbidden: bad min"]);
    refused(
        json!({"name": "abc", "min": 14}),
        &["spec: Invalid value: \"object\": failed rule: !has(self.min) || self.min != 14"],
    );
    refused(
        json!({"name": "abc", "idx": [1]}),
        &[
            "spec: Invalid value: \"object\": index out of bounds: 3 evaluating rule: !has(self.idx) || self.idx[3] == 0",
        ],
    );
}

#[test]
fn a_rule_about_a_change_compares_list_entries_by_key() {
    let schema = widgets();
    let old = widget(json!({"name": "abc", "parts": [{"key": "a", "cnt": 5}, {"key": "b", "cnt": 1}]}));
    let moved = widget(json!({"name": "abc", "parts": [{"key": "b", "cnt": 2}, {"key": "a", "cnt": 5}]}));
    assert_eq!(lines(&schema.validate(&moved, Some(&old))), Vec::<String>::new());
    let shrunk = widget(json!({"name": "abc", "parts": [{"key": "c", "cnt": 0}, {"key": "a", "cnt": 4}]}));
    let expected = ["spec.parts[1].cnt: Invalid value: \"integer\": must not shrink"];
    assert_eq!(lines(&schema.validate(&shrunk, Some(&old))), expected);
}

#[test]
fn an_update_may_keep_what_has_become_invalid() {
    let schema = widgets();
    let old = widget(json!({"name": "TOOLONG", "replicas": 1, "parts": [{"key": "a", "m": 9}]}));
    let kept =
        widget(json!({"name": "TOOLONG", "replicas": 2, "parts": [{"key": "b"}, {"key": "a", "m": 9}]}));
    assert_eq!(lines(&schema.validate(&kept, Some(&old))), Vec::<String>::new());
    let worse = widget(json!({"name": "TOOLONG", "replicas": -2}));
    assert_eq!(schema.validate(&worse, Some(&old)).len(), 1);
    let rule = widget(json!({"name": "abc", "min": 14}));
    let other = widget(json!({"name": "abc", "min": 14, "max": 20}));
    assert_eq!(schema.validate(&rule, Some(&rule)).len(), 0);
    let warning = "spec: Invalid value: \"object\": failed rule: !has(self.min) || self.min != 14";
    assert_eq!(schema.warnings(&rule, &rule), [warning]);
    assert_eq!(schema.validate(&other, Some(&rule)).len(), 1, "the value the rule is about has changed");
}

#[test]
fn unknown_fields_are_pruned_and_named() {
    let schema = widgets();
    let mut object = json!({
        "apiVersion": "v1", "kind": "Widget", "metadata": {"name": "w", "odd": 1}, "data": 1,
        "spec": {
            "name": null, "none": null, "x": 1, "free": {"anything": {"goes": [1]}}, "labels": {"a": "b"},
            "parts": [{"key": "a", "y": {"z": 1}}], "res": {"apiVersion": "v1", "kind": "Pod", "metadata": {"q": 1}, "spec": {}},
        },
    });
    let removed = schema.prune(&mut object);
    assert_eq!(removed, ["data", "spec.parts[0].y", "spec.x"]);
    assert_eq!(
        object,
        json!({
            "apiVersion": "v1", "kind": "Widget", "metadata": {"name": "w", "odd": 1},
            "spec": {
                "none": null, "free": {"anything": {"goes": [1]}}, "labels": {"a": "b"}, "parts": [{"key": "a"}],
                "res": {"apiVersion": "v1", "kind": "Pod", "metadata": {"q": 1}, "spec": {}},
            },
        })
    );
}

#[test]
fn defaults_fill_in_only_what_is_absent() {
    let schema = widgets();
    let mut absent = widget(json!({"name": "abc"}));
    schema.default(&mut absent);
    assert_eq!(absent["spec"]["replicas"], 1);
    let mut given = widget(json!({"name": "abc", "replicas": 0}));
    schema.default(&mut given);
    assert_eq!(given["spec"]["replicas"], 0);
}

#[test]
fn a_clone_set_of_either_version_passes_its_own_schema() {
    let flat = json!({"type": "InPlaceIfPossible", "maxUnavailable": "20%", "partition": 1});
    let nested = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "20%", "partition": 1}});
    for (version, strategy) in [("v1alpha1", flat), ("v1beta1", nested)] {
        let schema = clonesets(version);
        let mut set = json!({
            "apiVersion": format!("apps.kruise.io/{version}"), "kind": "CloneSet", "metadata": {"name": "web"},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "main", "image": "nginx", "anything": {"else": [1]}}]},
                },
                "updateStrategy": strategy,
                "unheardOf": 1,
            },
        });
        assert_eq!(schema.prune(&mut set), ["spec.unheardOf"]);
        assert_eq!(lines(&schema.validate(&set, None)), Vec::<String>::new());
        assert_eq!(set["spec"]["template"]["spec"]["containers"][0]["anything"], json!({"else": [1]}));
        set["spec"]["replicas"] = json!("three");
        let expected = [
            "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\"",
        ];
        assert_eq!(lines(&schema.validate(&set, None)), expected);
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-5_i64..2000).prop_map(Value::from),
        "[a-z]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,3}|key|cnt|m", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_spec() -> impl Strategy<Value = Value> {
    let name = "name|replicas|ratio|mode|port|tags|labels|parts|free|res|any|min|max|other";
    prop::collection::btree_map(name, any_json(), 0..8)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pruning_and_defaulting_twice_changes_nothing_more(spec in any_spec()) {
        let schema = widgets();
        let mut once = widget(spec);
        schema.prune(&mut once);
        schema.default(&mut once);
        let mut twice = once.clone();
        prop_assert_eq!(schema.prune(&mut twice), Vec::<String>::new());
        schema.default(&mut twice);
        prop_assert_eq!(&once, &twice);
        prop_assert_eq!(schema.validate(&once, None), schema.validate(&twice, None));
    }

    #[test]
    fn an_unchanged_object_is_a_valid_update_unless_a_rule_about_the_change_objects(spec in any_spec()) {
        let schema = widgets();
        let object = widget(spec);
        let errors = schema.validate(&object, Some(&object));
        let known = |error: &FieldError| {
            let transition = error.message.contains("must not shrink");
            transition || error.field.starts_with("spec.res") || error.field == "<nil>"
        };
        prop_assert!(errors.iter().all(known), "{:?}", errors);
    }

    #[test]
    fn free_form_fields_keep_everything(value in any_json()) {
        let schema = widgets();
        let mut object = widget(json!({"name": "abc", "free": {"value": value.clone()}}));
        let before = object.clone();
        prop_assert_eq!(schema.prune(&mut object), Vec::<String>::new());
        prop_assert_eq!(object, before);
    }
}
