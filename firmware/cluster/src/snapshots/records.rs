//! What is known of each snapshot on this node: one small file per snapshot, beside nobody else's.
//!
//! The snapshots themselves are in the distribution's folder; the records are below our state. A
//! snapshot without a record (the state was lost) gets one when it is found whole.

use super::error::{SnapshotError, io_error};
use super::etcd_file;
use super::model::{Local, Stamp, Why};
use crate::paths::ClusterPaths;
use holdfast_api::kubernetes::SnapshotInfo;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Number of objects by kind, such as `configmaps`; what must be there after a restore.
pub type Inventory = BTreeMap<String, u64>;

/// What is known of a snapshot. Also the first file of a portable one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Name of the snapshot's file.
    pub name: String,
    /// Its place in the order.
    pub stamp: Stamp,
    /// When it was taken, by the clock of that moment.
    pub taken: Timestamp,
    /// Why.
    pub why: Why,
    /// Site.
    #[serde(default)]
    pub site: String,
    /// Node.
    #[serde(default)]
    pub node: String,
    /// Version of the distribution; empty when it is not known.
    #[serde(default)]
    pub version: String,
    /// Length of the file.
    pub bytes: u64,
    /// SHA-256 of the file, hex.
    pub sha256: String,
    /// What it holds at least.
    #[serde(default)]
    pub inventory: Inventory,
    /// Why it cannot be used, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

impl Record {
    /// For the state that others see.
    pub fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            name: self.name.clone(),
            taken: self.taken,
            bytes: self.bytes,
            place: "local".into(),
            portable: false,
        }
    }
}

/// The records of a node.
#[derive(Debug, Clone)]
pub struct Records {
    snapshots: PathBuf,
    records: PathBuf,
}

impl Records {
    /// At their places.
    pub fn new(paths: &ClusterPaths) -> Self {
        Records { snapshots: paths.snapshot_dir(), records: paths.state_dir().join("snapshots") }
    }

    /// The folder of the snapshots.
    pub fn snapshot_dir(&self) -> &Path {
        &self.snapshots
    }

    /// The file of a snapshot.
    pub fn snapshot(&self, name: &str) -> PathBuf {
        self.snapshots.join(name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.records.join(format!("{name}.json"))
    }

    /// Keeps what is known of one.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn keep(&self, record: &Record) -> Result<(), SnapshotError> {
        let text = serde_json::to_vec_pretty(record).unwrap_or_default();
        holdfast_durable::write(&self.path(&record.name), &text, 0o600)
            .map_err(SnapshotError::Write)
    }

    /// What is known of one; none when there is no readable record.
    pub fn read(&self, name: &str) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.path(name)).ok()?).ok()
    }

    /// Removes a snapshot of ours with its record; one that is gone already is fine.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn delete(&self, name: &str) -> Result<(), SnapshotError> {
        debug_assert!(Stamp::of_name(name).is_some(), "only ours are deleted");
        holdfast_durable::remove(&self.snapshot(name)).map_err(SnapshotError::Write)?;
        holdfast_durable::remove(&self.path(name)).map(drop).map_err(SnapshotError::Write)
    }

    /// Ours, newest first, each with its record; new ones are looked at, which can take a second
    /// each. Records without a snapshot go. Blocks.
    ///
    /// # Errors
    /// The folders cannot be read.
    pub fn observe(&self) -> Result<Vec<Record>, SnapshotError> {
        let mut found = Vec::new();
        for (name, bytes, modified) in list(&self.snapshots)? {
            let Some(stamp) = Stamp::of_name(&name) else { continue };
            let record = match self.read(&name).filter(|record| record.name == name) {
                Some(record) if record.damaged.is_some() || record.bytes == bytes => record,
                Some(mut record) => {
                    record.damaged = Some(format!("it had {} bytes and has {bytes}", record.bytes));
                    self.keep(&record)?;
                    record
                }
                None => {
                    let record = self.look_at(name, stamp, bytes, modified);
                    self.keep(&record)?;
                    record
                }
            };
            found.push(record);
        }
        for (file, _, _) in list(&self.records)? {
            let known = file
                .strip_suffix(".json")
                .is_some_and(|name| found.iter().any(|record| record.name == name));
            if !known && file.starts_with(super::model::MARK) {
                let path = self.records.join(&file);
                holdfast_durable::remove(&path).map_err(SnapshotError::Write)?;
            }
        }
        found.sort_by_key(|record| std::cmp::Reverse(record.stamp));
        Ok(found)
    }

    fn look_at(&self, name: String, stamp: Stamp, bytes: u64, taken: Timestamp) -> Record {
        let verified = etcd_file::verify(&self.snapshot(&name));
        Record {
            name,
            stamp,
            taken,
            why: Why::Asked,
            site: String::new(),
            node: String::new(),
            version: String::new(),
            bytes,
            sha256: verified.as_ref().map(|whole| whole.sha256.clone()).unwrap_or_default(),
            inventory: Inventory::new(),
            damaged: verified.err().map(|error| error.to_string()),
        }
    }
}

