use std::sync::Arc;

use jiff::tz::TimeZone;
use kruise_api::advancedcronjob::AdvancedCronJob;
use kruise_common::key::{ObjectKey, Uid};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::child::{Child, State};
use crate::status;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A time of the first of January.
fn on(time: &str) -> Timestamp {
    at(&format!("2026-01-01T{time}Z"))
}

fn job(spec: Value) -> AdvancedCronJob {
    let mut whole = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "AdvancedCronJob",
        "metadata": {"name": "a", "namespace": "shop", "uid": "u", "creationTimestamp": "2026-01-01T10:00:30Z"},
        "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 1, "template": {"jobTemplate": {"spec": {}}}}});
    for (field, value) in spec.as_object().unwrap() {
        whole["spec"][field] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn child(scheduled: &str, state: State) -> Child {
    let name = format!("a-{scheduled}");
    Child {
        uid: Uid::from(name.as_str()),
        key: ObjectKey::new("shop", name),
        resource_version: Arc::from("1"),
        scheduled: Some(on(scheduled)),
        started: Some(on(scheduled)),
        state,
        terminating: false,
    }
}

fn seen(job: &AdvancedCronJob, children: &[Child], now: Timestamp) -> Observed {
    Observed::of(job, children.to_vec(), &TimeZone::UTC, now)
}

/// What is run at a time: the tick, if any, and what is told.
fn run_at(spec: Value, children: &[Child], now: &str) -> (Option<String>, Vec<&'static str>) {
    let plan = plan(&seen(&job(spec), children, on(now)));
    let run = plan.run.map(|run| match run {
        Run::Tick(at) => at.to_string(),
        Run::Request(at) => format!("request of {at}"),
    });
    (run, plan.notes.iter().map(Note::reason).collect())
}

#[expect(clippy::unnecessary_wraps, reason = "as the status holds it")]
fn tick(time: &str) -> Option<String> {
    Some(format!("2026-01-01T{time}Z"))
}

#[test]
fn a_new_object_first_runs_at_the_first_tick_after_its_creation() {
    assert_eq!(run_at(json!({}), &[], "10:00:31").0, None);
    assert_eq!(run_at(json!({}), &[], "10:00:59.999").0, None);
    assert_eq!(run_at(json!({}), &[], "10:01:00").0, tick("10:01:00"));
    assert_eq!(run_at(json!({"schedule": "0 11 * * *"}), &[], "10:59:00").0, None);
    assert_eq!(
        run_at(json!({"schedule": "0 10 * * *"}), &[], "10:59:00").0,
        None,
        "passed before it was created"
    );
}

#[test]
fn a_timer_that_fires_early_sleeps_the_rest_and_misses_nothing() {
    let wake = |now: &str| plan(&seen(&job(json!({})), &[], on(now))).wake_in.unwrap();
    assert_eq!(wake("10:00:59.998"), Duration::from_millis(2));
    assert_eq!(wake("10:00:59.9999"), Duration::from_millis(1), "never nothing");
    assert_eq!(wake("10:00:30"), Duration::from_secs(30));
    let daily = job(json!({"schedule": "@daily"}));
    let wake = plan(&seen(&daily, &[], on("10:01:00"))).wake_in;
    assert_eq!(wake, Some(LONGEST_SLEEP), "the clock may be set meanwhile");
}

#[test]
fn a_run_is_not_repeated_because_its_child_was_cleaned_up() {
    let mut daily = job(json!({"schedule": "0 10 * * *"}));
    daily.metadata.creation_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at("2025-12-01T00:00:00Z")));
    let ran = status::of(&seen(&daily, &[child("10:00:00", State::Succeeded)], on("10:00:05")), &[], None);
    assert_eq!(ran.last_schedule_time.as_ref().unwrap().0, on("10:00:00"));
    daily.status = Some(ran.clone());
    let later = seen(&daily, &[], on("15:00:00"));
    assert_eq!(plan(&later).run, None);
    assert_eq!(status::of(&later, &[], daily.status.as_ref()), ran, "never cleared, never back");
    let next = seen(&daily, &[], at("2026-01-02T10:00:00Z"));
    assert_eq!(plan(&next).run, Some(Run::Tick(at("2026-01-02T10:00:00Z"))));
}

