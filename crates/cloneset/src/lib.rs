//! The CloneSet controller.

pub mod admission;
pub mod observed;
pub mod plan;
pub mod status;
