//! Serves an empty cluster on loopback and writes a kubeconfig: `cargo run -p kruise-sandbox --example serve -- PORT KUBECONFIG`.

use kruise_sandbox::server::{Config, Identity, Server, kubeconfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().unwrap_or_else(|| "6443".to_owned());
    let path = arguments.next().unwrap_or_else(|| "sandbox.kubeconfig".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let url = format!("https://{}", listener.local_addr()?);
    let identity = Identity::generate(&["localhost", "127.0.0.1"])?;
    std::fs::write(path, kubeconfig(&url, Some(&identity.ca_pem)))?;
    Server::new(Config::default()).serve_https(listener, &identity).await?;
    Ok(())
}
