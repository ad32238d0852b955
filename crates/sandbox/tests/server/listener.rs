//! The server on a port, as clients outside of the process reach it.

use kruise_sandbox::server::{Identity, kubeconfig};
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::net::TcpListener;

use super::{config_map, config_maps, server};

async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn the_same_objects_are_served_over_http_https_and_in_process() {
    let server = server();
    let (plain, secure) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let identity = Identity::generate(&["127.0.0.1"]).unwrap();
    let urls = [
        format!("http://{}", plain.local_addr().unwrap()),
        format!("https://{}", secure.local_addr().unwrap()),
    ];
    let (on_plain, on_secure) = (server.clone(), server.clone());
    let ca = identity.ca_pem.clone();
    let plain = tokio::spawn(async move { on_plain.serve_http(plain).await });
    let secure = tokio::spawn(async move { on_secure.serve_https(secure, &identity).await });
    let http = client(&kubeconfig(&urls[0], None)).await;
    let https = client(&kubeconfig(&urls[1], Some(&ca))).await;
    config_maps(&http).create(&PostParams::default(), &config_map("a")).await.unwrap();
    config_maps(&https).create(&PostParams::default(), &config_map("b")).await.unwrap();
    for client in [http, https, server.client()] {
        let listed = config_maps(&client).list(&ListParams::default()).await.unwrap();
        assert_eq!(listed.items.len(), 2);
        assert_eq!(client.apiserver_version().await.unwrap().minor, "34");
    }
    let untrusted = client(&kubeconfig(&urls[1], Some(&Identity::generate(&["x"]).unwrap().ca_pem))).await;
    assert!(config_maps(&untrusted).list(&ListParams::default()).await.is_err());
    plain.abort();
    secure.abort();
}
