//! Asks the own server whether it serves, as the API server would: over TLS, trusting only the authority.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Why the server is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The authority is no certificate.
    #[error("the authority is not valid PEM")]
    Authority,
    /// The TLS settings are not accepted, or the authority is unusable.
    #[error("TLS settings: {0}")]
    Tls(#[from] rustls::Error),
    /// There is no connection, or its certificate is not trusted.
    #[error("connect: {0}")]
    Connect(#[from] std::io::Error),
    /// The connection broke.
    #[error("request: {0}")]
    Http(#[from] hyper::Error),
    /// The answer was another one than 200.
    #[error("/healthz answered {0}")]
    Status(StatusCode),
    /// There was no answer in time.
    #[error("no answer in time")]
    Slow,
}

/// Succeeds when `https://localhost:<port>/healthz` answers 200, trusting only the PEM bundle `authority`.
pub async fn probe(port: u16, authority: &[u8], within: Duration) -> Result<(), ProbeError> {
    tokio::time::timeout(within, ask(port, authority)).await.unwrap_or(Err(ProbeError::Slow))
}

async fn ask(port: u16, authority: &[u8]) -> Result<(), ProbeError> {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(authority) {
        roots.add(root.map_err(|_| ProbeError::Authority)?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").map_err(|_| ProbeError::Authority)?;
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static("/healthz");
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("localhost"));
    let answer = client.send_request(request);
    // The connection does the work; it ends by itself only on failure.
    tokio::pin!(answer, connection);
    let response = tokio::select! {
        biased;
        response = &mut answer => response?,
        ended = &mut connection => {
            ended?;
            answer.await?
        }
    };
    if response.status() == StatusCode::OK { Ok(()) } else { Err(ProbeError::Status(response.status())) }
}
