//! The kubelet's credential provider plugins: programs that are asked for credentials of an image, in the protocol and with
//! the configuration file that the kubelet has for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kruise_common::go_duration::go_duration;
use kruise_common::image_ref::ImageRef;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Entry, Keyring, matches};
use crate::cri::messages::AuthConfig;

/// How long a plugin may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// Bytes of what a plugin complains about that are logged.
const MAX_COMPLAINT: usize = 512;
const CONFIG_KIND: &str = "CredentialProviderConfig";
const CONFIG_GROUP: &str = "kubelet.config.k8s.io";
const GROUP: &str = "credentialprovider.kubelet.k8s.io";
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

/// Why the plugins are not used.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The file is there and cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no YAML of the right shape.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The configuration file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<ProviderConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProviderConfig {
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    api_version: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<Variable>>,
    /// Needs the service account of a pod, and there is no pod here.
    #[serde(default)]
    token_attributes: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Variable {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    kind: &'static str,
    api_version: &'a str,
    image: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    cache_key_type: String,
    #[serde(default)]
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Entry>>,
}

/// The plugins of the node, in the order they are asked.
#[derive(Default)]
pub struct Plugins(Vec<Plugin>);

struct Plugin {
    name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    images: Vec<String>,
    api_version: String,
    keep: Duration,
    /// Held while the plugin runs, so that pulls at the same time ask it once.
    known: Mutex<BTreeMap<CacheKey, (Instant, Keyring)>>,
}

/// For what an answer holds.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum CacheKey {
    Image(String),
    Registry(String),
    Global,
}

impl Plugins {
    /// The plugins that `config` names, as programs in `folder`; none without such a file.
    ///
    /// # Errors
    /// The file is no configuration of plugins.
    pub fn load(config: &Path, folder: &Path) -> Result<Self, PluginError> {
        let text = match std::fs::read_to_string(config) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(PluginError::Read { path: config.to_owned(), source }),
        };
        Self::parse(&text, folder)
            .map_err(|reason| PluginError::Malformed { path: config.to_owned(), reason })
    }

    fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let config: Config = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
        if config.kind != CONFIG_KIND || !is_version(&config.api_version, CONFIG_GROUP) {
            return Err(format!("{} {} is no {CONFIG_KIND}", config.api_version, config.kind));
        }
        let mut plugins: Vec<Plugin> = Vec::new();
        for (index, provider) in config.providers.into_iter().enumerate() {
            let at = |field: &str| format!("providers[{index}].{field}");
            if plugins.iter().any(|plugin| plugin.name == provider.name) {
                return Err(format!("{}: {:?} is named twice", at("name"), provider.name));
            }
            if provider.token_attributes.is_some() {
                tracing::warn!(plugin = provider.name, "left out: tokens of service accounts need a pod");
                continue;
            }
            plugins.push(
                Plugin::of(provider, folder).map_err(|(field, fault)| format!("{}: {fault}", at(field)))?,
            );
        }
        Ok(Self(plugins))
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|plugin| plugin.name.as_str())
    }

    /// Everything the plugins have for an image; one that fails is left out. `fresh` asks again for what is kept.
    pub async fn candidates(&self, image: &ImageRef, fresh: bool) -> Vec<AuthConfig> {
        let mut found = Vec::new();
        for plugin in self.0.iter().filter(|plugin| plugin.serves(image)) {
            match plugin.ask(image, fresh).await {
                Ok(candidates) => found.extend(candidates),
                Err(error) => tracing::warn!(plugin = plugin.name, error, "a credential plugin has nothing"),
            }
        }
        found
    }
}

fn is_version(api_version: &str, group: &str) -> bool {
    let version = api_version.strip_prefix(group).and_then(|version| version.strip_prefix('/'));
    version.is_some_and(|version| VERSIONS.contains(&version))
}

