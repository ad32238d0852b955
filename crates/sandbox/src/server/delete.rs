//! Delete: at once, gracefully, or as soon as finalizers let go.

use std::sync::Arc;

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::admit::Deletion;
use super::answer::{Answer, write_list};
use super::effects::{CLEANUP, CRDS};
use super::handler::Call;
use super::read::{self, Selection};
use super::route::Verb;
use super::storage::{Refused, Stored, lock};
use super::{convert, decode, pipeline};
use crate::error::{ApiError, FieldError};
use crate::object;

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) propagation: Option<String>,
    pub(crate) orphan: Option<bool>,
    pub(crate) dry_run: bool,
    /// What `dryRun` says in the body.
    asked_dry_run: Vec<String>,
}

impl Options {
    /// From the body, or from the query when there is none: with a body nothing in the query counts.
    pub(crate) fn of(call: &Call) -> Result<Self, ApiError> {
        let options = if call.body.is_empty() {
            let text = |key: &str| Some(call.query.get(key).to_owned()).filter(|text| !text.is_empty());
            let asked: Vec<String> = call.query.all("dryRun").map(str::to_owned).collect();
            Self {
                grace: read::number_parameter(call, "gracePeriodSeconds")?,
                propagation: text("propagationPolicy"),
                orphan: text("orphanDependents").map(|_| call.query.flag("orphanDependents")),
                dry_run: is_dry(&asked),
                asked_dry_run: asked,
                ..Self::default()
            }
        } else {
            Self::from_value(&decode::options(call)?)
        };
        options.check()?;
        Ok(options)
    }

    /// From a `DeleteOptions` object.
    pub(crate) fn from_value(value: &Value) -> Self {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let dry_run = value.get("dryRun").and_then(Value::as_array).into_iter().flatten();
        let asked_dry_run: Vec<String> = dry_run.filter_map(Value::as_str).map(str::to_owned).collect();
        Self {
            grace: value.get("gracePeriodSeconds").and_then(Value::as_i64),
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            propagation: text("/propagationPolicy"),
            orphan: value.get("orphanDependents").and_then(Value::as_bool),
            dry_run: is_dry(&asked_dry_run),
            asked_dry_run,
        }
    }

    /// The grace period asked for; what is below zero counts as a second.
    fn asked(&self) -> Option<i64> {
        self.grace.map(|seconds| if seconds < 0 { 1 } else { seconds })
    }

    /// As webhooks are shown them, with the grace period that the object gets.
    fn shown(&self, grace: Option<i64>) -> Value {
        let mut shown = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        let mut preconditions = json!({});
        for (field, given) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(given) = given {
                object::set(&mut preconditions, field, Value::from(given.as_str()));
            }
        }
        for (field, given) in [
            ("gracePeriodSeconds", grace.map(Value::from)),
            ("preconditions", Some(preconditions).filter(|all| *all != json!({}))),
            ("orphanDependents", self.orphan.map(Value::from)),
            ("propagationPolicy", self.propagation.as_deref().map(Value::from)),
            ("dryRun", self.dry_run.then(|| json!(["All"]))),
        ] {
            if let Some(given) = given {
                object::set(&mut shown, field, given);
            }
        }
        shown
    }

    fn check(&self) -> Result<(), ApiError> {
        let mut errors = Vec::new();
        if self.asked_dry_run.iter().any(|one| one != "All") {
            let given = Value::from(self.asked_dry_run.clone());
            errors.push(FieldError::not_supported("dryRun", &given, &["All"]));
        }
        if let Some(policy) = &self.propagation {
            if self.orphan.is_some() {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                errors.push(FieldError::invalid("propagationPolicy", &policy.as_str().into(), why));
            }
            let known = ["Foreground", "Background", "Orphan"];
            if !known.contains(&policy.as_str()) {
                let listed = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(FieldError::not_supported("propagationPolicy", &policy.as_str().into(), &listed));
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &errors))
    }
}

fn is_dry(asked: &[String]) -> bool {
    asked.iter().any(|one| one == "All")
}

/// What a delete did.
pub(crate) enum Deleted {
    /// The object is gone; its last state.
    Gone(Arc<Stored>),
    /// It is marked and waits for its grace period, finalizers or namespace content.
    Waiting(Arc<Stored>),
}

