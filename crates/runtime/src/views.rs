//! How the values of `kruise-common` are kept in stores.

use kruise_common::key::{ObjectKey, Uid};
use kruise_common::pod::PodView;
use kruise_common::revision::{Revision, orphans_of};

use crate::store::View;

impl View for PodView {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn resource_version(&self) -> &str {
        &self.resource_version
    }

    fn owners(&self) -> Vec<Uid> {
        self.owners.iter().map(|owner| owner.uid.clone()).collect()
    }
}

impl View for Revision {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn resource_version(&self) -> &str {
        &self.resource_version
    }

    fn owners(&self) -> Vec<Uid> {
        // Those that nobody controls are found by namespace.
        vec![self.controller.clone().unwrap_or_else(|| orphans_of(&self.key.namespace))]
    }
}
