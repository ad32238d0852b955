//! Templates as the reference stores them, and the equality that ignores how they are written.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::hash::fnv1a_of_printed;
use super::quantity;

/// Optional maps and lists that a typed serialisation leaves out when they are empty.
const OPTIONAL: &[&str] = &[
    "add",
    "annotations",
    "args",
    "claims",
    "command",
    "drop",
    "env",
    "envFrom",
    "ephemeralContainers",
    "finalizers",
    "hostAliases",
    "httpHeaders",
    "imagePullSecrets",
    "initContainers",
    "items",
    "labels",
    "limits",
    "matchExpressions",
    "matchFields",
    "matchLabelKeys",
    "matchLabels",
    "mountOptions",
    "nodeSelector",
    "options",
    "overhead",
    "ownerReferences",
    "ports",
    "readinessGates",
    "requests",
    "resizePolicy",
    "resourceClaims",
    "schedulingGates",
    "searches",
    "nameservers",
    "namespaces",
    "supplementalGroups",
    "sysctls",
    "tolerations",
    "topologySpreadConstraints",
    "volumeAttributes",
    "volumeDevices",
    "volumeMounts",
    "volumes",
    "preferredDuringSchedulingIgnoredDuringExecution",
    "requiredDuringSchedulingIgnoredDuringExecution",
];

/// Texts, flags and numbers that a typed serialisation leaves out when they are "", false or 0.
const ZERO: &[&str] = &[
    "value",
    "subPath",
    "subPathExpr",
    "medium",
    "workingDir",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "stdin",
    "stdinOnce",
    "tty",
    "readOnly",
    "serviceAccount",
    "serviceAccountName",
    "nodeName",
    "hostname",
    "subdomain",
    "priorityClassName",
    "generateName",
    "namespace",
    "hostIP",
    "hostPort",
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
];

/// `{"spec":{"template":{…,"$patch":"replace"}}}`, as a revision stores a template.
pub fn data_of(template: &Value) -> Value {
    let mut template = template.as_object().cloned().unwrap_or_default();
    template.insert("$patch".to_owned(), Value::from("replace"));
    let mut spec = Map::new();
    spec.insert("template".to_owned(), Value::Object(template));
    let mut data = Map::new();
    data.insert("spec".to_owned(), Value::Object(spec));
    Value::Object(data)
}

/// The template in a revision's data.
pub fn template_of(data: &Value) -> Option<&Value> {
    data.get("spec")?.get("template").filter(|template| template.is_object())
}

/// A revision's data in the reference's form: the fields it always writes, its quantities, none that it leaves out.
pub fn canonical(data: &Value) -> Value {
    let mut data = data.clone();
    if let Some(template) = data.get_mut("spec").and_then(|spec| spec.get_mut("template")) {
        canonicalise(template);
    }
    data
}

/// The bytes of [`canonical`]: sorted keys, no spaces, `<>&` escaped.
pub fn canonical_bytes(data: &Value) -> Vec<u8> {
    let mut text = String::new();
    write(&mut text, &canonical(data), &|_| None);
    text.into_bytes()
}

/// A pod template in the reference's form, without the patch directive.
pub fn canonical_template(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(map) = template.as_object_mut() {
        map.remove("$patch");
    }
    canonicalise(&mut template);
    template
}

fn canonicalise(template: &mut Value) {
    prune(template);
    let Some(template) = template.as_object_mut() else { return };
    stamp(template);
    let Some(spec) = template.get_mut("spec") else { return };
    quantities(spec.get_mut("overhead"));
    for list in ["initContainers", "containers"] {
        for container in entries(spec, list) {
            let Some(container) = container.as_object_mut() else { continue };
            let resources = container.entry("resources").or_insert_with(|| Value::Object(Map::new()));
            quantities(resources.get_mut("limits"));
            quantities(resources.get_mut("requests"));
            for env in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
                divisor(env.get_mut("valueFrom").and_then(|from| from.get_mut("resourceFieldRef")));
            }
        }
    }
    for volume in entries(spec, "volumes") {
        if let Some(limit) = volume.get_mut("emptyDir").and_then(|dir| dir.get_mut("sizeLimit")) {
            rewrite(limit);
        }
        if let Some(api) = volume.get_mut("downwardAPI") {
            divisors(api);
        }
        if let Some(projected) = volume.get_mut("projected") {
            for api in
                entries(projected, "sources").iter_mut().filter_map(|source| source.get_mut("downwardAPI"))
            {
                divisors(api);
            }
        }
        let claim = volume.get_mut("ephemeral").and_then(|source| source.get_mut("volumeClaimTemplate"));
        if let Some(claim) = claim.and_then(Value::as_object_mut) {
            stamp(claim);
            if let Some(spec) = claim.get_mut("spec").and_then(Value::as_object_mut) {
                let resources = spec.entry("resources").or_insert_with(|| Value::Object(Map::new()));
                quantities(resources.get_mut("limits"));
                quantities(resources.get_mut("requests"));
            }
        }
    }
}

