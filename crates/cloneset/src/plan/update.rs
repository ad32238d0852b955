//! The update stage: what pods do by themselves, and which pods move to another revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use kruise_api::keys::{CONTROLLER_REVISION_HASH, LIFECYCLE_STATE, POD_TEMPLATE_HASH};
use kruise_common::inplace::{self, InPlaceOptions, Refresh, Started, UpdateSpec, is_in_grace};
use kruise_common::lifecycle::{self, LifecycleState, set_state};
use kruise_common::patch::{PodEndpoint, PodPatch};
use kruise_common::pod::PodView;
use kruise_common::readiness::{
    LIFECYCLE_AGENT, PRE_UPDATE_KEY, add_not_ready_key, first_true, in_place_ready, remove_not_ready_key,
};
use kruise_common::revision::{Revision, short_hash};

use super::{Action, Because, Hold, HoldReason, Options, Plan, Row};
use super::{at_revision, blockers, difference};
use crate::observed::{Observed, PodUpdatePolicy};

/// Lets every pod take the steps it takes by itself, also in a paused set: one write per pod.
pub(super) fn refresh(seen: &Observed, options: &Options, rows: &mut [Row], plan: &mut Plan) {
    let update = difference(seen, options, rows, false).update;
    let target = target(seen, update).clone();
    // Where nothing is to be updated, no pod waits for an update: one whose turn was taken back returns.
    let idle = update == 0 || seen.settings.on_delete;
    let mut graceful = Vec::new();
    for row in rows.iter_mut().filter(|row| !row.touched) {
        if is_in_grace(&row.pod) {
            graceful.push(row.pod.key.name.clone());
        }
        let arrived = idle || at_revision(&row.pod, &target);
        refresh_pod(seen, options, row, arrived, plan);
    }
    plan.hold(hold(HoldReason::GracePeriod, graceful));
}

fn refresh_pod(seen: &Observed, options: &Options, row: &mut Row, arrived: bool, plan: &mut Plan) {
    let pod = row.pod.clone();
    let mut patch = PodPatch::default();
    // Nobody can serve from a pod without a node: its first conditions wait, so that they cost no write of their own.
    let scheduled = pod.node.is_some();
    match inplace::refresh(&pod, CONTROLLER_REVISION_HASH, seen.now) {
        Refresh::Nothing => {}
        Refresh::Wait(left) => plan.wake(left),
        Refresh::BecomeReady => {
            if scheduled && let Some(ready) = in_place_ready(&pod, seen.now) {
                patch.merge(ready);
            }
        }
        Refresh::Patch(next) => {
            row.touched = true;
            push_patch(&pod, next, Because::Refresh, plan);
            return;
        }
        Refresh::PatchAndResize(mut next, resize) if options.in_place.resize_in_pod => {
            row.touched = true;
            next.merge(resize);
            push_patch(&pod, next, Because::Refresh, plan);
            return;
        }
        Refresh::PatchAndResize(next, resize) => {
            row.touched = true;
            let revision = revision_of(seen, &pod).unwrap_or(&seen.update_revision).clone();
            let started = Started { pod: next, resize: Some(resize), ..Started::default() };
            plan.actions.push(Action::UpdateInPlace { pod, started, revision });
            return;
        }
        Refresh::Broken(why) => plan.hold(Hold {
            reason: HoldReason::BrokenState,
            setting: String::new(),
            count: 1,
            waiting: vec![pod.key.name.clone()],
            blockers: vec![(pod.key.name.clone(), why)],
        }),
    }
    if scheduled && let Some(first) = first_true(&pod, seen.now) {
        patch.merge(first);
    }
    let lifecycle = seen.settings.lifecycle.as_ref();
    let complete = inplace::is_complete(&pod);
    let next = lifecycle::refresh(&pod, lifecycle, arrived, complete);
    let keys = [
        next.add_key.and_then(|key| add_not_ready_key(&pod, LIFECYCLE_AGENT, key, seen.now)),
        next.remove_key.and_then(|key| remove_not_ready_key(&pod, LIFECYCLE_AGENT, key, seen.now)),
    ];
    for key in keys.into_iter().flatten() {
        patch.merge(key);
    }
    if let Some(state) = &next.state {
        set_state(&mut patch, state, seen.now);
    }
    if let Some(revision) = pod.label(CONTROLLER_REVISION_HASH)
        && !pod.labels.contains_key(POD_TEMPLATE_HASH)
    {
        patch.set_label(POD_TEMPLATE_HASH, short_hash(revision));
    }
    if !patch.is_empty() {
        row.touched = true;
        push_patch(&pod, patch, Because::Refresh, plan);
    }
}

