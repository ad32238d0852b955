//! What the API server serves.

use kube::Api;
use kube::Client;
use kube::core::{ApiResource, DynamicObject};

/// A served resource, in its preferred version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Served {
    /// Group, version, kind and plural.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it: `list`, `watch`, `delete` …
    pub verbs: Vec<String>,
    /// Whether it has a scale subresource.
    pub scalable: bool,
}

impl Served {
    /// True if the resource allows `verb`.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|allowed| allowed == verb)
    }

    /// A client of its objects; the namespace is ignored where there is none.
    pub(super) fn api(&self, client: Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client, namespace, &self.resource)
        } else {
            Api::all_with(client, &self.resource)
        }
    }
}

/// All served resources, each once, by group and plural.
pub async fn resources(client: &Client) -> kube::Result<Vec<Served>> {
    let core = client.list_core_api_versions_aggregated().await?;
    let groups = client.list_api_groups_aggregated().await?;
    let mut found: Vec<Served> = Vec::new();
    for group in core.items.into_iter().chain(groups.items) {
        let group_name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
        for version in group.versions {
            let version_name = version.version.unwrap_or_default();
            for resource in version.resources {
                let plural = resource.resource.unwrap_or_default();
                // The first version listed is the preferred one.
                let known =
                    |served: &Served| served.resource.group == group_name && served.resource.plural == plural;
                if found.iter().any(known) {
                    continue;
                }
                let kind = resource.response_kind.and_then(|kind| kind.kind).unwrap_or_default();
                found.push(Served {
                    namespaced: resource.scope.as_deref() == Some("Namespaced"),
                    verbs: resource.verbs,
                    scalable: resource
                        .subresources
                        .iter()
                        .any(|sub| sub.subresource.as_deref() == Some("scale")),
                    resource: super::hub::resource(&group_name, &version_name, &kind, &plural),
                });
            }
        }
    }
    Ok(found)
}
