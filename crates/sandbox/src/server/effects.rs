//! What follows from a stored object: a CustomResourceDefinition changes what is served.

use super::Server;
use super::handler::Call;
use super::storage::Stored;

impl Server {
    /// Called after an object was created or changed.
    pub(crate) fn stored(&self, call: &Call, stored: &Stored) {
        let _ = (self, call, stored);
    }

    /// Called after an object was removed.
    pub(crate) fn removed(&self, call: &Call, stored: &Stored) {
        let _ = (self, call, stored);
    }

    /// Serves the CustomResourceDefinitions that the store holds.
    pub(crate) fn serve_stored_crds(&self) {
        let _ = self;
    }
}
