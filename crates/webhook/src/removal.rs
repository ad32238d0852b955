//! Whether this installation is on its way out. What is missing then is gone for good, and whoever made it anew would
//! leave webhooks behind that nobody answers.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ObjectMeta};
use tracing::debug;

use crate::configure::OwnerNamespace;

/// Name of the manager's Deployment.
pub const DEPLOYMENT: &str = "kruise-controller-manager";

/// An object that a manager lives in.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Home {
    /// It could not be read.
    Unknown,
    Absent,
    Present {
        uid: Option<String>,
        deleting: bool,
    },
}

impl Home {
    fn of(what: &'static str, answer: kube::Result<Option<ObjectMeta>>) -> Self {
        match answer {
            Ok(Some(meta)) => Self::Present { uid: meta.uid, deleting: meta.deletion_timestamp.is_some() },
            Ok(None) => Self::Absent,
            Err(error) => {
                debug!(%error, what, "cannot read what the manager lives in");
                Self::Unknown
            }
        }
    }

    /// A manager that never had such an object does not miss it.
    fn leaves(&self, had: bool) -> bool {
        matches!((self, had), (Self::Present { deleting: true, .. }, _) | (Self::Absent, true))
    }
}

/// The Namespace and the Deployment of the manager.
pub(crate) struct Surroundings {
    client: kube::Client,
    namespace: String,
    had_namespace: bool,
    had_deployment: bool,
}

/// What a look at the surroundings says.
#[derive(Debug)]
pub(crate) struct Found {
    /// What is being deleted or gone.
    pub(crate) leaving: Option<&'static str>,
    /// None when the Namespace cannot be read: ownership is a comfort for uninstalling, not a need.
    pub(crate) owner: Option<OwnerNamespace>,
}

impl Surroundings {
    pub(crate) const fn new(client: kube::Client, namespace: String) -> Self {
        Self { client, namespace, had_namespace: false, had_deployment: false }
    }

    pub(crate) async fn look(&mut self) -> Found {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        let (namespace, deployment) = tokio::join!(
            namespaces.get_metadata_opt(&self.namespace),
            deployments.get_metadata_opt(DEPLOYMENT)
        );
        let namespace = Home::of("Namespace", namespace.map(|it| it.map(|it| it.metadata)));
        let deployment = Home::of("Deployment", deployment.map(|it| it.map(|it| it.metadata)));
        let leaving = if namespace.leaves(self.had_namespace) {
            Some("Namespace")
        } else if deployment.leaves(self.had_deployment) {
            Some("Deployment")
        } else {
            None
        };
        self.had_namespace |= matches!(namespace, Home::Present { .. });
        self.had_deployment |= matches!(deployment, Home::Present { .. });
        let uid = if let Home::Present { uid, .. } = namespace { uid } else { None };
        Found { leaving, owner: uid.map(|uid| OwnerNamespace { name: self.namespace.clone(), uid }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_never_had_a_deployment_does_not_miss_it() {
        let live = |deleting| Home::Present { uid: None, deleting };
        let rows = [
            (Home::Absent, false, false),
            (Home::Absent, true, true),
            (Home::Unknown, true, false),
            (live(false), true, false),
            (live(true), false, true),
            (live(true), true, true),
        ];
        for (home, had, leaves) in rows {
            assert_eq!(home.leaves(had), leaves, "{home:?}, had: {had}");
        }
    }
}
