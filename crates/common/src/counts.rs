//! Int-or-percent values and the counting rules of workloads.
