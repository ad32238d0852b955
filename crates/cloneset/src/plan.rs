//! What one round does: a function from everything seen to everything to be done.

pub mod diff;
mod scale;
mod update;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kruise_api::keys::{CONTROLLER_REVISION_HASH, INSTANCE_ID};
use kruise_common::inplace::{InPlaceOptions, Started};
use kruise_common::key::ObjectKey;
use kruise_common::lifecycle::{self, LifecycleState, is_specified_delete};
use kruise_common::patch::{PodEndpoint, PodPatch};
use kruise_common::pod::PodView;
use kruise_common::revision::{self, Revision, same_revision};

use crate::observed::{ClaimView, Observed};
use diff::{Class, Diff, Inputs};

/// Feature gates and flags a plan depends on.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Gate CloneSetShortHash: the revision label holds only the hash.
    pub short_hash: bool,
    /// Gate CloneSetPartitionRollback.
    pub partition_rollback: bool,
    /// Gate PreparingUpdateAsUpdate.
    pub preparing_update_as_update: bool,
    /// Flag `--cloneset-scaling-exclude-preparing-delete`.
    pub exclude_preparing_delete: bool,
    /// How in-place updates work.
    pub in_place: InPlaceOptions,
}

/// Why something is done to a pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Because {
    /// There are more pods than wanted.
    ScaleIn,
    /// It is marked for deletion by label or by `podsToDelete`.
    SpecifiedDelete,
    /// Its `preDelete` hook let go of it.
    HookReleased,
    /// It was to be deleted and is wanted again.
    Regret,
    /// It is to be updated and a hook holds it.
    PreparingUpdate,
    /// Its state moved on.
    Refresh,
}

/// One thing to do.
#[expect(clippy::large_enum_variant, reason = "a plan holds few actions, and most of them are patches")]
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create a pod and its claims.
    Create {
        /// Name of the pod.
        name: String,
        /// Instance id of the pod and its claims.
        id: String,
        /// Whose template it gets.
        revision: Arc<Revision>,
        /// True for the update revision.
        update: bool,
    },
    /// Delete a pod, then its claims.
    Delete {
        /// The pod.
        pod: Arc<PodView>,
        /// Its claims.
        claims: Vec<ObjectKey>,
        /// Why.
        because: Because,
    },
    /// Patch a pod without updating it.
    Patch {
        /// The pod.
        pod: Arc<PodView>,
        /// Where to.
        endpoint: PodEndpoint,
        /// What.
        patch: PodPatch,
        /// Why.
        because: Because,
    },
    /// Change a pod while it runs.
    UpdateInPlace {
        /// The pod.
        pod: Arc<PodView>,
        /// The writes.
        started: Started,
        /// Where it goes.
        revision: Arc<Revision>,
    },
    /// Mark a pod for deletion, so that it comes back at a revision.
    MarkForRecreate {
        /// The pod.
        pod: Arc<PodView>,
        /// Where it goes.
        revision: Arc<Revision>,
    },
    /// Drop the set's owner reference from a pod that it no longer selects.
    ReleasePod {
        /// The pod.
        pod: Arc<PodView>,
    },
    /// Make a pod the owner of a claim, so that both go together.
    HandClaimToPod {
        /// The claim.
        claim: Arc<ClaimView>,
        /// The pod.
        pod: Arc<PodView>,
    },
    /// Delete a claim that no pod uses.
    DeleteClaim {
        /// The claim.
        claim: Arc<ClaimView>,
    },
    /// Remove names of pods that are gone from `podsToDelete`.
    PrunePodsToDelete {
        /// Names to remove.
        names: Vec<String>,
    },
    /// Delete a revision beyond the history limit.
    DeleteRevision {
        /// The revision.
        revision: Arc<Revision>,
    },
}

/// Why something waits.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum HoldReason {
    /// `maxUnavailable` is used up.
    MaxUnavailable,
    /// `scaleStrategy.maxUnavailable` is used up.
    ScaleMaxUnavailable,
    /// The set is paused.
    Paused,
    /// The partition keeps pods at the current revision.
    Partition,
    /// A lifecycle hook holds the pods.
    LifecycleHook,
    /// The pods are in their grace period.
    GracePeriod,
    /// The policy is InPlaceOnly and the change is not possible in place.
    InPlaceOnly,
    /// A disruption budget refused.
    BudgetDenied,
    /// The pods are in a state which allows no update.
    NotAllowed,
    /// The annotations of an in-place update cannot be understood.
    BrokenState,
    /// No unused instance id was found.
    NoInstanceId,
}

