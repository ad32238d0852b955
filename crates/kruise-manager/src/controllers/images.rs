//! ImagePullJob, ImageListPullJob and NodeImage.

use std::sync::Arc;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Secret;
use kruise_api::cloneset::v1beta1::CloneSet;
use kruise_api::imagelistpulljob::ImageListPullJob;
use kruise_api::imagepulljob::ImagePullJob;
use kruise_api::keys;
use kruise_api::nodeimage::NodeImage;
use kruise_cloneset::observed::Settings;
use kruise_cloneset::stores::SetView;
use kruise_common::gates::Gate;
use kruise_common::key::ObjectKey;
use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use kruise_imagepulljob::admission::{self, Kind};
use kruise_imagepulljob::index::{Index, OrderOf};
use kruise_imagepulljob::metrics::JobMetrics;
use kruise_imagepulljob::stores::{JobView, ListView, NodeImageView, SecretStore, SecretView, Stores};
use kruise_imagepulljob::{job, list, nodeimage};
use kruise_runtime::nodes::{NodeView, NodeWire};
use kruise_runtime::store::Store;
use kruise_runtime::watches::Watches;
use kruise_webhook::review::AdmissionRequest;
use kruise_webhook::route::Router;
use kube::core::PartialObjectMeta;

use crate::parts::Parts;
use crate::table::{Entry, Started};

/// Lists of few, long rounds need no flag.
const LIST_WORKERS: usize = 3;

/// ImagePullJob in the table.
pub(crate) const JOBS: Entry = Entry {
    flag: "imagepulljob",
    name: job::NAME,
    definition: Some("imagepulljobs.apps.kruise.io"),
    gates: &[Gate::KruiseDaemon, Gate::ImagePullJobGate],
    start: start_jobs,
};

/// ImageListPullJob in the table.
pub(crate) const LISTS: Entry = Entry {
    flag: "imagelistpulljob",
    name: list::controller::NAME,
    definition: Some("imagelistpulljobs.apps.kruise.io"),
    gates: &[Gate::KruiseDaemon, Gate::ImagePullJobGate],
    start: start_lists,
};

/// NodeImage in the table.
pub(crate) const NODE_IMAGES: Entry = Entry {
    flag: "nodeimage",
    name: nodeimage::controller::NAME,
    definition: Some("nodeimages.apps.kruise.io"),
    gates: &[Gate::KruiseDaemon],
    start: start_node_images,
};

fn jobs(watches: &Watches) -> Store<JobView> {
    watches.namespaced(|job: ImagePullJob| JobView::of(job))
}

fn images(watches: &Watches) -> Store<NodeImageView> {
    watches.cluster(|image: NodeImage| NodeImageView::of(image))
}

fn secrets(watches: &Watches) -> SecretStore {
    let namespace = copies_namespace();
    let copies = watches.besides(&namespace, |secret: PartialObjectMeta<Secret>| SecretView::of(secret));
    SecretStore {
        own: watches.namespaced_metadata(|secret: PartialObjectMeta<Secret>| SecretView::of(secret)),
        copies: copies.map(|copies| (namespace.into(), copies)),
    }
}

/// Where copies of pull Secrets live.
fn copies_namespace() -> String {
    let named = std::env::var(keys::ENV_DAEMON_CONFIG_NAMESPACE).ok().filter(|name| !name.is_empty());
    named.unwrap_or_else(|| keys::DAEMON_CONFIG_NAMESPACE.to_owned())
}

/// In which order CloneSets update their pods; others have no say.
fn update_order(watches: &Watches) -> Arc<OrderOf> {
    let sets: Store<SetView> = watches.namespaced(|set: CloneSet| SetView::of(set));
    Arc::new(move |namespace, owner| {
        let set = sets.get(&ObjectKey::new(namespace, owner.name.as_str()));
        let set = set.filter(|set| *set.uid.0 == *owner.uid);
        set.map(|set| Settings::of(&set.object.spec).order).unwrap_or_default()
    })
}

