use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::client::Body;
use proptest::prelude::*;
use serde_json::json;

use super::*;

#[derive(Clone, Debug, Eq, PartialEq)]
struct Thing {
    key: ObjectKey,
    uid: Uid,
    version: String,
    owners: Vec<Uid>,
}

impl View for Thing {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }
    fn uid(&self) -> &Uid {
        &self.uid
    }
    fn resource_version(&self) -> &str {
        &self.version
    }
    fn owners(&self) -> Vec<Uid> {
        self.owners.clone()
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

fn thing(name: &str, uid: &str, version: u64) -> Thing {
    Thing {
        key: key(name),
        uid: Uid::from(uid),
        version: version.to_string(),
        owners: vec![Uid::from("owner")],
    }
}

/// A store whose watch has listed `things`, and the log of changes since.
fn listed(things: Vec<Thing>) -> (Store<Thing>, Arc<Mutex<Vec<String>>>) {
    let store = Store::new();
    list(&store, things);
    let log = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&log);
    store.subscribe(Box::new(move |change| lines.lock().unwrap().push(line(change))));
    log.lock().unwrap().clear();
    (store, log)
}

fn list(store: &Store<Thing>, things: Vec<Thing>) {
    store.apply_event(Event::Init);
    for thing in things {
        store.apply_event(Event::InitApply(thing));
    }
    store.apply_event(Event::InitDone);
}

fn line(change: &Change<Thing>) -> String {
    let side = |view: &Option<Arc<Thing>>| {
        view.as_ref()
            .map_or("-".to_owned(), |view| format!("{}/{}@{}", view.key.name, view.uid, view.version))
    };
    format!("{} > {}", side(&change.old), side(&change.new))
}

fn at(store: &Store<Thing>, name: &str) -> Option<String> {
    store.get(&key(name)).map(|view| format!("{}@{}", view.uid, view.version))
}

fn taken(log: &Mutex<Vec<String>>) -> Vec<String> {
    std::mem::take(&mut log.lock().unwrap())
}

#[tokio::test]
async fn a_store_is_ready_after_its_first_complete_list() {
    let store = Store::new();
    store.apply_event(Event::Init);
    store.apply_event(Event::InitApply(thing("a", "1", 5)));
    assert!(!store.is_ready());
    assert!(store.ready().now_or_never().is_none());
    store.apply_event(Event::InitDone);
    store.ready().await;
    assert_eq!((store.len(), store.is_empty()), (1, false));
}

#[test]
fn events_change_objects_and_the_owner_index() {
    let (store, log) = listed(vec![thing("a", "1", 5)]);
    store.apply_event(Event::Apply(thing("b", "2", 6)));
    let adopted =
        Thing { owners: vec![Uid::from("x"), Uid::from("y"), Uid::from("x")], ..thing("a", "1", 7) };
    store.apply_event(Event::Apply(adopted));
    let names = |owner: &str| -> Vec<String> {
        store.owned_by(&Uid::from(owner)).iter().map(|view| view.key.name.to_string()).collect()
    };
    assert_eq!(
        (names("owner"), names("x"), names("y")),
        (vec!["b".into()], vec!["a".into()], vec!["a".into()])
    );
    store.apply_event(Event::Delete(thing("a", "1", 8)));
    assert_eq!((names("x"), store.all().len()), (Vec::new(), 1));
    assert_eq!(taken(&log), ["- > b/2@6", "a/1@5 > a/1@7", "a/1@7 > -"]);
}

#[test]
fn a_later_subscriber_is_told_of_what_is_there() {
    let (store, _) = listed(vec![thing("a", "1", 5)]);
    let log = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&log);
    store.subscribe(Box::new(move |change| lines.lock().unwrap().push(line(change))));
    assert_eq!(taken(&log), ["- > a/1@5"]);
}

#[test]
fn a_list_reports_what_vanished_changed_or_was_recreated() {
    let (store, log) = listed(vec![thing("a", "1", 5), thing("b", "2", 6), thing("c", "3", 7)]);
    list(&store, vec![thing("a", "9", 20), thing("c", "3", 21)]);
    let mut told = taken(&log);
    told.sort();
    assert_eq!(told, ["- > a/9@20", "a/1@5 > -", "b/2@6 > -", "c/3@7 > c/3@21"]);
}

