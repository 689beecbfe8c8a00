//! What an image consists of, read from its manifest, and how much of that is here. Pure.
//!
//! Readers ignore what they do not know: manifests of the OCI and of Docker (schema 2) have the
//! same fields here. An index names manifests and no layers, so it adds nothing.

use serde::Deserialize;
use std::collections::BTreeMap;

/// Larger content is a layer and is not read as a manifest; containerd's own limit for manifests
/// is 8 MiB, registries' 4 MiB.
pub(super) const MANIFEST_MAX_BYTES: u64 = 4 << 20;

/// Other parts of an image are small JSON as well (its configuration), and anybody may have put
/// fields into them; only what has all of these is a manifest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    config: Part,
    layers: Vec<Part>,
}

/// The one that has these fields (OCI image specification, manifest; Docker's schema 2).
const SCHEMA_VERSION: u32 = 2;
/// What a size may be; nothing that a node can hold is larger, and sums of such sizes are numbers.
const PART_MAX_BYTES: u64 = 1 << 40;

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
        if let Ok(Manifest { schema_version: SCHEMA_VERSION, config, layers }) =
            serde_json::from_slice(content)
        {
            let parts = std::iter::once(config).chain(layers);
            self.0.extend(parts.map(|part| (part.digest, part.size.min(PART_MAX_BYTES))));
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
        (sum(done), sum(self.0.values().copied()))
    }
}

/// What others write down must not end this program by being large.
fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
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
        // A configuration with a foreign field.
        parts.add(br#"{"architecture": "amd64", "layers": [{"digest": "sha256:x", "size": 7}]}"#);
        parts.add(
            br#"{"schemaVersion": 2, "config": {"digest": "sha256:c", "size": 1}, "layers": [{"digest": "sha256:a", "size": 10}, {"digest": "sha256:b", "size": 100}], "annotations": {}}"#,
        );
        let begun = BTreeMap::from([("sha256:b".to_owned(), 40)]);
        assert_eq!(parts.bytes(|digest| digest == "sha256:a", &begun), (50, 111));
        assert_eq!(parts.bytes(|_| true, &begun), (111, 111));
    }

    #[test]
    fn sizes_that_no_disk_has_are_no_harm() {
        let layer = |n: u32| format!(r#"{{"digest": "sha256:{n}", "size": {}}}"#, u64::MAX);
        let layers: Vec<String> = (0..10_000).map(layer).collect();
        let manifest = format!(
            r#"{{"schemaVersion": 2, "config": {}, "layers": [{}]}}"#,
            layer(0),
            layers.join(",")
        );
        let mut parts = Parts::default();
        parts.add(manifest.as_bytes());
        let begun = BTreeMap::from([("sha256:1".to_owned(), u64::MAX)]);
        let (done, total) = parts.bytes(|digest| digest == "sha256:2", &begun);
        assert!(0 < done && done < total, "{done} of {total}");
        assert_eq!(sum([u64::MAX, 1].into_iter()), u64::MAX);
    }

    #[test]
    fn ingests_name_what_they_fetch() {
        assert_eq!(digest_of_ingest("layer-sha256:ab"), Some("sha256:ab"));
        assert_eq!(digest_of_ingest("something"), None);
    }
}
