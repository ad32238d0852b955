use kruise_webhook::review::Resource;
use serde_json::json;

use super::*;

fn context(daemon: bool, jobs: bool) -> Context {
    Context { daemon, jobs, clock: Arc::new(|| Timestamp::UNIX_EPOCH) }
}

fn request(version: &str, object: Value, old: Option<Value>) -> AdmissionRequest {
    AdmissionRequest {
        uid: String::new(),
        operation: if old.is_some() { Operation::Update } else { Operation::Create },
        resource: Resource { version: version.to_owned(), ..Resource::default() },
        kind: kruise_webhook::review::Kind::default(),
        sub_resource: None,
        namespace: Some("shop".to_owned()),
        name: None,
        dry_run: false,
        user_info: kruise_webhook::review::UserInfo::default(),
        object: Some(object),
        old_object: old,
        options: None,
    }
}

fn defaulted(version: &str, kind: Kind, object: Value) -> Value {
    match handle(&request(version, object.clone(), None), kind, true, &context(true, true)) {
        Verdict::Allow { patched, .. } => patched.unwrap_or(object),
        other @ Verdict::Deny { .. } => panic!("{other:?}"),
    }
}

fn refusal(kind: Kind, object: Value, old: Option<Value>) -> Option<(u16, String)> {
    match handle(&request("v1beta1", object, old), kind, false, &context(true, true)) {
        Verdict::Allow { .. } => None,
        Verdict::Deny { code, message, .. } => Some((code, message)),
    }
}

fn job(extra: Value) -> Value {
    let mut spec = json!({"image": "nginx:1", "completionPolicy": {"type": "Always"}});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"metadata": {"name": "j"}, "spec": spec})
}

fn list(extra: Value) -> Value {
    let mut list = job(extra);
    let spec = list["spec"].as_object_mut().unwrap();
    spec.remove("image");
    spec.entry("images").or_insert(json!(["nginx:1"]));
    list
}

#[test]
fn a_job_with_only_an_image_gets_every_default() {
    let bare = json!({"metadata": {}, "spec": {"image": "x", "completionPolicy": {}}});
    let new = defaulted("v1alpha1", Kind::Job, bare.clone());
    assert_eq!(
        new["spec"],
        json!({"image": "x", "completionPolicy": {"type": "Always"}, "imagePullPolicy": "IfNotPresent",
            "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": 3}})
    );
    assert_eq!(new["metadata"]["finalizers"], json!(["apps.kruise.io/deletion-protection"]));
    let new = defaulted("v1beta1", Kind::Job, bare.clone());
    assert_eq!(new["metadata"].get("finalizers"), None, "the controller adds it");
    let new = defaulted("v1alpha1", Kind::List, bare);
    assert_eq!((new["spec"].get("imagePullPolicy"), new["metadata"].get("finalizers")), (None, None));
}

#[test]
fn each_default_is_filled_in_by_itself() {
    let part = json!({"metadata": {}, "spec": {"image": "x", "imagePullPolicy": "IfNotPresent",
        "completionPolicy": {"type": "Always"}, "pullPolicy": {"backoffLimit": 1}}});
    let new = defaulted("v1beta1", Kind::Job, part);
    assert_eq!(new["spec"]["pullPolicy"], json!({"timeoutSeconds": 600, "backoffLimit": 1}));
}

#[test]
fn entries_of_a_node_get_a_time_and_limits_and_are_sorted() {
    let tags = json!([{"tag": "b"}, {"tag": "a", "createdAt": "2020-01-01T00:00:00Z", "pullPolicy": {"backoffLimit": 0}}]);
    let node = json!({"spec": {"images": {"nginx": {"tags": tags}}},
        "status": {"imageStatuses": {"nginx": {"tags": [{"tag": "b"}, {"tag": "a"}]}}}});
    let new = defaulted("v1beta1", Kind::NodeImage, node);
    assert_eq!(
        new["spec"]["images"]["nginx"]["tags"],
        json!([{"tag": "a", "createdAt": "2020-01-01T00:00:00Z", "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": 0}},
            {"tag": "b", "createdAt": "1970-01-01T00:00:00Z", "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": 3}}])
    );
    assert_eq!(new["status"]["imageStatuses"]["nginx"]["tags"], json!([{"tag": "a"}, {"tag": "b"}]));
}

