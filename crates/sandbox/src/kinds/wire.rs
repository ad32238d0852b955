//! Reading a built-in kind from JSON as the API server's decoder does, and writing it back in the API server's form.

use base64::Engine;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::quantity;
use super::wire_types::{Class, Struct, Type, TypeId, Types};
use crate::error::ApiError;
use crate::resource::Resource;

const QUANTITY_SYNTAX: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// See [`super::decode`].
pub(super) fn decode(
    resource: &Resource,
    version: &str,
    object: &mut Value,
) -> Result<Vec<String>, ApiError> {
    if resource.custom {
        return Ok(Vec::new());
    }
    decode_kind(&resource.group, version, &resource.kind, object)
}

/// As [`decode`] for a kind that is no resource of its own, like `Eviction` or `Scale`.
pub(super) fn decode_kind(
    group: &str,
    version: &str,
    kind: &str,
    object: &mut Value,
) -> Result<Vec<String>, ApiError> {
    decode_as(group, version, kind, object).map_err(|text| {
        ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {text}"))
    })
}

/// See [`super::decode_kind`].
pub(super) fn decode_as(
    group: &str,
    version: &str,
    kind: &str,
    object: &mut Value,
) -> Result<Vec<String>, String> {
    let types = Types::get();
    let Some(id) = types.kind(group, version, kind) else { return Ok(Vec::new()) };
    let mut reader = Reader { types, path: Vec::new(), unknown: Vec::new() };
    reader.read(id, object, "").map(|()| reader.unknown)
}

/// See [`super::decode_metadata`].
pub(super) fn decode_metadata(object: &mut Value) -> Result<Vec<String>, String> {
    const NAME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let types = Types::get();
    let Some((id, meta)) = types.named(NAME).zip(object.get_mut("metadata")) else { return Ok(Vec::new()) };
    let mut reader = Reader { types, path: Vec::new(), unknown: Vec::new() };
    reader.read(id, meta, "")?;
    Ok(reader.unknown.into_iter().map(|path| format!("metadata.{path}")).collect())
}

/// Brings an object that the server has changed into the API server's form again.
pub(super) fn normalize(resource: &Resource, object: &mut Value) {
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or(&resource.storage);
    let version = version.rsplit('/').next().unwrap_or_default().to_owned();
    let types = Types::get();
    let id = types
        .kind(&resource.group, &version, &resource.kind)
        .or_else(|| types.kind(&resource.group, &resource.storage, &resource.kind));
    if let Some(id) = id {
        let mut reader = Reader { types, path: Vec::new(), unknown: Vec::new() };
        // What the server wrote itself has the right types: a complaint here would only repeat one of the client's.
        let _ = reader.read(id, object, "");
    }
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
}

struct Reader {
    types: &'static Types,
    /// Where the reader is. Owned names, since the objects they come from are being changed.
    path: Vec<OwnedStep>,
    unknown: Vec<String>,
}

enum OwnedStep {
    /// A field known to the table.
    Field(&'static str),
    /// A key of a map.
    Key(String),
    /// An entry of a list.
    Index(usize),
}

impl Reader {
    /// Reads one value; `holder` is the name of the structure it is (part of) a field of.
    fn read(&mut self, id: TypeId, value: &mut Value, holder: &str) -> Result<(), String> {
        let kind: &'static Type = self.types.at(id);
        match kind {
            Type::Struct(structure) => match value {
                Value::Object(fields) => self.read_struct(structure, fields),
                _ => Err(self.mismatch(value, holder, &go_name(structure))),
            },
            Type::List(item, name) => self.read_list(*item, name, value, holder),
            Type::Map(item, name) => self.read_map(*item, name, value, holder),
            Type::String(name) if !value.is_string() => Err(self.mismatch(value, holder, name)),
            Type::Bool if !value.is_boolean() => Err(self.mismatch(value, holder, "bool")),
            Type::Int { min, max, name } => match value.as_i64() {
                Some(number) if (*min..=*max).contains(&number) => Ok(()),
                _ if value.is_number() => Err(self.mismatch_text(&format!("number {value}"), holder, name)),
                _ => Err(self.mismatch(value, holder, name)),
            },
            Type::Float if !value.is_number() => Err(self.mismatch(value, holder, "float64")),
            Type::IntOrString if !value.is_string() => match value.as_i64() {
                Some(number) if i32::try_from(number).is_ok() => Ok(()),
                _ if value.is_number() => {
                    Err(self.mismatch_text(&format!("number {value}"), holder, "int32"))
                }
                _ => Err(self.mismatch(value, holder, "int32")),
            },
            Type::Quantity => read_quantity(value),
            Type::Time => read_time(value, "%Y-%m-%dT%H:%M:%SZ", "2006-01-02T15:04:05Z07:00"),
            Type::MicroTime => read_time(value, "%Y-%m-%dT%H:%M:%S%.6fZ", "2006-01-02T15:04:05.000000Z07:00"),
            Type::Bytes => self.read_bytes(value, holder),
            Type::Any | Type::String(_) | Type::Bool | Type::Float | Type::IntOrString => Ok(()),
        }
    }

