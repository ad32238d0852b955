//! The serving certificate: is the stored one usable, and how to make a new one.
//!
//! The authority and the leaf are renewed separately. A leaf runs out without anybody else noticing; a new
//! authority must first be known to the API server, so the old one stays in the published bundle for a day.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Private key of the authority.
pub const CA_KEY: &str = "ca-key.pem";
/// Certificate of the authority.
pub const CA_CERT: &str = "ca-cert.pem";
/// Private key of the server.
pub const SERVER_KEY: &str = "key.pem";
/// Certificate of the server.
pub const SERVER_CERT: &str = "cert.pem";
/// Copy of [`SERVER_KEY`] under the name Kubernetes uses.
pub const TLS_KEY: &str = "tls.key";
/// Copy of [`SERVER_CERT`] under the name Kubernetes uses.
pub const TLS_CERT: &str = "tls.crt";
/// The authority in the Secrets of cert-manager.
pub const EXTERNAL_CA: &str = "ca.crt";
/// The authority before this one, still trusted while replicas change over.
pub const PREVIOUS_CA: &str = "previous-ca-cert.pem";

const DAY: u64 = 24 * 60 * 60;
const YEAR: Duration = Duration::from_secs(365 * DAY);
const VALIDITY: Duration = Duration::from_secs(3650 * DAY);
/// Renewing earlier than this would make every new certificate due at once.
const MAX_RENEW_BEFORE: Duration = Duration::from_secs(8 * 365 * DAY);
const OVERLAP: Duration = Duration::from_secs(DAY);
/// Clocks of API servers may be behind ours.
const BACKDATED: Duration = Duration::from_hours(1);

/// What a Secret holds.
pub type SecretData = BTreeMap<String, Vec<u8>>;

/// What is to be done about the stored certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CertState {
    /// Serve it.
    Usable,
    /// Make a new one, in place.
    Renew {
        /// The stored authority signs it; otherwise there is a new authority too.
        reuse_ca: bool,
    },
    /// There is nothing stored.
    Missing,
}

/// Why a certificate cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A key or certificate could not be generated or signed.
    #[error("generate certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// A file of the Secret is absent.
    #[error("{0} is missing")]
    Absent(&'static str),
    /// A file of the Secret is not what it should be.
    #[error("{0} is not valid PEM")]
    Pem(&'static str),
    /// The certificate does not fit its key, its authority, the host or the time.
    #[error("certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// The authority cannot be verified with.
    #[error("authority: {0}")]
    Authority(String),
}

/// Decides about the stored certificate for `host` at `now`.
pub fn inspect(data: Option<&SecretData>, host: &str, now: Timestamp, renew_before: Duration) -> CertState {
    let Some(data) = data else { return CertState::Missing };
    let renew_before = renew_before.min(MAX_RENEW_BEFORE);
    let due = later(now, renew_before);
    let valid = |at| server_cert_is_valid(data, host, at).is_ok() && ca_is_valid(data, at);
    // Copies that lag behind are what the reference would serve.
    let copies = data.get(TLS_KEY) == data.get(SERVER_KEY) && data.get(TLS_CERT) == data.get(SERVER_CERT);
    if copies && valid(now) && valid(due) {
        return CertState::Usable;
    }
    let reuse_ca = ca_pair(data).is_ok()
        && ca_is_valid(data, now)
        && ca_is_valid(data, later(now, YEAR.max(renew_before)));
    CertState::Renew { reuse_ca }
}

/// Makes a server certificate for `host`, signed by the stored authority if that is to be reused.
pub fn generate(
    data: Option<&SecretData>,
    host: &str,
    now: Timestamp,
    reuse_ca: bool,
) -> Result<SecretData, CertError> {
    let (ca_cert, ca_key) = match data {
        Some(data) if reuse_ca => (file(data, CA_CERT)?.to_vec(), file(data, CA_KEY)?.to_vec()),
        _ => new_ca(now)?,
    };
    let issuer = Issuer::from_ca_cert_der(&pem_cert(&ca_cert, CA_CERT)?, read_key(&ca_key, CA_KEY)?)?;

    let leaf_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    match host.parse::<IpAddr>() {
        Ok(address) => params.subject_alt_names.push(SanType::IpAddress(address)),
        Err(_) if host == "localhost" => {}
        Err(_) => params.subject_alt_names.push(SanType::DnsName(host.try_into()?)),
    }
    params.distinguished_name = common_name(host);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let (from, until) = validity(now);
    params.not_before = date_time_ymd(1970, 1, 1) + from;
    params.not_after = date_time_ymd(1970, 1, 1) + until;
    let leaf = params.signed_by(&leaf_key, &issuer)?;

    let (leaf_cert, leaf_key) = (leaf.pem().into_bytes(), leaf_key.serialize_pem().into_bytes());
    let mut made = SecretData::new();
    if let Some(previous) = data.and_then(|data| previous_ca(data, &ca_cert, now)) {
        made.insert(PREVIOUS_CA.to_owned(), previous);
    }
    made.insert(CA_CERT.to_owned(), ca_cert);
    made.insert(CA_KEY.to_owned(), ca_key);
    made.insert(TLS_CERT.to_owned(), leaf_cert.clone());
    made.insert(TLS_KEY.to_owned(), leaf_key.clone());
    made.insert(SERVER_CERT.to_owned(), leaf_cert);
    made.insert(SERVER_KEY.to_owned(), leaf_key);
    Ok(made)
}

/// The PEM bundle to publish: the authority, and the one before it during the change-over.
pub fn bundle(data: &SecretData, now: Timestamp) -> Result<Vec<u8>, CertError> {
    let mut bundle = file(data, CA_CERT)?.to_vec();
    let Some(previous) = data.get(PREVIOUS_CA) else { return Ok(bundle) };
    let made = validity_of(&pem_cert(&bundle, CA_CERT)?).map_or(0, |(from, _)| from);
    let age = now.as_second().saturating_sub(made);
    if age < (OVERLAP + BACKDATED).as_secs() as i64 {
        if !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
        bundle.extend_from_slice(previous);
    }
    Ok(bundle)
}

/// Seconds since the epoch at which the first certificate of a PEM file expires.
pub fn not_after(pem: &[u8]) -> Option<i64> {
    validity_of(&CertificateDer::from_pem_slice(pem).ok()?).map(|(_, until)| until)
}

/// Checks that a certificate chain is trusted by a PEM bundle for `host` at `at`.
pub fn verify(chain: &[u8], bundle: &[u8], host: &str, at: Timestamp) -> Result<(), CertError> {
    let chain = pem_chain(chain, SERVER_CERT)?;
    let (leaf, intermediates) = chain.split_first().ok_or(CertError::Absent(SERVER_CERT))?;
    let mut roots = rustls::RootCertStore::empty();
    for root in pem_chain(bundle, CA_CERT)? {
        roots.add(root)?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| CertError::Authority(error.to_string()))?;
    let name =
        ServerName::try_from(host).map_err(|_| CertError::Authority(format!("{host} is not a host name")))?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().max(0) as u64));
    verifier.verify_server_cert(leaf, intermediates, &name, &[], at)?;
    Ok(())
}

