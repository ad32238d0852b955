//! How far a pull is, where the runtime tells: containerd keeps a count of each layer that is on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kruise_common::image_ref::ImageRef;
use serde::Deserialize;

use crate::cri::content::Ingest;
use crate::cri::{Cri, CriError};

/// The runtime is asked this often.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Only progress by so many hundredths is worth a write.
const STEP: i32 = 10;

/// Something an image consists of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
struct Layer {
    digest: String,
    size: u64,
}

/// The manifest of an image; that of several platforms has no layers.
#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

/// What is known of one pull.
pub(crate) struct Progress<'a> {
    cri: &'a Cri,
    reference: &'a ImageRef,
    /// Layers by the manifest's digest; none of what is no manifest of an image.
    known: BTreeMap<String, Vec<Layer>>,
    /// Those of them that have been seen on their way: what the pull is about.
    pulled: BTreeSet<String>,
    /// Layers that have been seen to be there.
    there: BTreeSet<String>,
    /// The last step that was told.
    told: i32,
    /// The runtime does not tell.
    silent: bool,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(cri: &'a Cri, reference: &'a ImageRef) -> Self {
        Self {
            cri,
            reference,
            known: BTreeMap::new(),
            pulled: BTreeSet::new(),
            there: BTreeSet::new(),
            told: 0,
            silent: false,
        }
    }

    /// Waits until the pull is another step further, and tells the step; for ever if the runtime does not say how far it
    /// is. May be dropped and called again.
    pub(crate) async fn step(&mut self) -> i32 {
        while !self.silent {
            tokio::time::sleep(LOOK_AGAIN).await;
            match self.look().await {
                Ok(percent) if percent >= self.told + STEP => {
                    self.told = percent - percent % STEP;
                    return self.told;
                }
                Err(error @ CriError::Refused { .. }) => {
                    tracing::debug!(%error, "the runtime does not tell how far pulls are");
                    self.silent = true;
                }
                // A runtime that is gone or busy for a moment is asked again.
                Ok(_) | Err(_) => {}
            }
        }
        std::future::pending().await
    }

    /// Hundredths of the bytes of all layers that are there.
    async fn look(&mut self) -> Result<i32, CriError> {
        let ingests = self.cri.ingests().await?;
        let coming: BTreeMap<&str, u64> = ingests.iter().filter_map(of_layer).collect();
        if !coming.is_empty() {
            self.find(&coming).await?;
        }
        let layers = self.layers();
        for layer in &layers {
            let (digest, known) = (&layer.digest, self.there.contains(&layer.digest));
            if !known && !coming.contains_key(&**digest) && self.cri.has_blob(digest).await? {
                self.there.insert(digest.clone());
            }
        }
        Ok(percent(&layers, &self.there, &coming))
    }

    /// Finds the manifests whose layers are on their way. Of several tags of one repository that are pulled at the same
    /// time nobody can tell which layers are whose: each is as far as all of them.
    async fn find(&mut self, coming: &BTreeMap<&str, u64>) -> Result<(), CriError> {
        if self.layers().iter().any(|layer| coming.contains_key(&*layer.digest)) {
            return Ok(());
        }
        let registry = self.reference.registry();
        let full = self.reference.full_name();
        let repository = full.strip_prefix(registry).unwrap_or(&full).trim_start_matches('/');
        for blob in self.cri.manifests(registry, repository).await? {
            if !self.known.contains_key(&blob.digest) {
                let content = self.cri.manifest(&blob.digest).await?;
                let manifest = serde_json::from_slice::<Manifest>(&content);
                self.known.insert(blob.digest, manifest.map(|read| read.layers).unwrap_or_default());
            }
        }
        let pulled = self
            .known
            .iter()
            .filter(|(_, layers)| layers.iter().any(|layer| coming.contains_key(&*layer.digest)));
        let pulled: Vec<String> = pulled.map(|(digest, _)| digest.clone()).collect();
        self.pulled.extend(pulled);
        Ok(())
    }

    /// The layers of what is pulled, each once.
    fn layers(&self) -> Vec<Layer> {
        let mut layers: Vec<Layer> =
            self.pulled.iter().filter_map(|digest| self.known.get(digest)).flatten().cloned().collect();
        layers.sort_by(|a, b| a.digest.cmp(&b.digest));
        layers.dedup();
        layers
    }
}

/// Digest and bytes of a layer that is on its way.
fn of_layer(ingest: &Ingest) -> Option<(&str, u64)> {
    Some((ingest.reference.strip_prefix("layer-")?, u64::try_from(ingest.offset).unwrap_or_default()))
}

/// Never all: layers that have come are still to be unpacked.
fn percent(layers: &[Layer], there: &BTreeSet<String>, coming: &BTreeMap<&str, u64>) -> i32 {
    let (mut came, mut all) = (0_u128, 0_u128);
    for layer in layers {
        all += u128::from(layer.size);
        came += u128::from(match coming.get(&*layer.digest) {
            Some(offset) => (*offset).min(layer.size),
            None if there.contains(&layer.digest) => layer.size,
            None => 0,
        });
    }
    i32::try_from((came * 100).checked_div(all).unwrap_or_default()).unwrap_or_default().min(99)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(digest: &str, size: u64) -> Layer {
        Layer { digest: digest.to_owned(), size }
    }

    #[test]
    fn progress_is_the_share_of_bytes_that_have_come_and_never_all_of_it() {
        let layers = [layer("a", 60), layer("b", 40)];
        let percent = |there: &[&str], coming: &[(&str, u64)]| {
            let there = there.iter().map(|digest| (*digest).to_owned()).collect();
            percent(&layers, &there, &coming.iter().copied().collect())
        };
        assert_eq!(percent(&[], &[]), 0);
        assert_eq!(percent(&[], &[("a", 30), ("other", 999)]), 30);
        assert_eq!(percent(&["a"], &[("b", 10)]), 70);
        assert_eq!(percent(&[], &[("a", 900)]), 60, "a layer is never more than itself");
        assert_eq!(percent(&["a", "b"], &[]), 99);
        assert_eq!(super::percent(&[], &BTreeSet::new(), &BTreeMap::new()), 0);
        assert_eq!(super::percent(&[layer("a", 0)], &BTreeSet::new(), &BTreeMap::new()), 0);
        let huge = [layer("a", u64::MAX), layer("b", u64::MAX)];
        assert_eq!(super::percent(&huge, &BTreeSet::from(["a".to_owned()]), &BTreeMap::new()), 50);
    }

    #[test]
    fn only_layers_count_by_the_name_they_have_on_their_way() {
        let ingest = |reference: &str, offset| Ingest { reference: reference.to_owned(), offset };
        assert_eq!(of_layer(&ingest("layer-sha256:aa", 7)), Some(("sha256:aa", 7)));
        assert_eq!(of_layer(&ingest("layer-sha256:aa", -7)), Some(("sha256:aa", 0)));
        assert_eq!(of_layer(&ingest("manifest-sha256:aa", 7)), None);
    }
}
