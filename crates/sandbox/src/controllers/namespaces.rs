//! Deletion of namespaces: what is in one goes first, pods before everything else; then its `kubernetes` finalizer.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use kube::Client;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::discovered::{self, Served};
use super::gc::Scope;
use super::hub::{Hub, Loose, queue_itself};
use super::rounds::{new_queue, unless, work};
use super::{Controller, hub};
use crate::clock::WallClock;

/// How soon a namespace with something left in it is looked at again.
const AGAIN: Duration = Duration::from_millis(250);

/// Deletes namespaces until `stop` resolves.
pub async fn run(client: Client, clock: WallClock, stop: impl Future<Output = ()>) {
    super::run_only(client, clock, &[Controller::Namespaces], Scope::Everything, stop).await;
}

/// Deletes namespaces, for ever.
pub(super) async fn control(hub: &Hub) {
    let Some(queue) = new_queue("namespace") else { return };
    queue_itself(&hub.namespaces, &queue);
    hub.namespaces.ready().await;
    work("namespace", &queue, 4, |key| async move {
        match hub.namespaces.get(&key) {
            Some(namespace) if namespace.deleting() => empty(hub, &namespace).await,
            _ => Ok(None),
        }
    })
    .await;
}

/// What is left in a namespace: objects per resource and per finalizer.
#[derive(Debug, Default, Eq, PartialEq)]
struct Left {
    resources: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

async fn empty(hub: &Hub, namespace: &Loose) -> kube::Result<Option<Duration>> {
    let finalizers = namespace.field("/spec/finalizers").as_array().cloned().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
        return Ok(None);
    }
    let kinds = discovered::resources(&hub.client).await?;
    let (pods, others): (Vec<Served>, Vec<Served>) = kinds
        .into_iter()
        .filter(|served| served.namespaced && served.allows("delete") && served.allows("list"))
        .partition(|served| served.resource.group.is_empty() && served.resource.plural == "pods");
    let mut left = Left::default();
    for served in &pods {
        delete_all(hub, served, namespace.name(), &mut left).await?;
    }
    if left.resources.is_empty() {
        for served in &others {
            delete_all(hub, served, namespace.name(), &mut left).await?;
        }
    }
    if left.resources.is_empty() {
        return finalize(hub, namespace, &finalizers).await.map(|()| None);
    }
    write_conditions(hub, namespace, &left).await?;
    Ok(Some(AGAIN))
}

/// Deletes all objects of a resource that are not being deleted yet, and counts what is left then.
async fn delete_all(hub: &Hub, served: &Served, namespace: &str, left: &mut Left) -> kube::Result<()> {
    let api = served.api(hub.client.clone(), namespace);
    let list = || async { unless(api.list_metadata(&ListParams::default()).await, &[404, 405]) };
    let Some(before) = list().await?.filter(|list| !list.items.is_empty()) else { return Ok(()) };
    let fresh: Vec<_> =
        before.items.iter().filter(|object| object.metadata.deletion_timestamp.is_none()).collect();
    let params = DeleteParams::background();
    if fresh.len() > 1 && served.allows("deletecollection") {
        api.delete_collection(&params, &ListParams::default()).await?;
    } else {
        for object in &fresh {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            unless(api.delete(name, &params).await, &[404])?;
        }
    }
    let after = if fresh.is_empty() { Some(before) } else { list().await? };
    let Some(after) = after.filter(|list| !list.items.is_empty()) else { return Ok(()) };
    let name = format!("{}.{}", served.resource.plural, served.resource.group);
    left.resources.insert(name, after.items.len());
    for finalizer in after.items.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
        *left.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    Ok(())
}

async fn finalize(hub: &Hub, namespace: &Loose, finalizers: &[Value]) -> kube::Result<()> {
    let stay: Vec<&Value> = finalizers.iter().filter(|finalizer| *finalizer != "kubernetes").collect();
    let mut body = namespace.object.clone();
    if let Some(spec) = body.data.get_mut("spec") {
        *spec = json!({"finalizers": stay});
    }
    let kind = hub::resource("", "v1", "Namespace", "namespaces");
    let api = kube::Api::<kube::core::DynamicObject>::all_with(hub.client.clone(), &kind);
    let body = with_types(&body);
    let done = api.replace_subresource("finalize", namespace.name(), &PostParams::default(), &body).await;
    unless(done, &[404]).map(|_| ())
}

fn with_types(object: &kube::core::DynamicObject) -> Value {
    let mut body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": object.metadata});
    if let (Value::Object(body), Value::Object(data)) = (&mut body, &object.data) {
        body.extend(data.clone());
    }
    body
}

/// Says in the namespace's status why it is still there, when that has changed.
async fn write_conditions(hub: &Hub, namespace: &Loose, left: &Left) -> kube::Result<()> {
    let known = namespace.field("/status/conditions").as_array().cloned().unwrap_or_default();
    let wanted = conditions(left);
    let same = |known: &Value, wanted: &Value| {
        ["type", "status", "reason", "message"].iter().all(|field| known.get(field) == wanted.get(field))
    };
    if wanted.iter().all(|wanted| known.iter().any(|known| same(known, wanted))) {
        return Ok(());
    }
    let now = hub.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let list: Vec<Value> = wanted
        .into_iter()
        .map(|mut condition| {
            let before = known.iter().find(|known| known.get("type") == condition.get("type"));
            let unchanged = before.filter(|before| before.get("status") == condition.get("status"));
            let since = unchanged.and_then(|before| before.get("lastTransitionTime")).cloned();
            if let Value::Object(condition) = &mut condition {
                condition.insert("lastTransitionTime".into(), since.unwrap_or_else(|| now.clone().into()));
            }
            condition
        })
        .collect();
    let kind = hub::resource("", "v1", "Namespace", "namespaces");
    let api = kube::Api::<kube::core::DynamicObject>::all_with(hub.client.clone(), &kind);
    let patch = Patch::Merge(json!({"status": {"conditions": list}}));
    unless(api.patch_status(namespace.name(), &PatchParams::default(), &patch).await, &[404]).map(|_| ())
}

fn conditions(left: &Left) -> Vec<Value> {
    let text = |counts: &BTreeMap<String, usize>, verb: &str| {
        let parts: Vec<String> =
            counts.iter().map(|(name, count)| format!("{name} {verb} {count} resource instances")).collect();
        parts.join(", ")
    };
    let row = |name: &str, status: bool, reason: &str, message: String| {
        let status = if status { "True" } else { "False" };
        json!({"type": name, "status": status, "reason": reason, "message": message})
    };
    let remaining = format!("Some resources are remaining: {}", text(&left.resources, "has"));
    let finalizers = if left.finalizers.is_empty() {
        let message = "All content-preserving finalizers finished".to_owned();
        row("NamespaceFinalizersRemaining", false, "ContentHasNoFinalizers", message)
    } else {
        let held = text(&left.finalizers, "in");
        let message = format!("Some content in the namespace has finalizers remaining: {held}");
        row("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", message)
    };
    vec![
        row(
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".into(),
        ),
        row(
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".into(),
        ),
        row(
            "NamespaceDeletionContentFailure",
            false,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".into(),
        ),
        row("NamespaceContentRemaining", true, "SomeResourcesRemain", remaining),
        finalizers,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_says_what_is_left_in_it() {
        let left = Left {
            resources: [("pods.".to_owned(), 2)].into(),
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
        };
        let messages: Vec<Value> = conditions(&left).iter().skip(3).map(|c| c["message"].clone()).collect();
        let expected = [
            "Some resources are remaining: pods. has 2 resource instances",
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
        ];
        assert_eq!(messages, expected);
    }
}
