//! HTTP requests of preStop hooks, as the kubelet makes them: over TLS with any certificate, and once more without TLS if
//! the other side does not speak it.

use std::io;
use std::sync::Arc;

use http::Request;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{HTTPGetAction, HTTPHeader};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::wire::{StoppableContainer, StoppablePod};

/// How a hook was answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answered {
    /// As it was asked.
    AsAsked,
    /// Without TLS, although with it was asked for.
    Plainly,
}

/// Where a hook goes.
#[derive(Debug, PartialEq)]
struct Target {
    host: String,
    port: u16,
}

impl Target {
    /// The pod's own address unless the hook names another, and the port by its number or by its name in the container.
    fn of(get: &HTTPGetAction, container: &StoppableContainer, pod: &StoppablePod) -> Result<Self, String> {
        let own = || pod.status.pod_ip.clone();
        let host =
            get.host.clone().filter(|host| !host.is_empty()).or_else(own).ok_or("the pod has no address")?;
        let by_name = |name: &str| {
            let ports = container.ports.iter().flatten();
            ports.filter(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port).next()
        };
        let port = match &get.port {
            IntOrString::Int(port) => Some(*port),
            IntOrString::String(text) => text.parse().ok().or_else(|| by_name(text)),
        };
        let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        Ok(Self { host, port: port.ok_or("the hook's port is unknown")? })
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| error.to_string())
    }

    fn authority(&self) -> String {
        let Self { host, port } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Asks as a hook wants it.
pub(crate) async fn http_get(
    get: &HTTPGetAction,
    container: &StoppableContainer,
    pod: &StoppablePod,
) -> Result<Answered, String> {
    let target = Target::of(get, container, pod)?;
    let headers = get.http_headers.as_deref().unwrap_or_default();
    if get.scheme.as_deref() != Some("HTTPS") {
        send(target.connect().await?, get, &target, headers).await?;
        return Ok(Answered::AsAsked);
    }
    match secure(target.connect().await?, &target.host).await {
        Ok(stream) => {
            send(stream, get, &target, headers).await?;
            Ok(Answered::AsAsked)
        }
        Err(error) if is_plain(&error) => {
            // What identifies the caller is not for every ear.
            let mut headers = headers.to_vec();
            headers.retain(|header| !header.name.eq_ignore_ascii_case("Authorization"));
            send(target.connect().await?, get, &target, &headers).await?;
            Ok(Answered::Plainly)
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    get: &HTTPGetAction,
    target: &Target,
    headers: &[HTTPHeader],
) -> Result<(), String> {
    let path = get.path.as_deref().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut request = Request::get(path);
    let own = [("Host", target.authority()), ("User-Agent", "kube-lifecycle".to_owned())];
    // A hook that names one of these means its own value alone.
    for (name, value) in own {
        if !headers.iter().any(|header| header.name.eq_ignore_ascii_case(name)) {
            request = request.header(name, value);
        }
    }
    for header in headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| error.to_string());
    connection.abort();
    let status = answer?.status();
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(format!("preStop hook answered {status}"))
    }
}

async fn secure(stream: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Whether the other side answered, but not in TLS.
fn is_plain(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidMessage(_)))
}

/// Takes every certificate: pods make theirs as they like, and the kubelet does not look at them either.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn pod() -> StoppablePod {
        serde_json::from_value(json!({"spec": {"containers": [
            {"name": "main", "ports": [{"name": "web", "containerPort": 8080}]}]}, "status": {"podIP": "10.0.0.9"}}))
        .unwrap()
    }

    fn action(get: Value) -> HTTPGetAction {
        serde_json::from_value(get).unwrap()
    }

    #[test]
    fn hooks_go_to_the_pods_address_and_ports_are_found_by_name() {
        let pod = pod();
        let unknown = || Err("the hook's port is unknown".to_owned());
        for (get, expected) in [
            (json!({"port": 80}), Ok(("10.0.0.9".to_owned(), 80))),
            (json!({"port": "web"}), Ok(("10.0.0.9".to_owned(), 8080))),
            (json!({"port": "81", "host": "other"}), Ok(("other".to_owned(), 81))),
            (json!({"port": "nope"}), unknown()),
            (json!({"port": 0}), unknown()),
            (json!({"port": 70000}), unknown()),
        ] {
            let target = Target::of(&action(get), &pod.spec.containers[0], &pod);
            assert_eq!(target.map(|target| (target.host, target.port)), expected);
        }
    }

    async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: &str) -> String {
        let (mut question, mut piece) = (Vec::new(), [0; 1024]);
        while !question.windows(4).any(|end| end == b"\r\n\r\n") {
            let length = stream.read(&mut piece).await.unwrap();
            if length == 0 {
                break;
            }
            question.extend_from_slice(&piece[..length]);
        }
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        String::from_utf8_lossy(&question).into_owned()
    }

    async fn ask(listener: &TcpListener, scheme: &str) -> Result<Answered, String> {
        let address = listener.local_addr().unwrap();
        let get = json!({"scheme": scheme, "host": address.ip().to_string(), "port": address.port(), "path": "/bye",
            "httpHeaders": [{"name": "Authorization", "value": "secret"}, {"name": "X-Why", "value": "update"}]});
        http_get(&action(get), &pod().spec.containers[0], &pod()).await
    }

    #[tokio::test]
    async fn a_hook_over_https_is_answered_whatever_the_certificate_is() {
        let own = rcgen::generate_simple_self_signed(["somebody.else".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        for (status, expected) in [
            ("200 OK", Ok(Answered::AsAsked)),
            ("500 Oops", Err("preStop hook answered 500 Internal Server Error".to_owned())),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let serve = async {
                let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                answer(stream, status).await
            };
            let (answered, question) = tokio::join!(ask(&listener, "HTTPS"), serve);
            assert_eq!(answered, expected);
            assert!(question.starts_with("GET /bye HTTP/1.1\r\n"), "{question}");
            assert!(question.contains("authorization: secret\r\n"), "{question}");
        }
    }

    #[tokio::test]
    async fn a_hook_over_https_that_speaks_http_only_is_asked_again_without_what_is_secret() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let serve = async {
            let mut first = listener.accept().await.unwrap().0;
            let mut hello = [0; 16];
            let length = first.read(&mut hello).await.unwrap();
            assert_eq!((length, hello[0]), (16, 22), "a greeting in TLS");
            first.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nno HTTP").await.unwrap();
            answer(listener.accept().await.unwrap().0, "204 No Content").await
        };
        let (answered, question) = tokio::join!(ask(&listener, "HTTPS"), serve);
        assert_eq!(answered, Ok(Answered::Plainly));
        assert!(question.contains("x-why: update\r\n"), "{question}");
        assert!(!question.to_lowercase().contains("authorization"), "{question}");
    }

    #[tokio::test]
    async fn a_hook_over_http_is_asked_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let serve = async { answer(listener.accept().await.unwrap().0, "302 Found").await };
        let (answered, question) = tokio::join!(ask(&listener, "HTTP"), serve);
        assert_eq!(answered, Ok(Answered::AsAsked));
        assert!(
            question.contains("authorization: secret\r\n") && question.contains("user-agent: kube-lifecycle")
        );
    }
}
