//! containerd's store of image content, served on the same socket: what of an image is there, and what is on its way.
//! The CRI tells nothing of that.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::metadata::MetadataValue;

use super::{Cri, CriError};

/// Where containerd keeps what the CRI asks for.
const NAMESPACE: &str = "k8s.io";
/// The header that says so.
const NAMESPACE_HEADER: &str = "containerd-namespace";
/// How long a question may take.
const QUESTION: Duration = Duration::from_secs(5);
/// Larger manifests are not read.
const MAX_MANIFEST: usize = 4 << 20;
const SERVICE: &str = "containerd.services.content.v1.Content";

/// Asks for what is on its way.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListStatusesRequest {
    /// Of these only.
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

/// What is on its way.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListStatusesResponse {
    /// Each of it.
    #[prost(message, repeated, tag = "1")]
    pub statuses: Vec<Ingest>,
}

/// A blob on its way.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ingest {
    /// What it is called until it is there: its kind and digest, `layer-sha256:…`.
    #[prost(string, tag = "3")]
    pub reference: String,
    /// Bytes that have come.
    #[prost(int64, tag = "4")]
    pub offset: i64,
}

/// Asks for blobs that are there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContentRequest {
    /// That pass one of these filters.
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

/// Some of the blobs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContentResponse {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub info: Vec<Blob>,
}

/// Asks for one blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoRequest {
    /// Which.
    #[prost(string, tag = "1")]
    pub digest: String,
}

/// The blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoResponse {
    /// What is known of it.
    #[prost(message, optional, tag = "1")]
    pub info: Option<Blob>,
}

/// A blob that is there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Blob {
    /// Its digest.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// Bytes.
    #[prost(int64, tag = "2")]
    pub size: i64,
    /// Notes of containerd: where it is from, and what it refers to.
    #[prost(btree_map = "string, string", tag = "5")]
    pub labels: BTreeMap<String, String>,
}

/// Asks for the content of a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadContentRequest {
    /// Which.
    #[prost(string, tag = "1")]
    pub digest: String,
}

/// Some of the content.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadContentResponse {
    /// The bytes that come next.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

impl Cri {
    /// All blobs that are on their way.
    pub async fn ingests(&self) -> Result<Vec<Ingest>, CriError> {
        let question = namespaced(ListStatusesRequest { filters: Vec::new() });
        let answer: ListStatusesResponse = self.ask(SERVICE, "ListStatuses", question, QUESTION).await?;
        Ok(answer.statuses)
    }

    /// The manifests and indexes that came from a repository: blobs that refer to others.
    pub async fn manifests(&self, registry: &str, repository: &str) -> Result<Vec<Blob>, CriError> {
        // containerd leaves the port out, and lists all repositories of a registry that have the blob.
        let host = registry.split_once(':').map_or(registry, |(host, _)| host);
        let name = repository.replace('.', "\\\\.");
        let filter = format!("labels.\"containerd.io/distribution.source.{host}\"~=\"(^|,){name}(,|$)\"");
        let question = namespaced(ListContentRequest { filters: vec![filter] });
        let mut found = Vec::new();
        self.stream(SERVICE, "List", question, QUESTION, |answer: ListContentResponse| {
            found.extend(answer.info.into_iter().filter(Blob::refers));
            true
        })
        .await?;
        Ok(found)
    }

    /// Whether a blob is there.
    pub async fn has_blob(&self, digest: &str) -> Result<bool, CriError> {
        let question = namespaced(InfoRequest { digest: digest.to_owned() });
        let answer: Result<InfoResponse, _> = self.ask(SERVICE, "Info", question, QUESTION).await;
        match answer {
            Ok(answer) => Ok(answer.info.is_some()),
            Err(CriError::Refused { code: tonic::Code::NotFound, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The content of a manifest.
    pub async fn manifest(&self, digest: &str) -> Result<Vec<u8>, CriError> {
        let question = namespaced(ReadContentRequest { digest: digest.to_owned() });
        let mut content = Vec::new();
        self.stream(SERVICE, "Read", question, QUESTION, |answer: ReadContentResponse| {
            content.extend(answer.data);
            content.len() <= MAX_MANIFEST
        })
        .await?;
        Ok(content)
    }
}

impl Blob {
    fn refers(&self) -> bool {
        self.labels.keys().any(|label| label.starts_with("containerd.io/gc.ref.content"))
    }
}

fn namespaced<Q>(question: Q) -> tonic::Request<Q> {
    let mut request = tonic::Request::new(question);
    request.metadata_mut().insert(NAMESPACE_HEADER, MetadataValue::from_static(NAMESPACE));
    request
}
