//! Reading a PodView straight off the wire: what plans do not read is skipped while parsing, never stored.

use std::borrow::{Borrow, Cow};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::Hash;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kruise_api::keys;
use serde::Deserialize;
use serde_json::Value;

use crate::key::{ObjectKey, Uid};
use crate::placement::{AffinityWire, Placement, PlacementWire, TolerationWire};
use crate::pod::{
    ConditionText, ConditionView, ContainerStatusView, ContainerView, EnvFromMetadata, OwnerView, Phase,
    PodView, ResourcesView, RestartPolicy,
};
use crate::texts::Texts;
use crate::wire::{metadata, nullable, time};

/// A Pod as the API server sends it, without the parts that nothing reads. Has metadata of its own, without
/// `managedFields`, so that watches can handle it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodWire {
    #[serde(default, deserialize_with = "metadata")]
    metadata: ObjectMeta,
    #[serde(default, deserialize_with = "nullable")]
    spec: SpecWire,
    #[serde(default, deserialize_with = "nullable")]
    status: StatusWire,
}

crate::resource_as!(PodWire, Pod);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecWire {
    node_name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    restart_policy: String,
    #[serde(default, deserialize_with = "nullable")]
    node_selector: BTreeMap<String, Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    affinity: AffinityWire,
    #[serde(default, deserialize_with = "nullable")]
    tolerations: Vec<TolerationWire>,
    #[serde(default, deserialize_with = "nullable")]
    readiness_gates: Vec<GateWire>,
    #[serde(default, deserialize_with = "nullable")]
    containers: Vec<ContainerWire>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GateWire {
    #[serde(default, deserialize_with = "nullable")]
    condition_type: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct ContainerWire {
    #[serde(default, deserialize_with = "nullable")]
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    image: String,
    #[serde(default, deserialize_with = "nullable")]
    resources: ResourcesWire,
    #[serde(default, deserialize_with = "nullable")]
    env: Vec<EnvWire>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct ResourcesWire {
    #[serde(default, deserialize_with = "nullable")]
    limits: BTreeMap<String, Value>,
    #[serde(default, deserialize_with = "nullable")]
    requests: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvWire {
    #[serde(default, deserialize_with = "nullable")]
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    value: String,
    #[serde(default, deserialize_with = "nullable")]
    value_from: EnvSourceWire,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvSourceWire {
    #[serde(default, deserialize_with = "nullable")]
    field_ref: FieldRefWire,
    #[serde(default, deserialize_with = "nullable")]
    config_map_key_ref: KeyRefWire,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FieldRefWire {
    #[serde(default, deserialize_with = "nullable")]
    field_path: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct KeyRefWire {
    #[serde(default, deserialize_with = "nullable")]
    key: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusWire {
    #[serde(default, deserialize_with = "nullable")]
    phase: String,
    #[serde(default, deserialize_with = "nullable")]
    conditions: Vec<ConditionWire>,
    #[serde(default, deserialize_with = "nullable")]
    container_statuses: Vec<ContainerStatusWire>,
    #[serde(default, deserialize_with = "nullable")]
    init_container_statuses: Vec<InitStatusWire>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConditionWire {
    #[serde(default, deserialize_with = "nullable", rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "nullable")]
    status: String,
    #[serde(default, deserialize_with = "nullable")]
    reason: String,
    #[serde(default, deserialize_with = "nullable")]
    message: String,
    last_transition_time: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatusWire {
    #[serde(default, deserialize_with = "nullable")]
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    image: String,
    #[serde(default, deserialize_with = "nullable", rename = "imageID")]
    image_id: String,
    #[serde(default, deserialize_with = "nullable", rename = "containerID")]
    container_id: String,
    #[serde(default, deserialize_with = "nullable")]
    ready: bool,
    #[serde(default, deserialize_with = "nullable")]
    restart_count: i32,
    #[serde(default, deserialize_with = "nullable")]
    state: StateWire,
    #[serde(default, deserialize_with = "nullable")]
    resources: ResourcesWire,
}

/// Of init containers only the restarts are read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitStatusWire {
    #[serde(default, deserialize_with = "nullable")]
    restart_count: i32,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct StateWire {
    #[serde(default, deserialize_with = "nullable")]
    waiting: WaitingWire,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct WaitingWire {
    #[serde(default, deserialize_with = "nullable")]
    reason: String,
}

/// Values that many pods share, each stored once. Those that only the pool still knows are dropped each time it has
/// doubled, so it is never much larger than what is in use.
struct Pool<T: ?Sized> {
    values: HashSet<Arc<T>>,
    purge_at: usize,
}

/// Below this many values no purge is worth its time.
const SMALL: usize = 1024;

impl<T: ?Sized + Eq + Hash> Pool<T> {
    fn new() -> Self {
        Self { values: HashSet::new(), purge_at: SMALL }
    }

    fn share<V: Borrow<T> + Into<Arc<T>>>(&mut self, value: V) -> Arc<T> {
        if let Some(known) = self.values.get(value.borrow()) {
            return Arc::clone(known);
        }
        if self.values.len() >= self.purge_at {
            self.values.retain(|known| Arc::strong_count(known) > 1);
            self.values.shrink_to(2 * self.values.len());
            self.purge_at = SMALL.max(2 * self.values.len());
        }
        let new: Arc<T> = value.into();
        self.values.insert(Arc::clone(&new));
        new
    }
}

/// All that pods share.
struct Shared {
    texts: Pool<str>,
    lists: Pool<[Arc<str>]>,
    owners: Pool<[OwnerView]>,
    containers: Pool<[ContainerView]>,
    resources: Pool<ResourcesView>,
    placements: Pool<Placement>,
    conditions: Pool<ConditionText>,
}

impl Shared {
    fn new() -> Self {
        Self {
            texts: Pool::new(),
            lists: Pool::new(),
            owners: Pool::new(),
            containers: Pool::new(),
            resources: Pool::new(),
            placements: Pool::new(),
            conditions: Pool::new(),
        }
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        self.texts.share(text)
    }

    fn list<'a>(&mut self, texts: impl Iterator<Item = &'a String>) -> Arc<[Arc<str>]> {
        let list: Vec<_> = texts.map(|text| self.texts.share(text.as_str())).collect();
        self.lists.share(list)
    }
}

static SHARED: LazyLock<Mutex<Shared>> = LazyLock::new(|| Mutex::new(Shared::new()));

/// Labels that hold another value on every pod: sharing them would cost more than it saves.
const UNSHARED_LABELS: [&str; 3] = [
    "apps.kruise.io/cloneset-instance-id",
    "statefulset.kubernetes.io/pod-name",
    "batch.kubernetes.io/job-completion-index",
];

/// Annotations that are alike on pods which changed in the same second.
const ALIKE_ANNOTATIONS: [&str; 2] = [keys::INPLACE_STATE, keys::LIFECYCLE_TIMESTAMP];

/// Steps of a pod's start, which every pod has and no decision reads.
const UNREAD_CONDITIONS: [&str; 2] = ["Initialized", "PodReadyToStartContainers"];

/// Why a pod has no node is read; that it has one, it says itself.
fn is_read(condition: &ConditionWire) -> bool {
    let kind = condition.kind.as_str();
    !UNREAD_CONDITIONS.contains(&kind) && (kind != "PodScheduled" || condition.status == "False")
}

impl From<PodWire> for PodView {
    fn from(wire: PodWire) -> Self {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        view(wire, &mut shared)
    }
}

fn view(wire: PodWire, shared: &mut Shared) -> PodView {
    let PodWire { metadata: meta, spec, status } = wire;
    let ordered = meta.annotations.as_ref().is_some_and(|annotations| {
        annotations
            .get(keys::CONTAINER_LAUNCH_PRIORITY)
            .is_some_and(|value| value == keys::CONTAINER_LAUNCH_ORDERED)
    });
    let containers: Vec<ContainerView> =
        std::iter::zip(&spec.containers, launch_priorities(&spec.containers, ordered))
            .map(|(container, launch_priority)| container_view(container, launch_priority, shared))
            .collect();
    let containers = shared.containers.share(containers);
    let read_by_env: BTreeSet<&str> = containers
        .iter()
        .flat_map(|container| &container.env_from_metadata)
        .filter(|env| !env.label)
        .map(|env| &*env.key)
        .collect();
    let updated = meta.annotations.iter().flatten().any(|(key, _)| key.contains("inplace-update-"));
    let annotations = meta
        .annotations
        .into_iter()
        .flatten()
        .filter(|(key, _)| is_kept(key, updated) || read_by_env.contains(key.as_str()))
        .map(|(key, value)| {
            let alike = ALIKE_ANNOTATIONS.contains(&key.as_str());
            (shared.text(&key), if alike { shared.text(&value) } else { value.into() })
        })
        .collect();
    let labels = meta
        .labels
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            let own = UNSHARED_LABELS.contains(&key.as_str());
            (shared.text(&key), if own { value.into() } else { shared.text(&value) })
        })
        .collect();
    let node = spec.node_name.filter(|node| !node.is_empty()).map(|node| shared.text(&node));
    let wire = PlacementWire {
        node_selector: spec.node_selector,
        affinity: spec.affinity,
        tolerations: spec.tolerations,
    };
    let (placement, pinned) = Placement::of_pod(wire, node.is_some(), &mut |text| shared.text(text));
    PodView {
        key: ObjectKey {
            namespace: shared.text(meta.namespace.as_deref().unwrap_or_default()),
            name: meta.name.unwrap_or_default().into(),
        },
        uid: Uid(meta.uid.unwrap_or_default().into()),
        resource_version: meta.resource_version.unwrap_or_default().into(),
        created: meta.creation_timestamp.map(|time| time.0),
        deleted: meta.deletion_timestamp.map(|time| time.0),
        labels,
        annotations,
        finalizers: shared.list(meta.finalizers.iter().flatten()),
        owners: owners_view(meta.owner_references.as_deref().unwrap_or_default(), shared),
        node,
        pinned,
        placement: shared.placements.share(placement),
        restart_policy: restart_policy(&spec.restart_policy),
        readiness_gates: shared.list(spec.readiness_gates.iter().map(|gate| &gate.condition_type)),
        containers,
        phase: phase(&status.phase),
        conditions: status
            .conditions
            .into_iter()
            .filter(is_read)
            .map(|condition| condition_view(condition, shared))
            .collect(),
        statuses: status.container_statuses.into_iter().map(|status| status_view(status, shared)).collect(),
        init_restarts: status
            .init_container_statuses
            .iter()
            .fold(0, |sum, status| i32::saturating_add(sum, status.restart_count)),
    }
}

/// Annotations that Kruise reads on any pod. What the node agent reports of containers is read only to tell whether an
/// in-place update, which left its state on the pod, is complete.
fn is_kept(key: &str, updated: bool) -> bool {
    (key.contains("kruise.io/") && (updated || key != keys::RUNTIME_CONTAINERS_META))
        || matches!(
            key,
            "inplace-update-state" | "inplace-update-grace" | crate::update_sort::DELETION_COST_ANNOTATION
        )
}

fn restart_policy(text: &str) -> RestartPolicy {
    match text {
        "Never" => RestartPolicy::Never,
        "OnFailure" => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

fn phase(text: &str) -> Phase {
    match text {
        "" | "Pending" => Phase::Pending,
        "Running" => Phase::Running,
        "Succeeded" => Phase::Succeeded,
        "Failed" => Phase::Failed,
        _ => Phase::Unknown,
    }
}

fn owners_view(owners: &[OwnerReference], shared: &mut Shared) -> Arc<[OwnerView]> {
    let owners: Vec<_> = owners.iter().map(|owner| owner_view(owner, shared)).collect();
    shared.owners.share(owners)
}

fn owner_view(owner: &OwnerReference, shared: &mut Shared) -> OwnerView {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    OwnerView {
        group: shared.text(group),
        kind: shared.text(&owner.kind),
        name: shared.text(&owner.name),
        uid: Uid(shared.text(&owner.uid)),
        controller: owner.controller.unwrap_or(false),
    }
}

/// The launch priority of each container: as its barrier says, which admission has set, or as the pod's author has asked
/// for where no container has one. An order that cannot be read is none.
fn launch_priorities(containers: &[ContainerWire], ordered: bool) -> Vec<Option<i32>> {
    let none = vec![None; containers.len()];
    let barriers: Vec<_> = containers.iter().map(barrier_priority).collect();
    if barriers.iter().any(Option::is_some) {
        return barriers;
    }
    if containers.len() < 2 {
        return none;
    }
    if ordered {
        return (0..).map(|place: i32| Some(-place)).take(containers.len()).collect();
    }
    let asked: Option<Vec<i32>> = containers.iter().map(asked_priority).collect();
    match asked {
        Some(asked) if asked.iter().any(|priority| Some(priority) != asked.first()) => {
            asked.into_iter().map(Some).collect()
        }
        _ => none,
    }
}

/// n of the barrier's configMap key `p_<n>`.
fn barrier_priority(container: &ContainerWire) -> Option<i32> {
    let barrier = container.env.iter().find(|env| env.name == keys::ENV_CONTAINER_BARRIER)?;
    barrier.value_from.config_map_key_ref.key.strip_prefix("p_")?.parse().ok()
}

/// What its variable asks for, 0 without one; `None` if that is no number.
fn asked_priority(container: &ContainerWire) -> Option<i32> {
    let asked = container.env.iter().rfind(|env| env.name == keys::ENV_CONTAINER_PRIORITY);
    asked.map_or(Some(0), |env| env.value.parse().ok())
}

fn container_view(
    container: &ContainerWire,
    launch_priority: Option<i32>,
    shared: &mut Shared,
) -> ContainerView {
    ContainerView {
        name: shared.text(&container.name),
        image: shared.text(&container.image),
        resources: resources_view(&container.resources, shared),
        env_from_metadata: container.env.iter().filter_map(|env| env_from_metadata(env, shared)).collect(),
        launch_priority,
    }
}

/// `metadata.labels['key']` or `metadata.annotations['key']`.
fn env_from_metadata(env: &EnvWire, shared: &mut Shared) -> Option<EnvFromMetadata> {
    let path = env.value_from.field_ref.field_path.strip_prefix("metadata.")?;
    let (label, subscript) = match path.strip_prefix("labels") {
        Some(subscript) => (true, subscript),
        None => (false, path.strip_prefix("annotations")?),
    };
    let key = subscript.strip_prefix("['")?.strip_suffix("']")?;
    Some(EnvFromMetadata { name: shared.text(&env.name), label, key: shared.text(key) })
}

fn resources_view(resources: &ResourcesWire, shared: &mut Shared) -> Option<Arc<ResourcesView>> {
    let mut quantities = |map: &BTreeMap<String, Value>| -> Texts {
        map.iter()
            .map(|(name, quantity)| {
                let text = quantity.as_str().map_or_else(|| Cow::Owned(quantity.to_string()), Cow::Borrowed);
                (shared.text(name), shared.text(&text))
            })
            .collect()
    };
    let view =
        ResourcesView { limits: quantities(&resources.limits), requests: quantities(&resources.requests) };
    (!view.limits.is_empty() || !view.requests.is_empty()).then(|| shared.resources.share(view))
}

fn condition_view(condition: ConditionWire, shared: &mut Shared) -> ConditionView {
    let text = ConditionText {
        kind: shared.text(&condition.kind),
        status: shared.text(&condition.status),
        reason: shared.text(&condition.reason),
        message: shared.text(&condition.message),
    };
    ConditionView { text: shared.conditions.share(text), changed: time(condition.last_transition_time) }
}

fn status_view(status: ContainerStatusWire, shared: &mut Shared) -> ContainerStatusView {
    ContainerStatusView {
        name: shared.text(&status.name),
        image: shared.text(&status.image),
        image_id: shared.text(&status.image_id),
        container_id: status.container_id.into(),
        ready: status.ready,
        restarts: status.restart_count,
        waiting: shared.text(&status.state.waiting.reason),
        resources: resources_view(&status.resources, shared),
    }
}

#[cfg(test)]
mod tests {
    use kube::Resource as _;
    use serde_json::json;

    use super::*;

    fn read(pod: &Value) -> PodView {
        serde_json::from_slice::<PodWire>(&serde_json::to_vec(pod).unwrap()).unwrap().into()
    }

    fn full() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "novelty": {"a": [1, {"b": null}]},
            "metadata": {
                "name": "web-0", "namespace": "shop", "uid": "u-1", "resourceVersion": "42", "generation": 3,
                "creationTimestamp": "2026-01-02T03:04:05Z", "deletionTimestamp": "2026-01-02T03:05:05Z",
                "labels": {"app": "web"},
                "annotations": {
                    "apps.kruise.io/inplace-update-state": "{}", "inplace-update-grace": "{}",
                    "controller.kubernetes.io/pod-deletion-cost": "5",
                    "kubectl.kubernetes.io/last-applied-configuration": "huge", "config": "v1", "unread": "x",
                },
                "finalizers": ["example.io/f"],
                "ownerReferences": [{
                    "apiVersion": "apps.kruise.io/v1alpha1", "kind": "CloneSet", "name": "web", "uid": "u-0",
                    "controller": true, "blockOwnerDeletion": true,
                }],
                "managedFields": [{"manager": "x", "fieldsV1": {"f:metadata": {}}}],
            },
            "spec": {
                "nodeName": "node1", "novelty": 1, "restartPolicy": "OnFailure",
                "nodeSelector": {"zone": "a"},
                "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchFields": [
                        {"key": "metadata.name", "operator": "In", "values": ["node1"]}]}]}}},
                "readinessGates": [{"conditionType": "InPlaceUpdateReady"}],
                "containers": [{
                    "name": "main", "image": "nginx:1", "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": 1}},
                    "env": [
                        {"name": "PLAIN", "value": "x"},
                        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                        {"name": "CFG", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['config']"}}},
                        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                        {"name": keys::ENV_CONTAINER_BARRIER, "valueFrom": {"configMapKeyRef": {"name": "b", "key": "p_10"}}},
                    ],
                }],
            },
            "status": {
                "phase": "Running",
                "conditions": [
                    {"type": "Initialized", "status": "True"},
                    {"type": "PodScheduled", "status": "True"},
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:15Z"},
                ],
                "initContainerStatuses": [{"name": "init", "restartCount": 3}],
                "containerStatuses": [{
                    "name": "main", "image": "docker.io/library/nginx:1", "imageID": "sha256:1",
                    "containerID": "containerd://1", "ready": true, "restartCount": 2,
                    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "m"}},
                    "resources": {"limits": {"cpu": "1"}},
                }],
            },
        })
    }

    #[test]
    fn a_pod_is_read_and_unknown_fields_are_skipped() {
        let pod = read(&full());
        assert_eq!(pod.key.to_string(), "shop/web-0");
        assert_eq!((&*pod.uid.0, &*pod.resource_version), ("u-1", "42"));
        assert_eq!(pod.created.unwrap().to_string(), "2026-01-02T03:04:05Z");
        assert_eq!(pod.deleted.unwrap().to_string(), "2026-01-02T03:05:05Z");
        let kept: Vec<&str> = pod.annotations.keys().map(AsRef::as_ref).collect();
        assert_eq!(
            kept,
            [
                "apps.kruise.io/inplace-update-state",
                "config",
                "controller.kubernetes.io/pod-deletion-cost",
                "inplace-update-grace"
            ]
        );
        assert_eq!(
            pod.controller().map(|owner| (&*owner.group, &*owner.name)),
            Some(("apps.kruise.io", "web"))
        );
        assert_eq!((pod.label("app"), pod.node.as_deref()), (Some("web"), Some("node1")));
        assert!(pod.has_readiness_gate("InPlaceUpdateReady") && pod.is_ready());
        assert_eq!(pod.conditions.len(), 1);
        let main = &pod.containers[0];
        assert_eq!((main.launch_priority, main.env_from_metadata.len()), (Some(10), 2));
        let resources = main.resources.as_ref().unwrap();
        assert_eq!(
            (&**resources.limits.get("memory").unwrap(), &**resources.requests.get("cpu").unwrap()),
            ("1Gi", "1")
        );
        let status = &pod.statuses[0];
        assert_eq!((status.restarts, &*status.waiting, status.ready), (2, "ImagePullBackOff", true));
        assert_eq!(&*status.image_id, "sha256:1");
        assert_eq!((pod.restart_policy, pod.restarts()), (RestartPolicy::OnFailure, 5));
        assert_eq!((pod.node_or_pin().map(AsRef::as_ref), &pod.pinned), (Some("node1"), &None));
    }

    #[test]
    fn a_pod_without_a_node_is_for_the_one_its_affinity_names() {
        let with = |terms: Value| {
            let mut pod = full();
            pod["spec"]["nodeName"] = Value::Null;
            pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] =
                terms;
            read(&pod)
        };
        let field = |name: &str| json!([{"key": "metadata.name", "operator": "In", "values": [name]}]);
        let zone = json!([{"key": "zone", "operator": "In", "values": ["a"]}]);
        let pin = |terms: Value| with(terms).pinned;
        assert_eq!(pin(json!([{"matchFields": field("n1")}])).as_deref(), Some("n1"));
        assert_eq!(
            pin(json!([{"matchFields": field("n1")}, {"matchFields": field("n1")}])).as_deref(),
            Some("n1")
        );
        assert_eq!(pin(json!([{"matchFields": field("n1")}, {"matchFields": field("n2")}])), None);
        assert_eq!(pin(json!([{"matchFields": field("n1")}, {"matchExpressions": zone}])), None);
        assert_eq!(pin(json!([])), None);
        let two =
            ["n1", "n2"].map(|name| with(json!([{"matchFields": field(name), "matchExpressions": zone}])));
        assert!(Arc::ptr_eq(&two[0].placement, &two[1].placement), "they differ in their pin only");
        let node = |zone: &str| crate::placement::NodeFacts {
            labels: [("zone".into(), zone.into())].into(),
            ..Default::default()
        };
        assert!(
            two[0].placement.is_drawn_to("n1", &node("a")) && !two[0].placement.is_drawn_to("n1", &node("b"))
        );
        let bare = with(json!([{"matchFields": field("n1")}]));
        assert!(bare.placement.is_drawn_to("n1", &node("b")), "nothing but the pin");
    }

    #[test]
    fn why_a_pod_has_no_node_is_kept_and_that_it_has_one_is_not() {
        for (status, kept) in [("False", true), ("True", false)] {
            let pod = read(&json!({"status": {"conditions": [
                {"type": "PodScheduled", "status": status, "reason": "Unschedulable"}]}}));
            assert_eq!(pod.condition("PodScheduled").is_some(), kept, "{status}");
        }
    }

    /// JSON pointers to everything in `value` that may be absent.
    fn collect(value: &Value, at: String, pointers: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    collect(inner, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), pointers);
                }
            }
            Value::Array(list) => {
                for (index, inner) in list.iter().enumerate() {
                    // Entries themselves are never null: only what is optional is.
                    let mut below = Vec::new();
                    let entry = format!("{at}/{index}");
                    collect(inner, entry.clone(), &mut below);
                    below.retain(|pointer| *pointer != entry);
                    pointers.extend(below);
                }
            }
            _ => {}
        }
        if !at.is_empty() {
            pointers.push(at);
        }
    }

    #[test]
    fn any_field_may_be_null() {
        let mut pointers = Vec::new();
        collect(&full(), String::new(), &mut pointers);
        assert!(pointers.len() > 60, "{}", pointers.len());
        for pointer in pointers {
            let mut pod = full();
            *pod.pointer_mut(&pointer).unwrap() = Value::Null;
            let _ = read(&pod);
        }
        for empty in [json!({}), json!({"metadata": null, "spec": null, "status": null})] {
            assert_eq!(read(&empty), PodView::default());
        }
    }

    #[test]
    fn containers_with_an_order_of_their_own_have_it_without_a_barrier() {
        let asks = |value: &str| json!({"name": "KRUISE_CONTAINER_PRIORITY", "value": value});
        let from =
            json!({"name": "KRUISE_CONTAINER_PRIORITY", "valueFrom": {"fieldRef": {"fieldPath": "x"}}});
        let barrier =
            json!({"name": "KRUISE_CONTAINER_BARRIER", "valueFrom": {"configMapKeyRef": {"key": "p_7"}}});
        let ordered = json!({"apps.kruise.io/container-launch-priority": "Ordered"});
        let other = json!({"apps.kruise.io/container-launch-priority": "ordered"});
        let none = json!({});
        for (annotations, envs, expected) in [
            (&ordered, vec![json!([]), json!([]), json!([])], vec![Some(0), Some(-1), Some(-2)]),
            (&ordered, vec![json!([asks("3")]), json!([asks("9")])], vec![Some(0), Some(-1)]),
            (&ordered, vec![json!([])], vec![None]),
            (&other, vec![json!([]), json!([])], vec![None, None]),
            (&none, vec![json!([asks("10")]), json!([asks("0")])], vec![Some(10), Some(0)]),
            (&none, vec![json!([]), json!([asks("-5")])], vec![Some(0), Some(-5)]),
            (&none, vec![json!([asks("2")]), json!([asks("2")])], vec![None, None]),
            (&none, vec![json!([asks("2")])], vec![None]),
            (&none, vec![json!([asks("2")]), json!([asks("high")])], vec![None, None]),
            (&none, vec![json!([asks("2")]), json!([from])], vec![None, None]),
            (&none, vec![json!([asks("2"), barrier]), json!([asks("1")])], vec![Some(7), None]),
        ] {
            let containers: Vec<_> = envs
                .iter()
                .enumerate()
                .map(|(i, env)| json!({"name": format!("c{i}"), "env": env}))
                .collect();
            let pod =
                read(&json!({"metadata": {"annotations": annotations}, "spec": {"containers": containers}}));
            let found: Vec<_> = pod.containers.iter().map(|container| container.launch_priority).collect();
            assert_eq!(found, expected, "{annotations} {envs:?}");
        }
    }

    #[test]
    fn a_barrier_that_is_not_a_key_reference_is_no_priority() {
        for (env, priority) in [
            (json!({"name": keys::ENV_CONTAINER_BARRIER, "value": "p_3"}), None),
            (
                json!({"name": keys::ENV_CONTAINER_BARRIER, "valueFrom": {"configMapKeyRef": {"key": "q_3"}}}),
                None,
            ),
            (
                json!({"name": keys::ENV_CONTAINER_BARRIER, "valueFrom": {"configMapKeyRef": {"key": "p_x"}}}),
                None,
            ),
            (
                json!({"name": keys::ENV_CONTAINER_BARRIER, "valueFrom": {"configMapKeyRef": {"key": "p_-3"}}}),
                Some(-3),
            ),
            (json!({"name": "KRUISE_CONTAINER_PRIORITY", "value": "3"}), None),
        ] {
            let pod = read(&json!({"spec": {"containers": [{"name": "c", "env": [env]}]}}));
            assert_eq!(pod.containers[0].launch_priority, priority);
        }
    }

    #[test]
    fn watches_see_a_core_pod_without_managed_fields() {
        assert_eq!(PodWire::url_path(&(), Some("shop")), "/api/v1/namespaces/shop/pods");
        let wire: PodWire = serde_json::from_value(full()).unwrap();
        assert_eq!(wire.meta().name.as_deref(), Some("web-0"));
        assert_eq!(wire.meta().managed_fields, None);
    }

    #[test]
    fn equal_texts_of_two_pods_are_stored_once() {
        let (a, b) = (read(&full()), read(&full()));
        assert!(Arc::ptr_eq(a.labels.get("app").unwrap(), b.labels.get("app").unwrap()));
        assert!(Arc::ptr_eq(&a.containers, &b.containers) && Arc::ptr_eq(&a.owners, &b.owners));
        assert!(Arc::ptr_eq(&a.conditions[0].text, &b.conditions[0].text));
        let in_force = |pod: &PodView| pod.statuses[0].resources.clone().unwrap();
        assert!(Arc::ptr_eq(&in_force(&a), &in_force(&b)));
    }

    #[test]
    fn what_the_node_agent_reports_is_kept_for_pods_updated_in_place_only() {
        let mut pod = full();
        pod["metadata"]["annotations"][keys::RUNTIME_CONTAINERS_META] = "{}".into();
        assert_eq!(read(&pod).annotation(keys::RUNTIME_CONTAINERS_META), Some("{}"));
        let annotations = pod["metadata"]["annotations"].as_object_mut().unwrap();
        annotations.retain(|key, _| !key.contains("inplace-update-"));
        assert_eq!(read(&pod).annotation(keys::RUNTIME_CONTAINERS_META), None);
    }

    #[test]
    fn texts_nobody_uses_are_dropped() {
        let mut pool = Pool::<str>::new();
        let held = pool.share("held");
        for number in 0..100 * SMALL {
            pool.share(number.to_string().as_str());
        }
        assert!(pool.values.len() <= 2 * SMALL, "{}", pool.values.len());
        assert!(Arc::ptr_eq(&held, &pool.share("held")));
    }
}
