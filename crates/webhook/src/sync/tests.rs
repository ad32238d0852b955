use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;

use super::*;

const SECRET: &str = "/api/v1/namespaces/kruise-system/secrets/kruise-webhook-certs";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/\
                        kruise-mutating-webhook-configuration";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/\
                          kruise-validating-webhook-configuration";
const NAMESPACE: &str = "/api/v1/namespaces/kruise-system";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/kruise-system/deployments/kruise-controller-manager";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/clonesets.apps.kruise.io";

/// An API server that stores objects by path, checks resource versions and knows JSON Patch.
#[derive(Clone, Default)]
struct FakeApi {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    writes: Arc<Mutex<usize>>,
    /// Seconds that have passed.
    clock: Arc<AtomicI64>,
    dirs: Arc<Dirs>,
    /// Writes that are answered 403: the live object, if any, and what shall become of it.
    refuses: Arc<Mutex<Option<Refusal>>>,
}

type Refusal = fn(Option<&Value>, &Value) -> bool;

/// The certificate directories of the replicas, removed at the end.
#[derive(Default)]
struct Dirs(Mutex<Vec<std::path::PathBuf>>);

impl Drop for Dirs {
    fn drop(&mut self) {
        for dir in self.0.get_mut().unwrap() {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

impl FakeApi {
    fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let (code, value) = api.answer(&parts.method, parts.uri.path(), &body);
                let body = Full::new(Bytes::from(value.to_string()));
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        kube::Client::new(service, "kruise-system")
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        let mut objects = self.objects.lock().unwrap();
        let status = |code: u16, reason: &str| {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": reason, "reason": reason, "code": code
            });
            (code, status)
        };
        if *method != Method::GET {
            *self.writes.lock().unwrap() += 1;
        }
        let mut new = match *method {
            Method::GET => {
                return objects.get(path).map_or_else(|| status(404, "NotFound"), |live| (200, live.clone()));
            }
            Method::PATCH => {
                let mut live = objects.get(path).unwrap().clone();
                let patch: json_patch::Patch = serde_json::from_slice(body).unwrap();
                if json_patch::patch(&mut live, &patch).is_err() {
                    return status(422, "Invalid");
                }
                live
            }
            _ => serde_json::from_slice::<Value>(body).unwrap(),
        };
        let path = if *method == Method::POST {
            format!("{path}/{}", new["metadata"]["name"].as_str().unwrap())
        } else {
            path.to_owned()
        };
        let stored = objects.get(&path).map(|live| live["metadata"]["resourceVersion"].clone());
        match (method, stored) {
            (&Method::POST, Some(_)) => return status(409, "AlreadyExists"),
            (&Method::PUT, Some(version)) if new["metadata"]["resourceVersion"] != version => {
                return status(409, "Conflict");
            }
            _ => {}
        }
        if self.refuses.lock().unwrap().is_some_and(|refuses| refuses(objects.get(&path), &new)) {
            return status(403, "Forbidden");
        }
        let version = *self.writes.lock().unwrap();
        new["metadata"]["resourceVersion"] = json!(version.to_string());
        objects.insert(path, new.clone());
        (200, new)
    }

    fn refuse(&self, refuses: Refusal) {
        *self.refuses.lock().unwrap() = Some(refuses);
    }

    fn put(&self, path: &str, object: Value) {
        self.objects.lock().unwrap().insert(path.to_owned(), object);
    }

    fn get(&self, path: &str) -> Value {
        self.objects.lock().unwrap()[path].clone()
    }

    fn remove(&self, path: &str) {
        self.objects.lock().unwrap().remove(path);
    }

    fn has(&self, path: &str) -> bool {
        self.objects.lock().unwrap().contains_key(path)
    }

    /// Lets time pass.
    fn wait(&self, seconds: i64) {
        self.clock.fetch_add(seconds, Ordering::Relaxed);
    }

    fn home(&self, path: &str, deleting: bool) {
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        self.put(path, json!({"metadata": {"name": "x", "uid": "u", "deletionTimestamp": deleted}}));
    }

