//! What was seen of a cluster at one moment, read from API objects once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruise_webhook::configure::Configuration;
use serde_json::Value;

use crate::installation::{Release, is_own_finalizer};

/// The resource of definitions.
pub(crate) const DEFINITIONS: &str = "customresourcedefinitions";
/// Annotation of what Helm leaves in place when it uninstalls.
const RESOURCE_POLICY: &str = "helm.sh/resource-policy";
/// Annotation of Helm's objects: the release.
pub(crate) const RELEASE_NAME: &str = "meta.helm.sh/release-name";
/// Annotation of Helm's objects: the release's namespace.
pub(crate) const RELEASE_NAMESPACE: &str = "meta.helm.sh/release-namespace";
/// Label of Helm's objects.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub(crate) const HELM: &str = "Helm";

/// Everything a finding or a cleanup is decided from.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The installation's own namespaces as far as they exist, and every namespace stuck in deletion.
    pub namespaces: Vec<NamespaceSeen>,
    /// Kruise's webhook configurations, whoever made them.
    pub configurations: Vec<ConfigurationSeen>,
    /// The Services that configurations and definitions name, and the installation's own, as far as they exist.
    pub services: BTreeMap<ServiceName, ServiceSeen>,
    /// Kruise's definitions.
    pub definitions: Vec<DefinitionSeen>,
    /// Their objects, by definition; a definition is absent where they could not be listed.
    pub objects: BTreeMap<String, ObjectsSeen>,
    /// Why objects could not be listed, by definition.
    pub unlisted: BTreeMap<String, String>,
    /// The manager.
    pub manager: ManagerSeen,
    /// Certificate chain and host of the installation's Secret, if it holds one.
    pub certificate: Option<CertificateSeen>,
    /// Other objects that a Helm release has to own: with whom they belong to.
    pub owned: Vec<(ObjectRef, Ownership)>,
    /// What else could not be looked at, and why.
    pub unreadable: Vec<(String, String)>,
    /// A CloneSet on trial.
    pub trial: Trial,
}

impl Seen {
    /// Why it is not known what there is of Kruise, if it is not: without the definitions, or without what would be asked
    /// about them, nothing that follows from them can be told.
    pub fn blind(&self) -> Option<&(String, String)> {
        let needed = |what: &str| {
            what == DEFINITIONS
                || Configuration::ALL.iter().any(|configuration| what == configuration.plural())
        };
        self.unreadable.iter().find(|(what, _)| needed(what))
    }
}

/// What came of having the API server admit a CloneSet that is not stored.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Trial {
    /// There was nothing to try: no definition, or nobody who would be asked.
    #[default]
    Pointless,
    /// This account may not create CloneSets.
    NotAllowed,
    /// It was admitted.
    Admitted,
    /// It was not, and why.
    Refused(String),
}

/// A Service by namespace and name.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An existing Service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServiceSeen {
    /// How many ready endpoints it has.
    pub ready: usize,
}

/// A cluster-wide object to write to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObjectRef {
    /// API group.
    pub group: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Resource.
    pub plural: &'static str,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// Whom Helm takes an object for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ownership {
    /// It says that Helm manages it.
    pub managed: bool,
    /// The release it names.
    pub release: Option<Release>,
    /// It says that Helm leaves it in place. Helm goes by its release's manifest, which may say something else.
    pub kept: bool,
}

impl Ownership {
    /// What labels and annotations say.
    pub fn of(meta: &ObjectMeta) -> Self {
        let text = |map: &Option<BTreeMap<String, String>>, key: &str| {
            map.as_ref().and_then(|map| map.get(key)).cloned()
        };
        let annotation = |key| text(&meta.annotations, key);
        let release = annotation(RELEASE_NAME)
            .zip(annotation(RELEASE_NAMESPACE))
            .map(|(name, namespace)| Release { name, namespace });
        Self {
            managed: text(&meta.labels, MANAGED_BY).as_deref() == Some(HELM),
            release,
            kept: annotation(RESOURCE_POLICY).as_deref() == Some("keep"),
        }
    }
}

/// A namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NamespaceSeen {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// It is being deleted.
    pub deleting: bool,
    /// What holds its deletion up, in the API server's words.
    pub held_up: Vec<String>,
}

