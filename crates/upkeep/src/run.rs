//! The commands: what is looked at, decided and done, and what is said about it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kruise_api::keys;
use kruise_runtime::client::said;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};
use serde::Serialize;
use tokio::time::Instant;

use crate::cleanup::{self, Cascade, Check, Cleanup, Mode, Step};
use crate::cluster::{
    apply, definitions_api, delete_configuration, drop_conversion, each_object, is_absent, list_objects,
    look, objects_api, remove_finalizers, repair, trial,
};
use crate::definitions;
use crate::findings::{Finding, Repair, Severity, Verdict, findings};
use crate::installation::{DEPLOYMENT, Installation, is_built};
use crate::migrate::{migrate, store_as};
use crate::seen::{DefinitionSeen, Held, Seen};

/// How long a cleanup waits for pods and objects to go.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often it looks.
const POLL: Duration = Duration::from_millis(500);
/// Writes under way at once.
const PARALLEL: usize = 16;
/// How often an object that somebody else writes is tried.
const TRIES: usize = 5;
/// Label of the manager's pods.
const MANAGER_PODS: &str = "control-plane=controller-manager";
/// Places of a definition that are told.
const PLACES: usize = 20;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a command has to say, and how it ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// For standard output.
    pub text: String,
    /// The process's exit code.
    pub exit_code: u8,
}

/// The installation on a cluster.
#[derive(Clone)]
pub struct Upkeep {
    /// The API server.
    pub client: Client,
    /// The names.
    pub installation: Installation,
    /// The time.
    pub clock: Clock,
}

impl Upkeep {
    async fn look(&self) -> Seen {
        look(&self.client, &self.installation, (self.clock)()).await
    }

    /// Looks for leftovers and faults; with `fix` it repairs what it can and looks again.
    pub async fn preflight(&self, fix: bool) -> Report {
        let (verdict, text) = self.judged(fix).await;
        Report { text, exit_code: verdict.exit_code() }
    }

    /// The same for when a manager is about to be started.
    pub async fn preflight_before_install(&self, fix: bool) -> Report {
        let (verdict, text) = self.judged(fix).await;
        Report { text, exit_code: verdict.exit_code_before_install() }
    }

    async fn judged(&self, fix: bool) -> (Verdict, String) {
        let mut found = self.findings().await;
        let mut text = String::new();
        if fix {
            for finding in &found {
                for one in &finding.repairs {
                    let line = match repair(&self.client, &self.installation, one).await {
                        Ok(()) => format!("repaired: {}", done(one)),
                        Err(error) => format!("not repaired: {}: {}", done(one), said(&error)),
                    };
                    text.push_str(&line);
                    text.push('\n');
                }
            }
            found = self.findings().await;
        }
        let verdict = Verdict::of(&found, fix);
        text.push_str(&list(&found));
        (verdict, text)
    }

    async fn findings(&self) -> Vec<Finding> {
        let mut seen = self.look().await;
        seen.trial = trial(&self.client, &seen, &self.installation).await;
        findings(&seen, &self.installation, (self.clock)())
    }

    /// Says whether an uninstall would take objects with it; `crds_kept` is what the release's manifest says of the
    /// definitions. Exit code 5 if it would, or if that cannot be told.
    pub async fn cleanup_check(&self, crds_kept: Option<bool>) -> Report {
        let checked = cleanup::check(&self.look().await, crds_kept);
        let (lines, last, exit_code): (Vec<String>, _, u8) = match checked {
            Check::Clean => (Vec::new(), "cluster is clean, ready to delete kruise", 0),
            Check::Kept(kept) => {
                let lines = kept.iter().map(ToString::to_string).collect();
                let last = if crds_kept.is_some() {
                    "their definitions stay, and so do they"
                } else {
                    "their definitions say that they stay, and so do they then; Helm goes by its own manifest"
                };
                (lines, last, 0)
            }
            Check::AtRisk(risked) => {
                let lines = risked.iter().map(ToString::to_string).collect();
                (lines, "the uninstall would delete them with their definitions", 5)
            }
            Check::Unknown(unlisted) => {
                let lines =
                    unlisted.iter().map(|(what, why)| format!("cannot look at {what}: {why}")).collect();
                (lines, "so it cannot be told what the uninstall would delete", 5)
            }
        };
        let mut text = String::new();
        for line in lines.iter().map(String::as_str).chain([last]) {
            let _ = writeln!(text, "{line}");
        }
        Report { text, exit_code }
    }

