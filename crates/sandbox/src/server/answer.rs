//! Answers: status, warnings, and objects in the form that the client accepts.

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::storage::Stored;
use crate::error::{ApiError, Reason};
use crate::resource::Resource;

/// An error of a response's body: the connection broke.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// Body of a response.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// The form in which objects are returned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// The objects themselves.
    Object,
    /// `PartialObjectMetadata` or its list.
    Metadata,
    /// A `meta.k8s.io/v1` Table.
    Table,
}

/// What the client accepts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Accept {
    pub(crate) form: Form,
    pub(crate) yaml: bool,
    /// It asks for the metadata of a list, by name.
    pub(crate) of_list: bool,
}

impl Accept {
    /// Reads the `Accept` header; the first understood media type wins.
    pub(crate) fn parse(headers: &HeaderMap) -> Result<Self, ApiError> {
        let listed: Vec<&str> =
            headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let listed = listed.join(",");
        if listed.trim().is_empty() {
            return Ok(Self { form: Form::Object, yaml: false, of_list: false });
        }
        listed.split(',').find_map(Self::one).ok_or_else(|| {
            let media = |range: &str| range.split(';').next().unwrap_or_default().trim().to_owned();
            if listed.split(',').any(|range| Self::one(&media(range)).is_some()) {
                let text = "only the following media types are accepted: application/json, application/yaml, \
                            application/vnd.kubernetes.protobuf";
                return ApiError::new(Reason::NotAcceptable, text);
            }
            let text = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, \
                        application/vnd.kubernetes.protobuf, application/json;stream=watch, \
                        application/vnd.kubernetes.protobuf;stream=watch";
            let mut error = ApiError::new(Reason::NotAcceptable, text);
            error.details = json!({});
            error
        })
    }

    fn one(range: &str) -> Option<Self> {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next()?;
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let find = |key: &str| parameters.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
        let yaml = match media {
            "*/*" | "application/*" | "application/json" => false,
            "application/yaml" => true,
            _ => return None,
        };
        let form = match (find("as"), find("v")) {
            (None, _) => Form::Object,
            (Some("Table"), Some("v1")) => Form::Table,
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("v1")) => Form::Metadata,
            _ => return None,
        };
        if find("stream").is_some_and(|stream| stream != "watch") {
            return None;
        }
        let of_list = find("as") == Some("PartialObjectMetadataList");
        Some(Self { form, yaml, of_list })
    }

    /// Metadata are asked for by the name of what is answered: an object or a list.
    pub(crate) fn fits(self, resource: &Resource, list: bool) -> Result<(), ApiError> {
        if self.form != Form::Metadata || self.of_list == list {
            return Ok(());
        }
        let package = match resource.group.split('.').next() {
            _ if resource.custom => "unstructured",
            None | Some("") => "core",
            Some(short) => short,
        };
        let kind = match (resource.custom, list) {
            (true, true) => "UnstructuredList",
            (true, false) => "Unstructured",
            (false, true) => &resource.list_kind,
            (false, false) => &resource.kind,
        };
        let (asked, is) = if list {
            ("PartialObjectMetadata", "a list")
        } else {
            ("PartialObjectMetadataList", "not a list")
        };
        let text = format!("you requested {asked}, but the requested object is {is} (*{package}.{kind})");
        Err(ApiError::new(Reason::NotAcceptable, text))
    }
}

