//! The six classic experiments with a CloneSet, each with what it claims and a check that it came true.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::Instant;

use crate::screen::Screen;
use crate::world::{SET, World, clone_sets, look};

/// What is deployed.
const WEB: &str = include_str!("../../../docs/examples/sandbox.yaml");
/// How often the world is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How long a claim may take to come true.
const PATIENCE: Duration = Duration::from_mins(1);

/// How fast the demo goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// `minReadySeconds` of the scale-out.
    pub(crate) min_ready_seconds: i32,
    /// Time to read between experiments.
    pub(crate) pause: Duration,
}

impl Pace {
    /// For people.
    pub(crate) const SLOW: Self = Self { min_ready_seconds: 5, pause: Duration::from_secs(3) };
    /// For machines.
    pub(crate) const FAST: Self = Self { min_ready_seconds: 1, pause: Duration::ZERO };
}

/// The demo on a cluster.
pub(crate) struct Demo<W> {
    client: Client,
    namespace: String,
    screen: Screen<W>,
    pace: Pace,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl<W: Write> Demo<W> {
    /// The demo in a namespace of its own.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        screen: Screen<W>,
        pace: Pace,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Self {
        Self { client, namespace: namespace.to_owned(), screen, pace, clock }
    }

    /// Plays all experiments.
    ///
    /// # Errors
    /// The first claim that did not come true, with the world as it was.
    pub(crate) async fn play(mut self) -> anyhow::Result<()> {
        self.namespace().await?;
        self.deploy().await?;
        self.scale_out().await?;
        self.delete_chosen().await?;
        self.upgrade_in_place().await?;
        self.gray_release().await?;
        self.roll_back().await?;
        self.screen.line("\nAll six experiments reached what they claim.")?;
        Ok(())
    }

    /// Makes the namespace; if there is one from an earlier demo, one beside it.
    async fn namespace(&mut self) -> anyhow::Result<()> {
        let namespaces = Api::all(self.client.clone());
        let named = |metadata| Namespace { metadata, ..Namespace::default() };
        let metadata = ObjectMeta { name: Some(self.namespace.clone()), ..ObjectMeta::default() };
        match namespaces.create(&PostParams::default(), &named(metadata)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => return Ok(made.map(drop)?),
        }
        let generate_name = Some(format!("{}-", self.namespace));
        let metadata = ObjectMeta { generate_name, ..ObjectMeta::default() };
        let made = namespaces.create(&PostParams::default(), &named(metadata)).await?;
        self.namespace = made.metadata.name.context("the API server has generated no name")?;
        Ok(())
    }

    async fn deploy(&mut self) -> anyhow::Result<()> {
        self.open("1. Deploy", "A CloneSet of three pods.").await?;
        self.screen.command("kubectl apply -f docs/examples/sandbox.yaml")?;
        let set = serde_yaml_ng::from_str(WEB)?;
        clone_sets(&self.client, &self.namespace).create(&PostParams::default(), &set).await?;
        self.until("three pods are available", |world| world.settled(3)).await
    }

    async fn scale_out(&mut self) -> anyhow::Result<()> {
        let seconds = self.pace.min_ready_seconds;
        let about = format!(
            "Three more pods, one at a time: the next is created when the last has been ready for {seconds} s."
        );
        self.open("2. Scale out, carefully", &about).await?;
        let scale = format!(
            r#"{{"spec":{{"replicas":6,"minReadySeconds":{seconds},"scaleStrategy":{{"maxUnavailable":1}}}}}}"#
        );
        self.patch(&scale).await?;
        let claim = "six pods are available, never more than one was on its way";
        let promise = |world: &World| world.staying().filter(|pod| !pod.ready).count() <= 1;
        self.until_while(claim, |world| world.settled(6), promise).await
    }

    async fn delete_chosen(&mut self) -> anyhow::Result<()> {
        self.open(
            "3. Delete chosen pods",
            "Scale in by two, and say which two; what comes next need not wait.",
        )
        .await?;
        let world = self.look().await?;
        let names: Vec<String> = world.pods.iter().map(|pod| pod.name.clone()).collect();
        let chosen: BTreeSet<String> = [1, 4].iter().filter_map(|index| names.get(*index)).cloned().collect();
        let others: BTreeSet<String> = names.into_iter().filter(|name| !chosen.contains(name)).collect();
        let list = serde_json::to_string(&chosen)?;
        let scale = format!(
            r#"{{"spec":{{"replicas":4,"minReadySeconds":0,"scaleStrategy":{{"podsToDelete":{list}}}}}}}"#
        );
        self.patch(&scale).await?;
        let chosen: Vec<String> = chosen.into_iter().collect();
        let claim = format!("{} are gone, the other four were not touched", chosen.join(" and "));
        let names = |world: &World| world.pods.iter().map(|pod| pod.name.clone()).collect::<BTreeSet<_>>();
        self.until(&claim, |world| world.settled(4) && names(world) == others).await
    }

    async fn upgrade_in_place(&mut self) -> anyhow::Result<()> {
        self.open("4. Upgrade in place", "A new image: containers restart, pods stay.").await?;
        let before = self.look().await?.identities();
        self.patch(&with_image("demo/web:2", "")).await?;
        let claim = "all four run demo/web:2: same pods, same addresses, same nodes, one restart each";
        self.until(claim, |world| {
            world.settled(4)
                && world.running("web:2") == 4
                && world.identities() == before
                && world.pods.iter().all(|pod| pod.restarts == 1)
        })
        .await
    }

    async fn gray_release(&mut self) -> anyhow::Result<()> {
        let about = "Half of the pods get the next image, the other half waits.";
        self.open("5. Gray release", about).await?;
        self.patch(&with_image("demo/web:3", &partition(r#""50%""#))).await?;
        let reached = |world: &World| {
            world.settled(4)
                && (world.running("web:3"), world.running("web:2")) == (2, 2)
                && world.status("updatedReadyReplicas") == 2
        };
        let promise = |world: &World| world.running("web:3") <= 2;
        self.until_while("two run demo/web:3, two stay at demo/web:2", reached, promise).await
    }

    async fn roll_back(&mut self) -> anyhow::Result<()> {
        let about = "The third image is no good: back to the second, everywhere.";
        self.open("6. Roll back", about).await?;
        let before = self.look().await?;
        let identities = before.identities();
        let at = |world: &World| world.pods.iter().map(|pod| pod.revision.clone()).collect::<BTreeSet<_>>();
        let stable: BTreeSet<String> = before
            .pods
            .iter()
            .filter(|pod| pod.image.ends_with("web:2"))
            .map(|pod| pod.revision.clone())
            .collect();
        self.patch(&with_image("demo/web:2", &partition("0"))).await?;
        let claim = "all four run demo/web:2 at its old revision; only the two at demo/web:3 restarted again";
        self.until(claim, |world| {
            world.settled(4)
                && world.running("web:2") == 4
                && world.identities() == identities
                && at(world) == stable
                && world.status("updatedReadyReplicas") == 4
                && world.pods.iter().filter(|pod| pod.restarts > 1).count() == 2
        })
        .await
    }

    async fn open(&mut self, title: &str, about: &str) -> anyhow::Result<()> {
        tokio::time::sleep(self.pace.pause).await;
        Ok(self.screen.heading(title, about)?)
    }

    async fn look(&self) -> anyhow::Result<World> {
        look(&self.client, &self.namespace).await
    }

    /// Shows the command, and does exactly what it says.
    async fn patch(&mut self, patch: &str) -> anyhow::Result<()> {
        self.screen.command(&format!("kubectl patch cloneset {SET} --type=merge -p '{patch}'"))?;
        let patch: Value = serde_json::from_str(patch)?;
        let sets = clone_sets(&self.client, &self.namespace);
        sets.patch(SET, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn until(&mut self, claim: &str, reached: impl Fn(&World) -> bool) -> anyhow::Result<()> {
        self.until_while(claim, reached, |_| true).await
    }

    /// Waits until a claim has come true, and sees to it that a promise is kept until then.
    async fn until_while(
        &mut self,
        claim: &str,
        reached: impl Fn(&World) -> bool,
        promise: impl Fn(&World) -> bool,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let world = self.look().await.with_context(|| format!("while waiting until {claim}"))?;
            self.screen.show(&world, (self.clock)())?;
            if !promise(&world) {
                bail!("a promise was broken on the way to: {claim}\n{world:#?}");
            }
            if reached(&world) {
                let took = begun.elapsed().as_secs_f64();
                return Ok(self.screen.reached(&world, (self.clock)(), claim, took)?);
            }
            if begun.elapsed() > PATIENCE {
                bail!("not reached within {} s: {claim}\n{world:#?}", PATIENCE.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The merge patch that sets the image, and more of the spec if there is any.
fn with_image(image: &str, more: &str) -> String {
    format!(
        r#"{{"spec":{{{more}"template":{{"spec":{{"containers":[{{"name":"main","image":"{image}"}}]}}}}}}}}"#
    )
}

/// The part of a spec that sets the partition.
fn partition(value: &str) -> String {
    format!(r#""updateStrategy":{{"rollingUpdate":{{"partition":{value}}}}},"#)
}

#[cfg(test)]
mod tests {
    use kruise_playground::{Options, Playground};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_experiment_reaches_what_it_claims() {
        let clock = kruise_sandbox::clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let mut playground = Playground::start(Options::new(3, Arc::clone(&clock))).await.unwrap();
        let screen = Screen::new(Vec::new(), false);
        let demo = Demo::new(playground.client(), "demo", screen, Pace::SLOW, clock);
        tokio::select! {
            biased;
            played = demo.play() => played.unwrap(),
            error = playground.ended() => panic!("{error:#}"),
        }
    }
}
