//! Workers that reconcile keys.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kruise_common::key::ObjectKey;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::Instrument;

use crate::queue::WorkQueue;

/// When a key wants its next round if nothing changes before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Requeue {
    /// Not before something changes.
    None,
    /// After this time.
    After(Duration),
}

/// A round that failed.
#[derive(Debug)]
pub struct Failed<E> {
    /// What was the matter.
    pub error: E,
    /// After what time something of the key is due all the same, if nothing changes before: what has failed is tried again
    /// after the back-off, which grows, and nothing else waits for it.
    pub due: Option<Duration>,
}

impl<E> From<E> for Failed<E> {
    fn from(error: E) -> Self {
        Self { error, due: None }
    }
}

/// Runs `workers` workers (at least one) that take keys from `queue` and reconcile them, until `shutdown` turns true or its sender is
/// gone; returns when the rounds then in flight are over.
///
/// A failed round is retried after the key's back-off, or when something is due; so is one that panics, which stops nobody else. Rounds run in a
/// span with the fields `controller`, `object` and `generation`; the last is the round's to record.
pub async fn run_controller<F, R, E>(
    name: &'static str,
    queue: WorkQueue,
    workers: usize,
    reconcile: F,
    metrics: ControllerMetrics,
    mut shutdown: watch::Receiver<bool>,
) where
    F: Fn(ObjectKey) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Requeue, Failed<E>>> + Send + 'static,
    E: Into<anyhow::Error> + Send + 'static,
{
    let workers = workers.max(1);
    metrics.max_concurrent.set(i64::try_from(workers).unwrap_or(i64::MAX));
    let reconcile = Arc::new(reconcile);
    let mut running = JoinSet::new();
    for _ in 0..workers {
        let (queue, reconcile, metrics) = (queue.clone(), Arc::clone(&reconcile), metrics.clone());
        running.spawn(async move {
            while let Some(claim) = queue.next().await {
                let span = tracing::error_span!(
                    "reconcile",
                    controller = name,
                    object = %claim.key(),
                    generation = tracing::field::Empty
                );
                round(&queue, claim.key(), reconcile.as_ref(), &metrics).instrument(span).await;
            }
        });
    }
    let early = tokio::select! {
        biased;
        _ = shutdown.wait_for(|stop| *stop) => None,
        // Workers end only by shutdown; one that ends before is a fault that nobody here can mend.
        ended = running.join_next() => ended,
    };
    queue.shut_down();
    report(name, early);
    while let Some(ended) = running.join_next().await {
        report(name, Some(ended));
    }
}

fn report(controller: &'static str, ended: Option<Result<(), JoinError>>) {
    if let Some(Err(error)) = ended {
        tracing::error!(controller, error = %error, "worker ended early");
    }
}

/// One round of one key, and what follows from its result.
async fn round<F, R, E>(queue: &WorkQueue, key: &ObjectKey, reconcile: &F, metrics: &ControllerMetrics)
where
    F: Fn(ObjectKey) -> R,
    R: Future<Output = Result<Requeue, Failed<E>>>,
    E: Into<anyhow::Error>,
{
    let started = Instant::now();
    metrics.active.inc();
    let result = AssertUnwindSafe(async { reconcile(key.clone()).await }).catch_unwind().await;
    metrics.active.dec();
    metrics.time.observe(started.elapsed().as_secs_f64());
    match result {
        Ok(Ok(Requeue::None)) => {
            queue.forget(key);
            metrics.count("success");
        }
        Ok(Ok(Requeue::After(delay))) => {
            queue.forget(key);
            queue.add_after(key.clone(), delay);
            metrics.count("requeue_after");
        }
        Ok(Err(Failed { error, due })) => {
            let error: anyhow::Error = error.into();
            tracing::warn!(error = %format_args!("{error:#}"), "reconcile failed and will be retried");
            failed(queue, key, metrics);
            if let Some(due) = due {
                queue.add_after(key.clone(), due);
            }
        }
        Err(panic) => {
            metrics.panics.inc();
            tracing::error!(panic = message(panic.as_ref()), "reconcile panicked and will be retried");
            failed(queue, key, metrics);
        }
    }
}

fn failed(queue: &WorkQueue, key: &ObjectKey, metrics: &ControllerMetrics) {
    metrics.errors.inc();
    metrics.count("error");
    queue.add_rate_limited(key.clone());
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// The values of the label `result`; all are exported from the start.
const RESULTS: [&str; 4] = ["error", "requeue", "requeue_after", "success"];

/// Buckets of a round's duration, in seconds.
const BUCKETS: [f64; 40] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25,
    1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0,
    50.0, 60.0,
];

/// The `controller_runtime_*` metrics of one controller.
#[derive(Clone, Debug)]
pub struct ControllerMetrics {
    total: IntCounterVec,
    errors: IntCounter,
    panics: IntCounter,
    time: Histogram,
    active: IntGauge,
    max_concurrent: IntGauge,
}

impl ControllerMetrics {
    /// Adds the metrics of one controller to `registry`.
    ///
    /// # Errors
    /// When a controller of this name is registered already.
    pub fn register(registry: &Registry, controller_name: &str) -> prometheus::Result<Self> {
        let opts = |name: &str, help: &str| {
            Opts::new(format!("controller_runtime_{name}"), help).const_label("controller", controller_name)
        };
        let metrics = Self {
            total: IntCounterVec::new(
                opts("reconcile_total", "Total number of reconciliations per controller"),
                &["result"],
            )?,
            errors: IntCounter::with_opts(opts(
                "reconcile_errors_total",
                "Total number of reconciliation errors per controller",
            ))?,
            panics: IntCounter::with_opts(opts(
                "reconcile_panics_total",
                "Total number of reconciliation panics per controller",
            ))?,
            time: Histogram::with_opts(HistogramOpts {
                common_opts: opts(
                    "reconcile_time_seconds",
                    "Length of time per reconciliation per controller",
                ),
                buckets: BUCKETS.to_vec(),
            })?,
            active: IntGauge::with_opts(opts(
                "active_workers",
                "Number of currently used workers per controller",
            ))?,
            max_concurrent: IntGauge::with_opts(opts(
                "max_concurrent_reconciles",
                "Maximum number of concurrent reconciles per controller",
            ))?,
        };
        for result in RESULTS {
            metrics.total.with_label_values(&[result]);
        }
        // No error of ours is terminal; dashboards expect the series.
        let terminal = IntCounter::with_opts(opts(
            "terminal_reconcile_errors_total",
            "Total number of terminal reconciliation errors per controller",
        ))?;
        registry.register(Box::new(metrics.total.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(terminal))?;
        registry.register(Box::new(metrics.panics.clone()))?;
        registry.register(Box::new(metrics.time.clone()))?;
        registry.register(Box::new(metrics.active.clone()))?;
        registry.register(Box::new(metrics.max_concurrent.clone()))?;
        Ok(metrics)
    }

    fn count(&self, result: &str) {
        self.total.with_label_values(&[result]).inc();
    }
}

#[cfg(test)]
mod tests;
