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
    room: Room,
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
                if let Some(code) = object["refuse"].as_u64() {
                    return Verdict::error(u16::try_from(code).unwrap(), "asked to");
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
    let room = server.app.room.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let served = tokio::spawn(server.serve(listener, stopped));
    Running { address, data, store, registry, room, go, stop, served }
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
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
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

    /// How often which code was decided for a path.
    fn verdicts(&self, path: &str) -> Vec<(String, String)> {
        let families = self.registry.gather();
        let family = families.iter().find(|it| it.name() == "kruise_webhook_verdicts_total").unwrap();
        let of = |metric: &prometheus::proto::Metric, key: &str| {
            metric.get_label().iter().find(|label| label.name() == key).unwrap().value().to_owned()
        };
        let series = family.get_metric().iter().filter(|metric| of(metric, "webhook") == path);
        series.map(|it| (of(it, "code"), it.get_counter().get_value().to_string())).collect()
    }
}

fn request(path: &str, content_type: &str, body: impl Into<Bytes>) -> Request<http_body_util::Full<Bytes>> {
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

/// A review of one object with these fields.
fn conversion_of(fields: &Value) -> String {
    let mut object = json!({"apiVersion": "apps.kruise.io/v1alpha1", "kind": "CloneSet"});
    object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
        "request": {"uid": "u", "desiredAPIVersion": "apps.kruise.io/v1beta1", "objects": [object]}
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
        let body = conversion_of(&json!({"panic": bad}));
        let (code, body) = server.send("/convert", "application/json", body).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((code, &body["response"]["result"]["status"]), (StatusCode::OK, &json!(status)));
    }
}

#[tokio::test]
async fn what_was_decided_is_counted_although_every_answer_is_200() {
    let server = start(Limits::default()).await;
    let counted = |path: &str, codes: &[(&str, &str)]| {
        let expected: Vec<_> = codes.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!(server.verdicts(path), expected);
    };
    counted(PATH, &[("200", "0"), ("500", "0")]);
    counted(CONVERT_PATH, &[("200", "0"), ("500", "0")]);
    for object in
        [json!({}), json!({}), json!({"refuse": 403}), json!({"refuse": 422}), json!({"panic": true})]
    {
        server.review(review_of(&object)).await;
    }
    server.review("{").await;
    server.review(vec![b' '; ADMISSION_LIMIT + 1]).await;
    counted(PATH, &[("200", "2"), ("400", "1"), ("403", "1"), ("413", "1"), ("422", "1"), ("500", "1")]);
    for panics in [false, true] {
        server.send(CONVERT_PATH, "application/json", conversion_of(&json!({"panic": panics}))).await;
    }
    assert_eq!(server.send(CONVERT_PATH, "application/json", "{}").await.0, 400);
    counted(CONVERT_PATH, &[("200", "1"), ("500", "2")]);
}

#[tokio::test]
async fn who_finds_no_room_is_told_to_come_again_and_conversion_has_a_limit() {
    let limits = Limits { room: Duration::from_millis(10), ..Limits::default() };
    let server = start(limits).await;
    // Bodies that do not come keep nobody out.
    let mut held = Vec::new();
    for _ in 0..2 {
        let io = TokioIo::new(server.connect(&server.data, "http/1.1").await.unwrap());
        let (mut client, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let never = futures::stream::pending::<Result<hyper::body::Frame<Bytes>, io::Error>>();
        let sent = Request::post("/convert")
            .header(header::CONTENT_LENGTH, CONVERSION_LIMIT)
            .body(http_body_util::StreamBody::new(never))
            .unwrap();
        held.push(tokio::spawn(async move { client.send_request(sent).await.is_ok() }));
    }
    assert_eq!(server.review(review_of(&json!({}))).await["allowed"], true);
    let mut others = server.room.enter();
    assert!(others.more(usize::MAX, Duration::ZERO).await && server.room.left() == 0);
    let response = server.review(review_of(&json!({}))).await;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(429)));
    let io = TokioIo::new(server.connect(&server.data, "http/1.1").await.unwrap());
    let (mut client, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let sent = request(CONVERT_PATH, "application/json", conversion_of(&json!({})));
    let response = client.send_request(sent).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (503, &HeaderValue::from_static("1"))
    );
    drop(others);
    for request in held {
        request.abort();
    }
    assert_eq!(server.review(review_of(&json!({}))).await["allowed"], true);
    let (status, _) = server.send(CONVERT_PATH, "application/json", vec![b' '; CONVERSION_LIMIT + 1]).await;
    assert_eq!(status, 413);
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
async fn a_kept_connection_outlasts_the_patience_of_api_servers_but_not_for_ever() {
    let server = start(Limits::default()).await;
    let io = TokioIo::new(server.connect(&server.data, "http/1.1").await.unwrap());
    let (mut client, connection) = http1::handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = || request(PATH, "application/json", review_of(&json!({})));
    for idle in [95, 95] {
        assert_eq!(answer(client.send_request(ask()).await.unwrap()).await.0, 200);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(idle)).await;
        tokio::time::resume();
        client.ready().await.unwrap();
    }
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
    let ended = tokio::time::timeout(Duration::from_secs(10), connection).await.unwrap().unwrap();
    assert!(ended.is_err(), "without a word");
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
