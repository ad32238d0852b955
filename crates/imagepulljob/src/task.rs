//! What a job asks of one node: how it is put into a `NodeImage`, and how far the node is with it.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kruise_api::imagepulljob::{ImagePullJob, KIND, SandboxConfig};
use kruise_api::nodeimage::{
    ImagePullPhase, ImageSpec, ImageTagPullPolicy, ImageTagSpec, ImageTagStatus, NodeImage, PullSecret,
};
pub use kruise_common::deadline::whole_seconds;
use kruise_common::image_ref::{ImageRef, ImageRefError};
use kruise_common::revision::fnv1;

/// Seconds one attempt may take by default.
pub const DEFAULT_TIMEOUT_SECONDS: i32 = 600;
/// How often a failed pull is tried again by default.
pub const DEFAULT_BACKOFF_LIMIT: i32 = 3;
/// The completion policy of jobs that go on for ever.
pub const NEVER: &str = "Never";

const NEVER_TTL_SECONDS: i64 = 86_400;
const NEVER_DEADLINE_SECONDS: i64 = 1800;

/// What a job asks of every one of its nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// What the image is filed under.
    pub image: String,
    /// Tag or digest.
    pub tag: String,
    /// Where it comes from.
    pub registry: Arc<str>,
    /// The job.
    pub owner: ObjectReference,
    timeout: i32,
    backoff: i32,
    deadline: Option<i64>,
    ttl: Ttl,
    image_pull_policy: Option<String>,
    sandbox: Option<SandboxConfig>,
}

/// For how long finished entries are kept: spread, so that not all nodes clean up at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Ttl {
    least: i64,
    spread: i64,
}

/// How far a node is with a task.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// It has not been asked.
    Unsynced,
    /// It was asked. `stale`: what it was told is no longer what the job says.
    Active {
        /// Secrets or limits have to be told again.
        stale: bool,
    },
    /// It has the image.
    Succeeded,
    /// It gave up.
    Failed,
}

