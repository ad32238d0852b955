//! Every write in `testdata/kinds.json` was sent to a real 1.34 API server; its answers are what these functions must give.

use serde_json::{Value, json};

use super::*;
use crate::builtin;

fn recorded() -> Vec<Value> {
    serde_json::from_str(include_str!("../testdata/kinds.json")).unwrap()
}

fn resource(case: &Value) -> Resource {
    let plural = case["resource"].as_str().unwrap();
    let group = case["groupVersion"].as_str().unwrap().rsplit_once('/').map_or("", |(group, _)| group);
    builtin::resources()
        .into_iter()
        .find(|resource| resource.group == group && resource.plural == plural)
        .unwrap()
}

/// What the real server adds and this one leaves out or chooses on its own.
fn without_choices(mut object: Value) -> Value {
    let token =
        |value: &Value| value["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access-"));
    if object["kind"] == "Pod" {
        let spec = object["spec"].as_object_mut().unwrap();
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                let container = container.as_object_mut().unwrap();
                if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                    mounts.retain(|mount| !token(mount));
                    if mounts.is_empty() {
                        container.remove("volumeMounts");
                    }
                }
            }
        }
        if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
            volumes.retain(|volume| !token(volume));
            if volumes.is_empty() {
                spec.remove("volumes");
            }
        }
        for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
            condition.as_object_mut().unwrap().remove("lastTransitionTime");
        }
    }
    if object["kind"] == "Service" && object["spec"]["clusterIP"] != "None" {
        let spec = object["spec"].as_object_mut().unwrap();
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    if object["kind"] == "PersistentVolume" {
        object["status"].as_object_mut().unwrap().remove("lastPhaseTransitionTime");
    }
    if object["kind"] == "Node" {
        object["spec"].as_object_mut().unwrap().remove("taints");
    }
    if let Some(meta) = object["metadata"].as_object_mut() {
        for field in ["resourceVersion", "managedFields"] {
            meta.remove(field);
        }
        if meta.contains_key("generateName") {
            meta.remove("name");
        }
    }
    object
}

fn refusals(errors: &[FieldError]) -> Vec<String> {
    let text = |error: &FieldError| {
        let context = error.field.ends_with(".securityContext");
        let message = error
            .message
            .rsplit_once("}: ")
            .filter(|_| context)
            .map_or(&*error.message, |(_, detail)| detail);
        format!("{}: {message}", error.field)
    };
    let mut texts: Vec<String> = errors.iter().map(text).collect();
    texts.sort();
    texts.dedup();
    texts
}

fn expected_refusals(answer: &Value) -> Vec<String> {
    let mut texts: Vec<String> = answer["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| {
            // The differences between the old and the new object that follow are written in the server's own types.
            let message = cause["message"].as_str().unwrap();
            let message = message.split_inclusive("\n@@").next().unwrap().trim_end_matches("@@");
            // So is a security context.
            let message = match message.split_once("Invalid value: {\"Capabilities\":") {
                Some((_, rest)) => rest.rsplit_once("}: ").map_or(rest, |(_, detail)| detail),
                None => message,
            };
            format!("{}: {message}", cause["field"].as_str().unwrap())
        })
        .collect();
    texts.sort();
    texts.dedup();
    texts
}

/// What differs between the recorded answer and ours, if anything.
fn difference(case: &Value) -> Option<String> {
    let resource = resource(case);
    let answer = &case["answer"];
    let mut object = case["object"].clone();
    object["apiVersion"] = json!(case["groupVersion"]);
    object["kind"] = json!(resource.kind);
    let version = resource.storage.clone();
    if let Err(error) = decode(&resource, &version, &mut object) {
        return (Some(error.message.as_str()) != answer["message"].as_str()).then_some(error.message);
    }
    let errors = if let Some(old) = case.get("old") {
        let subresource = case["subresource"].as_str();
        prepare_update(&resource, subresource, old, &mut object);
        validate_update(&resource, subresource, old, &object)
    } else {
        let meta = object["metadata"].as_object_mut().unwrap();
        if resource.namespaced {
            meta.insert("namespace".to_owned(), json!("kinds-x"));
        }
        for field in ["uid", "creationTimestamp"] {
            if let Some(value) = answer.get("metadata").and_then(|meta| meta.get(field)) {
                meta.insert(field.to_owned(), value.clone());
            }
        }
        if let Some((_, uid)) =
            answer["message"].as_str().and_then(|text| text.split_once("controller-uid\":\""))
        {
            meta.insert("uid".to_owned(), json!(&uid[..36]));
        }
        if let Some(prefix) = meta.get("generateName").and_then(Value::as_str) {
            let text = answer.to_string();
            let at = text.find(prefix).map_or(0, |at| at + prefix.len());
            let name = format!("{prefix}{}", &text[at..at + 5]);
            meta.insert("name".to_owned(), json!(name));
        }
        prepare_create(&resource, &mut object, Timestamp::UNIX_EPOCH);
        validate_create(&resource, &object)
    };
    if answer.get("code").is_some() {
        let (ours, theirs) = (refusals(&errors), expected_refusals(answer));
        let missing: Vec<&String> = theirs.iter().filter(|text| !ours.contains(text)).collect();
        let extra: Vec<&String> = ours.iter().filter(|text| !theirs.contains(text)).collect();
        return (ours != theirs)
            .then(|| format!("refused otherwise:\n  missing {missing:#?}\n  extra {extra:#?}"));
    }
    if !errors.is_empty() {
        return Some(format!("refused: {:#?}", refusals(&errors)));
    }
    let (ours, theirs) = (without_choices(object), without_choices(answer.clone()));
    (ours != theirs).then(|| {
        let patch = json_patch::diff(&ours, &theirs);
        format!("stored otherwise, to be like the real one: {}", serde_json::to_string(&patch).unwrap())
    })
}

#[test]
fn writes_are_answered_as_a_real_api_server_answers_them() {
    let cases = recorded();
    assert!(cases.len() > 150, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        if let Some(difference) = difference(case) {
            let (resource, object) = (case["resource"].as_str().unwrap(), &case["object"]);
            let shown: String = object.to_string().chars().take(600).collect();
            wrong.push(format!("{number} {resource} {}: {difference}\n  {shown}", case["subresource"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
