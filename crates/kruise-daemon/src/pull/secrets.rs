//! Pull Secrets, read when a pull needs them and kept for a while.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kruise_api::nodeimage::PullSecret;
use kube::Api;
use kube::api::GetParams;
use tokio::time::Instant;

use crate::credentials::{self, CredentialError, Keyring};
use crate::wire::SecretWire;

/// How long a Secret that was read serves other pulls.
const KEEP: Duration = Duration::from_mins(5);
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(30);

type Place = (String, String);

/// The Secrets of pulls.
pub(crate) struct Secrets {
    client: kube::Client,
    known: Mutex<BTreeMap<Place, (Instant, SecretWire)>>,
}

impl Secrets {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The entries of all these Secrets. One that cannot be had is left out; one that cannot be read is an error.
    /// `fresh` asks the API server for each.
    pub(crate) async fn keyring(&self, secrets: &[PullSecret], fresh: bool) -> Result<Keyring, String> {
        let mut keyring = Keyring::default();
        for secret in secrets {
            let (namespace, name) = place(secret);
            match self.get(&(namespace.clone(), name.clone()), fresh).await {
                Ok(found) => {
                    add(&mut keyring, &found)
                        .map_err(|error| format!("secret {namespace}/{name} {error}"))?;
                }
                Err(error) => {
                    tracing::warn!(namespace, name, %error, "a pull secret cannot be had; going on without it");
                }
            }
        }
        Ok(keyring)
    }

    /// Forgets what no image refers to.
    pub(crate) fn retain<'a>(&self, wanted: impl Iterator<Item = &'a PullSecret>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.is_empty() {
            let wanted: Vec<Place> = wanted.map(place).collect();
            known.retain(|place, _| wanted.contains(place));
        }
    }

    async fn get(&self, place: &Place, fresh: bool) -> Result<SecretWire, String> {
        if !fresh && let Some(secret) = self.kept(place) {
            return Ok(secret);
        }
        let api: Api<SecretWire> = Api::namespaced(self.client.clone(), &place.0);
        // Any version will do: the server answers from its cache.
        let any = GetParams { resource_version: Some("0".to_owned()) };
        let params = if fresh { GetParams::default() } else { any };
        let answer = tokio::time::timeout(PATIENCE, api.get_with(&place.1, &params)).await;
        let secret = answer.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(place.clone(), (Instant::now(), secret.clone()));
        Ok(secret)
    }

    fn kept(&self, place: &Place) -> Option<SecretWire> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (read, secret) = known.get(place)?;
        (read.elapsed() < KEEP).then(|| secret.clone())
    }
}

fn place(secret: &PullSecret) -> Place {
    (secret.namespace.clone().unwrap_or_default(), secret.name.clone().unwrap_or_default())
}

fn add(keyring: &mut Keyring, secret: &SecretWire) -> Result<(), CredentialError> {
    let content = |key: &str| {
        let encoded = secret.data.as_ref().and_then(|data| data.get(key));
        encoded.map(|encoded| STANDARD.decode(encoded).map_err(|_| CredentialError::Malformed)).transpose()
    };
    match secret.kind.as_deref() {
        Some(credentials::CONFIG_TYPE) => {
            content(credentials::CONFIG_KEY)?.map_or(Ok(()), |content| keyring.add_config(&content))
        }
        Some(credentials::LEGACY_TYPE) => {
            content(credentials::LEGACY_KEY)?.map_or(Ok(()), |content| keyring.add_legacy(&content))
        }
        _ => Ok(()),
    }
}
