//! On which nodes jobs have entries, and which jobs are gone: whom the end of a job concerns.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kruise_api::imagepulljob::KIND;
use kruise_api::nodeimage::NodeImage;
use kruise_common::key::Uid;
use kruise_runtime::store::Change;

use crate::index::remove_from;
use crate::stores::{JobView, NodeImageView};

/// Jobs remembered as gone, so that nobody has to ask for them.
const MAX_GONE: usize = 10_000;

#[derive(Debug, Default)]
struct Inner {
    nodes: HashMap<Uid, BTreeSet<Arc<str>>>,
    gone: HashSet<Uid>,
}

/// Nodes by job. Give every change of the stores to it.
#[derive(Debug, Default)]
pub struct Owners(Mutex<Inner>);

impl Owners {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the job was seen to go.
    pub fn is_gone(&self, job: &str) -> bool {
        self.inner().gone.contains(&Uid::from(job))
    }

    /// Takes in that a job is gone, as the API server says.
    pub fn job_is_gone(&self, job: &str) {
        self.inner().remember(Uid::from(job));
    }

    /// Takes in a change of a job; returns the nodes whose entries it may end.
    pub fn job_changed(&self, change: &Change<JobView>) -> Vec<Arc<str>> {
        let Some(job) = change.old.as_ref() else { return Vec::new() };
        let mut inner = self.inner();
        let gone = change.new.is_none();
        if gone {
            inner.remember(job.uid.clone());
        }
        // Copies of Secrets go when their last job is over, and with them what nodes know of them.
        let over = job.is_active() && change.new.as_ref().is_some_and(|new| !new.is_active());
        if gone || (over && job.pull_secrets().next().is_some()) {
            return inner.nodes.get(&job.uid).into_iter().flatten().cloned().collect();
        }
        Vec::new()
    }

    /// Takes in a change of a node.
    pub fn node_changed(&self, change: &Change<NodeImageView>) {
        let Some(view) = change.new.as_ref().or(change.old.as_ref()) else { return };
        let of = |view: &Option<Arc<NodeImageView>>| owners(view.as_ref().map(|view| &view.object));
        let (old, new) = (of(&change.old), of(&change.new));
        let mut inner = self.inner();
        for job in old.difference(&new) {
            remove_from(&mut inner.nodes, job, &view.key.name);
        }
        for job in new.difference(&old) {
            inner.nodes.entry(job.clone()).or_default().insert(Arc::clone(&view.key.name));
        }
    }
}

impl Inner {
    fn remember(&mut self, job: Uid) {
        if self.gone.len() >= MAX_GONE {
            self.gone.clear();
        }
        self.gone.insert(job);
    }
}

/// The jobs that have an entry.
fn owners(node: Option<&NodeImage>) -> BTreeSet<Uid> {
    let images = node.and_then(|node| node.spec.images.as_ref()).into_iter().flat_map(BTreeMap::values);
    let tags = images.flat_map(|image| &image.tags);
    tags.flat_map(|tag| tag.owner_references.iter().flatten())
        .filter(|owner| owner.kind.as_deref() == Some(KIND))
        .filter_map(|owner| owner.uid.as_deref().map(Uid::from))
        .collect()
}
