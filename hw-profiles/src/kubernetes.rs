//! What the distribution takes of labels, taints, parts, mirrors and programs: what k3s, the
//! kubelet or the API server would refuse when it starts. Pure. Nodes and the controller ask the
//! same rules, so that what a node could not use is refused where it is written
//! (`docs/decisions/0014-one-set-of-rules.md`).

use crate::profile::{Taint, is_label_key, is_label_value};
use holdfast_api::kubernetes::{DistributionArtifact, RegistryMirror};

/// A field that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Wrong {
    /// Its path within what was looked at, such as `labels["a/b/c"]` or `mirrors[0].registry`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

fn refuse<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { field: field.into(), problem: problem.into() })
}

/// Labels with which a kubelet may register its node although they are in Kubernetes' own
/// namespaces (kubelet's reference, `--node-labels`).
const OWN_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Namespaces of labels, with everything below, that a kubelet may set.
const OPEN_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// A label of a node.
///
/// # Errors
/// [`Wrong`].
pub fn label(key: &str, value: &str) -> Result<(), Wrong> {
    let field = format!("labels[{key:?}]");
    if !is_label_key(key) || !is_label_value(value) {
        return refuse(field, format!("{key}={value} is not a label"));
    }
    let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
    let below = |top: &str| {
        namespace == top || namespace.strip_suffix(top).is_some_and(|rest| rest.ends_with('.'))
    };
    let reserved = below("kubernetes.io") || below("k8s.io");
    if reserved && !OWN_LABELS.contains(&key) && !OPEN_NAMESPACES.iter().any(|one| below(one)) {
        return refuse(
            field,
            "the kubelet may not set this label of Kubernetes' own; choose another namespace, or node.kubernetes.io",
        );
    }
    Ok(())
}

/// A taint, the one at `index`.
///
/// # Errors
/// [`Wrong`].
pub fn taint(index: usize, text: &str) -> Result<Taint, Wrong> {
    text.parse().or_else(|problem: String| refuse(format!("taints[{index}]"), problem))
}

/// The name of a part of the distribution, the one at `index`.
///
/// # Errors
/// [`Wrong`].
pub fn part(index: usize, name: &str) -> Result<String, Wrong> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(fits) {
        let field = format!("disable[{index}]");
        return refuse(field, format!("{name:?} is not the name of a part"));
    }
    Ok(name.to_owned())
}

/// Mirrors, all of them: k3s knows one list for each registry.
///
/// # Errors
/// The first [`Wrong`] one.
pub fn mirrors(mirrors: &[RegistryMirror]) -> Result<(), Wrong> {
    for (index, mirror) in mirrors.iter().enumerate() {
        let field = format!("mirrors[{index}]");
        let registry = &mirror.registry;
        if registry != "*" && !is_authority(registry) {
            return refuse(
                format!("{field}.registry"),
                format!("{registry:?} is not a host as it stands in image names"),
            );
        }
        if mirrors[..index].iter().any(|other| other.registry == *registry) {
            return refuse(format!("{field}.registry"), format!("{registry:?} is named twice"));
        }
        if mirror.endpoints.is_empty() {
            return refuse(format!("{field}.endpoints"), "it names none; leave the mirror out");
        }
        for (at, url) in mirror.endpoints.iter().enumerate() {
            if host_of(url).is_none() {
                return refuse(
                    format!("{field}.endpoints[{at}]"),
                    format!("{url:?} is not an http:// or https:// address"),
                );
            }
        }
    }
    Ok(())
}

/// A program.
///
/// # Errors
/// [`Wrong`].
pub fn artifact(artifact: &DistributionArtifact) -> Result<(), Wrong> {
    let DistributionArtifact { version, url, sha256 } = artifact;
    // It becomes the name of a folder.
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_');
    if version.is_empty()
        || version.len() > 64
        || version.starts_with('.')
        || !version.chars().all(fits)
    {
        return refuse("distribution.version", format!("{version:?} is not a version"));
    }
    let file = url.strip_prefix("file://").is_some_and(|path| path.starts_with('/'));
    if !file && (!url.starts_with("https://") || host_of(url).is_none()) {
        return refuse("distribution.url", format!("{url:?} is neither https:// nor file:///"));
    }
    if sha256.len() != 64 || !sha256.chars().all(|c| c.is_ascii_hexdigit()) {
        return refuse("distribution.sha256", "it is not 64 hexadecimal digits");
    }
    Ok(())
}

/// Host and port of an HTTP address, which may have a path.
pub fn host_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = rest.split_once('/').map_or(rest, |(host, _)| host);
    let clean = !url.chars().any(|c| c.is_control() || c.is_whitespace());
    (clean && is_authority(host)).then_some(host)
}

/// `host`, `host:port`, `[v6]:port`.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("v6", port.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    !host.is_empty()
        && host.chars().all(fits)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_hosts_with_or_without_a_port() {
        for good in ["a", "a.example:5000", "10.0.0.1:1", "[fd00::1]:5000", "[::1]"] {
            assert!(is_authority(good), "{good}");
        }
        for bad in ["", ":1", "a:", "a:0", "a:65536", "http://a", "a/b", "[::1", "[x]:1", "a b"] {
            assert!(!is_authority(bad), "{bad}");
        }
        assert_eq!(host_of("https://a.example:1/v2"), Some("a.example:1"));
        assert_eq!(host_of("https://a b"), None);
    }

    #[test]
    fn versions_cannot_leave_their_folder() {
        for version in ["", ".", "..", "../x", "a/b", "a b", &"a".repeat(65)] {
            let wrong = DistributionArtifact {
                version: version.into(),
                url: "file:///k3s".into(),
                sha256: "0".repeat(64),
            };
            assert_eq!(artifact(&wrong).unwrap_err().field, "distribution.version");
        }
    }
}
