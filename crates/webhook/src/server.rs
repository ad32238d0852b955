//! The HTTPS server. It answers admission and conversion reviews and survives whatever a client or handler does.

use std::any::Any;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::middleware::{self, Next};
use axum::routing;
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};
use rustls::ServerConfig;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info, warn};

use crate::certs::CertStore;
use crate::local::CONVERT_PATH;
use crate::review::{self, DecodeError, ReviewVersion, Verdict};
use crate::route::{Route, Router};

/// Largest admission body that is looked at.
pub const ADMISSION_LIMIT: usize = 7 * 1024 * 1024;
/// Largest conversion body: the API server sends whole lists.
const CONVERSION_LIMIT: usize = 256 * 1024 * 1024;
/// How much of an oversized body is read and thrown away, so that the client gets to see the answer.
const DISCARDED_LIMIT: usize = 32 * 1024 * 1024;

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the first request of a connection, and for the headers of each.
    pub headers: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// For requests in flight once the server is told to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(20),
            body: Duration::from_secs(30),
            drain: Duration::from_mins(1),
        }
    }
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The TLS settings are not accepted.
    #[error("TLS settings: {0}")]
    Tls(#[from] rustls::Error),
    /// The listening socket is broken.
    #[error("listener: {0}")]
    Listener(#[from] io::Error),
    /// A metric is registered twice.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The `controller_runtime_webhook_*` metrics.
#[derive(Clone, Debug)]
pub struct WebhookMetrics {
    requests: IntCounterVec,
    latency: HistogramVec,
    in_flight: IntGaugeVec,
    panics: IntCounter,
}

impl WebhookMetrics {
    /// Registers the metrics and creates the series of every path.
    pub fn register<'a>(
        registry: &Registry,
        paths: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new(
                    "controller_runtime_webhook_requests_total",
                    "Total number of admission requests by HTTP status code.",
                ),
                &["webhook", "code"],
            )?,
            latency: HistogramVec::new(
                HistogramOpts::new(
                    "controller_runtime_webhook_latency_seconds",
                    "Histogram of the latency of processing admission requests",
                ),
                &["webhook"],
            )?,
            in_flight: IntGaugeVec::new(
                Opts::new(
                    "controller_runtime_webhook_requests_in_flight",
                    "Current number of admission requests being served.",
                ),
                &["webhook"],
            )?,
            panics: IntCounter::new(
                "controller_runtime_webhook_panics_total",
                "Total number of webhook panics",
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.latency.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        registry.register(Box::new(metrics.panics.clone()))?;
        for path in paths {
            metrics.requests.with_label_values(&[path, "200"]);
            metrics.requests.with_label_values(&[path, "500"]);
            metrics.latency.with_label_values(&[path]);
            metrics.in_flight.with_label_values(&[path]);
        }
        Ok(metrics)
    }

    async fn measure(&self, path: &str, answer: impl Future<Output = Response<Body>>) -> Response<Body> {
        /// Counts down even when the client goes away and the request is dropped.
        struct InFlight(prometheus::IntGauge);
        impl Drop for InFlight {
            fn drop(&mut self) {
                self.0.dec();
            }
        }
        let in_flight = InFlight(self.in_flight.with_label_values(&[path]));
        in_flight.0.inc();
        let timer = self.latency.with_label_values(&[path]).start_timer();
        let response = answer.await;
        timer.observe_duration();
        self.requests.with_label_values(&[path, response.status().as_str()]).inc();
        response
    }
}

#[derive(Debug)]
struct App {
    router: Router,
    metrics: WebhookMetrics,
    limits: Limits,
}

/// The webhook server, ready to be given a listener.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    certificate: Arc<CertStore>,
    going: watch::Receiver<bool>,
}

impl Server {
    /// A server for these routes, with its metrics registered.
    pub fn new(
        router: Router,
        certificate: Arc<CertStore>,
        registry: &Registry,
        limits: Limits,
    ) -> Result<Self, ServeError> {
        let paths = router.routes.iter().map(|route| route.path.as_str()).chain([CONVERT_PATH]);
        let metrics = WebhookMetrics::register(registry, paths)?;
        let going = watch::channel(false).1;
        Ok(Self { app: Arc::new(App { router, metrics, limits }), certificate, going })
    }

    /// Serves until `shutdown` as ever, but once this is true ends each connection with its next answer. API servers talk
    /// HTTP/1.1 and keep connections, whatever becomes of the endpoint: one that is closed while a request is on its way
    /// fails that request, and this is how to have them leave on their own.
    #[must_use]
    pub fn until_going(mut self, going: watch::Receiver<bool>) -> Self {
        self.going = going;
        self
    }

