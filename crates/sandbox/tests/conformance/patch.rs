//! PATCH with merge, JSON and strategic merge patches.

use serde_json::{Value, json};

use crate::harness::{Call, JSON_PATCH, MERGE, STRATEGIC, Target};

const MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";
const A: &str = "/api/v1/namespaces/{ns}/configmaps/a";
const SET: &str = "/apis/apps/v1/namespaces/{ns}/replicasets/a";

cases! {
    a_merge_patch_sets_and_removes,
    a_merge_patch_that_is_no_object_is_refused,
    a_json_patch_adds_replaces_removes_tests_moves_and_copies,
    a_json_patch_that_is_no_list_is_refused,
    a_json_patch_that_does_not_apply_is_refused,
    a_result_of_another_type_is_refused,
    name_namespace_uid_and_version_cannot_be_patched,
    apiversion_and_kind_cannot_be_patched,
    another_media_type_is_refused,
    an_absent_object_is_not_made,
    options_are_checked,
    unknown_fields_are_refused_warned_of_or_ignored,
    a_strategic_patch_merges_lists_by_key,
    a_strategic_patch_replaces_deletes_and_orders,
    a_strategic_patch_that_is_wrong_is_refused,
    too_many_operations_are_refused,
    metadata_lists_merge_by_key,
    the_result_is_validated,
}

async fn given(t: &Target) {
    t.given(MAPS, json!({"metadata": {"name": "a"}, "data": {"a": "1", "b": "2"}})).await;
}

async fn a_merge_patch_sets_and_removes(t: Target) {
    given(&t).await;
    t.patch(A, MERGE, json!({"data": {"a": null, "c": "3"}})).await;
    t.patch(A, MERGE, json!({"data": {"c": "3"}})).await;
    t.patch(A, MERGE, json!({})).await;
    t.patch(A, MERGE, json!({"data": null})).await;
    t.patch(A, MERGE, json!({"metadata": {"labels": {"x": "y"}, "annotations": {"n": null}}})).await;
}

async fn a_merge_patch_that_is_no_object_is_refused(t: Target) {
    given(&t).await;
    for body in ["[]", "{", "5", "null", "", r#""x""#] {
        t.send(Call::new("PATCH", A).body(MERGE, body)).await;
    }
}

async fn a_json_patch_adds_replaces_removes_tests_moves_and_copies(t: Target) {
    given(&t).await;
    t.patch(A, JSON_PATCH, json!([{"op": "test", "path": "/data/a", "value": "1"}, {"op": "add", "path": "/data/c", "value": "3"}])).await;
    t.patch(
        A,
        JSON_PATCH,
        json!([{"op": "replace", "path": "/data/c", "value": "4"}, {"op": "remove", "path": "/data/a"}]),
    )
    .await;
    t.patch(A, JSON_PATCH, json!([{"op": "move", "from": "/data/c", "path": "/data/d"}])).await;
    t.patch(A, JSON_PATCH, json!([{"op": "copy", "from": "/data/d", "path": "/data/e~1f"}, {"op": "remove", "path": "/data/e~1f"}])).await;
    t.patch(A, JSON_PATCH, json!([{"op": "replace", "path": "/data/absent", "value": "1"}])).await;
    t.patch(A, JSON_PATCH, json!([])).await;
    t.patch(
        A,
        JSON_PATCH,
        json!([{"op": "add", "path": "/metadata/finalizers", "value": ["example.com/a"]}]),
    )
    .await;
    t.patch(
        A,
        JSON_PATCH,
        json!([{"op": "add", "path": "/metadata/finalizers/-", "value": "example.com/b"}]),
    )
    .await;
    t.patch(
        A,
        JSON_PATCH,
        json!([{"op": "add", "path": "/metadata/finalizers/0", "value": "example.com/c"}]),
    )
    .await;
    t.patch(A, JSON_PATCH, json!([{"op": "remove", "path": "/metadata/finalizers"}])).await;
}

async fn a_json_patch_that_is_no_list_is_refused(t: Target) {
    given(&t).await;
    for body in ["{}", "[", "5", "null", "", "[5]", "[{}]"] {
        t.send(Call::new("PATCH", A).body(JSON_PATCH, body)).await;
    }
}

async fn a_json_patch_that_does_not_apply_is_refused(t: Target) {
    given(&t).await;
    for op in [
        json!({"op": "test", "path": "/data/a", "value": "4"}),
        json!({"op": "test", "path": "/data/absent", "value": "4"}),
        json!({"op": "remove", "path": "/data/absent"}),
        json!({"op": "frob", "path": "/data/a"}),
        json!({"op": "add", "path": "/data/x/y", "value": "1"}),
        json!({"op": "add", "path": "data", "value": "1"}),
        json!({"op": "move", "from": "/data/absent", "path": "/data/b"}),
        json!({"op": "add", "path": "/metadata/finalizers/-", "value": "example.com/b"}),
    ] {
        t.patch(A, JSON_PATCH, json!([op])).await;
    }
    t.patch(A, JSON_PATCH, json!([{"op": "test", "path": "/data/absent", "value": null}])).await;
}

