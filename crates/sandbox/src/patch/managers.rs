//! Who owns which field: `metadata.managedFields`.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{
    fields::FieldSet,
    shape::Shape,
    walk::{Changes, compare},
};

/// Entries of updates beyond this many are folded into one.
const MAX_UPDATES: usize = 10;
/// The manager that holds folded entries.
const ANCIENT: &str = "ancient-changes";

/// A write to one object, as field ownership sees it.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The shape of the kind.
    pub shape: &'a Shape,
    /// `group/version` of the request, `v1` for the core group.
    pub api_version: &'a str,
    /// The kind of the request.
    pub kind: &'a str,
    /// The field manager: the request's `fieldManager`, or its user agent up to the first `/`.
    pub manager: &'a str,
    /// `status`, `scale` and so on; empty for the object itself.
    pub subresource: &'a str,
    /// True if the kind has a status subresource, so that other writes do not touch the status.
    pub has_status: bool,
    /// The time of the write.
    pub time: Timestamp,
}

impl Write<'_> {
    /// Paths that the write cannot change, whatever it says.
    fn out_of_reach(&self) -> &'static [&'static [&'static str]] {
        match (self.subresource, self.api_version, self.kind) {
            ("status", "v1", "Pod") => {
                &[&["f:spec"], &["f:metadata", "f:deletionTimestamp"], &["f:metadata", "f:ownerReferences"]]
            }
            ("status", "apps/v1", "Deployment") => &[&["f:spec"], &["f:metadata", "f:labels"]],
            ("status", "apiextensions.k8s.io/v1" | "flowcontrol.apiserver.k8s.io/v1", _)
            | ("status", "storage.k8s.io/v1", "VolumeAttachment") => &[&["f:spec"], &["f:metadata"]],
            ("status", ..) => &[&["f:spec"]],
            _ if self.has_status => &[&["f:status"]],
            _ => &[],
        }
    }

    pub(super) fn filter(&self, set: &mut FieldSet) {
        for path in self.out_of_reach() {
            set.prune(path);
        }
    }

    /// What changed, without what the write cannot change and without the ownership itself.
    pub(super) fn changes(&self, old: &Value, new: &Value) -> Changes {
        let mut changes = compare(old, new, self.shape.view());
        changes.prune(&["f:metadata", "f:managedFields"]);
        for path in self.out_of_reach() {
            changes.prune(path);
        }
        changes
    }

    pub(super) fn stamp(&self) -> String {
        self.time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    pub(super) fn id(&self, operation: Operation) -> Id {
        let manager = if self.manager.is_empty() { "unknown" } else { self.manager };
        Id {
            manager: manager.to_owned(),
            operation,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
        }
    }
}

/// How an entry came about.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// Whose entry it is.
#[derive(Clone, Debug)]
pub(super) struct Id {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Id {
    /// Appliers have one entry whatever the version, updaters one for each.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

/// One entry of `managedFields`.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: Id,
    pub(super) time: Option<String>,
    pub(super) set: FieldSet,
}

impl Entry {
    fn decode(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        let set = match value.get("fieldsV1").filter(|fields| !fields.is_null()) {
            Some(fields) => FieldSet::parse(fields)?,
            None => FieldSet::default(),
        };
        let id = Id {
            manager: text("manager").to_owned(),
            operation,
            api_version: text("apiVersion").to_owned(),
            subresource: text("subresource").to_owned(),
        };
        Some(Self { id, time: value.get("time").and_then(Value::as_str).map(str::to_owned), set })
    }

