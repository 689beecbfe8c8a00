//! What must survive `kill -9` at any moment: which release is good, where an attempt is, what
//! failed before. One small file in two copies ([`holdfast_durable::Slots`]), and the text of
//! releases beside it, found by their digest.
//!
//! A journal that is damaged in both copies reads as an empty one; the site's own record then
//! says what is in force. A release whose text does not have its digest any more counts as not
//! there.

use super::model::{Good, Inventory, Strayed};
use super::target::MESSAGE_BYTES;
use crate::paths::ClusterPaths;
use holdfast_api::kubernetes::{FailedRelease, ReleaseRef, release_digest};
use holdfast_api::{Reason, brief};
use holdfast_durable::{Loaded, SlotError, Slots, WriteError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// How many failed versions are remembered.
pub const MAX_FAILED: usize = 10;

/// Why state cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The journal cannot be written.
    #[error("cannot write the journal of releases")]
    Store(#[source] SlotError),
    /// A release's text cannot be kept.
    #[error("cannot keep the release {digest}")]
    Keep {
        /// Its digest.
        digest: String,
        /// Why not.
        #[source]
        source: WriteError,
    },
    /// Old releases cannot be removed.
    #[error("cannot remove old releases in {}", path.display())]
    Sweep {
        /// Their folder.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl JournalError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        match self {
            JournalError::Store(SlotError::Write { source, .. })
            | JournalError::Keep { source, .. }
                if source.disk_full() =>
            {
                Reason::StateDiskFull
            }
            JournalError::Store(_) | JournalError::Keep { .. } | JournalError::Sweep { .. } => {
                Reason::StateUnwritable
            }
        }
    }
}

/// Which way an attempt goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// To the wanted release.
    #[default]
    Forward,
    /// To the last good one. Also a way that only later versions know: what they did is taken back.
    #[serde(other)]
    Back,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// One word for it.
    pub reason: Reason,
    /// In detail; at most [`MESSAGE_BYTES`].
    pub message: String,
}

impl Cause {
    /// A cause, in whoever's words, cut where they are long.
    pub fn new(reason: Reason, message: impl AsRef<str>) -> Self {
        Cause { reason, message: brief(message.as_ref(), MESSAGE_BYTES) }
    }
}

/// An attempt that is under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Attempt {
    /// The release that is tried, or taken back.
    pub release: ReleaseRef,
    /// Which way.
    pub direction: Direction,
    /// Steps of the plan that are done. The plan itself is made anew from the rest of the journal.
    pub done: usize,
    /// A hash of the plan as it is printed; `done` counts only for the same plan.
    pub plan: u64,
    /// Objects that could not be removed.
    pub unpruned: Inventory,
    /// Why it goes back; none when something else was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

/// Everything that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// The last good release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub good: Option<Good>,
    /// The site is not as `good` says; it is applied once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strayed: Option<Strayed>,
    /// Objects of ours that may be there and are not part of `good`.
    pub leftovers: Inventory,
    /// Something on the site may have been changed since `good` was in force.
    pub touched: bool,
    /// There may be a release in force of which nobody knows: nothing is removed to go back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
    /// What is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// What failed, newest last, at most [`MAX_FAILED`].
    pub failed: Vec<FailedRelease>,
}

/// A release as it came, kept to be applied without the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Which.
    pub release: ReleaseRef,
    /// YAML by file name.
    pub manifests: BTreeMap<String, String>,
    /// Seconds that an object may take; 0 when the release does not say.
    pub timeout_secs: u32,
}

/// The files.
#[derive(Debug, Clone)]
pub struct Journal {
    slots: Slots,
    releases: PathBuf,
}

impl Journal {
    /// The journal of this node.
    pub fn new(paths: &ClusterPaths) -> Self {
        let dir = paths.state_dir();
        Journal {
            slots: Slots::new(dir.join("release.json"), 0o600),
            releases: dir.join("releases"),
        }
    }

    /// What was kept last; empty when there is nothing that can be read.
    pub fn load(&self) -> Record {
        match self.slots.load() {
            Ok(Loaded::Empty) => Record::default(),
            Ok(Loaded::Newest(record)) => record,
            Ok(Loaded::LastGood(record, why)) => {
                tracing::warn!(
                    why,
                    "the newest journal of releases is damaged; the one before it is used"
                );
                record
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(
                    error,
                    "the journal of releases is lost; the site's record is used"
                );
                Record::default()
            }
        }
    }

