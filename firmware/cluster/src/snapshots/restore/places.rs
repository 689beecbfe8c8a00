//! What a restore does with files. Every piece of work can be done twice.

use super::super::error::{SnapshotError, io_error};
use super::super::files;
use super::{Item, Journal};
use crate::paths::ClusterPaths;
use std::path::{Path, PathBuf};

/// An old datastore without a journal and without a new one is put back: the journal was lost.
pub(super) fn orphan(paths: &ClusterPaths) -> Result<(), SnapshotError> {
    let item = item(paths.data_dir().join("server/db/etcd"), None);
    if !item.had && files::is_there(&item.aside()) {
        files::rename(&item.aside(), &item.place)?;
    }
    Ok(())
}

pub(super) fn item(place: PathBuf, staged: Option<PathBuf>) -> Item {
    Item { had: files::is_there(&place), place, staged }
}

/// What an earlier restore could not clear away: what is in force is in place.
pub(super) fn clear_leftovers(_: &Path, journal: &Journal) -> Result<(), SnapshotError> {
    journal.items.iter().filter(|item| item.had).try_for_each(|item| files::remove(&item.aside()))
}

pub(super) fn set_aside(_: &Path, journal: &Journal) -> Result<(), SnapshotError> {
    for item in journal.items.iter().filter(|item| item.had) {
        // Once it is aside, whatever is in place was made since, by a distribution that something
        // else started while the manager was away.
        if !files::is_there(&item.aside()) {
            files::rename(&item.place, &item.aside())?;
        }
    }
    Ok(())
}

pub(super) fn clear_and_place(data: &Path, journal: &Journal) -> Result<(), SnapshotError> {
    for item in &journal.items {
        if item.had && !files::is_there(&item.aside()) {
            let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(io_error("find the old", &item.place)(gone));
        }
        files::remove(&item.place)?;
        if let Some(staged) = &item.staged {
            files::copy_tree(staged, &item.place)?;
        }
    }
    // k3s refuses a second reset while this is there.
    files::remove(&data.join("server/db/reset-flag"))
}

pub(super) fn made(_: &Path, journal: &Journal) -> Result<(), SnapshotError> {
    for item in &journal.items {
        let made = match item.staged {
            None => item.place.join("member"),
            Some(_) => item.place.clone(),
        };
        if !files::is_there(&made) {
            let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(io_error("find the new", &made)(gone));
        }
    }
    // The distribution need not have synced what it made; the journal says next that it is there.
    nix::unistd::sync();
    Ok(())
}

pub(super) fn clear_aside(_: &Path, journal: &Journal) -> Result<(), SnapshotError> {
    journal.items.iter().try_for_each(|item| files::remove(&item.aside()))
}

pub(super) fn put_back(data: &Path, journal: &Journal) -> Result<(), SnapshotError> {
    for item in &journal.items {
        let aside = item.aside();
        match (item.had, files::is_there(&aside)) {
            (true, true) => {
                files::remove(&item.place)?;
                files::rename(&aside, &item.place)?;
            }
            // It never left its place.
            (true, false) => {}
            (false, _) => files::remove(&item.place)?,
        }
    }
    files::remove(&data.join("server/db/reset-flag"))
}