/// Who is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Backend {
    /// A Service in the cluster.
    Service(ServiceName),
    /// Something outside.
    Url(String),
}

impl Backend {
    /// Reads a client configuration.
    fn of(config: &Value) -> Option<Self> {
        let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        if let Some(url) = text("/url") {
            return Some(Self::Url(url));
        }
        let (namespace, name) = (text("/service/namespace")?, text("/service/name")?);
        Some(Self::Service(ServiceName { namespace, name }))
    }
}

/// A webhook configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigurationSeen {
    /// Which of the two it is by kind.
    pub configuration: Configuration,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its entries.
    pub entries: Vec<EntrySeen>,
    /// Name and uid of the Namespaces that own it.
    pub owners: Vec<(String, String)>,
    /// Whom Helm takes it for.
    pub ownership: Ownership,
}

/// An entry of a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EntrySeen {
    /// Its name.
    pub name: String,
    /// Who is asked; none if it cannot be told.
    pub backend: Option<Backend>,
    /// Without an answer the request fails.
    pub fails: bool,
    /// It is about pods.
    pub about_pods: bool,
    /// The authorities it trusts, as base64 of PEM.
    pub trusts: String,
}

impl ConfigurationSeen {
    /// Reads a configuration.
    pub fn of(configuration: Configuration, object: &Value) -> Option<Self> {
        let meta: ObjectMeta = serde_json::from_value(object.get("metadata")?.clone()).ok()?;
        let owners = meta.owner_references.iter().flatten().filter(|owner| owner.kind == "Namespace");
        let owners = owners.map(|owner| (owner.name.clone(), owner.uid.clone())).collect();
        let entries = object.get("webhooks").and_then(Value::as_array).into_iter().flatten();
        Some(Self {
            configuration,
            ownership: Ownership::of(&meta),
            name: meta.name?,
            uid: meta.uid.unwrap_or_default(),
            entries: entries.map(entry).collect(),
            owners,
        })
    }

    /// What it is called in messages.
    pub fn title(&self) -> String {
        format!("{}/{}", self.configuration.kind(), self.name)
    }
}

fn entry(value: &Value) -> EntrySeen {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let rules = value.get("rules").and_then(Value::as_array).into_iter().flatten();
    let resources = rules.filter_map(|rule| rule.get("resources")?.as_array()).flatten();
    let about_pods = resources.filter_map(Value::as_str).any(|resource| {
        matches!(resource.split_once('/').map_or(resource, |(first, _)| first), "pods" | "*")
    });
    EntrySeen {
        name: text("/name"),
        backend: value.get("clientConfig").and_then(Backend::of),
        fails: text("/failurePolicy") != "Ignore",
        about_pods,
        trusts: text("/clientConfig/caBundle"),
    }
}

/// How a definition converts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ConversionSeen {
    /// Only `apiVersion` is rewritten.
    Relabel,
    /// A webhook is asked.
    Webhook {
        /// Who is asked; none if it cannot be told.
        backend: Option<Backend>,
        /// The authorities it trusts, as base64 of PEM.
        trusts: String,
    },
}

/// A definition.
#[derive(Clone, Debug, PartialEq)]
pub struct DefinitionSeen {
    /// Its name, `clonesets.apps.kruise.io`.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its resourceVersion.
    pub resource_version: String,
    /// Its group.
    pub group: String,
    /// The kind of its objects.
    pub kind: String,
    /// The resource of its objects.
    pub plural: String,
    /// Its objects live in namespaces.
    pub namespaced: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// It is served.
    pub established: bool,
    /// How it converts.
    pub conversion: ConversionSeen,
    /// Every version that is served.
    pub served: BTreeSet<String>,
    /// The version objects are written in.
    pub storage: String,
    /// The versions objects may be stored in.
    pub stored: Vec<String>,
    /// Whom Helm takes it for.
    pub ownership: Ownership,
    /// Finalizers on the definition itself that are neither the API server's nor the garbage collector's.
    pub foreign_finalizers: Vec<String>,
}

