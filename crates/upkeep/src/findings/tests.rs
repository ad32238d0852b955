use std::collections::BTreeSet;

use super::*;
use crate::seen::{EntrySeen, ManagerSeen, ObjectsSeen, ServiceSeen};

const DEFINITION: &str = "clonesets.apps.kruise.io";

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn service(namespace: &str) -> ServiceName {
    ServiceName { namespace: namespace.to_owned(), name: "kruise-webhook-service".to_owned() }
}

fn namespace() -> NamespaceSeen {
    NamespaceSeen {
        name: "kruise-system".to_owned(),
        uid: "u1".to_owned(),
        labels: [(NAMESPACE_LABEL.to_owned(), NAMESPACE_LABEL_VALUE.to_owned())].into(),
        ..NamespaceSeen::default()
    }
}

fn configuration() -> ConfigurationSeen {
    let configuration = Configuration::Mutating;
    ConfigurationSeen {
        configuration,
        name: configuration.name().to_owned(),
        uid: "c1".to_owned(),
        entries: vec![entry("kruise-system"), entry("kruise-system")],
        owners: vec![("kruise-system".to_owned(), "u1".to_owned())],
        ownership: Ownership::default(),
    }
}

fn entry(namespace: &str) -> EntrySeen {
    EntrySeen {
        name: "mpod.kb.io".to_owned(),
        backend: Some(Backend::Service(service(namespace))),
        fails: true,
        about_pods: true,
        trusts: String::new(),
    }
}

fn definition() -> DefinitionSeen {
    let mut seen = DefinitionSeen::of(&kruise_api::crd::clonesets()).unwrap();
    seen.stored = vec!["v1beta1".to_owned()];
    seen.established = true;
    seen
}

/// An installation that works.
fn healthy() -> Seen {
    Seen {
        namespaces: vec![namespace()],
        configurations: vec![configuration()],
        services: [(service("kruise-system"), ServiceSeen { ready: 1 })].into(),
        definitions: vec![definition()],
        objects: [(DEFINITION.to_owned(), ObjectsSeen::default())].into(),
        manager: ManagerSeen { leader: Some("m1".to_owned()), replicas: Some(1) },
        ..Seen::default()
    }
}

fn held(deleting: bool) -> Held {
    Held {
        namespace: Some("default".to_owned()),
        name: "job".to_owned(),
        uid: "o1".to_owned(),
        resource_version: "7".to_owned(),
        deleting,
        others: vec!["example.com/theirs".to_owned()],
    }
}

fn found(seen: &Seen) -> Vec<Finding> {
    findings(seen, &Installation::default(), now())
}

/// The only finding: how bad it is, a part of what it says, and how many repairs it has.
#[track_caller]
fn only(seen: &Seen, severity: Severity, part: &str) -> Vec<Repair> {
    let found = found(seen);
    let [one] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!(one.severity, severity, "{one:#?}");
    assert!(one.problem.contains(part), "{one:#?}");
    assert!(!one.remedy.is_empty());
    one.repairs.clone()
}

#[test]
fn a_working_installation_and_an_empty_cluster_are_clean() {
    assert_eq!(found(&healthy()), []);
    assert_eq!(found(&Seen::default()), []);
    assert_eq!(Verdict::of(&[], false).exit_code(), 0);
}

#[test]
fn a_configuration_that_outlived_its_service_is_deleted() {
    let seen = Seen { services: [].into(), definitions: Vec::new(), ..healthy() };
    let repairs = only(&seen, Severity::Repairable, "does not exist: every creation of a pod");
    let delete = Repair::DeleteConfiguration {
        configuration: Configuration::Mutating,
        name: Configuration::Mutating.name().to_owned(),
        uid: "c1".to_owned(),
    };
    assert_eq!(repairs, [delete]);
    assert_eq!(Verdict::of(&found(&seen), false).exit_code(), 3);
}

#[test]
fn a_configuration_tells_what_fails_without_an_answer() {
    for (fails, about_pods, told) in [
        (true, true, "every creation of a pod"),
        (true, false, "every write of Kruise's objects"),
        (false, true, "unchecked after their timeout"),
    ] {
        let mut seen = Seen { services: [].into(), definitions: Vec::new(), ..healthy() };
        for entry in &mut seen.configurations[0].entries {
            (entry.fails, entry.about_pods) = (fails, about_pods);
        }
        only(&seen, Severity::Repairable, told);
    }
}

