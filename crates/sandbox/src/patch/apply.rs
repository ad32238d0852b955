//! Server-side apply.

use serde_json::{Map, Value};

use super::{
    failure,
    fields::FieldSet,
    managers::{Entry, Id, Operation, Write, decode, list_of, put, stripped},
    merging::{merge_config, remove_fields, with_parents},
    walk::{compare, field_set, misfits},
};
use crate::error::{ApiError, Reason};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The object after applying the configuration `patch`; `live` is `None` if there is no object yet.
///
/// Defaulting and everything else a write goes through comes after it. If [`super::managers::unchanged`] says that the
/// result equals `live`, nothing is to be stored.
///
/// # Errors
/// `BadRequest` if the patch is of another kind or version, 500 without a reason (as the API server answers) if it does not fit
/// the type, `Conflict` if it changes fields of other managers and `force` is not set.
pub fn apply(write: &Write<'_>, live: Option<&Value>, patch: &Value, force: bool) -> Result<Value, ApiError> {
    check(write, patch)?;
    let mut entries = live.and_then(list_of).and_then(|list| decode(list)).unwrap_or_default();
    let empty = blank(write);
    let live = live.unwrap_or(&empty);
    if entries.is_empty() {
        entries = before_first_apply(write, &empty, live);
    }
    let mut object = attempt(write, live, patch, entries.clone(), force).or_else(|conflicts| {
        match allowed(write, live) {
            Some(allowed) => {
                let left: Vec<_> = conflicts
                    .into_iter()
                    .map(|(id, set)| (id, set.without(&allowed)))
                    .filter(|(_, set)| !set.is_empty())
                    .collect();
                if left.is_empty() { attempt(write, live, patch, entries, true) } else { Err(left) }
            }
            None => Err(conflicts),
        }
        .map_err(|conflicts| conflict(&conflicts))
    })?;
    if write.manager == "kubectl" {
        refresh_last_applied(&mut object, patch);
    }
    Ok(object)
}

fn blank(write: &Write<'_>) -> Value {
    let fields = [("apiVersion", write.api_version), ("kind", write.kind)];
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect())
}

fn check(write: &Write<'_>, patch: &Value) -> Result<(), ApiError> {
    let text = |name: &str| patch.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let slashed = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
    if version != write.api_version || kind != write.kind {
        return Err(failure(Reason::BadRequest, format!("invalid object type: {slashed}, Kind={kind}")));
    }
    let metadata = |name: &str| patch.get("metadata").and_then(|metadata| metadata.get(name));
    if metadata("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(failure(Reason::BadRequest, "metadata.managedFields must be nil"));
    }
    let mut problems = misfits(patch, write.shape.view());
    problems.sort();
    let problems = match problems.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => {
            let lines: Vec<_> = many.iter().map(|line| format!("  {line}")).collect();
            format!("errors:\n{}", lines.join("\n"))
        }
    };
    let name = |name: &str| metadata(name).and_then(Value::as_str).unwrap_or_default();
    let object = format!("{}/{}; {slashed}, Kind={kind}", name("namespace"), name("name"));
    Err(failure(Reason::Unknown, format!("failed to create typed patch object ({object}): {problems}")))
}

/// An object whose fields nobody owns yet belongs to this manager.
fn before_first_apply(write: &Write<'_>, empty: &Value, live: &Value) -> Vec<Entry> {
    let changes = write.changes(empty, live);
    let set = changes.added.union(&changes.modified).without(&stripped());
    let write = Write { manager: "before-first-apply", ..*write };
    let entry = Entry { id: write.id(Operation::Update), time: Some(write.stamp()), set };
    if entry.set.is_empty() { Vec::new() } else { vec![entry] }
}

type Conflicts = Vec<(Id, FieldSet)>;

fn attempt(
    write: &Write<'_>,
    live: &Value,
    patch: &Value,
    mut entries: Vec<Entry>,
    force: bool,
) -> Result<Value, Conflicts> {
    let view = write.shape.view();
    let id = write.id(Operation::Apply);
    let mut applied = field_set(patch, view);
    write.filter(&mut applied);
    let last = entries.iter().find(|entry| entry.id.is(&id)).cloned();
    entries.retain(|entry| !entry.id.is(&id));
    let merged = merge_config(live, patch, view);
    let object = match &last {
        Some(last) => pruned(write, &merged, &last.set, &entries, &applied),
        None => merged,
    };
    let changes = write.changes(live, &object);
    let changed = changes.added.clone().union(&changes.modified);
    let conflicts: Conflicts = entries
        .iter()
        .map(|entry| (entry.id.clone(), entry.set.intersection(&changed)))
        .filter(|(_, set)| !set.is_empty())
        .collect();
    if !force && !conflicts.is_empty() {
        return Err(conflicts);
    }
    let gone = changed.union(&changes.removed);
    for entry in &mut entries {
        entry.set = std::mem::take(&mut entry.set).without(&gone);
    }
    // The time stands still if nothing but the ownership changed.
    let same = compare(live, &object, view).is_empty();
    let time = if same { last.and_then(|last| last.time) } else { Some(write.stamp()) };
    entries.push(Entry { id, time, set: applied.without(&stripped()) });
    entries.retain(|entry| !entry.set.is_empty());
    let mut object = object;
    put(&mut object, entries);
    Ok(object)
}

