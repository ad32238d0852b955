//! A NodeImage as the agent keeps it, read so that one odd entry does not hide the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use kruise_api::nodeimage::{
    ImageStatus, ImageTagSpec, ImageTagStatus, NodeImageStatus, PullSecret, SandboxConfig,
};
use kruise_common::key::{ObjectKey, Uid};
use kruise_runtime::store::View;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::wire::NodeImageWire;

/// What one node should pull, and what the API server knows of how far it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeImageView {
    key: ObjectKey,
    uid: Uid,
    resource_version: Arc<str>,
    /// The wanted images by familiar name; empty once the object is being deleted.
    pub(crate) images: BTreeMap<String, Wanted>,
    /// The status.
    pub(crate) status: NodeImageStatus,
}

/// The wanted tags of one image.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wanted {
    /// Where credentials are.
    pub(crate) secrets: Vec<PullSecret>,
    /// What the runtime is told about the sandbox.
    pub(crate) sandbox: SandboxConfig,
    /// The tags that could be read, one entry for each tag.
    pub(crate) tags: Vec<ImageTagSpec>,
    /// The tags that could not be read, and why.
    pub(crate) malformed: Vec<(String, String)>,
}

impl View for NodeImageView {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn resource_version(&self) -> &str {
        &self.resource_version
    }

    fn owners(&self) -> Vec<Uid> {
        Vec::new()
    }
}

impl NodeImageView {
    /// Reads an object; only one without a name or an identity cannot be read.
    pub(crate) fn of(wire: NodeImageWire) -> Option<Self> {
        let meta = wire.metadata;
        let deleting = meta.deletion_timestamp.is_some();
        let images = if deleting { BTreeMap::new() } else { images(wire.spec) };
        Some(Self {
            key: ObjectKey::new("", meta.name.as_deref()?),
            uid: Uid::from(meta.uid.as_deref()?),
            resource_version: Arc::from(meta.resource_version.as_deref()?),
            images,
            status: status(wire.status),
        })
    }

    /// Identity of the object.
    pub(crate) fn uid_text(&self) -> String {
        self.uid.to_string()
    }

    /// What the API server knows about a tag.
    pub(crate) fn status_of(&self, image: &str, tag: &str) -> Option<&ImageTagStatus> {
        let statuses = self.status.image_statuses.as_ref()?.get(image)?;
        statuses.tags.iter().find(|status| status.tag == tag)
    }

    /// Every Secret that some image refers to.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &PullSecret> {
        self.images.values().flat_map(|wanted| &wanted.secrets)
    }
}

fn images(mut spec: Value) -> BTreeMap<String, Wanted> {
    let Some(Value::Object(images)) = spec.get_mut("images").map(Value::take) else { return BTreeMap::new() };
    images.into_iter().map(|(name, image)| (name, wanted(image))).collect()
}

fn wanted(mut image: Value) -> Wanted {
    let mut take = |field: &str| image.get_mut(field).map(Value::take).unwrap_or_default();
    let secrets = take("pullSecrets");
    let sandbox = lenient(take("sandboxConfig"));
    let tags = take("tags");
    let mut wanted =
        Wanted { secrets: each(secrets), sandbox: sandbox.unwrap_or_default(), ..Wanted::default() };
    let Value::Array(tags) = tags else { return wanted };
    for entry in tags {
        let name = entry.get("tag").and_then(Value::as_str).unwrap_or_default().to_owned();
        match serde_json::from_value::<ImageTagSpec>(entry) {
            Ok(tag) => add(&mut wanted.tags, tag),
            Err(error) => {
                tracing::warn!(tag = name, %error, "a wanted tag cannot be read");
                wanted.malformed.push((name, error.to_string()));
            }
        }
    }
    // An entry without any name has no place in the status.
    wanted.malformed.retain(|(name, _)| !name.is_empty() && wanted.tags.iter().all(|tag| tag.tag != *name));
    wanted.malformed.sort();
    wanted.malformed.dedup_by(|a, b| a.0 == b.0);
    wanted
}

/// Of two entries for one tag the one with the larger version counts.
fn add(tags: &mut Vec<ImageTagSpec>, tag: ImageTagSpec) {
    match tags.iter_mut().find(|known| known.tag == tag.tag) {
        Some(known) if known.version < tag.version => *known = tag,
        Some(_) => {}
        None => tags.push(tag),
    }
}

