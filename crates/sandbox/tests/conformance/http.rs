//! Paths, methods, media types, discovery.

use serde_json::Value;

use crate::harness::{Answer, Call, Target};

cases! {
    unknown_paths_are_not_found,
    wrong_methods_are_refused,
    head_and_options_are_answered,
    the_version_is_told,
    health_is_told,
    groups_are_discovered,
    resources_are_discovered,
    discovery_is_aggregated,
    openapi_v3_is_indexed,
    openapi_v2_knows_the_kinds,
    who_asks_is_told,
}

async fn unknown_paths_are_not_found(t: Target) {
    for path in [
        "/nope",
        "/api/v2",
        "/api/v1/nopes",
        "/api/v1/namespaces/{ns}/nopes",
        "/apis/nope.example.com",
        "/apis/nope.example.com/v1",
        "/apis/nope.example.com/v1/namespaces/{ns}/nopes",
        "/apis/apps/v9/deployments",
        "/apis/apps/v1/namespaces/{ns}/nopes/a",
        "/api/v1/namespaces/{ns}/configmaps/a/status",
        "/api/v1/namespaces/{ns}/configmaps/a/b/c",
        "/apis/apps/v1/namespaces/{ns}/deployments/a/nope",
        "/api/v1/namespaces/{ns}/nodes",
        "/api/v1/nodes/a/b",
    ] {
        t.get(path).await;
    }
    t.send(Call::new("POST", "/nope").body("application/json", "{}")).await;
    t.send(
        Call::new("PUT", "/apis/nope.example.com/v1/namespaces/{ns}/nopes/a").body("application/json", "{}"),
    )
    .await;
}

async fn wrong_methods_are_refused(t: Target) {
    for (method, path) in [
        ("PUT", "/api/v1/namespaces/{ns}/configmaps"),
        ("POST", "/api/v1/namespaces/{ns}/configmaps/a"),
        ("PATCH", "/api/v1/namespaces/{ns}/configmaps"),
        ("DELETE", "/api/v1/namespaces/{ns}/pods/a/status"),
        ("POST", "/apis/apps/v1/namespaces/{ns}/deployments/a/scale"),
        ("GET", "/api/v1/namespaces/{ns}/pods/a/binding"),
        ("GET", "/api/v1/namespaces/{ns}/pods/a/eviction"),
        ("POST", "/api/v1"),
        ("POST", "/version"),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"),
        ("PUT", "/api/v1/pods"),
    ] {
        t.send(Call::new(method, path).body("application/json", "{}")).await;
    }
}

async fn head_and_options_are_answered(t: Target) {
    for method in ["HEAD", "OPTIONS", "TRACE", "FROB"] {
        t.send(Call::new(method, "/api/v1/namespaces/{ns}/configmaps/no-such")).await;
    }
}

