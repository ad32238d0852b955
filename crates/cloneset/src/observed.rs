//! Everything one round may know.
