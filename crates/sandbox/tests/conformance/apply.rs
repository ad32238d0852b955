//! Server-side apply and the field managers of other writes.

use serde_json::{Value, json};

use crate::harness::{APPLY, Call, MERGE, Target};

const MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";
const A: &str = "/api/v1/namespaces/{ns}/configmaps/a";

cases! {
    an_applied_object_is_made_and_owned,
    applying_the_same_again_changes_nothing,
    a_field_of_another_manager_is_a_conflict,
    force_takes_the_field,
    a_field_no_longer_applied_is_removed,
    the_same_value_is_shared,
    a_field_manager_is_required,
    a_wrong_configuration_is_refused,
    preconditions_hold,
    a_write_takes_fields_from_an_applier,
    emptied_managed_fields_are_forgotten,
    lists_are_owned_by_element,
    an_absent_object_is_made_by_apply_only,
    a_status_apply_owns_the_status,
    last_applied_annotations_are_kept,
    a_dry_run_applies_nothing,
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

async fn apply(t: &Target, manager: &str, body: Value) {
    t.patch(&format!("{A}?fieldManager={manager}"), APPLY, body).await;
}

async fn an_applied_object_is_made_and_owned(t: Target) {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"l": "1"}, "annotations": {"n": "1"}, "finalizers": ["example.com/f"]}, "data": {"a": "1", "b": "2"}});
    apply(&t, "one", body).await;
    t.patch(A, MERGE, json!({"metadata": {"finalizers": null}})).await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: from-yaml\ndata:\n  a: \"1\"\n";
    t.send(Call::new("PATCH", &format!("{MAPS}/from-yaml?fieldManager=one")).body(APPLY, yaml)).await;
}

async fn applying_the_same_again_changes_nothing(t: Target) {
    apply(&t, "one", map(json!({"a": "1"}))).await;
    apply(&t, "one", map(json!({"a": "1"}))).await;
}

async fn a_field_of_another_manager_is_a_conflict(t: Target) {
    apply(&t, "one", map(json!({"a": "1", "b": "2"}))).await;
    apply(&t, "two", map(json!({"a": "9", "c": "1"}))).await;
    apply(&t, "two", map(json!({"a": "9", "b": "8", "c": "1"}))).await;
    apply(&t, "three", map(json!({"c": "1"}))).await;
    apply(&t, "two", map(json!({"a": "9", "b": "8", "c": "7"}))).await;
}

async fn force_takes_the_field(t: Target) {
    apply(&t, "one", map(json!({"a": "1", "b": "2"}))).await;
    t.patch(&format!("{A}?fieldManager=two&force=true"), APPLY, map(json!({"a": "9", "c": "1"}))).await;
    apply(&t, "one", map(json!({"a": "1", "b": "2"}))).await;
    apply(&t, "one", map(json!({"b": "2"}))).await;
}

async fn a_field_no_longer_applied_is_removed(t: Target) {
    apply(&t, "one", map(json!({"a": "1", "b": "2"}))).await;
    apply(&t, "one", map(json!({"b": "2"}))).await;
    apply(&t, "one", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})).await;
}

async fn the_same_value_is_shared(t: Target) {
    apply(&t, "one", map(json!({"a": "1", "b": "2"}))).await;
    apply(&t, "two", map(json!({"a": "1"}))).await;
    apply(&t, "one", map(json!({"b": "2"}))).await;
    apply(&t, "two", map(json!({}))).await;
}

async fn a_field_manager_is_required(t: Target) {
    t.patch(A, APPLY, map(json!({"a": "1"}))).await;
    t.patch(&format!("{A}?fieldManager="), APPLY, map(json!({"a": "1"}))).await;
}

async fn a_wrong_configuration_is_refused(t: Target) {
    apply(&t, "one", map(json!({"a": "1"}))).await;
    apply(&t, "one", json!({"data": {}})).await;
    apply(&t, "one", json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {}})).await;
    apply(&t, "one", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "z"}})).await;
    apply(
        &t,
        "one",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "x"}}),
    )
    .await;
    apply(&t, "one", json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}})).await;
    apply(&t, "one", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "managedFields": [{"manager": "x"}]}})).await;
    apply(&t, "one", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "foo": 1}))
        .await;
    apply(&t, "one", map(json!({"x": 1}))).await;
    for body in ["{", "[]", "a: b: c", ""] {
        t.send(Call::new("PATCH", &format!("{A}?fieldManager=one")).body(APPLY, body)).await;
    }
    t.patch(
        &format!("{A}?fieldManager=one&fieldValidation=Strict"),
        APPLY,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "foo": 1}),
    )
    .await;
}

