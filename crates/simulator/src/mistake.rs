//! The manager made wrong on purpose: what passes between it and the API server is changed on the way, so that it
//! behaves as if its code had the mistake.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use kruise_sandbox::server::{BodyError, Service};
use serde_json::{Value, json};

/// A mistake that somebody could make.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mistake {
    /// Its own writes are not seen until the watch tells of them.
    ForgetOwnWrites,
    /// `maxSurge` is counted twice.
    CountSurgeTwice,
    /// `partition` is not looked at.
    IgnorePartition,
    /// `maxUnavailable` is taken for all pods.
    IgnoreMaxUnavailable,
}

/// The in-process service with a mistake on the way.
#[derive(Clone)]
pub struct Mistaken {
    inner: Service,
    mistake: Option<Mistake>,
}

impl Mistaken {
    /// The way to the server; without a mistake nothing is changed.
    pub fn new(inner: Service, mistake: Option<Mistake>) -> Self {
        Self { inner, mistake }
    }
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>>;

impl<B> tower::Service<Request<B>> for Mistaken
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    type Response = Answer;
    type Error = BodyError;
    type Future = BoxFuture<'static, Result<Answer, BodyError>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), BodyError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut inner, mistake) = (self.inner.clone(), self.mistake);
        Box::pin(async move {
            let Some(mistake) = mistake else {
                let answer = tower::Service::call(&mut inner, request).await?;
                return Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()));
            };
            let (parts, body) = request.into_parts();
            let sent = body.collect().await.map_err(Into::into)?.to_bytes();
            let write = parts.method != Method::GET;
            let sets = parts.uri.path().ends_with("/clonesets");
            let request = Request::from_parts(parts, Full::new(sent));
            let answer = tower::Service::call(&mut inner, request).await?;
            let (head, body) = answer.into_parts();
            let body = match mistake {
                Mistake::ForgetOwnWrites if write => {
                    let bytes = body.collect().await?.to_bytes();
                    Full::new(aged(&bytes)).map_err(|never| match never {}).boxed_unsync()
                }
                Mistake::CountSurgeTwice | Mistake::IgnorePartition | Mistake::IgnoreMaxUnavailable
                    if sets =>
                {
                    body.map_frame(move |frame| frame.map_data(|bytes| misread(&bytes, mistake)))
                        .map_err(Into::into)
                        .boxed_unsync()
                }
                _ => body.map_err(Into::into).boxed_unsync(),
            };
            let mut answer = Response::from_parts(head, body);
            answer.headers_mut().remove(http::header::CONTENT_LENGTH);
            Ok(answer)
        })
    }
}

fn changed(bytes: &Bytes, change: impl Fn(&mut Value)) -> Bytes {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(mut value) => {
            change(&mut value);
            Bytes::from(value.to_string())
        }
        Err(_) => bytes.clone(),
    }
}

/// The answer to a write as if it were old, so that it is not believed.
fn aged(bytes: &Bytes) -> Bytes {
    changed(bytes, |value| {
        if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.insert("resourceVersion".to_owned(), json!("0"));
        }
    })
}

/// A list of sets or a line of their watch as somebody would read it who makes the mistake.
fn misread(bytes: &Bytes, mistake: Mistake) -> Bytes {
    let read = |set: &mut Value| {
        let Some(rolling) =
            set.pointer_mut("/spec/updateStrategy/rollingUpdate").and_then(Value::as_object_mut)
        else {
            return;
        };
        match mistake {
            Mistake::IgnorePartition => {
                rolling.insert("partition".to_owned(), json!(0));
            }
            Mistake::IgnoreMaxUnavailable => {
                rolling.insert("maxUnavailable".to_owned(), json!("100%"));
            }
            _ => {
                let doubled = match rolling.get("maxSurge") {
                    Some(Value::Number(count)) => json!(count.as_i64().unwrap_or_default() * 2),
                    Some(Value::String(text)) => {
                        let percent: i64 = text.trim_end_matches('%').parse().unwrap_or_default();
                        json!(format!("{}%", percent * 2))
                    }
                    _ => return,
                };
                rolling.insert("maxSurge".to_owned(), doubled);
            }
        }
    };
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let line = Bytes::copy_from_slice(line);
        let newline = line.ends_with(b"\n");
        let mut line = changed(&line, |value| {
            if let Some(object) = value.get_mut("object") {
                read(object);
            } else if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
                items.iter_mut().for_each(read);
            }
        })
        .to_vec();
        if newline && !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        line
    });
    Bytes::from(lines.collect::<Vec<_>>().concat())
}
