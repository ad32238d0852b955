//! Decides which pulls run, and what the status says. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kruise_api::nodeimage::{
    ImagePullPhase, ImageStatus, ImageTagSpec, ImageTagStatus, NodeImageStatus, PullSecret, SandboxConfig,
    SyncStatus,
};
use kruise_common::image_ref::ImageRef;
use serde::Serialize;

use super::view::{NodeImageView, Wanted};

/// Seconds an attempt may take when nothing else is said.
const DEFAULT_TIMEOUT: i32 = 600;
/// Retries when nothing sensible is said.
const DEFAULT_BACKOFF: i32 = 3;

/// An image and one of its tags, as NodeImage files them.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub(crate) struct Key {
    /// The familiar name.
    pub(crate) image: String,
    /// The tag or digest.
    pub(crate) tag: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.tag.contains(':') { '@' } else { ':' };
        write!(f, "{}{separator}{}", self.image, self.tag)
    }
}

/// One pull to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Task {
    /// What is filed under.
    pub(crate) key: Key,
    /// Which pull of that tag it is.
    pub(crate) version: i64,
    /// What the runtime is asked for.
    pub(crate) reference: ImageRef,
    /// Where credentials are.
    pub(crate) secrets: Vec<PullSecret>,
    /// What the runtime is told about the sandbox.
    pub(crate) sandbox: SandboxConfig,
    /// Done when the image is there already.
    pub(crate) if_not_present: bool,
    /// How often to try at most.
    pub(crate) attempts: u32,
    /// How long one attempt may take.
    pub(crate) timeout: Duration,
    /// How long all attempts together may take from the first start on.
    pub(crate) deadline: Option<Duration>,
    /// When this pull was first started, if that was before the agent was.
    pub(crate) started: Option<Timestamp>,
    /// Who wants to hear of a failure.
    pub(crate) owners: Vec<ObjectReference>,
}

/// An entry that cannot be pulled at all.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    /// What is filed under.
    pub(crate) key: Key,
    /// Which pull of that tag it is.
    pub(crate) version: i64,
    /// Why.
    pub(crate) reason: String,
    /// Who wants to hear of it.
    pub(crate) owners: Vec<ObjectReference>,
}

/// What is to change in the agent.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Pulls that are not wanted any more, or whose result the API server knows.
    pub(crate) stop: Vec<Key>,
    /// Pulls to start.
    pub(crate) start: Vec<Task>,
    /// Entries to call failed at once.
    pub(crate) refuse: Vec<Refusal>,
}

/// What to change, given the versions the agent is at.
pub(crate) fn plan(view: &NodeImageView, local: &BTreeMap<Key, i64>) -> Plan {
    let mut plan = Plan::default();
    let mut open: BTreeMap<Key, i64> = BTreeMap::new();
    for (key, version, what) in entries(view) {
        if finished(view, &key, version).is_some() {
            continue;
        }
        open.insert(key.clone(), version);
        if local.get(&key) == Some(&version) {
            continue;
        }
        let owners = what.tag.and_then(|tag| tag.owner_references.clone()).unwrap_or_default();
        match (what.tag, ImageRef::of(&key.image, &key.tag)) {
            (None, _) => plan.refuse.push(Refusal { key, version, reason: what.fault.to_owned(), owners }),
            (Some(_), Err(error)) => {
                let reason = format!("invalid image {key}: {error}");
                plan.refuse.push(Refusal { key, version, reason, owners });
            }
            (Some(tag), Ok(reference)) => {
                let started = view.status_of(&key.image, &key.tag).filter(|status| status.version == version);
                let started = started.and_then(|status| status.start_time.as_ref()).map(|time| time.0);
                plan.start.push(task(key, tag, what.wanted, reference, started, owners));
            }
        }
    }
    // One that runs at another version is stopped before the new one starts.
    plan.stop = local
        .iter()
        .filter(|(key, version)| open.get(key) != Some(version))
        .map(|(key, _)| key.clone())
        .collect();
    plan
}

/// A wanted tag with what belongs to it.
struct Entry<'a> {
    wanted: &'a Wanted,
    /// None if it could not be read.
    tag: Option<&'a ImageTagSpec>,
    fault: &'a str,
}

fn entries(view: &NodeImageView) -> impl Iterator<Item = (Key, i64, Entry<'_>)> {
    view.images.iter().flat_map(|(image, wanted)| {
        let key = |tag: &str| Key { image: image.clone(), tag: tag.to_owned() };
        let good = wanted
            .tags
            .iter()
            .map(move |tag| (key(&tag.tag), tag.version, Entry { wanted, tag: Some(tag), fault: "" }));
        let bad = wanted
            .malformed
            .iter()
            .map(move |(tag, fault)| (key(tag), 0, Entry { wanted, tag: None, fault }));
        good.chain(bad)
    })
}

