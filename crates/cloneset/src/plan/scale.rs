//! The scale stage: which pods to create and which to delete.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use kruise_common::key::ObjectKey;
use kruise_common::lifecycle::{Lifecycle, LifecycleState, set_state};
use kruise_common::patch::{PodEndpoint, PodPatch};
use kruise_common::pod::PodView;
use kruise_common::readiness::{LIFECYCLE_AGENT, PRE_DELETE_KEY, add_not_ready_key, remove_not_ready_key};
use kruise_common::revision::Revision;
use kruise_common::update_sort::deletion_order;

use super::diff::Diff;
use super::{Action, Because, Hold, HoldReason, Options, Plan, Row};
use super::{blockers, difference, excludes_preparing_delete, instance_id};
use crate::observed::Observed;

/// How many candidates for an instance id are tried per pod before it is given up for this round.
const ID_ATTEMPTS: usize = 100;
/// How long a pod may be there after its grace period before its claims are given up: the node tells its end late.
const LEAVING: SignedDuration = SignedDuration::from_secs(5);

pub(super) fn plan(
    seen: &Observed,
    options: &Options,
    rows: &mut [Row],
    ids: &mut dyn FnMut() -> String,
    plan: &mut Plan,
) {
    regret(seen, rows, plan);
    let diff = difference(seen, options, rows, true);
    release_unhooked(seen, rows, plan);
    if diff.up > 0 {
        create(seen, &diff, rows, ids, plan);
        // No further deletion in a round that wants pods.
        return;
    }
    delete(seen, options, &diff, rows, plan);
}

/// Pods that were to be deleted and are wanted again return, unless they were taken out of service for it.
fn regret(seen: &Observed, rows: &mut [Row], plan: &mut Plan) {
    let lifecycle = seen.settings.lifecycle.as_ref();
    let out_of_service =
        |lifecycle: &Lifecycle| lifecycle.delete_marks_not_ready() || lifecycle.update_marks_not_ready();
    if lifecycle.is_some_and(out_of_service) {
        return;
    }
    let leaving =
        rows.iter().filter(|row| row.specified || row.state == LifecycleState::PreparingDelete).count();
    let missing = i64::from(seen.settings.replicas) - rows.len() as i64 + leaving as i64;
    let returning = rows
        .iter_mut()
        .filter(|row| row.state == LifecycleState::PreparingDelete && !row.specified)
        .take(usize::try_from(missing).unwrap_or(0));
    for row in returning {
        let mut patch = PodPatch::default();
        row.state = LifecycleState::PreparingNormal;
        row.touched = true;
        set_state(&mut patch, &row.state, seen.now);
        // Held when the lifecycle asked for it, which it does no more.
        let endpoint = match remove_not_ready_key(&row.pod, LIFECYCLE_AGENT, PRE_DELETE_KEY, seen.now) {
            Some(back) => {
                patch.merge(back);
                PodEndpoint::Status
            }
            None => PodEndpoint::Pod,
        };
        plan.actions.push(patch_of(row, endpoint, patch, Because::Regret));
    }
}

/// Pods that only waited for their hook go, also while others are created: they are no longer counted on.
fn release_unhooked(seen: &Observed, rows: &mut [Row], plan: &mut Plan) {
    let mut waiting = Vec::new();
    for row in rows.iter_mut().filter(|row| row.state == LifecycleState::PreparingDelete && !row.touched) {
        if held(seen, row) {
            waiting.push(row.pod.key.name.clone());
        } else {
            row.touched = true;
            plan.actions.push(deletion(seen, row, Because::HookReleased));
        }
    }
    plan.hold(Hold {
        reason: HoldReason::LifecycleHook,
        setting: String::new(),
        count: waiting.len(),
        waiting,
        blockers: Vec::new(),
    });
}

fn held(seen: &Observed, row: &Row) -> bool {
    seen.settings.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.holds_delete(&row.pod))
}

