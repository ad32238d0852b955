//! The names an installation goes by, and the kinds of Kruise.

use kruise_api::keys;

pub use kruise_webhook::removal::DEPLOYMENT;

/// Label that keeps the pods of a namespace from Kruise's pod webhooks, with [`NAMESPACE_LABEL_VALUE`].
pub const NAMESPACE_LABEL: &str = "control-plane";
/// The value of [`NAMESPACE_LABEL`].
pub const NAMESPACE_LABEL_VALUE: &str = "openkruise";

/// One installation: where it is, or is going to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Installation {
    /// The manager's namespace.
    pub namespace: String,
    /// Its webhook Service.
    pub service: String,
    /// The Secret of its certificate.
    pub secret: String,
    /// Its Lease.
    pub lease: String,
    /// The namespace of copied pull Secrets.
    pub daemon_config_namespace: String,
    /// The Helm release that shall own it; none leaves ownership alone.
    pub release: Option<Release>,
}

impl Default for Installation {
    fn default() -> Self {
        Self {
            namespace: "kruise-system".to_owned(),
            service: "kruise-webhook-service".to_owned(),
            secret: "kruise-webhook-certs".to_owned(),
            lease: "kruise-manager".to_owned(),
            daemon_config_namespace: keys::DAEMON_CONFIG_NAMESPACE.to_owned(),
            release: None,
        }
    }
}

/// A Helm release.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Release {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

/// A kind of Kruise, built or not: what an installation of OpenKruise may have left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Kind {
    /// Name of its definition.
    pub definition: &'static str,
    /// What its objects are called in messages.
    pub said: &'static str,
    /// Made by Kruise itself, so that nobody misses it.
    pub derived: bool,
}

const fn kind(definition: &'static str, said: &'static str) -> Kind {
    Kind { definition, said, derived: false }
}

/// Every kind of Kruise. Definitions of its sister projects (rollouts, games) are not Kruise's to touch.
pub const KINDS: [Kind; 18] = [
    kind("advancedcronjobs.apps.kruise.io", "advanced cron jobs"),
    kind("broadcastjobs.apps.kruise.io", "broadcast jobs"),
    kind("clonesets.apps.kruise.io", "clonesets"),
    kind("containerrecreaterequests.apps.kruise.io", "container recreate requests"),
    kind("daemonsets.apps.kruise.io", "advanced daemonsets"),
    kind("ephemeraljobs.apps.kruise.io", "ephemeral jobs"),
    kind("imagelistpulljobs.apps.kruise.io", "image list pull jobs"),
    kind("imagepulljobs.apps.kruise.io", "image pull jobs"),
    Kind { definition: "nodeimages.apps.kruise.io", said: "node images", derived: true },
    Kind { definition: "nodepodprobes.apps.kruise.io", said: "node pod probes", derived: true },
    kind("persistentpodstates.apps.kruise.io", "persistent pod states"),
    kind("podprobemarkers.apps.kruise.io", "pod probe markers"),
    kind("podunavailablebudgets.policy.kruise.io", "pod unavailable budgets"),
    kind("resourcedistributions.apps.kruise.io", "resource distributions"),
    kind("sidecarsets.apps.kruise.io", "sidecarsets"),
    kind("statefulsets.apps.kruise.io", "advanced statefulsets"),
    kind("uniteddeployments.apps.kruise.io", "united deployments"),
    kind("workloadspreads.apps.kruise.io", "workload spreads"),
];

/// The kind of a definition, if it is one of Kruise.
pub fn kind_of(definition: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.definition == definition)
}

/// Whether this build has the definition.
pub fn is_built(definition: &str) -> bool {
    kruise_api::crd::all().iter().any(|it| it.metadata.name.as_deref() == Some(definition))
}

/// Whether a finalizer is one that a controller of Kruise sets and takes off.
pub fn is_own_finalizer(finalizer: &str) -> bool {
    let domain = finalizer.split_once('/').map_or("", |(domain, _)| domain);
    matches!(domain, "kruise.io" | "apps.kruise.io" | "policy.kruise.io" | "crr.apps.kruise.io")
}

/// Cluster-wide objects besides configurations and definitions that a chart makes: group, kind, plural, name. The
/// namespaces come on top.
pub const CLUSTER_OBJECTS: [(&str, &str, &str, &str); 9] = [
    (RBAC, "ClusterRole", "clusterroles", "kruise-manager-role"),
    (RBAC, "ClusterRole", "clusterroles", "kruise-certs-role"),
    (RBAC, "ClusterRole", "clusterroles", "kruise-daemon-role"),
    (RBAC, "ClusterRole", "clusterroles", "aggregate-kruise-view"),
    (RBAC, "ClusterRole", "clusterroles", "aggregate-kruise-edit"),
    (RBAC, "ClusterRole", "clusterroles", "aggregate-kruise-admin"),
    (RBAC, "ClusterRoleBinding", "clusterrolebindings", "kruise-manager-rolebinding"),
    (RBAC, "ClusterRoleBinding", "clusterrolebindings", "kruise-certs-rolebinding"),
    (RBAC, "ClusterRoleBinding", "clusterrolebindings", "kruise-daemon-rolebinding"),
];
const RBAC: &str = "rbac.authorization.k8s.io";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_of_this_build_is_a_known_kind() {
        for definition in kruise_api::crd::all() {
            let name = definition.metadata.name.unwrap();
            assert!(kind_of(&name).is_some(), "{name}");
        }
        assert_eq!(kind_of("rollouts.rollouts.kruise.io"), None);
    }

    #[test]
    fn finalizers_of_others_are_not_ours() {
        for ours in [
            "apps.kruise.io/deletion-protection",
            "kruise.io/node-pod-probe-cleanup",
            keys::CRR_UNREADY_ACQUIRED,
        ] {
            assert!(is_own_finalizer(ours), "{ours}");
        }
        for theirs in
            ["foregroundDeletion", "rollouts.kruise.io/rollout", "example.com/kruise.io", "kruise.io"]
        {
            assert!(!is_own_finalizer(theirs), "{theirs}");
        }
    }
}
