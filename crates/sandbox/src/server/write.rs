//! Create and update, and the change of an object that all writes come to.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::answer::Answer;
use super::effects::CRDS;
use super::handler::Call;
use super::pipeline::{self, Rules};
use super::route::Verb;
use super::storage::{Refused, Stored, lock};
use super::{convert, decode, read};
use crate::error::{ApiError, FieldError, MODIFIED};
use crate::object;
use crate::patch::managers;
use crate::resource::Resource;

/// How often a write without a resourceVersion is tried anew on what somebody else has written meanwhile.
pub(crate) const TRIES: usize = 20;

/// POST of an object.
pub(crate) async fn create(call: &Arc<Call>) -> Result<Answer, ApiError> {
    let mut value = decode::object(call)?;
    pipeline::decode(call, &mut value)?;
    let stored = create_object(call, value, false).await?;
    read::answer(call, StatusCode::CREATED, stored).await
}

/// Stores a new object of the request's resource and version.
pub(crate) async fn create_object(
    call: &Call,
    mut value: Value,
    tracked: bool,
) -> Result<Arc<Stored>, ApiError> {
    check_namespace(call, &value)?;
    let given = object::resource_version(&value);
    if !given.is_empty() && given != "0" {
        return Err(ApiError::unexplained("resourceVersion should not be set on objects to be created"));
    }
    namespace_allows(call, &value)?;
    definition_allows(call, &value)?;
    let generated = object::name(&value).is_empty();
    let mut tries = 8;
    loop {
        // A generated name may be taken: only then is there another attempt.
        let mut attempt = if generated { value.clone() } else { value.take() };
        pipeline::create(call, &mut attempt, tracked).await?;
        let key = call.key_of(object::name(&attempt));
        let name = object::name(&attempt).to_owned();
        let attempt = convert::stored(call, attempt).await?;
        // Between the check above and here the namespace may have begun to go.
        namespace_allows(call, &attempt)?;
        let outcome = {
            let mut store = lock(&call.server.0.store);
            if call.info.dry_run {
                match store.get(&call.table, &key) {
                    Some(_) => Err(Refused::Exists),
                    None => Ok(Stored::as_is(attempt, 0)),
                }
            } else {
                store.insert(&call.table, &key, attempt)
            }
        };
        tries -= 1;
        match outcome {
            Ok(stored) => {
                if !call.info.dry_run {
                    call.server.stored(call, &stored);
                }
                return Ok(stored);
            }
            Err(_) if generated && tries > 0 => {}
            Err(_) => return Err(taken(call, &key, &name)),
        }
        object::set_meta(&mut value, "name", Value::Null);
    }
}

/// The name is taken, perhaps by an object that is going.
fn taken(call: &Call, key: &str, name: &str) -> ApiError {
    let mut error = ApiError::already_exists(&call.resource, name);
    let holder = lock(&call.server.0.store).get(&call.table, key);
    if holder.is_some_and(|holder| object::is_deleting(&holder.value)) {
        error.message.insert_str(0, "object is being deleted: ");
    }
    error
}

/// The object's namespace is that of the request.
pub(crate) fn check_namespace(call: &Call, value: &Value) -> Result<(), ApiError> {
    let given = object::namespace(value);
    // What has no namespace may name one: it is dropped.
    if call.resource.namespaced && !given.is_empty() && given != call.info.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// New objects may be made in the request's namespace.
fn namespace_allows(call: &Call, value: &Value) -> Result<(), ApiError> {
    let namespace = &call.info.namespace;
    if !call.resource.namespaced {
        return Ok(());
    }
    let namespaces = call.server.registry().get("", "namespaces");
    let found = lock(&call.server.0.store).get("namespaces", namespace);
    let Some(found) = found else {
        return Err(
            namespaces.map_or_else(ApiError::unknown_path, |one| ApiError::not_found(&one, namespace))
        );
    };
    if !object::is_deleting(&found.value) {
        return Ok(());
    }
    let shown = match object::name(value) {
        "" => value.pointer("/metadata/generateName").and_then(Value::as_str).unwrap_or_default(),
        name => name,
    };
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut error = ApiError::forbidden(&call.resource, shown, &why);
    if let Some(details) = error.details.as_object_mut() {
        let cause = json!({
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        });
        details.insert("causes".to_owned(), json!([cause]));
    }
    Err(error)
}

/// New custom objects may be made unless their definition goes.
fn definition_allows(call: &Call, value: &Value) -> Result<(), ApiError> {
    if !call.resource.custom {
        return Ok(());
    }
    let definition = lock(&call.server.0.store).get(CRDS, &call.table);
    if definition.is_none_or(|definition| !object::is_deleting(&definition.value)) {
        return Ok(());
    }
    let why = "create not allowed while custom resource definition is terminating";
    Err(ApiError::forbidden(&call.resource, object::name(value), why))
}

/// PUT of an object.
pub(crate) async fn update(call: &Arc<Call>) -> Result<Answer, ApiError> {
    let mut value = decode::object(call)?;
    pipeline::decode(call, &mut value)?;
    check_name(call, &value)?;
    check_namespace(call, &value)?;
    let stored = change(call, Rules::Of(call.subresource()), |_| Ok(value.clone())).await?;
    read::answer(call, StatusCode::OK, stored).await
}

/// The object's name is that of the request.
pub(crate) fn check_name(call: &Call, value: &Value) -> Result<(), ApiError> {
    let (given, wanted) = (object::name(value), call.info.name.as_str());
    if given.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        )));
    }
    if given != wanted {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({wanted})"
        )));
    }
    Ok(())
}

