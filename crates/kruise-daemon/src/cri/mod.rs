//! The container runtime: a client of CRI `runtime.v1` on its Unix socket.

pub mod content;
pub mod discover;
pub mod messages;

use std::collections::{BTreeMap, HashMap};
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prometheus::{HistogramOpts, HistogramVec, Registry};
use serde::Deserialize;
use tokio::net::UnixStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use messages as m;

/// Largest answer that is read: lists of containers exceed the usual 4 MiB.
const MAX_MESSAGE: usize = 16 << 20;
/// How long a question may take.
const QUESTION: Duration = Duration::from_secs(5);
/// How long the first question to a socket may take.
const FIRST_QUESTION: Duration = Duration::from_secs(10);
/// What a runtime gets beyond the time a container has to end.
const STOP_MARGIN: Duration = Duration::from_mins(2);
/// What a runtime gets beyond the time a command has.
const EXEC_MARGIN: Duration = Duration::from_secs(5);

/// Why the runtime did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The runtime says no, in its own words, the way other clients of it print them.
    #[error("rpc error: code = {code:?} desc = {message}")]
    Refused {
        /// The kind of failure.
        code: tonic::Code,
        /// The runtime's words.
        message: String,
    },
    /// There was no answer: the runtime is gone, or went away meanwhile.
    #[error("the container runtime cannot be reached: {0}")]
    Unreachable(String),
    /// There was no answer in time.
    #[error("rpc error: code = DeadlineExceeded desc = no answer within {}s", .0.as_secs())]
    TimedOut(Duration),
}

impl CriError {
    /// True when the runtime itself did not answer.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    fn of(status: &tonic::Status) -> Self {
        // A status that came over the wire has no cause on this side of it.
        let mut cause = status.source();
        if cause.is_none() {
            return Self::Refused { code: status.code(), message: status.message().to_owned() };
        }
        let mut text = status.message().to_owned();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        Self::Unreachable(text)
    }
}

/// A client of one runtime; clones share its connection, which is made on first use and again whenever it is lost.
#[derive(Clone, Debug)]
pub struct Cri {
    channel: Channel,
    socket: PathBuf,
    seconds: HistogramVec,
}

fn path(service: &str, rpc: &str) -> Result<PathAndQuery, CriError> {
    PathAndQuery::try_from(format!("/{service}/{rpc}"))
        .map_err(|error| CriError::Unreachable(error.to_string()))
}

/// What containerd and CRI-O tell in detail of a container, as far as it is read: the OCI runtime's orders.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    runtime_spec: RuntimeSpec,
}

#[derive(Deserialize)]
struct RuntimeSpec {
    process: Process,
}

#[derive(Deserialize)]
struct Process {
    env: Vec<String>,
}

