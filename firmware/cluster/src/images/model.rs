//! Values: what an image is to the runtime, what is pinned, how far a pull is. Pure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What an image's name stands for: its manifest or index (OCI image specification, descriptor).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Kind of the manifest.
    pub media_type: String,
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// Bytes of the manifest itself.
    pub size: u64,
}

/// How far the pull of one image is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The image, as it was asked for.
    pub image: String,
    /// Bytes that are here.
    pub done_bytes: u64,
    /// Bytes in all, compressed as they are fetched; 0 until the manifest is known.
    pub total_bytes: u64,
}

/// How far a node is with all images of a release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Images that are there.
    pub images_done: usize,
    /// Images of the release.
    pub images: usize,
    /// Bytes that were fetched of the images that were pulled.
    pub done_bytes: u64,
    /// Their bytes in all, as far as they are known.
    pub total_bytes: u64,
}

impl fmt::Display for Totals {
    /// `3/5 images, 41 of 120 MiB`, as the Node's annotation has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} images", self.images_done, self.images)?;
        if self.total_bytes > 0 {
            // Up, so that a small image is not 0 of 0; what is not whole never reads as whole.
            let total = self.total_bytes.div_ceil(MIB);
            let done = if self.done_bytes >= self.total_bytes {
                total
            } else {
                (self.done_bytes / MIB).min(total.saturating_sub(1))
            };
            write!(f, ", {done} of {total} MiB")?;
        }
        Ok(())
    }
}

const MIB: u64 = 1 << 20;

/// The images that a lease holds for a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// The release's digest.
    pub release: String,
    /// Its images by their whole names.
    pub images: BTreeMap<String, Descriptor>,
    /// Whether the lease holds all of them; a pin that was interrupted does not.
    pub complete: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(images_done: usize, done_bytes: u64, total_bytes: u64) -> String {
        Totals { images_done, images: 5, done_bytes, total_bytes }.to_string()
    }

    #[test]
    fn people_read_it() {
        assert_eq!(shown(3, 41 * MIB + 5, 120 * MIB), "3/5 images, 41 of 120 MiB");
        assert_eq!(shown(5, 0, 0), "5/5 images");
        assert_eq!(shown(0, 1, 2), "0/5 images, 0 of 1 MiB");
        assert_eq!(shown(5, 2, 2), "5/5 images, 1 of 1 MiB");
    }

    proptest! {
        #[test]
        fn only_what_is_whole_reads_as_whole(done in 0u64..1 << 40, more in 1u64..1 << 30) {
            let text = shown(0, done, done + more);
            let (have, of) = text.trim_start_matches("0/5 images, ").trim_end_matches(" MiB").split_once(" of ").unwrap();
            prop_assert!(have.parse::<u64>().unwrap() < of.parse::<u64>().unwrap());
        }
    }
}
