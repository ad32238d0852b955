//! Whether a pod may run on a node: what the scheduler asks of node selector, affinity, taints and the size of the node.
//! What runs there already is not counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::revision::quantity::nanos as quantity_nanos;
use crate::texts::Texts;
use crate::wire::nullable;

/// The taint of nodes that are cordoned.
pub const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";
/// The taints of nodes that are not heard of, or not well: the taint manager evicts their pods in its own time.
pub const SILENT_TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Effect {
    /// Keeps new pods away.
    NoSchedule,
    /// Asks the scheduler for another node, if there is one.
    PreferNoSchedule,
    /// Keeps new pods away and evicts those that are there.
    NoExecute,
    /// One that is not known here; it has no effect.
    Other,
}

impl Effect {
    fn parse(text: &str) -> Self {
        match text {
            "NoSchedule" => Self::NoSchedule,
            "PreferNoSchedule" => Self::PreferNoSchedule,
            "NoExecute" => Self::NoExecute,
            _ => Self::Other,
        }
    }
}

/// A taint of a node.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Taint {
    /// Its key.
    pub key: Arc<str>,
    /// Its value; empty if absent.
    pub value: Arc<str>,
    /// What it does.
    pub effect: Effect,
}

/// What is asked of nodes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeFacts {
    /// All labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// All taints.
    pub taints: Box<[Taint]>,
    /// `spec.unschedulable`: the node is cordoned.
    pub unschedulable: bool,
    /// `status.allocatable` in billionths, by resource.
    pub allocatable: BTreeMap<Arc<str>, i128>,
}

impl NodeFacts {
    /// What a node says of itself; quantities that cannot be read count as absent.
    pub fn of(
        labels: impl IntoIterator<Item = (String, String)>,
        spec: NodeSpecWire,
        allocatable: impl IntoIterator<Item = (String, Value)>,
    ) -> Self {
        let taints = spec.taints.into_iter().map(|taint| Taint {
            key: taint.key.into(),
            value: taint.value.into(),
            effect: Effect::parse(&taint.effect),
        });
        Self {
            labels: labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            taints: taints.collect(),
            unschedulable: spec.unschedulable,
            allocatable: allocatable
                .into_iter()
                .filter_map(|(name, amount)| Some((name.into(), quantity_nanos(&amount)?)))
                .collect(),
        }
    }
}

/// `spec` of a node, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeSpecWire {
    #[serde(default, deserialize_with = "nullable")]
    taints: Vec<TaintWire>,
    #[serde(default, deserialize_with = "nullable")]
    unschedulable: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct TaintWire {
    #[serde(default, deserialize_with = "nullable")]
    key: String,
    #[serde(default, deserialize_with = "nullable")]
    value: String,
    #[serde(default, deserialize_with = "nullable")]
    effect: String,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
    Unknown,
}

/// One requirement of a node selector term.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Requirement {
    key: Arc<str>,
    operator: Operator,
    values: Box<[Arc<str>]>,
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let listed = || value.is_some_and(|value| self.values.iter().any(|wanted| **wanted == *value));
        let number = |text: &str| text.parse::<i64>().ok();
        let compared = || Some(number(value?)?.cmp(&number(self.values.first()?)?));
        match self.operator {
            Operator::In => listed(),
            Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => compared().is_some_and(std::cmp::Ordering::is_gt),
            Operator::Lt => compared().is_some_and(std::cmp::Ordering::is_lt),
            Operator::Unknown => false,
        }
    }

    /// The one name it allows, if it is about the name of the node.
    fn pin(&self) -> Option<&Arc<str>> {
        match (&*self.values, self.operator) {
            ([name], Operator::In) if &*self.key == NAME_FIELD => Some(name),
            _ => None,
        }
    }
}

/// The only field of nodes that affinity may name.
const NAME_FIELD: &str = "metadata.name";

/// All of it has to hold; one of nothing holds nowhere.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Term {
    expressions: Box<[Requirement]>,
    fields: Box<[Requirement]>,
    /// Had nothing but the name of a node in it, which was taken out.
    anywhere: bool,
}

