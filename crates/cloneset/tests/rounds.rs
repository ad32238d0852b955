//! What rounds of one set lead to: against an API server in memory.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "all of this is a test")]

mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kruise_common::budget::{Asked, Permit, Permits};
use kruise_common::pod::PodView;
use serde_json::{Value, json};
use world::{REPLICAS, World};

/// A budget with a number of units left, which notes who asked.
#[derive(Default)]
struct Budget {
    left: AtomicUsize,
    asked: Mutex<Vec<String>>,
}

impl Permits for Budget {
    fn ask<'a>(&'a self, pod: &'a Arc<PodView>, budget: &'a str) -> Asked<'a> {
        assert_eq!(budget, "guard");
        self.asked.lock().unwrap().push(pod.name().to_owned());
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        let answer = left.map_or(Permit::Refused("none is left".to_owned()), |_| Permit::Granted);
        Box::pin(async { answer })
    }
}

fn guarded(set: &mut Value) {
    set["spec"]["template"]["metadata"]["annotations"] = json!({"pub.kruise.io/related-pub": "guard"});
}

fn condition(set: &Value, kind: &str) -> Option<Value> {
    let mut conditions = set["status"]["conditions"].as_array().into_iter().flatten();
    conditions.find(|condition| condition["type"] == kind).cloned()
}

fn at(world: &World, image: &str) -> usize {
    let pods = world.cluster.lock().unwrap().of("pods");
    pods.iter().filter(|pod| pod["spec"]["containers"][0]["image"] == image).count()
}

fn the_set(world: &World) -> Value {
    world.cluster.lock().unwrap().of("clonesets").remove(0)
}

#[tokio::test(start_paused = true)]
async fn a_refused_permit_ends_the_updates_of_the_round_and_is_told() {
    let budget = Arc::new(Budget::default());
    let mut world = World::with(Some(Arc::clone(&budget) as Arc<dyn Permits>), guarded);
    world.rest().await;
    budget.left.store(1, Ordering::SeqCst);
    world.change_image("web:2");
    world.round().await;
    // maxUnavailable allows two: one was permitted, one refused, and nobody else was asked for.
    assert_eq!(budget.asked.lock().unwrap().len(), 2);
    assert_eq!(at(&world, "web:2"), 1);
    let blocked = condition(&the_set(&world), "RolloutBlocked").unwrap();
    assert_eq!(blocked["reason"], "BudgetDenied");
    assert_eq!(blocked["message"], "1 pod waits: PodUnavailableBudget guard: none is left");

    // It asks again by itself, writes nothing else meanwhile, and goes on when it may.
    world.kubelet();
    for _ in 0..4 {
        assert!(!world.round().await, "it has to look again");
        world.kubelet();
    }
    let writes = world.cluster.lock().unwrap().writes.len();
    world.round().await;
    assert_eq!(world.cluster.lock().unwrap().writes.len(), writes, "waiting is quiet");
    budget.left.store(REPLICAS, Ordering::SeqCst);
    world.rest().await;
    assert_eq!(at(&world, "web:2"), REPLICAS);
    assert_eq!(condition(&the_set(&world), "RolloutBlocked"), None);
}