async fn a_result_of_another_type_is_refused(t: Target) {
    given(&t).await;
    t.patch(A, MERGE, json!({"data": {"a": 1}})).await;
    t.patch(A, STRATEGIC, json!({"data": {"a": 1}})).await;
    t.patch(A, JSON_PATCH, json!([{"op": "add", "path": "/data", "value": "1"}])).await;
    t.get(A).await;
}

async fn name_namespace_uid_and_version_cannot_be_patched(t: Target) {
    given(&t).await;
    t.patch(A, MERGE, json!({"metadata": {"name": "q"}})).await;
    t.patch(A, MERGE, json!({"metadata": {"name": null}})).await;
    t.patch(A, MERGE, json!({"metadata": {"namespace": "q"}})).await;
    t.patch(A, MERGE, json!({"metadata": {"uid": "q"}})).await;
    t.patch(A, STRATEGIC, json!({"metadata": {"uid": "q"}})).await;
    t.patch(A, JSON_PATCH, json!([{"op": "replace", "path": "/metadata/uid", "value": "q"}])).await;
    t.patch(A, MERGE, json!({"metadata": {"resourceVersion": "1"}})).await;
    t.patch(A, MERGE, json!({"metadata": {"creationTimestamp": null, "generation": 9, "generateName": "x"}}))
        .await;
    t.patch(A, MERGE, json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z"}})).await;
}

async fn apiversion_and_kind_cannot_be_patched(t: Target) {
    given(&t).await;
    for body in [
        json!({"kind": "Secret"}),
        json!({"apiVersion": "v2"}),
        json!({"kind": "Pod"}),
        json!({"kind": null}),
    ] {
        t.patch(A, MERGE, body).await;
    }
}

async fn another_media_type_is_refused(t: Target) {
    given(&t).await;
    t.patch(A, "application/json", json!({})).await;
    t.patch(A, "text/plain", json!({})).await;
    t.patch(A, "application/merge-patch+json; charset=utf-8", json!({})).await;
    t.patch(MAPS, MERGE, json!({})).await;
}

async fn an_absent_object_is_not_made(t: Target) {
    let nope = format!("{MAPS}/nope");
    t.patch(&nope, MERGE, json!({})).await;
    t.patch(&nope, STRATEGIC, json!({})).await;
    t.patch(&nope, JSON_PATCH, json!([])).await;
    t.patch(&nope, JSON_PATCH, json!({})).await;
}

async fn options_are_checked(t: Target) {
    given(&t).await;
    t.patch(&format!("{A}?force=true"), MERGE, json!({})).await;
    t.patch(&format!("{A}?fieldManager={}", "x".repeat(129)), MERGE, json!({})).await;
    t.patch(&format!("{A}?fieldManager=mine"), MERGE, json!({"data": {"a": "9"}})).await;
}

async fn unknown_fields_are_refused_warned_of_or_ignored(t: Target) {
    given(&t).await;
    for query in ["fieldValidation=Strict", "fieldValidation=Warn", "fieldValidation=Ignore"] {
        t.patch(&format!("{A}?{query}"), MERGE, json!({"foo": 1})).await;
        t.patch(&format!("{A}?{query}"), STRATEGIC, json!({"foo": 1})).await;
        t.patch(&format!("{A}?{query}"), JSON_PATCH, json!([{"op": "add", "path": "/foo", "value": 1}]))
            .await;
    }
}

/// A replica set without pods, of two containers.
async fn given_set(t: &Target) {
    let set = json!({"metadata": {"name": "a"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
    "metadata": {"labels": {"a": "b"}},
    "spec": {
        "containers": [
            {"name": "one", "image": "i:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "args": ["x"]},
            {"name": "two", "image": "i:1", "ports": [{"containerPort": 80}]},
        ],
        "tolerations": [{"key": "k", "operator": "Exists"}],
    }}}});
    t.given("/apis/apps/v1/namespaces/{ns}/replicasets", set).await;
    t.until(SET, "the controller has seen the set", |a| a.json["status"]["observedGeneration"] == 1).await;
}

/// Patches the pod template and notes what its spec is then.
async fn patch_template(t: &Target, spec: Value) {
    let patch = json!({"spec": {"template": {"spec": spec}}});
    t.note(&format!("patch {spec}"));
    let answer = t.quiet(Call::new("PATCH", SET).body(STRATEGIC, &patch.to_string())).await;
    let shown = if answer.code == 200 {
        answer.json["spec"]["template"]["spec"].clone()
    } else {
        answer.json.clone()
    };
    let mut shown = shown;
    if let Some(map) = shown.as_object_mut() {
        map.retain(|key, _| {
            ["containers", "volumes", "tolerations", "initContainers", "message", "reason", "code"]
                .contains(&key.as_str())
        });
    }
    for container in shown["containers"].as_array_mut().into_iter().flatten() {
        container
            .as_object_mut()
            .unwrap()
            .retain(|key, _| ["name", "image", "env", "args", "ports"].contains(&key.as_str()));
    }
    t.note(&format!("{} {}", answer.code, serde_json::to_string_pretty(&shown).unwrap()));
}

async fn a_strategic_patch_merges_lists_by_key(t: Target) {
    given_set(&t).await;
    patch_template(&t, json!({"containers": [{"name": "two", "image": "i:2"}]})).await;
    patch_template(&t, json!({"containers": [{"name": "one", "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}], "args": ["y"]}]})).await;
    patch_template(&t, json!({"containers": [{"name": "three", "image": "i:3"}]})).await;
    patch_template(
        &t,
        json!({"containers": [{"name": "two", "ports": [{"containerPort": 81, "name": "n"}]}]}),
    )
    .await;
    patch_template(&t, json!({"tolerations": [{"key": "other", "operator": "Exists"}]})).await;
    patch_template(&t, json!({"volumes": [{"name": "v", "emptyDir": {}}]})).await;
    patch_template(
        &t,
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "m"}}]}),
    )
    .await;
}

async fn a_strategic_patch_replaces_deletes_and_orders(t: Target) {
    given_set(&t).await;
    patch_template(&t, json!({"containers": [{"name": "one", "env": [{"name": "A", "$patch": "delete"}]}]}))
        .await;
    patch_template(&t, json!({"$setElementOrder/containers": [{"name": "two"}, {"name": "one"}], "containers": [{"name": "one", "image": "i:9"}]}))
        .await;
    patch_template(&t, json!({"containers": [{"$patch": "delete", "name": "two"}]})).await;
    patch_template(&t, json!({"containers": [{"$patch": "replace"}, {"name": "new", "image": "i:1"}]})).await;
    patch_template(&t, json!({"containers": [{"name": "new", "env": [{"name": "Z", "value": "1"}]}]})).await;
    patch_template(&t, json!({"containers": [{"name": "new", "env": null}]})).await;
    patch_template(&t, json!({"containers": [{"image": "no name"}]})).await;
    given(&t).await;
    t.patch(A, STRATEGIC, json!({"data": {"$patch": "replace", "z": "1"}})).await;
    t.patch(A, STRATEGIC, json!({"data": {"$patch": "delete"}})).await;
    t.patch(A, STRATEGIC, json!({"metadata": {"finalizers": ["example.com/a", "example.com/b"]}})).await;
    t.patch(A, STRATEGIC, json!({"metadata": {"finalizers": ["example.com/c"]}})).await;
    t.patch(A, STRATEGIC, json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a"]}}))
        .await;
    t.patch(
        A,
        STRATEGIC,
        json!({"metadata": {"$setElementOrder/finalizers": ["example.com/c", "example.com/b"]}}),
    )
    .await;
    t.patch(A, MERGE, json!({"metadata": {"finalizers": null}})).await;
}

async fn a_strategic_patch_that_is_wrong_is_refused(t: Target) {
    given(&t).await;
    for body in ["[]", "{", "5", "null", ""] {
        t.send(Call::new("PATCH", A).body(STRATEGIC, body)).await;
    }
    t.patch(A, STRATEGIC, json!({"data": {"$patch": "frob", "z": "1"}})).await;
    t.patch(A, STRATEGIC, json!({"data": {"$patch": 5}})).await;
    t.patch(A, STRATEGIC, json!({"data": []})).await;
}

async fn too_many_operations_are_refused(t: Target) {
    given(&t).await;
    let ops = vec![json!({"op": "add", "path": "/data/x", "value": "1"}); 10_001];
    t.patch(A, JSON_PATCH, json!(ops)).await;
}

async fn metadata_lists_merge_by_key(t: Target) {
    given(&t).await;
    let owner = |uid: &str, name: &str| json!({"apiVersion": "example.com/v1", "kind": "Nothing", "name": name, "uid": uid});
    t.patch(
        A,
        STRATEGIC,
        json!({"metadata": {"finalizers": ["example.com/hold"], "ownerReferences": [owner("u1", "x")]}}),
    )
    .await;
    t.blur_versions();
    let second = t
        .quiet(
            Call::new("PATCH", A)
                .body(STRATEGIC, &json!({"metadata": {"ownerReferences": [owner("u2", "y")]}}).to_string()),
        )
        .await;
    t.note(&second.json["metadata"]["ownerReferences"].to_string());
    let gone = json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": "u1"}]}});
    let third = t.quiet(Call::new("PATCH", A).body(STRATEGIC, &gone.to_string())).await;
    t.note(&third.json["metadata"]["ownerReferences"].to_string());
    t.quiet(Call::new("PATCH", A).body(MERGE, r#"{"metadata":{"finalizers":null}}"#)).await;
}

async fn the_result_is_validated(t: Target) {
    given(&t).await;
    t.patch(A, MERGE, json!({"metadata": {"labels": {"a b": "c"}}})).await;
    t.patch(A, MERGE, json!({"data": {"a/b": "c"}})).await;
    t.patch(A, MERGE, json!({"metadata": {"finalizers": ["x"]}})).await;
}
