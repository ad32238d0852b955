//! The conversion table, the recorded shapes, and the promise that nothing is lost.
#![allow(clippy::needless_pass_by_value, reason = "tables of json! literals read better without references")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn alpha(metadata: Value, scale: Value, update: Value) -> Value {
    json!({"apiVersion": V1ALPHA1, "kind": "CloneSet", "metadata": metadata,
        "spec": {"replicas": 3, "scaleStrategy": scale, "updateStrategy": update}})
}

fn beta(metadata: Value, scale: Value, update: Value) -> Value {
    json!({"apiVersion": V1BETA1, "kind": "CloneSet", "metadata": metadata,
        "spec": {"replicas": 3, "scaleStrategy": scale, "updateStrategy": update}})
}

fn up(update: Value) -> Value {
    to_v1beta1(alpha(json!({"name": "web"}), json!({}), update)).unwrap()["spec"]["updateStrategy"].clone()
}

fn down(update: Value) -> Value {
    to_v1alpha1(beta(json!({"name": "web"}), json!({}), update)).unwrap()["spec"]["updateStrategy"].clone()
}

#[test]
fn reuse_of_volume_claims_is_inverted_both_ways() {
    for (disable, enable) in [(json!({}), true), (json!({"disablePVCReuse": true}), false)] {
        let hub = to_v1beta1(alpha(json!({}), disable.clone(), json!({}))).unwrap();
        assert_eq!(hub["spec"]["scaleStrategy"], json!({"enablePVCReuse": enable}));
        let spoke = to_v1alpha1(hub).unwrap();
        assert_eq!(spoke["spec"]["scaleStrategy"], disable);
    }
}

#[test]
fn a_v1beta1_set_without_scale_strategy_reads_as_reuse_disabled() {
    let object = json!({"apiVersion": V1BETA1, "kind": "CloneSet", "metadata": {"name": "web"}, "spec": {}});
    let spoke = to_v1alpha1(object).unwrap();
    assert_eq!(spoke["spec"]["scaleStrategy"], json!({"disablePVCReuse": true}));
    assert_eq!(spoke["metadata"], json!({"name": "web"}));
}

#[test]
fn the_label_is_the_v1alpha1_form_of_exclude_preparing_delete() {
    let key = keys::EXCLUDE_PREPARING_DELETE;
    for (value, expected) in [("true", json!(true)), ("false", json!(null)), ("1", json!(null))] {
        let object = alpha(json!({"labels": {key: value}}), json!({}), json!({}));
        let hub = to_v1beta1(object.clone()).unwrap();
        assert_eq!(hub["spec"]["scaleStrategy"]["excludePreparingDelete"], expected, "{value}");
        assert_eq!(hub["metadata"]["labels"], object["metadata"]["labels"]);
    }
    let hub = beta(json!({"name": "web"}), json!({"excludePreparingDelete": true}), json!({}));
    let spoke = to_v1alpha1(hub).unwrap();
    assert_eq!(spoke["metadata"]["labels"], json!({key: "true"}));
    assert!(spoke["spec"]["scaleStrategy"].get("excludePreparingDelete").is_none());
}

#[test]
fn v1alpha1_types_become_policies() {
    for (type_, policy) in [
        ("ReCreate", "ReCreate"),
        ("InPlaceIfPossible", "InPlaceIfPossible"),
        ("InPlaceOnly", "InPlaceOnly"),
        ("", "ReCreate"),
        ("Other", "ReCreate"),
    ] {
        let mut rolling = json!({"podUpdatePolicy": policy, "partition": "60%", "paused": true});
        if policy.starts_with("InPlace") {
            rolling["inPlaceUpdateStrategy"] = json!({});
        }
        assert_eq!(
            up(json!({"type": type_, "partition": "60%", "paused": true})),
            json!({"type": "RollingUpdate", "rollingUpdate": rolling})
        );
    }
    assert_eq!(up(json!({"type": "OnDelete"})), json!({"type": "OnDelete"}));
}

