//! What a pod's spec may change into, graceful deletion, readiness gates, ephemeral containers, resize.

use serde_json::{Value, json};

use crate::harness::{Call, MERGE, STRATEGIC, Target};
use crate::subresources::given_pod;

const PODS: &str = "/api/v1/namespaces/{ns}/pods";
const A: &str = "/api/v1/namespaces/{ns}/pods/a";

cases! {
    a_pod_gets_defaults,
    only_some_fields_of_a_spec_may_change,
    images_deadlines_and_tolerations_may_change,
    a_pod_without_node_goes_at_once,
    a_bound_pod_goes_gracefully,
    a_grace_period_may_be_shortened_only,
    a_forced_deletion_is_immediate,
    scheduling_gates_may_be_removed_only,
    resources_are_resized_by_subresource,
    ephemeral_containers_are_added_by_subresource,
    the_generation_of_a_pod_counts,
}

async fn a_pod_gets_defaults(t: Target) {
    t.until("/api/v1/namespaces/{ns}/serviceaccounts/default", "the default service account", |a| {
        a.code == 200
    })
    .await;
    t.post(PODS, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"automountServiceAccountToken": false, "schedulerName": "none",
        "readinessGates": [{"conditionType": "example.com/ready"}],
        "initContainers": [{"name": "i", "image": "i"}],
        "containers": [{"name": "c", "image": "r/i:1", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "100m", "memory": "16Mi"}},
            "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "readinessProbe": {"httpGet": {"port": 80}}, "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}}],
        "volumes": [{"name": "e", "emptyDir": {}}, {"name": "m", "configMap": {"name": "m"}}, {"name": "h", "hostPath": {"path": "/"}}]}}))
        .await;
    given_pod(&t, "b", json!({})).await;
    t.get(&format!("{PODS}/b")).await;
}

async fn only_some_fields_of_a_spec_may_change(t: Target) {
    given_pod(&t, "a", json!({})).await;
    for spec in [
        json!({"containers": [{"name": "c", "command": ["x"]}]}),
        json!({"containers": [{"name": "d", "image": "i"}]}),
        json!({"nodeName": "x"}),
        json!({"restartPolicy": "Never"}),
        json!({"terminationGracePeriodSeconds": 5}),
        json!({"containers": [{"name": "c", "image": ""}]}),
        json!({"activeDeadlineSeconds": -1}),
        json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}),
    ] {
        // The text shows the two specs as Go structs; what stands before that is compared.
        let answer = t.quiet(Call::new("PATCH", A).body(STRATEGIC, &json!({"spec": spec}).to_string())).await;
        t.note(&format!("{spec}\n{} {}", answer.code, answer.json["reason"]));
        for cause in answer.json["details"]["causes"].as_array().into_iter().flatten() {
            let message = cause["message"].as_str().unwrap().split('\n').next().unwrap();
            t.note(&format!("{} {} {message}", cause["field"], cause["reason"]));
        }
    }
}

async fn images_deadlines_and_tolerations_may_change(t: Target) {
    given_pod(&t, "a", json!({})).await;
    t.patch(A, STRATEGIC, json!({"spec": {"containers": [{"name": "c", "image": "i:2"}]}})).await;
    for spec in [
        json!({"activeDeadlineSeconds": 100}),
        json!({"activeDeadlineSeconds": 50}),
        json!({"activeDeadlineSeconds": 60}),
        json!({"activeDeadlineSeconds": null}),
        json!({"tolerations": [{"key": "k", "operator": "Exists"}]}),
        json!({"tolerations": null}),
    ] {
        let answer = t.quiet(Call::new("PATCH", A).body(MERGE, &json!({"spec": spec}).to_string())).await;
        let message =
            answer.json["message"].as_str().unwrap_or_default().split('\n').next().unwrap().to_owned();
        t.note(&format!("{spec} {} {message}", answer.code));
    }
}

async fn a_pod_without_node_goes_at_once(t: Target) {
    given_pod(&t, "a", json!({})).await;
    let answer = t.delete(A).await;
    assert_eq!(answer.code, 200);
    t.get(A).await;
}

