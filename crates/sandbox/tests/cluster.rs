//! Simulated nodes and controllers on the embedded server: workloads come up, change and go as on a real cluster.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kruise_sandbox::clock::{WallClock, simulated};
use kruise_sandbox::controllers::{self, Controller, gc};
use kruise_sandbox::nodes::{Nodes, Settings};
use kruise_sandbox::server::{Config, Server};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// A server with nodes and controllers, running.
struct Cluster {
    client: Client,
    nodes: Nodes,
    _tasks: JoinSet<()>,
}

fn clock() -> WallClock {
    simulated("2026-01-01T00:00:00Z".parse().unwrap())
}

impl Cluster {
    async fn new(change: impl FnOnce(&mut Settings)) -> Self {
        // Shown with the output of a failed test.
        let _ = tracing_subscriber::fmt().with_env_filter("warn").with_test_writer().try_init();
        let clock = clock();
        let server = Server::new(Config { clock: clock.clone(), ..Config::default() });
        let client = server.client();
        let mut settings = Settings::new(3, clock.clone());
        change(&mut settings);
        let nodes = Nodes::new(client.clone(), settings);
        let mut tasks = JoinSet::new();
        let running = nodes.clone();
        tasks.spawn(async move { running.run(std::future::pending()).await });
        tasks.spawn(controllers::run(client.clone(), clock, std::future::pending()));
        let namespaces: Api<Namespace> = Api::all(client.clone());
        if namespaces.get_opt("default").await.unwrap().is_none() {
            create(&namespaces, json!({"metadata": {"name": "default"}})).await;
        }
        Self { client, nodes, _tasks: tasks }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }
}

async fn create<K>(api: &Api<K>, body: Value) -> K
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    api.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap()
}

/// Waits until the objects are as told, for at most ten simulated minutes.
async fn until<K>(api: &Api<K>, what: &str, holds: impl Fn(&[K]) -> bool) -> Vec<K>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    for _ in 0..6000 {
        let items = api.list(&ListParams::default()).await.unwrap().items;
        if holds(&items) {
            return items;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let items = api.list(&ListParams::default()).await.unwrap().items;
    let items = serde_json::to_string(&items).unwrap();
    panic!("never: {what}: {items}");
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "app:1"}]}})
}

fn deployment(image: &str, replicas: i32) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
        },
    })
}

#[tokio::test(start_paused = true)]
async fn pods_are_scheduled_over_the_nodes_and_become_ready() {
    let cluster = Cluster::new(|_| ()).await;
    let pods = cluster.api::<Pod>();
    for number in 0..3 {
        create(&pods, pod(&format!("p{number}"))).await;
    }
    let pods =
        until(&pods, "three ready pods", |pods| pods.iter().filter(|pod| ready(pod)).count() == 3).await;
    let mut nodes: Vec<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    nodes.sort();
    assert_eq!(nodes, cluster.nodes.names());
}

#[tokio::test(start_paused = true)]
async fn a_crashed_container_restarts_and_a_deleted_pod_goes() {
    let cluster = Cluster::new(|settings| settings.timings.stop = Duration::from_secs(5)).await;
    let pods = cluster.api::<Pod>();
    create(&pods, pod("p")).await;
    until(&pods, "a ready pod", |pods| pods.iter().any(ready)).await;
    cluster.nodes.crash("default", "p", "main", 7);
    let restarted = |pod: &Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        statuses.is_some_and(|statuses| statuses[0].restart_count == 1)
    };
    until(&pods, "a restart", |pods| pods.iter().any(restarted)).await;
    cluster.nodes.set_ready("default", "p", "main", Some(false));
    until(&pods, "an unready pod", |pods| !pods.iter().any(ready)).await;
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    assert!(
        pods.get("p").await.unwrap().metadata.deletion_timestamp.is_some(),
        "it stops for five seconds first"
    );
    until(&pods, "no pod", <[Pod]>::is_empty).await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_rolls_out_and_back_and_takes_its_pods_along() {
    let cluster = Cluster::new(|settings| settings.timings.ready = Duration::from_secs(1)).await;
    let deployments = cluster.api::<Deployment>();
    let done = |revision: &'static str| {
        move |items: &[Deployment]| {
            items.iter().any(|item| {
                let status = item.status.clone().unwrap_or_default();
                let annotations = item.metadata.annotations.clone().unwrap_or_default();
                annotations.get("deployment.kubernetes.io/revision").is_some_and(|known| known == revision)
                    && status.updated_replicas == Some(4)
                    && status.available_replicas == Some(4)
                    && status.replicas == Some(4)
                    && status.observed_generation == item.metadata.generation
            })
        }
    };
    create(&deployments, deployment("app:1", 4)).await;
    until(&deployments, "the first rollout", done("1")).await;
    for (image, revision) in [("app:2", "2"), ("app:1", "3")] {
        let patch =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}});
        deployments.patch("web", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
        until(&deployments, revision, done(revision)).await;
    }
    let sets = cluster.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(sets.len(), 2, "rolling back takes up the old ReplicaSet again");
    deployments.delete("web", &DeleteParams::background()).await.unwrap();
    until(&cluster.api::<ReplicaSet>(), "no ReplicaSets", <[ReplicaSet]>::is_empty).await;
    until(&cluster.api::<Pod>(), "no pods", <[Pod]>::is_empty).await;
}

