//! What is to be done about one node, from everything seen.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kruise_api::imagepulljob::KIND;
use kruise_api::keys;
use kruise_api::nodeimage::{
    ImagePullPhase, ImageSpec, ImageStatus, ImageTagSpec, ImageTagStatus, NodeImage, NodeImageStatus,
    PullSecret,
};
use kruise_common::deadline::until;
use kruise_runtime::nodes::NodeView;

use crate::task::{status_of, whole_seconds};

/// Seconds after which a node that says nothing is given up, and that it may be late with what it says.
const PATIENCE_SECONDS: i64 = 600;

/// Never look again sooner.
const SOONEST: Duration = Duration::from_secs(3);

const SILENT: &str = "node has not responded for a long time";
const OVERDUE: &str = "pulling exceeds the activeDeadlineSeconds";

/// Everything a round sees.
pub struct Seen<'a> {
    /// The node; `None` if there is none.
    pub node: Option<&'a NodeView>,
    /// Its `NodeImage`; `None` if there is none.
    pub image: Option<&'a NodeImage>,
    /// True if an owner is known to be gone. Owners of other kinds are not asked about.
    pub gone: &'a dyn Fn(&ObjectReference) -> bool,
    /// True if a Secret that nodes were told of is there.
    pub secret_exists: &'a dyn Fn(&PullSecret) -> bool,
    /// For how long a node is ready before it gets a `NodeImage`.
    pub delay: Duration,
    /// The time.
    pub now: Timestamp,
}

/// The one write of a round.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create the `NodeImage` with these labels.
    Create(BTreeMap<String, String>),
    /// Delete it.
    Delete,
    /// Change its labels, if given, and these images; `None` takes one out.
    Update {
        /// All labels.
        labels: Option<BTreeMap<String, String>>,
        /// By image.
        images: BTreeMap<String, Option<ImageSpec>>,
    },
    /// Change its status to this.
    Status(NodeImageStatus),
}

/// A pull that was given up.
#[derive(Clone, Debug, PartialEq)]
pub struct GivenUp {
    /// Image and tag.
    pub image: String,
    /// Why.
    pub message: &'static str,
    /// Who asked for it.
    pub owners: Vec<ObjectReference>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The write.
    pub action: Option<Action>,
    /// What to tell of, once the write is done.
    pub given_up: Vec<GivenUp>,
    /// When to look again.
    pub wake_in: Option<Duration>,
}

impl Plan {
    fn act(action: Action) -> Self {
        Self { action: Some(action), ..Self::default() }
    }

    fn wait(&mut self, wait: Duration) {
        self.wake_in = Some(self.wake_in.map_or(wait, |known| known.min(wait)).max(SOONEST));
    }
}

/// Decides.
pub fn plan(seen: &Seen<'_>) -> Plan {
    let node = seen.node.filter(|node| !node.terminating);
    let image = seen.image.filter(|image| image.metadata.deletion_timestamp.is_none());
    match (node, image) {
        (_, None) if seen.image.is_some() => Plan::default(),
        (None, None) => Plan::default(),
        (Some(node), None) => creation(node, seen),
        (None, Some(image)) if !is_fake(image) => Plan::act(Action::Delete),
        (node, Some(image)) => upkeep(node, image, seen),
    }
}

fn is_fake(image: &NodeImage) -> bool {
    image.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(keys::FAKE_NODE_IMAGE))
}

fn creation(node: &NodeView, seen: &Seen<'_>) -> Plan {
    let Some(since) = node.ready_since.filter(|_| !node.is_virtual()) else { return Plan::default() };
    let delay = i64::try_from(seen.delay.as_secs()).unwrap_or(i64::MAX);
    let left = until(since, delay, seen.now);
    if left.is_zero() {
        return Plan::act(Action::Create(labels_of(node)));
    }
    Plan { wake_in: Some(left), ..Plan::default() }
}

