//! Replaces what differs from run to run by names that do not, keeping what is equal equal.

use std::collections::BTreeMap;

use serde_json::Value;

/// What has been replaced so far in one case.
#[derive(Default)]
pub(crate) struct Mask {
    versions: BTreeMap<String, usize>,
    uids: BTreeMap<String, usize>,
    names: BTreeMap<String, String>,
    words: Vec<(String, String)>,
    /// True if resource versions are not told apart, because controllers write as well.
    pub(crate) blur: bool,
    asking: bool,
}

impl Mask {
    /// A mask that also replaces the given texts.
    pub(crate) fn new(words: Vec<(String, String)>) -> Self {
        Self { words, ..Self::default() }
    }

    /// The text in the form that is compared.
    pub(crate) fn text(&mut self, text: &str) -> String {
        let mut text = self.uids(&times(text));
        for (from, to) in self.words.iter().map(|(from, to)| (from, to)).chain(&self.names) {
            text = text.replace(from.as_str(), to);
        }
        text
    }

    /// The object in the form that is compared, printed.
    pub(crate) fn object(&mut self, value: &Value) -> String {
        let mut value = value.clone();
        self.walk(&mut value);
        let mut out = String::new();
        print(&value, 0, &mut out);
        self.text(&out)
    }

    /// A request's body: versions that no answer has shown stay, the case wrote them.
    pub(crate) fn request(&mut self, value: &Value) -> String {
        self.asking = true;
        let text = self.object(value);
        self.asking = false;
        text
    }

    fn walk(&mut self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.walk(item)),
            Value::Object(map) => {
                let list = map.contains_key("items") || map.contains_key("rows");
                if let Some(meta) = map.get_mut("metadata").and_then(Value::as_object_mut) {
                    self.metadata(meta, list);
                }
                if let Some(rows) = map.get_mut("rows").and_then(Value::as_array_mut) {
                    rows.iter_mut().for_each(age);
                }
                if let Some(causes) = map.get_mut("causes").and_then(Value::as_array_mut)
                    && causes.iter().all(|cause| cause["reason"] == "FieldManagerConflict")
                {
                    causes.sort_by_key(Value::to_string); // the API server walks a map here
                }
                unordered(map);
                for (key, item) in map.iter_mut() {
                    match item {
                        Value::String(text) if key == "message" => *text = self.message(text),
                        _ => self.walk(item),
                    }
                }
            }
            _ => {}
        }
    }

    fn metadata(&mut self, meta: &mut serde_json::Map<String, Value>, list: bool) {
        if let Some(Value::String(version)) = meta.get_mut("resourceVersion") {
            *version = if list { "<list-rv>".into() } else { self.version(version) };
        }
        if let Some(Value::String(token)) = meta.get_mut("continue")
            && !token.is_empty()
        {
            self.names.insert(std::mem::replace(token, "<token>".into()), "<token>".into());
        }
        if let Some(entries) = meta.get_mut("managedFields").and_then(Value::as_array_mut) {
            // They are sorted by time, which is the same second for some and not for others.
            entries.sort_by_key(|entry| {
                ["manager", "operation", "subresource"].map(|field| entry[field].to_string())
            });
        }
        let prefix = meta.get("generateName").and_then(Value::as_str).map(str::to_owned);
        if let (Some(prefix), Some(name)) = (prefix, meta.get("name").and_then(Value::as_str))
            && name.strip_prefix(&prefix).is_some_and(|rest| rest.len() == 5)
        {
            self.names.insert(name.to_owned(), format!("{prefix}<random>"));
        }
    }

    fn version(&mut self, version: &str) -> String {
        if self.asking && !self.versions.contains_key(version) {
            return version.to_owned();
        }
        if self.blur || version.is_empty() {
            return "<rv>".into();
        }
        let next = self.versions.len() + 1;
        let number = *self.versions.entry(version.to_owned()).or_insert(next);
        format!("<rv-{number}>")
    }

    /// Resource versions inside messages stand behind these words, and a failed patch quotes the whole object.
    fn message(&mut self, text: &str) -> String {
        const QUOTED: &str = "Invalid value: \"{\\\"apiVersion\\\"";
        let mut text = text.to_owned();
        if let (Some(start), Some(end)) = (text.find(QUOTED), text.rfind("}\": ")) {
            text.replace_range(start..=end, "Invalid value: \"<object>");
        }
        for before in ["ResourceVersion in record (", "current: ", "too old resource version: 1 ("] {
            if let Some(start) = text.find(before).map(|at| at + before.len()) {
                let rest = text.split_off(start);
                let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                text.push_str("<number>");
                text.push_str(&rest[digits..]);
            }
        }
        text
    }

    fn uids(&mut self, text: &str) -> String {
        const LENGTHS: [usize; 5] = [8, 4, 4, 4, 12];
        let mut out = String::new();
        let mut rest = text;
        while let Some(ch) = rest.chars().next() {
            let candidate = rest.get(..36).filter(|part| {
                let groups: Vec<&str> = part.split('-').collect();
                groups.iter().map(|group| group.len()).eq(LENGTHS)
                    && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
                    && !part.starts_with("00000000-")
            });
            if let Some(uid) = candidate {
                let next = self.uids.len() + 1;
                let number = *self.uids.entry(uid.to_owned()).or_insert(next);
                out.push_str(&format!("<uid-{number}>"));
                rest = &rest[36..];
            } else {
                out.push(ch);
                rest = &rest[ch.len_utf8()..];
            }
        }
        out
    }
}

