//! What is wrong with an installation, why it hurts, and what repairs it: decided from what was seen alone.

use std::fmt;

use base64::Engine as _;
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruise_webhook::certs;
use kruise_webhook::configure::Configuration;

use crate::installation::{Installation, NAMESPACE_LABEL, NAMESPACE_LABEL_VALUE, Release, is_built};
use crate::seen::{
    Backend, ConfigurationSeen, ConversionSeen, DefinitionSeen, Held, NamespaceSeen, ObjectRef, Ownership,
    Seen, ServiceName, Trial,
};

/// How bad it is, and who can do something about it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Worth knowing, and no fault.
    Note,
    /// A manager repairs it when it starts.
    HealsAtStart,
    /// `preflight --fix` repairs it.
    Repairable,
    /// A manager has to run, and none does.
    NeedsManager,
    /// Nobody but a human can decide.
    Human,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::HealsAtStart => "heals at start",
            Self::Repairable => "repairable",
            Self::NeedsManager => "needs a manager",
            Self::Human => "needs you",
        })
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The object it is about.
    pub object: String,
    /// What is wrong, and what comes of it.
    pub problem: String,
    /// What to do.
    pub remedy: String,
    /// What `--fix` does.
    pub repairs: Vec<Repair>,
}

/// A write that repairs something.
#[derive(Clone, Debug, PartialEq)]
pub enum Repair {
    /// Deletes a webhook configuration.
    DeleteConfiguration {
        /// Which kind.
        configuration: Configuration,
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// Has a definition convert at the installation's own Service.
    PointConversion {
        /// Its name.
        definition: String,
    },
    /// Has a definition convert by rewriting `apiVersion` alone.
    DropConversion {
        /// Its name.
        definition: String,
        /// Its resourceVersion: what was decided about is what is written to.
        resource_version: String,
    },
    /// Applies the definition of this build.
    ApplyDefinition {
        /// Its name.
        definition: String,
    },
    /// Labels a namespace so that its own pods pass without webhooks.
    LabelNamespace {
        /// Its name.
        name: String,
    },
    /// Has Helm take an object for the release's.
    TakeOwnership {
        /// The object.
        object: ObjectRef,
        /// The release.
        release: Release,
    },
    /// Takes Kruise's finalizers off an object.
    RemoveFinalizers {
        /// The definition of its kind.
        definition: String,
        /// The object.
        object: Held,
    },
}

/// What a process says about findings when it ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Nothing to do.
    Clean,
    /// Something can be repaired.
    Repairable,
    /// A manager has to be started, or what asks it removed.
    NeedsManager,
    /// A human is needed.
    Human,
}

impl Verdict {
    /// Of these findings. After a repair, what heals at start is as good as done.
    pub fn of(findings: &[Finding], repaired: bool) -> Self {
        match findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Human) => Self::Human,
            Some(Severity::NeedsManager) => Self::NeedsManager,
            Some(Severity::Repairable) => Self::Repairable,
            Some(Severity::HealsAtStart) if !repaired => Self::Repairable,
            _ => Self::Clean,
        }
    }

    /// The exit code of `preflight --before-install`: what a manager heals by starting, or `--fix` repairs, stops no install.
    pub const fn exit_code_before_install(self) -> u8 {
        match self {
            Self::Clean | Self::Repairable | Self::NeedsManager => 0,
            Self::Human => self.exit_code(),
        }
    }

    /// The exit code of `preflight`.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Repairable => 3,
            Self::NeedsManager | Self::Human => 4,
        }
    }
}

/// Everything that is wrong, worst first.
pub fn findings(seen: &Seen, installation: &Installation, now: Timestamp) -> Vec<Finding> {
    let look = Look { seen, installation, now };
    let mut found = Vec::new();
    for (what, why) in &seen.unreadable {
        found.push(Finding {
            severity: Severity::Human,
            object: what.clone(),
            problem: format!("cannot be looked at: {why}"),
            remedy: "grant the right to read it, or repair what keeps it from being read".to_owned(),
            repairs: Vec::new(),
        });
    }
    found.extend(look.unlisted());
    for configuration in &seen.configurations {
        found.extend(look.configuration(configuration));
    }
    let embedded = kruise_api::crd::all();
    for definition in &seen.definitions {
        let ours = embedded.iter().find(|one| one.metadata.name.as_deref() == Some(&definition.name));
        found.extend(look.definition(definition, ours));
        found.extend(look.objects(definition));
    }
    for namespace in &seen.namespaces {
        found.extend(look.namespace(namespace));
    }
    found.extend(look.ownership());
    found.extend(look.trial());
    found.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.object.cmp(&b.object)));
    found
}