/// Takes out what this manager applied last time, does not apply now, and nobody else owns.
fn pruned(write: &Write<'_>, merged: &Value, last: &FieldSet, others: &[Entry], applied: &FieldSet) -> Value {
    let view = write.shape.view();
    let nothing = || Value::Object(Map::new());
    let last = with_parents(last, view);
    let first = remove_fields(merged, &last, view).unwrap_or_else(nothing);
    let owned = others.iter().fold(applied.clone(), |owned, entry| owned.union(&entry.set));
    let all = with_parents(&field_set(merged, view), view);
    let kept = with_parents(&field_set(&first, view), view).union(&with_parents(&owned, view));
    let second = remove_fields(merged, &all.clone().without(&kept), view).unwrap_or_else(nothing);
    let kept = with_parents(&field_set(&second, view), view);
    remove_fields(merged, &all.without(&kept).intersection(&last), view).unwrap_or_else(nothing)
}

/// Fields that `kubectl apply` without server-side apply left behind and `kubectl` may therefore take over.
fn allowed(write: &Write<'_>, live: &Value) -> Option<FieldSet> {
    if write.manager != "kubectl" {
        return None;
    }
    let annotation = live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
    let last: Value = serde_json::from_str(annotation).ok()?;
    if last.get("apiVersion").and_then(Value::as_str) != Some(write.api_version) {
        return None;
    }
    let view = write.shape.view();
    let changes = compare(&last, live, view);
    Some(field_set(&last, view).without(&changes.modified).without(&changes.added).without(&changes.removed))
}

/// Keeps the annotation of client-side apply in step, if there is one.
fn refresh_last_applied(object: &mut Value, patch: &Value) {
    let annotations = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"));
    let Some(annotation) = annotations.and_then(|annotations| annotations.get_mut(LAST_APPLIED)) else {
        return;
    };
    if annotation.as_str().is_none_or(str::is_empty) {
        return;
    }
    let mut patch = patch.clone();
    let annotations = patch.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"));
    if let Some(Value::Object(annotations)) = annotations {
        annotations.remove(LAST_APPLIED);
    }
    *annotation = format!("{patch}\n").into();
}

fn conflict(conflicts: &Conflicts) -> ApiError {
    let mut conflicts: Vec<(String, Vec<String>)> =
        conflicts.iter().map(|(id, set)| (manager_text(id), set.paths())).collect();
    conflicts.sort();
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let message = match conflicts.as_slice() {
        [(manager, paths)] if count == 1 => {
            format!("Apply failed with 1 conflict: conflict with {manager}: {}", paths.concat())
        }
        _ => {
            let lines = conflicts.iter().flat_map(|(manager, paths)| {
                let head = format!("conflicts with {manager}:");
                std::iter::once(head).chain(paths.iter().map(|path| format!("- {path}")))
            });
            format!("Apply failed with {count} conflicts: {}", lines.collect::<Vec<_>>().join("\n"))
        }
    };
    let causes: Vec<Value> = conflicts
        .iter()
        .flat_map(|(manager, paths)| {
            paths.iter().map(move |path| {
                serde_json::json!({
                    "reason": "FieldManagerConflict",
                    "message": format!("conflict with {manager}"),
                    "field": path,
                })
            })
        })
        .collect();
    ApiError { details: serde_json::json!({ "causes": causes }), ..failure(Reason::Conflict, message) }
}