#[test]
fn an_own_write_is_seen_at_once_and_its_event_changes_nothing() {
    let (store, log) = listed(vec![thing("a", "1", 5)]);
    store.apply_own(thing("a", "1", 10));
    assert_eq!(at(&store, "a").unwrap(), "1@10");
    assert_eq!(taken(&log), ["a/1@5 > a/1@10"]);
    store.apply_event(Event::Apply(thing("a", "1", 9)));
    store.apply_event(Event::Apply(thing("a", "1", 10)));
    assert_eq!((at(&store, "a").unwrap().as_str(), taken(&log).len()), ("1@10", 0));
    store.apply_event(Event::Apply(thing("a", "1", 11)));
    assert_eq!(at(&store, "a").unwrap(), "1@11");
}

#[test]
fn an_answer_slower_than_the_watch_is_dropped() {
    let (store, _) = listed(vec![]);
    store.apply_event(Event::Apply(thing("a", "1", 10)));
    store.apply_event(Event::Delete(thing("a", "1", 11)));
    store.apply_own(thing("a", "1", 10));
    assert_eq!(at(&store, "a"), None);
    store.apply_own(thing("b", "2", 14));
    store.apply_own(thing("b", "2", 13));
    assert_eq!(at(&store, "b").unwrap(), "2@14");
}

#[test]
fn a_removed_object_is_not_brought_back_by_late_events() {
    let (store, log) = listed(vec![thing("a", "1", 5)]);
    store.remove_own(&key("a"), &Uid::from("1"));
    store.apply_event(Event::Apply(thing("a", "1", 6)));
    store.apply_own(thing("a", "1", 7));
    assert_eq!((at(&store, "a"), taken(&log)), (None, vec!["a/1@5 > -".to_owned()]));
    store.apply_own(thing("a", "2", 9));
    store.apply_event(Event::Delete(thing("a", "1", 8)));
    assert_eq!(at(&store, "a").unwrap(), "2@9");
}

#[test]
fn removing_spares_a_namesake_and_tombstones_are_bounded() {
    let (store, _) = listed(vec![thing("a", "2", 5)]);
    store.remove_own(&key("a"), &Uid::from("1"));
    assert_eq!(at(&store, "a").unwrap(), "2@5");
    for n in 0..=MAX_TOMBSTONES {
        store.remove_own(&key("b"), &Uid::from(format!("b{n}")));
    }
    store.with_feed(|_, feed| assert_eq!(feed.tombstones.len(), MAX_TOMBSTONES));
    list(&store, vec![]);
    store.with_feed(|_, feed| assert_eq!((feed.tombstones.len(), feed.tombstone_order.len()), (0, 0)));
}

#[test]
fn a_list_that_is_older_than_an_own_write_does_not_hide_it() {
    let (store, _) = listed(vec![thing("a", "1", 5)]);
    store.apply_event(Event::Init);
    store.apply_own(thing("b", "2", 10));
    store.remove_own(&key("a"), &Uid::from("1"));
    store.apply_event(Event::InitApply(thing("a", "1", 5)));
    store.apply_event(Event::InitDone);
    store.apply_event(Event::Apply(thing("a", "1", 6)));
    assert_eq!((at(&store, "a"), at(&store, "b").as_deref()), (None, Some("2@10")));
    // Written before this list began, so the list would name it if it were still there.
    list(&store, vec![]);
    assert!(store.is_empty());
}

#[test]
fn an_own_write_that_the_watch_passes_without_a_word_is_taken_back() {
    let (store, _) = listed(vec![thing("a", "1", 5)]);
    store.apply_own(thing("b", "2", 10)); // created at 10, deleted at 11, listed at 12: the watch will not tell
    store.apply_event(Event::Apply(thing("c", "3", 13)));
    assert_eq!((at(&store, "b"), store.len()), (None, 2));
}

#[test]
fn versions_that_are_no_numbers_hold_nothing_back() {
    let odd = |version: &str| Thing { version: version.into(), ..thing("a", "1", 0) };
    let (store, _) = listed(vec![odd("x")]);
    store.apply_own(odd("y"));
    assert_eq!(at(&store, "a").unwrap(), "1@x");
    store.apply_event(Event::Apply(odd("z")));
    assert_eq!(at(&store, "a").unwrap(), "1@z");
    store.apply_event(Event::Delete(odd("z")));
    assert!(store.is_empty());
}

/// A ConfigMap as a thing; one without data cannot be read.
fn project(map: ConfigMap) -> Option<Thing> {
    let name = map.metadata.name?;
    map.data?;
    Some(Thing {
        key: key(&name),
        uid: Uid::from(map.metadata.uid?),
        version: map.metadata.resource_version?,
        owners: vec![],
    })
}

