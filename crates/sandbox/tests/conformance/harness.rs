//! Where a case's requests go, and the transcript that is compared.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use kruise_sandbox::server::{Config, Server};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use crate::known;
use crate::mask::Mask;

/// Merge patch, RFC 7386.
pub(crate) const MERGE: &str = "application/merge-patch+json";
/// JSON patch, RFC 6902.
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
/// Strategic merge patch.
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// Server-side apply.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// Headers worth comparing.
const HEADERS: [&str; 6] =
    ["content-type", "warning", "allow", "retry-after", "location", "x-content-type-options"];

/// Makes two tests of each case: one on the sandbox, one on the cluster that `CONFORMANCE_KUBECONFIG` names.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        mod sandbox {
            $(#[tokio::test]
            async fn $name() {
                crate::harness::on_sandbox(module_path!(), stringify!($name), |target| Box::pin(super::$name(target))).await;
            })*
        }
        mod cluster {
            $(#[tokio::test]
            async fn $name() {
                crate::harness::on_cluster(module_path!(), stringify!($name), |target| Box::pin(super::$name(target))).await;
            })*
        }
    };
}

type Case = fn(Target) -> futures::future::BoxFuture<'static, ()>;

/// An API server with a namespace that belongs to one case. `{ns}` and `{group}` in paths and bodies stand for names that
/// no other case uses.
#[derive(Clone)]
pub(crate) struct Target {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    ns: String,
    group: String,
    patience: Duration,
    state: Mutex<State>,
}

struct State {
    transcript: String,
    mask: Mask,
    leftovers: Vec<String>,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Answer {
    /// `metadata.resourceVersion`.
    pub(crate) fn version(&self) -> String {
        self.json["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
    }

    /// `metadata.name`.
    pub(crate) fn name(&self) -> String {
        self.json["metadata"]["name"].as_str().unwrap_or_default().to_owned()
    }

    /// `metadata.uid`.
    pub(crate) fn uid(&self) -> String {
        self.json["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
    }

    /// The object with a change.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut object = self.json.clone();
        change(&mut object);
        object
    }
}

/// A request before it is sent.
pub(crate) struct Call {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
}

impl Call {
    /// A request without a body.
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self { method: method.into(), path: path.into(), headers: Vec::new(), body: None }
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Asks for an answer of this media type.
    pub(crate) fn accept(self, media_type: &str) -> Self {
        self.header("accept", media_type)
    }

    /// Sends a text as this media type.
    pub(crate) fn body(mut self, media_type: &str, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self.header("content-type", media_type)
    }

    /// Sends JSON.
    pub(crate) fn json(self, body: &Value) -> Self {
        self.body("application/json", &body.to_string())
    }
}

impl Target {
    /// Sends the request and writes it and its answer down.
    pub(crate) async fn send(&self, call: Call) -> Answer {
        let title = format!("{} {}", call.method, call.path);
        let extra: Vec<String> =
            call.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let body = call.body.clone();
        let answer = self.quiet(call).await;
        let mut state = self.inner.state.lock().unwrap();
        let mut text = format!("### {}\n", state.mask.text(&title));
        for line in extra.iter().filter(|line| *line != "content-type: application/json") {
            writeln!(text, "{line}").unwrap();
        }
        if let Some(body) = body {
            let body = match serde_json::from_str::<Value>(&body) {
                Ok(value) if body.len() < 10_000 => state.mask.request(&value),
                _ => state.mask.text(body.get(..body.len().min(200)).unwrap_or_default()),
            };
            writeln!(text, "{body}").unwrap();
        }
        write!(text, "=> {}", answer.code).unwrap();
        for name in HEADERS {
            for value in answer.headers.get_all(name) {
                let value = state.mask.text(value.to_str().unwrap());
                if (name, value.as_str()) != ("content-type", "application/json")
                    && name != "x-content-type-options"
                {
                    write!(text, "\n{name}: {value}").unwrap();
                }
            }
        }
        let body = if answer.json.is_null() {
            state.mask.text(&answer.text)
        } else {
            state.mask.object(&answer.json)
        };
        writeln!(text, "\n{}\n", body.trim_end()).unwrap();
        state.transcript.push_str(&text);
        answer
    }

    /// Sends the request and writes nothing down.
    pub(crate) async fn quiet(&self, call: Call) -> Answer {
        let request = self.request(call);
        let response = tokio::time::timeout(self.inner.patience, self.inner.client.send(request));
        let response = response.await.expect("an answer in time").expect("an HTTP answer");
        let (parts, body) = response.into_parts();
        let body =
            tokio::time::timeout(self.inner.patience, body.collect()).await.expect("the whole body in time");
        let bytes = body.expect("a whole body").to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { code: parts.status.as_u16(), headers: parts.headers, text, json }
    }

    fn request(&self, call: Call) -> Request<Body> {
        let mut request = Request::builder().method(call.method.as_str()).uri(self.fill(&call.path));
        if !call.headers.iter().any(|(name, _)| name == "user-agent") {
            request = request.header("user-agent", "tester/1.0");
        }
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        let body = call.body.map_or_else(Body::empty, |text| Body::from(self.fill(&text).into_bytes()));
        request.body(body).unwrap()
    }

    /// The text with `{ns}` and `{group}` replaced.
    pub(crate) fn fill(&self, text: &str) -> String {
        text.replace("{ns}", &self.inner.ns).replace("{group}", &self.inner.group)
    }

    /// GET.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Call::new("GET", path)).await
    }

    /// POST.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Call::new("POST", path).json(&body)).await
    }

