use futures::future::BoxFuture;
use kruise_webhook::review::FieldError;
use serde_json::json;

use super::*;

const OPTIONS: Options = Options { default_templates: true, host_network_ports: false };

/// A job as a user writes it, with everything it needs and nothing else.
fn job() -> Value {
    json!({
        "metadata": {"name": "warm", "namespace": "ops"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x:1"}]}}},
    })
}

/// The job with a field changed.
fn with(pointer: &str, value: Value) -> Value {
    let mut job = job();
    let mut at = &mut job;
    for part in pointer.split('/').skip(1) {
        at = &mut at[part];
    }
    *at = value;
    job
}

fn texts(object: &Value) -> Vec<String> {
    validate(object).iter().map(ToString::to_string).collect()
}

/// What Kubernetes says of a template.
struct Kubernetes;

impl TemplateCheck for Kubernetes {
    fn check<'a>(&'a self, _: &'a str, template: &'a Value) -> BoxFuture<'a, Result<(), Vec<FieldError>>> {
        let answer = match template.pointer("/spec/containers/0/name").and_then(Value::as_str) {
            Some("bad") => Err(vec![FieldError::invalid("template.spec.containers[0].name", "bad", "no")]),
            Some("broken") => Err(vec![FieldError::internal("spec.template", "down")]),
            _ => Ok(()),
        };
        Box::pin(async { answer })
    }
}

fn request(operation: &str, object: Value, old: Value) -> AdmissionRequest {
    serde_json::from_value(json!({
        "operation": operation, "namespace": "ops", "resource": {"version": "v1alpha1"},
        "object": object, "oldObject": old,
    }))
    .unwrap()
}

async fn judged(operation: &str, object: Value, old: Value) -> Verdict {
    handle(&request(operation, object, old), false, &Context::new(OPTIONS, Arc::new(Kubernetes))).await
}

#[tokio::test]
async fn a_job_of_a_template_alone_gets_every_default() {
    let ctx = Context::new(OPTIONS, Arc::new(Kubernetes));
    let Verdict::Allow { patched: Some(new), .. } =
        handle(&request("CREATE", job(), Value::Null), true, &ctx).await
    else {
        panic!("not changed")
    };
    assert_eq!(new["spec"]["parallelism"], 2_147_483_647);
    assert_eq!(new["spec"]["completionPolicy"], json!({"type": "Always"}));
    assert_eq!(new["spec"]["failurePolicy"], json!({"type": "FailFast"}));
    assert_eq!(new.pointer("/spec/template/spec/containers/0/imagePullPolicy"), Some(&json!("Always")));
    assert_eq!(handle(&request("UPDATE", new.clone(), new), true, &ctx).await, Verdict::allow(), "once");
}

#[test]
fn what_is_given_stays_and_a_stored_template_is_not_defaulted_anew() {
    let given = json!({"parallelism": "10%", "paused": true, "completionPolicy": {"type": "Never"},
        "failurePolicy": {"restartLimit": 3}, "template": {"spec": {"x": 1}}});
    let mut object = json!({"spec": given});
    default(&mut object, Some(&json!({"spec": {"template": {"spec": {"x": 1}}}})), OPTIONS);
    let mut expected = given;
    expected["failurePolicy"]["type"] = "FailFast".into();
    assert_eq!(object["spec"], expected);
    let mut bare = job();
    default(&mut bare, None, Options { default_templates: false, ..OPTIONS });
    assert_eq!(bare["spec"]["template"], job()["spec"]["template"]);
    for odd in [json!({}), json!({"spec": null}), json!({"spec": {"completionPolicy": 7, "template": 1}})] {
        let mut object = odd;
        default(&mut object, None, OPTIONS);
    }
}