fn labels_of(node: &NodeView) -> BTreeMap<String, String> {
    node.facts.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn upkeep(node: Option<&NodeView>, image: &NodeImage, seen: &Seen<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut images = BTreeMap::new();
    for (name, spec) in image.spec.images.iter().flatten() {
        let kept = kept(name, spec, image, seen, &mut plan);
        if kept.as_ref() != Some(spec) {
            images.insert(name.clone(), kept);
        }
    }
    let labels = node
        .map(labels_of)
        .filter(|labels| labels != image.metadata.labels.as_ref().unwrap_or(&BTreeMap::new()));
    if labels.is_some() || !images.is_empty() {
        plan.action = Some(Action::Update { labels, images });
        return plan;
    }
    status(image, seen, &mut plan);
    plan
}

/// What stays of an image's entry; `None` if nothing does.
fn kept(
    name: &str,
    spec: &ImageSpec,
    image: &NodeImage,
    seen: &Seen<'_>,
    plan: &mut Plan,
) -> Option<ImageSpec> {
    let tags: Vec<_> = spec.tags.iter().filter_map(|tag| kept_tag(name, tag, image, seen, plan)).collect();
    if tags.is_empty() {
        return None;
    }
    let mut spec = ImageSpec { tags, ..spec.clone() };
    if let Some(secrets) = &mut spec.pull_secrets {
        secrets.retain(|secret| (seen.secret_exists)(secret));
        if secrets.is_empty() {
            spec.pull_secrets = None;
        }
    }
    Some(spec)
}

fn kept_tag(
    name: &str,
    tag: &ImageTagSpec,
    image: &NodeImage,
    seen: &Seen<'_>,
    plan: &mut Plan,
) -> Option<ImageTagSpec> {
    tag.created_at.as_ref()?;
    let mut tag = tag.clone();
    if let Some(owners) = tag.owner_references.as_mut().filter(|owners| !owners.is_empty()) {
        owners.retain(|owner| owner.kind.as_deref() != Some(KIND) || !(seen.gone)(owner));
        if owners.is_empty() {
            return None;
        }
    }
    let ttl = tag.pull_policy.as_ref().and_then(|policy| policy.ttl_seconds_after_finished);
    let ended = report(image, name, &tag).and_then(|status| status.completion_time.as_ref());
    if let (Some(ttl), Some(ended)) = (ttl, ended) {
        let left = until(ended.0, i64::from(ttl), seen.now);
        if left.is_zero() {
            return None;
        }
        plan.wait(left);
    }
    Some(tag)
}

/// What the node says of this version of a tag.
fn report<'a>(image: &'a NodeImage, name: &str, tag: &ImageTagSpec) -> Option<&'a ImageTagStatus> {
    status_of(image, name, &tag.tag).filter(|status| status.version == tag.version)
}

/// Gives up what takes too long, and forgets what nobody asks for any more.
fn status(image: &NodeImage, seen: &Seen<'_>, plan: &mut Plan) {
    let Some(old) = &image.status else {
        // Written by the node first; until then there is only its silence to be noticed.
        return give_up(image, &NodeImageStatus::default(), seen, plan);
    };
    give_up(image, old, seen, plan);
}

fn give_up(image: &NodeImage, old: &NodeImageStatus, seen: &Seen<'_>, plan: &mut Plan) {
    let mut statuses = old.image_statuses.clone().unwrap_or_default();
    for (name, spec) in image.spec.images.iter().flatten() {
        for tag in &spec.tags {
            let Some(message) = verdict(name, tag, image, seen, plan) else { continue };
            let begun = report(image, name, tag).and_then(|status| status.start_time.clone());
            let tags = &mut statuses.entry(name.clone()).or_default().tags;
            tags.retain(|status| status.tag != tag.tag);
            tags.push(ImageTagStatus {
                tag: tag.tag.clone(),
                phase: ImagePullPhase::Failed,
                start_time: begun,
                completion_time: Some(whole_seconds(seen.now)),
                version: tag.version,
                message: Some(message.to_owned()),
                ..ImageTagStatus::default()
            });
            tags.sort_by(|a, b| a.tag.cmp(&b.tag));
            let separator = if tag.tag.contains(':') { '@' } else { ':' };
            plan.given_up.push(GivenUp {
                image: format!("{name}{separator}{}", tag.tag),
                message,
                owners: tag.owner_references.clone().unwrap_or_default(),
            });
        }
    }
    prune(image, &mut statuses);
    if statuses == old.image_statuses.clone().unwrap_or_default() {
        return;
    }
    plan.action = Some(Action::Status(counted(image, old, statuses)));
}

