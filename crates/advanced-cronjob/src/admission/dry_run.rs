//! Asks the API server about a child: a dry-run create stores nothing and runs all of its checks, webhooks included.

use std::time::Duration;

use futures::future::BoxFuture;
use kube::Api;
use kube::api::PostParams;
use kube::core::DynamicObject;

use super::{ChildCheck, Opinion};
use crate::child::Kind;

/// The answer only makes for warnings, and the pod template may have to be asked about as well.
const PATIENCE: Duration = Duration::from_secs(2);

/// The API server's own opinion on children.
pub struct DryRun {
    client: kube::Client,
}

impl DryRun {
    /// Needs the right to create children, as the controller does.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    async fn ask(&self, namespace: &str, child: &DynamicObject, kind: Kind) -> Opinion {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind.resource());
        let params = PostParams { dry_run: true, ..PostParams::default() };
        match tokio::time::timeout(PATIENCE, api.create(&params, child)).await {
            Ok(Ok(_)) => Opinion::Accepted,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                Opinion::Refused(format!("the cluster does not serve {}", kind.name()))
            }
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 403 | 422) => {
                Opinion::Refused(status.message.clone())
            }
            Ok(Err(_)) | Err(_) => Opinion::Unknown,
        }
    }
}

impl ChildCheck for DryRun {
    fn check<'a>(
        &'a self,
        namespace: &'a str,
        child: &'a DynamicObject,
        kind: Kind,
    ) -> BoxFuture<'a, Opinion> {
        Box::pin(self.ask(namespace, child, kind))
    }
}