    fn replica(&self, adjust: impl FnOnce(&mut WebhookOptions)) -> (Syncer, watch::Receiver<bool>) {
        let mut options = WebhookOptions::from_env(&|_| None).unwrap();
        options.cert_dir = std::env::temp_dir().join(format!("kruise-webhook-sync-{}", unique()));
        self.dirs.0.lock().unwrap().push(options.cert_dir.clone());
        adjust(&mut options);
        let paths: Vec<String> = configure::ENTRIES.iter().map(|entry| entry.path.to_owned()).collect();
        let (start, clock): (Timestamp, _) =
            ("2026-01-01T00:00:00Z".parse().unwrap(), Arc::clone(&self.clock));
        let now: Now = Arc::new(move || start + SignedDuration::from_secs(clock.load(Ordering::Relaxed)));
        Syncer::new(self.client(), options, &paths, Arc::new(CertStore::new()), now)
    }
}

fn unique() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn empty_chart() -> FakeApi {
    let api = FakeApi::default();
    api.put(
        SECRET,
        json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "kruise-webhook-certs", "resourceVersion": "0"}}),
    );
    api.put(
        CRD,
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "clonesets.apps.kruise.io", "resourceVersion": "0"},
            "spec": {
                "group": "apps.kruise.io", "names": {"kind": "CloneSet"}, "versions": [{"name": "v1alpha1"}],
                "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
                    "clientConfig": {"caBundle": "Cg=="}}}
            }
        }),
    );
    api
}

async fn settle(syncer: &mut Syncer) {
    assert_eq!(syncer.pass().await.unwrap(), Pass::Repaired);
    assert_eq!(syncer.pass().await.unwrap(), Pass::Settled);
}

#[tokio::test]
async fn an_empty_chart_is_completed_and_then_left_alone() {
    let api = empty_chart();
    let (mut syncer, ready) = api.replica(|_| {});
    assert!(!*ready.borrow());
    settle(&mut syncer).await;
    assert!(*ready.borrow());
    let secret = api.get(SECRET);
    assert_eq!(secret["data"].as_object().unwrap().len(), 6);
    let ca = &secret["data"]["ca-cert.pem"];
    assert_eq!(&api.get(MUTATING)["webhooks"][0]["clientConfig"]["caBundle"], ca);
    assert_eq!(&api.get(CRD)["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"], ca);
    let writes = *api.writes.lock().unwrap();
    let (mut second, _ready) = api.replica(|_| {});
    assert_eq!(second.pass().await.unwrap(), Pass::Settled);
    assert_eq!(*api.writes.lock().unwrap(), writes);
}

#[tokio::test]
async fn what_is_tampered_with_or_deleted_comes_back_the_same() {
    let api = empty_chart();
    let (mut syncer, ready) = api.replica(|_| {});
    settle(&mut syncer).await;
    let (secret, good) = (api.get(SECRET), api.get(MUTATING));
    let mut bad = good.clone();
    bad["webhooks"][0]["clientConfig"]["caBundle"] = json!("Cg==");
    api.put(MUTATING, bad);
    settle(&mut syncer).await;
    assert_eq!(api.get(MUTATING)["webhooks"], good["webhooks"]);
    api.remove(MUTATING);
    assert_eq!(syncer.pass().await.unwrap(), Pass::Holding);
    assert!(*ready.borrow(), "conversion goes on meanwhile");
    api.wait(10);
    settle(&mut syncer).await;
    assert_eq!(api.get(MUTATING)["webhooks"], good["webhooks"]);
    api.remove(SECRET);
    settle(&mut syncer).await;
    assert_eq!(api.get(SECRET)["data"], secret["data"]);
    assert!(*ready.borrow());
}

#[tokio::test]
async fn a_new_authority_is_served_with_only_after_it_was_published() {
    let api = empty_chart();
    let (mut syncer, _ready) = api.replica(|_| {});
    settle(&mut syncer).await;
    let before = syncer.served.clone();
    let (mut other, _ready) = empty_chart().replica(|_| {});
    settle(&mut other).await;
    let mut secret = api.get(SECRET);
    let theirs = other.served.clone().unwrap();
    for (key, value) in &theirs {
        secret["data"][key] = json!(base64::engine::general_purpose::STANDARD.encode(value));
    }
    api.put(SECRET, secret);
    assert_eq!(syncer.pass().await.unwrap(), Pass::Repaired);
    assert_eq!(syncer.served, before);
    assert_eq!(syncer.pass().await.unwrap(), Pass::Settled);
    assert_eq!(syncer.served, Some(theirs));
}

