//! Objects as a Table.

use std::sync::Arc;

use serde_json::{Value, json};

use super::handler::Call;
use super::storage::Stored;

/// A Table of objects in the request's version; `list_meta` is the metadata of the list they come from.
pub(crate) fn table(call: &Call, objects: &[Arc<Stored>], list_meta: Option<&Value>) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|stored| {
            let meta = stored.value.get("metadata").cloned().unwrap_or_default();
            json!({
                "cells": [meta.get("name")],
                "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta},
            })
        })
        .collect();
    let _ = call;
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta.cloned().unwrap_or_else(|| json!({})),
        "columnDefinitions": [{"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}],
        "rows": rows,
    })
}
