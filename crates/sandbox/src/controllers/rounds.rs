//! Working off a queue of keys.

use std::future::Future;
use std::time::Duration;

use futures::future::join_all;
use kruise_common::key::ObjectKey;
use kruise_runtime::queue::{QueueMetrics, RateLimit, WorkQueue};

/// Retries are quick and few: the server is near.
const RETRIES: RateLimit =
    RateLimit { base: Duration::from_millis(20), max: Duration::from_secs(10), qps: 0.0, burst: 0 };

/// A queue of this controller, with quick retries.
pub(super) fn new_queue(name: &str) -> Option<WorkQueue> {
    let metrics = QueueMetrics::register(&prometheus::Registry::new(), name);
    match metrics {
        Ok(metrics) => Some(WorkQueue::new(RETRIES, metrics)),
        Err(error) => {
            tracing::error!(controller = name, %error, "cannot make a queue");
            None
        }
    }
}

/// Reconciles keys, `workers` at a time, for ever. A round says when it wants the next one; a failed one is repeated.
pub(super) async fn work<F, R>(name: &str, queue: &WorkQueue, workers: usize, reconcile: F)
where
    F: Fn(ObjectKey) -> R,
    R: Future<Output = kube::Result<Option<Duration>>>,
{
    let reconcile = &reconcile;
    let worker = |_| async move {
        while let Some(claim) = queue.next().await {
            match reconcile(claim.key().clone()).await {
                Ok(again) => {
                    queue.forget(claim.key());
                    if let Some(delay) = again {
                        queue.add_after(claim.key().clone(), delay);
                    }
                }
                Err(error) => {
                    let conflict = is(&error, 409);
                    if conflict {
                        tracing::debug!(controller = name, object = %claim.key(), %error, "will be retried");
                    } else {
                        tracing::warn!(controller = name, object = %claim.key(), %error, "will be retried");
                    }
                    queue.add_rate_limited(claim.key().clone());
                }
            }
        }
    };
    join_all((0..workers.max(1)).map(worker)).await;
}

/// True if the API server answered with this code.
pub(super) fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Nothing to do counts as done: what is gone, or already there, needs no repetition.
pub(super) fn unless<T>(result: kube::Result<T>, codes: &[u16]) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if codes.iter().any(|code| is(&error, *code)) => Ok(None),
        Err(error) => Err(error),
    }
}
