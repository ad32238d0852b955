//! Simulated nodes for whatever cluster `KUBECONFIG` names: `nodes COUNT [PREFIX [SCHEDULER]]`, until Ctrl-C.
//!
//! The nodes carry the label and the taint `sandbox.kruise.io/simulated=true:NoSchedule`, so that only pods that ask for
//! them come. Without SCHEDULER the cluster's own scheduler is used.

use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use kruise_sandbox::nodes::{Nodes, Settings, Timings};

const MARK: &str = "sandbox.kruise.io/simulated";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let count = words.next().map_or(Ok(1), |count| count.parse())?;
    let mut settings = Settings::new(count, kruise_sandbox::clock::system());
    settings.name_prefix = words.next().unwrap_or_else(|| "simulated-".into());
    settings.scheduler = words.next();
    settings.labels.insert(MARK.into(), "true".into());
    settings.taints = vec![Taint {
        key: MARK.into(),
        value: Some("true".into()),
        effect: "NoSchedule".into(),
        time_added: None,
    }];
    settings.heartbeat = Some(Duration::from_secs(10));
    settings.events = std::env::var_os("NO_EVENTS").is_none();
    if std::env::var_os("SLOW").is_some() {
        let second = Duration::from_secs(1);
        settings.timings =
            Timings { pull: second, start: second / 2, ready: second, stop: second, ..Timings::default() };
    }
    let nodes = Nodes::new(kube::Client::try_default().await?, settings);
    nodes.fail_image(
        "*:missing",
        "rpc error: code = NotFound desc = failed to pull and unpack image: not found",
    );
    nodes
        .run(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await;
    nodes.remove().await;
    Ok(())
}
