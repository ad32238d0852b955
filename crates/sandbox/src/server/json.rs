//! JSON with an eye on fields that are given twice, of which `serde_json` silently takes the last.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Parses a document; with it come the paths of fields given more than once, as `spec.list[0].name`.
///
/// # Errors
/// What `serde_json` says of text that is no JSON.
pub(crate) fn parse(bytes: &[u8]) -> serde_json::Result<(Value, Vec<String>)> {
    let twice = Cell::new(false);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Plain(&twice).deserialize(&mut reader)?;
    reader.end()?;
    if !twice.get() {
        return Ok((value, Vec::new()));
    }
    // Paths are worth their cost only when there is something to tell.
    let found = RefCell::default();
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Traced { path: String::new(), found: &found }.deserialize(&mut reader)?;
    Ok((value, found.into_inner()))
}

/// Builds a value and notes whether a field came twice.
#[derive(Clone, Copy)]
struct Plain<'a>(&'a Cell<bool>);

impl<'de> DeserializeSeed<'de> for Plain<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Plain<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(self)?;
            if map.insert(name, value).is_some() {
                self.0.set(true);
            }
        }
        Ok(Value::Object(map))
    }
}

/// Reads a document for the paths of its repeated fields only.
struct Traced<'a> {
    path: String,
    found: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Traced<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Traced<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        while items
            .next_element_seed(Traced { path: format!("{}[{index}]", self.path), found: self.found })?
            .is_some()
        {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut seen = std::collections::HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            if !seen.insert(name) {
                let mut found = self.found.borrow_mut();
                if !found.contains(&path) {
                    found.push(path.clone());
                }
            }
            fields.next_value_seed(Traced { path, found: self.found })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_given_twice_is_named_and_the_last_counts() {
        let text = br#"{"a": 1, "spec": {"x": [{"b": 1, "b": -2.5}], "y": null, "y": true}, "a": "z"}"#;
        let (value, twice) = parse(text).unwrap();
        assert_eq!(value, json!({"a": "z", "spec": {"x": [{"b": -2.5}], "y": true}}));
        assert_eq!(twice, ["spec.x[0].b", "spec.y", "a"]);
    }

    #[test]
    fn plain_documents_read_as_serde_reads_them() {
        for text in [&b"[1, -1, 1.5, \"\\u00e4\", {}, []]"[..], b"null", b"18446744073709551615", b"{"] {
            let expected = serde_json::from_slice::<Value>(text);
            match parse(text) {
                Ok((value, twice)) => assert_eq!((value, twice.len()), (expected.unwrap(), 0)),
                Err(error) => assert_eq!(error.to_string(), expected.unwrap_err().to_string()),
            }
        }
    }
}