/// A pod bound to a node that does not exist: no kubelet finishes its deletion.
async fn given_bound(t: &Target) {
    t.until("/api/v1/namespaces/{ns}/serviceaccounts/default", "the default service account", |a| {
        a.code == 200
    })
    .await;
    t.given(PODS, json!({"metadata": {"name": "a"}, "spec": {"nodeName": "no-such-node", "automountServiceAccountToken": false, "tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "image": "i:1"}]}}))
        .await;
}

/// Code, kind, grace period and generation of the answer.
async fn note_deletion(t: &Target, query: &str) {
    let answer = t.quiet(Call::new("DELETE", &format!("{A}{query}"))).await;
    let meta = &answer.json["metadata"];
    t.note(&format!(
        "{query}: {} {} grace {} deleting {}",
        answer.code,
        answer.json["kind"],
        meta["deletionGracePeriodSeconds"],
        meta["deletionTimestamp"].is_string()
    ));
}

async fn a_bound_pod_goes_gracefully(t: Target) {
    given_bound(&t).await;
    note_deletion(&t, "").await;
    let pod = t.quiet(Call::new("GET", A)).await;
    t.note(&format!("{} grace {}", pod.code, pod.json["metadata"]["deletionGracePeriodSeconds"]));
    note_deletion(&t, "?gracePeriodSeconds=0").await;
    t.get(A).await;
}

async fn a_grace_period_may_be_shortened_only(t: Target) {
    given_bound(&t).await;
    for query in [
        "?gracePeriodSeconds=20",
        "?gracePeriodSeconds=40",
        "?gracePeriodSeconds=10",
        "",
        "?gracePeriodSeconds=-5",
        "?gracePeriodSeconds=0",
        "",
    ] {
        note_deletion(&t, query).await;
    }
}

async fn a_forced_deletion_is_immediate(t: Target) {
    given_bound(&t).await;
    note_deletion(&t, "?gracePeriodSeconds=0").await;
    given_pod(&t, "b", json!({})).await;
    let held = json!({"metadata": {"finalizers": ["example.com/f"]}});
    t.quiet(Call::new("PATCH", &format!("{PODS}/b")).body(MERGE, &held.to_string())).await;
    let answer = t.quiet(Call::new("DELETE", &format!("{PODS}/b"))).await;
    t.note(&format!("held: grace {}", answer.json["metadata"]["deletionGracePeriodSeconds"]));
    t.quiet(Call::new("PATCH", &format!("{PODS}/b")).body(MERGE, r#"{"metadata":{"finalizers":null}}"#))
        .await;
    t.get(&format!("{PODS}/b")).await;
}

async fn note_patch(t: &Target, path: &str, spec: Value, shown: &[&str]) {
    let answer = t.quiet(Call::new("PATCH", path).body(STRATEGIC, &json!({"spec": spec}).to_string())).await;
    let text = answer.json["message"].as_str().unwrap_or_default().split('\n').next().unwrap().to_owned();
    t.note(&format!("{path} {spec}\n{} {text}", answer.code));
    for pointer in shown {
        t.note(&format!("{pointer} {}", answer.json.pointer(pointer).unwrap_or(&Value::Null)));
    }
}

async fn scheduling_gates_may_be_removed_only(t: Target) {
    t.until("/api/v1/namespaces/{ns}/serviceaccounts/default", "the default service account", |a| {
        a.code == 200
    })
    .await;
    t.given(PODS, json!({"metadata": {"name": "a"}, "spec": {"schedulingGates": [{"name": "example.com/g"}, {"name": "example.com/h"}], "schedulerName": "none", "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i:1"}]}}))
        .await;
    let gates = ["/spec/schedulingGates", "/status/phase"];
    note_patch(&t, A, json!({"schedulingGates": [{"name": "example.com/new"}]}), &gates).await;
    note_patch(&t, A, json!({"schedulingGates": [{"$patch": "delete", "name": "example.com/g"}]}), &gates)
        .await;
    note_patch(&t, A, json!({"schedulingGates": [{"$patch": "delete", "name": "example.com/h"}]}), &gates)
        .await;
}

async fn resources_are_resized_by_subresource(t: Target) {
    t.until("/api/v1/namespaces/{ns}/serviceaccounts/default", "the default service account", |a| {
        a.code == 200
    })
    .await;
    t.given(PODS, json!({"metadata": {"name": "a"}, "spec": {"schedulerName": "none", "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i:1", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}}]}}))
        .await;
    let resize = format!("{A}/resize");
    let shown = ["/spec/containers/0/resources", "/spec/containers/0/image", "/metadata/generation"];
    note_patch(
        &t,
        &resize,
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "150m"}}}]}),
        &shown,
    )
    .await;
    note_patch(&t, &resize, json!({"containers": [{"name": "c", "image": "i:9"}]}), &shown).await;
    note_patch(
        &t,
        &resize,
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "300m"}}}]}),
        &shown,
    )
    .await;
}

async fn ephemeral_containers_are_added_by_subresource(t: Target) {
    given_pod(&t, "a", json!({})).await;
    let path = format!("{A}/ephemeralcontainers");
    note_patch(
        &t,
        &path,
        json!({"ephemeralContainers": [{"name": "e", "image": "x"}]}),
        &["/spec/ephemeralContainers"],
    )
    .await;
    note_patch(
        &t,
        &path,
        json!({"ephemeralContainers": [{"name": "e", "image": "y"}]}),
        &["/spec/ephemeralContainers"],
    )
    .await;
    note_patch(
        &t,
        A,
        json!({"ephemeralContainers": [{"name": "f", "image": "y"}]}),
        &["/spec/ephemeralContainers"],
    )
    .await;
}

async fn the_generation_of_a_pod_counts(t: Target) {
    given_pod(&t, "a", json!({})).await;
    let shown = ["/metadata/generation"];
    note_patch(&t, A, json!({"containers": [{"name": "c", "image": "i:2"}]}), &shown).await;
    note_patch(&t, A, json!({"containers": [{"name": "c", "image": "i:2"}]}), &shown).await;
    note_patch(&t, A, json!({"activeDeadlineSeconds": 500}), &shown).await;
    let labelled = t.quiet(Call::new("PATCH", A).body(MERGE, r#"{"metadata":{"labels":{"l":"1"}}}"#)).await;
    t.note(&format!("{}", labelled.json["metadata"]["generation"]));
}
