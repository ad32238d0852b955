//! Reaching webhooks: over HTTPS as a real API server does, or inside the process, where tests need no sockets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error as TlsError, RootCertStore, crypto};

/// Sends reviews to webhooks.
pub trait WebhookCaller: Send + Sync {
    /// Posts the body to the webhook of a `clientConfig` and returns the answer's body.
    ///
    /// The error is what a real API server's HTTP client says. No answer within `patience` is an error.
    fn call<'a>(
        &'a self,
        client: &'a Value,
        body: Bytes,
        patience: Duration,
    ) -> BoxFuture<'a, Result<Bytes, String>>;
}

/// Where a webhook listens, as its `clientConfig` says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// `https://name.namespace.svc:443/path`, or the configured URL.
    pub url: String,
    /// The name its certificate must have.
    pub server_name: String,
    /// The port.
    pub port: u16,
    /// Path and query, at least `/`.
    pub path: String,
    /// Namespace and name of the service, unless a URL is configured.
    pub service: Option<(String, String)>,
    /// The certificates trusted, PEM.
    pub ca_bundle: Vec<u8>,
}

impl Endpoint {
    /// Reads a `clientConfig`.
    pub fn read(client: &Value) -> Result<Self, String> {
        let text = |value: &Value, field: &str| {
            value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let ca_bundle = STANDARD.decode(text(client, "caBundle").trim()).unwrap_or_default();
        if let Some(service) = client.get("service").filter(|service| !service.is_null()) {
            let (namespace, name) = (text(service, "namespace"), text(service, "name"));
            let port = service.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
            let port = port.unwrap_or(443);
            let path = format!("/{}", text(service, "path").trim_start_matches('/'));
            let server_name = format!("{name}.{namespace}.svc");
            let url = format!("https://{server_name}:{port}{path}");
            return Ok(Self { url, server_name, port, path, service: Some((namespace, name)), ca_bundle });
        }
        let url = text(client, "url");
        if url.is_empty() {
            return Err("webhook configuration must have either service or URL".to_owned());
        }
        let uri: http::Uri = url.parse().map_err(|error| format!("Unparsable URL: {error}"))?;
        let server_name = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        Ok(Self { url, server_name, port: uri.port_u16().unwrap_or(443), path, service: None, ca_bundle })
    }

    /// The failure of a call as Go's HTTP client words it.
    fn failure(&self, patience: Duration, why: &str) -> String {
        format!("Post \"{}?timeout={}s\": {why}", self.url, patience.as_secs())
    }
}

const TOO_SLOW: &str = "context deadline exceeded";

type Handler = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Result<Bytes, String>> + Send + Sync>;

/// Webhooks inside the process, by URL.
#[derive(Clone, Default)]
pub struct InProcess {
    routes: Arc<Mutex<HashMap<String, Handler>>>,
    otherwise: Option<Arc<dyn WebhookCaller>>,
}

impl InProcess {
    /// No webhooks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Webhooks inside the process, and `otherwise` for those that are not.
    pub fn before(otherwise: Arc<dyn WebhookCaller>) -> Self {
        Self { routes: Arc::default(), otherwise: Some(otherwise) }
    }

    /// Answers calls of a URL; of a service, it is `https://name.namespace.svc:443/path`.
    pub fn route<F, Fut>(&self, url: impl Into<String>, handler: F)
    where
        F: Fn(Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Bytes, String>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |body| handler(body).boxed());
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).insert(url.into(), handler);
    }

    async fn post(&self, client: &Value, body: Bytes, patience: Duration) -> Result<Bytes, String> {
        let endpoint = Endpoint::read(client)?;
        let found = self.routes.lock().unwrap_or_else(PoisonError::into_inner).get(&endpoint.url).cloned();
        match (found, &self.otherwise) {
            (Some(handler), _) => timeout(patience, handler(body))
                .await
                .unwrap_or_else(|_| Err(endpoint.failure(patience, TOO_SLOW))),
            (None, Some(otherwise)) => otherwise.call(client, body, patience).await,
            (None, None) => Err(endpoint.failure(patience, &unknown(&endpoint))),
        }
    }
}

