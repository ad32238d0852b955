//! ReplicaSets: as many pods as asked for.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use jiff::{SignedDuration, Timestamp};
use kruise_runtime::store::{Store, View};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::hub::{Hub, Loose, Seen, queue_itself, queue_owner, resource};
use super::rounds::{new_queue, unless, work};
use crate::nodes::PodView;

/// Most pods created or deleted in one round.
const BURST: usize = 500;
/// Pod writes of one round under way at once.
const PARALLEL: usize = 16;

pub(super) type Pod = Seen<PodView>;

pub(super) fn kind() -> ApiResource {
    resource("apps", "v1", "ReplicaSet", "replicasets")
}

/// Keeps ReplicaSets, for ever.
pub(super) async fn control(hub: &Hub) {
    let Some(queue) = new_queue("replicaset") else { return };
    queue_itself(&hub.replica_sets, &queue);
    queue_owner(&hub.pods, &queue, "ReplicaSet");
    tokio::join!(hub.replica_sets.ready(), hub.pods.ready());
    work("replicaset", &queue, 8, |key| async move {
        match hub.replica_sets.get(&key) {
            Some(set) => reconcile(hub, &set).await,
            None => Ok(None),
        }
    })
    .await;
}

async fn reconcile(hub: &Hub, set: &Loose) -> kube::Result<Option<Duration>> {
    let wanted = usize::try_from(set.int("/spec/replicas").unwrap_or(1)).unwrap_or(0);
    let mut pods = active(hub, set);
    if !set.deleting() {
        if pods.len() < wanted {
            create(hub, set, (wanted - pods.len()).min(BURST)).await?;
        } else if pods.len() > wanted {
            pods.sort_by_key(|pod| rank(pod));
            let many = (pods.len() - wanted).min(BURST);
            delete(hub, pods.get(..many).unwrap_or_default()).await?;
        }
    }
    let (status, wake) = status(set, &active(hub, set), hub.now());
    write_status(hub, &hub.replica_sets, set, &kind(), status).await?;
    Ok(wake)
}

/// The pods of an owner that count: neither over nor on their way out.
pub(super) fn active(hub: &Hub, owner: &Loose) -> Vec<Arc<Pod>> {
    let mut pods = hub.pods.owned_by(owner.uid());
    pods.retain(|pod| {
        let ours = pod.controller().is_some_and(|(_, _, uid)| uid == &*owner.uid().0);
        ours && !pod.deleting() && !pod.object.ended()
    });
    pods
}

/// Which pods go first: unscheduled, pending, unready, cheap, younger ones.
fn rank(pod: &Pod) -> (bool, u8, bool, i64, Reverse<Timestamp>, String) {
    let phase = match pod.object.status.phase.as_deref() {
        Some("Pending") | None => 0,
        Some("Unknown") => 1,
        Some(_) => 2,
    };
    let cost =
        pod.annotation("controller.kubernetes.io/pod-deletion-cost").and_then(|cost| cost.parse().ok());
    let scheduled = pod.object.node().is_some();
    (scheduled, phase, ready(pod), cost.unwrap_or(0), Reverse(pod.created()), pod.name().to_owned())
}

/// Since when the pod is ready.
pub(super) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = pod.object.status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
    let since = condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    (condition.status == "True").then_some(since)
}

fn ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

async fn create(hub: &Hub, set: &Loose, many: usize) -> kube::Result<()> {
    let pod = pod_of(set, set.field("/spec/template"), "ReplicaSet", "apps/v1");
    create_pods(hub, set, &pod, many).await
}

/// A pod from a template, owned by `owner`.
pub(super) fn pod_of(owner: &Loose, template: &Value, kind: &str, api_version: &str) -> Value {
    let mut meta = template.get("metadata").cloned().unwrap_or_else(|| json!({}));
    if let Value::Object(meta) = &mut meta {
        meta.remove("creationTimestamp");
        meta.remove("name");
        meta.insert("generateName".into(), format!("{}-", owner.name()).into());
        meta.insert("namespace".into(), (&*owner.key().namespace).into());
        let reference = json!([{
            "apiVersion": api_version,
            "kind": kind,
            "name": owner.name(),
            "uid": owner.uid().0,
            "controller": true,
            "blockOwnerDeletion": true,
        }]);
        meta.insert("ownerReferences".into(), reference);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template.get("spec")})
}

/// Creates `many` pods and stores them at once, so that the next round counts them.
pub(super) async fn create_pods(hub: &Hub, owner: &Loose, pod: &Value, many: usize) -> kube::Result<()> {
    let namespace = owner.key().namespace;
    let creations: Vec<BoxFuture<'_, _>> =
        (0..many).map(|_| post_pod(hub.client.clone(), &namespace, pod).boxed()).collect();
    let mut results = futures::stream::iter(creations).buffer_unordered(PARALLEL);
    let mut failure = Ok(());
    while let Some(result) = results.next().await {
        match result {
            Ok(pod) => hub.pods.apply_own(Seen::new(pod)),
            Err(error) => failure = Err(error),
        }
    }
    failure
}

