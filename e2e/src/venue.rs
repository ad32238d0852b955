//! Where a spec runs: one source for each spec, two places that have to agree.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kruise_playground::{Options, Playground};
use kruise_sandbox::clock;
use kruise_sandbox::nodes::Timings;
use kube::api::PostParams;
use kube::{Api, Client};
use rand::Rng as _;
use serde_json::{Value, json};

use crate::{Place, SOON, Snapshot, seen};

const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// The time at which every sandbox begins.
const BEGIN: &str = "2026-01-01T00:00:00Z";
/// Images that the real cluster does not have, and that the sandbox therefore refuses.
const MISSING: &str = "kruise.test/missing:*";

/// Where a spec runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Venue {
    /// The cluster `KUBECONFIG` names.
    Cluster,
    /// A cluster of its own inside this process, in the time of a paused tokio.
    Sandbox,
}

impl Venue {
    /// A namespace of its own.
    pub async fn place(self) -> Result<Place> {
        let (client, sandbox) = match self {
            Self::Cluster => (Client::try_default().await.context("no cluster: set KUBECONFIG")?, None),
            Self::Sandbox => {
                let playground = start_sandbox().await?;
                (playground.client(), Some(Box::new(playground)))
            }
        };
        let mut random = rand::rng();
        let suffix: String = (0..8)
            .filter_map(|_| LETTERS.get(random.random_range(0..LETTERS.len())))
            .map(|b| char::from(*b))
            .collect();
        let place = Place::new(client, format!("kruise-e2e-{suffix}"), sandbox);
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": place.namespace()}}))?;
        Api::all(place.client()).create(&PostParams::default(), &namespace).await?;
        let accounts = Api::<ServiceAccount>::namespaced(place.client(), place.namespace());
        seen("the namespace has its account", SOON, async || Ok(accounts.get_opt("default").await?)).await?;
        Ok(place)
    }

    /// A namespace with `set` in it, all of whose pods are available.
    pub async fn with(self, set: &Value) -> Result<(Place, Snapshot)> {
        let place = self.place().await?;
        place.create(set).await?;
        let replicas = set.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1) as usize;
        let now = place.eventually("the new set is available", SOON, |now| now.settled(replicas)).await?;
        Ok((place, now))
    }
}

/// Two nodes on which things take the time they take on the machines of the real cluster, and a manager.
async fn start_sandbox() -> Result<Playground> {
    let mut options = Options::new(2, clock::simulated(BEGIN.parse()?)).with_admission();
    options.nodes.timings = Timings {
        schedule: Duration::from_millis(20),
        pull: Duration::from_millis(300),
        start: Duration::from_millis(400),
        ready: Duration::from_millis(300),
        stop: Duration::from_millis(200),
        ..Timings::default()
    };
    let playground = Playground::start(options).await?;
    playground.nodes().fail_image(MISSING, "not found");
    Ok(playground)
}

/// Names each spec, a function of a [`Venue`], as a test of the cluster and as one of the sandbox.
#[macro_export]
macro_rules! specs {
    ($($spec:ident,)*) => {
        mod cluster {
            use $crate::Venue;
            $(
                #[tokio::test]
                #[ignore = "needs a cluster: see e2e/cluster"]
                async fn $spec() -> anyhow::Result<()> {
                    super::$spec(Venue::Cluster).await
                }
            )*
        }

        mod sandbox {
            use $crate::Venue;
            $(
                #[tokio::test(start_paused = true)]
                async fn $spec() -> anyhow::Result<()> {
                    super::$spec(Venue::Sandbox).await
                }
            )*
        }
    };
}
