//! Pulling images ahead of use: a job says which image and which nodes, the `NodeImage` of a node says what that node
//! should have, and the node's agent reports there how far it is.
//!
//! ```text
//! ImageListPullJob ──▶ ImagePullJob ──▶ NodeImage.spec ──agent──▶ NodeImage.status ──▶ ImagePullJob.status
//! ```

#![cfg_attr(test, expect(clippy::needless_pass_by_value, reason = "helpers of tests take literals"))]

pub mod admission;
pub mod apply;
pub mod index;
pub mod job;
pub mod list;
pub mod metrics;
pub mod nodeimage;
pub mod plan;
pub mod push;
pub mod secrets;
pub mod stores;
pub mod task;
