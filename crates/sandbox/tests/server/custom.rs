//! Custom resources: served as soon as they are defined.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{object, server, status};

fn definition() -> CustomResourceDefinition {
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "replicas": {"type": "integer", "minimum": 0, "default": 1},
            "color": {"type": "string"},
        }},
        "status": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "selector": {"type": "string"},
        }},
    }}});
    let subresources = json!({"status": {}, "scale": {
        "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector",
    }});
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": schema, "subresources": subresources,
            "selectableFields": [{"jsonPath": ".spec.color"}]})
    };
    object(json!({
        "metadata": {"name": "shirts.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "shirts", "singular": "shirt", "kind": "Shirt"},
            "versions": [version("v1", true), version("v1beta1", false)],
        },
    }))
}

fn shirts(client: &Client, version: &str) -> Api<DynamicObject> {
    let kind =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("example.com", version, "Shirt"), "shirts");
    Api::default_namespaced_with(client.clone(), &kind)
}

fn shirt(name: &str, spec: &Value) -> DynamicObject {
    object(json!({"apiVersion": "example.com/v1", "kind": "Shirt", "metadata": {"name": name}, "spec": spec}))
}

async fn defined() -> Client {
    let client = server().client();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let created = definitions.create(&PostParams::default(), &definition()).await.unwrap();
    assert!(created.status.unwrap().conditions.is_none_or(|conditions| conditions.is_empty()));
    let settled = definitions.get("shirts.example.com").await.unwrap().status.unwrap();
    let established = |kind: &str| {
        settled.conditions.as_ref().unwrap().iter().any(|one| one.type_ == kind && one.status == "True")
    };
    assert!(established("Established") && established("NamesAccepted"));
    client
}

#[tokio::test(start_paused = true)]
async fn a_defined_resource_has_defaults_and_versions_and_knows_its_fields() {
    let client = defined().await;
    let made = shirts(&client, "v1")
        .create(&PostParams::default(), &shirt("a", &json!({"size": "xl"})))
        .await
        .unwrap();
    assert_eq!(made.data["spec"], json!({"replicas": 1}));
    assert_eq!(made.metadata.generation, Some(1));
    let beta = shirts(&client, "v1beta1").get("a").await.unwrap();
    assert_eq!(beta.types.unwrap().api_version, "example.com/v1beta1");
    let strict = PostParams { field_manager: None, dry_run: false };
    let bad = status(shirts(&client, "v1").create(&strict, &shirt("b", &json!({"replicas": -1}))).await);
    assert_eq!((bad.code, bad.reason.as_str()), (422, "Invalid"));
    assert_eq!(bad.details.as_ref().unwrap().causes.first().unwrap().field, "spec.replicas");
}

#[tokio::test(start_paused = true)]
async fn status_and_spec_are_written_apart() {
    let client = defined().await;
    let api = shirts(&client, "v1");
    api.create(&PostParams::default(), &shirt("a", &json!({"replicas": 2}))).await.unwrap();
    let both = Patch::Merge(json!({"spec": {"replicas": 3}, "status": {"replicas": 1}}));
    let after = api.patch_status("a", &PatchParams::default(), &both).await.unwrap();
    assert_eq!((&after.data["spec"]["replicas"], &after.data["status"]["replicas"]), (&json!(2), &json!(1)));
    assert_eq!(after.metadata.generation, Some(1));
    let after = api.patch("a", &PatchParams::default(), &both).await.unwrap();
    assert_eq!(after.data["spec"]["replicas"], json!(3));
    assert_eq!(after.metadata.generation, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_scale_reads_and_writes_the_defined_paths() {
    let client = defined().await;
    let api = shirts(&client, "v1");
    api.create(&PostParams::default(), &shirt("a", &json!({"replicas": 2}))).await.unwrap();
    assert_eq!(api.get_scale("a").await.unwrap().spec.unwrap().replicas, Some(2));
    let patch = Patch::Merge(json!({"spec": {"replicas": 5}}));
    let scale = api.patch_scale("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(5));
    let mut unversioned = api.get_scale("a").await.unwrap();
    unversioned.metadata.resource_version = None;
    unversioned.spec.as_mut().unwrap().replicas = Some(6);
    let scale = api.replace_scale("a", &PostParams::default(), &unversioned).await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(6));
    let negative = Patch::Merge(json!({"spec": {"replicas": -5}}));
    let refused = status(api.patch_scale("a", &PatchParams::default(), &negative).await);
    assert_eq!(
        refused.message,
        "Scale.autoscaling \"a\" is invalid: spec.replicas: Invalid value: -5: must be greater than or equal to 0"
    );
}

#[tokio::test(start_paused = true)]
async fn selectable_fields_select() {
    let client = defined().await;
    let api = shirts(&client, "v1");
    for (name, color) in [("a", "red"), ("b", "blue")] {
        api.create(&PostParams::default(), &shirt(name, &json!({"color": color}))).await.unwrap();
    }
    let red = api.list(&ListParams::default().fields("spec.color=red")).await.unwrap();
    assert_eq!(red.items.len(), 1);
    let refused = status(api.list(&ListParams::default().fields("spec.size=xl")).await);
    assert_eq!(refused.message, "field label not supported: spec.size");
}

#[tokio::test(start_paused = true)]
async fn a_definition_takes_its_objects_with_it_and_waits_for_their_finalizers() {
    let client = defined().await;
    let api = shirts(&client, "v1");
    api.create(&PostParams::default(), &shirt("a", &json!({}))).await.unwrap();
    let mut held = shirt("b", &json!({}));
    held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    api.create(&PostParams::default(), &held).await.unwrap();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let marked =
        definitions.delete("shirts.example.com", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    assert_eq!(status(api.get("a").await).code, 404);
    assert!(api.get("b").await.unwrap().metadata.deletion_timestamp.is_some());
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("b", &PatchParams::default(), &free).await.unwrap();
    assert_eq!(status(definitions.get("shirts.example.com").await).code, 404);
    assert!(api.list(&ListParams::default()).await.is_err(), "the path is gone");
}

#[tokio::test(start_paused = true)]
async fn applying_creates_and_then_owns_its_fields() {
    let client = defined().await;
    let api = shirts(&client, "v1");
    let params = PatchParams::apply("me");
    let made = api.patch("a", &params, &Patch::Apply(shirt("a", &json!({"color": "red"})))).await.unwrap();
    assert_eq!(
        made.metadata.managed_fields.as_ref().unwrap().first().unwrap().manager.as_deref(),
        Some("me")
    );
    let other = PatchParams::apply("you");
    let clash = status(api.patch("a", &other, &Patch::Apply(shirt("a", &json!({"color": "blue"})))).await);
    assert_eq!((clash.code, clash.reason.as_str()), (409, "Conflict"));
    let forced =
        api.patch("a", &other.force(), &Patch::Apply(shirt("a", &json!({"color": "blue"})))).await.unwrap();
    assert_eq!(forced.data["spec"]["color"], json!("blue"));
}
