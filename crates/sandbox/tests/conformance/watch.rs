//! Watches: where they start, what they tell, how they end.

use serde_json::json;

use crate::harness::{Call, MERGE, Target};

const SECRETS: &str = "/api/v1/namespaces/{ns}/secrets";

cases! {
    a_watch_tells_what_happens_after_its_version,
    a_watch_from_zero_begins_with_what_is_there,
    a_watch_without_a_version_begins_with_what_is_there,
    what_enters_and_leaves_a_selection_is_added_and_deleted,
    a_field_selection_is_watched,
    a_list_can_be_streamed,
    wrong_streams_are_refused,
    a_timeout_ends_a_watch,
    a_version_of_the_future_is_refused,
    a_version_too_old_is_gone,
    a_version_that_is_no_number_is_refused,
    a_deletion_held_by_finalizers_is_two_events,
    a_named_object_is_got_not_watched,
    the_old_watch_path_works,
    a_watch_can_be_partial_or_a_table,
    bookmarks_come_at_the_end,
}

fn secret(name: &str, label: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "labels": {"l": label}}})
}

async fn version(t: &Target) -> String {
    t.quiet(Call::new("GET", SECRETS)).await.version()
}

async fn quietly(t: &Target, method: &str, path: &str, body: &str) {
    let call = Call::new(method, path);
    let answer = t.quiet(if body.is_empty() { call } else { call.body(MERGE, body) }).await;
    assert!(answer.code < 300, "{method} {path}: {}", answer.text);
}

async fn label(t: &Target, name: &str, value: &str) {
    quietly(
        t,
        "PATCH",
        &format!("{SECRETS}/{name}"),
        &json!({"metadata": {"labels": {"l": value}}}).to_string(),
    )
    .await;
}

async fn a_watch_tells_what_happens_after_its_version(t: Target) {
    t.given(SECRETS, secret("before", "x")).await;
    let version = version(&t).await;
    t.given(SECRETS, secret("a", "x")).await;
    label(&t, "a", "y").await;
    label(&t, "a", "y").await; // changes nothing: no event
    quietly(&t, "DELETE", &format!("{SECRETS}/a"), "").await;
    t.given(SECRETS, secret("b", "x")).await;
    let mut watch = t.watch(&format!("{SECRETS}?watch=true&resourceVersion={version}")).await;
    for _ in 0..4 {
        watch.next().await.unwrap();
    }
    t.given(SECRETS, secret("later", "x")).await;
    watch.next().await.unwrap();
}

async fn a_watch_from_zero_begins_with_what_is_there(t: Target) {
    let newest =
        [t.given(SECRETS, secret("b", "x")).await, t.given(SECRETS, secret("a", "x")).await][1].version();
    t.until(&format!("{SECRETS}?resourceVersion={newest}"), "the cache has both", |a| a.code == 200).await;
    let mut watch = t.watch(&format!("{SECRETS}?watch=1&resourceVersion=0")).await;
    watch.first(2).await;
    label(&t, "a", "y").await;
    watch.next().await.unwrap();
}

async fn a_watch_without_a_version_begins_with_what_is_there(t: Target) {
    t.given(SECRETS, secret("a", "x")).await;
    let mut watch = t.watch(&format!("{SECRETS}?watch=true")).await;
    watch.next().await.unwrap();
    t.given(SECRETS, secret("b", "x")).await;
    watch.next().await.unwrap();
}

