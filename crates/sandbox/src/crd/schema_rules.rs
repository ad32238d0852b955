//! What makes an OpenAPI schema a structural one, which alone a definition may have.

use serde_json::{Map, Value};

use super::{text, texts};
use crate::error::FieldError;
use crate::schema::field::{self, Path};

/// Where in the tree of schemas a schema stands.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Everything that keeps a schema from being structural, sorted, then what is wrong with single keywords.
pub(super) fn check(schema: &Value, path: &Path) -> Vec<FieldError> {
    let mut structural = Vec::new();
    invariants(schema, Level::Root, path, &mut structural);
    branches_complete(schema, schema, path, path, &mut structural); // of the root only, as in the API server
    structural.sort_by(|left, right| (&left.field, &left.message).cmp(&(&right.field, &right.message)));
    if flag(schema, "nullable") {
        structural
            .insert(0, field::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
    }
    keywords(schema, path, Inside { root: true, ..Inside::default() }, &mut structural);
    structural
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or_default()
}

fn map<'a>(schema: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    schema.get(name).and_then(Value::as_object).into_iter().flatten()
}

fn list<'a>(schema: &'a Value, name: &str) -> &'a [Value] {
    schema.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The schema under a keyword, if there is one.
fn inner<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema.get(name).filter(|inner| inner.is_object())
}

fn invariants(schema: &Value, level: Level, path: &Path, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "type");
    let (embedded, preserve) = (
        flag(schema, "x-kubernetes-embedded-resource"),
        flag(schema, "x-kubernetes-preserve-unknown-fields"),
    );
    let int_or_string = flag(schema, "x-kubernetes-int-or-string");
    if kind == "array" && inner(schema, "items").is_none() {
        errors.push(field::required(&path.child("items"), "must be specified"));
    }
    if let Some(items) = inner(schema, "items") {
        invariants(items, Level::Item, &path.child("items"), errors);
    }
    for (name, property) in map(schema, "properties") {
        invariants(property, Level::Field, &path.child("properties").key(name), errors);
    }
    let additional = schema.get("additionalProperties").filter(|additional| !additional.is_null());
    let additional_path = path.child("additionalProperties");
    if additional.is_some() && level == Level::Root {
        errors.push(field::forbidden(&additional_path, "must not be used at the root"));
    }
    if let Some(additional) = inner(schema, "additionalProperties") {
        invariants(additional, Level::Field, &additional_path, errors);
    }
    if int_or_string && preserve {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(field::invalid(&at, &true.into(), "must be false if x-kubernetes-int-or-string is true"));
    }
    if int_or_string && embedded {
        let at = path.child("x-kubernetes-embedded-resource");
        errors.push(field::invalid(&at, &true.into(), "must be false if x-kubernetes-int-or-string is true"));
    }
    value_rules(schema, is_int_or_string(list(schema, "anyOf")), true, path, errors);
    type_given(kind, embedded, int_or_string || preserve, level, path, errors);
    if embedded && additional.is_some() {
        errors.push(field::forbidden(
            &additional_path,
            "must not be used if x-kubernetes-embedded-resource is set",
        ));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(field::invalid(&path.child("type"), &kind.into(), "must be object at the root"));
    }
    meta(schema, level, embedded, path, errors);
    if embedded && !preserve && map(schema, "properties").next().is_none() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                      x-kubernetes-preserve-unknown-fields";
        errors.push(field::required(&path.child("properties"), detail));
    }
}

fn type_given(
    kind: &str,
    embedded: bool,
    free: bool,
    level: Level,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let path = path.child("type");
    if embedded && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        let empty = kind.is_empty();
        errors.push(if empty {
            field::required(&path, detail)
        } else {
            field::invalid(&path, &kind.into(), detail)
        });
    } else if kind.is_empty() && !free {
        errors.push(field::required(
            &path,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        ));
    }
}