fn environment(details: &str) -> Option<BTreeMap<String, String>> {
    let details: Details = serde_json::from_str(details).ok()?;
    let entries = details.runtime_spec.process.env.into_iter();
    Some(
        entries
            .filter_map(|entry| entry.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
            .collect(),
    )
}

/// How long calls took, by name of the call.
pub fn call_metrics(registry: &Registry) -> prometheus::Result<HistogramVec> {
    let opts = HistogramOpts::new(
        "kruise_cri_request_duration_seconds",
        "Duration of calls to the container runtime",
    )
    .buckets(vec![0.005, 0.05, 0.5, 5.0, 30.0, 120.0, 600.0]);
    let seconds = HistogramVec::new(opts, &["rpc"])?;
    registry.register(Box::new(seconds.clone()))?;
    Ok(seconds)
}

impl Cri {
    /// A client of the runtime behind a socket.
    pub fn new(socket: &Path, seconds: HistogramVec) -> Self {
        let path = socket.to_owned();
        let connect = move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        };
        // The name is never looked up: the connector knows the way.
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(connect));
        Self::over(channel, socket, seconds)
    }

    /// A client over a channel that is there; `socket` is only told.
    pub fn over(channel: Channel, socket: &Path, seconds: HistogramVec) -> Self {
        Self { channel, socket: socket.to_owned(), seconds }
    }

    /// Where the runtime listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    async fn call<Q, A>(
        &self,
        service: &str,
        rpc: &'static str,
        question: Q,
        within: Duration,
    ) -> Result<A, CriError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.ask(&format!("runtime.v1.{service}"), rpc, tonic::Request::new(question), within).await
    }

    async fn ask<Q, A>(
        &self,
        service: &str,
        rpc: &'static str,
        question: tonic::Request<Q>,
        within: Duration,
    ) -> Result<A, CriError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let _timer = self.seconds.with_label_values(&[rpc]).start_timer();
        let path = path(service, rpc)?;
        let answer = async {
            let mut grpc = self.grpc().await?;
            let answer = grpc.unary(question, path, ProstCodec::<Q, A>::default()).await;
            answer.map_err(|status| CriError::of(&status))
        };
        let answer = tokio::time::timeout(within, answer).await.map_err(|_| CriError::TimedOut(within))?;
        Ok(answer?.into_inner())
    }

    /// Takes in the answers to one question, for as long as the taker wants more.
    async fn stream<Q, A>(
        &self,
        service: &str,
        rpc: &'static str,
        question: tonic::Request<Q>,
        within: Duration,
        mut take: impl FnMut(A) -> bool,
    ) -> Result<(), CriError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let _timer = self.seconds.with_label_values(&[rpc]).start_timer();
        let path = path(service, rpc)?;
        let answers = async {
            let mut grpc = self.grpc().await?;
            let answers = grpc.server_streaming(question, path, ProstCodec::<Q, A>::default()).await;
            let mut answers = answers.map_err(|status| CriError::of(&status))?.into_inner();
            while let Some(answer) = answers.message().await.map_err(|status| CriError::of(&status))? {
                if !take(answer) {
                    break;
                }
            }
            Ok(())
        };
        tokio::time::timeout(within, answers).await.map_err(|_| CriError::TimedOut(within))?
    }

    async fn grpc(&self) -> Result<tonic::client::Grpc<Channel>, CriError> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        grpc.ready().await.map_err(|error| CriError::of(&tonic::Status::from_error(error.into())))?;
        Ok(grpc)
    }

    /// What the runtime is.
    pub async fn version(&self) -> Result<m::VersionResponse, CriError> {
        self.call("RuntimeService", "Version", m::VersionRequest { version: "0.1.0".to_owned() }, QUESTION)
            .await
    }

    /// Whether images are served.
    pub async fn image_fs_info(&self) -> Result<m::ImageFsInfoResponse, CriError> {
        self.call("ImageService", "ImageFsInfo", m::ImageFsInfoRequest {}, FIRST_QUESTION).await
    }

    /// The image of a full reference, if it is there.
    pub async fn image(&self, reference: &str) -> Result<Option<m::Image>, CriError> {
        let image = Some(m::ImageSpec { image: reference.to_owned(), annotations: HashMap::new() });
        let question = m::ImageStatusRequest { image, verbose: false };
        let answer: m::ImageStatusResponse =
            self.call("ImageService", "ImageStatus", question, FIRST_QUESTION).await?;
        Ok(answer.image)
    }

    /// Pulls an image; the end of the future is the end of the pull, and dropping it stops the pull.
    pub async fn pull(
        &self,
        pull: m::PullImageRequest,
        within: Duration,
    ) -> Result<m::PullImageResponse, CriError> {
        self.call("ImageService", "PullImage", pull, within).await
    }

    /// The containers of a pod, newest first.
    pub async fn containers_of_pod(&self, uid: &str) -> Result<Vec<m::Container>, CriError> {
        let label_selector = HashMap::from([("io.kubernetes.pod.uid".to_owned(), uid.to_owned())]);
        let filter = Some(m::ContainerFilter { id: String::new(), label_selector });
        let question = m::ListContainersRequest { filter };
        let answer: m::ListContainersResponse =
            self.call("RuntimeService", "ListContainers", question, QUESTION).await?;
        let mut containers = answer.containers;
        containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        Ok(containers)
    }

    /// One container's state; none if it is gone.
    pub async fn container(&self, id: &str) -> Result<Option<m::ContainerStatus>, CriError> {
        let question = m::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        match self.call("RuntimeService", "ContainerStatus", question, QUESTION).await {
            Ok(m::ContainerStatusResponse { status, .. }) => Ok(status),
            Err(CriError::Refused { code: tonic::Code::NotFound, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The environment that a container was started with, from what the runtime tells of it; none if it does not.
    pub async fn environment(&self, id: &str) -> Result<Option<BTreeMap<String, String>>, CriError> {
        let question = m::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let answer: m::ContainerStatusResponse =
            self.call("RuntimeService", "ContainerStatus", question, QUESTION).await?;
        Ok(answer.info.get("info").and_then(|details| environment(details)))
    }

    /// Stops a container, killing it after `grace`; returns when it has ended.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let question = m::StopContainerRequest { container_id: id.to_owned(), timeout };
        let within = grace.saturating_add(STOP_MARGIN);
        let answer: Result<m::StopContainerResponse, _> =
            self.call("RuntimeService", "StopContainer", question, within).await;
        answer.map(drop)
    }

    /// Runs a command in a container.
    pub async fn exec(
        &self,
        id: &str,
        command: Vec<String>,
        within: Duration,
    ) -> Result<m::ExecSyncResponse, CriError> {
        let timeout = i64::try_from(within.as_secs()).unwrap_or(i64::MAX);
        let question = m::ExecSyncRequest { container_id: id.to_owned(), cmd: command, timeout };
        self.call("RuntimeService", "ExecSync", question, within.saturating_add(EXEC_MARGIN)).await
    }
}