/// Why a pull is given up; `None` if it is not.
fn verdict(
    name: &str,
    tag: &ImageTagSpec,
    image: &NodeImage,
    seen: &Seen<'_>,
    plan: &mut Plan,
) -> Option<&'static str> {
    let asked = tag.created_at.as_ref()?.0;
    let report = report(image, name, tag);
    if report.is_some_and(|status| status.completion_time.is_some()) {
        return None;
    }
    if report.is_none() {
        let left = until(asked, PATIENCE_SECONDS, seen.now);
        if left.is_zero() {
            return Some(SILENT);
        }
        plan.wait(left);
    }
    let deadline = tag.pull_policy.as_ref().and_then(|policy| policy.active_deadline_seconds)?;
    let left = until(asked, deadline.saturating_add(PATIENCE_SECONDS), seen.now);
    if left.is_zero() {
        return Some(OVERDUE);
    }
    plan.wait(left);
    None
}

fn prune(image: &NodeImage, statuses: &mut BTreeMap<String, ImageStatus>) {
    let wanted = |name: &str, tag: &str| {
        let spec = image.spec.images.as_ref().and_then(|images| images.get(name));
        spec.is_some_and(|spec| spec.tags.iter().any(|wanted| wanted.tag == tag))
    };
    for (name, status) in statuses.iter_mut() {
        status.tags.retain(|status| wanted(name, &status.tag));
    }
    statuses.retain(|_, status| !status.tags.is_empty());
}

fn counted(
    image: &NodeImage,
    old: &NodeImageStatus,
    statuses: BTreeMap<String, ImageStatus>,
) -> NodeImageStatus {
    let int = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let count = |phase: ImagePullPhase| {
        let tags = statuses.values().flat_map(|status| &status.tags);
        int(tags.filter(|status| status.phase == phase).count())
    };
    let desired = image.spec.images.iter().flat_map(BTreeMap::values).map(|spec| spec.tags.len()).sum();
    NodeImageStatus {
        desired: int(desired),
        succeeded: count(ImagePullPhase::Succeeded),
        failed: count(ImagePullPhase::Failed),
        pulling: count(ImagePullPhase::Pulling),
        waiting: count(ImagePullPhase::Waiting),
        first_sync_status: old.first_sync_status.clone(),
        image_statuses: Some(statuses),
    }
}

#[cfg(test)]
mod tests {
    use kruise_common::key::{ObjectKey, Uid};
    use kruise_common::placement::NodeFacts;
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn node(labels: &[(&str, &str)], ready_since: Option<i64>) -> NodeView {
        NodeView {
            key: ObjectKey::new("", "n"),
            uid: Uid::from("n"),
            resource_version: "1".into(),
            facts: NodeFacts {
                labels: labels.iter().map(|&(key, value)| (key.into(), value.into())).collect(),
                ..NodeFacts::default()
            },
            terminating: false,
            ready_since: ready_since.map(at),
        }
    }

    fn image(labels: Value, images: Value, statuses: Value) -> NodeImage {
        serde_json::from_value(json!({
            "apiVersion": "apps.kruise.io/v1beta1", "kind": "NodeImage",
            "metadata": {"name": "n", "labels": labels}, "spec": {"images": images},
            "status": {"desired": 1, "succeeded": 0, "failed": 0, "pulling": 0, "imageStatuses": statuses},
        }))
        .unwrap()
    }

