//! PersistentVolumeClaims get a made-up volume at once; larger requests are granted, and volumes go with their claim.

use std::sync::Arc;
use std::time::Duration;

use kruise_common::key::ObjectKey;
use kruise_runtime::store::View;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use serde_json::{Value, json};

use super::hub::{Hub, Loose, queue_itself, resource};
use super::rounds::{new_queue, unless, work};

/// Finalizer that keeps a claim while pods use it.
const PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Finalizer that keeps a volume while it is bound.
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

fn claims() -> ApiResource {
    resource("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
}

fn volumes(hub: &Hub) -> Api<DynamicObject> {
    Api::all_with(hub.client.clone(), &resource("", "v1", "PersistentVolume", "persistentvolumes"))
}

/// Binds claims, for ever.
pub(super) async fn control(hub: &Hub) {
    let Some(queue) = new_queue("persistentvolume-binder") else { return };
    queue_itself(&hub.claims, &queue);
    let pods = queue.clone();
    hub.pods.subscribe(Box::new(move |change| {
        // A pod that is gone or over may have been the last user of its claims.
        if let Some(old) = &change.old
            && change.new.as_ref().is_none_or(|new| new.object.ended())
        {
            for volume in &old.object.spec.volumes {
                if let Some(claim) = &volume.persistent_volume_claim {
                    pods.add(ObjectKey::new(Arc::clone(&old.key().namespace), claim.claim_name.as_str()));
                }
            }
        }
    }));
    tokio::join!(hub.claims.ready(), hub.volumes.ready(), hub.pods.ready());
    let orphans = async {
        let Some(queue) = new_queue("persistentvolume-reclaimer") else { return };
        queue_itself(&hub.volumes, &queue);
        let claims = queue.clone();
        hub.claims.subscribe(Box::new(move |change| {
            if let (Some(old), None) = (&change.old, &change.new) {
                claims.add(ObjectKey::new("", volume_name(old)));
            }
        }));
        work("persistentvolume-reclaimer", &queue, 4, |key| async move { reclaim(hub, &key).await }).await;
    };
    let binder = work("persistentvolume-binder", &queue, 4, |key| async move {
        match hub.claims.get(&key) {
            Some(claim) if claim.deleting() => release(hub, &claim).await,
            Some(claim) => bind(hub, &claim).await,
            None => Ok(None),
        }
    });
    tokio::join!(binder, orphans);
}

fn volume_name(claim: &Loose) -> String {
    claim.text("/spec/volumeName").map_or_else(|| format!("pvc-{}", claim.uid()), str::to_owned)
}

async fn bind(hub: &Hub, claim: &Loose) -> kube::Result<Option<Duration>> {
    let key = claim.key();
    let api = hub.api(&claims(), &key.namespace);
    let wanted = claim.field("/spec/resources/requests/storage");
    let patch = PatchParams::default();
    if claim.text("/status/phase") == Some("Bound") {
        let has = claim.field("/status/capacity/storage");
        if !wanted.is_null() && has != wanted {
            let status = json!({"status": {"capacity": {"storage": wanted}}});
            unless(api.patch_status(&key.name, &patch, &Patch::Merge(status)).await, &[404])?;
        }
        return Ok(None);
    }
    let name = volume_name(claim);
    if claim.text("/spec/volumeName").is_none() {
        let volume = serde_json::from_value(volume(claim, &name)).map_err(kube::Error::SerdeError)?;
        unless(volumes(hub).create(&PostParams::default(), &volume).await, &[409])?;
        let bound = json!({
            "metadata": {"uid": claim.uid().0, "annotations": {
                "pv.kubernetes.io/bind-completed": "yes",
                "pv.kubernetes.io/bound-by-controller": "yes",
            }},
            "spec": {"volumeName": name},
        });
        unless(api.patch(&key.name, &patch, &Patch::Merge(bound)).await, &[404])?;
        let status = Patch::Merge(json!({"status": {"phase": "Bound"}}));
        unless(volumes(hub).patch_status(&name, &patch, &status).await, &[404])?;
    }
    let status = json!({"status": {
        "phase": "Bound",
        "accessModes": claim.field("/spec/accessModes"),
        "capacity": {"storage": wanted},
    }});
    unless(api.patch_status(&key.name, &patch, &Patch::Merge(status)).await, &[404])?;
    Ok(None)
}

fn volume(claim: &Loose, name: &str) -> Value {
    let key = claim.key();
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": "sandbox.kruise.io/volumes"}},
        "spec": {
            "accessModes": claim.field("/spec/accessModes"),
            "capacity": {"storage": claim.field("/spec/resources/requests/storage")},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": &*key.namespace,
                "name": &*key.name,
                "uid": claim.uid().0,
            },
            "hostPath": {"path": format!("/sandbox/{name}"), "type": "DirectoryOrCreate"},
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": claim.text("/spec/storageClassName").unwrap_or_default(),
            "volumeMode": claim.text("/spec/volumeMode").unwrap_or("Filesystem"),
        },
    })
}

