//! The kubeconfig of a sandbox: where it lies, and whose it is.

use std::fs;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// How long another sandbox on this machine may take to accept a connection.
const PATIENCE: Duration = Duration::from_millis(500);

/// The directory of the user's sandboxes, which nobody else can read.
///
/// # Errors
/// It cannot be made.
pub(crate) fn runtime_dir() -> anyhow::Result<PathBuf> {
    let dir = if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        PathBuf::from(dir).join("kruise-sandbox")
    } else {
        let user = std::env::var("USER").unwrap_or_default();
        let user: String = user.chars().filter(char::is_ascii_alphanumeric).collect();
        let dash = if user.is_empty() { "" } else { "-" };
        std::env::temp_dir().join(format!("kruise-sandbox{dash}{user}"))
    };
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.with_context(|| format!("cannot make {}", dir.display()))?;
    // In a directory that everyone may write to, somebody may have been quicker.
    let owner = fs::metadata(&dir)?.uid();
    if fs::metadata("/proc/self").is_ok_and(|own| own.uid() != owner) {
        bail!("{} belongs to another user; name a --kubeconfig and a --data-dir", dir.display());
    }
    Ok(dir)
}

/// A kubeconfig that is there as long as the sandbox runs.
#[derive(Debug)]
pub(crate) struct Kubeconfig {
    path: PathBuf,
    content: String,
}

impl Kubeconfig {
    /// Writes it for its owner only, unless that would take it away from a sandbox that runs.
    ///
    /// # Errors
    /// It cannot be written, or another sandbox uses it.
    pub(crate) fn write(path: &Path, content: String) -> anyhow::Result<Self> {
        if let Some(address) = fs::read_to_string(path).ok().as_deref().and_then(server)
            && TcpStream::connect_timeout(&address, PATIENCE).is_ok()
        {
            bail!(
                "{} belongs to a sandbox that runs at {address}; name another --kubeconfig",
                path.display()
            );
        }
        put(path, &content).with_context(|| format!("cannot write {}", path.display()))?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { path, content })
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Kubeconfig {
    fn drop(&mut self) {
        // One that was changed or replaced meanwhile is somebody else's.
        if fs::read_to_string(&self.path).is_ok_and(|found| found == self.content) {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Puts the file in place by a rename: nobody sees half of it, and a link in its place is replaced, not followed.
fn put(path: &Path, content: &str) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("kubeconfig");
    let fresh = dir.join(format!(".{name}.{}", std::process::id()));
    drop(fs::remove_file(&fresh));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(content.as_bytes())?;
    fs::rename(&fresh, path)
}

/// The address in a kubeconfig of a sandbox.
fn server(content: &str) -> Option<SocketAddr> {
    let line = content.lines().find_map(|line| line.trim().strip_prefix("server: https://"))?;
    line.trim().parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("kruise-access-{name}-{}", std::process::id())).join("kubeconfig")
    }

    fn content(port: u16) -> String {
        kruise_sandbox::server::kubeconfig(&format!("https://127.0.0.1:{port}"), None)
    }

    #[test]
    fn it_is_readable_by_its_owner_only_and_goes_with_the_sandbox() {
        let path = path("own");
        let written = Kubeconfig::write(&path, content(1)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(written);
        assert!(!path.exists());
    }

    #[test]
    fn one_that_was_replaced_stays() {
        let path = path("replaced");
        let written = Kubeconfig::write(&path, content(1)).unwrap();
        fs::write(&path, "mine").unwrap();
        drop(written);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn that_of_a_running_sandbox_is_not_taken_and_that_of_a_dead_one_is() {
        let path = path("other");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content(address.port())).unwrap();
        let error = Kubeconfig::write(&path, content(1)).unwrap_err();
        assert!(error.to_string().contains(&format!("runs at {address}")), "{error}");
        drop(listener);
        Kubeconfig::write(&path, content(1)).unwrap();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
