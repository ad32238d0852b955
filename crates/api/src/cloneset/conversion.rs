//! Conversion of `CloneSet` between v1alpha1 and v1beta1, on raw JSON.
//!
//! Each direction applies the documented table and then asks what the way back would lose. That is kept in a
//! private annotation ([`keys::V1BETA1_FIELDS`] on the v1alpha1 view, [`keys::V1ALPHA1_FIELDS`] on the other) and
//! put back later, unless the field it came from was edited in between. Fields that only spell out a default
//! (`false` for the switches, a grace period of 0, the default type and policy, empty objects) are not kept.
//! Two steps go beyond the table: OnDelete keeps its limits as a `rollingUpdate` block when read from v1alpha1, and
//! the in-place policies always get an `inPlaceUpdateStrategy`, as the webhook's default has it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::cloneset::{V1ALPHA1, V1BETA1};
use crate::conversion::ConversionError;
use crate::keys;
use crate::leaves::{self, Path, Record};

/// The pre-download fields of the in-place strategy and the annotations v1alpha1 has instead.
const PREDOWNLOAD: [(&str, &str); 3] = [
    ("imagePreDownloadParallelism", keys::PREDOWNLOAD_PARALLELISM),
    ("imagePreDownloadTimeoutSeconds", keys::PREDOWNLOAD_TIMEOUT_SECONDS),
    ("imagePreDownloadMinUpdatedReadyPods", keys::PREDOWNLOAD_MIN_UPDATED_READY_PODS),
];
const IN_PLACE: &str = "inPlaceUpdateStrategy";
const GRACE: &str = "gracePeriodSeconds";
const POLICIES: [&str; 3] = ["ReCreate", "InPlaceIfPossible", "InPlaceOnly"];

/// A v1alpha1 CloneSet as v1beta1.
pub fn to_v1beta1(object: Value) -> Result<Value, ConversionError> {
    convert(object, &ALPHA, &BETA)
}

/// A v1beta1 CloneSet as v1alpha1.
pub fn to_v1alpha1(object: Value) -> Result<Value, ConversionError> {
    convert(object, &BETA, &ALPHA)
}

/// What the two directions differ in.
struct Version {
    /// Its apiVersion.
    name: &'static str,
    /// Rewrites an object of this version as the other one, by the table alone.
    leave: fn(&mut Value) -> Result<(), ConversionError>,
    /// Annotation on objects of this version that holds what only the other one can say.
    record: &'static str,
    /// Fields that say no more than their absence, with the values for which that is so.
    defaults: &'static [(&'static [&'static str], &'static [Default])],
}

/// A value that may be left out.
enum Default {
    False,
    Zero,
    Text(&'static str),
}

static ALPHA: Version = Version {
    name: V1ALPHA1,
    leave: alpha_to_beta,
    record: keys::V1BETA1_FIELDS,
    defaults: &[
        (&["spec", "scaleStrategy", "disablePVCReuse"], &[Default::False]),
        (&["spec", "updateStrategy", "type"], &[Default::Text(""), Default::Text("ReCreate")]),
        (&["spec", "updateStrategy", IN_PLACE, GRACE], &[Default::Zero]),
    ],
};

static BETA: Version = Version {
    name: V1BETA1,
    leave: beta_to_alpha,
    record: keys::V1ALPHA1_FIELDS,
    defaults: &[
        (&["spec", "scaleStrategy", "enablePVCReuse"], &[Default::False]),
        (&["spec", "scaleStrategy", "excludePreparingDelete"], &[Default::False]),
        (&["spec", "updateStrategy", "type"], &[Default::Text(""), Default::Text("RollingUpdate")]),
        (
            &["spec", "updateStrategy", "rollingUpdate", "podUpdatePolicy"],
            &[Default::Text(""), Default::Text("ReCreate")],
        ),
        (&["spec", "updateStrategy", "rollingUpdate", IN_PLACE, GRACE], &[Default::Zero]),
    ],
};

impl Version {
    /// The leaves of everything conversion touches, without those that only spell out a default.
    fn leaves(&self, object: &Value) -> BTreeMap<Path, Value> {
        let mut found = BTreeMap::new();
        for path in touched() {
            if let Some(value) = leaves::get(object, &path) {
                let mut at = path.iter().map(|&key| key.to_owned()).collect();
                leaves::collect(value, &mut at, &mut found);
            }
        }
        found.retain(|path, value| {
            let defaults = self.defaults.iter().find(|(field, _)| path.iter().eq(field.iter()));
            !defaults.is_some_and(|(_, values)| values.iter().any(|default| default.is(value)))
        });
        found
    }
}

impl Default {
    fn is(&self, value: &Value) -> bool {
        match self {
            Self::False => value == &Value::Bool(false),
            Self::Zero => value.as_i64() == Some(0),
            Self::Text(text) => value.as_str() == Some(text),
        }
    }
}

/// Everything that conversion reads or writes.
fn touched() -> impl Iterator<Item = Vec<&'static str>> {
    let annotations = PREDOWNLOAD.iter().map(|(_, key)| vec!["metadata", "annotations", *key]);
    annotations.chain([
        vec!["metadata", "labels", keys::EXCLUDE_PREPARING_DELETE],
        vec!["spec", "scaleStrategy"],
        vec!["spec", "updateStrategy"],
    ])
}

