//! Sets of fields, as `managedFields` keep them (FieldsV1).

use std::collections::{BTreeMap, btree_map::Entry};

use serde_json::{Map, Value};

/// One step of a path in its FieldsV1 form: `f:name`, `k:{"name":"a"}`, `v:"x"` or `i:0`.
pub(super) type Step = Box<str>;

/// A set of fields of an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FieldSet {
    nodes: BTreeMap<Step, Node>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Node {
    /// The set has the field itself.
    member: bool,
    below: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl FieldSet {
    /// Reads the FieldsV1 form; `None` if it is not one.
    pub fn parse(fields: &Value) -> Option<Self> {
        Self::parse_object(fields.as_object()?)
    }

    fn parse_object(fields: &Map<String, Value>) -> Option<Self> {
        let mut set = Self::default();
        for (step, inner) in fields.iter().filter(|(step, _)| *step != ".") {
            let inner = inner.as_object()?;
            let member = inner.is_empty() || inner.contains_key(".");
            let below = Self::parse_object(inner)?;
            if known(step) {
                set.nodes.insert(canonical(step)?, Node { member, below });
            }
        }
        Some(set)
    }

    /// The FieldsV1 form.
    pub fn render(&self) -> Value {
        Value::Object(self.render_object())
    }

    fn render_object(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        for (step, node) in &self.nodes {
            let mut inner = node.below.render_object();
            if node.member && !inner.is_empty() {
                inner.insert(".".to_owned(), Value::Object(Map::new()));
            }
            fields.insert(step.to_string(), Value::Object(inner));
        }
        fields
    }

    /// True if no field is in the set.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds the field at a path; the empty path is the whole object, which no set has.
    pub(super) fn insert(&mut self, path: &[Step]) {
        match path {
            [] => {}
            [last] => self.nodes.entry(last.clone()).or_default().member = true,
            [step, rest @ ..] => self.nodes.entry(step.clone()).or_default().below.insert(rest),
        }
    }

    /// True if the step itself is in the set.
    pub(super) fn has_member(&self, step: &str) -> bool {
        self.nodes.get(step).is_some_and(|node| node.member)
    }

    /// What the set has below a step.
    pub(super) fn below(&self, step: &str) -> Option<&Self> {
        self.nodes.get(step).map(|node| &node.below).filter(|below| !below.is_empty())
    }

    /// Steps of this level with what is below them.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&Step, &Self)> {
        self.nodes.iter().map(|(step, node)| (step, &node.below))
    }

    /// Makes the step itself a field of the set.
    pub(super) fn add_member(&mut self, step: &Step) {
        self.nodes.entry(step.clone()).or_default().member = true;
    }

    /// Puts a set below a step.
    pub(super) fn put_below(&mut self, step: &Step, below: Self) {
        if !below.is_empty() {
            self.nodes.entry(step.clone()).or_default().below = below;
        }
    }

    /// Fields of either set.
    pub(super) fn union(mut self, other: &Self) -> Self {
        self.absorb(other);
        self
    }

    fn absorb(&mut self, other: &Self) {
        for (step, theirs) in &other.nodes {
            match self.nodes.entry(step.clone()) {
                Entry::Vacant(place) => {
                    place.insert(theirs.clone());
                }
                Entry::Occupied(mut ours) => {
                    let ours = ours.get_mut();
                    ours.member |= theirs.member;
                    ours.below.absorb(&theirs.below);
                }
            }
        }
    }

    /// Fields of both sets.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mut nodes = BTreeMap::new();
        for (step, ours) in &self.nodes {
            if let Some(theirs) = other.nodes.get(step) {
                let node = Node {
                    member: ours.member && theirs.member,
                    below: ours.below.intersection(&theirs.below),
                };
                if !node.is_empty() {
                    nodes.insert(step.clone(), node);
                }
            }
        }
        Self { nodes }
    }

    /// Fields of this set that the other does not have; a field stays if only its parent is in the other.
    pub(super) fn without(mut self, other: &Self) -> Self {
        self.remove(other);
        self
    }

    fn remove(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        self.nodes.retain(|step, ours| {
            if let Some(theirs) = other.nodes.get(step) {
                ours.member &= !theirs.member;
                ours.below.remove(&theirs.below);
            }
            !ours.is_empty()
        });
    }

    /// Drops the fields at a path and all below it.
    pub(super) fn prune(&mut self, path: &[&str]) {
        let [step, rest @ ..] = path else { return };
        if rest.is_empty() {
            self.nodes.remove(*step);
        } else if let Some(node) = self.nodes.get_mut(*step) {
            node.below.prune(rest);
            if node.is_empty() {
                self.nodes.remove(*step);
            }
        }
    }

    /// All paths as the API server prints them (`.spec.containers[name="a"].image`), parents' members first.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, at: &str, into: &mut Vec<String>) {
        let members = self.nodes.iter().filter(|(_, node)| node.member);
        into.extend(members.map(|(step, _)| format!("{at}{}", step_text(step))));
        for (step, node) in &self.nodes {
            node.below.collect(&format!("{at}{}", step_text(step)), into);
        }
    }
}

