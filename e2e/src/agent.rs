//! The node agents, as far as specs about others meet them: they write to pods as well.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::manager::seen;
use crate::{Place, PodView as _, SOON};

const AGENTS: &str = "daemonset/kruise-daemon";
const REPORT: &str = "apps.kruise.io/runtime-containers-meta";

/// Waits until the node agents, where there are any, have said all they have to say about the pods of a place: from then
/// on only others write to a pod whose containers stay.
pub async fn agents_have_reported(place: &Place) -> Result<()> {
    let agents = Api::<DaemonSet>::namespaced(place.client(), "kruise-system");
    if agents.get_opt("kruise-daemon").await?.is_none() {
        return Ok(());
    }
    seen("the node agents have reported", SOON, async || {
        for pod in place.pods().list(&ListParams::default()).await?.items {
            ensure!(running(&pod).is_subset(&reported(&pod)), "{} is not reported as it is", pod.name());
        }
        Ok(Some(()))
    })
    .await
}

/// Puts the agents back as they were, and waits until they run.
#[must_use = "the agents are as they were once this is dropped"]
pub struct AgentsBack {
    patch: String,
}

impl Drop for AgentsBack {
    /// A child process, because the runtime of a failed spec no longer runs tasks.
    fn drop(&mut self) {
        let _ = kubectl(&["patch", AGENTS, "--type=json", "--patch", &self.patch]);
        let _ = kubectl(&["rollout", "status", AGENTS, "--timeout=90s"]);
    }
}

fn kubectl(arguments: &[&str]) -> Result<String> {
    let output = Command::new("kubectl").args(["--namespace", "kruise-system"]).args(arguments).output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Gives the agents of all nodes one more argument, until the answer is dropped.
pub fn agents_with_argument(argument: &str) -> Result<AgentsBack> {
    let path = "/spec/template/spec/containers/0/args";
    let old = kubectl(&["get", AGENTS, "-o", "jsonpath={.spec.template.spec.containers[0].args}"])?;
    let old: Value = serde_json::from_str(&old)?;
    let back = AgentsBack { patch: json!([{"op": "replace", "path": path, "value": old}]).to_string() };
    let more = json!([{"op": "add", "path": format!("{path}/-"), "value": argument}]);
    kubectl(&["patch", AGENTS, "--type=json", "--patch", &more.to_string()])?;
    kubectl(&["rollout", "status", AGENTS, "--timeout=90s"])?;
    Ok(back)
}

/// The containers of a pod that run, by their identity.
fn running(pod: &Pod) -> BTreeSet<String> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let running = statuses.filter(|one| one.state.as_ref().is_some_and(|state| state.running.is_some()));
    running.filter_map(|one| one.container_id.clone()).collect()
}

/// The containers that the agent has told of.
fn reported(pod: &Pod) -> BTreeSet<String> {
    let report = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(REPORT));
    let report: Value = report.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let containers = report.get("containers").and_then(Value::as_array).into_iter().flatten();
    containers.filter_map(|one| one.get("containerID")?.as_str().map(str::to_owned)).collect()
}
