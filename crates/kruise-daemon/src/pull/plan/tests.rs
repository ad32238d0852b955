use serde_json::{Value, json};

use super::*;
use crate::wire::NodeImageWire;

const NOW: &str = "2026-01-01T00:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "values are written where the function is called")]
fn view(images: Value, status: Value) -> NodeImageView {
    let wire = json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": "1"},
        "spec": {"images": images}, "status": status});
    NodeImageView::of(serde_json::from_value::<NodeImageWire>(wire).unwrap()).unwrap()
}

fn key(image: &str, tag: &str) -> Key {
    Key { image: image.to_owned(), tag: tag.to_owned() }
}

fn started(plan: &Plan) -> Vec<(String, i64)> {
    plan.start.iter().map(|task| (task.key.to_string(), task.version)).collect()
}

#[test]
fn a_pull_runs_until_the_api_server_knows_its_end_for_that_version() {
    for (status, local, start, stop) in [
        // Nothing is known: it starts, once.
        (json!(null), None, true, false),
        (json!(null), Some(2), false, false),
        // Another version runs: it is replaced.
        (json!(null), Some(1), true, true),
        // It has ended.
        (json!({"version": 2, "phase": "Succeeded", "completionTime": NOW}), None, false, false),
        (json!({"version": 2, "phase": "Failed", "completionTime": NOW}), Some(2), false, true),
        // Another version has ended.
        (json!({"version": 1, "phase": "Succeeded", "completionTime": NOW}), None, true, false),
        // It was begun before the agent was started.
        (json!({"version": 2, "phase": "Pulling", "startTime": NOW}), None, true, false),
    ] {
        let mut entry = status.clone();
        entry["tag"] = json!("1");
        let view = view(
            json!({"a": {"tags": [{"tag": "1", "version": 2}]}}),
            json!({"imageStatuses": {"a": {"tags": [entry]}}}),
        );
        let local = local.map(|version| (key("a", "1"), version)).into_iter().collect();
        let plan = plan(&view, &local);
        assert_eq!((!plan.start.is_empty(), !plan.stop.is_empty()), (start, stop), "{status} {local:?}");
    }
}

#[test]
fn what_is_not_wanted_is_stopped() {
    let view = view(json!({"a": {"tags": [{"tag": "1"}]}}), json!({}));
    let local = BTreeMap::from([(key("a", "1"), 0), (key("a", "2"), 0), (key("b", "1"), 0)]);
    let plan = plan(&view, &local);
    assert_eq!(plan.stop, [key("a", "2"), key("b", "1")]);
    assert_eq!(started(&plan), []);
}

#[test]
fn limits_have_defaults_and_odd_ones_read_as_these() {
    for (policy, attempts, timeout, deadline) in [
        (json!(null), 4, 600, None),
        (json!({}), 4, 600, None),
        (json!({"backoffLimit": 0, "timeoutSeconds": 5, "activeDeadlineSeconds": 9}), 1, 5, Some(9)),
        (json!({"backoffLimit": -1, "timeoutSeconds": 0, "activeDeadlineSeconds": -5}), 4, 600, Some(0)),
        (json!({"backoffLimit": i32::MAX, "timeoutSeconds": -7}), 1 << 31, 600, None),
    ] {
        let view = view(json!({"a": {"tags": [{"tag": "1", "pullPolicy": policy}]}}), json!({}));
        let task = plan(&view, &BTreeMap::new()).start.remove(0);
        assert_eq!(
            (task.attempts, task.timeout.as_secs(), task.deadline.map(|d| d.as_secs())),
            (attempts, timeout, deadline),
            "{policy}"
        );
    }
}

#[test]
fn an_earlier_start_of_the_same_version_is_kept() {
    for (version, kept) in [(2, true), (1, false)] {
        let view = view(
            json!({"a": {"tags": [{"tag": "1", "version": 2}]}}),
            json!({"imageStatuses": {"a": {"tags": [
                {"tag": "1", "version": version, "phase": "Pulling", "startTime": NOW}]}}}),
        );
        assert_eq!(plan(&view, &BTreeMap::new()).start[0].started, kept.then(now));
    }
}

