//! What a request asks for: path and query → verb, resource, name.

use std::sync::Arc;

use http::Method;

/// What is done to a resource, as audit logs and RBAC name it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Verb {
    /// One object.
    Get,
    /// A collection.
    List,
    /// A stream of changes.
    Watch,
    /// A new object, or a POST to a subresource.
    Create,
    /// An object replaced.
    Update,
    /// An object changed in part.
    Patch,
    /// One object deleted.
    Delete,
    /// A collection deleted.
    DeleteCollection,
}

impl Verb {
    /// `get`, `deletecollection` and so on.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    /// It changes something.
    pub const fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// A request to a resource, as interceptors see it.
#[derive(Clone, Debug)]
pub struct RequestInfo {
    /// Counts all requests of the server from 1.
    pub number: u64,
    /// Who asks: the name of the in-process client, else the `User-Agent`.
    pub client: Arc<str>,
    /// What is asked.
    pub verb: Verb,
    /// API group, empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name of the resource.
    pub resource: String,
    /// `status`, `scale` and the like, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name of the object, or empty.
    pub name: String,
    /// Nothing is to be stored.
    pub dry_run: bool,
}

/// The decoded query of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `a=b&c=d`.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        Self(pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
    }

    /// The first value of a parameter, or the empty text.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(known, _)| known == key).map_or("", |(_, value)| value)
    }

    /// The parameter is there, whatever its value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(known, _)| known == key)
    }

    /// A truth value: `true` and `1`, as the API server reads them.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.has(key) && !matches!(self.get(key), "false" | "0")
    }

    /// Values of a parameter that may be given several times.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }
}

/// Where a path leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Route {
    /// Resources of a group and version.
    Resource(Target),
    /// `/api`, `/apis`, `/apis/{group}`, `/apis/{group}/{version}`, `/openapi/…`, `/version`, `/healthz` and so on.
    Other,
}

/// The resource part of a path.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// The path itself asks for a watch: `/api/v1/watch/…`.
    pub(crate) watch: bool,
}

/// Reads a path.
pub(crate) fn route(path: &str) -> Route {
    let decoded: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Route::Other,
    };
    let mut target = Target { group: group.to_owned(), version: version.to_owned(), ..Target::default() };
    let rest = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => {
            target.watch = true;
            rest
        }
        rest => rest,
    };
    let rest = match rest {
        [] => return Route::Other,
        ["namespaces", namespace, rest @ ..]
            if !rest.is_empty() && !matches!(rest, ["status" | "finalize"]) =>
        {
            (*namespace).clone_into(&mut target.namespace);
            rest
        }
        rest => rest,
    };
    let [resource, tail @ ..] = rest else { return Route::Other };
    (*resource).clone_into(&mut target.resource);
    if let [name, sub @ ..] = tail {
        (*name).clone_into(&mut target.name);
        target.subresource = sub.join("/");
    }
    Route::Resource(target)
}

fn decode(part: &str) -> String {
    if !part.contains('%') {
        return part.to_owned();
    }
    let plain = part.replace('+', "%2B");
    form_urlencoded::parse(plain.as_bytes()).map(|(key, _)| key.into_owned()).next().unwrap_or_default()
}

/// The verb of a request to a resource.
pub(crate) fn verb(method: &Method, target: &Target, query: &Query) -> Option<Verb> {
    let named = !target.name.is_empty();
    Some(match method.as_str() {
        "GET" if target.watch => Verb::Watch,
        _ if target.watch => return None,
        "GET" if query.flag("watch") && !named => Verb::Watch,
        "GET" if named => Verb::Get,
        "GET" => Verb::List,
        "POST" => Verb::Create,
        "PUT" if named => Verb::Update,
        "PATCH" if named => Verb::Patch,
        "DELETE" if named => Verb::Delete,
        "DELETE" => Verb::DeleteCollection,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> [String; 6] {
        let Route::Resource(target) = route(path) else { return Default::default() };
        [target.group, target.version, target.namespace, target.resource, target.name, target.subresource]
    }

    #[test]
    fn paths_name_resources_objects_and_subresources() {
        assert_eq!(parts("/api/v1/pods"), ["", "v1", "", "pods", "", ""]);
        assert_eq!(parts("/api/v1/namespaces/a/pods/b/status"), ["", "v1", "a", "pods", "b", "status"]);
        assert_eq!(parts("/api/v1/namespaces"), ["", "v1", "", "namespaces", "", ""]);
        assert_eq!(parts("/api/v1/namespaces/a"), ["", "v1", "", "namespaces", "a", ""]);
        assert_eq!(parts("/api/v1/namespaces/a/finalize"), ["", "v1", "", "namespaces", "a", "finalize"]);
        assert_eq!(
            parts("/apis/apps/v1/namespaces/a/deployments"),
            ["apps", "v1", "a", "deployments", "", ""]
        );
        assert_eq!(parts("/apis/r/v1/roles/system%3Anode"), ["r", "v1", "", "roles", "system:node", ""]);
        assert_eq!(route("/apis/apps/v1"), Route::Other);
        assert_eq!(route("/version"), Route::Other);
    }
}