    fn read_struct(
        &mut self,
        structure: &'static Struct,
        fields: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let mut removed = Vec::new();
        for (name, value) in fields.iter_mut() {
            let Some((known, (class, id))) = structure.fields.get_key_value(name.as_str()) else {
                let path = self.written(Some(Step::Field(name)));
                self.unknown.push(path);
                removed.push(name.clone());
                continue;
            };
            if !value.is_null() {
                self.path.push(OwnedStep::Field(known));
                self.read(*id, value, structure.name)?;
                self.path.pop();
            }
            if is_dropped(*class, value) {
                removed.push(name.clone());
            }
        }
        for name in removed {
            fields.remove(&name);
        }
        for (name, class, id) in &structure.constant {
            if fields.get(*name).is_none_or(|value| value.is_null() && *class != Class::Null) {
                let value = self.constant(*class, *id)?;
                fields.insert((*name).to_owned(), value);
            }
        }
        Ok(())
    }

    /// What is written for a field without value.
    fn constant(&mut self, class: Class, id: TypeId) -> Result<Value, String> {
        Ok(match class {
            Class::Struct => {
                let mut value = json!({});
                self.read(id, &mut value, "")?;
                value
            }
            Class::Quantity => json!("0"),
            Class::Number => json!(0),
            Class::Zero => match self.types.at(id) {
                Type::String(_) => json!(""),
                Type::Bool => json!(false),
                _ => json!(0),
            },
            Class::Null | Class::Absent | Class::OmitZero | Class::OmitEmpty => Value::Null,
        })
    }

    fn read_list(&mut self, item: TypeId, name: &str, value: &mut Value, holder: &str) -> Result<(), String> {
        let Value::Array(items) = value else { return Err(self.mismatch(value, holder, name)) };
        for (index, entry) in items.iter_mut().enumerate() {
            self.path.push(OwnedStep::Index(index));
            if entry.is_null() {
                *entry = self.zero(item)?;
            } else {
                self.read(item, entry, holder)?;
            }
            self.path.pop();
        }
        Ok(())
    }

    fn read_map(&mut self, item: TypeId, name: &str, value: &mut Value, holder: &str) -> Result<(), String> {
        let Value::Object(entries) = value else { return Err(self.mismatch(value, holder, name)) };
        // Only entries that are structures can hold unknown fields, whose paths need the key.
        let nested = matches!(self.types.at(item), Type::Struct(_) | Type::List(..) | Type::Map(..));
        for (key, entry) in entries.iter_mut() {
            if nested {
                self.path.push(OwnedStep::Key(key.clone()));
            }
            if entry.is_null() {
                *entry = self.zero(item)?;
            } else {
                self.read(item, entry, holder)?;
            }
            if nested {
                self.path.pop();
            }
        }
        Ok(())
    }

    fn read_bytes(&self, value: &mut Value, holder: &str) -> Result<(), String> {
        let Value::String(text) = value else { return Err(self.mismatch(value, holder, "[]uint8")) };
        let plain: String = text.chars().filter(|c| *c != '\n' && *c != '\r').collect();
        match base64::engine::general_purpose::STANDARD.decode(&plain) {
            Ok(_) => {
                *text = plain;
                Ok(())
            }
            Err(error) => Err(format!("illegal base64 data at input byte {}", bad_byte(&error, plain.len()))),
        }
    }

