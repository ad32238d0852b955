//! The loop that keeps the certificate, the webhook configurations and the CRDs' conversion right.
//!
//! Every replica runs it. A pass reads everything, writes what differs, and is repeated when anything changes;
//! conflicts between replicas end in another pass. A new authority is published before it is served with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{
    Api, ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::core::GroupVersionKind;
use prometheus::{GaugeVec, IntCounter, IntCounterVec, Opts, Registry};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::certs::{self, CertError, CertState, CertStore, SecretData};
use crate::configure::{self, Configuration, ConversionCrd, Entry, OwnerNamespace, Target};
use crate::damper::Damper;
use crate::files;
use crate::local::CONVERT_PATH;
use crate::options::WebhookOptions;
use crate::removal::Surroundings;
use crate::server::stopped;

/// Repeats a pass although nothing was seen to change: certificates age and watches can be lost.
const REPEAT: Duration = Duration::from_secs(30);
/// After a repair, to see it in place.
const SETTLE: Duration = Duration::from_secs(2);
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// How long a webhook configuration that somebody deleted stays away. Helm deletes both at the beginning of an uninstall
/// and the Deployment a moment later: whoever hurries puts back what nobody takes away again.
const PATIENCE: SignedDuration = SignedDuration::from_secs(10);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Tells the time.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Why a pass did not get through.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The API server did not do what was asked; a conflict is one of the reasons.
    #[error("{what}: {source}")]
    Api {
        /// What was attempted.
        what: String,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The certificate cannot be made or used.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// An object has a shape that cannot be worked with.
    #[error("{what}: {source}")]
    Shape {
        /// The object.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The certificates are somebody else's business, and they are not there yet.
    #[error("external certificate: {0}")]
    External(String),
}

impl SyncError {
    fn is_forbidden(&self) -> bool {
        let Self::Api { source, .. } = self else { return false };
        matches!(source.as_ref(), kube::Error::Api(status) if status.code == 403)
    }
}

fn api_error(what: impl Into<String>) -> impl FnOnce(kube::Error) -> SyncError {
    let what = what.into();
    move |source| SyncError::Api { what, source: Box::new(source) }
}

/// What a pass found.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Pass {
    /// Everything was right already.
    Settled,
    /// Something was written.
    Repaired,
    /// Something is missing that may be meant to be.
    Holding,
}

/// An object that a pass left as it was.
#[derive(Debug)]
struct Unwritten {
    error: SyncError,
    /// Requests may be worse off for it.
    matters: bool,
}

impl From<SyncError> for Unwritten {
    fn from(error: SyncError) -> Self {
        Self { error, matters: true }
    }
}

/// What a pass has come to so far. One object that cannot be written stops no other.
#[derive(Debug)]
struct Tally {
    pass: Pass,
    failed: Option<SyncError>,
    /// Something that requests depend on was not put right.
    wrong: bool,
}

impl Tally {
    fn add(&mut self, outcome: Result<Pass, Unwritten>) {
        match outcome {
            Ok(pass) => self.pass = self.pass.max(pass),
            Err(Unwritten { error, matters }) => {
                self.wrong |= matters;
                if self.failed.is_some() {
                    warn!(%error, "webhook objects are not right");
                } else {
                    self.failed = Some(error);
                }
            }
        }
    }
}

/// What the loop tells about itself.
#[derive(Clone, Debug)]
struct Metrics {
    not_after: GaugeVec,
    repairs: IntCounterVec,
    reads: IntCounter,
    read_errors: IntCounter,
}

impl Metrics {
    fn new() -> Result<Self, prometheus::Error> {
        let not_after = Opts::new(
            "kruise_webhook_certificate_not_after_seconds",
            "Time at which a certificate expires, in seconds since the epoch.",
        );
        let repairs = Opts::new(
            "kruise_webhook_configuration_repairs_total",
            "Objects that were not as they should be.",
        );
        Ok(Self {
            not_after: GaugeVec::new(not_after, &["kind"])?,
            repairs: IntCounterVec::new(repairs, &["object", "reason"])?,
            reads: IntCounter::new(
                "certwatcher_read_certificate_total",
                "Total number of certificate reads",
            )?,
            read_errors: IntCounter::new(
                "certwatcher_read_certificate_errors_total",
                "Total number of certificate read errors",
            )?,
        })
    }

