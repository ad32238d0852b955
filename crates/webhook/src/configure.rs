//! What the webhook configurations and the conversion part of the CRDs shall look like.
//!
//! The entries come from a built-in table; of the live object only what users may tune survives. The annotation
//! `template` is kept because the reference takes its entries from there, should it ever take over again.

use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation};
use serde_json::{Map, Value};

use crate::route::canonical_path;

/// Name of the mutating configuration.
pub const MUTATING_NAME: &str = "kruise-mutating-webhook-configuration";
/// Name of the validating configuration.
pub const VALIDATING_NAME: &str = "kruise-validating-webhook-configuration";
/// Annotation with the entries as a JSON array.
pub const TEMPLATE: &str = "template";
/// Annotation of a CRD, `true` where a cleanup dropped its conversion for want of a manager. One that runs again restores it.
pub const CONVERSION_DROPPED: &str = "kruise.io/conversion-dropped";
const PORT: u16 = 443;

/// The fields of an entry that belong to the user.
const TUNABLE: [&str; 6] = [
    "timeoutSeconds",
    "failurePolicy",
    "namespaceSelector",
    "objectSelector",
    "matchConditions",
    "reinvocationPolicy",
];

/// Which of the two configurations.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Configuration {
    /// Runs first and may change objects.
    Mutating,
    /// Runs last and may only refuse.
    Validating,
}

impl Configuration {
    /// Both, in the order they run.
    pub const ALL: [Self; 2] = [Self::Mutating, Self::Validating];

    /// Kind of the object.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Mutating => "MutatingWebhookConfiguration",
            Self::Validating => "ValidatingWebhookConfiguration",
        }
    }

    /// Plural resource name of the object.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Mutating => "mutatingwebhookconfigurations",
            Self::Validating => "validatingwebhookconfigurations",
        }
    }

    /// Name of the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mutating => MUTATING_NAME,
            Self::Validating => VALIDATING_NAME,
        }
    }
}

/// What requests an entry matches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rule {
    /// API group.
    pub group: &'static str,
    /// API versions.
    pub versions: &'static [&'static str],
    /// Plural resource names, subresources as `pods/eviction`.
    pub resources: &'static [&'static str],
    /// Operations in upper case.
    pub operations: &'static [&'static str],
}

/// One built-in webhook entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The configuration it belongs to.
    pub configuration: Configuration,
    /// Its name, by which it is found in the live object.
    pub name: &'static str,
    /// Its path without version.
    pub path: &'static str,
    /// What it matches.
    pub rules: &'static [Rule],
}

const BOTH: &[&str] = &["v1alpha1", "v1beta1"];