impl Plugin {
    fn of(config: ProviderConfig, folder: &Path) -> Result<Self, (&'static str, String)> {
        let name = config.name;
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', ' ']) {
            return Err(("name", format!("{name:?} is no name of a program")));
        }
        if config.match_images.is_empty() {
            return Err(("matchImages", "names no images".to_owned()));
        }
        if !is_version(&config.api_version, GROUP) {
            return Err(("apiVersion", format!("{:?} is not supported", config.api_version)));
        }
        let keep = config.default_cache_duration.ok_or(("defaultCacheDuration", "is required".to_owned()))?;
        let keep = go_duration(&keep).map_err(|error| ("defaultCacheDuration", error))?;
        let env = config.env.unwrap_or_default().into_iter();
        Ok(Self {
            path: folder.join(&name),
            name,
            args: config.args.unwrap_or_default(),
            env: env.map(|variable| (variable.name, variable.value)).collect(),
            images: config.match_images,
            api_version: config.api_version,
            keep,
            known: Mutex::default(),
        })
    }

    fn serves(&self, image: &ImageRef) -> bool {
        let name = image.full_name();
        self.images.iter().any(|pattern| matches(pattern, &name))
    }

    async fn ask(&self, image: &ImageRef, fresh: bool) -> Result<Vec<AuthConfig>, String> {
        let keys = [
            CacheKey::Image(image.full_name()),
            CacheKey::Registry(image.registry().to_owned()),
            CacheKey::Global,
        ];
        let mut known = self.known.lock().await;
        let now = Instant::now();
        known.retain(|_, (until, _)| *until > now);
        if let Some((_, keyring)) = keys.iter().filter(|_| !fresh).find_map(|key| known.get(key)) {
            return Ok(keyring.candidates(image));
        }
        let answer = self.run(&image.full_name()).await?;
        let keep = answer.cache_duration.map_or(Ok(self.keep), |duration| go_duration(&duration))?;
        let mut keyring = Keyring::default();
        keyring.add(answer.auth.unwrap_or_default()).map_err(|error| format!("its answer {error}"))?;
        let found = keyring.candidates(image);
        let [of_image, of_registry, of_all] = keys;
        let key = match answer.cache_key_type.as_str() {
            "Image" => of_image,
            "Registry" => of_registry,
            "Global" => of_all,
            other => return Err(format!("it answered with an unknown cacheKeyType {other:?}")),
        };
        if let Some(until) = now.checked_add(keep).filter(|_| !keep.is_zero()) {
            known.insert(key, (until, keyring));
        }
        Ok(found)
    }

    /// Runs the program. What it answers is never logged.
    async fn run(&self, image: &str) -> Result<Answer, String> {
        let kind = "CredentialProviderRequest";
        let question = serde_json::to_vec(&Question { kind, api_version: &self.api_version, image });
        let question = question.map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.path);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child =
            command.spawn().map_err(|error| format!("cannot run {}: {error}", self.path.display()))?;
        let mut input = child.stdin.take();
        let run = async {
            if let Some(input) = &mut input {
                // A program that does not read what it is asked tells why by how it ends.
                let _ = input.write_all(&question).await;
            }
            drop(input);
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(PATIENCE, run).await;
        let output = output.map_err(|_| format!("it did not end within {}s", PATIENCE.as_secs()))?;
        let output = output.map_err(|error| error.to_string())?;
        if !output.status.success() {
            let mut complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            complaint.truncate(complaint.floor_char_boundary(MAX_COMPLAINT));
            return Err(format!("it ended with {}: {complaint}", output.status));
        }
        let answer: Answer =
            serde_json::from_slice(&output.stdout).map_err(|_| "its answer is no JSON of the right shape")?;
        if answer.kind != "CredentialProviderResponse" || answer.api_version != self.api_version {
            return Err(format!("it answered with {} {}", answer.api_version, answer.kind));
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const PROVIDER: &str = "name: helper, matchImages: ['*.example.com'], defaultCacheDuration: 10m, \
        apiVersion: credentialprovider.kubelet.k8s.io/v1";

    fn config(providers: &str) -> String {
        format!(
            "{{apiVersion: kubelet.config.k8s.io/v1, kind: CredentialProviderConfig, providers: [{providers}]}}"
        )
    }

    /// A folder with a program that writes down what it is asked, and answers.
    fn folder(name: &str, answer: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("kruise-plugin-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let script =
            format!("#!/bin/sh\ncat >>{}/asked\necho \"$1 $WHO\" >>{0}/asked\n{answer}\n", folder.display());
        fs::write(folder.join("helper"), script).unwrap();
        fs::set_permissions(folder.join("helper"), fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    fn answer(kind: &str, more: &str) -> String {
        format!(
            "echo '{{\"kind\": \"CredentialProviderResponse\", \"apiVersion\": \
             \"credentialprovider.kubelet.k8s.io/v1\", \"cacheKeyType\": \"{kind}\", {more} \"auth\": \
             {{\"*.example.com\": {{\"username\": \"u\", \"password\": \"p\"}}}}}}'"
        )
    }

    async fn users(plugins: &Plugins, image: &str, fresh: bool) -> Vec<String> {
        let found = plugins.candidates(&ImageRef::parse(image).unwrap(), fresh).await;
        found.into_iter().map(|auth| format!("{}:{}", auth.username, auth.password)).collect()
    }

    /// How often the program was asked.
    fn asked(folder: &Path) -> usize {
        let asked = fs::read_to_string(folder.join("asked")).unwrap_or_default();
        asked.matches("CredentialProviderRequest").count()
    }

    #[tokio::test]
    async fn a_plugin_is_asked_in_the_kubelets_words_for_images_it_serves_only() {
        let folder = folder("asked", &answer("Image", ""));
        let config = config(&format!("{{{PROVIDER}, args: [get], env: [{{name: WHO, value: me}}]}}"));
        let plugins = Plugins::parse(&config, &folder).unwrap();
        assert_eq!(plugins.names().collect::<Vec<_>>(), ["helper"]);
        assert_eq!(users(&plugins, "eu.example.com/team/app:1", false).await, ["u:p"]);
        assert_eq!(
            fs::read_to_string(folder.join("asked")).unwrap(),
            "{\"kind\":\"CredentialProviderRequest\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\
             \"image\":\"eu.example.com/team/app\"}get me\n"
        );
        assert!(users(&plugins, "quay.io/team/app:1", false).await.is_empty());
        assert_eq!(asked(&folder), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn answers_are_kept_for_what_and_as_long_as_the_plugin_says() {
        for (kind, more, times) in [
            ("Image", "", 3),
            ("Registry", "", 2),
            ("Global", "", 1),
            ("Global", "\"cacheDuration\": \"0s\",", 4),
        ] {
            let folder = folder(&format!("kept-{kind}{times}"), &answer(kind, more));
            let plugins = Plugins::parse(&config(&format!("{{{PROVIDER}}}")), &folder).unwrap();
            for image in ["eu.example.com/a:1", "eu.example.com/a:2", "eu.example.com/b", "us.example.com/a"]
            {
                assert_eq!(users(&plugins, image, false).await, ["u:p"], "{kind} {image}");
            }
            assert_eq!(asked(&folder), times, "{kind} {more}");
            users(&plugins, "eu.example.com/a:1", true).await;
            assert_eq!(asked(&folder), times + 1, "refused credentials are asked for again");
            fs::remove_dir_all(&folder).unwrap();
        }
    }

    #[tokio::test]
    async fn a_plugin_that_fails_or_answers_oddly_has_nothing() {
        let other = answer("Image", "").replace("k8s.io/v1", "k8s.io/v1beta1");
        for answer in ["exit 1", "echo nothing", "echo '{}'", other.as_str(), answer("Odd", "").as_str()] {
            let folder = folder("odd", answer);
            let plugins = Plugins::parse(&config(&format!("{{{PROVIDER}}}")), &folder).unwrap();
            assert!(users(&plugins, "eu.example.com/a", false).await.is_empty(), "{answer}");
            fs::remove_dir_all(&folder).unwrap();
        }
        let plugins = Plugins::parse(&config(&format!("{{{PROVIDER}}}")), Path::new("/nowhere")).unwrap();
        assert!(users(&plugins, "eu.example.com/a", false).await.is_empty());
    }

    #[test]
    fn configurations_that_mean_nothing_are_refused_with_their_place() {
        for (text, fault) in [
            ("[".to_owned(), "expected struct Config"),
            ("{apiVersion: v1, kind: Pod}".to_owned(), "v1 Pod is no CredentialProviderConfig"),
            (
                config(&format!("{{{PROVIDER}}}, {{{PROVIDER}}}")),
                "providers[1].name: \"helper\" is named twice",
            ),
            (config(&format!("{{{}}}", PROVIDER.replace("helper", "../helper"))), "providers[0].name"),
            (config(&format!("{{{}}}", PROVIDER.replace("'*.example.com'", ""))), "providers[0].matchImages"),
            (config(&format!("{{{}}}", PROVIDER.replace("/v1", "/v9"))), "providers[0].apiVersion"),
            (config(&format!("{{{}}}", PROVIDER.replace("10m", "10"))), "providers[0].defaultCacheDuration"),
        ] {
            let Err(error) = Plugins::parse(&text, Path::new("/")) else { panic!("accepted: {text}") };
            assert!(error.contains(fault), "{error}");
        }
        assert_eq!(Plugins::load(Path::new("/nowhere/x.yaml"), Path::new("/")).unwrap().names().count(), 0);
    }
}
