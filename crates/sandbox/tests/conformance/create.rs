//! POST: names, bodies, unknown fields, dry run, field managers.

use serde_json::{Value, json};

use crate::harness::{Call, Target};

const MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";

cases! {
    an_object_comes_back_with_its_metadata,
    a_generated_name_keeps_its_prefix,
    a_taken_name_is_refused,
    a_wrong_name_is_refused,
    a_wrong_namespace_is_refused,
    a_missing_namespace_is_refused,
    a_terminating_namespace_takes_nothing_new,
    another_kind_is_refused,
    a_body_that_is_no_object_is_refused,
    a_field_of_another_type_is_refused,
    yaml_is_read,
    another_media_type_is_refused,
    a_body_too_large_is_refused,
    unknown_fields_are_refused_warned_of_or_ignored,
    a_dry_run_stores_nothing,
    options_are_checked,
    fields_the_server_sets_are_not_taken_from_the_body,
    labels_annotations_finalizers_and_owners_are_checked,
    keys_of_a_config_map_are_checked,
    the_field_manager_is_the_user_agent_up_to_its_slash,
    pods_are_checked,
    services_and_claims_get_defaults,
    a_namespace_gets_its_finalizer_and_label,
    deployments_get_defaults_and_are_checked,
    several_kinds_get_defaults,
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

async fn an_object_comes_back_with_its_metadata(t: Target) {
    t.post(MAPS, map("a")).await;
    t.get(&format!("{MAPS}/a")).await;
}

async fn a_generated_name_keeps_its_prefix(t: Target) {
    let first = t.post(MAPS, json!({"metadata": {"generateName": "g-"}})).await;
    let second = t.quiet(Call::new("POST", MAPS).json(&json!({"metadata": {"generateName": "g-"}}))).await;
    assert_ne!(first.name(), second.name());
    let alphabet = "bcdfghjklmnpqrstvwxz2456789";
    assert!(
        first.name().strip_prefix("g-").unwrap().chars().all(|c| alphabet.contains(c)),
        "{}",
        first.name()
    );
    t.post(MAPS, json!({"metadata": {"name": "both", "generateName": "g-"}})).await;
    t.post(MAPS, json!({"metadata": {}})).await;
}

async fn a_taken_name_is_refused(t: Target) {
    t.given(MAPS, map("a")).await;
    t.post(MAPS, map("a")).await;
    t.post("/api/v1/namespaces", json!({"metadata": {"name": "{ns}"}})).await;
}

async fn a_wrong_name_is_refused(t: Target) {
    t.post(MAPS, map("A_b")).await;
    t.post(
        "/api/v1/namespaces/{ns}/services",
        json!({"metadata": {"name": "1.a"}, "spec": {"ports": [{"port": 1}]}}),
    )
    .await;
    t.post("/api/v1/namespaces", json!({"metadata": {"name": "a.b"}})).await;
    t.post(MAPS, map(&"x".repeat(254))).await;
    t.post("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/roles", json!({"metadata": {"name": "a/b"}}))
        .await;
    t.post("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/roles", json!({"metadata": {"name": "A:b"}}))
        .await;
}

async fn a_wrong_namespace_is_refused(t: Target) {
    t.post(MAPS, json!({"metadata": {"name": "b", "namespace": "other"}})).await;
    t.post(MAPS, json!({"metadata": {"name": "b", "namespace": "{ns}"}})).await;
    let role = json!({"metadata": {"name": "conformance-x", "namespace": "other"}});
    t.post("/apis/rbac.authorization.k8s.io/v1/clusterroles?dryRun=All", role).await;
}

async fn a_missing_namespace_is_refused(t: Target) {
    t.post("/api/v1/namespaces/no-such/configmaps", map("a")).await;
    t.get("/api/v1/namespaces/no-such/configmaps").await;
    t.post("/api/v1/configmaps", map("a")).await;
}

async fn a_terminating_namespace_takes_nothing_new(t: Target) {
    let held = json!({"metadata": {"name": "{ns}-held"}});
    t.given("/api/v1/namespaces", held).await;
    let maps = "/api/v1/namespaces/{ns}-held/configmaps";
    t.given(maps, json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}})).await;
    t.quiet(Call::new("DELETE", "/api/v1/namespaces/{ns}-held")).await;
    t.post(maps, map("b")).await;
    t.quiet(
        Call::new("PATCH", &format!("{maps}/held"))
            .body(crate::harness::MERGE, r#"{"metadata":{"finalizers":null}}"#),
    )
    .await;
}

