//! The shape of a type: which fields it has, which lists are sets or maps, which objects are one value.
//!
//! Server-side apply and strategic merge ask it; it is read from a compact table for built-in kinds (`types.txt`) and from
//! the OpenAPI schema for custom ones.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use serde_json::Value;

/// Handle of a [`Shape`]'s node.
type Id = u32;

/// A value of any shape: lists are atomic, objects are maps of the same.
const ANY: Id = 0;

/// The type of one kind.
#[derive(Clone, Debug)]
pub struct Shape {
    nodes: Arc<Vec<Node>>,
    root: Id,
}

/// A place in a [`Shape`].
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    nodes: &'a [Node],
    id: Id,
}

#[derive(Clone, Debug)]
enum Node {
    Any,
    Scalar(Scalar),
    Struct { fields: HashMap<Box<str>, Field>, rest: Option<Id>, atomic: bool },
    Map { of: Id, atomic: bool },
    List { of: Id, kind: ListKind },
}

#[derive(Clone, Debug)]
struct Field {
    id: Id,
    strategy: Strategy,
    /// The typed object always has the field, empty or not.
    always: bool,
}

/// How strategic merge treats a field.
#[derive(Clone, Debug, Default)]
pub(super) struct Strategy {
    /// Lists are merged (by the key, or as sets of scalars) instead of replaced.
    pub(super) merge: bool,
    /// Objects are replaced instead of merged.
    pub(super) replace: bool,
    /// The field that tells the elements of a list apart.
    pub(super) key: Option<Box<str>>,
}

/// JSON types a scalar may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scalar {
    /// Text.
    String,
    /// A number without fraction.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// Text or integer, or not known.
    Untyped,
}

/// How the elements of a list are told apart.
#[derive(Clone, Debug)]
pub(super) enum ListKind {
    /// They are not: the list is one value.
    Atomic,
    /// By their value.
    Set,
    /// By these fields and the values that stand for absent ones.
    Keyed(Vec<(Box<str>, Option<Value>)>),
}

/// What a [`View`] looks at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form<'a> {
    Any,
    Scalar(Scalar),
    /// An object; atomic ones are one value.
    Object {
        atomic: bool,
    },
    List(&'a ListKind),
}

impl Shape {
    /// The shape of a built-in kind; `None` for kinds that are not built in.
    pub fn builtin(group: &str, version: &str, kind: &str) -> Option<Self> {
        let table = table();
        let name =
            if group.is_empty() { format!("{version}/{kind}") } else { format!("{group}/{version}/{kind}") };
        table.kinds.get(name.as_str()).map(|root| Self { nodes: Arc::clone(&table.nodes), root: *root })
    }

    /// The shape of a custom kind, from the `openAPIV3Schema` of one of its versions.
    pub fn custom(schema: &Value) -> Self {
        let mut builder = Builder { nodes: vec![Node::Any], taken: HashMap::new() };
        let root = builder.schema(schema);
        builder.add_object_fields(root);
        Self { root, nodes: Arc::new(builder.nodes) }
    }

    /// The shape of a kind nothing is known about.
    pub fn unknown() -> Self {
        Self::custom(&Value::Null)
    }

    /// The root.
    pub fn view(&self) -> View<'_> {
        View { nodes: &self.nodes, id: self.root }
    }
}

