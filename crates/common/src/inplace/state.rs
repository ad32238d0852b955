//! What an in-place update leaves on the pod: the state and grace annotations.

use std::collections::BTreeMap;

use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kruise_api::keys;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::patch::{PodPatch, rfc3339_seconds};
use crate::pod::PodView;

/// Labels and annotations that a container's env reads.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct RefMetadata {
    /// Labels to set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations to set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The part of a template's metadata change that no env reads. `None` removes a key.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct MetadataChange {
    /// Labels to set or remove.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Annotations to set or remove.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, Option<String>>,
    /// Finalizers to add.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// Finalizers to remove.
    #[serde(rename = "$deleteFromPrimitiveList/finalizers", skip_serializing_if = "Vec::is_empty")]
    pub removed_finalizers: Vec<String>,
}

impl MetadataChange {
    /// True if nothing changes.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
            && self.annotations.is_empty()
            && self.finalizers.is_empty()
            && self.removed_finalizers.is_empty()
    }
}

#[derive(Default, Deserialize, Serialize)]
struct Wrapped {
    #[serde(default)]
    metadata: MetadataChange,
}

mod base64_patch {
    use base64::Engine as _;

    use super::{Deserialize, Deserializer, MetadataChange, STANDARD, Serializer, Wrapped};

    pub(super) fn serialize<S: Serializer>(change: &MetadataChange, to: S) -> Result<S::Ok, S::Error> {
        let wrapped = Wrapped { metadata: change.clone() };
        let json = serde_json::to_vec(&wrapped).map_err(serde::ser::Error::custom)?;
        to.serialize_str(&STANDARD.encode(json))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MetadataChange, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(MetadataChange::default()) };
        let json = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        if json.is_empty() {
            return Ok(MetadataChange::default());
        }
        Ok(serde_json::from_slice::<Wrapped>(&json).map_err(serde::de::Error::custom)?.metadata)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// What brings a pod from one revision to another without recreating it. Also the grace annotation's JSON.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UpdateSpec {
    /// Name of the target revision.
    pub revision: String,
    /// New images by container.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub container_images: BTreeMap<String, String>,
    /// Labels and annotations by the container whose env reads them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub container_ref_metadata: BTreeMap<String, RefMetadata>,
    /// Changed quantities by container, in the form of `resources`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub container_resources: BTreeMap<String, Value>,
    /// The other changes of labels, annotations and finalizers.
    #[serde(
        rename = "metaDataPatch",
        with = "base64_patch",
        skip_serializing_if = "MetadataChange::is_empty"
    )]
    pub metadata: MetadataChange,
    /// True if some container must restart to see its env.
    #[serde(skip_serializing_if = "is_false")]
    pub update_env_from_metadata: bool,
    /// How long the pod is out of service before its containers change.
    #[serde(skip_serializing_if = "is_zero")]
    pub grace_seconds: i64,
}

/// A container's image before it changed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct LastStatus {
    /// `status.imageID` at that time.
    #[serde(rename = "imageID")]
    pub image_id: String,
}

/// What must hold before the next batch.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PreCheck {
    /// Containers that must be ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub containers_required_ready: Vec<String>,
}

/// Containers that changed together.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Batch {
    /// When.
    #[serde(serialize_with = "seconds")]
    pub timestamp: Option<Timestamp>,
    /// Which, sorted.
    pub containers: Vec<String>,
}

/// The state annotation: how far an in-place update is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct State {
    /// Name of the target revision.
    pub revision: String,
    /// When the update began.
    #[serde(serialize_with = "seconds")]
    pub update_timestamp: Option<Timestamp>,
    /// Images of the changed containers before they changed.
    pub last_container_statuses: Option<BTreeMap<String, LastStatus>>,
    /// True if some container must restart to see its env.
    #[serde(skip_serializing_if = "is_false")]
    pub update_env_from_metadata: bool,
    /// True if resources change.
    #[serde(skip_serializing_if = "is_false")]
    pub update_resources: bool,
    /// True if images change.
    #[serde(skip_serializing_if = "is_false")]
    pub update_images: bool,
    /// Images of later batches.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub next_container_images: BTreeMap<String, String>,
    /// Labels and annotations of later batches.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub next_container_ref_metadata: BTreeMap<String, RefMetadata>,
    /// Resources of later batches.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub next_container_resources: BTreeMap<String, Value>,
    /// What must hold before the next batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_check_before_next: Option<PreCheck>,
    /// The batches so far.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub container_batches_record: Vec<Batch>,
    /// Images that a container was still changing to when this update began: seeing them is no completion.
    /// Written only then; the reference does not know it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub superseded_images: BTreeMap<String, String>,
}