#[test]
fn more_than_a_hundred_missed_times_are_one_run_and_a_warning() {
    let (run, told) = run_at(json!({}), &[], "11:40:00");
    assert_eq!((run, told), (tick("11:40:00"), vec![]), "a hundred");
    let (run, told) = run_at(json!({}), &[], "11:41:10");
    assert_eq!((run, told), (tick("11:41:00"), vec!["TooManyMissedTimes"]));
    let deadline = json!({"startingDeadlineSeconds": 600});
    let (run, told) = run_at(deadline, &[], "23:00:10");
    assert_eq!((run, told), (tick("23:00:00"), vec![]), "only those count that could still start");
}

#[test]
fn a_run_that_cannot_start_in_time_is_left_out_and_told() {
    let spec = || json!({"schedule": "0 * * * *", "startingDeadlineSeconds": 30});
    assert_eq!(run_at(spec(), &[], "11:00:29").0, tick("11:00:00"));
    for late in ["11:00:30", "11:02:00"] {
        assert_eq!(run_at(spec(), &[], late), (None, vec!["MissSchedule"]), "{late}");
    }
    assert_eq!(
        run_at(json!({"schedule": "0 * * * *"}), &[], "11:02:00").0,
        tick("11:00:00"),
        "without a limit"
    );
    let never = json!({"startingDeadlineSeconds": 0});
    assert_eq!(run_at(never, &[], "11:00:00"), (None, vec!["MissSchedule"]));
}

#[test]
fn each_policy_does_what_it_says_to_a_run_that_is_not_finished() {
    let active = [child("10:01:00", State::Active), child("10:02:00", State::Active)];
    let plan_of = |policy: &str, children: &[Child]| {
        plan(&seen(&job(json!({"concurrencyPolicy": policy})), children, on("10:03:00")))
    };
    let allow = plan_of("Allow", &active);
    assert_eq!((allow.run, allow.replaced.len()), (Some(Run::Tick(on("10:03:00"))), 0));
    let forbid = plan_of("Forbid", &active);
    assert_eq!((forbid.run, forbid.replaced.len()), (None, 0));
    assert_eq!(forbid.notes, [Note::AlreadyActive(Run::Tick(on("10:03:00")))]);
    let replace = plan_of("Replace", &active);
    assert_eq!(replace.run, Some(Run::Tick(on("10:03:00"))));
    assert_eq!(replace.replaced, active);

    let done = [child("10:01:00", State::Failed), child("10:02:00", State::Succeeded)];
    for policy in ["Allow", "Forbid", "Replace"] {
        let plan = plan_of(policy, &done);
        assert_eq!((plan.run, plan.replaced), (Some(Run::Tick(on("10:03:00"))), vec![]), "{policy}");
    }
    let going = [Child { terminating: true, ..child("10:02:00", State::Active) }];
    assert_eq!(plan_of("Forbid", &going).run, None, "its pods may still run");
    assert_eq!(plan_of("Replace", &going).replaced, []);
}

#[test]
fn a_run_that_waited_starts_when_the_earlier_one_is_done_as_the_latest_tick() {
    let forbid = || json!({"concurrencyPolicy": "Forbid"});
    assert_eq!(run_at(forbid(), &[child("10:01:00", State::Active)], "10:04:20").0, None);
    assert_eq!(run_at(forbid(), &[child("10:01:00", State::Succeeded)], "10:04:20").0, tick("10:04:00"));
}

#[test]
fn a_paused_object_runs_nothing_and_catches_up_with_the_latest_tick() {
    let paused = plan(&seen(&job(json!({"paused": true})), &four_done(), on("10:09:10")));
    assert_eq!((paused.run, paused.wake_in), (None, None));
    assert_eq!(paused.trimmed.len(), 1, "history is kept short all the same");
    assert_eq!(run_at(json!({"paused": false}), &four_done(), "10:09:10").0, tick("10:09:00"));
}

fn four_done() -> Vec<Child> {
    ["10:01:00", "10:02:00", "10:03:00", "10:04:00"].map(|time| child(time, State::Succeeded)).to_vec()
}