impl<'a> View<'a> {
    fn node(self) -> &'a Node {
        usize::try_from(self.id).ok().and_then(|id| self.nodes.get(id)).unwrap_or(&Node::Any)
    }

    const fn at(self, id: Id) -> Self {
        Self { nodes: self.nodes, id }
    }

    /// Any shape.
    pub(super) const fn any(self) -> Self {
        self.at(ANY)
    }

    pub(super) fn form(self) -> Form<'a> {
        match self.node() {
            Node::Any => Form::Any,
            Node::Scalar(scalar) => Form::Scalar(*scalar),
            Node::Struct { atomic, .. } | Node::Map { atomic, .. } => Form::Object { atomic: *atomic },
            Node::List { kind, .. } => Form::List(kind),
        }
    }

    /// The shape of a field; `None` if the type has no such field.
    pub(super) fn field(self, name: &str) -> Option<Self> {
        match self.node() {
            Node::Any => Some(self.at(ANY)),
            Node::Struct { fields, rest, .. } => {
                fields.get(name).map(|field| field.id).or(*rest).map(|id| self.at(id))
            }
            Node::Map { of, .. } => Some(self.at(*of)),
            Node::Scalar(_) | Node::List { .. } => None,
        }
    }

    /// True if the type names the field, as opposed to the keys of a map.
    pub(super) fn declares(self, name: &str) -> bool {
        matches!(self.node(), Node::Struct { fields, .. } if fields.contains_key(name))
    }

    /// True if the typed object always has the field, even where JSON omits it.
    pub(super) fn always(self, name: &str) -> bool {
        matches!(self.node(), Node::Struct { fields, .. } if fields.get(name).is_some_and(|field| field.always))
    }

    /// The shape of a list's elements.
    pub(super) fn element(self) -> Self {
        match self.node() {
            Node::List { of, .. } => self.at(*of),
            _ => self.at(ANY),
        }
    }

    /// How strategic merge treats a field.
    pub(super) fn strategy(self, name: &str) -> Strategy {
        match self.node() {
            Node::Struct { fields, .. } => {
                fields.get(name).map(|field| field.strategy.clone()).unwrap_or_default()
            }
            _ => Strategy::default(),
        }
    }
}

/// The built-in types.
struct Table {
    nodes: Arc<Vec<Node>>,
    kinds: HashMap<Box<str>, Id>,
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| read_table(include_str!("types.txt")))
}

fn read_table(text: &str) -> Table {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let heads = lines.iter().map(|line| line.split(' ').next().unwrap_or_default());
    let mut names = HashMap::new();
    let mut kinds = HashMap::new();
    for (at, head) in heads.enumerate() {
        let id = at as Id + 1;
        let (name, kind) = head.split_once('=').map_or((head, None), |(name, kind)| (name, Some(kind)));
        names.insert(name.trim_start_matches('*'), id);
        kinds.extend(kind.map(|kind| (Box::from(kind), id)));
    }
    let mut nodes = vec![Node::Any; lines.len() + 1];
    let mut known = HashMap::new();
    for (at, line) in lines.iter().enumerate() {
        let mut reader = TypeReader { names: &names, known: &mut known, nodes: &mut nodes };
        let node = reader.line(line);
        if let Some(place) = nodes.get_mut(at + 1) {
            *place = node;
        }
    }
    Table { nodes: Arc::new(nodes), kinds }
}

struct TypeReader<'t, 'a> {
    names: &'t HashMap<&'a str, Id>,
    /// Type codes that have a node already: `[s` is the same everywhere.
    known: &'t mut HashMap<&'a str, Id>,
    nodes: &'t mut Vec<Node>,
}

impl<'a> TypeReader<'_, 'a> {
    fn line(&mut self, line: &'a str) -> Node {
        let mut words = line.split(' ');
        let atomic = words.next().is_some_and(|head| head.starts_with('*'));
        let fields = words.filter_map(|word| word.split_once(':')).map(|(name, rest)| {
            let (name, always) = name.strip_suffix('+').map_or((name, false), |name| (name, true));
            (name.into(), Field { always, ..self.field(rest) })
        });
        Node::Struct { fields: fields.collect(), rest: None, atomic }
    }

    fn field(&mut self, code: &'a str) -> Field {
        let (code, key) = code.split_once('~').map_or((code, None), |(code, key)| (code, Some(key.into())));
        let (code, flags) = code.split_once('!').unwrap_or((code, ""));
        let strategy = Strategy { merge: flags.contains('m'), replace: flags.contains('r'), key };
        Field { id: self.code(code), strategy, always: false }
    }

    fn code(&mut self, code: &'a str) -> Id {
        if let Some(id) = self.names.get(code).or_else(|| self.known.get(code)) {
            return *id;
        }
        let node = self.node(code);
        self.nodes.push(node);
        let id = self.nodes.len() as Id - 1;
        self.known.insert(code, id);
        id
    }

    fn node(&mut self, code: &'a str) -> Node {
        match code {
            "s" => return Node::Scalar(Scalar::String),
            "i" => return Node::Scalar(Scalar::Integer),
            "n" => return Node::Scalar(Scalar::Number),
            "b" => return Node::Scalar(Scalar::Boolean),
            "x" => return Node::Scalar(Scalar::Untyped),
            "@" => return Node::Any,
            _ => {}
        }
        if let Some(atomic) = code.strip_prefix('*') {
            let of = atomic.strip_prefix('{').map_or(ANY, |of| self.code(of));
            return Node::Map { of, atomic: true };
        }
        if let Some(of) = code.strip_prefix('{') {
            return Node::Map { of: self.code(of), atomic: false };
        }
        let Some((keys, of)) = code.split_once('[') else { return Node::Any };
        let kind = match keys {
            "" => ListKind::Atomic,
            "=" => ListKind::Set,
            keys => ListKind::Keyed(keys.split(',').map(builtin_key).collect()),
        };
        Node::List { of: self.code(of), kind }
    }
}

