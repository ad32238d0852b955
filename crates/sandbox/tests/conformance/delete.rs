//! DELETE: preconditions, propagation, finalizers, collections, garbage collection, namespaces.

use serde_json::{Value, json};

use crate::harness::{Call, MERGE, Target};

const MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";
const A: &str = "/api/v1/namespaces/{ns}/configmaps/a";

cases! {
    a_deleted_object_is_gone,
    preconditions_hold,
    options_are_checked,
    finalizers_hold_an_object,
    foreground_and_orphan_are_finalizers,
    a_collection_is_deleted_by_selector,
    background_deletion_takes_the_dependents,
    foreground_deletion_takes_the_dependents_first,
    orphans_lose_their_owner,
    jobs_and_replication_controllers_leave_their_dependents,
    a_dependent_with_another_owner_stays,
    a_dependent_of_nobody_is_collected,
    a_deleted_namespace_is_emptied,
    the_answer_of_a_deletion_depends_on_what_remains,
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

async fn delete_with(t: &Target, path: &str, body: Value) {
    t.send(Call::new("DELETE", path).json(&body)).await;
}

async fn a_deleted_object_is_gone(t: Target) {
    t.given(MAPS, map("a")).await;
    t.delete(A).await;
    t.get(A).await;
    t.delete(A).await;
    t.delete("/api/v1/namespaces/no-such/configmaps/a").await;
}

async fn preconditions_hold(t: Target) {
    let object = t.post(MAPS, map("a")).await;
    delete_with(&t, A, json!({"preconditions": {"uid": "abc"}})).await;
    delete_with(&t, A, json!({"preconditions": {"resourceVersion": "1"}})).await;
    let right = json!({"preconditions": {"uid": object.uid(), "resourceVersion": object.version()}});
    let answer = t.quiet(Call::new("DELETE", A).json(&right)).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
}

async fn options_are_checked(t: Target) {
    t.given(MAPS, map("a")).await;
    delete_with(&t, A, json!({"propagationPolicy": "Bad"})).await;
    delete_with(&t, A, json!({"propagationPolicy": "Orphan", "orphanDependents": true})).await;
    t.delete(&format!("{A}?propagationPolicy=Bad")).await;
    t.delete(&format!("{A}?gracePeriodSeconds=abc")).await;
    delete_with(&t, A, json!({"dryRun": ["All"]})).await;
    delete_with(&t, A, json!({"dryRun": ["x"]})).await;
    delete_with(&t, A, json!({"apiVersion": "v1", "kind": "Pod"})).await;
    t.send(Call::new("DELETE", A).body("application/json", "{")).await;
    t.send(Call::new("DELETE", A).body("text/plain", "{}")).await;
    delete_with(&t, A, json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0})).await;
}

async fn finalizers_hold_an_object(t: Target) {
    t.given(MAPS, json!({"metadata": {"name": "a", "finalizers": ["example.com/x", "example.com/y"]}})).await;
    t.delete(A).await;
    t.delete(A).await;
    t.get(A).await;
    t.patch(
        A,
        MERGE,
        json!({"metadata": {"finalizers": ["example.com/x", "example.com/y", "example.com/z"]}}),
    )
    .await;
    t.patch(A, MERGE, json!({"metadata": {"deletionTimestamp": null}})).await;
    t.patch(A, MERGE, json!({"data": {"still": "writable"}})).await;
    t.patch(A, MERGE, json!({"metadata": {"finalizers": ["example.com/y"]}})).await;
    t.post(MAPS, map("a")).await;
    t.put(A, map("a")).await;
    t.get(A).await;
}