fn stamp(object: &mut Map<String, Value>) {
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.entry("creationTimestamp").or_insert(Value::Null);
    }
}

fn entries<'a>(parent: &'a mut Value, list: &str) -> &'a mut [Value] {
    parent.get_mut(list).and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default()
}

fn quantities(map: Option<&mut Value>) {
    map.and_then(Value::as_object_mut).into_iter().flatten().for_each(|(_, value)| rewrite(value));
}

fn rewrite(value: &mut Value) {
    if let Some(text) = quantity::canonical(value) {
        *value = Value::String(text);
    }
}

fn divisors(api: &mut Value) {
    for item in entries(api, "items") {
        divisor(item.get_mut("resourceFieldRef"));
    }
}

fn divisor(field: Option<&mut Value>) {
    if let Some(field) = field.and_then(Value::as_object_mut) {
        rewrite(field.entry("divisor").or_insert_with(|| Value::from("0")));
    }
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| {
                let free_form =
                    matches!(key.as_str(), "labels" | "annotations" | "matchLabels" | "nodeSelector");
                if !free_form {
                    prune(value);
                }
                let known = key.as_str();
                !(value.is_null()
                    || OPTIONAL.contains(&known) && is_empty(value)
                    || ZERO.contains(&known) && is_zero(value))
            });
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// Says in which order a key's own keys are written; `None` is alphabetical.
type Order = dyn Fn(&str) -> Option<&'static [&'static str]>;

fn write(out: &mut String, value: &Value, order: &Order) {
    write_in(out, value, "", order);
}

fn write_in(out: &mut String, value: &Value, place: &str, order: &Order) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_text(out, text),
        Value::Array(list) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_in(out, item, place, order);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            let listed = order(place).unwrap_or_default();
            let rank = |key: &str| listed.iter().position(|name| *name == key).unwrap_or(listed.len());
            keys.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
            out.push('{');
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_text(out, key);
                out.push(':');
                write_in(out, map.get(key).unwrap_or(&Value::Null), key, order);
            }
            out.push('}');
        }
    }
}

fn write_number(out: &mut String, number: &serde_json::Number) {
    let float = number.as_f64().unwrap_or_default();
    // Integers pass through 64-bit floats in the reference; up to 2^53 that changes nothing.
    if float.fract() == 0.0 && float.abs() < 1e18 {
        let _ = write!(out, "{}", float as i64);
    } else {
        let _ = write!(out, "{number}");
    }
}

/// A JSON text with the escapes of Go's encoder, which keeps HTML out.
pub fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// True if two pod templates mean the same: absent, null and empty are one, and quantities compare by value.
pub fn same_template(a: &Value, b: &Value) -> bool {
    a == b || same(Some(&canonical_template(a)), Some(&canonical_template(b)), "")
}

/// Semantic equality of two values found under `key`.
pub(crate) fn same(a: Option<&Value>, b: Option<&Value>, key: &str) -> bool {
    match (a, b) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let amounts = matches!(key, "limits" | "requests" | "overhead");
            let inner =
                |name: &String| same(a.get(name), b.get(name), if amounts { "sizeLimit" } else { name });
            a.keys().all(inner) && b.keys().filter(|name| !a.contains_key(*name)).all(inner)
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b), ""))
        }
        (Some(Value::Number(a)), Some(Value::Number(b))) if a != b => a.as_f64() == b.as_f64(),
        (Some(x), Some(y)) if x == y => true,
        (Some(x), Some(y)) if matches!(key, "sizeLimit" | "divisor") => {
            quantity::nanos(x).is_some_and(|nanos| quantity::nanos(y) == Some(nanos))
        }
        _ => a.is_none_or(is_blank) && b.is_none_or(is_blank),
    }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().all(is_blank),
        other => is_empty(other),
    }
}

/// Hash of a CloneSet's volume claim templates, as decimal text; empty if there are none.
pub fn vct_hash(claims: &[Value]) -> String {
    if claims.is_empty() {
        return String::new();
    }
    let mut claims: Vec<Value> = claims.iter().map(claim).collect();
    claims.sort_by(|a, b| claim_name(a).cmp(claim_name(b)));
    let mut text = String::new();
    write(&mut text, &Value::Array(claims), &|place| match place {
        "" => Some(&["metadata", "spec", "status"]),
        "metadata" => Some(&["name", "creationTimestamp"]),
        "spec" => Some(&[
            "accessModes",
            "selector",
            "resources",
            "volumeName",
            "storageClassName",
            "volumeMode",
            "dataSource",
            "dataSourceRef",
            "volumeAttributesClassName",
        ]),
        "selector" => Some(&["matchLabels", "matchExpressions"]),
        "matchExpressions" => Some(&["key", "operator", "values"]),
        "dataSource" | "dataSourceRef" => Some(&["apiGroup", "kind", "name", "namespace"]),
        _ => None,
    });
    fnv1a_of_printed(text.as_bytes()).to_string()
}

