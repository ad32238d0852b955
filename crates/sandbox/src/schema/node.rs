//! A schema, read once into a tree that validation, pruning and defaulting walk.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::field::{Path, invalid};
use super::formats::Format;
use super::rules::Rule;
use crate::error::FieldError;

/// A JSON type that a schema may demand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub(super) const ALL: [Self; 6] =
        [Self::Array, Self::Boolean, Self::Integer, Self::Number, Self::Object, Self::String];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// What a schema says about properties it does not list.
#[derive(Debug, Default)]
pub(super) enum Additional {
    #[default]
    Absent,
    Any(bool),
    Schema(Arc<Node>),
}

/// How a list's entries are told apart.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// A regular expression with the text it was written as.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) source: String,
    pub(super) regex: regex::Regex,
}

/// One schema of the tree.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) types: Vec<Type>,
    pub(super) nullable: bool,
    pub(super) default: Option<Value>,
    pub(super) properties: BTreeMap<String, Arc<Node>>,
    pub(super) items: Option<Arc<Node>>,
    pub(super) additional: Additional,
    pub(super) preserve: bool,
    pub(super) embedded: bool,
    pub(super) list: ListType,
    pub(super) keys: Vec<String>,
    pub(super) values: Values,
    pub(super) all_of: Vec<Arc<Node>>,
    pub(super) any_of: Vec<Arc<Node>>,
    pub(super) one_of: Vec<Arc<Node>>,
    pub(super) not: Option<Arc<Node>>,
    pub(super) rules: Vec<Rule>,
    /// What occurs here or anywhere below, so that walks can skip whole subtrees.
    pub(super) below: Below,
}

/// Bounds on a single value.
#[derive(Debug, Default)]
pub(super) struct Values {
    pub(super) allowed: Vec<Value>,
    pub(super) required: Vec<String>,
    pub(super) minimum: Option<f64>,
    pub(super) maximum: Option<f64>,
    pub(super) exclusive_minimum: bool,
    pub(super) exclusive_maximum: bool,
    pub(super) multiple_of: Option<f64>,
    pub(super) min_length: Option<u64>,
    pub(super) max_length: Option<u64>,
    pub(super) min_items: Option<u64>,
    pub(super) max_items: Option<u64>,
    pub(super) min_properties: Option<u64>,
    pub(super) max_properties: Option<u64>,
    pub(super) unique_items: bool,
    pub(super) pattern: Option<Pattern>,
    pub(super) format: Option<Format>,
}

/// What a subtree contains.
#[expect(clippy::struct_excessive_bools, reason = "four independent answers, not a state")]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Below {
    pub(super) rules: bool,
    pub(super) defaults: bool,
    pub(super) lists: bool,
    pub(super) embedded: bool,
}

impl Below {
    fn join(&mut self, other: Self) {
        self.rules |= other.rules;
        self.defaults |= other.defaults;
        self.lists |= other.lists;
        self.embedded |= other.embedded;
    }
}

impl Node {
    /// Reads the schema at `path`; what cannot be read is added to `errors`.
    pub(super) fn read(schema: &Value, path: &Path, errors: &mut Vec<FieldError>) -> Self {
        let Some(map) = schema.as_object() else {
            errors.push(invalid(path, schema, "must be an object"));
            return Self::default();
        };
        let list = |name: &str, errors: &mut Vec<FieldError>| -> Vec<Arc<Self>> {
            let entries = map.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let path = path.child(name);
            entries
                .iter()
                .enumerate()
                .map(|(at, one)| Arc::new(Self::read(one, &path.index(at), errors)))
                .collect()
        };
        let mut node = Self {
            types: types(map),
            nullable: flag(map, "nullable"),
            default: map.get("default").filter(|value| !value.is_null()).cloned(),
            properties: properties(map, path, errors),
            items: map.get("items").map(|items| Arc::new(Self::read(items, &path.child("items"), errors))),
            additional: additional(map, path, errors),
            preserve: flag(map, "x-kubernetes-preserve-unknown-fields"),
            embedded: flag(map, "x-kubernetes-embedded-resource"),
            list: list_type(map),
            keys: texts(map, "x-kubernetes-list-map-keys"),
            values: values(map, path, errors),
            all_of: list("allOf", errors),
            any_of: list("anyOf", errors),
            one_of: list("oneOf", errors),
            not: map.get("not").map(|not| Arc::new(Self::read(not, &path.child("not"), errors))),
            rules: Rule::read_all(map, path, errors),
            below: Below::default(),
        };
        node.below = node.contents();
        node
    }

