//! Feature gates: one table, the parser of `--feature-gates`, and the rules by which gates depend on each other.

use std::collections::BTreeMap;
use std::fmt;

/// How settled a gate's feature is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Stage {
    /// Off unless asked for; may change or go away.
    Alpha,
    /// Stays; its default is in the table.
    Beta,
}

impl Stage {
    /// The stage as metrics label it: `ALPHA` or `BETA`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
        }
    }
}

macro_rules! gates {
    ($($name:ident, $default:literal, $stage:ident, $about:literal;)+) => {
        /// A feature gate, named as in `--feature-gates`.
        #[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, Ord, PartialOrd)]
        pub enum Gate { $(#[doc = $about] $name,)+ }

        impl Gate {
            /// Every gate, in the order of the documentation.
            pub const ALL: &'static [Gate] = &[$(Gate::$name,)+];

            /// The name users write.
            pub fn name(self) -> &'static str {
                match self { $(Gate::$name => stringify!($name),)+ }
            }

            /// Whether the gate is on when nobody says anything.
            pub fn default_enabled(self) -> bool {
                match self { $(Gate::$name => $default,)+ }
            }

            /// How settled the feature is.
            pub fn stage(self) -> Stage {
                match self { $(Gate::$name => Stage::$stage,)+ }
            }

            /// One sentence for users.
            pub fn about(self) -> &'static str {
                match self { $(Gate::$name => $about,)+ }
            }

            /// The gate of that exact name; aliases are the parser's business.
            pub fn from_name(name: &str) -> Option<Gate> {
                match name { $(stringify!($name) => Some(Gate::$name),)+ _ => None }
            }
        }
    };
}

gates! {
    PodWebhook, true, Beta, "Pods pass the mutating and validating webhooks; most pod features need this.";
    KruiseDaemon, true, Beta, "A node agent runs: image pulling, container restarts and pod probes are available.";
    DaemonWatchingPod, true, Beta, "The node agent watches the pods of its node.";
    PodProbeMarkerGate, true, Beta, "PodProbeMarker runs custom probes in pods and marks them with the results.";
    WorkloadSpread, true, Beta, "WorkloadSpread distributes the pods of a workload over subsets.";
    PodUnavailableBudgetDeleteGate, true, Beta, "PodUnavailableBudget protects pods against deletion and eviction.";
    PodUnavailableBudgetUpdateGate, false, Alpha, "PodUnavailableBudget protects pods against disruptive in-place updates.";
    InPlaceUpdateEnvFromMetadata, true, Beta, "Changed labels and annotations that feed environment variables are updated in place.";
    StatefulSetAutoDeletePVC, true, Beta, "Advanced StatefulSet honours its claim retention policy.";
    PodIndexLabel, true, Beta, "Advanced StatefulSet labels each pod with its ordinal.";
    ResourcesDeletionProtection, false, Beta, "Labelled resources are protected against accidental cascading deletion.";
    ResourceDistributionGate, false, Beta, "ResourceDistribution copies Secrets and ConfigMaps into namespaces.";
    ImagePullJobGate, false, Alpha, "ImagePullJob and ImageListPullJob pull images ahead of use.";
    PreDownloadImageForInPlaceUpdate, false, Alpha, "CloneSet and Advanced StatefulSet pull new images before updating in place.";
    PreDownloadImageForDaemonSetUpdate, false, Alpha, "Advanced DaemonSet pulls new images before updating.";
    DeletionProtectionForCRDCascadingGate, false, Alpha, "A protected CRD may be deleted once it has no objects left.";
    CloneSetShortHash, false, Alpha, "CloneSet labels pods with the short revision hash.";
    CloneSetPartitionRollback, false, Alpha, "A raised CloneSet partition takes surplus updated pods back to the old revision.";
    CloneSetEventHandlerOptimization, false, Alpha, "CloneSet ignores pod changes that cannot affect it.";
    PreparingUpdateAsUpdate, false, Alpha, "Pods preparing their update count as updated when CloneSet scales.";
    RecreatePodWhenChangeVCTInCloneSetGate, false, Alpha, "Changed CloneSet claim templates recreate pods instead of updating them in place.";
    ForceDeleteTimeoutExpectationGate, false, Alpha, "CloneSet forgets pod creations and deletions it has waited for too long.";
    InPlaceWorkloadVerticalScaling, false, Alpha, "Changed cpu and memory of a workload are applied in place.";
    InPlacePodVerticalScaling, false, Alpha, "PodUnavailableBudget treats resizing a pod as an operation of its own.";
    StatefulSetStartOrdinal, false, Alpha, "Advanced StatefulSet may start at an ordinal other than zero.";
    StatefulSetAutoResizePVCGate, false, Alpha, "Advanced StatefulSet resizes claims when its claim templates grow.";
    DaemonSetPruneIneligibleNodes, false, Alpha, "Advanced DaemonSet does not count nodes it no longer runs on as unavailable.";
    TemplateNoDefaults, false, Alpha, "Pod and claim templates are stored without defaults filled in.";
    DefaultHostNetworkHostPortsInPodTemplates, false, Alpha, "Host ports are filled in for templates on the host network.";
    KruisePodReadinessGate, false, Alpha, "Every new pod gets the Kruise readiness gate.";
    SidecarSetPatchPodMetadataDefaultsAllowed, false, Alpha, "SidecarSet may patch pod metadata that no whitelist names.";
    EnableSortSidecarContainerByName, false, Alpha, "SidecarSet injects containers sorted by name.";
    SidecarTerminator, false, Alpha, "Sidecars are ended once the main containers of a job pod are done.";
    EnhancedLivenessProbe, false, Alpha, "Liveness probes are taken over by the node agent.";
    EnablePodProbeMarkerOnServerless, false, Alpha, "PodProbeMarker covers pods on serverless nodes.";
    EnableExternalCerts, false, Alpha, "Webhook certificates are issued and injected by someone else, such as cert-manager.";
}

