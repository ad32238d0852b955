//! Webhook configurations as objects: what they may leave out, and what they may not say.

use std::collections::BTreeSet;

use kube_cel::cel::Program;
use serde_json::{Map, Value};

use crate::error::FieldError;
use crate::schema::field::{self, Path};

/// Fills in what a webhook configuration may leave out, as the API server stores it.
pub fn default_configuration(configuration: &mut Value) {
    let mutating = is_mutating(configuration);
    let Some(hooks) = configuration.get_mut("webhooks").and_then(Value::as_array_mut) else { return };
    for hook in hooks.iter_mut().filter_map(Value::as_object_mut) {
        let empty = || Value::Object(Map::new());
        fill(hook, "failurePolicy", "Fail".into());
        fill(hook, "matchPolicy", "Equivalent".into());
        fill(hook, "namespaceSelector", empty());
        fill(hook, "objectSelector", empty());
        fill(hook, "timeoutSeconds", 10.into());
        if mutating {
            fill(hook, "reinvocationPolicy", "Never".into());
        }
        let service = hook.get_mut("clientConfig").and_then(|client| client.get_mut("service"));
        if let Some(service) = service.and_then(Value::as_object_mut) {
            fill(service, "port", 443.into());
        }
        let rules = hook.get_mut("rules").and_then(Value::as_array_mut);
        for rule in rules.into_iter().flatten().filter_map(Value::as_object_mut) {
            fill(rule, "scope", "*".into());
        }
    }
}

fn fill(map: &mut Map<String, Value>, field: &str, value: Value) {
    let given = map.entry(field).or_insert(Value::Null);
    if given.is_null() {
        *given = value;
    }
}

fn is_mutating(configuration: &Value) -> bool {
    text(configuration, "kind") == "MutatingWebhookConfiguration"
}

/// Everything wrong with a webhook configuration whose defaults have been filled in.
pub fn validate_configuration(configuration: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mutating = is_mutating(configuration);
    let mut names = BTreeSet::new();
    for (at, hook) in list(configuration, "webhooks").iter().enumerate() {
        let path = Path::new("webhooks").index(at);
        let name = text(hook, "name");
        validate_name(name, &path.child("name"), &mut errors);
        if !name.is_empty() && !names.insert(name) {
            errors.push(field::duplicate(&path.child("name"), &name.into()));
        }
        validate_hook(hook, mutating, &path, &mut errors);
    }
    errors
}

fn validate_name(name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if name.is_empty() {
        errors.push(field::required(path, ""));
    } else if let broken @ [_, ..] = subdomain(name).as_slice() {
        errors.push(field::invalid(path, &name.into(), &broken.join(",")));
    } else if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.push(field::invalid(path, &name.into(), detail));
    }
}