    /// Removes Kruise. Exit code 5 if it refuses.
    ///
    /// # Errors
    /// A step did not succeed; the ones before it are done, and it may be run again.
    pub async fn cleanup(
        &self,
        mode: Mode,
        cascade: Cascade,
        confirmed: bool,
        dry_run: bool,
    ) -> anyhow::Result<Report> {
        let seen = self.look().await;
        let Cleanup { steps, warnings } =
            match cleanup::plan(&seen, &self.installation, mode, cascade, confirmed) {
                Ok(cleanup) => cleanup,
                Err(refusal) => return Ok(Report { text: format!("{refusal}\n"), exit_code: 5 }),
            };
        let mut text = String::new();
        for warning in warnings {
            let _ = writeln!(text, "note: {warning}");
        }
        for step in &steps {
            if dry_run {
                let _ = writeln!(text, "would {step}");
                continue;
            }
            match self.take(step).await {
                Ok(told) => {
                    let _ = writeln!(text, "done: {step}{told}");
                }
                // Whoever keeps the objects can mend this later, and is not to be held up by it now.
                Err(error) if may_fail(step, mode) => {
                    let _ = writeln!(text, "note: cannot {step}: {error:#}");
                }
                Err(error) => return Err(error.context(format!("cannot {step}"))),
            }
        }
        Ok(Report { text, exit_code: 0 })
    }