/// Names that documentation once used, and the gates they mean.
pub const ALIASES: &[(&str, Gate)] = &[
    ("EnhancedLivenessProbeGate", Gate::EnhancedLivenessProbe),
    ("ForceDeleteTimeoutExpectationFeatureGate", Gate::ForceDeleteTimeoutExpectationGate),
];

/// What follows from gates being on or off, in the order in which it is applied.
pub const DEPENDENCIES: &[Dependency] = &[
    Dependency {
        when: &[Gate::PodWebhook],
        is: false,
        then: &[
            Gate::KruisePodReadinessGate,
            Gate::PodUnavailableBudgetDeleteGate,
            Gate::PodUnavailableBudgetUpdateGate,
            Gate::WorkloadSpread,
            Gate::SidecarSetPatchPodMetadataDefaultsAllowed,
            Gate::EnhancedLivenessProbe,
            Gate::EnablePodProbeMarkerOnServerless,
        ],
        becomes: false,
    },
    Dependency {
        when: &[Gate::KruiseDaemon],
        is: false,
        then: &[
            Gate::PreDownloadImageForInPlaceUpdate,
            Gate::DaemonWatchingPod,
            Gate::InPlaceUpdateEnvFromMetadata,
            Gate::PreDownloadImageForDaemonSetUpdate,
            Gate::PodProbeMarkerGate,
            Gate::SidecarTerminator,
            Gate::ImagePullJobGate,
            Gate::EnhancedLivenessProbe,
        ],
        becomes: false,
    },
    Dependency {
        when: &[Gate::PreDownloadImageForInPlaceUpdate, Gate::PreDownloadImageForDaemonSetUpdate],
        is: true,
        then: &[Gate::ImagePullJobGate],
        becomes: true,
    },
    Dependency {
        when: &[Gate::ResourcesDeletionProtection],
        is: false,
        then: &[Gate::DeletionProtectionForCRDCascadingGate],
        becomes: false,
    },
];

/// "If any of `when` is `is`, all of `then` become `becomes`".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dependency {
    /// The gates of which one is enough.
    pub when: &'static [Gate],
    /// The value of that one.
    pub is: bool,
    /// The gates that follow.
    pub then: &'static [Gate],
    /// Their value then.
    pub becomes: bool,
}

/// The value of every gate. Small and `Copy`: hand it around by value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FeatureGates {
    on: u64,
}

