//! Everything one round may know: read from the stores, checked once, defaults filled in. Nothing here waits.

use std::sync::Arc;

use jiff::Timestamp;
use kruise_api::broadcastjob::{BroadcastJobSpec, BroadcastJobStatus, COMPLETE, FAILED};
use kruise_api::keys;
use kruise_common::counts::{IntOrPercent, Round};
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::placement::Placement;
use kruise_common::pod::PodView;
use kruise_runtime::nodes::NodeView;

use crate::stores::{JobView, Stores};

/// When a job is finished.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Completion {
    /// Once the pods of all nodes have ended.
    Always {
        /// Seconds from its start after which it has failed.
        deadline: Option<i64>,
        /// Seconds after which it is deleted once it is finished.
        ttl: Option<i32>,
    },
    /// Never: it serves nodes that join later as well.
    Never,
}

/// What a failed pod means for the others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailurePolicy {
    /// Nothing.
    Continue,
    /// The job has failed.
    FailFast,
    /// Nothing is created or deleted until someone has looked at it.
    Pause,
}

/// A job's spec with defaults applied, apart from the pod template.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Most active pods at once; `None` is unlimited.
    pub parallelism: Option<IntOrPercent>,
    /// When it is finished.
    pub completion: Completion,
    /// What a failed pod means.
    pub failure_policy: FailurePolicy,
    /// A pod with restart policy OnFailure and more restarts than this counts as failed.
    pub restart_limit: i32,
    /// Nothing is created or deleted.
    pub paused: bool,
}

impl Settings {
    /// Reads a spec. Unknown policies read as what the reference takes them for.
    ///
    /// # Errors
    /// What only the user can mend.
    pub fn of(spec: &BroadcastJobSpec) -> Result<Self, String> {
        let completion = spec.completion_policy.clone().unwrap_or_default();
        let failure = spec.failure_policy.clone().unwrap_or_default();
        let parallelism = spec.parallelism.as_ref().map(IntOrPercent::parse).transpose();
        Ok(Self {
            parallelism: parallelism.map_err(|error| format!("spec.parallelism: {error}"))?,
            completion: match completion.type_.as_deref() {
                Some("Never") => Completion::Never,
                _ => Completion::Always {
                    deadline: completion.active_deadline_seconds,
                    ttl: completion.ttl_seconds_after_finished,
                },
            },
            failure_policy: match failure.type_.as_deref() {
                None | Some("" | "FailFast") => FailurePolicy::FailFast,
                Some("Pause") => FailurePolicy::Pause,
                Some(_) => FailurePolicy::Continue,
            },
            restart_limit: failure.restart_limit.unwrap_or_default(),
            paused: spec.paused.unwrap_or_default(),
        })
    }

    /// Most active pods at once, if so many nodes are to run one.
    pub fn limit(&self, desired: usize) -> usize {
        let desired = i32::try_from(desired).unwrap_or(i32::MAX);
        let limit = self.parallelism.map_or(i32::MAX, |limit| limit.resolve(desired, Round::Up));
        usize::try_from(limit).unwrap_or(0)
    }
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Not looked at yet.
    New,
    /// Under way.
    Running,
    /// Held.
    Paused,
    /// Every node is done.
    Completed,
    /// Given up.
    Failed,
}

impl Phase {
    /// Reads the word on the wire; an unknown one reads as `Running`.
    pub fn parse(text: &str) -> Self {
        match text {
            "" => Self::New,
            "paused" => Self::Paused,
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            _ => Self::Running,
        }
    }

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

/// One consistent view of a job, its pods and the nodes.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// Is being deleted.
    pub terminating: bool,
    /// The spec, defaults applied.
    pub settings: Settings,
    /// Where pods of the template may run.
    pub placement: Placement,
    /// All nodes, by name.
    pub nodes: Vec<Arc<NodeView>>,
    /// Its pods, by name.
    pub pods: Vec<Arc<PodView>>,
    /// The phase published last.
    pub phase: Phase,
    /// The status published last.
    pub status: BroadcastJobStatus,
    /// The time of this round.
    pub now: Timestamp,
}

