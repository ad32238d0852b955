//! ControllerRevisions as the API server sends them, their data kept as text: a tree of each would be built to be dropped.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruise_api::raw::RawJson;
use serde::Deserialize;

use crate::wire::{metadata, nullable};

/// A ControllerRevision, without what nothing reads.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RevisionWire {
    #[serde(default, deserialize_with = "metadata")]
    pub(super) metadata: ObjectMeta,
    /// What the revision holds, in whatever shape its writer gave it.
    #[serde(default)]
    pub data: RawJson,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) revision: i64,
}

crate::resource_as!(RevisionWire, ControllerRevision);
