//! Get and list.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, URL_SAFE_NO_PAD};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Form, write_list, write_object};
use super::handler::Call;
use super::selector::{Fields, Labels};
use super::storage::{Stored, lock, range};
use super::{convert, render};
use crate::error::{ApiError, FieldError};

/// Which objects of a table a request means.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// Prefix of the keys: the namespace.
    pub(crate) prefix: String,
    pub(crate) labels: Labels,
    pub(crate) fields: Fields,
}

impl Selection {
    /// Reads the request's selectors.
    pub(crate) fn of(call: &Call) -> Result<Self, ApiError> {
        let labels = Labels::parse(call.query.get("labelSelector")).map_err(ApiError::bad_request)?;
        let fields = match call.version() {
            Some(version) => Fields::parse(call.query.get("fieldSelector"), &call.resource, version)?,
            None => Fields::default(),
        };
        // A watch on a single object's path is a watch for its name.
        let prefix = if call.resource.namespaced && !call.info.namespace.is_empty() {
            format!("{}/", call.info.namespace)
        } else {
            String::new()
        };
        Ok(Self { prefix, labels, fields })
    }

    /// All objects under the prefix are meant.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The object (whose key has the prefix) is meant.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }
}

/// A `resourceVersion` parameter.
pub(crate) fn version_parameter(text: &str) -> Result<Option<u64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        ApiError::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

/// The same of a get or a watch, where a version that is no number is an error nobody expected.
pub(crate) fn version_awaited(text: &str) -> Result<Option<u64>, ApiError> {
    let bad = || {
        ApiError::unexplained(format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    };
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| bad()) }
}

/// A whole number in the query.
pub(crate) fn number_parameter(call: &Call, key: &str) -> Result<Option<i64>, ApiError> {
    let text = call.query.get(key);
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
}

/// Answers with one stored object.
pub(crate) async fn answer(call: &Call, status: StatusCode, stored: Arc<Stored>) -> Result<Answer, ApiError> {
    let stored = convert::fresh(call, stored).await?;
    if call.accept.form == Form::Table {
        return Ok(Answer::with(status, &render::table(call, &[stored], None)?));
    }
    call.accept.fits(&call.resource, false)?;
    let mut out = Vec::new();
    write_object(&call.resource, &call.info.version, call.accept.form, &stored, &mut out);
    Ok(Answer::Json(status, out.into()))
}

/// GET of one object.
pub(crate) async fn get(call: &Call) -> Result<Answer, ApiError> {
    let found = {
        let store = lock(&call.server.0.store);
        if let Some(asked) = version_awaited(call.query.get("resourceVersion"))?.filter(|rv| *rv > store.rv())
        {
            return Err(ApiError::too_large_version(asked, store.rv()));
        }
        store.get(&call.table, &call.key())
    };
    answer(call, StatusCode::OK, found.ok_or_else(|| call.not_found())?).await
}

/// What a list request asks for besides the selection.
#[derive(Debug)]
struct Page {
    limit: usize,
    at: Option<u64>,
    exact: bool,
    after: Option<String>,
}

/// What a list found.
struct Found {
    items: Vec<Arc<Stored>>,
    rv: u64,
    next: Option<String>,
    remaining: usize,
}

/// GET of a collection.
pub(crate) async fn list(call: &Call) -> Result<Answer, ApiError> {
    check_options(call)?;
    let selection = Selection::of(call)?;
    let page = page(call)?;
    let found = find(call, &selection, &page)?;
    let items = convert::shown(call, found.items).await?;
    let mut meta = Map::new();
    if call.resource.custom {
        // Lists of custom objects are not made from a structure that could leave it out.
        meta.insert("continue".to_owned(), Value::from(""));
    }
    meta.insert("resourceVersion".to_owned(), Value::from(found.rv.to_string()));
    if let Some(last) = &found.next {
        meta.insert("continue".to_owned(), Value::from(token(found.rv, last)));
        if selection.is_everything() {
            meta.insert("remainingItemCount".to_owned(), Value::from(found.remaining));
        }
    }
    let meta = Value::Object(meta);
    if call.accept.form == Form::Table {
        return Ok(Answer::ok(&render::table(call, &items, Some(&meta))?));
    }
    call.accept.fits(&call.resource, true)?;
    let body = write_list(&call.resource, &call.info.version, call.accept.form, &meta, &items);
    Ok(Answer::Json(StatusCode::OK, body))
}

fn check_options(call: &Call) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let (matching, version) = (call.query.get("resourceVersionMatch"), call.query.get("resourceVersion"));
    let path = "resourceVersionMatch";
    if !matching.is_empty() {
        if version.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(path, why));
        }
        if !call.query.get("continue").is_empty() {
            errors.push(FieldError::forbidden(
                path,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            errors.push(FieldError::not_supported(path, &matching.into(), &["Exact", "NotOlderThan", ""]));
        }
        if matching == "Exact" && version == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(path, why));
        }
    }
    if call.query.has("sendInitialEvents") {
        let why = "sendInitialEvents is forbidden for list";
        errors.push(FieldError::forbidden("sendInitialEvents", why));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &errors))
}

