//! What happens to the manager and to the API server below it; nobody's pods notice. In a file of its own, one spec at a
//! time: the other specs need the webhooks.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kruise_e2e::{
    Manager, Place, PodView as _, SET, SOON, Snapshot, Venue, agents_have_reported, clone_set, cluster,
    container, merged, seen, with_image,
};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

const ONE: &str = "kruise.test/demo:1";
const TWO: &str = "kruise.test/demo:2";
const MINUTE: Duration = Duration::from_mins(1);

/// The outage a leader has to live through: the renew deadline of 10 s less one retry period of 2 s.
const RENEW: Duration = Duration::from_secs(8);

/// Whose turn it is: there is one manager.
static TURN: Mutex<()> = Mutex::const_new(());

fn one_at_a_time(policy: &str) -> Value {
    let update = json!({"podUpdatePolicy": policy, "maxUnavailable": 1});
    merged(clone_set(4, ONE), &json!({"spec": {"updateStrategy": {"rollingUpdate": update}}}))
}

/// The promise of a rollout one pod at a time, whatever happens to the manager.
fn kept(now: &Snapshot) -> bool {
    now.available() >= 3 && now.pods().len() <= 4
}

/// Starts the rollout and comes back in the middle of it.
async fn under_way(place: &Place) -> Result<()> {
    place.patch(&with_image(TWO)).await?;
    let mid = place.until("the rollout has begun", SOON, kept, |now| now.running(TWO) >= 1).await?;
    place.check(&mid, "it is under way", mid.running(TWO) < 3).await
}