fn server_cert_is_valid(data: &SecretData, host: &str, at: Timestamp) -> Result<(), CertError> {
    let (cert, key) = (file(data, SERVER_CERT)?, file(data, SERVER_KEY)?);
    certified(cert, key)?;
    verify(cert, file(data, CA_CERT)?, host, at)
}

/// Verifiers take a trust anchor's dates on faith, API servers do not.
fn ca_is_valid(data: &SecretData, at: Timestamp) -> bool {
    let cert = data.get(CA_CERT).and_then(|pem| CertificateDer::from_pem_slice(pem).ok());
    let dates = cert.and_then(|cert| validity_of(&cert));
    dates.is_some_and(|(from, until)| from <= at.as_second() && at.as_second() < until)
}

fn ca_pair(data: &SecretData) -> Result<(), CertError> {
    let (cert, key) = (file(data, CA_CERT)?, file(data, CA_KEY)?);
    certified(cert, key)?;
    let der = pem_cert(cert, CA_CERT)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| CertError::Pem(CA_CERT))?;
    if !parsed.is_ca() {
        return Err(CertError::Authority("the certificate may not sign others".to_owned()));
    }
    Issuer::from_ca_cert_der(&der, read_key(key, CA_KEY)?)?;
    Ok(())
}

fn new_ca(now: Timestamp) -> Result<(Vec<u8>, Vec<u8>), CertError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("webhook-cert-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    let (from, until) = validity(now);
    params.not_before = date_time_ymd(1970, 1, 1) + from;
    params.not_after = date_time_ymd(1970, 1, 1) + until;
    let cert = params.self_signed(&key)?;
    Ok((cert.pem().into_bytes(), key.serialize_pem().into_bytes()))
}

