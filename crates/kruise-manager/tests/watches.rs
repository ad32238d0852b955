//! What a manager watches: what the controllers that are on read, and nothing of the others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "all of this is a test")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruise_manager::catalogue;
use kruise_manager::run::{self, Setup, Webhooks};
use kruise_manager::selection::Selection;
use kruise_sandbox::server::{Config, Server, Verb};
use kube::Api;
use kube::api::PostParams;
use prometheus::Registry;
use tokio::sync::oneshot;

const CLIENT: &str = "kruise-manager";

/// What a controller alone has watched, besides CustomResourceDefinitions, which tell it what it may watch.
const ALONE: [(&str, &[&str]); 8] = [
    ("advancedcronjob", &["advancedcronjobs"]),
    ("broadcastjob", &["broadcastjobs", "nodes", "pods"]),
    ("cloneset", &["clonesets", "controllerrevisions", "nodes", "persistentvolumeclaims", "pods"]),
    ("crr", &["containerrecreaterequests", "pods"]),
    ("imagelistpulljob", &["imagelistpulljobs", "imagepulljobs"]),
    // CloneSets for the order in which they update their pods: nodes of those first pull first.
    ("imagepulljob", &["clonesets", "imagepulljobs", "nodeimages", "pods", "secrets"]),
    ("nodeimage", &["imagepulljobs", "nodeimages", "nodes", "secrets"]),
    ("podreadiness", &["pods"]),
];

/// The resources that a manager with these controllers watches once it has all it wants, on a cluster that has every kind.
async fn watched(controllers: &str) -> BTreeSet<String> {
    let server = Server::new(Config::default());
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client());
    for definition in kruise_api::crd::all() {
        definitions.create(&PostParams::default(), &definition).await.unwrap();
    }
    let flags = ["--feature-gates=ImagePullJobGate=true".to_owned()];
    let clock = Arc::new(|| "2026-01-01T00:00:00Z".parse().unwrap());
    let mut setup = Setup::embedded(&flags, Webhooks::HandOver(Box::new(drop)), clock, None).unwrap();
    // Also those that a command line does not accept alone, because they need another to be of use.
    setup.controllers = Selection::parse(controllers).unwrap();
    let registry = setup.metrics.registry().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move { drop(stopped.await) };
    let manager = tokio::spawn(run::run(setup, server.client_as(CLIENT), stopped));
    // Nothing sleeps here but tasks: the clock is a test's, and moves on only when none of them has anything left to do.
    while running(&registry) < controllers.split(',').count() as f64 {
        assert!(!manager.is_finished(), "the manager has ended");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_mins(1)).await;
    let requests = server.requests();
    drop(stop);
    manager.await.unwrap().unwrap();
    let watches = requests.into_keys().filter(|(client, verb, _)| client == CLIENT && *verb == Verb::Watch);
    // Without the group: no two of these have a name in common.
    let plain = |resource: String| resource.split('.').next().unwrap_or_default().to_owned();
    watches.map(|(_, _, resource)| plain(resource)).collect()
}

/// How many controllers have the first list of all that they watch.
fn running(registry: &Registry) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == "kruise_controller_running");
    family
        .into_iter()
        .flat_map(prometheus::proto::MetricFamily::get_metric)
        .map(|it| it.get_gauge().get_value())
        .sum()
}

#[tokio::test(start_paused = true)]
async fn a_controller_alone_watches_nothing_of_the_others() {
    let built: BTreeSet<_> = catalogue::controllers().into_iter().map(|it| it.flag).collect();
    assert_eq!(built, ALONE.iter().map(|(name, _)| *name).collect(), "each has to be looked at");
    for (name, resources) in ALONE {
        let mut wanted: BTreeSet<_> = resources.iter().map(|resource| (*resource).to_owned()).collect();
        wanted.insert("customresourcedefinitions".to_owned());
        assert_eq!(watched(name).await, wanted, "with --controllers={name}");
    }
}
