//! Where the webhook lives: names, port and certificate settings from the environment.

use std::path::PathBuf;
use std::time::Duration;

const DAY: u64 = 24 * 60 * 60;
const DEFAULT_RENEW_BEFORE: Duration = Duration::from_secs(180 * DAY);

/// The settings of the webhook server and of the loop that keeps its objects right.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WebhookOptions {
    /// Own namespace, which holds the Secret and the Service.
    pub namespace: String,
    /// TLS port.
    pub port: u16,
    /// Directory for the certificate files.
    pub cert_dir: PathBuf,
    /// Host or IP the API server reaches this process at; none when it goes through the Service.
    pub host: Option<String>,
    /// Keep certificates on disk only, not in the Secret.
    pub certs_on_disk: bool,
    /// Name of the Secret.
    pub secret_name: String,
    /// Name of the Service.
    pub service_name: String,
    /// Time before expiry at which certificates are renewed.
    pub renew_before: Duration,
    /// Somebody else makes the certificates and publishes the CA (gate EnableExternalCerts).
    pub external_certs: bool,
}

/// Why the environment cannot be used.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum OptionsError {
    /// The port is no port number.
    #[error("WEBHOOK_PORT {0:?} is not a port number")]
    Port(String),
}

impl WebhookOptions {
    /// Reads the settings; unset and empty variables mean the default.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, OptionsError> {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let or = |name: &str, default: &str| set(name).unwrap_or_else(|| default.to_owned());
        let port = match set("WEBHOOK_PORT") {
            Some(port) => port.trim().parse().map_err(|_| OptionsError::Port(port))?,
            None => 9876,
        };
        let host = set("WEBHOOK_HOST");
        let certs_on_disk = match set("WEBHOOK_CERT_WRITER").as_deref() {
            Some(writer) => writer == "fs",
            None => host.is_some(),
        };
        Ok(Self {
            namespace: or("POD_NAMESPACE", "kruise-system"),
            port,
            cert_dir: PathBuf::from(or("WEBHOOK_CERT_DIR", "/tmp/kruise-webhook-certs")),
            host,
            certs_on_disk,
            secret_name: or("SECRET_NAME", "kruise-webhook-certs"),
            service_name: or("SERVICE_NAME", "kruise-webhook-service"),
            renew_before: set("CERTS_RENEW_BEFORE")
                .and_then(|text| parse_renew_before(&text))
                .unwrap_or(DEFAULT_RENEW_BEFORE),
            external_certs: false,
        })
    }

    /// The host name or address the serving certificate is for.
    pub fn serving_host(&self) -> String {
        let service = || format!("{}.{}.svc", self.service_name, self.namespace);
        self.host.clone().unwrap_or_else(service)
    }
}

/// Parses `<n>d`, `<n>m` (30 days) or `<n>y` (365 days); none for anything else.
pub fn parse_renew_before(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit = match text.chars().last()? {
        'd' => DAY,
        'm' => 30 * DAY,
        'y' => 365 * DAY,
        _ => return None,
    };
    let number: u32 = text.get(..text.len() - 1)?.parse().ok()?;
    (number > 0).then(|| Duration::from_secs(u64::from(number).saturating_mul(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<WebhookOptions, OptionsError> {
        WebhookOptions::from_env(&|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn an_empty_environment_means_the_documented_defaults() {
        let defaults = options(&[("POD_NAMESPACE", "")]).unwrap();
        assert_eq!(defaults.serving_host(), "kruise-webhook-service.kruise-system.svc");
        assert_eq!((defaults.port, defaults.certs_on_disk, defaults.host.clone()), (9876, false, None));
        assert_eq!(defaults.secret_name, "kruise-webhook-certs");
        assert_eq!(defaults.renew_before, DEFAULT_RENEW_BEFORE);
    }

    #[test]
    fn a_webhook_host_moves_certificates_to_disk_unless_a_writer_is_named() {
        let local = options(&[("WEBHOOK_HOST", "10.0.0.5")]).unwrap();
        assert_eq!((local.serving_host().as_str(), local.certs_on_disk), ("10.0.0.5", true));
        let secret = options(&[("WEBHOOK_HOST", "10.0.0.5"), ("WEBHOOK_CERT_WRITER", "secret")]).unwrap();
        assert!(!secret.certs_on_disk);
        assert!(options(&[("WEBHOOK_CERT_WRITER", "fs")]).unwrap().certs_on_disk);
    }

    #[test]
    fn a_port_that_is_no_number_is_an_error() {
        assert_eq!(options(&[("WEBHOOK_PORT", "x")]), Err(OptionsError::Port("x".to_owned())));
        assert_eq!(options(&[("WEBHOOK_PORT", "1234")]).unwrap().port, 1234);
    }

    #[test]
    fn renewal_times_have_units_and_bad_ones_mean_the_default() {
        let days = |count: u64| Some(Duration::from_secs(count * DAY));
        let table = [
            ("10d", days(10)),
            ("2m", days(60)),
            ("1y", days(365)),
            ("d", None),
            ("", None),
            ("5", None),
            ("0d", None),
            ("-1d", None),
            ("1h", None),
            ("1.5d", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_renew_before(text), expected, "{text}");
        }
        assert_eq!(options(&[("CERTS_RENEW_BEFORE", "soon")]).unwrap().renew_before, DEFAULT_RENEW_BEFORE);
    }
}