fn previous_ca(data: &SecretData, new: &[u8], now: Timestamp) -> Option<Vec<u8>> {
    let old = data.get(CA_CERT)?;
    if old.as_slice() == new {
        return data.get(PREVIOUS_CA).cloned();
    }
    ca_is_valid(data, now).then(|| old.clone())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// Seconds since the epoch from and until which a certificate made now is valid.
fn validity(now: Timestamp) -> (Duration, Duration) {
    let second = now.as_second() as u64;
    let from = second.saturating_sub(BACKDATED.as_secs());
    (Duration::from_secs(from), Duration::from_secs(second.saturating_add(VALIDITY.as_secs())))
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// From and until, in seconds since the epoch.
fn validity_of(cert: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(cert).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

fn file<'a>(data: &'a SecretData, name: &'static str) -> Result<&'a [u8], CertError> {
    data.get(name).map(Vec::as_slice).ok_or(CertError::Absent(name))
}

fn pem_cert(pem: &[u8], name: &'static str) -> Result<CertificateDer<'static>, CertError> {
    CertificateDer::from_pem_slice(pem).map_err(|_| CertError::Pem(name))
}

fn pem_chain(pem: &[u8], name: &'static str) -> Result<Vec<CertificateDer<'static>>, CertError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| CertError::Pem(name))
}

/// Reads a signing key. The reference stores RSA keys as PKCS#1, which is PKCS#8 without its header.
fn read_key(pem: &[u8], name: &'static str) -> Result<KeyPair, CertError> {
    let der = match PrivateKeyDer::from_pem_slice(pem).map_err(|_| CertError::Pem(name))? {
        PrivateKeyDer::Pkcs1(key) => PrivateKeyDer::Pkcs8(pkcs8_of_rsa(key.secret_pkcs1_der()).into()),
        other => other,
    };
    Ok(KeyPair::try_from(&der)?)
}

fn pkcs8_of_rsa(pkcs1: &[u8]) -> Vec<u8> {
    /// Version 0 and the algorithm rsaEncryption with NULL parameters.
    const HEADER: [u8; 18] = [
        0x02, 0x01, 0x00, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05,
        0x00,
    ];
    let mut body = HEADER.to_vec();
    body.extend(der_value(0x04, pkcs1));
    der_value(0x30, &body)
}

fn der_value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    match (content.len(), significant.len() as u8) {
        (short @ 0..=127, _) => out.push(short as u8),
        (_, count) => {
            out.push(0x80 | count);
            out.extend(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, CertError> {
    let chain = pem_chain(chain, SERVER_CERT)?;
    if chain.is_empty() {
        return Err(CertError::Absent(SERVER_CERT));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertError::Pem(SERVER_KEY))?;
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

/// Holds the certificate being served. It can be exchanged at any time; the next handshake uses the new one.
#[derive(Debug, Default)]
pub struct CertStore {
    current: RwLock<Option<Served>>,
}

#[derive(Debug)]
struct Served {
    certificate: Arc<CertifiedKey>,
    authority: Arc<[u8]>,
}

impl CertStore {
    /// A store without a certificate: handshakes fail until one is set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves this certificate from the next handshake on. A pair that does not fit leaves the old one in place.
    pub fn set(&self, chain_pem: &[u8], key_pem: &[u8], authority_pem: &[u8]) -> Result<(), CertError> {
        let certificate = Arc::new(certified(chain_pem, key_pem)?);
        let new = Served { certificate, authority: authority_pem.into() };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(new);
        Ok(())
    }

    /// True when there is a certificate to serve.
    pub fn is_set(&self) -> bool {
        self.current.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Who vouches for the certificate being served, as PEM.
    pub fn authority(&self) -> Option<Arc<[u8]>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|served| Arc::clone(&served.authority))
    }
}

impl ResolvesServerCert for CertStore {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|served| Arc::clone(&served.certificate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "kruise-webhook-service.kruise-system.svc";
    const HALF_YEAR: Duration = Duration::from_secs(180 * DAY);

    fn at(days: u64) -> Timestamp {
        later("2026-01-01T00:00:00Z".parse().unwrap(), Duration::from_secs(days * DAY))
    }

    fn fresh() -> SecretData {
        generate(None, HOST, at(0), false).unwrap()
    }

    fn state(data: &SecretData, host: &str, day: u64) -> CertState {
        inspect(Some(data), host, at(day), HALF_YEAR)
    }

    #[test]
    fn a_new_secret_has_the_six_keys_and_is_usable() {
        let data = fresh();
        let keys: Vec<&str> = data.keys().map(String::as_str).collect();
        assert_eq!(keys, ["ca-cert.pem", "ca-key.pem", "cert.pem", "key.pem", "tls.crt", "tls.key"]);
        assert_eq!(data[TLS_KEY], data[SERVER_KEY]);
        assert_eq!(state(&data, HOST, 0), CertState::Usable);
        assert!(verify(&data[SERVER_CERT], &data[CA_CERT], "localhost", at(0)).is_ok());
        let (_, ca) = x509_parser::pem::parse_x509_pem(&data[CA_CERT]).unwrap();
        assert_eq!(ca.parse_x509().unwrap().subject().to_string(), "CN=webhook-cert-ca");
    }

    #[test]
    fn stored_certificates_are_kept_renewed_or_replaced_as_the_table_says() {
        let keep_ca = CertState::Renew { reuse_ca: true };
        let new_ca = CertState::Renew { reuse_ca: false };
        let data = fresh();
        let without = |key: &str| {
            let mut less = data.clone();
            less.remove(key);
            less
        };
        let with = |key: &str, value: &[u8]| {
            let mut more = data.clone();
            more.insert(key.to_owned(), value.to_vec());
            more
        };
        assert_eq!(inspect(None, HOST, at(0), HALF_YEAR), CertState::Missing);
        let other = fresh();
        let table = [
            ("fresh", data.clone(), HOST, 0, CertState::Usable),
            ("for localhost too", data.clone(), "localhost", 0, CertState::Usable),
            ("empty", SecretData::new(), HOST, 0, new_ca),
            ("other host", data.clone(), "10.0.0.5", 0, keep_ca),
            ("both expire", data.clone(), HOST, 3650 - 170, new_ca),
            ("not yet valid", data.clone(), HOST, 0, CertState::Usable),
            ("no server key", without(SERVER_KEY), HOST, 0, keep_ca),
            ("no copy", without(TLS_KEY), HOST, 0, keep_ca),
            ("no authority key", without(CA_KEY), HOST, 0, CertState::Usable),
            ("no authority", without(CA_CERT), HOST, 0, new_ca),
            ("foreign authority", with(CA_CERT, &other[CA_CERT]), HOST, 0, new_ca),
            ("foreign server key", with(SERVER_KEY, &other[SERVER_KEY]), HOST, 0, keep_ca),
            ("garbage", with(SERVER_CERT, b"x"), HOST, 0, keep_ca),
        ];
        for (name, data, host, day, expected) in table {
            assert_eq!(state(&data, host, day), expected, "{name}");
        }
    }

    #[test]
    fn an_expiring_leaf_is_renewed_under_the_same_authority() {
        let old = fresh();
        // An authority made later outlives its leaf when the leaf came from elsewhere; here time does it.
        let renewed = generate(Some(&old), HOST, at(2000), true).unwrap();
        assert_eq!(renewed[CA_CERT], old[CA_CERT]);
        assert_eq!(renewed.get(PREVIOUS_CA), None);
        assert_ne!(renewed[SERVER_CERT], old[SERVER_CERT]);
        assert_eq!(state(&renewed, HOST, 2000), CertState::Usable);
        assert!(verify(&renewed[SERVER_CERT], &old[CA_CERT], HOST, at(2000)).is_ok());
    }

    #[test]
    fn a_new_authority_is_published_beside_the_old_one_for_a_day() {
        let old = fresh();
        let new = generate(Some(&old), HOST, at(3500), false).unwrap();
        let during = bundle(&new, at(3500)).unwrap();
        for served in [&old, &new] {
            assert!(verify(&served[SERVER_CERT], &during, HOST, at(3500)).is_ok());
        }
        assert_eq!(bundle(&new, at(3502)).unwrap(), new[CA_CERT]);
        assert_eq!(bundle(&old, at(0)).unwrap(), old[CA_CERT]);
    }

    #[test]
    fn a_host_that_is_an_address_gets_an_address_name_and_localhost() {
        let data = generate(None, "10.0.0.5", at(0), false).unwrap();
        assert_eq!(state(&data, "10.0.0.5", 0), CertState::Usable);
        assert_eq!(state(&data, "localhost", 0), CertState::Usable);
        assert_eq!(state(&data, "10.0.0.6", 0), CertState::Renew { reuse_ca: true });
    }

    #[test]
    fn an_absurdly_early_renewal_does_not_renew_for_ever() {
        let data = fresh();
        let century = Duration::from_secs(100 * 365 * DAY);
        assert_eq!(inspect(Some(&data), HOST, at(0), century), CertState::Usable);
    }

    #[test]
    fn der_lengths_are_short_below_128_and_counted_above() {
        assert_eq!(der_value(4, &[7]), [4, 1, 7]);
        assert_eq!(der_value(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(der_value(4, &[0; 1200])[..4], [4, 0x82, 4, 0xb0]);
    }

    #[test]
    fn a_pair_that_does_not_fit_leaves_the_served_certificate_in_place() {
        let (data, other, store) = (fresh(), fresh(), CertStore::new());
        assert!(!store.is_set());
        store.set(&data[SERVER_CERT], &data[SERVER_KEY], &data[CA_CERT]).unwrap();
        assert!(store.set(&data[SERVER_CERT], &other[SERVER_KEY], &other[CA_CERT]).is_err());
        assert_eq!(store.authority().unwrap()[..], data[CA_CERT][..]);
    }
}
