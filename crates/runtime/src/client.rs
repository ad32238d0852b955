//! The client of the API server: no rate limit of its own, and every request is counted, once even where kube repeats
//! it because the server was busy.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::USER_AGENT;
use http::{HeaderValue, Method, Request, Response};
use kube::client::{Body, ClientBuilder};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use tokio::time::{Instant, timeout};
use tower::{BoxError, Layer, Service};

/// Counters of requests to the API server. Clones count together.
#[derive(Clone, Debug)]
pub struct ClientMetrics {
    by_answer: IntCounterVec,
    by_resource: IntCounterVec,
    seconds: HistogramVec,
}

/// The controller on whose behalf a request is made; without one it is the process's own.
#[derive(Clone, Copy, Debug)]
struct Caller(&'static str);

/// A client like `base` whose requests are counted for a controller and name it as their user agent.
pub fn for_controller(base: &kube::Client, controller: &'static str) -> kube::Client {
    let (client, namespace) = (base.clone(), base.default_namespace().to_owned());
    let service = tower::service_fn(move |mut request: Request<Body>| {
        request.extensions_mut().insert(Caller(controller));
        let client = client.clone();
        async move { client.send(request).await }
    });
    kube::Client::new(service, namespace)
}

impl ClientMetrics {
    /// Counters in `registry`.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let by_answer = IntCounterVec::new(
            Opts::new("rest_client_requests_total", "Requests to the API server by answer, method and host"),
            &["code", "method", "host"],
        )?;
        let by_resource = IntCounterVec::new(
            Opts::new(
                "kruise_api_requests_total",
                "Requests to the API server by controller, verb and resource",
            ),
            &["controller", "verb", "resource"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "rest_client_request_duration_seconds",
                "Time until the API server's answer begins, by verb and host; watches are not among them",
            )
            .buckets(vec![0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0]),
            &["verb", "host"],
        )?;
        registry.register(Box::new(by_answer.clone()))?;
        registry.register(Box::new(by_resource.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self { by_answer, by_resource, seconds })
    }
}

/// A client for `config` that names itself `agent` and counts what it asks for. What stands before the slash of
/// `kruise-manager/<version>` is also the field manager of all that it writes.
///
/// # Errors
/// A `config` that no client can be made of: unreadable certificates, or an agent that is no header value.
pub fn client(mut config: kube::Config, agent: &str, metrics: ClientMetrics) -> anyhow::Result<kube::Client> {
    // An agent that is no header value would go unnoticed later.
    HeaderValue::try_from(agent)?;
    config.headers.retain(|(name, _)| name != USER_AGENT);
    // Watches of a peer that is gone end by themselves before.
    config.read_timeout.get_or_insert(SILENCE);
    let host = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
    let layer = CountLayer { metrics, host, agent: agent.to_owned() };
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
}

/// What the API server said, in its own words, or why it said nothing: once, and without how we hold it.
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether the API server refused to create something because the namespace is being deleted: it will never be created,
/// and what it was for goes as well.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.any(|cause| cause.reason == "NamespaceTerminating")
}

/// The API server ends requests after a minute; one that has not even said so by then is not there any more.
const ANSWER: Duration = Duration::from_secs(65);
/// A connection on which nothing has come for so long is given up.
const SILENCE: Duration = Duration::from_mins(5);

/// No answer has come.
#[derive(Debug, thiserror::Error)]
#[error("the API server has not answered within {} s", .0.as_secs())]
struct Silent(Duration);

#[derive(Clone, Debug)]
struct CountLayer {
    metrics: ClientMetrics,
    host: String,
    agent: String,
}

impl<S> Layer<S> for CountLayer {
    type Service = Count<S>;

    fn layer(&self, inner: S) -> Count<S> {
        Count { inner, metrics: self.metrics.clone(), host: self.host.clone(), agent: self.agent.clone() }
    }
}

/// Counts, and passes on.
#[derive(Clone, Debug)]
struct Count<S> {
    inner: S,
    metrics: ClientMetrics,
    host: String,
    agent: String,
}