    fn repaired(&self, object: &str, existed: bool) {
        self.repairs.with_label_values(&[object, if existed { "differs" } else { "missing" }]).inc();
    }
}

/// The loop's state.
pub struct Syncer {
    metrics: Option<Metrics>,
    client: kube::Client,
    options: WebhookOptions,
    entries: Vec<Entry>,
    crds: Vec<ConversionCrd>,
    store: Arc<CertStore>,
    now: Now,
    ready: watch::Sender<bool>,
    /// The last usable certificate. It outlives the Secret, so that deleting that does not change what is trusted.
    kept: Option<SecretData>,
    served: Option<SecretData>,
    surroundings: Surroundings,
    /// Since when which configuration is missing.
    missing: BTreeMap<&'static str, Timestamp>,
    /// The configurations that may not be given an owner.
    unowned: BTreeSet<&'static str>,
    damper: Damper,
    /// When the first of the objects that were left as they are may be put right.
    due: Option<Timestamp>,
}

impl fmt::Debug for Syncer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Syncer").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Syncer {
    /// A loop that publishes the entries whose path is in `paths` and puts the certificate into `store`. The
    /// receiver is true while everything is known to be right.
    pub fn new(
        client: kube::Client,
        options: WebhookOptions,
        paths: &[String],
        store: Arc<CertStore>,
        now: Now,
    ) -> (Self, watch::Receiver<bool>) {
        let served = |entry: &&Entry| paths.iter().any(|path| path == entry.path);
        let entries = configure::ENTRIES.iter().filter(served).copied().collect();
        let (ready, receiver) = watch::channel(false);
        let crds = configure::CONVERSION_CRDS.to_vec();
        let surroundings = Surroundings::new(client.clone(), options.namespace.clone());
        let syncer = Self {
            client,
            options,
            entries,
            crds,
            store,
            now,
            ready,
            metrics: None,
            kept: None,
            served: None,
            surroundings,
            missing: BTreeMap::new(),
            unowned: BTreeSet::new(),
            damper: Damper::default(),
            due: None,
        };
        (syncer, receiver)
    }

    /// Counts repairs and shows when the certificates expire.
    pub fn with_metrics(mut self, registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::new()?;
        registry.register(Box::new(metrics.not_after.clone()))?;
        registry.register(Box::new(metrics.repairs.clone()))?;
        registry.register(Box::new(metrics.reads.clone()))?;
        registry.register(Box::new(metrics.read_errors.clone()))?;
        self.metrics = Some(metrics);
        Ok(self)
    }

    /// Whether it was put right a moment ago, to no avail.
    fn damped(&mut self, name: &'static str, target: &Target) -> bool {
        let until = self.damper.until(name, &target.ca_bundle, (self.now)());
        if let Some(until) = until {
            self.due = Some(self.due.map_or(until, |due| due.min(until)));
            debug!(name, %until, "somebody else undoes what is published");
        }
        until.is_some()
    }

    fn repaired(&self, object: &str, existed: bool) {
        if let Some(metrics) = &self.metrics {
            metrics.repaired(object, existed);
        }
    }

    /// Counts a certificate that was to be served from now on.
    fn read(&self, usable: bool) {
        if let Some(metrics) = &self.metrics {
            metrics.reads.inc();
            metrics.read_errors.inc_by(u64::from(!usable));
        }
    }

    /// Runs until `shutdown` turns true.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let changed = Arc::new(Notify::new());
        let _watches = self.watches(&changed);
        let mut retry = FIRST_RETRY;
        loop {
            let wait = tokio::select! {
                biased;
                () = stopped(&mut shutdown) => return,
                passed = self.pass() => match passed {
                    Ok(pass) => {
                        retry = FIRST_RETRY;
                        self.until_due(if pass == Pass::Settled { REPEAT } else { SETTLE })
                    }
                    Err(error) => {
                        // An API server that does not answer says nothing about what is published. Were that a
                        // reason, its hiccup would take every replica out of the Service at once.
                        if !matches!(error, SyncError::Api { .. }) {
                            self.ready.send_replace(false);
                        }
                        warn!(%error, "webhook objects are not right");
                        let wait = retry;
                        retry = retry.saturating_mul(2).min(LAST_RETRY);
                        wait
                    }
                },
            };
            tokio::select! {
                biased;
                () = stopped(&mut shutdown) => return,
                () = tokio::time::sleep(wait) => {}
                () = changed.notified() => {
                    // Several events of one change are one pass.
                    tokio::time::sleep(FIRST_RETRY).await;
                }
            }
        }
    }

    /// The wait until the next pass, if nothing happens before `otherwise`.
    fn until_due(&self, otherwise: Duration) -> Duration {
        let left = self.due.map(|due| due.duration_since((self.now)()));
        left.map_or(otherwise, |left| Duration::try_from(left).unwrap_or_default().min(otherwise))
    }

    /// Looks at everything once and puts it right.
    pub async fn pass(&mut self) -> Result<Pass, SyncError> {
        self.due = None;
        if self.options.external_certs {
            let pass = self.external().await?;
            self.ready.send_replace(true);
            return Ok(pass);
        }
        let found = self.surroundings.look().await;
        if let Some(what) = found.leaving {
            // Requests are answered for as long as the process runs.
            info!(what, "publishes nothing: the installation is being removed");
            return Ok(Pass::Settled);
        }
        let now = (self.now)();
        let (data, pass) = self.certificate(now).await?;
        // A certificate that is there already has been published before.
        let published = pass == Pass::Settled;
        if !self.store.is_set() {
            self.serve(&data, now).await?;
        }
        let target = Target {
            namespace: self.options.namespace.clone(),
            service: self.options.service_name.clone(),
            host: self.options.host.clone().map(|host| (host, self.options.port)),
            ca_bundle: base64::engine::general_purpose::STANDARD.encode(certs::bundle(&data, now)?),
        };
        let mut tally = Tally { pass, failed: None, wrong: false };
        for configuration in Configuration::ALL {
            let patience = if published { PATIENCE } else { SignedDuration::ZERO };
            tally.add(self.configure(configuration, &target, found.owner.as_ref(), patience).await);
        }
        for crd in self.crds.clone() {
            tally.add(self.convert(&crd, &target).await);
        }
        let ca = |data: &SecretData| data.get(certs::CA_CERT).cloned();
        let same_ca = self.served.as_ref().map(ca) == Some(ca(&data));
        if same_ca || (tally.pass == Pass::Settled && !tally.wrong) {
            self.serve(&data, now).await?;
        }
        self.kept = Some(data);
        // Who waits with what was deleted goes on answering: conversion does not depend on it.
        if tally.pass != Pass::Holding && !tally.wrong {
            self.ready.send_replace(true);
        }
        tally.failed.map_or(Ok(tally.pass), Err)
    }

    async fn serve(&mut self, data: &SecretData, now: Timestamp) -> Result<(), SyncError> {
        if self.served.as_ref() == Some(data) {
            return Ok(());
        }
        let file = |name| data.get(name).map(Vec::as_slice).ok_or(CertError::Absent(name));
        let read = file(certs::SERVER_CERT)
            .and_then(|chain| self.store.set(chain, file(certs::SERVER_KEY)?, file(certs::CA_CERT)?));
        self.read(read.is_ok());
        read?;
        self.served = Some(data.clone());
        info!("webhook serves a new certificate");
        if let Some(metrics) = &self.metrics {
            for (kind, name) in [("ca", certs::CA_CERT), ("serving", certs::SERVER_CERT)] {
                if let Some(expiry) = data.get(name).and_then(|pem| certs::not_after(pem)) {
                    metrics.not_after.with_label_values(&[kind]).set(expiry as f64);
                }
            }
        }
        let (dir, data, with_ca_key) =
            (self.options.cert_dir.clone(), data.clone(), self.options.certs_on_disk);
        let written = tokio::task::spawn_blocking(move || files::write(&dir, &data, with_ca_key, now)).await;
        // The server has it in memory; the files are for those who look at them.
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "cannot write the certificate files"),
            Err(error) => warn!(%error, "cannot write the certificate files"),
        }
        Ok(())
    }

    /// The certificate to use, stored where it belongs.
    async fn certificate(&self, now: Timestamp) -> Result<(SecretData, Pass), SyncError> {
        let host = self.options.serving_host();
        let state = |data: Option<&SecretData>| certs::inspect(data, &host, now, self.options.renew_before);
        let on_disk = if self.options.certs_on_disk && self.kept.is_none() {
            let dir = self.options.cert_dir.clone();
            tokio::task::spawn_blocking(move || files::read(&dir)).await.ok().flatten()
        } else {
            None
        };
        let before = self.kept.as_ref().or(on_disk.as_ref());
        let kept = || before.filter(|kept| state(Some(kept)) == CertState::Usable).cloned();
        if self.options.certs_on_disk {
            if let Some(kept) = kept() {
                return Ok((kept, Pass::Settled));
            }
            let reuse_ca = state(before) == CertState::Renew { reuse_ca: true };
            return Ok((certs::generate(before, &host, now, reuse_ca)?, Pass::Repaired));
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.options.namespace);
        let name = self.options.secret_name.as_str();
        let secret = api.get_opt(name).await.map_err(api_error(format!("read Secret {name}")))?;
        let stored = secret.as_ref().map(data_of);
        let made = match state(stored.as_ref()) {
            CertState::Usable => return Ok((stored.unwrap_or_default(), Pass::Settled)),
            CertState::Renew { reuse_ca: true } => certs::generate(stored.as_ref(), &host, now, true)?,
            CertState::Renew { reuse_ca: false } | CertState::Missing => match kept() {
                Some(kept) => kept,
                None => certs::generate(stored.as_ref(), &host, now, false)?,
            },
        };
        // What is served and trusted already stays so, wherever it is stored.
        if self.served.as_ref() != Some(&made) {
            self.ready.send_replace(false);
        }
        let files = made.iter().map(|(key, value)| (key.clone(), ByteString(value.clone())));
        let existed = secret.is_some();
        if let Some(mut secret) = secret {
            // With the resourceVersion that was read: of two replicas one wins, the other reads the winner's.
            secret.data.get_or_insert_default().extend(files);
            api.replace(name, &PostParams::default(), &secret)
                .await
                .map_err(api_error(format!("update Secret {name}")))?;
        } else {
            let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
            let secret = Secret {
                metadata,
                data: Some(files.collect()),
                type_: Some("Opaque".to_owned()),
                ..Secret::default()
            };
            api.create(&PostParams::default(), &secret)
                .await
                .map_err(api_error(format!("create Secret {name}")))?;
        }
        self.repaired(name, existed);
        info!(secret = name, "stored a webhook certificate");
        Ok((made, Pass::Repaired))
    }

    async fn configure(
        &mut self,
        configuration: Configuration,
        target: &Target,
        owner: Option<&OwnerNamespace>,
        patience: SignedDuration,
    ) -> Result<Pass, Unwritten> {
        let (api, name) = (self.configurations(configuration), configuration.name());
        let live = read(&api, name).await?;
        if live.is_some() {
            self.missing.remove(name);
        } else {
            let now = (self.now)();
            let since = *self.missing.entry(name).or_insert(now);
            if now.duration_since(since) < patience {
                return Ok(Pass::Holding);
            }
        }
        let owner = owner.filter(|_| !self.unowned.contains(name));
        let entries = self.entries.clone();
        let desired = |owner| configure::desired(configuration, &entries, live.as_ref(), target, owner);
        let Some(wanted) = desired(owner) else {
            return Ok(Pass::Settled);
        };
        let differs =
            |fields: &[&str]| configure::differs(configuration, &entries, live.as_ref(), &wanted, fields);
        let matters = differs(&["clientConfig", "rules"]);
        if live.is_some() && self.damped(name, target) {
            // Only who can be reached and is trusted may go on as if all were well.
            return Ok(if differs(&["clientConfig"]) { Pass::Holding } else { Pass::Settled });
        }
        if matters {
            self.ready.send_replace(false);
        }
        let unwritten = |error| Unwritten { error, matters };
        let written = write(&api, name, wanted, live.is_some()).await;
        if owner.is_some() && live.is_some() && written.as_ref().is_err_and(SyncError::is_forbidden) {
            // The admission plugin OwnerReferencesPermissionEnforcement lets only those change owners who may delete the
            // object. A foreign role may not have that right, and nothing but an uninstall misses the owner.
            let wanted = desired(None);
            let settled = wanted.is_none();
            if let Some(wanted) = wanted {
                write(&api, name, wanted, true).await.map_err(unwritten)?;
            }
            self.unowned.insert(name);
            info!(name, "the Namespace may not own a webhook configuration: no right to delete that");
            if settled {
                return Ok(Pass::Settled);
            }
        } else {
            written.map_err(unwritten)?;
        }
        if live.is_some() {
            self.damper.repaired(name, &target.ca_bundle, (self.now)());
        }
        self.repaired(name, live.is_some());
        info!(name, "repaired a webhook configuration");
        Ok(Pass::Repaired)
    }

    async fn convert(&mut self, crd: &ConversionCrd, target: &Target) -> Result<Pass, Unwritten> {
        let api = self.crds();
        // A CRD that is not installed has nothing to convert.
        let Some(live) = read(&api, crd.name).await? else { return Ok(Pass::Settled) };
        let Some(patch) = configure::crd_patch(&live, &self.crds, target) else { return Ok(Pass::Settled) };
        // Nobody is asked to convert where a cleanup has dropped it.
        let asked = live.pointer("/spec/conversion/strategy").and_then(Value::as_str) == Some("Webhook");
        let client = live.pointer("/spec/conversion/webhook/clientConfig");
        let matters = asked && client != Some(&target.client_config(CONVERT_PATH));
        if self.damped(crd.name, target) {
            return Ok(if matters { Pass::Holding } else { Pass::Settled });
        }
        if matters {
            self.ready.send_replace(false);
        }
        api.patch(crd.name, &PatchParams::default(), &Patch::<DynamicObject>::Json(patch))
            .await
            .map_err(api_error(format!("update CRD {}", crd.name)))
            .map_err(|error| Unwritten { error, matters })?;
        self.damper.repaired(crd.name, &target.ca_bundle, (self.now)());
        self.repaired(crd.name, true);
        info!(name = crd.name, "repaired the conversion of a CRD");
        Ok(Pass::Repaired)
    }

    /// Serves what somebody else made, as soon as everything published trusts it. Writes nothing.
    ///
    /// Until then it goes on serving what is trusted: an issuer renews the certificate and an injector publishes its
    /// authority, one after the other.
    async fn external(&mut self) -> Result<Pass, SyncError> {
        let now = (self.now)();
        let offered = match self.offered(now).await {
            Err(error @ SyncError::Api { .. }) => return Err(error),
            offered => offered,
        };
        // Nobody is worse off with it than with no certificate.
        if let (Ok(data), None) = (&offered, &self.served) {
            self.serve(data, now).await?;
        }
        let published = self.published().await?;
        let trusted = |data: &SecretData| {
            let chain = data.get(certs::SERVER_CERT).map(Vec::as_slice).unwrap_or_default();
            published.iter().try_for_each(|(of, bundle)| self.trusts(chain, bundle.as_deref(), of, now))
        };
        let good = self.served.as_ref().is_some_and(|served| trusted(served).is_ok());
        let offered = offered.and_then(|data| trusted(&data).map(|()| data));
        let error = match offered {
            Ok(data) => match self.serve(&data, now).await {
                Ok(()) => return Ok(Pass::Settled),
                Err(unusable) => unusable,
            },
            Err(error) => error,
        };
        if !good {
            return Err(error);
        }
        debug!(%error, "goes on serving the certificate that is trusted");
        Ok(Pass::Holding)
    }

    /// What is in the Secret, under our own names, if it can be served.
    async fn offered(&self, now: Timestamp) -> Result<SecretData, SyncError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.options.namespace);
        let name = self.options.secret_name.as_str();
        let secret = api.get_opt(name).await.map_err(api_error(format!("read Secret {name}")))?;
        let Some(secret) = secret else {
            return Err(SyncError::External(format!("Secret {name} does not exist")));
        };
        let data = data_of(&secret);
        let file = |key: &'static str| data.get(key).cloned().ok_or(CertError::Absent(key));
        let (authority, chain, key) =
            (file(certs::EXTERNAL_CA)?, file(certs::TLS_CERT)?, file(certs::TLS_KEY)?);
        certs::verify(&chain, &authority, &self.options.serving_host(), now)?;
        let mut own_names = SecretData::new();
        own_names.insert(certs::CA_CERT.to_owned(), authority);
        for (names, content) in
            [([certs::SERVER_CERT, certs::TLS_CERT], &chain), ([certs::SERVER_KEY, certs::TLS_KEY], &key)]
        {
            own_names.extend(names.map(|name| (name.to_owned(), content.clone())));
        }
        Ok(own_names)
    }

    /// The bundles that API servers go by, each with what it is of.
    async fn published(&self) -> Result<Vec<(&'static str, Option<String>)>, SyncError> {
        let mut published = Vec::new();
        for configuration in Configuration::ALL {
            let name = configuration.name();
            let live = read(&self.configurations(configuration), name).await?;
            let live = live.ok_or_else(|| SyncError::External(format!("{name} does not exist")))?;
            published.extend(configure::published(configuration, &self.entries, &live));
        }
        for crd in &self.crds {
            let Some(live) = read(&self.crds(), crd.name).await? else { continue };
            if live.pointer("/spec/conversion/strategy").and_then(Value::as_str) == Some("Webhook") {
                let bundle = live.pointer("/spec/conversion/webhook/clientConfig/caBundle");
                published.push((crd.name, bundle.and_then(Value::as_str).map(str::to_owned)));
            }
        }
        Ok(published)
    }

    fn trusts(&self, chain: &[u8], bundle: Option<&str>, of: &str, now: Timestamp) -> Result<(), SyncError> {
        let bundle = bundle.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        certs::verify(chain, &bundle.unwrap_or_default(), &self.options.serving_host(), now)
            .map_err(|error| SyncError::External(format!("the caBundle of {of} does not trust it: {error}")))
    }

    fn configurations(&self, configuration: Configuration) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", configuration.kind());
        let resource = ApiResource::from_gvk_with_plural(&kind, configuration.plural());
        Api::all_with(self.client.clone(), &resource)
    }

    fn crds(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let resource = ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions");
        Api::all_with(self.client.clone(), &resource)
    }

    /// Watches every object of the loop; they end when the set is dropped.
    fn watches(&self, changed: &Arc<Notify>) -> JoinSet<()> {
        let secret = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Secret"), "secrets");
        let secrets: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.options.namespace, &secret);
        let mut watches = JoinSet::new();
        if !self.options.certs_on_disk {
            watches.spawn(watch_one(secrets, self.options.secret_name.clone(), Arc::clone(changed)));
        }
        for configuration in Configuration::ALL {
            let api = self.configurations(configuration);
            watches.spawn(watch_one(api, configuration.name().to_owned(), Arc::clone(changed)));
        }
        for crd in &self.crds {
            watches.spawn(watch_one(self.crds(), crd.name.to_owned(), Arc::clone(changed)));
        }
        watches
    }
}