    /// Takes a step; answers what to add to the line about it.
    async fn take(&self, step: &Step) -> anyhow::Result<String> {
        match step {
            Step::DeleteConfiguration(configuration, name) => {
                absent_is_done(delete_configuration(&self.client, *configuration, name, None).await)?;
            }
            Step::StopManager => self.stop_manager().await?,
            Step::RemoveFinalizers(name) => return self.remove_all_finalizers(name).await,
            Step::Migrate(name) => {
                let Some(definition) = self.definition(name).await? else { return Ok(String::new()) };
                return Ok(format!(" ({})", migrate(&self.client, &definition).await?));
            }
            Step::DropConversion { definition: name, anyway } => {
                let Some(definition) = self.definition(name).await? else { return Ok(String::new()) };
                let old = definition.old_versions().join(", ");
                if !old.is_empty() && !anyway {
                    bail!("objects may be stored as {old}, and could not be read");
                }
                absent_is_done(
                    drop_conversion(&self.client, name, &definition.resource_version, true).await,
                )?;
            }
            Step::DeleteObjects(name, cascade) => return self.delete_objects(name, *cascade).await,
            Step::DeleteDefinition(name) => {
                let api = definitions_api(self.client.clone());
                absent_is_done(api.delete(name, &DeleteParams::default()).await.map(drop))?;
            }
            Step::DeleteLease => {
                let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.installation.namespace);
                let deleted = api.delete(&self.installation.lease, &DeleteParams::default()).await;
                absent_is_done(deleted.map(drop))?;
            }
            Step::DeleteCertificate => {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.installation.namespace);
                let deleted = api.delete(&self.installation.secret, &DeleteParams::default()).await;
                absent_is_done(deleted.map(drop))?;
            }
            Step::DeleteCopies => return self.delete_copies().await,
        }
        Ok(String::new())
    }

    async fn definition(&self, name: &str) -> kube::Result<Option<DefinitionSeen>> {
        let live = definitions_api(self.client.clone()).get_opt(name).await?;
        Ok(live.as_ref().and_then(DefinitionSeen::of))
    }

    async fn stop_manager(&self) -> anyhow::Result<()> {
        #[derive(Debug, Serialize)]
        struct Scale {
            spec: Replicas,
        }
        #[derive(Debug, Serialize)]
        struct Replicas {
            replicas: i32,
        }
        let namespace = &self.installation.namespace;
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let none = Patch::Merge(Scale { spec: Replicas { replicas: 0 } });
        absent_is_done(api.patch_scale(DEPLOYMENT, &PatchParams::default(), &none).await.map(drop))?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        // One that was evicted, or ended with its node, stays until somebody clears it away, and does nothing any more.
        let managers =
            ListParams::default().labels(MANAGER_PODS).fields("status.phase!=Failed,status.phase!=Succeeded");
        wait("the manager's pods to end", async || Ok(pods.list_metadata(&managers).await?.items.len())).await
    }

    async fn remove_all_finalizers(&self, name: &str) -> anyhow::Result<String> {
        let mut removed = 0;
        for _ in 0..TRIES {
            let Some(definition) = self.definition(name).await? else { return Ok(String::new()) };
            let held = match list_objects(&self.client, &definition).await {
                Ok(objects) => objects.held,
                Err(error) if is_absent(&error) => return Ok(String::new()),
                Err(error) => return Err(error.into()),
            };
            if held.is_empty() {
                return Ok(format!(" ({removed})"));
            }
            let done = futures::stream::iter(&held)
                .map(|object: &Held| remove_finalizers(&self.client, &definition, object))
                .buffer_unordered(PARALLEL)
                .collect::<Vec<_>>()
                .await;
            for one in done {
                match one {
                    Ok(()) => removed += 1,
                    // Written meanwhile: seen again in the next turn.
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        bail!("somebody puts finalizers back on {name}")
    }

    async fn delete_objects(&self, name: &str, cascade: Cascade) -> anyhow::Result<String> {
        let Some(definition) = self.definition(name).await? else { return Ok(String::new()) };
        let mut objects = Vec::new();
        let listed = each_object(&self.client, &definition, |meta| {
            let name = meta.name.clone().unwrap_or_default();
            objects.push((meta.namespace.clone(), name, meta.uid.clone()));
        });
        match listed.await {
            Ok(()) => {}
            Err(error) if is_absent(&error) => return Ok(String::new()),
            Err(error) => return Err(error.into()),
        }
        let count = objects.len();
        let policy = match cascade {
            Cascade::Background => PropagationPolicy::Background,
            Cascade::Foreground => PropagationPolicy::Foreground,
            Cascade::Orphan => PropagationPolicy::Orphan,
        };
        let done = futures::stream::iter(objects)
            .map(|(namespace, name, uid)| {
                let api = objects_api(self.client.clone(), &definition, namespace.as_deref());
                let params = DeleteParams {
                    propagation_policy: Some(policy.clone()),
                    preconditions: Some(Preconditions { uid, ..Preconditions::default() }),
                    ..DeleteParams::default()
                };
                async move { api.delete(&name, &params).await.map(drop) }
            })
            .buffer_unordered(PARALLEL)
            .collect::<Vec<_>>()
            .await;
        for one in done {
            absent_is_done(one)?;
        }
        let left = async || match list_objects(&self.client, &definition).await {
            Ok(objects) => Ok(objects.count),
            Err(error) if is_absent(&error) => Ok(0),
            Err(error) => Err(error),
        };
        wait(&format!("the objects of {name} to go"), left).await?;
        Ok(format!(" ({count})"))
    }

    async fn delete_copies(&self) -> anyhow::Result<String> {
        let namespace = &self.installation.daemon_config_namespace;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let listed = api.list_metadata(&ListParams::default()).await?;
        let is_copy =
            |secret: &&PartialObjectMeta<Secret>| secret.annotations().contains_key(keys::SECRET_SOURCE);
        let copies: Vec<String> = listed.items.iter().filter(is_copy).map(ResourceExt::name_any).collect();
        for name in &copies {
            absent_is_done(api.delete(name, &DeleteParams::default()).await.map(drop))?;
        }
        Ok(format!(" ({})", copies.len()))
    }

    /// Installs or upgrades every definition of this build.
    ///
    /// # Errors
    /// A definition was refused.
    pub async fn crds_apply(&self) -> anyhow::Result<Report> {
        self.each_definition(false).await
    }

    /// Tells what an apply would change. Exit code 3 if anything.
    ///
    /// # Errors
    /// A definition would be refused.
    pub async fn crds_diff(&self) -> anyhow::Result<Report> {
        self.each_definition(true).await
    }

    async fn each_definition(&self, dry_run: bool) -> anyhow::Result<Report> {
        let (mut text, mut differ) = (String::new(), false);
        for ours in kruise_api::crd::all() {
            let name = ours.metadata.name.unwrap_or_default();
            let (before, after) = apply(&self.client, &self.installation, &name, dry_run)
                .await
                .with_context(|| format!("cannot apply {name}"))?;
            let spec = |of: Option<
                &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
            >| {
                of.and_then(|of| serde_json::to_value(&of.spec).ok()).unwrap_or_default()
            };
            let lines = definitions::differences(&spec(before.as_ref()), &spec(after.as_ref()), PLACES);
            let what = match (&before, lines.is_empty()) {
                (None, _) if dry_run => "is missing",
                (None, _) => "installed",
                (Some(_), true) => "is as it should be",
                (Some(_), false) if dry_run => "differs",
                (Some(_), false) => "upgraded",
            };
            differ |= before.is_none() || !lines.is_empty();
            let _ = writeln!(text, "{name}: {what}");
            if before.is_some() && dry_run {
                for line in lines {
                    let _ = writeln!(text, "  {line}");
                }
            }
        }
        Ok(Report { text, exit_code: if dry_run && differ { 3 } else { 0 } })
    }

    /// Rewrites objects in the version that is stored now, or has them stored as `to` where that is served, which is how to
    /// go back to an OpenKruise that knows no newer one. Exit code 4 if some could not be.
    ///
    /// # Errors
    /// The definitions cannot be listed.
    pub async fn crds_migrate(&self, dry_run: bool, to: Option<&str>) -> anyhow::Result<Report> {
        let (mut text, mut failed) = (String::new(), false);
        let listed = definitions_api(self.client.clone()).list(&ListParams::default()).await?;
        let known = listed.items.iter().filter_map(DefinitionSeen::of);
        for mut definition in known.filter(|it| crate::installation::kind_of(&it.name).is_some()) {
            // Only what this build converts can be stored in another version than the one it prefers.
            let other = to.filter(|to| {
                **to != *definition.storage && definition.served.contains(*to) && is_built(&definition.name)
            });
            if let Some(to) = other {
                let name = &definition.name;
                if dry_run {
                    let _ = writeln!(
                        text,
                        "{name}: would store objects as {to}, rewrite all and forget {}",
                        definition.storage
                    );
                    continue;
                }
                match store_as(&self.client, &definition, to).await {
                    Ok(stored) => definition = stored,
                    Err(error) => {
                        failed = true;
                        let _ = writeln!(text, "{name}: {error}");
                        continue;
                    }
                }
            }
            let (name, old) = (&definition.name, definition.old_versions().join(", "));
            let line = if old.is_empty() {
                format!("{name}: all objects are stored as {}", definition.storage)
            } else if dry_run {
                format!("{name}: would rewrite all objects as {} and forget {old}", definition.storage)
            } else {
                match migrate(&self.client, &definition).await {
                    Ok(count) => {
                        format!("{name}: rewrote {count} objects as {}, forgot {old}", definition.storage)
                    }
                    Err(error) => {
                        failed = true;
                        format!("{name}: {error}")
                    }
                }
            };
            let _ = writeln!(text, "{line}");
        }
        Ok(Report { text, exit_code: if failed { 4 } else { 0 } })
    }
}

/// Whether a cleanup goes on although this could not be done.
fn may_fail(step: &Step, mode: Mode) -> bool {
    match step {
        Step::Migrate(_) | Step::DropConversion { anyway: false, .. } => true,
        Step::RemoveFinalizers(_) => mode == Mode::Orphan,
        _ => false,
    }
}

/// Waits until nothing of it is left.
async fn wait(what: &str, mut left: impl AsyncFnMut() -> kube::Result<usize>) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let count = left().await?;
        if count == 0 {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("waited {} s for {what}; {count} are left", PATIENCE.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn absent_is_done(done: kube::Result<()>) -> kube::Result<()> {
    done.or_else(|error| if is_absent(&error) { Ok(()) } else { Err(error) })
}

fn done(repair: &Repair) -> String {
    match repair {
        Repair::DeleteConfiguration { configuration, name, .. } => {
            format!("deleted {}/{name}", configuration.kind())
        }
        Repair::PointConversion { definition } => {
            format!("{definition} converts at this installation's Service")
        }
        Repair::DropConversion { definition, .. } => format!("{definition} converts without a webhook"),
        Repair::ApplyDefinition { definition } => format!("applied {definition}"),
        Repair::LabelNamespace { name } => format!("labelled Namespace/{name}"),
        Repair::TakeOwnership { object, release } => {
            format!("{object} belongs to release {}/{}", release.namespace, release.name)
        }
        Repair::RemoveFinalizers { definition, object } => {
            let namespace =
                object.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
            format!("took the finalizers off {definition} {namespace}{}", object.name)
        }
    }
}

fn list(found: &[Finding]) -> String {
    let mut text = String::new();
    for finding in found {
        let Finding { severity, object, problem, remedy, .. } = finding;
        let _ = writeln!(text, "{severity}: {object}\n    {problem}\n    {remedy}");
    }
    let count = |severity| found.iter().filter(|finding| finding.severity == severity).count();
    let human = count(Severity::Human) + count(Severity::NeedsManager);
    let repairable = count(Severity::Repairable);
    let heals = count(Severity::HealsAtStart);
    if human + repairable + heals == 0 {
        text.push_str("nothing is in the way of Kruise\n");
    } else {
        let _ =
            writeln!(text, "{human} need you, {repairable} can be repaired by --fix, {heals} heal at start");
    }
    text
}
