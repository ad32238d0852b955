//! What the server does for built-in kinds beyond their schema: defaults, validation, what an update may change.
