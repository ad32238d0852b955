//! AdvancedCronJobs on the sandbox, in virtual time: a whole manager, its webhooks, simulated nodes and Jobs.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests take literals, and end a test where they cannot go on"
)]

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruise_api::advancedcronjob::AdvancedCronJob;
use kruise_playground::{MANAGER, Options, Playground};
use kruise_sandbox::clock;
use kruise_sandbox::server::{EventKind, Verb};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

const SHOP: &str = "shop";
const BEGIN: &str = "2026-01-01T10:00:30Z";

struct World {
    playground: Playground,
}

impl World {
    async fn new() -> Self {
        Self::at(BEGIN, &[]).await
    }

    async fn at(begin: &str, flags: &[&str]) -> Self {
        let clock = clock::simulated(begin.parse().unwrap());
        let mut options = Options::new(2, Arc::clone(&clock)).with_admission();
        options.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let playground = Playground::start(options).await.unwrap();
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": SHOP}})).unwrap();
        Api::all(playground.client()).create(&PostParams::default(), &namespace).await.unwrap();
        Self { playground }
    }

    fn crons(&self) -> Api<AdvancedCronJob> {
        Api::namespaced(self.playground.client(), SHOP)
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.playground.client(), SHOP)
    }

    fn of_kind(&self, kind: &str, plural: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        Api::namespaced_with(self.playground.client(), SHOP, &resource)
    }

    async fn try_create(&self, object: Value) -> Result<AdvancedCronJob, String> {
        let object = serde_json::from_value(object).unwrap();
        self.crons().create(&PostParams::default(), &object).await.map_err(|error| error.to_string())
    }

    async fn create(&self, object: Value) -> AdvancedCronJob {
        self.try_create(object).await.unwrap()
    }

    async fn cron(&self) -> AdvancedCronJob {
        self.crons().get("a").await.unwrap()
    }

    async fn change(&self, patch: Value) {
        self.crons().patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn names(&self) -> Vec<String> {
        let jobs = self.jobs().list(&ListParams::default()).await.unwrap();
        jobs.iter().map(ResourceExt::name_any).collect()
    }

    async fn last(&self) -> Option<Timestamp> {
        self.cron().await.status?.last_schedule_time.map(|time| time.0)
    }

    async fn active(&self) -> usize {
        let status = self.cron().await.status.unwrap_or_default();
        status.active.map_or(0, |active| active.len())
    }

    async fn events(&self, reason: &str) -> i32 {
        let events = Api::<Event>::namespaced(self.playground.client(), SHOP);
        let events = events.list(&ListParams::default()).await.unwrap().items;
        let events = events.iter().filter(|event| event.reason.as_deref() == Some(reason));
        events.map(|event| event.count.unwrap_or(1)).sum()
    }

    async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// How often something of a resource was stored anew, changed or deleted.
    fn changes(&self, resource: &str, kind: EventKind) -> usize {
        let changes = self.playground.server().changes(resource, 0);
        changes.iter().filter(|change| change.kind() == kind).count()
    }

    fn manager_writes(&self) -> u64 {
        self.playground.server().writes(Some(MANAGER))
    }
}

/// A pod that ends by itself after so many seconds; never with `None`.
fn job_template(seconds: Option<u32>) -> Value {
    let command = seconds.map_or(json!(["sleep", "inf"]), |seconds| json!(["sleep", seconds.to_string()]));
    json!({"metadata": {"labels": {"app": "x"}, "annotations": {"note": "y"}},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "busybox:1", "command": command}]}}}})
}

#[expect(clippy::needless_pass_by_value, reason = "the json! of a test is written where it is used")]
fn cron(spec: Value) -> Value {
    let mut object = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "AdvancedCronJob",
        "metadata": {"name": "a"},
        "spec": {"schedule": "* * * * *", "timeZone": "UTC", "template": {"jobTemplate": job_template(Some(5))}}});
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

fn unix(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_second()
}