/// Why an endpoint that does not exist cannot be reached.
fn unknown(endpoint: &Endpoint) -> String {
    match &endpoint.service {
        Some((_, name)) => format!("service {name:?} not found"),
        // Nobody listens at an address.
        None if endpoint.server_name.parse::<std::net::IpAddr>().is_ok() => {
            format!("dial tcp {}:{}: connect: connection refused", endpoint.server_name, endpoint.port)
        }
        None => format!("dial tcp: lookup {}: no such host", endpoint.server_name),
    }
}

impl WebhookCaller for InProcess {
    fn call<'a>(
        &'a self,
        client: &'a Value,
        body: Bytes,
        patience: Duration,
    ) -> BoxFuture<'a, Result<Bytes, String>> {
        self.post(client, body, patience).boxed()
    }
}

/// Finds the address of a service: namespace, name and port to a socket address, or why there is none.
pub type Resolver = Arc<dyn Fn(&str, &str, u16) -> Result<SocketAddr, String> + Send + Sync>;

type Connection = SendRequest<Full<Bytes>>;

/// Webhooks over HTTPS. Connections are kept for later calls.
#[derive(Clone)]
pub struct Https {
    resolve: Resolver,
    idle: Arc<Mutex<HashMap<String, Vec<Connection>>>>,
}

impl Https {
    /// A caller that finds services through `resolve`; URLs are resolved by the system.
    pub fn new(resolve: Resolver) -> Self {
        Self { resolve, idle: Arc::default() }
    }

    async fn post(&self, client: &Value, body: Bytes, patience: Duration) -> Result<Bytes, String> {
        let endpoint = Endpoint::read(client)?;
        let failure = |why: &str| endpoint.failure(patience, why);
        let call = self.exchange(&endpoint, &body, patience);
        let (status, answer) = match timeout(patience, call).await {
            Ok(result) => result.map_err(|why| failure(&why))?,
            Err(_) => return Err(failure(TOO_SLOW)),
        };
        if status.is_success() { Ok(answer) } else { Err(refusal(status, &answer)) }
    }

    async fn exchange(
        &self,
        endpoint: &Endpoint,
        body: &Bytes,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), String> {
        let key = format!("{} {}", endpoint.url, STANDARD.encode(&endpoint.ca_bundle));
        while let Some(mut kept) = self.take(&key) {
            if kept.ready().await.is_ok()
                && let Ok(answer) = send(&mut kept, endpoint, body.clone(), patience).await
            {
                self.keep(key, kept);
                return Ok(answer);
            }
        }
        let mut fresh = self.connect(endpoint).await?;
        let answer =
            send(&mut fresh, endpoint, body.clone(), patience).await.map_err(|error| match error {
                Exchange::Closed => "EOF".to_owned(),
                Exchange::Broken(why) => why,
            })?;
        self.keep(key, fresh);
        Ok(answer)
    }

    fn take(&self, key: &str) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(key)?.pop()?;
        if kept.is_closed() { None } else { Some(kept) }
    }

    fn keep(&self, key: String, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.entry(key).or_default().push(connection);
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Connection, String> {
        let stream = if let Some((namespace, name)) = &endpoint.service {
            let address = (self.resolve)(namespace, name, endpoint.port)?;
            TcpStream::connect(address).await.map_err(|error| dial(&address.to_string(), &error))?
        } else {
            let host = endpoint.server_name.as_str();
            let named = format!("{host}:{}", endpoint.port);
            TcpStream::connect((host, endpoint.port)).await.map_err(|error| dial(&named, &error))?
        };
        let name = ServerName::try_from(endpoint.server_name.clone())
            .map_err(|_| format!("invalid server name {:?}", endpoint.server_name))?;
        let connector = TlsConnector::from(Arc::new(trust(&endpoint.ca_bundle)?));
        let stream = connector.connect(name, stream).await.map_err(|error| handshake(&error))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl WebhookCaller for Https {
    fn call<'a>(
        &'a self,
        client: &'a Value,
        body: Bytes,
        patience: Duration,
    ) -> BoxFuture<'a, Result<Bytes, String>> {
        self.post(client, body, patience).boxed()
    }
}

