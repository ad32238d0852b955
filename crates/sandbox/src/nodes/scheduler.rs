//! Which node a pod goes to: the fitting one with the fewest pods. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PodAffinityTerm;

use super::fit;
use super::quantity;
use super::wire::{NodeView, PodKey, PodView};

/// CPU and memory in thousandths.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Amount {
    pub(crate) cpu: i64,
    pub(crate) memory: i64,
}

/// What the scheduler counts on a node.
#[derive(Clone, Debug)]
pub(crate) struct NodeState {
    pub(crate) view: NodeView,
    pub(crate) used: Amount,
    pub(crate) allocatable: Amount,
    max_pods: i64,
    pods: BTreeSet<PodKey>,
    /// Pods that want certain others elsewhere.
    shy: BTreeSet<PodKey>,
}

#[derive(Clone, Debug)]
struct Placed {
    node: String,
    amount: Amount,
}

/// The nodes and what is on them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    nodes: BTreeMap<String, NodeState>,
    by_load: BTreeSet<(usize, String)>,
    placed: BTreeMap<PodKey, Placed>,
}

impl Cluster {
    /// Learns of a node or its change. True if that may make room for a pod.
    pub(crate) fn set_node(&mut self, view: NodeView) -> bool {
        let name = view.name().to_owned();
        let allocatable = Amount {
            cpu: quantity::of(Some(&view.status.allocatable), "cpu"),
            memory: quantity::of(Some(&view.status.allocatable), "memory"),
        };
        let max_pods = quantity::of(Some(&view.status.allocatable), "pods") / 1000;
        if let Some(node) = self.nodes.get_mut(&name) {
            let better = node.view.spec.taints != view.spec.taints
                || node.view.spec.unschedulable != view.spec.unschedulable
                || node.view.labels() != view.labels()
                || (node.allocatable, node.max_pods) != (allocatable, max_pods);
            (node.view, node.allocatable, node.max_pods) = (view, allocatable, max_pods);
            return better;
        }
        // Pods may be known before their node is.
        let here: Vec<(PodKey, Amount)> = self
            .placed
            .iter()
            .filter(|(_, placed)| placed.node == name)
            .map(|(key, placed)| (key.clone(), placed.amount))
            .collect();
        let mut node = NodeState {
            view,
            used: Amount::default(),
            allocatable,
            max_pods,
            pods: BTreeSet::new(),
            shy: BTreeSet::new(),
        };
        for (key, amount) in here {
            node.used.cpu += amount.cpu;
            node.used.memory += amount.memory;
            node.pods.insert(key);
        }
        self.by_load.insert((node.pods.len(), name.clone()));
        self.nodes.insert(name, node);
        true
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove(name) {
            self.by_load.remove(&(node.pods.len(), name.to_owned()));
        }
    }

    pub(crate) fn node(&self, name: &str) -> Option<&NodeState> {
        self.nodes.get(name)
    }

    pub(crate) fn node_names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// Counts a pod on a node, and no longer where it was before.
    pub(crate) fn place(&mut self, pod: &PodView, node: &str) {
        let (key, amount) = (pod.key(), requests(pod));
        if self.placed.get(&key).is_some_and(|placed| placed.node == node && placed.amount == amount) {
            return;
        }
        self.remove(&key);
        self.recount(node, |state| {
            state.used.cpu += amount.cpu;
            state.used.memory += amount.memory;
            if !shy_terms(pod).is_empty() {
                state.shy.insert(key.clone());
            }
            state.pods.insert(key.clone());
        });
        self.placed.insert(key, Placed { node: node.to_owned(), amount });
    }

    /// Counts a pod no longer. True if it was counted.
    pub(crate) fn remove(&mut self, key: &PodKey) -> bool {
        let Some(Placed { node, amount }) = self.placed.remove(key) else { return false };
        self.recount(&node, |state| {
            state.used.cpu -= amount.cpu;
            state.used.memory -= amount.memory;
            state.shy.remove(key);
            state.pods.remove(key);
        });
        true
    }

