//! An embedded Kubernetes API server in memory, with simulated nodes: what the demo shows and what the tests run on.
//!
//! It is the smallest API server on which `kubectl`, kube's client and the controllers of this workspace cannot tell the
//! difference for what they use. Objects are JSON values throughout; their types are data ([`resource`]), not code.
//!
//! # What it does not do
//! - Nobody is refused: everyone is `system:admin`, tokens are not checked, quotas and limit ranges are stored only.
//! - No containers run: `log`, `exec`, `attach`, `portforward` and `proxy` answer 501. Nodes are simulated ([`nodes`]).
//! - Controllers are those in [`controllers`]; stateful and daemon sets, cron jobs, autoscalers and endpoints have none. There
//!   is no scheduler but that of the simulated nodes, and no `default/kubernetes` service.
//! - `ValidatingAdmissionPolicy` and `MutatingAdmissionPolicy` are stored and never asked.
//! - OpenAPI is served as v3 only, and objects as JSON and YAML only; protobuf is read, not written.
//! - `resourceVersionMatch` and paging are as consistent as etcd's, over as much history as [`server::Config::history`] says;
//!   older versions expire at once, not after five minutes.
//! - What a definition settles (names, establishment) is settled with the request, not a moment later.
//!
//! What the conformance cases know to differ from a real 1.34:
//! - texts of YAML and regular expression errors, and some causes of refused definitions: a rule that does not compile is
//!   refused only for its syntax;
//! - texts of a wrong status and of a negative scale of custom resources, and the time of the scale's entry in
//!   `managedFields`;
//! - an apply to an object that has forgotten its owners tells of `before-first-apply`; the annotation that counts the
//!   templates of daemon sets has no owner;
//! - metadata inside of `x-kubernetes-embedded-resource` are not checked, and 1.0 stays 1.0;
//! - a service may become one of two address families.

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
