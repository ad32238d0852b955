//! Types and bounds of single values, and how an update may keep values that are no longer valid.

use serde_json::Value;

use super::field::{self, Path, go_float};
use super::node::{Additional, ListType, Node, Type};
use crate::error::FieldError;

/// What checking one value found: the errors, and how many checks passed, which decides which branch of an
/// `anyOf` or `oneOf` is reported.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) errors: Vec<FieldError>,
    passed: u32,
}

impl Outcome {
    fn failed(error: FieldError) -> Self {
        Self { errors: vec![error], passed: 0 }
    }

    fn passed() -> Self {
        Self { errors: Vec::new(), passed: 1 }
    }

    fn valid(&self) -> bool {
        self.errors.is_empty()
    }

    fn push(&mut self, error: FieldError) {
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        other.errors.into_iter().for_each(|error| self.push(error));
    }
}

/// A value at a place, with the old value it can be compared with, if there is one.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) value: &'a Value,
    pub(super) old: Option<&'a Value>,
    pub(super) path: &'a Path,
    /// False inside branches (`allOf`, …): only what lies below them may be kept, not they themselves.
    pub(super) keep: bool,
}

/// Checks a value; what an update leaves as it was is not an error.
pub(super) fn check(at: At<'_>, node: &Node) -> Outcome {
    let mut outcome = check_all(at, node);
    if !outcome.valid() && at.keep && at.old == Some(at.value) {
        outcome.errors.clear();
    }
    outcome
}

fn check_all(at: At<'_>, node: &Node) -> Outcome {
    let mut outcome = Outcome::default();
    let apply = |outcome: &mut Outcome, found: Outcome| {
        outcome.merge(found);
        outcome.passed += 1;
    };
    if at.value.is_null() {
        outcome.merge(kind(at, node));
        outcome.merge(allowed(at, node));
        return outcome;
    }
    if !node.types.is_empty() || node.values.format.is_some() {
        apply(&mut outcome, kind(at, node));
    }
    apply(&mut outcome, branches(at, node));
    match at.value {
        Value::String(text) => {
            apply(&mut outcome, text_bounds(text, at, node));
            if let Some(format) = &node.values.format {
                let found = if format.accepts(text) {
                    Outcome::default()
                } else {
                    wrong_type(at, &format.name, text)
                };
                apply(&mut outcome, found);
            }
        }
        Value::Number(_) => apply(&mut outcome, number_bounds(at, node)),
        Value::Array(entries) => apply(&mut outcome, list(entries, at, node)),
        Value::Null | Value::Bool(_) | Value::Object(_) => {}
    }
    apply(&mut outcome, allowed(at, node));
    if at.value.is_object() {
        apply(&mut outcome, object(at, node));
    }
    outcome.passed += 1;
    outcome
}

/// The JSON type of a value as the API server names it; integral floats count as numbers.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn wrong_type(at: At<'_>, wanted: &str, found: &str) -> Outcome {
    let detail = format!("{} in body must be of type {wanted}: {}", at.path.as_str(), field::quoted(found));
    Outcome::failed(field::type_invalid(at.path, &found.into(), &detail))
}

fn kind(at: At<'_>, node: &Node) -> Outcome {
    let names = || node.types.iter().map(|one| one.name()).collect::<Vec<_>>().join(",");
    let has = |one: Type| node.types.contains(&one);
    let found = type_of(at.value);
    if at.value.is_null() {
        return if node.types.is_empty() || node.nullable {
            Outcome::passed()
        } else {
            wrong_type(at, &names(), found)
        };
    }
    let listed = node.types.iter().any(|one| one.name() == found);
    let integral = at.value.as_f64().is_some_and(|float| float.fract() == 0.0) && found == "number";
    let fits = listed || (integral && has(Type::Integer)) || (found == "integer" && has(Type::Number));
    if let Some(format) = &node.values.format {
        let textual = at.value.is_string() || at.value.is_array();
        if !textual && !fits {
            let given = match found {
                "integer" => "int64",
                "number" => "float64",
                _ => "",
            };
            return wrong_type(at, &format.name, given);
        }
        if textual && !has(Type::Number) && !has(Type::Integer) {
            return Outcome::passed();
        }
    }
    if fits { Outcome::passed() } else { wrong_type(at, &names(), found) }
}

