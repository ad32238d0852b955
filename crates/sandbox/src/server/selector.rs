//! Label and field selectors of list and watch requests.

use serde_json::Value;

use crate::error::ApiError;
use crate::resource::{Resource, Version};

#[derive(Clone, Debug, Eq, PartialEq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

/// A parsed `labelSelector`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Labels(Vec<(String, Test)>);

impl Labels {
    /// Parses what `kubectl -l` takes; the error is the API server's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        Parser { tokens: tokens(text), at: 0 }.selector().map(Self)
    }

    /// It selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The object's labels satisfy all requirements.
    pub fn matches(&self, object: &Value) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let labels = object.get("metadata").and_then(|meta| meta.get("labels"));
        self.0.iter().all(|(key, test)| {
            let value = labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
            match test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
                Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
                Test::Greater(bound) => number(value).is_some_and(|value| value > *bound),
                Test::Less(bound) => number(value).is_some_and(|value| value < *bound),
            }
        })
    }
}

fn number(value: Option<&str>) -> Option<i64> {
    value?.parse().ok()
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Token {
    Sign(&'static str),
    Word(String),
}

const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", "<", ">"];

fn tokens(text: &str) -> Vec<Token> {
    let mut rest = text;
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if rest.is_empty() {
            return found;
        }
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            found.push(Token::Sign(sign));
            rest = rest.get(sign.len()..).unwrap_or_default();
            continue;
        }
        let end = rest.find(|c: char| " \t\r\n=!(),<>".contains(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        found.push(Token::Word(word.to_owned()));
        rest = tail;
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn text(token: Option<&Token>) -> String {
        match token {
            None => String::new(),
            Some(Token::Sign(sign)) => (*sign).to_owned(),
            Some(Token::Word(word)) => word.clone(),
        }
    }

    fn selector(mut self) -> Result<Vec<(String, Test)>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                None => return Ok(requirements),
                Some(Token::Word(_) | Token::Sign("!")) => {
                    let one =
                        self.requirement().map_err(|why| format!("unable to parse requirement: {why}"))?;
                    requirements.push(one);
                }
                other => {
                    let found = Self::text(other);
                    return Err(format!("found '{found}', expected: !, identifier, or 'end of string'"));
                }
            }
            match self.next() {
                None => return Ok(requirements),
                Some(Token::Sign(",")) => {
                    if !matches!(self.peek(), Some(Token::Word(_) | Token::Sign("!"))) {
                        let found = Self::text(self.peek());
                        return Err(format!("found '{found}', expected: identifier after ','"));
                    }
                }
                other => {
                    let found = Self::text(other.as_ref());
                    return Err(format!("found '{found}', expected: ',' or 'end of string'"));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<(String, Test), String> {
        let mut first = self.next();
        let negated = first == Some(Token::Sign("!"));
        if negated {
            first = self.next();
        }
        let Some(Token::Word(key)) = first else {
            return Err(format!("found '{}', expected: identifier", Self::text(first.as_ref())));
        };
        if let Some(why) = crate::kinds::qualified_name(&key).into_iter().next() {
            return Err(format!("<nil>: Invalid value: {key:?}: {why}"));
        }
        if negated {
            return Ok((key, Test::Absent));
        }
        if matches!(self.peek(), None | Some(Token::Sign(","))) {
            return Ok((key, Test::Exists));
        }
        let test = match self.next() {
            Some(Token::Sign("=" | "==")) => Test::In(vec![self.exact()?]),
            Some(Token::Sign("!=")) => Test::NotIn(vec![self.exact()?]),
            Some(Token::Sign(">")) => Test::Greater(self.bound()?),
            Some(Token::Sign("<")) => Test::Less(self.bound()?),
            Some(Token::Word(word)) if word == "in" => Test::In(self.values()?),
            Some(Token::Word(word)) if word == "notin" => Test::NotIn(self.values()?),
            other => {
                let found = Self::text(other.as_ref());
                return Err(format!("found '{found}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        };
        if let Test::In(values) | Test::NotIn(values) = &test {
            for (index, value) in values.iter().enumerate() {
                if let Some(why) = crate::kinds::label_value(value).into_iter().next() {
                    return Err(format!("values[{index}][{key}]: Invalid value: {value:?}: {why}"));
                }
            }
        }
        Ok((key, test))
    }

    fn exact(&mut self) -> Result<String, String> {
        match self.peek() {
            None | Some(Token::Sign(",")) => Ok(String::new()),
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                Ok(word)
            }
            other => Err(format!("found '{}', expected: identifier", Self::text(other))),
        }
    }

    fn bound(&mut self) -> Result<i64, String> {
        let value = self.exact()?;
        value.parse().map_err(|_| {
            format!(
                "values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            )
        })
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let open = self.next();
        if open != Some(Token::Sign("(")) {
            return Err(format!("found '{}' expected: '('", Self::text(open.as_ref())));
        }
        match self.peek() {
            Some(Token::Sign(")")) => {
                self.at += 1;
                return Ok(vec![String::new()]);
            }
            Some(Token::Word(_) | Token::Sign(",")) => {}
            other => return Err(format!("found '{}', expected: ',', ')' or identifier", Self::text(other))),
        }
        let mut values = self.identifiers()?;
        values.sort();
        values.dedup();
        Ok(values)
    }

    /// Values between commas up to the closing parenthesis; nothing between two of them is the empty value.
    fn identifiers(&mut self) -> Result<Vec<String>, String> {
        let mut values = Vec::new();
        let mut due = true;
        loop {
            match self.next() {
                Some(Token::Word(word)) if due => {
                    values.push(word);
                    due = false;
                }
                Some(Token::Sign(",")) => {
                    if due {
                        values.push(String::new());
                    }
                    due = true;
                }
                Some(Token::Sign(")")) => {
                    if due {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                other => {
                    let found = Self::text(other.as_ref());
                    let expected = if due { "',', or identifier" } else { "',' or ')'" };
                    return Err(format!("found '{found}', expected: {expected}"));
                }
            }
        }
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Field {
    path: String,
    equal: bool,
    value: String,
}

/// A parsed `fieldSelector`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Fields(Vec<Field>);

impl Fields {
    /// Parses a field selector for a resource; fields that cannot be selected are refused as the API server does.
    pub fn parse(text: &str, resource: &Resource, version: &Version) -> Result<Self, ApiError> {
        let mut fields = Vec::new();
        for term in split(text) {
            if term.is_empty() {
                continue;
            }
            let parsed = ["!=", "==", "="]
                .iter()
                .filter_map(|sign| Some((term.find(sign)?, *sign)))
                .min_by_key(|(at, sign)| (*at, std::cmp::Reverse(sign.len())));
            let Some((at, sign)) = parsed else {
                let why = format!("invalid selector: '{text}'; can't understand '{term}'");
                return Err(ApiError::bad_request(why));
            };
            let path = term.get(..at).unwrap_or_default().to_owned();
            let value = unescape(term.get(at + sign.len()..).unwrap_or_default());
            fields.push(Field { path, equal: sign != "!=", value });
        }
        for field in &mut fields {
            supported(&field.path, resource, version)?;
            if resource.group == "events.k8s.io" {
                // Events are stored in the form of the core group.
                field.path = match field.path.as_str() {
                    "reportingController" => "reportingComponent".to_owned(),
                    other => other.replacen("regarding.", "involvedObject.", 1),
                };
            }
        }
        Ok(Self(fields))
    }

    /// It selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one name that the selector asks for, if it does.
    pub fn name(&self) -> Option<&str> {
        self.0
            .iter()
            .find(|field| field.equal && field.path == "metadata.name")
            .map(|field| field.value.as_str())
    }

    /// The object's fields satisfy all requirements.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|field| is(object, &field.path, &field.value) == field.equal)
    }
}

fn supported(path: &str, resource: &Resource, version: &Version) -> Result<(), ApiError> {
    if path == "metadata.name" || path == "metadata.namespace" {
        return Ok(());
    }
    let dotted = |known: &String| known.trim_start_matches('.') == path;
    if version.selectable_fields.iter().any(dotted) {
        return Ok(());
    }
    Err(ApiError::bad_request(if resource.custom || !version.selectable_fields.is_empty() {
        format!("field label not supported: {path}")
    } else {
        format!("{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    }))
}

fn is(object: &Value, path: &str, wanted: &str) -> bool {
    let path = match path {
        "source" => "source.component",
        "status.successful" => "status.succeeded",
        other => other,
    };
    let found = path.split('.').try_fold(object, |at, part| at.get(part));
    match found {
        Some(Value::String(text)) => text == wanted,
        Some(Value::Bool(flag)) => flag.to_string() == wanted,
        Some(Value::Number(number)) => number.to_string() == wanted,
        Some(Value::Array(items)) => {
            items.first().and_then(|item| item.get("ip")).and_then(Value::as_str).unwrap_or_default()
                == wanted
        }
        _ => match path {
            "spec.unschedulable" | "spec.hostNetwork" => wanted == "false",
            "status.replicas" | "status.succeeded" => wanted == "0",
            _ => wanted.is_empty(),
        },
    }
}

/// Splits at commas that are not escaped.
fn split(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            terms.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = terms.last_mut() {
            last.push(c);
        }
    }
    terms
}

fn unescape(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut escaped = false;
    for c in value.chars() {
        if c == '\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        plain.push(c);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_select_as_kubectl_documents_them() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "3", "empty": ""}}});
        let rows = [
            ("", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("app=web", true),
            ("app == web,tier", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (db, web)", true),
            ("app notin (db,web)", false),
            ("other notin (db)", true),
            ("empty=", true),
            ("empty in (,x)", true),
            ("tier>2", true),
            ("tier<3", false),
            ("in in (in)", false),
        ];
        for (text, expected) in rows {
            assert_eq!(Labels::parse(text).unwrap().matches(&object), expected, "{text}");
        }
    }

    #[test]
    fn bad_label_selectors_are_refused_in_the_api_servers_words() {
        let rows = [
            ("a===b", "unable to parse requirement: found '=', expected: identifier"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a,", "found '', expected: identifier after ','"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ];
        for (text, expected) in rows {
            assert_eq!(Labels::parse(text).unwrap_err(), expected, "{text}");
        }
    }
}
