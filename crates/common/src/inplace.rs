//! In-place update: changing a running pod's containers instead of replacing the pod.

mod diff;
mod hashes;
mod refresh;
mod state;
#[cfg(test)]
mod tests;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kruise_api::keys;
use serde_json::{Map, Value};

pub use diff::{InPlaceOptions, NotInPlace, between, diff};
pub use hashes::{
    RuntimeContainer, RuntimeHashes, RuntimeMeta, env_hash, expected_env_hash, plain_hash, same_image,
};
pub use refresh::{Refresh, containers_complete, is_complete, refresh};
pub use state::{Batch, LastStatus, MetadataChange, PreCheck, RefMetadata, State, UpdateSpec, is_in_grace};

use crate::patch::{ContainerPatch, PodPatch, SpecPatch, rfc3339_seconds};
use crate::pod::PodView;
use crate::readiness;
use crate::revision::Revision;
use diff::{finalizers, template_container, text};

/// The writes that begin an in-place update, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Started {
    /// To `pods/status`: takes the pod out of service. `None` if it may stay in.
    pub unready: Option<PodPatch>,
    /// To the pod: labels, state and the first batch, or the plan for after the grace period.
    pub pod: PodPatch,
    /// To `pods/resize`: cpu and memory of the first batch.
    pub resize: Option<PodPatch>,
    /// When to look again, for the end of the grace period.
    pub requeue_after: Option<Duration>,
}

impl Started {
    /// The same writes for an API server without `pods/resize`.
    #[must_use]
    pub fn resized_in_pod(mut self) -> Self {
        if let Some(resize) = self.resize.take() {
            self.pod.merge(resize);
        }
        self
    }
}

/// True if an API server with these resources of the core group has `pods/resize`.
pub fn serves_resize(core: &APIResourceList) -> bool {
    core.resources.iter().any(|resource| resource.name == "pods/resize")
}

/// Begins to bring a pod to `target`. `labels` are the revision labels and the lifecycle state.
///
/// What an older, unfinished update still had to change is changed too, to what the target asks for.
pub fn start(
    pod: &PodView,
    spec: &UpdateSpec,
    target: &Revision,
    labels: &[(String, String)],
    now: Timestamp,
) -> Started {
    let older = State::of(pod).ok().flatten();
    // Most pods need nothing of it.
    let template = LazyCell::new(|| target.template());
    let spec = with_unfinished(pod, spec, older.as_ref(), &template);
    let mut state = State {
        revision: spec.revision.clone(),
        update_timestamp: Some(now),
        update_env_from_metadata: spec.update_env_from_metadata,
        update_resources: !spec.container_resources.is_empty(),
        update_images: !spec.container_images.is_empty(),
        ..State::default()
    };
    if let Some(older) = older.filter(|older| !containers_complete(pod, older)) {
        carry_over(pod, older, &spec, &mut state);
    }
    let unready = leaves_service(&spec, &template).then(|| readiness::in_place_not_ready(pod, now)).flatten();
    let mut started = Started {
        unready: unready.map(|mut patch| {
            patch.merge(precondition(pod));
            patch
        }),
        pod: precondition(pod),
        ..Started::default()
    };
    let patch = &mut started.pod;
    if spec.grace_seconds > 0 {
        if let Ok(json) = serde_json::to_string(&spec) {
            patch.set_annotation(keys::INPLACE_GRACE, json);
        }
        if pod.annotation(keys::INPLACE_GRACE_OLD).is_some() {
            patch.metadata.annotations.insert(keys::INPLACE_GRACE_OLD.to_owned(), None);
        }
        started.requeue_after = Some(Duration::from_secs(spec.grace_seconds.unsigned_abs()));
    } else {
        state::remove_grace(pod, patch);
        put_metadata(&spec.metadata, patch);
        started.resize = apply(pod, Changes::of(spec), &mut state, patch, now);
    }
    for (key, value) in labels {
        patch.set_label(key, value.as_str());
        if key == keys::LIFECYCLE_STATE {
            patch.set_annotation(keys::LIFECYCLE_TIMESTAMP, rfc3339_seconds(now));
        }
    }
    state.write(pod, patch);
    started
}