impl<S, B> Service<Request<Body>> for Count<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = request.method().clone();
        let asked = classify(&method, request.uri().path(), request.uri().query().unwrap_or_default());
        let caller = request.extensions_mut().remove::<Caller>();
        let controller = caller.map_or("", |Caller(name)| name);
        self.metrics.by_resource.with_label_values(&[controller, asked.verb, asked.resource.as_str()]).inc();
        let program = self.agent.split('/').next().unwrap_or_default();
        let agent = match caller {
            Some(Caller(controller)) => HeaderValue::try_from(format!("{program}/{controller}")),
            None => HeaderValue::try_from(self.agent.as_str()),
        };
        if let Ok(agent) = agent {
            request.headers_mut().insert(USER_AGENT, agent);
        }
        let (by_answer, host) = (self.metrics.by_answer.clone(), self.host.clone());
        let (seconds, started) = (self.metrics.seconds.clone(), Instant::now());
        let answer = self.inner.call(request);
        let within = if asked.verb == "watch" { SILENCE } else { ANSWER };
        timeout(within, answer)
            .map(move |answer| {
                let answer =
                    answer.map_err(|_| Silent(within).into()).and_then(|answer| answer.map_err(Into::into));
                let code = answer.as_ref().ok().map(Response::status);
                let code = code.as_ref().map_or("<error>", http::StatusCode::as_str);
                by_answer.with_label_values(&[code, method.as_str(), host.as_str()]).inc();
                if asked.verb != "watch" {
                    let took = started.elapsed().as_secs_f64();
                    seconds.with_label_values(&[asked.verb, host.as_str()]).observe(took);
                }
                answer
            })
            .boxed()
    }
}

/// What a request asks for, in Kubernetes' terms.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: &'static str,
    /// A resource with its subresource, like `pods/status`; empty for paths that name none.
    pub resource: String,
}