/// DELETE of one object.
pub(crate) async fn one(call: &Arc<Call>) -> Result<Answer, ApiError> {
    let options = Options::of(call)?;
    if call.resource.plural == "namespaces"
        && call.resource.group.is_empty()
        && matches!(call.info.name.as_str(), "default" | "kube-system" | "kube-public")
    {
        return Err(ApiError::forbidden(
            &call.resource,
            &call.info.name,
            "this namespace may not be deleted",
        ));
    }
    warn_of_orphans(call, &options);
    match delete(call, &call.key(), &call.info.name, &options).await? {
        Deleted::Waiting(stored) => {
            // Who asked explicitly not to orphan is told that the deletion is only accepted.
            let status = if options.orphan == Some(false) { StatusCode::ACCEPTED } else { StatusCode::OK };
            read::answer(call, status, stored).await
        }
        Deleted::Gone(stored) if returns_object(call) => read::answer(call, StatusCode::OK, stored).await,
        Deleted::Gone(stored) => Ok(Answer::ok(&success(call, &stored))),
    }
}

/// Kinds whose last state is the answer to their deletion; for others it is a Status.
fn returns_object(call: &Call) -> bool {
    let resource = &call.resource;
    matches!(
        (resource.group.as_str(), resource.plural.as_str()),
        (
            "",
            "pods"
                | "services"
                | "namespaces"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
                | "serviceaccounts"
        ) | (
            "storage.k8s.io",
            "storageclasses" | "csidrivers" | "csinodes" | "volumeattachments" | "volumeattributesclasses"
        ) | ("resource.k8s.io", _)
    )
}

fn success(call: &Call, stored: &Stored) -> Value {
    let mut details = json!({
        "name": object::name(&stored.value),
        "kind": call.resource.plural,
        "uid": object::uid(&stored.value),
    });
    if !call.resource.group.is_empty() {
        object::set(&mut details, "group", Value::from(call.resource.group.as_str()));
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// The key and state of an object of a collection.
type Meant = (Arc<str>, Arc<Stored>);

/// DELETE of a collection.
pub(crate) async fn collection(call: &Arc<Call>) -> Result<Answer, ApiError> {
    let options = Options::of(call)?;
    let selection = Selection::of(call)?;
    warn_of_orphans(call, &options);
    let (meant, rv): (Vec<Meant>, u64) = {
        let store = lock(&call.server.0.store);
        let meant = store
            .scan(&call.table, &selection.prefix, None)
            .filter(|(_, stored)| selection.matches(&stored.value))
            .map(|(key, stored)| (Arc::clone(key), Arc::clone(stored)))
            .collect();
        (meant, store.rv())
    };
    let mut last = Vec::with_capacity(meant.len());
    for (key, stored) in meant {
        match delete(call, &key, object::name(&stored.value), &options).await {
            Ok(Deleted::Gone(stored) | Deleted::Waiting(stored)) => last.push(stored),
            Err(error) if error.code() == 404 => {}
            Err(error) => return Err(error),
        }
    }
    let last = convert::shown(call, last).await?;
    let meta = json!({"resourceVersion": rv.to_string()});
    let body = write_list(&call.resource, &call.info.version, call.accept.form, &meta, &last);
    Ok(Answer::Json(StatusCode::OK, body))
}

/// Deletes an object of the call's resource as the options say, if nobody objects who may.
pub(crate) async fn delete(
    call: &Call,
    key: &str,
    name: &str,
    options: &Options,
) -> Result<Deleted, ApiError> {
    remove(call, key, name, options, true).await
}

/// The same for what was admitted as something else: nobody is asked.
pub(crate) async fn delete_admitted(call: &Call, options: &Options) -> Result<Deleted, ApiError> {
    remove(call, &call.key(), &call.info.name, options, false).await
}

async fn remove(
    call: &Call,
    key: &str,
    name: &str,
    options: &Options,
    asks: bool,
) -> Result<Deleted, ApiError> {
    loop {
        let found = lock(&call.server.0.store).get(&call.table, key);
        let current = found.ok_or_else(|| ApiError::not_found(&call.resource, name))?;
        let seen = convert::seen(call, &current).await?;
        check_preconditions(call, name, &seen, options)?;
        let grace = grace(call, &seen, options, call.server.now());
        if matches!(grace, Grace::Pending) {
            return Ok(Deleted::Waiting(current));
        }
        if asks {
            let shown = options.shown(grace.shown(call, &seen, options));
            pipeline::delete(call, &seen, &Deletion { options: &shown, dry_run: options.dry_run }).await?;
        }
        let instances = call.table == CRDS && !options.dry_run && call.server.clear_instances(&seen);
        let step = next(call, &seen, options, &grace, instances);
        if options.dry_run {
            return Ok(match step {
                Step::Mark(value) => Deleted::Waiting(Stored::as_is(value, current.rv)),
                Step::Remove(None) => Deleted::Gone(current),
                Step::Remove(Some(value)) => Deleted::Gone(Stored::as_is(value, current.rv)),
            });
        }
        let (outcome, gone) = match step {
            Step::Mark(value) if value == *seen => return Ok(Deleted::Waiting(current)),
            Step::Mark(value) => {
                let value = convert::stored(call, value).await?;
                (lock(&call.server.0.store).replace(&call.table, key, current.rv, value), false)
            }
            Step::Remove(last) => {
                (lock(&call.server.0.store).remove(&call.table, key, current.rv, last), true)
            }
        };
        match outcome {
            Ok(stored) if gone => {
                call.server.removed(call, &stored);
                return Ok(Deleted::Gone(stored));
            }
            Ok(stored) => {
                call.server.stored(call, &stored);
                return Ok(Deleted::Waiting(stored));
            }
            Err(Refused::Changed | Refused::Exists) => {}
        }
    }
}

fn check_preconditions(call: &Call, name: &str, current: &Value, options: &Options) -> Result<(), ApiError> {
    // The API server names the kind here where it names the resource elsewhere.
    let conflict = |why: String| {
        let resource = &call.resource;
        let qualified = if resource.group.is_empty() {
            resource.kind.clone()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let text = format!("Operation cannot be fulfilled on {qualified} {name:?}: {why}");
        ApiError::new(crate::error::Reason::Conflict, text).details(&resource.group, &resource.kind, name)
    };
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != object::uid(current)) {
        let own = object::uid(current);
        return Err(conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({own}). The object might have been deleted and then recreated"
        )));
    }
    let own = object::resource_version(current);
    if let Some(rv) = options.resource_version.as_deref().filter(|rv| *rv != own) {
        return Err(conflict(format!(
            "the ResourceVersion in the precondition ({rv}) does not match the ResourceVersion in record ({own}). The object might have been modified"
        )));
    }
    Ok(())
}

