//! Pulls while runtimes and agents are restarted, and what pulling ahead is good for. In a file of its own, one spec at a
//! time: other specs need the runtimes, the agents and the manager.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Event, Pod, Secret, ServiceAccount};
use kruise_e2e::{
    FullDisk, Manager, NodeImages, PodView as _, SOON, SlowRegistry, Venue, agents_with_argument, clone_set,
    cluster, entry, kind, merged, seen, with_image,
};
use kube::api::{
    Api, DeleteParams, DynamicObject, GetParams, ListParams, LogParams, Patch, PatchParams, PostParams,
};
use kube::core::Request;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::Mutex;

const MINUTE: Duration = Duration::from_mins(1);
const SYSTEM: &str = "kruise-system";
const MEBIBYTE: u64 = 1 << 20;

/// Whose turn it is: there is one manager, and one runtime on a node.
static TURN: Mutex<()> = Mutex::const_new(());

fn unique(what: &str) -> String {
    format!("{what}-{:08x}", rand::random::<u32>())
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The agents' pods.
async fn agents(client: &kube::Client) -> Result<Vec<Pod>> {
    let pods = Api::<Pod>::namespaced(client.clone(), SYSTEM);
    Ok(pods.list(&ListParams::default().labels("control-plane=daemon")).await?.items)
}

/// The agent of a node.
async fn agent_of(images: &NodeImages) -> Result<Pod> {
    let agents = agents(&images.client).await?;
    let here = |pod: &Pod| {
        pod.active() && pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&images.node)
    };
    agents.into_iter().find(here).context("the node has no agent")
}

