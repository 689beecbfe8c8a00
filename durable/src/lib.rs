//! Files that survive power cuts.
//!
//! [`write()`] leaves either the old content or the new one, whatever happens in between: a
//! temporary file in the same directory, synced, renamed over the target, the directory synced
//! (rename(2), fsync(2)). [`Slots`] adds a checksum and keeps the last good content beside the
//! newest, for state that a machine must not lose even when the disk lies.
#![warn(missing_docs)]

mod slots;

pub use slots::{Loaded, SlotError, Slots};

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// What could not be done to which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt} {}", path.display())]
pub struct WriteError {
    /// The step that failed.
    pub attempt: &'static str,
    /// The file that it failed on.
    pub path: PathBuf,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl WriteError {
    /// The disk or the quota is full: retrying helps once somebody has made room.
    pub fn disk_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Whether a write changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The file had other content, or was not there.
    Changed,
    /// The file already had this content; nothing was touched.
    Unchanged,
}

/// Replaces the content of `path` by `content`, mode `mode`; creates missing parent directories.
///
/// # Errors
/// Any step the kernel refuses; the old content then still stands and no temporary file is left.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), WriteError> {
    let dir = parent(path);
    let fail = |attempt, at: &Path| {
        let path = at.to_path_buf();
        move |source| WriteError { attempt, path, source }
    };
    std::fs::create_dir_all(dir).map_err(fail("create directory", dir))?;
    let temporary = temporary_beside(path);
    let written = fill(&temporary, content, mode)
        .map_err(fail("write", &temporary))
        .and_then(|()| std::fs::rename(&temporary, path).map_err(fail("replace", path)));
    if let Err(error) = written {
        // The reason to report is the failed write; a left-over is swept by the next write.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    sync_dir(dir).map_err(fail("sync directory", dir))
}

/// [`write()`], but only when the content differs.
///
/// # Errors
/// As [`write()`]; a file that cannot be read counts as different.
pub fn write_if_changed(path: &Path, content: &[u8], mode: u32) -> Result<Outcome, WriteError> {
    if std::fs::read(path).is_ok_and(|have| have == content) {
        return Ok(Outcome::Unchanged);
    }
    write(path, content, mode).map(|()| Outcome::Changed)
}

/// Removes `path` durably; a file that is not there is fine.
///
/// # Errors
/// The kernel refuses the removal or the sync of the directory.
pub fn remove(path: &Path) -> Result<Outcome, WriteError> {
    let fail = |attempt| {
        let path = path.to_path_buf();
        move |source| WriteError { attempt, path, source }
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Unchanged),
        result => result.map_err(fail("remove"))?,
    }
    sync_dir(parent(path)).map_err(fail("sync directory of"))?;
    Ok(Outcome::Changed)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn temporary_beside(path: &Path) -> PathBuf {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}.{serial}.tmp", std::process::id()))
}

fn fill(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // open(2) applies the umask; the caller asked for exactly this mode.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_with_the_mode_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/secret");
        write(&path, b"one", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(write_if_changed(&path, b"one", 0o600).unwrap(), Outcome::Unchanged);
        assert_eq!(write_if_changed(&path, b"two", 0o600).unwrap(), Outcome::Changed);
        assert_eq!(remove(&path).unwrap(), Outcome::Changed);
        assert_eq!(remove(&path).unwrap(), Outcome::Unchanged);
    }

    #[test]
    fn a_failed_write_keeps_the_old_content_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        // A directory in the target's place makes rename(2) fail after the temporary is written.
        let path = dir.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        let error = write(&path, b"x", 0o644).unwrap_err();
        assert_eq!(error.attempt, "replace");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        // /dev/full cannot be renamed over; the classification is what matters here.
        let source = io::Error::from_raw_os_error(nix::libc::ENOSPC);
        let error = WriteError { attempt: "write", path: "x".into(), source };
        assert!(error.disk_full());
    }
}
