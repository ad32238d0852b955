//! Image references: what a user writes, what Kruise files it under, and what a container runtime is asked for.
//!
//! The rules are Docker's: a missing registry is `docker.io`, whose one-part repositories belong to `library/`, and a
//! missing tag is `latest`.

use std::fmt;

const DOCKER: &str = "docker.io";
const DOCKER_OLD: &str = "index.docker.io";
const LIBRARY: &str = "library/";
const LATEST: &str = "latest";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// Why a text is no image reference.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ImageRefError {
    /// It has no repository.
    #[error("repository name must have at least one component")]
    NoName,
    /// The repository has upper-case letters.
    #[error("repository name must be lowercase")]
    Uppercase,
    /// The repository is too long.
    #[error("repository name must not be more than {MAX_NAME} characters")]
    TooLong,
    /// It is the bare hash of an image.
    #[error("cannot specify 64-byte hexadecimal strings as a repository name")]
    Hash,
    /// The tag has characters a tag cannot have, or too many.
    #[error("invalid tag format")]
    Tag,
    /// The digest is not `algorithm:hex`, of the algorithm's length.
    #[error("invalid digest format")]
    Digest,
    /// Anything else.
    #[error("invalid reference format")]
    Format,
}

/// An image reference, with everything that can be left out filled in.
#[derive(Clone, Debug, Eq, PartialEq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    domain: String,
    path: String,
    version: String,
}

impl ImageRef {
    /// Reads what a user writes. A tag next to a digest is dropped.
    pub fn parse(text: &str) -> Result<Self, ImageRefError> {
        let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
        // A colon before the last slash belongs to the registry's port.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest.get(last..).and_then(|part| part.find(':')) {
            Some(colon) => (rest.get(..last + colon), rest.get(last + colon + 1..)),
            None => (Some(rest), None),
        };
        let name = name.unwrap_or_default();
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ImageRefError::Tag);
        }
        let version = match digest {
            Some(digest) if !is_digest(digest) => return Err(ImageRefError::Digest),
            Some(digest) => digest,
            None => tag.unwrap_or(LATEST),
        };
        let (domain, path) = repository(name, digest.is_none() && tag.is_none())?;
        Ok(Self { domain, path, version: version.to_owned() })
    }

    /// Puts together what [`Self::familiar_name`] and [`Self::version`] took apart.
    pub fn of(name: &str, version: &str) -> Result<Self, ImageRefError> {
        let digest = version.contains(':');
        if digest && !is_digest(version) {
            return Err(ImageRefError::Digest);
        }
        if !digest && !is_tag(version) {
            return Err(ImageRefError::Tag);
        }
        if name.contains('@') {
            return Err(ImageRefError::Format);
        }
        let (domain, path) = repository(name, false)?;
        Ok(Self { domain, path, version: version.to_owned() })
    }

    /// The repository as people write it: without `docker.io/` and `docker.io/library/`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DOCKER {
            return format!("{}/{}", self.domain, self.path);
        }
        let short = self.path.strip_prefix(LIBRARY).filter(|path| !path.contains('/'));
        short.unwrap_or(&self.path).to_owned()
    }

    /// The repository with its registry, always.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The registry, with its port.
    pub fn registry(&self) -> &str {
        &self.domain
    }

    /// The tag, or the digest if the reference has one.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The digest, if the reference has one.
    pub fn digest(&self) -> Option<&str> {
        self.version.contains(':').then_some(&*self.version)
    }
}

/// The whole reference, that no runtime can take for another one.
impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.digest().is_some() { '@' } else { ':' };
        write!(f, "{}/{}{separator}{}", self.domain, self.path, self.version)
    }
}

/// Registry and path of a repository.
fn repository(name: &str, alone: bool) -> Result<(String, String), ImageRefError> {
    if name.is_empty() {
        return Err(ImageRefError::NoName);
    }
    if alone && name.len() == 64 && name.bytes().all(is_lower_hex) {
        return Err(ImageRefError::Hash);
    }
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DOCKER, name),
    };
    let domain = if domain == DOCKER_OLD { DOCKER } else { domain };
    let path =
        if domain == DOCKER && !path.contains('/') { format!("{LIBRARY}{path}") } else { path.to_owned() };
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ImageRefError::Uppercase);
    }
    if domain.len() + 1 + path.len() > MAX_NAME {
        return Err(ImageRefError::TooLong);
    }
    if !is_domain(domain) || !path.split('/').all(is_component) {
        return Err(ImageRefError::Format);
    }
    Ok((domain.to_owned(), path))
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= MAX_TAG
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

/// `algorithm:hex`, with the length that the known algorithms have.
fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hash)) = digest.split_once(':') else { return false };
    let part = |part: &str| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric())
    };
    let long_enough = match algorithm {
        "sha256" => hash.len() == 64,
        "sha384" => hash.len() == 96,
        "sha512" => hash.len() == 128,
        _ => hash.len() >= 32,
    };
    algorithm.split(['+', '.', '-', '_']).all(part) && long_enough && hash.bytes().all(is_lower_hex)
}

/// A host name, an IPv4 address or an IPv6 address in brackets, with or without a port.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let label = |label: &str| {
        let end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        end(label.bytes().next())
            && end(label.bytes().next_back())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = match address {
        Some(address) => {
            !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
        }
        None => host.split('.').all(label),
    };
    host && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Lower-case words, joined by a dot, one or two underscores, or any number of dashes.
