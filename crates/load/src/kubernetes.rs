//! A real Kubernetes on loopback: etcd, API server, controller manager and scheduler, without nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rcgen::KeyPair;
use tokio::process::Command;
use tokio::time::Instant;

use crate::cluster::connect;
use crate::pki::Authority;
use crate::process::{Process, Usage, free_port};
use crate::requests::MANAGER;

/// How long the API server may take to serve.
const PATIENCE: Duration = Duration::from_mins(2);
/// Everything the manager's user asks for, once it is answered; watches are told of when they end.
const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived, ResponseStarted]\n\
                      rules:\n- {level: Metadata, users: [kruise-manager]}\n- {level: None}\n";

/// The processes of a cluster; the last is started last.
pub(crate) struct Kubernetes {
    processes: Vec<Process>,
    /// For whoever may do everything.
    pub(crate) admin: PathBuf,
    /// For the manager, which may do everything as well and whose requests are noted down.
    pub(crate) manager: PathBuf,
    /// What the manager has asked for.
    pub(crate) audit: PathBuf,
}

impl Kubernetes {
    /// Starts everything from the binaries in `bin`; state and logs go to `dir`.
    pub(crate) async fn start(bin: &Path, dir: &Path) -> anyhow::Result<Self> {
        let present = bin.join("kube-apiserver").exists();
        ensure!(present, "no Kubernetes in {}: `e2e/cluster/cluster build` makes one", bin.display());
        let file = |name: &str| dir.join(name);
        let authority = Authority::new()?;
        let serving = authority
            .server("kube-apiserver", &["127.0.0.1", "localhost", "kubernetes.default.svc", "10.96.0.1"])?;
        write(&file("ca.crt"), &authority.pem)?;
        write(&file("apiserver.crt"), &serving.certificate)?;
        write(&file("apiserver.key"), &serving.key)?;
        let accounts = KeyPair::generate()?;
        write(&file("sa.key"), &accounts.serialize_pem())?;
        write(&file("sa.pub"), &accounts.public_key_pem())?;
        write(&file("audit-policy.yaml"), POLICY)?;
        let (etcd, peers, secure) = (free_port()?, free_port()?, free_port()?);
        let url = format!("https://127.0.0.1:{secure}");
        let user = |name: &str, group: Option<&str>| {
            let path = file(&format!("{name}.kubeconfig"));
            write(&path, &authority.kubeconfig(&url, &authority.client(name, group)?))?;
            anyhow::Ok(path)
        };
        let admin = user("admin", Some("system:masters"))?;
        let manager = user(MANAGER, Some("system:masters"))?;
        let controllers = user("system:kube-controller-manager", None)?;
        let scheduler = user("system:kube-scheduler", None)?;
        let audit = file("audit.log");

        let mut processes = Vec::new();
        let start = |processes: &mut Vec<Process>, name: &str, arguments: &[(&str, String)]| {
            let mut command = Command::new(bin.join(name));
            command.args(arguments.iter().map(|(flag, value)| format!("--{flag}={value}")));
            processes.push(Process::start(name, command, dir)?);
            anyhow::Ok(())
        };
        let text = |path: PathBuf| path.display().to_string();
        let (listen, peer) = (format!("http://127.0.0.1:{etcd}"), format!("http://127.0.0.1:{peers}"));
        start(
            &mut processes,
            "etcd",
            &[
                ("data-dir", text(file("etcd"))),
                ("listen-client-urls", listen.clone()),
                ("advertise-client-urls", listen.clone()),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer.clone()),
                ("initial-cluster", format!("default={peer}")),
                ("unsafe-no-fsync", "true".into()),
                ("quota-backend-bytes", (8_u64 << 30).to_string()),
            ],
        )?;
        start(
            &mut processes,
            "kube-apiserver",
            &[
                ("etcd-servers", listen),
                ("bind-address", "127.0.0.1".into()),
                ("secure-port", secure.to_string()),
                // Told to pods only, and there are none that run.
                ("advertise-address", "192.0.2.1".into()),
                ("endpoint-reconciler-type", "none".into()),
                ("tls-cert-file", text(file("apiserver.crt"))),
                ("tls-private-key-file", text(file("apiserver.key"))),
                ("client-ca-file", text(file("ca.crt"))),
                ("service-account-key-file", text(file("sa.pub"))),
                ("service-account-signing-key-file", text(file("sa.key"))),
                ("service-account-issuer", "https://kubernetes.default.svc".into()),
                ("service-cluster-ip-range", "10.96.0.0/16".into()),
                ("authorization-mode", "RBAC".into()),
                ("max-requests-inflight", "2000".into()),
                ("max-mutating-requests-inflight", "1000".into()),
                ("audit-policy-file", text(file("audit-policy.yaml"))),
                ("audit-log-path", text(audit.clone())),
                ("audit-log-maxsize", "20000".into()),
            ],
        )?;
        let client = connect(&admin).await?;
        let begun = Instant::now();
        while let Err(error) = client.request_text(http::Request::get("/readyz").body(Vec::new())?).await {
            processes.iter_mut().try_for_each(Process::runs)?;
            ensure!(begun.elapsed() < PATIENCE, "the API server does not serve: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Their own limits would be measured otherwise.
        let fast = [("kube-api-qps", "5000".to_owned()), ("kube-api-burst", "5000".to_owned())];
        let [qps, burst] = fast;
        start(
            &mut processes,
            "kube-controller-manager",
            &[
                ("kubeconfig", text(controllers)),
                ("service-account-private-key-file", text(file("sa.key"))),
                ("root-ca-file", text(file("ca.crt"))),
                // The user alone has few rights; each of the controllers has its own.
                ("use-service-account-credentials", "true".into()),
                ("leader-elect", "false".into()),
                ("secure-port", "0".into()),
                qps.clone(),
                burst.clone(),
            ],
        )?;
        start(
            &mut processes,
            "kube-scheduler",
            &[
                ("kubeconfig", text(scheduler)),
                ("leader-elect", "false".into()),
                ("secure-port", "0".into()),
                qps,
                burst,
            ],
        )?;
        Ok(Self { processes, admin, manager, audit })
    }

    /// An error once one of the processes has ended.
    pub(crate) fn runs(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(Process::runs)
    }

    /// Seconds of CPU that all of it has used.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        self.processes.iter().map(|process| Ok(Usage::of(process.pid()?)?.cpu)).sum()
    }

    /// Ends everything, the last first.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        while let Some(process) = self.processes.pop() {
            // Nothing is to be kept, so nothing is waited for.
            process.kill().await?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