    fn encode(&self) -> Value {
        let mut fields = Map::new();
        let mut put = |name: &str, value: &str| {
            if !value.is_empty() {
                fields.insert(name.to_owned(), value.into());
            }
        };
        put("manager", &self.id.manager);
        put("operation", if self.id.operation == Operation::Apply { "Apply" } else { "Update" });
        put("apiVersion", &self.id.api_version);
        put("time", self.time.as_deref().unwrap_or_default());
        put("fieldsType", "FieldsV1");
        put("subresource", &self.id.subresource);
        fields.insert("fieldsV1".to_owned(), self.set.render());
        Value::Object(fields)
    }
}

/// All entries; `None` if one is malformed.
pub(super) fn decode(list: &[Value]) -> Option<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::with_capacity(list.len());
    for value in list {
        let entry = Entry::decode(value)?;
        match entries.iter_mut().find(|known| known.id.is(&entry.id)) {
            Some(known) => *known = entry,
            None => entries.push(entry),
        }
    }
    Some(entries)
}

/// Puts the entries into the object, in the API server's order.
pub(super) fn put(object: &mut Value, mut entries: Vec<Entry>) {
    entries.sort_by(|a, b| {
        let key = |entry: &Entry| (entry.id.operation, entry.time.clone().unwrap_or_default());
        let name = |entry: &Entry| {
            [&entry.id.manager, &entry.id.api_version, &entry.id.subresource].map(String::clone)
        };
        key(a).cmp(&key(b)).then_with(|| name(a).cmp(&name(b)))
    });
    put_raw(object, entries.iter().map(Entry::encode).collect());
}

fn put_raw(object: &mut Value, list: Vec<Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    if list.is_empty() {
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.remove("managedFields");
        }
        return;
    }
    let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(metadata) = metadata {
        metadata.insert("managedFields".to_owned(), Value::Array(list));
    }
}

/// `metadata.managedFields`.
pub(super) fn list_of(object: &Value) -> Option<&Vec<Value>> {
    object.get("metadata")?.get("managedFields")?.as_array()
}

/// Updates `metadata.managedFields` of `new` for a write other than server-side apply. `old` is `None` for a creation.
///
/// Call it after defaulting and before what the API server itself sets (generation, allocated addresses). A write that
/// changes no field leaves the entries and their times as they are. `managedFields: []` in `new` resets the ownership, and
/// an object without entries stays without until the next apply.
pub fn track(write: &Write<'_>, old: Option<&Value>, new: &mut Value) {
    let live = old.and_then(list_of).map_or(&[][..], Vec::as_slice);
    let given = take(new);
    let (list, own) = chosen(write, live, given);
    if list.is_empty() && old.is_some() {
        return;
    }
    let changes = if let Some(old) = old {
        write.changes(old, new)
    } else {
        let (group, version) = write.api_version.rsplit_once('/').unwrap_or(("", write.api_version));
        write.changes(&crate::kinds::empty(group, version, write.kind), new)
    };
    if changes.is_empty() && !own {
        put_raw(new, list);
        return;
    }
    let entries = decode(&list).unwrap_or_default();
    put(new, updated(write, entries, &changes));
}

fn take(object: &mut Value) -> Option<Vec<Value>> {
    match object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")? {
        Value::Array(list) => Some(list),
        _ => None,
    }
}

/// The entries to start from, and whether they come from the request.
fn chosen(write: &Write<'_>, live: &[Value], given: Option<Vec<Value>>) -> (Vec<Value>, bool) {
    let Some(given) = given.filter(|given| write.subresource.is_empty() && given != live) else {
        return (live.to_vec(), false);
    };
    let blank = |entry: &Value| entry.as_object().is_some_and(Map::is_empty);
    if given.is_empty() || matches!(given.as_slice(), [only] if blank(only)) {
        return (Vec::new(), false);
    }
    match decode(&given) {
        Some(_) => (given, true),
        None => (live.to_vec(), false),
    }
}