/// The entries this binary can serve; those without a registered handler are left out of the configurations.
pub const ENTRIES: &[Entry] = &[
    Entry {
        configuration: Configuration::Mutating,
        name: "mcloneset.kb.io",
        path: "/mutate-apps-kruise-io-cloneset",
        rules: &[Rule {
            group: "apps.kruise.io",
            versions: BOTH,
            resources: &["clonesets"],
            operations: &["CREATE", "UPDATE"],
        }],
    },
    Entry {
        configuration: Configuration::Validating,
        name: "vcloneset.kb.io",
        path: "/validate-apps-kruise-io-cloneset",
        rules: &[Rule {
            group: "apps.kruise.io",
            versions: BOTH,
            resources: &["clonesets"],
            operations: &["CREATE", "UPDATE", "DELETE"],
        }],
    },
    Entry {
        configuration: Configuration::Mutating,
        name: "mbroadcastjob.kb.io",
        path: "/mutate-apps-kruise-io-broadcastjob",
        rules: &[Rule {
            group: "apps.kruise.io",
            versions: BOTH,
            resources: &["broadcastjobs"],
            operations: &["CREATE", "UPDATE"],
        }],
    },
    Entry {
        configuration: Configuration::Validating,
        name: "vbroadcastjob.kb.io",
        path: "/validate-apps-kruise-io-broadcastjob",
        rules: &[Rule {
            group: "apps.kruise.io",
            versions: BOTH,
            resources: &["broadcastjobs"],
            operations: &["CREATE", "UPDATE"],
        }],
    },
    Entry {
        configuration: Configuration::Mutating,
        name: "mimagepulljob-v1beta1.kb.io",
        path: "/mutate-apps-kruise-io-imagepulljob",
        rules: &[Rule {
            group: "apps.kruise.io",
            versions: BOTH,
            resources: &["imagepulljobs"],
            operations: &["CREATE", "UPDATE"],
        }],
    },
    Entry {
        configuration: Configuration::Validating,
        name: "vimagepulljob-v1beta1.kb.io",
        path: "/validate-apps-kruise-io-imagepulljob",
        rules: &[Rule {
            group: "apps.kruise.io",
            versions: BOTH,
            resources: &["imagepulljobs"],
            operations: &["CREATE", "UPDATE"],
        }],
    },
    Entry {
        configuration: Configuration::Mutating,
        name: "mimagelistpulljob-v1beta1.kb.io",
        path: "/mutate-apps-kruise-io-imagelistpulljob",
        rules: &[Rule {
            group: "apps.kruise.io",
            versions: BOTH,
            resources: &["imagelistpulljobs"],
            operations: &["CREATE", "UPDATE"],
        }],
    },
    Entry {
        configuration: Configuration::Validating,
        name: "vimagelistpulljob-v1beta1.kb.io",
        path: "/validate-apps-kruise-io-imagelistpulljob",
        rules: &[Rule {
            group: "apps.kruise.io",
            versions: BOTH,
            resources: &["imagelistpulljobs"],
            operations: &["CREATE", "UPDATE"],
        }],
    },
    Entry {
        configuration: Configuration::Mutating,
        name: "mnodeimage.kb.io",
        path: "/mutate-apps-kruise-io-nodeimage",
        rules: &[Rule {
            group: "apps.kruise.io",
            versions: BOTH,
            resources: &["nodeimages"],
            operations: &["CREATE", "UPDATE"],
        }],
    },
    Entry {
        configuration: Configuration::Validating,
        name: "vnodeimage.kb.io",
        path: "/validate-apps-kruise-io-nodeimage",
        rules: &[Rule {
            group: "apps.kruise.io",
            versions: BOTH,
            resources: &["nodeimages"],
            operations: &["CREATE", "UPDATE"],
        }],
    },
    Entry {
        configuration: Configuration::Mutating,
        name: "mcontainerrecreaterequest.kb.io",
        path: "/mutate-apps-kruise-io-containerrecreaterequest",
        rules: &[Rule {
            group: "apps.kruise.io",
            versions: BOTH,
            resources: &["containerrecreaterequests"],
            operations: &["CREATE", "UPDATE"],
        }],
    },
    Entry {
        configuration: Configuration::Mutating,
        name: "madvancedcronjob.kb.io",
        path: "/mutate-apps-kruise-io-advancedcronjob",
        rules: &[Rule {
            group: "apps.kruise.io",
            versions: BOTH,
            resources: &["advancedcronjobs"],
            operations: &["CREATE", "UPDATE"],
        }],
    },
    Entry {
        configuration: Configuration::Validating,
        name: "vadvancedcronjob.kb.io",
        path: "/validate-apps-kruise-io-advancedcronjob",
        rules: &[Rule {
            group: "apps.kruise.io",
            versions: BOTH,
            resources: &["advancedcronjobs"],
            operations: &["CREATE", "UPDATE"],
        }],
    },
];

/// A CRD whose objects this binary converts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConversionCrd {
    /// Name of the CRD.
    pub name: &'static str,
    /// API group of its objects.
    pub group: &'static str,
    /// Kind of its objects.
    pub kind: &'static str,
    /// The versions conversion knows.
    pub versions: &'static [&'static str],
}

/// The CRDs this binary converts for.
pub const CONVERSION_CRDS: &[ConversionCrd] = &[
    ConversionCrd {
        name: "clonesets.apps.kruise.io",
        group: "apps.kruise.io",
        kind: "CloneSet",
        versions: BOTH,
    },
    ConversionCrd {
        name: "containerrecreaterequests.apps.kruise.io",
        group: "apps.kruise.io",
        kind: "ContainerRecreateRequest",
        versions: BOTH,
    },
];

/// Where the API server reaches the webhook, and what it trusts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Host and port of a URL to use instead of the Service.
    pub host: Option<(String, u16)>,
    /// The authorities, as base64 of PEM.
    pub ca_bundle: String,
}

