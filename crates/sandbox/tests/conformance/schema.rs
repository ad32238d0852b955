//! What the schema of a custom resource refuses, and the words it is refused in.

use serde_json::{Value, json};

use crate::custom::define;
use crate::harness::{Call, MERGE, Target};

const THINGS: &str = "/apis/{group}/v1/namespaces/{ns}/things";
const A: &str = "/apis/{group}/v1/namespaces/{ns}/things/a";

cases! {
    types_are_checked,
    bounds_are_checked,
    texts_are_checked,
    lists_are_checked,
    maps_are_checked,
    required_fields_are_checked,
    combined_schemas_are_checked,
    several_errors_are_told_together,
    rules_are_checked,
    transition_rules_see_the_old_object,
    rules_with_reason_path_and_message_expression,
    formats_are_checked,
    an_old_error_may_stay,
    embedded_objects_are_checked,
    null_is_dropped_where_it_is_not_allowed,
}

/// Defines things with this schema of their spec.
async fn given(t: &Target, spec: Value) {
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    let definition = json!({"metadata": {"name": "things.{group}"}, "spec": {"group": "{group}", "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    define(t, definition).await;
}

fn thing(spec: Value) -> Value {
    json!({"apiVersion": "{group}/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": spec})
}

async fn try_each(t: &Target, specs: &[Value]) {
    for spec in specs {
        t.post(&format!("{THINGS}?dryRun=All"), thing(spec.clone())).await;
    }
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

async fn types_are_checked(t: Target) {
    given(&t, object(json!({"i": {"type": "integer"}, "n": {"type": "number"}, "b": {"type": "boolean"}, "s": {"type": "string"},
        "o": {"type": "object", "properties": {"x": {"type": "string"}}}, "a": {"type": "array", "items": {"type": "string"}}, "p": {"x-kubernetes-int-or-string": true}})))
        .await;
    try_each(
        &t,
        &[
            json!({"i": "1"}),
            json!({"i": 1.5}),
            json!({"i": 1.0}),
            json!({"n": "x"}),
            json!({"n": 1}),
            json!({"b": "true"}),
            json!({"s": 5}),
            json!({"o": []}),
            json!({"o": "x"}),
            json!({"a": {}}),
            json!({"a": [1]}),
            json!({"p": 1.5}),
            json!({"p": "80%"}),
            json!({"p": true}),
            json!(5),
            json!([]),
        ],
    )
    .await;
}

async fn bounds_are_checked(t: Target) {
    given(&t, object(json!({"i": {"type": "integer", "minimum": 1, "maximum": 10}, "x": {"type": "number", "minimum": 0, "exclusiveMinimum": true, "maximum": 1, "exclusiveMaximum": true},
        "m": {"type": "integer", "multipleOf": 5}})))
        .await;
    try_each(
        &t,
        &[
            json!({"i": 0}),
            json!({"i": 11}),
            json!({"x": 0}),
            json!({"x": 1}),
            json!({"x": 0.5}),
            json!({"m": 7}),
            json!({"i": 1, "m": 10}),
        ],
    )
    .await;
}

async fn texts_are_checked(t: Target) {
    given(&t, object(json!({"s": {"type": "string", "minLength": 2, "maxLength": 4}, "p": {"type": "string", "pattern": "^[a-z]+$"}, "e": {"type": "string", "enum": ["x", "y"]},
        "n": {"type": "integer", "enum": [1, 2]}})))
        .await;
    try_each(
        &t,
        &[
            json!({"s": "a"}),
            json!({"s": "abcde"}),
            json!({"s": "äöü"}),
            json!({"p": "A"}),
            json!({"e": "z"}),
            json!({"e": 1}),
            json!({"n": 3}),
            json!({"p": "A", "e": "z"}),
        ],
    )
    .await;
}

async fn lists_are_checked(t: Target) {
    let map = json!({"type": "array", "maxItems": 10, "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]});
    given(&t, object(json!({"l": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, "s": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}, "m": map})))
        .await;
    try_each(
        &t,
        &[
            json!({"l": []}),
            json!({"l": [1, 2, 3]}),
            json!({"s": ["a", "b", "a"]}),
            json!({"m": [{"k": "a"}, {"k": "a", "v": 1}]}),
            json!({"m": [{"v": 1}]}),
            json!({"m": [{"k": "a", "v": "x"}]}),
        ],
    )
    .await;
}

async fn maps_are_checked(t: Target) {
    given(&t, object(json!({"m": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}, "minProperties": 1, "maxProperties": 2}}))).await;
    try_each(
        &t,
        &[
            json!({"m": {}}),
            json!({"m": {"a": 1, "b": 2, "c": 3}}),
            json!({"m": {"a": "x"}}),
            json!({"m": {"a.b/c": -1}}),
        ],
    )
    .await;
}

async fn required_fields_are_checked(t: Target) {
    given(&t, json!({"type": "object", "required": ["a", "o"], "properties": {"a": {"type": "string"}, "o": {"type": "object", "required": ["x", "y"], "properties": {"x": {"type": "string"}, "y": {"type": "string"}}}}}))
        .await;
    try_each(
        &t,
        &[
            json!({}),
            json!({"a": "1"}),
            json!({"a": "1", "o": {}}),
            json!({"a": "1", "o": {"x": "1"}}),
            json!({"a": null, "o": null}),
        ],
    )
    .await;
}

async fn combined_schemas_are_checked(t: Target) {
    given(&t, json!({"type": "object", "properties": {
        "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        "any": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        "all": {"type": "integer", "allOf": [{"minimum": 1}, {"maximum": 5}]},
        "not": {"type": "object", "properties": {"a": {"type": "string"}}, "not": {"required": ["a"]}},
    }}))
    .await;
    try_each(
        &t,
        &[
            json!({"one": {}}),
            json!({"one": {"a": "1", "b": "2"}}),
            json!({"any": {}}),
            json!({"all": 0}),
            json!({"all": 9}),
            json!({"not": {"a": "1"}}),
        ],
    )
    .await;
}

async fn several_errors_are_told_together(t: Target) {
    given(&t, json!({"type": "object", "required": ["z"], "properties": {"a": {"type": "string", "minLength": 2}, "b": {"type": "integer", "maximum": 1}, "z": {"type": "string"}, "c": {"type": "string"}}}))
        .await;
    try_each(
        &t,
        &[json!({"a": "x"}), json!({"a": "x", "b": 5, "z": "1"}), json!({"c": 1, "a": 2, "z": "1"})],
    )
    .await;
}

async fn rules_are_checked(t: Target) {
    given(&t, json!({"type": "object", "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "names": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 10}}},
        "x-kubernetes-validations": [
            {"rule": "!has(self.min) || !has(self.max) || self.min <= self.max", "message": "min must not exceed max"},
            {"rule": "!has(self.names) || self.names.all(n, n.startsWith('a'))"},
        ]}))
    .await;
    try_each(
        &t,
        &[
            json!({"min": 1, "max": 2, "names": ["a"]}),
            json!({"min": 3, "max": 2}),
            json!({"names": ["b"]}),
            json!({"min": 3, "max": 2, "names": ["b"]}),
            json!({"min": "x"}),
        ],
    )
    .await;
}

async fn transition_rules_see_the_old_object(t: Target) {
    given(&t, object(json!({"fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed may not change"}]}, "n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}})))
        .await;
    t.post(THINGS, thing(json!({"fixed": "a", "n": 1}))).await;
    t.patch(A, MERGE, json!({"spec": {"fixed": "b"}})).await;
    t.patch(A, MERGE, json!({"spec": {"n": 0}})).await;
    t.patch(A, MERGE, json!({"spec": {"n": 2}})).await;
    t.put(A, thing(json!({"n": 5}))).await;
}

async fn rules_with_reason_path_and_message_expression(t: Target) {
    given(&t, json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {"type": "integer"}}, "x-kubernetes-validations": [
        {"rule": "!has(self.a) || self.a > 0", "message": "a is small", "reason": "FieldValueForbidden", "fieldPath": ".a"},
        {"rule": "!has(self.b) || self.b > 0", "messageExpression": "self.b < 0 ? 'b is negative' : 'b is zero'"},
        {"rule": "!has(self.c) || self.c > 0", "message": "c is needed", "reason": "FieldValueRequired", "fieldPath": ".c"},
        {"rule": "!has(self.c) || self.c != 1", "reason": "FieldValueDuplicate"},
    ]}))
    .await;
    try_each(&t, &[json!({"a": 0}), json!({"b": 0}), json!({"c": 0}), json!({"c": 1})]).await;
}

async fn formats_are_checked(t: Target) {
    let all = [
        "date",
        "date-time",
        "ipv4",
        "ipv6",
        "uuid",
        "byte",
        "email",
        "uri",
        "duration",
        "cidr",
        "hostname",
        "mac",
    ];
    let mut properties: serde_json::Map<String, Value> = all
        .iter()
        .map(|format| ((*format).to_owned(), json!({"type": "string", "format": format})))
        .collect();
    properties.insert("int32".into(), json!({"type": "integer", "format": "int32"}));
    properties.insert("int64".into(), json!({"type": "integer", "format": "int64"}));
    given(&t, object(Value::Object(properties))).await;
    for format in all {
        t.post(&format!("{THINGS}?dryRun=All"), thing(json!({format: "not that"}))).await;
    }
    try_each(&t, &[json!({"int32": 2_147_483_648_i64}), json!({"date": "2001-02-03", "date-time": "2001-02-03T04:05:06Z", "ipv4": "1.2.3.4", "ipv6": "::1", "uuid": "00000000-0000-0000-0000-000000000000", "byte": "eA==", "email": "a@example.com", "duration": "1h", "cidr": "10.0.0.0/8"})])
        .await;
}

async fn an_old_error_may_stay(t: Target) {
    t.blur_versions();
    given(&t, object(json!({"s": {"type": "string"}, "other": {"type": "string"}}))).await;
    t.given(THINGS, thing(json!({"s": "long"}))).await;
    let path = format!("{}/things.{{group}}", crate::custom::CRDS);
    let tighten = r#"[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/s/maxLength","value":2}]"#;
    let answer = t.quiet(Call::new("PATCH", &path).body(crate::harness::JSON_PATCH, tighten)).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    let probe = thing(json!({"s": "also long"})).to_string();
    for _ in 0..400 {
        let call = Call::new("POST", &format!("{THINGS}?dryRun=All"))
            .body("application/json", &probe.replace("\"a\"", "\"b\""));
        if t.quiet(call).await.code == 422 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    t.patch(A, MERGE, json!({"spec": {"other": "changed"}})).await;
    t.patch(A, MERGE, json!({"spec": {"s": "longer"}})).await;
    t.patch(A, MERGE, json!({"spec": {"s": "ok"}})).await;
    t.patch(A, MERGE, json!({"spec": {"s": "long"}})).await;
}

async fn embedded_objects_are_checked(t: Target) {
    given(&t, object(json!({"o": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}))).await;
    try_each(&t, &[json!({"o": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "odd": 1}, "spec": {"any": 1}}}), json!({"o": {"kind": "Pod"}}), json!({"o": {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": 1}}}})])
        .await;
}

async fn null_is_dropped_where_it_is_not_allowed(t: Target) {
    given(&t, object(json!({"plain": {"type": "string"}, "nullable": {"type": "string", "nullable": true}, "defaulted": {"type": "string", "default": "d"}, "nullabledefault": {"type": "string", "nullable": true, "default": "d"}})))
        .await;
    try_each(
        &t,
        &[
            json!({"plain": null}),
            json!({"nullable": null}),
            json!({"defaulted": null}),
            json!({"nullabledefault": null}),
        ],
    )
    .await;
}