/// The outcome of parsing: the gates, and what the log should say about how they came to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ParsedGates {
    /// The gates after all rules.
    pub gates: FeatureGates,
    /// Gates changed because of another one.
    pub overrides: Vec<Override>,
    /// What the user should know.
    pub warnings: Vec<GateWarning>,
}

/// A gate whose value follows from another gate, whatever was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Override {
    /// The gate that changed.
    pub gate: Gate,
    /// Its value now.
    pub enabled: bool,
    /// The gate it follows from.
    pub because: Gate,
    /// The value of that gate.
    pub because_enabled: bool,
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |on| if on { "on" } else { "off" };
        write!(
            f,
            "feature gate {} is turned {} because {} is {}",
            self.gate.name(),
            word(self.enabled),
            self.because.name(),
            word(self.because_enabled),
        )
    }
}

/// Something accepted that the user should hear about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GateWarning {
    /// A name from old documentation was used.
    Alias {
        /// The name as written.
        given: String,
        /// The gate it stands for.
        gate: Gate,
    },
    /// `AllAlpha=true` has switched on gates that stop a manager without cert-manager from starting.
    AllAlphaNeedsExternalCerts,
}

impl GateWarning {
    /// Whether this belongs in the log as an error, not as a warning.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::AllAlphaNeedsExternalCerts)
    }
}

impl fmt::Display for GateWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias { given, gate } => {
                write!(f, "feature gate {given} is an old name, use {}", gate.name())
            }
            Self::AllAlphaNeedsExternalCerts => f.write_str(
                "AllAlpha=true turns on EnableExternalCerts: without cert-manager (or another injector) the \
                 webhooks never become ready; add EnableExternalCerts=false,TemplateNoDefaults=false to \
                 --feature-gates unless both are wanted",
            ),
        }
    }
}

/// A `--feature-gates` value that cannot be used; displays as the reason alone.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct GateError {
    /// The whole flag value the reason was found in.
    pub value: String,
    /// What is wrong with it.
    pub reason: GateErrorReason,
}

/// What can be wrong with a `--feature-gates` value.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GateErrorReason {
    /// No such gate.
    #[error("unrecognized feature gate: {0}")]
    Unrecognized(String),
    /// A name without `=`.
    #[error("missing bool value for {0}")]
    MissingValue(String),
    /// A value that is not a bool.
    #[error("invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")]
    InvalidValue {
        /// The gate's name as written.
        name: String,
        /// The value as written.
        value: String,
    },
}

impl FeatureGates {
    /// Every gate at its default, before dependencies.
    pub fn defaults() -> Self {
        let mut gates = Self { on: 0 };
        for gate in Gate::ALL {
            gates.set(*gate, gate.default_enabled());
        }
        gates
    }

    /// Parses all values of `--feature-gates` and applies the dependencies.
    pub fn parse(values: &[String]) -> Result<ParsedGates, GateError> {
        Self::parse_with(values, "")
    }

    /// Like [`FeatureGates::parse`], with the value of the legacy variable `CUSTOM_RESOURCE_ENABLE`: a list that
    /// lacks `SidecarSet` makes `PodWebhook` default to off.
    pub fn parse_with(values: &[String], custom_resource_enable: &str) -> Result<ParsedGates, GateError> {
        let mut asked = Asked::default();
        for value in values {
            asked.read(value).map_err(|reason| GateError { value: value.clone(), reason })?;
        }
        let mut gates = Self::defaults();
        if !custom_resource_enable.is_empty()
            && !custom_resource_enable.split(',').any(|kind| kind.trim() == "SidecarSet")
        {
            gates.set(Gate::PodWebhook, false);
        }
        for gate in Gate::ALL {
            let of_stage = match gate.stage() {
                Stage::Alpha => asked.all_alpha,
                Stage::Beta => asked.all_beta,
            };
            if let Some(enabled) = asked.named.get(gate).copied().or(of_stage) {
                gates.set(*gate, enabled);
            }
        }
        let overrides = gates.apply_dependencies();
        let mut warnings = asked.warnings;
        if asked.all_alpha == Some(true)
            && !asked.named.contains_key(&Gate::EnableExternalCerts)
            && gates.enabled(Gate::EnableExternalCerts)
        {
            warnings.push(GateWarning::AllAlphaNeedsExternalCerts);
        }
        Ok(ParsedGates { gates, overrides, warnings })
    }