#[tokio::test(start_paused = true)]
async fn garbage_is_collected_in_the_background_in_the_foreground_or_not_at_all() {
    let cluster = Cluster::new(|_| ()).await;
    let maps = cluster.api::<ConfigMap>();
    let owned = |owner: &ConfigMap, name: &str, finalizers: &[&str]| {
        json!({"metadata": {"name": name, "finalizers": finalizers, "ownerReferences": [{
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": owner.metadata.name,
            "uid": owner.metadata.uid,
            "blockOwnerDeletion": true,
        }]}})
    };
    let named = |items: &[ConfigMap], name: &str| {
        items.iter().any(|item| item.metadata.name.as_deref() == Some(name))
    };

    let owner = create(&maps, json!({"metadata": {"name": "background"}})).await;
    create(&maps, owned(&owner, "background-child", &[])).await;
    maps.delete("background", &DeleteParams::background()).await.unwrap();
    until(&maps, "no child", |items| !named(items, "background-child")).await;

    let owner = create(&maps, json!({"metadata": {"name": "foreground"}})).await;
    create(&maps, owned(&owner, "foreground-child", &["example.com/hold"])).await;
    maps.delete("foreground", &DeleteParams::foreground()).await.unwrap();
    let going = |item: &ConfigMap| item.metadata.deletion_timestamp.is_some();
    until(&maps, "a child on its way", |items| items.iter().filter(|item| going(item)).count() == 2).await;
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("foreground-child", &PatchParams::default(), &release).await.unwrap();
    until(&maps, "neither owner nor child", |items| !items.iter().any(going)).await;

    let owner = create(&maps, json!({"metadata": {"name": "orphan"}})).await;
    create(&maps, owned(&owner, "orphan-child", &[])).await;
    maps.delete("orphan", &DeleteParams::orphan()).await.unwrap();
    let items = until(&maps, "no owner", |items| !named(items, "orphan")).await;
    let child = items.iter().find(|item| item.metadata.name.as_deref() == Some("orphan-child")).unwrap();
    assert_eq!(child.metadata.owner_references, None);

    create(&maps, owned(&owner, "late-child", &[])).await;
    until(&maps, "no child of an owner that is gone", |items| !named(items, "late-child")).await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_namespace_takes_everything_along() {
    let cluster = Cluster::new(|_| ()).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    create(&namespaces, json!({"metadata": {"name": "team"}})).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "team");
    until(&accounts, "a default account", |accounts| accounts.len() == 1).await;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "team");
    create(&pods, pod("p")).await;
    until(&pods, "a ready pod", |pods| pods.iter().any(ready)).await;
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    until(&namespaces, "no namespace", |items| {
        items.iter().all(|item| item.metadata.name.as_deref() != Some("team"))
    })
    .await;
    assert!(pods.list(&ListParams::default()).await.unwrap().items.is_empty());
    assert!(accounts.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test(start_paused = true)]
