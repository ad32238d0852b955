use serde_json::{Value, json};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn seen(name: &str, id: &str, restart_count: i32, started: i64) -> Seen {
    let id = format!("containerd://{id}");
    let started = Some(at(started));
    let name = name.to_owned();
    Seen { name, id, exited: false, exit_code: 0, stays_down: false, restart_count, started }
}

fn exited(name: &str, id: &str) -> Seen {
    Seen { exited: true, ..seen(name, id, 0, 0) }
}

/// A request for containers a and b, which were a0 and b0.
fn spec(strategy: &Value) -> ContainerRecreateRequestSpec {
    let container = |name: &str| json!({"name": name, "statusContext": {"containerID": format!("containerd://{name}0"), "restartCount": 0}});
    serde_json::from_value(
        json!({"podName": "p", "containers": [container("a"), container("b")], "strategy": strategy}),
    )
    .unwrap()
}

/// States in short: name, phase and whether the container was stopped.
fn short(states: &[State]) -> Vec<String> {
    let word = |state: &State| {
        let killed = if state.is_killed == Some(true) { "!" } else { "" };
        format!("{}:{:?}{killed}", state.name, state.phase)
    };
    states.iter().map(word).collect()
}

fn states(list: &[(&str, Phase, bool)]) -> ContainerRecreateRequestStatus {
    let state = |(name, phase, killed): &(&str, Phase, bool)| State {
        name: (*name).to_owned(),
        phase: *phase,
        message: None,
        is_killed: killed.then_some(true),
    };
    ContainerRecreateRequestStatus {
        container_recreate_states: Some(list.iter().map(state).collect()),
        ..ContainerRecreateRequestStatus::default()
    }
}

struct Case {
    strategy: Value,
    status: ContainerRecreateRequestStatus,
    seen: Vec<Seen>,
    ready: Vec<&'static str>,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            strategy: json!({}),
            status: ContainerRecreateRequestStatus::default(),
            seen: vec![seen("a", "a0", 0, 0), seen("b", "b0", 0, 0)],
            ready: Vec::new(),
        }
    }
}

impl Case {
    fn plan(&self) -> (Vec<String>, Step) {
        let spec = spec(&self.strategy);
        let ready: Vec<String> = self.ready.iter().map(|id| format!("containerd://{id}")).collect();
        let observed =
            Observed { spec: &spec, status: &self.status, seen: &self.seen, ready: &ready, now: at(100) };
        let (states, step) = plan(&observed);
        (short(&states), step)
    }
}

fn kill(at: usize, id: &str) -> Step {
    Step::Kill { at, id: format!("containerd://{id}") }
}

#[test]
fn containers_are_stopped_one_after_the_other_without_waiting() {
    let case = Case::default();
    assert_eq!(case.plan(), (vec!["a:Pending".into(), "b:Pending".into()], kill(0, "a0")));
    let status = states(&[("a", Phase::Recreating, true), ("b", Phase::Pending, false)]);
    let seen = vec![exited("a", "a0"), seen("b", "b0", 0, 0)];
    let case = Case { status, seen, ..Case::default() };
    assert_eq!(case.plan(), (vec!["a:Recreating!".into(), "b:Pending".into()], kill(1, "b0")));
}

#[test]
fn in_order_the_next_is_stopped_only_when_the_one_before_is_back() {
    let status = || states(&[("a", Phase::Recreating, true), ("b", Phase::Pending, false)]);
    let seen = || vec![seen("a", "a1", 1, 50), seen("b", "b0", 0, 0)];
    let strategy = json!({"orderedRecreate": true});
    let case = Case { strategy: strategy.clone(), status: status(), seen: seen(), ..Case::default() };
    assert_eq!(case.plan(), (vec!["a:Recreating!".into(), "b:Pending".into()], Step::Wait(None)));
    let case = Case { strategy, status: status(), seen: seen(), ready: vec!["a1"] };
    assert_eq!(case.plan(), (vec!["a:Succeeded!".into(), "b:Pending".into()], kill(1, "b0")));
}

