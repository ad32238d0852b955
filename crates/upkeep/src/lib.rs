//! What an operator does to an installation of Kruise besides running it: look for what an earlier or foreign one left,
//! repair it, keep the definitions right, and take everything away again so that nothing blocks the cluster.
//!
//! [`cluster`] looks and performs; what it sees is one [`seen::Seen`], and [`findings`], [`cleanup`] and
//! [`definitions`] decide from that alone.

pub mod cleanup;
pub mod cluster;
pub mod definitions;
pub mod findings;
pub mod installation;
pub mod migrate;
pub mod run;
pub mod seen;
