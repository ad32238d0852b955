//! `x-kubernetes-validations`: rules in CEL about a value, or about its change.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube_cel::KubeCelExt as _;
use kube_cel::cel::objects::{Key, Map as CelMap, OptionalValue};
use kube_cel::cel::{Context, ExecutionError, Program, Value as Cel};
use serde_json::{Map, Value};

use super::field::{self, Path};
use super::formats::Kind;
use super::node::{Additional, Node, Type};
use super::values::counterpart;
use crate::error::FieldError;

/// One compiled rule.
#[derive(Debug)]
pub(super) struct Rule {
    source: String,
    message: Option<String>,
    message_program: Option<Program>,
    reason: Option<String>,
    field_path: Option<String>,
    optional_old: bool,
    uses_old: bool,
    program: Program,
}

impl Rule {
    /// The rules of one schema; those that do not compile are reported.
    pub(super) fn read_all(
        schema: &Map<String, Value>,
        path: &Path,
        errors: &mut Vec<FieldError>,
    ) -> Vec<Self> {
        let key = "x-kubernetes-validations";
        let entries = schema.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let path = path.child(key);
        let read = |(at, raw): (usize, &Value)| Self::read(raw, &path.index(at), errors);
        entries.iter().enumerate().filter_map(read).collect()
    }

    fn read(raw: &Value, path: &Path, errors: &mut Vec<FieldError>) -> Option<Self> {
        let text = |name: &str| raw.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let Some(source) = text("rule").filter(|rule| !rule.trim().is_empty()) else {
            errors.push(field::required(&path.child("rule"), "rule is not specified"));
            return None;
        };
        let mut compile = |name: &str, source: &str| match Program::compile(source) {
            Ok(program) => Some(program),
            Err(error) => {
                let detail = format!("compilation failed: {error}");
                errors.push(field::invalid_struct(&path.child(name), &internal_form(raw), &detail));
                None
            }
        };
        let program = compile("rule", source)?;
        let message_program =
            text("messageExpression").and_then(|source| compile("messageExpression", source));
        Some(Self {
            source: source.trim().to_owned(),
            message: text("message").map(|message| message.trim().to_owned()),
            message_program,
            reason: text("reason").map(str::to_owned),
            field_path: text("fieldPath").map(|path| path.trim().to_owned()),
            optional_old: raw.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or_default(),
            uses_old: program.references().has_variable("oldSelf"),
            program,
        })
    }

    /// The name of the rule in messages: what its author says, or the rule itself.
    fn shown(&self) -> &str {
        self.message.as_deref().unwrap_or(&self.source)
    }

    fn default_message(&self) -> String {
        self.message.clone().unwrap_or_else(|| format!("failed rule: {}", self.source))
    }

    fn failure(&self, path: &Path, kind: &str, detail: &str) -> FieldError {
        let value = Value::from(kind);
        match self.reason.as_deref() {
            Some("FieldValueForbidden") => field::forbidden(path, detail),
            Some("FieldValueRequired") => field::required(path, detail),
            Some("FieldValueDuplicate") => field::duplicate(path, &value),
            _ => field::invalid(path, &value, detail),
        }
    }

    fn run(&self, scope: &Context<'_>, path: &Path, node: &Node) -> Result<(), FieldError> {
        let kind = type_name(node);
        match self.program.execute(scope) {
            Ok(Cel::Bool(true)) => Ok(()),
            Ok(_) => {
                let at =
                    self.field_path.as_ref().map_or_else(|| path.clone(), |inner| resolve(path, inner, node));
                let message = self.message(scope).unwrap_or_else(|| self.default_message());
                Err(self.failure(&at, kind, &message))
            }
            Err(error) => Err(field::invalid(path, &kind.into(), &self.evaluation_error(&error))),
        }
    }

    fn message(&self, scope: &Context<'_>) -> Option<String> {
        match self.message_program.as_ref()?.execute(scope) {
            Ok(Cel::String(text)) => {
                let text = text.trim();
                (!text.is_empty() && !text.contains('\n') && text.len() <= 5 * 1024).then(|| text.to_owned())
            }
            _ => None,
        }
    }

    fn evaluation_error(&self, error: &ExecutionError) -> String {
        let text = match error {
            ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
            ExecutionError::IndexOutOfBounds(Cel::Int(at)) => format!("index out of bounds: {at}"),
            ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
            ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
            ExecutionError::Overflow(..) => "integer overflow".to_owned(),
            ExecutionError::FunctionError { message, .. } => message.clone(),
            ExecutionError::NoSuchOverload
            | ExecutionError::UnsupportedBinaryOperator(..)
            | ExecutionError::UnsupportedUnaryOperator(..)
            | ExecutionError::ValuesNotComparable(..)
            | ExecutionError::UnexpectedType { .. } => {
                return format!(
                    "'no such overload': call arguments did not match a supported operator, function or macro \
                     signature for rule: {}",
                    self.shown()
                );
            }
            other => other.to_string(),
        };
        format!("{text} evaluating rule: {}", self.shown())
    }
}

