use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use kruise_webhook::protection::ProtectionLog;
use kruise_webhook::review::FieldError;
use prometheus::Registry;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const OPTIONS: Options = Options {
    default_templates: true,
    host_network_ports: false,
    delete_protection: true,
    vertical_scaling: false,
};
const BOTH: [Version; 2] = [Version::V1alpha1, Version::V1beta1];

/// A set as a user writes it, with everything it needs and nothing else.
fn set() -> Value {
    json!({
        "metadata": { "name": "web", "namespace": "ns", "uid": "u1" },
        "spec": {
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "main", "image": "nginx:1" }] },
            },
        },
    })
}

fn defaulted(version: Version) -> Value {
    let mut object = set();
    default(&mut object, None, version, OPTIONS);
    object
}

/// The block that holds partition and its neighbours.
fn rolling(version: Version) -> &'static str {
    match version {
        Version::V1alpha1 => "/spec/updateStrategy",
        Version::V1beta1 => "/spec/updateStrategy/rollingUpdate",
    }
}

fn dotted(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}

fn put(object: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"))[key] = value;
}

fn changed(version: Version, changes: &[(String, Value)]) -> Value {
    let mut object = defaulted(version);
    for (pointer, value) in changes {
        put(&mut object, pointer, value.clone());
    }
    object
}

fn nobody(_: &str) -> Option<PodFacts> {
    None
}

fn texts(faults: &[FieldError]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

fn created(object: &Value, version: Version) -> Vec<String> {
    texts(&validate(object, None, version, Operation::Create, OPTIONS, &nobody))
}

#[test]
fn a_plain_set_gets_the_defaults_of_its_version() {
    let alpha = defaulted(Version::V1alpha1);
    let beta = defaulted(Version::V1beta1);
    for object in [&alpha, &beta] {
        assert_eq!(object["spec"]["replicas"], 1);
        assert_eq!(object["spec"]["revisionHistoryLimit"], 10);
        assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "Always");
    }
    assert_eq!(
        alpha["spec"]["updateStrategy"],
        json!({ "type": "ReCreate", "partition": 0, "maxUnavailable": "20%", "maxSurge": 0 })
    );
    assert_eq!(
        beta["spec"]["updateStrategy"],
        json!({ "type": "RollingUpdate", "rollingUpdate":
            { "podUpdatePolicy": "ReCreate", "partition": 0, "maxUnavailable": "20%", "maxSurge": 0 } })
    );
    assert_eq!(created(&alpha, Version::V1alpha1), [""; 0]);
    assert_eq!(created(&beta, Version::V1beta1), [""; 0]);
}

#[test]
fn in_place_policies_get_a_strategy_and_on_delete_gets_no_rolling_update() {
    for policy in ["InPlaceIfPossible", "InPlaceOnly"] {
        let mut alpha = set();
        alpha["spec"]["updateStrategy"] = json!({ "type": policy });
        default(&mut alpha, None, Version::V1alpha1, OPTIONS);
        assert_eq!(alpha["spec"]["updateStrategy"]["inPlaceUpdateStrategy"], json!({}));
        let mut beta = set();
        beta["spec"]["updateStrategy"] = json!({ "rollingUpdate": { "podUpdatePolicy": policy } });
        default(&mut beta, None, Version::V1beta1, OPTIONS);
        assert_eq!(beta["spec"]["updateStrategy"]["rollingUpdate"]["inPlaceUpdateStrategy"], json!({}));
    }
    let mut beta = set();
    beta["spec"]["updateStrategy"] = json!({ "type": "OnDelete" });
    default(&mut beta, None, Version::V1beta1, OPTIONS);
    assert_eq!(beta["spec"]["updateStrategy"], json!({ "type": "OnDelete" }));
    assert_eq!(created(&beta, Version::V1beta1), [""; 0]);
}