/// A key of a built-in list. An absent one reads as its zero value, as in the typed objects of Kubernetes.
fn builtin_key(code: &str) -> (Box<str>, Option<Value>) {
    let (name, default) = code.split_once('=').unwrap_or((code, ""));
    let default =
        if matches!(name, "port" | "containerPort") { Value::from(0) } else { Value::from(default) };
    (name.into(), Some(default))
}

struct Builder {
    nodes: Vec<Node>,
    /// Built-in types that were taken over, with their ids here.
    taken: HashMap<Id, Id>,
}

impl Builder {
    fn push(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        self.nodes.len() as Id - 1
    }

    fn schema(&mut self, schema: &Value) -> Id {
        let node = self.node(schema);
        let id = self.push(node);
        if flag(schema, "x-kubernetes-embedded-resource") {
            self.add_object_fields(id);
        }
        id
    }

    fn node(&mut self, schema: &Value) -> Node {
        if flag(schema, "x-kubernetes-int-or-string") {
            return Node::Scalar(Scalar::Untyped);
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("string") => Node::Scalar(Scalar::String),
            Some("integer") => Node::Scalar(Scalar::Integer),
            Some("number") => Node::Scalar(Scalar::Number),
            Some("boolean") => Node::Scalar(Scalar::Boolean),
            Some("array") => self.list(schema),
            Some("object") => self.object(schema),
            _ => Node::Any,
        }
    }

