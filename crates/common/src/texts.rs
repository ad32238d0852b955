//! Texts by name, such as the labels of an object: a sorted list, which costs a fraction of a tree.

use std::fmt;
use std::sync::Arc;

use crate::selector::LabelSource;

type Pair = (Arc<str>, Arc<str>);

/// A small map of texts, made once and read often.
#[derive(Clone, Default, Eq, Hash, PartialEq)]
pub struct Texts(Box<[Pair]>); // sorted by key, each key once

impl Texts {
    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(key))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        self.find(key).ok().and_then(|at| self.0.get(at)).map(|(_, value)| value)
    }

    /// True if the key is there.
    pub fn contains_key(&self, key: &str) -> bool {
        self.find(key).is_ok()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|(key, _)| key)
    }

    /// Sets a key and returns the value it had: the list is made anew, so this is not for hot paths.
    pub fn insert(&mut self, key: Arc<str>, value: Arc<str>) -> Option<Arc<str>> {
        match self.find(&key) {
            Ok(at) => self.0.get_mut(at).map(|(_, old)| std::mem::replace(old, value)),
            Err(at) => {
                let mut pairs = std::mem::take(&mut self.0).into_vec();
                pairs.insert(at, (key, value));
                self.0 = pairs.into();
                None
            }
        }
    }

    /// Removes a key and returns the value it had: not for hot paths either.
    pub fn remove(&mut self, key: &str) -> Option<Arc<str>> {
        let at = self.find(key).ok()?;
        let mut pairs = std::mem::take(&mut self.0).into_vec();
        let (_, value) = pairs.remove(at);
        self.0 = pairs.into();
        Some(value)
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl FromIterator<Pair> for Texts {
    fn from_iter<T: IntoIterator<Item = Pair>>(pairs: T) -> Self {
        let mut pairs: Vec<Pair> = pairs.into_iter().collect();
        // Of equal keys the last one counts, as in every map.
        pairs.reverse();
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pairs.dedup_by(|(later, _), (kept, _)| later == kept);
        Self(pairs.into())
    }
}

impl<const N: usize> From<[Pair; N]> for Texts {
    fn from(pairs: [Pair; N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl Extend<Pair> for Texts {
    fn extend<T: IntoIterator<Item = Pair>>(&mut self, pairs: T) {
        let old = std::mem::take(&mut self.0).into_vec();
        *self = old.into_iter().chain(pairs).collect();
    }
}

impl LabelSource for Texts {
    fn value_of(&self, key: &str) -> Option<&str> {
        self.get(key).map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_behaves_like_a_map(
            steps in prop::collection::vec(("[a-c]{0,2}", prop::option::of("[xy]")), 0..20),
            cut in 0_usize..20,
        ) {
            let pair = |key: &str, value: &str| (Arc::from(key), Arc::from(value));
            let (first, rest) = steps.split_at(cut.min(steps.len()));
            let given = || first.iter().filter_map(|(key, value)| Some(pair(key, value.as_deref()?)));
            let (mut texts, mut map) = (given().collect::<Texts>(), given().collect::<BTreeMap<_, _>>());
            for (key, value) in rest {
                let (a, b) = match value {
                    Some(value) => {
                        let (key, value) = pair(key, value);
                        (texts.insert(key.clone(), value.clone()), map.insert(key, value))
                    }
                    None => (texts.remove(key), map.remove(key.as_str())),
                };
                prop_assert_eq!(a, b);
                prop_assert_eq!(texts.get(key), map.get(key.as_str()));
                prop_assert_eq!(texts.contains_key(key), map.contains_key(key.as_str()));
            }
            prop_assert!(texts.iter().eq(map.iter()));
            prop_assert_eq!(texts.len(), map.len());
            texts.extend(given());
            map.extend(given());
            prop_assert!(texts.iter().eq(map.iter()));
        }
    }
}
