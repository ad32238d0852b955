//! What one CloneSet and one of its revisions cost in a store: bytes of the heap and of the view itself.
#![allow(missing_docs)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this is a test"
)]

use std::alloc::System;
use std::sync::Arc;

use kruise_cloneset::stores::SetView;
use kruise_common::revision::{Revision, data_of};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A template of 5 containers with 30 variables each.
fn template(number: usize) -> Value {
    let container = |index: usize| {
        let variable =
            |at: usize| json!({"name": format!("VARIABLE_{at}"), "value": format!("value {at} of {number}")});
        json!({
            "name": format!("c{index}"),
            "image": format!("load.test/c{index}:1"),
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            "env": (0..30).map(variable).collect::<Vec<_>>(),
        })
    };
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": (0..5).map(container).collect::<Vec<_>>()}})
}

fn metadata(number: usize) -> Value {
    json!({
        "name": format!("web-{number:04}"), "namespace": "shop",
        "uid": format!("dc24a354-ab18-4111-9a3e-{number:012}"), "resourceVersion": format!("{number:06}"),
        "creationTimestamp": "2026-11-23T17:10:28Z", "generation": 1, "labels": {"app": "web"},
        "annotations": {"team": "shop"},
        "managedFields": [{"manager": "kubectl", "operation": "Update", "apiVersion": "apps.kruise.io/v1beta1",
            "time": "2026-11-23T17:10:28Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {".": {}, "f:replicas": {}, "f:selector": {}, "f:template": {}}}}],
    })
}

fn set(number: usize) -> Value {
    json!({
        "apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "metadata": metadata(number),
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template(number)},
        "status": {"observedGeneration": 1, "replicas": 2, "readyReplicas": 2, "availableReplicas": 2,
            "updatedReplicas": 2, "updatedReadyReplicas": 2, "updateRevision": "web-6c4bf58578",
            "currentRevision": "web-6c4bf58578", "labelSelector": "app=web"},
    })
}

fn revision(number: usize) -> Value {
    let mut metadata = metadata(number);
    metadata["ownerReferences"] = json!([{"apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "name": "web",
        "uid": "0b4ab385-4fa4-4837-b5c1-5969d3577be5", "controller": true, "blockOwnerDeletion": true}]);
    json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata, "revision": 1,
        "data": data_of(&template(number)),
    })
}

/// Bytes of one object on the wire, as a tree, and as it is kept.
fn cost<W: DeserializeOwned, V>(object: fn(usize) -> Value, view: fn(W) -> Option<V>) -> [usize; 3] {
    const OBJECTS: usize = 50;
    let wire: Vec<String> = (0..OBJECTS).map(|number| object(number).to_string()).collect();
    let length = wire.iter().map(String::len).sum::<usize>() / OBJECTS;
    let bytes_of = |region: &Region<'_, System>| {
        let used = region.change();
        (used.bytes_allocated - used.bytes_deallocated) / OBJECTS
    };
    let region = Region::new(ALLOCATOR);
    let trees: Vec<Value> = wire.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let tree = bytes_of(&region);
    drop(trees);
    let region = Region::new(ALLOCATOR);
    let views: Vec<Arc<V>> =
        wire.iter().map(|text| Arc::new(view(serde_json::from_str(text).unwrap()).unwrap())).collect();
    let kept = bytes_of(&region);
    assert_eq!(views.len(), OBJECTS);
    [length, tree, kept]
}

#[test]
fn a_large_template_costs_its_text_and_not_a_tree() {
    for (what, [length, tree, kept]) in
        [("a CloneSet", cost(set, SetView::of)), ("a revision", cost(revision, Revision::of))]
    {
        println!("{what}: {length} bytes on the wire, {tree} as a tree, {kept} as it is kept");
        assert!(tree > 8 * length, "it is a large template: {tree}");
        assert!(kept < length + 3072, "{what}: {kept} bytes for {length} on the wire");
    }
}
