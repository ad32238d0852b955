//! Server-side tables, as `kubectl get` shows them.
//!
//! The columns of built-in kinds are data (`columns.json`), their cells are code ([`cells`], [`pods`]). Custom kinds have the
//! `additionalPrinterColumns` of their definition ([`jsonpath`]).

mod cells;
mod jsonpath;
mod pods;

use std::{collections::HashMap, sync::OnceLock};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::{object, resource::Resource};
use jsonpath::Path;

/// What the rows carry besides their cells (`includeObject`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Include {
    /// The metadata, as `PartialObjectMetadata`. This is the default.
    #[default]
    Metadata,
    /// The whole object.
    Object,
    /// Nothing.
    None,
}

impl Include {
    /// Reads the query parameter; `None` if it is not one of the three.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            "None" => Some(Self::None),
            _ => None,
        }
    }
}

/// The objects as a `meta.k8s.io/v1` Table. Its `metadata` is empty: resourceVersion and continue token are the list's.
pub fn render(
    resource: &Resource,
    version: &str,
    objects: &[&Value],
    include: Include,
    now: Timestamp,
) -> Value {
    fill(&Layout::of(resource, version), objects, include, now)
}

/// A Scale as a Table, like [`render`].
pub fn scale(scale: &Value, include: Include, now: Timestamp) -> Value {
    let layout = builtins().get("autoscaling/v1/Scale").map_or(Layout::Unknown, Layout::Builtin);
    fill(&layout, &[scale], include, now)
}

fn fill(layout: &Layout, objects: &[&Value], include: Include, now: Timestamp) -> Value {
    let rows: Vec<Value> = objects.iter().map(|object| row(layout, object, include, now)).collect();
    // The API server's fallback for kinds without a printer leaves the list of rows unset when there are none.
    let rows =
        if rows.is_empty() && matches!(layout, Layout::Unknown) { Value::Null } else { Value::Array(rows) };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": layout.columns(),
        "rows": rows,
    })
}

enum Layout {
    Builtin(&'static Builtin),
    Custom(Vec<Custom>),
    Unknown,
}

struct Builtin {
    columns: Value,
    cells: cells::Printer,
}

/// A column of a custom kind.
struct Custom {
    definition: Value,
    kind: String,
    path: Option<Path>,
}

impl Layout {
    fn of(resource: &Resource, version: &str) -> Self {
        if resource.custom {
            let columns = resource.version(version).map_or(&[][..], |version| &version.columns);
            return Self::Custom(custom_columns(columns));
        }
        let key = format!("{}/{}", resource.api_version(version), resource.kind);
        builtins().get(key.as_str()).map_or(Self::Unknown, Self::Builtin)
    }

    fn columns(&self) -> Value {
        match self {
            Self::Builtin(builtin) => builtin.columns.clone(),
            Self::Custom(columns) => {
                let columns = columns.iter().map(|column| column.definition.clone());
                std::iter::once(name_column()).chain(columns).collect()
            }
            Self::Unknown => json!([name_column(), column("Created At", "date", "", 0, created())]),
        }
    }
}

fn builtins() -> &'static HashMap<Box<str>, Builtin> {
    static TABLE: OnceLock<HashMap<Box<str>, Builtin>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let columns: Map<String, Value> =
            serde_json::from_str(include_str!("columns.json")).unwrap_or_default();
        let printer = |key: &str| {
            if key == "v1/Pod" { Some(pods::cells as cells::Printer) } else { cells::printer(key) }
        };
        let builtins = columns.into_iter().filter_map(|(key, columns)| {
            let columns = columns.as_array()?.iter().filter_map(builtin_column).collect();
            Some((key.as_str().into(), Builtin { columns, cells: printer(&key)? }))
        });
        builtins.collect()
    })
}

fn builtin_column(fields: &Value) -> Option<Value> {
    let [name, kind, format, priority, description] = fields.as_array()?.as_slice() else { return None };
    let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
    Some(column(&text(name), &text(kind), &text(format), priority.as_i64()?, &text(description)))
}

