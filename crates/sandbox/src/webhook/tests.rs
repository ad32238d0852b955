use std::sync::atomic::{AtomicUsize, Ordering};

use http::Response;
use hyper::service::service_fn;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// A webhook on loopback with a certificate of its own, and how many connections it has accepted.
struct Server {
    address: SocketAddr,
    ca: String,
    connections: Arc<AtomicUsize>,
}

async fn serve(names: Vec<String>) -> Server {
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let ca = STANDARD.encode(made.cert.pem());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(answer);
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Server { address, ca, connections }
}

/// Echoes target and body; `/broken` fails and `/slow` never answers.
async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    match parts.uri.path() {
        "/broken" => {
            let mut response = Response::new(Full::new(Bytes::from_static(b"oh \"no\"\n")));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            Ok(response)
        }
        "/slow" => futures::future::pending().await,
        _ => {
            let said = format!("{} {}", parts.uri, String::from_utf8_lossy(&body));
            Ok(Response::new(Full::new(Bytes::from(said))))
        }
    }
}

fn caller(address: SocketAddr) -> Https {
    Https::new(Arc::new(move |namespace, name, port| {
        if (namespace, name, port) == ("system", "hook", 443) {
            Ok(address)
        } else {
            Err(format!("service {name:?} not found"))
        }
    }))
}

fn service(ca: &str, path: &str) -> Value {
    json!({"service": {"namespace": "system", "name": "hook", "path": path}, "caBundle": ca})
}

#[tokio::test]
async fn a_service_is_called_by_its_name_over_one_kept_connection() {
    let server = serve(vec!["hook.system.svc".to_owned()]).await;
    let caller = caller(server.address);
    for body in ["one", "two"] {
        let said = caller.call(&service(&server.ca, "/mutate"), Bytes::from(body), PATIENCE).await.unwrap();
        assert_eq!(said, format!("/mutate?timeout=10s {body}"));
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_url_is_called_as_it_stands() {
    let server = serve(vec!["127.0.0.1".to_owned()]).await;
    let url = format!("https://127.0.0.1:{}/validate", server.address.port());
    let client = json!({"url": url, "caBundle": server.ca});
    let said = caller(server.address).call(&client, Bytes::from("x"), PATIENCE).await.unwrap();
    assert_eq!(said, "/validate?timeout=10s x");
}

#[tokio::test]
async fn failures_are_told_in_the_words_of_a_go_client() {
    let server = serve(vec!["hook.system.svc".to_owned()]).await;
    let stranger = serve(vec!["hook.system.svc".to_owned()]).await;
    let caller = caller(server.address);
    let fail = async |client: Value, patience: Duration| {
        caller.call(&client, Bytes::new(), patience).await.unwrap_err()
    };
    assert_eq!(
        fail(service(&stranger.ca, "/x"), PATIENCE).await,
        "Post \"https://hook.system.svc:443/x?timeout=10s\": tls: failed to verify certificate: x509: certificate \
         signed by unknown authority"
    );
    assert_eq!(
        fail(json!({"service": {"namespace": "system", "name": "other"}}), PATIENCE).await,
        "Post \"https://other.system.svc:443/?timeout=10s\": service \"other\" not found"
    );
    assert_eq!(
        fail(service(&server.ca, "/broken"), PATIENCE).await,
        "an error on the server (\"oh \\\"no\\\"\") has prevented the request from succeeding"
    );
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    assert_eq!(
        fail(json!({"url": format!("https://127.0.0.1:{closed}/x")}), PATIENCE).await,
        format!(
            "Post \"https://127.0.0.1:{closed}/x?timeout=10s\": dial tcp 127.0.0.1:{closed}: connect: connection refused"
        )
    );
    assert_eq!(
        fail(service(&server.ca, "/slow"), Duration::from_millis(50)).await,
        "Post \"https://hook.system.svc:443/slow?timeout=0s\": context deadline exceeded"
    );
    assert_eq!(fail(json!({}), PATIENCE).await, "webhook configuration must have either service or URL");
}

#[tokio::test]
async fn calls_inside_the_process_fall_through_to_the_network() {
    let server = serve(vec!["hook.system.svc".to_owned()]).await;
    let inside = InProcess::before(Arc::new(caller(server.address)));
    inside.route("https://hook.system.svc:443/near", |_| async { Ok(Bytes::from_static(b"near")) });
    let near = inside.call(&service(&server.ca, "near"), Bytes::new(), PATIENCE).await.unwrap();
    let far = inside.call(&service(&server.ca, "/far"), Bytes::new(), PATIENCE).await.unwrap();
    assert_eq!((&near[..], &far[..]), (&b"near"[..], &b"/far?timeout=10s "[..]));
}
