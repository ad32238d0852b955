//! BroadcastJob.

use std::sync::Arc;

use futures::FutureExt as _;
use kruise_api::broadcastjob::BroadcastJob;
use kruise_broadcastjob::admission;
use kruise_broadcastjob::apply::Executor;
use kruise_broadcastjob::controller::{self, Context, NAME};
use kruise_broadcastjob::metrics::JobMetrics;
use kruise_broadcastjob::stores::{JobView, Stores};
use kruise_common::gates::Gate;
use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use kruise_runtime::nodes::{NodeView, NodeWire};
use kruise_webhook::review::AdmissionRequest;
use kruise_webhook::route::Router;

use crate::parts::Parts;
use crate::table::{Entry, Started};

/// The table's entry.
pub(crate) const ENTRY: Entry = Entry {
    flag: "broadcastjob",
    name: NAME,
    definition: Some("broadcastjobs.apps.kruise.io"),
    gates: &[],
    start,
};

fn start(parts: &Parts) -> anyhow::Result<Started> {
    let watches = &parts.watches;
    let stores = Stores {
        jobs: watches.namespaced(|job: BroadcastJob| JobView::of(job)),
        pods: watches.namespaced(|pod: PodWire| Some(PodView::from(pod))),
        nodes: watches.cluster(|node: NodeWire| NodeView::of(node)),
    };
    let worker = parts.worker(NAME, parts.flags.broadcastjob_workers)?;
    let events = parts.events.for_component(NAME);
    let by_scheduler = parts.flags.assign_bcj_pods_by_scheduler;
    let executor = Executor::new(parts.client_of(NAME), stores.clone(), events, by_scheduler);
    let metrics = JobMetrics::register(parts.metrics.registry(), &stores.jobs)?;
    let context = Arc::new(Context::new(stores.clone(), executor, metrics, Arc::clone(&parts.clock)));
    Ok(Started {
        ready: async move { stores.ready().await }.boxed(),
        run: Box::new(move |stop| {
            controller::wire(&worker.queue, &context);
            worker.run(move |key| controller::reconcile(key, Arc::clone(&context)), stop).boxed()
        }),
    })
}

/// The webhooks: they answer whether the controller runs or not, so that stored objects stay valid.
pub(crate) fn admission(router: Router, parts: &Parts) -> Router {
    let gates = parts.gates;
    let options = admission::Options {
        default_templates: !gates.enabled(Gate::TemplateNoDefaults),
        host_network_ports: gates.enabled(Gate::DefaultHostNetworkHostPortsInPodTemplates),
    };
    let templates = parts.template_check();
    let context = Arc::new(admission::Context::new(options, templates));
    let handler = |mutating: bool| {
        let context = Arc::clone(&context);
        move |request: AdmissionRequest| {
            let context = Arc::clone(&context);
            async move { admission::handle(&request, mutating, &context).await }.boxed()
        }
    };
    router
        .route("/mutate-apps-kruise-io-broadcastjob", handler(true))
        .route("/validate-apps-kruise-io-broadcastjob", handler(false))
}
