//! Stopping one container as its pod wants it: the preStop hook, then the time to end, then the end.

use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, ObjectReference};
use kruise_runtime::events::{EventRecorder, EventType};
use kube::Api;
use tokio::time::Instant;

use crate::cri::discover::Runtimes;
use crate::cri::messages::ContainerState;
use crate::cri::{Cri, CriError};
use crate::hook::{Answered, http_get};
use crate::wire::{StoppableContainer, StoppablePod};

/// Seconds a container is given when nobody says how many.
pub(crate) const DEFAULT_GRACE: u64 = 30;
/// The least a container is given after its hook.
const LEAST: Duration = Duration::from_secs(2);

/// A container to stop.
pub(crate) struct Kill<'a> {
    pub(crate) cri: &'a Cri,
    /// The runtime's ID of exactly this container.
    pub(crate) id: &'a str,
    /// Name of the container in its pod.
    pub(crate) name: &'a str,
    /// The pod, freshly read: hooks are taken from it and from nowhere else.
    pub(crate) pod: &'a StoppablePod,
    /// How long hook and end may take together.
    pub(crate) grace: Duration,
    /// What the event says.
    pub(crate) message: &'a str,
}

/// Reads the pod a container belongs to; none if it is gone or another one of that name.
pub(crate) async fn read_pod(
    client: &kube::Client,
    namespace: &str,
    name: &str,
    uid: &str,
) -> kube::Result<Option<StoppablePod>> {
    let pod = Api::<StoppablePod>::namespaced(client.clone(), namespace).get_opt(name).await?;
    Ok(pod.filter(|pod| pod.metadata.uid.as_deref() == Some(uid)))
}

/// Runs the hook and stops the container.
pub(crate) async fn kill(kill: &Kill<'_>, events: &EventRecorder) -> Result<(), CriError> {
    let object = about(kill.pod, kill.name);
    events.event(object.clone(), EventType::Normal, "Killing", kill.message);
    let started = Instant::now();
    let container = container(kill.pod, kill.name);
    let hook = container.and_then(|container| container.lifecycle.as_ref()?.pre_stop.as_ref());
    let mut grace = kill.grace;
    if let (Some(hook), Some(container)) = (hook, container)
        && !grace.is_zero()
    {
        let ran = tokio::time::timeout(grace, run_hook(kill, hook, container)).await;
        let failure = match ran {
            Ok(Ok(Answered::AsAsked)) => None,
            Ok(Ok(Answered::Plainly)) => {
                let message = "preStop hook asks for HTTPS and was answered over HTTP";
                events.event(object.clone(), EventType::Warning, "LifecycleHTTPFallback", message);
                None
            }
            Ok(Err(error)) => Some(error),
            Err(_) => Some(format!("preStop hook did not end within {}s", grace.as_secs())),
        };
        if let Some(failure) = failure {
            let failure = failure.replace(kill.id, kill.name);
            events.event(object, EventType::Warning, "FailedPreStopHook", &failure);
        }
        grace = grace.saturating_sub(Duration::from_secs(started.elapsed().as_secs()));
    }
    match kill.cri.stop(kill.id, grace.max(LEAST)).await {
        // The runtime was slow to answer; the container may have ended all the same.
        Err(error @ CriError::TimedOut(_)) => match kill.cri.container(kill.id).await {
            Ok(Some(status)) if status.state == ContainerState::Running as i32 => Err(error),
            Ok(_) => Ok(()),
            Err(_) => Err(error),
        },
        // It is gone already.
        Err(CriError::Refused { code: tonic::Code::NotFound, .. }) => Ok(()),
        done => done,
    }
}

fn container<'a>(pod: &'a StoppablePod, name: &str) -> Option<&'a StoppableContainer> {
    pod.spec.containers.iter().find(|container| container.name == name)
}

/// A container of a pod, as events name it.
fn about(pod: &StoppablePod, container: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        field_path: Some(format!("spec.containers{{{container}}}")),
        ..ObjectReference::default()
    }
}

async fn run_hook(
    kill: &Kill<'_>,
    hook: &LifecycleHandler,
    container: &StoppableContainer,
) -> Result<Answered, String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let done = kill.cri.exec(kill.id, command, kill.grace).await.map_err(|error| error.to_string())?;
        if done.exit_code == 0 {
            return Ok(Answered::AsAsked);
        }
        let output = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(format!("preStop hook ended with code {}: {output}", done.exit_code));
    }
    if let Some(get) = &hook.http_get {
        return http_get(get, container, kill.pod).await;
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default())).await;
        return Ok(Answered::AsAsked);
    }
    Err("preStop hook is of an unknown kind".to_owned())
}

/// Shares what kills need.
#[derive(Clone)]
pub(crate) struct Killer {
    pub(crate) client: kube::Client,
    pub(crate) runtimes: Runtimes,
    pub(crate) events: EventRecorder,
}
