//! What makes a CloneSet unacceptable: one validator for both versions, each fault named in the request's own shape.

use std::collections::BTreeSet;

use kruise_common::inplace::{self, InPlaceOptions};
use kruise_common::template_defaults::{self, TemplateDefaults};
use kruise_webhook::review::{FieldError, Operation};
use serde_json::Value;

use super::labels::{Selector, checked_label, qualified_name_fault, subdomain_fault};
use super::{Options, Version};

const MUTABLE: [&str; 9] = [
    "replicas",
    "template",
    "lifecycle",
    "scaleStrategy",
    "updateStrategy",
    "minReadySeconds",
    "progressDeadlineSeconds",
    "volumeClaimTemplates",
    "revisionHistoryLimit",
];
const IMMUTABLE: &str = "updates to cloneset spec for fields other than 'replicas', 'template', 'lifecycle', \
    'scaleStrategy', 'updateStrategy', 'minReadySeconds', 'progressDeadlineSeconds', 'volumeClaimTemplates' and \
    'revisionHistoryLimit' are forbidden";
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const POLICIES: [&str; 3] = ["ReCreate", "InPlaceIfPossible", "InPlaceOnly"];

/// What admission has to know about a pod named in `podsToDelete`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PodFacts {
    /// True if the pod is being deleted already.
    pub terminating: bool,
    /// UID of the pod's controlling owner.
    pub controller_uid: Option<String>,
}

/// Every rule a CloneSet breaks; empty if it is acceptable.
///
/// `old` is the stored object, looked at on update only; `lookup` finds a pod of the set's namespace by name.
pub fn validate(
    object: &Value,
    old: Option<&Value>,
    version: Version,
    operation: Operation,
    options: Options,
    lookup: &dyn Fn(&str) -> Option<PodFacts>,
) -> Vec<FieldError> {
    if operation != Operation::Create && operation != Operation::Update {
        return Vec::new();
    }
    let old = old.filter(|_| operation == Operation::Update);
    let mut faults = Vec::new();
    check_metadata(object, &mut faults);
    let Some(spec) = get(object, "spec").filter(|spec| spec.is_object()) else {
        faults.push(FieldError::required("spec", ""));
        return faults;
    };
    let view = View::new(spec, version);
    let replicas = check_replicas(spec, &mut faults);
    check_selector_and_template(spec, &mut faults);
    check_scale_strategy(object, spec, old, lookup, &mut faults);
    check_update_strategy(&view, replicas, &mut faults);
    check_progress_deadline(spec, &mut faults);
    if let Some(old_spec) = old.and_then(|old| get(old, "spec")) {
        check_update(&view, old_spec, options, &mut faults);
    }
    faults
}

/// One CloneSet spec with the differences between the versions taken out.
struct View<'a> {
    spec: &'a Value,
    version: Version,
    /// `spec.updateStrategy.type`; empty if unset.
    kind: Option<&'a Value>,
    /// The object that holds partition and its neighbours, and where it is.
    rolling: Option<&'a Value>,
    path: &'static str,
}

impl<'a> View<'a> {
    fn new(spec: &'a Value, version: Version) -> Self {
        let strategy = get(spec, "updateStrategy");
        let (rolling, path) = match version {
            Version::V1alpha1 => (strategy, "spec.updateStrategy"),
            Version::V1beta1 => (
                strategy.and_then(|strategy| get(strategy, "rollingUpdate")),
                "spec.updateStrategy.rollingUpdate",
            ),
        };
        Self { spec, version, kind: strategy.and_then(|strategy| get(strategy, "type")), rolling, path }
    }

    fn policy(&self) -> &'a str {
        let policy = match self.version {
            Version::V1alpha1 => self.kind,
            Version::V1beta1 => self.rolling.and_then(|rolling| get(rolling, "podUpdatePolicy")),
        };
        policy.and_then(Value::as_str).unwrap_or_default()
    }
}