fn meta(schema: &Value, level: Level, embedded: bool, path: &Path, errors: &mut Vec<FieldError>) {
    let resource = level == Level::Root || embedded;
    let properties = path.child("properties");
    let property = |name: &str| schema.get("properties").and_then(|all| all.get(name));
    for name in ["kind", "apiVersion"] {
        if let Some(found) = property(name).filter(|found| resource && text(found, "type") != "string") {
            let path = properties.key(name).child("type");
            errors.push(field::invalid(&path, &text(found, "type").into(), "must be string"));
        }
    }
    let Some(metadata) = property("metadata") else { return };
    let path = properties.key("metadata");
    if resource && text(metadata, "type") != "object" {
        errors.push(field::invalid(&path.child("type"), &text(metadata, "type").into(), "must be object"));
    }
    let known = |key: &str| matches!(key, "type" | "description" | "properties" | "default");
    let named = map(metadata, "properties").all(|(name, _)| name == "name" || name == "generateName");
    let plain = metadata.as_object().is_some_and(|map| map.keys().all(|key| known(key))) && named;
    if level == Level::Root && !plain {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(field::forbidden(&path, detail));
    }
}

/// `anyOf: [{type: integer}, {type: string}]`, the one place where a nested type is allowed.
fn is_int_or_string(any_of: &[Value]) -> bool {
    let only = |schema: &Value, kind: &str| {
        schema.as_object().is_some_and(|map| map.len() == 1) && text(schema, "type") == kind
    };
    matches!(any_of, [first, second] if only(first, "integer") && only(second, "string"))
}

fn value_rules(schema: &Value, skip_any: bool, outer: bool, path: &Path, errors: &mut Vec<FieldError>) {
    if !skip_any {
        for (at, one) in list(schema, "anyOf").iter().enumerate() {
            nested(one, false, &path.child("anyOf").index(at), errors);
        }
    }
    for (at, one) in list(schema, "allOf").iter().enumerate() {
        let skip = outer && at == 0 && is_int_or_string(list(one, "anyOf"));
        nested(one, skip, &path.child("allOf").index(at), errors);
    }
    for (at, one) in list(schema, "oneOf").iter().enumerate() {
        nested(one, false, &path.child("oneOf").index(at), errors);
    }
    if let Some(not) = inner(schema, "not") {
        nested(not, false, &path.child("not"), errors);
    }
}

/// What a schema inside `allOf`, `anyOf`, `oneOf` or `not` may not say.
fn nested(schema: &Value, skip_any: bool, path: &Path, errors: &mut Vec<FieldError>) {
    value_rules(schema, skip_any, false, path, errors);
    if let Some(items) = inner(schema, "items") {
        nested(items, false, &path.child("items"), errors);
    }
    for (name, property) in map(schema, "properties") {
        nested(property, false, &path.child("properties").key(name), errors);
    }
    let given = |name: &str| match schema.get(name) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    for (name, state) in [
        ("type", "empty"),
        ("additionalProperties", "undefined"),
        ("default", "undefined"),
        ("title", "empty"),
        ("description", "empty"),
        ("nullable", "false"),
        ("x-kubernetes-preserve-unknown-fields", "false"),
        ("x-kubernetes-embedded-resource", "false"),
        ("x-kubernetes-int-or-string", "false"),
        ("x-kubernetes-list-map-keys", "empty"),
        ("x-kubernetes-list-type", "undefined"),
        ("x-kubernetes-map-type", "undefined"),
        ("x-kubernetes-validations", "empty"),
    ] {
        if given(name) {
            errors.push(field::forbidden(&path.child(name), &format!("must be {state} to be structural")));
        }
    }
    if schema.pointer("/properties/metadata").is_some() {
        let path = path.child("properties").key("metadata");
        errors.push(field::forbidden(&path, "must not be specified in a nested context"));
    }
}

/// What branches talk about must be in the schema itself.
fn branches_complete(rules: &Value, schema: &Value, at: &Path, path: &Path, errors: &mut Vec<FieldError>) {
    for keyword in ["anyOf", "allOf", "oneOf"] {
        for (index, one) in list(rules, keyword).iter().enumerate() {
            branch_complete(one, Some(schema), at, &path.child(keyword).index(index), errors);
        }
    }
    if let Some(not) = inner(rules, "not") {
        branch_complete(not, Some(schema), at, &path.child("not"), errors);
    }
}

