//! Webhooks in the process, called for the project's own CloneSet: conversion between its versions, and admission.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruise_sandbox::server::Server;
use kruise_sandbox::webhook::InProcess;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, EvictParams, ListParams, Patch, PatchParams, PostParams,
    Preconditions, PropagationPolicy,
};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{object, server_with, status};

const DEFINITION: &str = include_str!("../../../../crds/apps.kruise.io_clonesets.yaml");
const HOST: &str = "https://kruise-webhook-service.kruise-system.svc:443";

/// The reviews that were asked for: `MUTATE CREATE web`, `CONVERT 2 v1alpha1`.
type Asked = Arc<Mutex<Vec<String>>>;

fn read(body: &Bytes) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn answer(review: &Value, response: &Value) -> Bytes {
    let answer = json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response});
    Bytes::from(answer.to_string())
}

/// Labels a new set and warns of it.
fn mutate(review: &Value) -> Bytes {
    let patch = json!([{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}]).to_string();
    let response = json!({
        "uid": text(review, "/request/uid"), "allowed": true, "patchType": "JSONPatch",
        "patch": k8s_openapi::ByteString(patch.into_bytes()), "warnings": ["labelled"],
    });
    answer(review, &response)
}

/// Refuses more than 5 replicas, and to let go of sets that are labelled as kept.
fn validate(review: &Value) -> Bytes {
    let many = review.pointer("/request/object/spec/replicas").and_then(Value::as_i64) > Some(5);
    let kept = text(review, "/request/oldObject/metadata/labels/keep") == "yes";
    let deleted = text(review, "/request/operation") == "DELETE";
    let response = json!({
        "uid": text(review, "/request/uid"), "allowed": !(many || deleted && kept),
        "status": {"code": 422, "reason": "Invalid", "message": "no"},
    });
    answer(review, &response)
}

/// In v1alpha1 the partition stands in an annotation as well.
fn convert(review: &Value) -> Bytes {
    let wanted = text(review, "/request/desiredAPIVersion").to_owned();
    let mut objects = review["request"]["objects"].as_array().unwrap().clone();
    for object in &mut objects {
        object["apiVersion"] = json!(wanted);
        if wanted.ends_with("v1alpha1") {
            object["metadata"]["annotations"] = json!({"converted": "yes"});
        } else {
            object["metadata"].as_object_mut().unwrap().remove("annotations");
        }
    }
    let response = json!({
        "uid": text(review, "/request/uid"), "convertedObjects": objects, "result": {"status": "Success"},
    });
    answer(review, &response)
}

fn hooks(asked: &Asked) -> InProcess {
    let hooks = InProcess::new();
    let noted = Arc::clone(asked);
    hooks.route(format!("{HOST}/convert"), move |body| {
        let review = read(&body);
        let count = review["request"]["objects"].as_array().unwrap().len();
        let version = text(&review, "/request/desiredAPIVersion").rsplit('/').next().unwrap();
        noted.lock().unwrap().push(format!("CONVERT {count} {version}"));
        std::future::ready(Ok(convert(&review)))
    });
    for (path, name, reply) in
        [("mutate", "MUTATE", mutate as fn(&Value) -> _), ("validate", "VALIDATE", validate)]
    {
        let noted = Arc::clone(asked);
        hooks.route(format!("{HOST}/{path}"), move |body| {
            let review = read(&body);
            let (operation, version) =
                (text(&review, "/request/operation"), text(&review, "/request/kind/version"));
            let dry = if review["request"]["dryRun"] == true { " dry" } else { "" };
            noted.lock().unwrap().push(format!("{name} {operation} {version}{dry}"));
            std::future::ready(Ok(reply(&review)))
        });
    }
    hooks
}

