//! An embedded Kubernetes API server in memory, with simulated nodes: what the demo shows and what the tests run on.
//!
//! It is the smallest API server on which `kubectl`, kube's client and the controllers of this workspace cannot tell the
//! difference for what they use. Objects are JSON values throughout; their types are data ([`resource`]), not code.

pub mod admission;
pub mod builtin;
pub mod clock;
pub mod controllers;
pub mod conversion;
pub mod crd;
pub mod discovery;
pub mod error;
pub mod kinds;
pub mod nodes;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod resource;
pub mod schema;
pub mod server;
pub mod table;
pub mod webhook;
