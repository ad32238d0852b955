//! Bodies in Kubernetes' protobuf, which kubectl sends for built-in kinds: read into the JSON they stand for.
//!
//! The table (`protobuf.txt`) has one message per line: its name, then `number:field:type` with the field's name in JSON.
//! A type with `[` is a list, one with `{` a map by text; the field `-` is inlined. Kubernetes publishes these numbers in
//! the `generated.proto` files of its API packages.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

const TABLE: &str = include_str!("protobuf.txt");

/// What a protobuf body of Kubernetes starts with.
const MAGIC: &[u8] = b"k8s\0";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Count {
    One,
    List,
    Map,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    name: &'static str,
    count: Count,
    of: &'static str,
}

type Message = HashMap<u64, Field>;

static MESSAGES: LazyLock<HashMap<&'static str, Message>> =
    LazyLock::new(|| TABLE.lines().filter_map(message).collect());

fn message(line: &'static str) -> Option<(&'static str, Message)> {
    let mut parts = line.split(' ');
    let name = parts.next()?;
    let fields = parts.filter_map(|part| {
        let mut part = part.splitn(3, ':');
        let (number, name, of) = (part.next()?.parse().ok()?, part.next()?, part.next()?);
        let (count, of) = match (of.strip_prefix('['), of.strip_prefix('{')) {
            (Some(of), _) => (Count::List, of),
            (_, Some(of)) => (Count::Map, of),
            _ => (Count::One, of),
        };
        Some((number, Field { name, count, of }))
    });
    Some((name, fields.collect()))
}

/// The object in a protobuf body.
pub(crate) fn decode(body: &[u8]) -> Result<Value, String> {
    let envelope =
        body.strip_prefix(MAGIC).ok_or("provided data does not appear to be a protobuf message")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &b""[..]);
    for field in Fields(envelope) {
        match field? {
            (1, Wire::Bytes(types)) => {
                for field in Fields(types) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let name = message_name(&api_version, &kind);
    let message = MESSAGES
        .get(name.as_str())
        .ok_or_else(|| format!("no kind {kind:?} is registered for version {api_version:?}"))?;
    let mut fields = Map::new();
    read(message, raw, &mut fields)?;
    fields.insert("apiVersion".to_owned(), Value::from(api_version));
    fields.insert("kind".to_owned(), Value::from(kind));
    Ok(Value::Object(fields))
}

fn message_name(api_version: &str, kind: &str) -> String {
    if matches!(kind, "DeleteOptions" | "CreateOptions" | "UpdateOptions" | "PatchOptions" | "Status") {
        return format!("meta.v1.{kind}");
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    format!("{}.{version}.{kind}", group.split('.').next().unwrap_or_default())
}

/// A value as it stands on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order of the wire.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "proto: unexpected EOF".to_owned()))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Number(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Number(u64::from(u32::from_le_bytes(self.take(4)?.try_into().ok()?))),
            _ => return None,
        };
        Some((tag >> 3, wire))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "proto: invalid UTF-8".to_owned())
}

fn read(message: &Message, bytes: &[u8], into: &mut Map<String, Value>) -> Result<(), String> {
    for field in Fields(bytes) {
        let (number, wire) = field?;
        let Some(field) = message.get(&number) else { continue };
        match (field.count, wire) {
            (Count::One, Wire::Bytes(bytes)) if field.name == "-" => {
                let inner =
                    MESSAGES.get(field.of).ok_or_else(|| format!("proto: unknown type {}", field.of))?;
                read(inner, bytes, into)?;
            }
            (Count::One, wire) => {
                into.insert(field.name.to_owned(), value(field.of, &wire)?);
            }
            (Count::List, wire) => push(into, field.name, value(field.of, &wire)?),
            (Count::Map, Wire::Bytes(entry)) => {
                let (key, value) = map_entry(field.of, entry)?;
                put(into, field.name, key, value);
            }
            (Count::Map, Wire::Number(_)) => return Err("proto: wrong wire type".to_owned()),
        }
    }
    Ok(())
}

fn push(into: &mut Map<String, Value>, name: &str, value: Value) {
    let list = into.entry(name).or_insert_with(|| Value::Array(Vec::new()));
    if let Some(list) = list.as_array_mut() {
        list.push(value);
    }
}

fn put(into: &mut Map<String, Value>, name: &str, key: String, value: Value) {
    let map = into.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if let Some(map) = map.as_object_mut() {
        map.insert(key, value);
    }
}

fn map_entry(of: &str, entry: &[u8]) -> Result<(String, Value), String> {
    let (mut key, mut content) = (String::new(), None);
    for field in Fields(entry) {
        match field? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, wire) => content = Some(value(of, &wire)?),
            _ => {}
        }
    }
    match content {
        Some(content) => Ok((key, content)),
        None => Ok((key, value(of, &Wire::Bytes(&[]))?)),
    }
}

