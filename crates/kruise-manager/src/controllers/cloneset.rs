//! CloneSet.

use std::sync::{Arc, OnceLock};

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kruise_api::cloneset::v1beta1::CloneSet;
use kruise_cloneset::apply::Executor;
use kruise_cloneset::controller::{self, Context, NAME};
use kruise_cloneset::plan::Options;
use kruise_cloneset::stores::{NodeView, SetView, StoredClaim, Stores};
use kruise_cloneset::{admission, figures};
use kruise_common::gates::Gate;
use kruise_common::inplace::InPlaceOptions;
use kruise_common::key::ObjectKey;
use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use kruise_common::revision::{Revision, RevisionWire};
use kruise_runtime::client::said;
use kruise_runtime::nodes::NodeWire;
use kruise_runtime::store::Store;
use kruise_runtime::watches::Watches;
use kruise_webhook::protection::Protection;
use kruise_webhook::review::AdmissionRequest;
use kruise_webhook::route::Router;
use kube::Api;
use prometheus::{IntCounterVec, Opts};

use crate::parts::Parts;
use crate::table::Started;

/// The table's entry.
pub(crate) const ENTRY: crate::table::Entry = crate::table::Entry {
    flag: "cloneset",
    name: NAME,
    definition: Some("clonesets.apps.kruise.io"),
    gates: &[],
    start,
};

fn stores(watches: &Watches) -> Stores {
    Stores {
        sets: watches.namespaced(|set: CloneSet| SetView::of(set)),
        pods: watches.namespaced(|pod: PodWire| Some(PodView::from(pod))),
        claims: watches.namespaced(|claim: PersistentVolumeClaim| StoredClaim::of(claim)),
        revisions: watches.namespaced(|revision: RevisionWire| Revision::of(revision)),
        nodes: watches.cluster(|node: NodeWire| NodeView::of(node)),
    }
}

fn start(parts: &Parts) -> anyhow::Result<Started> {
    parts.metrics.registry().register(Box::new(leaked_expectations()?))?;
    let stores = stores(&parts.watches);
    let worker = parts.worker(NAME, parts.flags.cloneset_workers)?;
    let options = options(parts);
    let events = parts.events.for_component(NAME);
    let sets = stores.sets.clone();
    parts.rollouts.add("CloneSet", move || sets.all().iter().map(|set| figures::of(set)).collect());
    let executor = Executor::new(parts.client_of(NAME), stores.clone(), events, options.clone());
    let pre_download = parts.gates.enabled(Gate::KruiseDaemon)
        && parts.gates.enabled(Gate::PreDownloadImageForInPlaceUpdate);
    let context = Context::new(stores.clone(), executor, options, Arc::clone(&parts.clock));
    let context = Arc::new(context.pre_download(pre_download).seed(parts.seed));
    let ready = stores.clone();
    Ok(Started {
        ready: async move { ready.ready().await }.boxed(),
        run: Box::new(move |stop| {
            controller::wire(&stores, &worker.queue, &context);
            for set in stores.sets.all() {
                worker.queue.add(set.key.clone());
            }
            worker.run(move |key| controller::reconcile(key, Arc::clone(&context)), stop).boxed()
        }),
    })
}

/// A metric that alerts look at. It stays 0: there are no expectations here that could leak.
fn leaked_expectations() -> prometheus::Result<IntCounterVec> {
    let about = "Scale expectations that were not met in time";
    let leaked =
        IntCounterVec::new(Opts::new("cloneset_scale_expectation_leakage", about), &["namespace", "name"])?;
    leaked.with_label_values(&["", ""]);
    Ok(leaked)
}

fn options(parts: &Parts) -> Options {
    let gates = parts.gates;
    Options {
        short_hash: gates.enabled(Gate::CloneSetShortHash),
        partition_rollback: gates.enabled(Gate::CloneSetPartitionRollback),
        preparing_update_as_update: gates.enabled(Gate::PreparingUpdateAsUpdate),
        exclude_preparing_delete: parts.flags.cloneset_scaling_exclude_preparing_delete,
        in_place: InPlaceOptions {
            env_from_metadata: gates.enabled(Gate::InPlaceUpdateEnvFromMetadata),
            vertical_scaling: gates.enabled(Gate::InPlaceWorkloadVerticalScaling),
            compare_vct: gates.enabled(Gate::RecreatePodWhenChangeVCTInCloneSetGate),
            ignore_vct: false,
            resize_in_pod: !parts.serves_resize,
        },
    }
}

/// The webhooks: they answer whether the controller runs or not, so that stored objects stay valid.
pub(crate) fn admission(router: Router, parts: &Parts, protection: Arc<Protection>) -> Router {
    let gates = parts.gates;
    let options = admission::Options {
        default_templates: !gates.enabled(Gate::TemplateNoDefaults),
        host_network_ports: gates.enabled(Gate::DefaultHostNetworkHostPortsInPodTemplates),
        delete_protection: gates.enabled(Gate::ResourcesDeletionProtection),
        vertical_scaling: gates.enabled(Gate::InPlaceWorkloadVerticalScaling),
    };
    let (pods, watches) = (OnceLock::new(), parts.watches.clone());
    let pods = move || {
        let store = pods.get_or_init(|| watches.namespaced(|pod: PodWire| Some(PodView::from(pod))));
        Store::clone(store)
    };
    // Where nobody reconciles sets, hardly anybody asks, and pods are not watched until somebody does.
    if parts.controllers.is_on(ENTRY.flag) {
        pods();
    }
    // The store does not have all pods from the start, and with --namespace never has those of others.
    let (client, covered) = (parts.client.clone(), parts.flags.namespace.clone());
    let lookup = move |namespace: &str, name: &str| {
        let (store, client, key) = (pods(), client.clone(), ObjectKey::new(namespace, name));
        let known = store.is_ready() && (covered.is_empty() || covered == namespace);
        async move {
            let pod = if known {
                store.get(&key)
            } else {
                let pods = Api::<PodWire>::namespaced(client, &key.namespace);
                let pod = pods.get_opt(&key.name).await.map_err(|error| said(&error))?;
                pod.map(|pod| Arc::new(PodView::from(pod)))
            };
            Ok(pod.map(|pod| admission::PodFacts {
                terminating: pod.deleted.is_some(),
                controller_uid: pod.controller().map(|owner| owner.uid.to_string()),
            }))
        }
        .boxed()
    };
    let templates = parts.template_check();
    let context = Arc::new(admission::Context::new(options, Arc::new(lookup), templates, protection));
    let handler = |mutating: bool| {
        let context = Arc::clone(&context);
        move |request: AdmissionRequest| {
            let context = Arc::clone(&context);
            async move { admission::handle(&request, mutating, &context).await }.boxed()
        }
    };
    router
        .route("/mutate-apps-kruise-io-cloneset", handler(true))
        .route("/validate-apps-kruise-io-cloneset", handler(false))
}
