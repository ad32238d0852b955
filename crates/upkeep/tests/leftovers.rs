//! Each leftover of an earlier or foreign installation, laid down in an API server, told and healed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "all of this is a test")]

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruise_sandbox::clock::{self, WallClock};
use kruise_sandbox::controllers;
use kruise_sandbox::server::{Config, Server};
use kruise_upkeep::cleanup::{Cascade, Mode};
use kruise_upkeep::installation::{Installation, Release};
use kruise_upkeep::run::{Report, Upkeep};
use kruise_webhook::configure::{self, CONVERSION_DROPPED, Configuration, ENTRIES, OwnerNamespace, Target};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const CLONE_SETS: &str = "clonesets.apps.kruise.io";
const PULL_JOBS: &str = "imagepulljobs.apps.kruise.io";

/// A cluster without a manager.
struct Cluster {
    client: Client,
    server: Server,
    upkeep: Upkeep,
    _controllers: JoinSet<()>,
}

impl Cluster {
    fn new() -> Self {
        let clock: WallClock = clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let server = Server::new(Config { clock: Arc::clone(&clock), ..Config::default() });
        let client = server.client_as("test");
        let mut running = JoinSet::new();
        let (cluster, time) = (server.client_as("cluster"), Arc::clone(&clock));
        running.spawn(async move { controllers::run(cluster, time, std::future::pending()).await });
        let upkeep =
            Upkeep { client: server.client_as("upkeep"), installation: Installation::default(), clock };
        Self { client, server, upkeep, _controllers: running }
    }

    /// With the definitions of this build.
    async fn defined() -> Self {
        let cluster = Self::new();
        assert_eq!(cluster.upkeep.crds_apply().await.unwrap().exit_code, 0);
        cluster
    }

    async fn namespace(&self, name: &str) -> Namespace {
        let namespace = json!({"metadata": {"name": name, "labels": {"control-plane": "openkruise"}}});
        let api: Api<Namespace> = Api::all(self.client.clone());
        create(&api, namespace).await
    }

    /// Both configurations as a manager in `kruise-system` leaves them.
    async fn configurations(&self, owner: Option<OwnerNamespace>) {
        let target = Target {
            namespace: "kruise-system".to_owned(),
            service: "kruise-webhook-service".to_owned(),
            host: None,
            ca_bundle: String::new(),
        };
        for configuration in Configuration::ALL {
            let wanted = configure::desired(configuration, ENTRIES, None, &target, owner.as_ref()).unwrap();
            create(&self.configuration_api(configuration), wanted).await;
        }
    }

    fn configuration_api(&self, configuration: Configuration) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", configuration.kind());
        let resource = ApiResource::from_gvk_with_plural(&kind, configuration.plural());
        Api::all_with(self.client.clone(), &resource)
    }

    fn objects(&self, kind: &str, plural: &str, namespace: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    fn clone_sets(&self) -> Api<DynamicObject> {
        self.objects("CloneSet", "clonesets", "default")
    }

    fn definitions(&self) -> Api<CustomResourceDefinition> {
        Api::all(self.client.clone())
    }

    async fn patch_definition(&self, name: &str, patch: Value) {
        self.definitions().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Repairs, all of it.
    async fn fix(&self) -> Report {
        let report = self.upkeep.preflight(true).await;
        assert!(!report.text.contains("not repaired"), "{}", report.text);
        report
    }

    async fn preflight(&self) -> Report {
        self.upkeep.preflight(false).await
    }

    /// Nothing is left but what a manager heals when it starts.
    #[track_caller]
    fn clean(report: &Report) {
        let left = report.text.contains("repairable: ") || report.text.contains("needs you: ");
        assert!(!left && report.exit_code != 4, "{}", report.text);
    }
}

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

/// Waits for what the cluster's own controllers do.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("not within a minute: {what}");
}

fn clone_set(name: &str) -> Value {
    json!({
        "apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "metadata": {"name": name},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main", "image": "x"}]}}}
    })
}

