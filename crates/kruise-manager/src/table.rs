//! The controllers there are, when each runs, and the webhooks of all.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kruise_common::gates::Gate;
use kruise_runtime::watches::Served;
use kruise_webhook::configure::{self, Rule};
use kruise_webhook::protection::{Protection, ProtectionLog};
use kruise_webhook::route::Router;
use prometheus::{IntGaugeVec, Opts, Registry};
use tokio::sync::watch;

use crate::controllers;
use crate::parts::Parts;
use crate::selection::Selection;

/// A controller is told of when its stores take this long.
const SLOW_START: Duration = Duration::from_secs(30);

/// Every controller that is built.
pub(crate) const TABLE: &[Entry] = &[
    controllers::broadcastjob::ENTRY,
    controllers::cloneset::ENTRY,
    controllers::images::JOBS,
    controllers::images::LISTS,
    controllers::images::NODE_IMAGES,
    controllers::recreate::ENTRY,
    controllers::podreadiness::ENTRY,
    controllers::cron::ENTRY,
];

/// One controller.
pub(crate) struct Entry {
    /// Its name in `--controllers`.
    pub(crate) flag: &'static str,
    /// Its name in metrics, events and logs.
    pub(crate) name: &'static str,
    /// The CustomResourceDefinition without which it waits.
    pub(crate) definition: Option<&'static str>,
    /// Gates that must all be on.
    pub(crate) gates: &'static [Gate],
    /// Asks for stores and makes the rest.
    pub(crate) start: fn(&Parts) -> anyhow::Result<Started>,
}

/// A controller that is ready to run.
pub(crate) struct Started {
    /// Resolves when what it reads is there.
    pub(crate) ready: BoxFuture<'static, ()>,
    /// Reconciles until told to stop.
    pub(crate) run: Box<dyn FnOnce(watch::Receiver<bool>) -> BoxFuture<'static, ()> + Send>,
}

/// The webhooks of every kind, whether its controller runs or not.
///
/// # Errors
/// A metric is registered twice.
pub(crate) fn admission(parts: &Parts) -> anyhow::Result<Router> {
    let log = ProtectionLog::open(&parts.flags.protection_log_path);
    let protection = Arc::new(Protection::register(parts.metrics.registry(), log)?);
    let router = Router::new().converter(|object, version| {
        kruise_api::conversion::convert(object, version).map_err(|error| error.to_string())
    });
    let router = controllers::cloneset::admission(router, parts, protection);
    let router = controllers::broadcastjob::admission(router, parts);
    let router = controllers::images::admission(router, parts);
    let router = controllers::recreate::admission(router, parts);
    Ok(controllers::cron::admission(router, parts))
}

/// The paths to make known to the API server: all that are served, but those of kinds whose controller `--controllers`
/// leaves out. Nobody would act on such objects, so nothing of theirs should depend on this process being there.
pub(crate) fn published(router: &Router, selection: &Selection) -> Vec<String> {
    let off = |definition: &str| {
        TABLE.iter().any(|entry| entry.definition == Some(definition) && !selection.is_on(entry.flag))
    };
    let nobody =
        |rule: &Rule| rule.resources.iter().all(|resource| off(&format!("{resource}.{}", rule.group)));
    let unwanted = |path: &str| {
        let mut entries = configure::ENTRIES.iter().filter(|entry| entry.path == path).peekable();
        entries.peek().is_some() && entries.all(|entry| entry.rules.iter().all(nobody))
    };
    let paths = router.routes.iter().map(|route| route.path.clone());
    paths.filter(|path| !unwanted(path)).collect()
}

/// Shows which controllers run, and why others do not.
#[derive(Clone)]
struct State {
    running: IntGaugeVec,
    disabled: IntGaugeVec,
}

impl State {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let running =
            Opts::new("kruise_controller_running", "1 while the controller reconciles in this replica.");
        let disabled = Opts::new("kruise_controller_disabled", "1 for the reason a controller does not run.");
        let state = Self {
            running: IntGaugeVec::new(running, &["controller"])?,
            disabled: IntGaugeVec::new(disabled, &["controller", "reason"])?,
        };
        registry.register(Box::new(state.running.clone()))?;
        registry.register(Box::new(state.disabled.clone()))?;
        Ok(state)
    }

    fn running(&self, name: &str, runs: bool) {
        self.running.with_label_values(&[name]).set(i64::from(runs));
    }

    fn disabled(&self, name: &str, reason: &str, is: bool) {
        self.disabled.with_label_values(&[name, reason]).set(i64::from(is));
    }
}

