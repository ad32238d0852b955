//! In which order pods are updated, and in which they are deleted.
//!
//! Every order ends in the pod's name, so equal pods in any order of input give one result.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::lifecycle::{self, LifecycleState};
use crate::pod::{Phase, PodView};
pub use crate::selector::Selector;

/// Pod annotation: what it costs to delete this pod; cheaper ones go first.
pub const DELETION_COST_ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";

/// `weightPriority[]`: how much a match counts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WeightTerm {
    /// Added up over all matching terms.
    pub weight: i32,
    /// Which pods it counts for.
    pub selector: Selector,
}

/// `priorityStrategy`: who is updated first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PriorityStrategy {
    /// The larger sum of weights first.
    Weight(Vec<WeightTerm>),
    /// By label keys. Pods with none of them come first, then those with the first key, and so on; within a
    /// key the larger number at the end of the value.
    Order(Vec<String>),
}

impl PriorityStrategy {
    /// Sorts indexes of `pods`, keeping the order of equals.
    pub fn sort(&self, pods: &[Arc<PodView>], waiting: &mut [usize]) {
        match self {
            Self::Weight(terms) => waiting.sort_by_cached_key(|&index| {
                let labels = pods.get(index).map(|pod| &pod.labels);
                let matching =
                    terms.iter().filter(|term| labels.is_some_and(|labels| term.selector.matches(labels)));
                Reverse(matching.map(|term| i64::from(term.weight)).sum::<i64>())
            }),
            Self::Order(keys) => waiting.sort_by_cached_key(|&index| {
                let pod = pods.get(index);
                let found = keys
                    .iter()
                    .enumerate()
                    .find_map(|(level, key)| pod?.label(key).map(|value| (level, trailing_number(value))));
                // `None`, which sorts first, is level -1.
                found.map(|(level, number)| (level, Reverse(number)))
            }),
        }
    }
}

/// The integer at the end of a text: `sts-10` ⇒ 10; 0 if there is none.
fn trailing_number(text: &str) -> u64 {
    let head = text.trim_end_matches(|digit: char| digit.is_ascii_digit());
    text.strip_prefix(head).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// `scatterStrategy[]`: pods with this label value are spread over the update.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ScatterTerm {
    /// Label key.
    pub key: String,
    /// Label value.
    pub value: String,
}

/// How a workload wants its pods to be ordered for an update.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct UpdateOrder {
    /// Who comes first.
    pub priority: Option<PriorityStrategy>,
    /// What is spread over the update; empty for nothing.
    pub scatter: Vec<ScatterTerm>,
}

impl UpdateOrder {
    /// Sorts the `waiting` indexes of `pods` (all pods of the workload): default order, priority, scatter, and
    /// pods that are held by an update hook already to the front.
    pub fn sort(&self, pods: &[Arc<PodView>], mut waiting: Vec<usize>) -> Vec<usize> {
        sort_default(pods, &mut waiting);
        if let Some(priority) = &self.priority {
            priority.sort(pods, &mut waiting);
        }
        let mut waiting = scatter(pods, waiting, &self.scatter);
        waiting.sort_by_key(|&index| {
            pods.get(index).is_none_or(|pod| LifecycleState::of(pod) != LifecycleState::PreparingUpdate)
        });
        waiting
    }
}

/// Sorts indexes of `pods` so that those come first whose update costs the least service.
pub fn sort_default(pods: &[Arc<PodView>], waiting: &mut [usize]) {
    waiting.sort_by_cached_key(|&index| {
        pods.get(index).map(|pod| {
            (
                has_node(pod),
                phase_rank(pod.phase),
                pod.condition_is_true("Ready"),
                age_key(pod),
                Arc::clone(&pod.key.name),
            )
        })
    });
}

/// Latest Ready first (an unknown time before all), most restarts first, newest first (as for Ready).
type AgeKey = (Option<Reverse<Timestamp>>, Reverse<i32>, Option<Reverse<Timestamp>>);