async fn claims_are_bound() {
    let cluster = Cluster::new(|_| ()).await;
    let claims = cluster.api::<PersistentVolumeClaim>();
    let body = json!({
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    create(&claims, body).await;
    let bound = |claim: &PersistentVolumeClaim| {
        claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"))
    };
    until(&claims, "a bound claim", |claims| claims.iter().any(bound)).await;
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    until(&claims, "no claim", <[PersistentVolumeClaim]>::is_empty).await;
    let volumes: Api<k8s_openapi::api::core::v1::PersistentVolume> = Api::all(cluster.client.clone());
    until(&volumes, "no volume", <[_]>::is_empty).await;
}

#[tokio::test(start_paused = true)]
async fn one_controller_can_run_alone() {
    let server = Server::new(Config { clock: clock(), ..Config::default() });
    let accounts: Api<ServiceAccount> = Api::namespaced(server.client(), "default");
    let namespaces: Api<Namespace> = Api::all(server.client());
    if namespaces.get_opt("default").await.unwrap().is_none() {
        create(&namespaces, json!({"metadata": {"name": "default"}})).await;
    }
    let seen = until(&accounts, "an account", |accounts| accounts.len() == 1);
    controllers::run_only(server.client(), clock(), &[Controller::Accounts], gc::Scope::Everything, async {
        seen.await;
    })
    .await;
}

fn job(script: &str) -> Value {
    json!({
        "metadata": {"name": "job"},
        "spec": {
            "completions": 3,
            "parallelism": 2,
            "backoffLimit": 1,
            "ttlSecondsAfterFinished": 100,
            "template": {"spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "main", "image": "app:1", "command": ["sh", "-c", script]}],
            }},
        },
    })
}

#[tokio::test(start_paused = true)]
async fn a_job_completes_or_fails_and_goes_after_its_time() {
    let cluster = Cluster::new(|_| ()).await;
    let jobs = cluster.api::<Job>();
    for (script, end, succeeded) in [("sleep 3; exit 0", "Complete", 3), ("sleep 3; exit 1", "Failed", 0)] {
        create(&jobs, job(script)).await;
        let over = |job: &Job| {
            let conditions =
                job.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            conditions.iter().any(|condition| condition.type_ == end && condition.status == "True")
        };
        let items = until(&jobs, end, |jobs| jobs.iter().any(over)).await;
        assert_eq!(items[0].status.as_ref().and_then(|status| status.succeeded).unwrap_or(0), succeeded);
        until(&jobs, "no job", <[Job]>::is_empty).await;
        until(&cluster.api::<Pod>(), "no pods", <[Pod]>::is_empty).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_says_how_many_pods_may_be_disrupted() {
    let cluster = Cluster::new(|_| ()).await;
    create(&cluster.api::<Deployment>(), deployment("app:1", 4)).await;
    let budgets = cluster.api::<PodDisruptionBudget>();
    let spec = json!({"maxUnavailable": "50%", "selector": {"matchLabels": {"app": "web"}}});
    create(&budgets, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let allows = |many: i32| {
        move |items: &[PodDisruptionBudget]| {
            let status = items.first().and_then(|item| item.status.clone()).unwrap_or_default();
            status.disruptions_allowed == many && status.expected_pods == 4 && status.desired_healthy == 2
        }
    };
    until(&budgets, "two disruptions", allows(2)).await;
    let pods = cluster.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    let name = pods[0].metadata.name.as_deref().unwrap();
    cluster.nodes.set_ready("default", name, "main", Some(false));
    until(&budgets, "one disruption", allows(1)).await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_lost_node_are_evicted_and_go_when_it_comes_back() {
    for heartbeat in [None, Some(Duration::from_secs(10))] {
        let cluster = Cluster::new(|settings| settings.heartbeat = heartbeat).await;
        create(&cluster.api::<Deployment>(), deployment("app:1", 3)).await;
        let pods = cluster.api::<Pod>();
        until(&pods, "three ready pods", |pods| pods.iter().filter(|pod| ready(pod)).count() == 3).await;
        cluster.nodes.lose_node("node-0");
        let lost = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some("node-0");
        until(&pods, "an unready pod", |pods| pods.iter().any(|pod| lost(pod) && !ready(pod))).await;
        until(&pods, "its replacement", |pods| pods.iter().filter(|pod| ready(pod)).count() == 3).await;
        let left = pods.list(&ListParams::default()).await.unwrap().items;
        let stuck = left.iter().find(|pod| lost(pod)).expect("nobody has confirmed its end");
        assert!(stuck.metadata.deletion_timestamp.is_some());
        cluster.nodes.recover_node("node-0");
        until(&pods, "no pod on it", |pods| !pods.iter().any(lost)).await;
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(cluster.client.clone());
        let clean = |node: &k8s_openapi::api::core::v1::Node| {
            node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).is_none_or(Vec::is_empty)
        };
        until(&nodes, "no taints", |nodes| nodes.iter().all(clean)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_cluster_writes_nothing() {
    let clock = clock();
    let server = Server::new(Config { clock: clock.clone(), ..Config::default() });
    let nodes = Nodes::new(server.client(), Settings::new(2, clock.clone()));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { nodes.run(std::future::pending()).await });
    tasks.spawn(controllers::run(server.client(), clock, std::future::pending()));
    let deployments: Api<Deployment> = Api::namespaced(server.client(), "default");
    create(&deployments, deployment("app:1", 3)).await;
    tokio::time::sleep(Duration::from_mins(15)).await;
    let available = deployments.get("web").await.unwrap().status.and_then(|status| status.available_replicas);
    assert_eq!(available, Some(3));
    let before = server.resource_version();
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(server.resource_version(), before);
}
