use std::sync::Mutex;

use kruise_webhook::review::FieldError;
use kruise_webhook::template::TemplateCheck;
use serde_json::json;

use super::*;

/// An API server that refuses templates without containers, and children as it is told to.
struct Server {
    opinion: Opinion,
    asked: Mutex<Vec<Kind>>,
}

impl ChildCheck for Server {
    fn check<'a>(&'a self, _: &'a str, child: &'a DynamicObject, kind: Kind) -> BoxFuture<'a, Opinion> {
        assert!(child.metadata.name.is_none() && child.metadata.owner_references.is_none());
        self.asked.lock().unwrap().push(kind);
        Box::pin(std::future::ready(self.opinion.clone()))
    }
}

impl TemplateCheck for Server {
    fn check<'a>(&'a self, _: &'a str, template: &'a Value) -> BoxFuture<'a, Result<(), Vec<FieldError>>> {
        let containers = template.pointer("/spec/containers").and_then(Value::as_array);
        let good = containers.is_some_and(|containers| !containers.is_empty());
        let faults = vec![FieldError::required("template.spec.containers", "")];
        Box::pin(std::future::ready(if good { Ok(()) } else { Err(faults) }))
    }
}

const OPTIONS: Options = Options { default_templates: true, host_network_ports: false };

fn server(opinion: Opinion) -> Arc<Server> {
    Arc::new(Server { opinion, asked: Mutex::default() })
}

fn pods() -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "nginx:1"}]}}}})
}

fn object(spec: Value) -> Value {
    let mut object = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "AdvancedCronJob",
        "metadata": {"name": "a", "namespace": "shop"},
        "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Allow", "template": {"jobTemplate": pods()}}});
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

fn list(spec: Value) -> Value {
    let mut whole = json!({"images": ["nginx:1"], "completionPolicy": {"type": "Always"}});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    object(json!({"concurrencyPolicy": "Replace", "template": {"imageListPullJobTemplate": {"spec": whole}}}))
}

fn request(object: Value, old: Option<Value>) -> AdmissionRequest {
    serde_json::from_value(json!({
        "operation": if old.is_some() { "UPDATE" } else { "CREATE" }, "namespace": "shop",
        "resource": {"group": "apps.kruise.io", "version": "v1beta1", "resource": "advancedcronjobs"},
        "object": object, "oldObject": old,
    }))
    .unwrap()
}

async fn judged(object: Value, old: Option<Value>, server: &Arc<Server>) -> Verdict {
    let templates = Templates::new(Arc::clone(server) as Arc<dyn TemplateCheck>);
    let context = Context::new(OPTIONS, templates, Arc::clone(server) as Arc<dyn ChildCheck>);
    handle(&request(object, old), false, &context).await
}

fn faults(object: &Value, old: Option<&Value>) -> Vec<String> {
    validate(object, old).iter().map(ToString::to_string).collect()
}

/// The one fault of an object.
fn fault(object: Value) -> String {
    let found = faults(&object, None);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

fn defaulted(mut object: Value, old: Option<&Value>) -> Value {
    default(&mut object, old, OPTIONS);
    object
}

#[test]
fn what_is_unset_is_filled_in() {
    let spec = defaulted(object(json!({"concurrencyPolicy": null})), None)["spec"].clone();
    assert_eq!(spec["concurrencyPolicy"], "Allow");
    assert_eq!(spec["paused"], false);
    assert_eq!(
        (&spec["successfulJobsHistoryLimit"], &spec["failedJobsHistoryLimit"]),
        (&json!(3), &json!(1))
    );
    let pods = &spec["template"]["jobTemplate"]["spec"]["template"]["spec"];
    assert_eq!(pods["restartPolicy"], "Always");
    assert_eq!(pods["containers"][0]["imagePullPolicy"], "Always");
    let zero =
        defaulted(object(json!({"successfulJobsHistoryLimit": 0, "paused": true})), None)["spec"].clone();
    assert_eq!((&zero["successfulJobsHistoryLimit"], &zero["paused"]), (&json!(0), &json!(true)));
}

#[test]
fn an_update_that_leaves_the_template_alone_gets_no_new_defaults_in_it() {
    let stored = object(json!({}));
    let same = defaulted(object(json!({"schedule": "@daily"})), Some(&stored));
    assert_eq!(same["spec"]["template"], stored["spec"]["template"]);
    // Applying the manifest that the stored object came from changes nothing.
    let stored = defaulted(object(json!({})), None);
    assert_eq!(defaulted(object(json!({})), Some(&stored)), stored);
}

#[test]
fn templates_are_left_alone_with_the_gate() {
    let mut given = object(json!({}));
    default(&mut given, None, Options { default_templates: false, ..OPTIONS });
    assert_eq!(given["spec"]["template"], object(json!({}))["spec"]["template"]);
}

#[test]
fn an_image_list_is_filled_in_only_if_it_does_not_say_when_it_is_finished() {
    let spec = |given: Value| {
        let given = object(
            json!({"concurrencyPolicy": null, "template": {"imageListPullJobTemplate": {"spec": given}}}),
        );
        let spec = defaulted(given, None)["spec"].clone();
        assert_eq!(spec["concurrencyPolicy"], "Replace");
        spec["template"]["imageListPullJobTemplate"]["spec"].clone()
    };
    assert_eq!(
        spec(json!({"images": ["a"], "pullPolicy": {"backoffLimit": 1}})),
        json!({"images": ["a"], "completionPolicy": {"type": "Always"}, "imagePullPolicy": "IfNotPresent",
            "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": 1}})
    );
    let said = json!({"images": ["a"], "completionPolicy": {"type": "Always"}});
    assert_eq!(spec(said.clone()), said);
}

