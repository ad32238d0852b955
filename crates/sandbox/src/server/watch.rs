//! Watches: what has happened since a resourceVersion, and everything that happens from then on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::{Answer, BodyError, Form, write_object};
use super::fault::{Delivery, WatchEvent};
use super::handler::Call;
use super::read::{Selection, number_parameter, version_awaited};
use super::storage::{Cursor, Event, EventKind, Served, Shape, Stored, lock};
use super::{convert, render};
use crate::error::{ApiError, FieldError};

/// How many changes a watcher takes from the history at a time.
const BATCH: usize = 256;
/// How long a watch lasts that names no time.
const LONGEST: Duration = Duration::from_mins(45);
/// How long before its end a watch gets a last bookmark.
const BEFORE_END: Duration = Duration::from_secs(2);

/// Opens a watch.
pub(crate) async fn open(call: &Arc<Call>) -> Result<Answer, ApiError> {
    check_options(call)?;
    let mut selection = Selection::of(call)?;
    if !call.info.name.is_empty() {
        selection.prefix = call.key();
    }
    let start = Start::of(call)?;
    let lasts = match number_parameter(call, "timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        _ => LONGEST,
    };
    let now = Instant::now();
    let every = call.server.0.config.bookmark_every;
    let watcher = match follow(call, &selection, &start) {
        Ok((cursor, initial)) => Watcher {
            call: Arc::clone(call),
            selection,
            cursor,
            initial,
            pending: VecDeque::new(),
            bookmarks: call.query.flag("allowWatchBookmarks"),
            marks_initial_end: start.marks_end,
            ends_at: now + lasts,
            bookmark_at: next_bookmark(now, every, now + lasts),
            every,
            columns_sent: false,
            repeat: None,
            // The definition may have changed between the request and here: nobody would end the watch then.
            ended: call.resource.custom && !call.server.serves(&call.resource),
        },
        Err(error) => {
            // The real server accepts the watch and reports the expiry as its first event.
            let line = error_line(&error);
            return Ok(Answer::Lines(futures::stream::iter([Ok(line)]).boxed()));
        }
    };
    std::future::ready(()).await;
    let lines = futures::stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((line, watcher))
    });
    Ok(Answer::Lines(lines.boxed()))
}

fn check_options(call: &Call) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let matching = call.query.get("resourceVersionMatch");
    let sends = call.query.has("sendInitialEvents");
    let path = "resourceVersionMatch";
    if sends && matching != "NotOlderThan" {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(path, why));
    }
    if !matching.is_empty() {
        if !sends {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(path, why));
        }
        if matching != "NotOlderThan" {
            errors.push(FieldError::not_supported(path, &matching.into(), &["NotOlderThan"]));
        }
        if !call.query.get("continue").is_empty() {
            errors.push(FieldError::forbidden(
                path,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &errors))
}

/// Where a watch begins.
struct Start {
    /// With the objects there are now.
    initial: bool,
    /// A bookmark tells when those have been sent.
    marks_end: bool,
    /// After this resourceVersion, if not with the objects there are now.
    after: Option<u64>,
}

impl Start {
    fn of(call: &Call) -> Result<Self, ApiError> {
        let asked = version_awaited(call.query.get("resourceVersion"))?.filter(|rv| *rv > 0);
        if call.query.has("sendInitialEvents") {
            let initial = call.query.flag("sendInitialEvents");
            let marks_end = initial && call.query.flag("allowWatchBookmarks");
            return Ok(Self { initial, marks_end, after: asked });
        }
        Ok(Self { initial: asked.is_none(), marks_end: false, after: asked })
    }
}

fn follow(
    call: &Call,
    selection: &Selection,
    start: &Start,
) -> Result<(Cursor, VecDeque<Arc<Stored>>), ApiError> {
    let mut store = lock(&call.server.0.store);
    let now = store.rv();
    if start.initial {
        if let Some(asked) = start.after.filter(|rv| *rv > now) {
            return Err(ApiError::too_large_version(asked, now));
        }
        let named = !call.info.name.is_empty();
        let initial = store
            .scan(&call.table, &selection.prefix, None)
            .filter(|(key, _)| !named || ***key == *selection.prefix)
            .map(|(_, stored)| stored)
            .filter(|stored| selection.matches(&stored.value))
            .cloned()
            .collect();
        let cursor = store.follow(&call.table, now).map_err(|oldest| ApiError::too_old(now, oldest))?;
        return Ok((cursor, initial));
    }
    let after = start.after.unwrap_or(now);
    let cursor = store.follow(&call.table, after).map_err(|oldest| ApiError::too_old(after, oldest))?;
    Ok((cursor, VecDeque::new()))
}

