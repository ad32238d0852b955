//! Cases that the sandbox does not answer as the real API server does, each with what differs.

/// Module and case, and the difference. A case listed here must differ: one that no longer does is to be taken out.
pub(crate) const DIFFERENCES: &[(&str, &str)] = &[];
