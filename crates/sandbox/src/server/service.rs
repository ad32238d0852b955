//! The server as a `tower` service.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};

use super::Server;
use super::answer::{Body, BodyError};

/// Answers HTTP requests. An error means that the connection broke, which only interceptors bring about.
#[derive(Clone)]
pub struct Service {
    server: Server,
    name: Option<Arc<str>>,
}

impl Service {
    pub(crate) fn new(server: Server) -> Self {
        Self { server, name: None }
    }

    /// Requests are counted under this name rather than their `User-Agent`.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(Arc::from(name));
        self
    }
}

impl<B> tower::Service<Request<B>> for Service
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    type Response = Response<Body>;
    type Error = BodyError;
    type Future = BoxFuture<'static, Result<Response<Body>, BodyError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (server, name) = (self.server.clone(), self.name.clone());
        Box::pin(async move { server.handle(name, request).await })
    }
}
