//! What the kubelet writes to `pods/status`, as a strategic merge patch that leaves other people's conditions alone.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::container::{Class, Container, Exit, Moment, Phase, go_duration};
use super::images;
use super::kubelet::{PodPhase, PodRun, Resize};
use super::wire::{ContainerSpec, PodView};

/// Since when each of the kubelet's own conditions has its status.
pub(crate) type Since = BTreeMap<String, (bool, Timestamp)>;

/// A time as the API writes it: whole seconds.
pub(crate) fn time(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// When the pod's conditions last changed, as its status says.
pub(crate) fn since(pod: &PodView) -> Since {
    let known = pod.status.conditions.iter();
    known
        .filter_map(|c| Some((c.type_.clone(), (c.status == "True", c.last_transition_time.as_ref()?.0))))
        .collect()
}

/// The `status` to patch; `since` keeps the transition times.
pub(crate) fn status(pod: &PodView, run: &PodRun, since: &mut Since, now: Moment) -> Value {
    let phase = run.phase(pod);
    let mut status = Map::new();
    status.insert("phase".into(), phase.as_str().into());
    if let Some(generation) = pod.metadata.generation {
        status.insert("observedGeneration".into(), generation.into());
    }
    status.insert("hostIP".into(), run.host_ip.as_str().into());
    status.insert("hostIPs".into(), json!([{"ip": run.host_ip}]));
    if !(phase.is_terminal() && run.containers.iter().all(|container| container.runs == 0)) {
        status.insert("podIP".into(), run.ip.as_str().into());
        status.insert("podIPs".into(), json!([{"ip": run.ip}]));
    }
    status.insert("startTime".into(), time(run.start_time).into());
    if let Some(ending) = &run.ending
        && let (Some(reason), Some(message)) = (ending.reason, ending.message)
    {
        status.insert("reason".into(), reason.into());
        status.insert("message".into(), message.into());
    }
    let lists = [
        ("initContainerStatuses", &pod.spec.init_containers),
        ("containerStatuses", &pod.spec.containers),
        ("ephemeralContainerStatuses", &pod.spec.ephemeral_containers),
    ];
    for (field, specs) in lists {
        let statuses: Vec<Value> =
            specs.iter().filter_map(|spec| container_status(pod, run, spec, now)).collect();
        if !statuses.is_empty() {
            status.insert(field.into(), statuses.into());
        }
    }
    status.insert("conditions".into(), conditions(pod, run, phase, since, now).into());
    Value::Object(status)
}

fn container_status(pod: &PodView, run: &PodRun, spec: &ContainerSpec, now: Moment) -> Option<Value> {
    let container = run.containers.iter().find(|container| container.name == spec.name)?;
    let current = container.run();
    let (id, image) = match (current, &container.last) {
        (Some(run), _) => (Some(&run.id), container.image.as_str()),
        (None, Some(last)) => (Some(&last.id), last.image.as_str()),
        (None, None) => (None, spec.image.as_str()),
    };
    let mut status = Map::new();
    status.insert("name".into(), spec.name.as_str().into());
    let known = id.is_some();
    status.insert("image".into(), if known { images::full_name(image) } else { image.to_owned() }.into());
    status.insert("imageID".into(), if known { images::id(image) } else { String::new() }.into());
    if let Some(id) = id {
        status.insert("containerID".into(), id.as_str().into());
    }
    status.insert("ready".into(), container.ready(now).into());
    if container.class != Class::Ephemeral {
        status.insert("started".into(), current.is_some().into());
    }
    status.insert("restartCount".into(), container.restarts().into());
    let (state, last) = state(pod, container);
    status.insert("state".into(), state);
    status.insert("lastState".into(), last.unwrap_or_else(|| json!({})));
    if current.is_some() && container.class != Class::Ephemeral {
        resources(container, &mut status);
    }
    Some(Value::Object(status))
}

fn resources(container: &Container, status: &mut Map<String, Value>) {
    let resources = &container.resources;
    if let Some(requests) = resources.requests.as_ref().filter(|requests| !requests.is_empty()) {
        status.insert("allocatedResources".into(), json!(requests));
    }
    status.insert("resources".into(), json!({"requests": resources.requests, "limits": resources.limits}));
    if let Some(Value::Object(amounts)) = status.get_mut("resources") {
        amounts.retain(|_, amount| !amount.is_null());
    }
}

fn state(pod: &PodView, container: &Container) -> (Value, Option<Value>) {
    let last = || container.last.as_ref().map(terminated);
    let waiting = |reason: &str, message: Option<&str>| {
        let mut body = json!({"reason": reason});
        if let (Some(message), Value::Object(body)) = (message, &mut body) {
            body.insert("message".into(), message.into());
        }
        json!({"waiting": body})
    };
    match &container.phase {
        Phase::Running(run) | Phase::Stopping { run, .. } => {
            (json!({"running": {"startedAt": time(run.since)}}), last())
        }
        Phase::Exited => (last().unwrap_or_else(|| json!({})), None),
        Phase::PullFailed { reason, message, .. } => (waiting(reason, Some(message)), last()),
        Phase::CrashLoop { .. } => {
            let message = format!(
                "back-off {} restarting failed container={} pod={}_{}({})",
                go_duration(container.crash_delay()),
                container.name,
                pod.metadata.name.as_deref().unwrap_or_default(),
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                pod.uid()
            );
            (waiting("CrashLoopBackOff", Some(&message)), last())
        }
        // Between two runs the old one is still what is known.
        Phase::Waiting | Phase::Pulling { .. } | Phase::Starting { .. } => match last() {
            Some(last) => (last, None),
            None if pod.spec.init_containers.is_empty() => (waiting("ContainerCreating", None), None),
            None => (waiting("PodInitializing", None), None),
        },
    }
}

fn terminated(exit: &Exit) -> Value {
    json!({"terminated": {
        "exitCode": exit.code,
        "reason": exit.reason,
        "startedAt": time(exit.started),
        "finishedAt": time(exit.finished),
        "containerID": exit.id,
    }})
}

/// A condition's status, reason and message.
type Verdict = (bool, Option<&'static str>, Option<String>);

fn conditions(pod: &PodView, run: &PodRun, phase: PodPhase, since: &mut Since, now: Moment) -> Vec<Value> {
    let containers_ready = containers_ready(run, phase, now);
    let verdicts: [(&str, Verdict); 5] = [
        (
            "PodReadyToStartContainers",
            (!(phase.is_terminal() || run.ending.is_some() && run.stopped()), None, None),
        ),
        ("Initialized", initialized(run, phase)),
        ("Ready", ready(pod, &containers_ready)),
        ("ContainersReady", containers_ready),
        ("PodScheduled", (true, None, None)),
    ];
    let mut list: Vec<Value> =
        verdicts.into_iter().map(|(name, verdict)| condition(pod, name, verdict, since, now)).collect();
    match &run.resize {
        Resize::Pending(reason, message) => {
            list.push(condition(
                pod,
                "PodResizePending",
                (true, Some(reason), Some(message.clone())),
                since,
                now,
            ));
        }
        Resize::Done if pod.status.conditions.iter().any(|c| c.type_ == "PodResizePending") => {
            since.remove("PodResizePending");
            list.push(json!({"$patch": "delete", "type": "PodResizePending"}));
        }
        Resize::Done => {}
    }
    list
}

fn condition(pod: &PodView, name: &str, verdict: Verdict, since: &mut Since, now: Moment) -> Value {
    let (holds, reason, message) = verdict;
    let at = match since.get(name) {
        Some((before, at)) if *before == holds => *at,
        _ => now.wall,
    };
    since.insert(name.to_owned(), (holds, at));
    let mut condition = json!({
        "type": name,
        "status": if holds { "True" } else { "False" },
        "lastProbeTime": null,
        "lastTransitionTime": time(at),
        // Absent ones are named, so that the merge takes an earlier reason away.
        "reason": reason,
        "message": message,
    });
    if let (Some(generation), Value::Object(condition)) = (pod.metadata.generation, &mut condition) {
        condition.insert("observedGeneration".into(), generation.into());
    }
    condition
}

fn names<'a>(containers: impl Iterator<Item = &'a Container>) -> String {
    containers.map(|container| container.name.as_str()).collect::<Vec<_>>().join(" ")
}

fn initialized(run: &PodRun, phase: PodPhase) -> Verdict {
    if phase == PodPhase::Succeeded {
        return (true, Some("PodCompleted"), None);
    }
    let main_began =
        run.containers.iter().any(|container| container.class == Class::Main && container.runs > 0);
    let init = run.containers.iter().filter(|c| matches!(c.class, Class::Init | Class::Sidecar));
    let incomplete = names(init.filter(|container| !container.lets_pass()));
    if main_began || incomplete.is_empty() {
        return (true, None, None);
    }
    let message = format!("containers with incomplete status: [{incomplete}]");
    (false, Some("ContainersNotInitialized"), Some(message))
}

fn containers_ready(run: &PodRun, phase: PodPhase, now: Moment) -> Verdict {
    match phase {
        PodPhase::Succeeded => return (false, Some("PodCompleted"), None),
        PodPhase::Failed => return (false, Some("PodFailed"), None),
        PodPhase::Pending | PodPhase::Running => {}
    }
    let counted = run.containers.iter().filter(|c| matches!(c.class, Class::Main | Class::Sidecar));
    let unready = names(counted.filter(|container| !container.ready(now)));
    if unready.is_empty() {
        return (true, None, None);
    }
    (false, Some("ContainersNotReady"), Some(format!("containers with unready status: [{unready}]")))
}

fn ready(pod: &PodView, containers_ready: &Verdict) -> Verdict {
    if !containers_ready.0 {
        return containers_ready.clone();
    }
    let problems: Vec<String> = pod
        .spec
        .readiness_gates
        .iter()
        .filter_map(|gate| {
            let gate = &gate.condition_type;
            match pod.status.conditions.iter().find(|condition| condition.type_ == *gate) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist."))
                }
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{gate}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if problems.is_empty() {
        return (true, None, None);
    }
    (false, Some("ReadinessGatesNotReady"), Some(problems.join(", ")))
}