/// Whether a record may set this path: a made-up one must not reach the rest of the object.
fn restorable(path: &[String], value: Option<&Value>) -> bool {
    let inside = |area: Vec<&str>| path.len() >= area.len() && path.iter().zip(area).all(|(a, b)| a == b);
    let metadata = path.first().is_some_and(|key| key == "metadata");
    match (metadata, path.len()) {
        (true, 3) => touched().any(inside) && value.is_none_or(Value::is_string),
        (true, _) => false,
        (false, length) => length > 2 && touched().any(inside),
    }
}

fn convert(mut object: Value, from: &Version, to: &Version) -> Result<Value, ConversionError> {
    let held = from.leaves(&object);
    let record = take_record(&mut object, from.record);
    take_record(&mut object, to.record);
    (from.leave)(&mut object)?;
    if let Some(record) = record {
        let derived = to.leaves(&object);
        record.restore(&mut object, &derived, restorable);
    }
    let mut back = excerpt(&object);
    (to.leave)(&mut back)?;
    let lost = Record::of(&held, &from.leaves(&back));
    if !lost.is_empty()
        && let Ok(text) = serde_json::to_string(&lost)
    {
        set(&mut object, &["metadata", "annotations", to.record], Value::String(text));
    }
    set(&mut object, &["apiVersion"], Value::from(to.name));
    Ok(object)
}

fn take_record(object: &mut Value, key: &str) -> Option<Record> {
    let path = ["metadata", "annotations", key];
    let text = leaves::get(object, &path)?.as_str().unwrap_or_default();
    let record = serde_json::from_str(text).ok();
    remove(object, &path);
    record
}

/// Only what conversion touches, so that the way back can be tried cheaply.
fn excerpt(object: &Value) -> Value {
    let mut excerpt = Value::Object(Map::new());
    if object.get("spec").is_some_and(Value::is_object) {
        set(&mut excerpt, &["spec"], Value::Object(Map::new()));
    }
    for path in touched() {
        if let Some(value) = leaves::get(object, &path) {
            set(&mut excerpt, &path, value.clone());
        }
    }
    excerpt
}

/// The table of v1alpha1 to v1beta1.
fn alpha_to_beta(object: &mut Value) -> Result<(), ConversionError> {
    let exclude = leaves::get(object, &["metadata", "labels", keys::EXCLUDE_PREPARING_DELETE])
        .is_some_and(|label| label.as_str() == Some("true"));
    let predownload: Vec<(&str, Value)> = PREDOWNLOAD
        .iter()
        .filter_map(|(field, key)| {
            let text = leaves::get(object, &["metadata", "annotations", key])?.as_str()?;
            Some((*field, parse_predownload(field, text)?))
        })
        .collect();
    let Some(spec) = member(object, "spec", "spec")? else { return Ok(()) };

    let mut scale = take_object(spec, "scaleStrategy", "spec.scaleStrategy")?.unwrap_or_default();
    let disable = scale.remove("disablePVCReuse").is_some_and(|value| value == Value::Bool(true));
    scale.remove("enablePVCReuse");
    scale.remove("excludePreparingDelete");
    scale.insert("enablePVCReuse".to_owned(), Value::Bool(!disable));
    if exclude {
        scale.insert("excludePreparingDelete".to_owned(), Value::Bool(true));
    }
    spec.insert("scaleStrategy".to_owned(), Value::Object(scale));

    let mut flat = take_object(spec, "updateStrategy", "spec.updateStrategy")?.unwrap_or_default();
    let type_ = flat.remove("type");
    let type_ = type_.as_ref().and_then(Value::as_str).unwrap_or_default();
    flat.remove("podUpdatePolicy");
    flat.remove("rollingUpdate");
    let in_place = take_object(&mut flat, IN_PLACE, "spec.updateStrategy.inPlaceUpdateStrategy")?;
    let mut in_place = in_place.unwrap_or_default();
    for (field, _) in PREDOWNLOAD {
        in_place.remove(field);
    }
    in_place.extend(predownload.into_iter().map(|(field, value)| (field.to_owned(), value)));
    // The webhook's default for the in-place policies is an empty object, which v1alpha1 does not show: without it
    // here, every write through v1alpha1 would be a change of the stored spec.
    if has_content(&in_place) {
        flat.insert(IN_PLACE.to_owned(), Value::Object(in_place));
    } else if type_ == "InPlaceIfPossible" || type_ == "InPlaceOnly" {
        flat.insert(IN_PLACE.to_owned(), Value::Object(Map::new()));
    }
    let mut strategy = Map::new();
    if type_ == "OnDelete" {
        strategy.insert("type".to_owned(), Value::from("OnDelete"));
        if !flat.is_empty() {
            strategy.insert("rollingUpdate".to_owned(), Value::Object(flat));
        }
    } else {
        let policy = POLICIES.into_iter().find(|policy| *policy == type_).unwrap_or("ReCreate");
        flat.insert("podUpdatePolicy".to_owned(), Value::from(policy));
        strategy.insert("type".to_owned(), Value::from("RollingUpdate"));
        strategy.insert("rollingUpdate".to_owned(), Value::Object(flat));
    }
    spec.insert("updateStrategy".to_owned(), Value::Object(strategy));
    Ok(())
}

