//! Readiness gates that Kruise writes.