async fn the_version_is_told(t: Target) {
    let answer = t.quiet(Call::new("GET", "/version")).await;
    let version = &answer.json;
    t.note(&format!("{} {} {}", answer.code, version["major"], version["minor"]));
    for field in ["gitVersion", "gitCommit", "buildDate", "goVersion", "compiler", "platform"] {
        assert!(version[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {version}");
    }
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.34."), "{version}");
}

async fn health_is_told(t: Target) {
    for path in ["/healthz", "/livez", "/readyz", "/livez/ping", "/healthz/nope"] {
        t.get(path).await;
    }
}

async fn groups_are_discovered(t: Target) {
    let api = t.quiet(Call::new("GET", "/api")).await;
    t.note(&format!("{} {} {}", api.code, api.json["kind"], api.json["versions"]));
    t.get("/apis/apps").await;
    let groups = t.quiet(Call::new("GET", "/apis")).await;
    t.note(&format!("{} {} {}", groups.code, groups.json["kind"], groups.json["apiVersion"]));
    for name in [
        "apps",
        "batch",
        "policy",
        "coordination.k8s.io",
        "apiextensions.k8s.io",
        "rbac.authorization.k8s.io",
        "events.k8s.io",
        "discovery.k8s.io",
        "storage.k8s.io",
        "admissionregistration.k8s.io",
    ] {
        let group = groups.json["groups"].as_array().unwrap().iter().find(|group| group["name"] == name);
        t.note(&format!("{name}: {}", group.map_or(&Value::Null, |group| &group["preferredVersion"])));
    }
    let root = t.quiet(Call::new("GET", "/")).await;
    for path in ["/api/v1", "/apis/apps/v1", "/openapi/v3", "/version"] {
        assert!(
            root.json["paths"].as_array().unwrap().iter().any(|listed| listed == path),
            "{path}: {}",
            root.text
        );
    }
}

fn sorted(answer: &Answer, names: &[&str]) -> Vec<Value> {
    let resources = answer.json["resources"].as_array().expect("resources");
    let mut chosen: Vec<Value> =
        resources.iter().filter(|r| names.contains(&r["name"].as_str().unwrap())).cloned().collect();
    for resource in &mut chosen {
        resource.as_object_mut().unwrap().remove("storageVersionHash");
    }
    chosen
}

async fn resources_are_discovered(t: Target) {
    for (path, names) in [
        (
            "/api/v1",
            vec![
                "pods",
                "pods/status",
                "pods/eviction",
                "pods/binding",
                "configmaps",
                "namespaces",
                "namespaces/finalize",
                "nodes",
                "services",
                "secrets",
                "events",
                "persistentvolumeclaims",
                "replicationcontrollers/scale",
            ],
        ),
        (
            "/apis/apps/v1",
            vec![
                "deployments",
                "deployments/scale",
                "deployments/status",
                "statefulsets",
                "daemonsets",
                "replicasets",
                "controllerrevisions",
            ],
        ),
        ("/apis/policy/v1", vec!["poddisruptionbudgets", "poddisruptionbudgets/status"]),
        ("/apis/batch/v1", vec!["jobs", "jobs/status", "cronjobs"]),
        (
            "/apis/apiextensions.k8s.io/v1",
            vec!["customresourcedefinitions", "customresourcedefinitions/status"],
        ),
        ("/apis/coordination.k8s.io/v1", vec!["leases"]),
    ] {
        let answer = t.quiet(Call::new("GET", path)).await;
        t.note(&format!("{path}: {} {} {}", answer.code, answer.json["kind"], answer.json["groupVersion"]));
        for resource in sorted(&answer, &names) {
            t.note(&resource.to_string());
        }
    }
}

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

async fn discovery_is_aggregated(t: Target) {
    for (path, group, names) in [
        ("/api", "", vec!["pods", "configmaps"]),
        ("/apis", "apps", vec!["deployments", "controllerrevisions"]),
    ] {
        let answer = t.quiet(Call::new("GET", path).accept(AGGREGATED)).await;
        t.note(&format!("{path}: {} {} {}", answer.code, answer.json["kind"], answer.json["apiVersion"]));
        t.note(answer.headers["content-type"].to_str().unwrap());
        let items = answer.json["items"].as_array().unwrap();
        let found = items
            .iter()
            .find(|item| item["metadata"]["name"].as_str().unwrap_or_default() == group)
            .expect("the group");
        t.note(&format!("{} {}", found["versions"][0]["version"], found["versions"][0]["freshness"]));
        for resource in found["versions"][0]["resources"].as_array().unwrap() {
            if names.contains(&resource["resource"].as_str().unwrap()) {
                t.note(&resource.to_string());
            }
        }
    }
}

async fn openapi_v3_is_indexed(t: Target) {
    let index = t.quiet(Call::new("GET", "/openapi/v3")).await;
    for path in ["api/v1", "apis/apps/v1", "apis/apiextensions.k8s.io/v1"] {
        let url = index.json["paths"][path]["serverRelativeURL"].as_str().expect("a URL").to_owned();
        assert!(url.starts_with(&format!("/openapi/v3/{path}?hash=")), "{url}");
        let document = t.quiet(Call::new("GET", &url)).await;
        assert_eq!(document.code, 200);
        assert!(document.json["openapi"].as_str().unwrap().starts_with("3."), "{}", document.json["openapi"]);
        assert!(
            document.json["components"]["schemas"].as_object().is_some_and(|schemas| !schemas.is_empty())
        );
    }
    let apps = t.quiet(Call::new("GET", "/openapi/v3/apis/apps/v1")).await;
    let deployment = &apps.json["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    t.note(&deployment["x-kubernetes-group-version-kind"].to_string());
    t.note(&deployment["type"].to_string());
    let mut properties: Vec<&String> = deployment["properties"].as_object().unwrap().keys().collect();
    properties.sort();
    t.note(&format!("{properties:?}"));
}

async fn openapi_v2_knows_the_kinds(t: Target) {
    let answer = t.quiet(Call::new("GET", "/openapi/v2")).await;
    assert_eq!(answer.code, 200);
    assert_eq!(answer.json["swagger"], "2.0");
    assert!(answer.json["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    t.note("swagger 2.0");
}

async fn who_asks_is_told(t: Target) {
    let review = serde_json::json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"namespace": "{ns}", "verb": "create", "resource": "pods"}}});
    let answer = t
        .quiet(Call::new("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").json(&review))
        .await;
    t.note(&format!("{} {} {}", answer.code, answer.json["kind"], answer.json["status"]["allowed"]));
}
