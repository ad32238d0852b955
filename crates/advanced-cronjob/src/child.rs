//! The three kinds of children, reduced to what they have in common.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kruise_api::advancedcronjob::{self, AdvancedCronJob, CronJobTemplate};
use kruise_api::keys;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::revision::fnv1;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Map, Value};

/// Longest name of a Job or a BroadcastJob: their pods carry it as a label.
const LONGEST_LABEL: usize = 63;
/// Longest name of anything else.
const LONGEST_NAME: usize = 253;

/// What an AdvancedCronJob creates.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// `batch/v1` `Job`.
    Job,
    /// `BroadcastJob`.
    BroadcastJob,
    /// `ImageListPullJob`.
    ImageListPullJob,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Job, Self::BroadcastJob, Self::ImageListPullJob];

    /// The kind of a template. One without any content counts as a BroadcastJob, as in the reference.
    pub fn of(template: &CronJobTemplate) -> Self {
        if template.job_template.is_some() {
            Self::Job
        } else if template.image_list_pull_job_template.is_some() {
            Self::ImageListPullJob
        } else {
            Self::BroadcastJob
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Job => "Job",
            Self::BroadcastJob => "BroadcastJob",
            Self::ImageListPullJob => "ImageListPullJob",
        }
    }

    /// The field of `spec.template` that holds it.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Job => "jobTemplate",
            Self::BroadcastJob => "broadcastJobTemplate",
            Self::ImageListPullJob => "imageListPullJobTemplate",
        }
    }

    /// Group and version.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Job => "batch/v1",
            Self::BroadcastJob | Self::ImageListPullJob => kruise_api::V1BETA1,
        }
    }

    /// Plural name of the resource.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Job => "jobs",
            Self::BroadcastJob => "broadcastjobs",
            Self::ImageListPullJob => "imagelistpulljobs",
        }
    }

    /// The CustomResourceDefinition without which there is no such kind.
    pub const fn definition(self) -> Option<&'static str> {
        match self {
            Self::Job => None,
            Self::BroadcastJob => Some("broadcastjobs.apps.kruise.io"),
            Self::ImageListPullJob => Some("imagelistpulljobs.apps.kruise.io"),
        }
    }

    /// Where the API server serves it.
    pub fn resource(self) -> ApiResource {
        let (group, version) = self.api_version().split_once('/').unwrap_or(("", self.api_version()));
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, self.name()), self.plural())
    }

    /// How long its names may be.
    pub const fn longest_name(self) -> usize {
        match self {
            Self::Job | Self::BroadcastJob => LONGEST_LABEL,
            Self::ImageListPullJob => LONGEST_NAME,
        }
    }
}

/// How a child is doing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// It has not finished.
    Active,
    /// It has finished well.
    Succeeded,
    /// It has finished otherwise.
    Failed,
}

/// A child as it was seen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Child {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// The tick it was created for; `None` if it was asked for by hand, or if the annotation is not a time.
    pub scheduled: Option<Timestamp>,
    /// When its own controller began with it.
    pub started: Option<Timestamp>,
    /// How it is doing.
    pub state: State,
    /// Is being deleted.
    pub terminating: bool,
}

/// Why a child is created.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Run {
    /// The tick of this time.
    Tick(Timestamp),
    /// Somebody asked for it at this time.
    Request(Timestamp),
}

impl Run {
    /// Name of the child: the same for the same run, so that it cannot be created twice.
    pub fn name(self, owner: &str, longest: usize) -> String {
        let suffix = match self {
            Self::Tick(at) => at.as_second().to_string(),
            Self::Request(at) => format!("m{}", at.as_second()),
        };
        let name = format!("{owner}-{suffix}");
        if name.len() <= longest {
            return name;
        }
        let hash = format!("{:08x}", fnv1(&[owner.as_bytes()]));
        let room = longest.saturating_sub(suffix.len() + hash.len() + 2);
        format!("{}-{hash}-{suffix}", owner.get(..room).unwrap_or(owner))
    }
}

/// The longest name of an AdvancedCronJob whose children need no shortened names.
pub const fn longest_plain_owner(kind: Kind) -> usize {
    // A hyphen and the ten digits of a time.
    kind.longest_name() - 11
}

