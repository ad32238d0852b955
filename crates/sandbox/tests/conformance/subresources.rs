//! Subresources of built-in kinds: scale, status, eviction, binding, finalize.

use serde_json::{Value, json};

use crate::harness::{Call, JSON_PATCH, MERGE, STRATEGIC, Target};

const PODS: &str = "/api/v1/namespaces/{ns}/pods";
const A: &str = "/api/v1/namespaces/{ns}/pods/a";
const SETS: &str = "/apis/apps/v1/namespaces/{ns}/replicasets";

cases! {
    a_scale_is_read_and_written,
    the_status_of_a_pod_is_written_apart,
    the_status_of_a_workload_is_written_apart,
    a_pod_is_bound_once,
    a_wrong_binding_is_refused,
    an_eviction_deletes_the_pod,
    a_budget_stands_against_an_eviction,
    a_wrong_eviction_is_refused,
    a_finalized_namespace_is_free,
}

pub(crate) async fn given_pod(t: &Target, name: &str, labels: Value) {
    t.until("/api/v1/namespaces/{ns}/serviceaccounts/default", "the default service account", |a| {
        a.code == 200
    })
    .await;
    t.given(PODS, json!({"metadata": {"name": name, "labels": labels}, "spec": {"automountServiceAccountToken": false, "schedulerName": "none", "containers": [{"name": "c", "image": "i:1"}]}}))
        .await;
}

async fn a_scale_is_read_and_written(t: Target) {
    t.blur_versions();
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"schedulerName": "none", "containers": [{"name": "c", "image": "i:1"}]}});
    t.given(SETS, json!({"metadata": {"name": "a"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]}, "template": template}})).await;
    let scale = format!("{SETS}/a/scale");
    t.get(&scale).await;
    t.patch(&format!("{scale}?dryRun=All"), MERGE, json!({"spec": {"replicas": 3}})).await;
    t.patch(&scale, MERGE, json!({"spec": {"replicas": -1}})).await;
    t.patch(
        &format!("{scale}?dryRun=All"),
        JSON_PATCH,
        json!([{"op": "replace", "path": "/spec/replicas", "value": 2}]),
    )
    .await;
    t.put(&scale, json!({"metadata": {"name": "a", "namespace": "{ns}"}, "spec": {}})).await;
    t.put(&scale, json!({"metadata": {"name": "a", "namespace": "{ns}", "resourceVersion": "1"}, "spec": {"replicas": 1}})).await;
    t.put(&scale, json!({"metadata": {"name": "b"}, "spec": {"replicas": 1}})).await;
    t.get(&format!("{SETS}/no-such/scale")).await;
    t.get("/apis/apps/v1/namespaces/{ns}/deployments/no-such/scale").await;
}

async fn the_status_of_a_pod_is_written_apart(t: Target) {
    given_pod(&t, "a", json!({})).await;
    let status = format!("{A}/status");
    t.get(A).await;
    t.patch(A, MERGE, json!({"status": {"phase": "Running"}})).await;
    t.patch(&status, STRATEGIC, json!({"metadata": {"labels": {"l": "1"}, "annotations": {"n": "1"}}, "spec": {"containers": [{"name": "c", "image": "i:2"}]},
        "status": {"phase": "Running", "conditions": [{"type": "example.com/x", "status": "True"}]}}))
        .await;
    t.patch(&status, STRATEGIC, json!({"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "example.com/x", "status": "False", "reason": "R"}]}})).await;
    t.patch(&status, MERGE, json!({"metadata": {"finalizers": ["example.com/f"], "ownerReferences": [{"apiVersion": "example.com/v1", "kind": "Nothing", "name": "x", "uid": "x"}]}}))
        .await;
    t.patch(&status, MERGE, json!({"status": {"containerStatuses": [{"name": "c", "image": "i:1", "imageID": "id", "ready": true, "restartCount": 0, "started": true, "state": {"running": {"startedAt": "2001-01-01T00:00:00Z"}}}]}}))
        .await;
    t.patch(A, MERGE, json!({"metadata": {"finalizers": null}})).await;
    t.get(&status).await;
}

async fn the_status_of_a_workload_is_written_apart(t: Target) {
    t.blur_versions();
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    t.given(SETS, json!({"metadata": {"name": "a"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template}, "status": {"replicas": 7}})).await;
    t.until(&format!("{SETS}/a"), "the controller has seen it", |a| {
        a.json["status"]["observedGeneration"] == 1
    })
    .await;
    let path = format!("{SETS}/a/status?dryRun=All");
    t.patch(&path, MERGE, json!({"metadata": {"labels": {"l": "1"}}, "spec": {"replicas": 4}, "status": {"replicas": 3, "readyReplicas": 2}})).await;
    t.patch(&path, MERGE, json!({"status": {"replicas": -1}})).await;
    t.patch(&format!("{SETS}/a?dryRun=All"), MERGE, json!({"status": {"replicas": 3}})).await;
}

async fn a_pod_is_bound_once(t: Target) {
    given_pod(&t, "a", json!({})).await;
    // The node does not exist, so no kubelet interferes.
    let binding = json!({"metadata": {"name": "a", "annotations": {"bound": "by me"}}, "target": {"apiVersion": "v1", "kind": "Node", "name": "no-such-node"}});
    t.post(&format!("{A}/binding?dryRun=All"), binding.clone()).await;
    t.post(&format!("{A}/binding"), binding.clone()).await;
    let pod = t.quiet(Call::new("GET", A)).await;
    for (what, value) in
        [("node", &pod.json["spec"]["nodeName"]), ("annotations", &pod.json["metadata"]["annotations"])]
    {
        t.note(&format!("{what} {value}"));
    }
    let scheduled = pod.json["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "PodScheduled")
        .unwrap();
    t.note(&format!("{}", scheduled["status"]));
    t.post(&format!("{A}/binding"), binding).await;
}

async fn a_wrong_binding_is_refused(t: Target) {
    given_pod(&t, "a", json!({})).await;
    t.post(&format!("{A}/binding"), json!({"metadata": {"name": "a"}, "target": {}})).await;
    t.post(
        &format!("{A}/binding"),
        json!({"metadata": {"name": "a"}, "target": {"kind": "Pod", "name": "x"}}),
    )
    .await;
    t.post(
        &format!("{A}/binding"),
        json!({"metadata": {"name": "b"}, "target": {"kind": "Node", "name": "x"}}),
    )
    .await;
    t.post(
        &format!("{A}/binding"),
        json!({"metadata": {"name": "a", "uid": "abc"}, "target": {"kind": "Node", "name": "x"}}),
    )
    .await;
    t.post(
        &format!("{PODS}/no-such/binding"),
        json!({"metadata": {"name": "no-such"}, "target": {"kind": "Node", "name": "x"}}),
    )
    .await;
}

fn eviction(name: &str) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}})
}

