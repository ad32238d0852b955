//! Simulated nodes: scheduler and kubelets as ordinary clients.