/// The child of a run, as it is sent: metadata and spec are the template's, untouched.
pub fn build(owner: &AdvancedCronJob, run: Run, local: &TimeZone) -> DynamicObject {
    let kind = Kind::of(&owner.spec.template);
    let (metadata, spec) = parts(&owner.spec.template, kind);
    let name = owner.metadata.name.as_deref().unwrap_or_default();
    let mut object = DynamicObject::new(&run.name(name, kind.longest_name()), &kind.resource());
    let mut annotations = texts(metadata, "annotations");
    let (key, at) = match run {
        Run::Tick(at) => (keys::SCHEDULED_AT, at),
        Run::Request(at) => (keys::REQUESTED_AT, at),
    };
    annotations.insert(key.to_owned(), rfc3339(at, local));
    object.metadata.namespace.clone_from(&owner.metadata.namespace);
    object.metadata.labels = Some(texts(metadata, "labels")).filter(|labels| !labels.is_empty());
    object.metadata.annotations = Some(annotations);
    object.metadata.owner_references = Some(vec![OwnerReference {
        api_version: kruise_api::V1BETA1.to_owned(),
        kind: advancedcronjob::KIND.to_owned(),
        name: name.to_owned(),
        uid: owner.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]);
    let mut data = Map::new();
    data.insert("spec".to_owned(), spec.cloned().unwrap_or_else(|| Value::Object(Map::new())));
    object.data = Value::Object(data);
    object
}

/// The child of any run, for a dry run: without what only the stored owner has.
pub fn dry(owner: &AdvancedCronJob) -> DynamicObject {
    let mut object = build(owner, Run::Tick(Timestamp::UNIX_EPOCH), &TimeZone::UTC);
    let name = object.metadata.name.take().unwrap_or_default();
    // The API server puts five characters behind it.
    let kept = name.get(..LONGEST_LABEL - 6).unwrap_or(&name);
    object.metadata.generate_name = Some(format!("{}-", kept.trim_end_matches('-')));
    object.metadata.owner_references = None;
    object
}

/// Metadata and spec of the template.
fn parts(template: &CronJobTemplate, kind: Kind) -> (Option<&Value>, Option<&Value>) {
    match kind {
        Kind::Job => {
            let get = |key: &str| template.job_template.as_ref().and_then(|job| job.get(key));
            (get("metadata"), get("spec"))
        }
        Kind::BroadcastJob => {
            let broadcast = template.broadcast_job_template.as_ref();
            broadcast.map_or((None, None), |job| (job.metadata.as_ref(), job.spec.as_ref()))
        }
        Kind::ImageListPullJob => {
            let list = template.image_list_pull_job_template.as_ref();
            list.map_or((None, None), |job| (job.metadata.as_ref(), job.spec.as_ref()))
        }
    }
}

/// The texts of a map of labels or annotations.
fn texts(metadata: Option<&Value>, field: &str) -> BTreeMap<String, String> {
    let map = metadata.and_then(|metadata| metadata.get(field)).and_then(Value::as_object);
    let texts = map.into_iter().flatten();
    texts.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// A time as Go writes it in a zone: `Z` where that is UTC, else its offset.
pub fn rfc3339(at: Timestamp, zone: &TimeZone) -> String {
    let form = if zone.to_offset(at) == Offset::UTC { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    at.to_zoned(zone.clone()).strftime(form).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_child_is_named_after_its_time_and_long_names_are_cut_but_stay_apart() {
        let run = Run::Tick(at("2026-01-01T00:00:00Z"));
        assert_eq!(run.name("nightly", 63), "nightly-1767225600");
        let longest = "x".repeat(longest_plain_owner(Kind::Job));
        assert_eq!(run.name(&longest, 63), format!("{longest}-1767225600"));
        let (one, two) = (format!("{}a", "x".repeat(59)), format!("{}b", "x".repeat(59)));
        assert_eq!(run.name(&one, 63).len(), 63);
        assert_eq!(run.name(&one, 63), run.name(&one, 63));
        assert_ne!(run.name(&one, 63), run.name(&two, 63));
        assert!(
            run.name(&one, 63).starts_with(&"x".repeat(43)) && run.name(&one, 63).ends_with("-1767225600")
        );
        assert_eq!(run.name(&one, 253), format!("{one}-1767225600"), "not where there is room");
        assert_eq!(
            Run::Request(at("2026-01-01T00:00:00Z")).name("nightly", 63),
            "nightly-m1767225600",
            "never that of a tick"
        );
    }

    #[test]
    fn a_child_is_its_template_and_says_when_it_was_due() {
        let owner = |template: Value| -> AdvancedCronJob {
            serde_json::from_value(json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "AdvancedCronJob",
                "metadata": {"name": "a", "namespace": "shop", "uid": "u"},
                "spec": {"schedule": "* * * * *", "template": template}}))
            .unwrap()
        };
        let template = json!({"metadata": {"name": "no", "finalizers": ["no"], "labels": {"app": "x"},
                "annotations": {"note": "y"}},
            "spec": {"template": {"spec": {"new": [1, null]}}}});
        let run = Run::Tick(at("2026-07-01T00:00:00Z"));
        let berlin = crate::schedule::find_zone("Europe/Berlin").unwrap();
        for kind in Kind::ALL {
            let mut templates = Map::new();
            templates.insert(kind.field().to_owned(), template.clone());
            let owner = owner(Value::Object(templates));
            assert_eq!(Kind::of(&owner.spec.template), kind);
            let child = serde_json::to_value(build(&owner, run, &berlin)).unwrap();
            assert_eq!(
                child,
                json!({"apiVersion": kind.api_version(), "kind": kind.name(), "metadata": {
                    "name": "a-1782864000", "namespace": "shop", "labels": {"app": "x"},
                    "annotations": {"note": "y", "apps.kruise.io/scheduled-at": "2026-07-01T02:00:00+02:00"},
                    "ownerReferences": [{"apiVersion": "apps.kruise.io/v1beta1", "kind": "AdvancedCronJob",
                        "name": "a", "uid": "u", "controller": true, "blockOwnerDeletion": true}]},
                    "spec": template["spec"]})
            );
            let utc = build(&owner, run, &TimeZone::UTC).metadata.annotations.unwrap();
            assert_eq!(utc["apps.kruise.io/scheduled-at"], "2026-07-01T00:00:00Z");
            assert_eq!(
                utc["apps.kruise.io/scheduled-at"].parse::<Timestamp>().unwrap(),
                at("2026-07-01T00:00:00Z")
            );
        }
    }
}
