//! Pod lifecycle states and hooks.
