//! The API server: what is seen of it, and the writes that repair.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruise_api::cloneset::v1beta1::CloneSet;
use kruise_runtime::client::said;
use kruise_webhook::certs;
use kruise_webhook::configure::{self, CONVERSION_CRDS, CONVERSION_DROPPED, Configuration, Target};
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::core::{GroupVersionKind, PartialObjectMeta};
use serde::Serialize;

use crate::definitions::{FIELD_MANAGER, applied, has_clause_to_drop};
use crate::findings::Repair;
use crate::installation::{
    CLUSTER_OBJECTS, DEPLOYMENT, Installation, NAMESPACE_LABEL, NAMESPACE_LABEL_VALUE, Release, kind_of,
};
use crate::seen::{
    Backend, CertificateSeen, ConfigurationSeen, ConversionSeen, DEFINITIONS, DefinitionSeen, HELM, Held,
    MANAGED_BY, ManagerSeen, NamespaceSeen, ObjectRef, ObjectsSeen, Ownership, RELEASE_NAME,
    RELEASE_NAMESPACE, Seen, ServiceName, ServiceSeen, Trial,
};

/// Objects listed at once.
const PAGE: u32 = 500;

/// A webhook configuration's API.
pub(crate) fn configurations_api(client: Client, configuration: Configuration) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", configuration.kind());
    Api::all_with(client, &ApiResource::from_gvk_with_plural(&kind, configuration.plural()))
}

/// The API of definitions.
pub(crate) fn definitions_api(client: Client) -> Api<CustomResourceDefinition> {
    Api::all(client)
}

fn resource_of(definition: &DefinitionSeen) -> ApiResource {
    let kind = GroupVersionKind::gvk(&definition.group, &definition.storage, &definition.kind);
    ApiResource::from_gvk_with_plural(&kind, &definition.plural)
}

/// The API of a definition's objects, in the version they are stored in: that needs no conversion once all of them are.
pub(crate) fn objects_api(
    client: Client,
    definition: &DefinitionSeen,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource_of(definition)),
        None => Api::all_with(client, &resource_of(definition)),
    }
}

/// Whether an answer says that there is no such object or resource.
pub(crate) fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Collects what is seen, and what could not be.
struct Look<'a> {
    client: &'a Client,
    installation: &'a Installation,
    seen: Seen,
}

/// Looks at everything once. What cannot be read is told in [`Seen::unreadable`].
pub async fn look(client: &Client, installation: &Installation, now: Timestamp) -> Seen {
    let mut look = Look { client, installation, seen: Seen::default() };
    look.configurations().await;
    look.definitions().await;
    look.objects().await;
    look.services().await;
    look.namespaces().await;
    look.manager(now).await;
    look.certificate().await;
    look.owned().await;
    look.seen
}