#[tokio::test]
async fn the_loop_gets_ready_counts_its_repairs_and_stops_when_told() {
    let api = empty_chart();
    let registry = Registry::new();
    let (syncer, mut ready) = api.replica(|_| {});
    let syncer = syncer.with_metrics(&registry).unwrap();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(syncer.run(stopped));
    let within = Duration::from_secs(10);
    tokio::time::timeout(within, ready.wait_for(|ready| *ready)).await.unwrap().unwrap();
    stop.send(true).unwrap();
    tokio::time::timeout(within, running).await.unwrap().unwrap();
    let families = registry.gather();
    let repairs = families.iter().find(|family| family.name().ends_with("repairs_total")).unwrap();
    assert_eq!(repairs.get_metric().len(), 4);
    assert!(families.iter().any(|family| family.name().ends_with("not_after_seconds")));
    let count = |name: &str| {
        let family = families.iter().find(|family| family.name() == name).unwrap();
        family.get_metric()[0].get_counter().get_value().to_string()
    };
    assert_eq!(count("certwatcher_read_certificate_total"), "1");
    assert_eq!(count("certwatcher_read_certificate_errors_total"), "0");
}

#[tokio::test]
async fn without_its_crd_a_manager_gets_ready_all_the_same() {
    let api = empty_chart();
    api.remove(CRD);
    let (mut syncer, ready) = api.replica(|_| {});
    settle(&mut syncer).await;
    assert!(*ready.borrow());
}

#[tokio::test]
async fn a_conversion_that_a_cleanup_dropped_is_restored() {
    let api = empty_chart();
    let mut crd = api.get(CRD);
    crd["spec"]["conversion"] = json!({"strategy": "None"});
    crd["spec"]["versions"] = json!([{"name": "v1beta1"}, {"name": "v1alpha1"}]);
    crd["metadata"]["annotations"] = json!({configure::CONVERSION_DROPPED: "true"});
    api.put(CRD, crd);
    let (mut syncer, ready) = api.replica(|_| {});
    settle(&mut syncer).await;
    let (crd, ca) = (api.get(CRD), &api.get(SECRET)["data"]["ca-cert.pem"]);
    assert_eq!(crd["spec"]["conversion"]["strategy"], "Webhook");
    assert_eq!(&crd["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"], ca);
    assert_eq!(crd["metadata"]["annotations"], json!({}));
    assert!(*ready.borrow());
}

#[tokio::test]
async fn external_certificates_are_ready_once_injected_and_nothing_is_written() {
    let api = empty_chart();
    let (mut own, _ready) = api.replica(|_| {});
    settle(&mut own).await;
    let ours = own.served.clone().unwrap();
    let good = api.get(MUTATING);
    let mut late = good.clone();
    late["webhooks"][0]["clientConfig"]["caBundle"] = Value::Null;
    api.put(MUTATING, late);
    let mut secret = api.get(SECRET);
    secret["data"]["ca.crt"] = json!(base64::engine::general_purpose::STANDARD.encode(&ours[certs::CA_CERT]));
    api.put(SECRET, secret);
    let writes = *api.writes.lock().unwrap();
    let (mut syncer, ready) = api.replica(|options| options.external_certs = true);
    assert!(matches!(syncer.pass().await, Err(SyncError::External(_))));
    assert!(!*ready.borrow());
    api.put(MUTATING, good);
    assert_eq!(syncer.pass().await.unwrap(), Pass::Settled);
    assert!(*ready.borrow());
    assert_eq!(*api.writes.lock().unwrap(), writes);
    assert_eq!(files::read(&syncer.options.cert_dir).unwrap()[certs::TLS_CERT], ours[certs::TLS_CERT]);
}

/// The certificate of another installation, as an issuer puts it into the Secret.
async fn issue(api: &FakeApi) -> SecretData {
    let (mut other, _ready) = empty_chart().replica(|_| {});
    settle(&mut other).await;
    let mut made = other.served.clone().unwrap();
    made.insert(certs::EXTERNAL_CA.to_owned(), made[certs::CA_CERT].clone());
    let mut secret = api.get(SECRET);
    for (key, value) in &made {
        secret["data"][key] = json!(base64::engine::general_purpose::STANDARD.encode(value));
    }
    api.put(SECRET, secret);
    made
}