fn value(of: &str, wire: &Wire<'_>) -> Result<Value, String> {
    Ok(match (of, wire) {
        ("string", Wire::Bytes(bytes)) => Value::from(utf8(bytes)?),
        ("bytes", Wire::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
        ("bool", Wire::Number(number)) => Value::Bool(*number != 0),
        ("int32", Wire::Number(number)) => Value::from(*number as i32),
        ("int64", Wire::Number(number)) => Value::from(number.cast_signed()),
        ("double", Wire::Number(number)) => {
            Number::from_f64(f64::from_bits(*number)).map_or(Value::Null, Value::Number)
        }
        (_, Wire::Bytes(bytes)) => return nested(of, bytes),
        _ => return Err(format!("proto: wrong wire type for {of}")),
    })
}

/// A message as JSON; some have a form of their own.
fn nested(of: &str, bytes: &[u8]) -> Result<Value, String> {
    let number = |wanted: u64| {
        let found = Fields(bytes).filter_map(Result::ok).find_map(|(number, wire)| match wire {
            Wire::Number(value) if number == wanted => Some(value.cast_signed()),
            _ => None,
        });
        found.unwrap_or(0)
    };
    let part = |wanted: u64| {
        let found = Fields(bytes).filter_map(Result::ok).find_map(|(number, wire)| match wire {
            Wire::Bytes(value) if number == wanted => Some(value),
            _ => None,
        });
        found.unwrap_or_default()
    };
    Ok(match of {
        "meta.v1.Time" | "meta.v1.MicroTime" if bytes.is_empty() => Value::Null,
        "meta.v1.Time" => time(number(1), 0).map_or(Value::Null, |at| Value::from(crate::object::time(at))),
        "meta.v1.MicroTime" => {
            let at = time(number(1), i32::try_from(number(2)).unwrap_or(0));
            at.map_or(Value::Null, |at| Value::from(at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()))
        }
        "meta.v1.Duration" => Value::from(format!("{}s", number(1) / 1_000_000_000)),
        "api.resource.Quantity" => Value::from(utf8(part(1))?),
        "util.intstr.IntOrString" if number(1) == 1 => Value::from(utf8(part(3))?),
        "util.intstr.IntOrString" => Value::from(number(2) as i32),
        "meta.v1.FieldsV1" | "runtime.RawExtension" => {
            serde_json::from_slice(part(1)).map_err(|error| error.to_string())?
        }
        _ => {
            let message = MESSAGES.get(of).ok_or_else(|| format!("proto: unknown type {of}"))?;
            let mut fields = Map::new();
            read(message, bytes, &mut fields)?;
            if of.ends_with(".ExtraValue") {
                return Ok(fields.remove("items").unwrap_or_else(|| Value::Array(Vec::new())));
            }
            Value::Object(fields)
        }
    })
}

fn time(seconds: i64, nanoseconds: i32) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(seconds, nanoseconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let types = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &types), field(2, raw)].concat()
    }

    #[test]
    fn a_config_map_is_read() {
        let meta = [field(1, b"a"), field(8, b"")].concat();
        let entry = [field(1, b"k"), field(2, b"v")].concat();
        let raw = [field(1, &meta), field(2, &entry)].concat();
        assert_eq!(
            decode(&body("v1", "ConfigMap", &raw)).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "v"},
                "metadata": {"name": "a", "creationTimestamp": null},
            })
        );
    }

    #[test]
    fn inlined_parts_and_special_types_have_their_form_in_json() {
        // A volume of a secret: its source stands beside its name.
        let volume = [field(1, b"v"), field(2, &field(6, &field(1, b"s")))].concat();
        let raw = field(2, &field(1, &volume));
        let pod = decode(&body("v1", "Pod", &raw)).unwrap();
        assert_eq!(
            pod.pointer("/spec/volumes/0"),
            Some(&json!({"name": "v", "secret": {"secretName": "s"}}))
        );
        // minAvailable: 50%
        let percent = [vec![8, 1], field(3, b"50%")].concat();
        let budget =
            decode(&body("policy/v1", "PodDisruptionBudget", &field(2, &field(1, &percent)))).unwrap();
        assert_eq!(budget.pointer("/spec/minAvailable"), Some(&json!("50%")));
    }

    #[test]
    fn cut_off_bodies_are_refused() {
        let whole = body("v1", "ConfigMap", &field(1, &field(1, b"abc")));
        for length in 0..whole.len() {
            let cut = whole.get(..length).unwrap();
            // What ends between two fields is a shorter message, never a wrong one.
            if let Ok(value) = decode(cut) {
                assert_eq!(value.get("kind"), Some(&json!("ConfigMap")), "{length}");
            }
        }
        assert!(decode(b"k8s\0\xff").is_err());
        assert!(decode(&body("v1", "Nothing", b"")).is_err());
    }
}
