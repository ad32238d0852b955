//! Custom resources: serving, pruning, defaults, versions, subresources, selectable fields, server-side apply.

use serde_json::{Value, json};

use crate::harness::{APPLY, Answer, Call, JSON_PATCH, MERGE, STRATEGIC, Target};

pub(crate) const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub(crate) const WIDGETS: &str = "/apis/{group}/v1/namespaces/{ns}/widgets";
pub(crate) const A: &str = "/apis/{group}/v1/namespaces/{ns}/widgets/a";

cases! {
    a_definition_is_accepted_and_established,
    a_wrong_definition_is_refused,
    a_definition_may_change_only_so_far,
    a_custom_object_is_stored,
    unknown_fields_are_pruned,
    unknown_fields_are_refused_warned_of_or_ignored,
    defaults_are_filled_in,
    bodies_are_checked,
    patches_apply_but_for_strategic_ones,
    the_status_is_written_apart,
    the_scale_is_read_and_written,
    a_scale_without_a_version_is_written_on_what_is_there,
    versions_share_one_object,
    a_resource_is_discovered,
    selectable_fields_select,
    columns_make_a_table,
    apply_merges_lists_by_their_type,
    the_generation_counts_all_but_metadata_and_status,
    a_deleted_definition_takes_its_objects,
    names_taken_by_another_are_not_accepted,
    a_cluster_scoped_resource_is_served_without_namespace,
    a_schema_is_in_openapi,
}

/// A definition of widgets with everything the cases look at.
pub(crate) fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "replicas": {"type": "integer", "format": "int32", "minimum": 0, "default": 1},
            "size": {"type": "string", "enum": ["S", "M", "L"], "default": "M"},
            "template": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "parts": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "count": {"type": "integer", "default": 1}}},
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "steps": {"type": "array", "items": {"type": "string"}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "port": {"x-kubernetes-int-or-string": true},
            "note": {"type": "string", "nullable": true},
        }},
        "status": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "selector": {"type": "string"}, "phase": {"type": "string"},
            "conditions": {"type": "array", "items": {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}, "status": {"type": "string"}}}},
        }},
    }});
    let columns = json!([
        {"name": "Size", "type": "string", "jsonPath": ".spec.size", "description": "how large"},
        {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status", "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]);
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema},
        "additionalPrinterColumns": columns, "selectableFields": [{"jsonPath": ".spec.size"}],
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}}})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.{group}"}, "spec": {
        "group": "{group}", "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
        "versions": [version("v1", true), version("v1beta1", false)]}})
}

