//! What an image consists of, read from its manifest, and how much of that is here. Pure.
//!
//! Readers ignore what they do not know: manifests of the OCI and of Docker (schema 2) have the
//! same fields here. An index names manifests and no layers, so it adds nothing.

use serde::Deserialize;
use std::collections::BTreeMap;

/// Larger content is a layer and is not read as a manifest; containerd's own limit for manifests
/// is 8 MiB, registries' 4 MiB.
pub(super) const MANIFEST_MAX_BYTES: u64 = 4 << 20;

#[derive(Deserialize)]
struct Manifest {
    config: Option<Part>,
    #[serde(default)]
    layers: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    digest: String,
    #[serde(default)]
    size: u64,
}

/// Parts of an image by digest, with their sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parts(BTreeMap<String, u64>);

impl Parts {
    /// Adds what a manifest names; other content adds nothing.
    pub(super) fn add(&mut self, content: &[u8]) {
        if let Ok(manifest) = serde_json::from_slice::<Manifest>(content) {
            let parts = manifest.config.into_iter().chain(manifest.layers);
            self.0.extend(parts.map(|part| (part.digest, part.size)));
        }
    }

    /// Bytes that are here, and bytes in all. `whole` tells whether a digest is here whole, else
    /// `begun` has what is there of it.
    pub(super) fn bytes(
        &self,
        whole: impl Fn(&str) -> bool,
        begun: &BTreeMap<String, u64>,
    ) -> (u64, u64) {
        let done = self.0.iter().map(|(digest, size)| match whole(digest) {
            true => *size,
            false => begun.get(digest).copied().unwrap_or(0).min(*size),
        });
        (done.sum(), self.0.values().sum())
    }
}

/// The digest in the name that containerd gives to something it fetches, `layer-sha256:…`.
pub(super) fn digest_of_ingest(reference: &str) -> Option<&str> {
    reference.split_once('-').map(|(_, digest)| digest).filter(|digest| digest.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted() {
        let mut parts = Parts::default();
        parts.add(br#"{"manifests": [{"digest": "sha256:m", "size": 9}]}"#);
        assert_eq!(parts.bytes(|_| true, &BTreeMap::new()), (0, 0));
        parts.add(b"\x1f\x8b not a manifest");
        parts.add(
            br#"{"config": {"digest": "sha256:c", "size": 1}, "layers": [{"digest": "sha256:a", "size": 10}, {"digest": "sha256:b", "size": 100}], "annotations": {}}"#,
        );
        let begun = BTreeMap::from([("sha256:b".to_owned(), 40)]);
        assert_eq!(parts.bytes(|digest| digest == "sha256:a", &begun), (50, 111));
        assert_eq!(parts.bytes(|_| true, &begun), (111, 111));
    }

    #[test]
    fn ingests_name_what_they_fetch() {
        assert_eq!(digest_of_ingest("layer-sha256:ab"), Some("sha256:ab"));
        assert_eq!(digest_of_ingest("something"), None);
    }
}
