//! The manager made wrong on purpose: what passes between it and the API server is changed on the way, so that it
//! behaves as if its code had the mistake.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use kruise_sandbox::server::{BodyError, Service};
use serde_json::{Map, Value, json};

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
    /// `parallelism` of a BroadcastJob is not looked at.
    IgnoreParallelism,
    /// `paused` of a BroadcastJob is not looked at.
    IgnorePause,
    /// `maxSurge` is spent on updating more pods than `partition` lets, for good.
    SpendSurge,
    /// `minReadySeconds` is not looked at.
    IgnoreMinReady,
    /// `paused` of a CloneSet is not looked at.
    IgnorePausedRollout,
    /// Pods are made from the first template, whatever revision they are labelled with.
    CreateFromFirst,
    /// Pods that are updated in place keep their image.
    OnlyLabel,
    /// A BroadcastJob is complete as soon as no pod is active.
    CompleteEarly,
    /// Every `failurePolicy` of a BroadcastJob is taken for `FailFast`.
    AlwaysFailFast,
    /// A BroadcastJob that completes does not count the last pod.
    MiscountTheLast,
    /// Every `concurrencyPolicy` is taken for `Allow`.
    AlwaysAllow,
    /// `Forbid` is taken for a pause.
    ForbidForEver,
    /// `@every` waits twice as long.
    RunEveryOther,
    /// `status.lastScheduleTime` is not looked at: only children tell of runs.
    ForgetRuns,
}

