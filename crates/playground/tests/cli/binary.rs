//! The kruise-sandbox binary as a process: how fast it is up, what it leaves behind, what it keeps.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Dir, Sandbox};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config};
use serde_json::json;

/// From the start of the binary until everything can be used, as promised in the README.
const USABLE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_mins(1);
/// Nothing takes time that need not.
const AT_ONCE: [&str; 4] = ["--pull=0s", "--start=0s", "--ready=0s", "--stop=0s"];

async fn client(sandbox: &Sandbox) -> Client {
    let file = Kubeconfig::read_from(&sandbox.kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn sets(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", "CloneSet");
    Api::default_namespaced_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, "clonesets"))
}

async fn create_set(client: &Client) {
    let set = serde_yaml_ng::from_str(include_str!("../../../../docs/examples/sandbox.yaml")).unwrap();
    sets(client).create(&PostParams::default(), &set).await.unwrap();
}

/// Waits until all pods of the set run this image, and returns their uids.
async fn settled(client: &Client, image: &str, count: usize) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let pods =
            Api::<Pod>::default_namespaced(client.clone()).list(&ListParams::default()).await.unwrap().items;
        let runs = |pod: &&Pod| {
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            statuses.into_iter().any(|status| status.ready && status.image.ends_with(image))
        };
        if pods.len() == count && pods.iter().filter(runs).count() == count {
            return pods.into_iter().filter_map(|pod| pod.metadata.uid).collect();
        }
        assert!(begun.elapsed() < PATIENCE, "{image} does not run everywhere: {pods:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn upgrade(client: &Client, image: &str) {
    let containers = json!([{"name": "main", "image": image}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    sets(client).patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

#[tokio::test]
async fn it_is_usable_at_once_and_leaves_nothing_behind() {
    let dir = Dir::new("usable");
    let sandbox = Sandbox::start(&dir.0, &AT_ONCE);
    // Several starts compete for the machine when tests run; the fastest counts.
    let mut fastest = sandbox.usable_after;
    for number in 0..4 {
        if fastest >= USABLE {
            let other = Dir::new(&format!("usable-{number}"));
            fastest = fastest.min(Sandbox::start(&other.0, &AT_ONCE).usable_after);
        }
    }
    assert!(fastest < USABLE, "it took {fastest:?}");
    assert!(sandbox.told[0].starts_with("export KUBECONFIG=/"), "{:?}", sandbox.told);
    let client = client(&sandbox).await;
    create_set(&client).await;
    settled(&client, "web:1", 3).await;
    let kubeconfig = sandbox.kubeconfig.clone();
    assert!(sandbox.interrupt(), "it did not end well");
    assert!(!kubeconfig.exists());
    let left: Vec<_> = std::fs::read_dir(dir.0.join("kruise-sandbox")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_killed_one_goes_on_where_it_was() {
    let dir = Dir::new("killed");
    let data = dir.0.join("data");
    let flags: Vec<&str> = AT_ONCE.into_iter().chain(["--data-dir", data.to_str().unwrap()]).collect();
    let sandbox = Sandbox::start(&dir.0, &flags);
    let client_before = client(&sandbox).await;
    create_set(&client_before).await;
    let before = settled(&client_before, "web:1", 3).await;
    upgrade(&client_before, "demo/web:2").await;
    // In the middle of the rollout: what was answered must be there, what was not begun goes on.
    sandbox.kill();

    let sandbox = Sandbox::start(&dir.0, &flags);
    let client_after = client(&sandbox).await;
    let after = settled(&client_after, "web:2", 3).await;
    assert_eq!(after, before, "pods were updated in place");
    let set = sets(&client_after).get("web").await.unwrap();
    assert_eq!(set.metadata.generation, Some(2));
    assert!(sandbox.interrupt());

    let sandbox = Sandbox::start(&dir.0, &flags);
    assert_eq!(settled(&client(&sandbox).await, "web:2", 3).await, before);
}

#[tokio::test]
async fn the_managers_flags_reach_it() {
    let dir = Dir::new("flags");
    let refused = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kruise-sandbox"));
        let ended = command.args(flags).env("XDG_RUNTIME_DIR", &dir.0).output().unwrap();
        assert!(!ended.status.success());
        String::from_utf8(ended.stderr).unwrap()
    };
    let text = refused(&["--", "--controllers=nonsense"]);
    assert!(text.contains("nonsense"), "{text}");
    let text = refused(&["--", "--nonsense"]);
    assert!(text.contains("--nonsense"), "{text}");
}

#[test]
fn the_demo_ends_well_and_shows_each_experiment() {
    let dir = Dir::new("demo");
    let played = Command::new(env!("CARGO_BIN_EXE_kruise-sandbox"))
        .args(["--demo", "--fast"])
        .env("XDG_RUNTIME_DIR", &dir.0)
        .output()
        .unwrap();
    let shown = String::from_utf8(played.stdout).unwrap();
    assert!(played.status.success(), "{shown}\n{}", String::from_utf8_lossy(&played.stderr));
    assert_eq!(shown.matches("✓").count(), 6, "{shown}");
}