    /// Keeps `record`.
    ///
    /// # Errors
    /// [`JournalError::Store`]; what was kept before still is.
    pub fn store(&self, record: &Record) -> Result<(), JournalError> {
        self.slots.store(record).map_err(JournalError::Store)
    }

    /// Keeps a release's text; its digest is that of its manifests.
    ///
    /// # Errors
    /// [`JournalError::Keep`].
    pub fn keep(&self, kept: &Kept) -> Result<(), JournalError> {
        let digest = &kept.release.digest;
        let text = serde_json::to_vec(kept).expect("texts and numbers have a JSON form");
        // Manifests may hold secrets.
        holdfast_durable::write_if_changed(&self.place(digest), &text, 0o600)
            .map(|_| ())
            .map_err(|source| JournalError::Keep { digest: digest.clone(), source })
    }

    /// The release with this digest, when it is kept and whole.
    pub fn kept(&self, digest: &str) -> Option<Kept> {
        if !is_digest(digest) {
            return None;
        }
        let kept: Kept = serde_json::from_slice(&std::fs::read(self.place(digest)).ok()?).ok()?;
        (release_digest(&kept.manifests) == digest).then_some(kept)
    }

    /// Removes releases other than these.
    ///
    /// # Errors
    /// [`JournalError::Sweep`].
    pub fn sweep(&self, keep: &[&str]) -> Result<(), JournalError> {
        let failed = |source| JournalError::Sweep { path: self.releases.clone(), source };
        let entries = match std::fs::read_dir(&self.releases) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| is_digest(name) && !keep.contains(&name)) {
                std::fs::remove_dir_all(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn place(&self, digest: &str) -> PathBuf {
        self.releases.join(digest).join("release.json")
    }
}

/// 64 hexadecimal digits: what comes from outside names a folder here.
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::paths::Root;

    fn journal() -> (tempfile::TempDir, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(&ClusterPaths::new(&Root::new(dir.path())));
        (dir, journal)
    }

    fn kept(text: &str) -> Kept {
        let manifests = BTreeMap::from([("a.yaml".to_owned(), text.to_owned())]);
        let digest = release_digest(&manifests);
        let release = ReleaseRef { digest, ..ReleaseRef::default() };
        Kept { release, manifests, timeout_secs: 0 }
    }

    #[test]
    fn what_is_stored_is_loaded_and_damage_costs_one_generation() {
        let (dir, journal) = journal();
        assert_eq!(journal.load(), Record::default());
        let one = Record { strayed: Some(Strayed::Objects), ..Record::default() };
        journal.store(&one).unwrap();
        journal.store(&Record::default()).unwrap();
        assert_eq!(journal.load(), Record::default());
        let path = dir.path().join("var/lib/holdfast/cluster/release.json");
        holdfast_durable::write(&path, b"junk", 0o600).unwrap();
        assert_eq!(journal.load(), one);
        holdfast_durable::write(&path.with_extension("json.last"), b"junk", 0o600).unwrap();
        assert_eq!(journal.load(), Record::default());
    }

    #[test]
    fn releases_are_found_by_digest_and_damaged_ones_are_not() {
        let (_dir, journal) = journal();
        let (one, two) = (kept("one"), kept("two"));
        journal.keep(&one).unwrap();
        journal.keep(&two).unwrap();
        assert_eq!(journal.kept(&one.release.digest), Some(one.clone()));
        assert_eq!(journal.kept("../../etc/passwd"), None);
        let damaged = Kept { release: one.release.clone(), ..kept("three") };
        let text = serde_json::to_vec(&damaged).unwrap();
        holdfast_durable::write(&journal.place(&one.release.digest), &text, 0o600).unwrap();
        assert_eq!(journal.kept(&one.release.digest), None);
        journal.keep(&one).unwrap();
        journal.sweep(&[&two.release.digest]).unwrap();
        assert_eq!(journal.kept(&one.release.digest), None);
        assert_eq!(journal.kept(&two.release.digest), Some(two));
    }
}
