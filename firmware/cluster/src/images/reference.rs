//! Names of images, as people write them and as the runtime keeps them. Pure.
//!
//! The grammar and the defaults are those of Distribution's `reference` package, which containerd
//! uses for CRI (`ParseDockerRef`): no registry means `docker.io`, no tag means `latest`, and of a
//! name with tag and digest the digest counts.

use super::error::ImageError;
use std::fmt;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// Of registry and path (Distribution's `reference`, `NameTotalLengthMax`).
const MAX_NAME_BYTES: usize = 255;

/// The name of an image, whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    path: String,
    version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Version {
    Tag(String),
    Digest(String),
}

impl Reference {
    /// Reads a name.
    ///
    /// # Errors
    /// [`ImageError::Name`] says what is wrong with it.
    pub fn parse(image: &str) -> Result<Self, ImageError> {
        let wrong = |why| ImageError::Name { image: image.to_owned(), why };
        let (rest, digest) = match image.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (image, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            // A colon before a slash is that of a port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let (registry, path) = match rest.split_once('/') {
            Some((first, path))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first.to_ascii_lowercase() != first =>
            {
                (first, path)
            }
            _ => (DEFAULT_REGISTRY, rest),
        };
        if rest.len() > MAX_NAME_BYTES {
            return Err(wrong("a name has at most 255 bytes"));
        }
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let path = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if !path.split('/').all(is_component) {
            return Err(wrong("a path has lower case letters, digits, and . _ - between them"));
        }
        if registry.is_empty()
            || !registry.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c))
        {
            return Err(wrong("the registry is no host name"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("a tag has at most 128 letters, digits, and _ . - but not first"));
        }
        let version = match (digest, tag) {
            (Some(digest), _) if is_digest(digest) => Version::Digest(digest.to_owned()),
            (Some(_), _) => return Err(wrong("a digest is sha256: and 64 hexadecimal digits")),
            (None, tag) => Version::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), path, version })
    }

    /// Host of the registry, with its port.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Where it is in the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the name always means the same content.
    pub fn is_fixed(&self) -> bool {
        matches!(self.version, Version::Digest(_))
    }

    /// Whether a pod with this image asks the registry each time it starts, also when the image
    /// is there: its `imagePullPolicy` is `Always`, or is not given and the tag is `latest`
    /// (Kubernetes' API reference, Container). Such a workload cannot be the way to its registry.
    pub fn asks_each_time(&self, pull_policy: Option<&str>) -> bool {
        match pull_policy {
            Some(policy) if !policy.is_empty() => policy == "Always",
            _ => matches!(&self.version, Version::Tag(tag) if tag == DEFAULT_TAG),
        }
    }
}

impl fmt::Display for Reference {
    /// The runtime's form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

fn is_component(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends(text.chars().next())
        && ends(text.chars().last())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Registries give SHA-256; the specification allows others that containerd does not make.
fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::Reason;
    use proptest::prelude::*;

    fn whole(image: &str) -> String {
        Reference::parse(image).unwrap().to_string()
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (written, kept) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("rancher/pause:3.6", "docker.io/rancher/pause:3.6"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("registry.lab:5000/app:v1", "registry.lab:5000/app:v1"),
            ("registry.lab:5000/app", "registry.lab:5000/app:latest"),
            ("localhost/a/b__c", "localhost/a/b__c:latest"),
        ] {
            assert_eq!(whole(written), kept);
        }
        assert_eq!(whole(&format!("r.lab/app:v1@{digest}")), format!("r.lab/app@{digest}"));
    }

    #[test]
    fn what_is_no_name_is_told() {
        for image in [
            "",
            "App",
            "r.lab/",
            "r.lab/app:",
            "r.lab/app:-v",
            "r.lab/a@sha256:12",
            "a b",
            "r.lab/a//b",
            &"a/".repeat(150_000),
            &format!("r.lab/{}", "a".repeat(300_000)),
            &"\"".repeat(300_000),
        ] {
            let error = Reference::parse(image).unwrap_err();
            assert!(matches!(&error, ImageError::Name { image: told, .. } if told == image));
            assert!(error.to_string().len() < 400, "{error}");
            assert_eq!((error.reason(), error.retryable()), (Reason::ReleaseInvalid, false));
        }
    }

    #[test]
    fn who_asks_the_registry_each_time() {
        let asks = |image: &str, policy| Reference::parse(image).unwrap().asks_each_time(policy);
        assert!(asks("r.lab/app", None) && asks("r.lab/app:latest", Some("")));
        assert!(asks("r.lab/app:v1", Some("Always")));
        assert!(!asks("r.lab/app:v1", None) && !asks("r.lab/app", Some("IfNotPresent")));
        assert!(!asks(&format!("r.lab/app@sha256:{}", "00".repeat(32)), None));
    }

    proptest! {
        /// Reading what was written changes nothing, so that a name can be read any number of times.
        #[test]
        fn the_whole_form_is_its_own(image in "([a-z]{1,5}(\\.[a-z]{1,3})?(:[0-9]{2,4})?/)?[a-z]{1,4}(/[a-z0-9]{1,3}){0,2}(:[a-z0-9.]{1,6})?") {
            if let Ok(reference) = Reference::parse(&image) {
                prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
            }
        }

        #[test]
        fn nothing_makes_it_panic(image in "\\PC{0,40}") {
            let _either = Reference::parse(&image);
        }
    }
}