#[test]
fn every_rule_that_both_kinds_of_jobs_have_is_told_by_its_message() {
    let never = |extra: Value| {
        let mut policy = json!({"type": "Never"});
        policy.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"completionPolicy": policy})
    };
    let only_always =
        "activeDeadlineSeconds and ttlSecondsAfterFinished can only work with Always CompletionPolicyType";
    let table = [
        (
            json!({"selector": {"names": ["a"], "matchLabels": {"a": "b"}}}),
            "can not set both names and labelSelector in this spec.selector",
        ),
        (
            json!({"selector": {"names": ["a"], "matchExpressions": [{"key": "a", "operator": "Exists"}]}}),
            "can not set both names and labelSelector in this spec.selector",
        ),
        (json!({"selector": {"names": ["a", "a"]}}), "duplicated name in selector names"),
        (
            json!({"selector": {"matchLabels": {"a": "b c"}}}),
            "invalid selector: \"b c\" is not a valid label value",
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}),
            "invalid podSelector: \"Near\" is not a valid label selector operator",
        ),
        (json!({"selector": {}, "podSelector": {}}), "can not set both selector and podSelector"),
        (json!({"parallelism": "10%"}), "parallelism does not support percentage value"),
        (json!({"parallelism": "ten"}), "parallelism must be a valid integer"),
        (json!({"parallelism": -1}), "parallelism must be non-negative"),
        (never(json!({"activeDeadlineSeconds": 1})), only_always),
        (never(json!({"ttlSecondsAfterFinished": 1})), only_always),
        (json!({"completionPolicy": {"type": "Sometimes"}}), "unknown type of completionPolicy: Sometimes"),
    ];
    for (extra, message) in table {
        let expected = Some((400, message.to_owned()));
        assert_eq!(refusal(Kind::Job, job(extra.clone()), None), expected, "{extra}");
        assert_eq!(refusal(Kind::List, list(extra.clone()), None), expected, "{extra}");
    }
}

#[test]
fn what_is_acceptable_is_accepted() {
    for extra in [
        json!({}),
        json!({"parallelism": "10"}),
        json!({"parallelism": 0}),
        json!({"selector": {"names": []}}),
        json!({"selector": {"names": ["a", "b"], "matchLabels": {}}}),
        json!({"podSelector": {"matchLabels": {"a": "b"}}}),
        json!({"completionPolicy": {"type": "Always", "activeDeadlineSeconds": 600}}),
        json!({"completionPolicy": {"type": "Never"}}),
    ] {
        assert_eq!(refusal(Kind::Job, job(extra.clone()), None), None, "{extra}");
        assert_eq!(refusal(Kind::List, list(extra.clone()), None), None, "{extra}");
    }
}

#[test]
fn the_deadline_of_a_job_leaves_time_for_an_attempt() {
    let late = json!({"completionPolicy": {"type": "Always", "activeDeadlineSeconds": 300}});
    let message =
        "completionPolicy.activeDeadlineSeconds must be greater than pullPolicy.timeoutSeconds(default 600)";
    assert_eq!(refusal(Kind::Job, job(late.clone()), None), Some((400, message.to_owned())));
    assert_eq!(
        refusal(Kind::List, list(late.clone()), None),
        None,
        "its jobs are refused, and an event tells so"
    );
    let mut quick = late;
    quick["pullPolicy"] = json!({"timeoutSeconds": 300});
    assert_eq!(refusal(Kind::Job, job(quick), None), None);
}

#[test]
fn images_are_checked() {
    let bad = "invalid image Foo/bar: repository name must be lowercase";
    for (image, message) in [("", "image can not be empty"), ("Foo/bar", bad)] {
        assert_eq!(refusal(Kind::Job, job(json!({"image": image})), None), Some((400, message.to_owned())));
    }
    let many: Vec<_> = (0..256).map(|n| format!("x:{n}")).collect();
    for (images, message) in [
        (json!([]), "image can not be empty"),
        (json!(["a", "a"]), "images cannot have duplicate values"),
        (json!(many), "the maximum number of images cannot > 255"),
        (json!(["a", "Foo/bar"]), bad),
    ] {
        assert_eq!(
            refusal(Kind::List, list(json!({"images": images})), None),
            Some((400, message.to_owned()))
        );
    }
    assert_eq!(refusal(Kind::List, list(json!({"images": many[..255]})), None), None);
}

#[test]
fn several_faults_are_told_together() {
    let (_, message) = refusal(Kind::Job, job(json!({"image": "", "parallelism": -1})), None).unwrap();
    assert_eq!(message, "[image can not be empty, parallelism must be non-negative]");
}

