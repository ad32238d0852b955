//! What follows from a stored object: a CustomResourceDefinition changes what is served.

use std::sync::Arc;

use serde_json::Value;

use super::Server;
use super::admit::{CONFIGURATIONS, Configurations};
use super::handler::Call;
use super::storage::{Store, Stored, lock};
use crate::{crd, object};

pub(crate) const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// Held by a definition until its objects are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

impl Server {
    /// Called after an object was created or changed.
    pub(crate) fn stored(&self, call: &Call, stored: &Stored) {
        if call.table == CRDS {
            self.settle(object::name(&stored.value));
        } else if CONFIGURATIONS.contains(&call.table.as_str()) {
            self.read_configurations();
        }
    }

    /// Called after an object was removed.
    pub(crate) fn removed(&self, call: &Call, stored: &Stored) {
        if call.table == CRDS {
            self.withdraw(&stored.value);
        } else if CONFIGURATIONS.contains(&call.table.as_str()) {
            self.read_configurations();
        } else if call.resource.custom {
            let name = format!("{}.{}", call.resource.plural, call.resource.group);
            self.settle(&name);
        }
    }

    /// Takes note of the webhook configurations in the store.
    pub(crate) fn read_configurations(&self) {
        let store = lock(&self.0.store);
        let [mutating, validating] = CONFIGURATIONS
            .map(|table| store.scan(table, "", None).map(|(_, one)| one.value.clone()).collect());
        // Under the store's lock, so that the last to change the store is the last to get here.
        *lock(&self.0.configurations) = Arc::new(Configurations { mutating, validating });
    }

    /// The webhook configurations in force.
    pub(crate) fn configurations(&self) -> Arc<Configurations> {
        Arc::clone(&lock(&self.0.configurations))
    }

    /// Deletes the objects of a definition that is about to go; true if some are held by their finalizers.
    pub(crate) fn clear_instances(&self, definition: &Value) -> bool {
        let mut store = lock(&self.0.store);
        clear(&mut store, definition, &self.time())
    }

    /// Serves the CustomResourceDefinitions that the store holds, and takes note of its webhooks.
    pub(crate) fn serve_stored(&self) {
        self.read_configurations();
        let definitions: Vec<Arc<Stored>> = {
            let store = lock(&self.0.store);
            store.scan(CRDS, "", None).map(|(_, stored)| Arc::clone(stored)).collect()
        };
        for definition in definitions {
            self.serve(&definition.value);
        }
    }

    /// Does at once what the API server's controllers do for a definition after a while.
    fn settle(&self, name: &str) {
        let now = self.now();
        let settled = {
            let mut store = lock(&self.0.store);
            let Some(current) = store.get(CRDS, name) else { return };
            let others: Vec<Arc<Stored>> = store
                .scan(CRDS, "", None)
                .filter(|(key, _)| ***key != *name)
                .map(|(_, stored)| Arc::clone(stored))
                .collect();
            let others: Vec<&Value> = others.iter().map(|other| &other.value).collect();
            let mut value = current.value.clone();
            if object::is_deleting(&value) {
                if clear(&mut store, &value, &object::time(now)) {
                    return;
                }
                release(&mut value);
                if object::finalizers(&value).next().is_none() {
                    let removed = store.remove(CRDS, name, current.rv, Some(value)).ok();
                    drop(store);
                    if let Some(removed) = removed {
                        self.withdraw(&removed.value);
                    }
                    return;
                }
            } else {
                crd::establish(&mut value, &others, now);
            }
            if value == current.value {
                current
            } else {
                // The lock was held throughout: nobody can have changed it.
                store.replace(CRDS, name, current.rv, value).unwrap_or(current)
            }
        };
        self.serve(&settled.value);
    }

    fn serve(&self, definition: &Value) {
        if !is_established(definition) || self.registry().is_served(definition) {
            return;
        }
        let Ok(resource) = crd::resources(definition) else { return };
        let table = resource.qualified();
        {
            let mut registry = self.0.registry.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            registry.serve(definition, resource);
        }
        // Who watches does so by the old definition.
        lock(&self.0.store).end_watches(&table);
    }

    fn withdraw(&self, definition: &Value) {
        let Ok(resource) = crd::resources(definition) else { return };
        {
            let mut registry = self.0.registry.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            registry.withdraw(&resource.group, &resource.plural);
        }
        let mut store = lock(&self.0.store);
        clear(&mut store, definition, &self.time());
        store.drop_table(&resource.qualified());
    }
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|one| {
        one.get("type").and_then(Value::as_str) == Some("Established")
            && one.get("status").and_then(Value::as_str) == Some("True")
    })
}

/// Deletes all objects of a definition, with an event each; true if some are held by their finalizers.
fn clear(store: &mut Store, definition: &Value, time: &str) -> bool {
    let Some(table) = table(definition) else { return false };
    let left: Vec<(Arc<str>, Arc<Stored>)> =
        store.scan(&table, "", None).map(|(key, stored)| (Arc::clone(key), Arc::clone(stored))).collect();
    let mut held = false;
    for (key, stored) in left {
        let done = if object::finalizers(&stored.value).next().is_none() {
            store.remove(&table, &key, stored.rv, None).is_ok()
        } else if object::is_deleting(&stored.value) {
            held = true;
            true
        } else {
            held = true;
            let mut marked = stored.value.clone();
            object::set_meta(&mut marked, "deletionTimestamp", Value::from(time));
            object::set_meta(&mut marked, "deletionGracePeriodSeconds", Value::from(0));
            store.replace(&table, &key, stored.rv, marked).is_ok()
        };
        debug_assert!(done, "the store is locked");
    }
    held
}

fn table(definition: &Value) -> Option<String> {
    crd::resources(definition).ok().map(|resource| resource.qualified())
}

fn release(value: &mut Value) {
    let left: Vec<String> =
        object::finalizers(value).filter(|one| *one != CLEANUP).map(str::to_owned).collect();
    object::set_meta(value, "finalizers", if left.is_empty() { Value::Null } else { Value::from(left) });
}