impl Mistake {
    /// The resource that is misread.
    const fn misreads(self) -> Option<&'static str> {
        match self {
            Self::ForgetOwnWrites
            | Self::CreateFromFirst
            | Self::OnlyLabel
            | Self::CompleteEarly
            | Self::MiscountTheLast => None,
            Self::CountSurgeTwice
            | Self::IgnorePartition
            | Self::SpendSurge
            | Self::IgnoreMaxUnavailable
            | Self::IgnorePausedRollout
            | Self::IgnoreMinReady => Some("clonesets"),
            Self::IgnoreParallelism | Self::IgnorePause | Self::AlwaysFailFast => Some("broadcastjobs"),
            Self::AlwaysAllow | Self::ForbidForEver | Self::RunEveryOther | Self::ForgetRuns => {
                Some("advancedcronjobs")
            }
        }
    }
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
            let path = parts.uri.path();
            let (many, one) = match mistake.misreads() {
                Some(plural) => {
                    (path.ends_with(&format!("/{plural}")), path.contains(&format!("/{plural}/")))
                }
                None => (false, false),
            };
            let sent = if write { changed(&sent, |body| say(path, body, mistake)) } else { sent };
            let request = Request::from_parts(parts, Full::new(sent));
            let answer = tower::Service::call(&mut inner, request).await?;
            let (head, body) = answer.into_parts();
            let body = match mistake {
                Mistake::ForgetOwnWrites if write => {
                    let bytes = body.collect().await?.to_bytes();
                    Full::new(aged(&bytes)).map_err(|never| match never {}).boxed_unsync()
                }
                _ if one && head.status.is_success() => {
                    let bytes = body.collect().await?.to_bytes();
                    let bytes = changed(&bytes, |object| read(object, mistake));
                    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
                }
                _ if many => body
                    .map_frame(move |frame| frame.map_data(|bytes| misread(&bytes, mistake)))
                    .map_err(Into::into)
                    .boxed_unsync(),
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

/// An object as somebody would read it who makes the mistake.
fn read(object: &mut Value, mistake: Mistake) {
    let part = match mistake {
        Mistake::CountSurgeTwice
        | Mistake::IgnorePartition
        | Mistake::SpendSurge
        | Mistake::IgnoreMaxUnavailable
        | Mistake::IgnorePausedRollout => "/spec/updateStrategy/rollingUpdate",
        Mistake::AlwaysFailFast => "/spec/failurePolicy",
        Mistake::IgnoreParallelism
        | Mistake::IgnorePause
        | Mistake::IgnoreMinReady
        | Mistake::ForbidForEver
        | Mistake::RunEveryOther
        | Mistake::AlwaysAllow => "/spec",
        Mistake::ForgetRuns => "/status",
        _ => return,
    };
    let Some(part) = object.pointer_mut(part).and_then(Value::as_object_mut) else { return };
    match mistake {
        Mistake::AlwaysFailFast => {
            part.insert("type".to_owned(), json!("FailFast"));
        }
        Mistake::IgnorePartition => {
            part.insert("partition".to_owned(), json!(0));
        }
        Mistake::SpendSurge => {
            let number = |field: &str| part.get(field).and_then(Value::as_i64).unwrap_or_default();
            let (surge, partition) = (number("maxSurge"), number("partition"));
            if surge > 0 && partition > 0 {
                part.insert("partition".to_owned(), json!((partition - surge).max(0)));
                part.insert("maxSurge".to_owned(), json!(0));
            }
        }
        Mistake::IgnoreMinReady => {
            part.remove("minReadySeconds");
        }
        Mistake::IgnoreMaxUnavailable => {
            part.insert("maxUnavailable".to_owned(), json!("100%"));
        }
        Mistake::IgnoreParallelism => {
            part.remove("parallelism");
        }
        Mistake::IgnorePause | Mistake::IgnorePausedRollout => {
            part.remove("paused");
        }
        Mistake::AlwaysAllow => {
            part.insert("concurrencyPolicy".to_owned(), json!("Allow"));
        }
        Mistake::ForbidForEver if part.get("concurrencyPolicy") == Some(&json!("Forbid")) => {
            part.insert("paused".to_owned(), json!(true));
        }
        Mistake::RunEveryOther if part.get("schedule") == Some(&json!("@every 90s")) => {
            part.insert("schedule".to_owned(), json!("@every 180s"));
        }
        Mistake::ForgetRuns => {
            part.remove("lastScheduleTime");
        }
        Mistake::CountSurgeTwice => {
            let doubled = match part.get("maxSurge") {
                Some(Value::Number(count)) => json!(count.as_i64().unwrap_or_default() * 2),
                Some(Value::String(text)) => {
                    let percent: i64 = text.trim_end_matches('%').parse().unwrap_or_default();
                    json!(format!("{}%", percent * 2))
                }
                _ => return,
            };
            part.insert("maxSurge".to_owned(), doubled);
        }
        _ => {}
    }
}

/// What is sent as somebody would send it who makes the mistake.
fn say(path: &str, body: &mut Value, mistake: Mistake) {
    if mistake == Mistake::CreateFromFirst
        && path.ends_with("/pods")
        && let Some(image) = body.pointer_mut("/spec/containers/0/image")
    {
        *image = json!("sim/app:0");
    }
    if mistake == Mistake::OnlyLabel
        && path.contains("/pods/")
        && let Some(container) = body.pointer_mut("/spec/containers/0").and_then(Value::as_object_mut)
    {
        container.remove("image");
    }
    if path.contains("/broadcastjobs/")
        && path.ends_with("/status")
        && let Some(status) = body.get_mut("status").and_then(Value::as_object_mut)
    {
        tell(status, mistake);
    }
}

/// The status of a BroadcastJob as somebody would publish it who makes the mistake.
fn tell(status: &mut Map<String, Value>, mistake: Mistake) {
    let is = |phase: &str| status.get("phase").and_then(Value::as_str) == Some(phase);
    let number = |field: &str| status.get(field).and_then(Value::as_i64).unwrap_or_default();
    if mistake == Mistake::CompleteEarly && is("running") && number("active") == 0 {
        let now = status.get("startTime").cloned().unwrap_or_default();
        status.insert("completionTime".to_owned(), now);
        status.insert("phase".to_owned(), json!("completed"));
        status.insert("conditions".to_owned(), json!([{"type": "Complete", "status": "True"}]));
    } else if mistake == Mistake::MiscountTheLast && is("completed") && number("succeeded") > 0 {
        let succeeded = number("succeeded") - 1;
        status.insert("succeeded".to_owned(), json!(succeeded));
    }
}

/// A list of objects or lines of their watch.
fn misread(bytes: &Bytes, mistake: Mistake) -> Bytes {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let line = Bytes::copy_from_slice(line);
        let newline = line.ends_with(b"\n");
        let mut line = changed(&line, |value| {
            if let Some(object) = value.get_mut("object") {
                read(object, mistake);
            } else if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
                for item in items {
                    read(item, mistake);
                }
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
