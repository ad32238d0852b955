//! The row of a pod: how far it is, in one word.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    cells::{Cx, items, number, or_none, text},
    since,
};

/// `Completed` rows, which kubectl may leave out.
pub(super) fn conditions(object: &Value) -> Option<Value> {
    if text(object, "/kind") != "Pod" {
        return None;
    }
    let (reason, message) = match text(object, "/status/phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{ "type": "Completed", "status": "True", "reason": reason, "message": message }]))
}

pub(super) fn cells(cx: Cx<'_>) -> Vec<Value> {
    let pod = cx.object;
    let state = State::of(pod);
    let restarts = match state.restarts.last.filter(|_| state.restarts.count != 0) {
        Some(last) => format!("{} ({} ago)", state.restarts.count, since(last, cx.now)),
        None => state.restarts.count.to_string(),
    };
    vec![
        text(pod, "/metadata/name").into(),
        format!("{}/{}", state.ready, state.total).into(),
        state.reason.into(),
        restarts.into(),
        cx.age(),
        or_none(text(pod, "/status/podIPs/0/ip")),
        or_none(text(pod, "/spec/nodeName")),
        or_none(text(pod, "/status/nominatedNodeName")),
        gates(pod).into(),
    ]
}

/// Readiness gates that are open, of all.
fn gates(pod: &Value) -> String {
    let gates = items(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open =
        gates.iter().filter(|gate| condition(pod, text(gate, "/conditionType")) == Some("True")).count();
    format!("{open}/{}", gates.len())
}

/// The status of a condition, if the pod has it.
fn condition<'p>(pod: &'p Value, kind: &str) -> Option<&'p str> {
    let found = items(pod, "/status/conditions").iter().find(|condition| text(condition, "/type") == kind);
    found.map(|condition| text(condition, "/status"))
}

#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += number(container, "/restartCount");
        self.last = self.last.max(text(container, "/lastState/terminated/finishedAt").parse().ok());
    }
}

struct State {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts,
}

impl State {
    fn of(pod: &Value) -> Self {
        let phase = text(pod, "/status/phase");
        let mut reason = match text(pod, "/status/reason") {
            "" => phase.to_owned(),
            reason => reason.to_owned(),
        };
        let gated = |condition: &&Value| {
            text(condition, "/type") == "PodScheduled" && text(condition, "/reason") == "SchedulingGated"
        };
        if items(pod, "/status/conditions").iter().find(gated).is_some() {
            "SchedulingGated".clone_into(&mut reason);
        }
        let sidecars =
            items(pod, "/spec/initContainers").iter().filter(|container| is_sidecar(container)).count();
        let mut state = Self {
            reason,
            ready: 0,
            total: items(pod, "/spec/containers").len() + sidecars,
            restarts: Restarts::default(),
        };
        let (initializing, sidecar_restarts) = state.initialize(pod);
        if !initializing || condition(pod, "Initialized") == Some("True") {
            state.restarts = sidecar_restarts;
            state.run(pod);
        }
        if !text(pod, "/metadata/deletionTimestamp").is_empty() {
            if text(pod, "/status/reason") == "NodeLost" {
                "Unknown".clone_into(&mut state.reason);
            } else if !matches!(phase, "Succeeded" | "Failed") {
                "Terminating".clone_into(&mut state.reason);
            }
        }
        state
    }

    /// Looks at the init containers up to the first that is not through; true if there is one.
    fn initialize(&mut self, pod: &Value) -> (bool, Restarts) {
        let declared = items(pod, "/spec/initContainers");
        let mut sidecars = Restarts::default();
        for (at, container) in items(pod, "/status/initContainerStatuses").iter().enumerate() {
            self.restarts.add(container);
            let name = text(container, "/name");
            let sidecar = declared.iter().any(|spec| text(spec, "/name") == name && is_sidecar(spec));
            if sidecar {
                sidecars.add(container);
            }
            let terminated = container.pointer("/state/terminated");
            if terminated.is_some_and(|end| number(end, "/exitCode") == 0) {
                continue;
            }
            if sidecar && is_true(container, "/started") {
                self.ready += usize::from(is_true(container, "/ready"));
                continue;
            }
            let waiting = text(container, "/state/waiting/reason");
            self.reason = match terminated {
                Some(end) => format!("Init:{}", ended(end)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
                None => format!("Init:{at}/{}", declared.len()),
            };
            return (true, sidecars);
        }
        (false, sidecars)
    }

    /// Looks at the containers, the last first: the first one's trouble is shown.
    fn run(&mut self, pod: &Value) {
        let mut running = false;
        for container in items(pod, "/status/containerStatuses").iter().rev() {
            self.restarts.add(container);
            let waiting = text(container, "/state/waiting/reason");
            if !waiting.is_empty() {
                waiting.clone_into(&mut self.reason);
            } else if let Some(end) = container.pointer("/state/terminated") {
                self.reason = ended(end);
            } else if is_true(container, "/ready") && container.pointer("/state/running").is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = condition(pod, "Ready") == Some("True");
            (if ready { "Running" } else { "NotReady" }).clone_into(&mut self.reason);
        }
    }
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn is_true(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer) == Some(&Value::Bool(true))
}

/// Why a container ended.
fn ended(end: &Value) -> String {
    match (text(end, "/reason"), number(end, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(end, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}
