//! A manager that starts among the leftovers of another installation, over real HTTPS.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruise_manager::run::Webhooks;
use kruise_playground::{Options, Playground};
use kruise_sandbox::clock;
use kruise_sandbox::webhook::Https;
use kruise_webhook::configure::{self, Configuration, ENTRIES, Target};
use kruise_webhook::options::WebhookOptions;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const CLONE_SETS: &str = "clonesets.apps.kruise.io";
const PULL_JOBS: &str = "imagepulljobs.apps.kruise.io";

/// A cluster, and where the next manager of it keeps its certificates.
struct World {
    playground: Playground,
    certificates: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.certificates));
    }
}

impl World {
    async fn new(name: &str) -> Self {
        let mut options = Options::new(1, clock::system());
        let nowhere = |_: &str, name: &str, _| Err(format!("service {name:?} not found"));
        options.server.webhooks = Arc::new(Https::new(Arc::new(nowhere)));
        let server = kruise_sandbox::server::Server::new(options.server.clone());
        let playground = Playground::start_cluster(server, options).await.unwrap();
        let certificates =
            std::env::temp_dir().join(format!("kruise-leftovers-{name}-{}", std::process::id()));
        let world = Self { playground, certificates };
        let namespace = json!({"metadata": {"name": "kruise-system"}});
        let namespaces: Api<Namespace> = Api::all(world.playground.client());
        let namespace = serde_json::from_value(namespace).unwrap();
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        world
    }

    async fn start_manager(&mut self) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut options = WebhookOptions::from_env(&|_| None).unwrap();
        options.host = Some(Ipv4Addr::LOCALHOST.to_string());
        options.port = listener.local_addr().unwrap().port();
        options.certs_on_disk = true;
        options.cert_dir.clone_from(&self.certificates);
        self.playground.start_manager(Webhooks::ServeOn(options, listener)).unwrap();
    }

    async fn create_set(&self, name: &str) -> kube::Result<DynamicObject> {
        let kind = GroupVersionKind::gvk("apps.kruise.io", "v1alpha1", "CloneSet");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clonesets");
        let sets = Api::<DynamicObject>::namespaced_with(self.playground.client(), "default", &resource);
        let set = json!({
            "apiVersion": "apps.kruise.io/v1alpha1", "kind": "CloneSet", "metadata": {"name": name},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
                "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main", "image": "x"}]}}}
        });
        sets.create(&PostParams::default(), &serde_json::from_value(set).unwrap()).await
    }

    async fn eventually<T>(
        &mut self,
        what: &str,
        mut look: impl AsyncFnMut(&Self) -> Result<T, String>,
    ) -> T {
        let begun = Instant::now();
        loop {
            let why = match look(self).await {
                Ok(found) => return found,
                Err(why) => why,
            };
            assert!(begun.elapsed() < Duration::from_mins(1), "not within a minute: {what}: {why}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn definitions(&self) -> Api<CustomResourceDefinition> {
        Api::all(self.playground.client())
    }
}

#[tokio::test]
async fn a_restored_installation_of_another_cluster_works_once_a_manager_runs_with_no_manual_step() {
    let mut world = World::new("restored").await;
    let elsewhere = Target {
        namespace: "of-another-cluster".to_owned(),
        service: "kruise-webhook-service".to_owned(),
        host: None,
        ca_bundle: "Cg==".to_owned(),
    };
    for configuration in Configuration::ALL {
        let mut stale = configure::desired(configuration, ENTRIES, None, &elsewhere, None).unwrap();
        stale["metadata"]["annotations"]["template"] = json!(r#"[{"name":"mold.kb.io"}]"#);
        let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", configuration.kind());
        let resource = ApiResource::from_gvk_with_plural(&kind, configuration.plural());
        let api = Api::<DynamicObject>::all_with(world.playground.client(), &resource);
        api.create(&PostParams::default(), &serde_json::from_value(stale).unwrap()).await.unwrap();
    }
    let dead = json!({"spec": {"conversion": {"strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v1"], "clientConfig": elsewhere.client_config("/convert")}}}});
    let params = PatchParams::default();
    world.definitions().patch(CLONE_SETS, &params, &Patch::<Value>::Merge(dead)).await.unwrap();
    assert!(world.create_set("before").await.is_err());

    world.start_manager().await;
    world
        .eventually("a set is admitted and converted", async |world| {
            world.create_set("after").await.map(drop).map_err(|error| error.to_string())
        })
        .await;
}

#[tokio::test]
async fn a_definition_that_never_goes_stops_no_other_kind_and_is_told_by_an_event() {
    let mut world = World::new("terminating").await;
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", "ImagePullJob");
    let resource = ApiResource::from_gvk_with_plural(&kind, "imagepulljobs");
    let jobs = Api::<DynamicObject>::namespaced_with(world.playground.client(), "default", &resource);
    let job = json!({
        "apiVersion": "apps.kruise.io/v1beta1", "kind": "ImagePullJob",
        "metadata": {"name": "held", "finalizers": ["example.com/theirs"]},
        "spec": {"image": "x", "completionPolicy": {"type": "Never"}}
    });
    jobs.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
    world.definitions().delete(PULL_JOBS, &DeleteParams::default()).await.unwrap();

    world.start_manager().await;
    world
        .eventually("sets work", async |world| {
            world.create_set("web").await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    let told = world
        .eventually("an event tells", async |world| {
            let events: Api<Event> = Api::namespaced(world.playground.client(), "default");
            let all = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let reason = |event: &&Event| event.reason.as_deref() == Some("DefinitionDegraded");
            all.items.iter().find(reason).cloned().ok_or_else(|| format!("{} events", all.items.len()))
        })
        .await;
    assert_eq!(told.involved_object.name.as_deref(), Some("kruise-system"));
    assert!(told.message.unwrap().contains("imagepulljobs.apps.kruise.io is being deleted"));
}
