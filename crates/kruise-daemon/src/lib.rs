//! The node agent: one process per node that pulls images ahead of use, restarts containers on request and reports
//! what its containers were started with. It talks to the node's container runtime (CRI) and watches only the objects
//! of its own node.

use std::sync::Arc;

use jiff::Timestamp;

pub mod credentials;
pub mod cri;
mod crr;
pub mod disk;
pub mod flags;
mod hook;
mod kill;
mod meta;
pub mod node;
mod pods;
mod pull;
pub mod run;
mod wire;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