fn configuration<T: serde::de::DeserializeOwned>(path: &str, operations: &[&str], policy: &str) -> T {
    object(json!({
        "metadata": {"name": path},
        "webhooks": [{
            "name": format!("{path}.kruise.io"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": policy,
            "clientConfig": {"service": {
                "name": "kruise-webhook-service", "namespace": "kruise-system", "path": format!("/{path}")}},
            "rules": [{"apiGroups": ["apps.kruise.io"], "apiVersions": ["v1beta1"], "resources": ["clonesets"],
                "operations": operations}],
        }],
    }))
}

fn sets(client: &Client, version: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("apps.kruise.io", version, "CloneSet");
    Api::default_namespaced_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, "clonesets"))
}

fn set(version: &str, name: &str, replicas: i64) -> DynamicObject {
    object(json!({
        "apiVersion": format!("apps.kruise.io/{version}"), "kind": "CloneSet", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    }))
}

async fn defined() -> (Server, Client, Asked) {
    let asked = Asked::default();
    let hooks = hooks(&asked);
    let server = server_with(|config| config.webhooks = Arc::new(hooks));
    let client = server.client();
    let definition: CustomResourceDefinition = serde_yaml_ng::from_str(DEFINITION).unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &definition).await.unwrap();
    (server, client, asked)
}

async fn admitted(client: &Client, policy: &str) {
    let mutating: MutatingWebhookConfiguration = configuration("mutate", &["CREATE"], policy);
    Api::all(client.clone()).create(&PostParams::default(), &mutating).await.unwrap();
    let validating: ValidatingWebhookConfiguration =
        configuration("validate", &["CREATE", "UPDATE", "DELETE"], policy);
    Api::all(client.clone()).create(&PostParams::default(), &validating).await.unwrap();
}