/// Publishes an authority in one object, as an injector does.
fn inject(api: &FakeApi, path: &str, made: &SecretData) {
    let bundle = json!(base64::engine::general_purpose::STANDARD.encode(&made[certs::CA_CERT]));
    let mut object = api.get(path);
    if path == CRD {
        object["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"] = bundle;
    } else {
        for webhook in object["webhooks"].as_array_mut().unwrap() {
            webhook["clientConfig"]["caBundle"] = bundle.clone();
        }
    }
    api.put(path, object);
}

#[tokio::test]
async fn a_renewed_external_certificate_is_served_once_everything_trusts_it() {
    let api = empty_chart();
    settle(&mut api.replica(|_| {}).0).await;
    let first = issue(&api).await;
    for path in [MUTATING, VALIDATING, CRD] {
        inject(&api, path, &first);
    }
    let (mut syncer, ready) = api.replica(|options| options.external_certs = true);
    let serves = |syncer: &Syncer, made: &SecretData| {
        syncer.served.as_ref().unwrap()[certs::SERVER_CERT] == made[certs::SERVER_CERT]
    };
    assert_eq!(syncer.pass().await.unwrap(), Pass::Settled);
    assert!(serves(&syncer, &first) && *ready.borrow());
    // The issuer comes first.
    let second = issue(&api).await;
    assert_eq!(syncer.pass().await.unwrap(), Pass::Holding);
    assert!(serves(&syncer, &first) && *ready.borrow());
    // With one object of three neither is right.
    inject(&api, MUTATING, &second);
    assert!(matches!(syncer.pass().await, Err(SyncError::External(_))));
    assert!(serves(&syncer, &first));
    inject(&api, VALIDATING, &second);
    inject(&api, CRD, &second);
    assert_eq!(syncer.pass().await.unwrap(), Pass::Settled);
    assert!(serves(&syncer, &second) && *ready.borrow());
    // A Secret that is gone or broken takes nothing away from what is served.
    let good = api.get(SECRET);
    let mut broken = good.clone();
    broken["data"]["tls.key"] =
        json!(base64::engine::general_purpose::STANDARD.encode(&first[certs::TLS_KEY]));
    api.put(SECRET, broken);
    assert_eq!(syncer.pass().await.unwrap(), Pass::Holding);
    assert!(serves(&syncer, &second) && *ready.borrow());
    api.put(SECRET, good);
    assert_eq!(syncer.pass().await.unwrap(), Pass::Settled);
    api.remove(SECRET);
    assert_eq!(syncer.pass().await.unwrap(), Pass::Holding);
    assert!(serves(&syncer, &second) && *ready.borrow());
}

#[tokio::test]
async fn with_a_host_certificates_live_on_disk_and_client_configs_are_urls() {
    let api = empty_chart();
    let (mut syncer, _ready) = api.replica(|options| {
        options.host = Some("10.0.0.5".to_owned());
        options.certs_on_disk = true;
    });
    settle(&mut syncer).await;
    assert_eq!(api.get(SECRET).get("data"), None);
    let url = "https://10.0.0.5:9876/mutate-apps-kruise-io-cloneset";
    assert_eq!(api.get(MUTATING)["webhooks"][0]["clientConfig"]["url"], url);
    let (mut restarted, _ready) = api.replica(|options| *options = syncer.options.clone());
    assert_eq!(restarted.pass().await.unwrap(), Pass::Settled);
    assert_eq!(restarted.served, syncer.served);
}

#[tokio::test]
async fn a_conflict_is_an_error_and_the_next_pass_takes_what_the_other_wrote() {
    let api = empty_chart();
    let (mut first, _ready) = api.replica(|_| {});
    let (mut second, _ready) = api.replica(|_| {});
    let (one, two) = tokio::join!(first.pass(), second.pass());
    assert!(one.is_ok() || two.is_ok());
    for syncer in [&mut first, &mut second] {
        while syncer.pass().await.ok() != Some(Pass::Settled) {}
    }
    assert_eq!(first.served, second.served);
}