#[test]
fn an_update_defaults_the_template_only_if_it_changed() {
    for version in BOTH {
        let old = set();
        let mut same = set();
        default(&mut same, Some(&old), version, OPTIONS);
        assert_eq!(same["spec"]["template"], old["spec"]["template"]);
        let mut new = set();
        new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("nginx:2");
        default(&mut new, Some(&old), version, OPTIONS);
        assert_eq!(new["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
    }
}

#[test]
fn the_gate_turns_template_defaults_off() {
    let mut object = set();
    default(&mut object, None, Version::V1beta1, Options { default_templates: false, ..OPTIONS });
    assert_eq!(object["spec"]["template"], set()["spec"]["template"]);
    assert_eq!(object["spec"]["replicas"], 1);
}

#[test]
fn claims_are_defaulted_on_create_and_when_they_change() {
    let mut object = set();
    object["spec"]["volumeClaimTemplates"] = json!([{ "metadata": { "name": "data" } }]);
    let stored = object.clone();
    default(&mut object, None, Version::V1beta1, OPTIONS);
    assert_eq!(object["spec"]["volumeClaimTemplates"][0]["status"]["phase"], "Pending");
    let mut again = stored.clone();
    default(&mut again, Some(&stored), Version::V1beta1, OPTIONS);
    assert_eq!(again["spec"]["volumeClaimTemplates"], stored["spec"]["volumeClaimTemplates"]);
}

#[test]
fn every_rule_names_its_field_and_says_why() {
    const PERCENT: &str = "must be an integer or a percentage (e.g '5%')";
    for version in BOTH {
        let at = |field: &str| format!("{}/{field}", rolling(version));
        let path = |field: &str| dotted(&at(field));
        let spec = |field: &str| format!("/spec/{field}");
        let one = |pointer: String, value: Value| vec![(pointer, value)];
        let rows: Vec<(Vec<(String, Value)>, String)> = vec![
            (
                one("/metadata/name".into(), json!("")),
                "metadata.name: Required value: name or generateName is required".into(),
            ),
            (
                one("/metadata/labels".into(), json!({ "a": "-" })),
                format!("metadata.labels: Invalid value: \"-\": {}", labels::label_value_fault("-").unwrap()),
            ),
            (
                one(spec("replicas"), json!(-1)),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0".into(),
            ),
            (one(spec("selector"), json!(null)), "spec.selector: Required value".into()),
            (
                one(spec("selector"), json!({})),
                "spec.selector: Invalid value: {}: empty selector is invalid for cloneset".into(),
            ),
            (
                one(spec("selector"), json!({ "matchExpressions": [{ "key": "a", "operator": "In" }] })),
                "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is \
                 'In' or 'NotIn'"
                    .into(),
            ),
            (
                one(spec("selector"), json!({ "matchExpressions": [{ "key": "a", "operator": "Like" }] })),
                "spec.selector.matchExpressions[0].operator: Invalid value: \"Like\": not a valid selector operator"
                    .into(),
            ),
            (one(spec("template"), json!(null)), "spec.template: Required value".into()),
            (
                one(spec("template/metadata/labels"), json!({ "app": "other" })),
                "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match \
                 template `labels`"
                    .into(),
            ),
            (
                one(spec("template/spec/restartPolicy"), json!("Never")),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"".into(),
            ),
            (
                one(spec("template/spec/activeDeadlineSeconds"), json!(5)),
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in cloneset is not \
                 Supported"
                    .into(),
            ),
            (
                one(spec("scaleStrategy"), json!({ "maxUnavailable": "lots" })),
                format!("spec.scaleStrategy.maxUnavailable: Invalid value: \"lots\": {PERCENT}"),
            ),
            (one(at("partition"), json!(null)), format!("{}: Invalid value: null: {PERCENT}", path("partition"))),
            (one(at("partition"), json!("5")), format!("{}: Invalid value: \"5\": {PERCENT}", path("partition"))),
            (
                one(at("partition"), json!("-5%")),
                format!(
                    "{}: Invalid value: \"-5%\": must be greater than or equal to 0",
                    path("partition")
                ),
            ),
            (
                one(at("maxUnavailable"), json!("5")),
                format!("{}: Invalid value: \"5\": {PERCENT}", path("maxUnavailable")),
            ),
            (one(at("maxSurge"), json!("x%")), format!("{}: Invalid value: \"x%\": {PERCENT}", path("maxSurge"))),
            (
                one(at("maxUnavailable"), json!(0)),
                format!(
                    "{}: Invalid value: 0: maxUnavailable and maxSurge should not both be less than 1",
                    path("maxUnavailable")
                ),
            ),
            (
                one(
                    at("priorityStrategy"),
                    json!({ "orderPriority": [{ "orderedKey": "a" }],
                        "weightPriority": [{ "weight": 1, "matchSelector": { "matchLabels": { "a": "b" } } }] }),
                ),
                format!(
                    "{}: Required value: only one of weightPriority and orderPriority can be used",
                    path("priorityStrategy")
                ),
            ),
            (
                one(
                    at("priorityStrategy"),
                    json!({ "weightPriority": [{ "weight": 101, "matchSelector": { "matchLabels": { "a": "b" } } }] }),
                ),
                format!(
                    "{}.weightPriority[0].weight: Required value: weight must be valid and in the range 0-100",
                    path("priorityStrategy")
                ),
            ),
            (
                one(at("priorityStrategy"), json!({ "weightPriority": [{ "weight": 1, "matchSelector": {} }] })),
                format!(
                    "{}.weightPriority[0].matchSelector: Required value: selector can not be empty",
                    path("priorityStrategy")
                ),
            ),
            (
                one(at("priorityStrategy"), json!({ "orderPriority": [{ "orderedKey": "" }] })),
                format!(
                    "{}.orderPriority[0].orderedKey: Required value: orderedKey can not be empty",
                    path("priorityStrategy")
                ),
            ),
            (
                one(at("scatterStrategy"), json!([{ "key": "", "value": "b" }])),
                format!("{}[0].key: Required value: key can not be empty", path("scatterStrategy")),
            ),
            (
                one(at("scatterStrategy"), json!([{ "key": "a", "value": "b" }, { "key": "a", "value": "b" }])),
                format!("{}[1]: Required value: duplicated scatter term a=b", path("scatterStrategy")),
            ),
            (
                one(spec("progressDeadlineSeconds"), json!(-1)),
                "spec.progressDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0".into(),
            ),
            (
                vec![(spec("progressDeadlineSeconds"), json!(10)), (spec("minReadySeconds"), json!(10))],
                "spec.progressDeadlineSeconds: Invalid value: 10: must be greater than minReadySeconds".into(),
            ),
        ];
        for (changes, want) in rows {
            assert_eq!(created(&changed(version, &changes), version), [want], "{version:?} {changes:?}");
        }
    }
}

#[test]
fn names_are_dns_subdomains() {
    for version in BOTH {
        for (name, good) in [("web", true), ("a.b-1", true), ("Web", false), ("-a", false), ("a..b", false)] {
            let found = created(&changed(version, &[("/metadata/name".into(), json!(name))]), version);
            assert_eq!(found.is_empty(), good, "{name}: {found:?}");
            assert!(found.iter().all(|text| text.starts_with("metadata.name: Invalid value: ")));
        }
        let generated =
            [("/metadata/name".into(), json!("")), ("/metadata/generateName".into(), json!("web-"))];
        assert_eq!(created(&changed(version, &generated), version), [""; 0]);
    }
}

#[test]
fn update_types_and_policies_are_checked_in_their_own_field() {
    let alpha = |kind: &str| {
        created(
            &changed(Version::V1alpha1, &[("/spec/updateStrategy/type".into(), json!(kind))]),
            Version::V1alpha1,
        )
    };
    for kind in ["ReCreate", "InPlaceIfPossible", "InPlaceOnly", "OnDelete"] {
        assert_eq!(alpha(kind), [""; 0]);
    }
    assert_eq!(
        alpha("RollingUpdate"),
        ["spec.updateStrategy.type: Invalid value: \"RollingUpdate\": must be ReCreate, InPlaceIfPossible, \
          InPlaceOnly or OnDelete"]
    );
    let beta = |pointer: &str, kind: &str| {
        created(&changed(Version::V1beta1, &[(pointer.to_owned(), json!(kind))]), Version::V1beta1)
    };
    for kind in ["", "RollingUpdate", "OnDelete"] {
        assert_eq!(beta("/spec/updateStrategy/type", kind), [""; 0]);
    }
    assert_eq!(
        beta("/spec/updateStrategy/type", "ReCreate"),
        ["spec.updateStrategy.type: Invalid value: \"ReCreate\": must be RollingUpdate or OnDelete"]
    );
    for kind in ["", "ReCreate", "InPlaceIfPossible", "InPlaceOnly"] {
        assert_eq!(beta("/spec/updateStrategy/rollingUpdate/podUpdatePolicy", kind), [""; 0]);
    }
    assert_eq!(
        beta("/spec/updateStrategy/rollingUpdate/podUpdatePolicy", "x"),
        ["spec.updateStrategy.rollingUpdate.podUpdatePolicy: Invalid value: \"x\": must be ReCreate, \
          InPlaceIfPossible or InPlaceOnly"]
    );
}

#[test]
fn on_delete_with_a_rolling_update_needs_partition_and_max_unavailable() {
    let object = changed(
        Version::V1beta1,
        &[("/spec/updateStrategy".into(), json!({ "type": "OnDelete", "rollingUpdate": {} }))],
    );
    assert_eq!(created(&object, Version::V1beta1).len(), 2);
}

#[test]
fn surge_is_refused_in_place_only() {
    for version in BOTH {
        let policy = match version {
            Version::V1alpha1 => "type",
            Version::V1beta1 => "podUpdatePolicy",
        };
        let at = |field: &str| format!("{}/{field}", rolling(version));
        for (surge, good) in [(json!(0), true), (json!("0%"), true), (json!(1), false), (json!("1%"), false)]
        {
            let object =
                changed(version, &[(at(policy), json!("InPlaceOnly")), (at("maxSurge"), surge.clone())]);
            let found = created(&object, version);
            let want = format!(
                "{}: Invalid value: {surge}: can not use maxSurge with InPlaceOnly",
                dotted(&at("maxSurge"))
            );
            assert_eq!(found, if good { vec![] } else { vec![want] });
        }
    }
}

#[test]
fn unavailability_and_surge_may_not_both_be_zero() {
    for version in BOTH {
        let at = |field: &str| format!("{}/{field}", rolling(version));
        for (replicas, down, up, good) in [
            (5, json!(0), json!(0), false),
            (5, json!(0), json!(1), true),
            (5, json!("0%"), json!("0%"), false),
            (5, json!("0%"), json!("1%"), true),
            (5, json!("0.5%"), json!(0), true),
            (0, json!(0), json!(0), true),
            (5, json!("12.5%"), json!(null), true),
        ] {
            let changes = [
                ("/spec/replicas".to_owned(), json!(replicas)),
                (at("maxUnavailable"), down.clone()),
                (at("maxSurge"), up.clone()),
            ];
            let found = created(&changed(version, &changes), version);
            assert_eq!(found.is_empty(), good, "{version:?} {down} {up}: {found:?}");
        }
    }
}

#[test]
fn a_progress_deadline_of_the_largest_number_is_none() {
    for version in BOTH {
        let changes = [
            ("/spec/progressDeadlineSeconds".to_owned(), json!(i32::MAX)),
            ("/spec/minReadySeconds".to_owned(), json!(i32::MAX)),
        ];
        assert_eq!(created(&changed(version, &changes), version), [""; 0]);
    }
}

#[test]
fn pre_download_settings_are_checked_where_they_are_used() {
    let rows = [
        (
            json!({ "imagePreDownloadParallelism": "50%" }),
            "imagePreDownloadParallelism: Invalid value: \"50%\": must be a non-negative integer, percentages are not supported",
        ),
        (
            json!({ "imagePreDownloadParallelism": -1 }),
            "imagePreDownloadParallelism: Invalid value: -1: must be a non-negative integer, percentages are not supported",
        ),
        (
            json!({ "imagePreDownloadTimeoutSeconds": -1 }),
            "imagePreDownloadTimeoutSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            json!({ "imagePreDownloadMinUpdatedReadyPods": -1 }),
            "imagePreDownloadMinUpdatedReadyPods: Invalid value: -1: must be greater than or equal to 0",
        ),
    ];
    for (settings, want) in rows {
        let place = |version| format!("{}/inPlaceUpdateStrategy", rolling(version));
        let beta = changed(Version::V1beta1, &[(place(Version::V1beta1), settings.clone())]);
        let want = format!("spec.updateStrategy.rollingUpdate.inPlaceUpdateStrategy.{want}");
        assert_eq!(created(&beta, Version::V1beta1), [want]);
        let alpha = changed(Version::V1alpha1, &[(place(Version::V1alpha1), settings)]);
        assert_eq!(created(&alpha, Version::V1alpha1), [""; 0], "ignored in v1alpha1");
    }
}

#[test]
fn pods_to_delete_are_distinct_and_new_ones_belong_to_the_set() {
    let lookup = |name: &str| {
        let pod =
            |terminating, uid: &str| Some(PodFacts { terminating, controller_uid: Some(uid.to_owned()) });
        match name {
            "mine" => pod(false, "u1"),
            "going" => pod(true, "u1"),
            "theirs" => pod(false, "u2"),
            _ => None,
        }
    };
    for version in BOTH {
        let with = |names: Value| {
            changed(version, &[("/spec/scaleStrategy".into(), json!({ "podsToDelete": names }))])
        };
        let old = with(json!(["stale"]));
        for (names, want) in [
            (json!(["mine", "stale"]), None),
            (json!(["mine", "mine"]), Some("[\"mine\",\"mine\"]: duplicated items [mine]")),
            (json!(["gone"]), Some("\"gone\": pod gone is not found")),
            (json!(["going"]), Some("\"going\": pod going is terminating")),
            (json!(["theirs"]), Some("\"theirs\": pod theirs is not controlled by this cloneset")),
        ] {
            let found =
                texts(&validate(&with(names), Some(&old), version, Operation::Update, OPTIONS, &lookup));
            let want: Vec<String> = want
                .map(|text| format!("spec.scaleStrategy.podsToDelete: Invalid value: {text}"))
                .into_iter()
                .collect();
            assert_eq!(found, want);
        }
    }
}

#[test]
fn only_the_listed_fields_may_change() {
    for version in BOTH {
        let old = defaulted(version);
        let mut moved = old.clone();
        moved["spec"]["selector"] = json!({ "matchLabels": { "app": "web" }, "matchExpressions": [{ "key": "app", "operator": "Exists" }] });
        let found = texts(&validate(&moved, Some(&old), version, Operation::Update, OPTIONS, &nobody));
        assert_eq!(found.len(), 1);
        assert!(
            found[0]
                .starts_with("spec: Forbidden: updates to cloneset spec for fields other than 'replicas'")
        );

        let mut same = old.clone();
        same["spec"]["selector"]["matchExpressions"] = json!([]);
        same["spec"]["replicas"] = json!(9);
        same["spec"]["minReadySeconds"] = json!(9);
        same["spec"]["lifecycle"] = json!({});
        same["spec"]["revisionHistoryLimit"] = json!(1);
        same["spec"]["volumeClaimTemplates"] = json!([]);
        assert_eq!(
            texts(&validate(&same, Some(&old), version, Operation::Update, OPTIONS, &nobody)),
            [""; 0]
        );
    }
}

#[test]
fn in_place_only_takes_new_images_and_metadata_but_nothing_else() {
    for version in BOTH {
        let mut old = set();
        old["spec"]["updateStrategy"] = match version {
            Version::V1alpha1 => json!({ "type": "InPlaceOnly" }),
            Version::V1beta1 => json!({ "rollingUpdate": { "podUpdatePolicy": "InPlaceOnly" } }),
        };
        let update = |pointer: &str, value: Value| {
            let mut new = old.clone();
            put(&mut new, pointer, value);
            default(&mut new, Some(&old), version, OPTIONS);
            texts(&validate(&new, Some(&old), version, Operation::Update, OPTIONS, &nobody))
        };
        assert_eq!(update("/spec/template/spec/containers/0/image", json!("nginx:2")), [""; 0]);
        assert_eq!(update("/spec/template/metadata/annotations", json!({ "a": "b" })), [""; 0]);
        let refused = ["spec.template: Forbidden: only allowed to update images in spec for InPlaceOnly"];
        assert_eq!(
            update("/spec/template/spec/containers/0/env", json!([{ "name": "A", "value": "1" }])),
            refused
        );
        let two = json!([{ "name": "main", "image": "nginx:1" }, { "name": "b", "image": "b" }]);
        assert_eq!(update("/spec/template/spec/containers", two), refused);
        assert_eq!(update("/spec/template/spec/nodeName", json!("n")), refused);
    }
}

#[test]
fn in_place_only_takes_new_cpu_and_memory_where_pods_can_be_resized() {
    const RESOURCES: &str = "/spec/template/spec/containers/0/resources";
    let options = Options { vertical_scaling: true, ..OPTIONS };
    for version in BOTH {
        let mut old = set();
        old["spec"]["updateStrategy"] = match version {
            Version::V1alpha1 => json!({ "type": "InPlaceOnly" }),
            Version::V1beta1 => json!({ "rollingUpdate": { "podUpdatePolicy": "InPlaceOnly" } }),
        };
        let resources = |cpu: &str, memory: &str| json!({ "requests": { "cpu": cpu, "memory": memory } });
        put(&mut old, "/spec/template/spec/containers/0/resources", resources("1", "1Gi"));
        let update = |pointer: &str, value: Value, options: Options| {
            let mut new = old.clone();
            put(&mut new, pointer, value);
            default(&mut new, Some(&old), version, options);
            texts(&validate(&new, Some(&old), version, Operation::Update, options, &nobody))
        };
        assert_eq!(update(RESOURCES, resources("2", "2Gi"), options), [""; 0]);
        assert_eq!(update(RESOURCES, resources("2", "2Gi"), OPTIONS).len(), 1, "without the gate");
        for (pointer, value, why) in [
            (
                RESOURCES,
                json!({ "requests": { "cpu": "2" } }),
                "resources.requests: a resource was added or removed",
            ),
            ("/spec/template/spec/nodeName", json!("n"), "spec.nodeName: cannot be changed in place"),
        ] {
            let found = update(pointer, value, options);
            assert!(
                found.len() == 1 && found[0].starts_with("spec.template: Forbidden: only allowed"),
                "{found:?}"
            );
            assert!(found[0].ends_with(why), "{found:?}");
        }
    }
}

#[test]
fn on_delete_takes_any_template_whatever_policy_is_left_over() {
    let rolling = json!({ "podUpdatePolicy": "InPlaceOnly", "partition": 0, "maxUnavailable": 1 });
    let old = changed(
        Version::V1beta1,
        &[("/spec/updateStrategy".into(), json!({ "type": "OnDelete", "rollingUpdate": rolling }))],
    );
    let mut new = old.clone();
    new["spec"]["template"]["spec"]["nodeName"] = json!("n");
    assert_eq!(
        texts(&validate(&new, Some(&old), Version::V1beta1, Operation::Update, OPTIONS, &nobody)),
        [""; 0]
    );
}

#[test]
fn protection_says_what_protects() {
    let with = |value: &str, replicas: Value| json!({ "metadata": { "labels": { DELETE_PROTECTION: value } }, "spec": { "replicas": replicas } });
    let prefix = "forbidden by ResourcesProtectionDeletion for policy.kruise.io/delete-protection=";
    for (value, replicas, want) in [
        ("Always", json!(0), Some(format!("{prefix}Always"))),
        ("Cascading", json!(3), Some(format!("{prefix}Cascading and replicas 3>0"))),
        ("Cascading", json!(0), None),
        ("Cascading", json!(null), None),
        ("Other", json!(3), None),
    ] {
        assert_eq!(delete_protection(&with(value, replicas), OPTIONS), want);
    }
    let mut going = with("Always", json!(1));
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(delete_protection(&going, OPTIONS), None);
    let off = Options { delete_protection: false, ..OPTIONS };
    assert_eq!(delete_protection(&with("Always", json!(1)), off), None);
}

/// Refuses templates that name the container `bad`, cannot answer about `broken`, and counts.
#[derive(Default)]
struct Kubernetes {
    asked: AtomicUsize,
}

impl TemplateCheck for Kubernetes {
    fn check<'a>(&'a self, _: &'a str, template: &'a Value) -> BoxFuture<'a, Result<(), Vec<FieldError>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let volumes =
            template.pointer("/spec/volumes").and_then(Value::as_array).cloned().unwrap_or_default();
        let answer = match template.pointer("/spec/containers/0/name").and_then(Value::as_str) {
            Some("bad") => Err(vec![FieldError::invalid("template.spec.containers[0].name", "bad", "no")]),
            Some("broken") => Err(vec![FieldError::internal("spec.template", "down")]),
            _ if volumes.len() > 1 && volumes[0]["name"] == volumes[1]["name"] => {
                Err(vec![FieldError::duplicate("template.spec.volumes[1].name", volumes[1]["name"].clone())])
            }
            _ => Ok(()),
        };
        Box::pin(async { answer })
    }
}