fn age_key(pod: &PodView) -> AgeKey {
    let restarts = pod.statuses.iter().map(|status| status.restarts).max().unwrap_or(0);
    (pod.ready_since().map(Reverse), Reverse(restarts), pod.created.map(Reverse))
}

fn has_node(pod: &PodView) -> bool {
    pod.node.as_ref().is_some_and(|node| !node.is_empty())
}

/// Pending before Unknown before everything else; ended pods are not sorted anywhere.
fn phase_rank(phase: Phase) -> u8 {
    match phase {
        Phase::Pending => 0,
        Phase::Unknown => 1,
        Phase::Running | Phase::Succeeded | Phase::Failed => 2,
    }
}

/// Spreads the waiting pods that match each term evenly over the others, in proportion to all pods.
pub fn scatter(pods: &[Arc<PodView>], mut waiting: Vec<usize>, terms: &[ScatterTerm]) -> Vec<usize> {
    let matches = |index: usize, term: &ScatterTerm| {
        pods.get(index).is_some_and(|pod| pod.label(&term.key) == Some(&term.value))
    };
    let mut terms: Vec<&ScatterTerm> = terms.iter().collect();
    terms.sort_by_cached_key(|term| Reverse(waiting.iter().filter(|&&index| matches(index, term)).count()));
    for term in terms {
        let total = (0..pods.len()).filter(|&index| matches(index, term)).count();
        let (matching, others): (Vec<_>, Vec<_>) = waiting.iter().partition(|&&index| matches(index, term));
        waiting = if matching.len() <= 1 || others.len() <= 1 {
            waiting
        } else {
            spread(&matching, &others, total, pods.len() - total)
        };
    }
    waiting
}

/// One term: `total` and `total_others` count all pods of the workload.
fn spread(matching: &[usize], others: &[usize], total: usize, total_others: usize) -> Vec<usize> {
    let Some((&last, matching)) = matching.split_last() else { return others.to_vec() };
    let total = total.saturating_sub(1);
    let (m_len, n_len) = (matching.len(), others.len());
    let mut result = Vec::with_capacity(m_len + n_len + 1);
    let (m_size, n_size, groups, ahead) = if total_others * m_len >= n_len * total {
        let (m_size, n_size, groups) = group_sizes(m_len, n_len);
        (m_size, n_size, groups, 0)
    } else {
        // More of the matching pods are updated already than of the others, which now catch up first.
        let (m_size, n_size, _) = group_sizes(total, total_others);
        let groups = (m_len / m_size).min(n_len / n_size);
        (m_size, n_size, groups, n_len - groups * n_size)
    };
    let (mut matching, mut others) = (matching.iter(), others.iter());
    result.extend(others.by_ref().take(ahead));
    for _ in 0..groups {
        result.extend(matching.by_ref().take(m_size));
        result.extend(others.by_ref().take(n_size));
    }
    result.extend(matching);
    result.extend(others);
    result.push(last);
    result
}

/// Sizes of both parts of a group, and the number of groups; sizes are at least 1.
fn group_sizes(a: usize, b: usize) -> (usize, usize, usize) {
    let groups = a.min(b).max(1);
    let rounded = |count: usize| ((2 * count + groups) / (2 * groups)).max(1);
    (rounded(a), rounded(b), groups)
}

/// The part of a topology spread constraint that matters when pods are deleted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TopologyConstraint {
    /// Label key of nodes, such as `topology.kubernetes.io/zone`.
    pub topology_key: Arc<str>,
}

/// Everything the deletion order compares, computed once per pod. The spread rank sits in the middle.
struct DeletionKey {
    placed: (bool, u8),
    available: bool,
    cost: (bool, i32),
    age: AgeKey,
    name: Arc<str>,
}