/// Chooses the pods that move to another revision now, within the budgets.
pub(super) fn plan(seen: &Observed, options: &Options, rows: &mut [Row], plan: &mut Plan) {
    let diff = difference(seen, options, rows, false);
    if seen.settings.on_delete {
        return;
    }
    if diff.update == 0 {
        kept_back(seen, rows, &[], plan);
        return;
    }
    if seen.settings.paused {
        let waiting = rows.iter().filter(|row| !row.updated).map(|row| row.pod.key.name.clone()).collect();
        plan.hold(hold(HoldReason::Paused, waiting));
        return;
    }
    let target = target(seen, diff.update).clone();
    let max_unavailable = diff.update_max_unavailable;
    let mut unavailable = rows.iter().filter(|row| !row.available).count() as i64;
    let mut slow = rows.iter().filter(|row| !row.available && at_revision(&row.pod, &target)).count() as i64;

    let order = candidates(seen, rows, diff.update < 0);
    let mut taken = Vec::new();
    let mut left = diff.update.unsigned_abs() as usize;
    let mut steps = Steps::new(seen, options, &target);
    let mut waiting = Vec::new();
    let mut order = order.into_iter();
    while left > 0 {
        let Some(index) = order.next() else { break };
        taken.push(index);
        let Some(row) = rows.get_mut(index) else { continue };
        let step = steps.decide(row);
        if let Step::Refused(reason) = step {
            let why = steps.why_not(&row.pod);
            steps.held.entry((reason, why)).or_default().push(row.pod.key.name.clone());
            continue;
        }
        left -= 1;
        if row.specified {
            // The scale stage deletes it within the budget, which it takes up until then if it is available. Those that
            // are not available do not wait for it, because it may wait for them.
            unavailable += i64::from(row.available);
            continue;
        }
        // Both budgets hold for the rest as well: the order is by urgency, not by size.
        // A pod that was taken out of service for its update goes on: waiting would only keep it there.
        let begun = row.state == LifecycleState::PreparingUpdate;
        let spent = slow >= max_unavailable || (row.available && unavailable >= max_unavailable);
        if !begun && (spent || !waiting.is_empty()) {
            waiting.push(row.pod.key.name.clone());
            continue;
        }
        slow += 1;
        if row.available {
            unavailable += 1;
        }
        steps.take(row, step, plan);
    }
    for ((reason, setting), pods) in steps.held {
        plan.hold(Hold { setting, ..hold(reason, pods) });
    }
    if diff.update > 0 {
        kept_back(seen, rows, &taken, plan);
    }
    waiting.sort();
    plan.hold(Hold {
        reason: HoldReason::MaxUnavailable,
        setting: format!("maxUnavailable {}", seen.settings.limits().max_unavailable),
        count: waiting.len(),
        waiting,
        blockers: blockers(rows),
    });
}

/// Pods whose turn does not come, because the partition keeps them: told apart from those that wait for a budget.
fn kept_back(seen: &Observed, rows: &[Row], taken: &[usize], plan: &mut Plan) {
    let partition = seen.settings.limits().partition;
    if partition == 0 {
        return;
    }
    let stays = |(index, row): &(usize, &Row)| !row.updated && !taken.contains(index);
    let kept = rows.iter().enumerate().filter(stays).map(|(_, row)| row.pod.key.name.clone()).collect();
    plan.hold(Hold { setting: format!("partition {partition}"), ..hold(HoldReason::Partition, kept) });
}

/// Where pods go: forward to the update revision, or back to the current one.
fn target(seen: &Observed, update: i64) -> &Arc<Revision> {
    if update < 0 { &seen.current_revision } else { &seen.update_revision }
}