async fn foreground_and_orphan_are_finalizers(t: Target) {
    // A finalizer of its own keeps the garbage collector from finishing while the case looks.
    t.blur_versions();
    for policy in ["Foreground", "Orphan", "Background"] {
        let name = policy.to_lowercase();
        t.given(MAPS, json!({"metadata": {"name": name, "finalizers": ["example.com/hold"]}})).await;
        t.delete(&format!("{MAPS}/{name}?propagationPolicy={policy}")).await;
        t.quiet(
            Call::new("PATCH", &format!("{MAPS}/{name}")).body(MERGE, r#"{"metadata":{"finalizers":null}}"#),
        )
        .await;
    }
    t.given(MAPS, map("plain")).await;
    let answer =
        t.quiet(Call::new("DELETE", &format!("{MAPS}/plain")).json(&json!({"orphanDependents": true}))).await;
    t.note(&format!("{}", answer.json["metadata"]["finalizers"]));
    t.given(MAPS, map("other")).await;
    let answer = t
        .quiet(Call::new("DELETE", &format!("{MAPS}/other")).json(&json!({"orphanDependents": false})))
        .await;
    t.note(&format!("{} {}", answer.json["kind"], answer.json["status"]));
}

async fn a_collection_is_deleted_by_selector(t: Target) {
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")] {
        t.given(MAPS, json!({"metadata": {"name": name, "labels": {"l": label}}})).await;
    }
    t.delete(&format!("{MAPS}?labelSelector=l%3Dnone")).await;
    t.delete(&format!("{MAPS}?labelSelector=l%3Dx&dryRun=All")).await;
    t.delete(&format!("{MAPS}?labelSelector=l%3D%3D%3Dx")).await;
    let count = |answer: &crate::harness::Answer| answer.json["items"].as_array().unwrap().len();
    let gone = t.quiet(Call::new("DELETE", &format!("{MAPS}?labelSelector=l%3Dx"))).await;
    t.note(&format!("{} {} {}", gone.code, gone.json["kind"], count(&gone)));
    let gone = t.quiet(Call::new("DELETE", &format!("{MAPS}?fieldSelector=metadata.name%3Dd"))).await;
    t.note(&format!("{} {} {}", gone.code, gone.json["kind"], count(&gone)));
    let left = t.quiet(Call::new("GET", MAPS)).await;
    for item in left.json["items"].as_array().unwrap() {
        if item["metadata"]["name"] != "kube-root-ca.crt" {
            t.note(&item["metadata"]["name"].to_string());
        }
    }
    t.delete("/api/v1/configmaps").await;
    t.delete("/api/v1/namespaces").await;
}

/// An owner and its dependent, which blocks the owner's deletion.
async fn family(t: &Target, finalizers: Value) {
    let owner = t.given(MAPS, json!({"metadata": {"name": "owner"}})).await;
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid(), "controller": true, "blockOwnerDeletion": true});
    t.given(
        MAPS,
        json!({"metadata": {"name": "child", "finalizers": finalizers, "ownerReferences": [reference]}}),
    )
    .await;
}

async fn background_deletion_takes_the_dependents(t: Target) {
    family(&t, json!([])).await;
    t.delete(&format!("{MAPS}/owner?propagationPolicy=Background")).await;
    t.until(&format!("{MAPS}/child"), "the child is collected", |a| a.code == 404).await;
}

async fn foreground_deletion_takes_the_dependents_first(t: Target) {
    family(&t, json!(["example.com/hold"])).await;
    t.delete(&format!("{MAPS}/owner?propagationPolicy=Foreground")).await;
    t.until(&format!("{MAPS}/child"), "the child is being deleted", |a| {
        a.json["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    let owner = t.quiet(Call::new("GET", &format!("{MAPS}/owner"))).await;
    t.note(&format!("the owner waits: {} {}", owner.code, owner.json["metadata"]["finalizers"]));
    t.quiet(Call::new("PATCH", &format!("{MAPS}/child")).body(MERGE, r#"{"metadata":{"finalizers":null}}"#))
        .await;
    t.until(&format!("{MAPS}/owner"), "the owner is gone", |a| a.code == 404).await;
}

async fn orphans_lose_their_owner(t: Target) {
    family(&t, json!([])).await;
    t.delete(&format!("{MAPS}/owner?propagationPolicy=Orphan")).await;
    t.until(&format!("{MAPS}/owner"), "the owner is gone", |a| a.code == 404).await;
    let child = t.quiet(Call::new("GET", &format!("{MAPS}/child"))).await;
    t.note(&format!("the child stays: {} owners {}", child.code, child.json["metadata"]["ownerReferences"]));
}

async fn jobs_and_replication_controllers_leave_their_dependents(t: Target) {
    // Their controllers write as well: only what no controller touches is written down.
    const JOBS: &str = "/apis/batch/v1/namespaces/{ns}/jobs";
    const CONTROLLERS: &str = "/api/v1/namespaces/{ns}/replicationcontrollers";
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]});
    let job = |name: &str, finalizers: Value| json!({"metadata": {"name": name, "finalizers": finalizers}, "spec": {"suspend": true, "template": {"spec": spec}}});
    let deleted = async |path: &str, options: Value| {
        let answer = t.quiet(Call::new("DELETE", path).json(&options)).await;
        let shown = if answer.json["kind"] == "Status" { "gone" } else { "stays" };
        let finalizers = answer.json["metadata"]["finalizers"].to_string();
        let warnings: Vec<&str> =
            answer.headers.get_all("warning").iter().map(|one| one.to_str().unwrap()).collect();
        t.note(&format!("{path} {options}\n  {} {shown} {finalizers} {warnings:?}", answer.code));
    };
    let owner = t.given(JOBS, job("a", json!(null))).await;
    let reference = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "a", "uid": owner.uid()});
    t.given(MAPS, json!({"metadata": {"name": "child", "ownerReferences": [reference]}})).await;
    for options in [
        json!({"dryRun": ["All"]}),
        json!({"dryRun": ["All"], "propagationPolicy": "Background"}),
        json!({"dryRun": ["All"], "propagationPolicy": "Foreground"}),
        json!({"dryRun": ["All"], "propagationPolicy": "Orphan"}),
        json!({"dryRun": ["All"], "orphanDependents": false}),
        json!({"dryRun": ["All"], "orphanDependents": true}),
    ] {
        deleted(&format!("{JOBS}/a"), options).await;
    }
    deleted(&format!("{JOBS}?labelSelector=l%3Dnone"), json!({})).await;
    t.given(JOBS, job("waits", json!(["foregroundDeletion", "example.com/hold"]))).await;
    deleted(&format!("{JOBS}/waits"), json!({"dryRun": ["All"]})).await;
    t.quiet(Call::new("PATCH", &format!("{JOBS}/waits")).body(MERGE, r#"{"metadata":{"finalizers":null}}"#))
        .await;
    deleted(&format!("{JOBS}/a"), json!({})).await;
    t.until(&format!("{JOBS}/a"), "the job is gone", |a| a.code == 404).await;
    let child = t.quiet(Call::new("GET", &format!("{MAPS}/child"))).await;
    t.note(&format!("the child stays: {} owners {}", child.code, child.json["metadata"]["ownerReferences"]));
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let controller = json!({"metadata": {"name": "a"}, "spec": {"replicas": 0, "selector": {"a": "b"}, "template": template}});
    t.given(CONTROLLERS, controller).await;
    deleted(&format!("{CONTROLLERS}/a"), json!({"dryRun": ["All"]})).await;
    deleted(&format!("{CONTROLLERS}/a"), json!({})).await;
    t.until(&format!("{CONTROLLERS}/a"), "the controller is gone", |a| a.code == 404).await;
}

async fn a_dependent_with_another_owner_stays(t: Target) {
    let mut references = Vec::new();
    for name in ["one", "two"] {
        let owner = t.given(MAPS, map(name)).await;
        references.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner.uid()}));
    }
    t.given(MAPS, json!({"metadata": {"name": "child", "ownerReferences": references}})).await;
    t.quiet(Call::new("DELETE", &format!("{MAPS}/one?propagationPolicy=Background"))).await;
    t.quiet(Call::new("DELETE", &format!("{MAPS}/two?propagationPolicy=Background"))).await;
    t.until(&format!("{MAPS}/child"), "the child is collected with its last owner", |a| a.code == 404).await;
    t.note("collected");
}