    fn tag(extra: Value) -> Value {
        let mut tag = json!({"tag": "1", "createdAt": "1970-01-01T00:00:00Z",
            "pullPolicy": {"ttlSecondsAfterFinished": 100}});
        tag.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"nginx": {"tags": [tag]}})
    }

    fn owner(uid: &str) -> Value {
        json!({"kind": "ImagePullJob", "namespace": "shop", "name": uid, "uid": uid})
    }

    fn planned(node: Option<&NodeView>, image: Option<&NodeImage>, now: i64) -> Plan {
        plan(&Seen {
            node,
            image,
            gone: &|owner| owner.uid.as_deref() == Some("gone"),
            secret_exists: &|secret| secret.name.as_deref() == Some("there"),
            delay: Duration::from_secs(30),
            now: at(now),
        })
    }

    #[test]
    fn a_node_gets_an_object_once_it_has_been_ready_for_a_while() {
        let ready = node(&[("a", "b")], Some(0));
        assert_eq!(planned(Some(&ready), None, 10).wake_in, Some(Duration::from_secs(20)));
        let labels = labels_of(&ready);
        assert_eq!(planned(Some(&ready), None, 30), Plan::act(Action::Create(labels)));
        assert_eq!(planned(Some(&node(&[], None)), None, 30), Plan::default(), "not ready");
        assert_eq!(planned(Some(&node(&[("type", "virtual-kubelet")], Some(0))), None, 99), Plan::default());
        assert_eq!(planned(None, None, 99), Plan::default());
    }

    #[test]
    fn an_object_goes_with_its_node_unless_it_is_kept_on_purpose() {
        let plain = image(json!({}), json!({}), json!({}));
        assert_eq!(planned(None, Some(&plain), 0), Plan::act(Action::Delete));
        let mut going = node(&[], Some(0));
        going.terminating = true;
        assert_eq!(planned(Some(&going), Some(&plain), 0), Plan::act(Action::Delete));
        let fake = image(json!({"apps.kruise.io/fake-nodeimage": "x"}), json!({}), json!({}));
        assert_eq!(planned(None, Some(&fake), 0), Plan::default());
    }

    #[test]
    fn labels_follow_the_node() {
        let found = image(json!({"old": "x"}), json!({}), json!({}));
        let node = node(&[("new", "y")], Some(0));
        let expected = Action::Update { labels: Some(labels_of(&node)), images: BTreeMap::new() };
        assert_eq!(planned(Some(&node), Some(&found), 0).action, Some(expected));
    }

    #[test]
    fn an_entry_goes_with_its_last_owner_and_not_before() {
        let node = node(&[], Some(0));
        let entries = |owners: Value| image(json!({}), tag(json!({"ownerReferences": owners})), json!({}));
        let images = |plan: Plan| match plan.action {
            Some(Action::Update { images, .. }) => images,
            other => panic!("{other:?}"),
        };
        let both = images(planned(Some(&node), Some(&entries(json!([owner("gone"), owner("b")]))), 0));
        let left = both["nginx"].as_ref().unwrap().tags[0].owner_references.clone().unwrap();
        assert_eq!(left.iter().map(|owner| owner.uid.as_deref().unwrap()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(images(planned(Some(&node), Some(&entries(json!([owner("gone")]))), 0))["nginx"], None);
        assert_eq!(planned(Some(&node), Some(&entries(json!([owner("b")]))), 0).action, None);
        let other = json!([{"kind": "Other", "uid": "gone"}]);
        assert_eq!(
            planned(Some(&node), Some(&entries(other)), 0).action,
            None,
            "nobody asks about other kinds"
        );
        assert_eq!(planned(Some(&node), Some(&entries(json!([]))), 0).action, None, "written by hand");
    }

    #[test]
    fn a_finished_entry_goes_after_its_time() {
        let node = node(&[], Some(0));
        let ended = |version: i64| {
            let status = json!({"nginx": {"tags": [{"tag": "1", "phase": "Succeeded", "version": version,
                "completionTime": "1970-01-01T00:00:00Z"}]}});
            image(json!({}), tag(json!({"version": 2})), status)
        };
        assert_eq!(
            planned(Some(&node), Some(&ended(2)), 40),
            Plan { wake_in: Some(Duration::from_mins(1)), ..Plan::default() }
        );
        assert!(
            matches!(planned(Some(&node), Some(&ended(2)), 100).action, Some(Action::Update { images, .. }) if images["nginx"].is_none())
        );
        assert_eq!(planned(Some(&node), Some(&ended(1)), 100).action, None, "that was an earlier pull");
    }

    #[test]
    fn a_tag_without_a_time_goes_and_one_without_limits_does_no_harm() {
        let node = node(&[], Some(0));
        let bare = json!({"nginx": {"tags": [{"tag": "1"}]}, "redis": {"tags": [{"tag": "2", "createdAt": "1970-01-01T00:00:00Z"}]}});
        let Some(Action::Update { images, .. }) =
            planned(Some(&node), Some(&image(json!({}), bare, json!({}))), 0).action
        else {
            panic!()
        };
        assert_eq!(images.keys().collect::<Vec<_>>(), ["nginx"]);
    }

    #[test]
    fn secrets_that_are_gone_are_no_longer_told() {
        let node = node(&[], Some(0));
        let mut images = tag(json!({}));
        images["nginx"]["pullSecrets"] =
            json!([{"namespace": "d", "name": "there"}, {"namespace": "d", "name": "gone", "mode": "batch"}]);
        let plan = planned(Some(&node), Some(&image(json!({}), images, json!({}))), 0);
        let Some(Action::Update { images, .. }) = plan.action else { panic!() };
        assert_eq!(images["nginx"].as_ref().unwrap().pull_secrets.as_ref().unwrap().len(), 1);
    }

    #[test]
    fn a_silent_node_is_given_up_after_ten_minutes() {
        let node = node(&[], Some(0));
        let asked = image(json!({}), tag(json!({"version": 3, "ownerReferences": [owner("b")]})), json!({}));
        assert_eq!(planned(Some(&node), Some(&asked), 590).wake_in, Some(Duration::from_secs(10)));
        let plan = planned(Some(&node), Some(&asked), 600);
        let Some(Action::Status(status)) = plan.action else { panic!() };
        assert_eq!((status.desired, status.failed, status.pulling), (1, 1, 0));
        let told = &status.image_statuses.unwrap()["nginx"].tags[0];
        assert_eq!((told.version, told.message.as_deref()), (3, Some(SILENT)));
        assert_eq!((plan.given_up[0].image.as_str(), plan.given_up[0].owners.len()), ("nginx:1", 1));
    }

    #[test]
    fn a_pull_may_be_ten_minutes_late() {
        let node = node(&[], Some(0));
        let entry = tag(json!({"pullPolicy": {"activeDeadlineSeconds": 50}}));
        let status = json!({"nginx": {"tags": [{"tag": "1", "phase": "Pulling", "startTime": "1970-01-01T00:00:05Z"}]}});
        let pulling = image(json!({}), entry, status);
        assert_eq!(planned(Some(&node), Some(&pulling), 640).wake_in, Some(Duration::from_secs(10)));
        let Some(Action::Status(status)) = planned(Some(&node), Some(&pulling), 650).action else { panic!() };
        let told = &status.image_statuses.unwrap()["nginx"].tags[0];
        assert_eq!(told.message.as_deref(), Some(OVERDUE));
        assert!(told.start_time.is_some());
    }

    #[test]
    fn reports_of_what_nobody_asks_for_are_forgotten() {
        let node = node(&[], Some(0));
        let status = json!({"old": {"tags": [{"tag": "1", "phase": "Succeeded"}]}});
        let Some(Action::Status(status)) =
            planned(Some(&node), Some(&image(json!({}), json!({}), status)), 0).action
        else {
            panic!()
        };
        assert_eq!((status.desired, status.succeeded, status.image_statuses), (0, 0, Some(BTreeMap::new())));
    }
}
