//! The readiness gate `KruisePodReady`.

use std::sync::Arc;

use futures::FutureExt as _;
use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use kruise_podreadiness::controller::{self, Context, NAME};

use crate::parts::Parts;
use crate::table::{Entry, Started};

/// Parallel writes; as many as OpenKruise has, which has no flag for it.
const WORKERS: usize = 3;

/// The table's entry.
pub(crate) const ENTRY: Entry =
    Entry { flag: "podreadiness", name: NAME, definition: None, gates: &[], start };

fn start(parts: &Parts) -> anyhow::Result<Started> {
    let worker = parts.worker(NAME, WORKERS)?;
    let context = Arc::new(Context {
        client: parts.client_of(NAME),
        pods: parts.watches.namespaced(|pod: PodWire| Some(PodView::from(pod))),
        clock: Arc::clone(&parts.clock),
    });
    let pods = context.pods.clone();
    Ok(Started {
        ready: async move { pods.ready().await }.boxed(),
        run: Box::new(move |stop| {
            controller::wire(&worker.queue, &context);
            worker.run(move |key| controller::reconcile(key, Arc::clone(&context)), stop).boxed()
        }),
    })
}