fn column(name: &str, kind: &str, format: &str, priority: i64, description: &str) -> Value {
    json!({ "name": name, "type": kind, "format": format, "description": description, "priority": priority })
}

fn name_column() -> Value {
    column("Name", "string", "name", 0, description(0))
}

fn created() -> &'static str {
    description(2)
}

/// The descriptions of the name and age columns, which all kinds share.
fn description(column: usize) -> &'static str {
    let columns = builtins().get("v1/ConfigMap").map(|builtin| &builtin.columns);
    columns.and_then(|columns| columns.get(column)?.get("description")?.as_str()).unwrap_or_default()
}

fn custom_columns(columns: &[Value]) -> Vec<Custom> {
    let text =
        |column: &Value, name: &str| column.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if columns.is_empty() {
        let path = Path::parse(".metadata.creationTimestamp");
        let definition = column("Age", "date", "", 0, created());
        return vec![Custom { definition, kind: "date".to_owned(), path }];
    }
    let convert = |one: &Value| {
        let (kind, path) = (text(one, "type"), text(one, "jsonPath"));
        let described = text(one, "description");
        let description = if described.is_empty() {
            format!("Custom resource definition column (in JSONPath format): {path}")
        } else {
            described
        };
        let priority = one.get("priority").and_then(Value::as_i64).unwrap_or_default();
        let definition = column(&text(one, "name"), &kind, &text(one, "format"), priority, &description);
        Custom { definition, kind, path: Path::parse(&path) }
    };
    columns.iter().map(convert).collect()
}

fn row(layout: &Layout, object: &Value, include: Include, now: Timestamp) -> Value {
    let mut fields = Map::new();
    let cells = match layout {
        Layout::Builtin(builtin) => (builtin.cells)(cells::Cx { object, now }),
        Layout::Custom(columns) => custom_cells(columns, object, now),
        Layout::Unknown => {
            vec![object::name(object).into(), cells::text(object, "/metadata/creationTimestamp").into()]
        }
    };
    fields.insert("cells".to_owned(), cells.into());
    if matches!(layout, Layout::Builtin(_)) {
        fields.extend(pods::conditions(object).map(|conditions| ("conditions".to_owned(), conditions)));
    }
    let shown = match include {
        Include::Object => object.clone(),
        Include::None => Value::Null,
        Include::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object.get("metadata"),
        }),
    };
    fields.insert("object".to_owned(), shown);
    Value::Object(fields)
}

fn custom_cells(columns: &[Custom], object: &Value, now: Timestamp) -> Vec<Value> {
    let cell = |column: &Custom| {
        let found = column.path.as_ref().and_then(|path| path.first(object));
        found.map_or(Value::Null, |value| custom_cell(&column.kind, value, now))
    };
    std::iter::once(object::name(object).into()).chain(columns.iter().map(cell)).collect()
}

fn custom_cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match kind {
        "string" => jsonpath::text(value).into(),
        "integer" => match (value.as_i64(), value.as_f64()) {
            (Some(number), _) => number.into(),
            // Beyond 64 bits Go's conversion gives the smallest number on amd64.
            (_, Some(number)) if number.abs() >= 9.2e18 => i64::MIN.into(),
            (_, Some(number)) => (number.trunc() as i64).into(),
            _ => Value::Null,
        },
        "number" if value.is_number() => value.clone(),
        "boolean" if value.is_boolean() => value.clone(),
        "date" => match value.as_str() {
            Some(text) => {
                text.parse().map_or_else(|_| "<invalid>".to_owned(), |time| since(time, now)).into()
            }
            None => Value::Null,
        },
        _ => Value::Null,
    }
}

/// The time since then in kubectl's words.
fn since(time: Timestamp, now: Timestamp) -> String {
    human(now.duration_since(time))
}

/// A duration with two or three significant figures: `5s`, `4m12s`, `3h5m`, `2d4h`, `1y20d`.
fn human(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => pair(days, "d", hours % 24, "h"),
        () if days < 365 * 2 => format!("{days}d"),
        () if days < 365 * 8 => pair(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests;