#[test]
fn pull_secrets_cannot_be_changed_but_none_and_empty_are_the_same() {
    let with = |secrets: Value| job(json!({"pullSecrets": secrets}));
    let expected = Some((403, "spec.pullSecrets is immutable".to_owned()));
    assert_eq!(refusal(Kind::Job, with(json!(["b"])), Some(with(json!(["a"])))), expected);
    assert_eq!(refusal(Kind::Job, job(json!({})), Some(with(json!(["a"])))), expected);
    assert_eq!(refusal(Kind::Job, with(json!([])), Some(job(json!({})))), None);
    assert_eq!(refusal(Kind::Job, job(json!({"parallelism": 5})), Some(job(json!({})))), None);
}

#[test]
fn a_closed_gate_is_a_403_for_what_it_guards() {
    let answer = |kind, object: Value, daemon, jobs| match handle(
        &request("v1beta1", object, None),
        kind,
        false,
        &context(daemon, jobs),
    ) {
        Verdict::Deny { code, message, .. } => Some((code, message)),
        Verdict::Allow { .. } => None,
    };
    let closed = |gate: &str| Some((403, format!("feature-gate {gate} is not enabled")));
    let node = json!({"spec": {}});
    for (kind, object) in [(Kind::Job, job(json!({}))), (Kind::List, list(json!({})))] {
        assert_eq!(answer(kind, object.clone(), true, false), closed("ImagePullJobGate"));
        assert_eq!(answer(kind, object, false, false), closed("KruiseDaemon"));
    }
    assert_eq!(answer(Kind::NodeImage, node.clone(), true, false), None);
    assert_eq!(answer(Kind::NodeImage, node, false, false), closed("KruiseDaemon"));
}

#[test]
fn what_is_going_can_lose_its_finalizer_whatever_the_gates_and_rules_say() {
    let mut going = job(json!({"parallelism": -1}));
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let request = request("v1beta1", going.clone(), Some(going));
    assert_eq!(handle(&request, Kind::Job, false, &context(false, false)), Verdict::allow());
}

#[test]
fn a_change_of_a_finished_job_is_warned_of() {
    let mut old = job(json!({}));
    old["status"] = json!({"completionTime": "2026-01-01T00:00:00Z"});
    let request = request("v1beta1", job(json!({"parallelism": 5})), Some(old));
    let Verdict::Allow { warnings, .. } = handle(&request, Kind::Job, false, &context(true, true)) else {
        panic!()
    };
    assert_eq!(warnings.len(), 1);
}

#[test]
fn every_rule_of_node_images_is_told_by_its_message() {
    let good = json!({"tag": "1", "createdAt": "2026-01-01T00:00:00Z", "pullPolicy": {"ttlSecondsAfterFinished": 1}});
    let with = |key: &str, value: Value| {
        let mut tag = good.clone();
        tag[key] = value;
        tag
    };
    let node = |name: &str, tags: Value| json!({"spec": {"images": {name: {"tags": tags}}}});
    let table = [
        (node("", json!([good])), "image name in spec.images can not be empty"),
        (node("x", json!([with("tag", json!(""))])), "tag of image x can not be empty"),
        (node("x", json!([good, good])), "duplicated tag 1 of image x"),
        (node("x", json!([with("createdAt", Value::Null)])), "createAt field of image x:1 must set"),
        (node("x", json!([with("version", json!(-1))])), "version of image x:1 must be non-negative"),
        (node("x", json!([with("pullPolicy", Value::Null)])), "pullPolicy of image x:1 must set"),
        (
            node("x", json!([with("pullPolicy", json!({}))])),
            "pullPolicy.ttlSecondsAfterFinished of image x:1 must set",
        ),
    ];
    for (object, message) in table {
        assert_eq!(refusal(Kind::NodeImage, object, None), Some((400, message.to_owned())));
    }
    assert_eq!(refusal(Kind::NodeImage, node("x", json!([good])), None), None);
    let images: serde_json::Map<_, _> = (0..257).map(|n| (format!("i{n}"), json!({"tags": []}))).collect();
    let expected = Some((400, "spec images length 257 can not be more than 256".to_owned()));
    assert_eq!(refusal(Kind::NodeImage, json!({"spec": {"images": images}}), None), expected);
}

#[test]
fn other_versions_are_unknown() {
    let request = request("v1", job(json!({})), None);
    assert!(matches!(
        handle(&request, Kind::Job, false, &context(true, true)),
        Verdict::Deny { code: 400, .. }
    ));
}
