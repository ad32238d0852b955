//! The status of a CloneSet.