    /// Whether `gate` is on.
    pub fn enabled(self, gate: Gate) -> bool {
        self.on & bit(gate) != 0
    }

    /// These gates with one changed and no rule applied: for tests and previews.
    #[must_use]
    pub fn with(mut self, gate: Gate, enabled: bool) -> Self {
        self.set(gate, enabled);
        self
    }

    /// Every gate and its value, in the order of the documentation.
    pub fn iter(self) -> impl Iterator<Item = (Gate, bool)> {
        Gate::ALL.iter().map(move |gate| (*gate, self.enabled(*gate)))
    }

    fn set(&mut self, gate: Gate, enabled: bool) {
        if enabled {
            self.on |= bit(gate);
        } else {
            self.on &= !bit(gate);
        }
    }

    fn apply_dependencies(&mut self) -> Vec<Override> {
        let mut overrides = Vec::new();
        for rule in DEPENDENCIES {
            let Some(because) = rule.when.iter().find(|gate| self.enabled(**gate) == rule.is) else {
                continue;
            };
            for gate in rule.then {
                if self.enabled(*gate) != rule.becomes {
                    self.set(*gate, rule.becomes);
                    overrides.push(Override {
                        gate: *gate,
                        enabled: rule.becomes,
                        because: *because,
                        because_enabled: rule.is,
                    });
                }
            }
        }
        overrides
    }
}

impl Default for FeatureGates {
    /// What an empty command line gives, dependencies applied.
    fn default() -> Self {
        let mut gates = Self::defaults();
        gates.apply_dependencies();
        gates
    }
}

fn bit(gate: Gate) -> u64 {
    1 << (gate as u64)
}

/// What the flag values ask for, before any rule.
#[derive(Default)]
struct Asked {
    named: BTreeMap<Gate, bool>,
    all_alpha: Option<bool>,
    all_beta: Option<bool>,
    warnings: Vec<GateWarning>,
}

impl Asked {
    /// Adds one flag value; syntax is judged before names, as the flag always did.
    fn read(&mut self, value: &str) -> Result<(), GateErrorReason> {
        let mut items = Vec::new();
        for item in value.split(',').filter(|item| !item.trim().is_empty()) {
            let Some((name, given)) = item.split_once('=') else {
                return Err(GateErrorReason::MissingValue(item.trim().to_owned()));
            };
            let (name, given) = (name.trim(), given.trim());
            let enabled = parse_bool(given).ok_or_else(|| GateErrorReason::InvalidValue {
                name: name.to_owned(),
                value: given.to_owned(),
            })?;
            items.push((name, enabled));
        }
        for (name, enabled) in items {
            self.ask(name, enabled)?;
        }
        Ok(())
    }

    fn ask(&mut self, name: &str, enabled: bool) -> Result<(), GateErrorReason> {
        match name {
            "AllAlpha" => self.all_alpha = Some(enabled),
            "AllBeta" => self.all_beta = Some(enabled),
            _ => {
                let alias = ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, gate)| *gate);
                let gate = Gate::from_name(name)
                    .or(alias)
                    .ok_or_else(|| GateErrorReason::Unrecognized(name.to_owned()))?;
                self.named.insert(gate, enabled);
                if let Some(gate) = alias {
                    self.warnings.push(GateWarning::Alias { given: name.to_owned(), gate });
                }
            }
        }
        Ok(())
    }
}

