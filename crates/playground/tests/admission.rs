//! The API server asks whichever manager runs.

use kruise_playground::{Options, Playground};
use kruise_sandbox::clock;
use kube::Api;
use kube::api::PostParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;

fn set(name: &str) -> serde_json::Result<DynamicObject> {
    serde_json::from_value(json!({
        "apiVersion": "apps.kruise.io/v1beta1",
        "kind": "CloneSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": "nginx:1"}]},
            },
        },
    }))
}

#[tokio::test(start_paused = true)]
async fn between_two_managers_nothing_is_admitted_and_with_the_next_one_it_is() {
    let clock = clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
    let mut playground = Playground::start(Options::new(1, clock).with_admission()).await.unwrap();
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", "CloneSet");
    let resource = ApiResource::from_gvk_with_plural(&kind, "clonesets");
    let sets = Api::<DynamicObject>::namespaced_with(playground.client(), "default", &resource);
    let created = sets.create(&PostParams::default(), &set("first").unwrap()).await.unwrap();
    assert_eq!(created.data["spec"]["updateStrategy"]["rollingUpdate"]["podUpdatePolicy"], "ReCreate");

    playground.crash_manager();
    let refused = sets.create(&PostParams::default(), &set("second").unwrap()).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    assert_eq!(status.code, 500);
    assert!(status.message.contains("failed calling webhook"), "{}", status.message);
    assert!(status.message.contains("connection refused"), "{}", status.message);

    playground.restart_manager().unwrap();
    playground.admission().unwrap().answers().await;
    sets.create(&PostParams::default(), &set("second").unwrap()).await.unwrap();
}
