//! Hashes and image references that tell whether a container already runs what the pod asks for.

use std::collections::BTreeMap;

use kruise_api::keys;
use serde::{Deserialize, Serialize};

use crate::pod::{ContainerView, PodView};
use crate::revision::{fnv1a_of_printed, write_text};

/// What the node agent says of the containers it sees, from the pod's annotation.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct RuntimeMeta {
    /// One entry per container.
    pub containers: Vec<RuntimeContainer>,
}

/// One container as the node agent sees it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuntimeContainer {
    /// Name of the container.
    pub name: String,
    /// The runtime's id, `containerd://…`.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// How often it was restarted.
    pub restart_count: i32,
    /// What it was started with.
    pub hashes: RuntimeHashes,
}

/// Hashes of what a container was started with.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuntimeHashes {
    /// Of image and name.
    pub plain_hash: u64,
    /// Of the env read from labels and annotations; 0 is unknown.
    #[serde(skip_serializing_if = "is_unknown")]
    pub extracted_env_from_metadata_hash: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_unknown(hash: &u64) -> bool {
    *hash == 0
}

impl RuntimeMeta {
    /// The agent's report of a pod; `None` if there is none, or not one that can be read.
    pub fn of(pod: &PodView) -> Option<Self> {
        serde_json::from_str(pod.annotation(keys::RUNTIME_CONTAINERS_META)?).ok()
    }

    /// The entry of a container.
    pub fn container(&self, name: &str) -> Option<&RuntimeContainer> {
        self.containers.iter().find(|container| container.name == name)
    }
}

/// Hash of a container's image and name, as kubelet and the node agent compute it.
pub fn plain_hash(image: &str, name: &str) -> u64 {
    let mut text = String::from("{\"image\":");
    write_text(&mut text, image);
    text.push_str(",\"name\":");
    write_text(&mut text, name);
    text.push('}');
    u64::from(fnv1a_of_printed(text.as_bytes()))
}

/// Hash of env variables, name to value, that are read from labels and annotations; an empty value is left out.
pub fn env_hash(env: &BTreeMap<&str, &str>) -> u64 {
    if env.is_empty() {
        return u64::from(fnv1a_of_printed(b"null"));
    }
    let mut text = String::new();
    for (name, value) in env {
        text.push_str(if text.is_empty() { "[" } else { "," });
        text.push_str("{\"name\":");
        write_text(&mut text, name);
        if !value.is_empty() {
            text.push_str(",\"value\":");
            write_text(&mut text, value);
        }
        text.push('}');
    }
    text.push(']');
    u64::from(fnv1a_of_printed(text.as_bytes()))
}

/// The env hash a container has once it was started with the pod's present labels and annotations.
pub fn expected_env_hash(pod: &PodView, container: &ContainerView) -> u64 {
    let value = |label: bool, key: &str| if label { pod.label(key) } else { pod.annotation(key) };
    let env = container.env_from_metadata.iter();
    env_hash(&env.map(|env| (&*env.name, value(env.label, &env.key).unwrap_or_default())).collect())
}

/// True if two references name one image: registry, `library/` and `:latest` filled in where they are left out.
pub fn same_image(a: &str, b: &str) -> bool {
    a == b || normalised(a) == normalised(b)
}

fn normalised(image: &str) -> String {
    let (image, digest) =
        image.split_once('@').map_or((image, None), |(image, digest)| (image, Some(digest)));
    let (registry, rest) = match image.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", image),
    };
    let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
    let (path, tag) = rest.split_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag)));
    let library = if registry == "docker.io" && !path.contains('/') { "library/" } else { "" };
    match (digest, tag) {
        (Some(digest), _) => format!("{registry}/{library}{path}@{digest}"),
        (None, tag) => format!("{registry}/{library}{path}:{}", tag.unwrap_or("latest")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_node_agents() {
        assert_eq!(plain_hash("nginx:1.0", "main"), 2_691_882_627);
        assert_eq!(env_hash(&BTreeMap::from([("CFG", "v1")])), 429_381_897);
        assert_eq!(env_hash(&BTreeMap::new()), 86_995_377);
    }

    #[test]
    fn one_image_has_many_names() {
        for (a, b) in [
            ("x:1", "docker.io/library/x:1"),
            ("x", "x:latest"),
            ("team/x", "index.docker.io/team/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("x:1@sha256:aa", "docker.io/library/x@sha256:aa"),
        ] {
            assert!(same_image(a, b), "{a} {b}");
        }
        for (a, b) in
            [("x:1", "x:2"), ("quay.io/x:1", "x:1"), ("localhost:5000/x", "x"), ("x@sha256:a", "x@sha256:b")]
        {
            assert!(!same_image(a, b), "{a} {b}");
        }
    }
}
