//! Registries that make trouble, beside the cluster's own.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::manager::cluster;

/// Where nodes see the machine they run on, and its registry.
const HOST: &str = "10.250.0.1";
const REGISTRY: &str = "10.250.0.1:5000";
/// How many pieces a slow registry sends in a second.
const PIECES: u64 = 20;
/// An answer whose head is right and whose body no client can use.
const GARBAGE: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n\
    Content-Length: 12\r\nConnection: close\r\n\r\n\u{7}no manifest";

/// The cluster's registry, behind a line of so many bytes a second. Ends with the value.
pub struct SlowRegistry {
    name: String,
    sent: Arc<AtomicU64>,
    _line: JoinSet<()>,
}

impl SlowRegistry {
    /// One whose images are named `<name>/…`, on every node.
    pub async fn start(bytes_per_second: u64) -> Result<Self> {
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let (name, line) = serve(move |client| {
            let counter = Arc::clone(&counter);
            async move { connect(client, bytes_per_second, &counter).await }
        })
        .await?;
        Ok(Self { name, sent, _line: line })
    }

    /// What stands before the name of its images.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes it has sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// What is wrong with a registry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Defect {
    /// It takes connections and never answers.
    Silent,
    /// It answers what is no image.
    Garbage,
}

/// A registry without an image. Ends with the value.
pub struct BrokenRegistry {
    name: String,
    _line: JoinSet<()>,
}

impl BrokenRegistry {
    /// One whose images are named `<name>/…`, on every node.
    pub async fn start(defect: Defect) -> Result<Self> {
        let (name, line) = serve(move |client| refuse(client, defect)).await?;
        Ok(Self { name, _line: line })
    }

    /// What stands before the name of its images.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Opens a registry that every node asks over HTTP: its name, and what it lives by.
async fn serve<F, R>(connection: F) -> Result<(String, JoinSet<()>)>
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind((HOST, 0)).await.context("this is not the machine of the cluster")?;
    let name = listener.local_addr()?.to_string();
    cluster(&["registry", &name]).await?;
    let mut line = JoinSet::new();
    line.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            // A client that goes away ends its connection, and nothing else.
            let served = connection(client);
            connections.spawn(async move { drop(served.await) });
            while connections.try_join_next().is_some() {}
        }
    });
    Ok((name, line))
}

/// Reads what is asked until the client hangs up.
async fn refuse(mut client: TcpStream, defect: Defect) -> Result<()> {
    let mut question = vec![0; 4096];
    while client.read(&mut question).await? > 0 {
        if defect == Defect::Garbage {
            client.write_all(GARBAGE.as_bytes()).await?;
            client.shutdown().await?;
        }
    }
    Ok(())
}

async fn connect(client: TcpStream, bytes_per_second: u64, sent: &AtomicU64) -> Result<()> {
    let (mut questions, mut answers) = client.into_split();
    let (mut from, mut to) = TcpStream::connect(REGISTRY).await?.into_split();
    let ask = async {
        tokio::io::copy(&mut questions, &mut to).await?;
        to.shutdown().await
    };
    let answer = async {
        let mut piece = vec![0; usize::try_from(bytes_per_second / PIECES)?.max(1)];
        loop {
            let length = from.read(&mut piece).await?;
            if length == 0 {
                return anyhow::Ok(());
            }
            answers.write_all(piece.get(..length).unwrap_or_default()).await?;
            sent.fetch_add(length as u64, Ordering::Relaxed);
            // The line is as slow as it is, whatever anybody waits for.
            tokio::time::sleep(Duration::from_millis(1000 * length as u64 / bytes_per_second.max(1))).await;
        }
    };
    tokio::select! {
        biased;
        done = answer => done,
        Err(error) = ask => Err(error.into()),
    }
}
