//! What all Kruise workloads share, without I/O: every decision here is a function from values to values.

pub mod key;
pub mod pod;
