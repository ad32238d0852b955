//! The node agents, as far as specs about others meet them: they write to pods as well.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;

use crate::manager::seen;
use crate::{Place, PodView as _, SOON};

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
