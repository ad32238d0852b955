//! The way of one request: what it asks, the faults it meets, the verb that answers it.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use super::answer::{Accept, Answer, Body, BodyError};
use super::fault::Fate;
use super::route::{self, Query, RequestInfo, Route, Target, Verb};
use super::storage::lock;
use super::{Server, answer, delete, patches, read, sub, watch, write};
use crate::builtin;
use crate::error::{ApiError, FieldError, Reason};
use crate::resource::{Resource, Version};

/// The largest body the server reads.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// A request to a resource on its way through the server.
pub(crate) struct Call {
    pub(crate) server: Server,
    pub(crate) info: RequestInfo,
    /// The resource as it was addressed.
    pub(crate) resource: Arc<Resource>,
    /// The resource its objects are stored as.
    pub(crate) stored_as: Arc<Resource>,
    /// Name of the table with its objects.
    pub(crate) table: String,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) accept: Accept,
    pub(crate) warnings: Mutex<Vec<String>>,
    /// Paths of fields that the body gives more than once.
    pub(crate) twice: Mutex<Vec<String>>,
}

impl Call {
    /// The key of the addressed object.
    pub(crate) fn key(&self) -> String {
        self.key_of(&self.info.name)
    }

    /// The key of an object of the addressed namespace.
    pub(crate) fn key_of(&self, name: &str) -> String {
        if self.resource.namespaced { format!("{}/{name}", self.info.namespace) } else { name.to_owned() }
    }

    /// The addressed version of the resource.
    pub(crate) fn version(&self) -> Option<&Version> {
        self.resource.version(&self.info.version)
    }

    /// Adds a `Warning` header to the answer.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let (mut warnings, text) = (lock(&self.warnings), text.into());
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// The same request on an object of another resource.
    pub(crate) fn on(&self, resource: &Arc<Resource>, info: RequestInfo) -> Self {
        let (table, stored_as) = self.server.stored_as(resource);
        Self {
            server: self.server.clone(),
            info,
            resource: Arc::clone(resource),
            stored_as,
            table,
            query: self.query.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            accept: self.accept,
            warnings: Mutex::default(),
            twice: Mutex::default(),
        }
    }

    /// 404 for the addressed object.
    pub(crate) fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.resource, &self.info.name)
    }

    /// `status`, `scale` and so on; `None` for the object itself.
    pub(crate) fn subresource(&self) -> Option<&str> {
        Some(self.info.subresource.as_str()).filter(|name| !name.is_empty())
    }
}

