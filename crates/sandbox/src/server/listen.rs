//! The server on a port: HTTP and HTTPS, and what kubectl needs to find it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Server, Service};

/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificates could not be generated.
    #[error("cannot make a certificate")]
    Generate(#[from] rcgen::Error),
    /// The TLS library did not take them.
    #[error("cannot use the certificate")]
    Tls(#[from] tokio_rustls::rustls::Error),
}

/// The server's certificate and the authority that has signed it, made anew for every server.
#[derive(Clone)]
pub struct Identity {
    /// The authority's certificate, PEM: what clients trust.
    pub ca_pem: String,
    acceptor: TlsAcceptor,
}

impl Identity {
    /// Makes an authority and a certificate for these names and addresses.
    pub fn generate(names: &[&str]) -> Result<Self, IdentityError> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        ca.distinguished_name = named("sandbox-ca");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let ca_cert = ca.self_signed(&ca_key)?;
        let key = KeyPair::generate()?;
        let mut leaf =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        leaf.distinguished_name = named("kube-apiserver");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let cert = leaf.signed_by(&key, &Issuer::from_params(&ca, &ca_key))?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], private)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { ca_pem: ca_cert.pem(), acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// A kubeconfig for a server at `url`, e.g. `https://127.0.0.1:6443`; `ca_pem` for HTTPS.
pub fn kubeconfig(url: &str, ca_pem: Option<&str>) -> String {
    use base64::Engine as _;
    let authority = ca_pem.map_or_else(String::new, |pem| {
        let data = base64::engine::general_purpose::STANDARD.encode(pem);
        format!("    certificate-authority-data: {data}\n")
    });
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: sandbox\n  cluster:\n    server: {url}\n{authority}\
         users:\n- name: sandbox\n  user:\n    token: sandbox\n\
         contexts:\n- name: sandbox\n  context:\n    cluster: sandbox\n    user: sandbox\ncurrent-context: sandbox\n"
    )
}

impl Server {
    /// Serves HTTP until the listener fails or the future is dropped; connections end with it.
    pub async fn serve_http(&self, listener: TcpListener) -> io::Result<()> {
        self.accept(listener, None).await
    }

    /// Serves HTTPS until the listener fails or the future is dropped; connections end with it.
    pub async fn serve_https(&self, listener: TcpListener, identity: &Identity) -> io::Result<()> {
        self.accept(listener, Some(identity.acceptor.clone())).await
    }

    async fn accept(&self, listener: TcpListener, acceptor: Option<TlsAcceptor>) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = tokio::select! {
                biased;
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) if is_passing(&error) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                    Err(error) => return Err(error),
                },
                Some(_) = connections.join_next() => continue,
            };
            connections.spawn(connection(stream, acceptor.clone(), self.service()));
        }
    }
}

/// The fault is the client's, or lasts only as long as too many files are open.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
        || error.raw_os_error() == Some(24)
}

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, service: Service) {
    // Answers and events are small and wanted at once.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else { return speak(stream, service).await };
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => speak(stream, service).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, service: Service) {
    let builder = auto::Builder::new(TokioExecutor::new());
    let service = TowerToHyperService::new(service);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error = &*error, "connection ended");
    }
}
