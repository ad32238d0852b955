//! The first value of the readiness gate `KruisePodReady`. Whoever wants ContainerRecreateRequests to take pods out of
//! service lists this gate in a pod template, of whatever workload; without a first True such pods would never be ready.

pub mod controller;
pub mod plan;
