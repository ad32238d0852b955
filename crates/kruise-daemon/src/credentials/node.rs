//! Credentials that the node itself has for all pulls: Docker's configuration files, and the kubelet's credential
//! provider plugins.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kruise_common::image_ref::ImageRef;
use tokio::time::Instant;

use super::Keyring;
use super::plugins::Plugins;
use crate::cri::messages::AuthConfig;

/// For how long files that were read serve other pulls.
const KEEP: Duration = Duration::from_mins(5);

/// What the node has.
pub struct NodeCredentials {
    places: Places,
    read: Mutex<Option<(Instant, Arc<Keyring>)>>,
    plugins: Plugins,
}

/// Where Docker's configuration may lie, in the order it is used.
#[derive(Clone, Debug, Default)]
pub struct Places {
    configs: Vec<PathBuf>,
    legacy: Vec<PathBuf>,
}

impl Places {
    /// Below the working directory, the home directory and the root of the file system.
    pub fn of(work: &Path, home: Option<&Path>, root: &Path) -> Self {
        let of_home = |path: &str| home.map(|home| home.join(path));
        let configs = [Some(work.join("config.json")), of_home(".docker/config.json")];
        let legacy = [Some(work.join(".dockercfg")), of_home(".dockercfg")];
        let all = |places: [Option<PathBuf>; 2], last: &str| {
            let mut all: Vec<PathBuf> = places.into_iter().flatten().chain([root.join(last)]).collect();
            all.dedup();
            all
        };
        Self { configs: all(configs, ".docker/config.json"), legacy: all(legacy, ".dockercfg") }
    }

    /// Those of this process.
    pub fn of_process() -> Self {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let work = std::env::current_dir().unwrap_or_default();
        Self::of(&work, home.as_deref(), Path::new("/"))
    }
}

impl NodeCredentials {
    /// Nothing is read before a pull needs it.
    pub fn new(places: Places, plugins: Plugins) -> Self {
        Self { places, read: Mutex::default(), plugins }
    }

    /// Everything to try for an image, in order. `fresh` asks again for what is kept.
    pub async fn candidates(&self, image: &ImageRef, fresh: bool) -> Vec<AuthConfig> {
        let mut found = self.files(fresh).candidates(image);
        found.extend(self.plugins.candidates(image, fresh).await);
        found
    }

    fn files(&self, fresh: bool) -> Arc<Keyring> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = read.as_ref().filter(|(at, _)| !fresh && at.elapsed() < KEEP);
        if let Some((_, keyring)) = kept {
            return Arc::clone(keyring);
        }
        let mut keyring = Keyring::default();
        let configs = self.places.configs.iter().map(|path| (path, false));
        for (path, legacy) in configs.chain(self.places.legacy.iter().map(|path| (path, true))) {
            let Ok(content) = std::fs::read(path) else { continue };
            let added = if legacy { keyring.add_legacy(&content) } else { keyring.add_config(&content) };
            if let Err(error) = added {
                tracing::warn!(file = %path.display(), %error, "a docker configuration is left out");
            }
        }
        let keyring = Arc::new(keyring);
        *read = Some((Instant::now(), Arc::clone(&keyring)));
        keyring
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn dockers_files_are_used_where_docker_keeps_them_and_a_broken_one_hides_no_other() {
        let root = std::env::temp_dir().join(format!("kruise-docker-{}", std::process::id()));
        let (work, home) = (root.join("work"), root.join("home"));
        for folder in [&work, &home.join(".docker"), &root.join(".docker")] {
            fs::create_dir_all(folder).unwrap();
        }
        let config = |user: &str| format!(r#"{{"auths": {{"quay.io": {{"username": "{user}"}}}}}}"#);
        fs::write(home.join(".docker/config.json"), config("home")).unwrap();
        fs::write(root.join(".docker/config.json"), "broken").unwrap();
        fs::write(work.join(".dockercfg"), r#"{"quay.io": {"username": "legacy"}}"#).unwrap();
        let node = NodeCredentials::new(Places::of(&work, Some(&home), &root), Plugins::default());
        let image = ImageRef::parse("quay.io/a").unwrap();
        let users = async |fresh: bool| -> Vec<String> {
            node.candidates(&image, fresh).await.into_iter().map(|auth| auth.username).collect()
        };
        assert_eq!(users(false).await, ["home", "legacy"]);
        fs::write(work.join("config.json"), config("work")).unwrap();
        assert_eq!(users(false).await, ["home", "legacy"], "kept for a while");
        assert_eq!(users(true).await, ["work", "home", "legacy"]);
        assert!(node.candidates(&ImageRef::parse("ghcr.io/a").unwrap(), true).await.is_empty());
        fs::remove_dir_all(&root).unwrap();
    }
}
