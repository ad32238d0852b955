//! Cuts a list that arrives in pieces into its objects, so that no page is ever held as a whole.

/// The state between two pieces of a list as the API server sends it: a JSON object with one array, `items`.
#[derive(Debug, Default)]
pub(super) struct Items {
    text: Text,
    /// Brackets that are open.
    depth: usize,
    /// The bracket opened last in the outermost object is that of an array.
    in_array: bool,
    in_object: bool,
    /// What has come of the object that is on its way.
    object: Vec<u8>,
    /// Everything else, with `null` in place of each object.
    rest: Vec<u8>,
}

/// Whether brackets count.
#[derive(Clone, Copy, Debug, Default)]
enum Text {
    #[default]
    Outside,
    Inside,
    /// After a backslash.
    Escaped,
}

impl Items {
    /// Takes in the next piece and hands on each object that is complete with it.
    ///
    /// # Errors
    /// What `each` answers; nothing may be fed after one.
    pub(super) fn feed<E>(
        &mut self,
        piece: &[u8],
        each: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // What belongs to nothing yet, and how much of it has been read.
        let (mut left, mut read) = (piece, 0);
        for byte in piece {
            read += 1;
            self.text = match (self.text, byte) {
                (Text::Inside, b'\\') => Text::Escaped,
                (Text::Outside, b'"') | (Text::Escaped, _) => Text::Inside,
                (Text::Inside, b'"') => Text::Outside,
                (unchanged, _) => unchanged,
            };
            match (self.text, byte) {
                (Text::Outside, b'{' | b'[') => {
                    if self.depth == 1 {
                        self.in_array = *byte == b'[';
                    } else if self.depth == 2 && self.in_array && *byte == b'{' {
                        let (before, object) = left.split_at(read - 1);
                        self.rest.extend_from_slice(before);
                        self.rest.extend_from_slice(b"null");
                        self.in_object = true;
                        (left, read) = (object, 1);
                    }
                    self.depth += 1;
                }
                (Text::Outside, b'}' | b']') => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.in_object && self.depth == 2 {
                        let (last, after) = left.split_at(read);
                        if self.object.is_empty() {
                            each(last)?;
                        } else {
                            self.object.extend_from_slice(last);
                            each(&self.object)?;
                            self.object.clear();
                        }
                        self.in_object = false;
                        (left, read) = (after, 0);
                    }
                }
                _ => {}
            }
        }
        let kept = if self.in_object { &mut self.object } else { &mut self.rest };
        kept.extend_from_slice(left);
        Ok(())
    }

    /// The list without its objects. It is no JSON if the list was cut short.
    pub(super) fn rest(&self) -> &[u8] {
        &self.rest
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// The objects of a list that comes in pieces of this size, and what is left.
    fn cut(list: &str, size: usize) -> (Vec<String>, String) {
        let (mut items, mut objects) = (Items::default(), Vec::new());
        for piece in list.as_bytes().chunks(size) {
            let each: &mut dyn FnMut(&[u8]) -> Result<(), Infallible> = &mut |object| {
                objects.push(String::from_utf8(object.to_vec()).unwrap());
                Ok(())
            };
            items.feed(piece, each).unwrap();
        }
        (objects, String::from_utf8(items.rest().to_vec()).unwrap())
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            r#"[\[\]{}",:\\aé\n]{0,6}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((r#"[\[\]{}",\\a]{0,3}"#, inner), 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn objects_are_the_same_in_whatever_pieces_they_come(
            objects in prop::collection::vec(value().prop_map(|value| json!({"spec": value})), 0..5),
            meta in value(),
            pretty in any::<bool>(),
            last in any::<bool>(),
            size in 1_usize..40,
        ) {
            let list = if last {
                json!({"metadata": {"a": meta}, "items": objects})
            } else {
                json!({"items": objects, "metadata": {"a": meta}})
            };
            let text = if pretty { serde_json::to_string_pretty(&list) } else { serde_json::to_string(&list) };
            let (cut, rest) = cut(&text.unwrap(), size);
            let cut: Vec<Value> = cut.iter().map(|object| serde_json::from_str(object).unwrap()).collect();
            prop_assert_eq!(cut, objects.clone());
            let rest: Value = serde_json::from_str(&rest).unwrap();
            prop_assert_eq!(&rest["metadata"], &list["metadata"]);
            prop_assert_eq!(&rest["items"], &json!(vec![Value::Null; objects.len()]));
        }

        #[test]
        fn whatever_is_sent_in_place_of_a_list_is_survived(text in any::<Vec<u8>>(), brackets in r#"[\[\]{}"\\]{0,40}"#) {
            let mut items = Items::default();
            let each: &mut dyn FnMut(&[u8]) -> Result<(), Infallible> = &mut |_| Ok(());
            items.feed(brackets.as_bytes(), each).unwrap();
            items.feed(&text, each).unwrap();
        }
    }

    #[test]
    fn a_list_that_is_cut_short_is_no_json() {
        let text =
            json!({"metadata": {"resourceVersion": "7"}, "items": [{"a": 1}, {"b": [{}]}]}).to_string();
        assert!(serde_json::from_str::<Value>(&cut(&text, 9).1).is_ok());
        for end in 0..text.len() {
            assert!(serde_json::from_str::<Value>(&cut(&text[..end], 9).1).is_err(), "{}", &text[..end]);
        }
    }

    #[test]
    fn an_empty_list_is_an_array_or_null() {
        for text in [r#"{"items":[],"metadata":{}}"#, r#"{"items":null,"metadata":{}}"#] {
            assert_eq!(cut(text, 3), (vec![], text.to_owned()));
        }
    }
}