#[tokio::test(start_paused = true)]
async fn a_job_comes_each_full_minute_looks_like_its_template_and_the_newest_three_stay() {
    let world = World::new().await;
    let made = world.create(cron(json!({}))).await;
    assert_eq!(made.spec.concurrency_policy.as_deref(), Some("Allow"), "defaults are filled in");
    assert_eq!(made.spec.successful_jobs_history_limit, Some(3));
    world.pass(1).await;
    assert_eq!(world.cron().await.status.unwrap().type_.as_deref(), Some("Job"), "there is a status at once");
    assert_eq!(world.names().await, Vec::<String>::new(), "nothing for the minute it was created in");
    world.pass(31).await;
    let first = format!("a-{}", unix("2026-01-01T10:01:00Z"));
    assert_eq!(world.names().await, std::slice::from_ref(&first));
    let job = world.jobs().get(&first).await.unwrap();
    assert_eq!(job.labels()["app"], "x");
    assert_eq!(job.annotations()["note"], "y");
    assert_eq!(job.annotations()["apps.kruise.io/scheduled-at"], "2026-01-01T10:01:00Z");
    let owner = &job.owner_references()[0];
    assert_eq!((owner.api_version.as_str(), owner.controller), ("apps.kruise.io/v1beta1", Some(true)));
    assert_eq!(world.active().await, 1);
    world.pass(20).await;
    assert_eq!(world.active().await, 0, "its end is noticed before the next tick");
    world.pass(6 * 60).await;
    assert_eq!(world.names().await.len(), 3);
    assert_eq!(world.last().await, Some("2026-01-01T10:07:00Z".parse().unwrap()));
    assert_eq!(world.events("SuccessfulCreate").await, 7);
    assert_eq!(world.events("SawCompletedJob").await, 7);
    assert_eq!(world.events("SuccessfulDelete").await, 4);
}

#[tokio::test(start_paused = true)]
async fn a_day_of_minutes_has_1440_runs_although_their_jobs_are_cleaned_up_and_few_writes_for_each() {
    let world = World::new().await;
    world.create(cron(json!({"successfulJobsHistoryLimit": 0}))).await;
    world.pass(29).await;
    world.playground.server().reset_requests();
    world.pass(24 * 60 * 60).await;
    let requests = world.playground.server().requests();
    let asked = |verb: Verb, resource: &str| {
        requests.get(&(MANAGER.to_owned(), verb, resource.to_owned())).copied().unwrap_or(0)
    };
    assert_eq!(asked(Verb::Create, "jobs.batch"), 1440, "none lost, none repeated");
    assert_eq!(asked(Verb::Delete, "jobs.batch"), 1440);
    assert_eq!(world.names().await.len(), 0);
    // Created, active, finished, deleted; the rest is events, which are rationed.
    let patches = asked(Verb::Patch, "advancedcronjobs.apps.kruise.io")
        + asked(Verb::Patch, "advancedcronjobs.apps.kruise.io/status");
    assert_eq!(patches, 2 * 1440);
    let events = asked(Verb::Create, "events") + asked(Verb::Patch, "events");
    let writes = world.manager_writes();
    let nodes = asked(Verb::Create, "nodeimages.apps.kruise.io");
    assert_eq!(writes, 4 * 1440 + events + nodes, "and nothing else");
    assert!(events < 1440, "{events} events");
    let quiet = world.manager_writes();
    world.change(json!({"spec": {"paused": true}})).await;
    world.pass(3600).await;
    assert_eq!(world.manager_writes(), quiet, "at rest nothing is written");
}

#[tokio::test(start_paused = true)]
async fn a_daily_job_that_was_cleaned_up_is_not_run_again_by_a_restart_or_an_edit() {
    let mut world = World::new().await;
    world.create(cron(json!({"schedule": "5 10 * * *"}))).await;
    world.pass(6 * 60).await;
    let name = world.names().await.pop().unwrap();
    let gone = DeleteParams::background();
    let _answer = world.jobs().delete(&name, &gone).await.unwrap();
    world.pass(2).await;
    world.playground.restart_manager().unwrap();
    world.pass(10).await;
    world.change(json!({"spec": {"failedJobsHistoryLimit": 2}})).await;
    world.change(json!({"metadata": {"labels": {"seen": "yes"}}})).await;
    world.pass(3600).await;
    assert_eq!(world.names().await, Vec::<String>::new());
    assert_eq!(world.last().await, Some("2026-01-01T10:05:00Z".parse().unwrap()));
    world.pass(23 * 3600).await;
    assert_eq!(world.names().await, [format!("a-{}", unix("2026-01-02T10:05:00Z"))]);
}

