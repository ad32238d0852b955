//! Core events, correlated.
