//! The datastore put back out of a snapshot, so that a `kill -9` anywhere ends in the old datastore
//! or in the new one.
//!
//! ```text
//!  Checked → SettingAside → Making → Trying → Keeping → Forgetting → (the new one)
//!                 └────────────┴────────┴──→ PuttingBack → (the old one)
//! ```
//!
//! Everything is checked before [`Phase::SettingAside`], the first phase that touches anything.
//! The old datastore is renamed and stays beside the new one until the API server is ready on the
//! new one. The phase is on disk before its work begins ([`Journal`]), and the work of every phase
//! can be done twice. [`apply::recover`] carries on at the next start; a restore that was begun is
//! carried to its end, but not more often than [`ATTEMPTS`] times. What the snapshot says of reboots
//! that were under way when it was taken is taken back at the end ([`crate::nodes::restored`]). It is
//! written down when the new datastore first answers, so that reboots that began later are not taken
//! for those, nor those for later ones. When it does not answer that for long, all of them stay
//! and that is told: whoever asks weeks later cannot tell them apart any more.
//!
//! Left out: the other servers of a cluster, which have to be joined anew afterwards (k3s
//! documentation, "etcd-snapshot", "Restoring snapshots").

pub mod apply;
mod places;

use super::error::SnapshotError;
use crate::nodes::restored::Reboots;
use crate::paths::ClusterPaths;
use holdfast_api::kubernetes::Secret;
use holdfast_durable::{Loaded, Slots};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How often a phase that never ended is begun anew before the old datastore is put back.
pub const ATTEMPTS: u32 = 3;

/// What to restore. Identities are given as `age-keygen` wrote them, and never reach the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// One of this node's, by name; the newest good one for an empty name.
    Local(String),
    /// A snapshot of etcd in any file.
    File(PathBuf),
    /// A portable one in a file.
    Portable {
        /// The file.
        file: PathBuf,
        /// The identity that belongs to the site's recovery key (`AGE-SECRET-KEY-1…`).
        identity: Secret,
    },
    /// A portable one in the storage.
    Stored {
        /// Its object below the site's folder, `<node>/<name>`.
        object: String,
        /// The identity, as above.
        identity: Secret,
    },
}

/// What came of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Name of the snapshot.
    pub snapshot: String,
    /// When it was taken; not known of a bare file.
    pub taken: Option<Timestamp>,
    /// Milliseconds from the stop of the old datastore to the ready API server.
    pub took_ms: u64,
    /// Why it is not known which reboot locks and cordons came with the snapshot; all stay then.
    pub reboots_unknown: Option<String>,
}

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// The snapshot is whole and fits; nothing was touched.
    Checked,
    /// What is replaced is renamed.
    SettingAside,
    /// The distribution makes the new datastore.
    Making,
    /// The distribution is started on it.
    Trying,
    /// It is ready; the old one goes.
    Keeping,
    /// Reboot locks and cordons of the snapshot's time go.
    Forgetting,
    /// It is not; the old one takes its place again.
    PuttingBack,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Phase; 7] = [
        Phase::Checked,
        Phase::SettingAside,
        Phase::Making,
        Phase::Trying,
        Phase::Keeping,
        Phase::Forgetting,
        Phase::PuttingBack,
    ];

    /// What follows when its work is done (`Ok`) or failed; none at the end.
    pub fn after(self, done: bool) -> Option<Phase> {
        match (self, done) {
            (Phase::Checked, true) => Some(Phase::SettingAside),
            (Phase::SettingAside, true) => Some(Phase::Making),
            (Phase::Making, true) => Some(Phase::Trying),
            (Phase::Trying, true) => Some(Phase::Keeping),
            (Phase::SettingAside | Phase::Making | Phase::Trying, false) => {
                Some(Phase::PuttingBack)
            }
            // A new datastore that runs is not given up for old files that cannot be removed.
            (Phase::Keeping, _) => Some(Phase::Forgetting),
            // Neither for old locks, and there is nothing behind the old one.
            (Phase::Checked, false) | (Phase::Forgetting | Phase::PuttingBack, _) => None,
        }
    }

    /// Where to carry on when its work was interrupted for the `attempts`th time.
    pub fn resumed(self, attempts: u32) -> Phase {
        match self {
            Phase::Checked | Phase::SettingAside | Phase::Making | Phase::Trying
                if attempts >= ATTEMPTS =>
            {
                Phase::PuttingBack
            }
            phase => phase,
        }
    }
}

/// Something that a restore replaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Where it is.
    pub place: PathBuf,
    /// Whether there was one before.
    pub had: bool,
    /// What takes its place; the distribution makes it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<PathBuf>,
}

impl Item {
    /// Where the old one waits.
    pub fn aside(&self) -> PathBuf {
        let mut name = self.place.file_name().unwrap_or_default().to_os_string();
        name.push(".before-restore");
        self.place.with_file_name(name)
    }
}

/// A restore on its way, as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    /// How far it is.
    pub phase: Phase,
    /// How often it was carried on after an interruption.
    #[serde(default)]
    pub attempts: u32,
    /// Name of the snapshot.
    pub snapshot: String,
    /// When it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<Timestamp>,
    /// The snapshot of etcd.
    pub file: PathBuf,
    /// What is replaced.
    pub items: Vec<Item>,
    /// What the datastore told of reboots when it first answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboots: Option<Reboots>,
}

/// The journal's place.
pub(super) fn slots(paths: &ClusterPaths) -> Slots {
    Slots::new(paths.state_dir().join("restore.json"), 0o600)
}

/// The restore that was begun and did not end. The distribution is to be kept stopped until
/// [`apply::recover`] has looked at it.
///
/// # Errors
/// Both copies of the journal are damaged.
pub fn pending(paths: &ClusterPaths) -> Result<Option<Journal>, SnapshotError> {
    match slots(paths).load::<Option<Journal>>().map_err(SnapshotError::Journal)? {
        Loaded::Empty => Ok(None),
        Loaded::Newest(journal) | Loaded::LastGood(journal, _) => Ok(journal),
    }
}

#[cfg(test)]
mod tests;
