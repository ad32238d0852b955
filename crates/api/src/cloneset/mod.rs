//! The `CloneSet` kind in the two versions that are served.

pub mod v1beta1;

/// API group of `CloneSet` and most other Kruise kinds.
pub const GROUP: &str = "apps.kruise.io";
/// The kind's name.
pub const KIND: &str = "CloneSet";