impl HoldReason {
    /// The name users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxUnavailable => "MaxUnavailable",
            Self::ScaleMaxUnavailable => "ScaleMaxUnavailable",
            Self::Paused => "Paused",
            Self::Partition => "Partition",
            Self::LifecycleHook => "LifecycleHook",
            Self::GracePeriod => "GracePeriod",
            Self::InPlaceOnly => "InPlaceOnly",
            Self::BudgetDenied => "BudgetDenied",
            Self::NotAllowed => "NotAllowed",
            Self::BrokenState => "BrokenState",
            Self::NoInstanceId => "NoInstanceId",
        }
    }
}

/// Something that waits, and for what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hold {
    /// Why.
    pub reason: HoldReason,
    /// The setting that holds, such as `maxUnavailable 1`, or why it does; empty if there is none.
    pub setting: String,
    /// How many pods wait: also pods that do not exist yet.
    pub count: usize,
    /// Names of the pods that wait, sorted.
    pub waiting: Vec<Arc<str>>,
    /// Pods that use up what is waited for, and what is wrong with them.
    pub blockers: Vec<(Arc<str>, String)>,
}

impl Hold {
    /// One sentence for users.
    pub fn message(&self) -> String {
        let (pods, wait) = if self.count == 1 { ("pod", "waits") } else { ("pods", "wait") };
        let mut text = format!("{} {pods} {wait}: ", self.count);
        match self.reason {
            HoldReason::MaxUnavailable | HoldReason::ScaleMaxUnavailable => {
                text.push_str(&self.setting);
                if self.blockers.is_empty() {
                    text.push_str(" allows no more");
                } else {
                    text.push_str(" is used up by ");
                    text.push_str(&self.listed_blockers());
                }
            }
            HoldReason::Paused => text.push_str("the update is paused"),
            HoldReason::Partition => {
                text.push_str(&self.setting);
                text.push_str(" keeps them at the current revision");
            }
            HoldReason::LifecycleHook => {
                text.push_str("a lifecycle hook holds ");
                text.push_str(&listed(self.waiting.iter().map(ToString::to_string)));
            }
            HoldReason::GracePeriod => text.push_str("their grace period has not passed"),
            HoldReason::InPlaceOnly => {
                text.push_str("the change is not possible in place (");
                text.push_str(&self.setting);
                text.push_str("), and the policy is InPlaceOnly");
            }
            HoldReason::BudgetDenied => text.push_str(&self.setting),
            HoldReason::NotAllowed => text.push_str("their lifecycle state allows no update"),
            HoldReason::BrokenState => text.push_str(&self.listed_blockers()),
            HoldReason::NoInstanceId => text.push_str("no unused instance id was found"),
        }
        text
    }

    fn listed_blockers(&self) -> String {
        listed(
            self.blockers.iter().map(
                |(pod, why)| {
                    if why.is_empty() { pod.to_string() } else { format!("{pod}, {why}") }
                },
            ),
        )
    }
}

/// At most three entries, then how many more there are.
fn listed(entries: impl ExactSizeIterator<Item = String>) -> String {
    const SHOWN: usize = 3;
    let more = entries.len().saturating_sub(SHOWN);
    let text = entries.take(SHOWN).collect::<Vec<_>>().join("; ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}

/// What to do now, what is held back and why, and when to look again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Actions, in order; those on different pods do not depend on each other.
    pub actions: Vec<Action>,
    /// What waits.
    pub held: Vec<Hold>,
    /// When time alone may change the answer.
    pub wake_in: Option<Duration>,
}

impl Plan {
    pub(crate) fn hold(&mut self, hold: Hold) {
        if hold.count > 0 {
            self.held.push(hold);
        }
    }

    pub(crate) fn wake(&mut self, after: Duration) {
        let after = after.max(Duration::from_millis(1));
        self.wake_in = Some(self.wake_in.map_or(after, |earlier| earlier.min(after)));
    }
}

/// A pod and what is decided from it once per round.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) pod: Arc<PodView>,
    /// At the update revision by its label.
    pub(crate) updated: bool,
    pub(crate) state: LifecycleState,
    /// Marked by label or by `podsToDelete`.
    pub(crate) specified: bool,
    pub(crate) ready: bool,
    /// Ready for long enough, and its lifecycle state is normal.
    pub(crate) available: bool,
    /// Something is done to it in this round, so nothing else is.
    pub(crate) touched: bool,
}