/// A patch that holds for this pod only, not for another of its name.
fn precondition(pod: &PodView) -> PodPatch {
    let mut patch = PodPatch::default();
    patch.metadata.uid = Some(pod.uid.to_string()).filter(|uid| !uid.is_empty());
    patch
}

fn put_metadata(change: &MetadataChange, patch: &mut PodPatch) {
    patch.metadata.labels.extend(change.labels.clone());
    patch.metadata.annotations.extend(change.annotations.clone());
    patch.metadata.finalizers.extend(change.finalizers.clone());
    patch.metadata.removed_finalizers.extend(change.removed_finalizers.clone());
}

/// Whether a container restarts: nothing else needs the pod out of service.
fn leaves_service(spec: &UpdateSpec, template: &impl Deref<Target = Value>) -> bool {
    let restarts = |(name, changed): (&String, &Value)| {
        let policies = template_container(template, name)
            .and_then(|container| container.get("resizePolicy"))
            .and_then(Value::as_array);
        policies.into_iter().flatten().any(|policy| {
            let touched =
                |part: &str| changed.get(part).and_then(|part| part.get(text(policy, "resourceName")));
            text(policy, "restartPolicy") == "RestartContainer"
                && (touched("limits").is_some() || touched("requests").is_some())
        })
    };
    !spec.container_images.is_empty()
        || spec.update_env_from_metadata
        || spec.container_resources.iter().any(restarts)
}

/// Containers that an older update is still changing stay watched, and its image is not taken for the new one.
fn carry_over(pod: &PodView, older: State, spec: &UpdateSpec, state: &mut State) {
    state.update_env_from_metadata |= older.update_env_from_metadata;
    state.update_resources |= older.update_resources;
    state.update_images |= older.update_images;
    for (name, last) in older.last_container_statuses.unwrap_or_default() {
        let Some(container) = pod.containers.iter().find(|container| *container.name == *name) else {
            continue;
        };
        match spec.container_images.get(&name) {
            None => {
                if let Some(image) = older.superseded_images.get(&name) {
                    state.superseded_images.insert(name.clone(), image.clone());
                }
                state.last_container_statuses.get_or_insert_default().insert(name, last);
            }
            Some(image) if !same_image(image, &container.image) => {
                state.superseded_images.insert(name, container.image.to_string());
            }
            Some(_) => {}
        }
    }
}