#[test]
fn a_manager_that_does_not_answer_is_for_a_human_and_says_what_to_start() {
    for (replicas, told) in
        [(None, "install the manager"), (Some(0), "scale the manager up"), (Some(2), "see why")]
    {
        let mut seen = Seen { definitions: Vec::new(), ..healthy() };
        seen.services.insert(service("kruise-system"), ServiceSeen { ready: 0 });
        seen.manager = ManagerSeen { leader: None, replicas };
        assert_eq!(only(&seen, Severity::NeedsManager, "nothing is ready"), []);
        let verdict = Verdict::of(&found(&seen), false);
        assert_eq!((verdict.exit_code(), verdict.exit_code_before_install()), (4, 0));
        let found = found(&seen);
        assert!(
            found[0].remedy.contains(told) && found[0].remedy.contains("cleanup --mode=keep"),
            "{found:?}"
        );
        assert_eq!(Verdict::of(&found, false).exit_code(), 4);
    }
}

#[test]
fn a_configuration_of_another_namespace_goes_unless_another_kruise_answers_there() {
    let mut seen = healthy();
    seen.configurations[0].entries = vec![entry("old-system")];
    seen.services.insert(service("old-system"), ServiceSeen { ready: 0 });
    assert_eq!(only(&seen, Severity::Repairable, "nothing runs").len(), 1);
    seen.services.insert(service("old-system"), ServiceSeen { ready: 1 });
    assert_eq!(only(&seen, Severity::Human, "another Kruise answers"), []);
}

#[test]
fn a_configuration_restored_from_another_cluster_is_adopted_at_the_next_start() {
    let mut seen = healthy();
    seen.configurations[0].owners = vec![("kruise-system".to_owned(), "of another cluster".to_owned())];
    only(&seen, Severity::HealsAtStart, "garbage collector");
    assert_eq!(Verdict::of(&found(&seen), false).exit_code(), 3);
    assert_eq!(Verdict::of(&found(&seen), true).exit_code(), 0);
}

#[test]
fn an_authority_of_an_earlier_installation_is_told_where_it_is_trusted() {
    let made = certs::generate(None, "kruise-webhook-service.kruise-system.svc", now(), false).unwrap();
    let other = certs::generate(None, "kruise-webhook-service.kruise-system.svc", now(), false).unwrap();
    let encode = |pem: &[u8]| base64::engine::general_purpose::STANDARD.encode(pem);
    let mut seen = healthy();
    seen.certificate = Some(crate::seen::CertificateSeen {
        chain: made[certs::SERVER_CERT].clone(),
        host: "kruise-webhook-service.kruise-system.svc".to_owned(),
    });
    let mut trust = |bundle: &str| {
        for entry in &mut seen.configurations[0].entries {
            bundle.clone_into(&mut entry.trusts);
        }
        let ConversionSeen::Webhook { trusts, .. } = &mut seen.definitions[0].conversion else {
            unreachable!()
        };
        bundle.clone_into(trusts);
        found(&seen)
    };
    assert_eq!(trust(&encode(&made[certs::CA_CERT])), []);
    let both = [made[certs::CA_CERT].clone(), other[certs::CA_CERT].clone()].concat();
    assert_eq!(trust(&encode(&both)), []);
    for wrong in [encode(&other[certs::CA_CERT]), "Cg==".to_owned(), String::new()] {
        let told = trust(&wrong);
        assert_eq!(told.len(), 2, "{told:#?}");
        assert!(told.iter().all(|one| one.severity == Severity::HealsAtStart), "{told:#?}");
    }
}

#[test]
fn a_dead_conversion_is_pointed_here_and_dropped_where_objects_only_have_to_go() {
    let mut seen = Seen { configurations: Vec::new(), services: [].into(), ..healthy() };
    let point = Repair::PointConversion { definition: DEFINITION.to_owned() };
    assert_eq!(only(&seen, Severity::HealsAtStart, "does not exist"), [point]);

    seen.definitions[0].deleting = true;
    let told = found(&seen);
    assert_eq!(told.len(), 2, "{told:#?}");
    assert_eq!((told[0].severity, told[0].repairs.len()), (Severity::Repairable, 1));
    assert!(matches!(told[0].repairs[0], Repair::DropConversion { .. }));
}

