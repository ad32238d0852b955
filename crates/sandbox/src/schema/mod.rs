//! What a custom resource may contain: pruning, defaults and validation by an OpenAPI schema.
//!
//! A schema is compiled once into a tree ([`Structural`]) that is cheap to clone. The texts of all errors are those of the
//! API server.

mod defaults;
pub mod field;
mod formats;
mod lists;
mod node;
mod prune;
pub(crate) mod rules;
mod values;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;

use crate::error::{CauseKind, FieldError};
use field::Path;
use node::Node;

/// A compiled structural schema.
#[derive(Clone, Debug)]
pub struct Structural {
    root: Arc<Node>,
}

impl Structural {
    /// Compiles an `openAPIV3Schema`; what cannot be read is reported with paths relative to the schema.
    pub fn compile(schema: &Value) -> Result<Self, Vec<FieldError>> {
        Self::compile_at(schema, &Path::default())
    }

    /// Like [`Structural::compile`], with the schema's own path for the errors.
    pub fn compile_at(schema: &Value, path: &Path) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let root = Node::read(schema, path, &mut errors);
        if errors.is_empty() { Ok(Self { root: Arc::new(root) }) } else { Err(errors) }
    }

    /// Removes what the schema does not know and returns the paths removed, sorted: `spec.foo`, `spec.list[0].bar`.
    ///
    /// `apiVersion`, `kind` and `metadata` stay at the root and in embedded resources. Nulls count as absent where the
    /// schema allows none and has no default.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        prune::prune(object, &self.root)
    }

    /// Fills in absent fields that have a default.
    pub fn default(&self, object: &mut Value) {
        defaults::default(object, &self.root);
    }

    /// Defaults of the schema that are not themselves valid; `path` is the schema's own.
    pub fn check_defaults(&self, path: &Path) -> Vec<FieldError> {
        let mut errors = Vec::new();
        defaults::check(&self.root, path, &mut errors);
        errors
    }

    /// Everything wrong with an object; with `old`, what the update left as it was is not.
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let path = Path::default();
        let at = values::At { value: new, old, path: &path, keep: true };
        let mut errors = values::check(at, &self.root).errors;
        lists::embedded(new, &self.root, &path, &mut errors);
        self.finish(new, old, errors)
    }

    /// Like [`Structural::validate`] for a write to the `status` subresource, which checks no other part's values.
    pub fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let (Some(status), Some(node)) = (new.get("status"), self.root.properties.get("status")) {
            let path = Path::new("status");
            let at = values::At { value: status, old: old.get("status"), path: &path, keep: true };
            errors = values::check(at, node).errors;
        }
        self.finish(new, Some(old), errors)
    }

    /// What an update may keep although a rule now refuses it, as the warnings the API server sends: `path: message`.
    pub fn warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        self.rules(new, Some(old)).kept.iter().map(ToString::to_string).collect()
    }

    fn rules(&self, new: &Value, old: Option<&Value>) -> rules::Found {
        let mut found = rules::Found::default();
        rules::check(rules::Change::root(new, old), &self.root, true, &Path::default(), &mut found);
        found
    }

    /// Uniqueness in lists and, if nothing stands in their way, the CEL rules.
    fn finish(&self, new: &Value, old: Option<&Value>, mut errors: Vec<FieldError>) -> Vec<FieldError> {
        let path = Path::default();
        let duplicates = |object: &Value| {
            let mut found = Vec::new();
            lists::unique(object, &self.root, &path, &mut found);
            found
        };
        if old.is_none_or(|old| duplicates(old).is_empty()) {
            errors.extend(duplicates(new));
        }
        if !self.root.below.rules {
            return errors;
        }
        if errors.iter().any(blocks_rules) {
            errors.push(field::invalid(&path, &Value::Null, UNCHECKED));
        } else {
            errors.extend(self.rules(new, old).errors);
        }
        errors
    }
}

const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing \
                         errors to complete validation";

/// Errors after which rules would only fail for the same reason.
fn blocks_rules(error: &FieldError) -> bool {
    matches!(
        error.kind,
        CauseKind::FieldValueNotSupported
            | CauseKind::FieldValueRequired
            | CauseKind::FieldValueTooLong
            | CauseKind::FieldValueTooMany
            | CauseKind::FieldValueTypeInvalid
    )
}
