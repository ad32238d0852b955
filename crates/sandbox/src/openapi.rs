//! OpenAPI v3 documents: an index, and for every group and version one document with its schemas and paths.
//!
//! `kubectl explain` reads the schemas, `kubectl apply` the merge keys in them, and both the parameters of the `PATCH`
//! operations, to find out what the server can do. There is no `/openapi/v2`: clients that know v3 never ask for it.
//!
//! Documents of built-in kinds are built once per process, when first asked for.

mod extensions;
mod operations;
mod schemas;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::resource::{Resource, Version};

/// Where documents refer to schemas.
const SCHEMAS: &str = "#/components/schemas/";

/// `/openapi/v3`: the documents that exist, each under an address that changes with its content.
pub fn index(served: &[Arc<Resource>]) -> Value {
    let mut paths = Map::new();
    for (group, version) in group_versions(served) {
        let path = path(group, version);
        let address =
            json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", hash(served, group, version))});
        paths.insert(path, address);
    }
    json!({ "paths": paths })
}

/// Encoded documents of built-in groups, by path.
static BUILT: OnceLock<Mutex<HashMap<String, Bytes>>> = OnceLock::new();

/// `/openapi/v3/<path>`, e.g. `api/v1` or `apis/apps/v1`, as encoded JSON; `None` if nothing is served there.
pub fn document(served: &[Arc<Resource>], path: &str) -> Option<Bytes> {
    let path = path.trim_matches('/');
    let (group, version) = match path.strip_prefix("api/") {
        Some(version) => ("", version),
        None => path.strip_prefix("apis/")?.split_once('/')?,
    };
    let resources: Vec<(&Resource, &Version)> = served
        .iter()
        .filter(|resource| resource.group == group)
        .filter_map(|resource| Some((resource.as_ref(), resource.version(version)?)))
        .collect();
    if resources.is_empty() {
        return None;
    }
    if resources.iter().any(|(resource, _)| resource.custom) {
        return encode(&build(&resources));
    }
    let built = BUILT.get_or_init(Mutex::default);
    if let Some(bytes) = built.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
        return Some(bytes.clone());
    }
    let bytes = encode(&build(&resources))?;
    built.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), bytes.clone());
    Some(bytes)
}

/// The schema of a built-in kind with everything it refers to, as a document's `components.schemas` has them; the first
/// name is the kind's own.
pub fn builtin_schema(group: &str, version: &str, kind: &str) -> Option<&'static Value> {
    let name = crate::kinds::structure_name(group, version, kind)?;
    schemas::all().get(name)
}

fn encode(document: &Value) -> Option<Bytes> {
    serde_json::to_vec(document).ok().map(Bytes::from)
}

fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn group_versions(served: &[Arc<Resource>]) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for resource in served {
        for version in &resource.versions {
            let pair = (resource.group.as_str(), version.name.as_str());
            if !found.contains(&pair) {
                found.push(pair);
            }
        }
    }
    found
}

fn hash(served: &[Arc<Resource>], group: &str, version: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (env!("CARGO_PKG_VERSION"), group, version).hash(&mut hasher);
    for resource in served.iter().filter(|resource| resource.group == group && resource.custom) {
        resource.plural.hash(&mut hasher);
        for version in resource.versions.iter().filter(|served| served.name == version) {
            version.subresources.hash(&mut hasher);
            version.schema.as_ref().map(ToString::to_string).hash(&mut hasher);
        }
    }
    format!("{:016X}", hasher.finish())
}

fn build(resources: &[(&Resource, &Version)]) -> Value {
    let mut wanted: Vec<String> = Vec::new();
    let mut own = Map::new();
    let mut paths = Map::new();
    for (resource, version) in resources {
        let name = schema_name(resource, version);
        let list = list_name(resource, version, &name);
        if let Some(schema) = version.schema.as_deref().filter(|_| resource.custom) {
            own.insert(name.clone(), schemas::custom(resource, version, schema));
        }
        if crate::builtin::verbs(resource).contains(&"list") {
            own.insert(list.clone(), schemas::list(resource, version, &name));
        }
        wanted.push(name.clone());
        operations::add(resource, version, &name, &list, &mut paths);
    }
    let all = schemas::all();
    let mut found = own;
    for schema in found.values() {
        references(schema, &mut wanted);
    }
    let paths = Value::Object(paths);
    references(&paths, &mut wanted);
    while let Some(name) = wanted.pop() {
        if found.contains_key(&name) {
            continue;
        }
        if let Some(schema) = all.get(&name) {
            references(schema, &mut wanted);
            found.insert(name, schema.clone());
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "1.34"},
        "paths": paths,
        "components": {"schemas": found},
    })
}