/// The template is sent as it is: a typed copy would drop fields it does not know.
async fn post_pod(client: Client, namespace: &str, pod: &Value) -> kube::Result<PodView> {
    let url = <PodView as kube::Resource>::url_path(&(), Some(namespace));
    let body = serde_json::to_vec(pod).map_err(kube::Error::SerdeError)?;
    let request = kube::core::Request::new(url).create(&PostParams::default(), body);
    client.request(request.map_err(kube::Error::BuildRequest)?).await
}

async fn delete_one(hub: &Hub, pod: Arc<Pod>) -> (Arc<Pod>, kube::Result<Option<PodView>>) {
    let api: Api<PodView> = Api::namespaced(hub.client.clone(), &pod.key().namespace);
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(pod.uid().0.to_string()), resource_version: None }),
        ..DeleteParams::default()
    };
    let answer = unless(api.delete(pod.name(), &params).await, &[404, 409]);
    let answer = answer.map(|answer| answer?.left());
    (pod, answer)
}

/// Deletes pods and notes it at once.
pub(super) async fn delete(hub: &Hub, pods: &[Arc<Pod>]) -> kube::Result<()> {
    let deletions: Vec<BoxFuture<'_, _>> =
        pods.iter().map(|pod| delete_one(hub, Arc::clone(pod)).boxed()).collect();
    let mut results = futures::stream::iter(deletions).buffer_unordered(PARALLEL);
    let mut failure = Ok(());
    while let Some((pod, result)) = results.next().await {
        match result {
            Ok(answer) => match answer {
                // Still there, but on its way out.
                Some(left) if left.metadata.deletion_grace_period_seconds.is_some_and(|grace| grace > 0) => {
                    hub.pods.apply_own(Seen::new(left));
                }
                _ => hub.pods.remove_own(&pod.key(), pod.uid()),
            },
            Err(error) => failure = Err(error),
        }
    }
    failure
}

/// The status, and when time alone changes it.
fn status(set: &Loose, pods: &[Arc<Pod>], now: Timestamp) -> (Value, Option<Duration>) {
    let min_ready = SignedDuration::from_secs(set.int("/spec/minReadySeconds").unwrap_or(0));
    let (mut ready, mut available, mut labelled, mut wake) = (0, 0, 0, None::<SignedDuration>);
    let labels = set.field("/spec/template/metadata/labels").as_object();
    for pod in pods {
        let fits = |labels: &serde_json::Map<String, Value>| {
            let have = pod.object.labels();
            labels.iter().all(|(key, value)| have.get(key).map(String::as_str) == value.as_str())
        };
        labelled += i64::from(labels.is_none_or(fits));
        if let Some(since) = ready_since(pod) {
            ready += 1;
            let left = min_ready - now.duration_since(since);
            if min_ready.is_zero() || !left.is_positive() {
                available += 1;
            } else {
                wake = Some(wake.map_or(left, |wake| wake.min(left)));
            }
        }
    }
    let status = json!({
        "replicas": pods.len(),
        "fullyLabeledReplicas": labelled,
        "readyReplicas": ready,
        "availableReplicas": available,
        "observedGeneration": set.generation(),
    });
    (status, wake.and_then(|wake| Duration::try_from(wake).ok()))
}

/// Counts that are left out when they are zero.
const OPTIONAL: [&str; 8] = [
    "active",
    "availableReplicas",
    "failed",
    "fullyLabeledReplicas",
    "readyReplicas",
    "succeeded",
    "unavailableReplicas",
    "updatedReplicas",
];

/// Writes what differs of a status; absent counts are zero. An object that is gone by then is taken out of its store at
/// once: while its watch is broken nobody else would tell, and its pods would be made and collected for ever.
pub(super) async fn write_status(
    hub: &Hub,
    store: &Store<Loose>,
    object: &Loose,
    kind: &ApiResource,
    mut status: Value,
) -> kube::Result<()> {
    for field in OPTIONAL {
        if let Some(count) = status.get_mut(field).filter(|count| **count == 0) {
            *count = Value::Null;
        }
    }
    let known = object.field("/status");
    let zero = json!(0);
    let changed = status.as_object().is_some_and(|status| {
        status.iter().any(|(field, value)| {
            let known = known.get(field).unwrap_or(if value.is_number() { &zero } else { &Value::Null });
            known != value && !(value.is_null() && *known == 0)
        })
    });
    if !changed {
        return Ok(());
    }
    let api = hub.api(kind, &object.key().namespace);
    let patch = Patch::Merge(json!({"metadata": {"uid": object.uid().0}, "status": status}));
    let written = api.patch_status(object.name(), &PatchParams::default(), &patch).await;
    if unless(written, &[404])?.is_none() {
        store.remove_own(&object.key(), object.uid());
    }
    Ok(())
}