fn data_of(secret: &Secret) -> SecretData {
    let data = secret.data.iter().flatten();
    data.map(|(key, value)| (key.clone(), value.0.clone())).collect()
}

async fn read(api: &Api<DynamicObject>, name: &'static str) -> Result<Option<Value>, SyncError> {
    let Some(object) = api.get_opt(name).await.map_err(api_error(format!("read {name}")))? else {
        return Ok(None);
    };
    serde_json::to_value(object).map(Some).map_err(|source| SyncError::Shape { what: name, source })
}

async fn write(
    api: &Api<DynamicObject>,
    name: &'static str,
    wanted: Value,
    existed: bool,
) -> Result<(), SyncError> {
    let wanted: DynamicObject =
        serde_json::from_value(wanted).map_err(|source| SyncError::Shape { what: name, source })?;
    let params = PostParams::default();
    if existed {
        api.replace(name, &params, &wanted).await.map_err(api_error(format!("update {name}")))?;
    } else {
        api.create(&params, &wanted).await.map_err(api_error(format!("create {name}")))?;
    }
    Ok(())
}

/// Says so whenever the object changes. A watch that cannot be kept is only slower: passes repeat anyway.
async fn watch_one(api: Api<DynamicObject>, name: String, changed: Arc<Notify>) {
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut retry = FIRST_RETRY;
    loop {
        match api.watch_metadata(&params, "0").await {
            Ok(events) => {
                let mut events = std::pin::pin!(events);
                while let Some(Ok(event)) = events.next().await {
                    match event {
                        WatchEvent::Error(_) => break,
                        WatchEvent::Bookmark(_) => {}
                        _ => {
                            retry = FIRST_RETRY;
                            changed.notify_one();
                        }
                    }
                }
            }
            Err(error) => debug!(%error, name, "cannot watch"),
        }
        tokio::time::sleep(retry).await;
        retry = retry.saturating_mul(2).min(LAST_RETRY);
    }
}

#[cfg(test)]
mod tests;
