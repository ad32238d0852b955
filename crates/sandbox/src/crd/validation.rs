//! Whether a CustomResourceDefinition may be stored.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{compiled, schema_rules, text, texts, versions};
use crate::admission::configuration::{client_config, subdomain};
use crate::error::FieldError;
use crate::schema::field::{self, Path};

const APPROVAL: &str = "api-approved.kubernetes.io";

/// Everything wrong with a new definition; its defaults must have been filled in.
pub fn validate_create(crd: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = crd.get("spec").unwrap_or(&Value::Null);
    let name = crd.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let wanted =
        format!("{}.{}", text(spec.get("names").unwrap_or(&Value::Null), "plural"), text(spec, "group"));
    let at = Path::new("metadata.name");
    errors.extend(subdomain(name).into_iter().map(|detail| field::invalid(&at, &name.into(), &detail)));
    if name != wanted {
        errors.push(field::invalid(&at, &name.into(), "must be spec.names.plural+\".\"+spec.group"));
    }
    validate_spec(spec, &mut errors);
    if super::storage_version(crd).is_empty() {
        let detail = "must have at least one stored version";
        errors.push(field::invalid(&Path::new("status.storedVersions"), &Value::Null, detail));
    }
    approval(crd, None, &mut errors);
    errors
}

/// Everything wrong with the update of a definition.
pub fn validate_update(old: &Value, new: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = new.get("spec").unwrap_or(&Value::Null);
    validate_spec(spec, &mut errors);
    let mut fixed = |path: &str, pointer: &str| {
        let (before, after) = (old.pointer(pointer), new.pointer(pointer));
        if before != after {
            let value = after.cloned().unwrap_or_else(|| "".into());
            errors.push(field::invalid(&Path::new(path), &value, "field is immutable"));
        }
    };
    if established(old) {
        fixed("spec.scope", "/spec/scope");
        fixed("spec.names.kind", "/spec/names/kind");
    }
    fixed("spec.group", "/spec/group");
    fixed("spec.names.plural", "/spec/names/plural");
    stored_versions(new, &mut errors);
    approval(new, Some(old), &mut errors);
    errors
}

fn established(crd: &Value) -> bool {
    let conditions =
        crd.pointer("/status/conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|one| text(one, "type") == "Established" && text(one, "status") == "True")
}

fn stored_versions(crd: &Value, errors: &mut Vec<FieldError>) {
    let path = Path::new("status.storedVersions");
    let stored = texts(crd.get("status").unwrap_or(&Value::Null), "storedVersions");
    if stored.is_empty() {
        errors.push(field::invalid(
            &path,
            &Value::Array(Vec::new()),
            "must have at least one stored version",
        ));
        return;
    }
    let storage = super::storage_version(crd);
    if !storage.is_empty() && !stored.contains(&storage) {
        let detail = format!("must have the storage version {storage}");
        errors.push(field::invalid(&path, &stored.clone().into(), &detail));
    }
    for (at, version) in stored.iter().enumerate() {
        if !versions(crd).iter().any(|one| text(one, "name") == version) {
            let detail = format!(
                "missing from spec.versions; {version} was previously a storage version, and must remain in \
                 spec.versions until a storage migration ensures no data remains persisted in {version} and removes \
                 {version} from status.storedVersions"
            );
            errors.push(field::invalid(&path.index(at), &version.as_str().into(), &detail));
        }
    }
}

fn validate_spec(spec: &Value, errors: &mut Vec<FieldError>) {
    let path = Path::new("spec");
    let group = text(spec, "group");
    let at = path.child("group");
    if group.is_empty() {
        errors.push(field::required(&at, ""));
    } else if let broken @ [_, ..] = subdomain(group).as_slice() {
        errors.push(field::invalid(&at, &group.into(), &broken.join(",")));
    } else if !group.contains('.') {
        errors.push(field::invalid(&at, &group.into(), "should be a domain with at least one dot"));
    }
    one_of(&path.child("scope"), text(spec, "scope"), &["Cluster", "Namespaced"], errors);
    let versions = spec.get("versions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let shared = Shared::of(versions);
    for (at, version) in versions.iter().enumerate() {
        if version.pointer("/schema/openAPIV3Schema").is_none_or(Value::is_null) {
            let at = path.child("versions").index(at).child("schema").child("openAPIV3Schema");
            errors.push(field::required(&at, ""));
        }
    }
    for (at, version) in versions.iter().enumerate() {
        validate_version(version, &path.child("versions").index(at), at == 0, shared, &path, errors);
    }
    version_set(versions, shared, &path.child("versions"), errors);
    names(spec.get("names").unwrap_or(&Value::Null), &path.child("names"), errors);
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(true)) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                      spec.versions[*].schema instead";
        errors.push(field::invalid(&path.child("preserveUnknownFields"), &true.into(), detail));
    }
    conversion(spec.get("conversion").unwrap_or(&Value::Null), &path.child("conversion"), errors);
}

