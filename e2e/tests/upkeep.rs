//! What an operator does to the installation: look, repair, remove. In a file of its own, one spec at a time: the other
//! specs need the manager and its webhooks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruise_e2e::{Manager, SET, SOON, Venue, clone_set, seen};
use kruise_upkeep::cleanup::{Cascade, Mode};
use kruise_upkeep::installation::Installation;
use kruise_upkeep::run::{Report, Upkeep};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tokio::sync::Mutex;

const ONE: &str = "kruise.test/demo:1";
const MINUTE: Duration = Duration::from_mins(1);
const DEFINITION: &str = "clonesets.apps.kruise.io";

/// Whose turn it is: there is one manager.
static TURN: Mutex<()> = Mutex::const_new(());

#[expect(clippy::disallowed_methods, reason = "a real cluster has the real time")]
fn now() -> Timestamp {
    Timestamp::now()
}

async fn upkeep() -> Result<Upkeep> {
    let client = kube::Client::try_default().await.context("no cluster: set KUBECONFIG")?;
    Ok(Upkeep { client, installation: Installation::default(), clock: Arc::new(now) })
}

fn says(report: &Report, exit_code: u8, part: &str) -> Result<()> {
    let as_told = report.exit_code == exit_code && report.text.contains(part);
    ensure!(
        as_told,
        "{part:?} and exit code {exit_code} were expected, not {}:\n{}",
        report.exit_code,
        report.text
    );
    Ok(())
}

fn objects(upkeep: &Upkeep, kind: &str, plural: &str, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, plural);
    Api::namespaced_with(upkeep.client.clone(), namespace, &resource)
}