struct Look<'a> {
    seen: &'a Seen,
    installation: &'a Installation,
    now: Timestamp,
}

impl Look<'_> {
    fn own_service(&self) -> ServiceName {
        ServiceName {
            namespace: self.installation.namespace.clone(),
            name: self.installation.service.clone(),
        }
    }

    /// Objects that could not be listed. Those of a kind that is not built here are nobody's business here, and those that
    /// somebody would have to convert first can be listed once a manager runs.
    fn unlisted(&self) -> Vec<Finding> {
        let of = |(name, why): (&String, &String)| {
            let definition = self.seen.definitions.iter().find(|it| it.name == *name);
            let unanswered = definition.is_some_and(|definition| match &definition.conversion {
                ConversionSeen::Webhook { backend, .. } => {
                    matches!(self.backend(backend.as_ref()), Reach::Gone(_) | Reach::Silent(_))
                }
                ConversionSeen::Relabel => false,
            });
            let (severity, remedy) = if !is_built(name) {
                (Severity::Note, "this build does nothing with them".to_owned())
            } else if unanswered {
                (Severity::HealsAtStart, "they can be listed when a manager converts them".to_owned())
            } else {
                (
                    Severity::Human,
                    "grant the right to list them, or repair what keeps them from it".to_owned(),
                )
            };
            Finding {
                severity,
                object: format!("objects of {name}"),
                problem: format!("cannot be listed: {why}"),
                remedy,
                repairs: Vec::new(),
            }
        };
        self.seen.unlisted.iter().map(of).collect()
    }

    /// What is wrong with asking this backend, and whether somebody answers there.
    fn backend(&self, backend: Option<&Backend>) -> Reach {
        match backend {
            None => Reach::Gone("names nobody to ask".to_owned()),
            // Somebody runs the manager outside of the cluster; whether it answers cannot be told from here.
            Some(Backend::Url(_)) => Reach::Fine,
            Some(Backend::Service(name)) => match self.seen.services.get(name) {
                None => Reach::Gone(format!("asks Service {name}, which does not exist")),
                Some(service) if *name == self.own_service() => {
                    if service.ready > 0 {
                        Reach::Fine
                    } else {
                        Reach::Silent(name.clone())
                    }
                }
                Some(service) if service.ready > 0 => Reach::Foreign(name.clone()),
                Some(_) => Reach::Gone(format!("asks Service {name}, behind which nothing runs")),
            },
        }
    }

    fn configuration(&self, configuration: &ConfigurationSeen) -> Vec<Finding> {
        let mut found = Vec::new();
        let delete = Repair::DeleteConfiguration {
            configuration: configuration.configuration,
            name: configuration.name.clone(),
            uid: configuration.uid.clone(),
        };
        let consequence = || {
            let fails =
                |pods: bool| configuration.entries.iter().any(|it| it.fails && (it.about_pods || !pods));
            if fails(true) {
                "every creation of a pod that it matches fails"
            } else if fails(false) {
                "every write of Kruise's objects fails"
            } else {
                "requests pass unchecked after their timeout"
            }
        };
        // One finding per cause, however many entries share it.
        let mut reaches: Vec<Reach> =
            configuration.entries.iter().map(|entry| self.backend(entry.backend.as_ref())).collect();
        reaches.sort();
        reaches.dedup();
        for reach in reaches {
            let (severity, problem, remedy, repairs) = match reach {
                Reach::Fine => continue,
                Reach::Gone(why) => (
                    Severity::Repairable,
                    format!("{why}: {}", consequence()),
                    "`--fix` deletes it; a manager makes it anew when it starts".to_owned(),
                    vec![delete.clone()],
                ),
                Reach::Silent(name) => (
                    Severity::NeedsManager,
                    format!("asks Service {name}, behind which nothing is ready: {}", consequence()),
                    self.start_or_remove(),
                    Vec::new(),
                ),
                Reach::Foreign(name) => (
                    Severity::Human,
                    format!("asks Service {name}, where another Kruise answers"),
                    format!(
                        "one cluster has one Kruise: remove that one, or look with --namespace={}",
                        name.namespace
                    ),
                    Vec::new(),
                ),
            };
            found.push(Finding { severity, object: configuration.title(), problem, remedy, repairs });
        }
        found.extend(self.owner(configuration));
        found.extend(self.trust(configuration));
        found
    }

    fn start_or_remove(&self) -> String {
        let start = match self.seen.manager.replicas {
            None => "install the manager".to_owned(),
            Some(0) => "scale the manager up".to_owned(),
            Some(_) => "see why the manager is not ready".to_owned(),
        };
        format!(
            "{start}; or have `cleanup --mode=keep` take the webhooks away, which leaves objects and pods"
        )
    }

    /// The garbage collector deletes what is owned by a Namespace that is another by now.
    fn owner(&self, configuration: &ConfigurationSeen) -> Option<Finding> {
        let known = |name: &str| self.seen.namespaces.iter().find(|namespace| namespace.name == name);
        let (name, uid) = configuration.owners.iter().find(|(name, uid)| {
            known(name).is_none_or(|namespace| namespace.uid != *uid || *name != self.installation.namespace)
        })?;
        Some(Finding {
            severity: Severity::HealsAtStart,
            object: configuration.title(),
            problem: format!(
                "belongs to a Namespace {name} (uid {uid}) that is not the installation's: it comes from another \
                 cluster or an earlier installation, and the garbage collector deletes it"
            ),
            remedy: "a manager makes it its own when it starts".to_owned(),
            repairs: Vec::new(),
        })
    }

    fn trust(&self, configuration: &ConfigurationSeen) -> Option<Finding> {
        let wrong = configuration.entries.iter().filter(|entry| self.distrusts(&entry.trusts));
        let names: Vec<&str> = wrong.map(|entry| entry.name.as_str()).collect();
        let first = names.first()?;
        Some(Finding {
            severity: Severity::HealsAtStart,
            object: configuration.title(),
            problem: format!(
                "{} of its entries ({first}, …) do not trust the certificate in Secret {}/{}: calls end with an \
                 unknown authority",
                names.len(),
                self.installation.namespace,
                self.installation.secret
            ),
            remedy: "a manager publishes its authority when it starts".to_owned(),
            repairs: Vec::new(),
        })
    }

    /// Whether the bundle does not verify what the installation serves with.
    fn distrusts(&self, trusts: &str) -> bool {
        let Some(certificate) = &self.seen.certificate else { return false };
        let bundle = base64::engine::general_purpose::STANDARD.decode(trusts).unwrap_or_default();
        certs::verify(&certificate.chain, &bundle, &certificate.host, self.now).is_err()
    }

    fn definition(&self, seen: &DefinitionSeen, ours: Option<&CustomResourceDefinition>) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut find = |severity, problem: String, remedy: String, repairs| {
            found.push(Finding { severity, object: seen.title(), problem, remedy, repairs });
        };
        let name = || seen.name.clone();
        let apply = || vec![Repair::ApplyDefinition { definition: name() }];
        let drop = || {
            let resource_version = seen.resource_version.clone();
            vec![Repair::DropConversion { definition: name(), resource_version }]
        };
        let wanted = ours.and_then(DefinitionSeen::of);
        let by_webhook = |of: &DefinitionSeen| matches!(of.conversion, ConversionSeen::Webhook { .. });

        if let ConversionSeen::Webhook { backend, trusts } = &seen.conversion {
            let here = wanted.as_ref().is_some_and(by_webhook);
            match self.backend(backend.as_ref()) {
                Reach::Fine if here && self.distrusts(trusts) => find(
                    Severity::HealsAtStart,
                    "does not trust the certificate of the webhook: objects of another than the stored version \
                     cannot be read"
                        .to_owned(),
                    "a manager publishes its authority when it starts".to_owned(),
                    Vec::new(),
                ),
                Reach::Fine => {}
                Reach::Silent(service) if here => find(
                    Severity::HealsAtStart,
                    format!("converts at Service {service}, behind which nothing is ready"),
                    "reading works again when a manager runs".to_owned(),
                    Vec::new(),
                ),
                Reach::Foreign(service) => find(
                    Severity::Human,
                    format!("converts at Service {service}, where another Kruise answers"),
                    "one cluster has one Kruise: remove that one first".to_owned(),
                    Vec::new(),
                ),
                Reach::Gone(why) if seen.deleting => find(
                    Severity::Repairable,
                    format!("is being deleted and {why}: its objects cannot be listed, so it never goes"),
                    "`--fix` has it convert without a webhook, so that the deletion ends".to_owned(),
                    drop(),
                ),
                Reach::Gone(why) if here => find(
                    Severity::HealsAtStart,
                    format!("{why}: objects of another than the stored version cannot be read"),
                    "`--fix` points it at this installation, as a manager does when it starts".to_owned(),
                    vec![Repair::PointConversion { definition: name() }],
                ),
                Reach::Gone(_) | Reach::Silent(_) if wanted.is_some() => {} // Told below, as another clause.
                Reach::Gone(why) if seen.old_versions().is_empty() => find(
                    Severity::Repairable,
                    format!("{why}, and this build does not convert {}", seen.kind),
                    "`--fix` has it convert without a webhook: all objects are stored in one version".to_owned(),
                    drop(),
                ),
                Reach::Gone(why) => find(
                    Severity::Human,
                    format!(
                        "{why}, this build does not convert {}, and objects may be stored as {}",
                        seen.kind,
                        seen.old_versions().join(", ")
                    ),
                    "install an OpenKruise that converts them, or delete them".to_owned(),
                    Vec::new(),
                ),
                Reach::Silent(service) => find(
                    Severity::Human,
                    format!("converts at Service {service}, and this build does not convert {}", seen.kind),
                    "install an OpenKruise that converts them, or delete them".to_owned(),
                    Vec::new(),
                ),
            }
        }
        if seen.deleting {
            let count = self.seen.objects.get(&seen.name).map_or(0, |objects| objects.count);
            let waits = if seen.foreign_finalizers.is_empty() {
                format!("{count} objects are left")
            } else {
                format!("waits for finalizers of others: {}", seen.foreign_finalizers.join(", "))
            };
            let severity =
                if seen.foreign_finalizers.is_empty() { Severity::HealsAtStart } else { Severity::Human };
            find(
                severity,
                format!("is being deleted with all its objects; {waits}"),
                "let it go and run `crds apply` then: a deletion cannot be taken back".to_owned(),
                Vec::new(),
            );
            return found;
        }
        let Some(wanted) = wanted else { return found };
        let missing: Vec<&str> = wanted.served.difference(&seen.served).map(String::as_str).collect();
        if !missing.is_empty() {
            find(
                Severity::Repairable,
                format!("does not serve {}: its controller sees nothing", missing.join(", ")),
                "`--fix` or `crds apply` upgrades it".to_owned(),
                apply(),
            );
        } else if seen.storage != wanted.storage {
            find(
                Severity::Repairable,
                format!("stores {} where this build stores {}", seen.storage, wanted.storage),
                "`--fix` or `crds apply` upgrades it".to_owned(),
                apply(),
            );
        } else if by_webhook(seen) != by_webhook(&wanted) {
            let problem = if by_webhook(seen) {
                "converts by a webhook that this build does not have for it"
            } else {
                "converts by rewriting apiVersion alone: what only one version can hold is lost"
            };
            find(
                Severity::Repairable,
                problem.to_owned(),
                "`--fix` or `crds apply` puts its conversion right".to_owned(),
                apply(),
            );
        }
        let old = seen.old_versions();
        if !old.is_empty() {
            let count = self.seen.objects.get(&seen.name).map_or(0, |objects| objects.count);
            find(
                Severity::Note,
                format!("some of its {count} objects may still be stored as {}", old.join(", ")),
                "`crds migrate` rewrites them; after that an OpenKruise without the new version cannot read them"
                    .to_owned(),
                Vec::new(),
            );
        }
        found
    }

    /// Objects that are being deleted and wait for a controller that does not run.
    fn objects(&self, definition: &DefinitionSeen) -> Option<Finding> {
        let held = &self.seen.objects.get(&definition.name)?.held;
        let stuck: Vec<&Held> = held.iter().filter(|object| object.deleting).collect();
        let first = stuck.first()?;
        if self.seen.manager.leader.is_some() {
            return None;
        }
        let namespace = first.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let remove = |object: &&Held| Repair::RemoveFinalizers {
            definition: definition.name.clone(),
            object: (*object).clone(),
        };
        Some(Finding {
            severity: Severity::Repairable,
            object: definition.title(),
            problem: format!(
                "{} objects ({namespace}{}, …) are being deleted and wait for a manager, and none leads",
                stuck.len(),
                first.name
            ),
            remedy: "`--fix` takes Kruise's finalizers off them; or start a manager".to_owned(),
            repairs: stuck.iter().map(remove).collect(),
        })
    }

    fn namespace(&self, namespace: &NamespaceSeen) -> Option<Finding> {
        let object = format!("Namespace/{}", namespace.name);
        let own = namespace.name == self.installation.namespace;
        if namespace.deleting {
            let why = if namespace.held_up.is_empty() {
                "the API server does not say why it takes long".to_owned()
            } else {
                namespace.held_up.join("; ")
            };
            let ours = own || namespace.name == self.installation.daemon_config_namespace;
            return Some(Finding {
                severity: if ours { Severity::Human } else { Severity::Note },
                object,
                problem: format!("is being deleted: {why}"),
                remedy:
                    "it goes when what holds it up does; findings about Kruise's objects say what that is"
                        .to_owned(),
                repairs: Vec::new(),
            });
        }
        let labelled =
            namespace.labels.get(NAMESPACE_LABEL).map(String::as_str) == Some(NAMESPACE_LABEL_VALUE);
        (own && !labelled).then(|| Finding {
            severity: Severity::Repairable,
            object,
            problem: format!(
                "lacks the label {NAMESPACE_LABEL}={NAMESPACE_LABEL_VALUE}: webhooks made by OpenKruise's chart keep \
                 the manager's own pods from starting"
            ),
            remedy: "`--fix` adds it".to_owned(),
            repairs: vec![Repair::LabelNamespace { name: namespace.name.clone() }],
        })
    }

    /// What Helm would refuse to install over.
    fn ownership(&self) -> Vec<Finding> {
        let Some(release) = &self.installation.release else { return Vec::new() };
        let configurations = self.seen.configurations.iter().map(|it| {
            let object = ObjectRef {
                group: "admissionregistration.k8s.io",
                kind: it.configuration.kind(),
                plural: it.configuration.plural(),
                name: it.name.clone(),
            };
            (object, &it.ownership)
        });
        let definitions = self.seen.definitions.iter().map(|it| {
            let object = ObjectRef {
                group: "apiextensions.k8s.io",
                kind: "CustomResourceDefinition",
                plural: "customresourcedefinitions",
                name: it.name.clone(),
            };
            (object, &it.ownership)
        });
        let others = self.seen.owned.iter().map(|(object, ownership)| (object.clone(), ownership));
        let foreign =
            |ownership: &Ownership| !ownership.managed || ownership.release.as_ref() != Some(release);
        configurations
            .chain(definitions)
            .chain(others)
            .filter(|(_, ownership)| foreign(ownership))
            .map(|(object, ownership)| Finding {
                severity: Severity::Repairable,
                object: object.to_string(),
                problem: match &ownership.release {
                    Some(other) => {
                        format!(
                            "belongs to Helm release {}/{}: an install is refused",
                            other.namespace, other.name
                        )
                    }
                    None => "belongs to no Helm release: an install is refused".to_owned(),
                },
                remedy: format!("`--fix` has {}/{} own it", release.namespace, release.name),
                repairs: vec![Repair::TakeOwnership { object, release: release.clone() }],
            })
            .collect()
    }

    fn trial(&self) -> Option<Finding> {
        let why = match &self.seen.trial {
            Trial::Pointless | Trial::Admitted => return None,
            // The roles of managers do not let them create sets.
            Trial::NotAllowed => {
                return Some(Finding {
                    severity: Severity::Note,
                    object: format!("Service/{}", self.own_service()),
                    problem: "whether the API server reaches it was not tried: this account may not create CloneSets"
                        .to_owned(),
                    remedy: "run this as an administrator of the cluster, from any machine".to_owned(),
                    repairs: Vec::new(),
                });
            }
            Trial::Refused(why) => why,
        };
        let unreachable =
            ["failed calling webhook", "conversion webhook"].iter().any(|text| why.contains(text));
        let remedy = if why.contains("x509") {
            "a manager publishes its authority when it starts; see why it has not"
        } else if unreachable {
            "the API server has to reach the manager's pods on port 9876: open it from the control plane to the nodes, \
             or run the manager with hostNetwork"
        } else {
            "see what the message says"
        };
        Some(Finding {
            severity: Severity::Human,
            object: format!("Service/{}", self.own_service()),
            problem: format!("a CloneSet on trial was not admitted: {why}"),
            remedy: remedy.to_owned(),
            repairs: Vec::new(),
        })
    }
}

/// Whether somebody can be asked.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Reach {
    /// As far as can be told.
    Fine,
    /// Nobody, and nobody will.
    Gone(String),
    /// Nobody for now.
    Silent(ServiceName),
    /// Another installation.
    Foreign(ServiceName),
}

#[cfg(test)]
mod tests;
