//! Starts and ends of the agent and of what it follows.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruise_daemon::cri::{call_metrics, discover};
use kruise_daemon::node;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use prometheus::Registry;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fake_cri::FakeCri;
use crate::{NODE, World};

/// A folder for sockets that nobody else uses.
fn run_folder(name: &str) -> PathBuf {
    let run = std::env::temp_dir().join(format!("kruise-run-{name}-{}", std::process::id()));
    fs::create_dir_all(&run).unwrap();
    run
}

fn runtime(name: &str) -> FakeCri {
    let fake = FakeCri::default();
    fake.state(|state| name.clone_into(&mut state.name));
    fake
}

#[tokio::test]
async fn of_several_runtimes_the_one_that_the_node_reports_pulls_images() {
    let world = World::new().await;
    let nodes = Api::<Node>::all(world.client.clone());
    let object = serde_json::from_value(json!({"metadata": {"name": NODE}})).unwrap();
    nodes.create(&PostParams::default(), &object).await.unwrap();
    let status = json!({"status": {"nodeInfo": {"containerRuntimeVersion": "cri-o://1.34.0"}}});
    nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let run = run_folder("several");
    let (containerd, crio) = (runtime("containerd"), runtime("cri-o"));
    containerd.listen(&run.join("containerd.sock"));
    crio.listen(&run.join("crio.sock"));
    let seconds = call_metrics(&Registry::new()).unwrap();
    let first = async |node: &str| {
        let reported = async || node::runtime_name(&world.client, node).await;
        let found = discover::find(&run, "", reported, &seconds).await.unwrap();
        found.all().first().map(|runtime| runtime.name.clone())
    };
    assert_eq!(first(NODE).await.as_deref(), Some("cri-o"));
    assert_eq!(first("unknown").await.as_deref(), Some("containerd"), "their usual order");
    fs::remove_dir_all(&run).unwrap();
}

#[tokio::test]
async fn a_runtime_that_starts_later_than_the_agent_is_found() {
    let (run, seconds) = (run_folder("later"), call_metrics(&Registry::new()).unwrap());
    let fake = runtime("containerd");
    let find = discover::find(&run, "", async || None, &seconds);
    let start = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        fake.listen(&run.join("containerd.sock"));
    };
    let (found, ()) = tokio::join!(find, start);
    assert_eq!(found.unwrap().all().len(), 1);
    fs::remove_dir_all(&run).unwrap();
}

#[tokio::test]
async fn the_runtime_that_the_node_reports_is_waited_for_while_another_one_answers() {
    let (run, seconds) = (run_folder("other"), call_metrics(&Registry::new()).unwrap());
    let (docker, containerd) = (runtime("docker"), runtime("containerd"));
    docker.listen(&run.join("cri-dockerd.sock"));
    fs::write(run.join("containerd.sock"), "").unwrap();
    let find = discover::find(&run, "", async || Some("containerd".to_owned()), &seconds);
    let start = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        fs::remove_file(run.join("containerd.sock")).unwrap();
        containerd.listen(&run.join("containerd.sock"));
    };
    let (found, ()) = tokio::join!(find, start);
    let names: Vec<_> = found.unwrap().all().iter().map(|runtime| runtime.name.clone()).collect();
    assert_eq!(names, ["containerd", "docker"]);
    fs::remove_dir_all(&run).unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_runtime_the_agent_gives_up_after_a_minute_and_says_why() {
    let (run, seconds) = (run_folder("none"), call_metrics(&Registry::new()).unwrap());
    let begin = tokio::time::Instant::now();
    let error = discover::find(&run, "", async || None, &seconds).await.unwrap_err();
    assert_eq!(error.to_string(), "not found container runtime sock");
    assert!(begin.elapsed() >= Duration::from_mins(1));
    fs::remove_dir_all(&run).unwrap();
}

/// Status line and body of an answer of the agent.
async fn ask(address: &str, path: &str) -> Option<(String, String)> {
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let question = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Some((head.lines().next().unwrap().to_owned(), body.to_owned()))
}