#[test]
fn entries_that_cannot_be_read_or_named_are_refused() {
    let view = view(
        json!({"A": {"tags": [{"tag": "1"}]}, "a": {"tags": [{"tag": "1", "version": "x"}, {"tag": "2"}]}}),
        json!({}),
    );
    let plan = plan(&view, &BTreeMap::new());
    assert_eq!(
        plan.refuse.iter().map(|refusal| &refusal.key).collect::<Vec<_>>(),
        [&key("A", "1"), &key("a", "1")]
    );
    assert_eq!(plan.refuse[0].reason, "invalid image A:1: repository name must be lowercase");
    assert_eq!(started(&plan), [("a:2".to_owned(), 0)]);
}

fn local(entries: &[(&str, &str, ImagePullPhase)]) -> BTreeMap<Key, ImageTagStatus> {
    let status =
        |tag: &str, phase| ImageTagStatus { tag: tag.to_owned(), phase, ..ImageTagStatus::default() };
    entries.iter().map(|(image, tag, phase)| (key(image, tag), status(tag, *phase))).collect()
}

#[test]
fn the_status_counts_what_is_wanted_by_phase() {
    let view = view(
        json!({"a": {"tags": [{"tag": "2"}, {"tag": "1"}, {"tag": "3"}]}, "b": {"tags": [{"tag": "1"}]}, "c": {}}),
        json!({"imageStatuses": {"b": {"tags": [{"tag": "1", "phase": "Failed", "completionTime": NOW}]},
            "gone": {"tags": []}}}),
    );
    let local = local(&[
        ("a", "1", ImagePullPhase::Succeeded),
        ("a", "2", ImagePullPhase::Pulling),
        ("x", "1", ImagePullPhase::Pulling),
    ]);
    let status = status(&view, &local, now());
    assert_eq!(
        (status.desired, status.succeeded, status.failed, status.pulling, status.waiting),
        (4, 1, 1, 1, 1)
    );
    let images = status.image_statuses.unwrap();
    assert_eq!(images.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(images["a"].tags.iter().map(|tag| &*tag.tag).collect::<Vec<_>>(), ["1", "2", "3"]);
    assert_eq!(status.first_sync_status, None);
}

#[test]
fn the_first_sync_is_told_once() {
    let images = json!({"a": {"tags": [{"tag": "1"}]}});
    let done = local(&[("a", "1", ImagePullPhase::Failed)]);
    let first = status(&view(images.clone(), json!({})), &done, now()).first_sync_status.unwrap();
    assert_eq!(first.status.as_deref(), Some("Failed"));
    assert_eq!(first.sync_at, Some(Time(now())));
    let known = json!({"firstSyncStatus": {"status": "Succeeded", "message": "earlier"}});
    let later = status(&view(images, known), &done, now()).first_sync_status.unwrap();
    assert_eq!(later.message.as_deref(), Some("earlier"));
    assert_eq!(status(&view(json!({}), json!({})), &BTreeMap::new(), now()).first_sync_status, None);
}

#[test]
fn a_patch_holds_the_counts_and_only_the_images_that_changed() {
    let images = json!({"a": {"tags": [{"tag": "1"}]}, "b": {"tags": [{"tag": "1"}]}});
    let before = status(&view(images, json!({})), &local(&[("a", "1", ImagePullPhase::Pulling)]), now());
    assert_eq!(patch(&before, &before), None);
    let images = json!({"a": {"tags": [{"tag": "1"}]}});
    let after = status(&view(images, json!({})), &local(&[("a", "1", ImagePullPhase::Pulling)]), now());
    let text = serde_json::to_value(patch(&before, &after).unwrap()).unwrap();
    assert_eq!(
        text,
        json!({"status": {"desired": 1, "succeeded": 0, "failed": 0, "pulling": 1, "waiting": 0,
            "imageStatuses": {"b": null}}})
    );
}
