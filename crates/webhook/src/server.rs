//! The HTTPS server. It answers admission and conversion reviews and survives whatever a client or handler does.

use std::any::Any;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
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
use crate::room::{Room, Taken};
use crate::route::{Route, Router};

/// Largest admission body that is looked at.
pub const ADMISSION_LIMIT: usize = 7 * 1024 * 1024;
/// Largest conversion body. API servers convert what they read from etcd object by object, and lists only where a client
/// gets them in a version they were not read in: this is a page of 500 objects of 64 KiB, and 20 times the largest object.
const CONVERSION_LIMIT: usize = 32 * 1024 * 1024;
/// What a byte under review is worth beside one to be converted: it becomes values, twice for an update, all at once.
const ADMISSION_WEIGHT: usize = 4;
/// What a byte to be converted is worth.
const CONVERSION_WEIGHT: usize = 1;
/// How much of an oversized body is read and thrown away, so that the client gets to see the answer.
const DISCARDED_LIMIT: usize = 32 * 1024 * 1024;

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the headers of the first request of a connection.
    pub headers: Duration,
    /// From one answer to the headers of the next request.
    pub idle: Duration,
    /// For room in memory, while others are served. API servers wait for 10 s unless they are told otherwise.
    pub room: Duration,
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
            // API servers keep a connection for 90 s (Go's IdleConnTimeout) and are to be the ones who close it: a request
            // that meets the close on its way fails, and with the failure policy Fail so does what the user asked for.
            idle: Duration::from_secs(100),
            room: Duration::from_secs(5),
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