impl DeletionKey {
    fn of(pod: &PodView, min_ready_seconds: i32, now: Timestamp) -> Self {
        Self {
            placed: (has_node(pod), phase_rank(pod.phase)),
            available: lifecycle::is_available(pod, min_ready_seconds, now),
            cost: (pod.condition_is_true("Ready"), deletion_cost(pod)),
            age: age_key(pod),
            name: Arc::clone(&pod.key.name),
        }
    }

    /// The order without availability, with given spread ranks.
    fn compare(&self, rank: f64, other: &Self, other_rank: f64) -> Ordering {
        self.placed
            .cmp(&other.placed)
            .then_with(|| self.cost.cmp(&other.cost))
            .then_with(|| other_rank.total_cmp(&rank))
            .then_with(|| self.age.cmp(&other.age))
            .then_with(|| self.name.cmp(&other.name))
    }

    fn compare_all(&self, rank: f64, other: &Self, other_rank: f64) -> Ordering {
        self.placed
            .cmp(&other.placed)
            .then_with(|| self.available.cmp(&other.available))
            .then_with(|| self.compare(rank, other, other_rank))
    }
}

/// The deletion cost of a pod; 0 if it is absent or not written as an integer is.
pub fn deletion_cost(pod: &PodView) -> i32 {
    let text = pod.annotation(DELETION_COST_ANNOTATION).unwrap_or("0");
    let digits = text.strip_prefix('-').unwrap_or(text);
    let canonical = text == "0" || !digits.starts_with(['0', '+', '-']);
    if canonical { text.parse().unwrap_or(0) } else { 0 }
}

/// Indexes of `pods` in the order in which they are deleted: first those whose loss costs the least.
///
/// `node_label` answers a label of a node by name. Takes `O(n log n)` per constraint.
pub fn deletion_order(
    pods: &[Arc<PodView>],
    min_ready_seconds: i32,
    now: Timestamp,
    spread: &[TopologyConstraint],
    node_label: &dyn Fn(&str, &str) -> Option<Arc<str>>,
) -> Vec<usize> {
    let keys: Vec<DeletionKey> =
        pods.iter().map(|pod| DeletionKey::of(pod, min_ready_seconds, now)).collect();
    let mut nodes: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
    for (index, pod) in pods.iter().enumerate() {
        if let Some(node) = pod.node.as_ref().filter(|node| !node.is_empty()) {
            nodes.entry(Arc::clone(node)).or_default().push(index);
        }
    }
    let none = vec![0.0; pods.len()];
    let mut node_ranks = none.clone();
    for group in nodes.values() {
        add_ranks(&keys, &none, group, &mut node_ranks, |size, position| (size - 1 - position) as f64);
    }
    let ranks = if spread.is_empty() {
        node_ranks
    } else {
        let mut ranks = none.clone();
        for constraint in spread {
            let mut values: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
            for (node, group) in &nodes {
                if let Some(value) = node_label(node, &constraint.topology_key) {
                    values.entry(value).or_default().extend(group);
                }
            }
            let by_host = &*constraint.topology_key == "kubernetes.io/hostname";
            let within = if by_host { &none } else { &node_ranks };
            let weight = ((values.len() + 2) as f64).ln();
            for group in values.values() {
                add_ranks(&keys, within, group, &mut ranks, |size, position| {
                    (size - position) as f64 * weight
                });
            }
        }
        ranks
    };
    let rank = |index: usize| ranks.get(index).copied().unwrap_or(0.0);
    let mut order: Vec<usize> = (0..pods.len()).collect();
    order.sort_by(|&a, &b| match (keys.get(a), keys.get(b)) {
        (Some(left), Some(right)) => left.compare_all(rank(a), right, rank(b)),
        _ => Ordering::Equal,
    });
    order
}

