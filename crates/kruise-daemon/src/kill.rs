//! Stopping one container as its pod wants it: the preStop hook, then the time to end, then the end.

use std::time::Duration;

use http::Request;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{HTTPGetAction, LifecycleHandler, ObjectReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kruise_runtime::events::{EventRecorder, EventType};
use kube::Api;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::cri::discover::Runtimes;
use crate::cri::messages::ContainerState;
use crate::cri::{Cri, CriError};
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
            Ok(Ok(())) => None,
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
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let done = kill.cri.exec(kill.id, command, kill.grace).await.map_err(|error| error.to_string())?;
        if done.exit_code == 0 {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(format!("preStop hook ended with code {}: {output}", done.exit_code));
    }
    if let Some(get) = &hook.http_get {
        return http_get(get, container, kill.pod).await;
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default())).await;
        return Ok(());
    }
    Err("preStop hook is of an unknown kind".to_owned())
}

/// Host and port a hook goes to: the pod's own address unless the hook names another, and the port by its number or
/// by its name in the container.
fn target(
    get: &HTTPGetAction,
    container: &StoppableContainer,
    pod: &StoppablePod,
) -> Result<(String, u16), String> {
    let own = || pod.status.pod_ip.clone();
    let host =
        get.host.clone().filter(|host| !host.is_empty()).or_else(own).ok_or("the pod has no address")?;
    let by_name = |name: &str| {
        let ports = container.ports.iter().flatten();
        ports.filter(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port).next()
    };
    let port = match &get.port {
        IntOrString::Int(port) => Some(*port),
        IntOrString::String(text) => text.parse().ok().or_else(|| by_name(text)),
    };
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    Ok((host, port.ok_or("the hook's port is unknown")?))
}

async fn http_get(
    get: &HTTPGetAction,
    container: &StoppableContainer,
    pod: &StoppablePod,
) -> Result<(), String> {
    if get.scheme.as_deref() == Some("HTTPS") {
        return Err("preStop hooks over HTTPS are not supported".to_owned());
    }
    let (host, port) = target(get, container, pod)?;
    let path = get.path.as_deref().filter(|path| path.starts_with('/')).unwrap_or("/");
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = Request::get(path).header("Host", &authority).header("User-Agent", "kube-lifecycle");
    for header in get.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| error.to_string());
    connection.abort();
    let status = answer?.status();
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(format!("preStop hook answered {status}"))
    }
}

/// Shares what kills need.
#[derive(Clone)]
pub(crate) struct Killer {
    pub(crate) client: kube::Client,
    pub(crate) runtimes: Runtimes,
    pub(crate) events: EventRecorder,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> StoppablePod {
        serde_json::from_value(json!({"spec": {"containers": [
            {"name": "main", "ports": [{"name": "web", "containerPort": 8080}]}]}, "status": {"podIP": "10.0.0.9"}}))
        .unwrap()
    }

    #[test]
    fn hooks_go_to_the_pods_address_and_ports_are_found_by_name() {
        let pod = pod();
        for (get, expected) in [
            (json!({"port": 80}), Ok(("10.0.0.9".to_owned(), 80))),
            (json!({"port": "web"}), Ok(("10.0.0.9".to_owned(), 8080))),
            (json!({"port": "81", "host": "other"}), Ok(("other".to_owned(), 81))),
            (json!({"port": "nope"}), Err("the hook's port is unknown".to_owned())),
            (json!({"port": 0}), Err("the hook's port is unknown".to_owned())),
            (json!({"port": 70000}), Err("the hook's port is unknown".to_owned())),
        ] {
            let action: HTTPGetAction = serde_json::from_value(get).unwrap();
            assert_eq!(target(&action, container(&pod, "main").unwrap(), &pod), expected);
        }
    }
}
