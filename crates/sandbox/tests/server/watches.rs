//! Watches.

use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;

use super::{config_map, config_maps, object, server, server_with};

/// What an event says: `ADDED a`.
async fn next(events: &mut (impl Stream<Item = kube::Result<WatchEvent<ConfigMap>>> + Unpin)) -> String {
    let name = |map: ConfigMap| map.metadata.name.unwrap();
    match events.next().await.unwrap().unwrap() {
        WatchEvent::Added(map) => format!("ADDED {}", name(map)),
        WatchEvent::Modified(map) => format!("MODIFIED {}", name(map)),
        WatchEvent::Deleted(map) => format!("DELETED {}", name(map)),
        WatchEvent::Bookmark(_) => "BOOKMARK".to_owned(),
        WatchEvent::Error(status) => format!("ERROR {} {}", status.code, status.reason),
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_what_comes_and_goes() {
    let api = config_maps(&server().client());
    api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let mut events = pin!(api.watch(&WatchParams::default(), "0").await.unwrap());
    assert_eq!(next(&mut events).await, "ADDED a");
    api.create(&PostParams::default(), &config_map("b")).await.unwrap();
    let patch = Patch::Merge(json!({"data": {"x": "1"}}));
    api.patch("b", &PatchParams::default(), &patch).await.unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(next(&mut events).await, "ADDED b");
    assert_eq!(next(&mut events).await, "MODIFIED b");
    assert_eq!(next(&mut events).await, "DELETED a");
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_from_a_version_unless_that_is_forgotten() {
    let server = server();
    let api = config_maps(&server.client());
    let first = api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    api.create(&PostParams::default(), &config_map("b")).await.unwrap();
    let rv = first.metadata.resource_version.unwrap();
    let mut events = pin!(api.watch(&WatchParams::default(), &rv).await.unwrap());
    assert_eq!(next(&mut events).await, "ADDED b");
    server.compact();
    let mut events = pin!(api.watch(&WatchParams::default(), &rv).await.unwrap());
    assert_eq!(next(&mut events).await, "ERROR 410 Expired");
    assert!(events.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_object_comes_into_a_selection_and_leaves_it() {
    let api = config_maps(&server().client());
    let mut events = pin!(api.watch(&WatchParams::default().labels("on=yes"), "0").await.unwrap());
    api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    for value in [json!("yes"), json!("no")] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"on": value}}}));
        api.patch("a", &PatchParams::default(), &patch).await.unwrap();
    }
    assert_eq!(next(&mut events).await, "ADDED a");
    assert_eq!(next(&mut events).await, "DELETED a");
}

#[tokio::test(start_paused = true)]
async fn idle_watches_get_bookmarks_and_end_when_asked() {
    let server = server_with(|config| config.bookmark_every = Duration::from_mins(1));
    let api = config_maps(&server.client());
    let mut events = pin!(api.watch(&WatchParams::default().timeout(100), "0").await.unwrap());
    let start = tokio::time::Instant::now();
    assert_eq!(next(&mut events).await, "BOOKMARK");
    assert_eq!(start.elapsed().as_secs(), 60);
    assert_eq!(next(&mut events).await, "BOOKMARK");
    assert_eq!(start.elapsed().as_secs(), 98);
    assert!(events.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn initial_events_end_with_a_marked_bookmark() {
    let api = config_maps(&server().client());
    api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let params = WatchParams::default().initial_events();
    let mut events = pin!(api.watch(&params, "0").await.unwrap());
    assert_eq!(next(&mut events).await, "ADDED a");
    let WatchEvent::Bookmark(mark) = events.next().await.unwrap().unwrap() else {
        panic!("a bookmark was due")
    };
    assert_eq!(mark.metadata.annotations.get("k8s.io/initial-events-end").map(String::as_str), Some("true"));
}

#[tokio::test(start_paused = true)]
async fn kubes_watcher_follows_in_both_strategies() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let server = server();
        let api = config_maps(&server.client());
        api.create(&PostParams::default(), &config_map("a")).await.unwrap();
        let mut seen = pin!(watcher(api.clone(), config).applied_objects());
        let first = seen.try_next().await.unwrap().unwrap();
        assert_eq!(first.metadata.name.as_deref(), Some("a"));
        let b: ConfigMap = object(json!({"metadata": {"name": "b"}}));
        api.create(&PostParams::default(), &b).await.unwrap();
        assert_eq!(seen.try_next().await.unwrap().unwrap().metadata.name.as_deref(), Some("b"));
    }
}