impl State {
    /// The state on a pod, if there is one; an error if it cannot be read.
    pub fn of(pod: &PodView) -> Result<Option<Self>, serde_json::Error> {
        read(pod, [keys::INPLACE_STATE, keys::INPLACE_STATE_OLD])
    }

    /// True if later batches wait.
    pub fn has_next(&self) -> bool {
        !self.next_container_images.is_empty()
            || !self.next_container_ref_metadata.is_empty()
            || !self.next_container_resources.is_empty()
    }

    /// Puts the state into a patch of the pod and removes the old key.
    pub(super) fn write(&self, pod: &PodView, patch: &mut PodPatch) {
        if let Ok(json) = serde_json::to_string(self) {
            patch.set_annotation(keys::INPLACE_STATE, json);
        }
        remove(pod, patch, keys::INPLACE_STATE_OLD);
    }
}

impl UpdateSpec {
    /// The plan that waits for a pod's grace period to end; an error if it cannot be read.
    pub fn in_grace(pod: &PodView) -> Result<Option<Self>, serde_json::Error> {
        read(pod, [keys::INPLACE_GRACE, keys::INPLACE_GRACE_OLD])
    }
}

/// True if the pod carries a plan whose grace period was not yet seen to end.
pub fn is_in_grace(pod: &PodView) -> bool {
    [keys::INPLACE_GRACE, keys::INPLACE_GRACE_OLD]
        .iter()
        .any(|key| pod.annotation(key).is_some_and(|text| !text.is_empty()))
}

pub(super) fn remove_grace(pod: &PodView, patch: &mut PodPatch) {
    remove(pod, patch, keys::INPLACE_GRACE);
    remove(pod, patch, keys::INPLACE_GRACE_OLD);
}

fn remove(pod: &PodView, patch: &mut PodPatch, key: &str) {
    if pod.annotation(key).is_some() {
        patch.metadata.annotations.insert(key.to_owned(), None);
    }
}

fn read<T: for<'de> Deserialize<'de>>(
    pod: &PodView,
    keys: [&str; 2],
) -> Result<Option<T>, serde_json::Error> {
    let text = keys.iter().filter_map(|key| pod.annotation(key)).find(|text| !text.is_empty());
    text.map(serde_json::from_str).transpose()
}

#[expect(clippy::ref_option, reason = "the signature serde asks for")]
fn seconds<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => to.serialize_str(&rfc3339_seconds(*time)),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    #[test]
    fn the_state_keeps_its_json() {
        let text = r#"{"revision":"web-1","updateTimestamp":"2024-01-01T00:00:00Z","lastContainerStatuses":{"a":{"imageID":"sha256:1"}},"updateImages":true,"nextContainerImages":{"b":"x:2"},"preCheckBeforeNext":{"containersRequiredReady":["a"]},"containerBatchesRecord":[{"timestamp":"2024-01-01T00:00:00Z","containers":["a"]}]}"#;
        let state: State = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&state).unwrap(), text);
        let none =
            r#"{"revision":"web-1","updateTimestamp":"2024-01-01T00:00:00Z","lastContainerStatuses":null}"#;
        assert_eq!(serde_json::to_string(&serde_json::from_str::<State>(none).unwrap()).unwrap(), none);
    }

    #[test]
    fn a_plan_in_grace_keeps_its_json() {
        let mut spec = UpdateSpec { revision: "web-2".into(), grace_seconds: 5, ..UpdateSpec::default() };
        spec.container_images.insert("a".into(), "x:2".into());
        spec.metadata.labels.insert("gone".into(), None);
        let text = serde_json::to_string(&spec).unwrap();
        let patch = STANDARD.encode(r#"{"metadata":{"labels":{"gone":null}}}"#);
        let expected = format!(
            r#"{{"revision":"web-2","containerImages":{{"a":"x:2"}},"metaDataPatch":"{patch}","graceSeconds":5}}"#
        );
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<UpdateSpec>(&text).unwrap(), spec);
    }
}