impl Look<'_> {
    /// Takes an answer, or remembers that there is none.
    fn read<T>(&mut self, what: impl Into<String>, answer: kube::Result<T>) -> Option<T> {
        match answer {
            Ok(found) => Some(found),
            Err(error) => {
                self.seen.unreadable.push((what.into(), said(&error)));
                None
            }
        }
    }

    async fn configurations(&mut self) {
        for configuration in Configuration::ALL {
            let api = configurations_api(self.client.clone(), configuration);
            let listed = api.list(&ListParams::default()).await;
            for object in self.read(configuration.plural(), listed).into_iter().flatten() {
                let value = serde_json::to_value(&object).unwrap_or_default();
                let Some(found) = ConfigurationSeen::of(configuration, &value) else { continue };
                let asks = |entry: &crate::seen::EntrySeen| matches!(&entry.backend, Some(Backend::Service(name)) if name.name == self.installation.service);
                if found.name == configuration.name() || found.entries.iter().any(asks) {
                    self.seen.configurations.push(found);
                }
            }
        }
    }

    async fn definitions(&mut self) {
        let listed = definitions_api(self.client.clone()).list(&ListParams::default()).await;
        let all = self.read(DEFINITIONS, listed).into_iter().flatten();
        let found: Vec<_> = all.filter_map(|definition| DefinitionSeen::of(&definition)).collect();
        self.seen.definitions = found.into_iter().filter(|found| kind_of(&found.name).is_some()).collect();
    }

    async fn objects(&mut self) {
        for definition in self.seen.definitions.clone().iter().filter(|it| it.established || it.deleting) {
            match list_objects(self.client, definition).await {
                Ok(objects) => {
                    self.seen.objects.insert(definition.name.clone(), objects);
                }
                // No longer served: there is nothing left.
                Err(error) if is_absent(&error) => {}
                Err(error) => {
                    self.seen.unlisted.insert(definition.name.clone(), said(&error));
                }
            }
        }
    }

    async fn services(&mut self) {
        let mut named: BTreeSet<ServiceName> = BTreeSet::new();
        let entries = self.seen.configurations.iter().flat_map(|it| &it.entries);
        let backends = entries.filter_map(|entry| entry.backend.as_ref());
        let conversions = self.seen.definitions.iter().filter_map(|it| match &it.conversion {
            ConversionSeen::Webhook { backend, .. } => backend.as_ref(),
            ConversionSeen::Relabel => None,
        });
        for backend in backends.chain(conversions) {
            if let Backend::Service(name) = backend {
                named.insert(name.clone());
            }
        }
        named.insert(ServiceName {
            namespace: self.installation.namespace.clone(),
            name: self.installation.service.clone(),
        });
        for name in named {
            let api: Api<Service> = Api::namespaced(self.client.clone(), &name.namespace);
            let found = api.get_opt(&name.name).await;
            if self.read(format!("Service {name}"), found).flatten().is_none() {
                continue;
            }
            let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &name.namespace);
            let label = format!("kubernetes.io/service-name={}", name.name);
            let listed = slices.list(&ListParams::default().labels(&label)).await;
            let Some(listed) = self.read(format!("EndpointSlices of Service {name}"), listed) else {
                continue;
            };
            let endpoints = listed.items.iter().flat_map(|slice| &slice.endpoints);
            // No word about readiness means ready.
            let is_ready = |conditions: &k8s_openapi::api::discovery::v1::EndpointConditions| {
                conditions.ready.unwrap_or(true)
            };
            let ready = endpoints.filter(|it| it.conditions.as_ref().is_none_or(is_ready)).count();
            self.seen.services.insert(name, ServiceSeen { ready });
        }
    }

    async fn namespaces(&mut self) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let listed = api.list(&ListParams::default()).await;
        let all =
            self.read("namespaces", listed).into_iter().flatten().map(|namespace| namespace_of(&namespace));
        let own = [&self.installation.namespace, &self.installation.daemon_config_namespace];
        self.seen.namespaces = all.filter(|it| it.deleting || own.contains(&&it.name)).collect();
    }

    async fn manager(&mut self, now: Timestamp) {
        let namespace = &self.installation.namespace;
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), namespace);
        let lease = leases.get_opt(&self.installation.lease).await;
        let lease = self.read(format!("Lease {namespace}/{}", self.installation.lease), lease).flatten();
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let deployment = deployments.get_opt(DEPLOYMENT).await;
        let deployment = self.read(format!("Deployment {namespace}/{DEPLOYMENT}"), deployment).flatten();
        self.seen.manager = ManagerSeen {
            leader: lease.and_then(|lease| leader(&lease, now)),
            replicas: deployment
                .map(|deployment| deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1)),
        };
    }

    async fn certificate(&mut self) {
        let Installation { namespace, secret, service, .. } = self.installation;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get_opt(secret).await;
        let Some(found) = self.read(format!("Secret {namespace}/{secret}"), found).flatten() else { return };
        let chain = found.data.and_then(|mut data| data.remove(certs::SERVER_CERT));
        let chain = chain.map(|chain| chain.0).filter(|chain| !chain.is_empty());
        let host = format!("{service}.{namespace}.svc");
        self.seen.certificate = chain.map(|chain| CertificateSeen { chain, host });
    }

    /// Only where a release is named: otherwise nobody asks whom they belong to.
    async fn owned(&mut self) {
        if self.installation.release.is_none() {
            return;
        }
        let namespaces = [&self.installation.namespace, &self.installation.daemon_config_namespace];
        let objects = CLUSTER_OBJECTS.iter().map(|(group, kind, plural, name)| ObjectRef {
            group,
            kind,
            plural,
            name: (*name).to_owned(),
        });
        let namespaces = namespaces.map(|name| ObjectRef {
            group: "",
            kind: "Namespace",
            plural: "namespaces",
            name: name.clone(),
        });
        for object in objects.chain(namespaces) {
            let found = object_api(self.client.clone(), &object).get_metadata_opt(&object.name).await;
            if let Some(found) = self.read(object.to_string(), found).flatten() {
                self.seen.owned.push((object, Ownership::of(&found.metadata)));
            }
        }
    }
}

