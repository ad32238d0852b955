//! Workers that reconcile keys.
