//! A running cluster is taken over from OpenKruise: recorded objects are laid down as it left them, the manager starts,
//! and nobody notices. The recordings are not part of this repository; `KRUISE_RECORDED` names their folder.
#![allow(clippy::indexing_slicing, reason = "fields of JSON values come into being when they are named")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kruise_e2e::{Manager, Place, PodView as _, SOON, Venue, agents_have_reported, cluster, seen};
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// Pods are started as they come: some make volumes first.
const STARTED: Duration = Duration::from_secs(90);

/// Whose turn it is: there is one manager.
static TURN: Mutex<()> = Mutex::const_new(());

/// The folder of recordings, or the reason why there is none.
fn recordings() -> Option<PathBuf> {
    let folder = std::env::var_os("KRUISE_RECORDED").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: KRUISE_RECORDED does not name a folder of recordings");
    }
    folder
}

/// The recorded objects of one kind that belong to CloneSets, or are CloneSets.
fn items(snapshot: &Path, file: &str) -> Result<Vec<Value>> {
    let path = snapshot.join(file);
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let list: Value = serde_json::from_slice(&text)?;
    let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let ours = |item: &Value| {
        item.get("kind").and_then(Value::as_str) == Some("CloneSet")
            || owner(item, "kind") == Some("CloneSet")
    };
    Ok(items.into_iter().filter(ours).collect())
}

fn owner<'a>(item: &'a Value, field: &str) -> Option<&'a str> {
    item.pointer("/metadata/ownerReferences/0")?.get(field)?.as_str()
}

fn name(item: &Value) -> &str {
    item.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// Takes out what the API server gives, and names the owner by the UID it has here.
fn fresh(mut item: Value, uids: &BTreeMap<String, String>) -> Value {
    if let Some(meta) = item.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in
            ["uid", "resourceVersion", "creationTimestamp", "generation", "namespace", "managedFields"]
        {
            meta.remove(field);
        }
        if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| !key.contains("kubernetes.io/") || key.starts_with("kubectl"));
        }
        let owners = meta.get_mut("ownerReferences").and_then(Value::as_array_mut);
        for owner in owners.into_iter().flatten() {
            let uid = owner.get("name").and_then(Value::as_str).and_then(|name| uids.get(name));
            owner["uid"] = json!(uid);
        }
    }
    item
}

/// A namespace in which everything is as OpenKruise left it.
struct Left {
    place: Place,
    sets: Vec<String>,
}

impl Drop for Left {
    /// The finalizers of hooks would keep the namespace for ever.
    fn drop(&mut self) {
        let script = format!(
            "for p in $(kubectl -n {0} get pods -o name); do \
             kubectl -n {0} patch $p --type=merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'; done",
            self.place.namespace()
        );
        let _ = std::process::Command::new("sh")
            .args(["-c", &script])
            .stdout(std::process::Stdio::null())
            .status();
    }
}

impl Left {
    async fn behind(snapshot: &Path) -> Result<Self> {
        for tag in ["1.14.2", "1.15.1"] {
            cluster(&["demo-image", tag, "library/nginx"]).await?;
        }
        cluster(&["demo-image", "1.32", "library/busybox"]).await?;
        let mut left = Self { place: Venue::Cluster.place().await?, sets: Vec::new() };
        let uids = left.lay_sets(snapshot).await?;
        for revision in items(snapshot, "controllerrevisions.apps.json")? {
            create::<ControllerRevision>(&left.place, &fresh(revision, &uids)).await?;
        }
        for claim in items(snapshot, "persistentvolumeclaims.json")? {
            let mut claim = fresh(claim, &uids);
            claim["spec"]["volumeName"].take();
            claim["status"].take();
            create::<PersistentVolumeClaim>(&left.place, &claim).await?;
        }
        left.lay_pods(snapshot, &uids).await?;
        Ok(left)
    }