/// Bookmarks come regularly and shortly before the watch ends.
fn next_bookmark(now: Instant, every: Duration, ends_at: Instant) -> Instant {
    let last = ends_at.checked_sub(BEFORE_END).filter(|last| *last > now);
    last.map_or(now + every, |last| last.min(now + every))
}

#[expect(clippy::struct_excessive_bools, reason = "each remembers another thing that happens once")]
struct Watcher {
    call: Arc<Call>,
    selection: Selection,
    cursor: Cursor,
    initial: VecDeque<Arc<Stored>>,
    pending: VecDeque<Arc<Event>>,
    bookmarks: bool,
    marks_initial_end: bool,
    ends_at: Instant,
    bookmark_at: Instant,
    every: Duration,
    columns_sent: bool,
    repeat: Option<Bytes>,
    ended: bool,
}

type Line = Result<Bytes, BodyError>;

impl Watcher {
    /// The next line, or `None` when the watch has ended.
    async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.repeat.take() {
                return Some(Ok(line));
            }
            if self.ended {
                return None;
            }
            if let Some(object) = self.initial.pop_front() {
                return self.deliver(EventKind::Added, object, None).await;
            }
            if self.marks_initial_end {
                self.marks_initial_end = false;
                return Some(Ok(self.bookmark(true)));
            }
            if let Some(event) = self.pending.pop_front() {
                self.cursor.advance(event.rv);
                if let Some((kind, object)) = self.seen(&event) {
                    return self.deliver(kind, object, Some(event)).await;
                }
                continue;
            }
            if let Err(oldest) = self.fill() {
                self.ended = true;
                return Some(Ok(error_line(&ApiError::too_old(self.cursor.rv(), oldest))));
            }
            if self.pending.is_empty()
                && let Some(line) = self.wait().await
            {
                return Some(Ok(line));
            }
        }
    }

    fn fill(&mut self) -> Result<(), u64> {
        self.cursor.changed.look();
        let store = lock(&self.call.server.0.store);
        self.pending.extend(store.after(&self.call.table, self.cursor.rv(), BATCH)?);
        if self.pending.is_empty() {
            // Nothing else has happened to this table: old changes of others must not hold its place back.
            self.cursor.advance(store.rv().max(self.cursor.rv()));
        }
        Ok(())
    }

    /// Waits for a change, the next bookmark or the end of the watch.
    async fn wait(&mut self) -> Option<Bytes> {
        let wakes_at = if self.bookmarks { self.bookmark_at.min(self.ends_at) } else { self.ends_at };
        tokio::select! {
            biased;
            changed = self.cursor.changed.changed() => {
                self.ended |= changed.is_err();
                None
            }
            () = tokio::time::sleep_until(wakes_at) => {
                if Instant::now() >= self.ends_at {
                    self.ended = true;
                    return None;
                }
                self.bookmark_at = next_bookmark(Instant::now(), self.every, self.ends_at);
                // Changes that came at this very moment are sent before a bookmark claims them.
                if self.fill().is_err() || !self.pending.is_empty() {
                    return None;
                }
                Some(self.bookmark(false))
            }
        }
    }

    /// The event as this watcher's selection shows it.
    fn seen(&self, event: &Arc<Event>) -> Option<(EventKind, Arc<Stored>)> {
        let named = !self.call.info.name.is_empty();
        if !event.key.starts_with(&self.selection.prefix) || (named && *event.key != *self.selection.prefix) {
            return None;
        }
        if self.selection.is_everything() {
            return Some((event.kind, Arc::clone(&event.object)));
        }
        let is = event.kind != EventKind::Deleted && self.selection.matches(&event.object.value);
        let was = event.previous.as_ref().is_some_and(|previous| self.selection.matches(&previous.value));
        match (was, is) {
            (false, false) => None,
            (false, true) => Some((EventKind::Added, Arc::clone(&event.object))),
            (true, true) => Some((EventKind::Modified, Arc::clone(&event.object))),
            (true, false) if event.kind == EventKind::Deleted => {
                Some((EventKind::Deleted, Arc::clone(&event.object)))
            }
            (true, false) => {
                // It leaves the selection: it is shown as it was, under the resourceVersion of the change.
                let last = event.previous.as_ref()?.value.clone();
                Some((EventKind::Deleted, Stored::new(last, event.rv)))
            }
        }
    }

    /// One event on its way to the watcher, with the faults it meets.
    async fn deliver(
        &mut self,
        kind: EventKind,
        object: Arc<Stored>,
        event: Option<Arc<Event>>,
    ) -> Option<Line> {
        let delivery = self.call.server.0.config.interceptor.as_ref().map_or(Delivery::Now, |interceptor| {
            interceptor.event(&WatchEvent { watch: &self.call.info, kind, object: &object.value })
        });
        match delivery {
            Delivery::Now | Delivery::Twice => {}
            Delivery::After(time) => tokio::time::sleep(time).await,
            Delivery::End => {
                self.ended = true;
                return None;
            }
            Delivery::Expire => {
                self.ended = true;
                return Some(Ok(error_line(&ApiError::too_old(self.cursor.rv(), self.cursor.rv() + 1))));
            }
        }
        let line = match self.encode(kind, object, event).await {
            Ok(line) => line,
            Err(error) => {
                self.ended = true;
                error_line(&error)
            }
        };
        if delivery == Delivery::Twice {
            self.repeat = Some(line.clone());
        }
        Some(Ok(line))
    }

    async fn encode(
        &mut self,
        kind: EventKind,
        object: Arc<Stored>,
        event: Option<Arc<Event>>,
    ) -> Result<Bytes, ApiError> {
        let form = self.call.accept.form;
        if form == Form::Table {
            let object = convert::shown_one(&self.call, object).await?;
            let mut table = render::table(&self.call, &[object], None)?;
            if self.columns_sent {
                crate::object::set(&mut table, "columnDefinitions", Value::Null);
            }
            self.columns_sent = true;
            return Ok(line(kind.name(), table.to_string().as_bytes()));
        }
        let shape = Shape {
            kind,
            by: Served(Arc::clone(&self.call.resource)),
            version: self.call.resource.api_version(&self.call.info.version),
            metadata_only: form == Form::Metadata,
        };
        // What is shown in place of a state that left the selection is made for this watcher alone.
        let event = event.filter(|event| Arc::ptr_eq(&event.object, &object));
        if let Some(known) = event.as_ref().and_then(|event| event.encoded(&shape)) {
            return Ok(known);
        }
        let object = convert::shown_one(&self.call, object).await?;
        let mut out = Vec::with_capacity(object.body().len() + 128);
        write_object(&self.call.resource, &self.call.info.version, form, &object, &mut out);
        let line = line(kind.name(), &out);
        if let Some(event) = event {
            event.keep_encoded(shape, &line);
        }
        Ok(line)
    }

    fn bookmark(&self, initial_end: bool) -> Bytes {
        let mut meta = json!({"resourceVersion": self.cursor.rv().to_string()});
        if initial_end {
            meta = json!({
                "resourceVersion": self.cursor.rv().to_string(),
                "annotations": {"k8s.io/initial-events-end": "true"},
            });
        }
        let resource = &self.call.resource;
        let object = match self.call.accept.form {
            Form::Object => json!({
                "kind": resource.kind,
                "apiVersion": resource.api_version(&self.call.info.version),
                "metadata": meta,
            }),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": meta,
            }),
            Form::Table => json!({
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": self.cursor.rv().to_string()},
                "columnDefinitions": null,
                "rows": [{"cells": [], "object": {
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
                }}],
            }),
        };
        line("BOOKMARK", object.to_string().as_bytes())
    }
}

fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
}

fn error_line(error: &ApiError) -> Bytes {
    line("ERROR", error.status().to_string().as_bytes())
}