/// Sorts the pods of a group and adds the rank of each one's position.
fn add_ranks(
    keys: &[DeletionKey],
    within: &[f64],
    group: &[usize],
    ranks: &mut [f64],
    rank: impl Fn(usize, usize) -> f64,
) {
    let mut sorted: Vec<(&DeletionKey, f64, usize)> = group
        .iter()
        .filter_map(|&index| Some((keys.get(index)?, within.get(index).copied()?, index)))
        .collect();
    sorted.sort_by(|a, b| a.0.compare(a.1, b.0, b.1));
    for (position, (_, _, index)) in sorted.iter().enumerate() {
        if let Some(slot) = ranks.get_mut(*index) {
            *slot += rank(sorted.len(), position);
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
    use proptest::prelude::*;

    use super::*;
    use crate::key::ObjectKey;
    use crate::lifecycle::STATE_LABEL;
    use crate::pod::{ConditionView, ContainerStatusView};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A pod that runs on `node-a` and has been Ready since second 100.
    struct Fixture(PodView);

    fn pod(name: &str) -> Fixture {
        Fixture(PodView {
            key: ObjectKey::new("shop", name),
            node: Some("node-a".into()),
            phase: Phase::Running,
            created: Some(at(50)),
            ..PodView::default()
        })
        .ready_at(100)
    }

    impl Fixture {
        fn ready(mut self, status: &str, changed: Option<i64>) -> Self {
            self.0.conditions = [ConditionView::new("Ready", status, changed.map(at))].into();
            self
        }

        fn ready_at(self, second: i64) -> Self {
            self.ready("True", Some(second))
        }

        fn on(mut self, node: &str) -> Self {
            self.0.node = (!node.is_empty()).then(|| node.into());
            self
        }

        fn phase(mut self, phase: Phase) -> Self {
            self.0.phase = phase;
            self
        }

        fn created(mut self, second: i64) -> Self {
            self.0.created = Some(at(second));
            self
        }

        fn restarts(mut self, restarts: i32) -> Self {
            self.0.statuses = [ContainerStatusView { restarts, ..Default::default() }].into();
            self
        }

        fn label(mut self, key: &str, value: &str) -> Self {
            self.0.labels.insert(key.into(), value.into());
            self
        }

        fn cost(mut self, cost: &str) -> Self {
            self.0.annotations.insert(DELETION_COST_ANNOTATION.into(), cost.into());
            self
        }
    }

    fn all(pods: impl IntoIterator<Item = Fixture>) -> Vec<Arc<PodView>> {
        pods.into_iter().map(|pod| Arc::new(pod.0)).collect()
    }

    fn names(pods: &[Arc<PodView>], order: &[usize]) -> Vec<String> {
        order.iter().map(|&index| pods[index].name().to_owned()).collect()
    }

    fn update_order(pods: &[Arc<PodView>], order: &UpdateOrder) -> Vec<String> {
        names(pods, &order.sort(pods, (0..pods.len()).rev().collect()))
    }

    fn deleted_first(pods: &[Arc<PodView>], spread: &[TopologyConstraint]) -> Vec<String> {
        // node `a1` is in zone `a`; nodes that begin with `-` have no zone.
        let node_label = |node: &str, key: &str| match key {
            "kubernetes.io/hostname" => Some(node.into()),
            "zone" if !node.starts_with('-') => node.get(..1).map(Into::into),
            _ => None,
        };
        names(pods, &deletion_order(pods, 0, at(1000), spread, &node_label))
    }

    #[test]
    fn pods_that_serve_least_are_updated_first() {
        let pods = all([
            pod("g-oldest").created(10),
            pod("f-newer").created(20),
            pod("e-restarted").restarts(3),
            pod("d-latest-ready").ready_at(200),
            pod("d-unknown-ready").ready("True", None),
            pod("c-not-ready").ready("False", Some(300)),
            pod("b2-unknown").phase(Phase::Unknown),
            pod("b1-pending").phase(Phase::Pending),
            pod("a-unassigned").on(""),
        ]);
        assert_eq!(
            update_order(&pods, &UpdateOrder::default()),
            [
                "a-unassigned",
                "b1-pending",
                "b2-unknown",
                "c-not-ready",
                "d-unknown-ready",
                "d-latest-ready",
                "e-restarted",
                "f-newer",
                "g-oldest"
            ]
        );
    }

    #[test]
    fn larger_sums_of_weights_go_first_and_held_pods_before_all() {
        let term = |weight, key: &str, value: &str| WeightTerm {
            weight,
            selector: Selector::parse(&LabelSelector {
                match_labels: Some([(key.to_owned(), value.to_owned())].into()),
                match_expressions: None,
            })
            .unwrap(),
        };
        let pods = all([
            pod("a"),
            pod("b").label("x", "1"),
            pod("c").label("y", "1"),
            pod("d").label("x", "1").label("y", "1"),
            pod("e").label(STATE_LABEL, "PreparingUpdate"),
        ]);
        let order = UpdateOrder {
            priority: Some(PriorityStrategy::Weight(vec![term(50, "x", "1"), term(30, "y", "1")])),
            scatter: vec![],
        };
        assert_eq!(update_order(&pods, &order), ["e", "d", "b", "c", "a"]);
    }

    #[test]
    fn ordered_keys_put_unlabelled_pods_first_then_larger_numbers() {
        let pods = all([
            pod("a").label("k1", "sts-2"),
            pod("b").label("k1", "sts-10"),
            pod("c").label("k2", "sts-99"),
            pod("d").label("k2", "none"),
            pod("e"),
            pod("f").label("k1", "7").label("k2", "100"),
        ]);
        let order = UpdateOrder {
            priority: Some(PriorityStrategy::Order(vec!["k1".into(), "k2".into()])),
            scatter: vec![],
        };
        assert_eq!(update_order(&pods, &order), ["e", "b", "f", "a", "c", "d"]);
    }

    fn scattered(term: &str) -> ScatterTerm {
        ScatterTerm { key: "s".into(), value: term.into() }
    }

    fn positions(pods: &[Arc<PodView>], order: &[usize], value: &str) -> Vec<usize> {
        let has = |&(_, &index): &(usize, &usize)| pods[index].label("s") == Some(value);
        order.iter().enumerate().filter(has).map(|(position, _)| position + 1).collect()
    }

    #[test]
    fn three_of_ten_pods_are_the_first_the_sixth_and_the_last() {
        let pods = all((0..10).map(|n| {
            let pod = pod(&format!("p{n}"));
            if n < 3 { pod.label("s", "x") } else { pod }
        }));
        let order =
            UpdateOrder { priority: None, scatter: vec![scattered("x")] }.sort(&pods, (0..10).collect());
        assert_eq!(positions(&pods, &order, "x"), [1, 6, 10]);
    }

    #[test]
    fn pods_are_spread_over_the_rest_of_an_update_as_over_the_whole() {
        // Of 10 pods with 5 labelled, 3 labelled and 5 others wait: TN/TM = 5/4 < 5/2.
        let pods = all((0..10).map(|n| {
            let pod = pod(&format!("p{n}"));
            if n < 5 { pod.label("s", "x") } else { pod }
        }));
        let order = scatter(&pods, vec![0, 1, 2, 5, 6, 7, 8, 9], &[scattered("x")]);
        // Total groups are (1,1): g=2, three others go first.
        assert_eq!(order, [5, 6, 7, 0, 8, 1, 9, 2]);
    }

    #[test]
    fn a_single_pod_on_either_side_is_left_where_it_is() {
        let pods = all((0..4).map(|n| {
            let pod = pod(&format!("p{n}"));
            if n == 2 { pod.label("s", "x") } else { pod }
        }));
        assert_eq!(scatter(&pods, vec![0, 1, 2, 3], &[scattered("x")]), [0, 1, 2, 3]);
    }

    #[test]
    fn one_of_two_pods_on_a_node_is_deleted_unless_they_cost_more() {
        let pods = all([pod("a").on("a1"), pod("b").on("b1"), pod("c").on("c1"), pod("d").on("c1")]);
        assert!(["c", "d"].contains(&&*deleted_first(&pods, &[])[0]));
        let dear = all([
            pod("a").on("a1"),
            pod("b").on("b1"),
            pod("c").on("c1").cost("10"),
            pod("d").on("c1").cost("10"),
        ]);
        assert!(["a", "b"].contains(&&*deleted_first(&dear, &[])[0]));
    }

    #[test]
    fn the_fullest_zone_loses_a_pod() {
        let pods = all([
            pod("a").on("a1"),
            pod("b").on("b1"),
            pod("c").on("b2"),
            pod("d").on("c1"),
            pod("e").on("c2"),
            pod("f").on("c3"),
            pod("g").on("-1"),
        ]);
        let zone = TopologyConstraint { topology_key: "zone".into() };
        let order = deleted_first(&pods, std::slice::from_ref(&zone));
        assert_eq!(order[0], "d");
        assert_eq!(order[6], "g");
        // Within a zone a crowded node goes first.
        let crowded = all([pod("a").on("a1"), pod("b").on("a2"), pod("c").on("a2"), pod("d").on("b1")]);
        assert_eq!(deleted_first(&crowded, &[zone])[0], "b");
    }

    #[test]
    fn pods_that_serve_least_are_deleted_first() {
        let pods = all([
            pod("h-oldest").created(10).on("h1"),
            pod("g-newer").created(20).on("g1"),
            pod("f-restarted").restarts(3).on("f1"),
            pod("e-latest-ready").ready_at(200).on("e1"),
            pod("d-cheap").cost("-1").on("d1"),
            pod("c-held").label(STATE_LABEL, "Updated").on("c1"),
            pod("b-not-ready").ready("False", Some(1)).on("b1"),
            pod("a-pending").phase(Phase::Pending).on("a1"),
            pod("a-unassigned").on(""),
        ]);
        assert_eq!(
            deleted_first(&pods, &[]),
            [
                "a-unassigned",
                "a-pending",
                "b-not-ready",
                "c-held",
                "d-cheap",
                "e-latest-ready",
                "f-restarted",
                "g-newer",
                "h-oldest"
            ]
        );
    }

    #[test]
    fn a_cost_not_written_as_an_integer_is_none() {
        for (text, cost) in
            [("10", 10), ("-5", -5), ("0", 0), ("+5", 0), ("05", 0), ("-05", 0), ("-", 0), ("x", 0), ("", 0)]
        {
            assert_eq!(deletion_cost(&pod("p").cost(text).0), cost, "{text}");
        }
    }

    proptest! {
        #[test]
        fn sorting_keeps_every_pod_and_ignores_the_order_of_input(
            traits in proptest::collection::vec((0..4_u8, 0..3_u8, any::<bool>()), 1..30),
            turn in 0..30_usize,
        ) {
            let make = |(n, &(node, value, ready)): (usize, &(u8, u8, bool))| {
                pod(&format!("p{n:02}"))
                    .on(["", "a1", "b1", "b2"][usize::from(node)])
                    .label("s", ["x", "y", "z"][usize::from(value)])
                    .ready(if ready { "True" } else { "False" }, Some(100))
            };
            let pods = all(traits.iter().enumerate().map(make));
            let mut turned = pods.clone();
            turned.rotate_left(turn % pods.len());
            let order = UpdateOrder { priority: None, scatter: vec![scattered("x"), scattered("y")] };
            let sorted = update_order(&pods, &order);
            prop_assert_eq!(&sorted, &update_order(&turned, &order));
            let mut unique = sorted;
            unique.sort();
            unique.dedup();
            prop_assert_eq!(unique.len(), pods.len());
            let zones = [
                TopologyConstraint { topology_key: "zone".into() },
                TopologyConstraint { topology_key: "kubernetes.io/hostname".into() },
            ];
            for spread in [&zones[..], &[]] {
                let deleted = deleted_first(&pods, spread);
                prop_assert_eq!(deleted.len(), pods.len());
                prop_assert_eq!(deleted, deleted_first(&turned, spread));
            }
        }
    }
}
