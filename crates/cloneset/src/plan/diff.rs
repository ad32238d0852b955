//! How many pods to create, delete and update: arithmetic only.
//!
//! Everything is `i64`, so that no sum of 32-bit settings can overflow.

/// The numbers a user set, resolved against `replicas`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Desired pods.
    pub replicas: i64,
    /// Pods to keep at the current revision, within `0..=replicas`.
    pub partition: i64,
    /// Pods that may be unavailable on purpose.
    pub max_unavailable: i64,
    /// Extra pods during an update or a specified delete; 0 while paused.
    pub max_surge: i64,
    /// Unavailable pods beyond which none is created; `None` is unlimited.
    pub scale_max_unavailable: Option<i64>,
}

/// Counts of the pods of one side, new or old.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Class {
    /// All active pods.
    pub total: i64,
    /// Of them in state `PreparingDelete`.
    pub preparing_delete: i64,
    /// Of the rest: marked for deletion by label or by `podsToDelete`.
    pub to_delete: i64,
    /// Of the rest: not available.
    pub unavailable: i64,
}

impl Class {
    fn active(self) -> i64 {
        self.total - self.preparing_delete
    }
}

/// All the arithmetic depends on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Inputs {
    /// Resolved settings.
    pub limits: Limits,
    /// Pods at the update revision.
    pub new: Class,
    /// All other pods.
    pub old: Class,
    /// Pods above the partition may move back to the current revision: gate CloneSetPartitionRollback is on and
    /// the two revisions differ.
    pub rollback: bool,
    /// `PreparingDelete` pods are not replicas.
    pub exclude_preparing_delete: bool,
}

/// What is missing, what is too much, and how fast it may change.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Diff {
    /// Pods to create.
    pub up: i64,
    /// Of them at the current revision.
    pub up_old: i64,
    /// How many may be created now.
    pub up_limit: i64,
    /// Pods to delete, besides those marked.
    pub down: i64,
    /// Of them old ones.
    pub down_old: i64,
    /// How many available pods may be deleted now.
    pub delete_ready_limit: i64,
    /// Pods to update; negative: to move back to the current revision.
    pub update: i64,
    /// Unavailable pods beyond which no update starts.
    pub update_max_unavailable: i64,
    /// Unavailable pods, marked ones apart.
    pub unavailable: i64,
    /// Extra pods wanted at this moment.
    pub surge: i64,
}

impl Diff {
    /// The differences between what is and what is wanted.
    pub fn of(inputs: &Inputs) -> Self {
        let Inputs { limits, new, old, rollback, exclude_preparing_delete } = *inputs;
        let pods = new.total + old.total;
        let unavailable = new.preparing_delete + old.preparing_delete + new.unavailable + old.unavailable;
        let to_delete = new.to_delete + old.to_delete;
        let (mut over_old, mut over_new) =
            (old.active() - limits.partition, new.active() - (limits.replicas - limits.partition));
        if !rollback {
            over_old = over_old.max(0);
            over_new = over_new.min(0);
        }
        let (surge, surge_old) = surge(inputs, over_old, over_new, unavailable, to_delete);

        let (mut have, mut have_old) = (pods, old.total);
        if exclude_preparing_delete {
            have -= new.preparing_delete + old.preparing_delete;
            have_old -= old.preparing_delete;
        }
        let (want, want_old) = (limits.replicas + surge, limits.partition + surge_old);

        let mut diff = Self { unavailable, surge, ..Self::default() };
        if want > have {
            diff.up = want - have;
            diff.up_old = (want_old - have_old).clamp(0, diff.up);
            diff.up_limit = match limits.scale_max_unavailable {
                Some(limit) => diff.up.min((limit - unavailable).max(0)),
                None => diff.up,
            };
        } else if have - to_delete > want {
            diff.down = have - to_delete - want;
            diff.down_old = (have_old - old.to_delete - want_old).max(0);
        }
        if to_delete > 0 || diff.down > 0 {
            diff.delete_ready_limit = (limits.max_unavailable + pods - limits.replicas - unavailable).max(0);
        }
        // Too few (or too many) of both is for scaling to mend: only one's excess can make up for the other's lack.
        if opposite(over_old, over_new) {
            diff.update = if over_old.abs() <= over_new.abs() { over_old } else { -over_new };
        }
        if diff.update != 0 {
            diff.update_max_unavailable = limits.max_unavailable + pods - limits.replicas;
        }
        diff
    }
}