fn taken(asked: &Asked) -> Vec<String> {
    std::mem::take(&mut *asked.lock().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_clone_set_is_converted_for_who_asks_for_another_version() {
    let (_server, client, asked) = defined().await;
    let (beta, alpha) = (sets(&client, "v1beta1"), sets(&client, "v1alpha1"));
    beta.create(&PostParams::default(), &set("v1beta1", "a", 1)).await.unwrap();
    assert!(taken(&asked).is_empty(), "the stored version needs no conversion");
    let made = alpha.create(&PostParams::default(), &set("v1alpha1", "b", 2)).await.unwrap();
    assert_eq!(made.metadata.annotations.unwrap()["converted"], "yes");
    taken(&asked);
    let listed = alpha.list(&ListParams::default()).await.unwrap();
    assert!(listed.items.iter().all(|one| one.types.as_ref().unwrap().api_version.ends_with("v1alpha1")));
    assert_eq!(
        taken(&asked),
        ["CONVERT 1 v1alpha1"],
        "a list is one call, for what was not converted before"
    );
    let stored = beta.get("b").await.unwrap();
    assert_eq!((stored.data["spec"]["replicas"].as_i64(), stored.metadata.annotations), (Some(2), None));
    let patch = Patch::Merge(json!({"spec": {"replicas": 3}}));
    alpha.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(beta.get("a").await.unwrap().data["spec"]["replicas"], json!(3));
}

#[tokio::test(start_paused = true)]
async fn a_clone_set_passes_mutating_then_validating_webhooks() {
    let (_server, client, asked) = defined().await;
    admitted(&client, "Fail").await;
    let api = sets(&client, "v1beta1");
    let made = api.create(&PostParams::default(), &set("v1beta1", "a", 1)).await.unwrap();
    assert_eq!(made.metadata.labels.unwrap()["seen"], "yes");
    assert_eq!(taken(&asked), ["MUTATE CREATE v1beta1", "VALIDATE CREATE v1beta1"]);
    let refused = status(api.create(&PostParams::default(), &set("v1beta1", "b", 6)).await);
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    assert_eq!(refused.message, "admission webhook \"validate.kruise.io\" denied the request: no");
    assert_eq!(status(api.get("b").await).code, 404);
    taken(&asked);
    let many = Patch::Merge(json!({"spec": {"replicas": 9}}));
    assert_eq!(status(api.patch("a", &PatchParams::default(), &many).await).code, 422);
    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    let keep = Patch::Merge(json!({"metadata": {"labels": {"keep": "yes"}}}));
    api.patch("a", &dry, &keep).await.unwrap();
    api.patch("a", &PatchParams::default(), &keep).await.unwrap();
    let updates = ["VALIDATE UPDATE v1beta1", "VALIDATE UPDATE v1beta1 dry", "VALIDATE UPDATE v1beta1"];
    assert_eq!(taken(&asked), updates);
    assert_eq!(status(api.delete("a", &DeleteParams::default()).await).code, 422);
    api.patch("a", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"labels": null}})))
        .await
        .unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_equivalent_version_is_converted_for_the_webhook() {
    let (_server, client, asked) = defined().await;
    admitted(&client, "Fail").await;
    let made =
        sets(&client, "v1alpha1").create(&PostParams::default(), &set("v1alpha1", "a", 1)).await.unwrap();
    assert_eq!(made.types.unwrap().api_version, "apps.kruise.io/v1alpha1");
    assert_eq!(made.metadata.labels.unwrap()["seen"], "yes");
    let asked = taken(&asked);
    assert!(asked.contains(&"MUTATE CREATE v1beta1".to_owned()), "{asked:?}");
    assert!(asked.contains(&"VALIDATE CREATE v1beta1".to_owned()), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_is_not_there_fails_the_request_or_is_ignored() {
    for (policy, code) in [("Fail", 500), ("Ignore", 201)] {
        let server = server_with(|_| {});
        let client = server.client();
        let mut definition: CustomResourceDefinition = serde_yaml_ng::from_str(DEFINITION).unwrap();
        definition.spec.conversion = None;
        Api::all(client.clone()).create(&PostParams::default(), &definition).await.unwrap();
        admitted(&client, policy).await;
        let made = sets(&client, "v1beta1").create(&PostParams::default(), &set("v1beta1", "a", 1)).await;
        match code {
            500 => {
                let refused = status(made);
                assert_eq!((refused.code, refused.reason.as_str()), (500, "InternalError"));
                assert!(refused.message.contains("failed calling webhook \"mutate.kruise.io\""));
            }
            _ => assert!(made.is_ok(), "{policy}"),
        }
    }
}

/// A server whose deletions and evictions are all admitted, and the requests that its webhook was asked about.
async fn watched(rules: Value) -> (Client, Arc<Mutex<Vec<Value>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let hooks = hooks(&Asked::default());
    let noted = Arc::clone(&asked);
    hooks.route(format!("{HOST}/watch"), move |body| {
        let review = read(&body);
        noted.lock().unwrap().push(review["request"].clone());
        let response = json!({"uid": text(&review, "/request/uid"), "allowed": true});
        std::future::ready(Ok(answer(&review, &response)))
    });
    let client = server_with(|config| config.webhooks = Arc::new(hooks)).client();
    let definition: CustomResourceDefinition = serde_yaml_ng::from_str(DEFINITION).unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &definition).await.unwrap();
    let mut watching: ValidatingWebhookConfiguration = configuration("watch", &[], "Fail");
    watching.webhooks.as_mut().unwrap()[0].rules = object(rules);
    Api::all(client.clone()).create(&PostParams::default(), &watching).await.unwrap();
    (client, asked)
}

fn pod(name: &str) -> Pod {
    object(
        json!({"metadata": {"name": name}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}}),
    )
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_shown_in_the_version_of_the_request_and_with_its_options() {
    let rules =
        json!([{"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["DELETE"]}]);
    let (client, asked) = watched(rules).await;
    let seen = || std::mem::take(&mut *asked.lock().unwrap());
    let (beta, alpha) = (sets(&client, "v1beta1"), sets(&client, "v1alpha1"));
    let made = beta.create(&PostParams::default(), &set("v1beta1", "a", 1)).await.unwrap();
    let params = DeleteParams {
        dry_run: true,
        propagation_policy: Some(PropagationPolicy::Foreground),
        preconditions: Some(Preconditions { uid: made.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    alpha.delete("a", &params).await.unwrap();
    let reviews = seen();
    let [review] = reviews.as_slice() else { panic!("{reviews:?}") };
    assert_eq!(review["dryRun"], json!(true), "the body says so");
    assert_eq!(review["oldObject"]["apiVersion"], json!("apps.kruise.io/v1alpha1"));
    assert_eq!(review["oldObject"]["metadata"]["annotations"]["converted"], json!("yes"));
    let options = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "propagationPolicy": "Foreground",
        "preconditions": {"uid": made.metadata.uid}, "dryRun": ["All"]});
    assert_eq!(review["options"], options);
    beta.get("a").await.unwrap();
    alpha.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    let reviews = seen();
    assert_eq!((&reviews[0]["name"], text(&reviews[0], "/oldObject/metadata/name")), (&Value::Null, "a"));

    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    for (params, shown) in [
        (DeleteParams::default(), Some(30)),
        // It goes already, and sooner than that.
        (DeleteParams::default().grace_period(60), None),
        (DeleteParams::default().grace_period(5), Some(5)),
    ] {
        pods.delete("a", &params).await.unwrap();
        let graces: Vec<i64> =
            seen().iter().filter_map(|review| review["options"]["gracePeriodSeconds"].as_i64()).collect();
        assert_eq!(graces, Vec::from_iter(shown));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_query_says_counts_for_nothing_when_a_deletion_has_a_body() {
    let client = server_with(|_| {}).client();
    let maps = super::config_maps(&client);
    for (query, body, left) in [("dryRun=All", "", true), ("dryRun=Some&propagationPolicy=Odd", "{}", false)]
    {
        let made = maps.create(&PostParams::default(), &super::config_map("a")).await;
        assert!(made.is_ok());
        let path = format!("/api/v1/namespaces/default/configmaps/a?{query}");
        let request = http::Request::delete(path).header("content-type", "application/json");
        let answer: Value = client.request(request.body(body.as_bytes().to_vec()).unwrap()).await.unwrap();
        assert_eq!(answer["status"], json!("Success"));
        assert_eq!(maps.get_opt("a").await.unwrap().is_some(), left, "{query}");
        let _ = maps.delete("a", &DeleteParams::default()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_eviction_is_admitted_and_the_deletion_it_leads_to_is_not() {
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods", "pods/eviction"],
        "operations": ["CREATE", "DELETE", "UPDATE"]}]);
    let (client, asked) = watched(rules).await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    asked.lock().unwrap().clear();
    pods.evict("a", &EvictParams::default()).await.unwrap();
    assert!(pods.get("a").await.unwrap().metadata.deletion_timestamp.is_some());
    let reviews = asked.lock().unwrap().clone();
    let asked: Vec<_> =
        reviews.iter().map(|one| (text(one, "/operation"), text(one, "/subResource"))).collect();
    assert_eq!(asked, [("CREATE", "eviction")]);
}

/// Makes every eviction one that is only tried.
fn only_try(review: &Value) -> Bytes {
    let patch = json!([{"op": "add", "path": "/deleteOptions", "value": {"dryRun": ["All"]}}]).to_string();
    let response = json!({
        "uid": text(review, "/request/uid"), "allowed": true, "patchType": "JSONPatch",
        "patch": k8s_openapi::ByteString(patch.into_bytes()),
    });
    answer(review, &response)
}

#[tokio::test(start_paused = true)]
async fn an_eviction_is_carried_out_as_webhooks_leave_it() {
    let hooks = InProcess::new();
    hooks.route(format!("{HOST}/try"), move |body| std::future::ready(Ok(only_try(&read(&body)))));
    let client = server_with(|config| config.webhooks = Arc::new(hooks)).client();
    let mut trying: MutatingWebhookConfiguration = configuration("try", &[], "Fail");
    trying.webhooks.as_mut().unwrap()[0].rules = object(json!([{"apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["pods/eviction"], "operations": ["CREATE"]}]));
    Api::all(client.clone()).create(&PostParams::default(), &trying).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    pods.evict("a", &EvictParams::default()).await.unwrap();
    assert_eq!(pods.get("a").await.unwrap().metadata.deletion_timestamp, None);
}
