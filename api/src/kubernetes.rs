//! A site's Kubernetes: what a node is asked to run, and what it reports of it.
//!
//! Durations are whole seconds or hours as the names say. A release travels by name and digest
//! ([`ReleaseRef`]); its manifests are fetched apart, since they change at another pace.

use crate::Reason;
use jiff::Timestamp;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How a node takes part in its site's Kubernetes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KubernetesRole {
    /// The first server: makes the datastore when there is none (k3s: `cluster-init`).
    #[default]
    ClusterInit,
    /// A further server; joins the datastore.
    Server,
    /// Runs workloads only.
    Agent,
}

impl KubernetesRole {
    /// Whether the node holds the datastore and the API server.
    pub fn is_server(self) -> bool {
        self != KubernetesRole::Agent
    }
}

/// A secret text that stays out of logs.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// Other places to pull a registry's images from, asked in this order before the registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegistryMirror {
    /// Host of the registry as it stands in image names, such as `registry.example:5000`.
    pub registry: String,
    /// URLs, such as `http://100.64.0.1:5000`.
    pub endpoints: Vec<String>,
}

/// The program of a certain version, as an artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DistributionArtifact {
    /// Version, such as `v1.33.1+k3s1`.
    pub version: String,
    /// Where it is: `https://…` or `file:///…`.
    pub url: String,
    /// SHA-256 of the program, hex.
    pub sha256: String,
}

/// S3-compatible storage for snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct S3Target {
    /// `https://…`; plain HTTP is for storage inside the site.
    pub endpoint: String,
    /// Bucket.
    pub bucket: String,
    /// Folder in the bucket; may be empty.
    pub folder: String,
    /// Region; `us-east-1` when empty.
    pub region: String,
    /// Key id.
    pub access_key_id: String,
    /// Secret key.
    pub secret_access_key: Secret,
}

/// When snapshots are taken and where they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotPolicy {
    /// Hours between snapshots, 1 to 168.
    pub interval_hours: u32,
    /// How many are kept, here and in the storage each; 1 to 100.
    pub keep: u32,
    /// Storage beside the node's disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Target>,
    /// The site's recovery key, an age recipient (`age1…`). Without one nothing leaves the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_key: Option<String>,
    /// Hours between drills (the newest snapshot is restored into a datastore that is thrown
    /// away); none when 0.
    pub drill_hours: u32,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        SnapshotPolicy {
            interval_hours: 12,
            keep: 5,
            s3: None,
            recovery_key: None,
            drill_hours: 168,
        }
    }
}

/// Which release a site is to run. The digest is that of [`release_digest`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReleaseRef {
    /// Name of the `Release` on the controller.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// SHA-256 of its content, hex.
    pub digest: String,
    /// Grows when an operator asks for a version again that failed before.
    pub force: u32,
}

/// SHA-256 of a release's content: every file's name and text, each preceded by its length in
/// eight bytes, big-endian, in the order of the names; hex.
pub fn release_digest(manifests: &BTreeMap<String, String>) -> String {
    let mut hash = Context::new(&SHA256);
    for text in manifests.iter().flat_map(|(name, text)| [name, text]) {
        hash.update(&(text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    crate::hex(hash.finish().as_ref())
}

/// What a node is asked to do in its site's Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubernetesIntent {
    /// How the node takes part.
    pub role: KubernetesRole,
    /// The server to join, `https://HOST:6443`; for all but the first server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Addresses of all servers of the site, for what nodes ask of each other.
    pub servers: Vec<std::net::IpAddr>,
    /// What nodes join with; the same on every node of the site.
    pub token: Secret,
    /// The node's address in the cluster; k3s finds one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_ip: Option<std::net::IpAddr>,
    /// Labels of the node, over those of the profile.
    pub labels: BTreeMap<String, String>,
    /// Taints of the node beside those of the profile, as `key=value:Effect`.
    pub taints: Vec<String>,
    /// Parts of the distribution that are left out, beside those of the profile.
    pub disable: Vec<String>,
    /// Registry mirrors.
    pub mirrors: Vec<RegistryMirror>,
    /// The distribution's program. When absent, nothing is replaced: the machine's own, or the one
    /// that was named last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distribution: Option<DistributionArtifact>,
    /// Snapshots of the datastore.
    pub snapshots: SnapshotPolicy,
    /// What runs on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseRef>,
    /// Nodes that the site has, by name; others are removed from its Kubernetes when they have
    /// been silent for long.
    pub nodes: Vec<String>,
    /// Nodes that were taken from the site, by name: they are removed at once. A name is not given
    /// to another node of the same cluster.
    pub retired: Vec<String>,
    /// The site has one server and no more: nobody else holds its datastore.
    pub single_server: bool,
}

/// State of a part of the cluster or a condition of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentState {
    /// Such as `apiserver`, `etcd`, `kubelet`; or a node condition such as `DiskPressure`.
    pub name: String,
    /// All is well with it.
    pub ok: bool,
    /// In its own words.
    #[serde(default)]
    pub message: String,
}

/// A pod that does not run as it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodProblem {
    /// `namespace/name`.
    pub pod: String,
    /// Kubernetes' word, such as `ImagePullBackOff`.
    pub reason: String,
    /// Ours.
    pub code: Reason,
    /// In detail.
    #[serde(default)]
    pub message: String,
}

/// Pods of the site, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCounts {
    /// Ready, or ended well.
    pub deployed: u32,
    /// On their way.
    pub in_progress: u32,
    /// Failed.
    pub failed: u32,
    /// The failed ones, at most 20.
    pub problems: Vec<PodProblem>,
}