impl Row {
    fn of(seen: &Observed, pod: &Arc<PodView>) -> Self {
        let state = LifecycleState::of(pod);
        Self {
            pod: pod.clone(),
            updated: at_revision(pod, &seen.update_revision),
            specified: is_specified_delete(pod) || seen.settings.pods_to_delete.contains(&pod.key.name),
            ready: lifecycle::is_available(pod, 0, seen.now),
            available: lifecycle::is_available(pod, seen.settings.min_ready_seconds, seen.now),
            state,
            touched: false,
        }
    }

    /// New as far as scaling is concerned.
    pub(crate) fn counts_as_new(&self, options: &Options) -> bool {
        self.updated || (options.preparing_update_as_update && self.state == LifecycleState::PreparingUpdate)
    }
}

/// True if the pod's revision label names the revision, in its long or its short form.
pub(crate) fn at_revision(pod: &PodView, revision: &Revision) -> bool {
    pod.label(CONTROLLER_REVISION_HASH).is_some_and(|label| same_revision(label, revision.name()))
}

/// What is done now to bring the set to its spec.
///
/// `ids` yields candidates for instance ids; those in use are skipped.
pub fn plan(seen: &Observed, options: &Options, ids: &mut dyn FnMut() -> String) -> Plan {
    let mut plan = Plan::default();
    if seen.terminating {
        return plan;
    }
    let mut rows: Vec<Row> = seen.pods.iter().map(|pod| Row::of(seen, pod)).collect();
    rows.sort_by(|a, b| a.pod.key.cmp(&b.pod.key));

    release(seen, &mut plan);
    if !seen.settings.reuse_claims {
        claims(seen, &mut plan);
    }
    let settled = plan.actions.len();
    scale::plan(seen, options, &mut rows, ids, &mut plan);
    let scaled = plan.actions.len() > settled;
    update::refresh(seen, options, &mut rows, &mut plan);
    if !scaled {
        update::plan(seen, options, &mut rows, &mut plan);
    }
    prune(seen, &mut plan);
    wake_when_available(seen, &rows, &mut plan);
    plan
}

/// Pods that no longer match are let go; without reuse their claims go with them.
fn release(seen: &Observed, plan: &mut Plan) {
    for pod in sorted(&seen.unselected) {
        // The set knows a pod it has let go no more: a claim that is still its own then would be deleted under it.
        if seen.settings.reuse_claims || !hand_over(seen, &pod, plan) {
            plan.actions.push(Action::ReleasePod { pod });
        }
    }
}

/// Tells whether there is something to hand over.
fn hand_over(seen: &Observed, pod: &Arc<PodView>, plan: &mut Plan) -> bool {
    let before = plan.actions.len();
    for claim in own_claims(seen) {
        if instance_id(seen, pod) == Some(&*claim.instance_id) {
            plan.actions.push(Action::HandClaimToPod { claim: claim.clone(), pod: pod.clone() });
        }
    }
    plan.actions.len() > before
}

/// Without reuse a claim goes with its pod, or, if there is none any more, now.
fn claims(seen: &Observed, plan: &mut Plan) {
    let active: BTreeSet<&str> =
        seen.pods.iter().chain(&seen.unselected).filter_map(|pod| instance_id(seen, pod)).collect();
    let others = sorted(&seen.others);
    for claim in own_claims(seen) {
        if active.contains(&*claim.instance_id) {
            continue;
        }
        match others.iter().find(|pod| instance_id(seen, pod) == Some(&*claim.instance_id)) {
            Some(pod) => {
                plan.actions.push(Action::HandClaimToPod { claim: claim.clone(), pod: pod.clone() });
            }
            None => plan.actions.push(Action::DeleteClaim { claim: claim.clone() }),
        }
    }
}

/// Claims the set controls and that are not going away, by name.
fn own_claims(seen: &Observed) -> Vec<&Arc<ClaimView>> {
    let mut claims: Vec<_> =
        seen.claims.iter().filter(|claim| claim.owned_by_set && !claim.terminating).collect();
    claims.sort_by(|a, b| a.key.cmp(&b.key));
    claims
}

/// The id of a pod: its label, or else the end of its name.
pub(crate) fn instance_id<'a>(seen: &Observed, pod: &'a PodView) -> Option<&'a str> {
    pod.label(INSTANCE_ID).or_else(|| pod.name().strip_prefix(&*seen.key.name)?.strip_prefix('-'))
}

