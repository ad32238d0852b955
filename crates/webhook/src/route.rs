//! Which handler serves which path.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::review::{AdmissionRequest, Verdict};

/// Decides about one admission request.
pub type Handler = Arc<dyn Fn(AdmissionRequest) -> BoxFuture<'static, Verdict> + Send + Sync>;

/// Converts one object to the API version given, or says why it cannot.
pub type Converter = Arc<dyn Fn(Value, &str) -> Result<Value, String> + Send + Sync>;

/// One admission path.
#[derive(Clone)]
pub struct Route {
    /// Path without version, such as `/mutate-apps-kruise-io-cloneset`.
    pub path: String,
    /// What answers it.
    pub handler: Handler,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("path", &self.path).finish_non_exhaustive()
    }
}

/// All that the server answers besides `/healthz`.
#[derive(Clone)]
pub struct Router {
    /// The admission paths.
    pub routes: Vec<Route>,
    /// What answers `/convert`.
    pub convert: Converter,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("routes", &self.routes).finish_non_exhaustive()
    }
}

impl Router {
    /// A router without admission paths that refuses every conversion.
    pub fn new() -> Self {
        Self { routes: Vec::new(), convert: Arc::new(|_, _| Err("no conversion is registered".to_owned())) }
    }

    /// Adds an admission path.
    #[must_use]
    pub fn route<F>(mut self, path: impl Into<String>, handler: F) -> Self
    where
        F: Fn(AdmissionRequest) -> BoxFuture<'static, Verdict> + Send + Sync + 'static,
    {
        self.routes.push(Route { path: path.into(), handler: Arc::new(handler) });
        self
    }

    /// Sets what answers `/convert`.
    #[must_use]
    pub fn converter<F>(mut self, convert: F) -> Self
    where
        F: Fn(Value, &str) -> Result<Value, String> + Send + Sync + 'static,
    {
        self.convert = Arc::new(convert);
        self
    }

    /// The route of a request path. Older charts name a version in it; that is an alias.
    pub fn find(&self, path: &str) -> Option<&Route> {
        let exact = self.routes.iter().find(|route| route.path == path);
        exact.or_else(|| {
            let canonical = canonical_path(path);
            self.routes.iter().find(|route| route.path == canonical)
        })
    }
}

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

/// Removes the version older charts put into the path.
pub fn canonical_path(path: &str) -> String {
    path.replacen("-apps-kruise-io-v1alpha1-", "-apps-kruise-io-", 1)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn both_generations_of_a_path_reach_the_same_route_and_unknown_paths_none() {
        let router = Router::new()
            .route("/mutate-apps-kruise-io-cloneset", |_| async { Verdict::allow() }.boxed())
            .route("/validate-apps-kruise-io-v1alpha1-ephemeraljob", |_| async { Verdict::allow() }.boxed());
        let found = |path: &str| router.find(path).map(|route| route.path.as_str());
        let cloneset = Some("/mutate-apps-kruise-io-cloneset");
        assert_eq!(found("/mutate-apps-kruise-io-cloneset"), cloneset);
        assert_eq!(found("/mutate-apps-kruise-io-v1alpha1-cloneset"), cloneset);
        let job = "/validate-apps-kruise-io-v1alpha1-ephemeraljob";
        assert_eq!(found(job), Some(job));
        assert_eq!(found("/mutate-pod"), None);
    }
}
