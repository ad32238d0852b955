//! Reading objects of Kubernetes in shapes of our own, which leave out what nothing reads.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::{Deserialize, Deserializer};

/// `null` and absent both read as the default: Go writes nil maps and lists as `null`.
///
/// # Errors
/// It is neither `null` nor such a value.
pub fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// An unreadable time is an unknown one: one odd pod must not stop a watch of all of them.
pub(crate) fn time(text: Option<String>) -> Option<Timestamp> {
    text?.parse().ok()
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetaWire {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
    labels: Option<BTreeMap<String, Option<String>>>,
    annotations: Option<BTreeMap<String, Option<String>>>,
    finalizers: Option<Vec<String>>,
    owner_references: Option<Vec<OwnerWire>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnerWire {
    api_version: Option<String>,
    kind: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    controller: Option<bool>,
    block_owner_deletion: Option<bool>,
}

/// Metadata without `managedFields`, tolerant of what is odd in it.
///
/// # Errors
/// It is no metadata.
pub fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let meta: MetaWire = nullable(from)?;
    let texts = |map: Option<BTreeMap<String, Option<String>>>| {
        map.map(|map| map.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
    };
    Ok(ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        creation_timestamp: time(meta.creation_timestamp).map(Time),
        deletion_timestamp: time(meta.deletion_timestamp).map(Time),
        labels: texts(meta.labels),
        annotations: texts(meta.annotations),
        finalizers: meta.finalizers,
        owner_references: meta.owner_references.map(|owners| {
            owners
                .into_iter()
                .map(|owner| OwnerReference {
                    api_version: owner.api_version.unwrap_or_default(),
                    kind: owner.kind.unwrap_or_default(),
                    name: owner.name.unwrap_or_default(),
                    uid: owner.uid.unwrap_or_default(),
                    controller: owner.controller,
                    block_owner_deletion: owner.block_owner_deletion,
                })
                .collect()
        }),
        ..ObjectMeta::default()
    })
}

/// Makes a type with a field `metadata` known to clients as a resource that has a type already.
#[macro_export]
macro_rules! resource_as {
    ($wire:ty, $kind:ty) => {
        impl kube::Resource for $wire {
            type DynamicType = ();
            type Scope = <$kind as kube::Resource>::Scope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                <$kind as kube::Resource>::kind(&())
            }

            fn group((): &()) -> std::borrow::Cow<'_, str> {
                <$kind as kube::Resource>::group(&())
            }

            fn version((): &()) -> std::borrow::Cow<'_, str> {
                <$kind as kube::Resource>::version(&())
            }

            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                <$kind as kube::Resource>::plural(&())
            }

            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