/// Reads verb and resource from method, path and query. A dry run of a pod creation counts as the creation of a
/// `podtemplates`: it is how templates get their defaults, and no pod.
pub fn classify(method: &Method, path: &str, query: &str) -> Asked {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let prefix = match parts.first() {
        Some(&"api") => 2,
        Some(&"apis") => 3,
        _ => parts.len(),
    };
    let mut parts = parts.split_off(prefix.min(parts.len()));
    // `namespaces/x/pods` is about pods; `namespaces/x` and `namespaces/x/status` are about namespaces.
    let about_namespace = matches!(parts.as_slice(), [_, _, "status" | "finalize"]);
    if parts.first() == Some(&"namespaces") && parts.len() > 2 && !about_namespace {
        parts.drain(..2);
    }
    let (resource, named) = match parts.as_slice() {
        [] => (String::new(), true),
        [resource] => ((*resource).to_owned(), false),
        [resource, _] => ((*resource).to_owned(), true),
        [resource, _, subresource, ..] => (format!("{resource}/{subresource}"), true),
    };
    let has = |wanted: &[&str]| query.split('&').any(|pair| wanted.contains(&pair));
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ if has(&["watch=true", "watch=1", "watch"]) => "watch",
        _ if named => "get",
        _ => "list",
    };
    if verb == "create" && resource == "pods" && has(&["dryRun=All"]) {
        return Asked { verb, resource: "podtemplates".to_owned() };
    }
    Asked { verb, resource }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn verb_and_resource_are_read_from_the_request() {
        let table = [
            ("GET", "/api/v1/pods", "limit=500", "list", "pods"),
            ("GET", "/api/v1/pods", "&limit=500&watch=true", "watch", "pods"),
            ("GET", "/api/v1/namespaces/a/pods", "", "list", "pods"),
            ("GET", "/api/v1/namespaces/a/pods/b", "", "get", "pods"),
            ("POST", "/api/v1/namespaces/a/pods", "", "create", "pods"),
            ("POST", "/api/v1/namespaces/a/pods", "&dryRun=All", "create", "podtemplates"),
            ("POST", "/api/v1/namespaces/a/podtemplates", "dryRun=All", "create", "podtemplates"),
            ("POST", "/api/v1/namespaces/a/pods/b/eviction", "", "create", "pods/eviction"),
            ("PATCH", "/api/v1/namespaces/a/pods/b", "", "patch", "pods"),
            ("PATCH", "/api/v1/namespaces/a/pods/b/status", "", "patch", "pods/status"),
            ("PATCH", "/api/v1/namespaces/a/pods/b/resize", "", "patch", "pods/resize"),
            ("DELETE", "/api/v1/namespaces/a/pods/b", "", "delete", "pods"),
            ("DELETE", "/api/v1/namespaces/a/pods", "", "deletecollection", "pods"),
            (
                "PATCH",
                "/apis/apps.kruise.io/v1beta1/namespaces/a/clonesets/b/status",
                "",
                "patch",
                "clonesets/status",
            ),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "", "update", "leases"),
            ("GET", "/api/v1/namespaces", "", "list", "namespaces"),
            ("GET", "/api/v1/namespaces/a", "", "get", "namespaces"),
            ("PUT", "/api/v1/namespaces/a/finalize", "", "update", "namespaces/finalize"),
            ("GET", "/api/v1/nodes/status", "", "get", "nodes"),
            ("GET", "/version", "", "get", ""),
            ("GET", "/api/v1", "", "get", ""),
            ("GET", "/apis", "", "get", ""),
        ];
        for (method, path, query, verb, resource) in table {
            let asked = classify(&method.parse().unwrap(), path, query);
            assert_eq!((asked.verb, asked.resource.as_str()), (verb, resource), "{method} {path}?{query}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_nobody_answers_fails_after_a_minute_and_a_watch_later() {
        let silent = tower::service_fn(|_: Request<Body>| async {
            std::future::pending::<Result<Response<Body>, Infallible>>().await
        });
        let metrics = ClientMetrics::register(&Registry::new()).unwrap();
        let (host, agent) = ("cluster:6443".to_owned(), "kruise-manager/1.2".to_owned());
        let client = kube::Client::new(CountLayer { metrics, host, agent }.layer(silent), "default");
        let begun = Instant::now();
        let ask = |query: &str| {
            client.request_text(Request::get(format!("/api/v1/pods?{query}")).body(vec![]).unwrap())
        };
        let error = ask("limit=1").await.unwrap_err();
        assert!(said(&error).contains("has not answered within 65 s"), "{error}");
        assert_eq!(begun.elapsed(), ANSWER);
        ask("watch=true").await.unwrap_err();
        assert_eq!(begun.elapsed(), ANSWER + SILENCE);
    }

    /// A client that counts, of a server that knows no object called `gone`; and the user agents it was asked by.
    fn counting(metrics: &ClientMetrics) -> (kube::Client, Arc<Mutex<Vec<String>>>) {
        let agents = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&agents);
        let inner = tower::service_fn(move |request: Request<Body>| {
            let agent = request.headers()[USER_AGENT].to_str().unwrap().to_owned();
            seen.lock().unwrap().push(agent);
            let gone = request.uri().path().ends_with("/gone");
            let answer =
                Response::builder().status(if gone { 404 } else { 200 }).body(Body::empty()).unwrap();
            async move { Ok::<_, Infallible>(answer) }
        });
        let (host, agent) = ("cluster:6443".to_owned(), "kruise-manager/1.2".to_owned());
        let layer = CountLayer { metrics: metrics.clone(), host, agent };
        (kube::Client::new(layer.layer(inner), "default"), agents)
    }

    async fn ask(client: &kube::Client, path: &str) {
        client.send(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn every_request_is_counted_with_its_answer_and_its_time() {
        let registry = Registry::new();
        let metrics = ClientMetrics::register(&registry).unwrap();
        let (client, _) = counting(&metrics);
        for name in ["gone", "b", "c"] {
            ask(&client, &format!("/api/v1/namespaces/a/pods/{name}")).await;
        }
        ask(&client, "/api/v1/pods?watch=true").await;
        let answered = |code| metrics.by_answer.with_label_values(&[code, "GET", "cluster:6443"]).get();
        assert_eq!((answered("200"), answered("404")), (3, 1));
        assert_eq!(metrics.by_resource.with_label_values(&["", "get", "pods"]).get(), 3);
        let timed = |verb| metrics.seconds.with_label_values(&[verb, "cluster:6443"]).get_sample_count();
        assert_eq!((timed("get"), timed("watch")), (3, 0));
    }

    #[tokio::test]
    async fn requests_of_a_controller_are_told_apart_by_metric_and_user_agent() {
        let registry = Registry::new();
        let metrics = ClientMetrics::register(&registry).unwrap();
        let (client, agents) = counting(&metrics);
        let theirs = for_controller(&client, "cloneset-controller");
        ask(&client, "/api/v1/namespaces/a/pods/b").await;
        ask(&theirs, "/api/v1/namespaces/a/pods/b").await;
        ask(&theirs, "/api/v1/namespaces/a/pods/c").await;
        let counted = |controller| metrics.by_resource.with_label_values(&[controller, "get", "pods"]).get();
        assert_eq!((counted(""), counted("cloneset-controller")), (1, 2));
        let agents = agents.lock().unwrap();
        assert_eq!(agents[..2], ["kruise-manager/1.2", "kruise-manager/cloneset-controller"]);
    }
}