    /// Serves until `shutdown` turns true, then lets requests in flight end.
    pub async fn serve(
        self,
        listener: TcpListener,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), ServeError> {
        let acceptor = TlsAcceptor::from(Arc::new(tls_config(self.certificate)?));
        let limits = self.app.limits;
        let going = self.going;
        let farewell = middleware::from_fn(move |request: Request<Body>, next: Next| {
            let going = going.clone();
            async move {
                let keeps = request.version() < Version::HTTP_2;
                let mut response = next.run(request).await;
                if keeps && *going.borrow() {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        });
        let service = axum::Router::new()
            .route("/healthz", routing::any(|| async { StatusCode::OK }))
            .route(CONVERT_PATH, routing::any(convert))
            .fallback(admit)
            .layer(farewell)
            .with_state(self.app);
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stopped(&mut shutdown) => break,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors or a client that is gone already: neither ends the server.
                    warn!(%error, "cannot accept a webhook connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            tokio::spawn(connection(stream, acceptor.clone(), service.clone(), graceful.watcher(), limits));
        }
        drop(listener);
        info!("webhook server drains");
        if tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_err() {
            warn!("webhook requests were still in flight at the end of the drain");
        }
        Ok(())
    }
}

/// Ends when the signal turns true or nobody is left to send it.
pub(crate) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

fn tls_config(certificate: Arc<CertStore>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    service: axum::Router,
    watcher: hyper_util::server::graceful::Watcher,
    limits: Limits,
) {
    // Answers are one small write; waiting for more to send only adds latency.
    let _ = stream.set_nodelay(true);
    let tls = match tokio::time::timeout(limits.handshake, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
        Err(_) => return debug!("TLS handshake took too long"),
    };
    let begun = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&begun);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        seen.store(true, Ordering::Relaxed);
        tower::ServiceExt::oneshot(service.clone(), request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.headers);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(15));
    let builder = if tls.get_ref().1.alpn_protocol() == Some(b"h2") { builder.http2_only() } else { builder };
    let served = watcher.watch(builder.serve_connection(TokioIo::new(tls), service).into_owned());
    tokio::pin!(served);
    let ended = tokio::select! {
        biased;
        ended = &mut served => Some(ended),
        () = tokio::time::sleep(limits.headers) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None if begun.load(Ordering::Relaxed) => served.await,
        None => return debug!("no request came on a webhook connection"),
    };
    if let Err(error) = ended {
        debug!(%error, "webhook connection ended");
    }
}

async fn admit(State(app): State<Arc<App>>, request: Request<Body>) -> Response<Body> {
    let path = request.uri().path();
    let Some(route) = app.router.find(path) else {
        return text(StatusCode::NOT_FOUND, "404 page not found");
    };
    app.metrics.measure(&route.path, review(&app, route, request)).await
}

async fn review(app: &App, route: &Route, request: Request<Body>) -> Response<Body> {
    let content_type = content_type(&request);
    let refuse = |verdict| json(&review::encode(ReviewVersion::V1, "", None, verdict));
    if !review::is_json(&content_type) {
        return refuse(Verdict::error(400, DecodeError::ContentType(content_type).to_string()));
    }
    let body = match read(request.into_body(), ADMISSION_LIMIT, app.limits.body).await {
        Ok(body) => body,
        Err(refused) => return refuse(refused.into()),
    };
    let (version, request) = match review::decode(&body) {
        Ok(decoded) => decoded,
        Err(error) => return refuse(Verdict::error(400, error.to_string())),
    };
    drop(body);
    let (uid, original) = (request.uid.clone(), request.object.clone());
    let decided = AssertUnwindSafe(async { (route.handler)(request).await }).catch_unwind().await;
    let verdict = decided.unwrap_or_else(|panic| {
        app.metrics.panics.inc();
        let message = panic_message(panic.as_ref());
        error!(webhook = route.path, message, "webhook handler panicked");
        Verdict::error(500, message)
    });
    json(&review::encode(version, &uid, original.as_ref(), verdict))
}