fn object_api(client: Client, object: &ObjectRef) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(object.group, "v1", object.kind);
    Api::all_with(client, &ApiResource::from_gvk_with_plural(&kind, object.plural))
}

/// Lists the objects of a definition page by page, by their metadata.
pub(crate) async fn list_objects(client: &Client, definition: &DefinitionSeen) -> kube::Result<ObjectsSeen> {
    let mut seen = ObjectsSeen::default();
    each_object(client, definition, |meta| seen.add(meta)).await?;
    Ok(seen)
}

/// Shows every object of a definition by its metadata.
pub(crate) async fn each_object(
    client: &Client,
    definition: &DefinitionSeen,
    mut see: impl FnMut(&ObjectMeta),
) -> kube::Result<()> {
    let api = objects_api(client.clone(), definition, None);
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list_metadata(&page).await?;
        for object in &list.items {
            let object: &PartialObjectMeta<DynamicObject> = object;
            see(&object.metadata);
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

fn namespace_of(namespace: &Namespace) -> NamespaceSeen {
    let meta = &namespace.metadata;
    let conditions = namespace.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let told = conditions.filter(|condition| condition.status == "True").filter_map(|it| it.message.clone());
    NamespaceSeen {
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        labels: meta.labels.clone().unwrap_or_default(),
        deleting: meta.deletion_timestamp.is_some(),
        held_up: if meta.deletion_timestamp.is_some() { told.collect() } else { Vec::new() },
    }
}

/// Who leads, unless the Lease ran out.
fn leader(lease: &Lease, now: Timestamp) -> Option<String> {
    let spec = lease.spec.as_ref()?;
    let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty())?;
    let renewed = spec.renew_time.as_ref()?.0;
    let age = now.duration_since(renewed).as_secs();
    (age <= i64::from(spec.lease_duration_seconds.unwrap_or(15))).then_some(holder)
}

/// Where the CloneSet on trial is not created.
const TRIAL_NAMESPACE: &str = "default";

/// Has the API server admit a CloneSet that is not stored: that takes the webhooks and the way to them.
pub async fn trial(client: &Client, seen: &Seen, installation: &Installation) -> Trial {
    let name = ServiceName { namespace: installation.namespace.clone(), name: installation.service.clone() };
    let answers = seen.services.get(&name).is_some_and(|service| service.ready > 0);
    let defined = seen.definitions.iter().any(|it| it.name == "clonesets.apps.kruise.io" && it.established);
    if !answers || !defined {
        return Trial::Pointless;
    }
    let set: CloneSet = match serde_yaml_ng::from_str(include_str!("trial.yaml")) {
        Ok(set) => set,
        Err(error) => return Trial::Refused(error.to_string()),
    };
    let api: Api<CloneSet> = Api::namespaced(client.clone(), TRIAL_NAMESPACE);
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let tried = match may_create_sets(client).await {
        Ok(false) => return Trial::NotAllowed,
        Ok(true) => api.create(&params, &set).await.map(drop),
        Err(error) => Err(error),
    };
    match tried {
        Ok(()) => Trial::Admitted,
        Err(error) => Trial::Refused(said(&error)),
    }
}

/// Asked rather than tried: a refusal for lack of rights would look like that of a webhook.
async fn may_create_sets(client: &Client) -> kube::Result<bool> {
    let wanted = ResourceAttributes {
        group: Some("apps.kruise.io".to_owned()),
        resource: Some("clonesets".to_owned()),
        verb: Some("create".to_owned()),
        namespace: Some(TRIAL_NAMESPACE.to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(wanted), ..Default::default() },
        ..Default::default()
    };
    let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[derive(Debug, Serialize)]
struct MetaPatch<M> {
    metadata: M,
}

#[derive(Debug, Serialize)]
struct Labels<'a> {
    labels: BTreeMap<&'a str, &'a str>,
}

#[derive(Debug, Serialize)]
struct Marks<'a> {
    labels: BTreeMap<&'a str, &'a str>,
    annotations: BTreeMap<&'a str, &'a str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finalizers<'a> {
    resource_version: &'a str,
    finalizers: &'a [String],
}

