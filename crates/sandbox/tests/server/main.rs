//! The API server as kube's client sees it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "all of this is a test")]

mod custom;
mod definitions;
mod faults;
mod listener;
mod lists;
mod stored;
mod subresources;
mod tables;
mod watches;
mod webhooks;
mod writes;

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kruise_sandbox::clock;
use kruise_sandbox::server::{Config, Server};
use kube::core::Status;
use kube::{Api, Client};
use serde_json::{Value, json};

/// A server with repeatable uids and a clock that tokio's paused time moves.
fn server() -> Server {
    server_with(|_| {})
}

fn server_with(adjust: impl FnOnce(&mut Config)) -> Server {
    let start = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut config = Config { clock: clock::simulated(start), seed: Some(1), ..Config::default() };
    adjust(&mut config);
    Server::new(config)
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn config_map(name: &str) -> ConfigMap {
    object(json!({"metadata": {"name": name}, "data": {"a": "1"}}))
}

fn config_maps(client: &Client) -> Api<ConfigMap> {
    Api::default_namespaced(client.clone())
}

/// The status of a failed request.
fn status<T: Debug>(outcome: Result<T, kube::Error>) -> Arc<Status> {
    match outcome.unwrap_err() {
        kube::Error::Api(status) => Arc::from(status),
        other => panic!("not an answer of the server: {other:?}"),
    }
}