fn check_metadata(object: &Value, faults: &mut Vec<FieldError>) {
    let metadata = get(object, "metadata").unwrap_or(&Value::Null);
    let text = |key: &str| get(metadata, key).and_then(Value::as_str).unwrap_or_default();
    let (name, prefix) = (text("name"), text("generateName"));
    if !prefix.is_empty() {
        // A prefix may end in a dash: the suffix that follows makes it a name.
        let mut stem = prefix.to_owned();
        if stem.len() > 1 && stem.ends_with('-') {
            stem.pop();
            stem.push('a');
        }
        if let Some(fault) = subdomain_fault(&stem) {
            faults.push(FieldError::invalid("metadata.generateName", prefix, fault));
        }
    }
    if name.is_empty() {
        if prefix.is_empty() {
            faults.push(FieldError::required("metadata.name", "name or generateName is required"));
        }
    } else if let Some(fault) = subdomain_fault(name) {
        faults.push(FieldError::invalid("metadata.name", name, fault));
    }
    if let Some(labels) = get(metadata, "labels").and_then(Value::as_object) {
        for (key, value) in labels {
            checked_label(key, value, "metadata.labels", faults);
        }
    }
    if let Some(annotations) = get(metadata, "annotations").and_then(Value::as_object) {
        for key in annotations.keys() {
            if let Some(fault) = qualified_name_fault(&key.to_lowercase()) {
                faults.push(FieldError::invalid("metadata.annotations", key.as_str(), fault));
            }
        }
    }
}

/// The wanted number of pods, as the rules on unavailability and surge see it.
fn check_replicas(spec: &Value, faults: &mut Vec<FieldError>) -> i64 {
    let Some(value) = get(spec, "replicas") else { return 1 };
    let replicas = int32(value);
    if replicas.is_none_or(|replicas| replicas < 0) {
        faults.push(FieldError::invalid("spec.replicas", value.clone(), NOT_NEGATIVE));
    }
    replicas.unwrap_or(1)
}

fn check_selector_and_template(spec: &Value, faults: &mut Vec<FieldError>) {
    let selector = match get(spec, "selector") {
        None => {
            faults.push(FieldError::required("spec.selector", ""));
            None
        }
        Some(value) => match Selector::parse(value, "spec.selector") {
            Ok(selector) if selector.is_empty() => {
                let detail = "empty selector is invalid for cloneset";
                faults.push(FieldError::invalid("spec.selector", value.clone(), detail));
                None
            }
            Ok(selector) => Some(selector),
            Err(found) => {
                faults.extend(found);
                None
            }
        },
    };
    let Some(template) = get(spec, "template").filter(|template| template.is_object()) else {
        faults.push(FieldError::required("spec.template", ""));
        return;
    };
    let labels = get(template, "metadata").and_then(|metadata| get(metadata, "labels"));
    if selector.is_some_and(|selector| !selector.matches(labels.and_then(Value::as_object))) {
        faults.push(FieldError::invalid(
            "spec.template.metadata.labels",
            labels.cloned().unwrap_or_default(),
            "`selector` does not match template `labels`",
        ));
    }
    let Some(pod) = get(template, "spec") else { return };
    if let Some(policy) = get(pod, "restartPolicy").filter(|policy| *policy != "" && *policy != "Always") {
        faults.push(FieldError::not_supported(
            "spec.template.spec.restartPolicy",
            policy.clone(),
            &["Always"],
        ));
    }
    if get(pod, "activeDeadlineSeconds").is_some() {
        faults.push(FieldError::forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in cloneset is not Supported",
        ));
    }
}

fn check_scale_strategy(
    object: &Value,
    spec: &Value,
    old: Option<&Value>,
    lookup: &dyn Fn(&str) -> Option<PodFacts>,
    faults: &mut Vec<FieldError>,
) {
    const PATH: &str = "spec.scaleStrategy.podsToDelete";
    let Some(strategy) = get(spec, "scaleStrategy") else { return };
    if let Some(value) = get(strategy, "maxUnavailable") {
        check_amount(value, "spec.scaleStrategy.maxUnavailable", faults);
    }
    let Some(list) = get(strategy, "podsToDelete") else { return };
    let names = texts(list);
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<&str> = names.iter().copied().filter(|name| !seen.insert(*name)).collect();
    if !twice.is_empty() {
        let items: Vec<&str> = twice.into_iter().collect();
        faults.push(FieldError::invalid(
            PATH,
            list.clone(),
            format!("duplicated items [{}]", items.join(" ")),
        ));
    }
    let uid = get(object, "metadata").and_then(|metadata| get(metadata, "uid")).and_then(Value::as_str);
    for name in newly_named(object, old) {
        let detail = match lookup(name) {
            None => format!("pod {name} is not found"),
            Some(pod) if pod.terminating => format!("pod {name} is terminating"),
            Some(pod) if uid.is_none() || pod.controller_uid.as_deref() != uid => {
                format!("pod {name} is not controlled by this cloneset")
            }
            Some(_) => continue,
        };
        faults.push(FieldError::invalid(PATH, name, detail));
    }
}

