//! Tables recorded from a Kubernetes 1.34 API server, rendered again.

use serde_json::json;

use super::*;
use crate::resource::{Conversion, Version};

fn resource(group: &str, version: &str, kind: &str, custom: bool, columns: Vec<Value>) -> Resource {
    Resource {
        group: group.to_owned(),
        plural: format!("{}s", kind.to_lowercase()),
        singular: kind.to_lowercase(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        versions: vec![Version {
            name: version.to_owned(),
            schema: None,
            structural: None,
            columns,
            subresources: Vec::new(),
            scale: None,
            selectable_fields: Vec::new(),
            deprecation: None,
        }],
        storage: version.to_owned(),
        conversion: Conversion::None,
        custom,
        schemas: std::collections::BTreeMap::new(),
    }
}

fn recorded() -> Value {
    serde_json::from_str(include_str!("testdata/tables.json")).unwrap()
}

/// The resource of `group/version/Kind`.
fn resource_of(recorded: &Value, key: &str) -> (Resource, String) {
    let mut parts = key.rsplit('/');
    let (kind, version) = (parts.next().unwrap(), parts.next().unwrap());
    let group = parts.next().unwrap_or_default();
    let custom = group == "pt.example";
    let columns =
        if custom && version == "v1" { recorded["printer"].as_array().unwrap().clone() } else { Vec::new() };
    (resource(group, version, kind, custom, columns), version.to_owned())
}

#[test]
fn cells_are_those_of_a_kubernetes_1_34_api_server() {
    let recorded = recorded();
    let mut failures = Vec::new();
    let cases = recorded["cases"].as_array().unwrap();
    for case in cases {
        let key = case["of"].as_str().unwrap();
        let (resource, version) = resource_of(&recorded, key);
        let now = case["now"].as_str().unwrap().parse().unwrap();
        let table = render(&resource, &version, &[&case["object"]], Include::None, now);
        let row = &table["rows"][0];
        let number = |value: &Value| value.as_f64().map_or_else(|| value.clone(), |number| json!(number));
        let numbers = |cells: &Value| cells.as_array().unwrap().iter().map(number).collect::<Vec<_>>();
        if numbers(&row["cells"]) != numbers(&case["cells"])
            || row.get("conditions") != case.get("conditions")
        {
            failures.push(format!("{key}:\n  {}\n  {}", row["cells"], case["cells"]));
        }
        assert!(row["object"].is_null());
    }
    assert!(failures.is_empty(), "{} of {} differ\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn columns_of_custom_and_unknown_kinds_are_those_of_the_api_server() {
    let recorded = recorded();
    let now = Timestamp::UNIX_EPOCH;
    for (key, wanted) in
        [("pt.example/v1/Col", "custom"), ("pt.example/v2/Col", "plain"), ("v1/LimitRange", "unknown")]
    {
        let (resource, version) = resource_of(&recorded, key);
        let table = render(&resource, &version, &[], Include::None, now);
        assert_eq!(table["columnDefinitions"], recorded[wanted], "{key}");
        assert_eq!(table["rows"].is_null(), wanted == "unknown");
    }
}

#[test]
fn every_kind_with_columns_fills_all_of_them() {
    for (key, builtin) in builtins() {
        let cells = (builtin.cells)(cells::Cx { object: &json!({}), now: Timestamp::UNIX_EPOCH });
        // The API server itself has an age without a column for this kind.
        let extra = usize::from(&**key == "networking.k8s.io/v1/IPAddress");
        assert_eq!(cells.len(), builtin.columns.as_array().unwrap().len() + extra, "{key}");
    }
    let kinds: Map<String, Value> = serde_json::from_str(include_str!("columns.json")).unwrap();
    assert_eq!(builtins().len(), kinds.len());
}

#[test]
fn rows_carry_the_metadata_unless_asked_otherwise() {
    let (resource, version) = resource_of(&recorded(), "v1/ConfigMap");
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y"}});
    let shown = |include| {
        render(&resource, &version, &[&object], include, Timestamp::UNIX_EPOCH)["rows"][0]["object"].clone()
    };
    assert_eq!(shown(Include::Object), object);
    let metadata =
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a"}});
    assert_eq!(shown(Include::Metadata), metadata);
    assert_eq!(shown(Include::None), Value::Null);
    assert_eq!(Include::parse("Objects"), None);
}

#[test]
fn durations_have_two_or_three_significant_figures() {
    for (seconds, text) in [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (252, "4m12s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (5 * 3600 + 1800, "5h30m"),
        (8 * 3600 + 60, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (51 * 3600, "2d3h"),
        (8 * 86400 + 3600, "8d"),
        (729 * 86400, "729d"),
        (730 * 86400, "2y"),
        (750 * 86400, "2y20d"),
        (3000 * 86400, "8y"),
    ] {
        assert_eq!(human(SignedDuration::from_secs(seconds)), text, "{seconds}");
    }
}
