//! Leadership: by the Lease, or at once.

use std::sync::Arc;

use anyhow::anyhow;
use kruise_runtime::lease::{self, ApiLease, Elector, Ended, LeaseConfig};
use tokio::sync::watch;

use crate::parts::Parts;
use crate::run::Tasks;

/// Starts to compete, or leads at once; the receiver tells.
///
/// # Errors
/// The settings of the Lease contradict each other.
pub(crate) fn elect(
    tasks: &mut Tasks,
    parts: &Parts,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<watch::Receiver<bool>> {
    let (flags, metrics) = (&parts.flags, &parts.metrics);
    if !flags.enable_leader_election {
        metrics.set_leader(&flags.leader_election_id, true);
        let (leading, receiver) = watch::channel(true);
        tasks.spawn(async move {
            let mut stop = stop;
            let _sender = leading;
            // The sender lives in `run` until the end: an error means that the end has come as well.
            let _ = stop.wait_for(|stop| *stop).await;
            ("leadership without election", Ok(()))
        });
        return Ok(receiver);
    }
    let hostname = std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/etc/hostname").ok())
        .map_or_else(|| "kruise-manager".to_owned(), |name| name.trim().to_owned());
    let config = LeaseConfig {
        // Without one it is the namespace of the pod, or of the kubeconfig's context.
        namespace: match flags.leader_election_namespace.as_str() {
            "" => parts.client.default_namespace().to_owned(),
            given => given.to_owned(),
        },
        name: flags.leader_election_id.clone(),
        identity: lease::identity(&hostname),
        lease_duration: flags.leader_election_lease_duration,
        renew_deadline: flags.leader_election_renew_deadline,
        retry_period: flags.leader_election_retry_period,
    };
    config.validate().map_err(|error| anyhow!(error))?;
    let store = ApiLease::new(parts.client.clone(), &config);
    let (elector, leading) = Elector::new(config, store, Arc::clone(&parts.clock));
    let elector = elector.with_events(&parts.events);
    tasks.spawn(async move {
        let result = match elector.run(stop).await {
            Ended::Lost => Err(anyhow!("leader election lost")),
            Ended::Shutdown => Ok(()),
        };
        ("leader election", result)
    });
    let (metrics, name, mut changes) = (metrics.clone(), flags.leader_election_id.clone(), leading.clone());
    metrics.set_leader(&name, false);
    tasks.spawn(async move {
        while changes.changed().await.is_ok() {
            metrics.set_leader(&name, *changes.borrow());
        }
        ("leadership metric", Ok(()))
    });
    Ok(leading)
}