#[test]
fn an_unreadable_object_is_counted_and_its_known_version_kept() {
    let map = |version: &str, readable: bool| {
        let mut map = ConfigMap { data: readable.then(BTreeMap::new), ..ConfigMap::default() };
        map.metadata.namespace = Some("ns".into());
        map.metadata.name = Some("a".into());
        map.metadata.uid = Some("1".into());
        map.metadata.resource_version = Some(version.into());
        serde_json::to_string(&map).unwrap()
    };
    let store = Store::new();
    let take_in = |step: Step<'_>| store.take_in(step, &|text| decode(text, project));
    let [readable, odd, later] =
        [("5", true), ("6", false), ("7", false)].map(|(version, readable)| map(version, readable));
    for step in [Step::Init, Step::Listed(&readable), Step::InitDone, Step::Changed(&odd)] {
        take_in(step);
    }
    for step in [Step::Init, Step::Listed(&odd), Step::InitDone] {
        take_in(step);
    }
    assert_eq!((at(&store, "a").as_deref(), store.malformed()), (Some("1@5"), 2));
    assert_eq!(take_in(Step::Deleted(&later)).as_deref(), Some("7"));
    assert!(store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_watch_fills_the_store_page_by_page_outlives_errors_and_skips_what_it_cannot_read() {
    fn map(name: &str, version: &str, data: &serde_json::Value) -> serde_json::Value {
        json!({"metadata": {"namespace": "ns", "name": name, "uid": name, "resourceVersion": version}, "data": data})
    }
    let requests = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&requests);
    let server = tower::service_fn(move |request: http::Request<Body>| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let nth = {
            let mut asked = asked.lock().unwrap();
            asked.push(query.clone());
            asked.len()
        };
        let (status, lines) = match nth {
            1 => (500, vec![json!({"kind": "Status", "code": 500})]),
            2 => {
                let items = [map("a", "5", &json!({})), map("odd", "6", &json!(7))];
                (200, vec![json!({"metadata": {"resourceVersion": "9", "continue": "more"}, "items": items})])
            }
            3 => (
                200,
                vec![json!({"metadata": {"resourceVersion": "9"}, "items": [map("b", "7", &json!({}))]})],
            ),
            4 => {
                let changed = json!({"type": "MODIFIED", "object": map("a", "10", &json!({}))});
                let odd = json!({"type": "ADDED", "object": map("odder", "11", &json!("text"))});
                let gone = json!({"type": "DELETED", "object": map("b", "12", &json!({}))});
                (200, vec![changed, odd, gone])
            }
            _ => (200, vec![]),
        };
        let body = lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        async move {
            if nth > 4 {
                std::future::pending::<()>().await;
            }
            let response = http::Response::builder().status(status);
            response.body(Body::from(body.into_bytes()))
        }
    });
    let api: Api<ConfigMap> = Api::all(kube::Client::new(server, "ns"));
    let store = Store::new();
    let selection = Selection { labels: Some("x=y".to_owned()), ..Selection::default() };
    let watch = run_watch(api, project, store.clone(), selection);
    assert!(tokio::time::timeout(Duration::from_mins(2), watch).await.is_err(), "a watch never ends");
    assert_eq!((at(&store, "a").as_deref(), at(&store, "b"), store.len()), (Some("a@10"), None, 1));
    assert_eq!((store.malformed(), store.is_ready()), (2, true));
    assert_ne!(store.failures(), 0);
    let requests = requests.lock().unwrap().clone();
    assert!(requests[1].contains("limit=500") && requests[1].contains("labelSelector=x%3Dy"), "{requests:?}");
    assert!(!requests[1].contains("resourceVersion"), "{requests:?}");
    assert!(
        requests[3].contains("watch=true") && requests[3].contains("allowWatchBookmarks=true"),
        "{requests:?}"
    );
}

/// A server, its watch and the answers under way, all truthful.
#[derive(Default)]
struct World {
    now: u64,
    objects: BTreeMap<String, Thing>,
    events: VecDeque<Event<Thing>>,
    answers: Vec<Answer>,
    acked: Vec<Answer>,
    list: Option<VecDeque<Thing>>,
    listed: bool,
}

#[derive(Clone)]
enum Answer {
    Written(Thing),
    Removed(Thing),
}

impl Answer {
    fn name(&self) -> &str {
        let (Self::Written(view) | Self::Removed(view)) = self;
        &view.key.name
    }
}

impl World {
    fn write(&mut self, choice: u8) {
        self.now += 1;
        let name = format!("n{}", choice % 3);
        let own = choice & 0x40 != 0;
        let answer = if choice & 0x20 != 0 && self.objects.contains_key(&name) {
            let mut gone = self.objects.remove(&name).unwrap();
            gone.version = self.now.to_string();
            self.events.push_back(Event::Delete(gone.clone()));
            Answer::Removed(gone)
        } else {
            let uid =
                self.objects.get(&name).map_or_else(|| format!("u{}", self.now), |old| old.uid.to_string());
            let owners = vec![Uid::from(format!("o{}", choice % 2))];
            let new = Thing { owners, ..thing(&name, &uid, self.now) };
            self.objects.insert(name, new.clone());
            self.events.push_back(Event::Apply(new.clone()));
            Answer::Written(new)
        };
        if own {
            self.answers.push(answer);
        }
    }