impl Target {
    /// The client configuration for a path.
    pub fn client_config(&self, path: &str) -> Value {
        let mut config = Map::new();
        config.insert("caBundle".to_owned(), Value::from(self.ca_bundle.as_str()));
        if let Some((host, port)) = &self.host {
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            config.insert("url".to_owned(), Value::from(format!("https://{host}:{port}{path}")));
        } else {
            let service = object([
                ("name", Value::from(self.service.as_str())),
                ("namespace", Value::from(self.namespace.as_str())),
                ("path", Value::from(path)),
                ("port", Value::from(PORT)),
            ]);
            config.insert("service".to_owned(), service);
        }
        Value::Object(config)
    }
}

/// The Namespace object that owns the configurations, so that they do not outlive it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnerNamespace {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What a configuration shall be, or none when it already is. `entries` are those with a handler.
pub fn desired(
    configuration: Configuration,
    entries: &[Entry],
    live: Option<&Value>,
    target: &Target,
    owner: Option<&OwnerNamespace>,
) -> Option<Value> {
    let own: Vec<&Entry> = entries.iter().filter(|entry| entry.configuration == configuration).collect();
    let live_entries: &[Value] = live
        .and_then(|live| live.get("webhooks"))
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let template = live.map(template_of).unwrap_or_default();
    let wanted: Vec<Value> = own
        .iter()
        .map(|entry| {
            let found = find(live_entries, entry).or_else(|| find(&template, entry));
            webhook(entry, found, target)
        })
        .collect();

    let mut result = live.cloned().unwrap_or_else(|| {
        object([
            ("apiVersion", Value::from("admissionregistration.k8s.io/v1")),
            ("kind", Value::from(configuration.kind())),
            ("metadata", object([("name", Value::from(configuration.name()))])),
        ])
    });
    let template = if template.is_empty() { live_entries } else { &template };
    let template = new_template(template, &own, &wanted);
    let root = result.as_object_mut()?;
    let metadata = child(root, "metadata")?;
    let annotations = child(metadata, "annotations")?;
    annotations.insert(TEMPLATE.to_owned(), Value::from(template));
    if let Some(owner) = owner {
        own_by(metadata, owner);
    }
    root.insert("webhooks".to_owned(), Value::Array(wanted));
    (live != Some(&result)).then_some(result)
}

/// Whether what is published of an own entry differs in one of `fields` from what shall be, or is missing.
pub fn differs(
    configuration: Configuration,
    entries: &[Entry],
    live: Option<&Value>,
    wanted: &Value,
    fields: &[&str],
) -> bool {
    let own = entries.iter().filter(|entry| entry.configuration == configuration);
    let of = |object: &Value, entry: &Entry| {
        let webhooks =
            object.get("webhooks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let found = find(webhooks, entry)?;
        Some(fields.iter().map(|field| found.get(*field).cloned()).collect::<Vec<_>>())
    };
    own.into_iter().any(|entry| live.and_then(|live| of(live, entry)) != of(wanted, entry))
}

/// The entries of the annotation; none when it is absent, empty or broken.
fn template_of(live: &Value) -> Vec<Value> {
    let text = live.pointer("/metadata/annotations/template").and_then(Value::as_str).unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

fn find<'a>(entries: &'a [Value], entry: &Entry) -> Option<&'a Value> {
    let named = |value: &&Value| value.get("name").and_then(Value::as_str) == Some(entry.name);
    let routed = |value: &&Value| path_of(value).is_some_and(|path| canonical_path(&path) == entry.path);
    entries.iter().find(named).or_else(|| entries.iter().find(routed))
}

fn path_of(webhook: &Value) -> Option<String> {
    if let Some(path) = webhook.pointer("/clientConfig/service/path").and_then(Value::as_str) {
        return Some(path.to_owned());
    }
    let url = webhook.pointer("/clientConfig/url").and_then(Value::as_str)?;
    let (_, rest) = url.split_once("://")?;
    rest.find('/').and_then(|at| rest.get(at..)).map(str::to_owned)
}