/// What a plan looks at.
pub fn local(records: &[Record]) -> Vec<Local> {
    let of = |record: &Record| Local {
        name: record.name.clone(),
        stamp: record.stamp,
        taken: record.taken,
        bytes: record.bytes,
        good: record.damaged.is_none(),
    };
    records.iter().map(of).collect()
}

/// Plain files of a folder: name, length, last change.
fn list(dir: &Path) -> Result<Vec<(String, u64, Timestamp)>, SnapshotError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("read", dir))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("read", dir))?;
        // Another program may remove a file between the two calls.
        let Ok(data) = entry.metadata() else { continue };
        if data.is_file() {
            let modified = data.modified().ok().and_then(|at| Timestamp::try_from(at).ok());
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((name, data.len(), modified.unwrap_or(Timestamp::UNIX_EPOCH)));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::paths::Root;

    fn records(dir: &Path) -> Records {
        Records::new(&ClusterPaths::new(&Root::new(dir)))
    }

    fn put(records: &Records, name: &str, content: &[u8]) {
        holdfast_durable::write(&records.snapshot(name), content, 0o600).unwrap();
    }

    #[test]
    fn snapshots_without_a_record_are_looked_at_and_foreign_ones_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(dir.path());
        assert_eq!(records.observe().unwrap(), []);
        put(&records, "holdfast-0000000002-n-1", &etcd_file::sample(3));
        put(&records, "holdfast-0000000001-n-1", b"torn");
        put(&records, "on-demand-n-1", b"somebody else's");
        let found = records.observe().unwrap();
        assert_eq!(found.iter().map(|one| one.stamp.0).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(found[0].damaged, None);
        assert!(found[1].damaged.as_deref().unwrap().contains("length of 4 bytes"));
        assert_eq!(records.observe().unwrap(), found);
    }

    #[test]
    fn a_snapshot_that_changed_its_length_is_damaged_and_a_record_alone_goes() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(dir.path());
        let name = "holdfast-0000000001-n-1";
        put(&records, name, &etcd_file::sample(3));
        assert_eq!(records.observe().unwrap()[0].damaged, None);
        put(&records, name, &etcd_file::sample(3)[..4096]);
        let found = records.observe().unwrap();
        assert_eq!(found[0].damaged.as_deref(), Some("it had 12320 bytes and has 4096"));
        fs::remove_file(records.snapshot(name)).unwrap();
        assert_eq!(records.observe().unwrap(), []);
        assert_eq!(records.read(name), None);
    }

    #[test]
    fn deleting_twice_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(dir.path());
        put(&records, "holdfast-0000000001-n-1", &etcd_file::sample(3));
        records.observe().unwrap();
        records.delete("holdfast-0000000001-n-1").unwrap();
        records.delete("holdfast-0000000001-n-1").unwrap();
        assert_eq!(records.observe().unwrap(), []);
    }
}
