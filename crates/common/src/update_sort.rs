//! In which order pods are updated.
