//! Everything one round may know: read from the stores, checked once, defaults filled in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kruise_api::cloneset::v1beta1::{self, CloneSetSpec, CloneSetStatus};
use kruise_api::raw::RawJson;
use kruise_common::counts::{self, IntOrPercent, Round};
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::lifecycle::{Lifecycle, LifecycleHook};
use kruise_common::pod::PodView;
use kruise_common::revision::Revision;
use kruise_common::update_sort::{
    PriorityStrategy, ScatterTerm, Selector, TopologyConstraint, UpdateOrder, WeightTerm,
};
use serde::Deserialize;
use serde_json::Value;

use crate::plan::diff::Limits;

/// How a pod gets to another revision.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PodUpdatePolicy {
    /// Deleted and created anew.
    #[default]
    ReCreate,
    /// Changed while it runs where that is possible, else recreated.
    InPlaceIfPossible,
    /// Changed while it runs, or not at all.
    InPlaceOnly,
}

/// A CloneSet's spec with defaults applied, apart from the pod template.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Desired pods.
    pub replicas: i32,
    /// Seconds a pod has to be Ready before it is available.
    pub min_ready_seconds: i32,
    /// How pods get to another revision.
    pub policy: PodUpdatePolicy,
    /// Pods change only when someone deletes them.
    pub on_delete: bool,
    /// No pod is updated.
    pub paused: bool,
    /// False if the spec has no `rollingUpdate` block, which changes a few defaults.
    pub has_rolling_update: bool,
    /// Pods to keep at the current revision.
    pub partition: Option<IntOrPercent>,
    /// Pods that may be unavailable on purpose; `None` is 20 %.
    pub max_unavailable: Option<IntOrPercent>,
    /// Extra pods while updating.
    pub max_surge: Option<IntOrPercent>,
    /// Unavailable pods beyond which none is created; `None` is unlimited.
    pub scale_max_unavailable: Option<IntOrPercent>,
    /// Which pods are updated first, and which are spread over the update.
    pub order: UpdateOrder,
    /// How the template wants pods to be spread over nodes.
    pub spread: Vec<TopologyConstraint>,
    /// Seconds between taking a pod out of service and changing it.
    pub grace_seconds: i32,
    /// Names of pods to delete first.
    pub pods_to_delete: BTreeSet<Arc<str>>,
    /// New pods take over claims that no pod uses.
    pub reuse_claims: bool,
    /// Pods in state `PreparingDelete` are not replicas.
    pub exclude_preparing_delete: bool,
    /// Revisions to keep besides the live ones.
    pub history_limit: i32,
    /// Seconds after which a rollout without an end is reported; `None` reports nothing.
    pub progress_deadline: Option<i32>,
    /// Hooks.
    pub lifecycle: Option<Lifecycle>,
}

impl Settings {
    /// Reads a spec. What no admission would let in falls back to the default, as the reference does.
    pub fn of(spec: &CloneSetSpec) -> Self {
        let scale = spec.scale_strategy.clone().unwrap_or_default();
        let update = spec.update_strategy.clone().unwrap_or_default();
        let has_rolling_update = update.rolling_update.is_some();
        let rolling = update.rolling_update.unwrap_or_default();
        let in_place = rolling.in_place_update_strategy.unwrap_or_default();
        Self {
            replicas: spec.replicas.unwrap_or(1).max(0),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0).max(0),
            policy: match rolling.pod_update_policy.as_deref() {
                Some("InPlaceIfPossible") => PodUpdatePolicy::InPlaceIfPossible,
                Some("InPlaceOnly") => PodUpdatePolicy::InPlaceOnly,
                _ => PodUpdatePolicy::ReCreate,
            },
            on_delete: update.type_.as_deref() == Some("OnDelete"),
            paused: rolling.paused.unwrap_or(false),
            has_rolling_update,
            partition: rolling.partition.as_ref().and_then(|value| IntOrPercent::parse(value).ok()),
            max_unavailable: rolling.max_unavailable.as_ref().map(lenient),
            max_surge: rolling.max_surge.as_ref().map(lenient),
            scale_max_unavailable: scale.max_unavailable.as_ref().map(lenient),
            order: UpdateOrder {
                priority: rolling.priority_strategy.as_ref().and_then(priority),
                scatter: rolling
                    .scatter_strategy
                    .unwrap_or_default()
                    .into_iter()
                    .map(|term| ScatterTerm { key: term.key, value: term.value })
                    .collect(),
            },
            spread: spread(&spec.template),
            grace_seconds: in_place.grace_period_seconds.unwrap_or(0).max(0),
            pods_to_delete: scale.pods_to_delete.unwrap_or_default().into_iter().map(Arc::from).collect(),
            reuse_claims: scale.enable_pvc_reuse.unwrap_or(false),
            exclude_preparing_delete: scale.exclude_preparing_delete.unwrap_or(false),
            history_limit: spec.revision_history_limit.unwrap_or(10).max(0),
            progress_deadline: spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX),
            lifecycle: spec.lifecycle.as_ref().map(hooks),
        }
    }

    /// The limits of the arithmetic, as numbers of pods.
    pub fn limits(&self) -> Limits {
        let resolve = |value: IntOrPercent, round| i64::from(value.resolve(self.replicas, round).max(0));
        let max_surge = match self.max_surge {
            Some(value) if !self.paused => resolve(value, Round::Up),
            _ => 0,
        };
        let round = if self.has_rolling_update && max_surge == 0 { Round::Up } else { Round::Down };
        Limits {
            replicas: i64::from(self.replicas),
            partition: i64::from(counts::partition(self.partition.as_ref(), self.replicas)),
            max_unavailable: resolve(self.max_unavailable.unwrap_or(IntOrPercent::Percent(20.0)), round),
            max_surge,
            scale_max_unavailable: self.scale_max_unavailable.map(|value| resolve(value, Round::Up)),
        }
    }
}

