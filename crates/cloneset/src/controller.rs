//! One round of one CloneSet, and what wakes it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kruise_api::cloneset::v1beta1::CloneSetStatus;
use kruise_api::keys;
use kruise_common::budget::Permits;
use kruise_common::key::{ObjectKey, Uid};
use kruise_common::pod::PodView;
use kruise_common::revision::{self, Decision, Revision};
use kruise_common::selector::Selector;
use kruise_runtime::controller::{Failed, Requeue};
use kruise_runtime::queue::WorkQueue;
use kruise_runtime::store::Change;
use kruise_runtime::writes::{Error, malformed, settled};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::apply::{Executor, Outcome, Stage};
use crate::objects;
use crate::observe;
use crate::observed::Observed;
use crate::permits;
use crate::plan::{Action, HoldReason, Options, Plan, plan};
use crate::pre_download::PreDownloads;
use crate::status;
use crate::stores::{SetView, StoredClaim, Stores};

/// Name of the controller: label of its metrics, source of its events.
pub const NAME: &str = "cloneset-controller";

/// Status writes of one set are at least this far apart, unless its spec changed.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// How often the name of a new revision may be found taken in one round.
const MAX_COLLISIONS: i32 = 8;

/// What our revisions say of their writer: they hold every field of the template.
const REVISION_FORM: &str = "1";

const INSTANCE_ID_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const INSTANCE_ID_LENGTH: usize = 5;

/// What rounds need.
pub struct Context {
    /// Where sets, pods, claims and revisions are read.
    pub stores: Stores,
    /// Carries plans out.
    pub executor: Executor,
    /// Gates and flags.
    pub options: Options,
    /// The time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Pulls images before updates in place; `None` does not.
    pre_downloads: Option<PreDownloads>,
    /// Who is asked before a pod is updated; `None` asks nobody.
    permits: Option<Arc<dyn Permits>>,
    /// When each set's status was written last.
    published: Mutex<HashMap<Uid, Instant>>,
    /// Of which set it is known that the newest revision holds its template: comparing two large ones takes longer than
    /// all else in a round that has nothing to do.
    settled: Mutex<HashMap<Uid, Settled>>,
    /// Where the ids of new pods come from.
    random: Mutex<StdRng>,
}

impl Context {
    /// The context of a controller.
    pub fn new(
        stores: Stores,
        executor: Executor,
        options: Options,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Self {
        Self {
            stores,
            executor,
            options,
            clock,
            pre_downloads: None,
            permits: None,
            published: Mutex::default(),
            settled: Mutex::default(),
            random: Mutex::new(StdRng::from_os_rng()),
        }
    }

    /// Makes the ids of new pods repeatable, for simulations.
    #[must_use]
    pub fn seed(mut self, seed: Option<u64>) -> Self {
        if let Some(seed) = seed {
            self.random = Mutex::new(StdRng::seed_from_u64(seed));
        }
        self
    }

    /// Pulls images before updates in place, or does not.
    #[must_use]
    pub fn pre_download(mut self, enabled: bool) -> Self {
        self.pre_downloads = enabled.then(PreDownloads::default);
        self
    }

    /// Asks before pods are updated: gate PodUnavailableBudgetUpdateGate.
    #[must_use]
    pub fn permits(mut self, permits: Arc<dyn Permits>) -> Self {
        self.permits = Some(permits);
        self
    }

    /// Sees to the images of a set.
    async fn see_to_images(&self, seen: &Observed, set: &SetView) {
        let Some(images) = &self.pre_downloads else { return };
        if let Some(step) = images.decide(seen, set, self.options.in_place) {
            images.run(&self.executor, set, step).await;
        }
    }

    fn instance_id(&self) -> String {
        instance_id(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn since_published(&self, set: &Uid) -> Option<Duration> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).get(set).map(Instant::elapsed)
    }

    fn note_published(&self, set: &Uid) {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).insert(set.clone(), Instant::now());
    }

    fn is_settled(&self, set: &Uid, now: &Settled) -> bool {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).get(set) == Some(now)
    }

    fn note_settled(&self, set: &Uid, now: Settled) {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).insert(set.clone(), now);
    }

    fn forget(&self, set: &Uid) {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).remove(set);
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).remove(set);
        self.executor.forget(set);
        if let Some(images) = &self.pre_downloads {
            images.forget(set);
        }
    }
}

