//! The registry the simulated nodes pull from: names, IDs, how long a pull takes and which fail.

use std::time::Duration;

/// The full name of an image: `nginx` is `docker.io/library/nginx:latest`.
pub(crate) fn full_name(image: &str) -> String {
    let (path, digest) = image.split_once('@').map_or((image, None), |(path, digest)| (path, Some(digest)));
    let (first, rest) = path.split_once('/').unwrap_or(("", path));
    let is_host = first.contains(['.', ':']) || first == "localhost";
    let mut name = match (is_host, first.is_empty()) {
        (true, _) => path.to_owned(),
        (false, true) => format!("docker.io/library/{rest}"),
        (false, false) => format!("docker.io/{path}"),
    };
    if let Some(digest) = digest {
        name = format!("{}@{digest}", without_tag(&name));
    } else if without_tag(&name) == name {
        name.push_str(":latest");
    }
    name
}

fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path,
        _ => name,
    }
}

/// The image's ID on a node: `docker.io/library/nginx@sha256:…`, the same on every node and in every run.
pub(crate) fn id(image: &str) -> String {
    let name = full_name(image);
    if name.contains('@') {
        return name;
    }
    format!("{}@sha256:{}", without_tag(&name), digest(&name))
}

/// 64 hexadecimal digits that depend on the text only. Not cryptographic: it only has to look like a digest.
pub(crate) fn digest(text: &str) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut round = |number: u8| {
        for byte in text.bytes().chain([number]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash ^= hash >> 29;
        hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash ^= hash >> 32;
        format!("{hash:016x}")
    };
    [round(0), round(1), round(2), round(3)].concat()
}

/// What the registry answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    pub(crate) pull: Duration,
    /// Pattern and duration; the last that fits holds.
    pub(crate) times: Vec<(String, Duration)>,
    /// Pattern and error text; the last that fits holds.
    pub(crate) failures: Vec<(String, String)>,
}

impl Registry {
    /// How long pulling the image takes.
    pub(crate) fn pull_time(&self, image: &str) -> Duration {
        self.times.iter().rev().find(|(pattern, _)| fits(pattern, image)).map_or(self.pull, |(_, time)| *time)
    }

    /// Why pulling the image fails, if it does.
    pub(crate) fn failure(&self, image: &str) -> Option<&str> {
        self.failures
            .iter()
            .rev()
            .find(|(pattern, _)| fits(pattern, image))
            .map(|(_, reason)| reason.as_str())
    }
}

/// True if `text` fits `pattern`, in which `*` stands for any text.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(head) else { return false };
    let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    ends.into_iter().any(|at| rest.get(at..).is_some_and(|rest| fits(tail, rest)))
}

#[cfg(test)]
mod tests {
    use super::{fits, full_name, id};

    #[test]
    fn image_names_are_completed_like_a_container_runtime_does() {
        let rows = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25"),
            ("openkruise/app:v1", "docker.io/openkruise/app:v1"),
            ("registry:5000/app", "registry:5000/app:latest"),
            ("localhost/app:v1", "localhost/app:v1"),
            ("app:v1@sha256:ab", "docker.io/library/app@sha256:ab"),
        ];
        for (image, expected) in rows {
            assert_eq!(full_name(image), expected);
        }
    }

    #[test]
    fn an_image_id_depends_on_the_tag_and_on_nothing_else() {
        assert_eq!(id("nginx:1"), id("docker.io/library/nginx:1"));
        assert_ne!(id("nginx:1"), id("nginx:2"));
        let id = id("nginx:1");
        let (name, digest) = id.split_once("@sha256:").unwrap();
        assert_eq!((name, digest.len()), ("docker.io/library/nginx", 64));
    }

    #[test]
    fn a_star_in_a_pattern_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("nginx:bad", "nginx:bad", true),
            ("nginx:*", "nginx:1", true),
            ("*bad*", "x/bad:1", true),
            ("*:bad", "a:bad:bad", true),
            ("a*b*b", "abxb", true),
            ("nginx", "nginx:1", false),
            ("a*c", "abcd", false),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