    fn recount(&mut self, node: &str, change: impl FnOnce(&mut NodeState)) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        let before = state.pods.len();
        change(state);
        if before != state.pods.len() {
            self.by_load.remove(&(before, node.to_owned()));
            self.by_load.insert((state.pods.len(), node.to_owned()));
        }
    }

    /// The node for the pod.
    ///
    /// # Errors
    /// The message of the `Unschedulable` condition when no node fits.
    pub(crate) fn choose<'a>(
        &'a self,
        pod: &PodView,
        find: &dyn Fn(&PodKey) -> Option<&'a PodView>,
    ) -> Result<String, String> {
        let wants = requests(pod);
        let mut reasons: BTreeMap<&'static str, usize> = BTreeMap::new();
        for (_, name) in &self.by_load {
            let Some(node) = self.nodes.get(name) else { continue };
            let against = self.against(pod, wants, node, find);
            if against.is_empty() {
                return Ok(name.clone());
            }
            for reason in against {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        Err(message(self.nodes.len(), &reasons))
    }

    /// Why the pod cannot go to the node.
    fn against<'a>(
        &'a self,
        pod: &PodView,
        wants: Amount,
        node: &'a NodeState,
        find: &dyn Fn(&PodKey) -> Option<&'a PodView>,
    ) -> Vec<&'static str> {
        if node.view.spec.unschedulable && !tolerates_cordon(pod) {
            return vec!["node(s) were unschedulable"];
        }
        if fit::untolerated(&pod.spec, &node.view).is_some() {
            return vec!["node(s) had untolerated taint(s)"];
        }
        if !fit::selects(&pod.spec, &node.view) {
            return vec!["node(s) didn't match Pod's node affinity/selector"];
        }
        let mut lacking = Vec::new();
        if node.pods.len() as i64 >= node.max_pods {
            lacking.push("Too many pods");
        }
        if wants.cpu > 0 && node.used.cpu + wants.cpu > node.allocatable.cpu {
            lacking.push("Insufficient cpu");
        }
        if wants.memory > 0 && node.used.memory + wants.memory > node.allocatable.memory {
            lacking.push("Insufficient memory");
        }
        if lacking.is_empty() {
            lacking.extend(self.neighbours(pod, node, find));
        }
        lacking
    }

    fn neighbours<'a>(
        &'a self,
        pod: &PodView,
        node: &'a NodeState,
        find: &dyn Fn(&PodKey) -> Option<&'a PodView>,
    ) -> Option<&'static str> {
        let own = shy_terms(pod);
        for other in self.nodes.values() {
            if own.is_empty() && other.shy.is_empty() {
                continue;
            }
            let near = |term: &&PodAffinityTerm| {
                let value = node.view.labels().get(&term.topology_key);
                value.is_some() && value == other.view.labels().get(&term.topology_key)
            };
            let disliked = |term: &PodAffinityTerm| {
                other.pods.iter().filter_map(find).any(|there| applies(term, pod, there))
            };
            if own.iter().filter(near).any(disliked) {
                return Some("node(s) didn't match pod anti-affinity rules");
            }
            let dislikes =
                |there: &&PodView| shy_terms(there).iter().filter(near).any(|term| applies(term, there, pod));
            if other.shy.iter().filter_map(find).any(|there| dislikes(&there)) {
                return Some("node(s) didn't satisfy existing pods anti-affinity rules");
            }
        }
        None
    }
}

fn tolerates_cordon(pod: &PodView) -> bool {
    let taint = k8s_openapi::api::core::v1::Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Default::default()
    };
    fit::tolerates(&pod.spec.tolerations, &taint)
}

/// The required anti-affinity terms of a pod.
fn shy_terms(pod: &PodView) -> &[PodAffinityTerm] {
    pod.spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|shy| shy.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

/// True if `term`, which is `owner`'s, speaks of `other`.
fn applies(term: &PodAffinityTerm, owner: &PodView, other: &PodView) -> bool {
    let namespace = other.metadata.namespace.as_deref().unwrap_or_default();
    let named = term.namespaces.as_deref().unwrap_or_default();
    let everywhere = term.namespace_selector.as_ref().is_some_and(|selector| {
        selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
            && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
    });
    let there = match (everywhere, named.is_empty()) {
        (true, _) => true,
        (false, true) => owner.metadata.namespace.as_deref().unwrap_or_default() == namespace,
        (false, false) => named.iter().any(|name| name == namespace),
    };
    there && fit::labels_match(term.label_selector.as_ref(), other.labels())
}

/// What the pod asks for: its containers together, or its hungriest init container.
pub(crate) fn requests(pod: &PodView) -> Amount {
    let of = |name: &str| {
        let ask = |container: &super::wire::ContainerSpec| {
            quantity::of(container.resources.requests.as_ref(), name)
        };
        let sidecar = |c: &&super::wire::ContainerSpec| c.restart_policy.as_deref() == Some("Always");
        let sidecars: i64 = pod.spec.init_containers.iter().filter(sidecar).map(ask).sum();
        let together = pod.spec.containers.iter().map(ask).sum::<i64>() + sidecars;
        let init = pod.spec.init_containers.iter().filter(|c| !sidecar(c)).map(ask).max().unwrap_or(0);
        together.max(init)
    };
    Amount { cpu: of("cpu"), memory: of("memory") }
}

fn message(nodes: usize, reasons: &BTreeMap<&'static str, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut texts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.sort();
    let texts = texts.join(", ");
    format!(
        "0/{nodes} nodes are available: {texts}. no new claims to deallocate, preemption: 0/{nodes} nodes are \
         available: {nodes} Preemption is not helpful for scheduling."
    )
}