#[test]
fn a_dead_conversion_of_a_kind_that_is_not_built_is_dropped_if_nothing_old_is_stored() {
    let mut seen = Seen { configurations: Vec::new(), services: [].into(), ..healthy() };
    seen.definitions[0].name = "sidecarsets.apps.kruise.io".to_owned();
    seen.definitions[0].kind = "SidecarSet".to_owned();
    let repairs = only(&seen, Severity::Repairable, "does not convert SidecarSet");
    assert!(matches!(repairs[..], [Repair::DropConversion { .. }]));
    seen.definitions[0].stored.insert(0, "v1alpha1".to_owned());
    assert_eq!(only(&seen, Severity::Human, "may be stored as v1alpha1"), []);
}

#[test]
fn definitions_of_another_installation_are_upgraded() {
    let apply = [Repair::ApplyDefinition { definition: DEFINITION.to_owned() }];
    let mut old = healthy();
    old.definitions[0].served = BTreeSet::from(["v1alpha1".to_owned()]);
    old.definitions[0].conversion = ConversionSeen::Relabel;
    assert_eq!(only(&old, Severity::Repairable, "does not serve v1beta1"), apply);

    let mut stored = healthy();
    stored.definitions[0].storage = "v1alpha1".to_owned();
    stored.definitions[0].stored = vec!["v1alpha1".to_owned()];
    assert_eq!(only(&stored, Severity::Repairable, "stores v1alpha1"), apply);

    let mut relabelled = healthy();
    relabelled.definitions[0].conversion = ConversionSeen::Relabel;
    assert_eq!(only(&relabelled, Severity::Repairable, "rewriting apiVersion alone"), apply);

    let mut converted = healthy();
    let pull_jobs = DefinitionSeen::of(&kruise_api::crd::imagepulljobs()).unwrap();
    let conversion = converted.definitions[0].conversion.clone();
    converted.definitions = vec![DefinitionSeen { conversion, ..pull_jobs }];
    let apply = [Repair::ApplyDefinition { definition: "imagepulljobs.apps.kruise.io".to_owned() }];
    assert_eq!(only(&converted, Severity::Repairable, "webhook that this build does not have"), apply);
}

#[test]
fn objects_stored_in_an_old_version_are_no_fault() {
    let mut seen = healthy();
    seen.definitions[0].stored.insert(0, "v1alpha1".to_owned());
    assert_eq!(only(&seen, Severity::Note, "stored as v1alpha1"), []);
    assert_eq!(Verdict::of(&found(&seen), false), Verdict::Clean);
}

#[test]
fn a_definition_that_is_being_deleted_is_waited_for_and_foreign_finalizers_are_for_a_human() {
    let mut seen = healthy();
    seen.definitions[0].deleting = true;
    only(&seen, Severity::HealsAtStart, "0 objects are left");
    seen.definitions[0].foreign_finalizers = vec!["example.com/theirs".to_owned()];
    only(&seen, Severity::Human, "example.com/theirs");
}

#[test]
fn finalizers_come_off_objects_that_are_deleted_while_no_manager_leads() {
    let mut seen = healthy();
    let objects = ObjectsSeen { count: 2, held: vec![held(true), held(false)], ..ObjectsSeen::default() };
    seen.objects.insert(DEFINITION.to_owned(), objects);
    assert_eq!(found(&seen), [], "a manager sees to them");
    seen.manager.leader = None;
    let repairs = only(&seen, Severity::Repairable, "1 objects (default/job");
    assert_eq!(repairs, [Repair::RemoveFinalizers { definition: DEFINITION.to_owned(), object: held(true) }]);
}

#[test]
fn the_own_namespace_is_labelled_and_one_that_does_not_go_is_told_with_its_reason() {
    let mut seen = healthy();
    seen.namespaces[0].labels.clear();
    let label = Repair::LabelNamespace { name: "kruise-system".to_owned() };
    assert_eq!(only(&seen, Severity::Repairable, "lacks the label"), [label]);
    seen.namespaces[0].deleting = true;
    seen.namespaces[0].held_up = vec!["Some content remains".to_owned()];
    assert_eq!(only(&seen, Severity::Human, "Some content remains"), []);
    seen.namespaces[0].name = "team-a".to_owned();
    seen.configurations.clear();
    only(&seen, Severity::Note, "Some content remains");
}