/// Metrics that the page names, and the heading under which it does.
fn documented() -> BTreeMap<String, String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md")).unwrap();
    let (mut heading, mut found) = (String::new(), BTreeMap::new());
    for line in page.lines() {
        if let Some(text) = line.strip_prefix("## ").or(line.strip_prefix("### ")) {
            text.clone_into(&mut heading);
        } else if let Some(name) = line.strip_prefix("| `").and_then(|rest| rest.split_once('`')) {
            found.insert(name.0.to_owned(), heading.clone());
        }
    }
    found
}

#[tokio::test]
async fn the_agent_exports_what_the_page_says_and_takes_no_part_in_elections() {
    let mut world = World::new().await;
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    world.start(&[&format!("--addr={address}")]);
    world.until("it serves", async || ask(&address, "/metrics").await.is_some()).await;
    let (_, text) = ask(&address, "/metrics").await.unwrap();
    let documented = documented();
    let names: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for common in ["kruise_build_info", "kruise_feature_enabled", "process_open_fds", "workqueue_depth"] {
        assert!(names.contains(&common), "{common}: {names:?}");
    }
    for name in names {
        let told = documented.get(name).unwrap_or_else(|| panic!("{name} is not documented"));
        let common = ["kruise_build_info", "kruise_feature_enabled"].contains(&name);
        let of_agents = ["Controllers", "Process", "Node agent"].contains(&told.as_str());
        assert!(common || of_agents, "{name} is told of below {told:?} only, as the manager's");
    }
}

#[tokio::test]
async fn the_agent_is_alive_once_it_watches_and_ready_while_its_runtime_answers() {
    let mut world = World::new().await;
    let definitions = Api::<CustomResourceDefinition>::all(world.client.clone());
    let name = "nodeimages.apps.kruise.io";
    let definition = definitions.get(name).await.unwrap();
    definitions.delete(name, &DeleteParams::default()).await.unwrap();
    // Free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    world.start(&[&format!("--addr={address}")]);
    let answers = async |path: &str, status: &str, text: &str| {
        world
            .until(&format!("{path} answers {status} {text}"), async || {
                let answer = ask(&address, path).await;
                answer.is_some_and(|(line, body)| line.contains(status) && body == text)
            })
            .await;
    };
    let waiting = "check nodeImageInformerSynced failed, err: not synced";
    answers("/healthz", "500", waiting).await;
    answers("/readyz", "500", waiting).await;
    let spec = definition.spec;
    let definition = CustomResourceDefinition {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec,
        status: None,
    };
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    answers("/healthz", "200", "ok").await;
    answers("/readyz", "200", "ok").await;
    world.cri.stop();
    world
        .until("it is not ready", async || {
            let answer = ask(&address, "/readyz").await;
            answer.is_some_and(|(line, body)| {
                line.contains("500") && body.starts_with("check containerd failed")
            })
        })
        .await;
    answers("/healthz", "200", "ok").await;
}

#[tokio::test(start_paused = true)]
async fn the_agent_ends_with_its_reason_when_it_does_not_know_its_node() {
    let mut world = World::new().await;
    world.start(&["--node-name="]);
    let error = world.end().await.unwrap_err();
    assert_eq!(error.to_string(), "NODE_NAME is not set");
}

#[tokio::test(start_paused = true)]
async fn a_node_image_that_comes_and_goes_and_comes_again_is_followed() {
    let mut world = World::new().await;
    world.start(&[]);
    let images = json!({"nginx": {"tags": [{"tag": "1", "pullPolicy": {"backoffLimit": 0}}]}});
    world.create_node_image(images.clone()).await;
    world.ended("nginx", "1").await;
    world.node_images().delete(crate::NODE, &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.create_node_image(images).await;
    world.ended("nginx", "1").await;
    assert_eq!(world.cri.pulled().len(), 2);
}