#[test]
fn every_rule_names_its_field() {
    let named = |name: &str| {
        let mut object = object(json!({}));
        object["metadata"]["name"] = json!(name);
        object
    };
    let two = json!({"template": {"jobTemplate": pods(), "broadcastJobTemplate": pods()}});
    for (object, expected) in [
        (named("a.b"), "metadata.name: Invalid value: \"a.b\""),
        (named(&"x".repeat(64)), "metadata.name: Invalid value"),
        (
            object(json!({"schedule": "* * * *"})),
            "spec.schedule: Invalid value: \"* * * *\": expected exactly 5 fields",
        ),
        (
            object(json!({"schedule": "TZ=UTC"})),
            "spec.schedule: Invalid value: \"TZ=UTC\": invalid cron schedule: ",
        ),
        (object(json!({"schedule": "TZ=UTC * * * * *", "timeZone": "UTC"})), "spec.schedule: Invalid value"),
        (
            object(json!({"timeZone": ""})),
            "spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string",
        ),
        (
            object(json!({"timeZone": "LOCAL"})),
            "spec.timeZone: Invalid value: \"LOCAL\": timeZone must be an explicit",
        ),
        (
            object(json!({"timeZone": "Mars/Base"})),
            "spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone",
        ),
        (object(json!({"startingDeadlineSeconds": -1})), "spec.startingDeadlineSeconds: Invalid value: -1"),
        (
            object(json!({"successfulJobsHistoryLimit": -1})),
            "spec.successfulJobsHistoryLimit: Invalid value: -1",
        ),
        (object(json!({"failedJobsHistoryLimit": -1})), "spec.failedJobsHistoryLimit: Invalid value: -1"),
        (object(json!({"template": {}})), "spec.template: Forbidden: spec must have one template, "),
        (object(two), "spec.template: Forbidden: spec can have only one template, "),
        (
            object(json!({"template": {"jobTemplate": {}}})),
            "spec.template.jobTemplate.spec.template: Required value",
        ),
    ] {
        let found = fault(object);
        assert!(found.starts_with(expected), "{found}");
    }
    let empty = faults(&object(json!({"schedule": ""})), None);
    assert!(
        empty[0].contains("schedule cannot be empty") && empty[1].contains("empty spec string"),
        "{empty:?}"
    );
}

#[test]
fn an_image_list_must_come_to_an_end_that_the_history_can_keep() {
    let many: Vec<_> = (0..256).map(|at| format!("a:{at}")).collect();
    for (spec, field, reason) in [
        (json!({"images": []}), "images", "image can not be empty"),
        (json!({"images": many}), "images", "255"),
        (json!({"images": ["a", "a"]}), "images", "duplicate"),
        (json!({"images": ["::bad"]}), "images", "invalid image"),
        (json!({"selector": {}, "podSelector": {}}), "podSelector", "both"),
        (json!({"selector": {"names": ["a", "a"]}}), "selector", "duplicated"),
        (json!({"completionPolicy": {"type": "Never"}}), "completionPolicy", "type must be Always"),
        (
            json!({"completionPolicy": {"type": "Always", "activeDeadlineSeconds": 86_401}}),
            "completionPolicy",
            "86400",
        ),
        (
            json!({"completionPolicy": {"type": "Always", "activeDeadlineSeconds": 599}}),
            "completionPolicy",
            "600",
        ),
        (
            json!({"completionPolicy": {"type": "Always", "ttlSecondsAfterFinished": 5}}),
            "completionPolicy",
            "ttlSecondsAfterFinished is not supported in advancedCronJob",
        ),
    ] {
        let found = fault(list(spec));
        let path = format!("spec.template.imageListPullJobTemplate.spec.{field}: Invalid value");
        assert!(found.starts_with(&path) && found.contains(reason), "{found}");
    }
    let mut allow = list(json!({}));
    allow["spec"]["concurrencyPolicy"] = json!("Allow");
    assert!(fault(allow).ends_with("should be Replace or Forbid, but current value is: Allow"));
    assert_eq!(faults(&list(json!({})), None), Vec::<String>::new());
}

