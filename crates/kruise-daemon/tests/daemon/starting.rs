//! Starts and ends of the agent and of what it follows.

use std::time::Duration;

use serde_json::json;

use crate::World;

#[tokio::test(start_paused = true)]
async fn the_agent_ends_with_its_reason_when_it_does_not_know_its_node() {
    let mut world = World::new().await;
    world.start(&["--node-name="]);
    let error = world.end().await.unwrap_err();
    assert_eq!(error.to_string(), "NODE_NAME is not set");
}

#[tokio::test(start_paused = true)]
async fn a_node_image_that_comes_and_goes_and_comes_again_is_followed() {
    let mut world = World::new().await;
    world.start(&[]);
    let images = json!({"nginx": {"tags": [{"tag": "1", "pullPolicy": {"backoffLimit": 0}}]}});
    world.create_node_image(images.clone()).await;
    world.ended("nginx", "1").await;
    world.node_images().delete(crate::NODE, &kube::api::DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.create_node_image(images).await;
    world.ended("nginx", "1").await;
    assert_eq!(world.cri.pulled().len(), 2);
}
