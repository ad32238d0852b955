//! The agent as a whole, on an API server and a container runtime in memory, with simulated time.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests end a test where they cannot go on"
)]

mod fake_cri;

mod pods;
mod progressing;
mod pulling;
mod recreating;
mod reporting;
mod runtimes;
mod starting;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use k8s_openapi::api::core::v1::Event;
use kruise_api::nodeimage::{ImageTagStatus, NodeImage};
use kruise_common::gates::FeatureGates;
use kruise_daemon::disk::{Disk, Room};
use kruise_daemon::flags::Flags;
use kruise_daemon::run::{self, Setup};
use kruise_runtime::metrics::Metrics;
use kruise_sandbox::clock;
use kruise_sandbox::server::{Config, Server};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use fake_cri::FakeCri;

pub(crate) const NODE: &str = "node1";

fn plenty() -> Arc<Mutex<Room>> {
    Arc::new(Mutex::new(Room { free: 50 << 30, size: 100 << 30 }))
}

/// An API server, a container runtime and an agent that can be started and killed.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) cri: FakeCri,
    pub(crate) client: kube::Client,
    clock: kruise_daemon::Clock,
    /// The room for images.
    pub(crate) room: Arc<Mutex<Room>>,
    agent: Option<JoinHandle<anyhow::Result<()>>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let clock = clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let server = Server::new(Config { clock: Arc::clone(&clock), ..Config::default() });
        let client = server.client_as("user");
        let definitions = Api::all(client.clone());
        for definition in kruise_api::crd::all() {
            definitions.create(&PostParams::default(), &definition).await.unwrap();
        }
        Self { server, cri: FakeCri::default(), client, clock, room: plenty(), agent: None }
    }

    /// Starts the agent with flags; one that runs is killed first.
    pub(crate) fn start(&mut self, flags: &[&str]) {
        self.kill();
        let line = ["kruise-daemon"].into_iter().chain(flags.iter().copied());
        let line =
            line.chain(Some("--addr=0").filter(|_| !flags.iter().any(|flag| flag.starts_with("--addr"))));
        let own = ["--node-name", NODE];
        let named = flags.iter().any(|flag| flag.starts_with("--node-name"));
        let line = line.chain(own.into_iter().filter(|_| !named));
        let flags = Flags::try_parse_from(line).unwrap();
        let gates = FeatureGates::defaults();
        let metrics = Metrics::new("0", "test", gates).unwrap();
        let (room, runtimes) = (Arc::clone(&self.room), self.cri.runtimes());
        let disk: Disk = Arc::new(move || Ok(*room.lock().unwrap()));
        let setup = Setup { flags, gates, runtimes, disk, clock: Arc::clone(&self.clock), metrics };
        let client = self.server.client_as("daemon");
        self.agent = Some(tokio::spawn(run::run(setup, client, std::future::pending())));
    }

    /// Waits until the agent ends by itself.
    pub(crate) async fn end(&mut self) -> anyhow::Result<()> {
        self.agent.take().unwrap().await.unwrap()
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        (self.clock)()
    }

    pub(crate) fn kill(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.abort();
        }
    }

    pub(crate) async fn create_node_image(&self, images: Value) {
        let object: NodeImage = serde_json::from_value(json!({"apiVersion": "apps.kruise.io/v1beta1",
            "kind": "NodeImage", "metadata": {"name": NODE}, "spec": {"images": images}}))
        .unwrap();
        self.node_images().create(&PostParams::default(), &object).await.unwrap();
    }

    pub(crate) async fn patch_node_image(&self, images: Value) {
        let patch = json!({"spec": {"images": images}});
        self.node_images().patch(NODE, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub(crate) fn node_images(&self) -> Api<NodeImage> {
        Api::all(self.client.clone())
    }

    pub(crate) async fn node_image(&self) -> NodeImage {
        self.node_images().get(NODE).await.unwrap()
    }

    /// The status of a tag, as far as it is known.
    pub(crate) async fn tag(&self, image: &str, tag: &str) -> Option<ImageTagStatus> {
        let status = self.node_image().await.status?;
        let tags = status.image_statuses?.remove(image)?.tags;
        tags.into_iter().find(|status| status.tag == tag)
    }

    /// Waits until a pull has ended.
    pub(crate) async fn ended(&self, image: &str, tag: &str) -> ImageTagStatus {
        for _ in 0..100_000 {
            match self.tag(image, tag).await {
                Some(status) if status.completion_time.is_some() => return status,
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        panic!("the pull of {image}:{tag} did not end: {:?}", self.node_image().await.status);
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        for _ in 0..10_000 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not within 1000 s: {what}");
    }

    /// Type, reason, kind of object and message of all events.
    pub(crate) async fn events(&self) -> Vec<(String, String, String, String)> {
        let events = Api::<Event>::all(self.client.clone()).list(&ListParams::default()).await.unwrap();
        let mut events: Vec<_> = events
            .into_iter()
            .map(|event| {
                (
                    event.type_.unwrap(),
                    event.reason.unwrap(),
                    event.involved_object.kind.unwrap(),
                    event.message.unwrap(),
                )
            })
            .collect();
        events.sort();
        events
    }
}