fn status(mut status: Value) -> NodeImageStatus {
    let count = |field: &str| {
        status.get(field).and_then(Value::as_i64).and_then(|count| count.try_into().ok()).unwrap_or_default()
    };
    let mut read = NodeImageStatus {
        desired: count("desired"),
        succeeded: count("succeeded"),
        failed: count("failed"),
        pulling: count("pulling"),
        waiting: count("waiting"),
        ..NodeImageStatus::default()
    };
    read.first_sync_status = status.get_mut("firstSyncStatus").map(Value::take).and_then(lenient);
    if let Some(Value::Object(images)) = status.get_mut("imageStatuses").map(Value::take) {
        let images = images.into_iter().map(|(name, mut image)| {
            let tags = image.get_mut("tags").map(Value::take).unwrap_or_default();
            (name, ImageStatus { tags: each(tags) })
        });
        read.image_statuses = Some(images.collect());
    }
    read
}

/// The entries of a list that can be read.
fn each<T: DeserializeOwned>(list: Value) -> Vec<T> {
    let Value::Array(items) = list else { return Vec::new() };
    items.into_iter().filter_map(lenient).collect()
}

fn lenient<T: DeserializeOwned>(value: Value) -> Option<T> {
    serde_json::from_value(value).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "values are written where the function is called")]
    fn view(spec: Value, status: Value) -> NodeImageView {
        let wire = json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": "1"},
            "spec": spec, "status": status});
        NodeImageView::of(serde_json::from_value(wire).unwrap()).unwrap()
    }

    #[test]
    fn an_odd_entry_does_not_hide_the_others() {
        let view = view(
            json!({"images": {
                "nginx": {"pullSecrets": [{"namespace": "a", "name": "b"}, 7],
                    "sandboxConfig": {"labels": 1},
                    "tags": [{"tag": "1", "version": 2}, {"tag": "2", "version": "x"}, {"version": 1}, 5]},
                "odd": 3,
                "none": {}}}),
            json!({"desired": "x", "failed": 2, "imageStatuses": {
                "nginx": {"tags": [{"tag": "1", "phase": "Succeeded"}, {"tag": "2", "phase": "Odd"}]}, "x": 1}}),
        );
        let nginx = &view.images["nginx"];
        assert_eq!(nginx.tags.iter().map(|tag| (&*tag.tag, tag.version)).collect::<Vec<_>>(), [("1", 2)]);
        assert_eq!(nginx.malformed.iter().map(|(tag, _)| &**tag).collect::<Vec<_>>(), ["2"]);
        assert_eq!(nginx.secrets.len(), 1);
        assert_eq!(view.images["odd"], Wanted::default());
        assert_eq!(view.images["none"], Wanted::default());
        assert!(view.status_of("nginx", "1").is_some());
        assert!(view.status_of("nginx", "2").is_none());
        assert_eq!((view.status.desired, view.status.failed), (0, 2));
    }

    #[test]
    fn specs_of_any_shape_are_read_as_empty() {
        for spec in [json!(null), json!(1), json!([]), json!({"images": []}), json!({"images": null})] {
            assert_eq!(view(spec, json!([])).images, BTreeMap::new());
        }
    }

    #[test]
    fn of_two_entries_for_one_tag_the_larger_version_counts() {
        for tags in [
            json!([{"tag": "1"}, {"tag": "1", "version": 3}]),
            json!([{"tag": "1", "version": 3}, {"tag": "1"}]),
        ] {
            let view = view(json!({"images": {"x": {"tags": tags}}}), json!({}));
            assert_eq!(view.images["x"].tags.iter().map(|tag| tag.version).collect::<Vec<_>>(), [3]);
        }
    }

    #[test]
    fn an_object_being_deleted_wants_nothing() {
        let wire = json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": "1",
            "deletionTimestamp": "2024-01-01T00:00:00Z"}, "spec": {"images": {"x": {"tags": [{"tag": "1"}]}}}});
        let view = NodeImageView::of(serde_json::from_value(wire).unwrap()).unwrap();
        assert_eq!(view.images, BTreeMap::new());
    }
}
