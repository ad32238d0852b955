//! Pulls: what the runtime is asked for and what the status says.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kruise_api::nodeimage::ImagePullPhase;
use kruise_daemon::disk::Room;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tonic::Code;

use crate::World;
use crate::fake_cri::Pull;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn tag(tag: &str) -> Value {
    json!({"tag": tag, "createdAt": "2026-01-01T00:00:00Z",
        "pullPolicy": {"timeoutSeconds": 60, "backoffLimit": 0, "ttlSecondsAfterFinished": 300}})
}

/// A tag with more said about it.
fn with(mut entry: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        entry[key] = value.clone();
    }
    entry
}

fn refused(words: &str) -> Pull {
    Pull::Fails(Code::Unknown, words.to_owned())
}

#[tokio::test(start_paused = true)]
async fn an_image_is_pulled_by_its_full_name_and_reported_by_its_familiar_one() {
    let mut world = World::new().await;
    world.cri.behave("docker.io/library/nginx:1", &[Pull::Succeeds(Duration::from_secs(5))]);
    world.start(&[]);
    let config = json!({"labels": {"app": "web"}, "annotations": {"note": "x"}});
    world.create_node_image(json!({"nginx": {"sandboxConfig": config, "tags": [tag("1")]}})).await;
    let status = world.ended("nginx", "1").await;
    assert_eq!(status.phase, ImagePullPhase::Succeeded);
    assert_eq!(status.progress, Some(100));
    assert_eq!(status.image_id.as_deref(), Some("nginx@sha256:id-of-docker.io/library/nginx:1"));
    let took = status.completion_time.unwrap().0.duration_since(status.start_time.unwrap().0);
    assert_eq!(took.as_secs(), 5);
    let pull = world.cri.state(|state| state.pulls.remove(0));
    assert_eq!(pull.image.unwrap().image, "docker.io/library/nginx:1");
    assert_eq!(pull.auth, None);
    let sandbox = pull.sandbox_config.unwrap();
    assert!(sandbox.metadata.is_some());
    assert_eq!(sandbox.labels["app"], "web");
    assert_eq!(sandbox.annotations["note"], "x");
    assert_eq!(sandbox.annotations["apps.kruise.io/pulling-image-by"], "kruise-daemon");
    let counts = world.node_image().await.status.unwrap();
    assert_eq!(
        (counts.desired, counts.succeeded, counts.failed, counts.pulling, counts.waiting),
        (1, 1, 0, 0, 0)
    );
    assert_eq!(counts.first_sync_status.unwrap().status.as_deref(), Some("Succeeded"));
    world.until("there is an event", async || !world.events().await.is_empty()).await;
    let event = |a: &str, b: &str, c: &str, d: &str| (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned());
    assert_eq!(
        world.events().await,
        [event("Normal", "PullImageSucceed", "NodeImage", "Image nginx:1, ecalpsedTime 5s")]
    );
}