    fn answer(&mut self, store: &Store<Thing>, choice: u8) {
        if self.answers.is_empty() {
            return;
        }
        // Any object's, but one object is written to by one writer, who awaits each answer.
        let name = self.answers[usize::from(choice) % self.answers.len()].name().to_owned();
        let first = self.answers.iter().position(|answer| answer.name() == name).unwrap();
        let answer = self.answers.remove(first);
        match &answer {
            Answer::Written(view) => store.apply_own(view.clone()),
            Answer::Removed(view) => store.remove_own(&view.key, &view.uid),
        }
        self.acked.push(answer);
    }

    /// The next step of the watch: of the list under way, or the next event.
    fn watch(&mut self, store: &Store<Thing>) {
        if let Some(list) = &mut self.list {
            if let Some(item) = list.pop_front() {
                store.apply_event(Event::InitApply(item));
            } else {
                store.apply_event(Event::InitDone);
                self.list = None;
                self.listed = true;
            }
        } else if self.listed
            && let Some(event) = self.events.pop_front()
        {
            store.apply_event(event);
        }
    }

    /// The watch breaks; `Init` is told, then others write and answers arrive, then the list is made.
    fn relist(&mut self, store: &Store<Thing>, choice: u8) {
        store.apply_event(Event::Init);
        if choice & 1 != 0 {
            self.write(choice);
        }
        if choice & 2 != 0 {
            self.answer(store, choice);
        }
        self.events.clear();
        self.list = Some(self.objects.values().cloned().collect());
    }

    fn check(&self, store: &Store<Thing>) {
        for answer in &self.acked {
            match answer {
                Answer::Written(own) if self.objects.get(&*own.key.name) == Some(own) => {
                    assert_eq!(store.get(&own.key).as_deref(), Some(own), "our own write is not seen");
                }
                Answer::Written(_) => {}
                Answer::Removed(own) => {
                    assert!(store.get(&own.key).is_none_or(|view| view.uid != own.uid), "{own:?} is back");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_of_events_lists_and_answers_ends_in_the_truth(
        steps in prop::collection::vec((0_u8..10, any::<u8>()), 0..60),
    ) {
        let store = Store::new();
        let replayed = Arc::new(Mutex::new(BTreeMap::<ObjectKey, Thing>::new()));
        let replay = Arc::clone(&replayed);
        store.subscribe(Box::new(move |change: &Change<Thing>| {
            let mut replay = replay.lock().unwrap();
            let key = change.old.as_ref().or(change.new.as_ref()).unwrap().key.clone();
            assert_eq!(replay.get(&key), change.old.as_deref());
            if let Some(new) = &change.new {
                assert!(change.old.as_ref().is_none_or(|old| old.uid == new.uid));
                replay.insert(key, Thing::clone(new));
            } else {
                replay.remove(&key);
            }
        }));
        let mut world = World::default();
        for (step, choice) in steps {
            match step {
                0..=3 => world.write(choice),
                4..=5 => world.answer(&store, choice),
                6..=8 => world.watch(&store),
                _ => world.relist(&store, choice),
            }
            world.check(&store);
        }
        if !world.listed && world.list.is_none() {
            world.relist(&store, 0);
        }
        while !world.answers.is_empty() {
            world.answer(&store, 0);
        }
        world.write(0); // the watch moves on once more
        while world.list.is_some() || !world.events.is_empty() {
            world.watch(&store);
        }
        world.check(&store);
        let truth: BTreeMap<_, _> = world.objects.values().map(|view| (view.key.clone(), view.clone())).collect();
        prop_assert_eq!(&*replayed.lock().unwrap(), &truth);
        let seen: BTreeMap<_, _> = store.all().iter().map(|view| (view.key.clone(), Thing::clone(view))).collect();
        prop_assert_eq!(&seen, &truth);
        for owner in ["o0", "o1"].map(Uid::from) {
            let owned: Vec<_> = store.owned_by(&owner).iter().map(|view| view.key.clone()).collect();
            let expected: Vec<_> =
                truth.values().filter(|view| view.owners.contains(&owner)).map(|view| view.key.clone()).collect();
            prop_assert_eq!(owned, expected);
        }
    }
}