    /// The sets with their status; answers the UID of each.
    async fn lay_sets(&mut self, snapshot: &Path) -> Result<BTreeMap<String, String>> {
        let api = self.place.sets("v1beta1");
        let mut uids = BTreeMap::new();
        for set in items(snapshot, "clonesets.v1beta1.json")? {
            let status = json!({"status": set.get("status")});
            let mut bare = fresh(set, &uids);
            // What owned a set is not here, and the garbage collector would take the set with it.
            bare["metadata"]["ownerReferences"].take();
            bare["status"].take();
            let made = api.create(&PostParams::default(), &serde_json::from_value(bare.clone())?).await?;
            uids.insert(name(&bare).to_owned(), made.metadata.uid.unwrap_or_default());
            self.sets.push(name(&bare).to_owned());
            let mut status = status;
            status["status"]["observedGeneration"] = json!(made.metadata.generation);
            api.patch_status(name(&bare), &PatchParams::default(), &Patch::Merge(&status)).await?;
        }
        Ok(uids)
    }

    /// The pods, until each is ready that was ready when it was recorded.
    async fn lay_pods(&self, snapshot: &Path, uids: &BTreeMap<String, String>) -> Result<()> {
        let pods = self.place.pods();
        let mut ready = Vec::new();
        for recorded in items(snapshot, "pods.json")? {
            let conditions = recorded.pointer("/status/conditions").and_then(Value::as_array).cloned();
            let conditions = conditions.unwrap_or_default();
            let is =
                |condition: &Value, type_: &str| condition.get("type").and_then(Value::as_str) == Some(type_);
            if conditions.iter().any(|it| is(it, "Ready") && it.get("status") == Some(&json!("True"))) {
                ready.push(name(&recorded).to_owned());
            }
            let ours: Vec<_> = conditions
                .into_iter()
                .filter(|it| is(it, "InPlaceUpdateReady") || is(it, "KruisePodReady"))
                .collect();
            let mut pod = fresh(recorded, uids);
            pod["spec"]["nodeName"].take();
            pod["status"].take();
            create::<Pod>(&self.place, &pod).await?;
            let status = json!({"status": {"conditions": ours}});
            pods.patch_status(name(&pod), &PatchParams::default(), &Patch::Strategic(&status)).await?;
        }
        seen("all pods are ready that were recorded as such", STARTED, async || {
            let there = pods.list(&ListParams::default()).await?.items;
            let is_ready = |name: &str| {
                there.iter().any(|pod| pod.name() == name && pod.condition("Ready") == Some(true))
            };
            let waiting: Vec<_> = ready.iter().filter(|name| !is_ready(name)).collect();
            ensure!(waiting.is_empty(), "{waiting:?} are not");
            Ok(Some(()))
        })
        .await?;
        agents_have_reported(&self.place).await
    }