fn page(call: &Call) -> Result<Page, ApiError> {
    let limit = usize::try_from(number_parameter(call, "limit")?.unwrap_or(0)).unwrap_or(0);
    let asked = version_parameter(call.query.get("resourceVersion"))?;
    let next = call.query.get("continue");
    if next.is_empty() {
        // With a limit, a resourceVersion other than 0 means that very state, as paging needs it.
        let exact = match call.query.get("resourceVersionMatch") {
            "Exact" => true,
            "NotOlderThan" => false,
            _ => limit > 0 && asked.is_some_and(|rv| rv > 0),
        };
        return Ok(Page { limit, at: asked, exact, after: None });
    }
    if asked.is_some_and(|rv| rv > 0) {
        return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
    }
    let (rv, after) = read_token(next)?;
    let at = u64::try_from(rv).ok().filter(|rv| *rv > 0);
    Ok(Page { limit, at, exact: at.is_some(), after: Some(after) })
}

fn token(rv: u64, last: &str) -> String {
    let value = json!({"v": "meta.k8s.io/v1", "rv": rv, "start": format!("{last}\u{0}")});
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Reads tokens as the API server does, which overlooks bits that belong to no byte.
const LENIENT: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

fn read_token(text: &str) -> Result<(i64, String), ApiError> {
    let bad = |why: &str| {
        ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
    };
    let bytes = LENIENT
        .decode(text.trim_end_matches('='))
        .map_err(|error| bad(&format!("illegal base64 data at input byte: {error}")))?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|_| bad(&format!("invalid character {:?} looking for beginning of value", lead(&bytes))))?;
    let version = value.get("v").and_then(Value::as_str).unwrap_or_default();
    if version != "meta.k8s.io/v1" {
        return Err(bad(&format!("server does not recognize this encoded version {version}")));
    }
    let rv = value.get("rv").and_then(Value::as_i64).unwrap_or(0);
    let start = value.get("start").and_then(Value::as_str).unwrap_or_default();
    if rv == 0 {
        return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    if start.is_empty() {
        return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
    }
    Ok((rv, start.trim_end_matches('\u{0}').to_owned()))
}

fn lead(bytes: &[u8]) -> char {
    bytes.first().map_or('\u{0}', |c| char::from(*c))
}

fn find(call: &Call, selection: &Selection, page: &Page) -> Result<Found, ApiError> {
    let store = lock(&call.server.0.store);
    let now = store.rv();
    if let Some(asked) = page.at.filter(|rv| *rv > now) {
        return Err(ApiError::too_large_version(asked, now));
    }
    let after = page.after.as_deref();
    let past: Option<(u64, BTreeMap<_, _>)> = match page.at {
        Some(rv) if page.exact && rv < now => match store.at(&call.table, rv) {
            Some(objects) => Some((rv, objects)),
            None if page.after.is_some() => return Err(expired_token(after.unwrap_or_default())),
            None => {
                return Err(ApiError::expired("The resourceVersion for the provided list is too old."));
            }
        },
        _ => None,
    };
    let found = match &past {
        Some((rv, objects)) => select(range(objects, &selection.prefix, after), selection, page.limit, *rv),
        None => select(store.scan(&call.table, &selection.prefix, after), selection, page.limit, now),
    };
    Ok(found)
}

/// The token has expired; the one in the answer goes on from the same place with what is there now.
fn expired_token(after: &str) -> ApiError {
    let value = json!({"v": "meta.k8s.io/v1", "rv": -1, "start": format!("{after}\u{0}")});
    let mut error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the \
         continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with \
         the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the \
         first chunk was returned and now may show up in the list.",
    );
    error.list_continue = Some(URL_SAFE_NO_PAD.encode(value.to_string()));
    error
}

fn select<'a>(
    objects: impl Iterator<Item = (&'a Arc<str>, &'a Arc<Stored>)>,
    selection: &Selection,
    limit: usize,
    rv: u64,
) -> Found {
    let mut found = Found { items: Vec::new(), rv, next: None, remaining: 0 };
    let everything = selection.is_everything();
    let mut last: Option<&Arc<str>> = None;
    for (key, stored) in objects {
        if !everything && !selection.matches(&stored.value) {
            continue;
        }
        if limit > 0 && found.items.len() == limit {
            found.next = last.map(ToString::to_string);
            if !everything {
                break;
            }
            found.remaining += 1;
            continue;
        }
        last = Some(key);
        found.items.push(Arc::clone(stored));
    }
    found
}