enum Exchange {
    Closed,
    Broken(String),
}

async fn send(
    connection: &mut Connection,
    endpoint: &Endpoint,
    body: Bytes,
    patience: Duration,
) -> Result<(StatusCode, Bytes), Exchange> {
    let separator = if endpoint.path.contains('?') { '&' } else { '?' };
    let uri = format!("{}{separator}timeout={}s", endpoint.path, patience.as_secs());
    let request = Request::post(uri)
        .header(header::HOST, format!("{}:{}", endpoint.server_name, endpoint.port))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(body))
        .map_err(|error| Exchange::Broken(error.to_string()))?;
    let broken = |error: hyper::Error| {
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            Exchange::Closed
        } else {
            Exchange::Broken(error.to_string())
        }
    };
    let answer = connection.send_request(request).await.map_err(broken)?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(broken)?.to_bytes();
    Ok((status, body))
}

/// TLS that trusts these certificates and no others.
fn trust(pem: &[u8]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate =
            certificate.map_err(|error| format!("unable to load root certificates: {error}"))?;
        roots.add(certificate).map_err(|error| format!("unable to load root certificates: {error}"))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn dial(address: &str, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: {why}")
}

/// A failed handshake in the words of Go's TLS library.
fn handshake(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    let why = match inner {
        Some(TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => "x509: certificate signed by unknown authority".to_owned(),
        Some(TlsError::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "x509: certificate has expired or is not yet valid".to_owned(),
        Some(TlsError::InvalidCertificate(error)) => format!("x509: {error}"),
        _ if error.kind() == std::io::ErrorKind::UnexpectedEof => return "EOF".to_owned(),
        _ => return error.to_string(),
    };
    format!("tls: failed to verify certificate: {why}")
}

/// The JSON object an answer must be, or why it is none in the words of Kubernetes' Go client.
pub(crate) fn json_object(body: &[u8]) -> Result<Value, String> {
    if body.is_empty() {
        return Err("0-length response with status code: 200 and content type: application/json".to_owned());
    }
    let parsed: Value = serde_json::from_slice(body).unwrap_or_else(|_| "".into());
    let found = match &parsed {
        Value::Object(_) => return Ok(parsed),
        Value::Array(_) => "array",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::String(_) | Value::Null => "string",
    };
    Err(format!(
        "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type struct {{ \
         APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
    ))
}

/// The type of an object as Go prints it: `apps.kruise.io/v1alpha1, Kind=CloneSet`.
pub(crate) fn go_kind(object: &Value) -> String {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let version = text("apiVersion");
    let slash = if version.contains('/') { "" } else { "/" };
    format!("{slash}{version}, Kind={}", text("kind"))
}

/// An answer other than success in the words of Kubernetes' Go client.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    let given: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    if let (Some("Status"), Some(message)) =
        (given.get("kind").and_then(Value::as_str), given.get("message").and_then(Value::as_str))
    {
        return message.to_owned();
    }
    match status.as_u16() {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => String::from_utf8_lossy(body).trim().to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        code if code >= 500 => {
            let text = crate::schema::field::quoted(String::from_utf8_lossy(body).trim());
            format!("an error on the server ({text}) has prevented the request from succeeding")
        }
        code => {
            format!("the server responded with the status code {code} but did not return more information")
        }
    }
}

#[cfg(test)]
mod tests;