impl Server {
    /// Answers a request; `name` is the in-process client it comes from. An error is a broken connection.
    pub(crate) async fn handle<B>(
        &self,
        name: Option<Arc<str>>,
        request: Request<B>,
    ) -> Result<Response<Body>, BodyError>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let headers_only = request.method() == http::Method::HEAD;
        let response = self.whole(name, request).await?;
        Ok(if headers_only { response.map(|_| answer::empty()) } else { response })
    }

    /// The answer with its body, which a client may not have asked for.
    async fn whole<B>(&self, name: Option<Arc<str>>, request: Request<B>) -> Result<Response<Body>, BodyError>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let (parts, body) = request.into_parts();
        let accept = Accept::parse(&parts.headers);
        let target = match route::route(parts.uri.path()) {
            Route::Resource(target) => target,
            Route::Other => return Ok(self.other(&parts)),
        };
        let shown = accept.as_ref().ok().copied();
        let refuse = |error: &ApiError| Ok(Answer::error(error).response(shown, &[]));
        let query = Query::parse(parts.uri.query());
        let (resource, verb) = match self.find(&parts.method, &target, &query) {
            Ok(found) => found,
            Err(Missing::Group) => {
                return Ok(Answer::text(StatusCode::NOT_FOUND, "404 page not found\n").response(None, &[]));
            }
            Err(Missing::Resource) if self.is_custom_group(&target.group) => {
                return Ok(Answer::text(StatusCode::NOT_FOUND, "404 page not found\n").response(None, &[]));
            }
            Err(Missing::Resource) => return refuse(&ApiError::unknown_path()),
            Err(Missing::Method) => return refuse(&self.no_method(&parts.method, &target)),
        };
        let info = self.info(name, &parts.headers, target, verb, &query);
        let decision = self.0.config.interceptor.as_ref().map(|one| one.before(&info)).unwrap_or_default();
        if !decision.delay.is_zero() {
            tokio::time::sleep(decision.delay).await;
        }
        match decision.then {
            Fate::Fail(error) => {
                let mut response = Answer::error(&error).response(shown, &[]);
                retry_after(&mut response, &error);
                return Ok(response);
            }
            Fate::LoseRequest => return Err("connection reset by peer".into()),
            Fate::DieBefore => return std::future::pending().await,
            Fate::Proceed | Fate::LoseResponse | Fate::DieAfter => {}
        }
        let body = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return refuse(&ApiError::too_large());
            }
            Err(error) => return Err(error),
        };
        let accept = match accept {
            Ok(accept) => accept,
            Err(error) => return refuse(&error),
        };
        let (table, stored_as) = self.stored_as(&resource);
        let call = Arc::new(Call {
            server: self.clone(),
            info,
            resource,
            stored_as,
            table,
            query,
            headers: parts.headers,
            body,
            accept,
            warnings: Mutex::default(),
            twice: Mutex::default(),
        });
        let outcome = dispatch(&call).await;
        self.count(&call.info);
        if let Some(interceptor) = &self.0.config.interceptor {
            interceptor.after(&call.info, outcome.as_ref().map(|_| ()));
        }
        match decision.then {
            Fate::LoseResponse => return Err("connection reset by peer".into()),
            Fate::DieAfter => return std::future::pending().await,
            _ => {}
        }
        if let Some(text) = call.version().and_then(|version| version.deprecation.as_ref()) {
            call.warn(text.as_str());
        }
        let warnings = lock(&call.warnings).clone();
        Ok(match outcome {
            Ok(answer) => answer.response(Some(accept), &warnings),
            Err(error) => {
                let mut response = Answer::error(&error).response(Some(accept), &warnings);
                retry_after(&mut response, &error);
                response
            }
        })
    }

    fn find(
        &self,
        method: &http::Method,
        target: &Target,
        query: &Query,
    ) -> Result<(Arc<Resource>, Verb), Missing> {
        let registry = self.registry();
        let Some(resource) = registry.get(&target.group, &target.resource) else {
            return Err(if registry.has_group(&target.group) { Missing::Resource } else { Missing::Group });
        };
        let version = resource.version(&target.version).ok_or(Missing::Resource)?;
        // A namespaced collection can be addressed across namespaces, nothing else can be without its namespace.
        let placed = resource.namespaced != target.namespace.is_empty();
        if !placed && (!resource.namespaced || !target.name.is_empty()) {
            return Err(Missing::Resource);
        }
        let verb = route::verb(method, target, query).ok_or(Missing::Method)?;
        if target.subresource.is_empty() {
            let across = !placed && !matches!(verb, Verb::List | Verb::Watch);
            let named = verb == Verb::Create && !target.name.is_empty();
            if across || named || !builtin::verbs(&resource).contains(&verb.name()) {
                return Err(Missing::Method);
            }
        } else {
            if !version.subresources.contains(&target.subresource) {
                return Err(Missing::Resource);
            }
            let known = builtin::subresource(&resource.plural, &target.subresource);
            if !known.verbs.contains(&verb.name()) {
                return Err(Missing::Method);
            }
        }
        Ok((resource, verb))
    }

    /// 405; of a custom resource in words of its own.
    fn no_method(&self, method: &http::Method, target: &Target) -> ApiError {
        let found = self.registry().get(&target.group, &target.resource).filter(|resource| resource.custom);
        let Some(resource) = found.filter(|_| method == http::Method::DELETE) else {
            return ApiError::method_not_allowed();
        };
        let text = format!("delete is not supported on resources of kind {:?}", resource.qualified());
        ApiError::new(Reason::MethodNotAllowed, text).details(&resource.group, &resource.plural, "")
    }

    /// The group is that of a CustomResourceDefinition: its unknown paths are nobody's.
    fn is_custom_group(&self, group: &str) -> bool {
        self.registry().is_custom_group(group)
    }

    fn info(
        &self,
        name: Option<Arc<str>>,
        headers: &HeaderMap,
        target: Target,
        verb: Verb,
        query: &Query,
    ) -> RequestInfo {
        let agent =
            || headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        RequestInfo {
            number: self.next_number(),
            client: name.unwrap_or_else(|| Arc::from(agent())),
            verb,
            group: target.group,
            version: target.version,
            resource: target.resource,
            subresource: target.subresource,
            namespace: target.namespace,
            name: target.name,
            dry_run: query.all("dryRun").any(|value| value == "All"),
        }
    }

    /// Table and resource under which objects of a resource are stored.
    pub(crate) fn stored_as(&self, resource: &Arc<Resource>) -> (String, Arc<Resource>) {
        let aliased = builtin::stored_as(&resource.group, &resource.plural)
            .and_then(|(group, plural)| self.registry().get(group, plural));
        let stored = aliased.unwrap_or_else(|| Arc::clone(resource));
        (stored.qualified(), stored)
    }

    fn count(&self, info: &RequestInfo) {
        let mut what = info.resource.clone();
        if !info.group.is_empty() {
            what = format!("{what}.{}", info.group);
        }
        if !info.subresource.is_empty() {
            what = format!("{what}/{}", info.subresource);
        }
        *lock(&self.0.requests).entry((info.client.to_string(), info.verb, what)).or_default() += 1;
    }
}