/// A rule as the API server prints it in errors: with the field names of its internal type.
fn internal_form(raw: &Value) -> String {
    let text = |name: &str| raw.get(name).cloned().unwrap_or_else(|| "".into());
    let any = |name: &str| raw.get(name).cloned().unwrap_or(Value::Null);
    field::go_struct(&[
        ("Rule", text("rule")),
        ("Message", text("message")),
        ("MessageExpression", text("messageExpression")),
        ("Reason", any("reason")),
        ("FieldPath", text("fieldPath")),
        ("OptionalOldSelf", any("optionalOldSelf")),
    ])
}

/// A schema's type as rule failures show it; int-or-string has none.
fn type_name(node: &Node) -> &'static str {
    match node.types.as_slice() {
        [one] => one.name(),
        _ => "",
    }
}

/// The place a rule's `fieldPath` names, below `path`.
fn resolve(path: &Path, inner: &str, node: &Node) -> Path {
    let mut at = path.clone();
    let mut node = Some(node);
    for step in steps(inner) {
        let listed = node.is_some_and(|node| node.properties.contains_key(&step));
        at = if listed { at.child(&step) } else { at.key(&step) };
        node = node.and_then(|node| node.property(&step)).map(|child| &**child);
    }
    at
}

fn steps(path: &str) -> Vec<String> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("['") {
            let (step, after) = quoted.split_once("']").unwrap_or((quoted, ""));
            steps.push(step.replace("\\'", "'"));
            rest = after;
        } else {
            let plain = rest.strip_prefix('.').unwrap_or(rest);
            let end = plain.find(['.', '[']).unwrap_or(plain.len());
            let (step, after) = plain.split_at(end);
            steps.push(step.to_owned());
            rest = if step.is_empty() && after == rest { "" } else { after };
        }
    }
    steps
}

thread_local! {
    /// All of Kubernetes' CEL functions; registering them costs more than evaluating most rules.
    static FUNCTIONS: Context<'static> = Context::default().with_all();
    static TIMESTAMP: Option<Program> = Program::compile("timestamp(text)").ok();
    static DURATION: Option<Program> = Program::compile("duration(text)").ok();
}

/// Runs `act` with a scope that knows all functions and no variables.
pub(crate) fn with_functions<T>(act: impl FnOnce(&Context<'_>) -> T) -> T {
    FUNCTIONS.with(|functions| act(functions))
}

/// A value and the old values it is compared with.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    pub(super) new: &'a Value,
    pub(super) old: Option<&'a Value>,
    /// The nearest value above that has an old one; what did not change there may stay invalid here.
    pub(super) above: Option<(&'a Value, &'a Value)>,
}

impl<'a> Change<'a> {
    /// The change of a whole object.
    pub(super) fn root(new: &'a Value, old: Option<&'a Value>) -> Self {
        Self { new, old, above: None }
    }

    fn unchanged(&self) -> bool {
        self.old.map(|old| (self.new, old)).or(self.above).is_some_and(|(new, old)| new == old)
    }

    fn below(&self, new: &'a Value, old: Option<&'a Value>) -> Self {
        Self { new, old, above: self.old.map(|old| (self.new, old)).or(self.above) }
    }
}

/// What rules have found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) errors: Vec<FieldError>,
    /// Failures that stand because nothing changed there; the API server warns of them.
    pub(super) kept: Vec<FieldError>,
}