fn context() -> (Context, Arc<Kubernetes>) {
    let kubernetes = Arc::new(Kubernetes::default());
    let protection = Protection::register(&Registry::new(), ProtectionLog::default()).unwrap();
    let pods: PodLookup = Arc::new(|_, name| {
        let answer = if name == "unknown" { Err("no answer".to_owned()) } else { Ok(None) };
        Box::pin(async { answer })
    });
    (Context::new(OPTIONS, pods, kubernetes.clone(), Arc::new(protection)), kubernetes)
}

fn request(operation: &str, version: &str, object: Value, old: Value) -> AdmissionRequest {
    let bare: AdmissionRequest = serde_json::from_value(json!({
        "uid": "r", "operation": operation, "namespace": "ns", "name": "web",
        "resource": { "group": "apps.kruise.io", "version": version, "resource": "clonesets" },
        "userInfo": { "username": "jane" },
    }))
    .unwrap();
    let some = |value: Value| Some(value).filter(|value| !value.is_null());
    AdmissionRequest { object: some(object), old_object: some(old), ..bare }
}

#[tokio::test]
async fn an_unknown_version_is_answered_400() {
    let (ctx, _) = context();
    for mutating in [true, false] {
        let verdict = handle(&request("CREATE", "v9", set(), json!(null)), mutating, &ctx).await;
        assert_eq!(verdict, Verdict::error(400, "unsupported version: v9"));
    }
}