/// The pods in `podsToDelete` that were not there before.
pub(super) fn newly_named<'a>(object: &'a Value, old: Option<&'a Value>) -> BTreeSet<&'a str> {
    let names = |object: &'a Value| -> BTreeSet<&'a str> {
        let list = get(object, "spec").and_then(|spec| get(get(spec, "scaleStrategy")?, "podsToDelete"));
        list.map(texts).unwrap_or_default().into_iter().collect()
    };
    let stored = old.map(names).unwrap_or_default();
    names(object).difference(&stored).copied().collect()
}

fn check_update_strategy(view: &View<'_>, replicas: i64, faults: &mut Vec<FieldError>) {
    let kind = view.kind.cloned().unwrap_or_else(|| Value::from(""));
    let (allowed, list): (&[&str], &str) = match view.version {
        Version::V1alpha1 => (
            &["ReCreate", "InPlaceIfPossible", "InPlaceOnly", "OnDelete"],
            "must be ReCreate, InPlaceIfPossible, InPlaceOnly or OnDelete",
        ),
        Version::V1beta1 => (&["", "RollingUpdate", "OnDelete"], "must be RollingUpdate or OnDelete"),
    };
    if !allowed.iter().any(|one| kind == **one) {
        faults.push(FieldError::invalid("spec.updateStrategy.type", kind, list));
    }
    let rolling = match (view.rolling, view.version) {
        (Some(rolling), _) => rolling,
        (None, Version::V1alpha1) => &Value::Null,
        (None, Version::V1beta1) => return,
    };
    let at = |field: &str| format!("{}.{field}", view.path);
    if view.version == Version::V1beta1
        && let Some(policy) = get(rolling, "podUpdatePolicy")
        && *policy != ""
        && !POLICIES.iter().any(|one| policy == *one)
    {
        let detail = "must be ReCreate, InPlaceIfPossible or InPlaceOnly";
        faults.push(FieldError::invalid(at("podUpdatePolicy"), policy.clone(), detail));
    }
    check_amount(get(rolling, "partition").unwrap_or(&Value::Null), &at("partition"), faults);
    let unavailable = get(rolling, "maxUnavailable").unwrap_or(&Value::Null);
    let unavailable_amount = check_amount(unavailable, &at("maxUnavailable"), faults);
    let surge = match get(rolling, "maxSurge") {
        None => Some(Amount::Count(0)),
        Some(value) => {
            let surge = check_amount(value, &at("maxSurge"), faults);
            if view.policy() == "InPlaceOnly" && surge.is_some_and(|surge| surge.resolve_up(100) > 0) {
                let detail = "can not use maxSurge with InPlaceOnly";
                faults.push(FieldError::invalid(at("maxSurge"), value.clone(), detail));
            }
            surge
        }
    };
    if let (Some(down), Some(up)) = (unavailable_amount, surge)
        && replicas > 0
        && down.resolve_up(replicas) < 1
        && up.resolve_up(replicas) < 1
    {
        let detail = "maxUnavailable and maxSurge should not both be less than 1";
        faults.push(FieldError::invalid(at("maxUnavailable"), unavailable.clone(), detail));
    }
    if let Some(priority) = get(rolling, "priorityStrategy") {
        check_priority(priority, &at("priorityStrategy"), faults);
    }
    if let Some(scatter) = get(rolling, "scatterStrategy") {
        check_scatter(scatter, &at("scatterStrategy"), faults);
    }
    // In v1alpha1 these are annotations; the spec fields of the same names are ignored.
    if view.version == Version::V1beta1
        && let Some(in_place) = get(rolling, "inPlaceUpdateStrategy")
    {
        check_pre_download(in_place, &at("inPlaceUpdateStrategy"), faults);
    }
}

