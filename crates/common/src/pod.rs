//! The part of a Pod that plans read: a fraction of a full one, texts that pods share counted once.

use std::ops::Deref;
use std::sync::Arc;

use jiff::Timestamp;

use crate::key::{ObjectKey, Uid};
use crate::placement::Placement;
use crate::texts::Texts;

/// `status.phase`; an unknown text reads as `Unknown`.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// Accepted, not all containers started.
    #[default]
    Pending,
    /// The node cannot be asked.
    Unknown,
    /// At least one container runs or restarts.
    Running,
    /// All containers ended well.
    Succeeded,
    /// All containers ended, one badly; also evicted pods.
    Failed,
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RestartPolicy {
    /// Containers are started again whatever their end; also what an unknown text reads as.
    #[default]
    Always,
    /// Containers that failed are started again.
    OnFailure,
    /// Containers that ended stay ended.
    Never,
}

/// A reference to an owner, with the API group alone: owners of any version of a kind are the same owner.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct OwnerView {
    /// API group, without version; empty for core.
    pub group: Arc<str>,
    /// Kind of the owner.
    pub kind: Arc<str>,
    /// Name of the owner.
    pub name: Arc<str>,
    /// UID of the owner.
    pub uid: Uid,
    /// True for the one managing owner.
    pub controller: bool,
}

/// What one entry of `status.conditions` says, times apart: the same of most pods, which share it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ConditionText {
    /// Condition type, such as `Ready`.
    pub kind: Arc<str>,
    /// `True`, `False` or `Unknown`.
    pub status: Arc<str>,
    /// Empty if absent.
    pub reason: Arc<str>,
    /// Empty if absent.
    pub message: Arc<str>,
}

/// One entry of `status.conditions`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConditionView {
    /// What it says.
    pub text: Arc<ConditionText>,
    /// When `status` last changed.
    pub changed: Option<Timestamp>,
}

impl ConditionView {
    /// A condition without reason and message.
    pub fn new(kind: &str, status: &str, changed: Option<Timestamp>) -> Self {
        let text = ConditionText {
            kind: kind.into(),
            status: status.into(),
            reason: Arc::default(),
            message: Arc::default(),
        };
        Self { text: Arc::new(text), changed }
    }
}

impl Deref for ConditionView {
    type Target = ConditionText;

    fn deref(&self) -> &ConditionText {
        &self.text
    }
}

/// An env variable whose value comes from the pod's own metadata.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct EnvFromMetadata {
    /// Name of the variable.
    pub name: Arc<str>,
    /// True for `metadata.labels['key']`, false for `metadata.annotations['key']`.
    pub label: bool,
    /// The label or annotation key.
    pub key: Arc<str>,
}

/// Quantities by resource name, as text: `requests` and `limits` of a container.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct ResourcesView {
    /// `resources.limits`.
    pub limits: Texts,
    /// `resources.requests`.
    pub requests: Texts,
}

/// The part of a container's spec that plans read.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct ContainerView {
    /// Name, unique in the pod.
    pub name: Arc<str>,
    /// Image reference as written.
    pub image: Arc<str>,
    /// Requests and limits; `None` when both are empty.
    pub resources: Option<Arc<ResourcesView>>,
    /// Env read from labels and annotations through `fieldRef`.
    pub env_from_metadata: Box<[EnvFromMetadata]>,
    /// Launch priority, higher first, of a pod whose containers start in an order: n of the barrier's configMap key
    /// `p_<n>`, or what the annotation `apps.kruise.io/container-launch-priority` or the variable
    /// `KRUISE_CONTAINER_PRIORITY` asks for. `None` if there is no order.
    pub launch_priority: Option<i32>,
}

/// The part of a container's status that plans read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ContainerStatusView {
    /// Name of the container.
    pub name: Arc<str>,
    /// `status.image`.
    pub image: Arc<str>,
    /// `status.imageID`.
    pub image_id: Arc<str>,
    /// `status.containerID`.
    pub container_id: Arc<str>,
    /// Passed its readiness probe.
    pub ready: bool,
    /// How often it was restarted.
    pub restarts: i32,
    /// `state.waiting.reason`, such as `ImagePullBackOff`; empty when not waiting.
    pub waiting: Arc<str>,
    /// Resources in force, as the runtime reports them.
    pub resources: Option<Arc<ResourcesView>>,
}

