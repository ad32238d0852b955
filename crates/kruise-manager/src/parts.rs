//! What every controller is made of.

use std::sync::Arc;

use jiff::Timestamp;
use kruise_common::gates::FeatureGates;
use kruise_common::key::ObjectKey;
use kruise_runtime::client::for_controller;
use kruise_runtime::controller::{ControllerMetrics, Failed, Requeue, run_controller};
use kruise_runtime::events::EventRecorder;
use kruise_runtime::metrics::Metrics;
use kruise_runtime::queue::{QueueMetrics, RateLimit, WorkQueue};
use kruise_runtime::rollouts::Rollouts;
use kruise_runtime::watches::Watches;
use kruise_webhook::template::DryRun;
use tokio::sync::watch;

use crate::flags::Flags;
use crate::selection::Selection;

/// Tells the time.
pub(crate) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Handles and settings, made once and lent to all controllers.
pub(crate) struct Parts {
    /// The API server.
    pub(crate) client: kube::Client,
    /// The shared stores.
    pub(crate) watches: Watches,
    /// Records events; each controller takes its own component.
    pub(crate) events: EventRecorder,
    /// What is on.
    pub(crate) gates: FeatureGates,
    /// The controllers that shall run.
    pub(crate) controllers: Selection,
    /// Settings.
    pub(crate) flags: Flags,
    /// False on an API server before Kubernetes 1.32: it has no `pods/resize`.
    pub(crate) serves_resize: bool,
    /// The time.
    pub(crate) clock: Clock,
    /// Where metrics are registered.
    pub(crate) metrics: Metrics,
    /// Makes random choices repeatable, for simulations.
    pub(crate) seed: Option<u64>,
    /// What metrics tell of workloads.
    pub(crate) rollouts: Rollouts,
}

impl Parts {
    /// The API server, asked in the name of a controller.
    pub(crate) fn client_of(&self, controller: &'static str) -> kube::Client {
        for_controller(&self.client, controller)
    }

    /// What Kubernetes thinks of a template.
    pub(crate) fn template_check(&self) -> Arc<DryRun> {
        Arc::new(DryRun::new(self.client.clone(), self.flags.allow_privileged))
    }

    /// The queue and the counters of a controller.
    ///
    /// # Errors
    /// Another controller has the name.
    pub(crate) fn worker(&self, name: &'static str, workers: usize) -> anyhow::Result<Worker> {
        let limit = RateLimit {
            base: self.flags.rate_limiter_base_delay,
            max: self.flags.rate_limiter_max_delay,
            qps: self.flags.rate_limiter_qps,
            burst: self.flags.rate_limiter_bucket_size,
        };
        let registry = self.metrics.registry();
        let queue = WorkQueue::new(limit, QueueMetrics::register(registry, name)?);
        Ok(Worker { name, workers, queue, counters: ControllerMetrics::register(registry, name)? })
    }
}

/// A controller without what it does.
pub(crate) struct Worker {
    name: &'static str,
    workers: usize,
    /// Its keys.
    pub(crate) queue: WorkQueue,
    counters: ControllerMetrics,
}

impl Worker {
    /// Reconciles until told to stop.
    pub(crate) async fn run<F, R, E>(self, reconcile: F, stop: watch::Receiver<bool>)
    where
        F: Fn(ObjectKey) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Requeue, Failed<E>>> + Send + 'static,
        E: Into<anyhow::Error> + Send + 'static,
    {
        tracing::info!(controller = self.name, workers = self.workers, "starting");
        run_controller(self.name, self.queue, self.workers, reconcile, self.counters, stop).await;
    }
}
