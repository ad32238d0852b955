//! Copies of pull Secrets in the namespace that node agents may read: one for each source, for as long as an active job
//! names it. Data is read when it has to be copied, and never kept, logged or told.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kruise_api::keys;
use kruise_api::nodeimage::PullSecret;
use kruise_common::key::ObjectKey;
use kruise_common::revision::fnv1;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use serde::Serialize;

use crate::apply::{Error, MetadataPatch, failure, is_code, only};
use crate::index::Index;
use crate::stores::{JobView, SOURCE_VERSION, SecretView, Stores};

const MANAGER: &str = "kruise-manager";

/// Characters of a source's name that its copy's name keeps.
const KEPT_OF_NAME: usize = 246;

/// Bytes that the list of jobs on a copy may have; annotations have 256 KiB together.
const MAX_REFERENCES: usize = 64 * 1024;

/// What is to be done about the copy of one source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// Copy the data again, or for the first time, under this name.
    Copy(String),
    /// Tell which jobs need it.
    Tell(Arc<str>),
}

/// The copy to use, and what is to be done about it. `copies` are those of this source.
pub fn decide(
    source: &SecretView,
    copies: &[Arc<SecretView>],
    job: &ObjectKey,
    users: &str,
) -> (String, Option<String>, Step) {
    let job = job.to_string();
    let refers = |copy: &&Arc<SecretView>| copy.references().split(',').any(|known| known == job);
    let Some(copy) = copies.iter().find(refers).or_else(|| copies.first()) else {
        let name = copy_name(&source.key);
        return (name.clone(), Some(keys::SECRET_MODE_BATCH.to_owned()), Step::Copy(name));
    };
    let name = copy.key.name.to_string();
    let mode = copy.annotations.get(keys::SECRET_MODE).filter(|mode| !mode.is_empty()).cloned();
    let step = if copy.annotations.get(SOURCE_VERSION) != Some(&source.version()) {
        Step::Copy(name.clone())
    } else if copy.references() == users {
        Step::Keep
    } else {
        Step::Tell(Arc::clone(&copy.key.name))
    };
    (name, mode, step)
}

/// The name of the copy of a Secret: always the same, so that nobody makes two.
pub fn copy_name(source: &ObjectKey) -> String {
    let kept: String = source.name.chars().take(KEPT_OF_NAME).collect();
    let hash = fnv1(&[source.namespace.as_bytes(), b"/", source.name.as_bytes()]);
    format!("{kept}-{:06x}", hash & 0x00ff_ffff)
}

/// The jobs as the annotation lists them, cut where it would be too long.
pub fn references(users: &[ObjectKey]) -> String {
    let mut text = String::new();
    for user in users {
        let user = user.to_string();
        if text.len() + user.len() > MAX_REFERENCES {
            text.push_str(",...");
            break;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&user);
    }
    text
}

/// Keeps the copies right.
pub struct Secrets {
    client: kube::Client,
    stores: Stores,
    index: Arc<Index>,
    namespace: Arc<str>,
}

impl Secrets {
    /// `namespace` is where the copies live.
    pub fn new(client: kube::Client, stores: Stores, index: Arc<Index>, namespace: &str) -> Self {
        Self { client, stores, index, namespace: namespace.into() }
    }

