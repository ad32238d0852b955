//! Definitions with which Kruise works in part only: being deleted, or without a version that this build knows. The
//! process goes on, and says so: in `/readyz?verbose`, in a metric, in its log and by an Event on its Namespace.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruise_runtime::events::EventType;
use kruise_upkeep::seen::DefinitionSeen;
use kube::Api;
use prometheus::{IntGaugeVec, Opts};
use tokio::sync::watch;

use crate::parts::Parts;

/// After this, a definition that could not be read is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The definitions of this build. Made once in a process: schemas are derived from types at some cost, and simulations
/// start thousands of managers.
static OURS: LazyLock<Vec<DefinitionSeen>> =
    LazyLock::new(|| kruise_api::crd::all().iter().filter_map(DefinitionSeen::of).collect());

/// What is wrong, by definition. Clones share it.
pub(crate) type Degraded = Arc<Mutex<BTreeMap<String, Fault>>>;

/// What is wrong with a definition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// It is being deleted.
    Terminating,
    /// It does not serve these versions.
    Lacks(Vec<String>),
}

impl Fault {
    /// In a definition, compared with the one of this build.
    fn of(seen: &DefinitionSeen, ours: &DefinitionSeen) -> Option<Self> {
        if seen.deleting {
            return Some(Self::Terminating);
        }
        let lacks: Vec<String> = ours.served.difference(&seen.served).cloned().collect();
        (!lacks.is_empty()).then_some(Self::Lacks(lacks))
    }

    /// Its name in the metric.
    const fn reason(&self) -> &'static str {
        match self {
            Self::Terminating => "terminating",
            Self::Lacks(_) => "version-missing",
        }
    }

    fn sentence(&self, definition: &str) -> String {
        match self {
            Self::Terminating => {
                format!("CustomResourceDefinition {definition} is being deleted, and its objects with it")
            }
            Self::Lacks(versions) => format!(
                "CustomResourceDefinition {definition} does not serve {}: `kruise-manager crds apply` upgrades it",
                versions.join(", ")
            ),
        }
    }
}

/// The lines for `/readyz?verbose`.
pub(crate) fn notes(degraded: &Degraded) -> Vec<String> {
    let faults = degraded.lock().unwrap_or_else(PoisonError::into_inner);
    faults.iter().map(|(definition, fault)| fault.sentence(definition)).collect()
}

/// `kruise_definition_degraded`.
///
/// # Errors
/// It is registered already.
pub(crate) fn gauge(parts: &Parts) -> prometheus::Result<IntGaugeVec> {
    let opts =
        Opts::new("kruise_definition_degraded", "1 for what is wrong with a CustomResourceDefinition.");
    let gauge = IntGaugeVec::new(opts, &["definition", "reason"])?;
    parts.metrics.registry().register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// What is looked at and told; owned by its task.
pub(crate) struct Look {
    client: kube::Client,
    events: kruise_runtime::events::EventRecorder,
    namespace: String,
    gauge: IntGaugeVec,
    degraded: Degraded,
    changes: kruise_runtime::watches::Definitions,
}

impl Look {
    /// Puts the parts together.
    ///
    /// # Errors
    /// The metric is registered already.
    pub(crate) fn new(parts: &Parts, degraded: &Degraded) -> prometheus::Result<Self> {
        Ok(Self {
            client: parts.client.clone(),
            events: parts.events.clone(),
            namespace: parts.flags.leader_election_namespace.clone(),
            gauge: gauge(parts)?,
            degraded: Arc::clone(degraded),
            changes: parts.watches.definitions(),
        })
    }

    /// Looks at every definition of this build whenever it changes, until told to stop.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut looked: BTreeMap<String, Arc<str>> = BTreeMap::new();
        loop {
            let present = self.changes.borrow_and_update().clone();
            let mut again = false;
            for one in OURS.iter() {
                match present.get(&one.name) {
                    None => {
                        looked.remove(&one.name);
                        self.tell(&one.name, None);
                    }
                    Some(version) if looked.get(&one.name) != Some(version) => match self.fault(one).await {
                        Ok(fault) => {
                            looked.insert(one.name.clone(), Arc::clone(version));
                            self.tell(&one.name, fault);
                        }
                        Err(error) => {
                            tracing::debug!(%error, definition = one.name, "cannot look at a definition");
                            again = true;
                        }
                    },
                    Some(_) => {}
                }
            }
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                changed = self.changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if again => {}
            }
        }
    }

    async fn fault(&self, ours: &DefinitionSeen) -> kube::Result<Option<Fault>> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let live = api.get_opt(&ours.name).await?;
        Ok(live.as_ref().and_then(DefinitionSeen::of).and_then(|seen| Fault::of(&seen, ours)))
    }

    fn tell(&self, definition: &str, fault: Option<Fault>) {
        let mut faults = self.degraded.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &fault {
            Some(fault) => faults.insert(definition.to_owned(), fault.clone()),
            None => faults.remove(definition),
        };
        if before == fault {
            return;
        }
        if let Some(before) = &before {
            self.gauge.with_label_values(&[definition, before.reason()]).set(0);
        }
        let Some(fault) = fault else {
            tracing::info!(definition, "the definition is as it should be");
            return;
        };
        self.gauge.with_label_values(&[definition, fault.reason()]).set(1);
        let message = fault.sentence(definition);
        tracing::warn!("{message}");
        let namespace = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Namespace".to_owned()),
            name: Some(self.namespace.clone()),
            ..ObjectReference::default()
        };
        self.events.event(namespace, EventType::Warning, "DefinitionDegraded", &message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_degraded_while_it_goes_or_lacks_a_version() {
        let ours = DefinitionSeen::of(&kruise_api::crd::clonesets()).unwrap();
        assert_eq!(Fault::of(&ours, &ours), None);
        let mut older = ours.clone();
        older.served.remove("v1beta1");
        let fault = Fault::of(&older, &ours).unwrap();
        assert_eq!(fault, Fault::Lacks(vec!["v1beta1".to_owned()]));
        assert!(fault.sentence("x").contains("crds apply"));
        older.deleting = true;
        assert_eq!(Fault::of(&older, &ours), Some(Fault::Terminating));
        let mut newer = ours.clone();
        newer.served.insert("v1".to_owned());
        assert_eq!(Fault::of(&newer, &ours), None, "a newer installation has more");
    }
}