async fn convert(State(app): State<Arc<App>>, request: Request<Body>) -> Response<Body> {
    let answer = async {
        let body = match read(request.into_body(), CONVERSION_LIMIT, app.limits.body).await {
            Ok(body) => body,
            Err(refused) => {
                let status = StatusCode::from_u16(refused.code()).unwrap_or(StatusCode::BAD_REQUEST);
                return text(status, &refused.to_string());
            }
        };
        let converter = Arc::clone(&app.router.convert);
        let panics = app.metrics.panics.clone();
        let guarded = move |object: Value, desired: &str| {
            std::panic::catch_unwind(AssertUnwindSafe(|| converter(object, desired))).unwrap_or_else(
                |panic| {
                    panics.inc();
                    let message = panic_message(panic.as_ref());
                    error!(message, "conversion panicked");
                    Err(message)
                },
            )
        };
        // A list of thousands takes a while and must not hold up admission.
        match tokio::task::spawn_blocking(move || crate::convert::answer(&body, &guarded)).await {
            Ok(Ok(answer)) => json(&answer),
            Ok(Err(malformed)) => text(StatusCode::BAD_REQUEST, &malformed.to_string()),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    };
    app.metrics.measure(CONVERT_PATH, answer).await
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("request entity is too large; limit is {0}")]
    TooLarge(usize),
    #[error("the request body took too long")]
    Slow,
    #[error("the request body could not be read: {0}")]
    Broken(axum::Error),
}

impl ReadError {
    const fn code(&self) -> u16 {
        match self {
            Self::TooLarge(_) => 413,
            Self::Slow | Self::Broken(_) => 400,
        }
    }
}

impl From<ReadError> for Verdict {
    fn from(error: ReadError) -> Self {
        Self::error(error.code(), error.to_string())
    }
}

async fn read(mut body: Body, limit: usize, within: Duration) -> Result<Bytes, ReadError> {
    let all = async {
        let (mut kept, mut size) = (BytesMut::new(), 0_usize);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(ReadError::Broken)?.into_data() else { continue };
            size = size.saturating_add(data.len());
            if size <= limit {
                kept.extend_from_slice(&data);
            } else {
                kept = BytesMut::new();
                if size > limit.saturating_add(DISCARDED_LIMIT) {
                    break;
                }
            }
        }
        if size > limit { Err(ReadError::TooLarge(limit)) } else { Ok(kept.freeze()) }
    };
    tokio::time::timeout(within, all).await.unwrap_or(Err(ReadError::Slow))
}

fn content_type(request: &Request<Body>) -> String {
    let value = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {} [recovered]", text.unwrap_or("unknown"))
}

