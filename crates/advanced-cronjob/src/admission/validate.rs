//! What makes an object unacceptable, and what is worth a warning.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use kruise_common::pull_checks;
use kruise_webhook::review::FieldError;
use serde_json::{Map, Value};

use crate::child::{Kind, longest_plain_owner};
use crate::schedule::{Schedule, find_zone};

/// Longest name of an AdvancedCronJob.
const LONGEST_NAME: usize = 63;
/// Longest `activeDeadlineSeconds` of an image list.
const LONGEST_DEADLINE: i64 = 86_400;
const PULL_TIMEOUT_SECONDS: i64 = 600;

/// Fields of the spec that may be changed.
const MUTABLE: [&str; 7] = [
    "schedule",
    "concurrencyPolicy",
    "successfulJobsHistoryLimit",
    "failedJobsHistoryLimit",
    "startingDeadlineSeconds",
    "paused",
    "timeZone",
];

const TEMPLATE: &str = "spec.template";

/// Every rule an object breaks; `old` is the stored object, absent on create.
pub fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Vec::new();
    if old.is_none() {
        check_name(object, &mut faults);
    }
    let spec = object.get("spec").unwrap_or(&Value::Null);
    check_schedule(spec, &mut faults);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        if let Some(number) = spec.get(field).and_then(Value::as_i64).filter(|number| *number < 0) {
            let detail = "must be greater than or equal to 0";
            faults.push(FieldError::invalid(format!("spec.{field}"), number, detail));
        }
    }
    check_template(spec, &mut faults);
    if let Some(old) = old
        && fixed(spec) != fixed(old.get("spec").unwrap_or(&Value::Null))
    {
        let names: Vec<_> = MUTABLE.iter().map(|name| format!("'{name}'")).collect();
        faults.push(FieldError::forbidden(
            "spec",
            format!(
                "updates to advancedcronjob spec for fields other than 'imageListPullJobTemplate', {} are forbidden",
                names.join(", ")
            ),
        ));
    }
    faults
}

fn check_name(object: &Value, faults: &mut Vec<FieldError>) {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        let detail = "must consist of letters, digits and '-' (regex '^[a-zA-Z0-9\\-]+$')";
        faults.push(FieldError::invalid("metadata.name", name, detail));
    }
    if name.len() > LONGEST_NAME {
        let detail = format!("must be no more than {LONGEST_NAME} characters");
        faults.push(FieldError::invalid("metadata.name", name, detail));
    }
}

fn check_schedule(spec: &Value, faults: &mut Vec<FieldError>) {
    let schedule = spec.get("schedule").and_then(Value::as_str).unwrap_or_default();
    let mut refuse = |field: &str, value: &str, detail: String| {
        faults.push(FieldError::invalid(format!("spec.{field}"), value, detail));
    };
    if schedule.is_empty() {
        let detail = "schedule cannot be empty, please provide valid cron schedule.";
        refuse("schedule", schedule, detail.to_owned());
    }
    if let Err(error) = Schedule::parse(schedule) {
        refuse("schedule", schedule, error.to_string());
    }
    let Some(zone) = spec.get("timeZone").and_then(Value::as_str) else { return };
    if schedule.contains("TZ") {
        let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        refuse("schedule", schedule, detail.to_owned());
    }
    if zone.is_empty() {
        refuse("timeZone", zone, "timeZone must be nil or non-empty string".to_owned());
    } else if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        refuse("timeZone", zone, detail.to_owned());
    } else if let Err(error) = find_zone(zone) {
        refuse("timeZone", zone, error.to_string());
    }
}

/// A template of the spec that is there.
fn part(spec: &Value, kind: Kind) -> Option<&Value> {
    spec.get("template")?.get(kind.field()).filter(|template| !template.is_null())
}

fn check_template(spec: &Value, faults: &mut Vec<FieldError>) {
    let kinds: Vec<_> = Kind::ALL.into_iter().filter(|kind| part(spec, *kind).is_some()).collect();
    let which = "jobTemplate, broadcastJobTemplate or imageListPullJobTemplate";
    match kinds.as_slice() {
        [] => {
            faults.push(FieldError::forbidden(TEMPLATE, format!("spec must have one template, {which}")));
        }
        [Kind::ImageListPullJob] => check_list(spec, faults),
        [kind] => {
            // What is in it is for the API server to judge.
            let pods = part(spec, *kind).and_then(|job| job.get("spec")?.get("template"));
            if !pods.is_some_and(Value::is_object) {
                let field = format!("{TEMPLATE}.{}.spec.template", kind.field());
                faults.push(FieldError::required(field, ""));
            }
        }
        _ => {
            let detail = format!("spec can have only one template, {which}");
            faults.push(FieldError::forbidden(TEMPLATE, detail));
        }
    }
}