/// A template and the newest revision: as long as neither changes, they compare as they did.
#[derive(Debug, PartialEq)]
struct Settled {
    generation: i64,
    newest: Uid,
    resource_version: Arc<str>,
}

impl Settled {
    /// `None` if there is nothing to go by.
    fn of(set: &SetView, newest: &Revision) -> Option<Self> {
        Some(Self {
            generation: set.object.metadata.generation?,
            newest: newest.uid.clone(),
            resource_version: Arc::clone(&newest.resource_version),
        })
    }
}

/// Wakes sets when something of theirs changes in the stores.
pub fn wire(stores: &Stores, queue: &WorkQueue, context: &Arc<Context>) {
    let (waker, forgetter) = (queue.clone(), Arc::clone(context));
    stores.sets.subscribe(Box::new(move |change: &Change<SetView>| {
        if let (Some(old), None) = (&change.old, &change.new) {
            forgetter.forget(&old.uid);
        }
        if let Some(set) = change.new.as_ref().or(change.old.as_ref()) {
            waker.add(set.key.clone());
        }
    }));
    let waker = queue.clone();
    stores.pods.subscribe(Box::new(move |change: &Change<PodView>| {
        for pod in change.old.iter().chain(&change.new) {
            // Owners of any version of the kind are the same owner.
            if let Some(owner) = pod
                .controller()
                .filter(|owner| &*owner.kind == "CloneSet" && &*owner.group == "apps.kruise.io")
            {
                waker.add(ObjectKey::new(pod.key.namespace.clone(), owner.name.clone()));
            }
        }
    }));
    let waker = queue.clone();
    stores.claims.subscribe(Box::new(move |change: &Change<StoredClaim>| {
        for claim in change.old.iter().chain(&change.new) {
            for set in claim.owners_of_kind("apps.kruise.io", "CloneSet") {
                waker.add(ObjectKey::new(claim.key.namespace.clone(), set.clone()));
            }
        }
    }));
}

/// One round.
///
/// # Errors
/// The first failure of the round; its status is published all the same.
pub async fn reconcile(key: ObjectKey, context: Arc<Context>) -> Result<Requeue, Failed<Error>> {
    let mut due = None;
    let ended = round(&key, context, &mut due).await;
    settled(ended, due)
}

/// `due` is told after what time something of the set is due.
async fn round(key: &ObjectKey, context: Arc<Context>, due: &mut Option<Duration>) -> Result<Requeue, Error> {
    let stores = &context.stores;
    let Some(set) = stores.sets.get(key) else { return Ok(Requeue::None) };
    tracing::Span::current().record("generation", set.object.metadata.generation);
    let parsed = match observe::parse(&set) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Only the user can mend this; the change will wake the set.
            tracing::warn!(error = %error, "the spec cannot be carried out");
            return Ok(Requeue::None);
        }
    };
    context.executor.settle_doubts(&set).await?;
    let (update_revision, collision_count) = ensure_revision(&set, &parsed.selector, &context).await?;

    let now = (context.clock)();
    let seen = observe::observe(&set, &parsed, &update_revision, stores, now);
    let mut unanswered = context.executor.take_unanswered(&set.uid).into_iter();
    let mut ids = || unanswered.next().unwrap_or_else(|| context.instance_id());
    let mut plan = plan(&seen, &context.options, &mut ids);
    if let Some(permits) = &context.permits {
        plan = permits::permitted(plan, &**permits).await;
    }
    for hold in &plan.held {
        tracing::debug!(reason = hold.reason.as_str(), held = %hold.message(), "waiting");
    }
    if let Some(message) = limited_scale_out(&plan) {
        context.executor.warning(&set, "ScaleUpLimited", message);
    }
    // Neither waits for the other.
    let (outcome, ()) =
        futures::join!(context.executor.run(&set, plan.actions, now), context.see_to_images(&seen, &set));

    // The stores hold our own writes by now, so the status tells of this round and not of the last one.
    let set = stores.sets.get(key).filter(|fresh| fresh.uid == set.uid).unwrap_or(set);
    let seen = observe::observe(&set, &parsed, &update_revision, stores, (context.clock)());
    let failures = failures(&outcome);
    let mut wanted = status::status_of(&seen, &failures, &plan.held);
    wanted.collision_count = collision_count;
    *due = [plan.wake_in, status::wake_in(&seen, &wanted)].into_iter().flatten().min();
    let published = publish(&set, &wanted, &context).await?;
    *due = [*due, published].into_iter().flatten().min();
    if let Some((_, error)) = outcome.failures.into_iter().next() {
        return Err(error);
    }
    if outcome.conflicts {
        // The watch brings what changed; this is for the case that it already has.
        return Err(Error::Conflict(key.clone()));
    }
    Ok(due.map_or(Requeue::None, Requeue::After))
}

