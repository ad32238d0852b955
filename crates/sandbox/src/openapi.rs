//! OpenAPI v2 and v3 documents, and the schemas of built-in kinds.
