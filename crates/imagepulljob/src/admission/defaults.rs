//! What is filled in.

use jiff::Timestamp;
use kruise_api::keys::DELETION_PROTECTION_FINALIZER;
use serde_json::{Map, Value};

use super::Kind;
use crate::task::{DEFAULT_BACKOFF_LIMIT, DEFAULT_TIMEOUT_SECONDS, whole_seconds};

/// Fills in what is unset. `adds_finalizer`: the object is new and of a version whose users expect it there.
pub fn default(object: &mut Value, kind: Kind, adds_finalizer: bool, now: Timestamp) {
    match kind {
        Kind::Job | Kind::List => {
            let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
            default_job(spec, kind);
            if kind == Kind::Job && adds_finalizer {
                add_finalizer(object);
            }
        }
        Kind::NodeImage => default_node(object, now),
    }
}

fn default_job(spec: &mut Map<String, Value>, kind: Kind) {
    if let Some(completion) = child(spec, "completionPolicy") {
        fill(completion, "type", "Always");
    }
    if let Some(policy) = child(spec, "pullPolicy") {
        default_policy(policy);
    }
    if kind == Kind::Job {
        fill(spec, "imagePullPolicy", "IfNotPresent");
    }
}

fn default_policy(policy: &mut Map<String, Value>) {
    fill(policy, "timeoutSeconds", DEFAULT_TIMEOUT_SECONDS);
    fill(policy, "backoffLimit", DEFAULT_BACKOFF_LIMIT);
}

fn add_finalizer(object: &mut Value) {
    let metadata = object.as_object_mut().and_then(|object| child(object, "metadata"));
    let Some(metadata) = metadata else { return };
    fill(metadata, "finalizers", Value::Array(Vec::new()));
    let finalizers = metadata.get_mut("finalizers").and_then(Value::as_array_mut);
    if let Some(finalizers) =
        finalizers.filter(|held| !held.iter().any(|one| one == DELETION_PROTECTION_FINALIZER))
    {
        finalizers.push(DELETION_PROTECTION_FINALIZER.into());
    }
}

fn default_node(object: &mut Value, now: Timestamp) {
    let now = whole_seconds(now).0.to_string();
    for tags in tags_at(object, "/spec/images") {
        for tag in tags.iter_mut().filter_map(Value::as_object_mut) {
            fill(tag, "createdAt", now.as_str());
            if let Some(policy) = child(tag, "pullPolicy") {
                default_policy(policy);
            }
        }
        sort(tags);
    }
    tags_at(object, "/status/imageStatuses").for_each(|tags| sort(tags));
}

fn tags_at<'a>(object: &'a mut Value, path: &str) -> impl Iterator<Item = &'a mut Vec<Value>> {
    let images = object.pointer_mut(path).and_then(Value::as_object_mut);
    let images = images.into_iter().flat_map(|images| images.values_mut());
    images.filter_map(|image| image.get_mut("tags")?.as_array_mut())
}

fn sort(tags: &mut [Value]) {
    tags.sort_by(|a, b| tag_of(a).cmp(tag_of(b)));
}

fn tag_of(entry: &Value) -> &str {
    entry.get("tag").and_then(Value::as_str).unwrap_or_default()
}

fn fill(holder: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if holder.get(key).is_none_or(|present| present.is_null() || present == "") {
        holder.insert(key.to_owned(), value.into());
    }
}

/// The object at `key`, made if there is none.
fn child<'a>(holder: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    fill(holder, key, Value::Object(Map::new()));
    holder.get_mut(key).and_then(Value::as_object_mut)
}