#[test]
fn what_belongs_to_another_release_is_taken_over_only_if_a_release_is_named() {
    let release = |name: &str| Release { name: name.to_owned(), namespace: "apps".to_owned() };
    let owned = |name: &str| Ownership { managed: true, release: Some(release(name)), kept: false };
    let mut seen = healthy();
    seen.configurations[0].ownership = owned("kruise");
    seen.definitions[0].ownership = owned("other");
    let installation = Installation { release: Some(release("kruise")), ..Installation::default() };
    let told = findings(&seen, &installation, now());
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].problem.contains("apps/other") && told[0].object.ends_with(DEFINITION), "{told:#?}");
    assert!(
        matches!(&told[0].repairs[..], [Repair::TakeOwnership { release, .. }] if release.name == "kruise")
    );
    seen.definitions[0].ownership = Ownership::default();
    let told = findings(&seen, &installation, now());
    assert!(told[0].problem.contains("no Helm release"), "{told:#?}");
    assert_eq!(found(&seen), []);
}

#[test]
fn an_api_server_that_cannot_reach_the_webhook_is_told_with_the_port_to_open() {
    let trial = |why: &str| Seen { trial: Trial::Refused(why.to_owned()), ..healthy() };
    let timeout = trial("failed calling webhook \"mcloneset.kb.io\": context deadline exceeded");
    only(&timeout, Severity::Human, "context deadline exceeded");
    assert!(found(&timeout)[0].remedy.contains("9876"));
    let unknown = trial("failed calling webhook: x509: certificate signed by unknown authority");
    assert!(found(&unknown)[0].remedy.contains("authority"));
    assert_eq!(found(&Seen { trial: Trial::Admitted, ..healthy() }), []);
}

#[test]
fn from_inside_the_managers_pod_the_webhooks_cannot_be_tried_and_that_is_no_fault() {
    only(&Seen { trial: Trial::NotAllowed, ..healthy() }, Severity::Note, "was not tried");
}

#[test]
fn what_cannot_be_looked_at_is_never_called_clean() {
    let unreadable = vec![("Secret kruise-system/kruise-webhook-certs".to_owned(), "forbidden".to_owned())];
    let seen = Seen { unreadable, ..healthy() };
    only(&seen, Severity::Human, "forbidden");
    let verdict = Verdict::of(&found(&seen), false);
    assert_eq!((verdict.exit_code(), verdict.exit_code_before_install()), (4, 4));
}

#[test]
fn objects_that_cannot_be_listed_stop_an_install_only_where_neither_a_manager_nor_their_kind_explains_it() {
    const CLONE_SETS: &str = "clonesets.apps.kruise.io";
    let unlisted = |name: &str| [(name.to_owned(), "forbidden".to_owned())].into();
    let foreign = Seen { unlisted: unlisted("daemonsets.apps.kruise.io"), ..healthy() };
    only(&foreign, Severity::Note, "cannot be listed: forbidden");
    let ours = Seen { unlisted: unlisted(CLONE_SETS), ..healthy() };
    only(&ours, Severity::Human, "cannot be listed: forbidden");
    // Nobody is there to convert them: the install that is about to come puts that right.
    let mut silent = Seen { unlisted: unlisted(CLONE_SETS), ..healthy() };
    silent.services.values_mut().for_each(|service| service.ready = 0);
    let found = found(&silent);
    let of = found.iter().find(|one| one.object.starts_with("objects of")).unwrap();
    assert_eq!(of.severity, Severity::HealsAtStart);
    assert_eq!(Verdict::of(&found, false).exit_code_before_install(), 0, "{found:?}");
}

#[test]
fn the_worst_is_told_first() {
    let mut seen = healthy();
    seen.definitions[0].stored.insert(0, "v1alpha1".to_owned());
    seen.namespaces[0].labels.clear();
    seen.unreadable.push(("nodes".to_owned(), "forbidden".to_owned()));
    let severities: Vec<_> = found(&seen).iter().map(|one| one.severity).collect();
    assert_eq!(severities, [Severity::Human, Severity::Repairable, Severity::Note]);
}
