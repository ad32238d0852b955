//! Paths that are no resources: health, version, discovery, OpenAPI.

use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::json;

use super::Server;
use super::answer::{Accept, Answer, Body};
use crate::error::ApiError;

impl Server {
    /// Answers what is not a resource.
    pub(crate) fn other(&self, parts: &Parts) -> Response<Body> {
        let accept = Accept::parse(&parts.headers).ok();
        let path = parts.uri.path().trim_end_matches('/');
        if parts.method != http::Method::GET && parts.method != http::Method::HEAD {
            return Answer::error(&ApiError::method_not_allowed()).response(accept, &[]);
        }
        let answer = match path {
            "/healthz" | "/livez" | "/readyz" => Answer::text(StatusCode::OK, "ok"),
            "/version" => Answer::ok(&version()),
            _ => Answer::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
        answer.response(accept, &[])
    }
}

fn version() -> serde_json::Value {
    json!({
        "major": "1",
        "minor": "34",
        "gitVersion": "v1.34.4",
        "platform": "linux/amd64",
    })
}