/// Where a release is.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum ReleasePhase {
    /// Nothing was ever applied.
    #[default]
    None,
    /// Waits to begin: for the controller, the API server, another node.
    Waiting,
    /// Checks before anything is touched.
    Preflight,
    /// Images are pulled on every node.
    PrePull,
    /// Objects are applied and waited for.
    Applying,
    /// Everything is looked at once more.
    Verifying,
    /// What is no longer part of it is removed.
    Pruning,
    /// In force.
    Committed,
    /// The last good one is put back.
    RollingBack,
    /// The last good one is in force again; this version is refused until forced.
    RolledBack,
    /// Refused without a trial: it failed before, or cannot be read.
    Refused,
}

impl ReleasePhase {
    /// Whether something is done in it, as opposed to waited for or over.
    pub fn is_work(self) -> bool {
        match self {
            ReleasePhase::None
            | ReleasePhase::Waiting
            | ReleasePhase::Committed
            | ReleasePhase::RolledBack
            | ReleasePhase::Refused => false,
            ReleasePhase::Preflight
            | ReleasePhase::PrePull
            | ReleasePhase::Applying
            | ReleasePhase::Verifying
            | ReleasePhase::Pruning
            | ReleasePhase::RollingBack => true,
        }
    }
}

/// A release and its progress.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReleaseState {
    /// The one that is wanted.
    pub wanted: ReleaseRef,
    /// The one in force, the last good one.
    pub good: Option<ReleaseRef>,
    /// Where it is.
    pub phase: ReleasePhase,
    /// Steps that are done, of `steps`.
    pub done: u32,
    /// Steps in all.
    pub steps: u32,
    /// What it does or waits for, for people.
    pub message: String,
    /// Why it does not go on.
    pub reason: Option<Reason>,
    /// Versions that failed, with why; newest last, at most 10.
    pub failed: Vec<FailedRelease>,
    /// When the phase began.
    pub since: Option<Timestamp>,
}

/// A release that was tried and failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedRelease {
    /// Which.
    pub release: ReleaseRef,
    /// Why.
    pub reason: Reason,
    /// In detail.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// A snapshot of the datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotInfo {
    /// File name.
    pub name: String,
    /// When it was taken.
    pub taken: Timestamp,
    /// Bytes on disk or in the storage.
    pub bytes: u64,
    /// `local` or `s3`.
    pub place: String,
    /// Holds what a restore on other hardware needs, encrypted to the recovery key.
    pub portable: bool,
}

/// What a restore drill said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillResult {
    /// The snapshot.
    pub snapshot: String,
    /// When the drill ended.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The datastore came up and had what it should have.
    pub ok: bool,
    /// In detail.
    pub message: String,
}

/// Snapshots and their drills.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotsState {
    /// Newest first.
    pub snapshots: Vec<SnapshotInfo>,
    /// When the next one is due.
    pub next: Option<Timestamp>,
    /// The last drill.
    pub drill: Option<DrillResult>,
    /// Why the last attempt failed.
    pub problem: Option<crate::local::Problem>,
}

/// Where the node's Kubernetes is in its life.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum KubernetesPhase {
    /// None is asked for.
    #[default]
    Off,
    /// Its program is fetched or configured.
    Preparing,
    /// Started; not ready yet.
    Starting,
    /// API server and node are ready.
    Ready,
    /// Was ready and is not now.
    NotReady,
    /// Ended; is started again after a pause.
    Backoff,
    /// A snapshot is put back.
    Restoring,
}

/// What a node reports of Kubernetes.
///
/// Nothing is left out when it is written, for it is part of a merge patch (RFC 7396).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubernetesState {
    /// Where it is.
    pub phase: KubernetesPhase,
    /// Version of the distribution.
    pub version: String,
    /// How the node takes part.
    pub role: KubernetesRole,
    /// Why it is not ready.
    pub reason: Option<Reason>,
    /// In detail.
    pub message: String,
    /// Parts of the control plane.
    pub components: Vec<ComponentState>,
    /// Conditions of this node, as Kubernetes has them; `ok` when it is as it should be.
    pub conditions: Vec<ComponentState>,
    /// Pods on this node.
    pub pods: PodCounts,
    /// The release.
    pub release: ReleaseState,
    /// Snapshots.
    pub snapshots: SnapshotsState,
    /// Milliseconds from start to ready, last time.
    pub ready_after_ms: Option<u64>,
    /// Milliseconds that the last release took, by phase.
    pub release_ms: BTreeMap<String, u64>,
    /// Times that the distribution was started since the manager was.
    pub starts: u32,
    /// Times in that while that it ended by itself: nobody had stopped or restarted it.
    pub ends: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_files_apart_that_join_to_the_same_text() {
        let digest = |files: &[(&str, &str)]| {
            let files = files.iter().map(|(name, text)| ((*name).into(), (*text).into()));
            release_digest(&files.collect())
        };
        let one = digest(&[("a", "bc"), ("d", "e")]);
        assert_eq!(one, digest(&[("d", "e"), ("a", "bc")]));
        assert_ne!(one, digest(&[("ab", "c"), ("d", "e")]));
        assert_ne!(one, digest(&[("a", "bcd"), ("e", "")]));
        assert_eq!(one.len(), 64);
    }

    #[test]
    fn a_join_token_is_not_printed() {
        let intent = KubernetesIntent { token: Secret("K10abc".into()), ..Default::default() };
        assert!(!format!("{intent:?}").contains("K10abc"));
    }
}
