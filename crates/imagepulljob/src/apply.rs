//! Requests to the API server, and what their failures mean.

pub use kruise_runtime::writes::{
    Error, Finalizers, Guard, MetadataPatch, StatusPatch, failure, is_code, is_outdated, is_reason, only,
    settled,
};