    /// The value that `null` stands for in a list or map.
    fn zero(&mut self, id: TypeId) -> Result<Value, String> {
        Ok(match self.types.at(id) {
            Type::Struct(_) => self.constant(Class::Struct, id)?,
            Type::Quantity => json!("0"),
            Type::String(_) | Type::Bool | Type::Int { .. } => self.constant(Class::Zero, id)?,
            _ => Value::Null,
        })
    }

    fn mismatch(&self, value: &Value, holder: &str, expected: &str) -> String {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        self.mismatch_text(found, holder, expected)
    }

    fn mismatch_text(&self, found: &str, holder: &str, expected: &str) -> String {
        let fields: Vec<&str> = self
            .path
            .iter()
            .filter_map(|step| match step {
                OwnedStep::Field(name) => Some(*name),
                OwnedStep::Key(_) | OwnedStep::Index(_) => None,
            })
            .collect();
        if fields.is_empty() {
            return format!("json: cannot unmarshal {found} into Go value of type {expected}");
        }
        format!(
            "json: cannot unmarshal {found} into Go struct field {holder}.{} of type {expected}",
            fields.join(".")
        )
    }

    /// The present path with one more step, as it is written in complaints about unknown fields.
    fn written(&self, last: Option<Step<'_>>) -> String {
        let mut text = String::new();
        let mut add = |step: Step<'_>| match step {
            Step::Field(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
            Step::Index(index) => text.extend(["[", &index.to_string(), "]"]),
        };
        for step in &self.path {
            add(match step {
                OwnedStep::Field(name) => Step::Field(name),
                OwnedStep::Key(name) => Step::Field(name),
                OwnedStep::Index(index) => Step::Index(*index),
            });
        }
        if let Some(last) = last {
            add(last);
        }
        text
    }
}

/// Whether a field with this value is left out when it is written.
fn is_dropped(class: Class, value: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    };
    let zero = |value: &Value| value == "" || value == 0 || *value == Value::Bool(false);
    match class {
        Class::Absent => value.is_null(),
        Class::OmitZero => value.is_null() || zero(value),
        Class::OmitEmpty => value.is_null() || empty(value),
        Class::Zero | Class::Null | Class::Struct | Class::Quantity | Class::Number => false,
    }
}

fn read_quantity(value: &mut Value) -> Result<(), String> {
    let text = match &*value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return Err(QUANTITY_SYNTAX.to_owned()),
    };
    match quantity::canonical(&text) {
        Some(canonical) => {
            if *value != canonical {
                *value = Value::String(canonical);
            }
            Ok(())
        }
        None => Err(QUANTITY_SYNTAX.to_owned()),
    }
}