    /// Name and version of every object there is, by kind.
    async fn versions(&self) -> Result<Vec<String>> {
        let kinds = "clonesets.v1beta1.apps.kruise.io,pods,controllerrevisions,persistentvolumeclaims";
        let path = "{range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.metadata.resourceVersion}{\"\\n\"}{end}";
        let text = self.place.kubectl(&["get", kinds, "--output", &format!("jsonpath={path}")]).await?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// What a manager may write of every pod, revision and claim: all but their status.
    async fn contents(&self) -> Result<Vec<Value>> {
        let kinds = "pods,controllerrevisions,persistentvolumeclaims";
        let mut list: Value =
            serde_json::from_str(&self.place.kubectl(&["get", kinds, "--output", "json"]).await?)?;
        let mut items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        for item in &mut items {
            item["status"].take();
            item["metadata"]["resourceVersion"].take();
        }
        Ok(items)
    }

    /// The status of every set by its name.
    async fn statuses(&self) -> Result<BTreeMap<String, Value>> {
        let mut statuses = BTreeMap::new();
        for name in &self.sets {
            statuses.insert(name.clone(), self.set(name).await?["status"].take());
        }
        Ok(statuses)
    }

    async fn set(&self, name: &str) -> Result<Value> {
        Ok(serde_json::to_value(self.place.sets("v1beta1").get(name).await?)?)
    }

    /// Sets the image of the first container of a set.
    async fn image(&self, set: &str, image: &str) -> Result<()> {
        let path = "/spec/template/spec/containers/0/image";
        let patch = json!([{"op": "replace", "path": path, "value": image}]);
        let patch = Patch::<Value>::Json(serde_json::from_value(patch)?);
        self.place.sets("v1beta1").patch(set, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Waits until the manager has seen the spec and all `replicas` pods of the set are at its revision and available.
    async fn completes(&self, set: &str, replicas: i64) -> Result<()> {
        seen(&format!("the rollout of {set} completes"), STARTED, async || {
            let now = self.set(set).await?;
            let status = |field: &str| now.pointer(&format!("/status/{field}")).cloned().unwrap_or_default();
            let observed = now.pointer("/metadata/generation") == Some(&status("observedGeneration"));
            let current = status("currentRevision") == status("updateRevision");
            let available = status("updatedAvailableReplicas") == json!(replicas);
            ensure!(observed && current && available, "status {}", now["status"]);
            Ok(Some(()))
        })
        .await
    }

    async fn pods_of(&self, set: &str) -> Result<Vec<Pod>> {
        let mut pods = self.place.pods().list(&ListParams::default()).await?.items;
        pods.retain(|pod| {
            let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
            pod.active() && owners.iter().any(|owner| owner.name == set)
        });
        Ok(pods)
    }
}

/// Whether the status tells of a failed round.
fn has_failed(status: &Value) -> bool {
    let conditions = status.get("conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        let type_ = condition.get("type").and_then(Value::as_str).unwrap_or_default();
        type_.starts_with("Failed") && condition.get("status") == Some(&json!("True"))
    })
}

async fn create<K>(place: &Place, object: &Value) -> Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope> + Serialize + DeserializeOwned,
    K: Clone + std::fmt::Debug,
    K::DynamicType: Default,
{
    let typed = serde_json::from_value::<K>(object.clone()).with_context(|| name(object).to_owned())?;
    let api = Api::<K>::namespaced(place.client(), place.namespace());
    api.create(&PostParams::default(), &typed).await.with_context(|| name(object).to_owned())?;
    Ok(())
}

/// How many CloneSets there are in the whole cluster: each has at least one round when the manager starts.
async fn all_sets(place: &Place) -> Result<f64> {
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", "CloneSet");
    let resource = ApiResource::from_gvk_with_plural(&kind, "clonesets");
    let sets = Api::<DynamicObject>::all_with(place.client(), &resource);
    Ok(sets.list_metadata(&ListParams::default()).await?.items.len() as f64)
}

#[tokio::test]
#[ignore = "needs a cluster and recordings: see e2e/cluster and KRUISE_RECORDED"]
async fn a_settled_cluster_is_taken_over_without_one_write_and_then_rolls_out() -> Result<()> {
    let Some(folder) = recordings() else { return Ok(()) };
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let back = manager.stopped().await?;
    let left = Left::behind(&folder.join("1-settled")).await?;
    let (before, told) = (left.versions().await?, left.statuses().await?);
    let failed: Vec<_> =
        told.iter().filter(|(_, status)| has_failed(status)).map(|(name, _)| name.clone()).collect();
    drop(back);
    manager.leads().await?;
    manager.has_worked(all_sets(&left.place).await? - 1.0).await?;
    let after = left.versions().await?;
    // A failure that the reference never takes back is taken back: one write of the status.
    let others = |versions: &[String]| {
        let stale = |line: &String| failed.iter().any(|name| line.starts_with(&format!("CloneSet {name} ")));
        versions.iter().filter(|line| !stale(line)).cloned().collect::<Vec<_>>()
    };
    ensure!(others(&after) == others(&before), "something was written: {before:#?} became {after:#?}");
    let now = left.statuses().await?;
    for (name, status) in &now {
        ensure!(!has_failed(status), "{name} has failed: {status}");
        let counts = |status: &Value| {
            let mut counts = status.clone();
            counts["conditions"].take();
            counts
        };
        let was = told.get(name).map(counts);
        ensure!(Some(counts(status)) == was, "{name}: {was:?} became {status}");
    }
    rolls_out(&left).await
}

/// The image of one taken-over set is changed in place, and another set scales.
async fn rolls_out(left: &Left) -> Result<()> {
    let old = left.pods_of("inplace-done").await?;
    ensure!(old.len() == 4, "{} pods", old.len());
    left.image("inplace-done", "nginx:1.15.1").await?;
    left.completes("inplace-done", 4).await?;
    let new = left.pods_of("inplace-done").await?;
    for (was, is) in old.iter().zip(&new) {
        ensure!(was.identity() == is.identity(), "{} became {}", was.name(), is.name());
        ensure!(is.image() == "nginx:1.15.1", "{} has {}", is.name(), is.image());
        let version =
            left.place.kubectl(&["exec", is.name(), "-c", "web", "--", "cat", "/etc/version"]).await?;
        ensure!(version == "1.15.1", "{} runs {version}", is.name());
    }
    let numbers = left.place.revisions().await?;
    let numbers: Vec<_> = numbers
        .iter()
        .filter(|it| it.metadata.name.as_deref().is_some_and(|name| name.starts_with("inplace-done-")))
        .map(|it| it.revision)
        .collect();
    ensure!(numbers.len() == 2 && numbers.contains(&1) && numbers.contains(&2), "revisions {numbers:?}");
    left.place.sets("v1beta1").patch("with-volumes", &PatchParams::default(), &scaled(3)).await?;
    seen("another pod has a volume", STARTED, async || {
        let now = left.set("with-volumes").await?;
        Ok((now.pointer("/status/availableReplicas") == Some(&json!(3))).then_some(()))
    })
    .await?;
    ensure!(
        left.place.claims().await?.iter().filter(|it| it.metadata.deletion_timestamp.is_none()).count() == 3
    );
    Ok(())
}

const COUNTS: [&str; 7] = [
    "replicas",
    "readyReplicas",
    "availableReplicas",
    "updatedReplicas",
    "updatedReadyReplicas",
    "currentRevision",
    "updateRevision",
];

#[tokio::test]
#[ignore = "needs a cluster and recordings: see e2e/cluster and KRUISE_RECORDED"]
async fn a_cluster_taken_over_in_mid_rollout_stands_still_and_then_goes_on() -> Result<()> {
    let Some(folder) = recordings() else { return Ok(()) };
    let _turn = TURN.lock().await;
    let manager = Manager::leading().await?;
    let back = manager.stopped().await?;
    let left = Left::behind(&folder.join("3-rolled")).await?;
    let (before, told) = (left.contents().await?, left.statuses().await?);
    drop(back);
    manager.leads().await?;
    manager.has_worked(all_sets(&left.place).await? - 1.0).await?;
    let after = left.contents().await?;
    for (was, is) in before.iter().zip(&after) {
        ensure!(was == is, "{was:#} became {is:#}");
    }
    ensure!(before.len() == after.len(), "{} objects became {}", before.len(), after.len());
    let count = |status: &Value, field: &str| status.get(field).cloned().unwrap_or(json!(0));
    seen("every status tells what it told", SOON, async || {
        for (name, now) in left.statuses().await? {
            let was = told.get(&name).cloned().unwrap_or_default();
            for field in COUNTS {
                let (was, is) = (count(&was, field), count(&now, field));
                ensure!(was == is, "{field} of {name} was {was} and is {is}");
            }
            ensure!(!has_failed(&now), "{name} has failed: {now}");
        }
        Ok(Some(()))
    })
    .await?;
    stuck_goes_on(&left).await?;
    partition_goes_on(&left).await
}

/// The image that is missing is mended.
async fn stuck_goes_on(left: &Left) -> Result<()> {
    left.image("stuck-surge", "nginx:1.15.1").await?;
    left.completes("stuck-surge", 3).await?;
    let images: Vec<_> =
        left.pods_of("stuck-surge").await?.iter().map(|pod| pod.image().to_owned()).collect();
    ensure!(images == ["nginx:1.15.1"; 3], "{images:?}");
    Ok(())
}

/// The partition is lifted: the pods that were left out follow in place.
async fn partition_goes_on(left: &Left) -> Result<()> {
    let old = left.pods_of("gray-partition").await?;
    let patch = Patch::Merge(json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}));
    left.place.sets("v1beta1").patch("gray-partition", &PatchParams::default(), &patch).await?;
    left.completes("gray-partition", 5).await?;
    for (was, is) in old.iter().zip(&left.pods_of("gray-partition").await?) {
        ensure!(was.identity() == is.identity(), "{} became {}", was.name(), is.name());
        ensure!(is.image() == "nginx:1.15.1", "{} has {}", is.name(), is.image());
        let again = i32::from(was.image() != is.image());
        ensure!(is.restarts() == was.restarts() + again, "{} restarted {} times", is.name(), is.restarts());
    }
    Ok(())
}

fn scaled(replicas: i32) -> Patch<Value> {
    Patch::Merge(json!({"spec": {"replicas": replicas}}))
}