#[tokio::test(start_paused = true)]
async fn recreation_asks_too_and_pods_under_no_budget_do_not() {
    let budget = Arc::new(Budget::default());
    let mut world = World::with(Some(Arc::clone(&budget) as Arc<dyn Permits>), |set| {
        guarded(set);
        set["spec"]["updateStrategy"]["rollingUpdate"]["podUpdatePolicy"] = "ReCreate".into();
    });
    world.rest().await;
    world.change_image("web:2");
    world.round().await;
    assert_eq!(budget.asked.lock().unwrap().len(), 1);
    let marked = |world: &World| {
        let pods = world.cluster.lock().unwrap().of("pods");
        pods.iter()
            .filter(|pod| pod["metadata"]["labels"].get("apps.kruise.io/specified-delete").is_some())
            .count()
    };
    assert_eq!(marked(&world), 0);

    let mut free = World::with(Some(Arc::clone(&budget) as Arc<dyn Permits>), |_| ());
    free.rest().await;
    free.change_image("web:2");
    free.rest().await;
    assert_eq!(at(&free, "web:2"), REPLICAS);
    assert_eq!(budget.asked.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pods_of_an_older_revision_keep_its_claims_when_the_set_drops_them() {
    let mut world = World::with(None, |set| {
        set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
        set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = "100%".into();
    });
    world.rest().await;
    world.change(|set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2".into();
        set["spec"]["volumeClaimTemplates"] = json!([]);
        set["spec"]["replicas"] = (REPLICAS + 2).into();
    });
    world.rest().await;
    let of = |kind: &str| world.cluster.lock().unwrap().of(kind);
    let pods = of("pods");
    assert_eq!(pods.len(), REPLICAS + 2);
    for pod in &pods {
        assert_eq!(pod["spec"]["containers"][0]["image"], "web:1");
        assert_eq!(pod["spec"]["volumes"][0]["name"], "data", "its template may mount it");
    }
    assert_eq!(of("persistentvolumeclaims").len(), REPLICAS + 2);

    // Without the partition the new ones have none.
    world.change(|set| {
        set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = 0.into();
        set["spec"]["replicas"] = (REPLICAS + 3).into();
    });
    world.rest().await;
    let pods = world.cluster.lock().unwrap().of("pods");
    assert_eq!(pods.iter().filter(|pod| pod["spec"].get("volumes").is_none()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_revision_raised_again_takes_the_claims_of_today() {
    let mut world = World::new();
    world.rest().await;
    let first = the_set(&world)["status"]["updateRevision"].as_str().unwrap().to_owned();
    world.change_image("web:2");
    world.rest().await;
    world.change(|set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "web:1".into();
        set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
    });
    world.rest().await;
    let cluster = world.cluster.lock().unwrap();
    let revisions = cluster.of("controllerrevisions");
    let raised = revisions.iter().find(|revision| revision["metadata"]["name"] == *first).unwrap();
    assert_eq!(raised["revision"], 3);
    let annotations = &raised["metadata"]["annotations"];
    assert_eq!(
        annotations["apps.kruise.io/volume-claim-templates"],
        r#"[{"metadata":{"name":"data"},"spec":{}}]"#
    );
    assert_ne!(annotations["kruise.io/cloneset-volumeclaimtemplate-hash"], "");
}

#[tokio::test(start_paused = true)]
async fn a_revision_nobody_controls_is_used_and_neither_adopted_nor_deleted() {
    let mut world = World::new();
    world.rest().await;
    // The set is deleted without its pods and revisions, and created again.
    {
        let mut cluster = world.cluster.lock().unwrap();
        cluster.objects.retain(|(kind, _), _| kind != "pods");
        for mut revision in cluster.of("controllerrevisions") {
            let name = revision["metadata"]["name"].as_str().unwrap().to_owned();
            revision["metadata"]["ownerReferences"] = json!([]);
            cluster.put("controllerrevisions", &name, revision);
        }
        let mut set = cluster.of("clonesets").remove(0);
        set["metadata"]["uid"] = "uid-again".into();
        set["spec"]["revisionHistoryLimit"] = 0.into();
        set.as_object_mut().unwrap().remove("status");
        cluster.put("clonesets", "web", set);
        cluster.writes.clear();
    }
    world.restart();
    world.rest().await;
    for image in ["web:2", "web:3", "web:1"] {
        world.change_image(image);
        world.rest().await;
        assert_eq!(at(&world, image), REPLICAS, "{image}");
    }
    let cluster = world.cluster.lock().unwrap();
    assert_eq!(cluster.count("POST controllerrevisions/"), 2, "{:#?}", cluster.writes);
    let revisions = cluster.of("controllerrevisions");
    let orphans: Vec<_> =
        revisions.iter().filter(|revision| revision["metadata"]["ownerReferences"] == json!([])).collect();
    assert_eq!(orphans.len(), 1);
    assert_eq!(orphans[0]["revision"], 4, "used, and so the newest");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_goes_is_no_failure_and_nothing_is_tried_again() {
    let mut world = World::new();
    world.rest().await;
    {
        let mut cluster = world.cluster.lock().unwrap();
        cluster.going = true;
        cluster.writes.clear();
    }
    world.change(|set| set["spec"]["replicas"] = json!(REPLICAS + 20));
    assert!(world.round().await, "it is content");
    assert_eq!(world.cluster.lock().unwrap().count("POST pods"), 1, "one refusal is enough");
    assert_eq!(condition(&the_set(&world), "FailedScale"), None);
    // A template without a revision cannot have one any more.
    world.cluster.lock().unwrap().writes.clear();
    world.change_image("web:2");
    assert!(world.round().await, "it is content");
    assert_eq!(world.cluster.lock().unwrap().count("POST"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_was_deleted_and_made_again_is_still_updated_in_place() {
    let mut before = World::new();
    before.rest().await;
    let mut left = before.cluster.lock().unwrap().of("controllerrevisions").remove(0);
    left["metadata"]["ownerReferences"][0]["uid"] = "uid-before".into();
    let name = left["metadata"]["name"].as_str().unwrap().to_owned();

    // The garbage collector comes to what is left of the first set when the second has its pods.
    let mut world = World::new();
    world.cluster.lock().unwrap().put("controllerrevisions", &name, left);
    world.rest().await;
    world.cluster.lock().unwrap().objects.remove(&("controllerrevisions".to_owned(), name)).unwrap();
    world.restart();
    world.rest().await;
    assert_eq!(the_set(&world)["status"]["collisionCount"], 1);
    world.cluster.lock().unwrap().writes.clear();
    world.change_image("web:2");
    world.rest().await;
    assert_eq!(at(&world, "web:2"), REPLICAS);
    let cluster = world.cluster.lock().unwrap();
    assert_eq!((cluster.count("POST pods"), cluster.count("DELETE pods")), (0, 0), "{:#?}", cluster.writes);
    assert_eq!(cluster.of("controllerrevisions").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_resize_that_is_refused_is_asked_for_again() {
    let mut world = World::with(None, |set| {
        set["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    });
    world.rest().await;
    let shown = |world: &World, cpu: &str| {
        let pods = world.cluster.lock().unwrap().of("pods");
        pods.iter().filter(|pod| pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] == cpu).count()
    };
    assert_eq!(shown(&world, "1"), REPLICAS);
    world.cluster.lock().unwrap().refused = Some("PATCH pods/resize");
    world.change(|set| {
        set["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "2".into();
    });
    for _ in 0..5 {
        assert!(!world.round().await);
    }
    assert_eq!(shown(&world, "1"), REPLICAS);
    let updated = the_set(&world)["status"]["updatedReplicas"].clone();
    assert_eq!(updated, 0, "no pod says that it is updated");
    world.cluster.lock().unwrap().refused = None;
    world.rest().await;
    assert_ne!(shown(&world, "2"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_resize_is_refused_stays_in_service() {
    let mut world = World::with(None, |set| {
        set["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    });
    world.rest().await;
    {
        let mut cluster = world.cluster.lock().unwrap();
        cluster.refused = Some("PATCH pods/resize");
        cluster.writes.clear();
    }
    world.change(|set| {
        let main = &mut set["spec"]["template"]["spec"]["containers"][0];
        main["image"] = "web:2".into();
        main["resources"]["requests"]["cpu"] = "2".into();
    });
    for _ in 0..5 {
        assert!(!world.round().await);
    }
    let writes = std::mem::take(&mut world.cluster.lock().unwrap().writes);
    assert!(!writes.iter().any(|write| write.starts_with("PATCH pods")), "{writes:?}");
    world.cluster.lock().unwrap().refused = None;
    world.rest().await;
    assert_ne!(at(&world, "web:2"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_due_is_done_in_time_although_something_else_keeps_failing() {
    let mut world = World::with(None, |set| {
        set["spec"]["updateStrategy"]["rollingUpdate"]["inPlaceUpdateStrategy"] =
            json!({"gracePeriodSeconds": 10});
    });
    world.rest().await;
    world.change_image("web:2");
    world.round().await;
    world.cluster.lock().unwrap().refused = Some("POST pods");
    world.change(|set| set["spec"]["replicas"] = json!(REPLICAS + 1));
    assert!(!world.round().await, "the new pod is refused");
    let due = world.due.take().expect("the end of the grace period is not forgotten");
    assert!(due <= Duration::from_secs(10), "{due:?}");
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_asked_about_before_anything_else_is_decided() {
    let mut world =
        World::with(None, |set| set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = json!(1));
    world.rest().await;
    let updated = |world: &World| {
        let cluster = world.cluster.lock().unwrap();
        cluster.of("pods").iter().filter(|pod| pod["spec"]["containers"][0]["image"] == "web:2").count()
    };
    world.change_image("web:2");
    world.cluster.lock().unwrap().lose = Some("PATCH pods/ ");
    assert!(!world.round().await, "an answer is missing");
    assert!(world.cluster.lock().unwrap().lose.is_none());
    let of_pods = |world: &World| world.cluster.lock().unwrap().count("PATCH pods");
    let before = of_pods(&world);
    assert_eq!(updated(&world), 1, "it was carried out");
    world.round().await;
    // It would be made ready for traffic, as one whose update has not begun.
    assert_eq!(
        (updated(&world), of_pods(&world)),
        (1, before),
        "a pod on its way is left alone, and the others wait"
    );
    world.rest().await;
    assert_eq!(updated(&world), REPLICAS);
}