impl Term {
    fn holds(&self, name: &str, node: &NodeFacts) -> bool {
        (self.anywhere || !(self.expressions.is_empty() && self.fields.is_empty()))
            && self.expressions.iter().all(|one| one.holds(node.labels.get(&one.key).map(AsRef::as_ref)))
            && self.fields.iter().all(|one| &*one.key == NAME_FIELD && one.holds(Some(name)))
    }
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Toleration {
    key: Arc<str>,
    exists: bool,
    value: Arc<str>,
    /// `None` for all.
    effect: Option<Effect>,
}

impl Toleration {
    fn covers(&self, key: &str, value: &str, effect: Effect) -> bool {
        self.effect.is_none_or(|own| own == effect)
            && (self.key.is_empty() || *self.key == *key)
            && (self.exists || (!self.key.is_empty() && *self.value == *value))
    }
}

/// In billionths, by resource.
type Requests = Box<[(Arc<str>, i128)]>;

/// Where a pod may run.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Placement {
    selector: Texts,
    /// One of them has to hold; `None` if there is no required affinity.
    required: Option<Box<[Term]>>,
    tolerations: Box<[Toleration]>,
    requests: Requests,
    /// The only node of a template that names one.
    node: Option<Arc<str>>,
}

impl Placement {
    /// Where pods of a `PodTemplateSpec` may run.
    ///
    /// # Errors
    /// Where the template is not shaped as one.
    pub fn of_template(template: &Value) -> Result<Self, String> {
        let spec = template.get("spec").unwrap_or(&Value::Null);
        let wire = |error: serde_json::Error| format!("template.spec: {error}");
        let spec: Option<TemplateSpecWire> = Deserialize::deserialize(spec).map_err(wire)?;
        let spec = spec.unwrap_or_default();
        let requests = requests(&spec)?;
        let mut share = |text: &str| Arc::from(text);
        let placed = PlacementWire {
            node_selector: spec.node_selector,
            affinity: spec.affinity,
            tolerations: spec.tolerations,
        };
        let node = spec.node_name.filter(|name| !name.is_empty()).map(Arc::from);
        Ok(Self { requests, node, ..Self::compile(placed, &mut share) })
    }

    fn compile(wire: PlacementWire, share: &mut dyn FnMut(&str) -> Arc<str>) -> Self {
        let selectors = wire.node_selector.iter();
        let selector: Vec<_> =
            selectors.map(|(key, value)| (share(key), share(value.as_deref().unwrap_or_default()))).collect();
        let required = wire.affinity.node_affinity.required.map(|required| {
            required.terms.into_iter().map(|term| term.compile(share)).collect::<Box<[Term]>>()
        });
        let tolerations = wire.tolerations.into_iter().filter_map(|one| one.compile(share)).collect();
        Self { selector: selector.into_iter().collect(), required, tolerations, ..Self::default() }
    }

    /// Where a pod may run that is on its node, or on its way there. Also tells the one node that it is for, by its
    /// affinity; this part is taken out, so that pods which differ in nothing else are alike. Of a pod that has its
    /// node no affinity is kept: it was asked for once.
    pub(crate) fn of_pod(
        wire: PlacementWire,
        bound: bool,
        share: &mut dyn FnMut(&str) -> Arc<str>,
    ) -> (Self, Option<Arc<str>>) {
        let mut placement = Self::compile(wire, share);
        if bound {
            placement.required = None;
            return (placement, None);
        }
        let terms = placement.required.as_deref_mut().unwrap_or_default();
        let mut pins = terms.iter().map(|term| term.fields.iter().find_map(Requirement::pin).cloned());
        let first = pins.next().flatten();
        let pinned = first.filter(|first| pins.all(|other| other.as_ref() == Some(first)));
        if let Some(pinned) = &pinned {
            for term in terms {
                let others =
                    std::mem::take(&mut term.fields).into_iter().filter(|one| one.pin() != Some(pinned));
                term.fields = others.collect();
                term.anywhere = term.expressions.is_empty() && term.fields.is_empty();
            }
        }
        (placement, pinned)
    }

    /// True if the node has all labels of the node selector.
    pub fn selects(&self, node: &NodeFacts) -> bool {
        self.selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
    }

