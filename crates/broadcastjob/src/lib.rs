//! The BroadcastJob controller: one pod to its end on every node that can run it.
//!
//! What it promises: no node gets a second pod while it has one; never more pods at once than `parallelism`; nothing that
//! has ended is run again; nothing but its own pods is touched; a job that is over stays as it is, and what still ran is
//! deleted.
//!
//! ```text
//!            ┌── spec.paused, or a failed pod with Pause ──▶ paused ──┐
//! (new) ──▶ running ◀──── resumed, or no failed pod is left ──────────┘
//!            ├── every node is done (Always) ──────────────▶ completed ──ttl──▶ (deleted)
//!            └── a failed pod with FailFast, or too late ──▶ failed ─────ttl──▶ (deleted)
//! ```

#![cfg_attr(test, expect(clippy::needless_pass_by_value, reason = "helpers of tests take literals"))]

pub mod admission;
pub mod apply;
pub mod census;
pub mod controller;
pub mod index;
pub mod metrics;
pub mod objects;
pub mod observe;
pub mod plan;
pub mod status;
pub mod stores;
