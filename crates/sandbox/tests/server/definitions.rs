//! Definitions that change under stored objects, and webhooks that say more than a schema knows.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruise_sandbox::server::Server;
use kruise_sandbox::webhook::InProcess;
use kube::api::{
    ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{object, server_with};

const HOST: &str = "https://hooks.test";
const NAME: &str = "shirts.example.com";

/// What the schema knows of a spec, and defaults.
fn known() -> Value {
    json!({"size": {"type": "string", "default": "M"}, "note": {"type": "string"}, "via": {"type": "string"}})
}

fn version(name: &str, storage: bool, fields: &Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {
        "type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}}})
}

fn definition(versions: &Value) -> CustomResourceDefinition {
    object(json!({
        "metadata": {"name": NAME},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "shirts", "singular": "shirt", "kind": "Shirt"},
            "conversion": {"strategy": "Webhook", "webhook": {
                "clientConfig": {"url": format!("{HOST}/convert")}, "conversionReviewVersions": ["v1"]}},
            "versions": versions,
        },
    }))
}

/// A server whose conversion webhook says in each object which `word` it goes by, and something nobody knows.
async fn defined(versions: &Value) -> (Server, Client, Arc<Mutex<&'static str>>) {
    let word = Arc::new(Mutex::new("one"));
    let hooks = InProcess::new();
    let said = Arc::clone(&word);
    hooks.route(format!("{HOST}/convert"), move |body| {
        let review: Value = serde_json::from_slice(&body).unwrap();
        let mut objects = review["request"]["objects"].clone();
        for object in objects.as_array_mut().unwrap() {
            object["apiVersion"] = review["request"]["desiredAPIVersion"].clone();
            object["spec"]["via"] = json!(*said.lock().unwrap());
            object["spec"]["unknown"] = json!("converted");
        }
        let response = json!({"uid": review["request"]["uid"], "convertedObjects": objects, "result": {"status": "Success"}});
        std::future::ready(Ok(answer(&review, &response)))
    });
    hooks.route(format!("{HOST}/mutate"), move |body| {
        let review: Value = serde_json::from_slice(&body).unwrap();
        let patch = json!([{"op": "add", "path": "/spec/unknown", "value": "mutated"},
            {"op": "add", "path": "/metadata/unknown", "value": "mutated"},
            {"op": "add", "path": "/spec/note", "value": "mutated"}]);
        let response = json!({"uid": review["request"]["uid"], "allowed": true, "patchType": "JSONPatch",
            "patch": k8s_openapi::ByteString(patch.to_string().into_bytes())});
        std::future::ready(Ok(answer(&review, &response)))
    });
    let server = server_with(|config| config.webhooks = Arc::new(hooks));
    let client = server.client();
    let made = definition(versions);
    Api::all(client.clone()).create(&PostParams::default(), &made).await.unwrap();
    (server, client, word)
}

fn answer(review: &Value, response: &Value) -> Bytes {
    let answer = json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response});
    Bytes::from(answer.to_string())
}

/// The definition gets these versions, or another spec or other labels.
async fn change(client: &Client, patch: &Value) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

fn shirts(client: &Client, version: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("example.com", version, "Shirt");
    Api::default_namespaced_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, "shirts"))
}

fn shirt(version: &str, name: &str) -> DynamicObject {
    object(
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Shirt", "metadata": {"name": name},
        "spec": {"note": "given"}}),
    )
}

async fn made(api: &Api<DynamicObject>, version: &str, name: &str) -> DynamicObject {
    api.create(&PostParams::default(), &shirt(version, name)).await.unwrap()
}

async fn listed(api: &Api<DynamicObject>) -> Vec<Value> {
    let list = api.list(&ListParams::default()).await.unwrap();
    list.items.into_iter().map(|mut one| one.data["spec"].take()).collect()
}

