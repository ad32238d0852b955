//! Tables: what `kubectl get` prints.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{config_map, config_maps, object, server};

async fn table(client: &Client, path: &str) -> Value {
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let request = http::Request::get(path).header("accept", accept);
    client.request(request.body(Vec::new()).unwrap()).await.unwrap()
}

fn cells(table: &Value) -> Vec<String> {
    let rows = table["rows"].as_array().unwrap();
    rows.iter().map(|row| row["cells"].to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_table_of_pods_tells_their_state_and_age() {
    let client = server().client();
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    api.create(&PostParams::default(), &object(pod)).await.unwrap();
    let running = json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{
        "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 2, "state": {"running": {}}}]}});
    api.patch_status("a", &PatchParams::default(), &Patch::Merge(running)).await.unwrap();
    tokio::time::advance(std::time::Duration::from_mins(3)).await;
    let table = table(&client, "/api/v1/namespaces/default/pods").await;
    assert_eq!(table["kind"], json!("Table"));
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names[..5], ["Name", "Ready", "Status", "Restarts", "Age"]);
    assert!(cells(&table)[0].starts_with(r#"["a","1/1","Running","2","3m""#), "{:?}", cells(&table));
    assert_eq!(table["rows"][0]["object"]["kind"], json!("PartialObjectMetadata"));
}

#[tokio::test(start_paused = true)]
async fn a_table_of_one_object_has_one_row_and_the_version_of_the_object() {
    let client = server().client();
    config_maps(&client).create(&PostParams::default(), &config_map("b")).await.unwrap();
    let made = config_maps(&client).create(&PostParams::default(), &config_map("a")).await.unwrap();
    let one = table(&client, "/api/v1/namespaces/default/configmaps/a").await;
    assert_eq!(cells(&one), [r#"["a",1,"0s"]"#]);
    assert_eq!(one["metadata"]["resourceVersion"].as_str(), made.metadata.resource_version.as_deref());
    let both = table(&client, "/api/v1/namespaces/default/configmaps?includeObject=Object").await;
    assert_eq!(both["rows"][1]["object"]["data"], json!({"a": "1"}));
}