    fn contents(&self) -> Below {
        let mut below = Below {
            rules: !self.rules.is_empty(),
            defaults: self.default.is_some(),
            lists: self.list != ListType::Atomic,
            embedded: self.embedded,
        };
        let additional = match &self.additional {
            Additional::Schema(node) => Some(node),
            Additional::Absent | Additional::Any(_) => None,
        };
        let children = self.properties.values().chain(&self.items).chain(additional).chain(&self.all_of);
        children.for_each(|child| below.join(child.below));
        below
    }

    /// The schema of a property, listed or covered by `additionalProperties`.
    pub(super) fn property(&self, name: &str) -> Option<&Arc<Self>> {
        self.properties.get(name).or(match &self.additional {
            Additional::Schema(node) => Some(node),
            Additional::Absent | Additional::Any(_) => None,
        })
    }
}

fn flag(map: &Map<String, Value>, name: &str) -> bool {
    map.get(name).and_then(Value::as_bool).unwrap_or_default()
}

fn texts(map: &Map<String, Value>, name: &str) -> Vec<String> {
    let entries = map.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    entries.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn types(map: &Map<String, Value>) -> Vec<Type> {
    if flag(map, "x-kubernetes-int-or-string") {
        return vec![Type::Integer, Type::String];
    }
    map.get("type").and_then(Value::as_str).and_then(Type::parse).into_iter().collect()
}

fn list_type(map: &Map<String, Value>) -> ListType {
    match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map,
        _ => ListType::Atomic,
    }
}

fn properties(
    map: &Map<String, Value>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) -> BTreeMap<String, Arc<Node>> {
    let Some(listed) = map.get("properties").and_then(Value::as_object) else { return BTreeMap::new() };
    let path = path.child("properties");
    listed
        .iter()
        .map(|(name, one)| (name.clone(), Arc::new(Node::read(one, &path.key(name), errors))))
        .collect()
}

fn additional(map: &Map<String, Value>, path: &Path, errors: &mut Vec<FieldError>) -> Additional {
    match map.get("additionalProperties") {
        None | Some(Value::Null) => Additional::Absent,
        Some(Value::Bool(any)) => Additional::Any(*any),
        Some(schema) => {
            Additional::Schema(Arc::new(Node::read(schema, &path.child("additionalProperties"), errors)))
        }
    }
}

fn values(map: &Map<String, Value>, path: &Path, errors: &mut Vec<FieldError>) -> Values {
    let number = |name: &str| map.get(name).and_then(Value::as_f64);
    let count = |name: &str| map.get(name).and_then(Value::as_u64);
    Values {
        allowed: map.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
        required: texts(map, "required"),
        minimum: number("minimum"),
        maximum: number("maximum"),
        exclusive_minimum: flag(map, "exclusiveMinimum"),
        exclusive_maximum: flag(map, "exclusiveMaximum"),
        multiple_of: number("multipleOf"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        min_items: count("minItems"),
        max_items: count("maxItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
        unique_items: flag(map, "uniqueItems"),
        pattern: map.get("pattern").and_then(Value::as_str).and_then(|source| pattern(source, path, errors)),
        format: map.get("format").and_then(Value::as_str).and_then(Format::parse),
    }
}

fn pattern(source: &str, path: &Path, errors: &mut Vec<FieldError>) -> Option<Pattern> {
    if source.is_empty() {
        return None;
    }
    match regex::Regex::new(source) {
        Ok(regex) => Some(Pattern { source: source.to_owned(), regex }),
        Err(error) => {
            let detail = format!("must be a valid regular expression, but isn't: {error}");
            errors.push(invalid(&path.child("pattern"), &source.into(), &detail));
            None
        }
    }
}
