//! A CloneSet: what its user does, and where it has to end.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Map, Value, json};

use super::{NAMESPACE, World, complaints};
use crate::history::Amount;
use crate::history::cloneset::{Edit, Step};
use crate::run::NAME;

impl World {
    async fn rolling(&self, field: &str, value: Value) -> anyhow::Result<()> {
        self.patch(json!({"spec": {"updateStrategy": {"rollingUpdate": {field: value}}}})).await
    }

    pub(super) async fn change_set(&mut self, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Scale(replicas) => self.patch(json!({"spec": {"replicas": replicas}})).await,
            Step::Template(edit) => self.edit(edit).await,
            Step::Partition(amount) => self.rolling("partition", amount.value()).await,
            Step::MaxUnavailable(amount) => self.rolling("maxUnavailable", amount.value()).await,
            Step::MaxSurge(amount) => self.rolling("maxSurge", amount.value()).await,
            Step::Pause(paused) => self.rolling("paused", json!(paused)).await,
            Step::MinReady(seconds) => self.patch(json!({"spec": {"minReadySeconds": seconds}})).await,
            Step::SpecifiedDelete(index) => {
                self.label(index, json!({"apps.kruise.io/specified-delete": "true"})).await
            }
            Step::Relabel(index) => self.label(index, json!({"app": "released"})).await,
            Step::PodsToDelete(index) => self.scale_in_by(index).await,
            Step::Unready(index) => {
                if let Some(name) = self.chosen(index).await? {
                    self.playground.nodes().set_ready(NAMESPACE, &name, "main", Some(false));
                }
                Ok(())
            }
            Step::Heal => self.heal().await,
        }
    }

    async fn edit(&self, edit: Edit) -> anyhow::Result<()> {
        let set = self.subjects().get(NAME).await?;
        let container = set.data.pointer("/spec/template/spec/containers/0").cloned().unwrap_or_default();
        let (field, value) = match edit {
            Edit::Image(number) => ("image", json!(format!("sim/app:{number}"))),
            Edit::Env(number) => ("env", json!([{"name": "V", "value": number.to_string()}])),
            Edit::Annotation(number) => {
                let annotations = json!({"note": number.to_string()});
                return self
                    .patch(json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}))
                    .await;
            }
        };
        let mut container: Map<String, Value> = serde_json::from_value(container)?;
        container.insert(field.to_owned(), value);
        self.patch(json!({"spec": {"template": {"spec": {"containers": [container]}}}})).await
    }

    async fn label(&self, index: usize, labels: Value) -> anyhow::Result<()> {
        let Some(name) = self.chosen(index).await? else { return Ok(()) };
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        self.pods().patch(&name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn scale_in_by(&self, index: usize) -> anyhow::Result<()> {
        let Some(name) = self.chosen(index).await? else { return Ok(()) };
        let set = self.subjects().get(NAME).await?;
        let replicas = set.data.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or_default();
        let replicas = (replicas - 1).max(0);
        self.patch(json!({"spec": {"replicas": replicas, "scaleStrategy": {"podsToDelete": [name]}}})).await
    }

    async fn heal(&self) -> anyhow::Result<()> {
        for name in self.names().await? {
            self.playground.nodes().set_ready(NAMESPACE, &name, "main", None);
        }
        Ok(())
    }

    pub(super) async fn calm_set(&mut self) -> anyhow::Result<()> {
        self.heal().await?;
        self.rolling("paused", json!(false)).await?;
        self.rolling("maxUnavailable", Amount::Count(1).value()).await
    }

    /// What is not yet as the spec wants it.
    pub(super) async fn missing_of_set(&self) -> anyhow::Result<Option<String>> {
        let set = self.subjects().get(NAME).await?;
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let number = |path: &str| set.data.pointer(path).and_then(Value::as_i64);
        let text = |path: &str| set.data.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let replicas = number("/spec/replicas").unwrap_or(1);
        let partition = match set.data.pointer("/spec/updateStrategy/rollingUpdate/partition") {
            Some(Value::Number(count)) => count.as_i64().unwrap_or_default().clamp(0, replicas),
            Some(Value::String(text)) => {
                let percent: i64 = text.trim_end_matches('%').parse().unwrap_or_default();
                let resolved = (replicas * percent + 99) / 100;
                if replicas > 1 && resolved == replicas && percent != 100 { replicas - 1 } else { resolved }
            }
            _ => 0,
        };
        let pods = self.pods().list(&ListParams::default()).await?.items;
        let owned: Vec<&Pod> = pods
            .iter()
            .filter(|pod| pod.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid))
            .collect();
        let ready = |pod: &&&Pod| {
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
        };
        let update = text("/status/updateRevision");
        let at_update = |pod: &&&Pod| {
            let label =
                pod.metadata.labels.as_ref().and_then(|labels| labels.get("controller-revision-hash"));
            label.is_some_and(|label| label == update)
        };
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let updated = count(owned.iter().filter(at_update).count());
        let checks = [
            (count(owned.len()) == replicas, format!("{} pods, {replicas} wanted", owned.len())),
            (count(owned.iter().filter(ready).count()) == replicas, "not all pods are ready".to_owned()),
            (updated >= replicas - partition, format!("{updated} updated, {} wanted", replicas - partition)),
            (
                number("/status/observedGeneration") == set.metadata.generation,
                "generation not observed".to_owned(),
            ),
            (
                number("/status/replicas") == Some(replicas),
                format!("status.replicas is {:?}", number("/status/replicas")),
            ),
            (
                number("/status/readyReplicas") == Some(replicas),
                format!("status.readyReplicas is {:?}", number("/status/readyReplicas")),
            ),
            (
                number("/status/availableReplicas") == Some(replicas),
                format!("status.availableReplicas is {:?}", number("/status/availableReplicas")),
            ),
            (
                number("/status/updatedReplicas") == Some(updated),
                format!("status.updatedReplicas is {:?}, {updated} are", number("/status/updatedReplicas")),
            ),
        ];
        Ok(complaints(checks))
    }
}