/// What the API server knows about a pull that has ended.
fn finished<'a>(view: &'a NodeImageView, key: &Key, version: i64) -> Option<&'a ImageTagStatus> {
    let status = view.status_of(&key.image, &key.tag)?;
    (status.version == version && status.completion_time.is_some()).then_some(status)
}

fn task(
    key: Key,
    tag: &ImageTagSpec,
    wanted: &Wanted,
    reference: ImageRef,
    started: Option<Timestamp>,
    owners: Vec<ObjectReference>,
) -> Task {
    let policy = tag.pull_policy.clone().unwrap_or_default();
    let backoff = policy.backoff_limit.filter(|limit| *limit >= 0).unwrap_or(DEFAULT_BACKOFF);
    let timeout = policy.timeout_seconds.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_TIMEOUT);
    let deadline = policy.active_deadline_seconds.map(|seconds| seconds.max(0).unsigned_abs());
    Task {
        key,
        version: tag.version,
        reference,
        secrets: wanted.secrets.clone(),
        sandbox: wanted.sandbox.clone(),
        if_not_present: tag.image_pull_policy.as_deref() == Some("IfNotPresent"),
        attempts: backoff.unsigned_abs().saturating_add(1),
        timeout: Duration::from_secs(u64::from(timeout.unsigned_abs())),
        deadline: deadline.map(Duration::from_secs),
        started,
        owners,
    }
}

/// The status: what the API server knows of ended pulls, what the agent knows of the others.
pub(crate) fn status(
    view: &NodeImageView,
    local: &BTreeMap<Key, ImageTagStatus>,
    now: Timestamp,
) -> NodeImageStatus {
    let mut images: BTreeMap<String, ImageStatus> = BTreeMap::new();
    let mut new = NodeImageStatus::default();
    for (key, version, _) in entries(view) {
        let own = || local.get(&key).filter(|status| status.version == version).cloned();
        let waiting = || ImageTagStatus { tag: key.tag.clone(), version, ..ImageTagStatus::default() };
        let status = finished(view, &key, version).cloned().or_else(own).unwrap_or_else(waiting);
        new.desired += 1;
        *match status.phase {
            ImagePullPhase::Waiting => &mut new.waiting,
            ImagePullPhase::Pulling => &mut new.pulling,
            ImagePullPhase::Succeeded => &mut new.succeeded,
            ImagePullPhase::Failed => &mut new.failed,
        } += 1;
        images.entry(key.image).or_default().tags.push(status);
    }
    for image in images.values_mut() {
        image.tags.sort_by(|a, b| a.tag.cmp(&b.tag));
    }
    new.first_sync_status = view.status.first_sync_status.clone().or_else(|| first_sync(&new, now));
    new.image_statuses = (!images.is_empty()).then_some(images);
    new
}

/// The outcome, once everything wanted has ended.
fn first_sync(status: &NodeImageStatus, now: Timestamp) -> Option<SyncStatus> {
    if status.desired == 0 || status.waiting + status.pulling > 0 {
        return None;
    }
    Some(SyncStatus {
        sync_at: Some(Time(now)),
        status: Some(if status.failed == 0 { "Succeeded" } else { "Failed" }.to_owned()),
        message: Some(format!("{} of {} images were pulled", status.succeeded, status.desired)),
    })
}

/// A merge patch of the status.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct StatusPatch {
    status: StatusChange,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusChange {
    desired: i32,
    succeeded: i32,
    failed: i32,
    pulling: i32,
    waiting: i32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    image_statuses: BTreeMap<String, Option<ImageStatus>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_sync_status: Option<SyncStatus>,
}

/// What to write so that `old` becomes `new`; none if nothing differs.
pub(crate) fn patch(old: &NodeImageStatus, new: &NodeImageStatus) -> Option<StatusPatch> {
    if old == new {
        return None;
    }
    let none = BTreeMap::new();
    let (before, after) =
        (old.image_statuses.as_ref().unwrap_or(&none), new.image_statuses.as_ref().unwrap_or(&none));
    let gone = before.keys().filter(|image| !after.contains_key(*image)).map(|image| (image.clone(), None));
    let changed = after.iter().filter(|(image, status)| before.get(*image) != Some(status));
    let changed = changed.map(|(image, status)| (image.clone(), Some(status.clone())));
    let first = new.first_sync_status.clone().filter(|_| old.first_sync_status != new.first_sync_status);
    let image_statuses: BTreeMap<_, _> = gone.chain(changed).collect();
    let counts = |status: &NodeImageStatus| {
        (status.desired, status.succeeded, status.failed, status.pulling, status.waiting)
    };
    if image_statuses.is_empty() && first.is_none() && counts(old) == counts(new) {
        return None;
    }
    Some(StatusPatch {
        status: StatusChange {
            desired: new.desired,
            succeeded: new.succeeded,
            failed: new.failed,
            pulling: new.pulling,
            waiting: new.waiting,
            image_statuses,
            first_sync_status: first,
        },
    })
}

#[cfg(test)]
mod tests;
