//! Wire types of the Kruise API, conversion between their versions, CRD manifests and every key.
//!
//! This crate knows no behaviour: it is what is written to and read from the API server.

pub mod advancedcronjob;
pub mod broadcastjob;
pub mod cloneset;
pub mod containerrecreaterequest;
pub mod conversion;
pub mod crd;
pub mod imagelistpulljob;
pub mod imagepulljob;
pub mod keys;
mod leaves;
pub mod nodeimage;
pub mod raw;
mod schema;
pub mod shared;

/// apiVersion of the version that is stored.
pub const V1BETA1: &str = "apps.kruise.io/v1beta1";
/// apiVersion of the older version.
pub const V1ALPHA1: &str = "apps.kruise.io/v1alpha1";