#[tokio::test(start_paused = true)]
async fn a_pull_costs_two_status_writes_and_a_quiet_agent_none() {
    let mut world = World::new().await;
    world.cri.behave("docker.io/library/nginx:1", &[Pull::Succeeds(Duration::from_secs(5))]);
    world.start(&[]);
    world.create_node_image(json!({"nginx": {"tags": [tag("1")]}})).await;
    world.ended("nginx", "1").await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    // The two of the status, and one event.
    assert_eq!(world.server.writes(Some("daemon")), 3);
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_there_is_only_pulled_when_asked_for() {
    let mut world = World::new().await;
    world.cri.add_image("docker.io/library/nginx:1");
    world.cri.add_image("quay.io/a/b:1");
    world.start(&[]);
    let if_absent = with(tag("1"), &json!({"imagePullPolicy": "IfNotPresent"}));
    let always = with(tag("1"), &json!({"imagePullPolicy": "Always"}));
    world.create_node_image(json!({"nginx": {"tags": [if_absent]}, "quay.io/a/b": {"tags": [always]}})).await;
    assert_eq!(world.ended("nginx", "1").await.progress, Some(100));
    assert_eq!(world.ended("quay.io/a/b", "1").await.phase, ImagePullPhase::Succeeded);
    assert_eq!(world.cri.pulled(), ["quay.io/a/b:1"]);
}

#[tokio::test(start_paused = true)]
async fn digests_are_asked_for_and_checked() {
    let mut world = World::new().await;
    let digest = format!("sha256:{HEX}");
    let (good, bad) = (format!("localhost:5000/a@{digest}"), format!("docker.io/library/b@{digest}"));
    world.cri.behave(&bad, &[Pull::Lies]);
    world.cri.add_image(&format!("docker.io/library/c@{digest}"));
    world.start(&[]);
    let present = with(tag(&digest), &json!({"imagePullPolicy": "IfNotPresent"}));
    world
        .create_node_image(
            json!({"localhost:5000/a": {"tags": [tag(&digest)]}, "b": {"tags": [tag(&digest)]},
            "c": {"tags": [present]}}),
        )
        .await;
    assert_eq!(world.ended("localhost:5000/a", &digest).await.phase, ImagePullPhase::Succeeded);
    assert_eq!(world.ended("c", &digest).await.phase, ImagePullPhase::Succeeded);
    let lied = world.ended("b", &digest).await;
    assert_eq!(lied.phase, ImagePullPhase::Failed);
    assert!(lied.message.unwrap().contains("digest mismatch"));
    let mut pulled = world.cri.pulled();
    pulled.sort();
    assert_eq!(pulled, [bad, good]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_pull_is_tried_again_as_often_as_allowed_and_everybody_is_told() {
    let mut world = World::new().await;
    world.cri.behave("docker.io/library/nginx:1", &[refused("manifest unknown")]);
    world.start(&[]);
    let owner = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "ImagePullJob", "namespace": "default",
        "name": "job", "uid": "u"});
    let entry = with(
        tag("1"),
        &json!({"ownerReferences": [owner],
        "pullPolicy": {"timeoutSeconds": 60, "backoffLimit": 1, "ttlSecondsAfterFinished": 300}}),
    );
    world.create_node_image(json!({"nginx": {"tags": [entry]}})).await;
    let status = world.ended("nginx", "1").await;
    assert_eq!(status.phase, ImagePullPhase::Failed);
    let message =
        "Failed to pull image reference \"nginx:1\": rpc error: code = Unknown desc = manifest unknown";
    assert_eq!(status.message.as_deref(), Some(message));
    assert_eq!(world.cri.pulled().len(), 2);
    world.until("there are events", async || world.events().await.len() == 2).await;
    let text = format!("Image nginx:1 {message}");
    let event =
        |kind: &str| ("Warning".to_owned(), "PullImageFailed".to_owned(), kind.to_owned(), text.clone());
    assert_eq!(world.events().await, [event("ImagePullJob"), event("NodeImage")]);
    assert_eq!(world.node_image().await.status.unwrap().failed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_later_attempt_may_succeed_and_pauses_grow() {
    let mut world = World::new().await;
    let (fail, done) = (refused("no route to host"), Pull::Succeeds(Duration::ZERO));
    world.cri.behave("docker.io/library/nginx:1", &[fail.clone(), fail.clone(), fail, done]);
    world.start(&[]);
    let entry = with(tag("1"), &json!({"pullPolicy": {"backoffLimit": 3, "ttlSecondsAfterFinished": 300}}));
    world.create_node_image(json!({"nginx": {"tags": [entry]}})).await;
    let status = world.ended("nginx", "1").await;
    assert_eq!(status.phase, ImagePullPhase::Succeeded);
    assert_eq!(status.message, None);
    let took = status.completion_time.unwrap().0.duration_since(status.start_time.unwrap().0);
    assert_eq!(took.as_secs(), 1 + 2 + 4);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_asked_too_often_is_left_alone_for_a_while() {
    let mut world = World::new().await;
    let busy = refused("toomanyrequests: You have reached your pull rate limit");
    world.cri.behave("docker.io/library/nginx:1", &[busy, Pull::Succeeds(Duration::ZERO)]);
    world.start(&[]);
    let entry = with(tag("1"), &json!({"pullPolicy": {"backoffLimit": 1, "ttlSecondsAfterFinished": 300}}));
    world.create_node_image(json!({"nginx": {"tags": [entry]}})).await;
    let status = world.ended("nginx", "1").await;
    let took = status.completion_time.unwrap().0.duration_since(status.start_time.unwrap().0);
    assert!((30..=45).contains(&took.as_secs()), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_is_given_up_in_time() {
    let mut world = World::new().await;
    world.cri.behave("docker.io/library/nginx:1", &[Pull::Hangs]);
    world.cri.behave("docker.io/library/nginx:2", &[Pull::Hangs]);
    world.start(&[]);
    let deadline = with(
        tag("2"),
        &json!({"pullPolicy": {"timeoutSeconds": 60, "backoffLimit": 9, "activeDeadlineSeconds": 90,
            "ttlSecondsAfterFinished": 300}}),
    );
    world.create_node_image(json!({"nginx": {"tags": [tag("1"), deadline]}})).await;
    let status = world.ended("nginx", "1").await;
    assert_eq!(status.phase, ImagePullPhase::Failed);
    assert!(status.message.unwrap().starts_with("pulling image nginx:1 is canceled"));
    let status = world.ended("nginx", "2").await;
    assert_eq!(status.message.as_deref(), Some("pulling exceeds the activeDeadlineSeconds"));
    let took = status.completion_time.unwrap().0.duration_since(status.start_time.unwrap().0);
    assert_eq!(took.as_secs(), 90);
    assert_eq!(world.cri.pulled().len(), 3);
    assert_eq!(world.cri.state(|state| state.cancelled), 3);
}

#[tokio::test(start_paused = true)]
async fn with_one_worker_pulls_take_turns_and_one_taken_back_is_never_pulled() {
    let mut world = World::new().await;
    for tag in ["1", "2", "3"] {
        world
            .cri
            .behave(&format!("docker.io/library/nginx:{tag}"), &[Pull::Succeeds(Duration::from_secs(30))]);
    }
    world.start(&["--max-workers-for-pull-image=1"]);
    world.create_node_image(json!({"nginx": {"tags": [tag("1"), tag("2"), tag("3")]}})).await;
    world.until("one pulls", async || world.node_image().await.status.is_some_and(|s| s.pulling == 1)).await;
    assert_eq!(world.node_image().await.status.unwrap().waiting, 2);
    world.patch_node_image(json!({"nginx": {"tags": [tag("1"), tag("3")]}})).await;
    assert_eq!(world.ended("nginx", "3").await.phase, ImagePullPhase::Succeeded);
    assert_eq!(world.cri.pulled(), ["docker.io/library/nginx:1", "docker.io/library/nginx:3"]);
    assert_eq!(world.tag("nginx", "2").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_busy_registry_is_asked_by_turns_and_keeps_nobody_from_another_one() {
    let mut world = World::new().await;
    for reference in ["quay.io/a/b:1", "quay.io/a/b:2", "ghcr.io/c:1"] {
        world.cri.behave(reference, &[Pull::Succeeds(Duration::from_secs(30))]);
    }
    world.start(&["--max-pulls-per-registry=1", "--max-workers-for-pull-image=2"]);
    world
        .create_node_image(
            json!({"ghcr.io/c": {"tags": [tag("1")]}, "quay.io/a/b": {"tags": [tag("1"), tag("2")]}}),
        )
        .await;
    world.until("two pull", async || world.cri.pulled().len() == 2).await;
    let mut pulled = world.cri.pulled();
    pulled.sort();
    assert_eq!(pulled, ["ghcr.io/c:1", "quay.io/a/b:1"]);
    assert_eq!(world.ended("quay.io/a/b", "1").await.phase, ImagePullPhase::Succeeded);
    assert_eq!(world.ended("quay.io/a/b", "2").await.phase, ImagePullPhase::Succeeded);
    assert_eq!(world.cri.pulled().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_is_not_wanted_any_more_is_cancelled_at_the_runtime() {
    let mut world = World::new().await;
    world.cri.behave("docker.io/library/nginx:1", &[Pull::Hangs]);
    world.start(&[]);
    world.create_node_image(json!({"nginx": {"tags": [tag("1")]}})).await;
    world.until("it pulls", async || world.cri.pulled().len() == 1).await;
    world.patch_node_image(json!({"nginx": null})).await;
    world.until("it is cancelled", async || world.cri.state(|state| state.cancelled) == 1).await;
    world
        .until("the status is empty", async || {
            world.node_image().await.status.is_none_or(|s| s.image_statuses.unwrap_or_default().is_empty())
        })
        .await;
    assert_eq!(world.node_image().await.status.unwrap().desired, 0);
}

#[tokio::test(start_paused = true)]
async fn a_larger_version_starts_the_pull_again() {
    let mut world = World::new().await;
    world.start(&[]);
    world.create_node_image(json!({"nginx": {"tags": [tag("1")]}})).await;
    assert_eq!(world.ended("nginx", "1").await.version, 0);
    let next = with(tag("1"), &json!({"version": 1}));
    world.patch_node_image(json!({"nginx": {"tags": [next]}})).await;
    world
        .until("it was pulled again", async || {
            world.tag("nginx", "1").await.is_some_and(|s| s.version == 1 && s.completion_time.is_some())
        })
        .await;
    assert_eq!(world.cri.pulled().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_restarts_meanwhile_costs_no_attempt() {
    let mut world = World::new().await;
    world.cri.behave("docker.io/library/nginx:1", &[Pull::Hangs, Pull::Succeeds(Duration::from_secs(1))]);
    world.start(&[]);
    world.create_node_image(json!({"nginx": {"tags": [tag("1")]}})).await;
    world.until("it pulls", async || world.cri.pulled().len() == 1).await;
    world.cri.stop();
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.cri.start();
    assert_eq!(world.ended("nginx", "1").await.phase, ImagePullPhase::Succeeded);
    assert_eq!(world.cri.pulled().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_stays_away_fails_the_pull_with_its_reason() {
    let mut world = World::new().await;
    world.cri.stop();
    world.start(&[]);
    world.create_node_image(json!({"nginx": {"tags": [tag("1")]}})).await;
    let status = world.ended("nginx", "1").await;
    assert_eq!(status.phase, ImagePullPhase::Failed);
    let message = status.message.unwrap();
    assert!(message.contains("the container runtime cannot be reached"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_killed_in_the_middle_goes_on_and_keeps_the_start() {
    let mut world = World::new().await;
    world.cri.behave("docker.io/library/nginx:1", &[Pull::Hangs, Pull::Succeeds(Duration::from_secs(1))]);
    world.start(&[]);
    world.create_node_image(json!({"nginx": {"tags": [tag("1")]}})).await;
    world
        .until("it pulls", async || world.tag("nginx", "1").await.is_some_and(|s| s.start_time.is_some()))
        .await;
    let started = world.tag("nginx", "1").await.unwrap().start_time;
    world.kill();
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.start(&[]);
    let status = world.ended("nginx", "1").await;
    assert_eq!(status.phase, ImagePullPhase::Succeeded);
    assert_eq!(status.start_time, started);
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_is_not_pulled_again_after_a_restart() {
    let mut world = World::new().await;
    world.start(&[]);
    world.create_node_image(json!({"nginx": {"tags": [tag("1")]}})).await;
    let status = world.ended("nginx", "1").await;
    world.start(&[]);
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(world.tag("nginx", "1").await.unwrap(), status);
    assert_eq!(world.cri.pulled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn names_that_are_none_fail_with_their_reason_and_hide_no_others() {
    let mut world = World::new().await;
    world.start(&[]);
    world
        .create_node_image(json!({"Foo/bar": {"tags": [tag("1")]}, "a b": {"tags": [tag("1")]},
            "nginx": {"tags": [tag("sha256:12"), tag("-x"), tag("1")]}}))
        .await;
    assert_eq!(world.ended("nginx", "1").await.phase, ImagePullPhase::Succeeded);
    for (image, tag, reason) in [
        ("Foo/bar", "1", "invalid image Foo/bar:1: repository name must be lowercase"),
        ("a b", "1", "invalid image a b:1: invalid reference format"),
        ("nginx", "sha256:12", "invalid image nginx@sha256:12: invalid digest format"),
        ("nginx", "-x", "invalid image nginx:-x: invalid tag format"),
    ] {
        assert_eq!(world.ended(image, tag).await.message.as_deref(), Some(reason));
    }
    assert_eq!(world.cri.pulled(), ["docker.io/library/nginx:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_told_in_the_status() {
    let mut world = World::new().await;
    let full = refused("failed to copy: write /var/lib/x: no space left on device");
    world.cri.behave("docker.io/library/nginx:1", std::slice::from_ref(&full));
    world.cri.behave("docker.io/library/nginx:2", &[full, Pull::Succeeds(Duration::ZERO)]);
    world.start(&[]);
    let twice = with(tag("2"), &json!({"pullPolicy": {"backoffLimit": 1, "ttlSecondsAfterFinished": 300}}));
    world.create_node_image(json!({"nginx": {"tags": [tag("1"), twice]}})).await;
    let message = "Failed to pull image reference \"nginx:1\": rpc error: code = Unknown desc = failed to copy: \
        write /var/lib/x: no space left on device";
    assert_eq!(world.ended("nginx", "1").await.message.as_deref(), Some(message));
    assert_eq!(world.ended("nginx", "2").await.phase, ImagePullPhase::Succeeded, "room was made meanwhile");
    world.patch_node_image(json!({"busybox": {"tags": [tag("1")]}})).await;
    assert_eq!(world.ended("busybox", "1").await.phase, ImagePullPhase::Succeeded);
}

fn room(world: &World, free_percent: u64) {
    *world.room.lock().unwrap() = Room { free: free_percent << 30, size: 100 << 30 };
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_nearly_full_gets_no_more_images_and_the_status_tells_why() {
    let mut world = World::new().await;
    world.cri.add_image("docker.io/library/busybox:1");
    world.start(&[]);
    room(&world, 4);
    let present = with(tag("1"), &json!({"imagePullPolicy": "IfNotPresent"}));
    world.create_node_image(json!({"nginx": {"tags": [tag("1")]}, "busybox": {"tags": [present]}})).await;
    let status = world.ended("nginx", "1").await;
    assert_eq!(status.phase, ImagePullPhase::Failed);
    assert_eq!(
        status.message.as_deref(),
        Some(
            "Failed to pull image reference \"nginx:1\": the disk of the images has 4Gi of 100Gi left, \
             and 5% must stay free"
        )
    );
    assert_eq!(world.ended("busybox", "1").await.phase, ImagePullPhase::Succeeded, "it is there");
    assert_eq!(world.cri.pulled().len(), 0);
    room(&world, 5);
    world.patch_node_image(json!({"nginx": {"tags": [with(tag("1"), &json!({"version": 1}))]}})).await;
    world
        .until("it is pulled", async || {
            world
                .tag("nginx", "1")
                .await
                .is_some_and(|s| s.version == 1 && s.phase == ImagePullPhase::Succeeded)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn room_that_is_made_between_two_attempts_is_used_and_the_floor_can_be_set() {
    let mut world = World::new().await;
    room(&world, 20);
    world.start(&["--min-free-disk=30Gi"]);
    let patient = json!({"pullPolicy": {"backoffLimit": 5, "ttlSecondsAfterFinished": 300}});
    world.create_node_image(json!({"nginx": {"tags": [with(tag("1"), &patient)]}})).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.cri.pulled().len(), 0);
    room(&world, 30);
    assert_eq!(world.ended("nginx", "1").await.phase, ImagePullPhase::Succeeded);
    room(&world, 0);
    world.start(&["--min-free-disk=0"]);
    world.patch_node_image(json!({"nginx": {"tags": [tag("2")]}})).await;
    assert_eq!(world.ended("nginx", "2").await.phase, ImagePullPhase::Succeeded);
}

async fn secret(world: &World, name: &str, auths: Value) {
    let config = json!({ "auths": auths }).to_string();
    let secret: Secret = serde_json::from_value(json!({"metadata": {"name": name},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": config}}))
    .unwrap();
    let api = Api::<Secret>::namespaced(world.client.clone(), "default");
    let mut secret = secret;
    let data = secret.string_data.take().unwrap();
    secret.data =
        Some(data.into_iter().map(|(key, text)| (key, k8s_openapi::ByteString(text.into_bytes()))).collect());
    if api.get_opt(name).await.unwrap().is_some() {
        api.patch(name, &PatchParams::default(), &Patch::Merge(&secret)).await.unwrap();
    } else {
        api.create(&PostParams::default(), &secret).await.unwrap();
    }
}

fn users(world: &World) -> Vec<Option<String>> {
    world.cri.state(|state| {
        state.pulls.iter().map(|pull| pull.auth.as_ref().map(|auth| auth.username.clone())).collect()
    })
}

#[tokio::test(start_paused = true)]
async fn each_matching_secret_is_tried_and_anonymous_pulls_are_no_fallback() {
    let mut world = World::new().await;
    world.cri.behave("quay.io/a/b:1", &[Pull::Needs("two".into(), "good".into())]);
    world.cri.behave("quay.io/a/c:1", &[Pull::Needs("nobody".into(), "x".into())]);
    secret(&world, "first", json!({"quay.io": {"username": "one", "password": "p"}})).await;
    secret(&world, "second", json!({"quay.io": {"username": "two", "password": "good"}})).await;
    world.start(&[]);
    let secrets = json!([{"namespace": "default", "name": "missing"}, {"namespace": "default", "name": "first"},
        {"namespace": "default", "name": "second"}]);
    world.create_node_image(json!({"quay.io/a/b": {"pullSecrets": secrets, "tags": [tag("1")]}})).await;
    assert_eq!(world.ended("quay.io/a/b", "1").await.phase, ImagePullPhase::Succeeded);
    let user = |name: &str| Some(name.to_owned());
    assert_eq!(users(&world), [user("one"), user("two")]);
    world.patch_node_image(json!({"quay.io/a/c": {"pullSecrets": secrets, "tags": [tag("1")]}})).await;
    let status = world.ended("quay.io/a/c", "1").await;
    assert_eq!(status.phase, ImagePullPhase::Failed);
    let message = status.message.unwrap();
    assert!(message.contains("401 Unauthorized") && !message.contains("good"), "{message}");
    assert!(users(&world).iter().all(Option::is_some));
}

#[tokio::test(start_paused = true)]
async fn an_image_no_secret_matches_is_pulled_anonymously() {
    let mut world = World::new().await;
    secret(&world, "other", json!({"ghcr.io": {"username": "one", "password": "p"}})).await;
    world.start(&[]);
    let secrets = json!([{"namespace": "default", "name": "other"}]);
    world.create_node_image(json!({"quay.io/a/b": {"pullSecrets": secrets, "tags": [tag("1")]}})).await;
    assert_eq!(world.ended("quay.io/a/b", "1").await.phase, ImagePullPhase::Succeeded);
    assert_eq!(users(&world), [None]);
}

#[tokio::test(start_paused = true)]
async fn credentials_replaced_since_they_were_read_are_read_again() {
    let mut world = World::new().await;
    world.cri.behave("quay.io/a/b:2", &[Pull::Needs("one".into(), "new".into())]);
    secret(&world, "first", json!({"quay.io": {"username": "one", "password": "old"}})).await;
    world.start(&[]);
    let secrets = json!([{"namespace": "default", "name": "first"}]);
    world.create_node_image(json!({"quay.io/a/b": {"pullSecrets": secrets, "tags": [tag("1")]}})).await;
    world.ended("quay.io/a/b", "1").await;
    secret(&world, "first", json!({"quay.io": {"username": "one", "password": "new"}})).await;
    world.patch_node_image(json!({"quay.io/a/b": {"tags": [tag("1"), tag("2")]}})).await;
    assert_eq!(world.ended("quay.io/a/b", "2").await.phase, ImagePullPhase::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_secret_fails_the_pull_without_showing_itself() {
    let mut world = World::new().await;
    secret(&world, "odd", json!({"quay.io": {"auth": "secret-word"}})).await;
    world.start(&[]);
    let secrets = json!([{"namespace": "default", "name": "odd"}]);
    world.create_node_image(json!({"quay.io/a/b": {"pullSecrets": secrets, "tags": [tag("1")]}})).await;
    let message = world.ended("quay.io/a/b", "1").await.message.unwrap();
    assert!(message.contains("secret default/odd has an auth field"), "{message}");
    assert!(!message.contains("secret-word"));
    assert_eq!(world.cri.pulled().len(), 0);
}