/// Indexes of pods that may move, most urgent first.
fn candidates(seen: &Observed, rows: &[Row], back: bool) -> Vec<usize> {
    let pods: Vec<Arc<PodView>> = rows.iter().map(|row| row.pod.clone()).collect();
    let eligible = |row: &Row| {
        row.updated == back
            && row.state != LifecycleState::PreparingDelete
            && (!is_in_grace(&row.pod) || is_lost(seen, &row.pod))
    };
    let waiting = (0..rows.len()).filter(|&index| rows.get(index).is_some_and(eligible)).collect();
    let mut order = seen.settings.order.sort(&pods, waiting);
    // Pods that leave anyway come next after those already out of service, so that no others take their place.
    order.sort_by_key(|&index| {
        rows.get(index).map(|row| (row.state != LifecycleState::PreparingUpdate, !row.specified))
    });
    order
}

/// What was to become of the pod cannot be read: nobody knows what it runs, and only a new one is sure to be right.
fn is_lost(seen: &Observed, pod: &PodView) -> bool {
    seen.settings.policy != PodUpdatePolicy::InPlaceOnly
        && matches!(inplace::refresh(pod, CONTROLLER_REVISION_HASH, seen.now), Refresh::Broken(_))
}

/// The stored revision a pod is at by its label.
fn revision_of<'a>(seen: &'a Observed, pod: &PodView) -> Option<&'a Arc<Revision>> {
    seen.revisions
        .iter()
        .chain([&seen.update_revision, &seen.current_revision])
        .find(|revision| at_revision(pod, revision))
}

/// What updating one pod takes now.
enum Step {
    /// Nothing to write: it is marked already, or its hook has it.
    Wait(Option<HoldReason>),
    /// Recreate it.
    Mark,
    /// Tell its hook.
    Prepare { restore: bool },
    /// Change it while it runs.
    Start(Box<UpdateSpec>),
    /// It cannot be updated; others can.
    Refused(HoldReason),
}

/// Decides the steps of one round; the difference of two revisions is computed once for all their pods.
struct Steps<'a> {
    seen: &'a Observed,
    options: &'a Options,
    target: &'a Arc<Revision>,
    changes: BTreeMap<Arc<str>, Result<UpdateSpec, String>>,
    held: BTreeMap<(HoldReason, String), Vec<Arc<str>>>,
}

impl<'a> Steps<'a> {
    fn new(seen: &'a Observed, options: &'a Options, target: &'a Arc<Revision>) -> Self {
        Self { seen, options, target, changes: BTreeMap::new(), held: BTreeMap::new() }
    }

    /// Why a pod cannot be changed while it runs; empty if it can, or was not asked about.
    fn why_not(&self, pod: &PodView) -> String {
        let known = pod.labels.get(CONTROLLER_REVISION_HASH).and_then(|label| self.changes.get(label));
        known.and_then(|change| change.as_ref().err()).cloned().unwrap_or_default()
    }

    /// How a pod could be changed while it runs, or why it cannot.
    fn change(&mut self, pod: &PodView) -> Result<UpdateSpec, String> {
        let Some(label) = pod.labels.get(CONTROLLER_REVISION_HASH) else {
            return Err("it has no revision label".to_owned());
        };
        if let Some(known) = self.changes.get(label) {
            return known.clone();
        }
        let options = InPlaceOptions {
            ignore_vct: self.seen.settings.policy == PodUpdatePolicy::InPlaceOnly,
            ..self.options.in_place
        };
        let grace_seconds = i64::from(self.seen.settings.grace_seconds);
        let change = revision_of(self.seen, pod)
            .ok_or_else(|| format!("revision {label} is not in the history"))
            .and_then(|from| inplace::diff(from, self.target, options).map_err(|why| why.to_string()))
            .map(|change| UpdateSpec { grace_seconds, ..change });
        self.changes.insert(label.clone(), change.clone());
        change
    }