/// The `controller_runtime_webhook_*` metrics, and what those cannot tell.
#[derive(Clone, Debug)]
pub struct WebhookMetrics {
    requests: IntCounterVec,
    /// Admission is answered with HTTP 200 whatever is decided, and so is a conversion that failed: the code of the
    /// former says nothing of these.
    verdicts: IntCounterVec,
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
            verdicts: IntCounterVec::new(
                Opts::new(
                    "kruise_webhook_verdicts_total",
                    "Reviews answered, by the status code inside the answer.",
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
        registry.register(Box::new(metrics.verdicts.clone()))?;
        registry.register(Box::new(metrics.latency.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        registry.register(Box::new(metrics.panics.clone()))?;
        for path in paths {
            for code in ["200", "500"] {
                metrics.requests.with_label_values(&[path, code]);
                metrics.verdicts.with_label_values(&[path, code]);
            }
            metrics.latency.with_label_values(&[path]);
            metrics.in_flight.with_label_values(&[path]);
        }
        Ok(metrics)
    }

    fn decided(&self, path: &str, code: u16) {
        self.verdicts.with_label_values(&[path, code.to_string().as_str()]).inc();
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
    room: Room,
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
        Ok(Self { app: Arc::new(App { router, metrics, limits, room: Room::new() }), certificate, going })
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
    // It also runs while a connection is kept.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle);
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
    let answer = |version, uid: &str, original: Option<&Value>, verdict: Verdict| {
        app.metrics.decided(&route.path, review::code_of(&verdict));
        json(&review::encode(version, uid, original, verdict))
    };
    let refuse = |verdict| answer(ReviewVersion::V1, "", None, verdict);
    let content_type = content_type(&request);
    if !review::is_json(&content_type) {
        return refuse(Verdict::error(400, DecodeError::ContentType(content_type).to_string()));
    }
    let body = read(app, request.into_body(), ADMISSION_LIMIT, ADMISSION_WEIGHT).await;
    let (body, _taken) = match body {
        Ok(read) => read,
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
    answer(version, &uid, original.as_ref(), verdict)
}

async fn convert(State(app): State<Arc<App>>, request: Request<Body>) -> Response<Body> {
    let answer = async {
        let (response, converted) = match converted(&app, request).await {
            Ok((text, succeeded)) => (json_text(text), succeeded),
            Err((StatusCode::SERVICE_UNAVAILABLE, message)) => (busy(&message), false),
            Err((status, message)) => (text(status, &message), false),
        };
        app.metrics.decided(CONVERT_PATH, if converted { 200 } else { 500 });
        response
    };
    app.metrics.measure(CONVERT_PATH, answer).await
}

/// The answered review and whether it was converted, or the status and text for a client that gets none.
async fn converted(app: &App, request: Request<Body>) -> Result<(String, bool), (StatusCode, String)> {
    let read = read(app, request.into_body(), CONVERSION_LIMIT, CONVERSION_WEIGHT).await;
    let (body, taken) = read.map_err(|refused| {
        let status = match refused.code() {
            429 => StatusCode::SERVICE_UNAVAILABLE,
            code => StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST),
        };
        (status, refused.to_string())
    })?;
    let converter = Arc::clone(&app.router.convert);
    let panics = app.metrics.panics.clone();
    let guarded = move |object: Value, desired: &str| {
        std::panic::catch_unwind(AssertUnwindSafe(|| converter(object, desired))).unwrap_or_else(|panic| {
            panics.inc();
            let message = panic_message(panic.as_ref());
            error!(message, "conversion panicked");
            Err(message)
        })
    };
    // A list of hundreds takes a while and must not hold up admission. It goes on when the client is gone.
    let answer = tokio::task::spawn_blocking(move || {
        let _taken = taken;
        let answer = crate::convert::answer(&body, &guarded)
            .map_err(|malformed| (StatusCode::BAD_REQUEST, malformed.to_string()))?;
        drop(body);
        let text = serde_json::to_string(&answer).map_err(|error| internal(&error))?;
        Ok((text, answer.succeeded()))
    });
    answer.await.map_err(|error| internal(&error))?
}

fn internal(error: &dyn std::error::Error) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("request entity is too large; limit is {0}")]
    TooLarge(usize),
    #[error("too many requests are under way; try again")]
    Busy,
    #[error("the request body took too long")]
    Slow,
    #[error("the request body could not be read: {0}")]
    Broken(axum::Error),
}

impl ReadError {
    const fn code(&self) -> u16 {
        match self {
            Self::TooLarge(_) => 413,
            Self::Busy => 429,
            Self::Slow | Self::Broken(_) => 400,
        }
    }
}

impl From<ReadError> for Verdict {
    fn from(error: ReadError) -> Self {
        Self::error(error.code(), error.to_string())
    }
}

/// The most that is made room for before it has come.
const FIRST: usize = 64 * 1024;

/// A body, with the room it takes.
async fn read(app: &App, mut body: Body, limit: usize, weight: usize) -> Result<(Bytes, Taken), ReadError> {
    let told = body.size_hint().upper().map_or(0, |told| usize::try_from(told).unwrap_or(usize::MAX));
    let fits = told <= limit;
    let mut taken = app.room.enter();
    let all = async {
        let (mut kept, mut size) = (BytesMut::with_capacity(told.min(FIRST)), 0_usize);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(ReadError::Broken)?.into_data() else { continue };
            size = size.saturating_add(data.len());
            if fits && size <= limit {
                if !taken.more(data.len().saturating_mul(weight), app.limits.room).await {
                    return Err(ReadError::Busy);
                }
                kept.extend_from_slice(&data);
            } else {
                // What is too large is not kept at all.
                (kept, taken) = (BytesMut::new(), app.room.enter());
                if size > limit.saturating_add(DISCARDED_LIMIT) {
                    break;
                }
            }
        }
        if size > limit { Err(ReadError::TooLarge(limit)) } else { Ok((kept.freeze(), taken)) }
    };
    tokio::time::timeout(app.limits.body, all).await.unwrap_or(Err(ReadError::Slow))
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
    json_text(value.to_string())
}

fn json_text(text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// API servers ask again by themselves when they are told when to.
fn busy(message: &str) -> Response<Body> {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, message);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn text(status: StatusCode, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(message.to_owned()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;