#[test]
fn v1beta1_policies_become_types() {
    for (strategy, type_) in [
        (json!({"type": "RollingUpdate", "rollingUpdate": {"podUpdatePolicy": "ReCreate"}}), "ReCreate"),
        (json!({"rollingUpdate": {"podUpdatePolicy": "InPlaceOnly"}}), "InPlaceOnly"),
        (json!({"rollingUpdate": {"podUpdatePolicy": "InPlaceIfPossible"}}), "InPlaceIfPossible"),
        (json!({"type": "RollingUpdate", "rollingUpdate": {"podUpdatePolicy": "Other"}}), "ReCreate"),
        (json!({"type": "RollingUpdate", "rollingUpdate": {}}), "ReCreate"),
        (json!({"type": "RollingUpdate"}), "ReCreate"),
        (json!({}), "ReCreate"),
        (json!({"type": "OnDelete"}), "OnDelete"),
    ] {
        assert_eq!(down(strategy), json!({"type": type_}));
    }
    assert_eq!(
        down(json!({"type": "OnDelete", "rollingUpdate": {"partition": 2, "maxSurge": 1}})),
        json!({"type": "OnDelete", "partition": 2, "maxSurge": 1})
    );
}

#[test]
fn predownload_settings_come_from_annotations_only() {
    let object = alpha(
        json!({"annotations": {
            keys::PREDOWNLOAD_PARALLELISM: "10%",
            keys::PREDOWNLOAD_TIMEOUT_SECONDS: "60",
            keys::PREDOWNLOAD_MIN_UPDATED_READY_PODS: "30%",
        }}),
        json!({}),
        json!({"type": "InPlaceOnly",
            "inPlaceUpdateStrategy": {"gracePeriodSeconds": 7, "imagePreDownloadTimeoutSeconds": 5}}),
    );
    let hub = to_v1beta1(object.clone()).unwrap();
    assert_eq!(
        hub["spec"]["updateStrategy"]["rollingUpdate"]["inPlaceUpdateStrategy"],
        json!({"gracePeriodSeconds": 7, "imagePreDownloadParallelism": "10%", "imagePreDownloadTimeoutSeconds": 60})
    );
    assert_eq!(hub["metadata"]["annotations"][keys::PREDOWNLOAD_MIN_UPDATED_READY_PODS], "30%");
    assert_eq!(to_v1alpha1(hub).unwrap(), object);
}

#[test]
fn predownload_fields_are_written_back_as_annotations() {
    let hub = beta(
        json!({"annotations": {keys::PREDOWNLOAD_TIMEOUT_SECONDS: "1"}}),
        json!({"enablePVCReuse": true}),
        json!({"type": "RollingUpdate", "rollingUpdate": {"podUpdatePolicy": "InPlaceIfPossible",
            "inPlaceUpdateStrategy": {"imagePreDownloadParallelism": 4, "imagePreDownloadTimeoutSeconds": 90}}}),
    );
    let spoke = to_v1alpha1(hub.clone()).unwrap();
    assert_eq!(spoke["metadata"]["annotations"][keys::PREDOWNLOAD_PARALLELISM], "4");
    assert_eq!(spoke["metadata"]["annotations"][keys::PREDOWNLOAD_TIMEOUT_SECONDS], "90");
    assert_eq!(to_v1beta1(spoke).unwrap(), hub);
}

#[test]
fn an_in_place_strategy_without_content_is_left_out() {
    assert_eq!(
        up(json!({"inPlaceUpdateStrategy": {"gracePeriodSeconds": 0}}))["rollingUpdate"],
        json!({"podUpdatePolicy": "ReCreate"})
    );
    assert_eq!(
        down(json!({"rollingUpdate": {"inPlaceUpdateStrategy": {"gracePeriodSeconds": 0}}})),
        json!({"type": "ReCreate"})
    );
}

#[test]
fn limits_of_on_delete_are_kept_in_a_rolling_update_block() {
    assert_eq!(
        up(json!({"type": "OnDelete", "partition": 0, "maxUnavailable": 1})),
        json!({"type": "OnDelete", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}})
    );
}