#[tokio::test]
async fn who_may_not_set_an_owner_publishes_all_the_same() {
    fn owners(object: &Value) -> Option<&Value> {
        object.pointer("/metadata/ownerReferences")
    }
    for rendered in [true, false] {
        let api = empty_chart();
        if rendered {
            for (path, name) in
                [(MUTATING, configure::MUTATING_NAME), (VALIDATING, configure::VALIDATING_NAME)]
            {
                api.put(path, json!({"metadata": {"name": name, "resourceVersion": "0"}, "webhooks": []}));
            }
        } else {
            // Right but for the owner.
            settle(&mut api.replica(|_| {}).0).await;
        }
        api.home(NAMESPACE, false);
        // As the admission plugin OwnerReferencesPermissionEnforcement does without the right to delete the object.
        api.refuse(|live, new| live.is_some_and(|live| owners(live) != owners(new)));
        let (mut syncer, ready) = api.replica(|_| {});
        while syncer.pass().await.unwrap() != Pass::Settled {}
        assert!(*ready.borrow());
        assert_eq!(owners(&api.get(MUTATING)), None);
        let ca = &api.get(SECRET)["data"]["ca-cert.pem"];
        assert_eq!(&api.get(MUTATING)["webhooks"][0]["clientConfig"]["caBundle"], ca);
        // It is not asked for time and again.
        let writes = *api.writes.lock().unwrap();
        assert_eq!(syncer.pass().await.unwrap(), Pass::Settled);
        assert_eq!(*api.writes.lock().unwrap(), writes);
    }
}

fn code_of(error: &SyncError) -> u16 {
    let SyncError::Api { source, .. } = error else { panic!("{error}") };
    let kube::Error::Api(status) = source.as_ref() else { panic!("{error}") };
    status.code
}

#[tokio::test]
async fn a_refused_write_stops_no_other_and_is_told() {
    let api = empty_chart();
    // Refuses what comes first, and makes it impossible to be ready.
    api.refuse(|_, new| new["metadata"]["name"] == configure::MUTATING_NAME);
    let (mut syncer, ready) = api.replica(|_| {});
    assert_eq!(code_of(&syncer.pass().await.unwrap_err()), 403);
    assert!(!*ready.borrow() && !api.has(MUTATING));
    let ca = &api.get(SECRET)["data"]["ca-cert.pem"];
    assert_eq!(&api.get(VALIDATING)["webhooks"][0]["clientConfig"]["caBundle"], ca);
    assert_eq!(&api.get(CRD)["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"], ca);
    api.refuse(|_, _| false);
    api.wait(10);
    settle(&mut syncer).await;
    assert!(*ready.borrow());
}

#[tokio::test]
async fn replicas_stay_in_the_service_when_only_what_requests_do_not_see_differs() {
    let api = empty_chart();
    let (mut first, _ready) = api.replica(|_| {});
    settle(&mut first).await;
    let good = api.get(MUTATING);
    let changed = |change: fn(&mut Value)| {
        let mut object = good.clone();
        change(&mut object);
        object
    };
    let rows: [(Value, bool); 5] = [
        (changed(|it| it["metadata"]["annotations"]["template"] = json!("")), true),
        (changed(|it| it["webhooks"][0]["sideEffects"] = json!("Unknown")), true),
        (changed(|it| it["webhooks"][0]["clientConfig"]["caBundle"] = json!("Cg==")), false),
        (changed(|it| it["webhooks"][0]["rules"] = json!([])), false),
        (changed(|it| it["webhooks"] = json!([])), false),
    ];
    api.refuse(|_, _| true);
    for (live, stays) in rows {
        // One that runs, and one that starts.
        api.put(MUTATING, good.clone());
        let (mut running, ready) = api.replica(|_| {});
        assert_eq!(running.pass().await.unwrap(), Pass::Settled);
        let (mut starting, started) = api.replica(|_| {});
        api.put(MUTATING, live.clone());
        for syncer in [&mut running, &mut starting] {
            assert_eq!(code_of(&syncer.pass().await.unwrap_err()), 403, "{live}");
        }
        assert_eq!((*ready.borrow(), *started.borrow()), (stays, stays), "{live}");
    }
    // The Secret is no part of a request either.
    api.put(MUTATING, good);
    let (mut running, ready) = api.replica(|_| {});
    assert_eq!(running.pass().await.unwrap(), Pass::Settled);
    api.remove(SECRET);
    assert_eq!(code_of(&running.pass().await.unwrap_err()), 403);
    assert!(*ready.borrow());
}