    fn decide(&mut self, row: &Row) -> Step {
        if row.specified {
            return Step::Wait(None);
        }
        let policy = self.seen.settings.policy;
        // Of pods in their grace period only those that are lost get here.
        let recreate = policy == PodUpdatePolicy::ReCreate || is_in_grace(&row.pod);
        let change = if recreate { None } else { self.change(&row.pod).ok() };
        let Some(change) = change else {
            return if policy == PodUpdatePolicy::InPlaceOnly {
                Step::Refused(HoldReason::InPlaceOnly)
            } else {
                Step::Mark
            };
        };
        let lifecycle = self.seen.settings.lifecycle.as_ref();
        let hooked = lifecycle.is_some_and(|lifecycle| lifecycle.holds_update(&row.pod));
        match row.state {
            LifecycleState::Normal | LifecycleState::PreparingNormal if hooked => {
                Step::Prepare { restore: false }
            }
            LifecycleState::PreparingUpdate if hooked => Step::Wait(Some(HoldReason::LifecycleHook)),
            LifecycleState::Normal
            | LifecycleState::PreparingNormal
            | LifecycleState::PreparingUpdate
            | LifecycleState::Updating => Step::Start(Box::new(change)),
            LifecycleState::Updated if lifecycle.is_some_and(|hooks| hooks.in_place_update.is_some()) => {
                Step::Prepare { restore: true }
            }
            LifecycleState::Updated => Step::Wait(None),
            LifecycleState::PreparingDelete | LifecycleState::Other(_) => {
                Step::Refused(HoldReason::NotAllowed)
            }
        }
    }

    fn take(&mut self, row: &mut Row, step: Step, plan: &mut Plan) {
        let pod = row.pod.clone();
        if let Step::Wait(reason) = step {
            if let Some(reason) = reason {
                self.held.entry((reason, String::new())).or_default().push(pod.key.name.clone());
            }
            return;
        }
        if row.touched {
            // Its own step comes first; this one follows in the next round and keeps its place in the budget.
            return;
        }
        row.touched = true;
        let revision = self.target.clone();
        match step {
            Step::Mark => plan.actions.push(Action::MarkForRecreate { pod, revision }),
            Step::Start(change) => {
                let name = self.target.name();
                let label = if self.options.short_hash { short_hash(name) } else { name };
                let labels = [
                    (CONTROLLER_REVISION_HASH, label),
                    (POD_TEMPLATE_HASH, short_hash(name)),
                    (LIFECYCLE_STATE, LifecycleState::Updating.as_str()),
                ]
                .map(|(key, value)| (key.to_owned(), value.to_owned()));
                let started = inplace::start(&pod, &change, self.target, &labels, self.seen.now);
                let started =
                    if self.options.in_place.resize_in_pod { started.resized_in_pod() } else { started };
                if let Some(after) = started.requeue_after {
                    plan.wake(after);
                }
                plan.actions.push(Action::UpdateInPlace { pod, started, revision });
            }
            Step::Prepare { restore } => self.prepare(&pod, restore, plan),
            Step::Wait(_) | Step::Refused(_) => {}
        }
    }

    fn prepare(&self, pod: &Arc<PodView>, restore: bool, plan: &mut Plan) {
        let Some(hook) =
            self.seen.settings.lifecycle.as_ref().and_then(|lifecycle| lifecycle.in_place_update.as_ref())
        else {
            return;
        };
        let mut patch = PodPatch::default();
        if restore {
            hook.restore(&mut patch);
        }
        if hook.mark_pod_not_ready
            && let Some(not_ready) = add_not_ready_key(pod, LIFECYCLE_AGENT, PRE_UPDATE_KEY, self.seen.now)
        {
            patch.merge(not_ready);
        }
        set_state(&mut patch, &LifecycleState::PreparingUpdate, self.seen.now);
        push_patch(pod, patch, Because::PreparingUpdate, plan);
    }
}

fn hold(reason: HoldReason, mut waiting: Vec<Arc<str>>) -> Hold {
    waiting.sort();
    Hold { reason, setting: String::new(), count: waiting.len(), waiting, blockers: Vec::new() }
}

/// `pods/status` takes conditions and metadata at once.
fn push_patch(pod: &Arc<PodView>, mut patch: PodPatch, because: Because, plan: &mut Plan) {
    patch.metadata.uid = Some(pod.uid.to_string());
    let endpoint = if patch.status.is_some() { PodEndpoint::Status } else { PodEndpoint::Pod };
    plan.actions.push(Action::Patch { pod: pod.clone(), endpoint, patch, because });
}
