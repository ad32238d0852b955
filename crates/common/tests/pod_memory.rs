//! What one Pod costs in a store: bytes of the heap and of the view itself, texts shared by a set's pods counted once.
#![allow(missing_docs)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this is a test"
)]

use std::alloc::System;
use std::path::PathBuf;
use std::sync::Arc;

use kruise_common::pod::PodView;
use kruise_common::pod_wire::PodWire;
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Most bytes that a pod of a set may cost.
const LIMIT: usize = 1536;

/// Most bytes after an update in place, of which half are what the node agent reports of two containers.
const UPDATED_LIMIT: usize = 2048;

/// The same pod as number `n` of its set: whatever differs from pod to pod has the length it has on a cluster.
fn member(pod: &Value, n: usize) -> PodWire {
    let old = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let id = format!("{n:05}");
    let mut changes = vec![(old("/metadata/uid"), format!("dc24a354-ab18-4111-9a3e-{n:012}"))];
    let own = old("/metadata/labels/apps.kruise.io~1cloneset-instance-id");
    if !own.is_empty() {
        changes.push((format!("-{own}\""), format!("-{id}\"")));
        changes.push((format!("\"{own}\""), format!("\"{id}\"")));
    }
    for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
        if let Some(container) =
            status["containerID"].as_str().and_then(|id| id.strip_prefix("containerd://"))
        {
            changes.push((container.to_owned(), format!("{n:064x}")));
        }
    }
    let mut text = pod.to_string();
    for (from, to) in changes.into_iter().filter(|(from, _)| from.len() > 4) {
        text = text.replace(&from, &to);
    }
    serde_json::from_str(&text).unwrap()
}

/// Bytes per pod of a set of many such pods.
fn cost(pod: &Value) -> usize {
    const PODS: usize = 100;
    let before = Region::new(ALLOCATOR);
    let views: Vec<Arc<PodView>> =
        (0..PODS).map(|number| Arc::new(PodView::from(member(pod, number)))).collect();
    let used = before.change();
    let bytes = used.bytes_allocated - used.bytes_deallocated;
    assert_eq!(views.len(), PODS);
    (bytes - PODS * size_of::<Arc<PodView>>()) / PODS
}

/// A pod as a cluster has it: two containers, one of which was updated in place.
fn updated_in_place() -> Value {
    let id = "1c604236f2c2eb2bc194324bfb27ec7169ac97edfd317b6ce57b2380144627d3";
    let other = "0aa51d59ccbd6902eb5d094771889855de14f40deb2143abcd32443afe2aca8f";
    let digest = "1939365664762cb389d579af15bd528ddeff61dc5e45df468701fd5f57a70117";
    let state = json!({
        "revision": "web-7b57f997df", "updateTimestamp": "2026-11-23T17:12:25Z",
        "lastContainerStatuses": {"web": {"imageID": format!("docker.io/library/nginx@sha256:{digest}")}},
        "updateImages": true,
        "containerBatchesRecord": [{"timestamp": "2026-11-23T17:12:25Z", "containers": ["web"]}],
    });
    let hashes = json!({"plainHash": 1_577_500_499, "extractedEnvFromMetadataHash": 86_995_377});
    let seen = |name: &str, id: &str| json!({"name": name, "containerID": format!("containerd://{id}"), "restartCount": 1, "hashes": hashes});
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-11-23T17:12:28Z"});
    let status = |name: &str, id: &str| {
        json!({"name": name, "image": format!("docker.io/library/{name}:1"), "ready": true, "restartCount": 1,
            "imageID": format!("docker.io/library/{name}@sha256:{digest}"), "containerID": format!("containerd://{id}"),
            "state": {"running": {"startedAt": "2026-11-23T17:12:25Z"}},
            "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "10m", "memory": "16Mi"}}})
    };
    let container = |name: &str| {
        json!({"name": name, "image": format!("{name}:1"),
            "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "10m", "memory": "16Mi"}}})
    };
    let conditions = [
        "KruisePodReady",
        "InPlaceUpdateReady",
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ]
    .map(condition);
    json!({
        "metadata": {
            "name": "web-b8w6m", "namespace": "shop", "uid": "dc24a354-ab18-4111-9a3e-6c995452ad72",
            "resourceVersion": "257300", "creationTimestamp": "2026-11-23T17:10:28Z",
            "labels": {
                "app": "web", "apps.kruise.io/cloneset-instance-id": "b8w6m",
                "controller-revision-hash": "web-7b57f997df", "lifecycle.apps.kruise.io/state": "Normal",
                "pod-template-hash": "7b57f997df", "tier": "front",
            },
            "annotations": {
                "apps.kruise.io/inplace-update-state": state.to_string(),
                "apps.kruise.io/runtime-containers-meta": json!({"containers": [seen("web", id), seen("side", other)]}).to_string(),
                "lifecycle.apps.kruise.io/timestamp": "2026-11-23T17:12:26Z",
            },
            "ownerReferences": [{"apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "name": "web",
                "uid": "0b4ab385-4fa4-4837-b5c1-5969d3577be5", "controller": true}],
        },
        "spec": {
            "nodeName": "node-2", "containers": [container("web"), container("side")],
            "readinessGates": [{"conditionType": "InPlaceUpdateReady"}, {"conditionType": "KruisePodReady"}],
        },
        "status": {
            "phase": "Running",
            "conditions": conditions,
            "containerStatuses": [status("web", id), status("side", other)],
        },
    })
}

#[test]
fn a_pod_costs_little_more_than_what_is_its_own() {
    let mut pod = updated_in_place();
    let updated = cost(&pod);
    pod["metadata"]["annotations"].as_object_mut().unwrap().remove("apps.kruise.io/inplace-update-state");
    let never_updated = cost(&pod);
    assert!(updated <= UPDATED_LIMIT && never_updated <= LIMIT, "{updated} {never_updated}");
    println!("two containers: {updated} bytes when updated in place, {never_updated} before");

    // Recordings of a real cluster, where there are some: the same test, since others would be counted with it.
    let Ok(folder) = std::env::var("KRUISE_RECORDED") else {
        return;
    };
    let (mut all, mut count) = (0, 0);
    for snapshot in ["1-settled", "2-mid-rollout", "3-rolled"] {
        let text =
            std::fs::read(PathBuf::from(&folder).join(snapshot).join("pods.json")).expect("a recording");
        let list: Value = serde_json::from_slice(&text).unwrap();
        let costs: Vec<usize> = list["items"].as_array().unwrap().iter().map(cost).collect();
        all += costs.iter().sum::<usize>();
        count += costs.len();
        println!(
            "{snapshot}: {} bytes on average, {:?} at most",
            costs.iter().sum::<usize>() / costs.len(),
            costs.iter().max()
        );
    }
    println!("all: {} bytes on average", all / count);
    assert!(all / count <= LIMIT);
}
