//! `Release`: a set of manifests that sites bring onto their Kubernetes.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a release holds. It never changes: another content is another release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReleaseSpec {
    /// Version, for people, such as `2026.11.1`.
    pub version: String,
    /// Manifests by file name: YAML, several documents a file allowed. At most 1 MiB in all.
    pub manifests: BTreeMap<String, String>,
    /// Seconds that one object may take until it is ready; 300 when 0. An object's annotation
    /// `holdfast.dev/timeout` goes before it.
    pub timeout_secs: u32,
}

/// What the controller says of a release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReleaseStatus {
    /// [`crate::kubernetes::release_digest`] of the manifests.
    pub digest: String,
}
