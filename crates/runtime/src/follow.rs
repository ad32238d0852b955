//! Follows one resource of the API server: a list, then a watch, then the watch again.
//!
//! Objects are handed on one by one and as text: no page of a list is held as objects, whoever reads a text reads nothing
//! else twice, and there is one copy of this code and not one for each kind.

mod items;

use std::convert::Infallible;
use std::time::Duration;

use futures::{AsyncBufReadExt as _, pin_mut};
use kube::api::{ListParams, WatchParams};
use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout};

use crate::client::said;
use crate::follow::items::Items;

/// Objects asked for in one page of a list.
const PAGE_SIZE: u32 = 500;
/// A watch that says nothing for so long is taken for dead: the API server is asked to end it five seconds before.
const SILENCE: Duration = Duration::from_secs(295);
/// How long the next piece of a list may take.
const BETWEEN_PIECES: Duration = Duration::from_secs(65);
/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(800);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Pauses are short again when nothing has failed for so long.
const FORGIVEN: Duration = Duration::from_mins(2);
/// The line of a watch is kept for the next event, unless it was an unusually long one.
const USUAL_EVENT: usize = 16 * 1024;

/// Which objects are followed, and how much of them is sent.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// A label selector.
    pub labels: Option<String>,
    /// A field selector.
    pub fields: Option<String>,
    /// Their metadata is all that is asked for.
    pub metadata_only: bool,
}

/// What is followed.
pub(crate) struct Source {
    pub(crate) client: kube::Client,
    /// Path of the resource.
    pub(crate) url: String,
    pub(crate) selection: Selection,
}