/// The plan, with what an older plan left undone brought to the target's values.
fn with_unfinished(
    pod: &PodView,
    spec: &UpdateSpec,
    older: Option<&State>,
    template: &impl Deref<Target = Value>,
) -> UpdateSpec {
    let mut spec = spec.clone();
    let mut left: Vec<Changes> = older.map(Changes::next_of).into_iter().collect();
    if let Ok(Some(plan)) = UpdateSpec::in_grace(pod) {
        let metadata = |label: bool, key: &str| target_metadata(template, label, key).map(str::to_owned);
        for key in plan.metadata.labels.keys().filter(|key| !is_planned(&spec, true, key)).collect::<Vec<_>>()
        {
            spec.metadata.labels.insert(key.clone(), metadata(true, key));
        }
        for key in
            plan.metadata.annotations.keys().filter(|key| !is_planned(&spec, false, key)).collect::<Vec<_>>()
        {
            spec.metadata.annotations.insert(key.clone(), metadata(false, key));
        }
        let wanted = finalizers(template);
        for name in plan.metadata.finalizers.iter().chain(&plan.metadata.removed_finalizers) {
            let change = &mut spec.metadata;
            if change.finalizers.contains(name) || change.removed_finalizers.contains(name) {
                continue;
            }
            let list =
                if wanted.contains(name) { &mut change.finalizers } else { &mut change.removed_finalizers };
            list.push(name.clone());
        }
        spec.update_env_from_metadata |= plan.update_env_from_metadata;
        left.push(Changes::of(plan));
    }
    for left in left {
        for name in left.images.into_keys() {
            let image = template_container(template, &name).map(|container| text(container, "image"));
            let now = pod.containers.iter().find(|container| *container.name == *name);
            if let (Some(image), Some(now)) = (image, now)
                && *now.image != *image
            {
                spec.container_images.entry(name).or_insert_with(|| image.to_owned());
            }
        }
        for (name, changed) in left.resources {
            merge_resources(&mut spec, template, &name, &changed);
        }
        for (name, own) in left.ref_metadata {
            let keys = own.labels.into_keys().map(|key| (true, key));
            for (label, key) in keys.chain(own.annotations.into_keys().map(|key| (false, key))) {
                let Some(value) = target_metadata(template, label, &key) else { continue };
                let own = spec.container_ref_metadata.entry(name.clone()).or_default();
                let own = if label { &mut own.labels } else { &mut own.annotations };
                own.insert(key, value.to_owned());
                spec.update_env_from_metadata = true;
            }
        }
    }
    spec
}

fn is_planned(spec: &UpdateSpec, label: bool, key: &str) -> bool {
    let map = if label { &spec.metadata.labels } else { &spec.metadata.annotations };
    map.contains_key(key)
        || spec
            .container_ref_metadata
            .values()
            .any(|own| if label { own.labels.contains_key(key) } else { own.annotations.contains_key(key) })
}

fn target_metadata<'a>(template: &'a Value, label: bool, key: &str) -> Option<&'a str> {
    let part = if label { "labels" } else { "annotations" };
    template.get("metadata")?.get(part)?.get(key)?.as_str()
}

