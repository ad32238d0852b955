//! Pulling new images before pods are updated in place: which images, and the `ImagePullJob`s that pull them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kruise_api::keys;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::revision::{Revision, short_hash};

const DEFAULT_PARALLELISM: i32 = 1;
const DEFAULT_TIMEOUT_SECONDS: i32 = 300;
const BACKOFF_LIMIT: i32 = 1;
const TTL_SECONDS_AFTER_FINISHED: i32 = 600;

/// How a workload wants its images to be pulled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pulling {
    /// Nodes that pull at once; 1 if absent.
    pub parallelism: Option<IntOrString>,
    /// Seconds a node may take for one attempt; 300 if absent.
    pub timeout_seconds: Option<i32>,
}

/// An image to pull and the job that does it.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Name of the job.
    pub name: String,
    /// The image.
    pub image: String,
    /// The whole object.
    pub object: Value,
}

/// One job for each container of `new` whose image `old` does not have in a container of that name.
pub fn jobs(
    old: &Revision,
    new: &Revision,
    selector: &LabelSelector,
    owner: &OwnerReference,
    pulling: &Pulling,
) -> Vec<Job> {
    let (before, after) = (old.template(), new.template());
    let had: Vec<_> = images(&before).collect();
    images(&after)
        .filter(|container| !had.contains(container))
        .map(|(container, image)| {
            let name = format!("{}-{container}", new.name());
            let object = job(&name, image, (new, &after), selector, owner, pulling);
            Job { name, image: image.to_owned(), object }
        })
        .collect()
}

/// Name and image of each container.
fn images(template: &Value) -> impl Iterator<Item = (&str, &str)> {
    template
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|container| Some((container.get("name")?.as_str()?, container.get("image")?.as_str()?)))
}

fn job(
    name: &str,
    image: &str,
    (revision, template): (&Revision, &Value),
    selector: &LabelSelector,
    owner: &OwnerReference,
    pulling: &Pulling,
) -> Value {
    let map_at = |path: &str| template.pointer(path).and_then(Value::as_object).cloned();
    let template_labels = map_at("/metadata/labels").unwrap_or_default();
    let mut labels = template_labels.clone();
    labels.insert(keys::REVISION_HASH.to_owned(), short_hash(revision.name()).into());
    let metadata = object([
        ("name", name.into()),
        ("namespace", (&*revision.key.namespace).into()),
        ("labels", Value::Object(labels)),
        ("ownerReferences", Value::Array(vec![json_of(owner)])),
    ]);
    let secrets = template.pointer("/spec/imagePullSecrets").and_then(Value::as_array);
    let secrets: Vec<Value> =
        secrets.into_iter().flatten().filter_map(|secret| secret.get("name").cloned()).collect();
    let parallelism = pulling.parallelism.clone().unwrap_or(IntOrString::Int(DEFAULT_PARALLELISM));
    let pull_policy = object([
        ("backoffLimit", BACKOFF_LIMIT.into()),
        ("timeoutSeconds", pulling.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS).into()),
    ]);
    let completion =
        object([("type", "Always".into()), ("ttlSecondsAfterFinished", TTL_SECONDS_AFTER_FINISHED.into())]);
    let sandbox = object([
        ("labels", Value::Object(template_labels)),
        ("annotations", Value::Object(map_at("/metadata/annotations").unwrap_or_default())),
    ]);
    let mut spec = object([
        ("image", image.into()),
        ("podSelector", without(selector, revision)),
        ("parallelism", json_of(&parallelism)),
        ("pullPolicy", Value::Object(pull_policy)),
        ("completionPolicy", Value::Object(completion)),
        ("sandboxConfig", Value::Object(sandbox)),
    ]);
    if !secrets.is_empty() {
        spec.insert("pullSecrets".to_owned(), Value::Array(secrets));
    }
    Value::Object(object([
        ("apiVersion", "apps.kruise.io/v1beta1".into()),
        ("kind", "ImagePullJob".into()),
        ("metadata", Value::Object(metadata)),
        ("spec", Value::Object(spec)),
    ]))
}

/// The selector, narrowed to pods that are not at the revision: their nodes have the image.
fn without(selector: &LabelSelector, revision: &Revision) -> Value {
    let mut selector = selector.clone();
    selector.match_expressions.get_or_insert_default().push(
        k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement {
            key: keys::CONTROLLER_REVISION_HASH.to_owned(),
            operator: "NotIn".to_owned(),
            values: Some(vec![revision.name().to_owned(), short_hash(revision.name()).to_owned()]),
        },
    );
    json_of(&selector)
}

/// True if it was decided before whether to pull the images of a revision.
pub fn is_decided(revision: &Revision) -> bool {
    revision.labels.contains_key(keys::PREDOWNLOAD_CREATED)
        || revision.labels.contains_key(keys::PREDOWNLOAD_IGNORED)
}

