//! The manager's webhooks asked inside the process: nothing is listened on, and no certificate is needed.

use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use kruise_manager::run::Webhooks;
use kruise_sandbox::webhook::InProcess;
use kruise_webhook::configure::{self, CONVERSION_CRDS, Configuration, ENTRIES, Target};
use kruise_webhook::local::{self, CONVERT_PATH};
use kruise_webhook::route::Router;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt as _};
use tokio::sync::watch;

/// Where the configurations say that the manager is.
const NAMESPACE: &str = "kruise-system";
const SERVICE: &str = "kruise-webhook-service";

/// The way from the API server to the webhooks of whichever manager runs. Clones are the same way.
#[derive(Clone)]
pub struct Admission {
    routes: InProcess,
    /// The running manager's answers; none between two managers.
    router: watch::Sender<Option<Arc<Router>>>,
}

impl Default for Admission {
    fn default() -> Self {
        let admission = Self { routes: InProcess::new(), router: watch::Sender::new(None) };
        for path in ENTRIES.iter().map(|entry| entry.path).chain([CONVERT_PATH]) {
            let router = admission.router.clone();
            let url = format!("https://{SERVICE}.{NAMESPACE}.svc:443{path}");
            admission.routes.route(url, move |body| answer(router.borrow().clone(), path, body));
        }
        admission
    }
}

impl Admission {
    /// What the API server calls.
    pub(crate) fn caller(&self) -> InProcess {
        self.routes.clone()
    }

    /// How a new manager is to be reached.
    pub(crate) fn hand_over(&self) -> Webhooks {
        let ours = self.router.clone();
        Webhooks::HandOver(Box::new(move |router| {
            ours.send_replace(Some(Arc::new(router)));
        }))
    }

    /// Nobody answers until another manager runs.
    pub(crate) fn hang_up(&self) {
        self.router.send_replace(None);
    }

    /// Resolves once a manager answers.
    pub async fn answers(&self) {
        let mut router = self.router.subscribe();
        // The sender is kept here, so waiting cannot fail.
        let _answered = router.wait_for(Option::is_some).await;
    }

    /// Creates or mends the webhook configurations and the conversion of the CustomResourceDefinitions.
    pub(crate) async fn publish(&self, client: &Client) -> anyhow::Result<()> {
        let target = Target {
            namespace: NAMESPACE.to_owned(),
            service: SERVICE.to_owned(),
            host: None,
            ca_bundle: String::new(),
        };
        for configuration in Configuration::ALL {
            let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", configuration.kind());
            let resource = ApiResource::from_gvk_with_plural(&kind, configuration.plural());
            let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
            let live = api.get_opt(configuration.name()).await?.map(serde_json::to_value).transpose()?;
            let Some(wanted) = configure::desired(configuration, ENTRIES, live.as_ref(), &target, None)
            else {
                continue;
            };
            let wanted: DynamicObject = serde_json::from_value(wanted)?;
            let params = PostParams::default();
            let written = match live {
                Some(_) => api.replace(&wanted.name_any(), &params, &wanted).await,
                None => api.create(&params, &wanted).await,
            };
            written.with_context(|| format!("cannot publish {}", configuration.name()))?;
        }
        let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let definitions = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::from_gvk(&kind));
        for crd in CONVERSION_CRDS {
            let live = serde_json::to_value(definitions.get(crd.name).await?)?;
            let Some(patch) = configure::crd_patch(&live, CONVERSION_CRDS, &target) else { continue };
            let patch = Patch::<DynamicObject>::Json(patch);
            definitions
                .patch(crd.name, &PatchParams::default(), &patch)
                .await
                .with_context(|| format!("cannot publish the conversion of {}", crd.name))?;
        }
        Ok(())
    }
}

async fn answer(router: Option<Arc<Router>>, path: &'static str, body: Bytes) -> Result<Bytes, String> {
    let router = router.ok_or("connect: connection refused")?;
    local::answer(&router, path, &body).await.map(|answer| answer.to_string().into())
}