enum Step {
    /// It becomes this and waits.
    Mark(Value),
    /// It goes at once, with this as its last state if it is not the current one.
    Remove(Option<Value>),
}

/// What a delete of an object in this state does.
fn next(call: &Call, current: &Value, options: &Options, grace: &Grace, instances: bool) -> Step {
    let mut value = current.clone();
    let graceful = match *grace {
        Grace::Pending | Grace::None => false,
        Grace::Until(at, seconds) => {
            if !object::is_deleting(current) {
                raise_generation(&mut value);
            }
            object::set_meta(&mut value, "deletionTimestamp", Value::from(object::time(at)));
            object::set_meta(&mut value, "deletionGracePeriodSeconds", Value::from(seconds));
            true
        }
    };
    let mut finalizers = finalizers(current, options, orphans_by_default(call));
    if instances && !finalizers.iter().any(|one| one == CLEANUP) {
        finalizers.push(CLEANUP.to_owned());
    }
    let held = !finalizers.is_empty() || holds_namespace(call, current);
    object::set_meta(
        &mut value,
        "finalizers",
        if finalizers.is_empty() { Value::Null } else { Value::from(finalizers) },
    );
    if graceful {
        let seconds = value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
        return if held || seconds != Some(0) { Step::Mark(value) } else { Step::Remove(Some(value)) };
    }
    if !held {
        return Step::Remove(None);
    }
    if !object::is_deleting(current) {
        raise_generation(&mut value);
        object::set_meta(&mut value, "deletionTimestamp", Value::from(call.server.time()));
    }
    if call.resource.plural == "namespaces" && call.resource.group.is_empty() {
        // Namespaces show their end in their phase and have no grace period.
        let root = object::meta_mut(&mut value);
        root.remove("deletionGracePeriodSeconds");
        if let Some(status) = value.as_object_mut() {
            object::child_mut(status, "status").insert("phase".to_owned(), Value::from("Terminating"));
        }
    } else {
        object::set_meta(&mut value, "deletionGracePeriodSeconds", Value::from(0));
    }
    Step::Mark(value)
}

