//! The manager's side of `ContainerRecreateRequest`: what containers are when they are to be restarted, how long a node
//! may take, and the pod out of service meanwhile. The restart itself is the node agent's.

#![cfg_attr(test, expect(clippy::needless_pass_by_value, reason = "helpers of tests take literals"))]

pub mod admission;
pub mod controller;
pub mod metrics;
mod news;
pub mod plan;
