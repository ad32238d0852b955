//! Certificates of a cluster: one authority, the API server, and a kubeconfig for each who asks it.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

/// An authority that signs.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    /// Its certificate.
    pub(crate) pem: String,
}

/// A certificate and its key, PEM.
pub(crate) struct Signed {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("load", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { params, key, pem })
    }

    /// A certificate that servers of these names show.
    pub(crate) fn server(&self, name: &str, hosts: &[&str]) -> anyhow::Result<Signed> {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        self.sign(CertificateParams::new(hosts)?, named(name, None), ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate of a user in a group.
    pub(crate) fn client(&self, user: &str, group: Option<&str>) -> anyhow::Result<Signed> {
        self.sign(CertificateParams::default(), named(user, group), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        name: DistinguishedName,
        usage: ExtendedKeyUsagePurpose,
    ) -> anyhow::Result<Signed> {
        let key = KeyPair::generate()?;
        params.distinguished_name = name;
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_params(&self.params, &self.key);
        let signed = params.signed_by(&key, &issuer).context("cannot sign a certificate")?;
        Ok(Signed { certificate: signed.pem(), key: key.serialize_pem() })
    }

    /// The kubeconfig of a user of the API server at `url`.
    pub(crate) fn kubeconfig(&self, url: &str, user: &Signed) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: load\n\
             clusters:\n- name: load\n  cluster:\n    server: {url}\n    certificate-authority-data: {}\n\
             users:\n- name: load\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
             contexts:\n- name: load\n  context:\n    cluster: load\n    user: load\n",
            STANDARD.encode(&self.pem),
            STANDARD.encode(&user.certificate),
            STANDARD.encode(&user.key)
        )
    }
}

fn named(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    if let Some(group) = group {
        distinguished.push(DnType::OrganizationName, group);
    }
    distinguished.push(DnType::CommonName, name);
    distinguished
}
