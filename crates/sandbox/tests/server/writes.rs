//! Create, update, patch, delete.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

use super::{config_map, config_maps, object, server, status};

#[tokio::test(start_paused = true)]
async fn a_created_object_has_uid_time_and_version_and_can_be_read_back() {
    let api = config_maps(&server().client());
    let created = api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let meta = &created.metadata;
    assert_eq!(meta.namespace.as_deref(), Some("default"));
    assert_eq!(meta.uid.as_ref().map(String::len), Some(36));
    assert_eq!(meta.creation_timestamp.as_ref().unwrap().0.to_string(), "2026-01-01T00:00:00Z");
    assert!(meta.resource_version.is_some());
    assert_eq!(api.get("a").await.unwrap(), created);
}

#[tokio::test(start_paused = true)]
async fn a_second_object_of_the_name_is_refused() {
    let api = config_maps(&server().client());
    api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let status = status(api.create(&PostParams::default(), &config_map("a")).await);
    assert_eq!((status.code, status.reason.as_str()), (409, "AlreadyExists"));
    assert_eq!(status.message, "configmaps \"a\" already exists");
}

#[tokio::test(start_paused = true)]
async fn a_generated_name_follows_its_prefix() {
    let api = config_maps(&server().client());
    let unnamed: ConfigMap = object(json!({"metadata": {"generateName": "web-"}}));
    let name = api.create(&PostParams::default(), &unnamed).await.unwrap().metadata.name.unwrap();
    assert_eq!((name.get(..4), name.len()), (Some("web-"), 9));
}

#[tokio::test(start_paused = true)]
async fn a_bad_name_is_refused_with_its_cause() {
    let api = config_maps(&server().client());
    let status = status(api.create(&PostParams::default(), &config_map("X_")).await);
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    let details = status.details.as_ref().unwrap();
    assert_eq!((details.name.as_str(), details.kind.as_str()), ("X_", "ConfigMap"));
    let cause = details.causes.first().unwrap();
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldValueInvalid", "metadata.name"));
    assert!(
        cause.message.starts_with("Invalid value: \"X_\": a lowercase RFC 1123 subdomain"),
        "{}",
        cause.message
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_can_be_created_in_a_namespace_that_does_not_exist() {
    let api: Api<ConfigMap> = Api::namespaced(server().client(), "nowhere");
    let status = status(api.create(&PostParams::default(), &config_map("a")).await);
    assert_eq!((status.code, status.message.as_str()), (404, "namespaces \"nowhere\" not found"));
}

#[tokio::test(start_paused = true)]
async fn an_update_on_an_old_version_conflicts() {
    let api = config_maps(&server().client());
    let first = api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let mut second = first.clone();
    second.data = Some([("a".to_owned(), "2".to_owned())].into());
    let updated = api.replace("a", &PostParams::default(), &second).await.unwrap();
    assert_ne!(updated.metadata.resource_version, first.metadata.resource_version);
    let status = status(api.replace("a", &PostParams::default(), &second).await);
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        status.message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest \
         version and try again"
    );
}

#[tokio::test(start_paused = true)]
async fn an_update_without_a_version_wins_and_one_without_a_change_leaves_the_version() {
    let api = config_maps(&server().client());
    let first = api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let same = api.replace("a", &PostParams::default(), &config_map("a")).await.unwrap();
    assert_eq!(same, first);
}

#[tokio::test(start_paused = true)]
async fn patches_change_what_they_name() {
    let api = config_maps(&server().client());
    api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let patch = Patch::Merge(json!({"data": {"b": "2", "a": null}}));
    let merged = api.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(merged.data, Some([("b".to_owned(), "2".to_owned())].into()));
    let patch = json!([{"op": "add", "path": "/data/c", "value": "3"}]);
    let patch = Patch::Json::<()>(serde_json::from_value(patch).unwrap());
    let added = api.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(added.data.unwrap().len(), 2);
    let patch = Patch::Strategic(json!({"metadata": {"labels": {"x": "y"}}}));
    let labelled = api.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(labelled.metadata.labels.unwrap().get("x").map(String::as_str), Some("y"));
    let stale = Patch::Merge(json!({"metadata": {"resourceVersion": "1"}, "data": {"b": "5"}}));
    assert_eq!(status(api.patch("a", &PatchParams::default(), &stale).await).code, 409);
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_keeps_a_deleted_object_until_it_is_taken_off() {
    let api = config_maps(&server().client());
    let held: ConfigMap = object(json!({"metadata": {"name": "a", "finalizers": ["example.com/hold"]}}));
    api.create(&PostParams::default(), &held).await.unwrap();
    let marked = api.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("a", &PatchParams::default(), &free).await.unwrap();
    assert_eq!(status(api.get("a").await).message, "configmaps \"a\" not found");
}

#[tokio::test(start_paused = true)]
async fn a_delete_on_another_uid_conflicts() {
    let api = config_maps(&server().client());
    api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let other = Preconditions { uid: Some("other".to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(other), ..DeleteParams::default() };
    let status = status(api.delete("a", &params).await);
    assert_eq!(status.code, 409);
    assert!(
        status.message.contains("the UID in the precondition (other) does not match"),
        "{}",
        status.message
    );
}

#[tokio::test(start_paused = true)]
async fn a_running_pod_gets_its_grace_period_and_goes_with_a_forced_delete() {
    let api: Api<Pod> = Api::default_namespaced(server().client());
    let pod: Pod = object(json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
    }));
    api.create(&PostParams::default(), &pod).await.unwrap();
    let marked = api.delete("p", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
    assert_eq!(marked.metadata.deletion_timestamp.unwrap().0.to_string(), "2026-01-01T00:00:30Z");
    api.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(status(api.get("p").await).code, 404);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_changes_nothing() {
    let server = server();
    let api = config_maps(&server.client());
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let shown = api.create(&dry, &config_map("a")).await.unwrap();
    assert!(shown.metadata.uid.is_some());
    assert_eq!(status(api.get("a").await).code, 404);
}