/// The name of a kind's schema: that of its structure, or for custom kinds the group written backwards.
fn schema_name(resource: &Resource, version: &Version) -> String {
    if let Some(name) = crate::kinds::structure_name(&resource.group, &version.name, &resource.kind) {
        return name.to_owned();
    }
    let group: Vec<&str> = resource.group.split('.').rev().collect();
    format!("{}.{}.{}", group.join("."), version.name, resource.kind)
}

fn list_name(resource: &Resource, version: &Version, name: &str) -> String {
    let package = name.rsplit_once('.').map_or(version.name.as_str(), |(package, _)| package);
    format!("{package}.{}", resource.list_kind)
}

/// Names of all schemas that a schema refers to.
fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str().filter(|_| key == "$ref").and_then(|text| text.strip_prefix(SCHEMAS)) {
                    Some(name) => found.push(name.to_owned()),
                    None => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::resource::Conversion;

    fn served() -> Vec<Arc<Resource>> {
        let mut served: Vec<Arc<Resource>> = crate::builtin::resources().into_iter().map(Arc::new).collect();
        let schema = json!({"type": "object", "description": "A widget.", "properties": {
            "spec": {"type": "object", "properties": {"size": {"type": "integer", "description": "How large."}}}}});
        let version = Version {
            name: "v1".to_owned(),
            schema: Some(Arc::new(schema)),
            structural: None,
            columns: Vec::new(),
            subresources: vec!["status".to_owned(), "scale".to_owned()],
            scale: None,
            selectable_fields: Vec::new(),
            deprecation: None,
        };
        served.push(Arc::new(Resource {
            group: "test.example.com".to_owned(),
            plural: "widgets".to_owned(),
            singular: "widget".to_owned(),
            kind: "Widget".to_owned(),
            list_kind: "WidgetList".to_owned(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            versions: vec![version],
            storage: "v1".to_owned(),
            conversion: Conversion::None,
            custom: true,
            schemas: BTreeMap::new(),
        }));
        served
    }

    fn parsed(path: &str) -> Value {
        serde_json::from_slice(&document(&served(), path).unwrap()).unwrap()
    }

    #[test]
    fn every_document_of_the_index_exists_and_refers_only_to_what_it_has() {
        let served = served();
        let index = index(&served);
        let paths = index["paths"].as_object().unwrap();
        assert!(paths.len() > 20);
        for path in paths.keys() {
            let document = parsed(path);
            let schemas = document["components"]["schemas"].as_object().unwrap();
            let mut wanted = Vec::new();
            references(&document, &mut wanted);
            for name in wanted {
                assert!(schemas.contains_key(&name), "{path} lacks {name}");
            }
        }
    }

    #[test]
    fn pods_have_the_merge_keys_that_apply_needs() {
        let core = parsed("api/v1");
        let spec = &core["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"];
        assert_eq!(spec["containers"]["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(spec["containers"]["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(spec["containers"]["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(
            spec["affinity"]["allOf"],
            json!([{"$ref": "#/components/schemas/io.k8s.api.core.v1.Affinity"}])
        );
        let pod = &core["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
        assert_eq!(
            pod["x-kubernetes-group-version-kind"],
            json!([{"group": "", "version": "v1", "kind": "Pod"}])
        );
        let patch = &core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Pod");
        let names: Vec<&str> = patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        assert!(names.contains(&"fieldValidation") && names.contains(&"dryRun"), "{names:?}");
    }

    #[test]
    fn a_custom_kind_has_its_own_schema_with_metadata() {
        let document = parsed("apis/test.example.com/v1");
        let widget = &document["components"]["schemas"]["com.example.test.v1.Widget"];
        assert_eq!(widget["properties"]["spec"]["properties"]["size"]["description"], "How large.");
        assert_eq!(
            widget["properties"]["metadata"]["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
        assert!(
            document["paths"]["/apis/test.example.com/v1/namespaces/{namespace}/widgets/{name}/status"]
                .is_object()
        );
    }

    #[test]
    fn the_address_of_a_document_changes_with_its_schema() {
        let before = served();
        let mut changed = (**before.last().unwrap()).clone();
        changed.versions[0].schema = Some(Arc::new(json!({"type": "object"})));
        let mut after = before.clone();
        *after.last_mut().unwrap() = Arc::new(changed);
        let (before, after) = (index(&before), index(&after));
        assert_ne!(before["paths"]["apis/test.example.com/v1"], after["paths"]["apis/test.example.com/v1"]);
        assert_eq!(before["paths"]["api/v1"], after["paths"]["api/v1"]);
    }

    #[test]
    fn what_is_not_served_has_no_document() {
        for path in ["", "api/v2", "apis/nope/v1", "apis/apps", "version"] {
            assert!(document(&served(), path).is_none(), "{path}");
        }
    }
}