fn manager_text(id: &Id) -> String {
    let subresource = if id.subresource.is_empty() {
        String::new()
    } else {
        format!(" with subresource {:?}", id.subresource)
    };
    let version = match id.operation {
        Operation::Update => format!(" using {}", id.api_version),
        Operation::Apply => String::new(),
    };
    format!("{:?}{subresource}{version}", id.manager)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::patch::{managers, shape::Shape};

    const NOW: &str = "2030-01-01T00:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn entries(object: &Value) -> Vec<Value> {
        list_of(object).cloned().unwrap_or_default()
    }

    /// The recorded entries, with the time of our write where the real one wrote.
    fn expected(old: &Value, new: &Value) -> Vec<Value> {
        let times: Vec<Value> = entries(old).iter().map(|entry| entry["time"].clone()).collect();
        let mut list = entries(new);
        for entry in &mut list {
            if entry.get("time").is_some_and(|time| !times.contains(time)) {
                entry["time"] = json!(NOW);
            }
        }
        list
    }

    /// Requests and answers recorded from a Kubernetes 1.34 API server, one object after another.
    fn recorded() -> (Shape, Vec<Value>) {
        let recorded: Value = serde_json::from_str(include_str!("testdata/apply.json")).unwrap();
        (Shape::custom(&recorded["schema"]), recorded["cases"].as_array().unwrap().clone())
    }

    /// The API server lists problems in random order.
    fn lines(message: &str) -> Vec<&str> {
        let mut lines: Vec<&str> = message.lines().collect();
        lines.sort_unstable();
        lines
    }

    fn with_write<T>(case: &Value, custom: &Shape, act: impl FnOnce(&Write<'_>) -> T) -> T {
        let api_version = case["apiVersion"].as_str().unwrap();
        let kind = case["kind"].as_str().unwrap();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let shape = Shape::builtin(group, version, kind).unwrap_or_else(|| custom.clone());
        act(&Write {
            shape: &shape,
            api_version,
            kind,
            manager: case["manager"].as_str().unwrap(),
            subresource: case["subresource"].as_str().unwrap(),
            has_status: kind != "ConfigMap",
            time: now(),
        })
    }

    #[test]
    fn ownership_follows_what_a_kubernetes_1_34_api_server_did() {
        let (custom, cases) = recorded();
        let mut failures = Vec::new();
        for case in &cases {
            let old = Some(&case["old"]).filter(|old| !old.is_null());
            let name = case["name"].as_str().unwrap();
            let forced = case["force"] == json!(true);
            let result = with_write(case, &custom, |write| {
                if case["op"] == "apply" {
                    return apply(write, old, &case["patch"], forced);
                }
                let mut new = case["new"].clone();
                new["metadata"]["managedFields"] = match name {
                    "managedFields are reset" => json!([{}]),
                    _ => old.map_or(Value::Null, |old| old["metadata"]["managedFields"].clone()),
                };
                managers::track(write, old, &mut new);
                Ok(new)
            });
            match (result, case.get("new")) {
                (Ok(found), Some(new)) => {
                    let (found, wanted) = (entries(&found), expected(&case["old"], new));
                    if found != wanted {
                        failures.push(format!("{name}:\n  {}\n  {}", json!(found), json!(wanted)));
                    }
                }
                (Err(error), None) => {
                    let status = &case["status"];
                    let wanted = (
                        lines(status["message"].as_str().unwrap()),
                        &status["code"],
                        &status["details"]["causes"],
                    );
                    let code = json!(error.reason.code());
                    let found = (lines(&error.message), &code, &error.details["causes"]);
                    if found != wanted {
                        failures.push(format!("{name}:\n  {found:?}\n  {wanted:?}"));
                    }
                }
                (Ok(found), None) => failures.push(format!("{name}: {found} for {}", case["status"])),
                (Err(error), Some(_)) => failures.push(format!("{name}: {error}")),
            }
        }
        assert!(failures.is_empty(), "{} of {} differ\n{}", failures.len(), cases.len(), failures.join("\n"));
    }

    #[test]
    fn applied_objects_are_what_a_kubernetes_1_34_api_server_made_of_them() {
        let (custom, cases) = recorded();
        let custom_applies =
            |case: &&Value| case["kind"] == "Thing" && case["op"] == "apply" && case["subresource"] == "";
        for case in cases.iter().filter(custom_applies).filter(|case| case.get("new").is_some()) {
            let old = Some(&case["old"]).filter(|old| !old.is_null());
            let forced = case["force"] == json!(true);
            let found = with_write(case, &custom, |write| apply(write, old, &case["patch"], forced)).unwrap();
            let mut found = found["spec"].clone();
            // The schema's default, which the API server fills in afterwards.
            for port in found["map"].as_array_mut().into_iter().flatten() {
                if port.get("protocol").is_none() {
                    port["protocol"] = json!("TCP");
                }
            }
            assert_eq!(found, case["new"]["spec"], "{}", case["name"]);
        }
    }

    #[test]
    fn applying_twice_writes_nothing() {
        let (custom, cases) = recorded();
        for case in cases.iter().filter(|case| case["op"] == "apply" && case.get("new").is_some()) {
            let old = Some(&case["old"]).filter(|old| !old.is_null());
            with_write(case, &custom, |write| {
                let once = apply(write, old, &case["patch"], true).unwrap();
                let later = Write { time: now() + jiff::SignedDuration::from_hours(1), ..*write };
                let twice = apply(&later, Some(&once), &case["patch"], false).unwrap();
                assert_eq!(once, twice, "{}", case["name"]);
                assert!(managers::unchanged(&once, &twice));
            });
        }
    }

    #[test]
    fn a_write_that_changes_nothing_keeps_the_entries_as_they_are() {
        let (custom, cases) = recorded();
        for case in cases.iter().filter(|case| case.get("new").is_some()) {
            with_write(case, &custom, |write| {
                let old = &case["new"];
                let mut new = old.clone();
                managers::track(&Write { manager: "somebody", ..*write }, Some(old), &mut new);
                assert_eq!(&new, old, "{}", case["name"]);
            });
        }
    }
}
