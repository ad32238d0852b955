//! The `CloneSet` kind in the two versions that are served.

pub mod conversion;
pub mod v1alpha1;
pub mod v1beta1;

/// API group of `CloneSet` and most other Kruise kinds.
pub const GROUP: &str = "apps.kruise.io";
/// The kind's name.
pub const KIND: &str = "CloneSet";
/// apiVersion of the stored version.
pub const V1BETA1: &str = "apps.kruise.io/v1beta1";
/// apiVersion of the older version.
pub const V1ALPHA1: &str = "apps.kruise.io/v1alpha1";
