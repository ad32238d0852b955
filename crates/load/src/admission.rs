//! CloneSets with large templates, one after the other and sixteen at once, beside plain PodTemplates that no webhook of
//! Kruise is asked about.

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::PodTemplate;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::report::Admission;
use crate::workload::{CLIENTS, clone_sets};

const NAMESPACE: &str = "load-admission";
const CONTAINERS: usize = 5;
const VARIABLES: usize = 30;

/// A template of 5 containers with 30 variables each; those of different numbers differ.
fn template(number: usize) -> Value {
    let container = |index: usize| {
        let variable =
            |at: usize| json!({"name": format!("VARIABLE_{at}"), "value": format!("value {at} of {number}")});
        json!({
            "name": format!("c{index}"),
            "image": format!("load.test/c{index}:1"),
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            "env": (0..VARIABLES).map(variable).collect::<Vec<_>>(),
        })
    };
    json!({
        "metadata": {"labels": {"app": "admission"}},
        "spec": {"containers": (0..CONTAINERS).map(container).collect::<Vec<_>>()},
    })
}

/// Asks `count` times each way, and takes away what was created.
pub(crate) async fn play(cluster: &Cluster, count: u32) -> anyhow::Result<Vec<Admission>> {
    let templates = Api::<PodTemplate>::namespaced(cluster.client.clone(), NAMESPACE);
    let sets = clone_sets(&cluster.client, NAMESPACE);
    let count = count as usize;
    let mut told = Vec::new();
    for clients in [1, CLIENTS] {
        let plain = |number: usize| {
            let templates = templates.clone();
            async move {
                let name = format!("plain-{clients}-{number}");
                let object = json!({"metadata": {"name": name}, "template": template(number)});
                templates.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
                Ok(())
            }
        };
        told.push(ask("create PodTemplates, no webhook", clients, count, plain).await?);
    }
    for (what, alike) in
        [("create CloneSets, each with its own template", false), ("create CloneSets of one template", true)]
    {
        for clients in [1, CLIENTS] {
            let create = |number: usize| {
                let sets = sets.clone();
                async move {
                    let name = format!("set-{}-{clients}-{number}", u8::from(alike));
                    // One that was not used before, or that of all others.
                    let own = if alike { usize::MAX } else { number + clients * count };
                    let object = json!({
                        "apiVersion": "apps.kruise.io/v1beta1",
                        "kind": "CloneSet",
                        "metadata": {"name": name},
                        "spec": {
                            "replicas": 0,
                            "selector": {"matchLabels": {"app": "admission"}},
                            "template": template(own),
                        },
                    });
                    sets.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
                    Ok(())
                }
            };
            told.push(ask(what, clients, count, create).await?);
        }
    }
    for clients in [1, CLIENTS] {
        let update = |number: usize| {
            let sets = sets.clone();
            async move {
                let image = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image",
                    "value": format!("load.test/c0:of-{clients}-{number}")}]);
                let patch = Patch::Json::<()>(serde_json::from_value(image)?);
                sets.patch(&format!("set-0-{clients}-{number}"), &PatchParams::default(), &patch).await?;
                Ok(())
            }
        };
        told.push(ask("update the image of CloneSets", clients, count, update).await?);
    }
    sets.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    templates.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    Ok(told)
}

async fn ask<F>(
    what: &'static str,
    clients: usize,
    count: usize,
    request: impl Fn(usize) -> F,
) -> anyhow::Result<Admission>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let begun = Instant::now();
    let requests = (0..count).map(|number| {
        let request = request(number);
        Ok::<_, anyhow::Error>(async move {
            let asked = Instant::now();
            request.await?;
            Ok(asked.elapsed().as_secs_f64())
        })
    });
    let mut took: Vec<f64> =
        futures::stream::iter(requests).try_buffer_unordered(clients).try_collect().await?;
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    took.sort_by(f64::total_cmp);
    let at = |part: f64| {
        took.get((took.len() as f64 * part) as usize).or(took.last()).copied().unwrap_or_default()
    };
    Ok(Admission { what, clients, rate, median: at(0.5), tail: at(0.99) })
}
