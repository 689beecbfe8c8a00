//! Files: room, renaming that lasts, and work that blocks.

use super::error::{SnapshotError, io_error};
use holdfast_api::chain;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const MIB: u64 = 1024 * 1024;

/// What is always left free, so that the datastore itself can go on writing.
pub(super) const RESERVE: u64 = 64 * MIB;

/// Makes sure that `need` bytes and [`RESERVE`] are free where `dir` is or will be.
///
/// # Errors
/// [`SnapshotError::NoSpace`], or the file system does not say.
pub(super) fn room(dir: &Path, need: u64) -> Result<(), SnapshotError> {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let stat = nix::sys::statvfs::statvfs(there)
        .map_err(|errno| io_error("see how full is", there)(errno.into()))?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let need = need.saturating_add(RESERVE);
    if free < need {
        return Err(SnapshotError::NoSpace {
            path: there.into(),
            need_mib: need.div_ceil(MIB),
            free_mib: free / MIB,
        });
    }
    Ok(())
}

/// Whether something is there, also a link that leads nowhere.
pub(super) fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Renames, so that it is still so after a power cut.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), SnapshotError> {
    fs::rename(from, to).map_err(io_error("rename", from))?;
    for dir in [from.parent(), to.parent()].into_iter().flatten() {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))?;
    }
    Ok(())
}

/// Removes a file or a whole folder; one that is not there is fine.
pub(super) fn remove(path: &Path) -> Result<(), SnapshotError> {
    let result = match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(io_error("remove", path)),
    }
}

/// A folder for one purpose, empty and for our eyes only.
pub(super) fn fresh_dir(path: &Path) -> Result<(), SnapshotError> {
    use std::os::unix::fs::DirBuilderExt;
    remove(path)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make", path))
}

/// Makes the folder of a file.
pub(super) fn make_parent(path: &Path) -> Result<(), SnapshotError> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(dir) = path.parent() else { return Ok(()) };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("make", dir))
}

/// Copies a file of secrets, or a folder of such files, to a place where nothing is.
pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<(), SnapshotError> {
    let data = fs::symlink_metadata(from).map_err(io_error("read", from))?;
    if !data.is_dir() {
        return super::bundle::copy(from, to);
    }
    fresh_dir(to)?;
    for entry in fs::read_dir(from).map_err(io_error("read", from))? {
        let entry = entry.map_err(io_error("read", from))?;
        copy_tree(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// A folder that goes with its holder.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// An empty one; what an earlier one left at this place goes.
    pub(super) fn make(path: PathBuf) -> Result<Self, SnapshotError> {
        fresh_dir(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            // The next one at this place removes it.
            tracing::debug!(error = chain(&error), "a folder stays for now");
        }
    }
}

/// Work that blocks, away from the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    // It ends in an error only when the runtime ends or the work panics.
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(SnapshotError::Ended))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_looked_for_where_the_folder_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        room(&deep, 0).unwrap();
        let error = room(&deep, u64::MAX).unwrap_err();
        assert!(matches!(&error, SnapshotError::NoSpace { path, .. } if path == dir.path()));
    }

    #[test]
    fn a_scratch_folder_goes_with_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scratch");
        for _ in 0..2 {
            let scratch = Scratch::make(path.clone()).unwrap();
            fs::create_dir(scratch.path().join("deep")).unwrap();
            std::mem::forget(scratch);
        }
        drop(Scratch::make(path.clone()).unwrap());
        assert!(!is_there(&path));
    }
}