fn create(seen: &Observed, diff: &Diff, rows: &[Row], ids: &mut dyn FnMut() -> String, plan: &mut Plan) {
    let mut count = diff.up_limit.max(0) as usize;
    if let Some((leaving, gone_in)) = leaving_with_claims(seen) {
        // Their claims come free: a pod created now would start with empty volumes.
        count = count.saturating_sub(leaving);
        plan.wake(gone_in);
    }
    let chosen = instance_ids(seen, count, ids);
    let one_revision = seen.update_revision.name() == seen.current_revision.name();
    for (index, id) in chosen.iter().enumerate() {
        let update = index as i64 >= diff.up_old || one_revision;
        let revision: &Arc<Revision> = if update { &seen.update_revision } else { &seen.current_revision };
        plan.actions.push(Action::Create {
            name: format!("{}-{id}", seen.key.name),
            id: id.clone(),
            revision: revision.clone(),
            update,
        });
    }
    plan.hold(Hold {
        reason: HoldReason::NoInstanceId,
        setting: String::new(),
        count: count - chosen.len(),
        waiting: Vec::new(),
        blockers: Vec::new(),
    });
    let limit = seen.settings.limits().scale_max_unavailable;
    plan.hold(Hold {
        reason: HoldReason::ScaleMaxUnavailable,
        setting: format!("scaleStrategy.maxUnavailable {}", limit.unwrap_or_default()),
        count: (diff.up - diff.up_limit).max(0) as usize,
        waiting: Vec::new(),
        blockers: blockers(rows),
    });
}

/// How many terminating pods leave claims for their successors, and when the first has had the time it was given. One
/// that is still there after that, such as on a lost node, is not waited for.
fn leaving_with_claims(seen: &Observed) -> Option<(usize, Duration)> {
    if !seen.settings.reuse_claims {
        return None;
    }
    let kept: BTreeSet<&str> = seen
        .claims
        .iter()
        .filter(|claim| claim.owned_by_set && !claim.terminating)
        .map(|claim| &*claim.instance_id)
        .collect();
    let left = |pod: &Arc<PodView>| {
        let id = instance_id(seen, pod)?;
        let time = (pod.deleted? + LEAVING).duration_since(seen.now);
        kept.contains(id).then(|| Duration::try_from(time).ok()).flatten().filter(|time| !time.is_zero())
    };
    let times: Vec<_> = seen.others.iter().filter_map(left).collect();
    times.iter().min().map(|first| (times.len(), *first))
}

/// Ids that no existing pod has, in alphabetical order: first those of claims without a pod, if claims are reused.
fn instance_ids(seen: &Observed, count: usize, ids: &mut dyn FnMut() -> String) -> Vec<String> {
    let mut used: BTreeSet<String> = seen
        .pods
        .iter()
        .chain(&seen.unselected)
        .chain(&seen.others)
        .filter_map(|pod| instance_id(seen, pod))
        .map(str::to_owned)
        .collect();
    let mut chosen = BTreeSet::new();
    if seen.settings.reuse_claims {
        // A terminating claim blocks its name until it is gone.
        let gone: BTreeSet<&str> =
            seen.claims.iter().filter(|claim| claim.terminating).map(|claim| &*claim.instance_id).collect();
        let free: BTreeSet<&str> = seen
            .claims
            .iter()
            .filter(|claim| claim.owned_by_set && !claim.instance_id.is_empty())
            .map(|claim| &*claim.instance_id)
            .filter(|id| !used.contains(*id) && !gone.contains(id))
            .collect();
        chosen.extend(free.into_iter().take(count).map(str::to_owned));
    }
    used.extend(seen.claims.iter().map(|claim| claim.instance_id.to_string()));
    for _ in 0..count.saturating_mul(ID_ATTEMPTS) {
        if chosen.len() >= count {
            break;
        }
        let id = ids();
        if !id.is_empty() && !used.contains(&id) {
            chosen.insert(id);
        }
    }
    chosen.into_iter().collect()
}

fn delete(seen: &Observed, options: &Options, diff: &Diff, rows: &mut [Row], plan: &mut Plan) {
    let marked = |row: &Row| row.specified && row.state != LifecycleState::PreparingDelete;
    // The arithmetic counts marked pods as available: those that are not use up the budget.
    let unready = rows.iter().filter(|row| marked(row) && !row.ready).count() as i64;
    let unavailable = rows.iter().filter(|row| marked(row) && !row.available).count() as i64;
    let budget = (diff.delete_ready_limit - unavailable).max(0);
    let mut deletions = Deletions { seen, budget, waiting: Vec::new() };

    for row in rows.iter_mut().filter(|row| marked(row) && !row.touched) {
        let free = !row.ready || (!row.available && diff.delete_ready_limit > unready);
        deletions.take(row, free, Because::SpecifiedDelete, plan);
    }
    for index in victims(seen, options, diff, rows) {
        let Some(row) = rows.get_mut(index) else { continue };
        let free = !row.available;
        deletions.take(row, free, Because::ScaleIn, plan);
    }
    let mut waiting = deletions.waiting;
    waiting.sort();
    plan.hold(Hold {
        reason: HoldReason::MaxUnavailable,
        setting: format!("maxUnavailable {}", seen.settings.limits().max_unavailable),
        count: waiting.len(),
        waiting,
        blockers: blockers(rows),
    });
}

