//! Syntax of names, labels and selectors, read from raw JSON.

use kruise_webhook::review::FieldError;
use serde_json::{Map, Value};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
    '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
    used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
    with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// What is wrong with a DNS subdomain, if anything is.
pub(super) fn subdomain_fault(name: &str) -> Option<&'static str> {
    if name.len() > 253 {
        return Some("must be no more than 253 characters");
    }
    let good = name.split('.').all(|part| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    });
    (!good).then_some(SUBDOMAIN)
}

/// What is wrong with a label value, if anything is.
pub(super) fn label_value_fault(value: &str) -> Option<&'static str> {
    if value.len() > 63 {
        return Some("must be no more than 63 characters");
    }
    (!value.is_empty() && !is_word(value)).then_some(LABEL_VALUE)
}

/// What is wrong with a qualified name such as `apps.kruise.io/state`, if anything is.
pub(super) fn qualified_name_fault(key: &str) -> Option<&'static str> {
    let name = match key.split_once('/') {
        Some(("", _)) => return Some("prefix part must be non-empty"),
        Some((prefix, _)) if subdomain_fault(prefix).is_some() => return subdomain_fault(prefix),
        Some((_, name)) => name,
        None => key,
    };
    match name {
        "" => Some("name part must be non-empty"),
        _ if name.len() > 63 => Some("name part must be no more than 63 characters"),
        _ if !is_word(name) => Some(NAME_PART),
        _ => None,
    }
}

fn is_word(text: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(end)
        && text.ends_with(end)
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// One condition of a selector on one label.
#[derive(Debug)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// A label selector that has been checked.
#[derive(Debug)]
pub(super) struct Selector(Vec<Requirement>);

impl Selector {
    /// Reads a `LabelSelector`; every fault is reported at its own path below `path`.
    pub(super) fn parse(selector: &Value, path: &str) -> Result<Self, Vec<FieldError>> {
        let mut faults = Vec::new();
        let mut requirements = Vec::new();
        let Some(object) = selector.as_object() else {
            return Err(vec![FieldError::invalid(path, selector.clone(), "must be an object")]);
        };
        match object.get("matchLabels") {
            None | Some(Value::Null) => {}
            Some(Value::Object(labels)) => {
                let path = format!("{path}.matchLabels");
                for (key, value) in labels {
                    if let Some(value) = checked_label(key, value, &path, &mut faults) {
                        let requirement = Requirement {
                            key: key.clone(),
                            operator: Operator::In,
                            values: vec![value.to_owned()],
                        };
                        requirements.push(requirement);
                    }
                }
            }
            Some(odd) => {
                faults.push(FieldError::invalid(
                    format!("{path}.matchLabels"),
                    odd.clone(),
                    "must be an object",
                ));
            }
        }
        match object.get("matchExpressions") {
            None | Some(Value::Null) => {}
            Some(Value::Array(expressions)) => {
                for (index, expression) in expressions.iter().enumerate() {
                    let path = format!("{path}.matchExpressions[{index}]");
                    requirements.extend(parse_expression(expression, &path, &mut faults));
                }
            }
            Some(odd) => {
                faults.push(FieldError::invalid(
                    format!("{path}.matchExpressions"),
                    odd.clone(),
                    "must be a list",
                ));
            }
        }
        if faults.is_empty() { Ok(Self(requirements)) } else { Err(faults) }
    }

    /// True if it selects everything.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if an object with these labels is selected.
    pub(super) fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.and_then(|labels| labels.get(&requirement.key)).and_then(Value::as_str);
            let listed = value.is_some_and(|value| requirement.values.iter().any(|one| one == value));
            match requirement.operator {
                Operator::In => listed,
                Operator::NotIn => !listed,
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

fn parse_expression(expression: &Value, path: &str, faults: &mut Vec<FieldError>) -> Option<Requirement> {
    let before = faults.len();
    let key = expression.get("key").and_then(Value::as_str).unwrap_or_default();
    if let Some(fault) = qualified_name_fault(key) {
        faults.push(FieldError::invalid(format!("{path}.key"), key, fault));
    }
    let values: Vec<String> = match expression.get("values") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(values)) => {
            let mut texts = Vec::with_capacity(values.len());
            for (index, value) in values.iter().enumerate() {
                let fault = value.as_str().map_or(Some("must be a string"), label_value_fault);
                if let Some(fault) = fault {
                    faults.push(FieldError::invalid(format!("{path}.values[{index}]"), value.clone(), fault));
                }
                texts.extend(value.as_str().map(str::to_owned));
            }
            texts
        }
        Some(odd) => {
            faults.push(FieldError::invalid(format!("{path}.values"), odd.clone(), "must be a list"));
            return None;
        }
    };
    let operator = match expression.get("operator").and_then(Value::as_str).unwrap_or_default() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            faults.push(FieldError::invalid(
                format!("{path}.operator"),
                other,
                "not a valid selector operator",
            ));
            return None;
        }
    };
    let lists = matches!(operator, Operator::In | Operator::NotIn);
    if lists && values.is_empty() {
        faults.push(FieldError::required(
            format!("{path}.values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        ));
    } else if !lists && !values.is_empty() {
        faults.push(FieldError::forbidden(
            format!("{path}.values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ));
    }
    (faults.len() == before).then(|| Requirement { key: key.to_owned(), operator, values })
}

/// The value of a label if key and value are well formed; otherwise the faults are reported at `path`.
pub(super) fn checked_label<'a>(
    key: &str,
    value: &'a Value,
    path: &str,
    faults: &mut Vec<FieldError>,
) -> Option<&'a str> {
    let before = faults.len();
    if let Some(fault) = qualified_name_fault(key) {
        faults.push(FieldError::invalid(path, key, fault));
    }
    if let Some(fault) = value.as_str().map_or(Some("must be a string"), label_value_fault) {
        faults.push(FieldError::invalid(path, value.clone(), fault));
    }
    value.as_str().filter(|_| faults.len() == before)
}