fn json(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(message.to_owned()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use hyper::client::conn::{http1, http2};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName};
    use serde_json::json;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;
    use crate::certs::{self, SecretData};
    use crate::probe::{OwnServer, ProbeError};

    const PATH: &str = "/mutate-apps-kruise-io-cloneset";

    struct Running {
        address: std::net::SocketAddr,
        data: SecretData,
        store: Arc<CertStore>,
        registry: Registry,
        go: watch::Sender<bool>,
        stop: watch::Sender<bool>,
        served: tokio::task::JoinHandle<Result<(), ServeError>>,
    }

    fn certificate() -> SecretData {
        certs::generate(None, "localhost", "2020-01-01T00:00:00Z".parse().unwrap(), false).unwrap()
    }

    fn use_certificate(store: &CertStore, data: &SecretData) {
        store.set(&data[certs::SERVER_CERT], &data[certs::SERVER_KEY], &data[certs::CA_CERT]).unwrap();
    }

    async fn start(limits: Limits) -> Running {
        let router = Router::new()
            .route(PATH, |request| {
                async move {
                    let mut object = request.object.unwrap();
                    assert_ne!(object["panic"], true, "asked to");
                    if object["slow"] == true {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                    object["spec"] = json!({"replicas": 1});
                    Verdict::patched(object)
                }
                .boxed()
            })
            .converter(|mut object, desired| {
                assert_ne!(object["panic"], true, "asked to");
                object["apiVersion"] = json!(desired);
                Ok(object)
            });
        let (data, store, registry) = (certificate(), Arc::new(CertStore::new()), Registry::new());
        use_certificate(&store, &data);
        let (go, going) = watch::channel(false);
        let server = Server::new(router, Arc::clone(&store), &registry, limits).unwrap().until_going(going);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(server.serve(listener, stopped));
        Running { address, data, store, registry, go, stop, served }
    }

    impl Running {
        async fn connect(&self, trusted: &SecretData, alpn: &str) -> io::Result<TlsStream<TcpStream>> {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(&trusted[certs::CA_CERT]).unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
            let stream = TcpStream::connect(self.address).await?;
            TlsConnector::from(Arc::new(config))
                .connect(ServerName::try_from("localhost").unwrap(), stream)
                .await
        }

        async fn send(&self, path: &str, content_type: &str, body: impl Into<Bytes>) -> (StatusCode, Bytes) {
            let io = TokioIo::new(self.connect(&self.data, "http/1.1").await.unwrap());
            let (mut client, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            answer(client.send_request(request(path, content_type, body)).await.unwrap()).await
        }

        async fn review(&self, body: impl Into<Bytes>) -> Value {
            let (status, body) = self.send(PATH, "application/json", body).await;
            assert_eq!(status, 200);
            serde_json::from_slice::<Value>(&body).unwrap()["response"].take()
        }

        fn count(&self, name: &str, code: Option<&str>) -> f64 {
            let families = self.registry.gather();
            let family = families.iter().find(|family| family.name() == name).unwrap();
            let of_code = |metric: &&prometheus::proto::Metric| {
                let label = |key: &str| {
                    let found = metric.get_label().iter().find(|label| label.name() == key);
                    found.map(prometheus::proto::LabelPair::value)
                };
                code.is_none() || (label("code") == code && label("webhook") == Some(PATH))
            };
            family.get_metric().iter().find(of_code).unwrap().get_counter().get_value()
        }
    }

    fn request(
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Request<http_body_util::Full<Bytes>> {
        Request::post(format!("https://localhost{path}"))
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, content_type)
            .body(http_body_util::Full::new(body.into()))
            .unwrap()
    }

    async fn answer(response: Response<Incoming>) -> (StatusCode, Bytes) {
        (response.status(), response.into_body().collect().await.unwrap().to_bytes())
    }

    fn review_of(object: &Value) -> String {
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "u", "operation": "CREATE", "object": object}
        })
        .to_string()
    }

    #[tokio::test]
    async fn an_object_is_patched_over_http1_and_http2() {
        let server = start(Limits::default()).await;
        let response = server.review(review_of(&json!({}))).await;
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("u"), &json!(true)));
        assert_eq!(response["patchType"], "JSONPatch");

        let io = TokioIo::new(server.connect(&server.data, "h2").await.unwrap());
        let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let alias = "/mutate-apps-kruise-io-v1alpha1-cloneset";
        let sent = request(alias, "application/json", review_of(&json!({})));
        let (status, body) = answer(client.send_request(sent).await.unwrap()).await;
        assert_eq!(status, 200);
        assert!(String::from_utf8_lossy(&body).contains("JSONPatch"));
        assert!((server.count("controller_runtime_webhook_requests_total", Some("200")) - 2.0).abs() < 0.1);
    }

    #[tokio::test]
    async fn bodies_that_cannot_be_used_get_their_code_in_the_answer() {
        let server = start(Limits::default()).await;
        for body in ["", "{", "{}", "[]"] {
            let response = server.review(body).await;
            assert_eq!(
                (&response["allowed"], &response["status"]["code"]),
                (&json!(false), &json!(400)),
                "{body}"
            );
        }
        let (status, body) = server.send(PATH, "text/plain", review_of(&json!({}))).await;
        assert_eq!(status, 200);
        assert!(String::from_utf8_lossy(&body).contains("contentType=text/plain, expected application/json"));
        let response = server.review(vec![b' '; ADMISSION_LIMIT + 1]).await;
        assert_eq!(response["status"]["code"], 413);
        assert_eq!(response["status"]["message"], "request entity is too large; limit is 7340032");
        assert_eq!(server.send("/healthz", "", "").await, (StatusCode::OK, Bytes::new()));
        assert_eq!(server.send("/nowhere", "", "").await.0, 404);
    }

    #[tokio::test]
    async fn a_panicking_handler_answers_500_and_the_next_request_is_fine() {
        let server = start(Limits::default()).await;
        let response = server.review(review_of(&json!({"panic": true}))).await;
        assert_eq!((&response["uid"], &response["status"]["code"]), (&json!("u"), &json!(500)));
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("panic: ") && message.ends_with(" [recovered]"), "{message}");
        assert!((server.count("controller_runtime_webhook_panics_total", None) - 1.0).abs() < 0.1);
        assert_eq!(server.review(review_of(&json!({}))).await["allowed"], true);
    }

    #[tokio::test]
    async fn conversion_answers_malformed_bodies_400_and_panics_with_a_failure() {
        let server = start(Limits::default()).await;
        assert_eq!(server.send("/convert", "application/json", "{}").await.0, 400);
        for (bad, status) in [(false, "Success"), (true, "Failure")] {
            let object = json!({"apiVersion": "apps.kruise.io/v1alpha1", "kind": "CloneSet", "panic": bad});
            let body = json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
                "request": {"uid": "u", "desiredAPIVersion": "apps.kruise.io/v1beta1", "objects": [object]}
            });
            let (code, body) = server.send("/convert", "application/json", body.to_string()).await;
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((code, &body["response"]["result"]["status"]), (StatusCode::OK, &json!(status)));
        }
    }

    #[tokio::test]
    async fn the_probe_succeeds_only_with_the_right_authority_and_name() {
        let server = start(Limits::default()).await;
        let within = Duration::from_secs(10);
        let probe = |host: &str, data: SecretData| {
            let certificate = Arc::new(CertStore::new());
            use_certificate(&certificate, &data);
            let own = OwnServer { port: server.address.port(), host: host.to_owned(), certificate };
            async move { own.probe(within).await }
        };
        probe("localhost", server.data.clone()).await.unwrap();
        assert!(matches!(probe("localhost", certificate()).await, Err(ProbeError::Connect(_))));
        assert!(matches!(probe("elsewhere", server.data.clone()).await, Err(ProbeError::Connect(_))));
        assert!(matches!(probe("no name", server.data.clone()).await, Err(ProbeError::Host)));
    }

    #[tokio::test]
    async fn a_new_certificate_is_served_from_the_next_handshake_on() {
        let server = start(Limits::default()).await;
        let other = certificate();
        assert!(server.connect(&other, "h2").await.is_err());
        use_certificate(&server.store, &other);
        assert!(server.connect(&other, "h2").await.is_ok());
        assert!(server.connect(&server.data, "h2").await.is_err());
    }

    #[tokio::test]
    async fn whoever_keeps_a_connection_is_asked_to_leave_before_it_is_closed() {
        let server = start(Limits::default()).await;
        let io = TokioIo::new(server.connect(&server.data, "http/1.1").await.unwrap());
        let (mut client, connection) = http1::handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        let ask = || request(PATH, "application/json", review_of(&json!({})));
        let kept = client.send_request(ask()).await.unwrap();
        assert_eq!(kept.headers().get(header::CONNECTION), None);
        assert_eq!(answer(kept).await.0, 200);
        server.go.send(true).unwrap();
        client.ready().await.unwrap();
        let last = client.send_request(ask()).await.unwrap();
        assert_eq!(last.headers()[header::CONNECTION], "close");
        assert_eq!(answer(last).await.0, 200);
        tokio::time::timeout(Duration::from_secs(10), connection).await.unwrap().unwrap().unwrap();
        // Who comes now is still served.
        assert_eq!(server.review(review_of(&json!({}))).await["allowed"], true);
    }

    #[tokio::test]
    async fn silent_clients_are_dropped_and_requests_in_flight_end_before_the_server_does() {
        use std::future::poll_fn;
        use tokio::io::{AsyncRead as _, ReadBuf};

        let limits = Limits {
            handshake: Duration::from_millis(100),
            headers: Duration::from_millis(100),
            ..Limits::default()
        };
        let server = start(limits).await;
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        let mut idle = server.connect(&server.data, "h2").await.unwrap();
        let io = TokioIo::new(server.connect(&server.data, "http/1.1").await.unwrap());
        let (mut client, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let slow = client.send_request(request(PATH, "application/json", review_of(&json!({"slow": true}))));
        let slow = tokio::spawn(slow);
        let ended = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                let mut bytes = [0; 64];
                let mut buffer = ReadBuf::new(&mut bytes);
                let read = poll_fn(|cx| std::pin::Pin::new(&mut silent).poll_read(cx, &mut buffer)).await;
                if read.is_err() || buffer.filled().is_empty() {
                    break;
                }
            }
            loop {
                let mut bytes = [0; 64];
                let mut buffer = ReadBuf::new(&mut bytes);
                let read = poll_fn(|cx| std::pin::Pin::new(&mut idle).poll_read(cx, &mut buffer)).await;
                if read.is_err() || buffer.filled().is_empty() {
                    break;
                }
            }
        });
        ended.await.unwrap();
        server.stop.send(true).unwrap();
        let response = slow.await.unwrap().unwrap();
        assert_eq!(answer(response).await.0, 200);
        drop(client);
        tokio::time::timeout(Duration::from_secs(10), server.served).await.unwrap().unwrap().unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    }
}