fn holds_namespace(call: &Call, current: &Value) -> bool {
    call.resource.plural == "namespaces"
        && call.resource.group.is_empty()
        && current.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

fn raise_generation(value: &mut Value) {
    let generation = value.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
    if generation > 0 {
        object::set_meta(value, "generation", Value::from(generation + 1));
    }
}

enum Grace {
    /// The kind has no grace period, or it is over.
    None,
    /// The object waits for its end already, and not longer than now asked.
    Pending,
    /// It may live until then.
    Until(Timestamp, i64),
}

impl Grace {
    /// The `gracePeriodSeconds` that webhooks are shown: of a pod that begins to go the one it gets, else as asked;
    /// all objects of a collection go by the options as they came.
    fn shown(&self, call: &Call, current: &Value, options: &Options) -> Option<i64> {
        match self {
            _ if call.info.verb == Verb::DeleteCollection => options.grace,
            Self::Until(_, seconds) if !object::is_deleting(current) => Some(*seconds),
            _ => options.asked(),
        }
    }
}

/// The grace period of a deletion; only pods have one.
fn grace(call: &Call, current: &Value, options: &Options, now: Timestamp) -> Grace {
    if call.resource.plural != "pods" || !call.resource.group.is_empty() {
        return Grace::None;
    }
    let asked = options.asked();
    let later = |from: Timestamp, seconds: i64| {
        from.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
    };
    if object::is_deleting(current) {
        let running =
            current.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
        if running == 0 {
            return Grace::None;
        }
        let Some(mut seconds) = asked.filter(|asked| *asked < running) else { return Grace::Pending };
        let end = current.pointer("/metadata/deletionTimestamp").and_then(Value::as_str);
        let end = end.and_then(|text| text.parse::<Timestamp>().ok()).unwrap_or(now);
        let mut at = later(end, seconds - running);
        if at < now {
            at = now;
            if seconds != 0 {
                seconds = 1;
            }
        }
        return Grace::Until(at, seconds);
    }
    let text = |pointer: &str| current.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let mut seconds = asked
        .or_else(|| current.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64))
        .unwrap_or(30);
    // A pod that never ran or has ended needs no time.
    if text("/spec/nodeName").is_empty() || matches!(text("/status/phase"), "Succeeded" | "Failed") {
        seconds = 0;
    }
    Grace::Until(later(now, seconds), seconds.max(0))
}

/// The finalizers the object has while it goes: its own, and what the garbage collector has to do for its dependents.
///
/// The options decide, else what the object asks for already, else the kind.
fn finalizers(current: &Value, options: &Options, orphans: bool) -> Vec<String> {
    let own: Vec<&str> = object::finalizers(current).collect();
    let asked = own.iter().find(|one| COLLECTOR.contains(*one)).copied();
    let wanted = match (options.orphan, options.propagation.as_deref()) {
        (Some(true), _) | (None, Some("Orphan")) => Some(ORPHAN),
        (None, Some("Foreground")) => Some(FOREGROUND),
        (Some(false), _) | (None, Some(_)) => None,
        (None, None) => asked.or(orphans.then_some(ORPHAN)),
    };
    let others = own.iter().filter(|one| !COLLECTOR.contains(*one)).copied();
    let kept: Vec<&str> = others.chain(wanted).collect();
    let same = kept.len() == own.len() && kept.iter().all(|one| own.contains(one));
    (if same { own } else { kept }).into_iter().map(str::to_owned).collect()
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// What the garbage collector takes away when it has seen to the dependents.
const COLLECTOR: [&str; 2] = [ORPHAN, FOREGROUND];

/// Kinds that keep their dependents unless told otherwise: they are older than the garbage collector.
/// <https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/registry/batch/job/strategy.go>
fn orphans_by_default(call: &Call) -> bool {
    matches!(
        (call.resource.group.as_str(), call.info.version.as_str(), call.resource.plural.as_str()),
        ("batch", "v1", "jobs") | ("", "v1", "replicationcontrollers")
    )
}

const KEPT_PODS: &str = "child pods are preserved by default when jobs are deleted; \
                         set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

/// Tells who deletes Jobs without a policy that their pods stay.
fn warn_of_orphans(call: &Call, options: &Options) {
    let unsaid = options.propagation.is_none() && options.orphan.is_none();
    if unsaid && call.resource.plural == "jobs" && orphans_by_default(call) {
        call.warn(KEPT_PODS);
    }
}
