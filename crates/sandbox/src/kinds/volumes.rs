//! Validation of the volumes of a pod and of their mounts.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::check::{Checks, at, list, text};
use super::{names, workloads};

/// Checks the volumes of a pod spec; answers the sound ones by name.
pub(super) fn check<'a>(spec: &'a Value, path: &str, checks: &mut Checks) -> HashMap<&'a str, &'a Value> {
    let mut sound = HashMap::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let path = format!("{path}[{index}]");
        let before = checks.0.len();
        source(volume, &path, checks);
        let name = text(volume, "name");
        if name.is_empty() {
            checks.required(format!("{path}.name"), "");
        } else {
            checks.invalid_each(&format!("{path}.name"), name, names::dns_label(name));
        }
        if sound.contains_key(name) {
            checks.duplicate(format!("{path}.name"), name);
        }
        if checks.0.len() == before {
            sound.insert(name, volume);
        }
    }
    sound
}

fn source(volume: &Value, path: &str, checks: &mut Checks) {
    let Some(fields) = volume.as_object() else { return };
    let mut sources = fields.iter().filter(|(key, value)| *key != "name" && !value.is_null());
    let Some((kind, source)) = sources.next() else {
        checks.required(path, "must specify a volume type");
        return;
    };
    for (kind, _) in sources {
        checks.forbidden(format!("{path}.{kind}"), "may not specify more than 1 volume type");
    }
    let path = format!("{path}.{kind}");
    match kind.as_str() {
        "hostPath" if text(source, "path").is_empty() => {
            checks.required(format!("{path}.path"), "");
        }
        "secret" => {
            required(source, "secretName", &path, checks);
            mode(source, &path, checks);
            items(source, &path, checks);
        }
        "configMap" => {
            required(source, "name", &path, checks);
            mode(source, &path, checks);
            items(source, &path, checks);
        }
        "persistentVolumeClaim" => required(source, "claimName", &path, checks),
        "nfs" => {
            required(source, "server", &path, checks);
            required(source, "path", &path, checks);
            if !text(source, "path").starts_with('/') {
                let value = Value::from(text(source, "path"));
                checks.invalid(format!("{path}.path"), &value, "must be an absolute path");
            }
        }
        "csi" => required(source, "driver", &path, checks),
        "ephemeral" => match at(source, &["volumeClaimTemplate"]) {
            None => checks.required(format!("{path}.volumeClaimTemplate"), ""),
            Some(template) => {
                let spec = template.get("spec").unwrap_or(&Value::Null);
                workloads::claim_spec(spec, &format!("{path}.volumeClaimTemplate.spec"), checks);
            }
        },
        "projected" | "downwardAPI" => mode(source, &path, checks),
        _ => {}
    }
}

fn required(source: &Value, key: &str, path: &str, checks: &mut Checks) {
    if text(source, key).is_empty() {
        checks.required(format!("{path}.{key}"), "");
    }
}

fn mode(source: &Value, path: &str, checks: &mut Checks) {
    if let Some(mode) =
        source.get("defaultMode").and_then(Value::as_i64).filter(|mode| !(0..=0o777).contains(mode))
    {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        checks.invalid(format!("{path}.defaultMode"), &Value::from(mode), detail);
    }
}

fn items(source: &Value, path: &str, checks: &mut Checks) {
    for (index, item) in list(source, "items").iter().enumerate() {
        for field in ["key", "path"] {
            if text(item, field).is_empty() {
                checks.required(format!("{path}.items[{index}].{field}"), "");
            }
        }
    }
}

/// Checks the mounts and devices of a container at `path`.
pub(super) fn mounts(container: &Value, volumes: &HashMap<&str, &Value>, path: &str, checks: &mut Checks) {
    let holder = format!("{path}.volumeMounts");
    let mut paths = HashSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = format!("{holder}[{index}]");
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            checks.required(format!("{path}.name"), "");
        }
        if !volumes.contains_key(name) {
            checks.not_found(format!("{path}.name"), name);
        }
        if target.is_empty() {
            checks.required(format!("{path}.mountPath"), "");
        }
        if !paths.insert(target) {
            checks.invalid(format!("{path}.mountPath"), &Value::from(target), "must be unique");
        }
        for field in ["subPath", "subPathExpr"] {
            let inside = text(mount, field);
            if inside.starts_with('/') {
                checks.invalid(format!("{holder}.{field}"), &Value::from(inside), "must be a relative path");
            }
            if inside.split('/').any(|part| part == "..") {
                checks.invalid(format!("{holder}.{field}"), &Value::from(inside), "must not contain '..'");
            }
        }
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            checks.invalid(
                format!("{path}.subPathExpr"),
                &Value::from(text(mount, "subPathExpr")),
                "subPathExpr and subPath are mutually exclusive",
            );
        }
    }
    for (index, device) in list(container, "volumeDevices").iter().enumerate() {
        let path = format!("{path}.volumeDevices[{index}]");
        let name = text(device, "name");
        match volumes.get(name) {
            None => checks.not_found(format!("{path}.name"), name),
            Some(volume)
                if at(volume, &["persistentVolumeClaim"]).or(at(volume, &["ephemeral"])).is_none() =>
            {
                checks.invalid(
                    format!("{path}.name"),
                    &Value::from(name),
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                );
            }
            Some(_) => {}
        }
        if text(device, "devicePath").is_empty() {
            checks.required(format!("{path}.devicePath"), "");
        }
    }
}
