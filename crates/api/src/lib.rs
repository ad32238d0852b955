//! Wire types of the Kruise API, conversion between their versions, CRD manifests and every key.
//!
//! This crate knows no behaviour: it is what is written to and read from the API server.

pub mod cloneset;
pub mod conversion;
pub mod crd;
pub mod keys;
mod leaves;
mod schema;
pub mod shared;