/// What all versions say alike. The API server moves it out of the versions before it looks for errors, which shows in
/// the paths it reports.
#[derive(Clone, Copy)]
struct Shared {
    schema: bool,
    subresources: bool,
    columns: bool,
}

impl Shared {
    fn of(versions: &[Value]) -> Self {
        let same = |name: &str| {
            let first =
                versions.first().and_then(|version| version.get(name)).filter(|value| !value.is_null());
            first.is_some() && versions.iter().all(|version| version.get(name) == first)
        };
        Self {
            schema: same("schema"),
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
        }
    }
}

fn validate_version(
    version: &Value,
    path: &Path,
    first: bool,
    shared: Shared,
    spec: &Path,
    errors: &mut Vec<FieldError>,
) {
    let name = text(version, "name");
    if let broken @ [_, ..] = label(name).as_slice() {
        errors.push(field::invalid(&path.child("name"), &name.into(), &broken.join(",")));
    }
    deprecation(version, path, errors);
    if !shared.schema || first {
        let path = if shared.schema { spec.child("validation") } else { path.child("schema") };
        if let Some(schema) = version.pointer("/schema/openAPIV3Schema").filter(|schema| !schema.is_null()) {
            errors.extend(validate_schema(schema, &path.child("openAPIV3Schema")));
        }
    }
    if !shared.subresources || first {
        let path = if shared.subresources { spec } else { path };
        let scale = version.pointer("/subresources/scale").filter(|scale| !scale.is_null());
        if let Some(scale) = scale {
            validate_scale(scale, &path.child("subresources"), errors);
        }
    }
    if !shared.columns || first {
        let path = if shared.columns { spec } else { path }.child("additionalPrinterColumns");
        let columns = version.get("additionalPrinterColumns").and_then(Value::as_array);
        for (at, column) in columns.into_iter().flatten().enumerate() {
            validate_column(column, &path.index(at), errors);
        }
    }
}

fn deprecation(version: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) else { return };
    let path = path.child("deprecationWarning");
    let mut refuse = |detail: &str| errors.push(field::invalid(&path, &warning.into(), detail));
    if version.get("deprecated") != Some(&Value::Bool(true)) {
        refuse("can only be set for deprecated versions");
        return;
    }
    if warning.len() > 256 {
        refuse("must be <= 256 characters long");
    }
    if warning.is_empty() {
        refuse("must not be an empty string");
    }
}

/// Errors of one schema: its structure first, then patterns, rules and defaults if the structure is sound.
fn validate_schema(schema: &Value, path: &Path) -> Vec<FieldError> {
    let errors = schema_rules::check(schema, path);
    if !errors.is_empty() {
        return errors;
    }
    match compiled(schema, path) {
        Ok((_, structural)) => structural.check_defaults(path),
        Err(errors) => errors,
    }
}

