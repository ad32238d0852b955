//! The plain HTTP servers: health and metrics.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::{CONTENT_TYPE, Metrics};

/// A check that takes longer has failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// The name under which a replica that is going away is not ready.
const SHUTDOWN_CHECK: &str = "shutdown";

/// Where a server listens, as `--metrics-addr` and `--health-probe-addr` say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listen {
    /// Not at all.
    Disabled,
    /// On every address of the host.
    Everywhere(u16),
    /// On this `host:port`.
    At(String),
}

impl Listen {
    /// Reads `:8000`, `host:port`, `[::1]:8000`; empty and `0` disable.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text == "0" {
            return Ok(Self::Disabled);
        }
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| format!("address {text}: missing port in address"))?;
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(format!("address {text}: too many colons in address"));
        }
        let port: u16 = port.parse().map_err(|_| format!("address {text}: invalid port"))?;
        Ok(if host.is_empty() { Self::Everywhere(port) } else { Self::At(text.to_owned()) })
    }

    /// Starts listening; none when disabled. Hosts without IPv6 get IPv4.
    pub async fn bind(&self) -> io::Result<Option<TcpListener>> {
        match self {
            Self::Disabled => Ok(None),
            Self::Everywhere(port) => match TcpListener::bind(("::", *port)).await {
                Ok(listener) => Ok(Some(listener)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
                Err(_) => TcpListener::bind(("0.0.0.0", *port)).await.map(Some),
            },
            Self::At(address) => TcpListener::bind(address).await.map(Some),
        }
    }
}

/// Serves until `shutdown` is true or its sender is gone, then lets running requests finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let stopped = async move {
        // An error means that nobody is left to ask for a stop: that is one, too.
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, router).with_graceful_shutdown(stopped).await
}

/// `/metrics`.
pub fn metrics_router(metrics: Metrics) -> Router {
    let show = |State(metrics): State<Metrics>| async move {
        ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.render())
    };
    Router::new().route("/metrics", get(show)).with_state(metrics)
}

/// A named question whose answer may take a while; the error is for the log only.
type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What does not work fully and is no reason to fail a check.
type Notes = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Named checks, answered together or one by one.
#[derive(Clone, Default)]
pub struct Checks {
    named: Vec<(String, Check)>,
    notes: Vec<Notes>,
}

impl Checks {
    /// No checks: always passed.
    pub fn new() -> Self {
        Self::default()
    }

    /// These checks and one more.
    #[must_use]
    pub fn with<F, R>(mut self, name: &str, check: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.named.push((name.to_owned(), Arc::new(move || Box::pin(check()))));
        self.named.sort_by(|a, b| a.0.cmp(&b.0));
        self
    }

    /// These checks, and lines for those who ask for all details; they fail nothing.
    #[must_use]
    pub fn noting(mut self, notes: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        self.notes.push(Arc::new(notes));
        self
    }
}

/// What the health endpoints answer from.
#[derive(Clone)]
pub struct Health {
    /// Whether the process works; `ping` is always among them.
    pub healthz: Checks,
    /// Whether it should get requests.
    pub readyz: Checks,
    /// True from SIGTERM on: not ready at once, whatever the checks say.
    pub shutting_down: watch::Receiver<bool>,
}

/// `/healthz`, `/readyz` and each check below them.
pub fn health_router(health: Health) -> Router {
    let healthz = health.healthz.with("ping", || async { Ok(()) });
    let shutting_down = health.shutting_down;
    let readyz = health.readyz.with(SHUTDOWN_CHECK, move || {
        let going = *shutting_down.borrow();
        async move { if going { Err("the process is shutting down".to_owned()) } else { Ok(()) } }
    });
    Router::new().merge(endpoint("healthz", healthz, &[])).merge(endpoint(
        "readyz",
        readyz,
        &[SHUTDOWN_CHECK],
    ))
}

/// One endpoint; `always` names checks that cannot be excluded.
fn endpoint(name: &'static str, checks: Checks, always: &'static [&'static str]) -> Router {
    let state = Endpoint { name, checks, always };
    Router::new()
        .route(&format!("/{name}"), get(answer_all))
        .route(&format!("/{name}/"), get(answer_all))
        .route(&format!("/{name}/{{check}}"), get(answer_one))
        .with_state(state)
}

#[derive(Clone)]
struct Endpoint {
    name: &'static str,
    checks: Checks,
    always: &'static [&'static str],
}