    /// The namespace of the copies.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn copies(&self, source: &ObjectKey) -> Vec<Arc<SecretView>> {
        let mut copies = self.stores.secrets.copies_of(source, &self.namespace);
        copies.retain(|copy| !copy.terminating);
        copies.sort_by(|a, b| a.key.name.cmp(&b.key.name));
        copies
    }

    /// Sees to the copies of an active job's Secrets; returns what its nodes have to know of them.
    ///
    /// # Errors
    /// The first copy that could not be written.
    pub async fn sync(&self, job: &JobView) -> Result<Vec<PullSecret>, Error> {
        let mut needed: Vec<PullSecret> = Vec::new();
        for source in job.pull_secrets() {
            let found = if job.key.namespace == self.namespace {
                Some((source.name.to_string(), None))
            } else {
                self.sync_one(job, &source).await?
            };
            if let Some((name, mode)) = found {
                let secret =
                    PullSecret { namespace: Some(self.namespace.to_string()), name: Some(name), mode };
                if !needed.contains(&secret) {
                    needed.push(secret);
                }
            }
        }
        Ok(needed)
    }

    async fn sync_one(
        &self,
        job: &JobView,
        source: &ObjectKey,
    ) -> Result<Option<(String, Option<String>)>, Error> {
        let Some(stored) = self.stores.secrets.get(source).filter(|secret| !secret.terminating) else {
            tracing::warn!(secret = %source, "a pull secret does not exist; images are pulled without it");
            return Ok(None);
        };
        let users = references(&self.index.users_of(source));
        let (name, mode, step) = decide(&stored, &self.copies(source), &job.key, &users);
        match step {
            Step::Keep => {}
            Step::Tell(copy) => {
                if let Some(copy) =
                    self.stores.secrets.get(&ObjectKey::new(Arc::clone(&self.namespace), copy))
                {
                    self.tell(&copy, &users).await?;
                }
            }
            Step::Copy(name) => {
                if !self.copy(source, &name, mode.as_deref(), users).await? {
                    return Ok(None);
                }
            }
        }
        Ok(Some((name, mode)))
    }

    /// Gives up the copies of a job that is over.
    ///
    /// # Errors
    /// The first copy that could not be written.
    pub async fn release(&self, job: &JobView) -> Result<(), Error> {
        if job.key.namespace == self.namespace {
            return Ok(());
        }
        for source in job.pull_secrets() {
            let users = self.index.users_of(&source);
            for copy in self.copies(&source) {
                if users.is_empty() {
                    self.delete(&copy).await?;
                } else {
                    self.tell(&copy, &references(&users)).await?;
                }
            }
        }
        Ok(())
    }

    /// Copies; false if the source is gone.
    async fn copy(
        &self,
        source: &ObjectKey,
        name: &str,
        mode: Option<&str>,
        users: String,
    ) -> Result<bool, Error> {
        let from: Api<Secret> = Api::namespaced(self.client.clone(), &source.namespace);
        let secret = match from.get_opt(&source.name).await {
            Ok(Some(secret)) => secret,
            Ok(None) => return Ok(false),
            Err(error) => return Err(failure(source, error)),
        };
        let meta = &secret.metadata;
        let version = format!(
            "{}/{}",
            meta.uid.as_deref().unwrap_or_default(),
            meta.resource_version.as_deref().unwrap_or_default()
        );
        let mut annotations = BTreeMap::from([
            (keys::SECRET_SOURCE.to_owned(), source.to_string()),
            (keys::SECRET_REFERENCES.to_owned(), users),
            (SOURCE_VERSION.to_owned(), version),
        ]);
        annotations.extend(mode.map(|mode| (keys::SECRET_MODE.to_owned(), mode.to_owned())));
        // Nothing else of the source's metadata: tools act on labels, and one annotation holds the data in clear.
        let copy = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.namespace.to_string()),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            type_: secret.type_,
            data: secret.data,
            ..Secret::default()
        };
        let key = ObjectKey::new(Arc::clone(&self.namespace), name);
        let to: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PatchParams::apply(MANAGER).force();
        let answer = match to.patch(name, &params, &Patch::Apply(&copy)).await {
            // The type of a Secret cannot be changed: it has to be a new one.
            Err(error) if is_code(&error, 422) => {
                if let Some(old) = self.stores.secrets.get(&key) {
                    self.delete(&old).await?;
                }
                to.patch(name, &params, &Patch::Apply(&copy)).await
            }
            answer => answer,
        };
        self.take_in(answer.map_err(|error| failure(&key, error))?);
        Ok(true)
    }

    fn take_in(&self, secret: Secret) {
        let view = PartialObjectMeta::<Secret> { metadata: secret.metadata, ..PartialObjectMeta::default() };
        if let Some(view) = SecretView::of(view) {
            self.stores.secrets.apply_own(view);
        }
    }

    async fn tell(&self, copy: &SecretView, users: &str) -> Result<(), Error> {
        if copy.references() == users {
            return Ok(());
        }
        let annotations = BTreeMap::from([(keys::SECRET_REFERENCES, users)]);
        let patch = MetadataPatch { metadata: AnnotationsOf { uid: &copy.uid.0, annotations } };
        let copies: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        match copies.patch(&copy.key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(answer) => self.take_in(answer),
            Err(error) if is_code(&error, 404) => self.stores.secrets.remove_own(&copy.key, &copy.uid),
            Err(error) => return Err(failure(&copy.key, error)),
        }
        Ok(())
    }

    /// Deletes a copy that nobody has touched since it was read: a job that has claimed it meanwhile has.
    async fn delete(&self, copy: &SecretView) -> Result<(), Error> {
        let copies: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        match copies.delete(&copy.key.name, &only(&copy.uid.0, Some(&copy.resource_version))).await {
            Ok(_) => {}
            Err(error) if is_code(&error, 404) => {}
            Err(error) => return Err(failure(&copy.key, error)),
        }
        self.stores.secrets.remove_own(&copy.key, &copy.uid);
        Ok(())
    }
}

