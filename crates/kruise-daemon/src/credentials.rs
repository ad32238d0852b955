//! Which credentials a pull uses: registry entries from Secrets and of the node itself, matched to an image as the
//! kubelet does it.

pub mod node;
pub mod plugins;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kruise_common::image_ref::ImageRef;
use serde::Deserialize;

use crate::cri::messages::AuthConfig;

/// Secret type whose key [`CONFIG_KEY`] holds a Docker `config.json`.
pub const CONFIG_TYPE: &str = "kubernetes.io/dockerconfigjson";
/// The data key of [`CONFIG_TYPE`].
pub const CONFIG_KEY: &str = ".dockerconfigjson";
/// Secret type whose key [`LEGACY_KEY`] holds an old `.dockercfg`.
pub const LEGACY_TYPE: &str = "kubernetes.io/dockercfg";
/// The data key of [`LEGACY_TYPE`].
pub const LEGACY_KEY: &str = ".dockercfg";
/// The entry that serves Docker Hub when nothing else matches.
const DEFAULT_KEY: &str = "index.docker.io";

/// Why a Secret has no credentials to read. Never says what is in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CredentialError {
    /// The content is not the JSON it should be.
    #[error("is no valid docker configuration")]
    Malformed,
    /// An `auth` field is not base64 of `user:password`.
    #[error("has an auth field that is not base64 of user:password")]
    Auth,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// Registry entries, the most specific first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keyring(Vec<(String, AuthConfig)>);

impl Keyring {
    /// Adds the entries of a Docker `config.json`.
    pub fn add_config(&mut self, content: &[u8]) -> Result<(), CredentialError> {
        let file: ConfigFile = serde_json::from_slice(content).map_err(|_| CredentialError::Malformed)?;
        self.add(file.auths.unwrap_or_default())
    }

    /// Adds the entries of an old `.dockercfg`.
    pub fn add_legacy(&mut self, content: &[u8]) -> Result<(), CredentialError> {
        self.add(serde_json::from_slice(content).map_err(|_| CredentialError::Malformed)?)
    }

    fn add(&mut self, entries: BTreeMap<String, Entry>) -> Result<(), CredentialError> {
        for (location, entry) in entries {
            let auth = credentials(entry)?;
            self.0.push((key(&location), auth));
        }
        // Longer keys sort behind their own beginnings, so the reverse order is the more specific first; the order
        // of equal keys stays that of the Secrets.
        self.0.sort_by(|a, b| b.0.cmp(&a.0));
        Ok(())
    }

    /// Everything to try for an image, in order, without repeats.
    pub fn candidates(&self, image: &ImageRef) -> Vec<AuthConfig> {
        let name = image.full_name();
        let matching = self.0.iter().filter(|(key, _)| matches(key, &name));
        let mut found: Vec<&AuthConfig> = matching.map(|(_, auth)| auth).collect();
        if found.is_empty() && image.registry() == "docker.io" {
            found = self.0.iter().filter(|(key, _)| key == DEFAULT_KEY).map(|(_, auth)| auth).collect();
        }
        let mut unique: Vec<AuthConfig> = Vec::new();
        for auth in found {
            if !unique.contains(auth) {
                unique.push(auth.clone());
            }
        }
        unique
    }
}

fn credentials(entry: Entry) -> Result<AuthConfig, CredentialError> {
    let mut auth = AuthConfig {
        username: entry.username.unwrap_or_default(),
        password: entry.password.unwrap_or_default(),
        identity_token: entry.identitytoken.unwrap_or_default(),
        registry_token: entry.registrytoken.unwrap_or_default(),
        ..AuthConfig::default()
    };
    if let Some(encoded) = entry.auth.filter(|encoded| !encoded.is_empty()) {
        let decoded = STANDARD.decode(encoded.trim()).map_err(|_| CredentialError::Auth)?;
        let decoded = String::from_utf8(decoded).map_err(|_| CredentialError::Auth)?;
        let (username, password) = decoded.split_once(':').ok_or(CredentialError::Auth)?;
        username.clone_into(&mut auth.username);
        // Some tools pad the text with zero bytes.
        password.trim_end_matches('\0').clone_into(&mut auth.password);
    }
    Ok(auth)
}