/// The objects as they are stored.
fn stored(server: &Server) -> Vec<Value> {
    let snapshot = server.snapshot();
    let all = snapshot["objects"].as_array().unwrap().iter();
    all.filter(|one| one["table"] == NAME).map(|one| one["object"].clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_webhook_adds_and_no_schema_knows_is_stored_and_never_shown() {
    let (server, client, _) = defined(&json!([version("v1", true, &known())])).await;
    let mutating: MutatingWebhookConfiguration = object(json!({"metadata": {"name": "m"}, "webhooks": [{
        "name": "m.hooks.test", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("{HOST}/mutate")},
        "rules": [{"apiGroups": ["example.com"], "apiVersions": ["*"], "resources": ["shirts"], "operations": ["CREATE"]}],
    }]}));
    Api::all(client.clone()).create(&PostParams::default(), &mutating).await.unwrap();
    let api = shirts(&client, "v1");
    let shown = json!({"size": "M", "note": "mutated"});
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    assert_eq!(api.create(&dry, &shirt("v1", "a")).await.unwrap().data["spec"], shown);
    assert_eq!(made(&api, "v1", "a").await.data["spec"], shown);
    assert_eq!(api.get("a").await.unwrap().data["spec"], shown);
    assert_eq!(listed(&api).await, std::slice::from_ref(&shown));
    let path = "/apis/example.com/v1/namespaces/default/shirts/a";
    let raw: Value = client.request(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap();
    assert_eq!(raw["metadata"]["unknown"], Value::Null);
    let mut events = api.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let Some(WatchEvent::Added(event)) = events.try_next().await.unwrap() else { panic!("no event") };
    assert_eq!(event.data["spec"], shown);
    assert_eq!(stored(&server)[0]["spec"]["unknown"], json!("mutated"));
    // The first write by who has not seen it drops it.
    let label = Patch::Merge(json!({"metadata": {"labels": {"l": "1"}}}));
    api.patch("a", &PatchParams::default(), &label).await.unwrap();
    assert_eq!(stored(&server)[0]["spec"], shown);
}

#[tokio::test(start_paused = true)]
async fn a_changed_schema_drops_and_defaults_what_is_stored() {
    let (server, client, _) = defined(&json!([version("v1", true, &known())])).await;
    let api = shirts(&client, "v1");
    let given = made(&api, "v1", "a").await;
    let changed =
        json!({"size": {"type": "string", "default": "M"}, "color": {"type": "string", "default": "red"}});
    change(&client, &json!({"spec": {"versions": [version("v1", true, &changed)]}})).await;
    let shown = json!({"size": "M", "color": "red"});
    let read = api.get("a").await.unwrap();
    assert_eq!(
        (&read.data["spec"], &read.metadata.resource_version),
        (&shown, &given.metadata.resource_version)
    );
    assert_eq!(listed(&api).await, std::slice::from_ref(&shown));
    assert_eq!(stored(&server)[0]["spec"], json!({"size": "M", "note": "given"}));
    let label = Patch::Merge(json!({"metadata": {"labels": {"l": "1"}}}));
    assert_eq!(api.patch("a", &PatchParams::default(), &label).await.unwrap().data["spec"], shown);
    assert_eq!(stored(&server)[0]["spec"], shown);
}

#[tokio::test(start_paused = true)]
async fn an_object_is_converted_from_the_version_it_is_stored_in() {
    let versions = |storage: &str| {
        json!([version("v2", storage == "v2", &known()), version("v1", storage == "v1", &known())])
    };
    let (server, client, _) = defined(&versions("v1")).await;
    let (one, two) = (shirts(&client, "v1"), shirts(&client, "v2"));
    made(&one, "v1", "a").await;
    change(&client, &json!({"spec": {"versions": versions("v2")}})).await;
    let plain = json!({"size": "M", "note": "given"});
    let converted = json!({"size": "M", "note": "given", "via": "one"});
    assert_eq!(one.get("a").await.unwrap().data["spec"], plain, "it still is of this version");
    assert_eq!(two.get("a").await.unwrap().data["spec"], converted, "without what the webhook alone knows");
    assert_eq!(listed(&two).await, std::slice::from_ref(&converted));
    assert_eq!(stored(&server)[0]["apiVersion"], json!("example.com/v1"));
    let label = Patch::Merge(json!({"metadata": {"labels": {"l": "1"}}}));
    one.patch("a", &PatchParams::default(), &label).await.unwrap();
    assert_eq!(stored(&server)[0]["apiVersion"], json!("example.com/v2"), "it is written in the new version");
    assert_eq!(stored(&server)[0]["spec"], converted);
}

#[tokio::test(start_paused = true)]
async fn who_gets_an_object_sees_what_its_webhook_says_now() {
    let both = json!([version("v1", true, &known()), version("v2", false, &known())]);
    let (_server, client, word) = defined(&both).await;
    made(&shirts(&client, "v1"), "v1", "a").await;
    let api = shirts(&client, "v2");
    let via = async || {
        (api.get("a").await.unwrap().data["spec"]["via"].clone(), listed(&api).await[0]["via"].clone())
    };
    assert_eq!(via().await, (json!("one"), json!("one")));
    *word.lock().unwrap() = "two";
    assert_eq!(via().await, (json!("two"), json!("one")), "lists come from a cache");
    change(&client, &json!({"metadata": {"labels": {"l": "1"}}})).await;
    assert_eq!(via().await, (json!("two"), json!("one")));
    change(&client, &json!({"spec": {"names": {"categories": ["clothes"]}}})).await;
    assert_eq!(via().await, (json!("two"), json!("two")), "which goes with the definition");
}

#[tokio::test(start_paused = true)]
async fn watches_end_when_their_definition_changes() {
    let (_server, client, _) = defined(&json!([version("v1", true, &known())])).await;
    let api = shirts(&client, "v1");
    let mut events = api.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let begun = tokio::time::Instant::now();
    change(&client, &json!({"metadata": {"labels": {"l": "1"}}})).await;
    made(&api, "v1", "a").await;
    let Some(WatchEvent::Added(_)) = events.try_next().await.unwrap() else { panic!("no event") };
    change(&client, &json!({"spec": {"names": {"categories": ["clothes"]}}})).await;
    assert!(events.try_next().await.unwrap().is_none());
    assert!(begun.elapsed().as_secs() < 60, "not because its time was up");
}