/// Pods that are too many, first to go first. Those which already wait for a hook count as gone.
fn victims(seen: &Observed, options: &Options, diff: &Diff, rows: &[Row]) -> Vec<usize> {
    let (mut down, mut down_old) = (diff.down, diff.down_old);
    if !excludes_preparing_delete(seen, options) {
        let leaving = || rows.iter().filter(|row| row.state == LifecycleState::PreparingDelete);
        down -= leaving().count() as i64;
        down_old -= leaving().filter(|row| !row.counts_as_new(options)).count() as i64;
    }
    if down <= 0 {
        return Vec::new();
    }
    let mut old = down_old.clamp(0, down);
    let mut new = down - old;
    let staying: Vec<usize> = (0..rows.len())
        .filter(|&index| {
            rows.get(index).is_some_and(|row| {
                !row.specified && !row.touched && row.state != LifecycleState::PreparingDelete
            })
        })
        .collect();
    let pods: Vec<_> =
        staying.iter().filter_map(|&index| rows.get(index)).map(|row| row.pod.clone()).collect();
    let node_label = |node: &str, key: &str| seen.nodes.get(node)?.get(key).cloned();
    let order =
        deletion_order(&pods, seen.settings.min_ready_seconds, seen.now, &seen.settings.spread, &node_label);
    let mut chosen = Vec::new();
    for index in order.into_iter().filter_map(|index| staying.get(index).copied()) {
        let Some(row) = rows.get(index) else { continue };
        let left = if row.counts_as_new(options) { &mut new } else { &mut old };
        if *left > 0 {
            *left -= 1;
            chosen.push(index);
        }
    }
    chosen
}

/// What is left to delete with, and what waits for more.
struct Deletions<'a> {
    seen: &'a Observed,
    budget: i64,
    waiting: Vec<Arc<str>>,
}

impl Deletions<'_> {
    /// Deletes a pod, or lets its hook know, if it is free or the budget allows it.
    fn take(&mut self, row: &mut Row, free: bool, because: Because, plan: &mut Plan) {
        if !free {
            if self.budget <= 0 {
                self.waiting.push(row.pod.key.name.clone());
                return;
            }
            self.budget -= 1;
        }
        row.touched = true;
        if !held(self.seen, row) {
            plan.actions.push(deletion(self.seen, row, because));
            return;
        }
        let lifecycle = self.seen.settings.lifecycle.as_ref();
        let not_ready = lifecycle
            .filter(|lifecycle| lifecycle.delete_marks_not_ready())
            .and_then(|_| add_not_ready_key(&row.pod, LIFECYCLE_AGENT, PRE_DELETE_KEY, self.seen.now));
        let endpoint = if not_ready.is_some() { PodEndpoint::Status } else { PodEndpoint::Pod };
        let mut patch = not_ready.unwrap_or_default();
        set_state(&mut patch, &LifecycleState::PreparingDelete, self.seen.now);
        plan.actions.push(patch_of(row, endpoint, patch, because));
    }
}

fn patch_of(row: &Row, endpoint: PodEndpoint, mut patch: PodPatch, because: Because) -> Action {
    patch.metadata.uid = Some(row.pod.uid.to_string());
    Action::Patch { pod: row.pod.clone(), endpoint, patch, because }
}

fn deletion(seen: &Observed, row: &Row, because: Because) -> Action {
    let id = instance_id(seen, &row.pod);
    let mut claims: Vec<ObjectKey> = seen
        .claims
        .iter()
        .filter(|claim| !claim.terminating && id == Some(&*claim.instance_id))
        .map(|claim| claim.key.clone())
        .collect();
    claims.sort();
    Action::Delete { pod: row.pod.clone(), claims, because }
}
