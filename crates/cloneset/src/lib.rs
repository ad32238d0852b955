//! The CloneSet controller: a stateless workload that runs its pods directly.
//!
//! ```text
//! stores ──observe──▶ Observed ──plan──▶ Plan ──apply──▶ requests ──answers──▶ stores ──status──▶ one patch
//! ```

pub mod admission;
pub mod apply;
pub mod controller;
pub mod figures;
pub mod objects;
pub mod observe;
pub mod observed;
pub mod permits;
pub mod plan;
pub mod pre_download;
pub mod status;
pub mod stores;