fn branch_complete(
    rules: &Value,
    schema: Option<&Value>,
    at: &Path,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let Some(schema) = schema else {
        errors.push(field::required(at, &format!("because it is defined in {}", path.as_str())));
        return;
    };
    branches_complete(rules, schema, at, path, errors);
    if let Some(items) = inner(rules, "items") {
        branch_complete(items, inner(schema, "items"), &at.child("items"), &path.child("items"), errors);
    }
    for (name, property) in map(rules, "properties") {
        let found = schema.get("properties").and_then(|all| all.get(name));
        let (at, path) = (at.child("properties").key(name), path.child("properties").key(name));
        branch_complete(property, found, &at, &path, errors);
    }
}

/// What surrounds a schema, for rules that depend on it.
#[derive(Clone, Copy, Default)]
struct Inside {
    root: bool,
    meta: bool,
    no_default: Option<&'static str>,
}

/// Keywords that are not supported, or not with these values, here and below.
fn keywords(schema: &Value, path: &Path, inside: Inside, errors: &mut Vec<FieldError>) {
    let Some(all) = schema.as_object() else { return };
    unsupported(all, path, inside, errors);
    if flag(schema, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(field::forbidden(&path.child("uniqueItems"), detail));
    }
    lists_and_maps(schema, path, errors);
    let below = Inside { root: false, ..inside };
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    if let Some(additional) = schema.get("additionalProperties").filter(|additional| !additional.is_null()) {
        let at = path.child("additionalProperties");
        if map(schema, "properties").next().is_some() && additional != &Value::Bool(true) {
            errors.push(field::forbidden(&at, "additionalProperties and properties are mutual exclusive"));
        }
        let reason = "must not be set inside additionalProperties applying to object metadata";
        let no_default = if inside.meta { Some(reason) } else { below.no_default };
        keywords(additional, &at, Inside { no_default, ..below }, errors);
    }
    for (name, property) in map(schema, "properties") {
        let mut below = below;
        if (inside.root || embedded) && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
            below.meta = true;
            if inside.root {
                below.no_default = Some(match name.as_str() {
                    "metadata" => "must not be set in top-level metadata",
                    "kind" => "must not be set in top-level kind",
                    _ => "must not be set in top-level apiVersion",
                });
            }
        }
        keywords(property, &path.child("properties").key(name), below, errors);
    }
    for name in ["not", "items"] {
        if let Some(one) = inner(schema, name) {
            keywords(one, &path.child(name), below, errors);
        }
    }
    for name in ["allOf", "oneOf", "anyOf"] {
        for (at, one) in list(schema, name).iter().enumerate() {
            keywords(one, &path.child(name).index(at), below, errors);
        }
    }
}

fn unsupported(all: &Map<String, Value>, path: &Path, inside: Inside, errors: &mut Vec<FieldError>) {
    const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
    let kind = all.get("type").and_then(Value::as_str).unwrap_or_default();
    if !kind.is_empty() && !TYPES.contains(&kind) {
        let allowed: Vec<String> = TYPES.iter().map(|one| (*one).to_owned()).collect();
        errors.push(field::not_supported(&path.child("type"), &kind.into(), &allowed));
    }
    if let (Some(reason), Some(_)) = (inside.no_default, all.get("default")) {
        errors.push(field::forbidden(&path.child("default"), reason));
    }
    for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let given = all.get(name).is_some_and(|value| !value.is_null() && value != "");
        if given {
            errors.push(field::forbidden(&path.child(name), &format!("{name} is not supported")));
        }
    }
    if kind == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.push(field::forbidden(&path.child("type"), detail));
    }
    if all.get("items").is_some_and(Value::is_array) {
        let detail = "items must be a schema object and not an array";
        errors.push(field::forbidden(&path.child("items"), detail));
    }
    if inside.meta && all.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
        let path = path.child("x-kubernetes-embedded-resource");
        errors.push(field::forbidden(&path, "must not be used inside of resource meta"));
    }
    let preserve = "x-kubernetes-preserve-unknown-fields";
    if all.get(preserve) == Some(&Value::Bool(false)) {
        errors.push(field::invalid(&path.child(preserve), &false.into(), "must be true or undefined"));
    }
}

