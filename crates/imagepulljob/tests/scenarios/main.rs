//! Image pulling on the sandbox: a whole manager, simulated nodes, and agents that answer for them.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests take literals, and end a test where they cannot go on"
)]

mod support;

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kruise_api::cloneset::v1beta1::CloneSet;
use kruise_api::imagelistpulljob::ImageListPullJob;
use kruise_api::imagepulljob::ImagePullJob;
use kruise_api::nodeimage::NodeImage;
use kruise_playground::MANAGER;
use kruise_sandbox::server::Verb;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use support::{Answer, CONFIG, SHOP, World, job};

#[tokio::test(start_paused = true)]
async fn a_node_gets_its_object_after_half_a_minute_and_takes_it_along() {
    let world = World::new(0, &[]).await;
    let nodes = Api::<Node>::all(world.client.clone());
    for (name, kind) in [("real", "x"), ("virtual", "virtual-kubelet")] {
        let now = (world.clock)().to_string();
        let node =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"type": kind}}})).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "x",
            "message": "", "lastHeartbeatTime": now, "lastTransitionTime": now}]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(ready)).await.unwrap();
    }
    world.pass(25).await;
    assert!(world.nodes().await.is_empty(), "not before");
    world.pass(7).await;
    let found = world.nodes().await;
    assert_eq!(found.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["real"]);
    assert_eq!(found[0].labels()["type"], "x");

    let labels = json!({"metadata": {"labels": {"more": "y"}}});
    nodes.patch("real", &PatchParams::default(), &Patch::Merge(labels)).await.unwrap();
    world.until("labels follow", 5, async || world.nodes().await[0].labels().get("more").is_some()).await;
    nodes.delete("real", &DeleteParams::default()).await.unwrap();
    world.until("it goes with its node", 5, async || world.nodes().await.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_asks_no_more_nodes_at_once_than_it_may_and_reaches_all() {
    let world = World::quick(5).await;
    let made = world.job("j", json!({"image": "docker.io/library/nginx:1", "parallelism": 2})).await;
    assert_eq!(made.spec.template.pull_policy.unwrap().timeout_seconds, Some(600), "defaults are filled in");
    let status = world.completed("j").await.status.unwrap();
    assert_eq!((status.desired, status.succeeded, status.failed, status.active), (5, 5, 0, 0));
    assert_eq!(status.message.as_deref(), Some("job has completed"));
    let seen = world.seen.lock().unwrap();
    assert_eq!((seen.pulls.len(), seen.most), (5, 2));
    assert!(
        seen.pulls
            .iter()
            .all(|(_, image, tag, version)| (image.as_str(), tag.as_str(), *version) == ("nginx", "1", 0))
    );
}

#[tokio::test(start_paused = true)]
async fn a_paused_job_asks_nobody_until_it_is_let_go() {
    let world = World::quick(3).await;
    world.job("j", json!({"image": "nginx:1", "parallelism": 0})).await;
    world.pass(30).await;
    assert!(world.nodes_with("nginx").await.is_empty());
    world.change::<ImagePullJob>("j", json!({"spec": {"parallelism": 3}})).await;
    assert_eq!(world.completed("j").await.status.unwrap().succeeded, 3);
    assert_eq!(world.seen.lock().unwrap().most, 3);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_selects_nothing_is_done_at_once() {
    let world = World::quick(1).await;
    world.job("j", json!({"image": "nginx:1", "selector": {"names": []}})).await;
    let status = world.completed("j").await.status.unwrap();
    assert_eq!((status.desired, status.message.as_deref()), (0, Some("job has completed")));
}

#[tokio::test(start_paused = true)]
async fn nodes_are_chosen_by_name_by_label_and_by_the_pods_they_run() {
    let world = World::quick(4).await;
    let named: BTreeSet<String> = ["node-1", "node-3"].map(String::from).into();
    world
        .job(
            "names",
            json!({"image": "a:1", "parallelism": 9, "selector": {"names": ["node-1", "node-3", "none"]}}),
        )
        .await;
    world.completed("names").await;
    assert_eq!(world.nodes_with("a").await, named);
    world
        .job("labels", json!({"image": "b:1", "parallelism": 9, "selector": {"matchLabels": {"pool": "b"}}}))
        .await;
    world.completed("labels").await;
    assert!(world.nodes_with("b").await.is_empty());

    let pod = |name: &str, node: &str, app: &str| {
        json!({"metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "c"}]}})
    };
    for (name, node, app) in [("w1", "node-0", "web"), ("w2", "node-2", "web"), ("d", "node-3", "db")] {
        world.create::<Pod>(SHOP, pod(name, node, app)).await;
    }
    world.create::<Pod>("default", pod("other", "node-1", "web")).await;
    let never = json!({"image": "c:1", "parallelism": 9, "completionPolicy": {"type": "Never"},
        "podSelector": {"matchLabels": {"app": "web"}}});
    world.job("pods", never).await;
    let ran: BTreeSet<String> = ["node-0", "node-2"].map(String::from).into();
    world.until("its pods' nodes are asked", 10, async || world.nodes_with("c").await == ran).await;
    world.create::<Pod>(SHOP, pod("w3", "node-3", "web")).await;
    world
        .until("and the node of a new pod", 10, async || world.nodes_with("c").await.contains("node-3"))
        .await;
    let status = world.job_now("pods").await.unwrap().status.unwrap();
    assert_eq!((status.completion_time, world.nodes_with("c").await.len()), (None, 3));
}

#[tokio::test(start_paused = true)]
async fn jobs_share_an_entry_which_goes_with_the_last_of_them_even_across_a_restart() {
    let mut world = World::quick(2).await;
    for name in ["one", "two"] {
        world.job(name, json!({"image": "nginx:1", "parallelism": 2})).await;
        world.completed(name).await;
    }
    let tag = world.nodes().await[0].spec.images.clone().unwrap()["nginx"].tags[0].clone();
    assert_eq!((tag.version, tag.owner_references.unwrap().len()), (1, 2));
    assert_eq!(world.seen.lock().unwrap().pulls.len(), 4, "both have pulled");

    world.delete::<ImagePullJob>("one").await;
    let owners = async |of: &World| {
        let images = of.nodes().await[0].spec.images.clone().unwrap_or_default();
        images.get("nginx").map_or(0, |image| image.tags[0].owner_references.as_ref().unwrap().len())
    };
    world.until("one owner is left", 10, async || owners(&world).await == 1).await;
    world.playground.restart_manager().unwrap();
    world.playground.admission().unwrap().answers().await;
    world.delete::<ImagePullJob>("two").await;
    world.until("nothing is left", 20, async || world.nodes_with("nginx").await.is_empty()).await;
    assert!(
        world.nodes().await.iter().all(|node| node.status.as_ref().unwrap().desired == 0),
        "nor in the status"
    );
}

#[tokio::test(start_paused = true)]
async fn nodes_that_fail_are_named_and_a_finished_job_goes_after_its_time() {
    let world = World::quick(3).await;
    world.agents(|node, _| if node == "node-1" { Answer::Fail } else { Answer::Succeed });
    let policy = json!({"type": "Always", "ttlSecondsAfterFinished": 30});
    world.job("j", json!({"image": "nginx:1", "parallelism": "3", "completionPolicy": policy})).await;
    let done = world.completed("j").await;
    let status = done.status.clone().unwrap();
    assert_eq!(
        (status.succeeded, status.failed, status.failed_nodes),
        (2, 1, Some(vec!["node-1".to_owned()]))
    );
    let tags = world.nodes().await[0].spec.images.clone().unwrap()["nginx"].tags.clone();
    let ttl = tags[0].pull_policy.as_ref().unwrap().ttl_seconds_after_finished.unwrap();
    assert!((330..630).contains(&ttl), "{ttl}");
    world.pass(20).await;
    assert!(world.job_now("j").await.is_some_and(|job| job.finalizers().is_empty()));
    world.until("it is gone", 15, async || world.job_now("j").await.is_none()).await;
    world.until("and its entries", 15, async || world.nodes_with("nginx").await.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn time_over_is_a_failure_of_all_that_are_not_done() {
    let world = World::quick(3).await;
    world.agents(|node, _| if node == "node-0" { Answer::Succeed } else { Answer::Hang });
    let policy = json!({"type": "Always", "activeDeadlineSeconds": 60});
    let spec = json!({"image": "nginx:1", "completionPolicy": policy, "pullPolicy": {"timeoutSeconds": 30}});
    world.job("j", spec).await;
    let status = world.completed("j").await.status.unwrap();
    assert_eq!((status.active, status.succeeded, status.failed), (0, 1, 2));
    assert_eq!(status.message.as_deref(), Some("job exceeds activeDeadlineSeconds"));
    assert_eq!(status.failed_nodes, Some(vec!["node-1".to_owned(), "node-2".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_nothing_is_given_up_and_told_of() {
    let world = World::quick(1).await;
    world.agents(|_, _| Answer::Ignore);
    world.job("j", json!({"image": "nginx:1"})).await;
    world.pass(590).await;
    assert_eq!(world.job_now("j").await.unwrap().status.unwrap().active, 1);
    let status = world.completed("j").await.status.unwrap();
    assert_eq!((status.failed, status.failed_nodes), (1, Some(vec!["node-0".to_owned()])));
    let message = "Failed to pull image nginx:1 on node node-0 for node has not responded for a long time";
    for namespace in [SHOP, "default"] {
        let told = world
            .some("it is told", 5, async || world.events(namespace, "PullImageFailed").await.pop())
            .await;
        assert_eq!(told.message.as_deref(), Some(message));
    }
}

#[tokio::test(start_paused = true)]
async fn secrets_are_copied_once_kept_up_to_date_and_taken_away_with_their_last_job() {
    let world = World::quick(2).await;
    let secret = json!({"metadata": {"name": "login", "labels": {"owner": "gitops"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "secret"}},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{\"auths\":{}}"}});
    world.create::<Secret>(SHOP, secret).await;
    world.agents(|_, _| Answer::Hang);
    for name in ["one", "two"] {
        world
            .job(name, json!({"image": format!("{name}:1"), "parallelism": 2, "pullSecrets": ["login"]}))
            .await;
    }
    let copies = Api::<Secret>::namespaced(world.client.clone(), CONFIG);
    let copies = async || copies.list(&ListParams::default()).await.unwrap().items;
    let both = |copy: &Secret| {
        copy.annotations()
            .get("imagepulljobs.kruise.io/references")
            .is_some_and(|jobs| jobs == "shop/one,shop/two")
    };
    world.until("both jobs are named", 10, async || copies().await.first().is_some_and(both)).await;
    let found = copies().await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].annotations()["imagepulljobs.kruise.io/mode"], "batch");
    assert_eq!(found[0].annotations()["imagepulljobs.kruise.io/source-key"], "shop/login");
    assert!(found[0].labels().is_empty() && found[0].annotations().values().all(|value| value != "secret"));
    let told = async || {
        let images = world.nodes().await[0].spec.images.clone().unwrap_or_default();
        images.get("two").and_then(|image| image.pull_secrets.clone()).unwrap_or_default()
    };
    world.until("nodes are told", 10, async || !told().await.is_empty()).await;
    let reference = told().await.remove(0);
    assert_eq!((reference.namespace.as_deref(), reference.name), (Some(CONFIG), Some(found[0].name_any())));
    assert_eq!(reference.mode.as_deref(), Some("batch"));

    world
        .change::<Secret>("login", json!({"stringData": {".dockerconfigjson": "{\"auths\":{\"r\":{}}}"}}))
        .await;
    let source = world.api::<Secret>().get("login").await.unwrap().data;
    world.until("new data is copied", 10, async || copies().await[0].data == source).await;

    world.delete::<ImagePullJob>("one").await;
    let named = |copy: &Secret| copy.annotations()["imagepulljobs.kruise.io/references"] == "shop/two";
    world.until("one job is left", 10, async || named(&copies().await[0])).await;
    world.delete::<ImagePullJob>("two").await;
    world.until("the copy is gone", 10, async || copies().await.is_empty()).await;
    world.until("and both jobs", 10, async || world.job_now("two").await.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_whose_type_changes_is_copied_anew_and_one_that_appears_later_reaches_running_pulls() {
    let world = World::quick(1).await;
    world.agents(|_, _| Answer::Hang);
    world.job("j", json!({"image": "x:1", "pullSecrets": ["login"]})).await;
    world.until("it is pulled without", 10, async || !world.nodes_with("x").await.is_empty()).await;
    let copies = Api::<Secret>::namespaced(world.client.clone(), CONFIG);
    let copy = async |kind: &str| {
        world
            .some("the copy is there", 15, async || {
                let found = copies.list(&ListParams::default()).await.unwrap().items;
                found.into_iter().find(|copy| copy.type_.as_deref() == Some(kind))
            })
            .await
    };
    let secret = |kind: &str, key: &str| json!({"metadata": {"name": "login"}, "type": kind, "stringData": {key: "{}"}});
    world.create::<Secret>(SHOP, secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson")).await;
    let first = copy("kubernetes.io/dockerconfigjson").await;
    let has_secret = async || {
        let images = world.nodes().await[0].spec.images.clone().unwrap_or_default();
        images["x"].pull_secrets.is_some() && images["x"].tags[0].version == 0
    };
    world.until("the node is told", 10, has_secret).await;
    world.delete::<Secret>("login").await;
    world.create::<Secret>(SHOP, secret("kubernetes.io/dockercfg", ".dockercfg")).await;
    let second = copy("kubernetes.io/dockercfg").await;
    assert_eq!(first.name_any(), second.name_any());
}

#[tokio::test(start_paused = true)]
async fn a_list_has_a_job_for_each_image_and_none_is_made_again() {
    let world = World::quick(2).await;
    world.agents(|_, image| match image {
        "slow" => Answer::Hang,
        "bad" => Answer::Fail,
        _ => Answer::Succeed,
    });
    let policy = json!({"type": "Always", "ttlSecondsAfterFinished": 20});
    let spec = json!({"images": ["good:1", "bad:1", "slow:1"], "parallelism": 2, "completionPolicy": policy});
    world.list("l", spec).await;
    let api = world.api::<ImageListPullJob>();
    let children = async || world.api::<ImagePullJob>().list(&ListParams::default()).await.unwrap().items;
    let list = || async { api.get_opt("l").await.unwrap() };
    let completed =
        async || list().await.and_then(|list| list.status).is_some_and(|status| status.completed == 2);
    world.until("two are completed", 30, completed).await;
    let uids = async || children().await.into_iter().map(|job| job.uid().unwrap()).collect::<BTreeSet<_>>();
    let before = uids().await;
    world.pass(120).await;
    assert_eq!((before.len(), uids().await), (3, before), "none was deleted and made again");
    let status = list().await.unwrap().status.unwrap();
    assert_eq!((status.desired, status.active, status.completed, status.succeeded), (3, 1, 2, 1));
    let failed = status.failed_image_statuses.unwrap();
    assert_eq!((failed.len(), failed[0].name.as_deref()), (1, Some("bad:1")));
    let version = list().await.unwrap().resource_version();
    world.pass(60).await;
    assert_eq!(list().await.unwrap().resource_version(), version, "nothing changes, nothing is written");
    assert_eq!(world.events(SHOP, "Successful create ImagePullJob").await.len(), 1);

    world.change::<ImageListPullJob>("l", json!({"spec": {"images": ["good:1", "bad:1"]}})).await;
    world.until("the third is gone", 20, async || children().await.len() == 2).await;
    world.until("the list is gone after its time", 60, async || list().await.is_none()).await;
    world.until("with its jobs", 60, async || children().await.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_whose_jobs_are_refused_says_so_in_an_event() {
    let world = World::quick(1).await;
    let policy = json!({"type": "Always", "activeDeadlineSeconds": 300});
    world.list("l", json!({"images": ["good:1"], "completionPolicy": policy})).await;
    let event = world
        .some("it is told", 10, async || world.events(SHOP, "FailedCreateImagePullJob").await.pop())
        .await;
    assert!(event.message.unwrap().contains("completionPolicy.activeDeadlineSeconds must be greater"));
}

#[tokio::test(start_paused = true)]
async fn without_the_gate_nodes_have_objects_but_jobs_are_refused() {
    let world = World::new(1, &["--nodeimage-creation-delay=0s"]).await;
    let jobs = world.api::<ImagePullJob>();
    let object = serde_json::from_value(job("j", json!({"image": "nginx:1"}))).unwrap();
    let kube::Error::Api(status) = jobs.create(&PostParams::default(), &object).await.unwrap_err() else {
        panic!()
    };
    assert!(status.message.contains("feature-gate ImagePullJobGate is not enabled"), "{}", status.message);
    assert_eq!(status.code, 403);
}

/// Requests of the manager since the counters were set back, by verb and resource.
fn asked(world: &World, verb: Verb, resource: &str) -> u64 {
    let requests = world.playground.server().requests();
    requests
        .iter()
        .filter(|((client, asked, what), _)| client == MANAGER && *asked == verb && what == resource)
        .map(|(_, count)| count)
        .sum()
}

#[tokio::test(start_paused = true)]
async fn a_thousand_nodes_cost_one_write_each() {
    let nodes = 1000;
    let world = World::quick(nodes).await;
    world.pass(60).await;
    world.playground.server().reset_requests();
    world.job("j", json!({"image": "nginx:1", "parallelism": 50})).await;
    assert_eq!(world.completed("j").await.status.unwrap().succeeded, 1000);
    world.pass(30).await;
    assert_eq!(world.seen.lock().unwrap().most, 50);
    let pushes = asked(&world, Verb::Patch, "nodeimages.apps.kruise.io");
    assert_eq!(pushes, 1000, "one for each node");
    let others = world.manager_writes() - pushes;
    assert!(others < 150, "finalizers, and one status a second: {others}");
    let requests = world.playground.server().requests();
    let lists = requests
        .iter()
        .filter(|((client, verb, _), _)| client == MANAGER && matches!(verb, Verb::List | Verb::Get));
    assert_eq!(lists.collect::<Vec<_>>(), [], "nothing is asked for");
}

/// Writes of the manager for ten images on so many nodes, but for those of jobs and their list; whether it asked for
/// anything; and the wall clock's seconds.
async fn ten_images_on(nodes: u32) -> (u64, u64, f64) {
    let images: Vec<String> = (0..10).map(|image| format!("image-{image}:1")).collect();
    let world = World::quick(nodes).await;
    world.pass(60).await;
    world.playground.server().reset_requests();
    let began = std::time::Instant::now();
    world.list("l", json!({"images": images, "parallelism": 50, "completionPolicy": {}})).await;
    let api = world.api::<ImageListPullJob>();
    let done = async || {
        let list = api.get("l").await.unwrap().status;
        list.is_some_and(|list| list.completion_time.is_some() && list.succeeded == 10)
    };
    world.until("all have all images", 3600, done).await;
    let seconds = began.elapsed().as_secs_f64();
    world.pass(30).await;
    let pushes = asked(&world, Verb::Patch, "nodeimages.apps.kruise.io");
    let asked = asked(&world, Verb::Get, "nodeimages.apps.kruise.io")
        + asked(&world, Verb::List, "nodeimages.apps.kruise.io");
    let others = world.manager_writes() - pushes;
    eprintln!("{nodes} nodes, 10 images: {pushes} pushes, {others} other writes, {seconds:.1} s");
    (pushes, asked, seconds)
}

#[tokio::test(start_paused = true)]
async fn ten_images_cost_the_manager_ten_writes_a_node_however_many_nodes_there_are() {
    for nodes in [20, 100] {
        let (pushes, asked, _) = ten_images_on(nodes).await;
        let exactly = u64::from(nodes) * 10;
        assert!(
            (exactly..=exactly + exactly / 10).contains(&pushes),
            "but for conflicts: {pushes} on {nodes}"
        );
        assert_eq!(asked, 0, "nothing is asked for");
    }
}

#[tokio::test(start_paused = true)]
#[ignore = "takes 40 s"]
async fn ten_images_on_a_thousand_nodes_cost_the_manager_ten_writes_a_node() {
    let (pushes, asked, _) = ten_images_on(1000).await;
    assert_eq!(pushes, 10_000);
    assert_eq!(asked, 0, "nothing is asked for");
}

#[tokio::test(start_paused = true)]
async fn a_rollout_in_place_pulls_its_image_ahead_on_the_nodes_of_old_pods_and_tidies_up() {
    let flags = ["--feature-gates=PreDownloadImageForInPlaceUpdate=true", "--nodeimage-creation-delay=0s"];
    let world = World::new(6, &flags).await;
    let template = |image: &str| {
        json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": image}]}})
    };
    let set = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "metadata": {"name": "web"},
        "spec": {"replicas": 5, "selector": {"matchLabels": {"app": "web"}}, "template": template("nginx:1"),
            "updateStrategy": {"rollingUpdate": {"podUpdatePolicy": "InPlaceIfPossible", "partition": 4,
                "inPlaceUpdateStrategy": {"imagePreDownloadParallelism": 3}}}}});
    world.create::<CloneSet>(SHOP, set).await;
    let status = async || world.api::<CloneSet>().get("web").await.unwrap().status.unwrap_or_default();
    world.until("the set is ready", 60, async || status().await.available_replicas == 5).await;
    world.change::<CloneSet>("web", json!({"spec": {"template": template("nginx:2")}})).await;

    let jobs = async || world.api::<ImagePullJob>().list(&ListParams::default()).await.unwrap().items;
    let found = world.some("a job is made", 10, async || jobs().await.pop()).await;
    assert_eq!(found.spec.image, "nginx:2");
    assert_eq!(
        found.spec.template.parallelism,
        Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(3))
    );
    let revisions = world.api::<ControllerRevision>().list(&ListParams::default()).await.unwrap().items;
    assert!(revisions.iter().any(|revision| format!("{}-main", revision.name_any()) == found.name_any()));
    let done = world.completed(&found.name_any()).await.status.unwrap();
    let pods = world.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    let old: BTreeSet<String> = pods
        .iter()
        .filter(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("nginx:1"))
        .filter_map(|pod| pod.spec.as_ref()?.node_name.clone())
        .collect();
    let pulled: BTreeSet<String> = world.nodes_with("nginx").await;
    assert!(old.is_subset(&pulled), "{old:?} {pulled:?}");
    assert_eq!(done.failed, 0);
    assert!(world.seen.lock().unwrap().most <= 3);

    world
        .change::<CloneSet>("web", json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}))
        .await;
    world.until("all are updated", 120, async || status().await.updated_available_replicas == Some(5)).await;
    world.until("the jobs are gone", 20, async || jobs().await.is_empty()).await;
    world.until("and their entries", 20, async || world.nodes_with("nginx").await.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn an_object_kept_on_purpose_needs_no_node() {
    let world = World::quick(1).await;
    let images = Api::<NodeImage>::all(world.client.clone());
    for (name, labels) in [("fake", json!({"apps.kruise.io/fake-nodeimage": ""})), ("stray", json!({}))] {
        let object = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "NodeImage",
            "metadata": {"name": name, "labels": labels}, "spec": {}});
        images.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }
    world.until("the stray goes", 10, async || images.get_opt("stray").await.unwrap().is_none()).await;
    world.pass(60).await;
    assert!(images.get_opt("fake").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn jobs_of_a_rollout_ask_the_nodes_first_whose_pods_are_updated_first() {
    let flags = ["--feature-gates=PreDownloadImageForInPlaceUpdate=true", "--nodeimage-creation-delay=0s"];
    let world = World::new(6, &flags).await;
    let template = |image: &str| {
        json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": image}]}})
    };
    let first =
        json!({"weightPriority": [{"weight": 50, "matchSelector": {"matchLabels": {"first": "yes"}}}]});
    let set = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "metadata": {"name": "web"},
        "spec": {"replicas": 6, "selector": {"matchLabels": {"app": "web"}}, "template": template("nginx:1"),
            "updateStrategy": {"rollingUpdate": {"podUpdatePolicy": "InPlaceIfPossible", "partition": 6,
                "priorityStrategy": first}}}});
    world.create::<CloneSet>(SHOP, set).await;
    let status = async || world.api::<CloneSet>().get("web").await.unwrap().status.unwrap_or_default();
    world.until("the set is ready", 60, async || status().await.available_replicas == 6).await;
    // The pod on the last node, by name, shall be the first.
    let pods = world.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    let node = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.clone().unwrap();
    let last = pods.iter().max_by_key(|pod| node(pod)).unwrap();
    world.change::<Pod>(&last.name_any(), json!({"metadata": {"labels": {"first": "yes"}}})).await;
    world.change::<CloneSet>("web", json!({"spec": {"template": template("nginx:2")}})).await;
    let jobs = async || world.api::<ImagePullJob>().list(&ListParams::default()).await.unwrap().items;
    let job = world.some("a job is made", 10, async || jobs().await.pop()).await;
    world.completed(&job.name_any()).await;
    let pulls: Vec<String> = world.seen.lock().unwrap().pulls.iter().map(|pull| pull.0.clone()).collect();
    let nodes: BTreeSet<String> = pods.iter().map(node).collect();
    assert_eq!(pulls.iter().cloned().collect::<BTreeSet<_>>(), nodes);
    assert_eq!(pulls.first(), nodes.last(), "one after the other, and not by name: {pulls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_registry_is_asked_by_no_more_nodes_at_once_than_it_bears_whatever_the_jobs_say() {
    let flags = [
        "--feature-gates=ImagePullJobGate=true",
        "--nodeimage-creation-delay=0s",
        "--max-pulls-per-registry=3",
    ];
    let world = World::new(6, &flags).await;
    for (name, image) in [("a", "quay.io/x/a:1"), ("b", "quay.io/x/b:1")] {
        world.job(name, json!({"image": image, "parallelism": 6})).await;
    }
    for name in ["a", "b"] {
        assert_eq!(world.completed(name).await.status.unwrap().succeeded, 6);
    }
    assert_eq!(world.seen.lock().unwrap().most, 3);
    world.job("c", json!({"image": "quay.io/x/c:1", "parallelism": 6})).await;
    world.job("d", json!({"image": "ghcr.io/x/d:1", "parallelism": 6})).await;
    for name in ["c", "d"] {
        assert_eq!(world.completed(name).await.status.unwrap().succeeded, 6);
    }
    assert_eq!(world.seen.lock().unwrap().most, 6, "each registry has its own");
}

#[tokio::test(start_paused = true)]
async fn a_manager_of_one_namespace_copies_secrets_once_and_takes_the_copies_away() {
    let flags =
        ["--feature-gates=ImagePullJobGate=true", "--nodeimage-creation-delay=0s", "--namespace=shop"];
    let world = World::new(2, &flags).await;
    let secret = json!({"metadata": {"name": "login"}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": "{\"auths\":{}}"}});
    world.create::<Secret>(SHOP, secret).await;
    world.agents(|_, _| Answer::Hang);
    world.job("j", json!({"image": "x:1", "parallelism": 2, "pullSecrets": ["login"]})).await;
    let told = async || {
        let nodes = world.nodes().await;
        nodes.iter().all(|node| {
            let image = node.spec.images.as_ref().and_then(|images| images.get("x"));
            image.is_some_and(|image| image.pull_secrets.is_some())
        })
    };
    world.until("nodes are told", 10, told).await;
    let copies = Api::<Secret>::namespaced(world.client.clone(), CONFIG);
    let copies = async || copies.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(copies().await.len(), 1);
    world.pass(10).await;
    let writes = world.manager_writes();
    world.pass(300).await;
    assert_eq!(world.manager_writes(), writes, "nothing changes, nothing is written");
    world.delete::<ImagePullJob>("j").await;
    world.until("the copy is gone", 10, async || copies().await.is_empty()).await;
    world.until("and the job", 10, async || world.job_now("j").await.is_none()).await;
}