#[tokio::test(start_paused = true)]
async fn after_two_hundred_missed_minutes_there_is_one_run_and_then_the_usual_ones() {
    let mut world = World::new().await;
    world.create(cron(json!({}))).await;
    world.pass(60).await;
    world.playground.crash_manager();
    world.pass(200 * 60).await;
    assert_eq!(world.changes("jobs.batch", EventKind::Added), 1);
    world.playground.restart_manager().unwrap();
    world.pass(10).await;
    assert_eq!(world.changes("jobs.batch", EventKind::Added), 2, "one to catch up");
    assert_eq!(world.events("TooManyMissedTimes").await, 1);
    world.pass(120).await;
    assert_eq!(world.changes("jobs.batch", EventKind::Added), 4);
}

#[tokio::test(start_paused = true)]
async fn policies_let_runs_wait_replace_each_other_or_pile_up() {
    for (policy, running, made) in [("Forbid", 1, 1), ("Replace", 1, 4), ("Allow", 4, 4)] {
        let world = World::new().await;
        let template = json!({"jobTemplate": job_template(None)});
        world.create(cron(json!({"concurrencyPolicy": policy, "template": template}))).await;
        world.pass(4 * 60).await;
        assert_eq!(world.active().await, running, "{policy}");
        assert_eq!(world.names().await.len(), running, "{policy}");
        assert_eq!(world.changes("jobs.batch", EventKind::Added), made, "{policy}");
        let waits = world.events("JobAlreadyActive").await;
        assert_eq!(waits, if policy == "Forbid" { 3 } else { 0 }, "told once for each tick");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_had_to_wait_starts_as_soon_as_the_earlier_one_has_ended() {
    let world = World::new().await;
    let template = json!({"jobTemplate": job_template(Some(75))});
    world.create(cron(json!({"concurrencyPolicy": "Forbid", "template": template}))).await;
    world.pass(30 + 85).await;
    let second = format!("a-{}", unix("2026-01-01T10:02:00Z"));
    assert!(world.names().await.contains(&second), "{:?}", world.names().await);
    assert_eq!(world.active().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pause_starts_nothing_and_its_end_makes_up_for_the_latest_tick() {
    let world = World::new().await;
    world.create(cron(json!({"paused": true}))).await;
    world.pass(10 * 60).await;
    assert_eq!(world.names().await, Vec::<String>::new());
    world.change(json!({"spec": {"paused": false}})).await;
    world.pass(5).await;
    assert_eq!(world.names().await, [format!("a-{}", unix("2026-01-01T10:10:00Z"))]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_too_late_is_left_out_and_said_to_be() {
    let mut world = World::new().await;
    world.create(cron(json!({"schedule": "5 10 * * *", "startingDeadlineSeconds": 30}))).await;
    world.pass(60).await;
    world.playground.crash_manager();
    world.pass(6 * 60).await;
    world.playground.restart_manager().unwrap();
    world.pass(60).await;
    assert_eq!(world.names().await, Vec::<String>::new());
    assert_eq!(world.events("MissSchedule").await, 1);
}

#[tokio::test(start_paused = true)]
async fn somebody_can_ask_for_a_run_as_often_as_they_like_even_of_a_paused_object() {
    let world = World::new().await;
    world.create(cron(json!({"paused": true}))).await;
    for count in 1..=2 {
        world.change(json!({"metadata": {"annotations": {"apps.kruise.io/run-now": "true"}}})).await;
        world.pass(20).await;
        assert_eq!(world.names().await.len(), count);
        let left = world.cron().await.metadata.annotations.unwrap_or_default();
        assert!(!left.keys().any(|key| key.starts_with("apps.kruise.io/run")), "{left:?}");
    }
    let jobs = world.jobs().list(&ListParams::default()).await.unwrap();
    assert!(jobs.iter().all(|job| job.annotations().contains_key("apps.kruise.io/requested-at")));
    assert_eq!(world.last().await, None, "no run by schedule");
}

#[tokio::test(start_paused = true)]
async fn the_night_clocks_go_back_has_two_runs_and_the_night_they_go_on_none() {
    for (begin, ticks) in [
        ("2026-10-24T20:00:00Z", vec!["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]),
        ("2026-03-28T20:00:00Z", vec![]),
    ] {
        let world = World::at(begin, &[]).await;
        world.create(cron(json!({"schedule": "30 2 * * *", "timeZone": "Europe/Berlin"}))).await;
        world.pass(12 * 3600).await;
        let expected: Vec<_> = ticks.into_iter().map(|tick| format!("a-{}", unix(tick))).collect();
        assert_eq!(world.names().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_of_sixty_characters_is_warned_of_and_works() {
    let world = World::new().await;
    let mut object = cron(json!({}));
    let name = "x".repeat(60);
    object["metadata"]["name"] = json!(name);
    world.create(object).await;
    world.pass(60).await;
    let names = world.names().await;
    assert_eq!(names.len(), 1);
    assert!(
        names[0].len() == 63 && names[0].ends_with(&unix("2026-01-01T10:01:00Z").to_string()),
        "{names:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn children_of_an_object_of_the_same_name_that_is_gone_are_left_alone() {
    let world = World::new().await;
    let forbid =
        || cron(json!({"concurrencyPolicy": "Forbid", "template": {"jobTemplate": job_template(None)}}));
    world.create(forbid()).await;
    world.pass(60).await;
    let orphan = DeleteParams::orphan();
    let _answer = world.crons().delete("a", &orphan).await.unwrap();
    world.pass(10).await;
    world.create(forbid()).await;
    world.pass(60).await;
    assert_eq!(world.names().await.len(), 2, "the old one is in nobody's way");
    assert_eq!(world.active().await, 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_created_while_the_object_is_being_deleted_and_the_jobs_go_with_it() {
    let world = World::new().await;
    world.create(cron(json!({}))).await;
    world.change(json!({"metadata": {"finalizers": ["example.com/hold"]}})).await;
    world.pass(60).await;
    let _answer = world.crons().delete("a", &DeleteParams::foreground()).await.unwrap();
    world.pass(5 * 60).await;
    assert_eq!(world.changes("jobs.batch", EventKind::Added), 1);
    world.change(json!({"metadata": {"finalizers": null}})).await;
    world.pass(10).await;
    assert_eq!(world.names().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_served_keeps_nobody_else_from_working_and_is_picked_up_later() {
    let world = World::new().await;
    let definitions = Api::<CustomResourceDefinition>::all(world.playground.client());
    let name = "imagelistpulljobs.apps.kruise.io";
    let mut definition = definitions.get(name).await.unwrap();
    let _answer = definitions.delete(name, &DeleteParams::default()).await.unwrap();
    world.pass(5).await;
    let list = json!({"imageListPullJobTemplate": {"spec": {"images": ["nginx:1"]}}});
    let mut pulls = cron(json!({"template": list}));
    pulls["metadata"]["name"] = json!("pulls");
    world.create(pulls).await;
    world.create(cron(json!({}))).await;
    world.pass(60).await;
    assert_eq!(world.names().await.len(), 1, "the other kind runs");
    assert_eq!(world.events("FailedCreate").await, 1, "told once");
    definition.metadata = serde_json::from_value(json!({"name": name})).unwrap();
    definition.status = None;
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    world.pass(60).await;
    let lists = world.of_kind("ImageListPullJob", "imagelistpulljobs");
    let made = lists.list(&ListParams::default()).await;
    // The gate of the kind is off, which its own webhook says.
    assert!(made.unwrap().items.is_empty());
    assert_eq!(world.events("FailedCreate").await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_list_of_images_gets_its_defaults_and_runs_by_replacing() {
    let world = World::at(BEGIN, &["--feature-gates=ImagePullJobGate=true"]).await;
    let template = json!({"imageListPullJobTemplate": {
        "metadata": {"labels": {"team": "x"}}, "spec": {"images": ["nginx:1"]}}});
    let made = world.create(cron(json!({"template": template}))).await;
    assert_eq!(made.spec.concurrency_policy.as_deref(), Some("Replace"));
    let spec = made.spec.template.image_list_pull_job_template.unwrap().spec.unwrap();
    assert_eq!(
        spec,
        json!({"images": ["nginx:1"], "completionPolicy": {"type": "Always"},
            "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": 3}, "imagePullPolicy": "IfNotPresent"})
    );
    world.pass(60).await;
    let lists =
        world.of_kind("ImageListPullJob", "imagelistpulljobs").list(&ListParams::default()).await.unwrap();
    assert_eq!(lists.items.len(), 1);
    assert_eq!(lists.items[0].labels()["team"], "x", "metadata of the template is not lost");
    assert_eq!(world.cron().await.status.unwrap().type_.as_deref(), Some("ImageListPullJob"));
    let gvk = GroupVersionKind::gvk("apps.kruise.io", "v1alpha1", "AdvancedCronJob");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "advancedcronjobs");
    let older: Api<DynamicObject> = Api::namespaced_with(world.playground.client(), SHOP, &resource);
    let older = older.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(older.len(), 1, "listing through v1alpha1 works");
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_job_comes_each_minute_and_a_pod_of_it_to_every_node() {
    let world = World::new().await;
    let pods = job_template(Some(5))["spec"]["template"].clone();
    let template = json!({"broadcastJobTemplate": {"spec": {"template": pods,
        "completionPolicy": {"type": "Always", "ttlSecondsAfterFinished": 10}}}});
    world.create(cron(json!({"template": template}))).await;
    world.pass(33).await;
    let jobs = world.of_kind("BroadcastJob", "broadcastjobs");
    let made = jobs.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].name_any(), format!("a-{}", unix("2026-01-01T10:01:00Z")));
    assert_eq!(world.active().await, 1);
    world.pass(27).await;
    assert_eq!(
        jobs.list(&ListParams::default()).await.unwrap().items.len(),
        0,
        "gone by its own time to live"
    );
    assert_eq!(world.last().await, Some("2026-01-01T10:01:00Z".parse().unwrap()));
    world.pass(33).await;
    assert_eq!(world.changes("broadcastjobs.apps.kruise.io", EventKind::Added), 2);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_work_is_refused_with_its_field() {
    let world = World::new().await;
    let pods = job_template(Some(5));
    for (spec, message) in [
        (json!({"schedule": "61 * * * *"}), "spec.schedule: Invalid value: \"61 * * * *\""),
        (json!({"schedule": ""}), "schedule cannot be empty"),
        (json!({"schedule": "TZ=UTC", "timeZone": null}), "invalid cron schedule"),
        (json!({"schedule": "TZ=UTC * * * * *"}), "cannot use both timeZone field and TZ"),
        (json!({"timeZone": "Mars/Base"}), "spec.timeZone: Invalid value: \"Mars/Base\""),
        (json!({"timeZone": "local"}), "explicit time zone"),
        (json!({"startingDeadlineSeconds": -1}), "spec.startingDeadlineSeconds"),
        (json!({"template": {}}), "spec must have one template"),
        (
            json!({"template": {"jobTemplate": pods, "broadcastJobTemplate": {"spec": {"template": {}}}}}),
            "only one template",
        ),
        (
            json!({"template": {"jobTemplate": {"spec": {"template": {"spec": {"containers": []}}}}}}),
            "spec.template.jobTemplate.spec.template.spec.containers: Required value",
        ),
    ] {
        let refused = world.try_create(cron(spec.clone())).await.unwrap_err();
        assert!(refused.contains(message), "{spec}: {refused}");
    }
    world.create(cron(json!({}))).await;
    let changed = json!({"spec": {"template": {"jobTemplate": {"spec": {"backoffLimit": 1}}}}});
    let refused =
        world.crons().patch("a", &PatchParams::default(), &Patch::Merge(changed)).await.unwrap_err();
    assert!(refused.to_string().contains("are forbidden"), "{refused}");
    world
        .change(json!({"spec": {"schedule": "*/5 * * * *", "concurrencyPolicy": "Forbid", "paused": true,
        "timeZone": "Asia/Shanghai", "startingDeadlineSeconds": 9}}))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_job_the_api_server_refuses_is_told_once_and_does_not_hold_up_later_ticks() {
    let world = World::new().await;
    let mut template = job_template(Some(5));
    template["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
    world.create(cron(json!({"template": {"jobTemplate": template}}))).await;
    world.pass(3 * 60).await;
    assert_eq!(world.names().await, Vec::<String>::new());
    assert!(world.events("FailedCreate").await >= 1, "visible to the user");
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_any_write_loses_and_repeats_nothing() {
    for cut in 0..12 {
        let mut world = World::new().await;
        world
            .create(cron(json!({"concurrencyPolicy": "Replace", "successfulJobsHistoryLimit": 1,
            "template": {"jobTemplate": job_template(Some(70))}})))
            .await;
        world.pass(29).await;
        let end = tokio::time::Instant::now() + Duration::from_mins(4);
        let stop = world.manager_writes() + cut;
        while world.manager_writes() < stop && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.playground.restart_manager().unwrap();
        tokio::time::sleep_until(end).await;
        assert_eq!(world.changes("jobs.batch", EventKind::Added), 4, "cut after {cut}");
        assert_eq!(world.active().await, 1);
    }
}
