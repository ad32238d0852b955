//! Defaults of a CloneSet, in the shape of either version.

use kruise_common::template_defaults::{self, TemplateDefaults};
use serde_json::{Map, Value};

use super::{Options, Version};

const REPLICAS: i32 = 1;
const REVISION_HISTORY_LIMIT: i32 = 10;
const PARTITION: i32 = 0;
const MAX_UNAVAILABLE: &str = "20%";
const MAX_SURGE: i32 = 0;

/// Fills in what is unset; `old` is the stored object, absent on create.
///
/// Template and claims are left alone on an update that does not touch them: a new default must not make a new
/// revision of every set in the cluster.
pub fn default(object: &mut Value, old: Option<&Value>, version: Version, options: Options) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    fill(spec, "replicas", || Value::from(REPLICAS));
    fill(spec, "revisionHistoryLimit", || Value::from(REVISION_HISTORY_LIMIT));
    fill(spec, "updateStrategy", || Value::Object(Map::new()));
    if let Some(strategy) = spec.get_mut("updateStrategy").and_then(Value::as_object_mut) {
        match version {
            Version::V1alpha1 => {
                fill_text(strategy, "type", "ReCreate");
                let policy = strategy.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
                default_rolling_update(strategy, &policy);
            }
            Version::V1beta1 => {
                fill_text(strategy, "type", "RollingUpdate");
                if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
                    fill(strategy, "rollingUpdate", || Value::Object(Map::new()));
                    if let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
                        fill_text(rolling, "podUpdatePolicy", "ReCreate");
                        let policy = rolling
                            .get("podUpdatePolicy")
                            .and_then(Value::as_str)
                            .unwrap_or_default()
                            .to_owned();
                        default_rolling_update(rolling, &policy);
                    }
                }
            }
        }
    }
    if options.default_templates {
        let stored = |key: &str| old.and_then(|old| old.get("spec")?.get(key));
        if let Some(template) = spec.get_mut("template")
            && (old.is_none() || stored("template") != Some(&*template))
        {
            let gates = TemplateDefaults { host_network_ports: options.host_network_ports };
            template_defaults::apply(template, gates);
        }
        if let Some(claims) = spec.get_mut("volumeClaimTemplates")
            && (old.is_none() || stored("volumeClaimTemplates") != Some(&*claims))
            && let Some(claims) = claims.as_array_mut()
        {
            template_defaults::apply_to_claims(claims);
        }
    }
}

fn default_rolling_update(holder: &mut Map<String, Value>, policy: &str) {
    fill(holder, "partition", || Value::from(PARTITION));
    fill(holder, "maxUnavailable", || Value::from(MAX_UNAVAILABLE));
    fill(holder, "maxSurge", || Value::from(MAX_SURGE));
    if matches!(policy, "InPlaceIfPossible" | "InPlaceOnly") {
        fill(holder, "inPlaceUpdateStrategy", || Value::Object(Map::new()));
    }
}

fn fill(holder: &mut Map<String, Value>, key: &str, value: impl FnOnce() -> Value) {
    if holder.get(key).is_none_or(Value::is_null) {
        holder.insert(key.to_owned(), value());
    }
}

fn fill_text(holder: &mut Map<String, Value>, key: &str, value: &str) {
    if holder.get(key).is_none_or(|present| present.is_null() || present == "") {
        holder.insert(key.to_owned(), Value::from(value));
    }
}
