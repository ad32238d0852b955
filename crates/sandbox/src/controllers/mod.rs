//! The parts of kube-controller-manager that workloads rely on, as ordinary clients: garbage collection, namespaces,
//! ReplicaSets and the like.
//!
//! [`run`] starts them all, [`run_only`] some. Each keeps its objects by watches and works keys off a queue; nothing is
//! written when nothing changes. Not there: StatefulSets, DaemonSets, CronJobs, endpoints, quotas, certificates.

mod accounts;
mod budgets;
mod deployments;
pub mod discovered;
pub mod gc;
mod hub;
mod jobs;
pub mod namespaces;
mod node_lifecycle;
mod replicasets;
mod rounds;
mod volumes;

use std::future::Future;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use kube::Client;

use crate::clock::WallClock;
use hub::Hub;

/// One of the controllers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Controller {
    /// Garbage collection by owner references.
    Gc,
    /// Deletion of namespaces with what is in them.
    Namespaces,
    /// ReplicaSets.
    ReplicaSets,
    /// Deployments.
    Deployments,
    /// Jobs.
    Jobs,
    /// PodDisruptionBudgets.
    Budgets,
    /// PersistentVolumeClaims, bound to made-up volumes.
    Volumes,
    /// The `default` ServiceAccount of every namespace.
    Accounts,
    /// Nodes that fall silent: taints, evictions, pods of nodes that are gone.
    NodeLifecycle,
}

impl Controller {
    /// All controllers.
    pub const ALL: [Self; 9] = [
        Self::Gc,
        Self::Namespaces,
        Self::ReplicaSets,
        Self::Deployments,
        Self::Jobs,
        Self::Budgets,
        Self::Volumes,
        Self::Accounts,
        Self::NodeLifecycle,
    ];
}

/// Runs all controllers until `stop` resolves.
pub async fn run(client: Client, clock: WallClock, stop: impl Future<Output = ()>) {
    run_only(client, clock, &Controller::ALL, gc::Scope::Everything, stop).await;
}

/// Runs these controllers until `stop` resolves; `collected` is for [`Controller::Gc`].
pub async fn run_only(
    client: Client,
    clock: WallClock,
    which: &[Controller],
    collected: gc::Scope,
    stop: impl Future<Output = ()>,
) {
    let hub = Hub::new(client, clock);
    let mut tasks: Vec<BoxFuture<'_, ()>> = Vec::new();
    for controller in which {
        tasks.push(match controller {
            Controller::Gc => gc::collect(hub.client.clone(), collected.clone()).boxed(),
            Controller::Namespaces => namespaces::control(&hub).boxed(),
            Controller::ReplicaSets => replicasets::control(&hub).boxed(),
            Controller::Deployments => deployments::control(&hub).boxed(),
            Controller::Jobs => jobs::control(&hub).boxed(),
            Controller::Budgets => budgets::control(&hub).boxed(),
            Controller::Volumes => volumes::control(&hub).boxed(),
            Controller::Accounts => accounts::control(&hub).boxed(),
            Controller::NodeLifecycle => node_lifecycle::control(&hub).boxed(),
        });
    }
    // After the controllers, so that their subscriptions are there when the first objects come.
    tasks.push(hub.watch(which).boxed());
    tokio::select! {
        biased;
        _ = join_all(tasks) => {}
        () = stop => {}
    }
}
