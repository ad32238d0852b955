//! What the server serves: one [`Resource`] per group and plural name, built in or from a CustomResourceDefinition.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::schema::Structural;

/// One served resource type, all its versions.
#[derive(Clone, Debug)]
pub struct Resource {
    /// API group, empty for the core group.
    pub group: String,
    /// Plural name in paths: `pods`.
    pub plural: String,
    /// Singular name: `pod`.
    pub singular: String,
    /// Kind: `Pod`.
    pub kind: String,
    /// Kind of a list: `PodList`.
    pub list_kind: String,
    /// Names that kubectl accepts instead: `po`.
    pub short_names: Vec<String>,
    /// `all` and the like.
    pub categories: Vec<String>,
    /// False for nodes, namespaces and the like.
    pub namespaced: bool,
    /// Served versions, the preferred first. Built-in resources have exactly one.
    pub versions: Vec<Version>,
    /// The version objects are stored in.
    pub storage: String,
    /// How an object of one version becomes one of another; only `apiVersion` changes with `None`.
    pub conversion: Conversion,
    /// True for resources of a CustomResourceDefinition.
    pub custom: bool,
    /// The compiled schemas of all versions of a custom resource, also of those that are not served, by their names.
    pub schemas: BTreeMap<String, Option<Structural>>,
}

/// How versions of a custom resource are converted.
#[derive(Clone, Debug)]
pub enum Conversion {
    /// Only `apiVersion` changes.
    None,
    /// The webhook of the CustomResourceDefinition: its `clientConfig`.
    Webhook(Value),
}

/// One served version of a resource.
#[derive(Clone, Debug)]
pub struct Version {
    /// `v1`.
    pub name: String,
    /// OpenAPI schema (JSON) of the kind; `None` for built-in kinds, whose schema comes from [`crate::openapi`].
    pub schema: Option<Arc<Value>>,
    /// The same schema compiled: pruning, defaults, validation.
    pub structural: Option<Structural>,
    /// Printer columns of a custom resource (`additionalPrinterColumns`, JSON objects); built-in ones are in [`crate::table`].
    pub columns: Vec<Value>,
    /// Subresources served, e.g. `status`, `scale`, `eviction`, `binding`.
    pub subresources: Vec<String>,
    /// `subresources.scale` of the CustomResourceDefinition (specReplicasPath, statusReplicasPath, labelSelectorPath).
    pub scale: Option<Value>,
    /// `selectableFields` of the CustomResourceDefinition as dotted paths, e.g. `spec.color`.
    pub selectable_fields: Vec<String>,
    /// The deprecation warning that answers carry, if the version is deprecated.
    pub deprecation: Option<String>,
}

impl Resource {
    /// `group/version`, or the version alone for the core group.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// The named served version.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name == name)
    }

    /// The schema of an object's own version, which may be one that is not served any more; the error is a version that
    /// the resource does not have.
    pub fn schema_of(&self, object: &Value) -> Result<Option<&Structural>, String> {
        let api_version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let name = api_version.rsplit_once('/').map_or(api_version, |(_, name)| name);
        self.schemas.get(name).map(Option::as_ref).ok_or_else(|| api_version.to_owned())
    }

    /// `plural.group`, as error messages name a resource: `pods`, `clonesets.apps.kruise.io`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }
}
