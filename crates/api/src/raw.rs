//! JSON of any shape, such as a pod template, as it is held in memory.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// JSON kept as its text, without spaces: a tree of it takes ten times the memory. It is read where it is needed, and no
/// tree is built on the way from and to the wire. Equal is what means the same, whatever the order of its fields.
#[derive(Clone)]
pub struct RawJson(Arc<str>);

impl RawJson {
    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The value.
    pub fn read(&self) -> Value {
        // Only values make such a text.
        self.read_as().unwrap_or_default()
    }

    /// The value as a type, which skips what it does not know.
    ///
    /// # Errors
    /// It has another shape.
    pub fn read_as<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(&self.0)
    }
}

impl Default for RawJson {
    fn default() -> Self {
        Self(Arc::from("null"))
    }
}

impl From<&Value> for RawJson {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into())
    }
}

impl From<Value> for RawJson {
    fn from(value: Value) -> Self {
        Self::from(&value)
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.read() == other.read()
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut from = serde_json::Deserializer::from_str(&self.0);
        serde_transcode::transcode(&mut from, to).map_err(S::Error::custom)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut text = Vec::new();
        serde_transcode::transcode(from, &mut serde_json::Serializer::new(&mut text))
            .map_err(D::Error::custom)?;
        String::from_utf8(text).map(|text| Self(text.into())).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Deserialize, Serialize)]
    struct Holder {
        template: RawJson,
    }

    /// Found by content, not by tag: its fields are buffered before they are read.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Buffered {
        Held(Holder),
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9..1e9_f64).prop_map(Value::from),
            "[ -~é\"\\\\\n\u{1}]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z\"]{0,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(value in any_json()) {
            let wire = json!({"template": value.clone()});
            let [text, pretty] = [serde_json::to_string(&wire), serde_json::to_string_pretty(&wire)].map(Result::unwrap);
            for holder in [
                serde_json::from_str::<Holder>(&text).unwrap(),
                serde_json::from_str::<Holder>(&pretty).unwrap(),
                serde_json::from_slice::<Holder>(text.as_bytes()).unwrap(),
                serde_json::from_value::<Holder>(wire.clone()).unwrap(),
                { let Buffered::Held(holder) = serde_json::from_str(&text).unwrap(); holder },
                Holder { template: RawJson::from(&value) },
            ] {
                prop_assert_eq!(holder.template.read(), value.clone());
                prop_assert_eq!(holder.template.text(), value.to_string());
                prop_assert_eq!(serde_json::to_string(&holder).unwrap(), text.clone());
                prop_assert_eq!(serde_json::to_value(&holder).unwrap(), wire.clone());
            }
        }
    }

    #[test]
    fn the_order_of_fields_and_spaces_mean_nothing() {
        let read = |text: &str| serde_json::from_str::<RawJson>(text).unwrap();
        assert_eq!(read(r#"{"b": [1, 2], "a": null}"#), read(r#"{"a":null,"b":[1,2]}"#));
        assert_ne!(read(r#"{"a":[1,2]}"#), read(r#"{"a":[2,1]}"#));
        assert_eq!(read("\n { \"a\" : [ ] } ").text(), r#"{"a":[]}"#);
        assert_eq!(RawJson::default(), read("null"));
    }

    #[test]
    fn it_can_be_read_as_a_type_that_knows_less() {
        #[derive(Deserialize)]
        struct Part {
            a: u8,
        }
        let raw = RawJson::from(json!({"a": 1, "b": {"c": []}}));
        assert_eq!(raw.read_as::<Part>().unwrap().a, 1);
        assert!(RawJson::from(json!({"a": "1"})).read_as::<Part>().is_err());
    }
}