/// A bare number as text is a percentage; what cannot be read at all is 0.
fn lenient(value: &IntOrString) -> IntOrPercent {
    IntOrPercent::parse(value).unwrap_or_else(|_| match value {
        IntOrString::String(text) => {
            IntOrPercent::parse(&IntOrString::String(format!("{text}%"))).unwrap_or(IntOrPercent::Int(0))
        }
        IntOrString::Int(number) => IntOrPercent::Int(*number),
    })
}

fn priority(strategy: &v1beta1::PriorityStrategy) -> Option<PriorityStrategy> {
    if let Some(terms) = strategy.weight_priority.as_ref().filter(|terms| !terms.is_empty()) {
        let terms = terms.iter().filter_map(|term| {
            let selector = Selector::parse(&term.match_selector).ok()?;
            Some(WeightTerm { weight: term.weight, selector })
        });
        return Some(PriorityStrategy::Weight(terms.collect()));
    }
    let keys = strategy.order_priority.as_ref().filter(|terms| !terms.is_empty())?;
    Some(PriorityStrategy::Order(keys.iter().map(|term| term.ordered_key.clone()).collect()))
}

fn spread(template: &RawJson) -> Vec<TopologyConstraint> {
    #[derive(Deserialize)]
    struct Template {
        spec: Spec,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        topology_spread_constraints: Vec<Value>,
    }
    let constraints = template.read_as().map(|template: Template| template.spec.topology_spread_constraints);
    constraints
        .iter()
        .flatten()
        .filter_map(|constraint| constraint.get("topologyKey")?.as_str())
        .map(|key| TopologyConstraint { topology_key: key.into() })
        .collect()
}

fn hooks(lifecycle: &v1beta1::Lifecycle) -> Lifecycle {
    let hook = |hook: &v1beta1::LifecycleHook| LifecycleHook {
        labels: hook.labels_handler.clone().unwrap_or_default(),
        finalizers: hook.finalizers_handler.clone().unwrap_or_default(),
        mark_pod_not_ready: hook.mark_pod_not_ready.unwrap_or(false),
    };
    Lifecycle {
        pre_delete: lifecycle.pre_delete.as_ref().map(hook),
        in_place_update: lifecycle.in_place_update.as_ref().map(hook),
        pre_normal: lifecycle.pre_normal.as_ref().map(hook),
    }
}

/// What plans know of one PersistentVolumeClaim.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClaimView {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// Value of the instance-id label; empty if absent.
    pub instance_id: Arc<str>,
    /// Controlled by the set, not by a pod.
    pub owned_by_set: bool,
    /// Is being deleted.
    pub terminating: bool,
}

/// One consistent view of a CloneSet and all that belongs to it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// `metadata.generation`.
    pub generation: i64,
    /// Is being deleted.
    pub terminating: bool,
    /// The spec, defaults applied.
    pub settings: Settings,
    /// `spec.selector` as text, for the scale subresource.
    pub label_selector: String,
    /// Active pods controlled by the set and selected by it.
    pub pods: Vec<Arc<PodView>>,
    /// Active pods controlled by the set which its selector no longer matches.
    pub unselected: Vec<Arc<PodView>>,
    /// Pods that still exist and whose ids are therefore taken: ended or terminating ones and, where claims are reused,
    /// those that the set let go and whose claims it has kept.
    pub others: Vec<Arc<PodView>>,
    /// Claims of the set and of its pods.
    pub claims: Vec<Arc<ClaimView>>,
    /// Labels of the nodes the pods run on, as far as pods are spread by them.
    pub nodes: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<str>>>,
    /// Revisions of the set, oldest first.
    pub revisions: Vec<Arc<Revision>>,
    /// The revision of the template.
    pub update_revision: Arc<Revision>,
    /// The revision pods are to leave; equal to `update_revision` when they left it.
    pub current_revision: Arc<Revision>,
    /// The status published last.
    pub status: CloneSetStatus,
    /// The time of this round.
    pub now: Timestamp,
}
