//! Which controllers `--controllers` switches on.

use std::collections::BTreeSet;

use kruise_common::gates::{FeatureGates, Gate};

/// Every name `--controllers` knows, whether its controller is built yet or not.
pub const NAMES: [&str; 21] = [
    "advancedcronjob",
    "broadcastjob",
    "cloneset",
    "containerlaunchpriority",
    "crr",
    "daemonset",
    "ephemeraljob",
    "imagelistpulljob",
    "imagepulljob",
    "nodeimage",
    "nodepodprobe",
    "persistentpodstate",
    "podprobemarker",
    "podreadiness",
    "podunavailablebudget",
    "resourcedistribution",
    "sidecarset",
    "sidecarterminator",
    "statefulset",
    "uniteddeployment",
    "workloadspread",
];

/// A second name of a controller.
pub const ALIAS: (&str, &str) = ("containerrecreaterequest", "crr");

/// Pairs of controllers of which the first, which runs with that gate only, does nothing useful without the second.
pub const NEEDS: [(&str, &str, Gate); 3] = [
    ("imagelistpulljob", "imagepulljob", Gate::ImagePullJobGate),
    ("sidecarterminator", "crr", Gate::SidecarTerminator),
    ("podprobemarker", "nodepodprobe", Gate::PodProbeMarkerGate),
];

/// Why a list cannot be carried out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectionError {
    /// No controller has this name.
    #[error("unknown controller {0:?}; known: {known}", known = NAMES.join(", "))]
    Unknown(String),
    /// A controller is switched on and off by name.
    #[error("{0} and -{0} contradict each other")]
    Contradiction(&'static str),
    /// Something is switched off, and nothing was on before.
    #[error("-{0} alone leaves no controller on; write *,-{0} for all but it")]
    OnlyOff(&'static str),
    /// A controller is on that needs another which is off.
    #[error("{0} does nothing without {1}, which is off")]
    Needs(&'static str, &'static str),
    /// A gate is on that needs a controller which is off.
    #[error("feature gate {0} needs the controllers imagepulljob and nodeimage")]
    Gate(&'static str),
}

/// The controllers that are on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Selection {
    on: BTreeSet<&'static str>,
}

impl Selection {
    /// Reads a comma list of names, `*` and `-name`; a name counts more than `*`, and the order does not matter. An
    /// empty list leaves the webhooks alone.
    ///
    /// # Errors
    /// A name that no controller has, or rules that contradict each other.
    pub fn parse(list: &str) -> Result<Self, SelectionError> {
        let (mut all, mut on, mut off) = (false, BTreeSet::new(), BTreeSet::new());
        for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            if item == "*" {
                all = true;
                continue;
            }
            let (bare, set) = match item.strip_prefix('-') {
                Some(bare) => (bare, &mut off),
                None => (item, &mut on),
            };
            let bare = if bare == ALIAS.0 { ALIAS.1 } else { bare };
            let known = NAMES.iter().find(|name| **name == bare);
            set.insert(*known.ok_or_else(|| SelectionError::Unknown(bare.to_owned()))?);
        }
        if let Some(both) = on.intersection(&off).next().copied() {
            return Err(SelectionError::Contradiction(both));
        }
        if let Some(first) = off.first().copied().filter(|_| !all && on.is_empty()) {
            return Err(SelectionError::OnlyOff(first));
        }
        if all {
            on.extend(NAMES);
        }
        Ok(Self { on: on.difference(&off).copied().collect() })
    }

    /// True if the named controller is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.on.contains(name)
    }

    /// Refuses a list whose members cannot work with these gates.
    ///
    /// # Errors
    /// What is on without what it needs.
    pub fn check(&self, gates: FeatureGates) -> Result<(), SelectionError> {
        for (name, needed, gate) in NEEDS {
            if gates.enabled(gate) && self.is_on(name) && !self.is_on(needed) {
                return Err(SelectionError::Needs(name, needed));
            }
        }
        let pulls = self.is_on("imagepulljob") && self.is_on("nodeimage");
        for gate in [Gate::PreDownloadImageForInPlaceUpdate, Gate::PreDownloadImageForDaemonSetUpdate] {
            if gates.enabled(gate) && !pulls {
                return Err(SelectionError::Gate(gate.name()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_switched_by_name_in_any_order() {
        let on = |list: &str| Selection::parse(list).unwrap().is_on("cloneset");
        assert!(on("*"));
        assert!(!on("*,-cloneset"));
        assert!(!on("-cloneset,*"));
        assert!(!on("sidecarset,-statefulset"));
        assert!(on("cloneset"));
        assert!(!on("sidecarset"));
        assert!(!on(""));
        assert!(Selection::parse("containerrecreaterequest").unwrap().is_on("crr"));
    }

    #[test]
    fn a_name_nobody_has_is_refused_with_those_there_are() {
        let error = Selection::parse("clonest").unwrap_err().to_string();
        assert!(error.contains("clonest") && error.contains("cloneset, "), "{error}");
    }

    #[test]
    fn rules_that_contradict_each_other_are_refused_whatever_their_order() {
        for list in ["cloneset,-cloneset", "*,-cloneset,cloneset", "-crr,containerrecreaterequest,*"] {
            let error = Selection::parse(list).unwrap_err();
            assert!(matches!(error, SelectionError::Contradiction(_)), "{list}: {error}");
        }
        let error = Selection::parse("-cloneset").unwrap_err();
        assert_eq!(error, SelectionError::OnlyOff("cloneset"));
        assert!(error.to_string().contains("*,-cloneset"), "{error}");
    }

    #[test]
    fn a_controller_that_needs_one_that_is_off_is_refused() {
        let check = |list: &str, gates| Selection::parse(list).unwrap().check(gates);
        let defaults = FeatureGates::defaults();
        assert_eq!(check("*", defaults), Ok(()));
        assert_eq!(check("cloneset", defaults), Ok(()));
        assert_eq!(check("*,-imagepulljob", defaults), Ok(()), "its gate is off");
        assert_eq!(check("*,-crr", defaults), Ok(()), "the gate of sidecarterminator is off");
        let on = defaults.with(Gate::ImagePullJobGate, true).with(Gate::SidecarTerminator, true);
        for (list, first, second) in [
            ("*,-imagepulljob", "imagelistpulljob", "imagepulljob"),
            ("sidecarterminator", "sidecarterminator", "crr"),
            ("podprobemarker", "podprobemarker", "nodepodprobe"),
        ] {
            assert_eq!(check(list, on), Err(SelectionError::Needs(first, second)), "{list}");
        }
        let gates = defaults.with(Gate::PreDownloadImageForInPlaceUpdate, true);
        assert_eq!(check("*", gates), Ok(()));
        assert_eq!(check("cloneset", gates), Err(SelectionError::Gate("PreDownloadImageForInPlaceUpdate")));
    }

    #[test]
    fn container_recreate_requests_can_be_switched_off_by_default() {
        let off = Selection::parse("*,-containerrecreaterequest").unwrap();
        assert_eq!(off.check(FeatureGates::default()), Ok(()));
        assert!(!off.is_on("crr") && off.is_on("cloneset"));
    }
}