enum Missing {
    Group,
    Resource,
    Method,
}

fn retry_after(response: &mut Response<Body>, error: &ApiError) {
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
}

async fn dispatch(call: &Arc<Call>) -> Result<Answer, ApiError> {
    check_options(call)?;
    if call.subresource().is_some_and(|name| name != "status") {
        return sub::run(call).await;
    }
    if call.info.verb == Verb::Create
        && let Some(answer) = sub::unstored(call).await
    {
        return answer;
    }
    match call.info.verb {
        Verb::Get => read::get(call).await,
        Verb::List => read::list(call).await,
        Verb::Watch => watch::open(call).await,
        Verb::Create => write::create(call).await,
        Verb::Update => write::update(call).await,
        Verb::Patch => patches::patch(call).await,
        Verb::Delete => delete::one(call).await,
        Verb::DeleteCollection => delete::collection(call).await,
    }
}

/// The options that all writes share.
fn check_options(call: &Call) -> Result<(), ApiError> {
    let kind = match call.info.verb {
        Verb::Create => "CreateOptions",
        Verb::Update => "UpdateOptions",
        Verb::Patch => "PatchOptions",
        // Those of a deletion may stand in its body: they are checked where they are read.
        _ => return Ok(()),
    };
    let mut errors = Vec::new();
    if let Some(bad) = call.query.all("dryRun").find(|value| *value != "All") {
        errors.push(FieldError::not_supported("dryRun", &Value::from(vec![bad]), &["All"]));
    }
    let manager = call.query.get("fieldManager");
    if manager.len() > 128 {
        errors.push(FieldError::too_long("fieldManager", 128));
    }
    if let Some((at, bad)) = manager.char_indices().find(|(_, one)| one.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(bad));
        errors.push(FieldError::invalid("fieldManager", &manager.into(), &why));
    }
    let validation = call.query.get("fieldValidation");
    if !matches!(validation, "" | "Ignore" | "Strict" | "Warn") {
        let known = ["", "Ignore", "Strict", "Warn"];
        errors.push(FieldError::not_supported("fieldValidation", &validation.into(), &known));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("meta.k8s.io", kind, "", &errors))
}
