//! PUT: conflicts, preconditions, what may not change, writes that change nothing.

use serde_json::{Value, json};

use crate::harness::Target;

const MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";
const A: &str = "/api/v1/namespaces/{ns}/configmaps/a";

cases! {
    an_old_resource_version_is_a_conflict,
    without_a_resource_version_the_last_writer_wins,
    a_write_that_changes_nothing_keeps_the_resource_version,
    another_uid_is_a_conflict,
    name_and_namespace_must_be_those_of_the_path,
    an_absent_object_is_not_made,
    metadata_of_the_server_stays,
    immutable_config_maps_stay,
    a_resource_version_that_is_no_number_is_refused,
    labels_owners_and_finalizers_may_change,
    immutable_fields_of_workloads_stay,
    the_generation_counts_changes_of_the_spec,
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

async fn an_old_resource_version_is_a_conflict(t: Target) {
    let old = t.post(MAPS, map("a")).await;
    t.put(A, old.with(|o| o["data"]["a"] = json!("2"))).await;
    t.put(A, old.with(|o| o["data"]["a"] = json!("3"))).await;
    t.put(A, old.json).await;
}

async fn without_a_resource_version_the_last_writer_wins(t: Target) {
    t.post(MAPS, map("a")).await;
    t.put(A, json!({"metadata": {"name": "a"}, "data": {"b": "2"}})).await;
    t.put(A, json!({"metadata": {"name": "a", "resourceVersion": "0"}, "data": {"b": "3"}})).await;
}

async fn a_write_that_changes_nothing_keeps_the_resource_version(t: Target) {
    let object = t.post(MAPS, map("a")).await;
    t.put(A, object.json).await;
    t.put(A, map("a")).await;
}

async fn another_uid_is_a_conflict(t: Target) {
    t.post(MAPS, map("a")).await;
    t.put(A, json!({"metadata": {"name": "a", "uid": "00000000-0000-0000-0000-000000000000"}})).await;
}

async fn name_and_namespace_must_be_those_of_the_path(t: Target) {
    let object = t.given(MAPS, map("a")).await;
    t.put(A, object.with(|o| o["metadata"]["name"] = json!("z"))).await;
    t.put(A, object.with(|o| o["metadata"]["namespace"] = json!("z"))).await;
    t.put(A, json!({"metadata": {}})).await;
    t.put(A, json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}})).await;
}

async fn an_absent_object_is_not_made(t: Target) {
    let nope = format!("{MAPS}/nope");
    t.put(&nope, map("nope")).await;
    t.put(&nope, json!({"metadata": {"name": "nope", "uid": "00000000-0000-0000-0000-000000000000"}})).await;
    t.put(&nope, json!({"metadata": {"name": "nope", "resourceVersion": "1"}})).await;
    t.put("/api/v1/namespaces/no-such/configmaps/a", map("a")).await;
}

async fn metadata_of_the_server_stays(t: Target) {
    t.post(MAPS, map("a")).await;
    t.put(A, json!({"metadata": {"name": "a", "creationTimestamp": "2000-01-01T00:00:00Z", "generation": 5, "generateName": "x-",
        "deletionTimestamp": "2000-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3, "selfLink": "/x"}}))
        .await;
}

async fn immutable_config_maps_stay(t: Target) {
    t.given(MAPS, json!({"metadata": {"name": "a"}, "immutable": true, "data": {"a": "b"}})).await;
    t.put(A, json!({"metadata": {"name": "a"}, "immutable": false, "data": {"a": "c"}})).await;
}

async fn a_resource_version_that_is_no_number_is_refused(t: Target) {
    t.given(MAPS, map("a")).await;
    t.put(A, json!({"metadata": {"name": "a", "resourceVersion": "bad"}})).await;
}

async fn labels_owners_and_finalizers_may_change(t: Target) {
    t.given(MAPS, map("a")).await;
    // An owner of a kind that does not exist: nothing is collected.
    let owner = json!({"apiVersion": "example.com/v1", "kind": "Nothing", "name": "a", "uid": "x"});
    t.put(A, json!({"metadata": {"name": "a", "labels": {"l": "1"}, "annotations": {"n": "1"}, "finalizers": ["example.com/f"], "ownerReferences": [owner]}}))
        .await;
    t.put(A, json!({"metadata": {"name": "a", "labels": {"l": "-"}}})).await;
    t.put(A, json!({"metadata": {"name": "a"}})).await;
}

async fn immutable_fields_of_workloads_stay(t: Target) {
    t.blur_versions();
    let template = |label: &str| json!({"metadata": {"labels": {"a": label}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let with = |label: &str| json!({"metadata": {"name": "a"}, "spec": {"replicas": 0, "serviceName": "s", "selector": {"matchLabels": {"a": label}}, "template": template(label)}});
    let plain = |label: &str| json!({"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"a": label}}, "template": template(label)}});
    for (kind, make) in
        [("deployments", true), ("replicasets", true), ("statefulsets", true), ("daemonsets", false)]
    {
        let path = format!("/apis/apps/v1/namespaces/{{ns}}/{kind}");
        let body = |label: &str| {
            let mut body = if make { with(label) } else { plain(label) };
            if kind != "statefulsets" {
                body["spec"].as_object_mut().unwrap().remove("serviceName");
            }
            if kind == "daemonsets" {
                body["spec"]["template"]["spec"]["nodeSelector"] = json!({"no": "such"});
            }
            body
        };
        t.given(&path, body("b")).await;
        t.put(&format!("{path}/a"), body("c")).await;
    }
    let service = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    t.given("/api/v1/namespaces/{ns}/services", service).await;
    t.put(
        "/api/v1/namespaces/{ns}/services/s",
        json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}}),
    )
    .await;
    let revisions = "/apis/apps/v1/namespaces/{ns}/controllerrevisions";
    t.given(revisions, json!({"metadata": {"name": "r"}, "data": {"a": 1}, "revision": 1})).await;
    t.put(&format!("{revisions}/r"), json!({"metadata": {"name": "r"}, "data": {"a": 2}, "revision": 2}))
        .await;
    t.put(&format!("{revisions}/r"), json!({"metadata": {"name": "r"}, "data": {"a": 1}, "revision": 2}))
        .await;
}

async fn the_generation_counts_changes_of_the_spec(t: Target) {
    t.blur_versions();
    let path = "/apis/apps/v1/namespaces/{ns}/replicasets";
    let set = |image: &str, replicas: u32| {
        json!({"metadata": {"name": "a"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
    };
    let first = t.given(path, set("i:1", 0)).await;
    assert_eq!(first.json["metadata"]["generation"], 1);
    let one = format!("{path}/a");
    for (image, generation) in [("i:2", 2), ("i:2", 2), ("i:3", 3)] {
        let answer = t.quiet(crate::harness::Call::new("PUT", &one).json(&set(image, 0))).await;
        assert_eq!(answer.json["metadata"]["generation"], generation, "{}", answer.text);
        t.note(&format!("generation {generation}"));
    }
}
