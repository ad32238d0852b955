use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::webhook::InProcess;

const URL: &str = "https://hook.test/convert";

fn resource(conversion: Conversion) -> Resource {
    Resource {
        group: "example.com".into(),
        plural: "things".into(),
        singular: "thing".into(),
        kind: "Thing".into(),
        list_kind: "ThingList".into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        versions: Vec::new(),
        storage: "v1".into(),
        conversion,
        custom: true,
        schemas: BTreeMap::new(),
    }
}

fn thing(name: &str, version: &str) -> Value {
    json!({
        "apiVersion": format!("example.com/{version}"), "kind": "Thing", "spec": {"old": name},
        "metadata": {"name": name, "uid": name, "generation": 4, "labels": {"a": "b"}, "annotations": {"x": "y"}},
    })
}

/// Converts all things to v2 through a webhook that answers with what `respond` makes of each.
async fn converted(
    things: Vec<Value>,
    respond: impl Fn(Value) -> Value + Send + Sync + 'static,
) -> (Result<Vec<Value>, ApiError>, usize) {
    let (hooks, calls) = (InProcess::new(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&calls);
    hooks.route(URL, move |body| {
        counter.fetch_add(1, Ordering::Relaxed);
        let review: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(review["request"]["desiredAPIVersion"], "example.com/v2");
        let objects: Vec<Value> = review["request"]["objects"].as_array().unwrap().iter().cloned().map(&respond).collect();
        let answer = json!({
            "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "response": {"uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": objects},
        });
        async move { Ok(Bytes::from(answer.to_string())) }
    });
    let resource = resource(Conversion::Webhook(json!({"url": URL})));
    let result = convert(&resource, things, "example.com/v2", &hooks).await;
    (result, calls.load(Ordering::Relaxed))
}

fn to_v2(mut object: Value) -> Value {
    object["apiVersion"] = json!("example.com/v2");
    object["spec"] = json!({"new": object["spec"]["old"]});
    object
}

#[tokio::test]
async fn without_a_webhook_only_the_version_changes() {
    let hooks = InProcess::new();
    let objects =
        convert(&resource(Conversion::None), vec![thing("a", "v1")], "example.com/v2", &hooks).await.unwrap();
    let mut expected = thing("a", "v1");
    expected["apiVersion"] = json!("example.com/v2");
    assert_eq!(objects, [expected]);
}

#[tokio::test]
async fn one_call_converts_all_objects_that_need_it_and_keeps_their_order() {
    let (result, calls) = converted(vec![thing("a", "v1"), thing("b", "v2"), thing("c", "v1")], to_v2).await;
    let objects = result.unwrap();
    assert_eq!(calls, 1);
    let specs: Vec<&Value> = objects.iter().map(|object| &object["spec"]).collect();
    assert_eq!(specs, [&json!({"new": "a"}), &json!({"old": "b"}), &json!({"new": "c"})]);
    let (result, calls) = converted(vec![thing("b", "v2")], to_v2).await;
    assert_eq!((result.unwrap().len(), calls), (1, 0));
}

#[tokio::test]
async fn only_labels_and_annotations_of_the_metadata_may_change() {
    let (result, _) = converted(vec![thing("a", "v1")], |object| {
        let mut object = to_v2(object);
        object["metadata"]["generation"] = json!(9);
        object["metadata"]["labels"] = json!({"c": "d"});
        object["metadata"].as_object_mut().unwrap().remove("annotations");
        object
    })
    .await;
    let metadata = result.unwrap().remove(0)["metadata"].clone();
    assert_eq!(metadata, json!({"name": "a", "uid": "a", "generation": 4, "labels": {"c": "d"}}));
}

#[tokio::test]
async fn broken_answers_are_told_in_the_servers_words() {
    let said = |result: Result<Vec<Value>, ApiError>| result.unwrap_err().message;
    let start = "Internal error occurred: conversion webhook for example.com/v1, Kind=Thing";
    let (result, _) = converted(vec![thing("a", "v1")], |object| object).await;
    assert_eq!(
        said(result),
        format!(
            "{start} returned invalid converted object at index 0: invalid groupVersion (expected example.com/v2, received example.com/v1)"
        )
    );
    let (result, _) = converted(vec![thing("a", "v1")], |object| {
        let mut object = to_v2(object);
        object["metadata"]["name"] = json!("b");
        object
    })
    .await;
    assert_eq!(
        said(result),
        format!("{start} returned invalid converted object at index 0: must have the same name: a != b")
    );
    let hooks = InProcess::new();
    hooks.route(URL, |body| {
        let review: Value = serde_json::from_slice(&body).unwrap();
        let answer = json!({
            "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "response": {"uid": review["request"]["uid"], "result": {"status": "Failure", "message": "cannot"}},
        });
        async move { Ok(Bytes::from(answer.to_string())) }
    });
    let resource = resource(Conversion::Webhook(json!({"url": URL})));
    let result = convert(&resource, vec![thing("a", "v1")], "example.com/v2", &hooks).await;
    assert_eq!(said(result), format!("{start} failed: cannot"));
    let result = convert(&resource, vec![thing("a", "v1")], "example.com/v2", &InProcess::new()).await;
    assert_eq!(
        said(result),
        format!(
            "{start} failed: Post \"https://hook.test/convert?timeout=30s\": dial tcp: lookup hook.test: no such host"
        )
    );
}
