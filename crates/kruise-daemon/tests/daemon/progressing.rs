//! How far pulls are, while they run.

use std::collections::BTreeMap;
use std::time::Duration;

use kruise_api::nodeimage::ImagePullPhase;
use kruise_daemon::cri::content::{Blob, Ingest};
use serde_json::json;

use crate::World;
use crate::fake_cri::{Content, Pull};

/// Adds a manifest with layers of these digests and sizes.
fn manifest(content: &mut Content, digest: &str, layers: &[(&str, u64)]) {
    let layers: Vec<_> =
        layers.iter().map(|(digest, size)| json!({"digest": digest, "size": size})).collect();
    let labels = BTreeMap::from([("containerd.io/gc.ref.content.config".to_owned(), "sha256:cc".to_owned())]);
    let blob = Blob { digest: digest.to_owned(), size: 1, labels };
    content.manifests.push((blob, json!({"layers": layers}).to_string()));
}

fn coming(world: &World, layers: &[(&str, i64)]) {
    world.cri.state(|state| {
        let layers = layers.iter();
        let ingest =
            |(digest, offset): &(&str, i64)| Ingest { reference: format!("layer-{digest}"), offset: *offset };
        state.content.as_mut().unwrap().ingests = layers.map(ingest).collect();
    });
}

fn arrived(world: &World, digest: &str) {
    world.cri.state(|state| state.content.as_mut().unwrap().blobs.push(digest.to_owned()));
}

async fn progress(world: &World) -> Option<i32> {
    world.tag("quay.io/a/b.c", "1").await.and_then(|status| status.progress)
}

#[tokio::test(start_paused = true)]
async fn the_progress_of_a_pull_is_told_in_steps_of_ten_where_the_runtime_tells() {
    let mut world = World::new().await;
    let mut content = Content::default();
    manifest(&mut content, "sha256:01", &[("sha256:a", 600), ("sha256:b", 400)]);
    // An older tag of the repository, which shares nothing.
    manifest(&mut content, "sha256:02", &[("sha256:old", 9000)]);
    content.manifests.push((Blob { digest: "sha256:blob".into(), ..Blob::default() }, "no manifest".into()));
    world.cri.state(|state| state.content = Some(content));
    world.cri.behave("quay.io/a/b.c:1", &[Pull::Succeeds(Duration::from_mins(2))]);
    world.start(&[]);
    coming(&world, &[("sha256:other", 10)]);
    world.create_node_image(json!({"quay.io/a/b.c": {"tags": [{"tag": "1", "pullPolicy": {}}]}})).await;
    world.until("it pulls", async || world.cri.pulled().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(progress(&world).await, Some(0), "layers of other images do not count");
    let before = world.server.writes(Some("daemon"));
    for (at, layers, told) in [
        (1, &[("sha256:a", 50)][..], 0),
        (2, &[("sha256:a", 150)], 10),
        (3, &[("sha256:a", 199)], 10),
        (4, &[("sha256:a", 500), ("sha256:b", 40)], 50),
        (5, &[("sha256:b", 40)], 60),
    ] {
        if at == 5 {
            arrived(&world, "sha256:a");
        }
        coming(&world, layers);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(progress(&world).await, Some(told), "step {at}");
    }
    assert_eq!(world.server.writes(Some("daemon")) - before, 3);
    arrived(&world, "sha256:b");
    coming(&world, &[]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(progress(&world).await, Some(90), "what has come is still unpacked");
    let filter = world.cri.state(|state| state.content.as_ref().unwrap().filters.first().cloned());
    let expected = r#"labels."containerd.io/distribution.source.quay.io"~="(^|,)a/b\\.c(,|$)""#;
    assert_eq!(filter.as_deref(), Some(expected));
    let status = world.ended("quay.io/a/b.c", "1").await;
    assert_eq!((status.phase, status.progress), (ImagePullPhase::Succeeded, Some(100)));
    let looks = || world.cri.state(|state| state.content.as_ref().unwrap().looks);
    let at_the_end = looks();
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(looks(), at_the_end, "who pulls nothing asks nothing");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_or_tells_nonsense_fails_no_pull() {
    let mut world = World::new().await;
    let mut content = Content::default();
    let labels = BTreeMap::from([("containerd.io/gc.ref.content.l.0".to_owned(), "sha256:a".to_owned())]);
    let blob = Blob { digest: "sha256:01".into(), size: 1, labels };
    content.manifests.push((blob, "{\"layers\": 7".into()));
    world.cri.state(|state| state.content = Some(content));
    world.cri.behave("quay.io/a/b.c:1", &[Pull::Succeeds(Duration::from_mins(1))]);
    world.start(&[]);
    coming(&world, &[("sha256:a", -5)]);
    world.create_node_image(json!({"quay.io/a/b.c": {"tags": [{"tag": "1", "pullPolicy": {}}]}})).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    world.cri.state(|state| state.content = None);
    assert_eq!(world.ended("quay.io/a/b.c", "1").await.phase, ImagePullPhase::Succeeded);
    // Its start, its end, and one event.
    assert_eq!(world.server.writes(Some("daemon")), 3);
}
