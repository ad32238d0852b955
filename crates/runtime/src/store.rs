//! Shared stores.
