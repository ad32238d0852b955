//! Health and metrics endpoints.