impl Task {
    /// What a job asks; `always_ttl` is the time that entries of finished pulls are kept beyond their job's own.
    ///
    /// # Errors
    /// The image is no reference: only the user can mend that.
    pub fn of(job: &ImagePullJob, always_ttl: u32) -> Result<Self, ImageRefError> {
        let image = ImageRef::parse(&job.spec.image)?;
        let template = &job.spec.template;
        let policy = template.pull_policy.clone().unwrap_or_default();
        let completion = &template.completion_policy;
        let timeout = policy.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        let backoff = policy.backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT);
        let (deadline, ttl) = if completion.type_.as_deref() == Some(NEVER) {
            let all_attempts = i64::from(timeout).saturating_mul(i64::from(backoff).saturating_add(1));
            let ttl = Ttl { least: NEVER_TTL_SECONDS - 600, spread: 1200 };
            (Some(NEVER_DEADLINE_SECONDS.max(all_attempts)), ttl)
        } else {
            let own = completion.ttl_seconds_after_finished.map(i64::from);
            let base = own
                .or(completion.active_deadline_seconds)
                .unwrap_or_else(|| i64::from(timeout).saturating_mul(i64::from(backoff)));
            let ttl = Ttl { least: base.max(0).saturating_add(i64::from(always_ttl)), spread: 300 };
            (completion.active_deadline_seconds, ttl)
        };
        Ok(Self {
            image: image.familiar_name(),
            tag: image.version().to_owned(),
            registry: image.registry().into(),
            owner: owner(job),
            timeout,
            backoff,
            deadline,
            ttl,
            image_pull_policy: template.image_pull_policy.clone(),
            sandbox: template.sandbox_config.clone(),
        })
    }

    fn owns(&self, tag: &ImageTagSpec) -> bool {
        tag.owner_references.iter().flatten().any(|owner| owner.uid == self.owner.uid)
    }

    /// The limits for one node.
    fn policy(&self, node: &str) -> ImageTagPullPolicy {
        let uid = self.owner.uid.as_deref().unwrap_or_default();
        let offset = i64::from(fnv1(&[uid.as_bytes(), b"/", node.as_bytes()])) % self.ttl.spread;
        ImageTagPullPolicy {
            timeout_seconds: Some(self.timeout),
            backoff_limit: Some(self.backoff),
            ttl_seconds_after_finished: Some(int32(self.ttl.least.saturating_add(offset))),
            active_deadline_seconds: self.deadline,
        }
    }

    /// How far a node is; `secrets` are those it needs.
    pub fn class(&self, node: &NodeImage, secrets: &[PullSecret]) -> Class {
        let image = node.spec.images.as_ref().and_then(|images| images.get(&self.image));
        let Some(image) = image else { return Class::Unsynced };
        let tag = image.tags.iter().find(|tag| tag.tag == self.tag).filter(|tag| self.owns(tag));
        let Some(tag) = tag else { return Class::Unsynced };
        let phase = status_of(node, &self.image, &self.tag)
            .filter(|status| status.version == tag.version)
            .map(|status| status.phase);
        match phase {
            Some(ImagePullPhase::Succeeded) => Class::Succeeded,
            Some(ImagePullPhase::Failed) => Class::Failed,
            _ => {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                let stale = self.agreed_policy(tag, name).is_some() || !missing(image, secrets).is_empty();
                Class::Active { stale }
            }
        }
    }

    /// The limits that an entry of this job should have, if it has others. A job that shares an entry only extends
    /// them; one that is alone sets them.
    fn agreed_policy(&self, tag: &ImageTagSpec, node: &str) -> Option<ImageTagPullPolicy> {
        let alone = tag.owner_references.as_ref().is_none_or(|owners| owners.len() < 2) && self.owns(tag);
        let mine = self.policy(node);
        let wanted = match (&tag.pull_policy, alone) {
            (Some(theirs), false) => extended(theirs, &mine),
            _ => mine,
        };
        (tag.pull_policy.as_ref() != Some(&wanted)).then_some(wanted)
    }

    /// The image's entry with the task in it; `None` if it is there already.
    pub fn put(&self, node: &NodeImage, secrets: &[PullSecret], now: Timestamp) -> Option<ImageSpec> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let old = node.spec.images.as_ref().and_then(|images| images.get(&self.image));
        let mut image = old.cloned().unwrap_or_default();
        let version = status_of(node, &self.image, &self.tag).map_or(-1, |status| status.version);
        let mut changed = false;
        if let Some(tag) = image.tags.iter_mut().find(|tag| tag.tag == self.tag) {
            if let Some(policy) = self.agreed_policy(tag, name) {
                tag.pull_policy = Some(policy);
                changed = true;
            }
            if !self.owns(tag) {
                tag.version = tag.version.saturating_add(1);
                tag.owner_references.get_or_insert_default().push(self.owner.clone());
                tag.created_at = Some(whole_seconds(now));
                tag.image_pull_policy.clone_from(&self.image_pull_policy);
                changed = true;
            }
        } else {
            image.tags.push(ImageTagSpec {
                tag: self.tag.clone(),
                created_at: Some(whole_seconds(now)),
                pull_policy: Some(self.policy(name)),
                owner_references: Some(vec![self.owner.clone()]),
                version: version.saturating_add(1),
                image_pull_policy: self.image_pull_policy.clone(),
            });
            changed = true;
        }
        let lacking = missing(&image, secrets);
        if !lacking.is_empty() {
            image.pull_secrets.get_or_insert_default().extend(lacking);
            changed = true;
        }
        if !changed {
            return None;
        }
        image.sandbox_config.clone_from(&self.sandbox);
        image.tags.sort_by(|a, b| a.tag.cmp(&b.tag));
        Some(image)
    }
}