fn check_priority(priority: &Value, path: &str, faults: &mut Vec<FieldError>) {
    let weights = get(priority, "weightPriority").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let orders = get(priority, "orderPriority").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if !weights.is_empty() && !orders.is_empty() {
        faults.push(FieldError::required(path, "only one of weightPriority and orderPriority can be used"));
    }
    for (index, term) in weights.iter().enumerate() {
        let path = format!("{path}.weightPriority[{index}]");
        let weight = get(term, "weight").map_or(Some(0), int32);
        if !weight.is_some_and(|weight| (0..=100).contains(&weight)) {
            faults.push(FieldError::required(
                format!("{path}.weight"),
                "weight must be valid and in the range 0-100",
            ));
        }
        let path = format!("{path}.matchSelector");
        match get(term, "matchSelector").map(|selector| Selector::parse(selector, &path)) {
            Some(Ok(selector)) if !selector.is_empty() => {}
            Some(Err(found)) => {
                let reasons: Vec<String> = found.iter().map(ToString::to_string).collect();
                let detail = format!("invalid label selector: {}", reasons.join(", "));
                faults.push(FieldError::required(path, detail));
            }
            _ => faults.push(FieldError::required(path, "selector can not be empty")),
        }
    }
    for (index, term) in orders.iter().enumerate() {
        if get(term, "orderedKey").and_then(Value::as_str).is_none_or(str::is_empty) {
            let path = format!("{path}.orderPriority[{index}].orderedKey");
            faults.push(FieldError::required(path, "orderedKey can not be empty"));
        }
    }
}

fn check_scatter(scatter: &Value, path: &str, faults: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, term) in scatter.as_array().into_iter().flatten().enumerate() {
        let text = |key: &str| get(term, key).and_then(Value::as_str).unwrap_or_default();
        let (key, value) = (text("key"), text("value"));
        if key.is_empty() {
            faults.push(FieldError::required(format!("{path}[{index}].key"), "key can not be empty"));
        } else if !seen.insert((key, value)) {
            faults.push(FieldError::required(
                format!("{path}[{index}]"),
                format!("duplicated scatter term {key}={value}"),
            ));
        }
    }
}

fn check_pre_download(in_place: &Value, path: &str, faults: &mut Vec<FieldError>) {
    if let Some(value) = get(in_place, "imagePreDownloadParallelism") {
        let number =
            value.as_str().map_or_else(|| int32(value), |text| text.parse::<i32>().ok().map(i64::from));
        if number.is_none_or(|number| number < 0) {
            let detail = "must be a non-negative integer, percentages are not supported";
            faults.push(FieldError::invalid(
                format!("{path}.imagePreDownloadParallelism"),
                value.clone(),
                detail,
            ));
        }
    }
    for field in ["imagePreDownloadTimeoutSeconds", "imagePreDownloadMinUpdatedReadyPods"] {
        if let Some(value) = get(in_place, field)
            && int32(value).is_none_or(|number| number < 0)
        {
            faults.push(FieldError::invalid(format!("{path}.{field}"), value.clone(), NOT_NEGATIVE));
        }
    }
}

fn check_progress_deadline(spec: &Value, faults: &mut Vec<FieldError>) {
    const PATH: &str = "spec.progressDeadlineSeconds";
    let Some(value) = get(spec, "progressDeadlineSeconds") else { return };
    let min_ready = get(spec, "minReadySeconds").and_then(int32).unwrap_or(0);
    let detail = match int32(value) {
        Some(deadline) if deadline == i64::from(i32::MAX) => return,
        Some(0..) if int32(value) > Some(min_ready) => return,
        Some(0..) => "must be greater than minReadySeconds",
        _ => NOT_NEGATIVE,
    };
    faults.push(FieldError::invalid(PATH, value.clone(), detail));
}

