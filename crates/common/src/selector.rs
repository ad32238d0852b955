//! Label selectors, parsed once and matched often.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Map, Value};

/// Labels of an object, however they are kept.
pub trait LabelSource {
    /// The value of a label.
    fn value_of(&self, key: &str) -> Option<&str>;
}

impl LabelSource for BTreeMap<Arc<str>, Arc<str>> {
    fn value_of(&self, key: &str) -> Option<&str> {
        self.get(key).map(AsRef::as_ref)
    }
}

impl LabelSource for BTreeMap<String, String> {
    fn value_of(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl LabelSource for Map<String, Value> {
    fn value_of(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Operator {
    Equals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>, // sorted
}

impl Requirement {
    fn matches(&self, labels: &impl LabelSource) -> bool {
        let listed = |value: &str| self.values.iter().any(|wanted| *wanted == value);
        match (self.operator, labels.value_of(&self.key)) {
            (Operator::Equals | Operator::In, value) => value.is_some_and(listed),
            (Operator::NotIn, value) => !value.is_some_and(listed),
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

/// A valid `LabelSelector`: all of its requirements hold together. Displayed as in `status.labelSelector`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selector {
    requirements: Vec<Requirement>, // sorted by key
}

impl Selector {
    /// Reads a selector; the error says which requirement is invalid.
    pub fn parse(selector: &LabelSelector) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            check_key(key)?;
            check_value(value)?;
            let values = vec![value.clone()];
            requirements.push(Requirement { key: key.clone(), operator: Operator::Equals, values });
        }
        for expression in selector.match_expressions.iter().flatten() {
            let key = &expression.key;
            check_key(key)?;
            let mut values = expression.values.clone().unwrap_or_default();
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            match operator {
                Operator::In | Operator::NotIn if values.is_empty() => {
                    return Err(format!("{key}: for In and NotIn, values must be set"));
                }
                Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                    return Err(format!("{key}: for Exists and DoesNotExist, values must not be set"));
                }
                _ => {}
            }
            for value in &values {
                check_value(value)?;
            }
            values.sort_unstable();
            values.dedup();
            requirements.push(Requirement { key: key.clone(), operator, values });
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements })
    }

    /// True if it requires nothing, and so matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// True if the labels meet all requirements.
    pub fn matches(&self, labels: &impl LabelSource) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, requirement) in self.requirements.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

/// A label key: a name of up to 63 characters, after an optional DNS prefix and a slash.
fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let name_ok = !name.is_empty() && is_name(name);
    let prefix_ok = prefix.is_none_or(|prefix| {
        prefix.len() <= 253
            && prefix.split('.').all(|part| {
                is_name(part)
                    && !part.is_empty()
                    && part
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            })
    });
    if name_ok && prefix_ok { Ok(()) } else { Err(format!("{key:?} is not a valid label key")) }
}

fn check_value(value: &str) -> Result<(), String> {
    if is_name(value) { Ok(()) } else { Err(format!("{value:?} is not a valid label value")) }
}

/// Up to 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit; or nothing.
fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().all(|&byte| inner(byte)) && edge(bytes.first()) && edge(bytes.last())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    fn selector(labels: &[(&str, &str)], expressions: &[(&str, &str, &[&str])]) -> LabelSelector {
        LabelSelector {
            match_labels: Some(labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()),
            match_expressions: Some(
                expressions
                    .iter()
                    .map(|&(key, operator, values)| LabelSelectorRequirement {
                        key: key.to_owned(),
                        operator: operator.to_owned(),
                        values: Some(values.iter().map(|&value| value.to_owned()).collect()),
                    })
                    .collect(),
            ),
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<Arc<str>, Arc<str>> {
        pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect()
    }

    #[test]
    fn the_text_is_sorted_by_key() {
        let parsed = Selector::parse(&selector(
            &[("app", "demo")],
            &[
                ("tier", "In", &["b", "a"]),
                ("gone", "DoesNotExist", &[]),
                ("here", "Exists", &[]),
                ("x", "NotIn", &["1"]),
            ],
        ))
        .unwrap();
        assert_eq!(parsed.to_string(), "app=demo,!gone,here,tier in (a,b),x notin (1)");
        assert!(!parsed.is_empty());
    }

    #[test]
    fn all_requirements_must_hold() {
        for (key, operator, values, matches) in [
            ("app", "In", &["demo", "other"][..], true),
            ("app", "In", &["other"], false),
            ("none", "In", &["demo"], false),
            ("app", "NotIn", &["demo"], false),
            ("none", "NotIn", &["demo"], true),
            ("app", "Exists", &[], true),
            ("none", "Exists", &[], false),
            ("app", "DoesNotExist", &[], false),
            ("none", "DoesNotExist", &[], true),
        ] {
            let parsed = Selector::parse(&selector(&[("app", "demo")], &[(key, operator, values)])).unwrap();
            assert_eq!(parsed.matches(&labels(&[("app", "demo"), ("more", "")])), matches, "{parsed}");
            assert!(!parsed.matches(&labels(&[("app", "else")])));
        }
    }

    #[test]
    fn an_empty_selector_matches_everything() {
        let empty = Selector::parse(&LabelSelector::default()).unwrap();
        assert!(empty.is_empty());
        assert!(empty.matches(&labels(&[])));
        assert_eq!(empty.to_string(), "");
    }

    #[test]
    fn invalid_selectors_are_refused() {
        for (pairs, expressions) in [
            (&[("", "v")][..], &[][..]),
            (&[("a b", "v")], &[]),
            (&[("A.example/k", "v")], &[]),
            (&[("/k", "v")], &[]),
            (&[("k", "-v")], &[]),
            (&[], &[("k", "Near", &[][..])]),
            (&[], &[("k", "In", &[])]),
            (&[], &[("k", "Exists", &["v"])]),
        ] {
            assert!(Selector::parse(&selector(pairs, expressions)).is_err(), "{pairs:?} {expressions:?}");
        }
        assert!(Selector::parse(&selector(&[("example.io/K_1.x", "")], &[])).is_ok());
    }
}
