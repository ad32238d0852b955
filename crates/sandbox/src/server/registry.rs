//! Which resources are served right now.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::resource::Resource;
use crate::{builtin, object};

/// Built-in resources, shared by all servers, and those of CustomResourceDefinitions.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    custom: HashMap<(String, String), Served>,
}

/// A custom resource with the parts of its definition that it was made from.
#[derive(Debug)]
struct Served {
    resource: Arc<Resource>,
    uid: String,
    spec: Value,
    names: Value,
}

impl Served {
    fn is_of(&self, definition: &Value) -> bool {
        let part = |pointer: &str| definition.pointer(pointer).unwrap_or(&Value::Null);
        self.uid == object::uid(definition)
            && self.spec == *part("/spec")
            && self.names == *part("/status/acceptedNames")
    }
}

struct Builtin {
    listed: Vec<Arc<Resource>>,
    by_name: HashMap<(String, String), Arc<Resource>>,
}

fn builtin() -> &'static Builtin {
    static BUILTIN: OnceLock<Builtin> = OnceLock::new();
    BUILTIN.get_or_init(|| {
        let listed: Vec<Arc<Resource>> = builtin::resources().into_iter().map(Arc::new).collect();
        let key = |resource: &Arc<Resource>| (resource.group.clone(), resource.plural.clone());
        let by_name = listed.iter().map(|resource| (key(resource), Arc::clone(resource))).collect();
        Builtin { listed, by_name }
    })
}

impl Registry {
    /// The resource of a group under its plural name.
    pub(crate) fn get(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        let key = (group.to_owned(), plural.to_owned());
        let custom = || self.custom.get(&key).map(|served| &served.resource);
        builtin().by_name.get(&key).or_else(custom).cloned()
    }

    /// Something of the group is served.
    pub(crate) fn has_group(&self, group: &str) -> bool {
        let is = |resource: &Arc<Resource>| resource.group == group;
        builtin().listed.iter().any(is) || self.custom.values().any(|served| is(&served.resource))
    }

    /// Only CustomResourceDefinitions serve something of the group.
    pub(crate) fn is_custom_group(&self, group: &str) -> bool {
        self.has_group(group) && builtin().listed.iter().all(|resource| resource.group != group)
    }

    /// Built-in resources first, then custom ones by group and name.
    pub(crate) fn all(&self) -> Vec<Arc<Resource>> {
        let mut custom: Vec<Arc<Resource>> =
            self.custom.values().map(|served| Arc::clone(&served.resource)).collect();
        custom.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
        builtin().listed.iter().cloned().chain(custom).collect()
    }

    /// What is served is what the definition says: neither its spec nor its accepted names have changed since.
    pub(crate) fn is_served(&self, definition: &Value) -> bool {
        let text =
            |pointer| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = (text("/spec/group"), text("/spec/names/plural"));
        self.custom.get(&key).is_some_and(|served| served.is_of(definition))
    }

    /// Serves the resource of a definition from now on, in place of what was served under its name.
    pub(crate) fn serve(&mut self, definition: &Value, resource: Resource) {
        let part = |pointer: &str| definition.pointer(pointer).cloned().unwrap_or_default();
        let key = (resource.group.clone(), resource.plural.clone());
        let (spec, names) = (part("/spec"), part("/status/acceptedNames"));
        let uid = object::uid(definition).to_owned();
        self.custom.insert(key, Served { resource: Arc::new(resource), uid, spec, names });
    }

    /// Serves a custom resource no longer.
    pub(crate) fn withdraw(&mut self, group: &str, plural: &str) {
        self.custom.remove(&(group.to_owned(), plural.to_owned()));
    }
}