#[test]
fn a_container_replaced_since_the_request_is_not_stopped_unless_forced_and_then_once() {
    let seen = || vec![seen("a", "a1", 1, 50), seen("b", "b1", 1, 50)];
    let ready = vec!["a1", "b1"];
    let case = Case { seen: seen(), ready: ready.clone(), ..Case::default() };
    assert_eq!(case.plan(), (vec!["a:Succeeded!".into(), "b:Succeeded!".into()], Step::Complete));
    let strategy = json!({"forceRecreate": true});
    let case = Case { strategy: strategy.clone(), seen: seen(), ready: ready.clone(), ..Case::default() };
    assert_eq!(case.plan(), (vec!["a:Pending".into(), "b:Pending".into()], kill(0, "a1")));
    let status = states(&[("a", Phase::Pending, true), ("b", Phase::Recreating, true)]);
    let case = Case { strategy, status, seen: seen(), ready };
    assert_eq!(case.plan(), (vec!["a:Succeeded!".into(), "b:Succeeded!".into()], Step::Complete));
}

#[test]
fn an_intent_without_a_deed_is_carried_out() {
    let status = states(&[("a", Phase::Pending, true), ("b", Phase::Pending, false)]);
    assert_eq!(Case { status, ..Case::default() }.plan().1, kill(0, "a0"));
}

#[test]
fn a_new_container_must_have_run_long_enough() {
    for (started, phase, step) in [
        (91, "Recreating", Step::Wait(Some(Duration::from_secs(11)))),
        (90, "Recreating", Step::Wait(Some(Duration::from_secs(11)))),
        (89, "Succeeded", Step::Complete),
    ] {
        let seen = vec![seen("a", "a1", 1, started), seen("b", "b1", 1, 10)];
        let strategy = json!({"minStartedSeconds": 10});
        let case = Case { strategy, seen, ready: vec!["a1", "b1"], ..Case::default() };
        assert_eq!(case.plan(), (vec![format!("a:{phase}!"), "b:Succeeded!".into()], step), "{started}");
    }
}

#[test]
fn what_the_manager_saw_counts_as_ready_too() {
    let mut status = states(&[]);
    let snapshot = json!([{"name": "a", "ready": true, "restartCount": 1, "containerID": "containerd://a1"},
        {"name": "b", "ready": true, "restartCount": 1, "containerID": "containerd://old"}]);
    status.container_status_snapshot = serde_json::from_value(snapshot).unwrap();
    let case = Case { status, seen: vec![seen("a", "a1", 1, 1), seen("b", "b1", 1, 1)], ..Case::default() };
    assert_eq!(case.plan().0, ["a:Succeeded!", "b:Recreating!"]);
}

#[test]
fn a_failed_container_ends_the_request_unless_failures_are_ignored() {
    let status = || states(&[("a", Phase::Failed, true), ("b", Phase::Pending, false)]);
    let case = Case { status: status(), ..Case::default() };
    assert_eq!(case.plan(), (vec!["a:Failed!".into(), "b:Pending".into()], Step::Complete));
    let case = Case { status: status(), strategy: json!({"failurePolicy": "Ignore"}), ..Case::default() };
    assert_eq!(case.plan().1, kill(1, "b0"));
}

#[test]
fn a_container_that_is_nowhere_holds_the_ones_behind_it() {
    let case = Case { seen: vec![seen("b", "b0", 0, 0)], ..Case::default() };
    assert_eq!(case.plan(), (vec!["a:Pending".into(), "b:Pending".into()], Step::Wait(None)));
}

#[test]
fn a_container_that_is_never_started_again_is_done_when_it_has_ended() {
    let down = |name: &str, id: &str| Seen { stays_down: true, ..exited(name, id) };
    let case = Case { seen: vec![down("a", "a0"), down("b", "b0")], ..Case::default() };
    assert_eq!(case.plan(), (vec!["a:Succeeded!".into(), "b:Succeeded!".into()], Step::Complete));
}

#[test]
fn the_drain_is_over_when_its_time_is() {
    let condition = |since: i64| {
        let since = at(since).to_string();
        json!({"conditions": [{"type": "PreRecreateGrace", "status": "True", "reason": "PreRecreateGrace",
            "message": "", "lastTransitionTime": since}]})
    };
    let status = |value: Value| serde_json::from_value::<ContainerRecreateRequestStatus>(value).unwrap();
    let five = spec(&json!({"unreadyGracePeriodSeconds": 5}));
    assert_eq!(drain(&spec(&json!({})), &status(json!({})), at(0)), Ok(None));
    assert_eq!(drain(&five, &status(json!({})), at(0)), Err(()));
    assert_eq!(drain(&five, &status(condition(98)), at(100)), Ok(Some(Duration::from_millis(3100))));
    assert_eq!(drain(&five, &status(condition(95)), at(100)), Ok(None));
}