    /// PUT.
    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Call::new("PUT", path).json(&body)).await
    }

    /// PATCH.
    pub(crate) async fn patch(&self, path: &str, media_type: &str, body: Value) -> Answer {
        self.send(Call::new("PATCH", path).body(media_type, &body.to_string())).await
    }

    /// DELETE without a body.
    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Call::new("DELETE", path)).await
    }

    /// POST that is not written down and must succeed.
    pub(crate) async fn given(&self, path: &str, body: Value) -> Answer {
        let answer = self.quiet(Call::new("POST", path).json(&body)).await;
        assert_eq!(answer.code, 201, "{path}: {}", answer.text);
        self.inner.state.lock().unwrap().mask.object(&answer.json);
        answer
    }

    /// Reads the path until the condition holds; nothing is written down.
    pub(crate) async fn until(&self, path: &str, what: &str, holds: impl Fn(&Answer) -> bool) -> Answer {
        let deadline = tokio::time::Instant::now() + self.inner.patience;
        loop {
            let answer = self.quiet(Call::new("GET", path)).await;
            if holds(&answer) {
                return answer;
            }
            assert!(tokio::time::Instant::now() < deadline, "not in time: {what}: {}", answer.text);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path: &str) -> Watch {
        self.watch_as(path, "application/json").await
    }

    /// Opens a watch that is answered in this media type. A version in the path differs from run to run.
    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        let call = Call::new("GET", path).accept(accept);
        let response = self.inner.client.send(self.request(call)).await.expect("an HTTP answer");
        let shown: Vec<&str> = path.split('&').filter(|part| !part.starts_with("resourceVersion=")).collect();
        self.note(&format!("### WATCH {} as {accept}\n=> {}", shown.join("&"), response.status().as_u16()));
        let stream = response
            .into_body()
            .into_data_stream()
            .map(|chunk| chunk.map_err(|error| error.to_string()))
            .fuse();
        Watch { target: self.clone(), stream: stream.boxed(), buffer: String::new() }
    }

    /// Adds a line to the transcript.
    pub(crate) fn note(&self, text: &str) {
        let mut state = self.inner.state.lock().unwrap();
        let text = state.mask.text(text);
        writeln!(state.transcript, "{text}").unwrap();
    }

    /// From here on resource versions are not told apart.
    pub(crate) fn blur_versions(&self) {
        self.inner.state.lock().unwrap().mask.blur = true;
    }

    /// Deletes the path when the case is over, however it ends.
    pub(crate) fn leaves(&self, path: &str) {
        self.inner.state.lock().unwrap().leftovers.push(path.to_owned());
    }

    fn new(client: Client, patience: Duration) -> Self {
        let tag = format!("{:08x}", rand::random::<u32>());
        let (ns, group) = (format!("conformance-{tag}"), format!("g{tag}.example.com"));
        let mask = Mask::new(vec![
            (ns.clone(), "{ns}".into()),
            (group.clone(), "{group}".into()),
            (format!("g{tag}"), "{tag}".into()),
        ]);
        let state = Mutex::new(State { transcript: String::new(), mask, leftovers: Vec::new() });
        Self { inner: Arc::new(Inner { client, ns, group, patience, state }) }
    }

    /// Runs the case in its own namespace and tidies up; the transcript.
    async fn run(&self, case: Case) -> String {
        self.given("/api/v1/namespaces", json!({"metadata": {"name": "{ns}"}})).await;
        let outcome = tokio::spawn(case(self.clone())).await;
        let leftovers = std::mem::take(&mut self.inner.state.lock().unwrap().leftovers);
        for path in leftovers.iter().map(String::as_str).chain(["/api/v1/namespaces/{ns}"]) {
            self.quiet(Call::new("DELETE", path)).await;
        }
        if let Err(error) = outcome {
            std::panic::resume_unwind(error.into_panic());
        }
        self.inner.state.lock().unwrap().transcript.trim_end().to_owned() + "\n"
    }
}

/// A running watch.
pub(crate) struct Watch {
    target: Target,
    stream: futures::stream::BoxStream<'static, Result<bytes::Bytes, String>>,
    buffer: String,
}

