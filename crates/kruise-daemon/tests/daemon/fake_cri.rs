//! A container runtime in memory, behind a real gRPC connection without sockets, so that time can be simulated.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use kruise_daemon::cri::discover::{Runtime, Runtimes};
use kruise_daemon::cri::{Cri, call_metrics, content, messages as m};
use prometheus::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

/// What a pull does.
#[derive(Clone)]
pub(crate) enum Pull {
    /// Brings the image after a while.
    Succeeds(Duration),
    /// Fails with these words.
    Fails(Code, String),
    /// Never ends.
    Hangs,
    /// Needs this user and password.
    Needs(String, String),
    /// Brings another image than the one asked for.
    Lies,
}

#[derive(Default)]
pub(crate) struct State {
    /// The images there are, by full reference.
    pub(crate) images: BTreeMap<String, m::Image>,
    /// What was asked for.
    pub(crate) pulls: Vec<m::PullImageRequest>,
    /// Pulls that were given up by the client.
    pub(crate) cancelled: usize,
    /// What the next pulls of a reference do; the last one stays.
    pub(crate) behaviours: HashMap<String, VecDeque<Pull>>,
    /// The containers there are.
    pub(crate) containers: Vec<m::Container>,
    /// ID and grace period of each stop.
    pub(crate) stops: Vec<(String, i64)>,
    /// ID and command of each exec.
    pub(crate) execs: Vec<(String, Vec<String>)>,
    /// Answers of execs by container ID.
    pub(crate) outputs: HashMap<String, m::ExecSyncResponse>,
    /// What containers end with, by ID; 0 if not said.
    pub(crate) exit_codes: HashMap<String, i32>,
    /// IDs of containers whose stop fails.
    pub(crate) unstoppable: Vec<String>,
    /// Its name; empty for containerd.
    pub(crate) name: String,
    /// Details of containers by ID, as runtimes give them when asked.
    pub(crate) details: HashMap<String, String>,
    /// The store of image content; only containerd has one.
    pub(crate) content: Option<Content>,
    down: bool,
}

/// What containerd tells of image content.
#[derive(Default)]
pub(crate) struct Content {
    pub(crate) ingests: Vec<content::Ingest>,
    /// Blobs that refer to others, with their content.
    pub(crate) manifests: Vec<(content::Blob, String)>,
    /// Digests of the blobs that are there.
    pub(crate) blobs: Vec<String>,
    /// How manifests were asked for.
    pub(crate) filters: Vec<String>,
    /// How often it was asked what is on its way.
    pub(crate) looks: usize,
}

/// A container runtime.
#[derive(Clone, Default)]
pub(crate) struct FakeCri {
    state: Arc<Mutex<State>>,
    connections: Arc<Mutex<JoinSet<()>>>,
}

#[expect(clippy::unused_async, reason = "answers that need no time are calls like those that do")]
impl FakeCri {
    pub(crate) fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// What pulls of a reference do, one after the other.
    pub(crate) fn behave(&self, reference: &str, pulls: &[Pull]) {
        self.state(|state| state.behaviours.insert(reference.to_owned(), pulls.iter().cloned().collect()));
    }

    /// Full references in the order they were asked for.
    pub(crate) fn pulled(&self) -> Vec<String> {
        self.state(|state| {
            state.pulls.iter().map(|pull| pull.image.as_ref().unwrap().image.clone()).collect()
        })
    }

    pub(crate) fn add_image(&self, reference: &str) {
        self.state(|state| state.images.insert(reference.to_owned(), image(reference)));
    }

    /// Ends all connections and refuses new ones.
    pub(crate) fn stop(&self) {
        self.state(|state| state.down = true);
        self.connections.lock().unwrap().abort_all();
    }

    pub(crate) fn start(&self) {
        self.state(|state| state.down = false);
    }

    /// What it calls itself, which is the scheme of its container IDs.
    pub(crate) fn name(&self) -> String {
        let name = self.state(|state| state.name.clone());
        if name.is_empty() { "containerd".to_owned() } else { name }
    }

    /// The runtime as the agent finds it.
    pub(crate) fn runtimes(&self) -> Runtimes {
        let fake = self.clone();
        let connect = tower::service_fn(move |_| {
            let io = fake.connect();
            async move { io.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://fake").connect_with_connector_lazy(connect);
        let cri = Cri::over(channel, Path::new("/fake.sock"), call_metrics(&Registry::new()).unwrap());
        Runtimes::of(vec![Runtime { name: self.name(), cri }]).unwrap()
    }

    /// Serves on a real socket, until it is dropped.
    pub(crate) fn listen(&self, socket: &Path) {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let fake = self.clone();
        self.connections.lock().unwrap().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                fake.answer(stream);
            }
        });
    }