fn pull_job(name: &str) -> Value {
    json!({
        "apiVersion": "apps.kruise.io/v1beta1", "kind": "ImagePullJob",
        "metadata": {"name": name, "finalizers": ["apps.kruise.io/deletion-protection"]},
        "spec": {"image": "x", "completionPolicy": {"type": "Always"}}
    })
}

#[tokio::test(start_paused = true)]
async fn an_empty_cluster_and_a_fresh_installation_are_clean() {
    let empty = Cluster::new().preflight().await;
    assert_eq!((empty.exit_code, empty.text.as_str()), (0, "nothing is in the way of Kruise\n"));
    let fresh = Cluster::defined().await.preflight().await;
    assert_eq!(fresh.exit_code, 3, "{}", fresh.text);
    assert!(fresh.text.contains("heals at start") && !fresh.text.contains("needs you:"), "{}", fresh.text);
}

#[tokio::test(start_paused = true)]
async fn definitions_are_installed_once_and_then_left_alone() {
    let cluster = Cluster::new();
    let diff = cluster.upkeep.crds_diff().await.unwrap();
    assert_eq!(diff.exit_code, 3);
    assert!(diff.text.contains("clonesets.apps.kruise.io: is missing"), "{}", diff.text);
    let applied = cluster.upkeep.crds_apply().await.unwrap();
    assert!(applied.text.contains("clonesets.apps.kruise.io: installed"), "{}", applied.text);
    assert_eq!(cluster.upkeep.crds_diff().await.unwrap().exit_code, 0);
    let before = cluster.server.resource_version();
    let again = cluster.upkeep.crds_apply().await.unwrap();
    assert!(!again.text.contains("upgraded"), "{}", again.text);
    assert_eq!(cluster.server.resource_version(), before, "nothing is written");
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_leaves_the_authority_that_a_manager_published() {
    let cluster = Cluster::defined().await;
    let path = "/spec/conversion/webhook/clientConfig/caBundle";
    cluster
        .patch_definition(
            CLONE_SETS,
            json!({"spec": {"conversion": {"webhook": {"clientConfig": {"caBundle": "Q0E="}}}}}),
        )
        .await;
    assert_eq!(cluster.upkeep.crds_diff().await.unwrap().exit_code, 0);
    cluster.upkeep.crds_apply().await.unwrap();
    let live = serde_json::to_value(cluster.definitions().get(CLONE_SETS).await.unwrap()).unwrap();
    assert_eq!(live.pointer(path), Some(&json!("Q0E=")));
}

#[tokio::test(start_paused = true)]
async fn webhooks_that_outlived_their_service_block_no_longer_than_one_command() {
    let cluster = Cluster::defined().await;
    cluster.configurations(None).await;
    let refused = create_set(&cluster).await.unwrap_err().to_string();
    assert!(refused.contains("failed calling webhook"), "{refused}");
    let told = cluster.preflight().await;
    assert_eq!(told.exit_code, 3, "{}", told.text);
    assert!(told.text.contains("every write of Kruise's objects fails"), "{}", told.text);
    Cluster::clean(&cluster.fix().await);
    create_set(&cluster).await.unwrap();
}

async fn create_set(cluster: &Cluster) -> kube::Result<DynamicObject> {
    let set = serde_json::from_value(clone_set("web")).unwrap();
    cluster.clone_sets().create(&PostParams::default(), &set).await
}

#[tokio::test(start_paused = true)]
async fn webhooks_go_with_the_namespace_of_their_manager() {
    let cluster = Cluster::defined().await;
    let namespace = cluster.namespace("kruise-system").await;
    let owner = OwnerNamespace { name: "kruise-system".to_owned(), uid: namespace.uid().unwrap() };
    cluster.configurations(Some(owner)).await;
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    api.delete("kruise-system", &DeleteParams::default()).await.unwrap();
    eventually("a set can be created", async || create_set(&cluster).await.is_ok()).await;
}

#[tokio::test(start_paused = true)]
async fn definitions_of_an_older_openkruise_are_upgraded_and_their_objects_stay() {
    let cluster = Cluster::new();
    let mut old = serde_json::to_value(kruise_api::crd::clonesets()).unwrap();
    let versions = old["spec"]["versions"].as_array_mut().unwrap();
    versions.retain(|version| version["name"] == "v1alpha1");
    versions[0]["storage"] = json!(true);
    old["spec"]["conversion"] = json!({"strategy": "None"});
    create(&cluster.definitions(), old).await;
    let told = cluster.preflight().await;
    assert_eq!(told.exit_code, 3, "{}", told.text);
    assert!(told.text.contains("does not serve v1beta1"), "{}", told.text);
    let fixed = cluster.fix().await;
    assert_eq!(fixed.exit_code, 0, "{}", fixed.text);
    assert!(fixed.text.contains("may still be stored as v1alpha1"), "{}", fixed.text);
    let live = cluster.definitions().get(CLONE_SETS).await.unwrap();
    assert_eq!(live.spec.conversion.unwrap().strategy, "Webhook");
}

#[tokio::test(start_paused = true)]
async fn a_conversion_clause_that_is_not_ours_is_replaced() {
    let cluster = Cluster::defined().await;
    let foreign = json!({"spec": {"conversion": {"strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": "webhook-service", "namespace": "system", "path": "/convert"}}}}}});
    cluster.patch_definition(PULL_JOBS, foreign).await;
    let diff = cluster.upkeep.crds_diff().await.unwrap();
    assert!(diff.text.contains(&format!("{PULL_JOBS}: differs")), "{}", diff.text);
    let told = cluster.preflight().await;
    assert_eq!(told.exit_code, 3, "{}", told.text);
    Cluster::clean(&cluster.fix().await);
    let live = cluster.definitions().get(PULL_JOBS).await.unwrap();
    assert_eq!(live.spec.conversion.unwrap().strategy, "None");
}

