//! Patches of Pods as values: built by pure code, merged into as few writes as possible, sent by the shell.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// Which endpoint a patch goes to. Labels and annotations may travel with either: `pods/status` accepts them,
/// so a condition and a lifecycle label cost one write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PodEndpoint {
    /// The pod itself: metadata and images.
    Pod,
    /// `pods/status`: conditions, labels and annotations.
    Status,
    /// `pods/resize`: cpu and memory of running containers.
    Resize,
}

/// Metadata of a strategic-merge patch. A `None` value removes the key.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MetadataPatch {
    /// Precondition: the pod of this name is still this one. The API server answers 409 otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Precondition: nothing was written since. Only where a decision must not outlive its observation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Labels to set or remove.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Annotations to set or remove.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, Option<String>>,
    /// Finalizers to add (strategic merge unites the lists).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// Finalizers to remove.
    #[serde(rename = "$deleteFromPrimitiveList/finalizers", skip_serializing_if = "Vec::is_empty")]
    pub removed_finalizers: Vec<String>,
}

/// A container to change, found by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ContainerPatch {
    /// Name of the container.
    pub name: String,
    /// New image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// New `resources`: only the changed quantities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Value>,
}

/// `spec` of a pod patch.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SpecPatch {
    /// Containers to change.
    pub containers: Vec<ContainerPatch>,
}

/// A condition to set, merged by type.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionPatch {
    /// Condition type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// Empty text clears it.
    pub reason: String,
    /// Empty text clears it.
    pub message: String,
    /// When the status changed, whole seconds in UTC.
    #[serde(serialize_with = "seconds")]
    pub last_transition_time: Timestamp,
}

/// `status` of a pod patch.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StatusPatch {
    /// Conditions to set.
    pub conditions: Vec<ConditionPatch>,
}

/// A strategic-merge patch of one Pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PodPatch {
    /// Labels, annotations, finalizers and preconditions.
    pub metadata: MetadataPatch,
    /// Images and resources; not for `pods/status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<SpecPatch>,
    /// Conditions; only for `pods/status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusPatch>,
}

impl PodPatch {
    /// True if sending it would change nothing, preconditions apart.
    pub fn is_empty(&self) -> bool {
        self.metadata.labels.is_empty()
            && self.metadata.annotations.is_empty()
            && self.metadata.finalizers.is_empty()
            && self.metadata.removed_finalizers.is_empty()
            && self.spec.is_none()
            && self.status.is_none()
    }

    /// Sets a label.
    pub fn set_label(&mut self, key: &str, value: impl Into<String>) {
        self.metadata.labels.insert(key.to_owned(), Some(value.into()));
    }

    /// Sets an annotation.
    pub fn set_annotation(&mut self, key: &str, value: impl Into<String>) {
        self.metadata.annotations.insert(key.to_owned(), Some(value.into()));
    }

    /// Sets a condition, replacing one of the same type set before.
    pub fn set_condition(&mut self, condition: ConditionPatch) {
        let conditions = &mut self.status.get_or_insert_default().conditions;
        conditions.retain(|other| other.kind != condition.kind);
        conditions.push(condition);
    }

    /// Changes a container, on top of what was to be changed about it before: each is named once.
    pub fn set_container(&mut self, change: ContainerPatch) {
        let containers = &mut self.spec.get_or_insert_default().containers;
        match containers.iter_mut().find(|known| known.name == change.name) {
            Some(known) => {
                known.image = change.image.or(known.image.take());
                known.resources = change.resources.or(known.resources.take());
            }
            None => containers.push(change),
        }
    }

    /// Joins another patch of the same pod; where both speak of one key, `later` wins.
    pub fn merge(&mut self, later: Self) {
        self.metadata.uid = later.metadata.uid.or(self.metadata.uid.take());
        self.metadata.resource_version =
            later.metadata.resource_version.or(self.metadata.resource_version.take());
        self.metadata.labels.extend(later.metadata.labels);
        self.metadata.annotations.extend(later.metadata.annotations);
        let (added, removed) = (later.metadata.finalizers, later.metadata.removed_finalizers);
        self.metadata.finalizers.retain(|name| !removed.contains(name));
        self.metadata.removed_finalizers.retain(|name| !added.contains(name));
        self.metadata.finalizers.extend(added);
        self.metadata.removed_finalizers.extend(removed);
        for container in later.spec.into_iter().flat_map(|spec| spec.containers) {
            self.set_container(container);
        }
        for condition in later.status.into_iter().flat_map(|status| status.conditions) {
            self.set_condition(condition);
        }
    }
}

fn seconds<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339_seconds(*time))
}

/// RFC 3339 in UTC with whole seconds, as Kubernetes writes `metav1.Time`.
pub fn rfc3339_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_sends_only_what_it_changes() {
        let mut patch = PodPatch::default();
        assert!(patch.is_empty());
        patch.set_label("a", "1");
        patch.metadata.annotations.insert("gone".into(), None);
        let text = serde_json::to_string(&patch).unwrap();
        assert_eq!(text, r#"{"metadata":{"labels":{"a":"1"},"annotations":{"gone":null}}}"#);
    }

    #[test]
    fn a_finalizer_is_added_or_removed_by_the_later_patch_and_never_both() {
        let change = |added: &[&str], removed: &[&str]| {
            let texts = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
            let mut patch = PodPatch::default();
            patch.metadata.finalizers = texts(added);
            patch.metadata.removed_finalizers = texts(removed);
            patch
        };
        let mut patch = change(&["a"], &["b"]);
        patch.merge(change(&["b"], &["a"]));
        assert_eq!(patch, change(&["b"], &["a"]));
        let text = serde_json::to_string(&patch).unwrap();
        assert_eq!(text, r#"{"metadata":{"finalizers":["b"],"$deleteFromPrimitiveList/finalizers":["a"]}}"#);
    }

    #[test]
    fn a_container_is_named_once() {
        let change = |image: Option<&str>, resources: Option<Value>| PodPatch {
            spec: Some(SpecPatch {
                containers: vec![ContainerPatch {
                    name: "a".into(),
                    image: image.map(str::to_owned),
                    resources,
                }],
            }),
            ..PodPatch::default()
        };
        let mut patch = change(Some("x:2"), None);
        patch.merge(change(None, Some(serde_json::json!({"limits": {"cpu": "2"}}))));
        assert_eq!(patch, change(Some("x:2"), Some(serde_json::json!({"limits": {"cpu": "2"}}))));
    }

    #[test]
    fn the_later_of_two_patches_wins_key_by_key() {
        let mut first = PodPatch::default();
        first.set_label("a", "1");
        first.set_label("b", "1");
        let mut later = PodPatch::default();
        later.set_label("b", "2");
        first.merge(later);
        assert_eq!(first.metadata.labels["a"].as_deref(), Some("1"));
        assert_eq!(first.metadata.labels["b"].as_deref(), Some("2"));
    }
}