/// Changes the addressed object: `make` gets it in the request's version and returns what it is to become.
///
/// A resourceVersion in that result which is not the current one is a conflict; without one, the change is made on
/// whatever is there.
pub(crate) async fn change(
    call: &Call,
    rules: Rules<'_>,
    make: impl Fn(&Value) -> Result<Value, ApiError>,
) -> Result<Arc<Stored>, ApiError> {
    let key = call.key();
    for _ in 0..TRIES {
        let current = lock(&call.server.0.store).get(&call.table, &key).ok_or_else(|| call.not_found())?;
        if let Some(stored) = try_change(call, &key, rules, &current, &make).await? {
            return Ok(stored);
        }
    }
    Err(ApiError::conflict(&call.resource, &call.info.name, MODIFIED))
}

/// One try; `None` when somebody else was faster.
async fn try_change(
    call: &Call,
    key: &str,
    rules: Rules<'_>,
    current: &Arc<Stored>,
    make: impl Fn(&Value) -> Result<Value, ApiError>,
) -> Result<Option<Arc<Stored>>, ApiError> {
    let old = convert::seen(call, current).await?;
    let mut new = make(&old)?;
    check_uid(call, &old, &new)?;
    check_version(call, &old, &new)?;
    if let Rules::Of(subresource) | Rules::Applied(subresource) = rules {
        pipeline::update(call, subresource, &old, &mut new, rules == Rules::Applied(subresource)).await?;
    }
    object::set_meta(&mut new, "resourceVersion", Value::from(current.rv.to_string()));
    let gone = object::is_deleting(&new) && may_go(&new);
    let new = convert::stored(call, new).await?;
    if !gone && managers::unchanged(&current.value, &new) {
        return Ok(Some(Arc::clone(current)));
    }
    if call.info.dry_run {
        return Ok(Some(Stored::as_is(new, current.rv)));
    }
    // A change that named its version fails on the next try; one that did not is made anew.
    if gone {
        let removed = lock(&call.server.0.store).remove(&call.table, key, current.rv, None);
        let Ok(removed) = removed else { return Ok(None) };
        call.server.removed(call, &removed);
        // The answer is what the object would have become, under the version it had.
        return Ok(Some(Stored::as_is(new, current.rv)));
    }
    let stored = lock(&call.server.0.store).replace(&call.table, key, current.rv, new);
    let Ok(stored) = stored else { return Ok(None) };
    call.server.stored(call, &stored);
    Ok(Some(stored))
}

fn check_version(call: &Call, old: &Value, new: &Value) -> Result<(), ApiError> {
    let (given, own) = (object::resource_version(new), object::resource_version(old));
    if given.is_empty() || given == "0" {
        if needs_version(&call.resource) && call.info.verb == Verb::Update {
            let why = "must be specified for an update";
            let bad = FieldError::invalid("metadata.resourceVersion", &Value::from(0), why);
            // The API server names the resource where the kind belongs.
            let (group, plural) = (&call.resource.group, &call.resource.plural);
            return Err(ApiError::invalid(group, plural, &call.info.name, &[bad]));
        }
        return Ok(());
    }
    if given == own {
        return Ok(());
    }
    if given.parse::<u64>().is_err() {
        return Err(ApiError::unexplained(format!("strconv.ParseUint: parsing {given:?}: invalid syntax")));
    }
    Err(ApiError::conflict(&call.resource, &call.info.name, MODIFIED))
}

/// Kinds that cannot be replaced without naming the version that is replaced.
fn needs_version(resource: &Resource) -> bool {
    resource.custom
        || matches!(
            (resource.group.as_str(), resource.plural.as_str()),
            ("coordination.k8s.io", "leases")
                | ("policy", "poddisruptionbudgets")
                | ("apiextensions.k8s.io" | "admissionregistration.k8s.io", _)
                | ("discovery.k8s.io", "endpointslices")
        )
}

/// Nothing holds back an object that is being deleted any more.
fn may_go(value: &Value) -> bool {
    let grace = value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    let held = value.get("kind").and_then(Value::as_str) == Some("Namespace")
        && value.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    grace == 0 && !held && object::finalizers(value).next().is_none()
}

fn check_uid(call: &Call, old: &Value, new: &Value) -> Result<(), ApiError> {
    let (given, own) = (object::uid(new), object::uid(old));
    if given.is_empty() || given == own {
        return Ok(());
    }
    if call.info.verb != Verb::Update {
        let bad = FieldError::invalid("metadata.uid", &given.into(), "field is immutable");
        return Err(ApiError::invalid_object(&call.resource, &call.info.name, &[bad.clone(), bad]));
    }
    Err(another_uid(call, given, own))
}

/// The object at the key is another one than the writer means.
pub(crate) fn another_uid(call: &Call, given: &str, own: &str) -> ApiError {
    // The key is the one that the object has in etcd.
    let place = if call.resource.group.is_empty() { "" } else { &call.resource.group };
    let slash = if call.resource.custom { format!("{place}/") } else { String::new() };
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{slash}{}/{}, ResourceVersion: 0, AdditionalErrorMsg: \
         Precondition failed: UID in precondition: {given}, UID in object meta: {own}",
        call.resource.plural,
        call.key()
    );
    ApiError::conflict(&call.resource, &call.info.name, &why)
}
