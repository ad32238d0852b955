use super::*;
use crate::seen::{Held, ManagerSeen, NamespaceSeen, ObjectsSeen, Ownership};

const CLONE_SETS: &str = "clonesets.apps.kruise.io";
const NODE_IMAGES: &str = "nodeimages.apps.kruise.io";

fn definition(
    of: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
) -> DefinitionSeen {
    let mut seen = DefinitionSeen::of(of).unwrap();
    seen.stored = vec![seen.storage.clone()];
    seen
}

fn objects(count: usize) -> ObjectsSeen {
    let first = (0..count.min(5)).map(|number| format!("default/web-{number}")).collect();
    ObjectsSeen { count, first, ..ObjectsSeen::default() }
}

fn seen(clone_sets: usize) -> Seen {
    Seen {
        namespaces: vec![NamespaceSeen { name: "kruise-system".to_owned(), ..NamespaceSeen::default() }],
        definitions: vec![
            definition(&kruise_api::crd::clonesets()),
            definition(&kruise_api::crd::nodeimages()),
        ],
        objects: [(CLONE_SETS.to_owned(), objects(clone_sets)), (NODE_IMAGES.to_owned(), objects(3))].into(),
        ..Seen::default()
    }
}

fn plan_of(seen: &Seen, mode: Mode, confirmed: bool) -> Result<Cleanup, Refusal> {
    plan(seen, &Installation::default(), mode, Cascade::Background, confirmed)
}

#[test]
fn nothing_is_purged_without_consent_while_somebody_would_miss_it() {
    let refusal = plan_of(&seen(7), Mode::Purge, false).unwrap_err();
    let told = refusal.to_string();
    assert!(
        told.starts_with("there still exists some clonesets in the cluster: 7 (default/web-0, "),
        "{told}"
    );
    assert!(told.contains(", …)") && !told.contains("web-5") && !told.contains("node images"), "{told}");
    assert!(plan_of(&seen(7), Mode::Purge, true).is_ok());
    assert!(plan_of(&seen(0), Mode::Purge, false).is_ok(), "node images are nobody's");
    for mode in [Mode::Keep, Mode::Orphan] {
        assert!(plan_of(&seen(7), mode, false).is_ok());
    }
}

#[test]
fn what_could_not_be_listed_is_not_purged_without_consent() {
    let mut blind = seen(0);
    blind.objects.remove(CLONE_SETS);
    blind.unlisted.insert(CLONE_SETS.to_owned(), "conversion webhook failed".to_owned());
    assert!(matches!(plan_of(&blind, Mode::Purge, false), Err(Refusal::Unreadable { .. })));
    let steps = plan_of(&blind, Mode::Purge, true).unwrap().steps;
    let at = |step: &Step| steps.iter().position(|one| one == step).unwrap();
    let drop = at(&drop_conversion(true));
    let list = at(&Step::RemoveFinalizers(CLONE_SETS.to_owned()));
    assert!(drop < list, "with the conversion dead nothing can be listed: {steps:?}");
}

#[test]
fn whoever_cannot_see_what_there_is_of_kruise_calls_nothing_clean_and_removes_nothing() {
    for what in
        ["customresourcedefinitions", "validatingwebhookconfigurations", "mutatingwebhookconfigurations"]
    {
        let unreadable = vec![(what.to_owned(), "try again".to_owned())];
        let blind = Seen { unreadable: unreadable.clone(), ..Seen::default() };
        assert_eq!(check(&blind, Some(true)), Check::Unknown(unreadable));
        for mode in [Mode::Keep, Mode::Orphan, Mode::Purge] {
            let refused = plan_of(&blind, mode, true).unwrap_err();
            assert!(matches!(&refused, Refusal::Unreadable { what: told, .. } if told == what), "{refused}");
        }
    }
    let elsewhere = vec![("Lease kruise-system/kruise-manager".to_owned(), "no".to_owned())];
    assert!(plan_of(&Seen { unreadable: elsewhere, ..seen(1) }, Mode::Keep, false).is_ok());
}

fn drop_conversion(anyway: bool) -> Step {
    Step::DropConversion { definition: CLONE_SETS.to_owned(), anyway }
}

#[test]
fn webhooks_go_first_and_once_more_when_the_manager_is_gone() {
    let mut running = seen(0);
    running.manager = ManagerSeen { leader: Some("m".to_owned()), replicas: Some(2) };
    running.configurations = Configuration::ALL
        .map(|configuration| crate::seen::ConfigurationSeen {
            configuration,
            name: configuration.name().to_owned(),
            uid: String::new(),
            entries: Vec::new(),
            owners: Vec::new(),
            ownership: Ownership::default(),
        })
        .to_vec();
    let steps = plan_of(&running, Mode::Keep, false).unwrap().steps;
    let delete = |configuration: Configuration| {
        Step::DeleteConfiguration(configuration, configuration.name().to_owned())
    };
    let both = Configuration::ALL.map(delete);
    assert_eq!(steps[..2], both);
    assert_eq!(steps[2], Step::StopManager);
    assert_eq!(steps[3..5], both);
    assert!(!plan_of(&seen(0), Mode::Keep, false).unwrap().steps.contains(&Step::StopManager));
}