/// Whether a set is admitted; nothing is stored.
async fn admits(upkeep: &Upkeep) -> Result<()> {
    let set: DynamicObject = serde_json::from_value(clone_set(1, ONE))?;
    let try_only = PostParams { dry_run: true, ..PostParams::default() };
    objects(upkeep, "CloneSet", "clonesets", "default").create(&try_only, &set).await?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_working_installation_has_nothing_in_its_way() -> Result<()> {
    let _turn = TURN.lock().await;
    Manager::leading().await?;
    let upkeep = upkeep().await?;
    let report = upkeep.preflight(false).await;
    ensure!(report.exit_code == 0 && !report.text.contains("needs you:"), "{}", report.text);
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn the_webhooks_of_a_manager_that_is_down_go_with_one_command_and_come_back_with_it() -> Result<()> {
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let upkeep = upkeep().await?;
    let (place, before) = Venue::Cluster.with(&clone_set(2, ONE)).await?;
    {
        let _back = manager.down().await?;
        seen("sets are refused", SOON, async || Ok(admits(&upkeep).await.is_err().then_some(()))).await?;
        seen("preflight says so", SOON, async || {
            Ok(says(&upkeep.preflight(false).await, 4, "nothing is ready").ok())
        })
        .await?;
        let done = upkeep.cleanup(Mode::Keep, Cascade::Background, false, false).await?;
        says(&done, 0, "done: delete MutatingWebhookConfiguration")?;
        seen("sets are admitted", SOON, async || Ok(admits(&upkeep).await.ok())).await?;
        for version in ["v1beta1", "v1alpha1"] {
            ensure!(place.sets(version).get_opt(SET).await?.is_some(), "the set cannot be read as {version}");
        }
        let again = upkeep.cleanup(Mode::Keep, Cascade::Background, false, false).await?;
        ensure!(again.exit_code == 0, "{}", again.text);
        // The definition converts without a webhook now; the manager's is put back by an apply.
        upkeep.crds_apply().await?;
    }
    manager.leads().await?;
    seen("nothing is in the way again", MINUTE, async || {
        let report = upkeep.preflight(false).await;
        ensure!(report.exit_code == 0, "{}", report.text);
        Ok(Some(()))
    })
    .await?;
    let after = place.now().await?;
    place.check(&after, "the pods are the same", after.uids() == before.uids()).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_configuration_that_asks_a_service_nobody_has_is_repaired_by_preflight() -> Result<()> {
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let upkeep = upkeep().await?;
    {
        let _back = manager.down().await?;
        let kind =
            GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration");
        let resource = ApiResource::from_gvk_with_plural(&kind, "mutatingwebhookconfigurations");
        let api = Api::<DynamicObject>::all_with(upkeep.client.clone(), &resource);
        let name = "kruise-mutating-webhook-configuration";
        let mut live = api.get(name).await?;
        for entry in live.data["webhooks"].as_array_mut().context("no webhooks")? {
            entry["clientConfig"]["service"]["namespace"] = json!("of-another-cluster");
        }
        api.replace(name, &PostParams::default(), &live).await?;
        says(
            &upkeep.preflight(false).await,
            4,
            "of-another-cluster/kruise-webhook-service, which does not exist",
        )?;
        let fixed = upkeep.preflight(true).await;
        ensure!(
            !fixed.text.contains("not repaired") && !fixed.text.contains("of-another-cluster"),
            "{}",
            fixed.text
        );
        ensure!(api.get_opt(name).await?.is_none(), "it is still there");
    }
    manager.leads().await?;
    seen("sets are admitted", SOON, async || Ok(admits(&upkeep).await.ok())).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_namespace_that_waits_for_a_manager_that_is_gone_goes_after_preflight() -> Result<()> {
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let upkeep = upkeep().await?;
    let place = Venue::Cluster.place().await?;
    let job = json!({
        "apiVersion": "apps.kruise.io/v1beta1", "kind": "ImagePullJob",
        "metadata": {"name": "held", "finalizers": ["apps.kruise.io/deletion-protection"]},
        "spec": {"image": ONE, "selector": {"names": ["nowhere"]}, "completionPolicy": {"type": "Never"}}
    });
    let jobs = objects(&upkeep, "ImagePullJob", "imagepulljobs", place.namespace());
    jobs.create(&PostParams::default(), &serde_json::from_value(job)?).await?;
    let _back = manager.stopped().await?;
    let namespaces: Api<Namespace> = Api::all(upkeep.client.clone());
    namespaces.delete(place.namespace(), &DeleteParams::default()).await?;
    let held = format!("{}/held", place.namespace());
    // The Lease of the manager that was stopped is given up at once, and has to run out if it was killed.
    seen("preflight names the job", MINUTE, async || {
        Ok(upkeep.preflight(false).await.text.contains(&held).then_some(()))
    })
    .await?;
    let fixed = upkeep.preflight(true).await;
    ensure!(!fixed.text.contains("not repaired"), "{}", fixed.text);
    seen("the namespace is gone", MINUTE, async || {
        Ok(namespaces.get_opt(place.namespace()).await?.is_none().then_some(()))
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn stored_objects_are_rewritten_without_touching_a_pod_and_the_old_version_is_forgotten() -> Result<()>
{
    let _turn = TURN.lock().await;
    Manager::leading().await?;
    let upkeep = upkeep().await?;
    let (place, before) = Venue::Cluster.with(&clone_set(2, ONE)).await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(upkeep.client.clone());
    let both = json!({"status": {"storedVersions": ["v1alpha1", "v1beta1"]}});
    definitions.patch_status(DEFINITION, &PatchParams::default(), &Patch::<Value>::Merge(both)).await?;
    says(&upkeep.preflight(false).await, 0, "may still be stored as v1alpha1")?;
    says(&upkeep.crds_migrate(false, None).await?, 0, "clonesets.apps.kruise.io: rewrote")?;
    let stored = definitions.get(DEFINITION).await?.status.and_then(|status| status.stored_versions);
    ensure!(stored == Some(vec!["v1beta1".to_owned()]), "{stored:?}");
    let after = place.now().await?;
    let generation = |now: &kruise_e2e::Snapshot| now.set.pointer("/metadata/generation").cloned();
    place.check(&after, "the set is the same", generation(&after) == generation(&before)).await?;
    place.check(&after, "the pods are the same", after.uids() == before.uids()).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn definitions_are_as_this_build_has_them_and_a_purge_without_consent_is_refused() -> Result<()> {
    let _turn = TURN.lock().await;
    Manager::leading().await?;
    let upkeep = upkeep().await?;
    let (_place, _) = Venue::Cluster.with(&clone_set(1, ONE)).await?;
    upkeep.crds_apply().await?;
    ensure!(upkeep.crds_diff().await?.exit_code == 0, "an apply does not settle");
    let refused = upkeep.cleanup(Mode::Purge, Cascade::Background, false, false).await?;
    says(&refused, 5, "there still exists some clonesets in the cluster")
}
