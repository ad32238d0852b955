//! The CloneSets that are played with, and what they have come to.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How many requests of a kind are under way at once.
pub(crate) const CLIENTS: usize = 16;

/// What a CloneSet says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Counts changes of the spec.
    pub(crate) generation: u64,
    /// The status speaks of this spec.
    pub(crate) observed: bool,
    pub(crate) replicas: u64,
    pub(crate) available: u64,
    pub(crate) updated: u64,
    pub(crate) updated_available: u64,
}

impl Seen {
    fn of(set: &Value) -> Self {
        let number = |path: &str| set.pointer(path).and_then(Value::as_u64);
        let status = |field: &str| number(&format!("/status/{field}")).unwrap_or_default();
        let (generation, observed) = (number("/metadata/generation"), number("/status/observedGeneration"));
        Self {
            generation: generation.unwrap_or_default(),
            observed: observed.is_some() && observed == generation,
            replicas: status("replicas"),
            available: status("availableReplicas"),
            updated: status("updatedReplicas"),
            updated_available: status("updatedAvailableReplicas"),
        }
    }
}

/// CloneSets of one namespace, as the API server tells of them.
pub(crate) struct Sets {
    client: Client,
    api: Api<DynamicObject>,
    namespace: String,
    names: Vec<String>,
    seen: watch::Receiver<BTreeMap<String, Seen>>,
    /// The generation that the last change has led to: what is seen of earlier ones says nothing of it.
    generations: Vec<(String, u64)>,
    follows: JoinHandle<()>,
}

impl Drop for Sets {
    fn drop(&mut self) {
        self.follows.abort();
    }
}

pub(crate) fn clone_sets(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", "CloneSet");
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk_with_plural(&kind, "clonesets"))
}

/// A CloneSet of the simplest pods.
fn set(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps.kruise.io/v1beta1",
        "kind": "CloneSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name, "revision": "0"}},
                "spec": {"containers": [{"name": "main", "image": "load.test/app:1"}]},
            },
            "updateStrategy": {"rollingUpdate": {"podUpdatePolicy": "InPlaceIfPossible", "maxUnavailable": "50%"}},
        },
    })
}

impl Sets {
    /// Creates `count` sets in a namespace that is there, and follows them.
    pub(crate) async fn create(
        client: &Client,
        namespace: &str,
        count: u32,
        replicas: u32,
    ) -> anyhow::Result<Self> {
        let api = clone_sets(client, namespace);
        let (tell, seen) = watch::channel(BTreeMap::new());
        let follows = tokio::spawn(follow(api.clone(), tell));
        let names: Vec<String> = (0..count).map(|number| format!("set-{number}")).collect();
        let (client, namespace) = (client.clone(), namespace.to_owned());
        let mut sets = Self { client, api, namespace, names, seen, generations: Vec::new(), follows };
        sets.generations = sets
            .each(|api, name| async move {
                let object: DynamicObject = serde_json::from_value(set(&name, replicas))?;
                Ok(api.create(&PostParams::default(), &object).await?)
            })
            .await
            .context("cannot create CloneSets")?;
        Ok(sets)
    }

    async fn each<F>(
        &self,
        ask: impl Fn(Api<DynamicObject>, String) -> F,
    ) -> anyhow::Result<Vec<(String, u64)>>
    where
        F: Future<Output = anyhow::Result<DynamicObject>>,
    {
        let asked = self.names.iter().map(|name| {
            let answer = ask(self.api.clone(), name.clone());
            Ok(async move {
                let generation = answer.await?.metadata.generation.unwrap_or_default();
                anyhow::Ok((name.clone(), u64::try_from(generation)?))
            })
        });
        futures::stream::iter(asked).try_buffer_unordered(CLIENTS).try_collect().await
    }

    /// Changes the spec of every set.
    pub(crate) async fn patch(&mut self, spec: &Value) -> anyhow::Result<()> {
        let patch = json!({"spec": spec});
        let changed = self.each(|api, name| {
            let patch = Patch::Merge(patch.clone());
            async move { Ok(api.patch(&name, &PatchParams::default(), &patch).await?) }
        });
        self.generations = changed.await.context("cannot change CloneSets")?;
        Ok(())
    }

    /// Waits until `settled` holds of every set and their status speaks of the current spec.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        patience: Duration,
        settled: impl Fn(&Seen) -> bool,
    ) -> anyhow::Result<()> {
        let generations = &self.generations;
        let done = |set: Option<&Seen>, generation: u64| {
            set.is_some_and(|set| set.observed && set.generation >= generation && settled(set))
        };
        let all = |seen: &BTreeMap<String, Seen>| {
            generations.iter().all(|(name, generation)| done(seen.get(name), *generation))
        };
        let waited = tokio::time::timeout(patience, self.seen.wait_for(all)).await.map(|seen| seen.map(drop));
        if let Ok(followed) = waited {
            return followed.context("the sets are no longer followed");
        }
        let seen = self.seen.borrow();
        let odd = generations.iter().find(|(name, generation)| !done(seen.get(name), *generation));
        let odd = odd.map(|(name, _)| format!("{name} is at {:?}", seen.get(name))).unwrap_or_default();
        anyhow::bail!("not within {patience:?}: {what}; {odd}")
    }

    /// How many pods the namespace has.
    pub(crate) async fn pods(&self) -> anyhow::Result<u64> {
        let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(self.client.clone(), &self.namespace);
        let page = pods.list_metadata(&ListParams::default().limit(1)).await?;
        let more = page.metadata.remaining_item_count.unwrap_or_default();
        Ok(page.items.len() as u64 + u64::try_from(more)?)
    }

    /// Deletes the sets and waits until their pods are gone.
    pub(crate) async fn delete(self, patience: Duration) -> anyhow::Result<()> {
        self.api.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        let begun = tokio::time::Instant::now();
        while self.pods().await? > 0 {
            ensure!(begun.elapsed() < patience, "pods stay after their CloneSets");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }
}

async fn follow(api: Api<DynamicObject>, tell: watch::Sender<BTreeMap<String, Seen>>) {
    let mut events = watcher::watcher(api, watcher::Config::default()).boxed();
    // A watch that failed begins again by itself, with a list.
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(set) | Event::InitApply(set)) => {
                let name = set.metadata.name.clone().unwrap_or_default();
                if let Ok(value) = serde_json::to_value(set) {
                    tell.send_modify(|seen| {
                        seen.insert(name, Seen::of(&value));
                    });
                }
            }
            Ok(Event::Delete(set)) => {
                let name = set.metadata.name.unwrap_or_default();
                tell.send_modify(|seen| {
                    seen.remove(&name);
                });
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
