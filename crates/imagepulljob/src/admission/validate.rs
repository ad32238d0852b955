//! What makes an object unacceptable.

use std::collections::BTreeSet;

use kruise_common::pull_checks;
use serde_json::Value;

use super::Kind;
use crate::task::{DEFAULT_TIMEOUT_SECONDS, NEVER};

const MAX_IMAGES_OF_NODE: usize = 256;

/// Every rule an object breaks; empty if it is acceptable.
pub fn validate(object: &Value, kind: Kind) -> Vec<String> {
    let mut faults = Vec::new();
    let spec = object.get("spec").unwrap_or(&Value::Null);
    match kind {
        Kind::Job => {
            faults.extend(messages(pull_checks::of_selectors(spec)));
            let image = spec.get("image").and_then(Value::as_str).unwrap_or_default();
            if image.is_empty() {
                faults.push("image can not be empty".to_owned());
            } else {
                faults.extend(pull_checks::of_image(image));
            }
            check_parallelism(spec, &mut faults);
            check_completion(spec, true, &mut faults);
        }
        Kind::List => {
            faults.extend(messages(pull_checks::of_selectors(spec)));
            faults.extend(messages(pull_checks::of_images(spec)));
            check_parallelism(spec, &mut faults);
            // Whether the deadline leaves time for an attempt is the jobs' own webhook to say.
            check_completion(spec, false, &mut faults);
        }
        Kind::NodeImage => check_node(spec, &mut faults),
    }
    faults
}

/// What an update changes that it may not.
pub fn immutable_fault(object: &Value, old: &Value, kind: Kind) -> Option<String> {
    let secrets = |object: &Value| {
        object.pointer("/spec/pullSecrets").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    (kind == Kind::Job && secrets(object) != secrets(old)).then(|| "spec.pullSecrets is immutable".to_owned())
}

fn messages(faults: Vec<pull_checks::Fault>) -> impl Iterator<Item = String> {
    faults.into_iter().map(|fault| fault.message)
}

fn check_parallelism(spec: &Value, faults: &mut Vec<String>) {
    let number = match spec.get("parallelism") {
        None | Some(Value::Null) => return,
        Some(Value::String(text)) if text.ends_with('%') => {
            faults.push("parallelism does not support percentage value".to_owned());
            return;
        }
        Some(Value::String(text)) => text.parse::<i32>().ok(),
        Some(value) => value.as_i64().and_then(|number| i32::try_from(number).ok()),
    };
    match number {
        None => faults.push("parallelism must be a valid integer".to_owned()),
        Some(number) if number < 0 => faults.push("parallelism must be non-negative".to_owned()),
        Some(_) => {}
    }
}

fn check_completion(spec: &Value, compares_deadline: bool, faults: &mut Vec<String>) {
    let completion = spec.get("completionPolicy").unwrap_or(&Value::Null);
    let number = |holder: &Value, key: &str| holder.get(key).and_then(Value::as_i64);
    let deadline = number(completion, "activeDeadlineSeconds");
    match completion.get("type").and_then(Value::as_str).unwrap_or_default() {
        "" | "Always" => {
            let policy = spec.get("pullPolicy").unwrap_or(&Value::Null);
            let timeout = number(policy, "timeoutSeconds").unwrap_or(i64::from(DEFAULT_TIMEOUT_SECONDS));
            if compares_deadline && deadline.is_some_and(|deadline| timeout > deadline) {
                faults.push(
                    "completionPolicy.activeDeadlineSeconds must be greater than pullPolicy.timeoutSeconds(default 600)"
                        .to_owned(),
                );
            }
        }
        NEVER => {
            if deadline.is_some() || number(completion, "ttlSecondsAfterFinished").is_some() {
                faults.push(
                    "activeDeadlineSeconds and ttlSecondsAfterFinished can only work with Always CompletionPolicyType"
                        .to_owned(),
                );
            }
        }
        other => faults.push(format!("unknown type of completionPolicy: {other}")),
    }
}

fn check_node(spec: &Value, faults: &mut Vec<String>) {
    let Some(images) = spec.get("images").and_then(Value::as_object) else { return };
    if images.len() > MAX_IMAGES_OF_NODE {
        let count = images.len();
        faults.push(format!("spec images length {count} can not be more than {MAX_IMAGES_OF_NODE}"));
    }
    for (name, image) in images {
        if name.is_empty() {
            faults.push("image name in spec.images can not be empty".to_owned());
        }
        let mut seen = BTreeSet::new();
        for tag in image.get("tags").and_then(Value::as_array).into_iter().flatten() {
            check_tag(name, tag, &mut seen, faults);
        }
    }
}

fn check_tag<'a>(name: &str, entry: &'a Value, seen: &mut BTreeSet<&'a str>, faults: &mut Vec<String>) {
    let get = |key: &str| entry.get(key).filter(|value| !value.is_null());
    let tag = get("tag").and_then(Value::as_str).unwrap_or_default();
    if tag.is_empty() {
        faults.push(format!("tag of image {name} can not be empty"));
    } else if !seen.insert(tag) {
        faults.push(format!("duplicated tag {tag} of image {name}"));
    }
    if get("createdAt").is_none() {
        faults.push(format!("createAt field of image {name}:{tag} must set"));
    }
    if get("version").and_then(Value::as_i64).is_some_and(|version| version < 0) {
        faults.push(format!("version of image {name}:{tag} must be non-negative"));
    }
    match get("pullPolicy") {
        None => faults.push(format!("pullPolicy of image {name}:{tag} must set")),
        Some(policy) => {
            if policy.get("ttlSecondsAfterFinished").is_none_or(Value::is_null) {
                faults.push(format!("pullPolicy.ttlSecondsAfterFinished of image {name}:{tag} must set"));
            }
        }
    }
}