#[tokio::test(start_paused = true)]
async fn objects_of_an_old_version_are_rewritten_and_the_version_is_forgotten() {
    let cluster = Cluster::defined().await;
    for name in ["a", "b", "c"] {
        create(&cluster.objects("ImagePullJob", "imagepulljobs", "default"), pull_job(name)).await;
    }
    let stored = json!({"status": {"storedVersions": ["v1alpha1", "v1beta1"]}});
    cluster
        .definitions()
        .patch_status(PULL_JOBS, &PatchParams::default(), &Patch::Merge(stored))
        .await
        .unwrap();
    let told = cluster.preflight().await;
    Cluster::clean(&told);
    assert!(told.text.contains("3 objects may still be stored as v1alpha1"), "{}", told.text);
    let dry = cluster.upkeep.crds_migrate(true, None).await.unwrap();
    assert!(dry.text.contains("would rewrite all objects as v1beta1"), "{}", dry.text);
    cluster.server.reset_requests();
    let done = cluster.upkeep.crds_migrate(false, None).await.unwrap();
    assert!(done.text.contains("rewrote 3 objects as v1beta1, forgot v1alpha1"), "{}", done.text);
    assert_eq!(cluster.server.writes(Some("upkeep")), 4, "one for each object, and one to forget");
    let live = cluster.definitions().get(PULL_JOBS).await.unwrap();
    assert_eq!(live.status.unwrap().stored_versions, Some(vec!["v1beta1".to_owned()]));
    cluster.server.reset_requests();
    cluster.upkeep.crds_migrate(false, None).await.unwrap();
    assert_eq!(cluster.server.writes(Some("upkeep")), 0, "once is enough");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_rewritten_keeps_its_version_remembered() {
    let cluster = Cluster::defined().await;
    create(&cluster.clone_sets(), clone_set("web")).await;
    let stored = json!({"status": {"storedVersions": ["v1alpha1", "v1beta1"]}});
    cluster
        .definitions()
        .patch_status(CLONE_SETS, &PatchParams::default(), &Patch::Merge(stored))
        .await
        .unwrap();
    cluster.configurations(None).await;
    let done = cluster.upkeep.crds_migrate(false, None).await.unwrap();
    assert_eq!(done.exit_code, 4, "{}", done.text);
    assert!(
        done.text.contains("default/web") && done.text.contains("failed calling webhook"),
        "{}",
        done.text
    );
    let live = cluster.definitions().get(CLONE_SETS).await.unwrap();
    assert_eq!(live.status.unwrap().stored_versions.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_waits_for_a_finalizer_of_ours_goes() {
    let cluster = Cluster::defined().await;
    cluster.namespace("team").await;
    create(&cluster.objects("ImagePullJob", "imagepulljobs", "team"), pull_job("pull")).await;
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    api.delete("team", &DeleteParams::default()).await.unwrap();
    eventually("the job waits", async || {
        let told = cluster.preflight().await;
        told.exit_code == 3 && told.text.contains("team/pull") && told.text.contains("Namespace/team")
    })
    .await;
    cluster.fix().await;
    eventually("the namespace is gone", async || api.get_opt("team").await.unwrap().is_none()).await;
    Cluster::clean(&cluster.preflight().await);
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_waits_for_finalizers_of_ours_goes() {
    let cluster = Cluster::defined().await;
    create(&cluster.objects("ImagePullJob", "imagepulljobs", "default"), pull_job("pull")).await;
    cluster.definitions().delete(PULL_JOBS, &DeleteParams::default()).await.unwrap();
    eventually("it waits", async || {
        cluster.preflight().await.text.contains("is being deleted with all its objects")
    })
    .await;
    cluster.fix().await;
    eventually("it is gone", async || cluster.definitions().get_opt(PULL_JOBS).await.unwrap().is_none())
        .await;
    assert_eq!(cluster.upkeep.crds_apply().await.unwrap().exit_code, 0);
    Cluster::clean(&cluster.preflight().await);
}

#[tokio::test(start_paused = true)]
async fn what_another_release_owns_is_taken_over() {
    let mut cluster = Cluster::defined().await;
    let owner = json!({"metadata": {
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {"meta.helm.sh/release-name": "other", "meta.helm.sh/release-namespace": "apps"}}});
    cluster.patch_definition(CLONE_SETS, owner).await;
    Cluster::clean(&cluster.preflight().await);
    cluster.upkeep.installation.release =
        Some(Release { name: "kruise".to_owned(), namespace: "kruise-system".to_owned() });
    let told = cluster.preflight().await;
    assert_eq!(told.exit_code, 3, "{}", told.text);
    assert!(told.text.contains("apps/other") && told.text.contains("no Helm release"), "{}", told.text);
    Cluster::clean(&cluster.fix().await);
}

/// An installation with one object of each sort, whose manager is gone.
async fn installed() -> Cluster {
    let cluster = Cluster::defined().await;
    for name in ["kruise-system", "kruise-daemon-config"] {
        cluster.namespace(name).await;
    }
    create(&cluster.clone_sets(), clone_set("web")).await;
    create(&cluster.objects("ImagePullJob", "imagepulljobs", "default"), pull_job("pull")).await;
    cluster.configurations(None).await;
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kruise-system");
    create(&leases, json!({"metadata": {"name": "kruise-manager"}, "spec": {"holderIdentity": ""}})).await;
    let secrets = |namespace: &str| Api::<Secret>::namespaced(cluster.client.clone(), namespace);
    create(&secrets("kruise-system"), json!({"metadata": {"name": "kruise-webhook-certs"}})).await;
    let source = json!({"imagepulljobs.kruise.io/source-key": "default/pull"});
    create(&secrets("kruise-daemon-config"), json!({"metadata": {"name": "copy", "annotations": source}}))
        .await;
    create(&secrets("kruise-daemon-config"), json!({"metadata": {"name": "theirs"}})).await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "kruise-system");
    create(&maps, json!({"metadata": {"name": "kruise-configuration"}})).await;
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_purge_without_consent_changes_nothing() {
    let cluster = installed().await;
    let before = cluster.server.resource_version();
    let refused = cluster.upkeep.cleanup(Mode::Purge, Cascade::Background, false, false).await.unwrap();
    assert_eq!(refused.exit_code, 5);
    assert!(
        refused.text.contains("there still exists some clonesets in the cluster: 1 (default/web)"),
        "{}",
        refused.text
    );
    let dry = cluster.upkeep.cleanup(Mode::Purge, Cascade::Background, true, true).await.unwrap();
    assert!(dry.text.contains("would delete CustomResourceDefinition/clonesets"), "{}", dry.text);
    assert_eq!(cluster.server.resource_version(), before);
}

#[tokio::test(start_paused = true)]
async fn a_cleanup_that_keeps_leaves_objects_readable_and_can_be_repeated() {
    let cluster = installed().await;
    for _ in 0..2 {
        let done = cluster.upkeep.cleanup(Mode::Keep, Cascade::Background, false, false).await.unwrap();
        assert_eq!(done.exit_code, 0, "{}", done.text);
    }
    for version in ["v1beta1", "v1alpha1"] {
        let kind = GroupVersionKind::gvk("apps.kruise.io", version, "CloneSet");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clonesets");
        let sets = Api::<DynamicObject>::namespaced_with(cluster.client.clone(), "default", &resource);
        assert!(sets.get_opt("web").await.unwrap().is_some(), "{version}");
    }
    for configuration in Configuration::ALL {
        let api = cluster.configuration_api(configuration);
        assert!(api.get_opt(configuration.name()).await.unwrap().is_none());
    }
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kruise-system");
    assert!(leases.get_opt("kruise-manager").await.unwrap().is_none());
    let secrets = |namespace: &str| Api::<Secret>::namespaced(cluster.client.clone(), namespace);
    assert!(secrets("kruise-system").get_opt("kruise-webhook-certs").await.unwrap().is_none());
    let left = secrets("kruise-daemon-config").list(&ListParams::default()).await.unwrap();
    assert_eq!(left.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["theirs"]);
}

#[tokio::test(start_paused = true)]
async fn after_an_orphaning_cleanup_nothing_keeps_objects_from_being_deleted() {
    let cluster = installed().await;
    cluster.upkeep.cleanup(Mode::Orphan, Cascade::Background, false, false).await.unwrap();
    let jobs = cluster.objects("ImagePullJob", "imagepulljobs", "default");
    assert!(jobs.get("pull").await.unwrap().finalizers().is_empty());
    jobs.delete("pull", &DeleteParams::default()).await.unwrap();
    assert!(jobs.get_opt("pull").await.unwrap().is_none());
    assert!(cluster.clone_sets().get_opt("web").await.unwrap().is_some());
}

/// With a manager that leads, and CloneSets some of which may be stored as v1alpha1.
async fn taken_over() -> Cluster {
    let cluster = installed().await;
    let stored = json!({"status": {"storedVersions": ["v1alpha1", "v1beta1"]}});
    let params = PatchParams::default();
    cluster.definitions().patch_status(CLONE_SETS, &params, &Patch::Merge(stored)).await.unwrap();
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kruise-system");
    let now = (cluster.upkeep.clock)().to_string();
    let leads = json!({"spec": {"holderIdentity": "m", "leaseDurationSeconds": 15, "renewTime": now}});
    leases.patch("kruise-manager", &params, &Patch::Merge(leads)).await.unwrap();
    cluster
}

#[tokio::test(start_paused = true)]
async fn after_a_migrated_cluster_is_cleaned_up_nothing_waits_for_a_conversion() {
    let cluster = taken_over().await;
    // Here nobody answers them, where a manager leads somebody does.
    for configuration in Configuration::ALL {
        let api = cluster.configuration_api(configuration);
        api.delete(configuration.name(), &DeleteParams::default()).await.unwrap();
    }
    // What was evicted stays, and is no manager that runs.
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "kruise-system");
    let evicted = json!({
        "metadata": {"name": "evicted", "labels": {"control-plane": "controller-manager"}},
        "spec": {"containers": [{"name": "manager", "image": "x"}]}
    });
    create(&pods, evicted).await;
    let failed = json!({"status": {"phase": "Failed", "reason": "Evicted"}});
    pods.patch_status("evicted", &PatchParams::default(), &Patch::Merge(failed)).await.unwrap();
    for _ in 0..2 {
        let done = cluster.upkeep.cleanup(Mode::Orphan, Cascade::Background, false, false).await.unwrap();
        assert!(done.exit_code == 0 && !done.text.contains("note: "), "{}", done.text);
    }
    assert!(pods.get_opt("evicted").await.unwrap().is_some(), "nobody has cleared it away meanwhile");
    let live = cluster.definitions().get(CLONE_SETS).await.unwrap();
    assert_eq!(live.spec.conversion.unwrap().strategy, "None");
    assert_eq!(live.status.unwrap().stored_versions, Some(vec!["v1beta1".to_owned()]));
    let marked = |name: &'static str| {
        let api = cluster.definitions();
        async move { api.get(name).await.unwrap().annotations().contains_key(CONVERSION_DROPPED) }
    };
    assert!(marked(CLONE_SETS).await, "so that a manager that runs again converts again");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_rewritten_holds_no_uninstall_up() {
    let cluster = taken_over().await;
    let done = cluster.upkeep.cleanup(Mode::Orphan, Cascade::Background, false, false).await.unwrap();
    assert_eq!(done.exit_code, 0, "{}", done.text);
    for told in ["note: cannot rewrite all clonesets", "note: cannot have clonesets"] {
        assert!(done.text.contains(told), "{told} is not in {}", done.text);
    }
    let live = cluster.definitions().get(CLONE_SETS).await.unwrap();
    assert_eq!(live.spec.conversion.unwrap().strategy, "Webhook", "or those of v1alpha1 would be lost");
    let jobs = cluster.objects("ImagePullJob", "imagepulljobs", "default");
    assert!(jobs.get("pull").await.unwrap().finalizers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn objects_that_nobody_converts_any_more_hold_no_uninstall_up() {
    let cluster = installed().await;
    for configuration in Configuration::ALL {
        let api = cluster.configuration_api(configuration);
        api.delete(configuration.name(), &DeleteParams::default()).await.unwrap();
    }
    cluster.clone_sets().delete("web", &DeleteParams::default()).await.unwrap();
    // As an older OpenKruise stored it; now it would have to be converted, and no manager is there.
    let done = cluster.upkeep.crds_migrate(false, Some("v1alpha1")).await.unwrap();
    assert!(done.text.contains("clonesets.apps.kruise.io: rewrote 0 objects as v1alpha1"), "{}", done.text);
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1alpha1", "CloneSet");
    let old = ApiResource::from_gvk_with_plural(&kind, "clonesets");
    let mut set = clone_set("old");
    set["apiVersion"] = json!("apps.kruise.io/v1alpha1");
    create(&Api::<DynamicObject>::namespaced_with(cluster.client.clone(), "default", &old), set).await;
    assert_eq!(cluster.upkeep.crds_apply().await.unwrap().exit_code, 0);
    assert!(cluster.clone_sets().list(&ListParams::default()).await.is_err());

    let done = cluster.upkeep.cleanup(Mode::Orphan, Cascade::Background, false, false).await.unwrap();
    assert_eq!(done.exit_code, 0, "{}", done.text);
    assert!(done.text.contains("note: cannot take Kruise's finalizers off all clonesets"), "{}", done.text);
    let jobs = cluster.objects("ImagePullJob", "imagepulljobs", "default");
    assert!(jobs.get("pull").await.unwrap().finalizers().is_empty(), "what can be listed is freed");
}

#[tokio::test(start_paused = true)]
async fn objects_are_stored_in_the_older_version_again_before_going_back_to_openkruise() {
    let cluster = Cluster::defined().await;
    create(&cluster.objects("ImagePullJob", "imagepulljobs", "default"), pull_job("a")).await;
    // Without a manager there is nobody to convert; these are the same in both.
    let relabel = json!({"spec": {"conversion": {"strategy": "None", "webhook": null}}});
    cluster.patch_definition(PULL_JOBS, relabel).await;
    let dry = cluster.upkeep.crds_migrate(true, Some("v1alpha1")).await.unwrap();
    assert!(
        dry.text.contains("imagepulljobs.apps.kruise.io: would store objects as v1alpha1"),
        "{}",
        dry.text
    );
    let done = cluster.upkeep.crds_migrate(false, Some("v1alpha1")).await.unwrap();
    assert_eq!(done.exit_code, 0, "{}", done.text);
    assert!(done.text.contains("rewrote 1 objects as v1alpha1, forgot v1beta1"), "{}", done.text);
    for definition in cluster.definitions().list(&ListParams::default()).await.unwrap() {
        let stored = definition.status.unwrap().stored_versions.unwrap();
        let serves = definition.spec.versions.iter().any(|version| version.name == "v1alpha1");
        assert!(!serves || stored == ["v1alpha1"], "{:?} stores {stored:?}", definition.metadata.name);
    }
    // And once more the other way, as an upgrade does.
    assert_eq!(cluster.upkeep.crds_apply().await.unwrap().exit_code, 0);
    let done = cluster.upkeep.crds_migrate(false, None).await.unwrap();
    assert!(done.text.contains("rewrote 1 objects as v1beta1, forgot v1alpha1"), "{}", done.text);
}

#[tokio::test(start_paused = true)]
async fn a_purge_takes_objects_and_definitions_and_an_installation_can_follow() {
    let cluster = installed().await;
    let done = cluster.upkeep.cleanup(Mode::Purge, Cascade::Background, true, false).await.unwrap();
    assert_eq!(done.exit_code, 0, "{}", done.text);
    eventually("no definition is left", async || {
        cluster.definitions().list(&ListParams::default()).await.unwrap().items.is_empty()
    })
    .await;
    cluster.upkeep.cleanup(Mode::Purge, Cascade::Background, true, false).await.unwrap();
    assert_eq!(cluster.upkeep.crds_apply().await.unwrap().exit_code, 0);
    create_set(&cluster).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_look_before_an_uninstall_tells_what_helm_would_take() {
    let cluster = installed().await;
    let kept = cluster.upkeep.cleanup_check(None).await;
    assert_eq!(kept.exit_code, 0, "{}", kept.text);
    assert!(kept.text.contains("their definitions say that they stay"), "{}", kept.text);
    cluster
        .patch_definition(
            CLONE_SETS,
            json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}}}),
        )
        .await;
    let risked = cluster.upkeep.cleanup_check(None).await;
    assert_eq!(risked.exit_code, 5);
    assert!(risked.text.starts_with("there still exists some clonesets in the cluster"), "{}", risked.text);
    let policy = json!({"metadata": {"annotations": {"helm.sh/resource-policy": "keep"}}});
    cluster.patch_definition(CLONE_SETS, policy).await;
    assert_eq!(cluster.upkeep.cleanup_check(None).await.exit_code, 0);
    assert_eq!(cluster.upkeep.cleanup_check(Some(false)).await.exit_code, 5, "Helm does not look at it");
    let empty = Cluster::new().upkeep.cleanup_check(None).await;
    assert_eq!(empty.text, "cluster is clean, ready to delete kruise\n");
}