fn allowed(at: At<'_>, node: &Node) -> Outcome {
    let list = &node.values.allowed;
    let same = |one: &Value| match (one.as_f64(), at.value.as_f64()) {
        (Some(left), Some(right)) => left.total_cmp(&right).is_eq(),
        _ => one == at.value && !one.is_null(),
    };
    if list.is_empty() || list.iter().any(same) {
        return Outcome::default();
    }
    let shown: Vec<String> =
        list.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
    Outcome::failed(field::not_supported(at.path, at.value, &shown))
}

fn text_bounds(text: &str, at: At<'_>, node: &Node) -> Outcome {
    let values = &node.values;
    let length = text.chars().count() as u64;
    let name = at.path.as_str();
    if let Some(limit) = values.max_length.filter(|limit| length > *limit) {
        return Outcome::failed(field::too_long(at.path, limit));
    }
    if let Some(limit) = values.min_length.filter(|limit| length < *limit) {
        let detail = format!("{name} in body should be at least {limit} chars long");
        return Outcome::failed(field::invalid(at.path, at.value, &detail));
    }
    if let Some(pattern) = values.pattern.as_ref().filter(|pattern| !pattern.regex.is_match(text)) {
        let detail = format!("{name} in body should match '{}'", pattern.source);
        return Outcome::failed(field::invalid(at.path, at.value, &detail));
    }
    Outcome::default()
}

fn number_bounds(at: At<'_>, node: &Node) -> Outcome {
    let mut outcome = Outcome::passed();
    let Some(number) = at.value.as_f64() else { return outcome };
    let whole = at.value.is_i64() || at.value.is_u64();
    let bound = |limit: f64| if whole { limit.trunc() } else { limit };
    let mut refuse = |rule: &str, limit: f64| {
        let detail = format!("{} in body should be {rule} {}", at.path.as_str(), go_float(limit));
        outcome.push(field::invalid(at.path, at.value, &detail));
    };
    let values = &node.values;
    if let Some(factor) = values.multiple_of.map(bound).filter(|factor| *factor > 0.0) {
        let share = if factor < 1.0 { 1.0 / factor * number } else { number / factor };
        if (share - share.round()).abs() > 1e-9 {
            refuse("a multiple of", factor);
        }
    }
    if let Some(limit) = values.minimum.map(bound) {
        if values.exclusive_minimum && number <= limit {
            refuse("greater than", limit);
        } else if number < limit {
            refuse("greater than or equal to", limit);
        }
    }
    if let Some(limit) = values.maximum.map(bound) {
        if values.exclusive_maximum && number >= limit {
            refuse("less than", limit);
        } else if number > limit {
            refuse("less than or equal to", limit);
        }
    }
    outcome
}

fn list(entries: &[Value], at: At<'_>, node: &Node) -> Outcome {
    let mut outcome = Outcome::default();
    let values = &node.values;
    let name = at.path.as_str();
    if let Some(items) = &node.items {
        for (index, value) in entries.iter().enumerate() {
            let old = counterpart(node, value, at.old);
            let path = at.path.index(index);
            outcome.merge(check(At { value, old, path: &path, keep: true }, items));
        }
    }
    let length = entries.len() as u64;
    if let Some(limit) = values.min_items.filter(|limit| length < *limit) {
        let detail = format!("{name} in body should have at least {limit} items");
        outcome.push(field::invalid(at.path, &length.into(), &detail));
    }
    if let Some(limit) = values.max_items.filter(|limit| length > *limit) {
        outcome.push(field::too_many(at.path, entries.len(), limit));
    }
    let twice = |(index, one): (usize, &Value)| entries.iter().skip(index + 1).any(|other| other == one);
    if values.unique_items && entries.iter().enumerate().any(twice) {
        let detail = format!("{name} in body shouldn't contain duplicates");
        outcome.push(field::invalid(at.path, &"".into(), &detail));
    }
    outcome.passed += 1;
    outcome
}

/// The entry of the old list with the same keys; only lists of type `map` have such a thing.
pub(super) fn counterpart<'a>(node: &Node, entry: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    if node.list != ListType::Map {
        return None;
    }
    let default = |key: &String| node.items.as_ref()?.properties.get(key)?.default.as_ref();
    let key_of = |value: &Value| -> Vec<Option<Value>> {
        node.keys.iter().map(|key| value.get(key).or_else(|| default(key)).cloned()).collect()
    };
    let wanted = key_of(entry);
    old?.as_array()?.iter().find(|candidate| key_of(candidate) == wanted)
}

