//! Faults on purpose: what a test may do to requests and to the events of watches.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::route::{RequestInfo, Verb};
use super::storage::EventKind;
use crate::error::ApiError;

/// What becomes of a request.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// The request waits this long before anything else.
    pub delay: Duration,
    /// What is done then.
    pub then: Fate,
}

/// How a request ends.
#[derive(Clone, Debug, Default)]
pub enum Fate {
    /// As usual.
    #[default]
    Proceed,
    /// With this error, without being looked at.
    Fail(ApiError),
    /// The connection breaks before the server has seen the request.
    LoseRequest,
    /// The request is carried out, and the connection breaks before the answer arrives.
    LoseResponse,
    /// The request is not carried out and never answered: the caller dies before this request.
    DieBefore,
    /// The request is carried out and never answered: the caller dies after this request.
    DieAfter,
}

impl From<Fate> for Decision {
    fn from(then: Fate) -> Self {
        Self { delay: Duration::ZERO, then }
    }
}

/// What becomes of an event of a watch.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Delivery {
    /// It is delivered at once.
    #[default]
    Now,
    /// It (and all after it) is delivered after this time.
    After(Duration),
    /// It is delivered twice, as after a reconnect.
    Twice,
    /// The stream ends before it; the watcher may resume.
    End,
    /// The stream ends before it with 410 Gone; the watcher must list again.
    Expire,
}

/// A watch, as interceptors see it.
#[derive(Clone, Debug)]
pub struct WatchEvent<'a> {
    /// The request that opened the watch.
    pub watch: &'a RequestInfo,
    /// What happened, as this watcher sees it.
    pub kind: EventKind,
    /// The object.
    pub object: &'a Value,
}

/// Decides about faults. The default of every method is that nothing goes wrong.
pub trait Interceptor: Send + Sync {
    /// Asked before every request to a resource.
    fn before(&self, request: &RequestInfo) -> Decision {
        let _ = request;
        Decision::default()
    }

    /// Asked before every event of every watch is delivered.
    fn event(&self, event: &WatchEvent<'_>) -> Delivery {
        let _ = event;
        Delivery::default()
    }

    /// Told after a request was carried out, whether or not the caller learns of it.
    fn after(&self, request: &RequestInfo, answer: Result<(), &ApiError>) {
        let _ = (request, answer);
    }
}

/// How often each verb was asked of each resource: (client, verb, `resource[.group][/subresource]`) → requests that were carried out
/// or refused, without those an interceptor ended.
pub type Requests = BTreeMap<(String, Verb, String), u64>;
