//! Lists: selectors, pages, resourceVersions.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, VersionMatch};
use serde_json::json;

use super::{config_map, config_maps, object, server, status};

fn names(list: &[ConfigMap]) -> Vec<&str> {
    list.iter().map(|one| one.metadata.name.as_deref().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn selectors_choose_by_labels_and_fields() {
    let api = config_maps(&server().client());
    for (name, app) in [("a", "web"), ("b", "db"), ("c", "web")] {
        let map: ConfigMap = object(json!({"metadata": {"name": name, "labels": {"app": app}}}));
        api.create(&PostParams::default(), &map).await.unwrap();
    }
    let list = api.list(&ListParams::default().labels("app in (web)")).await.unwrap();
    assert_eq!(names(&list.items), ["a", "c"]);
    let list = api.list(&ListParams::default().fields("metadata.name!=a").labels("app=web")).await.unwrap();
    assert_eq!(names(&list.items), ["c"]);
    let refused = status(api.list(&ListParams::default().fields("data.a=1")).await);
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (400, "\"data.a\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    );
}

#[tokio::test(start_paused = true)]
async fn pages_show_the_state_of_the_first_one() {
    let server = server();
    let api = config_maps(&server.client());
    for name in ["a", "b", "c", "d"] {
        api.create(&PostParams::default(), &config_map(name)).await.unwrap();
    }
    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(names(&first.items), ["a", "b"]);
    assert_eq!(first.metadata.remaining_item_count, Some(2));
    api.delete("c", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.unwrap();
    let second = api.list(&ListParams::default().limit(2).continue_token(&token)).await.unwrap();
    assert_eq!(names(&second.items), ["c", "d"]);
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    assert!(second.metadata.continue_.unwrap_or_default().is_empty());
    server.compact();
    let expired = status(api.list(&ListParams::default().limit(2).continue_token(&token)).await);
    assert_eq!((expired.code, expired.reason.as_str()), (410, "Expired"));
}

#[tokio::test(start_paused = true)]
async fn an_exact_version_shows_the_past_and_a_future_one_is_refused() {
    let api = config_maps(&server().client());
    let a = api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    api.create(&PostParams::default(), &config_map("b")).await.unwrap();
    let rv = a.metadata.resource_version.unwrap();
    let exact = ListParams::default().at(&rv).matching(VersionMatch::Exact);
    assert_eq!(names(&api.list(&exact).await.unwrap().items), ["a"]);
    let newer = ListParams::default().at(&rv).matching(VersionMatch::NotOlderThan);
    assert_eq!(names(&api.list(&newer).await.unwrap().items), ["a", "b"]);
    let future = ListParams::default().at("99999").matching(VersionMatch::NotOlderThan);
    let refused = status(api.list(&future).await);
    assert_eq!((refused.code, refused.reason.as_str()), (504, "Timeout"));
}

#[tokio::test(start_paused = true)]
async fn a_collection_is_deleted_as_far_as_it_is_selected() {
    let api = config_maps(&server().client());
    for name in ["a", "b"] {
        api.create(&PostParams::default(), &config_map(name)).await.unwrap();
    }
    let fields = ListParams::default().fields("metadata.name=a");
    api.delete_collection(&DeleteParams::default(), &fields).await.unwrap();
    assert_eq!(names(&api.list(&ListParams::default()).await.unwrap().items), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn metadata_alone_can_be_listed_across_namespaces() {
    let client = server().client();
    config_maps(&client).create(&PostParams::default(), &config_map("a")).await.unwrap();
    let all: Api<ConfigMap> = Api::all(client);
    let list = all.list_metadata(&ListParams::default()).await.unwrap();
    let only = list.items.first().unwrap();
    assert_eq!(only.metadata.name.as_deref(), Some("a"));
    assert_eq!(list.items.len(), 1);
}