async fn a_dependent_of_nobody_is_collected(t: Target) {
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": "12345678-0000-4000-8000-123456789012"});
    t.given(MAPS, json!({"metadata": {"name": "child", "ownerReferences": [reference]}})).await;
    t.until(&format!("{MAPS}/child"), "the child is collected", |a| a.code == 404).await;
    t.note("collected");
}

async fn a_deleted_namespace_is_emptied(t: Target) {
    t.blur_versions();
    t.given("/api/v1/namespaces", json!({"metadata": {"name": "{ns}-doomed"}})).await;
    let maps = "/api/v1/namespaces/{ns}-doomed/configmaps";
    t.given(maps, map("a")).await;
    t.given(maps, json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}})).await;
    let answer = t.quiet(Call::new("DELETE", "/api/v1/namespaces/{ns}-doomed")).await;
    t.note(&format!("{} {} {}", answer.code, answer.json["kind"], answer.json["status"]));
    t.until(&format!("{maps}/a"), "the namespace is emptied", |a| a.code == 404).await;
    t.until(&format!("{maps}/held"), "the held one is being deleted", |a| {
        a.json["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    let remaining = t.until("/api/v1/namespaces/{ns}-doomed", "it says what remains", |a| {
        a.json["status"]["conditions"].as_array().is_some_and(|all| {
            all.iter().any(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True")
        })
    });
    for condition in remaining.await.json["status"]["conditions"].as_array().unwrap() {
        t.note(&format!(
            "{} {} {} {}",
            condition["type"], condition["status"], condition["reason"], condition["message"]
        ));
    }
    t.quiet(Call::new("PATCH", &format!("{maps}/held")).body(MERGE, r#"{"metadata":{"finalizers":null}}"#))
        .await;
    t.until("/api/v1/namespaces/{ns}-doomed", "the namespace is gone", |a| a.code == 404).await;
}

async fn the_answer_of_a_deletion_depends_on_what_remains(t: Target) {
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let set = json!({"metadata": {"name": "a"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    t.given("/apis/apps/v1/namespaces/{ns}/replicasets", set).await;
    t.delete("/apis/apps/v1/namespaces/{ns}/replicasets/a").await;
    t.given("/api/v1/namespaces/{ns}/secrets", json!({"metadata": {"name": "s"}})).await;
    t.delete("/api/v1/namespaces/{ns}/secrets/s").await;
    t.given(
        "/api/v1/namespaces/{ns}/services",
        json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}),
    )
    .await;
    t.blur_versions();
    t.delete("/api/v1/namespaces/{ns}/services/s").await;
}