async fn an_eviction_deletes_the_pod(t: Target) {
    given_pod(&t, "a", json!({})).await;
    t.post(&format!("{A}/eviction?dryRun=All"), eviction("a")).await;
    let mut dry = eviction("a");
    dry["deleteOptions"] = json!({"dryRun": ["All"]});
    t.post(&format!("{A}/eviction"), dry).await;
    t.post(&format!("{A}/eviction"), eviction("a")).await;
    t.get(A).await;
}

const BUDGETS: &str = "/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets";

async fn a_budget_stands_against_an_eviction(t: Target) {
    t.blur_versions();
    given_pod(&t, "a", json!({"a": "b"})).await;
    // Ready, so that the budget counts it as healthy; evictions of pods that are not are let through.
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    t.quiet(Call::new("PATCH", &format!("{A}/status")).body(MERGE, &ready.to_string())).await;
    t.given(BUDGETS, json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}})).await;
    let seen = |a: &crate::harness::Answer| {
        a.json["status"]["observedGeneration"] == 1 && a.json["status"]["currentHealthy"] == 1
    };
    t.until(&format!("{BUDGETS}/b"), "the controller has counted", seen).await;
    let budget = t.quiet(Call::new("GET", &format!("{BUDGETS}/b"))).await;
    for field in ["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"] {
        t.note(&format!("{field} {}", budget.json["status"][field]));
    }
    t.post(&format!("{A}/eviction"), eviction("a")).await;
    t.given(BUDGETS, json!({"metadata": {"name": "c"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}})).await;
    t.post(&format!("{A}/eviction"), eviction("a")).await;
    t.quiet(Call::new("DELETE", &format!("{BUDGETS}/b"))).await;
    t.quiet(Call::new("DELETE", &format!("{BUDGETS}/c"))).await;
    t.given(BUDGETS, json!({"metadata": {"name": "d"}, "spec": {"minAvailable": 0, "selector": {"matchLabels": {"a": "b"}}}})).await;
    t.until(&format!("{BUDGETS}/d"), "the budget allows one", |a| {
        a.json["status"]["disruptionsAllowed"] == 1
    })
    .await;
    t.post(&format!("{A}/eviction?dryRun=All"), eviction("a")).await;
    t.post(&format!("{A}/eviction"), eviction("a")).await;
}

async fn a_wrong_eviction_is_refused(t: Target) {
    given_pod(&t, "a", json!({})).await;
    t.post(&format!("{PODS}/no-such/eviction"), eviction("no-such")).await;
    t.post(&format!("{A}/eviction"), eviction("b")).await;
    t.post(
        &format!("{A}/eviction"),
        json!({"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": "a"}}),
    )
    .await;
    t.post(&format!("{A}/eviction"), json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}))
        .await;
    let mut wrong = eviction("a");
    wrong["deleteOptions"] = json!({"preconditions": {"uid": "abc"}});
    t.post(&format!("{A}/eviction"), wrong).await;
}

async fn a_finalized_namespace_is_free(t: Target) {
    t.blur_versions();
    let path = "/api/v1/namespaces/{ns}-f";
    t.given(
        "/api/v1/namespaces",
        json!({"metadata": {"name": "{ns}-f"}, "spec": {"finalizers": ["kubernetes", "example.com/mine"]}}),
    )
    .await;
    let answer = t.quiet(Call::new("DELETE", path)).await;
    t.note(&format!("{} {} {}", answer.code, answer.json["kind"], answer.json["status"]["phase"]));
    let emptied = |a: &crate::harness::Answer| a.json["spec"]["finalizers"] == json!(["example.com/mine"]);
    t.until(path, "the controller has emptied it", emptied).await;
    let answer = t
        .quiet(
            Call::new("PUT", &format!("{path}/finalize"))
                .json(&json!({"metadata": {"name": "{ns}-f"}, "spec": {"finalizers": []}})),
        )
        .await;
    t.note(&format!("{} {} {}", answer.code, answer.json["kind"], answer.json["spec"]));
    t.until(path, "the namespace is gone", |a| a.code == 404).await;
}