/// Evaluates the rules of a value and everything in it.
pub(super) fn check(change: Change<'_>, node: &Node, resource: bool, path: &Path, found: &mut Found) {
    if !node.below.rules || change.new.is_null() {
        return;
    }
    if !node.rules.is_empty() {
        with_functions(|functions| rules_of(change, node, resource, path, functions, found));
    }
    match change.new {
        Value::Object(map) => {
            for (name, value) in map {
                let (child, path) = match (node.properties.get(name), node.property(name)) {
                    (Some(child), _) => (child, path.child(name)),
                    (None, Some(child)) => (child, path.key(name)),
                    (None, None) => continue,
                };
                let old = change.old.and_then(|old| old.get(name));
                check(change.below(value, old), child, child.embedded, &path, found);
            }
        }
        Value::Array(entries) => {
            let Some(items) = &node.items else { return };
            for (at, entry) in entries.iter().enumerate() {
                let old = counterpart(node, entry, change.old);
                check(change.below(entry, old), items, items.embedded, &path.index(at), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn rules_of(
    change: Change<'_>,
    node: &Node,
    resource: bool,
    path: &Path,
    functions: &Context<'_>,
    found: &mut Found,
) {
    let old = change.old.filter(|old| !old.is_null());
    let mut scope = functions.new_inner_scope();
    scope.add_variable_from_value("self", to_cel(change.new, Some(node), resource));
    let old_cel = old.filter(|_| node.rules.iter().any(|rule| rule.uses_old));
    let old_cel = old_cel.map(|old| to_cel(old, Some(node), resource));
    for rule in &node.rules {
        if rule.uses_old && old.is_none() && !rule.optional_old {
            continue;
        }
        let mut scope = scope.new_inner_scope();
        if rule.uses_old {
            let given = if rule.optional_old {
                let optional = old_cel.clone().map_or_else(OptionalValue::none, OptionalValue::of);
                Some(Cel::Opaque(Arc::new(optional)))
            } else {
                old_cel.clone()
            };
            if let Some(given) = given {
                scope.add_variable_from_value("oldSelf", given);
            }
        }
        if let Err(error) = rule.run(&scope, path, node) {
            let kept = !rule.uses_old && change.unchanged();
            if kept { found.kept.push(error) } else { found.errors.push(error) }
        }
    }
}

/// A JSON value as CEL sees it; the schema tells times, durations and bytes from plain text.
pub(crate) fn plain_to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(yes) => Cel::Bool(*yes),
        Value::Number(number) => number_to_cel(number, None),
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(entries) => Cel::List(Arc::new(entries.iter().map(plain_to_cel).collect())),
        Value::Object(map) => {
            let pair =
                |(name, value): (&String, &Value)| (Key::String(Arc::new(name.clone())), plain_to_cel(value));
            Cel::Map(CelMap { map: Arc::new(map.iter().map(pair).collect()) })
        }
    }
}

fn number_to_cel(number: &serde_json::Number, node: Option<&Node>) -> Cel {
    let only = |one: Type| node.is_some_and(|node| node.types.as_slice() == [one]);
    let float = number.as_f64().unwrap_or(f64::NAN);
    match number.as_i64() {
        Some(whole) if !only(Type::Number) => Cel::Int(whole),
        None if only(Type::Integer) && float.fract() == 0.0 => Cel::Int(float as i64),
        _ => Cel::Float(float),
    }
}

fn to_cel(value: &Value, node: Option<&Node>, resource: bool) -> Cel {
    match value {
        Value::Number(number) => number_to_cel(number, node),
        Value::String(text) => text_to_cel(text, node),
        Value::Array(entries) => {
            let items = node.and_then(|node| node.items.as_deref());
            let item = |entry| to_cel(entry, items, items.is_some_and(|items| items.embedded));
            Cel::List(Arc::new(entries.iter().map(item).collect()))
        }
        Value::Object(map) => {
            let keyed = node.is_some_and(|node| !matches!(node.additional, Additional::Absent));
            let mut pairs: HashMap<Key, Cel> = HashMap::with_capacity(map.len());
            for (name, value) in map {
                let child = node.and_then(|node| node.property(name)).map(|child| &**child);
                let key = if keyed { name.clone() } else { escape(name) };
                let value = to_cel(value, child, child.is_some_and(|child| child.embedded));
                pairs.insert(Key::String(Arc::new(key)), value);
            }
            if resource {
                for (name, value) in
                    [("apiVersion", plain_to_cel(&"".into())), ("kind", plain_to_cel(&"".into()))]
                {
                    pairs.entry(Key::String(Arc::new(name.to_owned()))).or_insert(value);
                }
            }
            Cel::Map(CelMap { map: Arc::new(pairs) })
        }
        Value::Null | Value::Bool(_) => plain_to_cel(value),
    }
}

fn text_to_cel(text: &str, node: Option<&Node>) -> Cel {
    let plain = || Cel::String(Arc::new(text.to_owned()));
    let node = node.filter(|node| node.types.as_slice() == [Type::String]);
    let parse = |program: &Option<Program>| {
        with_functions(|functions| {
            let mut scope = functions.new_inner_scope();
            scope.add_variable_from_value("text", plain());
            program.as_ref()?.execute(&scope).ok()
        })
    };
    let typed = match node.and_then(|node| node.values.format.as_ref()).map(|format| format.kind) {
        Some(Kind::DateTime) => TIMESTAMP.with(parse),
        Some(Kind::Date) => TIMESTAMP.with(|program| {
            with_functions(|functions| {
                let mut scope = functions.new_inner_scope();
                scope.add_variable_from_value("text", Cel::String(Arc::new(format!("{text}T00:00:00Z"))));
                program.as_ref()?.execute(&scope).ok()
            })
        }),
        Some(Kind::Duration) => DURATION.with(parse),
        Some(Kind::Byte) => STANDARD.decode(text).ok().map(|bytes| Cel::Bytes(Arc::new(bytes))),
        _ => None,
    };
    typed.unwrap_or_else(plain)
}

/// A field name as rules write it: `self.__namespace__`, `self.foo__dash__bar`.
fn escape(name: &str) -> String {
    const RESERVED: [&str; 21] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}