async fn preconditions_hold(t: Target) {
    let with =
        |meta: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"x": "1"}});
    apply(&t, "one", with(json!({"name": "a", "resourceVersion": "1"}))).await;
    apply(&t, "one", with(json!({"name": "a", "resourceVersion": "1"}))).await;
    apply(&t, "one", with(json!({"name": "a", "uid": "abc"}))).await;
}

async fn a_write_takes_fields_from_an_applier(t: Target) {
    apply(&t, "one", map(json!({"a": "1", "b": "2"}))).await;
    t.patch(A, MERGE, json!({"data": {"a": "7"}})).await;
    apply(&t, "one", map(json!({"a": "2"}))).await;
    t.put(A, map(json!({"b": "2", "n": "1"}))).await;
    t.put(&format!("{A}?fieldManager=other"), map(json!({"b": "3", "n": "1"}))).await;
}

async fn emptied_managed_fields_are_forgotten(t: Target) {
    apply(&t, "one", map(json!({"a": "1"}))).await;
    t.patch(A, MERGE, json!({"metadata": {"managedFields": [{}]}})).await;
    t.patch(A, MERGE, json!({"data": {"b": "1"}})).await;
    apply(&t, "one", map(json!({"a": "1"}))).await;
    t.patch(A, MERGE, json!({"metadata": {"managedFields": []}})).await;
}

async fn lists_are_owned_by_element(t: Target) {
    let set = |containers: Value| {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "a"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers}}}})
    };
    let path = "/apis/apps/v1/namespaces/{ns}/replicasets/a?fieldManager=one&dryRun=All";
    t.patch(path, APPLY, set(json!([{"name": "c", "image": "i:1", "env": [{"name": "A", "value": "1"}], "ports": [{"containerPort": 80}], "args": ["x", "y"]}])))
        .await;
    t.patch(path, APPLY, set(json!([{"image": "i:1"}]))).await;
    t.patch(path, APPLY, set(json!([{"name": "c", "image": "i:1"}, {"name": "c", "image": "i:1"}]))).await;
}

async fn an_absent_object_is_made_by_apply_only(t: Target) {
    t.patch("/api/v1/namespaces/no-such/configmaps/a?fieldManager=one", APPLY, map(json!({}))).await;
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}});
    t.patch("/apis/apps/v1/namespaces/{ns}/deployments/a/status?fieldManager=one", APPLY, deployment).await;
}

async fn a_status_apply_owns_the_status(t: Target) {
    let pods = "/api/v1/namespaces/{ns}/pods";
    t.until("/api/v1/namespaces/{ns}/serviceaccounts/default", "the default service account", |a| {
        a.code == 200
    })
    .await;
    t.given(pods, json!({"metadata": {"name": "a"}, "spec": {"automountServiceAccountToken": false, "schedulerName": "none", "containers": [{"name": "c", "image": "i:1"}]}}))
        .await;
    let status = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": {"conditions": [{"type": "example.com/x", "status": "True"}]}});
    t.patch("/api/v1/namespaces/{ns}/pods/a/status?fieldManager=one", APPLY, status).await;
}

async fn last_applied_annotations_are_kept(t: Target) {
    let note = json!({"kubectl.kubernetes.io/last-applied-configuration": "{\"apiVersion\":\"v1\"}\n"});
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "annotations": note}, "data": {"a": "1"}});
    t.post(&format!("{MAPS}?fieldManager=kubectl-client-side-apply"), body.clone()).await;
    apply(&t, "kubectl", body).await;
}

async fn a_dry_run_applies_nothing(t: Target) {
    t.patch(&format!("{A}?fieldManager=one&dryRun=All"), APPLY, map(json!({"a": "1"}))).await;
    t.get(A).await;
}
