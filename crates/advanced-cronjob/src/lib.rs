//! Jobs by the clock: at each tick of its schedule an `AdvancedCronJob` creates one child, a Job, a BroadcastJob or an
//! ImageListPullJob, and keeps a few finished ones.
//!
//! ```text
//!            tick due                  child finished            over the limit
//! schedule ───────────▶ active child ─────────────────▶ history ───────────────▶ deleted
//!     ▲      Forbid: waits here, Replace: deletes what is active first
//!     └── status.lastScheduleTime: no tick up to there is run again, whatever became of its child
//! ```

#![cfg_attr(test, expect(clippy::needless_pass_by_value, reason = "helpers of tests take literals"))]

pub mod admission;
pub mod apply;
pub mod child;
pub mod controller;
pub mod metrics;
pub mod observe;
pub mod plan;
pub mod schedule;
pub mod status;
pub mod stores;
