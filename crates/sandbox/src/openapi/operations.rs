//! The paths of a document: which operations a resource has, on which kind, with which parameters.

use serde_json::{Map, Value, json};

use super::SCHEMAS;
use crate::builtin;
use crate::resource::{Resource, Version};

/// Adds the paths of one version of a resource.
pub(super) fn add(
    resource: &Resource,
    version: &Version,
    schema: &str,
    list_schema: &str,
    paths: &mut Map<String, Value>,
) {
    let root = if resource.group.is_empty() {
        format!("/api/{}", version.name)
    } else {
        format!("/apis/{}/{}", resource.group, version.name)
    };
    let plural = &resource.plural;
    let verbs = builtin::verbs(resource);
    let kind = json!({"group": resource.group, "version": version.name, "kind": resource.kind});
    let custom = resource.custom;
    let writer = Writer { kind: &kind, schema, list_schema, custom };
    if resource.namespaced && verbs.contains(&"list") {
        writer.put(paths, format!("{root}/{plural}"), &["list"], false);
    }
    let base = if resource.namespaced {
        format!("{root}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{root}/{plural}")
    };
    let collection: Vec<&str> =
        ["list", "create", "deletecollection"].into_iter().filter(|verb| verbs.contains(verb)).collect();
    writer.put(paths, base.clone(), &collection, resource.namespaced);
    let single: Vec<&str> =
        ["get", "update", "patch", "delete"].into_iter().filter(|verb| verbs.contains(verb)).collect();
    let named = format!("{base}/{{name}}");
    writer.put(paths, named.clone(), &single, resource.namespaced);
    for name in &version.subresources {
        let subresource = builtin::subresource(plural, name);
        let (group, other) = subresource.group_version.unwrap_or((&resource.group, &version.name));
        let own = subresource.kind.is_none();
        let kind =
            json!({"group": group, "version": other, "kind": subresource.kind.unwrap_or(&resource.kind)});
        let structure = subresource.kind.and_then(|kind| crate::kinds::structure_name(group, other, kind));
        let schema = if own { schema } else { structure.unwrap_or(schema) };
        let writer = Writer { kind: &kind, schema, list_schema, custom };
        writer.put(paths, format!("{named}/{name}"), subresource.verbs, resource.namespaced);
    }
}

struct Writer<'a> {
    kind: &'a Value,
    schema: &'a str,
    list_schema: &'a str,
    custom: bool,
}

impl Writer<'_> {
    fn put(&self, paths: &mut Map<String, Value>, path: String, verbs: &[&str], namespaced: bool) {
        if verbs.is_empty() {
            return;
        }
        let mut item = Map::new();
        for verb in verbs {
            item.insert(method(verb).to_owned(), self.operation(verb));
        }
        let mut shared = Vec::new();
        if path.contains("{name}") {
            shared.push(parameter("name", "path", "string"));
        }
        if namespaced {
            shared.push(parameter("namespace", "path", "string"));
        }
        shared.push(parameter("pretty", "query", "string"));
        item.insert("parameters".to_owned(), Value::Array(shared));
        paths.insert(path, Value::Object(item));
    }

    fn operation(&self, verb: &str) -> Value {
        let answer = if verb == "list" { self.list_schema } else { self.schema };
        let content = |schema: &str| json!({"schema": {"$ref": format!("{SCHEMAS}{schema}")}});
        let query: &[(&str, &str)] = match verb {
            "get" => &[],
            "list" => &LIST,
            "create" | "update" => &WRITE,
            "patch" => &PATCH,
            _ => &DELETE,
        };
        let parameters: Vec<Value> =
            query.iter().map(|(name, kind)| parameter(name, "query", kind)).collect();
        let mut operation = json!({
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": {"application/json": content(answer)}}},
            "x-kubernetes-action": action(verb),
            "x-kubernetes-group-version-kind": self.kind,
        });
        let body = match verb {
            "create" | "update" => Some(json!({"content": {"*/*": content(self.schema)}, "required": true})),
            "patch" => {
                let patch = content("io.k8s.apimachinery.pkg.apis.meta.v1.Patch");
                let taken = |name: &&&str| !(self.custom && **name == STRATEGIC);
                let types = PATCH_TYPES.iter().filter(taken).map(|name| ((*name).to_owned(), patch.clone()));
                let types: Map<String, Value> = types.collect();
                Some(json!({"content": types, "required": true}))
            }
            _ => None,
        };
        if let (Some(body), Some(fields)) = (body, operation.as_object_mut()) {
            fields.insert("requestBody".to_owned(), body);
        }
        operation
    }
}

/// What custom kinds do not take: nobody says how their lists merge.
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    STRATEGIC,
];
const LIST: [(&str, &str); 9] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: [(&str, &str); 3] =
    [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: [(&str, &str); 4] =
    [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: [(&str, &str); 4] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

fn method(verb: &str) -> &'static str {
    match verb {
        "get" | "list" => "get",
        "create" => "post",
        "update" => "put",
        "patch" => "patch",
        _ => "delete",
    }
}

fn action(verb: &str) -> &str {
    match verb {
        "create" => "post",
        "update" => "put",
        other => other,
    }
}

fn parameter(name: &str, place: &str, kind: &str) -> Value {
    let mut parameter = json!({"name": name, "in": place, "schema": {"type": kind, "uniqueItems": true}});
    if let Some(fields) = parameter.as_object_mut().filter(|_| place == "path") {
        fields.insert("required".to_owned(), json!(true));
    }
    parameter
}
