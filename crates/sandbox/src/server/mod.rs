//! The API server: requests in, objects and watches out.
