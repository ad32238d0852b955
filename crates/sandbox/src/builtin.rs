//! Which resource types every Kubernetes 1.34 cluster serves, with their names, verbs and subresources.
//!
//! The table (`builtin.txt`) has one resource per line: group, versions (the stored and preferred one first), plural,
//! singular, kind, scope, short names, categories, verbs and subresources; `-` stands for nothing, and in the column of
//! the verbs for all eight.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use crate::resource::{Conversion, Resource, Version};

const TABLE: &str = include_str!("builtin.txt");

/// What a resource without exceptions can do.
pub const ALL_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Every resource type that a server has before any CustomResourceDefinition, in the order discovery lists them.
pub fn resources() -> Vec<Resource> {
    parsed().iter().map(|row| row.resource.clone()).collect()
}

/// The verbs of a resource, as discovery lists them.
pub fn verbs(resource: &Resource) -> &'static [&'static str] {
    if resource.custom {
        return &ALL_VERBS;
    }
    row(&resource.group, &resource.plural).map_or(&ALL_VERBS, |row| &row.verbs)
}

/// The resource under which objects of this one are stored, when several groups serve the same objects.
///
/// `events` of `events.k8s.io` are the `events` of the core group in another form ([`crate::kinds::convert`]).
pub fn stored_as(group: &str, plural: &str) -> Option<(&'static str, &'static str)> {
    (group == "events.k8s.io" && plural == "events").then_some(("", "events"))
}

/// What a subresource takes and can do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subresource {
    /// Group of the kind it answers with; `None` when group and version are those of the resource.
    pub group_version: Option<(&'static str, &'static str)>,
    /// The kind it answers with; `None` when it is the resource's own.
    pub kind: Option<&'static str>,
    /// Verbs, as discovery lists them.
    pub verbs: &'static [&'static str],
}

/// The kind and verbs of a subresource of `plural`.
pub fn subresource(plural: &str, name: &str) -> Subresource {
    const OBJECT: &[&str] = &["get", "patch", "update"];
    const CREATE: &[&str] = &["create"];
    const STREAM: &[&str] = &["create", "get"];
    const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
    let own = |verbs| Subresource { group_version: None, kind: None, verbs };
    let other = |kind, verbs| Subresource { group_version: None, kind: Some(kind), verbs };
    let foreign = |group, version, kind, verbs| Subresource {
        group_version: Some((group, version)),
        kind: Some(kind),
        verbs,
    };
    match (plural, name) {
        (_, "scale") => foreign("autoscaling", "v1", "Scale", OBJECT),
        (_, "eviction") => foreign("policy", "v1", "Eviction", CREATE),
        (_, "token") => foreign("authentication.k8s.io", "v1", "TokenRequest", CREATE),
        (_, "binding") => other("Binding", CREATE),
        (_, "attach") => other("PodAttachOptions", STREAM),
        (_, "exec") => other("PodExecOptions", STREAM),
        (_, "portforward") => other("PodPortForwardOptions", STREAM),
        ("pods", "proxy") => other("PodProxyOptions", PROXY),
        ("nodes", "proxy") => other("NodeProxyOptions", PROXY),
        (_, "proxy") => other("ServiceProxyOptions", PROXY),
        (_, "log") => own(&["get"]),
        (_, "finalize") => own(&["update"]),
        _ => own(OBJECT),
    }
}

struct Row {
    resource: Resource,
    verbs: Vec<&'static str>,
}

fn parsed() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    ROWS.get_or_init(|| TABLE.lines().filter_map(parse).collect())
}

fn row(group: &str, plural: &str) -> Option<&'static Row> {
    static INDEX: OnceLock<HashMap<(&'static str, &'static str), &'static Row>> = OnceLock::new();
    let key = |row: &'static Row| ((row.resource.group.as_str(), row.resource.plural.as_str()), row);
    INDEX.get_or_init(|| parsed().iter().map(key).collect()).get(&(group, plural)).copied()
}

fn parse(line: &'static str) -> Option<Row> {
    let mut columns = line.split(' ').map(|column| if column == "-" { "" } else { column });
    let group = columns.next()?;
    let versions: Vec<&str> = list(columns.next()?);
    let (plural, singular, kind, scope) =
        (columns.next()?, columns.next()?, columns.next()?, columns.next()?);
    let (short_names, categories) = (columns.next()?, columns.next()?);
    let (verbs, subresources) = (list(columns.next()?), columns.next()?);
    let resource = Resource {
        group: group.to_owned(),
        plural: plural.to_owned(),
        singular: singular.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        short_names: owned(short_names),
        categories: owned(categories),
        namespaced: scope == "N",
        versions: versions.iter().map(|name| version(name, group, plural, subresources)).collect(),
        storage: (*versions.first()?).to_owned(),
        conversion: Conversion::None,
        custom: false,
        schemas: BTreeMap::new(),
    };
    Some(Row { resource, verbs: if verbs.is_empty() { ALL_VERBS.to_vec() } else { verbs } })
}

fn version(name: &str, group: &str, plural: &str, subresources: &str) -> Version {
    Version {
        name: name.to_owned(),
        schema: None,
        structural: None,
        columns: Vec::new(),
        subresources: owned(subresources),
        scale: None,
        selectable_fields: selectable_fields(group, plural).iter().map(|field| (*field).to_owned()).collect(),
        deprecation: deprecation(group, plural, name).map(str::to_owned),
    }
}

/// The fields besides `metadata.name` and `metadata.namespace` that a field selector may name.
fn selectable_fields(group: &str, plural: &str) -> &'static [&'static str] {
    match (group, plural) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "namespaces") => &["status.phase"],
        ("", "secrets") => &["type"],
        ("", "replicationcontrollers") | ("apps", "replicasets") => &["status.replicas"],
        ("batch", "jobs") => &["status.successful"],
        ("certificates.k8s.io", _) => &["spec.signerName"],
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "events") => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        _ => &[],
    }
}

fn deprecation(group: &str, plural: &str, version: &str) -> Option<&'static str> {
    match (group, plural, version) {
        ("", "endpoints", "v1") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        ("", "componentstatuses", "v1") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

fn list(column: &'static str) -> Vec<&'static str> {
    column.split(',').filter(|name| !name.is_empty()).collect()
}

fn owned(column: &str) -> Vec<String> {
    column.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_a_resource() {
        assert_eq!(parsed().len(), TABLE.lines().count());
        for row in parsed() {
            assert!(!row.resource.versions.is_empty() && !row.resource.kind.is_empty(), "{:?}", row.resource);
        }
    }

    #[test]
    fn namespaces_cannot_be_deleted_all_at_once() {
        let resources = resources();
        let namespaces = resources.iter().find(|resource| resource.plural == "namespaces").unwrap();
        assert!(!verbs(namespaces).contains(&"deletecollection"));
        assert!(!namespaces.namespaced);
        let pods = resources.iter().find(|resource| resource.plural == "pods").unwrap();
        assert_eq!(verbs(pods), ALL_VERBS);
        assert!(pods.version("v1").unwrap().subresources.contains(&"eviction".to_owned()));
    }

    #[test]
    fn autoscalers_are_served_in_two_versions() {
        let resources = resources();
        let scalers = resources.iter().find(|resource| resource.group == "autoscaling").unwrap();
        let names: Vec<_> = scalers.versions.iter().map(|version| version.name.as_str()).collect();
        assert_eq!(names, ["v2", "v1"]);
        assert_eq!(scalers.storage, "v2");
    }
}