impl Observed {
    /// The job has ended, and stays so.
    pub fn is_over(&self) -> bool {
        let finished = self.status.is(COMPLETE) || self.status.is(FAILED);
        (finished && self.settings.completion != Completion::Never) || self.phase == Phase::Failed
    }

    /// When it was first looked at: now, if it was not.
    pub fn started(&self) -> Timestamp {
        self.status.start_time.as_ref().map_or(self.now, |time| time.0)
    }
}

/// Reads the stores.
///
/// # Errors
/// What is wrong with the spec: nothing can be done for the job until a user mends it.
pub fn observe(job: &JobView, stores: &Stores, now: Timestamp) -> Result<Observed, String> {
    let settings = Settings::of(&job.object.spec)?;
    let placement = Placement::of_template(&job.object.spec.template.read())?;
    let mut nodes = stores.nodes.all();
    nodes.sort_unstable_by(|a, b| a.key.name.cmp(&b.key.name));
    let status = job.object.status.clone().unwrap_or_default();
    Ok(Observed {
        key: job.key.clone(),
        uid: job.uid.clone(),
        terminating: job.object.metadata.deletion_timestamp.is_some(),
        settings,
        placement,
        nodes,
        pods: pods(job, stores),
        phase: Phase::parse(status.phase.as_deref().unwrap_or_default()),
        status,
        now,
    })
}

/// The pods of a job: those with its labels that it controls. Nothing is adopted, and nothing released.
pub fn pods(job: &JobView, stores: &Stores) -> Vec<Arc<PodView>> {
    let mut pods = stores.pods.owned_by(&job.uid);
    pods.retain(|pod| {
        pod.label(keys::BROADCASTJOB_UID) == Some(&*job.uid.0)
            && pod.label(keys::BROADCASTJOB_NAME) == Some(&*job.key.name)
            && pod.controller().is_some_and(|owner| owner.uid == job.uid)
    });
    pods
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settings(spec: Value) -> Result<Settings, String> {
        let mut spec = spec;
        spec["template"] = json!({});
        Settings::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn what_is_unset_has_its_default_and_what_is_unknown_the_meaning_it_always_had() {
        let plain = Settings {
            parallelism: None,
            completion: Completion::Always { deadline: None, ttl: None },
            failure_policy: FailurePolicy::FailFast,
            restart_limit: 0,
            paused: false,
        };
        assert_eq!(settings(json!({})), Ok(plain));
        assert_eq!(settings(json!({"completionPolicy": {"type": "Sometimes"}})), Ok(plain));
        let lax = Settings { failure_policy: FailurePolicy::Continue, ..plain };
        assert_eq!(settings(json!({"failurePolicy": {"type": "Shrug"}})), Ok(lax));
        let never = Settings { completion: Completion::Never, ..plain };
        assert_eq!(
            settings(json!({"completionPolicy": {"type": "Never", "ttlSecondsAfterFinished": 3}})),
            Ok(never)
        );
    }

    #[test]
    fn a_percentage_of_the_nodes_is_rounded_up() {
        for (parallelism, desired, limit) in [
            (json!("50%"), 3, 2),
            (json!("1%"), 3, 1),
            (json!("0%"), 3, 0),
            (json!("100%"), 3, 3),
            (json!(2), 3, 2),
            (json!(0), 3, 0),
            (json!(-1), 3, 0),
            (json!(2_147_483_647), 3, 2_147_483_647),
            (Value::Null, 3, 2_147_483_647),
        ] {
            let settings = settings(json!({"parallelism": parallelism})).unwrap();
            assert_eq!(settings.limit(desired), limit, "{parallelism}");
        }
        assert!(settings(json!({"parallelism": "abc"})).unwrap_err().starts_with("spec.parallelism: "));
    }

    #[test]
    fn phases_are_read_as_they_are_written() {
        for phase in [Phase::New, Phase::Running, Phase::Paused, Phase::Completed, Phase::Failed] {
            assert_eq!(Phase::parse(phase.as_str()), phase);
        }
    }
}