fn failures(outcome: &Outcome) -> status::Failures {
    let first = |stage: Stage| {
        outcome.failures.iter().find(|(at, _)| *at == stage).map(|(_, error)| error.to_string())
    };
    status::Failures { scale: first(Stage::Scale), update: first(Stage::Update) }
}

/// Finds, raises or creates the revision of the live template; also tells the collision count to publish.
async fn ensure_revision(
    set: &SetView,
    selector: &Selector,
    context: &Context,
) -> Result<(Arc<Revision>, Option<i32>), Error> {
    let known = observe::revisions(set, selector, &context.stores);
    let stored = set.object.status.as_ref().and_then(|status| status.collision_count);
    let first = stored.unwrap_or_default();
    let mut settled = known.last().and_then(|newest| Settled::of(set, newest));
    if let (Some(newest), Some(settled)) = (known.last(), &settled)
        && context.is_settled(&set.uid, settled)
    {
        return Ok((Arc::clone(newest), stored));
    }
    let template = set.object.spec.template.read();
    for count in first..=first.saturating_add(MAX_COLLISIONS) {
        let decision = revision::decide(&known, &template, &set.key.name, count);
        if matches!(decision, Decision::Use(_))
            && let Some(settled) = settled.take()
        {
            context.note_settled(&set.uid, settled);
        }
        if let Some(revision) =
            context.executor.ensure_revision(set, decision, &|| revision_annotations(set)).await?
        {
            return Ok((revision, if count == first { stored } else { Some(count) }));
        }
    }
    Err(malformed(&set.key)("every name for its revision is taken"))
}

fn revision_annotations(set: &SetView) -> BTreeMap<String, String> {
    let mut annotations = set.object.metadata.annotations.clone().unwrap_or_default();
    let claims = objects::claim_templates(set, None);
    annotations.insert(keys::VOLUME_CLAIM_TEMPLATE_HASH.to_owned(), revision::vct_hash(&claims));
    annotations.insert(keys::REVISION_WRITER.to_owned(), REVISION_FORM.to_owned());
    annotations.remove(keys::REVISION_VOLUME_CLAIM_TEMPLATES);
    if let Some(json) = objects::kept_claim_templates(&claims) {
        annotations.insert(keys::REVISION_VOLUME_CLAIM_TEMPLATES.to_owned(), json);
    }
    annotations
}

/// Writes the status if it differs; returns how long to wait if it was written a moment ago.
async fn publish(
    set: &SetView,
    wanted: &CloneSetStatus,
    context: &Context,
) -> Result<Option<Duration>, Error> {
    let old = set.object.status.as_ref();
    if !status::needs_write(old, wanted) {
        return Ok(None);
    }
    let new_generation = old.and_then(|old| old.observed_generation) != wanted.observed_generation;
    if let Some(wait) = context
        .since_published(&set.uid)
        .and_then(|since| STATUS_INTERVAL.checked_sub(since))
        .filter(|wait| !new_generation && !wait.is_zero())
    {
        return Ok(Some(wait));
    }
    context.executor.write_status(set, wanted).await?;
    context.note_published(&set.uid);
    if let Some(message) = newly_blocked(old, wanted) {
        context.executor.warning(set, status::CONDITION_ROLLOUT_BLOCKED, message);
    }
    Ok(None)
}