impl DefinitionSeen {
    /// Reads a definition.
    pub fn of(definition: &CustomResourceDefinition) -> Option<Self> {
        let (meta, spec) = (&definition.metadata, &definition.spec);
        let status = definition.status.clone().unwrap_or_default();
        let conversion = spec.conversion.as_ref().filter(|conversion| conversion.strategy == "Webhook");
        let conversion = conversion.map_or(ConversionSeen::Relabel, |conversion| {
            let client = conversion.webhook.as_ref().and_then(|webhook| webhook.client_config.as_ref());
            let client = client.and_then(|client| serde_json::to_value(client).ok()).unwrap_or_default();
            let trusts = client.get("caBundle").and_then(Value::as_str).unwrap_or_default().to_owned();
            ConversionSeen::Webhook { backend: Backend::of(&client), trusts }
        });
        let condition = |name: &str| {
            let mut conditions = status.conditions.iter().flatten();
            conditions.any(|condition| condition.type_ == name && condition.status == "True")
        };
        let known = ["customresourcecleanup.apiextensions.k8s.io", "foregroundDeletion", "orphan"];
        let finalizers = meta.finalizers.iter().flatten().filter(|name| !known.contains(&name.as_str()));
        Some(Self {
            name: meta.name.clone()?,
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            group: spec.group.clone(),
            kind: spec.names.kind.clone(),
            plural: spec.names.plural.clone(),
            namespaced: spec.scope != "Cluster",
            deleting: meta.deletion_timestamp.is_some(),
            established: condition("Established"),
            conversion,
            served: spec.versions.iter().filter(|it| it.served).map(|it| it.name.clone()).collect(),
            storage: spec.versions.iter().find(|it| it.storage).map(|it| it.name.clone()).unwrap_or_default(),
            stored: status.stored_versions.unwrap_or_default(),
            ownership: Ownership::of(meta),
            foreign_finalizers: finalizers.cloned().collect(),
        })
    }

    /// Versions other than the storage version that objects may still be stored in.
    pub fn old_versions(&self) -> Vec<&str> {
        self.stored.iter().filter(|version| **version != self.storage).map(String::as_str).collect()
    }

    /// What it is called in messages.
    pub fn title(&self) -> String {
        format!("CustomResourceDefinition/{}", self.name)
    }
}

/// The objects of a definition.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObjectsSeen {
    /// How many there are.
    pub count: usize,
    /// The first five by namespace and name.
    pub first: Vec<String>,
    /// Those with a finalizer of Kruise.
    pub held: Vec<Held>,
    /// How many of them are being deleted and wait for finalizers of others.
    pub held_by_others: usize,
}

/// An object with finalizers of Kruise.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Held {
    /// Its namespace; none for cluster-wide objects.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its resourceVersion.
    pub resource_version: String,
    /// It is being deleted.
    pub deleting: bool,
    /// Its other finalizers, which stay.
    pub others: Vec<String>,
}

impl ObjectsSeen {
    /// How many first names are kept.
    const NAMES: usize = 5;

    /// Counts one more.
    pub fn add(&mut self, meta: &ObjectMeta) {
        self.count += 1;
        let name = meta.name.clone().unwrap_or_default();
        if self.first.len() < Self::NAMES {
            let namespace = meta.namespace.as_ref().map(|namespace| format!("{namespace}/"));
            self.first.push(format!("{}{name}", namespace.unwrap_or_default()));
        }
        let (ours, others): (Vec<String>, Vec<String>) = meta
            .finalizers
            .clone()
            .unwrap_or_default()
            .into_iter()
            .partition(|finalizer| is_own_finalizer(finalizer));
        let deleting = meta.deletion_timestamp.is_some();
        if ours.is_empty() {
            self.held_by_others += usize::from(deleting && !others.is_empty());
            return;
        }
        self.held.push(Held {
            namespace: meta.namespace.clone(),
            name,
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            deleting,
            others,
        });
    }
}

/// The manager.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ManagerSeen {
    /// Who holds the Lease, if it has been renewed in time.
    pub leader: Option<String>,
    /// Replicas its Deployment asks for; none without a Deployment.
    pub replicas: Option<i32>,
}

/// What the installation serves with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateSeen {
    /// PEM of the chain.
    pub chain: Vec<u8>,
    /// The host it is for.
    pub host: String,
}