#[test]
fn the_usual_shapes_need_no_private_annotation() {
    let shapes = [
        (
            json!({}),
            json!({"type": "InPlaceIfPossible", "partition": 0, "maxSurge": 0, "maxUnavailable": "20%"}),
            json!({"enablePVCReuse": true}),
            json!({"type": "RollingUpdate", "rollingUpdate": {"podUpdatePolicy": "InPlaceIfPossible",
                "partition": 0, "maxSurge": 0, "maxUnavailable": "20%", "inPlaceUpdateStrategy": {}}}),
        ),
        (
            json!({"disablePVCReuse": true}),
            json!({"type": "InPlaceIfPossible", "partition": "60%", "maxSurge": 0, "maxUnavailable": 1,
                "inPlaceUpdateStrategy": {"gracePeriodSeconds": 3}}),
            json!({"enablePVCReuse": false}),
            json!({"type": "RollingUpdate", "rollingUpdate": {"podUpdatePolicy": "InPlaceIfPossible",
                "partition": "60%", "maxSurge": 0, "maxUnavailable": 1,
                "inPlaceUpdateStrategy": {"gracePeriodSeconds": 3}}}),
        ),
        (
            json!({"disablePVCReuse": true}),
            json!({"type": "ReCreate", "partition": 0, "maxSurge": 0, "maxUnavailable": "20%"}),
            json!({"enablePVCReuse": false}),
            json!({"type": "RollingUpdate", "rollingUpdate": {"podUpdatePolicy": "ReCreate",
                "partition": 0, "maxSurge": 0, "maxUnavailable": "20%"}}),
        ),
    ];
    for (spoke_scale, spoke_update, hub_scale, hub_update) in shapes {
        let metadata = json!({"name": "web", "annotations": {"a": "b"}, "labels": {"app": "web"}});
        let spoke = alpha(metadata.clone(), spoke_scale, spoke_update);
        let hub = beta(metadata, hub_scale, hub_update);
        assert_eq!(to_v1beta1(spoke.clone()).unwrap(), hub);
        assert_eq!(to_v1alpha1(hub).unwrap(), spoke);
    }
}

#[test]
fn everything_else_survives_untouched() {
    let mut object = alpha(json!({"name": "web", "managedFields": [{"x": 1}]}), json!({}), json!({}));
    object["status"] = json!({"replicas": 3, "conditions": [{"type": "FailedUpdate", "future": 1}]});
    object["spec"]["template"] = json!({"spec": {"futureField": {"deep": [1, null]}}});
    object["spec"]["futureSpec"] = json!([1]);
    object["future"] = json!(true);
    let hub = to_v1beta1(object.clone()).unwrap();
    for field in ["metadata", "status", "future"] {
        assert_eq!(hub[field], object[field]);
    }
    assert_eq!(hub["spec"]["template"], object["spec"]["template"]);
    assert_eq!(hub["spec"]["futureSpec"], object["spec"]["futureSpec"]);
}