/// The table of v1beta1 to v1alpha1.
fn beta_to_alpha(object: &mut Value) -> Result<(), ConversionError> {
    let Some(spec) = member(object, "spec", "spec")? else { return Ok(()) };

    let mut scale = take_object(spec, "scaleStrategy", "spec.scaleStrategy")?.unwrap_or_default();
    let enable = scale.remove("enablePVCReuse").is_some_and(|value| value == Value::Bool(true));
    let exclude = scale.remove("excludePreparingDelete").is_some_and(|value| value == Value::Bool(true));
    scale.remove("disablePVCReuse");
    if !enable {
        scale.insert("disablePVCReuse".to_owned(), Value::Bool(true));
    }
    spec.insert("scaleStrategy".to_owned(), Value::Object(scale));

    let mut strategy = take_object(spec, "updateStrategy", "spec.updateStrategy")?.unwrap_or_default();
    let on_delete = strategy.get("type").is_some_and(|value| value == "OnDelete");
    let rolling = take_object(&mut strategy, "rollingUpdate", "spec.updateStrategy.rollingUpdate")?;
    let mut flat = rolling.unwrap_or_default();
    let policy = flat.remove("podUpdatePolicy");
    let policy = policy.as_ref().and_then(Value::as_str).unwrap_or_default();
    let in_place =
        take_object(&mut flat, IN_PLACE, "spec.updateStrategy.rollingUpdate.inPlaceUpdateStrategy")?;
    let mut predownload = Vec::new();
    if let Some(mut in_place) = in_place {
        for (field, key) in PREDOWNLOAD {
            if let Some(value) = in_place.remove(field).filter(|value| !value.is_null()) {
                predownload.push((field, key, value));
            }
        }
        if has_content(&in_place) || !predownload.is_empty() {
            flat.insert(IN_PLACE.to_owned(), Value::Object(in_place));
        }
    }
    let policy = POLICIES.into_iter().find(|known| *known == policy).unwrap_or("ReCreate");
    flat.insert("type".to_owned(), Value::from(if on_delete { "OnDelete" } else { policy }));
    spec.insert("updateStrategy".to_owned(), Value::Object(flat));

    for (field, key, value) in predownload {
        let path = ["metadata", "annotations", key];
        let present = leaves::get(object, &path).and_then(Value::as_str);
        if present.and_then(|text| parse_predownload(field, text)).as_ref() != Some(&value) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            set(object, &path, Value::String(text));
        }
    }
    let label = ["metadata", "labels", keys::EXCLUDE_PREPARING_DELETE];
    let labelled = leaves::get(object, &label).is_some_and(|value| value.as_str() == Some("true"));
    match (exclude, labelled) {
        (true, false) => set(object, &label, Value::from("true")),
        (false, true) => remove(object, &label),
        _ => {}
    }
    Ok(())
}

/// A pre-download annotation as the value of its field; `None` if it says nothing valid.
fn parse_predownload(field: &str, text: &str) -> Option<Value> {
    match text.parse::<i32>() {
        Ok(number) => Some(Value::from(number)),
        Err(_) if field == "imagePreDownloadParallelism" && !text.is_empty() => Some(Value::from(text)),
        Err(_) => None,
    }
}

/// Whether an in-place strategy says more than its absence.
fn has_content(in_place: &Map<String, Value>) -> bool {
    in_place.iter().any(|(field, value)| !(value.is_null() || field == GRACE && value.as_i64() == Some(0)))
}

/// A member that is an object, or absent.
fn member<'v>(
    object: &'v mut Value,
    key: &str,
    name: &'static str,
) -> Result<Option<&'v mut Map<String, Value>>, ConversionError> {
    match object.get_mut(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(ConversionError::NotAnObject(name)),
    }
}

/// Takes out a member that is an object, or absent.
fn take_object(
    map: &mut Map<String, Value>,
    key: &str,
    name: &'static str,
) -> Result<Option<Map<String, Value>>, ConversionError> {
    match map.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(inner)) => Ok(Some(inner)),
        Some(_) => Err(ConversionError::NotAnObject(name)),
    }
}

fn set(object: &mut Value, path: &[&str], value: Value) {
    leaves::set(object, &path.iter().map(|&key| key.to_owned()).collect::<Vec<_>>(), value);
}

fn remove(object: &mut Value, path: &[&str]) {
    leaves::remove(object, &path.iter().map(|&key| key.to_owned()).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests;