async fn completes(place: &Place) -> Result<Snapshot> {
    place.until("the rollout completes", MINUTE, kept, |now| now.running(TWO) == 4 && now.settled(4)).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_recreating_rollout_completes_without_an_extra_pod_when_the_managers_pod_is_deleted() -> Result<()>
{
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let (place, before) = Venue::Cluster.with(&one_at_a_time("ReCreate")).await?;
    under_way(&place).await?;
    for pod in manager.pods().await? {
        manager.pod_api().delete(pod.name(), &DeleteParams::default().grace_period(0)).await?;
    }
    let after = completes(&place).await?;
    let old = before.uids();
    place.check(&after, "every pod is another", after.uids().iter().all(|uid| !old.contains(uid))).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn an_in_place_rollout_restarts_every_container_once_when_the_manager_process_is_killed() -> Result<()>
{
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let (place, before) = Venue::Cluster.with(&one_at_a_time("InPlaceIfPossible")).await?;
    let pod = manager.leads().await?;
    under_way(&place).await?;
    cluster(&["kill", "kruise-system", pod.name()]).await?;
    let after = completes(&place).await?;
    let killed = manager.leads().await?;
    ensure!(killed.uid() == pod.uid() && killed.restarts() > pod.restarts(), "the manager was not killed");
    place.check(&after, "the same pods", after.uids() == before.uids()).await?;
    let once = after.pods().iter().all(|pod| pod.restarts() == 1);
    place.check(&after, "each restarted once", once).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn an_in_place_rollout_goes_on_when_the_api_server_was_away() -> Result<()> {
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let (place, before) = Venue::Cluster.with(&one_at_a_time("InPlaceIfPossible")).await?;
    let pod = manager.leads().await?;
    under_way(&place).await?;
    let killed = Instant::now();
    cluster(&["restart-apiserver"]).await?;
    let outage = killed.elapsed();
    let after = completes(&place).await?;
    place.check(&after, "the same pods", after.uids() == before.uids()).await?;
    let once = after.pods().iter().all(|pod| pod.restarts() == 1);
    place.check(&after, "each restarted once", once).await?;
    let same = manager.leads().await?;
    // Without an API server for longer than the renew deadline, a leader has to step down: it ends and starts again.
    let ended = i32::from(outage > RENEW);
    let lived = same.uid() == pod.uid() && same.restarts() <= pod.restarts() + ended;
    ensure!(lived, "the manager did not live through {outage:?}");
    ensure!(place.revisions().await?.len() == 2, "another revision came of it");
    Ok(())
}

/// Every object of the set but the set itself, by its version. Kubelet tells what it likes when it likes.
async fn versions(place: &Place) -> Result<Vec<String>> {
    let pods = place.now().await?.all;
    let revisions = place.revisions().await?;
    let events = place.kubectl(&[
        "get",
        "events",
        "--field-selector=source!=kubelet",
        "--output",
        "jsonpath={.items[*].metadata.resourceVersion}",
    ]);
    let metas = pods.into_iter().map(|pod| pod.metadata).chain(revisions.into_iter().map(|it| it.metadata));
    let mut versions: Vec<_> =
        metas.map(|meta| format!("{:?} {:?}", meta.name, meta.resource_version)).collect();
    versions.push(events.await?);
    Ok(versions)
}

fn version(now: &Snapshot) -> Option<&Value> {
    now.set.pointer("/metadata/resourceVersion")
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn nothing_is_written_once_the_set_is_as_wanted() -> Result<()> {
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let (place, _) = Venue::Cluster.with(&clone_set(3, ONE)).await?;
    manager.looks_again(&place, "first").await?;
    agents_have_reported(&place).await?;
    let before = versions(&place).await?;
    for marker in ["second", "third"] {
        let rounds = manager.rounds().await?;
        place.patch(&json!({"metadata": {"annotations": {"e2e.kruise.io/marker": marker}}})).await?;
        let touched = place.now().await?;
        manager.has_worked(rounds).await?;
        let now = place.now().await?;
        place.check(&now, "the set was not written", version(&now) == version(&touched)).await?;
        let after = versions(&place).await?;
        ensure!(after == before, "something was written: {before:#?} became {after:#?}");
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_manager_of_one_namespace_leaves_the_sets_of_others_alone() -> Result<()> {
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let (other, mine) = (Venue::Cluster.place().await?, Venue::Cluster.place().await?);
    {
        let argument = format!("--namespace={}", mine.namespace());
        let _back = manager.with_arguments(&[&argument]).await?;
        other.create(&clone_set(1, ONE)).await?;
        mine.create(&clone_set(1, ONE)).await?;
        mine.eventually("the set of its namespace is served", SOON, |now| now.settled(1)).await?;
        manager.looks_again(&mine, "again").await?;
        let now = other.now().await?;
        let untouched = now.all.is_empty() && now.set.get("status").is_none_or(|status| *status == json!({}));
        other.check(&now, "the other set is untouched", untouched).await?;
        ensure!(other.revisions().await?.is_empty(), "a revision was written for the other set");
    }
    other.eventually("a manager of all namespaces serves it", MINUTE, |now| now.settled(1)).await?;
    Ok(())
}

fn with_limits(cpu: &str, memory: &str) -> Value {
    let resources =
        json!({"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": "10m", "memory": "16Mi"}});
    let main = merged(container(ONE), &json!({"resources": resources}));
    json!({"spec": {"template": {"spec": {"containers": [main]}}}})
}

/// The processor time a container may use in 100 ms, in microseconds: from cgroup version 1 or 2.
async fn quota(place: &Place, pod: &str) -> Result<String> {
    let both = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/cpu.max";
    let text = place.kubectl(&["exec", pod, "--", "sh", "-c", both]).await?;
    text.split_whitespace().next().map(str::to_owned).context("no quota")
}

/// The memory a container may use, in bytes: from cgroup version 1 or 2.
async fn memory_limit(place: &Place, pod: &str) -> Result<String> {
    let both = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    place.kubectl(&["exec", pod, "--", "sh", "-c", both]).await
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn with_the_gate_more_cpu_and_memory_are_given_to_a_running_container() -> Result<()> {
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let _back = manager.with_arguments(&["--feature-gates=InPlaceWorkloadVerticalScaling=true"]).await?;
    let (place, before) =
        Venue::Cluster.with(&merged(clone_set(2, ONE), &with_limits("100m", "64Mi"))).await?;
    for pod in before.pods() {
        ensure!(quota(&place, pod.name()).await? == "10000", "{} did not start with 100m", pod.name());
    }
    place.patch(&with_limits("200m", "96Mi")).await?;
    let after = place
        .until(
            "the set is at the new revision",
            MINUTE,
            |now| now.pods().iter().filter(|pod| pod.condition("Ready") == Some(true)).count() == 2,
            |now| now.text("updateRevision") != before.text("updateRevision") && now.settled(2),
        )
        .await?;
    place.check(&after, "the same pods", after.uids() == before.uids()).await?;
    place.check(&after, "no container restarted", after.pods().iter().all(|pod| pod.restarts() == 0)).await?;
    for pod in after.pods() {
        seen(&format!("{} may use 200m", pod.name()), SOON, async || {
            Ok((quota(&place, pod.name()).await? == "20000").then_some(()))
        })
        .await?;
        let bytes = (96 * 1024 * 1024).to_string();
        seen(&format!("{} may use 96Mi", pod.name()), SOON, async || {
            Ok((memory_limit(&place, pod.name()).await? == bytes).then_some(()))
        })
        .await?;
    }
    let state = place
        .kubectl(&[
            "get",
            "pods",
            "-l",
            &format!("app={SET}"),
            "-o",
            "jsonpath={.items[*].spec.containers[0].resources.limits.cpu}",
        ])
        .await?;
    ensure!(state == "200m 200m", "{state}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: see e2e/cluster"]
async fn a_set_goes_with_its_namespace_without_an_error() -> Result<()> {
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let (place, _) = Venue::Cluster.with(&clone_set(3, ONE)).await?;
    let errors = async || manager.metric("controller_runtime_reconcile_errors_total", "").await;
    let (rounds, before) = (manager.rounds().await?, errors().await?);
    place.kubectl(&["delete", "namespace", place.namespace(), "--wait=false"]).await?;
    seen("the set is gone", MINUTE, async || {
        Ok(place.sets("v1beta1").get_opt(SET).await?.is_none().then_some(()))
    })
    .await?;
    manager.has_worked(rounds).await?;
    let after = errors().await?;
    ensure!(after <= before, "{} rounds failed", after - before);
    Ok(())
}