#[tokio::test]
async fn who_disagrees_about_the_entries_is_contradicted_ever_more_rarely() {
    let api = empty_chart();
    let (mut syncer, ready) = api.replica(|_| {});
    settle(&mut syncer).await;
    api.wait(60);
    let good = api.get(MUTATING);
    let mut theirs = good.clone();
    theirs["webhooks"][0]["rules"] = json!([]);
    let mut repairs = Vec::new();
    for second in 0..120 {
        api.put(MUTATING, theirs.clone());
        let pass = syncer.pass().await.unwrap();
        if pass == Pass::Repaired {
            repairs.push(second);
        }
        assert!(*ready.borrow() && syncer.until_due(REPEAT) <= REPEAT);
        api.wait(1);
    }
    assert_eq!(repairs, [0, 1, 2, 3, 5, 9, 16, 29, 55, 85, 115]);
    // What cannot be reached is not called right.
    theirs["webhooks"][0]["clientConfig"]["service"]["name"] = json!("elsewhere");
    api.put(MUTATING, theirs.clone());
    assert_eq!(syncer.pass().await.unwrap(), Pass::Holding);
    assert_eq!(syncer.until_due(REPEAT), Duration::from_secs(25));
    // A new authority is published all the same.
    let made = issue(&api).await;
    assert_eq!(syncer.pass().await.unwrap(), Pass::Repaired);
    let bundle = api.get(MUTATING)["webhooks"][0]["clientConfig"]["caBundle"].clone();
    assert_eq!(bundle, json!(base64::engine::general_purpose::STANDARD.encode(&made[certs::CA_CERT])));
    // Who leaves it alone for a minute is trusted again.
    assert_eq!(syncer.pass().await.unwrap(), Pass::Settled);
    api.wait(60);
    theirs["webhooks"] = json!([]);
    theirs["metadata"] = api.get(MUTATING)["metadata"].clone();
    api.put(MUTATING, theirs);
    assert_eq!(syncer.pass().await.unwrap(), Pass::Repaired);
    assert_eq!(syncer.until_due(REPEAT), REPEAT);
}

type Change = fn(&FakeApi);

/// Every way in which an installation is on its way out, given one that runs.
const REMOVALS: [(&str, Change); 4] = [
    ("the Deployment is gone", |api| api.remove(DEPLOYMENT)),
    ("the Deployment waits for its pods", |api| api.home(DEPLOYMENT, true)),
    ("the Namespace is gone", |api| api.remove(NAMESPACE)),
    ("the Namespace is being deleted", |api| api.home(NAMESPACE, true)),
];

#[tokio::test]
async fn an_uninstall_is_not_undone_by_a_manager_that_still_runs() {
    for (case, remove) in REMOVALS {
        let api = empty_chart();
        api.home(NAMESPACE, false);
        api.home(DEPLOYMENT, false);
        let (mut syncer, _ready) = api.replica(|_| {});
        settle(&mut syncer).await;
        // Helm begins with the configurations.
        api.remove(MUTATING);
        assert_eq!(syncer.pass().await.unwrap(), Pass::Holding, "{case}");
        remove(&api);
        api.remove(SECRET);
        let writes = *api.writes.lock().unwrap();
        api.wait(60);
        assert_eq!(syncer.pass().await.unwrap(), Pass::Settled, "{case}");
        assert!(!api.has(MUTATING) && !api.has(SECRET), "{case}");
        assert_eq!(*api.writes.lock().unwrap(), writes, "{case}");
    }
}

#[tokio::test]
async fn a_manager_that_starts_into_an_uninstall_does_not_undo_it() {
    let api = empty_chart();
    api.home(DEPLOYMENT, false);
    let (mut first, _ready) = api.replica(|_| {});
    settle(&mut first).await;
    api.remove(MUTATING);
    let (mut second, ready) = api.replica(|_| {});
    assert_eq!(second.pass().await.unwrap(), Pass::Holding);
    assert!(!*ready.borrow() && !api.has(MUTATING));
    // Nobody goes: it was deleted by mistake.
    api.wait(10);
    settle(&mut second).await;
    assert!(*ready.borrow() && api.has(MUTATING));
}