#[test]
fn a_change_through_v1alpha1_keeps_what_only_v1beta1_can_say() {
    let hub = beta(
        json!({"name": "web"}),
        json!({"enablePVCReuse": true, "excludePreparingDelete": true}),
        json!({"type": "OnDelete", "rollingUpdate": {"podUpdatePolicy": "InPlaceOnly", "partition": 2}}),
    );
    let mut spoke = to_v1alpha1(hub.clone()).unwrap();
    spoke["spec"]["replicas"] = json!(9);
    spoke["spec"]["updateStrategy"]["partition"] = json!(1);
    let mut expected = hub;
    expected["spec"]["replicas"] = json!(9);
    expected["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(1);
    assert_eq!(to_v1beta1(spoke).unwrap(), expected);
}

#[test]
fn an_edit_through_v1alpha1_wins_over_what_was_kept() {
    let hub = beta(json!({"name": "web"}), json!({"excludePreparingDelete": true}), json!({}));
    let mut spoke = to_v1alpha1(hub).unwrap();
    spoke["metadata"]["labels"][keys::EXCLUDE_PREPARING_DELETE] = json!("false");
    let back = to_v1beta1(spoke).unwrap();
    assert!(back["spec"]["scaleStrategy"].get("excludePreparingDelete").is_none());
    assert_eq!(back["metadata"]["labels"][keys::EXCLUDE_PREPARING_DELETE], "false");

    let hub = beta(
        json!({"name": "web"}),
        json!({}),
        json!({"rollingUpdate": {"inPlaceUpdateStrategy": {"imagePreDownloadTimeoutSeconds": 90}}}),
    );
    let mut spoke = to_v1alpha1(hub).unwrap();
    spoke["metadata"]["annotations"][keys::PREDOWNLOAD_TIMEOUT_SECONDS] = json!("30");
    let back = to_v1beta1(spoke).unwrap();
    let in_place = &back["spec"]["updateStrategy"]["rollingUpdate"]["inPlaceUpdateStrategy"];
    assert_eq!(in_place, &json!({"imagePreDownloadTimeoutSeconds": 30}));
}

#[test]
fn a_made_up_record_reaches_nothing_it_should_not() {
    let record = json!([
        {"path": ["metadata", "name"], "held": "other"},
        {"path": ["metadata", "labels", "app"], "held": "other"},
        {"path": ["metadata", "annotations", keys::PREDOWNLOAD_PARALLELISM], "held": 3},
        {"path": ["spec", "selector"], "held": {}},
        {"path": ["spec", "updateStrategy"], "held": "x"},
        {"path": [], "held": "x"},
    ]);
    let annotations = json!({keys::V1BETA1_FIELDS: record.to_string()});
    let forged = alpha(json!({"name": "web", "annotations": annotations}), json!({}), json!({}));
    let plain = alpha(json!({"name": "web"}), json!({}), json!({}));
    assert_eq!(to_v1beta1(forged).unwrap(), to_v1beta1(plain.clone()).unwrap());
    let garbage =
        alpha(json!({"name": "web", "annotations": {keys::V1BETA1_FIELDS: "{"}}), json!({}), json!({}));
    assert_eq!(to_v1beta1(garbage).unwrap(), to_v1beta1(plain).unwrap());
}

#[test]
fn malformed_strategies_are_refused() {
    let object = alpha(json!({}), json!("x"), json!({}));
    assert_eq!(to_v1beta1(object), Err(ConversionError::NotAnObject("spec.scaleStrategy")));
    let object = beta(json!({}), json!({}), json!({"rollingUpdate": 1}));
    assert_eq!(to_v1alpha1(object), Err(ConversionError::NotAnObject("spec.updateStrategy.rollingUpdate")));
}

/// Drops what only spells out a default, as the module's documentation lists it.
fn plain(object: &Value, version: &Version) -> (BTreeMap<Path, Value>, Value) {
    let mut rest = object.clone();
    for path in touched() {
        remove(&mut rest, &path);
    }
    if rest["spec"].as_object().is_some_and(Map::is_empty) {
        remove(&mut rest, &["spec"]);
    }
    (version.leaves(object), rest)
}

/// One of the values, or nothing.
fn maybe(values: Vec<Value>) -> impl Strategy<Value = Option<Value>> {
    proptest::option::of(proptest::sample::select(values))
}

/// An object with some of the fields.
fn fields(of: Vec<(&'static str, BoxedStrategy<Option<Value>>)>) -> impl Strategy<Value = Value> {
    let (names, values): (Vec<_>, Vec<_>) = of.into_iter().unzip();
    values.prop_map(move |values| {
        let present = names.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
        Value::Object(present.collect())
    })
}

fn in_place() -> impl Strategy<Value = Value> {
    fields(vec![
        (GRACE, maybe(vec![json!(0), json!(5)]).boxed()),
        ("imagePreDownloadParallelism", maybe(vec![json!(0), json!(3), json!("10%"), json!("3")]).boxed()),
        ("imagePreDownloadTimeoutSeconds", maybe(vec![json!(0), json!(60)]).boxed()),
        ("imagePreDownloadMinUpdatedReadyPods", maybe(vec![json!(0), json!(2)]).boxed()),
        ("future", maybe(vec![json!(true)]).boxed()),
    ])
}

fn flat(more: Vec<(&'static str, BoxedStrategy<Option<Value>>)>) -> impl Strategy<Value = Value> {
    let mut all = vec![
        ("partition", maybe(vec![json!(0), json!(2), json!("60%")]).boxed()),
        ("maxUnavailable", maybe(vec![json!(1), json!("20%")]).boxed()),
        ("paused", maybe(vec![json!(true), json!(false)]).boxed()),
        ("scatterStrategy", maybe(vec![json!([]), json!([{"key": "a", "value": "b"}])]).boxed()),
        ("priorityStrategy", maybe(vec![json!({"orderPriority": [{"orderedKey": "a"}]})]).boxed()),
        (IN_PLACE, proptest::option::of(in_place()).boxed()),
        ("future", maybe(vec![json!(7)]).boxed()),
    ];
    all.extend(more);
    fields(all)
}

fn metadata() -> impl Strategy<Value = Value> {
    let annotations = fields(vec![
        ("other", Just(Some(json!("x"))).boxed()),
        (
            keys::PREDOWNLOAD_PARALLELISM,
            maybe(vec![json!("3"), json!("03"), json!(""), json!("10%")]).boxed(),
        ),
        (keys::PREDOWNLOAD_TIMEOUT_SECONDS, maybe(vec![json!("60"), json!("x")]).boxed()),
        (keys::PREDOWNLOAD_MIN_UPDATED_READY_PODS, maybe(vec![json!("2"), json!("30%")]).boxed()),
    ]);
    let labels =
        fields(vec![(keys::EXCLUDE_PREPARING_DELETE, maybe(vec![json!("true"), json!("no")]).boxed())]);
    fields(vec![
        ("name", Just(Some(json!("web"))).boxed()),
        ("annotations", proptest::option::of(annotations).boxed()),
        ("labels", proptest::option::of(labels).boxed()),
    ])
}

fn any_alpha() -> impl Strategy<Value = Value> {
    let scale = fields(vec![
        ("disablePVCReuse", maybe(vec![json!(true), json!(false)]).boxed()),
        ("podsToDelete", maybe(vec![json!([]), json!(["web-1"])]).boxed()),
        ("maxUnavailable", maybe(vec![json!(1)]).boxed()),
    ]);
    let types = vec!["", "ReCreate", "InPlaceIfPossible", "InPlaceOnly", "OnDelete", "Other"];
    let update = flat(vec![("type", maybe(types.into_iter().map(Value::from).collect()).boxed())]);
    whole(V1ALPHA1, scale, update)
}

fn any_beta() -> impl Strategy<Value = Value> {
    let scale = fields(vec![
        ("enablePVCReuse", maybe(vec![json!(true), json!(false)]).boxed()),
        ("excludePreparingDelete", maybe(vec![json!(true), json!(false)]).boxed()),
        ("podsToDelete", maybe(vec![json!([]), json!(["web-1"])]).boxed()),
    ]);
    let policies = vec!["", "ReCreate", "InPlaceIfPossible", "InPlaceOnly", "Other"];
    let policies = maybe(policies.into_iter().map(Value::from).collect()).boxed();
    let types = ["", "RollingUpdate", "OnDelete", "Other"].map(Value::from).to_vec();
    let update = fields(vec![
        ("type", maybe(types).boxed()),
        ("rollingUpdate", proptest::option::of(flat(vec![("podUpdatePolicy", policies)])).boxed()),
        ("future", maybe(vec![json!({"a": 1})]).boxed()),
    ]);
    whole(V1BETA1, scale, update)
}

fn whole(
    version: &'static str,
    scale: impl Strategy<Value = Value>,
    update: impl Strategy<Value = Value>,
) -> impl Strategy<Value = Value> {
    let parts = (metadata(), proptest::option::of(scale), proptest::option::of(update));
    parts.prop_map(move |(metadata, scale, update)| {
        let mut spec = Map::new();
        spec.extend(scale.map(|value| ("scaleStrategy".to_owned(), value)));
        spec.extend(update.map(|value| ("updateStrategy".to_owned(), value)));
        json!({"apiVersion": version, "kind": "CloneSet", "metadata": metadata, "spec": spec,
            "status": {"replicas": 1}})
    })
}

proptest! {
    #[test]
    fn v1beta1_comes_back_from_v1alpha1_as_it_was(object in any_beta()) {
        let back = to_v1beta1(to_v1alpha1(object.clone()).unwrap()).unwrap();
        prop_assert_eq!(plain(&back, &BETA), plain(&object, &BETA));
    }

    #[test]
    fn v1alpha1_comes_back_from_v1beta1_as_it_was(object in any_alpha()) {
        let back = to_v1alpha1(to_v1beta1(object.clone()).unwrap()).unwrap();
        prop_assert_eq!(plain(&back, &ALPHA), plain(&object, &ALPHA));
    }

    #[test]
    fn a_second_round_trip_changes_nothing_at_all(object in any_alpha()) {
        let hub = to_v1beta1(object).unwrap();
        let spoke = to_v1alpha1(hub.clone()).unwrap();
        let hub_again = to_v1beta1(spoke.clone()).unwrap();
        prop_assert_eq!(&to_v1alpha1(hub_again.clone()).unwrap(), &spoke);
        prop_assert_eq!(hub_again, hub);
    }
}
