//! From the stores to one snapshot: ownership decided, defaults filled in. Nothing here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use kruise_common::key::ObjectKey;
use kruise_common::pod::PodView;
use kruise_common::revision::{self, Revision};
use kruise_common::selector::Selector;

use crate::observed::{ClaimView, Observed, Settings};
use crate::stores::{SetView, Stores};

/// What a set's spec says, checked once.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The settings.
    pub settings: Settings,
    /// The selector.
    pub selector: Selector,
}

/// Reads a set's spec.
///
/// # Errors
/// What is wrong with it: nothing can be done for the set until a user mends it.
pub fn parse(set: &SetView) -> Result<Parsed, String> {
    let selector =
        Selector::parse(&set.object.spec.selector).map_err(|error| format!("spec.selector: {error}"))?;
    if selector.is_empty() {
        return Err("spec.selector: empty selector is invalid for cloneset".to_owned());
    }
    Ok(Parsed { settings: Settings::of(&set.object.spec), selector })
}

/// The set's revisions and those it selects that nobody controls, oldest first.
pub fn revisions(set: &SetView, selector: &Selector, stores: &Stores) -> Vec<Arc<Revision>> {
    let mut revisions = stores.revisions.owned_by(&set.uid);
    let orphans = stores.revisions.owned_by(&revision::orphans_of(&set.key.namespace));
    revisions.extend(orphans.into_iter().filter(|orphan| selector.matches(&orphan.labels)));
    revision::sort(&mut revisions);
    revisions
}

/// One snapshot of a set and all that belongs to it.
pub fn observe(
    set: &SetView,
    parsed: &Parsed,
    update_revision: &Arc<Revision>,
    stores: &Stores,
    now: Timestamp,
) -> Observed {
    let revisions = revisions(set, &parsed.selector, stores);
    let status = set.object.status.clone().unwrap_or_default();
    let current_revision = revision::current(&revisions, status.current_revision.as_deref(), update_revision);
    let controlled = |pod: &Arc<PodView>| pod.controller().is_some_and(|owner| owner.uid == set.uid);
    let (active, mut others): (Vec<_>, Vec<_>) =
        stores.pods.owned_by(&set.uid).into_iter().filter(controlled).partition(|pod| pod.is_active());
    let (pods, unselected): (Vec<_>, Vec<_>) =
        active.into_iter().partition(|pod| parsed.selector.matches(&pod.labels));
    let claims: Vec<_> = stores
        .claims
        .owned_by(&set.uid)
        .into_iter()
        .map(|claim| {
            Arc::new(ClaimView {
                key: claim.key.clone(),
                uid: claim.uid.clone(),
                instance_id: claim.instance_id.clone(),
                owned_by_set: claim.controller() == Some(&set.uid),
                terminating: claim.terminating,
            })
        })
        .collect();
    if parsed.settings.reuse_claims {
        // A pod that was let go keeps its name, and its claim stays with the set.
        let mut names: BTreeSet<_> = claims
            .iter()
            .map(|claim| {
                ObjectKey::new(set.key.namespace.clone(), format!("{}-{}", set.key.name, claim.instance_id))
            })
            .collect();
        for pod in pods.iter().chain(&unselected).chain(&others) {
            names.remove(&pod.key);
        }
        others.extend(names.iter().filter_map(|name| stores.pods.get(name)));
    }
    let nodes = if parsed.settings.spread.is_empty() {
        BTreeMap::new()
    } else {
        pods.iter()
            .filter_map(|pod| stores.nodes.get(&ObjectKey::new("", pod.node.clone()?)))
            .map(|node| (node.key.name.clone(), node.facts.labels.clone()))
            .collect()
    };
    Observed {
        key: set.key.clone(),
        uid: set.uid.clone(),
        generation: set.object.metadata.generation.unwrap_or_default(),
        terminating: set.object.metadata.deletion_timestamp.is_some(),
        settings: parsed.settings.clone(),
        label_selector: parsed.selector.to_string(),
        pods,
        unselected,
        others,
        claims,
        nodes,
        revisions,
        update_revision: Arc::clone(update_revision),
        current_revision,
        status,
        now,
    }
}
