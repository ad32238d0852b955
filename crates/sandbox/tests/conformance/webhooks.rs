//! Admission webhooks that cannot be reached, and configurations that are refused.

use serde_json::{Value, json};

use crate::harness::{Call, Target};
use crate::subresources::given_pod;

const MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";

cases! {
    an_unreachable_webhook_fails_the_request,
    an_unreachable_webhook_is_ignored_if_it_says_so,
    a_wrong_configuration_is_refused,
    a_configuration_gets_defaults,
    deletions_are_shown_with_their_options,
    an_eviction_is_not_shown_as_a_deletion,
}

/// A configuration for config maps of the case's own namespace.
fn configuration(kind: &str, policy: &str) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "{ns}"}, "webhooks": [{
        "name": "hook.example.com", "failurePolicy": policy, "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 2,
        "clientConfig": {"url": "https://127.0.0.1:1/hook"},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "{ns}"}},
        "objectSelector": {"matchLabels": {"hooked": "yes"}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]}]})
}

fn hooked(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"hooked": "yes"}}})
}

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

async fn an_unreachable_webhook_fails_the_request(t: Target) {
    for (path, kind) in
        [(VALIDATING, "ValidatingWebhookConfiguration"), (MUTATING, "MutatingWebhookConfiguration")]
    {
        let one = format!("{path}/{{ns}}");
        t.leaves(&one);
        t.given(path, configuration(kind, "Fail")).await;
        // The API server takes a moment to see it.
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while t.quiet(Call::new("POST", &format!("{MAPS}?dryRun=All")).json(&hooked("probe"))).await.code
            == 201
        {
            assert!(tokio::time::Instant::now() < deadline, "the webhook is not called");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        t.post(MAPS, hooked("a")).await;
        t.post(MAPS, json!({"metadata": {"generateName": "not-selected-"}})).await;
        let answer = t.quiet(Call::new("DELETE", &one)).await;
        assert_eq!(answer.code, 200);
        while t.quiet(Call::new("POST", &format!("{MAPS}?dryRun=All")).json(&hooked("probe"))).await.code
            != 201
        {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

async fn an_unreachable_webhook_is_ignored_if_it_says_so(t: Target) {
    t.leaves(&format!("{VALIDATING}/{{ns}}"));
    t.given(VALIDATING, configuration("ValidatingWebhookConfiguration", "Ignore")).await;
    t.post(MAPS, hooked("a")).await;
}

async fn a_wrong_configuration_is_refused(t: Target) {
    let changes: [fn(&mut Value); 10] = [
        |w| w["name"] = json!("short"),
        |w| w["sideEffects"] = json!("Some"),
        |w| {
            w.as_object_mut().unwrap().remove("sideEffects");
        },
        |w| w["admissionReviewVersions"] = json!(["v0"]),
        |w| w["admissionReviewVersions"] = json!([]),
        |w| w["clientConfig"] = json!({}),
        |w| w["clientConfig"] = json!({"url": "http://example.com"}),
        |w| w["timeoutSeconds"] = json!(31),
        |w| w["failurePolicy"] = json!("Maybe"),
        |w| {
            w["rules"] = json!([{"apiGroups": [], "apiVersions": ["v1"], "operations": ["FROB"], "resources": ["pods"]}])
        },
    ];
    for change in changes {
        let mut body = configuration("ValidatingWebhookConfiguration", "Fail");
        change(&mut body["webhooks"][0]);
        t.post(&format!("{VALIDATING}?dryRun=All"), body).await;
    }
}

async fn a_configuration_gets_defaults(t: Target) {
    let mut body = configuration("MutatingWebhookConfiguration", "Fail");
    body["webhooks"][0]
        .as_object_mut()
        .unwrap()
        .retain(|key, _| ["name", "sideEffects", "admissionReviewVersions", "rules"].contains(&key.as_str()));
    body["webhooks"][0]["clientConfig"] = json!({"service": {"namespace": "{ns}", "name": "s"}});
    t.post(&format!("{MUTATING}?dryRun=All"), body.clone()).await;
    body["kind"] = json!("ValidatingWebhookConfiguration");
    t.post(&format!("{VALIDATING}?dryRun=All"), body).await;
}

/// A webhook that cannot be reached for deletions that fulfil an expression: they fail, others do not.
fn refusing(name: &str, resource: &str, expression: &str) -> Value {
    let mut webhook = configuration("ValidatingWebhookConfiguration", "Fail")["webhooks"][0].clone();
    webhook["name"] = json!(format!("{name}.example.com"));
    webhook["objectSelector"] = json!({"matchLabels": {"for": name}});
    webhook["matchConditions"] = json!([{"name": "c", "expression": expression}]);
    webhook["rules"] = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": [resource]}]);
    webhook
}

/// Puts webhooks in force; the last refuses to delete the path, which tells when.
async fn refuse(t: &Target, webhooks: Vec<Value>, probe: &str) {
    t.leaves(&format!("{VALIDATING}/{{ns}}"));
    let mut all = configuration("ValidatingWebhookConfiguration", "Fail");
    all["webhooks"] = Value::from(webhooks);
    t.given(VALIDATING, all).await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while t.quiet(Call::new("DELETE", &format!("{probe}?dryRun=All"))).await.code == 200 {
        assert!(tokio::time::Instant::now() < deadline, "the webhooks are not called");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn deletions_are_shown_with_their_options(t: Target) {
    let expressions = [
        ("dry", "request.dryRun && request.options.dryRun == ['All']"),
        (
            "policy",
            "has(request.options.propagationPolicy) && request.options.propagationPolicy == 'Foreground'",
        ),
        ("grace", "has(request.options.gracePeriodSeconds) && request.options.gracePeriodSeconds == 7"),
        (
            "uid",
            "has(request.options.preconditions) && request.options.preconditions.uid == oldObject.metadata.uid",
        ),
        ("unnamed", "!has(request.name)"),
        ("probe", "true"),
    ];
    let mut uid = String::new();
    for (name, _) in expressions {
        let made = t.given(MAPS, json!({"metadata": {"name": name, "labels": {"for": name}}})).await;
        uid = if name == "uid" { made.uid() } else { uid };
    }
    let webhooks =
        expressions.iter().map(|(name, expression)| refusing(name, "configmaps", expression)).collect();
    refuse(&t, webhooks, &format!("{MAPS}/probe")).await;
    let dry = json!({"dryRun": ["All"]});
    let also = |field: &str, value: Value| {
        let mut options = dry.clone();
        options[field] = value;
        options
    };
    for (path, options) in [
        ("/policy", dry.clone()),
        ("/policy", also("propagationPolicy", json!("Background"))),
        ("/policy", also("propagationPolicy", json!("Foreground"))),
        ("/grace", also("gracePeriodSeconds", json!(8))),
        ("/grace", also("gracePeriodSeconds", json!(7))),
        ("/uid", dry.clone()),
        ("/uid", also("preconditions", json!({"uid": uid}))),
        ("/unnamed", dry.clone()),
        ("?labelSelector=for%3Dunnamed", dry.clone()),
        ("/dry", dry.clone()),
        // With a body the query does not count: this one is for real.
        ("/dry?dryRun=All", json!({})),
        ("/dry", json!({})),
    ] {
        let answer = t.quiet(Call::new("DELETE", &format!("{MAPS}{path}")).json(&options)).await;
        t.note(&format!("{path} {options} {}", answer.code));
    }
}

async fn an_eviction_is_not_shown_as_a_deletion(t: Target) {
    for name in ["a", "probe"] {
        given_pod(&t, name, json!({"for": "probe"})).await;
    }
    const PODS: &str = "/api/v1/namespaces/{ns}/pods";
    refuse(&t, vec![refusing("probe", "pods", "true")], &format!("{PODS}/probe")).await;
    let deleted = t.quiet(Call::new("DELETE", &format!("{PODS}/a"))).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}});
    let evicted = t.quiet(Call::new("POST", &format!("{PODS}/a/eviction")).json(&eviction)).await;
    t.note(&format!("deleted {} evicted {}", deleted.code, evicted.code));
}