/// Lets a claim go that no pod uses any more.
async fn release(hub: &Hub, claim: &Loose) -> kube::Result<Option<Duration>> {
    if !claim.object.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == PROTECTION) {
        return Ok(None);
    }
    let key = claim.key();
    let used = hub.pods.all().iter().any(|pod| {
        let volumes =
            pod.object.spec.volumes.iter().filter_map(|volume| volume.persistent_volume_claim.as_ref());
        let mut names = volumes.map(|claim| claim.claim_name.as_str());
        pod.key().namespace == key.namespace && !pod.object.ended() && names.any(|name| name == &*key.name)
    });
    if used {
        return Ok(None);
    }
    drop_finalizer(&hub.api(&claims(), &key.namespace), claim, PROTECTION).await.map(|()| None)
}

async fn drop_finalizer(api: &Api<DynamicObject>, object: &Loose, finalizer: &str) -> kube::Result<()> {
    let all = object.object.metadata.finalizers.iter().flatten();
    let stay: Vec<&String> = all.filter(|name| *name != finalizer).collect();
    let stay = if stay.is_empty() { Value::Null } else { json!(stay) };
    let meta =
        json!({"uid": object.uid().0, "resourceVersion": object.resource_version(), "finalizers": stay});
    let patch = Patch::Merge(json!({"metadata": meta}));
    unless(api.patch(object.name(), &PatchParams::default(), &patch).await, &[404]).map(|_| ())
}

/// Deletes a made-up volume whose claim is gone.
async fn reclaim(hub: &Hub, key: &ObjectKey) -> kube::Result<Option<Duration>> {
    let Some(volume) = hub.volumes.get(key) else { return Ok(None) };
    let ours = volume.annotation("pv.kubernetes.io/provisioned-by") == Some("sandbox.kruise.io/volumes");
    let (Some(namespace), Some(name), Some(uid)) = (
        volume.text("/spec/claimRef/namespace"),
        volume.text("/spec/claimRef/name"),
        volume.text("/spec/claimRef/uid"),
    ) else {
        return Ok(None);
    };
    let claim = hub.claims.get(&ObjectKey::new(namespace, name));
    if !ours || claim.is_some_and(|claim| &*claim.uid().0 == uid) {
        return Ok(None);
    }
    // The volume may be seen before its claim is: ask once more before it goes.
    let found = unless(hub.api(&claims(), namespace).get_metadata(name).await, &[404])?;
    if found.is_some_and(|found| found.metadata.uid.as_deref() == Some(uid)) {
        return Ok(None);
    }
    if volume.deleting() {
        return drop_finalizer(&volumes(hub), &volume, VOLUME_PROTECTION).await.map(|()| None);
    }
    if volume.text("/spec/persistentVolumeReclaimPolicy") == Some("Delete") {
        unless(volumes(hub).delete(&key.name, &DeleteParams::default()).await, &[404])?;
    }
    Ok(None)
}