fn object<const N: usize>(entries: [(&str, Value); N]) -> Map<String, Value> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn json_of(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::key::{ObjectKey, Uid};
    use crate::texts::Texts;

    fn revision(name: &str, template: Value) -> Revision {
        Revision {
            key: ObjectKey::new("shop", name),
            uid: Uid::from(name),
            resource_version: Arc::from("1"),
            number: 1,
            template: template.into(),
            created: None,
            controller: None,
            labels: Texts::default(),
            annotations: Texts::default(),
        }
    }

    fn of_images(name: &str, images: &[(&str, &str)]) -> Revision {
        let containers: Vec<_> =
            images.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
        revision(name, json!({"spec": {"containers": containers}}))
    }

    fn owner() -> OwnerReference {
        serde_json::from_value(
            json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "name": "web",
            "uid": "u1", "controller": true, "blockOwnerDeletion": true}),
        )
        .unwrap()
    }

    fn selector() -> LabelSelector {
        serde_json::from_value(json!({"matchLabels": {"app": "web"}})).unwrap()
    }

    fn jobs_of(old: &Revision, new: &Revision, pulling: &Pulling) -> Vec<Job> {
        jobs(old, new, &selector(), &owner(), pulling)
    }

    #[test]
    fn a_job_has_this_shape() {
        let old = of_images("web-1111", &[("main", "nginx:1")]);
        let new = revision(
            "web-2222",
            json!({
                "metadata": {"labels": {"app": "web"}, "annotations": {"note": "x"}},
                "spec": {"containers": [{"name": "main", "image": "nginx:2"}],
                         "imagePullSecrets": [{"name": "registry"}]},
            }),
        );
        let made = jobs_of(&old, &new, &Pulling::default());
        assert_eq!(made.len(), 1);
        assert_eq!((made[0].name.as_str(), made[0].image.as_str()), ("web-2222-main", "nginx:2"));
        assert_eq!(
            made[0].object,
            json!({
                "apiVersion": "apps.kruise.io/v1beta1", "kind": "ImagePullJob",
                "metadata": {
                    "name": "web-2222-main", "namespace": "shop",
                    "labels": {"app": "web", "controller.kubernetes.io/hash": "2222"},
                    "ownerReferences": [{"apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "name": "web",
                        "uid": "u1", "controller": true, "blockOwnerDeletion": true}],
                },
                "spec": {
                    "image": "nginx:2", "pullSecrets": ["registry"],
                    "podSelector": {
                        "matchLabels": {"app": "web"},
                        "matchExpressions": [{"key": "controller-revision-hash", "operator": "NotIn",
                            "values": ["web-2222", "2222"]}],
                    },
                    "parallelism": 1,
                    "pullPolicy": {"backoffLimit": 1, "timeoutSeconds": 300},
                    "completionPolicy": {"type": "Always", "ttlSecondsAfterFinished": 600},
                    "sandboxConfig": {"labels": {"app": "web"}, "annotations": {"note": "x"}},
                },
            })
        );
    }

    #[test]
    fn parallelism_and_timeout_are_taken_over() {
        let (old, new) = (of_images("web-1", &[("main", "a:1")]), of_images("web-2", &[("main", "a:2")]));
        let pulling = Pulling { parallelism: Some(IntOrString::Int(4)), timeout_seconds: Some(60) };
        let made = jobs_of(&old, &new, &pulling);
        assert_eq!(made[0].object["spec"]["parallelism"], 4);
        assert_eq!(made[0].object["spec"]["pullPolicy"]["timeoutSeconds"], 60);
        assert_eq!(made[0].object["spec"].get("pullSecrets"), None);
    }

    #[test]
    fn only_new_and_changed_images_are_pulled() {
        let old = of_images("web-1", &[("same", "a:1"), ("changed", "b:1"), ("gone", "c:1")]);
        let new = of_images("web-2", &[("same", "a:1"), ("changed", "b:2"), ("new", "d:1")]);
        let names: Vec<_> =
            jobs_of(&old, &new, &Pulling::default()).into_iter().map(|job| job.name).collect();
        assert_eq!(names, ["web-2-changed", "web-2-new"]);
    }

    #[test]
    fn a_revision_is_decided_once_it_bears_either_label() {
        let mut revision = of_images("web-1", &[]);
        assert!(!is_decided(&revision));
        revision.labels.insert(keys::PREDOWNLOAD_IGNORED.into(), "true".into());
        assert!(is_decided(&revision));
        revision.labels = Texts::from([(keys::PREDOWNLOAD_CREATED.into(), "true".into())]);
        assert!(is_decided(&revision));
    }
}