/// The answer to a request.
pub(crate) enum Answer {
    /// JSON, complete.
    Json(StatusCode, Bytes),
    /// Another media type, complete.
    Other(StatusCode, &'static str, Bytes),
    /// The lines of a watch.
    Lines(BoxStream<'static, Result<Bytes, BodyError>>),
}

impl Answer {
    /// 200 with a JSON document.
    pub(crate) fn ok(value: &Value) -> Self {
        Self::with(StatusCode::OK, value)
    }

    /// A JSON document.
    pub(crate) fn with(status: StatusCode, value: &Value) -> Self {
        Self::Json(status, serde_json::to_vec(value).unwrap_or_default().into())
    }

    /// Plain text.
    pub(crate) fn text(status: StatusCode, text: &str) -> Self {
        Self::Other(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(text.as_bytes()))
    }

    /// An error.
    pub(crate) fn error(error: &ApiError) -> Self {
        Self::with(
            StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            &error.status(),
        )
    }

    /// The HTTP response.
    pub(crate) fn response(self, accept: Option<Accept>, warnings: &[String]) -> Response<Body> {
        let yaml = accept.is_some_and(|accept| accept.yaml);
        let (status, media, body) = match self {
            Self::Json(status, bytes) if yaml => {
                let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                let text = serde_yaml_ng::to_string(&value).unwrap_or_default();
                (status, "application/yaml", whole(text.into()))
            }
            Self::Json(status, bytes) => (status, "application/json", whole(bytes)),
            Self::Other(status, media, bytes) => (status, media, whole(bytes)),
            Self::Lines(lines) => {
                let body = StreamBody::new(lines.map_ok(Frame::data)).boxed_unsync();
                (StatusCode::OK, "application/json", body)
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        for text in warnings {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{escaped}\"")) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
        response
    }
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The body of an answer to HEAD.
pub(crate) fn empty() -> Body {
    whole(Bytes::new())
}

/// Opens an object's JSON: `{"kind":…,"apiVersion":…` to be followed by the fields of its body.
fn open(kind: &str, api_version: &str, body: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(b"{\"kind\":\"");
    into.extend_from_slice(kind.as_bytes());
    into.extend_from_slice(b"\",\"apiVersion\":\"");
    into.extend_from_slice(api_version.as_bytes());
    into.push(b'"');
    match body.get(1..) {
        Some(b"}") | None => into.push(b'}'),
        Some(rest) => {
            into.push(b',');
            into.extend_from_slice(rest);
        }
    }
}

/// Writes one object (already in the wanted version) in a form other than a table.
pub(crate) fn write_object(
    resource: &Resource,
    version: &str,
    form: Form,
    stored: &Stored,
    into: &mut Vec<u8>,
) {
    if form == Form::Metadata {
        let body = metadata_body(&stored.value);
        open("PartialObjectMetadata", "meta.k8s.io/v1", &body, into);
    } else {
        let kind = stored.value.get("kind").and_then(Value::as_str).unwrap_or(&resource.kind);
        open(kind, &resource.api_version(version), stored.body(), into);
    }
}

fn metadata_body(value: &Value) -> Vec<u8> {
    let meta = value.get("metadata").unwrap_or(&Value::Null);
    let mut body = b"{\"metadata\":".to_vec();
    if serde_json::to_writer(&mut body, meta).is_err() {
        body.extend_from_slice(b"{}");
    }
    body.push(b'}');
    body
}

/// Writes a list of objects (already in the wanted version) in a form other than a table.
pub(crate) fn write_list(
    resource: &Resource,
    version: &str,
    form: Form,
    list_meta: &Value,
    items: &[std::sync::Arc<Stored>],
) -> Bytes {
    let (kind, api_version) = match form {
        Form::Metadata => ("PartialObjectMetadataList", "meta.k8s.io/v1".to_owned()),
        _ => (resource.list_kind.as_str(), resource.api_version(version)),
    };
    let size: usize =
        if form == Form::Object { items.iter().map(|item| item.body().len() + 64).sum() } else { 0 };
    let mut out = Vec::with_capacity(size + 256);
    open(kind, &api_version, b"{}", &mut out);
    out.pop();
    out.extend_from_slice(b",\"metadata\":");
    out.extend_from_slice(list_meta.to_string().as_bytes());
    out.extend_from_slice(b",\"items\":[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if form == Form::Object && !resource.custom {
            out.extend_from_slice(item.body());
        } else {
            write_object(resource, version, form, item, &mut out);
        }
    }
    out.extend_from_slice(b"]}");
    out.into()
}