fn validate_hook(hook: &Value, mutating: bool, path: &Path, errors: &mut Vec<FieldError>) {
    for (at, rule) in list(hook, "rules").iter().enumerate() {
        validate_rule(rule, &path.child("rules").index(at), errors);
    }
    let mut choice = |name: &str, allowed: &[&str]| {
        let given = text(hook, name);
        if !given.is_empty() && !allowed.contains(&given) {
            errors.push(field::not_supported(&path.child(name), &given.into(), &owned(allowed)));
        }
    };
    choice("failurePolicy", &["Fail", "Ignore"]);
    choice("matchPolicy", &["Equivalent", "Exact"]);
    choice("sideEffects", &["None", "NoneOnDryRun"]);
    if mutating {
        choice("reinvocationPolicy", &["IfNeeded", "Never"]);
    }
    if text(hook, "sideEffects").is_empty() {
        errors.push(field::required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun"));
    }
    if let Some(seconds) = hook.get("timeoutSeconds").filter(|given| !given.is_null())
        && !seconds.as_i64().is_some_and(|seconds| (1..=30).contains(&seconds))
    {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(field::invalid(&path.child("timeoutSeconds"), seconds, detail));
    }
    for name in ["namespaceSelector", "objectSelector"] {
        validate_selector(hook.get(name).unwrap_or(&Value::Null), &path.child(name), errors);
    }
    client_config(hook.get("clientConfig").unwrap_or(&Value::Null), &path.child("clientConfig"), errors);
    review_versions(list(hook, "admissionReviewVersions"), &path.child("admissionReviewVersions"), errors);
    for (at, condition) in list(hook, "matchConditions").iter().enumerate() {
        validate_condition(condition, &path.child("matchConditions").index(at), errors);
    }
}

fn validate_rule(rule: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for (name, what) in [
        ("operations", "operations"),
        ("apiGroups", "API groups"),
        ("apiVersions", "API versions"),
        ("resources", "resources"),
    ] {
        let given = list(rule, name);
        let at = path.child(name);
        if given.is_empty() {
            errors.push(field::required(&at, ""));
        }
        let wildcard = if name == "resources" { "*/*" } else { "*" };
        if given.len() > 1 && given.iter().any(|one| one == wildcard) {
            let detail = format!("if '{wildcard}' is present, must not specify other {what}");
            errors.push(field::invalid(&at, &given.to_vec().into(), &detail));
        }
        for (index, one) in given.iter().enumerate() {
            let one = one.as_str().unwrap_or_default();
            if name == "operations" && !OPERATIONS.contains(&one) {
                errors.push(field::not_supported(&at.index(index), &one.into(), &owned(&OPERATIONS)));
            } else if one.is_empty() && (name == "apiVersions" || name == "resources") {
                errors.push(field::required(&at.index(index), ""));
            }
        }
    }
    let scope = text(rule, "scope");
    let scopes = ["*", "Cluster", "Namespaced"];
    if !scope.is_empty() && !scopes.contains(&scope) {
        errors.push(field::not_supported(&path.child("scope"), &scope.into(), &owned(&scopes)));
    }
}

fn validate_selector(selector: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (at, term) in list(selector, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(at);
        let empty = list(term, "values").is_empty();
        match text(term, "operator") {
            "In" | "NotIn" if empty => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(field::required(&path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !empty => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(field::forbidden(&path.child("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(field::invalid(
                    &path.child("operator"),
                    &other.into(),
                    "not a valid selector operator",
                ));
            }
        }
    }
}

fn validate_condition(condition: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let expression = text(condition, "expression").trim();
    if expression.is_empty() {
        errors.push(field::required(&path.child("expression"), ""));
    } else if let Err(error) = Program::compile(expression) {
        let detail = format!("compilation failed: {error}");
        errors.push(field::invalid(&path.child("expression"), &expression.into(), &detail));
    }
    if text(condition, "name").is_empty() {
        errors.push(field::required(&path.child("name"), ""));
    }
}

fn review_versions(versions: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    if versions.is_empty() {
        errors.push(field::required(path, "must specify one of v1, v1beta1"));
    } else if !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
        errors.push(field::invalid(
            path,
            &versions.to_vec().into(),
            "must include at least one of v1, v1beta1",
        ));
    }
}

/// Checks where a webhook is to be called: exactly one of a URL and a service.
pub(crate) fn client_config(client: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let url = client.get("url").and_then(Value::as_str);
    let service = client.get("service").filter(|service| !service.is_null());
    match (url, service) {
        (Some(url), None) => webhook_url(url, &path.child("url"), errors),
        (None, Some(service)) => webhook_service(service, &path.child("service"), errors),
        _ => errors.push(field::required(path, "exactly one of url or service is required")),
    }
}

fn webhook_url(url: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let form = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let mut refuse = |value: &str, detail: &str| errors.push(field::invalid(path, &value.into(), detail));
    if scheme != "https" {
        refuse(scheme, &format!("'https' is the only allowed URL scheme{form}"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme.is_empty() || host.is_empty() {
        refuse("", &format!("host must be specified{form}"));
    }
    if !user.is_empty() {
        refuse(user, "user information is not permitted in the URL");
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    if !fragment.is_empty() {
        refuse(fragment, "fragments are not permitted in the URL");
    }
    if let Some((_, query)) = rest.split_once('?').filter(|(_, query)| !query.is_empty()) {
        refuse(query, "query parameters are not permitted in the URL");
    }
}

fn webhook_service(service: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    // The API server itself confuses the two when it reports them.
    for (given, reported) in [("namespace", "name"), ("name", "namespace")] {
        if text(service, given).is_empty() {
            errors.push(field::required(&path.child(reported), ""));
        }
    }
    let port = service.get("port").and_then(Value::as_i64).unwrap_or(443);
    if !(1..=65535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(field::invalid(&path.child("port"), &port.into(), detail));
    }
    let route = text(service, "path");
    if route.is_empty() || route == "/" {
        return;
    }
    let path = path.child("path");
    let mut refuse = |detail: &str| errors.push(field::invalid(&path, &route.into(), detail));
    if route == "//" {
        refuse("segment[0] may not be empty");
        return;
    }
    if !route.starts_with('/') {
        refuse("must start with a '/'");
    }
    let mut rest = route.chars();
    rest.next();
    let rest = rest.as_str();
    for (at, segment) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if segment.is_empty() {
            refuse(&format!("segment[{at}] may not be empty"));
        }
        for broken in subdomain(segment).iter().filter(|_| !segment.is_empty()) {
            refuse(&format!("segment[{at}]: {broken}"));
        }
    }
}

/// What keeps a name from being a DNS name in lower case.
pub(crate) fn subdomain(name: &str) -> Vec<String> {
    let inner = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    let part = |part: &str| {
        !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    let mut errors = Vec::new();
    if name.len() > 253 {
        errors.push("must be no more than 253 characters".to_owned());
    }
    if !name.split('.').all(part) {
        errors.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    errors
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|one| (*one).to_owned()).collect()
}