async fn answer_all(State(endpoint): State<Endpoint>, RawQuery(query): RawQuery) -> Response {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    endpoint.answer(&endpoint.checks.named, query).await
}

async fn answer_one(
    State(endpoint): State<Endpoint>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let Some(check) = endpoint.checks.named.iter().find(|(check, _)| *check == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let verbose = Query::parse(query.as_deref().unwrap_or_default()).verbose;
    endpoint.answer(std::slice::from_ref(check), Query { verbose, exclude: BTreeSet::new() }).await
}

impl Endpoint {
    async fn answer(&self, checks: &[(String, Check)], mut query: Query) -> Response {
        let mut lines = String::new();
        let mut failed = false;
        for (name, check) in checks {
            let excluded = !self.always.contains(&name.as_str()) && query.exclude.remove(name);
            if excluded {
                let _ = writeln!(lines, "[+]{name} excluded: ok");
                continue;
            }
            let outcome = tokio::time::timeout(CHECK_TIMEOUT, check()).await;
            match outcome.unwrap_or_else(|_| Err("timed out".to_owned())) {
                Ok(()) => {
                    let _ = writeln!(lines, "[+]{name} ok");
                }
                Err(reason) => {
                    // The reason may hold what outsiders should not see: it goes to the log.
                    tracing::info!(endpoint = self.name, check = %name, %reason, "health check failed");
                    failed = true;
                    let _ = writeln!(lines, "[-]{name} failed: reason withheld");
                }
            }
        }
        if !query.exclude.is_empty() {
            let names: Vec<String> = query.exclude.iter().map(|name| format!("{name:?}")).collect();
            let names = names.join(",");
            let _ = writeln!(lines, "warn: some health checks cannot be excluded: no matches for {names}");
        }
        let (status, body) = if failed {
            let _ = writeln!(lines, "{} check failed", self.name);
            (StatusCode::INTERNAL_SERVER_ERROR, lines)
        } else if query.verbose {
            for note in self.checks.notes.iter().flat_map(|notes| notes()) {
                let _ = writeln!(lines, "[!]{note}");
            }
            // Both endpoints have always said "healthz" here.
            lines.push_str("healthz check passed\n");
            (StatusCode::OK, lines)
        } else {
            (StatusCode::OK, "ok".to_owned())
        };
        let headers = [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        (status, headers, body).into_response()
    }
}

/// `?verbose` and `?exclude=<check>`, which may be repeated.
struct Query {
    verbose: bool,
    exclude: BTreeSet<String>,
}

impl Query {
    fn parse(text: &str) -> Self {
        let mut query = Self { verbose: false, exclude: BTreeSet::new() };
        for pair in text.split('&') {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("verbose", _) => query.verbose = true,
                ("exclude", name) if !name.is_empty() => {
                    query.exclude.insert(name.to_owned());
                }
                _ => {}
            }
        }
        query
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use kruise_common::gates::FeatureGates;
    use tower::ServiceExt;

    use super::*;

    async fn fetch(router: &Router, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn router(webhook: Result<(), String>) -> (Router, watch::Sender<bool>) {
        let (stop, shutting_down) = watch::channel(false);
        let readyz = Checks::new().with("webhook-ready", move || {
            let webhook = webhook.clone();
            async move { webhook }
        });
        (health_router(Health { healthz: Checks::new(), readyz, shutting_down }), stop)
    }

    #[tokio::test]
    async fn a_healthy_process_says_ok() {
        let (router, _stop) = router(Ok(()));
        for path in ["/healthz", "/healthz/", "/healthz/ping", "/readyz", "/readyz/webhook-ready"] {
            assert_eq!(fetch(&router, path).await, (200, "ok".to_owned()), "{path}");
        }
        assert_eq!(fetch(&router, "/readyz/unknown").await.0, 404);
        assert_eq!(
            fetch(&router, "/readyz?verbose").await,
            (200, "[+]shutdown ok\n[+]webhook-ready ok\nhealthz check passed\n".to_owned())
        );
    }

    #[tokio::test]
    async fn what_works_in_part_only_is_told_to_those_who_ask_and_fails_nothing() {
        let (_stop, shutting_down) = watch::channel(false);
        let readyz = Checks::new().noting(|| vec!["clonesets is being deleted".to_owned()]);
        let router = health_router(Health { healthz: Checks::new(), readyz, shutting_down });
        assert_eq!(fetch(&router, "/readyz").await, (200, "ok".to_owned()));
        assert_eq!(
            fetch(&router, "/readyz?verbose").await,
            (200, "[+]shutdown ok\n[!]clonesets is being deleted\nhealthz check passed\n".to_owned())
        );
    }

    #[tokio::test]
    async fn a_failed_check_is_named_but_its_reason_is_not_told() {
        let (router, _stop) = router(Err("secret".into()));
        assert_eq!(
            fetch(&router, "/readyz").await,
            (
                500,
                "[+]shutdown ok\n[-]webhook-ready failed: reason withheld\nreadyz check failed\n".to_owned()
            )
        );
        assert_eq!(
            fetch(&router, "/readyz/webhook-ready").await,
            (500, "[-]webhook-ready failed: reason withheld\nreadyz check failed\n".to_owned())
        );
        assert_eq!(fetch(&router, "/healthz").await.0, 200);
    }

    #[tokio::test]
    async fn excluded_checks_are_skipped_and_unknown_ones_reported() {
        let (router, _stop) = router(Err("no".into()));
        assert_eq!(fetch(&router, "/readyz?exclude=webhook-ready").await, (200, "ok".to_owned()));
        assert_eq!(
            fetch(&router, "/readyz?verbose&exclude=webhook-ready&exclude=x").await.1,
            "[+]shutdown ok\n[+]webhook-ready excluded: ok\n\
             warn: some health checks cannot be excluded: no matches for \"x\"\nhealthz check passed\n"
        );
    }

    #[tokio::test]
    async fn readiness_ends_at_once_when_the_process_is_going_away() {
        let (router, stop) = router(Ok(()));
        stop.send(true).unwrap();
        let (status, body) = fetch(&router, "/readyz?exclude=shutdown").await;
        assert_eq!(status, 500);
        assert!(body.starts_with("[-]shutdown failed: reason withheld\n"), "{body}");
        assert_eq!(fetch(&router, "/healthz").await.0, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_has_failed() {
        let (_stop, shutting_down) = watch::channel(false);
        let healthz = Checks::new().with("stuck", std::future::pending);
        let router = health_router(Health { healthz, readyz: Checks::new(), shutting_down });
        assert_eq!(fetch(&router, "/healthz/stuck").await.0, 500);
    }

    #[tokio::test]
    async fn metrics_are_served_as_prometheus_text_until_shutdown() {
        let metrics = Metrics::new("v", "r", FeatureGates::default()).unwrap();
        let router = metrics_router(metrics);
        let (status, body) = fetch(&router, "/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains("kruise_build_info"));
        let listener = Listen::parse("127.0.0.1:0").unwrap().bind().await.unwrap().unwrap();
        let (stop, shutdown) = watch::channel(false);
        let server = tokio::spawn(serve(listener, router, shutdown));
        stop.send(true).unwrap();
        server.await.unwrap().unwrap();
    }

    #[test]
    fn addresses_are_read_as_the_flags_document_them() {
        for (text, expected) in [
            ("", Listen::Disabled),
            ("0", Listen::Disabled),
            (":8000", Listen::Everywhere(8000)),
            ("127.0.0.1:8000", Listen::At("127.0.0.1:8000".into())),
            ("[::1]:8000", Listen::At("[::1]:8000".into())),
            ("localhost:1", Listen::At("localhost:1".into())),
        ] {
            assert_eq!(Listen::parse(text), Ok(expected), "{text}");
        }
        for text in ["8000", "host", ":port", ":70000", "::1:80"] {
            assert!(Listen::parse(text).is_err(), "{text}");
        }
    }
}