#[test]
fn the_newest_finished_children_stay_and_each_kind_of_end_has_its_limit() {
    let trimmed = |spec: Value, children: &[Child]| {
        let plan = plan(&seen(&job(spec), children, on("10:04:10")));
        plan.trimmed.iter().map(|child| child.key.name.to_string()).collect::<Vec<_>>()
    };
    let mut children = four_done();
    children.extend(["10:01:30", "10:02:30", "10:03:30"].map(|time| child(time, State::Failed)));
    children.push(child("10:00:50", State::Active));
    assert_eq!(trimmed(json!({}), &children), ["a-10:01:00", "a-10:01:30", "a-10:02:30"]);
    let none = json!({"successfulJobsHistoryLimit": 0, "failedJobsHistoryLimit": 0});
    assert_eq!(trimmed(none, &children).len(), 7, "what is active stays");
    let all = json!({"successfulJobsHistoryLimit": null, "failedJobsHistoryLimit": null});
    assert_eq!(trimmed(all, &children), Vec::<String>::new());
    let unstarted = Child { started: None, ..child("10:05:00", State::Succeeded) };
    let mut children = four_done();
    children.push(unstarted);
    assert_eq!(
        trimmed(json!({}), &children),
        ["a-10:05:00", "a-10:01:00"],
        "one that never started goes first"
    );
    let going = Child { terminating: true, ..child("10:00:40", State::Succeeded) };
    let mut children = four_done();
    children.push(going);
    assert_eq!(trimmed(json!({}), &children), ["a-10:01:00"], "what goes already is not counted");
}

#[test]
fn a_schedule_that_was_changed_counts_from_the_last_run_without_a_burst() {
    let children = [child("10:01:00", State::Succeeded)];
    assert_eq!(run_at(json!({"schedule": "0 * * * *"}), &children, "10:30:10").0, None);
    assert_eq!(run_at(json!({"schedule": "* * * * *"}), &children, "10:30:10").0, tick("10:30:00"));
}

#[test]
fn what_cannot_be_run_is_told() {
    assert_eq!(
        run_at(json!({"schedule": "61 * * * *"}), &[], "10:30:10"),
        (None, vec!["UnparseableSchedule"])
    );
    assert_eq!(
        run_at(json!({"schedule": "0 0 31 2 *"}), &[], "10:30:10"),
        (None, vec!["ScheduleNeverMatches"])
    );
    let zone = json!({"timeZone": "Mars/Base"});
    assert_eq!(run_at(zone, &[], "10:30:10"), (tick("10:30:00"), vec!["UnknownTimeZone"]));
}

#[test]
fn the_end_of_a_child_is_told_once() {
    let mut job = job(json!({"paused": true}));
    let active = child("10:01:00", State::Active);
    let first = seen(&job, std::slice::from_ref(&active), on("10:01:01"));
    job.status = Some(status::of(&first, std::slice::from_ref(&active), None));
    let done = [child("10:01:00", State::Failed)];
    let then = seen(&job, &done, on("10:01:20"));
    let note = Note::Completed { name: "a-10:01:00".to_owned(), state: State::Failed };
    assert_eq!(plan(&then).notes, [note]);
    job.status = Some(status::of(&then, &done, job.status.as_ref()));
    assert_eq!(plan(&seen(&job, &done, on("10:01:30"))).notes, []);
}

#[test]
fn what_happens_inside_a_child_does_not_change_the_status() {
    let mut job = job(json!({}));
    let one = child("10:01:00", State::Active);
    job.status = Some(status::of(
        &seen(&job, std::slice::from_ref(&one), on("10:01:01")),
        std::slice::from_ref(&one),
        None,
    ));
    let changed = [Child { resource_version: Arc::from("99"), ..one.clone() }];
    let now = seen(&job, &changed, on("10:01:20"));
    assert_eq!(Some(status::of(&now, &changed, job.status.as_ref())), job.status);
    let two = [changed[0].clone(), child("10:02:00", State::Active)];
    let versions = status::of(&now, &two, job.status.as_ref()).active.unwrap();
    let versions: Vec<_> = versions.into_iter().map(|one| one.resource_version.unwrap()).collect();
    assert_eq!(versions, ["99", "1"]);
}

