//! Writing what a job asks into the `NodeImage`s: one request a node, whatever else is written to it meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use jiff::Timestamp;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, TestOperation};
use kruise_api::nodeimage::{ImageSpec, NodeImage, PullSecret};
use kruise_common::key::ObjectKey;
use kruise_runtime::store::Store;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::Value;

use crate::apply::{Error, failure, is_code, is_outdated};
use crate::stores::NodeImageView;
use crate::task::Task;

/// Nodes that one job writes to at once.
const PARALLEL: usize = 16;

/// How often a node is tried in one round when somebody else writes to it as well.
const TRIES: usize = 3;

/// What is asked.
pub struct Order<'a> {
    /// By whom and for which image.
    pub task: &'a Task,
    /// Where its credentials are.
    pub secrets: &'a [PullSecret],
    /// When.
    pub now: Timestamp,
}

/// Writes to nodes.
pub struct Push {
    nodes: Api<NodeImage>,
    images: Store<NodeImageView>,
    /// One of our own writes to a node at a time: the next one sees what the last one has made of it.
    turns: Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<()>>>>,
}

impl Push {
    /// Nothing is written yet.
    pub fn new(client: kube::Client, images: Store<NodeImageView>) -> Self {
        Self { nodes: Api::all(client), images, turns: Mutex::default() }
    }

    /// Asks nodes, several at once; one that fails stops no other.
    ///
    /// # Errors
    /// The worst of what went wrong.
    pub async fn all(&self, nodes: Vec<Arc<str>>, order: &Order<'_>) -> Result<(), Error> {
        let mut results = futures::stream::iter(nodes)
            .map(|node| async move {
                let turn = self.turn(&node);
                let held = turn.lock().await;
                let result = self.one(&ObjectKey::new("", Arc::clone(&node)), order).await;
                drop(held);
                self.leave(&node, turn);
                result
            })
            .buffer_unordered(PARALLEL);
        let mut outcome = Ok(());
        while let Some(result) = results.next().await {
            // A conflict is no failure; it is told only if there is nothing worse.
            if let (Ok(()) | Err(Error::Conflict(_)), Err(_)) = (&outcome, &result) {
                outcome = result;
            }
        }
        outcome
    }

    fn turn(&self, node: &Arc<str>) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(Arc::clone(node)).or_default())
    }

    /// Forgets a turn that nobody else waits for.
    fn leave(&self, node: &str, turn: Arc<tokio::sync::Mutex<()>>) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        drop(turn);
        if turns.get(node).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(node);
        }
    }

    async fn one(&self, key: &ObjectKey, order: &Order<'_>) -> Result<(), Error> {
        let mut refused: Option<Arc<str>> = None;
        for _ in 0..TRIES {
            let Some(node) = self.images.get(key) else { return Ok(()) };
            if refused.as_ref() == Some(&node.resource_version) {
                break;
            }
            let Some(image) = order.task.put(&node.object, order.secrets, order.now) else { return Ok(()) };
            let patch: Patch<()> = Patch::Json(entry_patch(&node, &order.task.image, &image));
            match self.nodes.patch(&key.name, &PatchParams::default(), &patch).await {
                Ok(answer) => {
                    if let Some(view) = NodeImageView::of(answer) {
                        self.images.apply_own(view);
                    }
                    return Ok(());
                }
                Err(error) if is_code(&error, 404) => return Ok(()),
                Err(error) if is_outdated(&error) => refused = Some(Arc::clone(&node.resource_version)),
                Err(error) => return Err(failure(key, error)),
            }
        }
        Err(Error::Conflict(key.clone()))
    }
}

/// Sets the entry of one image, if the spec is the one that was read. Reports of the agent, which change the object but not
/// its generation, do not matter.
fn entry_patch(node: &NodeImageView, image: &str, entry: &ImageSpec) -> json_patch::Patch {
    let meta = &node.object.metadata;
    let test = |field: &str, value: Value| {
        PatchOperation::Test(TestOperation { path: PointerBuf::from_tokens(["metadata", field]), value })
    };
    let mut operations = vec![test("uid", Value::from(&*node.uid.0))];
    operations.extend(meta.generation.map(|generation| test("generation", Value::from(generation))));
    let value = serde_json::to_value(entry).unwrap_or_default();
    operations.push(PatchOperation::Add(if node.object.spec.images.is_some() {
        AddOperation { path: PointerBuf::from_tokens(["spec", "images", image]), value }
    } else {
        let only = serde_json::Map::from_iter([(image.to_owned(), value)]);
        AddOperation { path: PointerBuf::from_tokens(["spec", "images"]), value: Value::Object(only) }
    }));
    json_patch::Patch(operations)
}