#[tokio::test]
async fn defaulting_answers_with_the_object_and_with_nothing_when_nothing_changes() {
    let (ctx, _) = context();
    let verdict = handle(&request("CREATE", "v1beta1", set(), json!(null)), true, &ctx).await;
    assert_eq!(verdict, Verdict::patched(defaulted(Version::V1beta1)));
    let whole = defaulted(Version::V1beta1);
    assert_eq!(handle(&request("CREATE", "v1beta1", whole, json!(null)), true, &ctx).await, Verdict::allow());
}

#[tokio::test]
async fn a_stored_set_that_breaks_a_rule_can_be_labelled_and_can_go_but_not_be_changed() {
    let (ctx, _) = context();
    let mut stored = defaulted(Version::V1beta1);
    stored["spec"]["minReadySeconds"] = json!(600);
    stored["spec"]["progressDeadlineSeconds"] = json!(600);
    stored["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    let judged = async |object: Value| {
        handle(&request("UPDATE", "v1beta1", object, stored.clone()), false, &ctx).await
    };
    let mut labelled = stored.clone();
    labelled["metadata"]["labels"] = json!({"team": "a"});
    assert_eq!(judged(labelled).await, Verdict::allow());
    let mut gone = stored.clone();
    gone["metadata"]["finalizers"] = json!([]);
    assert_eq!(judged(gone).await, Verdict::allow());
    let mut scaled = stored.clone();
    scaled["spec"]["replicas"] = json!(7);
    assert_ne!(judged(scaled).await, Verdict::allow());
}