#[test]
fn when_and_how_can_be_changed_but_not_what() {
    let stored = object(json!({}));
    let changed = object(
        json!({"schedule": "@daily", "concurrencyPolicy": "Forbid", "paused": true, "timeZone": "UTC",
        "startingDeadlineSeconds": 1, "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 2}),
    );
    assert_eq!(faults(&changed, Some(&stored)), Vec::<String>::new());
    let mut nothing = stored.clone();
    nothing["spec"]["template"]["jobTemplate"]["metadata"] = json!({"labels": {}});
    nothing["spec"]["template"]["broadcastJobTemplate"] = Value::Null;
    assert_eq!(faults(&nothing, Some(&stored)), Vec::<String>::new(), "nothing is said by these");
    let mut other = stored.clone();
    other["spec"]["template"]["jobTemplate"]["spec"]["backoffLimit"] = json!(1);
    let kind = object(json!({"template": {"broadcastJobTemplate": pods()}}));
    for object in [other, kind, list(json!({}))] {
        let found = faults(&object, Some(&stored));
        assert!(found[0].starts_with("spec: Forbidden: updates to advancedcronjob spec"), "{found:?}");
    }
    let images = list(json!({"images": ["b:2"], "parallelism": 3}));
    assert_eq!(faults(&images, Some(&list(json!({})))), Vec::<String>::new());
    let left = object(json!({"template": {"broadcastJobTemplate": pods()}}));
    let mut applied = left.clone();
    applied["spec"]["template"]["broadcastJobTemplate"]["metadata"] = json!({"labels": {"team": "a"}});
    assert_eq!(faults(&applied, Some(&left)), Vec::<String>::new(), "OpenKruise has not stored these");
    let mut named = changed;
    named["metadata"]["name"] = json!("old.name");
    assert_eq!(faults(&named, Some(&stored)), Vec::<String>::new(), "a stored name is nobody's fault");
}

#[test]
fn what_is_hardly_meant_is_warned_of() {
    let mut long = object(json!({}));
    long["metadata"]["name"] = json!("x".repeat(53));
    assert!(warnings(&long, None)[0].starts_with("metadata.name: longer than 52 characters"));
    assert_eq!(warnings(&long, Some(&long)), Vec::<String>::new(), "once is enough");
    let never = object(json!({"schedule": "0 0 31 2 *"}));
    assert_eq!(warnings(&never, None), ["spec.schedule: matches no time within five years"]);
    let mut endless = pods();
    endless["spec"]["completionPolicy"] = json!({"type": "Never"});
    let endless =
        object(json!({"concurrencyPolicy": "Forbid", "template": {"broadcastJobTemplate": endless}}));
    assert_eq!(warnings(&endless, None).len(), 1);
    assert_eq!(warnings(&object(json!({})), None), Vec::<String>::new());
}

#[tokio::test]
async fn a_child_that_would_be_refused_is_a_warning_and_a_bad_pod_template_an_error() {
    let accepted = server(Opinion::Accepted);
    assert_eq!(judged(object(json!({})), None, &accepted).await, Verdict::allow());
    assert_eq!(*accepted.asked.lock().unwrap(), [Kind::Job]);

    let refused = server(Opinion::Refused("restartPolicy".to_owned()));
    let Verdict::Allow { patched: None, warnings } = judged(object(json!({})), None, &refused).await else {
        unreachable!("it may be right by the time of a run")
    };
    assert_eq!(warnings, ["the Job of a run would be refused now: restartPolicy"]);
    for opinion in [Opinion::Refused("containers".to_owned()), Opinion::Unknown] {
        let bad = object(json!({"template": {"broadcastJobTemplate": {"spec": {"template": {"spec": {}}}}}}));
        let Verdict::Deny { code, message, .. } = judged(bad, None, &server(opinion)).await else {
            unreachable!("no container will ever do")
        };
        assert_eq!(code, 422);
        assert_eq!(
            message,
            "spec.template.broadcastJobTemplate.spec.template.spec.containers: Required value"
        );
    }
    assert_eq!(judged(object(json!({})), None, &server(Opinion::Unknown)).await, Verdict::allow());
}

#[tokio::test]
async fn nobody_is_asked_about_a_template_that_does_not_change() {
    let quiet = server(Opinion::Accepted);
    let verdict = judged(object(json!({"schedule": "@daily"})), Some(object(json!({}))), &quiet).await;
    assert_eq!(verdict, Verdict::allow());
    assert!(quiet.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn whatever_goes_can_go() {
    let mut going = object(json!({"schedule": "not any more"}));
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let verdict = judged(going.clone(), Some(going), &server(Opinion::Unknown)).await;
    assert_eq!(verdict, Verdict::allow());
}
