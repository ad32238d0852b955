//! One round of one pod, and what wakes it.

use std::sync::Arc;

use jiff::Timestamp;
use kruise_common::key::ObjectKey;
use kruise_common::pod::PodView;
use kruise_runtime::controller::{Failed, Requeue};
use kruise_runtime::queue::WorkQueue;
use kruise_runtime::store::{Change, Store};
use kruise_runtime::writes::{Error, patch_pod_status, settled};

use crate::plan::plan;

/// Name of the controller: label of its metrics.
pub const NAME: &str = "pod-readiness-controller";

/// What rounds need.
pub struct Context {
    /// The API server.
    pub client: kube::Client,
    /// The pods.
    pub pods: Store<PodView>,
    /// The time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

/// Wakes a pod when it has something to be given.
pub fn wire(queue: &WorkQueue, context: &Context) {
    let (queue, clock) = (queue.clone(), Arc::clone(&context.clock));
    context.pods.subscribe(Box::new(move |change: &Change<PodView>| {
        if let Some(pod) = change.new.as_ref().filter(|pod| plan(pod, clock()).is_some()) {
            queue.add(pod.key.clone());
        }
    }));
}

/// One round.
///
/// # Errors
/// The write failed.
pub async fn reconcile(key: ObjectKey, context: Arc<Context>) -> Result<Requeue, Failed<Error>> {
    settled(round(&key, &context).await, None)
}

async fn round(key: &ObjectKey, context: &Context) -> Result<Requeue, Error> {
    let Some(pod) = context.pods.get(key) else { return Ok(Requeue::None) };
    if let Some(patch) = plan(&pod, (context.clock)()) {
        patch_pod_status(&context.client, &context.pods, &pod, patch).await?;
    }
    Ok(Requeue::None)
}