fn check_update(view: &View<'_>, old: &Value, options: Options, faults: &mut Vec<FieldError>) {
    let fixed = |spec: &Value| -> Vec<(String, Value)> {
        let fields = spec.as_object().into_iter().flatten();
        fields
            .filter(|(key, _)| !MUTABLE.contains(&key.as_str()))
            .filter_map(|(key, value)| Some((key.clone(), meaning(value)?)))
            .collect()
    };
    if fixed(view.spec) != fixed(old) {
        faults.push(FieldError::forbidden("spec", IMMUTABLE));
    }
    // With OnDelete the policy is a leftover: nothing is updated in place.
    let on_delete = view.kind.is_some_and(|kind| kind == "OnDelete");
    if view.policy() == "InPlaceOnly"
        && !on_delete
        && let (Some(new), Some(old)) = (get(view.spec, "template"), get(old, "template"))
        && let Err(detail) = check_in_place(old, new, options)
    {
        faults.push(FieldError::forbidden("spec.template", detail));
    }
}

/// A value without what means nothing: nulls, empty objects and empty lists.
fn meaning(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(fields) => {
            let kept: serde_json::Map<String, Value> =
                fields.iter().filter_map(|(key, value)| Some((key.clone(), meaning(value)?))).collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) => {
            (!items.is_empty()).then(|| items.iter().map(|item| meaning(item).unwrap_or_default()).collect())
        }
        _ => Some(value.clone()),
    }
}

/// Whether one template can be brought to running pods of the other; if not, what could.
fn check_in_place(old: &Value, new: &Value, options: Options) -> Result<(), String> {
    const IMAGES: &str = "only allowed to update images in spec for InPlaceOnly";
    // Both with today's defaults: one of them may have been stored when there were fewer.
    let (mut old, mut new) = (old.clone(), new.clone());
    for template in [&mut old, &mut new] {
        template_defaults::apply(template, TemplateDefaults::default());
    }
    if differ_by_images_only(&old, &new) {
        return Ok(());
    }
    if !options.vertical_scaling {
        return Err(IMAGES.to_owned());
    }
    let scaling = InPlaceOptions { vertical_scaling: true, ..InPlaceOptions::default() };
    match inplace::between(&old, &new, scaling) {
        Ok(_) => Ok(()),
        Err(why) => Err(format!("{IMAGES}, and cpu and memory of containers; {why}")),
    }
}

fn differ_by_images_only(old: &Value, new: &Value) -> bool {
    let mut new = new.clone();
    let containers = |template: &Value| -> Vec<Value> {
        template.pointer("/spec/containers").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let stored = containers(old);
    let submitted = new.pointer_mut("/spec/containers").and_then(Value::as_array_mut);
    for (container, stored) in submitted.into_iter().flatten().zip(&stored) {
        if let (Some(image), Some(was)) = (container.get_mut("image"), stored.get("image")) {
            *image = was.clone();
        }
    }
    new.get("spec") == old.get("spec")
}

/// A count, or a share of the replicas.
#[derive(Clone, Copy, Debug)]
enum Amount {
    Count(i64),
    Percent(f64),
}

impl Amount {
    /// An integer, or `<decimal>%`; a bare numeric string is neither.
    fn parse(value: &Value) -> Option<Self> {
        if let Some(text) = value.as_str() {
            let number = text.strip_suffix('%')?;
            let plain = number.strip_prefix(['-', '+']).unwrap_or(number);
            if !plain.chars().all(|c| c.is_ascii_digit() || c == '.') {
                return None;
            }
            return number.parse().ok().map(Self::Percent);
        }
        int32(value).map(Self::Count)
    }

    fn resolve_up(self, total: i64) -> i64 {
        match self {
            Self::Count(count) => count,
            Self::Percent(share) => (share * total as f64 / 100.0).ceil() as i64,
        }
    }

    fn is_negative(self) -> bool {
        match self {
            Self::Count(count) => count < 0,
            Self::Percent(share) => share < 0.0,
        }
    }
}

fn check_amount(value: &Value, path: &str, faults: &mut Vec<FieldError>) -> Option<Amount> {
    let detail = match Amount::parse(value) {
        Some(amount) if amount.is_negative() => NOT_NEGATIVE,
        Some(amount) => return Some(amount),
        None => "must be an integer or a percentage (e.g '5%')",
    };
    faults.push(FieldError::invalid(path, value.clone(), detail));
    None
}

/// A field that is set.
fn get<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).filter(|value| !value.is_null())
}

fn int32(value: &Value) -> Option<i64> {
    value.as_i64().filter(|number| i32::try_from(*number).is_ok())
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