/// What `scaleStrategy.maxUnavailable` keeps from being created, told when pods are created and not while they are
/// waited for.
fn limited_scale_out(plan: &Plan) -> Option<String> {
    let created = plan.actions.iter().filter(|action| matches!(action, Action::Create { .. })).count();
    let limited = plan.held.iter().any(|hold| hold.reason == HoldReason::ScaleMaxUnavailable);
    (created > 0 && limited)
        .then(|| format!("scaleUp is limited because of scaleStrategy.maxUnavailable, limit: {created}"))
}

/// What blocks the rollout, if it was not blocked for that reason before: told once as an event.
fn newly_blocked(old: Option<&CloneSetStatus>, new: &CloneSetStatus) -> Option<String> {
    let blocked = |status: &CloneSetStatus| {
        status
            .conditions
            .iter()
            .flatten()
            .find(|found| found.type_ == status::CONDITION_ROLLOUT_BLOCKED)
            .cloned()
    };
    let now = blocked(new)?;
    let before = old.and_then(blocked);
    let known = before.is_some_and(|before| before.reason == now.reason);
    now.message.filter(|_| !known)
}

fn instance_id(random: &mut StdRng) -> String {
    (0..INSTANCE_ID_LENGTH)
        .filter_map(|_| INSTANCE_ID_ALPHABET.get(random.random_range(0..INSTANCE_ID_ALPHABET.len())))
        .map(|byte| char::from(*byte))
        .collect()
}

#[cfg(test)]
mod tests {
    use kruise_api::cloneset::v1beta1::CloneSetCondition;
    use kruise_api::raw::RawJson;
    use kruise_common::texts::Texts;

    use super::*;

    fn blocked_by(reason: &str) -> CloneSetStatus {
        let condition = CloneSetCondition {
            type_: status::CONDITION_ROLLOUT_BLOCKED.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some("1 pod waits".to_owned()),
            ..CloneSetCondition::default()
        };
        CloneSetStatus { conditions: Some(vec![condition]), ..CloneSetStatus::default() }
    }

    #[test]
    fn a_blocked_rollout_is_told_once_per_reason() {
        let free = CloneSetStatus::default();
        let blocked = blocked_by("MaxUnavailable");
        assert!(newly_blocked(None, &blocked).is_some());
        assert!(newly_blocked(Some(&free), &blocked).is_some());
        assert_eq!(newly_blocked(Some(&blocked), &blocked), None);
        assert!(newly_blocked(Some(&blocked_by("LifecycleHook")), &blocked).is_some());
        assert_eq!(newly_blocked(Some(&blocked), &free), None);
    }

    #[test]
    fn a_limited_scale_out_is_told_in_the_words_users_know_and_only_with_a_creation() {
        let hold = crate::plan::Hold {
            reason: HoldReason::ScaleMaxUnavailable,
            setting: "scaleStrategy.maxUnavailable 1".to_owned(),
            count: 2,
            waiting: Vec::new(),
            blockers: Vec::new(),
        };
        let waiting = Plan { held: vec![hold], ..Plan::default() };
        assert_eq!(limited_scale_out(&waiting), None);
        let revision = Arc::new(Revision {
            key: ObjectKey::new("shop", "web-6c4bf58578"),
            uid: Uid::from("r"),
            resource_version: Arc::from("1"),
            number: 1,
            template: RawJson::default(),
            created: None,
            controller: None,
            labels: Texts::default(),
            annotations: Texts::default(),
        });
        let create = Action::Create { name: "web-x".to_owned(), id: "x".to_owned(), revision, update: true };
        let creating = Plan { actions: vec![create], ..waiting };
        assert_eq!(
            limited_scale_out(&creating).as_deref(),
            Some("scaleUp is limited because of scaleStrategy.maxUnavailable, limit: 1")
        );
        assert_eq!(limited_scale_out(&Plan { held: Vec::new(), ..creating }), None);
    }

    #[test]
    fn an_instance_id_has_five_safe_characters() {
        let id = instance_id(&mut StdRng::seed_from_u64(7));
        assert_eq!(id.len(), INSTANCE_ID_LENGTH);
        assert!(id.bytes().all(|byte| INSTANCE_ID_ALPHABET.contains(&byte)));
    }
}