pub(crate) fn established(answer: &Answer) -> bool {
    answer.json["status"]["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(|c| c["type"] == "Established" && c["status"] == "True"))
}

/// Creates the definition and waits until it is served.
pub(crate) async fn define(t: &Target, definition: Value) {
    let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
    let path = format!("{CRDS}/{name}");
    t.leaves(&path);
    t.given(CRDS, definition.clone()).await;
    t.until(&path, "the definition is established", established).await;
    let group = definition["spec"]["group"].as_str().unwrap();
    let plural = definition["spec"]["names"]["plural"].as_str().unwrap();
    for version in definition["spec"]["versions"].as_array().unwrap() {
        let version = version["name"].as_str().unwrap();
        t.until(&format!("/apis/{group}/{version}/{plural}"), "the resource is served", |a| a.code == 200)
            .await;
    }
}

pub(crate) fn widget(spec: Value) -> Value {
    json!({"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": spec})
}

async fn a_definition_is_accepted_and_established(t: Target) {
    let path = format!("{CRDS}/widgets.{{group}}");
    t.leaves(&path);
    let mut small = definition();
    small["spec"]["versions"] = json!([{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]);
    t.blur_versions();
    t.post(CRDS, small.clone()).await;
    let answer = t.until(&path, "the definition is established", established).await;
    for part in ["spec", "status"] {
        t.note(&format!("{part} {}", serde_json::to_string_pretty(&answer.json[part]).unwrap()));
    }
    t.post(CRDS, small).await;
}

async fn a_wrong_definition_is_refused(t: Target) {
    let with = |change: fn(&mut Value)| {
        let mut body = json!({"metadata": {"name": "widgets.{group}"}, "spec": {"group": "{group}", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
        change(&mut body);
        body
    };
    let changes: [fn(&mut Value); 20] = [
        |d| d["metadata"]["name"] = json!("gadgets.{group}"),
        |d| d["spec"]["group"] = json!(""),
        |d| d["spec"]["scope"] = json!("Everywhere"),
        |d| d["spec"]["versions"] = json!([]),
        |d| d["spec"]["versions"][0]["storage"] = json!(false),
        |d| d["spec"]["versions"][0]["name"] = json!("V1"),
        |d| d["spec"]["versions"][0]["schema"] = json!({}),
        |d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "string"}),
        |d| {
            d["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
                json!({"type": "object", "properties": {"spec": {}}})
        },
        |d| {
            d["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
                json!({"type": "object", "properties": {"a": {"type": "array"}}})
        },
        |d| {
            d["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
                json!({"type": "object", "properties": {"a": {"type": "string", "default": 5}}})
        },
        |d| {
            d["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
                json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}})
        },
        |d| {
            d["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
                json!({"type": "object", "properties": {"a": {"type": "frob"}}})
        },
        |d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"}}}),
        |d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "object", "additionalProperties": {"type": "string"}, "properties": {"a": {"type": "string"}}}),
        |d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}, "uniqueItems": true}}}),
        |d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
        |d| {
            d["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
                json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.nope > 1"}]})
        },
        |d| {
            d["spec"]["versions"][0]["additionalPrinterColumns"] =
                json!([{"name": "A", "type": "frob", "jsonPath": "a"}])
        },
        |d| d["spec"]["names"] = json!({"plural": "Widgets", "kind": "1"}),
    ];
    for change in changes {
        t.post(&format!("{CRDS}?dryRun=All"), with(change)).await;
    }
    let both = |d: &mut Value| {
        let first = d["spec"]["versions"][0].clone();
        d["spec"]["versions"].as_array_mut().unwrap().push(first);
    };
    let mut twice = with(|_| ());
    both(&mut twice);
    t.post(&format!("{CRDS}?dryRun=All"), twice).await;
    let mut rule = with(|_| ());
    rule["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "object", "properties": {"a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >"}, {"rule": "self + 1"}, {"rule": ""}]}}});
    t.post(&format!("{CRDS}?dryRun=All"), rule).await;
    let mut conversion = with(|_| ());
    conversion["spec"]["conversion"] = json!({"strategy": "Webhook"});
    t.post(&format!("{CRDS}?dryRun=All"), conversion).await;
    let mut preserve = with(|_| ());
    preserve["spec"]["preserveUnknownFields"] = json!(true);
    t.post(&format!("{CRDS}?dryRun=All"), preserve).await;
}

async fn a_definition_may_change_only_so_far(t: Target) {
    t.blur_versions();
    define(&t, definition()).await;
    let path = format!("{CRDS}/widgets.{{group}}?dryRun=All");
    t.patch(&path, MERGE, json!({"spec": {"scope": "Cluster"}})).await;
    t.patch(&path, MERGE, json!({"spec": {"group": "other.example.com"}})).await;
    t.patch(&path, MERGE, json!({"spec": {"names": {"kind": "Gadget"}}})).await;
    t.patch(&path, JSON_PATCH, json!([{"op": "remove", "path": "/spec/versions/0"}, {"op": "replace", "path": "/spec/versions/0/storage", "value": true}])).await;
}

