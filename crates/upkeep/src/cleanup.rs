//! What it takes to remove Kruise so that nothing it leaves blocks the cluster: decided from what was seen alone.

use std::fmt;

use kruise_webhook::configure::Configuration;

use crate::installation::{Installation, KINDS, Kind, kind_of};
use crate::seen::{ConversionSeen, DefinitionSeen, Seen};

/// What happens to Kruise's definitions and objects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// They stay, and can be read.
    Keep,
    /// They stay, and nothing keeps them from being deleted.
    Orphan,
    /// They go.
    Purge,
}

/// What happens to the pods of objects that are deleted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cascade {
    /// They go after their owner.
    Background,
    /// They go before their owner.
    Foreground,
    /// They stay without an owner.
    Orphan,
}

/// Objects that somebody would miss.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remaining {
    /// What they are called.
    pub said: &'static str,
    /// How many there are.
    pub count: usize,
    /// The first five.
    pub first: Vec<String>,
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (said, count) = (self.said, self.count);
        let more = if count > self.first.len() { ", …" } else { "" };
        write!(f, "there still exists some {said} in the cluster: {count} ({}{more})", self.first.join(", "))
    }
}

/// What a look before an uninstall says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Check {
    /// Nobody would miss anything.
    Clean,
    /// There are objects, and their definitions stay.
    Kept(Vec<Remaining>),
    /// There are objects that would be deleted with their definitions.
    AtRisk(Vec<Remaining>),
    /// It cannot be told, because these could not be listed.
    Unknown(Vec<(String, String)>),
}

/// One step of a cleanup; steps are taken in order, and each is done already where there is nothing to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Deletes a webhook configuration: from here on nothing is blocked.
    DeleteConfiguration(Configuration, String),
    /// Scales the manager to nothing and waits until its pods are gone, so that it makes nothing anew.
    StopManager,
    /// Takes Kruise's finalizers off all objects of a definition.
    RemoveFinalizers(String),
    /// Has a definition convert without a webhook.
    DropConversion(String),
    /// Deletes the objects of a definition.
    DeleteObjects(String, Cascade),
    /// Deletes a definition.
    DeleteDefinition(String),
    /// Deletes the Lease.
    DeleteLease,
    /// Deletes the Secret of the certificate.
    DeleteCertificate,
    /// Deletes the copies of pull Secrets.
    DeleteCopies,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteConfiguration(configuration, name) => {
                write!(f, "delete {}/{name}", configuration.kind())
            }
            Self::StopManager => f.write_str("scale the manager to 0 and wait for its pods to end"),
            Self::RemoveFinalizers(name) => write!(f, "take Kruise's finalizers off all {name}"),
            Self::DropConversion(name) => write!(f, "have {name} convert without a webhook"),
            Self::DeleteObjects(name, cascade) => write!(f, "delete all {name} ({cascade:?})"),
            Self::DeleteDefinition(name) => write!(f, "delete CustomResourceDefinition/{name}"),
            Self::DeleteLease => f.write_str("delete the Lease"),
            Self::DeleteCertificate => f.write_str("delete the Secret of the webhook certificate"),
            Self::DeleteCopies => f.write_str("delete the copies of pull Secrets"),
        }
    }
}

/// What is done, and what has to be said about it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cleanup {
    /// In order.
    pub steps: Vec<Step>,
    /// What stays behind, and what comes of it.
    pub warnings: Vec<String>,
}

/// Why nothing was done.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// There are objects that were not meant to go.
    #[error("{}\nnothing was changed; --yes-delete-custom-resources deletes them with their pods", lines(.0))]
    Objects(Vec<Remaining>),
    /// It cannot be told what there is.
    #[error("cannot tell what would be deleted, so nothing was changed: {what}: {why}")]
    Unreadable {
        /// What could not be listed.
        what: String,
        /// The answer.
        why: String,
    },
}

fn lines(remaining: &[Remaining]) -> String {
    remaining.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Objects of every kind that somebody would miss.
fn remaining(seen: &Seen) -> Vec<(&DefinitionSeen, Remaining)> {
    let missed = |definition: &&DefinitionSeen| kind_of(&definition.name).is_some_and(|kind| !kind.derived);
    seen.definitions
        .iter()
        .filter(missed)
        .filter_map(|definition| {
            let objects = seen.objects.get(&definition.name).filter(|objects| objects.count > 0)?;
            let said = KINDS.iter().find(|kind| kind.definition == definition.name).map_or("objects", said);
            Some((definition, Remaining { said, count: objects.count, first: objects.first.clone() }))
        })
        .collect()
}

fn said(kind: &Kind) -> &'static str {
    kind.said
}