/// One thing that is told. Texts are those of whole objects.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    /// A list begins.
    Init,
    /// An object of the list.
    Listed(&'a str),
    /// The list is complete.
    InitDone,
    /// An object was created or changed.
    Changed(&'a str),
    /// An object is gone; as it was last.
    Deleted(&'a str),
    /// A request failed, and is repeated.
    Failed(&'a FollowError),
}

/// Why a list or a watch ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    #[error("{}", said(.0))]
    Api(Box<kube::Error>),
    #[error("the watch was ended: {} ({})", .0.message, .0.code)]
    Told(Box<Status>),
    #[error("the connection broke: {0}")]
    Read(#[from] std::io::Error),
    #[error("the answer is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the answer is not UTF-8: {0}")]
    NotText(#[from] std::str::Utf8Error),
    #[error("the list has stopped on its way")]
    Stalled,
    #[error("an object has no resourceVersion")]
    NoVersion,
}

impl FollowError {
    /// The version that was to be followed is not known any more.
    fn is_gone(&self) -> bool {
        match self {
            Self::Api(error) => matches!(&**error, kube::Error::Api(status) if status.code == 410),
            Self::Told(status) => status.code == 410,
            Self::NoVersion => true,
            Self::Read(_) | Self::Malformed(_) | Self::NotText(_) | Self::Stalled => false,
        }
    }
}

impl From<kube::Error> for FollowError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

impl From<kube::core::request::Error> for FollowError {
    fn from(error: kube::core::request::Error) -> Self {
        kube::Error::BuildRequest(error).into()
    }
}

/// A page without its objects.
#[derive(Deserialize)]
struct Page {
    metadata: PageMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(rename = "continue")]
    more: Option<String>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Of a bookmark only the version is read.
#[derive(Deserialize)]
struct Bookmark {
    metadata: PageMeta,
}

/// Pauses between tries.
struct Pauses {
    next: Duration,
    last: Option<Instant>,
}

impl Pauses {
    fn next(&mut self) -> Duration {
        if self.last.is_none_or(|last| last.elapsed() >= FORGIVEN) {
            self.next = FIRST_PAUSE;
        }
        let pause = self.next;
        self.next = (2 * pause).min(LONGEST_PAUSE);
        self.last = Some(Instant::now() + pause);
        // Those who were interrupted together do not all come back together. A simulation seeds its thread's generator.
        pause.mul_f64(1.0 + fastrand::f64() / 2.0)
    }
}

/// Follows `source` for ever. `take_in` is told everything in order, and answers with the version of the object it was
/// given; without one the list is made anew.
pub(crate) async fn follow(
    source: &Source,
    take_in: &mut (dyn FnMut(Step<'_>) -> Option<String> + Send),
) -> Infallible {
    let mut version: Option<String> = None;
    let mut pauses = Pauses { next: FIRST_PAUSE, last: None };
    loop {
        let begun = Instant::now();
        let listing = version.is_none();
        let ended = match &mut version {
            None => source.list(take_in).await.map(|listed| version = Some(listed)),
            Some(version) => source.watch(version, take_in).await,
        };
        match ended {
            // A server that ends watches as soon as they have begun is not asked all the time.
            Ok(()) if !listing && begun.elapsed() < FIRST_PAUSE => sleep(pauses.next()).await,
            Ok(()) => {}
            Err(error) => {
                take_in(Step::Failed(&error));
                if error.is_gone() {
                    version = None;
                }
                sleep(pauses.next()).await;
            }
        }
    }
}

impl Source {
    /// Hands on all objects there are, page by page, and tells the version to watch from.
    async fn list(
        &self,
        take_in: &mut (dyn FnMut(Step<'_>) -> Option<String> + Send),
    ) -> Result<String, FollowError> {
        let requests = kube::core::Request::new(self.url.as_str());
        take_in(Step::Init);
        let mut params = ListParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            limit: Some(PAGE_SIZE),
            ..ListParams::default()
        };
        loop {
            let request = if self.selection.metadata_only {
                requests.list_metadata(&params)?
            } else {
                requests.list(&params)?
            };
            let page = self.page(request, take_in).await?;
            params.continue_token = page.metadata.more.filter(|more| !more.is_empty());
            if params.continue_token.is_none() {
                if page.metadata.resource_version.is_empty() {
                    return Err(FollowError::NoVersion);
                }
                take_in(Step::InitDone);
                return Ok(page.metadata.resource_version);
            }
        }
    }

    /// Hands on the objects of one page as they arrive.
    async fn page(
        &self,
        request: http::Request<Vec<u8>>,
        take_in: &mut (dyn FnMut(Step<'_>) -> Option<String> + Send),
    ) -> Result<Page, FollowError> {
        let body = self.client.request_stream(request).await?;
        pin_mut!(body);
        let mut items = Items::default();
        loop {
            let Ok(piece) = timeout(BETWEEN_PIECES, body.fill_buf()).await else {
                return Err(FollowError::Stalled);
            };
            let piece = piece?;
            if piece.is_empty() {
                return Ok(serde_json::from_slice(items.rest())?);
            }
            items.feed(piece, &mut |object| {
                take_in(Step::Listed(std::str::from_utf8(object)?));
                Ok::<_, FollowError>(())
            })?;
            let read = piece.len();
            body.consume_unpin(read);
        }
    }

    /// Hands on what changes after `version`, which it moves on, until the API server ends the watch.
    async fn watch(
        &self,
        version: &mut String,
        take_in: &mut (dyn FnMut(Step<'_>) -> Option<String> + Send),
    ) -> Result<(), FollowError> {
        let requests = kube::core::Request::new(self.url.as_str());
        let params = WatchParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            ..WatchParams::default()
        };
        let request = if self.selection.metadata_only {
            requests.watch_metadata(&params, version)?
        } else {
            requests.watch(&params, version)?
        };
        let lines = self.client.request_stream(request).await?;
        pin_mut!(lines);
        let mut line = Vec::new();
        loop {
            line.clear();
            line.shrink_to(USUAL_EVENT);
            // Silence ends the watch as its end does: it goes on where it was.
            let Ok(read) = timeout(SILENCE, lines.read_until(b'\n', &mut line)).await else { return Ok(()) };
            if read? == 0 {
                return Ok(());
            }
            let event: Event<'_> = match serde_json::from_slice(&line) {
                Ok(event) => event,
                // The connection was cut within a line, or an empty one was sent.
                Err(error) if error.is_eof() => continue,
                Err(error) => return Err(error.into()),
            };
            let reached = match event.kind {
                "BOOKMARK" => {
                    let bookmark: Bookmark = serde_json::from_str(event.object.get())?;
                    Some(bookmark.metadata.resource_version)
                }
                "ERROR" => return Err(FollowError::Told(serde_json::from_str(event.object.get())?)),
                "DELETED" => take_in(Step::Deleted(event.object.get())),
                _ => take_in(Step::Changed(event.object.get())),
            };
            *version = reached.filter(|reached| !reached.is_empty()).ok_or(FollowError::NoVersion)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    fn object(name: &str, version: u32) -> Value {
        json!({"metadata": {"name": name, "resourceVersion": version.to_string()}})
    }

    fn list(objects: &[Value], version: u32, more: &str) -> (u16, String) {
        (
            200,
            json!({"metadata": {"resourceVersion": version.to_string(), "continue": more}, "items": objects})
                .to_string(),
        )
    }

    fn events(events: &[(&str, Value)]) -> (u16, String) {
        let line = |(kind, object): &(&str, Value)| format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        (200, events.iter().map(line).collect())
    }

    fn status(code: u16) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no", "code": code})
    }

    /// What is told, and what was asked for, while the server gives these answers one after the other.
    async fn told(selection: Selection, answers: Vec<(u16, String)>) -> (Vec<String>, Vec<String>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::new(Mutex::new(answers.into_iter()));
        let requests = Arc::clone(&asked);
        let server = tower::service_fn(move |request: http::Request<Body>| {
            let query = request.uri().query().unwrap_or_default();
            let kept = query.split('&').filter(|part| {
                ["resourceVersion=", "continue=", "watch="].iter().any(|name| part.starts_with(name))
            });
            requests.lock().unwrap().push(kept.collect::<Vec<_>>().join(" "));
            let answer = answers.lock().unwrap().next();
            async move {
                let Some((code, body)) = answer else { return std::future::pending().await };
                http::Response::builder().status(code).body(Body::from(body.into_bytes()))
            }
        });
        let source =
            Source { client: kube::Client::new(server, "ns"), url: "/api/v1/pods".to_owned(), selection };
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let mut take_in = move |step: Step<'_>| {
            let (what, text) = match step {
                Step::Init => ("init", None),
                Step::Listed(text) => ("listed", Some(text)),
                Step::InitDone => ("done", None),
                Step::Changed(text) => ("changed", Some(text)),
                Step::Deleted(text) => ("deleted", Some(text)),
                Step::Failed(_) => ("failed", None),
            };
            let object: Value = text.map(|text| serde_json::from_str(text).unwrap()).unwrap_or_default();
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            heard.lock().unwrap().push(format!("{what} {name}").trim_end().to_owned());
            object["metadata"]["resourceVersion"].as_str().map(str::to_owned)
        };
        let following = follow(&source, &mut take_in);
        assert!(timeout(Duration::from_mins(10), following).await.is_err(), "it never ends");
        (told.lock().unwrap().clone(), asked.lock().unwrap().clone())
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_goes_on_where_it_was_when_it_ends_breaks_or_is_refused() {
        let (told, asked) = told(
            Selection::default(),
            vec![
                list(&[object("a", 5)], 0, "next"),
                list(&[object("b", 6)], 7, ""),
                events(&[("ADDED", object("c", 8)), ("BOOKMARK", object("", 20))]),
                (500, status(500).to_string()),
                (200, format!("{}{{\"type\":\"MODI", events(&[("MODIFIED", object("c", 21))]).1)),
                events(&[("ERROR", status(500))]),
                events(&[("DELETED", object("c", 22))]),
            ],
        )
        .await;
        assert_eq!(
            told,
            [
                "init",
                "listed a",
                "listed b",
                "done",
                "changed c",
                "failed",
                "changed c",
                "failed",
                "deleted c"
            ]
        );
        assert_eq!(
            asked,
            [
                "",
                "continue=next",
                "watch=true resourceVersion=7",
                "watch=true resourceVersion=20",
                "watch=true resourceVersion=20",
                "watch=true resourceVersion=21",
                "watch=true resourceVersion=21",
                "watch=true resourceVersion=22"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_that_is_gone_is_listed_anew_however_the_server_says_so() {
        for gone in [events(&[("ERROR", status(410))]), (410, status(410).to_string())] {
            let (told, asked) = told(
                Selection::default(),
                vec![list(&[object("a", 5)], 7, ""), gone, list(&[], 30, ""), events(&[])],
            )
            .await;
            assert_eq!(told, ["init", "listed a", "done", "failed", "init", "done"]);
            let last = "watch=true resourceVersion=30";
            assert_eq!(asked, ["", "watch=true resourceVersion=7", "", last, last]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_fails_on_its_way_begins_again() {
        let answers = vec![
            list(&[object("a", 5)], 0, "next"),
            (410, status(410).to_string()),
            (200, "no JSON".to_owned()),
            list(&[object("a", 5)], 7, ""),
        ];
        let (told, asked) = told(Selection::default(), answers).await;
        assert_eq!(told, ["init", "listed a", "failed", "init", "failed", "init", "listed a", "done"]);
        assert_eq!(asked, ["", "continue=next", "", "", "watch=true resourceVersion=7"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_ends_every_watch_is_asked_less_and_less() {
        let mut answers = vec![list(&[], 7, "")];
        answers.extend(std::iter::repeat_n(events(&[]), 10_000));
        let (told, asked) = told(Selection::default(), answers).await;
        assert_eq!(told, ["init", "done"]);
        assert!((15..40).contains(&asked.len()), "{} requests in ten minutes", asked.len());
    }
}