/// Steps of sorts that nobody knows are skipped.
fn known(step: &str) -> bool {
    step.split_once(':').is_none_or(|(sort, _)| matches!(sort, "f" | "i" | "k" | "v"))
}

/// A step in the form this module makes: keys sorted, no spaces. `None` if malformed.
fn canonical(step: &str) -> Option<Step> {
    let (sort, content) = step.split_once(':')?;
    Some(match sort {
        "i" => format!("i:{}", content.parse::<i64>().ok()?).into(),
        "k" | "v" => format!("{sort}:{}", serde_json::from_str::<Value>(content).ok()?).into(),
        _ => step.into(),
    })
}

/// A step as paths in messages show it.
pub(super) fn step_text(step: &str) -> String {
    let (sort, content) = step.split_once(':').unwrap_or(("f", step));
    match sort {
        "f" => format!(".{content}"),
        "v" => format!("[={content}]"),
        "k" => {
            let fields: Map<String, Value> = serde_json::from_str(content).unwrap_or_default();
            let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", fields.join(","))
        }
        _ => format!("[{content}]"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            "f:[a-d]",
            Just(r#"k:{"containerPort":80,"protocol":"TCP"}"#.to_owned()),
            Just(r#"k:{"name":"a"}"#.to_owned()),
            Just(r#"v:"x/y""#.to_owned()),
            Just("i:3".to_owned()),
        ]
        .prop_map(Step::from)
    }

    pub(crate) fn any_set() -> impl Strategy<Value = FieldSet> {
        prop::collection::vec(prop::collection::vec(any_step(), 1..4), 0..12).prop_map(|paths| {
            let mut set = FieldSet::default();
            for path in paths {
                set.insert(&path);
            }
            set
        })
    }

    #[test]
    fn members_with_fields_below_carry_a_dot() {
        let json =
            json!({"f:data": {".": {}, "f:x": {}}, "f:spec": {"f:ports": {"k:{\"port\":80}": {".": {}}}}});
        let set = FieldSet::parse(&json).unwrap();
        assert!(set.has_member("f:data") && set.below("f:data").unwrap().has_member("f:x"));
        assert!(!set.has_member("f:spec"));
        assert_eq!(set.paths(), [".data", ".data.x", ".spec.ports[port=80]"]);
    }

    #[test]
    fn foreign_spellings_of_keys_are_the_same_field() {
        let ours = FieldSet::parse(&json!({"f:a": {"k:{\"name\":\"x\",\"port\":1}": {}}})).unwrap();
        let theirs =
            FieldSet::parse(&json!({"f:a": {"k:{ \"port\": 1, \"name\": \"x\" }": {}}, "z:unknown": {}}))
                .unwrap();
        assert_eq!(ours, theirs);
        assert!(FieldSet::parse(&json!({"nonsense": {}})).is_none());
        assert!(FieldSet::parse(&json!({"f:a": 1})).is_none());
    }

    proptest! {
        #[test]
        fn what_is_rendered_parses_to_the_same_set(set in any_set()) {
            prop_assert_eq!(FieldSet::parse(&set.render()), Some(set));
        }

        #[test]
        fn sets_obey_the_laws_of_sets(a in any_set(), b in any_set()) {
            let both = a.clone().union(&b);
            prop_assert_eq!(&both, &b.clone().union(&a));
            prop_assert_eq!(&both.clone().without(&b), &a.clone().without(&b));
            prop_assert_eq!(a.intersection(&b).union(&a.clone().without(&b)), a.clone());
            prop_assert!(a.clone().without(&both).is_empty());
        }
    }
}