fn is_component(component: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = component;
    loop {
        let end = rest.bytes().position(|byte| !word(byte)).unwrap_or(rest.len());
        if end == 0 {
            return false;
        }
        rest = rest.get(end..).unwrap_or_default();
        if rest.is_empty() {
            return true;
        }
        let end = rest.bytes().position(word).unwrap_or(rest.len());
        let joint = rest.get(..end).unwrap_or_default();
        if !matches!(joint, "." | "_" | "__") && joint.bytes().any(|byte| byte != b'-') {
            return false;
        }
        rest = rest.get(end..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn references_have_a_name_a_version_and_a_full_form() {
        let digest = format!("sha256:{HEX}");
        for (text, name, version, full) in [
            ("nginx", "nginx", "latest", "docker.io/library/nginx:latest"),
            ("index.docker.io/library/nginx", "nginx", "latest", "docker.io/library/nginx:latest"),
            ("docker.io/foo/bar", "foo/bar", "latest", "docker.io/foo/bar:latest"),
            ("docker.io/nginx:1.27", "nginx", "1.27", "docker.io/library/nginx:1.27"),
            ("library/nginx:v1", "nginx", "v1", "docker.io/library/nginx:v1"),
            ("library/a/b", "library/a/b", "latest", "docker.io/library/a/b:latest"),
            ("localhost/x", "localhost/x", "latest", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x", "latest", "localhost:5000/x:latest"),
            ("localhost:5000/a/b:V1_0", "localhost:5000/a/b", "V1_0", "localhost:5000/a/b:V1_0"),
            ("10.0.0.1:80/x:1", "10.0.0.1:80/x", "1", "10.0.0.1:80/x:1"),
            ("[::1]:5000/x:1", "[::1]:5000/x", "1", "[::1]:5000/x:1"),
            ("Quay.IO/a/b", "Quay.IO/a/b", "latest", "Quay.IO/a/b:latest"),
            ("foo/bar__baz--q.r", "foo/bar__baz--q.r", "latest", "docker.io/foo/bar__baz--q.r:latest"),
        ] {
            let read = ImageRef::parse(text).unwrap();
            assert_eq!(
                (&*read.familiar_name(), read.version(), &*read.to_string(), read.digest()),
                (name, version, full, None),
                "{text}"
            );
        }
        for text in [format!("quay.io/a/b:v1@{digest}"), format!("quay.io/a/b@{digest}")] {
            let read = ImageRef::parse(&text).unwrap();
            assert_eq!((&*read.familiar_name(), read.version()), ("quay.io/a/b", &*digest));
            assert_eq!(read.digest(), Some(&*digest));
            assert_eq!(read.to_string(), format!("quay.io/a/b@{digest}"));
            assert_eq!(read.registry(), "quay.io");
        }
        let short = ImageRef::parse(&format!("nginx@{digest}")).unwrap();
        assert_eq!(short.to_string(), format!("docker.io/library/nginx@{digest}"));
        assert_eq!(short.full_name(), "docker.io/library/nginx");
    }

    #[test]
    fn what_is_no_reference_is_refused_with_its_reason() {
        use ImageRefError::{Digest, Format, Hash, NoName, Tag, TooLong, Uppercase};
        let long = "a/".repeat(127) + "ab";
        for (text, reason) in [
            ("", NoName),
            (":v1", NoName),
            ("Foo/bar", Uppercase),
            ("nginX", Uppercase),
            ("localhost:5000/X", Uppercase),
            ("nginx:", Tag),
            ("nginx:-a", Tag),
            ("nginx:a b", Tag),
            ("nginx@sha256:abc", Digest),
            ("nginx@latest", Digest),
            (&format!("nginx@sha256:{}", HEX.to_uppercase()), Digest),
            (HEX, Hash),
            (&long, TooLong),
            ("a//b", Format),
            ("/a", Format),
            ("a/", Format),
            ("a b", Format),
            ("https://quay.io/a", Format),
            ("-a.io/b", Format),
            ("a..b/c", Format),
            ("quay.io:x/c", Format),
            ("a/b_-c", Format),
            ("a/_b", Format),
            ("a/b___c", Format),
            ("näme", Format),
        ] {
            assert_eq!(ImageRef::parse(text), Err(reason), "{text}");
        }
        assert_eq!(ImageRef::parse(&format!("nginx:{}", "a".repeat(129))), Err(Tag));
        assert!(ImageRef::parse(&format!("{HEX}:v1")).is_ok());
    }

    #[test]
    fn names_and_versions_that_do_not_fit_together_are_refused() {
        for (name, version) in
            [("nginx", ""), ("nginx", "sha256:1"), ("", "a"), ("a@b", "a"), ("A", "a"), ("a:b", "c")]
        {
            assert!(ImageRef::of(name, version).is_err(), "{name} {version}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_read_again_from_its_parts_and_from_its_full_form(
            domain in prop::option::of("(localhost|[a-z]{1,5}\\.io|10\\.0\\.0\\.1)(:[0-9]{1,5})?"),
            path in "[a-z0-9]{1,8}([._-][a-z0-9]{1,3})?(/[a-z0-9]{1,8}){0,2}",
            tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            digest in prop::option::of("[0-9a-f]{64}"),
        ) {
            let mut text = domain.map(|domain| domain + "/").unwrap_or_default() + &path;
            if let Some(tag) = tag {
                text = format!("{text}:{tag}");
            }
            if let Some(digest) = digest {
                text = format!("{text}@sha256:{digest}");
            }
            let read = ImageRef::parse(&text).unwrap();
            prop_assert_eq!(&ImageRef::parse(&read.to_string()).unwrap(), &read);
            prop_assert_eq!(&ImageRef::of(&read.familiar_name(), read.version()).unwrap(), &read);
            prop_assert_eq!(&ImageRef::of(&read.full_name(), read.version()).unwrap(), &read);
        }

        #[test]
        fn no_text_is_too_odd(text in any::<String>()) {
            let _ = ImageRef::parse(&text);
            let _ = ImageRef::of(&text, &text);
        }
    }
}