async fn another_kind_is_refused(t: Target) {
    t.post(MAPS, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "b"}})).await;
    t.post(MAPS, json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "b"}})).await;
    t.post(MAPS, json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "b"}})).await;
    t.post(MAPS, json!({"apiVersion": "example.com/v1", "kind": "Nothing", "metadata": {"name": "b"}})).await;
    t.post(MAPS, json!({"kind": "ConfigMap", "metadata": {"name": "without-version"}})).await;
    t.post(MAPS, json!({"apiVersion": "v1", "metadata": {"name": "without-kind"}})).await;
}

async fn a_body_that_is_no_object_is_refused(t: Target) {
    for body in [r#"{"metadata":"#, "", "[]", r#""x""#, "5", "null", "{} {}", "hello"] {
        t.send(Call::new("POST", MAPS).body("application/json", body)).await;
    }
}

async fn a_field_of_another_type_is_refused(t: Target) {
    t.post(MAPS, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": 5}})).await;
    t.post(
        MAPS,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "t"}, "data": {"a": 1}}),
    )
    .await;
    t.post(MAPS, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "t"}, "data": []}))
        .await;
    t.post(
        MAPS,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "t", "labels": {"a": true}}}),
    )
    .await;
    let pods = "/api/v1/namespaces/{ns}/pods";
    t.post(
        pods,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "t"}, "spec": {"containers": {}}}),
    )
    .await;
    t.post(pods, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "t"}, "spec": {"containers": [{"name": 1}]}}))
        .await;
    let deployments = "/apis/apps/v1/namespaces/{ns}/deployments";
    t.post(deployments, json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "t"}, "spec": {"replicas": "3"}}))
        .await;
    t.post(deployments, json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "t"}, "spec": {"replicas": 1.5}}))
        .await;
}

async fn yaml_is_read(t: Target) {
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: from-yaml\ndata:\n  a: \"1\"\n";
    t.send(Call::new("POST", MAPS).body("application/yaml", yaml)).await;
    t.send(Call::new("POST", MAPS).body("application/yaml", "a: b: c")).await;
    t.send(Call::new("GET", &format!("{MAPS}/no-such")).accept("application/yaml")).await;
}

async fn another_media_type_is_refused(t: Target) {
    let body = map("b").to_string();
    t.send(Call::new("POST", MAPS).body("text/plain", &body)).await;
    t.send(Call::new("POST", MAPS).body("application/merge-patch+json", &body)).await;
    t.send(Call::new("POST", MAPS).body("application/json; charset=utf-8", &body)).await;
    t.send(Call::new("GET", "/api/v1/namespaces/{ns}/secrets").accept("text/plain")).await;
    t.send(Call::new("GET", "/api/v1/namespaces/{ns}/secrets").accept("image/png, */*;q=0.1")).await;
}

async fn a_body_too_large_is_refused(t: Target) {
    let large = |bytes: usize| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"a": "x".repeat(bytes)}});
    t.post(MAPS, large(3 * 1024 * 1024 + 1024)).await;
    t.post(MAPS, large(1200 * 1024)).await;
}

async fn unknown_fields_are_refused_warned_of_or_ignored(t: Target) {
    let odd = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "u", "bar": 2}, "foo": 1});
    for query in [
        "fieldValidation=Strict",
        "fieldValidation=Warn&dryRun=All",
        "dryRun=All",
        "fieldValidation=Ignore&dryRun=All",
        "fieldValidation=Bad",
    ] {
        t.post(&format!("{MAPS}?{query}"), odd.clone()).await;
    }
    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"d","name":"d"}}"#;
    t.send(Call::new("POST", &format!("{MAPS}?fieldValidation=Strict")).body("application/json", twice))
        .await;
    t.send(Call::new("POST", &format!("{MAPS}?dryRun=All")).body("application/json", twice)).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"automountServiceAccountToken": false, "nodename": "x", "containers": [{"name": "c", "image": "i", "Ports": [], "env": [{"nam": "x"}]}]}});
    t.post("/api/v1/namespaces/{ns}/pods?fieldValidation=Strict", pod).await;
}

async fn a_dry_run_stores_nothing(t: Target) {
    t.post(&format!("{MAPS}?dryRun=All"), map("a")).await;
    t.get(&format!("{MAPS}/a")).await;
    t.given(MAPS, map("b")).await;
    t.post(&format!("{MAPS}?dryRun=All"), map("b")).await;
    let patch = json!({"data": {"a": "2"}});
    t.patch(&format!("{MAPS}/b?dryRun=All"), crate::harness::MERGE, patch).await;
    t.put(&format!("{MAPS}/b?dryRun=All"), json!({"metadata": {"name": "b"}})).await;
    t.delete(&format!("{MAPS}/b?dryRun=All")).await;
    t.get(&format!("{MAPS}/b")).await;
    t.post(&format!("{MAPS}?dryRun=Some"), map("c")).await;
}

