//! Objects as the API server sends them, reduced to what the agent reads. Specs and states stay loose JSON until they
//! are looked at one by one: an odd entry must not hide the others.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{ContainerPort, LifecycleHandler, Node, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruise_api::nodeimage::NodeImage;
use kube::Resource;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// Lends a wire type the name and place of the kind it stands for.
macro_rules! stands_for {
    ($wire:ty, $kind:ty) => {
        impl Resource for $wire {
            type DynamicType = ();
            type Scope = <$kind as Resource>::Scope;

            fn kind((): &()) -> Cow<'_, str> {
                <$kind>::kind(&())
            }

            fn group((): &()) -> Cow<'_, str> {
                <$kind>::group(&())
            }

            fn version((): &()) -> Cow<'_, str> {
                <$kind>::version(&())
            }

            fn plural((): &()) -> Cow<'_, str> {
                <$kind>::plural(&())
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

/// A NodeImage.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct NodeImageWire {
    /// Metadata.
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    /// The images, loose.
    #[serde(default)]
    pub(crate) spec: Value,
    /// Their states, loose.
    #[serde(default)]
    pub(crate) status: Value,
}

stands_for!(NodeImageWire, NodeImage);

/// A Secret, which never shows its content.
#[derive(Clone, Default, Deserialize)]
pub(crate) struct SecretWire {
    /// Metadata.
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    /// What the content is.
    #[serde(rename = "type", default)]
    pub(crate) kind: Option<String>,
    /// The content, in base64.
    #[serde(default)]
    pub(crate) data: Option<BTreeMap<String, String>>,
}

impl fmt::Debug for SecretWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretWire").field("name", &self.metadata.name).finish_non_exhaustive()
    }
}

stands_for!(SecretWire, Secret);

/// A Node, without all the rest: the images alone are most of it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct NodeWire {
    /// Metadata.
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    /// Status.
    #[serde(default)]
    pub(crate) status: NodeStatusWire,
}

/// The status of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeStatusWire {
    /// What runs there.
    pub(crate) node_info: NodeInfoWire,
}

/// What runs on a Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeInfoWire {
    /// Name and version of the container runtime: `containerd://2.1.4`.
    pub(crate) container_runtime_version: String,
}

stands_for!(NodeWire, Node);

/// A Pod, as far as it says how its containers are stopped: what reads all the rest would be a good part of the program.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct StoppablePod {
    /// Metadata.
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    /// What it should be.
    #[serde(default)]
    pub(crate) spec: StoppableSpec,
    /// What it is.
    #[serde(default)]
    pub(crate) status: StoppableStatus,
}

/// The spec of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StoppableSpec {
    pub(crate) containers: Vec<StoppableContainer>,
    pub(crate) restart_policy: Option<String>,
    pub(crate) termination_grace_period_seconds: Option<i64>,
}

/// A container of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StoppableContainer {
    pub(crate) name: String,
    pub(crate) lifecycle: Option<LifecycleWire>,
    pub(crate) ports: Option<Vec<ContainerPort>>,
    pub(crate) restart_policy: Option<String>,
    /// Not read: there are some, or none.
    pub(crate) restart_policy_rules: Option<Vec<IgnoredAny>>,
}

/// The hooks of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LifecycleWire {
    pub(crate) pre_stop: Option<LifecycleHandler>,
}

/// The status of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StoppableStatus {
    pub(crate) phase: Option<String>,
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: Option<String>,
}

stands_for!(StoppablePod, Pod);
