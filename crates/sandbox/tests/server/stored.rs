//! What was acknowledged is stored: status writes of one client are never lost to what others write at the same time.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kruise_sandbox::server::Server;
use kube::api::{
    ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::{Api, Resource};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{object, server_with};

/// Writes that each of the clients makes.
const ROUNDS: i64 = 60;

fn dynamic<K: Resource<DynamicType = ()>>(server: &Server) -> Api<DynamicObject> {
    Api::default_namespaced_with(server.client(), &ApiResource::erase::<K>(&()))
}

fn number(object: &DynamicObject, pointer: &str) -> i64 {
    object.data.pointer(pointer).and_then(Value::as_i64).unwrap_or(-1)
}

/// Patches until the server finds a moment between the writes of others; it gives up after some tries of its own.
async fn patiently(api: &Api<DynamicObject>, patch: &Patch<Value>, status: bool) -> DynamicObject {
    let params = PatchParams::default();
    loop {
        let patched = if status {
            api.patch_status("a", &params, patch).await
        } else {
            api.patch("a", &params, patch).await
        };
        match patched {
            Ok(object) => return object,
            Err(kube::Error::Api(refused)) if refused.code == 409 => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Writes the status again and again and reads it back each time.
async fn count_up(api: Api<DynamicObject>, status: fn(i64) -> Value, pointer: &'static str) {
    for round in 1..=ROUNDS {
        let patch = Patch::Merge(json!({"status": status(round)}));
        let answer = patiently(&api, &patch, true).await;
        assert_eq!(number(&answer, pointer), round, "the answer");
        let read = api.get("a").await.unwrap();
        assert_eq!(number(&read, pointer), round, "what is read after the answer");
        let listed = api.list(&ListParams::default()).await.unwrap();
        assert_eq!(number(listed.items.first().unwrap(), pointer), round, "what is listed after the answer");
        tokio::task::yield_now().await;
    }
}

/// Changes labels, by patches and by replacing what was read, which may be refused as out of date.
async fn relabel(api: Api<DynamicObject>, who: usize) {
    for round in 1..=ROUNDS {
        let patch = Patch::Merge(json!({"metadata": {"labels": {format!("w{who}"): round.to_string()}}}));
        patiently(&api, &patch, false).await;
        let mut read = api.get("a").await.unwrap();
        read.metadata.annotations.get_or_insert_default().insert(format!("w{who}"), round.to_string());
        match api.replace("a", &PostParams::default(), &read).await {
            Ok(_) => {}
            Err(kube::Error::Api(refused)) => assert_eq!(refused.code, 409),
            Err(error) => panic!("{error}"),
        }
        tokio::task::yield_now().await;
    }
}

async fn stays<K: Resource<DynamicType = ()>>(
    made: Value,
    status: fn(i64) -> Value,
    pointer: &'static str,
    managed_fields: bool,
) {
    let server = server_with(|config| config.managed_fields = managed_fields);
    let api = dynamic::<K>(&server);
    let made = api.create(&PostParams::default(), &object(made)).await.unwrap();
    let version = made.metadata.resource_version.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(count_up(api.clone(), status, pointer));
    for who in 0..3 {
        tasks.spawn(relabel(api.clone(), who));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let last = api.get("a").await.unwrap();
    assert_eq!(number(&last, pointer), ROUNDS);
    assert_eq!(last.metadata.labels.as_ref().unwrap()["w0"], ROUNDS.to_string());
    // A watcher sees every one of the states, in order, up to the last.
    let mut events = api.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let mut seen = 0;
    while let Some(WatchEvent::Modified(one)) = events.try_next().await.unwrap() {
        let now = number(&one, pointer).max(0);
        assert!(now == seen || now == seen + 1, "{now} after {seen}");
        seen = now;
        if one.metadata.resource_version == last.metadata.resource_version {
            break;
        }
    }
    assert_eq!(seen, ROUNDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_status_of_a_job_is_stored_whatever_others_write() {
    for managed_fields in [true, false] {
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": {"template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        stays::<Job>(job, |round| json!({"active": round}), "/status/active", managed_fields).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_status_of_a_budget_is_stored_whatever_others_write() {
    for managed_fields in [true, false] {
        let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "a"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
        let status = |round| {
            json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": round, "desiredHealthy": 1,
                "expectedPods": 1})
        };
        stays::<PodDisruptionBudget>(budget, status, "/status/currentHealthy", managed_fields).await;
    }
}