/// Whether an uninstall would delete objects: those of definitions that Helm owns and does not keep.
pub fn check(seen: &Seen) -> Check {
    let removed = |definition: &DefinitionSeen| definition.ownership.managed && !definition.ownership.kept;
    let unlisted: Vec<(String, String)> = seen
        .definitions
        .iter()
        .filter(|definition| removed(definition) && !seen.objects.contains_key(&definition.name))
        .map(|definition| {
            let why = seen.unreadable.iter().find(|(what, _)| what.contains(&definition.name));
            (definition.name.clone(), why.map(|(_, why)| why.clone()).unwrap_or_default())
        })
        .collect();
    let (risked, kept): (Vec<_>, Vec<_>) =
        remaining(seen).into_iter().partition(|(definition, _)| removed(definition));
    let only = |some: Vec<(&DefinitionSeen, Remaining)>| some.into_iter().map(|(_, one)| one).collect();
    if !risked.is_empty() {
        Check::AtRisk(only(risked))
    } else if !unlisted.is_empty() {
        Check::Unknown(unlisted)
    } else if kept.is_empty() {
        Check::Clean
    } else {
        Check::Kept(only(kept))
    }
}

/// The steps that remove Kruise.
///
/// # Errors
/// Objects would go that nobody has agreed to lose.
pub fn plan(
    seen: &Seen,
    installation: &Installation,
    mode: Mode,
    cascade: Cascade,
    confirmed: bool,
) -> Result<Cleanup, Refusal> {
    if mode == Mode::Purge && !confirmed {
        let all: Vec<Remaining> = remaining(seen).into_iter().map(|(_, remaining)| remaining).collect();
        if !all.is_empty() {
            return Err(Refusal::Objects(all));
        }
        if let Some((what, why)) = seen.unreadable.first() {
            return Err(Refusal::Unreadable { what: what.clone(), why: why.clone() });
        }
    }
    let mut cleanup = Cleanup::default();
    let configurations =
        || seen.configurations.iter().map(|it| Step::DeleteConfiguration(it.configuration, it.name.clone()));
    cleanup.steps.extend(configurations());
    if seen.manager.replicas.is_some() || seen.manager.leader.is_some() {
        cleanup.steps.push(Step::StopManager);
        // A manager that ran until now has made them anew.
        cleanup.steps.extend(
            Configuration::ALL.map(|configuration| {
                Step::DeleteConfiguration(configuration, configuration.name().to_owned())
            }),
        );
    }
    for definition in &seen.definitions {
        let name = || definition.name.clone();
        let by_webhook = matches!(definition.conversion, ConversionSeen::Webhook { .. });
        // Without it nothing could be listed once the manager is gone, not even to be deleted.
        let safe = definition.old_versions().is_empty();
        if by_webhook && (safe || definition.deleting || mode == Mode::Purge) {
            cleanup.steps.push(Step::DropConversion(name()));
        } else if by_webhook {
            cleanup.warnings.push(format!(
                "{} keeps its conversion webhook, because objects may be stored as {}: without a manager they cannot \
                 be read; run `crds migrate` while one runs",
                definition.title(),
                definition.old_versions().join(", ")
            ));
        }
        let objects = seen.objects.get(&definition.name);
        let held = objects.is_some_and(|objects| !objects.held.is_empty());
        // What could not be listed yet may have some.
        if mode != Mode::Keep && (held || objects.is_none()) {
            cleanup.steps.push(Step::RemoveFinalizers(name()));
        } else if held {
            cleanup.warnings.push(format!(
                "some {} have finalizers of Kruise: their deletion waits for a manager; --mode=orphan takes them off",
                definition.name
            ));
        }
        if mode == Mode::Purge {
            cleanup.steps.push(Step::DeleteObjects(name(), cascade));
        }
    }
    if mode == Mode::Purge {
        let definitions = seen.definitions.iter().map(|it| Step::DeleteDefinition(it.name.clone()));
        cleanup.steps.extend(definitions);
    }
    let exists = |name: &str| seen.namespaces.iter().any(|namespace| namespace.name == name);
    if exists(&installation.namespace) {
        cleanup.steps.extend([Step::DeleteLease, Step::DeleteCertificate]);
    }
    if exists(&installation.daemon_config_namespace) {
        cleanup.steps.push(Step::DeleteCopies);
    }
    Ok(cleanup)
}

#[cfg(test)]
mod tests;
