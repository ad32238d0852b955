//! Paths that are no resources: health, version, discovery, OpenAPI.

use std::sync::Arc;

use http::request::Parts;
use http::{Response, StatusCode, header};
use serde_json::Value;

use super::Server;
use super::answer::{Accept, Answer, Body};
use crate::error::ApiError;
use crate::resource::Resource;
use crate::{discovery, openapi};

impl Server {
    /// Answers what is not a resource.
    pub(crate) fn other(&self, parts: &Parts) -> Response<Body> {
        let accept = Accept::parse(&parts.headers).ok();
        let read = matches!(parts.method, http::Method::GET | http::Method::HEAD);
        let answer = match self.document(parts) {
            Some(_) if !read => Answer::error(&ApiError::method_not_allowed()),
            Some(document) => document,
            None if self.is_version_of_known_group(parts) => Answer::error(&ApiError::unknown_path()),
            None => Answer::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
        answer.response(accept, &[])
    }

    /// The path names a version, though not one that is served, of a built-in group.
    fn is_version_of_known_group(&self, parts: &Parts) -> bool {
        let path: Vec<&str> = parts.uri.path().split('/').filter(|part| !part.is_empty()).collect();
        match path.as_slice() {
            ["api", _] => true,
            ["apis", group, _] => {
                let registry = self.registry();
                registry.has_group(group) && !registry.is_custom_group(group)
            }
            _ => false,
        }
    }

    fn document(&self, parts: &Parts) -> Option<Answer> {
        let path: Vec<&str> = parts.uri.path().split('/').filter(|part| !part.is_empty()).collect();
        let served: Vec<Arc<Resource>> = self.resources();
        let aggregated = wants_aggregated(parts);
        Some(match path.as_slice() {
            [] => Answer::ok(&discovery::paths(&served)),
            ["healthz" | "livez" | "readyz"] | ["healthz" | "livez" | "readyz", "ping"] => {
                Answer::text(StatusCode::OK, "ok")
            }
            ["version"] => Answer::ok(&discovery::version()),
            ["api"] if aggregated => in_one(&discovery::aggregated_core(&served)),
            ["apis"] if aggregated => in_one(&discovery::aggregated_groups(&served)),
            ["api"] => Answer::ok(&discovery::api_versions(&host(parts))),
            ["apis"] => Answer::ok(&discovery::api_groups(&served)),
            ["openapi", "v3"] => Answer::ok(&openapi::index(&served)),
            ["openapi", "v3", rest @ ..] => Answer::Other(
                StatusCode::OK,
                "application/json",
                openapi::document(&served, &rest.join("/"))?,
            ),
            ["apis", group] => Answer::ok(&discovery::api_group(&served, group)?),
            ["api", version] => Answer::ok(&discovery::resource_list(&served, "", version)?),
            ["apis", group, version] => Answer::ok(&discovery::resource_list(&served, group, version)?),
            _ => return None,
        })
    }
}

fn wants_aggregated(parts: &Parts) -> bool {
    let wanted = |text: &str| {
        text.split(',').any(|range| {
            let has = |parameter: &str| range.split(';').any(|part| part.trim() == parameter);
            has("as=APIGroupDiscoveryList") && has("v=v2") && has("g=apidiscovery.k8s.io")
        })
    };
    parts.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(wanted)
}

fn in_one(document: &Value) -> Answer {
    let bytes = serde_json::to_vec(document).unwrap_or_default();
    Answer::Other(StatusCode::OK, discovery::AGGREGATED, bytes.into())
}

fn host(parts: &Parts) -> String {
    let header = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    header
        .or_else(|| parts.uri.authority().map(http::uri::Authority::as_str))
        .unwrap_or("localhost")
        .to_owned()
}