fn validate_scale(scale: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (name, wanted, detail) in [
        ("specReplicasPath", &[".spec."][..], "should be a json path under .spec"),
        ("statusReplicasPath", &[".status."][..], "should be a json path under .status"),
        (
            "labelSelectorPath",
            &[".spec.", ".status."][..],
            "should be a json path under either .spec or .status",
        ),
    ] {
        let given = text(scale, name);
        let path = path.child(&format!("scale.{name}"));
        if given.is_empty() {
            if name != "labelSelectorPath" {
                errors.push(field::required(&path, ""));
            }
        } else if !given.starts_with('.') {
            errors.push(field::invalid(&path, &given.into(), "must be a simple json path starting with ."));
        } else if !wanted.iter().any(|prefix| given.starts_with(prefix)) {
            errors.push(field::invalid(&path, &given.into(), detail));
        }
    }
}

fn validate_column(column: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 9] =
        ["byte", "date", "date-time", "double", "float", "int32", "int64", "password", "string"];
    if text(column, "name").is_empty() {
        errors.push(field::required(&path.child("name"), ""));
    }
    let (kind, format, json_path) = (text(column, "type"), text(column, "format"), text(column, "jsonPath"));
    let types = format!("must be one of {}", TYPES.join(","));
    if kind.is_empty() {
        errors.push(field::required(&path.child("type"), &types));
    } else if !TYPES.contains(&kind) {
        errors.push(field::invalid(&path.child("type"), &kind.into(), &types));
    }
    if !format.is_empty() && !FORMATS.contains(&format) {
        let formats = format!("must be one of {}", FORMATS.join(","));
        errors.push(field::invalid(&path.child("format"), &format.into(), &formats));
    }
    let at = path.child("JSONPath");
    if json_path.is_empty() {
        errors.push(field::required(&at, ""));
    } else if !json_path.starts_with('.') {
        errors.push(field::invalid(&at, &json_path.into(), "must be a simple json path starting with ."));
    }
}

fn version_set(versions: &[Value], shared: Shared, path: &Path, errors: &mut Vec<FieldError>) {
    let names: BTreeSet<&str> = versions.iter().map(|version| text(version, "name")).collect();
    let storage =
        versions.iter().filter(|version| version.get("storage") == Some(&Value::Bool(true))).count();
    if names.len() < versions.len() {
        errors.push(field::invalid_struct(
            path,
            &internal(versions, shared),
            "must contain unique version names",
        ));
    }
    if storage != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(field::invalid_struct(path, &internal(versions, shared), detail));
    }
}

/// Versions as the API server prints them in errors: with the field names of its internal type.
fn internal(versions: &[Value], shared: Shared) -> String {
    let one = |version: &Value| {
        let get = |name: &str, hoisted: bool| match version.get(name) {
            Some(value) if !hoisted => value.clone(),
            _ => Value::Null,
        };
        let flag = |name: &str| Value::Bool(version.get(name) == Some(&Value::Bool(true)));
        field::go_struct(&[
            ("Name", text(version, "name").into()),
            ("Served", flag("served")),
            ("Storage", flag("storage")),
            ("Deprecated", flag("deprecated")),
            ("DeprecationWarning", get("deprecationWarning", false)),
            ("Schema", get("schema", shared.schema)),
            ("Subresources", get("subresources", shared.subresources)),
            ("AdditionalPrinterColumns", get("additionalPrinterColumns", shared.columns)),
            ("SelectableFields", get("selectableFields", false)),
        ])
    };
    format!("[{}]", versions.iter().map(one).collect::<Vec<_>>().join(","))
}

fn names(names: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    const ALL: [&str; 4] = ["plural", "singular", "kind", "listKind"];
    for name in ALL.iter().filter(|name| text(names, name).is_empty()) {
        errors.push(field::required(&path.child(name), ""));
    }
    for name in ALL {
        let given = text(names, name);
        let mixed = name.ends_with("ind");
        let broken = if mixed { label(&given.to_lowercase()) } else { label(given) }.join(",");
        if given.is_empty() || broken.is_empty() {
            continue;
        }
        let detail =
            if mixed { format!("may have mixed case, but should otherwise match: {broken}") } else { broken };
        errors.push(field::invalid(&path.child(name), &given.into(), &detail));
    }
    for list in ["shortNames", "categories"] {
        for (at, name) in texts(names, list).iter().enumerate() {
            if let broken @ [_, ..] = label(name).as_slice() {
                errors.push(field::invalid(
                    &path.child(list).index(at),
                    &name.as_str().into(),
                    &broken.join(","),
                ));
            }
        }
    }
    let kind = text(names, "kind");
    if !kind.is_empty() && kind == text(names, "listKind") {
        let detail = "kind and listKind may not be the same";
        errors.push(field::invalid(&path.child("listKind"), &kind.into(), detail));
    }
}

