//! Asks the own server whether it serves, as the API server would: over TLS, by the name it uses, trusting only the
//! authority that was published.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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

use crate::certs::CertStore;

/// Why the server is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no authority, or it is no certificate.
    #[error("there is no authority, or it is not valid PEM")]
    Authority,
    /// Nobody can be called so.
    #[error("the server's name is no name or address")]
    Host,
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

/// The webhook server of this process, as the API server would see it.
#[derive(Clone, Debug)]
pub struct OwnServer {
    /// The TLS port.
    pub port: u16,
    /// The name or address the certificate is for.
    pub host: String,
    /// What is served, and who vouches for it.
    pub certificate: Arc<CertStore>,
}

impl OwnServer {
    /// Succeeds when it answers, with a certificate that those trust who were told the authority.
    pub async fn probe(&self, within: Duration) -> Result<(), ProbeError> {
        let authority = self.certificate.authority().ok_or(ProbeError::Authority)?;
        probe(self.port, &self.host, &authority, within).await
    }
}

/// Succeeds when `https://<host>:<port>/healthz`, looked for on the loopback addresses, answers 200 with a certificate for
/// this name or address that the PEM bundle `authority` vouches for.
async fn probe(port: u16, host: &str, authority: &[u8], within: Duration) -> Result<(), ProbeError> {
    tokio::time::timeout(within, ask(port, host, authority)).await.unwrap_or(Err(ProbeError::Slow))
}

async fn ask(port: u16, host: &str, authority: &[u8]) -> Result<(), ProbeError> {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(authority) {
        roots.add(root.map_err(|_| ProbeError::Authority)?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let host_header = header::HeaderValue::from_str(host).map_err(|_| ProbeError::Host)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| ProbeError::Host)?;
    // A server of IPv6 may or may not get what comes by IPv4.
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let addresses = loopback.map(|address| SocketAddr::new(address, port));
    let stream = TcpStream::connect(&addresses[..]).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static("/healthz");
    request.headers_mut().insert(header::HOST, host_header);
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
