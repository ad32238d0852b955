//! The shell around controllers: the only place, with `apply` and the binaries, that talks to an API server.

pub mod client;
pub mod controller;
pub mod events;
mod follow;
pub mod in_place_metric;
pub mod lease;
pub mod metrics;
pub mod nodes;
pub mod outcomes;
pub mod profile;
pub mod queue;
pub mod rollouts;
pub mod serve;
pub mod states;
pub mod store;
pub mod views;
pub mod watches;
pub mod writes;