/// Sorts the errors of a custom resource: the API server walks its properties in any order.
fn unordered(status: &mut serde_json::Map<String, Value>) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let message = status.get("message").map(text).unwrap_or_default();
    let Some(causes) =
        status.get_mut("details").and_then(|details| details.get_mut("causes")?.as_array_mut())
    else {
        return;
    };
    if causes.len() < 2 || !message.contains(".example.com \"") {
        return;
    }
    causes.sort_by_key(|cause| (text(&cause["field"]), text(&cause["message"])));
    let mut texts: Vec<String> =
        causes.iter().map(|c| format!("{}: {}", text(&c["field"]), text(&c["message"]))).collect();
    texts.dedup();
    if let Some((head, rest)) = message.split_once(": [")
        && texts.iter().all(|one| rest.contains(one.as_str()))
        && rest.len() == texts.iter().map(|one| one.len() + 2).sum::<usize>() - 1
    {
        status.insert("message".into(), format!("{head}: [{}]", texts.join(", ")).into());
    }
}

/// The cells of a row that tell an age of seconds.
fn age(row: &mut Value) {
    for cell in row.get_mut("cells").and_then(Value::as_array_mut).into_iter().flatten() {
        let seconds = cell.as_str().and_then(|text| text.strip_suffix('s'));
        if seconds.is_some_and(|digits| digits.parse::<u8>().is_ok()) {
            *cell = "<age>".into();
        }
    }
}

/// Times since 2020 become `<time>`; older ones a case has written itself.
fn times(text: &str) -> String {
    const SHAPE: &str = "0000-00-00T00:00:00";
    let mut out = String::new();
    let mut rest = text;
    while let Some(ch) = rest.chars().next() {
        let matches = rest.get(..SHAPE.len()).is_some_and(|part| {
            part.bytes().zip(SHAPE.bytes()).all(|(a, b)| if b == b'0' { a.is_ascii_digit() } else { a == b })
                && part > "2020"
        });
        let end = rest.find('Z').filter(|end| matches && (19..=29).contains(end));
        if let Some(end) = end {
            out.push_str(if end == 19 { "<time>" } else { "<micro-time>" });
            rest = &rest[end + 1..];
        } else {
            out.push(ch);
            rest = &rest[ch.len_utf8()..];
        }
    }
    out
}

/// JSON with sorted keys; what fits on a line stays on it.
fn print(value: &Value, indent: usize, out: &mut String) {
    let flat = flat(value);
    if flat.len() + indent <= 110 {
        return out.push_str(&flat);
    }
    let pad = " ".repeat(indent + 2);
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            out.push_str("{\n");
            for (at, (key, item)) in sorted.iter().enumerate() {
                out.push_str(&format!("{pad}{}: ", Value::String((*key).clone())));
                print(item, indent + 2, out);
                out.push_str(if at + 1 < sorted.len() { ",\n" } else { "\n" });
            }
            out.push_str(&format!("{}}}", " ".repeat(indent)));
        }
        Value::Array(items) => {
            out.push_str("[\n");
            for (at, item) in items.iter().enumerate() {
                out.push_str(&pad);
                print(item, indent + 2, out);
                out.push_str(if at + 1 < items.len() { ",\n" } else { "\n" });
            }
            out.push_str(&format!("{}]", " ".repeat(indent)));
        }
        _ => out.push_str(&flat),
    }
}

fn flat(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            let items: Vec<String> = sorted
                .into_iter()
                .map(|(key, item)| format!("{}: {}", Value::String(key.clone()), flat(item)))
                .collect();
            format!("{{{}}}", items.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(flat).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}
