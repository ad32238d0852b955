//! What is filled in.

use kruise_common::template_defaults::{self, TemplateDefaults};
use serde_json::{Map, Value};

use super::Options;

/// As many pods at once as there are nodes.
const PARALLELISM: i32 = i32::MAX;

/// Fills in what is unset; `old` is the stored object, absent on create. A template is left alone on an update that does
/// not touch it.
pub fn default(object: &mut Value, old: Option<&Value>, options: Options) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    fill(spec, "parallelism", PARALLELISM);
    for (policy, type_) in [("completionPolicy", "Always"), ("failurePolicy", "FailFast")] {
        fill(spec, policy, Map::new());
        if let Some(policy) = spec.get_mut(policy).and_then(Value::as_object_mut) {
            fill(policy, "type", type_);
        }
    }
    let stored = old.and_then(|old| old.pointer("/spec/template"));
    if options.default_templates
        && let Some(template) = spec.get_mut("template")
        && stored != Some(&*template)
    {
        let gates = TemplateDefaults { host_network_ports: options.host_network_ports };
        template_defaults::apply(template, gates);
    }
}

fn fill(holder: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if holder.get(key).is_none_or(|present| present.is_null() || present == "") {
        holder.insert(key.to_owned(), value.into());
    }
}