/// The bools Go reads.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &str) -> ParsedGates {
        FeatureGates::parse(&[value.to_owned()]).unwrap()
    }

    fn on(value: &str, gate: Gate) -> bool {
        parsed(value).gates.enabled(gate)
    }

    fn error(value: &str) -> String {
        FeatureGates::parse(&[value.to_owned()]).unwrap_err().to_string()
    }

    #[test]
    fn the_table_has_36_gates_and_names_are_found_again() {
        assert_eq!(Gate::ALL.len(), 36);
        for gate in Gate::ALL {
            assert_eq!(Gate::from_name(gate.name()), Some(*gate));
            assert!(!gate.default_enabled() || gate.stage() == Stage::Beta, "{}", gate.name());
            assert!(gate.about().ends_with('.'));
        }
        let on: Vec<_> =
            FeatureGates::defaults().iter().filter(|(_, on)| *on).map(|(g, _)| g.name()).collect();
        assert_eq!(
            on,
            [
                "PodWebhook",
                "KruiseDaemon",
                "DaemonWatchingPod",
                "PodProbeMarkerGate",
                "WorkloadSpread",
                "PodUnavailableBudgetDeleteGate",
                "InPlaceUpdateEnvFromMetadata",
                "StatefulSetAutoDeletePVC",
                "PodIndexLabel"
            ]
        );
    }

    #[test]
    fn nothing_asked_for_changes_nothing() {
        for values in [vec![], vec![String::new()], vec![" , ,".to_owned()]] {
            let parsed = FeatureGates::parse(&values).unwrap();
            assert_eq!(parsed.gates, FeatureGates::defaults());
            assert_eq!((parsed.overrides.len(), parsed.warnings.len()), (0, 0));
        }
        assert_eq!(FeatureGates::default(), FeatureGates::defaults());
    }

    #[test]
    fn errors_are_worded_as_users_know_them() {
        assert_eq!(error("Foo=true"), "unrecognized feature gate: Foo");
        assert_eq!(error("PodWebhook"), "missing bool value for PodWebhook");
        assert_eq!(
            error("PodWebhook= yes "),
            "invalid value of PodWebhook=yes, err: strconv.ParseBool: parsing \"yes\": invalid syntax"
        );
        assert_eq!(
            error("PodWebhook="),
            "invalid value of PodWebhook=, err: strconv.ParseBool: parsing \"\": invalid syntax"
        );
        let values = ["PodWebhook=true".to_owned(), "Foo=1".to_owned()];
        assert_eq!(FeatureGates::parse(&values).unwrap_err().value, "Foo=1");
    }

    #[test]
    fn every_bool_of_go_is_read() {
        for yes in ["1", "t", "T", "TRUE", "true", "True"] {
            assert!(on(&format!("SidecarTerminator={yes}"), Gate::SidecarTerminator));
        }
        for no in ["0", "f", "F", "FALSE", "false", "False"] {
            assert!(!on(&format!("PodIndexLabel={no}"), Gate::PodIndexLabel));
        }
    }

    #[test]
    fn spaces_and_empty_items_do_not_matter_and_dependents_go_off() {
        let parsed = parsed(" PodWebhook = false ,,KruiseDaemon=0");
        let on: Vec<_> = parsed.gates.iter().filter(|(_, on)| *on).map(|(gate, _)| gate).collect();
        assert_eq!(on, [Gate::StatefulSetAutoDeletePVC, Gate::PodIndexLabel]);
        let because: Vec<_> = parsed.overrides.iter().map(|o| (o.gate, o.because, o.enabled)).collect();
        assert_eq!(
            because,
            [
                (Gate::PodUnavailableBudgetDeleteGate, Gate::PodWebhook, false),
                (Gate::WorkloadSpread, Gate::PodWebhook, false),
                (Gate::DaemonWatchingPod, Gate::KruiseDaemon, false),
                (Gate::InPlaceUpdateEnvFromMetadata, Gate::KruiseDaemon, false),
                (Gate::PodProbeMarkerGate, Gate::KruiseDaemon, false),
            ]
        );
        assert_eq!(
            parsed.overrides.first().unwrap().to_string(),
            "feature gate PodUnavailableBudgetDeleteGate is turned off because PodWebhook is off"
        );
    }

    #[test]
    fn explicit_names_win_over_all_alpha_in_either_order() {
        for value in ["AllAlpha=true,TemplateNoDefaults=false", "TemplateNoDefaults=false,AllAlpha=true"] {
            let gates = parsed(value).gates;
            for gate in Gate::ALL.iter().filter(|gate| gate.stage() == Stage::Alpha) {
                let expected = !matches!(
                    gate,
                    // The first is named; the second depends on a beta gate that is off.
                    Gate::TemplateNoDefaults | Gate::DeletionProtectionForCRDCascadingGate
                );
                assert_eq!(gates.enabled(*gate), expected, "{value}: {}", gate.name());
            }
            assert!(!gates.enabled(Gate::ResourceDistributionGate));
        }
    }

    #[test]
    fn all_beta_moves_beta_gates_only_and_spans_repeated_flags() {
        let values = ["PodIndexLabel=true".to_owned(), "AllBeta=false".to_owned()];
        let gates = FeatureGates::parse(&values).unwrap().gates;
        let on: Vec<_> = gates.iter().filter(|(_, on)| *on).map(|(gate, _)| gate).collect();
        assert_eq!(on, [Gate::PodIndexLabel]);
        assert!(on_all_beta().enabled(Gate::ResourceDistributionGate));
        assert!(!on_all_beta().enabled(Gate::SidecarTerminator));
    }

    fn on_all_beta() -> FeatureGates {
        parsed("AllBeta=true").gates
    }

    #[test]
    fn the_last_of_equal_names_wins() {
        assert!(on("PodIndexLabel=false,PodIndexLabel=true", Gate::PodIndexLabel));
        let values = ["SidecarTerminator=true".to_owned(), "SidecarTerminator=false".to_owned()];
        assert!(!FeatureGates::parse(&values).unwrap().gates.enabled(Gate::SidecarTerminator));
    }

    #[test]
    fn image_pull_jobs_need_the_node_agent() {
        assert!(!on("KruiseDaemon=false,ImagePullJobGate=true", Gate::ImagePullJobGate));
    }

    #[test]
    fn pre_download_turns_image_pull_jobs_on() {
        for gate in ["PreDownloadImageForInPlaceUpdate", "PreDownloadImageForDaemonSetUpdate"] {
            assert!(on(&format!("{gate}=true"), Gate::ImagePullJobGate));
            assert!(on(&format!("{gate}=true,ImagePullJobGate=false"), Gate::ImagePullJobGate));
            assert!(!on(&format!("{gate}=true,KruiseDaemon=false"), Gate::ImagePullJobGate));
        }
    }

    #[test]
    fn cascading_protection_of_crds_needs_deletion_protection() {
        let gate = Gate::DeletionProtectionForCRDCascadingGate;
        assert!(!on("DeletionProtectionForCRDCascadingGate=true", gate));
        assert!(on("DeletionProtectionForCRDCascadingGate=true,ResourcesDeletionProtection=true", gate));
    }

    #[test]
    fn documented_names_that_never_worked_are_accepted_with_a_warning() {
        let parsed = parsed("EnhancedLivenessProbeGate=true,ForceDeleteTimeoutExpectationFeatureGate=true");
        assert!(parsed.gates.enabled(Gate::EnhancedLivenessProbe));
        assert!(parsed.gates.enabled(Gate::ForceDeleteTimeoutExpectationGate));
        assert_eq!(
            parsed.warnings.first().unwrap().to_string(),
            "feature gate EnhancedLivenessProbeGate is an old name, use EnhancedLivenessProbe"
        );
        assert_eq!(parsed.warnings.len(), 2);
    }

    #[test]
    fn all_alpha_with_external_certs_is_reported_with_its_remedy() {
        let warnings = parsed("AllAlpha=true").warnings;
        assert_eq!(warnings, [GateWarning::AllAlphaNeedsExternalCerts]);
        assert!(warnings.first().unwrap().is_error());
        assert!(parsed("AllAlpha=true,EnableExternalCerts=false").warnings.is_empty());
        assert!(parsed("AllAlpha=true,EnableExternalCerts=true").warnings.is_empty());
    }

    #[test]
    fn the_legacy_variable_moves_the_default_of_the_pod_webhook_only() {
        let pod_webhook = |values: &[String], env| {
            FeatureGates::parse_with(values, env).unwrap().gates.enabled(Gate::PodWebhook)
        };
        assert!(pod_webhook(&[], ""));
        assert!(pod_webhook(&[], "CloneSet, SidecarSet"));
        assert!(!pod_webhook(&[], "CloneSet"));
        assert!(pod_webhook(&["PodWebhook=true".to_owned()], "CloneSet"));
        let spread = FeatureGates::parse_with(&[], "CloneSet").unwrap().gates.enabled(Gate::WorkloadSpread);
        assert!(!spread);
    }
}