#[derive(Debug, Serialize)]
struct AnnotationsOf<'a> {
    uid: &'a str,
    annotations: BTreeMap<&'a str, &'a str>,
}

#[cfg(test)]
mod tests {
    use kruise_common::key::Uid;

    use super::*;

    fn secret(name: &str, annotations: &[(&str, &str)]) -> SecretView {
        SecretView {
            key: ObjectKey::new("shop", name),
            uid: Uid::from(name),
            resource_version: "1".into(),
            terminating: false,
            annotations: annotations.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        }
    }

    fn decided(copies: &[SecretView]) -> (String, Option<String>, Step) {
        let copies: Vec<_> = copies.iter().cloned().map(Arc::new).collect();
        decide(&secret("s", &[]), &copies, &ObjectKey::new("shop", "a"), "shop/a,shop/b")
    }

    #[test]
    fn a_source_without_copy_gets_one_whose_name_is_always_the_same() {
        let (name, mode, step) = decided(&[]);
        assert_eq!(name, copy_name(&ObjectKey::new("shop", "s")));
        assert!(name.starts_with("s-") && name.len() == 8, "{name}");
        assert_eq!((mode.as_deref(), step), (Some("batch"), Step::Copy(name)));
        assert_ne!(copy_name(&ObjectKey::new("shop", "s")), copy_name(&ObjectKey::new("yard", "s")));
        assert!(copy_name(&ObjectKey::new("shop", "x".repeat(253))).len() <= 253);
    }

    #[test]
    fn a_copy_is_made_again_when_its_source_changed_and_told_when_its_jobs_did() {
        let current = [
            (SOURCE_VERSION, "s/1"),
            (keys::SECRET_MODE, "batch"),
            (keys::SECRET_REFERENCES, "shop/a,shop/b"),
        ];
        assert_eq!(decided(&[secret("c", &current)]).2, Step::Keep);
        let mut fewer = current;
        fewer[2].1 = "shop/b";
        assert_eq!(decided(&[secret("c", &fewer)]).2, Step::Tell("c".into()));
        let mut older = current;
        older[0].1 = "s/0";
        assert_eq!(decided(&[secret("c", &older)]).2, Step::Copy("c".to_owned()));
    }

    #[test]
    fn a_copy_from_before_is_taken_over_and_the_one_that_names_the_job_first() {
        let old = secret("a-copy", &[]);
        let named = secret("b-copy", &[(keys::SECRET_REFERENCES, "shop/a")]);
        assert_eq!(decided(&[old.clone(), named]).0, "b-copy");
        let (name, mode, step) = decided(&[old]);
        assert_eq!((name.as_str(), mode, step), ("a-copy", None, Step::Copy("a-copy".to_owned())));
    }

    #[test]
    fn the_list_of_jobs_is_cut_before_it_is_too_long_for_an_annotation() {
        let users: Vec<_> =
            (0..5000).map(|n| ObjectKey::new("shop", format!("a-rather-long-name-{n}"))).collect();
        let text = references(&users);
        assert!(text.len() <= MAX_REFERENCES + 4 && text.ends_with(",..."));
        assert_eq!(references(&users[..1]), "shop/a-rather-long-name-0");
    }
}