    /// True if the required affinity allows the node of this name.
    pub fn is_drawn_to(&self, name: &str, node: &NodeFacts) -> bool {
        self.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term.holds(name, node)))
    }

    /// The first taint that keeps the pod off the node, cordons included; those of `forgiven` keys do not.
    pub fn repelled_by<'a>(&self, node: &'a NodeFacts, forgiven: &[&str]) -> Option<&'a str> {
        let cordon = node.unschedulable.then_some((UNSCHEDULABLE_TAINT, "", Effect::NoSchedule));
        let taints = node.taints.iter().map(|taint| (&*taint.key, &*taint.value, taint.effect));
        taints
            .chain(cordon)
            .filter(|(_, _, effect)| matches!(effect, Effect::NoSchedule | Effect::NoExecute))
            .find(|(key, value, effect)| {
                !forgiven.contains(key) && !self.tolerations.iter().any(|one| one.covers(key, value, *effect))
            })
            .map(|(key, _, _)| key)
    }

    /// The first resource of which the whole node has less than is asked for.
    pub fn lacks<'a>(&'a self, node: &NodeFacts) -> Option<&'a str> {
        let has = |name: &str| node.allocatable.get(name).copied().unwrap_or_default();
        if has("pods") < 1 {
            return Some("pods");
        }
        self.requests.iter().find(|(name, amount)| has(name) < *amount).map(|(name, _)| &**name)
    }

    /// True if a new pod could run on the node of this name if nothing else did.
    pub fn fits(&self, name: &str, node: &NodeFacts) -> bool {
        self.node.as_deref().is_none_or(|only| only == name)
            && self.selects(node)
            && self.repelled_by(node, &[]).is_none()
            && self.lacks(node).is_none()
            && self.is_drawn_to(name, node)
    }
}