/// Host, port and path of what a configuration names: `https://index.docker.io/v1/` is `index.docker.io`.
fn key(location: &str) -> String {
    let rest =
        location.strip_prefix("https://").or_else(|| location.strip_prefix("http://")).unwrap_or(location);
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let path =
        if path.starts_with("/v1/") || path.starts_with("/v2/") { path.get(3..).unwrap_or("") } else { path };
    if path.is_empty() || path == "/" { host.to_owned() } else { format!("{host}{path}") }
}

/// Whether an entry is for a repository: equal ports, the same number of parts in the host, each of which may be a
/// pattern, and the entry's path at the start of the repository's.
fn matches(key: &str, name: &str) -> bool {
    let parts = |text: &str| {
        let (host, path) = text.find('/').map_or((text, ""), |at| text.split_at(at));
        let (host, port) = host.split_once(':').unwrap_or((host, ""));
        (host.to_owned(), port.to_owned(), path.to_owned())
    };
    let ((pattern, port, prefix), (host, its_port, path)) = (parts(key), parts(name));
    let (patterns, hosts) = (pattern.split('.'), host.split('.'));
    port == its_port
        && path.starts_with(&prefix)
        && patterns.clone().count() == hosts.clone().count()
        && patterns.zip(hosts).all(|(pattern, part)| glob(pattern.as_bytes(), part.as_bytes()))
}

