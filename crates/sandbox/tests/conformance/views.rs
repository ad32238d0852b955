//! The forms of an object that `Accept` can ask for: metadata only, and tables.

use serde_json::json;

use crate::harness::{Call, MERGE, Target};

const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";
const SECRETS: &str = "/api/v1/namespaces/{ns}/secrets";

cases! {
    metadata_alone_can_be_asked_for,
    a_table_can_be_asked_for,
    tables_hold_metadata_objects_or_none,
    other_forms_are_refused,
    writes_are_answered_in_the_form_asked_for,
    tables_of_workloads_have_their_columns,
}

async fn metadata_alone_can_be_asked_for(t: Target) {
    t.given(SECRETS, json!({"metadata": {"name": "a", "labels": {"l": "x"}}, "data": {"a": "eA=="}})).await;
    t.send(Call::new("GET", &format!("{SECRETS}/a")).accept(PARTIAL)).await;
    t.send(Call::new("GET", SECRETS).accept(PARTIAL_LIST)).await;
    t.send(Call::new("GET", SECRETS).accept(PARTIAL)).await;
    t.send(Call::new("GET", &format!("{SECRETS}/a")).accept(PARTIAL_LIST)).await;
    t.send(Call::new("GET", &format!("{SECRETS}/no-such")).accept(PARTIAL)).await;
}

async fn a_table_can_be_asked_for(t: Target) {
    t.given(SECRETS, json!({"metadata": {"name": "a"}, "data": {"a": "eA=="}})).await;
    t.send(Call::new("GET", SECRETS).accept(TABLE)).await;
    t.send(Call::new("GET", &format!("{SECRETS}/a")).accept(TABLE)).await;
    t.send(Call::new("GET", "/api/v1/namespaces/no-such/secrets").accept(TABLE)).await;
    t.send(Call::new("GET", SECRETS).accept(&format!("{TABLE},application/json"))).await;
    t.send(Call::new("GET", &format!("{SECRETS}/no-such")).accept(TABLE)).await;
}

async fn tables_hold_metadata_objects_or_none(t: Target) {
    t.given(SECRETS, json!({"metadata": {"name": "a"}, "data": {"a": "eA=="}})).await;
    for include in ["None", "Metadata", "Object", "Bad"] {
        t.send(Call::new("GET", &format!("{SECRETS}?includeObject={include}")).accept(TABLE)).await;
    }
}

async fn other_forms_are_refused(t: Target) {
    t.send(Call::new("GET", SECRETS).accept("application/json;as=Frob;g=meta.k8s.io;v=v1")).await;
    t.send(Call::new("GET", SECRETS).accept("application/json;as=Table;g=meta.k8s.io;v=v9")).await;
    t.send(Call::new("GET", SECRETS).accept("application/json;as=Table;g=meta.k8s.io;v=v9,application/json"))
        .await;
    t.send(Call::new("GET", SECRETS).accept("application/xml")).await;
}

async fn writes_are_answered_in_the_form_asked_for(t: Target) {
    t.send(Call::new("POST", SECRETS).accept(PARTIAL).json(&json!({"metadata": {"name": "a"}}))).await;
    t.send(
        Call::new("PATCH", &format!("{SECRETS}/a"))
            .accept(PARTIAL)
            .body(MERGE, r#"{"metadata":{"labels":{"l":"x"}}}"#),
    )
    .await;
    t.send(Call::new("DELETE", &format!("{SECRETS}/a")).accept(PARTIAL)).await;
}

/// Columns, and the cells of the one row without its age.
async fn columns(t: &Target, path: &str) {
    let answer = t.quiet(Call::new("GET", path).accept(TABLE)).await;
    t.note(&format!("{path}: {} {}", answer.code, answer.json["kind"]));
    let columns = answer.json["columnDefinitions"].as_array().expect("columns");
    for column in columns {
        t.note(&format!("{} {} {} {}", column["name"], column["type"], column["format"], column["priority"]));
    }
    for row in answer.json["rows"].as_array().unwrap() {
        let cells: Vec<String> = row["cells"]
            .as_array()
            .unwrap()
            .iter()
            .zip(columns)
            .filter(|(_, column)| {
                column["name"] != "Age" && column["name"] != "Last Seen" && column["name"] != "First Seen"
            })
            .map(|(cell, _)| cell.to_string())
            .collect();
        t.note(&cells.join(" | "));
    }
}

async fn tables_of_workloads_have_their_columns(t: Target) {
    t.until("/api/v1/namespaces/{ns}/serviceaccounts/default", "the default service account", |a| {
        a.code == 200
    })
    .await;
    let spec = json!({"automountServiceAccountToken": false, "schedulerName": "none", "containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "i:2"}]});
    t.given("/api/v1/namespaces/{ns}/pods", json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let with = |extra: serde_json::Value| {
        let mut spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"metadata": {"name": "a"}, "spec": spec})
    };
    let apps = "/apis/apps/v1/namespaces/{ns}";
    t.given(&format!("{apps}/replicasets"), with(json!({"replicas": 0}))).await;
    t.given(&format!("{apps}/statefulsets"), with(json!({"replicas": 0, "serviceName": "s"}))).await;
    t.given(
        "/api/v1/namespaces/{ns}/services",
        json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}),
    )
    .await;
    t.given(
        "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases",
        json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}}),
    )
    .await;
    t.given("/api/v1/namespaces/{ns}/configmaps", json!({"metadata": {"name": "m"}, "data": {"a": "1"}}))
        .await;
    t.given(
        &format!("{apps}/controllerrevisions"),
        json!({"metadata": {"name": "r"}, "data": {"a": 1}, "revision": 3}),
    )
    .await;
    columns(&t, "/api/v1/namespaces/{ns}/pods").await;
    for kind in ["replicasets", "statefulsets", "deployments", "daemonsets", "controllerrevisions"] {
        columns(&t, &format!("{apps}/{kind}")).await;
    }
    columns(&t, "/api/v1/namespaces/{ns}/services").await;
    columns(&t, "/api/v1/namespaces/{ns}/configmaps/m").await;
    columns(&t, "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases").await;
    columns(&t, "/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets").await;
    columns(&t, "/apis/batch/v1/namespaces/{ns}/jobs").await;
    columns(&t, "/apis/batch/v1/namespaces/{ns}/cronjobs").await;
    columns(&t, "/api/v1/namespaces/{ns}/persistentvolumeclaims").await;
    columns(&t, "/api/v1/namespaces/{ns}").await;
    columns(&t, "/api/v1/namespaces/{ns}/events?limit=1&fieldSelector=reason%3DNoSuch").await;
}
