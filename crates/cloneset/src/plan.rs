//! What one round does.

pub mod diff;
