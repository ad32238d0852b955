//! What a manager has asked the API server for, as the API server tells it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::Context as _;
use kruise_sandbox::server::Server;
use kube::Client;
use serde::Deserialize;

use crate::metrics::samples;

/// The user that the manager is to the API server, and how its user agents begin.
pub(crate) const MANAGER: &str = "kruise-manager";

/// How often each verb was asked of each resource, such as `patch` of `pods/status`. Watches are not among them: they
/// end when they like.
pub type Requests = BTreeMap<(String, String), u64>;

/// Who tells.
pub(crate) enum Source {
    /// The audit log, which holds the manager's requests only.
    Audit { path: PathBuf, read: u64, total: Requests },
    /// The sandbox, which knows its clients by their user agents.
    Sandbox(Server),
    /// `apiserver_request_total`, which adds up all clients.
    All(Client),
}

/// An entry of the audit log.
#[derive(Deserialize)]
struct Event {
    verb: String,
    #[serde(rename = "objectRef", default)]
    object: Object,
}

#[derive(Default, Deserialize)]
struct Object {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
}

impl Source {
    /// All requests so far.
    pub(crate) async fn total(&mut self) -> anyhow::Result<Requests> {
        match self {
            Self::Audit { path, read, total } => {
                let mut text = String::new();
                let mut file =
                    File::open(&*path).with_context(|| format!("cannot read {}", path.display()))?;
                file.seek(SeekFrom::Start(*read))?;
                file.read_to_string(&mut text)?;
                // The last line may still be written.
                let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
                for line in whole.lines() {
                    let event: Event = serde_json::from_str(line).context("an audit event cannot be read")?;
                    count(total, &event.verb, &event.object.resource, &event.object.subresource, 1);
                }
                *read += if whole.is_empty() { 0 } else { whole.len() as u64 + 1 };
                Ok(total.clone())
            }
            Self::Sandbox(server) => {
                let mut total = Requests::new();
                for ((client, verb, resource), times) in server.requests() {
                    if client.starts_with(MANAGER) {
                        let (resource, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
                        let resource = resource.split('.').next().unwrap_or_default();
                        count(&mut total, verb.name(), resource, subresource, times);
                    }
                }
                Ok(total)
            }
            Self::All(client) => {
                let text = client.request_text(http::Request::get("/metrics").body(Vec::new())?).await?;
                let mut total = Requests::new();
                for sample in samples(&text).filter(|sample| sample.name == "apiserver_request_total") {
                    let label = |name: &str| sample.labels.get(name).map_or("", String::as_str);
                    let verb = match label("verb") {
                        "POST" => "create",
                        "PUT" => "update",
                        "PATCH" | "APPLY" => "patch",
                        "DELETE" => "delete",
                        "GET" => "get",
                        "LIST" => "list",
                        _ => continue,
                    };
                    count(&mut total, verb, label("resource"), label("subresource"), sample.value as u64);
                }
                Ok(total)
            }
        }
    }
}

fn count(total: &mut Requests, verb: &str, resource: &str, subresource: &str, times: u64) {
    if verb == "watch" {
        return;
    }
    let slash = if subresource.is_empty() { "" } else { "/" };
    *total.entry((verb.to_owned(), format!("{resource}{slash}{subresource}"))).or_default() += times;
}

/// What has been added to `before`.
pub(crate) fn since(before: &Requests, after: Requests) -> Requests {
    let mut added = after;
    for (asked, times) in &mut added {
        *times -= before.get(asked).copied().unwrap_or_default().min(*times);
    }
    added.retain(|_, times| *times > 0);
    added
}

/// Whether a verb changes something.
pub(crate) fn is_write(verb: &str) -> bool {
    !matches!(verb, "get" | "list" | "watch")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(entries: &[(&str, &str, u64)]) -> Requests {
        let entry =
            |(verb, resource, times): &(&str, &str, u64)| (((*verb).into(), (*resource).into()), *times);
        entries.iter().map(entry).collect()
    }

    #[tokio::test]
    async fn an_audit_log_is_read_on_from_where_it_ended() {
        let path = std::env::temp_dir().join(format!("kruise-load-audit-{}", std::process::id()));
        let line = |verb: &str, object: &str| format!("{{\"verb\":\"{verb}\",\"objectRef\":{object}}}\n");
        let first = line("create", "{\"resource\":\"pods\"}") + &line("watch", "{\"resource\":\"pods\"}");
        let status = line("patch", "{\"resource\":\"pods\",\"subresource\":\"status\"}");
        std::fs::write(&path, first.clone() + "{\"verb\":").unwrap();
        let mut source = Source::Audit { path: path.clone(), read: 0, total: Requests::new() };
        let before = source.total().await.unwrap();
        assert_eq!(before, asked(&[("create", "pods", 1)]));
        std::fs::write(&path, first.clone() + &status + &line("create", "{\"resource\":\"pods\"}")).unwrap();
        let after = source.total().await.unwrap();
        assert_eq!(since(&before, after), asked(&[("create", "pods", 1), ("patch", "pods/status", 1)]));
        std::fs::remove_file(path).unwrap();
    }
}