fn object(at: At<'_>, node: &Node) -> Outcome {
    let mut outcome = Outcome::default();
    let Some(map) = at.value.as_object() else { return outcome };
    let values = &node.values;
    let name = at.path.as_str();
    let count = map.len() as u64;
    if let Some(limit) = values.min_properties.filter(|limit| count < *limit) {
        let detail = format!("{name} in body should have at least {limit} properties");
        outcome.push(field::invalid(at.path, &count.into(), &detail));
    }
    if let Some(limit) = values.max_properties.filter(|limit| count > *limit) {
        outcome.push(field::too_many(at.path, map.len(), limit));
    }
    for (key, value) in map {
        let child = match (node.properties.get(key), &node.additional) {
            (Some(child), _) | (None, Additional::Schema(child)) => child,
            (None, Additional::Any(false)) => {
                let detail = format!("{name}.{key} in body is a forbidden property");
                outcome.push(field::invalid(at.path, &key.as_str().into(), &detail));
                continue;
            }
            (None, _) => continue,
        };
        let root_type = name.is_empty() && (key == "apiVersion" || key == "kind");
        let old = at.old.filter(|_| !root_type).and_then(|old| old.get(key));
        let path = at.path.child(key);
        outcome.merge(check(At { value, old, path: &path, keep: true }, child));
    }
    for key in values.required.iter().filter(|key| !map.contains_key(*key)) {
        outcome.push(field::required(&at.path.child(key), ""));
    }
    outcome
}

fn branches(at: At<'_>, node: &Node) -> Outcome {
    let mut outcome = Outcome::default();
    if node.any_of.is_empty() && node.one_of.is_empty() && node.all_of.is_empty() && node.not.is_none() {
        return Outcome::passed();
    }
    let at = At { keep: false, ..at };
    let name = field::quoted(at.path.as_str());
    let mut broken = |outcome: &mut Outcome, text: &str| {
        outcome.push(field::invalid(&Path::default(), &"".into(), &format!("{name} must {text}")));
    };
    if !node.any_of.is_empty() {
        any_of(at, node, &mut outcome, &mut broken);
    }
    if !node.one_of.is_empty() {
        one_of(at, node, &mut outcome, &mut broken);
    }
    if !node.all_of.is_empty() {
        let found: Vec<Outcome> = node.all_of.iter().map(|one| check(at, one)).collect();
        let valid = found.iter().filter(|one| one.valid()).count();
        let total = found.len();
        for one in found {
            outcome.merge(one);
        }
        if valid != total {
            let more = if valid == 0 { ". None validated" } else { "" };
            broken(&mut outcome, &format!("validate all the schemas (allOf){more}"));
        }
    }
    if node.not.as_ref().is_some_and(|not| check(at, not).valid()) {
        broken(&mut outcome, "not validate the schema (not)");
    }
    outcome.passed += 1;
    outcome
}

type Broken<'a> = dyn FnMut(&mut Outcome, &str) + 'a;

fn any_of(at: At<'_>, node: &Node, outcome: &mut Outcome, broken: &mut Broken<'_>) {
    let mut best: Option<Outcome> = None;
    for branch in &node.any_of {
        let found = check(at, branch);
        if found.valid() {
            outcome.merge(found);
            return;
        }
        if best.as_ref().is_none_or(|best| found.passed > best.passed) {
            best = Some(found);
        }
    }
    broken(outcome, "validate at least one schema (anyOf)");
    if let Some(best) = best {
        outcome.merge(best);
    }
}

fn one_of(at: At<'_>, node: &Node, outcome: &mut Outcome, broken: &mut Broken<'_>) {
    let (mut best, mut first, mut valid): (Option<Outcome>, Option<Outcome>, u32) = (None, None, 0);
    for branch in &node.one_of {
        let found = check(at, branch);
        if found.valid() {
            valid += 1;
            best = None;
            first.get_or_insert(found);
        } else if valid == 0 && best.as_ref().is_none_or(|best| found.passed > best.passed) {
            best = Some(found);
        }
    }
    if valid == 1 {
        if let Some(first) = first {
            outcome.merge(first);
        }
        return;
    }
    let more =
        if valid == 0 { "Found none valid".to_owned() } else { format!("Found {valid} valid alternatives") };
    broken(outcome, &format!("validate one and only one schema (oneOf). {more}"));
    if let Some(best) = best {
        outcome.merge(best);
    }
}