async fn a_custom_object_is_stored(t: Target) {
    define(&t, definition()).await;
    t.post(WIDGETS, widget(json!({"size": "L", "port": "http"}))).await;
    t.get(A).await;
    t.post(WIDGETS, widget(json!({}))).await;
    t.get(WIDGETS).await;
    t.get(&format!("{WIDGETS}/no-such")).await;
    let object = t.put(A, widget(json!({"size": "S"}))).await;
    t.put(A, object.json.clone()).await;
    t.put(A, object.with(|o| o["metadata"]["resourceVersion"] = json!("1"))).await;
    t.put(
        A,
        object.with(|o| {
            o["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        }),
    )
    .await;
    t.delete(A).await;
    t.delete(A).await;
}

async fn unknown_fields_are_pruned(t: Target) {
    define(&t, definition()).await;
    t.post(WIDGETS, json!({"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {"name": "a", "foo": "x"}, "other": 1,
        "spec": {"foo": 1, "template": {"kept": {"deep": [1]}}, "parts": [{"name": "p", "bar": 2}], "labels": {"any": "key"}}}))
        .await;
    t.patch(A, MERGE, json!({"spec": {"bar": 1}})).await;
}

async fn unknown_fields_are_refused_warned_of_or_ignored(t: Target) {
    define(&t, definition()).await;
    let odd = widget(json!({"foo": 1, "parts": [{"name": "p", "bar": 2}]}));
    for query in [
        "fieldValidation=Strict",
        "fieldValidation=Warn&dryRun=All",
        "fieldValidation=Ignore&dryRun=All",
        "dryRun=All",
    ] {
        t.post(&format!("{WIDGETS}?{query}"), odd.clone()).await;
    }
    t.given(WIDGETS, widget(json!({}))).await;
    t.patch(&format!("{A}?fieldValidation=Strict"), MERGE, json!({"spec": {"foo": 1}})).await;
    t.patch(
        &format!("{A}?fieldValidation=Strict"),
        JSON_PATCH,
        json!([{"op": "add", "path": "/spec/foo", "value": 1}]),
    )
    .await;
    t.patch(&format!("{A}?fieldValidation=Warn"), MERGE, json!({"spec": {"foo": 1}})).await;
    let twice = r#"{"apiVersion":"{group}/v1","kind":"Widget","metadata":{"name":"d"},"spec":{"size":"S","size":"L"}}"#;
    t.send(Call::new("POST", &format!("{WIDGETS}?fieldValidation=Strict")).body("application/json", twice))
        .await;
}

async fn defaults_are_filled_in(t: Target) {
    define(&t, definition()).await;
    t.post(WIDGETS, widget(json!({"parts": [{"name": "p"}], "note": null}))).await;
    t.put(A, widget(json!({"replicas": null, "size": "L"}))).await;
    t.post(WIDGETS, json!({"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {"name": "b"}})).await;
}

async fn bodies_are_checked(t: Target) {
    define(&t, definition()).await;
    t.post(WIDGETS, json!({"metadata": {"name": "b"}})).await;
    t.post(WIDGETS, json!({"apiVersion": "{group}/v1", "kind": "Gadget", "metadata": {"name": "b"}})).await;
    t.post(WIDGETS, json!({"apiVersion": "{group}/v2", "kind": "Widget", "metadata": {"name": "b"}})).await;
    t.post(WIDGETS, json!({"apiVersion": "{group}/v1beta1", "kind": "Widget", "metadata": {"name": "b"}}))
        .await;
    t.post(WIDGETS, json!({"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {"name": "B_"}})).await;
    t.post(WIDGETS, json!({"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {"name": 5}})).await;
    t.post(
        WIDGETS,
        json!({"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {"name": "b", "labels": {"a": 5}}}),
    )
    .await;
    t.post(WIDGETS, json!({"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {"name": "b", "namespace": "other"}})).await;
    t.post(
        WIDGETS,
        json!({"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {"generateName": "b-"}}),
    )
    .await;
    t.post(WIDGETS, json!({"apiVersion": "{group}/v1", "kind": "Widget"})).await;
    for body in ["{", "", "[]", "null"] {
        t.send(Call::new("POST", WIDGETS).body("application/json", body)).await;
    }
    t.send(Call::new("POST", WIDGETS).body("text/plain", "{}")).await;
    t.put(A, widget(json!({}))).await;
}

async fn patches_apply_but_for_strategic_ones(t: Target) {
    define(&t, definition()).await;
    t.given(WIDGETS, widget(json!({"steps": ["a", "b"]}))).await;
    t.patch(A, MERGE, json!({"spec": {"size": "L", "steps": ["c"]}})).await;
    t.patch(A, JSON_PATCH, json!([{"op": "add", "path": "/spec/steps/-", "value": "d"}])).await;
    t.patch(A, STRATEGIC, json!({"spec": {"size": "S"}})).await;
    t.patch(A, MERGE, json!({"spec": {"size": "XL"}})).await;
    t.patch(A, MERGE, json!({"metadata": {"name": "q"}})).await;
    t.patch(A, MERGE, json!({"kind": "Gadget"})).await;
    t.patch(A, MERGE, json!({"apiVersion": "{group}/v1beta1"})).await;
    t.patch(A, JSON_PATCH, json!([{"op": "test", "path": "/spec/size", "value": "none"}])).await;
    t.send(Call::new("PATCH", A).body(MERGE, "{")).await;
}

async fn the_status_is_written_apart(t: Target) {
    define(&t, definition()).await;
    let status = format!("{A}/status");
    let mut body = widget(json!({"size": "S"}));
    body["status"] = json!({"phase": "given"});
    t.post(WIDGETS, body.clone()).await;
    body["status"] = json!({"phase": "by put"});
    t.put(A, body.clone()).await;
    t.put(&status, body.clone()).await;
    t.patch(&status, MERGE, json!({"metadata": {"labels": {"l": "1"}, "annotations": {"n": "1"}, "finalizers": ["example.com/f"]}, "spec": {"size": "L"}, "status": {"phase": "by patch"}}))
        .await;
    t.patch(A, MERGE, json!({"status": null})).await;
    t.get(&status).await;
    t.patch(&status, MERGE, json!({"status": {"phase": 5}})).await;
    t.patch(&status, MERGE, json!({"status": null})).await;
    let apply = json!({"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {"name": "a"}, "status": {"phase": "applied"}});
    t.patch(&format!("{status}?fieldManager=one"), APPLY, apply).await;
    t.get(&format!("{WIDGETS}/no-such/status")).await;
    t.delete(&status).await;
}

async fn the_scale_is_read_and_written(t: Target) {
    define(&t, definition()).await;
    t.given(WIDGETS, widget(json!({"replicas": 2}))).await;
    let scale = format!("{A}/scale");
    let read = t.get(&scale).await;
    t.put(&scale, read.with(|o| o["spec"]["replicas"] = json!(5))).await;
    t.put(&scale, read.with(|o| o["spec"]["replicas"] = json!(6))).await;
    t.patch(&scale, MERGE, json!({"spec": {"replicas": 3}})).await;
    t.patch(&scale, JSON_PATCH, json!([{"op": "replace", "path": "/spec/replicas", "value": 4}])).await;
    t.patch(&scale, MERGE, json!({"spec": {"replicas": -1}})).await;
    t.patch(&format!("{A}/status"), MERGE, json!({"status": {"replicas": 1, "selector": "a=b"}})).await;
    t.get(&scale).await;
    t.get(A).await;
    t.get(&format!("{WIDGETS}/no-such/scale")).await;
}

async fn a_scale_without_a_version_is_written_on_what_is_there(t: Target) {
    define(&t, definition()).await;
    t.given(WIDGETS, widget(json!({"replicas": 2}))).await;
    let scale = format!("{A}/scale");
    let read = t.get(&scale).await;
    t.quiet(Call::new("PATCH", A).body(MERGE, r#"{"metadata":{"labels":{"l":"1"}}}"#)).await;
    let without = |replicas: i64| {
        read.with(|o| {
            o["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            o["spec"]["replicas"] = json!(replicas);
        })
    };
    t.put(&scale, without(5)).await;
    let mut empty = without(6);
    empty["metadata"]["resourceVersion"] = json!("");
    t.put(&scale, empty).await;
    t.put(&scale, read.with(|o| o["spec"]["replicas"] = json!(7))).await;
}

async fn versions_share_one_object(t: Target) {
    define(&t, definition()).await;
    let beta = "/apis/{group}/v1beta1/namespaces/{ns}/widgets";
    t.given(WIDGETS, widget(json!({}))).await;
    t.get(&format!("{beta}/a")).await;
    t.post(beta, json!({"apiVersion": "{group}/v1beta1", "kind": "Widget", "metadata": {"name": "b"}})).await;
    t.get(&format!("{WIDGETS}/b")).await;
    t.get(beta).await;
    t.get("/apis/{group}/v2/namespaces/{ns}/widgets").await;
    t.patch(&format!("{CRDS}/widgets.{{group}}?dryRun=All"), JSON_PATCH, json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}, {"op": "test", "path": "/spec/group", "value": "x"}]))
        .await;
}

async fn a_resource_is_discovered(t: Target) {
    define(&t, definition()).await;
    t.until("/apis/{group}", "the group is discovered", |a| a.code == 200).await;
    t.get("/apis/{group}").await;
    let mut listed = t
        .until("/apis/{group}/v1", "the resources are discovered", |a| {
            a.json["resources"].as_array().is_some_and(|all| all.len() == 3)
        })
        .await;
    for resource in listed.json["resources"].as_array_mut().unwrap() {
        resource.as_object_mut().unwrap().remove("storageVersionHash");
        t.note(&resource.to_string());
    }
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let group = t.fill("{group}");
    for _ in 0..600 {
        let answer = t.quiet(Call::new("GET", "/apis").accept(accept)).await;
        if let Some(found) = answer.json["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["metadata"]["name"] == group.as_str())
        {
            t.note(&found["versions"].to_string());
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the group is not in the aggregated discovery");
}

async fn selectable_fields_select(t: Target) {
    define(&t, definition()).await;
    for (name, size) in [("a", "S"), ("b", "M"), ("c", "S")] {
        t.given(WIDGETS, json!({"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": size}})).await;
    }
    for selector in
        ["spec.size%3DS", "spec.size%21%3DS", "metadata.name%3Da", "spec.size%3DS,metadata.name%3Dc"]
    {
        let answer = t.quiet(Call::new("GET", &format!("{WIDGETS}?fieldSelector={selector}"))).await;
        let names: Vec<&str> = answer.json["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap())
            .collect();
        t.note(&format!("{selector}: {names:?}"));
    }
    t.get(&format!("{WIDGETS}?fieldSelector=spec.replicas%3D1")).await;
    let version = t.quiet(Call::new("GET", WIDGETS)).await.version();
    let mut watch =
        t.watch(&format!("{WIDGETS}?watch=true&fieldSelector=spec.size%3DS&resourceVersion={version}")).await;
    t.quiet(Call::new("PATCH", A).body(MERGE, r#"{"spec":{"size":"L"}}"#)).await;
    watch.next().await.unwrap();
    t.quiet(Call::new("PATCH", A).body(MERGE, r#"{"spec":{"size":"S"}}"#)).await;
    watch.next().await.unwrap();
}

async fn columns_make_a_table(t: Target) {
    define(&t, definition()).await;
    t.given(WIDGETS, widget(json!({"replicas": 3}))).await;
    t.quiet(Call::new("PATCH", &format!("{A}/status")).body(
        MERGE,
        r#"{"status":{"conditions":[{"type":"Other","status":"False"},{"type":"Ready","status":"True"}]}}"#,
    ))
    .await;
    let table =
        t.quiet(Call::new("GET", WIDGETS).accept("application/json;as=Table;g=meta.k8s.io;v=v1")).await;
    for column in table.json["columnDefinitions"].as_array().unwrap() {
        t.note(&column.to_string());
    }
    let cells = table.json["rows"][0]["cells"].as_array().unwrap();
    t.note(&Value::from(cells[..cells.len() - 1].to_vec()).to_string());
}

async fn apply_merges_lists_by_their_type(t: Target) {
    define(&t, definition()).await;
    let path = |manager: &str| format!("{A}?fieldManager={manager}");
    t.patch(
        &path("one"),
        APPLY,
        widget(json!({"parts": [{"name": "p", "count": 1}], "tags": ["x", "y"], "steps": ["s"]})),
    )
    .await;
    t.patch(&path("two"), APPLY, widget(json!({"parts": [{"name": "q", "count": 2}], "tags": ["z"]}))).await;
    t.patch(&path("two"), APPLY, widget(json!({"parts": [{"name": "p", "count": 5}], "steps": ["t"]}))).await;
    t.patch(&path("one"), APPLY, widget(json!({"tags": ["x"]}))).await;
    t.patch(&path("one"), APPLY, widget(json!({"parts": [{"count": 5}]}))).await;
    t.patch(&path("one"), APPLY, widget(json!({"parts": [{"name": "p"}, {"name": "p"}]}))).await;
    t.patch(&path("one"), APPLY, widget(json!({"unknown": 1}))).await;
    t.patch(&path("one"), APPLY, widget(json!({"size": 5}))).await;
}

async fn the_generation_counts_all_but_metadata_and_status(t: Target) {
    define(&t, definition()).await;
    t.post(WIDGETS, widget(json!({}))).await;
    t.patch(A, MERGE, json!({"metadata": {"labels": {"l": "1"}, "generation": 9}})).await;
    t.patch(A, MERGE, json!({"spec": {"size": "S"}})).await;
    t.patch(&format!("{A}/status"), MERGE, json!({"status": {"phase": "x"}})).await;
    t.patch(&format!("{A}/scale"), MERGE, json!({"spec": {"replicas": 7}})).await;
    t.given(WIDGETS, json!({"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {"name": "b", "finalizers": ["example.com/f"]}})).await;
    t.delete(&format!("{WIDGETS}/b")).await;
    t.patch(&format!("{WIDGETS}/b"), MERGE, json!({"metadata": {"finalizers": null}})).await;
}

async fn a_deleted_definition_takes_its_objects(t: Target) {
    t.blur_versions();
    define(&t, definition()).await;
    t.given(WIDGETS, json!({"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {"name": "a", "finalizers": ["example.com/f"]}})).await;
    let path = format!("{CRDS}/widgets.{{group}}");
    let answer = t.quiet(Call::new("DELETE", &path)).await;
    t.note(&format!("{} {} {}", answer.code, answer.json["kind"], answer.json["metadata"]["finalizers"]));
    t.until(A, "its object is being deleted", |a| a.json["metadata"]["deletionTimestamp"].is_string()).await;
    t.post(WIDGETS, widget(json!({}))).await;
    t.quiet(Call::new("PATCH", A).body(MERGE, r#"{"metadata":{"finalizers":null}}"#)).await;
    t.until(&path, "the definition is gone", |a| a.code == 404).await;
    t.until(WIDGETS, "the resource is gone", |a| a.code == 404).await;
    t.get(WIDGETS).await;
}

async fn names_taken_by_another_are_not_accepted(t: Target) {
    t.blur_versions();
    define(&t, definition()).await;
    let mut second = definition();
    second["metadata"]["name"] = json!("gadgets.{group}");
    second["spec"]["names"] =
        json!({"plural": "gadgets", "singular": "gadget", "kind": "Widget", "shortNames": ["wd"]});
    let path = format!("{CRDS}/gadgets.{{group}}");
    t.leaves(&path);
    t.given(CRDS, second).await;
    let answer = t
        .until(&path, "it is told why not", |a| {
            a.json["status"]["conditions"].as_array().is_some_and(|all| all.len() >= 2)
        })
        .await;
    for condition in answer.json["status"]["conditions"].as_array().unwrap() {
        t.note(&format!(
            "{} {} {} {}",
            condition["type"], condition["status"], condition["reason"], condition["message"]
        ));
    }
    t.note(&answer.json["status"]["acceptedNames"].to_string());
}

async fn a_cluster_scoped_resource_is_served_without_namespace(t: Target) {
    let mut wide = definition();
    wide["spec"]["scope"] = json!("Cluster");
    define(&t, wide).await;
    t.post("/apis/{group}/v1/widgets", widget(json!({}))).await;
    t.post(
        "/apis/{group}/v1/widgets",
        json!({"apiVersion": "{group}/v1", "kind": "Widget", "metadata": {"name": "b", "namespace": "{ns}"}}),
    )
    .await;
    t.get("/apis/{group}/v1/widgets/a").await;
    t.get(WIDGETS).await;
}

async fn a_schema_is_in_openapi(t: Target) {
    define(&t, definition()).await;
    let document = t.until("/openapi/v3/apis/{group}/v1", "the document is there", |a| {
        a.json["components"]["schemas"]
            .as_object()
            .is_some_and(|all| all.keys().any(|key| key.ends_with(".Widget")))
    });
    let document = document.await;
    let schemas = document.json["components"]["schemas"].as_object().unwrap();
    let (key, schema) = schemas.iter().find(|(key, _)| key.ends_with(".Widget")).unwrap();
    t.note(key);
    t.note(&schema["x-kubernetes-group-version-kind"].to_string());
    t.note(&schema["properties"]["spec"]["properties"]["size"].to_string());
    t.note(&schema["properties"]["metadata"]["allOf"].to_string());
}