#[test]
fn each_rule_is_told_with_the_path_of_its_field() {
    assert_eq!(texts(&job()), Vec::<String>::new());
    let never = |field: &str| with("/spec/completionPolicy", json!({"type": "Never", field: 5}));
    let table = [
        (
            never("ttlSecondsAfterFinished"),
            "spec.completionPolicy.ttlSecondsAfterFinished: Invalid value: 5: ttlSecondsAfterFinished can just work with Always CompletionPolicyType",
        ),
        (
            never("activeDeadlineSeconds"),
            "spec.completionPolicy.activeDeadlineSeconds: Invalid value: 5: activeDeadlineSeconds can just work with Always CompletionPolicyType",
        ),
        (
            with("/spec/template/spec/restartPolicy", json!("Always")),
            "spec.template.spec.restartPolicy: Invalid value: \"Always\": pod restartPolicy can only be Never or OnFailure",
        ),
        (
            with("/spec/template/spec/restartPolicy", Value::Null),
            "spec.template.spec.restartPolicy: Invalid value: \"Always\": pod restartPolicy can only be Never or OnFailure",
        ),
        (
            with("/spec/template/metadata", json!({"labels": {"broadcastjob-name": "x"}})),
            "spec.template.metadata.labels: Invalid value: {\"broadcastjob-name\":\"x\"}: \"broadcastjob-name\" and \"broadcastjob-controller-uid\" are not allowed to preset in pod labels",
        ),
        (
            with("/spec/parallelism", json!("abc")),
            "spec.parallelism: Invalid value: \"abc\": \"abc\" is neither an integer nor a percentage such as \"20%\"",
        ),
        (
            with("/metadata/name", json!("warm.up")),
            "metadata.name: Invalid value: \"warm.up\": must consist of alphanumeric characters or '-' (regex used for validation is '^[a-zA-Z0-9\\-]+$')",
        ),
    ];
    for (object, told) in table {
        assert_eq!(texts(&object), [told]);
    }
    let long = with("/metadata/name", json!("n".repeat(64)));
    assert!(texts(&long)[0].ends_with(": must be no more than 63 characters"), "{:?}", texts(&long));
    for fine in [
        with("/metadata/name", json!("n".repeat(63))),
        with("/spec/parallelism", json!("50%")),
        with("/spec/parallelism", json!(0)),
        with("/spec/template/metadata", json!({"labels": {"broadcastjob-name": ""}})),
        with("/spec/completionPolicy", json!({"type": "Always", "ttlSecondsAfterFinished": 0})),
        with("/spec/template/spec/restartPolicy", json!("OnFailure")),
    ] {
        assert_eq!(texts(&fine), Vec::<String>::new(), "{fine}");
    }
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    assert_eq!(warnings(&job()), Vec::<String>::new());
    let on_failure = |policy: Value| {
        let mut job = with("/spec/template/spec/restartPolicy", json!("OnFailure"));
        job["spec"]["failurePolicy"] = policy;
        job
    };
    for (object, told) in [
        (with("/spec/parallelism", json!(-1)), "spec.parallelism: a negative number"),
        (with("/spec/completionPolicy", json!({"type": "Sometimes"})), "spec.completionPolicy.type: unknown"),
        (with("/spec/failurePolicy", json!({"type": "Shrug"})), "spec.failurePolicy.type: unknown"),
        (with("/spec/completionPolicy", json!({"ttlSecondsAfterFinished": -1})), "spec.completionPolicy.ttl"),
        (with("/spec/failurePolicy", json!({"restartLimit": -1})), "spec.failurePolicy.restartLimit: with"),
        (on_failure(json!({"type": "FailFast"})), "spec.failurePolicy.restartLimit is 0 for each pod"),
    ] {
        let found = warnings(&object);
        assert!(found.len() == 1 && found[0].starts_with(told), "{found:?}");
    }
    assert_eq!(warnings(&on_failure(json!({"type": "FailFast", "restartLimit": 3}))), Vec::<String>::new());
    assert_eq!(warnings(&on_failure(json!({"type": "Continue"}))), Vec::<String>::new());
}

#[tokio::test]
async fn refusals_are_told_as_what_they_are_and_not_as_our_own_failure() {
    let Verdict::Deny { code, message, .. } =
        judged("CREATE", with("/spec/template/spec/restartPolicy", json!("Always")), Value::Null).await
    else {
        panic!("accepted")
    };
    assert_eq!(code, 422);
    assert!(message.ends_with("pod restartPolicy can only be Never or OnFailure"), "{message}");
    let container = |name: &str| with("/spec/template/spec/containers", json!([{"name": name}]));
    let Verdict::Deny { code, message, .. } = judged("CREATE", container("bad"), Value::Null).await else {
        panic!("accepted")
    };
    assert_eq!(
        (code, message.as_str()),
        (422, "spec.template.spec.containers[0].name: Invalid value: \"bad\": no")
    );
    let Verdict::Deny { code, .. } = judged("CREATE", container("broken"), Value::Null).await else {
        panic!("accepted")
    };
    assert_eq!(code, 500, "Kubernetes was not asked");
}

#[tokio::test]
async fn every_field_may_change_and_what_is_stored_can_always_go() {
    let mut changed = job();
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "x:2".into();
    changed["spec"]["parallelism"] = 3.into();
    assert_eq!(judged("UPDATE", changed, job()).await, Verdict::allow());
    let stored = with("/spec/template/spec/containers", json!([{"name": "bad"}]));
    let mut going = stored.clone();
    going["metadata"]["finalizers"] = json!([]);
    assert_eq!(judged("UPDATE", going, stored.clone()).await, Verdict::allow());
    let mut paused = stored.clone();
    paused["spec"]["paused"] = true.into();
    assert_eq!(judged("UPDATE", paused, stored).await, Verdict::allow(), "its template is not judged again");
    assert_eq!(judged("DELETE", Value::Null, job()).await, Verdict::allow());
}