#[tokio::test]
async fn a_pod_to_delete_that_nobody_can_look_for_now_is_an_error_and_no_refusal() {
    let (ctx, _) = context();
    let stored = defaulted(Version::V1beta1);
    let judged = async |name: &str| {
        let mut object = stored.clone();
        object["spec"]["scaleStrategy"] = json!({"podsToDelete": [name]});
        handle(&request("UPDATE", "v1beta1", object, stored.clone()), false, &ctx).await
    };
    let error = "cannot look for pod unknown of podsToDelete: no answer";
    assert_eq!(judged("unknown").await, Verdict::error(500, error));
    let fault = FieldError::invalid("spec.scaleStrategy.podsToDelete", "gone", "pod gone is not found");
    assert_eq!(judged("gone").await, Verdict::validated(vec![fault]));
}

#[tokio::test]
async fn a_template_is_asked_about_once_and_only_when_it_is_new() {
    let (ctx, kubernetes) = context();
    let object = defaulted(Version::V1beta1);
    for _ in 0..2 {
        let verdict = handle(&request("CREATE", "v1beta1", object.clone(), json!(null)), false, &ctx).await;
        assert_eq!(verdict, Verdict::allow());
    }
    let mut scaled = object.clone();
    scaled["spec"]["replicas"] = json!(7);
    handle(&request("UPDATE", "v1beta1", scaled, object.clone()), false, &ctx).await;
    assert_eq!(kubernetes.asked.load(Ordering::SeqCst), 1);

    let mut claimed = object.clone();
    claimed["spec"]["volumeClaimTemplates"] = json!([{ "metadata": { "name": "data" } }]);
    handle(&request("UPDATE", "v1beta1", claimed, object), false, &ctx).await;
    assert_eq!(kubernetes.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_kubernetes_says_about_the_template_joins_the_other_faults() {
    let (ctx, _) = context();
    let mut object = defaulted(Version::V1beta1);
    object["spec"]["template"]["spec"]["containers"][0]["name"] = json!("bad");
    object["spec"]["replicas"] = json!(-1);
    assert_eq!(
        handle(&request("CREATE", "v1beta1", object, json!(null)), false, &ctx).await,
        Verdict::error(
            422,
            "[spec.replicas: Invalid value: -1: must be greater than or equal to 0, \
             spec.template.spec.containers[0].name: Invalid value: \"bad\": no]"
        )
    );
}

#[tokio::test]
async fn a_claim_named_like_a_volume_is_a_duplicate() {
    let (ctx, _) = context();
    let mut object = defaulted(Version::V1alpha1);
    object["spec"]["template"]["spec"]["volumes"] = json!([{ "name": "data", "emptyDir": {} }]);
    object["spec"]["volumeClaimTemplates"] = json!([{ "metadata": { "name": "data" } }]);
    assert_eq!(
        handle(&request("CREATE", "v1alpha1", object, json!(null)), false, &ctx).await,
        Verdict::error(422, "spec.template.spec.volumes[1].name: Duplicate value: \"data\"")
    );
}

#[tokio::test]
async fn a_question_kubernetes_cannot_answer_is_a_500() {
    let (ctx, _) = context();
    let mut object = defaulted(Version::V1beta1);
    object["spec"]["template"]["spec"]["containers"][0]["name"] = json!("broken");
    assert_eq!(
        handle(&request("CREATE", "v1beta1", object, json!(null)), false, &ctx).await,
        Verdict::error(500, "spec.template: Internal error: down")
    );
}

#[tokio::test]
async fn a_protected_set_stays_and_only_real_attempts_are_counted() {
    let (ctx, _) = context();
    let mut object = defaulted(Version::V1beta1);
    object["metadata"]["labels"] = json!({ DELETE_PROTECTION: "Cascading" });
    let mut delete = request("DELETE", "v1beta1", json!(null), object);
    let refused = Verdict::forbidden(
        "forbidden by ResourcesProtectionDeletion for policy.kruise.io/delete-protection=Cascading and replicas 1>0",
    );
    assert_eq!(handle(&delete, false, &ctx).await, refused);
    delete.dry_run = true;
    assert_eq!(handle(&delete, false, &ctx).await, refused);
    assert_eq!(ctx.protection.refusals("CloneSet", "ns", "web", "jane"), 1);
    delete.old_object.as_mut().unwrap()["spec"]["replicas"] = json!(0);
    assert_eq!(handle(&delete, false, &ctx).await, Verdict::allow());
}

/// One of a few values of a field, or nothing.
fn any_of(values: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop::sample::select(values).prop_map(|text| serde_json::from_str(text).unwrap())
}

/// Any JSON, with the fields of a CloneSet turning up often.
fn any_json() -> impl Strategy<Value = Value> {
    const KEYS: &[&str] = &[
        "metadata",
        "name",
        "labels",
        "spec",
        "replicas",
        "selector",
        "matchLabels",
        "matchExpressions",
        "key",
        "values",
        "operator",
        "template",
        "containers",
        "image",
        "volumeClaimTemplates",
        "updateStrategy",
        "rollingUpdate",
        "type",
        "partition",
        "maxUnavailable",
        "maxSurge",
        "podUpdatePolicy",
        "priorityStrategy",
        "weightPriority",
        "scatterStrategy",
        "scaleStrategy",
        "podsToDelete",
        "inPlaceUpdateStrategy",
        "progressDeadlineSeconds",
        "other",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[0-9.]{0,3}%?".prop_map(Value::from),
        prop::sample::select(&["InPlaceOnly", "RollingUpdate", "OnDelete", "In", ""][..])
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(7, 96, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(KEYS), inner), 0..8).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

/// True if everything set in `old` is still there.
fn keeps(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Null, _) => true,
        (Value::Object(old), Value::Object(new)) => {
            old.iter().all(|(key, value)| new.get(key).is_some_and(|new| keeps(value, new)))
        }
        (Value::Array(old), Value::Array(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| keeps(old, new))
        }
        (old, new) => old == new || old == "" || old == 0,
    }
}

proptest! {
    #[test]
    fn no_json_is_too_odd(object in any_json(), spec in any_json(), old in any_json(), alpha: bool) {
        let version = if alpha { Version::V1alpha1 } else { Version::V1beta1 };
        for object in [object, json!({ "metadata": {}, "spec": spec })] {
            let mut new = object.clone();
            default(&mut new, Some(&old), version, OPTIONS);
            prop_assert!(keeps(&object, &new), "{object} became {new}");
            let mut twice = new.clone();
            default(&mut twice, Some(&old), version, OPTIONS);
            prop_assert_eq!(&twice, &new);
            for operation in [Operation::Create, Operation::Update, Operation::Delete] {
                validate(&new, Some(&old), version, operation, OPTIONS, &nobody);
            }
            template_to_check(&new, Some(&old));
            delete_protection(&new, OPTIONS);
        }
    }

    #[test]
    fn both_versions_judge_a_rollout_alike(
        kind in prop::sample::select(&["ReCreate", "InPlaceIfPossible", "InPlaceOnly"][..]),
        replicas in any_of(&["0", "1", "5", "-1"]),
        partition in any_of(&["0", "1", "\"50%\"", "\"5\"", "-1"]),
        down in any_of(&["0", "1", "\"0%\"", "\"0.5%\"", "\"x\""]),
        up in any_of(&["0", "1", "\"1%\"", "null"]),
    ) {
        let mut alpha = defaulted(Version::V1alpha1);
        alpha["apiVersion"] = json!("apps.kruise.io/v1alpha1");
        alpha["kind"] = json!("CloneSet");
        alpha["spec"]["replicas"] = replicas;
        alpha["spec"]["updateStrategy"] =
            json!({ "type": kind, "partition": partition, "maxUnavailable": down, "maxSurge": up });
        let beta = kruise_api::cloneset::conversion::to_v1beta1(alpha.clone()).unwrap();
        let in_beta: Vec<String> = created(&alpha, Version::V1alpha1)
            .into_iter()
            .map(|text| text.replace("spec.updateStrategy.", "spec.updateStrategy.rollingUpdate."))
            .collect();
        prop_assert_eq!(created(&beta, Version::V1beta1), in_beta);
    }
}
