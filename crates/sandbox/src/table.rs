//! Server-side tables, as `kubectl get` shows them.