#[derive(Debug, Serialize)]
struct ConversionPatch<'a> {
    metadata: VersionAndMarks<'a>,
    spec: ConversionSpec,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VersionAndMarks<'a> {
    resource_version: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'a str, &'a str>,
}

#[derive(Debug, Serialize)]
struct ConversionSpec {
    conversion: NoConversion,
}

#[derive(Debug, Serialize)]
struct NoConversion {
    strategy: &'static str,
    /// Null removes it.
    webhook: Option<()>,
}

/// Carries a repair out. What is gone already needs none.
///
/// # Errors
/// The API server's answer; a conflict means that something changed meanwhile, and that it is time to look again.
pub async fn repair(client: &Client, installation: &Installation, repair: &Repair) -> kube::Result<()> {
    let done = match repair {
        Repair::DeleteConfiguration { configuration, name, uid } => {
            delete_configuration(client, *configuration, name, Some(uid)).await
        }
        Repair::PointConversion { definition } => point_conversion(client, installation, definition).await,
        Repair::DropConversion { definition, resource_version } => {
            drop_conversion(client, definition, resource_version, false).await
        }
        Repair::ApplyDefinition { definition } => {
            apply(client, installation, definition, false).await.map(drop)
        }
        Repair::LabelNamespace { name } => {
            let labels = BTreeMap::from([(NAMESPACE_LABEL, NAMESPACE_LABEL_VALUE)]);
            let patch = MetaPatch { metadata: Labels { labels } };
            let api: Api<Namespace> = Api::all(client.clone());
            api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
        }
        Repair::TakeOwnership { object, release } => take_ownership(client, object, release).await,
        Repair::RemoveFinalizers { definition, object } => {
            let live = definitions_api(client.clone()).get(definition).await?;
            match DefinitionSeen::of(&live) {
                Some(definition) => remove_finalizers(client, &definition, object).await,
                None => Ok(()),
            }
        }
    };
    done.or_else(|error| if is_absent(&error) { Ok(()) } else { Err(error) })
}

pub(crate) async fn delete_configuration(
    client: &Client,
    configuration: Configuration,
    name: &str,
    uid: Option<&str>,
) -> kube::Result<()> {
    let preconditions =
        uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() });
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    configurations_api(client.clone(), configuration).delete(name, &params).await.map(drop)
}

