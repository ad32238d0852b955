//! What Kubernetes accepts as names, labels and other metadata, with the API server's messages.

use serde_json::Value;

use crate::error::FieldError;
use crate::object;
use crate::resource::Resource;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const NAME_PART: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";

fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = text.as_bytes();
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|c| inner(*c))
}

fn is_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// Messages against a DNS label.
pub(crate) fn dns_label(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    if text.len() > 63 {
        why.push("must be no more than 63 characters".to_owned());
    }
    if !is_label(text) {
        why.push(LABEL.to_owned());
    }
    why
}

/// Messages against a DNS subdomain.
pub(crate) fn dns_subdomain(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    if text.len() > 253 {
        why.push("must be no more than 253 characters".to_owned());
    }
    if !text.split('.').all(is_label) {
        why.push(SUBDOMAIN.to_owned());
    }
    why
}

fn dns_1035(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    if text.len() > 63 {
        why.push("must be no more than 63 characters".to_owned());
    }
    if !is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        why.push(DNS1035.to_owned());
    }
    why
}

/// Messages against a key of labels or annotations, or a finalizer.
pub(crate) fn qualified_name(text: &str) -> Vec<String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (mut why, name) = match parts.as_slice() {
        [name] => (Vec::new(), *name),
        [prefix, name] => {
            let why = if prefix.is_empty() {
                vec!["prefix part must be non-empty".to_owned()]
            } else {
                dns_subdomain(prefix).into_iter().map(|one| format!("prefix part {one}")).collect()
            };
            (why, *name)
        }
        _ => return vec![QUALIFIED.to_owned()],
    };
    if name.is_empty() {
        why.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        why.push("name part must be no more than 63 characters".to_owned());
    }
    if !is_part(name) {
        why.push(format!("name part {NAME_PART}"));
    }
    why
}

/// Messages against the value of a label.
pub(crate) fn label_value(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    if text.len() > 63 {
        why.push("must be no more than 63 characters".to_owned());
    }
    if !text.is_empty() && !is_part(text) {
        why.push(LABEL_VALUE.to_owned());
    }
    why
}

fn path_segment(text: &str, prefix: bool) -> Vec<String> {
    let mut why = Vec::new();
    if !prefix && (text == "." || text == "..") {
        why.push(format!("may not be '{text}'"));
    }
    for part in ["/", "%"] {
        if text.contains(part) {
            why.push(format!("may not contain '{part}'"));
        }
    }
    why
}

/// Messages against a name of an object of a resource; with `prefix` against a `generateName`.
pub(crate) fn name(resource: &Resource, text: &str, prefix: bool) -> Vec<String> {
    // A prefix may end in a dash: what is generated follows it.
    let masked;
    let shown = if prefix && text.len() > 1 && text.ends_with('-') {
        masked = format!("{}a", text.get(..text.len() - 1).unwrap_or_default());
        masked.as_str()
    } else {
        text
    };
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => dns_label(shown),
        ("", "services") => dns_1035(shown),
        ("rbac.authorization.k8s.io", _) => path_segment(text, prefix),
        _ => dns_subdomain(shown),
    }
}

/// What is wrong with the metadata of a new object.
pub(crate) fn validate_create(resource: &Resource, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let generate = value.pointer("/metadata/generateName").and_then(Value::as_str).unwrap_or_default();
    if !generate.is_empty() {
        let said = name(resource, generate, true);
        errors.extend(
            said.iter().map(|why| FieldError::invalid("metadata.generateName", &generate.into(), why)),
        );
    }
    let own = object::name(value);
    if own.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        let said = name(resource, own, false);
        errors.extend(said.iter().map(|why| FieldError::invalid("metadata.name", &own.into(), why)));
    }
    errors.extend(common(value));
    let finalizers: Vec<&str> = object::finalizers(value).collect();
    for finalizer in &finalizers {
        let said = qualified_name(finalizer);
        errors.extend(
            said.iter().map(|why| FieldError::invalid("metadata.finalizers", &(*finalizer).into(), why)),
        );
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid("metadata.finalizers", &finalizers.into(), why));
    }
    errors
}

/// What is wrong with the metadata of a changed object.
pub(crate) fn validate_update(old: &Value, new: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if object::is_deleting(old) {
        let before: Vec<&str> = object::finalizers(old).collect();
        let mut extra: Vec<&str> = object::finalizers(new).filter(|one| !before.contains(one)).collect();
        extra.sort_unstable();
        extra.dedup();
        if !extra.is_empty() {
            let listed: Vec<String> = extra.iter().map(|one| format!("{one:?}")).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                listed.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", &why));
        }
    }
    let meta = |value: &Value, field: &str| {
        value.get("metadata").and_then(|meta| meta.get(field)).cloned().unwrap_or(Value::Null)
    };
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        let after = meta(new, field);
        if after != meta(old, field) {
            errors.push(FieldError::invalid(format!("metadata.{field}"), &after, "field is immutable"));
        }
    }
    errors.extend(common(new));
    errors
}

fn common(value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let map = |field: &str| {
        value
            .get("metadata")
            .and_then(|meta| meta.get(field))
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
    };
    for (key, text) in map("labels") {
        let said = qualified_name(key);
        errors
            .extend(said.iter().map(|why| FieldError::invalid("metadata.labels", &key.as_str().into(), why)));
        let said = label_value(text.as_str().unwrap_or_default());
        errors.extend(said.iter().map(|why| FieldError::invalid("metadata.labels", text, why)));
    }
    let mut size = 0;
    for (key, text) in map("annotations") {
        // Upper case is allowed in the prefix of an annotation's key.
        let said = qualified_name(&key.to_lowercase());
        let field = "metadata.annotations";
        errors.extend(said.iter().map(|why| FieldError::invalid(field, &key.as_str().into(), why)));
        size += key.len() + text.as_str().map_or(0, str::len);
    }
    if size > 256 * 1024 {
        errors.push(FieldError::too_long("metadata.annotations", 256 * 1024));
    }
    errors.extend(owners(value));
    errors
}

fn owners(value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    let list = value.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let path = "metadata.ownerReferences";
    for owner in list.into_iter().flatten() {
        let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        let version = text("apiVersion").rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            let why = "version must not be empty";
            errors.push(FieldError::invalid(format!("{path}.apiVersion"), &text("apiVersion").into(), why));
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.push(FieldError::invalid(format!("{path}.{field}"), &"".into(), "must not be empty"));
            }
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let own = format!("{}/{}", text("kind"), text("name"));
            if let Some(first) = &controller {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {own}"
                );
                errors.push(FieldError::invalid(path, list.map_or(&Value::Null, |_| owner), &why));
            } else {
                controller = Some(own);
            }
        }
    }
    errors
}