/// The job as it stands in `NodeImage`s.
pub fn owner(job: &ImagePullJob) -> ObjectReference {
    ObjectReference {
        api_version: Some(kruise_api::V1BETA1.to_owned()),
        kind: Some(KIND.to_owned()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// What the agent tells of a tag.
pub fn status_of<'a>(node: &'a NodeImage, image: &str, tag: &str) -> Option<&'a ImageTagStatus> {
    let images = node.status.as_ref()?.image_statuses.as_ref()?;
    images.get(image)?.tags.iter().find(|status| status.tag == tag)
}

fn missing(image: &ImageSpec, secrets: &[PullSecret]) -> Vec<PullSecret> {
    let same = |a: &PullSecret, b: &PullSecret| a.namespace == b.namespace && a.name == b.name;
    let has = |wanted: &PullSecret| image.pull_secrets.iter().flatten().any(|have| same(have, wanted));
    secrets.iter().filter(|secret| !has(secret)).cloned().collect()
}

/// The larger of each limit; without a deadline there is none.
fn extended(a: &ImageTagPullPolicy, b: &ImageTagPullPolicy) -> ImageTagPullPolicy {
    let deadline = match (a.active_deadline_seconds, b.active_deadline_seconds) {
        (Some(a), Some(b)) => Some(a.max(b)),
        _ => None,
    };
    ImageTagPullPolicy {
        timeout_seconds: a.timeout_seconds.max(b.timeout_seconds),
        backoff_limit: a.backoff_limit.max(b.backoff_limit),
        ttl_seconds_after_finished: a.ttl_seconds_after_finished.max(b.ttl_seconds_after_finished),
        active_deadline_seconds: deadline,
    }
}

fn int32(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn job(uid: &str, spec: Value) -> ImagePullJob {
        let mut spec = spec;
        spec.as_object_mut().unwrap().entry("completionPolicy").or_insert(json!({"type": "Always"}));
        serde_json::from_value(json!({
            "apiVersion": "apps.kruise.io/v1beta1", "kind": "ImagePullJob",
            "metadata": {"name": uid, "namespace": "shop", "uid": uid}, "spec": spec,
        }))
        .unwrap()
    }

    fn task(uid: &str, spec: Value) -> Task {
        Task::of(&job(uid, spec), 300).unwrap()
    }

    fn node(spec: Value, status: Value) -> NodeImage {
        serde_json::from_value(json!({
            "apiVersion": "apps.kruise.io/v1beta1", "kind": "NodeImage", "metadata": {"name": "node-1"},
            "spec": spec, "status": status,
        }))
        .unwrap()
    }

    fn bare() -> NodeImage {
        node(json!({}), json!({"desired": 0, "succeeded": 0, "failed": 0, "pulling": 0}))
    }

    fn with(node: &NodeImage, task: &Task, image: ImageSpec) -> NodeImage {
        let mut node = node.clone();
        node.spec.images.get_or_insert_default().insert(task.image.clone(), image);
        node
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_new_task_is_an_entry_with_an_owner_and_the_first_version() {
        let task = task("a", json!({"image": "nginx:1", "imagePullPolicy": "Always"}));
        let image = task.put(&bare(), &[], NOW).unwrap();
        let tag = &image.tags[0];
        assert_eq!((task.image.as_str(), tag.tag.as_str(), tag.version), ("nginx", "1", 0));
        assert_eq!(tag.image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(tag.owner_references.as_ref().unwrap()[0].uid.as_deref(), Some("a"));
        let node = with(&bare(), &task, image);
        assert_eq!(task.class(&node, &[]), Class::Active { stale: false });
        assert_eq!(task.put(&node, &[], NOW), None, "it is there already");
    }

    #[test]
    fn a_digest_is_filed_as_a_tag() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let task = task("a", json!({"image": format!("localhost:5000/x:v1@{digest}")}));
        assert_eq!((task.image.as_str(), task.tag), ("localhost:5000/x", digest));
    }

    #[test]
    fn an_entry_that_comes_back_takes_the_version_after_the_last_one_reported() {
        let status = json!({"desired": 0, "succeeded": 0, "failed": 0, "pulling": 0, "imageStatuses":
            {"nginx": {"tags": [{"tag": "1", "phase": "Succeeded", "version": 4}]}}});
        let task = task("a", json!({"image": "nginx:1"}));
        let image = task.put(&node(json!({}), status.clone()), &[], NOW).unwrap();
        assert_eq!(image.tags[0].version, 5);
        let node = with(&node(json!({}), status), &task, image);
        assert_eq!(task.class(&node, &[]), Class::Active { stale: false }, "the old report does not count");
    }

    #[test]
    fn a_second_job_shares_the_entry_bumps_its_version_and_extends_its_limits() {
        let first =
            task("a", json!({"image": "nginx:1", "pullPolicy": {"timeoutSeconds": 60, "backoffLimit": 9}}));
        let second =
            task("b", json!({"image": "nginx:1", "pullPolicy": {"timeoutSeconds": 90, "backoffLimit": 1}}));
        let one = with(&bare(), &first, first.put(&bare(), &[], NOW).unwrap());
        let later = NOW + jiff::Span::new().seconds(9);
        let image = second.put(&one, &[], later).unwrap();
        let tag = &image.tags[0];
        assert_eq!((tag.version, tag.owner_references.as_ref().unwrap().len()), (1, 2));
        assert_eq!(tag.created_at, Some(Time(later)));
        let policy = tag.pull_policy.clone().unwrap();
        assert_eq!((policy.timeout_seconds, policy.backoff_limit), (Some(90), Some(9)));
        let both = with(&one, &first, image);
        for task in [&first, &second] {
            assert_eq!(task.class(&both, &[]), Class::Active { stale: false }, "both agree on it");
            assert_eq!(task.put(&both, &[], later), None);
        }
    }

    #[test]
    fn an_edit_of_the_limits_reaches_a_running_pull_without_a_new_version() {
        let old = task("a", json!({"image": "nginx:1"}));
        let node = with(&bare(), &old, old.put(&bare(), &[], NOW).unwrap());
        let new = task("a", json!({"image": "nginx:1", "pullPolicy": {"timeoutSeconds": 7}}));
        assert_eq!(new.class(&node, &[]), Class::Active { stale: true });
        let image = new.put(&node, &[], NOW).unwrap();
        assert_eq!(image.tags[0].version, 0);
        assert_eq!(image.tags[0].pull_policy.as_ref().unwrap().timeout_seconds, Some(7));
    }

    #[test]
    fn a_secret_that_is_missing_is_added_and_the_rest_is_kept() {
        let task = task("a", json!({"image": "nginx:1"}));
        let node = with(&bare(), &task, task.put(&bare(), &[], NOW).unwrap());
        let secret =
            PullSecret { namespace: Some("d".into()), name: Some("s".into()), mode: Some("batch".into()) };
        let secrets = [secret.clone()];
        assert_eq!(task.class(&node, &secrets), Class::Active { stale: true });
        let image = task.put(&node, &secrets, NOW).unwrap();
        assert_eq!((image.pull_secrets.clone(), image.tags[0].version), (Some(vec![secret]), 0));
        assert_eq!(task.class(&with(&node, &task, image), &secrets), Class::Active { stale: false });
    }

    #[test]
    fn only_a_report_of_the_same_version_counts() {
        let task = task("a", json!({"image": "nginx:1"}));
        let reported = |phase: &str, version: i64| {
            let mut node = with(&bare(), &task, task.put(&bare(), &[], NOW).unwrap());
            node.status =
                serde_json::from_value(json!({"desired": 1, "succeeded": 0, "failed": 0, "pulling": 0,
                "imageStatuses": {"nginx": {"tags": [{"tag": "1", "phase": phase, "version": version}]}}}))
                .unwrap();
            task.class(&node, &[])
        };
        assert_eq!(reported("Succeeded", 0), Class::Succeeded);
        assert_eq!(reported("Failed", 0), Class::Failed);
        assert_eq!(reported("Succeeded", 1), Class::Active { stale: false });
        assert_eq!(reported("Pulling", 0), Class::Active { stale: false });
    }

    #[test]
    fn entries_are_kept_for_the_documented_times() {
        let policy = |completion: Value, pull: Value| {
            task("a", json!({"image": "x", "completionPolicy": completion, "pullPolicy": pull}))
        };
        let none = json!({});
        let range = |task: &Task| (task.ttl.least, task.ttl.least + task.ttl.spread - 1, task.deadline);
        assert_eq!(
            range(&policy(json!({"type": "Always", "ttlSecondsAfterFinished": 30}), none.clone())),
            (330, 629, None)
        );
        assert_eq!(
            range(&policy(json!({"type": "Always", "activeDeadlineSeconds": 900}), none.clone())),
            (1200, 1499, Some(900))
        );
        assert_eq!(range(&policy(json!({}), none.clone())), (2100, 2399, None));
        let never = json!({"type": "Never"});
        assert_eq!(
            range(&policy(never.clone(), json!({"timeoutSeconds": 300, "backoffLimit": 1}))),
            (85800, 86999, Some(1800))
        );
        assert_eq!(
            range(&policy(never, none)),
            (85800, 86999, Some(2400)),
            "every attempt may take its time"
        );
        let huge = json!({"timeoutSeconds": i32::MAX, "backoffLimit": i32::MAX});
        let node = policy(json!({}), huge).policy("node-1");
        assert_eq!(node.ttl_seconds_after_finished, Some(i32::MAX), "nothing overflows");
    }
}