/// Has a definition convert without a webhook; `for_now`, until a manager runs again.
pub(crate) async fn drop_conversion(
    client: &Client,
    definition: &str,
    version: &str,
    for_now: bool,
) -> kube::Result<()> {
    let annotations = for_now.then_some((CONVERSION_DROPPED, "true")).into_iter().collect();
    let patch = ConversionPatch {
        metadata: VersionAndMarks { resource_version: version, annotations },
        spec: ConversionSpec { conversion: NoConversion { strategy: "None", webhook: None } },
    };
    let api = definitions_api(client.clone());
    api.patch(definition, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
}

async fn point_conversion(client: &Client, installation: &Installation, name: &str) -> kube::Result<()> {
    let api = definitions_api(client.clone());
    let live = api.get(name).await?;
    let bundle = live.spec.conversion.as_ref().and_then(|it| it.webhook.as_ref()?.client_config.as_ref());
    let bundle = bundle.and_then(|client| serde_json::to_value(client).ok());
    let bundle =
        bundle.as_ref().and_then(|client| client.get("caBundle")).and_then(serde_json::Value::as_str);
    let target = Target {
        namespace: installation.namespace.clone(),
        service: installation.service.clone(),
        host: None,
        ca_bundle: bundle.unwrap_or_default().to_owned(),
    };
    let live = serde_json::to_value(live).map_err(kube::Error::SerdeError)?;
    let Some(patch) = configure::crd_patch(&live, CONVERSION_CRDS, &target) else { return Ok(()) };
    api.patch(name, &PatchParams::default(), &Patch::<CustomResourceDefinition>::Json(patch)).await.map(drop)
}

/// Applies a definition of this build; answers what it was and what it is, or would be in a dry run.
///
/// # Errors
/// The API server's answer.
pub async fn apply(
    client: &Client,
    installation: &Installation,
    name: &str,
    dry_run: bool,
) -> kube::Result<(Option<CustomResourceDefinition>, Option<CustomResourceDefinition>)> {
    let ours = kruise_api::crd::all().into_iter().find(|it| it.metadata.name.as_deref() == Some(name));
    let Some(ours) = ours else { return Ok((None, None)) };
    let api = definitions_api(client.clone());
    let live = api.get_opt(name).await?;
    if let Some(live) = live.as_ref().filter(|live| has_clause_to_drop(&ours, live)) {
        if dry_run {
            // An apply cannot take a clause away that another wrote, so what it would come to is what is sent.
            return Ok((Some(live.clone()), Some(ours)));
        }
        let version = live.metadata.resource_version.as_deref().unwrap_or_default();
        drop_conversion(client, name, version, false).await?;
    }
    let body = applied(&ours, live.as_ref(), installation);
    let params = PatchParams { dry_run, ..PatchParams::apply(FIELD_MANAGER).force() };
    let after = api.patch(name, &params, &Patch::Apply(&body)).await?;
    Ok((live, Some(after)))
}

async fn take_ownership(client: &Client, object: &ObjectRef, release: &Release) -> kube::Result<()> {
    let patch = MetaPatch {
        metadata: Marks {
            labels: BTreeMap::from([(MANAGED_BY, HELM)]),
            annotations: BTreeMap::from([
                (RELEASE_NAME, release.name.as_str()),
                (RELEASE_NAMESPACE, release.namespace.as_str()),
            ]),
        },
    };
    let api = object_api(client.clone(), object);
    api.patch_metadata(&object.name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
}

/// Takes Kruise's finalizers off an object as it was seen; somebody who wrote it meanwhile is a conflict.
pub(crate) async fn remove_finalizers(
    client: &Client,
    definition: &DefinitionSeen,
    object: &Held,
) -> kube::Result<()> {
    let patch = MetaPatch {
        metadata: Finalizers { resource_version: &object.resource_version, finalizers: &object.others },
    };
    let api = objects_api(client.clone(), definition, object.namespace.as_deref());
    let done =
        api.patch_metadata(&object.name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop);
    done.or_else(|error| if is_absent(&error) { Ok(()) } else { Err(error) })
}
