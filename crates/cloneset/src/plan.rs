//! What one round does.