    fn connect(&self) -> io::Result<tokio::io::DuplexStream> {
        if self.state(|state| state.down) {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        }
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        self.answer(ours);
        Ok(theirs)
    }

    fn answer(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let fake = self.clone();
        self.connections.lock().unwrap().spawn(async move {
            let service = tower::service_fn(move |request| fake.clone().serve(request));
            let service = TowerToHyperService::new(service);
            let server = auto::Builder::new(TokioExecutor::new());
            // The client goes away when it is done.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }

    async fn serve(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        macro_rules! unary {
            ($method:ident) => {{
                let service = tower::service_fn(move |request: tonic::Request<_>| {
                    let fake = self.clone();
                    async move { fake.$method(request.into_inner()).await.map(tonic::Response::new) }
                });
                tonic::server::Grpc::new(ProstCodec::default()).unary(service, request).await
            }};
        }
        macro_rules! streaming {
            ($method:ident) => {{
                let service = tower::service_fn(move |request: tonic::Request<_>| {
                    let fake = self.clone();
                    async move {
                        let answers = fake.$method(&request.into_inner())?.into_iter().map(Ok::<_, Status>);
                        Ok(tonic::Response::new(futures::stream::iter(answers)))
                    }
                });
                tonic::server::Grpc::new(ProstCodec::default()).server_streaming(service, request).await
            }};
        }
        let is_ours = request.headers().get("containerd-namespace").is_some_and(|name| name == "k8s.io");
        let path = request.uri().path().to_owned();
        if path.starts_with("/containerd.") && (!is_ours || self.state(|state| state.content.is_none())) {
            return Ok(Status::unimplemented(path).into_http());
        }
        Ok(match &*path {
            "/containerd.services.content.v1.Content/ListStatuses" => unary!(ingests),
            "/containerd.services.content.v1.Content/Info" => unary!(blob),
            "/containerd.services.content.v1.Content/List" => streaming!(manifests),
            "/containerd.services.content.v1.Content/Read" => streaming!(manifest),
            "/runtime.v1.RuntimeService/Version" => unary!(version),
            "/runtime.v1.ImageService/ImageFsInfo" => unary!(fs_info),
            "/runtime.v1.ImageService/ImageStatus" => unary!(image_status),
            "/runtime.v1.ImageService/PullImage" => unary!(pull),
            "/runtime.v1.RuntimeService/ListContainers" => unary!(list),
            "/runtime.v1.RuntimeService/ContainerStatus" => unary!(status),
            "/runtime.v1.RuntimeService/StopContainer" => unary!(stop_container),
            "/runtime.v1.RuntimeService/ExecSync" => unary!(exec),
            path => Status::unimplemented(path.to_owned()).into_http(),
        })
    }

    async fn version(self, _: m::VersionRequest) -> Result<m::VersionResponse, Status> {
        Ok(m::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: self.name(),
            runtime_version: "1.6".into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn fs_info(self, _: m::ImageFsInfoRequest) -> Result<m::ImageFsInfoResponse, Status> {
        Ok(m::ImageFsInfoResponse {})
    }

    async fn image_status(self, question: m::ImageStatusRequest) -> Result<m::ImageStatusResponse, Status> {
        let reference = question.image.unwrap_or_default().image;
        Ok(m::ImageStatusResponse { image: self.state(|state| state.images.get(&reference).cloned()) })
    }

    async fn pull(self, pull: m::PullImageRequest) -> Result<m::PullImageResponse, Status> {
        let reference = pull.image.clone().unwrap_or_default().image;
        let auth = pull.auth.clone();
        let behaviour = self.state(|state| {
            state.pulls.push(pull);
            let known = state.behaviours.get_mut(&reference);
            known.and_then(|list| if list.len() > 1 { list.pop_front() } else { list.front().cloned() })
        });
        let guard = Cancelled(self.clone(), false);
        let result = match behaviour.unwrap_or(Pull::Succeeds(Duration::ZERO)) {
            Pull::Succeeds(after) => {
                tokio::time::sleep(after).await;
                self.add_image(&reference);
                Ok(())
            }
            Pull::Fails(code, words) => Err(Status::new(code, words)),
            Pull::Hangs => std::future::pending().await,
            Pull::Needs(user, password) => {
                let auth = auth.unwrap_or_default();
                if (auth.username, auth.password) == (user, password) {
                    self.add_image(&reference);
                    Ok(())
                } else {
                    Err(Status::unknown("pull access denied: 401 Unauthorized"))
                }
            }
            Pull::Lies => {
                self.state(|state| {
                    state.images.insert(reference.clone(), image("docker.io/library/other:1"))
                });
                Ok(())
            }
        };
        let mut guard = guard;
        guard.1 = true;
        result.map(|()| m::PullImageResponse { image_ref: reference })
    }

    fn content<T>(&self, look: impl FnOnce(&mut Content) -> T) -> T {
        self.state(|state| look(state.content.as_mut().unwrap()))
    }

    async fn ingests(self, _: content::ListStatusesRequest) -> Result<content::ListStatusesResponse, Status> {
        Ok(self.content(|content| {
            content.looks += 1;
            content::ListStatusesResponse { statuses: content.ingests.clone() }
        }))
    }

    async fn blob(self, question: content::InfoRequest) -> Result<content::InfoResponse, Status> {
        let there = self.content(|content| content.blobs.contains(&question.digest));
        let info = content::Blob { digest: question.digest, ..content::Blob::default() };
        there
            .then_some(content::InfoResponse { info: Some(info) })
            .ok_or_else(|| Status::not_found("content: not found"))
    }

    #[expect(clippy::unnecessary_wraps, reason = "answers that cannot fail are answers like those that can")]
    fn manifests(
        self,
        question: &content::ListContentRequest,
    ) -> Result<Vec<content::ListContentResponse>, Status> {
        Ok(self.content(|content| {
            content.filters.extend(question.filters.iter().cloned());
            // One in each answer, as a store that has many.
            let blobs = content.manifests.iter().map(|(blob, _)| blob.clone());
            blobs.map(|blob| content::ListContentResponse { info: vec![blob] }).collect()
        }))
    }

    fn manifest(
        self,
        question: &content::ReadContentRequest,
    ) -> Result<Vec<content::ReadContentResponse>, Status> {
        let found = self.content(|content| {
            let mut manifests = content.manifests.iter();
            manifests.find(|(blob, _)| blob.digest == question.digest).map(|(_, text)| text.clone())
        });
        let text = found.ok_or_else(|| Status::not_found("content: not found"))?;
        let pieces = text.as_bytes().chunks(100);
        Ok(pieces.map(|piece| content::ReadContentResponse { data: piece.to_vec() }).collect())
    }

    async fn list(self, question: m::ListContainersRequest) -> Result<m::ListContainersResponse, Status> {
        let labels = question.filter.unwrap_or_default().label_selector;
        let matches = |container: &&m::Container| {
            labels.iter().all(|(key, value)| container.labels.get(key) == Some(value))
        };
        Ok(m::ListContainersResponse {
            containers: self.state(|state| state.containers.iter().filter(matches).cloned().collect()),
        })
    }

    async fn status(self, question: m::ContainerStatusRequest) -> Result<m::ContainerStatusResponse, Status> {
        let found = self.state(|state| {
            state.containers.iter().find(|container| container.id == question.container_id).cloned()
        });
        let container = found.ok_or_else(|| Status::not_found("no such container"))?;
        let exit_code = self.state(|state| state.exit_codes.get(&container.id).copied().unwrap_or_default());
        let details = self.state(|state| state.details.get(&container.id).cloned());
        let details = details.filter(|_| question.verbose).map(|text| ("info".to_owned(), text));
        Ok(m::ContainerStatusResponse {
            status: Some(m::ContainerStatus {
                id: container.id,
                metadata: container.metadata,
                state: container.state,
                created_at: container.created_at,
                started_at: container.created_at,
                labels: container.labels,
                annotations: container.annotations,
                exit_code,
                ..m::ContainerStatus::default()
            }),
            info: details.into_iter().collect(),
        })
    }

    async fn stop_container(
        self,
        question: m::StopContainerRequest,
    ) -> Result<m::StopContainerResponse, Status> {
        let id = question.container_id;
        self.state(|state| {
            state.stops.push((id.clone(), question.timeout));
            if state.unstoppable.contains(&id) {
                return Err(Status::internal("the task does not end"));
            }
            for container in &mut state.containers {
                if container.id == id {
                    container.state = m::ContainerState::Exited as i32;
                }
            }
            Ok(m::StopContainerResponse {})
        })
    }

    async fn exec(self, question: m::ExecSyncRequest) -> Result<m::ExecSyncResponse, Status> {
        self.state(|state| {
            state.execs.push((question.container_id.clone(), question.cmd));
            Ok(state.outputs.get(&question.container_id).cloned().unwrap_or_default())
        })
    }
}

/// Counts a pull whose client went away.
struct Cancelled(FakeCri, bool);

impl Drop for Cancelled {
    fn drop(&mut self) {
        if !self.1 {
            self.0.state(|state| state.cancelled += 1);
        }
    }
}

/// An image whose digest is the one asked for, if one was.
fn image(reference: &str) -> m::Image {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    let digest = reference.split_once('@').map_or("sha256:aa", |(_, digest)| digest);
    m::Image {
        id: format!("sha256:id-of-{name}"),
        repo_tags: vec![reference.to_owned()],
        repo_digests: vec![format!("{name}@{digest}")],
        size: 1000,
    }
}