fn webhook(entry: &Entry, found: Option<&Value>, target: &Target) -> Value {
    // A path with a version is an alias of the same handler; leave it to whoever wrote it.
    let path = found.and_then(path_of).filter(|path| canonical_path(path) == entry.path);
    let path = path.unwrap_or_else(|| entry.path.to_owned());
    let mut webhook = Map::new();
    webhook.insert("name".to_owned(), Value::from(entry.name));
    webhook.insert("clientConfig".to_owned(), target.client_config(&path));
    webhook.insert("rules".to_owned(), entry.rules.iter().map(rule).collect());
    webhook.insert("failurePolicy".to_owned(), Value::from("Fail"));
    webhook.insert("matchPolicy".to_owned(), Value::from("Equivalent"));
    webhook.insert("sideEffects".to_owned(), Value::from("None"));
    webhook.insert("timeoutSeconds".to_owned(), Value::from(30));
    webhook.insert("admissionReviewVersions".to_owned(), strings(&["v1", "v1beta1"]));
    webhook.insert("namespaceSelector".to_owned(), Value::Object(Map::new()));
    webhook.insert("objectSelector".to_owned(), Value::Object(Map::new()));
    let mutating = entry.configuration == Configuration::Mutating;
    if mutating {
        webhook.insert("reinvocationPolicy".to_owned(), Value::from("Never"));
    }
    for field in TUNABLE {
        let allowed = mutating || field != "reinvocationPolicy";
        if let Some(value) =
            found.and_then(|found| found.get(field)).filter(|value| allowed && !value.is_null())
        {
            webhook.insert(field.to_owned(), value.clone());
        }
    }
    Value::Object(webhook)
}

fn rule(rule: &Rule) -> Value {
    object([
        ("apiGroups", strings(&[rule.group])),
        ("apiVersions", strings(rule.versions)),
        ("operations", strings(rule.operations)),
        ("resources", strings(rule.resources)),
        ("scope", Value::from("*")),
    ])
}

/// Own entries replace theirs; foreign ones stay, for a manager that knows them.
fn new_template(before: &[Value], own: &[&Entry], wanted: &[Value]) -> String {
    let bare = |webhook: &Value| {
        let mut webhook = webhook.clone();
        if let Some(config) = webhook.get_mut("clientConfig").and_then(Value::as_object_mut) {
            config.remove("caBundle");
        }
        webhook
    };
    let is_own = |value: &Value| own.iter().any(|entry| find(std::slice::from_ref(value), entry).is_some());
    let foreign = before.iter().filter(|value| !is_own(value));
    Value::Array(wanted.iter().chain(foreign).map(bare).collect()).to_string()
}

fn own_by(metadata: &mut Map<String, Value>, owner: &OwnerNamespace) {
    let namespace = |reference: &Value| reference.get("kind").and_then(Value::as_str) == Some("Namespace");
    let references = metadata.entry("ownerReferences").or_insert_with(|| Value::Array(Vec::new()));
    let Some(references) = references.as_array_mut() else { return };
    let uid = |reference: &Value| reference.get("uid").and_then(Value::as_str) == Some(owner.uid.as_str());
    if references.iter().any(uid) {
        return;
    }
    // Of an earlier install; a stale owner would have the object collected.
    references.retain(|reference| !namespace(reference));
    references.push(object([
        ("apiVersion", Value::from("v1")),
        ("kind", Value::from("Namespace")),
        ("name", Value::from(owner.name.as_str())),
        ("uid", Value::from(owner.uid.as_str())),
        ("blockOwnerDeletion", Value::from(false)),
    ]));
}

/// The change that makes a CRD convert here, or none when it does already or is not ours to change.
///
/// The tests on the old values make a concurrent change a conflict instead of a loss.
pub fn crd_patch(crd: &Value, known: &[ConversionCrd], target: &Target) -> Option<Patch> {
    let text = |pointer: &str| crd.pointer(pointer).and_then(Value::as_str);
    let strategy = text("/spec/conversion/strategy")?;
    let (group, kind) = (text("/spec/group")?, text("/spec/names/kind")?);
    let first = text("/spec/versions/0/name")?;
    let ours =
        known.iter().find(|one| one.group == group && one.kind == kind && one.versions.contains(&first))?;
    let mark = crd.pointer("/metadata/annotations").and_then(|all| all.get(CONVERSION_DROPPED));
    let wanted = object([
        ("clientConfig", target.client_config("/convert")),
        ("conversionReviewVersions", strings(&["v1", "v1beta1"])),
    ]);
    let test = |path, value: &Value| PatchOperation::Test(TestOperation { path, value: value.clone() });
    let strategy_path = || pointer(&["spec", "conversion", "strategy"]);
    let mut patch = vec![test(strategy_path(), &Value::from(strategy))];
    match strategy {
        "Webhook" => {
            let live = crd.pointer("/spec/conversion/webhook");
            let webhook = || pointer(&["spec", "conversion", "webhook"]);
            match live {
                Some(live) if *live == wanted => {}
                Some(live) => {
                    patch.push(test(webhook(), live));
                    patch.push(PatchOperation::Replace(ReplaceOperation { path: webhook(), value: wanted }));
                }
                None => patch.push(PatchOperation::Add(AddOperation { path: webhook(), value: wanted })),
            }
        }
        // Whoever chose it without leaving the mark meant it.
        "None" if mark.and_then(Value::as_str) == Some("true") && has_versions(crd, ours.versions) => {
            let value = object([("strategy", Value::from("Webhook")), ("webhook", wanted)]);
            let path = pointer(&["spec", "conversion"]);
            patch.push(PatchOperation::Replace(ReplaceOperation { path, value }));
        }
        _ => return None,
    }
    if let Some(mark) = mark {
        // A mark that stayed would undo what somebody means later.
        let path = || pointer(&["metadata", "annotations", CONVERSION_DROPPED]);
        patch.push(test(path(), mark));
        patch.push(PatchOperation::Remove(RemoveOperation { path: path() }));
    }
    (patch.len() > 1).then_some(Patch(patch))
}

