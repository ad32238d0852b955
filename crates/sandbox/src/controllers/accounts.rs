//! Every namespace has a ServiceAccount `default`.

use std::sync::Arc;

use kruise_common::key::ObjectKey;
use kruise_runtime::store::View;
use kube::api::PostParams;
use serde_json::json;

use super::hub::{Hub, queue_itself, resource};
use super::rounds::{new_queue, unless, work};

/// Keeps the accounts, for ever.
pub(super) async fn control(hub: &Hub) {
    let Some(queue) = new_queue("serviceaccount") else { return };
    queue_itself(&hub.namespaces, &queue);
    let gone = queue.clone();
    hub.accounts.subscribe(Box::new(move |change| {
        if let (Some(old), None) = (&change.old, &change.new) {
            gone.add(ObjectKey::new("", Arc::clone(&old.key().namespace)));
        }
    }));
    tokio::join!(hub.namespaces.ready(), hub.accounts.ready());
    work("serviceaccount", &queue, 4, |key| async move {
        let active = hub.namespaces.get(&key).is_some_and(|namespace| !namespace.deleting());
        let account = ObjectKey::new(Arc::clone(&key.name), "default");
        if !active || hub.accounts.get(&account).is_some() {
            return Ok(None);
        }
        let kind = resource("", "v1", "ServiceAccount", "serviceaccounts");
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let body = serde_json::from_value(body).map_err(kube::Error::SerdeError)?;
        // 403: the namespace is on its way out.
        unless(hub.api(&kind, &key.name).create(&PostParams::default(), &body).await, &[409, 403, 404])?;
        Ok(None)
    })
    .await;
}