async fn options_are_checked(t: Target) {
    t.post(&format!("{MAPS}?fieldManager={}", "x".repeat(129)), map("a")).await;
    t.post(&format!("{MAPS}?fieldManager=%07"), map("a")).await;
    t.put(&format!("{MAPS}/a?fieldValidation=Bad"), map("a")).await;
    t.patch(&format!("{MAPS}/a?dryRun=Bad"), crate::harness::MERGE, json!({})).await;
    t.post(&format!("{MAPS}?pretty=true&unknown=1"), map("a")).await;
}

async fn fields_the_server_sets_are_not_taken_from_the_body(t: Target) {
    t.post(MAPS, json!({"metadata": {"name": "a", "resourceVersion": "5"}})).await;
    t.post(MAPS, json!({"metadata": {"name": "a", "resourceVersion": "0"}})).await;
    t.post(MAPS, json!({"metadata": {"name": "b", "uid": "abc", "generation": 7, "selfLink": "/x",
        "creationTimestamp": "2000-01-01T00:00:00Z", "deletionTimestamp": "2000-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3}}))
        .await;
}

async fn labels_annotations_finalizers_and_owners_are_checked(t: Target) {
    t.post(MAPS, json!({"metadata": {"name": "a", "labels": {"a b": "x"}}})).await;
    t.post(MAPS, json!({"metadata": {"name": "a", "labels": {"a": "-x"}}})).await;
    t.post(MAPS, json!({"metadata": {"name": "a", "labels": {"a": "x".repeat(64)}}})).await;
    t.post(MAPS, json!({"metadata": {"name": "a", "labels": {"A.b/c/d": "x"}}})).await;
    t.post(MAPS, json!({"metadata": {"name": "a", "annotations": {"a b": "x"}}})).await;
    t.post(MAPS, json!({"metadata": {"name": "a", "finalizers": ["x"]}})).await;
    t.post(MAPS, json!({"metadata": {"name": "a", "ownerReferences": [{"apiVersion": "", "kind": "", "name": "", "uid": ""}]}})).await;
    let owner = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": name, "controller": true});
    t.post(MAPS, json!({"metadata": {"name": "a", "ownerReferences": [owner("x"), owner("y")]}})).await;
    t.post(MAPS, json!({"metadata": {"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "x", "uid": "x"}]}}))
        .await;
}

async fn keys_of_a_config_map_are_checked(t: Target) {
    t.post(MAPS, json!({"metadata": {"name": "a"}, "data": {"a/b": "x"}})).await;
    t.post(MAPS, json!({"metadata": {"name": "a"}, "data": {"a": "x"}, "binaryData": {"a": "eA=="}})).await;
    t.post("/api/v1/namespaces/{ns}/secrets", json!({"metadata": {"name": "a"}, "stringData": {"a": "x"}}))
        .await;
    t.post(
        "/api/v1/namespaces/{ns}/secrets",
        json!({"metadata": {"name": "b"}, "data": {"a": "not base64"}}),
    )
    .await;
}

async fn the_field_manager_is_the_user_agent_up_to_its_slash(t: Target) {
    for (name, agent) in [("a", "kubectl/v1.34 (linux)"), ("b", "plain"), ("c", "")] {
        t.send(Call::new("POST", MAPS).header("user-agent", agent).json(&map(name))).await;
    }
    t.post(&format!("{MAPS}?fieldManager=mine"), map("d")).await;
}

async fn pods_are_checked(t: Target) {
    let pods = "/api/v1/namespaces/{ns}/pods";
    t.until("/api/v1/namespaces/{ns}/serviceaccounts/default", "the default service account", |a| {
        a.code == 200
    })
    .await;
    t.post(pods, json!({"metadata": {"name": "a"}, "spec": {}})).await;
    t.post(
        pods,
        json!({"metadata": {"name": "a"}, "spec": {"automountServiceAccountToken": false, "containers": []}}),
    )
    .await;
    let with = |containers: Value| json!({"metadata": {"name": "a"}, "spec": {"automountServiceAccountToken": false, "containers": containers}});
    t.post(pods, with(json!([{"image": "i"}]))).await;
    t.post(pods, with(json!([{"name": "c"}]))).await;
    t.post(pods, with(json!([{"name": "C_", "image": "i"}]))).await;
    t.post(pods, with(json!([{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]))).await;
    t.post(pods, with(json!([{"name": "c", "image": "i", "imagePullPolicy": "Sometimes"}]))).await;
    t.post(pods, with(json!([{"name": "c", "image": "i", "ports": [{"containerPort": 0}]}]))).await;
    t.post(
        pods,
        with(json!([{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}])),
    )
    .await;
    t.post(pods, with(json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]))).await;
    t.post(pods, with(json!([{"name": "c", "image": "i", "env": [{"name": ""}]}]))).await;
    t.post(pods, json!({"metadata": {"name": "a"}, "spec": {"automountServiceAccountToken": false, "restartPolicy": "Maybe", "dnsPolicy": "X", "containers": [{"name": "c", "image": "i"}]}}))
        .await;
}

async fn services_and_claims_get_defaults(t: Target) {
    t.post("/api/v1/namespaces/{ns}/services", json!({"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 80}]}}))
        .await;
    t.post("/api/v1/namespaces/{ns}/services", json!({"metadata": {"name": "none"}, "spec": {"ports": []}}))
        .await;
    let claim = json!({"metadata": {"name": "c"}, "spec": {"storageClassName": "no-such", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    t.post("/api/v1/namespaces/{ns}/persistentvolumeclaims?dryRun=All", claim).await;
    t.post("/api/v1/namespaces/{ns}/persistentvolumeclaims", json!({"metadata": {"name": "c"}, "spec": {}}))
        .await;
}

async fn a_namespace_gets_its_finalizer_and_label(t: Target) {
    t.post("/api/v1/namespaces?dryRun=All", json!({"metadata": {"name": "{ns}-dry"}})).await;
}

async fn deployments_get_defaults_and_are_checked(t: Target) {
    let deployments = "/apis/apps/v1/namespaces/{ns}/deployments?dryRun=All";
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    t.post(deployments, json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}})).await;
    t.post(deployments, json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "c"}}, "template": template}})).await;
    t.post(deployments, json!({"metadata": {"name": "d"}, "spec": {"template": template}})).await;
    t.post(deployments, json!({"metadata": {"name": "d"}, "spec": {"replicas": -1, "selector": {"matchLabels": {"a": "b"}}, "template": template}})).await;
}

async fn several_kinds_get_defaults(t: Target) {
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let selector = json!({"matchLabels": {"a": "b"}});
    let apps = "/apis/apps/v1/namespaces/{ns}";
    t.post(
        &format!("{apps}/replicasets?dryRun=All"),
        json!({"metadata": {"name": "a"}, "spec": {"selector": selector, "template": template}}),
    )
    .await;
    t.post(&format!("{apps}/statefulsets?dryRun=All"), json!({"metadata": {"name": "a"}, "spec": {"serviceName": "s", "selector": selector, "template": template}}))
        .await;
    t.post(
        &format!("{apps}/daemonsets?dryRun=All"),
        json!({"metadata": {"name": "a"}, "spec": {"selector": selector, "template": template}}),
    )
    .await;
    t.post(
        &format!("{apps}/controllerrevisions?dryRun=All"),
        json!({"metadata": {"name": "a"}, "data": {"a": 1}, "revision": 1}),
    )
    .await;
    t.post(
        &format!("{apps}/controllerrevisions?dryRun=All"),
        json!({"metadata": {"name": "a"}, "revision": -1}),
    )
    .await;
    t.post(
        "/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets?dryRun=All",
        json!({"metadata": {"name": "a"}, "spec": {"minAvailable": 1, "selector": selector}}),
    )
    .await;
    t.post(
        "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases?dryRun=All",
        json!({"metadata": {"name": "a"}, "spec": {"holderIdentity": "x", "leaseDurationSeconds": 0}}),
    )
    .await;
    t.post("/apis/coordination.k8s.io/v1/namespaces/{ns}/leases?dryRun=All", json!({"metadata": {"name": "a"}, "spec": {"holderIdentity": "x", "leaseDurationSeconds": 15, "renewTime": "2001-01-01T00:00:00.123456Z"}}))
        .await;
    t.post("/api/v1/namespaces/{ns}/events?dryRun=All", json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "{ns}", "name": "p"}, "reason": "R", "message": "m", "type": "Normal"}))
        .await;
    t.post("/api/v1/namespaces/{ns}/serviceaccounts?dryRun=All", json!({"metadata": {"name": "sa"}})).await;
    t.post(
        "/apis/scheduling.k8s.io/v1/priorityclasses?dryRun=All",
        json!({"metadata": {"name": "conformance-{ns}"}, "value": 5}),
    )
    .await;
}