#[test]
fn kept_objects_stay_readable_unless_some_are_stored_in_an_old_version() {
    let drop = drop_conversion(false);
    let kept = plan_of(&seen(1), Mode::Keep, false).unwrap();
    assert!(kept.steps.contains(&drop) && kept.warnings.is_empty());
    let mut old = seen(1);
    old.definitions[0].stored.insert(0, "v1alpha1".to_owned());
    let kept = plan_of(&old, Mode::Keep, false).unwrap();
    assert!(!kept.steps.contains(&drop));
    assert!(kept.warnings[0].contains("v1alpha1") && kept.warnings[0].contains("crds migrate"), "{kept:?}");
    assert!(
        plan_of(&old, Mode::Purge, true).unwrap().steps.contains(&drop_conversion(true)),
        "they only have to go"
    );
    old.manager.leader = Some("m".to_owned());
    let migrated = plan_of(&old, Mode::Keep, false).unwrap();
    assert_eq!(migrated.steps[0], Step::Migrate(CLONE_SETS.to_owned()), "while somebody converts them");
    assert!(migrated.steps.contains(&drop) && migrated.warnings.is_empty(), "{migrated:?}");
    assert!(!plan_of(&old, Mode::Purge, true).unwrap().steps.contains(&Step::Migrate(CLONE_SETS.to_owned())));
}

#[test]
fn finalizers_come_off_unless_objects_are_kept() {
    let mut finalized = seen(1);
    let held = Held {
        namespace: None,
        name: "web".to_owned(),
        uid: String::new(),
        resource_version: String::new(),
        deleting: false,
        others: Vec::new(),
    };
    finalized.objects.get_mut(CLONE_SETS).unwrap().held.push(held);
    let remove = Step::RemoveFinalizers(CLONE_SETS.to_owned());
    let kept = plan_of(&finalized, Mode::Keep, false).unwrap();
    assert!(!kept.steps.contains(&remove) && kept.warnings[0].contains("--mode=orphan"), "{kept:?}");
    for mode in [Mode::Orphan, Mode::Purge] {
        assert!(plan_of(&finalized, mode, true).unwrap().steps.contains(&remove), "{mode:?}");
    }
    assert!(!plan_of(&seen(1), Mode::Orphan, true).unwrap().steps.contains(&remove));
}

#[test]
fn objects_go_before_their_definitions_and_only_in_a_purge() {
    let deletes = |step: &Step| matches!(step, Step::DeleteDefinition(_) | Step::DeleteObjects(..));
    for mode in [Mode::Keep, Mode::Orphan] {
        assert!(!plan_of(&seen(1), mode, true).unwrap().steps.iter().any(deletes));
    }
    let steps = plan_of(&seen(1), Mode::Purge, true).unwrap().steps;
    let order: Vec<bool> = steps
        .iter()
        .filter(|step| deletes(step))
        .map(|step| matches!(step, Step::DeleteDefinition(_)))
        .collect();
    assert_eq!(order, [false, false, true, true]);
}

#[test]
fn an_uninstall_is_at_risk_where_helm_deletes_definitions_with_objects() {
    let owned = |kept| Ownership { managed: true, release: None, kept };
    assert_eq!(check(&seen(0), None), Check::Clean);
    let mut some = seen(1);
    assert!(matches!(check(&some, Some(false)), Check::Kept(_)), "not Helm's");
    some.definitions[0].ownership = owned(true);
    assert!(matches!(check(&some, None), Check::Kept(_)));
    assert!(
        matches!(check(&some, Some(false)), Check::AtRisk(_)),
        "annotated by hand, which Helm does not look at"
    );
    some.definitions[0].ownership = owned(false);
    assert!(matches!(check(&some, Some(true)), Check::Kept(_)), "the annotation was taken off by hand");
    let Check::AtRisk(risked) = check(&some, None) else { panic!() };
    assert_eq!((risked[0].said, risked[0].count), ("clonesets", 1));
    some.objects.remove(CLONE_SETS);
    some.unlisted.insert(CLONE_SETS.to_owned(), "no".to_owned());
    let unknown = vec![(format!("objects of {CLONE_SETS}"), "no".to_owned())];
    assert_eq!(check(&some, Some(false)), Check::Unknown(unknown));
}
