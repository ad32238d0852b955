//! In-place update of running Pods.
