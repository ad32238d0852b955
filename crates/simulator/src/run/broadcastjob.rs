//! A BroadcastJob: what its user does, and where it has to end.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::{NODES, World, complaints};
use crate::history::Amount;
use crate::history::broadcastjob::Step;
use crate::run::NAME;

impl World {
    pub(super) async fn change_job(&mut self, step: Step) -> anyhow::Result<()> {
        let spec = match step {
            Step::Parallelism(amount) => json!({"parallelism": amount.map(Amount::value)}),
            Step::Pause(paused) => json!({"paused": paused}),
            Step::Image(number) => {
                let containers = json!([{"name": "main", "image": format!("sim/app:{number}")}]);
                json!({"template": {"spec": {"containers": containers}}})
            }
            Step::Lasts(seconds) => {
                let annotations = json!({"sandbox.kruise.io/main.exit-after": format!("{seconds}s")});
                json!({"template": {"metadata": {"annotations": annotations}}})
            }
        };
        self.patch(json!({"spec": spec})).await
    }

    /// All nodes are there for the job, and a user lets it go on in spite of failed pods.
    pub(super) async fn calm_job(&mut self) -> anyhow::Result<()> {
        for name in self.playground.nodes().names() {
            self.playground.nodes().cordon(&name, false).await?;
            self.join(&name, true).await?;
        }
        self.patch(json!({"spec": {"parallelism": null, "paused": true}})).await?;
        self.pass(Duration::from_secs(15)).await?;
        self.patch(json!({"spec": {"paused": false}})).await
    }

    pub(super) async fn missing_of_job(&self) -> anyhow::Result<Option<String>> {
        let pods = self.pods().list(&ListParams::default()).await?.items;
        let Some(job) = self.subjects().get_opt(NAME).await? else {
            let left = format!("{} pods are left", pods.len());
            return Ok((!pods.is_empty()).then_some(left));
        };
        let text = |path: &str| job.data.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let number = |path: &str| job.data.pointer(path).and_then(Value::as_u64).unwrap_or_default();
        let phase =
            |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        let count = |wanted: &str| pods.iter().filter(|pod| phase(pod) == wanted).count() as u64;
        let (succeeded, failed) = (count("Succeeded"), count("Failed"));
        let running = pods.len() as u64 - succeeded - failed;
        let never = text("/spec/completionPolicy/type") == "Never";
        let told = text("/status/phase");
        let mortal = job.data.pointer("/spec/completionPolicy/ttlSecondsAfterFinished").is_some();
        let holds = told == "paused" && text("/spec/failurePolicy/type") == "Pause" && failed > 0;
        let over = told == "completed" || told == "failed";
        let ended = over || holds || (told == "running" && never);
        let counted = over
            || (number("/status/succeeded") == succeeded
                && number("/status/failed") == failed
                && number("/status/desired") == u64::from(NODES)
                && (holds || succeeded + failed == u64::from(NODES)));
        let status = job.data.get("status").unwrap_or(&Value::Null);
        Ok(complaints([
            (ended, format!("the phase is {told}")),
            (!(over && mortal && !never), "it has ended and is not deleted".to_owned()),
            (running == 0, format!("{running} pods run")),
            (number("/status/active") == 0, format!("status.active is {}", number("/status/active"))),
            (counted, format!("{succeeded} have succeeded, {failed} failed, not as in {status}")),
        ]))
    }
}