#[test]
fn a_run_by_hand_needs_no_tick_and_no_schedule_and_respects_the_policy() {
    let mut asked = job(json!({"paused": true, "concurrencyPolicy": "Forbid"}));
    let annotate = |job: &mut AdvancedCronJob, key: &str, value: &str| {
        job.metadata.annotations = Some([(key.to_owned(), value.to_owned())].into());
    };
    annotate(&mut asked, "apps.kruise.io/run-now", "please");
    assert_eq!(seen(&asked, &[], on("10:00:40")).request, Some(Request::Asked));
    annotate(&mut asked, "apps.kruise.io/run-now", "");
    assert_eq!(seen(&asked, &[], on("10:00:40")).request, None);
    annotate(&mut asked, "apps.kruise.io/run-due", &on("10:00:40").as_second().to_string());
    let due = seen(&asked, &[], on("10:00:41"));
    assert_eq!(plan(&due).run, Some(Run::Request(on("10:00:40"))));
    let waits = plan(&seen(&asked, &[child("10:00:39", State::Active)], on("10:00:41")));
    assert_eq!((waits.run, waits.notes), (None, vec![Note::AlreadyActive(Run::Request(on("10:00:40")))]));

    // Its own child, which a manager made that then died, is neither in its way nor replaced.
    for policy in ["Forbid", "Replace"] {
        let mut again = job(json!({"concurrencyPolicy": policy}));
        annotate(&mut again, "apps.kruise.io/run-due", &on("10:00:40").as_second().to_string());
        let mut own = child("10:00:40", State::Active);
        own.key.name = Run::Request(on("10:00:40")).name("a", 63).into();
        let plan = plan(&seen(&again, &[own], on("10:00:41")));
        assert_eq!(
            (plan.run, plan.replaced, plan.notes),
            (Some(Run::Request(on("10:00:40"))), vec![], vec![])
        );
    }

    let mut both = job(json!({}));
    annotate(&mut both, "apps.kruise.io/run-due", &on("10:00:40").as_second().to_string());
    let plan = plan(&seen(&both, &[], on("10:01:00")));
    assert_eq!(plan.run, Some(Run::Request(on("10:00:40"))));
    // Nothing is asked for at once: a run that is refused would be asked for all the time.
    assert_eq!(plan.wake_in, Some(Duration::from_mins(1)));
}

proptest! {
    /// Minutes of a life with rounds at any time, children of any length that may be cleaned up, and restarts.
    #[test]
    fn every_tick_is_run_at_most_once_and_none_is_run_twice_whatever_happens_to_children(
        policy in prop::sample::select(vec!["Allow", "Forbid", "Replace"]),
        limit in 0..3,
        steps in prop::collection::vec((1_u64..200, 0_u8..4), 1..60),
    ) {
        let mut job = job(json!({"concurrencyPolicy": policy, "successfulJobsHistoryLimit": limit}));
        let mut children: Vec<Child> = Vec::new();
        let mut now = on("10:00:31");
        let mut ran = std::collections::BTreeSet::new();
        for (pause, fate) in steps {
            now += Duration::from_secs(pause);
            let seen = seen(&job, &children, now);
            let plan = plan(&seen);
            prop_assert!(plan.wake_in.is_none_or(|wait| wait <= LONGEST_SLEEP));
            if let Some(run @ Run::Tick(tick)) = plan.run {
                prop_assert!(tick <= now && tick > on("10:00:30"));
                prop_assert!(ran.insert(tick), "{tick} ran twice");
                prop_assert!(ran.last() == Some(&tick), "{tick} ran after a later one");
                children.retain(|child| !plan.replaced.contains(child));
                if policy != "Allow" {
                    prop_assert!(children.iter().all(|child| child.state != State::Active));
                }
                let mut made = child("00:00:00", State::Active);
                made.scheduled = Some(tick);
                made.uid = Uid::from(run.name("a", 63));
                made.key = ObjectKey::new("shop", run.name("a", 63));
                children.push(made);
            }
            job.status = Some(status::of(&seen, &children, job.status.as_ref()));
            children.retain(|child| !plan.trimmed.contains(child));
            match fate {
                0 => children.clear(),
                1 => children.iter_mut().for_each(|child| child.state = State::Succeeded),
                2 => children.iter_mut().for_each(|child| child.started = Some(now)),
                _ => {}
            }
        }
        let shuffled: Vec<_> = children.iter().rev().cloned().collect();
        prop_assert_eq!(plan(&seen(&job, &children, now)), plan(&seen(&job, &shuffled, now)));
    }
}