fn check_list(spec: &Value, faults: &mut Vec<FieldError>) {
    let policy = spec.get("concurrencyPolicy").and_then(Value::as_str).unwrap_or_default();
    if !matches!(policy, "Replace" | "Forbid") {
        let detail = format!("concurrencyPolicy should be Replace or Forbid, but current value is: {policy}");
        faults.push(FieldError::invalid("spec.concurrencyPolicy", policy, detail));
    }
    let list = part(spec, Kind::ImageListPullJob).and_then(|template| template.get("spec"));
    let list = list.unwrap_or(&Value::Null);
    let path = |field: &str| format!("{TEMPLATE}.{}.spec.{field}", Kind::ImageListPullJob.field());
    let found = pull_checks::of_selectors(list).into_iter().chain(pull_checks::of_images(list));
    faults.extend(found.map(|fault| {
        let value = list.get(fault.field).cloned().unwrap_or_default();
        FieldError::invalid(path(fault.field), value, fault.message)
    }));
    if let Some((value, detail)) = completion_fault(list) {
        faults.push(FieldError::invalid(path("completionPolicy"), value, detail));
    }
}

/// The first rule that the completion of an image list breaks.
fn completion_fault(list: &Value) -> Option<(Value, String)> {
    let completion = list.get("completionPolicy").unwrap_or(&Value::Null);
    let number = |holder: &Value, key: &str| holder.get(key).and_then(Value::as_i64);
    let kind = completion.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind != "Always" {
        return Some((kind.into(), "type must be Always in advancedCronJob".to_owned()));
    }
    let timeout = list.get("pullPolicy").and_then(|policy| number(policy, "timeoutSeconds"));
    let timeout = timeout.unwrap_or(PULL_TIMEOUT_SECONDS);
    if let Some(deadline) = number(completion, "activeDeadlineSeconds") {
        if deadline > LONGEST_DEADLINE {
            let detail = format!("activeDeadlineSeconds must be no more than {LONGEST_DEADLINE}");
            return Some((deadline.into(), detail));
        }
        if timeout > deadline {
            let detail = format!(
                "activeDeadlineSeconds must not be less than pullPolicy.timeoutSeconds, which is {timeout}"
            );
            return Some((deadline.into(), detail));
        }
    }
    let ttl = number(completion, "ttlSecondsAfterFinished")?;
    Some((ttl.into(), "ttlSecondsAfterFinished is not supported in advancedCronJob".to_owned()))
}

/// What cannot be changed of a spec: all but some fields, and of an image list only that there is one. The metadata of a
/// BroadcastJob can be: OpenKruise has not stored it, so that its manifests would differ from what it has left.
fn fixed(spec: &Value) -> Value {
    let mut spec = meaning(spec);
    let Some(fields) = spec.as_object_mut() else { return spec };
    fields.retain(|name, _| !MUTABLE.contains(&name.as_str()));
    if let Some(template) = fields.get_mut("template").and_then(Value::as_object_mut) {
        if let Some(list) = template.get_mut(Kind::ImageListPullJob.field()) {
            *list = Value::Bool(true);
        }
        let job = template.get_mut(Kind::BroadcastJob.field()).and_then(Value::as_object_mut);
        if let Some(job) = job {
            job.remove("metadata");
        }
    }
    spec
}

/// The value without what says nothing: `null` and empty objects and lists in objects. An empty template stays one.
fn meaning(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let says = |name: &str, value: &Value| {
                let empty = value.as_object().is_some_and(Map::is_empty)
                    || value.as_array().is_some_and(Vec::is_empty)
                    || value.is_null();
                !empty || Kind::ALL.iter().any(|kind| kind.field() == name && !value.is_null())
            };
            let fields = fields.iter().map(|(name, value)| (name.clone(), meaning(value)));
            Value::Object(fields.filter(|(name, value)| says(name, value)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(meaning).collect()),
        other => other.clone(),
    }
}

/// What is allowed but hardly meant; `old` is the stored object, absent on create.
pub fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let kind = Kind::ALL.into_iter().find(|kind| part(spec, *kind).is_some());
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if let Some(kind) = kind.filter(|kind| old.is_none() && name.len() > longest_plain_owner(*kind)) {
        warnings.push(format!(
            "metadata.name: longer than {} characters, so the names of its {}s are shortened",
            longest_plain_owner(kind),
            kind.name()
        ));
    }
    let schedule = spec.get("schedule").and_then(Value::as_str).unwrap_or_default();
    let changed = old.is_none_or(|old| old.pointer("/spec/schedule") != spec.get("schedule"));
    if changed && Schedule::parse(schedule).is_ok_and(|schedule| never(&schedule)) {
        warnings.push("spec.schedule: matches no time within five years".to_owned());
    }
    let endless = part(spec, Kind::BroadcastJob)
        .and_then(|job| job.pointer("/spec/completionPolicy/type"))
        .is_some_and(|kind| kind == "Never");
    if endless && spec.get("concurrencyPolicy").is_some_and(|policy| policy == "Forbid") {
        warnings.push(
            "spec.concurrencyPolicy: with Forbid, a BroadcastJob of completionPolicy Never stays the only run"
                .to_owned(),
        );
    }
    warnings
}

/// Whether a schedule matches no day there is: tried from a year before a leap day.
fn never(schedule: &Schedule) -> bool {
    let from = Timestamp::from_second(1_672_531_200).unwrap_or(Timestamp::UNIX_EPOCH); // 2023-01-01
    schedule.ticks(&TimeZone::UTC, &TimeZone::UTC, from).after(from).is_none()
}
