//! Faults on purpose.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kruise_sandbox::error::ApiError;
use kruise_sandbox::server::{Decision, Delivery, Fate, Interceptor, RequestInfo, Server, Verb, WatchEvent};
use kube::api::{PostParams, WatchParams};

use super::{config_map, config_maps, server_with, status};

/// Treats writes by the name of the object.
struct ByName;

impl Interceptor for ByName {
    fn before(&self, request: &RequestInfo) -> Decision {
        if request.verb != Verb::Get || request.client.as_ref() != "victim" {
            return Decision::default();
        }
        match request.name.as_str() {
            "refuse" => Fate::Fail(ApiError::too_many_requests("try later", 3)).into(),
            "lose" => Fate::LoseRequest.into(),
            "late" => Decision { delay: Duration::from_secs(9), then: Fate::Proceed },
            _ => Decision::default(),
        }
    }

    fn event(&self, event: &WatchEvent<'_>) -> Delivery {
        match event.object["metadata"]["name"].as_str() {
            Some("twice") => Delivery::Twice,
            Some("expire") => Delivery::Expire,
            Some("end") => Delivery::End,
            Some("late") => Delivery::After(Duration::from_secs(5)),
            _ => Delivery::Now,
        }
    }
}

struct LoseAnswers;

impl Interceptor for LoseAnswers {
    fn before(&self, request: &RequestInfo) -> Decision {
        if request.verb == Verb::Create { Fate::LoseResponse.into() } else { Decision::default() }
    }
}

fn faulty(interceptor: impl Interceptor + 'static) -> Server {
    server_with(|config| config.interceptor = Some(Arc::new(interceptor)))
}

#[tokio::test(start_paused = true)]
async fn requests_fail_are_lost_or_come_late_as_decided() {
    let server = faulty(ByName);
    let victim = config_maps(&server.client_as("victim"));
    let refused = status(victim.get("refuse").await);
    assert_eq!((refused.code, refused.details.as_ref().unwrap().retry_after_seconds), (429, 3));
    assert!(!matches!(victim.get("lose").await, Err(kube::Error::Api(_))));
    let begin = tokio::time::Instant::now();
    assert_eq!(status(victim.get("late").await).code, 404);
    assert_eq!(begin.elapsed().as_secs(), 9);
    assert_eq!(status(config_maps(&server.client()).get("refuse").await).code, 404, "others are left alone");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_leaves_the_write_done() {
    let server = faulty(LoseAnswers);
    let api = config_maps(&server.client());
    assert!(!matches!(api.create(&PostParams::default(), &config_map("a")).await, Err(kube::Error::Api(_))));
    api.get("a").await.unwrap();
    assert_eq!(server.writes(Some("in-process")), 1);
}

#[tokio::test(start_paused = true)]
async fn events_are_doubled_delayed_or_cut_off_as_decided() {
    let server = faulty(ByName);
    let api = config_maps(&server.client());
    let mut events = pin!(api.watch(&WatchParams::default(), "0").await.unwrap());
    let mut other = pin!(api.watch(&WatchParams::default(), "0").await.unwrap());
    for name in ["twice", "late", "expire"] {
        api.create(&PostParams::default(), &config_map(name)).await.unwrap();
    }
    let name = |event: kube::core::WatchEvent<ConfigMap>| match event {
        kube::core::WatchEvent::Added(map) => map.metadata.name.unwrap(),
        kube::core::WatchEvent::Error(status) => status.code.to_string(),
        _ => String::new(),
    };
    let mut seen = Vec::new();
    let begin = tokio::time::Instant::now();
    while let Some(event) = events.next().await {
        seen.push((name(event.unwrap()), begin.elapsed().as_secs()));
    }
    let seen: Vec<(&str, u64)> = seen.iter().map(|(name, at)| (name.as_str(), *at)).collect();
    assert_eq!(seen, [("twice", 0), ("twice", 0), ("late", 5), ("410", 5)]);
    api.create(&PostParams::default(), &config_map("z")).await.unwrap();
    assert_eq!(name(other.next().await.unwrap().unwrap()), "twice", "each watcher has its own place");
}