/// What every controller that is on does from the moment this replica leads until it is told to stop.
///
/// # Errors
/// A controller cannot be put together.
pub(crate) fn controllers(
    parts: &Parts,
    leading: &watch::Receiver<bool>,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<Vec<BoxFuture<'static, ()>>> {
    let state = State::register(parts.metrics.registry())?;
    let (mut running, selection) = (Vec::new(), &parts.controllers);
    for entry in TABLE {
        state.running(entry.name, false);
        let gate = entry.gates.iter().find(|gate| !parts.gates.enabled(**gate));
        state.disabled(entry.name, "flag", !selection.is_on(entry.flag));
        state.disabled(entry.name, "gate", gate.is_some());
        if !selection.is_on(entry.flag) || gate.is_some() {
            tracing::info!(controller = entry.name, gate = gate.map(|gate| gate.name()), "is off");
            continue;
        }
        let started = (entry.start)(parts)?;
        let (leading, stop, served) = (leading.clone(), stop.clone(), parts.watches.served());
        running
            .push(Box::pin(lead(entry, started, state.clone(), served, leading, stop))
                as BoxFuture<'static, ()>);
    }
    Ok(running)
}

async fn lead(
    entry: &'static Entry,
    started: Started,
    state: State,
    served: Served,
    mut leading: watch::Receiver<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let begin = async {
        let leads = leading.wait_for(|leads| *leads).await.is_ok();
        if leads {
            ready(entry, started.ready, &state, served.clone()).await;
        }
        leads
    };
    tokio::select! {
        biased;
        leads = begin => if !leads { return },
        _ = stop.wait_for(|stop| *stop) => return,
    }
    state.running(entry.name, true);
    tokio::select! {
        biased;
        // Ends when told to stop and the rounds in flight are over.
        () = (started.run)(stop) => {}
        // Shows a definition that goes and comes; the rounds go on with an empty store meanwhile.
        () = follow(entry, &state, served) => {}
    }
    state.running(entry.name, false);
}

async fn ready(entry: &Entry, ready: BoxFuture<'static, ()>, state: &State, served: Served) {
    tokio::pin!(ready);
    loop {
        let missing = missing(entry, &served);
        state.disabled(entry.name, "crd-missing", missing);
        tokio::select! {
            biased;
            () = &mut ready => break,
            () = tokio::time::sleep(SLOW_START) => if missing {
                tracing::info!(controller = entry.name, definition = entry.definition, "waits for its definition");
            } else {
                tracing::warn!(controller = entry.name, "still waits for the first lists of what it watches");
            },
        }
    }
    state.disabled(entry.name, "crd-missing", missing(entry, &served));
}

fn missing(entry: &Entry, served: &Served) -> bool {
    entry.definition.is_some_and(|definition| !served.borrow().contains(definition))
}

async fn follow(entry: &Entry, state: &State, mut served: Served) {
    while served.changed().await.is_ok() {
        let missing = missing(entry, &served);
        state.disabled(entry.name, "crd-missing", missing);
        state.running(entry.name, !missing);
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use kruise_webhook::review::{AdmissionRequest, Verdict};

    use super::*;

    fn paths(controllers: &str) -> Vec<String> {
        let answer = |_: AdmissionRequest| -> BoxFuture<'static, Verdict> { unreachable!("nobody asks") };
        let mut router = Router::new().route("/not-in-the-table", answer);
        for entry in configure::ENTRIES {
            router = router.route(entry.path, answer);
        }
        published(&router, &Selection::parse(controllers).unwrap())
    }

    #[test]
    fn webhooks_of_controllers_that_are_off_are_not_published() {
        let all = paths("*");
        assert_eq!(all.len(), configure::ENTRIES.len() + 1);
        let without = paths("*,-cloneset");
        let gone: Vec<_> = all.iter().filter(|path| !without.contains(path)).collect();
        assert_eq!(gone, ["/mutate-apps-kruise-io-cloneset", "/validate-apps-kruise-io-cloneset"]);
    }

    #[test]
    fn what_is_no_kind_of_a_controller_is_always_published() {
        assert_eq!(paths(""), ["/not-in-the-table"]);
    }
}
