//! The kruise-sandbox binary as users see it: as a process, and through kubectl.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may"
)]

mod binary;
mod kubectl;
mod support;
