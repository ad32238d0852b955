//! Who owns whom. Pure: every change says which objects to look at again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;

use crate::controllers::discovered::Served;

/// Finalizer of an owner that waits for its dependents' deletion.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner whose dependents shall stay.
pub(super) const ORPHAN: &str = "orphan";

/// One object, as far as garbage collection cares.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) resource_version: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) finalizers: Vec<String>,
    pub(super) deleting: bool,
    pub(super) served: Arc<Served>,
}

impl Item {
    pub(super) fn new(served: &Arc<Served>, meta: ObjectMeta) -> Self {
        Self {
            uid: meta.uid.unwrap_or_default(),
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            resource_version: meta.resource_version.unwrap_or_default(),
            owners: meta.owner_references.unwrap_or_default(),
            finalizers: meta.finalizers.unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            served: Arc::clone(served),
        }
    }

    pub(super) fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer == name)
    }

    pub(super) fn deleting_dependents(&self) -> bool {
        self.deleting && self.has_finalizer(FOREGROUND)
    }
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    items: BTreeMap<String, Item>,
    /// Objects by the uid of each of their owners, present or not.
    dependents: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<Item> {
        self.items.get(uid).cloned()
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<Item> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.items.get(uid).cloned()).collect()
    }

    /// Takes in an object. Returns who is to be looked at.
    pub(super) fn put(&mut self, item: Item) -> Vec<String> {
        let mut touched = Vec::new();
        let old = self.items.get(&item.uid);
        let owners_changed = old.is_none_or(|old| old.owners != item.owners);
        let finalizers_changed = old.is_none_or(|old| old.finalizers != item.finalizers);
        let starts_deleting = item.deleting && old.is_none_or(|old| !old.deleting);
        let old_owners: Vec<String> =
            old.iter().flat_map(|old| &old.owners).map(|owner| owner.uid.clone()).collect();
        if owners_changed {
            for owner in &old_owners {
                self.unlink(owner, &item.uid);
            }
            for owner in &item.owners {
                self.dependents.entry(owner.uid.clone()).or_default().insert(item.uid.clone());
            }
            // Owners that waited for it may go now.
            touched.extend(old_owners.into_iter().filter(|owner| self.waits(owner)));
            let doubtful =
                |owner: &OwnerReference| self.items.get(&owner.uid).is_none_or(Item::deleting_dependents);
            if item.owners.iter().any(doubtful) {
                touched.push(item.uid.clone());
            }
        }
        let special = item.has_finalizer(ORPHAN) || item.has_finalizer(FOREGROUND);
        if item.deleting && special && (starts_deleting || finalizers_changed) {
            touched.push(item.uid.clone());
            if item.deleting_dependents() {
                touched.extend(self.dependents.get(&item.uid).into_iter().flatten().cloned());
            }
        }
        self.items.insert(item.uid.clone(), item);
        touched
    }

    /// Takes an object out. Returns who is to be looked at: its dependents, and owners that waited for it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let mut touched: Vec<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        if let Some(item) = self.items.remove(uid) {
            for owner in &item.owners {
                self.unlink(&owner.uid, uid);
                if self.waits(&owner.uid) {
                    touched.push(owner.uid.clone());
                }
            }
        }
        touched
    }

    fn waits(&self, uid: &str) -> bool {
        self.items.get(uid).is_some_and(Item::deleting_dependents)
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// Takes out what a fresh list of a resource does not name.
    pub(super) fn keep_only(&mut self, served: &Served, listed: &BTreeSet<String>) -> Vec<String> {
        self.remove_all(|item| {
            item.served.resource.group == served.resource.group
                && item.served.resource.plural == served.resource.plural
                && !listed.contains(&item.uid)
        })
    }

    /// Takes out a resource that is served no longer.
    pub(super) fn forget_kind(&mut self, group: &str, plural: &str) -> Vec<String> {
        self.remove_all(|item| item.served.resource.group == group && item.served.resource.plural == plural)
    }

    fn remove_all(&mut self, goes: impl Fn(&Item) -> bool) -> Vec<String> {
        let gone: Vec<String> =
            self.items.values().filter(|item| goes(item)).map(|item| item.uid.clone()).collect();
        gone.iter().flat_map(|uid| self.remove(uid)).collect()
    }
}