/// Extra pods wanted now, and how many of them at the current revision: as many as the larger need of the two
/// (replacing marked pods, or updating) but never more than `maxSurge`.
fn surge(inputs: &Inputs, over_old: i64, over_new: i64, unavailable: i64, to_delete: i64) -> (i64, i64) {
    let limits = &inputs.limits;
    if limits.max_surge <= 0 {
        return (0, 0);
    }
    let for_deletes = (unavailable + to_delete - limits.max_unavailable).clamp(0, to_delete);
    let for_deletes_old = (for_deletes - inputs.new.to_delete).max(0);
    let for_updates = if opposite(over_old, over_new) { over_old.abs().min(over_new.abs()) } else { 0 };
    let for_updates_old = if over_old < 0 { for_updates } else { 0 };
    let (need, need_old) = if for_deletes >= for_updates {
        (for_deletes, for_deletes_old)
    } else {
        (for_updates, for_updates_old)
    };
    let surge = limits.max_surge.min(need);
    (surge, surge.min(need_old))
}

fn opposite(a: i64, b: i64) -> bool {
    a.signum() * b.signum() < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn limits(replicas: i64, partition: i64, max_unavailable: i64, max_surge: i64) -> Limits {
        Limits { replicas, partition, max_unavailable, max_surge, scale_max_unavailable: None }
    }

    fn class(total: i64, preparing_delete: i64, to_delete: i64, unavailable: i64) -> Class {
        Class { total, preparing_delete, to_delete, unavailable }
    }

    fn good(total: i64) -> Class {
        class(total, 0, 0, 0)
    }

    /// Fields that the specification's table does not name are compared only where the row says so.
    #[track_caller]
    fn check(limits: Limits, old: Class, new: Class, expected: &[(&str, i64)]) {
        check_inputs(&Inputs { limits, new, old, ..Inputs::default() }, expected);
    }

    #[track_caller]
    fn check_inputs(inputs: &Inputs, expected: &[(&str, i64)]) {
        let diff = Diff::of(inputs);
        let all = [
            ("up", diff.up),
            ("upOld", diff.up_old),
            ("upLimit", diff.up_limit),
            ("down", diff.down),
            ("downOld", diff.down_old),
            ("deleteReadyLimit", diff.delete_ready_limit),
            ("updateNum", diff.update),
            ("updateMaxUnavailable", diff.update_max_unavailable),
        ];
        let found: Vec<_> = all.into_iter().filter(|(_, value)| *value != 0).collect();
        assert_eq!(found, expected, "{inputs:?}");
    }

    #[test]
    fn one_revision_scales_by_the_difference() {
        check(limits(6, 0, 2, 0), good(0), good(3), &[("up", 3), ("upLimit", 3)]);
        check(limits(4, 0, 1, 0), good(0), good(6), &[("down", 2), ("deleteReadyLimit", 3)]);
        check(limits(4, 0, 1, 0), good(0), class(6, 0, 0, 2), &[("down", 2), ("deleteReadyLimit", 1)]);
    }

    #[test]
    fn scale_out_is_limited_by_unavailable_pods() {
        let limits = Limits { scale_max_unavailable: Some(2), ..limits(8, 0, 2, 0) };
        check(limits, good(0), class(4, 0, 0, 1), &[("up", 4), ("upLimit", 1)]);
        check(limits, good(0), class(4, 0, 0, 3), &[("up", 4)]);
    }

    #[test]
    fn an_update_keeps_the_partition_and_surges_first() {
        check(limits(10, 4, 2, 0), good(10), good(0), &[("updateNum", 6), ("updateMaxUnavailable", 2)]);
        check(
            limits(10, 4, 2, 3),
            good(10),
            good(0),
            &[("up", 3), ("upLimit", 3), ("updateNum", 6), ("updateMaxUnavailable", 2)],
        );
        check(
            limits(10, 4, 2, 3),
            good(10),
            class(3, 0, 0, 3),
            &[("updateNum", 3), ("updateMaxUnavailable", 5)],
        );
        check(limits(8, 6, 0, 4), good(8), good(0), &[("up", 2), ("upLimit", 2), ("updateNum", 2)]);
        check(
            limits(10, 0, 0, 5),
            good(2),
            good(10),
            &[("down", 2), ("downOld", 2), ("deleteReadyLimit", 2)],
        );
    }

    #[test]
    fn marked_pods_are_replaced_within_the_budget() {
        check(
            limits(10, 0, 2, 0),
            class(2, 0, 2, 0),
            good(8),
            &[("deleteReadyLimit", 2), ("updateNum", 2), ("updateMaxUnavailable", 2)],
        );
        check(limits(10, 0, 2, 0), good(0), good(8), &[("up", 2), ("upLimit", 2)]);
        check(limits(4, 0, 0, 1), good(0), class(4, 0, 1, 0), &[("up", 1), ("upLimit", 1)]);
        check(limits(4, 0, 0, 1), good(0), class(5, 0, 1, 1), &[]);
        check(limits(4, 0, 0, 1), good(0), class(5, 0, 1, 0), &[("deleteReadyLimit", 1)]);
    }

    #[test]
    fn scaling_during_an_update_keeps_the_partition() {
        check(limits(12, 6, 3, 0), good(4), good(4), &[("up", 4), ("upOld", 2), ("upLimit", 4)]);
        check(limits(6, 3, 2, 0), good(5), good(5), &[("down", 4), ("downOld", 2), ("deleteReadyLimit", 6)]);
    }

    #[test]
    fn a_raised_partition_moves_pods_back_only_with_the_gate() {
        let inputs = Inputs {
            limits: limits(8, 6, 2, 0),
            old: good(2),
            new: good(6),
            rollback: true,
            ..Inputs::default()
        };
        check_inputs(&inputs, &[("updateNum", -4), ("updateMaxUnavailable", 2)]);
        check_inputs(&Inputs { rollback: false, ..inputs }, &[]);
    }

    #[test]
    fn a_preparing_delete_pod_is_a_replica_unless_excluded() {
        let inputs = Inputs { limits: limits(5, 0, 1, 0), new: class(5, 1, 0, 0), ..Inputs::default() };
        check_inputs(&inputs, &[]);
        check_inputs(&Inputs { exclude_preparing_delete: true, ..inputs }, &[("up", 1), ("upLimit", 1)]);
    }

    #[test]
    fn with_no_available_pod_there_is_no_budget_to_delete_ready_ones() {
        check(limits(3, 0, 1, 0), good(0), class(5, 0, 0, 5), &[("down", 2)]);
    }

    fn any_class() -> impl Strategy<Value = Class> {
        (0i64..8, 0i64..4, 0i64..4, 0i64..8).prop_map(|(good, preparing_delete, to_delete, unavailable)| {
            Class {
                total: good + preparing_delete + to_delete + unavailable,
                preparing_delete,
                to_delete,
                unavailable,
            }
        })
    }

    prop_compose! {
        fn any_inputs()(
            replicas in 0i64..20,
            partition in 0i64..20,
            max_unavailable in 0i64..10,
            max_surge in 0i64..10,
            scale_max_unavailable in proptest::option::of(0i64..10),
            new in any_class(),
            old in any_class(),
            rollback: bool,
            exclude_preparing_delete: bool,
        ) -> Inputs {
            let partition = partition.min(replicas);
            let limits = Limits { replicas, partition, max_unavailable, max_surge, scale_max_unavailable };
            Inputs { limits, new, old, rollback, exclude_preparing_delete }
        }
    }

    #[test]
    fn a_lack_of_pods_of_both_revisions_is_no_reason_to_update() {
        let inputs =
            Inputs { limits: limits(17, 10, 0, 0), new: good(3), rollback: true, ..Inputs::default() };
        check_inputs(&inputs, &[("up", 14), ("upOld", 10), ("upLimit", 14)]);
    }

    proptest! {
        #[test]
        fn numbers_stay_within_their_limits(inputs in any_inputs()) {
            let diff = Diff::of(&inputs);
            let limits = inputs.limits;
            let pods = inputs.new.total + inputs.old.total;
            prop_assert!(diff.up == 0 || diff.down == 0);
            prop_assert!((0..=limits.max_surge).contains(&diff.surge));
            prop_assert!(diff.up_limit <= diff.up && diff.up_old <= diff.up);
            if !inputs.exclude_preparing_delete {
                prop_assert!(diff.up == 0 || pods + diff.up <= limits.replicas + limits.max_surge);
            }
            if let Some(limit) = limits.scale_max_unavailable {
                prop_assert!(diff.up_limit == 0 || diff.unavailable + diff.up_limit <= limit);
            }
            // Updates never take the set below its partition.
            prop_assert!(diff.update <= (inputs.old.total - limits.partition).max(0));
            prop_assert!(inputs.rollback || diff.update >= 0);
        }

        #[test]
        fn deleting_ready_pods_leaves_enough_of_them(inputs in any_inputs()) {
            let diff = Diff::of(&inputs);
            let pods = inputs.new.total + inputs.old.total;
            if diff.delete_ready_limit > 0 {
                let left = pods - diff.unavailable - diff.delete_ready_limit;
                prop_assert!(left >= inputs.limits.replicas - inputs.limits.max_unavailable);
            }
        }
    }
}
