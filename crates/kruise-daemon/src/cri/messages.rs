//! The messages of CRI `runtime.v1` in use, with the fields in use: others are skipped when read and absent when
//! written, as protocol buffers allow. Numbers are those of the published `api.proto`.

use std::collections::HashMap;

/// An image, by reference or ID.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageSpec {
    /// Reference or ID.
    #[prost(string, tag = "1")]
    pub image: String,
    /// Free to use; always empty here.
    #[prost(map = "string, string", tag = "2")]
    pub annotations: HashMap<String, String>,
}

/// An image that is there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Image {
    /// The runtime's ID.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Full references by tag.
    #[prost(string, repeated, tag = "2")]
    pub repo_tags: Vec<String>,
    /// Full references by digest.
    #[prost(string, repeated, tag = "3")]
    pub repo_digests: Vec<String>,
    /// Bytes.
    #[prost(uint64, tag = "4")]
    pub size: u64,
}

/// Asks for an image.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageStatusRequest {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
    /// With details; never asked for.
    #[prost(bool, tag = "2")]
    pub verbose: bool,
}

/// The image, if it is there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageStatusResponse {
    /// The image.
    #[prost(message, optional, tag = "1")]
    pub image: Option<Image>,
}

/// Credentials of a registry. Does not show them when printed.
#[derive(Clone, Eq, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct AuthConfig {
    /// User.
    #[prost(string, tag = "1")]
    pub username: String,
    /// Password.
    #[prost(string, tag = "2")]
    pub password: String,
    /// Both, in base64; not used.
    #[prost(string, tag = "3")]
    pub auth: String,
    /// The registry; not used.
    #[prost(string, tag = "4")]
    pub server_address: String,
    /// Exchanged for a token at the registry.
    #[prost(string, tag = "5")]
    pub identity_token: String,
    /// Sent to the registry as it is.
    #[prost(string, tag = "6")]
    pub registry_token: String,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").finish_non_exhaustive()
    }
}

/// Identity of a sandbox; always empty here, but some runtimes want it to be there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxMetadata {
    /// Name of the pod.
    #[prost(string, tag = "1")]
    pub name: String,
    /// UID of the pod.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Namespace of the pod.
    #[prost(string, tag = "3")]
    pub namespace: String,
}

/// The sandbox an image is pulled for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxConfig {
    /// Identity.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<PodSandboxMetadata>,
    /// Labels.
    #[prost(map = "string, string", tag = "6")]
    pub labels: HashMap<String, String>,
    /// Annotations.
    #[prost(map = "string, string", tag = "7")]
    pub annotations: HashMap<String, String>,
}

/// Pulls an image.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PullImageRequest {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
    /// As whom; none is anonymous.
    #[prost(message, optional, tag = "2")]
    pub auth: Option<AuthConfig>,
    /// For which sandbox.
    #[prost(message, optional, tag = "3")]
    pub sandbox_config: Option<PodSandboxConfig>,
}

/// The image was pulled.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PullImageResponse {
    /// What the runtime calls it.
    #[prost(string, tag = "1")]
    pub image_ref: String,
}

/// Asks for the space that images take.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageFsInfoRequest {}

/// The space that images take; read only to see that the call is served.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageFsInfoResponse {}

/// Asks what the runtime is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VersionRequest {
    /// Version of the kubelet's API.
    #[prost(string, tag = "1")]
    pub version: String,
}

/// What the runtime is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VersionResponse {
    /// Version of the kubelet's API.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Name, which is the scheme of its container IDs.
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    /// Version of the runtime.
    #[prost(string, tag = "3")]
    pub runtime_version: String,
    /// Version of the CRI.
    #[prost(string, tag = "4")]
    pub runtime_api_version: String,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ContainerState {
    /// Not started yet.
    Created = 0,
    /// Running.
    Running = 1,
    /// Ended.
    Exited = 2,
    /// Who knows.
    Unknown = 3,
}

/// Chooses containers; all that is given must match.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerFilter {
    /// By ID.
    #[prost(string, tag = "1")]
    pub id: String,
    /// By labels.
    #[prost(map = "string, string", tag = "4")]
    pub label_selector: HashMap<String, String>,
}

/// Asks for containers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContainersRequest {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub filter: Option<ContainerFilter>,
}

/// Number and name of a container within its pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerMetadata {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// How often one of that name was made before.
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
}

/// A container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Container {
    /// ID, without the runtime's name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Name and number.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<ContainerMetadata>,
    /// What it is doing.
    #[prost(enumeration = "ContainerState", tag = "6")]
    pub state: i32,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "7")]
    pub created_at: i64,
    /// Labels.
    #[prost(map = "string, string", tag = "8")]
    pub labels: HashMap<String, String>,
    /// Annotations.
    #[prost(map = "string, string", tag = "9")]
    pub annotations: HashMap<String, String>,
}

/// The containers asked for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContainersResponse {
    /// Containers.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<Container>,
}

/// Asks for one container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerStatusRequest {
    /// ID.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// With details.
    #[prost(bool, tag = "2")]
    pub verbose: bool,
}

/// One container's state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerStatus {
    /// ID.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Name and number.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<ContainerMetadata>,
    /// What it is doing.
    #[prost(enumeration = "ContainerState", tag = "3")]
    pub state: i32,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "4")]
    pub created_at: i64,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "5")]
    pub started_at: i64,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub finished_at: i64,
    /// How it ended.
    #[prost(int32, tag = "7")]
    pub exit_code: i32,
    /// Labels.
    #[prost(map = "string, string", tag = "12")]
    pub labels: HashMap<String, String>,
    /// Annotations.
    #[prost(map = "string, string", tag = "13")]
    pub annotations: HashMap<String, String>,
}

/// The container asked for.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct ContainerStatusResponse {
    /// Its state.
    #[prost(message, optional, tag = "1")]
    pub status: Option<ContainerStatus>,
    /// Details, if they were asked for, as each runtime likes. Never printed: the environment is among them.
    #[prost(map = "string, string", tag = "2")]
    pub info: HashMap<String, String>,
}

impl std::fmt::Debug for ContainerStatusResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerStatusResponse").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Stops a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StopContainerRequest {
    /// ID.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Seconds until it is killed.
    #[prost(int64, tag = "2")]
    pub timeout: i64,
}

/// The container has stopped.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StopContainerResponse {}

/// Runs a command in a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecSyncRequest {
    /// ID.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Command with arguments.
    #[prost(string, repeated, tag = "2")]
    pub cmd: Vec<String>,
    /// Seconds it may take; 0 is no limit.
    #[prost(int64, tag = "3")]
    pub timeout: i64,
}

/// The command has ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecSyncResponse {
    /// Output.
    #[prost(bytes = "vec", tag = "1")]
    pub stdout: Vec<u8>,
    /// Error output.
    #[prost(bytes = "vec", tag = "2")]
    pub stderr: Vec<u8>,
    /// How it ended.
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
}