/// `*` stands for anything, `?` for one character. What does not fit is tried again from the last star only, which is
/// enough: patterns come from whoever may make a Secret, and the time they take must not grow with their stars.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    let mut last_star: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (Some((b'*', rest)), _) => {
                last_star = Some((rest, text));
                pattern = rest;
            }
            (Some((byte, rest)), Some((same, following))) if *byte == b'?' || byte == same => {
                (pattern, text) = (rest, following);
            }
            (None, None) => return true,
            _ => {
                let Some((after, from)) = last_star else { return false };
                let Some((_, following)) = from.split_first() else { return false };
                last_star = Some((after, following));
                (pattern, text) = (after, following);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn keyring(auths: &Value) -> Keyring {
        let mut keyring = Keyring::default();
        keyring.add_config(json!({ "auths": auths }).to_string().as_bytes()).unwrap();
        keyring
    }

    /// The users tried for an image.
    fn users(keyring: &Keyring, image: &str) -> Vec<String> {
        let image = ImageRef::parse(image).unwrap();
        keyring.candidates(&image).into_iter().map(|auth| auth.username).collect()
    }

    #[test]
    fn entries_are_matched_by_host_port_and_path() {
        for (entry, image, matched) in [
            ("quay.io", "quay.io/a/b", true),
            ("quay.io", "docker.io/a/b", false),
            ("https://quay.io/v2/", "quay.io/a/b", true),
            ("http://quay.io", "quay.io/a/b", true),
            ("quay.io/a", "quay.io/a/b:1", true),
            ("quay.io/c", "quay.io/a/b:1", false),
            ("*.example.com", "eu.example.com/x", true),
            ("*.example.com", "a.b.example.com/x", false),
            ("*.*.example.com", "a.b.example.com/x", true),
            ("e?.example.com", "eu.example.com/x", true),
            ("prod-*.example.com", "prod-1.example.com/x", true),
            ("localhost:5000", "localhost:5000/x", true),
            ("localhost", "localhost:5000/x", false),
            ("localhost:5001", "localhost:5000/x", false),
            ("https://index.docker.io/v1/", "nginx", true),
            ("https://index.docker.io/v1/", "team/app:2", true),
            ("https://index.docker.io/v1/", "quay.io/team/app:2", false),
            ("docker.io", "nginx", true),
            ("docker.io/library", "nginx", true),
            ("docker.io/team", "nginx", false),
        ] {
            let found = users(&keyring(&json!({entry: {"username": "u", "password": "p"}})), image);
            assert_eq!(!found.is_empty(), matched, "{entry} for {image}");
        }
    }

    #[test]
    fn the_more_specific_entry_is_tried_first_and_docker_hubs_default_only_when_nothing_else_is() {
        let ring = keyring(&json!({"quay.io": {"username": "all"}, "quay.io/team": {"username": "team"},
            "quay.io/team/app": {"username": "app"}, "index.docker.io": {"username": "hub"},
            "docker.io/team": {"username": "hub-team"}}));
        assert_eq!(users(&ring, "quay.io/team/app"), ["app", "team", "all"]);
        assert_eq!(users(&ring, "quay.io/other/app"), ["all"]);
        assert_eq!(users(&ring, "team/x"), ["hub-team"]);
        assert_eq!(users(&ring, "nginx"), ["hub"]);
        assert_eq!(users(&ring, "ghcr.io/nginx"), Vec::<String>::new());
    }

    #[test]
    fn secrets_add_up_in_their_order_and_repeats_are_tried_once() {
        let mut ring = keyring(&json!({"quay.io": {"username": "first", "password": "p"}}));
        ring.add_legacy(br#"{"quay.io": {"username": "second", "password": "p"}}"#).unwrap();
        ring.add_legacy(br#"{"https://quay.io": {"username": "first", "password": "p"}}"#).unwrap();
        assert_eq!(users(&ring, "quay.io/a"), ["first", "second"]);
    }

    #[test]
    fn encoded_credentials_win_and_tokens_are_kept() {
        let encoded = STANDARD.encode("user:pass:word");
        let ring = keyring(&json!({"quay.io": {"auth": encoded, "username": "other",
            "identitytoken": "i", "registrytoken": "r"}}));
        let auth = ring.candidates(&ImageRef::parse("quay.io/a").unwrap()).remove(0);
        assert_eq!((&*auth.username, &*auth.password), ("user", "pass:word"));
        assert_eq!((&*auth.identity_token, &*auth.registry_token), ("i", "r"));
    }

    #[test]
    fn malformed_secrets_are_refused_without_telling_their_content() {
        let mut ring = Keyring::default();
        for content in ["", "x", "[1]", r#"{"auths": 1}"#, r#"{"auths": {"a": {"username": 1}}}"#] {
            assert_eq!(ring.add_config(content.as_bytes()), Err(CredentialError::Malformed), "{content}");
        }
        for auth in ["%%", "aGVsbG8=", "/w=="] {
            let content = json!({"quay.io": {"auth": auth}}).to_string();
            assert_eq!(ring.add_legacy(content.as_bytes()), Err(CredentialError::Auth), "{auth}");
        }
        assert_eq!(ring.add_config(b"{}"), Ok(()));
        assert_eq!(ring, Keyring::default());
    }

    #[test]
    fn printing_shows_no_password() {
        let ring = keyring(&json!({"quay.io": {"username": "user", "password": "secret-word"}}));
        assert!(!format!("{ring:?}").contains("secret-word"));
    }

    /// What the pattern means, however long it takes.
    fn meant(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), more) => {
                meant(rest, text) || more.is_some_and(|(_, following)| meant(pattern, following))
            }
            (Some((byte, rest)), Some((same, following))) => {
                (*byte == b'?' || byte == same) && meant(rest, following)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn stars_mean_anything(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), meant(pattern.as_bytes(), text.as_bytes()));
        }
    }

    #[test]
    fn an_entry_with_many_stars_takes_no_time() {
        let pattern = "*a".repeat(1000) + "b";
        assert!(!glob(pattern.as_bytes(), "a".repeat(20_000).as_bytes()));
    }
}