fn read_time(value: &mut Value, format: &str, layout: &str) -> Result<(), String> {
    let Value::String(text) = &*value else {
        let found = if value.is_number() {
            "number"
        } else if value.is_boolean() {
            "bool"
        } else {
            "object"
        };
        return Err(format!("json: cannot unmarshal {found} into Go value of type string"));
    };
    match text.parse::<Timestamp>() {
        Ok(time) => {
            *value = Value::String(time.strftime(format).to_string());
            Ok(())
        }
        Err(_) => Err(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")),
    }
}

fn bad_byte(error: &base64::DecodeError, length: usize) -> usize {
    match error {
        base64::DecodeError::InvalidByte(offset, _) | base64::DecodeError::InvalidLastSymbol(offset, _) => {
            *offset
        }
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => length / 4 * 4,
    }
}

/// `v1.PodSpec`, as the decoder names a structure.
fn go_name(structure: &Struct) -> String {
    let version = structure.full_name.rsplit('.').nth(1).unwrap_or_default();
    format!("{version}.{}", structure.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(kind: &str, mut object: Value) -> (Value, Vec<String>) {
        let group = if kind == "Pod" || kind == "PodTemplate" || kind == "Event" { "" } else { "apps" };
        let unknown = decode_kind(group, "v1", kind, &mut object).unwrap();
        (object, unknown)
    }

    fn refused(mut template: Value) -> String {
        let object = &mut json!({"metadata": {"name": "x"}, "template": template.take()});
        decode_kind("", "v1", "PodTemplate", object).unwrap_err().message
    }

    const PREFIX: &str = "PodTemplate in version \"v1\" cannot be handled as a PodTemplate: ";

    #[test]
    fn empty_values_go_and_constant_ones_come() {
        let (template, unknown) = decoded(
            "PodTemplate",
            json!({"metadata": {"name": "x"}, "template": {"metadata": {"creationTimestamp": null},
                "spec": {"nodeName": null, "hostNetwork": false, "containers": [{"name": "a", "image": "x",
                "args": [], "stdin": false, "env": [{"name": "x", "value": ""}]}]}}}),
        );
        assert!(unknown.is_empty());
        assert_eq!(
            template["template"],
            json!({"metadata": {}, "spec": {"containers": [
                {"name": "a", "image": "x", "env": [{"name": "x"}], "resources": {}}]}})
        );
    }

    #[test]
    fn values_of_pointers_stay_even_when_they_are_zero() {
        let (set, _) = decoded("StatefulSet", json!({"metadata": {}, "spec": {"replicas": 0}}));
        assert_eq!(set["spec"]["replicas"], 0);
        assert_eq!(set["status"], json!({"replicas": 0, "availableReplicas": 0}));
    }

    #[test]
    fn an_event_is_written_with_its_null_times() {
        let (event, _) = decoded("Event", json!({"metadata": {"name": "x"}, "involvedObject": {}}));
        assert_eq!(
            event,
            json!({"metadata": {"name": "x"}, "involvedObject": {}, "source": {}, "firstTimestamp": null,
                "lastTimestamp": null, "eventTime": null, "reportingComponent": "", "reportingInstance": ""})
        );
    }

    #[test]
    fn unknown_fields_are_removed_and_named() {
        let (template, unknown) = decoded(
            "PodTemplate",
            json!({"metadata": {"name": "x"}, "foo": 1,
                "template": {"spec": {"foo": 1, "containers": [{"name": "a", "bar": "x"}]}}}),
        );
        let mut unknown = unknown;
        unknown.sort();
        assert_eq!(unknown, ["foo", "template.spec.containers[0].bar", "template.spec.foo"]);
        assert_eq!(template.pointer("/template/spec/foo"), None);
    }

    #[test]
    fn wrong_types_are_refused_in_the_words_of_the_decoder() {
        for (template, text) in [
            (
                json!({"spec": {"containers": [{"name": "a", "image": 1}]}}),
                "json: cannot unmarshal number into Go struct field Container.template.spec.containers.image of type string",
            ),
            (
                json!({"spec": {"containers": [{"ports": [{"containerPort": "80"}]}]}}),
                "json: cannot unmarshal string into Go struct field ContainerPort.template.spec.containers.ports.containerPort of type int32",
            ),
            (
                json!({"spec": {"containers": {}}}),
                "json: cannot unmarshal object into Go struct field PodSpec.template.spec.containers of type []v1.Container",
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "json: cannot unmarshal number into Go struct field ObjectMeta.template.metadata.labels of type string",
            ),
            (
                json!({"spec": {"terminationGracePeriodSeconds": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field PodSpec.template.spec.terminationGracePeriodSeconds of type int64",
            ),
            (
                json!({"spec": {"containers": [{"livenessProbe": {"httpGet": {"port": true}}}]}}),
                "json: cannot unmarshal bool into Go struct field HTTPGetAction.template.spec.containers.livenessProbe.httpGet.port of type int32",
            ),
            (json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1zz"}}}]}}), QUANTITY_SYNTAX),
        ] {
            assert_eq!(refused(template), format!("{PREFIX}{text}"));
        }
    }

    #[test]
    fn reading_twice_changes_nothing_more() {
        let (once, _) =
            decoded("Pod", json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1000m"}}}]}}));
        assert_eq!(once.pointer("/spec/containers/0/resources/limits/cpu"), Some(&json!("1")));
        let (twice, _) = decoded("Pod", once.clone());
        assert_eq!(once, twice);
    }
}