impl Watch {
    /// The next event, written down; `None` when the server has ended the watch.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let event = self.unwritten().await;
        self.write(event.as_ref());
        event
    }

    /// The events about what is there at the start, which come in any order, written down by name.
    pub(crate) async fn first(&mut self, count: usize) {
        let mut events = Vec::new();
        for _ in 0..count {
            events.push(self.unwritten().await.expect("an event"));
        }
        events.sort_by_key(|event| event["object"]["metadata"]["name"].to_string());
        events.iter().for_each(|event| self.write(Some(event)));
    }

    fn write(&self, event: Option<&Value>) {
        let text = event.map_or_else(
            || "<end>".to_owned(),
            |event| {
                let kind = event["type"].as_str().unwrap_or("<no type>").to_owned();
                format!("{kind} {}", self.target.inner.state.lock().unwrap().mask.object(&event["object"]))
            },
        );
        self.target.note(&text);
    }

    /// The next event, not written down.
    pub(crate) async fn unwritten(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.buffer.split_once('\n') {
                let event = serde_json::from_str(line).expect("an event is JSON");
                self.buffer = rest.to_owned();
                return Some(event);
            }
            let chunk = tokio::time::timeout(self.target.inner.patience, self.stream.next()).await;
            let chunk = chunk.expect("an event or the end in time")?.expect("a readable stream");
            self.buffer.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }
}

/// Whether the API server answers this question about its first state that it is gone.
async fn forgets(client: &Client, question: &str) -> bool {
    let request = Request::get(question).body(Vec::new()).expect("a request");
    match client.request_text(request).await {
        Ok(events) => events.contains("\"code\":410"),
        Err(error) => matches!(error, kube::Error::Api(status) if status.code == 410),
    }
}

/// Runs the case on the API server that `CONFORMANCE_KUBECONFIG` names, if it names one.
pub(crate) async fn on_cluster(module: &str, name: &str, case: Case) {
    let Some(path) = std::env::var_os("CONFORMANCE_KUBECONFIG") else { return };
    let kubeconfig = kube::config::Kubeconfig::read_from(path).expect("a kubeconfig");
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.expect("a config");
    config.default_retry = false;
    let client = Client::try_from(config).expect("a client");
    let (title, file) = place(module, name);
    if let Some((_, question)) = known::AGED.iter().find(|(aged, _)| *aged == title)
        && !forgets(&client, question).await
    {
        eprintln!("{title}: skipped, this API server still knows its whole history");
        return;
    }
    let transcript = Target::new(client, Duration::from_secs(60)).run(case).await;
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    if std::env::var_os("CONFORMANCE_RECORD").is_some() {
        return std::fs::write(file, transcript).unwrap();
    }
    if let Some(difference) = difference(&recorded(module, name), &transcript) {
        panic!("the real API server answers otherwise than {}:\n{difference}", file.display());
    }
}

/// Runs the case on a sandbox of its own.
pub(crate) async fn on_sandbox(module: &str, name: &str, case: Case) {
    let (title, file) = place(module, name);
    let expected = recorded(module, name);
    assert!(!expected.is_empty(), "{} is missing: record it", file.display());
    let known = known::DIFFERENCES.iter().find(|(case, _)| *case == title);
    let server = Server::new(Config::default());
    let clock = kruise_sandbox::clock::system();
    let controllers = tokio::spawn(kruise_sandbox::controllers::run(
        server.client_as("kube-controller-manager"),
        clock,
        std::future::pending(),
    ));
    let target = Target::new(server.client(), Duration::from_secs(5));
    let outcome = tokio::spawn(async move { target.run(case).await }).await;
    controllers.abort();
    let found = match outcome {
        Ok(transcript) => difference(&expected, &transcript),
        Err(error) if known.is_some() => Some(error.to_string()),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    match (found, known) {
        (Some(difference), None) => {
            panic!("the sandbox answers otherwise than {}:\n{difference}", file.display())
        }
        (Some(difference), Some((_, why))) => eprintln!("known to differ, {why}:\n{difference}"),
        (None, Some(_)) if std::env::var_os("CONFORMANCE_STRICT").is_some() => {
            panic!("{title} no longer differs: take it out of known.rs")
        }
        (None, _) => {}
    }
}

/// `create::a_case` and where its transcript is.
fn place(module: &str, name: &str) -> (String, PathBuf) {
    let module = module.split("::").nth(1).unwrap();
    let file = format!("{}/tests/conformance/recorded/{module}/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    (format!("{module}::{name}"), file.into())
}

fn recorded(module: &str, name: &str) -> String {
    let (_, file) = place(module, name);
    std::fs::read_to_string(file).unwrap_or_default()
}

/// What is in one text and not in the other, line by line, with the request it belongs to; `None` if they are equal.
fn difference(expected: &str, actual: &str) -> Option<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    if old == new {
        return None;
    }
    let mut common = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut out, mut title) = (0, 0, String::new(), "");
    while i < old.len() || j < new.len() {
        let (sign, line) = if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
            if old[i - 1].starts_with("###") {
                title = old[i - 1];
            }
            continue;
        } else if i < old.len() && (j == new.len() || common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            ("- real  ", old[i - 1])
        } else {
            j += 1;
            ("+ given ", new[j - 1])
        };
        if !std::mem::take(&mut title).is_empty() {
            writeln!(out, "{}", old[..i].iter().rev().find(|line| line.starts_with("###")).unwrap_or(&""))
                .unwrap();
        }
        writeln!(out, "{sign}{line}").unwrap();
    }
    Some(out)
}
