//! The NodeImage controller: there is one `NodeImage` for every ready node, without entries that nobody needs, and with
//! an end for pulls that a node does not answer for.

pub mod controller;
pub mod owners;
pub mod plan;