    fn list(&mut self, schema: &Value) -> Node {
        let items = schema.get("items").unwrap_or(&Value::Null);
        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        let default = |key: &str| items.get("properties")?.get(key)?.get("default").cloned();
        let kind = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => ListKind::Set,
            Some("map") => ListKind::Keyed(
                keys.into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(|key| (key.into(), default(key)))
                    .collect(),
            ),
            _ => ListKind::Atomic,
        };
        Node::List { of: self.schema(items), kind }
    }

    fn object(&mut self, schema: &Value) -> Node {
        let atomic = schema.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic");
        if let Some(of) = schema.get("additionalProperties").filter(|of| of.is_object()) {
            return Node::Map { of: self.schema(of), atomic };
        }
        let open = flag(schema, "x-kubernetes-preserve-unknown-fields");
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return Node::Map { of: ANY, atomic };
        };
        let fields = properties.iter().map(|(name, schema)| {
            (
                name.as_str().into(),
                Field { id: self.schema(schema), strategy: Strategy::default(), always: false },
            )
        });
        Node::Struct { fields: fields.collect(), rest: open.then_some(ANY), atomic }
    }

    /// Takes a type over from the built-in ones, with all it leads to.
    fn take(&mut self, id: Id) -> Id {
        if let Some(id) = self.taken.get(&id) {
            return *id;
        }
        let here = self.push(Node::Any);
        self.taken.insert(id, here);
        let node = match (View { nodes: &table().nodes, id }).node().clone() {
            Node::Struct { mut fields, rest, atomic } => {
                for field in fields.values_mut() {
                    field.id = self.take(field.id);
                }
                Node::Struct { fields, rest: rest.map(|id| self.take(id)), atomic }
            }
            Node::Map { of, atomic } => Node::Map { of: self.take(of), atomic },
            Node::List { of, kind } => Node::List { of: self.take(of), kind },
            node => node,
        };
        if let Some(place) = usize::try_from(here).ok().and_then(|here| self.nodes.get_mut(here)) {
            *place = node;
        }
        here
    }

    /// Gives a node the fields that every object has.
    fn add_object_fields(&mut self, id: Id) {
        let scalar = self.push(Node::Scalar(Scalar::String));
        let object = table().kinds.get("v1/ConfigMap").map(|root| View { nodes: &table().nodes, id: *root });
        let metadata =
            object.and_then(|object| object.field("metadata")).map(|metadata| self.take(metadata.id));
        let Some(node) = usize::try_from(id).ok().and_then(|id| self.nodes.get_mut(id)) else { return };
        if !matches!(node, Node::Struct { .. }) {
            *node = Node::Struct { fields: HashMap::new(), rest: Some(ANY), atomic: false };
        }
        if let Node::Struct { fields, .. } = node {
            let given = [("apiVersion", scalar), ("kind", scalar), ("metadata", metadata.unwrap_or(ANY))];
            fields.extend(
                given.map(|(name, id)| {
                    (name.into(), Field { id, strategy: Strategy::default(), always: false })
                }),
            );
        }
    }
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at<'a>(shape: &'a Shape, path: &[&str]) -> View<'a> {
        path.iter().fold(
            shape.view(),
            |view, step| if *step == "[]" { view.element() } else { view.field(step).unwrap() },
        )
    }

    fn keys(view: View<'_>) -> Vec<String> {
        match view.form() {
            Form::List(ListKind::Keyed(keys)) => keys.iter().map(|(name, _)| name.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_table_knows_pod_templates_of_all_workloads() {
        for (group, kind, path) in [
            ("", "Pod", &["spec"][..]),
            ("apps", "Deployment", &["spec", "template", "spec"]),
            ("apps", "StatefulSet", &["spec", "template", "spec"]),
            ("batch", "CronJob", &["spec", "jobTemplate", "spec", "template", "spec"]),
        ] {
            let shape = Shape::builtin(group, "v1", kind).unwrap();
            let spec = at(&shape, path);
            assert_eq!(keys(spec.field("containers").unwrap()), ["name"]);
            let ports = at(&shape, path).field("containers").unwrap().element().field("ports").unwrap();
            assert_eq!(keys(ports), ["containerPort", "protocol"]);
            assert!(matches!(spec.field("tolerations").unwrap().form(), Form::List(ListKind::Atomic)));
            assert_eq!(spec.strategy("containers").key.as_deref(), Some("name"));
            assert!(spec.field("nonsense").is_none());
        }
        let shape = Shape::builtin("", "v1", "ConfigMap").unwrap();
        assert_eq!(keys(at(&shape, &["metadata", "ownerReferences"])), ["uid"]);
        assert!(matches!(at(&shape, &["metadata", "finalizers"]).form(), Form::List(ListKind::Set)));
        assert!(Shape::builtin("apps", "v1", "Nonsense").is_none());
    }

    #[test]
    fn schemas_of_custom_kinds_name_keys_with_defaults_and_atomic_maps() {
        let shape = Shape::custom(
            &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
                    "items": {"type": "object", "properties": {"port": {"type": "integer"},
                        "protocol": {"type": "string", "default": "TCP"}}}},
                "selector": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {}},
                "template": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            }}}}),
        );
        let spec = shape.view().field("spec").unwrap();
        match spec.field("ports").unwrap().form() {
            Form::List(ListKind::Keyed(keys)) => {
                assert_eq!(keys[1], ("protocol".into(), Some(json!("TCP"))));
                assert_eq!(keys[0], ("port".into(), None));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(spec.field("selector").unwrap().form(), Form::Object { atomic: true }));
        assert!(at(&shape, &["spec", "template", "x", "y"]).field("z").is_some());
        assert!(matches!(at(&shape, &["metadata", "finalizers"]).form(), Form::List(ListKind::Set)));
        assert!(shape.view().field("nonsense").is_none());
    }
}
