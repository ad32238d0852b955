//! ContainerRecreateRequest.

use std::sync::Arc;

use futures::FutureExt as _;
use kruise_api::containerrecreaterequest::ContainerRecreateRequest;
use kruise_common::gates::Gate;
use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use kruise_containerrecreaterequest::admission;
use kruise_containerrecreaterequest::controller::{self, Context, NAME, RequestView, Turns};
use kruise_containerrecreaterequest::metrics::RequestMetrics;
use kruise_webhook::review::AdmissionRequest;
use kruise_webhook::route::Router;

use crate::parts::Parts;
use crate::table::{Entry, Started};

/// The table's entry.
pub(crate) const ENTRY: Entry = Entry {
    flag: "crr",
    name: NAME,
    definition: Some("containerrecreaterequests.apps.kruise.io"),
    gates: &[Gate::KruiseDaemon],
    start,
};

fn start(parts: &Parts) -> anyhow::Result<Started> {
    let worker = parts.worker(NAME, parts.flags.crr_workers)?;
    let context = Arc::new(Context {
        client: parts.client_of(NAME),
        requests: parts.watches.namespaced(|request: ContainerRecreateRequest| RequestView::of(request)),
        pods: parts.watches.namespaced(|pod: PodWire| Some(PodView::from(pod))),
        turns: Turns::default(),
        metrics: RequestMetrics::register(parts.metrics.registry())?,
        events: parts.events.for_component(NAME),
        clock: Arc::clone(&parts.clock),
    });
    let (requests, pods) = (context.requests.clone(), context.pods.clone());
    Ok(Started {
        ready: async move {
            requests.ready().await;
            pods.ready().await;
        }
        .boxed(),
        run: Box::new(move |stop| {
            controller::wire(&worker.queue, &context);
            worker.run(move |key| controller::reconcile(key, Arc::clone(&context)), stop).boxed()
        }),
    })
}

/// The webhook: it answers whether the controller runs or not.
pub(crate) fn admission(router: Router, parts: &Parts) -> Router {
    let daemon = parts.gates.enabled(Gate::KruiseDaemon);
    let context = Arc::new(admission::Context { client: parts.client.clone(), daemon });
    router.route("/mutate-apps-kruise-io-containerrecreaterequest", move |request: AdmissionRequest| {
        let context = Arc::clone(&context);
        async move { admission::handle(&request, &context).await }.boxed()
    })
}