fn claim_name(claim: &Value) -> &str {
    claim
        .get("metadata")
        .and_then(|metadata| metadata.get("name"))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn claim(given: &Value) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), Value::from(claim_name(given)));
    metadata.insert("creationTimestamp".to_owned(), Value::Null);
    let mut spec = given.get("spec").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    prune(&mut spec);
    if let Some(spec) = spec.as_object_mut() {
        spec.retain(|key, value| key != "accessModes" || !is_empty(value));
        let resources = spec.entry("resources").or_insert_with(|| Value::Object(Map::new()));
        quantities(resources.get_mut("limits"));
        quantities(resources.get_mut("requests"));
    }
    let mut claim = Map::new();
    claim.insert("metadata".to_owned(), Value::Object(metadata));
    claim.insert("spec".to_owned(), spec);
    claim.insert("status".to_owned(), Value::Object(Map::new()));
    Value::Object(claim)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::revision::hash;

    #[test]
    fn an_ordinary_template_gets_the_references_bytes() {
        let template = json!({
            "metadata": {"labels": {"app": "demo"}, "annotations": {}},
            "spec": {"containers": [{"name": "main", "image": "nginx:1.0", "env": []}], "tolerations": null},
        });
        let bytes = canonical_bytes(&data_of(&template));
        let expected = r#"{"spec":{"template":{"$patch":"replace","metadata":{"creationTimestamp":null,"labels":{"app":"demo"}},"spec":{"containers":[{"image":"nginx:1.0","name":"main","resources":{}}]}}}}"#;
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        assert_eq!(hash(&bytes, 0), "6c4bf58578");
    }

    #[test]
    fn html_is_escaped_as_the_reference_does() {
        let data = json!({"a": "<b> & \u{2028}\u{2029}\u{1}é"});
        let bytes = canonical_bytes(&data);
        assert_eq!(String::from_utf8(bytes).unwrap(), r#"{"a":"\u003cb\u003e \u0026 \u2028\u2029\u0001é"}"#);
    }

    #[test]
    fn a_quantity_written_otherwise_is_the_same_template() {
        let with = |cpu: &str| json!({"spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": cpu}}}]}});
        assert!(same_template(&with("1000m"), &with("1")));
        assert!(!same_template(&with("1001m"), &with("1")));
        let dir = |size: &str| json!({"spec": {"volumes": [{"name": "a", "emptyDir": {"sizeLimit": size}}]}});
        assert!(same_template(&dir("1Gi"), &dir("1073741824")));
    }

    #[test]
    fn a_revision_stored_by_the_reference_equals_the_live_template() {
        let stored = json!({"$patch": "replace", "metadata": {"creationTimestamp": null, "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "a", "image": "x:1", "resources": {},
                "env": [{"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}}]}]}});
        let live = json!({"metadata": {"labels": {"a": "b"}, "annotations": null},
            "spec": {"nodeSelector": {}, "containers": [{"name": "a", "image": "x:1",
                "env": [{"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}]}});
        assert!(same_template(&stored, &live));
    }

    #[test]
    fn an_empty_env_value_is_the_same_before_and_after_storing() {
        let live = json!({"spec": {"containers": [{"name": "a", "env": [{"name": "E", "value": ""}]}]}});
        let stored = canonical(&data_of(&live));
        assert!(same_template(template_of(&stored).unwrap(), &live));
    }

    #[test]
    fn claims_hash_to_the_references_number() {
        let claim = json!({"metadata": {"name": "data", "labels": {"ignored": "yes"}},
            "spec": {"resources": {"requests": {"storage": "1024Mi"}}, "accessModes": ["ReadWriteOnce"]}});
        assert_eq!(vct_hash(&[claim]), "3636919212");
        assert_eq!(vct_hash(&[]), "");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z<&]{1,6}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("x[a-z]{1,4}", inner), 1..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    fn reversed(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                Value::Object(map.iter().rev().map(|(key, value)| (key.clone(), reversed(value))).collect())
            }
            Value::Array(list) => Value::Array(list.iter().map(reversed).collect()),
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn storing_a_template_keeps_fields_nobody_knows(unknown in any_value()) {
            let template = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "future": unknown}], "newer": unknown}});
            let stored: Value = serde_json::from_slice(&canonical_bytes(&data_of(&template))).unwrap();
            let back = template_of(&stored).unwrap();
            prop_assert_eq!(&back["spec"]["newer"], &unknown);
            prop_assert_eq!(&back["spec"]["containers"][0]["future"], &unknown);
            prop_assert!(same_template(back, &template));
        }

        #[test]
        fn the_order_of_keys_does_not_change_the_bytes(value in any_value()) {
            let template = json!({"metadata": {"labels": {"b": "1", "a": "2"}}, "spec": {"x": value}});
            prop_assert_eq!(canonical_bytes(&data_of(&template)), canonical_bytes(&data_of(&reversed(&template))));
        }
    }
}
