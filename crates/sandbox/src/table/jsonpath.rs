//! The part of JSONPath that printer columns use: fields, indices, slices, wildcards and filters.

use std::cmp::Ordering;

use serde_json::Value;

/// A parsed path such as `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Debug)]
pub(super) struct Path(Vec<Step>);

#[derive(Debug)]
enum Step {
    Field(String),
    Index(i64),
    /// `[start:end]`, each optional.
    Slice(Option<i64>, Option<i64>),
    All,
    Filter(Filter),
}

/// `[?(@.path op value)]`; without an operator the path must exist.
#[derive(Debug)]
struct Filter {
    path: Path,
    test: Option<(Operator, Value)>,
}

#[derive(Clone, Copy, Debug)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Path {
    /// Reads a path; `None` if it is malformed or uses more than this module knows.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            rest = if let Some(inner) = rest.strip_prefix('[') {
                let end = closing(inner)?;
                steps.push(bracket(inner.get(..end)?.trim())?);
                inner.get(end + 1..)?
            } else {
                let field = rest.strip_prefix('.')?;
                let end = field_end(field);
                let name = field.get(..end)?.replace("\\.", ".");
                match name.as_str() {
                    "" if field.starts_with('[') => {}
                    "" => return None,
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Field(name)),
                }
                field.get(end..)?
            };
        }
        Some(Self(steps))
    }

    /// The first value at the path.
    pub(super) fn first<'v>(&self, root: &'v Value) -> Option<&'v Value> {
        self.all(root)?.into_iter().next()
    }

    /// All values at the path; `None` if an index is out of range, which the API server takes for an error.
    fn all<'v>(&self, root: &'v Value) -> Option<Vec<&'v Value>> {
        let mut found = vec![root];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in found {
                step.take(value, &mut next)?;
            }
            found = next;
        }
        Some(found)
    }
}

impl Step {
    fn take<'v>(&self, value: &'v Value, into: &mut Vec<&'v Value>) -> Option<()> {
        match (self, value) {
            (Self::Field(name), value) => into.extend(value.get(name)),
            (Self::Index(index), Value::Array(items)) => {
                into.push(items.get(place(*index, items.len())?)?);
            }
            (Self::Slice(start, end), Value::Array(items)) => {
                let bound =
                    |bound: Option<i64>, default| bound.map_or(Some(default), |at| place(at, items.len()));
                let (start, end) = (bound(*start, 0)?, bound(*end, items.len())?.min(items.len()));
                into.extend(items.get(start..end).into_iter().flatten());
            }
            (Self::All, Value::Array(items)) => into.extend(items),
            (Self::All, Value::Object(fields)) => into.extend(fields.values()),
            (Self::Filter(filter), Value::Array(items)) => {
                into.extend(items.iter().filter(|item| filter.passes(item)));
            }
            _ => {}
        }
        Some(())
    }
}

fn place(index: i64, len: usize) -> Option<usize> {
    let at = if index < 0 { index.checked_add(i64::try_from(len).ok()?)? } else { index };
    usize::try_from(at).ok()
}

impl Filter {
    fn passes(&self, item: &Value) -> bool {
        let found = self.path.first(item);
        let Some((operator, wanted)) = &self.test else { return found.is_some() };
        let Some(found) = found else { return false };
        let order = match (found.as_f64(), wanted.as_f64()) {
            (Some(found), Some(wanted)) => found.partial_cmp(&wanted),
            _ => match (found.as_str(), wanted.as_str()) {
                (Some(found), Some(wanted)) => Some(found.cmp(wanted)),
                _ => None,
            },
        };
        let equal = order.map_or(found == wanted, Ordering::is_eq);
        match operator {
            Operator::Equal => equal,
            Operator::NotEqual => !equal,
            Operator::Less => order.is_some_and(Ordering::is_lt),
            Operator::LessOrEqual => order.is_some_and(Ordering::is_le),
            Operator::Greater => order.is_some_and(Ordering::is_gt),
            Operator::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        }
    }
}

/// Where the bracket that was opened closes; quotes and inner brackets count.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut quote = None;
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), letter) if letter == open => quote = None,
            (None, '\'' | '"') => quote = Some(letter),
            (None, '[' | '(') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ')' | ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Where a field name ends; `\.` is part of it.
fn field_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '.' | '[' => return at,
            _ => {}
        }
    }
    text.len()
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquote(text) {
        return Some(Step::Field(name.replace("\\.", ".")));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        return filter_step(filter.trim());
    }
    if let Some((start, end)) = text.split_once(':') {
        let bound = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
        return Some(Step::Slice(bound(start)?, bound(end)?));
    }
    text.parse().ok().map(Step::Index)
}

fn unquote(text: &str) -> Option<&str> {
    let quoted = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    quoted('\'').or_else(|| quoted('"'))
}

fn filter_step(text: &str) -> Option<Step> {
    let operators = [
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];
    let path = |text: &str| Path::parse(text.trim().strip_prefix('@')?);
    for (sign, operator) in operators {
        if let Some((left, right)) = text.split_once(sign) {
            return Some(Step::Filter(Filter {
                path: path(left)?,
                test: Some((operator, literal(right.trim())?)),
            }));
        }
    }
    Some(Step::Filter(Filter { path: path(text)?, test: None }))
}

fn literal(text: &str) -> Option<Value> {
    match unquote(text) {
        Some(text) => Some(text.into()),
        None => serde_json::from_str(text).ok(),
    }
}

/// A value as a column of type string shows it.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => float_text(number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// A float as Go prints it: exponents from 21 digits on.
fn float_text(number: f64) -> String {
    let plain = number == 0.0 || (1e-4..1e21).contains(&number.abs());
    if plain {
        return number.to_string();
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_of_printer_columns_find_what_kubectl_shows() {
        let object =
            json!({"a": {"b.c/d": 1, "l": [{"t": "x", "v": 1}, {"t": "y", "v": 2}, {"t": "y", "v": 3}]}});
        for (path, found) in [
            (".a.b\\.c/d", json!(1)),
            (".a['b\\.c/d']", json!(1)),
            (".a.l[0].v", json!(1)),
            (".a.l[-1].v", json!(3)),
            (".a.l[-1:].v", json!(3)),
            (".a.l[1:2].v", json!(2)),
            (".a.l[*].v", json!(1)),
            ("$.a.l[?(@.t==\"y\")].v", json!(2)),
            (".a.l[?(@.t=='y')].v", json!(2)),
            (".a.l[?(@.v > 2)].t", json!("y")),
            (".a.l[?(@.t != \"x\")].v", json!(2)),
            (".a.l[?(@.nothing)].v", Value::Null),
            (".a.l[7].v", Value::Null),
            (".a.nothing.v", Value::Null),
        ] {
            assert_eq!(
                Path::parse(path).unwrap().first(&object).cloned().unwrap_or_default(),
                found,
                "{path}"
            );
        }
    }

    #[test]
    fn malformed_paths_are_refused() {
        for path in ["a", ".a[", ".a[x]", "..a", ".a[?(b)]"] {
            assert!(Path::parse(path).is_none(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "[.\\[\\]@?()=<'\"a0:*-]{0,16}") {
            if let Some(path) = Path::parse(&path) {
                let _ = path.first(&json!({"a": [{"a": 0}]}));
            }
        }
    }
}
