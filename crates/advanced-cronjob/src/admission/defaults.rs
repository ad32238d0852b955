//! What is filled in.

use kruise_common::template_defaults::{self, TemplateDefaults};
use serde_json::{Map, Value};

use super::Options;

const SUCCESSFUL_HISTORY: i32 = 3;
const FAILED_HISTORY: i32 = 1;
const PULL_TIMEOUT_SECONDS: i32 = 600;
const PULL_BACKOFF_LIMIT: i32 = 3;

/// Fills in what is unset; `old` is the stored object, absent on create. A template that an update does not touch is
/// left alone: it cannot be changed, not even by a new default.
pub fn default(object: &mut Value, old: Option<&Value>, options: Options) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let is_list = spec.get("template").and_then(|template| template.get("imageListPullJobTemplate"));
    let policy = if is_list.is_some_and(Value::is_object) { "Replace" } else { "Allow" };
    fill(spec, "concurrencyPolicy", policy);
    fill(spec, "paused", false);
    fill(spec, "successfulJobsHistoryLimit", SUCCESSFUL_HISTORY);
    fill(spec, "failedJobsHistoryLimit", FAILED_HISTORY);
    let Some(template) = spec.get_mut("template").and_then(Value::as_object_mut) else { return };
    if options.default_templates {
        let gates = TemplateDefaults { host_network_ports: options.host_network_ports };
        for field in ["jobTemplate", "broadcastJobTemplate"] {
            let stored = old
                .and_then(|old| old.get("spec")?.get("template")?.get(field)?.get("spec")?.get("template"));
            let pods = template.get_mut(field).and_then(|job| job.get_mut("spec")?.get_mut("template"));
            if let Some(pods) = pods.filter(|pods| stored != Some(pods)) {
                template_defaults::apply(pods, gates);
            }
        }
    }
    let list = template.get_mut("imageListPullJobTemplate").and_then(|list| list.get_mut("spec"));
    if let Some(list) = list.and_then(Value::as_object_mut) {
        default_list(list);
    }
}

/// Only a list that does not say when it is finished; the webhook of the list itself does the rest.
fn default_list(list: &mut Map<String, Value>) {
    let said = list.get("completionPolicy").and_then(|policy| policy.get("type")).and_then(Value::as_str);
    if said.is_some_and(|kind| !kind.is_empty()) {
        return;
    }
    if let Some(completion) = child(list, "completionPolicy") {
        fill(completion, "type", "Always");
    }
    if let Some(pull) = child(list, "pullPolicy") {
        fill(pull, "timeoutSeconds", PULL_TIMEOUT_SECONDS);
        fill(pull, "backoffLimit", PULL_BACKOFF_LIMIT);
    }
    fill(list, "imagePullPolicy", "IfNotPresent");
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
