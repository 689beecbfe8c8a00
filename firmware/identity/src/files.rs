//! Secret files: made once in a directory that only we may enter.

use crate::IdentityError;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use zeroize::Zeroizing;

/// Longest secret file that we read, bytes. A P-256 key in PEM has about 240.
const SECRET_MAX: u64 = 16 * 1024;

/// The content of `path`, which `make` writes when there is none yet.
///
/// However many processes come here at once, all of them get the content of the one that was
/// first: the directory is locked (flock(2)) while a new secret is made.
pub(crate) fn read_or_make(
    dir: &Path,
    path: &Path,
    make: impl FnOnce() -> Result<Zeroizing<String>, IdentityError>,
) -> Result<Zeroizing<String>, IdentityError> {
    if let Some(content) = read(path)? {
        return Ok(content);
    }
    let lock = lock(dir)?;
    if let Some(content) = read(path)? {
        return Ok(content);
    }
    let content = make()?;
    holdfast_durable::write(path, content.as_bytes(), 0o600)
        .map_err(|source| IdentityError::Write { path: path.into(), source })?;
    drop(lock);
    Ok(content)
}

/// Makes `dir` when it is missing, closes it to others, and locks it until the file is dropped.
fn lock(dir: &Path) -> Result<File, IdentityError> {
    let fail =
        |attempt| move |source| IdentityError::Directory { attempt, path: dir.into(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail("make"))?;
    let handle = File::open(dir).map_err(fail("open"))?;
    handle.set_permissions(Permissions::from_mode(0o700)).map_err(fail("close to others"))?;
    handle.lock().map_err(fail("lock"))?;
    Ok(handle)
}

/// The content of a secret file; none when it is not there. One that others may read is closed to
/// them: whoever widened it did not mean to publish a key.
fn read(path: &Path) -> Result<Option<Zeroizing<String>>, IdentityError> {
    let fail = |source| IdentityError::Read { path: path.into(), source };
    let damaged = |why: &str| IdentityError::Damaged { path: path.into(), why: why.into() };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(fail)?,
    };
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() {
        return Err(damaged("it is not a file"));
    }
    if meta.len() > SECRET_MAX {
        return Err(damaged("it is far too long"));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "a key was readable by others; closing it");
        // A read-only file system keeps it open; the key still works.
        let _ = file.set_permissions(Permissions::from_mode(0o600));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0)));
    file.take(SECRET_MAX).read_to_end(&mut content).map_err(fail)?;
    match std::str::from_utf8(&content) {
        Ok(text) => Ok(Some(Zeroizing::new(text.to_owned()))),
        Err(_) => Err(damaged("it is not text")),
    }
}