async fn what_enters_and_leaves_a_selection_is_added_and_deleted(t: Target) {
    t.given(SECRETS, secret("a", "no")).await;
    let version = version(&t).await;
    let mut watch =
        t.watch(&format!("{SECRETS}?watch=true&labelSelector=l%3Dyes&resourceVersion={version}")).await;
    label(&t, "a", "yes").await;
    watch.next().await.unwrap();
    quietly(&t, "PATCH", &format!("{SECRETS}/a"), r#"{"metadata":{"annotations":{"n":"1"}}}"#).await;
    watch.next().await.unwrap();
    label(&t, "a", "no").await;
    watch.next().await.unwrap();
    label(&t, "a", "maybe").await;
    label(&t, "a", "yes").await;
    watch.next().await.unwrap();
    quietly(&t, "DELETE", &format!("{SECRETS}/a"), "").await;
    watch.next().await.unwrap();
}

async fn a_field_selection_is_watched(t: Target) {
    let version = version(&t).await;
    let mut watch = t
        .watch(&format!("{SECRETS}?watch=true&fieldSelector=metadata.name%3Db&resourceVersion={version}"))
        .await;
    t.given(SECRETS, secret("a", "x")).await;
    t.given(SECRETS, secret("b", "x")).await;
    watch.next().await.unwrap();
}

async fn a_list_can_be_streamed(t: Target) {
    t.given(SECRETS, secret("a", "x")).await;
    t.given(SECRETS, secret("b", "x")).await;
    t.blur_versions();
    let query =
        "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut watch = t.watch(&format!("{SECRETS}?{query}")).await;
    watch.first(2).await;
    watch.next().await.unwrap();
    t.given(SECRETS, secret("c", "x")).await;
    watch.next().await.unwrap();
}

async fn wrong_streams_are_refused(t: Target) {
    for query in [
        "watch=true&sendInitialEvents=true",
        "watch=true&sendInitialEvents=true&resourceVersionMatch=Exact",
        "watch=true&resourceVersionMatch=NotOlderThan",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
        "watch=true&sendInitialEvents=false",
        "watch=maybe",
        "watch=true&timeoutSeconds=x",
        "watch=true&labelSelector=a%3D%3D%3Db",
        "watch=true&fieldSelector=a%3Db",
    ] {
        t.get(&format!("{SECRETS}?{query}&timeoutSeconds=1")).await;
    }
}

async fn a_timeout_ends_a_watch(t: Target) {
    let version = version(&t).await;
    let mut watch =
        t.watch(&format!("{SECRETS}?watch=true&resourceVersion={version}&timeoutSeconds=1")).await;
    assert!(watch.next().await.is_none());
}

async fn a_version_of_the_future_is_refused(t: Target) {
    let mut watch =
        t.watch(&format!("{SECRETS}?watch=true&resourceVersion=99999999999&timeoutSeconds=5")).await;
    watch.next().await;
}

async fn a_version_too_old_is_gone(t: Target) {
    let mut watch = t.watch(&format!("{SECRETS}?watch=true&resourceVersion=1&timeoutSeconds=5")).await;
    watch.next().await;
    watch.next().await;
}

async fn a_version_that_is_no_number_is_refused(t: Target) {
    t.get(&format!("{SECRETS}?watch=true&resourceVersion=bad")).await;
    t.get(&format!("{SECRETS}?watch=true&resourceVersion=-5")).await;
}

async fn a_deletion_held_by_finalizers_is_two_events(t: Target) {
    t.given(SECRETS, json!({"metadata": {"name": "a", "finalizers": ["example.com/f"]}})).await;
    let version = version(&t).await;
    quietly(&t, "DELETE", &format!("{SECRETS}/a"), "").await;
    quietly(&t, "PATCH", &format!("{SECRETS}/a"), r#"{"metadata":{"finalizers":null}}"#).await;
    let mut watch = t.watch(&format!("{SECRETS}?watch=true&resourceVersion={version}")).await;
    watch.next().await.unwrap();
    watch.next().await.unwrap();
}

async fn a_named_object_is_got_not_watched(t: Target) {
    t.given(SECRETS, secret("a", "x")).await;
    t.get(&format!("{SECRETS}/a?watch=true")).await;
}

async fn the_old_watch_path_works(t: Target) {
    t.given(SECRETS, secret("a", "x")).await;
    let mut watch = t.watch("/api/v1/watch/namespaces/{ns}/secrets").await;
    watch.next().await.unwrap();
    let mut watch = t.watch("/api/v1/watch/namespaces/{ns}/secrets/a").await;
    watch.next().await.unwrap();
}

async fn a_watch_can_be_partial_or_a_table(t: Target) {
    t.given(SECRETS, secret("a", "x")).await;
    for accept in [
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        "application/json;as=Table;g=meta.k8s.io;v=v1",
    ] {
        let mut watch = t.watch_as(&format!("{SECRETS}?watch=true"), accept).await;
        watch.next().await.unwrap();
        t.given(SECRETS, secret(&format!("b{}", accept.len()), "x")).await;
        watch.next().await.unwrap();
    }
}

async fn bookmarks_come_at_the_end(t: Target) {
    t.blur_versions();
    let version = version(&t).await;
    let path =
        format!("{SECRETS}?watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds=4");
    let mut watch = t.watch(&path).await;
    let mut last = None;
    while let Some(event) = watch.unwritten().await {
        last = Some(event);
    }
    let bookmark = last.expect("a bookmark before the end");
    assert_eq!(bookmark["type"], "BOOKMARK");
    t.note(&format!(
        "{} {} {}",
        bookmark["type"], bookmark["object"]["kind"], bookmark["object"]["metadata"]["creationTimestamp"]
    ));
}
