//! Which webhooks a request concerns: rules, selectors and match conditions. Pure.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use kube_cel::cel::{Program, Value as Cel};
use serde_json::{Map, Value};

use super::review;
use super::{Operation, Request};
use crate::error::{ApiError, Reason};
use crate::schema::rules::{plain_to_cel, with_functions};

/// A webhook of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Hook {
    /// Name of the configuration it belongs to.
    pub configuration: String,
    /// Its position there.
    pub index: usize,
    /// The entry of `webhooks`.
    pub webhook: Value,
}

impl Hook {
    /// `name`.
    pub fn name(&self) -> &str {
        self.text("name")
    }

    pub(super) fn text(&self, field: &str) -> &str {
        self.webhook.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// True if the request goes on when the webhook cannot be asked.
    pub(super) fn ignores_failure(&self) -> bool {
        self.text("failurePolicy") == "Ignore"
    }
}

/// All webhooks in the order they are called: by the configurations' names, then as listed.
pub fn hooks(configurations: &[Value]) -> Vec<Hook> {
    let mut sorted: Vec<&Value> = configurations.iter().collect();
    sorted.sort_by_key(|one| crate::object::name(one).to_owned());
    let of = |configuration: &Value| -> Vec<Hook> {
        let name = crate::object::name(configuration).to_owned();
        let hooks =
            configuration.get("webhooks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let hook = |(index, webhook): (usize, &Value)| Hook {
            configuration: name.clone(),
            index,
            webhook: webhook.clone(),
        };
        hooks.iter().enumerate().map(hook).collect()
    };
    sorted.into_iter().flat_map(of).collect()
}

/// Whether a hook is to be called for the request, and if so, in which version of the resource: that of the request, or
/// with `matchPolicy: Equivalent` another one its rules name.
pub fn version_for(hook: &Hook, request: &Request) -> Result<Option<String>, ApiError> {
    let namespace = namespace_matches(hook, request);
    if matches!(namespace, Ok(false)) || !object_matches(hook, request) {
        return Ok(None);
    }
    let Some(version) = rule_version(hook, request) else { return Ok(None) };
    namespace.map(|_| Some(version))
}

fn rule_version(hook: &Hook, request: &Request) -> Option<String> {
    let rules = list(&hook.webhook, "rules");
    if rules.iter().any(|rule| rule_matches(rule, request, &request.version)) {
        return Some(request.version.clone());
    }
    if hook.text("matchPolicy") == "Exact" {
        return None;
    }
    let others = || request.other_versions.iter().filter(|other| **other != request.version);
    rules.iter().find_map(|rule| others().find(|other| rule_matches(rule, request, other)).cloned())
}

fn rule_matches(rule: &Value, request: &Request, version: &str) -> bool {
    let contains = |field: &str, wanted: &str| {
        list(rule, field).iter().filter_map(Value::as_str).any(|one| one == "*" || one == wanted)
    };
    let namespaces = request.group.is_empty() && request.resource == "namespaces";
    let cluster = namespaces || request.namespace.is_empty();
    let scope = match rule.get("scope").and_then(Value::as_str) {
        Some("Namespaced") => !cluster,
        Some("Cluster") => cluster,
        _ => true,
    };
    let resource = list(rule, "resources").iter().filter_map(Value::as_str).any(|one| {
        let (resource, subresource) = one.split_once('/').unwrap_or((one, ""));
        (resource == "*" || resource == request.resource)
            && (subresource == "*" || subresource == request.subresource)
    });
    scope
        && resource
        && contains("operations", request.operation.name())
        && contains("apiGroups", &request.group)
        && contains("apiVersions", version)
}

fn namespace_matches(hook: &Hook, request: &Request) -> Result<bool, ApiError> {
    let selector = hook.webhook.get("namespaceSelector").unwrap_or(&Value::Null);
    let namespaces = request.resource == "namespaces" && request.group.is_empty();
    if (request.namespace.is_empty() && !namespaces) || is_empty(selector) {
        return Ok(true);
    }
    let changes = matches!(request.operation, Operation::Create | Operation::Update);
    if namespaces && request.subresource.is_empty() && changes {
        return Ok(selects(selector, labels(request.object.as_ref())));
    }
    let Some(namespace) = &request.namespace_object else {
        let mut error =
            ApiError::new(Reason::NotFound, format!("namespaces {:?} not found", request.namespace));
        error = error.details("", "namespaces", &request.namespace);
        return Err(error);
    };
    Ok(selects(selector, labels(Some(namespace))))
}

fn object_matches(hook: &Hook, request: &Request) -> bool {
    let selector = hook.webhook.get("objectSelector").unwrap_or(&Value::Null);
    let fits = |object: &Option<Value>| {
        object.as_ref().is_some_and(|object| selects(selector, labels(Some(object))))
    };
    is_empty(selector) || fits(&request.object) || fits(&request.old_object)
}

fn labels(object: Option<&Value>) -> Option<&Map<String, Value>> {
    object?.pointer("/metadata/labels")?.as_object()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn is_empty(selector: &Value) -> bool {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    labels.is_none_or(Map::is_empty) && list(selector, "matchExpressions").is_empty()
}

/// True if a `metav1.LabelSelector` selects the labels.
pub(super) fn selects(selector: &Value, labels: Option<&Map<String, Value>>) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
    let equal = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let mut equal = equal.map(|(key, value)| label(key) == value.as_str());
    equal.all(|fits| fits)
        && list(selector, "matchExpressions").iter().all(|term| {
            let found = label(term.get("key").and_then(Value::as_str).unwrap_or_default());
            let listed = || list(term, "values").iter().any(|value| value.as_str() == found);
            match term.get("operator").and_then(Value::as_str).unwrap_or_default() {
                "In" => found.is_some() && listed(),
                "NotIn" => found.is_none() || !listed(),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

/// True if all of a hook's `matchConditions` hold; an error if one cannot be evaluated and the hook fails closed.
pub fn conditions_hold(hook: &Hook, request: &Request, version: &str) -> Result<bool, ApiError> {
    let conditions = list(&hook.webhook, "matchConditions");
    if conditions.is_empty() {
        return Ok(true);
    }
    let mut errors = Vec::new();
    let object = |object: &Option<Value>| object.as_ref().map_or(Cel::Null, plain_to_cel);
    let facts = review::request(request, version, "");
    let all = with_functions(|functions| {
        let mut scope = functions.new_inner_scope();
        scope.add_variable_from_value("object", object(&request.object));
        scope.add_variable_from_value("oldObject", object(&request.old_object));
        scope.add_variable_from_value("request", plain_to_cel(&facts));
        for condition in conditions {
            let expression = condition.get("expression").and_then(Value::as_str).unwrap_or_default();
            let outcome = program(expression)
                .and_then(|program| program.execute(&scope).map_err(|error| error.to_string()));
            match outcome {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) => return false,
                Ok(_) => errors.push(format!("expression '{expression}' resulted in error: not a boolean")),
                Err(error) => {
                    let why = go_words(&error);
                    errors.push(format!("expression '{expression}' resulted in error: {why}"));
                }
            }
        }
        true
    });
    if !all || errors.is_empty() {
        return Ok(all);
    }
    if hook.ignores_failure() {
        return Ok(false);
    }
    let why = match errors.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let qualified = request.qualified();
    let subject = if request.name.is_empty() { qualified } else { format!("{qualified} {:?}", request.name) };
    let error = ApiError::new(Reason::Forbidden, format!("{subject} is forbidden: {why}"));
    Err(error.details(&request.group, &request.resource, &request.name))
}

/// The first letter of the CEL library's errors is lower case in Go.
fn go_words(error: &str) -> String {
    error.strip_prefix("No such key").map_or_else(|| error.to_owned(), |rest| format!("no such key{rest}"))
}

static PROGRAMS: LazyLock<Mutex<HashMap<String, Arc<Program>>>> = LazyLock::new(Mutex::default);

/// The compiled expression; the same conditions are asked on every request.
fn program(expression: &str) -> Result<Arc<Program>, String> {
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = programs.get(expression) {
        return Ok(Arc::clone(program));
    }
    let program =
        Arc::new(Program::compile(expression).map_err(|error| format!("compilation failed: {error}"))?);
    programs.insert(expression.to_owned(), Arc::clone(&program));
    Ok(program)
}