fn conversion(conversion: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let strategy = text(conversion, "strategy");
    one_of(&path.child("strategy"), strategy, &["None", "Webhook"], errors);
    let webhook = conversion.get("webhook").filter(|webhook| !webhook.is_null());
    let client = webhook.and_then(|webhook| webhook.get("clientConfig")).filter(|client| !client.is_null());
    let review = webhook.map(|webhook| texts(webhook, "conversionReviewVersions")).unwrap_or_default();
    let at = path.child("webhookClientConfig");
    let versions_path = path.child("conversionReviewVersions");
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if client.is_some() {
            errors.push(field::forbidden(&at, detail));
        }
        if !review.is_empty() {
            errors.push(field::forbidden(&versions_path, detail));
        }
        return;
    }
    match client {
        None => errors.push(field::required(&at, "required when strategy is set to Webhook")),
        Some(client) => client_config(client, &at, errors),
    }
    review_versions(&review, &versions_path, errors);
}

fn review_versions(versions: &[String], path: &Path, errors: &mut Vec<FieldError>) {
    if versions.is_empty() {
        errors.push(field::required(path, ""));
        return;
    }
    for (at, version) in versions.iter().enumerate() {
        if versions.iter().take(at).any(|earlier| earlier == version) {
            errors.push(field::invalid(&path.index(at), &version.as_str().into(), "duplicate version"));
            continue;
        }
        for broken in label(version) {
            errors.push(field::invalid(&path.index(at), &version.as_str().into(), &broken));
        }
    }
    if !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
        errors.push(field::invalid(path, &versions.into(), "must include at least one of v1, v1beta1"));
    }
}

/// Groups of the Kubernetes community need a reference to the review of their API.
fn approval(crd: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let group = crd.pointer("/spec/group").and_then(Value::as_str).unwrap_or_default();
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|suffix| group == *suffix || group.ends_with(&format!(".{suffix}")));
    let given = |crd: &Value| {
        crd.pointer("/metadata/annotations")
            .and_then(|all| all.get(APPROVAL))
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let now = given(crd);
    if !protected || old.is_some_and(|old| given(old) == now) {
        return;
    }
    let path = Path::new("metadata.annotations").key(APPROVAL);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    match now.as_deref() {
        None | Some("") => errors.push(field::required(
            &path,
            &format!("protected groups must have approval annotation \"{APPROVAL}\", {see}"),
        )),
        Some(value) if value.starts_with("unapproved") || value.contains("://") => {}
        Some(value) => errors.push(field::invalid(
            &path,
            &value.into(),
            &format!(
                "protected groups must have approval annotation \"{APPROVAL}\" with either a URL or a reason starting \
                 with \"unapproved\", {see}"
            ),
        )),
    }
}

fn one_of(path: &Path, given: &str, allowed: &[&str], errors: &mut Vec<FieldError>) {
    if given.is_empty() {
        errors.push(field::required(path, ""));
    } else if !allowed.contains(&given) {
        let allowed: Vec<String> = allowed.iter().map(|one| (*one).to_owned()).collect();
        errors.push(field::not_supported(path, &given.into(), &allowed));
    }
}

/// What keeps a name from being a DNS label that starts with a letter.
fn label(name: &str) -> Vec<String> {
    let inner = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    let mut errors = Vec::new();
    if name.len() > 63 {
        errors.push("must be no more than 63 characters".to_owned());
    }
    let fits = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(inner)
        && !name.ends_with('-');
    if !fits {
        errors.push(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
             validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
                .to_owned(),
        );
    }
    errors
}