/// The entries after an update: others lose what it changed or removed, the writer gains what it changed.
fn updated(write: &Write<'_>, mut entries: Vec<Entry>, changes: &Changes) -> Vec<Entry> {
    let changed = changes.added.clone().union(&changes.modified);
    let gone = changed.clone().union(&changes.removed);
    for entry in &mut entries {
        entry.set = std::mem::take(&mut entry.set).without(&gone);
    }
    entries.retain(|entry| !entry.set.is_empty());
    let own = changed.without(&changes.removed).without(&stripped());
    if !own.is_empty() {
        let id = write.id(Operation::Update);
        let time = Some(write.stamp());
        match entries.iter_mut().find(|entry| entry.id.is(&id)) {
            Some(entry) => {
                entry.set = std::mem::take(&mut entry.set).union(&own);
                entry.time = time;
            }
            None => entries.push(Entry { id, time, set: own }),
        }
    }
    capped(entries)
}

/// Fields that nobody owns.
pub(super) fn stripped() -> FieldSet {
    let mut set = FieldSet::default();
    for name in ["f:apiVersion", "f:kind", "f:metadata"] {
        set.insert(&[name.into()]);
    }
    for name in [
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:clusterName",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    ] {
        set.insert(&["f:metadata".into(), name.into()]);
    }
    set
}

/// Folds the oldest updates of each version into one entry while there are too many.
fn capped(mut entries: Vec<Entry>) -> Vec<Entry> {
    let updates =
        |entries: &[Entry]| entries.iter().filter(|entry| entry.id.operation == Operation::Update).count();
    if updates(&entries) <= MAX_UPDATES {
        return entries;
    }
    entries.sort_by(|a, b| (&a.time, &a.id.manager).cmp(&(&b.time, &b.id.manager)));
    let mut first: Vec<usize> = Vec::new();
    let mut at = 0;
    while at < entries.len() && updates(&entries) > MAX_UPDATES {
        let Some(entry) = entries.get(at).filter(|entry| entry.id.operation == Operation::Update).cloned()
        else {
            at += 1;
            continue;
        };
        let bucket = first.iter().copied().find(|place| {
            entries.get(*place).is_some_and(|bucket| bucket.id.api_version == entry.id.api_version)
        });
        if let Some(bucket) = bucket.and_then(|place| entries.get_mut(place)) {
            bucket.set = std::mem::take(&mut bucket.set).union(&entry.set);
            bucket.id = Id { manager: ANCIENT.to_owned(), subresource: String::new(), ..bucket.id.clone() };
            bucket.time = entry.time;
            entries.remove(at);
        } else {
            first.push(at);
            at += 1;
        }
    }
    entries
}

/// True if two versions of an object differ at most in the times of their `managedFields` and in `resourceVersion`: the
/// write need not be stored.
pub fn unchanged(old: &Value, new: &Value) -> bool {
    let (Some(a), Some(b)) = (old.as_object(), new.as_object()) else { return old == new };
    same_but(a, b, &["metadata"])
        && match (a.get("metadata"), b.get("metadata")) {
            (Some(Value::Object(a)), Some(Value::Object(b))) => {
                same_but(a, b, &["managedFields", "resourceVersion"])
                    && same_entries(a.get("managedFields"), b.get("managedFields"))
            }
            (a, b) => a == b,
        }
}

/// True if two objects have the same fields, whatever those named hold.
pub(crate) fn same_but(a: &Map<String, Value>, b: &Map<String, Value>, but: &[&str]) -> bool {
    let count = |fields: &Map<String, Value>| {
        fields.len() - but.iter().filter(|name| fields.contains_key(**name)).count()
    };
    let compared = |name: &String| !but.contains(&name.as_str());
    count(a) == count(b)
        && a.iter().filter(|(name, _)| compared(name)).all(|(name, value)| b.get(name) == Some(value))
}

/// Entries of the same owners and fields, whenever they were written.
fn same_entries(a: Option<&Value>, b: Option<&Value>) -> bool {
    let entries = |list: Option<&'_ Value>| list.and_then(Value::as_array).map_or(0, Vec::len);
    if entries(a) != entries(b) {
        return false;
    }
    let (a, b) = (a.and_then(Value::as_array), b.and_then(Value::as_array));
    a.into_iter().flatten().zip(b.into_iter().flatten()).all(|(a, b)| match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) => same_but(a, b, &["time"]),
        _ => a == b,
    })
}
