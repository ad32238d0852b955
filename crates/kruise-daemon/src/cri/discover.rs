//! Finding the container runtimes of the node by their sockets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus::HistogramVec;
use tokio::time::Instant;

use super::Cri;

/// Where the host's `/var/run` is mounted.
pub const HOST_RUN: &str = "/hostvarrun";

/// The sockets that runtimes listen on, below the host's `/var/run`, in the order they are preferred.
const SOCKETS: [&str; 6] = [
    "containerd.sock",
    "containerd/containerd.sock",
    "crio.sock",
    "crio/crio.sock",
    "cri-dockerd.sock",
    "cri-dockerd/cri-dockerd.sock",
];

/// For how long the node's runtime is looked for: it may start later than the agent.
const PATIENCE: Duration = Duration::from_mins(1);
/// First and longest pause between two looks.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// A runtime that answers.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Its name, which is the scheme of its container IDs.
    pub name: String,
    /// Its client.
    pub cri: Cri,
}

/// The runtimes of the node, never none; the first one pulls images.
#[derive(Clone, Debug)]
pub struct Runtimes(Vec<Runtime>);

/// Why there is no runtime to work with.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// No socket is there.
    #[error("not found container runtime sock")]
    NoSocket,
    /// There are sockets, but nobody useful behind them.
    #[error("no container runtime answers: {0}")]
    Unusable(String),
}

impl Runtimes {
    /// These, the first of which pulls images; none if there are none.
    pub fn of(runtimes: Vec<Runtime>) -> Option<Self> {
        (!runtimes.is_empty()).then_some(Self(runtimes))
    }

    /// The runtime that pulls images.
    pub fn images(&self) -> Option<&Cri> {
        self.0.first().map(|runtime| &runtime.cri)
    }

    /// The runtime of a container ID such as `containerd://…`, and the ID without that.
    pub fn of_container<'a>(&self, id: &'a str) -> Option<(&Cri, &'a str)> {
        let (scheme, id) = id.split_once("://")?;
        let runtime = self.0.iter().find(|runtime| runtime.name == scheme)?;
        Some((&runtime.cri, id))
    }

    /// All of them.
    pub fn all(&self) -> &[Runtime] {
        &self.0
    }
}

/// The sockets to try: the one named, or every known one that exists. A named one may be given below the mounted
/// folder or with it.
pub fn sockets(run: &Path, named: &str) -> Vec<PathBuf> {
    if named.is_empty() {
        return SOCKETS.iter().map(|socket| run.join(socket)).filter(|path| path.exists()).collect();
    }
    let named = Path::new(named);
    let below = named.strip_prefix(run).or_else(|_| named.strip_prefix("/")).unwrap_or(named);
    vec![run.join(below)].into_iter().filter(|path| path.exists()).collect()
}

/// The runtimes of the node. Where there are several sockets, `reported` is asked for the name of the runtime that the
/// node itself uses: that one comes first, and is waited for while others answer already.
///
/// # Errors
/// Nothing usable was found within a minute.
pub async fn find(
    run: &Path,
    named: &str,
    reported: impl AsyncFn() -> Option<String>,
    seconds: &HistogramVec,
) -> Result<Runtimes, DiscoverError> {
    let end = Instant::now() + PATIENCE;
    let (mut pause, mut preferred) = (PAUSE.0, None);
    loop {
        let sockets = sockets(run, named);
        if sockets.len() > 1 && preferred.is_none() {
            preferred = reported().await;
        }
        let found = discover(sockets, preferred.as_deref(), seconds).await;
        let first = found.as_ref().ok().and_then(|runtimes| runtimes.all().first());
        let settled = first.is_some_and(|first| preferred.as_ref().is_none_or(|name| *name == first.name));
        if settled || Instant::now() >= end {
            return found;
        }
        match &found {
            Ok(_) => tracing::info!(preferred, "the runtime the node reports does not answer yet"),
            Err(error) => tracing::info!(%error, "the container runtime is looked for again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// The runtimes behind the sockets that answer as a runtime must. One whose name is `preferred`, as the node reports
/// it, comes first.
async fn discover(
    sockets: Vec<PathBuf>,
    preferred: Option<&str>,
    seconds: &HistogramVec,
) -> Result<Runtimes, DiscoverError> {
    if sockets.is_empty() {
        return Err(DiscoverError::NoSocket);
    }
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for socket in sockets {
        let cri = Cri::new(&socket, seconds.clone());
        match check(&cri).await {
            Ok(name) => found.push(Runtime { name, cri }),
            Err(fault) => {
                tracing::warn!(socket = %socket.display(), fault, "a socket has no usable runtime");
                faults.push(format!("{}: {fault}", socket.display()));
            }
        }
    }
    if let Some(at) = found.iter().position(|runtime| Some(&*runtime.name) == preferred) {
        let runtime = found.remove(at);
        found.insert(0, runtime);
    }
    Runtimes::of(found).ok_or_else(|| DiscoverError::Unusable(faults.join("; ")))
}

/// The name of a runtime that serves what is needed.
async fn check(cri: &Cri) -> Result<String, String> {
    cri.image_fs_info().await.map_err(|error| error.to_string())?;
    let version = cri.version().await.map_err(|error| error.to_string())?;
    let fields =
        [&version.version, &version.runtime_name, &version.runtime_version, &version.runtime_api_version];
    if fields.into_iter().any(String::is_empty) {
        return Err("its version is incomplete".to_owned());
    }
    Ok(version.runtime_name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn known_sockets_are_found_in_their_order_and_a_named_one_alone() {
        let run = std::env::temp_dir().join(format!("kruise-sockets-{}", std::process::id()));
        fs::create_dir_all(run.join("containerd")).unwrap();
        fs::create_dir_all(run.join("crio")).unwrap();
        for name in ["cri-dockerd.sock", "crio/crio.sock", "containerd/containerd.sock", "other.sock"] {
            fs::write(run.join(name), "").unwrap();
        }
        let found = |named: &str| {
            let found = sockets(&run, named).into_iter();
            found.map(|path| path.strip_prefix(&run).unwrap().display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found(""), ["containerd/containerd.sock", "crio/crio.sock", "cri-dockerd.sock"]);
        assert_eq!(found("other.sock"), ["other.sock"]);
        assert_eq!(found("/other.sock"), ["other.sock"]);
        assert_eq!(found(&run.join("other.sock").display().to_string()), ["other.sock"]);
        assert_eq!(found("missing.sock"), Vec::<String>::new());
        fs::remove_dir_all(&run).unwrap();
    }

    #[tokio::test]
    async fn without_a_socket_or_anybody_behind_it_there_is_no_runtime() {
        let seconds = crate::cri::call_metrics(&prometheus::Registry::new()).unwrap();
        let error = discover(Vec::new(), None, &seconds).await.unwrap_err();
        assert_eq!(error.to_string(), "not found container runtime sock");
        let error = discover(vec![PathBuf::from("/nowhere/x.sock")], None, &seconds).await.unwrap_err();
        assert!(error.to_string().starts_with("no container runtime answers: /nowhere/x.sock: "), "{error}");
    }
}
