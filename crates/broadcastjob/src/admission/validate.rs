//! What is refused, and what is only warned of.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kruise_api::keys;
use kruise_common::counts::IntOrPercent;
use kruise_webhook::review::FieldError;
use serde_json::Value;

/// Longest name.
const MAX_NAME: usize = 63;

/// All that is wrong with a job, the template's own rules apart.
pub fn validate(object: &Value) -> Vec<FieldError> {
    let mut faults = Vec::new();
    check_name(object, &mut faults);
    let spec = object.get("spec").unwrap_or(&Value::Null);
    check_parallelism(spec, &mut faults);
    if text(spec, "/completionPolicy/type") == Some("Never") {
        for field in ["ttlSecondsAfterFinished", "activeDeadlineSeconds"] {
            if let Some(seconds) = set(spec, &format!("/completionPolicy/{field}")) {
                let detail = format!("{field} can just work with Always CompletionPolicyType");
                faults.push(FieldError::invalid(
                    format!("spec.completionPolicy.{field}"),
                    seconds.clone(),
                    detail,
                ));
            }
        }
    }
    let policy = text(spec, "/template/spec/restartPolicy").filter(|policy| !policy.is_empty());
    if !matches!(policy, Some("Never" | "OnFailure")) {
        faults.push(FieldError::invalid(
            "spec.template.spec.restartPolicy",
            policy.unwrap_or("Always"),
            "pod restartPolicy can only be Never or OnFailure",
        ));
    }
    let labels = spec.pointer("/template/metadata/labels").and_then(Value::as_object);
    let preset = |key: &str| {
        labels.and_then(|labels| labels.get(key)?.as_str()).is_some_and(|value| !value.is_empty())
    };
    if [keys::BROADCASTJOB_NAME, keys::BROADCASTJOB_UID].into_iter().any(preset) {
        let both = format!(r#""{}" and "{}""#, keys::BROADCASTJOB_NAME, keys::BROADCASTJOB_UID);
        faults.push(FieldError::invalid(
            "spec.template.metadata.labels",
            labels.cloned().map_or(Value::Null, Value::Object),
            format!("{both} are not allowed to preset in pod labels"),
        ));
    }
    faults
}

/// What is carried out, but perhaps not as it was meant.
pub fn warnings(object: &Value) -> Vec<String> {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let mut told = Vec::new();
    let number = |path: &str| spec.pointer(path).and_then(Value::as_i64);
    if number("/parallelism").is_some_and(|number| number < 0) {
        told.push("spec.parallelism: a negative number starts nothing, as 0 does".to_owned());
    }
    let unknown = |path: &str, known: &[&str]| {
        text(spec, path).filter(|type_| !type_.is_empty() && !known.contains(type_)).map(str::to_owned)
    };
    if let Some(type_) = unknown("/completionPolicy/type", &["Always", "Never"]) {
        told.push(format!("spec.completionPolicy.type: unknown {type_:?} is taken for Always"));
    }
    if let Some(type_) = unknown("/failurePolicy/type", &["Continue", "FailFast", "Pause"]) {
        told.push(format!("spec.failurePolicy.type: unknown {type_:?} is taken for Continue"));
    }
    for field in ["activeDeadlineSeconds", "ttlSecondsAfterFinished"] {
        if number(&format!("/completionPolicy/{field}")).is_some_and(|seconds| seconds < 0) {
            told.push(format!("spec.completionPolicy.{field}: a negative number is over at once, as 0 is"));
        }
    }
    let limit = number("/failurePolicy/restartLimit").unwrap_or_default();
    if limit < 0 {
        told.push("spec.failurePolicy.restartLimit: with a negative number every pod has failed".to_owned());
    }
    let fails_fast = matches!(text(spec, "/failurePolicy/type"), None | Some("" | "FailFast"));
    if limit == 0 && fails_fast && text(spec, "/template/spec/restartPolicy") == Some("OnFailure") {
        told.push(
            "spec.failurePolicy.restartLimit is 0 for each pod: the first restart of a container fails the job"
                .to_owned(),
        );
    }
    told
}

fn check_name(object: &Value, faults: &mut Vec<FieldError>) {
    // Generated names are judged when they are there.
    let Some(name) = object.pointer("/metadata/name").and_then(Value::as_str) else { return };
    if name.len() > MAX_NAME {
        faults.push(FieldError::invalid(
            "metadata.name",
            name,
            format!("must be no more than {MAX_NAME} characters"),
        ));
    }
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        faults.push(FieldError::invalid(
            "metadata.name",
            name,
            "must consist of alphanumeric characters or '-' (regex used for validation is '^[a-zA-Z0-9\\-]+$')",
        ));
    }
}

fn check_parallelism(spec: &Value, faults: &mut Vec<FieldError>) {
    let Some(value) = set(spec, "/parallelism") else { return };
    let parsed = serde_json::from_value::<IntOrString>(value.clone())
        .map_err(|_| "it is neither an integer nor a percentage such as \"20%\"".to_owned())
        .and_then(|value| IntOrPercent::parse(&value));
    if let Err(detail) = parsed {
        faults.push(FieldError::invalid("spec.parallelism", value.clone(), detail));
    }
}

fn set<'a>(spec: &'a Value, path: &str) -> Option<&'a Value> {
    spec.pointer(path).filter(|value| !value.is_null())
}

fn text<'a>(spec: &'a Value, path: &str) -> Option<&'a str> {
    spec.pointer(path).and_then(Value::as_str)
}