/// What plans know of one Pod.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PodView {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// `metadata.resourceVersion`, opaque text for preconditions.
    pub resource_version: Arc<str>,
    /// Creation time; `None` only for objects not yet stored.
    pub created: Option<Timestamp>,
    /// `metadata.deletionTimestamp`.
    pub deleted: Option<Timestamp>,
    /// All labels.
    pub labels: Texts,
    /// Annotations that Kruise or an env variable of this pod reads, and `controller.kubernetes.io/pod-deletion-cost`.
    pub annotations: Texts,
    /// All finalizers.
    pub finalizers: Arc<[Arc<str>]>,
    /// All owner references.
    pub owners: Arc<[OwnerView]>,
    /// `spec.nodeName`, once scheduled.
    pub node: Option<Arc<str>>,
    /// The one node the pod is for, as its affinity says; `None` once it has a node.
    pub pinned: Option<Arc<str>>,
    /// Where else it may run, or has to stop running; of a pod that has its node without affinity. Pods of one
    /// template share it.
    pub placement: Arc<Placement>,
    /// `spec.restartPolicy`.
    pub restart_policy: RestartPolicy,
    /// `spec.readinessGates[].conditionType`.
    pub readiness_gates: Arc<[Arc<str>]>,
    /// `spec.containers`; pods of one template share them.
    pub containers: Arc<[ContainerView]>,
    /// `status.phase`.
    pub phase: Phase,
    /// `status.conditions`, except the steps of a start that kubelet reports and nothing reads.
    pub conditions: Box<[ConditionView]>,
    /// `status.containerStatuses`.
    pub statuses: Box<[ContainerStatusView]>,
    /// How often init containers were restarted, all together.
    pub init_restarts: i32,
}

impl PodView {
    /// Name of the pod.
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// Value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(AsRef::as_ref)
    }

    /// Value of an annotation, if it is one that is kept.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(AsRef::as_ref)
    }

    /// The condition of a type.
    pub fn condition(&self, kind: &str) -> Option<&ConditionView> {
        self.conditions.iter().find(|condition| &*condition.kind == kind)
    }

    /// True if the condition of that type has status `True`.
    pub fn condition_is_true(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|condition| &*condition.status == "True")
    }

    /// True if the pod declares a readiness gate of that type.
    pub fn has_readiness_gate(&self, kind: &str) -> bool {
        self.readiness_gates.iter().any(|gate| &**gate == kind)
    }

    /// The node it is on or, by its affinity, on its way to.
    pub fn node_or_pin(&self) -> Option<&Arc<str>> {
        self.node.as_ref().or(self.pinned.as_ref())
    }

    /// How often its containers were restarted, all together.
    pub fn restarts(&self) -> i32 {
        let restarts = self.statuses.iter().map(|status| status.restarts);
        restarts.fold(self.init_restarts, i32::saturating_add)
    }

    /// Succeeded or Failed.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// The managing owner.
    pub fn controller(&self) -> Option<&OwnerView> {
        self.owners.iter().find(|owner| owner.controller)
    }

    /// Neither ended nor terminating: counts as a replica.
    pub fn is_active(&self) -> bool {
        self.deleted.is_none() && !self.has_ended()
    }

    /// Running, and Ready is `True`.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running && self.condition_is_true("Ready")
    }

    /// Since when the pod is Ready; `None` if it is not, or if the time is unknown.
    pub fn ready_since(&self) -> Option<Timestamp> {
        self.condition("Ready").filter(|ready| &*ready.status == "True").and_then(|ready| ready.changed)
    }

    /// Ready for more than `min_ready_seconds` (Kubernetes' "available"), lifecycle states apart.
    pub fn is_available(&self, min_ready_seconds: i32, now: Timestamp) -> bool {
        self.is_ready()
            && (min_ready_seconds <= 0
                || self.ready_since().is_some_and(|since| {
                    now.duration_since(since).as_millis() > i128::from(min_ready_seconds) * 1000
                }))
    }
}
