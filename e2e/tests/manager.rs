//! The manager dies; nobody notices. In a file of its own: the files run one after the other, and the other specs need
//! the webhooks.

use std::time::Duration;

use anyhow::Result;
use kruise_e2e::{Place, SOON, clone_set, manager_pods, merged, with_image};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_rollout_completes_without_an_extra_pod_when_the_manager_is_killed() -> Result<()> {
    let strategy = json!({"spec": {"updateStrategy": {"rollingUpdate": {
        "podUpdatePolicy": "ReCreate", "maxUnavailable": 1,
    }}}});
    let (place, before) = Place::with(&merged(clone_set(4, "kruise.test/demo:1"), &strategy)).await?;
    let managers = manager_pods().await?;
    let pods = managers.list(&ListParams::default().labels("control-plane=controller-manager")).await?;
    anyhow::ensure!(
        !pods.items.is_empty(),
        "the manager does not run in the cluster: run e2e/cluster/install"
    );
    place.patch(&with_image("kruise.test/demo:2")).await?;
    let kept = |now: &kruise_e2e::Snapshot| now.available() >= 3 && now.pods().len() <= 4;
    let mid = place
        .until("the first pod is replaced", SOON, kept, |now| now.running("kruise.test/demo:2") >= 1)
        .await?;
    place.check(&mid, "the rollout is under way", mid.running("kruise.test/demo:2") < 3).await?;
    for pod in pods.items.iter().filter_map(|pod| pod.metadata.name.as_deref()) {
        managers.delete(pod, &DeleteParams::default().grace_period(0)).await?;
    }
    let after = place
        .until("the rollout completes", Duration::from_mins(1), kept, |now| {
            now.running("kruise.test/demo:2") == 4 && now.settled(4)
        })
        .await?;
    let old = before.uids();
    place.check(&after, "every pod is another", after.uids().iter().all(|uid| !old.contains(uid))).await
}
