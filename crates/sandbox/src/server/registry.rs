//! Which resources are served right now.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::builtin;
use crate::resource::Resource;

/// Built-in resources, shared by all servers, and those of CustomResourceDefinitions.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    custom: HashMap<(String, String), Arc<Resource>>,
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
        builtin().by_name.get(&key).or_else(|| self.custom.get(&key)).cloned()
    }

    /// Something of the group is served.
    pub(crate) fn has_group(&self, group: &str) -> bool {
        let is = |resource: &Arc<Resource>| resource.group == group;
        builtin().listed.iter().any(is) || self.custom.values().any(is)
    }

    /// Only CustomResourceDefinitions serve something of the group.
    pub(crate) fn is_custom_group(&self, group: &str) -> bool {
        self.has_group(group) && builtin().listed.iter().all(|resource| resource.group != group)
    }

    /// Built-in resources first, then custom ones by group and name.
    pub(crate) fn all(&self) -> Vec<Arc<Resource>> {
        let mut custom: Vec<Arc<Resource>> = self.custom.values().cloned().collect();
        custom.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
        builtin().listed.iter().cloned().chain(custom).collect()
    }

    /// Serves a custom resource from now on, in place of what was served under its name.
    pub(crate) fn serve(&mut self, resource: Resource) {
        self.custom.insert((resource.group.clone(), resource.plural.clone()), Arc::new(resource));
    }

    /// Serves a custom resource no longer.
    pub(crate) fn withdraw(&mut self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        self.custom.remove(&(group.to_owned(), plural.to_owned()))
    }
}
