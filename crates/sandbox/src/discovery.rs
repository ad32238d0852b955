//! Discovery documents: which groups, versions and resources are served, one document each or all in one.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::builtin;
use crate::resource::{Resource, Version};

/// Media type of the documents [`aggregated_core`] and [`aggregated_groups`]; clients ask for it by this very text.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Verbs of a custom resource, in the order in which the API server lists them.
const CUSTOM_VERBS: [&str; 8] =
    ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// `/version`: what `kubectl version` shows of the server.
pub fn version() -> Value {
    json!({
        "major": "1",
        "minor": "34",
        "emulationMajor": "1",
        "emulationMinor": "34",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "33",
        "gitVersion": "v1.34.4",
        "gitCommit": "none",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

/// The machine's architecture in the names that Go and container images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `/api`: the versions of the core group.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `/apis`: every group but the core one, with its versions.
pub fn api_groups(served: &[Arc<Resource>]) -> Value {
    let groups: Vec<Value> = group_names(served).iter().map(|group| group_entry(served, group)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`, if anything of the group is served.
pub fn api_group(served: &[Arc<Resource>], group: &str) -> Option<Value> {
    if group.is_empty() || !served.iter().any(|resource| resource.group == group) {
        return None;
    }
    let mut entry = group_entry(served, group);
    if let Some(fields) = entry.as_object_mut() {
        fields.insert("kind".to_owned(), json!("APIGroup"));
        fields.insert("apiVersion".to_owned(), json!("v1"));
    }
    Some(entry)
}

/// `/api/v1` or `/apis/<group>/<version>`, if anything of the version is served.
pub fn resource_list(served: &[Arc<Resource>], group: &str, version: &str) -> Option<Value> {
    let mut entries = Vec::new();
    for (resource, served) in of_version(served, group, version) {
        entries.push(plain(resource));
        entries.extend(served.subresources.iter().map(|name| plain_subresource(resource, name)));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!entries.is_empty()).then(|| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries})
    })
}

/// `/api` in one document with all resources.
pub fn aggregated_core(served: &[Arc<Resource>]) -> Value {
    aggregated(&[aggregated_group(served, "")])
}

/// `/apis` in one document with all resources.
pub fn aggregated_groups(served: &[Arc<Resource>]) -> Value {
    let items: Vec<Value> = group_names(served).iter().map(|group| aggregated_group(served, group)).collect();
    aggregated(&items)
}

/// `/`: the paths that exist.
pub fn paths(served: &[Arc<Resource>]) -> Value {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/healthz",
        "/livez",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for group in group_names(served) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions(served, group).iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.sort();
    json!({ "paths": paths })
}

/// Groups other than the core one, in the order in which they are served.
fn group_names(served: &[Arc<Resource>]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for resource in served {
        if !resource.group.is_empty() && !names.contains(&resource.group.as_str()) {
            names.push(&resource.group);
        }
    }
    names
}

/// Versions of a group, the preferred one first.
fn versions<'a>(served: &'a [Arc<Resource>], group: &str) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for resource in served.iter().filter(|resource| resource.group == group) {
        for version in &resource.versions {
            if !names.contains(&version.name.as_str()) {
                names.push(&version.name);
            }
        }
    }
    names.sort_by_key(|name| std::cmp::Reverse(priority(name)));
    names
}

/// Order of versions: stable before beta before alpha, then the higher number; anything else comes last.
fn priority(version: &str) -> (u8, u64, u64) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, rest) = rest.split_at_checked(end)?;
        let major = major.parse().ok()?;
        if rest.is_empty() {
            return Some((3, major, 0));
        }
        let stages = [("beta", 2), ("alpha", 1)];
        let (minor, stage) =
            stages.iter().find_map(|(name, stage)| Some((rest.strip_prefix(name)?, *stage)))?;
        Some((stage, major, if minor.is_empty() { 0 } else { minor.parse().ok()? }))
    };
    parse().unwrap_or_default()
}

fn of_version<'a>(
    served: &'a [Arc<Resource>],
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = (&'a Resource, &'a Version)> {
    served
        .iter()
        .filter(move |resource| resource.group == group)
        .filter_map(move |resource| Some((resource.as_ref(), resource.version(version)?)))
}

fn group_entry(served: &[Arc<Resource>], group: &str) -> Value {
    let versions: Vec<Value> = versions(served, group)
        .iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first().cloned().unwrap_or_default();
    json!({"name": group, "versions": versions, "preferredVersion": preferred})
}

fn verbs(resource: &Resource) -> &'static [&'static str] {
    if resource.custom { &CUSTOM_VERBS } else { builtin::verbs(resource) }
}

fn add_names(entry: &mut Map<String, Value>, resource: &Resource) {
    for (field, names) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !names.is_empty() {
            entry.insert(field.to_owned(), json!(names));
        }
    }
}

fn plain(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": verbs(resource),
    });
    if let Some(fields) = entry.as_object_mut() {
        add_names(fields, resource);
    }
    entry
}

fn plain_subresource(resource: &Resource, name: &str) -> Value {
    let subresource = builtin::subresource(&resource.plural, name);
    let mut entry = json!({
        "name": format!("{}/{name}", resource.plural),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": subresource.kind.unwrap_or(&resource.kind),
        "verbs": subresource.verbs,
    });
    if let (Some((group, version)), Some(fields)) = (subresource.group_version, entry.as_object_mut()) {
        fields.insert("group".to_owned(), json!(group));
        fields.insert("version".to_owned(), json!(version));
    }
    entry
}

fn aggregated(items: &[Value]) -> Value {
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(served: &[Arc<Resource>], group: &str) -> Value {
    let versions: Vec<Value> = versions(served, group)
        .iter()
        .map(|version| {
            let resources: Vec<Value> = of_version(served, group, version)
                .map(|(resource, served)| aggregated_resource(resource, served))
                .collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() { json!({}) } else { json!({ "name": group }) };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(resource: &Resource, version: &Version) -> Value {
    // The group and version of a built-in resource's own kind are left empty.
    let (group, own_version) =
        if resource.custom { (resource.group.as_str(), version.name.as_str()) } else { ("", "") };
    let kind =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind(group, own_version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": verbs(resource),
    });
    let subresources: Vec<Value> = version
        .subresources
        .iter()
        .map(|name| {
            let subresource = builtin::subresource(&resource.plural, name);
            let (group, own_version) = subresource.group_version.unwrap_or((group, own_version));
            json!({
                "subresource": name,
                "responseKind": kind(group, own_version, subresource.kind.unwrap_or(&resource.kind)),
                "verbs": subresource.verbs,
            })
        })
        .collect();
    if let Some(fields) = entry.as_object_mut() {
        add_names(fields, resource);
        if !subresources.is_empty() {
            fields.insert("subresources".to_owned(), Value::Array(subresources));
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served() -> Vec<Arc<Resource>> {
        builtin::resources().into_iter().map(Arc::new).collect()
    }

    /// A document of a real 1.34 API server.
    fn recorded(name: &str) -> Value {
        let text = match name {
            "core" => include_str!("testdata/discovery_core.json"),
            "groups" => include_str!("testdata/discovery_groups.json"),
            "plain" => include_str!("testdata/discovery_plain.json"),
            _ => include_str!("testdata/discovery_apps.json"),
        };
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn all_documents_equal_those_of_a_real_api_server() {
        assert_eq!(aggregated_core(&served()), recorded("core"));
        assert_eq!(aggregated_groups(&served()), recorded("groups"));
        assert_eq!(api_groups(&served()), recorded("plain"));
        let mut apps = recorded("apps");
        for resource in apps["resources"].as_array_mut().unwrap() {
            // A hash of the kind's storage version, of use only to those who migrate a real store.
            resource.as_object_mut().unwrap().remove("storageVersionHash");
        }
        assert_eq!(resource_list(&served(), "apps", "v1").unwrap(), apps);
    }

    #[test]
    fn versions_are_ordered_by_stability_and_number() {
        let mut names = ["v1alpha1", "v2", "v1beta2", "foo", "v1", "v1beta1", "v10"];
        names.sort_by_key(|name| std::cmp::Reverse(priority(name)));
        assert_eq!(names, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]);
    }

    #[test]
    fn what_is_not_served_has_no_document() {
        assert_eq!(api_group(&served(), "nope"), None);
        assert_eq!(resource_list(&served(), "apps", "v9"), None);
        assert_eq!(api_group(&served(), "autoscaling").unwrap()["preferredVersion"]["version"], "v2");
    }
}