/// What a pod says about where it may run.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlacementWire {
    pub(crate) node_selector: BTreeMap<String, Option<String>>,
    pub(crate) affinity: AffinityWire,
    pub(crate) tolerations: Vec<TolerationWire>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TemplateSpecWire {
    #[serde(default)]
    node_name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    node_selector: BTreeMap<String, Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    affinity: AffinityWire,
    #[serde(default, deserialize_with = "nullable")]
    tolerations: Vec<TolerationWire>,
    #[serde(default, deserialize_with = "nullable")]
    init_containers: Vec<ContainerWire>,
    #[serde(default, deserialize_with = "nullable")]
    containers: Vec<ContainerWire>,
    #[serde(default, deserialize_with = "nullable")]
    overhead: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerWire {
    #[serde(default, deserialize_with = "nullable")]
    restart_policy: String,
    #[serde(default, deserialize_with = "nullable")]
    resources: ResourcesWire,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct ResourcesWire {
    #[serde(default, deserialize_with = "nullable")]
    limits: BTreeMap<String, Value>,
    #[serde(default, deserialize_with = "nullable")]
    requests: BTreeMap<String, Value>,
}

/// `spec.affinity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AffinityWire {
    #[serde(default, deserialize_with = "nullable")]
    node_affinity: NodeAffinityWire,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct NodeAffinityWire {
    #[serde(default, rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Option<RequiredWire>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct RequiredWire {
    #[serde(default, rename = "nodeSelectorTerms", deserialize_with = "nullable")]
    terms: Vec<TermWire>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TermWire {
    #[serde(default, deserialize_with = "nullable")]
    match_expressions: Vec<RequirementWire>,
    #[serde(default, deserialize_with = "nullable")]
    match_fields: Vec<RequirementWire>,
}

impl TermWire {
    fn compile(self, share: &mut dyn FnMut(&str) -> Arc<str>) -> Term {
        let mut all =
            |wire: Vec<RequirementWire>| wire.into_iter().map(|one| one.compile(share)).collect::<Box<[_]>>();
        Term { expressions: all(self.match_expressions), fields: all(self.match_fields), anywhere: false }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
struct RequirementWire {
    #[serde(default, deserialize_with = "nullable")]
    key: String,
    #[serde(default, deserialize_with = "nullable")]
    operator: String,
    #[serde(default, deserialize_with = "nullable")]
    values: Vec<String>,
}

impl RequirementWire {
    fn compile(self, share: &mut dyn FnMut(&str) -> Arc<str>) -> Requirement {
        let operator = match self.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Gt,
            "Lt" => Operator::Lt,
            _ => Operator::Unknown,
        };
        let values = self.values.iter().map(|value| share(value)).collect();
        Requirement { key: share(&self.key), operator, values }
    }
}

/// An entry of `spec.tolerations`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct TolerationWire {
    #[serde(default, deserialize_with = "nullable")]
    key: String,
    #[serde(default, deserialize_with = "nullable")]
    operator: String,
    #[serde(default, deserialize_with = "nullable")]
    value: String,
    #[serde(default, deserialize_with = "nullable")]
    effect: String,
}

impl TolerationWire {
    /// `None` if its operator is not known here: it tolerates nothing.
    fn compile(self, share: &mut dyn FnMut(&str) -> Arc<str>) -> Option<Toleration> {
        let exists = match self.operator.as_str() {
            "Exists" => true,
            "" | "Equal" => false,
            _ => return None,
        };
        let effect = (!self.effect.is_empty()).then(|| Effect::parse(&self.effect));
        Some(Toleration { key: share(&self.key), exists, value: share(&self.value), effect })
    }
}

/// What the containers ask for: all together, or the hungriest init container; sidecars count with both.
fn requests(spec: &TemplateSpecWire) -> Result<Requests, String> {
    let mut together = BTreeMap::new();
    let mut hungriest = BTreeMap::new();
    for container in &spec.init_containers {
        let own = amounts(container)?;
        if container.restart_policy == "Always" {
            add(&mut together, &own);
        } else {
            // Sidecars that were started before it run beside it.
            for (name, amount) in &own {
                let beside = together.get(name).copied().unwrap_or_default();
                let most = hungriest.entry(name.clone()).or_default();
                *most = i128::max(*most, beside + amount);
            }
        }
    }
    for container in &spec.containers {
        add(&mut together, &amounts(container)?);
    }
    for (name, amount) in hungriest {
        let sum = together.entry(name).or_default();
        *sum = amount.max(*sum);
    }
    for (name, quantity) in &spec.overhead {
        *together.entry(name.clone()).or_default() += nanos(name, quantity)?;
    }
    Ok(together.into_iter().map(|(name, amount)| (name.into(), amount)).collect())
}

fn add(sum: &mut BTreeMap<String, i128>, more: &BTreeMap<String, i128>) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += amount;
    }
}

/// A limit without a request is the request as well.
fn amounts(container: &ContainerWire) -> Result<BTreeMap<String, i128>, String> {
    let both = container.resources.limits.iter().chain(&container.resources.requests);
    both.map(|(name, quantity)| Ok((name.clone(), nanos(name, quantity)?))).collect()
}

fn nanos(name: &str, quantity: &Value) -> Result<i128, String> {
    quantity_nanos(quantity).ok_or_else(|| format!("template.spec: {quantity} is no quantity of {name}"))
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "helpers of tests take literals")]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(value: Value) -> NodeFacts {
        let map = |key: &str| value.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        let mut allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        allocatable.as_object_mut().unwrap().extend(map("allocatable"));
        NodeFacts::of(
            map("labels").into_iter().map(|(key, value)| (key, value.as_str().unwrap().to_owned())),
            serde_json::from_value(json!({"taints": value["taints"], "unschedulable": value["cordoned"]}))
                .unwrap(),
            allocatable.as_object().unwrap().clone(),
        )
    }

    fn placement(spec: Value) -> Placement {
        Placement::of_template(&json!({"spec": spec})).unwrap()
    }

    fn fits(spec: Value, value: Value) -> bool {
        placement(spec).fits("n1", &node(value))
    }

    fn affinity(terms: Value) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    #[test]
    fn taints_keep_pods_off_unless_they_are_tolerated_or_only_preferences() {
        let tainted = |effect: &str| json!({"taints": [{"key": "k", "value": "v", "effect": effect}]});
        let with = |toleration: Value| json!({"tolerations": [toleration]});
        for (effect, spec, expected) in [
            ("NoSchedule", json!({}), false),
            ("NoExecute", json!({}), false),
            ("PreferNoSchedule", json!({}), true),
            ("NoSchedule", with(json!({"key": "k", "value": "v", "effect": "NoSchedule"})), true),
            ("NoSchedule", with(json!({"key": "k", "operator": "Equal", "value": "v"})), true),
            ("NoSchedule", with(json!({"key": "k", "value": "w"})), false),
            ("NoSchedule", with(json!({"key": "k", "operator": "Exists"})), true),
            ("NoSchedule", with(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})), false),
            ("NoExecute", with(json!({"operator": "Exists"})), true),
            ("NoSchedule", with(json!({"operator": "Equal", "value": "v"})), false),
            ("NoSchedule", with(json!({"key": "k", "operator": "Gt", "value": "v"})), false),
        ] {
            assert_eq!(fits(spec.clone(), tainted(effect)), expected, "{effect} {spec}");
        }
    }

    #[test]
    fn a_template_that_names_its_node_fits_no_other() {
        for (spec, expected) in [
            (json!({"nodeName": "n1"}), true),
            (json!({"nodeName": "n2"}), false),
            (json!({"nodeName": ""}), true),
            (json!({"nodeName": null}), true),
        ] {
            assert_eq!(fits(spec.clone(), json!({})), expected, "{spec}");
        }
    }

    #[test]
    fn a_cordon_is_a_taint_that_can_be_tolerated() {
        let cordoned = json!({"cordoned": true});
        assert!(!fits(json!({}), cordoned.clone()));
        let toleration = json!({"key": UNSCHEDULABLE_TAINT, "operator": "Exists", "effect": "NoSchedule"});
        assert!(fits(json!({"tolerations": [toleration]}), cordoned));
    }

    #[test]
    fn silent_nodes_can_be_forgiven() {
        let silent = node(json!({"taints": [{"key": SILENT_TAINTS[1], "effect": "NoExecute"}]}));
        let any = placement(json!({}));
        assert_eq!(any.repelled_by(&silent, &[]), Some(SILENT_TAINTS[1]));
        assert_eq!(any.repelled_by(&silent, &SILENT_TAINTS), None);
        let other = node(json!({"taints": [{"key": "gpu", "effect": "NoSchedule"}], "cordoned": true}));
        assert_eq!(any.repelled_by(&other, &SILENT_TAINTS), Some("gpu"));
    }

    #[test]
    fn selectors_and_affinity_limit_nodes_by_label_and_name() {
        let labelled = json!({"labels": {"zone": "a", "size": "5"}});
        let one = |operator: &str, key: &str, values: Value| {
            affinity(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
        };
        let name = |name: &str| {
            affinity(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]))
        };
        for (spec, expected) in [
            (json!({"nodeSelector": {"zone": "a"}}), true),
            (json!({"nodeSelector": {"zone": "b"}}), false),
            (json!({"nodeSelector": {"none": "a"}}), false),
            (one("In", "zone", json!(["b", "a"])), true),
            (one("NotIn", "zone", json!(["a"])), false),
            (one("NotIn", "none", json!(["a"])), true),
            (one("Exists", "zone", Value::Null), true),
            (one("DoesNotExist", "zone", Value::Null), false),
            (one("Gt", "size", json!(["4"])), true),
            (one("Gt", "size", json!(["5"])), false),
            (one("Lt", "size", json!(["6"])), true),
            (one("Lt", "zone", json!(["6"])), false),
            (one("Like", "zone", json!(["a"])), false),
            (name("n1"), true),
            (name("n2"), false),
            (affinity(json!([])), false),
            (affinity(json!([{}])), false),
            (affinity(json!([{}, {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}])), true),
        ] {
            assert_eq!(fits(spec.clone(), labelled.clone()), expected, "{spec}");
        }
    }

    #[test]
    fn a_pod_that_asks_for_more_than_the_whole_node_has_does_not_fit() {
        let ask = |resources: Value| json!({"resources": resources});
        let small = json!({"requests": {"cpu": "3", "memory": "4Gi"}});
        for (spec, lacking) in [
            (json!({"containers": [ask(small.clone())]}), None),
            (json!({"containers": [ask(small.clone()), ask(small.clone())]}), Some("cpu")),
            (json!({"containers": [ask(small.clone())], "initContainers": [ask(small.clone())]}), None),
            (
                json!({"containers": [ask(small.clone())],
                    "initContainers": [{"restartPolicy": "Always", "resources": small.clone()}]}),
                Some("cpu"),
            ),
            (
                json!({"initContainers": [{"restartPolicy": "Always", "resources": small.clone()}, ask(small.clone())]}),
                Some("cpu"),
            ),
            (json!({"containers": [ask(json!({"limits": {"memory": "9Gi"}}))]}), Some("memory")),
            (
                json!({"containers": [ask(json!({"limits": {"memory": "9Gi"}, "requests": {"memory": 1}}))]}),
                None,
            ),
            (
                json!({"containers": [ask(json!({"requests": {"example.com/gpu": 1}}))]}),
                Some("example.com/gpu"),
            ),
            (json!({"containers": [ask(small)], "overhead": {"cpu": "1001m"}}), Some("cpu")),
        ] {
            assert_eq!(placement(spec.clone()).lacks(&node(json!({}))), lacking, "{spec}");
        }
        assert_eq!(placement(json!({})).lacks(&node(json!({"allocatable": {"pods": 0}}))), Some("pods"));
    }

    #[test]
    fn what_is_no_template_is_told() {
        for (spec, told) in [
            (
                json!({"tolerations": "all"}),
                "template.spec: invalid type: string \"all\", expected a sequence",
            ),
            (
                json!({"containers": [{"resources": {"requests": {"cpu": "much"}}}]}),
                "template.spec: \"much\" is no quantity of cpu",
            ),
        ] {
            assert_eq!(Placement::of_template(&json!({"spec": spec})).unwrap_err(), told);
        }
        assert_eq!(Placement::of_template(&json!({})), Ok(Placement::default()));
    }
}