fn start_jobs(parts: &Parts) -> anyhow::Result<Started> {
    let watches = &parts.watches;
    let stores = Stores {
        jobs: jobs(watches),
        images: images(watches),
        pods: watches.namespaced(|pod: PodWire| Some(PodView::from(pod))),
        secrets: secrets(watches),
    };
    let worker = parts.worker(job::NAME, parts.flags.imagepulljob_workers)?;
    let index = Index::new(parts.flags.default_ttlseconds_for_always_nodeimage);
    let index = Arc::new(index.per_registry(parts.flags.max_pulls_per_registry));
    let setup = job::Setup {
        namespace: copies_namespace(),
        order: update_order(watches),
        metrics: JobMetrics::register(parts.metrics.registry(), Arc::clone(&index))?,
        clock: Arc::clone(&parts.clock),
    };
    let context = Arc::new(job::Context::new(parts.client_of(job::NAME), stores.clone(), index, setup));
    Ok(Started {
        ready: async move { stores.ready().await }.boxed(),
        run: Box::new(move |stop| {
            job::wire(&worker.queue, &context);
            worker.run(move |key| job::reconcile(key, Arc::clone(&context)), stop).boxed()
        }),
    })
}

fn start_lists(parts: &Parts) -> anyhow::Result<Started> {
    let name = list::controller::NAME;
    let worker = parts.worker(name, LIST_WORKERS)?;
    let context = Arc::new(list::controller::Context {
        client: parts.client_of(name),
        lists: parts.watches.namespaced(|list: ImageListPullJob| ListView::of(list)),
        jobs: jobs(&parts.watches),
        events: parts.events.for_component(name),
        clock: Arc::clone(&parts.clock),
    });
    let (lists, jobs) = (context.lists.clone(), context.jobs.clone());
    Ok(Started {
        ready: async move {
            lists.ready().await;
            jobs.ready().await;
        }
        .boxed(),
        run: Box::new(move |stop| {
            list::controller::wire(&worker.queue, &context);
            worker.run(move |key| list::controller::reconcile(key, Arc::clone(&context)), stop).boxed()
        }),
    })
}

fn start_node_images(parts: &Parts) -> anyhow::Result<Started> {
    let (watches, name) = (&parts.watches, nodeimage::controller::NAME);
    let stores = nodeimage::controller::Stores {
        nodes: watches.cluster(|node: NodeWire| NodeView::of(node)),
        images: images(watches),
        jobs: jobs(watches),
        secrets: secrets(watches),
    };
    let worker = parts.worker(name, parts.flags.nodeimage_workers)?;
    let context = Arc::new(nodeimage::controller::Context::new(
        parts.client_of(name),
        stores.clone(),
        parts.events.for_component(name),
        parts.flags.nodeimage_creation_delay,
        parts.flags.namespace.is_empty(),
        Arc::clone(&parts.clock),
    ));
    Ok(Started {
        ready: async move { stores.ready().await }.boxed(),
        run: Box::new(move |stop| {
            nodeimage::controller::wire(&worker.queue, &context);
            let reconcile = move |key: ObjectKey| nodeimage::controller::reconcile(key, Arc::clone(&context));
            worker.run(reconcile, stop).boxed()
        }),
    })
}

/// The webhooks: they answer whether the controllers run or not, so that stored objects stay valid.
pub(crate) fn admission(mut router: Router, parts: &Parts) -> Router {
    let context = Arc::new(admission::Context {
        daemon: parts.gates.enabled(Gate::KruiseDaemon),
        jobs: parts.gates.enabled(Gate::ImagePullJobGate),
        clock: Arc::clone(&parts.clock),
    });
    for kind in Kind::ALL {
        for (verb, mutating) in [("mutate", true), ("validate", false)] {
            let context = Arc::clone(&context);
            router = router.route(format!("/{verb}-{}", kind.path()), move |request: AdmissionRequest| {
                std::future::ready(admission::handle(&request, kind, mutating, &context)).boxed()
            });
        }
    }
    router
}
