//! What each look at a pod in the middle of an in-place update leads to.

use std::time::Duration;

use jiff::Timestamp;

use super::hashes::{RuntimeMeta, expected_env_hash, plain_hash, same_image};
use super::state::{State, UpdateSpec, is_in_grace, remove_grace};
use super::{Changes, apply, precondition, put_metadata};
use crate::patch::PodPatch;
use crate::pod::{PodView, ResourcesView};
use crate::readiness;
use crate::revision::{quantity, same_revision};

/// What to do now for a pod that is, or was, updated in place.
#[derive(Clone, Debug, PartialEq)]
pub enum Refresh {
    /// Nothing to do, or nothing that time alone would change.
    Nothing,
    /// The grace period ends after this.
    Wait(Duration),
    /// Send this: the next batch, the end of a grace period, or the removal of a plan that is void.
    Patch(PodPatch),
    /// Send the first patch to the pod, then the second to `pods/resize`.
    PatchAndResize(PodPatch, PodPatch),
    /// The update is complete: InPlaceUpdateReady should become True, for this very version of the pod.
    BecomeReady,
    /// The annotations cannot be understood.
    Broken(String),
}

/// Looks at a pod. `revision_label` is the key of the label that says which revision a pod is at.
pub fn refresh(pod: &PodView, revision_label: &str, now: Timestamp) -> Refresh {
    let state = match State::of(pod) {
        Ok(state) => state,
        Err(error) => return Refresh::Broken(format!("in-place update state: {error}")),
    };
    if is_in_grace(pod) {
        return in_grace(pod, state, revision_label, now);
    }
    if let Some(mut state) = state {
        if !containers_complete(pod, &state) {
            return Refresh::Nothing;
        }
        if state.has_next() {
            if !pre_check(pod, &state) {
                return Refresh::Nothing;
            }
            let mut patch = precondition(pod);
            let changes = Changes::take_next(&mut state);
            let resize = apply(pod, changes, &mut state, &mut patch, now);
            state.write(pod, &mut patch);
            return sent(patch, resize);
        }
    }
    if readiness::in_place_ready(pod, now).is_some() { Refresh::BecomeReady } else { Refresh::Nothing }
}

fn sent(patch: PodPatch, resize: Option<PodPatch>) -> Refresh {
    match resize {
        Some(resize) => Refresh::PatchAndResize(patch, resize),
        None => Refresh::Patch(patch),
    }
}

fn in_grace(pod: &PodView, state: Option<State>, revision_label: &str, now: Timestamp) -> Refresh {
    let plan = match UpdateSpec::in_grace(pod) {
        Ok(plan) => plan.unwrap_or_default(),
        Err(error) => return Refresh::Broken(format!("in-place update grace: {error}")),
    };
    let mut patch = precondition(pod);
    remove_grace(pod, &mut patch);
    if !pod.label(revision_label).is_some_and(|at| same_revision(at, &plan.revision)) {
        return Refresh::Patch(patch);
    }
    let Some(mut state) = state else {
        return Refresh::Broken("a grace period without an in-place update state".to_owned());
    };
    let Some(begun) = state.update_timestamp else {
        return Refresh::Broken("an in-place update state without a time".to_owned());
    };
    let left = i128::from(plan.grace_seconds) * 1000 - now.duration_since(begun).as_millis();
    if left > 0 {
        return Refresh::Wait(Duration::from_secs(u64::try_from((left + 999) / 1000).unwrap_or(1)));
    }
    put_metadata(&plan.metadata, &mut patch);
    state.update_env_from_metadata |= plan.update_env_from_metadata;
    let resize = apply(pod, Changes::of(plan), &mut state, &mut patch, now);
    state.write(pod, &mut patch);
    sent(patch, resize)
}

fn pre_check(pod: &PodView, state: &State) -> bool {
    let required = state.pre_check_before_next.iter().flat_map(|check| &check.containers_required_ready);
    required.into_iter().all(|name| pod.statuses.iter().any(|status| *status.name == **name && status.ready))
}

/// True if no in-place update is under way; an update whose state cannot be read is.
pub fn is_complete(pod: &PodView) -> bool {
    if is_in_grace(pod) {
        return false;
    }
    match State::of(pod) {
        Ok(Some(state)) => !state.has_next() && containers_complete(pod, &state),
        Ok(None) => true,
        Err(_) => false,
    }
}

/// True if every container that was changed runs what the pod asks for.
pub fn containers_complete(pod: &PodView, state: &State) -> bool {
    let meta = RuntimeMeta::of(pod);
    let status = |name: &str| pod.statuses.iter().find(|status| &*status.name == name);
    if state.update_env_from_metadata {
        let restarted = pod.containers.iter().all(|container| {
            let seen = meta.as_ref().and_then(|meta| meta.container(&container.name));
            seen.zip(status(&container.name)).is_some_and(|(seen, status)| {
                seen.container_id == *status.container_id
                    && seen.hashes.extracted_env_from_metadata_hash == expected_env_hash(pod, container)
            })
        });
        if !restarted {
            return false;
        }
    }
    if state.update_resources {
        let resized = pod.statuses.len() == pod.containers.len()
            && pod.containers.iter().all(|container| {
                status(&container.name).is_some_and(|status| {
                    same_resources(container.resources.as_deref(), status.resources.as_deref())
                })
            });
        if !resized {
            return false;
        }
    }
    let short_cut = meta.is_some_and(|meta| {
        pod.containers.iter().all(|container| {
            let hash = plain_hash(&container.image, &container.name);
            meta.container(&container.name).is_some_and(|seen| seen.hashes.plain_hash == hash)
        })
    });
    short_cut
        || state.last_container_statuses.iter().flatten().all(|(name, last)| {
            let Some(status) = status(name) else { return false };
            let wanted = pod.containers.iter().find(|container| *container.name == **name);
            if wanted.is_some_and(|container| same_image(&container.image, &status.image)) {
                return true;
            }
            let superseded =
                state.superseded_images.get(name).is_some_and(|image| same_image(image, &status.image));
            !superseded && !status.image_id.is_empty() && *status.image_id != *last.image_id
        })
}

fn same_resources(a: Option<&ResourcesView>, b: Option<&ResourcesView>) -> bool {
    let blank = ResourcesView::default();
    let (a, b) = (a.unwrap_or(&blank), b.unwrap_or(&blank));
    [(&a.limits, &b.limits), (&a.requests, &b.requests)].iter().all(|(a, b)| {
        a.len() == b.len()
            && a.iter().all(|(name, x)| {
                b.get(name).is_some_and(|y| {
                    x == y || quantity::nanos_of(x).zip(quantity::nanos_of(y)).is_some_and(|(x, y)| x == y)
                })
            })
    })
}