/// Asks for an image of eight megabytes at one a second; returns when the second is on its way.
async fn in_the_middle_of_a_pull(images: &NodeImages) -> Result<(SlowRegistry, String)> {
    let slow = SlowRegistry::start(MEBIBYTE).await?;
    let name = unique("slow");
    cluster(&["demo-image", "1", &name, "8"]).await?;
    let image = format!("{}/{name}", slow.name());
    images.ask(&image, "1", 0).await?;
    seen("the image is on its way", MINUTE, async || Ok((slow.sent() > MEBIBYTE).then_some(()))).await?;
    ensure!(slow.sent() < 6 * MEBIBYTE, "nearly all of it is there already");
    Ok((slow, image))
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_runtime_restarted_in_the_middle_of_a_pull_costs_no_attempt() -> Result<()> {
    let _turn = TURN.lock().await;
    let images = NodeImages::of_first_node().await?;
    let (_slow, image) = in_the_middle_of_a_pull(&images).await?;
    cluster(&["restart-containerd", &images.node]).await?;
    let state = images.ended(&image).await?;
    ensure!(text(&state, "phase") == "Succeeded", "with one attempt: {state}");
    ensure!(images.is_there(&format!("{image}:1")).await?, "the runtime does not have the image");
    images.forget(&image).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn an_agent_killed_in_the_middle_of_a_pull_goes_on_with_it() -> Result<()> {
    let _turn = TURN.lock().await;
    let images = NodeImages::of_first_node().await?;
    let agent = agent_of(&images).await?;
    let (_slow, image) = in_the_middle_of_a_pull(&images).await?;
    let started = async || {
        let object = images.api.get(&images.node).await?;
        let states = object.data.pointer("/status/imageStatuses").cloned().unwrap_or_default();
        let state = states.get(&image).and_then(|image| image.pointer("/tags/0")).cloned();
        Ok(state.map(|state| text(&state, "startTime").to_owned()).filter(|time| !time.is_empty()))
    };
    let before = seen("the start is told", SOON, started).await?;
    cluster(&["kill", SYSTEM, agent.name()]).await?;
    let state = images.ended(&image).await?;
    ensure!(text(&state, "phase") == "Succeeded", "with one attempt: {state}");
    ensure!(text(&state, "startTime") == before, "{state} began {before}");
    ensure!(images.is_there(&format!("{image}:1")).await?, "the runtime does not have the image");
    let after = agent_of(&images).await?;
    ensure!(after.uid() == agent.uid() && after.restarts() > agent.restarts(), "the agent was not killed");
    images.forget(&image).await
}

/// The state of an image's first tag, while it is at the second wish of that tag and has ended.
async fn ended_again(images: &NodeImages, image: &str) -> Result<Value> {
    seen(&format!("the second pull of {image} ends"), MINUTE, async || {
        let state = images.ended(image).await?;
        Ok((state.get("version") == Some(&json!(1))).then_some(state))
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_full_disk_is_told_and_leaves_the_agent_as_it_is() -> Result<()> {
    let _turn = TURN.lock().await;
    let images = NodeImages::of_first_node().await?;
    let agent = agent_of(&images).await?;
    let name = unique("large");
    cluster(&["demo-image", "1", &name, "16"]).await?;
    let image = format!("kruise.test/{name}");
    let disk = FullDisk::of(&images.node).await?;
    images.ask(&image, "1", 1).await?;
    let state = images.ended(&image).await?;
    ensure!(text(&state, "phase") == "Failed", "{state}");
    let message = text(&state, "message");
    let begin = format!("Failed to pull image reference \"{image}:1\": rpc error: ");
    ensure!(message.starts_with(&begin) && message.contains("no space left on device"), "{message}");
    seen("the failure is told", SOON, async || {
        let events = images.events("PullImageFailed").await?;
        Ok(events.iter().any(|told| told.starts_with(&format!("Image {image}:1 Failed"))).then_some(()))
    })
    .await?;
    drop(disk);
    images.patch(&image, json!({"tags": [entry("1", 0, 1)]})).await?;
    let state = ended_again(&images, &image).await?;
    ensure!(text(&state, "phase") == "Succeeded", "with room again: {state}");
    ensure!(images.is_there(&format!("{image}:1")).await?, "the runtime does not have the image");
    let after = agent_of(&images).await?;
    ensure!(after.uid() == agent.uid() && after.restarts() == agent.restarts(), "the agent ended");
    ensure!(after.available(), "the agent is not ready");
    images.forget(&image).await
}

/// Gibibytes of the file system that the runtime of a node keeps its images on.
async fn disk_size(node: &str) -> Result<f64> {
    let kubeconfig = std::env::var("KUBECONFIG").context("no cluster: set KUBECONFIG")?;
    let cluster = std::path::Path::new(&kubeconfig).parent().context("KUBECONFIG is no file of a cluster")?;
    let images = cluster.join("var").join(node.replace("node", "n")).join("containerd");
    let output = Command::new("df").args(["--block-size=1", "--output=size"]).arg(&images).output().await?;
    let told = String::from_utf8(output.stdout)?;
    let bytes = told.lines().last().unwrap_or_default().trim().parse::<f64>();
    Ok(bytes.with_context(|| format!("df of {}: {told}", images.display()))? / f64::from(1 << 30))
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn below_its_floor_of_free_disk_an_agent_pulls_nothing_and_says_so() -> Result<()> {
    let _turn = TURN.lock().await;
    let images = NodeImages::of_first_node().await?;
    let name = unique("floor");
    cluster(&["demo-image", "1", &name]).await?;
    let image = format!("kruise.test/{name}");
    let back = agents_with_argument("--min-free-disk=99%")?;
    images.ask(&image, "1", 0).await?;
    let state = images.ended(&image).await?;
    let message = text(&state, "message");
    ensure!(text(&state, "phase") == "Failed", "{state}");
    ensure!(message.ends_with(" left, and 99% must stay free"), "{message}");
    // In its container, the agent sees the disk of the images.
    let told = message.split_once("Gi left").and_then(|(before, _)| before.rsplit_once(' '));
    let told: f64 = told.context("no size is told")?.1.parse()?;
    let size = disk_size(&images.node).await?;
    ensure!((told - size).abs() <= 0.1, "the agent sees a disk of {told}Gi, and it has {size}");
    ensure!(!images.is_there(&format!("{image}:1")).await?, "it was pulled all the same");
    drop(back);
    images.patch(&image, json!({"tags": [entry("1", 0, 1)]})).await?;
    let state = ended_again(&images, &image).await?;
    ensure!(text(&state, "phase") == "Succeeded", "{state}");
    images.forget(&image).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn the_progress_of_a_pull_grows_while_it_runs() -> Result<()> {
    let _turn = TURN.lock().await;
    let images = NodeImages::of_first_node().await?;
    let slow = SlowRegistry::start(MEBIBYTE).await?;
    let name = unique("progress");
    cluster(&["demo-image", "1", &name, "16"]).await?;
    let image = format!("{}/{name}", slow.name());
    images.ask(&image, "1", 0).await?;
    let mut told = Vec::new();
    seen("the pull ends", MINUTE, async || {
        let object = images.api.get(&images.node).await?;
        let states = object.data.pointer("/status/imageStatuses").cloned().unwrap_or_default();
        let state =
            states.get(&image).and_then(|image| image.pointer("/tags/0")).cloned().unwrap_or_default();
        told.extend(state.get("progress").and_then(Value::as_i64));
        Ok(state.get("completionTime").map(drop))
    })
    .await?;
    told.dedup();
    ensure!(told.is_sorted() && told.last() == Some(&100), "{told:?}");
    ensure!(told.iter().filter(|percent| (10..=90).contains(*percent)).count() >= 3, "{told:?}");
    ensure!(told.len() <= 11, "more writes than steps: {told:?}");
    println!("progress of a pull that took 16 s: {told:?}");
    images.forget(&image).await
}

/// Seconds from the decision to update a pod in place to the start of its new container.
fn restart_took(pod: &Pod) -> Result<f64> {
    let annotations = pod.metadata.annotations.as_ref();
    let state = annotations.and_then(|map| map.get("apps.kruise.io/inplace-update-state"));
    let state: Value = serde_json::from_str(state.context("it was not updated in place")?)?;
    let decided: jiff::Timestamp = text(&state, "updateTimestamp").parse()?;
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let running = statuses.and_then(|all| all.first()?.state.as_ref()?.running.as_ref());
    let started = running.and_then(|running| running.started_at.as_ref()).context("it does not run")?.0;
    Ok(started.duration_since(decided).as_secs_f64())
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_gray_release_pulls_ahead_and_restarts_in_place_find_the_image_there() -> Result<()> {
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let gates = "--feature-gates=ImagePullJobGate=true,PreDownloadImageForInPlaceUpdate=true";
    let _back = manager.with_arguments(&[gates]).await?;
    let slow = SlowRegistry::start(2 * MEBIBYTE).await?;
    let name = unique("gray");
    cluster(&["demo-image", "1", &name]).await?;
    cluster(&["demo-image", "2", &name, "16"]).await?;
    let (one, two) = (format!("{}/{name}:1", slow.name()), format!("{}/{name}:2", slow.name()));
    let gray = |partition: u32| {
        let rolling = json!({"partition": partition, "maxUnavailable": 1,
            "inPlaceUpdateStrategy": {"imagePreDownloadParallelism": 8}});
        json!({"spec": {"updateStrategy": {"rollingUpdate": rolling}}})
    };
    let (place, before) = Venue::Cluster.with(&merged(clone_set(4, &one), &gray(3))).await?;
    place.patch(&with_image(&two)).await?;
    let first = place
        .eventually("the first pod is updated", MINUTE, |now| now.running(&two) == 1 && now.available() == 4)
        .await?;
    let cold = first.pods().into_iter().find(|pod| pod.image() == two).map(restart_took);
    let cold = cold.context("nobody was updated")??;

    let jobs: Api<DynamicObject> =
        Api::namespaced_with(place.client(), place.namespace(), &kind("ImagePullJob", "imagepulljobs"));
    let status = seen("the images are pulled ahead", 2 * MINUTE, async || {
        let jobs = jobs.list(&ListParams::default()).await?.items;
        let status = jobs.first().and_then(|job| job.data.get("status")).cloned();
        Ok(status.filter(|status| status.get("completionTime").is_some()))
    })
    .await?;
    ensure!(status.get("failed") == Some(&json!(0)), "{status}");
    let sent = slow.sent();
    place.patch(&gray(0)).await?;
    let all =
        place.eventually("all are updated", MINUTE, |now| now.running(&two) == 4 && now.settled(4)).await?;
    place.check(&all, "the same pods", all.uids() == before.uids()).await?;
    let more = slow.sent() - sent;
    ensure!(more < MEBIBYTE, "{more} bytes were pulled for restarts that should find the image there");
    let first = first.pods().into_iter().find(|pod| pod.image() == two).map(|pod| pod.uid().to_owned());
    let later = all.pods().into_iter().filter(|pod| Some(pod.uid()) != first.as_deref());
    let warm = later.map(restart_took).collect::<Result<Vec<f64>>>()?;
    let slowest = warm.iter().copied().fold(0.0, f64::max);
    println!(
        "16 MB at 2 MiB/s: a restart in place took {cold:.0} s without its image, {slowest:.0} s at most with it: \
         {:.0} s saved a pod",
        cold - slowest
    );
    ensure!(slowest < cold, "nothing was saved: {warm:?} s instead of {cold} s");
    Ok(())
}

/// Base64, as Secrets and registries have it.
fn base64(text: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letter = |bits: u32| LETTERS.get(bits as usize & 63).copied().map_or('=', char::from);
    let encode = |bytes: &[u8]| {
        let at = |index: usize| u32::from(bytes.get(index).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let letters = [letter(bits >> 18), letter(bits >> 12), letter(bits >> 6), letter(bits)];
        let padding = 3 - bytes.len();
        letters.into_iter().take(4 - padding).chain(std::iter::repeat_n('=', padding)).collect::<String>()
    };
    text.as_bytes().chunks(3).map(encode).collect()
}

#[test]
fn base64_is_what_secrets_have() {
    for (text, encoded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
        assert_eq!(base64(text), encoded);
    }
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn what_pull_secrets_hold_shows_in_no_log_no_event_and_no_status() -> Result<()> {
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let _back = manager.with_arguments(&["--feature-gates=ImagePullJobGate=true"]).await?;
    cluster(&["private-registry"]).await?;
    let place = Venue::Cluster.place().await?;
    let images = NodeImages::of_first_node().await?;
    let (good, bad) = (unique("good"), unique("bad"));
    let wrong = unique("wrong");
    let secrets = Api::<Secret>::namespaced(place.client(), place.namespace());
    let jobs: Api<DynamicObject> =
        Api::namespaced_with(place.client(), place.namespace(), &kind("ImagePullJob", "imagepulljobs"));
    let mut hidden = vec![wrong.clone(), base64(&format!("kruise:{wrong}")), base64("kruise:secret")];
    for (name, password, count) in [(&good, "secret", "succeeded"), (&bad, wrong.as_str(), "failed")] {
        cluster(&["demo-image", "1", name]).await?;
        let config =
            json!({"auths": {"10.250.0.1:5001": {"username": "kruise", "password": password}}}).to_string();
        hidden.push(base64(&config));
        let secret = json!({"metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": config}});
        secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
        let job = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "ImagePullJob", "metadata": {"name": name},
            "spec": {"image": format!("10.250.0.1:5001/{name}:1"), "pullSecrets": [name],
                "selector": {"names": [images.node]}, "completionPolicy": {},
                "pullPolicy": {"backoffLimit": 1, "timeoutSeconds": 30}}});
        jobs.create(&PostParams::default(), &serde_json::from_value(job)?).await?;
        let status = seen(&format!("the job {name} completes"), MINUTE, async || {
            let status = jobs.get(name).await?.data.get("status").cloned();
            Ok(status.filter(|status| status.get("completionTime").is_some()))
        })
        .await?;
        ensure!(status.get(count) == Some(&json!(1)), "{name}: {status}");
    }

    let mut places = vec![
        ("node images".to_owned(), serde_json::to_string(&images.api.list(&ListParams::default()).await?)?),
        ("jobs".to_owned(), serde_json::to_string(&jobs.list(&ListParams::default()).await?)?),
    ];
    let failure = async || {
        let events = Api::<Event>::all(place.client()).list(&ListParams::default()).await?;
        let events = serde_json::to_string(&events)?;
        Ok(events.contains(&format!("10.250.0.1:5001/{bad}")).then_some(events))
    };
    places.push(("events".to_owned(), seen("the failure is told", SOON, failure).await?));
    let system = Api::<Pod>::namespaced(place.client(), SYSTEM);
    let logs = async || {
        let mut logs = Vec::new();
        for pod in agents(&place.client()).await?.iter().chain(&manager.pods().await?) {
            let log = system.logs(pod.name(), &LogParams::default()).await?;
            logs.push((format!("the log of {}", pod.name()), log));
        }
        let tells = |name: &str| logs.iter().any(|(_, log)| log.contains(name));
        Ok((tells(&good) && tells(&bad)).then_some(logs))
    };
    places.extend(seen("the logs tell of both pulls", SOON, logs).await?);
    for (what, text) in places {
        for word in &hidden {
            ensure!(!text.contains(word), "{what} shows {word}");
        }
    }
    // What is left goes with the jobs.
    for name in [&good, &bad] {
        jobs.delete(name, &DeleteParams::default()).await?;
    }
    let copies = Api::<Secret>::namespaced(place.client(), "kruise-daemon-config");
    seen("the copies are gone", SOON, async || {
        let copies = copies.list(&ListParams::default()).await?.items;
        let left = copies.iter().filter_map(|copy| copy.metadata.name.as_deref());
        let mut left = left.filter(|name| name.starts_with(&good) || name.starts_with(&bad));
        Ok(left.next().is_none().then_some(()))
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn with_the_policy_an_agent_may_write_about_its_own_node_only() -> Result<()> {
    let _turn = TURN.lock().await;
    let images = NodeImages::of_first_node().await?;
    // There may be one node only.
    let other = unique("other");
    let object = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "NodeImage",
        "metadata": {"name": other, "labels": {"apps.kruise.io/fake-nodeimage": ""}}, "spec": {}});
    images.api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/agent-policy.yaml");
    let kubectl = async |verb: &str| {
        let output = Command::new("kubectl").args([verb, "-f", policy]).output().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    kubectl("apply").await?;
    let agent = agent_of(&images).await?;
    let accounts = Api::<ServiceAccount>::namespaced(images.client.clone(), SYSTEM);
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": agent.name(), "uid": agent.uid()});
    let spec =
        TokenRequestSpec { bound_object_ref: serde_json::from_value(bound)?, ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let token = accounts.create_token_request("kruise-daemon", &PostParams::default(), &request).await?;
    let mut config = kube::Config::infer().await?;
    config.auth_info =
        serde_json::from_value(json!({"token": token.status.context("there is no token")?.token}))?;
    let as_agent: Api<DynamicObject> =
        Api::all_with(kube::Client::try_from(config)?, &kind("NodeImage", "nodeimages"));
    let try_only = PatchParams { dry_run: true, ..PatchParams::default() };
    let status = json!({"desired": 0, "succeeded": 0, "failed": 0, "pulling": 0, "waiting": 7});
    let status = Patch::Merge(json!({"status": status}));
    let result = async {
        seen("others are out of reach", SOON, async || {
            let error = as_agent.patch_status(&other, &try_only, &status).await.err();
            let refused = |error: &kube::Error| {
                matches!(error, kube::Error::Api(status) if status.code == 403
                    && status.message.contains(&format!("may not write about {other}")))
            };
            Ok(error.filter(refused))
        })
        .await?;
        as_agent.patch_status(&images.node, &try_only, &status).await?;
        // And the agents themselves go on.
        let image = format!("kruise.test/{}", unique("policy"));
        images.patch(&image, json!({"tags": [entry("1", 0, 0)]})).await?;
        let state = images.ended(&image).await?;
        ensure!(text(&state, "phase") == "Failed", "{state}");
        images.forget(&image).await
    }
    .await;
    kubectl("delete").await?;
    images.api.delete(&other, &DeleteParams::default()).await?;
    result
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn agents_write_under_their_own_name() -> Result<()> {
    let _turn = TURN.lock().await;
    let images = NodeImages::of_first_node().await?;
    let image = format!("kruise.test/{}", unique("missing"));
    images.ask(&image, "1", 0).await?;
    images.ended(&image).await?;
    let object = images.api.get(&images.node).await?;
    let managers = object.metadata.managed_fields.unwrap_or_default();
    let of_status = managers.iter().filter(|entry| entry.subresource.as_deref() == Some("status"));
    let names: Vec<_> = of_status.filter_map(|entry| entry.manager.as_deref()).collect();
    ensure!(names.contains(&"kruise-daemon"), "the status was written by {names:?}");
    // What its requests call themselves is also what it counts them by.
    let agent = agent_of(&images).await?;
    let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{}:10221/proxy", agent.name());
    let request = Request::new(path).get("metrics", &GetParams::default())?;
    let metrics = images.client.request_text(request).await?;
    for (part, verb, resource) in [
        ("kruise-daemon-imagepuller", "patch", "nodeimages/status"),
        ("kruise-daemon-crr", "watch", "containerrecreaterequests"),
    ] {
        let series = format!(
            "kruise_api_requests_total{{controller=\"{part}\",resource=\"{resource}\",verb=\"{verb}\"}}"
        );
        ensure!(metrics.contains(&series), "{series} is not among its metrics");
    }
    images.forget(&image).await
}
