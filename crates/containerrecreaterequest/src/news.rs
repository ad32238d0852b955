//! What users are told of a request, which otherwise only its pod's events show.

use kruise_api::containerrecreaterequest::{
    ContainerRecreateRequest, ContainerRecreateRequestPhase as Phase, ContainerRecreateRequestStatus,
};
use kruise_runtime::events::EventType;

/// An event about a request.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct News {
    /// Whether it went as asked.
    pub(crate) kind: EventType,
    /// Its reason.
    pub(crate) reason: &'static str,
    /// What happened.
    pub(crate) message: String,
}

/// What became of a request between two looks at it, if it is worth an event: its start and its end. A request that ends
/// well between two looks has no start to tell of.
pub(crate) fn news(old: &ContainerRecreateRequest, new: &ContainerRecreateRequest) -> Option<News> {
    let phase = |request: &ContainerRecreateRequest| request.status.as_ref().and_then(|status| status.phase);
    let (before, now) = (phase(old), phase(new));
    if before == now {
        return None;
    }
    let status = new.status.as_ref()?;
    match now? {
        Phase::Recreating => {
            let names: Vec<_> = new.spec.containers.iter().map(|container| container.name.as_str()).collect();
            let message = format!("Recreating {} of pod {}", names.join(", "), new.spec.pod_name);
            Some(News { kind: EventType::Normal, reason: "RecreateStarted", message })
        }
        Phase::Completed => Some(ending(new, status)),
        Phase::Pending | Phase::Succeeded | Phase::Failed => None,
    }
}

fn ending(request: &ContainerRecreateRequest, status: &ContainerRecreateRequestStatus) -> News {
    let states = || status.container_recreate_states.iter().flatten();
    let unfinished: Vec<_> = request
        .spec
        .containers
        .iter()
        .filter_map(|container| {
            let state = states().find(|state| state.name == container.name);
            match state {
                Some(state) if state.phase == Phase::Succeeded => None,
                Some(state) => Some(match state.message.as_deref().filter(|message| !message.is_empty()) {
                    Some(message) => format!("{} ({message})", container.name),
                    None => container.name.clone(),
                }),
                None => Some(container.name.clone()),
            }
        })
        .collect();
    let pod = &request.spec.pod_name;
    if unfinished.is_empty() {
        let message = format!("Recreated all containers asked for of pod {pod}");
        return News { kind: EventType::Normal, reason: "RecreateCompleted", message };
    }
    let why = status.message.as_deref().filter(|message| !message.is_empty());
    let why = why.map_or_else(String::new, |message| format!(": {message}"));
    let message = format!("Not recreated of pod {pod}: {}{why}", unfinished.join(", "));
    News { kind: EventType::Warning, reason: "RecreateFailed", message }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(status: Value) -> ContainerRecreateRequest {
        serde_json::from_value(
            json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "ContainerRecreateRequest",
            "metadata": {"name": "r"}, "spec": {"podName": "web", "containers": [{"name": "a"}, {"name": "b"}]},
            "status": status}),
        )
        .unwrap()
    }

    fn told(old: Value, new: Value) -> Option<(EventType, &'static str, String)> {
        news(&request(old), &request(new)).map(|News { kind, reason, message }| (kind, reason, message))
    }

    #[test]
    fn start_and_end_are_told_once_and_nothing_else_is() {
        let (pending, going) = (json!({"phase": "Pending"}), json!({"phase": "Recreating"}));
        let start = (EventType::Normal, "RecreateStarted", "Recreating a, b of pod web".to_owned());
        assert_eq!(told(Value::Null, pending.clone()), None);
        assert_eq!(told(pending, going.clone()), Some(start));
        assert_eq!(told(going.clone(), going.clone()), None);
        let done = json!({"phase": "Completed", "containerRecreateStates":
            [{"name": "a", "phase": "Succeeded"}, {"name": "b", "phase": "Succeeded"}]});
        let end = (
            EventType::Normal,
            "RecreateCompleted",
            "Recreated all containers asked for of pod web".to_owned(),
        );
        assert_eq!(told(going, done.clone()), Some(end));
        assert_eq!(told(done.clone(), done), None);
    }

    #[test]
    fn a_failure_names_the_containers_and_why() {
        let end = json!({"phase": "Completed", "message": "the pod is gone", "containerRecreateStates":
            [{"name": "a", "phase": "Succeeded"}, {"name": "b", "phase": "Failed", "message": "no such task"}]});
        let message = "Not recreated of pod web: b (no such task): the pod is gone".to_owned();
        assert_eq!(told(Value::Null, end), Some((EventType::Warning, "RecreateFailed", message)));
        let silent = json!({"phase": "Completed"});
        let message = "Not recreated of pod web: a, b".to_owned();
        assert_eq!(told(Value::Null, silent), Some((EventType::Warning, "RecreateFailed", message)));
    }
}