fn lists_and_maps(schema: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "type");
    for (keyword, wanted, allowed) in [
        ("x-kubernetes-map-type", "object", &["atomic", "granular"][..]),
        ("x-kubernetes-list-type", "array", &["atomic", "set", "map"][..]),
    ] {
        let Some(given) = schema.get(keyword).and_then(Value::as_str) else { continue };
        if kind != wanted {
            let (at, detail) = (path.child("type"), format!("must be {wanted} if {keyword} is specified"));
            let missing = kind.is_empty();
            errors.push(if missing {
                field::required(&at, &detail)
            } else {
                field::invalid(&at, &kind.into(), &detail)
            });
        }
        if !allowed.contains(&given) {
            let allowed: Vec<String> = allowed.iter().map(|one| (*one).to_owned()).collect();
            errors.push(field::not_supported(&path.child(keyword), &given.into(), &allowed));
        }
    }
    let list_type = schema.get("x-kubernetes-list-type").and_then(Value::as_str);
    let keys = texts(schema, "x-kubernetes-list-map-keys");
    if !keys.is_empty() && list_type != Some("map") {
        let at = path.child("x-kubernetes-list-type");
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(list_type.map_or_else(
            || field::required(&at, detail),
            |given| field::invalid(&at, &given.into(), detail),
        ));
    }
    match list_type {
        Some("map") => keyed_list(schema, &keys, path, errors),
        Some("set") => {
            if let Some(items) = inner(schema, "items") {
                set_items(items, &path.child("items"), errors);
            }
        }
        _ => {}
    }
}

fn set_items(items: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let list_type = items.get("x-kubernetes-list-type").cloned().unwrap_or(Value::Null);
    if text(items, "type") == "array" && !list_type.is_null() && list_type != "atomic" {
        errors.push(field::invalid(&path.child("x-kubernetes-list-type"), &list_type, detail));
    }
    if text(items, "type") == "object" && text(items, "x-kubernetes-map-type") != "atomic" {
        errors.push(field::invalid(&path.child("x-kubernetes-map-type"), &list_type, detail));
    }
    if flag(items, "nullable") {
        let detail = "cannot be nullable when x-kubernetes-list-type is set";
        errors.push(field::forbidden(&path.child("nullable"), detail));
    }
}

fn keyed_list(schema: &Value, keys: &[String], path: &Path, errors: &mut Vec<FieldError>) {
    let keys_path = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        errors.push(field::required(&keys_path, "must not be empty if x-kubernetes-list-type is map"));
    }
    let at = path.child("items");
    let Some(items) = inner(schema, "items") else {
        errors.push(field::required(&at, "must have a schema if x-kubernetes-list-type is map"));
        return;
    };
    if text(items, "type") != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(field::invalid(&at.child("type"), &text(items, "type").into(), detail));
        return;
    }
    if flag(items, "nullable") {
        let detail = "cannot be nullable when x-kubernetes-list-type is map";
        errors.push(field::forbidden(&at.child("nullable"), detail));
    }
    let required = texts(items, "required");
    for (index, key) in keys.iter().enumerate() {
        if keys.iter().take(index).any(|earlier| earlier == key) {
            errors.push(field::invalid(&keys_path, &keys.into(), "must not contain duplicate entries"));
        }
        let Some(property) = items.get("properties").and_then(|all| all.get(key)) else {
            errors.push(field::invalid(
                &keys_path,
                &keys.into(),
                "entries must all be names of item properties",
            ));
            continue;
        };
        let at = at.child("properties").key(key);
        if matches!(text(property, "type"), "array" | "object") {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.push(field::invalid(&at.child("type"), &text(items, "type").into(), detail));
        }
        if !required.contains(key) && property.get("default").is_none() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required \
                          property";
            errors.push(field::required(&at.child("default"), detail));
        }
        if flag(property, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(field::forbidden(&at.child("nullable"), detail));
        }
    }
}
