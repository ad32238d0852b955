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
    /// Rewrites all objects of a definition in the version that is stored, while a manager runs that converts them.
    Migrate(String),
    /// Has a definition convert without a webhook.
    DropConversion {
        /// Its name.
        definition: String,
        /// Also where objects may be stored in another version, which cannot be read without the webhook any more.
        anyway: bool,
    },
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
            Self::Migrate(name) => write!(f, "rewrite all {name} in the version that is stored"),
            Self::DropConversion { definition, .. } => {
                write!(f, "have {definition} convert without a webhook")
            }
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

/// Whether an uninstall would delete objects: those of definitions that Helm owns and does not keep. Helm goes by its
/// release's manifest, so whoever knows what that says tells with `crds_kept`; without, the live definitions have to do.
pub fn check(seen: &Seen, crds_kept: Option<bool>) -> Check {
    if let Some(blind) = seen.blind() {
        return Check::Unknown(vec![blind.clone()]);
    }
    let removed = |definition: &DefinitionSeen| {
        definition.ownership.managed && !crds_kept.unwrap_or(definition.ownership.kept)
    };
    let removed_by_name = |name: &String| {
        seen.definitions.iter().any(|definition| definition.name == *name && removed(definition))
    };
    let unlisted: Vec<(String, String)> = seen
        .unlisted
        .iter()
        .filter(|(name, _)| removed_by_name(name))
        .map(|(name, why)| (format!("objects of {name}"), why.clone()))
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
/// Objects would go that nobody has agreed to lose, or it is not known what there is.
pub fn plan(
    seen: &Seen,
    installation: &Installation,
    mode: Mode,
    cascade: Cascade,
    confirmed: bool,
) -> Result<Cleanup, Refusal> {
    let unreadable =
        |(what, why): (&String, &String)| Refusal::Unreadable { what: what.clone(), why: why.clone() };
    if let Some((what, why)) = seen.blind() {
        return Err(unreadable((what, why)));
    }
    if mode == Mode::Purge && !confirmed {
        let all: Vec<Remaining> = remaining(seen).into_iter().map(|(_, remaining)| remaining).collect();
        if !all.is_empty() {
            return Err(Refusal::Objects(all));
        }
        let unread = seen.unreadable.iter().map(|(what, why)| (what, why)).chain(&seen.unlisted).next();
        if let Some(unread) = unread {
            return Err(unreadable(unread));
        }
    }
    let mut cleanup = Cleanup::default();
    // Without the webhook nothing could be listed once the manager is gone, not even to be deleted.
    let unsafe_to_drop = |definition: &DefinitionSeen| {
        let by_webhook = matches!(definition.conversion, ConversionSeen::Webhook { .. });
        by_webhook && !definition.old_versions().is_empty() && !definition.deleting && mode != Mode::Purge
    };
    if seen.manager.leader.is_some() {
        let old = seen.definitions.iter().filter(|definition| unsafe_to_drop(definition));
        cleanup.steps.extend(old.map(|definition| Step::Migrate(definition.name.clone())));
    }
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
        if by_webhook && !(unsafe_to_drop(definition) && seen.manager.leader.is_none()) {
            let anyway = definition.deleting || mode == Mode::Purge;
            cleanup.steps.push(Step::DropConversion { definition: name(), anyway });
        } else if by_webhook {
            cleanup.warnings.push(format!(
                "{} keeps its conversion webhook, because objects may be stored as {} and no manager runs: without one \
                 they cannot be read; start one and run `crds migrate`",
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