fn has_versions(crd: &Value, names: &[&str]) -> bool {
    let versions =
        crd.pointer("/spec/versions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let has = |name: &&str| versions.iter().any(|one| one.get("name").and_then(Value::as_str) == Some(*name));
    names.iter().all(has)
}

fn pointer(tokens: &[&str]) -> json_patch::jsonptr::PointerBuf {
    json_patch::jsonptr::PointerBuf::from_tokens(tokens.iter().copied())
}

/// The published bundles of what is served: of each entry with its name, or none where the entry is absent.
pub fn published(
    configuration: Configuration,
    entries: &[Entry],
    live: &Value,
) -> Vec<(&'static str, Option<String>)> {
    let webhooks = live.get("webhooks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let own = entries.iter().filter(|entry| entry.configuration == configuration);
    own.map(|entry| {
        let bundle = find(webhooks, entry).and_then(|found| found.pointer("/clientConfig/caBundle"));
        (entry.name, bundle.and_then(Value::as_str).map(str::to_owned))
    })
    .collect()
}

fn child<'a>(parent: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    let value = parent.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut()
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn strings(values: &[&str]) -> Value {
    values.iter().map(|value| Value::from(*value)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The entries of CloneSet alone.
    fn one_kind() -> &'static [Entry] {
        ENTRIES.split_at(2).0
    }

    #[test]
    fn every_kind_has_its_own_names_and_paths() {
        for configuration in Configuration::ALL {
            let made = desired(configuration, ENTRIES, None, &target(), None).unwrap();
            let own = ENTRIES.iter().filter(|entry| entry.configuration == configuration);
            assert_eq!(made["webhooks"].as_array().unwrap().len(), own.count());
        }
        let distinct = |of: fn(&Entry) -> &'static str| {
            ENTRIES.iter().map(of).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(
            (distinct(|entry| entry.name), distinct(|entry| entry.path)),
            (ENTRIES.len(), ENTRIES.len())
        );
    }

    fn target() -> Target {
        Target {
            namespace: "ns".to_owned(),
            service: "svc".to_owned(),
            host: None,
            ca_bundle: "Q0E=".to_owned(),
        }
    }

    fn settle(live: Option<&Value>) -> Value {
        let wanted = desired(Configuration::Mutating, one_kind(), live, &target(), None).unwrap();
        assert_eq!(
            desired(Configuration::Mutating, one_kind(), Some(&wanted), &target(), None),
            None,
            "not settled"
        );
        wanted
    }

    #[test]
    fn a_missing_configuration_is_made_from_the_table() {
        for configuration in Configuration::ALL {
            let made = desired(configuration, one_kind(), None, &target(), None).unwrap();
            assert_eq!(made["metadata"]["name"], configuration.name());
            assert_eq!(made["webhooks"].as_array().unwrap().len(), 1);
            let client = json!({
                "caBundle": "Q0E=",
                "service": {"name": "svc", "namespace": "ns", "path": one_kind().iter()
                    .find(|entry| entry.configuration == configuration).unwrap().path, "port": 443}
            });
            assert_eq!(made["webhooks"][0]["clientConfig"], client);
        }
    }

    #[test]
    fn what_users_tune_survives_and_everything_else_is_put_right() {
        let live = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": MUTATING_NAME, "labels": {"a": "b"}, "annotations": {"template": "", "c": "d"}},
            "webhooks": [
                {"name": "mpod.kb.io", "clientConfig": {"service": {"path": "/mutate-pod"}}},
                {
                    "name": "mcloneset.kb.io", "timeoutSeconds": 5, "failurePolicy": "Ignore",
                    "matchConditions": [{"name": "x", "expression": "true"}], "reinvocationPolicy": "IfNeeded",
                    "namespaceSelector": {"matchLabels": {"k": "v"}}, "objectSelector": {"matchLabels": {"o": "p"}},
                    "rules": [], "sideEffects": "Unknown",
                    "clientConfig": {"caBundle": "Cg==", "service": {"name": "old", "namespace": "old",
                        "path": "/mutate-apps-kruise-io-v1alpha1-cloneset"}}
                }
            ]
        });
        let wanted = settle(Some(&live));
        assert_eq!(wanted["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(wanted["metadata"]["annotations"]["c"], "d");
        let [webhook] = wanted["webhooks"].as_array().unwrap().as_slice() else { panic!("{wanted}") };
        let before = &live["webhooks"][1];
        for field in TUNABLE {
            assert_eq!(webhook[field], before[field], "{field}");
        }
        assert_eq!(webhook["sideEffects"], "None");
        assert_eq!(webhook["rules"][0]["operations"], json!(["CREATE", "UPDATE"]));
        assert_eq!(webhook["clientConfig"]["caBundle"], "Q0E=");
        assert_eq!(webhook["clientConfig"]["service"]["namespace"], "ns");
        assert_eq!(webhook["clientConfig"]["service"]["path"], "/mutate-apps-kruise-io-v1alpha1-cloneset");
        let template = template_of(&wanted);
        let names: Vec<_> = template.iter().map(|entry| entry["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["mcloneset.kb.io", "mpod.kb.io"]);
        assert!(!wanted["metadata"]["annotations"]["template"].as_str().unwrap().contains("caBundle"));
    }

    #[test]
    fn entries_without_a_handler_are_left_out() {
        let wanted = desired(Configuration::Mutating, &[], None, &target(), None).unwrap();
        assert_eq!(wanted["webhooks"], json!([]));
    }

    #[test]
    fn a_tampered_bundle_is_put_back_and_an_equal_configuration_left_alone() {
        let good = settle(None);
        let mut bad = good.clone();
        bad["webhooks"][0]["clientConfig"]["caBundle"] = json!("Cg==");
        assert_eq!(settle(Some(&bad)), good);
    }

    #[test]
    fn a_host_makes_urls() {
        let by_url = Target { host: Some(("10.0.0.5".to_owned(), 9876)), ..target() };
        let wanted =
            desired(Configuration::Mutating, one_kind(), Some(&settle(None)), &by_url, None).unwrap();
        assert_eq!(
            wanted["webhooks"][0]["clientConfig"],
            json!({"caBundle": "Q0E=", "url": "https://10.0.0.5:9876/mutate-apps-kruise-io-cloneset"})
        );
        assert_eq!(desired(Configuration::Mutating, one_kind(), Some(&wanted), &by_url, None), None);
    }

    #[test]
    fn the_install_namespace_owns_the_configuration_and_an_earlier_one_no_more() {
        let owner = |uid: &str| OwnerNamespace { name: "ns".to_owned(), uid: uid.to_owned() };
        let first = desired(Configuration::Mutating, one_kind(), None, &target(), Some(&owner("1"))).unwrap();
        let again = desired(Configuration::Mutating, one_kind(), Some(&first), &target(), Some(&owner("1")));
        assert_eq!(again, None);
        let next =
            desired(Configuration::Mutating, one_kind(), Some(&first), &target(), Some(&owner("2"))).unwrap();
        let references = next["metadata"]["ownerReferences"].as_array().unwrap();
        assert_eq!(references.len(), 1);
        assert_eq!(
            (&references[0]["uid"], &references[0]["blockOwnerDeletion"]),
            (&json!("2"), &json!(false))
        );
    }

    fn crd(strategy: &str, webhook: &Value) -> Value {
        json!({"spec": {
            "group": "apps.kruise.io", "names": {"kind": "CloneSet"}, "versions": [{"name": "v1beta1"}],
            "conversion": {"strategy": strategy, "webhook": webhook}
        }})
    }

    #[test]
    fn a_crd_is_patched_to_convert_here_once() {
        for webhook in [json!({"clientConfig": {"caBundle": "Cg=="}}), json!({})] {
            let mut live = crd("Webhook", &webhook);
            if webhook == json!({}) {
                live["spec"]["conversion"].as_object_mut().unwrap().remove("webhook");
            }
            let patch = crd_patch(&live, CONVERSION_CRDS, &target()).unwrap();
            json_patch::patch(&mut live, &patch).unwrap();
            let webhook = &live["spec"]["conversion"]["webhook"];
            assert_eq!(webhook["clientConfig"]["service"]["path"], "/convert");
            assert_eq!(webhook["conversionReviewVersions"], json!(["v1", "v1beta1"]));
            assert_eq!(crd_patch(&live, CONVERSION_CRDS, &target()), None);
        }
    }

    #[test]
    fn a_crd_changed_meanwhile_refuses_the_patch() {
        let live = crd("Webhook", &json!({"clientConfig": {"caBundle": "Cg=="}}));
        let patch = crd_patch(&live, CONVERSION_CRDS, &target()).unwrap();
        for mut changed in
            [crd("None", &live["spec"]["conversion"]["webhook"]), crd("Webhook", &json!({"a": 1}))]
        {
            assert!(json_patch::patch(&mut changed, &patch).is_err());
        }
    }

    fn dropped(mark: &str) -> Value {
        let mut live = crd("None", &Value::Null);
        live["spec"]["conversion"].as_object_mut().unwrap().remove("webhook");
        live["spec"]["versions"] = json!([{"name": "v1beta1"}, {"name": "v1alpha1"}]);
        live["metadata"] = json!({"annotations": {CONVERSION_DROPPED: mark, "other": "stays"}});
        live
    }

    #[test]
    fn a_conversion_that_a_cleanup_dropped_is_restored_and_one_that_somebody_else_did_not_want_is_not() {
        let mut live = dropped("true");
        let patch = crd_patch(&live, CONVERSION_CRDS, &target()).unwrap();
        let mut changed = live.clone();
        changed["spec"]["conversion"]["strategy"] = json!("Webhook");
        assert!(json_patch::patch(&mut changed, &patch).is_err(), "somebody was faster");
        json_patch::patch(&mut live, &patch).unwrap();
        assert_eq!(live["spec"]["conversion"]["strategy"], "Webhook");
        let webhook = &live["spec"]["conversion"]["webhook"];
        assert_eq!(webhook["clientConfig"], target().client_config("/convert"));
        assert_eq!(webhook["conversionReviewVersions"], json!(["v1", "v1beta1"]));
        assert_eq!(live["metadata"]["annotations"], json!({"other": "stays"}));
        assert_eq!(crd_patch(&live, CONVERSION_CRDS, &target()), None);

        let mut unmarked = dropped("true");
        unmarked["metadata"] = json!({});
        let mut one_version = dropped("true");
        one_version["spec"]["versions"] = json!([{"name": "v1beta1"}]);
        let mut unknown = dropped("true");
        unknown["spec"]["names"]["kind"] = json!("Other");
        for live in [unmarked, one_version, unknown, dropped("false")] {
            assert_eq!(crd_patch(&live, CONVERSION_CRDS, &target()), None, "{live}");
        }
    }

    #[test]
    fn a_mark_goes_when_the_conversion_is_there_again() {
        let mut live = dropped("true");
        live["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
            "clientConfig": target().client_config("/convert"), "conversionReviewVersions": ["v1", "v1beta1"]
        }});
        let before = live["spec"].clone();
        let patch = crd_patch(&live, CONVERSION_CRDS, &target()).unwrap();
        json_patch::patch(&mut live, &patch).unwrap();
        assert_eq!((&live["spec"], &live["metadata"]["annotations"]), (&before, &json!({"other": "stays"})));
    }

    #[test]
    fn other_crds_are_never_touched() {
        let mut unknown = crd("Webhook", &json!({}));
        unknown["spec"]["names"]["kind"] = json!("Other");
        let mut version = crd("Webhook", &json!({}));
        version["spec"]["versions"][0]["name"] = json!("v2");
        for live in [crd("None", &json!({})), unknown, version, json!({})] {
            assert_eq!(crd_patch(&live, CONVERSION_CRDS, &target()), None);
        }
    }
}