fn merge_resources(spec: &mut UpdateSpec, template: &Value, name: &str, changed: &Value) {
    let wanted = template_container(template, name).and_then(|container| container.get("resources"));
    for part in ["limits", "requests"] {
        for resource in changed.get(part).and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            let value = wanted.and_then(|wanted| wanted.get(part)).and_then(|part| part.get(resource));
            let Some(value) = value else { continue };
            let own = spec.container_resources.entry(name.to_owned());
            let Value::Object(own) = own.or_insert_with(|| Value::Object(Map::new())) else { continue };
            let Value::Object(own) = own.entry(part).or_insert_with(|| Value::Object(Map::new())) else {
                continue;
            };
            own.entry(resource.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// What is still to be changed, by container.
#[derive(Clone, Debug, Default)]
struct Changes {
    images: BTreeMap<String, String>,
    ref_metadata: BTreeMap<String, RefMetadata>,
    resources: BTreeMap<String, Value>,
}

impl Changes {
    fn of(spec: UpdateSpec) -> Self {
        Self {
            images: spec.container_images,
            ref_metadata: spec.container_ref_metadata,
            resources: spec.container_resources,
        }
    }

    fn next_of(state: &State) -> Self {
        Self {
            images: state.next_container_images.clone(),
            ref_metadata: state.next_container_ref_metadata.clone(),
            resources: state.next_container_resources.clone(),
        }
    }

    fn take_next(state: &mut State) -> Self {
        state.pre_check_before_next = None;
        Self {
            images: std::mem::take(&mut state.next_container_images),
            ref_metadata: std::mem::take(&mut state.next_container_ref_metadata),
            resources: std::mem::take(&mut state.next_container_resources),
        }
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.images.keys().chain(self.ref_metadata.keys()).chain(self.resources.keys())
    }

    /// The containers to change first: those without launch priority, those with the highest one, and all that
    /// share a label or annotation with them.
    fn batch(&self, pod: &PodView) -> BTreeSet<String> {
        let priorities: BTreeMap<&str, Option<i32>> =
            pod.containers.iter().map(|container| (&*container.name, container.launch_priority)).collect();
        let touched: BTreeMap<&String, Option<i32>> =
            self.names().filter_map(|name| Some((name, *priorities.get(name.as_str())?))).collect();
        let highest = touched.values().flatten().max().copied();
        let first = |priority: Option<i32>| priority.is_none() || priority == highest;
        let mut batch: BTreeSet<String> = touched
            .iter()
            .filter(|(_, priority)| first(**priority))
            .map(|(name, _)| (*name).clone())
            .collect();
        loop {
            let shared: BTreeSet<(bool, &String)> =
                batch.iter().filter_map(|name| self.ref_metadata.get(name)).flat_map(ref_keys).collect();
            let more: Vec<String> = touched
                .keys()
                .filter(|name| !batch.contains(**name))
                .filter(|name| {
                    let own = self.ref_metadata.get(**name);
                    own.is_some_and(|own| ref_keys(own).any(|key| shared.contains(&key)))
                })
                .map(|name| (*name).clone())
                .collect();
            if more.is_empty() {
                return batch;
            }
            batch.extend(more);
        }
    }
}

fn ref_keys(own: &RefMetadata) -> impl Iterator<Item = (bool, &String)> {
    own.labels.keys().map(|key| (true, key)).chain(own.annotations.keys().map(|key| (false, key)))
}

/// Puts the first batch of the changes into `patch` and the rest into `state`; returns the batch's resize.
fn apply(
    pod: &PodView,
    mut changes: Changes,
    state: &mut State,
    patch: &mut PodPatch,
    now: Timestamp,
) -> Option<PodPatch> {
    let batch = changes.batch(pod);
    let mut images = Vec::new();
    let mut resizes = Vec::new();
    for name in &batch {
        if let Some(image) = changes.images.remove(name) {
            if let Some(status) = pod.statuses.iter().find(|status| *status.name == **name) {
                let last = LastStatus { image_id: status.image_id.to_string() };
                state.last_container_statuses.get_or_insert_default().insert(name.clone(), last);
            } else {
                state
                    .last_container_statuses
                    .get_or_insert_default()
                    .insert(name.clone(), LastStatus::default());
            }
            images.push(ContainerPatch { name: name.clone(), image: Some(image), resources: None });
        }
        if let Some(own) = changes.ref_metadata.remove(name) {
            patch.metadata.labels.extend(own.labels.into_iter().map(|(key, value)| (key, Some(value))));
            patch
                .metadata
                .annotations
                .extend(own.annotations.into_iter().map(|(key, value)| (key, Some(value))));
        }
        if let Some(resources) = changes.resources.remove(name) {
            resizes.push(ContainerPatch { name: name.clone(), image: None, resources: Some(resources) });
        }
    }
    // A container that is no longer in the pod can never be changed.
    let exists = |name: &String| pod.containers.iter().any(|container| *container.name == **name);
    changes.images.retain(|name, _| exists(name));
    changes.ref_metadata.retain(|name, _| exists(name));
    changes.resources.retain(|name, _| exists(name));
    let containers: Vec<String> = batch.into_iter().collect();
    state.pre_check_before_next =
        changes.names().next().is_some().then(|| PreCheck { containers_required_ready: containers.clone() });
    state.next_container_images = changes.images;
    state.next_container_ref_metadata = changes.ref_metadata;
    state.next_container_resources = changes.resources;
    if !containers.is_empty() {
        state.container_batches_record.push(Batch { timestamp: Some(now), containers });
    }
    if !images.is_empty() {
        patch.spec = Some(SpecPatch { containers: images });
    }
    (!resizes.is_empty()).then(|| {
        let mut resize = precondition(pod);
        resize.spec = Some(SpecPatch { containers: resizes });
        resize
    })
}
