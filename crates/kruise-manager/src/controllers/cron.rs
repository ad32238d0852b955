//! AdvancedCronJob.

use std::sync::Arc;

use futures::FutureExt as _;
use jiff::tz::TimeZone;
use kruise_advanced_cronjob::admission::{self, DryRun};
use kruise_advanced_cronjob::controller::{self, Context, NAME, Setup};
use kruise_common::gates::Gate;
use kruise_webhook::review::AdmissionRequest;
use kruise_webhook::route::Router;
use kruise_webhook::template;

use crate::parts::Parts;
use crate::table::{Entry, Started};

/// The table's entry.
pub(crate) const ENTRY: Entry = Entry {
    flag: "advancedcronjob",
    name: NAME,
    definition: Some("advancedcronjobs.apps.kruise.io"),
    gates: &[],
    start,
};

fn start(parts: &Parts) -> anyhow::Result<Started> {
    let worker = parts.worker(NAME, parts.flags.advancedcronjob_workers)?;
    // Where no zone is configured, as in an empty image, it is UTC.
    let local = TimeZone::try_system().unwrap_or(TimeZone::UTC);
    let setup = Setup {
        client: parts.client_of(NAME),
        watches: parts.watches.clone(),
        queue: worker.queue.clone(),
        events: parts.events.for_component(NAME),
        local,
        clock: Arc::clone(&parts.clock),
    };
    let context = Arc::new(Context::new(setup, parts.metrics.registry())?);
    let ready = Arc::clone(&context);
    Ok(Started {
        ready: async move { ready.ready().await }.boxed(),
        run: Box::new(move |stop| {
            controller::wire(&context);
            let follow = controller::follow(Arc::clone(&context));
            let rounds = worker.run(move |key| controller::reconcile(key, Arc::clone(&context)), stop);
            async move {
                tokio::select! {
                    biased;
                    () = rounds => {}
                    () = follow => {}
                }
            }
            .boxed()
        }),
    })
}

/// The webhooks: they answer whether the controller runs or not, so that stored objects stay valid.
pub(crate) fn admission(router: Router, parts: &Parts) -> Router {
    let options = admission::Options {
        default_templates: !parts.gates.enabled(Gate::TemplateNoDefaults),
        host_network_ports: parts.gates.enabled(Gate::DefaultHostNetworkHostPortsInPodTemplates),
    };
    let templates = template::Templates::new(parts.template_check());
    let children = Arc::new(DryRun::new(parts.client.clone()));
    let context = Arc::new(admission::Context::new(options, templates, children));
    let handler = |mutating: bool| {
        let context = Arc::clone(&context);
        move |request: AdmissionRequest| {
            let context = Arc::clone(&context);
            async move { admission::handle(&request, mutating, &context).await }.boxed()
        }
    };
    router
        .route("/mutate-apps-kruise-io-advancedcronjob", handler(true))
        .route("/validate-apps-kruise-io-advancedcronjob", handler(false))
}