fn sorted(pods: &[Arc<PodView>]) -> Vec<Arc<PodView>> {
    let mut pods = pods.to_vec();
    pods.sort_by(|a, b| a.key.cmp(&b.key));
    pods
}

/// Names in `podsToDelete` of pods that are gone, and revisions beyond the limit.
fn prune(seen: &Observed, plan: &mut Plan) {
    let alive: BTreeSet<&str> = seen.pods.iter().map(|pod| pod.name()).collect();
    let names: Vec<String> = seen
        .settings
        .pods_to_delete
        .iter()
        .filter(|name| !alive.contains(&***name))
        .map(ToString::to_string)
        .collect();
    if !names.is_empty() {
        plan.actions.push(Action::PrunePodsToDelete { names });
    }
    let live = |revision: &Revision| {
        // One that nobody controls may be used, and is not ours to delete.
        revision.controller.as_ref() != Some(&seen.uid)
            || revision.name() == seen.update_revision.name()
            || revision.name() == seen.current_revision.name()
            || seen.pods.iter().any(|pod| at_revision(pod, revision))
    };
    let limit = seen.settings.history_limit.max(0) as usize;
    let dead = revision::to_delete(&seen.revisions, &live, limit);
    plan.actions.extend(dead.into_iter().map(|revision| Action::DeleteRevision { revision }));
}

/// Time alone makes a Ready pod available: look again when the first of them is.
fn wake_when_available(seen: &Observed, rows: &[Row], plan: &mut Plan) {
    let wait = i64::from(seen.settings.min_ready_seconds);
    if wait <= 0 {
        return;
    }
    for row in rows.iter().filter(|row| row.ready && !row.available && row.state == LifecycleState::Normal) {
        let Some(since) = row.pod.ready_since() else { continue };
        let passed = seen.now.duration_since(since).as_millis();
        let left = i128::from(wait) * 1000 - passed + 1;
        plan.wake(Duration::from_millis(left.clamp(1, i128::from(i64::MAX)) as u64));
    }
}

/// Counts for the arithmetic.
pub(crate) fn difference(seen: &Observed, options: &Options, rows: &[Row], scaling: bool) -> Diff {
    let (mut new, mut old) = (Class::default(), Class::default());
    for row in rows {
        let class = if row.updated || (scaling && row.counts_as_new(options)) { &mut new } else { &mut old };
        class.total += 1;
        if row.state == LifecycleState::PreparingDelete {
            class.preparing_delete += 1;
        } else if row.specified {
            class.to_delete += 1;
        } else if !row.available {
            class.unavailable += 1;
        }
    }
    Diff::of(&Inputs {
        limits: seen.settings.limits(),
        new,
        old,
        rollback: options.partition_rollback
            && !same_revision(seen.current_revision.name(), seen.update_revision.name()),
        exclude_preparing_delete: excludes_preparing_delete(seen, options),
    })
}

pub(crate) fn excludes_preparing_delete(seen: &Observed, options: &Options) -> bool {
    seen.settings.exclude_preparing_delete || options.exclude_preparing_delete
}

/// Pods that use up a budget, and what is wrong with each.
pub(crate) fn blockers(rows: &[Row]) -> Vec<(Arc<str>, String)> {
    let mut blockers: Vec<_> = rows
        .iter()
        .filter(|row| !row.available)
        .map(|row| (row.pod.key.name.clone(), trouble(row)))
        .collect();
    // Those that will not recover by themselves first: they are what a user looks for.
    blockers.sort_by_key(|(_, why)| !why.starts_with(char::is_uppercase));
    blockers
}

/// Why a pod is not available, in a word or two.
pub(crate) fn trouble(row: &Row) -> String {
    if let Some(status) = row.pod.statuses.iter().find(|status| is_trouble(&status.waiting)) {
        return status.waiting.to_string();
    }
    if row.state != LifecycleState::Normal {
        return row.state.as_str().to_owned();
    }
    if row.pod.node.is_none() {
        return "not scheduled".to_owned();
    }
    if row.ready { "not yet available".to_owned() } else { "not ready".to_owned() }
}

/// A waiting reason that does not pass by itself.
pub(crate) fn is_trouble(reason: &str) -> bool {
    !matches!(reason, "" | "ContainerCreating" | "PodInitializing")
}

#[cfg(test)]
mod tests;
